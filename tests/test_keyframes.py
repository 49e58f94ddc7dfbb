"""Going back by the keyframes of the run's own recording, while it is written: bit by bit, and never at a loss."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fake_run import FakeRun
from test_engine import WAIT_SECS, ask, at_rest
from test_fit import everything, small_run
from test_recorder import iterate
from test_stage_back import there

from sparseflex.training.run import Run
from workbench.commands import ChangeSetting, GoTo, NextIteration, NextStage, RunIterations, RunTo, StageBack, StepBack
from workbench.engine import Engine
from workbench.keyframes import Keyframes
from workbench.panels import status
from workbench.recording.policy import About, RecordPolicy, RecordStatus
from workbench.recording.reader import Recording
from workbench.recording.recorder import LateRecorder, Recorder, recording_into, state_at
from workbench.snapshot import History, Snapshot

EVERY_5 = RecordPolicy(snapshot_every=50, maps_every=50, keyframe_every=5, cost_share=1e9)
ONE_BYTE = 1.0
"""Nothing is kept in memory."""

Record = Callable[..., Engine]


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    engines: list[Engine] = []

    def make(run: Run, past_bytes: float = ONE_BYTE) -> Engine:
        engines.append(Engine(run, past_bytes=past_bytes, record=recording_into(tmp_path, About(), EVERY_5)))
        engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        assert engine.stop()


def written(engine: Engine, n_keyframes: int) -> Snapshot:
    """Once so many keyframes are in the file."""
    deadline = time.monotonic() + WAIT_SECS
    while (engine.recording or RecordStatus(Path())).n_keyframes < n_keyframes:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return ask(engine)


def test_beyond_what_is_kept_the_recording_goes_on_bit_by_bit(record: Record, tmp_path: Path) -> None:
    """With nothing in memory: back to anywhere, by stage too, and on; what is recorded is what it was."""
    straight = small_run(resolution=8, image_size=16)
    states = {}
    for at in range(1, 13):
        straight.run_iteration()
        states[at] = everything(straight)
    run = small_run(resolution=8, image_size=16)
    engine = record(run)
    engine.send(RunIterations(12))
    at_rest(engine, 12)
    past = written(engine, 3).past
    assert (past.oldest, past.reached, past.n_states, past.n_keyframes) == (0, 12, 0, 3)
    assert past.lacking.startswith("one state takes") and 0 < past.keyframe_bytes < engine.recording.n_bytes
    losses = ask(engine).history.column("loss").tolist()
    for wanted, keyframe in ((11, 10), (10, 5), (7, 5), (3, 0), (12, 10)):
        engine.send(GoTo(wanted))
        back = there(engine, (wanted, 0))
        assert back.history.column("loss").tolist() == losses[:wanted]
        n = wanted - keyframe
        words = f"from keyframe {keyframe} of the recording, {n} iteration{'s' * (n > 1)} run again"
        assert back.notice == words and status.line(back)[0] == words
        assert all(torch.equal(tensor, states[wanted][name]) for name, tensor in everything(run).items())
    engine.send(StepBack())
    there(engine, (11, 0))
    engine.send(StageBack())
    there(engine, (10, 8))
    engine.send(RunTo(14))
    at_rest(engine, 14)
    assert engine.stop() and engine.recording.closed
    with Recording(tmp_path / "run.h5") as recording:
        assert recording.iterations.tolist() == list(range(15)) and recording.keyframes.tolist() == [0, 5, 10, 14]
        assert all(recording.verify())
        assert recording.scalars().column("loss").tolist()[:12] == losses


def test_what_is_in_memory_comes_before_what_is_not_nearer(record: Record) -> None:
    engine = record(FakeRun(), past_bytes=1e9)
    for at in range(1, 8):
        engine.send(NextIteration())
        at_rest(engine, at)
    written(engine, 2)
    engine.send(GoTo(6))  # by the state of 5, which is in both
    assert there(engine, (6, 0)).notice == ""


def test_changes_on_the_way_are_made_again_and_another_replaces_what_lies_beyond(record: Record) -> None:
    engine = record(FakeRun())
    engine.send(ChangeSetting("visibility_ratio", 0.6))  # before the recording begins: in its first state
    for ratio, upto in ((0.2, 5), (0.3, 7), (0.4, 12)):
        engine.send(RunTo(upto))
        at_rest(engine, upto)
        engine.send(ChangeSetting("visibility_ratio", ratio))
    engine.send(RunTo(16))
    at_rest(engine, 16)
    written(engine, 5)
    for wanted, ratio in ((15, 0.4), (11, 0.3), (7, 0.3), (6, 0.2), (5, 0.2), (4, 0.6), (16, 0.4)):
        engine.send(GoTo(wanted))
        assert there(engine, (wanted, 0)).settings["visibility_ratio"].value == ratio, wanted
    engine.send(GoTo(6))
    there(engine, (6, 0))
    engine.send(NextStage())
    there(engine, (6, 1))
    engine.send(ChangeSetting("visibility_ratio", 0.9))
    changed = engine.snapshots.wait_for(lambda s: s.settings["visibility_ratio"].value == 0.9, WAIT_SECS)
    assert changed.past.reached == 6
    engine.send(RunTo(11))
    at_rest(engine, 11)
    written(engine, 7)  # of the end of iteration 7, as of every change within one, and of 10
    for wanted, ratio in ((10, 0.9), (7, 0.9), (6, 0.2), (11, 0.9)):
        engine.send(GoTo(wanted))
        assert there(engine, (wanted, 0)).settings["visibility_ratio"].value == ratio, wanted


@pytest.mark.parametrize("fault", ["gone", "another"])
def test_a_file_that_is_not_what_it_was_is_told_and_nothing_is_lost(record: Record, tmp_path: Path, fault: str) -> None:
    run = FakeRun()
    engine = record(run)
    engine.send(RunIterations(12))
    at_rest(engine, 12)
    written(engine, 3)
    radius = float(run.radius)
    if fault == "gone":
        (tmp_path / "run.h5").unlink()
    else:
        Recorder(tmp_path / "other.h5", FakeRun()).close()
        shutil.move(tmp_path / "other.h5", tmp_path / "run.h5")
    engine.send(GoTo(8))
    said = engine.snapshots.wait_for(lambda s: s.notice, WAIT_SECS)
    reason = {"gone": "no such recording", "another": "run.h5 is another recording by now"}[fault]
    assert said.notice.startswith("keyframe 5 of the recording can't be read: ") and reason in said.notice
    assert "; can't go back: one state takes 4 bytes, at most 1 bytes are kept" in said.notice
    assert said.failure is None and said.iteration == 12 and float(run.radius) == radius
    assert (said.past.oldest, said.past.n_keyframes) == (None, 0)
    engine.send(NextIteration())
    assert at_rest(engine, 13).failure is None


def test_one_that_is_lost_is_replaced_by_an_older_one(record: Record, monkeypatch) -> None:
    engine = record(FakeRun())
    engine.send(RunIterations(12))
    at_rest(engine, 12)
    written(engine, 3)
    read = LateRecorder.read_state

    def damaged(self: LateRecorder, iteration: int) -> object:
        if iteration == 5:
            raise ValueError("its header is damaged")
        return read(self, iteration)

    monkeypatch.setattr(LateRecorder, "read_state", damaged)
    engine.send(GoTo(8))
    assert there(engine, (8, 0)).notice == ("keyframe 5 of the recording can't be read: its header is damaged; "
                                            "from keyframe 0 of the recording, 8 iterations run again")


class Writer:
    """What Keyframes needs of a recorder, with a writer that is behind."""

    def __init__(self) -> None:
        self.n_keyframes, self.n_written = 0, 0
        self.states: dict[int, object] = {}

    @property
    def status(self) -> RecordStatus:
        return RecordStatus(Path("run.h5"), n_keyframes=self.n_written, keyframe_bytes=1000 * self.n_written)

    def read_state(self, iteration: int) -> object:
        return self.states[iteration]


def test_only_what_is_written_and_still_holds_counts() -> None:
    writer = Writer()
    keyframes = Keyframes(writer)

    def there_are() -> list[int]:
        return [keyframe.iteration for keyframe in keyframes.there]

    for at in (0, 3, 5, 8):
        writer.n_keyframes += at != 3  # none is taken at 3
        keyframes.note(at, History, 0)
    assert there_are() == [] and keyframes.n_bytes == 0
    writer.n_written = 2
    assert there_are() == [0, 5] and keyframes.n_bytes == 2000
    writer.n_written = 3
    keyframes.changed((8, 0), (8, 2))  # within the last iteration: what is at its start stays
    assert there_are() == [0, 5, 8]
    keyframes.changed((5, 1), (8, 0))
    assert there_are() == [0]
    for state, message in ((3, "must be a mapping, got int"), ({"iteration": 4}, "its state is of iteration 4")):
        writer.n_keyframes += 1
        keyframes.note(5, History, 1)
        assert there_are() == [0]
        writer.n_written += 1
        keyframe = keyframes.there[1]
        assert (keyframe.iteration, keyframe.n_changes) == (5, 1)
        writer.states[5] = state
        with pytest.raises(ValueError, match=message):
            keyframes.read(keyframe)
        assert there_are() == [0]


def test_a_keyframe_that_is_not_of_that_iteration_is_refused(tmp_path: Path) -> None:
    run = FakeRun()
    recorder = Recorder(tmp_path / "run.h5", run, policy=EVERY_5)
    iterate(run, recorder, 7)
    recorder.close()
    assert state_at(tmp_path / "run.h5", 5, recorder.uid)["iteration"] == 5
    with pytest.raises(ValueError, match="it is not in the file"):
        state_at(tmp_path / "run.h5", 6, recorder.uid)
