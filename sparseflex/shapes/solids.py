"""Building blocks of the shapes: frames, lathes, sheets and boxes with openings, as (vertices, triangles) in numpy.

All closed pieces are wound counter-clockwise seen from outside and share their vertices, so that each edge has exactly
two triangles that traverse it in opposite directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Piece = tuple[np.ndarray, np.ndarray]
"""Vertices (V, 3) float64 and triangles (F, 3) int64."""


def join(pieces: Sequence[Piece]) -> Piece:
    """One piece of several, without welding them."""
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in pieces])[:-1]
    vertices = np.concatenate([vertices for vertices, _ in pieces])
    return vertices, np.concatenate([faces + start for (_, faces), start in zip(pieces, starts, strict=True)])


def turned_over(piece: Piece) -> Piece:
    """The same surface seen from its other side, such as the inner wall of a shell."""
    return piece[0], piece[1][:, ::-1].copy()


def triangles_of(quads: np.ndarray) -> np.ndarray:
    """Quads (Q, 4) cut along the diagonal 0–2, (2Q, 3)."""
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def convex_faces(vertices: np.ndarray, normals: np.ndarray) -> list[np.ndarray]:
    """The face of a convex polyhedron in each direction: its vertices, counter-clockwise seen from outside."""
    faces = []
    for normal in normals / np.linalg.norm(normals, axis=1, keepdims=True):
        reach = vertices @ normal
        rows = np.flatnonzero(reach > reach.max() - 1e-6)
        spokes = vertices[rows] - vertices[rows].mean(0)
        side = np.cross(normal, spokes[0])
        faces.append(rows[np.argsort(np.arctan2(spokes @ side, spokes @ spokes[0]))])
    return faces


def icosidodecahedron() -> tuple[np.ndarray, list[np.ndarray]]:
    """30 vertices on the unit sphere; 12 pentagons and 20 triangles."""
    g = (1 + 5**0.5) / 2
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    cycles = ([0, 1, 2], [1, 2, 0], [2, 0, 1])

    def rolled(rows: np.ndarray) -> np.ndarray:
        return np.unique(np.round(np.concatenate([rows[:, cycle] for cycle in cycles]), 12), axis=0)

    vertices = np.concatenate([rolled(signs * [0, 0, g]), rolled(signs * [0.5, g / 2, g * g / 2])]) / g
    pentagons = rolled(signs * [0, g, 1])
    triangles = np.concatenate([signs, rolled(signs * [0, 1 / g, g])])
    return vertices, convex_faces(vertices, np.concatenate([pentagons, triangles]))


def prism(sides: int, radius: float, waist: float, height: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """A barrel of two storeys about the y axis: rings of radius, waist and radius again; `sides` faces a storey."""
    angle = np.arange(sides) * 2 * np.pi / sides
    ring = np.stack([np.cos(angle), np.zeros(sides), -np.sin(angle)], axis=1)
    vertices = np.concatenate([
        ring * r + [0, y, 0] for r, y in ((radius, -height / 2), (waist, 0.0), (radius, height / 2))
    ])
    here = np.arange(sides)
    there = (here + 1) % sides
    faces = [np.array([a + s, b + s, b + s + sides, a + s + sides])
             for s in (0, sides) for a, b in zip(here, there, strict=True)]
    return vertices, [*faces, here[::-1].copy(), here + 2 * sides]


def frame(
    vertices: np.ndarray, faces: Sequence[np.ndarray], opening: float, depth: float
) -> tuple[np.ndarray, np.ndarray]:
    """The skeleton of a polyhedron about the origin, as quads: bars along its edges, a hole through each face.

    opening in (0, 1): size of the holes relative to the faces. depth in (0, 1): thickness of the bars towards the
    centre, relative to the radius. Closed; its genus is the number of faces less one.
    """
    rows = [vertices, vertices * (1 - depth)]
    inner = len(vertices)
    quads, next_row = [], 2 * inner
    for loop in faces:
        n = len(loop)
        centre = vertices[loop].mean(0)
        rim = centre + opening * (vertices[loop] - centre)
        rows += [rim, rim * (1 - depth)]
        out = next_row + np.arange(n)
        back = out + n
        next_row += 2 * n
        a, b = loop, np.roll(loop, -1)
        out_b, back_b = np.roll(out, -1), np.roll(back, -1)
        quads += [np.stack([a, b, out_b, out], 1), np.stack([a + inner, back, back_b, b + inner], 1),
                  np.stack([out, out_b, back_b, back], 1)]
    return np.concatenate(rows), np.concatenate(quads)


def catmull_clark(vertices: np.ndarray, quads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One round of Catmull and Clark's subdivision (1978) of a closed quad mesh."""
    n = len(vertices)
    centres = vertices[quads].mean(1)
    start, end = quads.reshape(-1), np.roll(quads, -1, axis=1).reshape(-1)
    _, edge = np.unique(np.minimum(start, end) * n + np.maximum(start, end), return_inverse=True)
    edge = edge.reshape(-1)
    face = np.repeat(np.arange(len(quads)), 4)

    def mean_by(row: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
        total = np.zeros((count, 3))
        np.add.at(total, row, values)
        return total / np.bincount(row, minlength=count)[:, None]

    n_edges = int(edge.max()) + 1
    middles = mean_by(edge, (vertices[start] + vertices[end]) / 2, n_edges)
    edge_points = (middles + mean_by(edge, centres[face], n_edges)) / 2
    # each corner sees each of its edges once as the start of a directed edge
    valence = np.bincount(start, minlength=n)[:, None]
    around = mean_by(start, centres[face], n) + 2 * mean_by(start, middles[edge], n)
    moved = (around + (valence - 3) * vertices) / valence
    edge = edge.reshape(-1, 4) + n
    centre = np.arange(len(quads)) + n + n_edges
    corners = [np.stack([quads[:, k], edge[:, k], centre, edge[:, k - 1]], 1) for k in range(4)]
    return np.concatenate([moved, edge_points, centres]), np.concatenate(corners)


def smooth_frame(vertices: np.ndarray, faces: Sequence[np.ndarray], opening: float, depth: float, rounds: int) -> Piece:
    """A frame, rounded by subdivision."""
    vertices, quads = frame(vertices, faces, opening, depth)
    for _ in range(rounds):
        vertices, quads = catmull_clark(vertices, quads)
    return vertices, triangles_of(quads)


def sphere(radius: float, rounds: int) -> Piece:
    """An icosahedron, its edges halved `rounds` times on the sphere: 20 · 4^rounds triangles."""
    g = (1 + 5**0.5) / 2
    vertices = np.array([[-1, g, 0], [1, g, 0], [-1, -g, 0], [1, -g, 0], [0, -1, g], [0, 1, g],
                         [0, -1, -g], [0, 1, -g], [g, 0, -1], [g, 0, 1], [-g, 0, -1], [-g, 0, 1]])
    faces = np.array([[0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9], [5, 11, 4], [11, 10, 2],
                      [10, 7, 6], [7, 1, 8], [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8], [3, 8, 9], [4, 9, 5],
                      [2, 4, 11], [6, 2, 10], [8, 6, 7], [9, 8, 1]])
    for _ in range(rounds):
        pairs = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        ends, middle = np.unique(pairs, axis=0, return_inverse=True)
        middle = middle.reshape(-1, 3) + len(vertices)
        vertices = np.concatenate([vertices, vertices[ends].mean(1)])
        vertices = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
        a, b, c = faces.T
        ab, bc, ca = middle.T
        faces = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True) * radius, faces


