"""Recording: reads a run.h5, whole or while it is being written, within a bound of memory; see recordings/README.md."""

from __future__ import annotations

import dataclasses
import weakref
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sparseflex.camera import Camera
from sparseflex.training.fit_cameras import camera_key
from sparseflex.training.pruning import MAX_EVENTS, PruneEvent
from sparseflex.training.run import Setting, rows_of
from workbench.commands import ChangeSetting
from workbench.recording.cache import ByteCache
from workbench.recording.codec import value_of
from workbench.recording.field_values import check_size, field_of
from workbench.recording.index import Stream, Tables, told_of
from workbench.recording.layout import CAMERAS, CHANGES, HITS, STATE
from workbench.recording.states import state_of
from workbench.recording.values import Cameras, Changed, cameras_of, change_of, events_of, hit_of, settings_of
from workbench.snapshot import History, Hit

CACHE_BYTES = 512_000_000
"""What is kept of values that were read, at most: a bound whatever the file's size."""

_RECENT_CAMERAS = 64
_MAX_LISTED = 10_000


class Recording:
    """A recording, opened for reading; all of it belongs to one thread.

    Everything that is malformed raises ValueError with one line, a missing file FileNotFoundError. Values are read when
    asked for and kept up to cache_bytes, those used last; equal values are one and the same object as long as they are
    kept.
    """

    def __init__(self, path: str | Path, cache_bytes: float = CACHE_BYTES) -> None:
        self.path = Path(path)
        self._tables = Tables(self.path)
        self.meta = self._tables.meta
        self._place = {name: number for number, name in enumerate(self.meta.streams)}
        self._cache = ByteCache(cache_bytes)
        self._derived: dict[str, tuple[Any, Any]] = {}
        self._cameras: weakref.WeakValueDictionary[tuple, Camera] = weakref.WeakValueDictionary()

    def close(self) -> None:
        self._tables.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def refresh(self) -> bool:
        """Takes in what has been committed since; whether there was anything."""
        return self._tables.refresh()

    # What there is

    @property
    def iterations(self) -> np.ndarray:
        """Those that are recorded, rising, int64; the run as it stood when the recording began is the first."""
        return self._tables.index.iterations

    @property
    def secs(self) -> np.ndarray:
        """When each of `iterations` ended, since the recording began."""
        return self._tables.index.secs

    @property
    def n_cached_bytes(self) -> int:
        return self._cache.n_bytes

    def stream(self, name: str) -> Stream:
        """Where the values of a stream lie; empty where there is none of that name."""
        place = self._place.get(name)
        return self._tables.index.streams[place] if place is not None else Stream(np.zeros(0, np.int64),
                                                                                  np.zeros(0, np.int64))

    def nearest(self, iteration: int) -> int:
        """The recorded iteration at or before one, or the first."""
        return int(self.iterations[max(int(np.searchsorted(self.iterations, iteration, side="right")) - 1, 0)])

    @property
    def keyframes(self) -> np.ndarray:
        """Iterations at which the complete state is recorded."""
        return self._once("keyframes", lambda: np.unique(self.stream(STATE).iterations))

    def marks(self) -> dict[str, np.ndarray]:
        """Iterations of what plots mark: keyframes, prunings, changes of the user's, hits of breakpoints."""
        return self._once("marks", self._marked)

    def _marked(self) -> dict[str, np.ndarray]:
        pruned = [self.stream(name).iterations for name, kind in self.meta.field_kinds.items() if kind == "prune"]
        pruned = np.concatenate([np.zeros(0, np.int64), *pruned])
        hits = np.array([hit.iteration for hit in self.hits()], np.int64)
        return {"keyframes": self.keyframes, "prunings": np.unique(pruned[pruned > self.iterations[0]]),
                "changes": np.unique(self.stream(CHANGES).iterations),
                "hits": np.unique(np.minimum(hits, self.iterations[-1]))}

    def scalars(self) -> History:
        """All scalars of all iterations; the same object until something new is committed."""
        index = self._tables.index
        return self._once("scalars", lambda: _history(index.scalar_names, index.scalars, index.scalar_iterations))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """What is derived from the index, made anew when that is another."""
        index = self._tables.index
        known = self._derived.get(name)
        if known is None or known[0] is not index:
            known = self._derived[name] = (index, make())
        return known[1]

    # Reading

    def read(self, stream: str, iteration: int) -> tuple[Any, int] | None:
        """The value that holds at an iteration and the one that it was entered under, or None where there is none.

        Fields come as in Snapshot.fields, cameras as Cameras, changes as those of that entry; a state has its tensors.
        """
        found = self.stream(stream)
        place = found.at(iteration)
        if place < 0:
            return None
        entered = int(found.iterations[place])
        with told_of(f"{self.path}: {stream} at iteration {entered}"):
            kind = self.meta.field_kinds.get(stream)
            if kind == "prune":
                return self._events(found, place), entered
            owner = rows_of(stream, kind)
            if owner is not None and self._entry(owner, iteration) != self._entry(owner, entered):
                return None
            return self._value(stream, kind, int(found.rows[place]), iteration), entered

    def snapshot_fields(self, names: Collection[str], iteration: int) -> tuple[dict[str, Any], dict[str, int]]:
        """The fields of these names as they hold at an iteration, and where they are older than it, from which one."""
        fields, older = {}, {}
        for name in sorted(set(names) & set(self.meta.field_kinds)):
            found = self.read(name, iteration)
            if found is not None and found[0] is not None:
                fields[name] = found[0]
                kind, date = self.meta.field_kinds[name], found[1]
                if kind == "mesh":  # entered where it changed, looked at with every snapshot
                    date = max(date, self._snapshot_before(iteration))
                # voxels, points and prunings hold until the next entry; all else was only looked at then
                if date < iteration and kind not in ("voxels", "prune", "points"):
                    older[name] = date
        return fields, older

    def _snapshot_before(self, iteration: int) -> int:
        """The last one of which all fields were recorded, so far as those of corners tell; -1 where there is none."""
        dates = [-1]
        for name, kind in self.meta.field_kinds.items():
            if kind == "corner":
                stream = self.stream(name)
                place = stream.at(iteration)
                dates.append(int(stream.iterations[place]) if place >= 0 else -1)
        return max(dates)

    def cameras(self, iteration: int) -> Cameras:
        """The cameras as a snapshot has them: the iteration's, recent ones, and what else is of the user's own."""
        stream = self.stream(CAMERAS)
        place = stream.at(iteration)
        if place < 0:
            return Cameras()
        with told_of(f"{self.path}: cameras at iteration {int(stream.iterations[place])}"):
            now = self._value(CAMERAS, None, int(stream.rows[place]), iteration)
            current = [known for known in now.listed if known.iteration is not None]
            rest = [known for known in now.listed if known.iteration is None]
            seen = {(id(known.camera), known.iteration) for known in current}
            for row in stream.rows[max(place - _RECENT_CAMERAS, 0) : place][::-1]:
                for known in self._value(CAMERAS, None, int(row), iteration).listed:
                    key = id(known.camera), known.iteration
                    if known.iteration is not None and key not in seen and len(current) < _RECENT_CAMERAS:
                        seen.add(key)
                        current.append(known)
                if len(current) >= _RECENT_CAMERAS:
                    break
            own = {id(camera) for camera in (*(now.own or ()), *now.kept)}
            current = [known if known.own is None or id(known.own) in own else dataclasses.replace(known, own=None)
                       for known in current]
            among = {id(known.own) for known in current if known.own is not None}
            rest = [known for known in rest if known.own is None or id(known.own) not in among]
            return dataclasses.replace(now, listed=(*current, *rest))

    def changes(self) -> list[tuple[int, Changed]]:
        """What the user changed, in order, each with its row of the entries."""
        return self._once("changes", lambda: self._listed(CHANGES))

    def hits(self) -> list[Hit]:
        """Where breakpoints stopped the run, in order; the last one may be within an iteration that never ended."""
        return self._once("hits", lambda: [hit for _, hit in self._listed(HITS)])

    def _listed(self, stream: str) -> list[tuple[int, Any]]:
        """What a stream lists in all its entries, each with its row of the entries."""
        rows, name = self.stream(stream).rows, stream.removeprefix("/")
        if len(rows) > _MAX_LISTED:
            raise ValueError(f"{self.path}: at most {_MAX_LISTED} entries of {name} can be read, got {len(rows)}")
        with told_of(f"{self.path}: {name}"):
            return [(int(row), item) for row in rows for item in self._value(stream, None, int(row), 0)]

    def changes_after_keyframe(self, iteration: int) -> list[Changed]:
        """Those that the last keyframe at or before an iteration doesn't hold, up to the end of that iteration."""
        stream = self.stream(STATE)
        place = stream.at(iteration)
        # of its own commit, too: the state was taken after them
        kept = self._tables.last_row_beside(int(stream.rows[place])) if place >= 0 else -1
        until = (iteration, 0)
        return [made for row, made in self.changes() if row > kept and (made.iteration, made.n_stages) <= until]

    def settings(self, iteration: int) -> dict[str, Setting]:
        """The settings as they were chosen at the end of an iteration."""
        with told_of(f"{self.path}: settings"):
            settings = self._once("settings", lambda: settings_of(self.meta.table.get("settings")))
        chosen = dict(settings)
        for _, made in self.changes():
            change = made.change
            if isinstance(change, ChangeSetting) and change.name in chosen and (
                    (made.iteration, made.n_stages) <= (iteration, 0)):
                chosen[change.name] = dataclasses.replace(chosen[change.name], value=change.value)
        return chosen

    def keyframe_before(self, iteration: int) -> tuple[int, Any] | None:
        """The last complete state at or before an iteration: the iteration it stands at, and the state."""
        found = self.read(STATE, iteration)
        return None if found is None else (found[1], found[0])

    def verify(self) -> Iterator[int]:
        """Reads every committed value, replaced ones too, and checks it against its checksums, types and shapes;
        yields how many entries are read. Raises ValueError with the first that is damaged."""
        entries, index, seen = self._tables.entries, self._tables.index, set()
        at = {int(row): (name, place) for name in self.meta.streams
              for place, row in enumerate(self.stream(name).rows.tolist())}
        for row in range(len(entries)):
            name = self.meta.streams[int(entries["stream"][row])]
            with told_of(f"{self.path}: entry {row}, {name} at iteration {int(entries['iteration'][row])}"):
                header = self._header(row)
                if header not in seen:  # equal headers name the same bytes
                    check_size(header)
                    value_of(header, self._tables.payload)
                    seen.add(header)
                if row in at:
                    stream, place = self.stream(name), at[row][1]
                    entered = int(stream.iterations[place])
                    if entered != int(entries["iteration"][row]):
                        raise ValueError(f"its commit is of iteration {entered}")
                    self._value(name, self.meta.field_kinds.get(name), row, entered)
            yield row + 1
        if "iteration" in index.scalar_names:
            column = index.scalars[:, index.scalar_names.index("iteration")]
            bad = np.flatnonzero(column > index.scalar_iterations)
            if len(bad):
                raise ValueError(f"{self.path}: row {bad[0]} of scalars is of another iteration than its commit")

    @property
    def n_entries(self) -> int:
        return len(self._tables.entries)

    # Values

    def _header(self, row: int) -> bytes:
        entry = self._tables.entries[row]
        header = self._tables.payload(int(entry["start"]), int(entry["n_bytes"]))
        if zlib.crc32(header) != int(entry["crc"]):
            raise ValueError("its header is damaged")
        return header

    def _value(self, stream: str, kind: str | None, row: int, iteration: int) -> Any:
        """The value of an entry, from the cache where it is there; a keyframe's is not kept."""
        header = self._header(row)
        if stream == STATE:
            return state_of(self._decoded(header))
        if rows_of(stream, kind) is not None:
            array = self._cache.get((kind, header), lambda: field_of(kind, self._decoded(header)))
            wanted = self._n_rows(stream, kind, iteration)
            if array is not None and array.shape[0] != wanted:
                raise ValueError(f"{stream} must have {wanted} rows, got {array.shape[0]}")
            return array
        if stream == CAMERAS:
            return self._cache.get((stream, header), lambda: cameras_of(self._decoded(header), self._camera_known))
        if stream in (CHANGES, HITS):
            listed = self._decoded(header)
            items = listed if type(listed) is list else [listed]
            return [hit_of(item) if stream == HITS else change_of(item, self._camera_known) for item in items]
        return self._cache.get((kind, header), lambda: field_of(kind, self._decoded(header)))

    def _decoded(self, header: bytes) -> Any:
        check_size(header)
        return value_of(header, self._tables.payload)

    def _camera_known(self, camera: Camera) -> Camera:
        """One object for equal cameras: the window tells own ones apart by identity."""
        return self._cameras.setdefault(camera_key(camera), camera)

    def _events(self, stream: Stream, place: int) -> tuple[PruneEvent, ...]:
        """What was pruned up to an entry, as much of it as a run itself keeps: one that begins again at a level that it
        has been at, as every pass of an inference does, keeps what it pruned since."""
        events: list[PruneEvent] = []
        for row in stream.rows[: place + 1][::-1]:
            header = self._header(int(row))
            fresh = self._cache.get(("prune", header), lambda header=header: events_of(self._decoded(header)))
            events = [*fresh, *events]
            begun = max((k for k in range(1, len(events)) if _begins_again(*events[k - 1 : k + 1])), default=0)
            events = events[begun:]
            if begun or len(events) >= MAX_EVENTS:
                break
        return self._cache.get(("events", int(stream.rows[place])), lambda: tuple(events[-MAX_EVENTS:]))

    def _owner(self, name: str) -> Stream:
        """Voxels or points that rows of other fields belong to."""
        return self.stream(name if self.meta.field_kinds.get(name) in ("voxels", "points") else "")

    def _entry(self, name: str, iteration: int) -> bytes | None:
        """What names voxels or points at an iteration: equal headers are equal ones."""
        stream = self._owner(name)
        place = stream.at(iteration)
        return None if place < 0 else self._header(int(stream.rows[place]))

    def _n_rows(self, stream: str, kind: str, iteration: int) -> int:
        """How many rows a field has to have; -1 where there is nothing that they could belong to."""
        name = rows_of(stream, kind)
        place = self._owner(name).at(iteration)
        if place < 0:
            return -1
        owner = self._value(name, self.meta.field_kinds[name], int(self._owner(name).rows[place]), iteration)
        if owner is None:
            return -1
        return len(owner) if kind == "point" else owner.n_corners if kind == "corner" else owner.n_voxels


def _begins_again(before: PruneEvent, event: PruneEvent) -> bool:
    return event.subdivided and event.level <= before.level


def _history(names: tuple[str, ...], table: np.ndarray, iterations: np.ndarray) -> History:
    """With a whole column of iterations, whatever the file has: plots stand on it."""
    column = iterations.astype(np.float64)
    if "iteration" in names:
        known = table[:, names.index("iteration")]
        if np.isfinite(known).all() and (np.diff(known) > 0).all():
            return History(names, table)
        table = table.copy()
        table[:, names.index("iteration")] = column
    else:
        names, table = ("iteration", *names), np.column_stack([column, table])
    table.flags.writeable = False
    return History(names, table)
