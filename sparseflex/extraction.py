"""extract_mesh: dual marching cubes on sparse voxels, differentiable (FlexiCubes; method.md, section 2)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from sparseflex.dmc_tables import FACE_NORMALS, case_tables, edge_tables
from sparseflex.dual_vertices import CHUNK, Surface, dual_vertices, entries_of, plain_dual_vertices
from sparseflex.mesh import Mesh
from sparseflex.representation import SparseFlex
from sparseflex.voxels import SparseVoxels


def extract_mesh(flex: SparseFlex, active: Bool[Tensor, "N"] | None = None, training: bool = False) -> Mesh:
    """The surface of the active voxels (all where active is None), oriented towards positive SDF.

    A quad arises around a sign-changing edge only where all four voxels around it are active, so the surface is open
    where voxels lack. training=False splits each quad along a diagonal chosen by gamma; training=True puts a
    gamma-weighted vertex in its middle and makes four triangles. The mesh's l_dev has one entry for each pair of
    dual vertex and zero crossing: |d − mean of d over the vertex|. Differentiable in everything flex holds.
    """
    if active is not None:
        flex = flex.section(active)
    surface = _surface(flex.voxels, flex.corner_sdf.detach() < 0)
    positions = flex.corner_positions().T.contiguous()
    vertices, l_dev = dual_vertices(flex.corner_sdf, positions, flex.alpha, flex.beta, flex.voxels, surface)
    quads = _quads(flex.voxels, surface, flex.corner_sdf.detach() < 0)
    dual_voxel = _voxel_of_dual(surface)
    gamma = flex.gamma[dual_voxel[quads]]
    if training:
        return dataclasses.replace(_fans(vertices, quads, gamma, l_dev), dual_voxel=dual_voxel)
    return Mesh(vertices, _diagonal_split(quads, gamma.detach()), l_dev, dual_voxel)


def surface_voxels(flex: SparseFlex) -> Bool[Tensor, "N"]:
    """Voxels whose corner signs differ: those that the surface passes through."""
    return _cases(flex.voxels, flex.corner_sdf.detach() < 0) % 255 != 0


def _cases(voxels: SparseVoxels, negative: Bool[Tensor, "C"]) -> UInt8[Tensor, "N"]:
    case = torch.zeros(voxels.n_voxels, dtype=torch.uint8, device=voxels.device)
    bits = negative.to(torch.uint8)
    for slot in range(8):
        case |= bits.index_select(0, voxels.corners_by_slot[slot]) << slot
    return case


def _surface(voxels: SparseVoxels, negative: Bool[Tensor, "C"]) -> Surface:
    """The surface voxels with their cases, ambiguous neighbours resolved, and the numbering of dual vertices."""
    tables = case_tables(voxels.device)
    case = _cases(voxels, negative)
    rows = (case % 255 != 0).nonzero().squeeze(1)
    case = case[rows].to(torch.int64)
    face = tables.ambiguous_face[case]
    doubtful = (face >= 0).nonzero().squeeze(1)
    if len(doubtful):
        normals = torch.tensor(FACE_NORMALS, dtype=torch.int32, device=voxels.device)
        ijk = voxels.voxel_ijk.index_select(0, rows[doubtful])
        neighbour = voxels.find(ijk + normals[face[doubtful]])
        is_doubtful = torch.zeros(voxels.n_voxels + 1, dtype=torch.bool, device=voxels.device)  # last row: no voxel
        is_doubtful[rows[doubtful]] = True
        case[doubtful] += 256 * is_doubtful[neighbour].to(torch.int64)
    n_patches = tables.n_patches[case]
    first_dual = n_patches.cumsum(0) - n_patches
    return Surface(rows, case, first_dual, int(n_patches.sum()))


def _voxel_of_dual(surface: Surface) -> Int[Tensor, "D"]:
    n_patches = case_tables(surface.rows.device).n_patches[surface.case]
    return torch.repeat_interleave(surface.rows, n_patches, output_size=surface.n_dual)


class _Marks(NamedTuple):
    """Each crossing's place in a table with four places for every lattice edge, and the dual vertex that goes there."""

    place: Int[Tensor, "E"]
    dual: Int[Tensor, "E"]


def _marks(voxels: SparseVoxels, surface: Surface) -> _Marks:
    edges = edge_tables(voxels.device)
    corners, n = voxels.corners_by_slot.reshape(-1), voxels.n_voxels
    small = torch.int32 if 12 * voxels.n_corners < 2**31 else torch.int64
    places, duals = [], []
    for start in range(0, len(surface.rows), CHUNK):
        voxel, edge, dual = entries_of(surface, start)
        lattice_edge = corners[edges.lower[edge] * n + voxel].to(small) * 3 + edges.axis.to(small)[edge]
        places.append(lattice_edge * 4 + edges.place.to(small)[edge])
        duals.append(dual.to(torch.int32))
    if not places:
        empty = torch.zeros(0, dtype=torch.int32, device=voxels.device)
        return _Marks(empty, empty)
    return _Marks(torch.cat(places), torch.cat(duals))


