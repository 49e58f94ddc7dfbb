"""Branches: a run that goes on from its recording is, bit for bit, the run that was recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from fake_run import FakeRun
from test_fit import everything, octahedron

from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun
from sparseflex.training.run import Run
from workbench.branch import branch_off, open_branch, opened_recording, parent_of
from workbench.cli import main
from workbench.commands import ChangeCameras, ChangeSetting
from workbench.inputs import InputError, open_what
from workbench.recording.policy import About, RecordPolicy
from workbench.recording.reader import Recording
from workbench.recording.recorder import Recorder

TINY = FitConfig(resolution=8, image_size=16, iterations=40)
POLICY = RecordPolicy(snapshot_every=10, maps_every=20, keyframe_every=10)


def tiny_run() -> FitRun:
    return FitRun(octahedron(), TINY)


def record(path: Path, run: Run, count: int, changes: Iterable[tuple[int, int, ChangeSetting]] = (),
           policy: RecordPolicy = POLICY, about: About | None = None) -> Path:
    """Runs and records; changes: (iteration, stages of the next one that have run, change)."""
    recorder, changes = Recorder(path, run, about, policy), {(at, n): change for at, n, change in changes}

    def change(n_stages: int) -> None:
        made = changes.get((run.iteration, n_stages))
        if made is not None:
            run.change_setting(made.name, made.value)
            recorder.changed(made, n_stages)

    for _ in range(count):
        change(0)
        recorder.iteration_started(run)
        for number, stage in enumerate(run.stages, start=1):
            run.run_stage(stage)
            if number < len(run.stages):
                change(number)
        recorder.iteration_ended(run, {"iteration": run.iteration, **run.scalars()})
    recorder.close()
    assert not recorder.status.stopped and not recorder.status.n_dropped
    return recorder.status.path


def go_on(run: Run, until: int, change: ChangeSetting | None = None) -> Run:
    if change is not None:
        run.change_setting(change.name, change.value)
    while run.iteration < until:
        for stage in run.stages:
            run.run_stage(stage)
    return run


def same(first: FitRun, second: FitRun) -> None:
    found, wanted = everything(first), everything(second)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        equal = torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
        assert equal, name


@pytest.mark.slow
def test_fifty_straight_equal_twenty_five_saved_loaded_and_twenty_five_more(tmp_path: Path) -> None:
    told: list[str] = []
    with Recording(record(tmp_path / "run.h5", tiny_run(), 27)) as recording:
        assert recording.keyframes.tolist() == [0, 10, 20, 27]
        branched = branch_off(recording, 25, told.append, "cpu")
    assert branched.iteration == 25 and told[0] == "keyframe 20, re-running 5 iterations"
    assert told[-1].endswith("5 of 5")
    same(go_on(branched, 50), go_on(tiny_run(), 50))


@pytest.mark.parametrize("n_stages", [pytest.param(0, marks=pytest.mark.slow), 4])
def test_what_the_user_changed_on_the_way_is_changed_again(tmp_path: Path, n_stages: int) -> None:
    """With the keyframe that the recorder takes after a change, and without it: then the change itself is repeated."""
    change = ChangeSetting("depth_weight", 3.0)
    policy = RecordPolicy(keyframe_every=4)
    path = record(tmp_path / "run.h5", tiny_run(), 8, [(5, n_stages, change)], policy)
    straight = go_on(tiny_run(), 5)
    for number, stage in enumerate(straight.stages):
        if number == n_stages:
            straight.change_setting(change.name, change.value)
        straight.run_stage(stage)
    with Recording(path) as recording:
        assert recording.settings(4)["depth_weight"].value != 3.0 == recording.settings(6)["depth_weight"].value
        branches = [branch_off(recording, at, device="cpu") for at in (5, 6, 7)]
        assert recording.marks()["changes"].size == 1
        # as if the forced keyframe had not been written any more
        kept = recording.stream("/state")
        early = dataclasses.replace(kept, rows=kept.rows[:2], iterations=kept.iterations[:2])
        whole = recording.stream
        recording.stream = lambda name: early if name == "/state" else whole(name)  # type: ignore[method-assign]
        assert recording.keyframe_before(7)[0] == 4
        branches.append(branch_off(recording, 7, device="cpu"))
    go_on(straight, 10)
    for branched in branches[1:]:
        same(go_on(branched, 10), straight)
    # at 5 it had been made only where that was before the first stage of the next
    same(go_on(branches[0], 10), straight if n_stages == 0 else go_on(tiny_run(), 10))


def test_a_branch_takes_its_own_way_and_says_where_from(tmp_path: Path) -> None:
    path = record(tmp_path / "run.h5", tiny_run(), 4)
    with Recording(path) as recording:
        branched = branch_off(recording, 3, device="cpu")
        parent = parent_of(recording, 3)
    branched.change_setting("lr_sdf", branched.settings["lr_sdf"].value * 0.5)
    second = record(tmp_path / "run.h5", branched, 4, about=About("a branch", parent=parent))
    assert second.name == "run-2.h5"
    with Recording(second) as recording, Recording(path) as first:
        assert recording.meta.parent == {"uid": first.meta.uid, "file": "run.h5", "iteration": 3}
        assert recording.iterations.tolist() == list(range(3, 8)) and recording.meta.title == "a branch"
        again = branch_off(recording, 6, device="cpu")
    same(go_on(again, 7), branched)
    straight = everything(go_on(tiny_run(), 7))
    assert any(not torch.equal(value, straight[name]) for name, value in everything(again).items())


def test_cameras_that_were_changed_are_changed_again(tmp_path: Path) -> None:
    run = FakeRun(6)
    recorder = Recorder(tmp_path / "run.h5", run, None, POLICY)
    go_on_recorded(run, recorder, 3)
    cameras = tuple(known.camera for known in run.cameras()[:2])
    change = ChangeCameras(cameras, locked=True)
    run.change_cameras(cameras, True)
    recorder.changed(change)
    go_on_recorded(run, recorder, 3)
    recorder.close()
    with Recording(tmp_path / "run.h5") as recording:
        (_, made), = recording.changes()
        assert isinstance(made.change, ChangeCameras) and made.change.locked
        assert (made.iteration, made.n_stages) == (3, 0)
        assert [camera.near for camera in made.change.cameras] == [camera.near for camera in cameras]
        cameras_then = recording.cameras(5)
        assert cameras_then.locked and len(cameras_then.own) == 2 and recording.cameras(2).own == ()
        # one object for one camera, in whatever it is found
        assert cameras_then.own == made.change.cameras
        with pytest.raises(ValueError, match="needs the code that makes it"):
            branch_off(recording, 5)
        branched = branch_off(recording, 5, run=FakeRun(6))
    assert branched.iteration == 5


def go_on_recorded(run: Run, recorder: Recorder, count: int) -> None:
    for _ in range(count):
        recorder.iteration_started(run)
        for stage in run.stages:
            run.run_stage(stage)
        recorder.iteration_ended(run, {"iteration": run.iteration, **run.scalars()})


def test_what_cannot_be_branched_is_one_line(tmp_path: Path) -> None:
    path = record(tmp_path / "run.h5", tiny_run(), 3)
    with Recording(path) as recording:
        for iteration in (-1, 4):
            with pytest.raises(ValueError, match=r"^iteration must be in \[0, 3\], which run.h5 has, got"):
                branch_off(recording, iteration)
        opened = opened_recording(recording)
        assert opened.run is recording and opened.input_from_normalized.tolist() == torch.eye(4).tolist()
        with pytest.raises(InputError, match="no such file"):
            open_branch(recording, 2, code="nothing.py:make")
    assert open_what(str(path), device="cpu").run.iteration == 3


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.headless.quality_of", lambda *_: {})
    monkeypatch.setattr("workbench.headless.draw_figure", lambda *_: True)
    path, out = record(tmp_path / "run.h5", tiny_run(), 4), tmp_path / "out"
    assert main(["replay", str(path), "--headless"]) == 0
    assert "5 iterations (0 to 4), 2 keyframes: all whole" in capsys.readouterr().out
    options = ["--headless", "--device", "cpu", "--out", str(out), "--record"]
    asked = ["--from-iteration", "2", "--iterations", "6", "--set", "depth_weight=2"]
    assert main(["fit", str(path), *asked, *options]) == 0
    assert "run.h5: keyframe 0, re-running 2 iterations" in capsys.readouterr().err
    with Recording(out / "run.h5") as recording:
        assert recording.iterations.tolist() == [2, 3, 4, 5, 6] and recording.meta.parent["iteration"] == 2
        assert recording.settings(2)["depth_weight"].value == 2.0
    for bad, line in (
        (["fit", str(path), "--set", "depth_weight"], "--set must be NAME=VALUE with a number, got 'depth_weight'"),
        (["fit", str(path), "--set", "mass=2"], "--set: 'mass' is no setting of this run"),
        (["fit", str(path), "--set", "depth_weight=nan"], "depth_weight must be in"),
        (["fit", str(path), "--from-iteration", "9"], "iteration must be in [0, 4], which run.h5 has, got 9"),
        (["fit", str(path), "--from-iteration", "3", "--iterations", "3"],
         "workbench: --iterations must be above 3, where the branch begins, got 3"),
        (["fit", str(path), "--iterations", "2"], "--iterations must be above 4, where the branch begins, got 2"),
        (["fit", str(path), "--resolution", "9"], "--resolution does not apply to a recording"),
        (["fit", "house", "--from-iteration", "9"], "--from-iteration applies to a recording (.h5), got house"),
        (["view", "house", "--follow"], "--follow applies to a recording (.h5) in a window"),
        (["replay", str(tmp_path / "none.h5"), "--headless"], "no such recording"),
    ):
        assert main([*bad, *options] if bad[0] == "fit" else bad) == 2
        told = capsys.readouterr().err
        assert line in told and "Traceback" not in told
