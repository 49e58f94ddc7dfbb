"""What a fit shows of its latest iteration, and how that goes into a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.mesh import Mesh
from sparseflex.render import Maps
from sparseflex.training.coverage import COVERAGE_FIELDS
from sparseflex.training.run import FieldKind
from sparseflex.training.section_gradients import GRADIENT_FIELDS
from sparseflex.voxels import SparseVoxels

FIT_FIELDS: dict[str, FieldKind] = {
    "voxels": "voxels", "active": "voxel", "alpha": "voxel", "beta": "voxel", "gamma": "voxel",
    "corner_sdf": "corner", "corner_deform": "corner", "mesh": "mesh", "target": "mesh", "trace": "trace",
    "rendered_depth": "map", "rendered_normal": "map", "rendered_mask": "map",
    "rendered_triangle": "map",
    "target_depth": "map", "target_normal": "map", "target_mask": "map", **GRADIENT_FIELDS,
    "occupancy": "voxel", "touched": "voxel", "prune": "prune", **COVERAGE_FIELDS,
}
UNPRUNED_FIELDS = {name: kind for name, kind in FIT_FIELDS.items() if name not in ("occupancy", "prune")}
"""The fields of a fit, and those of one that prunes nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """The latest products of the stages, without autograd; maps are the first camera's. None where not made yet."""

    active: Bool[Tensor, "N"] | None = None
    trace: Float[Tensor, "rounds 3"] | None = None
    mesh: Mesh | None = None
    rendered_depth: Float[Tensor, "H W"] | None = None
    rendered_normal: Float[Tensor, "H W 3"] | None = None
    rendered_mask: Float[Tensor, "H W"] | None = None
    target_depth: Float[Tensor, "H W"] | None = None
    target_normal: Float[Tensor, "H W 3"] | None = None
    target_mask: Float[Tensor, "H W"] | None = None
    rendered_triangle: Int[Tensor, "H W"] | None = None  # int32 faces of mesh, -1 where none is seen

    def with_maps(self, rendered: Maps, target: Maps) -> Shown:
        maps = {f"rendered_{name}": getattr(rendered, name).detach() for name in ("depth", "normal", "mask")}
        maps |= {f"target_{name}": getattr(target, name).detach() for name in ("depth", "normal", "mask")}
        return dataclasses.replace(self, rendered_triangle=rendered.triangle_id.to(torch.int32), **maps)

    def on(self, old: SparseVoxels, new: SparseVoxels) -> Shown:
        """The same once the voxels are others: their active rows, or their parents' where the resolution doubled."""
        if self.active is None:
            return self
        rows = old.find(new.voxel_ijk if new.resolution == old.resolution else new.voxel_ijk >> 1)
        known = rows >= 0
        active = known & self.active[rows.clamp(min=0)] if old.n_voxels else known
        return dataclasses.replace(self, active=active)

    def state_dict(self) -> dict[str, Any]:
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "mesh"}
        if self.mesh is not None:
            state["mesh"] = {"vertices": self.mesh.vertices, "faces": self.mesh.faces}
        return state

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device | str) -> Shown:
        state = dict(state)
        mesh = state.pop("mesh", None)
        moved = {name: value if value is None else value.to(device) for name, value in state.items()}
        return cls(mesh=None if mesh is None else Mesh(mesh["vertices"], mesh["faces"]).to(device), **moved)
