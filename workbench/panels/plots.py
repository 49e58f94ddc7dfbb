"""Plots: losses, counts, planes, seconds and bytes per stage, or any scalar, over the iterations."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from workbench import theme
from workbench.commands import Command, GoTo
from workbench.panels.scalar_text import shown
from workbench.plot_axes import Curve, dashed, setup_axes
from workbench.plot_view import MARK_COLOURS, PlotView, choices, columns_of, line_label
from workbench.point_view import colour_of_scalar
from workbench.snapshot import History, Snapshot
from workbench.ui import Ui, packed
from workbench.view_state import ViewState

MAX_POINTS = 1024
MAX_MARKS = 256
FEW_POINTS = 24
"""So many values, and fewer, are marked one by one."""


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    """None: the history is part of every snapshot."""
    return set()


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    history, plots = snapshot.history, view.plots
    plots.other = History() if view.pair is None else view.pair.latest.history
    if history.n_rows == 0 and plots.other.n_rows:  # B alone has come somewhere
        history = History(plots.other.names, np.zeros((0, len(plots.other.names))))
        snapshot = dataclasses.replace(snapshot, history=history)
    if history.n_rows + plots.other.n_rows == 0 or not choices(history):
        ui.text("No iteration has ended yet.", theme.MUTED)
        return []
    _, plots.log_iterations = ui.im.Checkbox("Logarithmic iterations", plots.log_iterations)
    if view.pair is not None:
        ui.text_right("A solid, B dashed", theme.MUTED)
    commands: list[Command] = []
    for place in ("upper", "lower"):
        room = ui.im.GetContentRegionAvail()[1]
        commands += _draw_plot(ui, view, snapshot, place, (room / 2 if place == "upper" else room) - 0.4 * ui.em)
    return commands


def _draw_plot(ui: Ui, view: ViewState, snapshot: Snapshot, place: str, room: float) -> list[Command]:
    """Choice, legend and lines; room: the height of all of it in pixels."""
    history, plots = snapshot.history, view.plots
    known = choices(history)
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
        ui.legend([(line_label(name), _colour(number, name)) for number, name in enumerate(names)])
    height = max(room - (ui.im.GetCursorPosY() - top) - 0.3 * ui.em, 7 * ui.em)
    return _draw_lines(ui, f"##{place} lines", snapshot, names, height, log_scale, plots)


def _colour(index: int, name: str) -> theme.Colour:
    """The next of the lines' colours, or the one that the scene gives to what the scalar counts."""
    return colour_of_scalar(name) or theme.LINES[index % len(theme.LINES)]


def _draw_lines(ui: Ui, title: str, snapshot: Snapshot, names: list[str], height: float, log_scale: bool,
                plots: PlotView) -> list[Command]:
    plot, history = ui.plot, snapshot.history
    flags = int(plot.ImPlotFlags_NoTitle) | int(plot.ImPlotFlags_NoMenus) | int(plot.ImPlotFlags_NoMouseText)
    flags |= int(plot.ImPlotFlags_NoLegend)
    if not plot.BeginPlot(title, (ui.width, height), flags):
        return []
    curves = [plots.once((name, log_scale), history, lambda name=name: _curve(history, name, log_scale))
              for name in names]
    shared, beside = _curves_beside(plots, names, log_scale)
    log = plots.log_iterations, log_scale
    limits = setup_axes(ui, curves + beside, log)
    for index, (name, (xs, ys)) in enumerate(zip(names, curves, strict=True)):
        colour = (*_colour(index, name), 1.0)
        plot.SetNextLineStyle(colour, (0.14 if name == "loss" else 0.09) * ui.em)
        if len(xs) <= FEW_POINTS:  # a line through one point is nothing
            plot.SetNextMarkerStyle(int(plot.ImPlotMarker_Circle), 0.2 * ui.em, colour, 0.0, colour)
        plot.PlotLine(name, xs, ys)
    for name, curve in zip(shared, beside, strict=True):
        plot.SetNextLineStyle((*_colour(names.index(name), name), 1.0), (0.14 if name == "loss" else 0.09) * ui.em)
        plot.PlotLine(f"B {name}", *dashed(curve, limits, log, (ui.width, height), 0.45 * ui.em))
    draw_marks(ui, snapshot)
    commands: list[Command] = []
    if plot.IsPlotHovered():
        at = float(plot.GetPlotMousePos()[0])
        _draw_values(ui, (history, plots.other), names, at, going_to(snapshot) is not None)
        if ui.im.IsMouseClicked(0) and going_to(snapshot) is not None:
            low, high = going_to(snapshot)
            commands = [GoTo(int(min(max(round(at), low), high)))]
    plot.EndPlot()
    return commands


