"""Cubes: voxels of a category."""

from __future__ import annotations

from typing import Any

import polyscope as ps

from workbench import theme
from workbench.split import Split

CUBE_SIZES = {"active": 0.88, "outside": 0.25, "near_cut": 0.35, "far_cut": 0.35}
"""Edge of the drawn cube in voxels. Only the active ones are drawn full: no transparency, which is slow in software."""


def draw_voxels(name: str, category: str, split: Split) -> list[Any]:
    """The voxels of a category as cubes; nothing where there are none."""
    voxels, rows = split.voxels, split.rows(category)
    if not rows.any():
        return []
    colour = theme.CATEGORY_COLOURS[category]
    active = category == "active"
    grid = ps.register_sparse_volume_grid(
        name, (-0.5,) * 3, (1 / voxels.resolution,) * 3, voxels.voxel_ijk.numpy()[rows],
        color=theme.lit(colour) if active else colour, material="clay" if active else "flat",
        cube_size_factor=1 - CUBE_SIZES[category], edge_width=0,
    )
    return [grid]
