"""Palette: type part of a command's name, choose with the arrows, run it with Enter."""

from __future__ import annotations

from workbench import theme
from workbench.actions import ACTIONS
from workbench.palette import matching
from workbench.ui import Ui
from workbench.view_state import ViewState


def draw(ui: Ui, view: ViewState) -> str | None:
    """The name of the action that was run, if any."""
    im, palette = ui.im, view.palette
    if palette.fresh:
        im.SetKeyboardFocusHere()
    im.SetNextItemWidth(ui.width)
    changed, query = im.InputTextWithHint("##command", "Type a command", palette.query)
    if changed and not palette.fresh:  # the key that opened it is no text
        palette.query, palette.chosen = query, 0
    palette.fresh = False
    keys = {action.name: action.key_label for action in ACTIONS if action.name != "Run any command by name"}
    names = matching(palette.query, keys)
    step = im.IsKeyPressed(im.ImGuiKey_DownArrow) - im.IsKeyPressed(im.ImGuiKey_UpArrow)
    palette.chosen = min(max(palette.chosen + int(step), 0), max(len(names) - 1, 0))
    if not names:
        ui.text("No command has such a name.", theme.MUTED)
    run = names[palette.chosen] if names and im.IsKeyPressed(im.ImGuiKey_Enter) else None
    im.BeginChild("commands", (0.0, 0.0))
    for index, name in enumerate(names):
        if im.Selectable(f"{name}##{index}", index == palette.chosen):
            run = name
        if keys[name]:
            ui.text_right(keys[name], theme.MUTED)
        if step and index == palette.chosen:
            im.SetScrollHereY(0.5)
    im.EndChild()
    if run is not None:
        palette.shown = False
    return run
