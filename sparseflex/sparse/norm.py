"""GroupNorm over all voxels of a shape, with statistics that add up over parts of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparseflex.sparse.precision import working_sum_dtype

if TYPE_CHECKING:
    from sparseflex.sparse.batch import VoxelBatch

BLOCK_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Numbers that are summed at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over the voxels of each shape and the channels of each group, float64; those of parts add up with +.

    count: numbers summed, (B, 1); sum, sum_of_squares: (B, groups).
    """

    count: Float[Tensor, "B 1"]
    sum: Float[Tensor, "B G"]
    sum_of_squares: Float[Tensor, "B G"]

    def __add__(self, other: Statistics) -> Statistics:
        if self.sum.shape != other.sum.shape:
            sizes = f"{tuple(self.sum.shape)} and {tuple(other.sum.shape)}"
            raise ValueError(f"statistics to add must be of as many shapes and groups, got {sizes}")
        return Statistics(
            self.count + other.count, self.sum + other.sum, self.sum_of_squares + other.sum_of_squares
        )

    @property
    def mean(self) -> Float[Tensor, "B G"]:
        """0 where a shape has no voxels."""
        return self.sum / self.count.clamp(min=1)

    @property
    def variance(self) -> Float[Tensor, "B G"]:
        """The biased variance; 0 where a shape has no voxels."""
        return (self.sum_of_squares / self.count.clamp(min=1) - self.mean**2).clamp(min=0)


