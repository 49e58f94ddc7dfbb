"""Breakpoints: planted faults are named with stage and iteration; engine, panel, scene files and the command line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_fixtures import SMALL
from fake_run import FakeRun
from fake_ui import FakeUi
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import WAIT_SECS, StartEngine, at_rest, start  # noqa: F401 - start is a fixture
from test_fit import small_run

from sparseflex.checkpoint import load_run
from sparseflex.scene import load_scene
from sparseflex.training.staged_run import StagedRun
from workbench import cli
from workbench.breakpoint_view import BreakpointView
from workbench.breakpoints import Breakpoints, Watch, changed
from workbench.commands import (
    GoTo,
    NextIteration,
    NextStage,
    Play,
    RemoveBreakpoint,
    RunIterations,
    RunTo,
    SaveCheckpoint,
    SetBreakpoint,
    StepBack,
)
from workbench.course import Course
from workbench.engine import Engine
from workbench.expressions import ExpressionError
from workbench.headless import CHECKPOINT, FIGURE, MESH, METRICS
from workbench.inputs import network_file
from workbench.mailbox import Mailbox
from workbench.panels import breakpoints as panel
from workbench.panels import plots, scalars, status
from workbench.reconstruction import Network, open_reconstruction
from workbench.snapshot import Breakpoint, History, Hit, PastSummary, Snapshot
from workbench.view_state import ViewState

pytest_plugins = ("cli_fixtures",)


class Planted(StagedRun):
    """Three stages that set what `plan` says, by iteration counted from 1: {"b": {"loss": 3}} at stage b."""

    stages = ("a", "b", "c")

    def __init__(self, plan: Mapping[int, Mapping[str, Mapping[str, float]]]) -> None:
        super().__init__()
        self._plan = plan

    def _set(self, stage: str) -> Mapping[str, float]:
        return self._plan.get(self.iteration + 1, {}).get(stage, {})

    def do_a(self) -> Mapping[str, float]:
        return {"near": 1.0, "far": 2.0, "active": 100.0, "voxels": 1000.0, **self._set("a")}

    def do_b(self) -> Mapping[str, float]:
        return {"loss": 2.0 - 0.01 * self.iteration, "faces": 9.0, **self._set("b")}

    def do_c(self) -> Mapping[str, float]:
        return {"pruned_fraction": 0.0, **self._set("c")}


def hit_of(engine: Engine) -> Snapshot:
    return engine.snapshots.wait_for(lambda s: s.hits and not s.playing, WAIT_SECS)


FAULTS = {
    "isnan(loss)": (6, "b", {"b": {"loss": math.nan}}),
    "faces == 0": (6, "b", {"b": {"faces": 0.0}}),
    "active / voxels < 0.02": (6, "a", {"a": {"active": 19.0}}),
    "loss > 2 * mean(loss, 50)": (6, "b", {"b": {"loss": 100.0}}),
    "near >= far": (6, "a", {"a": {"near": 2.0}}),
    "pruned_fraction > 0.3": (6, "c", {"c": {"pruned_fraction": 0.5}}),
    "faces == 0 and near > 1": (6, "b", {"a": {"near": 1.5}, "b": {"faces": 0.0}}),
    "change(active) < -50": (6, "a", {"a": {"active": 19.0}}),
    "iteration == 6": (6, "c", {}),
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_planted_fault_stops_the_run_at_its_place(start: StartEngine, text: str) -> None:  # noqa: F811
    """Exactly there, with all the issue's conditions set; the others say nothing."""
    iteration, stage, fault = FAULTS[text]
    engine = start(Planted({iteration: fault}), breakpoints=[Breakpoint(text), Breakpoint("loss < 0")])
    engine.send(Play())
    snapshot = hit_of(engine)
    hit = snapshot.hits[0]
    assert (hit.expression, hit.stage, hit.iteration) == (text, stage, iteration) and len(snapshot.hits) == 1
    assert snapshot.stage_done == stage and snapshot.iteration == iteration - (stage != "c")
    assert [point.hits for point in snapshot.breakpoints] == [1, 0]
    assert snapshot.marks["hits"].tolist() == [iteration]
    words, _ = status.line(snapshot)
    assert words.startswith(f"Stopped by breakpoint {text!r} after {stage}, iteration {iteration} (")


