"""Branch: a run that goes on from an iteration of a recording: its keyframe before, re-run up to there, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sparseflex.training.run import Run
from workbench.commands import ChangeSetting
from workbench.own_cameras import OwnCameras
from workbench.recording.reader import Recording
from workbench.recording.values import Changed

Say = Callable[[str], None]


def branch_off(recording: Recording, iteration: int, say: Say = lambda text: None,
               device: torch.device | str = "cpu", run: Run | None = None) -> Run:
    """The run as it stood when an iteration had ended, ready to go on.

    run: a fresh one of the user's own kind, which takes over the state; a fit needs none. say is told which keyframe it
    starts from and how far it is. Raises ValueError where the recording has no state at or before the iteration, the
    state is not of this version, or the run can't be made from it.
    """
    first, last = int(recording.iterations[0]), int(recording.iterations[-1])
    if not first <= iteration <= last:
        raise ValueError(f"iteration must be in [{first}, {last}], which {recording.path.name} has, got {iteration}")
    found = recording.keyframe_before(iteration)
    if found is None:
        raise ValueError(f"{recording.path.name} has no keyframe at or before iteration {iteration}")
    start, state = found
    n_again = iteration - start
    told = f"keyframe {start}" + (f", re-running {n_again} iteration{'s' * (n_again != 1)}" if n_again else "")
    say(told)
    run = _made(recording, state, device, run)
    if run.iteration != start:
        raise ValueError(f"the state of keyframe {start} must stand at its iteration, got {run.iteration}")
    _run_again(run, iteration, recording.changes_after_keyframe(iteration), lambda done: say(
        f"{told}: {done} of {n_again}"))
    return run


def parent_of(recording: Recording, iteration: int) -> dict[str, Any]:
    """What the recording of the branch says of where it comes from."""
    return {"uid": recording.meta.uid, "file": recording.path.name, "iteration": iteration}


def _made(recording: Recording, state: Any, device: torch.device | str, run: Run | None) -> Run:
    from sparseflex.training.fit import FitRun

    name = recording.meta.name
    if run is None and name != FitRun.name:
        raise ValueError(f"a run of kind {name!r} needs the code that makes it: name it with --run my_run.py:make_run")
    if not isinstance(state, Mapping):
        raise ValueError(f"a keyframe must hold a state, got {type(state).__name__}")
    try:
        if run is None:
            return FitRun.from_state_dict(state, device)
        run.load_state_dict(state)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the state of {recording.path.name} is not one of this version: {reason}") from None
    return run


def _run_again(run: Run, iteration: int, changes: list[Changed], say: Callable[[int], None]) -> None:
    """Up to the end of an iteration, with what the user changed on the way changed again where it was."""
    start, cameras, waiting = run.iteration, OwnCameras(run), list(changes)

    def change_up_to(n_stages: int) -> None:
        while waiting and (waiting[0].iteration, waiting[0].n_stages) <= (run.iteration, n_stages):
            change = waiting.pop(0).change
            if isinstance(change, ChangeSetting):
                run.change_setting(change.name, change.value)
            else:
                cameras.change(change)

    while run.iteration < iteration:
        change_up_to(0)
        for number, stage in enumerate(run.stages, start=1):
            run.run_stage(stage)
            if number < len(run.stages):
                change_up_to(number)
        say(run.iteration - start)
    change_up_to(0)
