"""Clipping by the near plane: the few triangles that cross it become one or two triangles in front of it."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparseflex.rasterize.screen import ScreenMesh


@dataclasses.dataclass(frozen=True)
class ScreenTriangles:
    """Triangles that lie in front of the eye. x, y: (3, T) float64 pixel columns and rows of the corners.

    inverse_depth: (3, T) float64, affine across the screen. face: (T,) the mesh face each is a part of.
    """

    x: Float[Tensor, "3 T"]
    y: Float[Tensor, "3 T"]
    inverse_depth: Float[Tensor, "3 T"]
    face: Int[Tensor, "T"]


def near_crossing(
    homogeneous: Float[Tensor, "3 V"], start: Int[Tensor, "n"], end: Int[Tensor, "n"], near: float
) -> Float[Tensor, "3 n"]:
    """Where the edges start–end pass the near plane, bit for bit the same from both sides of an edge."""
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    a, b = homogeneous.index_select(1, low), homogeneous.index_select(1, high)
    point = a + (near - a[2]) / (b[2] - a[2]) * (b - a)
    point[2] = near
    return point


def clip_straddling(screen: ScreenMesh) -> ScreenTriangles:
    """What the near plane leaves of the faces that straddle it."""
    face = screen.straddling
    corners = screen.corners[:, face]
    behind = screen.behind[corners]
    one_behind = behind.sum(0) == 1
    # turn each face so that the corner that is alone on its side of the plane comes first
    alone = torch.where(one_behind, behind, ~behind).to(torch.int8).argmax(0)
    order = (torch.arange(3, device=face.device)[:, None] + alone) % 3
    apex, second, third = corners.gather(0, order)
    to_second = near_crossing(screen.homogeneous, apex, second, screen.near)
    to_third = near_crossing(screen.homogeneous, apex, third, screen.near)
    points = [screen.homogeneous.index_select(1, index) for index in (apex, second, third)]
    tips = [torch.stack([points[0], to_second, to_third])[:, :, ~one_behind]]
    tips.append(torch.stack([to_second, points[1], points[2]])[:, :, one_behind])
    tips.append(torch.stack([to_second, points[2], to_third])[:, :, one_behind])
    corner, axis = torch.cat(tips, dim=2), 1  # (3 corners, 3 coordinates, T)
    x, y, depth = corner.unbind(axis)
    return ScreenTriangles(
        x / depth, y / depth, 1 / depth, torch.cat([face[~one_behind], face[one_behind], face[one_behind]])
    )
