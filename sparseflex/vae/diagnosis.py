"""Where the input points are against what was kept, and why there is no surface at some: holes by cause."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from sparseflex.data import winding_report
from sparseflex.lattice_edges import LatticeEdges
from sparseflex.mesh import Mesh
from sparseflex.representation import SparseFlex
from sparseflex.vae.decisions import Decisions, cells_of
from sparseflex.voxels import SparseVoxels, lattice_keys

_POINTS_AT_ONCE = 1 << 20
_FACE = 4  # of an edge, a corner or a voxel: it has a face; below, the cause that took it; 0 where no sign changes
_NONE = 255


class Cause(enum.IntEnum):
    """What became of a point, see diagnose."""

    COVERED = 0
    """A face comes about as near as the lattice can tell."""
    NO_INPUT_VOXEL = 1
    """No latent's voxel holds the point."""
    PRUNED_1 = 2
    """The child of the first upsampling that holds the point was pruned."""
    PRUNED_2 = 3
    """The child of the second upsampling that holds the point was pruned."""
    NO_SIGN_CHANGE = 4
    """Its voxel is there, and the corners of it and of the 26 around it have one sign."""
    MISSING_NEIGHBOUR = 5
    """Signs change near it, but the edges where they do lack some of their four voxels, and with them their faces."""


NEIGHBOUR_CAUSES = (Cause.NO_INPUT_VOXEL, Cause.PRUNED_1, Cause.PRUNED_2)
"""Why a neighbour isn't there."""


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """causes: (P,) a Cause for each point. neighbour_causes: for those of MISSING_NEIGHBOUR why the neighbour is not
    there: NO_INPUT_VOXEL (nothing was ever there), PRUNED_1 or PRUNED_2; else 0. Where several lack, an edge counts by
    the one that was lost first, a point by the edge that held out longest. pruned_logits: the occupancy logit for which
    a point's voxel was pruned, else NaN."""

    causes: UInt8[Tensor, "points"]
    neighbour_causes: UInt8[Tensor, "points"]
    pruned_logits: Float[Tensor, "points"]

    @property
    def counts(self) -> dict[Cause, int]:
        """Points by cause, every cause named."""
        found = torch.bincount(self.causes.long(), minlength=len(Cause)).tolist()
        return {cause: found[cause] for cause in Cause}

    @property
    def neighbour_counts(self) -> dict[Cause, int]:
        """Points of MISSING_NEIGHBOUR by the neighbour's cause."""
        found = torch.bincount(self.neighbour_causes.long(), minlength=_FACE).tolist()
        return {cause: found[cause] for cause in NEIGHBOUR_CAUSES}


def diagnose(
    points: Float[Tensor, "points 3"], voxels: SparseVoxels, levels: Sequence[Decisions], flex: SparseFlex
) -> Diagnosis:
    """Why a surface is, or is not, at each point. voxels: those of the latents; levels: both upsamplings; flex: on what
    they kept, in their order.

    A face arises around a lattice edge where the sign changes and all four voxels are there (extraction), so the
    lattice alone tells which faces there are. A point looks at the edges at the corner nearest to it; where no sign
    changes there, at the twelve of its voxel; and then at those of the 26 voxels around. At the first of these places
    where signs change it is COVERED if one of the edges has its face. The reach is half a voxel across the surface in
    the first place, so that a hole of one voxel is seen. Else, if the point's own voxel (the one at the output's
    resolution) is not there, the cause is what took it or its ancestor; if it is, MISSING_NEIGHBOUR where signs
    change, NO_SIGN_CHANGE where they don't. A point outside the box has no voxel; a NaN corner counts as outside, as in
    the extraction. Raises ValueError where the levels don't follow from each other.
    """
    chain = _Chain.of(voxels, levels, flex.voxels)
    device = flex.voxels.device
    lattice = _lattice_of(flex, chain)
    parts = [_diagnose_part(part.to(device), chain, lattice) for part in points.detach().split(_POINTS_AT_ONCE)]
    return Diagnosis(*(torch.cat(columns).to(points.device) for columns in zip(*parts, strict=True)))


