"""Caps: a closed surface that a plane cuts open, closed again by the part of the plane inside of it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from workbench.slices import Plane
from workbench.snapshot import MeshArrays

_OVERLAP = 2e-6
"""By how much, in world units, neighbouring strips overlap: no gap may be seen between them."""

_FLAT = 1e-9


_MOST_HOLES = 0.02
"""Area of the holes, relative to the surface's, up to which it counts as closed: fits leave small ones, and slits where
they reach the border of the box."""


def closed(mesh: MeshArrays) -> MeshArrays | None:
    """The surface with its small holes closed by fans of triangles; None where it is an open one, with large holes.

    An edge is a hole's where it has more faces on its one side than on its other.
    """
    faces = mesh.faces.astype(np.int64)
    if len(faces) == 0:
        return None
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    n, up = len(mesh.vertices), start < end
    edge, place = np.unique(np.where(up, start * n + end, end * n + start), return_inverse=True)
    balance = np.bincount(place, np.where(up, 1, -1), minlength=len(edge)).astype(np.int64)
    loose = balance != 0
    if not loose.any():
        return mesh
    edge, balance = np.repeat(edge[loose], np.abs(balance[loose])), np.repeat(balance[loose], np.abs(balance[loose]))
    ends = np.stack([edge // n, edge % n], 1)
    ends[balance < 0] = ends[balance < 0, ::-1]  # as they run along their face
    graph = coo_matrix((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), (n, n))
    hole = np.unique(connected_components(graph, directed=False)[1][ends[:, 0]], return_inverse=True)[1]
    points = mesh.vertices.astype(np.float64)
    middles = np.stack([np.bincount(hole, points[ends[:, 0], axis]) for axis in range(3)], 1)
    middles /= np.bincount(hole)[:, None]
    # Stokes: the area vector of any surface that would close the hole
    parts = np.cross(points[ends[:, 0]] - middles[hole], points[ends[:, 1]] - middles[hole]) / 2
    areas = np.stack([np.bincount(hole, parts[:, axis]) for axis in range(3)], 1)
    corners = points[faces]
    whole = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    if not np.linalg.norm(areas, axis=1).sum() <= _MOST_HOLES * whole:
        return None
    fans = np.stack([ends[:, 1], ends[:, 0], n + hole], 1)
    return MeshArrays(np.concatenate([points, middles]), np.concatenate([faces, fans]))


def cap(mesh: MeshArrays, plane: Plane) -> MeshArrays | None:
    """The part of the plane inside the surface, as thin strips: where its winding number isn't 0, so that solids may
    overlap. None where the plane misses it, and where the surface is an open one: it then has no inside."""
    whole = closed(mesh)
    if whole is None:
        return None
    segments = _segments(whole, plane)
    if len(segments) == 0:
        return None
    quads = _strips(segments)
    if len(quads) == 0:
        return None
    u, v = plane.axes
    points = quads[..., :1] * u + quads[..., 1:] * v + plane.offset * np.array(plane.normal)
    first = np.arange(0, 4 * len(quads), 4)[:, None]
    faces = np.concatenate([first + (0, 1, 2), first + (0, 2, 3)])
    return MeshArrays(points.reshape(-1, 3).astype(np.float32), faces.astype(np.int32))


def _segments(mesh: MeshArrays, plane: Plane) -> Float[np.ndarray, "S 2 2"]:
    """Where the triangles meet the plane, in its own two coordinates, with the inside at the left; vertices on it count
    as above."""
    vertices = mesh.vertices.astype(np.float64)
    height = vertices @ np.array(plane.normal) - plane.offset
    faces = mesh.faces[np.isfinite(height[mesh.faces]).all(axis=1)]
    above = height[faces] >= 0
    faces, above = faces[above.any(1) & ~above.all(1)], above[above.any(1) & ~above.all(1)]
    # the corner that lies alone on its side, and the two others
    alone = np.where(above.sum(1) == 1, above.argmax(1), (~above).argmax(1))
    rows = np.arange(len(faces))
    flat = vertices @ plane.axes.T
    tip = faces[rows, alone]
    ends = []
    for step in (1, 2):
        other = faces[rows, (alone + step) % 3]
        # from the lower vertex index on, so that both faces of an edge give the same point
        a, b = np.minimum(tip, other), np.maximum(tip, other)
        share = (height[a] / (height[a] - height[b]))[:, None]
        ends.append(flat[a] + share * (flat[b] - flat[a]))
    tip_above = above[rows, alone]
    return np.where(tip_above[:, None, None], np.stack(ends, 1), np.stack(ends[::-1], 1))


def _strips(segments: Float[np.ndarray, "S 2 2"]) -> Float[np.ndarray, "Q 4 2"]:
    """The inside of closed outlines, cut into trapezoids between the heights of all their points.

    Within such a strip no segment ends, so that the winding number changes at its crossings only.
    """
    rises = segments[:, 0, 1] <= segments[:, 1, 1]
    lower = np.where(rises[:, None], segments[:, 0], segments[:, 1])
    upper = np.where(rises[:, None], segments[:, 1], segments[:, 0])
    levels = np.unique(segments[..., 1])
    levels = levels[np.concatenate([[True], np.diff(levels) > _FLAT])]
    first = np.searchsorted(levels, lower[:, 1] - _FLAT)
    last = np.searchsorted(levels, upper[:, 1] - _FLAT)
    count = np.maximum(last - first, 0)
    # a row for each pair of segment and strip that it crosses
    segment = np.repeat(np.arange(len(segments)), count)
    strip = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    bottom, top = levels[strip], levels[np.minimum(strip + 1, len(levels) - 1)]
    slope = (upper - lower)[segment, 0] / np.maximum((upper - lower)[segment, 1], _FLAT)
    at_bottom, at_top = (lower[segment, 0] + slope * (level - lower[segment, 1]) for level in (bottom, top))
    order = np.lexsort((at_bottom + at_top, strip))
    strip, bottom, top, at_bottom, at_top = (part[order] for part in (strip, bottom, top, at_bottom, at_top))
    if len(strip) == 0:
        return np.zeros((0, 4, 2))
    turns = np.cumsum(np.where(rises[segment[order]], -1, 1))
    before = np.searchsorted(strip, strip)  # the first crossing of the same strip
    winding = turns - np.where(before > 0, turns[np.maximum(before - 1, 0)], 0)
    left = np.flatnonzero((winding[:-1] != 0) & (strip[1:] == strip[:-1]))
    right = left + 1
    low, high = bottom[left] - _OVERLAP, top[left] + _OVERLAP
    corners = [(at_bottom[left], low), (at_bottom[right], low), (at_top[right], high), (at_top[left], high)]
    return np.stack([np.stack(corner, 1) for corner in corners], 1)
