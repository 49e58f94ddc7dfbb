"""Upsampling: a self-pruning block that splits every voxel into eight and judges each child (method.md, section 5)."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sparseflex.sparse import GroupNorm, Statistics, SubMConv3d, VoxelBatch, child_conv
from sparseflex.vae.config import VAEConfig
from sparseflex.vae.transformer import FeedForward


class Upsampled(NamedTuple):
    """Features and occupancy logits of all children, eight rows a parent in its order."""

    features: Float[Tensor, "children channels"]
    occupancy_logits: Float[Tensor, "children"]


class Convolution(nn.Module):
    """A submanifold convolution under the name that the release's keys have for it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = SubMConv3d(in_channels, out_channels, kernel_size)

    def forward(self, x: Float[Tensor, "voxels in"], batch: VoxelBatch) -> Float[Tensor, "voxels out"]:
        return self.conv(x, batch)


class Upsampling(nn.Module):
    """Children's features: conv(SiLU(norm(conv(SiLU(norm(x)))))) + a linear skip of x; then the pruning head.

    The release's order: norm and SiLU on the parents, subdivision, and all else on the children.
    """

    def __init__(self, in_channels: int, out_channels: int, mlp_ratio: int) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(GroupNorm(in_channels), nn.SiLU())
        self.out_layers = nn.Sequential(
            Convolution(in_channels, out_channels, 3), GroupNorm(out_channels), nn.SiLU(),
            Convolution(out_channels, out_channels, 3),
        )
        self.skip_connection = Convolution(in_channels, out_channels, 1)
        self.pruning_head = FeedForward(out_channels, mlp_ratio * out_channels, 1)

    def first(
        self, x: Float[Tensor, "parents in"], parents: VoxelBatch, statistics: Statistics | None = None
    ) -> Float[Tensor, "children out"]:
        """Up to the first convolution; statistics: of x, where they aren't to be taken from these rows alone."""
        conv = self.out_layers[0].conv
        return child_conv(_silu(self.act_layers[0](x, parents, statistics)), conv.weight, conv.bias, parents)

    def second(
        self, x: Float[Tensor, "parents in"], hidden: Float[Tensor, "children out"], parents: VoxelBatch,
        children: VoxelBatch, statistics: Statistics | None = None,
    ) -> Float[Tensor, "children out"]:
        """The rest of the features; hidden and statistics: what `first` gave and its statistics."""
        hidden = _silu(self.out_layers[1](hidden, children, statistics))
        features = self.out_layers[3](hidden, children)
        # in place: of the widest tensors there are as few at once as can be
        features.view(len(x), 8, features.shape[1]).add_(self.skip_connection(x, parents)[:, None])
        return features

    def judge(self, features: Float[Tensor, "children out"]) -> Float[Tensor, "children"]:
        """Occupancy logits, float32."""
        return self.pruning_head(features).squeeze(1).float()

    def forward(self, x: Float[Tensor, "parents in"], parents: VoxelBatch) -> Upsampled:
        features = self.second(x, self.first(x, parents), parents, parents.subdivide())
        return Upsampled(features, self.judge(features))


def _silu(normed: Float[Tensor, "rows channels"]) -> Float[Tensor, "rows channels"]:
    """Of what nobody else needs: in its place, where no gradient does."""
    return functional.silu(normed, inplace=not normed.requires_grad)


def upsamplings(config: VAEConfig) -> nn.ModuleList:
    """Both of them."""
    widths = (config.model_channels, *config.level_channels)
    return nn.ModuleList(Upsampling(a, b, config.mlp_ratio) for a, b in zip(widths[:-1], widths[1:], strict=True))
