"""Subject: what a window shows, and what makes the next one of a dropped file or a branch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from sparseflex.camera import Camera
from sparseflex.training.run import Run
from workbench.inputs import CHECKPOINT
from workbench.recording.reader import Recording
from workbench.recording.recorder import StartRecorder
from workbench.snapshot import Breakpoint


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a window shows: a run or a recording, what it is called, the folder of its checkpoint, a camera that looks
    the home way; of_mesh: see ViewState; follow: the recording is being written, and kept up with; record: what begins
    to record the run."""

    run: Run | Recording
    title: str
    out_dir: Path
    home: Camera | None = None
    of_mesh: bool = False
    follow: bool = False
    record: StartRecorder | None = None
    breakpoints: tuple[Breakpoint, ...] = ()

    @property
    def checkpoint_path(self) -> Path:
        return self.out_dir / CHECKPOINT


Opener = Callable[[str], Subject]
Brancher = Callable[[Run], Subject]
"""Makes the run that goes on from an iteration of a recording the next subject, or raises ValueError."""
