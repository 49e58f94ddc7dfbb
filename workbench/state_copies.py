"""Copies of a run's state on the CPU: they share nothing with the run, and with one another what is equal."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def copied(value: Any, known: Any = None) -> Any:
    """A copy on the CPU that shares nothing with value; what equals known at the same place is known's own tensor.

    Compared by value: a tensor's version says nothing of changes made past autograd.
    """
    if isinstance(value, Tensor):
        on_cpu = value.detach().cpu()
        if isinstance(known, Tensor) and known.dtype == on_cpu.dtype and torch.equal(known, on_cpu):
            return known
        return on_cpu.clone() if value.device.type == "cpu" else on_cpu
    if isinstance(value, Mapping):
        known = known if isinstance(known, Mapping) else {}
        return {key: copied(item, known.get(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        known = known if isinstance(known, (list, tuple)) and len(known) == len(value) else [None] * len(value)
        items = [copied(item, other) for item, other in zip(value, known, strict=True)]
        return items if isinstance(value, list) else tuple(items)
    return copy.deepcopy(value)


def n_bytes(states: list[Mapping[str, Any]]) -> int:
    """Bytes of the tensors and arrays of all states, each object once."""
    found: dict[int, int] = {}

    def walk(value: Any) -> None:
        if isinstance(value, (Tensor, np.ndarray)):
            found[id(value)] = value.nbytes
        elif isinstance(value, Mapping):
            for item in value.values():
                walk(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                walk(item)

    for state in states:
        walk(state)
    return sum(found.values())
