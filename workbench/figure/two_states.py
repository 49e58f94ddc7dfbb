"""Two states as a recording of their own, beside a figure: what Changes compares of a run that records neither."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np

from sparseflex.voxels import SparseVoxels
from workbench.change_state import State
from workbench.recording.commits import Commit, message_of
from workbench.recording.layout import CAMERAS, OWN_STREAMS, SCHEMA, VERSION
from workbench.recording.values import Cameras, cameras_value, events_value
from workbench.snapshot import MeshArrays, Snapshot

_KINDS = ("voxels", "voxel", "corner", "mesh", "prune")
_LIMIT_BYTES, _RESERVE_BYTES = 1e12, 64e6


def write_states(path: Path, snapshot: Snapshot, before: State) -> None:
    """A recording of two iterations: `before`, and what the snapshot shows, so far as its fields are of voxels,
    corners, meshes and prunings. It is there whole, or not at all. Raises OSError, ValueError, and Full where the disk
    has no room."""
    from workbench.recording.writer import RecordingFile

    fields = {name: value for name, value in snapshot.fields.items()
              if value is not None and snapshot.field_kinds.get(name) in _KINDS}
    streams = [*OWN_STREAMS, *fields]
    meta = {"schema": SCHEMA, "version": VERSION, "uid": uuid.uuid4().hex, "name": snapshot.run_name,
            "title": snapshot.run_name, "stages": [stage or "run" for stage in snapshot.stages], "streams": streams,
            "field_kinds": {name: snapshot.field_kinds[name] for name in fields}, "settings": {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    file = RecordingFile(path.with_name(f".{path.name}.part"), meta, 1, _LIMIT_BYTES, _RESERVE_BYTES)
    cameras = cameras_value(Cameras(snapshot.cameras, snapshot.own_cameras))
    try:
        for iteration, values in (
            (before.iteration, {"voxels": before.voxels, **before.arrays}),
            (snapshot.iteration, fields),
        ):
            known = {streams.index(name): _value(value) for name, value in values.items() if name in streams}
            if values is fields:
                known[streams.index(CAMERAS)] = cameras
            message = message_of(Commit(iteration, known, {"iteration": float(iteration)}))
            if message.left_out:
                raise ValueError("; ".join(message.left_out.values()))
            file.commit(message.head, message.arrays)
        file.close()
        file.path.replace(path)
    finally:
        file.path.unlink(missing_ok=True)


def _value(value: Any) -> Any:
    """A field as a recording has it."""
    if isinstance(value, SparseVoxels):
        return {"keys": value.keys.numpy(), "resolution": value.resolution}
    if isinstance(value, MeshArrays):
        return {"vertices": value.vertices, "faces": value.faces}
    return value if isinstance(value, np.ndarray) else events_value(value)
