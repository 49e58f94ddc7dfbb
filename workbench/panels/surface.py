"""Surface: why it is empty, holed or inside out: what the corners' signs say, and where voxels lack or are turned."""

from __future__ import annotations

from workbench import theme
from workbench.check_view import COLOURS, SDF, TITLES, CheckView, Region
from workbench.commands import Command
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count
from workbench.view_state import ViewState

N_LISTED = 6
_LOOK_TIP = ("From near by, the way you look now, or from where nothing stands before it; without the target and the\n"
             "voxels that are well. H leads back")
_TIPS = {
    "holes": "Voxels that the target touches and which are not there, in regions that hang together: pruned, or\n"
             "never made. No face arises around an edge that lacks one of its four voxels",
    "turned": "Voxels of which most corners have the sign of the target's other side, in regions that hang together.\n"
              "Corners nearer to the target than a tenth of a voxel don't count",
    "bad": "Voxels with a corner whose SDF is NaN or infinite. Extraction takes NaN for outside",
}


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    """None beyond the scene's: the panel tells of what was found for the scene."""
    return set()


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    own = view.check
    if snapshot.field_kinds.get("voxels") != "voxels" or snapshot.field_kinds.get(SDF) != "corner":
        ui.wrapped("This run has no voxels with an SDF at their corners (voxels, corner_sdf).")
        return []
    if own.note:
        ui.wrapped(own.note)
    if own.found is None:
        if not own.note:
            ui.text("looking …", theme.MUTED)
        return []
    _draw_signs(ui, own)
    _, own.shown = ui.im.Checkbox("Show in the scene", own.shown)
    ui.tip("Draws the voxels of the regions below in their colours")
    for kind in ("holes", "turned", *(("bad",) if own.found.bad.n else ())):
        _draw_regions(ui, view, kind)
    return []


def _draw_signs(ui: Ui, own: CheckView) -> None:
    found = own.found
    ui.heading("Signs of the SDF", "looking …" if own.waiting else "")
    total = found.n_inside + found.n_outside
    ui.shares([(found.n_inside, theme.NEAR_CUT), (found.n_outside - found.n_bad, theme.PRUNED),
               (found.n_bad, theme.NOT_A_NUMBER)], 0.55 * ui.em)
    for label, colour, number, tip in (
        ("corners inside", theme.NEAR_CUT, found.n_inside, "SDF below 0"),
        ("corners outside", theme.PRUNED, found.n_outside - found.n_bad, "SDF above 0, or 0"),
        ("not a number", theme.NOT_A_NUMBER, found.n_bad, "NaN or infinite; NaN counts as outside"),
    ):
        if number or colour != theme.NOT_A_NUMBER:
            ui.dot(colour)
            ui.pair(label, count(number))
            ui.tip(tip)
    ui.pair("voxels with surface", f"{count(found.n_crossed)} of {count(found.voxels.n_voxels)}")
    ui.tip("Their corners differ in sign: the surface passes through")
    ui.pair("faces, quads", count(found.n_faces))
    ui.tip("One around each lattice edge where the sign changes, if all four voxels are there")
    ui.pair("edges without a face", count(found.n_open))
    ui.tip("The sign changes along them, but a voxel beside them is missing: the surface is open there")
    if total and not found.n_crossed:
        side = "inside" if found.n_inside else "outside"
        ui.wrapped(f"No surface: every corner is {side}. Without a change of sign there are no faces, no rendering, "
                   "and no gradient but that of the terms on the SDF itself.")


def _draw_regions(ui: Ui, view: ViewState, kind: str) -> None:
    own = view.check
    regions, known = own.regions(kind), getattr(own.found, kind)
    n_voxels = 0 if known is None else known.voxels.n_voxels
    ui.heading(TITLES[kind], f"{count(known.n)} with {count(n_voxels)} voxels" if n_voxels else "")
    ui.tip(_TIPS[kind])
    if known is None:
        ui.text("Known where there is a target.", theme.MUTED)
        return
    if kind == "turned" and own.found.n_at_border:
        ui.text(f"but for {count(own.found.n_at_border)} at its open borders", theme.MUTED)
        ui.tip("Within three voxels of an open border of the target there are no sides")
    if not regions:
        ui.text("None.", theme.MUTED)
        return
    for region in regions[:N_LISTED]:
        _draw_region(ui, view, region)
    if known.n > N_LISTED:
        ui.text(f"and {count(known.n - N_LISTED)} smaller ones", theme.MUTED)
    chosen = own.chosen
    if chosen is not None and chosen.kind == kind and view.view_camera is not None and ui.button(
            f"Look at it##{kind}", ui.width, tip=_LOOK_TIP):
        view.cameras.look_through = own.look_near(view)


def _draw_region(ui: Ui, view: ViewState, region: Region) -> None:
    """A line of the list: where and how large; a click gives it a frame, and takes it away again."""
    own = view.check
    here = own.chosen is not None and (own.chosen.kind, own.chosen.low, own.chosen.high) == (
        region.kind, region.low, region.high)
    said = f"{count(region.n_voxels)} voxel" + "s" * (region.n_voxels != 1)
    said = f"{said}, {count(region.lost)} faces" if region.kind == "holes" else said
    with ui.sized(0.88):
        ui.dot(COLOURS[region.kind], framed=True)
        room = ui.width - ui.im.CalcTextSize(said)[0] - 0.6 * ui.em
        if ui.im.Selectable(f"{_place(region)}##{region.kind} {region.number}", here, 0, (room, 0.0)):
            own.chosen = None if here else region
        ui.tip("Voxels i, j, k, from and to. Click to frame it in the scene")
        ui.text_right(said, theme.MUTED)


def _place(region: Region) -> str:
    """Such as "31, 40, 12" or "31–33, 40, 12–20"."""
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in zip(region.low, region.high, strict=True))
