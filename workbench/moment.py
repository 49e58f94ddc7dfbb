"""Moment: all that can be read of a run at one iteration, be it open, in a recording, or in a window's snapshot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.training.run import RunCamera
from workbench.field_copies import SURFACE, FieldCopies, fields_of
from workbench.history_table import history_of
from workbench.inputs import InputError, Opened, open_what
from workbench.snapshot import History, MeshArrays, Snapshot


def _identity() -> Float[Tensor, "4 4"]:
    return torch.eye(4, dtype=torch.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Moment:
    """A run at one iteration, read only as far as somebody asks.

    field gives a value as Snapshot.fields has it, or None where there is none of that name or no stage has made it
    yet; kinds: of all fields there may be. input_from_normalized: (4, 4) float64. notes: what a reader must be told.
    """

    name: str
    iteration: int
    kinds: Mapping[str, str]
    field: Callable[[str], Any]
    history: History = dataclasses.field(default_factory=History)
    cameras: tuple[RunCamera, ...] = ()
    input_from_normalized: Float[Tensor, "4 4"] = dataclasses.field(default_factory=_identity)
    notes: tuple[str, ...] = ()

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


def open_moment(what: str, iteration: int | None = None, up: str | None = None, device: str | None = None) -> Moment:
    """The moment of whatever can be opened; iteration: of a recording, its last where None. Raises InputError."""
    opened = open_what(what, device=device, up=up)
    if iteration is not None and iteration != opened.run.iteration:
        raise InputError(f"--iteration applies to a recording (.h5): {what} stands at iteration "
                         f"{opened.run.iteration}, got {iteration}")
    return of_opened(opened)
