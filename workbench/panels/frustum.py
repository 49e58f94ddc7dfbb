"""Frustum: which camera, its planes, what they make of the voxels, how they were found, and what the rim spoils."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from sparseflex.frustum import ANCHORS, METHODS
from sparseflex.training.run import RunCamera
from workbench import theme
from workbench.colour_maps import ticks
from workbench.commands import ChangeSetting, Command
from workbench.frustum_view import PLANES, FrustumView
from workbench.look_work import Look, Search
from workbench.map_colours import rim_picture
from workbench.panels import what_if
from workbench.panels.what_if import HALO_TIP, LABEL_EM
from workbench.section_work import PARAMETERS, Rim, Section
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count
from workbench.view_state import ViewState
from workbench.what_if_view import CATEGORY_LABELS
from workbench.worker import WorkFailed

CATEGORY_TIPS = {
    "active": "Active voxels: their centre lies in the camera's frustum.\nOnly they take part in extraction and "
              "rendering",
    "outside": "Laterally outside: beside the frustum, or behind the eye",
    "near_cut": "In front of the near plane: cut away, so that what lies behind them is seen",
    "far_cut": "Behind the far plane",
}
SHARE_ORDER = ("near_cut", "active", "far_cut", "outside")

RATIO_TIP = ("Visibility ratio: the share of all voxels to activate, from the next iteration on.\n"
             "Below 1 it sets the planes; at 1 the schedule's cuts and windows do")
ANCHOR_TIPS = (
    "The nearest voxels in view: the window of depth ranks begins at the front",
    "The farthest voxels in view",
    "The middle ranks",
    "A window of ranks at a random depth; click again for another one",
)
METHOD_TIPS = (
    "By order statistics: near and far stand around exactly the wanted ranks of depth",
    "The paper's search: set the planes, count, move them until the count is within 1 % of what is wanted",
)


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return {"voxels", "trace"}


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    ui.heading("Camera")
    _draw_camera(ui, view, snapshot)
    commands = what_if.draw_iteration(ui, view, snapshot)
    what_if.draw_move(ui, view, snapshot)
    ui.heading("Planes")
    commands += _draw_planes(ui, view, snapshot)
    selected, look = view.selected_camera(snapshot), view.frustum.look
    if selected is None:
        if snapshot.products.stages:
            ui.wrapped("An inference has no cameras: take the view itself.")
        else:
            ui.text("No camera yet: the first stage makes one.", theme.MUTED)
        return commands
    # the camera that the counts below belong to: while the run plays, the scene follows more slowly than the panels
    camera = view.split.camera or selected.camera
    near, far = (camera.far, camera.near) if view.split.crossed else (camera.near, camera.far)
    if view.split.label and view.split.label != selected.label:
        ui.text(f"the scene still shows {view.split.label}:", theme.MUTED)
    if not view.frustum.by_hand:  # there the sliders say it
        ui.text(f"near {near:.4f}", _near_colour())
        ui.tip("Depth of the near plane: camera depth in world units; the unit box has side 1")
        ui.text_right(f"far {far:.4f}", theme.FAR_CUT)
    what_if.draw_faults(ui, view)
    if view.split.n_voxels:
        ui.heading("Voxels", f"of {count(view.split.n_voxels)}")
        _draw_counts(ui, view, look)
        ui.heading("Depths of the voxels in view")
        _draw_histogram(ui, view)
        what_if.draw_kept(ui, view)
        if view.frustum.search is not None:
            _draw_search(ui, view.frustum.search, look)
        _draw_rim(ui, view, snapshot)
    return commands


def camera_label(camera: RunCamera) -> str:
    """Such as 'orbit 12, loss 0.031': kind, iteration, loss."""
    if FrustumView.of_view(camera):
        return "the view itself"
    return camera.label if camera.loss is None else f"{camera.label}, loss {camera.loss:.3g}"


def _draw_camera(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
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
    changed, follow = ui.im.Checkbox("Follow the run", view.pinned is None)
    ui.tip("Look at the camera that the run uses now, whichever it is")
    if changed:
        view.pinned = None if follow else selected
    ui.im.SameLine()
    able = view.view_camera is not None
    ui.im.BeginDisabled(not able)
    changed, own = ui.im.Checkbox("The view itself", FrustumView.of_view(view.pinned))
    ui.im.EndDisabled()
    ui.tip("Look at the frustum of your own view of the voxels; it follows when you move and rest")
    if changed and own and able:
        view.frustum.look_at_view(view)
    elif changed:
        view.pinned = None


def _draw_planes(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    look = view.frustum
    tips = ("The planes that the camera was used with; below, the run's own settings",
            "What the method would do with this camera: planes adapted here, only to look at.\nThe run isn't changed",
            "Planes where you put them, here or in the histogram, only to look at.\nThe run isn't changed")
    look.planes = PLANES[ui.choice(("The run's", "Adapted here", "By hand"), PLANES.index(look.planes), tips=tips)]
    if look.by_hand:
        what_if.draw_by_hand(ui, view)
        return []
    if not look.adapted:
        return _draw_run_settings(ui, view, snapshot)
    _, ratio = _slider(ui, "α##what if", look.adaptation.ratio, 0.01, 1.0,
                       "Visibility ratio α of this look: the share of all voxels to activate")
    look.ratio = min(max(ratio, 0.001), 1.0)
    what_if.draw_halo(ui, look)
    look.anchor = ANCHORS[ui.choice(ANCHORS, ANCHORS.index(look.adaptation.anchor), tips=ANCHOR_TIPS)]
    if look.anchor == "random" and ui.button("Another random depth", ui.width):
        look.seed += 1
    look.method = METHODS[ui.choice(METHODS, METHODS.index(look.adaptation.method), tips=METHOD_TIPS)]
    return _draw_hand_over(ui, look, snapshot)


def _draw_run_settings(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    """Sliders for what the run itself adapts its planes by."""
    commands = []
    for name, label, tip in (("visibility_ratio", "α asked##ratio", RATIO_TIP), ("halo", "halo##run", HALO_TIP)):
        setting = snapshot.settings.get(name)
        if setting is None:
            continue
        shown = view.edited.get(name, setting.value)
        if name == "halo":
            ui.im.SetNextItemWidth(ui.width - LABEL_EM * ui.em)
            changed, value = ui.im.SliderInt(label, int(shown), int(setting.minimum), int(min(setting.maximum, 99)))
            ui.tip(tip)
        else:
            changed, value = _slider(ui, label, shown, max(setting.minimum, 0.01), setting.maximum, tip)
        if changed:
            view.edited[name] = value
            commands.append(ChangeSetting(name, float(value)))
        elif not ui.im.IsItemActive():
            view.edited.pop(name, None)
    return commands


def _draw_hand_over(ui: Ui, look: FrustumView, snapshot: Snapshot) -> list[Command]:
    """What the run itself has, and a button that gives it what was found to be good here."""
    wanted = {"visibility_ratio": look.adaptation.ratio, "halo": float(look.halo)}
    known = {name: value for name, value in wanted.items() if name in snapshot.settings}
    if not known:
        return []
    own = {name: snapshot.settings[name].value for name in known}
    if "visibility_ratio" in own:
        parts = f"α {own['visibility_ratio']:.2f}" + (f", halo {own['halo']:.0f}" if "halo" in own else "")
        ui.text(f"the run has {parts}", theme.MUTED)
    equal = all(abs(own[name] - known[name]) < 1e-6 for name in known)
    tip = "Changes the run: it adapts with this α and halo from the next iteration on"
    if ui.button("Give these to the run", ui.width, not equal, tip=tip):
        return [ChangeSetting(name, value) for name, value in known.items()]
    return []


def _slider(ui: Ui, label: str, value: float, low: float, high: float, tip: str) -> tuple[bool, float]:
    ui.im.SetNextItemWidth(ui.width - LABEL_EM * ui.em)
    changed, value = ui.im.SliderFloat(label, value, low, high, "%.2f")
    ui.tip(tip)
    return changed, value


def _draw_counts(ui: Ui, view: ViewState, look: Look | None) -> None:
    counts, total = view.split.counts, view.split.n_voxels
    ui.shares([(counts[name], view.shades.colour(name)) for name in SHARE_ORDER], 0.5 * ui.em)
    half = ui.im.GetCursorPosX() + ui.width / 2
    for index, (name, label) in enumerate(CATEGORY_LABELS.items()):
        if index % 2:
            ui.im.SameLine()
            ui.im.SetCursorPosX(half)
        ui.dot(view.shades.colour(name))
        ui.text(f"{label} {count(counts[name])}")
        ui.tip(CATEGORY_TIPS[name])
    section = view.frustum.section(view)
    if look is not None and look.rings and isinstance(section, Section):
        fresh = section.camera is look.camera
        halo = 0 if look.crossed else section.n_section - section.n_active
        ui.pair(f"halo of {look.rings}", count(halo) if fresh or look.crossed else "…")
        ui.tip(HALO_TIP)
    if look is not None and look.asked is not None:
        ui.pair("visibility ratio asked", f"{look.asked:.4f}")
    ui.pair("visible fraction got", f"{counts['active'] / total:.4f}")
    ui.tip("Active voxels / all voxels; the halo isn't counted.\nLess than asked where fewer are in view")


def _draw_histogram(ui: Ui, view: ViewState) -> None:
    histogram, camera, crossed = view.split.histogram, view.split.camera, view.split.crossed
    if histogram is None:
        return
    edges, counts = histogram.edges.numpy(), histogram.counts.numpy().astype(np.float64)
    centres = (edges[1:] + edges[:-1]) / 2
    margin = (edges[-1] - edges[0]) * 0.04
    near, far = (camera.far, camera.near) if crossed else (camera.near, camera.far)
    limits = (*_depths_shown(view.frustum, edges[0] - margin, edges[-1] + margin, near, far), 0.0,
              max(counts.max(), 1.0) * 1.3)
    if not _begin_plot(ui, "##depths", 4.6 * ui.em, limits, values=False):
        return
    room = 0.06 * (limits[1] - limits[0])  # a label too near to the border would be cut off
    marks = [tick for tick in ticks(limits[0], limits[1], 8) if limits[0] + room < tick < limits[1] - room]
    ui.plot.SetupAxisTicks(int(ui.plot.ImAxis_X1), np.array(marks, np.float64))
    parts = (("near_cut", centres < near), ("far_cut", (centres > far) & (centres >= near)),
             ("active", (centres >= near) & (centres <= far)))
    for name, part in parts:
        ui.plot.SetNextFillStyle((*view.shades.colour(name), 1.0))
        ui.plot.PlotBars(f"##{name}", centres, np.where(part, counts, 0.0), (edges[1] - edges[0]) * 0.9)
    for number, (name, plane) in enumerate((("near", near), ("far", far))):
        changed, depth = ui.plot.DragLineX(number, plane, (*theme.FRUSTUM, 1.0), 2.0)
        if changed:
            view.frustum.set_plane(name, min(max(float(depth), limits[0]), limits[1]))
        if limits[0] <= plane <= limits[1]:
            ui.plot.Annotation(plane, limits[3], (*theme.PANEL, 0.8), (0.0, 0.0), True, name[0])
    if far < limits[0] or near > limits[1]:  # where nothing is between them, the planes are said to be beyond the plot
        side, said = (limits[0], "< n f") if far < limits[0] else (limits[1], "n f >")
        ui.plot.Annotation(side, limits[3], (*theme.PANEL, 0.8), (0.0, 0.0), True, said)
    if ui.plot.IsPlotHovered():
        depth = float(ui.plot.GetPlotMousePos()[0])
        place = int(np.clip(np.searchsorted(edges, depth) - 1, 0, len(counts) - 1))
        ui.im.SetTooltip(f"{count(counts[place])} voxels at depth {edges[place]:.3f} to {edges[place + 1]:.3f}")
    ui.plot.EndPlot()


def _depths_shown(look: FrustumView, low: float, high: float, near: float, far: float) -> tuple[float, float]:
    """Voxels, and planes by hand with some room around them: what is out of the plot can't be dragged."""
    if not look.by_hand:
        return low, high
    room = 0.1 * (high - low)
    return max(min(low, near) - room, 0.0), max(high, far, near) + room


