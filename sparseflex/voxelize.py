"""Which voxels a mesh touches: a closed triangle-box test by separating axes, in float64."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_SPLIT_VOXELS = 6.0  # longer triangles are halved first, so that few candidate boxes are empty
_CANDIDATES_AT_ONCE = 2_000_000


def touched_voxels(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], resolution: int, margin: float
) -> Int[Tensor, "M 3"]:
    """(M, 3) int32, rows may repeat: voxels whose closed box, grown by margin voxel widths, touches a triangle.

    Vertices are in world space. Axes tested: the box's three, the triangle's normal, and their nine edge products.
    """
    triangles = _split_long(((vertices.double() + 0.5) * resolution)[faces], -margin, resolution + margin)
    low = (triangles.amin(dim=1) - margin).ceil().long() - 1
    high = (triangles.amax(dim=1) + margin).floor().long()
    low, high = low.clamp(0), high.clamp(max=resolution - 1)
    counts = (high - low + 1).clamp(min=0)
    totals = counts.prod(dim=1)
    found = [torch.zeros(0, 3, dtype=torch.int32, device=vertices.device)]
    start, ends = 0, totals.cumsum(0)
    while start < len(totals):
        budget = _CANDIDATES_AT_ONCE + (int(ends[start - 1]) if start else 0)
        stop = max(start + 1, int(torch.searchsorted(ends, budget, right=True)))
        part = slice(start, stop)
        triangle = torch.repeat_interleave(totals[part])
        first = ends[part] - totals[part] - (int(ends[start - 1]) if start else 0)
        place = torch.arange(len(triangle), device=triangle.device) - first[triangle]
        _, ny, nz = counts[part][triangle].unbind(1)
        steps = torch.stack([place // (ny * nz), place // nz % ny, place % nz], dim=1)
        ijk = low[part][triangle] + steps
        hit = _touches(triangles[part][triangle] - (ijk + 0.5)[:, None], 0.5 + margin)
        found.append(ijk[hit].int())
        start = stop
    return torch.cat(found)


def _split_long(triangles: Float[Tensor, "F 3 3"], low: float, high: float) -> Float[Tensor, "G 3 3"]:
    """Halves triangles at the middle of their longest side until every one spans a few voxels only; those that lie
    outside [low, high]³ are left out."""
    done = []
    while len(triangles):
        triangles = triangles[((triangles.amax(dim=1) >= low) & (triangles.amin(dim=1) <= high)).all(dim=1)]
        sides = triangles.roll(-1, dims=1) - triangles
        longest = sides.abs().amax(dim=2).argmax(dim=1)
        long = sides.abs().amax(dim=(1, 2)) > _SPLIT_VOXELS
        done.append(triangles[~long])
        rows = torch.arange(int(long.sum()), device=triangles.device)
        turn = longest[long]
        a, b, c = (triangles[long][rows, (turn + k) % 3] for k in range(3))
        middle = (a + b) / 2
        triangles = torch.cat([torch.stack([a, middle, c], dim=1), torch.stack([middle, b, c], dim=1)])
    return torch.cat(done) if done else triangles


def _touches(triangle: Float[Tensor, "n 3 3"], half: float) -> Bool[Tensor, "n"]:
    """Whether each triangle touches the closed box [-half, half]³."""
    a, b, c = triangle.unbind(1)
    hit = ((triangle.amin(dim=1) <= half) & (triangle.amax(dim=1) >= -half)).all(dim=1)
    normal = torch.linalg.cross(b - a, c - a)
    along = (triangle * normal[:, None]).sum(2)  # all three: a sliver's normal is rounding, any direction
    reach = half * normal.abs().sum(1)
    hit &= (along.amin(1) <= reach) & (along.amax(1) >= -reach)
    for start, end, other in ((a, b, c), (b, c, a), (c, a, b)):
        edge = end - start
        for axis in range(3):
            u, v = (axis + 1) % 3, (axis + 2) % 3  # cross(edge, e_axis) has no component along the axis
            p = start[:, u] * edge[:, v] - start[:, v] * edge[:, u]
            q = other[:, u] * edge[:, v] - other[:, v] * edge[:, u]
            reach = half * (edge[:, u].abs() + edge[:, v].abs())
            hit &= (torch.minimum(p, q) <= reach) & (torch.maximum(p, q) >= -reach)
    return hit
