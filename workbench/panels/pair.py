"""Pair: two runs side by side: how far each is, and whether they go together."""

from __future__ import annotations

from workbench import theme
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count
from workbench.view_state import ViewState


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
