"""Maps: what the run rendered against what it should have, and where they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from workbench import theme
from workbench.colour_maps import viridis
from workbench.commands import Command
from workbench.snapshot import Snapshot
from workbench.ui import Ui
from workbench.view_state import MAPS, ViewState

BACK = np.array(theme.RAISED, np.float32) * 0.55


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return {f"{origin}_{name}" for origin in ("rendered", "target") for name in MAPS}



def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    ui.heading("Maps last rendered")
    known = [name for name in MAPS if f"rendered_{name}" in snapshot.fields and f"target_{name}" in snapshot.fields]
    if not known:
        has = any(f"rendered_{name}" in snapshot.field_kinds for name in MAPS)
        ui.text("Nothing rendered yet." if has else "This run renders no maps.", theme.MUTED)
        return []
    columns = ("rendered", "target", "difference")[: 3 if view.show_difference else 2]
    gap = 0.4 * ui.em
    wide = (ui.width - gap * (len(columns) - 1)) / len(columns)
    left = ui.im.GetCursorPosX()
    for index, column in enumerate(columns):
        if index:
            ui.im.SameLine()
        ui.im.SetCursorPosX(left + index * (wide + gap))
        ui.text(column, theme.MUTED)
    for name in known:
        pair = snapshot.fields[f"rendered_{name}"], snapshot.fields[f"target_{name}"]
        height, width = pair[0].shape[:2]
        for index, column in enumerate(columns):
            if index:
                ui.im.SameLine(0.0, gap)
            _show(ui, f"{column} {name}", column, name, *pair, (wide, wide * height / width))
    return []


def _show(ui: Ui, key: str, column: str, name: str, rendered: Any, target: Any, size: tuple[float, float]) -> None:
    source = {"rendered": rendered, "target": target}.get(column, rendered)
    pixels = None
    if not ui.textures.is_shown(key, source):
        pixels = colour_difference(name, rendered, target) if column == "difference" else colour_map(
            name, source, rendered, target)
    ui.im.Image(ui.textures.show(key, source, pixels), size)
    if ui.im.IsItemHovered():
        ui.im.SetTooltip(f"{key}, {rendered.shape[1]} x {rendered.shape[0]} pixels")


def depth_range(rendered: Float[np.ndarray, "H W"], target: Float[np.ndarray, "H W"]) -> tuple[float, float]:
    """The range that both depth maps share, so that equal colours mean equal depths; 0 is where nothing was hit."""
    hit = np.concatenate([depth[depth > 0].ravel() for depth in (rendered, target)])
    return (float(hit.min()), float(hit.max())) if hit.size else (0.0, 1.0)


def colour_map(
    name: str, values: np.ndarray, rendered: np.ndarray, target: np.ndarray
) -> Float[np.ndarray, "H W 3"]:
    """A map as colours: depth near bright, normals as (n + 1) / 2, mask grey."""
    if name == "normal":
        hit = (np.abs(values).sum(-1, keepdims=True) > 1e-6).astype(np.float32)
        return (values * 0.5 + 0.5) * hit + BACK * (1 - hit)
    if name == "mask":
        return BACK + np.clip(values, 0, 1)[..., None] * (np.array(theme.MESH, np.float32) - BACK)
    low, high = depth_range(rendered, target)
    near = 1 - np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return np.where((values > 0)[..., None], viridis(0.12 + 0.88 * near), BACK)


def colour_difference(name: str, rendered: np.ndarray, target: np.ndarray) -> Float[np.ndarray, "H W 3"]:
    """How far apart: depth as a share of the target's range, normals by angle up to 60°, mask as it is."""
    if name == "depth":
        low, high = depth_range(rendered, target)
        both = (rendered > 0) & (target > 0)
        error = np.where(both, np.abs(rendered - target) / max(0.1 * (high - low), 1e-9), (rendered > 0) ^ (target > 0))
    elif name == "normal":
        both = (np.abs(rendered).sum(-1) > 1e-6) & (np.abs(target).sum(-1) > 1e-6)
        cosine = np.clip((rendered * target).sum(-1), -1, 1)
        error = np.where(both, np.degrees(np.arccos(cosine)) / 60, 0)
    else:
        error = np.abs(rendered - target)
    error = np.clip(error, 0, 1)[..., None].astype(np.float32)
    return BACK + error * (np.array(theme.ACCENT, np.float32) - BACK)
