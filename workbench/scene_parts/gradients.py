"""Gradients: the voxels of the region chosen in the Gradients tab, among all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench import theme
from workbench.scene_parts import cubes
from workbench.view_state import ViewState

REGION = "gradient region"
_SIZE = 0.98  # larger than active voxels, which it lies among

Keep = Callable[[str, tuple | None, Callable[[str], list[Any]], int, bool], None]
Style = Callable[..., None]


def draw_gradients(keep: Keep, style: Style, view: ViewState) -> None:
    """Brings the structure up to date by a scene view's keep and style."""
    found = view.gradients.region_voxels(view)
    voxels, explodes = found or (None, False)
    keep(REGION, None if voxels is None else (voxels,), lambda full: cubes.draw_set(full, voxels), 0, True)
    style(REGION, cubes.style_voxels, "region", theme.NOT_A_NUMBER if explodes else theme.FAR_CUT, _SIZE, None,
          not view.layers["slice"])
