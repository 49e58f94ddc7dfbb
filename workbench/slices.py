"""Slices: where a plane cuts the voxels, the trilinear field on the cut as tiles of one image, and its zero contour."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Float, Int

from sparseflex.voxels import CORNER_OFFSETS, SparseVoxels

_TEXELS = 400_000
"""How many values an image of a slice may hold; what is left for each voxel is between the limits below, squared."""

_LEAST_SIDE, _MOST_SIDE = 4, 16
_CONTOUR_SIDE = 6
_SLACK = 1e-3  # voxel widths: float32 centres choose the candidates, integers decide

_CORNERS = np.array(CORNER_OFFSETS, np.float64)
_EDGES = np.array([(a, a | step) for step in (1, 2, 4) for a in range(8) if not a & step])

AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class Plane:
    """The points with normal · x = offset, in world space. normal: unit length, else ValueError."""

    normal: tuple[float, float, float]
    offset: float

    def __post_init__(self) -> None:
        length = math.sqrt(sum(part * part for part in self.normal))
        if not abs(length - 1) < 1e-6 or not math.isfinite(self.offset):
            raise ValueError(f"normal must have length 1 and offset be finite, got {self.normal} and {self.offset}")

    @property
    def axes(self) -> Float[np.ndarray, "2 3"]:
        """Two directions within the plane, at right angles; along the grid's axes where the normal is."""
        normal = np.array(self.normal)
        first = np.zeros(3)
        first[(int(np.abs(normal).argmax()) + 1) % 3] = 1.0
        first -= normal * (first @ normal)
        first /= np.linalg.norm(first)
        return np.stack([first, np.cross(normal, first)])

    @property
    def reach(self) -> float:
        """Largest distance from the origin at which a plane of this normal still meets the unit box."""
        return sum(abs(part) for part in self.normal) / 2


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """The voxels that a plane cuts, M of them.

    rows: (M,) their rows. above: (M,) how far each centre lies beyond the plane, in voxel widths. vertices (P, 3) in
    world space, faces (T, 3) and places (P, 2) in the image ([0, 1], from its upper left): the cuts as triangles.
    side: values of a voxel along either side of its tile, columns: tiles in a row of the image.
    """

    voxels: SparseVoxels
    plane: Plane
    rows: Int[np.ndarray, "M"]
    above: Float[np.ndarray, "M"]
    vertices: Float[np.ndarray, "P 3"]
    faces: Int[np.ndarray, "T 3"]
    places: Float[np.ndarray, "P 2"]
    side: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return max(math.ceil(len(self.rows) / self.columns), 1) * self.side, self.columns * self.side

    def image(self, corner_values: Float[np.ndarray, "C"]) -> Float[np.ndarray, "H W"]:
        """The field on the cut, one tile a voxel; 0 where no tile lies. A voxel with a NaN corner is NaN."""
        tiles = self._tiles(corner_values, np.arange(len(self.rows)), self.side)[0]
        rows = self.shape[0] // self.side
        whole = np.zeros((rows * self.columns, self.side, self.side), np.float32)
        whole[: len(tiles)] = tiles
        return whole.reshape(rows, self.columns, self.side, self.side).swapaxes(1, 2).reshape(self.shape)

    def zero_contour(self, corner_values: Float[np.ndarray, "C"]) -> Float[np.ndarray, "S 2 3"]:
        """Where the trilinear field is zero on the plane, as segments in world space; none in voxels with NaN."""
        of_voxel = self._corner_values(corner_values, slice(None))
        signed = (of_voxel >= 0).any(0) & (of_voxel < 0).any(0) & np.isfinite(of_voxel).all(0)
        chosen = signed.nonzero()[0]
        values, local = self._tiles(corner_values, chosen, _CONTOUR_SIDE)
        tile, points = _marching_triangles(values, local)
        tile, points = _within_voxel(tile, points)
        ijk = self.voxels.voxel_ijk.numpy()[self.rows[chosen[tile]]]
        return (points + ijk[:, None]) / self.voxels.resolution - 0.5

    def _corner_values(self, corner_values: Float[np.ndarray, "C"], chosen: object) -> Float[np.ndarray, "8 m"]:
        return corner_values[self.voxels.corners_by_slot.numpy()[:, self.rows[chosen]]].astype(np.float64)

    def _tiles(
        self, corner_values: Float[np.ndarray, "C"], chosen: Int[np.ndarray, "m"], side: int
    ) -> tuple[Float[np.ndarray, "m side side"], Float[np.ndarray, "m side side 3"]]:
        """Trilinear values on each chosen voxel's tile, and where, in voxel widths from its lowest corner.

        A tile is a square in the plane around the voxel's centre that holds the voxel's whole cut.
        """
        steps = np.linspace(-0.5, 0.5, side) * _tile_width(self.plane)
        u, v = self.plane.axes
        flat = steps[None, :, None] * u + steps[:, None, None] * v  # (side, side, 3), rows along v
        foot = 0.5 - self.above[chosen, None] * np.array(self.plane.normal)
        local = foot[:, None, None] + flat
        values = self._corner_values(corner_values, chosen)[:, :, None, None]
        with np.errstate(invalid="ignore"):
            for axis in range(3):  # the corners of x, y, z in turn: x is the fastest
                weight = local[..., axis]
                values = [low + weight * (high - low) for low, high in zip(values[::2], values[1::2], strict=True)]
        return values[0], local


