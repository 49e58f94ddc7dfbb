"""Coverage: how often voxels were active and seen, which never were, what each kind of camera adds, the next camera."""

from __future__ import annotations

import numpy as np

from sparseflex.next_camera import Suggestions
from workbench import quantities, theme
from workbench.commands import Command
from workbench.coverage_view import LAST_SEEN, MARKED, NEVER, Added, CoverageView, Summary
from workbench.panels.field import draw_range
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count
from workbench.view_state import ViewState

SMALL = 0.86
MAX_BLIND = 4
_COLUMNS = ("views", "blind", "seen", "only it")
_COLUMN_TIPS = (
    "Views drawn of this kind: one is a camera in an iteration",
    "Of these, how many saw no voxel at all",
    "Voxels that it has seen",
    "Voxels that it has seen and no other kind of the same group. Click to mark them in the scene",
)
_SOURCE_TIPS = {
    "orbit": "Around the object, all of it in view", "zoom": "Around the object, enlarged",
    "interior": "Inside the shape, in its rooms", "fixed": "Cameras of your own, and those that the run is locked to",
    "whole": "Planes in front of and behind all of the object",
    "near cut": "The near plane cuts the object: what is in front of it is gone (cut_share)",
    "window": "Near and far leave a window of depths (window_share)",
    "section": "Near and far leave the share of voxels that the visibility ratio α < 1 asks for",
}
_SORT_TIPS = {
    "inside": "The eye stands in a room or close to what is unseen, clear of all walls",
    "outside": "Around the object",
    "cut": "Around the object, with a near plane that takes away what hides the unseen",
}


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    """The picked voxel's numbers; else none beyond the scene's: the panel tells of what the scene has counted."""
    own = view.coverage
    return {"voxels", *own.quantity_names(snapshot)} if view.network.picked is not None else set()


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    own = view.coverage
    if not own.known(snapshot):
        ui.heading("Coverage")
        ui.wrapped("This run doesn't say which voxels its cameras see. One that has the fields seen_count, "
                   "active_count and seen_by does: see workbench/docs/own_trainers.md.")
        return []
    own.pick(view, snapshot)
    found = own.summary
    ui.heading("Coverage", "" if found is None else f"{count(found.voxels.n_voxels)} voxels")
    if found is None:
        waiting = "Counting …" if snapshot.iteration else "No camera has seen anything yet."
        ui.wrapped(own.failure or waiting, theme.MUTED)
        return []
    _draw_counts(ui, own, found, snapshot)
    _draw_scene(ui, view, snapshot, found)
    _draw_added(ui, own, found)
    commands = _draw_suggestions(ui, view, snapshot)
    _draw_blind(ui, view, snapshot)  # comes and goes while the run plays: nothing to be clicked shall move by it
    _draw_picked(ui, view, snapshot)
    return commands


def _draw_counts(ui: Ui, own: CoverageView, found: Summary, snapshot: Snapshot) -> None:
    if snapshot.field_kinds.get(LAST_SEEN) == "voxel" and snapshot.iteration:
        ui.im.SetNextItemWidth(ui.width)
        shown = min(own.within, snapshot.iteration)
        form = "by the last %d iterations" if shown else "by any iteration"
        changed, shown = ui.im.SliderInt("##within", shown, 0, snapshot.iteration, form)
        own.within = min(max(shown, 0), snapshot.iteration) if changed else own.within  # what is typed may be anything
        ui.tip("Which views count. Where a run begins with noise, the first ones saw into its inside through holes\n"
               "that have closed since: what the last iterations have not seen is what no view sees now")
    n, unseen = found.voxels.n_voxels, found.n_unseen_surface
    if unseen is None:
        bare, unseen = 0, found.n_unseen
    else:
        bare = found.n_unseen - unseen
    ui.shares([(found.n_seen, theme.BORN), (unseen, MARKED), (bare, theme.OUTSIDE)], 0.5 * ui.em)
    not_seen = "not seen" if own.within else NEVER
    never_active = "" if found.n_active is None else f", {count(n - found.n_active)} never active"
    rows = [("seen", found.n_seen, theme.BORN, "The nearest triangle of some pixel had a corner in it, in any view")]
    rows.append((f"{not_seen}, with a surface" if found.n_surface is not None else not_seen, unseen, MARKED,
                 "The surface passes through them (corner signs differ), and no view has had a pixel of them:\n"
                 "the rendering losses have never told them anything"))
    if found.n_surface is not None:
        rows.append((f"{not_seen}, no surface", bare, theme.OUTSIDE,
                     "No sign change among their corners: there is nothing to see"))
    for label, number, colour, tip in rows:
        ui.dot(colour)
        ui.text(label)
        ui.tip(tip)
        share = f"  {number / n:.1%}" if n else ""
        ui.text_right(f"{count(number)}{share}")
    if found.n_active is not None:
        ui.text(f"{count(found.n_active)} were active{never_active}", theme.MUTED)
        ui.tip("Active: the centre lay in a camera's frustum between near and far")


