"""FitCameras: the cameras of a fit: the user's own, those of the iteration, and the latest use of each."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from sparseflex.camera import Camera
from sparseflex.training.run import RunCamera

_RECENT_CAMERAS = 64
_SEEN = ("kind", "loss", "n_active", "iteration", "n_seen", "behind")


@dataclasses.dataclass(frozen=True)
class CameraChoice:
    """own: cameras that are drawn as they are; locked: no others are drawn; kept: the user's own, which while the run
    is locked may have others than those it draws, and lack some that it was only locked to."""

    own: tuple[Camera, ...]
    locked: bool = False
    kept: tuple[Camera, ...] = ()


class FitCameras:
    """Which cameras a fit draws from, and which it has drawn.

    A change waits until `begin` of the iteration it was made for. Cameras are told apart by identity, so that one keeps
    its place whatever happens to the others.
    """

    def __init__(self, own: Sequence[Camera] = ()) -> None:
        self.now = CameraChoice(tuple(own), False, tuple(own))
        self._pending: CameraChoice | None = None
        self._pending_from = 0
        self._recent: collections.deque[RunCamera] = collections.deque(maxlen=_RECENT_CAMERAS)
        self._last: dict[int, RunCamera] = {}  # by the id of an own camera: its latest use

    @property
    def wanted(self) -> CameraChoice:
        """The choice as it will be from the next iteration on."""
        return self._pending or self.now

    def change(self, cameras: Sequence[Camera], locked: bool, kept: Sequence[Camera] | None,
               from_iteration: int) -> None:
        """kept: None for the same cameras; without a lock it is always these. Raises ValueError where the run would be
        locked to no camera."""
        if locked and not cameras:
            raise ValueError("cameras must not be empty where the run is locked to them, got 0")
        kept = cameras if kept is None or not locked else kept
        self._pending, self._pending_from = CameraChoice(tuple(cameras), locked, tuple(kept)), from_iteration

    def begin(self, iteration: int) -> None:
        """An iteration begins: what waits for it takes effect."""
        if self._pending is not None and iteration >= self._pending_from:
            self.now, self._pending = self._pending, None

    def note(self, used: Sequence[RunCamera]) -> None:
        """An iteration has ended that used these."""
        self._recent.extendleft(reversed(used))
        self._last |= _by_own(used)
        known = {id(camera) for camera in self._chosen()}
        self._last = {key: seen for key, seen in self._last.items() if key in known}

    def listed(self, current: Sequence[RunCamera]) -> list[RunCamera]:
        """The iteration's cameras, the recent ones, and the own ones not among them, used long ago or not yet."""
        own = {id(camera): camera for camera in (*self.wanted.own, *self.wanted.kept)}
        listed = [
            seen if seen.own is None or id(seen.own) in own else dataclasses.replace(seen, own=None)
            for seen in (*current, *self._recent)
        ]
        among = {id(seen.own) for seen in listed}
        rest = [self._last.get(key) or RunCamera(camera, "fixed", own=camera)
                for key, camera in own.items() if key not in among]
        return listed + rest

    # -- state ------------------------------------------------------------------------------------------------

    def state_dict(self, used: Sequence[RunCamera] = ()) -> dict[str, Any]:
        """At the start of the iteration, or where all of it is done that matters here, and these were used. Own cameras
        stand in one list, all else names them by their place in it."""
        pool = list({id(camera): camera for camera in self._chosen()}.values())
        place = {id(camera): index for index, camera in enumerate(pool)}

        def seen_state(seen: RunCamera) -> dict[str, Any]:
            named = {name: getattr(seen, name) for name in _SEEN}
            return camera_state(seen.camera) | named | {"own": place.get(id(seen.own), -1)}

        def places(cameras: Sequence[Camera]) -> list[int]:
            return [place[id(camera)] for camera in cameras]

        return {
            "pool": [camera_state(camera) for camera in pool],
            "own": places(self.now.own),
            "locked": self.now.locked,
            "kept": places(self.now.kept),
            "wanted": places(self.wanted.own),
            "wanted_locked": self.wanted.locked,
            "wanted_kept": places(self.wanted.kept),
            "wanted_from": -1 if self._pending is None else self._pending_from,
            "recent": [seen_state(seen) for seen in (*used, *self._recent)][:_RECENT_CAMERAS],
            "last": [seen_state(seen) for seen in (self._last | _by_own(used)).values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cameras that are known by value remain the same objects: what has chosen one of them keeps it."""
        known = {camera_key(camera): camera for camera in self._all()}

        def camera_of(values: Mapping[str, Any]) -> Camera:
            camera = camera_from_state(values)
            return known.setdefault(camera_key(camera), camera)

        def seen_of(values: Mapping[str, Any]) -> RunCamera:
            named = {name: values.get(name) for name in _SEEN}  # the first checkpoints lack what was seen
            return RunCamera(camera_of(values), **named, own=pool[values["own"]] if values["own"] >= 0 else None)

        def choice(own: str, locked: str, kept: str) -> CameraChoice:
            places = state.get(kept, state[own])  # the first checkpoints knew of no others than those drawn
            return CameraChoice(tuple(pool[place] for place in state[own]), state[locked],
                                tuple(pool[place] for place in places))

        pool = [camera_of(values) for values in state["pool"]]
        self.now = choice("own", "locked", "kept")
        self._pending, self._pending_from = None, state["wanted_from"]
        if state["wanted_from"] >= 0:
            self._pending = choice("wanted", "wanted_locked", "wanted_kept")
        self._recent.clear()
        self._recent.extend(seen_of(values) for values in state["recent"])
        self._last = {id(seen.own): seen for seen in map(seen_of, state["last"])}

    def _chosen(self) -> tuple[Camera, ...]:
        """The user's cameras and those that the run is locked to, now and from the next iteration on."""
        return (*self.now.own, *self.now.kept, *self.wanted.own, *self.wanted.kept)

    def _all(self) -> Iterable[Camera]:
        yield from self._chosen()
        for seen in (*self._recent, *self._last.values()):
            yield seen.camera
            if seen.own is not None:
                yield seen.own


def _by_own(used: Sequence[RunCamera]) -> dict[int, RunCamera]:
    return {id(seen.own): seen for seen in used if seen.own is not None}


def camera_state(camera: Camera) -> dict[str, Any]:
    """A camera as numbers."""
    numbers = {name: getattr(camera, name) for name in ("fov_y_degrees", "width", "height", "near", "far")}
    return {"camera_from_world": camera.camera_from_world.tolist(), **numbers}


def camera_from_state(state: Mapping[str, Any]) -> Camera:
    matrix = torch.tensor(state["camera_from_world"], dtype=torch.float64)
    return Camera(matrix, *(state[name] for name in ("fov_y_degrees", "width", "height", "near", "far")))


def camera_key(camera: Camera) -> tuple[float, ...]:
    """Equal where two cameras are, number by number."""
    numbers = (camera.fov_y_degrees, camera.width, camera.height, camera.near, camera.far)
    return (*camera.camera_from_world.flatten().tolist(), *numbers)
