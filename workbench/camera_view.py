"""CameraView: the table of the run's cameras, which of them are checked, and what adding and locking ask of the run."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.training.run import RunCamera
from workbench import theme
from workbench.colour_maps import Scale
from workbench.commands import ChangeCameras
from workbench.snapshot import MeshArrays, Snapshot
from workbench.worker import Worker, WorkFailed

if TYPE_CHECKING:
    from workbench.view_state import Click, ViewState

COLUMNS: dict[str, Callable[[RunCamera], Any]] = {
    "kind": lambda seen: seen.kind,
    "loss": lambda seen: seen.loss,
    "active": lambda seen: seen.n_active,
    "near": lambda seen: seen.camera.near,
    "far": lambda seen: seen.camera.far,
    "used": lambda seen: seen.iteration,
}
"""The table's columns and what they hold; None where it isn't known."""

_PLACING = "camera inside"
_IMAGE_SIZE = 256
_TOO_NEAR = 0.2
"""World units around the view's eye in which no camera is drawn."""


def is_aside(seen: RunCamera, snapshot: Snapshot) -> bool:
    """Whether it is one of the user's own that the run does not draw, being locked to others."""
    return snapshot.cameras_locked and seen.own is not None and all(
        camera is not seen.own for camera in snapshot.own_cameras or ())


def same_camera(a: RunCamera, b: RunCamera) -> bool:
    """Whether two are of one camera: of a fixed one, whatever planes it was used with."""
    return a.camera is b.camera if a.own is None or b.own is None else a.own is b.own


@dataclasses.dataclass(frozen=True, eq=False)
class ShownCameras:
    """Cameras to draw, their colours (n, 3), and which of them is the selected one, -1 for none."""

    cameras: tuple[Camera, ...]
    colours: Float[np.ndarray, "n 3"]
    selected: int


