"""FieldCopies: copies of the fields that were asked for, as read-only arrays that outlive the run's next stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparseflex.mesh import Mesh
from sparseflex.training.run import FieldKind, Run
from workbench.snapshot import MeshArrays, Snapshot, frozen

_NUMPY_READY = {torch.bool, torch.uint8, torch.int32, torch.int64, torch.float32}
"""Types that stay; all others become float32."""

_KNOWN_BY_OBJECT = ("voxels", "mesh", "points")
"""Kinds of which the same object is the same value, as long as nothing in it was changed in place."""

SURFACE = "surface"
"""The whole surface, as a mesh: a field that every run has that can `extract()` it; "mesh" may be a section only."""


def fields_of(run: Run) -> Mapping[str, FieldKind]:
    """The run's fields, and the surface where the run can extract it."""
    extra: dict[str, FieldKind] = {SURFACE: "mesh"} if callable(getattr(run, "extract", None)) else {}
    return {**extra, **run.fields}


def askable(run: Run) -> Mapping[str, FieldKind]:
    """All that may be asked for: the run's fields, and those that it makes only while they are watched."""
    return {**fields_of(run), **getattr(run, "watchable", {})}


def read_field(run: Run, name: str) -> Any:
    """The field's value, or None where no stage has made it yet; see fields_of."""
    if name == SURFACE and name not in run.fields:
        return run.extract()
    return run.read_field(name)


def shown_dtype(tensor: Tensor) -> torch.dtype:
    """The type in which a field is shown and recorded."""
    return tensor.dtype if tensor.dtype in _NUMPY_READY else torch.float32


@dataclasses.dataclass(frozen=True)
class _Cached:
    value: Any
    source: Any
    version: tuple[int, ...]
    moment: int


@dataclasses.dataclass(frozen=True)
class Coming:
    """A snapshot whose fields are still being copied."""

    snapshot: Snapshot
    copy_secs: float


class FieldCopies:
    """Copies fields of a run; on CUDA without waiting, into pinned memory.

    `start` begins, `ready` says whether all copies have arrived, `finish` waits for them and gives the arrays.
    All of it belongs to the engine's thread. What hasn't changed is not copied again: nothing while no stage ran,
    a SparseVoxels (immutable), a Mesh or points as long as it is the same object with the same tensor versions.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._cache: dict[str, _Cached] = {}
        self._pending: dict[str, Any] = {}
        self._arrived: torch.cuda.Event | None = None

    def start(self, names: Iterable[str], moment: int) -> None:
        """Begins copying the named fields; moment is a number that grows with every stage run."""
        kinds = askable(self._run)
        self._pending = {}  # not _arrived: what was begun and dropped stays in the cache, and may be on its way still
        # nobody may ask for it again: a backward pass takes as much as its section several times over
        self._cache = {name: known for name, known in self._cache.items()
                       if known.source is not None or known.moment == moment}
        for name in sorted(set(names) & set(kinds)):
            known = self._cache.get(name)
            if known is None or known.moment != moment:
                known = self._copy(name, kinds[name], known, moment)
            if known is not None:
                self._cache[name] = known
                self._pending[name] = known.value

    def ready(self) -> bool:
        return self._arrived is None or self._arrived.query()

    def finish(self) -> Mapping[str, Any]:
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        return frozen(self._pending)

    def _copy(self, name: str, kind: str, known: _Cached | None, moment: int) -> _Cached | None:
        source = read_field(self._run, name)
        if source is None:
            self._cache.pop(name, None)
            return None
        version = _version(source)
        if kind in _KNOWN_BY_OBJECT and known is not None and known.source is source and known.version == version:
            return dataclasses.replace(known, moment=moment)
        if kind == "voxels":
            value = source if source.device.type == "cpu" else type(source)(source.voxel_ijk.cpu(), source.resolution)
        elif kind in ("prune", "backward"):
            value = source  # immutable
        elif kind == "mesh":
            value = MeshArrays(self._array(source.vertices), self._array(source.faces, torch.int32))
        else:
            value = self._array(source)
        return _Cached(value, source if kind in _KNOWN_BY_OBJECT else None, version, moment)

    def _array(self, tensor: Tensor, dtype: torch.dtype | None = None) -> np.ndarray:
        tensor = tensor.detach()
        dtype = dtype or shown_dtype(tensor)
        if tensor.device.type == "cuda":
            copy = torch.empty(tensor.shape, dtype=dtype, pin_memory=True)
            copy.copy_(tensor, non_blocking=True)
            # on the current stream, so that the run's next stage can't overtake the copy
            with torch.cuda.device(tensor.device):  # an event belongs to the device that is current
                self._arrived = torch.cuda.Event()
                self._arrived.record()
        else:
            copy = tensor.to(device="cpu", dtype=dtype, copy=True).contiguous()
        array = copy.numpy()
        array.flags.writeable = False
        return array


def _version(source: Any) -> tuple[int, ...]:
    """Grows when a tensor of a mesh, or one that is a field itself, is changed in place."""
    if isinstance(source, Tensor):
        return (source._version,)
    return (source.vertices._version, source.faces._version) if isinstance(source, Mesh) else ()
