"""Stage costs: a number of every stage over the iterations, on top of each other or as lines, and what has changed."""

from __future__ import annotations

import numpy as np

from sparseflex.training.measure import SECS_PREFIX
from workbench import theme
from workbench.commands import Command, GoTo
from workbench.cost_view import OTHERS, Pointed, StageRow, StageValues, change_words, pointed_at, recent, rows_of
from workbench.panels.plots import draw_marks, going_to, thinned
from workbench.plot_axes import Curve, setup_axes
from workbench.snapshot import Snapshot
from workbench.ui import Ui, megabytes, milliseconds
from workbench.view_state import ViewState

_ALPHA = 0.85
_ASIDES = {"states kept": "What is kept to go back; while the run plays, at most 2 % of the time",
           "recording": "Copying for the file what falls due; a process of its own writes it",
           "snapshots": "Copying what the window shows, between two stages"}
_LATE_SHARE = 0.01
_COLUMNS = (("stage", 1.75, ""), ("last", 1.0, "What it took when it ran last"),
            ("median", 1.0, "Over the last 50 iterations"), ("share", 0.7, "Of all stages' median"))
_LINE_EM = 1.3
_LEAST_PLOT_EM, _MOST_PLOT_EM = 9.0, 22.0


def draw_time(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    """Seconds per stage over the iterations, the table by share, and what takes time besides."""
    values = view.costs.seconds(snapshot)
    rows = _rows(view, snapshot)
    total = sum(row.median for row in rows if row.median == row.median)
    ui.heading("Seconds per stage", f"{milliseconds(total)} an iteration" if rows else "")
    commands: list[Command] = []
    if values.n_rows:
        draw_change(ui, view, snapshot, values, SECS_PREFIX)
        below = len(rows) + len(_ASIDES) + 7.5  # lines of all that comes below it
        height = ui.im.GetContentRegionAvail()[1] / ui.em - _LINE_EM * below
        height = min(max(height, _LEAST_PLOT_EM), _MOST_PLOT_EM)
        commands = draw_plot(ui, view, snapshot, values, stacked=not view.costs.lines, height_em=height)
        _draw_switches(ui, view)
    else:
        ui.text("No iteration has been measured yet.", theme.MUTED)
    _draw_table(ui, view, values, rows)
    _draw_asides(ui, view, snapshot, total)
    return commands


def draw_change(ui: Ui, view: ViewState, snapshot: Snapshot, values: StageValues, prefix: str) -> None:
    """The line on what has changed, where anything has."""
    change = view.costs.change(values, prefix, snapshot.playing)
    if change is None:
        return
    worse = change.kind in ("slower", "more", "leak")
    ui.wrapped(change_words(change, snapshot.history), theme.BAD if worse else theme.GOOD)
    what = "time" if prefix == SECS_PREFIX else "memory"
    first = snapshot.stages[:1] == (change.stage,) and change.kind == "leak"
    ui.tip(f"The stage whose {what} has changed by most: medians of the 50 iterations before and after.\n"
           "It is shown where noise does not explain it, and as long as it lasts."
           + ("\nThe first stage stands for all that is kept between two iterations, too." if first else ""))


def _draw_switches(ui: Ui, view: ViewState) -> None:
    _, view.costs.lines = ui.im.Checkbox("Each alone, log", view.costs.lines)
    ui.tip("Every stage as a line on a logarithmic axis, instead of all on top of each other")
    ui.im.SameLine()
    _, view.costs.log_iterations = ui.im.Checkbox("Log iterations", view.costs.log_iterations)


def colour_of(view: ViewState, values: StageValues, stage: str) -> theme.Colour:
    """The stage's own colour, grey for the others."""
    slot = view.costs.shown(values).get(stage)
    return theme.LINES[slot % len(theme.LINES)] if slot is not None else theme.mixed(theme.MUTED, theme.PANEL, 0.35)


def draw_plot(ui: Ui, view: ViewState, snapshot: Snapshot, values: StageValues, stacked: bool, height_em: float = 11.0,
              scale: float = 1e3, unit: str = "ms") -> list[Command]:
    """The values over the iterations; pointing tells them, a click goes there. values must have rows; scale: of the
    axis against them."""
    plot, costs = ui.plot, view.costs
    layers = costs.layers(values)
    log = costs.log_iterations, not stacked and unit == "ms"
    flags = int(plot.ImPlotFlags_NoTitle) | int(plot.ImPlotFlags_NoMenus) | int(plot.ImPlotFlags_NoMouseText)
    flags |= int(plot.ImPlotFlags_NoLegend)
    if not plot.BeginPlot(f"##{unit} of stages", (ui.width, height_em * ui.em), flags):
        return []
    if stacked:
        floor = np.zeros(len(layers.xs))
        edges = [floor, *(scale * top for top in layers.tops)]
        setup_axes(ui, [(layers.xs, floor), (layers.xs, edges[-1])], log, y_label=unit)
        for name, low, high in zip(layers.names, edges, edges[1:], strict=False):
            plot.SetNextFillStyle((*colour_of(view, values, name), _ALPHA))
            plot.PlotShaded(f"##{name}", layers.xs, low, high)
    else:
        _draw_lines(ui, view, values, log, scale, unit)
    draw_marks(ui, snapshot)
    commands: list[Command] = []
    if plot.IsPlotHovered():
        at, mouse_height = plot.GetPlotMousePos()
        pointed = pointed_at(values, layers, float(at), float(mouse_height) / scale)
        commands = _point(ui, view, snapshot, values, pointed, stacked, unit)
    plot.EndPlot()
    return commands


def _draw_lines(ui: Ui, view: ViewState, values: StageValues, log: tuple[bool, bool], scale: float, unit: str) -> None:
    curves = view.costs.once(f"lines of {unit}", values, (log[1],), lambda: _curves(view, values, log[1], scale))
    setup_axes(ui, list(curves.values()), log, y_label=unit)
    for stage, (xs, ys) in curves.items():
        colour = (*colour_of(view, values, stage), 1.0)
        ui.plot.SetNextLineStyle(colour, 0.09 * ui.em)
        if len(xs) == 1:  # a line through one point is nothing
            ui.plot.SetNextMarkerStyle(int(ui.plot.ImPlotMarker_Circle), 0.2 * ui.em, colour, 0.0, colour)
        ui.plot.PlotLine(f"##{stage}", xs, ys)


def _curves(view: ViewState, values: StageValues, log: bool, scale: float) -> dict[str, Curve]:
    """A line for each stage that is shown; on a logarithmic axis of what is above 0."""
    found = {}
    for stage in view.costs.shown(values):
        column = scale * values.values[:, values.stages.index(stage)]
        found[stage] = thinned(values.iterations, np.where(column > 0, column, np.nan) if log else column)
    return found


def _point(ui: Ui, view: ViewState, snapshot: Snapshot, values: StageValues, pointed: Pointed, stacked: bool, unit: str
           ) -> list[Command]:
    """What is under the mouse, and where a click goes."""
    ui.plot.SetNextLineStyle((*theme.TEXT, 0.8), 1.0)
    ui.plot.PlotInfLines("##here", np.array([float(pointed.iteration)]))
    ends = going_to(snapshot)
    shown = milliseconds if unit == "ms" else megabytes
    ui.im.BeginTooltip()
    ui.text(f"iteration {pointed.iteration:,}{': click to go there' if ends else ''}", theme.MUTED)
    for name, value in reversed(pointed.values):
        ui.dot(colour_of(view, values, name))
        ui.text(f"{name} {shown(value)}", theme.TEXT if stacked and name == pointed.stage else theme.MUTED)
    if unit == "ms":
        ui.text(f"together {shown(sum(value for _, value in pointed.values))}")
    ui.im.EndTooltip()
    if ends is None or not ui.im.IsMouseClicked(0):
        return []
    return [GoTo(int(min(max(pointed.iteration, ends[0]), ends[1])))]


def _rows(view: ViewState, snapshot: Snapshot) -> list[StageRow]:
    """The table's lines. A stage of the iteration under way has taken what it took just now."""
    key = snapshot.iteration, snapshot.history.n_rows, snapshot.iteration_under_way, *snapshot.stage_secs.items()

    def make() -> list[StageRow]:
        values = recent(snapshot)
        fresher = snapshot.iteration_under_way or not values.n_rows
        return rows_of(values, {**values.latest(), **(snapshot.stage_secs if fresher else {})})

    return view.costs.once("rows", view.costs.seconds(snapshot), key, make)


def _draw_table(ui: Ui, view: ViewState, values: StageValues, rows: list[StageRow]) -> None:
    if not rows or not ui.im.BeginTable("stage seconds", len(_COLUMNS), 0, (0.0, 0.0)):
        return
    table_head(ui, _COLUMNS)
    for row in rows:
        ui.im.TableNextRow()
        ui.im.TableNextColumn()
        _draw_name(ui, view, values, row)
        numbers(ui, milliseconds(row.now), milliseconds(row.median), f"{row.share:.0%}")
    ui.im.EndTable()


def table_head(ui: Ui, columns: tuple[tuple[str, float, str], ...]) -> None:
    """The first line of a table: names with their weights and tips; those of numbers end at the right."""
    for name, weight, _ in columns:
        ui.im.TableSetupColumn(name, 0, weight)
    ui.im.TableNextRow()
    for index, (name, _, tip) in enumerate(columns):
        ui.im.TableNextColumn()
        with ui.sized(0.88):
            _ends_right(ui, name if index else "")
            ui.text(name, theme.MUTED)
        ui.tip(tip)


def numbers(ui: Ui, *texts: str) -> None:
    """The next cells of a table's row."""
    for text in texts:
        ui.im.TableNextColumn()
        _ends_right(ui, text)
        ui.text(text)


def _ends_right(ui: Ui, text: str) -> None:
    if text:
        ui.im.SetCursorPosX(ui.im.GetCursorPosX() + max(ui.width - ui.im.CalcTextSize(text)[0], 0.0))


def _draw_name(ui: Ui, view: ViewState, values: StageValues, row: StageRow) -> None:
    ui.dot(colour_of(view, values, row.stage))
    label = f"{row.n_stages} others" if row.stage == OTHERS else row.stage
    ui.text(ui.shortened(label, ui.width), theme.MUTED)
    if label != ui.shortened(label, ui.width):
        ui.tip(label)


def _draw_asides(ui: Ui, view: ViewState, snapshot: Snapshot, stages_secs: float) -> None:
    """What takes time besides the stages, of the engine's and of the window's."""
    ui.heading("Besides the stages")
    for name, tip in _ASIDES.items():
        secs = snapshot.aside_secs.get(name)
        if secs is None or (name == "recording" and snapshot.recording is None):
            continue
        share = f", {secs / stages_secs:.0%}" if stages_secs > 0 and secs >= _LATE_SHARE * stages_secs else ""
        ui.pair(name, f"{milliseconds(secs)}{share}")
        ui.tip(f"{tip}.\nMean of the last iterations, beside the stages' time")
    if snapshot.iterations_per_sec > 0:
        ui.pair("all told", milliseconds(1 / snapshot.iterations_per_sec))
        ui.tip("From the end of one iteration to the end of the next, stages and all")
    if snapshot.source != "live":
        ui.pair("reading the recording", milliseconds(snapshot.publish_secs))
    redraw = view.redraw
    ui.pair("redraws", f"{redraw.share:.0%} of the time")
    ui.tip(f"Of the window, beside the run: panels {milliseconds(redraw.ui_secs)}, with the scene "
           f"{milliseconds(redraw.scene_secs)}.\nWhile the run trains and nobody touches the window they are held down")
