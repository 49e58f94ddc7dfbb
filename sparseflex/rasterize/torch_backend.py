"""The torch backend: spans in float64, a z-buffer by scatter; the same code on the CPU and on CUDA."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from sparseflex.rasterize.clip import ScreenTriangles, clip_straddling
from sparseflex.rasterize.screen import ScreenMesh

MAX_EXPANDED = 4_000_000  # entries of one expansion; more goes in chunks, which bounds the memory to some 400 MB
_EMPTY = torch.iinfo(torch.int64).max
_FACE_BITS = 32
_FACE_MASK = (1 << _FACE_BITS) - 1


def rasterize_torch(screen: ScreenMesh) -> Int[Tensor, "H W"]:
    """The face nearest to the camera at each pixel centre between near and far, -1 where there is none.

    Watertight: a row's crossing of an edge is computed from the edge alone, with its upper end first, so two
    faces that share the edge agree on it bit for bit, and rows and columns are half-open intervals. Depth order is
    that of float32; ties go to the lower face index.
    """
    height, width = screen.height, screen.width
    nearest = torch.full((height * width,), _EMPTY, dtype=torch.int64, device=screen.faces.device)
    if screen.n_faces:
        _fill(nearest, _visible_triangles(screen), screen)
        if screen.straddling.numel():
            _fill(nearest, _on_screen(clip_straddling(screen), screen), screen)
    return torch.where(nearest == _EMPTY, -1, nearest & _FACE_MASK).view(height, width)


def _first_at_or_after(position: Tensor, limit: int) -> Tensor:
    """Index of the first pixel centre (k + ½) at or after a position, within [0, limit], as a float."""
    return (position - 0.5).ceil_().clamp_(0, limit)


def _holds_a_centre(x: Tensor, y: Tensor, screen: ScreenMesh) -> Tensor:
    """Triangles whose bounding box holds a pixel centre of the image; NaN counts as none."""
    left, right = torch.minimum(torch.minimum(x[0], x[1]), x[2]), torch.maximum(torch.maximum(x[0], x[1]), x[2])
    top, bottom = torch.minimum(torch.minimum(y[0], y[1]), y[2]), torch.maximum(torch.maximum(y[0], y[1]), y[2])
    columns = _first_at_or_after(right, screen.width) > _first_at_or_after(left, screen.width)
    return columns & (_first_at_or_after(bottom, screen.height) > _first_at_or_after(top, screen.height))


def _visible_triangles(screen: ScreenMesh) -> ScreenTriangles:
    """The faces wholly in front of the near plane that can cover a pixel centre."""
    keep = _holds_a_centre(screen.corner_x, screen.corner_y, screen)
    if screen.any_behind:
        keep &= screen.n_corners_behind == 0
    face = keep.nonzero()[:, 0]
    corner = screen.corners.index_select(1, face).reshape(-1)
    x, y = (values.index_select(0, corner).view(3, -1) for values in screen.pixels)
    inverse_depth = screen.depth.index_select(0, corner).view(3, -1).reciprocal_()
    return ScreenTriangles(x, y, inverse_depth, face)


def _on_screen(triangles: ScreenTriangles, screen: ScreenMesh) -> ScreenTriangles:
    keep = _holds_a_centre(triangles.x, triangles.y, screen).nonzero()[:, 0]
    x, y, inverse_depth = (
        value.index_select(1, keep) for value in (triangles.x, triangles.y, triangles.inverse_depth)
    )
    return ScreenTriangles(x, y, inverse_depth, triangles.face[keep])


def _sorted_by_row(triangles: ScreenTriangles) -> tuple[list[Tensor], list[Tensor]]:
    """The corners' columns and rows with rows ascending."""
    x, y = list(triangles.x), list(triangles.y)
    for i, j in ((0, 1), (1, 2), (0, 1)):
        swap = y[i] > y[j]
        x[i], x[j] = torch.where(swap, x[j], x[i]), torch.where(swap, x[i], x[j])
        y[i], y[j] = torch.minimum(y[i], y[j]), torch.maximum(y[i], y[j])
    return x, y


