"""Profiling: one iteration under torch's profiler; what is named, and that it changes nothing."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_run import FakeRun
from test_fit import small_run

from sparseflex.training.measure import StageCost
from sparseflex.training.staged_run import StagedRun
from workbench import cli, profiling
from workbench.cli_profile import LoopProfile
from workbench.commands import GoTo, NextStage, Play, ProfileIteration, RequestFields, RunIterations
from workbench.engine import Engine
from workbench.headless import StopRequest, train
from workbench.profile_events import MEMORY, Event, by_stage, merged, short
from workbench.profiling import Profile, ProfileDesk, Profiler
from workbench.recording.reader import Recording
from workbench.recording.recorder import Recorder
from workbench.snapshot import Snapshot
from workbench.source import Replay


class Planted(StagedRun):
    """Three stages of a few small operators. heavy: one stage has one that dwarfs them all; greedy: one takes 50 MB."""

    name = "planted"
    stages = ("extract", "render", "update")
    heavy = greedy = ""

    def do(self, stage: str) -> None:
        numbers = torch.ones(64, 64)
        for _ in range(5):
            numbers = (numbers + 1).clamp(0, 2)
        if stage == self.heavy:
            torch.linalg.svdvals(torch.rand(400, 400, generator=torch.Generator().manual_seed(1)))
        if stage == self.greedy:
            torch.empty(50_000_000, dtype=torch.uint8)

    def do_extract(self) -> None:
        self.do("extract")

    def do_render(self) -> None:
        self.do("render")

    def do_update(self) -> None:
        self.do("update")


def profiled(run: StagedRun, folder: Path) -> Profile:
    """The profile of a run's next iteration."""
    desk = ProfileDesk()
    desk.ask(folder)
    for number, stage in enumerate(run.stages):
        with desk.stage(stage, number == 0):
            run.run_stage(stage)
    assert "profiled iteration" in desk.ended(run.iteration) and not desk.pending
    return desk.latest


def waited(engine: Engine, done: Callable[[Snapshot], bool], secs: float = 20.0) -> Snapshot:
    deadline = time.monotonic() + secs
    while time.monotonic() < deadline:
        if done(engine.snapshots.latest()):
            return engine.snapshots.latest()
        time.sleep(0.005)
    raise AssertionError(f"not reached within {secs:g} s")


@pytest.fixture
def driven():
    """Starts an engine on a run; all are stopped afterwards."""
    engines = []

    def start(run) -> Engine:
        engines.append(Engine(run))
        engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        assert engine.stop()


# What is found


@pytest.mark.parametrize("stage", ["extract", "render"])
def test_an_operator_that_dominates_is_named_with_its_stage(tmp_path: Path, stage: str) -> None:
    run = Planted()
    run.run_iteration()
    run.heavy = stage
    found = profiled(run, tmp_path)
    assert [part.name for part in found.stages] == list(run.stages) and found.iteration == 2
    costliest = max(found.stages, key=lambda part: part.secs)
    assert costliest.name == stage and "svd" in costliest.operators[0].name and costliest.operators[0].n_calls == 1
    assert "svd" in found.words and f"in {stage}" in found.words
    assert found.whole.operators[0] == costliest.operators[0]  # no other stage has it


def test_a_stage_that_allocates_fifty_megabytes_more_is_named(tmp_path: Path) -> None:
    run = Planted()
    run.greedy = "render"
    found = {part.name: part for part in profiled(run, tmp_path).stages}
    most = max(found.values(), key=lambda part: part.peak_bytes)
    assert most.name == "render" and most.peak_bytes == pytest.approx(50e6, rel=0.01)
    assert found["extract"].peak_bytes < 1e6 and found["update"].peak_bytes < 1e6
    most_of_all = max(found["render"].operators, key=lambda operator: operator.allocated_bytes)
    assert most_of_all.name == "empty" and most_of_all.allocated_bytes >= 50e6


def slow_self_time(events: list[Event], index: int) -> int:
    """The nanoseconds of an event in which none that lies within it runs."""
    event = events[index]
    covered = torch.zeros(event.duration, dtype=torch.bool)
    for other in events:
        if other is not event and other.start >= event.start and other.end <= event.end:
            covered[other.start - event.start : other.end - event.start] = True
    return int((~covered).sum())


