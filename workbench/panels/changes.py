"""Changes: what differs between two iterations: which two, counts by category, how far, the voxels that did most."""

from __future__ import annotations

import math

import numpy as np

from workbench import theme
from workbench.camera_view import near_camera
from workbench.change_state import DEFORM, SDF, State
from workbench.change_view import (
    BEFORE,
    COLOURS,
    FACES,
    FLIPS,
    ITERATION,
    KEPT_STATE,
    MAX_THRESHOLD,
    MIN_THRESHOLD,
    label_of,
)
from workbench.changes import BINS, CHANGED, HEALED, PARTS, SPOILED, Changes
from workbench.commands import Command
from workbench.network_view import Picked
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, megabytes
from workbench.view_state import ViewState

SMALL = 0.88
TIPS = {
    "born": "Voxels that are there after, and were not before", "pruned": "Voxels that were there before, not after",
    "spoiled": "SDF or δ of a corner, or α, β or γ of the voxel, is NaN or infinite now, and was a number",
    "flipped": "The SDF of a corner changed its sign: the surface may pass elsewhere",
    "moved": "No sign flipped; δ moved a corner at least so far as the slider says",
    "sdf": "The SDF of a corner changed at least so much as the slider says, δ less",
    "same": "Nothing of it: what changed, if anything, is below what the slider says",
    "outward": "Corners whose SDF went from negative (inside) to positive or zero, as extraction counts it",
    "inward": "Corners whose SDF went from positive or zero to negative (inside)",
    "gained": "Quads of the surface around edges of the lattice that had none. Each quad is two triangles",
    "lost": "Quads around edges that have none now, drawn as they were before",
    "turned": "Quads around the same edges, facing the other way: the surface is turned inside out there",
}
_CORNER_NAMES = ("000", "100", "010", "110", "001", "101", "011", "111")
_CLOSE = 40.0
"""How far away a listed voxel is looked at from, in voxel widths."""


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    """None beyond the scene's: the panel tells of what the scene has compared."""
    return set()


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    own = view.changes
    if snapshot.field_kinds.get("voxels") != "voxels":
        ui.wrapped("There are no voxels here that could be compared.")
        return []
    view.network.pick(view, snapshot)
    _draw_states(ui, view, snapshot)
    if own.note:
        ui.wrapped(own.note)
    elif own.waiting:
        ui.text("comparing …", theme.MUTED)
    found = own.found
    if found is not None:
        _draw_scene_choice(ui, view)
        if found.note:
            ui.wrapped(found.note)
        _draw_voxels(ui, view, found)
        _draw_corners(ui, view, found)
        _draw_faces(ui, view, found)
        _draw_histogram(ui, view, found)
        _draw_list(ui, view, found)
        _draw_picked(ui, view, found)
        if ui.button("Export the lists (.csv)", ui.width,
                     tip="Every voxel, corner and quad that changed, into the folder of the run"):
            own.save(view)
    view.notice = own.said(view) or view.notice
    return list(own.requests(snapshot))


