"""Coverage against slow twins; a chamber that nobody sees, a camera in a wall; the next camera keeps its word."""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_run import FakeRun
from fake_ui import FakeUi
from fit_snapshots import small_fit, snapshot_of, with_fields
from recording_files import RunBuilder

import sparseflex as sf
from sparseflex import next_camera
from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.next_camera import seen_from, suggest_cameras
from sparseflex.sampling import orbit_camera
from sparseflex.training.config import FitConfig
from sparseflex.training.coverage import COVERAGE_FIELDS, KINDS, PLANES, SOURCES, Coverage
from sparseflex.training.fit import STAGES, FitRun
from sparseflex.training.fit_cameras import FitCameras
from sparseflex.training.run import RunCamera
from sparseflex.voxels import SparseVoxels
from workbench import coverage_view
from workbench.commands import ChangeCameras, RequestFields, RunIterations
from workbench.coverage_view import NEVER, CoverageView, only_by, summarise, surface_of
from workbench.panels import coverage as panel
from workbench.quantities import bin_edges
from workbench.recording.reader import Recording
from workbench.recording.values import Cameras, cameras_of, cameras_value
from workbench.section_work import PARAMETERS
from workbench.snapshot import Snapshot
from workbench.source import Replay
from workbench.view_state import Click, ViewState

WAIT_SECS = 60.0
STILL = {"lr_sdf": 0.0, "lr_deform": 0.0, "lr_weights": 0.0}
OUTER, INNER = 0.42, 0.22
N_VIEWS = 30


@cache
def shell() -> Mesh:
    """A thick ball with a chamber in it."""
    voxels = sf.SparseVoxels(torch.cartesian_prod(*[torch.arange(24)] * 3), 24)
    radius = voxels.corners_world.norm(dim=1)
    return sf.extract_mesh(sf.SparseFlex.from_sdf(voxels, torch.maximum(radius - OUTER, INNER - radius))).detach()


def shell_fit(**settings: object) -> FitRun:
    """One that nothing but orbit cameras see, its surface already right and held still."""
    config = {"resolution": 16, "image_size": 48, "init": "points", "orbit_share": 1.0, "zoom_share": 0.0,
              "interior_share": 0.0, "cut_share": 0.0, "window_share": 0.0, **STILL}
    return FitRun(shell(), FitConfig(**{**config, **settings}))


@cache
def outside_run() -> FitRun:
    run = shell_fit()
    for _ in range(N_VIEWS):
        run.run_iteration()
    return run


@cache
def seen_from_outside() -> Snapshot:
    return snapshot_of(outside_run(), iteration=N_VIEWS)


@pytest.fixture
def view() -> Iterator[ViewState]:
    state = ViewState()
    state.tabs = {"left": "Coverage", "right": "Plots"}
    yield state
    state.stop_workers()


def look(view: ViewState, snapshot: Snapshot) -> None:
    view.frustum.update(view, snapshot)
    view.coverage.update(view, snapshot)


def inner(voxels: SparseVoxels) -> np.ndarray:
    return (voxels.centers.norm(dim=1) < (OUTER + INNER) / 2).numpy()


# Counting, against twins


def slow_sight(mesh: Mesh, camera: Camera) -> dict[int, tuple[int, float]]:
    """By pixel the nearest triangle between the planes and the cosine of the angle: every ray with every triangle."""
    corners = mesh.vertices.double()[mesh.faces]
    a, b, c = corners.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    normal = normal / normal.norm(dim=1, keepdim=True)
    eye, world = camera.eye_world, camera.world_from_camera[:3, :3]
    found = {}
    for row in range(camera.height):
        for column in range(camera.width):
            x = (column + 0.5 - camera.width / 2) / camera.focal_pixels
            y = -(row + 0.5 - camera.height / 2) / camera.focal_pixels
            ray = world @ torch.tensor([x, y, -1.0], dtype=torch.float64)  # as long as its camera depth
            across = torch.linalg.cross(ray.expand_as(c), c - a)
            determinant = ((b - a) * across).sum(1)
            u = ((eye - a) * across).sum(1) / determinant
            lifted = torch.linalg.cross(eye - a, b - a)
            v, t = (ray * lifted).sum(1) / determinant, ((c - a) * lifted).sum(1) / determinant
            hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= camera.near) & (t <= camera.far)
            if bool(hit.any()):
                face = int(torch.where(hit, t, torch.inf).argmin())
                found[row * camera.width + column] = face, float(-(normal[face] @ ray) / ray.norm())
    return found


