"""Snapshots of an inference as one of its stages shows them: which stage, under which names, and what stays hidden."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from fake_inference import ENCODER, STAGES, FakeInference
from fake_run import FakeRun

from workbench import panels, products
from workbench.commands import NextStage, RequestFields, RunIterations
from workbench.engine import Engine
from workbench.network_view import NetworkView
from workbench.products import BEGINNING, FOLLOW, run_names, seen, shown_stage, stages_of
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine that has made one pass."""
    found = Engine(FakeInference(8, 800))
    found.start()
    found.send(RunIterations(1))
    found.snapshots.wait_for(lambda s: s.iteration == 1 and not s.playing, 60)
    yield found
    assert found.stop()


def with_fields(engine: Engine, names: frozenset[str]) -> Snapshot:
    before = engine.snapshots.latest().answers
    engine.send(RequestFields(names))
    return engine.snapshots.wait_for(lambda s: s.answers > before and s.asked == names, 20)


def test_the_stages_are_those_that_leave_voxels(engine: Engine) -> None:
    shown = engine.snapshots.latest()
    assert stages_of(shown.field_kinds) == STAGES[1:-2]
    assert stages_of({}) == () and stages_of({"voxels": "voxels", "a/norm": "voxel"}) == ()
    run = FakeRun(8)
    other = Snapshot(field_kinds=run.fields)
    assert seen(other, "encoder 1") is other  # a run of any other kind is left alone


def test_following_goes_with_the_pass_and_ends_at_the_surface() -> None:
    kinds = FakeInference(8, 10).fields
    at = {after: Snapshot(stages=STAGES, stage_next=after, field_kinds=kinds) for after in STAGES}
    assert shown_stage(at["points"], FOLLOW) == ""  # between two passes
    assert shown_stage(at["voxels"], FOLLOW) == BEGINNING  # only points have been made
    for done, following in zip(STAGES[1:-3], STAGES[2:-2], strict=True):
        assert shown_stage(at[following], FOLLOW) == done
    assert shown_stage(at["head"], FOLLOW) == "prune 2" and shown_stage(at["extract"], FOLLOW) == ""
    assert shown_stage(at["voxels"], "latent") == "latent"  # chosen, whether it is there or not
    assert shown_stage(at["voxels"], "no such stage") == BEGINNING


@pytest.mark.parametrize("stage", STAGES[1:-2])
def test_a_stages_fields_have_their_own_names(engine: Engine, stage: str) -> None:
    bare = seen(engine.snapshots.latest(), stage)
    names = run_names(bare, {*bare.field_kinds, "latent/mean"})
    assert f"{stage}/voxels" in names and "voxels" not in names and "target" in names and "latent/mean" in names
    raw = with_fields(engine, names)
    found = seen(raw, stage)
    assert found.products.stage == stage and found.products.fields["latent/mean"] is raw.fields["latent/mean"]
    assert set(found.field_kinds) <= found.asked  # what was asked for under the run's names has been answered
    for name, kind in found.field_kinds.items():
        own = f"{stage}/{name}"
        assert kind == raw.field_kinds.get(own, raw.field_kinds.get(name)) and products.SEPARATOR not in name
        if name in found.fields:
            assert found.fields[name] is raw.fields[own if own in raw.fields else name]
        if kind == "voxel" and name in found.fields:
            assert len(found.fields[name]) == found.fields["voxels"].n_voxels  # rows of that stage's voxels
    # those of the final surface have other voxels
    assert not {"corner_sdf", "corner_deform"} & set(found.field_kinds)


def test_the_final_surface_has_no_stages_names(engine: Engine) -> None:
    found = seen(engine.snapshots.latest())
    assert found.products.stage == "" and not [name for name in found.field_kinds if "/" in name]
    assert {"voxels", "corner_sdf", "occupancy_logit", "mesh", "points"} <= set(found.field_kinds)
    assert run_names(found, {"voxels", "latent/mean"}) == {"voxels", "latent/mean"}


