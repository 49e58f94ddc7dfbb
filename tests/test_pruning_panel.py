"""The Pruning tab and its layers: what they show of a fit that goes coarse to fine."""

from __future__ import annotations

import dataclasses

import pytest
from fake_run import icosphere_like
from fake_ui import FakeUi

from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun
from workbench.commands import ChangeSetting, RequestFields, RunIterations
from workbench.engine import Engine
from workbench.panels import pruning
from workbench.pruning_view import KINDS, REASONS, counts_of, level_rows, reasons_of
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState

FIELDS = frozenset({"prune", "occupancy", "voxels"})


@pytest.fixture(scope="module")
def fit() -> FitRun:
    return FitRun(icosphere_like(10, 0.4), FitConfig(
        resolution=32, start_resolution=8, image_size=64, iterations=30, prune_every=2))


@pytest.fixture(scope="module")
def fitted(fit: FitRun) -> Snapshot:
    """After all three levels."""
    engine = Engine(fit)
    engine.start()
    try:
        engine.send(RequestFields(FIELDS))
        engine.send(RunIterations(30))
        return engine.snapshots.wait_for(
            lambda s: s.iteration == 30 and not s.playing and "prune" in s.fields, 60)
    finally:
        assert engine.stop()


def test_levels_add_up_and_the_last_look_counts(fit: FitRun, fitted: Snapshot) -> None:
    events = fitted.fields["prune"]
    rows = level_rows(events)
    assert [row.resolution for row in rows] == [8, 16, 32] and rows[-1].n_kept == fit.voxels.n_voxels
    for row in rows:
        own = [event for event in events if event.level == row.level]
        assert row.n_pruned == sum(len(event.pruned.voxel_ijk) for event in own)
        assert row.n_wrongly_pruned == sum(int(event.wrongly_pruned.sum()) for event in own)
        assert row.n_wrongly_kept == own[-1].wrongly_kept.n_voxels


def test_reasons_add_up_to_the_counts(fitted: Snapshot) -> None:
    assert set(REASONS) == set(type(next(iter(REASONS))))  # every reason has words
    for event in fitted.fields["prune"]:
        for kind, n_voxels in counts_of(event).items():
            if kind != "born":
                assert sum(number for _, number in reasons_of(event, kind)) == n_voxels
        assert reasons_of(event, "born") == []


def test_the_tab_names_every_level_and_toggles_layers(fitted: Snapshot) -> None:
    view = ViewState()
    assert "prune" not in view.scene_fields(fitted)
    ui = FakeUi({"##layer pruned": True})
    assert pruning.draw(ui, view, fitted) == []
    for resolution in (8, 16, 32):
        assert ui.says(f"{resolution}³")
    assert view.layers["pruned"] and "prune" in view.scene_fields(fitted)
    assert any(call[0] == "PlotBars" for call in ui.calls)


def test_a_look_can_be_chosen_and_the_latest_follows(fitted: Snapshot) -> None:
    view, events = ViewState(), fitted.fields["prune"]
    pruning.draw(FakeUi({"##look": 0}), view, fitted)
    assert view.pruning.chosen == events[0].iteration and view.pruning.event(events) is events[0]
    assert view.pruning.voxels(fitted, "pruned") is events[0].pruned
    pruning.draw(FakeUi({"##look": -3}), view, fitted)  # typed
    assert view.pruning.chosen == events[0].iteration
    pruning.draw(FakeUi({"##look": len(events) + 2}), view, fitted)
    assert view.pruning.chosen is None and view.pruning.event(events) is events[-1]
    view.pruning.chosen = 10**9  # forgotten
    assert view.pruning.event(events) is events[-1]
    for kind in KINDS:
        shown = view.pruning.voxels(fitted, kind)
        assert shown.n_voxels == counts_of(events[-1])[kind] and view.pruning.voxels(fitted, kind) is shown


def test_thresholds_are_settings(fitted: Snapshot) -> None:
    assert pruning.draw(FakeUi({"prune below": 0.2}), ViewState(), fitted) == [ChangeSetting("prune_below", 0.2)]


def test_before_any_look_and_without_levels(fitted: Snapshot) -> None:
    young = dataclasses.replace(fitted, fields={"prune": ()})
    ui = FakeUi()
    assert pruning.draw(ui, ViewState(), young) == [] and ui.says("No look yet.")
    assert ViewState().pruning.voxels(young, "born") is None
    ui = FakeUi()
    assert pruning.draw(ui, ViewState(), Snapshot()) == [] and ui.says("--start-resolution")
