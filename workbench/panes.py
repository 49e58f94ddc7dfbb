"""Panes: the still rectangles of the window (columns with tabs, bar, overlays) and what is drawn into each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from workbench import panels, theme
from workbench.commands import Command
from workbench.layout import Layout, Rect
from workbench.panels import keys, maps, palette, status, transport
from workbench.snapshot import Snapshot
from workbench.ui import Ui
from workbench.view_state import ViewState


def draw(ui: Ui, view: ViewState, snapshot: Snapshot, layout: Layout) -> list[Command]:
    """Columns and bar; what the user did there."""
    commands: list[Command] = []
    if view.show_panels:
        for column, rect in (("left", layout.left), ("right", layout.right)):
            commands += _draw_column(ui, view, snapshot, column, rect)
        with pane(ui, "bar", layout.bar, bar=True):
            commands += transport.draw(ui, view, snapshot)
            status.draw(ui, view, snapshot)
    return commands


def _draw_column(ui: Ui, view: ViewState, snapshot: Snapshot, column: str, rect: Rect) -> list[Command]:
    tabs = panels.columns(snapshot)[column]
    with pane(ui, column, rect):
        chosen = ui.tabs(tuple(tabs), view.tab(column, tuple(tabs)))
        view.tabs[column] = chosen
        ui.im.BeginChild(f"{column} {chosen}", (0.0, 0.0))  # each tab keeps a scroll position of its own
        commands = tabs[chosen].draw(ui, view, snapshot)
        ui.im.EndChild()
    return commands


def draw_overlays(ui: Ui, view: ViewState, free: Rect) -> str | None:
    """The large map, the list of keys and the palette, where open; the name of the action that was chosen."""
    em = ui.em
    if view.maps.large and view.in_front(maps.PANEL):
        with pane(ui, "large map", free, solid=True):
            maps.draw_large(ui, view)
    if view.show_keys:
        with pane(ui, "keys", _middle(free, keys.WIDTH_EM * em, keys.HEIGHT_EM * em), solid=True):
            keys.draw(ui)
    if view.palette.shown:
        width, height = min(32 * em, free[2]), min(24 * em, free[3])
        x, y = free[0] + (free[2] - width) / 2, free[1] + 2 * em
        with pane(ui, "palette", (x, y, width, height), solid=True):
            return palette.draw(ui, view)
    return None


def draw_failure(ui: Ui, layout: Layout, title: str, text: str) -> None:
    """A failure in full, over the lower part of the scene."""
    x, y, width, height = layout.free
    tall, inset = min(height, 20 * ui.em), 0.5 * ui.em
    with pane(ui, "failure", (x + inset, y + height - tall - inset, width - 2 * inset, tall), solid=True):
        status.draw_failure(ui, title, text)


def _middle(free: Rect, width: float, height: float) -> Rect:
    width, height = min(width, free[2]), min(height, free[3])
    return (free[0] + (free[2] - width) / 2, free[1] + (free[3] - height) / 2, width, height)


@contextmanager
def pane(ui: Ui, name: str, rect: Rect, bar: bool = False, solid: bool = False) -> Iterator[None]:
    """An ImGui window that lies still in its rectangle; bar: without scrolling, solid: nothing shines through.

    Where what is drawn within raises, nothing is ended here: ImGui closes all that is open at the end of the frame, and
    an End while a table within is still open would end the wrong thing, and the process.
    """
    im = ui.im
    flags = 0
    for flag in ("NoTitleBar", "NoResize", "NoMove", "NoCollapse", "NoSavedSettings", "NoNav"):
        flags |= int(getattr(im, "ImGuiWindowFlags_" + flag))
    if bar:
        flags |= int(im.ImGuiWindowFlags_NoScrollbar) | int(im.ImGuiWindowFlags_NoScrollWithMouse)
        im.PushStyleVar(int(im.ImGuiStyleVar_WindowPadding), (0.9 * ui.em, 0.5 * ui.em))
    if solid:
        im.PushStyleColor(int(im.ImGuiCol_WindowBg), (*theme.PANEL, 1.0))
    ui.tips_above = bar
    im.SetNextWindowPos(rect[:2])
    im.SetNextWindowSize(rect[2:])
    im.Begin(name, flags)
    yield
    im.End()
    if bar:
        im.PopStyleVar(1)
    if solid:
        im.PopStyleColor(1)