def test_the_beginning_has_points_and_no_voxels(engine: Engine) -> None:
    found = seen(engine.snapshots.latest(), BEGINNING)
    assert found.products.stage == BEGINNING and "voxels" not in found.field_kinds and "points" in found.field_kinds


def test_the_view_makes_each_snapshot_once_and_asks_by_the_runs_names(engine: Engine) -> None:
    view, raw = ViewState(), engine.snapshots.latest()
    shown = view.network.look(view, raw)
    assert view.network.look(view, raw) is shown
    view.network.chosen = "encoder 1"
    other = view.network.look(view, raw)
    assert other is not shown
    view.tabs["left"] = "Network"
    names = run_names(other, panels.wanted_fields(view, other) | view.scene_fields(other))
    assert {"encoder 1/voxels", "encoder 1/pca", "latent/voxels", "mesh", "target", "points"} <= names


def test_colours_follow_the_stage_and_the_users_wish(engine: Engine) -> None:
    view, raw = ViewState(), engine.snapshots.latest()
    expected = {"voxels": "n_points", "encoder 1": "pca", "latent": "pca", "upsample 1": "occupancy_logit"}
    for stage, name in expected.items():
        view.network.chosen = stage
        view.network.look(view, raw)
        assert view.field.at_voxels == name and view.field.voxels_coloured
    view.network.chosen = "encoder 1"
    view.network.look(view, raw)
    view.field.at_voxels = "norm"  # as a combo box does
    view.network.look(view, raw)
    view.network.chosen = "trunk 1"
    view.network.look(view, raw)
    assert view.field.at_voxels == "norm"  # wherever there is one
    view.network.chosen = "voxels"
    view.network.look(view, raw)
    assert view.field.at_voxels == "n_points"
    view.field.voxels_coloured = False
    view.network.chosen = "latent"
    view.network.look(view, raw)
    assert not view.field.voxels_coloured  # once turned off, it stays off


def test_arrows_step_through_the_stages_and_then_follow(engine: Engine) -> None:
    view, raw = ViewState(), engine.snapshots.latest()
    view.network.chosen = ENCODER[0]
    view.network.step(view.network.look(view, raw), 1)
    assert view.network.chosen == ENCODER[1]
    for _ in STAGES:
        view.network.step(view.network.look(view, raw), 1)
    assert view.network.chosen == FOLLOW
    for _ in range(2 * len(STAGES)):
        view.network.step(view.network.look(view, raw), -1)
    assert view.network.chosen == BEGINNING
    none = NetworkView()
    none.step(Snapshot(), 1)
    assert none.chosen == FOLLOW


def test_a_recording_shows_the_stages_of_every_pass(engine: Engine) -> None:
    """In a recording each pass is whole: following means the final surface, and a chosen stage is that pass's."""
    raw = dataclasses.replace(engine.snapshots.latest(), source="replay", stage_next=STAGES[0])
    assert shown_stage(raw, FOLLOW) == "" and shown_stage(raw, "prune 1") == "prune 1"


def test_stage_by_stage_the_window_sees_the_newest() -> None:
    engine, view = Engine(FakeInference(8, 500)), ViewState()
    engine.start()
    try:
        for place, stage in enumerate(STAGES, start=1):
            engine.send(NextStage())
            raw = engine.snapshots.wait_for(lambda s, stage=stage: s.stage_done == stage and not s.playing, 20)
            shown = view.network.look(view, raw)
            raw = with_fields(engine, run_names(shown, {"voxels", "pca", "norm"}))
            found = view.network.look(view, raw)
            if stage in STAGES[2:-2]:
                assert found.products.stage == stage and torch.is_tensor(found.fields["voxels"].voxel_ijk)
                assert {"pca", "norm"} <= set(found.fields)
            elif place > len(STAGES) - 2:
                assert found.products.stage == "" and found.fields["voxels"].resolution == 32
    finally:
        assert engine.stop()
