"""CheckView: what is wrong with a run's surface where it is empty, holed or inside out; which region is looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.regions import Regions
from sparseflex.surface_check import SurfaceCheck, Truth, check_surface
from sparseflex.voxels import SparseVoxels
from workbench import theme
from workbench.camera_view import near_camera
from workbench.worker import WorkFailed, same_token

if TYPE_CHECKING:
    from workbench.snapshot import MeshArrays, Snapshot
    from workbench.view_state import ViewState

PANEL = "Surface"
SDF, TARGET = "corner_sdf", "target"
KINDS = ("holes", "turned", "bad")
TITLES = {"holes": "Holes", "turned": "Inside out", "bad": "Not a number"}
COLOURS = {"holes": theme.PRUNED, "turned": theme.FAR_CUT, "bad": theme.NOT_A_NUMBER}
SIZES = {"holes": 0.9, "turned": 1.0, "bad": 1.0}
"""Edges of the drawn cubes in voxel widths."""

FOLLOW_VOXELS = 100_000
"""Larger sets are checked only while the run stands still."""

_SHARE = 0.1
"""Most of the time that the worker may spend on following a run that plays."""

_CLOSE, _CLOSEST = 5.0, 0.25
_NEARER, _BESIDE = (1.0, 0.65, 0.45, 0.35), 0.75
"""How far away a region is looked at from: in its widths, and at least in world units; the shares of that to try where
something stands before it, which is so many voxels from the line of sight at most."""

_SIDES = np.array([side for side in product((-1.0, 0.0, 1.0), repeat=3) if side[0] or side[2]])
"""Where to look at a region from: all around, but not from straight above or below."""

_CHECK, _TRUTH = "surface check", "surface check's target"


@dataclasses.dataclass(frozen=True)
class Region:
    """A region that the list shows: kind of KINDS; low, high: the ijk box around its voxels, both included; lost: of a
    hole, the faces that it costs."""

    kind: str
    number: int
    n_voxels: int
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    resolution: int
    lost: int = 0

    @property
    def centre_world(self) -> tuple[float, float, float]:
        return tuple((a + b + 1) / 2 / self.resolution - 0.5 for a, b in zip(self.low, self.high, strict=True))

    @property
    def box_world(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """Its low and its high corner, a little outside of the voxels."""
        room = 0.1
        low, high = np.array(self.low) - room, np.array(self.high) + 1 + room
        return low / self.resolution - 0.5, high / self.resolution - 0.5

    @property
    def width_world(self) -> float:
        """Of the cube around it."""
        return max(b - a + 1 for a, b in zip(self.low, self.high, strict=True)) / self.resolution


def free_look(points: Float[np.ndarray, "N 3"], region: Region, ahead: Float[np.ndarray, "3"]
              ) -> tuple[Float[np.ndarray, "3"], float]:
    """From where a region is seen: the way from its middle to the eye, and how far that is. As the view looks, ahead,
    where that is as free as any; else, of the ways around it, the nearest to that of the freest; and from as far away
    as the line of sight is free. points: of the surface. Free: of points within a voxel of the line beyond the box.
    """
    sides = np.concatenate([ahead[None], _SIDES / np.linalg.norm(_SIDES, axis=1, keepdims=True)])
    half, width = (np.array(region.high) - region.low + 1) / 2 / region.resolution, 1 / region.resolution
    aways = np.array(_NEARER) * max(_CLOSE * region.width_world, _CLOSEST)
    offset = points - np.asarray(region.centre_world, np.float32)
    square = (offset**2).sum(1)
    within = square < (aways[0] + width) ** 2
    offset, square = offset[within], square[within]
    along = offset @ sides.T.astype(np.float32)
    leaves = (half / np.maximum(np.abs(sides), 1e-6)).min(axis=1)  # where the line of sight does the box
    before = (along > leaves + 0.5 * width) & (square[:, None] - along**2 < (_BESIDE * width) ** 2)
    n_before = np.stack([(before & (along < away + width)).sum(0) for away in aways])
    distance = int(n_before.min(axis=1).argmin())
    best = n_before[distance] == n_before[distance].min()
    chosen = 0 if best[0] else int(np.argmax(np.where(best, sides @ ahead, -np.inf)))
    return sides[chosen], float(aways[distance])


@dataclasses.dataclass
class CheckView:
    """shown: the scene shows the regions, of the kinds in `parts`; chosen: the one that has a frame. Derived: found,
    None where nothing is known yet; waiting: what is found is of before; note: why nothing is found."""

    shown: bool = True
    parts: dict[str, bool] = dataclasses.field(default_factory=lambda: dict.fromkeys(KINDS, True))
    chosen: Region | None = None
    found: SurfaceCheck | None = None
    waiting: bool = False
    note: str = ""
    _listed: tuple[SurfaceCheck | None, dict[str, list[Region]]] = (None, {})
    _busy: bool = False  # the worker may hold something

    @staticmethod
    def wants(view: ViewState) -> bool:
        return PANEL in view.tabs.values()

    def scene_fields(self, view: ViewState, snapshot: Snapshot) -> set[str]:
        if not self.wants(view) or snapshot.playing and snapshot.scalars.get("voxels", 0.0) > FOLLOW_VOXELS:
            return set()
        return {"voxels", SDF, TARGET}

    def clear(self) -> None:
        """Of the run before: it says nothing of the next."""
        self.found = self.chosen = None
        self.waiting, self.note, self._listed = False, "", (None, {})

    def in_scene(self, view: ViewState) -> SurfaceCheck | None:
        return self.found if self.shown and self.wants(view) else None

    def alone(self, view: ViewState) -> bool:
        """Whether the chosen region is looked at from near by, where target and voxels would stand before it."""
        return view.cameras.apart_at_home and self.chosen is not None and self.in_scene(view) is not None

    def look_near(self, view: ViewState) -> Camera:
        """The chosen region from near by: the way that the view looks, or from where the surface leaves it free."""
        mesh = view.surfaces.mesh
        points = np.zeros((0, 3), np.float32) if mesh is None else mesh.vertices
        side, away = free_look(points[np.isfinite(points).all(axis=1)], self.chosen,
                               -view.view_camera.forward_world.numpy())
        return near_camera(view.view_camera, self.chosen.centre_world, away, side)

    def regions(self, kind: str) -> list[Region]:
        """What the list shows, at most 200 of a kind, the largest first."""
        if self._listed[0] is not self.found:
            self._listed = self.found, {name: _listed(name, self.found) for name in KINDS}
        return self._listed[1][kind]

    def update(self, view: ViewState, snapshot: Snapshot) -> None:
        """Brings what is found up to date with a snapshot that has the scene's fields."""
        if not self.wants(view):
            self._let_go(view)
            return
        voxels, sdf = snapshot.fields.get("voxels"), snapshot.fields.get(SDF)
        if voxels is None or sdf is None:
            if {"voxels", SDF} & snapshot.field_kinds.keys() <= snapshot.asked:  # no answer is due that has them
                self.found, self.waiting = None, False
            return
        target = snapshot.fields.get(TARGET) if snapshot.field_kinds.get(TARGET) == "mesh" else None
        share = _SHARE if snapshot.playing else 1.0
        truth, of_these = self._ask(view, _TRUTH, (voxels, target), lambda: (_truth_of(voxels, target),), share)
        if truth is None or not of_these:  # it has to fit the voxels
            self.waiting = not self.note
            return
        found, of_these = self._ask(view, _CHECK, (voxels, sdf, truth), lambda: check_surface(
            voxels, torch.tensor(sdf), *truth), share)
        self.waiting = not of_these
        self.found = self.found if found is None else found  # of a run that plays it is of a moment ago
        self._follow()

    def _let_go(self, view: ViewState) -> None:
        """Nobody looks: lattice and target take memory."""
        if self._busy:
            self.found, self.waiting, self._listed, self._busy = None, False, (None, {}), False
            for key in (_CHECK, _TRUTH):
                view.worker.forget(key)

    def _follow(self) -> None:
        """The chosen region as it is now: the largest of its kind that has a part of its box, or none."""
        known = self.chosen
        if known is None or self.found is None or self._listed[0] is self.found:
            return
        there = [region for region in self.regions(known.kind) if region.resolution == known.resolution and all(
            a <= d and c <= b for a, b, c, d in zip(region.low, region.high, known.low, known.high, strict=True))]
        same = [region for region in there if (region.low, region.high) == (known.low, known.high)]
        self.chosen = next(iter(same or there), None)

    def _ask(self, view: ViewState, key: str, token: tuple, work: Callable[[], Any], share: float) -> tuple[Any, bool]:
        """The job's latest result, None while there is none or where it failed, and whether it is for this token."""
        self._busy, done = True, None
        if view.frustum.background:
            view.worker.ask(key, token, work, share)
            done = view.worker.result(key)
        else:
            done = token, _done_now(work)
        value = None if done is None else done[1]
        self.note = value.message if isinstance(value, WorkFailed) else ""
        return None if isinstance(value, WorkFailed) else value, done is not None and same_token(done[0], token)


def _done_now(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except ValueError as error:  # a field of a run's own that doesn't fit its voxels
        return WorkFailed(str(error))


def _truth_of(voxels: SparseVoxels, target: MeshArrays | None) -> Truth | None:
    if target is None or len(target.faces) == 0:
        return None
    return Truth.of(Mesh(torch.tensor(target.vertices), torch.tensor(target.faces).long()), voxels)


def _listed(kind: str, found: SurfaceCheck, at_most: int = 200) -> list[Region]:
    regions: Regions | None = getattr(found, kind)
    if regions is None:
        return []
    lost = found.lost[:at_most].tolist() if kind == "holes" else [0] * min(regions.n, at_most)
    rows = zip(regions.sizes[:at_most].tolist(), regions.low[:at_most].tolist(), regions.high[:at_most].tolist(), lost,
               strict=True)
    return [Region(kind, number, size, tuple(low), tuple(high), regions.voxels.resolution, faces)
            for number, (size, low, high, faces) in enumerate(rows)]
