"""LiveBytes: how many bytes of tensors are alive at most; those of the process include what it keeps from before."""

from __future__ import annotations

import collections
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Of the tensors made within it: now, and peak, the most since it began. Views of one storage count once."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._users: collections.Counter[int] = collections.Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        known = {tensor.untyped_storage().data_ptr() for tensor in args if isinstance(tensor, torch.Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            at, n_bytes = storage.data_ptr(), storage.nbytes()
            if at in known and at not in self._users:
                continue  # of one that was there before
            if not self._users[at]:
                self.now += n_bytes
                self.peak = max(self.peak, self.now)
            self._users[at] += 1
            weakref.finalize(tensor, self._gone, at, n_bytes)
        return result

    def _gone(self, at: int, n_bytes: int) -> None:
        self._users[at] -= 1
        if not self._users[at]:
            del self._users[at]
            self.now -= n_bytes
