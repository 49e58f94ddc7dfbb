"""Scene view and figures without a window (EGL): structures follow snapshots, pictures match, nothing is left over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polyscope.imgui
import polyscope.implot
import pytest
import torch
from fake_run import FakeRun, icosphere_like
from PIL import Image

from sparseflex.camera import Camera
from sparseflex.frustum import active_voxels
from sparseflex.voxels import SparseVoxels
from workbench import theme
from workbench.changes import PARTS
from workbench.creases import with_creases
from workbench.field_copies import FieldCopies
from workbench.graphics import default_size, start_polyscope
from workbench.layout import view_axes
from workbench.plate import FOV_DEGREES, framed, render_figure
from workbench.snapshot import MeshArrays, Snapshot
from workbench.split import CATEGORIES, Split
from workbench.ui import Ui
from workbench.view_state import ViewState

ps = pytest.importorskip("polyscope")

ALL = ("voxels", "corner_sdf", "mesh", "target", "gamma")
FREE = (0.0, 0.0, 480.0, 360.0)


def snapshot_of(run: FakeRun, iterations: int) -> Snapshot:
    for _ in range(iterations):
        for stage in run.stages:
            run.run_stage(stage)
    copies = FieldCopies(run)
    copies.start(ALL, 0)
    return Snapshot(iteration=run.iteration, cameras=tuple(run.cameras()), field_kinds=run.fields,
                    fields=copies.finish())


@pytest.fixture(scope="module")
def fitted() -> Snapshot:
    return snapshot_of(FakeRun(24), 3)


@pytest.fixture
def scene() -> Iterator[Any]:
    from workbench.scene_view import SceneView

    start_polyscope("tests", headless=True)
    ps.set_window_size(480, 360)
    view = SceneView()
    yield view
    view.clear()
    assert not structure_names(hidden=True)


KINDS = (
    ("sparse_volume_grid", (*CATEGORIES, *(f"changes {part}" for part in PARTS))),
    ("surface_mesh", ("mesh", "target", "slice", "zero contour", "changes gained", "changes lost", "changes turned")),
    ("point_cloud", ("sdf", "vectors", "probe 0", "probe 1", "probe 2", "changes outward", "changes inward")),
    ("curve_network", ("frustum", "frustum rays", "frustum near", "frustum far", "cameras")),
)


def structure_names(hidden: bool = False) -> set[str]:
    """Names of what Polyscope shows, of all kinds that the scene view uses; hidden: of what it holds."""
    found = {name: getattr(ps, f"get_{kind}")(name) for kind, names in KINDS for name in names
             if getattr(ps, f"has_{kind}")(name)}
    return {name for name, structure in found.items() if hidden or structure.is_enabled()}


def show(scene: Any, snapshot: Snapshot, view: ViewState) -> None:
    selected = view.selected_camera(snapshot)
    view.split.update(snapshot.fields.get("voxels"), None if selected is None else selected.camera)
    scene.update(snapshot, view)
    scene.go_home(view, (480, 360), FREE)
    scene.arrange(view, 480 / 360)


def test_layers_decide_what_is_there(scene: Any, fitted: Snapshot) -> None:
    view = ViewState()
    show(scene, fitted, view)
    voxels = {name for name in CATEGORIES if view.split.counts[name]}
    frustum = {"frustum", "frustum rays", "frustum near", "frustum far"}
    assert structure_names() == voxels | {"mesh", "target"} | frustum
    for name in voxels:
        assert ps.get_sparse_volume_grid(name).n_cells() == view.split.counts[name]
    for name in view.layers:
        view.layers[name] = not view.layers[name]
    show(scene, fitted, view)
    assert structure_names() == {"sdf", "cameras", "slice"}  # no deformation field: no arrows
    assert ps.get_curve_network("cameras").n_edges() == 8 * len(fitted.cameras)


def test_only_what_changed_is_drawn_anew(scene: Any, fitted: Snapshot) -> None:
    view = ViewState()
    show(scene, fitted, view)
    before = {name: drawn.structures for name, drawn in scene._drawn.items()}
    show(scene, dataclasses.replace(fitted, iteration=9, serial=9), view)
    assert all(scene._drawn[name].structures is structures for name, structures in before.items())
    old = fitted.fields["mesh"]
    fields = {**fitted.fields, "mesh": MeshArrays(old.vertices.copy(), old.faces)}
    show(scene, dataclasses.replace(fitted, fields=fields), view)
    assert {name for name in before if scene._drawn[name].structures is not before[name]} == {"mesh"}
    view.select_camera(fitted, 1)
    show(scene, fitted, view)
    assert scene._drawn["target"].structures is before["target"]
    assert scene._drawn["active"].structures is not before["active"]


def test_snapshots_without_fields_and_empty_ones(scene: Any) -> None:
    show(scene, Snapshot(), ViewState())
    assert not structure_names()
    empty = SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 8)
    nothing = MeshArrays(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    fields = {"voxels": empty, "mesh": nothing, "target": nothing, "corner_sdf": np.zeros(0, np.float32)}
    view = ViewState()
    view.layers["sdf"] = True
    show(scene, Snapshot(fields=fields, field_kinds=FakeRun(8).fields), view)
    assert not structure_names()


def test_hidden_layers_keep_their_structures_until_they_change(scene: Any, fitted: Snapshot) -> None:
    view = ViewState()
    show(scene, fitted, view)
    grid, mesh = scene._drawn["active"].structures[0], scene._drawn["mesh"].structures[0]
    view.layers["active"] = view.layers["mesh"] = False
    show(scene, fitted, view)
    assert structure_names() & {"active", "mesh"} == set() and structure_names(hidden=True) >= {"active", "mesh"}
    fields = {**fitted.fields, "mesh": MeshArrays(fitted.fields["mesh"].vertices.copy(), fitted.fields["mesh"].faces)}
    show(scene, dataclasses.replace(fitted, fields=fields), view)
    view.layers["active"] = view.layers["mesh"] = True
    show(scene, dataclasses.replace(fitted, fields=fields), view)
    assert structure_names() >= {"active", "mesh"}
    assert scene._drawn["active"].structures[0] is grid and scene._drawn["mesh"].structures[0] is not mesh


def test_colours_change_in_place(scene: Any, fitted: Snapshot) -> None:
    """The grid stays; its colours are those of its own voxels; NaN has a colour of its own; and back to one colour."""
    view = ViewState()
    view.field.voxels_coloured, view.field.at_voxels = True, "gamma"
    voxels = fitted.fields["voxels"]
    for seed, gamma in enumerate((np.arange(voxels.n_voxels), -np.arange(voxels.n_voxels) ** 2.0)):
        gamma = gamma.astype(np.float32)
        gamma[5 + seed] = np.nan
        show(scene, dataclasses.replace(fitted, fields={**fitted.fields, "gamma": gamma}), view)
        if seed == 0:
            grid = scene._drawn["active"].structures[0]
        assert scene._drawn["active"].structures[0] is grid
        rows = view.split.rows("active")
        expected = view.field.scale_of(view.field.voxel).colours(gamma)
        painted = np.array([tuple(grid.get_quantity_buffer("colours", "colors").get_value(index).as_tuple())
                            for index in range(0, int(rows.sum()), 7)])
        assert painted == pytest.approx(expected[rows][::7], abs=1e-6)
    assert expected[6] == pytest.approx((1, 0, 1)) and grid.get_material() == "flat"
    view.field.voxels_coloured = False
    show(scene, fitted, view)
    assert scene._drawn["active"].structures[0] is grid and grid.get_material() == "clay"
    with pytest.raises(Exception, match="colours"):
        grid.get_quantity_buffer("colours", "colors")


def test_slice_contour_arrows_and_marks(scene: Any, fitted: Snapshot) -> None:
    view = ViewState()
    view.layers.update(slice=True, vectors=True, sdf=True)
    voxels = fitted.fields["voxels"]
    deform = np.random.default_rng(0).normal(size=(voxels.n_corners, 3)).astype(np.float32)
    fields = {**fitted.fields, "corner_sdf": fitted.fields["corner_sdf"] - 0.15, "corner_deform": deform}
    snapshot = dataclasses.replace(fitted, fields=fields,
                                   field_kinds={**fitted.field_kinds, "corner_deform": "corner"})
    view.maps.probe_world = np.array([0.1, 0.2, 0.3])
    show(scene, snapshot, view)
    assert structure_names() >= {"slice", "zero contour", "vectors", "sdf", "probe 0", "probe 1", "probe 2"}
    assert ps.get_point_cloud("vectors").n_points() == len(view.field.vectors.starts)
    slice_before = scene._drawn["slice"].structures[0]
    view.field.at_corners = "gamma"  # no field of corners: the first there is stays
    view.field.lock(view.field.corner, (-0.1, 0.1))
    show(scene, snapshot, view)
    assert scene._drawn["slice"].structures[0] is slice_before  # another range: the image alone is sent anew
    view.field.offset = 0.07
    show(scene, snapshot, view)
    assert scene._drawn["slice"].structures[0] is not slice_before
    view.layers.update(slice=False, vectors=False, sdf=False, mesh=False)
    view.maps.probe_world = None
    show(scene, snapshot, view)
    assert structure_names() & {"slice", "zero contour", "vectors", "sdf", "mesh", "probe 0", "probe 1"} == set()


def test_the_cut_takes_each_place_by_its_own_plane(scene: Any, fitted: Snapshot) -> None:
    """What lies beyond the plane disappears from the picture, in every place; frusta and slice stay whole."""
    view = ViewState()
    view.layers["frustum"] = False
    view.layers["near_cut"] = view.layers["far_cut"] = view.layers["outside"] = False
    view.field.axis, view.field.offset = "y", 0.0

    def covered() -> list[float]:
        """Filled pixels of each place's part of the picture, in the row that Polyscope draws them in."""
        ps.set_background_color((0.0, 0.0, 0.0))
        ps.look_at((0.0, 0.0, 9.0), (0.0, 0.0, 0.0))
        scene.arrange(view, 4.0)
        pixels = ps.screenshot_to_buffer(transparent_bg=False)[..., :3].max(-1) > 12
        return [float(part.sum()) for part in np.array_split(pixels, 3, axis=1)]

    show(scene, fitted, view)
    whole = covered()
    view.field.cut = True
    show(scene, fitted, view)
    lower = covered()
    view.field.flipped = True
    show(scene, fitted, view)
    upper = covered()
    for full, below, above in zip(whole, lower, upper, strict=True):
        assert full > 300 and 0.35 * full < below < 0.65 * full and 0.35 * full < above < 0.65 * full
    view.field.cut = False
    show(scene, fitted, view)
    assert covered() == whole


