"""Point cloud files: every kind reads alike, and what can't be used is refused in one line."""

from __future__ import annotations

import itertools
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

import sparseflex as sf
from sparseflex.data import save_mesh
from sparseflex.memory import available_bytes
from sparseflex.point_clouds import PointCloud, is_point_cloud, load_points, pick_points

NAMES = ("x", "y", "z", "nx", "ny", "nz")
FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")


def example(n_points: int = 50, seed: int = 0) -> np.ndarray:
    """(P, 6): points in a box of sides 4, 2, 1 somewhere, float32 values, and unit normals."""
    random = np.random.default_rng(seed)
    points = random.random((n_points, 3)) * [4, 2, 1] + [10, -3, 0.5]
    normals = random.normal(size=(n_points, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return np.concatenate([points, normals], axis=1).astype(np.float32)


def write_ply(path: Path, rows: np.ndarray, kind: str = "binary_little_endian", names=NAMES, type_name: str = "float",
              before: tuple[str, ...] = (), data_before: bytes = b"", n_declared: int | None = None) -> Path:
    header = ["ply", f"format {kind} 1.0", "comment made for a test", *before]
    header += [f"element vertex {len(rows) if n_declared is None else n_declared}"]
    header += [f"property {type_name} {name}" for name in names]
    order = ">" if kind == "binary_big_endian" else "<"
    data = rows.astype(order + {"float": "f4", "double": "f8", "short": "i2"}[type_name]).tobytes()
    if kind == "ascii":
        lines = (" ".join(f"{value:.9g}" for value in row) for row in rows.tolist())
        data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(("\n".join(header) + "\nend_header\n").encode() + data_before + data)
    return path


def assert_is_example(cloud: PointCloud, rows: np.ndarray, turn: np.ndarray | None = None) -> None:
    turn = np.eye(3) if turn is None else turn
    points = rows[:, :3].astype(np.float64) @ turn.T
    middle = (points.min(0) + points.max(0)) / 2
    expected = (points - middle) / (points.max(0) - points.min(0)).max()
    np.testing.assert_allclose(cloud.points.numpy(), expected, atol=1e-7)
    np.testing.assert_allclose(cloud.normals.numpy(), rows[:, 3:] @ turn.T, atol=2e-7)
    assert cloud.points.dtype == cloud.normals.dtype == torch.float32 and cloud.points.is_contiguous()
    spread = cloud.points.amax(dim=0) - cloud.points.amin(dim=0)
    assert float(spread.max()) == 1 and float(cloud.points.abs().max()) == 0.5
    back = cloud.input_from_normalized
    again = cloud.points.double() @ back[:3, :3].T + back[:3, 3]
    np.testing.assert_allclose(again.numpy(), rows[:, :3], atol=1e-6)


# -- every kind ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "type_name"), list(itertools.product(FORMATS, ("float", "double"))))
def test_ply_of_each_kind(tmp_path, kind, type_name):
    rows = example()
    path = write_ply(tmp_path / "cloud.PLY", rows, kind, type_name=type_name)
    assert_is_example(load_points(path), rows)
    assert load_points(path).name == "cloud" and is_point_cloud(path)
    theirs = trimesh.load(path, process=False, file_type="ply")  # a reader of others takes the file as we do
    np.testing.assert_allclose(theirs.vertices, rows[:, :3], rtol=1e-7)


@pytest.mark.parametrize("kind", FORMATS)
def test_ply_with_columns_in_another_order_others_between_and_an_element_before(tmp_path, kind):
    rows = example()
    names = ("nz", "red", "x", "z", "y", "nx", "ny")
    columns = np.stack([rows[:, 5], rows[:, 0] * 0 + 7, rows[:, 0], rows[:, 2], rows[:, 1], rows[:, 3], rows[:, 4]], 1)
    camera = ("element camera 2", "property double view", "property uchar flag")
    one = struct.pack((">" if kind == "binary_big_endian" else "<") + "dB", 4.5, 1)
    data = b"4.5 1\n4.5 1\n" if kind == "ascii" else one + one
    path = write_ply(tmp_path / "cloud.ply", columns, kind, names, before=camera, data_before=data)
    assert_is_example(load_points(path), rows)


def test_ply_with_windows_line_ends(tmp_path):
    rows = example()
    path = write_ply(tmp_path / "cloud.ply", rows, "ascii")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert_is_example(load_points(path), rows)


@pytest.mark.parametrize("keys", [("points", "normals"), ("vertices", "vertex_normals"), ("points_normals",)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f4"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_each_kind(tmp_path, keys, dtype, save):
    rows = example()
    parts = (rows,) if len(keys) == 1 else (rows[:, :3], rows[:, 3:])
    save(tmp_path / "cloud.npz", other=np.arange(3), **dict(zip(keys, (p.astype(dtype) for p in parts), strict=True)))
    assert_is_example(load_points(tmp_path / "cloud.npz"), rows)
    assert is_point_cloud(tmp_path / "cloud.npz")


def test_golden_points_stay_where_they_are_but_for_the_scale(tmp_path):
    with np.load(Path(__file__).parent / "golden" / "preprocess" / "hemi_torus_R32.npz") as arrays:
        rows = arrays["points_normals"]
    np.savez(tmp_path / "cloud.npz", points_normals=rows)
    assert_is_example(load_points(tmp_path / "cloud.npz"), rows)


def test_z_up_is_turned_and_turned_back(tmp_path):
    rows = example()
    path = write_ply(tmp_path / "cloud.ply", rows)
    assert_is_example(load_points(path, up="z"), rows, np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]))


def test_normals_of_any_length_become_unit(tmp_path):
    rows = example().astype(np.float64)
    lengths = 10 ** np.linspace(-250, 250, len(rows))
    np.savez(tmp_path / "cloud.npz", points=rows[:, :3], normals=rows[:, 3:] * lengths[:, None])
    assert_is_example(load_points(tmp_path / "cloud.npz"), rows)
    integers = np.array([[0, 0, 5, 0, 0, 9], [1, 2, 3, 0, -3, 0]])
    write_ply(tmp_path / "cloud.ply", integers, type_name="short")
    assert load_points(tmp_path / "cloud.ply").normals.tolist() == [[0, 0, 1], [0, -1, 0]]


def test_what_is_a_point_cloud(tmp_path):
    rows = example(4)
    mesh = sf.Mesh(torch.rand(3, 3), torch.tensor([[0, 1, 2]]))
    save_mesh(tmp_path / "mesh.ply", mesh)
    save_mesh(tmp_path / "points_only.ply", sf.Mesh(mesh.vertices, mesh.faces[:0]))
    save_mesh(tmp_path / "mesh.obj", mesh)
    (tmp_path / "broken.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex many\n")
    (tmp_path / "none.ply").write_bytes(b"ply\nformat ascii 1.0\nend_header\n")
    write_ply(tmp_path / "cloud.ply", rows)
    write_ply(tmp_path / "empty.ply", rows[:0])
    save_mesh(tmp_path / "empty_mesh.ply", sf.Mesh(mesh.vertices[:0], mesh.faces[:0]))
    # faces after points that aren't all there: the header decides, nothing else is read
    write_ply(tmp_path / "faces.ply", rows, before=("element face 5", "property list uchar int vertex_indices"))
    (tmp_path / "folder.ply").mkdir()
    found = {path.name: is_point_cloud(path) for path in sorted(tmp_path.iterdir())}
    assert {name for name, holds in found.items() if holds} == {"cloud.ply", "empty.ply", "points_only.ply"}
    assert len(found) == 10
    assert not is_point_cloud(tmp_path / "absent.npz") and not is_point_cloud("absent.ply")


# -- what is refused -------------------------------------------------------------------------------------------------


def refused(path: Path, said: str) -> str:
    with pytest.raises(ValueError) as caught:
        load_points(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 500
    assert said in message, message
    return message


def test_no_such_file_and_no_such_type(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_points(tmp_path / "absent.ply")
    with pytest.raises(FileNotFoundError, match="is a directory, not a point cloud"):
        load_points(tmp_path)
    (tmp_path / "cloud.xyz").write_text("1 2 3")
    refused(tmp_path / "cloud.xyz", "unknown point cloud type '.xyz'; allowed are .ply, .npz")
    with pytest.raises(ValueError, match="up must be one of y, z, got 'x'"):
        load_points(tmp_path / "cloud.ply", up="x")


@pytest.mark.parametrize("suffix", [".ply", ".npz"])
def test_unusable_points(tmp_path, suffix):
    def written(rows):
        path = tmp_path / f"cloud{suffix}"
        if suffix == ".npz":
            np.savez(path, points_normals=rows)
            return path
        return write_ply(path, rows, type_name="double")

    def changed(*changes):
        rows = example().astype(np.float64)
        for row, column, value in changes:
            rows[row, column] = value
        return written(rows)

    refused(changed((3, 1, np.nan), (7, 0, np.inf)),
            "points must be finite, got 2 of 50 that are NaN or infinite, the first in row 3 (counted from 0)")
    refused(changed((9, 3, 0), (9, 4, 0), (9, 5, 0), (12, 3, np.nan)),
            "normals must be finite and not zero, got 2 of 50 that are not, the first in row 9: [0.0, 0.0, 0.0]")
    refused(changed((0, 0, 1e200)), "coordinates must be within 1e150, got 1e+200")
    refused(written(example()[:0]), "holds no points")
    refused(written(example()[:1]), "the bounding box has zero extent (1 point)")
    refused(written(example()[[2, 2, 2]]), "the bounding box has zero extent (3 points at one place)")


def test_points_without_normals(tmp_path):
    rows = example()
    path = write_ply(tmp_path / "cloud.ply", rows[:, :3], names=NAMES[:3])
    refused(path, "holds points without normals: nx, ny, nz are needed")
    refused(write_ply(tmp_path / "cloud.ply", rows[:, :5], names=NAMES[:5]), "without normals: nx, ny, nz are needed")
    refused(write_ply(tmp_path / "cloud.ply", rows[:, :2], names=NAMES[:2]), "x, y, z of its vertices are needed")
    np.savez(tmp_path / "cloud.npz", points=rows[:, :3])
    refused(tmp_path / "cloud.npz", "holds points without normals: the key normals or vertex_normals (P, 3), or "
                                    "points_normals (P, 6), are needed")


def test_npz_of_wrong_shapes_types_and_keys(tmp_path):
    rows = example()
    path = tmp_path / "cloud.npz"
    for said, arrays in {
        "normals must have shape (P, 3), got (50, 2)": {"points": rows[:, :3], "normals": rows[:, 4:]},
        "normals must have a row for each of the 50 points, got 49": {"points": rows[:, :3], "normals": rows[1:, 3:]},
        "points_normals must have shape (P, 6), got (50, 3)": {"points_normals": rows[:, :3]},
        "points must have shape (P, 3), got (150,)": {"points": rows[:, :3].reshape(-1), "normals": rows[:, 3:]},
        "points must be an array of numbers, got complex64": {"points": rows[:, :3] * 1j, "normals": rows[:, 3:]},
        "points must be an array of numbers, got <U1": {"points": np.full((4, 3), "a"), "normals": rows[:4, 3:]},
        "holds no points: the key points, vertices or points_normals is needed, there are a, b": {"b": rows, "a": rows},
        "holds no points: the key points, vertices or points_normals is needed, there are none": {},
    }.items():
        np.savez(path, **arrays)
        refused(path, said)


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickles_are_never_opened(tmp_path):
    sprung = tmp_path / "sprung"
    trap = np.full((5, 3), None)
    trap[0, 0] = Trap(sprung)
    np.savez(tmp_path / "a.npz", points=trap, normals=example(5)[:, 3:])
    refused(tmp_path / "a.npz", "points must be an array of numbers, got object")
    np.savez(tmp_path / "b.npz", points=example(5)[:, :3], normals=example(5)[:, 3:], other=trap)
    load_points(tmp_path / "b.npz")
    trap.dump(tmp_path / "c.npz")
    refused(tmp_path / "c.npz", "not a readable .npz")
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.write(tmp_path / "c.npz", "points_normals.npy")
    refused(tmp_path / "d.npz", "points_normals: not a readable array")
    np.save(tmp_path / "trap.npy", trap)
    np.savez(tmp_path / "e.npz", points_normals=example(5))
    with zipfile.ZipFile(tmp_path / "e.npz", "a") as archive:  # what numpy looks at first
        archive.write(tmp_path / "trap.npy", "points_normals")
    assert_is_example(load_points(tmp_path / "e.npz"), example(5))
    assert not sprung.exists()
    np.load(tmp_path / "c.npz", allow_pickle=True)
    assert sprung.exists()  # it was one


def npy_header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def test_declared_sizes_are_checked_before_anything_is_allocated(tmp_path):
    path = tmp_path / "cloud.npz"
    for header, said in {
        npy_header((10**15, 6)): "points_normals is truncated: 48 PB are declared, ",
        npy_header((-4, 6)): "points_normals: not a readable array",
        npy_header((4, 6))[:20]: "points_normals: not a readable array",
        b"\x93NUMPY\x09\x00" + b" " * 40: "points_normals: not a readable array (array format 9.0)",
        npy_header((4, 6)).replace(b"False", b"(((((("): "points_normals: not a readable array",
        b"": "points_normals: not a readable array",
    }.items():
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("points_normals.npy", header + b"\0" * 100)
        refused(path, said)
    write_ply(tmp_path / "cloud.ply", example(), n_declared=10**13)
    refused(tmp_path / "cloud.ply", "declares 480 TB of points, reading them would take about 1.92 PB of memory, and ")


def test_a_zip_bomb_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "cloud.npz"
    n_points = 400_000
    np.savez_compressed(path, points_normals=np.zeros((n_points, 6)))
    assert path.stat().st_size < 48 * n_points / 100
    monkeypatch.setattr("sparseflex.point_clouds.available_bytes", lambda: 48 * n_points * 2.0)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was read"))
    refused(path, "declares 19.2 MB of points, reading them would take about 76.8 MB of memory, and 38.4 MB are")
    assert available_bytes() > 0


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_anywhere(tmp_path, kind):
    whole = write_ply(tmp_path / "whole.ply", example(8), kind).read_bytes()
    header = whole.index(b"end_header\n") + 11
    path = tmp_path / "cloud.ply"
    for length in range(0, header, 7):
        path.write_bytes(whole[:length])
        assert not is_point_cloud(path)
        refused(path, "not a readable .ply")
    for length in range(header, len(whole) - (16 if kind == "ascii" else 0), 5):
        path.write_bytes(whole[:length])
        refused(path, "")
    path.write_bytes(whole[:-100])
    refused(path, "is truncated: 8 points are declared, 3 are there" if kind != "ascii" else "")
    npz = tmp_path / "cloud.npz"
    np.savez(npz, points_normals=example(8))
    data = npz.read_bytes()
    for length in range(0, len(data), 37):
        npz.write_bytes(data[:length])
        refused(npz, "not a readable .npz")


def test_damaged_bytes_never_raise_anything_else(tmp_path):
    """Each byte of small files turned over, one after the other: a cloud, or one line."""
    np.savez_compressed(tmp_path / "cloud.npz", points_normals=example(3))
    write_ply(tmp_path / "a.ply", example(3), "ascii")
    write_ply(tmp_path / "b.ply", example(3))
    for source in (tmp_path / "cloud.npz", tmp_path / "a.ply", tmp_path / "b.ply"):
        data, path = source.read_bytes(), tmp_path / f"damaged{source.suffix}"
        n_refused = 0
        for place in range(len(data)):
            path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
            is_point_cloud(path)
            try:
                load_points(path)
            except ValueError as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
                n_refused += 1
        assert n_refused > 50


@pytest.mark.parametrize(("lines", "said"), [
    ("format text 1.0", "its header says 'format text 1.0'"),
    ("element vertex 3\nproperty float x", "its header names no format"),
    ("format ascii 1.0\nelement vertex 3\nproperty quad x", "its header says 'property quad x'"),
    ("format ascii 1.0\nproperty float x", "its header says 'property float x'"),
    ("format ascii 1.0\nelement vertex " + "9" * 30, "its header says 'element vertex 9999"),
    ("format ascii 1.0\nelement vertex -1", "its header says 'element vertex -1'"),
    ("format ascii 1.0\nelement vertex 1\nproperty float x\nproperty float x", "two properties of one name"),
    ("format ascii 1.0\nelement face 0\nproperty list uchar int vertex_indices", "holds no points"),
    ("format ascii 1.0\nelement vertex 2\n" + "\n".join(f"property float {n}" for n in NAMES)
     + "\nproperty list uchar int friends", "a vertex has a list among its properties"),
])  # fmt: skip
def test_bad_headers(tmp_path, lines, said):
    path = tmp_path / "cloud.ply"
    path.write_bytes(f"ply\n{lines}\nend_header\n1 2 3 4 5 6 7\n".encode())
    refused(path, said)


def test_lists_before_binary_vertices_and_words_in_ascii(tmp_path):
    before = ("element face 1", "property list uchar int vertex_indices")
    path = write_ply(tmp_path / "cloud.ply", example(), before=before, data_before=b"\1\0\0\0\0")
    refused(path, "lists before the vertices")
    rows = example()
    path = write_ply(path, rows, "ascii", before=before, data_before=b"1 0\n")
    assert_is_example(load_points(path), rows)
    path.write_bytes(path.read_bytes().replace(b"e-", b"x-").replace(b"0.", b"o.", 9))
    refused(path, "not a readable .ply")


# -- fewer of them ---------------------------------------------------------------------------------------------------


def test_pick_points(tmp_path):
    np.savez(tmp_path / "cloud.npz", points_normals=example(500))
    cloud = load_points(tmp_path / "cloud.npz")
    assert pick_points(cloud, 500) is cloud and pick_points(cloud, 10**9) is cloud
    some = pick_points(cloud, 200, torch.Generator().manual_seed(1))
    assert some.n_points == 200 and some.name == "cloud"
    rows = (cloud.points[None] == some.points[:, None]).all(dim=2).nonzero()[:, 1]
    assert len(rows) == 200 and bool((rows[1:] > rows[:-1]).all())  # each once, in their order
    assert torch.equal(cloud.normals[rows], some.normals)
    assert torch.equal(some.points, pick_points(cloud, 200, torch.Generator().manual_seed(1)).points)
    assert not torch.equal(some.points, pick_points(cloud, 200, torch.Generator().manual_seed(2)).points)
    often = torch.zeros(500)
    for seed in range(60):
        picked = pick_points(cloud, 200, torch.Generator().manual_seed(seed)).points
        often += torch.isin(cloud.points[:, 0], picked[:, 0])
    assert float(often.min()) / 60 > 0.15 and float(often.max()) / 60 < 0.7  # none is favoured
    with pytest.raises(ValueError, match="n_points must be at least 1, got 0"):
        pick_points(cloud, 0)
