"""Dual vertices from zero crossings, with a hand-written backward pass in bounded memory.

An entry is a pair of dual vertex and zero crossing; about 4.5 a surface voxel. Everything is computed entry by entry
on one-dimensional arrays, in chunks of voxels; the backward pass computes the entries again rather than keep them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparseflex.dmc_tables import case_tables, edge_tables
from sparseflex.voxels import SparseVoxels

CHUNK = 1 << 17
"""Surface voxels at a time: large enough that the count of tensor operations doesn't matter."""


class Surface(NamedTuple):
    """Voxels that the surface passes through: rows, case (+256 where inverted), number of their first dual vertex."""

    rows: Int[Tensor, "S"]
    case: Int[Tensor, "S"]
    first_dual: Int[Tensor, "S"]
    n_dual: int


def entries_of(surface: Surface, start: int) -> tuple[Int[Tensor, "E"], Int[Tensor, "E"], Int[Tensor, "E"]]:
    """Voxel row, edge and dual vertex of every entry of the CHUNK surface voxels from start on."""
    part = slice(start, start + CHUNK)
    tables = case_tables(surface.rows.device)
    case = surface.case[part]
    counts = tables.n_crossings[case]
    ends = counts.cumsum(0)
    local = torch.repeat_interleave(counts)
    flat = torch.arange(len(local), device=case.device) + (case * 12 - ends + counts)[local]
    dual = surface.first_dual[part][local] + tables.patch.view(-1)[flat]
    return surface.rows[part][local], tables.edge.view(-1)[flat], dual


class _Entries(NamedTuple):
    """What both passes need of a chunk's entries; a and b are the edge's first and second corner."""

    dual: Tensor
    a: Tensor
    b: Tensor
    alpha_a: Tensor  # flat places in alpha, and in beta
    alpha_b: Tensor
    beta: Tensor
    sdf_a: Tensor
    sdf_b: Tensor
    scaled_a: Tensor  # SDF times alpha
    scaled_b: Tensor
    t: Tensor  # crossing at a + t (b − a), with alpha
    t_plain: Tensor  # and without
    weight: Tensor  # beta
    x_a: list[Tensor]
    side: list[Tensor]  # b − a


def _entries(sdf: Tensor, positions: Tensor, alpha: Tensor, beta: Tensor, voxels: SparseVoxels, surface: Surface,
             start: int) -> _Entries:
    voxel, edge, dual = entries_of(surface, start)
    edges = edge_tables(voxels.device)
    first, second = edges.first[edge], edges.second[edge]
    corners = voxels.corners_by_slot.reshape(-1)
    a = corners[first * voxels.n_voxels + voxel].long()
    b = corners[second * voxels.n_voxels + voxel].long()
    alpha_a, alpha_b, at_beta = voxel * 8 + first, voxel * 8 + second, voxel * 12 + edge
    sdf_a, sdf_b = sdf[a], sdf[b]
    scaled_a, scaled_b = sdf_a * alpha[alpha_a], sdf_b * alpha[alpha_b]
    x_a = [axis[a] for axis in positions]
    side = [axis[b] - x for axis, x in zip(positions, x_a, strict=True)]
    t, t_plain = scaled_a / (scaled_a - scaled_b), sdf_a / (sdf_a - sdf_b)
    return _Entries(dual, a, b, alpha_a, alpha_b, at_beta, sdf_a, sdf_b, scaled_a, scaled_b, t, t_plain,
                    beta[at_beta], x_a, side)


class _Vertices(NamedTuple):
    """A chunk's dual vertices: first number, coordinates, sum of weights, crossings each; entries' distance to them."""

    first: int
    local: Tensor
    total: Tensor
    xyz: list[Tensor]
    n_crossings: Tensor
    offset: list[Tensor]  # plain crossing − dual vertex
    distance: Tensor
    deviation: Tensor  # distance − mean distance of the vertex


def _vertices(e: _Entries, first: int, count: int) -> _Vertices:
    local = e.dual - first

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(count).scatter_add_(0, local, values)

    total = summed(e.weight)
    xyz = [summed(e.weight * (x + e.t * d)) / total for x, d in zip(e.x_a, e.side, strict=True)]
    n_crossings = summed(torch.ones_like(e.weight))
    offset = [x + e.t_plain * d - v[local] for x, d, v in zip(e.x_a, e.side, xyz, strict=True)]
    distance = (offset[0].square() + offset[1].square() + offset[2].square()).sqrt_()
    deviation = distance - (summed(distance) / n_crossings)[local]
    return _Vertices(first, local, total, xyz, n_crossings, offset, distance, deviation)


