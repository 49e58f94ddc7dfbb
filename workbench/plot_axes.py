"""Axes around curves: nothing lies on the border of a plot, and no tick's label is cut off there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from workbench.colour_maps import ticks
from workbench.ui import Ui

Curve = tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]
Limits = tuple[tuple[float, float], tuple[float, float]]
"""Least and greatest x, least and greatest y."""

MAX_DASHES = 401

_MARGINS = 0.02, 0.06
"""Free space beyond the outermost points along x and y, as a share of their range."""

_PLOT_SHARE = 0.8
"""How much of a plot's width its inner part has about: the labels of y take the rest."""


def setup_axes(ui: Ui, curves: Sequence[Curve], log: tuple[bool, bool] = (False, False), y_label: str = "") -> Limits:
    """Limits around all points of the curves, x being iterations; log: whether x and y are logarithmic. Gives them.

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
    return (low_x, high_x), (low_y, high_y)


def dashed(curve: Curve, limits: Limits, log: tuple[bool, bool], size: tuple[float, float], dash: float) -> Curve:
    """The curve as dashes of so many pixels, NaN between them: ImPlot has none of its own. size: of the plot in pixels.

    A curve that goes to and fro has longer ones, at most MAX_DASHES; it begins and ends with a dash.
    """
    xs, ys = curve
    if len(xs) < 2:
        return curve
    found = [np.log10(values) if is_log else np.asarray(values, np.float64)
             for values, is_log in zip(curve, log, strict=True)]
    ends = [np.log10(pair) if is_log else np.asarray(pair) for pair, is_log in zip(limits, log, strict=True)]
    steps = [np.diff(values) * pixels / max(pair[1] - pair[0], 1e-300)
             for values, pair, pixels in zip(found, ends, size, strict=True)]
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*steps))])
    if not 0 < along[-1] < np.inf:
        return curve
    n_dashes = int(min(max(along[-1] / max(dash, 1.0), 1), MAX_DASHES)) | 1
    breaks = np.linspace(0.0, along[-1], n_dashes + 1)
    places = np.union1d(along, breaks)
    number = np.searchsorted(breaks, places, side="right") - 1
    ended = np.isin(places, breaks[1::2])  # where a dash ends, and a gap begins
    kept = (number % 2 == 0) | ended
    cuts = np.flatnonzero(ended[kept]) + 1
    drawn = [np.insert(np.interp(places[kept], along, values), cuts, np.nan) for values in found]
    xs, ys = (10.0**values if is_log else values for values, is_log in zip(drawn, log, strict=True))
    return xs, ys


def whole_ticks(low: float, high: float, width: float, width_of: Callable[[str], float]) -> list[float]:
    """Round whole numbers whose labels lie within an axis of this width in pixels and don't touch."""
    per_pixel = (high - low) / max(width, 1.0)
    widest = width_of(f"{high:.0f}")
    found = ticks(low, high, min(max(int(width / max(1.3 * widest, 1.0)), 2), 9))
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
