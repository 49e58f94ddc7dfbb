"""Replay: a recording answers the commands that a run answers, and panels can't tell them apart."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_run import FakeRun
from fake_ui import FakeUi
from recording_files import RunBuilder
from test_reader import equal

from workbench import panels
from workbench.commands import (
    Branch,
    ChangeSetting,
    Command,
    GoTo,
    NextIteration,
    NextStage,
    Pause,
    Play,
    RequestFields,
    RunIterations,
    RunTo,
    SaveCheckpoint,
    SetSpeed,
    StageBack,
    StepBack,
)
from workbench.panels import plots, status, transport
from workbench.recording.reader import Recording
from workbench.snapshot import PastSummary, Snapshot
from workbench.source import NEEDS_BRANCH, Replay
from workbench.view_state import ViewState

WAIT_SECS = 20.0
Start = Callable[..., Replay]


@pytest.fixture(scope="module")
def fake_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = RunBuilder(tmp_path_factory.mktemp("fake") / "run.h5", FakeRun(8))
    builder.iterate(12)
    builder.change(ChangeSetting("visibility_ratio", 0.25))
    builder.iterate(11)
    return builder.close()


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Replay] = []

    def make(path: Path, **options: object) -> Replay:
        started.append(Replay(Recording(path), **options))
        started[-1].start()
        return started[-1]

    yield make
    for replay in started:
        assert replay.stop()


def wait(replay: Replay, accept: Callable[[Snapshot], bool]) -> Snapshot:
    return replay.snapshots.wait_for(accept, WAIT_SECS)


def test_every_command_moves_as_it_does_live(fake_file: Path, start: Start) -> None:
    replay = start(fake_file)
    first = replay.snapshots.latest()
    assert (first.iteration, first.playing, first.source) == (23, False, "replay")  # what the run came to
    assert (first.past.oldest, first.past.reached) == (0, 23) and first.history.n_rows == 23
    steps: list[tuple[Command, int]] = [
        (GoTo(0), 0), (NextIteration(), 1), (NextStage(), 2), (StepBack(), 1), (StageBack(), 0), (GoTo(17), 17),
        (GoTo(99), 23), (NextIteration(), 23), (GoTo(-5), 0), (StepBack(), 0), (GoTo(23), 23),
    ]
    for command, wanted in steps:
        serial = replay.snapshots.latest().serial
        replay.send(command)
        assert wait(replay, lambda s, serial=serial: s.serial > serial).iteration == wanted, command
    replay.send(GoTo(4))
    for command, wanted in ((RunIterations(3), 7), (RunTo(9), 9)):
        replay.send(SetSpeed(64.0))
        replay.send(command)
        assert wait(replay, lambda s, wanted=wanted: s.iteration == wanted and not s.playing).iteration == wanted


def test_fields_are_the_recordings_and_say_how_old_they_are(fake_file: Path, start: Start) -> None:
    replay = start(fake_file)
    names = frozenset({"mesh", "gamma", "voxels"})
    replay.send(RequestFields(names))
    replay.send(GoTo(13))
    shown = wait(replay, lambda s: s.iteration == 13 and s.asked == names)
    assert dict(shown.field_iterations) == {"mesh": 10, "gamma": 10}
    with Recording(fake_file) as recording:
        wanted, _ = recording.snapshot_fields(names, 13)
        assert shown.settings["visibility_ratio"].value == 0.25
        assert [known.label for known in shown.cameras] == [known.label for known in recording.cameras(13).listed]
    assert all(equal(shown.fields[name], wanted[name]) for name in names) and shown.fields.keys() == names
    assert shown.scalars["loss"] == pytest.approx(math.exp(-13 / 20)) and shown.stage_secs.keys() == set(FakeRun.stages)
    assert {name: rows.tolist() for name, rows in shown.marks.items()} == {
        "keyframes": [0, 10, 12, 20], "prunings": [], "changes": [12], "hits": []}
    replay.send(StepBack())
    before = wait(replay, lambda s: s.iteration == 12)
    assert before.fields["mesh"] is shown.fields["mesh"]  # unchanged: one and the same object


def test_playing_keeps_its_pace_and_stops_at_the_end(fake_file: Path, start: Start) -> None:
    replay = start(fake_file)
    replay._pace = lambda: 0.02  # type: ignore[method-assign]
    replay.send(SetSpeed(0.25))
    replay.send(Play())
    assert wait(replay, lambda s: s.playing).speed == 0.25
    replay.send(Pause())
    paused = wait(replay, lambda s: not s.playing)
    assert paused.iteration < 12  # that would have taken a second
    replay.send(SetSpeed(64.0))
    replay.send(Play())
    assert wait(replay, lambda s: not s.playing and s.iteration == 23).notice == ""
    replay.send(SetSpeed(0.25))
    replay.send(Play())
    assert wait(replay, lambda s: s.playing and s.iteration < 12).notice == ""  # from the beginning
    shown: list[int] = []
    put = replay.snapshots.put
    replay.snapshots.put = lambda s: (shown.append(s.iteration), put(s))  # type: ignore[method-assign]
    replay.send(GoTo(0))
    replay.send(SetSpeed(math.inf))
    wait(replay, lambda s: s.iteration == 0 and s.speed == math.inf)
    replay.send(Play())
    deadline = time.monotonic() + WAIT_SECS
    while replay.snapshots.latest().iteration < 23 and time.monotonic() < deadline:
        answers = replay.snapshots.latest().answers
        replay.send(RequestFields(frozenset({"mesh"})))
        wait(replay, lambda s, answers=answers: s.answers > answers)
    since = len(shown) - 1 - shown[::-1].index(0)
    assert list(dict.fromkeys(shown[since:])) == list(range(24))  # each of them is shown


def test_what_cannot_be_done_to_the_past_says_what_can(fake_file: Path, start: Start, tmp_path: Path) -> None:
    replay = start(fake_file)
    for command in (ChangeSetting("visibility_ratio", 0.1), SaveCheckpoint(tmp_path / "c")):
        replay.send(command)
        assert wait(replay, lambda s: bool(s.notice)).notice == NEEDS_BRANCH
        replay.send(GoTo(3))
        wait(replay, lambda s: not s.notice and s.iteration == 3)
        replay.send(GoTo(2))
        wait(replay, lambda s: s.iteration == 2)
    replay.send(Branch())
    assert "no run can be made" in wait(replay, lambda s: bool(s.notice)).notice and not list(tmp_path.iterdir())


def test_a_branch_is_made_by_the_thread_and_told(fake_file: Path, start: Start) -> None:
    from workbench.branch import branch_off

    def branch(recording: Recording, iteration: int, say: Callable[[str], None]) -> FakeRun:
        return branch_off(recording, iteration, say, run=FakeRun(8))

    replay = start(fake_file, branch=branch)
    replay.send(GoTo(14))
    replay.send(Branch())
    told = wait(replay, lambda s: s.notice.endswith(": 2 of 2")).notice
    assert told == "keyframe 12, re-running 2 iterations: 2 of 2"
    deadline = time.monotonic() + WAIT_SECS
    while replay.branched is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert replay.branched.iteration == 14 and replay.branched.settings["visibility_ratio"].value == 0.25
    other = start(fake_file, branch=branch_off)
    other.send(Branch())
    assert "needs the code that makes it" in wait(other, lambda s: s.notice.startswith("no branch")).notice


def test_following_keeps_up_with_what_is_written(tmp_path: Path, start: Start) -> None:
    builder = RunBuilder(tmp_path / "run.h5", FakeRun(6))
    builder.iterate(3)
    replay = start(builder.path, follow=True)
    replay.send(RequestFields(frozenset({"mesh"})))
    shown = wait(replay, lambda s: s.iteration == 3 and "mesh" in s.fields)
    assert shown.playing and shown.source == "follow"
    builder.iterate(4)
    assert wait(replay, lambda s: s.iteration == 7).history.n_rows == 7
    replay.send(GoTo(2))
    wait(replay, lambda s: s.iteration == 2 and not s.playing)
    builder.iterate(2)
    assert wait(replay, lambda s: s.past.reached == 9).iteration == 2  # what is looked at stays
    replay.send(GoTo(9))  # what End sends
    wait(replay, lambda s: s.iteration == 9 and s.playing)
    builder.iterate()
    wait(replay, lambda s: s.iteration == 10)
    # the run goes back, and another way
    replay.send(Pause())
    wait(replay, lambda s: not s.playing)
    builder.run.load_state_dict({**builder.run.state_dict(), "iteration": 5})
    builder.iterate(1)
    assert wait(replay, lambda s: s.past.reached == 6).iteration == 6
    builder.close()


def test_a_damaged_value_is_told_and_all_else_goes_on(fake_file: Path, tmp_path: Path, start: Start) -> None:
    import h5py
    from test_reader import spoiled

    def spoil(file: h5py.File) -> None:
        streams = Recording(fake_file).meta.streams
        rows = file["entries"][:]
        rows["crc"][rows["stream"] == streams.index("mesh")] ^= 1
        file["entries"][:] = rows

    replay = start(spoiled(fake_file, tmp_path / "bad.h5", spoil))
    replay.send(RequestFields(frozenset({"mesh", "gamma"})))
    replay.send(GoTo(7))
    shown = wait(replay, lambda s: s.iteration == 7 and bool(s.fields))
    assert set(shown.fields) == {"gamma"} and "mesh at iteration" in shown.notice and shown.failure is None


# -- panels -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(fake_file: Path) -> Snapshot:
    replay = Replay(Recording(fake_file))
    replay.start()
    replay.send(RequestFields(frozenset(replay.snapshots.latest().field_kinds)))
    replay.send(GoTo(13))
    try:
        return wait(replay, lambda s: s.iteration == 13 and len(s.fields) > 5)
    finally:
        replay.stop()


def test_every_panel_draws_the_past(recorded: Snapshot) -> None:
    for column in panels.COLUMNS.values():
        for panel in column.values():
            assert panel.draw(FakeUi(), ViewState(), recorded) == []
    ui = FakeUi()
    assert transport.draw(ui, ViewState(), recorded) == [] and ui.says("Branch here") and not ui.says("Stage")
    assert status.line(recorded)[0].endswith("; fields of iteration 10, maps of iteration 10")
    following = dataclasses.replace(recorded, source="follow", playing=True, iteration=23)
    assert status.line(following)[0].startswith("Following the run as it is recorded")


@pytest.mark.parametrize(("use", "command"), [
    ({"Back": True}, StepBack()), ({"Next": True}, NextIteration()), ({"Play": True}, Play()),
    ({"Branch here": True}, Branch()), ({"Go to": True}, GoTo(100)), ({"##speed": 4}, SetSpeed(4.0)),
    ({"##speed": 9}, SetSpeed(math.inf)), ({"##scrub": 21}, GoTo(21)),
])
def test_the_transport_of_a_recording(use: dict, command: Command, recorded: Snapshot) -> None:
    assert transport.draw(FakeUi(use), ViewState(), recorded) == [command]


def test_the_scrubber_goes_once_to_each_place_and_live_when_let_go(recorded: Snapshot) -> None:
    view = ViewState()
    assert transport.draw_scrubber(FakeUi({"##scrub": 5, "IsItemActive": True}), view, recorded) == [GoTo(5)]
    assert view.scrubbed == 5
    assert transport.draw_scrubber(FakeUi({"##scrub": 5, "IsItemActive": True}), view, recorded) == []
    assert transport.draw_scrubber(FakeUi({"IsItemDeactivated": True}), view, recorded) == [] and view.scrubbed is None
    live = dataclasses.replace(recorded, source="live", past=PastSummary(4, 20, 3, 9))
    assert transport.draw_scrubber(FakeUi({"##scrub": 6, "IsItemActive": True}), view, live) == []
    assert transport.draw_scrubber(FakeUi({"IsItemDeactivated": True}), view, live) == [GoTo(6)]
    assert view.scrubbed is None
    for past in (PastSummary(), PastSummary(13, 13)):
        ui = FakeUi()
        assert transport.draw_scrubber(ui, view, dataclasses.replace(live, past=past)) == []
        assert not any(call[0] == "SliderInt" for call in ui.calls)


def test_a_click_into_a_plot_goes_there(recorded: Snapshot) -> None:
    uses = {"IsPlotHovered": True, "GetPlotMousePos": (8.4, 0.1), "IsMouseClicked": True}
    assert plots.draw(FakeUi(uses), ViewState(), recorded)[0] == GoTo(8)
    assert plots.draw(FakeUi(uses | {"GetPlotMousePos": (-40.0, 0.0)}), ViewState(), recorded)[0] == GoTo(0)
    assert plots.draw(FakeUi(uses), ViewState(), dataclasses.replace(recorded, past=PastSummary())) == []
    assert plots.draw(FakeUi(uses | {"IsMouseClicked": False}), ViewState(), recorded) == []


def test_speeds_are_steps_of_two() -> None:
    assert transport.step_speed(1.0, 1) == 2.0 and transport.step_speed(0.25, -1) == 0.25
    assert transport.step_speed(64.0, 1) == math.inf == transport.step_speed(math.inf, 1)
    assert transport.step_speed(math.inf, -1) == 64.0 and transport.speed_label(0.25) == "0.25×"
    with pytest.raises(ValueError, match="above 0"):
        SetSpeed(0.0)
