"""The absolute position embedding of integer voxel coordinates."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def position_embedding(voxel_ijk: Int[Tensor, "N 3"], channels: int) -> Float[Tensor, "N channels"]:
    """[sin, cos] of each coordinate times d = channels // 6 frequencies 10000^(−i/d), axis after axis, float32.

    What is left of the channels is zero.
    """
    d = channels // 6
    if d < 1:
        raise ValueError(f"channels must be at least 6, got {channels}")
    steps = torch.arange(d, dtype=torch.float32, device=voxel_ijk.device) / d
    angles = voxel_ijk.to(torch.float32)[:, :, None] * (1.0 / 10000.0**steps)
    out = angles.new_zeros(voxel_ijk.shape[0], channels)
    waves = out[:, : 6 * d].unflatten(1, (3, 2, d))
    waves[:, :, 0] = angles.sin()
    waves[:, :, 1] = angles.cos()
    return out