def group_statistics(features: Float[Tensor, "N C"], batch: VoxelBatch, groups: int) -> Statistics:
    """The statistics of the features of each shape, channels in groups of equally many neighbouring ones.

    Not differentiable: GroupNorm is. Raises ValueError for features that don't fit the batch and the groups.
    """
    n, channels = features.shape
    if n != batch.n_voxels or groups < 1 or channels % groups:
        need = f"({batch.n_voxels}, a multiple of {groups} groups)"
        raise ValueError(f"features must be {need}, got {tuple(features.shape)}")
    sums = torch.stack([_channel_sums(part, part) for part in batch.split(features.detach())])  # (B, 2, C)
    total, squares = sums.view(len(batch.sizes), 2, groups, -1).sum(dim=3).unbind(1)
    sizes = torch.tensor(batch.sizes, dtype=torch.float64, device=features.device)
    return Statistics(sizes[:, None] * (channels // groups), total, squares)


def _channel_sums(a: Float[Tensor, "n C"], b: Float[Tensor, "n C"]) -> Float[Tensor, "2 C"]:
    """The sums over the rows of a and of a·b, in float64: in blocks that stay in the cache, 7 times as fast."""
    sums = torch.zeros(2, a.shape[1], dtype=torch.float64, device=a.device)
    step = max(64, BLOCK_NUMBERS.get(a.device.type, BLOCK_NUMBERS["cuda"]) // max(a.shape[1], 1))
    for part, other in zip(a.split(step), b.split(step), strict=True):
        wide = part.to(torch.float64, copy=True)
        sums[0] += wide.sum(dim=0)
        sums[1] += (wide.square_() if a is b else wide.mul_(other)).sum(dim=0)
    return sums


def _scale_and_shift(
    x: Float[Tensor, "n C"], scale: Float[Tensor, "C"], shift: Float[Tensor, "C"], out: Float[Tensor, "n C"]
) -> None:
    """x · scale + shift into out. Half precision goes through float32, in blocks: where a mean is large beside the
    deviation, a rounded shift would be off by as much as what is left of x."""
    wide = working_sum_dtype(x.dtype)
    scale, shift = scale.to(wide), shift.to(wide)
    if wide == x.dtype:
        torch.addcmul(shift, x, scale, out=out)
        return
    step = max(64, BLOCK_NUMBERS.get(x.device.type, BLOCK_NUMBERS["cuda"]) // max(x.shape[1], 1))
    for part, target in zip(x.split(step), out.split(step), strict=True):
        target.copy_(torch.addcmul(shift, part.to(wide), scale))


class _Normalised(torch.autograd.Function):
    """(features − mean) · inverse_deviation · weight + bias, shape by shape; saves nothing but its inputs.

    own: whether the statistics are those of the features, so that gradients go through them too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Float[Tensor, "N C"],
        weight: Float[Tensor, "C"],
        bias: Float[Tensor, "C"],
        mean: Float[Tensor, "B G"],
        inverse_deviation: Float[Tensor, "B G"],
        sizes: tuple[int, ...],
        own: bool,
    ) -> Float[Tensor, "N C"]:
        ctx.save_for_backward(features, weight, mean, inverse_deviation)
        ctx.sizes, ctx.own = sizes, own
        repeats = features.shape[1] // mean.shape[1]
        scales = inverse_deviation.repeat_interleave(repeats, dim=1) * weight
        shifts = bias - mean.repeat_interleave(repeats, dim=1) * scales
        out = torch.empty_like(features)
        for part, target, a, b in zip(features.split(sizes), out.split(sizes), scales, shifts, strict=True):
            _scale_and_shift(part, a, b, target)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "N C"]) -> tuple[Tensor | None, ...]:
        features, weight, mean, inverse_deviation = ctx.saved_tensors
        groups, wide_weight = mean.shape[1], weight.double()
        repeats = features.shape[1] // groups
        out = torch.empty_like(features)
        of_weight = torch.zeros_like(wide_weight)
        of_bias = torch.zeros_like(wide_weight)
        parts = [rows.split(ctx.sizes) for rows in (features, grad, out)]
        for x, g, target, shape_mean, shape_inverse in zip(*parts, mean, inverse_deviation, strict=True):
            mu, r = (values.repeat_interleave(repeats) for values in (shape_mean, shape_inverse))
            sum_g, sum_gx = _channel_sums(g, x)
            sum_g_normal = (sum_gx - mu * sum_g) * r
            of_weight += sum_g_normal
            of_bias += sum_g
            torch.mul(g, (r * wide_weight).to(g.dtype), out=target)
            if ctx.own and x.shape[0]:
                shared = 1.0 / (x.shape[0] * repeats)
                level, slope = (
                    ((wide_weight * sums).view(groups, repeats).sum(dim=1) * shared).repeat_interleave(repeats)
                    for sums in (sum_g, sum_g_normal)
                )
                target.addcmul_(x, (-r * r * slope).to(x.dtype)).add_((r * (mu * r * slope - level)).to(x.dtype))
        return out, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None, None, None


class GroupNorm(nn.Module):
    """nn.GroupNorm over the voxels of each shape: weight (C,), bias (C,); statistics in float64."""

    def __init__(self, channels: int, groups: int = 32, eps: float = 1e-5) -> None:
        super().__init__()
        if groups < 1 or channels % groups:
            raise ValueError(f"channels must be a multiple of groups ({groups}), got {channels}")
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, features: Float[Tensor, "N C"], batch: VoxelBatch, statistics: Statistics | None = None
    ) -> Float[Tensor, "N C"]:
        """By the batch's own statistics, or by given ones (of the whole shapes, where the batch is a part of them).

        Gradients go through the batch's own statistics, not through given ones.
        """
        found = group_statistics(features, batch, self.groups) if statistics is None else statistics
        if found.sum.shape != (batch.n_shapes, self.groups):
            need = f"{batch.n_shapes} shapes and {self.groups} groups"
            raise ValueError(f"statistics must be of {need}, got {tuple(found.sum.shape)}")
        inverse_deviation = (found.variance + self.eps).rsqrt()
        return _Normalised.apply(
            features, self.weight, self.bias, found.mean, inverse_deviation, batch.sizes, statistics is None
        )

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, groups={self.groups}, eps={self.eps}"
