"""Hits of breakpoints in recordings: each once, on the way that the run took in the end, and the way back to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_fixtures import SMALL
from fake_ui import FakeUi
from test_breakpoints import Planted, hit_of
from test_engine import StartEngine, at_rest, start  # noqa: F401 - a fixture

from workbench import cli
from workbench.commands import ChangeSetting, GoTo, NextStage, Play, RunIterations, SetBreakpoint, StepBack
from workbench.engine import Engine
from workbench.panels import breakpoints as panel
from workbench.recording.policy import About
from workbench.recording.reader import Recording
from workbench.recording.recorder import recording_into
from workbench.recording.values import hit_of as recorded_hit
from workbench.recording.values import hit_value
from workbench.snapshot import Breakpoint, Hit, Snapshot
from workbench.source import Replay
from workbench.view_state import ViewState

pytest_plugins = ("cli_fixtures",)

NAN = {"b": {"loss": math.nan}}
MID, END = "isnan(loss)", "iteration == 4"


class Tuned(Planted):
    """One that has a setting to change."""

    def change_setting(self, name: str, value: float) -> None:
        pass


@pytest.fixture
def record(start: StartEngine, tmp_path: Path) -> Callable[..., Engine]:  # noqa: F811
    def make(*texts: str) -> Engine:
        return start(Tuned({3: NAN, 7: NAN}), record=recording_into(tmp_path, About()),
                     breakpoints=[Breakpoint(text) for text in texts])

    return make


def in_file(engine: Engine, tmp_path: Path) -> list[tuple[str, str, int]]:
    assert engine.stop() and engine.recording.closed and not engine.recording.stopped
    with Recording(tmp_path / "run.h5") as recording:
        last = int(recording.iterations[-1])
        assert recording.marks()["hits"].tolist() == sorted({min(hit.iteration, last) for hit in recording.hits()})
        assert list(recording.verify())[-1] == recording.n_entries
        return [(hit.expression, hit.stage, hit.iteration) for hit in recording.hits()]


def play_to_hit(engine: Engine, n: int) -> Snapshot:
    engine.send(Play())
    return engine.snapshots.wait_for(
        lambda s: s.hits and not s.playing and sum(point.hits for point in s.breakpoints) == n, 20)


def test_hits_within_an_iteration_and_at_its_end_are_recorded_once(
    record: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = record(MID, END)
    for n in (1, 2, 3):
        play_to_hit(engine, n)
    engine.send(GoTo(2))
    at_rest(engine, 2, "a")
    engine.send(GoTo(2, 2))  # to the very place of the first hit, which holds it again
    assert hit_of(engine).hits[0].iteration == 3
    engine.send(RunIterations(6))
    play_to_hit(engine, 5)  # the one of iteration 7 again: it lies within, and was where the run had come to
    assert in_file(engine, tmp_path) == [(MID, "b", 3), (END, "c", 4), (MID, "b", 7)]


def test_the_last_hit_is_there_though_its_iteration_never_ended(record: Callable[..., Engine], tmp_path: Path) -> None:
    engine = record(MID)
    play_to_hit(engine, 1)
    assert in_file(engine, tmp_path) == [(MID, "b", 3)]


def test_another_way_has_hits_of_its_own(record: Callable[..., Engine], tmp_path: Path) -> None:
    engine = record(MID, END)
    for n in (1, 2):
        play_to_hit(engine, n)
    engine.send(StepBack())
    at_rest(engine, 3, "a")
    engine.send(ChangeSetting("speed", 1.0))  # what was hit in iteration 4 is no more
    engine.send(NextStage())
    at_rest(engine, 3, "b")
    assert in_file(engine, tmp_path) == [(MID, "b", 3)]


def test_a_change_within_an_iteration_drops_what_was_hit_in_it_later(
    record: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = record(MID)
    play_to_hit(engine, 1)
    engine.send(GoTo(2, 1))
    at_rest(engine, 2, "b")
    engine.send(ChangeSetting("speed", 1.0))
    assert in_file(engine, tmp_path) == []


def test_a_hit_that_is_found_on_going_back_outlives_a_change_after_it(
    record: Callable[..., Engine], tmp_path: Path
) -> None:
    """It is entered where the file ends then, and that is replaced."""
    engine = record("iteration == 10")
    play_to_hit(engine, 1)
    engine.send(GoTo(4))
    at_rest(engine, 4, "a")
    engine.send(SetBreakpoint("iteration == 5"))
    play_to_hit(engine, 2)
    engine.send(GoTo(7))
    at_rest(engine, 7, "a")
    engine.send(ChangeSetting("speed", 1.0))
    engine.send(RunIterations(2))
    at_rest(engine, 9, "a")
    assert in_file(engine, tmp_path) == [("iteration == 5", "c", 5)]


@pytest.mark.parametrize("spoil", [
    {"iteration": 0}, {"n_stages": 1.5}, {"stage": None}, {"values": {"loss": "much"}}, {"values": [1.0]},
])
def test_a_hit_is_read_as_it_was_written_or_not_at_all(spoil: dict) -> None:
    hit = Hit("isnan(loss)", "b", 3, 2, (("loss", math.inf), ("faces", 0.0)))
    assert recorded_hit(hit_value(hit)) == hit
    with pytest.raises(ValueError, match="a hit"):
        recorded_hit({**hit_value(hit), **spoil})


def test_a_replay_lists_them_and_goes_there(record: Callable[..., Engine], tmp_path: Path) -> None:
    engine = record(MID, END)
    for n in (1, 2, 3):
        play_to_hit(engine, n)
    in_file(engine, tmp_path)
    replay = Replay(Recording(tmp_path / "run.h5"))
    replay.start()
    try:
        shown = replay.snapshots.latest()
        assert [(point.expression, point.hits) for point in shown.breakpoints] == [(MID, 2), (END, 1)]
        assert shown.marks["hits"].tolist() == [3, 4, 6] and shown.iteration == 6 and not shown.hits
        ui = FakeUi()
        assert panel.draw(ui, ViewState(), shown) == [] and ui.says("BREAKPOINTS HIT")
        assert ui.says("2 hits, iteration 7")
        assert not ui.says("Add")
        [command] = panel.draw(FakeUi({"Go##1": True}), ViewState(), shown)
        assert command == GoTo(4)
        replay.send(command)
        replay.snapshots.wait_for(lambda s: s.iteration == 4, 20)
        [command] = panel.draw(FakeUi({"Go##0": True}), ViewState(), shown)  # iteration 7 never ended
        replay.send(command)
        replay.snapshots.wait_for(lambda s: s.iteration == 6, 20)
    finally:
        assert replay.stop()


@pytest.mark.usefixtures("no_display")
def test_headless_records_the_hit_that_ended_it(tmp_path: Path, figures, capsys) -> None:
    Path("s.toml").write_text(SMALL)
    assert cli.main(["fit", "s.toml", "--headless", "--out", "o", "--record", "--device", "cpu",
                     "--break", "iteration == 2 and faces >= 0"]) == 3
    with Recording(Path("o", "run.h5")) as recording:
        assert [(hit.stage, hit.iteration) for hit in recording.hits()] == [("extract", 2)]
        assert dict(recording.hits()[0].values)["iteration"] == 2
