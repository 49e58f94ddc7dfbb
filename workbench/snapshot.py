"""Snapshot: what the engine shows of a run at one moment. Immutable, so any thread may read it at any time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from sparseflex.camera import Camera
    from sparseflex.training.run import FieldKind, RunCamera, Setting
    from workbench.profiling import Profile
    from workbench.recording.policy import RecordStatus


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclasses.dataclass(frozen=True, eq=False)
class MeshArrays:
    """A mesh as read-only arrays: vertices (V, 3) float32 in world space, faces (F, 3) int32."""

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why the engine stopped: the stage (or the action) that raised, when, and the traceback's text."""

    stage: str
    iteration: int
    message: str
    traceback: str


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """Scalars of every iteration so far: column k of table (n, K) float64 holds names[k], NaN where missing."""

    names: tuple[str, ...] = ()
    table: Float[np.ndarray, "n K"] = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def n_rows(self) -> int:
        return self.table.shape[0]

    def column(self, name: str) -> Float[np.ndarray, n] | None:
        """The values of a scalar, or None where the run has none of that name."""
        return self.table[:, self.names.index(name)] if name in self.names else None


@dataclasses.dataclass(frozen=True)
class PastSummary:
    """What a run can go back to: oldest is the first iteration that is kept, None where none is; reached the last one
    that it can come back to; n_states, n_bytes: what is kept in memory for that, limit_bytes: at most; lacking: why
    nothing more is, or ""; n_keyframes, keyframe_bytes: what its recording has besides, and takes for it."""

    oldest: int | None = None
    reached: int = 0
    n_states: int = 0
    n_bytes: int = 0
    lacking: str = ""
    limit_bytes: float = math.inf
    n_keyframes: int = 0
    keyframe_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Hit:
    """That a breakpoint's condition held: after which stage of which iteration, counted from 1, n_stages of whose had
    then run, and what its scalars were."""

    expression: str
    stage: str
    iteration: int
    n_stages: int
    values: tuple[tuple[str, float], ...] = ()

    @property
    def words(self) -> str:
        """Such as "breakpoint 'faces == 0' after extract, iteration 37 (faces = 0)"."""
        values = ", ".join(f"{name} = {value:,.0f}" if value.is_integer() and abs(value) < 1e15 else
                           f"{name} = {value:.6g}" for name, value in self.values)
        return f"breakpoint {self.expression!r} after {self.stage}, iteration {self.iteration} ({values})"


@dataclasses.dataclass(frozen=True)
class Breakpoint:
    """A condition at which the run stops; one_shot: it is disabled when it is hit; error: why it was refused after it
    had been entered, else ""."""

    expression: str
    enabled: bool = True
    one_shot: bool = False
    hits: int = 0
    last_hit: Hit | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Products:
    """What the stages of an inference leave behind, see workbench.products: stages names those that leave voxels, in
    their order; stage is the one whose products the snapshot's fields are, "" for the final surface. kinds, fields: all
    of them as the run names them, STAGE/NAME; field_kinds and fields of the snapshot hold none of these names."""

    stage: str = ""
    stages: tuple[str, ...] = ()
    kinds: Mapping[str, FieldKind] = dataclasses.field(default_factory=_empty)
    fields: Mapping[str, Any] = dataclasses.field(default_factory=_empty)


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """A run at one moment between two stages.

    fields holds what was asked for, by kind: "voxels" a SparseVoxels on the CPU (the same object as long as the
    voxel set is unchanged), "mesh" a MeshArrays, all others read-only numpy arrays. A field that no stage has made
    yet is absent. The same array object in two snapshots means: unchanged.
    stage_secs and stage_peak_bytes: what each stage cost when it ran last; aside_secs: by what the engine does besides,
    its seconds an iteration, over the last ones; publish_secs is what copying the fields
    of this snapshot cost the engine; made: the scalars that each stage set when it ran last; asked holds the names that
    fields answers, answers how often that happened so far. own_cameras: those drawn as they are, None where the run's
    can't be changed; cameras_locked: whether no others are drawn; kept_cameras: all of the user's own, drawn or not.
    recording: how it stands, None where nothing is recorded.
    source: a run that is "live", or a recording of one, to "replay" or to "follow" while it is written; then history is
    the whole recording's, field_iterations tells of fields that are older than iteration from which one they are,
    marks has iterations by what is to be marked there ("keyframes", "prunings", "changes", "hits"), and speed is that
    of playing, 1 the run's own pace and infinite for every iteration as fast as it can be drawn.
    products: where the run's stages each leave voxels with something on them, which of them are shown.
    breakpoints: those of a live run; hits: those that it stopped at, until it goes on; scalar_names: the scalars that
    it can have, all of them where names_whole, else those known before its first iteration has ended.
    profile: of the iteration profiled last; profiling: whether the next whole one, or that under way, is to be.
    """

    serial: int = 0
    run_name: str = ""
    device: str = "cpu"
    iteration: int = 0
    stages: tuple[str, ...] = ()
    stage_done: str | None = None
    stage_next: str = ""
    playing: bool = False
    scalars: Mapping[str, float] = dataclasses.field(default_factory=_empty)
    history: History = dataclasses.field(default_factory=History)
    cameras: tuple[RunCamera, ...] = ()
    own_cameras: tuple[Camera, ...] | None = None
    cameras_locked: bool = False
    kept_cameras: tuple[Camera, ...] = ()
    settings: Mapping[str, Setting] = dataclasses.field(default_factory=_empty)
    field_kinds: Mapping[str, FieldKind] = dataclasses.field(default_factory=_empty)
    fields: Mapping[str, Any] = dataclasses.field(default_factory=_empty)
    failure: Failure | None = None
    notice: str = ""
    stage_secs: Mapping[str, float] = dataclasses.field(default_factory=_empty)
    stage_peak_bytes: Mapping[str, float] = dataclasses.field(default_factory=_empty)
    made: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=_empty)
    past: PastSummary = PastSummary()
    recording: RecordStatus | None = None
    iterations_per_sec: float = float("nan")
    publish_secs: float = 0.0
    answers: int = 0
    asked: frozenset[str] = frozenset()
    stopped: bool = False
    source: Literal["live", "replay", "follow"] = "live"
    field_iterations: Mapping[str, int] = dataclasses.field(default_factory=_empty)
    marks: Mapping[str, Int[np.ndarray, "m"]] = dataclasses.field(default_factory=_empty)
    speed: float = 1.0
    products: Products = Products()
    breakpoints: tuple[Breakpoint, ...] = ()
    hits: tuple[Hit, ...] = ()
    scalar_names: tuple[str, ...] = ()
    names_whole: bool = False
    profile: Profile | None = None
    profiling: bool = False
    aside_secs: Mapping[str, float] = dataclasses.field(default_factory=_empty)

    @property
    def iteration_under_way(self) -> bool:
        """Whether the run stands between two stages of one iteration."""
        return bool(self.stages) and self.stage_next != self.stages[0]


def frozen(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy of a mapping."""
    return MappingProxyType(dict(mapping))
