"""Mesh: triangles with vertices, the one mesh type that the library takes and gives."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Mesh:
    """A triangle mesh in world space; a face is counter-clockwise seen from outside.

    vertices: (V, 3) float. faces: (F, 3) int64 rows into vertices. l_dev: (E,) one entry for each
    pair of dual vertex and zero crossing (method.md, section 2), only on extracted meshes, as is dual_voxel: (D,) the
    row of the voxel that each dual vertex lies in, and these are the first D vertices.
    Raises ValueError where shapes or types don't fit. Empty meshes are legal.
    """

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    l_dev: Float[Tensor, "E"] | None = None
    dual_voxel: Int[Tensor, "D"] | None = None

    def __post_init__(self) -> None:
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3 or not self.vertices.is_floating_point():
            raise ValueError(
                f"vertices must be a floating (V, 3) tensor, got {tuple(self.vertices.shape)} {self.vertices.dtype}"
            )
        if self.faces.ndim != 2 or self.faces.shape[1] != 3 or self.faces.dtype != torch.int64:
            raise ValueError(f"faces must be an int64 (F, 3) tensor, got {tuple(self.faces.shape)} {self.faces.dtype}")

    @property
    def n_vertices(self) -> int:
        return self.vertices.shape[0]

    @property
    def n_faces(self) -> int:
        return self.faces.shape[0]

    def detach(self) -> Mesh:
        """The same mesh without autograd history, sharing memory."""
        l_dev = None if self.l_dev is None else self.l_dev.detach()
        return Mesh(self.vertices.detach(), self.faces, l_dev, self.dual_voxel)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Mesh:
        """Moves the mesh; dtype applies to the vertices (and l_dev)."""
        l_dev = None if self.l_dev is None else self.l_dev.to(device=device, dtype=dtype)
        dual_voxel = None if self.dual_voxel is None else self.dual_voxel.to(device=device)
        return Mesh(self.vertices.to(device=device, dtype=dtype), self.faces.to(device=device), l_dev, dual_voxel)
