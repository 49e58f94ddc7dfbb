"""Frustum: which camera, its planes, and what they make of the voxels."""

from __future__ import annotations

import numpy as np

from sparseflex.training.run import RunCamera
from workbench import theme
from workbench.commands import ChangeSetting, Command
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count
from workbench.view_state import ViewState

CATEGORY_LABELS = {"active": "active", "outside": "outside", "near_cut": "near-cut", "far_cut": "far-cut"}
SHARE_ORDER = ("near_cut", "active", "far_cut", "outside")


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return {"voxels"}



def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    ui.heading("Frustum")
    _draw_choice(ui, view, snapshot)
    commands = _draw_ratio(ui, view, snapshot)
    selected = view.selected_camera(snapshot)
    if selected is None:
        ui.text("No camera yet: the first stage makes one.", theme.MUTED)
        return commands
    # the camera that the counts below belong to: while the run plays, the scene follows more slowly than the panels
    camera = view.split.camera or selected.camera
    if view.split.label and view.split.label != selected.label:
        ui.text(f"the scene still shows {view.split.label}:", theme.MUTED)
    ui.text(f"near {camera.near:.4f}", theme.MUTED)
    ui.text_right(f"far {camera.far:.4f}", theme.MUTED)
    if view.split.n_voxels:
        _draw_counts(ui, view)
        _draw_histogram(ui, view)
    return commands


def camera_label(camera: RunCamera) -> str:
    """Such as 'orbit 12, loss 0.031': kind, iteration, loss."""
    return camera.label if camera.loss is None else f"{camera.label}, loss {camera.loss:.3g}"


def _draw_choice(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    selected, index = view.selected_camera(snapshot), view.selected_index(snapshot)
    arrow, gap = 1.9 * ui.em, 0.3 * ui.em
    if ui.button("<", arrow, bool(snapshot.cameras), tip="Previous camera: ["):
        view.step_camera(snapshot, -1)
    ui.im.SameLine(0.0, gap)
    ui.im.SetNextItemWidth(ui.width - arrow - gap)
    labels = [camera_label(camera) for camera in snapshot.cameras]
    if index < 0:
        labels.insert(0, "no camera" if selected is None else camera_label(selected))
    changed, choice = ui.im.Combo("##camera", max(index, 0), labels)
    if changed:
        view.select_camera(snapshot, choice - (index < 0))
    ui.im.SameLine(0.0, gap)
    if ui.button(">", arrow, bool(snapshot.cameras), tip="Next camera: ]"):
        view.step_camera(snapshot, 1)
    changed, follow = ui.im.Checkbox("Follow the run's camera", view.pinned is None)
    if changed:
        view.pinned = None if follow else selected


def _draw_ratio(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    """A slider for each setting of the run; the visibility ratio is the one of the frustum."""
    setting = snapshot.settings.get("visibility_ratio")
    if setting is None:
        return []
    ui.im.SetNextItemWidth(ui.width - 4.6 * ui.em)
    shown = view.edited.get("visibility_ratio", setting.value)
    changed, value = ui.im.SliderFloat("α asked##ratio", shown, max(setting.minimum, 0.01), setting.maximum, "%.2f")
    if ui.im.IsItemHovered():
        ui.im.SetTooltip("Visibility ratio: the share of all voxels to activate, from the next iteration on.\n"
                         "Below 1 it sets the planes; at 1 the schedule's cuts and windows do")
    if changed:
        view.edited["visibility_ratio"] = value
        return [ChangeSetting("visibility_ratio", float(value))]
    if not ui.im.IsItemActive():
        view.edited.pop("visibility_ratio", None)
    return []


def _draw_counts(ui: Ui, view: ViewState) -> None:
    counts, total = view.split.counts, view.split.n_voxels
    ui.shares([(counts[name], theme.CATEGORY_COLOURS[name]) for name in SHARE_ORDER], 0.5 * ui.em)
    half = ui.im.GetCursorPosX() + ui.width / 2
    for index, (name, label) in enumerate(CATEGORY_LABELS.items()):
        if index % 2:
            ui.im.SameLine()
            ui.im.SetCursorPosX(half)
        ui.dot(theme.CATEGORY_COLOURS[name])
        ui.text(f"{label} {count(counts[name])}")
    ui.pair(f"visible fraction of {count(total)} voxels", f"{counts['active'] / total:.4f}")


def _draw_histogram(ui: Ui, view: ViewState) -> None:
    histogram, camera = view.split.histogram, view.split.camera
    if histogram is None:
        return
    flags = ui.plot.ImPlotFlags_CanvasOnly | ui.plot.ImPlotFlags_NoInputs
    if not ui.plot.BeginPlot("##depths", (ui.width, 4.6 * ui.em), int(flags)):
        return
    edges, counts = histogram.edges.numpy(), histogram.counts.numpy().astype(np.float64)
    centres = (edges[1:] + edges[:-1]) / 2
    bare = int(ui.plot.ImPlotAxisFlags_NoGridLines) | int(ui.plot.ImPlotAxisFlags_NoTickMarks)
    ui.plot.SetupAxes("", "", bare, int(ui.plot.ImPlotAxisFlags_NoDecorations))
    always = int(ui.plot.ImPlotCond_Always)
    margin = (edges[-1] - edges[0]) * 0.04
    ui.plot.SetupAxesLimits(edges[0] - margin, edges[-1] + margin, 0.0, max(counts.max(), 1.0) * 1.05, always)
    parts = (("near_cut", centres < camera.near), ("far_cut", centres > camera.far),
             ("active", (centres >= camera.near) & (centres <= camera.far)))
    for name, part in parts:
        ui.plot.SetNextFillStyle((*theme.CATEGORY_COLOURS[name], 1.0))
        ui.plot.PlotBars(f"##{name}", centres, np.where(part, counts, 0.0), (edges[1] - edges[0]) * 0.9)
    ui.plot.SetNextLineStyle((*theme.FRUSTUM, 1.0), 2.0)
    ui.plot.PlotInfLines("##planes", np.array([camera.near, camera.far]))
    ui.plot.EndPlot()
