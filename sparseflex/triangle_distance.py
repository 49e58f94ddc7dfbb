"""Exact distance of points to a triangle mesh, by a tree over the centroids of triangles of about one size."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparseflex.mesh import Mesh

# pieces that a coarse mesh is cut into, so that the tree has something to tell apart
_LEAST_PIECES = 20_000
# no more splitting beyond this: slivers could ask for any number (costs speed, not exactness)
_MOST_PIECES_EACH, _MOST_PIECES = 4, 400_000
_FIRST_NEIGHBOURS = 6
_PAIRS_AT_ONCE = 1_000_000

Points = Float[Tensor, "n 3"]


def _dot(a: Points, b: Points) -> Float[Tensor, "n"]:
    return (a * b).sum(dim=1)


def _to_segment(point: Points, start: Points, end: Points) -> Float[Tensor, "n"]:
    """Squared distance of each point to its segment."""
    along, offset = end - start, point - start
    share = (_dot(offset, along) / _dot(along, along).clamp(min=1e-300)).clamp_(0, 1)
    return (offset - share[:, None] * along).square().sum(dim=1)


def squared_distance(point: Points, a: Points, b: Points, c: Points) -> Float[Tensor, "n"]:
    """Squared distance of each point to its triangle a, b, c; a triangle without area counts as its edges."""
    edges = torch.minimum(torch.minimum(_to_segment(point, a, b), _to_segment(point, b, c)), _to_segment(point, c, a))
    normal = torch.linalg.cross(b - a, c - a)
    length = _dot(normal, normal)
    # the foot of the perpendicular is inside where it lies left of all three edges
    inside = length > 0
    for start, end in ((a, b), (b, c), (c, a)):
        inside &= _dot(torch.linalg.cross(end - start, point - start), normal) >= 0
    plane = _dot(point - a, normal).square() / length.clamp(min=1e-300)
    return torch.where(inside, torch.minimum(plane, edges), edges)


def _pieces(triangles: Float[Tensor, "F 3 3"]) -> Float[Tensor, "T 3 3"]:
    """The triangles, large ones halved at their longest edge until they are about as small as the others."""
    sides = triangles[:, 1:] - triangles[:, :1]
    area = float(torch.linalg.cross(sides[:, 0], sides[:, 1]).norm(dim=1).sum()) / 2
    largest = 3.6 * (area / max(triangles.shape[0], _LEAST_PIECES)) ** 0.5
    most = _MOST_PIECES_EACH * triangles.shape[0] + _MOST_PIECES
    done, rest = [], triangles
    while rest.shape[0] and largest > 0 and sum(part.shape[0] for part in done) + 2 * rest.shape[0] <= most:
        edges = (rest.roll(-1, dims=1) - rest).norm(dim=2)
        longest = edges.argmax(dim=1)
        small = edges.amax(dim=1) <= largest
        done.append(rest[small])
        rest, longest = rest[~small], longest[~small]
        # the longest edge goes from corner k to k + 1; the corner opposite is k + 2
        row = torch.arange(rest.shape[0])
        start, end, apex = (rest[row, (longest + step) % 3] for step in range(3))
        middle = (start + end) / 2
        rest = torch.cat([torch.stack([start, middle, apex], dim=1), torch.stack([middle, end, apex], dim=1)])
    return torch.cat([*done, rest])


class TriangleTree:
    """A mesh prepared for exact distance queries; what point_to_triangle_distance builds and throws away.

    Triangles with a corner that isn't finite are no surface.
    """

    def __init__(self, mesh: Mesh) -> None:
        from scipy.spatial import cKDTree

        triangles = mesh.vertices.detach().to("cpu", torch.float64)[mesh.faces.cpu()]
        self._corners = _pieces(triangles[triangles.isfinite().flatten(1).all(dim=1)])
        centroids = self._corners.mean(dim=1)
        self._radius = (self._corners - centroids[:, None]).norm(dim=2).amax(dim=1)
        self._tree = cKDTree(centroids.numpy()) if centroids.shape[0] else None

    def distance(self, points: Points) -> Float[Tensor, "n"]:
        """Distance of each point to the surface, float64 on the CPU; inf for a mesh without faces."""
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points must have shape (n, 3), got {tuple(points.shape)}")
        queries = points.detach().to("cpu", torch.float64)
        best = torch.full((queries.shape[0],), torch.inf, dtype=torch.float64)
        if self._tree is None or queries.shape[0] == 0:
            return best
        n_pieces, reach = self._corners.shape[0], float(self._radius.amax())
        open_rows, neighbours, seen = torch.arange(queries.shape[0]), min(_FIRST_NEIGHBOURS, n_pieces), 0
        while open_rows.shape[0]:
            unsettled = []
            for rows in open_rows.split(max(_PAIRS_AT_ONCE // neighbours, 1)):
                to_centroid = self._try(queries, best, rows, neighbours, seen)
                # all other pieces have their centroid at least this far away
                unsettled.append(rows[to_centroid - reach < best[rows]])
            open_rows = torch.cat(unsettled) if neighbours < n_pieces else open_rows[:0]
            seen, neighbours = neighbours, min(4 * neighbours, n_pieces)
        return best

    def _try(self, queries: Points, best: Float[Tensor, "n"], rows: Int[Tensor, "m"], k: int, seen: int) -> Tensor:
        """Lowers best by the k pieces whose centroids are nearest; returns the distance to the last centroid.

        seen: so many of them have been tried before.
        """
        distance, piece = self._tree.query(queries[rows].numpy(), k=range(seen + 1, k + 1))
        distance, piece = torch.from_numpy(distance), torch.from_numpy(piece)
        pair_row, pair_column = (distance - self._radius[piece] < best[rows, None]).nonzero(as_tuple=True)
        corners = self._corners[piece[pair_row, pair_column]]
        found = squared_distance(queries[rows[pair_row]], *corners.unbind(dim=1)).sqrt_()
        best.scatter_reduce_(0, rows[pair_row], found, reduce="amin")
        return distance[:, -1]


def point_to_triangle_distance(points: Points, mesh: Mesh) -> Float[Tensor, "n"]:
    """Exact distance of each point to the surface of a mesh, float64 on the CPU; inf for a mesh without faces.

    Candidates come from a tree over centroids and are tried until no other triangle can be nearer.
    """
    return TriangleTree(mesh).distance(points)
