"""Pair: a second run, B, beside the first, A: where it comes from, what of it is shown, and how it follows A."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from sparseflex.training.run import RunCamera
from workbench import quantities
from workbench.commands import GoTo, Pause, RequestFields
from workbench.products import Seen, run_names
from workbench.quantities import Quantity
from workbench.snapshot import MeshArrays, Snapshot
from workbench.surface_view import DIFFERENCE, distances
from workbench.view_state import ViewState
from workbench.worker import WorkFailed, same_token

if TYPE_CHECKING:
    from workbench.engine import Engine

PREFIX = "B "
"""What the structures of B's scene are called by, before the names that A's have."""

_SHARED = ("layers", "shades")
_COPIED = ("section_only", "mesh_colour", "side_by_side", "home_direction", "view_camera")
_FRUSTUM = ("adapted", "ratio", "anchor", "method", "halo", "seed", "by_hand", "near", "far", "background")
_KEY = "pair difference"
SHARE = 0.2
"""Most of the time that the worker may spend on the difference of runs that play."""


@dataclasses.dataclass
class Pair:
    """source: B's engine or whatever else gives snapshots of it. moves: whether B can go where A goes, aligned: whether
    it shall. world_a_from_b: (4, 4), from B's normalised frame to A's. view: B's view, whose choices are A's.

    Derived: snapshot (the last with all that the scene needs), distance (of the surfaces, in A's voxel widths), note.
    """

    source: Engine
    title: str
    moves: bool = True
    world_a_from_b: Float[np.ndarray, "4 4"] = dataclasses.field(default_factory=lambda: np.eye(4))
    aligned: bool = True
    view: ViewState = dataclasses.field(default_factory=lambda: ViewState(show_panels=False))
    snapshot: Snapshot | None = None
    distance: Quantity | None = None
    note: str = ""
    _seen: Seen = dataclasses.field(default_factory=Seen)
    _names: frozenset[str] = frozenset()
    _awaited: int | None = None
    _asked_at: int = -1
    _sent: int | None = None
    _known: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    @property
    def latest(self) -> Snapshot:
        return self.source.snapshots.latest()

    @property
    def seen(self) -> Snapshot:
        """The latest as scene and panels see it; of an inference, at A's stage where it has the same."""
        return self._seen.of(self.latest, self.view.network.chosen)

    @property
    def news(self) -> tuple[int, int]:
        """Grows with every snapshot of B, and with every result of its worker."""
        return self.latest.serial, self.view.n_found

    # What is sent to B

    def follow(self, a: Snapshot) -> None:
        """Sends B where A is now, once for each place of A's."""
        if not (self.aligned and self.moves) or a.iteration == self._sent:
            return
        self._sent = a.iteration
        if self.latest.iteration != a.iteration:
            self.source.send(GoTo(a.iteration))

    def align(self, wanted: bool) -> None:
        """Whether B goes along; stops it where it no longer shall."""
        self.aligned, self._sent = wanted, None
        if not wanted:
            self.source.send(Pause())

    def ask(self, scene_due: bool) -> None:
        """Keeps one request under way while B moves, and asks anew where other fields are wanted; as the window does
        for A."""
        latest = self.seen
        if self._awaited is not None and latest.answers > self._awaited:
            self._awaited = None
        names = self.view.scene_fields(latest)
        stale = latest.playing and scene_due and latest.serial != self._asked_at
        if self._awaited is None and (stale or names != self._names):
            self._names, self._awaited, self._asked_at = names, latest.answers, latest.serial
            self.source.send(RequestFields(run_names(latest, names)))

    # What is shown of it

    def update(self, view: ViewState, a: Snapshot) -> None:
        """Brings all that is derived up to date; A's field and surfaces must be."""
        self._take_choices(view, a)
        latest = self.seen
        if self.snapshot is None or self.view.scene_fields(latest) <= latest.asked:
            self.snapshot = latest
        # where A has no camera yet, B is not split by one either
        seen = self.snapshot if self.view.pinned else dataclasses.replace(self.snapshot, cameras=())
        self.view.frustum.update(self.view, seen)
        self.view.field.update(self.view, self.snapshot)
        self.view.surfaces.update(self.view, self.snapshot)
        self.view.points.update(self.view, self.snapshot)
        self._compare(view, a)

    def _take_choices(self, view: ViewState, a: Snapshot) -> None:
        """A's choices become B's; the camera that A's voxels are split by splits B's too, with the same planes."""
        own = self.view
        for name in (*_SHARED, *_COPIED):
            setattr(own, name, getattr(view, name))
        for name in _FRUSTUM:
            setattr(own.frustum, name, getattr(view.frustum, name))
        own.pruning.chosen, own.pruning.level = view.pruning.chosen, view.pruning.level
        own.network.chosen = view.network.chosen
        own.field.take_choices(view.field, (view.field.corner, view.field.voxel, view.surfaces.distance))
        camera, known = view.split.camera, view.selected_camera(a)
        if camera is None or known is None:
            own.pinned = None
        elif own.pinned is None or own.pinned.camera is not camera:
            own.pinned = RunCamera(camera, known.kind)

    def _compare(self, view: ViewState, a: Snapshot) -> None:
        """Colours both surfaces by their distance to each other, and shows those that were measured last."""
        self.note = ""
        if view.mesh_colour != DIFFERENCE or not view.layers["mesh"]:
            view.worker.forget(_KEY)
            self.distance = None
            return
        one, other = view.surfaces.mesh, self.view.surfaces.mesh
        if one is None or other is None or not len(one.faces) or not len(other.faces):
            self.note, self.distance = "One of the two has no surface yet.", None
            return
        playing = a.playing or self.latest.playing
        matrix = self.world_a_from_b
        view.worker.ask(_KEY, (one, other), lambda: both_distances(one, other, matrix), SHARE if playing else 1.0)
        found = view.worker.result(_KEY)
        if found is None:
            self.note = "Measuring the distance of the two …"
        elif isinstance(found[1], WorkFailed):
            self.note = found[1].message
        else:
            self._show_distances(view, a, *found)

    def _show_distances(self, view: ViewState, a: Snapshot, meshes: Any, found: Any) -> None:
        voxels = a.fields.get("voxels")
        in_voxels = voxels is not None and not view.field.world_units
        widths = voxels.resolution if in_voxels else 1
        unit = quantities.VOXEL_WIDTHS if in_voxels else quantities.WORLD
        self.distance = self._once("distance", (found, unit, widths), lambda: quantities.of_values(
            "distance of A and B", "", unit, False, _on_surface(meshes, found) * np.float32(widths)))
        scale = view.field.scale_of(self.distance)
        parts = self._once("colours", (self.distance, *scale.key), lambda: tuple(
            scale.colours(part * np.float32(widths)) for part in found))
        for surfaces, mesh, part in zip((view.surfaces, self.view.surfaces), meshes, parts, strict=True):
            surfaces.mesh, surfaces.colours = mesh, part

    def _once(self, name: str, token: tuple, make: Any) -> Any:
        known = self._known.get(name)
        if known is None or not same_token(known[0], token):
            known = self._known[name] = (token, make())
        return known[1]


def _on_surface(meshes: Any, found: Any) -> Float[np.ndarray, "n"]:
    """What was found for the vertices that have a face; others lie somewhere, and are part of no surface."""
    used = [np.bincount(mesh.faces.reshape(-1), minlength=len(mesh.vertices)) > 0 for mesh in meshes]
    return np.concatenate([values[rows] for values, rows in zip(found, used, strict=True)])


def both_distances(
    one: MeshArrays, other: MeshArrays, one_from_other: Float[np.ndarray, "4 4"]
) -> tuple[Float[np.ndarray, "V"], Float[np.ndarray, "W"]]:
    """Distance of each vertex of one to the other's surface, and of each of the other's to that of one, in the frame of
    one."""
    moved = other.vertices.astype(np.float64) @ one_from_other[:3, :3].T + one_from_other[:3, 3]
    placed = MeshArrays(moved.astype(np.float32), other.faces)
    return distances(one, placed), distances(placed, one)


NEAR_SCALE, NEAR_SHIFT = 1.25, 0.25


def frame_between(
    a_back: Float[np.ndarray, "4 4"], b_back: Float[np.ndarray, "4 4"]
) -> tuple[Float[np.ndarray, "4 4"], bool]:
    """From B's normalised frame to A's by way of the frame of their inputs, where they seem to share one; and whether.

    Two reconstructions of one thing have slightly different bounding boxes, and so normalised frames; two things that
    have nothing to do with each other are set side by side each in its own. Shared is a frame in which the two boxes
    are of about one size and place. An input frame that nobody knows is the identity: then nothing is moved.
    """
    identity = np.eye(4)
    if np.array_equal(a_back, identity) or np.array_equal(b_back, identity):
        return identity, np.array_equal(a_back, b_back)
    found = np.linalg.inv(a_back) @ b_back
    size = float(np.abs(np.linalg.det(found[:3, :3]))) ** (1 / 3)
    shared = 1 / NEAR_SCALE <= size <= NEAR_SCALE and float(np.abs(found[:3, 3]).max()) <= NEAR_SHIFT
    return (found, True) if shared else (identity, False)
