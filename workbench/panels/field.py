"""Field: what is shown at the corners, on a slice and on the voxels, with its range; the slice's plane; δ arrows."""

from __future__ import annotations

from workbench import quantities, theme
from workbench.colour_bar import draw_colour_bar
from workbench.commands import Command
from workbench.field_view import MAGNITUDE_MAPS, PLANES, FieldView
from workbench.quantities import TIPS, Quantity
from workbench.slices import AXES
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count
from workbench.view_state import ViewState

UNITS = ("voxel widths", "world units")


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    """None beyond the scene's: the panel tells of what the scene shows."""
    return set()


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    names = quantities.corner_names(snapshot.field_kinds, view.field.at_corners)
    of_voxels = quantities.voxel_names(snapshot.field_kinds, view.field.at_voxels)
    if not names and not of_voxels:
        ui.text("This run has no fields of voxels or corners.", theme.MUTED)
        return []
    if names:
        _draw_corners(ui, view, snapshot, names)
        draw_plane(ui, view, "Plane of the slice")
        if quantities.DEFORM in snapshot.field_kinds:
            _draw_arrows(ui, view)
    draw_voxels(ui, view, snapshot, of_voxels)
    return []


def _draw_corners(ui: Ui, view: ViewState, snapshot: Snapshot, names: list[str]) -> None:
    shown = view.field
    ui.heading("At the corners")
    shown.at_corners = _choose(ui, "##corners", names, shown.corner_name(snapshot))
    _choose_part(ui, shown, shown.at_corners, snapshot)
    third = ui.width / 3
    left = ui.im.GetCursorPosX()
    for index, (layer, label, tip) in enumerate((
        ("sdf", "Points", "The corners as points. Key 9"), ("slice", "Slice", "A plane through the voxels. Key 0"),
    )):
        if index:
            ui.im.SameLine()
            ui.im.SetCursorPosX(left + index * third)
        _, view.layers[layer] = ui.im.Checkbox(label, view.layers[layer])
        ui.tip(tip)
    ui.im.SameLine()
    ui.im.SetCursorPosX(left + 2 * third)
    _, shown.contour = ui.im.Checkbox("Zero", shown.contour)
    ui.tip("On the slice, the line where the SDF is zero: the surface, before weights and deformation")
    shown.world_units = bool(ui.choice(UNITS, int(shown.world_units), tips=(
        "SDF, its error and δ in widths of a voxel", "SDF, its error and δ in world units: the box has side 1")))
    if not shown.wants_corner(view):
        ui.text("Turn on points or the slice to see it.", theme.MUTED)
    else:
        draw_range(ui, shown, shown.corner)


def _choose(ui: Ui, label: str, names: list[str], chosen: str) -> str:
    ui.im.SetNextItemWidth(ui.width)
    _, index = ui.im.Combo(label, names.index(chosen), [quantities.label_of(name) for name in names])
    ui.tip(TIPS.get(names[index], ""))
    return names[index]


def _choose_part(ui: Ui, shown: FieldView, name: str, snapshot: Snapshot) -> None:
    """Which column of a field with several; only known while the field is there."""
    values = snapshot.fields.get(name)
    parts = [""] if values is None else quantities.parts_of(name, values)
    if len(parts) > 1:
        ui.im.SetNextItemWidth(ui.width)
        _, index = ui.im.Combo(f"##part of {name}", parts.index(shown.part_of(name, values)), parts)
        shown.parts[name] = parts[index]


