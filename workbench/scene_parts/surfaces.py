"""Surfaces: the extracted mesh and the target."""

from __future__ import annotations

from typing import Any

import numpy as np
import polyscope as ps
from jaxtyping import Float

from workbench import theme
from workbench.caps import cap
from workbench.creases import with_creases
from workbench.scene_parts.paint import paint
from workbench.slices import Plane
from workbench.snapshot import MeshArrays

MAX_CREASED_FACES = 400_000
"""Larger meshes are shaded without creases, which take some 2 µs a face to find."""


def draw_mesh(name: str, mesh: MeshArrays, colour: theme.Colour, creased: bool = False) -> list[Any]:
    """A shaded surface with a brown inside; creased: edges stay sharp."""
    if creased and len(mesh.faces) <= MAX_CREASED_FACES:
        mesh = with_creases(mesh)
    structure = ps.register_surface_mesh(name, mesh.vertices, mesh.faces, smooth_shade=True)
    structure.set_back_face_policy("custom")
    style_mesh(structure, colour, None)
    return [structure]


def draw_cap(name: str, mesh: MeshArrays, plane: Plane, colour: theme.Colour) -> list[Any]:
    """What closes the surface where the plane cuts it, flat; nothing where that isn't known."""
    found = cap(mesh, plane)
    if found is None:
        return []
    return [ps.register_surface_mesh(name, found.vertices, found.faces, material="flat", color=colour)]


def style_mesh(structure: Any, colour: theme.Colour, colours: Float[np.ndarray, "V 3"] | None) -> None:
    """One shaded colour, or one a vertex, flat so that they match a bar."""
    structure.set_material("clay" if colours is None else "flat")
    structure.set_color(theme.lit(colour))
    structure.set_back_face_color(theme.lit(theme.INSIDE) if colours is None else theme.INSIDE)
    paint(structure, colours, defined_on="vertices")
