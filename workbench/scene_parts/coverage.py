"""Coverage: the voxels by how they were seen, those that are marked, and the camera that is suggested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool

from sparseflex.next_camera import Suggestion
from workbench import theme
from workbench.colour_maps import Scale
from workbench.coverage_view import FAINT, MARKED, Summary
from workbench.scene_parts import cubes
from workbench.scene_parts.frusta import draw_frustum
from workbench.view_state import ViewState

VALUES, SOME, OTHERS, GHOST = "coverage values", "coverage marked", "coverage others", "suggested camera"
GAINED = "coverage gained"
NAMES = (VALUES, SOME, OTHERS, GAINED)

SIZES = {VALUES: 0.88, SOME: 0.88, OTHERS: 0.15, GAINED: 0.88}
"""Edges of the drawn cubes in voxel widths."""

Keep = Callable[[str, tuple | None, Callable[[str], list[Any]], int, bool], None]
Style = Callable[..., None]


def draw_coverage(keep: Keep, style: Style, view: ViewState) -> None:
    """Brings the structures up to date by a scene view's keep and style; all of them go where nothing is shown."""
    own, whole = view.coverage, not view.layers["slice"]
    found = own.in_scene(view)
    marks = found is not None and own.mode == "marked"
    keep(VALUES, (found.voxels,) if found is not None and not marks else None,
         lambda full: cubes.draw_set(full, found.voxels), 0, True)
    if found is not None and not marks:
        style(VALUES, _style_values, found, view.field.scale_of(found.quantity), theme.faint(), whole)
    suggestion = own.gained(view, found) if marks else None
    keep(SOME, (found, suggestion) if marks else None,
         lambda full: cubes.draw_rows(full, found.voxels, found.marked & ~_gained(found, suggestion)), 0, True)
    keep(GAINED, (found, suggestion) if suggestion is not None else None,
         lambda full: cubes.draw_rows(full, found.voxels, found.marked & _gained(found, suggestion)), 0, True)
    style(GAINED, cubes.style_voxels, "active", theme.BORN, SIZES[GAINED], None, whole)
    keep(OTHERS, (found,) if marks else None, lambda full: cubes.draw_rows(full, found.voxels, ~found.marked), 0, True)
    style(SOME, cubes.style_voxels, "active", MARKED, SIZES[SOME], None, whole)
    style(OTHERS, cubes.style_voxels, "outside", FAINT, SIZES[OTHERS], None, whole)
    ghost = own.ghost(view)
    weight, colour = view.shades.size("frustum"), theme.BORN
    keep(GHOST, ghost and (ghost, colour, weight),
         lambda full: draw_frustum(ghost, full, weight, colour=colour), 0, True)


def _gained(found: Summary, suggestion: Suggestion | None) -> Bool[np.ndarray, "N"]:
    """What the suggested camera would see of the unseen."""
    rows = np.zeros(found.voxels.n_voxels, bool)
    if suggestion is not None:
        rows[suggestion.rows.numpy()] = True
    return rows


def _style_values(grid: Any, found: Summary, scale: Scale, faint: theme.Colour, whole: bool) -> None:
    colours = scale.colours(found.quantity.values)
    if found.quantity.has_beside:
        colours[np.isnan(found.quantity.values)] = faint
    cubes.style_voxels(grid, "active", theme.ACTIVE, SIZES[VALUES], colours, whole)