def test_a_hit_is_never_shown_before_its_state(start: StartEngine, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Nor on the way back to where it was hit before: whoever waits for it reads what belongs to it."""
    shown: list[Snapshot] = []
    put = Mailbox.put
    monkeypatch.setattr(Mailbox, "put", lambda box, snapshot: (shown.append(snapshot), put(box, snapshot))[1])
    engine = start(Planted({}), breakpoints=[Breakpoint("iteration == 6")])
    engine.send(Play())
    hit_of(engine)
    engine.send(RunTo(9))
    at_rest(engine, 9, "a")
    engine.send(GoTo(6))
    at_rest(engine, 6, "a")
    hits = [snapshot for snapshot in shown if snapshot.hits]
    assert hits and {(snapshot.iteration, snapshot.stage_done) for snapshot in hits} == {(6, "c")}


def test_nan_stays_one_hit_an_iteration_and_goes_on(start: StartEngine) -> None:  # noqa: F811
    engine = start(Planted({k: {"b": {"loss": math.nan}} for k in (3, 4)}), breakpoints=[Breakpoint("isnan(loss)")])
    for n, iteration in ((1, 3), (2, 4)):
        engine.send(Play())
        snapshot = engine.snapshots.wait_for(
            lambda s, n=n: s.hits and not s.playing and s.breakpoints[0].hits == n, WAIT_SECS)
        assert snapshot.hits[0].iteration == iteration
    engine.send(RunTo(8))
    snapshot = at_rest(engine, 8, "a")
    assert snapshot.hits == () and snapshot.breakpoints[0].hits == 2


def test_one_shot_disabled_removed_and_changed(start: StartEngine) -> None:  # noqa: F811
    engine = start(Planted({}))
    engine.send(SetBreakpoint("  loss > 0 ", one_shot=True))
    engine.send(SetBreakpoint("faces > 0", enabled=False))
    engine.send(SetBreakpoint("near > 0"))
    engine.send(RemoveBreakpoint("near > 0"))
    engine.send(Play())
    snapshot = hit_of(engine)
    assert [(p.expression, p.enabled, p.one_shot, p.hits) for p in snapshot.breakpoints] == [
        ("loss > 0", False, True, 1), ("faces > 0", False, False, 0)]
    engine.send(RunTo(3))
    assert at_rest(engine, 3, "a").hits == ()
    engine.send(SetBreakpoint("faces > 0", enabled=True))
    engine.send(Play())
    assert hit_of(engine).hits[0].expression == "faces > 0"


def test_what_is_refused_comes_back_as_a_notice(start: StartEngine) -> None:  # noqa: F811
    engine = start(small_run())
    engine.send(SetBreakpoint("los > 3"))
    notice = engine.snapshots.wait_for(lambda s: s.notice, WAIT_SECS).notice
    assert notice == "no breakpoint: unknown name 'los'; did you mean 'loss'?"
    with pytest.raises(ExpressionError, match="pruned_fraction"):  # a fit without levels prunes nothing
        Engine(small_run(), breakpoints=[Breakpoint("pruned_fraction > 0.3")])


def test_a_run_that_says_nothing_of_its_scalars_is_asked_after_an_iteration(start: StartEngine) -> None:  # noqa: F811
    engine = start(Planted({}), breakpoints=[Breakpoint("los > 3"), Breakpoint("loss > 3")])
    assert not engine.snapshots.latest().names_whole
    engine.send(NextIteration())
    snapshot = at_rest(engine, 1, "a")
    assert [bool(point.error) for point in snapshot.breakpoints] == [True, False] and snapshot.names_whole
    assert "did you mean 'loss'" in snapshot.notice and not snapshot.breakpoints[0].enabled
    engine.send(SetBreakpoint("los > 4"))
    assert "unknown name" in engine.snapshots.wait_for(lambda s: "los > 4" not in s.notice and s.notice, 20).notice


@pytest.mark.parametrize("levels", [False, True])
def test_a_fit_declares_all_its_scalars(levels: bool) -> None:
    run = small_run(resolution=16, start_resolution=8, iterations=4) if levels else small_run()
    before = set(run.scalar_names)
    for _ in range(3):
        run.run_iteration()
    assert before == set(run.scalar_names) == set(run.scalars())


def everything_of(run) -> list:
    state = run.state_dict()["parameters"]
    return [value.clone() for value in state.values() if isinstance(value, torch.Tensor)]


def test_back_from_a_hit_and_there_again_and_saved(start: StartEngine, tmp_path: Path) -> None:  # noqa: F811
    """← goes to the start of the iteration, Go to the very stage; the checkpoint saved there goes on to the same."""
    run = small_run()
    engine = start(run, breakpoints=[Breakpoint("iteration == 4 and faces >= 0")])
    engine.send(Play())
    snapshot = hit_of(engine)
    assert (snapshot.iteration, snapshot.stage_next) == (3, "render") and snapshot.hits[0].n_stages == 4
    assert snapshot.past.reached == 3 and snapshot.past.n_states >= 2
    engine.send(SaveCheckpoint(tmp_path / "at.safetensors"))
    engine.snapshots.wait_for(lambda s: "saved" in s.notice, WAIT_SECS)
    assert "saved" in status.line(engine.snapshots.latest())[0]
    saved = load_run(tmp_path / "at.safetensors")
    assert saved.iteration == 3
    saved.run_iteration()
    engine.send(StepBack())
    assert at_rest(engine, 3).hits == ()
    engine.send(GoTo(3, 4))
    again = engine.snapshots.wait_for(lambda s: s.stage_next == "render" and s.hits and not s.playing, WAIT_SECS)
    assert again.breakpoints[0].hits == 2
    engine.send(NextIteration())
    at_rest(engine, 4)
    engine.send(GoTo(2))  # passes iteration 3 only: nothing stops on the way back
    assert at_rest(engine, 2).breakpoints[0].hits == 2
    engine.send(GoTo(4))  # and on to where it has been
    assert at_rest(engine, 4).breakpoints[0].hits == 2
    assert all(torch.equal(a, b) for a, b in zip(everything_of(run), everything_of(saved), strict=True))


def test_back_over_hits_whose_state_is_not_that_of_a_start(
        start: StartEngine, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Before its last stage a fit's state is that of all but this stage: nothing that one can go back to."""
    monkeypatch.setattr("workbench.past.COST_SHARE", 0.0)  # but for the first one only hits are kept
    run, straight = small_run(), small_run()
    known = [everything_of(straight)]
    for _ in range(3):
        straight.run_iteration()
        known.append(everything_of(straight))
    engine = start(run, breakpoints=[Breakpoint("never_seen >= 0")])
    for iteration in (1, 2, 3):
        engine.send(Play())
        hit = engine.snapshots.wait_for(lambda s, n=iteration: s.hits and s.hits[0].iteration == n, WAIT_SECS).hits[0]
        assert hit.stage == "update"
    for iteration in (3, 2, 1, 3):
        engine.send(GoTo(iteration))
        snapshot = engine.snapshots.wait_for(
            lambda s, n=iteration: s.failure or (s.iteration == n and not s.playing and not s.hits), WAIT_SECS)
        assert snapshot.failure is None, snapshot.failure.message
        assert all(torch.equal(a, b) for a, b in zip(everything_of(run), known[iteration], strict=True))


def test_a_pass_over_a_subdivision_mixes_no_counts() -> None:
    """voxels changes at the end of an iteration, after active was counted: the two don't belong together then."""
    points = Breakpoints(Planted({}), History(), [Breakpoint("active / voxels < 0.02")])
    nothing = np.zeros(0)
    for iteration, voxels in ((1, 1000.0), (2, 8000.0)):
        points.began()
        before = {"active": 100.0, "voxels": 1000.0}
        assert not points.after(0, iteration, before, ("active", "voxels") if iteration == 1 else ("active",),
                                lambda name: nothing)
        assert not points.after(1, iteration, before, (), lambda name: nothing)
        assert not points.after(2, iteration, {**before, "voxels": voxels}, ("voxels",), lambda name: nothing)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, math.nan]), min_size=1, max_size=12), st.integers(1, 5))
