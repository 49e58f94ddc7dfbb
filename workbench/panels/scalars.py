"""Scalars: the latest value of each number that the run reports, and above them the breakpoints."""

from __future__ import annotations

from workbench import theme
from workbench.commands import Command
from workbench.panels import breakpoints
from workbench.panels.scalar_text import shown
from workbench.snapshot import Snapshot
from workbench.ui import Ui
from workbench.view_state import ViewState

WIDE = 22
"""Longer names than these have lines of their own."""

SHOWN_ELSEWHERE = ("iteration", "near", "far")


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return set()


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    commands = breakpoints.draw(ui, view, snapshot)
    draw_values(ui, snapshot)
    return commands


def draw_values(ui: Ui, snapshot: Snapshot) -> None:
    names = [name for name in snapshot.scalars if name not in SHOWN_ELSEWHERE]
    if not names:
        return
    ui.heading("Scalars")
    n_columns = 1 if max(map(len, names)) > WIDE else 2
    if not ui.im.BeginTable("scalars", n_columns, int(ui.im.ImGuiTableFlags_SizingStretchSame)):
        return
    for name in names:
        ui.im.TableNextColumn()
        ui.text(name, theme.MUTED, size=0.8)
        ui.text_right(shown(name, snapshot.scalars[name]))
    ui.im.EndTable()