def test_self_times_are_what_nesting_leaves() -> None:
    generator = torch.Generator().manual_seed(3)
    events: list[Event] = []

    def nest(start: int, end: int, depth: int) -> None:
        while end - start > 20 and depth < 4:
            begin = start + int(torch.randint(1, 8, (), generator=generator))
            stop = min(begin + int(torch.randint(3, 60, (), generator=generator)), end)
            if stop <= begin:
                return
            events.append(Event(f"op{len(events)}", begin, stop - begin, number=len(events) + 1))
            nest(begin, stop, depth + 1)
            start = stop

    nest(100, 1100, 0)
    mark = Event("extract", 100, 1000, marked=True)
    (stage,) = by_stage([*events[::-1], mark], ["extract"], "cpu")
    assert len(stage.operators) == len(events) > 30
    for index, event in enumerate(events):
        operator = next(operator for operator in stage.operators if operator.name == event.name)
        assert round(1e9 * operator.self_secs) == slow_self_time(events, index)
    inside = 1e9 * sum(operator.self_secs for operator in stage.operators)
    assert round(1e9 * stage.outside_secs + inside) == 1000  # every nanosecond once


def test_memory_goes_to_the_operator_within_which_it_is_taken_and_kernels_to_who_started_them() -> None:
    mark, later = Event("loss", 0, 100, marked=True), Event("update", 100, 100, marked=True)
    events = [
        mark, later, Event("aten::mm", 10, 50, number=1), Event("aten::empty", 20, 10, number=2),
        Event(MEMORY, 25, 0, n_bytes=400, device="cuda"), Event(MEMORY, 70, 0, n_bytes=-400, device="cuda"),
        Event(MEMORY, 80, 0, n_bytes=300, device="cuda"), Event(MEMORY, 26, 0, n_bytes=7000),
        Event("gemm", 130, 40, device="cuda", cause=1), Event("aten::add", 110, 10, thread=7, number=3),
        Event("other", 110, 10, device="cuda", cause=99), Event("loss", 20, 80, device="cuda", marked=True),
    ]
    loss, update = by_stage(events, ["loss", "update"], "cuda")
    by_name = {operator.name: operator for operator in loss.operators}
    assert by_name["empty"].allocated_bytes == 400 and by_name["mm"].allocated_bytes == 0
    assert (loss.allocated_bytes, loss.peak_bytes) == (700, 400)
    assert loss.operators[0].name == "mm" and by_name["mm"].device_secs == pytest.approx(40e-9)  # though in the next
    assert update.device_secs == 0 and update.outside_secs == pytest.approx(90e-9)
    whole = merged((loss, update))
    assert whole.secs == pytest.approx(200e-9) and whole.peak_bytes == 400 and len(whole.operators) == 3


def test_a_trainers_own_marks_are_no_stages() -> None:
    events = [Event("update", 2, 3, marked=True), Event("loss", 0, 10, marked=True),
              Event("loss", 12, 3, marked=True), Event("update", 11, 9, marked=True)]
    found = by_stage(events, ["loss", "update"], "cpu")
    assert [stage.secs for stage in found] == [pytest.approx(10e-9), pytest.approx(9e-9)]
    assert by_stage([], ["loss"], "cpu") == () and by_stage(events, [], "cpu") == ()
    assert merged(()).operators == () and Profile(1, ()).words == ""
    assert short("aten::mul") == "mul"
    assert short("autograd::engine::evaluate_function: torch::autograd::AccumulateGrad") == "engine: AccumulateGrad"


# The trace


