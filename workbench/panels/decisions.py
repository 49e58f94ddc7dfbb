"""Decisions: the pruning of an inference, level by level: logits under a threshold that can be moved, and holes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparseflex.vae.diagnosis import Cause
from workbench import theme
from workbench.commands import ChangeSetting, Command
from workbench.decision_view import LEVELS, Decided, percent
from workbench.network_view import another_pass
from workbench.panels.network import drawn_points
from workbench.point_view import CAUSE, LAYER, LOOKS, POINTS
from workbench.pruning_view import KINDS
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count
from workbench.view_state import LAYER_LABELS, LAYERS, ViewState

SHOWN_KINDS = tuple(kind for kind in KINDS if kind != "born")
TRUTH = "The truth here: a child should be kept where it holds an input point. The network never sees it"
ROWS = (
    ("kept", "kept", "Children whose logit is at least the threshold"),
    ("pruned", "pruned", "The others: they and all that would come of them are gone"),
    ("wrongly_kept", "wrongly kept", f"Kept ones without an input point.\n{TRUTH}"),
    ("wrongly_pruned", "wrongly pruned", f"Pruned ones with an input point: holes to be.\n{TRUTH}"),
    ("precision", "precision", "Of the kept ones, how many hold an input point"),
    ("recall", "recall", "Of those that hold an input point, how many are kept"),
)
_PLOT_FLAGS = ("NoTitle", "NoMenus", "NoMouseText", "NoLegend", "NoBoxSelect")
_LINE_ID = 7


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return {"prune", CAUSE, *view.decisions.fields()}


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    own = view.decisions
    own.level = own.level if own.level in LEVELS else LEVELS[0]
    own.level = LEVELS[ui.choice([f"Level {level}" for level in LEVELS], LEVELS.index(own.level), tips=[
        f"The pruning after the {which} upsampling" for which in ("first", "second")])]
    view.pruning.level = own.level
    found = own.decided(view, snapshot)
    if isinstance(found, Decided):
        commands = _draw_decided(ui, view, snapshot, found)
    else:
        ui.heading("Occupancy logits")
        ui.wrapped(found)
        commands = []
    _draw_layers(ui, view, snapshot)
    _draw_causes(ui, view, snapshot)
    return commands


def _draw_decided(ui: Ui, view: ViewState, snapshot: Snapshot, found: Decided) -> list[Command]:
    name = f"threshold_{view.decisions.level}"
    setting = snapshot.settings.get(name)
    now = 0.0 if setting is None else setting.value
    threshold = view.edited.get(name, now)
    ui.heading("Occupancy logits", f"{count(found.n_children)} children, {found.resolution}³")
    ui.tip("What the pruning head says of every child of the upsampling")
    ui.legend([("holds an input point", theme.ACTIVE), ("holds none", theme.OUTSIDE)])
    ui.tip(TRUTH)
    moved = _draw_histogram(ui, found, threshold, setting is not None)
    commands: list[Command] = []
    if setting is not None:
        commands, moved = _draw_threshold(ui, snapshot, name, threshold, moved)
        if moved is not None:
            view.edited[name] = threshold = min(max(moved, setting.minimum), setting.maximum)
        if name in view.edited and not ui.im.IsMouseDown(0):  # let go
            value = view.edited.pop(name)
            if value != now:
                commands += [ChangeSetting(name, value), *another_pass(snapshot)]
    if found.n_bad:
        ui.dot(theme.NOT_A_NUMBER)
        ui.text(f"{count(found.n_bad)} logits are NaN: never kept", theme.BAD)
    prune = snapshot.settings.get("prune")
    if prune is not None and not prune.value:
        ui.wrapped("Pruning is off: all are kept. With it on, this threshold would come to:")
    _draw_consequences(ui, found, threshold, now)
    return commands


def _draw_histogram(ui: Ui, found: Decided, threshold: float, movable: bool) -> float | None:
    """Counts by logit with the threshold as a line; where that was dragged to, or None."""
    plot = ui.plot
    limits = (float(found.edges[0]), float(found.edges[-1]), 0.0, max(float(found.n_all.max()), 1.0) * 1.06)
    if not _begin(ui, "##logits", (ui.width, 6.4 * ui.em), limits, decorated=False):
        return None
    centres = (found.edges[1:] + found.edges[:-1]) / 2
    width = 0.92 * float(found.edges[1] - found.edges[0])
    for label, colour, counts in (("none", theme.OUTSIDE, found.n_all), ("point", theme.ACTIVE, found.n_true)):
        plot.SetNextFillStyle((*colour, 1.0))
        plot.PlotBars(f"##{label}", centres, counts, width)
    moved = None
    if movable:
        changed, value = plot.DragLineX(_LINE_ID, threshold, (*theme.PRUNED, 1.0), 2.0)
        moved = float(value) if changed else None
    if plot.IsPlotHovered():
        logit = float(plot.GetPlotMousePos()[0])
        place = int(np.clip(np.searchsorted(found.edges, logit) - 1, 0, len(centres) - 1))
        ui.im.SetTooltip(f"{count(found.n_all[place])} children with a logit from {found.edges[place]:.2f} to "
                         f"{found.edges[place + 1]:.2f},\n{count(found.n_true[place])} of them hold an input point")
    plot.EndPlot()
    return moved


def _draw_threshold(ui: Ui, snapshot: Snapshot, name: str, threshold: float, moved: float | None
                    ) -> tuple[list[Command], float | None]:
    """The slider, and whether anything is pruned at all; what else is asked for, and where the threshold was moved."""
    setting, commands = snapshot.settings[name], []
    prune = snapshot.settings.get("prune")
    room = 0.0 if prune is None else 5.2 * ui.em
    ui.im.SetNextItemWidth(ui.width - room)
    changed, value = ui.im.SliderFloat(f"##{name}", threshold, setting.minimum, setting.maximum, "threshold %.2f")
    if not ui.im.IsItemActive():  # the tip would hide the counts
        ui.tip("Children whose logit is below it are pruned. Counts follow at once; when it is let go, a pass runs\n"
               "from here on. The released weights are meant for 0; Ctrl + click to type")
    if prune is not None:
        ui.im.SameLine()
        used, wanted = ui.im.Checkbox("Prune", prune.value > 0)
        ui.tip("Off: all children are kept, as in training; level 2 then has 64 times the latents' voxels")
        if used:
            commands = [ChangeSetting("prune", float(wanted)), *another_pass(snapshot)]
    return commands, float(value) if changed else moved


def _draw_consequences(ui: Ui, found: Decided, threshold: float, now: float) -> None:
    """Counts at the threshold beside the precision-recall curve; while it is moved, where it was as a ring."""
    here = found.at(threshold)
    if not ui.im.BeginTable("consequences", 2, int(ui.im.ImGuiTableFlags_SizingStretchSame)):
        return
    ui.im.TableNextColumn()
    with ui.sized(0.9):
        for name, label, tip in ROWS:
            ui.text(label, theme.MUTED)
            ui.tip(tip)
            ui.text_right(percent(here[name]) if name in ("precision", "recall") else count(here[name]))
    ui.im.TableNextColumn()
    if _begin(ui, "##precision and recall", (ui.width, 8.6 * ui.em), (-0.03, 1.04, 0.0, 1.05), True):
        plot = ui.plot
        plot.SetNextLineStyle((*theme.FRUSTUM, 1.0), 0.12 * ui.em)
        plot.PlotLine("##curve", found.counts.recall.numpy().copy(), found.counts.precision.numpy().copy())
        for label, at, filled in (("before", now, False), ("here", threshold, True)):
            point = found.at(at)
            colour = (*theme.PRUNED, 1.0)
            plot.SetNextMarkerStyle(int(plot.ImPlotMarker_Circle), 0.3 * ui.em, (*colour[:3], float(filled)),
                                    0.12 * ui.em, colour)
            plot.PlotScatter(f"##{label}", np.array([point["recall"]]), np.array([point["precision"]]))
        if plot.IsPlotHovered():
            ui.im.SetTooltip("Precision (up) against recall (across) over all thresholds; the point is the present one")
        plot.EndPlot()
    ui.im.EndTable()


def _begin(ui: Ui, title: str, size: tuple[float, float], limits: tuple[float, float, float, float], decorated: bool
           ) -> bool:
    """A plot that stands still within its limits; decorated: with numbers on the left, too."""
    plot, flags = ui.plot, 0
    for name in _PLOT_FLAGS:
        flags |= int(getattr(plot, f"ImPlotFlags_{name}"))
    if not plot.BeginPlot(title, size, flags):
        return False
    bare = int(plot.ImPlotAxisFlags_NoGridLines) | int(plot.ImPlotAxisFlags_NoTickMarks)
    plot.SetupAxes("", "", bare, 0 if decorated else int(plot.ImPlotAxisFlags_NoDecorations))
    plot.SetupAxesLimits(*limits, int(plot.ImPlotCond_Always))
    if decorated:
        for axis in (plot.ImAxis_X1, plot.ImAxis_Y1):
            plot.SetupAxisTicks(int(axis), np.array([0.0, 0.5, 1.0]))
    return True


def _draw_layers(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    """What was pruned and what of that was wrong, as layers of the scene, with reasons."""
    events = [event for event in snapshot.fields.get("prune") or () if event.level == view.decisions.level]
    ui.heading("In the scene", f"pass {count(events[-1].iteration)}" if events else "")
    if not events:
        ui.text(f"Not pruned yet at level {view.decisions.level}.", theme.MUTED)
        return
    found = view.pruning.summary(events[-1])
    for kind in SHOWN_KINDS:
        reasons = found.reasons[kind]
        tip = "\n".join([_LAYER_TIPS[kind], *(f"{reason}: {count(number)}" for reason, number in reasons)])
        draw_layer(ui, view, kind, found.counts[kind], tip)
        if kind == "pruned":
            draw_details(ui, reasons)


def draw_layer(ui: Ui, view: ViewState, kind: str, number: int, tip: str) -> None:
    """A layer of the scene with how many voxels it has, to be switched on and off."""
    changed, _ = ui.im.Checkbox(f"##layer {kind}", view.layers[kind])
    if changed:
        view.toggle_layer(kind)
    ui.im.SameLine(0.0, 0.4 * ui.em)
    ui.dot(view.shades.colour(kind), framed=True)
    ui.text(LAYER_LABELS[LAYERS.index(kind)].lower())
    ui.tip(tip)
    ui.text_right(count(number))


def draw_details(ui: Ui, rows: Sequence[tuple[str, int]]) -> None:
    """What a row above consists of, smaller and indented."""
    with ui.sized(0.85):
        for label, number in rows:
            ui.im.Dummy((1.9 * ui.em, 0.0))
            ui.im.SameLine()
            ui.pair(label, count(number))


_TAKEN_BY = {
    Cause.NO_INPUT_VOXEL: "it never was",
    Cause.PRUNED_1: "it was pruned at level 1",
    Cause.PRUNED_2: "it was pruned at level 2",
}
"""What became of the neighbour that a point lacks."""

_LAYER_TIPS = {
    "pruned": "Children dropped at this level",
    "wrongly_kept": "Kept, though they hold no input point",
    "wrongly_pruned": "Pruned, though they hold an input point",
}


def _draw_causes(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    """Holes by cause: what became of the input points."""
    counts = view.points.counts(snapshot)
    total = sum(counts.values())
    ui.heading("Holes by cause", f"{count(total)} points" if total else "")
    if not total:
        ui.text("Known once the surface is extracted." if POINTS in snapshot.field_kinds else
                "This run has no input points.", theme.MUTED)
        return
    own = view.shades.colour(LAYER)
    ui.shares([(counts[code], look.colour or own) for code, look in LOOKS.items()], 0.5 * ui.em)
    for code, look in LOOKS.items():
        ui.dot(look.colour or own)
        ui.text(look.label)
        ui.tip(look.tip)
        ui.text_right(f"{count(counts[code])}  {percent(counts[code] / total):>7}")
        if code == Cause.MISSING_NEIGHBOUR:
            draw_details(ui, [(_TAKEN_BY[cause], n) for cause, n in view.points.missing(snapshot).items() if n])
    _, view.layers[LAYER] = ui.im.Checkbox("Points in the scene", view.layers[LAYER])
    ui.tip("The input points, where the target stands, coloured by cause")
    if view.layers[LAYER]:
        ui.wrapped(drawn_points(view))
