"""What-if, in the Frustum tab: another iteration's camera, a moved copy of one, planes by hand, two looks compared."""

from __future__ import annotations

import dataclasses

from sparseflex.training.run import RunCamera
from workbench import theme
from workbench.commands import Command
from workbench.frustum_view import MAX_HALO, FrustumView
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count
from workbench.view_state import ViewState
from workbench.what_if import ABOUT, MAX_AHEAD, MAX_FOV, MAX_TILT, MAX_TURN, MIN_FOV, PARTS, Kept, Move, depth_limits
from workbench.what_if_view import CATEGORY_LABELS, COLOURS, NAMES, PART_LABELS

HALO_TIP = "Voxels added around the active ones, so that the quads at the rim of the section find their four voxels"
ABOUT_TIPS = ("The copy goes around what it looks at", "The copy looks around from where it stands")
DEGREES_A_PIXEL = 0.4
LABEL_EM = 5.2
_FROM_VIEW = "from the view"


def draw_iteration(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    """A slider over the iterations whose cameras are known, live or recorded; the run stays where it is."""
    log = view.camera_log
    log.note(view, snapshot)
    span, selected = log.span(snapshot), view.selected_camera(snapshot)
    if span is None:
        return []
    at = log.wanted if log.wanted is not None else (selected and selected.iteration) or snapshot.iteration
    ui.im.SetNextItemWidth(ui.width)
    style = int(ui.im.ImGuiSliderFlags_AlwaysClamp)
    changed, at = ui.im.SliderInt("##camera of", min(max(at, span[0]), span[1]), *span, "camera of iteration %d", style)
    ui.tip("Looks at the camera that an earlier iteration used, with the voxels of the present one.\n"
           "The run stays where it is. Ctrl + click to type a number")
    return log.choose(view, snapshot, int(at)) if changed else []


def draw_move(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    """A copy of the camera, dragged elsewhere."""
    look, selected = view.frustum, view.selected_camera(snapshot)
    able = selected is not None and not look.of_view(selected)
    ui.im.BeginDisabled(not able)
    _, look.moving = ui.im.Checkbox("Move a copy of it", look.moving)
    ui.im.EndDisabled()
    ui.tip("Drags a copy of this camera elsewhere, only to look: split, planes, counts and section follow")
    if not (able and look.moving):
        return
    look.move = _dragged(ui, look.move)
    about = ABOUT[ui.choice(("Around its centre", "Around its eye"), ABOUT.index(look.move.about), tips=ABOUT_TIPS)]
    half, gap, own = (ui.width - 0.4 * ui.em) / 2, 0.4 * ui.em, selected.camera.fov_y_degrees
    turn = _slider(ui, "##turn", look.move.turn, -MAX_TURN, MAX_TURN, "turn %.1f°", "To the camera's right", half)
    ui.im.SameLine(0.0, gap)
    tilt = _slider(ui, "##tilt", look.move.tilt, -MAX_TILT, MAX_TILT, "tilt %.1f°", "Upwards", half)
    ahead = _slider(ui, "##ahead", look.move.ahead, -MAX_AHEAD, MAX_AHEAD, "ahead %.3f",
                    "World units ahead along the camera's axis; the unit box has side 1", half)
    ui.im.SameLine(0.0, gap)
    fov = _slider(ui, "##fov", look.move.fov_y_degrees or own, MIN_FOV, MAX_FOV, "FOV %.1f°",
                  f"Field of view over the image's height; the camera's own is {own:.1f}°", half)
    changed = look.move.fov_y_degrees is not None or abs(fov - own) > 1e-4
    look.move = Move(turn, tilt, ahead, fov if changed else None, about)
    if ui.button("From the view", half, view.view_camera is not None, tip="The copy goes where you look from"):
        _take_view(view, selected)
    ui.im.SameLine(0.0, gap)
    if ui.button("Back", half, not look.move.is_none, tip="The copy goes back to where the camera stands"):
        look.move = Move(about=about)


def _dragged(ui: Ui, move: Move) -> Move:
    """A field to drag in: across turns, up and down tilts."""
    ui.button("drag here to turn and tilt##move pad", ui.width, tip="Across turns, up and down tilts")
    if not ui.im.IsItemActive():
        return move
    across, down = ui.im.GetMouseDragDelta(0, 0.0)
    ui.im.ResetMouseDragDelta(0)
    turn = (move.turn + DEGREES_A_PIXEL * across + MAX_TURN) % (2 * MAX_TURN) - MAX_TURN
    tilt = min(max(move.tilt - DEGREES_A_PIXEL * down, -MAX_TILT), MAX_TILT)
    return dataclasses.replace(move, turn=turn, tilt=tilt)


def _take_view(view: ViewState, selected: RunCamera) -> None:
    if view.view_camera is None:
        return
    own = selected.camera
    placed = view.view_camera.with_size(own.width, own.height).with_planes(own.near, own.far)
    view.pinned, view.frustum.move = RunCamera(placed, _FROM_VIEW), Move(about=view.frustum.move.about)


def draw_by_hand(ui: Ui, view: ViewState) -> None:
    """Near and far, to be dragged independently: one beyond the other is said, not forbidden."""
    look = view.frustum
    voxels, camera = view.split.voxels, view.split.camera
    _, look.in_widths = ui.im.Checkbox("in voxel widths##planes", look.in_widths)
    ui.tip("Depths of the planes in widths of a voxel, else in world units; the unit box has side 1")
    unit = 1 / voxels.resolution if look.in_widths and voxels is not None else 1.0
    low, high = depth_limits(camera) if camera is not None else (0.01, 3.0)
    low, high = min(low, look.near, look.far), max(high, look.near, look.far)
    form = "%.2f" if look.in_widths else "%.4f"
    for name in ("near", "far"):
        before = getattr(look, name) / unit
        depth = _slider(ui, f"{name}##by hand", before, low / unit, high / unit, form,
                        f"Depth of the {name} plane. Or drag its line in the histogram")
        if depth != before:
            look.set_plane(name, depth * unit)
    draw_halo(ui, look)


def draw_halo(ui: Ui, look: FrustumView) -> None:
    ui.im.SetNextItemWidth(ui.width - LABEL_EM * ui.em)
    _, halo = ui.im.SliderInt("halo##what if", min(max(look.halo, 0), MAX_HALO), 0, MAX_HALO)
    ui.tip(HALO_TIP)
    look.halo = min(max(halo, 0), MAX_HALO)


def _slider(ui: Ui, label: str, value: float, low: float, high: float, form: str, tip: str, width: float = 0.0
            ) -> float:
    ui.im.SetNextItemWidth(width or ui.width - LABEL_EM * ui.em)
    changed, new = ui.im.SliderFloat(label, value, low, high, form)
    ui.tip(tip)
    return float(new) if changed else value


def draw_faults(ui: Ui, view: ViewState) -> None:
    """What is wrong with what is looked at, each in a line."""
    for fault in view.frustum.faults:
        ui.wrapped(fault.text, theme.BAD)


def draw_kept(ui: Ui, view: ViewState) -> None:
    """Two looks kept, and how they differ."""
    kept = view.what_ifs
    ui.heading("Keep and compare")
    half, gap = (ui.width - 0.4 * ui.em) / 2, 0.4 * ui.em
    for number, name in enumerate(NAMES):
        if number:
            ui.im.SameLine(0.0, gap)
        if ui.button(f"Keep as {name}", half, view.frustum.look is not None,
                     tip="Keeps what is looked at now: camera, planes and halo.\nWith one kept, the other is what you "
                         "look at"):
            kept.keep(name, view)
    if not kept.kept:
        return
    for name, look, part in zip(NAMES, (kept.a, kept.b), PARTS[:2], strict=True):
        _draw_one(ui, view, name, look, part)
    if kept.difference is None:
        return
    _draw_table(ui, view)
    _, kept.shown = ui.im.Checkbox("Show in the scene", kept.shown)
    ui.tip("Colours the voxels by the difference, and draws the planes of both")
    if kept.shown:
        _draw_parts(ui, view)
        _, kept.meshes_wanted = ui.im.Checkbox("Meshes of both sections", kept.meshes_wanted)
        ui.tip("In place of surface and target: what is extracted of A's active voxels and halo, and of B's")


def _draw_one(ui: Ui, view: ViewState, name: str, look: Kept | None, part: str) -> None:
    """What one of the two is: camera, planes, active voxels, faces; and a button that drops it."""
    kept, em = view.what_ifs, ui.em
    if look is None:
        return
    fixed, left, width = name in kept.kept, ui.im.GetCursorPosX(), ui.width
    ui.dot(COLOURS[part], framed=True)
    words = f"{name}: {look.label}" if fixed else f"{name}, now: {look.label}"
    ui.text(ui.shortened(words, width - 4.2 * em))
    ui.tip(f"{look.label}, {look.planes}, halo {look.rings}")
    if fixed:
        ui.im.SameLine()
        ui.im.SetCursorPosX(left + width - 3.2 * em)
        if ui.button(f"Drop##{name}", 3.2 * em, tip=f"Forgets {name}"):
            kept.drop(name)
    near, far = look.near_far
    ui.text(f"{look.planes}, {near:.4f} to {far:.4f}", theme.MUTED, size=0.88)
    if kept.with_meshes:
        mesh, note = kept.meshes.get(name), kept.notes.get(name, "")
        faces = "" if mesh is None else f"{count(len(mesh.faces))} faces"
        ui.text(ui.shortened(", ".join(text for text in (faces, note) if text), width), theme.MUTED, size=0.88)


def _draw_table(ui: Ui, view: ViewState) -> None:
    """Voxels by category: only in A, in both, only in B. A click chooses what the scene shows."""
    im = ui.im
    flags = int(im.ImGuiTableFlags_SizingStretchProp) | int(im.ImGuiTableFlags_NoPadOuterX)
    with ui.sized(0.88):
        if not im.BeginTable("what-ifs", 4, flags):
            return
        try:
            for number, weight in enumerate((1.5, 1.35, 1.35, 1.35)):
                im.TableSetupColumn(f"##{number}", 0, weight)
            im.TableNextRow()
            im.TableNextColumn()
            for head in ("only A", "both", "only B"):
                _number(ui, head, theme.MUTED)
            for name, label in CATEGORY_LABELS.items():
                _draw_category(ui, view, name, label)
        finally:  # a table left open would end the process, not just the panel
            im.EndTable()


def _draw_category(ui: Ui, view: ViewState, name: str, label: str) -> None:
    kept, im = view.what_ifs, ui.im
    found = kept.difference.counts(name)
    im.TableNextRow()
    im.TableNextColumn()
    span = int(im.ImGuiSelectableFlags_SpanAllColumns)
    if im.Selectable(f"{label}##what-ifs", kept.category == name, span):
        kept.category = name
    ui.tip(f"A has {count(found['a'])} {label} voxels, B {count(found['b'])}.\nClick to see these in the scene")
    for part in ("only_a", "both", "only_b"):
        _number(ui, count(found[part]), theme.TEXT)


def _number(ui: Ui, text: str, colour: theme.Colour) -> None:
    ui.im.TableNextColumn()
    ui.im.SetCursorPosX(ui.im.GetCursorPosX() + max(ui.width - ui.im.CalcTextSize(text)[0], 0.0))
    ui.text(text, colour)


def _draw_parts(ui: Ui, view: ViewState) -> None:
    """The legend of the scene, each part to be hidden."""
    kept = view.what_ifs
    half = ui.im.GetCursorPosX() + ui.width / 2
    for number, part in enumerate(PARTS):
        if number % 2:
            ui.im.SameLine()
            ui.im.SetCursorPosX(half)
        _, kept.parts[part] = ui.im.Checkbox(f"##part {part}", kept.parts[part])
        ui.im.SameLine(0.0, 0.4 * ui.em)
        ui.dot(COLOURS[part], framed=True)
        ui.text(PART_LABELS[part])
        ui.tip(f"{CATEGORY_LABELS[kept.category].capitalize()} {PART_LABELS[part]}")