def test_figures_are_not_cut(scene: Any, fitted: Snapshot, tmp_path: Path) -> None:
    render_figure(FakeRun(8), tmp_path / "before.png", 320, 240)
    view = ViewState()
    view.field.cut, view.field.axis = True, "x"
    show(scene, fitted, view)
    render_figure(FakeRun(8), tmp_path / "after.png", 320, 240)
    before, after = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("before", "after"))
    assert np.abs(before - after).max() <= 2


def test_the_field_matches_its_golden(scene: Any, fitted: Snapshot, assert_matches_golden: Any) -> None:
    view = ViewState()
    view.layers.update(slice=True, mesh=False, target=False, frustum=False)
    view.field.cut, view.field.axis = True, "z"
    fields = {**fitted.fields, "corner_sdf": fitted.fields["corner_sdf"] - 0.15}
    show(scene, dataclasses.replace(fitted, fields=fields), view)
    ps.set_background_color(theme.linear(theme.BACKGROUND))
    assert_matches_golden(ps.screenshot_to_buffer(transparent_bg=False), "field")


@pytest.mark.parametrize("name", ["dark", "light"])
def test_the_background_is_the_themes_own(scene: Any, name: str) -> None:
    before, background = theme.current().name, ps.get_background_color()
    theme.use(name)
    try:
        ps.set_background_color(theme.linear(theme.BACKGROUND))
        corner = ps.screenshot_to_buffer(transparent_bg=False)[0, 0, :3].astype(int)
        assert np.abs(corner - np.round(255 * np.array(theme.BACKGROUND))).max() <= 1
    finally:
        theme.use(before)
        ps.set_background_color(background[:3])


