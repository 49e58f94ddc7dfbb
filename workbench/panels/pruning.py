"""Pruning: what a coarse-to-fine fit kept, dropped and added, level by level, why, and where that was wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparseflex.training.pruning import PruneEvent
from workbench import theme
from workbench.commands import ChangeSetting, Command
from workbench.panels import decisions
from workbench.panels.plots import thinned
from workbench.plot_axes import setup_axes
from workbench.pruning_view import KINDS, level_rows
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count
from workbench.view_state import LAYER_TIPS, LAYERS, ViewState

N_BINS = 40
CURVES = ("voxels", "pruned", "born")
THRESHOLDS = {"prune_below": "prune below", "keep_above": "keep above"}
_HEADINGS = ("level", "kept", "pruned", "born", "w. kept", "w. pruned")
_HEADING_TIPS = (
    "Resolution of the level", "Voxels after its last look", "Dropped at all its looks; children without surface too",
    "Added at all its looks, where the target was seen again and again",
    "Of the kept ones, how many the target doesn't come within a quarter voxel of",
    "Of the dropped ones, how many the target touches",
)


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return decisions.fields(view, snapshot) if snapshot.products.stages else {"prune", "occupancy"}


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    if snapshot.products.stages:
        return decisions.draw(ui, view, snapshot)
    view.pruning.level = None
    if snapshot.field_kinds.get("prune") != "prune":
        ui.heading("Pruning")
        ui.wrapped("This run has one level and prunes nothing. A fit that goes coarse to fine: "
                   "--resolution 128 --start-resolution 32, or start_resolution in a scene's [fit].", theme.MUTED)
        return []
    events = snapshot.fields.get("prune") or ()
    commands = _draw_occupancy(ui, snapshot)
    _draw_levels(ui, events)
    _draw_event(ui, view, events)
    _draw_counts(ui, view, snapshot)
    return commands


def _draw_occupancy(ui: Ui, snapshot: Snapshot) -> list[Command]:
    """How sure the fit is of its voxels, with the two thresholds of the hysteresis."""
    scalars = snapshot.scalars
    ui.heading("Occupancy", f"{int(scalars['resolution'])}³" if "resolution" in scalars else "")
    commands = _draw_thresholds(ui, snapshot)
    occupancy = snapshot.fields.get("occupancy")
    if occupancy is None or not len(occupancy):
        ui.text("Nothing has been judged yet.", theme.MUTED)
        return commands
    known = occupancy[np.isfinite(occupancy)]
    counts = np.histogram(known, bins=N_BINS, range=(0.0, 1.0))[0].astype(np.float64)
    flags = int(ui.plot.ImPlotFlags_CanvasOnly) | int(ui.plot.ImPlotFlags_NoInputs)
    if ui.plot.BeginPlot("##occupancy", (ui.width, 4.6 * ui.em), flags):
        bare = int(ui.plot.ImPlotAxisFlags_NoGridLines) | int(ui.plot.ImPlotAxisFlags_NoTickMarks)
        ui.plot.SetupAxes("", "", bare, int(ui.plot.ImPlotAxisFlags_NoDecorations))
        ui.plot.SetupAxesLimits(0.0, 1.0, 0.0, max(counts.max(), 1.0) * 1.05, int(ui.plot.ImPlotCond_Always))
        ui.plot.SetNextFillStyle((*theme.ACTIVE, 1.0))
        ui.plot.PlotBars("##voxels", (np.arange(N_BINS) + 0.5) / N_BINS, counts, 0.9 / N_BINS)
        for name, colour in (("prune_below", theme.PRUNED), ("keep_above", theme.BORN)):
            if name in snapshot.settings:
                ui.plot.SetNextLineStyle((*colour, 1.0), 2.0)
                ui.plot.PlotInfLines(f"##{name}", np.array([snapshot.settings[name].value]))
        ui.plot.EndPlot()
    ui.pair("judged, not yet judged", f"{count(len(known))}, {count(len(occupancy) - len(known))}")
    return commands


def _draw_thresholds(ui: Ui, snapshot: Snapshot) -> list[Command]:
    commands: list[Command] = []
    for name, label in THRESHOLDS.items():
        setting = snapshot.settings.get(name)
        if setting is None:
            continue
        ui.im.SetNextItemWidth(ui.width - 6.4 * ui.em)
        changed, value = ui.im.SliderFloat(label, setting.value, setting.minimum, setting.maximum, "%.2f")
        ui.tip(f"{setting.help}. Takes effect with the next iteration")
        if changed:
            commands.append(ChangeSetting(name, float(value)))
    return commands


def _draw_levels(ui: Ui, events: Sequence[PruneEvent]) -> None:
    ui.heading("Levels")
    rows = level_rows(events)
    if not rows:
        ui.text("No look yet.", theme.MUTED)
        return
    with ui.sized(0.82):
        if not ui.im.BeginTable("levels", len(_HEADINGS), int(ui.im.ImGuiTableFlags_SizingStretchProp)):
            return
        for heading, tip in zip(_HEADINGS, _HEADING_TIPS, strict=True):
            ui.im.TableNextColumn()
            ui.text(heading, theme.MUTED)
            ui.tip(tip)
        for row in rows:
            for value in (f"{row.resolution}³", *map(count, (row.n_kept, row.n_pruned, row.n_born, row.n_wrongly_kept,
                                                             row.n_wrongly_pruned))):
                ui.im.TableNextColumn()
                ui.text(value)
        ui.im.EndTable()


def _draw_event(ui: Ui, view: ViewState, events: Sequence[PruneEvent]) -> None:
    """One look: chosen by a slider, with its counts, reasons and layers."""
    pruning, event = view.pruning, view.pruning.event(events)
    if event is None:
        return
    ui.heading("One look", "subdivided" if event.subdivided else "")
    at = next(index for index, known in enumerate(events) if known is event)
    ui.im.SetNextItemWidth(ui.width)
    changed, at = ui.im.SliderInt("##look", at, 0, len(events) - 1, f"iteration {event.iteration}, {event.resolution}³")
    ui.tip("Which look at the voxels is shown; at the right end the latest, also of those to come")
    if changed:  # what is typed may be anything
        pruning.chosen = None if at >= len(events) - 1 else events[max(at, 0)].iteration
    found = pruning.summary(event)
    ui.shares([(event.n_kept, theme.ACTIVE), (event.n_pruned, view.shades.colour("pruned"))], 0.5 * ui.em)
    for kind in KINDS:
        decisions.draw_layer(ui, view, kind, found.counts[kind], LAYER_TIPS[LAYERS.index(kind)])
        decisions.draw_details(ui, found.reasons[kind])


def _draw_counts(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    history = snapshot.history
    names = [name for name in CURVES if name in history.names]
    if history.n_rows == 0 or not names:
        return
    ui.heading("Over time")
    _, view.pruning.log_counts = ui.im.Checkbox("log##pruning", view.pruning.log_counts)
    colours = {"voxels": theme.ACTIVE, "pruned": theme.PRUNED, "born": theme.BORN}
    ui.im.SameLine()
    ui.legend([(name, colours[name]) for name in names], framed=True)
    flags = int(ui.plot.ImPlotFlags_NoTitle) | int(ui.plot.ImPlotFlags_NoMenus) | int(ui.plot.ImPlotFlags_NoLegend)
    height = max(ui.im.GetContentRegionAvail()[1], 8 * ui.em)
    if not ui.plot.BeginPlot("##pruning over time", (ui.width, height), flags):
        return
    curves = []
    for name in names:
        values = history.column(name)
        if name != "voxels" or view.pruning.log_counts:  # most iterations look at nothing
            values = np.where(values > 0, values, np.nan)
        curves.append(thinned(history.column("iteration"), values))
    setup_axes(ui, curves, (False, view.pruning.log_counts))
    for name, (xs, ys) in zip(names, curves, strict=True):
        colour = (*colours[name], 1.0)
        if name == "voxels":
            ui.plot.SetNextLineStyle(colour, 0.1 * ui.em)
            ui.plot.PlotLine(name, xs, ys)
        else:
            ui.plot.SetNextMarkerStyle(int(ui.plot.ImPlotMarker_Circle), 0.22 * ui.em, colour, 0.0, colour)
            ui.plot.PlotScatter(name, xs, ys)
    ui.plot.EndPlot()
