"""ByteCache: what was read of a recording, kept within a bound of bytes."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sparseflex.training.pruning import PruneEvent
from sparseflex.voxels import SparseVoxels
from workbench.recording.values import Cameras
from workbench.snapshot import MeshArrays

_VOXEL_BYTES = 256
"""Of a SparseVoxels, with corners and neighbours once they are asked for."""


class ByteCache:
    """Values by key, those used last, up to a limit of bytes; a value larger than that is given but not kept."""

    def __init__(self, limit_bytes: float) -> None:
        self._limit = limit_bytes
        self._kept: collections.OrderedDict[Any, tuple[Any, int]] = collections.OrderedDict()
        self.n_bytes = 0

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            return known[0]
        value = make()
        size = 512 + sum(len(part) for part in key if isinstance(part, bytes)) + size_of(value)
        if size <= self._limit:
            self._kept[key] = (value, size)
            self.n_bytes += size
            while self.n_bytes > self._limit:
                self.n_bytes -= self._kept.popitem(last=False)[1][1]
        return value


def size_of(value: Any) -> int:
    """About the bytes that a value takes."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.nbytes
    if isinstance(value, SparseVoxels):
        return _VOXEL_BYTES * value.n_voxels
    if isinstance(value, MeshArrays):
        return value.vertices.nbytes + value.faces.nbytes
    if isinstance(value, Cameras):
        return 2048 * (len(value.listed) + len(value.own or ()) + len(value.kept))
    if isinstance(value, PruneEvent):
        return sum(size_of(getattr(value, field.name)) for field in dataclasses.fields(value))
    return sum(size_of(item) for item in value) if isinstance(value, (list, tuple)) else 64
