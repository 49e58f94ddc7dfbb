"""Point clouds in: .ply and .npz files of points with normals, brought to the normalised frame."""

from __future__ import annotations

import dataclasses
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.data import normalize
from sparseflex.memory import available_bytes, in_words
from sparseflex.ply_points import header_of, vertex_columns

__all__ = ["READABLE_POINTS", "PointCloud", "is_point_cloud", "load_points", "pick_points", "unit_normals"]

READABLE_POINTS = (".ply", ".npz")
POINT_KEYS, NORMAL_KEYS, BOTH_KEY = ("points", "vertices"), ("normals", "vertex_normals"), "points_normals"
_NAMES = ("x", "y", "z", "nx", "ny", "nz")
# while a file is read: its columns, float64 copies, the normalised ones
_COPIES = 4
# what numpy and zipfile raise on garbage
_UNREADABLE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, EOFError, ArithmeticError, MemoryError,
    RuntimeError, SyntaxError, tokenize.TokenError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class PointCloud:
    """P points with unit normals in the normalised frame (bounding-box centre at the origin, longest side exactly 1).

    input_from_normalized: (4, 4) float64, acts on column vectors: back to the frame of the file, --up included.
    """

    points: Float[Tensor, "P 3"]
    normals: Float[Tensor, "P 3"]
    input_from_normalized: Float[Tensor, "4 4"]
    name: str

    @property
    def n_points(self) -> int:
        return self.points.shape[0]


def is_point_cloud(path: str | Path) -> bool:
    """Whether a file is for load_points: an .npz, or a .ply whose header names points and no faces. Reads no more than
    the header; False for what can't be read."""
    path = Path(path)
    if path.suffix.lower() not in READABLE_POINTS or not path.is_file():
        return False
    if path.suffix.lower() == ".npz":
        return True
    try:
        header = header_of(path)
    except (ValueError, OSError):
        return False
    count = {element.name: element.count for element in header.elements}
    named = "vertex" in count and (count["vertex"] > 0 or "face" not in count)
    return named and not any(count.get(name) for name in ("face", "tristrips"))


def load_points(path: str | Path, up: str = "y") -> PointCloud:
    """Reads points with normals: a .ply (ascii or binary; x, y, z, nx, ny, nz of its vertices) or an .npz.

    An .npz has the keys points (or vertices) and normals (or vertex_normals), both (P, 3), or points_normals, (P, 6).
    Normals are brought to unit length. up: the file's up axis, "y" or "z"; z turns to y first.
    Raises FileNotFoundError for no such file and ValueError, in one line, for all that are no usable points.
    """
    path = Path(path)
    if up not in ("y", "z"):
        raise ValueError(f"up must be one of y, z, got {up!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'is a directory, not a point cloud' if path.is_dir() else 'no such file'}")
    suffix = path.suffix.lower()
    if suffix not in READABLE_POINTS:
        raise ValueError(f"{path}: unknown point cloud type {path.suffix!r}; allowed are {', '.join(READABLE_POINTS)}")
    try:
        points, normals = _from_npz(path) if suffix == ".npz" else _from_ply(path)
        _check_places(points)
        normals = unit_normals(torch.from_numpy(normals)).numpy()
    except PermissionError:
        raise ValueError(f"{path}: may not be read") from None
    except ValueError as error:
        raise ValueError(f"{path}: {_one_line(str(error))}") from None
    placed, back = normalize(points, np.zeros((0, 3), np.int64), up)
    turned = torch.from_numpy(normals) @ back[:3, :3]  # its inverse, but for the length
    return PointCloud(placed.vertices, unit_normals(turned).float(), back, path.stem)


def pick_points(cloud: PointCloud, n_points: int, generator: torch.Generator | None = None) -> PointCloud:
    """At most n_points of the points, in the same order: all where there are no more, else a random choice."""
    if n_points < 1:
        raise ValueError(f"n_points must be at least 1, got {n_points}")
    if cloud.n_points <= n_points:
        return cloud
    device = cloud.points.device if generator is None else generator.device
    rows = torch.randperm(cloud.n_points, generator=generator, device=device)[:n_points].sort().values
    rows = rows.to(cloud.points.device)
    return dataclasses.replace(cloud, points=cloud.points[rows], normals=cloud.normals[rows])


