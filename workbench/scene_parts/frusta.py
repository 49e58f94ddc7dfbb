"""Frusta: the selected camera's box between its planes, and all other cameras as small pyramids."""

from __future__ import annotations

from typing import Any

import numpy as np
import polyscope as ps
import torch
from jaxtyping import Float

from sparseflex.camera import Camera
from workbench import theme
from workbench.camera_view import ShownCameras

_BOX_EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])


def drawn_planes(camera: Camera, margin: float = 0.12) -> tuple[float, float, bool, bool]:
    """The depths between which a frustum is drawn, and whether near and far planes lie there.

    Planes far from the unit box would make a frustum that fills the view; it then ends a margin beyond the box.
    """
    box = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    depths = camera.depth_of(box.double())
    low, high = float(depths.min()) - margin, float(depths.max()) + margin
    near, far = max(camera.near, low), min(camera.far, high)
    if near >= far:  # the whole frustum lies beside the box
        return camera.near, camera.far, True, True
    return near, far, camera.near >= low, camera.far <= high


def draw_frustum(
    camera: Camera, name: str = "frustum", weight: float = 1.0, colour: theme.Colour = theme.FRUSTUM,
    planes: tuple[theme.Colour, theme.Colour] | None = None,
) -> list[Any]:
    """The box between the planes as lines, near and far plane hatched in these colours, and rays towards the eye."""
    near, far, has_near, has_far = drawn_planes(camera)
    corners = camera.frustum_corners_world(near, far).numpy()
    towards = camera.eye_world.numpy() - corners[:4]
    length = np.linalg.norm(towards, axis=1, keepdims=True)
    ends = corners[:4] + towards * np.minimum(0.3 / np.maximum(length, 1e-9), 0.8)  # not into an eye that looks through
    found = [
        _lines(name, corners, _BOX_EDGES, colour, 0.0035 * weight),
        _lines(f"{name} rays", np.concatenate([corners[:4], ends]), np.arange(8).reshape(2, 4).T, colour,
               0.0016 * weight),
    ]
    near_colour, far_colour = planes or (colour, colour)
    for plane, quad, shown, own in (
        ("near", corners[:4], has_near, near_colour), ("far", corners[4:], has_far, far_colour)
    ):
        if shown:
            # on a screen few lines, thick enough to stay whole; a figure is drawn larger first
            n_lines, radius = (7, 0.0009) if planes is None else (5, 0.0022)
            found.append(_hatch(f"{name} {plane}", quad, own, radius * weight, n_lines))
    return found


def _hatch(name: str, quad: Float[np.ndarray, "4 3"], colour: theme.Colour, radius: float, n_lines: int) -> Any:
    """Thin lines across a plane: it shows without hiding what lies behind, and needs no transparency."""
    steps = (np.arange(n_lines) + 1)[:, None] / (n_lines + 1)
    sides = [quad[a] + (quad[b] - quad[a]) * steps for a, b in ((0, 1), (3, 2), (0, 3), (1, 2))]
    nodes = np.concatenate(sides)
    index = np.arange(n_lines)
    edges = np.concatenate([np.stack([index, index + n_lines], 1),
                            np.stack([index + 2 * n_lines, index + 3 * n_lines], 1)])
    return _lines(name, nodes, edges, colour, radius)


def draw_cameras(name: str, shown: ShownCameras, size: float) -> list[Any]:
    """All cameras as small pyramids in one network, each in its colour, the selected one larger."""
    nodes, edges = [], []
    for index, camera in enumerate(shown.cameras):
        first, far = 5 * len(edges), size * (1.7 if index == shown.selected else 1.0)
        nodes += [camera.eye_world.numpy()[None], camera.frustum_corners_world(far / 2, far).numpy()[4:]]
        edges.append(first + np.array([[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]]))
    network = _lines(name, np.concatenate(nodes), np.concatenate(edges), theme.CAMERAS, radius=0.002)
    network.add_color_quantity("loss", np.repeat(shown.colours, 5, axis=0), defined_on="nodes", enabled=True)
    return [network]


def _lines(name: str, nodes: np.ndarray, edges: np.ndarray, colour: theme.Colour, radius: float) -> Any:
    network = ps.register_curve_network(name, nodes, edges, color=colour, material="flat")
    network.set_radius(radius, relative=False)
    return network