def test_hits_equal_those_of_a_slow_twin(losses: list[float], n: int) -> None:
    """Every iteration by itself, from the plain list of losses."""
    run = Planted({k: {"b": {"loss": loss}} for k, loss in enumerate(losses, start=1)})
    watch = Watch(run, [Breakpoint(f"loss > mean(loss, {n}) or isnan(loss)")])
    found = []
    for iteration in range(1, len(losses) + 1):
        for number, stage in enumerate(run.stages):
            run.run_stage(stage)
            watch.after(number, iteration)
            found += [(iteration, hit.stage) for hit in watch.hits]
    wanted = []
    for k, loss in enumerate(losses):
        window = [value for value in losses[max(k + 1 - n, 0) : k + 1] if value == value]
        if loss != loss or loss > sum(window) / len(window):
            wanted.append(k + 1)
    assert [iteration for iteration, _ in found] == wanted
    # where it is known which stage sets it: at once; one that never changes is seen at the end
    assert {stage for _, stage in found} <= {"b"}


def test_changed_knows_nan() -> None:
    before, after = {"a": math.nan, "b": 1.0, "c": 1.0}, {"a": math.nan, "b": math.nan, "c": 1.0, "d": 0.0}
    assert changed(before, after) == ("b", "d")


def test_the_course_counts_stages_after_its_way() -> None:
    course = Course()
    course.go_to((3, 2), (1, 0))
    steps, iteration, stage = 0, 1, 0
    while course.goes_on(iteration):
        steps, stage = steps + 1, stage + 1
        if stage == 4:
            iteration, stage = iteration + 1, 0
        course.stage_done(iteration)
    assert (iteration, stage, steps) == (3, 2, 10)
    course.go_to((3, 1), (3, 0))
    assert course.goes_on(3)
    course.hold()
    assert not course.goes_on(3)
    assert course.follow(RunTo(2), 3, False) == "iteration 2 has ended already" and not course.goes_on(3)
    assert course.follow(RunIterations(2), 3, False) == "" and course.until == 5


