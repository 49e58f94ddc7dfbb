"""Cubes: the voxels of a category, in one colour or coloured by a field."""

from __future__ import annotations

from typing import Any

import numpy as np
import polyscope as ps
from jaxtyping import Bool, Float, Int

from sparseflex.voxels import SparseVoxels
from workbench import theme
from workbench.layer_view import DEFAULT_SIZES
from workbench.scene_parts.paint import paint
from workbench.split import CATEGORIES, Split
from workbench.theme import Colour

_SHADED_SIZE = 0.6
"""Larger cubes of any category hide each other and are shaded to be told apart; small ones are flat dots."""


def draw_voxels(
    name: str, category: str, split: Split, among: Bool[np.ndarray, "N"] | None = None
) -> list[Any]:
    """The voxels of a category, or those among these rows, as cubes; nothing where there are none.

    Only the active ones are drawn full: no transparency, which is slow in software.
    """
    found = draw_rows(name, split.voxels, split.rows(category, among))
    for grid in found:
        style_voxels(grid, category, theme.CATEGORY_COLOURS[category], DEFAULT_SIZES[category], None, True)
    return found


def draw_rows(name: str, voxels: SparseVoxels, rows: Bool[np.ndarray, "N"]) -> list[Any]:
    """Some voxels of a set as cubes, to be styled; nothing where there are none."""
    if not rows.any():
        return []
    chosen = np.compress(rows, voxels.voxel_ijk.numpy(), axis=0)  # a fourth of what indexing with rows takes
    return _register(name, chosen, voxels.resolution)


def draw_set(name: str, voxels: SparseVoxels) -> list[Any]:
    """A set of voxels as flat cubes, to be styled; nothing where it is empty."""
    return _register(name, voxels.voxel_ijk.numpy(), voxels.resolution) if voxels.n_voxels else []


def _register(name: str, voxel_ijk: Int[np.ndarray, "n 3"], resolution: int) -> list[Any]:
    return [ps.register_sparse_volume_grid(name, (-0.5,) * 3, (1 / resolution,) * 3, voxel_ijk, edge_width=0)]


def style_voxels(
    grid: Any, category: str, colour: Colour, size: float, colours: Float[np.ndarray, "n 3"] | None, whole: bool
) -> None:
    """One colour, or one a voxel; flat where colours must match a bar. size: edge in voxel widths. whole: a cut takes
    or leaves whole cubes; else it goes through them, which are hollow."""
    shaded = colours is None and (category == "active" or category in CATEGORIES and size > _SHADED_SIZE)
    grid.set_cube_size_factor(1 - size)
    if getattr(grid, "look", None) != (shaded, whole):  # each builds the grid's shader anew
        grid.set_cull_whole_elements(whole)
        grid.set_material("clay" if shaded else "flat")
        grid.look = shaded, whole
    grid.set_color(theme.lit(colour) if shaded else colour)
    paint(grid, colours)
