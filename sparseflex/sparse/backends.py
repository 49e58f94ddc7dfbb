"""Which backend computes the 3³ convolution: spconv on CUDA where it is installed, else our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.sparse import spconv_backend

if TYPE_CHECKING:
    from sparseflex.sparse.batch import VoxelBatch

BACKENDS = ("torch", "spconv")


def backend_name(device: torch.device | str) -> str:
    """The backend that serves convolutions on a device: spconv on CUDA where it can be used, else torch (our own)."""
    return "spconv" if torch.device(device).type == "cuda" and spconv_backend.is_usable() else "torch"


def resolve_backend(backend: str, features: Float[Tensor, "N in"], batch: VoxelBatch) -> str:
    """The backend's name: `auto` is backend_name's, except for features that spconv doesn't serve.

    Raises ValueError for unknown names and for spconv off CUDA or with features that it doesn't serve.
    """
    if backend == "auto":
        return backend_name(features.device) if spconv_backend.supports(features, batch) else "torch"
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "spconv" and (features.device.type != "cuda" or not spconv_backend.supports(features, batch)):
        got = f"{tuple(features.shape)} {features.dtype} on {features.device} at resolution {batch.resolution}"
        raise ValueError(f"backend 'spconv' needs float32 or float16 features of some voxels on CUDA, got {got}")
    return backend