def test_one_view_is_counted_as_a_ray_for_every_pixel_says() -> None:
    run = small_fit(image_size=16, seed=3, interior_share=0.0, window_share=0.0, cut_share=1.0)
    for stage in STAGES[:-2]:
        run.run_stage(stage)
    mesh, active = run.read_field("mesh"), run.read_field("active")
    camera, target = run._cameras[0], run._targets[0]
    rendered = dataclasses.replace(run._rendered[0], **{
        name: getattr(run._rendered[0], name).detach() for name in ("depth", "normal", "mask")})
    run.run_stage("update")
    rows, config = active.nonzero().squeeze(1), run.config
    sight = slow_sight(mesh, camera)
    by_voxel: dict[int, list[tuple[float, float]]] = {}
    hit_both = int((rendered.hit & target.hit).sum())
    for pixel, (face, cosine) in sight.items():
        loss = config.mask_weight * abs(float(rendered.mask.view(-1)[pixel] - target.mask.view(-1)[pixel])) / 256
        if bool(target.hit.view(-1)[pixel]):
            off = abs(float(rendered.depth.view(-1)[pixel] - target.depth.view(-1)[pixel]))
            aside = (rendered.normal.view(-1, 3)[pixel] - target.normal.view(-1, 3)[pixel]).abs().mean()
            loss += (config.depth_weight * off + config.normal_weight * float(aside)) / hit_both
        for vertex in mesh.faces[face, :2].tolist():
            by_voxel.setdefault(int(rows[mesh.dual_voxel[vertex]]), []).append((cosine, loss / 2))
    seen = run.read_field("seen_count")
    assert sorted(by_voxel) == seen.nonzero().squeeze(1).tolist() and 20 < len(by_voxel) < len(seen)
    angle, loss = run.read_field("viewing_angle"), run.read_field("last_loss")
    for row, pixels in by_voxel.items():
        cosines, losses = zip(*pixels, strict=True)
        assert float(angle[row]) == pytest.approx(math.degrees(math.acos(sum(cosines) / len(cosines))), abs=0.05)
        assert float(loss[row]) == pytest.approx(sum(losses), rel=1e-3)
    assert torch.isnan(angle[seen == 0]).all() and torch.isnan(loss[seen == 0]).all()
    assert torch.equal(run.read_field("active_count") > 0, sf.active_voxels(run.voxels, camera))
    behind = sum(cosine < 0 for _, cosine in sight.values()) / len(sight)
    assert run.cameras()[0].n_seen == len(by_voxel) and run.cameras()[0].behind == pytest.approx(behind, abs=0.01)
    assert run.scalars()["never_seen"] == run.voxels.n_voxels - len(by_voxel)


def test_the_losses_of_all_pixels_are_the_terms_of_the_loss() -> None:
    run = small_fit(cameras=2, interior_share=0.0, cut_share=0.0, window_share=0.0)
    for _ in range(2):
        run.run_iteration()
    scalars, losses = run.scalars(), run.read_field("last_loss")
    now = run.read_field("last_seen") == 2
    terms = sum(scalars[f"loss_{name}"] for name in ("depth", "normal", "mask"))
    assert 0.5 * terms < float(losses[now].sum()) <= terms * (1 + 1e-5)  # a hole is no voxel's


