"""Plots: losses, counts, planes, seconds and bytes per stage, or any scalar, over the iterations."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from workbench import theme
from workbench.commands import Command
from workbench.panels.scalars import shown
from workbench.plot_axes import setup_axes
from workbench.plot_view import PlotView, choices, columns_of, line_label
from workbench.snapshot import History, Snapshot
from workbench.ui import Ui
from workbench.view_state import ViewState

MAX_POINTS = 1024


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    """None: the history is part of every snapshot."""
    return set()


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    history, plots = snapshot.history, view.plots
    if history.n_rows == 0 or not choices(history):
        ui.text("No iteration has ended yet.", theme.MUTED)
        return []
    _, plots.log_iterations = ui.im.Checkbox("Logarithmic iterations", plots.log_iterations)
    for place in ("upper", "lower"):
        room = ui.im.GetContentRegionAvail()[1]
        _draw_plot(ui, view, history, place, (room / 2 if place == "upper" else room) - 0.4 * ui.em)
    return []


def _draw_plot(ui: Ui, view: ViewState, history: History, place: str, room: float) -> None:
    """Choice, legend and lines; room: the height of all of it in pixels."""
    plots, known = view.plots, choices(history)
    chosen = plots.chosen(place, history)
    top = ui.im.GetCursorPosY()
    ui.im.SetNextItemWidth(ui.width - 5.2 * ui.em)
    changed, index = ui.im.Combo(f"##{place}", known.index(chosen), known)
    if changed:
        chosen = known[index]
        setattr(plots, place, chosen)
    ui.im.SameLine()
    _, log_scale = ui.im.Checkbox(f"log##{place}", getattr(plots, f"log_{place}"))
    setattr(plots, f"log_{place}", log_scale)
    names = columns_of(chosen, history)
    if len(names) > 1:
        ui.legend([(line_label(name), _colour(number)) for number, name in enumerate(names)])
    height = max(room - (ui.im.GetCursorPosY() - top) - 0.3 * ui.em, 7 * ui.em)
    _draw_lines(ui, f"##{place} lines", history, names, height, log_scale, plots)


def _colour(index: int) -> theme.Colour:
    return theme.LINES[index % len(theme.LINES)]


def _draw_lines(ui: Ui, title: str, history: History, names: list[str], height: float, log_scale: bool,
                plots: PlotView) -> None:
    plot = ui.plot
    flags = int(plot.ImPlotFlags_NoTitle) | int(plot.ImPlotFlags_NoMenus) | int(plot.ImPlotFlags_NoMouseText)
    flags |= int(plot.ImPlotFlags_NoLegend)
    if not plot.BeginPlot(title, (ui.width, height), flags):
        return
    curves = [plots.once((name, log_scale), history, lambda name=name: _curve(history, name, log_scale))
              for name in names]
    setup_axes(ui, curves, (plots.log_iterations, log_scale))
    for index, (name, (xs, ys)) in enumerate(zip(names, curves, strict=True)):
        plot.SetNextLineStyle((*_colour(index), 1.0), (0.14 if name == "loss" else 0.09) * ui.em)
        plot.PlotLine(name, xs, ys)
    if plot.IsPlotHovered():
        _draw_values(ui, history, names, float(plot.GetPlotMousePos()[0]))
    plot.EndPlot()


def _curve(history: History, name: str, log_scale: bool) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """The points that draw a column; on a logarithmic axis those above 0."""
    values = history.column(name)
    return thinned(history.column("iteration"), np.where(values > 0, values, np.nan) if log_scale else values)


def _draw_values(ui: Ui, history: History, names: list[str], at: float) -> None:
    """A line at the iteration under the mouse, and what every curve is there."""
    iterations = history.column("iteration")
    row = int(np.abs(iterations - at).argmin())
    ui.plot.SetNextLineStyle((*theme.MUTED, 0.8), 1.0)
    ui.plot.PlotInfLines("##here", iterations[row : row + 1].copy())
    ui.im.BeginTooltip()
    ui.text(f"iteration {int(iterations[row]):,}", theme.MUTED)
    for index, name in enumerate(names):
        ui.dot(_colour(index))
        ui.text(f"{line_label(name)} {shown(name, float(history.column(name)[row]))}")
    ui.im.EndTooltip()


def thinned(
    xs: Float[np.ndarray, "n"], ys: Float[np.ndarray, "n"], n_points: int = MAX_POINTS
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """At most n_points points that draw the same curve: lowest and highest of each run of points, in order.

    Points that aren't finite are left out.
    """
    finite = np.isfinite(ys)
    if not finite.all():
        xs, ys = xs[finite], ys[finite]
    if len(ys) <= n_points:
        return np.ascontiguousarray(xs), np.ascontiguousarray(ys)
    length = -(-len(ys) // (n_points // 2))
    n_runs = -(-len(ys) // length)
    # the last run is filled up with its last value, which is neither lower nor higher than what it has
    runs = np.pad(ys, (0, n_runs * length - len(ys)), mode="edge").reshape(n_runs, length)
    picks = np.stack([runs.argmin(axis=1), runs.argmax(axis=1)], axis=1) + np.arange(n_runs)[:, None] * length
    picks = np.unique(np.minimum(picks, len(ys) - 1))
    return xs[picks], ys[picks]