def test_side_by_side_faces_the_view_and_in_one_place_is_the_origin(scene: Any, fitted: Snapshot) -> None:
    view = ViewState()
    show(scene, fitted, view)
    ps.look_at((0.0, 0.0, 5.0), (0.0, 0.0, 0.0))
    scene.arrange(view, 3.0)
    places = [np.asarray(ps.get_surface_mesh(name).get_position()) for name in ("mesh", "target")]
    grid = np.asarray(ps.get_sparse_volume_grid("active").get_position())
    assert grid[0] < places[0][0] < places[1][0] and np.allclose([p[1:] for p in (*places, grid)], 0, atol=1e-4)
    ps.frame_tick()
    assert not ps.get_redraw_requested()
    scene.arrange(view, 3.0)
    assert not ps.get_redraw_requested()
    view.side_by_side = False
    scene.arrange(view, 3.0)
    assert np.allclose(ps.get_surface_mesh("target").get_position(), 0)
    assert ps.get_redraw_requested()  # else a window that stands still would go on showing them apart
    ps.frame_tick()
    scene.update(dataclasses.replace(fitted, fields={**fitted.fields, "mesh": None}), view)
    assert not ps.has_surface_mesh("mesh") and ps.get_redraw_requested()


def test_split_agrees_with_the_frustum_and_is_computed_once(fitted: Snapshot) -> None:
    voxels, camera = fitted.fields["voxels"], fitted.cameras[0].camera
    split = Split()
    split.update(voxels, camera)
    assert np.array_equal(split.rows("active"), active_voxels(voxels, camera).numpy())
    assert sum(split.counts.values()) == voxels.n_voxels
    assert int(split.histogram.counts.sum()) == voxels.n_voxels - split.counts["outside"]
    known = split._category
    split.update(voxels, camera)
    assert split._category is known
    split.update(voxels, None)
    assert split.counts["active"] == voxels.n_voxels and split.histogram is None
    split.update(None, camera)
    assert split.n_voxels == 0 and not split.rows("active").any()


