"""Rendering: differentiable depth, normal and mask maps of a mesh, clipped by the camera's near and far planes."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

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


def pixel_rays(camera: Camera, pixel: Int[Tensor, "P"], dtype: torch.dtype) -> list[Float[Tensor, "P"]]:
    """World-space x, y and z of the rays through pixel centres, scaled so that eye + depth · ray is the point.

    pixel: flat indices, row · width + column.
    """
    focal = camera.focal_pixels
    down = torch.div(pixel, camera.width, rounding_mode="floor")
    column, row = (pixel - down * camera.width).to(dtype), down.to(dtype)
    world_from_camera = camera.world_from_camera[:3, :3]
    first = [(0.5 - camera.width / 2) / focal, (camera.height / 2 - 0.5) / focal, -1.0]
    origin = (world_from_camera @ torch.tensor(first, dtype=torch.float64)).tolist()
    step = (world_from_camera / focal).tolist()
    return [column * step[k][0] - row * step[k][1] + origin[k] for k in range(3)]


def _cross(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


class _FaceMaps(torch.autograd.Function):
    """Depth and normal of the faces seen, as planes: unit normal n, ray d, o = n · (v0 − eye), depth = o / (n · d).

    That is what perspective-correct barycentrics give, at a quarter of the gathers. The depth is kept in the range of
    its face's vertices, which only matters for slivers. Derivatives are written out, because every per-pixel sum
    then happens once a visible face, and the chain rule to its corners once a face and not once a pixel. Coordinates
    are kept as separate contiguous vectors, several times faster than (…, 3) rows.
    """

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, screen: ScreenMesh, camera: Camera, triangle_id: Tensor, two_sided: bool
                ) -> tuple[Tensor, Tensor]:
        dtype, size = vertices.dtype, triangle_id.numel()
        pixel = (triangle_id.view(-1) >= 0).nonzero()[:, 0]
        face = triangle_id.view(-1).index_select(0, pixel)
        seen = torch.zeros(screen.n_faces, dtype=torch.bool, device=vertices.device).index_fill_(0, face, True)
        visible = seen.nonzero()[:, 0]
        n_visible = visible.numel()
        slot_of_face = torch.empty(screen.n_faces, dtype=torch.int64, device=vertices.device)
        slot_of_face[visible] = torch.arange(n_visible, device=vertices.device)
        slot = slot_of_face.index_select(0, face)

        corners = screen.corners.index_select(1, visible).view(-1)
        points = [axis.index_select(0, corners).view(3, -1) for axis in vertices.T.contiguous()]
        edge1, edge2 = [p[1] - p[0] for p in points], [p[2] - p[0] for p in points]
        normal = _cross(edge1, edge2)
        length = _dot(normal, normal).sqrt_().clamp_min_(torch.finfo(dtype).tiny)
        normal = [n / length for n in normal]
        from_eye = [p[0] - e for p, e in zip(points, camera.eye_world.tolist(), strict=True)]
        offset = _dot(normal, from_eye)
        depths = screen.depth.index_select(0, corners).view(3, -1).to(dtype)
        nearest, farthest = depths.amin(0).clamp_min_(screen.near), depths.amax(0).clamp_max_(screen.far)

        rays = pixel_rays(camera, pixel, dtype)
        descent = _dot([n.index_select(0, slot) for n in normal], rays)
        nearest, farthest = nearest.index_select(0, slot), farthest.index_select(0, slot)
        depth = offset.index_select(0, slot) / descent
        free = (depth >= nearest) & (depth <= farthest)
        depth = torch.where(descent == 0, nearest, depth.clamp(nearest, farthest))

        sign = torch.where(offset > 0, -1.0, 1.0).to(dtype) if two_sided else None
        shown = torch.stack(normal if sign is None else [n * sign for n in normal], dim=1)
        depth_map = torch.zeros(size, dtype=dtype, device=vertices.device).index_copy_(0, pixel, depth)
        normal_map = vertices.new_zeros(size, 3).index_copy_(0, pixel, shown.index_select(0, slot))
        ctx.save_for_backward(pixel, slot, corners, depth, torch.where(free, descent, torch.inf), length, *normal,
                              *edge1, *edge2, *from_eye, *rays)
        ctx.sign, ctx.shape = sign, vertices.shape
        return depth_map.view_as(triangle_id), normal_map.view(*triangle_id.shape, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_depth: Tensor, grad_normal: Tensor) -> tuple[Tensor | None, ...]:
        pixel, slot, corners, depth, descent, length, *vectors = ctx.saved_tensors
        normal, edge1, edge2, from_eye, rays = (vectors[3 * k : 3 * k + 3] for k in range(5))

        def sum_by_face(values: Tensor) -> Tensor:
            return torch.zeros_like(length).scatter_add_(0, slot, values)

        grad_shown = grad_normal.reshape(-1, 3).index_select(0, pixel)
        grad_n = [sum_by_face(grad_shown[:, k]) for k in range(3)]
        if ctx.sign is not None:
            grad_n = [g * ctx.sign for g in grad_n]
        # depth = offset / descent; the descent is infinite where the depth was clamped, so nothing flows there
        grad_offset_pixel = grad_depth.reshape(-1).index_select(0, pixel) / descent
        grad_offset = sum_by_face(grad_offset_pixel)
        through_descent = grad_offset_pixel * depth
        for k in range(3):
            grad_n[k] += grad_offset * from_eye[k] - sum_by_face(through_descent * rays[k])
        # n = m / |m|, m = edge1 × edge2
        along = _dot(grad_n, normal)
        grad_m = [(g - along * n) / length for g, n in zip(grad_n, normal, strict=True)]
        grad_edge1, grad_edge2 = _cross(edge2, grad_m), _cross(grad_m, edge1)
        grad_vertices = length.new_zeros(3, ctx.shape[0])
        for k in range(3):
            at_first = grad_offset * normal[k] - grad_edge1[k] - grad_edge2[k]
            grad_vertices[k].scatter_add_(0, corners, torch.cat([at_first, grad_edge1[k], grad_edge2[k]]))
        return grad_vertices.T, None, None, None, None


def render_maps(mesh: Mesh, camera: Camera, backend: str = "auto", two_sided: bool = False) -> Maps:
    """Depth, normal and mask maps, differentiable with respect to mesh.vertices, in their dtype and device.

    A face's normal follows its winding; two_sided turns it towards the camera instead. Depth and normal are
    differentiated at fixed visibility, the mask through its outline (rasterize/silhouette.py). backend: auto,
    torch or nvdiffrast; raises ValueError or RuntimeError where it can't serve.
    """
    screen = ScreenMesh.project(mesh.vertices, mesh.faces, camera)
    triangle_id = rasterize(screen, backend)
    depth, normal = _FaceMaps.apply(mesh.vertices, screen, camera, triangle_id, two_sided)
    mask = antialias(mesh.vertices, screen, triangle_id >= 0)
    return Maps(depth, normal, mask, triangle_id)


class MapTangents(NamedTuple):
    """The derivative of each map along a direction in which the vertices move."""

    depth: Float[Tensor, "H W"]
    normal: Float[Tensor, "H W 3"]
    mask: Float[Tensor, "H W"]


def map_tangents(
    vertices: Float[Tensor, "V 3"], ways: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], camera: Camera, maps: Maps
) -> MapTangents:
    """How the maps change, pixel by pixel, when the vertices move along `ways`: forward mode.

    maps: render_maps(Mesh(vertices, faces), camera), not two-sided. The transpose of what render_maps gives backwards:
    for any weights w, sum(w · map_tangents) = sum(ways · gradient of sum(w · maps)). Costs what moves, and the outline.
    """
    moved = (ways != 0).any(dim=1)  # NaN is not 0, either
    depth, normal, mask = (torch.zeros_like(maps.depth), torch.zeros_like(maps.normal), torch.zeros_like(maps.mask))
    if not bool(moved.any()):
        return MapTangents(depth, normal, mask)
    screen = ScreenMesh.project(vertices, faces, camera)
    face_moves = torch.cat([moved[faces].any(dim=1), moved.new_zeros(1)])  # the last row: no face
    pixel = face_moves[maps.triangle_id.view(-1)].nonzero()[:, 0]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(vertices.detach(), ways)
        corners = faces[maps.triangle_id.view(-1)[pixel]].T
        of_depth, of_normal = _plane_tangents(dual, screen, camera, corners, pixel)
        mask = _tangent(antialias(dual, screen, maps.hit))
    return MapTangents(depth.view(-1).index_copy(0, pixel, of_depth).view_as(depth),
                       normal.view(-1, 3).index_copy(0, pixel, of_normal).view_as(normal), mask)


def _tangent(dual: Tensor) -> Tensor:
    primal, tangent = forward_ad.unpack_dual(dual)
    return torch.zeros_like(primal) if tangent is None else tangent


def _plane_tangents(vertices: Tensor, screen: ScreenMesh, camera: Camera, corners: Int[Tensor, "3 P"],
                    pixel: Int[Tensor, "P"]) -> tuple[Float[Tensor, "P"], Float[Tensor, "P 3"]]:
    """As _FaceMaps, by the same operations in the same order, for dual vertices and a face a pixel."""
    dtype = vertices.dtype
    points = [axis.index_select(0, corners.reshape(-1)).view(3, -1) for axis in vertices.unbind(1)]
    normal = _cross([p[1] - p[0] for p in points], [p[2] - p[0] for p in points])
    length = _dot(normal, normal).sqrt().clamp_min(torch.finfo(dtype).tiny)
    normal = [n / length for n in normal]
    offset = _dot(normal, [p[0] - e for p, e in zip(points, camera.eye_world.tolist(), strict=True)])
    depth = offset / _dot(normal, pixel_rays(camera, pixel, dtype))
    depths = screen.depth.index_select(0, corners.reshape(-1)).view(3, -1).to(dtype)
    nearest, farthest = depths.amin(0).clamp_min_(screen.near), depths.amax(0).clamp_max_(screen.far)
    value = forward_ad.unpack_dual(depth).primal
    free = (value >= nearest) & (value <= farthest)  # what is clamped stays
    return torch.where(free, _tangent(depth), 0), torch.stack([_tangent(n) for n in normal], dim=1)
