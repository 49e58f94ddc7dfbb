"""Field: corners as points, a slice with its zero contour, δ as arrows, and the mark of a probe."""

from __future__ import annotations

from typing import Any

import numpy as np
import polyscope as ps
from jaxtyping import Float

from sparseflex.voxels import SparseVoxels
from workbench.field_view import Vectors
from workbench.scene_parts.paint import paint
from workbench.slices import Slice
from workbench.theme import Colour, rgb

CONTOUR = rgb("#101318")  # on the middle of the diverging map, which is light, in both themes
_IMAGE = "image"


def draw_points(name: str, voxels: SparseVoxels) -> list[Any]:
    """The corners as points."""
    if voxels.n_corners == 0:
        return []
    return [ps.register_point_cloud(name, voxels.corners_world.numpy(), material="flat", point_render_mode="quad")]


def style_points(
    points: Any, colour: Colour, radius: float, colours: Float[np.ndarray, "C 3"] | None
) -> None:
    points.set_radius(radius, relative=False)
    points.set_color(colour)
    paint(points, colours)


def draw_slice(name: str, found: Slice) -> list[Any]:
    """The cut through the voxels, and nothing where there are none."""
    if len(found.faces) == 0:
        return []
    mesh = ps.register_surface_mesh(name, found.vertices, found.faces, material="flat")
    mesh.add_parameterization_quantity("places", found.places, defined_on="vertices")
    return [mesh]


def style_slice(mesh: Any, colour: Colour, image: Float[np.ndarray, "H W 3"] | None) -> None:
    """The image on the cut, or one colour where there is none."""
    mesh.set_color(colour)
    known = getattr(mesh, "image_shape", None)
    if image is not None and known == image.shape:
        mesh.get_quantity_buffer(_IMAGE, "colors").update_data(image.reshape(-1, 3))
        return
    if known is not None:
        mesh.remove_quantity(_IMAGE)
    if image is not None:
        mesh.add_color_quantity(
            _IMAGE, image, defined_on="texture", param_name="places", image_origin="lower_left", filter_mode="linear",
            enabled=True,
        )
    mesh.image_shape = None if image is None else image.shape


def draw_contour(name: str, found: Slice, segments: Float[np.ndarray, "S 2 3"]) -> list[Any]:
    """The zero contour as flat ribbons just above either side of the slice: a fifth of the cost of tubes."""
    if len(segments) == 0:
        return []
    normal, voxel = np.array(found.plane.normal), 1 / found.voxels.resolution
    half = max(0.06 * voxel, 0.0009)
    start, end = segments[:, 0], segments[:, 1]
    along = end - start
    along *= half / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-30)
    side = np.cross(normal, along)
    start, end = start - 0.5 * along, end + 0.5 * along  # so that joints close
    quads = np.stack([start - side, end - side, end + side, start + side], 1)
    lift = 0.1 * half * normal + 2e-4 * normal
    corners = np.concatenate([quads + lift, quads - lift]).reshape(-1, 3)
    first = np.arange(0, len(corners), 4)[:, None]
    faces = np.concatenate([first + (0, 1, 2), first + (0, 2, 3)])
    return [ps.register_surface_mesh(name, corners, faces, material="flat", color=CONTOUR)]


def draw_vectors(name: str, vectors: Vectors, colour: Colour, thickness: float, resolution: int) -> list[Any]:
    """Arrows from the corners to where they are moved, or so many times as far."""
    if len(vectors.starts) == 0:
        return []
    radius = 0.03 * thickness / resolution
    points = ps.register_point_cloud(
        name, vectors.starts, material="flat", color=colour, point_render_mode="quad"
    )
    points.set_radius(2 * radius, relative=False)
    points.add_vector_quantity(
        "deformation", vectors.ways, vectortype="ambient", enabled=True, radius=radius, color=colour, material="flat"
    )
    return [points]


def draw_mark(name: str, world: tuple[float, float, float], colour: Colour) -> list[Any]:
    """A probed point: a ball with three short lines through it, so that it is seen behind a surface too."""
    point, reach = np.array([world]), 0.05
    ball = ps.register_point_cloud(name, point, material="flat", color=colour)
    ball.set_radius(0.009, relative=False)
    ends = np.concatenate([point + reach * sign * np.eye(3) for sign in (1, -1)])
    lines = ps.register_curve_network(
        f"{name} lines", ends, np.arange(6).reshape(2, 3).T, material="flat", color=colour
    )
    lines.set_radius(0.0015, relative=False)
    return [ball, lines]
