"""Panels: which there are, and in which column each has its tab. A panel draws itself and names the fields it needs."""

from __future__ import annotations

from types import ModuleType

from workbench.panels import cameras, field, frustum, layers, maps, memory, plots, pruning, scalars
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState

COLUMNS: dict[str, dict[str, ModuleType]] = {
    "left": {"Frustum": frustum, "Cameras": cameras, "Layers": layers, "Field": field},
    "right": {"Maps": maps, "Plots": plots, "Pruning": pruning, "Memory": memory, "Scalars": scalars},
}
"""By column, the tabs in their order: left what is shown, right what the run does."""


def visible(view: ViewState) -> list[ModuleType]:
    """The panels whose tabs are in front."""
    return [tabs[view.tab(column, tuple(tabs))] for column, tabs in COLUMNS.items()] if view.show_panels else []


def wanted_fields(view: ViewState, snapshot: Snapshot) -> frozenset[str]:
    """The fields that the visible panels need, of those that the run has."""
    names: set[str] = set()
    for panel in visible(view):
        names |= panel.fields(view, snapshot)
    return frozenset(names & set(snapshot.field_kinds))
