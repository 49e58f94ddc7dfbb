"""Changes between two iterations: planted ones are named exactly, slow twins agree, states come from stops or files."""

from __future__ import annotations

import csv
import dataclasses
import gc
import json
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_inference import FakeInference
from fake_run import FakeRun
from fake_ui import FakeUi
from fit_snapshots import small_fit, snapshot_of, with_fields
from recording_files import RunBuilder

from sparseflex.extraction import extract_mesh
from sparseflex.representation import SparseFlex
from sparseflex.training.faults import Fault
from sparseflex.training.fit import FitRun
from sparseflex.voxels import CORNER_OFFSETS, SparseVoxels
from workbench import actions, cli, products
from workbench.change_report import summary, table_of, text_of, write_lists
from workbench.change_state import COMPARED, FIELDS, State, faces_of, voxels_around
from workbench.change_view import BEFORE, FORGET_BYTES, ITERATION, KEPT_STATE, MAX_THRESHOLD, PANEL
from workbench.changes import (
    CHANGED,
    HEALED,
    INWARD,
    OUTWARD,
    PARTS,
    SPOILED,
    Changes,
    compare,
)
from workbench.commands import ChangeSetting, NextIteration, RunIterations
from workbench.look_up import LookUpFields
from workbench.network_view import Picked
from workbench.panels import changes as panel
from workbench.recording.reader import Recording
from workbench.snapshot import Snapshot
from workbench.source import Replay
from workbench.view_state import ViewState

WAIT_SECS = 60.0
RESOLUTION = 16


@pytest.fixture
def view() -> Iterator[ViewState]:
    state = ViewState()
    state.tabs = {"left": PANEL, "right": "Plots"}
    yield state
    state.stop_workers()


def shell(resolution: int = RESOLUTION, radius: float = 0.35, width: float = 1.6) -> SparseVoxels:
    """The voxels around a sphere."""
    cells = torch.arange(resolution)
    ijk = torch.stack(torch.meshgrid(cells, cells, cells, indexing="ij"), -1).reshape(-1, 3)
    distance = ((ijk + 0.5) / resolution - 0.5).norm(dim=1) - radius
    return SparseVoxels(ijk[distance.abs() < width / resolution], resolution)


def state_of(voxels: SparseVoxels, sdf: np.ndarray | None = None, deform: np.ndarray | None = None, **more: np.ndarray
             ) -> State:
    sdf = (voxels.corners_world.norm(dim=1) - 0.35).numpy() if sdf is None else sdf
    deform = 0.3 * np.sin(voxels.corner_ijk.numpy() * np.float32(1.3)).astype(np.float32) if deform is None else deform
    return State(voxels, {"corner_sdf": sdf, "corner_deform": deform, **more})


def random_state(seed: int, resolution: int = 6, n: int = 120) -> State:
    """Voxels, signs and weights without any order: with ambiguous cases, holes and lone voxels."""
    generator = torch.Generator().manual_seed(seed)
    ijk = torch.stack([part for part in torch.unravel_index(
        torch.randperm(resolution**3, generator=generator)[:n], (resolution,) * 3)], dim=1)
    voxels = SparseVoxels(ijk, resolution)
    draw = np.random.default_rng(seed)
    arrays = {name: draw.normal(size=shape).astype(np.float32) for name, shape in
              (("corner_sdf", voxels.n_corners), ("corner_deform", (voxels.n_corners, 3)))}
    arrays |= {"alpha": draw.uniform(0.5, 1.5, (n, 8)), "beta": draw.uniform(0.5, 1.5, (n, 12)),
               "gamma": draw.uniform(0.1, 0.9, n)}
    return State(voxels, {name: array.astype(np.float32) for name, array in arrays.items()})


def without(state: State, rows: list[int]) -> State:
    """The state as it is once these voxels are pruned."""
    kept = torch.ones(state.voxels.n_voxels, dtype=torch.bool)
    kept[rows] = False
    voxels = state.voxels.prune(kept)
    corners = state.voxels.find_corners(voxels.corner_ijk).numpy()
    return State(voxels, {name: array[corners] if name in COMPARED else array[kept.numpy()]
                          for name, array in state.arrays.items()})


def ijk_of(found: Changes, part: str, threshold: float = 0.01) -> set[tuple[int, ...]]:
    voxels, rows = found.rows(part, threshold)
    return {tuple(row) for row in voxels.voxel_ijk[rows].tolist()}


def corner_set(found: Changes, bit: int) -> set[int]:
    return set(found.corner_b[found.corners(bit)].tolist())


def voxels_of_corners(voxels: SparseVoxels, corners: set[int]) -> set[tuple[int, ...]]:
    """Those that have one of these corners, one voxel at a time."""
    return {tuple(ijk) for ijk, rows in zip(voxels.voxel_ijk.tolist(), voxels.voxel_corners.tolist(), strict=True)
            if corners & set(rows)}


def slow_quads(state: State) -> dict[tuple[int, ...], bool]:
    """Edges (lower corner, axis) with a quad, and whether the lower corner is inside; edge by edge, with dicts."""
    inside = {tuple(ijk): bool(value < 0) for ijk, value in
              zip(state.voxels.corner_ijk.tolist(), state.arrays["corner_sdf"].tolist(), strict=True)}
    voxels = {tuple(ijk) for ijk in state.voxels.voxel_ijk.tolist()}
    found = {}
    for corner in inside:
        for axis in range(3):
            upper = tuple(part + (k == axis) for k, part in enumerate(corner))
            if upper not in inside or inside[upper] == inside[corner]:
                continue
            u, v = (k for k in range(3) if k != axis)
            around = {tuple(part - (k == u) * s - (k == v) * t for k, part in enumerate(corner))
                      for s in (0, 1) for t in (0, 1)}
            if around <= voxels:
                found[(*corner, axis)] = inside[corner]
    return found


