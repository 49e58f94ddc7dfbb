"""Gradients: the voxels of the region chosen in the Gradients tab, among all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench import theme
from workbench.scene_parts import cubes
from workbench.view_state import ViewState

REGION, OTHERS = "gradient region", "gradients elsewhere"
NAMES = (REGION, OTHERS)
_SIZES = {REGION: 0.9, OTHERS: 0.2}
"""Edges of the drawn cubes in voxel widths: small ones hide no region."""

Keep = Callable[[str, tuple | None, Callable[[str], list[Any]], int, bool], None]
Style = Callable[..., None]


def draw_gradients(keep: Keep, style: Style, view: ViewState) -> None:
    """Brings the structure up to date by a scene view's keep and style."""
    found = view.gradients.region_voxels(view)
    voxels, explodes = found or (None, False)
    section = None if found is None else view.gradients.summary.section
    keep(OTHERS, None if section is None else (section,), lambda full: cubes.draw_set(full, section), 0, True)
    style(OTHERS, cubes.style_voxels, "outside", theme.OUTSIDE, _SIZES[OTHERS], None, not view.layers["slice"])
    keep(REGION, None if voxels is None else (voxels,), lambda full: cubes.draw_set(full, voxels), 0, True)
    style(REGION, cubes.style_voxels, "region", theme.NOT_A_NUMBER if explodes else theme.FAR_CUT,
          _SIZES[REGION], None, not view.layers["slice"])
