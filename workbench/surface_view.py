"""SurfaceView: the mesh that is drawn and what it is coloured by: clay, normals, a field of its voxels, its error."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from sparseflex.mesh import Mesh
from sparseflex.triangle_distance import point_to_triangle_distance
from sparseflex.voxels import SparseVoxels
from workbench import quantities
from workbench.quantities import Quantity
from workbench.snapshot import MeshArrays
from workbench.worker import WorkFailed, same_token

if TYPE_CHECKING:
    from workbench.snapshot import Snapshot
    from workbench.view_state import ViewState

CLAY, NORMAL, FIELD, DISTANCE, DIFFERENCE = "clay", "normal", "field", "distance", "difference"
MESH_COLOURS = (CLAY, NORMAL, FIELD, DISTANCE)
"""What the mesh is coloured by; difference: by the distance to the other run's mesh, where two are shown (pair.py)."""

SHARE = 0.2
"""Most of the time that the worker may spend on colouring the mesh of a run that plays."""


@dataclasses.dataclass
class SurfaceView:
    """mesh: what the mesh layer draws, None where there is none; with colours one a vertex (V, 3), or None for clay and
    normals. While the worker measures, the mesh it has measured before stays. distance: the error, for its bar."""

    mesh: MeshArrays | None = None
    colours: Float[np.ndarray, "V 3"] | None = None
    distance: Quantity | None = None
    note: str = ""
    _coloured: tuple[Any, Any] = (None, None)
    _distance_of: tuple[Any, ...] = ()

    def scene_fields(self, view: ViewState) -> set[str]:
        wanted = view.layers["mesh"] and view.mesh_colour == DISTANCE
        return {"target"} if wanted else set()

    def update(self, view: ViewState, snapshot: Snapshot) -> None:
        """Brings mesh and colours up to date; view.field and view.frustum must be."""
        self.mesh, self.colours, self.note = _mesh_of(view, snapshot), None, ""
        mode = view.mesh_colour if view.layers["mesh"] else CLAY
        for other in (FIELD, DISTANCE):
            if mode != other:
                view.worker.forget(f"mesh {other}")
        if self.mesh is None or len(self.mesh.faces) == 0 or not view.layers["mesh"]:
            return
        if mode == FIELD:
            self._colour_by_field(view, snapshot)
        elif mode == DISTANCE:
            self._colour_by_distance(view, snapshot)

    def _colour_by_field(self, view: ViewState, snapshot: Snapshot) -> None:
        voxels, mesh = snapshot.fields.get("voxels"), self.mesh
        colours = view.field.colours("voxel")
        if voxels is None or colours is None:
            return
        rows = self._from_worker(view, snapshot, FIELD, voxels, lambda: voxel_of_vertices(mesh, voxels))
        if rows is not None:
            base = np.asarray(view.shades.colour("mesh"), np.float32)
            self.colours = self._once((colours, rows, tuple(base)), lambda: np.where(
                (rows >= 0)[:, None], colours[np.maximum(rows, 0)] if len(colours) else base, base))

    def _colour_by_distance(self, view: ViewState, snapshot: Snapshot) -> None:
        target, voxels, mesh = snapshot.fields.get("target"), snapshot.fields.get("voxels"), self.mesh
        if target is None:
            self.note = "This run has no target."
            return
        found = self._from_worker(view, snapshot, DISTANCE, target, lambda: distances(mesh, target))
        if found is None:
            return
        in_voxels = voxels is not None and not view.field.world_units
        token = (found, in_voxels, voxels.resolution if in_voxels else 1)
        if not same_token(token, self._distance_of):
            unit = quantities.VOXEL_WIDTHS if in_voxels else quantities.WORLD
            self.distance = quantities.of_values("distance to the target", "", unit, False, found * token[2])
            self._distance_of = token
        scale = view.field.scale_of(self.distance)
        self.colours = self._once((self.distance, *scale.key), lambda: scale.colours(self.distance.values))

    def _from_worker(self, view: ViewState, snapshot: Snapshot, mode: str, other: Any, work: Any) -> Any:
        """What the worker found for the mesh and `other`; self.mesh becomes the one that it belongs to."""
        key = f"mesh {mode}"
        view.worker.ask(key, (self.mesh, other), work, SHARE if snapshot.playing else 1.0)
        known = view.worker.result(key)
        if known is None or known[0][1] is not other:
            self.note = "Measuring the mesh …"
            return None
        if isinstance(known[1], WorkFailed):
            self.note = known[1].message
            return None
        self.mesh = known[0][0]
        return known[1]

    def _once(self, token: tuple, make: Any) -> Any:
        if not same_token(token, self._coloured[0]):
            self._coloured = (token, make().astype(np.float32, copy=False))
        return self._coloured[1]


def _mesh_of(view: ViewState, snapshot: Snapshot) -> MeshArrays | None:
    if view.section_only and view.frustum.section_mesh is not None:
        return view.frustum.section_mesh
    return snapshot.fields.get(view.field_of("mesh", snapshot))


def voxel_of_vertices(mesh: MeshArrays, voxels: SparseVoxels) -> Int[np.ndarray, "V"]:
    """The row of the voxel that each vertex lies in, -1 where it lies in none."""
    cell = torch.floor((torch.tensor(mesh.vertices).double() + 0.5) * voxels.resolution)
    inside = torch.isfinite(cell).all(dim=1) & (cell.abs() < 2**31 - 1).all(dim=1)
    rows = voxels.find(torch.where(inside[:, None], cell, -1.0).int())
    return rows.numpy()


def distances(mesh: MeshArrays, target: MeshArrays) -> Float[np.ndarray, "V"]:
    """Distance of each vertex to the target's surface, in world units; inf where the target has no faces."""
    if len(target.faces) == 0:
        return np.full(len(mesh.vertices), np.inf, np.float32)
    surface = Mesh(torch.tensor(target.vertices).double(), torch.tensor(target.faces).long())
    vertices = torch.tensor(mesh.vertices).double()
    finite = torch.isfinite(vertices).all(dim=1)
    found = torch.full((len(vertices),), torch.nan)
    found[finite] = point_to_triangle_distance(vertices[finite], surface).float()
    return found.numpy()
