"""Marks: input points, the voxel that was picked as a frame, and the region of an edit as three circles."""

from __future__ import annotations

from typing import Any

import numpy as np
import polyscope as ps
from jaxtyping import Float

from workbench.point_view import ShownPoints
from workbench.scene_parts.paint import paint
from workbench.theme import Colour

POINT_RADIUS = 0.0024
"""Of an input point, in world units: hardly more than a pixel of a usual window, wider where they are few."""

_FEW = 20_000
_CIRCLE = 96
_EDGES = np.array([[0, 1], [0, 2], [0, 4], [1, 3], [1, 5], [2, 3], [2, 6], [3, 7], [4, 5], [4, 6], [5, 7], [6, 7]])


def draw_points(name: str, shown: ShownPoints) -> list[Any]:
    """Points, round where they are few enough for that."""
    if len(shown.places) == 0:
        return []
    mode = "sphere" if len(shown.places) <= _FEW else "quad"  # flat ones are cut by the surface that they lie on
    return [ps.register_point_cloud(name, shown.places, material="flat", point_render_mode=mode)]


def style_points(points: Any, colour: Colour, size: float, colours: Float[np.ndarray, "n 3"] | None) -> None:
    few = max(_FEW / max(points.n_points(), 1), 1.0) ** 0.5  # so that few of them are seen too
    points.set_radius(POINT_RADIUS * size * min(few, 3.0), relative=False)
    points.set_color(colour)
    paint(points, colours)


def draw_frame(name: str, centre: tuple[float, float, float], width: float, colour: Colour) -> list[Any]:
    """The edges of a voxel, a little larger than the voxel itself."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    frame = ps.register_curve_network(name, np.array(centre) + 0.53 * width * signs, _EDGES, material="flat",
                                      color=colour)
    frame.set_radius(max(0.05 * width, 0.0022), relative=False)
    return [frame]


def draw_box(name: str, low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"], line: float, colour: Colour
             ) -> list[Any]:
    """The edges of a box, as thick as `line`, in world units."""
    signs = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    box = ps.register_curve_network(name, low + signs * (high - low), _EDGES, material="flat", color=colour)
    box.set_radius(line / 2, relative=False)
    return [box]


def draw_sphere(name: str, centre: tuple[float, float, float], radius: float, colour: Colour) -> list[Any]:
    """A sphere as circles across the three axes."""
    angle = np.linspace(0, 2 * np.pi, _CIRCLE, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros(_CIRCLE)], 1)
    nodes = np.concatenate([np.roll(circle, turn, axis=1) for turn in range(3)]) * radius + np.array(centre)
    index = np.arange(_CIRCLE)
    edges = np.concatenate([np.stack([index, (index + 1) % _CIRCLE], 1) + turn * _CIRCLE for turn in range(3)])
    lines = ps.register_curve_network(name, nodes, edges, material="flat", color=colour)
    lines.set_radius(0.0018, relative=False)
    return [lines]
