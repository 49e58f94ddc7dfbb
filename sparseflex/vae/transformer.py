"""Trunk: the sparse transformer of encoder and decoder, attention within shifted windows (method.md, section 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sparseflex.sparse import VoxelBatch, WindowPlan, attention_by_parts, position_embedding, windowed_attention
from sparseflex.vae.config import VAEConfig

_NORM_EPS = 1e-6

HIDDEN_NUMBERS = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Numbers between a FeedForward's two layers at once: more rows go through it so many at a time."""


class Attention(nn.Module):
    """Multi-head attention of voxels within their window."""

    def __init__(self, channels: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)

    def qkv(self, x: Float[Tensor, "voxels channels"]) -> Float[Tensor, "voxels 3 heads each"]:
        return self.to_qkv(x).unflatten(1, (3, self.n_heads, -1))

    def forward(self, x: Float[Tensor, "voxels channels"], plan: WindowPlan) -> Float[Tensor, "voxels channels"]:
        return self.to_out(windowed_attention(self.qkv(x), plan).flatten(1))


class FeedForward(nn.Module):
    """Two layers with a tanh-GELU between them."""

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, out))

    def rows_at_once(self, device: torch.device) -> int:
        """How many rows go through it together."""
        return max(64, HIDDEN_NUMBERS.get(device.type, HIDDEN_NUMBERS["cuda"]) // self.mlp[0].out_features)

    def forward(self, x: Float[Tensor, "voxels channels"]) -> Float[Tensor, "voxels out"]:
        rows = self.rows_at_once(x.device)
        return self.mlp(x) if len(x) <= rows else torch.cat([self.mlp(part) for part in x.split(rows)])


class Block(nn.Module):
    """A pre-norm transformer block; its norms have no parameters."""

    def __init__(self, config: VAEConfig, shift: int) -> None:
        super().__init__()
        self.window_size, self.shift = config.window_size, shift
        self.attn = Attention(config.model_channels, config.n_heads)
        self.mlp = FeedForward(config.model_channels, config.mlp_ratio * config.model_channels, config.model_channels)

    def plan(self, batch: VoxelBatch) -> WindowPlan:
        return batch.windows(self.window_size, self.shift)

    def attention_qkv(self, x: Float[Tensor, "voxels channels"]) -> Float[Tensor, "voxels 3 heads each"]:
        """Queries, keys and values that this block makes of its input."""
        return self.attn.qkv(_norm(x))

    def forward(self, x: Float[Tensor, "voxels channels"], batch: VoxelBatch) -> Float[Tensor, "voxels channels"]:
        if not torch.is_grad_enabled():
            return self._by_parts(x, batch)
        x = x + self.attn(_norm(x), self.plan(batch))
        return x + self.mlp(_norm(x))

    def _by_parts(self, x: Float[Tensor, "voxels channels"], batch: VoxelBatch) -> Float[Tensor, "voxels channels"]:
        """The same without gradients: beside what comes and what goes there are only parts."""
        out = x.new_empty(len(x) + 1, x.shape[1])
        attended = attention_by_parts(lambda rows: self.attention_qkv(x.index_select(0, rows)), self.plan(batch),
                                      x.device, 3 * x.shape[1])
        for rows, targets, values in attended:
            out.index_copy_(0, targets, x.index_select(0, rows).add_(self.attn.to_out(values.flatten(1))))
        out = out[:-1]
        for part in out.split(self.mlp.rows_at_once(x.device)):
            part.add_(self.mlp(_norm(part)))
        return out


def _norm(x: Float[Tensor, "voxels channels"]) -> Float[Tensor, "voxels channels"]:
    return functional.layer_norm(x.float(), x.shape[-1:], eps=_NORM_EPS).to(x.dtype)


class Trunk(nn.Module):
    """A linear layer plus the positions' embedding, then blocks whose windows are shifted by half on every second."""

    def __init__(self, config: VAEConfig, in_channels: int, n_blocks: int) -> None:
        super().__init__()
        self.input_layer = nn.Linear(in_channels, config.model_channels)
        shifts = [config.window_size // 2 * (number % 2) for number in range(n_blocks)]
        self.blocks = nn.ModuleList(Block(config, shift) for shift in shifts)

    def embed(self, x: Float[Tensor, "voxels inputs"], batch: VoxelBatch) -> Float[Tensor, "voxels channels"]:
        """What the first block takes."""
        x = self.input_layer(x)
        return x + position_embedding(batch.voxel_ijk, x.shape[1]).to(x.dtype)

    def run(self, x: Float[Tensor, "voxels inputs"], batch: VoxelBatch) -> Float[Tensor, "voxels channels"]:
        """All of it."""
        x = self.embed(x, batch)
        for block in self.blocks:
            x = block(x, batch)
        return x
