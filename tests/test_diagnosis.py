"""Holes by cause: planted faults are named exactly, and a slow twin made of Python sets agrees on random fields."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch

import sparseflex as sf
from sparseflex.metrics import point_to_triangle_distance
from sparseflex.vae.decisions import (
    Decisions,
    LevelCounts,
    ThresholdCurve,
    cells_of,
    count_decisions,
    holds_point,
)  # fmt: skip
from sparseflex.vae.diagnosis import Cause, Diagnosis, diagnose, open_edges

Ijk = tuple[int, int, int]
COVERED, NO_INPUT, PRUNED_1, PRUNED_2, NO_SIGN_CHANGE, MISSING = (int(cause) for cause in Cause)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decoded(
    voxels: sf.SparseVoxels, logits_1: Callable, logits_2: Callable, sdf: Callable, thresholds=(0.0, 0.0)
) -> tuple[list[Decisions], sf.SparseFlex]:
    """What a network would have decided: logits as functions of the children, an SDF of the corners in voxel units."""
    levels, parents = [], voxels
    for logits_of, threshold in zip((logits_1, logits_2), thresholds, strict=True):
        children = parents.subdivide()
        logits = logits_of(children.voxel_ijk).float()
        levels.append(Decisions(children, logits, logits >= threshold, threshold))
        parents = children.prune(logits >= threshold)
    return levels, sf.SparseFlex.from_sdf(parents, sdf(parents.corner_ijk).float())


# -- a flat sheet with planted faults ------------------------------------------------------------------------------

R = 8
SIDE = 4 * R
LAYER = 13  # of the final voxels that the sheet passes through, at its middle
FIRST, END = 4, 28  # of the final voxels, along x and y


def all_kept(ijk):
    return torch.ones(len(ijk))


def logits_at(z: int, dropped: tuple[int, int] | None = None, logit: float = -0.25):
    """Keeps the children of a layer, but for the dropped column."""

    def logits(ijk):
        found = torch.where(ijk[:, 2] == z, 2.0, -3.0)
        if dropped is not None:
            found[(ijk[:, 0] == dropped[0]) & (ijk[:, 1] == dropped[1]) & (ijk[:, 2] == z)] = logit
        return found

    return logits


def sheet(without_input: Ijk | None = None, drop_1=None, drop_2=None, patch: set[tuple[int, int]] = frozenset(),
          thresholds=(0.0, 0.0)):
    """The sheet z = LAYER + ½ on [FIRST, END)² as its voxels, its decisions, and its field; one voxel thick at last."""
    rows = [(x, y, LAYER // 4) for x in range(FIRST // 4, END // 4) for y in range(FIRST // 4, END // 4)]
    voxels = sf.SparseVoxels(torch.tensor([row for row in rows if row != without_input]), R)

    def sdf(ijk):
        height = ijk[:, 2] - (LAYER + 0.5)
        turned = torch.tensor([(x, y) in patch for x, y, _ in ijk.tolist()], dtype=torch.bool)
        return torch.where(turned, height.abs(), height)

    levels, flex = decoded(voxels, logits_at(LAYER // 2, drop_1), logits_at(LAYER, drop_2), sdf, thresholds)
    return voxels, levels, flex


def sheet_points(n_points: int = 6000, low: float = FIRST, high: float = END) -> torch.Tensor:
    """Points on the sheet, in final voxels."""
    xy = torch.rand(n_points, 2, generator=seeded(0), dtype=torch.float64) * (high - low) + low
    return torch.cat([xy, torch.full((n_points, 1), LAYER + 0.5, dtype=torch.float64)], dim=1)


def world(places: torch.Tensor) -> torch.Tensor:
    return places / SIDE - 0.5


def within(places: torch.Tensor, low: tuple[float, float], high: tuple[float, float]) -> torch.Tensor:
    """Half open."""
    return ((places[:, :2] >= torch.tensor(low)) & (places[:, :2] < torch.tensor(high))).all(dim=1)


INNER = (FIRST + 0.5, FIRST + 0.5), (END - 0.5, END - 0.5)


def assert_hole(found: Diagnosis, places: torch.Tensor, low: tuple[int, int], size: int, cause: int) -> torch.Tensor:
    """The points of a square of voxels have the cause; those of the half voxel around it, where the faces to it lack,
    miss a neighbour for that cause; all others are covered, but for the rim of the sheet, beyond which there never was
    anything. Returns which points are in the square."""
    high = low[0] + size, low[1] + size
    inside = within(places, low, high)
    hole = within(places, (low[0] - 0.5, low[1] - 0.5), (high[0] + 0.5, high[1] + 0.5))
    expected, neighbours = torch.zeros(len(places)).int(), torch.zeros(len(places)).int()
    rim = ~within(places, *INNER)
    expected[rim], neighbours[rim] = MISSING, NO_INPUT
    expected[hole], neighbours[hole] = MISSING, cause
    expected[inside], neighbours[inside] = cause, 0
    assert int(inside.sum()) > 0 and int((hole & ~inside).sum()) > 0 and int((expected == COVERED).sum()) > 1000
    assert found.causes.tolist() == expected.tolist()
    assert found.neighbour_causes.tolist() == neighbours.tolist()
    return inside


def test_a_sheet_without_faults_is_covered_but_for_its_rim():
    voxels, levels, flex = sheet()
    places = sheet_points()
    found = diagnose(world(places), voxels, levels, flex)
    inner = within(places, *INNER)
    assert torch.equal(found.causes == COVERED, inner)
    assert set(found.causes[~inner].tolist()) == {MISSING}
    assert set(found.neighbour_causes[~inner].tolist()) == {NO_INPUT}
    assert found.counts[Cause.COVERED] == int(inner.sum()) and sum(found.counts.values()) == len(places)
    assert found.neighbour_counts == {Cause.NO_INPUT_VOXEL: int((~inner).sum()), Cause.PRUNED_1: 0, Cause.PRUNED_2: 0}
    assert bool(found.pruned_logits.isnan().all())
    mesh = sf.extract_mesh(flex)
    assert mesh.n_faces == 2 * (END - FIRST - 1) ** 2 and open_edges(mesh) == 4 * (END - FIRST - 1)


def test_a_missing_input_voxel_is_named():
    voxels, levels, flex = sheet(without_input=(3, 4, LAYER // 4))
    places = sheet_points()
    found = diagnose(world(places), voxels, levels, flex)
    assert_hole(found, places, (12, 16), 4, NO_INPUT)
    assert bool(found.pruned_logits.isnan().all())


@pytest.mark.parametrize(("level", "column", "threshold"), [(1, (6, 9), 0.0), (2, (17, 10), 0.0), (2, (17, 10), -0.2)])
def test_one_child_with_too_low_a_logit_is_named(level, column, threshold):
    drop = {f"drop_{level}": column}
    voxels, levels, flex = sheet(**drop, thresholds=(threshold, threshold))
    places = sheet_points(20_000)
    found = diagnose(world(places), voxels, levels, flex)
    size = 3 - level
    inside = assert_hole(found, places, (size * column[0], size * column[1]), size, (PRUNED_1, PRUNED_2)[level - 1])
    assert set(found.pruned_logits[inside].tolist()) == {-0.25} and bool(found.pruned_logits[~inside].isnan().all())
    assert found.pruned_logits[inside].max() < levels[level - 1].threshold
    assert open_edges(sf.extract_mesh(flex)) > 4 * (END - FIRST - 1)
    # a threshold that lets it pass mends it
    voxels, levels, flex = sheet(**drop, thresholds=(-0.3, -0.3))
    assert diagnose(world(places), voxels, levels, flex).counts[Cause.MISSING_NEIGHBOUR] == int(
        (~within(places, *INNER)).sum())


def extracted_faces(flex: sf.SparseFlex) -> int:
    return sf.extract_mesh(flex).n_faces


def test_a_patch_of_positive_sdf_is_named():
    low, high = 10, 18  # corners
    patch = set(itertools.product(range(low, high + 1), repeat=2))
    voxels, levels, flex = sheet(patch=patch)
    places = sheet_points(20_000)
    found = diagnose(world(places), voxels, levels, flex)
    # signs change along the rim of the patch, a corner outside it: a voxel on, none of the 26 around has a surface
    deep = within(places, (low + 1, low + 1), (high - 1, high - 1))
    assert int(deep.sum()) > 500 and torch.equal(found.causes == NO_SIGN_CHANGE, deep)
    assert torch.equal(found.causes == COVERED, within(places, *INNER) & ~deep)
    whole = extracted_faces(sheet()[2])
    assert extracted_faces(flex) == whole - 2 * len(patch)


def test_everything_pruned_names_the_level():
    points = world(sheet_points(100))
    nothing, everything = (lambda ijk: torch.full((len(ijk),), -1.5)), (lambda ijk: torch.ones(len(ijk)))
    voxels = sheet()[0]
    for logits, cause in (((nothing, everything), PRUNED_1), ((everything, nothing), PRUNED_2)):
        levels, flex = decoded(voxels, *logits, sdf=lambda ijk: ijk[:, 2] - 1)
        found = diagnose(points, voxels, levels, flex)
        assert flex.voxels.n_voxels == 0 and found.counts[Cause(cause)] == 100
        assert set(found.pruned_logits.tolist()) == {-1.5}
    empty = sf.SparseVoxels(torch.zeros(0, 3, dtype=torch.int64), R)
    levels, flex = decoded(empty, everything, everything, sdf=lambda ijk: ijk[:, 2] - 1)
    assert diagnose(points, empty, levels, flex).counts[Cause.NO_INPUT_VOXEL] == 100


def test_odd_points():
    voxels, levels, flex = sheet()
    nan = torch.tensor([[float("nan"), 0, 0], [0, float("inf"), 0], [0.51, 0, 0], [-0.6, -0.6, -0.6], [0, 0, 0.7]])
    assert diagnose(nan, voxels, levels, flex).counts[Cause.NO_INPUT_VOXEL] == 5
    none = diagnose(torch.zeros(0, 3), voxels, levels, flex)
    assert none.causes.shape == (0,) and sum(none.counts.values()) == 0
    full = sf.SparseVoxels.from_keys(torch.arange(8, dtype=torch.int32), 2)
    levels, flex = decoded(full, all_kept, all_kept, sdf=lambda ijk: ijk[:, 0] - 7.5)
    corners = torch.tensor([[0.5, 0.5, 0.5], [-0.5, -0.5, -0.5], [0.5, -0.5, 0.1]])  # in the last voxels and the first
    found = diagnose(corners, full, levels, flex)
    assert found.causes.tolist() == [MISSING, NO_SIGN_CHANGE, MISSING]  # edges at the box's end have no fourth voxel
    assert found.neighbour_causes.tolist() == [NO_INPUT, 0, NO_INPUT]
    # a face that comes up to the border is none for what lies beyond it
    levels, flex = decoded(full, all_kept, all_kept, sdf=lambda ijk: torch.where(ijk[:, 0] < 8, ijk[:, 1] - 3.5, 1.0))
    beside = torch.tensor([[0.49, -0.075, 0.1], [0.51, -0.075, 0.1], [float("nan"), -0.075, 0.1]])
    assert diagnose(beside, full, levels, flex).causes.tolist() == [COVERED, NO_INPUT, NO_INPUT]


def test_levels_that_do_not_follow_are_refused():
    voxels, levels, flex = sheet()
    points = world(sheet_points(10))
    with pytest.raises(ValueError, match="levels must be the two upsamplings, got 1"):
        diagnose(points, voxels, levels[:1], flex)
    other = sf.SparseVoxels(voxels.voxel_ijk.flip(0), R)
    with pytest.raises(ValueError, match="level 1 must have the children of what was kept before it, in their order"):
        diagnose(points, other, levels, flex)
    with pytest.raises(ValueError, match="level 1 must have .*: 8 · 36 at 16, got .* at 32"):
        diagnose(points, voxels, levels[::-1], flex)
    less = flex.section(torch.arange(flex.voxels.n_voxels) > 0)
    with pytest.raises(ValueError, match=f"flex must be on the {flex.voxels.n_voxels} voxels kept last, got"):
        diagnose(points, voxels, levels, less)
    with pytest.raises(ValueError, match=r"kept must have shape \(288,\), got \(3,\)"):
        Decisions(levels[0].children, levels[0].occupancy_logits, torch.ones(3, dtype=torch.bool))


# -- a slow twin -----------------------------------------------------------------------------------------------------


def add(a: Ijk, b: Ijk, sign: int = 1) -> Ijk:
    return tuple(x + sign * y for x, y in zip(a, b, strict=True))


UNIT = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
BITS = list(itertools.product((0, 1), repeat=3))
AROUND = list(itertools.product((-1, 0, 1), repeat=3))


class Twin:
    """The same by the words of its description, one voxel and one edge at a time."""

    def __init__(self, voxels, levels, flex) -> None:
        self.side = flex.voxels.resolution
        self.input = {tuple(row) for row in voxels.voxel_ijk.tolist()}
        self.kept = [dict(zip(map(tuple, level.children.voxel_ijk.tolist()), level.kept.tolist(), strict=True))
                     for level in levels]
        self.final = {tuple(row) for row in flex.voxels.voxel_ijk.tolist()}
        negative = dict(zip(map(tuple, flex.voxels.corner_ijk.tolist()), (flex.corner_sdf < 0).tolist(), strict=True))
        self.edges = {}
        for voxel in self.final:
            for edge in self.edges_of(voxel):
                corner, axis = edge
                if negative[corner] != negative[add(corner, UNIT[axis])]:
                    lost = [self.fate(cell) for cell in self.voxels_around(edge)]
                    self.edges[edge] = min((fate for fate in lost if fate), default=4)

    def edges_of(self, voxel: Ijk):
        return [(add(voxel, bits), axis) for bits in BITS for axis in range(3) if not bits[axis]]

    def voxels_around(self, edge):
        corner, axis = edge
        return [add(corner, bits, -1) for bits in BITS if not bits[axis]]

    def fate(self, cell: Ijk) -> int:
        if tuple(x >> 2 for x in cell) not in self.input:
            return NO_INPUT
        if not self.kept[0][tuple(x >> 1 for x in cell)]:
            return PRUNED_1
        return COVERED if self.kept[1][cell] else PRUNED_2

    def place(self, edges) -> int:
        return max((self.edges[edge] for edge in edges if edge in self.edges), default=0)

    def judge(self, point: list[float]) -> tuple[int, int]:
        scaled = [(x + 0.5) * self.side for x in point]
        if not all(0 <= x <= self.side for x in scaled):
            return NO_INPUT, 0
        cell = tuple(min(math.floor(x), self.side - 1) for x in scaled)
        corner = tuple(math.floor(x + 0.5) for x in scaled)
        value = self.place([(corner, axis) for axis in range(3)] + [(add(corner, UNIT[a], -1), a) for a in range(3)])
        value = value or self.place(self.edges_of(cell))
        value = value or self.place([edge for step in AROUND if add(cell, step) in self.final
                                     for edge in self.edges_of(add(cell, step))])
        if value == 4:
            return COVERED, 0
        if self.fate(cell):
            return self.fate(cell), 0
        return (MISSING, value) if value else (NO_SIGN_CHANGE, 0)


@pytest.mark.parametrize("seed", range(12))
def test_random_fields_against_the_twin(seed):
    """Sparse and dense sets, rough and smooth fields; the order of the input voxels is any."""
    generator = seeded(seed)
    keep, smooth = (0.5, 0.8, 0.95, 1.0)[seed % 4], seed // 4
    ijk = torch.cartesian_prod(*[torch.arange(3)] * 3)
    ijk = ijk[torch.rand(len(ijk), generator=generator) < keep]
    voxels = sf.SparseVoxels(ijk[torch.randperm(len(ijk), generator=generator)], 3)

    def logits(ijk):
        return keep - torch.rand(len(ijk), generator=generator)

    def sdf(ijk):
        noise = torch.randn(len(ijk), generator=generator)
        return (noise, noise - 1.6, (ijk - 6).float().norm(dim=1) - 4.2)[smooth]

    levels, flex = decoded(voxels, logits, logits, sdf)
    points = torch.rand(700, 3, generator=generator, dtype=torch.float64) - 0.5
    points[:150] = (points[:150] * 12).round() / 12  # on corners and in the middle of voxels
    points[150:200] = (points[150:200] * 24).round() / 24
    found = diagnose(points, voxels, levels, flex)
    twin = Twin(voxels, levels, flex)
    expected = [twin.judge(point) for point in points.tolist()]
    assert list(zip(found.causes.tolist(), found.neighbour_causes.tolist(), strict=True)) == expected
    # and the faces that the lattice tells of are those of the extraction
    assert sf.extract_mesh(flex).n_faces == 2 * sum(value == 4 for value in twin.edges.values())
    pruned = (found.causes == PRUNED_1) | (found.causes == PRUNED_2)
    assert torch.equal(~found.pruned_logits.isnan(), pruned) and bool((found.pruned_logits[pruned] < 0).all())


def test_all_causes_come_up_in_the_twin_s_fields():
    """Else the test above would say little."""
    seen = set()
    for seed in range(4):
        generator = seeded(seed)
        voxels = sf.SparseVoxels(torch.cartesian_prod(*[torch.arange(3)] * 3)[seed:], 3)
        levels, flex = decoded(voxels, lambda ijk: torch.rand(len(ijk), generator=generator) - 0.1,  # noqa: B023
                               lambda ijk: torch.rand(len(ijk), generator=generator) - 0.3,  # noqa: B023
                               lambda ijk: torch.randn(len(ijk), generator=generator) - 1.9)  # noqa: B023
        points = torch.rand(700, 3, generator=generator) - 0.5
        seen |= set(diagnose(points, voxels, levels, flex).causes.tolist())
    assert seen == set(range(6))


def test_coverage_is_about_distance():
    """On a sphere with voxels taken out of it: all that is covered has a triangle within a voxel, most of what is not
    has none as near as the surface is elsewhere."""
    side = 48
    points = torch.nn.functional.normalize(torch.randn(4000, 3, generator=seeded(1), dtype=torch.float64)) * 0.35
    voxels = sf.SparseVoxels.from_points(points, side // 4).dilate()
    generator = seeded(2)

    def near(ijk):
        resolution = side // 2 if int(ijk.max()) < side // 2 else side
        distance = ((ijk + 0.5) / resolution - 0.5).norm(dim=1) - 0.35
        return torch.where(distance.abs() < 1.5 / resolution, 1.0, -1.0)

    def near_with_holes(ijk):
        return torch.where(torch.rand(len(ijk), generator=generator) < 0.03, -1.0, near(ijk))

    def sdf(ijk):
        return (ijk / side - 0.5).norm(dim=1) - 0.35

    whole = diagnose(points, voxels, *decoded(voxels, near, near, sdf))
    assert whole.counts[Cause.COVERED] == len(points)
    levels, flex = decoded(voxels, near, near_with_holes, sdf)
    found = diagnose(points, voxels, levels, flex)
    distance = point_to_triangle_distance(points, sf.extract_mesh(flex)) * side
    lost = found.causes != COVERED
    assert 100 < int(lost.sum()) < 1500 and found.counts[Cause.PRUNED_2] > 50
    assert float(distance[~lost].max()) < 1
    assert float((distance[lost] > 0.1).double().mean()) > 0.75 and float((distance[~lost] < 0.1).double().mean()) > 0.9


# -- decisions against the truth -----------------------------------------------------------------------------------


def test_holds_point_against_a_loop():
    points = torch.rand(200, 3, generator=seeded(3)) - 0.5
    points[0], points[1] = 0.5, -0.5
    voxels = sf.SparseVoxels.from_keys(torch.arange(6**3, dtype=torch.int32)[::2].clone(), 6)
    cells = {tuple(min(math.floor((x + 0.5) * 6), 5) for x in point) for point in points.double().tolist()}
    assert {tuple(row) for row in cells_of(points, 6).tolist()} == cells
    assert holds_point(voxels, points).tolist() == [tuple(row) in cells for row in voxels.voxel_ijk.tolist()]
    odd = torch.tensor([[float("nan"), 0, 0], [0.6, 0, 0], [0, -0.51, 0]])
    assert not bool(holds_point(voxels, odd).any())
    assert holds_point(voxels, points[:0]).sum() == 0
    assert holds_point(voxels.prune(voxels.keys < 0), points).shape == (0,)


def test_counts_of_decisions():
    kept = torch.tensor([1, 1, 1, 0, 0, 0, 0], dtype=torch.bool)
    truth = torch.tensor([1, 1, 0, 1, 0, 0, 0], dtype=torch.bool)
    assert count_decisions(kept, truth) == LevelCounts(3, 4, 1, 1, 2 / 3, 2 / 3)
    found = count_decisions(kept & False, truth)
    assert found[:4] == (0, 7, 0, 3) and math.isnan(found.precision) and found.recall == 0
    found = count_decisions(kept, truth & False)
    assert found[:4] == (3, 4, 3, 0) and found.precision == 0 and math.isnan(found.recall)
    assert math.isnan(count_decisions(kept[:0], truth[:0]).recall)


@pytest.mark.parametrize("n", [0, 1, 5, 300])
def test_counts_as_functions_of_the_threshold_against_a_loop(n):
    generator = seeded(n)
    logits = (torch.randn(n, generator=generator) * 4).round() / 2  # many ties
    truth = torch.rand(n, generator=generator) < torch.sigmoid(logits)
    if n > 1:
        logits[1], truth[1] = float("nan"), True
    curve = ThresholdCurve.of(logits, truth)
    some = torch.tensor([0.0, -0.01, 0.01, float("inf"), -float("inf"), 3.0])
    thresholds = torch.cat([some, logits[~logits.isnan()]])
    for found in (curve.at(thresholds), curve.curve(7)):
        for row, threshold in enumerate(found.thresholds.tolist()):
            slow = count_decisions(logits >= threshold, truth)
            fast = [float(column[row]) for column in found[1:]]
            wanted = [slow.n_kept, slow.n_wrongly_kept, slow.n_wrongly_pruned, slow.precision, slow.recall]
            torch.testing.assert_close(torch.tensor(fast), torch.tensor(wanted), equal_nan=True)
    ascending = curve.curve(7).thresholds
    assert len(ascending) <= min(7, n) and bool((ascending[1:] >= ascending[:-1]).all())
    if n > 1:
        assert int(curve.curve(7).n_kept[0]) == n - 1  # all but the NaN
        with pytest.raises(ValueError, match="truth must have shape"):
            ThresholdCurve.of(logits, truth[1:])
