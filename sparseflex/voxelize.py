"""Which voxels a mesh touches: a closed triangle-box test by separating axes, in float64."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_SPLIT_VOXELS = 4.0  # longer triangles are halved first, so that few candidate boxes are empty
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
        place = torch.arange(len(triangle), device=triangle.device) - first.index_select(0, triangle)
        ny, nz = (counts[part, axis].index_select(0, triangle) for axis in (1, 2))
        row = place // nz
        x = row // ny
        steps = (x, row - x * ny, place - row * nz)
        ijk = [low[part, axis].index_select(0, triangle) + steps[axis] for axis in range(3)]
        corners = [[triangles[part, k, axis].index_select(0, triangle) - (ijk[axis] + 0.5) for axis in range(3)]
                   for k in range(3)]
        hit = _touches(corners, 0.5 + margin)
        found.append(torch.stack([axis[hit] for axis in ijk], dim=1).int())
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


def _touches(corners: list[list[Float[Tensor, "n"]]], half: float) -> Bool[Tensor, "n"]:
    """Whether each triangle touches the closed box [-half, half]³; corners: x, y and z of each of the three.

    Those that the box's axes and the normal part from it, most of them, are left out before the nine edge products.
    """
    hit = torch.ones_like(corners[0][0], dtype=torch.bool)
    for axis in range(3):
        hit &= _reaches([corner[axis] for corner in corners], half)
    a, b, c = corners
    normal = [(b[u] - a[u]) * (c[v] - a[v]) - (b[v] - a[v]) * (c[u] - a[u]) for u, v in ((1, 2), (2, 0), (0, 1))]
    # all three corners: a sliver's normal is rounding, any direction
    along = [sum(n * x for n, x in zip(normal, corner, strict=True)) for corner in corners]
    hit &= _reaches(along, half * sum(n.abs() for n in normal))
    rows = hit.nonzero().squeeze(1)
    a, b, c = ([axis.index_select(0, rows) for axis in corner] for corner in corners)
    close = torch.ones_like(rows, dtype=torch.bool)
    for start, end, other in ((a, b, c), (b, c, a), (c, a, b)):
        edge = [e - s for s, e in zip(start, end, strict=True)]
        for u, v in ((1, 2), (2, 0), (0, 1)):  # cross(edge, e_axis) has no component along the axis
            p = start[u] * edge[v] - start[v] * edge[u]
            q = other[u] * edge[v] - other[v] * edge[u]
            close &= _reaches([p, q], half * (edge[u].abs() + edge[v].abs()))
    hit[rows] = close
    return hit


def _reaches(places: list[Float[Tensor, "n"]], reach: Float[Tensor, "n"] | float) -> Bool[Tensor, "n"]:
    """Whether the interval that the places span meets [-reach, reach]."""
    low, high = places[0], places[0]
    for place in places[1:]:
        low, high = torch.minimum(low, place), torch.maximum(high, place)
    return (low <= reach) & (high >= -reach)
