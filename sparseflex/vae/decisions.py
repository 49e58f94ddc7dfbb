"""An upsampling's decisions against the truth that a child holds an input point, as functions of the threshold."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.voxels import SparseVoxels


@dataclasses.dataclass(frozen=True, eq=False)
class Decisions:
    """What one upsampling decided about its children: row 8·i + c is child c of parent i, as subdivide has them."""

    children: SparseVoxels
    occupancy_logits: Float[Tensor, "children"]
    kept: Bool[Tensor, "children"]
    threshold: float = 0.0

    def __post_init__(self) -> None:
        n = self.children.n_voxels
        for name in ("occupancy_logits", "kept"):
            if tuple(getattr(self, name).shape) != (n,):
                raise ValueError(f"{name} must have shape ({n},), got {tuple(getattr(self, name).shape)}")


def cells_of(points: Float[Tensor, "points 3"], resolution: int) -> Int[Tensor, "points 3"]:
    """The voxel that holds each point of the closed box, int32; one off the grid for points outside and NaN."""
    scaled = (points.double() + 0.5) * resolution
    cells = scaled.floor() - (scaled == resolution).double()
    return cells.nan_to_num(-1.0).clamp(-1, resolution).int()


def holds_point(voxels: SparseVoxels, points: Float[Tensor, "points 3"]) -> Bool[Tensor, "voxels"]:
    """Which voxels hold a point: the truth that L_prune holds the occupancy logits against (method.md, section 4)."""
    found = voxels.find(cells_of(points.to(voxels.device), voxels.resolution))
    holds = torch.zeros(voxels.n_voxels, dtype=torch.bool, device=voxels.device)
    holds[found[found >= 0]] = True
    return holds


class LevelCounts(NamedTuple):
    """Children of a level by decision; wrong is meant against the truth. precision: of the kept ones, what share had to
    be; recall: of those that had to be, what share was kept. Both NaN where there are none."""

    n_kept: int
    n_pruned: int
    n_wrongly_kept: int
    n_wrongly_pruned: int
    precision: float
    recall: float


def count_decisions(kept: Bool[Tensor, "children"], truth: Bool[Tensor, "children"]) -> LevelCounts:
    """A level's decisions against which of its children hold a point."""
    n_kept, n_true, n_both = int(kept.sum()), int(truth.sum()), int((kept & truth).sum())
    return LevelCounts(n_kept, len(kept) - n_kept, n_kept - n_both, n_true - n_both,
                       n_both / n_kept if n_kept else math.nan, n_both / n_true if n_true else math.nan)


class ThresholdCounts(NamedTuple):
    """LevelCounts, a column each, as functions of the threshold."""

    thresholds: Float[Tensor, "T"]
    n_kept: Int[Tensor, "T"]
    n_wrongly_kept: Int[Tensor, "T"]
    n_wrongly_pruned: Int[Tensor, "T"]
    precision: Float[Tensor, "T"]
    recall: Float[Tensor, "T"]


@dataclasses.dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """A level's logits sorted once, so that any threshold's counts are one look-up. NaN logits are never kept.

    sorted_logits: ascending, without NaN. true_before: (n + 1,) how many of the first k hold a point. n_true: of all.
    """

    sorted_logits: Float[Tensor, "n"]
    true_before: Int[Tensor, "n_and_1"]
    n_true: int

    @classmethod
    def of(cls, occupancy_logits: Float[Tensor, "children"], truth: Bool[Tensor, "children"]) -> ThresholdCurve:
        if occupancy_logits.shape != truth.shape:
            raise ValueError(f"truth must have shape {tuple(occupancy_logits.shape)}, got {tuple(truth.shape)}")
        known = ~occupancy_logits.isnan()
        ordered, order = torch.sort(occupancy_logits.detach()[known])
        counts = truth[known][order].cumsum(0)
        return cls(ordered, torch.cat([counts.new_zeros(1), counts]), int(truth.sum()))

    def at(self, thresholds: Float[Tensor, "T"]) -> ThresholdCounts:
        """What each of these thresholds would keep: the children whose logit reaches it."""
        thresholds = thresholds.to(self.sorted_logits)
        place = torch.searchsorted(self.sorted_logits, thresholds.contiguous())
        n_kept = len(self.sorted_logits) - place
        n_both = self.true_before[-1] - self.true_before[place]
        return ThresholdCounts(thresholds, n_kept, n_kept - n_both, self.n_true - n_both, n_both / n_kept.double(),
                               n_both / torch.full_like(n_both, self.n_true, dtype=torch.float64))

    def curve(self, n_thresholds: int = 256) -> ThresholdCounts:
        """For a plot: thresholds at even steps of rank, ascending, from keeping all to keeping the highest logit."""
        last = len(self.sorted_logits) - 1
        ranks = torch.linspace(0, max(last, 0), n_thresholds, dtype=torch.float64, device=self.sorted_logits.device)
        return self.at(self.sorted_logits[ranks.round().long().unique()] if last >= 0 else self.sorted_logits)
