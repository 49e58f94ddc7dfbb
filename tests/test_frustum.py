"""The frustum on voxels: active set, categories, adaptive planes, halo, histogram and rim, against slow twins."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseflex import frustum, scan
from sparseflex.camera import Camera
from sparseflex.frustum import (
    ANCHORS,
    METHODS,
    Category,
    active_voxels,
    adapt_frustum,
    add_halo,
    depth_histogram,
    rim_report,
    split_voxels,
)
from sparseflex.voxels import SparseVoxels


def random_voxels(n: int, resolution: int, seed: int) -> SparseVoxels:
    keys = torch.randperm(resolution**3, generator=torch.Generator().manual_seed(seed))[:n]
    ijk = torch.stack([keys // resolution**2, keys // resolution % resolution, keys % resolution], dim=1)
    return SparseVoxels(ijk, resolution)


def centers64(voxels: SparseVoxels) -> torch.Tensor:
    return (voxels.voxel_ijk.double() + 0.5) / voxels.resolution - 0.5


def depths_and_sides(voxels: SparseVoxels, camera: Camera) -> list[tuple[float, bool]]:
    """Slow twin: for each voxel its depth, and whether it is laterally visible, one by one in Python floats."""
    matrix = camera.camera_from_world.tolist()
    tan_x, tan_y = camera.tan_half_fov
    result = []
    for point in centers64(voxels).tolist():
        x, y, z = (sum(matrix[row][k] * point[k] for k in range(3)) + matrix[row][3] for row in range(3))
        result.append((-z, -z > 0 and abs(x) <= tan_x * -z and abs(y) <= tan_y * -z))
    return result


def slow_active(voxels: SparseVoxels, camera: Camera) -> list[bool]:
    return [side and camera.near <= depth <= camera.far for depth, side in depths_and_sides(voxels, camera)]


def tie_groups(voxels: SparseVoxels, camera: Camera) -> list[list[int]]:
    """The visible voxels by depth, equal ones in one group."""
    pairs = depths_and_sides(voxels, camera)
    order = sorted((row for row, (_, side) in enumerate(pairs) if side), key=lambda row: pairs[row][0])
    groups: list[list[int]] = []
    for row in order:
        if groups and pairs[row][0] - pairs[groups[-1][0]][0] < 1e-10:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def slow_window(voxels: SparseVoxels, camera: Camera, ratio: float, anchor: str) -> set[int]:
    """Slow twin of the exact planes: the ranks, and every voxel as deep as one of theirs."""
    groups = tie_groups(voxels, camera)
    n_visible = sum(map(len, groups))
    wanted = min(round(ratio * voxels.n_voxels), n_visible)
    first = {"front": 0, "centre": (n_visible - wanted) // 2, "back": n_visible - wanted}[anchor]
    chosen, rank = set(), 0
    for group in groups:
        if rank < first + wanted and rank + len(group) > first and wanted:
            chosen.update(group)
        rank += len(group)
    return chosen


# eyes: generic, along axes and diagonals (ties), inside the box, on a voxel centre, looking away from everything
EYES = ((1.3, 0.7, 1.9), (0, 0, 2), (1.5, 1.5, 0), (1, 1, 1), (0.1, 0.07, -0.03), (0.125, 0.125, 0.125), (0.3, 2, 0.1))
LOOKS = ((0, 0, 0), (0.2, -0.1, 0.3), (5, 4, 7))

CAMERAS = [
    Camera.look_at(eye, look, fov_y_degrees=fov, width=width, height=height)
    for eye, look, fov, (width, height) in itertools.product(EYES, LOOKS, (15, 40, 70), ((64, 64), (80, 40)))
]
cameras = st.sampled_from(CAMERAS)
sets = st.builds(
    lambda n, resolution, seed: random_voxels(min(n, resolution**3), resolution, seed),
    st.sampled_from((0, 1, 2, 3, 9, 64, 150)), st.sampled_from((2, 4, 7)), st.integers(0, 50),
)  # fmt: skip
ratios = st.sampled_from((0.01, 0.1, 0.3, 0.5, 0.9, 1.0))


@settings(max_examples=60, deadline=None)
@given(sets, cameras, st.floats(0.05, 2.5), st.floats(0.05, 2.5))
def test_active_and_categories_match_twin(voxels, camera, near, depth):
    camera = camera.with_planes(near, near + depth)
    expected = slow_active(voxels, camera)
    assert active_voxels(voxels, camera).tolist() == expected
    categories = []
    for depth_of_voxel, side in depths_and_sides(voxels, camera):
        if not side:
            categories.append(Category.OUTSIDE)
        elif depth_of_voxel < camera.near:
            categories.append(Category.NEAR_CUT)
        else:
            categories.append(Category.FAR_CUT if depth_of_voxel > camera.far else Category.ACTIVE)
    split = split_voxels(voxels, camera)
    assert split.dtype == torch.uint8
    assert split.tolist() == categories


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_active_is_exact_on_many_voxels_and_chunks(precision, monkeypatch):
    """Float32 alone would misplace some of them; odd chunks and float64 arithmetic give the same."""
    voxels = random_voxels(200_001, 64, 0)
    camera = Camera.look_at((1.1, 0.6, 1.4), (0.1, 0, 0), fov_y_degrees=22, near=1.6, far=2.1)
    rows = camera.clip_from_world[[0, 1, 3]]
    x, y, depth = rows[:, :3] @ voxels.centers_by_axis.double() + rows[:, 3:]
    exact = (x.abs() <= depth) & (y.abs() <= depth) & (depth >= camera.near) & (depth <= camera.far)
    monkeypatch.setattr(scan, "CPU_CHUNK", 59 * scan.BLOCK)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(active_voxels(voxels, camera), exact)
        assert torch.equal(split_voxels(voxels, camera) == Category.ACTIVE, exact)
    finally:
        torch.set_float32_matmul_precision(before)


def test_planes_and_sides_are_included():
    voxels = SparseVoxels(torch.tensor([[2, 2, 0], [2, 2, 3], [0, 2, 1], [3, 2, 1]]), 4)  # z = -.375, .375, -.125
    camera = Camera.look_at((0.125, 0.125, 1.0), (0.125, 0.125, 0), fov_y_degrees=20, near=0.625, far=1.375)
    assert active_voxels(voxels, camera).tolist() == [True, True, False, False]
    nearer = camera.with_planes(0.6250001, 1.3749999)
    assert split_voxels(voxels, nearer).tolist() == [Category.FAR_CUT, Category.NEAR_CUT, 0, 0]


def test_far_away_camera_is_exact():
    voxels = random_voxels(400, 8, 3)
    camera = Camera.look_at((900.0, 500.0, 3000.0), (0, 0, 0), fov_y_degrees=0.016, near=1.0, far=3171.5)
    expected = slow_active(voxels, camera)
    assert 20 < sum(expected) < 380
    assert active_voxels(voxels, camera).tolist() == expected
    fit = adapt_frustum(voxels, camera, 0.25)
    assert set(fit.active.nonzero()[:, 0].tolist()) == slow_window(voxels, camera, 0.25, "front")


@settings(max_examples=120, deadline=None)
@given(sets, cameras, ratios, st.sampled_from(("front", "back", "centre")))
def test_exact_planes_match_twin(voxels, camera, ratio, anchor):
    fit = adapt_frustum(voxels, camera, ratio, "exact", anchor)
    assert set(fit.active.nonzero()[:, 0].tolist()) == slow_window(voxels, camera, ratio, anchor)


@settings(max_examples=150, deadline=None)
@given(sets, cameras, ratios, st.sampled_from(METHODS), st.sampled_from(ANCHORS), st.integers(0, 99))
def test_adapt_frustum_keeps_its_promises(voxels, camera, ratio, method, anchor, seed):
    fit = adapt_frustum(voxels, camera, ratio, method, anchor, torch.Generator().manual_seed(seed))
    near, far, n_active = fit.camera.near, fit.camera.far, int(fit.active.sum())
    assert 0 < near < far < math.inf
    assert torch.equal(fit.active, active_voxels(voxels, fit.camera))
    assert fit.visible_fraction == n_active / max(voxels.n_voxels, 1)
    # the camera's own planes don't matter
    again = adapt_frustum(voxels, camera.with_planes(3.0, 3.1), ratio, method, anchor,
                          torch.Generator().manual_seed(seed))  # fmt: skip
    assert torch.equal(again.active, fit.active)
    # the trace: what each round's planes really count, the last one the camera's
    assert fit.trace.dtype == torch.float64 and 1 <= len(fit.trace) <= frustum.MAX_ROUNDS
    assert fit.trace[-1].tolist() == [near, far, n_active]
    for row_near, row_far, count in fit.trace.tolist():
        assert int(active_voxels(voxels, camera.with_planes(row_near, row_far)).sum()) == count
    # a window of depth ranks with about as many voxels as wanted; only whole groups of equal depth more
    groups = tie_groups(voxels, camera)
    n_visible = sum(map(len, groups))
    wanted = min(round(ratio * voxels.n_voxels), n_visible)
    active = set(fit.active.nonzero()[:, 0].tolist())
    inside = [index for index, group in enumerate(groups) if active.issuperset(group)]
    assert sum(len(groups[index]) for index in inside) == n_active
    assert inside == list(range(inside[0], inside[0] + len(inside))) if inside else n_active == 0
    if method == "exact":
        assert n_active >= wanted
        ends = sum(len(groups[index]) - 1 for index in {inside[0], inside[-1]}) if inside else 0
        assert n_active - ends <= wanted
    else:
        assert n_active >= wanted - 0.01 * wanted
    if method == "iterative" and n_visible and wanted:
        assert fit.trace[0, 2] == n_visible
    # just beyond the outermost chosen centres
    if active:
        depths = [depths_and_sides(voxels, camera)[row][0] for row in active]
        assert 0 < min(depths) - near <= 1.001e-3 / voxels.resolution
        assert 0 < far - max(depths) <= 1.001e-3 / voxels.resolution


def test_planes_stand_between_ranks_however_close():
    """Two depths 3e-6 of a voxel apart: the plane must find its place between them."""
    voxels = SparseVoxels(torch.tensor([[0, 0, 3], [7, 0, 3], [3, 4, 6]]), 8)
    eye = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
    camera = Camera.look_at(eye, eye + torch.tensor([4e-7, 0.0, -1.0], dtype=torch.float64), fov_y_degrees=60)
    assert adapt_frustum(voxels, camera, 1 / 3, anchor="back").active.tolist() == [False, True, False]
    assert adapt_frustum(voxels, camera, 2 / 3, anchor="front").active.tolist() == [True, False, True]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("anchor", ["front", "back", "centre"])
def test_equal_depths_enter_together_in_spite_of_rounding(method, anchor):
    """Seen along (3, 2, 1) the depth is 3i + 2j + k in lattice steps; in floating point equal sums differ a little."""
    axis = torch.arange(12)
    voxels = SparseVoxels(torch.cartesian_prod(axis, axis, axis), 12)
    camera = Camera.look_at((2.1, 1.4, 0.7), (0, 0, 0), fov_y_degrees=60)
    layer = voxels.voxel_ijk.long() @ torch.tensor([3, 2, 1])
    depths = camera.depth_of(centers64(voxels))
    assert max(len(set(depths[layer == step].tolist())) for step in range(66)) > 1  # so rounding does show
    for ratio in torch.linspace(0.02, 1, 60).tolist():
        fit = adapt_frustum(voxels, camera, ratio, method, anchor)
        inside, outside = set(layer[fit.active].tolist()), set(layer[~fit.active].tolist())
        assert inside and not inside & outside
        if method == "exact":
            ends = torch.bincount(layer, minlength=67)[[min(inside), max(inside)]]
            wanted = round(ratio * voxels.n_voxels)
            assert wanted <= int(fit.active.sum()) <= wanted + int(ends.sum()) - 2


def test_every_voxel_decided_in_float64_gives_the_same(monkeypatch):
    """The slow path that only doubtful voxels take."""
    voxels = random_voxels(2000, 32, 3)
    camera = Camera.look_at((1.3, 0.7, 1.9), (0.1, 0, 0), fov_y_degrees=25, near=1.9, far=2.5)
    fast = active_voxels(voxels, camera), split_voxels(voxels, camera), adapt_frustum(voxels, camera, 0.3).trace
    monkeypatch.setattr(scan, "rounding", lambda rows, device: 1e3)
    slow = active_voxels(voxels, camera), split_voxels(voxels, camera), adapt_frustum(voxels, camera, 0.3).trace
    assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))
    assert set(adapt_frustum(voxels, camera, 0.3).active.nonzero()[:, 0].tolist()) == slow_window(
        voxels, camera, 0.3, "front"
    )


def test_iterative_planes_never_cross():
    """Columns of unevenly spread voxels seen end on: the planes' guesses would overtake each other."""
    camera = Camera.look_at((0, 0, 1.2), (0, 0, 0), fov_y_degrees=30)
    for seed in (*range(60), 246, 551, 660, 708):  # the last ones cross unless each plane bounds the other
        generator = torch.Generator().manual_seed(seed)
        power = 1 + 5 * float(torch.rand((), generator=generator))
        depth = torch.unique((1023 * torch.rand(40, generator=generator) ** power).long())
        depth = 1023 - depth if seed % 2 else depth
        voxels = SparseVoxels(torch.stack([torch.full_like(depth, 512)] * 2 + [depth], dim=1), 1024)
        for ratio in (0.05, 0.2):
            fit = adapt_frustum(voxels, camera, ratio, "iterative", "random", generator)
            assert int(fit.active.sum()) == round(ratio * voxels.n_voxels)
            assert bool((fit.trace[:, 0] < fit.trace[:, 1]).all())


