"""PointEncoder: points with normals to one feature a voxel, the mean over the points in it (method.md, section 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sparseflex.sparse import VoxelBatch
from sparseflex.sparse.precision import working_sum_dtype
from sparseflex.vae.config import VAEConfig

_INSIDE = 1e-6  # points are kept so far from the box's ends

POINTS_AT_ONCE = 1 << 16
"""More points go through the layers so many at a time: 819,200 at once would take 10 GB at the release's widths."""


class PointBlock(nn.Module):
    """A residual block of two layers that halves the width: shortcut(x) + fc_1(gelu(fc_0(gelu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc_0 = nn.Linear(2 * channels, channels)
        self.fc_1 = nn.Linear(channels, channels)
        self.shortcut = nn.Linear(2 * channels, channels, bias=False)

    def forward(self, x: Float[Tensor, "points two_h"]) -> Float[Tensor, "points h"]:
        inner = self.fc_0(functional.gelu(x, approximate="tanh"))
        return self.shortcut(x) + self.fc_1(functional.gelu(inner, approximate="tanh"))


class PointEncoder(nn.Module):
    """Local pooling: after each block but the last every point also sees the mean of its voxel."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.fc_pos = nn.Linear(6, 2 * config.hidden_channels)
        self.blocks = nn.ModuleList(PointBlock(config.hidden_channels) for _ in range(config.n_point_blocks))
        self.fc_c = nn.Linear(config.hidden_channels, config.point_channels)

    def forward(
        self, inputs: Float[Tensor, "points 6"], rows: Int[Tensor, "points"], n_voxels: int
    ) -> Float[Tensor, "voxels channels"]:
        """Features of n_voxels voxels; rows says in which each point lies. A voxel without a point gets zeros."""
        starts = range(0, max(len(rows), 1), POINTS_AT_ONCE)
        parts = [slice(start, start + POINTS_AT_ONCE) for start in starts]
        x = torch.cat([self.blocks[0](self.fc_pos(inputs[part])) for part in parts])
        for block in self.blocks[1:]:
            means = voxel_means(x, rows, n_voxels)
            x = torch.cat([block(torch.cat([x[part], means[rows[part]]], dim=1)) for part in parts])
        # the mean of a linear layer is the layer of the mean, on fewer rows; and it is wide
        features = self.fc_c(voxel_means(x, rows, n_voxels))
        return torch.where(torch.bincount(rows, minlength=n_voxels)[:, None] > 0, features, 0.0)


def voxel_means(
    values: Float[Tensor, "points k"], rows: Int[Tensor, "points"], n_voxels: int
) -> Float[Tensor, "voxels k"]:
    """The mean of the points of each voxel, 0 where it has none. Half precision is summed in float32."""
    wide = working_sum_dtype(values.dtype)
    total = torch.zeros(n_voxels, values.shape[1], dtype=wide, device=values.device)
    for part, own_rows in zip(values.split(POINTS_AT_ONCE), rows.split(POINTS_AT_ONCE), strict=True):
        total.index_add_(0, own_rows, part.to(wide))
    count = torch.bincount(rows, minlength=n_voxels).clamp(min=1)
    return (total / count[:, None].to(wide)).to(values.dtype)


def point_inputs(
    points_world: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"], batch: VoxelBatch,
    shape_index: Int[Tensor, "points"] | None = None,
) -> tuple[Float[Tensor, "points 6"], Int[Tensor, "points"]]:
    """What the encoder takes of each point, [place within its voxel in (-1, 1), normal], and the voxel's row.

    shape_index: to which shape of the batch each point belongs; it may be left out where there is but one, else
    ValueError. The row is -1 where the point's voxel is not in the set.
    """
    if shape_index is None and batch.n_shapes > 1:
        raise ValueError(f"shape_index must be given for a batch of {batch.n_shapes} shapes, got None")
    scaled = (points_world + 0.5).clamp(_INSIDE, 1 - _INSIDE) * batch.resolution
    cell = scaled.floor()
    inputs = torch.cat([2 * (scaled - cell - 0.5), normals], dim=1)
    ijk = cell.to(torch.int32)
    if shape_index is None:
        return inputs, batch.sets[0].find(ijk)
    rows = torch.full((len(ijk),), -1, dtype=torch.int64, device=ijk.device)
    start = 0
    for number, voxels in enumerate(batch.sets):
        own = (shape_index == number).nonzero().squeeze(1)
        found = voxels.find(ijk[own])
        rows[own] = torch.where(found >= 0, found + start, -1)
        start += voxels.n_voxels
    return inputs, rows
