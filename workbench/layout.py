"""Layout: where the panels lie in a window of a given size, and what is left for the scene. Pure numbers."""

from __future__ import annotations

import dataclasses

from workbench import theme

Rect = tuple[float, float, float, float]  # x, y, width, height in pixels

MIN_SCALE, MAX_SCALE = 0.8, 3.0
FONT_PIXELS = 15.0


def scale_for(width: float, height: float) -> float:
    """The scale of text and panels: 0.8 at 1280 x 720, 1.2 at 1920 x 1080, 2.4 at 3840 x 2160."""
    return min(max(min(width / 1600, height / 900), MIN_SCALE), MAX_SCALE)


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
