"""Sources of snapshots: what a window needs of whatever it shows, and Replay, which shows a recording as if it ran."""

from __future__ import annotations

import dataclasses
import math
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sparseflex.training.measure import BYTES_PREFIX, SECS_PREFIX
from sparseflex.training.run import Run
from workbench.breakpoints import breakpoints_of
from workbench.camera_log import LookUpCameras
from workbench.commands import (
    Branch,
    ChangeCameras,
    ChangeSetting,
    Command,
    GoTo,
    NextIteration,
    NextStage,
    Pause,
    Play,
    ProfileIteration,
    RemoveBreakpoint,
    RequestFields,
    RunIterations,
    RunTo,
    SaveCheckpoint,
    SetBreakpoint,
    SetSpeed,
    StageBack,
    StepBack,
    Stop,
)
from workbench.look_up import LookUpFields
from workbench.mailbox import Mailbox
from workbench.recording.reader import CACHE_BYTES, Recording
from workbench.snapshot import Failure, PastSummary, Snapshot, frozen

REFRESH_SECS = 0.25
"""How often a recording that is followed is looked at for more, and a played one shown though nobody asks."""

NEEDS_BRANCH = "a recording can't be changed: branch from here (Ctrl+B), and change the run that goes on"

NOTHING_RUNS = "a recording can't be profiled, nothing runs: branch from here (Ctrl+B), and profile that run"

Say = Callable[[str], None]
BranchOff = Callable[[Recording, int, Say], Run]
"""Makes the run that goes on from an iteration of a recording; raises ValueError. It tells how far it is."""


class Source(Protocol):
    """What a window shows: an Engine that drives a run, or a Replay of a recording. Commands go in by `send`,
    snapshots are read from `snapshots.latest()`; panels can't tell one from the other, and need not."""

    snapshots: Mailbox[Snapshot]

    def start(self) -> None: ...

    def send(self, command: Command) -> None: ...

    def stop(self, timeout_secs: float = 10.0) -> bool:
        """Ends the thread; False where it didn't end in time."""

    @property
    def alive(self) -> bool: ...

    @property
    def n_iterations(self) -> int:
        """Iterations made since it was built: what there is to save."""


