"""Moment: all that can be read of a run at one iteration, be it open, in a recording, or in a window's snapshot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.training.run import RunCamera
from workbench.field_copies import SURFACE, FieldCopies, fields_of
from workbench.history_table import history_of
from workbench.inputs import InputError, Opened, input_errors, open_what
from workbench.snapshot import History, MeshArrays, Snapshot

if TYPE_CHECKING:
    from workbench.recording.reader import Recording


_LOOKED_AT = ("corner", "mesh")
"""Kinds of fields that are recorded at every snapshot, and at none but these."""


def _identity() -> Float[Tensor, "4 4"]:
    return torch.eye(4, dtype=torch.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Moment:
    """A run at one iteration, read only as far as somebody asks.

    field gives a value as Snapshot.fields has it, or None where there is none of that name or no stage has made it
    yet; kinds: of all fields there may be. input_from_normalized: (4, 4) float64. notes: what a reader must be told.
    older: of fields that were read and are older than this iteration, from which one they are.
    """

    name: str
    iteration: int
    kinds: Mapping[str, str]
    field: Callable[[str], Any]
    history: History = dataclasses.field(default_factory=History)
    cameras: tuple[RunCamera, ...] = ()
    input_from_normalized: Float[Tensor, "4 4"] = dataclasses.field(default_factory=_identity)
    notes: tuple[str, ...] = ()
    older: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def shown_mesh(self) -> tuple[str, MeshArrays] | None:
        """Name and arrays of the mesh to take where none is named.

        The whole surface; before the first iteration, which is noise, the target where there is one.
        """
        order = (SURFACE, "mesh", "target") if self.iteration > 0 else ("target", SURFACE, "mesh")
        for name in order:
            mesh = self.field(name) if self.kinds.get(name) == "mesh" else None
            if mesh is not None:
                return name, mesh
        return None


def of_opened(opened: Opened) -> Moment:
    """A run as it stands."""
    run = opened.run
    copies = FieldCopies(run)

    def field(name: str) -> Any:
        copies.start([name], run.iteration)
        return copies.finish().get(name)

    return Moment(opened.name, run.iteration, dict(fields_of(run)), field, history_of(run), tuple(run.cameras()),
                  opened.input_from_normalized, opened.warnings)


def of_snapshot(snapshot: Snapshot, name: str) -> Moment:
    """What a window has of its run at present: only the fields that it asked for."""
    return Moment(name, snapshot.iteration, dict(snapshot.field_kinds), snapshot.fields.get, snapshot.history,
                  snapshot.cameras)


def of_recording(recording: Recording, iteration: int | None = None) -> Moment:
    """A recorded iteration, the last where None; the recording must stay open as long as fields are read. Its history
    ends there. Raises ValueError where that iteration isn't recorded."""
    known = recording.iterations
    wanted = int(known[-1]) if iteration is None else iteration
    if wanted not in known:
        raise ValueError(f"{recording.path}: iteration must be a recorded one from {known[0]} to {known[-1]}, got "
                         f"{iteration}")
    older: dict[str, int] = {}
    kinds = recording.meta.field_kinds
    # what a look at the fields found unchanged has no entry of that look
    looked = max((int(stream.iterations[stream.at(wanted)]) for name, kind in kinds.items() if kind in _LOOKED_AT
                  if (stream := recording.stream(name)).at(wanted) >= 0), default=0)

    def field(name: str) -> Any:
        found, places = recording.snapshot_fields((name,), wanted)
        for key, place in places.items():
            since = max(place, looked) if kinds[key] in (*_LOOKED_AT, "voxel") else place
            if since < wanted:
                older[key] = since
        return found.get(name)

    history = recording.scalars()
    if history.n_rows:
        rows = history.column("iteration") <= wanted
        history = History(history.names, history.table[rows])
    back = recording.meta.table.get("input_from_normalized")
    return Moment(recording.meta.title or recording.path.stem, wanted, dict(recording.meta.field_kinds), field, history,
                  tuple(recording.cameras(wanted).listed), matrix_or_identity(back), older=older)


def matrix_or_identity(value: Any) -> Float[Tensor, "4 4"]:
    """A 4 × 4 matrix of finite numbers that can be inverted, float64; the identity for anything else."""
    try:
        found = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return _identity()
    good = found.shape == (4, 4) and bool(found.isfinite().all()) and float(torch.linalg.det(found)) != 0
    return found if good else _identity()


def open_moment(what: str, iteration: int | None = None, up: str | None = None, device: str | None = None) -> Moment:
    """The moment of whatever can be opened; iteration: of a recording, its last where None. Raises InputError."""
    if what.lower().endswith(".h5"):
        from workbench.recording.reader import Recording

        if up is not None:
            raise InputError("--up does not apply to a recording")
        with input_errors():
            return of_recording(Recording(what), iteration)
    opened = open_what(what, device=device, up=up)
    if iteration is not None and iteration != opened.run.iteration:
        raise InputError(f"--iteration applies to a recording (.h5): {what} stands at iteration "
                         f"{opened.run.iteration}, got {iteration}")
    return of_opened(opened)
