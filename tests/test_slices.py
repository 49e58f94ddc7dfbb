"""Slices: cuts against convex hulls, images against slow trilinear values, zero contours against lines known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from sparseflex.voxels import SparseVoxels
from workbench.slices import Plane, Slice, cut

NORMALS = [(0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.6, 0.0, 0.8), (0.36, -0.48, 0.8), (3**-0.5, 3**-0.5, 3**-0.5)]


def dense(resolution: int) -> SparseVoxels:
    cells = torch.arange(resolution)
    return SparseVoxels(torch.cartesian_prod(cells, cells, cells).int(), resolution)


def some(resolution: int, share: float, seed: int = 0) -> SparseVoxels:
    whole = dense(resolution)
    return whole.prune(torch.rand(whole.n_voxels, generator=torch.Generator().manual_seed(seed)) < share)


def triangle_areas(found: Slice) -> np.ndarray:
    corners = found.vertices[found.faces].astype(np.float64)
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) @ np.array(found.plane.normal) / 2


def hull_area(low: np.ndarray, high: np.ndarray, plane: Plane) -> float:
    """Area of a plane's cut through a box, from where it meets the twelve edges."""
    normal, points = np.array(plane.normal), []
    corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
    for a, b in itertools.combinations(corners, 2):
        if np.count_nonzero(a != b) != 1:
            continue
        heights = a @ normal - plane.offset, b @ normal - plane.offset
        if heights[0] * heights[1] < 0:
            points.append(a + heights[0] / (heights[0] - heights[1]) * (b - a))
    if len(points) < 3:
        return 0.0
    flat = np.array(points) @ plane.axes.T
    return ConvexHull(flat, qhull_options="QJ").volume if np.ptp(flat, axis=0).min() > 1e-9 else 0.0


def trilinear(voxels: SparseVoxels, row: int, corner_values: np.ndarray, point: np.ndarray) -> float:
    """The field of one voxel at a world point: eight weights, by hand."""
    local = (point + 0.5) * voxels.resolution - voxels.voxel_ijk[row].numpy()
    total = 0.0
    for slot in range(8):
        bits = [slot & 1, slot >> 1 & 1, slot >> 2 & 1]
        weight = np.prod([x if bit else 1 - x for x, bit in zip(local, bits, strict=True)])
        total += weight * corner_values[int(voxels.voxel_corners[row, slot])]
    return total