class Replay:
    """Shows a recording iteration by iteration, from a thread of its own that alone reads the file, and closes it.

    follow: the file is being written; what is committed is taken in, and End (or Play at the end) keeps up with it.
    branch: makes a run of an iteration, which is then found in `branched`. A value that can't be read is told by the
    notice; all else goes on.
    """

    n_iterations = 0

    @property
    def recording_path(self) -> Path:
        """The file that is shown."""
        return self._recording.path

    def __init__(self, recording: Recording, follow: bool = False, branch: BranchOff | None = None) -> None:
        self._recording, self._follow, self._branch = recording, follow, branch
        self.branched: Run | None = None  # one assignment by the thread; who takes it over ends this source
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._row = 0  # of the recording's iterations
        self._until = -1  # the row to play up to; -1 while at rest
        self._following = follow
        self._speed = 1.0
        self._from: tuple[float, int] = (0.0, 0)  # when playing began, and at which row
        self._names: frozenset[str] = frozenset()
        self._asked = self._requested = False  # something is to be shown; somebody waits for an answer
        self._stopping = False
        self._checked_at = self._published_at = -math.inf
        meta = recording.meta
        stages, kinds = meta.stages, frozen(meta.field_kinds)
        self._shown = Snapshot(run_name=meta.name, stages=stages, stage_next=stages[0], field_kinds=kinds,
                               source="follow" if follow else "replay")
        self._row = len(recording.iterations) - 1  # what the run came to; playing from there begins anew
        self._shown = dataclasses.replace(self._shown, playing=follow, **self._described())
        self.snapshots: Mailbox[Snapshot] = Mailbox(self._shown)
        self._thread = threading.Thread(target=self._serve, name="sparseflex-replay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, command: Command) -> None:
        self._commands.put(command)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self, timeout_secs: float = 10.0) -> bool:
        if self.alive:
            self.send(Stop())
            self._thread.join(timeout_secs)
        return not self.alive

    # The thread

    def _serve(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except ValueError as error:
                self._come_to_rest(str(error))
            except Exception as error:  # noqa: BLE001 - the thread's boundary: a failure is state, not a lost thread
                text = "".join(traceback.format_exception(error))
                failure = Failure("replay", self._shown.iteration, f"{type(error).__name__}: {error}", text)
                self._until, self._following, self._asked, self._requested = -1, False, False, False
                self._publish(playing=False, failure=failure)
        self._publish(playing=False, stopped=True)
        self._recording.close()

    def _turn(self) -> None:
        """Commands until there are none, then what is new in the file, then the next iteration to be shown."""
        wait = self._wait_secs()
        while True:
            try:
                self._obey(self._commands.get(timeout=wait) if wait != math.inf else self._commands.get())
            except queue.Empty:
                break
            wait = 0.0
            if self._stopping:
                return
        if self._follow and time.monotonic() - self._checked_at > REFRESH_SECS:
            self._take_in()
        playing = self._playing
        self._advance()
        moved = int(self._recording.iterations[self._row]) != self._shown.iteration
        # one that is played is shown as fast as somebody asks, and now and then if nobody does
        due = self._until < 0 or time.monotonic() - self._published_at > REFRESH_SECS
        if self._asked or (moved and due) or playing != self._playing:
            self._show()

    def _wait_secs(self) -> float:
        """How long nothing is due unless somebody sends something."""
        if self._asked:
            return 0.0
        waits = [math.inf]
        if self._follow:
            waits.append(max(self._checked_at + REFRESH_SECS - time.monotonic(), 0.0))
        if self._until >= 0:
            pace = self._pace() / self._speed
            waits.append(min(max(pace / 2, 0.004), REFRESH_SECS))
        return min(waits)

    def _obey(self, command: Command) -> None:
        rows = self._recording.iterations
        if isinstance(command, RequestFields):
            self._names, self._asked, self._requested = command.names, True, True
        elif isinstance(command, Stop):
            self._stopping = True
        elif isinstance(command, Play):
            self._play(len(rows) - 1)
        elif isinstance(command, Pause):
            self._until, self._following = -1, False
            self._asked = True
        elif isinstance(command, (NextIteration, NextStage)):
            self._go(self._row + 1)
        elif isinstance(command, (StepBack, StageBack)):
            self._go(self._row - 1)
        elif isinstance(command, GoTo):
            self._go(int(np.searchsorted(rows, command.iteration, side="right")) - 1)
            self._following = self._follow and command.iteration >= int(rows[-1])
        elif isinstance(command, (RunIterations, RunTo)):
            wanted = command.iteration if isinstance(command, RunTo) else int(rows[self._row]) + command.count
            self._play(int(np.searchsorted(rows, wanted, side="right")) - 1)
        elif isinstance(command, SetSpeed):
            self._speed = command.factor
            self._from = time.monotonic(), self._row
            self._publish(speed=command.factor)
        elif isinstance(command, LookUpCameras):
            known = self._recording.cameras(command.iteration).listed
            command.into.put((command.into.latest()[0] + 1, command.iteration, known))
        elif isinstance(command, LookUpFields):
            command.answer(self._recording)
        elif isinstance(command, Branch):
            self._branch_off()
        elif isinstance(command, (ChangeSetting, ChangeCameras, SetBreakpoint, RemoveBreakpoint, SaveCheckpoint)):
            self._publish(notice=NEEDS_BRANCH)
        elif isinstance(command, ProfileIteration):
            self._publish(notice=NOTHING_RUNS)

    def _go(self, row: int) -> None:
        self._until, self._following = -1, False
        self._row = min(max(row, 0), len(self._recording.iterations) - 1)
        self._asked = True
        if self._shown.notice:
            self._publish(notice="")

    def _play(self, until: int) -> None:
        last = len(self._recording.iterations) - 1
        self._following = self._follow and self._row >= last and until >= last
        if self._row >= last and until >= last and not self._follow:
            self._row = 0
        if self._row >= until and not self._following:
            self._publish(notice="")
            return
        self._until, self._from = (-1 if self._following else until), (time.monotonic(), self._row)
        self._asked = True
        self._publish(playing=True, notice="")

    @property
    def _playing(self) -> bool:
        return self._until >= 0 or self._following

    def _pace(self) -> float:
        """Seconds from one iteration to the next as the run went, pauses left aside."""
        steps = np.diff(self._recording.secs[-4096:])
        steps = steps[steps > 0]
        return float(np.clip(np.median(steps), 1e-3, 60.0)) if len(steps) else 0.1

    def _advance(self) -> None:
        """The row that is due now; at infinite speed the next one whenever one is asked for."""
        if self._following:
            self._row = len(self._recording.iterations) - 1
        elif self._until >= 0:
            started, row = self._from
            if self._speed == math.inf:
                self._row += self._requested
            else:
                self._row = row + int(min((time.monotonic() - started) / self._pace() * self._speed, 1e12))
            if self._row >= self._until:
                at_end = self._follow and self._until >= len(self._recording.iterations) - 1
                self._row, self._until, self._following, self._asked = self._until, -1, at_end, True

    def _take_in(self) -> None:
        self._checked_at = time.monotonic()
        at = int(self._recording.iterations[self._row])
        if not self._recording.refresh():
            return
        rows = self._recording.iterations
        # the run may have gone back and taken another way meanwhile
        self._row = max(int(np.searchsorted(rows, at, side="right")) - 1, 0)
        self._until = min(self._until, len(rows) - 1)
        if not self._following:
            self._publish(**self._described())

    def _branch_off(self) -> None:
        if self._branch is None:
            self._publish(notice="no run can be made of this recording here")
            return
        self._until, self._following = -1, False
        iteration = int(self._recording.iterations[self._row])
        try:
            self.branched = self._branch(self._recording, iteration, lambda text: self._publish(notice=text))
        except ValueError as error:
            self._publish(notice=f"no branch: {error}")

    # What is shown

    def _come_to_rest(self, notice: str) -> None:
        self._until, self._asked, self._requested = -1, False, False
        self._publish(playing=self._following, notice=notice)

    def _show(self) -> None:
        """The iteration with the fields asked for last; what can't be read is told, and left out."""
        started, requested = time.perf_counter(), self._requested
        self._asked = self._requested = False
        fields: dict[str, Any] = {}
        older: dict[str, int] = {}
        notice = self._shown.notice
        iteration = int(self._recording.iterations[self._row])
        for name in sorted(self._names):
            try:
                found, dates = self._recording.snapshot_fields([name], iteration)
            except ValueError as error:
                notice = str(error)
            else:
                fields |= found
                older |= dates
        described = self._described()
        self._publish(**described, playing=self._playing, notice=notice, fields=frozen(fields), asked=self._names,
                      field_iterations=frozen(older), publish_secs=time.perf_counter() - started,
                      answers=self._shown.answers + requested)

    def _described(self) -> Mapping[str, Any]:
        """Everything of an iteration but its fields."""
        recording = self._recording
        rows, history = recording.iterations, recording.scalars()
        iteration = int(rows[self._row])
        cameras = recording.cameras(iteration)
        scalars = _scalars_at(history, iteration)
        stages = recording.meta.stages
        costs = {prefix: {stage: scalars[prefix + stage] for stage in stages if prefix + stage in scalars}
                 for prefix in (SECS_PREFIX, BYTES_PREFIX)}
        keyframes = recording.keyframes
        lacking = "" if len(keyframes) else "no keyframe is recorded"
        return {
            "iteration": iteration, "history": history, "scalars": frozen(scalars), "marks": frozen(recording.marks()),
            "breakpoints": breakpoints_of(recording.hits()),
            "cameras": cameras.listed, "own_cameras": cameras.own, "cameras_locked": cameras.locked,
            "kept_cameras": cameras.kept, "settings": frozen(recording.settings(iteration)),
            "past": PastSummary(int(rows[0]), int(rows[-1]), len(keyframes), recording.n_cached_bytes, lacking,
                                CACHE_BYTES),
            "stage_done": stages[-1] if self._row or iteration else None,
            "stage_secs": frozen(costs[SECS_PREFIX]), "stage_peak_bytes": frozen(
                {stage: costs[BYTES_PREFIX].get(stage, math.nan) for stage in costs[SECS_PREFIX]}),
        }

    def _publish(self, **changes: Any) -> None:
        self._shown = dataclasses.replace(self._shown, serial=self._shown.serial + 1, **changes)
        self._published_at = time.monotonic()
        self.snapshots.put(self._shown)


def _scalars_at(history: Any, iteration: int) -> dict[str, float]:
    """The last row at or before an iteration, what is missing in it left out."""
    column = history.column("iteration")
    row = -1 if column is None else int(np.searchsorted(column, iteration, side="right")) - 1
    if row < 0:
        return {}
    # costs that couldn't be measured stay NaN where their seconds are known
    return {name: float(value) for name, value in zip(history.names, history.table[row], strict=True)
            if not math.isnan(value)}
