"""Recorder: what the thread that owns a run calls as it goes; it copies what is due and never waits for the file."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparseflex.training.run import Run
from workbench.commands import ChangeCameras, ChangeSetting
from workbench.history_table import HistoryTable, history_of
from workbench.recording.layout import CHANGES, HITS, SPARE_SCALARS, STATE
from workbench.recording.outlet import Outlet, size_of
from workbench.recording.policy import About, RecordPolicy, RecordStatus, meta_of, policy_of
from workbench.recording.sources import Sources
from workbench.recording.values import change_value, hit_value
from workbench.snapshot import Hit

MIN_COLUMNS = 128
"""Scalars there is room for at least: most have no name before the first iteration has ended."""

StartRecorder = Callable[[Run], "Recorder"]

PARTS = ("snapshot", "maps", "state")
"""Large values fall due together: fields of voxels, corners and meshes; maps; the state."""

RUN_FILE = "run.h5"
CLOSE_SECS = 60.0


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    """Whatever goes wrong ends the recording with a line, never the run."""

    @functools.wraps(method)
    def call(self: Recorder, *arguments: Any) -> None:
        if self.status.stopped:
            return
        try:
            method(self, *arguments)
        except Exception as error:  # noqa: BLE001 - the recording's boundary towards the run
            self._outlet.stop(f"{type(error).__name__}: {' '.join(str(error).split())}")

    return call


class Recorder:
    """Records a run into path, or path-2 and so on where that exists. All of it is called from the run's thread.

    The run's iteration as it stands is recorded at once, with all there is. Large values (snapshots, maps, keyframes)
    that find no room in the queue are counted as dropped once and taken at the next iteration that has room for them.
    row: the scalars of that iteration, its history's where not given. Raises OSError where no process can be started.
    """

    def __init__(self, path: Path, run: Run, about: About | None = None, policy: RecordPolicy | None = None,
                 row: Mapping[str, float] | None = None) -> None:
        self._run, self._policy = run, policy or policy_of(run)
        self._halfway = self._policy.limit_bytes / 2
        self._row = row = HistoryTable(history_of(run)).last_row() if row is None else dict(row)
        n_columns = max(len(row or run.scalars()) + SPARE_SCALARS, MIN_COLUMNS)
        meta = meta_of(run, about or About(), self._policy)
        self.uid, self.n_keyframes = meta["uid"], 0  # keyframes given to the writer so far
        self._outlet = Outlet(path, meta, n_columns, self._policy)
        self._sources = Sources(run, self._outlet)
        self._owed: set[str] = set()  # parts that fell due and found no room
        self._put_off: set[str] = set()  # parts that fell due and cost too much as yet
        self._sizes: dict[str, int] = {}  # of each kind of part, as it was last
        self._cost: dict[str, tuple[float, float]] = {}  # seconds that it took last, and when
        self._first = self._reached = self._committed = run.iteration  # recorded up to; iteration of the latest commit
        self._changes: list[dict[str, Any]] = []
        self._hits: list[Hit] = []  # all of this way
        self._entered: dict[tuple[str, int, int], int] = {}  # those in the file, and the iteration of their commit
        self._within = False  # an iteration has begun
        self._needs_keyframe = self._finished = False
        self._latest: dict[str, int] = {}  # by kind of part: the iteration that it was recorded of
        self._begin()

    @property
    def status(self) -> RecordStatus:
        return self._outlet.status

    @property
    def writer_pid(self) -> int:
        return self._outlet.writer_pid

    # What happens to the run

    @_guarded
    def _begin(self) -> None:
        self._commit(self._row, set(PARTS))

    @_guarded
    def iteration_started(self, run: Run) -> None:
        """Before the first stage: a keyframe, where something was changed since the last one."""
        self._within = True
        if not self._needs_keyframe or run.iteration < self._reached:
            return
        due, later = self._changes_by(run.iteration)
        self._needs_keyframe = bool(later)
        if later and not due:  # gone back to before it: the state here doesn't hold it
            return
        if self._committed == run.iteration:
            self._commit(None, {"state"}, addition=True)
        else:  # on another way from here on
            self._commit(self._row, set(PARTS))

    @_guarded
    def iteration_ended(self, run: Run, row: Mapping[str, float]) -> None:
        """row: its scalars. An iteration that is in the file already isn't recorded again."""
        self._within, self._row = False, dict(row)
        if run.iteration <= self._reached:
            return
        self._reached = run.iteration
        self._double_intervals()
        self._commit(self._row, self._due(run.iteration))

    @_guarded
    def changed(self, change: ChangeSetting | ChangeCameras, n_stages: int = 0) -> None:
        """The user changed something, when so many stages of an iteration had run."""
        here = self._run.iteration
        place = here, n_stages  # what was changed beyond is no longer the run's future, nor what was recorded
        self._changes = [kept for kept in self._changes if (kept["iteration"], kept["n_stages"]) <= place]
        self._hits = [kept for kept in self._hits if (kept.iteration - 1, kept.n_stages) <= place]
        if here < self._reached:
            self._reached = here
            self._forget(here)
        self._changes.append(change_value(change, here, n_stages))
        self._needs_keyframe = True

    @_guarded
    def hit(self, hits: Sequence[Hit]) -> None:
        """Breakpoints stopped the run. Within an iteration that waits until it has ended, or all has."""
        known = {_key(hit) for hit in self._hits}  # by going back
        self._hits += [hit for hit in hits if _key(hit) not in known]
        if not self._within:
            self._commit_hits()

    @_guarded
    def went_back(self, iteration: int, row: Mapping[str, float] | None = None) -> None:
        """The run stands at the end of an iteration that it passed before; row: the scalars there, where it has any.

        What is run again up to where the run was isn't recorded twice, unless something is changed.
        """
        self._within, self._row = False, None if row is None else dict(row)

    @_guarded
    def finish(self) -> None:
        """Nothing more comes: the run as it stands is taken, if that is between two iterations. Doesn't wait."""
        if self._finished:
            return
        self._finished, run = True, self._run
        if not self._within and run.iteration == self._committed == self._reached:
            lacking = {name for name in PARTS if self._latest.get(name) != run.iteration}
            lacking |= {"state"} if self._needs_keyframe else set()
            self._commit(None, lacking, addition=True)
        self._commit_hits()
        self._outlet.end()

    def close(self, timeout_secs: float = CLOSE_SECS) -> None:
        """Finishes, and waits until all is written; what isn't by then is left out."""
        self.finish()
        self._outlet.close(timeout_secs)

    # What is recorded

    def _due(self, iteration: int) -> set[str]:
        """The parts that fall due with this iteration, and those put off before that the run can afford by now."""
        every = {"snapshot": self._policy.snapshot_every, "maps": self._policy.maps_every,
                 "state": self._policy.keyframe_every}
        self._put_off |= {name for name, interval in every.items() if iteration % interval == 0}
        due = {name for name in self._put_off if self._affordable(name)}
        if iteration == self._first + 1:
            due |= {"snapshot", "maps"}  # the first of their kind
        if "snapshot" not in self._owed and self._sources.voxels_changed():
            due.add("snapshot")
        self._put_off -= due
        return due

    def _affordable(self, name: str) -> bool:
        secs, at = self._cost.get(name, (0.0, 0.0))
        return secs <= self._policy.cost_share * (time.perf_counter() - at)

    def _commit(self, row: Mapping[str, float] | None, due: set[str], addition: bool = False) -> None:
        """What is due and what was owed, as far as there is room for it; all small things, unless it is an addition."""
        sources, iteration = self._sources, self._run.iteration
        values = self._large(due)
        if not addition:
            if sources.voxels_changed():  # there was no room for them
                values |= sources.taken(sources.nothing_of_voxels())
            values |= sources.taken(sources.every_iteration())
        elif not values:
            return
        scalars = None if row is None else {name: _number(value) for name, value in row.items()}
        due, later = self._changes_by(iteration)
        if due:  # first: a keyframe holds those that are entered before it
            values = {CHANGES: due, **values}
        rows = {sources.row(name): value for name, value in values.items()}
        if not self._outlet.put(iteration, rows, scalars, addition):
            self._drop(1)
            self._forget(self._committed)
            return
        if not addition and iteration <= self._committed:  # it replaces that one and all after it
            self._entered = {key: at for key, at in self._entered.items() if at < iteration}
        self._changes, self._committed = later, iteration
        if not addition:
            self._commit_hits()
        self.n_keyframes += STATE in values

    def _commit_hits(self) -> None:
        """Adds those that wait to the last commit."""
        due = [hit for hit in self._hits if _key(hit) not in self._entered]
        if due and self._committed == self._reached and self._outlet.put(
                self._committed, {self._sources.row(HITS): [hit_value(hit) for hit in due]}, None, True):
            self._entered |= {_key(hit): self._committed for hit in due}

    def _changes_by(self, iteration: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Changes not yet in the file: those made up to the end of an iteration, and those made after it."""
        places = [(change["iteration"], change["n_stages"]) <= (iteration, 0) for change in self._changes]
        return ([change for change, due in zip(self._changes, places, strict=True) if due],
                [change for change, due in zip(self._changes, places, strict=True) if not due])

    def _large(self, due: set[str]) -> dict[str, Any]:
        """The values of the parts for which there is room; the others stay owed, and are counted when they fall due."""
        values: dict[str, Any] = {}
        self._owed |= due
        for name in sorted(self._owed):
            # by its last size first: what has no room needn't be copied
            if self._outlet.room_for(size_of(values) + self._sizes.get(name, 0)):
                started = time.perf_counter()
                part = getattr(self._sources, name)()
                self._sizes[name] = size_of(part.values)
                self._cost[name] = time.perf_counter() - started, started
                if self._outlet.room_for(size_of(values) + self._sizes[name]):
                    values |= self._sources.taken(part)
                    self._owed.discard(name)
                    self._latest[name] = self._run.iteration
        self._drop(len(due & self._owed))
        return values

    def _drop(self, n: int) -> None:
        if n:
            self._outlet.change_status(n_dropped=self.status.n_dropped + n)

    def _forget(self, iteration: int) -> None:
        self._sources.forget(iteration)
        self._owed |= {"snapshot", "maps"}  # all that holds until it changes has to come anew

    def _double_intervals(self) -> None:
        """Once for every half of what was left that is used up."""
        limit, n_bytes = self._policy.limit_bytes, self.status.n_bytes
        while self._halfway < n_bytes and limit - self._halfway > 1:
            self._policy = self._policy.doubled()
            self._halfway += (limit - self._halfway) / 2


def recording_into(folder: Path, about: About, policy: RecordPolicy | None = None) -> StartRecorder:
    """Records a run into run.h5 of a folder, or run-2.h5 and so on: what is there is kept."""
    return lambda run: Recorder(folder / RUN_FILE, run, about, policy)


class LateRecorder:
    """Begins to record with the first iteration, so that a run that is only looked at leaves no file; start: None where
    nothing is to be recorded. Where that fails its status says so."""

    def __init__(self, start: StartRecorder | None) -> None:
        self._start, self._failed = start, ""
        self._recorder: Recorder | None = None

    @property
    def status(self) -> RecordStatus | None:
        if self._recorder is not None:
            return self._recorder.status
        return RecordStatus(Path(RUN_FILE), stopped=self._failed) if self._failed else None

    def iteration_started(self, run: Run) -> None:
        if self._recorder is None and self._start is not None:
            start, self._start = self._start, None
            try:
                self._recorder = start(run)
            except Exception as error:  # noqa: BLE001 - what a run of one's own gives may be anything
                self._failed = f"{type(error).__name__}: {error}"
        if self._recorder is not None:
            self._recorder.iteration_started(run)

    def iteration_ended(self, run: Run, row: Mapping[str, float]) -> None:
        if self._recorder is not None:
            self._recorder.iteration_ended(run, row)

    def changed(self, change: ChangeSetting | ChangeCameras, n_stages: int) -> None:
        if self._recorder is not None:
            self._recorder.changed(change, n_stages)

    def hit(self, hits: Sequence[Hit]) -> None:
        if self._recorder is not None:
            self._recorder.hit(hits)

    def went_back(self, iteration: int, row: Mapping[str, float] | None) -> None:
        if self._recorder is not None:
            self._recorder.went_back(iteration, row)

    @property
    def n_keyframes(self) -> int:
        """Keyframes that were taken so far, whether or not they are in the file yet."""
        return 0 if self._recorder is None else self._recorder.n_keyframes

    def read_state(self, iteration: int) -> Any:
        """The keyframe of this very iteration, from the file as far as it is written; OSError or ValueError."""
        if self._recorder is None:
            raise ValueError("nothing is recorded")
        return state_at(self._recorder.status.path, iteration, self._recorder.uid)

    def finish(self) -> None:
        if self._recorder is not None:
            self._recorder.finish()

    def close(self, timeout_secs: float = CLOSE_SECS) -> None:
        if self._recorder is not None:
            self._recorder.close(timeout_secs)


def state_at(path: Path, iteration: int, uid: str) -> Any:
    """The keyframe of an iteration in the recording of this uid, which may be being written. OSError where that file is
    gone, ValueError where it has none of this iteration."""
    from workbench.recording.reader import Recording

    with Recording(path, cache_bytes=0) as recording:
        if recording.meta.uid != uid:
            raise OSError(f"{path} is another recording by now")
        found = recording.keyframe_before(iteration)
        if found is None or found[0] != iteration:
            raise ValueError("it is not in the file")
        return found[1]


def _key(hit: Hit) -> tuple[str, int, int]:
    """What tells a hit from others of a run."""
    return hit.expression, hit.iteration, hit.n_stages


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