def _draw_scene(ui: Ui, view: ViewState, snapshot: Snapshot, found: Summary) -> None:
    own = view.coverage
    ui.heading("In the scene")
    _, own.shown = ui.im.Checkbox("Show in place of the voxels' layers", own.shown)
    ui.tip("While this tab is in front")
    if own.shown and view.what_ifs.in_scene is not None and ui.button(
            "The scene shows what-ifs: show this", ui.width, tip="What-ifs are kept in the Frustum tab"):
        view.what_ifs.shown = False
    label = ("Not seen" if own.within else "Never seen") if found.mark == NEVER else f"Only by {found.mark}"
    marked = own.mode == "marked"
    modes = (f"{label}: {count(int(found.marked.sum()))}", "By value")
    if ui.choice(modes, int(not marked), tips=(
            "Marks these voxels, all others being dots; a click in the scene picks among them",
            "Colours all voxels by one of the numbers below")) == 0:
        own.mode = "marked"
    else:
        own.mode = "values"
    if own.mark != NEVER and ui.button("Mark the unseen again", ui.width):
        own.mark = NEVER
    names = own.quantity_names(snapshot)
    ui.im.SetNextItemWidth(ui.width)
    changed, index = ui.im.Combo("##coverage", names.index(own.quantity_name(snapshot)),
                                 [quantities.LABELS.get(name, name) for name in names])
    ui.tip(quantities.TIPS.get(names[index], ""))
    if changed:
        own.quantity, own.mode = names[index], "values"
    _draw_histogram(ui, found)
    if own.mode == "values":
        draw_range(ui, view.field, found.quantity)


def _draw_histogram(ui: Ui, found: Summary) -> None:
    """How many voxels have which value."""
    if found.counts is None:
        ui.text("No values yet.", theme.MUTED)
        return
    flags = int(ui.plot.ImPlotFlags_CanvasOnly) | int(ui.plot.ImPlotFlags_NoInputs)
    if not ui.plot.BeginPlot("##coverage histogram", (ui.width, 4.4 * ui.em), flags):
        return
    low, high = float(found.edges[0]), float(found.edges[-1])
    wide = (high - low) / len(found.counts)
    bare = int(ui.plot.ImPlotAxisFlags_NoGridLines) | int(ui.plot.ImPlotAxisFlags_NoTickMarks)
    ui.plot.SetupAxes("", "", bare, int(ui.plot.ImPlotAxisFlags_NoDecorations))
    ui.plot.SetupAxesLimits(low, high, 0.0, max(float(found.counts.max()), 1.0) * 1.05, int(ui.plot.ImPlotCond_Always))
    ui.plot.SetNextFillStyle((*theme.ACCENT, 1.0))
    centres = (found.edges[:-1] + found.edges[1:]) / 2
    ui.plot.PlotBars("##voxels", centres.astype(np.float64), found.counts.astype(np.float64), 0.9 * wide)
    ui.plot.EndPlot()


def _draw_added(ui: Ui, own: CoverageView, found: Summary) -> None:
    """What each kind of camera, and of planes, adds."""
    if not (found.kinds or found.planes):
        return
    ui.heading("What each adds")
    with ui.sized(SMALL):
        if not ui.im.BeginTable("added", 1 + len(_COLUMNS), int(ui.im.ImGuiTableFlags_SizingStretchProp)):
            return
        ui.im.TableNextColumn()
        for name, tip in zip(_COLUMNS, _COLUMN_TIPS, strict=True):
            ui.im.TableNextColumn()
            _right(ui, name, theme.MUTED)
            ui.tip(tip)
        for group in (found.kinds, found.planes):
            for row in group:
                _draw_source(ui, own, row)
        ui.im.EndTable()


def _draw_source(ui: Ui, own: CoverageView, row: Added) -> None:
    ui.im.TableNextRow()
    ui.im.TableNextColumn()
    flags = int(ui.im.ImGuiSelectableFlags_SpanAllColumns)
    if ui.im.Selectable(f"{row.source}##added", own.mark == row.source, flags):
        own.mark = NEVER if own.mark == row.source else row.source
        own.mode = "marked"
    ui.tip(f"{_SOURCE_TIPS[row.source]}.\nClick to mark what it alone has seen")
    for number in (row.n_views, row.n_blind, row.n_seen, row.n_only):
        ui.im.TableNextColumn()
        _right(ui, "–" if number is None else count(number))


