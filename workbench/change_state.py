"""State: a run's voxels and corners at one iteration, as two of them are compared, and the quads that they give."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from sparseflex.extraction import extract_mesh
from sparseflex.frustum import add_halo
from sparseflex.representation import SparseFlex
from sparseflex.voxels import SparseVoxels
from workbench.snapshot import MeshArrays

SDF, DEFORM, WEIGHTS = "corner_sdf", "corner_deform", ("alpha", "beta", "gamma")
COMPARED = (SDF, DEFORM)
"""Fields of corners that are compared, where a run has them."""

FIELDS = (*COMPARED, *WEIGHTS)
"""What a state holds of a run; weights place the faces that are drawn, and those that are NaN or infinite are told."""

_KINDS = {**dict.fromkeys(COMPARED, "corner"), **dict.fromkeys(WEIGHTS, "voxel")}

NO_FACES = MeshArrays(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))


def known_fields(kinds: Mapping[str, str]) -> set[str]:
    """Those of FIELDS that a run with fields of these kinds has: by a name one's own may mean something else."""
    return {name for name, kind in _KINDS.items() if kinds.get(name) == kind}


class Quads(NamedTuple):
    """The edges of the lattice with a quad around them: keys rise; negative: whether the lower corner is inside."""

    keys: Int[np.ndarray, "Q"]
    negative: Bool[np.ndarray, "Q"]


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """A run at one iteration: its voxels, what it holds of corners (C, …) and voxels (N, …) by name, and what the
    moment is called. Raises ValueError, once it is compared, where a field has other rows than its voxels."""

    voxels: SparseVoxels
    arrays: Mapping[str, np.ndarray]
    iteration: int = 0
    label: str = ""

    @property
    def token(self) -> tuple:
        """What makes it this state; see worker.same_token."""
        return (self.voxels, *(self.arrays.get(name) for name in FIELDS))

    @property
    def n_bytes(self) -> int:
        """Of the arrays."""
        return sum(array.nbytes for array in self.arrays.values()) + self.voxels.voxel_ijk.nbytes

    @functools.cached_property
    def sdf(self) -> Float[np.ndarray, "C"] | None:
        return self._corner_field(SDF, 1)

    @functools.cached_property
    def deform(self) -> Float[np.ndarray, "C 3"] | None:
        return self._corner_field(DEFORM, 3)

    @functools.cached_property
    def bad_weights(self) -> Bool[np.ndarray, "N"]:
        """The voxels with NaN or infinity among α, β and γ."""
        bad = np.zeros(self.voxels.n_voxels, bool)
        for name in WEIGHTS:
            values = self.arrays.get(name)
            if values is None:
                continue
            if len(values) != len(bad):
                raise ValueError(f"{name} must have {len(bad)} rows, got {len(values)}")
            with np.errstate(invalid="ignore", over="ignore"):
                table = values.reshape(len(bad), values.size // max(len(bad), 1))
                bad |= ~np.isfinite(table @ np.ones(table.shape[1], table.dtype))  # a tenth of what all(axis=1) takes
        return bad

    @functools.cached_property
    def quads(self) -> Quads:
        """Those that extraction of all voxels gives: see quads_of."""
        return quads_of(self.voxels, self.sdf < 0) if self.sdf is not None else Quads(
            np.zeros(0, np.int64), np.zeros(0, bool))

    def _corner_field(self, name: str, n_columns: int) -> np.ndarray | None:
        values = self.arrays.get(name)
        if values is None:
            return None
        shape = (self.voxels.n_corners,) if n_columns == 1 else (self.voxels.n_corners, n_columns)
        if values.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {values.shape}")
        return values


def quads_of(voxels: SparseVoxels, negative: Bool[np.ndarray, "C"]) -> Quads:
    """The edges whose corners differ in sign and whose four voxels exist, as extraction makes a quad around each.

    An edge's key is 3 · the key of its lower corner + its axis: of one lattice the same in every iteration.
    """
    corners = voxels.corners_by_slot.numpy()
    signs = [negative.take(rows) for rows in corners]
    n_voxels_around = np.zeros(3 * voxels.n_corners, np.uint8)
    for axis, step in enumerate((1, 2, 4)):
        for slot in (slot for slot in range(8) if not slot & step):
            crossed = np.flatnonzero(signs[slot] != signs[slot + step])
            n_voxels_around[corners[slot].take(crossed).astype(np.int64) * 3 + axis] += 1  # each edge once a slot
    edges = np.flatnonzero(n_voxels_around == 4)
    lower = edges // 3
    side = voxels.resolution + 1
    i, j, k = voxels.corner_ijk.numpy().take(lower, axis=0).astype(np.int64).T
    return Quads(((i * side + j) * side + k) * 3 + (edges - 3 * lower), negative.take(lower))


def edges_of(keys: Int[np.ndarray, "Q"], resolution: int) -> tuple[Int[np.ndarray, "Q 3"], Int[np.ndarray, "Q"]]:
    """The lower corner and the axis of the edges of these keys."""
    side = resolution + 1
    corner, axis = np.divmod(keys, 3)
    rest, k = np.divmod(corner, side)
    return np.stack([*np.divmod(rest, side), k], axis=1), axis


def voxels_around(keys: Int[np.ndarray, "Q"], resolution: int) -> Int[np.ndarray, "Q 4 3"]:
    """The coordinates of the four voxels around each edge; some may lie outside the grid."""
    corner, axis = edges_of(keys, resolution)
    found = np.repeat(corner[:, None], 4, axis=1)
    rows = np.arange(len(keys))
    for number in range(4):
        found[rows, number, (axis + 1) % 3] -= number & 1
        found[rows, number, (axis + 2) % 3] -= number >> 1
    return found


def find_keys(wanted: Int[np.ndarray, "n"], known: Int[np.ndarray, "m"]) -> tuple[np.ndarray, np.ndarray]:
    """Of each wanted key its place among the rising known ones, and whether it is there at all."""
    place = np.searchsorted(known, wanted)
    if len(known) == 0:
        return place, np.zeros(len(wanted), bool)
    place = np.minimum(place, len(known) - 1)
    return place, known.take(place) == wanted


def faces_of(state: State, keys: Int[np.ndarray, "Q"]) -> MeshArrays:
    """The two triangles of each quad around these edges, all of which must have one, as the surface has them; those
    with a vertex that isn't finite are left out."""
    if len(keys) == 0 or state.sdf is None:
        return NO_FACES
    voxels = state.voxels
    active = torch.zeros(voxels.n_voxels, dtype=torch.bool)
    rows = voxels.find(torch.from_numpy(voxels_around(keys, voxels.resolution).reshape(-1, 3)))
    active[rows[rows >= 0]] = True
    section = voxels.section(add_halo(voxels, active, 1))  # neighbours decide ambiguous cases
    flex = _flex_of(state, section.voxels, section.voxel_rows.numpy(), section.corner_rows.numpy())
    with torch.no_grad():
        mesh = extract_mesh(flex)
    # triangles 2 i and 2 i + 1 are of the i-th edge
    of_section = quads_of(section.voxels, flex.corner_sdf.numpy() < 0).keys
    faces = mesh.faces.numpy()[np.repeat(find_keys(of_section, np.sort(keys))[1], 2)]
    finite = np.isfinite(mesh.vertices.numpy()).all(axis=1)
    used, faces = np.unique(faces[finite[faces].all(axis=1)], return_inverse=True)
    return MeshArrays(mesh.vertices.numpy()[used], faces.reshape(-1, 3).astype(np.int32))


def _flex_of(state: State, voxels: SparseVoxels, voxel_rows: np.ndarray, corner_rows: np.ndarray) -> SparseFlex:
    """A section's parameters; weights that the state lacks are at their middle."""
    def taken(name: str, rows: np.ndarray, shape: tuple[int, ...], otherwise: float) -> torch.Tensor:
        values = state.arrays.get(name)
        if values is None or values.shape[1:] != shape or len(values) <= rows.max(initial=-1):
            return torch.full((len(rows), *shape), otherwise)
        return torch.from_numpy(values.take(rows, axis=0).astype(np.float32))

    return SparseFlex(
        voxels, taken(SDF, corner_rows, (), 1.0), taken(DEFORM, corner_rows, (3,), 0.0),
        taken("alpha", voxel_rows, (8,), 1.0), taken("beta", voxel_rows, (12,), 1.0),
        taken("gamma", voxel_rows, (), 0.5), torch.zeros(()))