def test_front_windows_are_nested():
    voxels, camera = random_voxels(3000, 32, 1), Camera.look_at((1.3, 0.7, 1.9), (0, 0, 0))
    before = None
    for ratio in (0.05, 0.1, 0.3, 0.6, 1.0):
        fit = adapt_frustum(voxels, camera, ratio)
        if before is not None:
            assert bool((fit.active >= before.active).all())
            assert fit.camera.near == before.camera.near and fit.camera.far > before.camera.far
        before = fit


@pytest.mark.parametrize("anchor", ANCHORS)
def test_iterative_finds_a_generic_count_soon(anchor):
    voxels, camera = random_voxels(20_000, 64, 2), Camera.look_at((1.31, 0.73, 1.97), (0, 0, 0), fov_y_degrees=30)
    generator = torch.Generator().manual_seed(5)
    fit = adapt_frustum(voxels, camera, 0.3, "iterative", anchor, generator)
    assert abs(int(fit.active.sum()) - 6000) <= 60
    assert 2 <= len(fit.trace) <= 20


def test_random_anchor_follows_the_generator_and_spreads():
    voxels, camera = random_voxels(500, 16, 4), Camera.look_at((1.3, 0.7, 1.9), (0, 0, 0))

    def nears(seed: int) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        return [adapt_frustum(voxels, camera, 0.3, anchor="random", generator=generator).camera.near for _ in range(20)]

    assert nears(1) == nears(1) != nears(2)
    assert max(nears(1)) - min(nears(1)) > 0.3


