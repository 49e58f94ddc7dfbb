"""Silhouette antialiasing: turns a mask of pixel centres into coverage that is differentiable at the outline.

The mask is the union of the faces' projections, so its outline is made of contour edges: edges with all their faces
on one side of them on the screen. Those are the edges between a front and a back face, the boundary edges of open
surfaces, and the rims that the near and far planes cut. An edge is scanned along rows if it is steep and along
columns otherwise; where it passes between two neighbouring pixels of which one is hit and the other is not, it is the
outline, and its position sets how much of the pair is covered. Of several such edges in one pair the outermost counts.
No depth is compared: an edge behind another surface has hits or misses on both sides, and so does nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.rasterize.screen import ScreenMesh

_NO_PLANE = float("nan")
_POSITION_SCALE = float(1 << 30)


@dataclasses.dataclass(frozen=True)
class Segments:
    """Straight pieces of outline, directed so that on the screen the surface lies towards (−Δrow, Δcolumn).

    Each end lies on the line from vertex `start` to vertex `end`: at start itself where `plane` is NaN, else where that
    line has the camera depth `plane`. start, end: (2, S) int64; plane: (2, S) float64.
    """

    start: Int[Tensor, "2 S"]
    end: Int[Tensor, "2 S"]
    plane: Float[Tensor, "2 S"]

    def select(self, rows: Tensor) -> Segments:
        return Segments(*(value.index_select(1, rows) for value in (self.start, self.end, self.plane)))

    def flip(self, flipped: Bool[Tensor, "S"]) -> Segments:
        """Turns the marked segments round."""
        return Segments(*(torch.where(flipped, value.flip(0), value) for value in (self.start, self.end, self.plane)))


def concatenate(segments: list[Segments]) -> Segments:
    return Segments(*(torch.cat([getattr(s, name) for s in segments], dim=1) for name in ("start", "end", "plane")))


def segment_ends(points: Callable[[Tensor], Tensor], segments: Segments) -> Float[Tensor, "3 2 S"]:
    """Homogeneous pixel coordinates of the ends; `points` gives those of vertices, (…) int64 → (3, …)."""
    start = points(segments.start)
    on_plane = ~segments.plane.isnan()
    if not bool(on_plane.any()):
        return start
    along = points(segments.end) - start
    # a safe denominator where it is not used, for its gradient would be NaN
    rise = torch.where(on_plane, along[2], 1.0)
    fraction = torch.where(on_plane, (segments.plane.nan_to_num() - start[2]) / rise, 0.0)
    return start + fraction * along


def _hashes(n: int, device: torch.device) -> Int[Tensor, "n"]:
    """Odd-looking int64 numbers, one a vertex, whose small signed sums don't cancel by chance."""
    value = torch.arange(1, n + 1, device=device) * -7046029254386353131
    value ^= value >> 29
    value *= -4658895280553007687
    return value ^ (value >> 32)


def contour_edges(screen: ScreenMesh) -> tuple[Int[Tensor, "E"], Int[Tensor, "E"]]:
    """(start, end) vertices of the edges whose faces lie all on one side of them on the screen.

    The faces are on the positive side of start → end, where det(end − start, face − start) > 0 in (column, row).
    Half-edges of opposite sides cancel in a hash sum at the edge's lower vertex; only edges of vertices where something
    is left over are sorted. So no adjacency has to be kept for a mesh that changes in every iteration.
    """
    corners = screen.corners
    after = corners[[1, 2, 0]]
    low, high = torch.minimum(corners, after).view(-1), torch.maximum(corners, after).view(-1)
    positive = ((corners < after) == screen.clockwise).view(-1)
    hashes = _hashes(screen.depth.shape[0], corners.device).index_select(0, high)
    left_over = torch.zeros_like(screen.depth, dtype=torch.int64)
    left_over.scatter_add_(0, low, torch.where(positive, hashes, -hashes))
    candidates = (left_over != 0).index_select(0, low).nonzero()[:, 0]
    n_vertices = screen.depth.shape[0]
    keys = low.index_select(0, candidates) * n_vertices + high.index_select(0, candidates)
    keys, edge, n_faces = torch.unique(keys, return_inverse=True, return_counts=True)
    n_positive = torch.zeros_like(n_faces)
    n_positive.scatter_add_(0, edge, positive.index_select(0, candidates).to(torch.int64))
    one_sided = (n_positive == 0) | (n_positive == n_faces)
    keys, side = keys[one_sided], n_positive[one_sided] > 0
    low = torch.div(keys, n_vertices, rounding_mode="floor")
    high = keys - low * n_vertices
    return torch.where(side, low, high), torch.where(side, high, low)


