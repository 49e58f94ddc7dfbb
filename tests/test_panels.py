"""Panels: what they show of a snapshot and which commands come of using them; no window, no Polyscope."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_run import FakeRun, icosphere_like
from fake_ui import ANSWERS, FakeUi

from sparseflex.checkpoint import load_run, save_checkpoint
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun
from sparseflex.training.run import Run
from workbench import layout, panes, theme
from workbench.commands import (
    Command,
    NextIteration,
    NextStage,
    Pause,
    Play,
    RequestFields,
    RunIterations,
    RunTo,
    StepBack,
)
from workbench.engine import Engine
from workbench.pacing import MOST_SCENE_SECS, MOST_SECS, SCENE_SHARE, UI_SHARE, Pacer
from workbench.panels import frustum, layers, maps, plots, scalars, status, transport, wanted_fields
from workbench.plot_view import SECONDS, choices, groups
from workbench.snapshot import Failure, Snapshot
from workbench.view_state import LAYERS, ViewState

PANELS = (transport, frustum, layers, maps, plots, scalars, status)
ALL = frozenset({"voxels", "mesh", "target", "corner_sdf"} | {
    f"{origin}_{name}" for origin in ("rendered", "target") for name in ("depth", "normal", "mask")})


def snapshot_after(*commands: Command, run: Run | None = None) -> Snapshot:
    engine = Engine(run or FakeRun())
    engine.start()
    for command in commands:
        engine.send(command)
    engine.send(RequestFields(ALL))
    wanted = run.stop_at if run is not None and hasattr(run, "stop_at") else None
    try:
        return engine.snapshots.wait_for(
            lambda s: s.answers > 0 and not s.playing and (wanted is None or s.iteration == wanted), 20)
    finally:
        assert engine.stop()


@pytest.fixture(scope="module")
def fitted() -> Snapshot:
    """The fake run after three iterations."""
    run = FakeRun()
    run.stop_at = 3
    return snapshot_after(RunIterations(3), run=run)


@pytest.fixture
def view(fitted: Snapshot) -> ViewState:
    state = ViewState()
    state.split.update(fitted.fields["voxels"], fitted.cameras[0].camera)
    return state


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.__name__)
@pytest.mark.parametrize("only_scalars", [False, True])
def test_every_panel_draws_a_new_run_and_one_with_scalars_only(panel: ModuleType, only_scalars: bool) -> None:
    snapshot = snapshot_after(run=FakeRun(only_scalars=only_scalars))
    assert panel.draw(FakeUi(), ViewState(), snapshot) == []


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.__name__)
def test_drawing_alone_sends_nothing(panel: ModuleType, fitted: Snapshot, view: ViewState) -> None:
    ui = FakeUi()
    assert panel.draw(ui, view, fitted) == []
    assert ui.texts


def test_panels_know_nothing_of_polyscope() -> None:
    code = "import sys; from workbench.panels import frustum, layers, maps, plots, scalars, status, transport; "
    code += "assert not [name for name in sys.modules if 'polyscope' in name]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("label", "command"),
    [("Play", Play()), ("Stage", NextStage()), ("Iteration", NextIteration()), ("Run", RunIterations(10)),
     ("Run to", RunTo(100)), ("Back", StepBack())],
)
def test_transport_buttons(label: str, command: Command, fitted: Snapshot, view: ViewState) -> None:
    assert transport.draw(FakeUi({label: True}), view, fitted) == [command]


def test_transport_while_playing(fitted: Snapshot, view: ViewState) -> None:

    playing = dataclasses.replace(fitted, playing=True, iterations_per_sec=12.34)
    ui = FakeUi({"Pause": True})
    assert transport.draw(ui, view, playing) == [Pause()]
    assert "Play" not in ui.texts and ui.says("12.3 it/s")


def test_transport_number_of_iterations_stays_in_range(fitted: Snapshot, view: ViewState) -> None:
    transport.draw(FakeUi({"##iterations": 25}), view, fitted)
    assert view.n_iterations == 25
    transport.draw(FakeUi({"##iterations": -5}), view, fitted)
    assert view.n_iterations == 1


def test_transport_says_what_a_stage_cost(fitted: Snapshot) -> None:
    assert "Last time" in transport.stage_tip(fitted, "render") and "MB" in transport.stage_tip(fitted, "render")
    assert transport.stage_tip(Snapshot(), "render") == "It has not run yet"


def test_layers_toggle_and_fields_follow(fitted: Snapshot, view: ViewState) -> None:
    assert "corner_sdf" not in view.scene_fields(fitted)
    layers.draw(FakeUi({f"##layer{LAYERS.index('sdf') + 1}": True}), view, fitted)
    assert view.layers["sdf"] and "corner_sdf" in view.scene_fields(fitted)
    layers.draw(FakeUi({f"##layer{LAYERS.index('mesh') + 1}": True}), view, fitted)
    assert not view.layers["mesh"] and "mesh" not in view.scene_fields(fitted)
    assert "rendered_depth" in wanted_fields(view, fitted) and "rendered_depth" not in view.scene_fields(fitted)
    view.show_panels = False
    assert not wanted_fields(view, fitted)
    assert ViewState().scene_fields(Snapshot()) == frozenset()


def test_whole_surface_is_shown_where_the_run_has_it(fitted: Snapshot) -> None:

    view = ViewState()
    assert view.field_of("mesh", fitted) == "mesh"
    both = dataclasses.replace(fitted, field_kinds={**fitted.field_kinds, "surface": "mesh"})
    assert view.field_of("mesh", both) == "surface" and "surface" in view.scene_fields(both)
    layers.draw(FakeUi({"Section only": True}), view, both)
    assert view.field_of("mesh", both) == "mesh" and view.field_of("target", both) == "target"


def test_plots_draw_loss_and_terms(fitted: Snapshot, view: ViewState) -> None:
    ui = FakeUi()
    plots.draw(ui, view, fitted)
    lines = {call[1]: call for call in ui.calls if call[0] == "PlotLine"}
    assert {"loss", "loss_depth"} <= set(lines)
    assert np.allclose(lines["loss"][2], [1, 2, 3]) and np.allclose(lines["loss"][3], np.exp(-np.arange(1, 4) / 20))
    assert any(call[0] == "SetupAxisScale" for call in ui.calls)
    view.plots.log_upper = False
    ui = FakeUi({"##lower": 1})
    plots.draw(ui, view, fitted)
    assert not any(call[0] == "SetupAxisScale" for call in ui.calls)
    assert view.plots.lower == choices(fitted.history)[1]


def test_plots_group_columns_of_one_unit_and_name_stages(fitted: Snapshot, view: ViewState) -> None:
    known = groups(fitted.history)
    assert known[SECONDS] == [f"secs_{stage}" for stage in fitted.stages]
    assert choices(fitted.history)[: len(known)] == list(known) and "secs_render" not in choices(fitted.history)
    view.plots.lower, view.plots.log_iterations = SECONDS, True
    ui = FakeUi()
    plots.draw(ui, view, fitted)
    assert ui.says("render") and {call[1] for call in ui.calls if call[0] == "PlotLine"} >= set(known[SECONDS])
    assert sum(call[0] == "SetupAxisScale" for call in ui.calls) == 3  # both iterations, one of the values


def test_hovering_a_plot_reads_the_nearest_iteration(fitted: Snapshot, view: ViewState) -> None:
    ui = FakeUi({"IsPlotHovered": True, "GetPlotMousePos": (2.2, 0.5)})
    plots.draw(ui, view, fitted)
    assert ui.says("iteration 2") and ui.says(f"total {np.exp(-2 / 20):.3g}")


def test_a_choice_that_the_run_lacks_falls_back(fitted: Snapshot, view: ViewState) -> None:
    view.plots.upper = "loss of another run"
    assert view.plots.chosen("upper", fitted.history) == choices(fitted.history)[0]
    plots.draw(FakeUi(), view, fitted)


def test_thinned_keeps_extremes_and_order() -> None:
    xs = np.arange(100_000, dtype=np.float64)
    ys = np.sin(xs / 1000)
    ys[54_321], ys[7] = 50.0, np.nan
    thin_xs, thin_ys = plots.thinned(xs, ys)
    assert len(thin_xs) <= plots.MAX_POINTS and np.all(np.diff(thin_xs) > 0)
    assert thin_ys.max() == 50.0 and np.isfinite(thin_ys).all() and thin_ys.min() == np.nanmin(ys)
    assert np.array_equal(thin_ys, ys[thin_xs.astype(int)])
    assert len(plots.thinned(xs[:5], np.full(5, np.nan))[0]) == 0


def test_scalars_name_every_number_of_the_run(fitted: Snapshot, view: ViewState) -> None:
    ui = FakeUi()
    scalars.draw(ui, view, fitted)
    assert ui.says("loss_depth") and ui.says(f"{fitted.scalars['loss']:.3g}")
    assert scalars.shown("faces", 12345.0) == "12,345" and scalars.shown("peak_bytes", 2e9) == "2,000 MB"
    assert scalars.shown("stage_secs", 0.0421) == "42 ms" and scalars.shown("loss", float("nan")) == "nan"


def test_a_scalar_without_room_loses_its_name_before_its_value(fitted: Snapshot, monkeypatch: pytest.MonkeyPatch
                                                              ) -> None:
    monkeypatch.setitem(ANSWERS, "GetContentRegionAvail", lambda: (120.0, 20.0))
    monkeypatch.setitem(ANSWERS, "IsItemHovered", lambda: True)
    ui = FakeUi()
    scalars.draw_values(ui, dataclasses.replace(fitted, scalars={"loss": 2.0, "secs_sample_cameras": 0.00125}))
    assert "1.25 ms" in ui.texts and not ui.says("secs_sample_cameras") and ui.says("secs_sa")
    assert all(7.0 * len(text) <= 120.0 for text in ui.texts)
    assert ("SetTooltip", "secs_sample_cameras") in ui.calls and ("SetTooltip", "loss") not in ui.calls


def test_status_line(fitted: Snapshot) -> None:

    assert status.line(fitted)[0] == "Paused"
    assert "Space plays" in status.line(Snapshot())[0]
    assert "before render" in status.line(dataclasses.replace(fitted, stage_next="render"))[0]
    assert status.line(dataclasses.replace(fitted, notice="saved x"))[0] == "saved x"
    failure = Failure("render", 7, "ValueError: bad", "Traceback ...")
    text, colour = status.line(dataclasses.replace(fitted, failure=failure))
    assert text == "Failed in render, iteration 7: ValueError: bad" and colour == theme.BAD


def test_within_an_iteration_the_transport_names_what_the_last_stage_made() -> None:
    engine = Engine(FakeRun())
    engine.start()
    try:
        engine.send(NextStage())
        shown = engine.snapshots.wait_for(lambda s: s.stage_done == "sample_cameras" and not s.playing, 20)
    finally:
        engine.stop()
    assert transport.produced(shown).startswith("sample_cameras: ")
    ui = FakeUi()
    transport.draw(ui, ViewState(), shown)
    assert ui.says("sample_cameras: ")
    assert transport.produced(dataclasses.replace(shown, playing=True)) == ""
    assert transport.produced(Snapshot()) == ""


@pytest.mark.parametrize("size", [(1280, 720), (1600, 900), (1920, 1080), (2560, 1440), (3840, 2160)])
@pytest.mark.parametrize("wanted", [0.7, 1.0, 1.6])
def test_columns_and_bar_fit_the_window_and_do_not_overlap(size: tuple[int, int], wanted: float) -> None:
    em = theme.FONT_PIXELS * layout.scale_for(*size, wanted)
    made = layout.Layout.of(*size, em)
    rects = [made.left, made.right, made.bar, made.free]
    for x, y, width, height in rects:
        assert x >= 0 and y >= 0 and width > 0 and height > 0 and x + width <= size[0] and y + height <= size[1]
    for i, a in enumerate(rects):
        for b in rects[i + 1 :]:
            apart = a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
            assert apart
    assert made.free[2] > 0.4 * size[0]
    assert size[0] >= layout.MIN_WIDTH_EM * em - 1e-6 and size[1] >= layout.MIN_HEIGHT_EM * em - 1e-6


@pytest.mark.parametrize("aspect", [0.5, 1.2, 3.0])
@pytest.mark.parametrize("sizes", [[1.2], [1.7, 1.3], [1.7, 1.3, 1.3], [1.0, 1.0, 2.0, 0.5]])
def test_arranged_squares_do_not_overlap(sizes: list[float], aspect: float) -> None:
    centres, (width, height) = layout.arranged(sizes, aspect)
    for i, (x, y) in enumerate(centres):
        assert abs(x) + sizes[i] / 2 <= width / 2 + 1e-9 and abs(y) + sizes[i] / 2 <= height / 2 + 1e-9
        for j in range(i):
            gap = (sizes[i] + sizes[j]) / 2 - 1e-9
            assert abs(x - centres[j][0]) >= gap or abs(y - centres[j][1]) >= gap
    assert layout.arranged([], aspect)[0] == []


def simulated(pacer: Pacer, ui_secs: float, scene_secs: float, secs: float = 30.0) -> tuple[float, int, float]:
    """Redraws as the window would, on a clock of its own: the share of time drawn, how many, the longest pause."""
    now, busy, n_redraws, last, longest = 0.0, 0.0, 0, 0.0, 0.0
    while now < secs:
        wait = pacer.secs_until_due(now, training=True, news=True)
        if wait > 0:
            now += wait
            continue
        with_scene = pacer.scene_due(now, training=True)
        cost = scene_secs if with_scene else ui_secs
        pacer.drawn(now, now + cost, with_scene)
        longest, last = max(longest, now - last), now
        now, busy, n_redraws = now + cost, busy + cost, n_redraws + 1
    return busy / now, n_redraws, longest


@pytest.mark.parametrize(("ui_secs", "scene_secs"), [(0.02, 0.2), (0.03, 0.46), (0.015, 0.1)])
def test_slow_redraws_keep_to_their_share_while_training(ui_secs: float, scene_secs: float) -> None:
    share, n_redraws, _ = simulated(Pacer(), ui_secs, scene_secs)
    assert share <= max(UI_SHARE, ui_secs / MOST_SECS) + max(SCENE_SHARE, scene_secs / MOST_SCENE_SECS) + 0.02
    assert n_redraws > 10


def test_very_slow_redraws_come_all_the_same() -> None:
    """A redraw of half a second would be due every 12 seconds by its share: the window would look hung."""
    share, n_redraws, longest = simulated(Pacer(), 0.5, 0.6)
    assert longest <= MOST_SECS + 0.6 + 0.5 and n_redraws > 12 and share < 0.5
    # and where one takes longer than the pauses, at least half of the time stays for the training
    assert simulated(Pacer(), 3.0, 5.0, 120.0)[0] < 0.6


def test_somebody_who_moves_the_mouse_leaves_the_training_a_third_of_the_time() -> None:
    pacer, now, busy = Pacer(), 0.0, 0.0
    while now < 30.0:
        pacer.alarm(now)  # the mouse moves all the time
        pacer.touch(now)
        pacer.alarm(now)
        wait = pacer.secs_until_due(now, training=True, news=True)
        if wait > 0:
            now += min(wait, 0.01)
            continue
        pacer.drawn(now, now + 0.3, True)
        now, busy = now + 0.3, busy + 0.3
    assert 0.55 < busy / now < 0.7
    assert pacer.secs_until_due(now, training=False, news=False) <= 1 / 60


def test_fast_redraws_are_smooth() -> None:
    share, n_redraws, longest = simulated(Pacer(), 0.0004, 0.0008)
    assert n_redraws > 30 * 50 and longest < 0.1 and share < 0.15


def test_interaction_redraws_at_once_and_alarms_are_false_only_once() -> None:
    pacer = Pacer()
    pacer.drawn(0.0, 0.3, True)
    pacer.drawn(0.3, 0.33, False)
    assert pacer.secs_until_due(0.34, training=True, news=False) > 0.3
    pacer.alarm(0.35)  # something moved: look
    assert pacer.secs_until_due(0.35, training=True, news=False) <= 1 / 60
    pacer.drawn(0.36, 0.39, False)  # it wasn't for this window
    pacer.alarm(0.4)
    assert pacer.secs_until_due(0.4, training=True, news=False) > 0.3
    pacer.touch(0.5)
    assert pacer.secs_until_due(0.5, training=True, news=False) <= 1 / 60 and pacer.scene_due(0.5, training=True)


def all_that_is_shown(snapshot: Snapshot) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """Texts, images and curves of all panels."""
    ui, view = FakeUi(), ViewState()
    selected = view.selected_camera(snapshot)
    view.split.update(snapshot.fields["voxels"], selected.camera)
    for panel in PANELS:
        assert panel.draw(ui, view, snapshot) == []
    tips = [transport.stage_tip(snapshot, stage) for stage in snapshot.stages]
    labels = [frustum.camera_label(camera) for camera in snapshot.cameras]
    curves = [array for call in ui.calls if call[0] in ("PlotLine", "PlotBars", "PlotInfLines")
              for array in call[2:] if isinstance(array, np.ndarray)]
    return ui.texts + tips + labels, list(ui.textures.shown.values()), curves


def test_a_reopened_checkpoint_shows_the_same_numbers(tmp_path: Path) -> None:
    run = FitRun(icosphere_like(8, 0.4), FitConfig(resolution=12, image_size=32, visibility_ratio=0.4))
    run.stop_at = 4
    closed = snapshot_after(RunIterations(4), run=run)
    save_checkpoint(tmp_path / "run.safetensors", run)
    reopened = snapshot_after(run=load_run(tmp_path / "run.safetensors"))
    assert reopened.iteration == 4
    assert dict(reopened.scalars) == dict(closed.scalars)
    assert reopened.history.names == closed.history.names
    assert np.array_equal(reopened.history.table, closed.history.table, equal_nan=True)
    assert set(reopened.fields) == set(closed.fields) >= {"mesh", "voxels", "rendered_depth"}
    before, after = all_that_is_shown(closed), all_that_is_shown(reopened)
    assert before[0] == after[0] and len(before[1]) == 9 and len(before[2]) > 10
    for a, b in zip(before[1] + before[2], after[1] + after[2], strict=True):
        assert np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("tall, low", [(900.0, False), (15.0, True)])
@pytest.mark.parametrize("left, x, at_right", [(5.0, 305.0 + 18, 0.0), (900.0, 900.0 - 18, 1.0)])
def test_tooltips_cover_no_control(left, x, at_right, tall, low) -> None:
    ui, snapshot = FakeUi(), Engine(FakeRun(4)).snapshots.latest()
    ui.im.IsItemHovered = lambda: True
    ui.im.GetIO = lambda: SimpleNamespace(DisplaySize=(1280.0, tall))
    ui.im.GetWindowPos = lambda: (left, 5.0)
    panes.draw(ui, ViewState(), snapshot, layout.Layout.of(1280, 720, 1.0))
    foot = next(n for n, call in enumerate(ui.calls) if call[:2] == ("Begin", "bar"))
    columns, bar = ui.calls[:foot], ui.calls[foot:]
    said = [n for n, call in enumerate(bar) if call[0] == "SetTooltip"]
    assert len(said) > 5
    for n in said:  # ending above the item, towards the middle of the window
        place, pivot = [call for call in bar[:n] if call[0] == "SetNextWindowPos"][-1][1::2]
        assert place == (100.0, 10.0 - 0.3 * ui.em) and pivot == (0.0, 1.0)
    said = [n for n, call in enumerate(columns) if call[0] == "SetTooltip"]
    assert len(said) > 5
    for n in said:  # beside the column, from the item's top downwards, or in the lower half from its foot upwards
        place, pivot = [call for call in columns[:n] if call[0] == "SetNextWindowPos"][-1][1::2]
        assert place == (x, 33.0 if low else 10.0) and pivot == (at_right, float(low))