class _DualVertices(torch.autograd.Function):
    """(sdf (C,), positions (3, C), alpha (8N,), beta (12N,)) → (vertices (D, 3), l_dev (E,))."""

    @staticmethod
    def forward(ctx, sdf, positions, alpha, beta, voxels, surface):
        ctx.save_for_backward(sdf, positions, alpha, beta)
        ctx.voxels, ctx.surface = voxels, surface
        vertices = sdf.new_empty(surface.n_dual, 3)
        deviations = [sdf.new_zeros(0)]
        for start, first, end in _chunks(surface):
            v = _vertices(_entries(sdf, positions, alpha, beta, voxels, surface, start), first, end - first)
            torch.stack(v.xyz, dim=1, out=vertices[first:end])
            deviations.append(v.deviation.abs())
        return vertices, torch.cat(deviations)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_vertices, grad_dev):
        sdf, positions, alpha, beta = ctx.saved_tensors
        grads = tuple(torch.zeros_like(x) for x in ctx.saved_tensors)
        done = 0
        for start, first, end in _chunks(ctx.surface):
            e = _entries(sdf, positions, alpha, beta, ctx.voxels, ctx.surface, start)
            v = _vertices(e, first, end - first)
            of_chunk = grad_dev[done : done + len(v.local)]
            _add_gradients(grads, e, v, grad_vertices[first:end], of_chunk, alpha)
            done += len(v.local)
        return *grads, None, None


def _chunks(surface: Surface) -> list[tuple[int, int, int]]:
    """First voxel, first dual vertex and end of the dual vertices of every chunk."""
    starts = list(range(0, len(surface.rows), CHUNK))
    firsts = [*surface.first_dual[::CHUNK].tolist(), surface.n_dual]
    return [(start, firsts[i], firsts[i + 1]) for i, start in enumerate(starts)]


def _add_gradients(grads: tuple[Tensor, ...], e: _Entries, v: _Vertices, grad_vertices: Tensor, grad_dev: Tensor,
                   alpha: Tensor) -> None:
    """Adds a chunk's share to the gradients of sdf, positions, alpha and beta."""
    grad_sdf, grad_positions, grad_alpha, grad_beta = grads
    count = len(v.total)

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(count).scatter_add_(0, v.local, values)

    # |deviation| → distance: the mean takes its share back
    grad_distance = torch.sign(v.deviation) * grad_dev
    grad_distance = grad_distance - (summed(grad_distance) / v.n_crossings)[v.local]
    pull = torch.where(v.distance > 0, grad_distance / v.distance, 0)
    grad_t, grad_t_plain = torch.zeros_like(e.t), torch.zeros_like(e.t)
    grad_weight = torch.zeros_like(e.t)
    for axis in range(3):
        grad_plain = pull * v.offset[axis]
        grad_vertex = (grad_vertices[:, axis] - summed(grad_plain)) / v.total
        to_entry = grad_vertex[v.local]
        # vertex = Σ weight·crossing / Σ weight
        grad_weight += to_entry * (e.x_a[axis] + e.t * e.side[axis] - v.xyz[axis][v.local])
        grad_crossing = to_entry * e.weight
        grad_t += grad_crossing * e.side[axis]
        grad_t_plain += grad_plain * e.side[axis]
        to_b = grad_crossing * e.t + grad_plain * e.t_plain
        grad_positions[axis].scatter_add_(0, e.b, to_b)
        grad_positions[axis].scatter_add_(0, e.a, grad_crossing + grad_plain - to_b)
    grad_beta[e.beta] = grad_weight  # each edge of a voxel belongs to one dual vertex only
    # t = a / (a − b)
    scale = grad_t / (e.scaled_a - e.scaled_b).square()
    grad_scaled_a, grad_scaled_b = -scale * e.scaled_b, scale * e.scaled_a
    plain = grad_t_plain / (e.sdf_a - e.sdf_b).square()
    grad_sdf.scatter_add_(0, e.a, grad_scaled_a * alpha[e.alpha_a] - plain * e.sdf_b)
    grad_sdf.scatter_add_(0, e.b, grad_scaled_b * alpha[e.alpha_b] + plain * e.sdf_a)
    grad_alpha.scatter_add_(0, e.alpha_a, grad_scaled_a * e.sdf_a)
    grad_alpha.scatter_add_(0, e.alpha_b, grad_scaled_b * e.sdf_b)


def dual_vertices(
    sdf: Float[Tensor, "C"], positions: Float[Tensor, "3 C"], alpha: Float[Tensor, "N 8"], beta: Float[Tensor, "N 12"],
    voxels: SparseVoxels, surface: Surface,
) -> tuple[Float[Tensor, "D 3"], Float[Tensor, "E"]]:
    """Dual vertices, each the beta-weighted mean of its patch's alpha-scaled zero crossings, and l_dev by entry."""
    return _DualVertices.apply(sdf, positions, alpha.reshape(-1), beta.reshape(-1), voxels, surface)


def plain_dual_vertices(
    sdf: Float[Tensor, "C"], positions: Float[Tensor, "3 C"], alpha: Float[Tensor, "N 8"], beta: Float[Tensor, "N 12"],
    voxels: SparseVoxels, surface: Surface,
) -> Float[Tensor, "D 3"]:
    """The same vertices by torch's own operations only, which forward-mode differentiation follows; for few voxels."""
    parts = [sdf.new_zeros(0, 3)]
    for start, first, end in _chunks(surface):
        entries = _entries(sdf, positions, alpha.reshape(-1), beta.reshape(-1), voxels, surface, start)
        parts.append(torch.stack(_vertices(entries, first, end - first).xyz, dim=1))
    return torch.cat(parts)