def _begin_plot(ui: Ui, title: str, height: float, limits: tuple[float, float, float, float], values: bool) -> bool:
    """A plot that stands still within its limits; values: with tick labels on the left too."""
    plot = ui.plot
    flags = 0
    for name in ("NoTitle", "NoMenus", "NoMouseText", "NoLegend", "NoBoxSelect"):
        flags |= int(getattr(plot, "ImPlotFlags_" + name))
    if not plot.BeginPlot(title, (ui.width, height), flags):
        return False
    bare = int(plot.ImPlotAxisFlags_NoGridLines) | int(plot.ImPlotAxisFlags_NoTickMarks)
    plot.SetupAxes("", "", bare, 0 if values else int(plot.ImPlotAxisFlags_NoDecorations))
    plot.SetupAxesLimits(*limits, int(plot.ImPlotCond_Always))
    return True


def _draw_search(ui: Ui, search: Search, look: Look | None) -> None:
    rounds = search.trace
    ui.heading("Search for the planes", f"{len(rounds)} round" + ("s" if len(rounds) != 1 else ""))
    ui.tip("The paper's iterative search: near, far and active voxels of every round")
    got = int(rounds[-1, 2])
    ui.pair("voxels wanted, got", f"{count(search.wanted)}, {count(got)}")
    if search.exact is not None:
        near, far, exact = search.exact
        ui.pair("exact answer", f"{near:.4f} to {far:.4f}")
        ui.tip("What order statistics of the depths give for the same α and anchor")
        planes = (round(float(rounds[-1, 0] - near), 4) + 0.0, round(float(rounds[-1, 1] - far), 4) + 0.0)
        away = f"near {planes[0]:+.4f}  far {planes[1]:+.4f}  voxels {got - exact:+,}"
        ui.text("search − exact:", theme.MUTED)
        ui.text(away)
    if len(rounds) < 2:
        ui.text("met at once, without a search", theme.MUTED)
        return
    at = np.arange(1, len(rounds) + 1, dtype=np.float64)
    ui.legend([("near", _near_colour()), ("far", theme.FAR_CUT)] + ([("exact", theme.MUTED)] if search.exact else []))
    _draw_rounds(ui, "##planes tried", at, [(rounds[:, 0], _near_colour()), (rounds[:, 1], theme.FAR_CUT)],
                 search.exact[:2] if search.exact else ())
    ui.legend([("active voxels", theme.ACTIVE), ("wanted", theme.MUTED)])
    _draw_rounds(ui, "##counts tried", at, [(rounds[:, 2], theme.ACTIVE)], (float(search.wanted),))