def lathe(profile: np.ndarray, sides: int) -> Piece:
    """The closed solid of revolution about y of a profile (P, 2) of (radius, y), from the lower pole to the upper.

    The first and the last radius must be 0.
    """
    angle = np.arange(sides) * 2 * np.pi / sides
    ring = np.stack([np.cos(angle), np.zeros(sides), -np.sin(angle)], axis=1)
    rings = profile[1:-1, :1, None] * ring + profile[1:-1, 1:, None] * [0.0, 1.0, 0.0]
    poles = [[0, profile[0, 1], 0], [0, profile[-1, 1], 0]]
    vertices = np.concatenate([rings.reshape(-1, 3), poles])
    here = np.arange(sides)
    there = (here + 1) % sides
    top = (len(rings) - 1) * sides
    quads = [np.stack([here + s, there + s, there + s + sides, here + s + sides], 1)
             for s in range(0, top, sides)]
    south = np.stack([there, here, np.full(sides, len(vertices) - 2)], 1)
    north = np.stack([here + top, there + top, np.full(sides, len(vertices) - 1)], 1)
    return vertices, np.concatenate([*(triangles_of(q) for q in quads), south, north])


def grid_triangles(rows: int, columns: int, wrap: bool = False) -> np.ndarray:
    """Triangles of a (rows, columns) grid of vertices, counter-clockwise about row × column; wrap joins the columns."""
    index = np.arange(rows * columns).reshape(rows, columns)
    if wrap:
        index = np.concatenate([index, index[:, :1]], axis=1)
    return triangles_of(np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], -1).reshape(-1, 4))


def plate(points: np.ndarray, thickness: float) -> Piece:
    """A closed plate about a sheet of points (rows, columns, 3), whose normal is row × column direction."""
    rows, columns = points.shape[:2]
    normal = np.cross(np.gradient(points, axis=0), np.gradient(points, axis=1))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    upper, lower = points + normal * thickness / 2, points - normal * thickness / 2
    index = np.arange(rows * columns).reshape(rows, columns)
    # once round the rim, counter-clockwise seen from above
    rim = np.concatenate([index[:-1, 0], index[-1, :-1], index[:0:-1, -1], index[0, :0:-1]])
    ahead, below = np.roll(rim, -1), rows * columns
    top = grid_triangles(rows, columns)
    wall = triangles_of(np.stack([rim, rim + below, ahead + below, ahead], 1))
    vertices = np.concatenate([upper.reshape(-1, 3), lower.reshape(-1, 3)])
    return vertices, np.concatenate([top, top[:, ::-1] + below, wall])


def cells_surface(planes: Sequence[np.ndarray], solid: np.ndarray) -> Piece:
    """The surface of the solid cells of an uneven grid: planes are the cuts along x, y and z, solid is (X, Y, Z) bool.

    Closed. Where two solid cells touch along an edge alone that edge has four triangles.
    """
    padded = np.pad(solid, 1)
    shape = np.array([len(cuts) for cuts in planes])
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    quads = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        lower = np.moveaxis(padded, axis, 0)[:-1]
        upper = np.moveaxis(padded, axis, 0)[1:]
        for inside, outside, facing_up in ((lower, upper, True), (upper, lower, False)):
            at = np.moveaxis(inside & ~outside, 0, axis)
            corner = np.argwhere(at) - 1
            corner[:, axis] += 1
            base = corner @ strides
            ring = np.stack([base, base + strides[u], base + strides[u] + strides[v], base + strides[v]], 1)
            quads.append(ring if facing_up else ring[:, ::-1])
    used, quads = np.unique(np.concatenate(quads), return_inverse=True)
    lattice = np.stack(np.meshgrid(*planes, indexing="ij"), -1).reshape(-1, 3)
    return lattice[used], triangles_of(quads.reshape(-1, 4))