def cut(voxels: SparseVoxels, plane: Plane) -> Slice:
    """The slice of a voxel set by a plane; a voxel belongs to it if the plane meets it, but not only its upper side."""
    rows, above = _rows_cut(voxels, plane)
    corners = _polygons(above, plane)  # (M, 6, 3), NaN past each one's last
    n_corners = (~np.isnan(corners[..., 0])).sum(1)
    good = n_corners >= 3
    rows, above, corners, n_corners = rows[good], above[good], corners[good], n_corners[good]

    side = int(min(max(math.sqrt(_TEXELS / max(len(rows), 1)), _LEAST_SIDE), _MOST_SIDE))
    columns = max(math.ceil(math.sqrt(len(rows))), 1)
    held = ~np.isnan(corners[..., 0])
    first = np.cumsum(n_corners) - n_corners
    fans = [np.stack([first, first + k, first + k + 1], 1)[k + 1 < n_corners] for k in range(1, 5)]
    found = Slice(
        voxels, plane, rows, above,
        ((corners + voxels.voxel_ijk.numpy()[rows][:, None]) / voxels.resolution - 0.5)[held].astype(np.float32),
        np.concatenate(fans).astype(np.int32), np.zeros((0, 2)), side, columns,
    )
    return dataclasses.replace(found, places=_places(found, corners)[held].astype(np.float32))


