"""Cameras: a table of those the run uses, sortable; look through, add, delete, and lock the run to some."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from sparseflex.training.run import RunCamera
from workbench import theme
from workbench.camera_view import COLUMNS, CameraView, is_aside, same_camera
from workbench.colour_bar import draw_colour_bar
from workbench.colour_maps import Scale
from workbench.commands import Command
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, packed
from workbench.view_state import ViewState

_WEIGHTS = {"kind": 2.0, "loss": 1.35, "active": 1.45, "near": 1.05, "far": 1.05, "used": 1.2}
_CELL_EM = 0.22
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
    cameras.follow(snapshot)
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
    for name in ("ScrollY", "RowBg", "SizingStretchProp", "NoPadOuterX"):
        flags |= int(getattr(im, "ImGuiTableFlags_" + name))
    room = max(im.GetContentRegionAvail()[1] - 8.5 * ui.em, 8 * ui.em)
    with ui.sized(0.84), _close_cells(ui):
        height = min(room, (len(rows) + 1.3) * 1.5 * ui.em)
        if not im.BeginTable("cameras", len(COLUMNS) + 1, flags, (0.0, height)):
            return []
        try:
            _draw_headers(ui, view.cameras)
            selected, tall = view.selected_camera(snapshot), im.GetTextLineHeight() + 2 * _CELL_EM * ui.em
            first, last = visible_rows(len(rows), float(im.GetScrollY() or 0.0), height, tall)
            if first:
                im.TableNextRow(0, first * tall)
            for number in range(first, last):
                seen = rows[number]
                here = selected is not None and same_camera(seen, selected)
                commands += _draw_row(ui, view, snapshot, number, seen, here, scale)
            if last < len(rows):
                im.TableNextRow(0, (len(rows) - last) * tall)
        finally:  # a table left open would end the process, not just the panel
            im.EndTable()
    return commands


@contextmanager
def _close_cells(ui: Ui) -> Iterator[None]:
    """Seven columns in a narrow panel: little room between cells, check boxes no higher than a line."""
    ui.im.PushStyleVar(int(ui.im.ImGuiStyleVar_CellPadding), (0.2 * ui.em, _CELL_EM * ui.em))
    ui.im.PushStyleVar(int(ui.im.ImGuiStyleVar_FramePadding), (0.0, 0.0))
    try:
        yield
    finally:
        ui.im.PopStyleVar(2)


def visible_rows(n: int, scrolled: float, height: float, tall: float) -> tuple[int, int]:
    """The rows, from an even one on, that a table scrolled so far shows: a row costs what a whole panel may."""
    first = min(max(int(scrolled / max(tall, 1.0)) - 1, 0), n)
    return first - first % 2, min(first + int(height / max(tall, 1.0)) + 3, n)


def _draw_headers(ui: Ui, cameras: CameraView) -> None:
    """Names to click; ImGui's own would leave no room for them, keeping it for an arrow in every column."""
    im = ui.im
    im.TableSetupScrollFreeze(0, 1)
    im.TableSetupColumn("##checked", int(im.ImGuiTableColumnFlags_WidthFixed), 1.1 * ui.em)
    for name in COLUMNS:
        im.TableSetupColumn(name, 0, _WEIGHTS[name])
    im.TableNextRow()
    im.TableNextColumn()
    for name in COLUMNS:
        im.TableNextColumn()
        x, y = im.GetCursorScreenPos()
        width, sorted_by = ui.width, cameras.sorted_by == name
        if im.Selectable(f"##sort {name}", False):
            cameras.descending = not cameras.descending if sorted_by else name != "kind"
            cameras.sorted_by = name
        ui.tip(f"{_TIPS[name]}.\nClick to sort")
        draw, text_width = im.GetWindowDrawList(), im.CalcTextSize(name)[0]
        at = x if name == "kind" else x + max(width - text_width, 0.0)
        draw.AddText((at, y), packed(theme.ACCENT if sorted_by else theme.MUTED), name)
        if sorted_by:
            top, half, low = y - 0.18 * ui.em, 0.25 * ui.em, at + text_width / 2
            tip, base = (top + 0.2 * ui.em, top) if cameras.descending else (top, top + 0.2 * ui.em)
            draw.AddTriangleFilled((low - half, base), (low + half, base), (low, tip), packed(theme.ACCENT))


def _draw_row(ui: Ui, view: ViewState, snapshot: Snapshot, number: int, seen: RunCamera, here: bool,
              scale: Scale | None) -> list[Command]:
    im, cameras, commands = ui.im, view.cameras, []
    im.TableNextRow()
    im.TableNextColumn()
    if snapshot.own_cameras is not None:
        changed, on = im.Checkbox(f"##check {number}", cameras.is_checked(seen))
        ui.tip("One of those to lock the run to")
        if changed:
            cameras.notice = ""
            commands += cameras.check(seen, on, snapshot)
    im.TableNextColumn()
    if scale is not None:
        colour = tuple(scale.colours(np.array([seen.loss]))[0].tolist()) if seen.loss is not None else theme.CAMERAS
        x, y = im.GetCursorScreenPos()
        im.GetWindowDrawList().AddRectFilled((x, y), (x + 0.4 * ui.em, y + im.GetTextLineHeight()), packed(colour), 0.0)
        im.SetCursorPosX(im.GetCursorPosX() + 0.65 * ui.em)
    aside = is_aside(seen, snapshot)
    flags = int(im.ImGuiSelectableFlags_SpanAllColumns) | int(im.ImGuiSelectableFlags_AllowOverlap)
    im.PushStyleColor(int(im.ImGuiCol_Header), (*theme.RAISED_ACTIVE, 1.0))  # told apart from the check box on it
    if im.Selectable(f"{seen.kind}##row {number}", here, flags):
        view.pinned = seen
    im.PopStyleColor(1)
    if aside:
        ui.tip("Set aside while the run is locked to others")
    shade = theme.MUTED if aside or seen.iteration is None else theme.TEXT
    for text in (_number(seen.loss, ".3g"), "–" if seen.n_active is None else count(seen.n_active),
                 f"{seen.camera.near:.2f}", f"{seen.camera.far:.2f}",
                 "–" if seen.iteration is None else count(seen.iteration)):
        im.TableNextColumn()
        im.SetCursorPosX(im.GetCursorPosX() + max(ui.width - im.CalcTextSize(text)[0], 0.0))
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
        commands += cameras.add_view(view, snapshot)
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
    ui.tip("Locks the run's sampler: from the next iteration on it draws from the checked cameras alone")
    if not changed:
        return []
    cameras.notice = ""
    return cameras.lock(on, snapshot)