def draw_range(ui: Ui, shown: FieldView, quantity: Quantity | None) -> None:
    """The colour bar of what is shown, its bad values, and its range: automatic, or locked and editable."""
    if quantity is None:
        ui.text(shown.note or "Nothing to show yet.", theme.MUTED)
        return
    if quantity.rgb is not None:
        ui.wrapped("Red, green and blue are the first three components: like colours, like features.")
        _draw_bad(ui, quantity)
        return
    scale = shown.scale_of(quantity)
    values = quantity.values
    ui.text(ui.shortened(f"{quantity.label}", 0.62 * ui.width))
    if quantity.unit:
        ui.text_right(quantity.unit, theme.MUTED)
    low, high = quantity.extremes
    draw_colour_bar(ui, scale, ui.width, (low < scale.low, high > scale.high))
    locked = quantity.key in shown.locked
    changed, locked = ui.im.Checkbox(f"Locked##{quantity.key}", locked)
    ui.tip("Automatic: 96 % of the values lie within. Locked: the range stays, and can be typed")
    if changed:
        shown.lock(quantity, (scale.low, scale.high) if locked else None)
    wide = 0.3 * ui.width
    for label, value in (("low", scale.low), ("high", scale.high)):
        ui.im.SameLine(0.0, 0.4 * ui.em)
        ui.im.BeginDisabled(not locked)
        ui.im.SetNextItemWidth(wide)
        changed, typed = ui.im.InputFloat(f"##{label} {quantity.key}", value, 0.0, 0.0, "%.4g", _on_enter(ui))
        ui.im.EndDisabled()
        if changed and locked:
            shown.lock(quantity, (typed, scale.high) if label == "low" else (scale.low, typed))
    n_good = len(values) - quantity.n_nan - quantity.n_infinite
    ui.text(f"{count(n_good)} values{f' from {low:.3g} to {high:.3g}' if n_good else ''}", theme.MUTED)
    if quantity.has_beside and quantity.n_nan:
        ui.text(f"{count(quantity.n_nan)} {quantities.BESIDE[quantity.name]}, faint", theme.MUTED)
    _draw_bad(ui, quantity)


def _draw_bad(ui: Ui, quantity: Quantity) -> None:
    n_nan = 0 if quantity.has_beside else quantity.n_nan
    bad = [f"{count(n)} {what}" for n, what in ((n_nan, "NaN"), (quantity.n_infinite, "infinite")) if n]
    if bad:
        ui.dot(theme.NOT_A_NUMBER)
        ui.text(", ".join(bad), theme.BAD)


def _on_enter(ui: Ui) -> int:
    return int(ui.im.ImGuiInputTextFlags_EnterReturnsTrue)


def draw_plane(ui: Ui, view: ViewState, title: str) -> None:
    """The plane of the slice and of the cut: where it lies, and whether the scene is cut off there."""
    shown = view.field
    ui.heading(title)
    at = PLANES.index(shown.axis) if shown.axis in PLANES else 2
    chosen = PLANES[ui.choice(PLANES, at, tips=(
        "Across the x axis", "Across the y axis", "Across the z axis", "Facing you; it turns with the view"))]
    if chosen != PLANES[at]:
        shown.axis, shown.offset = chosen, 0.0
    _draw_position(ui, view)
    _draw_cut(ui, view)
    if shown.axis == "view":
        ui.im.SameLine()
        _, shown.held = ui.im.Checkbox("Hold", shown.held)
        ui.tip("The plane stays where it is while the view turns")
    ui.text_right(_place_text(view), theme.MUTED)


def _draw_position(ui: Ui, view: ViewState) -> None:
    """The slider that moves the plane, and steps of one voxel."""
    shown = view.field
    arrow, gap, reach = 1.9 * ui.em, 0.3 * ui.em, shown.plane.reach
    if ui.button("<##plane", arrow, tip="One voxel back: Page Down"):
        shown.step_plane(view, -1)
    ui.im.SameLine(0.0, gap)
    ui.im.SetNextItemWidth(ui.width - arrow - gap)
    changed, value = ui.im.SliderFloat("##plane position", shown.plane.offset, -reach, reach, "")
    ui.tip(f"Distance of the plane from the centre of the box: {shown.plane.offset:.4f} world units")
    if changed:
        shown.offset = value
    ui.im.SameLine(0.0, gap)
    if ui.button(">##plane", arrow, tip="One voxel on: Page Up"):
        shown.step_plane(view, 1)