def unit_normals(normals: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
    """Normals of unit length. Raises ValueError for ones that are NaN, infinite or zero."""
    largest = normals.abs().amax(dim=1, keepdim=True) if len(normals) else normals[:, :1]
    bad = ~(torch.isfinite(largest) & (largest > 0)).squeeze(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(f"normals must be finite and not zero, got {int(bad.sum())} of {len(normals)} that are not, "
                         f"the first in row {row}: {normals[row].tolist()} (counted from 0)")
    scaled = normals / largest  # so that squares neither overflow nor vanish
    return scaled / scaled.norm(dim=1, keepdim=True)


def _check_places(points: np.ndarray) -> None:
    """ValueError where there are no points, or they can't be normalised."""
    if len(points) == 0:
        raise ValueError("holds no points")
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise ValueError(f"points must be finite, got {bad.sum()} of {len(points)} that are NaN or infinite, the first "
                         f"in row {bad.argmax()} (counted from 0)")
    if np.abs(points).max() > 1e150:  # beyond, squares of lengths overflow
        raise ValueError(f"coordinates must be within 1e150, got {np.abs(points).max():g}")
    if float((points.max(axis=0) - points.min(axis=0)).max()) <= 1e-30:
        noun = "1 point" if len(points) == 1 else f"{len(points)} points at one place"
        raise ValueError(f"the bounding box has zero extent ({noun}), so that there is no size to normalise by")


def _check_memory(n_bytes: float) -> None:
    there = available_bytes()
    if _COPIES * n_bytes > there:
        raise ValueError(f"declares {in_words(n_bytes)} of points, reading them would take about "
                         f"{in_words(_COPIES * n_bytes)} of memory, and {in_words(there)} are available")


def _no_normals(names: str) -> ValueError:
    return ValueError(f"holds points without normals: {names} are needed; compute normals first, or give a mesh")


# -- .ply -----------------------------------------------------------------------------------------------------------


def _from_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals, (P, 3) float64 each, as they stand there."""
    header = header_of(path)
    vertices = header.element("vertex")
    have = () if vertices is None else tuple(column.name for column in vertices.columns)
    if vertices is None or vertices.count == 0 or not set("xyz") <= set(have):
        raise ValueError("holds no points" if vertices is None or vertices.count == 0
                         else f"holds no points: x, y, z of its vertices are needed, there are {', '.join(have)}")
    if not set(_NAMES) <= set(have):
        raise _no_normals("nx, ny, nz")
    _check_memory(vertices.count * max(vertices.row_bytes, 8 * len(_NAMES)))
    columns = vertex_columns(path, header, _NAMES)
    return columns[:, :3].copy(), columns[:, 3:].copy()


# -- .npz -----------------------------------------------------------------------------------------------------------


def _from_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The same of an .npz. Nothing in it is executed, and no array is read before its declared size is checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
        keys = {name[:-4] for name in sizes if name.endswith(".npy")}
    except _UNREADABLE as error:
        raise ValueError(f"not a readable .npz ({_reason(error)})") from None
    if BOTH_KEY in keys:
        both = _array(path, BOTH_KEY, 6, sizes)
        return both[:, :3].copy(), both[:, 3:].copy()
    point_key = next((key for key in POINT_KEYS if key in keys), None)
    normal_key = next((key for key in NORMAL_KEYS if key in keys), None)
    if point_key is None:
        raise ValueError(f"holds no points: the key {', '.join(POINT_KEYS)} or {BOTH_KEY} is needed, "
                         f"there are {', '.join(sorted(keys)[:8]) or 'none'}")
    if normal_key is None:
        raise _no_normals(f"the key {' or '.join(NORMAL_KEYS)} (P, 3), or {BOTH_KEY} (P, 6),")
    points, normals = _array(path, point_key, 3, sizes), _array(path, normal_key, 3, sizes)
    if len(points) != len(normals):
        raise ValueError(f"{normal_key} must have a row for each of the {len(points)} {point_key}, got {len(normals)}")
    return points, normals


def _array(path: Path, key: str, width: int, sizes: dict[str, int]) -> np.ndarray:
    """One array of the file as (P, width) float64."""
    member = f"{key}.npy"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            shape, dtype = _npy_header(stream)
    except _UNREADABLE as error:
        raise ValueError(f"{key}: not a readable array ({_reason(error)})") from None
    if dtype.kind not in "fiu":
        raise ValueError(f"{key} must be an array of numbers, got {dtype}")
    if len(shape) != 2 or shape[1] != width:
        raise ValueError(f"{key} must have shape (P, {width}), got {tuple(shape)}")
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes > sizes[member]:
        raise ValueError(f"{key} is truncated: {in_words(n_bytes)} are declared, {in_words(sizes[member])} are there")
    _check_memory(math.prod(shape) * 8)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[member], np.float64)
    except _UNREADABLE as error:
        raise ValueError(f"{key}: not a readable array ({_reason(error)})") from None


def _npy_header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"array format {version[0]}.{version[1]}")
    shape, _, dtype = read(stream)
    return shape, dtype


def _one_line(text: str) -> str:
    """What files say about themselves may hold anything."""
    return "".join(character if character.isprintable() else "?" for character in text)[:400]


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
