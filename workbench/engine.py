"""Engine: the one thread that owns a run. Commands come in by a queue, snapshots leave by a latest-wins slot."""

from __future__ import annotations

import collections
import dataclasses
import math
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparseflex.training.measure import cost_columns
from sparseflex.training.run import Run
from sparseflex.training.staged_run import StagedRun
from workbench.breakpoints import Breakpoints
from workbench.commands import (
    ChangeCameras,
    ChangeSetting,
    Command,
    GoTo,
    RemoveBreakpoint,
    RequestFields,
    SaveCheckpoint,
    SetBreakpoint,
    StepBack,
    Stop,
)
from workbench.course import Course
from workbench.expressions import ExpressionError
from workbench.field_copies import Coming, FieldCopies, fields_of
from workbench.history_table import HistoryTable, history_of
from workbench.mailbox import Mailbox
from workbench.own_cameras import OwnCameras
from workbench.past import LIMIT_BYTES, Kept, Past, Place
from workbench.recording.policy import RecordStatus
from workbench.recording.recorder import LateRecorder, StartRecorder
from workbench.snapshot import Breakpoint, Failure, Hit, Snapshot, frozen
from workbench.staging import Staging

SaveRun = Callable[[Path, Run], Any]

MID_ITERATION_PUBLISH_SECS = 0.25
"""While playing, snapshots are taken between iterations, so that all they hold belongs together; a run whose
iteration takes longer than this is shown in between as well."""

_CHANGED_AT_ONCE = ("notice", "failure", "settings", "own_cameras", "cameras_locked", "kept_cameras", "breakpoints",
                    "hits", "marks")
"""What may have changed since a snapshot's fields began to be copied."""

STOP_GRACE_SECS = 2.0
"""How long a played iteration may go on after Stop, so that the run ends between two iterations."""


def save_checkpoint(path: Path, run: Run) -> None:
    """Saves by sparseflex.checkpoint, imported when first needed."""
    from sparseflex.checkpoint import save_checkpoint as save

    save(path, run)


