"""Borders of a surface: the edges of one triangle alone, where vertices at one place are one, and points along them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparseflex.mesh import Mesh
from sparseflex.voxels import SparseVoxels


def border_edges(mesh: Mesh) -> tuple[Float[Tensor, "P 3"], Int[Tensor, "E 2"]]:
    """The distinct places of the vertices, and the border's edges as pairs of their rows.

    In a file of loose triangles every edge would be a border, were vertices told apart by their number.
    """
    places, vertex = torch.unique(mesh.vertices, dim=0, return_inverse=True)
    faces = vertex[mesh.faces]
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(dim=1).values
    edges, n_faces = torch.unique(edges, dim=0, return_counts=True)
    return places, edges[(n_faces == 1) & (edges[:, 0] != edges[:, 1])]


def points_along(
    places: Float[Tensor, "P 3"], edges: Int[Tensor, "E 2"], resolution: int
) -> tuple[Float[Tensor, "n 3"], Int[Tensor, "n"]]:
    """Points on the edges, ends included, less than a 128th of a voxel apart; and the edge of each."""
    start, end = places[edges].unbind(1)
    n_points = ((end - start).norm(dim=1) * (128 * resolution)).ceil().long() + 2
    edge = torch.repeat_interleave(n_points)
    step = torch.arange(len(edge), device=edge.device) - (n_points.cumsum(0) - n_points)[edge]
    return start[edge] + (end - start)[edge] * (step / (n_points[edge] - 1))[:, None], edge


def voxels_at_border(mesh: Mesh, resolution: int, rings: int) -> SparseVoxels:
    """The voxels within `rings` voxels of the border of a surface in the normalised frame, sorted."""
    places, edges = border_edges(mesh)
    points = points_along(places, edges, resolution)[0]
    ijk = ((points + 0.5) * resolution).floor().clamp(0, resolution - 1).long()
    return SparseVoxels.merging_duplicates(ijk, resolution)[0].dilate(rings)
