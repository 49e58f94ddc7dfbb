"""Normals at the vertices of a mesh, and as colours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from workbench.snapshot import MeshArrays


def normal_colours(mesh: MeshArrays) -> Float[np.ndarray, "V 3"]:
    return (vertex_normals(mesh) * 0.5 + 0.5).astype(np.float32)


def vertex_normals(mesh: MeshArrays) -> Float[np.ndarray, "V 3"]:
    """Unit normals at the vertices, the faces' weighted by area; zero where no face with area meets."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    summed = np.stack(
        [np.bincount(mesh.faces.ravel(), np.repeat(normals[:, axis], 3), len(mesh.vertices)) for axis in range(3)], 1
    )
    return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-300)
