"""Meshes in and out: what is read, refused, cleaned, normalised and written, and how winding is counted."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseflex.data import (
    READABLE,
    WRITABLE,
    WindingReport,
    load_mesh,
    normalize,
    save_mesh,
    signed_distance,
    transform_mesh,
    winding_report,
)
from sparseflex.mesh import Mesh
from sparseflex.shapes import solids

TETRAHEDRON = "v 1 2 3\nv 5 2 3\nv 1 4 3\nv 1 2 4\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 3 1 4\n"


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_normalised_frame_and_the_way_back(tmp_path):
    loaded = load_mesh(write(tmp_path, "a.obj", TETRAHEDRON))
    low, high = loaded.mesh.vertices.amin(0), loaded.mesh.vertices.amax(0)
    assert loaded.name == "a" and loaded.n_degenerate == 0
    assert torch.equal((high - low), torch.tensor([1.0, 0.5, 0.25]))
    assert torch.equal(low, -high)
    back = transform_mesh(loaded.mesh.to(dtype=torch.float64), loaded.input_from_normalized)
    assert torch.allclose(back.vertices, torch.tensor([[1, 2, 3], [5, 2, 3], [1, 4, 3], [1, 2, 4]]).double(), atol=1e-6)
    assert loaded.mesh.faces.tolist() == [[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]]


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_longest_side_is_exactly_one(seed):
    rng = np.random.default_rng(seed)
    vertices = rng.normal(size=(12, 3)) * 10 ** rng.uniform(-6, 6) + rng.normal(size=3) * 10 ** rng.uniform(-6, 3)
    mesh, back = normalize(vertices, np.arange(12).reshape(4, 3))
    sides = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    assert float(sides.max()) == 1.0 and float(mesh.vertices.abs().max()) == 0.5
    again = mesh.vertices.double() @ back[:3, :3].T + back[:3, 3]
    size, reach = np.ptp(vertices, axis=0).max(), np.abs(vertices).max()
    assert np.abs(again.numpy() - vertices).max() <= 1e-6 * size + 1e-12 * reach


def test_z_up_turns_to_y_up(tmp_path):
    path = write(tmp_path, "a.obj", TETRAHEDRON)
    straight, turned = load_mesh(path), load_mesh(path, up="z")
    x, y, z = straight.mesh.vertices.T
    assert torch.allclose(turned.mesh.vertices, torch.stack([x, z, -y], 1), atol=1e-7)
    back = transform_mesh(turned.mesh.to(dtype=torch.float64), turned.input_from_normalized)
    assert torch.allclose(back.vertices[3], torch.tensor([1.0, 2, 4]).double(), atol=1e-6)
    with pytest.raises(ValueError, match="up must be one of y, z, got 'x'"):
        load_mesh(path, up="x")


@pytest.mark.parametrize("suffix", WRITABLE)
@pytest.mark.parametrize("colored", [False, True])
def test_written_meshes_read_back_the_same(tmp_path, suffix, colored):
    vertices, faces = solids.sphere(0.5, 2)
    mesh, _ = normalize(vertices, faces)
    colors = mesh.vertices + 0.5 if colored else None
    save_mesh(tmp_path / f"m{suffix}", mesh, colors)
    again = load_mesh(tmp_path / f"m{suffix}").mesh
    assert torch.allclose(again.vertices, mesh.vertices, atol=1e-7) and torch.equal(again.faces, mesh.faces)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"m{suffix}"]


def test_vertex_colours_are_read_by_others(tmp_path):
    import trimesh

    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    save_mesh(tmp_path / "m.ply", mesh, torch.tensor([[1.0, 0, 0], [0, 0.5, 0], [0, 0, 2.0]]))
    read = trimesh.load(tmp_path / "m.ply", process=False)
    assert read.visual.vertex_colors[:, :3].tolist() == [[255, 0, 0], [0, 128, 0], [0, 0, 255]]
    with pytest.raises(ValueError, match=r"vertex_colors must be \(3, 3\), got \(2, 3\)"):
        save_mesh(tmp_path / "m.ply", mesh, torch.zeros(2, 3))


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
def test_an_empty_mesh_can_be_written(tmp_path, suffix):
    save_mesh(tmp_path / f"m{suffix}", Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)))
    with pytest.raises(ValueError, match="holds no triangles|not a readable"):
        load_mesh(tmp_path / f"m{suffix}")


def test_other_suffixes_are_refused(tmp_path):
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match=r"unknown mesh type '.stl'; allowed are .ply, .obj, .glb"):
        save_mesh(tmp_path / "m.stl", mesh)
    with pytest.raises(ValueError, match=r"unknown mesh type '.txt'; allowed are .obj, .ply, .glb, .off, .stl"):
        load_mesh(write(tmp_path, "m.txt", TETRAHEDRON))


def test_parts_and_quads_become_one_triangle_mesh(tmp_path):
    text = "o a\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\no b\nv 0 0 1\nv 1 0 1\nv 0 1 1\nf 5 6 7\n"
    mesh = load_mesh(write(tmp_path, "m.obj", text)).mesh
    assert (mesh.n_vertices, mesh.n_faces) == (7, 3)


def test_equal_positions_are_welded_and_others_are_not(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 0 0\nv 0 1 -0\nv 1 1.0000001 0\nv 1 1 0\n"
    text += "f 1 2 3\nf 4 6 5\nf 2 7 3\nv 9 9 9\n"
    mesh = load_mesh(write(tmp_path, "m.obj", text)).mesh
    assert mesh.n_vertices == 5  # the stray last vertex is gone, the near one is not merged
    assert mesh.faces.tolist() == [[0, 1, 2], [1, 3, 2], [1, 4, 2]]


def test_old_text_encodings_are_read(tmp_path):
    assert load_mesh(write(tmp_path, "m.obj", "# Käse\n".encode("latin-1") + TETRAHEDRON.encode())).mesh.n_faces == 4


def test_degenerate_triangles_are_dropped_and_counted(tmp_path):
    flat = "v 2 2 3\nv 3 2 3\nf 1 5 6\nf 1 1 2\n"  # three points on a line, and one point twice
    loaded = load_mesh(write(tmp_path, "m.obj", TETRAHEDRON + flat))
    assert (loaded.mesh.n_faces, loaded.n_degenerate, loaded.mesh.n_vertices) == (4, 2, 4)


BAD = {
    "nothing at all": ("m.obj", "", "holds no triangles"),
    "no mesh": ("m.obj", "hello world\n", "holds no triangles"),
    "points only": ("m.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "holds no triangles"),
    "garbage": ("m.ply", bytes(range(256)) * 9, "not a readable .ply mesh"),
    "garbage in binary": ("m.stl", bytes(range(256)) * 9, "not a readable .stl mesh"),
    "cut off": ("m.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n", "not a readable .off mesh"),
    "no header": ("m.glb", b"glTF\x02\0\0\0", "not a readable .glb mesh"),
    "absurd header": ("m.ply", "ply\nformat ascii 1.0\nelement vertex 99999999999999\nproperty float x\nend_header\n1",
                      "not a readable .ply mesh"),
    "row out of range": ("m.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "not a readable .obj mesh"),
    "NaN": ("m.obj", "v 0 0 0\nv 1 0 0\nv nan 1 0\nf 1 2 3\n",
            r"1 of 3 vertices are NaN or infinite, the first is vertex 2 \(counted from 0\)"),
    "infinite": ("m.obj", "v 0 0 0\nv inf 0 0\nv nan 1 0\nf 1 2 3\n", "2 of 3 .* the first is vertex 1"),
    "too large": ("m.obj", "v 0 0 0\nv 1e300 0 0\nv 0 1 0\nf 1 2 3\n", "coordinates must be within 1e150, got 1e.300"),
    "zero extent": ("m.obj", "v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "zero extent"),
    "degenerate": ("m.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", r"every triangle is degenerate, .*1 of 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_get_one_line_that_names_them(tmp_path, case):
    name, content, said = BAD[case]
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError, match=said) as caught:
        load_mesh(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_mesh(tmp_path / "m.obj")
    (tmp_path / "d.obj").mkdir()
    with pytest.raises(FileNotFoundError, match="is a directory"):
        load_mesh(tmp_path / "d.obj")


HEADS = (b"", b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\n", b"OFF\n", b"glTF\x02\0\0\0", b"solid\n",
         b"v 0 0 0\nf 1 1 ")


@given(suffix=st.sampled_from(READABLE), data=st.binary(max_size=400), head=st.sampled_from(HEADS))
@settings(max_examples=150, deadline=None)
def test_no_file_at_all_breaks_the_reader(tmp_path_factory, suffix, data, head):
    path = tmp_path_factory.mktemp("fuzz") / f"m{suffix}"
    path.write_bytes(head + data)
    try:
        load_mesh(path)
    except ValueError as error:
        assert "\n" not in str(error)


def slow_winding(mesh: Mesh) -> WindingReport:
    """The same by walking around every triangle."""
    used = collections.defaultdict(list)
    for face in mesh.faces.tolist():
        for a, b in zip(face, face[1:] + face[:1], strict=True):
            used[min(a, b), max(a, b)].append(a < b)
    return WindingReport(
        len(used),
        sum(len(ways) == 1 for ways in used.values()),
        sum(len(ways) == 2 and ways[0] == ways[1] for ways in used.values()),
        sum(len(ways) > 2 for ways in used.values()),
    )


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_winding_agrees_with_its_slow_twin(seed):
    rng = np.random.default_rng(seed)
    faces = [rng.permutation(7)[:3].tolist() for _ in range(rng.integers(0, 12))]
    mesh = Mesh(torch.zeros(7, 3), torch.tensor(faces, dtype=torch.long).reshape(-1, 3))
    assert winding_report(mesh) == slow_winding(mesh)


def test_a_turned_triangle_is_found():
    vertices, faces = solids.sphere(0.5, 2)
    faces = faces.copy()
    assert winding_report(Mesh(torch.from_numpy(vertices), torch.from_numpy(faces))).n_inconsistent == 0
    faces[5] = faces[5, ::-1]
    report = winding_report(Mesh(torch.from_numpy(vertices), torch.from_numpy(faces)))
    assert (report.n_inconsistent, report.n_boundary, report.n_non_manifold) == (3, 0, 0)


def test_a_mirroring_transform_keeps_the_outside_outside():
    vertices, faces = solids.sphere(0.5, 1)
    mesh = Mesh(torch.from_numpy(vertices), torch.from_numpy(faces))
    mirrored = transform_mesh(mesh, torch.diag(torch.tensor([-2.0, 2, 2, 1])))
    corners = mirrored.vertices[mirrored.faces]
    volume = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert float(volume) > 3.0


# signed distance


def solid_angle_inside(vertices: np.ndarray, faces: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The slow twin of the sign: the winding number of a closed mesh about each point (van Oosterom and Strackee)."""
    a, b, c = (vertices[faces[:, k]][None] - points[:, None] for k in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=2) for x in (a, b, c))
    top = (a * np.cross(b, c)).sum(2)
    bottom = la * lb * lc + (a * b).sum(2) * lc + (b * c).sum(2) * la + (c * a).sum(2) * lb
    return np.arctan2(top, bottom).sum(1) / (2 * np.pi) > 0.5


