"""How the panels write scalars: counts whole, times and memory with their unit, all else to three digits."""

from __future__ import annotations

from sparseflex.training.measure import BYTES_PREFIX, SECS_PREFIX
from workbench.ui import count, megabytes, milliseconds

WHOLE = ("iteration", "voxels", "active", "section", "vertices", "faces", "work_voxels", "points",
         "latent_voxels", "open_edges", "never_seen")

WHOLE_BY_LEVEL = ("children_", "kept_", "wrongly_kept_", "wrongly_pruned_", "points_")


def shown(name: str, value: float) -> str:
    """Counts as whole numbers, times and memory with their unit, all else to three digits."""
    if name.endswith("_bytes") or name.startswith(BYTES_PREFIX):
        return megabytes(value)
    if name == "stage_secs" or name.startswith(SECS_PREFIX):
        return milliseconds(value)
    return count(value) if name in WHOLE or name.startswith(WHOLE_BY_LEVEL) else f"{value:.3g}"