def _diagnose_part(points: Float[Tensor, "p 3"], chain: _Chain, lattice: _Lattice) -> tuple[Tensor, Tensor, Tensor]:
    """Causes, neighbours' causes and logits of some points."""
    resolution = lattice.voxels.resolution
    ijk = cells_of(points, resolution)
    fate, rows, logits = chain.follow(ijk)
    found = lattice.at_nearest_corner(points)
    nowhere = (found == 0).nonzero().squeeze(1)
    found[nowhere] = lattice.at_voxel(ijk[nowhere], rows[nowhere])
    nowhere = nowhere[found[nowhere] == 0]
    found[nowhere] = lattice.around(ijk[nowhere])
    found[((ijk < 0) | (ijk >= resolution)).any(dim=1)] = 0  # the border's faces are not for points beyond it
    open_edge = (found > 0) & (found < _FACE)
    causes = torch.where(open_edge, int(Cause.MISSING_NEIGHBOUR), int(Cause.NO_SIGN_CHANGE))
    causes = torch.where(fate > 0, fate, causes)
    causes = torch.where(found == _FACE, int(Cause.COVERED), causes).to(torch.uint8)
    neighbour_causes = torch.where(causes == Cause.MISSING_NEIGHBOUR, found, 0).to(torch.uint8)
    return causes, neighbour_causes, torch.where(causes == fate, logits, torch.nan)


def open_edges(mesh: Mesh) -> int:
    """Edges of one triangle alone: the rims of holes and of open surfaces."""
    return winding_report(mesh).n_boundary


# -- what became of a voxel ------------------------------------------------------------------------------------------


