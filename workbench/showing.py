"""Showing: what the engine shows of its run, the latest snapshot and the fields that somebody asked for."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
import traceback
from typing import Any

from sparseflex.training.run import Run
from workbench.breakpoints import Breakpoints
from workbench.field_copies import Coming, FieldCopies, askable
from workbench.mailbox import Mailbox
from workbench.own_cameras import OwnCameras
from workbench.past import Past
from workbench.recording.recorder import LateRecorder
from workbench.snapshot import Failure, History, Hit, Snapshot, frozen
from workbench.staging import Staging

MID_ITERATION_PUBLISH_SECS = 0.25
"""While playing, snapshots are taken between iterations, so that all they hold belongs together; a run whose
iteration takes longer than this is shown in between as well."""

WATCHED_SECS = 3.0
"""How long a run is watched for a field after it was asked for last."""

_CHANGED_AT_ONCE = ("notice", "failure", "settings", "own_cameras", "cameras_locked", "kept_cameras", "breakpoints",
                    "hits", "marks", "profile", "profiling")
"""What may have changed since a snapshot's fields began to be copied."""


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """What belongs to an engine's run and is shown with it."""

    past: Past
    cameras: OwnCameras
    breakpoints: Breakpoints
    staging: Staging
    recorder: LateRecorder


@dataclasses.dataclass(frozen=True)
class Moment:
    """Where the run stands: the number of the stage that comes next, how many stages have run in all, and whether it
    goes on."""

    stage_next: int = 0
    n_stages_run: int = 0
    running: bool = False


