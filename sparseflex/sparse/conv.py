"""Submanifold convolution on sparse voxels: outputs at the voxels that exist, sums over the neighbours that exist."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
    (out, 1, 1, 1, in) read as (in, out), not its transpose.
    """
    check_conv(features, weight, bias, batch.n_voxels)
    if weight.shape[1] == 1:
        out = features @ weight.reshape(weight.shape[4], weight.shape[0])
    else:
        out = features.new_zeros(batch.n_voxels, weight.shape[0])
        taps = weight.reshape(weight.shape[0], 27, -1)
        for t in range(27):
            rows = (batch.neighbours[t] >= 0).nonzero().squeeze(1)
            out = out.index_add(0, rows, features[batch.neighbours[t][rows].long()] @ taps[:, t].T)
    return out if bias is None else out + bias


def child_conv(
    features: Float[Tensor, "N in"],
    weight: Float[Tensor, "out 3 3 3 in"],
    bias: Float[Tensor, "out"] | None,
    parents: VoxelBatch,
) -> Float[Tensor, "8N out"]:
    """submanifold_conv on parents.subdivide() of features that every child has from its parent."""
    check_conv(features, weight, bias, parents.n_voxels)
    return submanifold_conv(features.repeat_interleave(8, dim=0), weight, bias, parents.subdivide())


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
