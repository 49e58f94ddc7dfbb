"""Network: the stages of an inference, where it stands, which of them is looked at; and the voxel picked there."""

from __future__ import annotations

from sparseflex.training.reconstruct_settings import place_of
from workbench import quantities, theme
from workbench.commands import ChangeSetting, Command
from workbench.network_view import (
    ATTENDED,
    INPUT_VOXELS,
    LATENT_VOXELS,
    Picked,
    another_pass,
    attended_key,
    has_attention,
)
from workbench.panels.field import draw_voxels
from workbench.products import BEGINNING, FOLLOW
from workbench.quantities import ATTENTION
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, milliseconds, packed
from workbench.view_state import ViewState

SMALL = 0.86
ROW_EM = 1.5
FEWEST_ROWS = 8
KEPT_SECS = 5e-5
"""A stage that took less has looked at what it depends on, found it unchanged, and kept what it had made."""
_BELOW_EM = 19.5
"""Room that is left below the list of stages."""

_OF_INPUT, _OF_LATENTS = ("voxels", "point", "encoder"), ("latent", "trunk")
FOLLOW_TIP = ("Looks at the newest stage of a pass while it runs, and at the final surface once it is whole.\n"
              "Down arrow beyond the last stage follows too")


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return {"voxels", INPUT_VOXELS, LATENT_VOXELS}


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    view.network.pick(view, snapshot)
    _draw_stages(ui, view, snapshot)
    _draw_looked_at(ui, view, snapshot)
    return _draw_picked(ui, view, snapshot)


def n_voxels(snapshot: Snapshot, stage: str) -> float:
    """How many voxels a stage has to do with; of "points" the points. NaN where that isn't known yet."""
    kind, _, number = stage.partition(" ")
    own = INPUT_VOXELS if kind in _OF_INPUT else LATENT_VOXELS  # others where shapes are mixed
    known = snapshot.products.fields.get(own) if kind in (*_OF_INPUT, *_OF_LATENTS) else None
    if known is not None:
        return float(known.n_voxels)
    if stage == BEGINNING:
        name = "points"
    elif kind in ("upsample", "prune"):
        name = f"{'children' if kind == 'upsample' else 'kept'}_{number}"
    else:
        name = "voxels" if stage in ("head", "extract") else "latent_voxels"
    return snapshot.scalars.get(name, float("nan"))