def _draw_cut(ui: Ui, view: ViewState) -> None:
    _, view.field.cut = ui.im.Checkbox("Cut", view.field.cut)
    ui.tip("Cuts voxels, surfaces and corners off at this plane, so that the slice and the inside are seen. Key X")
    ui.im.SameLine()
    ui.im.BeginDisabled(not view.field.cut)
    _, view.field.flipped = ui.im.Checkbox("Flip", view.field.flipped)
    ui.tip("Cuts off the other side")
    ui.im.EndDisabled()


def _place_text(view: ViewState) -> str:
    """Where the plane is; one across an axis: in which layer of voxels, such as 'layer 37 of 64'."""
    offset = view.field.plane.offset
    if view.field.axis not in AXES or view.split.voxels is None:
        return f"{offset:.3f}"
    resolution = view.split.voxels.resolution
    layer = min(max(int((offset + 0.5) * resolution + 1e-6), 0), resolution - 1)
    return f"layer {layer} of {resolution}"


def _draw_arrows(ui: Ui, view: ViewState) -> None:
    shown = view.field
    ui.heading("Deformation")
    left, half = ui.im.GetCursorPosX(), ui.width / 2
    _, view.layers["vectors"] = ui.im.Checkbox("δ as arrows", view.layers["vectors"])
    ui.tip("How far each corner is moved: ½·tanh of the parameter, at most half a voxel along each axis")
    ui.im.SameLine()
    ui.im.SetCursorPosX(left + half)
    _, shown.vectors_in_slice = ui.im.Checkbox("At the slice", shown.vectors_in_slice)
    ui.tip("Only corners within half a voxel of the slice, where there is one")
    ui.im.SetNextItemWidth(ui.width)
    changed, value = ui.im.SliderFloat("##arrow length", shown.vector_scale, 0.5, 10.0, "%.1f times as long")
    if changed:
        shown.vector_scale = value
    if view.layers["vectors"] and shown.vectors is not None:
        n, n_all = len(shown.vectors.starts), shown.vectors.n_all
        ui.text(f"{count(n)} of {count(n_all)} arrows" if n < n_all else f"{count(n)} arrows", theme.MUTED)


def draw_voxels(ui: Ui, view: ViewState, snapshot: Snapshot, names: list[str], titled: bool = True) -> None:
    """What gives active voxels, and the mesh, their colours."""
    shown = view.field
    if titled:
        ui.heading("Voxels coloured by")
    shown.at_voxels = _choose(ui, "##voxels", names, shown.voxel_name(snapshot))
    _choose_part(ui, shown, shown.at_voxels, snapshot)
    left, half = ui.im.GetCursorPosX(), ui.width / 2
    _, shown.voxels_coloured = ui.im.Checkbox("Active voxels", shown.voxels_coloured)
    ui.tip("Colours the active voxels; of fields at corners, by the mean of the eight. Key C")
    ui.im.SameLine()
    ui.im.SetCursorPosX(left + half)
    changed, on_mesh = ui.im.Checkbox("Mesh", view.mesh_colour == "field")
    ui.tip("Colours the mesh by the voxel that each vertex lies in")
    if changed:
        view.mesh_colour = "field" if on_mesh else "clay"
    if shown.at_voxels != quantities.PCA and not (shown.voxel is not None and shown.voxel.signed):
        at = MAGNITUDE_MAPS.index(shown.magnitudes) if shown.magnitudes in MAGNITUDE_MAPS else 0
        shown.magnitudes = MAGNITUDE_MAPS[ui.choice(MAGNITUDE_MAPS, at, tips=(
            "For magnitudes; what is signed has a map of its own about zero",) * 2)]
    if shown.wants_voxel(view):
        draw_range(ui, shown, shown.voxel)
        if view.mesh_colour == "field" and view.surfaces.note:
            ui.text(view.surfaces.note, theme.MUTED)
