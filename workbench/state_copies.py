"""Copies of a run's state on the CPU: they share nothing with the run, and with one another what is equal."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

MIN_ROWS_BYTES = 1 << 18
"""Smaller tensors are held whole."""
MAX_ROWS_SHARE = 0.4
"""A tensor in which more rows than that have changed is held whole: the next ones are compared with it then."""

_CHUNK_BYTES = 1 << 23
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """A tensor that differs from base, which others share, in some rows. Sections move few rows of large tensors."""

    base: Tensor
    rows: Int[Tensor, "n"]
    values: Tensor

    def whole(self) -> Tensor:
        return self.base.clone().index_copy_(0, self.rows, self.values)


def copied(value: Any, known: Any = None) -> Any:
    """A copy on the CPU that shares nothing with value. known: an earlier copy; what is equal in it is shared with it,
    of large tensors each row. Without it, Rows become tensors again.

    Compared bit by bit: a tensor's version says nothing of changes made past autograd, and -0 is not 0.
    """
    if isinstance(value, Rows):
        return value.whole()
    if isinstance(value, Tensor):
        return _copied_tensor(value.detach(), known)
    if isinstance(value, Mapping):
        known = known if isinstance(known, Mapping) else {}
        return {key: copied(item, known.get(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        known = known if isinstance(known, (list, tuple)) and len(known) == len(value) else [None] * len(value)
        items = [copied(item, other) for item, other in zip(value, known, strict=True)]
        return items if isinstance(value, list) else tuple(items)
    return copy.deepcopy(value)


def _copied_tensor(tensor: Tensor, known: Any) -> Tensor | Rows:
    on_cpu = tensor.cpu()
    base = known.base if isinstance(known, Rows) else known
    if isinstance(base, Tensor) and _comparable(on_cpu, base):
        by_rows = on_cpu.nbytes >= MIN_ROWS_BYTES and on_cpu.is_contiguous()
        rows = rows_that_differ(on_cpu.contiguous(), base.contiguous(), MAX_ROWS_SHARE if by_rows else 0.0)
        if rows is not None and not len(rows):
            return base
        if rows is not None:
            values = on_cpu.index_select(0, rows)
            if isinstance(known, Rows) and torch.equal(known.rows, rows) and _same_bits(known.values, values):
                return known
            return Rows(base, rows, values)
    return on_cpu.clone() if tensor.device.type == "cpu" else on_cpu


def _comparable(a: Tensor, b: Tensor) -> bool:
    return (a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride() and a.element_size() in _BITS
            if a.layout == b.layout == torch.strided else False)


def rows_that_differ(a: Tensor, b: Tensor, most: float) -> Int[Tensor, "n"] | None:
    """Rows of two contiguous tensors of one type and shape whose bits differ, or None where it is more than a share of
    them, which is then known before all are compared."""
    if a.ndim == 0 or not a.numel():
        return torch.zeros(0, dtype=torch.int64) if _same_bits(a, b) else None
    bits = _BITS[a.element_size()]
    a, b = (tensor.flatten(1).view(bits) if tensor.ndim > 1 else tensor.view(bits) for tensor in (a, b))
    found: list[Tensor] = []
    n_found, step = 0, max(_CHUNK_BYTES * len(a) // a.nbytes, 1)
    for first in range(0, len(a), step):
        differs = a[first : first + step] != b[first : first + step]
        rows = (differs.any(1) if differs.ndim > 1 else differs).nonzero().squeeze(1)
        n_found += len(rows)
        if n_found > most * len(a):
            return None
        found.append(rows + first)
    return torch.cat(found)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    bits = _BITS[a.element_size()]
    return torch.equal(a.view(bits), b.view(bits))


def n_bytes(states: list[Mapping[str, Any]]) -> int:
    """Bytes of the tensors and arrays of all states, each object once."""
    found: dict[int, int] = {}

    def walk(value: Any) -> None:
        if isinstance(value, (Tensor, np.ndarray)):
            found[id(value)] = value.nbytes
        elif isinstance(value, Rows):
            for part in (value.base, value.rows, value.values):
                walk(part)
        elif isinstance(value, Mapping):
            for item in value.values():
                walk(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                walk(item)

    for state in states:
        walk(state)
    return sum(found.values())