def test_nothing_visible_keeps_planes_and_nothing_wanted_sees_nothing():
    voxels = random_voxels(3, 4, 0)
    away = Camera.look_at((0, 0, 2), (0, 0, 3), near=0.2, far=0.9)
    fit = adapt_frustum(voxels, away, 0.5)
    assert (fit.camera.near, fit.camera.far, int(fit.active.sum())) == (0.2, 0.9, 0)
    towards = Camera.look_at((0, 0, 2), (0, 0, 0), fov_y_degrees=80)
    assert int(adapt_frustum(voxels, towards, 1.0).active.sum()) == 3
    assert int(adapt_frustum(voxels, towards, 0.1).active.sum()) == 0  # round(0.3) = 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.0,), "visibility_ratio must be in (0, 1], got 0.0"),
        ((1.5,), "visibility_ratio must be in (0, 1], got 1.5"),
        ((math.nan,), "visibility_ratio must be in (0, 1], got nan"),
        ((0.5, "bisect"), "method must be one of exact, iterative, got 'bisect'"),
        ((0.5, "exact", "middle"), "anchor must be one of front, back, centre, random, got 'middle'"),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    with pytest.raises(ValueError) as error:
        adapt_frustum(random_voxels(3, 4, 0), Camera.look_at((0, 0, 2), (0, 0, 0)), *arguments)
    assert str(error.value) == text


