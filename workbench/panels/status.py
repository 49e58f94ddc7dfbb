"""Status: one line on how things stand; what went wrong, in full; and the list of keys."""

from __future__ import annotations

from workbench import theme
from workbench.commands import Command
from workbench.snapshot import Snapshot
from workbench.ui import Ui
from workbench.view_state import ViewState

KEYS = (
    ("Space", "play or pause"),
    ("Right", "next iteration"),
    ("Shift + Right", "next stage"),
    ("[  ]", "previous, next camera"),
    ("1 – 9", "layers on and off"),
    ("G", "target on and off"),
    ("E", "difference maps on and off"),
    ("B", "side by side, or in one place"),
    ("H", "home view"),
    ("Ctrl + S", "save a checkpoint"),
    ("Tab", "panels on and off"),
    ("?", "this list on and off"),
)


def line(snapshot: Snapshot) -> tuple[str, theme.Colour]:
    """The state in one line, and its colour."""
    if snapshot.failure is not None:
        failure = snapshot.failure
        return f"Failed in {failure.stage}, iteration {failure.iteration}: {failure.message}", theme.BAD
    if snapshot.notice:
        return snapshot.notice, theme.TEXT
    if snapshot.playing:
        return "Running", theme.GOOD
    if snapshot.iteration_under_way:
        return f"Paused within an iteration, before {snapshot.stage_next}", theme.TEXT
    if snapshot.iteration == 0:
        return "Paused before the first iteration: Space plays, the right arrow steps", theme.TEXT
    return "Paused", theme.TEXT


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    text, colour = line(snapshot)
    ui.dot(colour if colour is not theme.TEXT else theme.MUTED)
    hint = "?  keys"
    room = ui.width - ui.im.CalcTextSize(hint)[0] - 2 * ui.em
    ui.text(shortened(ui, text.replace("\n", " "), room), colour)
    ui.text_right(hint, theme.MUTED)
    return []


def shortened(ui: Ui, text: str, room: float) -> str:
    """The text, cut with an ellipsis where it is wider than room (pixels)."""
    if ui.im.CalcTextSize(text)[0] <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if ui.im.CalcTextSize(text[:middle] + "…")[0] <= room else (low, middle - 1)
    return text[:low] + "…"


def draw_keys(ui: Ui) -> None:
    ui.text("Keys", size=1.25)
    ui.im.Dummy((0.0, 0.2 * ui.em))
    left = ui.im.GetCursorPosX()
    for key, meaning in KEYS:
        ui.text(key, theme.ACCENT)
        ui.im.SameLine()
        ui.im.SetCursorPosX(left + 8 * ui.em)
        ui.text(meaning)
    ui.im.Dummy((0.0, 0.2 * ui.em))
    ui.text("Mouse: left turns, right pans, wheel zooms", theme.MUTED)


def draw_failure(ui: Ui, title: str, text: str) -> None:
    """A failure in full; the box scrolls where the text is longer."""
    ui.text(title, theme.BAD, size=1.2)
    ui.im.BeginChild("traceback", (0.0, 0.0), 0, int(ui.im.ImGuiWindowFlags_HorizontalScrollbar))
    ui.im.TextUnformatted(text)
    ui.im.EndChild()
