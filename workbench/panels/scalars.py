"""Scalars: the latest value of each number that the run reports."""

from __future__ import annotations

from sparseflex.training.measure import BYTES_PREFIX, SECS_PREFIX
from workbench import theme
from workbench.commands import Command
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, megabytes, milliseconds
from workbench.view_state import ViewState

WHOLE = ("iteration", "voxels", "active", "section", "vertices", "faces", "work_voxels", "points",
         "latent_voxels", "open_edges")

WHOLE_BY_LEVEL = ("children_", "kept_", "wrongly_kept_", "wrongly_pruned_", "points_")
WIDE = 22
"""Longer names than these have lines of their own."""

SHOWN_ELSEWHERE = ("iteration", "near", "far")


def shown(name: str, value: float) -> str:
    """Counts as whole numbers, times and memory with their unit, all else to three digits."""
    if name.endswith("_bytes") or name.startswith(BYTES_PREFIX):
        return megabytes(value)
    if name == "stage_secs" or name.startswith(SECS_PREFIX):
        return milliseconds(value)
    return count(value) if name in WHOLE or name.startswith(WHOLE_BY_LEVEL) else f"{value:.3g}"


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return set()



def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    names = [name for name in snapshot.scalars if name not in SHOWN_ELSEWHERE]
    if not names:
        return []
    ui.heading("Scalars")
    n_columns = 1 if max(map(len, names)) > WIDE else 2
    if not ui.im.BeginTable("scalars", n_columns, int(ui.im.ImGuiTableFlags_SizingStretchSame)):
        return []
    for name in names:
        ui.im.TableNextColumn()
        ui.text(name, theme.MUTED, size=0.8)
        ui.text_right(shown(name, snapshot.scalars[name]))
    ui.im.EndTable()
    return []