@settings(max_examples=40, deadline=None)
@given(sets, st.integers(0, 3), st.integers(0, 99))
def test_halo_matches_twin(voxels, rings, seed):
    active = torch.rand(voxels.n_voxels, generator=torch.Generator().manual_seed(seed)) < 0.1
    ijk = voxels.voxel_ijk.long()
    # twin: steps through existing voxels only, as a quad's four voxels have to exist
    grown = active.clone()
    for _ in range(rings):
        distance = (ijk[:, None] - ijk[None]).abs().amax(dim=2)
        grown = ((distance <= 1) & grown[None]).any(dim=1) if voxels.n_voxels else grown
    before = active.clone()
    assert torch.equal(add_halo(voxels, active, rings), grown)
    assert torch.equal(active, before)


def test_halo_of_nothing_is_a_copy_and_bad_input_is_named():
    voxels = random_voxels(9, 4, 0)
    active = torch.ones(9, dtype=torch.bool)
    assert add_halo(voxels, active, 0) is not active
    with pytest.raises(ValueError, match="rings must be at least 0, got -1"):
        add_halo(voxels, active, -1)
    with pytest.raises(ValueError, match=r"active must be bool of shape \(9,\)"):
        add_halo(voxels, active[:3], 1)


@settings(max_examples=30, deadline=None)
@given(sets, cameras, st.integers(1, 20))
def test_histogram_counts_each_visible_voxel_once(voxels, camera, bins):
    histogram = depth_histogram(voxels, camera, bins)
    depths = [depth for depth, side in depths_and_sides(voxels, camera) if side]
    assert histogram.counts.shape == (bins,) and histogram.edges.shape == (bins + 1,)
    assert int(histogram.counts.sum()) == len(depths)
    assert bool((histogram.edges[1:] > histogram.edges[:-1]).all())
    if depths:
        assert float(histogram.edges[0]) == pytest.approx(min(depths))
        for k in range(bins):  # up to the depths that lie on an edge
            low, high = histogram.edges[k].item(), histogram.edges[k + 1].item()
            assert sum(low + 1e-9 < d < high - 1e-9 for d in depths) <= int(histogram.counts[k])
            assert int(histogram.counts[k]) <= sum(low - 1e-9 <= d <= high + 1e-9 for d in depths)


