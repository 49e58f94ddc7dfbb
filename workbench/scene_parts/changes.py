"""Changes: voxels by what became of them, corners that changed sign, faces gained, lost and turned over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polyscope as ps

from workbench import theme
from workbench.change_view import COLOURS, FACES, FLIPS, PARTS, SIZES
from workbench.changes import Changes
from workbench.scene_parts import cubes
from workbench.snapshot import MeshArrays
from workbench.view_state import ViewState

NAMES = {name: f"changes {name}" for name in (*PARTS, *FLIPS, *FACES)}

_POINT = 0.28
"""Width of a corner's point in voxel widths: it stands out of the voxels around it."""

_LIFT = 0.04
"""How far faces stand off the surface on either side, in voxel widths: they would flicker within it."""

Keep = Callable[[str, tuple | None, Callable[[str], list[Any]], int, bool], None]
Style = Callable[..., None]


def draw_changes(keep: Keep, style: Style, view: ViewState) -> None:
    """Brings the structures up to date by a scene view's keep and style; all of them go where nothing is shown."""
    shown, whole = view.changes, not view.layers["slice"]
    found = shown.in_scene(view)
    for part in PARTS:
        # what depends on the threshold is drawn anew as that is dragged
        key = None if found is None else (found, 0.0 if part in ("born", "pruned") else shown.threshold)
        keep(NAMES[part], key, lambda full, part=part: _draw_part(full, found, part, shown.threshold), 0,
             found is None or shown.layers[part])
        style(NAMES[part], cubes.style_voxels, "outside" if part == "same" else "active", COLOURS[part], SIZES[part],
              None, whole)
    for name, bit in FLIPS.items():
        keep(NAMES[name], found and (found,), lambda full, bit=bit, name=name: _draw_corners(
            full, found, bit, COLOURS[name]), 0, found is None or shown.layers[name])
    for name in FACES:
        mesh = shown.faces.get(name) if found is not None else None
        keep(NAMES[name], None if mesh is None or len(mesh.faces) == 0 else (mesh,),
             lambda full, mesh=mesh, name=name: _draw_faces(full, mesh, found.b.voxels.resolution, COLOURS[name]), 1,
             mesh is None or shown.layers[name])


def _draw_part(name: str, found: Changes, part: str, threshold: float) -> list[Any]:
    voxels, rows = found.rows(part, threshold)
    chosen = np.zeros(voxels.n_voxels, bool)
    chosen[rows] = True
    return cubes.draw_rows(name, voxels, chosen)


def _draw_corners(name: str, found: Changes, bit: int, colour: theme.Colour) -> list[Any]:
    """The corners that have a bit, as points; nothing where there are none."""
    rows = found.corner_b[found.corners(bit)]
    if len(rows) == 0:
        return []
    resolution = found.b.voxels.resolution
    places = found.b.voxels.corner_ijk.numpy().take(rows, axis=0) / resolution - 0.5
    points = ps.register_point_cloud(name, places, material="flat", color=colour,
                                     point_render_mode="sphere" if len(places) < 20_000 else "quad")
    points.set_radius(_POINT / 2 / resolution, relative=False)
    return [points]


def _draw_faces(name: str, mesh: MeshArrays, resolution: int, colour: theme.Colour) -> list[Any]:
    """Triangles in one colour, a little off the surface on both sides."""
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    lift = _LIFT / resolution * normals[:, None]
    vertices = np.concatenate([corners + lift, corners - lift]).reshape(-1, 3)
    faces = np.arange(len(vertices)).reshape(-1, 3)
    structure = ps.register_surface_mesh(name, vertices, faces, material="clay", color=theme.lit(colour))
    structure.set_back_face_policy("identical")
    return [structure]