def test_the_trace_is_one_that_a_viewer_opens(tmp_path: Path) -> None:
    found = profiled(Planted(), tmp_path / "new folder")
    assert found.path == tmp_path / "new folder" / "trace-1.json.gz"
    events = json.loads(gzip.decompress(found.path.read_bytes()))["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"extract", "render", "update", "aten::add"} <= names
    shapes = [event["args"]["Input Dims"] for event in events if event.get("name") == "aten::add"]
    assert [64, 64] in shapes[0]
    assert list(found.path.parent.iterdir()) == [found.path]


def test_a_trace_that_cannot_be_written_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    desk, run = ProfileDesk(), Planted()
    desk.ask(tmp_path / "file")
    for number, stage in enumerate(run.stages):
        with desk.stage(stage, number == 0):
            run.run_stage(stage)
    assert desk.ended(run.iteration).startswith("no trace: ") and desk.latest.path is None
    assert len(desk.latest.stages) == 3


def test_another_profiler_in_the_thread_is_a_line(tmp_path: Path) -> None:
    desk, other = ProfileDesk(), Profiler()
    desk.ask(tmp_path)
    with desk.stage("extract", first=True):
        pass
    assert desk.ended(1).startswith("no profile: another profiler") and not desk.pending and desk.latest is None
    other.stop()
    desk.ask(tmp_path)
    with desk.stage("extract", first=True), torch.autograd.profiler.profile(use_kineto=True):  # the run's own
        pass
    assert desk.ended(2).startswith("no profile: another profiler")


# In the engine


def test_the_run_is_the_same_bit_for_bit(driven, tmp_path: Path) -> None:
    plain, run = small_run(), small_run()
    for _ in range(3):
        plain.run_iteration()
    engine = driven(run)
    for command in (RunIterations(1), ProfileIteration(tmp_path), RunIterations(1)):
        before = run.iteration
        engine.send(command)
        shown = waited(engine, lambda shown, before=before: shown.iteration == before + 1 and not shown.playing)
    assert shown.profile.iteration == 2 and [part.name for part in shown.profile.stages] == list(run.stages)
    for name, value in plain.flex().__dict__.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(run.flex(), name)), name
    assert torch.equal(plain.generator.get_state(), run.generator.get_state())
    measured = {name for name in plain.scalars() if name.endswith(("_secs", "_bytes"))}
    assert {n: v for n, v in plain.scalars().items() if n not in measured} == {
        n: v for n, v in run.scalars().items() if n not in measured}


def test_its_seconds_are_not_counted(driven, tmp_path: Path) -> None:
    engine = driven(FakeRun(only_scalars=True))
    engine.send(RunIterations(2))
    waited(engine, lambda shown: shown.iteration == 2 and not shown.playing)
    engine.send(ProfileIteration(tmp_path))
    waited(engine, lambda shown: shown.profile is not None and not shown.playing)
    engine.send(RunIterations(1))
    engine.send(RequestFields(frozenset()))
    history = waited(engine, lambda shown: shown.history.n_rows == 4).history
    assert [math.isnan(value) for value in history.column("secs_render")] == [False, False, True, False]
    assert [math.isnan(value) for value in history.column("bytes_render")][2]
    assert not any(math.isnan(value) for value in history.column("loss"))


def test_from_within_an_iteration_it_is_the_next_whole_one(driven, tmp_path: Path) -> None:
    engine = driven(FakeRun(only_scalars=True))
    engine.send(NextStage())
    waited(engine, lambda shown: shown.stage_next == "render")
    engine.send(ProfileIteration(tmp_path))
    shown = waited(engine, lambda shown: shown.profile is not None and not shown.playing)
    assert shown.profile.iteration == 2 and not shown.profiling and shown.notice.startswith("profiled iteration 2")


def test_a_run_that_plays_goes_on_playing(driven, tmp_path: Path) -> None:
    engine = driven(FakeRun(only_scalars=True, stage_secs=0.002))
    engine.send(Play())
    waited(engine, lambda shown: shown.playing)
    engine.send(ProfileIteration(tmp_path))
    shown = waited(engine, lambda shown: shown.profile is not None)
    assert shown.playing and (tmp_path / f"trace-{shown.profile.iteration}.json.gz").is_file()