def edge_set(keys: np.ndarray, resolution: int) -> set[tuple[int, ...]]:
    from workbench.change_state import edges_of

    corner, axis = edges_of(keys, resolution)
    return {(*ijk, number) for ijk, number in zip(corner.tolist(), axis.tolist(), strict=True)}


# Planted changes


def test_nothing_changes_where_nothing_does() -> None:
    state = state_of(shell())
    turned = state.voxels.voxel_ijk.flip(0)  # the same voxels in another order
    for other in (state, State(SparseVoxels(turned, RESOLUTION), state.arrays)):
        found = compare(state, other)
        assert found.counts(0.0) == {**dict.fromkeys(PARTS, 0), "same": state.voxels.n_voxels}
        assert set(found.n_corners_of.values()) == {0} and not found.note and found.one_lattice
        assert len(found.gained) == len(found.lost) == len(found.turned) == 0 and len(state.quads.keys) > 300
        assert found.histograms["corner_sdf"][1] == state.voxels.n_corners


def test_voxels_removed_are_named_with_the_holes_that_they_leave() -> None:
    state = state_of(shell())
    around = voxels_around(state.quads.keys, RESOLUTION)
    surface = state.voxels.find(torch.from_numpy(around.reshape(-1, 3))).reshape(-1, 4)
    gone = surface[[5, 90], [0, 3]].tolist()
    found = compare(state, without(state, gone))
    assert ijk_of(found, "pruned") == {tuple(state.voxels.voxel_ijk[row].tolist()) for row in gone}
    assert len(found.born) == 0 and len(found.gained) == len(found.turned) == 0
    holes = {n for n, rows in enumerate(surface.tolist()) if set(rows) & set(gone)}
    assert edge_set(found.lost, RESOLUTION) == edge_set(state.quads.keys[sorted(holes)], RESOLUTION)
    assert 5 in holes and 90 in holes and found.n_lost_by_sign == 0  # voxels lack, no sign has flipped
    assert found.counts(0.0)["same"] == state.voxels.n_voxels - 2 and not any(found.n_corners_of.values())
    back = compare(found.b, found.a)
    assert ijk_of(back, "born") == ijk_of(found, "pruned") and set(back.gained) == set(found.lost)
    assert back.n_gained_by_sign == 0 and len(back.pruned) == len(back.lost) == 0


def test_a_patch_flipped_is_named_corner_by_corner() -> None:
    state = state_of(shell())
    distance = (state.voxels.corners_world - torch.tensor([0.35, 0.0, 0.0])).norm(dim=1).numpy()
    patch = set(np.flatnonzero(distance < 0.12).tolist())
    assert 10 < len(patch) < 60
    sdf = state.sdf.copy()
    sdf[sorted(patch)] *= -1
    found = compare(state, state_of(state.voxels, sdf))
    inside = {row for row in patch if state.sdf[row] < 0}
    assert corner_set(found, OUTWARD) == inside and corner_set(found, INWARD) == patch - inside
    assert corner_set(found, CHANGED) == patch and not found.n_corners_of[SPOILED]
    assert ijk_of(found, "flipped") == voxels_of_corners(state.voxels, patch)
    assert found.counts(0.0)["moved"] == found.counts(0.0)["sdf"] == 0
    before, after = slow_quads(state), slow_quads(found.b)
    assert edge_set(found.turned, RESOLUTION) == {edge for edge in before.keys() & after.keys()
                                                  if before[edge] != after[edge]}
    assert len(found.turned) > 5  # the patch is inside out
    top = found.top("flipped", 0.01, 4)
    assert len(top) == 4 and all(tuple(state.voxels.voxel_ijk[row].tolist()) in ijk_of(found, "flipped")
                                 for row, _, _ in top)
    assert [sizes[2] for sizes in top] == sorted((sizes[2] for sizes in top), reverse=True)


def test_zero_counts_as_outside_like_in_extraction() -> None:
    state = state_of(shell())
    inside, outside = int(np.argmin(state.sdf)), int(np.argmax(state.sdf))
    sdf = state.sdf.copy()
    sdf[[inside, outside]] = 0.0
    found = compare(state, state_of(state.voxels, sdf))
    assert corner_set(found, OUTWARD) == {inside} and corner_set(found, INWARD) == set()


def test_corners_moved_are_named_with_how_far() -> None:
    state = state_of(shell())
    far, near = 17, 401
    deform = state.deform.copy()
    deform[far], deform[near, 1] = np.arctanh([0.6, -0.4, 0.2]), deform[near, 1] + 1e-3
    found = compare(state, state_of(state.voxels, None, deform))
    before = 0.5 * np.tanh(state.deform[far].astype(np.float64))
    expected = float(np.linalg.norm(np.array([0.3, -0.2, 0.1]) - before))
    assert found.d_deform[far] == pytest.approx(expected, abs=1e-6) and corner_set(found, CHANGED) == {far, near}
    assert ijk_of(found, "moved") == voxels_of_corners(state.voxels, {far})
    assert ijk_of(found, "moved", 0.0) == voxels_of_corners(state.voxels, {far, near})
    assert ijk_of(found, "moved", 2.0) == set() and len(found.gained) == len(found.lost) == 0
    _, deform_there, sdf_there = found.top("moved", 0.01, 1)[0]
    assert deform_there == pytest.approx(expected, abs=1e-6) and sdf_there == 0.0
    counts, n_zero = found.histograms["corner_deform"]
    assert counts.sum() == 2 and n_zero == state.voxels.n_corners - 2