def test_kinds_and_cameras_are_counted_as_sets_say() -> None:
    own = [orbit_camera(20.0 * k, 10.0, 1.6, radius=0.5, width=48, height=48) for k in range(10)]
    run = FitRun(small_fit().target, FitConfig(resolution=12, image_size=48, fixed_share=1.0), fixed_cameras=own)
    sets: dict[str, list[set[int]]] = {source: [] for source in SOURCES}
    cameras: dict[int, set[int]] = {}
    for iteration in range(1, 25):
        run.run_iteration()
        rows = set((run.read_field("last_seen") == iteration).nonzero().squeeze(1).tolist())
        sampled, known = run._sampled[0], run.cameras()[0]
        planes = {"none": "whole", "near": "near cut", "window": "window"}[sampled.cut]
        for source in (sampled.kind, planes):
            sets[source].append(rows)
        cameras.setdefault(id(known.own or known.camera), set()).update(rows)
        assert known.n_seen == len(rows)
    seen_by = run.read_field("seen_by").numpy()
    views = run.read_field("views")
    for group in (KINDS, PLANES):
        for source in group:
            here, others = set().union(*sets[source]), set().union(*(s for x in group if x != source for s in sets[x]))
            assert set(only_by(seen_by, source).nonzero()[0].tolist()) == here - others
            assert set((seen_by >> SOURCES.index(source) & 1).nonzero()[0].tolist()) == here
            row = views[SOURCES.index(source)].tolist()
            assert row[:2] == [len(sets[source]), sum(not rows for rows in sets[source])]
    n_cameras = torch.zeros(run.voxels.n_voxels, dtype=torch.int32)
    for rows in cameras.values():
        n_cameras[list(rows)] += 1
    assert len(cameras) < 24 and torch.equal(run.read_field("camera_count"), n_cameras)
    assert bool((run.read_field("seen_count") > n_cameras).any())  # one of the user's own was drawn twice


def test_a_state_keeps_it_bit_by_bit_and_an_old_one_begins_anew() -> None:
    run = small_fit(fixed_share=1.0)
    run.change_cameras([orbit_camera(30.0, 20.0, 1.6, radius=0.5, width=48, height=48)])
    for _ in range(3):
        run.run_iteration()
    for stage in STAGES[:4]:
        run.run_stage(stage)  # the state is that of the iteration's start
    state = run.state_dict()
    again, straight = FitRun.from_state_dict(state), run
    again.run_iteration(), straight.run_iteration()
    for name in COVERAGE_FIELDS:
        a, b = again.read_field(name), straight.read_field(name)
        assert torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0)), name
    assert again.cameras()[0].n_seen == straight.cameras()[0].n_seen == again.cameras()[0].n_seen
    old = {name: value for name, value in state.items() if name != "coverage"}
    old["cameras"] = {**old["cameras"], "recent": [{k: v for k, v in seen.items() if k not in ("n_seen", "behind")}
                                                   for seen in old["cameras"]["recent"]]}
    for less in (old, {**old, "coverage": {}},
                 {**old, "coverage": {k: v for k, v in state["coverage"].items() if k != "last_seen"}}):
        known = FitRun.from_state_dict(less)
        assert int(known.read_field("active_count").sum()) == 0 and known.cameras()[0].n_seen is None


def test_a_state_from_before_the_last_stage_knows_the_cameras_that_it_comes_after() -> None:
    run = small_fit(cameras=2)
    run.change_cameras([orbit_camera(30.0, 20.0, 1.6, radius=0.5, width=48, height=48)], locked=True)
    run.run_iteration()
    for stage in STAGES[:-1]:
        run.run_stage(stage)
    again = FitRun.from_state_dict(run.state_dict())
    run.run_stage(STAGES[-1])
    assert again.iteration == run.iteration == 2 and len(run.state_dict()["cameras"]["recent"]) == 4
    assert again.state_dict()["cameras"] == run.state_dict()["cameras"]


