"""Going back by stage: what was seen before each stage is there again bit by bit; the stage at fault is found."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from fake_run import FakeRun
from test_engine import WAIT_SECS, StartEngine, ask, at_rest, start  # noqa: F401 - start is a fixture
from test_fit import everything, small_run

from sparseflex.training.fit import STAGES, FitRun
from workbench.commands import (
    ChangeSetting,
    GoTo,
    NextIteration,
    NextStage,
    Play,
    RemoveBreakpoint,
    RunIterations,
    RunTo,
    SetBreakpoint,
    StageBack,
    StepBack,
)
from workbench.engine import Engine
from workbench.field_copies import fields_of
from workbench.snapshot import Breakpoint, MeshArrays, Snapshot

Place = tuple[int, int]


def there(engine: Engine, place: Place, *names: str) -> Snapshot:
    """The run at rest at a place, with these fields."""
    stages = engine.snapshots.latest().stages
    at_rest(engine, place[0], stages[place[1]])
    return ask(engine, *names)


def seen(snapshot: Snapshot) -> dict[str, Any]:
    """All that a snapshot says of its run; what a stage cost is another thing each time."""
    arrays: dict[str, Any] = {}
    for name, value in snapshot.fields.items():
        if isinstance(value, MeshArrays):
            arrays |= {f"{name}/vertices": value.vertices, f"{name}/faces": value.faces}
        elif isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            arrays[name] = getattr(value, "keys", torch.zeros(0)).numpy() if name == "voxels" else np.zeros(0)
    cost = ("stage_secs", "peak_bytes", "work_bytes", "work_voxels")  # measured now and then
    scalars = {f"scalar {name}": np.float64(value) for name, value in snapshot.scalars.items() if name not in cost}
    rows = snapshot.history.column("loss")
    return {**arrays, **scalars, "losses": np.zeros(0) if rows is None else rows,
            "stage_done": np.array(snapshot.stage_done), "n_cameras": np.array(len(snapshot.cameras))}


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any], place: Place) -> None:
    assert found.keys() == expected.keys(), place
    for name, value in expected.items():
        assert value.dtype == found[name].dtype and value.tobytes() == found[name].tobytes(), (place, name)


def walked(n_stages: int, first: Place, last: Place) -> Iterator[Place]:
    """Every place from one to another, forwards or backwards."""
    a, b = (iteration * n_stages + number for iteration, number in (first, last))
    for k in range(a, b + 1) if a <= b else range(a, b - 1, -1):
        yield divmod(k, n_stages)


@pytest.mark.parametrize("levels", [pytest.param(False, marks=pytest.mark.slow), True])
def test_every_stage_back_is_what_was_seen_there(start: StartEngine, levels: bool) -> None:  # noqa: F811
    """All fields and scalars at every stage of two iterations, backwards, and the run itself forwards again."""
    changes = {"start_resolution": 4, "iterations": 6, "prune_every": 1} if levels else {}
    run = small_run(resolution=8, visibility_ratio=0.6, image_size=16, **changes)
    engine = start(run)
    names = tuple(fields_of(run))
    engine.send(RunTo(2))
    known = {(2, 0): seen(there(engine, (2, 0), *names))}
    for place in walked(len(STAGES), (2, 1), (4, 0)):
        engine.send(NextStage())
        known[place] = seen(there(engine, place, *names))
    if levels:
        assert len({len(known[at, 0]["voxels"]) for at in (2, 3, 4)}) > 1
    end = everything(run)
    for place in walked(len(STAGES), (3, 8), (2, 0)):
        engine.send(StageBack())
        assert_same(seen(there(engine, place, *names)), known[place], place)
    engine.send(GoTo(4))
    assert_same(seen(there(engine, (4, 0), *names)), known[4, 0], (4, 0))
    assert all(torch.equal(tensor, end[name]) for name, tensor in everything(run).items())


def test_presses_in_quick_succession_add_up(start: StartEngine) -> None:  # noqa: F811
    run = FakeRun(stage_secs=0.005)
    engine = start(run)
    engine.send(RunIterations(4))
    at_rest(engine, 4)
    for _ in range(4):  # over the start of an iteration
        engine.send(StageBack())
    there(engine, (2, 2))
    engine.send(StageBack())
    engine.send(StepBack())  # from within an iteration to its start
    there(engine, (2, 0))
    engine.send(StepBack())
    engine.send(StageBack())
    there(engine, (0, 2))
    engine.send(GoTo(0, 1))
    there(engine, (0, 1))
    engine.send(GoTo(0, 2))
    there(engine, (0, 2))
    for _ in range(2):
        engine.send(StageBack())
    there(engine, (0, 0))
    engine.send(StageBack())
    said = engine.snapshots.wait_for(lambda s: s.notice, WAIT_SECS)
    assert said.notice == "can't go back: iteration 0 is the oldest that is kept"
    engine.send(NextIteration())
    assert at_rest(engine, 1).history.n_rows == 1


def test_a_press_on_the_way_leaves_the_words_on_it() -> None:
    engine = Engine(FakeRun())  # not started: its thread's work is done here, one stage at a time
    engine._obey(RunIterations(8))
    while engine._running():
        engine._run_stage()
    del engine._past._kept[1:]
    for n_again in (7, 6, 5):
        engine._obey(StepBack())
        assert engine.snapshots.latest().notice == f"from iteration 0, running {n_again} iterations again"
        engine._run_stage()
    engine._obey(GoTo(9))  # beyond what has been, it is no longer running again
    assert engine.snapshots.latest().notice == "" and engine.snapshots.latest().playing


def test_while_it_plays_a_stage_back_stops_before_the_last_one(start: StartEngine) -> None:  # noqa: F811
    run = FakeRun(stage_secs=0.002)
    engine = start(run)
    engine.send(Play())
    engine.snapshots.wait_for(lambda s: s.playing, WAIT_SECS)
    while run.iteration < 3:
        time.sleep(0.001)
    engine.send(StageBack())
    stopped = engine.snapshots.wait_for(lambda s: not s.playing and s.iteration >= 2, WAIT_SECS)
    assert 2 <= stopped.iteration <= stopped.past.reached


def test_breakpoints_stop_nothing_on_the_way_back(start: StartEngine) -> None:  # noqa: F811
    engine = start(FakeRun(), breakpoints=[Breakpoint("iteration >= 2")])
    engine.send(Play())
    hit = engine.snapshots.wait_for(lambda s: s.hits and not s.playing, WAIT_SECS)
    assert hit.hits[0].iteration == 2 and hit.hits[0].stage == "update"
    engine.send(StageBack())
    back = there(engine, (1, 2))
    assert back.hits == () and back.breakpoints[0].hits == 1
    engine.send(StageBack())
    assert there(engine, (1, 1)).hits == ()
    engine.send(RunTo(5))
    at_rest(engine, 2)
    engine.send(RemoveBreakpoint("iteration >= 2"))
    engine.send(RunTo(5))
    at_rest(engine, 5)
    engine.send(SetBreakpoint("loss < 2"))  # holds at the end of every iteration that is run again
    for place in ((4, 2), (4, 1), (4, 0), (3, 2)):
        engine.send(StageBack())
        back = there(engine, place)
        assert back.hits == () and back.breakpoints[0].hits == 0, place
    engine.send(Play())
    hit = engine.snapshots.wait_for(lambda s: s.hits and not s.playing, WAIT_SECS)
    assert hit.hits[0].iteration == 4  # what is played stops again


def test_what_was_changed_between_stages_is_changed_again_there(start: StartEngine) -> None:  # noqa: F811
    run = FakeRun()
    engine = start(run)
    engine.send(RunIterations(2))
    at_rest(engine, 2)
    engine.send(NextStage())
    there(engine, (2, 1))
    engine.send(ChangeSetting("visibility_ratio", 0.3))
    for number in (2, 0):
        engine.send(NextStage())
        there(engine, (2 + (number == 0), number))
    for place, ratio in (((2, 2), 0.3), ((2, 1), 0.3), ((2, 0), 0.5), ((1, 2), 0.5)):
        engine.send(StageBack())
        assert there(engine, place).settings["visibility_ratio"].value == ratio, place
    engine.send(GoTo(3))
    assert there(engine, (3, 0)).scalars["visible_fraction"] == 0.3


class Poisoned(FitRun):
    """One row of the SDF becomes NaN in a stage of an iteration, counted from 1."""

    fault: tuple[int, str] = (0, "")

    def run_stage(self, stage: str) -> None:
        due = self.fault == (self.iteration + 1, stage)
        super().run_stage(stage)
        if due:
            self.parameters.sdf[7] = math.nan


@pytest.mark.parametrize("fault", [pytest.param((4, "update"), marks=pytest.mark.slow), (3, "prune")])
def test_stepping_back_finds_the_stage_that_made_the_nan(start: StartEngine, fault: tuple[int, str]) -> None:  # noqa: F811
    """From where the run is seen to fail, to the first state without it: the stage after that did it."""
    made = small_run(resolution=8, image_size=16)
    run = Poisoned(made.target, made.config)
    run.fault = fault
    engine = start(run)
    engine.send(RunTo(5))
    snapshot = there(engine, (5, 0), "corner_sdf")
    assert math.isnan(snapshot.fields["corner_sdf"].sum())
    stages = 0
    while np.isnan(snapshot.fields["corner_sdf"]).any():
        before, done = (snapshot.iteration, STAGES.index(snapshot.stage_next)), snapshot.stage_done
        assert stages < 40
        stages += 1
        engine.send(StageBack())
        snapshot = there(engine, divmod(before[0] * len(STAGES) + before[1] - 1, len(STAGES)), "corner_sdf")
    assert (snapshot.iteration + 1, done) == fault and snapshot.stage_next == fault[1]


def test_from_a_failure_to_before_the_stage_that_failed(start: StartEngine) -> None:  # noqa: F811
    engine = start(FakeRun(fail_at=(3, "update")))
    engine.send(Play())
    engine.snapshots.wait_for(lambda s: s.failure, WAIT_SECS)
    engine.send(StageBack())
    back = there(engine, (3, 1))
    assert back.failure is None
    engine.send(NextStage())
    assert there(engine, (3, 2)).failure is None
    engine.send(NextStage())
    assert engine.snapshots.wait_for(lambda s: s.failure, WAIT_SECS).failure.stage == "update"
    engine.send(GoTo(3, 2))  # the very place at which it failed
    assert there(engine, (3, 2)).failure is None
    engine.send(GoTo(2))
    assert there(engine, (2, 0)).failure is None
