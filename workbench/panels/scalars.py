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

NAME_SIZE = 0.8
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
    old = of_the_last_iteration(snapshot)
    ui.heading("Scalars", f"grey: still of iteration {snapshot.iteration:,}" if old.intersection(names) else "")
    n_columns = 1 if max(map(len, names)) > WIDE else 2
    if not ui.im.BeginTable("scalars", n_columns, int(ui.im.ImGuiTableFlags_SizingStretchSame)):
        return
    for name in names:
        ui.im.TableNextColumn()
        _draw_value(ui, name, shown(name, snapshot.scalars[name]), theme.MUTED if name in old else None)
    ui.im.EndTable()


def _draw_value(ui: Ui, name: str, value: str, colour: theme.Colour | None) -> None:
    """Where there isn't room for both, the name is cut and not the value."""
    room = ui.width - ui.im.CalcTextSize(value)[0] - 0.6 * ui.em
    with ui.sized(NAME_SIZE):
        short = ui.shortened(name, room)
        ui.text(short, theme.MUTED)
    if short != name:
        ui.tip(name)
    ui.text_right(value, colour)


def of_the_last_iteration(snapshot: Snapshot) -> set[str]:
    """Where an iteration is under way: the scalars that only a stage still to come will set."""
    if not snapshot.iteration_under_way:
        return set()
    at = snapshot.stages.index(snapshot.stage_next)
    done, to_come = ({name for stage in part for name in snapshot.made.get(stage, ())}
                     for part in (snapshot.stages[:at], snapshot.stages[at:]))
    return to_come - done
