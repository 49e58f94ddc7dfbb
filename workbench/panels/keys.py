"""Keys: the list of all keys and what they do."""

from __future__ import annotations

from workbench import theme
from workbench.actions import ACTIONS
from workbench.ui import Ui

_MOUSE = "Mouse: left turns, right pans, wheel zooms"


def rows() -> list[tuple[str, str]]:
    """(key, meaning); the layers' keys are one row."""
    listed = [(action.key_label, action.name) for action in ACTIONS if action.key and action.listed]
    return [*listed, ("1 to 9, 0", "Layers on or off, in the order of their list")]


HEIGHT_EM = 5.5 + 1.32 * (len(rows()) + 1) / 2
"""Of the whole list, in font sizes: two columns."""


WIDTH_EM = 48.0


def draw(ui: Ui) -> None:
    ui.text("Keys", size=1.25)
    ui.im.Dummy((0.0, 0.2 * ui.em))
    listed = rows()
    half = (len(listed) + 1) // 2
    left, wide = ui.im.GetCursorPosX(), ui.width
    for number in range(half):
        for column, index in enumerate((number, number + half)):
            if index >= len(listed):
                continue
            key, meaning = listed[index]
            if column:
                ui.im.SameLine()
            ui.im.SetCursorPosX(left + column * wide / 2)
            ui.text(key, theme.ACCENT)
            ui.im.SameLine()
            ui.im.SetCursorPosX(left + column * wide / 2 + 7 * ui.em)
            ui.text(meaning)
    ui.im.Dummy((0.0, 0.2 * ui.em))
    ui.text(_MOUSE, theme.MUTED)
