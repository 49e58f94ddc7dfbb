"""The scene of an inference without a window: points, marks, stages, and figures that name a stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_inference import FakeInference
from PIL import Image
from recording_files import RunBuilder

from sparseflex.camera import Camera
from workbench.commands import RequestFields, RunIterations
from workbench.engine import Engine
from workbench.figure.capture import Screen, recipe_of_screen
from workbench.figure.make import make_figure
from workbench.figure.prepare import prepare
from workbench.figure.recipe import SourceTable
from workbench.figure.recipe_file import parse_recipe, recipe_text
from workbench.graphics import start_polyscope
from workbench.inputs import InputError
from workbench.layer_view import DEFAULT_SIZES
from workbench.network_view import Picked
from workbench.pair import Pair
from workbench.snapshot import Snapshot, frozen
from workbench.view_state import ViewState

ps = pytest.importorskip("polyscope")


@pytest.fixture(scope="module")
def raw() -> Snapshot:
    """After one pass, with every field."""
    run = FakeInference(8, 600)
    engine = Engine(run)
    engine.start()
    try:
        engine.send(RequestFields(frozenset(run.fields)))
        engine.send(RunIterations(1))
        return engine.snapshots.wait_for(lambda s: s.iteration == 1 and not s.playing and "mesh" in s.fields, 30)
    finally:
        assert engine.stop()


@pytest.fixture
def scene() -> Iterator[Any]:
    from workbench.scene_view import SceneView

    start_polyscope("tests", headless=True)
    ps.set_window_size(480, 360)
    view = SceneView()
    yield view
    view.clear()


def show(scene: Any, raw: Snapshot, view: ViewState) -> Snapshot:
    found = view.network.look(view, raw)
    view.frustum.update(view, found)
    scene.update(found, view)
    scene.arrange(view, 4 / 3)
    return found


def test_each_stage_draws_its_own_voxels(scene: Any, raw: Snapshot) -> None:
    view = ViewState()
    for stage in ("voxels", "encoder 1", "upsample 1", "prune 1", "upsample 2", "prune 2", ""):
        view.network.chosen = stage
        found = show(scene, raw, view)
        expected = raw.fields[f"{stage}/voxels" if stage else "voxels"].n_voxels
        assert ps.get_sparse_volume_grid("active").n_cells() == expected
        colours = view.field.colours("voxel")
        assert colours is not None and len(colours) == expected and found.products.stage == stage
    view.network.chosen = "points"
    show(scene, raw, view)
    assert not ps.has_sparse_volume_grid("active") and ps.has_point_cloud("points")


def test_points_stand_with_the_target_and_follow_their_layer(scene: Any, raw: Snapshot) -> None:
    view = ViewState()
    show(scene, raw, view)
    assert ps.get_point_cloud("points").n_points() == 600
    assert scene._drawn["points"].slot == scene._drawn["target"].slot
    cloud = scene._drawn["points"].structures[0]
    show(scene, dataclasses.replace(raw, serial=99), view)
    assert scene._drawn["points"].structures[0] is cloud  # the same points aren't drawn anew
    view.layers["points"] = False
    show(scene, raw, view)
    assert not cloud.is_enabled()


def test_the_picked_voxel_and_the_region_are_marked(scene: Any, raw: Snapshot) -> None:
    view = ViewState(tabs={"left": "Network", "right": "Latent"})
    show(scene, raw, view)
    assert not ps.has_curve_network("picked voxel") and not ps.has_curve_network("region")
    view.network.picked = Picked((3, 1, 6), 8)
    radius = dataclasses.replace(raw.settings["region_radius"], value=0.25)
    show(scene, dataclasses.replace(raw, settings=frozen({**raw.settings, "region_radius": radius})), view)
    assert ps.get_curve_network("picked voxel").n_edges() == 12 and ps.has_curve_network("region")
    view.network.picked = None
    show(scene, raw, view)
    assert not ps.has_curve_network("picked voxel") and not ps.has_curve_network("region")


def test_voxels_beyond_the_attended_window_are_dots_in_a_structure_of_their_own(scene: Any, raw: Snapshot) -> None:
    stage, view = "encoder 1", ViewState()
    voxels = raw.fields[f"{stage}/voxels"]
    inside = voxels.voxel_ijk.numpy()[:, 0] < 3
    attention = np.where(inside[:, None], np.linspace(0.1, 0.9, len(inside), dtype=np.float32)[:, None], np.nan)
    attended = dataclasses.replace(raw, fields=frozen({**raw.fields, f"{stage}/attention": attention}),
                                   field_kinds=frozen({**raw.field_kinds, f"{stage}/attention": "voxel"}))
    view.network.chosen = stage
    show(scene, attended, view)
    assert not ps.has_sparse_volume_grid("beside")  # whatever the voxels are coloured by, it concerns all
    view.network.colour_by(view, "attention")
    show(scene, attended, view)
    grid, dots = ps.get_sparse_volume_grid("active"), ps.get_sparse_volume_grid("beside")
    assert grid.n_cells() == inside.sum() and dots.n_cells() == (~inside).sum() > 0
    assert dots.get_cube_size_factor() == pytest.approx(1 - DEFAULT_SIZES["outside"])
    assert grid.get_cube_size_factor() == pytest.approx(1 - DEFAULT_SIZES["active"])
    drawn = scene._drawn["active"].structures, scene._drawn["beside"].structures
    show(scene, dataclasses.replace(attended, serial=99), view)
    assert drawn == (scene._drawn["active"].structures, scene._drawn["beside"].structures)  # not drawn anew
    assert drawn[0][0].n_painted == inside.sum()
    other = frozen({**attended.fields, f"{stage}/attention": attention * 0.5})
    show(scene, dataclasses.replace(attended, fields=other, serial=100), view)  # elsewhere than before, in one window
    assert drawn == (scene._drawn["active"].structures, scene._drawn["beside"].structures)
    view.layers["active"] = False
    show(scene, attended, view)
    assert not dots.is_enabled()
    view.layers["active"], view.field.voxels_coloured = True, False
    show(scene, attended, view)
    assert not ps.has_sparse_volume_grid("beside")
    assert ps.get_sparse_volume_grid("active").n_cells() == len(inside)


RECIPE = """
stage = "{stage}"
legend = true
[page]
width = 240
supersampling = 1
[source]
path = "run.h5"
[layers]
{layers}
[colouring]
voxels = "{voxels}"
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    builder = RunBuilder(folder / "run.h5", FakeInference(8, 600), snapshot_every=1)
    builder.iterate()
    builder.close()
    return folder