def test_sdf_values_that_change_are_a_category_of_their_own() -> None:
    state = state_of(shell())
    row = int(np.argmax(state.sdf))
    sdf = state.sdf.copy()
    sdf[row] += 0.5 / RESOLUTION
    found = compare(state, state_of(state.voxels, sdf))
    assert ijk_of(found, "sdf") == voxels_of_corners(state.voxels, {row})
    assert found.d_sdf[row] == pytest.approx(0.5, abs=1e-5) and np.count_nonzero(found.d_sdf) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_becomes_nan_is_named_and_no_flip(bad: float) -> None:
    state = state_of(shell())
    inside = int(np.argmin(state.sdf))
    sdf, deform = state.sdf.copy(), state.deform.copy()
    sdf[inside], deform[100, 2] = bad, bad
    found = compare(state, state_of(state.voxels, sdf, deform))
    assert corner_set(found, SPOILED) == {inside, 100} and not found.n_corners_of[OUTWARD]
    assert ijk_of(found, "spoiled") == voxels_of_corners(state.voxels, {inside, 100})
    assert np.isnan(found.d_sdf[inside]) and np.isnan(found.d_deform[100]) and np.isfinite(found.voxel_sdf).all()
    back = compare(found.b, found.a)
    assert corner_set(back, HEALED) == {inside, 100} and not back.n_corners_of[SPOILED]
    still = compare(found.b, found.b)
    assert not any(still.n_corners_of.values()) and still.counts(0.0)["same"] == state.voxels.n_voxels
    assert len(faces_of(found.b, found.b.quads.keys).faces) <= 2 * len(found.b.quads.keys)


def test_weights_that_become_nan_are_named() -> None:
    a, b = (random_state(5) for _ in range(2))
    for name, row, column in (("alpha", 7, 3), ("beta", 60, 11), ("gamma", 8, ())):
        b.arrays[name][(row, column) if column else row] = np.nan
    a.arrays["alpha"][20, 0] = b.arrays["alpha"][20, 0] = np.inf  # as before
    found = compare(a, b)
    assert ijk_of(found, "spoiled") == {tuple(a.voxels.voxel_ijk[row].tolist()) for row in (7, 8, 60)}
    assert found.n_weights_spoiled == 3 and not found.n_corners_of[SPOILED]
    assert "3  of which by" in text_of(summary(found, 0.0)) and compare(b, a).n_weights_spoiled == 0
    with pytest.raises(ValueError, match="gamma must have 120 rows, got 4"):
        compare(a, dataclasses.replace(b, arrays={**b.arrays, "gamma": np.zeros(4, np.float32)}))


def test_a_scenes_planted_faults_are_named(view: ViewState) -> None:
    """Flipped SDF and weights of NaN strike as iteration 1 of a fit ends: with and without them only they differ."""
    faults = (Fault("flipped_sdf", x=0.4, radius=0.13, iteration=1), Fault("nan_weights", y=0.4, iteration=1))
    plain = small_fit()
    twins = [snapshot_of(FitRun(plain.target, plain.config, faults=listed), RunIterations(1), iteration=1)
             for listed in ((), faults)]
    own = view.changes
    for snapshot in twins:
        own.update(view, snapshot)
    voxels = twins[0].fields["voxels"]
    ball = set(faults[0].rows(voxels.corners_world).tolist())
    assert len(ball) > 5 and corner_set(own.found, CHANGED) == ball
    assert corner_set(own.found, OUTWARD) | corner_set(own.found, INWARD) == ball and len(own.found.turned) > 0
    nearest = int((voxels.centers - torch.tensor([0.0, 0.4, 0.0])).norm(dim=1).argmin())
    assert ijk_of(own.found, "spoiled") == {tuple(voxels.voxel_ijk[nearest].tolist())}


def test_a_fit_stepped_once_changes_its_active_set_alone() -> None:
    fit = small_fit(visibility_ratio=0.3)
    states = []
    for _ in range(2):
        states.append(State(fit.read_field("voxels"), {name: fit.read_field(name).detach().numpy().copy()
                                                       for name in COMPARED}))
        for stage in fit.stages[: len(fit.stages) if len(states) == 1 else 0]:
            fit.run_stage(stage)
            if stage == "activate":
                active = fit.read_field("active")
    found = compare(*states)
    allowed = set(states[0].voxels.voxel_corners[active.cpu()].reshape(-1).tolist())
    touched = corner_set(found, CHANGED)
    assert touched and touched <= allowed and len(allowed) < states[0].voxels.n_corners
    assert corner_set(found, OUTWARD) | corner_set(found, INWARD) <= touched


# Slow twins


