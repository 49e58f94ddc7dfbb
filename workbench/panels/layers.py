"""Layers: what the scene shows and how."""

from __future__ import annotations

from workbench import theme
from workbench.commands import Command
from workbench.snapshot import Snapshot
from workbench.ui import Ui
from workbench.view_state import LAYER_LABELS, LAYER_TIPS, LAYERS, ViewState

COLOURS = {**theme.CATEGORY_COLOURS, "mesh": theme.MESH, "target": theme.TARGET, "frustum": theme.FRUSTUM,
           "cameras": theme.CAMERAS, "sdf": theme.BAD}
MESH_COLOURS = ("clay", "normal")
SOURCES = {"mesh": "mesh", "target": "target", "sdf": "corner_sdf", "active": "voxels", "outside": "voxels",
           "near_cut": "voxels", "far_cut": "voxels"}


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return set()



def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    ui.heading("Layers", "keys 1–9")
    left, half = ui.im.GetCursorPosX(), ui.width / 2
    for number, (name, label, tip) in enumerate(zip(LAYERS, LAYER_LABELS, LAYER_TIPS, strict=True), start=1):
        if number % 2 == 0:
            ui.im.SameLine()
            ui.im.SetCursorPosX(left + half)
        able = SOURCES.get(name, "") in {"", *snapshot.field_kinds}
        ui.im.BeginDisabled(not able)
        changed, _ = ui.im.Checkbox(f"##layer{number}", view.layers[name])
        if changed:
            view.toggle_layer(name)
        ui.im.SameLine()
        ui.dot(COLOURS[name], framed=True)
        ui.text(label)
        if ui.im.IsItemHovered():
            ui.im.SetTooltip(f"{tip}. Key {number}")
        ui.im.EndDisabled()
    ui.im.SameLine()
    ui.im.SetCursorPosX(left + half)
    _, view.side_by_side = ui.im.Checkbox("Side by side", view.side_by_side)
    if "surface" in snapshot.field_kinds:
        _, view.section_only = ui.im.Checkbox("Section only", view.section_only)
        ui.im.SameLine()
        ui.im.SetCursorPosX(left + half)
    changed, normals = ui.im.Checkbox("Normals", view.mesh_colour == "normal")
    if changed:
        view.mesh_colour = MESH_COLOURS[normals]
    return []
