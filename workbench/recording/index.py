"""Index of a recording: the HDF5 file opened with every check that a stranger's file needs, and where each value lies.

All of it is numpy: a file of 10 GB with a million entries is indexed in well under a second. Whatever is wrong with a
file raises ValueError; nothing declared in it is believed before the file is long enough for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from workbench.recording.hdf5 import open_for_reading
from workbench.recording.layout import (
    COMMIT,
    COMMITS,
    ENTRIES,
    ENTRY,
    META,
    NAME_BYTES,
    OWN_STREAMS,
    PAYLOAD,
    SCALAR_NAMES,
    SCALARS,
    SCHEMA,
    VERSION,
)

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK = 3  # the only one in single-writer-multiple-reader mode; its metadata have checksums
_MAX_META_BYTES = 1 << 22
_MAX_CHUNK_BYTES = 1 << 24
_MAX_ROWS = {COMMITS: 1 << 23, ENTRIES: 1 << 25, SCALARS: 1 << 23, SCALAR_NAMES: 1 << 12, PAYLOAD: 1 << 50}
_MAX_TABLE_BYTES = 1 << 30
_MAX_STREAMS = 4096
_TAIL = 64
"""So many of the last commits may be incomplete, as they are while the file is being written."""

_KINDS = ("voxels", "voxel", "corner", "mesh", "map", "trace", "prune", "points", "point")
_BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError,
           RecursionError, IndexError)


@contextlib.contextmanager
def told_of(what: object) -> Iterator[None]:
    """Whatever h5py, JSON and numpy raise for a malformed file becomes one line that begins with what."""
    try:
        yield
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what}: {reason}"[:400]) from None


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a recording says of its run; table: all of it, see recordings/README.md."""

    uid: str
    name: str
    title: str
    stages: tuple[str, ...]
    streams: tuple[str, ...]
    field_kinds: Mapping[str, str]
    parent: Mapping[str, Any] | None
    table: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Where the values of a stream lie: rows of `entries`, and the iteration each is entered under, both rising."""

    rows: np.ndarray
    iterations: np.ndarray

    def at(self, iteration: int) -> int:
        """The place of the last value at or before an iteration; -1 where there is none."""
        return int(np.searchsorted(self.iterations, iteration, side="right")) - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """What is committed and not replaced. iterations: those that can be shown, rising; scalars (n, K) by scalar_names,
    scalar_iterations (n,) the commit's of each row; secs: since the recording began, of each of iterations."""

    iterations: np.ndarray
    secs: np.ndarray
    streams: tuple[Stream, ...]
    scalar_names: tuple[str, ...]
    scalars: np.ndarray
    scalar_iterations: np.ndarray


class _Shared:
    """A file that is open, with its datasets, and how many read it."""

    def __init__(self, path: Path) -> None:
        self.file = open_for_reading(path)
        self.datasets: dict[str, h5py.Dataset] = {}
        self.n_users = 0


_LOCK = threading.Lock()
_OPEN: weakref.WeakValueDictionary[tuple[int, int], _Shared] = weakref.WeakValueDictionary()


def _opened(path: Path) -> _Shared:
    """The file, opened once a process: where a dataset is open twice and one of them is refreshed, HDF5 reads wrong
    bytes by both."""
    with _LOCK:
        about = path.stat()
        found = _OPEN.get((about.st_dev, about.st_ino))
        if found is None or not found.file:
            found = _OPEN[about.st_dev, about.st_ino] = _Shared(path)
        found.n_users += 1
        return found