@pytest.mark.parametrize("seed", range(4))
def test_everything_agrees_with_a_slow_twin(seed: int) -> None:
    a, b = random_state(seed), random_state(seed + 100)
    if seed == 3:
        b = dataclasses.replace(b, voxels=a.voxels, arrays={**a.arrays, "corner_sdf": a.sdf[::-1].copy()})
    found = compare(a, b)
    voxels = [{tuple(ijk): row for row, ijk in enumerate(state.voxels.voxel_ijk.tolist())} for state in (a, b)]
    corners = [{tuple(ijk): row for row, ijk in enumerate(state.voxels.corner_ijk.tolist())} for state in (a, b)]
    assert ijk_of(found, "born") == voxels[1].keys() - voxels[0].keys()
    assert ijk_of(found, "pruned") == voxels[0].keys() - voxels[1].keys()
    flips, ways, jumps = {}, {}, {}
    for ijk in corners[0].keys() & corners[1].keys():
        rows = corners[0][ijk], corners[1][ijk]
        before, after = a.sdf[rows[0]], b.sdf[rows[1]]
        flips[ijk] = OUTWARD if before < 0 <= after else INWARD if after < 0 <= before else 0
        ways[ijk] = 0.5 * np.linalg.norm(np.tanh(b.deform[rows[1]].astype(float)) - np.tanh(a.deform[rows[0]]))
        jumps[ijk] = (after - before) * 6
    where = [tuple(ijk) for ijk in b.voxels.corner_ijk[found.corner_b].tolist()]
    assert where == [tuple(ijk) for ijk in a.voxels.corner_ijk[found.corner_a].tolist()] and set(where) == set(flips)
    assert [flips[ijk] for ijk in where] == (found.flags & (OUTWARD | INWARD)).tolist()
    np.testing.assert_allclose(found.d_deform, [ways[ijk] for ijk in where], atol=1e-6)
    np.testing.assert_allclose(found.d_sdf, [jumps[ijk] for ijk in where], rtol=1e-5, atol=1e-5)
    for row_a, row_b, bits, way, jump in zip(found.common_a.tolist(), found.common_b.tolist(), found.voxel_flags,
                                             found.voxel_deform, found.voxel_sdf, strict=True):
        ijk = tuple(b.voxels.voxel_ijk[row_b].tolist())
        assert voxels[0][ijk] == row_a
        eight = [tuple(np.add(ijk, offset).tolist()) for offset in CORNER_OFFSETS]
        assert way == pytest.approx(max(ways[c] for c in eight), abs=1e-6)
        assert jump == pytest.approx(max(abs(jumps[c]) for c in eight), rel=1e-5)
        assert bool(bits & OUTWARD) == any(flips[c] == OUTWARD for c in eight)
    before, after = slow_quads(a), slow_quads(b)
    assert edge_set(found.gained, 6) == after.keys() - before.keys() and len(found.gained)
    assert edge_set(found.lost, 6) == before.keys() - after.keys() and len(found.lost)
    by_sign = sum(_uncrossed(corners[0], a, edge) for edge in after.keys() - before.keys())
    assert found.n_gained_by_sign == by_sign
    assert found.n_lost_by_sign == sum(_uncrossed(corners[1], b, edge) for edge in before.keys() - after.keys())


def _uncrossed(corners: dict, state: State, edge: tuple[int, ...]) -> bool:
    lower, upper = edge[:3], tuple(part + (k == edge[3]) for k, part in enumerate(edge[:3]))
    if lower not in corners or upper not in corners:
        return False
    return (state.sdf[corners[lower]] < 0) == (state.sdf[corners[upper]] < 0)


def whole_mesh(state: State) -> tuple[np.ndarray, np.ndarray]:
    tensors = {name: torch.from_numpy(array) for name, array in state.arrays.items()}
    mesh = extract_mesh(SparseFlex(state.voxels, **tensors, consistency_loss=torch.zeros(())))
    return mesh.vertices.numpy(), mesh.faces.numpy()


@pytest.mark.parametrize("seed", range(3))
def test_faces_are_those_of_the_whole_surface(seed: int) -> None:
    """Two triangles an edge, in the edges' order, and the same to the last bit in a section around some of them."""
    state = random_state(seed, n=190)
    vertices, faces = whole_mesh(state)
    keys = state.quads.keys
    assert len(faces) == 2 * len(keys) and set(edge_set(keys, 6)) == slow_quads(state).keys()
    corner = np.array(sorted(edge_set(keys, 6)))
    middles = (corner[:, :3] + 0.5 * np.eye(3)[corner[:, 3]]) / 6 - 0.5
    of_quads = vertices[faces].reshape(-1, 6, 3).mean(axis=1)
    assert np.abs(of_quads - middles).max() < 1.01 / 6  # within the four voxels of its own edge
    for chosen in (np.arange(len(keys)), np.array([3]), np.arange(0, len(keys), 7)):
        found = faces_of(state, keys[chosen])
        expected = vertices[faces].reshape(-1, 2, 9)[chosen].reshape(-1, 9)
        assert sorted(map(tuple, found.vertices[found.faces].reshape(-1, 9))) == sorted(map(tuple, expected))
    assert len(faces_of(state, keys[:0]).faces) == 0


# Other resolutions, nothing at all, what doesn't fit


