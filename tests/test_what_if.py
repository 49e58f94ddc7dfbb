"""What-if: cameras moved, planes by hand, faults planted and named, two looks compared, cameras of other iterations."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_run import FakeRun
from fit_snapshots import small_fit, snapshot_of, with_fields
from recording_files import RunBuilder

from sparseflex.camera import Camera
from sparseflex.extraction import extract_mesh
from sparseflex.frustum import Category, active_voxels, add_halo
from sparseflex.training.fit import FitRun
from sparseflex.training.run import RunCamera
from sparseflex.voxels import SparseVoxels
from workbench import frustum_view
from workbench.camera_log import MAX_KNOWN, CameraLog, LookUpCameras
from workbench.commands import RunIterations
from workbench.recording.reader import Recording
from workbench.snapshot import PastSummary, Snapshot
from workbench.source import Replay
from workbench.split import CATEGORIES, Split
from workbench.view_state import ViewState
from workbench.what_if import PARTS, Kept, Move, depth_limits, difference, faults, moved, with_hand_planes

WAIT_SECS = 60.0


@pytest.fixture(scope="module")
def fit() -> FitRun:
    return small_fit(visibility_ratio=0.4, planes="iterative", anchor="centre", halo=1)


@pytest.fixture(scope="module")
def fitted(fit: FitRun) -> Snapshot:
    return snapshot_of(fit, RunIterations(3), iteration=3)


@pytest.fixture
def view() -> Iterator[ViewState]:
    state = ViewState()
    state.tabs = {"left": "Frustum", "right": "Plots"}
    yield state
    state.stop_workers()


def ahead_camera(near: float = 0.5, far: float = 3.0, **options: float) -> Camera:
    """At (0, 0, 2), looking along −z at the box."""
    return Camera.look_at((0, 0, 2), (0, 0, 0), fov_y_degrees=40, width=64, height=48, near=near, far=far, **options)


def scattered(n: int = 400, resolution: int = 16) -> SparseVoxels:
    keys = torch.randperm(resolution**3, generator=torch.Generator().manual_seed(3))[:n]
    return SparseVoxels.from_keys(keys.sort().values, resolution)


def slow_categories(voxels: SparseVoxels, camera: Camera, near: float, far: float) -> list[str]:
    """One voxel at a time, from what the words mean."""
    found = []
    tan_x, tan_y = camera.tan_half_fov
    for i, j, k in voxels.voxel_ijk.tolist():
        centre = [(part + 0.5) / voxels.resolution - 0.5 for part in (i, j, k)]
        x, y, z, _ = (camera.camera_from_world @ torch.tensor([*centre, 1.0], dtype=torch.float64)).tolist()
        depth = -z
        if depth <= 0 or abs(x) > tan_x * depth or abs(y) > tan_y * depth:
            found.append("outside")
        elif depth < near:
            found.append("near_cut")
        elif depth > far:
            found.append("far_cut")
        else:
            found.append("active")
    return found


# Moved cameras


def test_a_copy_goes_around_what_it_looks_at() -> None:
    camera = ahead_camera()
    right = moved(camera, Move(turn=90.0))
    assert torch.allclose(right.eye_world, torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(right.forward_world, torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-12)
    above = moved(camera, Move(tilt=60.0))
    expected = torch.tensor([0.0, 2 * math.sin(math.pi / 3), 1.0], dtype=torch.float64)
    assert torch.allclose(above.eye_world, expected, atol=1e-12)
    assert torch.allclose(above.forward_world, -expected / 2, atol=1e-12) and float(above.up_world[1]) > 0
    both = moved(camera, Move(turn=-30.0, tilt=20.0, ahead=0.5))
    assert float(both.eye_world.norm()) == pytest.approx(1.5) and float(both.eye_world[0]) < 0
    assert (both.near, both.far, both.width, both.height) == (camera.near, camera.far, 64, 48)


def test_a_copy_looks_around_from_where_it_stands() -> None:
    camera = ahead_camera()
    right = moved(camera, Move(turn=90.0, about="eye"))
    assert torch.allclose(right.eye_world, camera.eye_world, atol=1e-12)
    assert torch.allclose(right.forward_world, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-12)
    assert float(moved(camera, Move(tilt=30.0, about="eye")).forward_world[1]) == pytest.approx(0.5)
    there = moved(camera, Move(turn=180.0, ahead=0.25, about="eye"))
    assert torch.allclose(there.eye_world, torch.tensor([0.0, 0.0, 2.25], dtype=torch.float64), atol=1e-12)


def test_no_move_gives_the_very_camera_and_a_field_of_view_stays_within_its_limits() -> None:
    camera = ahead_camera()
    assert moved(camera, Move()) is camera and moved(camera, Move(about="eye")) is camera
    assert moved(camera, Move(fov_y_degrees=25.0)).fov_y_degrees == 25.0
    assert moved(camera, Move(fov_y_degrees=500.0)).fov_y_degrees == 140.0
    behind = Camera.look_at((0.1, 0, 0), (0, 0, 0))  # the centre is at hand, or even behind
    assert moved(behind, Move(turn=10.0)).width == behind.width


def test_depth_limits_are_those_of_the_box() -> None:
    low, high = depth_limits(ahead_camera())
    assert (low, high) == pytest.approx((1.5, 2.5))
    low, high = depth_limits(Camera.look_at((0, 0, -3), (0, 0, -4)))  # all of it behind the eye
    assert 0 < low < high


# Planes by hand


@pytest.mark.parametrize("near,far", [(1.8, 2.2), (0.1, 1.7), (2.3, 9.0), (2.2, 1.8), (2.6, 0.2), (2.03125, 2.03125)])
def test_split_between_planes_by_hand_is_that_of_a_slow_twin(near: float, far: float) -> None:
    voxels = scattered()
    camera, crossed = with_hand_planes(moved(ahead_camera(), Move(turn=20.0, tilt=15.0)), near, far)
    split = Split()
    split.update(voxels, camera, "", crossed)
    expected = slow_categories(voxels, camera, near, far)
    assert crossed == (near >= far) and (near != far or not split.counts["active"])
    assert {name: split.rows(name).sum() for name in CATEGORIES} == {n: expected.count(n) for n in CATEGORIES}
    assert all(split.rows(name)[row] for row, name in enumerate(expected))
    if crossed:
        between = [n for n in slow_categories(voxels, camera, far, near) if n == "active"]
        assert split.n_between == len(between) and split.counts["active"] == 0


def test_hand_planes_begin_where_the_planes_stand(view: ViewState, fitted: Snapshot) -> None:
    look = view.frustum
    look.update(view, fitted)
    own = look.look.camera
    look.planes = "hand"
    assert (look.near, look.far) == (own.near, own.far)
    look.update(view, fitted)
    before = dict(view.split.counts)
    assert not look.look.current and look.look.asked is None and look.look.camera.near == own.near
    look.set_plane("far", own.far + 0.2)
    look.update(view, fitted)
    assert view.split.counts["active"] > before["active"] and look.look.rings == look.halo
    look.set_plane("near", -4.0)  # whatever is typed
    look.update(view, fitted)
    assert look.near > 0 and view.split.counts["near_cut"] == 0
    look.planes = "adapted"
    look.update(view, fitted)
    assert not look.by_hand and look.look.asked == look.ratio


def test_a_drag_of_the_camera_is_followed_and_the_run_keeps_its_own(view: ViewState, fitted: Snapshot) -> None:
    look, own = view.frustum, fitted.cameras[0].camera
    look.moving, look.move = True, Move(turn=40.0, fov_y_degrees=20.0)
    look.update(view, fitted)
    expected = slow_categories(fitted.fields["voxels"], moved(own, look.move), own.near, own.far)
    assert view.split.counts == {name: expected.count(name) for name in CATEGORIES}
    assert look.look.moved and not look.look.current and fitted.cameras[0].camera is own
    look.adapted = True
    look.update(view, fitted)
    assert look.look.camera.fov_y_degrees == 20.0 and look.look.asked == look.ratio and look.search.exact is not None
    look.adapted, look.move = False, Move()
    look.update(view, fitted)
    assert look.look.camera is own and look.look.current


# Faults


def fault_kinds(voxels: SparseVoxels, camera: Camera, crossed: bool = False) -> dict[str, dict]:
    split = Split()
    split.update(voxels, camera, "", crossed)
    return {fault.kind: dict(fault.values) for fault in faults(voxels, camera, crossed, split)}


def test_near_beyond_far_is_named_and_nothing_else() -> None:
    voxels = scattered()
    camera, crossed = with_hand_planes(ahead_camera(), 2.1, 1.9)
    seen = slow_categories(voxels, camera, 1.9, 2.1)
    expected = {"near": 2.1, "far": 1.9, "visible": len(seen) - seen.count("outside"), "between": seen.count("active")}
    assert fault_kinds(voxels, camera, crossed) == {"near beyond far": expected} and expected["between"] > 0


def test_a_camera_in_a_wall_that_sees_nothing_is_named_with_its_voxel() -> None:
    voxels = scattered()
    row = next(row for row, ijk in enumerate(voxels.voxel_ijk.tolist()) if ijk[0] == 15)  # at the box's side
    eye = (voxels.voxel_ijk[row].double() + 0.5) / 16 - 0.5
    camera = Camera.look_at(eye, eye + torch.tensor([1.0, 0.0, 0.0]), near=0.01, far=5.0)
    i, j, k = voxels.voxel_ijk[row].tolist()
    n_behind = sum(1 for x, _, _ in voxels.voxel_ijk.tolist() if x <= 15)
    assert fault_kinds(voxels, camera) == {"eye in a voxel": {"row": row, "i": i, "j": j, "k": k},
                                           "nothing in view": {"behind": n_behind, "beside": 0}}
    turned = dataclasses.replace(moved(camera, Move(turn=180.0, about="eye")), near=0.01)
    assert fault_kinds(voxels, turned) == {}  # it sees the others


@pytest.mark.parametrize("near,far,kind", [
    (2.6, 3.0, "all in front of near"), (0.1, 1.4, "all behind far"), (2.001, 2.002, "nothing between")])
def test_planes_beside_all_voxels_are_named(near: float, far: float, kind: str) -> None:
    voxels = scattered()
    found = fault_kinds(voxels, ahead_camera(near, far))
    depths = ahead_camera().depth_of(voxels.centers.double())[
        [name != "outside" for name in slow_categories(voxels, ahead_camera(), near, far)]]
    assert set(found) == {kind} and found[kind]["visible"] == len(depths)
    assert found[kind]["nearest"] == pytest.approx(float(depths.min()))
    assert found[kind]["furthest"] == pytest.approx(float(depths.max()))


def test_good_cameras_have_no_fault_and_no_voxels_is_one(fitted: Snapshot) -> None:
    for known in fitted.cameras:
        assert fault_kinds(fitted.fields["voxels"], known.camera) == {}
    none = SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 16)
    assert set(fault_kinds(none, ahead_camera())) == {"no voxels"}
    assert faults(None, ahead_camera(), False, Split()) == ()
    afar = Camera.look_at((1e12, 0, 0), (2e12, 0, 0), near=1.0, far=2.0)
    assert set(fault_kinds(scattered(), afar)) == {"nothing in view"}


# Two looks compared


def row_of_voxels() -> SparseVoxels:
    """Ten voxels along z: row k lies at depth 2.5 − (k + ½) / 10 of ahead_camera."""
    return SparseVoxels(torch.tensor([[5, 5, k] for k in range(10)]), 10)


def between(first: int, last: int) -> Kept:
    """A look that activates rows first to last."""
    return Kept(ahead_camera(2.5 - (last + 1) / 10, 2.5 - first / 10), False, 0, "by hand", "planes by hand")


def test_a_difference_known_by_hand() -> None:
    found = difference(row_of_voxels(), between(2, 5), between(4, 8))
    assert found.counts("active") == {"a": 4, "b": 5, "only_a": 2, "only_b": 3, "both": 2, "neither": 3}
    assert found.counts("near_cut") == {"a": 4, "b": 1, "only_a": 3, "only_b": 0, "both": 1, "neither": 6}
    assert found.counts("far_cut") == {"a": 2, "b": 4, "only_a": 0, "only_b": 2, "both": 2, "neither": 6}
    assert found.counts("outside") == {"a": 0, "b": 0, "only_a": 0, "only_b": 0, "both": 0, "neither": 10}
    rows = {part: found.rows("active", part).nonzero()[0].tolist() for part in PARTS}
    assert rows == {"only_a": [2, 3], "both": [4, 5], "only_b": [6, 7, 8], "neither": [0, 1, 9]}


def test_a_difference_is_that_of_sets() -> None:
    voxels = scattered()
    looks = [Kept(moved(ahead_camera(1.7, 2.2), Move(turn=turn)), False, 0, "", "") for turn in (-30.0, 50.0)]
    camera, crossed = with_hand_planes(ahead_camera(), 2.3, 1.9)
    looks.append(Kept(camera, crossed, 0, "", ""))
    names = [slow_categories(voxels, look.camera, *look.near_far) for look in looks]
    for a, b in ((0, 1), (1, 2), (2, 0), (1, 1)):
        found = difference(voxels, looks[a], looks[b])
        for category in CATEGORIES:
            of_a, of_b = ({row for row, name in enumerate(names[x]) if name == category} for x in (a, b))
            counts = found.counts(category)
            assert (counts["a"], counts["b"]) == (len(of_a), len(of_b))
            for part, rows in (("only_a", of_a - of_b), ("only_b", of_b - of_a), ("both", of_a & of_b)):
                assert set(found.rows(category, part).nonzero()[0].tolist()) == rows and counts[part] == len(rows)
            assert counts["neither"] == voxels.n_voxels - len(of_a | of_b) == found.rows(category, "neither").sum()
    none = SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 16)
    assert difference(none, looks[0], looks[2]).counts("active")["neither"] == 0
    assert int(Category.ACTIVE) == 3  # pairs has four rows


def test_two_kept_are_compared_on_the_present_voxels(view: ViewState, fitted: Snapshot) -> None:
    look, kept, voxels = view.frustum, view.what_ifs, fitted.fields["voxels"]
    kept.keep("A", view)  # nothing is looked at yet
    look.adapted, look.ratio = True, 0.3
    look.update(view, fitted)
    assert not kept.kept and kept.difference is None
    kept.keep("A", view)
    first = look.look.camera
    look.anchor = "back"
    look.update(view, fitted)
    assert kept.shown and kept.b.camera is look.look.camera  # as long as one is kept: what is looked at now
    kept.keep("B", view)
    look.planes = "run"
    look.update(view, fitted)
    assert kept.a.camera is first and kept.b.camera is not look.look.camera
    active = [set(active_voxels(voxels, each.camera).nonzero()[:, 0].tolist()) for each in (kept.a, kept.b)]
    assert kept.difference.counts("active")["both"] == len(active[0] & active[1])
    same = kept.difference
    look.update(view, fitted)
    assert kept.difference is same  # the scene draws anew what is another object
    fewer = voxels.prune(torch.arange(voxels.n_voxels) % 2 == 0)
    look.update(view, with_fields(fitted, voxels=fewer))
    assert kept.difference.voxels is fewer and len(kept.difference.a) == fewer.n_voxels
    kept.drop("A")
    kept.drop("B")
    look.update(view, fitted)
    assert kept.difference is None and not kept.shown


def test_meshes_of_both_sections(view: ViewState, fit: FitRun, fitted: Snapshot) -> None:
    look, kept, voxels = view.frustum, view.what_ifs, fitted.fields["voxels"]
    look.adapted, look.ratio, look.halo = True, 0.4, 1
    look.update(view, fitted)
    kept.keep("A", view)
    look.planes, look.near, look.far = "hand", 5.0, 1.0
    look.update(view, fitted)
    kept.keep("B", view)
    kept.meshes_wanted = True
    view.tabs = {"left": "Layers", "right": "Plots"}
    look.rim = False
    assert "gamma" in view.scene_fields(fitted)
    look.update(view, fitted)
    for name in "AB":
        view.worker.wait_for(f"what-if mesh {name}", WAIT_SECS)
    look.update(view, fitted)
    own = extract_mesh(fit.flex(), add_halo(voxels, active_voxels(voxels, kept.a.camera), 1))
    assert np.array_equal(kept.meshes["A"].vertices, own.vertices.numpy()) and len(own.faces) > 50
    assert np.array_equal(kept.meshes["A"].faces, own.faces.numpy())
    assert len(kept.meshes["B"].faces) == 0 and kept.notes == {"A": "", "B": ""}
    kept.shown = False
    look.update(view, fitted)
    assert kept.meshes == {}


def test_the_section_of_crossed_planes_is_empty(view: ViewState, fitted: Snapshot) -> None:
    view.section_only = True
    view.frustum.planes, view.frustum.near, view.frustum.far = "hand", 3.0, 1.0
    view.frustum.update(view, fitted)
    assert len(view.frustum.section_mesh.faces) == 0
    assert [fault.kind for fault in view.frustum.faults] == ["near beyond far"]


# In the background


def test_large_sets_are_split_beside_the_redraw(view: ViewState, fitted: Snapshot, monkeypatch: pytest.MonkeyPatch
                                                ) -> None:
    monkeypatch.setattr(frustum_view, "INLINE_VOXELS", 0)
    look = view.frustum
    look.background = True
    look.update(view, fitted)  # the first at once: there is nothing to show meanwhile
    first = look.look.camera
    look.adapted = True
    for ratio in (0.5, 0.4, 0.2):
        look.ratio = ratio
        look.update(view, fitted)
    assert look.look.camera is first or look.look.asked in (0.5, 0.4, 0.2)
    view.quick.wait_for("look", WAIT_SECS)
    look.update(view, fitted)
    assert look.look.asked == 0.2  # the latest, whatever was skipped
    other = ViewState(tabs=dict(view.tabs))
    other.frustum.adapted, other.frustum.ratio = True, 0.2
    other.frustum.update(other, fitted)
    assert view.split.counts == other.split.counts and look.look.camera.far == other.frustum.look.camera.far
    kept = view.what_ifs
    kept.keep("A", view)
    look.anchor = "back"
    for key in ("look", "what-if difference"):
        look.update(view, fitted)
        view.quick.wait_for(key, WAIT_SECS)
    look.update(view, fitted)
    assert kept.difference.pairs.tolist() == difference(fitted.fields["voxels"], kept.a, kept.b).pairs.tolist()
    other.stop_workers()


# Cameras of other iterations


def test_cameras_of_past_iterations_are_remembered(view: ViewState, fitted: Snapshot) -> None:
    run = FakeRun(8)
    log = view.camera_log
    first = snapshot_of(run, RunIterations(2), iteration=2)
    log.note(view, first)
    later = dataclasses.replace(first, cameras=tuple(
        RunCamera(ahead_camera(), "orbit", 0.1, iteration=number) for number in (40, 39, 38)))
    log.note(view, later)
    assert log.span(later)[1] == 40 and {38, 39, 40} <= set(log.known)
    assert log.choose(view, later, 39) == [] and view.pinned.iteration == 39
    assert log.choose(view, later, 30) == [] and view.pinned.iteration == max(n for n in log.known if n <= 30)
    fixed = ahead_camera()
    log.note(view, dataclasses.replace(first, cameras=(RunCamera(fixed.with_planes(1, 2), "fixed", iteration=50,
                                                                 own=fixed),)))
    log.choose(view, later, 50)
    assert view.pinned.camera.near == 1 and view.pinned.own is None  # that use of it, not its latest
    log.clear()
    assert log.span(later) is None and log.choose(view, later, 3) == [] and not log.known


def test_no_more_are_remembered_than_fit() -> None:
    log, camera = CameraLog(), ahead_camera()
    cameras = tuple(RunCamera(camera, "orbit", iteration=number) for number in range(1, MAX_KNOWN + 11))
    log.note(ViewState(), Snapshot(cameras=cameras))
    assert len(log.known) == MAX_KNOWN and min(log.known) == 11


def test_a_recordings_cameras_come_without_going_there(view: ViewState, tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path / "run.h5", FakeRun(8))
    builder.iterate(30)
    replay = Replay(Recording(builder.close()))
    replay.start()
    try:
        shown = replay.snapshots.latest()
        log = view.camera_log
        log.note(view, shown)
        log.known.clear()
        assert log.span(shown) == (1, 30) and log.span(dataclasses.replace(shown, past=PastSummary())) is None
        commands = log.choose(view, shown, 4)
        assert commands == [LookUpCameras(4, log.answers)] and log.wanted == 4 and view.pinned is None
        replay.send(commands[0])
        limit = time.monotonic() + WAIT_SECS
        while log.n_found == 0 and time.monotonic() < limit:
            time.sleep(0.01)
        before = view.n_found
        log.note(view, shown)
        assert view.pinned.iteration == 3 and log.wanted is None and before == 1  # this run counts from 0
        assert replay.snapshots.latest().iteration == 30
        assert log.choose(view, shown, 3) == []  # known by now
    finally:
        assert replay.stop()


def test_what_is_seen_once_serves_for_all_planes_and_for_no_other_place(view: ViewState, fitted: Snapshot) -> None:
    """A drag of planes looks at nothing anew but them; all of it must be what a fresh look finds."""
    look = view.frustum
    changes = [{"planes": "adapted", "ratio": 0.3}, {"ratio": 0.5}, {"anchor": "back", "method": "iterative"},
               {"moving": True, "move": Move(turn=25.0)}, {"planes": "hand", "near": 0.4, "far": 0.9},
               {"near": 1.2}, {"move": Move(turn=-25.0)}, {"planes": "run"}]
    choices: dict = {}
    for change in changes:
        choices |= change
        fresh = ViewState(tabs=dict(view.tabs))
        for name, value in change.items():
            setattr(look, name, value)
        for name, value in choices.items():
            if name != "planes":
                setattr(fresh.frustum, name, value)
        fresh.frustum.by_hand, fresh.frustum.adapted = look.by_hand, look.adapted
        look.update(view, fitted)
        fresh.frustum.update(fresh, fitted)
        assert view.split.counts == fresh.split.counts, change
        assert torch.equal(view.split.histogram.counts, fresh.split.histogram.counts), change
        assert torch.equal(view.split.histogram.edges, fresh.split.histogram.edges), change
        searches = [each.frustum.search for each in (view, fresh)]
        assert (searches[0] is None) == (searches[1] is None)
        if searches[0] is not None and look.adapted:
            assert searches[0].exact == searches[1].exact and np.array_equal(searches[0].trace, searches[1].trace)
        fresh.stop_workers()
