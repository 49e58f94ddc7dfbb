"""Opens the window on a run, and sees to it that the run is saved when it closes, however it closes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparseflex.camera import Camera
from sparseflex.training.run import Run
from workbench.branch import branch_off
from workbench.commands import KeepAtMost, Play
from workbench.engine import Engine, SaveRun, save_checkpoint
from workbench.graphics import NoGraphics, check_graphics
from workbench.pair import Pair
from workbench.recording.reader import Recording
from workbench.recording.recorder import StartRecorder
from workbench.snapshot import Breakpoint
from workbench.source import Replay, Source
from workbench.subject import Brancher, Opener, Subject
from workbench.view_state import ViewState
from workbench.window import Scripted, Window

STOP_SECS = 15.0


class StageDidNotEnd(RuntimeError):
    """The window is closed but the run still changes: nothing of it may be saved."""


def open_window(
    run: Run | Recording,
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
    opener: Opener | None = None,
    pair: Pair | None = None,
    of_mesh: bool = False,
    follow: bool = False,
    brancher: Brancher | None = None,
    record: StartRecorder | None = None,
    breakpoints: Sequence[Breakpoint] = (),
) -> int:
    """Shows a run or a recording until the window is closed, and drives it from there. Returns the exit code.

    0: closed by the user; 1: the run or the window failed, or the last checkpoint couldn't be saved. Where iterations
    were made, out_dir/checkpoint.safetensors is written on closing, on Ctrl-C and SIGTERM too. scripted is called after
    each redraw and closes the window by returning True. home gives the direction of the home view. opener makes a file
    dropped on the window the next subject, or raises ValueError with the line to show; the run before it is saved as on
    closing. pair: a second run shown beside this one, whose source is started and stopped here; a dropped file takes
    the place of both. of_mesh: see ViewState. follow: the recording is being written. brancher: makes the run that
    branches off a recording the next subject. record: what begins to record the run. breakpoints: conditions at which
    it stops, checked already. Raises NoGraphics where there is no window, StageDidNotEnd where a run's thread lives on.
    """
    check_graphics()
    view = view or ViewState()
    subject = Subject(run, title, Path(out_dir), home, of_mesh, follow, record, tuple(breakpoints))
    engine = _source_of(subject, save)
    try:
        window = Window(engine, view, title, fps, size, opener, brancher)
    except NoGraphics:
        raise
    except RuntimeError as error:
        raise NoGraphics(f"the window could not be opened: {error}") from None
    code = 0
    try:
        while True:
            window.attach(engine, subject, pair)
            with beside(pair) as stopped:
                ended = _run(engine, window, scripted, paused)
            pair = None
            if not ended or window.next is None:
                break
            code = max(code, _save_on_closing(engine, subject, save))
            subject, paused = window.next, True
            engine = _source_of(subject, save)
    finally:
        window.close()
    last = engine.snapshots.latest()
    _check_ended(ended, stopped(), last.stage_next)
    if window.failed or last.failure is not None:
        code = 1
    return max(code, _save_on_closing(engine, subject, save))


def _check_ended(ended: bool, other_ended: bool, stage: str) -> None:
    """Raises StageDidNotEnd where one of the threads is still at work."""
    if not other_ended:
        raise StageDidNotEnd(f"the second run is not saved: its stage did not end within {STOP_SECS:g} s")
    if not ended:
        raise StageDidNotEnd(f"not saved: stage {stage} did not end within {STOP_SECS:g} s")


@contextmanager
def beside(pair: Pair | None) -> Iterator[Callable[[], bool]]:
    """Starts and stops the second run's source; gives what tells, afterwards, whether it has ended."""
    if pair is not None:
        pair.source.start()
    try:
        yield lambda: pair is None or not pair.source.alive
    finally:
        if pair is not None:
            pair.source.stop(STOP_SECS)


def _source_of(subject: Subject, save: SaveRun) -> Source:
    if isinstance(subject.run, Recording):
        return Replay(subject.run, subject.follow, branch_off)
    return Engine(subject.run, save, record=subject.record, breakpoints=subject.breakpoints)


def _run(engine: Source, window: Window, scripted: Scripted | None, paused: bool) -> bool:
    """The engine from start to stop with the window open; whether its thread has ended."""
    engine.start()
    try:
        engine.send(KeepAtMost(max(window.view.keep_bytes, 0)))  # kept in a file that anybody may edit
        if not paused:
            engine.send(Play())
        with _interrupts_close(window):
            window.show(scripted)
    finally:
        ended = engine.stop(STOP_SECS)
    return ended


def _save_on_closing(engine: Source, subject: Subject, save: SaveRun) -> int:
    run, path = subject.run, subject.checkpoint_path
    last = engine.snapshots.latest()
    if last.failure is not None:
        print(f"failed in {last.failure.stage}, iteration {last.failure.iteration}: {last.failure.message}",
              file=sys.stderr)
    recording = getattr(engine, "recording", None)
    if recording is not None:
        print(*recording.notes, f"{recording.words}: {recording.path}", sep="\n")
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