def spiky(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A closed mesh with sharp convex and concave vertices."""
    rng = np.random.default_rng(seed)
    vertices, faces = solids.sphere(1.0, 1)
    return vertices * rng.uniform(0.2, 1.0, size=(len(vertices), 1)), faces


@pytest.mark.parametrize("seed", range(6))
def test_signed_distance_agrees_with_its_slow_twins(seed):
    vertices, faces = spiky(seed)
    points = np.random.default_rng(seed + 50).uniform(-1.1, 1.1, size=(150, 3))
    mesh = Mesh(torch.from_numpy(vertices), torch.from_numpy(faces))
    found = signed_distance(mesh, torch.from_numpy(points)).numpy()
    # distance: every triangle, densely sampled, from above
    weights = np.random.default_rng(0).dirichlet([1, 1, 1], size=600)
    dense = np.einsum("kc,fcd->fkd", weights, vertices[faces]).reshape(-1, 3)
    nearest = np.array([np.linalg.norm(dense - point, axis=1).min() for point in points])
    assert (nearest >= np.abs(found) - 1e-12).all() and np.abs(nearest - np.abs(found)).max() < 0.05
    assert ((found < 0) == solid_angle_inside(vertices, faces, points)).all()


def test_the_sign_is_right_where_only_a_vertex_is_near():
    """Beyond a sharp tip the faces' own normals disagree; the angle-weighted one of the vertex decides."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0.05, 0.05], [1, -0.05, 0.05], [1, 0, -0.05]]).double()
    mesh = Mesh(vertices, torch.tensor([[0, 2, 1], [0, 3, 2], [0, 1, 3], [1, 2, 3]]))
    points = torch.tensor([[-0.5, 0.3, 0.1], [-0.01, 0, 0], [0.9, 0, 0.0], [1.5, 0.0, 0.0]]).double()
    inside = solid_angle_inside(vertices.numpy(), mesh.faces.numpy(), points.numpy())
    assert (signed_distance(mesh, points) < 0).tolist() == inside.tolist()


def test_many_slivers_at_a_vertex_do_not_outvote_its_other_faces():
    """One side of a sharp tetrahedron is cut into 40 slivers that meet at the tip: each counts by its angle alone."""
    n = 40
    row = torch.linspace(-0.5, 0.5, n + 1).double()
    base = torch.stack([torch.ones_like(row), torch.full_like(row, 0.1), row], 1)
    vertices = torch.cat([torch.tensor([[0.0, 0, 0], [1, -0.1, 0]]).double(), base])
    faces = [[0, k + 3, k + 2] for k in range(n)] + [[1, k + 2, k + 3] for k in range(n)]
    mesh = Mesh(vertices, torch.tensor([*faces, [0, 2, 1], [0, 1, n + 2]]))
    assert winding_report(mesh).n_inconsistent == winding_report(mesh).n_boundary == 0
    points = torch.rand(300, 3).double() * 0.2 - torch.tensor([0.2, 0.1, 0.1])
    inside = solid_angle_inside(vertices.numpy(), mesh.faces.numpy(), points.numpy())
    assert ((signed_distance(mesh, points) < 0).numpy() == inside).all() and not inside.all()


def test_signed_distance_of_spheres_sheets_and_nothing():
    vertices, faces = solids.sphere(0.4, 4)
    points = torch.rand(500, 3) - 0.5
    found = signed_distance(Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(faces)), points)
    assert found.dtype == points.dtype and torch.allclose(found, points.norm(dim=1) - 0.4, atol=2e-3)
    quad = Mesh(torch.tensor([[-1.0, 0, -1], [-1, 0, 1], [1, 0, 1], [1, 0, -1]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    assert signed_distance(quad, torch.tensor([[0.1, 0.5, 0.2], [0.1, -0.5, 0.2]])).tolist() == [0.5, -0.5]
    nothing = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    assert signed_distance(nothing, points[:2]).tolist() == [torch.inf, torch.inf]
    assert signed_distance(quad, points[:0]).shape == (0,)


def test_signed_distance_of_very_uneven_triangles():
    """One huge triangle beside many tiny ones: the nearest lattice points are not those of the nearest triangle."""
    vertices, faces = solids.join([solids.sphere(0.01, 3), (np.array([[-9.0, -1, -9], [9, -1, -9], [0, -1, 9]]),
                                                           np.array([[0, 2, 1]]))])
    mesh = Mesh(torch.from_numpy(vertices), torch.from_numpy(faces))
    points = torch.rand(200, 3).double() * 2 - 1
    expected = torch.minimum((points.norm(dim=1) - 0.01), points[:, 1] + 1)
    assert torch.allclose(signed_distance(mesh, points), expected, atol=1e-4)