def test_children_have_what_their_parents_had_and_the_born_nothing() -> None:
    voxels = SparseVoxels(torch.tensor([[0, 0, 0], [1, 2, 3], [3, 3, 3]]), 4)
    known = Coverage.none(voxels)
    known.seen_count[:] = torch.tensor([5, 0, 7])
    known.own, known.own_seen = [(1.0,)], torch.tensor([[1, 0, 1]], dtype=torch.uint8)
    pruned = SparseVoxels(torch.tensor([[3, 3, 3], [2, 2, 2], [0, 0, 0]]), 4)
    moved = known.moved(voxels, pruned)
    assert moved.seen_count.tolist() == [7, 0, 5] and moved.own_seen.tolist() == [[1, 0, 1]]
    children = voxels.subdivide()
    split = known.moved(voxels, children)
    parents = {(0, 0, 0): 5, (1, 2, 3): 0, (3, 3, 3): 7}
    assert split.seen_count.tolist() == [parents[tuple(k // 2 for k in ijk)] for ijk in children.voxel_ijk.tolist()]
    nothing = SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 4)
    assert len(known.moved(voxels, nothing).seen_count) == 0
    assert Coverage.none(nothing).moved(nothing, voxels).seen_count.tolist() == [0, 0, 0]
    many = dataclasses.replace(Coverage.none(nothing), own=[(float(number),) for number in range(9)],
                               own_seen=torch.zeros(2, 0, dtype=torch.uint8))
    assert many.moved(nothing, nothing.subdivide()).own_seen.shape == (2, 0)  # nine cameras take two rows


def test_it_follows_levels() -> None:
    run = small_fit(resolution=16, start_resolution=8, iterations=6, prune_every=1)
    for _ in range(6):
        run.run_iteration()
        for name, kind in COVERAGE_FIELDS.items():
            assert len(run.read_field(name)) == (run.voxels.n_voxels if kind == "voxel" else len(SOURCES))
        assert run.scalars()["never_seen"] == int((run.read_field("seen_count") == 0).sum())
    assert run.voxels.resolution == 16 and "never_seen" in run.scalar_names


# Planted: an interior that no camera sees


def test_the_panel_names_exactly_the_chamber_that_nobody_has_seen(view: ViewState) -> None:
    snapshot = seen_from_outside()
    look(view, snapshot)
    found, voxels = view.coverage.summary, snapshot.fields["voxels"]
    assert np.array_equal(found.marked, inner(voxels) & surface_of(voxels, snapshot.fields["corner_sdf"]))
    assert found.n_unseen_surface == int(found.marked.sum()) > 100
    assert [(row.source, row.n_views, row.n_blind) for row in (*found.kinds, *found.planes)] == [
        ("orbit", N_VIEWS, 0), ("whole", N_VIEWS, 0)]
    assert found.kinds[0].n_seen == found.kinds[0].n_only == found.n_seen
    ui = FakeUi()
    panel.draw(ui, view, snapshot)
    assert ui.says("never seen, with a surface") and ui.says(f"{found.n_unseen_surface:,}")


def test_the_suggested_cameras_keep_their_word_and_one_stands_in_the_chamber() -> None:
    run = FitRun.from_state_dict(outside_run().state_dict())
    seen, state = run.read_field("seen_count") > 0, run.state_dict()
    found = suggest_cameras(run.flex(), seen, run.target, width=48, height=48, halo=run.config.halo)
    by_sort = {each.sort: each for each in found.found}
    assert found.n_unseen == int(run.scalars()["never_seen"]) - found.n_bare and found.n_tried > 40
    inside = by_sort["inside"]
    assert float(inside.camera.eye_world.norm()) < INNER and "outside" not in by_sort
    assert inside.n_gained > 0.6 * found.n_unseen and set(inside.rows.tolist()) <= set(
        inner(run.voxels).nonzero()[0].tolist())
    assert [each.n_gained for each in found.found] == sorted((each.n_gained for each in found.found), reverse=True)
    for each in found.found:
        run.load_state_dict(state)
        before = run.scalars()["never_seen"]
        run.change_cameras([each.camera], locked=True)  # nor is it refused
        run.run_iteration()
        assert before - run.scalars()["never_seen"] == each.n_gained > 0
        assert bool((run.read_field("seen_count")[each.rows] == 1).all())


def test_what_a_camera_would_see_is_what_a_ray_for_every_pixel_says() -> None:
    run = shell_fit()
    camera = Camera.look_at((0.05, 0.1, 0.0), (0.2, -0.3, 0.9), fov_y_degrees=100, width=12, height=12, near=0.02)
    mesh = sf.extract_mesh(run.flex(), training=True)
    faces = [face for face, _ in slow_sight(mesh, camera).values()]
    expected = torch.zeros(run.voxels.n_voxels, dtype=torch.bool)
    expected[mesh.dual_voxel[mesh.faces[faces, :2]].view(-1)] = True
    active = sf.active_voxels(run.voxels, camera)
    assert bool(expected[active].any())
    # all that lies in front of the camera is in its section, but for the rim of the picture
    assert int((seen_from(run.flex(), camera, halo=8) != expected).sum()) == 0


def test_nothing_to_suggest_is_no_failure() -> None:
    run = shell_fit(resolution=8)
    everything = torch.ones(run.voxels.n_voxels, dtype=torch.bool)
    found = suggest_cameras(run.flex(), everything, run.target)
    assert found.found == () and found.n_unseen == found.n_bare == found.n_tried == 0
    none = sf.SparseFlex.from_sdf(SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 8), torch.zeros(0))
    assert suggest_cameras(none, torch.zeros(0, dtype=torch.bool), run.target).found == ()
    bad = sf.SparseFlex.from_sdf(run.voxels, torch.full((run.voxels.n_corners,), torch.nan))
    assert suggest_cameras(bad, ~everything, run.target).n_bare == run.voxels.n_voxels


def test_a_suggestion_is_found_beside_the_window_and_added_by_a_click(view: ViewState, monkeypatch) -> None:
    for name, few in {"_N_EYES": 2, "_N_OUTSIDE": 2, "_N_CLOSE": 1, "_N_CUT": 3}.items():
        monkeypatch.setattr(next_camera, name, few)
    snapshot = seen_from_outside()
    look(view, snapshot)
    panel.draw(FakeUi({"Suggest a camera": True}), view, snapshot)
    assert view.coverage.wanting and {"target", "alpha"} <= view.scene_fields(snapshot)
    look(view, snapshot)
    view.worker.wait_for("next camera", WAIT_SECS)
    look(view, snapshot)
    ui = FakeUi()
    assert panel.draw(ui, view, snapshot) == [] and view.coverage.ghost(view) is not None
    selected = [call[1] for call in ui.calls if call[0] == "Selectable" and "suggested" in call[1]]
    best = view.coverage.suggestion(view)
    assert selected[0].startswith(f"{best.sort}: sees {best.n_gained:,} of {view.coverage.summary.n_unseen_surface:,}")
    assert view.coverage.gained(view, view.coverage.summary) is best
    assert bool(view.coverage.summary.marked[best.rows.numpy()].all())
    held = gc.get_referrers(snapshot.fields["alpha"])
    assert not any(isinstance(each, dict) and each.keys() == set(PARAMETERS) for each in held)  # the search's have gone
    commands = panel.draw(FakeUi({"Add": True}), view, snapshot)
    assert commands == [ChangeCameras((best.camera,))] and view.pinned.own is best.camera
    assert view.coverage.ghost(view) is None and view.coverage.gained(view, view.coverage.summary) is None
    look(view, snapshot)  # the run has not answered yet
    assert view.coverage.ghost(view) is None
    look(view, dataclasses.replace(snapshot, own_cameras=(best.camera,), kept_cameras=(best.camera,)))
    assert view.coverage.ghost(view) is None
    look(view, snapshot)  # deleted
    assert view.coverage.ghost(view) is not None
    assert panel.draw(FakeUi({"Add": True}), view, snapshot) == commands
    look(view, snapshot)
    assert view.coverage.ghost(view) is None
    recorded = dataclasses.replace(snapshot, source="replay")
    assert view.coverage.add(view, recorded) == [] and "branch" in view.coverage.notice


# Planted: a camera in a wall


def planted(camera: Camera) -> Snapshot:
    """A run locked to a camera that it would refuse, after six iterations with good ones."""
    run = shell_fit()
    for _ in range(6):
        run.run_iteration()
    run._own = FitCameras([camera])  # check_fixed would say so
    run._own.change([camera], True, None, 0)
    return snapshot_of(run, RunIterations(2), iteration=8)


@pytest.mark.parametrize("far, said", [(0.06, "saw no voxel"), (3.0, "from behind: in a wall?")])
def test_a_camera_in_a_wall_is_named_and_no_other(view: ViewState, far: float, said: str) -> None:
    wall = (OUTER + INNER) / 2
    camera = Camera.look_at((wall, 0, 0), (wall, 1, 0), fov_y_degrees=60, width=64, height=64, near=0.01, far=far)
    snapshot = planted(camera)
    blind = CoverageView.blind_cameras(snapshot)
    assert blind and all(seen.own is camera and said in what for seen, what in blind)
    look(view, snapshot)
    rows = {row.source: row for row in view.coverage.summary.kinds}
    assert rows["fixed"].n_views == 2 and rows["fixed"].n_blind == (2 if far < 1 else 0) and rows["orbit"].n_blind == 0
    ui = FakeUi({f"{blind[0][0].label} {blind[0][1]}##blind 0": True})
    panel.draw(ui, view, snapshot)
    assert view.pinned is blind[0][0]


@pytest.mark.parametrize("near, far, planes", [(0.5, 3.0, "whole"), (1.6, 3.0, "near cut"), (1.6, 1.7, "window")])
def test_what_cuts_it_open_is_in_no_wall(view: ViewState, near: float, far: float, planes: str) -> None:
    camera = Camera.look_at((0, 0, 1.6), (0, 0, 0), width=64, height=64, near=near, far=far)
    snapshot = planted(camera)
    seen = [each for each in snapshot.cameras if each.own is camera]
    assert seen and all((each.behind > 0.5) == (near > 1) for each in seen)
    assert CoverageView.blind_cameras(snapshot) == []
    look(view, snapshot)
    summary = view.coverage.summary
    assert {row.source: row.n_views for row in (*summary.kinds, *summary.planes)} == {
        "orbit": 6, "fixed": 2, **({"whole": 8} if planes == "whole" else {"whole": 6, planes: 2})}


# Panel, recordings, runs of one's own


def test_clicks_mark_what_a_kind_alone_has_seen_and_pick_among_the_marked(view: ViewState) -> None:
    snapshot = seen_from_outside()
    look(view, snapshot)
    view.click = Click(np.array([0.01, 0.01, 2.0]), np.array([0.0, 0.0, -1.0]))
    view.coverage.pick(view, snapshot)
    assert inner(view.split.voxels)[view.network.picked.row_of(view.split.voxels)]  # not the ball around it
    view.click = None
    ui = FakeUi()
    panel.draw(ui, view, snapshot)
    assert ui.says("loss when last seen") and ui.says("never seen")
    panel.draw(FakeUi({"orbit##added": True}), view, snapshot)
    assert view.coverage.mark == "orbit"
    look(view, snapshot)
    assert np.array_equal(view.coverage.summary.marked, snapshot.fields["seen_count"] > 0)
    panel.draw(FakeUi({"Mark the unseen again": True, "##coverage": 3}), view, snapshot)
    assert view.coverage.mark == NEVER and view.coverage.mode == "values"
    look(view, snapshot)
    assert view.coverage.summary.quantity.name == "viewing_angle" and view.coverage.summary.quantity.n_bad == 0
    view.tabs["left"] = "Field"
    assert view.coverage.in_scene(view) is None and view.coverage.ghost(view) is None


def test_what_the_last_views_have_not_seen_counts_as_unseen_where_asked(view: ViewState) -> None:
    snapshot = seen_from_outside()
    look(view, snapshot)
    never = view.coverage.summary.marked
    panel.draw(FakeUi({"##within": 3}), view, snapshot)
    assert view.coverage.within == 3 and "last_seen" in view.scene_fields(snapshot)
    look(view, snapshot)
    found, surface = view.coverage.summary, surface_of(snapshot.fields["voxels"], snapshot.fields["corner_sdf"])
    assert np.array_equal(found.marked, (snapshot.fields["last_seen"] <= N_VIEWS - 3) & surface)
    assert int(found.marked.sum()) > int(never.sum()) and bool(found.marked[never].all())
    ui = FakeUi()
    panel.draw(ui, view, snapshot)
    assert ui.says("not seen, with a surface")
    recorded = dataclasses.replace(snapshot, source="replay", iteration=2 * N_VIEWS, field_iterations={
        name: N_VIEWS for name in COVERAGE_FIELDS})
    for typed, known in ((-7, 0), (10**6, 2 * N_VIEWS)):
        panel.draw(FakeUi({"##within": typed}), view, recorded)
        look(view, recorded)
        assert view.coverage.within == known and np.array_equal(view.coverage.summary.marked, never)


def test_a_run_that_says_less_shows_less(view: ViewState) -> None:
    nothing = snapshot_of(FakeRun())
    look(view, nothing)
    ui = FakeUi()
    assert panel.draw(ui, view, nothing) == [] and ui.says("own_trainers.md")
    snapshot = seen_from_outside()
    few = {"seen_count": "voxel", "voxels": "voxels"}
    lean = dataclasses.replace(snapshot, field_kinds=few, fields={k: snapshot.fields[k] for k in few})
    look(view, lean)
    found = view.coverage.summary
    assert found.n_active is None and found.n_surface is None and found.kinds == ()
    assert found.n_unseen == int(found.marked.sum())
    view.coverage.ask()
    look(view, lean)
    assert not view.coverage.wanting and "lacks" in view.coverage.notice
    panel.draw(FakeUi(), view, lean)
    for bad in (snapshot.fields["seen_count"][:5], np.ones((len(snapshot.fields["seen_count"]), 2))):
        look(view, with_fields(snapshot, seen_count=bad))
        assert view.coverage.summary is None
    spoiled = {name: np.full(len(snapshot.fields["seen_count"]), np.nan, np.float32)
               for name in ("seen_count", "seen_by", "viewing_angle")}
    look(view, with_fields(snapshot, **spoiled))
    assert view.coverage.summary.n_seen == 0 and view.coverage.summary.kinds[0].n_seen == 0
    panel.draw(FakeUi(), view, snapshot)


def test_large_sets_are_counted_beside_the_window_and_let_go_with_the_tab(view: ViewState, monkeypatch) -> None:
    monkeypatch.setattr(coverage_view, "INLINE_VOXELS", 0)
    snapshot = seen_from_outside()
    view.frustum.background = True
    view.coverage.update(view, snapshot)
    assert view.coverage.summary is None
    for quantity in ("seen_count", "camera_count"):
        view.coverage.quantity = quantity
        view.coverage.update(view, snapshot)
        view.worker.wait_for("coverage", WAIT_SECS)
        view.coverage.update(view, snapshot)
        assert view.coverage.summary.quantity.name == quantity
        assert view.coverage.summary.n_seen == int((snapshot.fields["seen_count"] > 0).sum())
    view.tabs["left"] = "Field"
    view.coverage.update(view, snapshot)
    assert view.coverage.summary is None and view.worker.result("coverage") is None


def test_a_count_that_fails_says_why(view: ViewState, monkeypatch) -> None:
    def fails(*_) -> None:
        raise MemoryError("no room for 1e9 voxels")

    monkeypatch.setattr(coverage_view, "INLINE_VOXELS", 0)
    monkeypatch.setattr(coverage_view, "summarise", fails)
    snapshot, ui = seen_from_outside(), FakeUi()
    view.frustum.background = True
    view.coverage.update(view, snapshot)
    view.worker.wait_for("coverage", WAIT_SECS)
    view.coverage.update(view, snapshot)
    panel.draw(ui, view, snapshot)
    assert ui.says("no room for 1e9 voxels") and not ui.says("Counting")


def test_a_recording_shows_the_same(view: ViewState, tmp_path: Path) -> None:
    run = shell_fit()
    builder = RunBuilder(tmp_path / "run.h5", run)
    live = {}
    for iteration in (1, 2, 3):
        builder.iterate(1)
        live[iteration] = run.read_field("seen_count").clone()
    replay = Replay(Recording(builder.close()))
    replay.start()
    try:
        names = frozenset(view.scene_fields(replay.snapshots.latest()))
        assert names >= {"seen_count", "active_count", "seen_by", "views", "corner_sdf"}
        replay.send(RequestFields(names))
        snapshot = replay.snapshots.wait_for(lambda s: names <= s.asked, WAIT_SECS)
    finally:
        assert replay.stop()
    recorded = live.get(snapshot.field_iterations.get("seen_count", 3), torch.zeros_like(live[1]))
    assert np.array_equal(snapshot.fields["seen_count"], recorded.numpy())
    assert [seen.n_seen for seen in snapshot.cameras] == [seen.n_seen for seen in run.cameras()]
    look(view, snapshot)
    assert view.coverage.summary.n_unseen == int((recorded == 0).sum()) and snapshot.scalars["never_seen"] == int(
        (live[3] == 0).sum())
    assert view.coverage.summary.kinds[0].n_views == 3  # of every iteration


def test_bad_numbers_and_no_voxels_are_counted() -> None:
    none = SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 8)
    arrays = {"seen_count": np.zeros(0, np.int32), "seen_by": np.zeros(0, np.uint8), "corner_sdf": np.zeros(0)}
    found = summarise(none, arrays, np.zeros(0, bool), "seen_count", NEVER)
    assert found.n_seen == found.n_unseen == 0 and found.counts is None
    one = SparseVoxels(torch.tensor([[1, 1, 1]]), 8)
    tiny = {"seen_count": np.ones(1), "last_loss": np.full(1, 1e-45, np.float32), "seen_by": np.ones(1),
            "views": np.full((8, 3), np.nan, np.float32)}
    assert summarise(one, tiny, np.ones(1, bool), "last_loss", NEVER).counts.sum() == 1
    for bad in (np.nan, np.inf):
        values = {"last_loss": np.full(1, bad, np.float32), "corner_sdf": np.full(8, bad, np.float32)}
        found = summarise(one, {"seen_count": np.ones(1), **values}, np.ones(1, bool), "last_loss", NEVER)
        assert found.n_seen == 1 and found.counts is None