@dataclasses.dataclass
class CameraView:
    """sorted_by, descending: the order of the table. checked: the cameras to lock the run to, those of a locked run
    once it has said so. picking: the next click in the scene places a camera inside.
    apart_at_home: looking through one has put in one place what stood side by side.
    """

    KEPT: ClassVar[tuple[str, ...]] = ("sorted_by", "descending")

    sorted_by: str = "used"
    descending: bool = True
    checked: list[RunCamera] = dataclasses.field(default_factory=list)
    picking: bool = False
    look_through: Camera | None = None
    apart_at_home: bool = False
    notice: str = ""
    _rows: tuple[tuple[Any, ...], list[RunCamera]] | None = dataclasses.field(default=None, repr=False)
    _shown: tuple[tuple[Any, ...], ShownCameras] | None = dataclasses.field(default=None, repr=False)
    _locked_to: tuple[Camera, ...] = dataclasses.field(default=(), repr=False)
    _eyes: tuple[list[RunCamera], np.ndarray] | None = dataclasses.field(default=None, repr=False)
    _placed: object = dataclasses.field(default=None, repr=False)
    _target: tuple[MeshArrays, Mesh] | None = dataclasses.field(default=None, repr=False)

    # The table

    def rows(self, snapshot: Snapshot) -> list[RunCamera]:
        """The cameras in the table's order: of each own one its latest use, what isn't known last."""
        sorted_by = self.sorted_by if self.sorted_by in COLUMNS else "used"
        token = (snapshot.cameras, sorted_by, self.descending)
        if self._rows is not None and all(a is b or a == b for a, b in zip(token, self._rows[0], strict=True)):
            return self._rows[1]
        rows = _each_once(snapshot.cameras)
        value = COLUMNS[sorted_by]
        known = [seen for seen in rows if not _missing(value(seen))]
        known.sort(key=value, reverse=self.descending)
        rows = known + [seen for seen in rows if _missing(value(seen))]
        self._rows = (token, rows)
        return rows

    def loss_scale(self, snapshot: Snapshot) -> Scale | None:
        """The colours of the losses, from the lowest to the highest that is known; None where there is none."""
        losses = [seen.loss for seen in self.rows(snapshot) if seen.loss is not None and math.isfinite(seen.loss)]
        if not losses:
            return None
        low, high = min(losses), max(losses)
        return Scale(low, high if high > low else low + max(abs(low), 1e-6))

    def shown(
        self, snapshot: Snapshot, selected: RunCamera | None, unknown: theme.Colour, chosen: theme.Colour,
        seen_from: Camera | None = None,
    ) -> ShownCameras | None:
        """The table's cameras for the scene, coloured by loss: the same object as long as nothing of it changes.

        unknown, chosen: colours of those without a loss and of the selected one. seen_from: the view; a camera that
        stands where it stands would fill the picture, and is left out.
        """
        rows = self.rows(snapshot)
        if self._eyes is None or self._eyes[0] is not rows:
            eyes = np.array([seen.camera.eye_world.tolist() for seen in rows]).reshape(-1, 3)
            self._eyes = (rows, eyes)
        drawn = list(range(len(rows)))
        if seen_from is not None:
            far = np.linalg.norm(self._eyes[1] - seen_from.eye_world.numpy(), axis=1) > _TOO_NEAR
            drawn = far.nonzero()[0].tolist()
        if not drawn:
            return None
        token = (rows, tuple(drawn), selected, unknown, chosen)
        if self._shown is None or any(a is not b and a != b for a, b in zip(token, self._shown[0], strict=True)):
            self._shown = (token, self._coloured([rows[row] for row in drawn], snapshot, selected, unknown, chosen))
        return self._shown[1]

    def _coloured(self, rows: list[RunCamera], snapshot: Snapshot, selected: RunCamera | None, unknown: theme.Colour,
                  chosen: theme.Colour) -> ShownCameras:
        scale = self.loss_scale(snapshot)
        colours = np.tile(np.asarray(unknown, np.float32), (len(rows), 1))
        known = [index for index, seen in enumerate(rows) if seen.loss is not None]
        if scale is not None:
            colours[known] = scale.colours(np.array([rows[index].loss for index in known]))
        here = [index for index, seen in enumerate(rows) if selected is not None and same_camera(seen, selected)]
        colours[here] = chosen
        return ShownCameras(tuple(seen.camera for seen in rows), colours, here[0] if here else -1)

    def is_checked(self, seen: RunCamera) -> bool:
        return any(same_camera(seen, other) for other in self.checked)

    def follow(self, snapshot: Snapshot) -> None:
        """Checks what the run is locked to, where that is news: a checkpoint or a step back brings its own."""
        locked_to = snapshot.own_cameras or () if snapshot.cameras_locked else ()
        if len(locked_to) == len(self._locked_to) and all(map(operator.is_, locked_to, self._locked_to)):
            return
        self._locked_to = locked_to
        if locked_to:
            latest = {id(seen.own): seen for seen in reversed(snapshot.cameras)}
            self.checked = [latest.get(id(camera)) or RunCamera(camera, "fixed", own=camera) for camera in locked_to]

    def check(self, seen: RunCamera, on: bool, snapshot: Snapshot) -> list[ChangeCameras]:
        """Checks a camera or not; a run that is locked follows at once, and the last one can't be taken from it."""
        others = [other for other in self.checked if not same_camera(seen, other)]
        if snapshot.cameras_locked and not on and not others:
            self.notice = "the run is locked to this one: unlock it, or check another first"
            return []
        self.checked = [*others, seen] if on else others
        return self._lock(snapshot.kept_cameras) if snapshot.cameras_locked else []

    # What is asked of the run

    def lock(self, on: bool, snapshot: Snapshot) -> list[ChangeCameras]:
        """Has the run draw from the checked cameras alone, or from all its kinds again."""
        if not on:
            return [ChangeCameras(snapshot.kept_cameras, locked=False)]
        if not self.checked:
            self.notice = "check the cameras to lock the run to"
            return []
        return self._lock(snapshot.kept_cameras)

    def _lock(self, kept: tuple[Camera, ...]) -> list[ChangeCameras]:
        # one of the run's own kinds becomes a fixed one: it stays checked under that name
        self.checked = [seen if seen.own is not None else dataclasses.replace(seen, own=seen.camera)
                        for seen in self.checked]
        chosen = tuple({id(seen.own): seen.own for seen in self.checked}.values())
        return [ChangeCameras(chosen, locked=True, kept=kept)]

    def add(self, camera: Camera, snapshot: Snapshot) -> tuple[RunCamera, list[ChangeCameras]]:
        """A camera of the user's own more; where the run is locked, to this one too."""
        self.follow(snapshot)
        seen, kept = RunCamera(camera, "fixed", own=camera), (*snapshot.kept_cameras, camera)
        if not snapshot.cameras_locked:
            return seen, [ChangeCameras(kept)]
        self.checked.append(seen)
        return seen, self._lock(kept)

    def delete(self, seen: RunCamera, snapshot: Snapshot) -> list[ChangeCameras]:
        """Without this one of the user's own; a run that was locked to it alone is unlocked."""
        self.checked = [other for other in self.checked if not same_camera(seen, other)]
        kept = tuple(camera for camera in snapshot.kept_cameras if camera is not seen.own)
        return self._lock(kept) if snapshot.cameras_locked and self.checked else [ChangeCameras(kept)]

    def can_delete(self, seen: RunCamera | None, snapshot: Snapshot) -> bool:
        return seen is not None and seen.own is not None and (
            any(camera is seen.own for camera in (*(snapshot.own_cameras or ()), *snapshot.kept_cameras)))

    # Cameras placed by hand

    def at_view(self, camera: Camera, snapshot: Snapshot) -> Camera | None:
        """The view as a camera to train with, its planes around all that it sees; None with a notice in a wall."""
        from sparseflex.placing import enclosed

        target = self._target_of(snapshot)
        if target is None:
            return camera
        try:
            return enclosed(camera, target)
        except ValueError as error:
            self.notice = str(error)
            return None

    def add_view(self, view: ViewState, snapshot: Snapshot) -> list[ChangeCameras]:
        """The user's view becomes a camera of the run, and the one looked at; nothing, with a notice, in a wall."""
        self.notice = ""
        if view.view_camera is None or snapshot.own_cameras is None:
            self.notice = "the cameras of this run can't be changed" if snapshot.own_cameras is None else ""
            return []
        camera = self.at_view(view.view_camera, snapshot)
        if camera is None:
            return []
        view.pinned, commands = self.add(camera, snapshot)
        return commands

    def place_inside(self, click: Click, snapshot: Snapshot, worker: Worker) -> None:
        """Looks for a place in the room that was clicked, in the background: see placed."""
        from sparseflex.placing import camera_inside

        target = self._target_of(snapshot)
        self.picking = False
        if target is None:
            self.notice = "a camera inside needs a target, and this run has none"
            return
        size = (snapshot.cameras[0].camera.width, snapshot.cameras[0].camera.height) if snapshot.cameras else (
            _IMAGE_SIZE, _IMAGE_SIZE)
        origin, ray = torch.tensor(np.asarray(click.origin)), torch.tensor(np.asarray(click.direction))
        self._placed = token = (click,)
        worker.ask(_PLACING, token, lambda: _placed(lambda: camera_inside(
            target, origin, ray, width=size[0], height=size[1])))

    def placed(self, worker: Worker) -> Camera | None:
        """The camera that place_inside was asked for, once; None with a notice where there is no such place."""
        result = worker.result(_PLACING) if self._placed is not None else None
        if result is None or result[0] is not self._placed:
            return None
        self._placed = None
        if isinstance(result[1], (str, WorkFailed)):
            self.notice = result[1] if isinstance(result[1], str) else result[1].message
            return None
        return result[1]

    def _target_of(self, snapshot: Snapshot) -> Mesh | None:
        arrays = snapshot.fields.get("target")
        if arrays is None or not len(arrays.faces):
            return None
        if self._target is None or self._target[0] is not arrays:
            mesh = Mesh(torch.tensor(arrays.vertices), torch.tensor(arrays.faces, dtype=torch.int64))
            self._target = (arrays, mesh)
        return self._target[1]


