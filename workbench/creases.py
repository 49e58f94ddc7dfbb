"""Creases: vertices doubled along sharp edges, so that smooth shading keeps them sharp."""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from workbench.snapshot import MeshArrays


def with_creases(mesh: MeshArrays, degrees: float = 40.0) -> MeshArrays:
    """The same triangles, in the same order, sharing a vertex only across edges that bend by less than `degrees`.

    Edges with one face, or more than two, count as sharp.
    """
    faces, n_faces = mesh.faces, len(mesh.faces)
    if n_faces == 0:
        return mesh
    corners = mesh.vertices[faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)

    # half-edges 3·face + k run from corner k to corner k + 1; sorted by edge, so that partners stand side by side
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    key = np.minimum(start, end).astype(np.int64) * len(mesh.vertices) + np.maximum(start, end)
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    a, b = order[first[count == 2]], order[first[count == 2] + 1]
    smooth = (normals[a // 3] * normals[b // 3]).sum(1) > math.cos(math.radians(degrees))
    a, b = a[smooth], b[smooth]

    # corners of both faces at either end of a smooth edge are one vertex
    a_next, b_next = a - a % 3 + (a % 3 + 1) % 3, b - b % 3 + (b % 3 + 1) % 3
    opposed = start[a] == end[b]
    rows = np.concatenate([a, a_next])
    columns = np.concatenate([np.where(opposed, b_next, b), np.where(opposed, b, b_next)])
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), (3 * n_faces, 3 * n_faces))
    n_vertices, vertex = connected_components(graph, directed=False)
    vertices = np.empty((n_vertices, 3), mesh.vertices.dtype)
    vertices[vertex] = mesh.vertices[start]
    return MeshArrays(vertices, vertex.reshape(-1, 3).astype(np.int32))
