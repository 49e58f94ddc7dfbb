"""Surfaces: the extracted mesh and the target."""

from __future__ import annotations

from typing import Any

import numpy as np
import polyscope as ps
from jaxtyping import Float

from workbench import theme
from workbench.creases import with_creases
from workbench.snapshot import MeshArrays

MAX_CREASED_FACES = 400_000
"""Larger meshes are shaded without creases, which take some 2 µs a face to find."""


def draw_mesh(
    name: str, mesh: MeshArrays, colour: theme.Colour, shading: str = "clay", creased: bool = False
) -> list[Any]:
    """A surface with a brown inside, shaded ("clay") or coloured by normals ("normal"); creased: edges stay sharp."""
    if creased and len(mesh.faces) <= MAX_CREASED_FACES:
        mesh = with_creases(mesh)
    structure = ps.register_surface_mesh(
        name, mesh.vertices, mesh.faces, color=theme.lit(colour), material="flat" if shading == "normal" else "clay",
        smooth_shade=True,
    )
    structure.set_back_face_policy("custom")
    structure.set_back_face_color(theme.lit(theme.INSIDE))
    if shading == "normal":
        structure.add_color_quantity("normal", vertex_normals(mesh) * 0.5 + 0.5, enabled=True)
    return [structure]


def vertex_normals(mesh: MeshArrays) -> Float[np.ndarray, "V 3"]:
    """Unit normals at the vertices, the faces' weighted by area; zero where no face with area meets."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    summed = np.stack(
        [np.bincount(mesh.faces.ravel(), np.repeat(normals[:, axis], 3), len(mesh.vertices)) for axis in range(3)], 1
    )
    return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-300)