class Tables:
    """The datasets of an open file, read as far as they are committed; `refresh` reads what has come since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise FileNotFoundError(f"no such recording: {path}")
        with told_of(f"{path} is no recording"):
            with path.open("rb") as file:
                start = file.read(9)
            if start[:8] != _SIGNATURE or start[8:] != bytes([_SUPERBLOCK]):
                raise ValueError("it must be an HDF5 file in single-writer-multiple-reader mode")
            self._shared = _opened(path)
            self._file = self._shared.file
        try:
            with told_of(f"{path} is no recording"):
                self.meta = _meta(self._file)
                for name in _MAX_ROWS:
                    if name not in self._shared.datasets:
                        self._shared.datasets[name] = self._dataset(name)
                self._datasets = self._shared.datasets
            self.entries, self.commits = np.zeros(0, ENTRY), np.zeros(0, COMMIT)
            self._scalars, self._names = np.zeros((0, 0)), ()
            self.index: Index | None = None
            self.refresh()
            if not len(self.commits):
                raise ValueError(f"{path}: nothing is committed in it yet")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        shared, self._shared = self._shared, None
        with _LOCK, contextlib.suppress(*_BROKEN):
            if shared is not None:
                shared.n_users -= 1
                if shared.n_users == 0:
                    shared.file.close()

    def _dataset(self, name: str) -> h5py.Dataset:
        """A dataset of the layout, in this very file and without filters (whose code and expansion aren't ours)."""
        if not isinstance(self._file.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} must be a dataset of this file")
        found = self._file[name]
        if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external or found.chunks is None:
            raise ValueError(f"{name} must be a chunked dataset of this file")
        if found.id.get_create_plist().get_nfilters():
            raise ValueError(f"{name} must have no filters")
        kind = {PAYLOAD: np.dtype("u1"), ENTRIES: ENTRY, COMMITS: COMMIT, SCALARS: np.dtype("<f8")}.get(name)
        good = found.dtype == kind if kind is not None else found.dtype == np.dtype(f"S{NAME_BYTES}")
        if not good or found.ndim != (2 if name == SCALARS else 1):
            raise ValueError(f"{name} has the wrong type or shape, {found.dtype} {found.shape}"[:200])
        if math.prod(found.chunks) * found.dtype.itemsize > _MAX_CHUNK_BYTES:
            raise ValueError(f"{name} must have chunks of at most {_MAX_CHUNK_BYTES} bytes, got {found.chunks}")
        return found

    def _length(self, name: str) -> int:
        """Rows that are there; what is declared beyond the file's size is not."""
        found = self._datasets[name]
        row_bytes = found.dtype.itemsize * (found.shape[1] if name == SCALARS else 1)
        rows = int(found.shape[0])
        if rows * row_bytes > os.path.getsize(self.path) or rows > _MAX_ROWS[name]:
            raise ValueError(f"{name} must have rows that the file holds, got {rows}")
        if name != PAYLOAD and rows * row_bytes > _MAX_TABLE_BYTES:
            raise ValueError(f"{name} must have at most {_MAX_TABLE_BYTES} bytes, got {rows * row_bytes}")
        return rows

    def payload(self, start: int, n_bytes: int) -> bytes:
        """Committed bytes; ValueError beyond them."""
        if start < 0 or n_bytes < 0 or start + n_bytes > int(self.commits["n_payload"][-1]):
            raise ValueError(f"bytes {start} to {start + n_bytes} lie beyond the payload")
        return self._datasets[PAYLOAD][start : start + n_bytes].tobytes()

    def last_row_beside(self, row: int) -> int:
        """The last of the entries that were committed together with one."""
        ends = self.commits["n_entries"]
        return int(ends[np.searchsorted(ends, row, side="right")]) - 1

    # Tables

    def refresh(self) -> bool:
        """Reads what was committed since; whether that was anything."""
        with told_of(self.path):
            # commits first: all others are then at least as long as they were when these were written
            for name in (COMMITS, ENTRIES, SCALARS, SCALAR_NAMES, PAYLOAD):
                self._datasets[name].refresh()
            n_known = len(self.commits)
            commits = np.concatenate([self.commits, self._datasets[COMMITS][n_known : self._length(COMMITS)]])
            commits = self._complete(commits, n_known)
            if len(commits) == n_known:
                return False
            entries = self._datasets[ENTRIES][len(self.entries) : int(commits["n_entries"][-1])]
            entries = np.concatenate([self.entries, entries])
            commits = _placed(commits, entries, len(self.meta.streams), n_known)
            if len(commits) == n_known:
                return False
            self._read_scalars(commits)
            self.commits, self.entries = commits, entries[: int(commits["n_entries"][-1])]
            self.index = self._indexed()
        return True

    def _complete(self, commits: np.ndarray, n_known: int) -> np.ndarray:
        """The commits up to the last whose counts the other datasets have reached."""
        lengths = {f"n_{name}": self._length(dataset) for name, dataset in
                   (("entries", ENTRIES), ("scalars", SCALARS), ("names", SCALAR_NAMES), ("payload", PAYLOAD))}
        good = (commits["iteration"] >= 0) & (commits["secs"] > 0) & np.isfinite(commits["secs"])
        good &= (commits["addition"] >= 0) & (commits["addition"] <= 1)
        for name, length in lengths.items():
            counts = commits[name]
            good &= (counts >= 0) & (counts <= length) & (counts >= np.maximum.accumulate(counts))
        adds = commits["addition"] == 1
        if len(commits):
            good[0] &= not adds[0]
            good[1:] &= ~adds[1:] | (commits["iteration"][1:] == commits["iteration"][:-1])
        return _up_to_bad(commits, good, n_known, "commits")

    def _read_scalars(self, commits: np.ndarray) -> None:
        n_rows, n_names = int(commits["n_scalars"][-1]), int(commits["n_names"][-1])
        names = [bytes(name).decode() for name in self._datasets[SCALAR_NAMES][:n_names]]
        if len(set(names)) < len(names) or n_names > self._datasets[SCALARS].shape[1]:
            raise ValueError("scalar_names must differ, one a column of scalars")
        # the last rows anew: they may have been seen before they were whole
        first = max(min(len(self._scalars), n_rows) - _TAIL, 0)
        table = np.full((n_rows, n_names), math.nan)
        table[:first, : self._scalars.shape[1]] = self._scalars[:first]
        table[first:] = self._datasets[SCALARS][first:n_rows, :n_names]
        table.flags.writeable = False
        self._scalars, self._names = table, tuple(names)

    def _indexed(self) -> Index:
        commits = self.commits
        iterations, anew = commits["iteration"], commits["addition"] == 0
        # replaced by a later commit of the same or an earlier iteration, which doesn't merely add
        later = np.where(anew, iterations, np.iinfo(np.int64).max)[::-1]
        least_after = np.concatenate([np.minimum.accumulate(later)[::-1][1:], [np.iinfo(np.int64).max]])
        stands = iterations < least_after
        entry_commits = _owners(commits["n_entries"])
        rows = np.flatnonzero(stands[entry_commits])
        streams, entered = self.entries["stream"][rows], iterations[entry_commits[rows]]
        order = np.argsort(streams, kind="stable")
        edges = np.searchsorted(streams[order], np.arange(len(self.meta.streams) + 1))
        found = tuple(Stream(rows[part], entered[part]) for part in np.split(order, edges[1:-1]))
        row_commits = _owners(commits["n_scalars"])
        kept = stands[row_commits]
        shown = stands & anew
        scalars = self._scalars if kept.all() else self._scalars[kept]
        scalars.flags.writeable = False
        return Index(iterations[shown], commits["secs"][shown], found, self._names, scalars,
                     iterations[row_commits[kept]])


def _owners(counts: np.ndarray) -> np.ndarray:
    """By cumulated counts, the row that each of the counted belongs to."""
    return np.repeat(np.arange(len(counts)), np.diff(counts, prepend=0))


def _up_to_bad(commits: np.ndarray, good: np.ndarray, n_known: int, what: str) -> np.ndarray:
    """The rows before the first bad one, which must be among the last: those may not be whole yet."""
    if good.all():
        return commits
    first = int(good.argmin())
    if first < n_known or first < len(commits) - _TAIL:
        raise ValueError(f"{what}: row {first} is damaged")
    return commits[:first]


def _placed(commits: np.ndarray, entries: np.ndarray, n_streams: int, n_known: int) -> np.ndarray:
    """The commits whose entries lie in the payload that was committed with them."""
    owners = _owners(commits["n_entries"])
    end = commits["n_payload"][owners]
    good = (entries["stream"] >= 0) & (entries["stream"] < n_streams) & (entries["start"] >= 0)
    good &= (entries["n_bytes"] > 0) & (entries["start"] <= end) & (entries["n_bytes"] <= end - entries["start"])
    whole = np.ones(len(commits), bool)
    whole[owners[~good]] = False
    return _up_to_bad(commits, whole, n_known, "entries of commits")


def _meta(file: h5py.File) -> Meta:
    if META not in file.attrs:
        raise ValueError(f"it must have the attribute {META}")
    place = file.attrs.get_id(META)
    if place.shape != () or place.dtype.kind not in "OS" or place.get_storage_size() > _MAX_META_BYTES:
        raise ValueError(f"{META} must be one text")
    text = file.attrs[META]
    if not isinstance(text, (str, bytes, np.bytes_)) or len(text) > _MAX_META_BYTES:
        raise ValueError(f"{META} must be one text of at most {_MAX_META_BYTES} bytes")
    table = json.loads(text)
    if not isinstance(table, dict) or table.get("schema") != SCHEMA or table.get("version") != VERSION:
        raise ValueError(f"{META} must be of {SCHEMA}, version {VERSION}")
    for name in ("uid", "name"):
        if not isinstance(table.get(name), str) or len(table[name]) > 4096:
            raise ValueError(f"{name} in {META} must be a text, got {str(table.get(name))[:60]!r}")
    streams, kinds = _texts(table, "streams", _MAX_STREAMS), table.get("field_kinds")
    if not isinstance(kinds, dict) or not all(kind in _KINDS for kind in kinds.values()):
        raise ValueError(f"field_kinds in {META} must have names and kinds, got {str(kinds)[:60]!r}")
    if len(set(streams)) < len(streams) or not set(kinds) <= set(streams) or set(kinds) & set(OWN_STREAMS):
        raise ValueError(f"streams in {META} must have every field once")
    parent, title = table.get("parent"), table.get("title")
    return Meta(table["uid"], table["name"], title if isinstance(title, str) else table["name"],
                _texts(table, "stages", 256), streams, kinds, parent if isinstance(parent, dict) else None, table)


def _texts(table: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    found = table.get(name)
    if not isinstance(found, list) or not 1 <= len(found) <= most or not all(isinstance(text, str) for text in found):
        raise ValueError(f"{name} in {META} must be 1 to {most} texts, got {str(found)[:60]!r}")
    return tuple(found)
