"""Meshes in and out: reading, cleaning and normalising files, writing them, and how they are wound."""

from __future__ import annotations

import dataclasses
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.mesh import Mesh
from sparseflex.signed_distance import signed_distance

__all__ = [
    "READABLE", "WRITABLE", "LoadedMesh", "WindingReport", "load_mesh", "normalize", "save_mesh", "signed_distance",
    "transform_mesh", "winding_report",
]

READABLE = (".obj", ".ply", ".glb", ".off", ".stl")
WRITABLE = (".ply", ".obj", ".glb")
# double area below this times the longest edge squared: nothing but rounding of float64 is left of the triangle
DEGENERATE = 1e-13
# what parsers of foreign files raise on garbage
_PARSE_ERRORS = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, NotImplementedError, OSError,
    EOFError, ArithmeticError, MemoryError, RecursionError, ImportError, struct.error,
)


@dataclasses.dataclass(frozen=True)
class LoadedMesh:
    """A mesh in the normalised frame (bounding-box centre at the origin, longest side exactly 1), and the way back.

    input_from_normalized: (4, 4) float64, acts on column vectors: back to the frame of the file, --up included.
    n_degenerate: triangles without area that were dropped.
    """

    mesh: Mesh
    input_from_normalized: Float[Tensor, "4 4"]
    name: str
    n_degenerate: int = 0


@dataclasses.dataclass(frozen=True)
class WindingReport:
    """Edges of a mesh by how its triangles use them.

    boundary: used once. inconsistent: used by two triangles in the same direction, so that one of the two is turned
    over. non_manifold: used by more than two. Fitting goes by the raw winding, on both sides.
    """

    n_edges: int
    n_boundary: int
    n_inconsistent: int
    n_non_manifold: int


