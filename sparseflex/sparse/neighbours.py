"""The 27 neighbours of every voxel of a set, as a table of rows."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from sparseflex.voxels import SparseVoxels

OFFSETS = tuple((x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1))
"""Tap t of a 3³ kernel looks at ijk + OFFSETS[t], z fastest; tap 26 − t looks the other way."""


def neighbour_table(voxels: SparseVoxels, first_row: int = 0) -> Int[Tensor, "27 N"]:
    """The row of the voxel at ijk + OFFSETS[t], counted from first_row, int32, or −1 where there is none."""
    offsets = torch.tensor(OFFSETS, dtype=torch.int32, device=voxels.device)
    found = torch.stack([voxels.find(voxels.voxel_ijk + offset) for offset in offsets])
    return torch.where(found >= 0, found + first_row, -1).to(torch.int32)