def _placed(work: Callable[[], Camera]) -> Camera | str:
    """The camera, or why there is none in words of the library's own."""
    try:
        return work()
    except ValueError as error:
        return str(error)


def _each_once(cameras: Sequence[RunCamera]) -> list[RunCamera]:
    """Of each own camera its latest use; one of another kind that the run is locked to stands there as one of them."""
    used = {id(seen.own) for seen in cameras if seen.own is not None and seen.iteration is not None}
    others = {id(seen.camera) for seen in cameras if seen.own is None} - used
    found: list[RunCamera] = []
    own: set[int] = set()
    for seen in cameras:
        if seen.own is None:
            shown = id(seen.camera) not in used
        else:
            shown = id(seen.own) not in own and (id(seen.own) in used or id(seen.own) not in others)
            own.add(id(seen.own))
        if shown:
            found.append(seen)
    return found


def _missing(value: Any) -> bool:
    return value is None or value != value


def near_camera(view_camera: Camera, centre_world: Sequence[float], away: float,
                side: Sequence[float] | None = None) -> Camera:
    """The view camera moved, not turned, so that a place is in the middle and so far away, in world units; side: the
    way from the place to the eye, not up or down, where it shall be turned."""
    ahead, up = -view_camera.forward_world.numpy(), view_camera.up_world.tolist()
    if side is not None and not np.allclose(side, ahead):
        ahead, up = np.asarray(side), [0.0, 1.0, 0.0]
    eye = np.asarray(centre_world) + ahead * away
    return Camera.look_at(eye.tolist(), list(centre_world), up, fov_y_degrees=30.0,
                          width=view_camera.width, height=view_camera.height, near=0.01, far=10.0)