def load_mesh(path: str | Path, up: str = "y") -> LoadedMesh:
    """Reads .obj, .ply, .glb, .off or .stl as one normalised float32 triangle mesh.

    All parts of a file become one mesh, vertices at the very same position become one, vertices without a triangle and
    triangles without area go. up: the file's up axis, "y" or "z"; z turns to y first.
    Raises FileNotFoundError for no such file and ValueError, in one line, for all that is no usable mesh.
    """
    path = Path(path)
    if up not in ("y", "z"):
        raise ValueError(f"up must be one of y, z, got {up!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'is a directory, not a mesh' if path.is_dir() else 'no such file'}")
    if path.suffix.lower() not in READABLE:
        raise ValueError(f"{path}: unknown mesh type {path.suffix!r}; allowed are {', '.join(READABLE)}")
    vertices, faces = _read(path)
    try:
        vertices, faces, n_degenerate = _clean(vertices, faces)
        mesh, input_from_normalized = normalize(vertices, faces, up)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return LoadedMesh(mesh, input_from_normalized, path.stem, n_degenerate)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 and faces (F, 3) int64 of all parts of a file, as they stand there."""
    import trimesh  # lazily: the library works without it

    suffix = path.suffix.lower()
    try:
        if suffix in (".obj", ".off"):  # text: old files are Latin-1, which differs in comments and names alone
            data = path.read_bytes()
            text = data.decode("utf-8") if _is_utf8(data) else data.decode("latin-1")
            scene = trimesh.load_scene(io.StringIO(text), file_type=suffix[1:], process=False)
        else:
            scene = trimesh.load_scene(path, process=False)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh)]
    except PermissionError:
        raise ValueError(f"{path}: may not be read") from None
    except ImportError:  # trimesh then looks for a package that guesses text encodings
        raise ValueError(f"{path}: not a readable {suffix} mesh (neither text nor binary {suffix})") from None
    except _PARSE_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: not a readable {suffix} mesh ({reason[:200]})") from None
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        raise ValueError(f"{path}: holds no triangles")
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts])
    vertices = np.concatenate([np.asarray(part.vertices, np.float64) for part in parts])
    faces = [np.asarray(part.faces, np.int64) + start for part, start in zip(parts, offsets[:-1], strict=True)]
    return vertices, np.concatenate(faces)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _clean(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Checks, welds equal positions, drops triangles without area and vertices without triangles."""
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"a triangle names vertex {faces.max() if faces.min() >= 0 else faces.min()}, "
                         f"there are {len(vertices)}")
    used = np.unique(faces)
    bad = used[~np.isfinite(vertices[used]).all(1)]
    if len(bad):
        raise ValueError(f"{len(bad)} of {len(used)} vertices are NaN or infinite, the first is vertex {bad[0]} "
                         "(counted from 0)")
    # welding: equal positions, exactly; -0 and 0 are the same place
    _, first, inverse = np.unique(vertices[used] + 0.0, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # in the file's order
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    row = np.full(len(vertices), -1)
    row[used] = rank[inverse.reshape(-1)]
    vertices, faces = vertices[used][first[order]], row[faces]
    if np.abs(vertices).max() > 1e150:  # beyond, squares of lengths overflow
        raise ValueError(f"coordinates must be within 1e150, got {np.abs(vertices).max():g}")
    extent = float((vertices.max(0) - vertices.min(0)).max())
    if extent <= 1e-30:
        raise ValueError(f"the bounding box has zero extent ({len(used)} vertices at one place)")
    corners = ((vertices - vertices.min(0)) / extent)[faces]
    sides = corners - np.roll(corners, 1, axis=1)
    double_area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    kept = double_area > DEGENERATE * (sides**2).sum(-1).max(1)
    if not kept.any():
        raise ValueError(f"every triangle is degenerate, without area ({len(faces)} of {len(faces)})")
    used, faces = np.unique(faces[kept], return_inverse=True)
    return vertices[used], faces.reshape(-1, 3), int((~kept).sum())


def normalize(vertices: np.ndarray, faces: np.ndarray, up: str = "y") -> tuple[Mesh, Float[Tensor, "4 4"]]:
    """The mesh with its bounding-box centre at the origin and its longest side exactly 1, and the way back, (4, 4)."""
    vertices = np.asarray(vertices, np.float64)
    turn = np.eye(3) if up == "y" else np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    turned = vertices @ turn.T
    low, high = turned.min(0), turned.max(0)
    longest, centre = float((high - low).max()), (low + high) / 2
    back = np.eye(4)
    back[:3, :3] = turn.T * longest
    back[:3, 3] = turn.T @ centre
    # divided before the half is taken off: the ends of the longest side then are exactly -1/2 and 1/2
    normalized = (turned - low) / longest - (high - low) / longest / 2
    mesh = Mesh(torch.from_numpy(normalized).float(), torch.from_numpy(np.asarray(faces, np.int64)))
    return mesh, torch.from_numpy(back)


def transform_mesh(mesh: Mesh, matrix: Float[Tensor, "4 4"]) -> Mesh:
    """The mesh moved by an affine matrix that acts on column vectors; winding turns where the matrix mirrors."""
    matrix = matrix.to(mesh.vertices.device, torch.float64)
    vertices = (mesh.vertices.double() @ matrix[:3, :3].T + matrix[:3, 3]).to(mesh.vertices.dtype)
    mirrors = float(torch.linalg.det(matrix[:3, :3])) < 0
    return Mesh(vertices, mesh.faces.flip(1) if mirrors else mesh.faces, mesh.l_dev)


def save_mesh(path: str | Path, mesh: Mesh, vertex_colors: Float[Tensor, "V 3"] | None = None) -> None:
    """Writes .ply (binary), .obj or .glb; vertex_colors are RGB in [0, 1]. A mesh without faces is legal.

    The file is complete or absent: it is written beside its place and then moved there.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise ValueError(f"{path}: unknown mesh type {path.suffix!r}; allowed are {', '.join(WRITABLE)}")
    if vertex_colors is not None and vertex_colors.shape != (mesh.n_vertices, 3):
        raise ValueError(f"vertex_colors must be ({mesh.n_vertices}, 3), got {tuple(vertex_colors.shape)}")
    vertices = mesh.vertices.detach().cpu().numpy()
    faces = mesh.faces.cpu().numpy()
    colors = None
    if vertex_colors is not None:
        colors = (vertex_colors.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    data = {".ply": _ply_bytes, ".obj": _obj_bytes, ".glb": _glb_bytes}[path.suffix.lower()](vertices, faces, colors)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def _ply_bytes(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None) -> bytes:
    kind = "double" if vertices.dtype == np.float64 else "float"
    columns: list[tuple[Any, ...]] = [("position", "<f8" if kind == "double" else "<f4", 3)]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property {kind} {axis}" for axis in "xyz"]
    if colors is not None:
        columns.append(("color", "u1", 3))
        header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    rows = np.zeros(len(vertices), columns)
    rows["position"] = vertices
    if colors is not None:
        rows["color"] = colors
    triangles = np.zeros(len(faces), [("n", "u1"), ("rows", "<i4", 3)])
    triangles["n"], triangles["rows"] = 3, faces
    return ("\n".join(header) + "\n").encode() + rows.tobytes() + triangles.tobytes()


def _obj_bytes(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None) -> bytes:
    rows = vertices if colors is None else np.concatenate([vertices, colors / 255.0], axis=1)
    lines = ["v " + " ".join(f"{value:.9g}" for value in row) for row in rows]
    lines += ["f " + " ".join(str(index + 1) for index in face) for face in faces]
    return ("\n".join(lines) + "\n").encode()


def _glb_bytes(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None) -> bytes:
    import trimesh

    return trimesh.Trimesh(vertices, faces, vertex_colors=colors, process=False).export(file_type="glb")


def winding_report(mesh: Mesh) -> WindingReport:
    """Counts edges by use: boundary, traversed twice in one direction, more than two triangles."""
    if mesh.n_faces == 0:
        return WindingReport(0, 0, 0, 0)
    directed = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    forward = directed[:, 0] < directed[:, 1]
    low, high = directed.amin(1), directed.amax(1)
    _, edge = torch.unique(low * mesh.n_vertices + high, return_inverse=True)
    n_edges = int(edge.max()) + 1
    uses = torch.bincount(edge, minlength=n_edges)
    ups = torch.bincount(edge[forward], minlength=n_edges)
    twice = uses == 2
    return WindingReport(n_edges, int((uses == 1).sum()), int((twice & (ups != 1)).sum()), int((uses > 2).sum()))
