"""Plots: the loss with its terms, and any other scalar of the run, over the iterations."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from workbench import theme
from workbench.commands import Command
from workbench.snapshot import History, Snapshot
from workbench.ui import Ui
from workbench.view_state import ViewState

MAX_POINTS = 1024


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return set()



def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    ui.heading("Loss")
    history = snapshot.history
    losses = [name for name in history.names if name == "loss" or name.startswith("loss_")]
    others = [name for name in history.names if name not in losses and name != "iteration"]
    if history.n_rows == 0:
        ui.text("No iteration has ended yet.", theme.MUTED)
        return []
    ui.legend([("total" if name == "loss" else name.removeprefix("loss_"), _colour(index))
               for index, name in enumerate(losses)])
    _, view.log_scale = ui.im.Checkbox("Logarithmic", view.log_scale)
    room = ui.im.GetContentRegionAvail()[1]
    second = bool(others) and room > 16 * ui.em
    share = room - 10.5 * ui.em if second else room - 0.5 * ui.em
    _draw_lines(ui, "##loss", history, losses or others[:1], max(share, 6 * ui.em), view.log_scale)
    if second:
        chosen = view.plotted if view.plotted in others else ("faces" if "faces" in others else others[0])
        ui.im.SetNextItemWidth(ui.width)
        changed, index = ui.im.Combo("##scalar", others.index(chosen), others)
        if changed:
            view.plotted = others[index]
        _draw_lines(ui, "##other", history, [chosen], ui.im.GetContentRegionAvail()[1] - 0.3 * ui.em, False)
    return []


def _colour(index: int) -> theme.Colour:
    return theme.LINES[index % len(theme.LINES)]


def _draw_lines(ui: Ui, title: str, history: History, names: list[str], height: float, log_scale: bool) -> None:
    flags = int(ui.plot.ImPlotFlags_NoTitle) | int(ui.plot.ImPlotFlags_NoMenus) | int(ui.plot.ImPlotFlags_NoMouseText)
    flags |= int(ui.plot.ImPlotFlags_NoLegend)
    if not ui.plot.BeginPlot(title, (ui.width, height), flags):
        return
    fit = int(ui.plot.ImPlotAxisFlags_AutoFit) | int(ui.plot.ImPlotAxisFlags_NoMenus)
    ui.plot.SetupAxes("", "", fit, fit)
    if log_scale:
        ui.plot.SetupAxisScale(int(ui.plot.ImAxis_Y1), int(ui.plot.ImPlotScale_Log10))
    iterations = history.column("iteration")
    for index, name in enumerate(names):
        values = history.column(name)
        if log_scale:
            values = np.where(values > 0, values, np.nan)
        xs, ys = thinned(iterations, values)
        ui.plot.SetNextLineStyle((*_colour(index), 1.0), (0.14 if name == "loss" else 0.09) * ui.em)
        ui.plot.PlotLine(name, xs, ys)
    ui.plot.EndPlot()


def thinned(
    xs: Float[np.ndarray, "n"], ys: Float[np.ndarray, "n"], n_points: int = MAX_POINTS
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """At most n_points points that draw the same curve: lowest and highest of each run of points, in order.

    Points that aren't finite are left out.
    """
    finite = np.isfinite(ys)
    xs, ys = xs[finite], ys[finite]
    if len(ys) <= n_points:
        return np.ascontiguousarray(xs), np.ascontiguousarray(ys)
    n_runs = n_points // 2
    starts = np.linspace(0, len(ys), n_runs + 1).astype(np.int64)
    picks = []
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        picks += sorted((start + int(ys[start:end].argmin()), start + int(ys[start:end].argmax())))
    return xs[picks], ys[picks]
