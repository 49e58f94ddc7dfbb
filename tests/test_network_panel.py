"""The tabs Network, Latent and Pruning of an inference: what they say, and what they ask of the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_inference import STAGES, FakeInference, key_of
from fake_run import FakeRun
from fake_ui import FakeUi

from sparseflex.vae.diagnosis import Cause
from sparseflex.voxels import SparseVoxels
from workbench import panels, quantities, theme
from workbench.commands import ChangeSetting, NextIteration, NextStage, RequestFields, RunIterations
from workbench.engine import Engine
from workbench.network_view import Picked, another_pass, voxel_on_ray
from workbench.panels import decisions, latent, network, plots, pruning, scalars, transport
from workbench.plot_view import CAUSES, CHILDREN, PlotView, groups, line_label
from workbench.point_view import LOOKS, MAX_POINTS, PointView, colour_of_scalar, evenly
from workbench.preferences import kept
from workbench.slices import Plane
from workbench.snapshot import History, Products, Snapshot, frozen
from workbench.view_state import Click, ViewState
from workbench.worker import WorkFailed


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    found = Engine(FakeInference(8, 800, other=True))
    found.start()
    found.send(RunIterations(1))
    found.snapshots.wait_for(lambda s: s.iteration == 1 and not s.playing, 60)
    yield found
    assert found.stop()


@pytest.fixture(scope="module")
def raw(engine: Engine) -> Snapshot:
    """After one pass, with every field."""
    names = frozenset(engine.snapshots.latest().field_kinds)
    engine.send(RequestFields(names))
    return engine.snapshots.wait_for(lambda s: s.asked == names, 20)


@pytest.fixture
def view() -> Iterator[ViewState]:
    found = ViewState()
    yield found
    found.worker.stop()


def shown(view: ViewState, raw: Snapshot, stage: str = "") -> Snapshot:
    """What a window shows of a stage, with everything derived."""
    view.network.chosen = stage
    found = view.network.look(view, raw)
    view.split.update(found.fields.get("voxels"), None)
    view.field.update(view, found)
    view.points.update(view, found)
    return found


def without(raw: Snapshot, *names: str) -> Snapshot:
    return dataclasses.replace(raw, fields=frozen({name: v for name, v in raw.fields.items() if name not in names}))


# Which tabs there are


def test_the_tabs_are_there_for_an_inference_alone(raw: Snapshot, view: ViewState) -> None:
    inference, fit = shown(view, raw), Snapshot(field_kinds=FakeRun(8).fields)
    assert panels.columns(inference)["left"]["Network"] is network
    assert panels.columns(inference)["right"]["Latent"] is latent
    assert panels.columns(fit) is panels.COLUMNS and network not in panels.COLUMNS["left"].values()
    view.tabs = {"left": "Frustum", "right": "Scalars"}
    panels.bring_forward(view, fit)
    assert view.tabs == {"left": "Frustum", "right": "Scalars"}
    panels.bring_forward(view, inference)
    assert view.tabs == {"left": "Network", "right": "Scalars"}  # the first of fits gives way, a choice stays


@pytest.mark.parametrize("stage", ["", *STAGES[:-2]])
def test_every_panel_draws_every_stage_with_and_without_fields(raw: Snapshot, view: ViewState, stage: str) -> None:
    for fields in (raw.fields, {}):
        found = shown(view, dataclasses.replace(raw, fields=frozen(fields)), stage)
        for column in panels.columns(found).values():
            for panel in column.values():
                panel.draw(FakeUi(), view, found)


def test_a_run_without_anything_yet(view: ViewState) -> None:
    young = Snapshot(stages=STAGES, stage_next=STAGES[0], field_kinds=frozen(FakeInference(8, 10).fields))
    ui, found = FakeUi(), shown(view, young)
    assert network.draw(ui, view, found) == [] and ui.says("NO PASS YET")
    assert latent.draw(FakeUi(), view, found) == [] and pruning.draw(FakeUi(), view, found) == []


def test_nothing_kept_is_shown_as_nothing(view: ViewState) -> None:
    run = FakeInference(8, 300)
    run.change_setting("threshold_1", 10)
    engine = Engine(run)
    engine.start()
    try:
        engine.send(RequestFields(frozenset(run.fields)))
        engine.send(RunIterations(1))
        raw = engine.snapshots.wait_for(lambda s: s.iteration == 1 and not s.playing and "mesh" in s.fields, 20)
    finally:
        assert engine.stop()
    assert raw.scalars["kept_1"] == 0
    for stage in ("", *STAGES[:-2]):
        found = shown(view, raw, stage)
        view.decisions.level = 2
        for column in panels.columns(found).values():
            for panel in column.values():
                panel.draw(FakeUi(), view, found)
    view.worker.wait_for("decided 2", 10)
    assert not isinstance(view.worker.result("decided 2")[1], WorkFailed)
    decisions.draw(FakeUi(), view, shown(view, raw))


# Network


def test_the_list_names_every_stage_with_its_numbers_and_a_click_looks_at_it(raw: Snapshot, view: ViewState) -> None:
    ui, found = FakeUi(), shown(view, raw)
    network.draw(ui, view, found)
    assert all(ui.says(stage) for stage in STAGES)
    for name in ("points", "latent_voxels", "children_1", "kept_1", "children_2", "kept_2"):
        assert ui.says(f"{raw.scalars[name]:,.0f}")
    for stage in STAGES:
        network.draw(FakeUi({f"##stage {stage}": True}), view, shown(view, raw, "latent"))
        assert view.network.chosen == ("" if stage in ("head", "extract") else stage)
    network.draw(FakeUi({"Follow the pass": False}), view, shown(view, raw, "latent"))
    assert view.network.chosen == "latent"
    network.draw(FakeUi({"Follow the pass": True}), view, shown(view, raw, "latent"))
    assert view.network.chosen == ""


def test_the_list_scrolls_to_what_is_looked_at_but_not_under_the_mouse(raw: Snapshot, view: ViewState) -> None:
    def scrolls(stage: str, **uses: Any) -> int:
        ui = FakeUi({f"##stage {name}": value for name, value in uses.items()})
        network.draw(ui, view, shown(view, raw, stage))
        return sum(call[0] == "SetScrollHereY" for call in ui.calls)

    assert scrolls("latent") == 1 and scrolls("latent") == 0
    assert scrolls("latent", head=True) == 0 and scrolls("") == 1  # extract is what shows the surface
    view.network.chosen = "voxels"
    assert scrolls("voxels", latent=True) == 1 and scrolls("latent") == 0  # it was clicked: it is in sight


def test_where_shapes_are_mixed_each_stage_has_its_own_voxels(raw: Snapshot, view: ViewState) -> None:
    union = SparseVoxels(torch.tensor([[0, 0, 0], [1, 2, 3]], dtype=torch.int32), 8)
    scalars_now = frozen({**raw.scalars, "latent_voxels": 2.0})
    found = shown(view, dataclasses.replace(raw, scalars=scalars_now, fields=frozen(
        {**raw.fields, "latent/voxels": union})))
    own = raw.fields["voxels/voxels"].n_voxels
    assert [network.n_voxels(found, stage) for stage in ("voxels", "point features", "encoder 2")] == [own] * 3
    assert [network.n_voxels(found, stage) for stage in ("latent", "trunk 1")] == [2.0] * 2
    bare = shown(view, dataclasses.replace(raw, fields=frozen({})))
    assert network.n_voxels(bare, "encoder 1") == raw.scalars["latent_voxels"]
    assert np.isnan(network.n_voxels(Snapshot(), "upsample 1"))


def test_stages_to_come_are_told_from_those_that_are_done(engine: Engine, view: ViewState) -> None:
    def colours(snapshot: Snapshot) -> dict[str, Any]:
        ui = FakeUi()
        network.draw(ui, view, shown(view, snapshot))
        return {call[3]: call[2] for call in ui.calls if call[0] == "AddText"}

    latest = engine.snapshots.latest()
    whole = colours(latest)
    assert len({whole[stage] for stage in STAGES}) == 1
    part = colours(dataclasses.replace(latest, stage_next="latent"))
    assert part["encoder 2"] == whole["encoder 2"] != part["latent"] == part["extract"]


def click_at(point: np.ndarray, towards: tuple[float, float, float]) -> Click:
    direction = np.asarray(towards) / np.linalg.norm(towards)
    return Click(point - 3 * direction, direction)


def slow_pick(voxels: SparseVoxels, click: Click) -> int:
    """The slow twin: small steps along the ray."""
    at = click.origin + np.arange(0, 6, 1e-4)[:, None] * click.direction
    rows = voxels.find(torch.from_numpy(np.floor((at + 0.5) * voxels.resolution).astype(np.int32)))
    return int(rows[rows >= 0][0]) if bool((rows >= 0).any()) else -1


def test_a_click_picks_the_voxel_that_a_slow_walk_finds() -> None:
    generator = torch.Generator().manual_seed(3)
    cells = torch.randint(0, 12, (200, 3), generator=generator).unique(dim=0).int()
    voxels = SparseVoxels(cells[torch.randperm(len(cells), generator=generator)], 12)
    random, n_met = np.random.default_rng(0), 0
    for _ in range(25):
        click = click_at(random.uniform(-0.4, 0.4, 3), tuple(random.normal(size=3)))
        found = voxel_on_ray(voxels, click)
        expected = slow_pick(voxels, click)
        n_met += expected >= 0
        assert found == expected
    assert n_met > 10
    along = Click(np.array([0.01, 0.01, 2.0]), np.array([0.0, 0.0, -1.0]))  # within layers of two axes all the way
    assert voxel_on_ray(voxels, along) == slow_pick(voxels, along)
    assert voxel_on_ray(SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 8), along) == -1


def test_what_is_cut_away_is_not_picked() -> None:
    voxels = SparseVoxels(torch.tensor([[4, 4, 1], [4, 4, 6]], dtype=torch.int32), 8)
    click = Click(np.array([0.05, 0.05, 2.0]), np.array([0.0, 0.0, -1.0]))
    front, back = (int(voxels.find(torch.tensor([[4, 4, z]], dtype=torch.int32))[0]) for z in (6, 1))
    assert voxel_on_ray(voxels, click) == front
    assert voxel_on_ray(voxels, click, Plane((0.0, 0.0, 1.0), 0.0)) == back
    assert voxel_on_ray(voxels, click, Plane((0.0, 0.0, 1.0), 0.0), flipped=True) == front


def test_attending_asks_for_the_row_and_a_pass(raw: Snapshot, view: ViewState) -> None:
    latents = raw.fields["latent/voxels"]
    for stage in ("encoder 1", "upsample 2", ""):
        found = shown(view, raw, stage)
        voxels = found.fields["voxels"]
        row = voxels.n_voxels // 3
        view.click = click_at(voxels.centers[row].numpy(), (0.0, 0.0, -1.0))
        network.draw(FakeUi(), view, found)
        picked = view.network.picked
        assert picked is not None and picked.resolution == voxels.resolution
        view.click = None
        commands = network.draw(FakeUi({"Attend here": True}), view, found)
        ancestor = torch.tensor([picked.ijk]) * latents.resolution // picked.resolution
        x, y, z = ancestor[0].tolist()
        assert bool((latents.voxel_ijk == ancestor).all(dim=1).any())
        expected = (x * latents.resolution + y) * latents.resolution + z
        assert commands == [ChangeSetting("attended_voxel", float(expected)), NextIteration()]
    view.network.look(view, raw)
    view.network.chosen = "trunk 1"
    view.network.look(view, raw)
    assert view.field.at_voxels == "attention"
    view.click = Click(np.array([3.0, 3.0, 3.0]), np.array([1.0, 0.0, 0.0]))
    network.draw(FakeUi(), view, shown(view, raw))
    assert view.network.picked is None  # a click beside everything lets go
    assert Picked((0, 0, 0), 4).row_of(latents) == -1  # coarser than the latents: no one voxel is meant


def test_a_pass_for_what_was_changed_comes_after_the_one_under_way(raw: Snapshot) -> None:
    under_way = dataclasses.replace(raw, stage_next="latent")
    assert another_pass(raw) == [NextIteration()] and another_pass(under_way) == 2 * [NextIteration()]
    assert another_pass(dataclasses.replace(raw, source="replay")) == []


def test_attention_beyond_the_window_is_faint_and_no_fault(view: ViewState) -> None:
    run = FakeInference(16, 2000)
    engine = Engine(run)
    engine.start()
    try:
        engine.send(RequestFields(frozenset({"encoder 1/voxels", "encoder 1/attention"})))
        engine.send(ChangeSetting("attended_voxel", float(key_of(16, 2000, 5))))
        engine.send(RunIterations(1))
        raw = engine.snapshots.wait_for(lambda s: s.iteration == 1 and "encoder 1/attention" in s.fields, 20)
    finally:
        assert engine.stop()
    view.network.recent = ["attention"]
    found = shown(view, raw, "encoder 1")
    quantity, colours = view.field.voxel, view.field.colours("voxel")
    beyond = np.isnan(found.fields["attention"]).any(axis=1)
    assert quantity.name == "attention" and quantity.n_bad == 0 < beyond.sum() == quantity.n_nan < len(beyond)
    assert (colours[beyond] == np.float32(theme.faint())).all() and not (colours[~beyond] == colours[beyond][0]).any()
    assert np.allclose(quantity.values[~beyond], found.fields["attention"][~beyond].mean(axis=1))
    assert quantities.parts_of("attention", found.fields["attention"])[:2] == ["mean", "head 0"]
    ui = FakeUi()
    network.draw(ui, view, found)
    assert ui.says("beyond its window") and not ui.says("NaN")


def test_colours_of_features_are_the_fields_own(raw: Snapshot, view: ViewState) -> None:
    found = shown(view, raw, "trunk 2")
    assert np.array_equal(view.field.colours("voxel"), found.fields["pca"])
    spoiled = np.array(found.fields["pca"])
    spoiled[3, 1], spoiled[4] = np.nan, (2.0, -1.0, 0.5)
    colours = quantities.colours_of("pca", spoiled)
    assert (colours[3] == np.float32(theme.NOT_A_NUMBER)).all() and colours[4].tolist() == [1.0, 0.0, 0.5]
    ui = FakeUi()
    network.draw(ui, view, found)
    assert ui.says("Red, green and blue") and not ui.says("viridis")


def test_logits_are_coloured_about_the_threshold_even_where_all_are_above(raw: Snapshot, view: ViewState) -> None:
    shown(view, raw, "prune 1")
    assert (view.field.voxel.values >= 0).all()
    scale = view.field.scale_of(view.field.voxel)
    assert scale.name == "diverging" and scale.low == -scale.high
    for stage, asked in (("prune 1", False), ("voxels", True)):  # a choice that changes nothing isn't offered
        ui = FakeUi()
        network.draw(ui, view, shown(view, raw, stage))
        assert ui.says("cividis") == asked


def test_other_runs_keep_their_own_choices(raw: Snapshot, view: ViewState) -> None:
    before = kept(view)
    view.field.at_voxels = "gamma"
    shown(view, raw, "trunk 1")
    view.pruning.level = 2
    assert (view.field.at_voxels, view.field.voxels_coloured) == ("pca", True)
    assert kept(view) == {**before, "field.at_voxels": "gamma"}
    view.network.forget(view)
    assert (view.field.at_voxels, view.field.voxels_coloured, view.pruning.level) == ("gamma", False, None)
    assert kept(view) == {**before, "field.at_voxels": "gamma"}


# Latent


def test_a_slider_is_decoded_once_it_is_let_go(raw: Snapshot, view: ViewState) -> None:
    found = shown(view, raw)
    drag = {"noise##noise": 0.5, "IsItemActive": True}
    assert latent.draw(FakeUi(drag), view, found) == [] and view.edited["noise"] == 0.5
    assert latent.draw(FakeUi({"IsItemDeactivated": True}), view, found) == [
        ChangeSetting("noise", 0.5), NextIteration()]
    assert "noise" not in view.edited
    view.latent.at_once = False
    assert latent.draw(FakeUi({"noise##noise": 0.7}), view, found) == [ChangeSetting("noise", 0.7)]
    assert latent.draw(FakeUi({"Decode again": True}), view, found) == [NextIteration()]


@pytest.mark.parametrize(("uses", "expected"), [
    ({"A sample": True}, [("sample_posterior", 1.0)]),
    ({"replaced by": 1}, [("replace", 1.0)]),
    ({"replaced by": 3}, [("replace", 3.0)]),
    ({"to the other##interpolate": 0.25}, [("interpolate", 0.25)]),
    ({"Around a place": True}, [("region_radius", latent.DEFAULT_RADIUS)]),
    ({"##chunk voxels": 1}, [("chunk_voxels", 4096.0)]),
    ({"As the release does": True}, [("release_chunks", 1.0)]),
])
def test_edits_change_settings(raw: Snapshot, view: ViewState, uses: dict[str, Any], expected: list) -> None:
    commands = latent.draw(FakeUi(uses), view, shown(view, raw))
    assert commands == [*(ChangeSetting(*change) for change in expected), NextIteration()]


def test_without_another_shape_nothing_leads_towards_it(raw: Snapshot, view: ViewState) -> None:
    alone = dataclasses.replace(raw, settings=frozen({n: s for n, s in raw.settings.items() if n != "interpolate"}))
    ui = FakeUi({"to the other##interpolate": 0.5})
    assert latent.draw(ui, view, shown(view, alone)) == [] and ui.says("--other MESH")
    assert not any("the other shape's" in call[3] for call in ui.calls if call[0] == "Combo")


def test_the_region_follows_the_picked_voxel_and_shows_while_it_is_looked_at(raw: Snapshot, view: ViewState) -> None:
    around = dataclasses.replace(raw, settings=frozen({
        **raw.settings, "region_radius": dataclasses.replace(raw.settings["region_radius"], value=0.2)}))
    found = shown(view, around)
    view.tabs = {"left": "Network", "right": "Latent"}
    assert view.latent.region(view, found) == ((0.0, 0.0, 0.0), 0.2)
    view.edited["region_radius"] = 0.3
    assert view.latent.region(view, found)[1] == 0.3  # as it is being dragged
    view.tabs["right"] = "Plots"
    assert view.latent.region(view, found) is None
    view.edited.clear()
    view.network.picked = Picked((6, 2, 5), 8)
    commands = latent.draw(FakeUi({"Around the picked voxel": True}), view, found)
    centre = view.network.picked.centre_world
    assert commands == [*(ChangeSetting(f"region_{axis}", part) for axis, part in zip("xyz", centre, strict=True)),
                        NextIteration()]


def test_channels_are_those_of_the_posterior_and_of_what_is_decoded(raw: Snapshot, view: ViewState) -> None:
    found = shown(view, raw)
    channels, mean = view.latent.channels(found), raw.fields["latent/mean"]
    assert np.allclose(channels.mean, mean.mean(axis=0), atol=1e-6)
    assert np.allclose(channels.deviation, mean.std(axis=0), atol=1e-6)
    assert np.allclose(channels.spread, raw.fields["latent/std"].mean(axis=0), atol=1e-6)
    assert view.latent.channels(found) is channels
    assert view.latent.channels(shown(view, without(raw, "latent/std"))) is None


def test_a_click_on_a_channel_colours_by_it(raw: Snapshot, view: ViewState) -> None:
    uses = {"IsPlotHovered": True, "GetPlotMousePos": (3.2, 0.0), "IsMouseClicked": True}
    latent.draw(FakeUi(uses), view, shown(view, raw))
    found = shown(view, raw, view.network.chosen)
    assert found.products.stage == "latent" and view.field.voxel.part == "channel 3"
    assert np.array_equal(view.field.voxel.values, raw.fields["latent/mean"][:, 3])


# Pruning


def decided(view: ViewState, found: Snapshot) -> Any:
    view.decisions.decided(view, found)
    view.worker.wait_for(f"decided {view.decisions.level}", 20)
    return view.decisions.decided(view, found)


@pytest.mark.parametrize("level", [1, 2])
def test_the_counts_at_a_threshold_are_those_of_counting(raw: Snapshot, view: ViewState, level: int) -> None:
    view.decisions.level = level
    here = decided(view, shown(view, raw))
    children, logits = (raw.fields[f"upsample {level}/{name}"] for name in ("voxels", "occupancy_logit"))
    cells = np.floor((raw.fields["points"] + 0.5) * children.resolution).astype(int)
    holding = {tuple(cell) for cell in cells}
    truth = np.array([tuple(cell) in holding for cell in children.voxel_ijk.tolist()])
    assert here.n_children == len(logits) == here.n_all.sum() and truth.sum() == here.n_true.sum()
    for threshold in (-5.0, -0.3, 0.0, 1.7, 10.0):
        kept, at = logits >= threshold, here.at(threshold)
        assert (at["kept"], at["pruned"]) == (kept.sum(), (~kept).sum())
        assert at["wrongly_kept"] == (kept & ~truth).sum() and at["wrongly_pruned"] == (truth & ~kept).sum()
        if kept.any():
            assert at["precision"] == pytest.approx((kept & truth).sum() / kept.sum())
        assert at["recall"] == pytest.approx((kept & truth).sum() / truth.sum())
    assert here.at(0.0)["kept"] == raw.scalars[f"kept_{level}"]


def test_the_slider_shows_consequences_at_once_and_runs_when_let_go(raw: Snapshot, view: ViewState) -> None:
    found = shown(view, raw)
    view.decisions.level = 2
    here = decided(view, found)
    for uses in ({"##threshold_2": 1.5}, {"DragLineX": 1.5}):
        ui = FakeUi({**uses, "IsMouseDown": True})
        assert pruning.draw(ui, view, found) == [] and view.edited["threshold_2"] == 1.5
        for name in ("kept", "pruned", "wrongly_kept", "wrongly_pruned"):
            assert ui.says(f"{here.at(1.5)[name]:,}")
        assert here.at(1.5)["kept"] != here.at(0.0)["kept"]
        assert pruning.draw(FakeUi(), view, found) == [ChangeSetting("threshold_2", 1.5), NextIteration()]
        assert "threshold_2" not in view.edited
    assert pruning.draw(FakeUi({"DragLineX": 99.0, "IsMouseDown": True}), view, found) == []
    assert view.edited["threshold_2"] == 10.0  # not beyond what the run takes
    view.edited.clear()
    assert pruning.draw(FakeUi({"Prune": False}), view, found) == [ChangeSetting("prune", 0.0), NextIteration()]


def test_where_nothing_is_pruned_counts_are_said_to_be_of_what_would_be(raw: Snapshot, view: ViewState) -> None:
    found = shown(view, raw)
    decided(view, found)
    for value in (0.0, 1.0):
        prune = dataclasses.replace(raw.settings["prune"], value=value)
        ui = FakeUi()
        pruning.draw(ui, view, dataclasses.replace(found, settings=frozen({**raw.settings, "prune": prune})))
        assert ui.says("Pruning is off") == (value == 0.0)


def test_the_slider_s_tip_does_not_hide_the_counts_that_follow_it(raw: Snapshot, view: ViewState) -> None:
    found = shown(view, raw)
    decided(view, found)
    for held in (True, False):
        ui = FakeUi({"IsItemActive": held})
        ui.im.IsItemHovered = lambda: True
        pruning.draw(ui, view, found)
        tips = [call[1] for call in ui.calls if call[0] == "SetTooltip"]
        assert any("Counts follow" in tip for tip in tips) == (not held)


def test_equal_copies_of_the_logits_are_not_looked_at_again(raw: Snapshot, view: ViewState) -> None:
    first = decided(view, shown(view, raw))
    copy = {**raw.fields, "upsample 1/occupancy_logit": raw.fields["upsample 1/occupancy_logit"].copy()}
    n = view.worker.n_finished
    assert decided(view, shown(view, dataclasses.replace(raw, fields=frozen(copy)))) is first
    assert view.worker.n_finished == n
    copy["upsample 1/occupancy_logit"] = raw.fields["upsample 1/occupancy_logit"] + 1
    assert decided(view, shown(view, dataclasses.replace(raw, fields=frozen(copy)))) is not first


def test_bad_logits_are_counted(raw: Snapshot, view: ViewState) -> None:
    logits = raw.fields["upsample 1/occupancy_logit"].copy()
    logits[:7] = np.nan
    spoiled = dataclasses.replace(raw, fields=frozen({**raw.fields, "upsample 1/occupancy_logit": logits}))
    here = decided(view, shown(view, spoiled))
    assert here.n_bad == 7 and here.at(-100.0)["pruned"] == 7
    ui = FakeUi()
    pruning.draw(ui, view, shown(view, spoiled))
    assert ui.says("7 logits are NaN")


def test_layers_and_reasons_are_those_of_the_level(raw: Snapshot, view: ViewState) -> None:
    found = shown(view, raw)
    for level in (1, 2):
        ui = FakeUi({f"Level {level}": True, "##layer pruned": True})
        pruning.draw(ui, view, found)
        event = next(event for event in raw.fields["prune"] if event.level == level)
        assert view.decisions.level == level and view.pruning.voxels(found, "pruned") is event.pruned
        assert ui.says("logit below the threshold") and ui.says(f"{event.n_pruned:,}")
    assert pruning.draw(FakeUi(), view, Snapshot()) == [] and view.pruning.level is None  # a fit has looks


# Points


def test_holes_are_counted_by_cause(raw: Snapshot, view: ViewState) -> None:
    cause = np.zeros(len(raw.fields["points"]), np.uint8)
    for code in Cause:
        cause[: 10 * int(code)] += 1
    counts = np.bincount(cause, minlength=len(Cause))
    found = shown(view, dataclasses.replace(raw, fields=frozen({**raw.fields, "point_cause": cause})))
    ui = FakeUi()
    pruning.draw(ui, view, found)
    for code in Cause:
        assert ui.says(LOOKS[code].label) and any(text.startswith(f"{counts[code]:,}  ") for text in ui.texts)
    n_missing = int(counts[Cause.MISSING_NEIGHBOUR])
    for n_pruned, said in ((n_missing - 1, True), (n_missing, False)):  # False: counts of another pass
        scalars = {**raw.scalars, "points_missing_no_input_voxel": 1.0, "points_missing_pruned_1": 0.0,
                   "points_missing_pruned_2": float(n_pruned)}
        ui = FakeUi()
        pruning.draw(ui, view, dataclasses.replace(found, scalars=frozen(scalars)))
        assert ui.says("it never was") == ui.says("it was pruned at level 2") == said
        assert not ui.says("it was pruned at level 1")
    assert view.points.colours.shape == (len(view.points.shown.rows), 3)
    assert set(LOOKS) == set(Cause) and len({look.colour for look in LOOKS.values()}) == len(Cause)


def test_points_are_thinned_evenly_and_the_lost_ones_first(view: ViewState) -> None:
    n = MAX_POINTS + 50_000
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (n, 3)).astype(np.float32)
    points[5] = np.nan
    kinds = {"points": "points", "point_cause": "point", "a/voxels": "voxels"}
    plain = Snapshot(field_kinds=frozen(kinds), fields=frozen({"points": points}), products=Products(stages=("a",)))
    own = PointView()
    own.update(view, plain)
    rows = own.shown.rows
    assert len(rows) == MAX_POINTS and own.shown.n_all == n and 5 not in rows and own.colours is None
    assert set(np.diff(rows)) <= {1, 2, 3} and np.array_equal(own.shown.places, points[rows])
    cause = np.zeros(n, np.uint8)
    cause[100:400] = Cause.PRUNED_2
    own.update(view, dataclasses.replace(plain, fields=frozen({"points": points, "point_cause": cause})))
    assert own.shown.n_lost == own.shown.n_lost_drawn == 300 and set(range(100, 400)) <= set(own.shown.rows.tolist())
    assert len(own.shown.rows) == MAX_POINTS and len(own.colours) == MAX_POINTS
    view.points = own
    assert "100,000 of 150,000" in network.drawn_points(view) and "300 of 300" in network.drawn_points(view)
    view.layers["points"] = False
    own.update(view, plain)
    assert own.shown is None and "points" not in own.scene_fields(view)
    assert np.array_equal(evenly(np.arange(10), 4), [0, 2, 5, 7])


# Beside them


def test_the_transport_shows_the_stages_that_fit(raw: Snapshot) -> None:
    many = FakeInference(8, 10, n_blocks_named=12).stages
    assert transport.stages_that_fit(FakeUi(), STAGES[:2], 0) == (0, 2)
    for place in range(len(many)):
        first, last = transport.stages_that_fit(FakeUi(), many, place)
        assert 0 <= first <= place < last <= len(many) and last - first < len(many)


def test_a_stage_that_only_looked_is_said_to_have_kept_what_it_had(raw: Snapshot, view: ViewState) -> None:
    secs = {stage: 1e-5 if stage in ("points", "latent") else 0.25 for stage in STAGES}
    ui = FakeUi()
    network.draw(ui, view, shown(view, dataclasses.replace(raw, stage_secs=frozen(secs))))
    assert ui.texts.count("kept") == 1 and ui.texts.count("250 ms") == len(STAGES) - 2


def test_plots_of_causes_have_the_scenes_colours(raw: Snapshot) -> None:
    assert colour_of_scalar("points_lost_pruned_1") == LOOKS[Cause.PRUNED_1].colour
    assert colour_of_scalar("points_covered") == theme.POINTS and colour_of_scalar("points") is None
    names = ("iteration", "points_covered", "points_lost_no_input_voxel", "kept_1", "children_1", "loss_kl")
    history = History(names, np.ones((2, len(names))))
    assert groups(history)[CAUSES] == list(names[1:3]) and groups(history)[CHILDREN] == ["kept_1", "children_1"]
    assert line_label(names[2]) == "no input voxel"
    ui = FakeUi()
    plots.draw(ui, ViewState(plots=PlotView(upper=CAUSES)), dataclasses.replace(raw, history=history))
    assert ui.says("no input voxel")


def test_scalars_of_an_inference_are_whole_where_they_count() -> None:
    for name in ("kept_1", "wrongly_pruned_2", "points_lost_pruned_1", "latent_voxels"):
        assert scalars.shown(name, 12345.0) == "12,345"


def test_arrow_keys_step_where_the_tab_is_in_front(raw: Snapshot, view: ViewState) -> None:
    from types import SimpleNamespace

    from workbench.actions import ACTIONS

    down = next(action for action in ACTIONS if action.key == "DownArrow")
    window = SimpleNamespace(view=view, snapshot=shown(view, raw, "encoder 1"))
    view.tabs["left"] = "Layers"
    down.does(window)
    assert view.network.chosen == "encoder 1"
    view.tabs["left"] = "Network"
    down.does(window)
    assert view.network.chosen == "encoder 2"


def test_stepping_stage_by_stage_keeps_the_panels_alive(view: ViewState) -> None:
    engine = Engine(FakeInference(8, 300))
    engine.start()
    try:
        for stage in STAGES:
            engine.send(NextStage())
            raw = engine.snapshots.wait_for(lambda s, stage=stage: s.stage_done == stage and not s.playing, 20)
            found = shown(view, raw)
            for column in panels.columns(found).values():
                for panel in column.values():
                    assert panel.draw(FakeUi(), view, found) == []
    finally:
        assert engine.stop()
