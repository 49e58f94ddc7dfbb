"""Captions: what stands where in the scene, and of two runs which is which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from workbench import theme
from workbench.layout import N_PLACES, Rect
from workbench.pruning_view import KINDS
from workbench.snapshot import Snapshot
from workbench.split import CATEGORIES
from workbench.ui import Ui, count, packed
from workbench.view_state import ViewState
from workbench.what_if_view import CATEGORY_LABELS

_FAR_OUTSIDE = 1e5  # pixels; also of what is behind the eye
_HALF = 0.6  # world units from a place's middle to where its label stands

Centres = Mapping[int, tuple[float, float]]
ToScreen = Callable[[float, float], tuple[float, float]]


def place_names(view: ViewState, snapshot: Snapshot) -> tuple[str, str, str]:
    """What a run's places show, in their order."""
    voxels = view.finding or any(view.layers[name] for name in (*CATEGORIES, *KINDS))
    first = "field" if not voxels and (view.layers["slice"] or view.layers["sdf"]) else "voxels"
    if view.what_ifs.in_scene is not None:
        first = f"{CATEGORY_LABELS[view.what_ifs.category]} in A and B"
    if view.what_ifs.with_meshes:
        return first, "section of A", "section of B"
    whole = view.field_of("mesh", snapshot) != "mesh" or "surface" not in snapshot.field_kinds
    mesh = "target" if view.shows_target(snapshot) else "surface" if whole else "section"
    return first, mesh, "target" if view.layers["target"] and "target" in snapshot.field_kinds else "input"


def draw(ui: Ui, view: ViewState, snapshot: Snapshot, free: Rect, centres: Centres, to_screen: ToScreen) -> None:
    """What stands in each place of the scene, where there are several; over those of each of two runs its letter, title
    and iteration. centres: (right, up) of each place in world units; to_screen: where on the window that lies."""
    if len(set(centres.values())) > 1:
        names = place_names(view, snapshot)
        for slot, (right, up) in centres.items():
            _caption(ui, free, to_screen(right, up - _HALF), names[slot % N_PLACES])
    pair = view.pair
    if pair is None:
        return
    shown = ((0, "A", view.title or snapshot.run_name, snapshot), (1, "B", pair.title, pair.latest))
    for run, letter, title, state in shown:
        own = [centre for slot, centre in centres.items() if slot // N_PLACES == run]
        if own:
            right, up = min(x for x, _ in own) - _HALF, max(y for _, y in own) + _HALF
            _label(ui, free, to_screen(right, up), letter, f"{title}, iteration {count(state.iteration)}")


def box_corners(low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"]) -> Float[np.ndarray, "8 3"]:
    """Corner n is at the high end of x, y and z where bit 0, 1 and 2 of n is set."""
    return np.where(np.arange(8)[:, None] >> np.arange(3) & 1, high, low)


def draw_frame(ui: Ui, corners: Sequence[tuple[float, float]]) -> None:
    """The edges of a box over all of the scene, faintly: it finds what lies behind a wall. corners: on the window,
    ordered as box_corners gives them; nothing where one is far outside."""
    if max(abs(part) for corner in corners for part in corner) > _FAR_OUTSIDE:
        return
    draw = ui.im.GetBackgroundDrawList()
    for bit in (1, 2, 4):
        for number in range(8):
            if not number & bit:
                draw.AddLine(corners[number], corners[number | bit], packed(theme.TEXT, 0.5), 1.0)


def _label(ui: Ui, free: Rect, at: tuple[float, float], letter: str, text: str) -> None:
    em, draw = ui.em, ui.im.GetBackgroundDrawList()
    left, top = free[0] + 0.6 * em, free[1] + 0.4 * em
    text = ui.shortened(text, min(free[2], 30 * em))
    wide = ui.im.CalcTextSize(text)[0] + 2.2 * em
    x = min(max(at[0], left), max(free[0] + free[2] - wide, left))
    y = min(max(at[1], top), max(free[1] + free[3] - 1.8 * em, top))
    draw.AddRectFilled((x, y), (x + wide, y + 1.4 * em), packed(theme.BACKGROUND, 0.8), 0.25 * em)
    draw.AddRectFilled((x, y), (x + 1.4 * em, y + 1.4 * em), packed(theme.ACCENT), 0.25 * em)
    inset = (1.4 * em - ui.im.CalcTextSize(letter)[0]) / 2
    draw.AddText((x + inset, y + 0.2 * em), packed(theme.ON_ACCENT), letter)
    draw.AddText((x + 1.9 * em, y + 0.2 * em), packed(theme.TEXT), text)


def _caption(ui: Ui, free: Rect, at: tuple[float, float], text: str) -> None:
    """Centred there; not where the view has left that place."""
    wide, em, draw = ui.im.CalcTextSize(text)[0], ui.em, ui.im.GetBackgroundDrawList()
    x, y = at[0] - wide / 2, min(at[1], free[1] + free[3] - 1.4 * em)
    if x < free[0] or x + wide > free[0] + free[2] or not free[1] <= y >= at[1] - 2 * em:
        return
    draw.AddRectFilled((x - 0.3 * em, y), (x + wide + 0.3 * em, y + 1.2 * em), packed(theme.BACKGROUND, 0.8), 0.25 * em)
    draw.AddText((x, y), packed(theme.MUTED), text)