# the panel

HIT = Hit("loss > 1", "loss", 4, 6, (("loss", 2.5), ("voxels", 1e6)))
POINTS = (Breakpoint("loss > 1", hits=2, last_hit=HIT), Breakpoint("faces == 0", one_shot=True),
          Breakpoint("los > 1", enabled=False, error="unknown name 'los'"))


def shown(**changes) -> Snapshot:
    base = Snapshot(stages=("a", "b", "c", "d", "e", "loss", "g"), scalars={"loss": 2.5, "faces": 3.0},
                    scalar_names=("faces", "loss", "loss_depth"), names_whole=True, breakpoints=POINTS)
    return dataclasses.replace(base, past=PastSummary(0, 4, 2, 10), **changes)


def used(uses: dict, view: ViewState | None = None, snapshot: Snapshot | None = None) -> tuple[FakeUi, list]:
    ui = FakeUi(uses)
    return ui, panel.draw(ui, view or ViewState(), snapshot or shown())


def test_the_panel_lists_them_and_sends_what_is_clicked() -> None:
    ui, commands = used({}, snapshot=shown(hits=(HIT,)))
    assert commands == [] and ui.says("loss > 1") and ui.says("2 hits, iteration 4") and ui.says("no hit yet")
    assert ui.says("unknown name 'los'") and ui.says("2 of 3")
    assert sum(call[0] == "AddRectFilled" for call in ui.calls) == 1  # the one hit stands out
    assert used({"##enabled 0": False})[1] == [SetBreakpoint("loss > 1", False, False)]
    assert used({"once##1": False})[1] == [SetBreakpoint("faces == 0", True, False)]
    assert used({"x##1": True})[1] == [RemoveBreakpoint("faces == 0")]
    assert used({"Go##0": True})[1] == [GoTo(3, 6)]
    assert panel.place_of(shown(), 4, 7) == GoTo(4)
    saves = used({"Save the state": True}, snapshot=shown(hits=(HIT,)))[1]
    assert saves == [SaveCheckpoint(ViewState().checkpoint_path)]
    assert used({})[0].says("Save the state") is False
    assert panel.draw(FakeUi(), ViewState(), shown(source="replay")) == []


