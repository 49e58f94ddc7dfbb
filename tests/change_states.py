"""States to compare, made by hand or at random, and a view without a window; for test_changes and test_change_view."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sparseflex.voxels import SparseVoxels
from workbench.change_state import COMPARED, State
from workbench.change_view import PANEL
from workbench.changes import Changes
from workbench.view_state import ViewState

RESOLUTION = 16


@pytest.fixture
def view() -> Iterator[ViewState]:
    state = ViewState()
    state.tabs = {"left": PANEL, "right": "Plots"}
    yield state
    state.stop_workers()


def shell(resolution: int = RESOLUTION, radius: float = 0.35, width: float = 1.6) -> SparseVoxels:
    """The voxels around a sphere."""
    cells = torch.arange(resolution)
    ijk = torch.stack(torch.meshgrid(cells, cells, cells, indexing="ij"), -1).reshape(-1, 3)
    distance = ((ijk + 0.5) / resolution - 0.5).norm(dim=1) - radius
    return SparseVoxels(ijk[distance.abs() < width / resolution], resolution)


def state_of(voxels: SparseVoxels, sdf: np.ndarray | None = None, deform: np.ndarray | None = None, **more: np.ndarray
             ) -> State:
    sdf = (voxels.corners_world.norm(dim=1) - 0.35).numpy() if sdf is None else sdf
    deform = 0.3 * np.sin(voxels.corner_ijk.numpy() * np.float32(1.3)).astype(np.float32) if deform is None else deform
    return State(voxels, {"corner_sdf": sdf, "corner_deform": deform, **more})


def random_state(seed: int, resolution: int = 6, n: int = 120) -> State:
    """Voxels, signs and weights without any order: with ambiguous cases, holes and lone voxels."""
    generator = torch.Generator().manual_seed(seed)
    ijk = torch.stack([part for part in torch.unravel_index(
        torch.randperm(resolution**3, generator=generator)[:n], (resolution,) * 3)], dim=1)
    voxels = SparseVoxels(ijk, resolution)
    draw = np.random.default_rng(seed)
    arrays = {name: draw.normal(size=shape).astype(np.float32) for name, shape in
              (("corner_sdf", voxels.n_corners), ("corner_deform", (voxels.n_corners, 3)))}
    arrays |= {"alpha": draw.uniform(0.5, 1.5, (n, 8)), "beta": draw.uniform(0.5, 1.5, (n, 12)),
               "gamma": draw.uniform(0.1, 0.9, n)}
    return State(voxels, {name: array.astype(np.float32) for name, array in arrays.items()})


def without(state: State, rows: list[int]) -> State:
    """The state as it is once these voxels are pruned."""
    kept = torch.ones(state.voxels.n_voxels, dtype=torch.bool)
    kept[rows] = False
    voxels = state.voxels.prune(kept)
    corners = state.voxels.find_corners(voxels.corner_ijk).numpy()
    return State(voxels, {name: array[corners] if name in COMPARED else array[kept.numpy()]
                          for name, array in state.arrays.items()})


def ijk_of(found: Changes, part: str, threshold: float = 0.01) -> set[tuple[int, ...]]:
    voxels, rows = found.rows(part, threshold)
    return {tuple(row) for row in voxels.voxel_ijk[rows].tolist()}


def corner_set(found: Changes, bit: int) -> set[int]:
    return set(found.corner_b[found.corners(bit)].tolist())


def voxels_of_corners(voxels: SparseVoxels, corners: set[int]) -> set[tuple[int, ...]]:
    """Those that have one of these corners, one voxel at a time."""
    return {tuple(ijk) for ijk, rows in zip(voxels.voxel_ijk.tolist(), voxels.voxel_corners.tolist(), strict=True)
            if corners & set(rows)}


def slow_quads(state: State) -> dict[tuple[int, ...], bool]:
    """Edges (lower corner, axis) with a quad, and whether the lower corner is inside; edge by edge, with dicts."""
    inside = {tuple(ijk): bool(value < 0) for ijk, value in
              zip(state.voxels.corner_ijk.tolist(), state.arrays["corner_sdf"].tolist(), strict=True)}
    voxels = {tuple(ijk) for ijk in state.voxels.voxel_ijk.tolist()}
    found = {}
    for corner in inside:
        for axis in range(3):
            upper = tuple(part + (k == axis) for k, part in enumerate(corner))
            if upper not in inside or inside[upper] == inside[corner]:
                continue
            u, v = (k for k in range(3) if k != axis)
            around = {tuple(part - (k == u) * s - (k == v) * t for k, part in enumerate(corner))
                      for s in (0, 1) for t in (0, 1)}
            if around <= voxels:
                found[(*corner, axis)] = inside[corner]
    return found


def edge_set(keys: np.ndarray, resolution: int) -> set[tuple[int, ...]]:
    from workbench.change_state import edges_of

    corner, axis = edges_of(keys, resolution)
    return {(*ijk, number) for ijk, number in zip(corner.tolist(), axis.tolist(), strict=True)}