@pytest.mark.parametrize("eye", [(1.1, 0.6, 1.4), (0.0, 0.0, 2.0), (0.1, 0.0, 0.1), (900.0, 500.0, 3000.0)])
@pytest.mark.parametrize("bins", [1, 7, 48, 5000])
def test_histogram_of_many_voxels_matches_twin(eye, bins):
    """A camera far away puts all of them in a few bins of rounded depth; along an axis many depths are equal."""
    voxels = random_voxels(30_001, 64, 0)
    camera = Camera.look_at(eye, (0.0, 0.0, 0.0), fov_y_degrees=0.02 if eye[0] > 100 else 40)
    rows = camera.clip_from_world[[0, 1, 3]]
    x, y, depth = rows[:, :3] @ centers64(voxels).T + rows[:, 3:]
    depths = depth[(x.abs() <= depth) & (y.abs() <= depth) & (depth > 0)]
    histogram = depth_histogram(voxels, camera, bins)
    assert len(depths) > 1000 and int(histogram.counts.sum()) == len(depths)
    low, high = float(depths.min()), float(depths.max())
    # depths on an edge, up to rounding, may fall on either side of it
    inner = torch.linspace(low, high, bins + 1, dtype=torch.float64)[1:-1]
    slack = 1e-9 * (high - low) + 1e-12 * high
    before = histogram.counts.cumsum(0)[:-1]
    ordered = depths.sort().values
    assert bool((before >= torch.searchsorted(ordered, inner - slack)).all())
    assert bool((before <= torch.searchsorted(ordered, inner + slack, right=True)).all())


