"""MemoryView: what sections save, from what a run has measured of itself; the method's own claim in numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from workbench.snapshot import History

NEEDED = ("resident_bytes", "work_bytes", "work_voxels", "section", "voxels")
"""The scalars that the estimate comes from."""

_MAX_PAIRS = 64
_LEAST_SPREAD = 1.5


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """An iteration's memory above its start as a line over its voxels: fixed_bytes + bytes_per_voxel · voxels.

    n_measured: the measured iterations that it comes from; voxels (n,), measured (n,) bytes: those.
    """

    fixed_bytes: float
    bytes_per_voxel: float
    voxels: Float[np.ndarray, "n"]
    measured: Float[np.ndarray, "n"]

    @property
    def n_measured(self) -> int:
        return len(self.voxels)

    def at(self, voxels: Float[np.ndarray, "*k"] | float) -> Float[np.ndarray, "*k"] | float:
        return self.fixed_bytes + self.bytes_per_voxel * voxels


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryCurves:
    """Bytes over the iterations (n,): with_sections and without, both by the line of `work`; measured at (m,)."""

    iterations: Float[np.ndarray, "n"]
    with_sections: Float[np.ndarray, "n"]
    without: Float[np.ndarray, "n"]
    measured_at: Float[np.ndarray, "m"]
    measured: Float[np.ndarray, "m"]
    work: Work


def measured_work(history: History) -> Work | None:
    """The line through the measured iterations; None before sections of different sizes were measured.

    By Theil and Sen, the median of the slopes of all pairs: a measurement may hold what the window took meanwhile.
    """
    if any(history.column(name) is None for name in ("work_bytes", "work_voxels")):
        return None
    rows = _fresh(history)[-_MAX_PAIRS:]
    voxels, measured = history.column("work_voxels")[rows], history.column("work_bytes")[rows]
    if len(rows) < 3 or not voxels.max() > _LEAST_SPREAD * voxels.min():
        return None
    across = np.subtract.outer(voxels, voxels)
    steps = np.subtract.outer(measured, measured)[across > 0] / across[across > 0]
    slope = max(float(np.median(steps)), 0.0)
    fixed = max(float(np.median(measured - slope * voxels)), 0.0)
    return Work(fixed, slope, voxels, measured)


def _fresh(history: History) -> np.ndarray:
    """The rows in which a measurement is new: it stays until the next one."""
    pairs = np.stack([history.column("work_voxels"), history.column("work_bytes")], axis=1)
    known = np.isfinite(pairs).all(axis=1)
    changed = np.ones(len(pairs), dtype=bool)
    changed[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return (known & changed).nonzero()[0]


def curves(history: History) -> MemoryCurves | None:
    """None where the run lacks one of NEEDED, or has not measured enough yet."""
    if any(history.column(name) is None for name in NEEDED):
        return None
    work = measured_work(history)
    if work is None:
        return None
    iterations, resident = history.column("iteration"), history.column("resident_bytes")
    fresh = _fresh(history)
    return MemoryCurves(
        iterations, resident + work.at(history.column("section")), resident + work.at(history.column("voxels")),
        iterations[fresh], (resident + history.column("work_bytes"))[fresh], work,
    )


class MemoryView:
    """The curves of a history, made once for each."""

    def __init__(self) -> None:
        self._history: History | None = None
        self._curves: MemoryCurves | None = None

    def of(self, history: History) -> MemoryCurves | None:
        if history is not self._history:
            self._history, self._curves = history, curves(history)
        return self._curves
