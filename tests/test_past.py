"""Going back: by one iteration, to any that is kept, bit by bit the same on the way, within a bound of bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fake_run import FakeRun
from test_engine import WAIT_SECS, StartEngine, ask, at_rest, start  # noqa: F401 - start is a fixture
from test_fit import everything, small_run

from workbench import past
from workbench.commands import ChangeSetting, GoTo, NextIteration, NextStage, Pause, Play, RunIterations, StepBack
from workbench.engine import Engine
from workbench.past import Past
from workbench.snapshot import History, Snapshot
from workbench.state_copies import Rows, copied, n_bytes


def step(engine: Engine, n: int, first: int = 0) -> None:
    for iteration in range(first + 1, first + n + 1):
        engine.send(NextIteration())
        at_rest(engine, iteration)


def rested(engine: Engine, iteration: int, stage_next: str = "sample_cameras") -> Snapshot:
    """The run at rest there, with its fields."""
    at_rest(engine, iteration, stage_next)
    answers = engine.snapshots.latest().answers
    return engine.snapshots.wait_for(lambda s: s.answers >= answers and s.iteration == iteration, WAIT_SECS)


def test_six_iterations_are_six_and_three_back_and_three_again(start: StartEngine) -> None:  # noqa: F811
    straight = small_run(visibility_ratio=0.5, interior_share=0.0)
    for _ in range(6):
        straight.run_iteration()
    run = small_run(visibility_ratio=0.5, interior_share=0.0)
    voxels = run.voxels
    engine = start(run)
    ask(engine, "mesh", "corner_sdf", "rendered_depth", "voxels")
    step(engine, 6)
    losses = ask(engine).history.column("loss").tolist()
    for iteration in (5, 4, 3):
        engine.send(StepBack())
        at_rest(engine, iteration)
    back = ask(engine, "mesh", "corner_sdf", "rendered_depth", "voxels")
    assert back.history.column("loss").tolist() == losses[:3] and len(back.fields) == 4
    assert back.past.reached == 6 and back.past.oldest == 0 and 0 < back.past.n_bytes < 5e6
    assert back.fields["voxels"] is voxels  # the same set is the same object: nothing that depends on it is made anew
    step(engine, 3, first=3)
    assert ask(engine).history.column("loss").tolist() == losses
    assert engine.stop()
    expected = everything(straight)
    for name, tensor in everything(run).items():
        assert torch.equal(tensor, expected[name]), name


def test_back_from_within_an_iteration_is_its_start(start: StartEngine) -> None:  # noqa: F811
    engine = start(FakeRun())
    step(engine, 2)
    engine.send(NextStage())
    at_rest(engine, 2, "render")
    engine.send(StepBack())
    assert at_rest(engine, 2).history.n_rows == 2
    engine.send(StepBack())
    assert at_rest(engine, 1).history.n_rows == 1


def test_two_steps_back_at_once_are_two(start: StartEngine) -> None:  # noqa: F811
    run = FakeRun(stage_secs=0.005)
    engine = start(run)
    step(engine, 5)
    engine.send(StepBack())
    engine.send(StepBack())
    at_rest(engine, 3)
    engine.send(StepBack())
    at_rest(engine, 2)
    assert float(run.radius) == pytest.approx(0.4 - 0.2 * 0.9**2)


def test_after_the_first_step_back_the_next_ones_are_at_hand(start: StartEngine, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(past, "COST_SHARE", 0.0)  # of what was played the start alone is kept
    run, ran = FakeRun(), []
    run_stage = run.run_stage
    run.run_stage = lambda stage: (ran.append(run.iteration), run_stage(stage))[1]
    engine = start(run)
    engine.send(RunIterations(30))
    at_rest(engine, 30)
    for iteration in range(29, 21, -1):
        ran.clear()
        engine.send(StepBack())
        at_rest(engine, iteration)
        assert len(set(ran)) == (29 if iteration == 29 else 1), iteration


def test_the_start_is_as_far_as_it_goes(start: StartEngine) -> None:  # noqa: F811
    engine = start(FakeRun())
    engine.send(StepBack())
    said = engine.snapshots.wait_for(lambda s: s.notice, WAIT_SECS)
    assert said.notice == "can't go back: no iteration is kept yet" and said.failure is None
    step(engine, 1)
    engine.send(GoTo(0))
    at_rest(engine, 0)
    engine.send(StepBack())
    said = engine.snapshots.wait_for(lambda s: s.notice, WAIT_SECS)
    assert said.notice == "can't go back: iteration 0 is the oldest that is kept"
    step(engine, 1)


def test_home_and_end(start: StartEngine) -> None:  # noqa: F811
    """To the oldest kept and back to the newest reached, over states that were kept while playing."""
    run = FakeRun()
    engine = start(run)
    engine.send(RunIterations(40))
    at_rest(engine, 40)
    last = ask(engine, "gamma")
    assert last.fields["gamma"][0] > 0.39
    radius, losses = float(run.radius), last.history.column("loss").tolist()
    engine.send(GoTo(0))
    at_rest(engine, 0)
    home = ask(engine, "gamma")
    assert home.fields["gamma"][0] == pytest.approx(0.2)  # no stage has run since, but the state is another one
    assert home.past.reached == 40 and home.history.n_rows == 0
    engine.send(GoTo(home.past.reached))
    end = at_rest(engine, 40)
    assert float(run.radius) == radius and end.history.column("loss").tolist() == losses
    engine.send(GoTo(43))  # beyond what was reached it simply runs
    at_rest(engine, 43)
    engine.send(GoTo(17))
    assert rested(engine, 17).history.column("iteration").tolist() == list(range(1, 18))


def test_a_change_is_made_again_at_its_place_until_there_is_another(start: StartEngine) -> None:  # noqa: F811
    run = FakeRun()
    engine = start(run)
    step(engine, 2)
    engine.send(ChangeSetting("visibility_ratio", 0.3))
    step(engine, 3, first=2)
    engine.send(GoTo(1))
    assert at_rest(engine, 1).settings["visibility_ratio"].value == 0.5
    engine.send(GoTo(2))
    at_rest(engine, 2)
    assert ask(engine).settings["visibility_ratio"].value == 0.3
    engine.send(GoTo(1))
    at_rest(engine, 1)
    engine.send(ChangeSetting("visibility_ratio", 0.7))  # another future: the old one is forgotten
    changed = engine.snapshots.wait_for(lambda s: s.settings["visibility_ratio"].value == 0.7, WAIT_SECS)
    assert changed.past.reached == 1
    step(engine, 4, first=1)
    assert ask(engine).settings["visibility_ratio"].value == 0.7
    assert ask(engine).scalars["visible_fraction"] == 0.7


def test_pause_ends_the_way_back(start: StartEngine) -> None:  # noqa: F811
    run = FakeRun(stage_secs=0.01)
    engine = start(run, past_bytes=1)  # nothing is kept
    engine.send(NextIteration())
    at_rest(engine, 1)
    engine.send(StepBack())
    said = engine.snapshots.wait_for(lambda s: s.notice, WAIT_SECS)
    assert said.notice == "can't go back: one state takes 4 bytes, at most 1 bytes are kept"
    engine.send(GoTo(50))
    engine.send(Pause())
    assert engine.snapshots.wait_for(lambda s: not s.playing, WAIT_SECS).iteration < 50


def test_a_failed_run_can_go_back_to_before_it(start: StartEngine) -> None:  # noqa: F811
    run = FakeRun(fail_at=(3, "render"))
    engine = start(run)
    engine.send(Play())
    engine.snapshots.wait_for(lambda s: s.failure and s.iteration == 3, WAIT_SECS)
    engine.send(StepBack())
    back = at_rest(engine, 3)
    assert back.failure is None
    run._fail_at = None
    engine.send(NextIteration())
    assert at_rest(engine, 4).failure is None


def test_a_run_without_state_goes_on_and_says_so(start: StartEngine) -> None:  # noqa: F811
    class Stateless(FakeRun):
        def state_dict(self):
            raise NotImplementedError("not yet")

    engine = start(Stateless())
    step(engine, 2)
    engine.send(StepBack())
    said = engine.snapshots.wait_for(lambda s: s.notice, WAIT_SECS)
    assert said.notice == "can't go back: this run gives no state: NotImplementedError: not yet"
    assert said.failure is None and ask(engine).past.lacking
    step(engine, 1, first=2)


def test_a_state_that_cannot_be_loaded_is_a_failure(start: StartEngine) -> None:  # noqa: F811
    class Unloadable(FakeRun):
        def load_state_dict(self, state):
            raise KeyError("radius")

    engine = start(Unloadable())
    step(engine, 2)
    engine.send(StepBack())
    failed = engine.snapshots.wait_for(lambda s: s.failure, WAIT_SECS)
    assert failed.failure.stage == "StepBack" and "KeyError" in failed.failure.message


# -- what is kept ---------------------------------------------------------------------------------------------


class Counting:
    """A run whose state is one tensor of 1000 bytes and one that never changes."""

    def __init__(self) -> None:
        self.iteration, self.still, self.moving = 0, torch.arange(250), torch.zeros(250)

    def state_dict(self):
        return {"iteration": self.iteration, "still": self.still, "moving": {"value": self.moving}}

    def load_state_dict(self, state) -> None:
        self.iteration, self.moving = state["iteration"], state["moving"]["value"]


def kept_after(n: int, limit_bytes: float) -> tuple[Past, Counting]:
    run = Counting()
    past = Past(run, limit_bytes)
    for iteration in range(n):
        run.iteration = iteration
        past.keep(iteration, History, stepping=True)
        run.moving += 1
    run.iteration = n
    return past, run


def test_what_stays_equal_is_held_once_and_what_is_held_never_changes() -> None:
    past, run = kept_after(5, 1e6)
    assert past.summary().n_bytes == 5 * 1000 + 2000 and past.summary().n_states == 5
    for kept in past._kept:
        assert float(kept.state["moving"]["value"].mean()) == kept.iteration
    past.restore(past.nearest(3))
    assert run.iteration == 2
    run.moving += 100  # a run may go on with the very tensors that it was given
    past.restore(past.nearest(3))
    assert float(run.moving[0]) == 2


def test_the_bound_holds_recent_states_are_dense_and_the_oldest_stays() -> None:
    past, _ = kept_after(200, 2000 + 12 * 1000)
    found = [kept.iteration for kept in past._kept]
    assert past.summary().n_bytes <= 14_000 and len(found) == 12
    assert found[0] == 0 and found[-2:] == [198, 199]
    gaps = np.diff(found)
    assert gaps[0] == gaps.max() and gaps[0] > 8 * gaps[-1] and gaps.max() < 120
    past, _ = kept_after(5, 2000 + 1000)  # one fits: it is the last
    assert [kept.iteration for kept in past._kept] == [4]


def test_while_playing_states_cost_a_fiftieth_of_the_time() -> None:
    now = 0.0

    class Slow(Counting):
        def state_dict(self):
            nonlocal now
            now += 0.1
            return super().state_dict()

    run = Slow()
    past = Past(run, 1e6, clock=lambda: now)
    for iteration in range(101):
        run.iteration = iteration
        past.keep(iteration, History, stepping=False)
        now += 1.0
    assert 10 <= past.summary().n_states <= 22  # one in five iterations of a second each
    before = past.summary().n_states
    for iteration in range(101, 105):
        past.keep(iteration, History, stepping=True)
    assert past.summary().n_states == before + 4


def test_copies_share_nothing_but_what_is_equal() -> None:
    state = {"a": torch.ones(3), "b": [np.ones(2), {"c": (1, "x", None)}], "d": torch.ones(2, requires_grad=True)}
    first = copied(state)
    state["a"] += 1
    state["b"][0] += 1
    assert first["a"].tolist() == [1, 1, 1] and first["b"][0].tolist() == [1, 1] and len(first["b"]) == 2
    assert first["b"][1] == {"c": (1, "x", None)}
    second = copied(state, first)
    assert second["a"] is not first["a"] and second["d"] is first["d"] and not first["d"].requires_grad
    assert copied({"a": torch.ones(3).double()}, first)["a"].dtype == torch.float64
    assert n_bytes([first, second]) == 12 + 12 + 16 + 16 + 8


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])


def test_rows_that_changed_are_all_that_is_held_anew_and_every_bit_comes_back() -> None:
    """Against whole clones: random rows of large tensors change, with values that equal others but for their bits."""
    generator = torch.Generator().manual_seed(3)
    tensors = {"weights": torch.zeros(6000, 21), "sdf": torch.zeros(70_000), "small": torch.zeros(9, 3),
               "steps": torch.zeros(70_000, dtype=torch.int32), "flags": torch.zeros(40_000, 8, dtype=torch.bool),
               "half": torch.zeros(140_000, dtype=torch.bfloat16), "long": torch.zeros(40_000, dtype=torch.int64),
               "turned": torch.zeros(21, 6000).T, "none": torch.zeros(0, 3), "one": torch.zeros(())}
    odd = torch.tensor([math.nan, -0.0, 0.0, math.inf, 1.0, 2.0])
    kept, clones, sizes = [], [], []
    for moved in (0.0, 0.1, 0.0, 0.3, 0.9, 0.05, 0.0, 1.0, 0.02):
        for tensor in tensors.values():
            if tensor.ndim and len(tensor):
                rows = (torch.rand(len(tensor), generator=generator) < moved).nonzero().squeeze(1)
                values = odd[torch.randint(6, (len(rows), *tensor.shape[1:]), generator=generator)]
                tensor[rows] = values.nan_to_num(posinf=7.0).to(tensor.dtype) if not tensor.is_floating_point() else (
                    values.to(tensor.dtype))
        kept.append(copied(tensors, kept[-1] if kept else None))
        clones.append({name: tensor.clone() for name, tensor in tensors.items()})
        sizes.append(n_bytes(kept))
    for state, clone in zip(kept, clones, strict=True):
        again = copied(state)
        for name, tensor in clone.items():
            assert torch.equal(bits(again[name]), bits(tensor))
            assert again[name].dtype == tensor.dtype and again[name].shape == tensor.shape
    assert [name for name, part in kept[1].items() if isinstance(part, Rows)] == [
        "weights", "sdf", "steps", "flags", "half", "long"]
    whole = n_bytes([clones[0]])
    added = np.diff(sizes) / whole
    assert 0.1 < added[0] < 0.5 and added[1] == 0 and added[3] > 0.6 and added[5] == 0
    first = {name: part.clone() for name, part in copied(kept[1]).items()}
    copied(kept[1])["sdf"].fill_(5.0)  # what a run goes on with is its own
    assert all(torch.equal(bits(first[name]), bits(part)) for name, part in copied(kept[1]).items())


def test_what_is_kept_at_most_can_be_changed() -> None:
    past, run = kept_after(20, 1e6)
    assert past.summary().n_states == 20
    past.keep_at_most(2000 + 3 * 1000)
    assert past.summary().n_states == 3 and past.summary().n_bytes == 5000 and past.summary().limit_bytes == 5000
    past.keep_at_most(100)
    assert past.summary().n_states == 0 and past.lacking == "one state takes 3 kB, at most 100 bytes are kept"
    past.keep(run.iteration, History, stepping=True)
    assert past.summary().n_states == 0
    past.keep_at_most(1e6)
    past.keep(run.iteration, History, stepping=True)
    assert past.summary().n_states == 1 and not past.lacking


def test_back_and_on_over_a_change_of_level(start: StartEngine) -> None:  # noqa: F811
    config = {"resolution": 16, "start_resolution": 8, "iterations": 16, "visibility_ratio": 0.6, "interior_share": 0.0}
    straight, run = small_run(**config), small_run(**config)
    for _ in range(16):
        straight.run_iteration()
    engine = start(run)
    for wanted in (16, 2, 16, 9, 0, 16):
        engine.send(GoTo(wanted))
        at_rest(engine, wanted)
    sizes = ask(engine).history.column("voxels")
    assert len(set(sizes.tolist())) > 1 and run.voxels.resolution == 16
    expected = everything(straight)
    for name, tensor in everything(run).items():
        assert torch.equal(tensor, expected[name]), name
