"""The names of the scalars that our own runs can have, known before their first iteration: breakpoints are checked by
them."""

from __future__ import annotations

import torch

from sparseflex.training.config import FitConfig
from sparseflex.vae.diagnosis import NEIGHBOUR_CAUSES, Cause

_EVERY = ("iteration", "voxels", "vertices", "faces", "stage_secs", "peak_bytes")
_FIT = ("near", "far", "active", "section", "visible_fraction", "loss", "grad_norm", "resident_bytes", "work_bytes",
        "work_voxels", "never_seen")
_TERMS = ("depth", "normal", "mask", "ssim", "dev", "sign")
_PRUNING = ("level", "resolution", "pruned", "born", "pruned_fraction")
_INFERENCE = ("points", "latent_voxels", "loss_kl", "open_edges", "pruned_fraction")
_LEVEL = ("children", "kept", "wrongly_kept", "wrongly_pruned", "precision", "recall")


def fit_scalars(config: FitConfig, device: torch.device) -> tuple[str, ...]:
    """Those of a FitRun; ssim is one of them as its weight can be changed while it runs."""
    terms = [*_TERMS, *(["lpips"] if config.lpips_weight > 0 else []),
             *(["free_space"] if config.free_space_weight > 0 else [])]
    return (*_EVERY, *_FIT, *(f"loss_{term}" for term in terms), *(_PRUNING if config.start_resolution else ()),
            *(("reserved_bytes",) if device.type == "cuda" else ()))


def reconstruct_scalars() -> tuple[str, ...]:
    """Those of a ReconstructRun: counts of both levels, and of the input points by what became of them."""
    causes = [f"points_lost_{cause.name.lower()}" for cause in Cause if cause is not Cause.COVERED]
    missing = [f"points_missing_{cause.name.lower()}" for cause in NEIGHBOUR_CAUSES]
    return (*_EVERY, *_INFERENCE, *(f"{name}_{level}" for level in (1, 2) for name in _LEVEL), "points_covered",
            *causes, *missing)
