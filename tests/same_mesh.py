"""Whether a mesh is the reference's, whatever the order of its vertices and faces."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from sparseflex.mesh import Mesh


def oriented(faces: np.ndarray) -> set[tuple[int, int, int]]:
    """Faces as tuples that start at their smallest index, orientation kept."""
    turn = faces.argmin(axis=1)[:, None]
    return set(map(tuple, np.take_along_axis(faces, (turn + np.arange(3)) % 3, axis=1).tolist()))


def renumbering(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-5) -> np.ndarray:
    """For each of our vertices the reference's row; fails unless it is a bijection within the tolerance."""
    assert ours.shape == theirs.shape
    if len(ours) == 0:
        return np.zeros(0, dtype=np.int64)
    distance, row = cKDTree(theirs).query(ours)
    assert distance.max() < tolerance
    assert len(np.unique(row)) == len(row)
    return row


def assert_same_mesh(mesh: Mesh, vertices: np.ndarray, faces: np.ndarray) -> None:
    """The same vertices, and the same faces as oriented sets."""
    row = renumbering(mesh.vertices.numpy(), vertices)
    assert oriented(row[mesh.faces.numpy()]) == oriented(faces)


def assert_holds_part(mesh: Mesh, vertices: np.ndarray, step: int, faces: np.ndarray) -> None:
    """vertices are every step-th of the reference; faces some of its faces, of which those without other vertices
    can be told."""
    distance, row = cKDTree(mesh.vertices.numpy()).query(vertices)
    assert distance.max() < 1e-5 and len(np.unique(row)) == len(row)
    known = faces[(faces % step == 0).all(axis=1)]
    assert len(known) > 20 and oriented(row[known // step]) <= oriented(mesh.faces.numpy())