def going_to(snapshot: Snapshot) -> tuple[int, int] | None:
    """The iterations that can be gone to."""
    past = snapshot.past
    return None if past.oldest is None or snapshot.failure is not None else (past.oldest, past.reached)


def draw_marks(ui: Ui, snapshot: Snapshot) -> None:
    """Where there are keyframes, prunings and changes, at the lower edge, and a line at the present iteration."""
    plot = ui.plot
    (left, top), (wide, high) = plot.GetPlotPos(), plot.GetPlotSize()
    draw = plot.GetPlotDrawList()
    for name, colour in MARK_COLOURS.items():
        marks = np.asarray(snapshot.marks.get(name, ()), np.float64)
        if len(marks) > MAX_MARKS:  # evenly spread ones, as they are too close to be told apart
            marks = marks[np.linspace(0, len(marks) - 1, MAX_MARKS).astype(int)]
        xs = {round(plot.PlotToPixels(mark, 1.0)[0]) for mark in marks.tolist()}
        for x in xs:
            if left <= x <= left + wide:
                draw.AddLine((x, top + high - 0.4 * ui.em), (x, top + high), packed(colour), 1.0)
    if snapshot.iteration < snapshot.past.reached:
        plot.SetNextLineStyle((*theme.ACCENT, 0.9), 1.0)
        plot.PlotInfLines("##now", np.array([float(snapshot.iteration)]))


def _curves_beside(plots: PlotView, names: list[str], log_scale: bool) -> tuple[list[str], list[Curve]]:
    """Which of these scalars the other run has too, and their curves."""
    other = plots.other
    shared = [name for name in names if name in other.names and other.n_rows]
    return shared, [plots.once(("B", name, log_scale), other, lambda name=name: _curve(other, name, log_scale))
                    for name in shared]


def _curve(history: History, name: str, log_scale: bool) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """The points that draw a column; on a logarithmic axis those above 0."""
    values = history.column(name)
    return thinned(history.column("iteration"), np.where(values > 0, values, np.nan) if log_scale else values)


def _draw_values(ui: Ui, histories: tuple[History, History], names: list[str], at: float, goes: bool) -> None:
    """A line at the iteration under the mouse, and what every curve is there; goes: whether a click goes there."""
    iterations = np.concatenate([history.column("iteration") for history in histories if history.n_rows])
    here = iterations[int(np.abs(iterations - at).argmin())]
    ui.plot.SetNextLineStyle((*theme.MUTED, 0.8), 1.0)
    ui.plot.PlotInfLines("##here", np.array([here]))
    ui.im.BeginTooltip()
    ui.text(f"iteration {int(here):,}{': click to go there' if goes else ''}", theme.MUTED)
    for index, name in enumerate(names):
        ui.dot(_colour(index, name))
        values = [_value(history, name, here) for history in histories if history.n_rows]
        ui.text(f"{line_label(name)} {' | '.join('–' if value is None else shown(name, value) for value in values)}")
    ui.im.EndTooltip()


def _value(history: History, name: str, iteration: float) -> float | None:
    """A scalar at an iteration; None where the run hasn't been there, or has none of that name."""
    rows = np.flatnonzero(history.column("iteration") == iteration)
    return float(history.column(name)[rows[-1]]) if len(rows) and name in history.names else None


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
