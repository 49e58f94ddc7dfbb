"""OwnCameras: what the user owns of a run's cameras, also where the run itself knows only of those it draws."""

from __future__ import annotations

from typing import Any

from sparseflex.camera import Camera
from sparseflex.training.run import Run, RunCamera
from workbench.commands import ChangeCameras


class OwnCameras:
    """Changes a run's cameras and tells what is shown of them; belongs to the engine's thread.

    A run with kept_cameras has all of it in its own state. For one without, the cameras that are set aside while it is
    locked to others are kept here, as they were used last: over a step back, though not over a checkpoint.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._kept: tuple[Camera, ...] | None = None  # None where the run keeps them, or there are no others
        self._last: dict[int, RunCamera] = {}

    def change(self, change: ChangeCameras) -> None:
        """Raises ValueError where the run's cameras can't be changed, or not in this way."""
        run = self._run
        if not hasattr(run, "change_cameras"):
            raise ValueError("cameras can't be changed: this run has no change_cameras")
        if hasattr(run, "kept_cameras"):
            run.change_cameras(change.cameras, change.locked, kept=change.kept)
            return
        seen = [known for known in (*self._aside(), *run.cameras()) if known.own is not None]
        run.change_cameras(change.cameras, change.locked)
        self._kept = change.kept if change.locked else None
        kept = {id(camera) for camera in self._kept or ()}
        self._last = {id(known.own): known for known in reversed(seen) if id(known.own) in kept}

    def shown(self) -> dict[str, Any]:
        """Of a snapshot: cameras, own_cameras, cameras_locked and kept_cameras."""
        run = self._run
        cameras, locked = tuple(run.cameras()), bool(getattr(run, "cameras_locked", False))
        if not hasattr(run, "change_cameras"):
            return {"cameras": cameras, "own_cameras": None, "cameras_locked": locked, "kept_cameras": ()}
        own = tuple(run.own_cameras)
        if hasattr(run, "kept_cameras"):
            kept = tuple(run.kept_cameras)
        else:
            kept = own if self._kept is None or not locked else self._kept
            cameras = (*cameras, *self._aside())
        return {"cameras": cameras, "own_cameras": own, "cameras_locked": locked, "kept_cameras": kept}

    def _aside(self) -> list[RunCamera]:
        """What is set aside here: the run doesn't list it."""
        if self._kept is None or not getattr(self._run, "cameras_locked", False):
            return []
        listed = {id(known.own) for known in self._run.cameras()}
        return [self._last.get(id(camera)) or RunCamera(camera, "fixed", own=camera)
                for camera in self._kept if id(camera) not in listed]
