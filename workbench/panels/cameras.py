"""Cameras: a table of those the run uses, sortable; look through, add, delete, and lock the run to some."""

from __future__ import annotations

import numpy as np

from sparseflex.training.run import RunCamera
from workbench import theme
from workbench.camera_view import COLUMNS, CameraView, same_camera
from workbench.colour_bar import draw_colour_bar
from workbench.colour_maps import Scale
from workbench.commands import Command
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count
from workbench.view_state import ViewState

_WEIGHTS = {"kind": 1.7, "loss": 1.25, "active": 1.3, "near": 1.0, "far": 1.0, "used": 1.0}
_TIPS = {
    "kind": "orbit: all of the object. zoom: turned to a point, enlarged. interior: inside. fixed: your own",
    "loss": "Loss of this view alone when the run used it last",
    "active": "Voxels in the frustum when the run used it last, halo not counted",
    "near": "Camera depth of the near plane, world units",
    "far": "Camera depth of the far plane, world units",
    "used": "The iteration that used it last, counted from 1",
}


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    """The target, which cameras of one's own must keep clear of."""
    return {"target"} if snapshot.own_cameras is not None else set()


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    cameras = view.cameras
    commands = _placed_inside(view, snapshot)
    rows = cameras.rows(snapshot)
    scale = cameras.loss_scale(snapshot)
    ui.heading("Cameras", f"{count(len(rows))}, coloured by loss" if scale is not None else "")
    selected = view.selected_camera(snapshot)
    if not rows:
        ui.text("No camera yet: the first stage makes one.", theme.MUTED)
    else:
        if scale is not None:
            draw_colour_bar(ui, scale, ui.width)
        commands += _draw_table(ui, view, snapshot, rows, scale)
    commands += _draw_buttons(ui, view, snapshot, selected)
    commands += _draw_lock(ui, cameras, snapshot)
    if cameras.notice:
        ui.wrapped(cameras.notice, theme.BAD)
    return commands


def _placed_inside(view: ViewState, snapshot: Snapshot) -> list[Command]:
    """A click while a place is being picked; the camera, once a place was found."""
    cameras = view.cameras
    if cameras.picking and view.click is not None:
        cameras.notice = ""
        cameras.place_inside(view.click, snapshot, view.worker)
    camera = cameras.placed(view.worker)
    if camera is None:
        return []
    view.pinned, commands = cameras.add(camera, snapshot)
    return commands


def _draw_table(
    ui: Ui, view: ViewState, snapshot: Snapshot, rows: list[RunCamera], scale: Scale | None
) -> list[Command]:
    im, commands = ui.im, []
    flags = 0
    for name in ("Sortable", "ScrollY", "RowBg", "SizingStretchProp", "PadOuterX"):
        flags |= int(getattr(im, "ImGuiTableFlags_" + name))
    room = max(im.GetContentRegionAvail()[1] - 12.5 * ui.em, 8 * ui.em)
    with ui.sized(0.86):
        height = min(room, (len(rows) + 1.6) * 1.62 * ui.em)
        if not im.BeginTable("cameras", len(COLUMNS) + 1, flags, (0.0, height)):
            return []
        try:
            _draw_headers(ui, view.cameras)
            selected = view.selected_camera(snapshot)
            for number, seen in enumerate(rows):
                here = selected is not None and same_camera(seen, selected)
                commands += _draw_row(ui, view, snapshot, number, seen, here, scale)
        finally:  # a table left open would end the process, not just the panel
            im.EndTable()
    return commands


def _draw_headers(ui: Ui, cameras: CameraView) -> None:
    im = ui.im
    im.TableSetupScrollFreeze(0, 1)
    im.TableSetupColumn("##checked", int(im.ImGuiTableColumnFlags_NoSort) | int(im.ImGuiTableColumnFlags_WidthFixed),
                        1.5 * ui.em)
    for name in COLUMNS:
        first = int(im.ImGuiTableColumnFlags_DefaultSort) if name == cameras.sorted_by else 0
        order = "Descending" if cameras.descending else "Ascending"
        first |= int(getattr(im, f"ImGuiTableColumnFlags_PreferSort{order}")) if first else 0
        im.TableSetupColumn(name, first, _WEIGHTS[name])
    im.TableNextRow(int(im.ImGuiTableRowFlags_Headers))
    for column, name in enumerate(["", *COLUMNS]):
        im.TableSetColumnIndex(column)
        im.TableHeader(name if name else "##lock")
        if name and im.IsItemHovered():
            im.SetTooltip(_TIPS[name])
    specs = im.TableGetSortSpecs()
    if specs is not None and specs.SpecsDirty and specs.SpecsCount:
        spec = specs.Specs()[0]
        cameras.sorted_by = list(COLUMNS)[spec.ColumnIndex - 1]
        cameras.descending = spec.SortDirection == im.ImGuiSortDirection_Descending
        specs.SpecsDirty = False


