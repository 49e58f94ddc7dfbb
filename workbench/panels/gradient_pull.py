"""The picked voxel of the Gradients tab: what each term adds to its gradient, and which pixels pull on it."""

from __future__ import annotations

import math

import numpy as np

from sparseflex.training.backward_pass import PARAMETERS
from workbench import theme
from workbench.colour_bar import draw_colour_bar
from workbench.colour_maps import Scale
from workbench.gradient_work import Pull, Summary
from workbench.ui import Ui, count, packed
from workbench.view_state import ViewState

_SMALL = 0.86
_HEADS = {"sdf": "SDF", "deform": "δ", "weights": "α β γ"}
_LARGEST_TEXTURE = 1024
_BELOW_EM, _LEAST_EM = 9.4, 10.0
"""Room that is left below the image for the colour bar and the strongest pixels, and that it takes at least."""


def draw_voxel(ui: Ui, view: ViewState, found: Summary) -> None:
    """found: of the same backward pass."""
    picked, pull = view.network.picked, view.gradients.pull
    if picked is None:
        ui.heading("Picked voxel")
        ui.text("Click a voxel in the scene, or a region.", theme.MUTED)
        return
    ui.heading("Voxel {}, {}, {}".format(*picked.ijk), f"of {picked.resolution}³")
    if picked.resolution != found.resolution:
        ui.wrapped(f"It is of another level: the voxels are {found.resolution}³ now. Click one of them.")
    elif pull is None:
        ui.text("looking for what pulls …" if view.gradients.busy(view) else
                "It was not active in this iteration: nothing pulled.", theme.MUTED)
    else:
        _draw_norms(ui, view, pull)
        _draw_pull(ui, view, pull, found)


def _draw_norms(ui: Ui, view: ViewState, pull: Pull) -> None:
    """Length of the gradient by term and parameter, and what each term adds to that of the chosen parameter."""
    im = ui.im
    flags = int(im.ImGuiTableFlags_SizingStretchProp) | int(im.ImGuiTableFlags_NoPadOuterX)
    with ui.sized(_SMALL):
        if not im.BeginTable("pulls by term", 5, flags):
            return
        try:
            for number, weight in enumerate((1.35, 1.0, 1.0, 1.0, 1.0)):
                im.TableSetupColumn(f"##{number}", 0, weight)
            chosen = _HEADS[view.gradients.parameter]
            lengths = [(head, f"Length of the gradient by its {head}") for head in _HEADS.values()]
            adds = (f"What each term adds to the length of the gradient by {chosen}: they sum up to it.\n"
                    "A negative one pulls the other way")
            for head, tip in [("", ""), *lengths, ("adds", adds)]:
                im.TableNextColumn()
                _right(ui, head, theme.MUTED)
                ui.tip(tip)
            for term in (*pull.by_term, ""):
                im.TableNextColumn()
                ui.text(term or "loss", theme.TEXT if term else theme.MUTED)
                for name in PARAMETERS:
                    im.TableNextColumn()
                    value = pull.norms[name][term]
                    _right(ui, short(value), theme.TEXT if math.isfinite(value) else theme.BAD)
                im.TableNextColumn()
                added = pull.by_term[term] if term else pull.norm
                _right(ui, f"{'+' if added > 0 else ''}{short(added)}",
                       theme.BAD if added < 0 or not math.isfinite(added) else theme.TEXT)
        finally:  # a table left open would end the process, not just the panel
            im.EndTable()


def _right(ui: Ui, text: str, colour: theme.Colour) -> None:
    spare = ui.width - ui.im.CalcTextSize(text)[0]
    ui.im.SetCursorPosX(ui.im.GetCursorPosX() + max(spare, 0.0))
    ui.text(text, colour)