def _clip_edges(screen: ScreenMesh, start: Tensor, end: Tensor) -> Segments:
    """Contour edges as segments between the near and far planes."""
    pair = torch.stack([start, end])
    depth = screen.depth[pair]
    too_near, too_far = depth < screen.near, depth > screen.far
    inside = ~(too_near.all(0) | too_far.all(0))
    pair, too_near, too_far = pair[:, inside], too_near[:, inside], too_far[:, inside]
    plane = torch.full(pair.shape, _NO_PLANE, dtype=torch.float64, device=pair.device)
    plane = plane.masked_fill_(too_near, screen.near).masked_fill_(too_far, screen.far)
    return Segments(pair, pair.flip(0), plane)


def _rim(screen: ScreenMesh, plane: float, keep_deeper: bool) -> Segments:
    """The segments along which a plane of constant depth cuts the faces, with what is kept on the positive side."""
    kept = (screen.depth >= plane) if keep_deeper else (screen.depth <= plane)
    n_kept = kept.to(torch.int8).index_select(0, screen.corners.view(-1)).view(3, -1).sum(0, dtype=torch.int8)
    face = ((n_kept > 0) & (n_kept < 3)).nonzero()[:, 0]
    corners = screen.corners[:, face]
    kept = kept[corners]
    alone_kept = kept.sum(0) == 1
    alone = torch.where(alone_kept, kept, ~kept).to(torch.int8).argmax(0)
    order = (torch.arange(3, device=face.device)[:, None] + alone) % 3
    apex, second, third = corners.gather(0, order)
    planes = torch.full((2, face.numel()), plane, dtype=torch.float64, device=face.device)
    segments = Segments(torch.stack([apex, apex]), torch.stack([second, third]), planes)
    ends = segment_ends(screen.points, segments)
    reference = screen.points(torch.where(alone_kept, apex, second))
    return segments.flip((torch.linalg.cross(ends[:, 0], ends[:, 1], dim=0) * reference).sum(0) < 0)


def outline_segments(screen: ScreenMesh) -> Segments:
    """All segments that can bound the projection of what lies between the near and far planes."""
    start, end = contour_edges(screen)
    if not (screen.any_behind or screen.any_beyond):
        pair = torch.stack([start, end])
        return Segments(pair, pair.flip(0), torch.full_like(pair, _NO_PLANE, dtype=torch.float64))
    parts = [_clip_edges(screen, start, end)]
    if screen.any_behind:
        parts.append(_rim(screen, screen.near, keep_deeper=True))
    if screen.any_beyond:
        parts.append(_rim(screen, screen.far, keep_deeper=False))
    return concatenate(parts)


@dataclasses.dataclass(frozen=True)
class Crossings:
    """Where segments pass between two neighbouring pixels, one covered and one not.

    segment: (X,) row of the segments. steep: (X,) scanned along a row, else along a column. line: (X,) that row's or
    column's index; inner, outer: (X,) flat indices of the covered and the free pixel.
    """

    segment: Int[Tensor, "X"]
    steep: Bool[Tensor, "X"]
    line: Int[Tensor, "X"]
    inner: Int[Tensor, "X"]
    outer: Int[Tensor, "X"]


