"""A second device on a machine without one: tensors on "pretend" lie on the CPU, and refuse what CUDA's refuse.

Whoever imports this has the device, in this process and for good. A tensor there must not meet one of the CPU in an
operation, unless CUDA allows it (a number, indices, a copy), nor become an array of numpy's without `cpu()`. That
finds what a machine with CUDA would: forgotten transfers. It says nothing of speed, rounding or CUDA's own kernels,
and knows no derivatives in forward mode. torch 2.13 has all it needs (torch.utils.backend_registration).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
_CPU = torch.device("cpu")
COPIES = {"aten::copy_", "aten::_to_copy"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
NO_LONE_NUMBERS = ("aten::index_", "aten::gather", "aten::scatter", "aten::searchsorted", "aten::bucketize")
"""What takes not even a number of the CPU."""
MAKERS = ("arange", "linspace", "logspace", "eye", "full", "ones", "zeros", "rand", "randn", "randint", "randperm",
          "scalar_tensor", "tril_indices", "triu_indices", "empty", "empty_strided", "copy_", "_copy_from", "_to_copy")


class PretendTensor(torch.Tensor):
    """One on the device; inner: the same on the CPU."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> PretendTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=f"{NAME}:0")
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"{NAME}({self.inner!r})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert a tensor on {NAME} to numpy: copy it to the CPU first")

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(operation, *args, **(kwargs or {}))


def _run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    name = operation._schema.name
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    some_here = any(isinstance(tensor, PretendTensor) for tensor in tensors)
    stranger = _stranger(operation, args, tensors) if some_here and name not in COPIES else None
    if stranger is not None:
        raise RuntimeError(f"{name}: expected all tensors on {NAME}, got {tuple(stranger.shape)} on the CPU")
    if name == "aten::copy_":
        _inner(args[0]).copy_(_inner(args[1]))
        return args[0]
    wanted = kwargs.get("device")
    stays = some_here if wanted is None else torch.device(wanted).type == NAME
    if stays and kwargs.get("generator") is not None:
        raise RuntimeError(f"{name}: expected a generator on {NAME}, got one on the CPU")
    if wanted is not None:
        kwargs["device"] = _CPU
    result = operation(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if operation._schema.is_mutable and name.endswith("_") and some_here:
        return args[0]
    return tree_map(lambda value: PretendTensor(value) if stays and isinstance(value, torch.Tensor) else value, result)


def _stranger(operation: Any, args: tuple, tensors: list[torch.Tensor]) -> torch.Tensor | None:
    """The first tensor of the CPU that CUDA would not take beside its own."""
    name = operation._schema.name
    if name in INDEXED:  # the places may lie on the CPU, but neither what is read or written nor new values
        suspects = [args[0], *(value for value in args[2:3] if value.ndim)]
    elif name.startswith(NO_LONE_NUMBERS):
        suspects = tensors
    else:
        changed = args[:1] if operation._schema.is_mutable and name.endswith("_") else ()
        suspects = [*changed, *(tensor for tensor in tensors if tensor.ndim)]
    return next((one for one in suspects if isinstance(one, torch.Tensor) and not isinstance(one, PretendTensor)), None)


def _inner(value: Any) -> Any:
    if isinstance(value, torch.device):
        return _CPU
    return value.inner if isinstance(value, PretendTensor) else value


def _register() -> tuple[torch.library.Library, ...]:
    _setup_privateuseone_for_python_backend(NAME)
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(_run, "PrivateUse1")
    for name in MAKERS:  # these would make an empty tensor and have it resized in place
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            if "out" not in overload and "names" not in overload:
                operation = getattr(packet, overload)
                aten.impl(operation, functools.partial(_run, operation), "PrivateUse1")
    return everything, aten


_LIBRARIES = _register()  # gone with them would be the device