def test_children_are_compared_with_the_cells_that_hold_them() -> None:
    coarse = state_of(shell(8))
    children = coarse.voxels.subdivide()
    kept = torch.ones(children.n_voxels, dtype=torch.bool)
    kept[:8], kept[24:27] = False, False  # all children of one, three of another
    stray = torch.tensor([[0, 0, 0], [15, 15, 15]], dtype=torch.int32)
    fine = state_of(SparseVoxels(torch.cat([children.voxel_ijk[kept], stray]), 16))
    found = compare(coarse, fine)
    assert ijk_of(found, "born") == {(0, 0, 0), (15, 15, 15)} and found.pruned.tolist() == [0]
    assert found.n_left_out == 3 and not found.one_lattice and "8³ and 16³" in found.note
    assert found.gained is None and found.voxel_sdf is None and found.counts(0.0)["same"] == len(found.common_b) == len(
        children.voxel_ijk) - 11
    for row_a, row_b in zip(found.common_a[:50], found.common_b[:50], strict=True):
        assert (fine.voxels.voxel_ijk[row_b] // 2 == coarse.voxels.voxel_ijk[row_a]).all()
    assert (fine.voxels.corner_ijk[found.corner_b] == 2 * coarse.voxels.corner_ijk[found.corner_a]).all()
    assert len(found.corner_a) > 0.9 * coarse.voxels.n_corners and not found.n_corners_of[OUTWARD]
    assert found.top("born", 0.0, 5)[0][0] == found.born[0]
    back = compare(fine, coarse)
    assert ijk_of(back, "pruned") == ijk_of(found, "born") and back.born.tolist() == [0] and back.n_left_out == 3
    assert (back.corner_a == found.corner_b).all()
    apart = compare(coarse, state_of(shell(12)))
    assert "neither lattice" in apart.note and len(apart.common_a) == len(apart.flags) == 0
    assert len(apart.born) == apart.b.voxels.n_voxels
    assert "children left out" in text_of(summary(found, 0.01)) and json.dumps(summary(apart, 0.01))


def test_nothing_at_all_can_be_compared() -> None:
    none = SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), RESOLUTION)
    empty, some = state_of(none), state_of(shell())
    for a, b, part in ((empty, some, "born"), (some, empty, "pruned"), (empty, empty, "same")):
        found = compare(a, b)
        assert found.counts(0.0)[part] == (some.voxels.n_voxels if part != "same" else 0)
        assert found.histograms and found.top(part, 0.0, 3) is not None and table_of(found, 0.0) is not None
        assert len(faces_of(b, found.gained).faces) == 2 * len(found.gained)
    bare = compare(State(some.voxels, {}), State(some.voxels, {}))
    assert bare.d_sdf is None and bare.gained is None and bare.counts(0.0)["same"] == some.voxels.n_voxels
    assert "quads" not in text_of(summary(bare, 0.0)) and bare.histograms == {}


def test_a_field_of_other_voxels_is_refused_by_name() -> None:
    state = state_of(shell())
    with pytest.raises(ValueError, match=r"corner_sdf must have shape \(\d+,\), got \(7,\)"):
        compare(state, State(state.voxels, {"corner_sdf": np.zeros(7, np.float32)}))


# The view: stops, what is kept, recordings, passes of an inference


@pytest.fixture(scope="module")
def steps() -> list[Snapshot]:
    """A fit at rest after iterations 2, 3 and 4."""
    fit = small_fit(visibility_ratio=0.4)
    return [snapshot_of(fit, RunIterations(2) if n == 2 else NextIteration(), iteration=n) for n in (2, 3, 4)]


def test_a_step_is_compared_with_the_stop_before_it(view: ViewState, steps: list[Snapshot]) -> None:
    own = view.changes
    own.threshold = float("nan")  # of a preferences file that was tampered with
    own.update(view, steps[0])
    assert own.threshold == 0.01
    assert own.found is None and "what a step changes" in own.note and own.b.label == "iteration 2"
    own.update(view, steps[1])
    assert (own.a.label, own.b.label) == ("iteration 2", "iteration 3") and own.note == ""
    assert own.found.n_corners_of[CHANGED] > 0
    once = own.found
    own.update(view, steps[1])
    assert own.found is once  # nothing new, nothing done
    moving = dataclasses.replace(steps[2], playing=True)
    own.update(view, moving)
    assert (own.a.label, own.b.label) == ("iteration 3", "iteration 4")
    own.update(view, steps[2])
    assert (own.a.label, own.b.label) == ("iteration 3", "iteration 4")
    own.update(view, steps[0])  # stepped back
    assert (own.a.label, own.b.label) == ("iteration 4", "iteration 2")


def test_a_kept_state_stays_until_it_is_dropped(view: ViewState, steps: list[Snapshot]) -> None:
    own = view.changes
    own.update(view, steps[0])
    own.keep()
    own.update(view, steps[1])
    own.update(view, steps[2])
    assert own.mode == KEPT_STATE and own.found.a.iteration == 2 and own.found.b.iteration == 4
    assert own.n_bytes >= own.kept.n_bytes > 10_000
    view.tabs["left"] = "Layers"
    own.update(view, steps[2])
    assert own.in_scene(view) is own.found  # kept on purpose: it stays in the scene
    view.what_ifs.shown, view.what_ifs.difference = True, object()
    assert own.in_scene(view) is None
    view.what_ifs.shown = False
    own.drop()
    own.update(view, steps[2])
    assert own.found is None and own.mode == BEFORE and not own.wants(view)
    assert own.scene_fields(view, steps[2]) == set()
    view.tabs["left"] = PANEL
    own.update(view, steps[2])
    assert own.found.a.iteration == 3  # stops are remembered where they are small
    view.forget_found()
    assert own.found is None and own.n_bytes == 0