def _near_colour() -> theme.Colour:
    return theme.NEAR_CUT if theme.current() is theme.LIGHT else theme.FRUSTUM


def _draw_rounds(ui: Ui, title: str, at: Float[np.ndarray, "rounds"],
                 lines: list[tuple[Float[np.ndarray, "rounds"], theme.Colour]], aims: tuple[float, ...]) -> None:
    """Values by round, and level lines at what they should become."""
    every = np.concatenate([*(line for line, _ in lines), np.array(aims)])
    every = every[np.isfinite(every)]
    low, high = (every.min(), every.max()) if every.size else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.5
    if not _begin_plot(ui, title, 5.2 * ui.em, (0.6, len(at) + 0.4, low - margin, high + margin), values=True):
        return
    step = -(-len(at) // 8)
    ui.plot.SetupAxisTicks(int(ui.plot.ImAxis_X1), np.ascontiguousarray(at[::step]))
    ui.plot.SetupAxisTicks(int(ui.plot.ImAxis_Y1), np.array(ticks(low - margin, high + margin, 4)))
    if aims:
        ui.plot.SetNextLineStyle((*theme.MUTED, 1.0), 1.0)
        ui.plot.PlotInfLines("##aims", np.array(aims), int(ui.plot.ImPlotInfLinesFlags_Horizontal))
    for number, (values, colour) in enumerate(lines):
        ui.plot.SetNextLineStyle((*colour, 1.0), 0.12 * ui.em)
        ui.plot.SetNextMarkerStyle(int(ui.plot.ImPlotMarker_Circle), 0.16 * ui.em)
        ui.plot.PlotLine(f"##line{number}", at, np.ascontiguousarray(values))
    if ui.plot.IsPlotHovered():
        row = int(np.clip(round(float(ui.plot.GetPlotMousePos()[0])) - 1, 0, len(at) - 1))
        shown = ", ".join(f"{values[row]:,.0f}" if values[row] > 100 else f"{values[row]:.4f}" for values, _ in lines)
        ui.im.SetTooltip(f"round {row + 1}: {shown}")
    ui.plot.EndPlot()


def _draw_rim(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    if not set(PARAMETERS) <= set(snapshot.field_kinds):
        return
    look = view.frustum
    ui.heading("Rim pixels")
    _, look.rim = ui.im.Checkbox("Compare with full rendering", look.rim)
    ui.tip("Quads at the rim of the active set lack voxels, so the section is open there.\n"
             "Rim pixels: those that the section renders otherwise than the whole surface would, under the same planes")
    if not look.rim:
        return
    found = look.rim_found(view)
    if look.look is not None and look.look.crossed:
        ui.text("no voxel is active: there is no section", theme.MUTED)
    elif isinstance(found, WorkFailed):
        ui.text(ui.shortened(found.message, ui.width), theme.BAD)
    elif not isinstance(found, Rim):
        late = "computed when the run pauses" if snapshot.playing else "being computed …"
        ui.text(late if set(PARAMETERS) <= set(snapshot.field_kinds) else "", theme.MUTED)
    else:
        _draw_rim_found(ui, view, found)


def _draw_rim_found(ui: Ui, view: ViewState, found: Rim) -> None:
    fresh = view.frustum.look is not None and found.camera is view.frustum.look.camera
    ui.pair(f"{count(found.n_differs)} pixels differ", f"{100 * found.fraction:.2f} % of those hit")
    ui.pair(f"missing {count(found.n_missing)}", f"extra {count(found.n_extra)}")
    ui.tip("missing: the section has no surface there; extra: it has one where the whole surface has none")
    height, width = found.differs.shape
    wide = min(ui.width, 12 * ui.em * width / height)
    source = (found.differs, theme.current())
    ui.picture("rim", source, lambda: rim_picture(found.depth, found.differs), (wide, wide * height / width))
    ui.tip(f"The whole surface with rim pixels marked, {width} x {height} pixels, after iteration {found.iteration}")
    if not fresh or view.worker.busy("rim"):
        ui.text("of the camera before; being computed …", theme.MUTED)
