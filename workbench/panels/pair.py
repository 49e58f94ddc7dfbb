"""Pair: two runs side by side: which is which in the scene, how far each is, and whether they go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from workbench import theme
from workbench.layout import Rect
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, packed
from workbench.view_state import ViewState

N_PLACES = 3
_HALF = 0.6  # world units from a place's middle to where its label stands


def draw_section(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    """Titles and iterations of both, and the check box that keeps them together; nothing where there is one run."""
    pair = view.pair
    if pair is None:
        return
    ui.heading("A and B")
    for letter, title, shown in (("A", view.title or snapshot.run_name, snapshot), ("B", pair.title, pair.latest)):
        ui.text(letter, theme.ACCENT)
        ui.im.SameLine(0.0, 0.6 * ui.em)
        state = "failed" if shown.failure is not None else f"iteration {count(shown.iteration)}"
        ui.text(ui.shortened(title, ui.width - ui.im.CalcTextSize(state)[0] - ui.em))
        ui.text_right(state, theme.BAD if shown.failure is not None else theme.MUTED)
        if shown.failure is not None:
            ui.wrapped(shown.failure.message, theme.BAD)
    ui.im.BeginDisabled(not pair.moves)
    changed, wanted = ui.im.Checkbox("Same iteration", pair.aligned and pair.moves)
    ui.im.EndDisabled()
    ui.tip("B goes to A's iteration whenever A moves" if pair.moves else
           "B stays where it is: a checkpoint, or a run that began at another iteration than A")
    if changed:
        pair.align(wanted)
    notice = pair.note or pair.latest.notice
    if notice:
        ui.wrapped(notice, theme.MUTED)


def draw_labels(
    ui: Ui, view: ViewState, snapshot: Snapshot, free: Rect,
    places: Callable[[ViewState, float], tuple[Mapping[int, tuple[float, float]], tuple[float, float]]],
    to_screen: Callable[[float, float], tuple[float, float]],
) -> None:
    """The letter, title and iteration of each run over its places in the scene. places: as SceneView has them;
    to_screen: where on the window lies what is so far right of and above the scene's middle."""
    pair = view.pair
    if pair is None:
        return
    centres, _ = places(view, free[2] / max(free[3], 1.0))
    shown = ((0, "A", view.title or snapshot.run_name, snapshot), (1, "B", pair.title, pair.latest))
    for run, letter, title, state in shown:
        own = [centre for slot, centre in centres.items() if slot // N_PLACES == run]
        if own:
            right, up = min(x for x, _ in own) - _HALF, max(y for _, y in own) + _HALF
            _label(ui, free, to_screen(right, up), letter, f"{title}, iteration {count(state.iteration)}")


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