def _quads(voxels: SparseVoxels, surface: Surface, negative: Bool[Tensor, "C"]) -> Int[Tensor, "Q 4"]:
    """Rings of four dual vertices around the sign-changing edges that have all their four voxels."""
    marks = _marks(voxels, surface)
    crossed = torch.zeros(3 * voxels.n_corners, dtype=torch.uint8, device=voxels.device)
    crossed.index_fill_(0, (marks.place >> 2).long(), 1)
    rank = crossed.cumsum(0, dtype=torch.int32) - 1
    lattice_edges = crossed.nonzero().squeeze(1)
    around = torch.full((len(lattice_edges) * 4,), -1, dtype=torch.int32, device=voxels.device)
    around[rank.index_select(0, marks.place >> 2).long() * 4 + (marks.place & 3)] = marks.dual
    around = around.view(-1, 4)
    whole = (around >= 0).all(dim=1)
    around, lattice_edges = around[whole].to(torch.int64), lattice_edges[whole]
    # the ring of a<b<c<d is a, b, d, c where the edge's first listed corner is positive; along y that is the upper one
    corner = torch.div(lattice_edges, 3, rounding_mode="floor")
    backwards = negative[corner] ^ (lattice_edges - 3 * corner == 1)
    a, b, c, d = around.unbind(1)
    return torch.stack([torch.where(backwards, c, a), torch.where(backwards, d, b),
                        torch.where(backwards, b, d), torch.where(backwards, a, c)], dim=1)


def _diagonal_split(quads: Int[Tensor, "Q 4"], gamma: Float[Tensor, "Q 4"]) -> Int[Tensor, "F 3"]:
    """Two triangles a quad: along 0–2 where γ0γ2 > γ1γ3, else along 1–3."""
    along_02 = (gamma[:, 0] * gamma[:, 2] > gamma[:, 1] * gamma[:, 3])[:, None]
    turned = torch.where(along_02, quads, quads.roll(-1, dims=1))
    return torch.stack([turned[:, [0, 1, 2]], turned[:, [0, 2, 3]]], dim=1).reshape(-1, 3)


def _fans(
    vertices: Float[Tensor, "D 3"], quads: Int[Tensor, "Q 4"], gamma: Float[Tensor, "Q 4"], l_dev: Float[Tensor, "E"]
) -> Mesh:
    """Four triangles a quad around a centre: the diagonals' midpoints, weighted by γ0γ2 and γ1γ3."""
    centres = _centres(vertices, quads, gamma)
    middle = torch.arange(len(quads), device=quads.device) + vertices.shape[0]
    faces = torch.stack([quads, quads.roll(-1, dims=1), middle[:, None].expand(-1, 4)], dim=2)
    return Mesh(torch.cat([vertices, centres]), faces.reshape(-1, 3), l_dev)


def _centres(
    vertices: Float[Tensor, "D 3"], quads: Int[Tensor, "Q 4"], gamma: Float[Tensor, "Q 4"]
) -> Float[Tensor, "Q 3"]:
    weight_02, weight_13 = gamma[:, 0] * gamma[:, 2], gamma[:, 1] * gamma[:, 3]
    ring = [vertices.index_select(0, quads[:, k]) for k in range(4)]
    share = (weight_02 / (weight_02 + weight_13 + 1e-8))[:, None]
    other = (weight_13 / (weight_02 + weight_13 + 1e-8))[:, None]
    return share * ((ring[0] + ring[2]) / 2) + other * ((ring[1] + ring[3]) / 2)


def moving_vertices(flex: SparseFlex, mesh: Mesh, near: Bool[Tensor, "N"]) -> Float[Tensor, "V 3"]:
    """The vertices of `mesh`, which is extract_mesh(flex, training=True), where those that depend on the voxels `near`
    are computed anew by operations that forward-mode differentiation follows; all others are constants.

    flex: maybe of dual numbers (torch.autograd.forward_ad) in what belongs to these voxels.
    """
    surface = _surface(flex.voxels, flex.corner_sdf.detach() < 0)
    n_patches = case_tables(near.device).n_patches[surface.case]
    chosen = near[surface.rows]
    counts = n_patches[chosen]
    part = Surface(surface.rows[chosen], surface.case[chosen], counts.cumsum(0) - counts, int(counts.sum()))
    of_dual = _voxel_of_dual(surface)
    moves = near[of_dual]
    positions = flex.corner_positions().T.contiguous()
    found = plain_dual_vertices(flex.corner_sdf, positions, flex.alpha, flex.beta, flex.voxels, part)
    vertices = mesh.vertices.detach().index_copy(0, moves.nonzero().squeeze(1), found)
    quads = mesh.faces[:, 0].view(-1, 4)
    touched = moves[quads].any(dim=1).nonzero().squeeze(1)
    quads = quads[touched]
    return vertices.index_copy(0, touched + surface.n_dual, _centres(vertices, quads, flex.gamma[of_dual[quads]]))


def voxels_of_faces(flex: SparseFlex, mesh: Mesh) -> Int[Tensor, "F 4"]:
    """The rows of the four voxels that each face of `mesh`, which is extract_mesh(flex, training=True), depends on."""
    of_dual = _voxel_of_dual(_surface(flex.voxels, flex.corner_sdf.detach() < 0))
    return of_dual[mesh.faces[:, 0].view(-1, 4)].repeat_interleave(4, dim=0)
