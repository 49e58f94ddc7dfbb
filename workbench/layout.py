"""Layout: where the panels lie in a window of a given size, and what is left for the scene. Pure numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from workbench import theme

Rect = tuple[float, float, float, float]  # x, y, width, height in pixels

MIN_SCALE, MAX_SCALE = 0.8, 3.0

N_PLACES, MESH_PLACE = 3, 1
"""Places of one run in the scene: voxels with all that is drawn into them, the mesh, the target."""

MIN_WIDTH_EM, MIN_HEIGHT_EM = 84.0, 44.0
"""The room that the bar and the columns need, in font sizes: text is enlarged only as far as they still fit."""


def scale_for(width: float, height: float, wanted: float = 1.0) -> float:
    """The scale of text and panels: 0.8 at 1280 x 720, 1.2 at 1920 x 1080, 2.4 at 3840 x 2160; times what is wanted."""
    fitting = min(max(min(width / 1600, height / 900), MIN_SCALE), MAX_SCALE)
    largest = min(width / MIN_WIDTH_EM, height / MIN_HEIGHT_EM) / theme.FONT_PIXELS
    return max(min(fitting * wanted, largest), fitting * min(wanted, 1.0))


@dataclasses.dataclass(frozen=True)
class Layout:
    """left, right: the columns; bar: the line at the bottom; free: what they leave of the window."""

    left: Rect
    right: Rect
    bar: Rect
    free: Rect

    @classmethod
    def of(cls, width: float, height: float, em: float, panels: bool = True) -> Layout:
        """The layout of a window; em is the font size in pixels."""
        if not panels:
            nothing = (0.0, 0.0, 0.0, 0.0)
            return cls(nothing, nothing, nothing, (0.0, 0.0, width, height))
        gap = 0.5 * em
        left_width, right_width, bar_height = theme.LEFT_EM * em, theme.RIGHT_EM * em, theme.BAR_EM * em
        column_height = height - bar_height - 3 * gap
        left = (gap, gap, left_width, column_height)
        right = (width - gap - right_width, gap, right_width, column_height)
        bar = (gap, height - gap - bar_height, width - 2 * gap, bar_height)
        free = (left_width + 2 * gap, gap, width - left_width - right_width - 4 * gap, column_height)
        return cls(left, right, bar, free)


def arranged(sizes: Sequence[float], aspect: float) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Centres (x right, y up) of squares of these sizes, and width and height of the whole, centred on the origin.

    A row, or the first one with the others stacked at its right: whichever lets them be drawn larger in a rectangle
    of this aspect (width / height).
    """
    if not sizes:
        return [], (1.0, 1.0)
    choices = [_row(sizes)] + ([_row_and_stack(sizes)] if len(sizes) > 2 else [])
    return max(choices, key=lambda choice: min(aspect / choice[1][0], 1 / choice[1][1]))


def _row(sizes: Sequence[float]) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    width = sum(sizes)
    starts = [sum(sizes[:index]) - width / 2 for index in range(len(sizes))]
    return [(start + size / 2, 0.0) for start, size in zip(starts, sizes, strict=True)], (width, max(sizes))


def _row_and_stack(sizes: Sequence[float]) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    first, rest = sizes[0], sizes[1:]
    width, height = first + max(rest), max(first, sum(rest))
    tops = [sum(rest) / 2 - sum(rest[:index]) for index in range(len(rest))]
    stacked = [(width / 2 - max(rest) / 2, top - size / 2) for top, size in zip(tops, rest, strict=True)]
    return [(first / 2 - width / 2, 0.0), *stacked], (width, height)


def paired(
    sizes: Mapping[int, float], n_places: int, aspect: float, apart: bool
) -> tuple[dict[int, tuple[float, float]], tuple[float, float]]:
    """Centres and the size of the whole for two runs: the first has places 0 to n_places - 1, the second the next.

    Same places stand in line, one run below the other or beside it, whichever can be drawn larger. apart: else each
    run's places are one.
    """
    if not sizes:
        return {}, (1.0, 1.0)
    columns = sorted({slot % n_places for slot in sizes}) if apart else [0]
    column_of = {slot: columns.index(slot % n_places) if apart else 0 for slot in sizes}
    runs = sorted({slot // n_places for slot in sizes})
    widest = [max((size for slot, size in sizes.items() if column_of[slot] == number), default=1.0)
              for number in range(len(columns))]
    across, (length, breadth) = _row(widest)
    step = breadth
    wide, tall = (length, step * max(len(runs), 1)), (step * max(len(runs), 1), length)
    below = min(aspect / wide[0], 1 / wide[1]) >= min(aspect / tall[0], 1 / tall[1])
    places = {}
    for slot in sizes:
        along, side = across[column_of[slot]][0], ((len(runs) - 1) / 2 - runs.index(slot // n_places)) * step
        places[slot] = (along, side) if below else (-side, -along)
    return places, wide if below else tall


def view_axes(direction: Float[np.ndarray, "3"]) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Right and up of a view from where the unit direction points; straight up or down, right is +x."""
    right = np.cross((0.0, 1.0, 0.0), direction)
    length = np.linalg.norm(right)
    right = right / length if length > 1e-6 else np.array([1.0, 0.0, 0.0])
    return right, np.cross(direction, right)
