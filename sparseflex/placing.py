"""Cameras placed by hand: planes that enclose what they see, and free points inside a shape along a ray."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.sampling import (
    DEFAULT_CLEARANCE,
    ENCLOSED,
    INTERIOR_FOV_Y_DEGREES,
    Extent,
    interior_camera,
    require_clearance,
    surrounded,
)
from sparseflex.triangle_distance import TriangleTree

_SAMPLES = 24
"""Points looked at in each stretch of a ray between two surfaces."""

_NEAREST = 1e-4


def enclosed(camera: Camera, target: Mesh, clearance: float = DEFAULT_CLEARANCE,
             tree: TriangleTree | None = None) -> Camera:
    """The camera with planes in front of and behind all that it can see of the target. tree: as for require_clearance.

    Raises ValueError where the eye lies in the target's box and nearer to its surface than clearance, or where all of
    the target lies behind the camera.
    """
    extent = Extent.of(target.vertices)
    eye = camera.eye_world
    inside = bool(((eye > extent.low) & (eye < extent.high)).all())
    distance = require_clearance(eye, target, clearance if inside else 0.0, tree)
    furthest = float(camera.depth_of(target.vertices.detach().to("cpu", torch.float64)).amax())
    if furthest <= 0:
        raise ValueError(f"a camera must have the target in front of it, got its furthest depth {furthest:.3g}")
    # all surface is at least distance away: along the image's corners its depth is at least near
    near = max(0.9 * distance / math.hypot(1.0, *camera.tan_half_fov), _NEAREST)
    return camera.with_planes(near, max(1.05 * furthest, 2 * near))


def ray_hits(target: Mesh, origin: Sequence[float] | Tensor, direction: Sequence[float] | Tensor) -> Float[Tensor, "h"]:
    """How far along a ray it meets the target's triangles, ascending, in units of the direction; float64 on the CPU.

    By Möller and Trumbore (1997). A hit on an edge that two triangles share counts once.
    """
    start = torch.as_tensor(origin, dtype=torch.float64)
    ray = torch.as_tensor(direction, dtype=torch.float64)
    corners = target.vertices.detach().to("cpu", torch.float64)[target.faces.cpu()]
    a, side_b, side_c = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    across = torch.linalg.cross(ray.expand_as(side_c), side_c)
    determinant = (side_b * across).sum(1)
    offset = start - a
    u = (offset * across).sum(1) / determinant
    lifted = torch.linalg.cross(offset, side_b)
    v = (ray * lifted).sum(1) / determinant
    t = (side_c * lifted).sum(1) / determinant
    slack = 1e-9
    hit = (u >= -slack) & (v >= -slack) & (u + v <= 1 + slack) & (t > 0) & t.isfinite()
    found = t[hit].sort().values
    apart = torch.ones(len(found), dtype=torch.bool)
    apart[1:] = found.diff() * ray.norm() > 1e-7
    return found[apart]


def free_point(
    target: Mesh,
    origin: Sequence[float] | Tensor,
    direction: Sequence[float] | Tensor,
    clearance: float = DEFAULT_CLEARANCE,
) -> Float[Tensor, "3"]:
    """The point to stand at in the first room that a ray enters, in world space.

    Of the points that keep the clearance, those count that have surface in at least three quarters of all directions
    (see sampling.interior_places): walls are passed through, and the air under an eave is no room. In the first stretch
    between two surfaces that has such points, the one with the most room around it; the stretch in front of the first
    surface comes last (a room without a ceiling). Raises ValueError where there is none, or the ray meets nothing.
    """
    from sparseflex.metrics import point_to_triangle_distance

    start = torch.as_tensor(origin, dtype=torch.float64)
    ray = torch.as_tensor(direction, dtype=torch.float64)
    hits = ray_hits(target, start, ray)
    if not len(hits):
        raise ValueError("a camera inside needs a ray that meets the target, got one that passes it by")
    extent = Extent.of(target.vertices)
    sides = torch.stack([(extent.low - start) / ray, (extent.high - start) / ray])
    entry = sides.amin(dim=0).nan_to_num(-math.inf).amax().clamp(min=0)
    stretches = [*zip(hits[:-1], hits[1:], strict=True), (torch.minimum(entry, hits[0]), hits[0])]
    shares = (torch.arange(_SAMPLES, dtype=torch.float64) + 0.5) / _SAMPLES
    points = torch.stack([start + ray * (low + (high - low) * shares)[:, None] for low, high in stretches])
    distances = point_to_triangle_distance(points.reshape(-1, 3), target).reshape(len(stretches), _SAMPLES)
    clear = distances >= clearance
    if not bool(clear.any()):
        raise ValueError(f"a camera inside must keep a clearance of {clearance:g} to the surface, got at most "
                         f"{float(distances.amax()):.3g} along this ray")
    share = torch.zeros_like(distances)
    share[clear] = surrounded(points[clear], target, extent)
    room = (share >= ENCLOSED).any(dim=1).nonzero()
    if not len(room):
        raise ValueError(f"a camera inside needs surface in {ENCLOSED:.0%} of all directions, got at most "
                         f"{float(share.amax()):.0%} along this ray")
    first = int(room[0])
    return points[first, torch.where(share[first] >= ENCLOSED, distances[first], -1.0).argmax()]


def camera_inside(
    target: Mesh,
    origin: Sequence[float] | Tensor,
    direction: Sequence[float] | Tensor,
    *,
    clearance: float = DEFAULT_CLEARANCE,
    width: int = 256,
    height: int = 256,
) -> Camera:
    """An interior camera in the first room that a ray enters, looking along it. Raises ValueError as free_point."""
    eye = free_point(target, origin, direction, clearance)
    ahead = eye + torch.as_tensor(direction, dtype=torch.float64)
    return interior_camera(target, eye, ahead, clearance=clearance, fov_y_degrees=INTERIOR_FOV_Y_DEGREES, width=width,
                           height=height)
