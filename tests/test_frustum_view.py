"""FrustumView: planes adapted to look at, the search beside the exact answer, sections and rims from the worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from fit_snapshots import small_fit, snapshot_of, with_fields

from sparseflex.camera import Camera
from sparseflex.extraction import extract_mesh
from sparseflex.frustum import ANCHORS, active_voxels, adapt_frustum, add_halo, rim_report
from sparseflex.render import render_maps
from sparseflex.training.fit import FitRun
from sparseflex.voxels import SparseVoxels
from workbench.commands import RunIterations
from workbench.frustum_view import FOLLOW_VOXELS, FrustumView
from workbench.preferences import restore
from workbench.section_work import Parameters, Rim, Section, looked_at, mesh_of
from workbench.snapshot import Snapshot
from workbench.split import Split
from workbench.view_state import ViewState
from workbench.worker import WorkFailed

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
    state.tabs = {"left": "Frustum", "right": "Maps"}
    yield state
    assert state.worker.stop(WAIT_SECS)


def found(view: ViewState, snapshot: Snapshot, key: str) -> Section | Rim | WorkFailed:
    """What the worker finds for the present choices."""
    view.frustum.update(view, snapshot)
    view.worker.wait_for(key, WAIT_SECS)
    view.frustum.update(view, snapshot)
    return view.frustum.section(view) if key == "section" else view.frustum.rim_found(view)


def eye_camera(**options) -> Camera:
    return Camera.look_at((0.9, 0.5, 1.4), (0, 0, 0), fov_y_degrees=30, width=40, height=30, **options)


def test_the_runs_own_planes_are_shown_as_they_are(view: ViewState, fitted: Snapshot) -> None:
    view.frustum.update(view, fitted)
    look = view.frustum.look
    assert look.camera is fitted.cameras[0].camera and look.current and look.asked == 0.4 and look.rings == 1
    assert view.split.camera is look.camera and view.split.label == fitted.cameras[0].label
    assert view.split.counts["active"] == int(active_voxels(fitted.fields["voxels"], look.camera).sum())


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_adapted_planes_are_those_of_the_method_and_the_run_keeps_its_own(
    view: ViewState, fitted: Snapshot, anchor: str, method: str
) -> None:
    view.select_camera(fitted, 2)
    look = view.frustum
    look.adapted, look.ratio, look.anchor, look.method, look.seed = True, 0.05, anchor, method, 5
    before = fitted.cameras[2].camera
    look.update(view, fitted)
    own = adapt_frustum(fitted.fields["voxels"], before, 0.05, method, anchor, torch.Generator().manual_seed(5))
    assert (look.look.camera.near, look.look.camera.far) == (own.camera.near, own.camera.far)
    assert view.split.counts["active"] == int(own.active.sum()) and not look.look.current
    assert fitted.cameras[2].camera is before


def test_the_same_choices_give_the_same_camera_object(view: ViewState, fitted: Snapshot) -> None:
    view.frustum.adapted = True
    view.frustum.update(view, fitted)
    first = view.frustum.look.camera
    view.frustum.update(view, fitted)
    assert view.frustum.look.camera is first  # the scene draws anew what is another object
    view.frustum.ratio = 0.31
    view.frustum.update(view, fitted)
    assert view.frustum.look.camera is not first


def test_search_beside_the_exact_answer(view: ViewState, fitted: Snapshot) -> None:
    look, voxels = view.frustum, fitted.fields["voxels"]
    look.adapted, look.ratio, look.anchor = True, 0.3, "centre"
    look.update(view, fitted)
    camera = look.look.known.camera
    exact = adapt_frustum(voxels, camera, 0.3, "exact", "centre")
    assert look.search.exact == (exact.camera.near, exact.camera.far, int(exact.active.sum()))
    assert np.array_equal(look.search.trace, adapt_frustum(voxels, camera, 0.3, "iterative", "centre").trace.numpy())
    n_visible = sum(count for name, count in view.split.counts.items() if name != "outside")
    assert look.search.wanted == min(round(0.3 * voxels.n_voxels), n_visible)
    look.adapted = False
    look.update(view, fitted)
    assert look.search.exact is None and np.allclose(look.search.trace, fitted.fields["trace"])
    view.select_camera(fitted, 1)
    look.update(view, fitted)
    assert look.search is None  # the run's trace is of its present camera


def test_planes_and_trace_are_there_before_any_mesh(view: ViewState) -> None:
    run = small_fit(visibility_ratio=0.4, planes="iterative", anchor="front")
    snapshot = snapshot_of(run, stage="adapt_frustum")
    assert "mesh" not in snapshot.fields
    view.frustum.update(view, snapshot)
    assert view.frustum.look.current and view.frustum.search.trace[-1, 2] == view.split.counts["active"]
    assert view.frustum.search.trace[-1, 0] == pytest.approx(view.frustum.look.camera.near, abs=1e-6)


def test_the_view_itself_is_followed_when_it_rests(view: ViewState, fitted: Snapshot) -> None:
    look = view.frustum
    look.look_at_view(view)  # headless there is none
    assert view.pinned is None
    view.view_camera = first = eye_camera()
    look.look_at_view(view)
    look.update(view, fitted)
    assert look.look.camera is first and FrustumView.of_view(view.pinned) and look.look.asked is None
    view.view_camera = moved = dataclasses.replace(first, fov_y_degrees=31.0)
    look.update(view, fitted)
    assert look.look.camera is first  # still moving
    view.view_camera = dataclasses.replace(moved)
    look.update(view, fitted)
    assert look.look.camera is view.view_camera
    view.view_camera = dataclasses.replace(moved)
    kept = look.look.camera
    look.update(view, fitted)
    assert look.look.camera is kept  # the same view: nothing new to draw
    view.step_camera(fitted, 1)
    look.update(view, fitted)
    assert not FrustumView.of_view(view.pinned) and look.look.known in fitted.cameras


def test_section_and_halo_of_another_camera(view: ViewState, fit: FitRun, fitted: Snapshot) -> None:
    view.select_camera(fitted, 2)
    view.section_only = True
    view.frustum.adapted, view.frustum.halo, view.frustum.ratio = True, 2, 0.25
    section = found(view, fitted, "section")
    voxels, camera = fitted.fields["voxels"], view.frustum.look.camera
    active = active_voxels(voxels, camera)
    grown = add_halo(voxels, active, 2)
    assert section.camera is camera and section.n_active == int(active.sum()) and section.n_section == int(grown.sum())
    assert np.array_equal(section.in_section, grown.numpy())
    own = extract_mesh(fit.flex(), grown)  # the run still stands where the snapshot was taken
    assert len(section.mesh.faces) > 50 and view.frustum.section_mesh is section.mesh
    assert np.array_equal(section.mesh.vertices, own.vertices.numpy())
    assert np.array_equal(section.mesh.faces, own.faces.numpy())
    view.select_camera(fitted, 1)
    other = found(view, fitted, "section")
    assert other.camera is view.frustum.look.camera is not camera
    assert other.n_active == view.split.counts["active"] and view.frustum.section_mesh is other.mesh is not section.mesh
    view.section_only = False
    view.frustum.update(view, fitted)
    assert view.frustum.section_mesh is None


@pytest.mark.parametrize("with_surface", [True, False])
def test_rim_pixels_are_those_of_the_library(
    view: ViewState, fit: FitRun, fitted: Snapshot, with_surface: bool
) -> None:
    view.select_camera(fitted, 1)
    view.frustum.adapted, view.frustum.halo, view.frustum.ratio = True, 0, 0.3
    rim = found(view, fitted if with_surface else with_fields(fitted, surface=None), "rim")
    camera = view.frustum.look.camera
    full = render_maps(extract_mesh(fit.flex()), camera)
    active = active_voxels(fitted.fields["voxels"], camera)
    own = rim_report(full, render_maps(extract_mesh(fit.flex(), active), camera))
    assert 0 < rim.n_differs < rim.differs.size and np.array_equal(rim.differs, own.differs.numpy())
    assert rim.fraction == own.fraction and np.array_equal(rim.depth, full.depth.numpy())
    assert (rim.n_missing, rim.n_extra) == (int(own.missing.sum()), int(own.extra.sum()))
    assert rim.camera is camera and rim.iteration == 3


def test_fields_are_asked_for_only_where_needed(view: ViewState, fitted: Snapshot) -> None:
    look = view.frustum
    assert {"corner_sdf", "gamma", "surface"} <= view.scene_fields(fitted)
    view.layers["mesh"] = False
    look.rim = False
    assert "surface" not in view.scene_fields(fitted) and "gamma" in view.scene_fields(fitted)
    view.tabs = {"left": "Layers", "right": "Plots"}
    assert not look.scene_fields(view, fitted)
    view.tabs["left"] = "Frustum"
    large = dataclasses.replace(fitted, playing=True, scalars={"voxels": FOLLOW_VOXELS + 1.0})
    assert not look.scene_fields(view, large) and look.scene_fields(view, dataclasses.replace(large, playing=False))
    assert not look.scene_fields(view, dataclasses.replace(fitted, field_kinds={"voxels": "voxels"}))


def test_what_preferences_hold_cannot_break_it(view: ViewState, fitted: Snapshot) -> None:
    restore(view, {"frustum.adapted": True, "frustum.anchor": "middle", "frustum.method": "x", "frustum.ratio": -3.0,
                   "frustum.halo": 99})
    view.frustum.update(view, fitted)
    assert view.frustum.adaptation.anchor == "front" and view.frustum.look.rings == 8


def test_no_cameras_no_voxels_and_values_that_are_no_numbers(view: ViewState, fitted: Snapshot) -> None:
    look = view.frustum
    look.update(view, Snapshot())
    assert look.look is None and view.split.n_voxels == 0
    look.update(view, dataclasses.replace(fitted, cameras=()))
    assert look.look is None and view.split.counts["active"] == view.split.n_voxels > 0
    look.adapted = True
    none = SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 16)
    empty = {name: np.zeros((0, *fitted.fields[name].shape[1:]), np.float32)
             for name in ("corner_sdf", "corner_deform", "alpha", "beta", "gamma")}
    nothing = with_fields(fitted, voxels=none, surface=None, **empty)
    rim = found(view, nothing, "rim")
    assert look.search is None and isinstance(rim, Rim) and rim.n_differs == 0 and rim.fraction == 0
    bad = np.full_like(fitted.fields["corner_sdf"], np.nan)
    assert isinstance(found(view, with_fields(fitted, corner_sdf=bad, surface=None), "rim"), Rim)
    deform = np.full_like(fitted.fields["corner_deform"], np.nan)
    assert isinstance(found(view, with_fields(fitted, corner_deform=deform, surface=None), "rim"), Rim)


def test_fields_that_do_not_fit_are_a_failure_to_be_shown(view: ViewState, fitted: Snapshot) -> None:
    short = with_fields(fitted, corner_sdf=fitted.fields["corner_sdf"][:5])
    result = found(view, short, "rim")
    assert isinstance(result, WorkFailed) and "IndexError" in result.message
    assert Parameters.of(with_fields(fitted, gamma=fitted.fields["gamma"][:5])) is None


def test_large_images_are_looked_at_smaller() -> None:
    camera = eye_camera().with_size(4000, 1000)
    small = looked_at(camera)
    assert (small.width, small.height) == (2000, 500) and looked_at(eye_camera()).width == 40
    assert small.near == camera.near


def test_split_counts_are_those_of_its_rows(fitted: Snapshot) -> None:
    split = Split()
    for known in fitted.cameras:
        split.update(fitted.fields["voxels"], known.camera)
        assert split.counts == {name: int(split.rows(name).sum()) for name in split.counts}
        assert sum(split.counts.values()) == split.n_voxels
    assert mesh_of(fitted.fields["surface"]).n_faces > 100
