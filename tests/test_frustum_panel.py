"""The frustum panel: what it says of a camera's planes, which commands come of it, and runs that are hard to show."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import fake_ui
import pytest
from fake_run import FakeRun
from fake_ui import FakeUi
from fit_snapshots import small_fit, snapshot_of, with_fields

from sparseflex.camera import Camera
from workbench import theme
from workbench.camera_log import LookUpCameras
from workbench.commands import ChangeSetting, NextStage, RunIterations
from workbench.frustum_view import FrustumView
from workbench.panels import frustum
from workbench.snapshot import PastSummary, Snapshot
from workbench.view_state import ViewState


@pytest.fixture(scope="module")
def fitted() -> Snapshot:
    return snapshot_of(small_fit(visibility_ratio=0.4, planes="iterative", anchor="front", halo=1), RunIterations(3),
                       iteration=3)


@pytest.fixture(scope="module")
def faked() -> Snapshot:
    return snapshot_of(FakeRun(), RunIterations(3), iteration=3)


@pytest.fixture
def view() -> Iterator[ViewState]:
    state = ViewState()
    state.tabs = {"left": "Frustum", "right": "Plots"}
    yield state
    assert state.worker.stop(60)


def drawn(view: ViewState, snapshot: Snapshot, **uses: Any) -> FakeUi:
    """The panel once the worker has found what it is asked for."""
    view.frustum.update(view, snapshot)
    for key in ("section", "rim"):
        view.worker.wait_for(key, 60)
    ui = FakeUi(uses)
    ui.commands = frustum.draw(ui, view, snapshot)
    return ui


def test_counts_planes_and_a_ratio_for_the_run(faked: Snapshot, view: ViewState) -> None:
    ui = drawn(view, faked, **{"α asked##ratio": 0.25})
    assert ui.commands == [ChangeSetting("visibility_ratio", 0.25)]
    counts = view.split.counts
    assert sum(counts.values()) == faked.fields["voxels"].n_voxels and counts["near_cut"] > 0 < counts["far_cut"]
    for name, label in frustum.CATEGORY_LABELS.items():
        assert ui.says(f"{label} {counts[name]:,}")
    assert ui.says(f"near {faked.cameras[0].camera.near:.4f}") and ui.says(f"far {faked.cameras[0].camera.far:.4f}")
    assert ui.says(f"{counts['active'] / view.split.n_voxels:.4f}")
    assert not ui.says("RIM PIXELS")  # this run has no parameters to extract from


@pytest.mark.parametrize("near, far, said", [(0.01, 0.02, "< n f"), (9.0, 9.5, "n f >"), (0.01, 9.5, "")])
def test_planes_beside_all_voxels_are_said_to_be_so_in_the_histogram(
        faked: Snapshot, view: ViewState, near: float, far: float, said: str) -> None:
    seen = faked.cameras[0]
    spoiled = (dataclasses.replace(seen, camera=seen.camera.with_planes(near, far)), *faked.cameras[1:])
    ui = drawn(view, dataclasses.replace(faked, cameras=spoiled))
    assert [call[-1] for call in ui.calls if call[0] == "Annotation"] == [said] * bool(said)
    assert ui.says("lies in front of" if far < 1 else "lies behind") == bool(said)


def test_the_runs_search_halo_and_rim(fitted: Snapshot, view: ViewState) -> None:
    ui = drawn(view, fitted, **{"halo##run": 3})
    assert ui.commands == [ChangeSetting("halo", 3.0)]
    rounds = len(view.frustum.search.trace)
    assert ui.says(f"{rounds} round") and ui.says("halo of 1") and ui.says("visibility ratio asked")
    section, rim = view.frustum.section(view), view.frustum.rim_found(view)
    assert ui.says(f"{section.n_section - section.n_active:,}") and section.n_section > section.n_active
    assert ui.says(f"{rim.n_differs:,} pixels differ") and ui.textures.shown["rim"].shape == (48, 48, 3)
    view.frustum.rim = False
    assert not drawn(view, fitted).says("pixels differ")


def test_planes_adapted_here_change_nothing_until_they_are_handed_over(fitted: Snapshot, view: ViewState) -> None:
    ui = drawn(view, fitted, **{"Adapted here": True})
    assert ui.commands == [] and view.frustum.adapted
    ui = drawn(view, fitted, **{"α##what if": 0.2, "halo##what if": 3, "back": True, "iterative": True})
    look = view.frustum
    assert ui.commands == [] and (look.ratio, look.halo, look.anchor, look.method) == (0.2, 3, "back", "iterative")
    ui = drawn(view, fitted)
    near, far, count = look.search.exact
    assert ui.says(f"{near:.4f} to {far:.4f}") and ui.says("search − exact:") and ui.says("the run has α 0.40, halo 1")
    lines = {call[1]: call for call in ui.calls if call[0] == "PlotLine"}
    assert list(lines["##line0"][3]) in ([*look.search.trace[:, 0]], [*look.search.trace[:, 2]])
    levels = [call[2].tolist() for call in ui.calls if call[0] == "PlotInfLines" and call[1] == "##aims"]
    assert [near, far] in levels and [float(look.search.wanted)] in levels
    ui = drawn(view, fitted, **{"Give these to the run": True})
    assert ui.commands == [ChangeSetting("visibility_ratio", 0.2), ChangeSetting("halo", 3.0)]
    assert fitted.settings["visibility_ratio"].value == 0.4


def test_another_random_depth(fitted: Snapshot, view: ViewState) -> None:
    view.frustum.adapted, view.frustum.anchor, view.frustum.ratio = True, "random", 0.1
    drawn(view, fitted, **{"Another random depth": True})
    before = view.frustum.look.camera.near
    drawn(view, fitted)
    assert view.frustum.seed == 1 and view.frustum.look.camera.near != before


def test_choosing_a_camera_pins_it_and_following_lets_go(faked: Snapshot, view: ViewState) -> None:
    assert view.selected_camera(faked) is faked.cameras[0]
    drawn(view, faked, **{">": True})
    assert view.pinned is faked.cameras[1]
    drawn(view, faked, **{"<": True})
    drawn(view, faked, **{"<": True})
    assert view.pinned is faked.cameras[-1]  # around the end
    drawn(view, faked, **{"##camera": 1})
    assert view.pinned is faked.cameras[1]
    drawn(view, faked, **{"Follow the run": True})
    assert view.pinned is None


def test_a_pinned_camera_stays_when_the_run_forgets_it(faked: Snapshot, view: ViewState) -> None:
    view.select_camera(faked, 2)
    later = dataclasses.replace(faked, cameras=faked.cameras[:2])
    assert view.selected_index(later) == -1 and view.selected_camera(later) is faked.cameras[2]
    drawn(view, later, **{"##camera": 1})  # entry 0 is the forgotten one
    assert view.pinned is faked.cameras[0]


def test_the_view_itself(fitted: Snapshot, view: ViewState) -> None:
    drawn(view, fitted, **{"The view itself": True})
    assert view.pinned is None  # there is no view without a window
    view.view_camera = Camera.look_at((0.9, 0.5, 1.4), (0, 0, 0), fov_y_degrees=30, width=40, height=30)
    drawn(view, fitted, **{"The view itself": True})
    assert FrustumView.of_view(view.pinned)
    ui = drawn(view, fitted)
    assert any("the view itself" in call[3] for call in ui.calls if call[0] == "Combo")
    drawn(view, fitted, **{"The view itself": False})
    assert view.pinned is None


@pytest.mark.parametrize("name", ["dark", "light"])
def test_hard_runs_are_drawn(fitted: Snapshot, faked: Snapshot, view: ViewState, name: str) -> None:
    """No snapshot yet, no cameras, one camera, no voxels, scalars only, within an iteration."""
    theme.use(name)
    try:
        scalars_only = snapshot_of(FakeRun(only_scalars=True), RunIterations(1), iteration=1)
        before_mesh = snapshot_of(small_fit(visibility_ratio=0.4), NextStage())
        cases = [Snapshot(), scalars_only, before_mesh, dataclasses.replace(fitted, cameras=()),
                 dataclasses.replace(faked, cameras=faked.cameras[:1]), with_fields(fitted, voxels=None),
                 with_fields(fitted, trace=None), dataclasses.replace(fitted, playing=True)]
        for adapted in (False, True):
            view.frustum.adapted = adapted
            for snapshot in cases:
                ui = drawn(view, snapshot)
                assert ui.commands == [] and ui.texts
    finally:
        theme.use("dark")


def test_a_failure_of_the_worker_is_said(fitted: Snapshot, view: ViewState) -> None:
    ui = drawn(view, with_fields(fitted, corner_sdf=fitted.fields["corner_sdf"][:5]))
    assert ui.says("IndexError")


# What-if


def test_planes_by_hand_by_sliders_and_in_the_histogram(fitted: Snapshot, view: ViewState) -> None:
    drawn(view, fitted)
    own = view.frustum.look.camera
    ui = drawn(view, fitted, **{"By hand": True})
    assert ui.commands == [] and (view.frustum.near, view.frustum.far) == (own.near, own.far)
    ui = drawn(view, fitted, **{"near##by hand": 1.1, "far##by hand": 2.1, "halo##what if": 3})
    look = view.frustum
    assert ui.commands == [] and (look.near, look.far, look.halo) == (1.1, 2.1, 3)
    drawn(view, fitted, **{"in voxel widths##planes": True})
    sliders = {call[1]: call[2] for call in drawn(view, fitted).calls if call[0] == "SliderFloat"}
    assert sliders["near##by hand"] == pytest.approx(1.1 * 16)
    drawn(view, fitted, **{"near##by hand": 1.25 * 16})
    assert look.near == pytest.approx(1.25)
    look.planes = "run"
    ui = drawn(view, fitted, **{"DragLineX 1": 1.4})  # the far plane's line
    assert ui.commands == [] and look.by_hand and look.far == 1.4 and look.near == own.near
    ui = drawn(view, fitted)
    assert view.split.camera.far == 1.4


def test_crossed_planes_are_named_with_their_numbers(fitted: Snapshot, view: ViewState) -> None:
    drawn(view, fitted)
    view.frustum.planes, view.frustum.near, view.frustum.far = "hand", 1.8, 1.2
    ui = drawn(view, fitted)
    assert ui.says("near 1.8000 lies at or beyond far 1.2000") and ui.says("active 0")
    assert ui.says("no voxel is active: there is no section")
    lines = [call[1:3] for call in ui.calls if call[0] == "DragLineX"]
    assert lines == [(0, 1.8), (1, 1.2)]


def test_a_copy_of_the_camera_is_moved(fitted: Snapshot, view: ViewState) -> None:
    drawn(view, fitted, **{"Move a copy of it": True})
    ui = drawn(view, fitted, **{"##turn": 30.0, "##tilt": -10.0, "##ahead": 0.2, "##fov": 25.0})
    move = view.frustum.move
    assert ui.commands == [] and (move.turn, move.tilt, move.ahead, move.fov_y_degrees) == (30.0, -10.0, 0.2, 25.0)
    drawn(view, fitted, **{"Around its eye": True})
    assert view.frustum.move.about == "eye" and view.frustum.move.turn == 30.0
    own, asked = fitted.cameras[0].camera, view.frustum.look.camera
    assert asked.fov_y_degrees == 25.0 and asked.near == own.near
    drawn(view, fitted, **{"Back": True})
    assert view.frustum.move.is_none and view.frustum.move.about == "eye"
    view.view_camera = Camera.look_at((0.9, 0.5, 1.4), (0, 0, 0), fov_y_degrees=30, width=400, height=300)
    drawn(view, fitted, **{"From the view": True})
    placed = view.pinned.camera
    assert placed.eye_world.tolist() == view.view_camera.eye_world.tolist() and placed.width == own.width
    assert (placed.near, placed.far, placed.fov_y_degrees) == (own.near, own.far, 30.0)


def test_a_drag_in_the_field_turns_and_tilts(fitted: Snapshot, view: ViewState, monkeypatch: pytest.MonkeyPatch
                                             ) -> None:
    monkeypatch.setitem(fake_ui.ANSWERS, "GetMouseDragDelta", lambda *_: (50.0, 25.0))
    view.frustum.moving = True
    drawn(view, fitted, IsItemActive=True)
    assert (view.frustum.move.turn, view.frustum.move.tilt) == pytest.approx((20.0, -10.0))
    for _ in range(10):
        drawn(view, fitted, IsItemActive=True)
    assert view.frustum.move.turn == pytest.approx(220.0 - 360.0) and view.frustum.move.tilt == -85.0


def test_two_looks_are_kept_and_compared(fitted: Snapshot, view: ViewState) -> None:
    assert not drawn(view, fitted, **{"Drop##A": True}).says("Show in the scene")
    view.frustum.planes, view.frustum.ratio = "adapted", 0.3
    drawn(view, fitted)
    drawn(view, fitted, **{"Keep as A": True})
    view.frustum.anchor = "back"
    ui = drawn(view, fitted)
    label = fitted.cameras[0].label
    assert ui.says(f"A: {label}") and ui.says(f"B, now: {label}") and ui.says("α 0.30 back, ")
    ui = drawn(view, fitted, **{"Keep as B": True})
    ui = drawn(view, fitted)
    found = view.what_ifs.difference.counts("active")
    assert found["only_a"] > 0 < found["only_b"] and ui.commands == []
    for part in ("only_a", "both", "only_b"):
        assert ui.says(f"{found[part]:,}")
    drawn(view, fitted, **{"near-cut##what-ifs": True, "##part neither": True, "Meshes of both sections": True})
    kept = view.what_ifs
    assert kept.category == "near_cut" and kept.parts["neither"] and kept.meshes_wanted
    view.frustum.update(view, fitted)
    for name in "AB":
        view.worker.wait_for(f"what-if mesh {name}", 60)
    ui = drawn(view, fitted)
    assert ui.says(f"{len(kept.meshes['A'].faces):,} faces") and ui.says(f"{len(kept.meshes['B'].faces):,} faces")
    drawn(view, fitted, **{"Drop##B": True})
    assert list(kept.kept) == ["A"] and drawn(view, fitted).says("B, now:")
    drawn(view, fitted, **{"Drop##A": True})
    assert not drawn(view, fitted).says("Show in the scene")


def test_the_camera_of_another_iteration(fitted: Snapshot, view: ViewState) -> None:
    ui = drawn(view, fitted, **{"##camera of": 2})
    assert ui.commands == [] and view.pinned.iteration == 2 and view.pinned.camera is fitted.cameras[1].camera
    recorded = dataclasses.replace(fitted, source="replay", past=PastSummary(0, 40, 1, 0), cameras=fitted.cameras[:0])
    view.camera_log.clear()
    ui = drawn(view, recorded, **{"##camera of": 33})
    assert ui.commands == [LookUpCameras(33, view.camera_log.answers)]
    sliders = {call[1]: call[2:5] for call in drawn(view, recorded).calls if call[0] == "SliderInt"}
    assert sliders["##camera of"] == (33, 1, 40)  # stays under the mouse until the answer comes