def _right(ui: Ui, text: str, colour: theme.Colour | None = None) -> None:
    ui.im.SetCursorPosX(ui.im.GetCursorPosX() + max(ui.width - ui.im.CalcTextSize(text)[0], 0.0))
    ui.text(text, colour)


def _draw_blind(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    """Cameras that saw nothing, or only backs; a click looks at one."""
    blind = view.coverage.blind_cameras(snapshot)
    if not blind:
        return
    ui.heading("Cameras that see little", f"{count(len(blind))} of {count(len(snapshot.cameras))} recent")
    for number, (seen, what) in enumerate(blind[:MAX_BLIND]):
        if ui.im.Selectable(f"{seen.label} {what}##blind {number}", view.pinned is seen):
            view.pinned = seen
        ui.tip("Click to look at it in the Frustum and Cameras tabs")


def _draw_suggestions(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    own = view.coverage
    ui.heading("Next camera")
    tip = ("Looks for the camera that would see most of the voxels that are unseen and have a surface:\n"
           "in rooms, around the object, and with a near plane that cuts it. Takes seconds, beside the run")
    if own.busy(view):
        done, total = own.progress(view) or (0, 0)
        if ui.button("Cancel", ui.width, tip="Ends the search; what the one before found shows again"):
            own.cancel(view)
        ui.text(f"Looking: {count(done)} of {count(total)} views" if total else "Looking …", theme.MUTED)
    elif ui.button("Suggest a camera", ui.width, tip=tip):
        own.ask()
    found = own.suggestions(view)
    commands = []
    if found is not None:
        commands = _draw_found(ui, view, snapshot, *found)
    if own.notice:
        ui.wrapped(own.notice, theme.BAD)
    if view.cameras.notice and commands:
        ui.wrapped(view.cameras.notice, theme.BAD)
    return commands


def _draw_found(ui: Ui, view: ViewState, snapshot: Snapshot, found: Suggestions, iteration: int) -> list[Command]:
    own = view.coverage
    if not found.found:
        ui.wrapped("All that has a surface has been seen." if not found.n_unseen else
                   f"None of {count(found.n_tried)} cameras sees any of the {count(found.n_unseen)} unseen voxels.")
        return []
    for number, each in enumerate(found.found):
        label = f"{each.sort}: sees {count(each.n_gained)} of {count(found.n_unseen)} unseen"
        if ui.im.Selectable(f"{label}##suggested {number}", number == own.chosen):
            own.chosen = number
        ui.tip(f"{_SORT_TIPS[each.sort]}.\nThe best of its sort of {count(found.n_tried)} cameras tried, by the "
               f"surface at the end of iteration {count(iteration)}; green in the scene, with what it would see.\n"
               "Unseen: as above, and with a triangle there; where a neighbour lacks there is none to see")
    if iteration < snapshot.iteration:
        ui.text(f"of iteration {count(iteration)}", theme.MUTED)
        ui.tip("The run has gone on since: what is unseen now may be less")
    chosen = own.suggestion(view)
    half, gap = (ui.width - 0.4 * ui.em) / 2, 0.4 * ui.em
    there = chosen.camera in own.added
    commands: list[Command] = []
    if ui.button("Added" if there else "Add", half, not there, accent=not there, tip=(
            "Becomes a camera of your own. The run draws those by fixed_share;\n"
            "to train with it at once, lock the run to it in the Cameras tab")):
        commands += own.add(view, snapshot)
    ui.im.SameLine(0.0, gap)
    if ui.button("Look through", half, tip="The view becomes this camera's"):
        view.cameras.look_through = chosen.camera
    ratio = snapshot.settings.get("visibility_ratio")
    if ratio is not None and ratio.value < 1:
        ui.wrapped("With α < 1 the run sees a section of that in each iteration.")
    return commands


def _draw_picked(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    """The numbers of the voxel that was clicked."""
    ui.heading("Picked voxel")
    picked, voxels = view.network.picked, snapshot.fields.get("voxels")
    row = -1 if picked is None or voxels is None else picked.row_of(voxels)
    if row < 0:
        ui.text("Click a voxel in the scene.", theme.MUTED)
        return
    ui.pair("voxel", f"{picked.ijk[0]}, {picked.ijk[1]}, {picked.ijk[2]} of {picked.resolution}³")
    for name in view.coverage.quantity_names(snapshot):
        values = snapshot.fields.get(name)
        if values is None or len(values) != voxels.n_voxels:
            continue
        value, unit = float(np.asarray(values[row]).reshape(-1)[0]), quantities.unit_of(name)
        ui.pair(quantities.LABELS.get(name, name), "never seen" if value != value else f"{value:,.4g} {unit}".strip())
        ui.tip(quantities.TIPS.get(name, ""))
