"""Axes around curves: nothing lies on the border of a plot, and no tick's label is cut off there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from workbench.colour_maps import ticks
from workbench.ui import Ui

Curve = tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]

_MARGINS = 0.02, 0.06
"""Free space beyond the outermost points along x and y, as a share of their range."""

_PLOT_SHARE = 0.8
"""How much of a plot's width its inner part has about: the labels of y take the rest."""


def setup_axes(ui: Ui, curves: Sequence[Curve], log: tuple[bool, bool] = (False, False), y_label: str = "") -> None:
    """Limits around all points of the curves, x being iterations; log: whether x and y are logarithmic.

    To be called between BeginPlot and the first curve; on logarithmic axes the points must be positive.
    """
    plot = ui.plot
    low_x, high_x = _limits([xs for xs, _ in curves], _MARGINS[0], log[0])
    low_y, high_y = _limits([ys for _, ys in curves], _MARGINS[1], log[1])
    plot.SetupAxes("", y_label, int(plot.ImPlotAxisFlags_NoMenus), int(plot.ImPlotAxisFlags_NoMenus))
    for axis, wanted in zip((plot.ImAxis_X1, plot.ImAxis_Y1), log, strict=True):
        if wanted:
            plot.SetupAxisScale(int(axis), int(plot.ImPlotScale_Log10))
    plot.SetupAxesLimits(low_x, high_x, low_y, high_y, int(plot.ImPlotCond_Always))
    if not log[0]:
        marks = whole_ticks(low_x, high_x, _PLOT_SHARE * ui.width, lambda text: ui.im.CalcTextSize(text)[0])
        if marks:
            plot.SetupAxisTicks(int(plot.ImAxis_X1), np.array(marks, np.float64))


def whole_ticks(low: float, high: float, width: float, width_of: Callable[[str], float]) -> list[float]:
    """Round whole numbers whose labels lie within an axis of this width in pixels and don't touch."""
    per_pixel = (high - low) / max(width, 1.0)
    widest = width_of(f"{high:.0f}")
    found = ticks(low, high, min(max(int(width / (1.8 * widest + 1)), 2), 9))
    return [mark for mark in found if mark == round(mark)
            and mark + width_of(f"{mark:.0f}") / 2 * per_pixel <= high]


def _limits(values: Sequence[Float[np.ndarray, "m"]], margin: float, log: bool) -> tuple[float, float]:
    """The range of all values with a margin on both sides; (0, 1), or (1, 10), where there is no value."""
    known = [part for part in values if len(part)]
    if not known:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(float(part.min()) for part in known), max(float(part.max()) for part in known)
    if log:
        beyond = (high / low) ** margin if high > low else 2.0
        return low / beyond, high * beyond
    beyond = margin * (high - low) or max(abs(low) / 2, 0.5)
    return (low - beyond, high + beyond) if math.isfinite(high + beyond - low) else (low, high)
