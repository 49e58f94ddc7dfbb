"""GroupNorm over all voxels of a shape, with statistics that add up over parts of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from sparseflex.sparse.batch import VoxelBatch


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
    """The statistics of the features of each shape, channels in groups of equally many neighbouring ones."""
    n, channels = features.shape
    if n != batch.n_voxels or groups < 1 or channels % groups:
        need = f"({batch.n_voxels}, a multiple of {groups} groups)"
        raise ValueError(f"features must be {need}, got {tuple(features.shape)}")
    values = features.double().view(n, groups, channels // groups)
    parts = values.split(batch.sizes)
    count = torch.tensor(batch.sizes, dtype=torch.float64, device=features.device)[:, None] * (channels // groups)
    total = torch.stack([part.sum(dim=(0, 2)) for part in parts])
    return Statistics(count, total, torch.stack([part.square().sum(dim=(0, 2)) for part in parts]))


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
        """By the batch's own statistics, or by given ones (of the whole shapes, where the batch is a part of them)."""
        if statistics is None:
            statistics = group_statistics(features, batch, self.groups)
        repeats = features.shape[1] // self.groups
        scale = (statistics.variance + self.eps).rsqrt().repeat_interleave(repeats, dim=1) * self.weight
        shift = self.bias - statistics.mean.repeat_interleave(repeats, dim=1) * scale
        scale, shift = scale.to(features.dtype), shift.to(features.dtype)
        parts = batch.split(features)
        return torch.cat([torch.addcmul(b, part, a) for part, a, b in zip(parts, scale, shift, strict=True)])

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, groups={self.groups}, eps={self.eps}"
