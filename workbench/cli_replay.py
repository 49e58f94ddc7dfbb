"""Recordings on the command line: `replay`, and what `view` and `fit` do where they are given a .h5 file."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from workbench.inputs import Opened, input_errors, writable_folder

if TYPE_CHECKING:
    from sparseflex.training.run import Run
    from workbench.recording.reader import Recording

SUFFIX = ".h5"


def is_recording(what: str) -> bool:
    return what.endswith(SUFFIX)


@dataclasses.dataclass(frozen=True)
class ReplayRun:
    """Show a recording (run.h5) iteration by iteration, as view does. Headless: read and verify every record of it."""

    path: tyro.conf.Positional[Path]
    """A recording, run.h5."""
    headless: bool = False
    """No window: check every value against its checksum, type and shape; exit code 0, or 2 with one line."""
    follow: bool = False
    """It is being written by another process: keep up with it."""
    out: Path | None = None
    """Folder for what is written; recordings/view/NAME where not given."""

    def run(self) -> int:
        return verify(self.path) if self.headless else view_recording(self.path, self.out, self.follow)


def open_recording(path: Path | str) -> Recording:
    from workbench.recording.reader import Recording

    with input_errors():
        return Recording(path)


def verify(path: Path) -> int:
    """Reads all of a recording, with a progress bar; raises InputError with the first thing that is wrong."""
    from tqdm import tqdm

    pause_secs = 0.1 if sys.stderr.isatty() else 10.0
    with open_recording(path) as recording, input_errors():
        with tqdm(total=recording.n_entries, desc=f"verify {path.name}", unit="value", dynamic_ncols=True,
                  mininterval=pause_secs, maxinterval=max(pause_secs, 10.0)) as bar:
            for _ in recording.verify():
                bar.update(1)
        rows, states = recording.iterations, recording.keyframes
        print(f"{path}: {recording.n_entries} values of {len(rows)} iterations ({rows[0]} to {rows[-1]}), "
              f"{len(states)} keyframes: all whole")
    return 0


def view_recording(path: Path | str, out: Path | None, follow: bool) -> int:
    """Opens the window on the past, or on what is being written."""
    from workbench.cli import VIEW_OUT, require_graphics, show

    out = None if out is None else writable_folder(out)
    with open_recording(path) as recording:
        require_graphics(display=True)
        opened = opened_recording(recording)
        return show(opened, out or writable_folder(VIEW_OUT / opened.name), paused=not follow, follow=follow)


def opened_recording(recording: Recording, run: Run | None = None) -> Opened:
    """A recording, or a run that is made of it, with what it says of its input; ValueError where that is malformed."""
    import torch

    from sparseflex.scene import ViewConfig
    from sparseflex.training.config import from_table

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
