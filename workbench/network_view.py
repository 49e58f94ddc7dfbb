"""NetworkView: which stage of an inference is looked at, what colours its voxels, and which voxel is picked."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from sparseflex.voxels import SparseVoxels
from workbench import products, quantities
from workbench.commands import Command, NextIteration
from workbench.products import BEGINNING, FOLLOW
from workbench.quantities import ATTENTION, LOGIT, PCA

if TYPE_CHECKING:
    from workbench.slices import Plane
    from workbench.snapshot import Snapshot
    from workbench.view_state import Click, ViewState

PANEL = "Network"
FIRST_COLOURS = (LOGIT, PCA, "n_points")
"""What voxels are coloured by where nothing was chosen: the first of these that the stage has."""

ATTENDED = "attended_voxel"
"""The run's setting: a row of the latents' voxels, -1 for none."""

INPUT_VOXELS, LATENT_VOXELS = "voxels/voxels", "latent/voxels"
_GIVE_WAY = ("at_voxels", "voxels_coloured")


@dataclasses.dataclass(frozen=True)
class Picked:
    """A voxel that was clicked."""

    ijk: tuple[int, int, int]
    resolution: int

    @property
    def centre_world(self) -> tuple[float, float, float]:
        return tuple((part + 0.5) / self.resolution - 0.5 for part in self.ijk)

    def row_of(self, voxels: SparseVoxels) -> int:
        """The row of the voxel of this set that holds it (as coarse, or coarser); -1 where there is none."""
        if self.resolution < voxels.resolution:
            return -1
        cell = torch.tensor([self.ijk], dtype=torch.int64) * voxels.resolution // self.resolution
        return int(voxels.find(cell.int())[0])


@dataclasses.dataclass
class NetworkView:
    """chosen: a stage, or FOLLOW; recent: what voxels were coloured by at the user's wish, the latest first; picked:
    the voxel that was clicked; in_sight: the stage that the list was scrolled to last; before: the view's choices
    that gave way to an inference, by their names in the preferences: they are those of other runs."""

    chosen: str = FOLLOW
    recent: list[str] = dataclasses.field(default_factory=list)
    picked: Picked | None = None
    in_sight: str = ""
    before: dict[str, Any] = dataclasses.field(default_factory=dict)
    _seen: products.Seen = dataclasses.field(default_factory=products.Seen)
    _settled: tuple[str, str] | None = None  # the stage shown, and the colours that it was given

    def look(self, view: ViewState, snapshot: Snapshot) -> Snapshot:
        """The snapshot as the chosen stage shows it; the view's colours become those that suit it."""
        found = self._seen.of(snapshot, self.chosen)
        if found.products.stages:
            self._settle_colours(view, found)
        return found

    def _settle_colours(self, view: ViewState, snapshot: Snapshot) -> None:
        names, field, stage = quantities.voxel_names(snapshot.field_kinds), view.field, snapshot.products.stage
        if self._settled is None:
            self.before = {f"field.{name}": getattr(field, name) for name in _GIVE_WAY}
            field.voxels_coloured = True
        elif self._settled[0] == stage:
            if field.at_voxels != self._settled[1] and field.at_voxels in names:
                self._prefer(field.at_voxels)
                self._settled = (stage, field.at_voxels)
            return
        wanted = (*self.recent, *FIRST_COLOURS, *names)
        field.at_voxels = next((name for name in wanted if name in names), "")
        self._settled = (stage, field.at_voxels)

    def _prefer(self, name: str) -> None:
        self.recent = [name, *(other for other in self.recent if other != name)]

    def colour_by(self, view: ViewState, name: str) -> None:
        """Colours voxels by this wherever a stage has it, from now on."""
        self._prefer(name)
        view.field.voxels_coloured = True
        if self._settled is not None:
            self._settled = ("\0", self._settled[1])

    def step(self, snapshot: Snapshot, steps: int) -> None:
        """Looks at the stage so many places further on; beyond the last one it follows again."""
        known = (BEGINNING, *snapshot.products.stages, FOLLOW)
        if not snapshot.products.stages:
            return
        place = known.index(snapshot.products.stage) + steps
        self.chosen = known[min(max(place, 0), len(known) - 1)]

    def forget(self, view: ViewState) -> None:
        """Another run begins, with the choices that there were before this one."""
        for name, value in self.before.items():
            setattr(view.field, name.removeprefix("field."), value)
        self.chosen, self.picked, self.before, self._settled, view.pruning.level = FOLLOW, None, {}, None, None

    def pick(self, view: ViewState, snapshot: Snapshot) -> None:
        """Takes the voxel that was clicked; a click beside all of them lets it go."""
        voxels = view.split.voxels
        if view.click is None or voxels is None or voxels is not snapshot.fields.get("voxels"):
            return
        row = voxel_on_ray(voxels, view.click, view.field.plane if view.field.cut else None, view.field.flipped)
        self.picked = None if row < 0 else Picked(tuple(voxels.voxel_ijk[row].tolist()), voxels.resolution)


def voxel_on_ray(voxels: SparseVoxels, click: Click, plane: Plane | None = None, flipped: bool = False) -> int:
    """The row of the first voxel that a ray meets, -1 where it meets none. plane: what lies beyond it is cut away.

    All voxels at once: a click on a million of them takes a tenth of a second.
    """
    if voxels.n_voxels == 0:
        return -1
    low = voxels.voxel_ijk.numpy().astype(np.float32) / voxels.resolution - 0.5
    entry, leave = np.zeros(len(low), np.float32), np.full(len(low), np.inf, np.float32)
    for axis in range(3):
        near, far = _slab(low[:, axis], 1 / voxels.resolution, float(click.origin[axis]), float(click.direction[axis]))
        np.maximum(entry, near, out=entry)
        np.minimum(leave, far, out=leave)
    met = entry < leave
    if plane is not None:
        height = (low + 0.5 / voxels.resolution) @ np.asarray(plane.normal, np.float32) - np.float32(plane.offset)
        met &= height >= 0 if flipped else height <= 0
    return int(np.argmin(np.where(met, entry, np.inf))) if met.any() else -1


def _slab(low: Float[np.ndarray, "N"], width: float, start: float, along: float
          ) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Where a ray enters and leaves each of the layers from low to low + width along one axis."""
    if along == 0.0:
        inside = (low <= start) & (start <= low + width)
        reach = np.where(inside, np.float32(np.inf), np.float32(-np.inf))
        return -reach, reach
    a, b = (low - np.float32(start)) / np.float32(along), (low + np.float32(width - start)) / np.float32(along)
    return np.minimum(a, b), np.maximum(a, b)


def another_pass(snapshot: Snapshot) -> list[Command]:
    """What makes a pass with the settings as they are now; a pass under way began with older ones, and ends first."""
    if snapshot.source != "live" or snapshot.failure is not None:
        return []
    return [NextIteration()] * (2 if snapshot.iteration_under_way else 1)


def attended_key(snapshot: Snapshot, picked: Picked | None) -> int:
    """The key of the latents' voxel that holds the picked one; -1 where there is none, or it isn't known yet."""
    voxels = snapshot.products.fields.get(LATENT_VOXELS)
    row = -1 if picked is None or voxels is None else picked.row_of(voxels)
    return int(voxels.keys[row]) if row >= 0 else -1


def has_attention(snapshot: Snapshot) -> bool:
    """Whether the stage looked at attends."""
    return snapshot.field_kinds.get(ATTENTION) == "voxel"
