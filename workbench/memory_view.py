"""MemoryView: what sections save, from what a run has measured of itself; the method's own claim in numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from sparseflex.training.measure import BYTES_PREFIX
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
    rows = fresh_rows(history)[-_MAX_PAIRS:]
    voxels, measured = history.column("work_voxels")[rows], history.column("work_bytes")[rows]
    if len(rows) < 3 or not voxels.max() > _LEAST_SPREAD * voxels.min():
        return None
    across = np.subtract.outer(voxels, voxels)
    steps = np.subtract.outer(measured, measured)[across > 0] / across[across > 0]
    slope = max(float(np.median(steps)), 0.0)
    fixed = max(float(np.median(measured - slope * voxels)), 0.0)
    return Work(fixed, slope, voxels, measured)


def fresh_rows(history: History) -> np.ndarray:
    """The rows in which a measurement is new: it stays until the next one. None where the run measures none."""
    if any(history.column(name) is None for name in ("work_bytes", "work_voxels")):
        return np.zeros(0, np.int64)
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
    fresh = fresh_rows(history)
    return MemoryCurves(
        iterations, resident + work.at(history.column("section")), resident + work.at(history.column("voxels")),
        iterations[fresh], (resident + history.column("work_bytes"))[fresh], work,
    )


def work_by_stage(history: History) -> tuple[int, dict[str, float]] | None:
    """The iteration measured last, and by stage its peak above the iteration's start (bytes, from 0).

    The start is where work_bytes puts it: that much below the highest of the stages that it spans, the first left out.
    """
    columns = {name.removeprefix(BYTES_PREFIX): history.column(name) for name in history.names
               if name.startswith(BYTES_PREFIX)}
    if any(history.column(name) is None for name in ("work_bytes", "work_voxels")) or len(columns) < 2:
        return None
    rows = fresh_rows(history)
    if not len(rows):
        return None
    row = int(rows[-1])
    peaks = {stage: float(values[row]) for stage, values in list(columns.items())[1:] if values[row] == values[row]}
    if not peaks:
        return None
    start = max(peaks.values()) - float(history.column("work_bytes")[row])
    return int(history.column("iteration")[row]), {stage: max(peak - start, 0.0) for stage, peak in peaks.items()}


class MemoryView:
    """The curves and the stages' work of a history, made once for each."""

    def __init__(self) -> None:
        self._history: History | None = None
        self._curves: MemoryCurves | None = None
        self._stages: tuple[int, dict[str, float]] | None = None

    def of(self, history: History) -> MemoryCurves | None:
        self._follow(history)
        return self._curves

    def stages_of(self, history: History) -> tuple[int, dict[str, float]] | None:
        self._follow(history)
        return self._stages

    def _follow(self, history: History) -> None:
        if history is not self._history:
            self._history, self._curves, self._stages = history, curves(history), work_by_stage(history)
