"""What a pass decided against the truth that a voxel holds an input point: scalars, PruneEvents, points by cause."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparseflex.training.occupancy import PruneReason
from sparseflex.training.pruning import PruneEvent
from sparseflex.vae.decisions import count_decisions
from sparseflex.vae.diagnosis import Cause, Diagnosis
from sparseflex.voxels import SparseVoxels


def level_scalars(
    level: int, kept: Bool[Tensor, "children"], truth: Bool[Tensor, "children"]
) -> dict[str, float]:
    """Counts, precision and recall; NaN where nothing was kept, or nothing had to be."""
    found = count_decisions(kept, truth)
    return {f"kept_{level}": float(found.n_kept), f"wrongly_kept_{level}": float(found.n_wrongly_kept),
            f"wrongly_pruned_{level}": float(found.n_wrongly_pruned), f"precision_{level}": found.precision,
            f"recall_{level}": found.recall}


def prune_event(
    level: int, children: SparseVoxels, logits: Float[Tensor, "children"], kept: Bool[Tensor, "children"],
    truth: Bool[Tensor, "children"], pruning: bool,
) -> PruneEvent:
    """The event of a level, of iteration 0; wrong is meant against the truth, which the network does not see."""
    wrong = kept & ~truth
    pruned, wrongly_kept = children.prune(~kept).to("cpu"), children.prune(wrong).to("cpu")
    why_kept = PruneReason.LOGIT_REACHES if pruning else PruneReason.NOT_PRUNED
    return PruneEvent(
        0, level, children.resolution, True, int(kept.sum()), pruned,
        torch.full((pruned.n_voxels,), PruneReason.LOGIT_BELOW, dtype=torch.uint8),
        logits[~kept].sigmoid().float().cpu(), SparseVoxels(pruned.voxel_ijk[:0], children.resolution),
        truth[~kept].cpu(), wrongly_kept, torch.full((wrongly_kept.n_voxels,), why_kept, dtype=torch.uint8),
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


def cause_scalars(found: Diagnosis) -> dict[str, float]:
    """How many points are covered, how many are not, by cause, and why those that lack a neighbour do."""
    counts = found.counts
    lost = {f"points_lost_{cause.name.lower()}": float(counts[cause]) for cause in Cause if cause is not Cause.COVERED}
    missing = {f"points_missing_{cause.name.lower()}": float(n) for cause, n in found.neighbour_counts.items()}
    return {"points_covered": float(counts[Cause.COVERED]), **lost, **missing}