def _rows_cut(voxels: SparseVoxels, plane: Plane) -> tuple[Int[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """Rows of the voxels that the plane cuts, and how far their centres lie above it, in voxel widths."""
    resolution, half = voxels.resolution, plane.reach
    height = torch.zeros(voxels.n_voxels)
    for part, centre in zip(plane.normal, voxels.centers_by_axis, strict=True):
        if part:
            height.add_(centre, alpha=part)
    limit = (half + _SLACK) / resolution
    rows = ((height - plane.offset).abs_() <= limit).nonzero()[:, 0].numpy()
    middle = voxels.voxel_ijk.numpy()[rows].astype(np.float64) + 0.5 - resolution / 2
    above = middle @ np.array(plane.normal) - plane.offset * resolution
    cut_through = (above > -half + 1e-9) & (above <= half + 1e-9)
    return rows[cut_through], above[cut_through]


def _polygons(above: Float[np.ndarray, "M"], plane: Plane) -> Float[np.ndarray, "M 6 3"]:
    """The corners of each voxel's cut in order around it, in voxel widths from its lowest corner; then NaN."""
    normal = np.array(plane.normal)
    heights = above[:, None] + (_CORNERS - 0.5) @ normal
    low, high = heights[:, _EDGES[:, 0]], heights[:, _EDGES[:, 1]]
    # 1e-9: a plane through a whole side of the voxel, up to rounding, cuts the edges that stand on it
    crosses = (low <= 1e-9) != (high <= 1e-9)
    share = np.where(crosses, low / np.where(crosses, low - high, 1), np.nan)[..., None]
    points = _CORNERS[_EDGES[:, 0]] + np.clip(share, 0, 1) * (_CORNERS[_EDGES[:, 1]] - _CORNERS[_EDGES[:, 0]])
    n_points = np.maximum(crosses.sum(1), 1)[:, None, None]
    from_middle = (points - np.nansum(points, axis=1, keepdims=True) / n_points) @ plane.axes.T
    angle = np.arctan2(from_middle[..., 1], from_middle[..., 0])
    order = np.argsort(angle, axis=1)[:, :6]  # NaN comes last
    return np.take_along_axis(points, order[..., None], axis=1)


def _tile_width(plane: Plane) -> float:
    """The side of a square in the plane, along its axes, that covers the cut through any voxel; in voxel widths."""
    return float(np.abs(plane.axes).sum(1).max())


def _places(found: Slice, corners: Float[np.ndarray, "M 6 3"]) -> Float[np.ndarray, "M 6 2"]:
    """Where each corner lies in the image, so that values between texels are those between their samples."""
    foot = 0.5 - found.above[:, None] * np.array(found.plane.normal)
    within = ((corners - foot[:, None]) @ found.plane.axes.T) / _tile_width(found.plane) + 0.5
    index = np.arange(len(found.rows))
    tile = np.stack([index % found.columns, index // found.columns], 1)[:, None]
    height, width = found.shape
    return (tile * found.side + within * (found.side - 1) + 0.5) / (width, height)


def _marching_triangles(
    values: Float[np.ndarray, "m s s"], points: Float[np.ndarray, "m s s 3"]
) -> tuple[Int[np.ndarray, "S"], Float[np.ndarray, "S 2 3"]]:
    """Zero segments of a field that is linear on the two triangles of each square of samples; and their tiles."""
    tiles, ends = [], []
    quad = [(slice(None), slice(a, values.shape[1] - 1 + a), slice(b, values.shape[2] - 1 + b))
            for a, b in ((0, 0), (0, 1), (1, 1), (1, 0))]
    for corners in ((0, 1, 2), (0, 2, 3)):
        three = np.stack([values[quad[k]] for k in corners], -1)
        inside = three < 0
        n_inside = inside.sum(-1)
        tile, row, column = ((n_inside == 1) | (n_inside == 2)).nonzero()
        three, inside = three[tile, row, column], inside[tile, row, column]
        place = np.stack([points[quad[k]][tile, row, column] for k in corners], 1)
        # the corner that stands alone on its side of zero
        alone = np.where(inside.sum(-1) == 1, inside.argmax(-1), (~inside).argmax(-1))
        index = np.arange(len(tile))
        segment = []
        for step in (1, 2):
            other = (alone + step) % 3
            here, there = three[index, alone], three[index, other]
            share = (here / (here - there))[:, None]
            segment.append(place[index, alone] + share * (place[index, other] - place[index, alone]))
        tiles.append(tile)
        ends.append(np.stack(segment, 1))
    return np.concatenate(tiles), np.concatenate(ends)


def _within_voxel(
    tile: Int[np.ndarray, "S"], segments: Float[np.ndarray, "S 2 3"]
) -> tuple[Int[np.ndarray, "S"], Float[np.ndarray, "S 2 3"]]:
    """The parts of the segments that lie in the voxel [0, 1]³; those with no length are left out."""
    start, along = segments[:, 0], segments[:, 1] - segments[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        first, last = (0 - start) / along, (1 - start) / along
    enter, leave = np.fmin(first, last), np.fmax(first, last)
    still = np.abs(along) < 1e-12  # never enters nor leaves between the sides of this axis
    outside = (still & ((start < -1e-9) | (start > 1 + 1e-9))).any(1)
    enter = np.where(still, 0, enter).max(1, initial=0)
    leave = np.where(still, 1, leave).min(1, initial=1)
    kept = (leave - enter > 1e-9) & ~outside & (np.linalg.norm(along, axis=1) > 1e-12)
    ends = np.stack([enter, leave], 1)[kept, :, None]
    return tile[kept], start[kept, None] + ends * along[kept, None]
