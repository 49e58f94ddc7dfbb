"""Regions: voxels that hang together, each set of them with its size and place, found by integer keys."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Int
from torch import Tensor

from sparseflex.voxels import SparseVoxels

_HALF = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)]
"""Of each pair of opposite ones of the 26 neighbours, one."""


def components(voxels: SparseVoxels, codes: Int[Tensor, "N"] | None = None) -> Int[Tensor, "N"]:
    """For each voxel the lowest row that it is connected to through its 26 neighbours; codes: only those of its own."""
    label = torch.arange(voxels.n_voxels, device=voxels.device)
    pairs = []
    for offset in _HALF:
        other = voxels.find(voxels.voxel_ijk + torch.tensor(offset, dtype=torch.int32, device=voxels.device))
        row = (other >= 0).nonzero().squeeze(1)
        if codes is not None:
            row = row[codes[row] == codes[other[row]]]
        pairs.append(torch.stack([row, other[row]]))
    a, b = torch.cat(pairs, dim=1)
    while len(a):  # the lower root takes the higher one in; then all point to their roots
        low = torch.minimum(label[a], label[b])
        label.scatter_reduce_(0, label[a], low, "amin").scatter_reduce_(0, label[b], low, "amin")
        further = label[label]
        while not torch.equal(further, label):
            label, further = further, further[further]
        apart = label[a] != label[b]
        a, b = a[apart], b[apart]
    return label


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """voxels: of all regions; number: (N,) the region of each, the largest being 0; sizes: (n,) voxels of each; low,
    high: (n, 3) the ijk box around each, both included."""

    voxels: SparseVoxels
    number: Int[Tensor, "N"]
    sizes: Int[Tensor, "n"]
    low: Int[Tensor, "n 3"]
    high: Int[Tensor, "n 3"]

    @classmethod
    def of(cls, voxels: SparseVoxels) -> Regions:
        """The connected sets (26 neighbours) of voxels, the largest first; of equal ones that with the lowest row."""
        names, number, sizes = torch.unique(components(voxels), return_inverse=True, return_counts=True)
        order = torch.argsort(-sizes, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        number, n = rank[number], len(order)
        place = number[:, None].expand(-1, 3)
        low = voxels.voxel_ijk.new_zeros(n, 3).scatter_reduce_(0, place, voxels.voxel_ijk, "amin", include_self=False)
        high = voxels.voxel_ijk.new_zeros(n, 3).scatter_reduce_(0, place, voxels.voxel_ijk, "amax", include_self=False)
        return cls(voxels, number, sizes[order], low, high)

    @property
    def n(self) -> int:
        return len(self.sizes)
