"""Layers: what the scene shows and how: colours, sizes, the mesh's colouring, places side by side, the cut."""

from __future__ import annotations

import numpy as np

from workbench import quantities, theme
from workbench.colour_maps import Scale
from workbench.commands import Command
from workbench.layer_view import SIZE_LIMITS
from workbench.panels import pair
from workbench.panels.field import draw_plane, draw_range
from workbench.pruning_view import KINDS
from workbench.snapshot import Snapshot
from workbench.surface_view import CLAY, DIFFERENCE, DISTANCE, FIELD, NORMAL
from workbench.ui import Ui, packed
from workbench.view_state import LAYER_LABELS, LAYER_TIPS, LAYERS, ViewState

GROUPS = (
    ("Voxels", ("active", "outside", "near_cut", "far_cut")),
    ("Surfaces", ("mesh", "target")),
    ("Cameras", ("frustum", "cameras")),
    ("Field", ("sdf", "slice", "vectors")),
    ("Pruning", KINDS),
    ("Input", ("points",)),
)
SOURCES = {"mesh": "mesh", "target": "target", "sdf": "corner_sdf", "slice": "corner_sdf", "vectors": "corner_deform",
           "active": "voxels", "outside": "voxels", "near_cut": "voxels", "far_cut": "voxels",
           **dict.fromkeys(KINDS, "prune"), "points": "points"}
OF_INFERENCE = ("Input",)
"""Groups that runs of other kinds aren't bothered with."""

SIZE_TIPS = {"frustum": "Thickness of the lines", "cameras": "Size of the pyramids", "sdf": "Width in voxel widths",
             "vectors": "Thickness of the arrows", "points": "Width of the points, relative to the usual one"}


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return set()


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    pair.draw_section(ui, view, snapshot)
    grouped = {name for _, names in GROUPS for name in names}
    others = tuple(name for name in LAYERS if name not in grouped)
    for index, (title, names) in enumerate((*GROUPS, *((("Others", others),) if others else ()))):
        if title in OF_INFERENCE and not snapshot.products.stages:
            continue
        ui.heading(title, "" if index else "keys")
        for name in names:
            _draw_layer(ui, view, snapshot, name)
        if title == "Surfaces":
            _draw_mesh_choices(ui, view, snapshot)
    ui.heading("Scene")
    _, view.side_by_side = ui.im.Checkbox("Side by side", view.side_by_side)
    ui.tip("Voxels, mesh and target beside each other, or all in one place. Key B")
    changed = any(view.shades.changed(name) for name in LAYERS)
    if ui.button("Default colours and sizes", ui.width, enabled=changed):
        for name in LAYERS:
            view.shades.reset(name)
    draw_plane(ui, view, "Plane of cut and slice")
    return []


def _draw_layer(ui: Ui, view: ViewState, snapshot: Snapshot, name: str) -> None:
    """Check box, colour, name, size, key of a layer; greyed where the run hasn't what it shows."""
    number, em = LAYERS.index(name) + 1, ui.em
    left, width = ui.im.GetCursorPosX(), ui.width
    able = SOURCES.get(name, "") in {"", *snapshot.field_kinds}
    ui.im.BeginDisabled(not able)
    changed, _ = ui.im.Checkbox(f"##layer{number}", view.layers[name])
    if changed:
        view.toggle_layer(name)
    ui.im.SameLine(0.0, 0.5 * em)
    _draw_colour(ui, view, name)
    ui.im.SameLine(0.0, 0.5 * em)
    ui.im.AlignTextToFramePadding()
    ui.text(LAYER_LABELS[number - 1])
    ui.tip(f"{LAYER_TIPS[number - 1]}{'. Key ' + _key(number) if _key(number) else ''}")
    if name in view.shades.sizes:
        ui.im.SameLine()
        ui.im.SetCursorPosX(left + width - 6.2 * em)
        _draw_size(ui, view, name, 4.6 * em)
    if _key(number):
        ui.im.SameLine()
        ui.im.SetCursorPosX(left + width - 0.8 * em)
        ui.text(_key(number), theme.MUTED)
    ui.im.EndDisabled()


def _draw_colour(ui: Ui, view: ViewState, name: str) -> None:
    """The layer's colour, to be changed by a click; for what is coloured by a map, a piece of it."""
    colour, side = view.shades.colour(name), ui.im.GetFrameHeight()
    if colour is None:
        x, y = ui.im.GetCursorScreenPos()
        shown = view.field.corner
        scale = Scale(-1.0, 1.0, "diverging") if shown is None else view.field.scale_of(shown)
        ends = scale.colours(np.array([scale.low, (scale.low + scale.high) / 2, scale.high]))
        a, b, c = (packed(tuple(float(part) for part in end)) for end in ends)
        draw, middle, inset = ui.im.GetWindowDrawList(), x + side / 2, 0.12 * side
        draw.AddRectFilledMultiColor((x, y + inset), (middle, y + side - inset), a, b, b, a)
        draw.AddRectFilledMultiColor((middle, y + inset), (x + side, y + side - inset), b, c, c, b)
        ui.im.Dummy((side, side))
        ui.tip("Coloured by what the Field tab says")
        return
    flags = int(ui.im.ImGuiColorEditFlags_NoInputs) | int(ui.im.ImGuiColorEditFlags_NoLabel)
    changed, picked = ui.im.ColorEdit3(f"##colour {name}", colour, flags)
    if changed:
        view.shades.set_colour(name, tuple(picked))


def _draw_size(ui: Ui, view: ViewState, name: str, width: float) -> None:
    low, high = SIZE_LIMITS.get(name, (0.05, 1.0))
    ui.im.SetNextItemWidth(width)
    changed, size = ui.im.SliderFloat(f"##size {name}", view.shades.size(name), low, high, "")
    ui.tip(f"{SIZE_TIPS.get(name, 'Edge of the drawn cubes in voxel widths')}: {view.shades.size(name):.2f}")
    if changed:
        view.shades.sizes[name] = size


def _draw_mesh_choices(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    """What the mesh is coloured by, and whether only the section is shown."""
    kinds = snapshot.field_kinds
    choices = {CLAY: "Mesh: plain", NORMAL: "Mesh: by normals"}
    if quantities.voxel_names(kinds):
        name = view.field.voxel_name(snapshot)
        choices[FIELD] = f"Mesh: by {quantities.LABELS.get(name, name)}"
    if kinds.get("target") == "mesh":
        choices[DISTANCE] = "Mesh: by distance to the target"
    if view.pair is not None:
        choices[DIFFERENCE] = "Mesh: by distance of A and B"
    at = list(choices).index(view.mesh_colour) if view.mesh_colour in choices else 0
    ui.im.SetNextItemWidth(ui.width)
    changed, at = ui.im.Combo("##mesh colour", at, list(choices.values()))
    ui.tip("What the mesh is coloured by; which field, the Field tab says. Its inside is brown")
    if changed:
        view.mesh_colour = list(choices)[at]
    shown = {FIELD: view.field.voxel, DISTANCE: view.surfaces.distance,
             DIFFERENCE: view.pair and view.pair.distance}.get(view.mesh_colour)
    if view.layers["mesh"] and shown is not None:
        draw_range(ui, view.field, shown)
    if view.surfaces.note:
        ui.text(view.surfaces.note, theme.MUTED)
    if "surface" in kinds:
        _, view.section_only = ui.im.Checkbox("Section only", view.section_only)
        ui.tip("The mesh of the active voxels alone, instead of the whole surface")


def _key(number: int) -> str:
    """The number key of the layer in this place, "" past the tenth."""
    return str(number % 10) if number <= 10 else ""