def sampled(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bilinear values of an image at places in [0, 1], as a graphics card reads a texture."""
    height, width = image.shape
    x, y = places[:, 0].astype(np.float64) * width - 0.5, places[:, 1].astype(np.float64) * height - 0.5
    i, j = np.clip(np.floor(y).astype(int), 0, height - 2), np.clip(np.floor(x).astype(int), 0, width - 2)
    v, u = y - i, x - j
    top = image[i, j] * (1 - u) + image[i, j + 1] * u
    return top * (1 - v) + (image[i + 1, j] * (1 - u) + image[i + 1, j + 1] * u) * v


@pytest.mark.parametrize("normal", NORMALS)
@pytest.mark.parametrize("offset", [0.0, 0.0713, -0.21])
def test_cuts_of_all_voxels_tile_the_cut_of_the_box(normal: tuple[float, float, float], offset: float) -> None:
    plane = Plane(normal, offset)
    areas = triangle_areas(cut(dense(6), plane))
    # wound alike, none twice, none missing
    assert (areas >= -1e-9).all() or (areas <= 1e-9).all()
    assert abs(areas.sum()) == pytest.approx(hull_area(np.full(3, -0.5), np.full(3, 0.5), plane), abs=1e-6)


@pytest.mark.parametrize("normal", NORMALS)
def test_every_voxel_that_the_plane_meets_is_cut_and_no_other(normal: tuple[float, float, float]) -> None:
    voxels, plane = some(5, 0.6), Plane(normal, 0.0317)
    found = cut(voxels, plane)
    low = voxels.voxel_ijk.numpy() / 5 - 0.5
    areas = np.array([hull_area(corner, corner + 0.2, plane) for corner in low])
    assert set(found.rows) == set((areas > 1e-9).nonzero()[0])
    assert abs(triangle_areas(found).sum()) == pytest.approx(areas.sum(), abs=1e-6)


def test_a_plane_between_two_layers_belongs_to_one_of_them() -> None:
    for offset in np.arange(-8, 8) / 16:
        found = cut(dense(16), Plane((0.0, 1.0, 0.0), float(offset)))
        layers = set(dense(16).voxel_ijk.numpy()[found.rows][:, 1])
        assert len(layers) == 1 and len(found.rows) == 256


@pytest.mark.parametrize("normal", NORMALS)
def test_the_image_holds_the_trilinear_field_where_the_cut_shows_it(normal: tuple[float, float, float]) -> None:
    voxels, plane = some(4, 0.5), Plane(normal, 0.05)
    values = np.random.default_rng(1).normal(size=voxels.n_corners).astype(np.float32)
    found = cut(voxels, plane)
    image = found.image(values)
    assert image.shape == found.shape
    # a linear field is exact between the image's values too: at the corners of the cuts
    world = voxels.corners_world.numpy()
    linear = (world @ np.array([0.3, -1.1, 0.7]) + 0.2).astype(np.float32)
    expected = found.vertices @ np.array([0.3, -1.1, 0.7]) + 0.2
    assert sampled(found.image(linear), found.places) == pytest.approx(expected, abs=2e-5)
    # a random field: at each value's own place, by hand
    tiles, local = found._tiles(values, np.arange(len(found.rows)), 5)
    rng = np.random.default_rng(2)
    for tile, i, j in zip(rng.integers(0, len(found.rows), 20), rng.integers(0, 5, 20), rng.integers(0, 5, 20),
                          strict=True):
        row = found.rows[tile]
        point = (local[tile, i, j] + voxels.voxel_ijk[row].numpy()) / 4 - 0.5
        assert point @ np.array(normal) == pytest.approx(0.05, abs=1e-9)
        assert tiles[tile, i, j] == pytest.approx(trilinear(voxels, int(row), values, point), abs=1e-5)


def test_neighbours_agree_where_their_tiles_meet() -> None:
    """The field is continuous: what two tiles show at a shared corner of their cuts is the same."""
    voxels, plane = dense(4), Plane((0.0, 0.0, 1.0), 0.06)
    values = np.random.default_rng(3).normal(size=voxels.n_corners).astype(np.float32)
    found = cut(voxels, plane)
    shown = sampled(found.image(values), found.places)
    by_place: dict[tuple, list[float]] = {}
    for vertex, value in zip(found.vertices.round(5).tolist(), shown, strict=True):
        by_place.setdefault(tuple(vertex), []).append(value)
    assert max(len(group) for group in by_place.values()) == 4
    assert all(np.ptp(group) < 1e-4 for group in by_place.values())


@pytest.mark.parametrize("normal", NORMALS)
def test_the_zero_contour_of_a_plane_is_a_line(normal: tuple[float, float, float]) -> None:
    voxels, plane = dense(7), Plane(normal, 0.02)
    gradient = np.array([0.2, 1.0, -0.5]) / np.linalg.norm([0.2, 1.0, -0.5])
    values = (voxels.corners_world.numpy() @ gradient - 0.013).astype(np.float32)
    segments = cut(voxels, plane).zero_contour(values)
    assert np.abs(segments @ np.array(normal) - 0.02).max() < 1e-9
    assert np.abs(segments @ gradient - 0.013).max() < 1e-6 and np.abs(segments).max() <= 0.5 + 1e-6
    # the line in which both planes meet, within the box
    along = np.cross(normal, gradient)
    along /= np.linalg.norm(along)
    point = np.linalg.lstsq(np.array([normal, gradient]), np.array([0.02, 0.013]), rcond=None)[0]
    with np.errstate(divide="ignore"):
        sides = np.sort([(-0.5 - point) / along, (0.5 - point) / along], axis=0)
    length = max(sides[1].min() - sides[0].max(), 0.0)
    assert np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1).sum() == pytest.approx(length, rel=1e-4)


def test_the_zero_contour_of_a_ball_is_a_circle_and_stops_at_missing_voxels() -> None:
    resolution = 24
    voxels = dense(resolution)
    for plane, voxels_here, share in (
        (Plane((0.0, 0.0, 1.0), 0.1), voxels, 1.0), (Plane((0.36, -0.48, 0.8), 0.1), voxels, 1.0),
        (Plane((0.0, 0.0, 1.0), 0.1), voxels.prune(voxels.voxel_ijk[:, 0] < resolution // 2), 0.5),
    ):
        own = (voxels_here.corners_world.norm(dim=1) - 0.37).numpy()
        segments = cut(voxels_here, plane).zero_contour(own)
        assert np.abs(np.linalg.norm(segments, axis=2) - 0.37).max() < 0.1 / resolution
        expected = share * 2 * np.pi * np.sqrt(0.37**2 - 0.1**2)
        assert np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1).sum() == pytest.approx(expected, rel=3e-3)


def test_bad_values_spoil_their_own_voxels_alone() -> None:
    voxels, plane = dense(4), Plane((0.0, 0.0, 1.0), 0.1)
    values = voxels.corners_world[:, 0].numpy().copy()
    found = cut(voxels, plane)
    bad = int(voxels.voxel_corners[found.rows[5], 0])
    good_segments = found.zero_contour(values)
    values[bad] = np.nan
    touched = {int(row) for row in found.rows if bad in voxels.voxel_corners[row]}
    image = found.image(values).reshape(-1, found.side, found.columns, found.side).swapaxes(1, 2)
    spoiled = np.isnan(image).any(axis=(2, 3)).reshape(-1)[: len(found.rows)]
    assert {int(row) for row in found.rows[spoiled]} == touched
    assert 0 < len(found.zero_contour(values)) <= len(good_segments)
    assert len(found.zero_contour(np.full(voxels.n_corners, np.nan, np.float32))) == 0


def test_nothing_to_cut_is_legal() -> None:
    empty = SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 8)
    for voxels, plane in ((empty, Plane((0.0, 0.0, 1.0), 0.0)), (dense(2), Plane((0.0, 0.0, 1.0), 5.0))):
        found = cut(voxels, plane)
        assert len(found.rows) == len(found.faces) == len(found.vertices) == 0
        values = np.zeros(voxels.n_corners, np.float32)
        assert found.image(values).shape == found.shape and found.zero_contour(values).shape == (0, 2, 3)


@pytest.mark.parametrize("normal", [(0.0, 0.0, 2.0), (0.0, 0.0, 0.0), (np.nan, 0.0, 1.0)])
def test_planes_have_unit_normals(normal: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="normal must have length 1"):
        Plane(normal, 0.0)
    with pytest.raises(ValueError, match="offset be finite"):
        Plane((1.0, 0.0, 0.0), float("inf"))


def test_a_planes_axes_are_at_right_angles() -> None:
    for normal in NORMALS:
        plane = Plane(normal, 0.0)
        whole = np.stack([*plane.axes, np.array(normal)])
        assert whole @ whole.T == pytest.approx(np.eye(3), abs=1e-12)
        corners = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
        assert plane.reach == pytest.approx(float((corners @ np.array(normal)).max()))
