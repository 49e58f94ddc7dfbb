"""Status: one line on how things stand; and what went wrong, in full."""

from __future__ import annotations

from workbench import theme
from workbench.commands import Command
from workbench.snapshot import Snapshot
from workbench.ui import Ui
from workbench.view_state import ViewState


def line(snapshot: Snapshot, notice: str = "") -> tuple[str, theme.Colour]:
    """The state in one line, and its colour; notice: what the window itself has to say."""
    if snapshot.failure is not None:
        failure = snapshot.failure
        return f"Failed in {failure.stage}, iteration {failure.iteration}: {failure.message}", theme.BAD
    if notice or snapshot.notice:
        return notice or snapshot.notice, theme.TEXT
    if snapshot.playing:
        return "Running", theme.GOOD
    if snapshot.iteration_under_way:
        return f"Paused within an iteration, before {snapshot.stage_next}", theme.TEXT
    if snapshot.iteration == 0:
        return "Paused before the first iteration: Space plays, the right arrow steps", theme.TEXT
    return "Paused", theme.TEXT


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    text, colour = line(snapshot, view.notice)
    ui.dot(colour if colour is not theme.TEXT else theme.MUTED)
    hint = "?  keys     Ctrl + P  commands"
    room = ui.width - ui.im.CalcTextSize(hint)[0] - 2 * ui.em
    ui.text(ui.shortened(text.replace("\n", " "), room), colour)
    ui.text_right(hint, theme.MUTED)
    return []


def draw_failure(ui: Ui, title: str, text: str) -> None:
    """A failure in full; the box scrolls where the text is longer."""
    ui.text(title, theme.BAD, size=1.2)
    ui.im.BeginChild("traceback", (0.0, 0.0), 0, int(ui.im.ImGuiWindowFlags_HorizontalScrollbar))
    ui.im.TextUnformatted(text)
    ui.im.EndChild()
