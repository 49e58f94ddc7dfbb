"""What a level's decisions come to against the truth that a child holds an input point: scalars and a PruneEvent."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparseflex.training.occupancy import PruneReason
from sparseflex.training.pruning import PruneEvent
from sparseflex.voxels import SparseVoxels


class Judged(NamedTuple):
    """Decisions on the children of a level, and which of them hold a point."""

    kept: Bool[Tensor, "children"]
    truth: Bool[Tensor, "children"]


def judged(children: SparseVoxels, kept: Bool[Tensor, "children"], points: Float[Tensor, "points 3"]) -> Judged:
    return Judged(kept, holds_point(children, points))


def holds_point(voxels: SparseVoxels, points: Float[Tensor, "points 3"]) -> Bool[Tensor, "voxels"]:
    """Which voxels hold a point."""
    ijk = ((points.double() + 0.5) * voxels.resolution).floor().clamp(0, voxels.resolution - 1).int()
    found = voxels.find(ijk)
    holds = torch.zeros(voxels.n_voxels, dtype=torch.bool, device=voxels.device)
    holds[found[found >= 0]] = True
    return holds


def level_scalars(level: int, found: Judged) -> dict[str, float]:
    """Counts, precision and recall; NaN where nothing was kept, or nothing had to be."""
    kept, truth = found
    n_kept, n_true, n_both = int(kept.sum()), int(truth.sum()), int((kept & truth).sum())
    return {
        f"kept_{level}": float(n_kept), f"wrongly_kept_{level}": float(n_kept - n_both),
        f"wrongly_pruned_{level}": float(n_true - n_both),
        f"precision_{level}": n_both / n_kept if n_kept else math.nan,
        f"recall_{level}": n_both / n_true if n_true else math.nan,
    }


def prune_event(
    level: int, children: SparseVoxels, logits: Float[Tensor, "children"], found: Judged, pruning: bool
) -> PruneEvent:
    """The event of a level, of iteration 0; wrong is meant against the truth, which the network does not see."""
    gone, wrong = ~found.kept, found.kept & ~found.truth
    pruned, wrongly_kept = children.prune(gone).to("cpu"), children.prune(wrong).to("cpu")
    why_kept = PruneReason.LOGIT_REACHES if pruning else PruneReason.NOT_PRUNED
    return PruneEvent(
        0, level, children.resolution, True, int(found.kept.sum()), pruned,
        torch.full((pruned.n_voxels,), PruneReason.LOGIT_BELOW, dtype=torch.uint8),
        logits[gone].sigmoid().float().cpu(), SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), children.resolution),
        found.truth[gone].cpu(), wrongly_kept,
        torch.full((wrongly_kept.n_voxels,), why_kept, dtype=torch.uint8),
    )


def warning_of(
    level: int, logits: Float[Tensor, "children"], kept: Bool[Tensor, "children"], threshold: float
) -> str:
    """One line where a level that has children keeps none of them, else nothing."""
    if len(logits) == 0 or bool(kept.any()):
        return ""
    known = logits[~logits.isnan()]
    largest = f"the largest of {len(logits):,} logits is {float(known.max()):.3g}" if len(known) else (
        f"all {len(logits):,} logits are NaN")
    return f"no voxel was kept at level {level}: {largest}, the threshold {threshold:g}".replace("-", "\N{MINUS SIGN}")
