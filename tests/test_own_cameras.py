"""Cameras of the user's own in a running fit: added, deleted, locked to, and kept over a checkpoint and a step back."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from fake_run import FakeRun
from test_engine import WAIT_SECS, StartEngine, ask, at_rest, start  # noqa: F401 - start is a fixture
from test_fit import everything, octahedron, small_run

import sparseflex as sf
from sparseflex.checkpoint import load_run, save_checkpoint
from sparseflex.sampling import CameraSampler
from sparseflex.training.fit import STAGES, FitRun
from sparseflex.training.fit_cameras import camera_key
from workbench.commands import ChangeCameras, NextIteration, StepBack
from workbench.own_cameras import OwnCameras


def eye(x: float, z: float = 1.5) -> sf.Camera:
    return sf.Camera.look_at((x, 0.2, z), (0, 0, 0), width=40, height=30, near=1.0, far=2.2)


def kinds(run: FitRun, n: int) -> list[str]:
    return [seen.kind for seen in run.cameras()[:n]]


def test_a_change_takes_effect_with_the_next_iteration_and_shows_at_once() -> None:
    run = small_run(interior_share=0.0)
    run.run_stage("sample_cameras")
    first, second = eye(0.1), eye(-0.4)
    run.change_cameras([first, second], locked=True)
    assert list(run.own_cameras) == [first, second] and run.cameras_locked
    assert [seen.own for seen in run.cameras()] == [None, first, second]
    for stage in STAGES[1:]:
        run.run_stage(stage)
    assert run.cameras()[0].kind != "fixed"  # the iteration under way keeps its own
    for _ in range(8):
        run.run_iteration()
    assert kinds(run, 8) == ["fixed"] * 8 and run.cameras()[8].kind != "fixed"
    assert {seen.own for seen in run.cameras()[:8]} == {first, second}
    seen = run.cameras()[0]
    assert seen.loss > 0 and seen.n_active > 0 and seen.iteration == 9
    run.change_cameras([second])
    assert first not in [seen.own for seen in run.cameras()] and len(run.cameras()) == 9  # what was seen stays
    run.change_cameras([])
    for _ in range(4):
        run.run_iteration()
    assert "fixed" not in kinds(run, 4) and not run.cameras_locked


def test_own_cameras_keep_their_latest_use_however_long_ago() -> None:
    run = small_run(cameras=8, fixed_share=1.0, interior_share=0.0)
    own = eye(0.3)
    run.change_cameras([own], locked=True)
    run.run_iteration()
    run.change_cameras([own, eye(0.0)])
    run.config = dataclasses.replace(run.config, fixed_share=0.0)
    for _ in range(9):
        run.run_iteration()
    listed = run.cameras()
    assert [seen.kind for seen in listed[:64]].count("fixed") == 0 and len(listed) == 66
    assert listed[64].own is own and listed[64].iteration == 1 and listed[64].loss > 0
    assert listed[65].iteration is None and listed[65].loss is None
    assert run.cameras()[65].camera is listed[65].camera is run.own_cameras[1]


@pytest.mark.parametrize("cameras, locked, message", [
    ([], True, "cameras must not be empty where the run is locked to them, got 0"),
    ([eye(0.2), sf.Camera.look_at((0.165, 0.165, 0.165), (1, 0, 0))], False,
     r"camera 2: an interior camera must keep a clearance of 0.03 to the surface, got .* at \(0.165, 0.165, 0.165\)"),
])
def test_refusals_leave_everything_as_it_was(cameras, locked, message) -> None:
    run = small_run(interior_share=0.0)
    run.change_cameras([eye(0.0)])
    with pytest.raises(ValueError, match=message):
        run.change_cameras(cameras, locked)
    assert len(run.own_cameras) == 1 and not run.cameras_locked


@pytest.mark.parametrize("stop_after", [0, 5])
def test_a_checkpoint_keeps_them_bit_by_bit(tmp_path, stop_after) -> None:
    def started() -> FitRun:
        run = small_run(visibility_ratio=0.5, fixed_share=1.0, interior_share=0.0)
        run.change_cameras([eye(0.2), eye(-0.2)], locked=True)
        for _ in range(3):
            run.run_iteration()
        for stage in STAGES[:stop_after]:
            run.run_stage(stage)
        run.change_cameras([eye(0.5), run.own_cameras[0]])  # waits for the next iteration
        return run

    straight, first = started(), started()
    save_checkpoint(tmp_path / "c.safetensors", first)
    second = load_run(tmp_path / "c.safetensors")
    assert len(second.own_cameras) == 2 and not second.cameras_locked
    # the iteration under way begins again, without what it had shown
    assert len(second.cameras()) == len(straight.cameras()) - (stop_after > 0)
    for run in (straight, second):
        while run.iteration < 9:
            run.run_stage(STAGES[run._next])
    expected = everything(straight)
    for name, tensor in everything(second).items():
        assert torch.equal(tensor, expected[name]), name
    for mine, theirs in zip(second.cameras(), straight.cameras(), strict=True):
        assert torch.equal(mine.camera.camera_from_world, theirs.camera.camera_from_world)
        assert (mine.kind, mine.iteration, mine.loss) == (theirs.kind, theirs.iteration, theirs.loss)
        assert (mine.own is None) == (theirs.own is None)


@pytest.mark.parametrize("stop_after", [0, 5])
def test_a_checkpoint_of_a_locked_run_keeps_the_users_other_cameras(tmp_path, stop_after) -> None:
    mine, borrowed = [eye(0.3), eye(-0.3)], eye(0.0)
    run = small_run(fixed_share=1.0, interior_share=0.0)
    run.change_cameras(mine)
    for _ in range(4):
        run.run_iteration()
    used = {id(seen.own): seen.iteration for seen in reversed(run.cameras()) if seen.own is not None}
    run.change_cameras([mine[1], borrowed], locked=True, kept=mine)
    run.run_iteration()
    for stage in STAGES[:stop_after]:
        run.run_stage(stage)
    save_checkpoint(tmp_path / "c.safetensors", run)
    back = load_run(tmp_path / "c.safetensors")

    def values(cameras) -> list[tuple[float, ...]]:
        return [camera_key(camera) for camera in cameras]

    assert back.cameras_locked and values(back.own_cameras) == values([mine[1], borrowed])
    assert values(back.kept_cameras) == values(mine) and back.kept_cameras[1] is back.own_cameras[0]
    aside = next(seen for seen in back.cameras() if seen.own is back.kept_cameras[0])
    assert aside.iteration == used[id(mine[0])]
    assert {seen.kind for seen in back.cameras() if seen.iteration == 5} == {"fixed"}
    back.change_cameras(back.kept_cameras)  # as unlocking does
    back.run_iteration()
    back.run_iteration()
    assert values(back.own_cameras) == values(mine) and not back.cameras_locked
    assert not any(seen.own is not None and camera_key(seen.own) == camera_key(borrowed) for seen in back.cameras())


def test_a_checkpoint_from_before_there_were_others_still_loads() -> None:
    run, mine = small_run(interior_share=0.0), eye(0.3)
    run.change_cameras([mine], locked=True)
    state = run.state_dict()
    del state["cameras"]["kept"], state["cameras"]["wanted_kept"]
    run.load_state_dict(state)
    assert list(run.kept_cameras) == [mine] and run.cameras_locked


def test_the_locked_sampler_draws_all_of_them_and_nothing_else() -> None:
    run = small_run(fixed_share=0.0)
    sampler = CameraSampler(octahedron(), run.config, fixed=[eye(0.0), eye(0.1), eye(0.2)])
    generator = torch.Generator().manual_seed(0)
    assert {sampler.sample(generator)[0].kind for _ in range(30)} <= {"orbit", "zoom", "interior"}
    sampler.locked = True
    drawn = [sampler.sample(generator)[0] for _ in range(60)]
    assert {id(one.camera) for one in drawn} == {id(camera) for camera in sampler.fixed}
    sampler.fixed = ()
    assert sampler.sample(generator)[0].kind != "fixed"


def test_through_the_engine_and_back(start: StartEngine) -> None:  # noqa: F811
    run = small_run(fixed_share=1.0, interior_share=0.0)
    engine = start(run)
    own = eye(0.1)
    engine.send(NextIteration())
    at_rest(engine, 1)
    engine.send(ChangeCameras((own,), locked=True))
    shown = engine.snapshots.wait_for(lambda s: s.own_cameras, WAIT_SECS)
    assert shown.own_cameras == (own,) and shown.cameras_locked and shown.cameras[-1].own is own
    for iteration in (2, 3):
        engine.send(NextIteration())
        at_rest(engine, iteration)
    assert ask(engine).cameras[0].own is own
    engine.send(StepBack())
    at_rest(engine, 2)
    back = ask(engine)
    assert back.own_cameras == (own,) and back.cameras_locked and back.cameras[0].own is own
    engine.send(ChangeCameras((), locked=True))
    assert "got 0" in engine.snapshots.wait_for(lambda s: s.notice, WAIT_SECS).notice


def test_a_run_of_the_old_form_gets_back_what_was_set_aside() -> None:
    run, mine, other = FakeRun(), eye(0.1), eye(-0.1)
    assert not hasattr(run, "kept_cameras")
    own = OwnCameras(run)
    own.change(ChangeCameras((mine, other)))
    own.change(ChangeCameras((mine,), locked=True, kept=(mine, other)))
    shown = own.shown()
    assert shown["own_cameras"] == (mine,) and shown["kept_cameras"] == (mine, other) and shown["cameras_locked"]
    assert [seen.own for seen in shown["cameras"] if seen.own is not None] == [mine, other]
    own.change(ChangeCameras(shown["kept_cameras"]))
    shown = own.shown()
    assert shown["own_cameras"] == shown["kept_cameras"] == (mine, other) and not shown["cameras_locked"]
    with pytest.raises(ValueError, match="got 0"):
        own.change(ChangeCameras((), locked=True, kept=(mine,)))
    assert own.shown()["kept_cameras"] == (mine, other)


def test_through_the_engine_a_lock_comes_and_goes_with_steps_back(start: StartEngine) -> None:  # noqa: F811
    engine = start(small_run(fixed_share=1.0, interior_share=0.0))
    mine, other = eye(0.1), eye(-0.1)
    engine.send(NextIteration())
    at_rest(engine, 1)
    engine.send(ChangeCameras((mine,), locked=True, kept=(mine, other)))
    engine.send(NextIteration())
    at_rest(engine, 2)
    assert ask(engine).kept_cameras == (mine, other)
    engine.send(StepBack())
    at_rest(engine, 1)
    engine.send(StepBack())
    at_rest(engine, 0)
    assert ask(engine).kept_cameras == () and not ask(engine).cameras_locked
    engine.send(NextIteration())
    engine.send(NextIteration())
    at_rest(engine, 2)
    assert ask(engine).kept_cameras == (mine, other) and ask(engine).own_cameras == (mine,)


def test_a_run_whose_cameras_are_its_own_affair_refuses(start: StartEngine) -> None:  # noqa: F811
    class Set(FakeRun):
        change_cameras = property()  # as if there were none

    engine = start(Set())
    assert ask(engine).own_cameras is None
    engine.send(ChangeCameras(()))
    said = engine.snapshots.wait_for(lambda s: s.notice, WAIT_SECS)
    assert said.notice == "cameras can't be changed: this run has no change_cameras" and said.failure is None
