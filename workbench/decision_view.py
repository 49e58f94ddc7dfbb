"""DecisionView: what the levels of an inference decide about their children, and would decide at other thresholds."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from sparseflex.vae.decisions import ThresholdCounts, ThresholdCurve, holds_point
from sparseflex.voxels import SparseVoxels
from workbench.colour_maps import robust_range
from workbench.point_view import POINTS
from workbench.worker import WorkFailed

if TYPE_CHECKING:
    from workbench.snapshot import Snapshot
    from workbench.view_state import ViewState

N_BINS = 48
LEVELS = (1, 2)


@dataclasses.dataclass(frozen=True, eq=False)
class Decided:
    """A level's children by their logits. edges (b + 1,), n_all and n_true (b,): how many lie between two edges, and
    how many of them hold an input point; those beyond the ends count at the ends. counts: precision and recall along
    the thresholds, curve: all that can be asked of any threshold. n_bad: logits that are NaN, which keep nothing."""

    resolution: int
    n_children: int
    n_bad: int
    edges: Float[np.ndarray, "b_and_1"]
    n_all: Float[np.ndarray, "b"]
    n_true: Float[np.ndarray, "b"]
    curve: ThresholdCurve
    counts: ThresholdCounts

    def at(self, threshold: float) -> dict[str, float]:
        """Counts, precision and recall at a threshold, under the names that the run's scalars have."""
        found = self.curve.at(torch.tensor([threshold], dtype=torch.float64))
        n_kept = int(found.n_kept[0])
        return {"kept": n_kept, "pruned": self.n_children - n_kept, "wrongly_kept": int(found.n_wrongly_kept[0]),
                "wrongly_pruned": int(found.n_wrongly_pruned[0]), "precision": float(found.precision[0]),
                "recall": float(found.recall[0])}


@dataclasses.dataclass
class DecisionView:
    """level: the one looked at."""

    level: int = 1
    _logits: dict[int, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> tuple[str, str]:
        """The fields of the level's children: voxels and logits, as the run names them."""
        return f"upsample {self.level}/voxels", f"upsample {self.level}/occupancy_logit"

    def fields(self) -> set[str]:
        return {*self.names, POINTS}

    def decided(self, view: ViewState, snapshot: Snapshot) -> Decided | str:
        """What the level's children come to, from the worker; or why it isn't there."""
        voxels, logits = (snapshot.products.fields.get(name) for name in self.names)
        points = snapshot.fields.get(POINTS)
        if voxels is None or logits is None or len(logits) != voxels.n_voxels:
            return f"Not there yet: the stage upsample {self.level} makes them."
        if points is None:
            return "This run has no input points."
        logits = self._known_logits(logits)
        key = f"decided {self.level}"
        view.worker.ask(key, (voxels, logits, points), lambda: decide(voxels, logits, points))
        found = view.worker.result(key)
        if found is None:
            return "Looking at the children …"
        return found[1].message if isinstance(found[1], WorkFailed) else found[1]

    def _known_logits(self, logits: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
        """The array of last time where this is an equal copy: every stage of a run gives a new one."""
        latest, known = self._logits.get(self.level, (None, None))
        if logits is not latest:
            known = known if known is not None and np.array_equal(known, logits, equal_nan=True) else logits
            self._logits[self.level] = (logits, known)
        return known


def decide(voxels: SparseVoxels, logits: Float[np.ndarray, "N"], points: Float[np.ndarray, "P 3"]) -> Decided:
    """Histogram and curve of a level's children against the truth that a child holds an input point."""
    truth = holds_point(voxels, torch.from_numpy(np.array(points)))
    curve = ThresholdCurve.of(torch.from_numpy(np.array(logits)), truth)
    bad = np.isnan(logits)
    low, high = robust_range(logits, signed=False)
    low, high = min(low, -1.0), max(high, 1.0)  # the threshold of the released weights is 0
    margin = 0.04 * (high - low)
    edges = np.linspace(low - margin, high + margin, N_BINS + 1)
    inside = np.clip(logits, edges[0], edges[-1])
    n_all, n_true = (np.histogram(inside[rows], edges)[0].astype(np.float64) for rows in (~bad, truth.numpy() & ~bad))
    return Decided(voxels.resolution, voxels.n_voxels, int(bad.sum()), edges, n_all, n_true, curve, curve.curve())


def percent(share: float) -> str:
    """'93.4 %'; '–' where there is nothing to take a share of."""
    return "–" if math.isnan(share) else f"{100 * share:.1f} %"