class _Fates(NamedTuple):
    """0 where a voxel is there, else the Cause that took it; its row, -1 where it isn't there; the logit of a pruned
    one or of the ancestor that was pruned."""

    fate: UInt8[Tensor, "n"]
    rows: Int[Tensor, "n"]
    logits: Float[Tensor, "n"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Chain:
    """From the latents' voxels to the last children. Rows follow from each other, so only the first are searched.

    ranks: for each level and child its row among the kept ones, where it is one.
    """

    voxels: SparseVoxels
    levels: tuple[Decisions, ...]
    ranks: tuple[Tensor, ...]

    @classmethod
    def of(cls, voxels: SparseVoxels, levels: Sequence[Decisions], final: SparseVoxels) -> _Chain:
        if len(levels) != 2:
            raise ValueError(f"levels must be the two upsamplings, got {len(levels)}")
        voxels, parents, ranks = voxels.to(final.device), voxels, []
        for number, level in enumerate(levels, 1):
            fits = level.children.resolution == 2 * parents.resolution
            fits = fits and level.children.n_voxels == 8 * parents.n_voxels
            if not fits or not torch.equal(level.children.voxel_ijk[::8], 2 * parents.voxel_ijk):
                raise ValueError(f"level {number} must have the children of what was kept before it, in their order: "
                                 f"8 · {parents.n_voxels} at {2 * parents.resolution}, got "
                                 f"{level.children.n_voxels} at {level.children.resolution}")
            parents = level.children.prune(level.kept)
            ranks.append(level.kept.cumsum(0) - 1)
        if not torch.equal(final.voxel_ijk, parents.voxel_ijk.to(final.device)):
            raise ValueError(f"flex must be on the {parents.n_voxels} voxels kept last, got {final.n_voxels}")
        return cls(voxels, tuple(levels), tuple(ranks))

    def follow(self, ijk: Int[Tensor, "n 3"]) -> _Fates:
        """What became of voxels at the output's resolution; those off the grid never were."""
        rows = self.voxels.find(ijk >> len(self.levels))
        fate = torch.where(rows < 0, int(Cause.NO_INPUT_VOXEL), 0).to(torch.uint8)
        logits = torch.full(rows.shape, torch.nan, device=rows.device)
        for number, (level, rank) in enumerate(zip(self.levels, self.ranks, strict=True)):
            there = (rows >= 0).nonzero().squeeze(1)
            bit = (ijk[there] >> (len(self.levels) - 1 - number)) & 1
            child = 8 * rows[there] + 4 * bit[:, 0] + 2 * bit[:, 1] + bit[:, 2]
            kept = level.kept[child]
            rows[there] = torch.where(kept, rank[child], -1)
            pruned = there[~kept]
            fate[pruned] = Cause.PRUNED_1 + number
            logits[pruned] = level.occupancy_logits[child[~kept]].detach().float()
        return _Fates(fate, rows, logits)


# -- what the lattice says -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Lattice:
    """For each lattice edge (3 · lower corner + axis): _FACE where it has a face, else the Cause that keeps it from
    having one, 0 where no sign changes. For each corner the highest of its six edges, for each voxel of its twelve."""

    voxels: SparseVoxels
    of_edge: UInt8[Tensor, "edges"]
    of_corner: UInt8[Tensor, "corners"]
    of_voxel: UInt8[Tensor, "voxels"]

    def at_nearest_corner(self, points: Float[Tensor, "p 3"]) -> UInt8[Tensor, "p"]:
        resolution = self.voxels.resolution
        nearest = ((points.double() + 0.5) * resolution + 0.5).floor().nan_to_num(-1.0).clamp(-1, resolution + 1)
        return _looked_up(self.of_corner, self.voxels.find_corners(nearest.int()))

    def at_voxel(self, ijk: Int[Tensor, "p 3"], rows: Int[Tensor, "p"]) -> UInt8[Tensor, "p"]:
        """rows: of the voxels, -1 for those that aren't there but may have edges of others."""
        found = _looked_up(self.of_voxel, rows)
        absent = (rows < 0).nonzero().squeeze(1)
        if len(absent) == 0 or self.voxels.n_voxels == 0:
            return found
        cells, back = _unique_cells(ijk[absent], self.voxels.resolution)
        value = torch.zeros(len(cells), dtype=torch.uint8, device=cells.device)
        for lower, axes in _LOWER_CORNERS:
            corner = self.voxels.find_corners(cells + torch.tensor(lower, dtype=torch.int32, device=cells.device))
            for axis in axes:
                value = torch.maximum(value, _looked_up(self.of_edge, torch.where(corner >= 0, 3 * corner + axis, -1)))
        found[absent] = value[back]
        return found

    def around(self, ijk: Int[Tensor, "p 3"]) -> UInt8[Tensor, "p"]:
        """The highest of the 27 voxels; along z they follow each other, so that nine searches do."""
        some = self.of_voxel.nonzero().squeeze(1)
        if len(some) == 0 or len(ijk) == 0:
            return torch.zeros(len(ijk), dtype=torch.uint8, device=ijk.device)
        side = self.voxels.resolution + 2  # cells from -1 on: neighbours have keys of their own
        keys, order = torch.sort(lattice_keys(self.voxels.voxel_ijk[some] + 1, side))
        values = torch.cat([self.of_voxel[some][order], torch.zeros(3, dtype=torch.uint8, device=ijk.device)])
        keys = torch.cat([keys, torch.full((3,), torch.iinfo(keys.dtype).max, dtype=keys.dtype, device=keys.device)])
        cells, back = torch.unique(lattice_keys(ijk + 1, side), return_inverse=True)
        highest = torch.zeros(len(cells), dtype=torch.uint8, device=ijk.device)
        for step in (x * side * side + y * side for x, y in itertools.product((-1, 0, 1), repeat=2)):
            lowest = cells + (step - 1)
            place = torch.searchsorted(keys, lowest)
            for k in range(3):
                near = keys[place + k] - lowest <= 2
                highest = torch.where(near, torch.maximum(highest, values[place + k]), highest)
        return highest[back]


_LOWER_CORNERS = tuple((corner, tuple(axis for axis in range(3) if not corner[axis]))
                       for corner in itertools.product((0, 1), repeat=3) if not all(corner))
"""A voxel's twelve edges: their lower corners, and along which axes they go from there."""


def _lattice_of(flex: SparseFlex, chain: _Chain) -> _Lattice:
    voxels = flex.voxels
    edges = LatticeEdges.of(voxels, flex.corner_sdf.detach() < 0)
    of_edge = (edges.n_voxels == 4).to(torch.uint8) * _FACE
    of_edge[edges.open] = _first_loss(chain, edges)
    of_corner = torch.zeros(voxels.n_corners, dtype=torch.uint8, device=voxels.device)
    crossed = edges.crossed
    value = of_edge[crossed]
    for code in range(1, _FACE + 1):  # ascending, so that the highest stays
        some = crossed[value == code]
        of_corner[some // 3] = code
        of_corner[edges.upper[some].long()] = code
    return _Lattice(voxels, of_edge, of_corner, edges.by_voxel(of_edge))


def _first_loss(chain: _Chain, edges: LatticeEdges) -> UInt8[Tensor, "n"]:
    """Of the voxels around an open edge that aren't there, the Cause of the one that was lost first."""
    fate = chain.follow(edges.around(edges.open).reshape(-1, 3)).fate.view(-1, 4)
    return torch.where(fate > 0, fate, _NONE).amin(dim=1).to(torch.uint8)


def _looked_up(table: UInt8[Tensor, "n"], rows: Int[Tensor, "p"]) -> UInt8[Tensor, "p"]:
    """0 where the row is -1."""
    if len(table) == 0:
        return torch.zeros(rows.shape, dtype=torch.uint8, device=rows.device)
    return torch.where(rows >= 0, table[rows.clamp(min=0)], 0).to(torch.uint8)


def _unique_cells(ijk: Int[Tensor, "p 3"], resolution: int) -> tuple[Int[Tensor, "n 3"], Int[Tensor, "p"]]:
    """Each cell of [-1, resolution] once, and for every row which it is."""
    side = resolution + 2
    keys, back = torch.unique(lattice_keys(ijk + 1, side), return_inverse=True)
    x, rest = keys // (side * side), keys % (side * side)
    return torch.stack([x, rest // side, rest % side], dim=1).int() - 1, back
