"""Lattice edges where the sign changes, and how many of their four voxels are there: a face needs all of them."""

from __future__ import annotations

import dataclasses
import itertools

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from sparseflex.voxels import SparseVoxels

_SLOTS = tuple((lower, axis) for axis in range(3) for lower in range(8) if not lower >> axis & 1)
"""A voxel's twelve edges: the slot of the lower corner, and the axis."""

_AROUND_EDGE = tuple(tuple(step for step in itertools.product((0, 1), repeat=3) if not step[axis]) for axis in range(3))
"""What the four voxels around an edge have less than its lower corner, by axis."""


@dataclasses.dataclass(frozen=True, eq=False)
class LatticeEdges:
    """Edge 3 · c + a goes from corner c along axis a. n_voxels: of the four around it, how many are there, 0 where no
    sign changes; upper: the row of its other corner, where a sign changes."""

    voxels: SparseVoxels
    n_voxels: UInt8[Tensor, "edges"]
    upper: Int[Tensor, "edges"]

    @classmethod
    def of(cls, voxels: SparseVoxels, negative: Bool[Tensor, "C"]) -> LatticeEdges:
        """negative: which corners are inside."""
        corners, n_edges = voxels.corners_by_slot, 3 * voxels.n_corners
        inside = negative[corners.long()]
        n_voxels = torch.zeros(n_edges, dtype=torch.uint8, device=voxels.device)
        upper = torch.zeros(n_edges, dtype=torch.int32, device=voxels.device)
        for lower, axis in _SLOTS:
            crossed = (inside[lower] ^ inside[lower + (1 << axis)]).nonzero().squeeze(1)
            edge = 3 * corners[lower][crossed].long() + axis
            n_voxels.index_add_(0, edge, torch.ones_like(edge, dtype=torch.uint8))
            upper[edge] = corners[lower + (1 << axis)][crossed]
        return cls(voxels, n_voxels, upper)

    @property
    def crossed(self) -> Int[Tensor, "n"]:
        """The edges where the sign changes."""
        return self.n_voxels.nonzero().squeeze(1)

    @property
    def open(self) -> Int[Tensor, "n"]:
        """Those that lack a voxel, and with it their face."""
        return ((self.n_voxels > 0) & (self.n_voxels < 4)).nonzero().squeeze(1)

    def around(self, edges: Int[Tensor, "n"]) -> Int[Tensor, "n 4 3"]:
        """The four cells around edges; some may lie beyond the grid."""
        steps = torch.tensor(_AROUND_EDGE, dtype=torch.int32, device=edges.device)[edges % 3]
        return self.voxels.corner_ijk[edges // 3][:, None] - steps

    def by_voxel(self, of_edge: UInt8[Tensor, "edges"]) -> UInt8[Tensor, "N"]:
        """The highest value among each voxel's twelve edges."""
        highest = torch.zeros(self.voxels.n_voxels, dtype=torch.uint8, device=self.voxels.device)
        for lower, axis in _SLOTS:
            highest = torch.maximum(highest, of_edge[3 * self.voxels.corners_by_slot[lower].long() + axis])
        return highest
