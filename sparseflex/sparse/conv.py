"""Submanifold convolution on sparse voxels: outputs at the voxels that exist, sums over the neighbours that exist."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparseflex.sparse.backends import resolve_backend
from sparseflex.sparse.precision import working_dtype
from sparseflex.sparse.spconv_backend import spconv_conv
from sparseflex.sparse.tap_conv import CHILDREN, SAME_LEVEL, TapConv, pack_children, pack_same_level

if TYPE_CHECKING:
    from sparseflex.sparse.batch import VoxelBatch


def submanifold_conv(
    features: Float[Tensor, "N in"],
    weight: Float[Tensor, "out k k k in"],
    bias: Float[Tensor, "out"] | None,
    batch: VoxelBatch,
    backend: str = "auto",
) -> Float[Tensor, "N out"]:
    """The cross-correlation of a 3³ (or 1³) kernel with the features of each shape, zero where no voxel is.

    A 1³ kernel computes x @ weight.reshape(in, out), as the released weights expect: the flat memory of
    (out, 1, 1, 1, in) read as (in, out), not its transpose. Computed in the precision of the features, or autocast's.
    backend: auto, torch or spconv. Raises ValueError for shapes that don't belong together and for unknown backends.
    """
    check_conv(features, weight, bias, batch.n_voxels)
    features, weight, bias = _of_one_precision(features, weight, bias)
    if weight.shape[1] == 1:
        out = features @ weight.reshape(weight.shape[4], weight.shape[0])
        return out if bias is None else out + bias
    if resolve_backend(backend, features, batch) == "spconv":
        return spconv_conv(features, weight, bias, batch)
    return TapConv.apply(features, pack_same_level(weight), bias, batch.neighbours, SAME_LEVEL)


def child_conv(
    features: Float[Tensor, "N in"],
    weight: Float[Tensor, "out 3 3 3 in"],
    bias: Float[Tensor, "out"] | None,
    parents: VoxelBatch,
) -> Float[Tensor, "8*N out"]:
    """submanifold_conv on parents.subdivide() of features that every child has from its parent.

    A child's 27 taps fall onto 8 parents, so the weights are summed first: 8 products a child instead of up to 27, and
    no (8N, in) tensor. The last digits differ from the sum over 27.
    """
    check_conv(features, weight, bias, parents.n_voxels)
    features, weight, bias = _of_one_precision(features, weight, bias)
    return TapConv.apply(features, pack_children(weight), bias, parents.neighbours, CHILDREN)


def _of_one_precision(features: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """In autocast's precision where it is on, else in that of the features."""
    dtype = working_dtype(features)
    return features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def check_conv(features: Tensor, weight: Tensor, bias: Tensor | None, n_voxels: int) -> None:
    """ValueError where the shapes don't belong together."""
    if weight.ndim != 5 or tuple(weight.shape[1:4]) not in ((1, 1, 1), (3, 3, 3)):
        raise ValueError(f"weight must be (out, k, k, k, in) with k 1 or 3, got {tuple(weight.shape)}")
    if tuple(features.shape) != (n_voxels, weight.shape[4]):
        raise ValueError(f"features must be ({n_voxels}, {weight.shape[4]}), got {tuple(features.shape)}")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")


class SubMConv3d(nn.Module):
    """submanifold_conv with parameters weight (out, k, k, k, in) and bias (out,)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        if kernel_size not in (1, 3):
            raise ValueError(f"kernel_size must be 1 or 3, got {kernel_size}")
        k = kernel_size
        bound = 1.0 / math.sqrt(in_channels * k**3)  # as nn.Conv3d's
        self.weight = nn.Parameter(torch.empty(out_channels, k, k, k, in_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))

    def forward(self, features: Float[Tensor, "N in"], batch: VoxelBatch) -> Float[Tensor, "N out"]:
        return submanifold_conv(features, self.weight, self.bias, batch)

    def extra_repr(self) -> str:
        out, k, _, _, inside = self.weight.shape
        return f"{inside}, {out}, kernel_size={k}"