class Showing:
    """Puts snapshots of a run into their slot; belongs to the engine's thread.

    `publish` shows at once what has changed; `answer` shows the run as it stands, with the fields that were asked for,
    once the moment is a good one and they are copied. failed: the run has, and goes no further.
    """

    def __init__(self, run: Run, parts: Parts, history: History) -> None:
        self._run, self._parts, self._stages = run, parts, tuple(run.stages)
        self._copies = FieldCopies(run)
        self._asked: frozenset[str] | None = None
        self._names: frozenset[str] = frozenset()  # asked for last; shown again whenever the run comes to a stop
        self._asked_at: dict[str, float] = {}  # of a run that can be watched: when each name was asked for last
        self._watching: frozenset[str] = frozenset()
        self._coming: Coming | None = None
        self._ended_at: collections.deque[float] = collections.deque(maxlen=64)
        self._last_publish = -math.inf
        device = str(getattr(run, "device", "cpu"))
        self._shown = Snapshot(run_name=run.name, device=device, stages=self._stages, stage_next=self._stages[0])
        self._shown = self._described(Moment(), history)
        self.snapshots: Mailbox[Snapshot] = Mailbox(self._shown)

    @property
    def failed(self) -> bool:
        return self._shown.failure is not None

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._asked is not None or self._coming is not None

    # At once

    def publish(self, **changes: Any) -> None:
        """What was shown last with these changes; one assignment in the slot."""
        self._shown = dataclasses.replace(self._shown, serial=self._shown.serial + 1,
                                          recording=self._parts.recorder.status, **changes)
        self._last_publish = time.perf_counter()
        self.snapshots.put(self._shown)

    def publish_changeable(self, **changes: Any) -> None:
        """What a change of the user's shows, with these changes."""
        self.publish(**changes, **self._changeable())

    def publish_watched(self, **changes: Any) -> None:
        """The breakpoints as they stand, with these changes."""
        self.publish(**changes, **self._watched())

    def fail(self, doing: str, error: Exception) -> None:
        """Shows an error that ended the work, and the state in which it did; the first one only."""
        first, self._coming = not self.failed, None
        # if showing the state is what fails, don't try again
        self._asked = self._names if first else None
        self._ended_at.clear()
        if first:
            text = "".join(traceback.format_exception(error))
            failure = Failure(doing, self._run.iteration, f"{type(error).__name__}: {error}", text)
            self.publish(playing=False, failure=failure)

    # Answers

    def ask(self, names: frozenset[str]) -> None:
        """One answer with these fields is due."""
        if hasattr(self._run, "watch"):
            self._watch(names)
        self._asked = self._names = names

    def _watch(self, names: frozenset[str]) -> None:
        """What only the scene needs isn't in every request: between two of them it stays watched."""
        now = time.monotonic()
        self._asked_at.update(dict.fromkeys(names, now))
        self._asked_at = {name: at for name, at in self._asked_at.items() if now - at < WATCHED_SECS}
        if self._asked_at.keys() != self._watching:
            self._watching = frozenset(self._asked_at)
            self._run.watch(self._watching)

    def stop_at(self, hits: tuple[Hit, ...]) -> None:
        """Has the run come to a stop by breakpoints, and that it was by them."""
        self.come_to_a_stop(notice="", hits=hits, **self._watched())

    def come_to_a_stop(self, **changes: Any) -> None:
        """Has the state shown in full at which the run came to rest, whether or not anybody asks; `changes` with it,
        not before."""
        self._shown = dataclasses.replace(self._shown, **changes)
        self.drop_coming()
        self._ended_at.clear()
        self._asked = self._names if self._asked is None else self._asked

    def drop_coming(self) -> None:
        """What is being copied isn't the run's any more."""
        self._coming = None

    def iteration_ended(self) -> None:
        self._ended_at.append(time.perf_counter())

    def due(self, moment: Moment) -> bool:
        """Whether an answer that was asked for is to be begun now."""
        if self._coming is not None or self._asked is None:
            return False
        late = time.perf_counter() - self._last_publish > MID_ITERATION_PUBLISH_SECS
        return moment.stage_next == 0 or not moment.running or late

    def begin(self, moment: Moment, history: History) -> None:
        """Starts the answer that is due."""
        names, self._asked = self._asked or frozenset(), None
        started = time.perf_counter()
        snapshot = dataclasses.replace(self._described(moment, history), asked=names)
        self._copies.start(names, moment.n_stages_run)
        self._coming = Coming(snapshot, time.perf_counter() - started)

    def complete(self, running: bool) -> None:
        """Shows the answer that was begun, once it is whole."""
        if self._coming is None or (running and not self._copies.ready()):
            return
        coming, self._coming = self._coming, None
        started = time.perf_counter()
        fields = self._copies.finish()
        secs = coming.copy_secs + time.perf_counter() - started
        flags = {name: getattr(self._shown, name) for name in _CHANGED_AT_ONCE}
        self._shown = dataclasses.replace(coming.snapshot, **flags, serial=self._shown.serial)
        self.publish(playing=running, fields=fields, publish_secs=secs, answers=coming.snapshot.answers + 1)

    # What is shown

    def _described(self, moment: Moment, history: History) -> Snapshot:
        """The run as it stands, all but its fields."""
        run, costs = self._run, self._parts.staging.costs
        return dataclasses.replace(
            self._shown,
            iteration=run.iteration,
            stage_done=self._stages[moment.stage_next - 1] if moment.n_stages_run else None,
            stage_next=self._stages[moment.stage_next],
            scalars=frozen(run.scalars()),
            history=history,
            **self._changeable(),
            made=frozen(self._parts.staging.made),
            past=self._parts.past.summary(),
            field_kinds=frozen(askable(run)),
            **self._watched(),
            aside_secs=frozen(self._parts.staging.asides),
            stage_secs=frozen({stage: cost.secs for stage, cost in costs.items()}),
            stage_peak_bytes=frozen({stage: cost.peak_bytes for stage, cost in costs.items()}),
            iterations_per_sec=self._rate() if moment.running else math.nan,
        )

    def _changeable(self) -> dict[str, Any]:
        """What a change of the user's shows in the snapshot."""
        return {"settings": frozen(self._run.settings), **self._parts.cameras.shown()}

    def _watched(self) -> dict[str, Any]:
        """What the snapshot shows of breakpoints."""
        points = self._parts.breakpoints
        return {"breakpoints": points.shown, "scalar_names": points.known.names, "names_whole": points.known.whole,
                "marks": frozen({"hits": points.hit_at})}

    def _rate(self) -> float:
        if len(self._ended_at) < 2:
            return math.nan
        return (len(self._ended_at) - 1) / max(self._ended_at[-1] - self._ended_at[0], 1e-9)
