"""RawRecording: a recording read as recordings/README.md says, by h5py and the codec alone; the reader's slow twin."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from workbench.recording import layout
from workbench.recording.codec import value_of


class RawRecording:
    """All of a file at once. rows: of `commits`, those that count; last: entries and all else up to there."""

    def __init__(self, path: Path) -> None:
        with h5py.File(path, "r", swmr=True) as file:
            self.meta = json.loads(file.attrs[layout.META])
            commits = file[layout.COMMITS][:]
            self.payload, self.entries = file[layout.PAYLOAD][:].tobytes(), file[layout.ENTRIES][:]
            self.scalars = file[layout.SCALARS][:]
            self.names = [name.decode() for name in file[layout.SCALAR_NAMES][:]]
        lengths = {"n_payload": len(self.payload), "n_entries": len(self.entries), "n_scalars": len(self.scalars),
                   "n_names": len(self.names)}
        whole = [k for k, row in enumerate(commits) if all(row[name] <= n for name, n in lengths.items())]
        self.commits = commits[: whole[-1] + 1 if whole else 0]

    def kept(self) -> list[int]:
        """Rows of commits that none after them replaced."""
        rows: list[int] = []
        for k, commit in enumerate(self.commits):
            if not commit["addition"]:
                rows = [row for row in rows if self.commits[row]["iteration"] < commit["iteration"]]
            else:
                assert rows and self.commits[rows[-1]]["iteration"] == commit["iteration"]
            rows.append(k)
        return rows

    @property
    def iterations(self) -> list[int]:
        return sorted({int(self.commits[row]["iteration"]) for row in self.kept()})

    def _before(self, row: int, name: str) -> int:
        return int(self.commits[row - 1][name]) if row else 0

    def values(self, stream: str) -> list[tuple[int, Any]]:
        """(iteration, value) of every entry that counts."""
        wanted, found = self.meta["streams"].index(stream), []
        for row in self.kept():
            for entry in self.entries[self._before(row, "n_entries") : int(self.commits[row]["n_entries"])]:
                assert entry["iteration"] == self.commits[row]["iteration"]
                if entry["stream"] == wanted:
                    found.append((int(entry["iteration"]), self.value(entry)))
        return found

    def value(self, entry: np.void) -> Any:
        header = self.payload[int(entry["start"]) : int(entry["start"] + entry["n_bytes"])]
        assert zlib.crc32(header) == entry["crc"]
        return value_of(header, lambda start, n: self.payload[start : start + n])

    def at(self, stream: str, iteration: int) -> Any:
        """The value that holds at an iteration."""
        return [value for number, value in self.values(stream) if number <= iteration][-1]

    def column(self, name: str) -> dict[int, float]:
        """By iteration."""
        rows = {int(self.commits[row]["iteration"]): self._before(row, "n_scalars") for row in self.kept()
                if int(self.commits[row]["n_scalars"]) > self._before(row, "n_scalars")}
        return {at: float(self.scalars[row, self.names.index(name)]) for at, row in rows.items()}

    def check(self) -> None:
        """Everything committed is whole."""
        for name in ("n_entries", "n_scalars", "n_names", "n_payload"):
            assert (np.diff(self.commits[name]) >= 0).all()
        assert (np.diff(self.commits["secs"]) >= 0).all()
        for entry in self.entries[: int(self.commits[-1]["n_entries"]) if len(self.commits) else 0]:
            self.value(entry)
