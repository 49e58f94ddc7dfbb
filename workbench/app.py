"""Opens the window on a run, and sees to it that the run is saved when it closes, however it closes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparseflex.camera import Camera
from sparseflex.training.run import Run
from workbench.commands import Play
from workbench.engine import Engine, SaveRun, save_checkpoint
from workbench.graphics import NoGraphics, check_graphics
from workbench.view_state import ViewState
from workbench.window import Scripted, Window

STOP_SECS = 15.0


class StageDidNotEnd(RuntimeError):
    """The window is closed but the run still changes: nothing of it may be saved."""


def open_window(
    run: Run,
    *,
    title: str,
    out_dir: Path | str,
    paused: bool = True,
    fps: float = 60.0,
    size: tuple[int, int] | None = None,
    scripted: Scripted | None = None,
    save: SaveRun = save_checkpoint,
    view: ViewState | None = None,
    home: Camera | None = None,
) -> int:
    """Shows a run until the window is closed, and drives it from there. Returns the exit code.

    0: closed by the user; 1: the run or the window failed, or the last checkpoint couldn't be saved. Where iterations
    were made, out_dir/checkpoint.safetensors is written on closing, on Ctrl-C and SIGTERM too. scripted is called after
    each redraw and closes the window by returning True. home gives the direction of the home view. Raises NoGraphics
    where no window can be opened, StageDidNotEnd where the run is still being changed by its thread afterwards.
    """
    check_graphics()
    view = view or ViewState()
    view.title = title
    view.checkpoint_path = Path(out_dir) / "checkpoint.safetensors"
    if home is not None:
        view.home_direction = tuple((-home.forward_world).tolist())
    engine = Engine(run, save)
    try:
        window = Window(engine, view, title, fps, size)
    except NoGraphics:
        raise
    except RuntimeError as error:
        raise NoGraphics(f"the window could not be opened: {error}") from None
    engine.start()
    try:
        if not paused:
            engine.send(Play())
        with _interrupts_close(window):
            window.show(scripted)
    finally:
        ended = engine.stop(STOP_SECS)
        window.close()
    last = engine.snapshots.latest()
    if not ended:
        raise StageDidNotEnd(f"not saved: stage {last.stage_next} did not end within {STOP_SECS:g} s")
    code = 1 if window.failed or last.failure is not None else 0
    return max(code, _save_on_closing(engine, run, view.checkpoint_path, save))


def _save_on_closing(engine: Engine, run: Run, path: Path, save: SaveRun) -> int:
    last = engine.snapshots.latest()
    if last.failure is not None:
        print(f"failed in {last.failure.stage}, iteration {last.failure.iteration}: {last.failure.message}",
              file=sys.stderr)
    if engine.n_iterations == 0:
        return 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, run)
    except Exception as error:  # noqa: BLE001 - a run's own state_dict may raise anything
        print(f"not saved: {error}", file=sys.stderr)
        return 1
    print(f"iteration {run.iteration} saved in {path}")
    return 0


@contextmanager
def _interrupts_close(window: Window) -> Iterator[None]:
    """Ctrl-C and SIGTERM close the window in good order; an exception in the middle of a redraw would not."""
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda *_: window.ask_to_close())
    except ValueError:  # not the main thread, which alone may set handlers
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
