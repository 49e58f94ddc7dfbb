"""Rendering: differentiable depth, normal and mask maps of a mesh, clipped by the camera's near and far planes."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.rasterize import ScreenMesh, rasterize
from sparseflex.rasterize.silhouette import antialias


@dataclasses.dataclass(frozen=True)
class Maps:
    """What a camera sees of a mesh, row 0 at the top.

    depth: (H, W) camera depth at the pixel centre, in world units; 0 where nothing is hit.
    normal: (H, W, 3) unit face normal in world space; 0 where nothing is hit.
    mask: (H, W) antialiased coverage in [0, 1].
    triangle_id: (H, W) int64 face seen at the pixel centre, -1 where nothing is hit.
    """

    depth: Float[Tensor, "H W"]
    normal: Float[Tensor, "H W 3"]
    mask: Float[Tensor, "H W"]
    triangle_id: Int[Tensor, "H W"]

    @property
    def hit(self) -> Bool[Tensor, "H W"]:
        """Pixels whose centre sees a face."""
        return self.triangle_id >= 0


def pixel_rays(camera: Camera) -> Float[Tensor, "3 H·W"]:
    """World-space rays through the pixel centres, float64 on the CPU, scaled so that eye + depth · ray is the point."""
    rows, columns = torch.meshgrid(
        torch.arange(camera.height, dtype=torch.float64) + 0.5,
        torch.arange(camera.width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    focal = camera.focal_pixels
    directions = torch.stack(
        [(columns - camera.width / 2) / focal, (camera.height / 2 - rows) / focal, -torch.ones_like(rows)]
    )
    return camera.world_from_camera[:3, :3] @ directions.view(3, -1)


def render_maps(mesh: Mesh, camera: Camera, backend: str = "auto", two_sided: bool = False) -> Maps:
    """Depth, normal and mask maps, differentiable with respect to mesh.vertices, in their dtype and device.

    A face's normal follows its winding; two_sided turns it towards the camera instead. Depth and normal are
    differentiated at fixed visibility, the mask through the silhouette (rasterize/silhouette.py). backend: auto,
    torch or nvdiffrast; raises ValueError or RuntimeError where it can't serve.
    """
    screen = ScreenMesh.project(mesh.vertices, mesh.faces, camera)
    triangle_id = rasterize(screen, backend)
    pixel = (triangle_id.view(-1) >= 0).nonzero()[:, 0]
    face = triangle_id.view(-1)[pixel]
    rays = pixel_rays(camera).to(mesh.vertices)[:, pixel]
    corners = mesh.vertices[mesh.faces[face]] - camera.eye_world.to(mesh.vertices)
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal = torch.nn.functional.normalize(normal, dim=1)
    facing = (normal * rays.T).sum(1)
    depth = (normal * corners[:, 0]).sum(1) / facing
    if two_sided:
        normal = normal * torch.where(facing > 0, -1.0, 1.0)[:, None]
    size = camera.height * camera.width
    depth_map = mesh.vertices.new_zeros(size).index_put((pixel,), depth)
    normal_map = mesh.vertices.new_zeros(size, 3).index_put((pixel,), normal)
    mask = antialias(mesh.vertices, screen, triangle_id >= 0)
    return Maps(
        depth_map.view(camera.height, camera.width), normal_map.view(camera.height, camera.width, 3), mask, triangle_id
    )
