"""Why a surface is empty, holed or inside out: what signs, missing voxels and the target say of a lattice."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.borders import voxels_at_border
from sparseflex.lattice_edges import LatticeEdges
from sparseflex.mesh import Mesh
from sparseflex.regions import Regions
from sparseflex.signed_distance import signed_distance
from sparseflex.voxels import SparseVoxels

CLEAR_VOXELS = 0.1
"""A corner nearer to the target than this, in voxel widths, doesn't say which side it should be on."""

BORDER_VOXELS = 3
"""So near to an open border of the target, in voxels, it has no sides."""


@dataclasses.dataclass(frozen=True, eq=False)
class SurfaceCheck:
    """What a lattice's signs come to. A corner that is NaN counts as outside, as in the extraction.

    n_inside, n_outside, n_bad: corners below 0, not below 0, and those among them that aren't finite. n_crossed:
    voxels that the surface passes through. n_faces: lattice edges where the sign changes and all four voxels are there,
    n_open: those that lack a voxel, so that the surface is open there.
    holes: voxels that the target touches and which are not there, in regions; lost: (n,) faces that each costs: open
    edges beside it. None where there is no target.
    turned: voxels of whose corners most are on the wrong side of the target, in regions; None where there is no target.
    n_at_border: voxels too near to an open border of the target to have a side. bad: voxels with a corner that isn't
    finite, in regions.
    """

    voxels: SparseVoxels
    n_inside: int
    n_outside: int
    n_bad: int
    n_crossed: int
    n_faces: int
    n_open: int
    holes: Regions | None
    lost: Int[Tensor, "n"]
    turned: Regions | None
    n_at_border: int
    bad: Regions


class Truth(NamedTuple):
    """What a target says of a lattice: the voxels that it touches; its SDF at the corners, in world units; the voxels
    so near to an open border that it has no sides there."""

    touched: SparseVoxels
    sdf: Float[Tensor, "C"]
    at_border: SparseVoxels

    @classmethod
    def of(cls, target: Mesh, voxels: SparseVoxels) -> Truth:
        """target: in the normalised frame, on the voxels' device. Takes seconds for a million voxels."""
        resolution = voxels.resolution
        return cls(SparseVoxels.from_mesh(target, resolution), signed_distance(target, voxels.corners_world),
                   voxels_at_border(target, resolution, BORDER_VOXELS))


def check_surface(voxels: SparseVoxels, corner_sdf: Float[Tensor, "C"], truth: Truth | None = None) -> SurfaceCheck:
    """truth: what the target says, None where there is none. Raises ValueError where rows or resolutions don't fit."""
    for name, values in (("corner_sdf", corner_sdf), *((("truth.sdf", truth.sdf),) if truth else ())):
        if values.shape != (voxels.n_corners,):
            raise ValueError(f"{name} must have {voxels.n_corners} values, one a corner, got {tuple(values.shape)}")
    if truth is not None and truth.touched.resolution != voxels.resolution:
        raise ValueError(f"truth must have the voxels' resolution, {voxels.resolution}, got {truth.touched.resolution}")
    sdf = corner_sdf.detach()
    negative, finite = sdf < 0, torch.isfinite(sdf)
    edges = LatticeEdges.of(voxels, negative)
    inside = negative[voxels.corners_by_slot.long()].sum(dim=0)
    bad = (~finite)[voxels.corners_by_slot.long()].any(dim=0)
    holes, turned, lost, n_at_border = None, None, torch.zeros(0, dtype=torch.int64, device=voxels.device), 0
    if truth is not None:
        holes = Regions.of(truth.touched.prune(voxels.find(truth.touched.voxel_ijk) < 0))
        at_border = truth.at_border.find(voxels.voxel_ijk) >= 0
        turned = Regions.of(voxels.prune(_turned(voxels, sdf, truth.sdf) & ~at_border))
        lost, n_at_border = _lost(edges, holes), int(at_border.sum())
    n_open, n_negative = len(edges.open), int(negative.sum())
    return SurfaceCheck(voxels, n_negative, voxels.n_corners - n_negative, int((~finite).sum()),
                        int(((inside > 0) & (inside < 8)).sum()), len(edges.crossed) - n_open, n_open, holes, lost,
                        turned, n_at_border, Regions.of(voxels.prune(bad)))


def _lost(edges: LatticeEdges, holes: Regions) -> Int[Tensor, "n"]:
    """By region, the open edges that one of its voxels lies at."""
    around = edges.around(edges.open)
    row = holes.voxels.find(around.reshape(-1, 3))
    region = torch.where(row >= 0, holes.number[row.clamp(min=0)], -1) if holes.n else torch.full_like(row, -1)
    place = torch.arange(len(around), device=row.device).repeat_interleave(4)
    pairs = torch.unique(torch.stack([region, place], dim=1)[region >= 0], dim=0)
    return torch.bincount(pairs[:, 0], minlength=holes.n)


def _turned(voxels: SparseVoxels, sdf: Float[Tensor, "C"], target_sdf: Float[Tensor, "C"]) -> Bool[Tensor, "N"]:
    """Where more corners are on the wrong side of the target than on the right one; those too near don't count."""
    clear = (target_sdf.abs() * voxels.resolution > CLEAR_VOXELS) & torch.isfinite(sdf)
    wrong = (sdf < 0) != (target_sdf < 0)
    vote = clear.to(torch.int8) * torch.where(wrong, 1, -1).to(torch.int8)
    return vote[voxels.corners_by_slot.long()].sum(dim=0) > 0