def test_typing_completing_and_adding() -> None:
    view = ViewState()
    ui, commands = used({"##breakpoint0": "lo", "IsItemActive": True}, view)
    assert commands == [] and view.breakpoints.text == "lo"
    assert [call[1].split("##")[0] for call in ui.calls if call[0] == "Selectable"] == ["loss", "loss_depth", "lowest"]
    used({"##breakpoint0": "lo\t > 1", "IsItemActive": True}, view)
    assert view.breakpoints.text == "loss > 1" and view.breakpoints.focus and view.breakpoints.number == 1
    ui, _ = used({"##breakpoint1": "loss > nope + 1", "IsItemActive": True}, view)
    used({"IsItemActive": True}, view)
    ui, commands = used({"##breakpoint1": "loss > nope + 1", "Add": True}, view)
    assert commands == [] and ui.says("unknown name 'nope'") and ui.says("^")
    ui, commands = used({"##breakpoint1": "loss > 1", "IsItemActive": True, "IsKeyPressed": True}, view)
    assert commands == [SetBreakpoint("loss > 1")] and view.breakpoints.text == ""
    assert view.breakpoints.focus  # what is typed next is the next condition, and no key of the window's
    used({"IsItemActive": True}, view)
    _, commands = used({"##breakpoint2": "loss >", "IsItemActive": True, "IsKeyPressed": True}, view)
    assert commands == [] and view.breakpoints.focus and view.breakpoints.text == "loss >"
    used({"IsItemActive": True}, view)
    _, commands = used({"##breakpoint3": " faces == 0 ", "Add": True}, view)
    assert commands == [SetBreakpoint("faces == 0")]


def test_a_click_completes_the_last_word() -> None:
    view = ViewState()
    view.breakpoints.text = "2 * lo"
    used({"loss##completion": True}, view)
    assert view.breakpoints.text == "2 * loss"


def test_a_tab_without_anything_to_complete_is_dropped() -> None:
    entry = BreakpointView()
    entry.typed("zz\t", ("loss",))
    assert entry.text == "zz"


def test_the_tab_of_scalars_has_both_and_plots_mark_hits(start: StartEngine) -> None:  # noqa: F811
    engine = start(Planted({3: {"b": {"faces": 0.0}}}), breakpoints=[Breakpoint("faces == 0")])
    engine.send(Play())
    hit_of(engine)
    engine.send(NextIteration())
    snapshot = at_rest(engine, 3, "a")
    ui = FakeUi()
    scalars.draw(ui, ViewState(), snapshot)
    assert ui.says("BREAKPOINTS") and ui.says("SCALARS") and ui.says("faces == 0")
    ui = FakeUi()
    plots.draw(ui, ViewState(), snapshot)
    assert ("PlotToPixels", 3.0, 1.0) in ui.calls


