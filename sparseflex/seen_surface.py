"""Seen surfaces: which voxels of a surface a camera sees, exactly; and about how many, by a coarse copy of it."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.extraction import extract_mesh
from sparseflex.mesh import Mesh
from sparseflex.rasterize import ScreenMesh, rasterize
from sparseflex.representation import SparseFlex

COARSE_VERTICES = 10_000
"""About how many vertices a coarse copy has: an image of 96² pixels shows hardly more."""

_LEAST_SIDE = 8
_VOXELS_PER_PIXEL = 2.0  # a face joins two voxels


@dataclasses.dataclass(frozen=True, eq=False)
class SeenSurface:
    """A surface of N voxels as it is rendered: its faces that are finite, the two voxels that each of them joins, which
    voxels have one, and the quads (dual vertices, which are the first of the mesh) that are whole."""

    mesh: Mesh
    joined: Int[Tensor, "F 2"]
    has_face: Bool[Tensor, "N"]
    quads: Int[Tensor, "Q 4"]

    @classmethod
    def of(cls, flex: SparseFlex, active: Bool[Tensor, "N"]) -> SeenSurface:
        """That of the active voxels alone, extracted as for training."""
        mesh = extract_mesh(flex, active, training=True)
        finite = torch.isfinite(mesh.vertices).all(dim=1)[mesh.faces].all(dim=1)
        faces = mesh.faces[finite]
        joined = mesh.dual_voxel[faces[:, :2]]
        has_face = torch.zeros(int(active.sum()), dtype=torch.bool, device=active.device)
        has_face[joined.view(-1)] = True
        quads = mesh.faces[:, 0].view(-1, 4)[finite.view(-1, 4).all(dim=1)]
        return cls(Mesh(mesh.vertices.detach(), faces, dual_voxel=mesh.dual_voxel), joined, has_face, quads)

    def seen(self, camera: Camera) -> Int[Tensor, "k"]:
        """The rows of the voxels that a camera sees."""
        ids = rasterize(ScreenMesh.project(self.mesh.vertices, self.mesh.faces, camera))
        seen = torch.zeros_like(self.has_face)
        seen[self.joined[torch.unique(ids[ids >= 0])].view(-1)] = True
        return seen.nonzero().squeeze(1)


@dataclasses.dataclass(frozen=True, eq=False)
class CoarseSurface:
    """A surface with its vertices merged, and how many of the wanted voxels each merged one stands for."""

    mesh: Mesh
    wanted: Float[Tensor, "K"]

    @classmethod
    def of(cls, surface: SeenSurface, wanted: Bool[Tensor, "N"], resolution: int) -> CoarseSurface:
        """Vertices are merged where they lie in one cell of a coarse grid and face one way: both sides of a wall that
        is thinner than a cell stay apart, and no gap opens. A surface with few vertices stays as it is.

        resolution: of the voxels. Merging gives each its mean position; faces that collapse are dropped.
        """
        n_dual = len(surface.mesh.dual_voxel)
        vertices, quads = surface.mesh.vertices[:n_dual], surface.quads
        used = torch.zeros(n_dual, dtype=torch.bool, device=quads.device)
        used[quads.view(-1)] = True
        rows = used.nonzero().squeeze(1)
        row_of = used.cumsum(0) - 1
        vertices, quads = vertices[rows].to(torch.float64), row_of[quads]
        merged, n_merged = _merged(vertices, quads, resolution)
        weights = torch.zeros(n_merged, dtype=torch.float32, device=quads.device)
        weights.index_add_(0, merged, wanted[surface.mesh.dual_voxel[rows]].to(torch.float32))
        places = torch.zeros(n_merged, 3, dtype=torch.float64, device=quads.device).index_add_(0, merged, vertices)
        places /= torch.bincount(merged, minlength=n_merged)[:, None].clamp(min=1)
        ring = merged[quads]
        faces = torch.stack([ring[:, [0, 1, 2]], ring[:, [0, 2, 3]]], dim=1).view(-1, 3)
        apart = (faces != faces.roll(1, dims=1)).all(dim=1)
        return cls(Mesh(places, faces[apart]), weights)

    @cached_property
    def normals(self) -> Float[Tensor, "F 3"]:
        """By winding, as long as twice the face's area; float64."""
        a, b, c = self.mesh.vertices[self.mesh.faces].unbind(1)
        return torch.linalg.cross(b - a, c - a)

    @cached_property
    def vertex_normals(self) -> Float[Tensor, "K 3"]:
        found = torch.zeros_like(self.mesh.vertices)
        for corner in range(3):
            found.index_add_(0, self.mesh.faces[:, corner], self.normals)
        return found

    @cached_property
    def _plane_offsets(self) -> Float[Tensor, "F"]:
        return (self.normals * self.mesh.vertices[self.mesh.faces[:, 0]]).sum(dim=1)

    def gains(self, camera: Camera, focal_pixels: float, backs: bool = False) -> Float[Tensor, "K"]:
        """About how many of each vertex's wanted voxels the camera sees, in an image that is as sharp as focal_pixels
        says. Without backs only fronts count: an eye within matter sees all from behind, and is to find nothing.

        p pixels on w voxels, two a pixel by chance, miss a share exp(−2 p / w) of them.
        """
        ids = rasterize(ScreenMesh.project(self.mesh.vertices, self.mesh.faces, camera)).view(-1)
        faces, pixels = torch.unique(ids[ids >= 0], return_counts=True)
        if not backs:
            front = self.normals[faces] @ camera.eye_world.to(self.normals) > self._plane_offsets[faces]
            faces, pixels = faces[front], pixels[front]
        pixels = pixels.to(torch.float32) * (focal_pixels / camera.focal_pixels) ** 2
        seen = torch.zeros_like(self.wanted)
        for corner in range(3):
            seen.index_add_(0, self.mesh.faces[faces, corner], pixels / 3)
        return self.wanted * (1 - torch.exp(-_VOXELS_PER_PIXEL * seen / self.wanted.clamp(min=1)))


def _merged(vertices: Float[Tensor, "V 3"], quads: Int[Tensor, "Q 4"], resolution: int) -> tuple[Tensor, int]:
    """For each vertex the merged one that it belongs to, and how many of those there are."""
    n = len(vertices)
    if n <= COARSE_VERTICES:
        return torch.arange(n, device=vertices.device), n
    corners = [vertices.index_select(0, quads[:, k]) for k in range(4)]
    across = torch.linalg.cross(corners[2] - corners[0], corners[3] - corners[1])
    normals = torch.zeros_like(vertices)
    for k in range(4):
        normals.index_add_(0, quads[:, k], across)
    axis = normals.abs().argmax(dim=1)
    facing = 2 * axis + (normals.gather(1, axis[:, None])[:, 0] > 0)
    side = max(int(resolution * math.sqrt(COARSE_VERTICES / n)), _LEAST_SIDE)
    i, j, k = ((vertices + 0.5) * side).long().clamp_(0, side - 1).unbind(1)
    known, merged = torch.unique(((i * side + j) * side + k) * 6 + facing, return_inverse=True)
    return merged, len(known)
