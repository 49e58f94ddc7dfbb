"""Panels: which there are, and in which column each has its tab. A panel draws itself and names the fields it needs."""

from __future__ import annotations

from types import ModuleType

from workbench.panels import (
    cameras,
    changes,
    costs,
    coverage,
    field,
    frustum,
    gradients,
    latent,
    layers,
    maps,
    network,
    plots,
    pruning,
    scalars,
    surface,
)
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState

COLUMNS: dict[str, dict[str, ModuleType]] = {
    "left": {"Frustum": frustum, "Cameras": cameras, "Layers": layers, "Field": field,
             "Coverage": coverage, "Gradients": gradients,
             "Changes": changes, "Surface": surface},
    "right": {"Maps": maps, "Plots": plots, "Pruning": pruning, "Costs": costs, "Scalars": scalars},
}
"""By column, the tabs in their order: left what is shown, right what the run does."""

OF_INFERENCE: dict[str, dict[str, ModuleType]] = {
    "left": {"Network": network, "Layers": layers, "Field": field, "Frustum": frustum, "Changes": changes},
    "right": {"Latent": latent, "Pruning": pruning, "Plots": plots, "Costs": costs, "Scalars": scalars},
}
"""Those of a run whose stages leave voxels behind: it has no cameras, and renders nothing."""


def columns(snapshot: Snapshot) -> dict[str, dict[str, ModuleType]]:
    """The tabs that suit a run."""
    return OF_INFERENCE if snapshot.products.stages else COLUMNS


def bring_forward(view: ViewState, snapshot: Snapshot) -> None:
    """Puts an inference's first tabs in front, unless others of it were chosen before."""
    if not snapshot.products.stages:
        return
    for column, tabs in columns(snapshot).items():
        others_first = next(iter(COLUMNS[column]))
        if view.tabs.get(column) == others_first or view.tabs.get(column) not in tabs:
            view.tabs[column] = next(iter(tabs))


def visible(view: ViewState, snapshot: Snapshot) -> list[ModuleType]:
    """The panels whose tabs are in front."""
    if not view.show_panels:
        return []
    return [tabs[view.tab(column, tuple(tabs))] for column, tabs in columns(snapshot).items()]


def wanted_fields(view: ViewState, snapshot: Snapshot) -> frozenset[str]:
    """The fields that the visible panels need, of those that the run has."""
    names: set[str] = set()
    for panel in visible(view, snapshot):
        names |= panel.fields(view, snapshot)
    return frozenset(names & {*snapshot.field_kinds, *snapshot.products.kinds})
