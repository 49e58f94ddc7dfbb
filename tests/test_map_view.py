"""Maps: which are shown, their colours by hand, what a pixel reads, and the panel under a mouse."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_run import FakeRun
from fake_ui import FakeUi
from fit_snapshots import small_fit, snapshot_of, with_fields

from sparseflex.camera import Camera
from sparseflex.frustum import active_voxels
from sparseflex.mesh import Mesh
from sparseflex.render import pixel_rays, render_maps
from sparseflex.training.run import RunCamera
from workbench import map_colours, theme
from workbench.commands import RunIterations
from workbench.map_view import MapSet, MapView, point_at, read, rendered_camera, rim_of, voxel_at
from workbench.panels import maps as panel
from workbench.section_work import Section
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState

WAIT_SECS = 60


@pytest.fixture(scope="module")
def fitted() -> Snapshot:
    return snapshot_of(small_fit(visibility_ratio=0.6, anchor="front", halo=1, image_size=40), RunIterations(3),
                       iteration=3)


@pytest.fixture
def view() -> Iterator[ViewState]:
    state = ViewState()
    state.tabs = {"left": "Frustum", "right": "Maps"}
    yield state
    assert state.worker.stop(WAIT_SECS)


class MousedUi(FakeUi):
    """A FakeUi whose mouse rests on the image drawn as the `over`-th, at a share of its width and height."""

    def __init__(self, over: int = -1, share: tuple[float, float] = (0.5, 0.5), clicked: bool = False,
                 double: bool = False, wheel: float = 0.0, uses: dict[str, Any] | None = None) -> None:
        super().__init__(uses)
        fake, ui, self.size = self.im, self, (1.0, 1.0)
        self.n_images = 0

        class Mouse:
            def __getattr__(self, name: str) -> Any:
                return getattr(fake, name)

            def Image(self, source: Any, size: tuple[float, float]) -> None:
                ui.n_images, ui.size = ui.n_images + 1, size
                ui.is_image = True

            def IsItemHovered(self) -> bool:
                was, ui.is_image = ui.is_image, False
                return was and ui.n_images - 1 == over

            def GetMousePos(self) -> tuple[float, float]:
                return 10.0 + share[0] * ui.size[0], 10.0 + share[1] * ui.size[1]

            def IsMouseClicked(self, button: int) -> bool:
                return clicked

            def IsMouseDoubleClicked(self, button: int) -> bool:
                return double

            def GetIO(self) -> Any:
                return type("Io", (), {"MouseWheel": wheel})()

        self.is_image = False
        self.im = Mouse()


def shown(view: ViewState, snapshot: Snapshot, ui: FakeUi | None = None) -> FakeUi:
    """The panel once the worker has found what it was asked for."""
    view.frustum.update(view, snapshot)
    view.maps.update(view, snapshot)
    for key in ("section", "rim", "maps"):
        view.worker.wait_for(key, WAIT_SECS)
    ui = ui or FakeUi()
    assert panel.draw(ui, view, snapshot) == []
    return ui


# Which maps


def test_the_runs_own_maps_with_the_camera_that_they_are_of(view: ViewState, fitted: Snapshot) -> None:
    ui = shown(view, fitted)
    maps = view.maps.maps
    assert maps.names == ("depth", "normal", "mask") and maps.size == (40, 40)
    assert maps.rendered["depth"] is fitted.fields["rendered_depth"] and maps.camera is fitted.cameras[0].camera
    assert ui.says(fitted.cameras[0].label) and len(ui.textures.shown) == 9
    ui.textures.shown.clear()
    shown(view, fitted, ui)
    assert not ui.textures.shown  # the same arrays: nothing to send
    view.show_difference = False
    assert len(shown(view, fitted).textures.shown) == 6


def test_before_this_iterations_rendering_the_maps_are_of_the_last_one() -> None:
    own = snapshot_of(small_fit(image_size=40), RunIterations(1), iteration=1)
    assert rendered_camera(own) is own.cameras[0]
    early, late = (snapshot_of(small_fit(image_size=40), RunIterations(1), iteration=1, stage=stage)
                   for stage in ("extract", "render"))
    assert early.cameras[0].iteration == 2 and rendered_camera(early).iteration == 1
    assert rendered_camera(early) is early.cameras[1]
    assert rendered_camera(late) is late.cameras[0]
    assert np.array_equal(early.fields["rendered_depth"], own.fields["rendered_depth"])
    assert rendered_camera(Snapshot()) is None


def test_another_cameras_maps_are_rendered_by_the_worker(view: ViewState, fitted: Snapshot) -> None:
    view.select_camera(fitted, 2)
    ui = shown(view, fitted)
    camera, surface = view.frustum.look.camera, fitted.fields["surface"]
    maps = view.maps.maps
    own = render_maps(Mesh(torch.tensor(surface.vertices), torch.tensor(surface.faces).long()), camera)
    assert maps.looked is camera and ui.says(f"{fitted.cameras[2].label}, iteration 3")
    for name in ("depth", "normal", "mask"):
        assert np.array_equal(maps.rendered[name], getattr(own, name).numpy())
    assert np.array_equal(maps.triangle, own.triangle_id.numpy()) and (maps.target["mask"] > 0.5).any()
    assert {"surface", "target"} <= view.maps.scene_fields(view, fitted)
    assert panel.fields(view, fitted) == {"voxels"}
    view.pinned = None
    shown(view, fitted)
    assert view.maps.maps.rendered["depth"] is fitted.fields["rendered_depth"]
    assert "rendered_triangle" in panel.fields(view, fitted) and not view.maps.scene_fields(view, fitted)


def test_while_the_run_plays_one_row_is_brought_up_to_date_a_redraw(view: ViewState, fitted: Snapshot) -> None:
    playing = dataclasses.replace(fitted, playing=True)
    ui = shown(view, playing)
    assert len(ui.textures.shown) == 9  # there was nothing to keep
    for number in range(3):
        ui.textures.shown.clear()
        later = with_fields(playing, **{name: values + 0 for name, values in fitted.fields.items()
                                        if name.startswith(("rendered_", "target_"))})
        shown(view, later, ui)
        rows = {key.split()[1] for key in ui.textures.shown}
        assert len(ui.textures.shown) == 3 and len(rows) == 1, number
    ui.textures.shown.clear()
    shown(view, with_fields(fitted, rendered_depth=fitted.fields["rendered_depth"] + 0), ui)
    assert len(ui.textures.shown) == 9  # at rest, all at once
    view.redraw.ui_secs = 2 * panel.SLOW_SECS  # redraws are rare: no row may be of another camera for seconds
    ui.textures.shown.clear()
    shown(view, with_fields(playing, rendered_depth=fitted.fields["rendered_depth"] + 0), ui)
    assert len(ui.textures.shown) == 9


def test_small_pictures_leave_out_pixels_that_would_not_be_drawn(view: ViewState, fitted: Snapshot) -> None:
    wide = Camera.look_at((0.9, 0.5, 1.4), (0, 0, 0), fov_y_degrees=50, width=300, height=100)
    view.pinned = RunCamera(wide, "view")
    ui = shown(view, fitted)  # each of three is 88 pixels wide
    assert ui.textures.shown["rendered depth"].shape == (34, 100, 3)
    assert np.array_equal(ui.textures.shown["difference depth"],
                          view.maps.maps.colours("difference", "depth", None)[::3, ::3])


def test_a_view_that_is_not_square(view: ViewState, fitted: Snapshot) -> None:
    wide = Camera.look_at((0.9, 0.5, 1.4), (0, 0, 0), fov_y_degrees=50, width=50, height=20)
    view.pinned = RunCamera(wide, "view")
    ui = shown(view, fitted)
    assert view.maps.maps.size == (20, 50) and ui.says("the view itself")
    assert ui.textures.shown["rendered depth"].shape == (20, 50, 3)


# Colours


def plain_range(rendered: np.ndarray, target: np.ndarray, resolution: int = 10) -> map_colours.MapRange:
    return map_colours.range_of(rendered, target, resolution)


def test_depth_maps_share_a_range_near_is_bright_and_nothing_is_background() -> None:
    near, far = np.array([[1.0, 0.0, 2.0]], np.float32), np.array([[0.0, 3.0, 2.0]], np.float32)
    shared = plain_range(near, far)
    assert shared.depth == (1.0, 3.0) and shared.unit_name == "voxels"
    a, b = (map_colours.colour_map("depth", values, shared) for values in (near, far))
    assert np.array_equal(a[0, 2], b[0, 2]) and a[0, 0].sum() > a[0, 2].sum() > b[0, 1].sum()
    assert np.allclose(a[0, 1], map_colours.background()) and np.allclose(b[0, 0], map_colours.background())


def test_depth_difference_is_signed_in_voxels() -> None:
    rendered = np.array([[1.0, 0.0, 1.5, 2.2, np.nan, 0.0]], np.float32)
    target = np.array([[1.0, 2.0, 2.0, 2.0, 1.0, 0.0]], np.float32)
    shared = plain_range(rendered, target)
    away = map_colours.difference("depth", rendered, target, shared)
    assert np.allclose(away, [[0, np.inf, -5, 2, np.nan, 0]], equal_nan=True, atol=1e-5)
    assert shared.difference == 5.0
    pixels = map_colours.colour_difference("depth", rendered, target, shared)
    scale = map_colours.difference_scale("depth", shared)
    assert scale.low == -scale.high
    assert np.allclose(pixels[0, [0, 2, 3]], scale.colours(np.array([0.0, -5.0, 2.0])), atol=1e-6)
    assert np.allclose(pixels[0, 1], map_colours.IN_ONE_ONLY) and np.allclose(pixels[0, 4], theme.NOT_A_NUMBER)
    assert np.allclose(pixels[0, 5], map_colours.background())


def test_normals_differ_by_their_angle() -> None:
    up = np.array([[[0.0, 1.0, 0.0]] * 4], np.float32)
    tilted = np.array([[[0, np.cos(np.pi / 6), np.sin(np.pi / 6)], [0, 1, 0], [0, 0, 0], [np.nan, 0, 1]]], np.float32)
    shared = plain_range(np.ones((1, 4)), np.ones((1, 4)))
    away = map_colours.difference("normal", tilted, up, shared)
    assert np.allclose(away, [[30, 0, np.inf, np.nan]], equal_nan=True, atol=1e-4)
    pixels = map_colours.colour_map("normal", tilted, shared)
    assert np.allclose(pixels[0, 1], [0.5, 1.0, 0.5]) and np.allclose(pixels[0, 3], theme.NOT_A_NUMBER)
    assert np.allclose(pixels[0, 2], map_colours.background())
    tiny = np.array([1.0, 1e-7, 0.0])
    assert map_colours.angle_degrees(tiny, np.array([1.0, 0, 0])) == pytest.approx(np.degrees(1e-7), rel=1e-6)


@pytest.mark.parametrize(("value", "up"), [(1.0, 1.0), (1.01, 2.0), (0.012, 0.02), (7.0, 10.0), (50.0, 50.0)])
def test_ranges_end_at_round_numbers(value: float, up: float) -> None:
    assert map_colours.round_up(value) == pytest.approx(up)


def test_rim_pixels_are_marked_in_what_was_rendered(view: ViewState, fitted: Snapshot) -> None:
    view.select_camera(fitted, 1)
    view.frustum.adapted, view.frustum.halo, view.frustum.ratio = True, 0, 0.3
    ui = shown(view, fitted)
    differs = view.frustum.rim_found(view).differs
    assert differs.any() and rim_of(view.maps.maps, view) is differs and ui.says(f"rim {int(differs.sum()):,}")
    for name in ("depth", "normal", "mask"):
        marked = np.isclose(ui.textures.shown[f"rendered {name}"], np.array(map_colours.rim_colour())).all(-1)
        assert np.array_equal(marked, differs)
        assert not np.isclose(ui.textures.shown[f"target {name}"], np.array(map_colours.rim_colour())).all(-1).any()
    ui = MousedUi(uses={"Mark rim pixels": False})
    shown(view, fitted, ui)
    assert rim_of(view.maps.maps, view) is None
    view.frustum.rim_marks = True
    assert rim_of(view.maps.maps, view) is differs
    assert rim_of(dataclasses.replace(view.maps.maps, looked=fitted.cameras[1].camera), view) is None


# The probe


def test_a_pixel_reads_what_is_there(view: ViewState, fitted: Snapshot) -> None:
    shown(view, fitted)
    maps, voxels, mesh = view.maps.maps, fitted.fields["voxels"], fitted.fields["mesh"]
    hits = np.argwhere((maps.rendered["depth"] > 0) & (maps.target["depth"] > 0))
    assert len(hits) > 50
    for pixel in map(tuple, hits[::37]):
        reading = read(maps, pixel, voxels)
        depth, target = maps.rendered["depth"][pixel], maps.target["depth"][pixel]
        assert reading.depth == (depth, target)
        assert reading.depth_away == pytest.approx((float(depth) - float(target)) * voxels.resolution, rel=1e-5)
        flat = torch.tensor([pixel[0] * maps.camera.width + pixel[1]])
        ray = torch.stack(pixel_rays(maps.camera, flat, torch.float64))[:, 0]
        assert np.allclose(reading.world, (maps.camera.eye_world + float(depth) * ray).numpy(), atol=1e-9)
        # the triangle's plane holds the point
        corners = mesh.vertices[mesh.faces[reading.triangle]].astype(np.float64)
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        assert abs((reading.world - corners[0]) @ normal) / np.linalg.norm(normal) < 1e-4
        cell = (voxels.voxel_ijk.numpy() == np.array(reading.voxel)).all(1).nonzero()[0]
        assert list(cell) == ([reading.row] if reading.row >= 0 else [])
        if reading.row >= 0:
            is_active = bool(active_voxels(voxels, maps.looked)[reading.row])
            assert (reading.state == "active") == is_active
        assert reading.angle == pytest.approx(float(np.degrees(np.arccos(np.clip(
            maps.rendered["normal"][pixel] @ maps.target["normal"][pixel], -1, 1)))), abs=0.05)


def test_a_pixel_that_hits_nothing_or_holds_no_number(fitted: Snapshot) -> None:
    camera = Camera.look_at((0, 0, 2), (0, 0, 0), width=2, height=1)
    depth = np.array([[0.0, np.nan]], np.float32)
    normal, mask = np.zeros((1, 2, 3), np.float32), np.zeros((1, 2), np.float32)
    values = {"depth": depth, "normal": normal, "mask": mask}
    maps = MapSet(values, values, np.full((1, 2), -1), camera, camera, "x", 1, plain_range(depth, depth))
    nothing, no_number = (read(maps, (0, column), fitted.fields["voxels"]) for column in (0, 1))
    assert nothing.depth == (None, None) and nothing.world is None and nothing.triangle is None and nothing.row == -1
    assert np.isnan(no_number.depth[0]) and no_number.world is None and no_number.voxel is None
    for reading in (nothing, no_number):
        assert all(isinstance(value, str) for _, value in panel.lines_of(reading, maps))
    assert maps.n_bad == 2 and maps.n_in_one == 0


def test_what_is_in_the_halo_is_told_from_what_is_inactive(view: ViewState, fitted: Snapshot) -> None:
    voxels = fitted.fields["voxels"]
    camera = Camera.look_at((0.9, 0.5, 1.4), (0, 0, 0), fov_y_degrees=40, width=2, height=2, near=0.1, far=0.2)
    at = voxels.centers[7].numpy()
    depth = float(camera.depth_of(voxels.centers[7]))
    maps = MapSet({}, {}, None, camera, camera, "", 0, plain_range(np.ones((1, 1)), np.ones((1, 1))))
    in_section = np.zeros(voxels.n_voxels, bool)
    section = Section(camera, in_section, 0, 0, None, 0)
    assert depth > camera.far
    assert voxel_at(maps, at, voxels, section)[1:] == (7, "inactive")
    in_section[7] = True
    assert voxel_at(maps, at, voxels, section)[1:] == (7, "halo")
    other = dataclasses.replace(section, camera=camera.with_planes(0.1, 0.3))
    assert voxel_at(maps, at, voxels, other)[1:] == (7, "inactive")
    assert voxel_at(maps, np.array([9.0, 0, 0]), voxels, None)[1] == -1


def test_hovering_reads_and_a_click_keeps(view: ViewState, fitted: Snapshot) -> None:
    ui = shown(view, fitted, MousedUi(over=4, share=(0.51, 0.26), clicked=True))  # the target's normals
    assert view.maps.hover == (10, 20) == view.maps.kept and ui.says("row 10, column 20")
    ui = shown(view, fitted, MousedUi())
    assert view.maps.hover is None and view.maps.probed == (10, 20) and ui.says("kept")
    hit = view.maps.maps.rendered["depth"][10, 20]
    assert hit > 0
    assert np.allclose(view.maps.probe_world, point_at(view.maps.maps.camera, (10, 20), float(hit)))
    crosses = [call for call in ui.calls if call[0] == "AddLine"]
    assert len(crosses) >= 9 * 8  # four pieces, each with a shade, on each of the nine
    assert view.maps.release() and view.maps.kept is None and view.maps.probe_world is None
    assert not view.maps.release()
    assert shown(view, fitted).says("Point at a pixel")


def test_a_kept_pixel_outside_of_smaller_maps_is_not_read(view: ViewState, fitted: Snapshot) -> None:
    view.maps.kept = (39, 39)
    small = Camera.look_at((0.9, 0.5, 1.4), (0, 0, 0), width=10, height=10)
    view.pinned = RunCamera(small, "view")
    shown(view, fitted)
    assert view.maps.probed is None and view.maps.probe_world is None


# One map, large


def test_a_double_click_shows_a_map_large_and_the_wheel_zooms(view: ViewState, fitted: Snapshot) -> None:
    shown(view, fitted, MousedUi(over=2, double=True))
    assert view.maps.large == "difference depth"
    ui = MousedUi(over=0, share=(0.25, 0.75), wheel=1.0)
    panel.draw_large(ui, view)
    assert view.maps.hover_large == (30, 10) and view.maps.zoom == 2
    whole = ui.textures.shown["large"]
    assert whole.shape[0] % 40 == 0 and whole.shape[0] > 40  # each pixel as a block
    assert np.array_equal(whole[:: whole.shape[0] // 40, :: whole.shape[0] // 40],
                          view.maps.maps.colours("difference", "depth", None))
    assert view.maps.region() == (15, 5, 20, 20)  # the place under the mouse stays where it is
    ui = MousedUi(over=0, share=(0.25, 0.75))
    panel.draw_large(ui, view)
    assert view.maps.hover_large == (30, 10)
    ui = MousedUi(uses={"Close": True})
    panel.draw_large(ui, view)
    assert view.maps.large == ""
    view.maps.large = "rendered mask"
    assert view.maps.release() and view.maps.large == "" and view.maps.zoom == 1


def test_zoom_has_ends_and_stays_within_the_map() -> None:
    view = MapView()
    for _ in range(9):
        view.zoom_at((0.0, 0.0), 1)
    assert view.zoom == 32 and view.centre == pytest.approx((1 / 64, 1 / 64))
    for _ in range(9):
        view.zoom_at((1.0, 1.0), -1)
    assert view.zoom == 1 and view.centre == (0.5, 0.5) and view.region() == (0, 0, 1, 1)


# Hard runs


def test_hard_runs_are_drawn(view: ViewState, fitted: Snapshot) -> None:
    """Nothing yet, scalars only, no voxels, no cameras, no faces, maps of other shapes, NaN everywhere."""
    fake = snapshot_of(FakeRun(), RunIterations(1), iteration=1)
    no_faces = type(fitted.fields["surface"])(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    nan = {name: np.full_like(fitted.fields[name], np.nan) for name in
           ("rendered_depth", "rendered_normal", "rendered_mask", "target_depth")}
    broken = type(no_faces)(np.full((3, 3), np.nan, np.float32), np.array([[0, 1, 2]], np.int32))
    cases = [Snapshot(), snapshot_of(FakeRun(only_scalars=True)), fake, with_fields(fitted, **nan),
             with_fields(fitted, rendered_depth=np.zeros((3, 5), np.float32)), with_fields(fitted, voxels=None),
             with_fields(fitted, rendered_normal=None), dataclasses.replace(fitted, cameras=()),
             with_fields(fitted, surface=no_faces, target=no_faces), with_fields(fitted, surface=broken),
             with_fields(fitted, rendered_depth=np.zeros((0, 4), np.float32))]
    view.maps.kept, view.maps.large = (7, 3), "rendered depth"
    for pinned in (None, fitted.cameras[1]):
        view.pinned = pinned
        for snapshot in cases:
            assert shown(view, snapshot).texts
            panel.draw_large(FakeUi(), view)
    view.pinned = None
    ui = shown(view, with_fields(fitted, **nan))
    assert ui.says(f"{4 * 40 * 40:,} NaN")
    assert np.allclose(ui.textures.shown["rendered depth"], theme.NOT_A_NUMBER)