def test_vertex_normals_against_a_loop() -> None:
    from workbench.normals import vertex_normals

    mesh = icosphere_like(5, 0.3)
    arrays = MeshArrays(mesh.vertices.numpy(), mesh.faces.int().numpy())
    expected = np.zeros((mesh.n_vertices, 3))
    for a, b, c in arrays.faces:
        p, q, r = arrays.vertices[[a, b, c]].astype(np.float64)
        for corner in (a, b, c):
            expected[corner] += np.cross(q - p, r - p)
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(vertex_normals(arrays), expected / np.maximum(lengths, 1e-300))


def test_creases_of_a_cube_and_of_a_sphere() -> None:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    cube = MeshArrays(corners, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32))
    creased = with_creases(cube)
    assert len(creased.vertices) == 24  # each side has its own four
    assert np.array_equal(creased.vertices[creased.faces], cube.vertices[cube.faces])
    assert len(with_creases(cube, degrees=100).vertices) == 8
    flipped = cube.faces.copy()
    flipped[0] = flipped[0][::-1]  # its winding against its neighbours': an edge that bends by 180°
    assert len(with_creases(MeshArrays(corners, flipped)).vertices) == 26
    sphere = icosphere_like(16, 0.4)
    smooth = with_creases(MeshArrays(sphere.vertices.numpy(), sphere.faces.int().numpy()))
    assert len(smooth.vertices) == len(np.unique(sphere.faces))
    empty = MeshArrays(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    assert with_creases(empty) is empty


def test_planes_far_away_are_not_drawn() -> None:
    from workbench.scene_parts.frusta import drawn_planes

    camera = Camera.look_at((0, 0, 2), (0, 0, 0), near=1.7, far=2.2)
    assert drawn_planes(camera) == (1.7, 2.2, True, True)
    near, far, has_near, has_far = drawn_planes(camera.with_planes(0.01, 2.2))
    assert near == pytest.approx(1.38) and far == 2.2 and not has_near and has_far
    near, far, has_near, has_far = drawn_planes(camera.with_planes(0.01, 100.0))
    assert far == pytest.approx(2.62) and not has_near and not has_far
    assert drawn_planes(camera.with_planes(5.0, 6.0)) == (5.0, 6.0, True, True)


@pytest.mark.parametrize("direction", [(0.0, 1.0, 0.0), (0.0, -2.0, 0.0), (0.0, 1e-9, 1e-20)])
def test_a_view_straight_up_or_down_is_finite(scene: Any, fitted: Snapshot, direction: tuple[float, ...]) -> None:
    view = ViewState()
    view.home_direction = direction
    show(scene, fitted, view)
    matrix = np.asarray(ps.get_camera_view_matrix())
    assert np.isfinite(matrix).all()
    towards = np.asarray(direction) / np.linalg.norm(direction)
    assert matrix[2, :3] == pytest.approx(towards, abs=1e-5) and matrix[0, :3] == pytest.approx((1, 0, 0), abs=1e-5)


def test_view_axes_are_those_of_the_camera() -> None:
    direction = np.array([0.75, 0.42, 1.0]) / np.linalg.norm([0.75, 0.42, 1.0])
    matrix = Camera.look_at((2 * direction).tolist(), (0, 0, 0)).camera_from_world.numpy()
    assert np.stack(view_axes(direction)) == pytest.approx(matrix[:2, :3], abs=1e-6)


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_framed_points_fit_tightly(aspect: float) -> None:
    points = np.random.default_rng(3).uniform(-0.5, 0.5, (200, 3)) * (1.0, 0.3, 0.6) + (0.2, 0.1, -0.3)
    direction = np.array([0.75, 0.42, 1.0])
    direction /= np.linalg.norm(direction)
    eye, centre = framed(points, direction, aspect, fill=1.0)
    eye, centre = eye.tolist(), centre.tolist()
    camera = Camera.look_at(eye, centre, fov_y_degrees=FOV_DEGREES, width=round(400 * aspect), height=400)
    clip = np.c_[points, np.ones(200)] @ camera.clip_from_world.numpy().T
    spread = np.abs(clip[:, :2] / clip[:, 3:]).max(axis=0)
    assert spread.max() == pytest.approx(1.0, abs=5e-3) and spread.min() <= 1.0 + 5e-3


def test_scene_matches_its_golden(scene: Any, fitted: Snapshot, assert_matches_golden: Any) -> None:
    view = ViewState()
    view.layers["cameras"] = True
    show(scene, fitted, view)
    assert_matches_golden(ps.screenshot_to_buffer(transparent_bg=False), "scene_view")


def test_figure_matches_its_golden(fitted: Snapshot, tmp_path: Path, assert_matches_golden: Any) -> None:
    run = FakeRun(24)
    snapshot_of(run, 3)
    render_figure(run, tmp_path / "new" / "figure.png", 640, 480)
    assert_matches_golden(tmp_path / "new" / "figure.png", "figure")


def test_figure_leaves_the_scene_as_it_was(scene: Any, fitted: Snapshot, tmp_path: Path) -> None:
    show(scene, fitted, ViewState())
    before = ps.screenshot_to_buffer(transparent_bg=False)
    render_figure(FakeRun(8), tmp_path / "figure.png", 320, 240)
    after = ps.screenshot_to_buffer(transparent_bg=False)
    assert ps.get_window_size() == (480, 360)
    assert np.abs(after.astype(int) - before.astype(int)).max() <= 2


def test_figures_of_runs_that_have_little(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    render_figure(FakeRun(only_scalars=True), path, 400, 300)
    assert Image.open(path).size == (400, 300)
    render_figure(FakeRun(8), path, 333, 250)  # at iteration 0: voxels and target
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape == (250, 333, 3) and (pixels < 200).any(-1).mean() > 0.05
    with pytest.raises(ValueError, match="at least 320 x 240 pixels, got 100 x 100"):
        render_figure(FakeRun(8), path, 100, 100)


@pytest.mark.parametrize(
    ("screen", "size"),
    [(None, (1600, 900)), ((1920, 1080), (1728, 972)), ((1280, 720), (1280, 720)), ((800, 600), (800, 600)),
     ((3840, 2160), (2560, 1440))],
)
def test_default_size_fits_the_screen(screen: tuple[int, int] | None, size: tuple[int, int]) -> None:
    assert default_size(screen) == size


def test_two_looks_stand_in_place_of_the_categories(scene: Any, fitted: Snapshot) -> None:
    view = ViewState()
    names = {"what-if only_a", "what-if only_b", "what-if both", "what-if neither"}

    def drawn() -> set[str]:
        return {name for name in names if (
            ps.has_sparse_volume_grid(name) and ps.get_sparse_volume_grid(name).is_enabled())}

    view.frustum.planes, view.frustum.ratio = "adapted", 0.6
    view.frustum.update(view, fitted)
    view.what_ifs.keep("A", view)
    view.frustum.anchor = "back"
    view.frustum.update(view, fitted)
    scene.update(fitted, view)
    found = view.what_ifs.difference.counts("active")
    assert drawn() == names - {"what-if neither"} and not structure_names() & {*CATEGORIES, "frustum"}
    assert {part: ps.get_sparse_volume_grid(f"what-if {part}").n_cells() for part in ("only_a", "only_b", "both")
            if found[part]} == {part: found[part] for part in ("only_a", "only_b", "both") if found[part]}
    for name in ("what-if A", "what-if B", "what-if A near", "what-if B far"):
        assert ps.has_curve_network(name)
    view.what_ifs.meshes = {}
    view.what_ifs.meshes_wanted, mesh = True, fitted.fields["mesh"]
    view.what_ifs.meshes = {"A": mesh, "B": mesh}
    scene.update(fitted, view)
    assert ps.has_surface_mesh("what-if mesh A") and not structure_names() & {"mesh", "target"}
    view.what_ifs.parts["both"] = False
    scene.update(fitted, view)
    assert "what-if both" not in drawn()
    view.what_ifs.shown = False
    view.frustum.update(view, fitted)
    scene.update(fitted, view)
    assert not drawn() and not ps.has_surface_mesh("what-if mesh A") and not ps.has_curve_network("what-if A")
    assert "active" in structure_names() and "mesh" in structure_names()
    view.stop_workers()


def test_changes_stand_in_place_of_the_categories(scene: Any) -> None:
    run = FakeRun(12)
    before, after = (dataclasses.replace(snapshot_of(run, n), asked=frozenset(ALL)) for n in (1, 4))
    gone = torch.ones(after.fields["voxels"].n_voxels, dtype=torch.bool)
    gone[:3] = False
    voxels = after.fields["voxels"].prune(gone)
    before, after = (dataclasses.replace(snapshot, fields={
        "voxels": own, "mesh": snapshot.fields["mesh"], "corner_sdf": (own.corners_world.norm(dim=1) - radius).numpy()})
        for snapshot, own, radius in ((before, before.fields["voxels"], 0.38), (after, voxels, 0.41)))
    view = ViewState(tabs={"left": "Changes", "right": "Plots"})
    for snapshot in (before, after):
        view.frustum.update(view, snapshot)
        scene.update(snapshot, view)
    found, counts = view.changes.found, view.changes.counts()
    assert counts["pruned"] == 3 and counts["flipped"] > 0 and len(found.lost) and len(found.gained)
    drawn = {part: ps.get_sparse_volume_grid(f"changes {part}").n_cells() for part in counts
             if ps.has_sparse_volume_grid(f"changes {part}")}
    assert drawn == {part: number for part, number in counts.items() if number}
    assert not structure_names() & set(CATEGORIES)
    inward = int(found.n_corners_of[2])
    assert inward and ps.get_point_cloud("changes inward").n_points() == inward
    for name, keys in (("gained", found.gained), ("lost", found.lost)):  # two triangles, on both sides
        assert ps.has_surface_mesh(f"changes {name}") == (len(keys) > 0)
        assert not len(keys) or ps.get_surface_mesh(f"changes {name}").n_faces() == 4 * len(keys)
    view.changes.layers["flipped"] = False
    scene.update(after, view)
    assert not ps.get_sparse_volume_grid("changes flipped").is_enabled()
    view.changes.shown = False
    scene.update(after, view)
    assert not [name for name in structure_names(hidden=True) if name.startswith("changes")]
    assert "active" in structure_names()
    view.stop_workers()


def test_a_tip_leaves_the_size_of_the_text_alone(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ImGui takes another one whenever a window ends, a tooltip's too."""
    ui, sizes = Ui(polyscope.imgui, polyscope.implot, None), []

    def draw() -> None:
        sizes.append(ui.em)
        with ui.sized(0.5), ui.sized(0.8):
            sizes.append(ui.em)
            ui.text("a value")
            ui.tip("what it is")
            sizes.append(ui.em)
        sizes.append(ui.em)

    monkeypatch.setattr(polyscope.imgui, "IsItemHovered", lambda: True)
    ps.set_user_callback(draw)
    try:
        ps.frame_tick()
    finally:
        ps.clear_user_callback()
    assert sizes[-4:] == [sizes[-1], *[pytest.approx(0.4 * sizes[-1], abs=0.6)] * 2, sizes[-1]]
