"""`workbench view A B`: two runs, recordings, checkpoints or meshes in one window."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli_replay import is_recording, open_recording
from workbench.inputs import InputError, open_what, read_metrics, view_folder, writable_folder

if TYPE_CHECKING:
    import numpy as np

    from sparseflex.training.run import Run
    from workbench.cli import View
    from workbench.inputs import Opened
    from workbench.pair import Pair
    from workbench.recording.recorder import Recorder, StartRecorder
    from workbench.subject import Subject


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """One of the two, opened. input_from_normalized: as far as it is known, of the file itself."""

    opened: Opened
    input_from_normalized: np.ndarray
    recorded: bool = False
    is_mesh: bool = False

    @property
    def start(self) -> int:
        """Its iteration at the beginning; 0 of a recording."""
        return 0 if self.recorded else self.opened.run.iteration

    def titled(self, title: str) -> Side:
        return dataclasses.replace(self, opened=dataclasses.replace(self.opened, title=title))


def open_side(what: str, device: str | None, up: str | None, overrides: Mapping[str, Any]) -> Side:
    """One of the two, whatever it is. Raises InputError."""
    from sparseflex.data import READABLE
    from workbench.moment import matrix_or_identity

    if is_recording(what):
        from workbench.branch import opened_recording

        opened = opened_recording(open_recording(what))
        return Side(opened, opened.input_from_normalized.numpy(), recorded=True)
    opened = open_what(what, device=device, up=up, overrides=overrides)
    for text in opened.warnings:
        print(f"{opened.name}: {text}", file=sys.stderr)
    back, is_mesh = opened.input_from_normalized.numpy(), Path(what).suffix.lower() in READABLE
    beside = read_metrics(Path(what).parent) if is_mesh else {}
    if beside.get("frame") == "normalized":  # the file that a run wrote is in the normalised frame of the run's input
        back = matrix_or_identity(beside.get("input_from_normalized")).numpy() @ back
    return Side(opened, back, False, is_mesh)


def make_pair(a: Side, b: Side, record: StartRecorder | None = None) -> Pair:
    """B beside A. B goes where A goes where it is a recording, or where both are runs at their beginning; a checkpoint
    is something that has been reached, and stays. record: what begins to record B, once it goes."""
    from workbench.engine import Engine
    from workbench.pair import Pair, frame_between
    from workbench.source import Replay

    matrix, _ = frame_between(a.input_from_normalized, b.input_from_normalized)
    source = Replay(b.opened.run) if b.recorded else Engine(b.opened.run, record=record)
    pair = Pair(source, b.opened.title, b.recorded or a.start == b.start == 0, matrix)
    pair.view.of_mesh = b.is_mesh
    return pair


def _recorder(view: View, side: Side, folder: Path) -> StartRecorder | None:
    """What begins a side's recording, and makes its folder then."""
    start = view.recorder(side.opened, folder)

    def with_folder(run: Run) -> Recorder:
        folder.mkdir(parents=True, exist_ok=True)
        return start(run)

    return None if start is None else with_folder


def _no_branch(run: Run) -> Subject:
    raise ValueError("to branch, view the recording alone")


def view_pair(view: View) -> int:
    """The window on both. What is trained is recorded, and saved on closing: B in the folder B within A's."""
    from workbench.app import StageDidNotEnd, open_window
    from workbench.cli import choose_device, require_graphics
    from workbench.graphics import NoGraphics
    from workbench.headless import CHECKPOINT, save_state

    if view.headless:
        raise InputError("two side by side are for the window: leave out --headless, or compare meshes by `eval`")
    if view.follow:
        raise InputError("--follow applies to one recording in a window")
    device = None if view.device == "auto" else choose_device(view.device)
    overrides = {name: getattr(view, name) for name in ("seed", "resolution", "start_resolution")}
    a, b = (open_side(what, device, view.up, overrides) for what in (view.what, view.beside))
    if a.opened.title == b.opened.title:
        a, b = (side.titled(f"{side.opened.title}, {what}") for side, what in ((a, view.what), (b, view.beside)))
    require_graphics(display=True)
    out = writable_folder(view.out) if view.out else view_folder(a.opened.name)
    records = [None if side.recorded else _recorder(view, side, folder) for side, folder in ((a, out), (b, out / "B"))]
    pair = make_pair(a, b, records[1])
    try:
        code = open_window(a.opened.run, title=a.opened.title, out_dir=out, home=a.opened.view.camera(), pair=pair,
                           of_mesh=a.is_mesh, record=records[0], brancher=_no_branch,
                           breakpoints=a.opened.breakpoints)
    except NoGraphics as error:
        raise InputError(str(error)) from None
    except StageDidNotEnd as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 1
    if pair.source.n_iterations > 0:
        path, run = out / "B" / CHECKPOINT, b.opened.run
        if not save_state(path, run):
            return 1
        print(f"B: iteration {run.iteration} saved in {path}")
    return code