def _draw_row(ui: Ui, view: ViewState, snapshot: Snapshot, number: int, seen: RunCamera, here: bool,
              scale: Scale | None) -> list[Command]:
    im, cameras, commands = ui.im, view.cameras, []
    im.TableNextRow()
    im.TableNextColumn()
    if snapshot.own_cameras is not None:
        changed, on = im.Checkbox(f"##check {number}", cameras.is_checked(seen))
        if im.IsItemHovered():
            im.SetTooltip("One of those to lock the run to")
        if changed:
            cameras.notice = ""
            commands += cameras.check(seen, on, snapshot)
    im.TableNextColumn()
    if scale is not None:
        colour = tuple(scale.colours(np.array([seen.loss]))[0].tolist()) if seen.loss is not None else theme.CAMERAS
        ui.dot(colour)
    aside = cameras.is_aside(seen)
    if im.Selectable(f"{seen.kind}##row {number}", here, int(im.ImGuiSelectableFlags_SpanAllColumns)
                     | int(im.ImGuiSelectableFlags_AllowOverlap)):
        view.pinned = seen
    if aside and im.IsItemHovered():
        im.SetTooltip("Set aside while the run is locked to others")
    shade = theme.MUTED if aside or seen.iteration is None else theme.TEXT
    for text in (_number(seen.loss, ".3g"), "–" if seen.n_active is None else count(seen.n_active),
                 f"{seen.camera.near:.3g}", f"{seen.camera.far:.3g}",
                 "–" if seen.iteration is None else count(seen.iteration)):
        im.TableNextColumn()
        ui.text(text, shade)
    return commands


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _draw_buttons(ui: Ui, view: ViewState, snapshot: Snapshot, selected: RunCamera | None) -> list[Command]:
    cameras, commands = view.cameras, []
    able = snapshot.own_cameras is not None and snapshot.failure is None and not snapshot.stopped
    half, gap = (ui.width - 0.4 * ui.em) / 2, 0.4 * ui.em
    tip = "The view becomes this camera's: V"
    if ui.button("Look through", half, selected is not None, tip=tip) and selected is not None:
        cameras.look_through = selected.camera
    ui.im.SameLine(0.0, gap)
    deletable = able and cameras.can_delete(selected, snapshot)
    if ui.button("Delete", half, deletable, tip="Only cameras of your own") and deletable:
        commands += cameras.delete(selected, snapshot)
        view.pinned = None
    addable = able and view.view_camera is not None
    tip = "Your view of the voxels becomes a camera that the run trains with"
    if ui.button("Add this view", half, addable, tip=tip) and addable:
        cameras.notice = ""
        camera = cameras.at_view(view.view_camera, snapshot)
        if camera is not None:
            view.pinned, more = cameras.add(camera, snapshot)
            commands += more
    ui.im.SameLine(0.0, gap)
    label, pickable = "Click a room…" if cameras.picking else "Add inside…", able and "target" in snapshot.field_kinds
    tip = ("Then click in the scene: an interior camera goes into the first room that the click meets,\n"
           "clear of its walls and looking the way you look")
    if ui.button(label, half, pickable, accent=cameras.picking, tip=tip) and pickable:
        cameras.picking, cameras.notice = not cameras.picking, ""
    return commands


def _draw_lock(ui: Ui, cameras: CameraView, snapshot: Snapshot) -> list[Command]:
    if snapshot.own_cameras is None:
        if snapshot.cameras:
            ui.wrapped("The cameras of this run can't be changed.")
        return []
    label = f"Draw only the {len(cameras.checked)} checked" if cameras.checked else "Draw only the checked"
    changed, on = ui.im.Checkbox(f"{label}##lock", snapshot.cameras_locked)
    if ui.im.IsItemHovered():
        ui.im.SetTooltip("Locks the run's sampler: from the next iteration on it draws from the checked cameras alone")
    if not changed:
        return []
    cameras.notice = ""
    return cameras.lock(on, snapshot)