def test_recorded_cameras_keep_what_they_saw_and_old_ones_are_read() -> None:
    camera = orbit_camera(0.0, 0.0, 2.0)
    listed = (RunCamera(camera, "orbit", 0.5, 10, 3, n_seen=7, behind=0.25), RunCamera(camera, "zoom"))
    value = cameras_value(Cameras(listed))
    again = cameras_of(value).listed
    assert [(c.n_seen, c.behind, c.iteration) for c in again] == [(7, 0.25, 3), (None, None, None)]
    value["listed"] = np.ascontiguousarray(value["listed"][:, :6])
    assert [(c.n_seen, c.behind, c.n_active) for c in cameras_of(value).listed] == [(None, None, 10), (None,) * 3]
    value["listed"] = value["listed"][:, :5]
    with pytest.raises(ValueError, match="8 columns"):
        cameras_of(value)


@pytest.mark.parametrize("high", [0, 1, 31, 32, 33, 64, 500])
def test_bins_of_counts_hold_as_many_whole_numbers_each(high: int) -> None:
    """Else a smooth histogram has gaps and peaks."""
    counts, edges = np.histogram(np.arange(high + 1.0), bin_edges(np.arange(high + 1.0), 32))
    assert counts.sum() == high + 1 and len(counts) <= 32
    assert (counts[:-1] == counts[0]).all() and counts[-1] <= counts[0]


def test_bins_of_lengths_cover_them() -> None:
    for values in ([0.25], [-1.5, 2.0], [1e-30, 3e-30]):
        edges = bin_edges(np.array(values), 32)
        assert len(edges) == 33 and edges[0] == min(0.0, values[0]) and edges[-1] >= max(values)
