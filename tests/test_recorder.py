"""Recording: what is in the file is what the run had, and nothing that happens to the file ever touches the run."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_run import FakeRun
from hard_runs import HARD_RUNS
from raw_recording import RawRecording
from test_engine import WAIT_SECS, at_rest
from test_fit import everything, octahedron, small_run

from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun
from sparseflex.training.run import Run
from workbench.commands import ChangeSetting, GoTo, NextStage, Play, RunIterations, StageBack, StepBack
from workbench.engine import Engine
from workbench.field_copies import FieldCopies, fields_of
from workbench.recording.layout import OWN_STREAMS
from workbench.recording.policy import About, RecordPolicy
from workbench.recording.recorder import LateRecorder, Recorder, recording_into
from workbench.recording.sources import Sources
from workbench.recording.states import state_of, state_value
from workbench.recording.values import change_of, events_of, voxels_of
from workbench.snapshot import MeshArrays

OFTEN = RecordPolicy(snapshot_every=4, maps_every=6, keyframe_every=8, cost_share=1e9)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sparseflex-recorder")]


def iterate(run: Run, recorder: Recorder | None = None, count: int = 1) -> None:
    for _ in range(count):
        if recorder is not None:
            recorder.iteration_started(run)
        for stage in run.stages:
            run.run_stage(stage)
        if recorder is not None:
            recorder.iteration_ended(run, {"iteration": run.iteration, **run.scalars()})


def wait_for(condition: Any, secs: float = WAIT_SECS) -> None:
    deadline = time.monotonic() + secs
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def same(recorded: Any, live: Any) -> bool:
    if isinstance(live, MeshArrays):
        return same(recorded["vertices"], live.vertices) and same(recorded["faces"], live.faces)
    if isinstance(live, np.ndarray):
        return recorded.dtype == live.dtype and np.array_equal(recorded, live, equal_nan=live.dtype.kind == "f")
    return bool(torch.equal(voxels_of(recorded["keys"], recorded["resolution"]).voxel_ijk, live.voxel_ijk))


def fields_now(run: Run) -> Mapping[str, Any]:
    copies = FieldCopies(run)
    copies.start(fields_of(run), 0)
    return copies.finish()


class Shrinking(FakeRun):
    """A fifth of its voxels goes every five iterations; what belongs to them is drawn anew in each."""

    def run_stage(self, stage: str) -> None:
        super().run_stage(stage)
        if stage == "update" and self.iteration % 5 == 0:
            self._voxels = self._voxels.prune(self._drawn() > 0.2)

    @property
    def fields(self) -> Mapping[str, str]:
        return {**super().fields, "active": "voxel"}

    def read_field(self, name: str) -> Any:
        if name in ("gamma", "active"):
            return self._drawn() if name == "gamma" else self._drawn() > 0.5
        return super().read_field(name)

    def _drawn(self) -> torch.Tensor:
        return torch.rand(self._voxels.n_voxels, generator=torch.Generator().manual_seed(self.iteration))


def coarse_to_fine() -> FitRun:
    config = FitConfig(resolution=16, start_resolution=8, iterations=24, image_size=32, prune_every=3)
    return FitRun(octahedron(0.45), config)


# -- what is in the file ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make_run", [Shrinking, small_run], ids=["fake", "fit"])
def test_the_file_holds_what_the_run_had(make_run, tmp_path: Path) -> None:
    run = make_run()
    recorder = Recorder(tmp_path / "run.h5", run, About(title="a title"), OFTEN)
    live = {0: fields_now(run)}
    for _ in range(13):
        iterate(run, recorder)
        live[run.iteration] = fields_now(run)
    loss = run.scalars()["loss"]
    recorder.close()
    status = recorder.status
    assert (status.closed, status.stopped, status.notes, status.n_dropped) == (True, "", (), 0)
    assert status.n_bytes == (tmp_path / "run.h5").stat().st_size and status.iteration == 13
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]

    raw = RawRecording(tmp_path / "run.h5")
    raw.check()
    assert raw.iterations == list(range(14)) and raw.meta["title"] == "a title"
    assert raw.meta["streams"][len(OWN_STREAMS):] == list(raw.meta["field_kinds"]) == list(fields_of(run))
    assert raw.column("iteration") == {k: k for k in range(1, 14)}
    assert raw.column("loss")[13] == loss
    for name, kind in fields_of(run).items():
        recorded = raw.values(name)
        if kind == "prune":
            continue
        for at, value in recorded:
            if value is None:
                assert name not in live[at], (name, at)
            else:
                assert same(value, live[at][name]), (name, at)
        for at in live:
            if name in live[at] and at in (0, 1, 12, 13) and kind != "map":
                assert same(raw.at(name, at), live[at][name]), (name, at)
    for at, _ in raw.values("voxels"):
        assert at == 0 or live[at]["voxels"] is not live[at - 1]["voxels"]
    assert {at for at, _ in raw.values("active")} >= set(range(1, 14))
    if isinstance(run, FitRun):
        assert {at for at, _ in raw.values("rendered_depth")} >= {1, 6, 12, 13}
        assert all(len(value["listed"]) >= 1 for at, value in raw.values("/cameras") if at)


def test_pruning_events_are_entered_once_each_with_their_reasons(tmp_path: Path) -> None:
    run = coarse_to_fine()
    recorder = Recorder(tmp_path / "run.h5", run, policy=OFTEN)
    iterate(run, recorder, 14)
    recorder.close()
    entered = [(at, event) for at, value in RawRecording(tmp_path / "run.h5").values("prune")
               for event in events_of(value)]
    assert len(run.prune_events) > 2
    for (at, event), known in zip(entered, run.prune_events, strict=True):
        assert at == event.iteration == known.iteration and event.subdivided == known.subdivided
        assert torch.equal(event.pruned.voxel_ijk, known.pruned.voxel_ijk)
        assert torch.equal(event.pruned_reason, known.pruned_reason)
        assert torch.equal(event.born.voxel_ijk, known.born.voxel_ijk)


@pytest.mark.parametrize("name", HARD_RUNS)
def test_hard_runs_are_recorded(name: str, tmp_path: Path) -> None:
    run = HARD_RUNS[name]()
    recorder = Recorder(tmp_path / "run.h5", run, policy=OFTEN)
    iterate(run, recorder, 5)
    recorder.close()
    assert recorder.status.closed and not recorder.status.notes
    raw = RawRecording(tmp_path / "run.h5")
    raw.check()
    assert raw.iterations == list(range(6))


def test_equal_arrays_lie_in_the_file_once(tmp_path: Path) -> None:
    run = FakeRun()
    recorder = Recorder(tmp_path / "run.h5", run, policy=dataclasses.replace(OFTEN, maps_every=1))
    iterate(run, recorder, 10)
    recorder.close()
    raw = RawRecording(tmp_path / "run.h5")
    assert len(raw.values("target_depth")) >= 10
    target = next(row for row, name in enumerate(raw.meta["streams"]) if name == "target_depth")
    headers = {raw.payload[int(e["start"]) : int(e["start"] + e["n_bytes"])] for e in raw.entries
               if e["stream"] == target}
    assert len(headers) == 1


def test_what_is_there_is_kept_and_a_run_that_is_only_looked_at_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "run.h5").write_text("mine")
    late = LateRecorder(recording_into(tmp_path, About()))
    assert late.status is None
    late.close()
    run = FakeRun(8)
    for number in (2, 3):
        late = LateRecorder(recording_into(tmp_path, About()))
        late.iteration_started(run)
        late.close()
        assert late.status.path == tmp_path / f"run-{number}.h5" and late.status.closed
    assert (tmp_path / "run.h5").read_text() == "mine" and len(list(tmp_path.iterdir())) == 3


# -- the run isn't touched -------------------------------------------------------------------------------------------

def test_a_recorded_run_is_the_same_bit_for_bit_and_its_keyframes_go_on_as_it_did(tmp_path: Path) -> None:
    straight, recorded = small_run(), small_run()
    iterate(straight, count=10)
    recorder = Recorder(tmp_path / "run.h5", recorded, policy=OFTEN)
    iterate(recorded, recorder, 10)
    recorder.close()
    expected = everything(straight)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(recorded).items())
    assert torch.equal(recorded.generator.get_state(), straight.generator.get_state())
    for at, value in RawRecording(tmp_path / "run.h5").values("/state"):
        again = FitRun.from_state_dict(state_of(value))
        assert again.iteration == at
        iterate(again, count=10 - at)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(again).items()), at


def test_states_keep_their_types() -> None:
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimiser.step()
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "set": {1, 2}, "pair": (1, (2.5, None)),
             "bytes": b"abc", "half": torch.arange(3).to(torch.bfloat16), "array": np.arange(3), "zero": torch.ones(()),
             "complex": torch.ones(2, dtype=torch.complex64), "$": {"$": True}, 3: "three", "none": torch.zeros(0, 2)}
    back = state_of(state_value(state))
    assert back.keys() == state.keys() and back["set"] == {1, 2} and back["pair"] == (1, (2.5, None))
    assert back["bytes"] == b"abc" and back["$"] == {"$": True} and back[3] == "three"
    assert isinstance(back["array"], np.ndarray) and back["none"].shape == (0, 2) and back["zero"].shape == ()
    assert torch.equal(back["half"], state["half"]) and torch.equal(back["complex"], state["complex"])
    fresh = torch.optim.Adam(model.parameters())
    fresh.load_state_dict(back["optimiser"])
    for old, new in zip(optimiser.state.values(), fresh.state.values(), strict=True):
        assert torch.equal(old["exp_avg"], new["exp_avg"])
    with pytest.raises(ValueError, match="state/odd must be"):
        state_value({"odd": object()})
    with pytest.raises(ValueError, match="known kinds"):
        state_of({"$": "os.system"})


class Odd(FakeRun):
    """Nothing of it is as it should be."""

    def read_field(self, name: str) -> Any:
        if name == "mesh":
            raise KeyError("no mesh today")
        return "no tensor" if name == "gamma" else super().read_field(name)

    def state_dict(self) -> dict[str, Any]:
        return {"handle": object()}

    def scalars(self) -> Mapping[str, Any]:
        return {**super().scalars(), "note": "text", "": 1.0, "x" * 70: 2.0, "zero": torch.tensor(0.5)}


def test_what_can_t_be_kept_is_told_once_and_left_out(tmp_path: Path) -> None:
    run = Odd()
    recorder = Recorder(tmp_path / "run.h5", run, policy=OFTEN)
    iterate(run, recorder, 12)
    recorder.close()
    notes = "\n".join(recorder.status.notes)
    assert recorder.status.closed and len(recorder.status.notes) == 5
    for text in ("field mesh is left out: KeyError", "field gamma is left out", "no keyframes, so no branches",
                 "scalar '' is left out", f"scalar '{'x' * 70}' is left out"):
        assert text in notes
    raw = RawRecording(tmp_path / "run.h5")
    raw.check()
    assert raw.iterations == list(range(13)) and not raw.values("/state") and not raw.values("mesh")
    assert raw.column("zero")[12] == 0.5 and np.isnan(raw.column("note")[12])
    assert len(raw.values("corner_sdf")) > 3


# -- what happens to the file ----------------------------------------------------------------------------------------

def test_the_intervals_double_whenever_half_of_what_was_left_is_used(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run.h5", FakeRun(8), policy=OFTEN)
    wait_for(lambda: recorder.status.iteration == 0)
    for gigabytes, times in ((1.9, 1), (2.1, 2), (2.9, 2), (3.2, 4), (3.9, 32)):
        recorder._outlet.change_status(n_bytes=int(gigabytes * 1e9))
        recorder._double_intervals()
        policy = recorder._policy
        assert (policy.snapshot_every, policy.maps_every, policy.keyframe_every) == (4 * times, 6 * times, 8 * times)
    recorder.close()


def test_at_the_limit_it_says_so_and_the_run_goes_on(tmp_path: Path) -> None:
    run = FakeRun()
    recorder = Recorder(tmp_path / "run.h5", run, policy=dataclasses.replace(OFTEN, limit_bytes=2.3e6))
    for _ in range(4000):
        iterate(run, recorder)
        if recorder.status.stopped:
            break
    wait_for(lambda: recorder.status.stopped)
    assert "its limit of 0.0023 GB is reached" in recorder.status.words
    iterate(run, recorder, 3)
    recorder.close()
    assert not recorder.status.closed and (tmp_path / "run.h5").stat().st_size <= 2.3e6
    RawRecording(tmp_path / "run.h5").check()


def test_it_stops_before_the_disk_is_full(tmp_path: Path) -> None:
    run = FakeRun(8)
    recorder = Recorder(tmp_path / "run.h5", run, policy=dataclasses.replace(OFTEN, reserve_bytes=1e18))
    wait_for(lambda: recorder.status.stopped)
    iterate(run, recorder, 3)
    recorder.close()
    assert "GB of the disk would stay free" in recorder.status.stopped and run.iteration == 3


@pytest.mark.parametrize("how", ["killed", "full disk", "no folder"])
def test_the_writer_s_end_is_told_in_one_line_and_the_run_goes_on(how: str, tmp_path: Path) -> None:
    run = small_run()
    folder = tmp_path / "missing" if how == "no folder" else tmp_path
    recorder = Recorder(folder / "run.h5", run, policy=OFTEN)
    if how != "no folder":
        wait_for(lambda: recorder.status.iteration >= 0)
    if how == "killed":
        os.kill(recorder.writer_pid, signal.SIGKILL)
    elif how == "full disk":
        resource.prlimit(recorder.writer_pid, resource.RLIMIT_FSIZE, (recorder.status.n_bytes, resource.RLIM_INFINITY))
    deadline = time.monotonic() + WAIT_SECS
    while not recorder.status.stopped and time.monotonic() < deadline:
        iterate(run, recorder)
    stopped = recorder.status.stopped
    expected = {"killed": "ended by signal 9", "full disk": "File too large", "no folder": "No such file"}[how]
    assert expected in stopped and "\n" not in stopped and len(stopped) < 120
    before = run.iteration
    iterate(run, recorder, 3)
    recorder.close()
    assert run.iteration == before + 3 and recorder.status.stopped == stopped
    if how != "no folder":
        raw = RawRecording(tmp_path / "run.h5")
        raw.check()
        assert raw.iterations == list(range(len(raw.iterations))) and raw.iterations[-1] >= recorder.status.iteration


def test_what_finds_no_room_is_dropped_counted_and_made_up_for(tmp_path: Path) -> None:
    run = Shrinking()
    recorder = Recorder(tmp_path / "run.h5", run, policy=dataclasses.replace(OFTEN, queue_bytes=30_000))
    wait_for(lambda: recorder.status.iteration >= 0)
    os.kill(recorder.writer_pid, signal.SIGSTOP)
    iterate(run, recorder, 13)  # the pipe and the queue are full
    dropped = recorder.status.n_dropped
    assert dropped > 0
    os.kill(recorder.writer_pid, signal.SIGCONT)
    wait_for(lambda: recorder.status.iteration == 13)
    iterate(run, recorder)
    wait_for(lambda: recorder.status.iteration == 14)
    recorder.close()
    assert f"{dropped} dropped" in recorder.status.words
    raw = RawRecording(tmp_path / "run.h5")
    raw.check()
    assert raw.iterations == list(range(15))
    assert same(raw.at("voxels", 14), run._voxels) and same(raw.at("corner_sdf", 14), fields_now(run)["corner_sdf"])
    for at, value in raw.values("active"):  # never flags of voxels that the file doesn't have
        assert value is None or len(value) == len(raw.at("voxels", at)["keys"])
    assert None in [value for _, value in raw.values("voxels")]


def test_what_waits_for_the_writer_is_what_was(tmp_path: Path) -> None:
    run = small_run()
    recorder = Recorder(tmp_path / "run.h5", run, policy=dataclasses.replace(OFTEN, snapshot_every=1, keyframe_every=1))
    wait_for(lambda: recorder.status.iteration >= 0)
    os.kill(recorder.writer_pid, signal.SIGSTOP)
    live, states = {}, {}
    for _ in range(5):
        iterate(run, recorder)
        live[run.iteration], states[run.iteration] = fields_now(run), everything(run)
    os.kill(recorder.writer_pid, signal.SIGCONT)
    recorder.close()
    raw = RawRecording(tmp_path / "run.h5")
    for at, fields in live.items():
        assert all(same(raw.at(name, at), value) for name, value in fields.items() if run.fields.get(name) != "map")
        again = FitRun.from_state_dict(state_of(raw.at("/state", at)))
        assert all(torch.equal(tensor, states[at][name]) for name, tensor in everything(again).items())


def test_ctrl_c_reaches_the_writer_too_and_does_nothing_to_it(tmp_path: Path) -> None:
    run = FakeRun(8)
    recorder = Recorder(tmp_path / "run.h5", run, policy=OFTEN)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(recorder.writer_pid, number)
        iterate(run, recorder)
    recorder.close()
    assert recorder.status.closed and recorder.status.iteration == 2


def test_processes_that_the_run_has_forked_don_t_hold_the_recording_open(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run.h5", FakeRun(8), policy=OFTEN)
    child = os.fork()
    if not child:  # it has all of the run's pipes
        time.sleep(60)
        os._exit(0)
    try:
        recorder.close(20)
        assert recorder.status.closed
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_costs_too_much_is_put_off(tmp_path: Path, monkeypatch) -> None:
    run = FakeRun()
    recorder = Recorder(tmp_path / "run.h5", run, policy=dataclasses.replace(OFTEN, cost_share=0.1))
    now = [100.0]
    monkeypatch.setattr("workbench.recording.recorder.time.perf_counter", lambda: now[0])
    snapshot = Sources.snapshot
    monkeypatch.setattr(Sources, "snapshot", lambda self: (now.__setitem__(0, now[0] + 1.0), snapshot(self))[1])
    for _ in range(40):  # a second each, as long as the snapshot itself
        now[0] += 1.0
        iterate(run, recorder)
    recorder.close()
    at = [at for at, _ in RawRecording(tmp_path / "run.h5").values("corner_sdf")]
    assert at == [0, 1, 10, 19, 28, 37, 40] and recorder.status.n_dropped == 0


# -- going back and changing -----------------------------------------------------------------------------------------

@pytest.fixture
def record(tmp_path: Path) -> Iterator[Any]:
    engines: list[Engine] = []

    def make(run: Run) -> Engine:
        engines.append(Engine(run, record=recording_into(tmp_path, About(), OFTEN)))
        engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        assert engine.stop()


def test_going_back_records_nothing_twice(record, tmp_path: Path) -> None:
    engine = record(small_run())
    assert engine.snapshots.latest().recording is None
    engine.send(RunIterations(6))
    status = at_rest(engine, 6).recording
    assert status is not None and not status.stopped
    engine.send(GoTo(2))
    at_rest(engine, 2)
    engine.send(RunIterations(7))
    at_rest(engine, 9)
    assert engine.stop() and engine.recording.closed
    raw = RawRecording(tmp_path / "run.h5")
    assert raw.commits["iteration"][raw.commits["addition"] == 0].tolist() == list(range(10))
    assert raw.commits["iteration"][-1] == 9 and [at for at, _ in raw.values("/state")] == [0, 8, 9]
    assert raw.column("secs_loss").keys() == set(range(1, 10))


def test_a_change_after_going_back_replaces_what_was_recorded_beyond(record, tmp_path: Path) -> None:
    engine = record(small_run())
    engine.send(RunIterations(6))
    at_rest(engine, 6)
    engine.send(GoTo(3))
    at_rest(engine, 3)
    change = ChangeSetting("visibility_ratio", 0.2)
    engine.send(change)
    engine.send(RunIterations(3))
    at_rest(engine, 6)
    engine.send(StepBack())
    at_rest(engine, 5)
    assert engine.stop()
    straight = small_run()
    losses = {}
    for at in range(1, 7):
        if at == 4:
            straight.change_setting("visibility_ratio", 0.2)
        iterate(straight)
        losses[at] = straight.scalars()["loss"]
    raw = RawRecording(tmp_path / "run.h5")
    raw.check()
    assert raw.iterations == list(range(7)) and raw.column("loss") == losses
    assert raw.commits["iteration"][raw.commits["addition"] == 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6]
    (at, (value,)), = raw.values("/changes")
    assert at == 3 and change_of(value).change == change
    rows = {raw.meta["streams"][entry["stream"]]: row for row, entry in enumerate(raw.entries)
            if entry["iteration"] == 3}
    assert rows["/changes"] < rows["/state"]  # the keyframe holds what is entered before it
    again = FitRun.from_state_dict(state_of(raw.at("/state", 3)))
    assert again.iteration == 3 and again.settings["visibility_ratio"].value == 0.2
    iterate(again, count=3)
    expected = everything(straight)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(again).items())


def test_a_change_replaced_within_its_iteration_is_not_recorded(record, tmp_path: Path) -> None:
    """Gone back by stages to before it, and another made there: the recording has the second one alone."""
    engine = record(FakeRun())
    engine.send(RunIterations(2))
    at_rest(engine, 2)
    for stage_next in ("render", "update"):
        engine.send(NextStage())
        at_rest(engine, 2, stage_next)
    engine.send(ChangeSetting("visibility_ratio", 0.2))
    engine.send(StageBack())
    at_rest(engine, 2, "render")
    engine.send(ChangeSetting("visibility_ratio", 0.7))
    engine.send(RunIterations(2))
    at_rest(engine, 4)
    assert engine.stop()
    raw = RawRecording(tmp_path / "run.h5")
    (at, (value,)), = raw.values("/changes")
    changed = change_of(value)
    assert (at, changed.iteration, changed.n_stages, changed.change.value) == (3, 2, 1, 0.7)
    assert [at for at, _ in raw.values("/state")] == [0, 3, 4]  # none at 2, which doesn't hold the change


def test_prunings_on_another_way_are_entered_anew(record, tmp_path: Path) -> None:
    run = coarse_to_fine()
    engine = record(run)
    engine.send(RunIterations(7))
    at_rest(engine, 7)
    engine.send(GoTo(4))
    at_rest(engine, 4)
    engine.send(ChangeSetting("prune_below", 0.3))
    engine.send(RunIterations(3))
    at_rest(engine, 7)
    assert engine.stop()
    entered = [(at, event.iteration) for at, value in RawRecording(tmp_path / "run.h5").values("prune")
               for event in events_of(value)]
    assert [at for at, _ in entered] == [iteration for _, iteration in entered]
    assert [at for at, _ in entered] == [event.iteration for event in run.prune_events] and entered[-1][0] > 4


def test_a_change_within_an_iteration_gives_a_keyframe_at_its_end(record, tmp_path: Path) -> None:
    engine = record(FakeRun())
    engine.send(RunIterations(2))
    at_rest(engine, 2)
    engine.send(NextStage())
    at_rest(engine, 2, "render")
    engine.send(ChangeSetting("visibility_ratio", 0.25))
    engine.send(RunIterations(2))
    at_rest(engine, 4)
    assert engine.stop()
    raw = RawRecording(tmp_path / "run.h5")
    states = dict(raw.values("/state"))
    assert states.keys() == {0, 3, 4} and states[3]["ratio"] == 0.25
    (at, (value,)), = raw.values("/changes")
    changed = change_of(value)
    assert at == 3 and (changed.iteration, changed.n_stages) == (2, 1)


def test_a_change_that_no_iteration_follows_is_kept(record, tmp_path: Path) -> None:
    engine = record(FakeRun())
    engine.send(RunIterations(8))
    at_rest(engine, 8)
    engine.send(ChangeSetting("visibility_ratio", 0.25))
    assert engine.stop()
    raw = RawRecording(tmp_path / "run.h5")
    assert [value["ratio"] for at, value in raw.values("/state") if at == 8] == [0.5, 0.25]
    assert len(raw.values("/changes")) == 1


def test_a_failing_run_leaves_a_whole_recording(record, tmp_path: Path) -> None:
    engine = record(FakeRun(fail_at=(5, "render")))
    engine.send(Play())
    engine.snapshots.wait_for(lambda snapshot: snapshot.failure is not None, WAIT_SECS)
    assert engine.stop() and engine.recording.closed
    assert RawRecording(tmp_path / "run.h5").iterations == list(range(6))


def test_a_fault_of_the_recorder_s_own_ends_only_the_recording(tmp_path: Path, monkeypatch) -> None:
    run = FakeRun()
    recorder = Recorder(tmp_path / "run.h5", run, policy=OFTEN)
    monkeypatch.setattr(Sources, "every_iteration", lambda self: 1 / 0)
    iterate(run, recorder, 2)
    assert recorder.status.stopped == "ZeroDivisionError: division by zero" and run.iteration == 2
    recorder.close()
