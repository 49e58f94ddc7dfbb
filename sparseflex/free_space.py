"""Free space: what a target's depth map says about the sign of the SDF between the camera and the surface.

The rendering losses only move surface that is there; where a random start left none, nothing pulls. But along a pixel's
ray there is no surface between the near plane and the depth seen, so all of it lies on one side: outside where the
surface seen shows its front, inside where it shows its back (a near plane has cut it open). Space carving (Kutulakos
and Seitz 2000) and the free-space half of depth fusion (Curless and Levoy 1996), as a loss on corner values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.render import Maps, pixel_rays

_HINGE = 0.05


def _sides(target: Maps, camera: Camera) -> Float[Tensor, "2 H W"]:
    """Whether any pixel of the 3 × 3 around each sees a front, and whether any sees a back."""
    pixel = torch.arange(camera.width * camera.height, device=target.depth.device)
    rays = torch.stack(pixel_rays(camera, pixel, target.normal.dtype), dim=1).view(target.normal.shape)
    away = (target.normal * rays).sum(2) > 0
    sides = torch.stack([target.hit & ~away, target.hit & away]).to(torch.float32)
    return functional.max_pool2d(sides[None], 3, 1, 1)[0]


@torch.no_grad()
def free_space_labels(
    points_world: Float[Tensor, "P 3"], camera: Camera, target: Maps, margin: float
) -> Float[Tensor, "P"]:
    """+1 for points that the view shows to be outside, −1 for inside, 0 where it says nothing.

    margin: world units that a point must lie in front of the nearest depth of the 3 × 3 pixels around its own; all
    surface that these see must show the same side, and the point's own pixel must be hit.
    """
    x, y, z = camera.to_camera_space(points_world).unbind(1)
    depth, focal = -z, camera.focal_pixels
    safe = depth.clamp(min=1e-6)
    column, row = x / safe * focal + camera.width / 2, camera.height / 2 - y / safe * focal
    seen = (depth >= camera.near) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    pixel = torch.where(seen, row.floor().long() * camera.width + column.floor().long(), 0)
    far = torch.where(target.hit, target.depth, camera.far)
    nearest = -functional.max_pool2d(-far[None, None], 3, 1, 1).view(-1)
    front, back = _sides(target, camera).view(2, -1)
    label = front.index_select(0, pixel) - back.index_select(0, pixel)  # 0 where both or none are seen
    free = seen & (depth < nearest.index_select(0, pixel) - margin) & target.hit.view(-1).index_select(0, pixel)
    return torch.where(free, label, 0).to(points_world.dtype)


def free_space_loss(sdf: Float[Tensor, "P"], labels: Float[Tensor, "P"]) -> Float[Tensor, ""]:
    """Mean over the labelled points of max(0, 0.05 − label · sdf), sdf in voxel widths; 0 where there are none."""
    known = labels != 0
    return torch.where(known, functional.relu(_HINGE - labels * sdf), 0).sum() / known.sum().clamp(min=1)
