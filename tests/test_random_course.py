"""Commands at random: wherever a run comes to rest, live or recorded, it is what its changes alone make of it."""

from __future__ import annotations

import dataclasses
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fit_snapshots import small_fit

from sparseflex.sampling import orbit_camera
from sparseflex.training.faults import Fault
from sparseflex.training.fit import FitRun
from workbench.commands import (
    ChangeCameras,
    ChangeSetting,
    Command,
    GoTo,
    KeepAtMost,
    NextIteration,
    NextStage,
    Pause,
    Play,
    ProfileIteration,
    RequestFields,
    RunTo,
    StageBack,
    StepBack,
)
from workbench.course import Place
from workbench.engine import Engine
from workbench.recording.policy import About, policy_of
from workbench.recording.reader import Recording
from workbench.recording.recorder import recording_into
from workbench.snapshot import Breakpoint, Snapshot

WAIT_SECS, N_COMMANDS, LAST = 60.0, 40, 24
ASKED = frozenset({"voxels", "backward", "sdf_grad_depth", "seen_count", "corner_sdf", "target", "prune", "surface"})


def fresh() -> FitRun:
    """Coarse to fine, of sections, with a patch that flips and a voxel that becomes NaN."""
    run = small_fit(start_resolution=8, iterations=40, image_size=24, prune_every=5, visibility_ratio=0.7)
    run._faults.listed = (Fault("flipped_sdf", x=0.2, y=0.1, z=0.2, radius=0.2, iteration=7),
                          Fault("nan_weights", iteration=11))
    return run


def commands(draw: random.Random, iteration: int, folder: Path) -> list[Command]:
    some = draw.randint(1, 4)
    cameras = tuple(orbit_camera(90 * draw.random(), 20.0, 1.6, radius=0.5, width=24, height=24) for _ in range(some))
    setting, low, high = draw.choice((("lr_sdf", 0.0, 1.0), ("visibility_ratio", 0.2, 1.0), ("prune_below", 0.0, 0.5)))
    return draw.choice((
        [NextIteration()] * some, [NextStage()] * 2 * some, [StepBack()] * some, [StageBack()] * some,
        [GoTo(draw.randint(0, LAST))], [RunTo(min(iteration + some, LAST))], [Play(), Pause()],
        [RequestFields(ASKED)], [RequestFields(frozenset({"voxels"}))], [KeepAtMost(draw.choice((1e5, 3e6, 1e9)))],
        [ChangeSetting(setting, draw.uniform(low, high))], [ChangeCameras(cameras, draw.random() < 0.5)],
        [ProfileIteration(folder)] if iteration < LAST - 2 else [GoTo(LAST // 2)],
    ))


def at_rest(engine: Engine) -> Snapshot:
    deadline = time.monotonic() + WAIT_SECS
    while time.monotonic() < deadline:
        shown = engine.snapshots.latest()
        assert shown.failure is None, shown.failure.traceback
        if not shown.playing and engine._commands.empty() and not engine._running():
            time.sleep(0.03)  # a command may just have been taken
            if engine._commands.empty() and not engine._running() and not engine.snapshots.latest().playing:
                return engine.snapshots.latest()
        time.sleep(0.005)
    raise AssertionError("never came to rest")


def straight(changes: list[tuple[Place, Any]], to: Place) -> dict[Place, dict[str, Any]]:
    """A run that goes there without any detour: by place, what a recording or the engine may hold of it."""
    run, place, waiting, found = fresh(), (0, 0), list(changes), {}
    while True:
        while waiting and waiting[0][0] <= place:
            change = waiting.pop(0)[1]
            if isinstance(change, ChangeSetting):
                run.change_setting(change.name, change.value)
            else:
                run.change_cameras(change.cameras, change.locked, kept=change.kept)
        if place[1] == 0 or place == to:
            found[place] = what_counts(run)
        if place >= to:
            return found
        run.run_stage(run.stages[place[1]])
        place = (run.iteration, run._next)


def what_counts(run: FitRun) -> dict[str, Any]:
    fields = {name: run.read_field(name).numpy().copy() for name in (
        "corner_sdf", "corner_deform", "alpha", "seen_count", "viewing_angle", "views")}
    return {**fields, "voxel_ijk": run.voxels.voxel_ijk.numpy(), "loss": np.float64(run.scalars().get("loss", np.nan))}


def assert_same(found: dict[str, Any], expected: dict[str, Any], where: object) -> None:
    for name in found:
        assert np.array_equal(found[name], expected[name], equal_nan=True), (name, where)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_wherever_it_comes_to_rest_it_is_what_its_changes_make_of_it(seed: int, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    if seed == 2:  # of what plays next to nothing is kept but hits
        monkeypatch.setattr("workbench.past.COST_SHARE", 0.0)
    draw, run = random.Random(seed), fresh()
    policy = dataclasses.replace(policy_of(run), keyframe_every=4, snapshot_every=1)
    breakpoints = [Breakpoint("iteration == 9"), Breakpoint("never_seen >= 0 and active > 200")][:seed]
    engine = Engine(run, past_bytes=2e6 if seed % 2 else 1e9, record=recording_into(tmp_path, About(), policy),
                    breakpoints=breakpoints)
    engine.start()
    try:
        for number in range(N_COMMANDS):
            for command in commands(draw, run.iteration, tmp_path):
                engine.send(command)
            at_rest(engine)
            past, here = engine._past, (run.iteration, engine._next)
            if number % 8 == 7:
                known = straight(past._changes[: past._n_done], here)[here]
                assert_same({name: value for name, value in what_counts(run).items() if name != "loss"}, known, here)
        engine.send(GoTo(engine._past.furthest[0]))
        at_rest(engine)
    finally:
        assert engine.stop(WAIT_SECS)
    last, changes = engine._past.furthest[0], list(engine._past._changes)
    known = straight(changes, (last, 0))
    with Recording(tmp_path / "run.h5") as recording:
        history = recording.scalars()
        losses = dict(zip(history.column("iteration").tolist(), history.column("loss").tolist(), strict=True))
        for iteration in (int(each) for each in recording.iterations if each <= last):
            fields, older = recording.snapshot_fields(["corner_sdf", "seen_count"], iteration)
            assert_same({name: value for name, value in fields.items() if name not in older},
                        known[iteration, 0], iteration)
            if iteration:
                assert_same({"loss": losses[iteration]}, known[iteration, 0], iteration)
