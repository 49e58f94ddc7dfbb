"""SparseVoxels: the integer topology of a sparse voxel set, its shared corners and neighbours."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.mesh import Mesh
from sparseflex.voxelize import touched_voxels

CORNER_OFFSETS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1))
"""Corner k of a voxel lies at voxel_ijk + CORNER_OFFSETS[k]: x fastest."""

MAX_RESOLUTION = 2_097_151  # the cube of it still fits int64


class Section(NamedTuple):
    """Some voxels of a set as a set of their own, and the rows that they had."""

    voxels: SparseVoxels
    voxel_rows: Int[Tensor, "n"]
    corner_rows: Int[Tensor, "c"]


def lattice_keys(ijk: Int[Tensor, "n 3"], side: int) -> Int[Tensor, "n"]:
    """One integer a lattice point, x major; int32 where side³ fits, else int64."""
    dtype = torch.int32 if side**3 <= 2**31 else torch.int64
    i, j, k = ijk.to(dtype).unbind(1)
    return (i * side + j) * side + k


def _ijk_of(keys: Int[Tensor, "n"], side: int) -> Int[Tensor, "n 3"]:
    rest = torch.div(keys, side, rounding_mode="floor")
    i = torch.div(rest, side, rounding_mode="floor")
    return torch.stack([i, rest - i * side, keys - rest * side], dim=1).to(torch.int32)


def _check_range(voxel_ijk: Tensor, resolution: object) -> None:
    """ValueError unless these are whole-number rows in [0, resolution), which is one itself."""
    if not isinstance(resolution, int) or not 1 <= resolution <= MAX_RESOLUTION:
        raise ValueError(f"resolution must be a whole number in [1, {MAX_RESOLUTION}], got {resolution}")
    if not isinstance(voxel_ijk, Tensor):
        raise ValueError(f"voxel_ijk must be an (N, 3) integer tensor, got {type(voxel_ijk).__name__}")
    if voxel_ijk.ndim != 2 or voxel_ijk.shape[1] != 3 or voxel_ijk.is_floating_point() or voxel_ijk.dtype == torch.bool:
        raise ValueError(f"voxel_ijk must be an (N, 3) integer tensor, got {tuple(voxel_ijk.shape)} {voxel_ijk.dtype}")
    if voxel_ijk.shape[0] and (int(voxel_ijk.min()) < 0 or int(voxel_ijk.max()) >= resolution):
        raise ValueError(
            f"voxel_ijk must be in [0, {resolution}), got values from {int(voxel_ijk.min())} to {int(voxel_ijk.max())}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class SparseVoxels:
    """N voxels of a grid with resolution³ cells in the world box [-0.5, 0.5]³; immutable.

    voxel_ijk: (N, 3) integers in [0, resolution), unique rows in any order, which is kept. Raises ValueError for
    anything else. No voxels at all is legal. What is derived (keys, corners) is computed at first use.
    """

    voxel_ijk: Int[Tensor, "N 3"]
    resolution: int

    def __post_init__(self) -> None:
        _check_range(self.voxel_ijk, self.resolution)
        object.__setattr__(self, "voxel_ijk", self.voxel_ijk.to(torch.int32))
        repeated = int((self._sorted_keys[1:] == self._sorted_keys[:-1]).sum())
        if repeated:
            raise ValueError(f"voxel_ijk must have unique rows, got {repeated} repeated ones")

    @classmethod
    def _trusted(cls, voxel_ijk: Tensor, resolution: int, **derived: Any) -> SparseVoxels:
        """Without the checks, for sets that are valid by construction; derived fills cached properties."""
        voxels = object.__new__(cls)
        object.__setattr__(voxels, "voxel_ijk", voxel_ijk)
        object.__setattr__(voxels, "resolution", resolution)
        voxels.__dict__.update(derived)
        return voxels

    @classmethod
    def from_keys(cls, keys: Tensor, resolution: int) -> SparseVoxels:
        """From sorted, unique keys in [0, resolution³), as `keys` gives them; not checked."""
        return cls._trusted(_ijk_of(keys, resolution), resolution, keys=keys, _sorted=(keys, None))

    @classmethod
    def merging_duplicates(
        cls, voxel_ijk: Int[Tensor, "M 3"], resolution: int
    ) -> tuple[SparseVoxels, Int[Tensor, "M"]]:
        """The voxels of these rows, sorted, each once; and for each row its voxel. ValueError for rows off the grid."""
        _check_range(voxel_ijk, resolution)
        keys, voxel_of_row = torch.unique(lattice_keys(voxel_ijk, resolution), return_inverse=True)
        return cls.from_keys(keys, resolution), voxel_of_row

    @classmethod
    def from_points(cls, points_world: Float[Tensor, "P 3"], resolution: int) -> SparseVoxels:
        """The voxels that hold a point, sorted; ValueError for points outside the closed box or not finite."""
        empty = cls(torch.zeros(0, 3, dtype=torch.int32, device=points_world.device), resolution)
        if points_world.shape[0] == 0:
            return empty
        outside = ~((points_world >= -0.5) & (points_world <= 0.5)).all(dim=1)  # NaN counts as outside
        if bool(outside.any()):
            first = points_world[outside][0].tolist()
            raise ValueError(f"points must lie in [-0.5, 0.5]^3, got {int(outside.sum())} outside, the first {first}")
        ijk = ((points_world.double() + 0.5) * resolution).floor().clamp_(max=resolution - 1).int()
        return cls.from_keys(torch.unique(lattice_keys(ijk, resolution)), resolution)

    @classmethod
    def from_mesh(cls, mesh: Mesh, resolution: int, margin: float = 0.0) -> SparseVoxels:
        """The voxels whose closed box, grown by margin voxel widths on each side, touches a triangle; sorted.

        The triangle-box test is exact up to float64 rounding (separating axes). Voxels outside the grid are left out.
        """
        cls(torch.zeros(0, 3, dtype=torch.int32), resolution)  # checks the resolution
        if not bool(torch.isfinite(mesh.vertices).all()):
            raise ValueError("vertices must be finite, got NaN or infinity among them")
        if margin < 0:
            raise ValueError(f"margin must be at least 0 voxel widths, got {margin}")
        ijk = touched_voxels(mesh.vertices.detach(), mesh.faces, resolution, margin)
        return cls.from_keys(torch.unique(lattice_keys(ijk, resolution)), resolution)

    # -- size and place ---------------------------------------------------------------------------------------

    @property
    def n_voxels(self) -> int:
        return self.voxel_ijk.shape[0]

    @property
    def n_corners(self) -> int:
        return self._corner_keys.shape[0]

    @property
    def device(self) -> torch.device:
        return self.voxel_ijk.device

    @functools.cached_property
    def centers_by_axis(self) -> Float[Tensor, "3 N"]:
        """Voxel centres in world space, one contiguous row an axis, float32."""
        return ((self.voxel_ijk.T.to(torch.float32) + 0.5) / self.resolution - 0.5).contiguous()

    @property
    def centers(self) -> Float[Tensor, "N 3"]:
        """Voxel centres in world space, float32."""
        return self.centers_by_axis.T

    def to(self, device: torch.device | str) -> SparseVoxels:
        if torch.device(device) == self.device:
            return self
        return SparseVoxels._trusted(self.voxel_ijk.to(device), self.resolution)

    # -- keys and neighbours ----------------------------------------------------------------------------------

    @functools.cached_property
    def keys(self) -> Int[Tensor, "N"]:
        """One key a voxel, x major: int32 where resolution³ fits, else int64."""
        return lattice_keys(self.voxel_ijk, self.resolution)

    @functools.cached_property
    def _sorted(self) -> tuple[Tensor, Tensor | None]:
        """The sorted keys and the row of each; rows None where the voxels are sorted already."""
        keys = self.keys
        if bool((keys[1:] > keys[:-1]).all()):
            return keys, None
        return torch.sort(keys)

    @property
    def _sorted_keys(self) -> Tensor:
        return self._sorted[0]

    def find(self, ijk: Int[Tensor, "M 3"]) -> Int[Tensor, "M"]:
        """The row of each voxel in this set, int64, or -1 where it isn't in it; ijk may lie outside the grid."""
        sorted_keys, rows = self._sorted
        inside = ((ijk >= 0) & (ijk < self.resolution)).all(dim=1)
        if self.n_voxels == 0:
            return torch.full_like(inside, -1, dtype=torch.int64)
        wanted = lattice_keys(ijk.clamp(0, self.resolution - 1), self.resolution)
        place = torch.searchsorted(sorted_keys, wanted).clamp_(max=self.n_voxels - 1)
        found = inside & (sorted_keys[place] == wanted)
        return torch.where(found, place if rows is None else rows[place], -1)

    # -- corners ----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _corners(self) -> tuple[Tensor, Tensor]:
        """Sorted corner keys (C,), and (8, N) int32 rows into them."""
        side = self.resolution + 1
        base = lattice_keys(self.voxel_ijk, side)
        offsets = lattice_keys(torch.tensor(CORNER_OFFSETS, device=self.device), side)
        corner_keys, rows = torch.unique(base + offsets[:, None], return_inverse=True)
        return corner_keys, rows.to(torch.int32)

    @property
    def _corner_keys(self) -> Tensor:
        return self._corners[0]

    @property
    def corners_by_slot(self) -> Int[Tensor, "8 N"]:
        """voxel_corners, one contiguous row a corner slot."""
        return self._corners[1]

    @property
    def voxel_corners(self) -> Int[Tensor, "N 8"]:
        """Row of each voxel's k-th corner in corner_ijk, int32; the order is CORNER_OFFSETS'."""
        return self._corners[1].T

    @functools.cached_property
    def corner_ijk(self) -> Int[Tensor, "C 3"]:
        """The corners of all voxels, each once, sorted, in [0, resolution]."""
        return _ijk_of(self._corner_keys, self.resolution + 1)

    @property
    def corners_world(self) -> Float[Tensor, "C 3"]:
        """Corner positions without deformation, float32."""
        return self.corner_ijk.to(torch.float32) / self.resolution - 0.5

    def find_corners(self, ijk: Int[Tensor, "M 3"]) -> Int[Tensor, "M"]:
        """The row of each lattice point in corner_ijk, int64, or -1 where it isn't in it; ijk may be off the grid."""
        side = self.resolution + 1
        inside = ((ijk >= 0) & (ijk < side)).all(dim=1)
        if self.n_voxels == 0:
            return torch.full_like(inside, -1, dtype=torch.int64)
        wanted = lattice_keys(ijk.clamp(0, side - 1), side)
        place = torch.searchsorted(self._corner_keys, wanted).clamp_(max=self.n_corners - 1)
        return torch.where(inside & (self._corner_keys[place] == wanted), place, -1)

    @functools.cached_property
    def lattice_edges(self) -> Int[Tensor, "L 2"]:
        """Every edge of any voxel once: (lower corner, upper corner) rows, int64, sorted by lower corner and axis."""
        c = self.corners_by_slot
        upper = torch.full((3 * self.n_corners,), -1, dtype=torch.int32, device=self.device)
        for axis, step in enumerate((1, 2, 4)):
            for slot in range(8):
                if not slot & step:
                    upper[(c[slot].long() * 3) + axis] = c[slot + step]
        edges = (upper >= 0).nonzero().squeeze(1)
        return torch.stack([torch.div(edges, 3, rounding_mode="floor"), upper[edges].long()], dim=1)

    @functools.cached_property
    def corner_degree(self) -> Int[Tensor, "C"]:
        """How many voxels share each corner, int32."""
        return torch.bincount(self.corners_by_slot.reshape(-1), minlength=self.n_corners).to(torch.int32)

    # -- other sets from this one -----------------------------------------------------------------------------

    def section(self, active: Bool[Tensor, "N"]) -> Section:
        """The active voxels as a set of their own, corners renumbered in the same order."""
        if active.shape != (self.n_voxels,) or active.dtype != torch.bool:
            got = f"{tuple(active.shape)} {active.dtype}"
            raise ValueError(f"active must be a ({self.n_voxels},) bool tensor, got {got}")
        voxel_rows = active.nonzero().squeeze(1)
        corners = self.corners_by_slot.index_select(1, voxel_rows)
        used = torch.zeros(self.n_corners, dtype=torch.bool, device=self.device)
        used[corners.view(-1).long()] = True
        corner_rows = used.nonzero().squeeze(1)
        rank = used.cumsum(0, dtype=torch.int32) - 1
        local = rank.index_select(0, corners.view(-1)).view(8, -1)
        sub = SparseVoxels._trusted(
            self.voxel_ijk[voxel_rows], self.resolution, _corners=(self._corner_keys[corner_rows], local)
        )
        return Section(sub, voxel_rows, corner_rows)

    def prune(self, kept: Bool[Tensor, "N"]) -> SparseVoxels:
        """The kept voxels, in the same order."""
        if kept.shape != (self.n_voxels,) or kept.dtype != torch.bool:
            got = f"{tuple(kept.shape)} {kept.dtype}"
            raise ValueError(f"kept must be a ({self.n_voxels},) bool tensor, got {got}")
        return SparseVoxels._trusted(self.voxel_ijk[kept], self.resolution)

    def take(self, rows: Int[Tensor, "n"]) -> SparseVoxels:
        """The voxels of these rows, each at most once (which isn't checked), in that order."""
        return SparseVoxels._trusted(self.voxel_ijk[rows], self.resolution)

    def subdivide(self) -> SparseVoxels:
        """The children 2·ijk + {0, 1}³ of each voxel at twice the resolution; row 8·i + c is child c, z fastest."""
        if 2 * self.resolution > MAX_RESOLUTION:
            raise ValueError(f"resolution must be at most {MAX_RESOLUTION}, got {2 * self.resolution}")
        offsets = torch.tensor([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], device=self.device)
        children = (2 * self.voxel_ijk[:, None] + offsets.to(torch.int32)).reshape(-1, 3)
        return SparseVoxels._trusted(children, 2 * self.resolution)

    def dilate(self, rings: int = 1) -> SparseVoxels:
        """All voxels of the grid within rings voxels along every axis (26-neighbourhood), sorted."""
        if rings < 0:
            raise ValueError(f"rings must be at least 0, got {rings}")
        grown = torch.unique(self.keys)
        reach = range(-1, 2)
        for _ in range(rings):
            for axis in range(3):  # a cube is the sum of three lines
                ijk = _ijk_of(grown, self.resolution)
                steps = torch.zeros(3, 3, dtype=torch.int32, device=self.device)
                steps[:, axis] = torch.tensor(list(reach), dtype=torch.int32)
                moved = (ijk[:, None] + steps).reshape(-1, 3)
                moved = moved[((moved >= 0) & (moved < self.resolution)).all(dim=1)]
                grown = torch.unique(lattice_keys(moved, self.resolution))
        return SparseVoxels.from_keys(grown, self.resolution)
