"""VoxelBatch: the voxel sets of several shapes, rows one after the other, with the plans that networks need."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from sparseflex.sparse.attention import WindowPlan, plan_windows
from sparseflex.sparse.neighbours import children_table, neighbour_table
from sparseflex.voxels import SparseVoxels

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class VoxelBatch:
    """The voxels of B ≥ 1 shapes of one resolution on one device; immutable.

    Features on it are (N, channels): the rows of the first shape, then those of the second, and so on. A shape may
    be empty. What is derived (neighbours, window plans) is computed at first use and kept. Raises ValueError for no
    shape at all and for shapes of different resolutions or devices.
    """

    sets: tuple[SparseVoxels, ...]
    _plans: dict[object, Any] = dataclasses.field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sets", tuple(self.sets))
        if not self.sets:
            raise ValueError("sets must hold at least 1 shape, got 0")
        for what in ("resolution", "device"):
            found = list(dict.fromkeys(str(getattr(voxels, what)) for voxels in self.sets))
            if len(found) > 1:
                raise ValueError(f"sets must be of one {what}, got {' and '.join(found)}")

    # -- size and place ---------------------------------------------------------------------------------------

    @property
    def resolution(self) -> int:
        return self.sets[0].resolution

    @property
    def device(self) -> torch.device:
        return self.sets[0].device

    @property
    def n_shapes(self) -> int:
        return len(self.sets)

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Voxels of each shape."""
        return tuple(voxels.n_voxels for voxels in self.sets)

    @property
    def n_voxels(self) -> int:
        return sum(self.sizes)

    @functools.cached_property
    def voxel_ijk(self) -> Int[Tensor, "N 3"]:
        return self.sets[0].voxel_ijk if self.n_shapes == 1 else torch.cat([s.voxel_ijk for s in self.sets])

    @functools.cached_property
    def shape_index(self) -> Int[Tensor, "N"]:
        """The shape that each row belongs to, int64."""
        sizes = torch.tensor(self.sizes, device=self.device)
        return torch.repeat_interleave(torch.arange(self.n_shapes, device=self.device), sizes)

    # -- plans ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def neighbours(self) -> Int[Tensor, "27 N"]:
        """The row of the voxel at ijk + (kx − 1, ky − 1, kz − 1) of the same shape, kz fastest, int32; −1: none."""
        if (parents := self._plans.pop("parents", None)) is not None:
            return children_table(parents.neighbours)
        tables, first = [], 0
        for voxels in self.sets:
            tables.append(neighbour_table(voxels, first_row=first))
            first += voxels.n_voxels
        return tables[0] if len(tables) == 1 else torch.cat(tables, dim=1)

    def windows(self, window_size: int, shift: int) -> WindowPlan:
        """Which voxels attend to each other: those of one shape with the same (ijk + shift) // window_size."""
        return self.plan(
            ("windows", window_size, shift),
            lambda: plan_windows([voxels.voxel_ijk for voxels in self.sets], self.resolution, window_size, shift),
        )

    def plan(self, key: object, make: Callable[[], T]) -> T:
        """What make() gave when it was first asked for by this key; for what depends on the voxels alone."""
        if key not in self._plans:
            self._plans[key] = make()
        return self._plans[key]

    # -- other batches from this one --------------------------------------------------------------------------

    def subdivide(self) -> VoxelBatch:
        """The children of every voxel at twice the resolution; row 8·i + c is child c of row i, z fastest."""
        children = VoxelBatch(tuple(voxels.subdivide() for voxels in self.sets))
        children._plans["parents"] = self
        return children

    def prune(self, kept: Bool[Tensor, "N"]) -> VoxelBatch:
        """The kept voxels of each shape, in the same order; a shape may become empty."""
        if kept.shape != (self.n_voxels,) or kept.dtype != torch.bool:
            got = f"{tuple(kept.shape)} {kept.dtype}"
            raise ValueError(f"kept must be a ({self.n_voxels},) bool tensor, got {got}")
        parts = kept.split(self.sizes)
        return VoxelBatch(tuple(v.prune(part) for v, part in zip(self.sets, parts, strict=True)))

    def take(self, rows: Int[Tensor, "n"]) -> VoxelBatch:
        """The voxels of these rows, which must be ascending, each at most once; what it takes depends on them alone."""
        ends = torch.tensor(self.sizes, device=rows.device).cumsum(0)
        places = [0, *torch.searchsorted(rows, ends).tolist()]
        firsts = [0, *ends.tolist()]
        return VoxelBatch(tuple(
            voxels.take(rows[a:b] - first)
            for voxels, first, a, b in zip(self.sets, firsts[:-1], places[:-1], places[1:], strict=True)
        ))

    def split(self, features: Shaped[Tensor, "N *channels"]) -> tuple[Tensor, ...]:
        """The rows of each shape."""
        return features.split(self.sizes)

    def to(self, device: torch.device | str) -> VoxelBatch:
        return VoxelBatch(tuple(voxels.to(device) for voxels in self.sets))