def _draw_stages(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    """The list: a mark for how far the pass is, name, voxels, seconds and bytes; a click looks at the stage."""
    pass_now = snapshot.iteration + 1 if snapshot.iteration_under_way else snapshot.iteration
    ui.heading("Stages", f"pass {count(pass_now)}" if pass_now else "")
    with ui.sized(SMALL):
        ends = _columns(ui)
        _draw_headings(ui, ends)
    tall = ROW_EM * SMALL * ui.em
    room = ui.im.GetContentRegionAvail()[1] - _BELOW_EM * ui.em
    rows = min(len(snapshot.stages), max(int(room / tall), FEWEST_ROWS))
    ui.im.PushStyleVar(int(ui.im.ImGuiStyleVar_ItemSpacing), (0.0, 0.0))
    ui.im.BeginChild("stages", (0.0, rows * tall + 2))
    with ui.sized(SMALL):  # within: a child begins with the window's own size
        for place, stage in enumerate(snapshot.stages):
            _draw_stage(ui, view, snapshot, place, stage, ends)
    ui.im.EndChild()
    ui.im.PopStyleVar(1)
    ui.im.Dummy((0.0, 0.15 * ui.em))


Ends = tuple[float, float, float]


def _columns(ui: Ui) -> Ends:
    """Where the three numbers of a row end, from its left edge."""
    width = ui.width - 1.1 * ui.em  # the list may need a scroll bar
    return width - 8.4 * ui.em, width - 4.3 * ui.em, width


def _draw_headings(ui: Ui, ends: Ends) -> None:
    left, y = ui.im.GetCursorScreenPos()
    draw = ui.im.GetWindowDrawList()
    for text, end in zip(("voxels", "time", "memory"), ends, strict=True):
        draw.AddText((left + end - ui.im.CalcTextSize(text)[0], y), packed(theme.MUTED), text)
    ui.im.Dummy((ui.width, ui.im.GetTextLineHeight()))
    ui.tip("Voxels, or points, of the stage, the seconds that it took, and the most memory that the program had\n"
           "meanwhile, all of it; on CUDA that of the device")


def _draw_stage(ui: Ui, view: ViewState, snapshot: Snapshot, place: int, stage: str, ends: Ends) -> None:
    im, em, draw = ui.im, ui.em, ui.im.GetWindowDrawList()
    next_place = snapshot.stages.index(snapshot.stage_next) if snapshot.stage_next in snapshot.stages else 0
    whole = snapshot.iteration > 0 and not snapshot.iteration_under_way
    done = whole or place < next_place
    looked_at = snapshot.products.stage == stage or (
        snapshot.products.stage == FOLLOW and stage == snapshot.stages[-1] and done)
    left, y = im.GetCursorScreenPos()
    width, tall = ui.width, ROW_EM * em
    if im.InvisibleButton(f"##stage {stage}", (width, tall)):
        view.network.chosen, view.network.in_sight = _choice(snapshot, stage), stage
    if im.IsItemHovered() or looked_at:
        fill = packed(theme.RAISED if looked_at else theme.RAISED_HOVER, 1.0 if looked_at else 0.5)
        draw.AddRectFilled((left, y), (left + width, y + tall), fill, 0.25 * em)
    if im.IsItemHovered():
        ui.tip(_tip(snapshot, stage, done))
    if looked_at:
        draw.AddRectFilled((left, y), (left + 0.18 * em, y + tall), packed(theme.ACCENT), 0.0)
        if view.network.in_sight != stage:
            im.SetScrollHereY(0.5)
            view.network.in_sight = stage
    _draw_mark(ui, (left + 0.85 * em, y + tall / 2), done, place == next_place and not whole)
    colour = packed(theme.TEXT if done else theme.MUTED)
    at = y + (tall - im.GetTextLineHeight()) / 2
    draw.AddText((left + 1.7 * em, at), colour, stage)
    secs, peak = (values.get(stage, float("nan")) for values in (snapshot.stage_secs, snapshot.stage_peak_bytes))
    known = stage in snapshot.stage_secs and (done or snapshot.iteration > 0)
    took = "kept" if secs < KEPT_SECS and stage != BEGINNING else milliseconds(secs)
    texts = (count(n_voxels(snapshot, stage)), took, short_bytes(peak)) if known else ("–",) * 3
    for text, end in zip(texts, ends, strict=True):
        draw.AddText((left + end - im.CalcTextSize(text)[0], at), colour, text)


def _choice(snapshot: Snapshot, stage: str) -> str:
    return stage if stage in (BEGINNING, *snapshot.products.stages) else FOLLOW


def _draw_mark(ui: Ui, centre: tuple[float, float], done: bool, is_next: bool) -> None:
    """A disc for what this pass has done, a triangle for what it does next, a ring for what is to come."""
    draw, size = ui.im.GetWindowDrawList(), 0.26 * ui.em
    x, y = centre
    if is_next:
        tip = ((x - size, y - 1.3 * size), (x - size, y + 1.3 * size), (x + 1.2 * size, y))
        draw.AddTriangleFilled(*tip, packed(theme.ACCENT))
    elif done:
        draw.AddCircleFilled(centre, size, packed(theme.GOOD))
    else:
        draw.AddCircle(centre, size, packed(theme.MUTED))


def _tip(snapshot: Snapshot, stage: str, done: bool) -> str:
    made = "Click to look at what it left" if stage in (BEGINNING, *snapshot.products.stages) else (
        "Click to look at the final surface")
    kept = snapshot.stage_secs.get(stage, 1.0) < KEPT_SECS and stage != BEGINNING and snapshot.iteration > 0
    made += "\nKept: nothing that it depends on had changed since the pass before" if kept else ""
    before = "; its numbers are of the one before" if snapshot.iteration else ""
    when = "" if done else f"\nNot done in this pass yet{before}"
    return f"{_MEANING.get(stage.split(' ')[0], '')}{made}{when}. Arrow up and down step"


_MEANING = {
    "points": "The input points with their normals.\n",
    "voxels": "The voxels that get a latent: those that the surface or a point touches.\n",
    "point": "The point encoder: what the points in each voxel come to, the mean over them.\n",
    "encoder": "A block of the encoder's sparse transformer: attention within windows of 8³ voxels,\nshifted by 4 in "
               "every second block.\n",
    "latent": "Mean and spread of each voxel's latent, and what is decoded of it.\n",
    "trunk": "A block of the decoder's sparse transformer, as in the encoder.\n",
    "upsample": "Every voxel becomes its eight children; each gets an occupancy logit.\n",
    "prune": "Children whose logit is below the threshold are dropped.\n",
    "head": "53 numbers a voxel: SDF and deformation of its corners, weights α, β, γ.\n",
    "extract": "The surface, by dual marching cubes.\n",
}


def short_bytes(n_bytes: float) -> str:
    """'340 MB', '1.2 GB'; '–' for NaN."""
    if n_bytes != n_bytes:
        return "–"
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _draw_looked_at(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    stage = snapshot.products.stage
    if not (snapshot.iteration or snapshot.iteration_under_way):
        ui.heading("No pass yet")
        ui.wrapped("Space, or the right arrow, runs one; with Shift, one stage of it. "
                   "What the stages leave can be looked at afterwards, too.")
        return
    voxels = snapshot.fields.get("voxels")
    aside = "" if voxels is None else f"{count(voxels.n_voxels)} voxels, {voxels.resolution}³"
    ui.heading(stage or "final surface", aside)
    changed, follow = ui.im.Checkbox("Follow the pass", view.network.chosen == FOLLOW)
    ui.tip(FOLLOW_TIP)
    if changed:
        view.network.chosen = FOLLOW if follow else stage or FOLLOW
    names = quantities.voxel_names(snapshot.field_kinds)
    if stage == BEGINNING:
        shown = view.points.shown
        ui.wrapped("No voxels yet: the input points stand beside, as a layer." if shown is None else
                   f"No voxels yet. {drawn_points(view)}")
    elif names:
        draw_voxels(ui, view, snapshot, names, titled=False)


def drawn_points(view: ViewState) -> str:
    """How many points are drawn of how many, and whether all that are lost are among them."""
    shown = view.points.shown
    if shown is None:
        return "The layer of input points is off."
    n = len(shown.rows)
    if n == shown.n_all:
        return f"All {count(n)} input points are drawn."
    lost = f", with {count(shown.n_lost_drawn)} of {count(shown.n_lost)} that are not covered" if shown.n_lost else ""
    return f"{count(n)} of {count(shown.n_all)} input points are drawn, evenly chosen{lost}."


def _draw_picked(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    """The voxel that was clicked, what it carries, and its attention."""
    ui.heading("Picked voxel")
    picked, voxels = view.network.picked, snapshot.fields.get("voxels")
    if picked is None:
        ui.text("Click a voxel in the scene.", theme.MUTED)
    else:
        ui.pair("voxel", f"{picked.ijk[0]}, {picked.ijk[1]}, {picked.ijk[2]} of {picked.resolution}³")
        row = -1 if voxels is None else picked.row_of(voxels)
        _draw_values(ui, view, row)
    return _draw_attention(ui, view, snapshot, picked) if ATTENDED in snapshot.settings else []


def _draw_values(ui: Ui, view: ViewState, row: int) -> None:
    shown = view.field.voxel
    if shown is None or not 0 <= row < len(shown.values):
        return
    if shown.rgb is not None:
        ui.pair("colour", ", ".join(f"{part:.2f}" for part in shown.rgb[row]))
    else:
        ui.pair(shown.label, f"{shown.values[row]:.4g} {shown.unit}".strip())


def _draw_attention(ui: Ui, view: ViewState, snapshot: Snapshot, picked: Picked | None) -> list[Command]:
    now, key = int(snapshot.settings[ATTENDED].value), attended_key(snapshot, picked)
    half = (ui.width - 0.3 * ui.em) / 2
    able = key >= 0 and key != now
    attend = ui.button("Attend here", half, able, accent=able, tip=(
        "Shows what the latent voxel that holds the picked one attends to within its window, in every block;\n"
        "runs a pass of which only what that needs is computed"))
    ui.im.SameLine(0.0, 0.3 * ui.em)
    stop = ui.button("Attend nowhere", half, now >= 0)
    if now >= 0:
        voxels = snapshot.products.fields.get(LATENT_VOXELS)
        if voxels is not None:
            place = ", ".join(str(part) for part in place_of(now, voxels.resolution))
            ui.pair("attended", f"{place} of {voxels.resolution}³")
        if not has_attention(snapshot):
            ui.text("Blocks of encoder and trunk show it.", theme.MUTED)
    if attend:
        view.network.colour_by(view, ATTENTION)
        return [ChangeSetting(ATTENDED, float(key)), *another_pass(snapshot)]
    return [ChangeSetting(ATTENDED, -1.0), *another_pass(snapshot)] if stop else []
