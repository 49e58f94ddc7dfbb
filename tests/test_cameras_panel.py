"""Cameras: the table and its order, checks and locks, and cameras that are placed by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from fake_ui import FakeUi
from test_fit import octahedron

import sparseflex as sf
from sparseflex.placing import camera_inside, enclosed, free_point, ray_hits
from sparseflex.sampling import require_clearance
from sparseflex.shapes import make_shape
from sparseflex.training.run import RunCamera
from workbench.camera_view import CameraView, is_aside, same_camera
from workbench.commands import ChangeCameras
from workbench.panels import COLUMNS, cameras
from workbench.snapshot import MeshArrays, Snapshot
from workbench.view_state import Click, ViewState

WAIT_SECS = 20


def eye(x: float, near: float = 1.0) -> sf.Camera:
    return sf.Camera.look_at((x, 0.2, 1.5), (0, 0, 0), width=40, height=30, near=near, far=2.2)


OWN, UNUSED = eye(0.7), eye(0.8)


def seen(kind: str, iteration: int, loss: float | None, camera: sf.Camera | None = None, **more) -> RunCamera:
    return RunCamera(camera or eye(0.1 * iteration), kind, loss, 100 * iteration, iteration, **more)


SEEN = (
    seen("orbit", 5, 0.5),
    seen("fixed", 4, 0.2, camera=OWN.with_planes(1.1, 2.0), own=OWN),
    seen("zoom", 3, math.nan),
    seen("fixed", 2, 0.9, camera=OWN.with_planes(1.3, 1.9), own=OWN),
    seen("interior", 1, 0.1),
    RunCamera(UNUSED, "fixed", own=UNUSED),
)


@pytest.fixture
def view() -> Iterator[ViewState]:
    state = ViewState()
    yield state
    assert state.worker.stop()


@pytest.fixture
def shown() -> Snapshot:
    target = make_shape("nested_shells")
    arrays = MeshArrays(target.vertices.numpy(), target.faces.int().numpy())
    return Snapshot(cameras=SEEN, own_cameras=(OWN, UNUSED), kept_cameras=(OWN, UNUSED), fields={"target": arrays},
                    field_kinds={"target": "mesh"}, stages=("update",), stage_next="update")


# -- the table ------------------------------------------------------------------------------------------------


def test_of_each_own_camera_the_latest_use_and_the_recent_others(shown: Snapshot) -> None:
    assert CameraView().rows(shown) == [SEEN[0], SEEN[1], SEEN[2], SEEN[4], SEEN[5]]


def test_a_camera_that_the_run_is_locked_to_has_one_row(shown: Snapshot) -> None:
    drawn = SEEN[2]
    locked = RunCamera(drawn.camera, "fixed", own=drawn.camera)
    unused = dataclasses.replace(shown, cameras=(*SEEN, locked), own_cameras=(drawn.camera,), cameras_locked=True)
    assert [row for row in CameraView().rows(unused) if row.camera is drawn.camera] == [drawn]
    used = dataclasses.replace(locked, loss=0.1, iteration=9)
    once = dataclasses.replace(unused, cameras=(used, *SEEN))
    assert [row for row in CameraView().rows(once) if row.camera is drawn.camera] == [used]


@pytest.mark.parametrize("column, descending, expected", [
    ("loss", True, [0, 1, 4, 2, 5]), ("loss", False, [4, 1, 0, 2, 5]), ("used", False, [4, 2, 1, 0, 5]),
    ("near", True, [1, 0, 2, 4, 5]), ("active", True, [0, 1, 2, 4, 5]), ("kind", False, [1, 5, 4, 0, 2]),
    ("no such column", True, [0, 1, 2, 4, 5]),
])
def test_sorted_by_any_column_with_what_is_not_known_last(shown, column, descending, expected) -> None:
    camera_view = CameraView(sorted_by=column, descending=descending)
    assert [SEEN.index(row) for row in camera_view.rows(shown)] == expected
    assert camera_view.rows(shown) is camera_view.rows(shown)


def test_colours_go_by_loss_and_the_selected_stands_out(shown: Snapshot) -> None:
    camera_view, grey, white = CameraView(), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)
    drawn = camera_view.shown(shown, SEEN[3], grey, white)  # an older use of a fixed camera is the same camera
    assert drawn.selected == 1 and drawn.colours[1].tolist() == [1, 1, 1] and len(drawn.cameras) == 5
    assert drawn.colours[4].tolist() == [0.5, 0.5, 0.5]  # no loss yet
    scale = camera_view.loss_scale(shown)
    assert (scale.low, scale.high) == (0.1, 0.5)
    assert np.allclose(drawn.colours[[0, 3]], scale.colours(np.array([0.5, 0.1])))
    assert drawn.colours[2].tolist() == scale.colours(np.array([math.nan]))[0].tolist()  # NaN in its own colour
    assert camera_view.shown(shown, SEEN[3], grey, white) is drawn
    assert camera_view.shown(shown, None, grey, white) is not drawn
    assert camera_view.shown(Snapshot(), None, grey, white) is None
    from_here = camera_view.shown(shown, None, grey, white, SEEN[4].camera)  # what stands at the view's eye is left out
    assert len(from_here.cameras) == 4 and SEEN[4].camera not in from_here.cameras
    only = dataclasses.replace(shown, cameras=SEEN[4:5])
    assert camera_view.shown(only, None, grey, white, SEEN[4].camera) is None
    one = dataclasses.replace(shown, cameras=SEEN[:1])
    assert camera_view.loss_scale(one).low < camera_view.loss_scale(one).high


def test_the_panel_draws_every_row_and_a_click_selects(view: ViewState, shown: Snapshot) -> None:
    ui = FakeUi({"zoom##row 2": True})
    assert cameras.draw(ui, view, shown) == []
    assert view.pinned is SEEN[2]
    for text in ("5, coloured by loss", "0.2", "400", "1.1", "nan", "–"):
        assert ui.says(text), text
    assert cameras.fields(view, shown) == {"target"} and cameras in COLUMNS["left"].values()


def test_a_pinned_own_camera_is_shown_as_it_was_used_last(view: ViewState, shown: Snapshot) -> None:
    view.pinned = SEEN[3]
    assert view.selected_camera(shown) is SEEN[1] and view.selected_index(shown) == 1
    view.pinned = SEEN[2]
    assert view.selected_camera(shown) is SEEN[2] and view.selected_index(shown) == 2


@pytest.mark.parametrize("snapshot", [
    Snapshot(), Snapshot(own_cameras=()), Snapshot(cameras=SEEN), Snapshot(cameras=SEEN[5:], own_cameras=(UNUSED,)),
    Snapshot(cameras=SEEN[2:3], own_cameras=(), stopped=True),
])
def test_no_camera_one_camera_and_a_run_that_keeps_its_own(view: ViewState, snapshot: Snapshot) -> None:
    uses = {"Look through": True, "Add this view": True, "Add inside…": True, "Delete": True,
            "Draw only the checked##lock": True}
    cameras.draw(FakeUi(uses), view, snapshot)
    cameras.draw(FakeUi(), view, snapshot)


def test_only_rows_in_sight_are_drawn() -> None:
    assert cameras.visible_rows(5, 0.0, 200.0, 20.0) == (0, 5)
    for scrolled in (0.0, 15.0, 300.0, 1000.0, 1120.0):
        first, last = cameras.visible_rows(66, scrolled, 200.0, 20.0)
        assert first % 2 == 0 and first * 20 <= scrolled and (last * 20 >= scrolled + 200 or last == 66)
        assert last - first <= 15
    assert cameras.visible_rows(3, 1e6, 200.0, 0.0)[1] == 3 and cameras.visible_rows(0, 0.0, 200.0, 20.0) == (0, 0)


def test_headers_sort_and_turn_the_order_over(view: ViewState, shown: Snapshot) -> None:
    for name, expected in (("loss", ("loss", True)), ("loss", ("loss", False)), ("kind", ("kind", False))):
        cameras.draw(FakeUi({f"##sort {name}": True}), view, shown)
        assert (view.cameras.sorted_by, view.cameras.descending) == expected


# -- what is asked of the run ---------------------------------------------------------------------------------


def obeyed(snapshot: Snapshot, commands: list[ChangeCameras]) -> Snapshot:
    """The snapshot as it is once the run has followed."""
    for command in commands:
        own, kept = command.cameras, command.cameras if command.kept is None else command.kept
        listed = [known if known.own is None or any(known.own is camera for camera in (*own, *kept))
                  else dataclasses.replace(known, own=None) for known in snapshot.cameras]
        listed = [known for known in listed if known.own is not None or known.iteration is not None]
        listed += [RunCamera(camera, "fixed", own=camera) for camera in {*own, *kept}
                   if not any(known.own is camera for known in listed)]
        snapshot = dataclasses.replace(snapshot, own_cameras=own, cameras_locked=command.locked, cameras=tuple(listed),
                                       kept_cameras=kept)
    return snapshot


def test_locking_sets_the_others_aside_and_unlocking_brings_them_back(view: ViewState, shown: Snapshot) -> None:
    camera_view, drawn = view.cameras, SEEN[4]
    assert camera_view.lock(True, shown) == [] and "check the cameras" in camera_view.notice
    camera_view.check(SEEN[1], True, shown)
    camera_view.check(drawn, True, shown)
    locked = obeyed(shown, cameras.draw(FakeUi({"Draw only the 2 checked##lock": True}), view, shown))
    assert locked.own_cameras == (OWN, drawn.camera) and locked.cameras_locked
    rows = camera_view.rows(locked)
    assert [row.own for row in rows if is_aside(row, locked)] == [UNUSED]
    assert sum(camera_view.is_checked(row) for row in rows) == 2
    # another check follows at once, the last check can't go
    fewer = obeyed(locked, camera_view.check(SEEN[1], False, locked))
    assert fewer.own_cameras == (drawn.camera,) and fewer.cameras_locked
    assert camera_view.check(camera_view.checked[0], False, fewer) == [] and "locked" in camera_view.notice
    more = obeyed(fewer, camera_view.check(next(r for r in camera_view.rows(fewer) if r.own is UNUSED), True, fewer))
    assert set(map(id, more.own_cameras)) == {id(drawn.camera), id(UNUSED)}
    free = obeyed(more, camera_view.lock(False, more))
    assert set(map(id, free.own_cameras)) == {id(OWN), id(UNUSED)} and not free.cameras_locked
    assert not any(is_aside(row, free) for row in camera_view.rows(free))


def test_deleting(view: ViewState, shown: Snapshot) -> None:
    camera_view = view.cameras
    assert not camera_view.can_delete(SEEN[0], shown) and not camera_view.can_delete(None, shown)
    view.pinned = SEEN[1]
    rest = obeyed(shown, cameras.draw(FakeUi({"Delete": True}), view, shown))
    assert rest.own_cameras == (UNUSED,) and view.pinned is None
    assert not camera_view.can_delete(dataclasses.replace(SEEN[1], own=None), rest)
    # the only one that a run is locked to: it is unlocked
    camera_view.check(rest.cameras[-1], True, rest)
    locked = obeyed(rest, camera_view.lock(True, rest))
    assert camera_view.delete(rest.cameras[-1], locked) == [ChangeCameras((), locked=False)]


def test_deleting_what_is_set_aside_leaves_the_lock(view: ViewState, shown: Snapshot) -> None:
    camera_view = view.cameras
    camera_view.check(SEEN[1], True, shown)
    locked = obeyed(shown, camera_view.lock(True, shown))
    aside = next(row for row in camera_view.rows(locked) if is_aside(row, locked))
    assert camera_view.can_delete(aside, locked)
    fewer = obeyed(locked, camera_view.delete(aside, locked))
    assert fewer.own_cameras == (OWN,) and fewer.cameras_locked
    assert obeyed(fewer, camera_view.lock(False, fewer)).own_cameras == (OWN,)


def test_what_a_run_comes_locked_to_is_checked(view: ViewState, shown: Snapshot) -> None:
    """As from a checkpoint, or by a step back; what is checked by hand then stays so."""
    view.cameras.checked = [SEEN[2]]
    locked = dataclasses.replace(shown, own_cameras=(OWN,), cameras_locked=True)
    cameras.draw(FakeUi(), view, locked)
    assert view.cameras.checked == [SEEN[1]]
    view.cameras.check(SEEN[2], True, locked)
    cameras.draw(FakeUi(), view, locked)
    assert len(view.cameras.checked) == 2
    other = ViewState()  # a new one adds to the lock even if its panel was never seen
    new = sf.Camera.look_at((2.0, 0, 0), (0, 0, 0))
    _, (change,) = other.cameras.add(new, locked)
    assert change == ChangeCameras((OWN, new), locked=True, kept=(OWN, UNUSED, new))


def test_look_through_is_left_for_the_window(view: ViewState, shown: Snapshot) -> None:
    view.pinned = SEEN[2]
    cameras.draw(FakeUi({"Look through": True}), view, shown)
    assert view.cameras.look_through is SEEN[2].camera


# -- placed by hand -------------------------------------------------------------------------------------------


def test_the_view_becomes_a_camera_that_encloses_what_it_sees(view: ViewState, shown: Snapshot) -> None:
    view.view_camera = sf.Camera.look_at((2.0, 1.0, 1.0), (0.1, 0, 0), width=90, height=50)
    command = cameras.draw(FakeUi({"Add this view": True}), view, shown)[0]
    added = command.cameras[-1]
    assert command.cameras[:2] == (OWN, UNUSED) and not command.locked and view.pinned.own is added
    depths = added.depth_of(torch.from_numpy(shown.fields["target"].vertices).double())
    assert 0.5 < added.near < float(depths.min()) and added.far > float(depths.max())
    assert torch.equal(added.camera_from_world, view.view_camera.camera_from_world) and added.width == 90


def test_a_view_from_within_a_wall_is_refused_in_a_line(view: ViewState, shown: Snapshot) -> None:
    wall = shown.fields["target"].vertices[0] * 0.995
    view.view_camera = sf.Camera.look_at(torch.from_numpy(wall), (0, 0, 0))
    ui = FakeUi({"Add this view": True})
    assert cameras.draw(ui, view, shown) == [] and ui.says("must keep a clearance of 0.03 to the surface")
    view.view_camera = sf.Camera.look_at((2, 0, 0), (3, 0, 0))
    ui = FakeUi({"Add this view": True})
    assert cameras.draw(ui, view, shown) == [] and ui.says("must have the target in front of it")


def test_a_click_in_a_room_places_a_camera_there(view: ViewState, shown: Snapshot) -> None:
    click = Click(np.array([0.0, 0.0, 2.0]), np.array([0.0, 0.0, -1.0]))
    view.click = click
    assert cameras.draw(FakeUi(), view, shown) == []  # a click means nothing before one asks for it
    view.click = None
    cameras.draw(FakeUi({"Add inside…": True}), view, shown)
    assert view.cameras.picking
    view.click = click
    cameras.draw(FakeUi(), view, shown)
    view.click = None
    view.worker.wait_for("camera inside", WAIT_SECS)
    command = cameras.draw(FakeUi(), view, shown)[0]
    target = sf.Mesh(torch.tensor(shown.fields["target"].vertices), torch.tensor(shown.fields["target"].faces).long())
    added = command.cameras[-1]
    assert require_clearance(added.eye_world, target, 0.03) and not view.cameras.picking
    assert torch.allclose(added.forward_world, torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64))
    assert (added.width, added.height) == (40, 30) and view.pinned.own is added
    assert cameras.draw(FakeUi(), view, shown) == []  # placed once


def test_a_click_beside_everything_says_so(view: ViewState, shown: Snapshot) -> None:
    view.cameras.picking = True
    view.click = Click(np.array([0.0, 3.0, 2.0]), np.array([0.0, 0.0, -1.0]))
    cameras.draw(FakeUi(), view, shown)
    view.worker.wait_for("camera inside", WAIT_SECS)
    view.click, ui = None, FakeUi()
    assert cameras.draw(ui, view, shown) == []
    assert ui.says("needs a ray that meets the target")


def test_ray_hits_by_a_slow_twin() -> None:
    target = octahedron()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        origin = torch.randn(3, generator=generator, dtype=torch.float64) * 1.5
        ray = -origin + 0.3 * torch.randn(3, generator=generator, dtype=torch.float64)
        expected = []
        for face in target.faces:
            a, b, c = target.vertices[face].double()
            # solve origin + t ray = a + u (b - a) + v (c - a)
            solution = torch.linalg.solve(torch.stack([-ray, b - a, c - a], dim=1), origin - a)
            t, u, v = solution.tolist()
            if u >= 0 and v >= 0 and u + v <= 1 and t > 0:
                expected.append(t)
        assert torch.allclose(ray_hits(target, origin, ray), torch.tensor(sorted(expected), dtype=torch.float64))
    assert ray_hits(target, (0.0, 0.0, 2.0), (0.0, 0.0, -1.0)).tolist() == pytest.approx([1.5, 2.5])  # through corners
    empty = sf.Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert len(ray_hits(empty, (0, 0, 2.0), (0, 0, -1.0))) == 0


def test_the_point_inside_is_in_the_first_room_and_has_the_most_room_on_the_ray() -> None:
    target = octahedron()
    point = free_point(target, (0.1, 0.0, 2.0), (0.0, 0.0, -1.0))
    assert abs(float(point[2])) < 0.03 and point[:2].tolist() == [0.1, 0.0]
    with pytest.raises(ValueError, match="surface in 75% of all directions, got at most"):
        free_point(target, (0.49, 0.0, 2.0), (0.0, 0.0, -1.0))
    corners = [[x, y, z] for y in (0.0, 0.04) for x, z in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
    plate = sf.Mesh(torch.tensor(corners), torch.tensor([[0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 7, 6]]))
    with pytest.raises(ValueError, match=r"clearance of 0.03 to the surface, got at most 0.0\d+ along this ray"):
        free_point(plate, (0.1, 2.0, 0.2), (0.0, -1.0, 0.0))
    sheet = sf.Mesh(torch.tensor([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0.4, 0.5]]), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="surface in 75% of all directions, got at most"):
        free_point(sheet, (0.2, 2.0, -0.2), (0.0, -1.0, 0.0))
    inside = camera_inside(make_shape("house"), (0.2, 2.0, 0.1), (0.0, -1.0, 0.02), width=64, height=48)
    assert require_clearance(inside.eye_world, make_shape("house"), 0.03) and (inside.width, inside.height) == (64, 48)


def test_planes_enclose_from_outside_and_from_within() -> None:
    target = octahedron()
    within = enclosed(sf.Camera.look_at((0.05, 0, 0), (1, 0.2, 0), fov_y_degrees=90, near=3.0, far=4.0), target)
    assert within.near < 0.25 and within.far > 0.45
    with pytest.raises(ValueError, match="clearance"):
        enclosed(sf.Camera.look_at((0.165, 0.165, 0.165), (1, 0, 0)), target)


def test_same_camera() -> None:
    assert same_camera(SEEN[1], SEEN[3]) and not same_camera(SEEN[1], SEEN[5]) and not same_camera(SEEN[0], SEEN[2])
    assert same_camera(SEEN[0], dataclasses.replace(SEEN[0], own=SEEN[0].camera))