@dataclasses.dataclass
class FakeMaps:
    depth: torch.Tensor
    normal: torch.Tensor
    triangle_id: torch.Tensor


def test_rim_report_finds_what_differs():
    full = FakeMaps(torch.full((2, 4), 2.0), torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64))
    full.triangle_id[0, 3] = full.triangle_id[1, 3] = -1
    section = FakeMaps(full.depth.clone(), full.normal.clone(), full.triangle_id.clone() + 7)
    section.triangle_id[full.triangle_id < 0] = -1
    assert rim_report(full, section).fraction == 0
    section.triangle_id[0, 0] = -1  # missing
    section.triangle_id[0, 3] = 5  # extra
    section.depth[1, 0] += 0.01
    section.normal[1, 1, 2] = 0.5
    section.depth[1, 3] = 9.0  # hit by neither
    report = rim_report(full, section)
    assert report.differs.tolist() == [[True, False, False, True], [True, True, False, False]]
    assert report.missing.tolist() == [[True, False, False, False], [False] * 4]
    assert report.extra.tolist() == [[False, False, False, True], [False] * 4]
    assert report.fraction == pytest.approx(4 / 7)
    with pytest.raises(ValueError, match="same size"):
        rim_report(full, FakeMaps(torch.zeros(3, 4), torch.zeros(3, 4, 3), torch.zeros(3, 4, dtype=torch.int64)))


def test_rim_of_a_real_section_lies_at_its_border():
    """A ball, cut by adapted planes: with the whole set nothing differs; with the section some rim pixels do, and a
    halo takes most of them away."""
    from sparseflex.extraction import extract_mesh
    from sparseflex.render import render_maps
    from sparseflex.representation import SparseFlex

    axis = torch.arange(24)
    ijk = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    distance = ((ijk + 0.5) / 24 - 0.5).norm(dim=1) - 0.35
    voxels = SparseVoxels(ijk[distance.abs() < 1.2 / 24], 24)
    flex = SparseFlex.from_sdf(voxels, voxels.corners_world.norm(dim=1) - 0.35)
    camera = Camera.look_at((1.0, 0.8, 1.2), (0, 0, 0), fov_y_degrees=30, width=96, height=96)
    fit = adapt_frustum(voxels, camera, 0.4, anchor="front")
    full = render_maps(extract_mesh(flex), fit.camera)
    rims = []
    for active in (torch.ones_like(fit.active), fit.active, add_halo(voxels, fit.active, 1)):
        rims.append(rim_report(full, render_maps(extract_mesh(flex, active), fit.camera)).fraction)
    assert rims[0] == 0
    assert rims[1] > 0.002
    assert rims[2] < 0.3 * rims[1], rims
