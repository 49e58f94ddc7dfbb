"""The Surface tab: planted faults stand in its list and in the scene's regions, and what it lacks is a line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from fake_run import FakeRun, icosphere_like
from fake_ui import FakeUi
from fit_snapshots import snapshot_of, with_fields

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.training.config import FitConfig
from sparseflex.training.faults import Fault
from sparseflex.training.fit import FitRun
from sparseflex.voxels import SparseVoxels
from workbench.check_view import PANEL, SDF, Region, free_look
from workbench.network_view import voxel_on_ray
from workbench.panels import surface
from workbench.snapshot import Snapshot
from workbench.view_state import Click, ViewState


def faulty(*faults: Fault, target: Mesh | None = None) -> FitRun:
    config = FitConfig(resolution=16, image_size=32, iterations=10, init="points")
    return FitRun(target or icosphere_like(12, 0.4), config, faults=faults)


def looked_at(run_or_snapshot) -> tuple[ViewState, Snapshot]:
    snapshot = run_or_snapshot if isinstance(run_or_snapshot, Snapshot) else snapshot_of(run_or_snapshot)
    view = ViewState()
    view.tabs["left"], view.frustum.background = PANEL, False
    view.check.update(view, snapshot)
    return view, snapshot


def drawn(view: ViewState, snapshot: Snapshot, **uses) -> FakeUi:
    ui = FakeUi(uses)
    assert surface.draw(ui, view, snapshot) == []
    return ui


def keys_of(region: Region) -> tuple:
    return region.kind, region.n_voxels, region.low, region.high


def test_a_good_fit_has_none() -> None:
    view, snapshot = looked_at(faulty())
    ui = drawn(view, snapshot)
    assert ui.texts.count("None.") == 2 and not any(view.check.regions(kind) for kind in ("holes", "turned", "bad"))


def test_missing_voxels_are_the_only_hole_and_a_click_frames_them() -> None:
    whole = faulty().voxels
    run = faulty(Fault("missing_voxels", x=0.4, radius=0.1))
    view, snapshot = looked_at(run)
    touched = run.read_field("touched")
    gone = whole.prune(run.voxels.find(whole.voxel_ijk) < 0)
    gone = gone.prune(faulty().read_field("touched")[whole.find(gone.voxel_ijk)])
    assert len(touched) == run.voxels.n_voxels and gone.n_voxels > 0
    hole, = view.check.regions("holes")
    assert set(view.check.found.holes.voxels.keys.tolist()) == set(gone.keys.tolist())
    assert keys_of(hole) == ("holes", gone.n_voxels, tuple(gone.voxel_ijk.amin(0).tolist()),
                             tuple(gone.voxel_ijk.amax(0).tolist())) and hole.lost > 0
    assert not view.check.regions("turned")
    place = ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in zip(hole.low, hole.high, strict=True))
    ui = drawn(view, snapshot, **{f"{place}##holes 0": True})
    assert ui.says(f"{gone.n_voxels} voxel") and view.check.chosen == hole
    view.view_camera = Camera.look_at((0, 0, 2), (0, 0, 0), width=64, height=48)
    drawn(view, snapshot, **{"Look at it##holes": True})
    near = view.cameras.look_through
    away = near.depth_of(torch.tensor([hole.centre_world]).double()).item()
    assert away == pytest.approx(max(5 * hole.width_world, 0.25))
    drawn(view, snapshot, **{f"{place}##holes 0": True})
    assert view.check.chosen is None


def test_a_flipped_patch_is_the_only_one_inside_out() -> None:
    run = faulty(Fault("flipped_sdf", x=-0.4, radius=0.2))
    view, _ = looked_at(run)
    patch, = view.check.regions("turned")
    away = torch.tensor(patch.centre_world) - torch.tensor([-0.4, 0.0, 0.0])
    assert away.norm() < 0.1 and patch.n_voxels > 3 and not view.check.regions("holes")


def test_a_nan_corner_is_named() -> None:
    run = faulty()
    run.parameters.sdf[7] = torch.nan
    view, snapshot = looked_at(run)
    bad, = view.check.regions("bad")
    names = (run.voxels.voxel_corners == 7).any(1)
    assert bad.n_voxels == int(names.sum()) and bad.low == tuple(run.voxels.voxel_ijk[names].amin(0).tolist())
    assert drawn(view, snapshot).says("NOT A NUMBER")


def test_no_surface_says_so() -> None:
    view, snapshot = looked_at(faulty(Fault("no_surface")))
    assert any("No surface: every corner is outside" in str(call) for call in drawn(view, snapshot).calls)


def test_what_is_lacking_is_a_line() -> None:
    view, snapshot = looked_at(faulty())
    without = dataclasses.replace(with_fields(snapshot, target=None), field_kinds={
        name: kind for name, kind in snapshot.field_kinds.items() if name != "target"})
    other, _ = looked_at(without)
    assert drawn(other, without).says("Known where there is a target.")
    half = Mesh(icosphere_like(12, 0.4).vertices, icosphere_like(12, 0.4).faces[:60])
    opened, snapshot = looked_at(faulty(target=half))
    assert drawn(opened, snapshot).says("at its open borders")
    bare = dataclasses.replace(snapshot_of(FakeRun(8)), field_kinds={})
    assert any("no voxels with an SDF" in str(call) for call in drawn(ViewState(), bare).calls)
    fresh = ViewState()
    fresh.tabs["left"] = PANEL
    assert drawn(fresh, snapshot).says("looking")


def test_fields_are_asked_for_by_the_tab_alone_and_large_sets_wait_for_a_stop() -> None:
    view, snapshot = looked_at(faulty())
    assert {"voxels", "corner_sdf", "target"} <= view.scene_fields(snapshot)
    big = dataclasses.replace(snapshot, playing=True, scalars={"voxels": 1e6})
    assert view.check.scene_fields(view, big) == set()
    view.tabs["left"] = "Layers"
    assert view.check.scene_fields(view, snapshot) == set()
    view.check.update(view, snapshot)
    assert view.check.found is None


def test_while_the_run_plays_what_was_found_a_moment_ago_is_shown() -> None:
    view, snapshot = looked_at(faulty())
    view.frustum.background, view.check.found = True, None
    try:
        for _ in range(3):  # the SDF is another in every snapshot
            snapshot = with_fields(dataclasses.replace(snapshot, playing=True), corner_sdf=snapshot.fields[SDF].copy())
            view.check.update(view, snapshot)
            for key in ("surface check's target", "surface check"):
                view.worker.wait_for(key, 20)
        assert view.check.found is not None and view.check.waiting
        view.check.update(view, snapshot)
        assert not view.check.waiting
        view.tabs["left"] = "Layers"
        view.check.update(view, snapshot)
        assert view.worker.result("surface check") is None  # nothing of a run is kept for nobody
    finally:
        view.stop_workers()


def test_the_chosen_region_goes_with_its_fault_and_nothing_stays_of_a_stage_without_voxels() -> None:
    view, snapshot = looked_at(faulty(Fault("missing_voxels", x=0.4, radius=0.1)))
    view.check.chosen = chosen = view.check.regions("holes")[0]
    view.check.update(view, with_fields(snapshot, corner_sdf=snapshot.fields[SDF].copy()))
    assert view.check.chosen == chosen
    view.check.update(view, snapshot_of(faulty()))
    assert view.check.chosen is None and view.check.found is not None
    bare = dataclasses.replace(snapshot, fields={}, field_kinds={}, asked=frozenset())
    view.check.update(view, bare)
    assert view.check.found is None


def test_rows_of_other_voxels_are_a_line() -> None:
    view, snapshot = looked_at(faulty())
    view.check.update(view, with_fields(snapshot, corner_sdf=snapshot.fields[SDF][1:]))
    assert "corner_sdf must have" in view.check.note and drawn(view, snapshot).says("corner_sdf must have")


def test_it_is_looked_at_from_where_nothing_stands_before_it() -> None:
    """A room of 16³ without its front wall, a region at the middle of its floor, and one in a room without a door."""
    grid = torch.cartesian_prod(*[torch.arange(16)] * 3)
    walls = ((grid[:, :2] == 0) | (grid[:, :2] == 15)).any(dim=1) | (grid[:, 2] == 0)
    region = Region("turned", 0, 4, (7, 1, 7), (8, 1, 8), 16)
    front = np.array([0.0, 0.0, 1.0])
    for closed in (False, True):
        room = SparseVoxels(grid[walls | closed & (grid[:, 2] == 15)], 16)
        for ahead in (front, np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0]), np.array([0.6, 0.0, 0.8])):
            side, away = free_look(room.centers.numpy(), region, ahead)
            eye = np.asarray(region.centre_world) + away * side
            met = voxel_on_ray(room, Click(eye, -side))
            assert met < 0 or np.linalg.norm(room.centers[met].numpy() - eye) > away, ahead
            assert closed or np.array_equal(side, ahead) == (ahead[2] > 0)  # as the user looks, where it is as good
            assert not closed or float(np.abs(eye).max()) < 0.44  # within the room


def test_from_near_by_target_and_voxels_do_not_stand_before_it() -> None:
    view, snapshot = looked_at(faulty(Fault("missing_voxels", x=0.4, radius=0.1)))
    view.check.chosen = view.check.regions("holes")[0]
    assert not view.check.alone(view)
    view.cameras.apart_at_home = True
    assert view.check.alone(view)
    drawn(view, snapshot, **{"Show in the scene": False})
    assert not view.check.alone(view)
