"""The run protocol: what an engine, a panel or a recorder may know of any training or inference run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from sparseflex.camera import Camera

FieldKind = Literal["voxels", "voxel", "corner", "mesh", "map", "trace", "prune", "points", "point", "backward"]
"""What read_field gives for each kind:

voxels  a SparseVoxels; the same object as long as the voxel set is unchanged
voxel   a tensor (N,) or (N, k), row i for voxel i
corner  a tensor (C,) or (C, k), row i for corner i
mesh    a Mesh
map     a tensor (H, W) or (H, W, 3), row 0 at the top
trace   a tensor (rounds, 3): near, far and count of each step of the adaptive search
prune   a tuple of PruneEvent, oldest first: what was pruned and born at each look; immutable, on the CPU
points  a tensor (P, 3): points in world space; the same object as long as they are unchanged
point   a tensor (P,) or (P, k), row i for point i
backward a BackwardPass: what the last backward pass worked on, by term of the loss; immutable, on the run's device

Rows belong together by name: those of a voxel or corner field to the field "voxels", those of a point field to
"points". A run that has voxels at several stages names them "STAGE/voxels", and what belongs to them "STAGE/NAME".
"""


def rows_of(name: str, kind: str | None) -> str | None:
    """The field whose voxels, corners or points the rows of a field are; None for other kinds."""
    owner = {"voxel": "voxels", "corner": "voxels", "point": "points"}.get(kind)
    stage, slash, _ = name.rpartition("/")
    return owner if owner is None else f"{stage}{slash}{owner}"


@dataclasses.dataclass(frozen=True)
class RunCamera:
    """A camera that the run uses: kind is orbit, zoom, interior or fixed; loss as last seen, or None;
    iteration: the one that it served, counted from 1; own: of a fixed one the very camera that the run was given,
    which it is known by, while near and far of `camera` are those that it was used with; n_seen: voxels that it saw,
    behind: the share of its pixels with surface that see it from behind, NaN where there is none (see Coverage)."""

    camera: Camera
    kind: str
    loss: float | None = None
    n_active: int | None = None
    iteration: int | None = None
    own: Camera | None = None
    n_seen: int | None = None
    behind: float | None = None

    @property
    def label(self) -> str:
        """Such as 'orbit 12': the kind and the iteration, where it is known."""
        return self.kind if self.iteration is None else f"{self.kind} {self.iteration}"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A number that may be changed while the run goes on: its value and the closed range it may take."""

    value: float
    minimum: float
    maximum: float
    help: str = ""


@runtime_checkable
class Run(Protocol):
    """A run that advances in named stages.

    A run may also have `history` (scalar names to equally long sequences, kept over a checkpoint), `stage_costs` (stage
    names to StageCost, where it measures itself), `scalar_names` (all scalars that it can have, so that breakpoints can
    be checked before its first iteration has ended), `extract()` (the whole surface as a Mesh), `record_every`
    (iterations from one recording of all its fields to the next, where the usual ten would miss something),
    `watchable` (more fields by their kinds, which cost too much to be had always, and aren't recorded) with
    `watch(names)` (the engine says so whenever others are asked for: from the next pass on, read_field gives those of
    watchable among them; the run's course must not depend on it), `plays_once` (whether playing stops at the
    iteration's end, as another would give the same), `state_is_of_start` (whether state_dict, asked now, gives the
    start of the iteration: it is not gone back to one that doesn't) and `device`; they are used where they are.
    One whose cameras may be changed has `own_cameras` (a sequence of Camera: those that it draws as they are),
    `cameras_locked` (whether no others are drawn) and `change_cameras(cameras, locked)`, which replaces
    both from the next iteration on, or raises ValueError naming the camera, the rule and the value. The two tell what
    is wanted, at once; cameras() lists the own ones too, used or not. One that keeps the user's own over a checkpoint
    while it is locked to others has `kept_cameras` (all of the user's own, whether drawn or not), takes them as
    `change_cameras(cameras, locked, kept=…)`, and lists them in cameras().

    One iteration is run_stage(s) for every s of stages, in that order; after the last one iteration has grown
    by one. Nothing else changes the run, so that it can stop between any two stages. All of it is called from
    one thread, the engine's.
    """

    name: str
    stages: Sequence[str]
    iteration: int

    def run_stage(self, stage: str) -> None:
        """Does the named stage; raises ValueError if it isn't the next one."""

    def scalars(self) -> Mapping[str, float]:
        """The latest value of each scalar, by the names in architecture.md; only those that the run has."""

    @property
    def fields(self) -> Mapping[str, FieldKind]:
        """Names and kinds of the fields that read_field knows."""

    def read_field(self, name: str) -> Any:
        """The field's current value on the run's device, or None where no stage has made it yet."""

    def cameras(self) -> Sequence[RunCamera]:
        """The cameras of the current iteration first, then recent ones, then what else is of the user's own."""

    @property
    def settings(self) -> Mapping[str, Setting]:
        """What may be changed while it runs."""

    def change_setting(self, name: str, value: float) -> None:
        """Takes effect with the next iteration; raises ValueError naming the setting, the rule and the value."""

    def state_dict(self) -> dict[str, Any]:
        """The complete state at the start of the current iteration: nested dicts of tensors, numbers and strings."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state that state_dict gave, its tensors on the CPU maybe; the run then stands at the start of
        that iteration, wherever it stood before."""
