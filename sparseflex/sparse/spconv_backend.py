"""The spconv backend of the 3³ convolution, for CUDA; the only module that imports spconv."""

from __future__ import annotations

import functools
import importlib.util
import threading
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from sparseflex.sparse.batch import VoxelBatch

INSTALL_COMMAND = "pip install spconv-cu126"
PRECISIONS = (torch.float32, torch.float16)
"""What its kernels compute in."""

MAX_CELLS = 1 << 62  # its keys are int64


@functools.lru_cache(maxsize=1)
def is_usable() -> bool:
    """Whether spconv is installed, loads, and was built for CUDA; the wheel called `spconv` is for the CPU alone."""
    if importlib.util.find_spec("spconv") is None:
        return False
    try:
        from spconv.cppconstants import CPU_ONLY_BUILD
    except (ImportError, OSError):  # a CUDA library that it needs is not there
        return False
    return not CPU_ONLY_BUILD


def supports(features: Float[Tensor, "N in"], batch: VoxelBatch) -> bool:
    """Whether it computes the convolution of these features: float32 or float16, some voxels, keys that fit."""
    cells = batch.resolution**3 * batch.n_shapes
    return features.dtype in PRECISIONS and batch.n_voxels > 0 and cells < MAX_CELLS


@functools.lru_cache(maxsize=64)
def _layer(in_channels: int, out_channels: int, thread: int) -> Any:
    """A layer that lacks its weight, of one thread: while it is called it has that of the caller. Always training:
    otherwise it would leave out what backward needs."""
    import spconv.pytorch as spconv

    with torch.device("meta"):
        layer = spconv.SubMConv3d(in_channels, out_channels, 3, bias=False, indice_key="neighbours", fp32_accum=True)
    return layer.train()


def spconv_conv(
    features: Float[Tensor, "N in"],
    weight: Float[Tensor, "out 3 3 3 in"],
    bias: Float[Tensor, "out"] | None,
    batch: VoxelBatch,
) -> Float[Tensor, "N out"]:
    """The convolution by spconv, with gradients; what it finds out about neighbours is kept in the batch.

    Raises RuntimeError where spconv can't be used.
    """
    if not is_usable():
        raise RuntimeError(f"backend 'spconv' needs spconv built for CUDA; run: {INSTALL_COMMAND}")
    import spconv.pytorch as spconv

    kept = batch.plan("spconv", lambda: {"indices": torch.cat([batch.shape_index[:, None], batch.voxel_ijk], 1).int()})
    side = [batch.resolution] * 3
    sites = spconv.SparseConvTensor(
        features.contiguous(), kept["indices"], side, batch.n_shapes, indice_dict=kept.get("found", {})
    )
    layer = _layer(weight.shape[4], weight.shape[0], threading.get_ident())
    # its kernels go to the stream of the device that is current; under autocast it would cast to float16 on its own
    with torch.cuda.device(features.device), torch.autocast(features.device.type, enabled=False):
        out = torch.func.functional_call(layer, {"weight": weight}, (sites,))
    kept["found"] = out.indice_dict
    return out.features if bias is None else out.features + bias
