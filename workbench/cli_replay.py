"""Recordings on the command line: `replay`, and what `view` and `fit` do where they are given a .h5 file."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from workbench.inputs import InputError, Opened, input_errors, view_folder, writable_folder

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
    """Folder for what is written; recordings/view/NAME where not given; NAME-2 and so on where that holds a run."""

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
    from workbench.branch import opened_recording
    from workbench.cli import require_graphics, show

    out = None if out is None else writable_folder(out)
    with open_recording(path) as recording:
        require_graphics(display=True)
        opened = opened_recording(recording)
        return show(opened, out or view_folder(opened.name), paused=not follow, follow=follow)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BranchOptions:
    """Of `fit run.h5`: where the run branches off its recording, and what is changed there."""

    from_iteration: int | None = None
    """Of a recording: go on from the end of this iteration, its last where not given."""
    set: tuple[str, ...] = ()
    """Settings to change there: NAME=VALUE, such as depth_weight=2."""
    code: str = ""
    """Of the recording of your own trainer: my_run.py:make_run, which makes it."""

    def check_no_branch(self, what: str) -> None:
        """Raises InputError where an option is given that applies to recordings alone."""
        given = [name for name in ("from_iteration", "set", "code") if getattr(self, name) not in (None, (), "")]
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} applies to a recording (.h5), got {what}")

    def branched(self, what: str, device: str | None, iterations: int | None) -> tuple[Opened, dict[str, Any]]:
        """The run that goes on, and what its own recording says of where it comes from. Raises InputError."""
        from workbench.branch import open_branch, parent_of

        with open_recording(what) as recording:
            told: list[str] = []

            def say(text: str) -> None:
                """Which keyframe, and on a terminal how far it is."""
                if not told or sys.stderr.isatty():
                    print(f"{recording.path.name}: {text}", end="\n" if not told else "\r", file=sys.stderr, flush=True)
                told.append(text)

            opened = open_branch(recording, self.from_iteration, device, self.code, iterations, say)
            change_settings(opened.run, self.set)
            return opened, parent_of(recording, opened.run.iteration)


def change_settings(run: Run, texts: tuple[str, ...]) -> None:
    """Changes settings given as NAME=VALUE; raises InputError naming the first that can't be."""
    for text in texts:
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise InputError(f"--set must be NAME=VALUE with a number, got {text!r}") from None
        if name not in run.settings:
            raise InputError(f"--set: {name!r} is no setting of this run; it has {', '.join(run.settings) or 'none'}")
        with input_errors():
            run.change_setting(name, number)