def _reach(ends: Float[Tensor, "3 2 X"], steep: Tensor, line: Tensor, inner: Tensor, outer: Tensor,
           width: int) -> Float[Tensor, "X"]:
    """How far from the inner pixel's centre towards the outer one's the segments pass, in pixels."""
    column, row = ends[0] / ends[2], ends[1] / ends[2]
    along, across = torch.where(steep, row, column), torch.where(steep, column, row)
    slope = (across[1] - across[0]) / (along[1] - along[0])
    position = across[0] + (line + 0.5 - along[0]) * slope
    centre = torch.where(steep, inner % width, inner // width) + 0.5
    return torch.where(outer > inner, position - centre, centre - position)


def find_crossings(screen: ScreenMesh, segments: Segments, hit: Bool[Tensor, "P"]) -> Crossings:
    """The outermost crossing in each pair of neighbouring pixels of which one is hit and one is not."""
    ends = segment_ends(screen.points, segments)
    column, row = ends[0] / ends[2], ends[1] / ends[2]
    steep = (row[1] - row[0]).abs() >= (column[1] - column[0]).abs()
    along, across = torch.where(steep, row, column), torch.where(steep, column, row)
    limit = torch.where(steep, screen.height, screen.width)
    first = torch.minimum((along.amin(0) - 0.5).ceil().clamp_(min=0), limit).to(torch.int64)
    counts = torch.minimum((along.amax(0) - 0.5).ceil().clamp_(min=0), limit).to(torch.int64).sub_(first)
    segment = torch.repeat_interleave(counts)
    line = torch.arange(segment.numel(), device=hit.device)
    line += (first - (counts.cumsum(0) - counts)).index_select(0, segment)
    slope = (across[1] - across[0]) / (along[1] - along[0])
    at_zero = across[0] + (0.5 - along[0]) * slope
    position = at_zero.index_select(0, segment) + line * slope.index_select(0, segment)
    # the pair is (lower, lower + 1) across the segment; down a row and back along a column have the surface below
    steep_x = steep.index_select(0, segment)
    size = torch.where(steep_x, screen.width, screen.height)
    lower = (position - 0.5).floor()
    seen = (lower >= 0) & (lower + 1 < size)
    surface_below = torch.where(steep, row[1] > row[0], column[1] < column[0]).index_select(0, segment)
    lower = lower.masked_fill_(~seen, 0).to(torch.int64)
    lower_pixel = torch.where(steep_x, line * screen.width + lower, lower * screen.width + line)
    upper_pixel = lower_pixel + torch.where(steep_x, 1, screen.width)
    inner = torch.where(surface_below, lower_pixel, upper_pixel)
    outer = torch.where(surface_below, upper_pixel, lower_pixel)
    last = hit.numel() - 1
    seen &= hit.index_select(0, inner.clamp_max(last)) & ~hit.index_select(0, outer.clamp_max(last))
    return _outermost(Crossings(segment, steep_x, line, inner, outer), seen, ends, screen.width)


def _outermost(crossings: Crossings, seen: Tensor, ends: Tensor, width: int) -> Crossings:
    """Of the marked crossings, the one of each pair of pixels that lies farthest out."""
    marked = seen.nonzero()[:, 0]
    segment, steep, line, inner, outer = (
        getattr(crossings, field.name).index_select(0, marked) for field in dataclasses.fields(crossings)
    )
    reach = _reach(ends.index_select(2, segment), steep, line, inner, outer, width)
    rank = (reach.clamp(0, 1) * _POSITION_SCALE).to(torch.int64) << 32
    rank |= torch.arange(marked.numel(), device=marked.device)
    # a pair of pixels is named by its lower pixel and its direction
    pair = torch.minimum(inner, outer) * 2 + steep.to(torch.int64)
    _, slot = torch.unique(pair, return_inverse=True)
    best = torch.full((marked.numel(),), -1, dtype=torch.int64, device=marked.device)
    best.scatter_reduce_(0, slot, rank, "amax")
    chosen = best[best >= 0] & ((1 << 32) - 1)
    return Crossings(segment[chosen], steep[chosen], line[chosen], inner[chosen], outer[chosen])


def antialias(vertices: Float[Tensor, "V 3"], screen: ScreenMesh, hit: Bool[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Coverage in [0, 1], differentiable with respect to the vertices (world space) that screen was projected from.

    hit: pixels whose centre sees a face. A pixel changes only where a neighbour in its row or column differs.
    """
    mask = hit.to(vertices.dtype).view(-1)
    if screen.n_faces == 0:
        return mask.view_as(hit) + vertices[:0].sum()  # zeros that take part in autograd
    segments = outline_segments(screen)
    found = find_crossings(screen, segments, hit.view(-1))

    def points(index: Tensor) -> Tensor:
        rows = vertices.index_select(0, index.reshape(-1)).to(torch.float64)
        return (rows @ matrix[:, :3].T + matrix[:, 3]).T.view(3, *index.shape)

    matrix = screen.pixel_from_world
    ends = segment_ends(points, segments.select(found.segment))
    reach = _reach(ends, found.steep, found.line, found.inner, found.outer, screen.width).to(vertices.dtype)
    # the covered pixel ends half a pixel beyond its centre, where the free one begins
    lost = (reach - 0.5).clamp_max(0)
    gained = reach - 0.5 - lost  # not a second clamp: exactly halfway both would pass the gradient on
    return mask.index_add(0, found.inner, lost).index_add(0, found.outer, gained).clamp(0, 1).view_as(hit)