def short(value: float) -> str:
    """Three digits at most: 0.0123, 4.1e-7, 0."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:.3f}" if 0.1 <= abs(value) < 1000 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def _draw_pull(ui: Ui, view: ViewState, pull: Pull, found: Summary) -> None:
    own = view.gradients
    n_views = len(found.done.views)
    ui.heading("Pixels that pull", f"{count(pull.n_pixels)}, by {own.term or 'all terms'}")
    if n_views > 1:
        ui.im.SetNextItemWidth(ui.width)
        _, at = ui.im.SliderInt("##view of the pass", min(own.view, n_views - 1), 0, n_views - 1, "camera %d")
        own.view = min(max(at, 0), n_views - 1)  # what is typed may be anything
        ui.tip("Which of the iteration's cameras")
    if not math.isfinite(pull.norm):
        ui.wrapped("Its gradient is not finite: nothing can be told apart.", theme.BAD)
    elif not pull.n_pixels:
        inside = np.isfinite(pull.outline).all() and len(pull.outline)
        pixel_terms = not own.term or own.term not in ("dev", "sign", "free_space")
        behind = "" if inside else ": it lies behind the camera"
        ui.wrapped(f"No pixel of this camera pulls on it{behind}." if pixel_terms else
                   f"{own.term} is a term of the shape: it has no pixels.")
    _, own.whole = ui.im.Checkbox("Whole image", own.whole)
    ui.tip("Else the part of it where pixels pull")
    _draw_image(ui, view, pull)
    if pull.limit > 0:
        draw_colour_bar(ui, Scale(-pull.limit, pull.limit, "diverging"), ui.width)
        ui.tip("What a pixel adds to the length of the gradient: red ones pull the way that steepest descent goes,\n"
               "blue ones against it. Grey: what was rendered. All pixels of all cameras and the terms of the\n"
               "shape sum up to the length")
    with ui.sized(_SMALL):
        for pixel in pull.top:
            kept = view.maps.kept == (pixel.row, pixel.column)
            room = (ui.width - 9.5 * ui.em, 0.0)
            if ui.im.Selectable(f"row {pixel.row}, column {pixel.column}##pull", kept, 0, room):
                view.maps.kept = (pixel.row, pixel.column)
            ui.tip("Click to keep it in the Maps tab, which tells what it shows" if own.view == 0 else "")
            ui.text_right(f"{pixel.term}  {pixel.pull:+.2e}".replace("e-0", "e-"), theme.MUTED)


def _draw_image(ui: Ui, view: ViewState, pull: Pull) -> None:
    """The part of the image around the pulls, or all of it, with sharp pixels and the voxel's outline."""
    whole = view.gradients.whole
    height, width = pull.pixels.shape
    top, left, tall, broad = (0, 0, height, width) if whole else pull.crop
    if not tall or not broad:
        return
    factor = max(min(math.ceil(ui.width / broad), _LARGEST_TEXTURE // max(tall, broad)), 1)
    room = max(ui.im.GetContentRegionAvail()[1] - _BELOW_EM * ui.em, _LEAST_EM * ui.em)
    wide = min(ui.width, room * broad / tall)
    size = (wide, wide * tall / broad)
    ui.im.SetCursorPosX(ui.im.GetCursorPosX() + (ui.width - wide) / 2)
    x, y = ui.im.GetCursorScreenPos()
    ui.picture("pixel pull", (pull, whole, theme.current()), lambda: pull.image[
        top : top + tall, left : left + broad].repeat(factor, 0).repeat(factor, 1), size)
    hovered, mouse = ui.im.IsItemHovered(), ui.im.GetMousePos()
    scale, draw = size[0] / broad, ui.im.GetWindowDrawList()
    draw.PushClipRect((x, y), (x + size[0], y + size[1]), True)
    for ends in pull.outline.tolist():
        a, b = ((x + (column - left) * scale, y + (row - top) * scale) for column, row in ends)
        draw.AddLine(a, b, packed((0.0, 0.0, 0.0), 0.5), 2.5)
        draw.AddLine(a, b, packed(theme.ACCENT), 1.2)
    draw.PopClipRect()
    if hovered and mouse is not None:
        column, row = (int(min(max((at - start) / scale, 0), n - 1)) for at, start, n in zip(
            mouse, (x, y), (broad, tall), strict=True))
        ui.tip(f"row {top + row}, column {left + column}: {float(pull.pixels[top + row, left + column]):+.3e}")
