"""`workbench view A B`: two runs, recordings, checkpoints or meshes in one window."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli_replay import is_recording, open_recording
from workbench.inputs import InputError, open_what, read_metrics, writable_folder

if TYPE_CHECKING:
    import numpy as np

    from sparseflex.camera import Camera
    from sparseflex.training.run import Run
    from workbench.cli import View
    from workbench.pair import Pair
    from workbench.recording.reader import Recording


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """One of the two. start: its iteration at the beginning; home: a camera that looks the home way."""

    shown: Run | Recording
    name: str
    title: str
    input_from_normalized: np.ndarray
    home: Camera | None = None
    recorded: bool = False
    is_mesh: bool = False
    start: int = 0


def open_side(what: str, device: str | None, up: str | None, overrides: Mapping[str, Any]) -> Side:
    """One of the two, whatever it is. Raises InputError."""
    from sparseflex.data import READABLE
    from workbench.moment import matrix_or_identity

    if is_recording(what):
        found = open_recording(what)
        back = matrix_or_identity(found.meta.table.get("input_from_normalized")).numpy()
        return Side(found, Path(what).stem, found.meta.title or Path(what).stem, back, recorded=True)
    opened = open_what(what, device=device, up=up, overrides=overrides)
    for text in opened.warnings:
        print(f"{opened.name}: {text}", file=sys.stderr)
    back, is_mesh = opened.input_from_normalized.numpy(), Path(what).suffix.lower() in READABLE
    beside = read_metrics(Path(what).parent) if is_mesh else {}
    if beside.get("frame") == "normalized":  # the file that a run wrote is in the normalised frame of the run's input
        back = matrix_or_identity(beside.get("input_from_normalized")).numpy() @ back
    return Side(opened.run, opened.name, opened.title, back, opened.view.camera(), False, is_mesh, opened.run.iteration)


def make_pair(a: Side, b: Side) -> Pair:
    """B beside A. B goes where A goes where it is a recording, or where both are runs at their beginning; a checkpoint
    is something that has been reached, and stays."""
    from workbench.engine import Engine
    from workbench.pair import Pair, frame_between
    from workbench.source import Replay

    matrix, _ = frame_between(a.input_from_normalized, b.input_from_normalized)
    source = Replay(b.shown) if b.recorded else Engine(b.shown)
    pair = Pair(source, b.title, b.recorded or a.start == b.start == 0, matrix)
    pair.view.of_mesh = b.is_mesh
    return pair


def view_pair(view: View) -> int:
    """The window on both. What was trained is saved on closing, B in the folder B within A's."""
    from workbench.app import StageDidNotEnd, open_window
    from workbench.cli import VIEW_OUT, choose_device, require_graphics
    from workbench.graphics import NoGraphics
    from workbench.headless import CHECKPOINT, save_state

    if view.headless:
        raise InputError("two side by side are for the window: leave out --headless, or compare meshes by `eval`")
    device = None if view.device == "auto" else choose_device(view.device)
    overrides = {name: getattr(view, name) for name in ("seed", "resolution", "start_resolution")}
    a, b = (open_side(what, device, view.up, overrides) for what in (view.what, view.other))
    if a.title == b.title:
        a, b = (dataclasses.replace(side, title=f"{side.title}, {what}")
                for side, what in ((a, view.what), (b, view.other)))
    require_graphics(display=True)
    out = writable_folder(view.out or VIEW_OUT / a.name)
    pair = make_pair(a, b)
    try:
        code = open_window(a.shown, title=a.title, out_dir=out, home=a.home or b.home, pair=pair, of_mesh=a.is_mesh)
    except NoGraphics as error:
        raise InputError(str(error)) from None
    except StageDidNotEnd as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 1
    if pair.source.n_iterations > 0:
        path = out / "B" / CHECKPOINT
        if not save_state(path, b.shown):
            return 1
        print(f"B: iteration {b.shown.iteration} saved in {path}")
    return code
