"""Commits: what an iteration adds to a recording, and the message by which its writer gets it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench.recording.codec import header_of


@dataclasses.dataclass(frozen=True, eq=False)
class Commit:
    """What an iteration adds to the file: values by the numbers of their streams, and scalars, None where it adds none.
    addition: see layout.COMMIT. n_bytes: about how many it takes while it waits. Nobody changes any of it afterwards.
    """

    iteration: int
    values: Mapping[int, Any]
    scalars: dict[str, float] | None
    addition: bool = False
    n_bytes: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Message:
    """What RecordingFile.commit takes; left_out: why, by the numbers of streams whose values no file can hold."""

    head: dict[str, Any]
    arrays: list[np.ndarray]
    left_out: dict[int, str]


def message_of(commit: Commit) -> Message:
    arrays: list[np.ndarray] = []

    def store(array: np.ndarray) -> list:
        arrays.append(np.ascontiguousarray(array))
        return [array.dtype.str, list(array.shape), len(arrays) - 1]

    entries, names, scalars, left_out = [], [], None, {}
    for stream, value in commit.values.items():
        n_before = len(arrays)
        try:
            entries.append((stream, json.loads(header_of(value, store))))
        except ValueError as error:
            del arrays[n_before:]
            left_out[stream] = str(error)
    if commit.scalars is not None:
        names, scalars = list(commit.scalars), len(arrays)
        arrays.append(np.array(list(commit.scalars.values()), "<f8"))
    head = {"iteration": commit.iteration, "addition": int(commit.addition), "entries": entries, "names": names,
            "scalars": scalars}
    return Message(head, arrays, left_out)
