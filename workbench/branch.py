"""Branch: a run that goes on from an iteration of a recording: its keyframe before, re-run up to there, bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sparseflex.scene import ViewConfig
from sparseflex.training.config import from_table
from sparseflex.training.run import Run
from workbench.commands import ChangeSetting
from workbench.inputs import InputError, Opened, choose_device, input_errors, open_what
from workbench.own_cameras import OwnCameras
from workbench.recording.reader import Recording
from workbench.recording.values import Changed

Say = Callable[[str], None]


def branch_off(recording: Recording, iteration: int, say: Say = lambda text: None,
               device: torch.device | str | None = None, run: Run | None = None) -> Run:
    """The run as it stood when an iteration had ended, ready to go on.

    device: None takes CUDA where there is one. run: a fresh one of the user's own kind, which takes over the state; our
    own kinds need none. say is told which keyframe it starts from and how far it is. Raises ValueError where the
    recording has no state at or before the iteration, or none that a run of this version can be made from.
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
    run = _made(recording, state, device or choose_device("auto"), run)
    if run.iteration != start:
        raise ValueError(f"the state of keyframe {start} must stand at its iteration, got {run.iteration}")
    _run_again(run, iteration, recording.changes_after_keyframe(iteration), lambda done: say(
        f"{told}: {done} of {n_again}"))
    return run


def parent_of(recording: Recording, iteration: int) -> dict[str, Any]:
    """What the recording of the branch says of where it comes from."""
    return {"uid": recording.meta.uid, "file": recording.path.name, "iteration": iteration}


def _made(recording: Recording, state: Any, device: torch.device | str, run: Run | None) -> Run:
    from sparseflex.checkpoint import RUN_KINDS, run_of_state

    name = recording.meta.name
    if run is None and name not in RUN_KINDS:
        raise ValueError(f"a run of kind {name!r} needs the code that makes it: name it with --code my_run.py:make_run")
    if not isinstance(state, Mapping):
        raise ValueError(f"a keyframe must hold a state, got {type(state).__name__}")
    try:
        if run is None:
            return run_of_state(name, state, device)
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


# -- as inputs ---------------------------------------------------------------------------------------------------

def opened_recording(recording: Recording, run: Run | None = None) -> Opened:
    """A recording, or a run that is made of it, with what it says of its input; ValueError where that is malformed."""
    table: Any = recording.meta.table
    with input_errors():
        view = from_table(ViewConfig, table["view"], "view") if isinstance(table.get("view"), dict) else ViewConfig()
        try:
            back = torch.tensor(table.get("input_from_normalized"), dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            back = torch.zeros(0)
        if back.shape != (4, 4) or not bool(back.isfinite().all()):
            raise ValueError(f"{recording.path}: input_from_normalized must be a 4 x 4 matrix")
    path = recording.path.absolute()
    name = path.parent.name if path.stem == "run" and path.parent.name else path.stem
    return Opened(recording if run is None else run, name, recording.meta.title, view, back)


def branch_of(opened: Opened, run: Run) -> Opened:
    """What has branched off a recording that was opened, under a name of its own."""
    at = run.iteration
    return dataclasses.replace(opened, run=run, name=f"{opened.name}-from-{at}", title=f"{opened.title}, from {at}")


def open_branch(recording: Recording, iteration: int | None, device: str | None = None, code: str = "",
                iterations: int | None = None, say: Say = lambda text: None) -> Opened:
    """The run that goes on from an iteration of a recording, its last where None; code: my_run.py:make_run where it is
    of the user's own kind; iterations: how far a fit shall go. Raises InputError."""
    fresh = open_what(code).run if code else None
    last = int(recording.iterations[-1])
    at = last if iteration is None else iteration
    if iterations is not None and iterations <= at <= last:  # before all of them are run again
        raise InputError(f"--iterations must be above {at}, where the branch begins, got {iterations}")
    with input_errors():
        run = branch_off(recording, at, say, device, fresh)
        if iterations is not None and dataclasses.is_dataclass(getattr(run, "config", None)):
            run.config = dataclasses.replace(run.config, iterations=iterations)
    return branch_of(opened_recording(recording), run)
