"""Engine: the one thread that owns a run. Commands come in by a queue, snapshots leave by a latest-wins slot."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparseflex.threads import with_own_threads
from sparseflex.training.run import Run
from workbench.breakpoints import Breakpoints
from workbench.commands import (
    ChangeCameras,
    ChangeSetting,
    Command,
    GoTo,
    KeepAtMost,
    ProfileIteration,
    RemoveBreakpoint,
    RequestFields,
    RunIterations,
    SaveCheckpoint,
    SetBreakpoint,
    StageBack,
    StepBack,
    Stop,
)
from workbench.course import Course, Place
from workbench.expressions import ExpressionError
from workbench.history_table import HistoryTable, history_of
from workbench.keyframes import Keyframe, Keyframes
from workbench.mailbox import Mailbox
from workbench.own_cameras import OwnCameras
from workbench.past import LIMIT_BYTES, CantRead, Kept, Past
from workbench.recording.policy import RecordStatus
from workbench.recording.recorder import LateRecorder, StartRecorder
from workbench.showing import Moment, Parts, Showing
from workbench.snapshot import Breakpoint, Hit, Snapshot
from workbench.staging import Staging

SaveRun = Callable[[Path, Run], Any]

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
        self._history = HistoryTable(history_of(run))
        self._cameras, self._recorder = OwnCameras(run), LateRecorder(record)
        self._past = Past(run, past_bytes, keyframes=Keyframes(self._recorder))
        self._breakpoints = Breakpoints(run, self._history.view(), breakpoints)
        self._next = 0
        self._stages_run = 0
        self._started_at_iteration = run.iteration
        self._course = Course()
        self._way: tuple[str, Kept | Keyframe] | None = None  # what it goes back by, and what is to be said before that
        self._stop_deadline: float | None = None
        self._doing = ""
        self._staging = Staging(run)
        parts = Parts(self._past, self._cameras, self._breakpoints, self._staging, self._recorder)
        self._showing = Showing(run, parts, self._history.view())
        self._thread = threading.Thread(target=with_own_threads(self._serve), name="sparseflex-engine", daemon=True)

    # What others call

    def start(self) -> None:
        self._thread.start()

    def send(self, command: Command) -> None:
        self._commands.put(command)

    @property
    def snapshots(self) -> Mailbox[Snapshot]:
        return self._showing.snapshots

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
        self._showing.publish(playing=False, stopped=True)

    def _done(self) -> bool:
        if self._stop_deadline is None:
            return False
        return self._next == 0 or not self._running() or time.monotonic() > self._stop_deadline

    def _running(self) -> bool:
        return not self._showing.failed and self._course.goes_on(self._run.iteration)

    def _turn(self) -> None:
        """Commands, then a stage if one is due, then an answer if one is due."""
        waiting = not self._running() and not self._showing.waiting
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
            self._showing.ask(command.names)
        elif isinstance(command, (ChangeSetting, ChangeCameras)):
            self._change(command)
        elif isinstance(command, SaveCheckpoint):
            self._save_checkpoint(command.path)
        elif isinstance(command, Stop):
            self._stop_deadline = time.monotonic() + STOP_GRACE_SECS
        elif isinstance(command, (StepBack, StageBack, GoTo)):
            self._go_to(self._place_of(command))
        elif isinstance(command, (SetBreakpoint, RemoveBreakpoint)):
            self._change_breakpoint(command)
        elif isinstance(command, KeepAtMost):
            self._past.keep_at_most(command.n_bytes)
            self._showing.publish(past=self._past.summary())
        elif isinstance(command, ProfileIteration):
            self._profile(command)
        else:
            self._steer(command)

    def _steer(self, command: Command) -> None:
        self._set_off(self._course.follow(command, self._run.iteration, getattr(self._run, "plays_once", False)))

    def _place_of(self, command: StepBack | StageBack | GoTo) -> Place:
        """Where a command is to lead: a step back goes on from where the run is on its way to."""
        n_stages, (iteration, number) = len(self._stages), self._course.heading(self._place)
        if isinstance(command, StepBack):
            return iteration - (number == 0), 0
        if isinstance(command, StageBack):
            return divmod(iteration * n_stages + number - 1, n_stages)
        return divmod(command.iteration * n_stages + command.n_stages, n_stages)

    def _go_to(self, wanted: Place) -> None:
        """On from here, or from the nearest kept state, if that is nearer or behind."""
        here, words = self._place, ""
        back = wanted < here or (wanted == here and self._showing.failed)
        while (kept := self._past.nearest(wanted[0])) is not None and (back or kept.iteration > here[0]):
            try:
                self._restore(kept)
            except CantRead as error:  # the next nearest then
                words = words or f"{error}; "
            else:
                self._course.go_to(wanted, self._place)
                self._set_off(words + kept.words(wanted[0] - kept.iteration))
                self._way = (words, kept) if self._running() else None
                return
        if back:
            self._showing.publish(notice=f"{words}can't go back: {self._past.reason()}", past=self._past.summary())
            return
        under_way = self._way if wanted <= self._past.furthest else None  # quick presses add up
        self._course.go_to(wanted, here)
        if under_way is not None:
            words += under_way[1].words(wanted[0] - under_way[1].iteration)
        self._set_off(words.removesuffix("; "))
        self._way = under_way if self._running() else None

    def _set_off(self, notice: str) -> None:
        self._way = None
        if self._showing.failed:
            self._course.hold()
        self._showing.publish(playing=self._running(), notice=notice, hits=())
        if not self._running():
            self._showing.come_to_a_stop()

    def _arrive(self) -> None:
        """Has come to rest; where the state came from stays to be read."""
        changes = {}
        if self._way is not None:
            (words, kept), self._way = self._way, None
            words += kept.words(self._run.iteration - kept.iteration, done=True)
            changes["notice"] = words.removesuffix("; ")
        self._showing.come_to_a_stop(**changes)

    def _restore(self, kept: Kept | Keyframe) -> None:
        self._past.restore(kept)
        self._staging.went_back()
        self._history, self._next = HistoryTable(kept.history), 0
        self._stages_run += 1  # nothing that was copied before is up to date
        self._showing.drop_coming()
        self._recorder.went_back(self._run.iteration, self._history.last_row())
        self._showing.publish_changeable(failure=None)
        self._change_again()

    def _change_again(self) -> None:
        """Makes the changes that the user made at this place when the run passed it before."""
        due = self._past.due(self._place)
        for change in due:
            self._apply(change)
        if due:
            self._showing.publish_changeable()

    def _change(self, command: ChangeSetting | ChangeCameras) -> None:
        try:
            self._apply(command)
        except (ValueError, KeyError) as error:
            self._showing.publish(notice=str(error))
        else:
            self._past.changed(self._place, command)
            self._recorder.changed(command, self._next)
            self._showing.publish_changeable(notice="", past=self._past.summary())
            if not self._running():
                self._showing.come_to_a_stop()

    def _apply(self, change: ChangeSetting | ChangeCameras) -> None:
        if isinstance(change, ChangeSetting):
            self._run.change_setting(change.name, change.value)
        else:
            self._cameras.change(change)

    def _change_breakpoint(self, command: SetBreakpoint | RemoveBreakpoint) -> None:
        notice = ""
        try:
            self._breakpoints.change(command)
        except ExpressionError as error:
            notice = f"no breakpoint: {error}"
        self._showing.publish_watched(notice=notice)

    def _profile(self, command: ProfileIteration) -> None:
        if self._showing.failed:
            self._showing.publish(notice="no profile: the run has failed, go back first")
            return
        self._staging.profile(command.folder)
        self._show_profile("")
        if not self._running():  # to the end of the next whole iteration
            self._steer(RunIterations(1 + (self._next > 0)))

    def _show_profile(self, notice: str) -> None:
        staging = self._staging
        self._showing.publish(notice=notice, profile=staging.profiled, profiling=staging.profiling)

    def _save_checkpoint(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._save(path, self._run)
        except (OSError, ValueError) as error:
            self._showing.publish(notice=f"not saved: {error}")
        else:
            self._showing.publish(notice=f"saved {path}")

    def _run_stage(self) -> None:
        number, iteration = self._next, self._run.iteration
        if number == 0:
            with self._staging.aside("states kept"):
                self._past.keep(iteration, self._history.view, self._course.steps(iteration))
            with self._staging.aside("recording"):
                self._recorder.iteration_started(self._run)
            self._past.recorded(iteration, self._history.view)
            self._breakpoints.began()
        stage = self._doing = self._stages[number]
        scalars = self._staging.run(stage)
        self._stages_run += 1
        self._next = (number + 1) % len(self._stages)
        stops = self._course.stops_at(self._place, self._past.furthest)
        self._past.reach(self._place)
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
            self._arrive()

    def _end_iteration(self, scalars: Mapping[str, float]) -> None:
        costs, said = self._staging.end_iteration(self._run.iteration)
        row = {"iteration": float(self._run.iteration), **scalars, **costs}
        self._history.append(row)
        if said:
            self._show_profile(said)
        self._showing.iteration_ended()
        with self._staging.aside("recording"):
            self._recorder.iteration_ended(self._run, row)
        self._past.recorded(self._run.iteration, self._history.view)
        if refused := self._breakpoints.ended(self._run, self._history.view()):
            self._showing.publish_watched(notice=f"no breakpoint: {refused[0]}")

    def _stop_at(self, hits: tuple[Hit, ...]) -> None:
        """Comes to rest, and keeps the state, as far as the run gives that of the iteration's start now."""
        self._course.hold()
        if getattr(self._run, "state_is_of_start", True):
            self._past.keep(self._run.iteration, self._history.view, True)
        self._recorder.hit(hits)
        self._showing.stop_at(hits)

    def _answer(self) -> None:
        """Starts, or completes, the snapshot that was asked for."""
        moment = Moment(self._next, self._stages_run, self._running())
        with self._staging.aside("snapshots"):
            if self._showing.due(moment):
                self._doing = "reading fields"
                self._showing.begin(moment, self._history.view())
            self._showing.complete(moment.running)

    def _fail(self, error: Exception) -> None:
        self._course.hold()
        self._staging.failed()
        self._showing.publish(profiling=False)
        self._showing.fail(self._doing, error)
