"""Layers: what the scene shows and how."""

from __future__ import annotations

from workbench import theme
from workbench.commands import Command
from workbench.snapshot import Snapshot
from workbench.ui import Ui
from workbench.view_state import LAYER_LABELS, LAYERS, ViewState

COLOURS = {**theme.CATEGORY_COLOURS, "mesh": theme.MESH, "target": theme.TARGET, "frustum": theme.FRUSTUM,
           "cameras": theme.CAMERAS, "sdf": theme.BAD}
MESH_COLOURS = ("clay", "normal")
SOURCES = {"mesh": "mesh", "target": "target", "sdf": "corner_sdf", "active": "voxels", "outside": "voxels",
           "near_cut": "voxels", "far_cut": "voxels"}


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    ui.heading("Layers", "keys 1–9")
    for number, (name, label) in enumerate(zip(LAYERS, LAYER_LABELS, strict=True), start=1):
        able = SOURCES.get(name, "") in {"", *snapshot.field_kinds}
        ui.im.BeginDisabled(not able)
        changed, _ = ui.im.Checkbox(f"##layer{number}", view.layers[name])
        if changed:
            view.toggle_layer(name)
        ui.im.SameLine()
        ui.dot(COLOURS[name], framed=True)
        ui.text(label)
        ui.text_right(str(number), theme.MUTED)
        ui.im.EndDisabled()
    changed, view.side_by_side = ui.im.Checkbox("Side by side", view.side_by_side)
    ui.im.SameLine()
    changed, normals = ui.im.Checkbox("Normals", view.mesh_colour == "normal")
    if changed:
        view.mesh_colour = MESH_COLOURS[normals]
    return []