class Engine:
    """Drives a run from its own thread, paused at the start.

    The caller sends commands and reads `snapshots.latest()`; nothing else is shared. No lock is held while a stage
    runs. An exception of the run ends the work, not the thread: it becomes `snapshot.failure`, and the engine still
    answers requests, saves, and goes back to an iteration before it. past_bytes: what is kept at most to go back to.
    record: what begins to record the run, once it goes. breakpoints: conditions at which it stops; ExpressionError
    where one can't be.
    """

    def __init__(self, run: Run, save: SaveRun = save_checkpoint, past_bytes: float = LIMIT_BYTES,
                 record: StartRecorder | None = None, breakpoints: Sequence[Breakpoint] = ()) -> None:
        self._run = run
        self._save = save
        self._stages = tuple(run.stages)
        if not self._stages:
            raise ValueError("run.stages must name at least one stage, got none")
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._copies = FieldCopies(run)
        self._history = HistoryTable(history_of(run))
        self._past, self._cameras = Past(run, past_bytes), OwnCameras(run)
        self._recorder = LateRecorder(record)
        self._breakpoints = Breakpoints(run, self._history.view(), breakpoints)
        self._next = 0
        self._stages_run = 0
        self._started_at_iteration = run.iteration
        self._course = Course()
        self._asked: frozenset[str] | None = None
        self._names: frozenset[str] = frozenset()  # asked for last; shown again whenever the run comes to a stop
        self._coming: Coming | None = None
        self._stop_deadline: float | None = None
        self._ended_at: collections.deque[float] = collections.deque(maxlen=64)
        self._last_publish = -math.inf
        self._doing = ""
        self._staging = Staging(run)
        device = str(getattr(run, "device", "cpu"))
        self._shown = Snapshot(run_name=run.name, device=device, stages=self._stages, stage_next=self._stages[0])
        self._shown = self._describe()
        self.snapshots: Mailbox[Snapshot] = Mailbox(self._shown)
        self._thread = threading.Thread(target=self._serve, name="sparseflex-engine", daemon=True)

    # What others call

    def start(self) -> None:
        self._thread.start()

    def send(self, command: Command) -> None:
        self._commands.put(command)

    @property
    def _place(self) -> Place:
        return self._run.iteration, self._next

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def n_iterations(self) -> int:
        """Iterations made since the engine was built."""
        return self._run.iteration - self._started_at_iteration

    def stop(self, timeout_secs: float = 10.0) -> bool:
        """Sends Stop and waits; False where a stage didn't end in time (the thread then dies with the process).

        What waits to be recorded is then written, however long that takes, up to a minute.
        """
        if self.alive:
            self.send(Stop())
            self._thread.join(timeout_secs)
        if not self.alive:
            self._recorder.close()
        return not self.alive

    @property
    def recording(self) -> RecordStatus | None:
        return self._recorder.status

    # The thread

    def _serve(self) -> None:
        while not self._done():
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - the thread's boundary: a failure is state, not a lost thread
                self._fail(error)
        self._staging.close()
        self._recorder.finish()
        self._publish(playing=False, stopped=True)

    def _done(self) -> bool:
        if self._stop_deadline is None:
            return False
        return self._next == 0 or not self._running() or time.monotonic() > self._stop_deadline

    def _running(self) -> bool:
        return self._shown.failure is None and self._course.goes_on(self._run.iteration)

    def _turn(self) -> None:
        """Commands, then a stage if one is due, then an answer if one is due."""
        waiting = not self._running() and self._asked is None and self._coming is None
        while True:
            try:
                self._obey(self._commands.get(block=waiting))
            except queue.Empty:
                break
            waiting = False
        if self._done():
            return
        if self._running():
            self._run_stage()
        self._answer()

    def _obey(self, command: Command) -> None:
        self._doing = type(command).__name__
        if isinstance(command, RequestFields):
            self._asked = self._names = command.names
        elif isinstance(command, (ChangeSetting, ChangeCameras)):
            self._change(command)
        elif isinstance(command, SaveCheckpoint):
            self._save_checkpoint(command.path)
        elif isinstance(command, Stop):
            self._stop_deadline = time.monotonic() + STOP_GRACE_SECS
        elif isinstance(command, StepBack):
            self._go_to(self._heading_for() - 1)
        elif isinstance(command, GoTo):
            self._go_to(command.iteration, command.n_stages)
        elif isinstance(command, (SetBreakpoint, RemoveBreakpoint)):
            self._change_breakpoint(command)
        else:
            self._steer(command)

    def _steer(self, command: Command) -> None:
        notice = self._course.follow(command, self._run.iteration, getattr(self._run, "plays_once", False))
        if self._shown.failure is not None:
            self._course.hold()
        self._set_off(notice)

    def _heading_for(self) -> int:
        """The iteration that the run is on its way to or in: a step back goes to the end of the one before."""
        on_way = self._course.travelling and self._running()
        return int(self._course.until) if on_way else self._run.iteration + (self._next > 0)

    def _go_to(self, wanted: int, n_stages: int = 0) -> None:
        """On from here, or from the nearest kept state, if that is nearer or behind."""
        here, kept = self._place, self._past.nearest(wanted)
        if wanted < here[0] or (wanted == here[0] and here[1] > 0):
            if kept is None:
                self._publish(notice=f"can't go back: {self._past.reason()}")
                return
            self._restore(kept)
        elif kept is not None and kept.iteration > here[0]:
            self._restore(kept)
        self._course.go_to(wanted, n_stages, self._run.iteration)
        self._set_off("")

    def _set_off(self, notice: str) -> None:
        self._publish(playing=self._running(), notice=notice, hits=())
        if not self._running():
            self._come_to_a_stop()

    def _restore(self, kept: Kept) -> None:
        self._past.restore(kept)
        self._history, self._next = HistoryTable(kept.history), 0
        self._stages_run += 1  # nothing that was copied before is up to date
        self._coming = None
        self._recorder.went_back(self._run.iteration, self._history.last_row())
        self._publish(failure=None, **self._changeable())
        self._change_again()

    def _change_again(self) -> None:
        """Makes the changes that the user made at this place when the run passed it before."""
        due = self._past.due(self._place)
        for change in due:
            self._apply(change)
        if due:
            self._publish(**self._changeable())

    def _change(self, command: ChangeSetting | ChangeCameras) -> None:
        try:
            self._apply(command)
        except (ValueError, KeyError) as error:
            self._publish(notice=str(error))
        else:
            self._past.changed(self._place, command)
            self._recorder.changed(command, self._next)
            self._publish(notice="", past=self._past.summary(), **self._changeable())
            if not self._running():
                self._come_to_a_stop()

    def _apply(self, change: ChangeSetting | ChangeCameras) -> None:
        if isinstance(change, ChangeSetting):
            self._run.change_setting(change.name, change.value)
        else:
            self._cameras.change(change)

    def _changeable(self) -> dict[str, Any]:
        """What a change shows in the snapshot, at once."""
        return {"settings": frozen(self._run.settings), **self._cameras.shown()}

    def _change_breakpoint(self, command: SetBreakpoint | RemoveBreakpoint) -> None:
        notice = ""
        try:
            self._breakpoints.change(command)
        except ExpressionError as error:
            notice = f"no breakpoint: {error}"
        self._publish(notice=notice, **self._watched())

    def _watched(self) -> dict[str, Any]:
        """What the snapshot shows of breakpoints."""
        points = self._breakpoints
        return {"breakpoints": points.shown, "scalar_names": points.known.names, "names_whole": points.known.whole,
                "marks": frozen({"hits": points.hit_at})}

    def _save_checkpoint(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._save(path, self._run)
        except (OSError, ValueError) as error:
            self._publish(notice=f"not saved: {error}")
        else:
            self._publish(notice=f"saved {path}")

    def _run_stage(self) -> None:
        number, iteration = self._next, self._run.iteration
        if number == 0:
            self._past.keep(iteration, self._history.view, self._course.steps(iteration))
            self._recorder.iteration_started(self._run)
            self._breakpoints.began()
        stage = self._doing = self._stages[number]
        scalars = self._staging.run(stage)
        self._stages_run += 1
        self._next = (number + 1) % len(self._stages)
        # on the way to where it has been before it stops nowhere
        stops = not self._course.travelling or iteration >= min(self._course.until, self._past.reached)
        self._course.stage_done(self._run.iteration)
        hits: tuple[Hit, ...] = ()
        if stops and self._breakpoints.watches:
            made = self._staging.made[stage]
            hits = self._breakpoints.after(number, iteration + 1, scalars, made, self._history.column)
        if self._next == 0:
            self._end_iteration(scalars)
        self._change_again()
        if hits:
            self._stop_at(hits)
        if not self._running():
            self._come_to_a_stop()

    def _end_iteration(self, scalars: Mapping[str, float]) -> None:
        row = {"iteration": float(self._run.iteration), **scalars, **cost_columns(self._staging.costs)}
        self._history.append(row)
        self._ended_at.append(time.perf_counter())
        self._past.reach(self._run.iteration)
        self._recorder.iteration_ended(self._run, row)
        if refused := self._breakpoints.ended(self._run, self._history.view()):
            self._publish(notice=f"no breakpoint: {refused[0]}", **self._watched())

    def _stop_at(self, hits: tuple[Hit, ...]) -> None:
        """Comes to rest, and keeps the state, as far as the run gives one within an iteration."""
        self._course.hold()
        if self._next == 0 or not isinstance(self._run, StagedRun):
            self._past.keep(self._run.iteration, self._history.view, True)
        self._publish(playing=False, notice="", hits=hits, **self._watched())

    def _come_to_a_stop(self) -> None:
        """Has the state shown in full at which the run came to rest, whether or not anybody asks."""
        self._ended_at.clear()
        self._asked = self._names if self._asked is None else self._asked

    def _answer(self) -> None:
        """Starts, or completes, the snapshot that was asked for."""
        running = self._running()
        if self._coming is None and self._asked is not None:
            late = time.perf_counter() - self._last_publish > MID_ITERATION_PUBLISH_SECS
            if self._next == 0 or not running or late:
                names, self._asked, self._doing = self._asked, None, "reading fields"
                started = time.perf_counter()
                snapshot = dataclasses.replace(self._describe(), asked=names)
                self._copies.start(names, self._stages_run)
                self._coming = Coming(snapshot, time.perf_counter() - started)
        if self._coming is not None and (not running or self._copies.ready()):
            coming, self._coming = self._coming, None
            started = time.perf_counter()
            fields = self._copies.finish()
            secs = coming.copy_secs + time.perf_counter() - started
            flags = {name: getattr(self._shown, name) for name in _CHANGED_AT_ONCE}
            self._shown = dataclasses.replace(coming.snapshot, **flags, serial=self._shown.serial)
            self._publish(playing=running, fields=fields, publish_secs=secs, answers=coming.snapshot.answers + 1)

    # What is shown

    def _describe(self) -> Snapshot:
        """The run as it stands, all but its fields."""
        run, costs = self._run, self._staging.costs
        return dataclasses.replace(
            self._shown,
            iteration=run.iteration,
            stage_done=self._stages[self._next - 1] if self._stages_run else None,
            stage_next=self._stages[self._next],
            scalars=frozen(run.scalars()),
            history=self._history.view(),
            **self._changeable(),
            made=frozen(self._staging.made),
            past=self._past.summary(),
            field_kinds=frozen(fields_of(run)),
            **self._watched(),
            stage_secs=frozen({stage: cost.secs for stage, cost in costs.items()}),
            stage_peak_bytes=frozen({stage: cost.peak_bytes for stage, cost in costs.items()}),
            iterations_per_sec=self._rate(),
        )

    def _rate(self) -> float:
        if len(self._ended_at) < 2 or not self._running():
            return math.nan
        return (len(self._ended_at) - 1) / max(self._ended_at[-1] - self._ended_at[0], 1e-9)

    def _publish(self, **changes: Any) -> None:
        """What was shown last with these changes; one assignment in the slot."""
        self._shown = dataclasses.replace(self._shown, serial=self._shown.serial + 1,
                                          recording=self._recorder.status, **changes)
        self._last_publish = time.perf_counter()
        self.snapshots.put(self._shown)

    def _fail(self, error: Exception) -> None:
        self._course.hold()
        self._coming = None
        first = self._shown.failure is None
        # show the state it failed in; but if showing it is what fails, don't try again
        self._asked = self._names if first else None
        self._ended_at.clear()
        if first:
            text = "".join(traceback.format_exception(error))
            failure = Failure(self._doing, self._run.iteration, f"{type(error).__name__}: {error}", text)
            self._publish(playing=False, failure=failure)