def _draw_states(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    """Where the state before comes from, what both are, and the button that keeps the one after."""
    own, recorded = view.changes, snapshot.source != "live"
    ui.heading("Before and after")
    modes = {BEFORE: ("Previous", "Before: the snapshot that was recorded before the one shown") if recorded else
             ("Last stop", "Before: where the run stood still last. Step, and see what the step changed")}
    if recorded:
        modes[ITERATION] = "Iteration", "Before: any recorded iteration; after: the one that is shown"
    if own.kept is not None:
        modes[KEPT_STATE] = "Kept", f"Before: {own.kept.label}, which you kept"
    names = list(modes)
    at = names.index(own.mode) if own.mode in names else 0
    chosen = names[at]
    if len(names) > 1:
        chosen = names[ui.choice([modes[name][0] for name in names], at, tips=[modes[name][1] for name in names])]
    if chosen != own.mode:
        own.mode = chosen
        own.iteration = own.iteration or (snapshot.iteration if own.a is None else own.a.iteration)
    if chosen == ITERATION and snapshot.past.oldest is not None:
        low, high = snapshot.past.oldest, max(snapshot.past.reached, snapshot.past.oldest)
        ui.im.SetNextItemWidth(ui.width)
        _, at = ui.im.SliderInt("##before of changes", min(max(own.iteration, low), high), low, high,
                                "before: iteration %d", int(ui.im.ImGuiSliderFlags_AlwaysClamp))
        own.iteration = int(at)
    _draw_state(ui, "before", own.a)
    _draw_state(ui, "after", own.b)
    half, gap = (ui.width - 0.4 * ui.em) / 2, 0.4 * ui.em
    if ui.button("Keep this state", half, own.b is not None,
                 tip="Keeps voxels and corners as they are now, as the state before all that comes"):
        own.keep()
    ui.im.SameLine(0.0, gap)
    if ui.button(f"Drop it ({megabytes(own.kept.n_bytes)})" if own.kept is not None else "Drop it", half,
                 own.kept is not None, tip="Forgets the state that was kept"):
        own.drop()


def _draw_state(ui: Ui, name: str, state: State | None) -> None:
    if state is None:
        ui.text(f"{name}: –", theme.MUTED)
        return
    label, size = f"{name}: {state.label}", f"{count(state.voxels.n_voxels)} of {state.voxels.resolution}³"
    ui.text(ui.shortened(label, ui.width))
    ui.tip(f"{state.label}\n{size} voxels")
    if ui.im.CalcTextSize(label)[0] + ui.im.CalcTextSize(size)[0] + 0.6 * ui.em <= ui.width:
        ui.text_right(size, theme.MUTED)
        ui.tip("Voxels, and their resolution")


def _draw_scene_choice(ui: Ui, view: ViewState) -> None:
    own = view.changes
    _, own.shown = ui.im.Checkbox("Show in the scene", own.shown)
    ui.tip("Colours voxels, corners and faces by what became of them, in place of the voxels' own layers")
    if own.shown and view.what_ifs.in_scene is not None and ui.button(
            "The scene shows what-ifs: show this", ui.width, tip="What-ifs are kept in the Frustum tab"):
        view.what_ifs.shown = False


def _draw_row(ui: Ui, view: ViewState, name: str, number: int, lists: bool = False, aside: str = "") -> None:
    """A layer of the scene with its colour and count; lists: a click on it shows its voxels below."""
    own = view.changes
    label, tip = label_of(name, own.found), TIPS[name]
    if label == "in both":
        tip = "Voxels whose cell was there before, too, whole or in part"
    _, own.layers[name] = ui.im.Checkbox(f"##changes {name}", own.layers[name])
    ui.tip(f"{tip}.\nShown in the scene, or not")
    ui.im.SameLine(0.0, 0.4 * ui.em)
    ui.dot(COLOURS[name], framed=True)
    colour = theme.TEXT if number else theme.MUTED
    if lists:
        room = ui.width - 5.0 * ui.em
        if ui.im.Selectable(f"{label}##changes {name}", own.found is not None and own.top()[0] == name, 0,
                            (room, 0.0)):
            own.listed = name
        ui.tip(f"{tip}.\nClick to list them")
    else:
        ui.text(label, colour)
        ui.tip(tip)
    if aside:
        ui.im.SameLine()
        ui.text(aside, theme.MUTED, size=SMALL)
    ui.text_right(count(number), colour)


def _draw_voxels(ui: Ui, view: ViewState, found: Changes) -> None:
    own, counts = view.changes, view.changes.counts()
    ui.heading("Voxels")
    if found.one_lattice and (found.d_deform is not None or found.d_sdf is not None):
        ui.im.SetNextItemWidth(ui.width)
        changed, value = ui.im.SliderFloat(
            "##moved by", max(own.threshold, MIN_THRESHOLD), MIN_THRESHOLD, MAX_THRESHOLD,
            "moved: from %.3g voxel widths", int(ui.im.ImGuiSliderFlags_Logarithmic))
        ui.tip("What counts as moved, or as an SDF changed, in voxel widths; at the left end everything that differs")
        if changed:
            own.threshold = 0.0 if value <= MIN_THRESHOLD * 1.01 else min(float(value), MAX_THRESHOLD)  # if typed
    shown = ("born", "pruned", "flipped", "moved", "same") if found.one_lattice else ("born", "pruned", "same")
    for part in PARTS:
        if counts[part] or part in shown:
            _draw_row(ui, view, part, counts[part], lists=True)
    if found.n_weights_spoiled:
        ui.text(f"of {count(found.n_weights_spoiled)} it is α, β or γ", theme.BAD)
    if found.n_left_out:
        ui.pair("children left out", count(found.n_left_out))
        ui.tip("Cells of the finer lattice within common voxels that the finer set lacks")
    if found.d_deform is None and found.one_lattice:
        ui.text("This run has no δ to compare.", theme.MUTED)


def _draw_corners(ui: Ui, view: ViewState, found: Changes) -> None:
    n_touched, n = found.n_corners_of[CHANGED], len(found.flags)
    ui.heading("Corners", f"{count(n_touched)} of {count(n)} touched")
    ui.tip("Of the corners that are in both, those of which any bit of SDF or δ is another:\n"
           "an iteration touches those of its active set alone")
    if found.d_sdf is None:
        ui.text("There is no SDF to compare.", theme.MUTED)
        return
    numbers = found.n_corners_of
    for name, bit in FLIPS.items():
        _draw_row(ui, view, name, numbers[bit])
    for bit, label in ((SPOILED, "became NaN or infinite"), (HEALED, "are numbers again")):
        if numbers[bit]:
            ui.dot(theme.NOT_A_NUMBER)
            ui.text(label, theme.BAD if bit == SPOILED else None)
            ui.text_right(count(numbers[bit]))


def _draw_faces(ui: Ui, view: ViewState, found: Changes) -> None:
    if found.gained is None:
        return
    n_a, n_b = len(found.a.quads.keys), len(found.b.quads.keys)
    ui.heading("Faces", f"{count(n_a)} → {count(n_b)} quads")
    ui.tip("One around each edge whose corners differ in sign and whose four voxels exist")
    for name in FACES:
        keys = getattr(found, name)
        by_sign = {"gained": found.n_gained_by_sign, "lost": found.n_lost_by_sign}.get(name, len(keys))
        by_voxels = len(keys) - by_sign
        why = "" if not by_voxels else f"{count(by_voxels)} {'as voxels lack' if name == 'lost' else 'by born voxels'}"
        _draw_row(ui, view, name, len(keys), aside=why)


def _draw_histogram(ui: Ui, view: ViewState, found: Changes) -> None:
    """How far corners moved, and how much their SDF changed: counts over a logarithmic axis."""
    known = {name: found.histograms[name] for name in (DEFORM, SDF) if name in found.histograms}
    if not any(counts.any() for counts, _ in known.values()):
        return
    colours = {DEFORM: COLOURS["moved"], SDF: COLOURS["sdf"]}
    ui.legend([({DEFORM: "|Δδ|", SDF: "|ΔSDF|"}[name], colours[name]) for name in known])
    ui.tip("Corners by how far they changed, in voxel widths")
    plot = ui.plot
    flags = int(plot.ImPlotFlags_CanvasOnly) | int(plot.ImPlotFlags_NoInputs)
    if not plot.BeginPlot("##how far", (ui.width, 4.8 * ui.em), flags):
        return
    tallest = max(int(counts.max()) for counts, _ in known.values())
    plot.SetupAxes("", "", int(plot.ImPlotAxisFlags_NoGridLines), int(plot.ImPlotAxisFlags_NoDecorations))
    plot.SetupAxesLimits(-6.5, 1.0, 0.0, 1.08 * math.log10(1.0 + tallest), int(plot.ImPlotCond_Always))
    plot.SetupAxisTicks(int(plot.ImAxis_X1), np.array([-6.0, -4.0, -2.0, 0.0]),
                        ["1e-6", "1e-4", "0.01", "1"])
    middles = (np.log10(BINS[:-1]) + np.log10(BINS[1:])) / 2
    for name, (counts, _) in known.items():
        plot.SetNextLineStyle((*colours[name], 1.0), 0.12 * ui.em)
        plot.PlotLine(f"##{name}", middles, np.log10(1.0 + counts))
    if found.one_lattice:
        plot.SetNextLineStyle((*theme.MUTED, 1.0), 1.0)
        plot.PlotInfLines("##threshold", np.array([math.log10(max(view.changes.threshold, 1e-6))]))
    plot.EndPlot()


def _draw_list(ui: Ui, view: ViewState, found: Changes) -> None:
    """The voxels of one category that changed most; a click picks one."""
    part, rows = view.changes.top()
    if not rows:
        return
    sorted_by = found.one_lattice and part not in ("born", "pruned")
    label = label_of(part, found)
    ui.heading(f"{label}, the most" if sorted_by else f"{label}, the first", "|Δδ|   |ΔSDF|" * sorted_by)
    voxels = found.a.voxels if part == "pruned" else found.b.voxels
    picked = view.network.picked
    for ijk, deform, sdf in rows:
        here = picked is not None and (picked.ijk, picked.resolution) == (ijk, voxels.resolution)
        if ui.im.Selectable(f"{ijk[0]}, {ijk[1]}, {ijk[2]}##changed", here, 0, (ui.width - 9.0 * ui.em, 0.0)):
            view.network.picked = Picked(ijk, voxels.resolution)
        ui.tip("Click to pick it: it gets a frame in the scene")
        numbers = "   ".join(f"{value:.4f}" for value in (deform, sdf) if value == value)
        if numbers:
            ui.text_right(numbers, theme.MUTED)


def _draw_picked(ui: Ui, view: ViewState, found: Changes) -> None:
    """The eight corners of the picked voxel before and after."""
    picked = view.network.picked
    if picked is None:
        return
    i, j, k = picked.ijk
    ui.heading(f"Voxel {i}, {j}, {k}", f"of {picked.resolution}³")
    half, gap = (ui.width - 0.4 * ui.em) / 2, 0.4 * ui.em
    if ui.button("Look at it", half, view.view_camera is not None, tip="From near by, the way you look now"):
        view.cameras.look_through = near_camera(view.view_camera, picked.centre_world, _CLOSE / picked.resolution)
    ui.im.SameLine(0.0, gap)
    if ui.button("Let go##voxel", half, tip="Or click beside all voxels"):
        view.network.picked = None
    rows = {name: picked.row_of(state.voxels) for name, state in (("before", found.a), ("after", found.b))}
    if max(rows.values()) < 0:
        ui.text("It is there neither before nor after.", theme.MUTED)
        return
    where = {(True, True): "there before and after", (True, False): "there before, pruned", (False, True): "born"}
    ui.text(where[rows["before"] >= 0, rows["after"] >= 0], theme.MUTED)
    if (found.a.sdf is None and found.b.sdf is None) or not found.one_lattice:
        return
    with ui.sized(SMALL):
        if not ui.im.BeginTable("corners of changes", 4, int(ui.im.ImGuiTableFlags_SizingStretchProp)):
            return
        try:
            for heading, tip in (("corner", "Its place in the voxel: x, y, z"), ("SDF before", "In voxel widths"),
                                 ("after", "Its SDF after, in voxel widths"), ("|Δδ|", "In voxel widths")):
                ui.im.TableNextColumn()
                ui.text(heading, theme.MUTED)
                ui.tip(tip)
            for values in corner_rows(found, rows["before"], rows["after"]):
                for text, colour in values:
                    ui.im.TableNextColumn()
                    ui.text(text, colour)
        finally:  # a table left open would end the process, not just the panel
            ui.im.EndTable()


def corner_rows(found: Changes, row_a: int, row_b: int) -> list[list[tuple[str, theme.Colour]]]:
    """Of each corner its name, its SDF before and after in voxel widths, how far δ went; "–" where it isn't there."""
    table: list[list[tuple[str, theme.Colour]]] = []
    for slot, name in enumerate(_CORNER_NAMES):
        values, places = [], []
        for state, row in ((found.a, row_a), (found.b, row_b)):
            corner = -1 if row < 0 else int(state.voxels.corners_by_slot[slot, row])
            there = corner >= 0 and state.sdf is not None
            values.append(float(state.sdf[corner]) * state.voxels.resolution if there else math.nan)
            deform = state.deform[corner] if corner >= 0 and state.deform is not None else None
            places.append(None if deform is None else 0.5 * np.tanh(deform.astype(np.float64)))
        way = math.nan if places[0] is None or places[1] is None else float(np.linalg.norm(places[1] - places[0]))
        flipped = values[0] == values[0] and values[1] == values[1] and (values[0] < 0) != (values[1] < 0)
        colour = COLOURS["flipped"] if flipped else theme.TEXT
        numbers = [f"{value:+.3f}" if value == value else "–" for value in values]
        table.append([(name, theme.MUTED), *((text, colour) for text in numbers),
                      (f"{way:.4f}" if way == way else "–", theme.TEXT)])
    return table