def test_an_iteration_that_is_left_is_not_profiled_but_the_next_one_is(driven, tmp_path: Path) -> None:
    run = FakeRun(only_scalars=True)
    engine = driven(run)
    engine.send(RunIterations(2))
    waited(engine, lambda shown: shown.iteration == 2 and not shown.playing)
    original = run.run_stage

    def run_stage(stage: str) -> None:
        if run.iteration == 2 and stage == "render":
            engine.send(GoTo(1))  # comes in before the next stage
        original(stage)

    run.run_stage = run_stage
    engine.send(ProfileIteration(tmp_path))
    shown = waited(engine, lambda shown: shown.profile is not None and not shown.playing)
    assert shown.profile.iteration == 1  # which runs again on the way back
    assert [stage.name for stage in shown.profile.stages] == list(run.stages)
    assert [path.name for path in tmp_path.iterdir()] == ["trace-1.json.gz"]


def test_a_failure_ends_the_profile_and_a_failed_run_has_none(driven, tmp_path: Path) -> None:
    engine = driven(FakeRun(only_scalars=True, fail_at=(0, "render")))
    engine.send(ProfileIteration(tmp_path))
    shown = waited(engine, lambda shown: shown.failure is not None)
    assert not shown.profiling and shown.profile is None
    engine.send(ProfileIteration(tmp_path))
    waited(engine, lambda shown: "has failed" in shown.notice)
    Profiler().stop()  # none has been left running: another one can start


def test_ready_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "_ready", False)
    profiling.make_ready()
    assert profiling._ready
    monkeypatch.setattr(profiling.torch_profiler, "profile", None)
    profiling.make_ready()  # not again


# Without an engine


def test_a_loop_profiles_the_iteration_that_is_named(tmp_path: Path) -> None:
    run, rows = Costly(), []

    class Rows:
        def iteration_started(self, run: StagedRun) -> None:
            pass

        def iteration_ended(self, run: StagedRun, row: dict[str, float]) -> None:
            rows.append(row)

    profile = LoopProfile(run, 2, tmp_path)
    train(run, 3, StopRequest(), "test", Rows(), profile=profile)
    assert [path.name for path in tmp_path.iterdir()] == ["trace-2.json.gz"] and "trace-2" in profile.said[0]
    assert any("takes most memory" in text for text in profile.said)
    assert [math.isnan(row["secs_extract"]) for row in rows] == [False, True, False]
    late = LoopProfile(run, 4, tmp_path / "other")
    with late.stage(0, "extract"):
        late.drop()  # stopped within the iteration
    assert late.end({"secs_extract": 1.0}) == {"secs_extract": 1.0} and not (tmp_path / "other").exists()


def test_a_failure_leaves_no_profiler_running(tmp_path: Path) -> None:
    run = FakeRun(only_scalars=True, fail_at=(1, "render"))
    with pytest.raises(ArithmeticError):
        train(run, 3, StopRequest(), "test", profile=LoopProfile(run, 2, tmp_path))
    Profiler().stop()  # another one can start
    assert not list(tmp_path.iterdir())


class Costly(Planted):
    """One that measures its own stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stage_costs = {stage: StageCost(0.001, 1e6) for stage in self.stages}


@pytest.mark.parametrize(("arguments", "said"), [
    (["fit", "house", "--profile", "3"], "--profile goes with --headless"),
    (["fit", "house", "--headless", "--profile", "0"], "counted from 1, got 0"),
    (["fit", "house", "--headless", "--resolution", "8", "--iterations", "2", "--profile", "3"], "1 to 2, got 3"),
    (["reconstruct", "lantern", "--checkpoint", "tiny_vae", "--profile"], "--profile goes with --headless"),
])
def test_bad_use_is_one_line(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.system_check.has_display", lambda: True)
    monkeypatch.setattr("workbench.cli.require_graphics", lambda display: None)
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_a_recording_is_refused_with_a_line(tmp_path: Path) -> None:
    run = FakeRun(only_scalars=True)
    recorder = Recorder(tmp_path / "run.h5", run)
    recorder.close()
    replay = Replay(Recording(tmp_path / "run.h5"))
    replay.start()
    try:
        replay.send(ProfileIteration(tmp_path))
        shown = waited(replay, lambda shown: "profiled" in shown.notice)
    finally:
        replay.stop()
    assert shown.profile is None and "branch from here" in shown.notice
