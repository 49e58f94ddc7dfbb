"""Costs: where time and memory go, by stage; what sections save, the method's own claim, live; a profile."""

from __future__ import annotations

import numpy as np

from sparseflex.training.measure import BYTES_PREFIX
from workbench import theme
from workbench.commands import Command
from workbench.cost_view import MEMORY, PARTS, PROFILE
from workbench.memory_view import NEEDED, MemoryCurves
from workbench.panels import past, profile
from workbench.panels.plots import thinned
from workbench.panels.stage_costs import colour_of, draw_change, draw_plot, draw_time
from workbench.plot_axes import setup_axes
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, megabytes
from workbench.view_state import ViewState

PANEL = "Costs"
_BAR_EM = 0.55
_FEW_ROWS = 3
_TIPS = ("Seconds per stage over the iterations, and what has changed",
         "Bytes per stage, what sections save, what is kept to go back",
         "One iteration under torch's profiler: operators by stage, and a trace")


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    """None: all of it is scalars."""
    return set()


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    costs = view.costs
    costs.part = PARTS[ui.choice(PARTS, PARTS.index(costs.part) if costs.part in PARTS else 0, tips=_TIPS)]
    if costs.part == MEMORY:
        return _draw_memory(ui, view, snapshot)
    if costs.part == PROFILE:
        return profile.draw(ui, view, snapshot)
    return draw_time(ui, view, snapshot)


