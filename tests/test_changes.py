"""Changes between two iterations: planted ones are named exactly, and slow twins agree."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from change_states import (
    RESOLUTION,
    corner_set,
    edge_set,
    ijk_of,
    random_state,
    shell,
    slow_quads,
    state_of,
    voxels_of_corners,
    without,
)
from fit_snapshots import small_fit, snapshot_of

from sparseflex.extraction import extract_mesh
from sparseflex.representation import SparseFlex
from sparseflex.training.faults import Fault
from sparseflex.training.fit import FitRun
from sparseflex.voxels import CORNER_OFFSETS, SparseVoxels
from workbench.change_report import summary, table_of, text_of
from workbench.change_state import COMPARED, State, faces_of, voxels_around
from workbench.changes import CHANGED, HEALED, INWARD, OUTWARD, PARTS, SPOILED, compare
from workbench.commands import RunIterations
from workbench.view_state import ViewState

pytest_plugins = ("change_states",)


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
