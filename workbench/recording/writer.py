"""The process that writes a recording: it takes messages on its standard input and appends them to an HDF5 file.

It is a process of its own as HDF5 can't go on after a failed write, nor even end in good order. It needs numpy and
h5py alone. A message is its length in bytes (8, little endian), JSON of that length, then the raw bytes of the arrays
that the JSON names; see workbench/recording/outlet.py for the other end. Answers are lines of JSON on standard output.
"""

from __future__ import annotations

import collections
import hashlib
import json
import math
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from workbench.recording import layout
from workbench.recording.codec import pack_array

KNOWN_ARRAYS = 50_000
"""How many of the arrays stored last are found again where an equal one comes."""

STALE_SECS = 60.0
"""A file of that age which still has its temporary name was left by a process that was killed."""


_INDEX_BYTES = 1 << 16


class Full(Exception):
    """The recording ends in good order; its text says why."""


class RecordingFile:
    """An HDF5 file laid out as workbench/recording/layout.py says, in single-writer mode; only ever appended to.

    limit_bytes: of the file; reserve_bytes: of the disk, which are to stay free. commit raises Full before either is
    passed, and OSError where the system refuses to write: then nothing more may be done with the file, not even close.
    """

    def __init__(self, wanted: Path, meta: dict[str, Any], n_columns: int, limit_bytes: float, reserve_bytes: float):
        self._limit, self._reserve = limit_bytes, reserve_bytes
        self._columns: dict[str, int] = {}
        self._known: collections.OrderedDict[bytes, list] = collections.OrderedDict()
        self._started = time.monotonic()
        self.keyframe_bytes: int | None = None
        """What the state in the last commit took, None where it held none."""
        self.path, part = _reserved(wanted)
        self._folder = part.parent
        # no chunk cache: what is appended goes straight to its place, instead of a whole chunk with every flush
        self._file = h5py.File(part, "w", libver="latest", rdcc_nbytes=0)
        self._file.attrs[layout.META] = json.dumps(meta)
        self._payload = self._made(layout.PAYLOAD, np.uint8, layout.PAYLOAD_CHUNK)
        self._entries = self._made(layout.ENTRIES, layout.ENTRY, layout.ROWS_CHUNK)
        self._scalars = self._made(layout.SCALARS, np.float64, layout.ROWS_CHUNK, n_columns)
        self._names = self._made(layout.SCALAR_NAMES, f"S{layout.NAME_BYTES}", layout.ROWS_CHUNK)
        self._commits = self._made(layout.COMMITS, layout.COMMIT, layout.ROWS_CHUNK)
        self._file.swmr_mode = True
        self._file.flush()
        self.path = _renamed(part, self.path)

    def _made(self, name: str, dtype: Any, chunk: int, *columns: int) -> h5py.Dataset:
        return self._file.create_dataset(name, (0, *columns), dtype, chunks=(chunk, *columns),
                                         maxshape=(None, *columns), fillvalue=None)

    @property
    def n_bytes(self) -> int:
        return os.stat(self.path).st_size

    def commit(self, message: dict[str, Any], arrays: list[np.ndarray]) -> list[str]:
        """Appends all of one iteration; gives the names of scalars that found no column."""
        start, lacking = self._payload.shape[0], []
        pieces: list[bytes] = []
        stored = _Stored(start, pieces, self._known)
        rows = []
        self.keyframe_bytes = None
        for stream, described in message["entries"]:
            n_before = stored.n_bytes
            header = json.dumps(_placed(described, arrays, stored), separators=(",", ":")).encode()
            rows.append((message["iteration"], stream, zlib.crc32(header), *stored.put(header)))
            if layout.OWN_STREAMS[stream : stream + 1] == (layout.STATE,):
                self.keyframe_bytes = stored.n_bytes - n_before
        payload = b"".join(pieces)
        self._check_room(len(payload), len(rows))
        if payload:
            _append(self._payload, np.frombuffer(payload, np.uint8))
        if rows:
            _append(self._entries, np.array(rows, layout.ENTRY))
        if message["scalars"] is not None:
            lacking = self._append_scalars(dict(zip(message["names"], arrays[message["scalars"]], strict=True)))
        counted = (self._entries, self._scalars, self._names, self._payload)
        for dataset in counted:
            dataset.flush()
        secs = time.monotonic() - self._started
        row = (message["iteration"], secs, *(dataset.shape[0] for dataset in counted), message["addition"])
        _append(self._commits, np.array([row], layout.COMMIT))
        self._commits.flush()
        return lacking

    def _append_scalars(self, scalars: dict[str, float]) -> list[str]:
        """One row; a name that comes first gets the next column, as long as there are some."""
        lacking, row = [], np.full((1, self._scalars.shape[1]), np.nan)
        for name, value in scalars.items():
            text = name.encode()
            if name not in self._columns:
                if len(self._columns) == row.shape[1] or not 0 < len(text) <= layout.NAME_BYTES or b"\0" in text:
                    lacking.append(name)
                    continue
                self._columns[name] = len(self._columns)
                _append(self._names, np.array([text], self._names.dtype))
            row[0, self._columns[name]] = value
        _append(self._scalars, row)
        return lacking

    def _check_room(self, n_payload: int, n_entries: int) -> None:
        """The file grows by whole chunks, and by what tells where they lie."""
        growth = _INDEX_BYTES + sum(
            (-(-(dataset.shape[0] + n_rows) // dataset.chunks[0]) - -(-dataset.shape[0] // dataset.chunks[0]))
            * dataset.dtype.itemsize * math.prod(dataset.chunks)
            for dataset, n_rows in ((self._payload, n_payload), (self._entries, n_entries), (self._scalars, 1),
                                    (self._commits, 1))
        )
        if self.n_bytes + growth > self._limit:
            raise Full(f"its limit of {self._limit / 1e9:g} GB is reached")
        if shutil.disk_usage(self._folder).free - growth < self._reserve:
            raise Full(f"less than {self._reserve / 1e9:g} GB of the disk would stay free")

    def close(self) -> None:
        self._file.close()


class _Stored:
    """Puts bytes behind one another into the payload, and equal arrays once."""

    def __init__(self, start: int, pieces: list[bytes], known: collections.OrderedDict[bytes, list]) -> None:
        self._next, self._pieces, self._known = start, pieces, known
        self.n_bytes = 0  # put so far

    def put(self, piece: bytes) -> tuple[int, int]:
        place = self._next, len(piece)
        self._pieces.append(piece)
        self._next += len(piece)
        self.n_bytes += len(piece)
        return place

    def array(self, array: np.ndarray, shape: list[int]) -> list:
        digest = hashlib.blake2b(array.data, digest_size=20, person=array.dtype.str.encode()).digest()
        digest += repr(shape).encode()
        place = self._known.get(digest)
        if place is None:
            codec, packed = pack_array(array)
            place = [array.dtype.str, shape, codec, *self.put(packed), zlib.crc32(packed)]
            self._known[digest] = place
            if len(self._known) > KNOWN_ARRAYS:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(digest)
        return place


def _placed(described: Any, arrays: list[np.ndarray], stored: _Stored) -> Any:
    """A header in which arrays stand by their number in the message, now by their place in the payload."""
    if isinstance(described, list):
        return [_placed(item, arrays, stored) for item in described]
    if isinstance(described, dict) and "map" in described:
        return {"map": {key: _placed(item, arrays, stored) for key, item in described["map"].items()}}
    if isinstance(described, dict) and "array" in described:
        _, shape, number = described["array"]
        return {"array": stored.array(arrays[number], shape)}
    return described


def _append(dataset: h5py.Dataset, rows: np.ndarray) -> None:
    before = dataset.shape[0]
    dataset.resize(before + len(rows), axis=0)
    dataset[before:] = rows


def _reserved(wanted: Path) -> tuple[Path, Path]:
    """The first of NAME, NAME-2, … that is free, and the name that it has until it can be read."""
    for number in range(1, 10_000):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        part = path.with_name(f".{path.name}.part")
        if path.exists() or (part.exists() and time.time() - part.stat().st_mtime < STALE_SECS):
            continue
        return path, part
    raise OSError(f"{wanted} and 9998 names after it are taken")


def _renamed(part: Path, path: Path) -> Path:
    """Gives the file its name, never one that another has taken meanwhile."""
    while True:
        try:
            os.link(part, path)
        except FileExistsError:
            path = _reserved(path)[0]
        except OSError:  # a file system without hard links
            os.rename(part, path)
            return path
        else:
            part.unlink()
            return path


# -- messages ----------------------------------------------------------------------------------------------------

def messages(stream: BinaryIO) -> Iterator[tuple[dict[str, Any], list[np.ndarray]]]:
    """Whole messages until the stream ends; one that breaks off is left out."""
    while len(size := stream.read(8)) == 8:
        text = stream.read(int.from_bytes(size, "little"))
        try:
            message = json.loads(text)
        except ValueError:
            return
        arrays = []
        for dtype, count in message["arrays"]:
            array = np.empty(count, dtype)
            if array.nbytes and stream.readinto(array.view(np.uint8)) < array.nbytes:
                return
            arrays.append(array)
        yield message, arrays


def say(**news: Any) -> None:
    """Where nobody listens any more, what has been sent is still written."""
    try:
        sys.stdout.write(json.dumps(news) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reason(error: Exception) -> str:
    """The system's own words, which HDF5 wraps in many of its own."""
    found = re.search(r"error message = '([^']*)'", str(error))
    return found[1] if found else " ".join(str(error).split())[:200] or type(error).__name__


def main() -> None:
    """Writes what comes until it is told to end, or the input ends. After a failed write the process ends at once, as
    HDF5 would crash."""
    file = None
    try:
        os.nice(5)  # the run comes first
        for message, arrays in messages(sys.stdin.buffer):
            if file is None:
                file = RecordingFile(Path(message["path"]), message["meta"], message["n_columns"],
                                     message["limit_bytes"], message["reserve_bytes"])
                say(path=str(file.path), n_bytes=file.n_bytes)
                continue
            if message.get("end"):
                break
            lacking = file.commit(message, arrays)
            say(iteration=message["iteration"], n_bytes=file.n_bytes, lacking=lacking,
                keyframe_bytes=file.keyframe_bytes)
        if file is not None:
            file.close()
            say(n_bytes=file.n_bytes)
    except Full as reason:
        file.close()
        say(stopped=str(reason))
    except Exception as error:  # noqa: BLE001 - the process's boundary: whatever failed is told, and ends it
        say(stopped=_reason(error))
        os._exit(1)


if __name__ == "__main__":
    main()