def test_within_an_iteration_scalars_still_to_be_set_are_muted(start: StartEngine) -> None:  # noqa: F811
    plan = {number: {"a": {"active": 100.0 + number}} for number in (1, 2, 3)}
    engine = start(Planted(plan))
    engine.send(RunIterations(2))
    snapshot = at_rest(engine, 2, "a")
    assert scalars.of_the_last_iteration(snapshot) == set()
    engine.send(NextStage())
    snapshot = at_rest(engine, 2, "b")
    assert snapshot.scalars["active"] == 103 and scalars.of_the_last_iteration(snapshot) == {"loss"}
    ui = FakeUi()
    scalars.draw(ui, ViewState(), snapshot)
    assert ui.says("grey: still of iteration 2")
    engine.send(NextStage())
    assert scalars.of_the_last_iteration(at_rest(engine, 2, "c")) == set()


def test_the_words_of_a_hit() -> None:
    assert HIT.words == "breakpoint 'loss > 1' after loss, iteration 4 (loss = 2.5, voxels = 1,000,000)"


# scene files and the command line

BREAKS = """
[[breakpoints]]
expression = "iteration == 2"
[[breakpoints]]
expression = "isnan(loss)"
enabled = false
"""


def test_a_scene_brings_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('breakpoints = ["faces == 0", "near >= far"]\n' + SMALL)
    assert [point.expression for point in load_scene(tmp_path / "a.toml").breakpoints] == ["faces == 0", "near >= far"]
    (tmp_path / "b.toml").write_text(SMALL + BREAKS)
    assert [(p.expression, p.enabled, p.one_shot) for p in load_scene(tmp_path / "b.toml").breakpoints] == [
        ("iteration == 2", True, False), ("isnan(loss)", False, False)]


