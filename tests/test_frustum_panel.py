"""The frustum panel: what it says of a camera's planes, which commands come of it, and runs that are hard to show."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from fake_run import FakeRun
from fake_ui import FakeUi
from fit_snapshots import small_fit, snapshot_of, with_fields

from sparseflex.camera import Camera
from workbench import theme
from workbench.commands import ChangeSetting, NextStage, RunIterations
from workbench.frustum_view import FrustumView
from workbench.panels import frustum
from workbench.snapshot import Snapshot
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