def _draw_memory(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    view.costs.seconds(snapshot)  # the stages have the colours that they have there
    peaks = view.costs.peaks(snapshot)
    if peaks.n_rows:
        draw_change(ui, view, snapshot, peaks, BYTES_PREFIX)
    _draw_voxels(ui, snapshot)
    if not snapshot.products.stages:  # an inference works on all of them
        _draw_saving(ui, view, snapshot)
    commands: list[Command] = []
    if 0 < peaks.n_rows < _FEW_ROWS:
        ui.heading("Peak by stage")
        latest = {stage: value for stage, value in peaks.latest().items() if value == value}
        for stage, value in latest.items():
            ui.pair(stage, megabytes(value))
            ui.shares([(value, theme.FRUSTUM), (max(latest.values()) - value, theme.RAISED)], 0.25 * ui.em)
    elif peaks.n_rows:
        ui.heading("Peak by stage")
        commands = draw_plot(ui, view, snapshot, peaks, stacked=False, height_em=8.0, scale=1e-6, unit="MB")
        ui.legend([(stage, colour_of(view, peaks, stage)) for stage in view.costs.shown(peaks)])
    _draw_stages(ui, view, snapshot)
    return commands + past.draw(ui, view, snapshot)


def _draw_voxels(ui: Ui, snapshot: Snapshot) -> None:
    scalars = snapshot.scalars
    if not {"voxels", "active"} <= set(scalars):
        return
    total, active = scalars["voxels"], scalars["active"]
    section = scalars.get("section", active)
    ui.heading("Voxels", f"{section / total:.1%} worked on" if total else "")
    colours = (theme.ACTIVE, _halo(), theme.RAISED_ACTIVE)
    parts = (active, max(section - active, 0), max(total - section, 0))
    ui.shares(list(zip(parts, colours, strict=True)), _BAR_EM * ui.em)
    rows = (("active", "In the frustum of a camera of the iteration"),
            ("halo", "Added around an adapted section, so that its border has neighbours"),
            ("at rest", "In neither: no gradient, no graph, their bits stay as they are"))
    for (label, tip), part, colour in zip(rows, parts, colours, strict=True):
        ui.dot(colour)
        ui.pair(label, count(part))
        ui.tip(tip)


def _halo() -> theme.Colour:
    return tuple((a + b) / 2 for a, b in zip(theme.ACTIVE, theme.PANEL, strict=True))


def _draw_saving(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    ui.heading("An iteration's memory")
    found = view.memory.of(snapshot.history)
    resident = snapshot.scalars.get("resident_bytes")
    if resident is not None:
        ui.pair("parameters and optimiser", megabytes(resident))
        ui.tip("Of all voxels, at work or not: values, two moments and a step count for each row")
    if found is None or not len(found.iterations):
        _say_why_not(ui, snapshot)
        return
    with_sections, without = float(found.with_sections[-1]), float(found.without[-1])
    _compared(ui, "with sections", with_sections, without, theme.ACTIVE,
              "Parameters and optimiser, and what this section's iteration takes above them")
    _compared(ui, "without, estimated", without, without, theme.OUTSIDE,
              "The same, were all voxels worked on at once: by a line through the measured iterations.\n"
              "`workbench bench fit` measures both in processes of their own")
    if without > 0:
        ui.pair("saved", f"{1 - with_sections / without:.0%}")
    work = found.work
    ui.pair("each voxel worked on", f"{work.bytes_per_voxel:,.0f} bytes")
    ui.tip(f"Slope of the line through {work.n_measured} measured iterations;\n"
             f"images and the like take {megabytes(work.fixed_bytes)} whatever the section")
    _draw_curves(ui, found)


def _say_why_not(ui: Ui, snapshot: Snapshot) -> None:
    lacking = [name for name in NEEDED if name not in snapshot.scalars]
    if not snapshot.history.n_rows:
        ui.text("No iteration has ended yet.", theme.MUTED)
    elif lacking and snapshot.history.n_rows > 2:
        ui.wrapped(f"This run does not say {', '.join(lacking)}.")
    else:
        ui.wrapped("What sections save shows once some of different sizes were measured.")


def _compared(ui: Ui, label: str, value: float, most: float, colour: theme.Colour, tip: str) -> None:
    ui.dot(colour)
    ui.pair(label, megabytes(value))
    ui.tip(tip)
    ui.shares([(value, colour), (max(most - value, 0.0), theme.RAISED)], _BAR_EM * ui.em)


def _draw_curves(ui: Ui, found: MemoryCurves) -> None:
    plot = ui.plot
    flags = int(plot.ImPlotFlags_CanvasOnly) | int(plot.ImPlotFlags_NoInputs)
    if not plot.BeginPlot("##memory", (ui.width, 8 * ui.em), flags):
        return
    curves = [thinned(found.iterations, values / 1e6) for values in (found.without, found.with_sections)]
    setup_axes(ui, [*curves, thinned(found.measured_at, found.measured / 1e6)], y_label="MB")
    for name, colour, (xs, ys) in zip(("without", "with"), (theme.OUTSIDE, theme.ACTIVE), curves, strict=True):
        plot.SetNextLineStyle((*colour, 1.0), 0.09 * ui.em)
        plot.PlotLine(f"##{name}", xs, ys)
    plot.SetNextMarkerStyle(int(plot.ImPlotMarker_Circle), 0.16 * ui.em, (*theme.TEXT, 1.0), 0.0, (*theme.TEXT, 1.0))
    plot.PlotScatter("##measured", np.ascontiguousarray(found.measured_at), found.measured / 1e6)
    plot.EndPlot()
    ui.legend([("with sections", theme.ACTIVE), ("without", theme.OUTSIDE), ("measured", theme.TEXT)])


def _draw_stages(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    known = [value for value in snapshot.stage_peak_bytes.values() if value == value]
    on_cuda = snapshot.device.startswith("cuda")
    found = view.memory.stages_of(snapshot.history)
    ui.heading(*(("Peak above its start", f"iteration {count(found[0])}") if found else ("Peak",)))
    if found:
        most = max(found[1].values())
        for stage, value in found[1].items():
            ui.pair(stage, megabytes(value))
            ui.shares([(value, theme.FRUSTUM), (most - value, theme.RAISED)], 0.25 * ui.em)
    if not known:
        ui.text("Not measured here." if snapshot.stage_secs else "No stage has run yet.", theme.MUTED)
        return
    ui.pair("peak of CUDA tensors" if on_cuda else "peak of the process", megabytes(max(known)))
    ui.tip("The highest of the last iteration's stages, all that was in use before included"
         + ("" if on_cuda else ";\non the CPU the window's own memory too"))
    if on_cuda and "reserved_bytes" in snapshot.scalars:
        ui.pair("reserved by the allocator", megabytes(snapshot.scalars["reserved_bytes"]))
