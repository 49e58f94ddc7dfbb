"""Commands: what a window, a script or a key may ask of the engine. Plain values, sent through its queue."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sparseflex.camera import Camera


@dataclasses.dataclass(frozen=True)
class Play:
    """Runs until told otherwise."""


@dataclasses.dataclass(frozen=True)
class Pause:
    """Stops after the stage that is running."""


@dataclasses.dataclass(frozen=True)
class NextStage:
    """Runs one stage and stops."""


@dataclasses.dataclass(frozen=True)
class NextIteration:
    """Runs to the end of the current iteration and stops; sent again before that, it adds one more."""


@dataclasses.dataclass(frozen=True)
class RunIterations:
    """Runs until `count` more iterations have ended, the one under way included, and stops."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")


@dataclasses.dataclass(frozen=True)
class RunTo:
    """Runs until this iteration has ended, and stops; one that has ended already is refused by a notice."""

    iteration: int


@dataclasses.dataclass(frozen=True)
class StepBack:
    """Goes back to the end of the iteration before, or to the start of the one under way, and stops."""


@dataclasses.dataclass(frozen=True)
class StageBack:
    """Goes back to before the stage that ran last, also where that is of the iteration before, and stops; sent again on
    the way, to one more before it. A recording has no stages: there it is the iteration before."""


@dataclasses.dataclass(frozen=True)
class GoTo:
    """Goes to the end of an iteration, back or on, and stops there; one before the oldest kept is refused by a notice.

    See Snapshot.past for how far back that is, and which iteration the run has reached before. n_stages: so many stages
    of the iteration after it are run then; a recording has none of them.
    """

    iteration: int
    n_stages: int = 0


@dataclasses.dataclass(frozen=True)
class ChangeSetting:
    """Changes one of the run's settings; a refusal comes back as the snapshot's notice."""

    name: str
    value: float


@dataclasses.dataclass(frozen=True)
class ChangeCameras:
    """Replaces the cameras that the run draws as they are; locked: no others are drawn. kept: all of the user's own
    while it is locked, drawn or not; None for the same cameras. A refusal comes back as the snapshot's notice."""

    cameras: tuple[Camera, ...]
    locked: bool = False
    kept: tuple[Camera, ...] | None = None


@dataclasses.dataclass(frozen=True)
class SetBreakpoint:
    """Adds a breakpoint, or changes the one of this expression; one that is refused comes back as a notice."""

    expression: str
    enabled: bool = True
    one_shot: bool = False


@dataclasses.dataclass(frozen=True)
class RemoveBreakpoint:
    """Removes the breakpoint of this expression, if there is one."""

    expression: str


@dataclasses.dataclass(frozen=True)
class SaveCheckpoint:
    """Saves the run to a file; success or failure comes back as the snapshot's notice."""

    path: Path


@dataclasses.dataclass(frozen=True)
class ProfileIteration:
    """Runs the next whole iteration under torch's profiler, and stops after it unless the run plays; the trace goes to
    the folder, and numbers to Snapshot.profile. What is in the way comes back as the snapshot's notice."""

    folder: Path


@dataclasses.dataclass(frozen=True)
class RequestFields:
    """Asks for one snapshot that carries these fields: one request, one snapshot at the next good moment."""

    names: frozenset[str]


@dataclasses.dataclass(frozen=True)
class KeepAtMost:
    """Bounds the bytes of the states that are kept in memory to go back to; what is beyond goes at once."""

    n_bytes: float

    def __post_init__(self) -> None:
        if not self.n_bytes >= 0:
            raise ValueError(f"n_bytes must be at least 0, got {self.n_bytes}")


@dataclasses.dataclass(frozen=True)
class SetSpeed:
    """How fast a recording is played: 1 is the run's own pace, infinite every iteration as fast as it can be drawn."""

    factor: float

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor must be above 0, got {self.factor}")


@dataclasses.dataclass(frozen=True)
class Branch:
    """Makes of a recording a run that goes on from the iteration shown; a refusal comes back as a notice."""


@dataclasses.dataclass(frozen=True)
class Stop:
    """Ends the engine's thread; an iteration that is being played is finished first."""


Command = (
    Play | Pause | NextStage | NextIteration | RunIterations | RunTo | StepBack | StageBack | GoTo
    | ChangeSetting | ChangeCameras | SetBreakpoint | RemoveBreakpoint | SaveCheckpoint | ProfileIteration
    | RequestFields | SetSpeed | KeepAtMost | Branch | Stop
)