def _line(x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Column at the edge's first row centre and columns a row, (x0, y0) being its upper end; exact at that end."""
    slope = (x1 - x0) / (y1 - y0)
    return (first + 0.5 - y0).mul_(slope).add_(x0), slope


def _depth_plane(triangles: ScreenTriangles) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, c) with 1/depth = a · column + b · row + c; constant over triangles too thin to have a slope."""
    x, y, w = triangles.x, triangles.y, triangles.inverse_depth
    dx1, dy1, dx2, dy2 = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
    dw1, dw2 = w[1] - w[0], w[2] - w[0]
    double_area = dx1 * dy2 - dx2 * dy1
    scale = torch.where(double_area.abs() > 1e-9, 1 / double_area, 0.0)
    a, b = (dw1 * dy2 - dw2 * dy1) * scale, (dw2 * dx1 - dw1 * dx2) * scale
    return a, b, w[0] - a * x[0] - b * y[0]


def _chunks(counts: Tensor, total: int) -> list[tuple[int, int]]:
    """Ranges of rows whose counts add up to about MAX_EXPANDED at most."""
    if total <= MAX_EXPANDED:
        return [(0, counts.shape[0])]
    goals = torch.arange(0, total, MAX_EXPANDED, device=counts.device)
    starts = torch.searchsorted(counts.cumsum(0), goals, right=True).unique().tolist()
    return list(zip(starts, [*starts[1:], counts.shape[0]], strict=True))


def _fill(nearest: Tensor, triangles: ScreenTriangles, screen: ScreenMesh) -> None:
    """Draws triangles into the buffer of (float32 depth bits << 32 | face), one entry a pixel."""
    if triangles.face.numel() == 0:
        return
    x, y = _sorted_by_row(triangles)
    first, middle, last = (_first_at_or_after(value, screen.height).to(torch.int64) for value in y)
    long_edge = _line(x[0], y[0], x[2], y[2], first)
    # edge 2t is the upper, 2t + 1 the lower of the two short ones
    upper, lower = _line(x[0], y[0], x[1], y[1], first), _line(x[1], y[1], x[2], y[2], middle)
    short_edge = [torch.stack(pair, dim=1).view(-1) for pair in zip(upper, lower, strict=True)]
    table = (long_edge, short_edge, _depth_plane(triangles), triangles.face)
    counts = last - first
    for start, stop in _chunks(counts, int(counts.sum())):
        _fill_rows(nearest, first, middle, counts, table, (start, stop), screen)


def _expand(first: Tensor, counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """(owner, value): counts[i] rows for each i, counting up from first[i]."""
    owner = torch.repeat_interleave(counts, output_size=total)
    offset = first - (counts.cumsum(0) - counts)
    value = torch.arange(total, device=counts.device).add_(offset.index_select(0, owner))
    return owner, value


def _fill_rows(nearest: Tensor, first: Tensor, middle: Tensor, counts: Tensor, table: tuple,
               chunk: tuple[int, int], screen: ScreenMesh) -> None:
    """Expands a range of triangles to (triangle, row) pairs, finds their spans, and draws them."""
    (long_x, long_slope), (short_x, short_slope), (a, b, c), face = table
    start, stop = chunk
    counts = counts[start:stop]
    owner, row = _expand(first[start:stop], counts, int(counts.sum()))
    if start:
        owner += start
    since_first = row - first.index_select(0, owner)
    since_middle = row - middle.index_select(0, owner)
    in_lower = since_middle >= 0
    short = owner * 2 + in_lower
    x0 = long_slope.index_select(0, owner).mul_(since_first).add_(long_x.index_select(0, owner))
    x1 = short_slope.index_select(0, short).mul_(torch.where(in_lower, since_middle, since_first))
    x1 += short_x.index_select(0, short)
    begin = _first_at_or_after(torch.minimum(x0, x1), screen.width).to(torch.int64)
    length = _first_at_or_after(torch.maximum(x0, x1), screen.width).to(torch.int64).sub_(begin)
    base = row * screen.width
    # 1/depth as a function of the pixel's flat index, one line a row
    pair_a = a.index_select(0, owner)
    at_zero = b.index_select(0, owner).mul_(row + 0.5).add_(c.index_select(0, owner))
    at_zero += pair_a * (0.5 - base)
    pair_face = face.index_select(0, owner)
    begin += base
    for low, high in _chunks(length, int(length.sum())):
        part = slice(low, high)
        _fill_pixels(nearest, begin[part], length[part], pair_a[part], at_zero[part], pair_face[part], screen)


def _fill_pixels(nearest: Tensor, begin: Tensor, length: Tensor, slope: Tensor, at_zero: Tensor, face: Tensor,
                 screen: ScreenMesh) -> None:
    """Expands spans to pixels and keeps the nearest face within the far plane at each."""
    owner, pixel = _expand(begin, length, int(length.sum()))
    depth = at_zero.index_select(0, owner).add_(slope.index_select(0, owner).mul_(pixel)).reciprocal_()
    # positive float32 numbers sort like their bits
    key = depth.to(torch.float32).view(torch.int32).to(torch.int64).bitwise_left_shift_(_FACE_BITS)
    key |= face.index_select(0, owner)
    if screen.any_beyond:
        key.masked_fill_(~(depth <= screen.far), _EMPTY)
    nearest.scatter_reduce_(0, pixel, key, "amin")