@pytest.mark.parametrize(("text", "said"), [
    ("breakpoints = 3\n", "breakpoints must be a list"), ("breakpoints = [3]\n", "entry 1 must be a text"),
    ("breakpoints = [{once = true}]\n", "entry 1 must be a text, or a table with expression"),
    ('breakpoints = [{expression = "a", once = true}]\n', "unknown key 'once' in entry 1"),
    ('breakpoints = [{expression = "a", one_shot = 1}]\n', "one_shot of entry 1 must be true or false"),
])
def test_a_scene_is_strict_about_their_form(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.toml").write_text(text + SMALL)
    with pytest.raises(ValueError, match=said):
        load_scene(tmp_path / "a.toml")


@pytest.mark.usefixtures("no_display")
def test_headless_stops_with_exit_code_3_and_leaves_all_files(scene, figures, capsys) -> None:
    flags = ["--headless", "--out", "o", "--device", "cpu"]
    both = ["--break", "isnan(loss)", "--break", "iteration == 2 and faces >= 0"]
    assert cli.main(["fit", scene, *flags, *both]) == 3
    said = capsys.readouterr().err
    assert "stopped by breakpoint 'iteration == 2 and faces >= 0' after extract, iteration 2 (iteration = 2," in said
    assert sorted(path.name for path in Path("o").iterdir()) == sorted([MESH, FIGURE, METRICS, CHECKPOINT])
    metrics = json.loads(Path("o", METRICS).read_text())
    assert (metrics["finished"], metrics["iteration"]) == (False, 1)
    assert metrics["breakpoints"][0]["stage"] == "extract" and metrics["breakpoints"][0]["values"]["iteration"] == 2
    assert cli.main(["fit", f"o/{CHECKPOINT}", *flags]) == 0  # its breakpoints belong to the command, not to the run
    assert json.loads(Path("o", METRICS).read_text())["iteration"] == 4


@pytest.mark.usefixtures("no_display")
def test_headless_scenes_recordings_and_both_options(tmp_path, figures, capsys) -> None:
    Path("s.toml").write_text(SMALL + BREAKS)
    assert cli.main(["fit", "s.toml", "--headless", "--out", "o", "--record"]) == 3
    assert "after prune, iteration 2" in capsys.readouterr().err and Path("o", "run.h5").exists()
    assert json.loads(Path("o", METRICS).read_text())["iteration"] == 2
    Path("t.toml").write_text('breakpoints = ["los > 1"]\n' + SMALL)
    assert cli.main(["fit", "t.toml", "--headless", "--out", "p"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == ["workbench: t.toml, breakpoints: unknown name 'los'; did you mean 'loss'?", "  los > 1", "  ^"]
    assert not Path("p", MESH).exists()


@pytest.mark.usefixtures("no_display")
def test_a_bad_expression_is_told_before_anything_is_loaded(capsys) -> None:
    assert cli.main(["fit", "no_such_scene", "--headless", "--break", "loss = 3"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == ["workbench: --break: '=' is written '==' here", "  loss = 3", "       ^"]
    assert not Path("recordings").exists()


OWN = """
from sparseflex.training.staged_run import StagedRun

class Mine(StagedRun):
    stages = ("forward", "backward")

    def do_forward(self):
        return {"loss": float("nan") if self.iteration == 4 else 1.0 / (1 + self.iteration)}

    def do_backward(self):
        return {"norm": 1.0}

def make_run():
    return Mine()
"""


@pytest.mark.usefixtures("no_display")
def test_ones_own_trainer_stops_too(tmp_path, figures, capsys) -> None:
    Path("mine.py").write_text(OWN)
    fit = ["fit", "mine.py:make_run", "--headless", "--iterations", "9", "--out", "o"]
    assert cli.main([*fit, "--break", "isnan(loss)"]) == 3
    assert "stopped by breakpoint 'isnan(loss)' after forward, iteration 5 (loss = nan)" in capsys.readouterr().err
    assert json.loads(Path("o", METRICS).read_text())["breakpoints"][0]["values"] == {"loss": None}
    assert cli.main([*fit, "--break", "lost > 1"]) == 2  # told once it has shown what it has
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "workbench: breakpoint: unknown name 'lost'; did you mean 'loss'?", "  lost > 1", "  ^"]
    assert cli.main([*fit, "--break", "loss > 1"]) == 0


def test_fake_run_keeps_its_numbers_with_breakpoints(start: StartEngine) -> None:  # noqa: F811
    engine = start(FakeRun(), breakpoints=[Breakpoint("loss < 0")])
    engine.send(RunIterations(3))
    snapshot = at_rest(engine, 3)
    assert np.allclose(snapshot.history.column("loss"), np.exp(-np.arange(1, 4) / 20))


@pytest.mark.usefixtures("no_display")
def test_an_inference_stops_within_its_pass_and_declares_its_scalars(tmp_path, figures, capsys) -> None:
    run = open_reconstruction(Network(network_file("tiny_vae"), None, None, "cpu", "float32"), "lantern", other="",
                              n_points=500, seed=0, up=None, settings={}).run
    declared = set(run.scalar_names)
    run.run_pass()
    assert declared == set(run.scalars())
    reconstruct = ["reconstruct", "lantern", "--checkpoint", "tiny_vae", "--points", "500", "--headless", "--out", "o"]
    assert cli.main([*reconstruct, "--break", "kept_1 > 0"]) == 3
    assert "stopped by breakpoint 'kept_1 > 0' after prune 1, iteration 1 (kept_1 = " in capsys.readouterr().err
    assert sorted(path.name for path in Path("o").iterdir()) == sorted([METRICS, CHECKPOINT])
    assert cli.main([*reconstruct, "--break", "open_edges >= 0"]) == 3
    assert Path("o", MESH).exists() and not json.loads(Path("o", METRICS).read_text())["finished"]


def test_names_that_a_run_has_shown_are_there_to_be_completed(start: StartEngine) -> None:  # noqa: F811
    engine = start(FakeRun())
    assert not engine.snapshots.latest().names_whole
    engine.send(NextIteration())
    snapshot = engine.snapshots.wait_for(lambda s: s.iteration == 1 and s.names_whole, WAIT_SECS)
    assert {"loss", "loss_depth", "voxels", "iteration"} <= set(snapshot.scalar_names)
