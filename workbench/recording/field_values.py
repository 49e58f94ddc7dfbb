"""Fields as a recording has them, made what Snapshot.fields has; what breaks a rule raises ValueError."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sparseflex.voxels import SparseVoxels
from workbench.recording.codec import DTYPES
from workbench.recording.values import events_of, voxels_of
from workbench.snapshot import MeshArrays

MAX_VALUE_BYTES = 1 << 32
_MAX_ITEMS = 1_000_000


def check_size(header: bytes) -> None:
    """Raises ValueError for a header that would make more of itself than a value may have."""
    if header.count(b",") + header.count(b"[") + header.count(b"{") > _MAX_ITEMS:
        raise ValueError(f"a header must have at most {_MAX_ITEMS} items")
    total, waiting = 0, [json.loads(header)]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
            place = item.get("array")
            if isinstance(place, list) and len(place) == 6 and place[0] in DTYPES and isinstance(place[1], list):
                sizes = [size for size in place[1] if type(size) is int]
                total += math.prod(sizes) * np.dtype(place[0]).itemsize
    if total > MAX_VALUE_BYTES:
        raise ValueError(f"a value must have at most {MAX_VALUE_BYTES} bytes, got {total}")


def _voxels(value: Any) -> SparseVoxels | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"keys", "resolution"}:
        raise ValueError(f"voxels must have keys and resolution, got {str(value)[:60]}")
    return voxels_of(value["keys"], value["resolution"])


def _mesh(value: Any) -> MeshArrays | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"vertices", "faces"}:
        raise ValueError(f"a mesh must have vertices and faces, got {str(value)[:60]}")
    vertices, faces = value["vertices"], value["faces"]
    for array, kinds in ((vertices, "f"), (faces, "i")):
        if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in kinds:
            raise ValueError("vertices and faces of a mesh must be rows of three numbers")
    if faces.size and not 0 <= int(faces.min()) <= int(faces.max()) < len(vertices):
        raise ValueError(f"faces of a mesh must name vertices in [0, {len(vertices)})")
    vertices, faces = vertices.astype(np.float32, copy=False), faces.astype(np.int32, copy=False)
    vertices.flags.writeable = faces.flags.writeable = False
    return MeshArrays(vertices, faces)


_SHAPES: Mapping[str, Callable[[tuple[int, ...]], bool]] = {
    "voxel": lambda shape: len(shape) in (1, 2), "corner": lambda shape: len(shape) in (1, 2),
    "map": lambda shape: len(shape) == 2 or (len(shape) == 3 and shape[2] == 3),
    "trace": lambda shape: len(shape) == 2 and shape[1] == 3, "points": lambda shape: len(shape) == 2 and shape[1] == 3,
    "point": lambda shape: len(shape) in (1, 2),
}


def _array(value: Any, kind: str) -> np.ndarray | None:
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or not _SHAPES[kind](value.shape):
        raise ValueError(f"a {kind} field must be an array of its shape, got {getattr(value, 'shape', value)}"[:120])
    if value.dtype.kind == "f" and value.dtype != np.float32:
        value = value.astype(np.float32)
        value.flags.writeable = False
    return value


_MAKE = {"voxels": _voxels, "mesh": _mesh, "prune": events_of}


def field_of(kind: str, value: Any) -> Any:
    """A field's value by its kind, arrays read-only; None where no stage had made it yet."""
    return _MAKE.get(kind, functools.partial(_array, kind=kind))(value)