def test_large_stops_are_let_go_where_nobody_looks(view: ViewState, steps: list[Snapshot],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    assert FORGET_BYTES > 1e6
    monkeypatch.setattr("workbench.change_view.FORGET_BYTES", 0)
    own = view.changes
    own.update(view, steps[0])
    view.tabs["left"] = "Layers"
    own.update(view, steps[0])
    assert own.n_bytes == 0


def test_nothing_of_what_was_found_is_kept_where_nobody_looks(view: ViewState, steps: list[Snapshot], tmp_path: Path
                                                              ) -> None:
    own, view.checkpoint_path = view.changes, tmp_path / "checkpoint.safetensors"
    for snapshot in steps[:2]:
        own.update(view, snapshot)
    panel.draw(FakeUi({"Export the lists (.csv)": True}), view, steps[1])  # its list is worked out, and written
    view.worker.wait_for("changes' lists", WAIT_SECS)
    assert own.said(view).startswith("exported")
    found = weakref.ref(own.found)
    view.tabs["left"] = "Layers"
    own.update(view, steps[1])
    gc.collect()
    assert found() is None


def test_what_can_not_be_compared_says_so_as_long_as_it_is_there(view: ViewState, steps: list[Snapshot]) -> None:
    own, spoiled = view.changes, with_fields(steps[2], corner_sdf=np.zeros(3, np.float32))
    own.update(view, steps[0])
    for _ in range(2):
        own.update(view, spoiled)
        assert own.found is None and own.note.startswith("corner_sdf must have shape")
    own.keep()
    for snapshot in (spoiled, steps[1]):  # nothing differs from itself; the next stop can't be compared with it
        own.update(view, snapshot)
        own.update(view, snapshot)
        assert own.found is None and own.note.startswith("corner_sdf must have shape")
    own.drop()
    own._stops.clear()
    own.update(view, steps[0])
    own.update(view, steps[1])
    assert own.found is not None and own.note == ""


def test_fields_are_asked_for_only_where_somebody_looks(view: ViewState, steps: list[Snapshot]) -> None:
    assert view.changes.scene_fields(view, steps[0]) == {"voxels", *FIELDS}
    other = dataclasses.replace(steps[0], field_kinds={**steps[0].field_kinds, "alpha": "map"})
    assert view.changes.scene_fields(view, other) == {"voxels", *FIELDS} - {"alpha"}
    large = dataclasses.replace(steps[0], playing=True, scalars={"voxels": 1e6})
    assert view.changes.scene_fields(view, large) == set()
    view.tabs["left"] = "Layers"
    assert view.changes.scene_fields(view, steps[0]) == set()


def test_faces_come_for_the_scene(view: ViewState, steps: list[Snapshot]) -> None:
    own = view.changes
    own.update(view, steps[0])
    own.update(view, steps[2])
    found = own.found
    assert len(found.gained) + len(found.lost) > 0
    assert len(own.faces["gained"].faces) == 2 * len(found.gained)
    assert len(own.faces["lost"].faces) == 2 * len(found.lost)
    own.shown = False
    own.update(view, steps[2])
    assert own.faces == {} and own.in_scene(view) is None


def test_the_worker_compares_in_the_background(view: ViewState, steps: list[Snapshot]) -> None:
    view.frustum.background = True
    own = view.changes
    own.update(view, steps[0])
    own.update(view, steps[1])
    assert own.found is None and own.waiting
    view.worker.wait_for("changes", WAIT_SECS)
    own.update(view, steps[1])
    assert own.found.b.iteration == 3 and not own.waiting
    view.worker.wait_for("changes' faces", WAIT_SECS)
    own.update(view, steps[1])
    assert set(own.faces) == {"gained", "lost", "turned"}
    spoiled = with_fields(steps[2], corner_sdf=np.zeros(3, np.float32))
    own.update(view, spoiled)
    view.worker.wait_for("changes", WAIT_SECS)
    own.update(view, spoiled)
    assert own.found is None and "corner_sdf must have shape" in own.note
    view.tabs["left"] = "Layers"
    own.update(view, spoiled)
    assert view.worker.result("changes") is None  # it holds both states


def test_a_recording_gives_any_two_iterations(view: ViewState, tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path / "run.h5", small_fit(iterations=8, resolution=8, image_size=16), snapshot_every=2)
    builder.iterate(8)
    replay, own = Replay(Recording(builder.close())), view.changes
    replay.start()
    try:
        shown = _shown(replay, view)
        for mode, iteration, expected in ((BEFORE, 0, 6), (ITERATION, 3, 2), (ITERATION, 0, 0)):
            own.mode, own.iteration = mode, iteration
            n = own.n_found
            commands = own.requests(shown)
            assert [type(command) for command in commands] == [LookUpFields] and own.requests(shown) == []
            replay.send(commands[0])
            _wait(lambda n=n: own.n_found > n)
            own.update(view, shown)
            assert own.found.a.iteration == expected and own.found.b.iteration == 8 and own.note == ""
            assert own.a.label == {6: "iteration 6", 2: "iteration 3, fields of 2", 0: "iteration 0"}[expected]
            if mode == BEFORE:  # the slider begins at what A was
                panel.draw(FakeUi({"Iteration": True}), view, shown)
                assert (own.mode, own.iteration) == (ITERATION, 6)
        assert replay.snapshots.latest().iteration == 8  # nothing that is shown has moved
        own.keep()
        assert own.requests(shown) == []
        own.mode, own.iteration = ITERATION, -5
        own.update(view, shown)
        assert own.found is None and "first that is recorded" in own.note and own.requests(shown) == []
        ui = FakeUi()
        own.iteration = 4
        assert [type(command) for command in panel.draw(ui, view, shown)] == [LookUpFields]
        assert ui.says("Iteration") and ui.says("B: iteration 8")
    finally:
        assert replay.stop()


def _shown(replay: Replay, view: ViewState) -> Snapshot:
    from workbench.commands import RequestFields

    names = frozenset({"voxels", *FIELDS})
    replay.send(RequestFields(names))
    shown = replay.snapshots.wait_for(lambda s: names <= set(s.fields), WAIT_SECS)
    view.changes.update(view, shown)
    return shown


def _wait(done: object) -> None:
    limit = time.monotonic() + WAIT_SECS
    while not done() and time.monotonic() < limit:
        time.sleep(0.005)
    assert done()


def test_what_a_threshold_costs_an_inference(view: ViewState) -> None:
    run = FakeInference(8, 300)
    first = snapshot_of(run, NextIteration(), iteration=1)
    second = snapshot_of(run, ChangeSetting("threshold_2", 1.0), NextIteration(), iteration=2)
    own = view.changes
    for snapshot in (first, second):
        own.update(view, products.seen(snapshot))
    assert (own.a.label, own.b.label) == ("pass 1", "pass 2")
    gone = {tuple(v) for v in first.fields["voxels"].voxel_ijk.tolist()} - {
        tuple(v) for v in second.fields["voxels"].voxel_ijk.tolist()}
    assert gone and ijk_of(own.found, "pruned") == gone and len(own.found.born) == 0
    assert len(own.found.lost) > 0 and own.found.n_lost_by_sign == 0
    own.update(view, products.seen(second, "prune 2"))
    assert own.found is None and own.b.label == "pass 2, prune 2"  # of that stage nothing was seen before
    own.update(view, products.seen(first, "prune 2"))
    assert ijk_of(own.found, "born") == gone
    before_any = products.seen(second, "points")
    own.update(view, before_any)
    assert own.found is None and own.b is None
    ui = FakeUi()
    assert panel.draw(ui, view, before_any) == [] and ui.says("no voxels here")


def test_a_run_without_delta_or_corners(view: ViewState) -> None:
    first, second = (snapshot_of(FakeRun(8), RunIterations(n), iteration=n) for n in (1, 5))
    ui = FakeUi()
    for snapshot in (first, second):
        view.changes.update(view, snapshot)
    panel.draw(ui, view, second)
    assert view.changes.found.d_deform is None and ui.says("no δ") and ui.says("now inside")
    bare = [with_fields(snapshot, corner_sdf=None) for snapshot in (first, second)]
    view.changes.clear()
    for snapshot in bare:
        view.changes.update(view, snapshot)
    ui = FakeUi()
    panel.draw(ui, view, bare[1])
    assert ui.says("There is no SDF to compare")
    ui = FakeUi()
    assert panel.draw(ui, view, Snapshot()) == [] and ui.says("no voxels")


# The panel


def test_the_panel_tells_what_changed(view: ViewState, steps: list[Snapshot]) -> None:
    view.changes.update(view, steps[0])
    ui = FakeUi()
    assert panel.draw(ui, view, steps[0]) == [] and ui.says("what a step changes") and ui.says("A: –")
    view.changes.update(view, steps[1])
    ui, found = FakeUi(), view.changes.found
    panel.draw(ui, view, steps[1])
    counts = found.counts(view.changes.threshold)
    for number in (*(counts[part] for part in ("flipped", "moved", "same")), len(found.gained), len(found.lost)):
        assert f"{number:,}" in ui.texts
    assert ui.says(f"{found.n_corners_of[CHANGED]:,} of {len(found.flags):,} touched")
    part, rows = view.changes.top()
    assert counts[part] and ui.says(f"{panel.LABELS[part].upper()}, THE MOST")
    ijk = rows[0][0]
    panel.draw(FakeUi({f"{ijk[0]}, {ijk[1]}, {ijk[2]}##changed": True}), view, steps[1])
    assert view.network.picked == Picked(ijk, 16)
    panel.draw(FakeUi({"##moved by": 1e-5, "Keep B as A": True, "moved##changes moved": True,
                       "##changes same": False}), view, steps[1])
    own = view.changes
    assert own.threshold == 0.0 and own.kept is own.b and own.listed == "moved" and own.layers["same"] is False
    for typed, known in ((7.0, MAX_THRESHOLD), (-1.0, 0.0)):
        panel.draw(FakeUi({"##moved by": typed}), view, steps[1])
        assert own.threshold == known
    ui = FakeUi({"Drop A (0 MB)": True, "Export the lists (.csv)": False})
    panel.draw(ui, view, steps[1])
    assert ui.says(f"VOXEL {ijk[0]}, {ijk[1]}, {ijk[2]}") and ui.says("in both") and own.kept is None
    for slot, values in enumerate(panel.corner_rows(found, *(state.voxels.find(torch.tensor([ijk])).item()
                                                             for state in (found.a, found.b)))):
        row = int(found.b.voxels.voxel_corners[found.b.voxels.find(torch.tensor([ijk])).item(), slot])
        assert values[1][0] == f"{found.a.sdf[row] * 16:+.3f}" and values[2][0] == f"{found.b.sdf[row] * 16:+.3f}"
        assert values[3][0] == f"{found.d_deform[row]:.4f}"
    view.network.picked = Picked((0, 0, 0), 16)
    ui = FakeUi({"Let go##voxel": True})
    panel.draw(ui, view, steps[1])
    assert ui.says("neither A nor B") and view.network.picked is None


def test_the_panel_across_levels(view: ViewState) -> None:
    coarse = shell(8)
    fine = SparseVoxels(coarse.subdivide().voxel_ijk[8:], 16)
    kinds = {"voxels": "voxels", "corner_sdf": "corner"}
    for iteration, voxels in enumerate((coarse, fine)):
        sdf = state_of(voxels).sdf
        snapshot = Snapshot(iteration=iteration, field_kinds=kinds, fields={"voxels": voxels, "corner_sdf": sdf},
                            asked=frozenset(kinds))
        view.changes.update(view, snapshot)
    view.network.picked = Picked(tuple(fine.voxel_ijk[0].tolist()), 16)
    ui = FakeUi()
    panel.draw(ui, view, snapshot)
    assert ui.says("16³: a voxel is compared with the cell that holds it") and ui.says("PRUNED, THE FIRST")
    labels = {call[1] for call in ui.calls if call[0] == "Selectable"}
    assert "in both##changes same" in labels and "born##changes born" in labels
    assert ui.says("in both") and not ui.says("neither") and not ui.says("FACES")


def test_lists_are_written_from_the_window(view: ViewState, steps: list[Snapshot], tmp_path: Path) -> None:
    view.checkpoint_path = tmp_path / "new" / "checkpoint.safetensors"
    for snapshot in steps[:2]:
        view.changes.update(view, snapshot)
    ui = FakeUi({"Export the lists (.csv)": True})
    panel.draw(ui, view, steps[1])
    view.worker.wait_for("changes' lists", WAIT_SECS)
    panel.draw(FakeUi(), view, steps[1])
    path = tmp_path / "new" / "changes_000002_000003.csv"
    assert path.is_file() and view.notice.startswith(f"exported {path}: ")
    view.notice = ""
    panel.draw(FakeUi(), view, steps[1])
    assert view.notice == ""


def test_the_palette_keeps_drops_and_shows(view: ViewState, steps: list[Snapshot]) -> None:
    window = type("Window", (), {"view": view, "snapshot": steps[0]})()
    found = {action.name: action.does for action in actions.ACTIONS if action.name.startswith("Changes:")}
    keep, drop, flip = (found[f"Changes: {name}"] for name in (
        "keep this iteration as A", "drop A", "in the scene or not"))
    view.tabs["left"] = "Layers"
    keep(window)
    assert view.tabs["left"] == PANEL and "opened" in view.notice and view.changes.kept is None
    view.changes.update(view, steps[0])
    keep(window)
    assert view.changes.kept.iteration == 2
    flip(window)
    assert not view.changes.shown
    drop(window)
    assert view.changes.kept is None


# Files and the command


def test_lists_hold_everything_that_changed(tmp_path: Path) -> None:
    a, b = random_state(1), random_state(2)
    found = compare(a, b)
    told = summary(found, 0.01)
    write_lists(found, 0.01, tmp_path / "a.csv")
    write_lists(found, 0.01, tmp_path / "a.npz")
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    table = np.load(tmp_path / "a.npz")
    numbers = {f"voxel {part}": told["voxels"][part] for part in PARTS[:-1]}
    numbers |= {f"corner {name}": told["corners"][name] for name in ("outward", "inward", "spoiled", "healed")}
    numbers |= {f"quad {name}": told["quads"][name] for name in ("gained", "lost", "turned")}
    for number, (kind, expected) in enumerate(numbers.items()):
        assert sum(row["kind"] == kind for row in rows) == expected == int((table["kind"] == number).sum())
        assert table["kinds"][number] == kind
    lost = {(int(row["i"]), int(row["j"]), int(row["k"]), "xyz".index(row["axis"])) for row in rows
            if row["kind"] == "quad lost"}
    assert lost == edge_set(found.lost, 6)
    with pytest.raises(ValueError, match="unknown type '.obj'; allowed are .csv, .npz"):
        write_lists(found, 0.01, tmp_path / "a.obj")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = RunBuilder(tmp_path_factory.mktemp("diff") / "run.h5", FitRun(*_small()), snapshot_every=2)
    builder.iterate(4)
    return builder.close()


def _small() -> tuple:
    fit = small_fit(resolution=8, image_size=16, iterations=4)
    return fit.target, fit.config


def test_the_command_compares_recorded_iterations(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture
                                                  ) -> None:
    assert cli.main(["diff", str(recorded), "--from", "2", "--json", "--out", str(tmp_path / "new")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["a"]["iteration"], told["b"]["iteration"]) == (2, 4) and told["corners"]["touched"] > 0
    assert json.loads((tmp_path / "new" / "changes.json").read_text()) == told
    assert (tmp_path / "new" / "changes.csv").is_file() and (tmp_path / "new" / "changes.npz").is_file()
    with Recording(recorded) as recording:
        fields = [recording.snapshot_fields(("voxels", *COMPARED), n)[0] for n in (2, 4)]
    states = [State(known.pop("voxels"), known) for known in fields]
    assert told["corners"]["touched"] == compare(*states).n_corners_of[CHANGED]
    assert cli.main(["diff", str(recorded), str(recorded), "--to", "0"]) == 0
    out = capsys.readouterr().out
    assert "iteration 4: " in out.splitlines()[0] and "iteration 0: " in out.splitlines()[1] and "moved" in out


def test_the_command_says_where_the_file_knows_nothing(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture
                                                       ) -> None:
    builder = RunBuilder(tmp_path / "run.h5", FitRun(*_small()), snapshot_every=4)
    builder.iterate(4)
    sparse = str(builder.close())
    assert cli.main(["diff", sparse, "--from", "2", "--to", "3"]) == 0
    assert "iterations 2 and 3 both show the fields recorded at 0" in capsys.readouterr().err
    for told in ([sparse], [str(recorded), "--from", "2"], [sparse, sparse, "--from", "3", "--to", "3"]):
        assert cli.main(["diff", *told]) == 0
        assert "both show" not in capsys.readouterr().err


@pytest.mark.parametrize(("words", "says"), [
    (["house"], "house has one iteration: name a second one to compare it with, or a recording"),
    (["RUN", "--from", "77"], "iteration must be a recorded one from 0 to 4, got 77"),
    (["RUN", "--threshold", "-1"], "--threshold must be at least 0 voxel widths, got -1"),
    (["house", "RUN", "--from", "1"], "--from applies to a recording (.h5): house is none"),
    (["RUN", "none.safetensors"], "no such checkpoint: none.safetensors"),
    (["none.h5"], "none.h5"),
])
def test_the_command_refuses_in_a_line(recorded: Path, words: list[str], says: str, capsys: pytest.CaptureFixture
                                       ) -> None:
    assert cli.main(["diff", *(str(recorded) if word == "RUN" else word for word in words)]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
