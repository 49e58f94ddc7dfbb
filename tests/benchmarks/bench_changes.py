"""What differs between two iterations of 1e6 voxels: the comparison itself, and what a redraw takes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fresh import run_job, serve

from sparseflex.voxels import SparseVoxels
from workbench.change_state import State, faces_of
from workbench.changes import compare

N_VOXELS, RESOLUTION = 1_000_000, 512
COMPARE_MS, REDRAW_MS = 300.0, 10.0


def thick_shell() -> SparseVoxels:
    """1e6 voxels, three deep around a ball."""
    shell = torch.randn(2_500_000, 3, generator=torch.Generator().manual_seed(0))
    shell = 0.4 * shell / shell.norm(dim=1, keepdim=True)
    voxels = SparseVoxels.from_points(shell, RESOLUTION).dilate(1)
    return voxels.prune(torch.arange(voxels.n_voxels) < N_VOXELS)


def moved(state: State, share: float) -> State:
    """The state with this share of its corners a little elsewhere, as an iteration leaves them."""
    draw = np.random.default_rng(0)
    rows = draw.random(state.voxels.n_corners) < share
    arrays = {name: array.copy() for name, array in state.arrays.items()}
    arrays["corner_sdf"][rows] += draw.normal(0, 1e-4, int(rows.sum())).astype(np.float32)
    arrays["corner_deform"][rows] += np.float32(0.01)
    return State(state.voxels, arrays)


def milliseconds(call: Callable[[], Any], repeats: int = 5) -> float:
    """The best of some, after one to warm up."""
    call()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - started))
    return min(found)


def measure(device: str = "cpu") -> list[dict]:
    """Name, value, unit, reach and ok (None where nothing is to be reached) of each number, in this process."""
    voxels = thick_shell()
    sdf = (voxels.corners_world.norm(dim=1) - 0.4).numpy()
    n = voxels.n_voxels
    weights = {"alpha": np.ones((n, 8), np.float32), "beta": np.ones((n, 12), np.float32),
               "gamma": np.full(n, 0.5, np.float32)}
    before = State(voxels, {"corner_sdf": sdf, "corner_deform": np.zeros((len(sdf), 3), np.float32), **weights})
    after = moved(before, 0.3)
    kept = torch.arange(n) % 50 != 0
    pruned = voxels.prune(kept)
    rows = voxels.find_corners(pruned.corner_ijk).numpy()
    less = State(pruned, {name: array[rows if name.startswith("corner") else kept.numpy()]
                          for name, array in after.arrays.items()})

    def fresh(state: State) -> State:
        return State(state.voxels, state.arrays)  # with nothing of it remembered

    found = compare(before, after)

    def redraw() -> None:
        found._sorted.clear()
        found.counts(0.01)

    faces = milliseconds(lambda: faces_of(after, found.gained), 2)
    times = [
        (f"{n / 1e6:g}e6 voxels, {voxels.n_corners / 1e6:.1f}e6 corners: a step compared",
         milliseconds(lambda: compare(before, fresh(after))), COMPARE_MS),
        ("the same, 2 % of the voxels pruned", milliseconds(lambda: compare(before, fresh(less))), None),
        ("counts as the threshold is dragged", milliseconds(redraw), REDRAW_MS),
        (f"the triangles of {len(found.gained):,} quads gained", faces, None),
    ]
    return [{"name": name, "value": value, "unit": "ms", "reach": "" if reach is None else f"≤ {reach:g}",
             "ok": None if reach is None else value <= reach} for name, value, reach in times]


def rows() -> list[dict]:
    """Rows for `workbench bench`."""
    return run_job(__file__, "measure", wait_policy="PASSIVE")["rows"]


if __name__ == "__main__":
    serve({"measure": lambda: {"rows": measure()}})
