"""The state of a run as a value that a recording holds, and back: nothing of its types is lost, as its own trainer may
need whole numbers as keys, tuples and sets to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_KIND = "$"
"""Marks a dictionary that stands for what the codec has no form for; plain dictionaries with it are marked, too."""

_AS_BITS = {torch.bfloat16: torch.int16, torch.complex64: torch.float32, torch.complex128: torch.float64}
"""Types that NumPy or the codec lack, and what they are kept as; a complex number is two real ones."""


def state_value(state: Any, name: str = "state") -> Any:
    """Shares the memory of state's tensors, which are on the CPU. Raises ValueError naming what can't be kept."""
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    if isinstance(state, Tensor):
        return _tensor_value(state.detach(), name)
    if isinstance(state, np.ndarray):
        return {_KIND: "numpy", "array": state}
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, Mapping):
        if all(isinstance(key, str) for key in state) and _KIND not in state:
            return {key: state_value(item, f"{name}/{key}") for key, item in state.items()}
        keys = [state_value(key, f"a key of {name}") for key in state]
        items = [state_value(item, f"{name}/{key}") for key, item in state.items()]
        return {_KIND: "map", "keys": keys, "items": items}
    if isinstance(state, list):
        return [state_value(item, f"{name}/{k}") for k, item in enumerate(state)]
    if isinstance(state, (tuple, set, frozenset)):
        kind = "tuple" if isinstance(state, tuple) else "set"
        items = state if kind == "tuple" else sorted(state, key=repr)
        return {_KIND: kind, "items": [state_value(item, f"{name}/{k}") for k, item in enumerate(items)]}
    if isinstance(state, (bytes, bytearray)):
        return {_KIND: "bytes", "array": np.frombuffer(bytes(state), np.uint8)}
    raise ValueError(f"{name} must be a tensor, an array, a number, a text, None, or a list or mapping of such, got "
                     f"{type(state).__name__}")


def _tensor_value(tensor: Tensor, name: str) -> Any:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(f"{name} must be a dense tensor, got {tensor.layout} {tensor.dtype}")
    tensor = tensor.contiguous().resolve_conj().resolve_neg()
    bits = _AS_BITS.get(tensor.dtype)
    if bits is None:
        return tensor.numpy()
    plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor.view(bits)
    return {_KIND: "tensor", "type": str(tensor.dtype).removeprefix("torch."), "array": plain.numpy()}


def state_of(value: Any) -> Any:
    """The state that state_value made a value of, its tensors on the CPU; ValueError for any other value."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, list):
        return [state_of(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _KIND not in value:
        return {key: state_of(item) for key, item in value.items()}
    kind, items, array = value[_KIND], value.get("items"), value.get("array")
    if isinstance(array, np.ndarray) and kind in ("numpy", "bytes", "tensor"):
        if kind == "tensor":
            return _tensor_of(value.get("type"), torch.from_numpy(array.copy()))
        return array.copy() if kind == "numpy" else array.tobytes()
    if isinstance(items, list) and kind in ("tuple", "set", "map"):
        try:
            if kind == "map":
                return dict(zip(map(state_of, value.get("keys", ())), map(state_of, items), strict=True))
            return (tuple if kind == "tuple" else set)(map(state_of, items))
        except TypeError as error:
            raise ValueError(f"a state's {kind} can't be made: {error}") from None
    raise ValueError(f"a state must be made of known kinds, got {kind!r}")


def _tensor_of(name: Any, plain: Tensor) -> Tensor:
    for dtype, bits in _AS_BITS.items():
        if str(dtype) == f"torch.{name}" and plain.dtype == bits and (not dtype.is_complex or plain.shape[-1:] == (2,)):
            return torch.view_as_complex(plain) if dtype.is_complex else plain.view(dtype)
    raise ValueError(f"a state's tensor must be of a known type, got {str(name)[:40]!r} of {plain.dtype}")
