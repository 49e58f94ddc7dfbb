"""Sources: reads of a run what a recording is to hold, as copies in the form of values, and only what is new."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparseflex.training.run import Run, RunCamera
from workbench.field_copies import fields_of, read_field, shown_dtype
from workbench.recording.layout import CAMERAS, OWN_STREAMS, STATE
from workbench.recording.outlet import Outlet
from workbench.recording.states import state_value
from workbench.recording.values import Cameras, cameras_value, events_value
from workbench.state_copies import copied


@dataclasses.dataclass
class Part:
    """Some streams' new values, with what to remember of them once they are taken."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    seen: dict[str, Any] = dataclasses.field(default_factory=dict)


class Sources:
    """The streams of a run; belongs to the thread that owns it. What can't be read is told once and then left out."""

    def __init__(self, run: Run, outlet: Outlet) -> None:
        self._run, self._outlet = run, outlet
        self._kinds = dict(fields_of(run))
        self._rows = {name: row for row, name in enumerate((*OWN_STREAMS, *self._kinds))}
        self._told: set[str] = set()
        self._first, self._stateless = run.iteration, False
        self._boolean: dict[str, bool] = {}  # of fields of kind voxel, once one was seen
        self._last_event = -1
        self._next_event = -1
        self.forget()

    def forget(self, last_event: float = float("inf")) -> None:
        """The file ends where it was before: nothing counts as known; pruning events only up to an iteration."""
        self._seen: dict[str, Any] = {}
        self._there: set[str] = set()  # streams whose latest entry isn't null
        self._last_event = self._next_event = int(min(self._last_event, last_event))

    def row(self, stream: str) -> int:
        return self._rows[stream]

    def taken(self, part: Part) -> dict[str, Any]:
        """The values of a part that goes into the file."""
        self._seen |= part.seen
        for name, value in part.values.items():
            (self._there.discard if value is None else self._there.add)(name)
        if any(self._kinds.get(name) == "prune" for name in part.values):
            self._last_event = self._next_event
        return part.values

    # What is due when

    def voxels_changed(self) -> bool:
        """Whether the voxels aren't those in the file."""
        return any(self._new_voxels(name, self._read(name)) for name in self._of("voxels"))

    def nothing_of_voxels(self) -> Part:
        """What says that the voxels are others than those in the file, and unknown."""
        return Part({name: None for name in self._of("voxels", "voxel", "corner") if name in self._there},
                    {name: None for name in self._of("voxels")})

    def every_iteration(self) -> Part:
        """Cameras, traces, new pruning events; flags of the voxels, if the file has these voxels."""
        part = Part()
        self._add_cameras(part)
        names = self._of("trace")
        if not self.voxels_changed():
            names += [name for name in self._of("voxel") if self._boolean.get(name, True)]
        self._add(part, names)
        for name in self._of("prune"):
            events = self._read(name)
            fresh = [event for event in events or () if event.iteration > self._last_event]
            if fresh:
                part.values[name] = events_value(fresh)
                self._next_event = max(event.iteration for event in fresh)
        return part

    def snapshot(self) -> Part:
        """Voxels where they changed, all that belongs to voxels, corners and points, meshes and points that changed."""
        part = Part()
        self._add(part, self._of("voxels", "voxel", "corner", "mesh", "points", "point"))
        return part

    def maps(self) -> Part:
        part = Part()
        self._add(part, self._of("map"))
        return part

    def state(self) -> Part:
        """A keyframe; nothing where the run gives no state that can be kept."""
        part = Part()
        if not self._stateless:
            try:
                part.values[STATE] = state_value(copied(self._run.state_dict()))
            except Exception as error:  # noqa: BLE001 - a run's own state_dict may raise anything
                self._stateless = True
                self._outlet.note(f"there are no keyframes, so no branches: {_line(error)}")
        return part

    # Reading

    def _of(self, *kinds: str) -> list[str]:
        return [name for name, kind in self._kinds.items() if kind in kinds]

    def _tell(self, name: str, note: str) -> None:
        """Once of each; not of what only has nothing to show before the first iteration."""
        if name not in self._told and self._run.iteration > self._first:
            self._told.add(name)
            self._outlet.note(note)

    def _read(self, name: str) -> Any:
        try:
            return read_field(self._run, name)
        except Exception as error:  # noqa: BLE001 - a field of a run's own may raise anything
            self._tell(name, f"field {name} is left out: {_line(error)}")
            return None

    def _add(self, part: Part, names: Iterable[str]) -> None:
        for name in names:
            try:
                self._add_field(part, name, self._read(name))
            except Exception as error:  # noqa: BLE001 - a field may be anything but what its kind says
                self._tell(name, f"field {name} is left out: {_line(error)}")

    def _add_field(self, part: Part, name: str, source: Any) -> None:
        kind = self._kinds[name]
        if source is None:
            if name in self._there:
                part.values[name], part.seen[name] = None, None
        elif kind == "voxels":
            if self._new_voxels(name, source):
                part.values[name] = {"keys": source.keys.cpu().numpy(), "resolution": source.resolution}
                part.seen[name] = source
        elif kind == "mesh":
            known = (source, source.vertices._version, source.faces._version)
            if not _same(known, self._seen.get(name)):
                part.values[name] = {"vertices": _array(source.vertices), "faces": _array(source.faces, torch.int32)}
                part.seen[name] = known
        elif kind == "points":
            known = (source, source._version)
            if not _same(known, self._seen.get(name)):
                part.values[name], part.seen[name] = _array(source), known
        else:
            part.values[name] = _array(source)
            if kind == "voxel":
                self._boolean[name] = part.values[name].dtype == np.bool_

    def _new_voxels(self, name: str, source: Any) -> bool:
        """By value too: a run of one's own may make the same set anew each time."""
        known = self._seen.get(name)
        if source is None or source is known:
            return False
        return not (known is not None and known.resolution == source.resolution
                    and torch.equal(known.voxel_ijk, source.voxel_ijk))

    def _add_cameras(self, part: Part) -> None:
        run = self._run
        try:
            own = tuple(run.own_cameras) if hasattr(run, "change_cameras") else None
            kept = tuple(getattr(run, "kept_cameras", own or ()))
            locked = bool(getattr(run, "cameras_locked", False))
            part.values[CAMERAS] = cameras_value(Cameras(_of_now(run.cameras()), own, locked, kept))
        except Exception as error:  # noqa: BLE001 - cameras of a run's own may be anything
            self._tell(CAMERAS, f"cameras are left out: {_line(error)}")


def _of_now(cameras: Sequence[RunCamera]) -> tuple[RunCamera, ...]:
    """Those used last, those that name no iteration, and the user's own: recent ones are in the file already."""
    newest = max((camera.iteration for camera in cameras if camera.iteration is not None), default=None)
    listed: set[int] = set()
    found = []
    for camera in cameras:
        if camera.own is not None and id(camera.own) not in listed or camera.iteration in (None, newest):
            found.append(camera)
            listed.add(id(camera.own))
    return tuple(found)


def _same(known: tuple, before: tuple | None) -> bool:
    return before is not None and known[0] is before[0] and known[1:] == before[1:]


def _array(source: Any, dtype: torch.dtype | None = None) -> np.ndarray:
    """A copy on the CPU."""
    tensor = source.detach() if isinstance(source, Tensor) else torch.as_tensor(source)
    return tensor.to(device="cpu", dtype=dtype or shown_dtype(tensor), copy=True).contiguous().numpy()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