def test_a_figure_of_a_stage_shows_that_stage(recorded: Path, raw: Snapshot) -> None:
    pictures = {}
    for stage, voxels in (("encoder 1", "pca"), ("upsample 1", "occupancy_logit"), ("", "occupancy_logit")):
        recipe = parse_recipe(RECIPE.format(stage=stage, voxels=voxels, layers="active = true"), "r")
        assert parse_recipe(recipe_text(recipe), "r") == recipe
        ready = prepare(recipe, recorded)[0]
        name = f"{stage}/voxels" if stage else "voxels"
        assert np.array_equal(ready.view.split.voxels.voxel_ijk, raw.fields[name].voxel_ijk)
        assert len(ready.bars) == (voxels != "pca")  # colours as they are have no bar
        make_figure(recipe, recorded, recorded / "out.png")
        pictures[stage] = np.asarray(Image.open(recorded / "out.png"))
    assert not np.array_equal(pictures["encoder 1"][:200, :200], pictures["upsample 1"][:200, :200])


def test_a_figures_points_are_counted_by_cause(recorded: Path, raw: Snapshot) -> None:
    ready = prepare(parse_recipe(RECIPE.format(stage="", voxels="", layers="points = true"), "r"), recorded)[0]
    counts = np.bincount(raw.fields["point_cause"], minlength=4)
    assert f"covered {counts[0]:,}" in [entry.label for entry in ready.legend]
    assert f"pruned at level 2 {counts[3]:,}" in [entry.label for entry in ready.legend] and counts[3] > 0


def test_what_a_recipe_may_not_name(recorded: Path) -> None:
    recipe = parse_recipe(RECIPE.format(stage="encoder 9", voxels="", layers="active = true"), "r")
    with pytest.raises(InputError, match="panel 1: stage must be one of voxels, point features, .*, got 'encoder 9'"):
        prepare(recipe, recorded)
    recipe = parse_recipe(RECIPE.format(stage="upsample 1", voxels="corner_sdf", layers="active = true"), "r")
    with pytest.raises(InputError, match="colouring.voxels must be one of occupancy_logit, pca, norm|pca, norm, occup"):
        prepare(recipe, recorded)  # what only the final voxels have


def test_the_recipe_of_a_screen_names_the_stage(scene: Any, raw: Snapshot) -> None:
    view = ViewState()
    view.network.chosen, view.pruning.level = "latent", 2
    found = show(scene, raw, view)
    screen = Screen(Camera.look_at((0, 0, 3), (0, 0, 0)), (800, 600), (100, 0, 600, 500), 1.0)
    recipe = recipe_of_screen(view, SourceTable("run.h5", 1), screen, found.products.stage)
    panel = recipe.panels[0]
    assert (panel.stage, panel.colouring.voxels, panel.source.level) == ("latent", "pca", 2)
    assert "points" in panel.layers and "pca" not in panel.ranges
    assert parse_recipe(recipe_text(recipe), "r") == recipe


def test_beside_another_run_the_stage_is_the_same(scene: Any, raw: Snapshot) -> None:
    sent: list[Any] = []
    source = SimpleNamespace(snapshots=SimpleNamespace(latest=lambda: raw), send=sent.append)
    pair = Pair(source, "B")
    view = ViewState(pair=pair)
    view.network.chosen = "prune 1"
    found = show(scene, raw, view)
    pair.ask(True)
    assert sent and "prune 1/voxels" in sent[-1].names and "voxels" not in sent[-1].names
    assert pair.snapshot.fields["voxels"] is found.fields["voxels"]
    assert ps.get_sparse_volume_grid("B active").n_cells() == ps.get_sparse_volume_grid("active").n_cells()
    assert ps.has_point_cloud("B points")
    pair.view.worker.stop()
