"""ReconstructRun: a surface from points by a SparseFlexVAE, as a run whose iterations are passes through it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.mesh import Mesh
from sparseflex.training.measure import StageCost, StageMeter, cost_columns
from sparseflex.training.pruning import PruneEvent
from sparseflex.training.reconstruct_fields import field_kinds, read_product, read_surface
from sparseflex.training.reconstruct_products import Shape, stage_names
from sparseflex.training.reconstruct_settings import ReconstructSettings
from sparseflex.training.reconstruct_stages import KEPT_BYTES, StageChain
from sparseflex.training.run import FieldKind, RunCamera, Setting
from sparseflex.training.scalar_names import reconstruct_scalars
from sparseflex.vae.config import VAEConfig
from sparseflex.vae.model import SparseFlexVAE
from sparseflex.vae.preprocess import check_points
from sparseflex.voxels import SparseVoxels

_HASHED_AT_ONCE = 1 << 22

Points = tuple[Float[Tensor, "others 3"], Float[Tensor, "others 3"]]


@dataclasses.dataclass(frozen=True)
class CheckpointRef:
    """The file that a model's weights are from: a run's state names it and never holds the weights."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path) -> CheckpointRef:
        """Reads the file for its SHA-256. Raises FileNotFoundError where it is missing."""
        path = Path(path).absolute()
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the weights' file is missing")
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(_HASHED_AT_ONCE):
                digest.update(part)
        return cls(str(path), digest.hexdigest())


class ReconstructRun:
    """Inference in stages; implements the run protocol. One iteration is one pass through the network.

    points, normals: the input in the normalised frame, checked as SparseFlexVAE.reconstruct does. target: the mesh that
    they are from, whose triangles then count for the input's voxels, too. other: points and normals of a second shape
    to take latents from. voxels, other_voxels: where latents are, the inputs' own where None. checkpoint: where the
    model's weights are from; without it a state can only be taken over by a run that has the model. seed: the first
    value of the setting latent_seed. kept_bytes: so much of what the blocks gave is kept.

    A pass runs what changed since the last one, and what depends on it; all else costs nothing. A pass gives what
    model.reconstruct gives, bit for bit on the CPU.
    """

    name = "reconstruct"
    record_every = 1
    plays_once = True

    def __init__(
        self, model: SparseFlexVAE, points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"], *,
        target: Mesh | None = None, other: Points | None = None, voxels: SparseVoxels | None = None,
        other_voxels: SparseVoxels | None = None, checkpoint: CheckpointRef | None = None, seed: int = 0,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.model, self.checkpoint, self._kept_bytes = model, checkpoint, kept_bytes
        self.stages: Sequence[str] = stage_names(model.config)
        shape = self._shape(points, normals, target, voxels)
        second = None if other is None else self._shape(*other, None, other_voxels)
        self._chain = StageChain(model, shape, second, kept_bytes)
        self.iteration = 0
        self._wanted = ReconstructSettings({"latent_seed": seed}, other is not None)
        self._ran: ReconstructSettings | None = None  # of the last whole pass
        self._scalars: dict[str, float] = {"iteration": 0.0, "points": float(len(shape.points))}
        self._scalars_at_start = dict(self._scalars)
        self._events: tuple[PruneEvent, ...] = ()
        self._warnings: dict[str, str] = {}
        self._next = 0
        self._hidden: set[str] = set()  # stages whose products are of another pass than the one that was gone back to
        self.history: dict[str, list[float]] = {}
        self.stage_costs: dict[str, StageCost] = {}
        self._meter = StageMeter(self.device)
        self._kinds = field_kinds(self.stages, target is not None)

    def _shape(self, points: Tensor, normals: Tensor, mesh: Mesh | None, voxels: SparseVoxels | None) -> Shape:
        resolution = self.model.config.resolution
        points, normals = check_points(points, normals, resolution)
        if voxels is not None and voxels.resolution != resolution:
            raise ValueError(f"voxels must be of the network's resolution {resolution}, got {voxels.resolution}")
        mesh = None if mesh is None else mesh.detach().to(self.device, torch.float32)
        voxels = None if voxels is None else voxels.to(self.device)
        return Shape(points.to(self.device), normals.to(self.device), mesh, voxels)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def points(self) -> Float[Tensor, "points 3"]:
        return self._chain.shape.points

    @property
    def target(self) -> Mesh | None:
        return self._chain.shape.mesh

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the current pass a user must be told, such as that nothing was kept at a level."""
        return tuple(self._warnings[stage] for stage in self.stages if stage in self._warnings)

    # -- stages -----------------------------------------------------------------------------------------------

    def run_stage(self, stage: str) -> None:
        wanted = self.stages[self._next]
        if stage != wanted:
            raise ValueError(f"stage must be {wanted!r}, the next one, got {stage!r}")
        if self._next == 0:
            self._chain.settings, self._scalars_at_start = self._wanted, dict(self._scalars)
        self._meter.start()
        self._do(stage, self.iteration + 1)
        self.stage_costs[stage] = self._meter.stop()
        self._next += 1
        if self._next == len(self.stages):
            self._finish_pass()

    def run_pass(self) -> None:
        """The stages from the next one up to the end of the pass."""
        for stage in self.stages[self._next :]:
            self.run_stage(stage)

    def _do(self, stage: str, iteration: int) -> None:
        product = self._chain.run(stage)
        self._hidden.discard(stage)
        self._scalars |= product.scalars
        if stage.startswith("prune"):
            level, made = int(stage[-1]), product.made
            event = dataclasses.replace(made.event, iteration=iteration)
            self._events = (*self._events[: level - 1], event, *self._events[level:])
            self._warnings.pop(stage, None)
            if made.warning:
                self._warnings[stage] = made.warning
        if stage == "prune 2":
            children = self._scalars["children_1"] + self._scalars["children_2"]
            kept = self._scalars["kept_1"] + self._scalars["kept_2"]
            self._scalars["pruned_fraction"] = (children - kept) / children if children else 0.0

    def _finish_pass(self) -> None:
        self._next, self._ran = 0, self._chain.settings
        self.iteration += 1
        self._scalars |= {
            "iteration": float(self.iteration),
            "stage_secs": sum(cost.secs for cost in self.stage_costs.values()),
            "peak_bytes": max(cost.peak_bytes for cost in self.stage_costs.values()),
        }
        row = self._scalars | cost_columns(self.stage_costs)
        for name in row:
            self.history.setdefault(name, [float("nan")] * (self.iteration - 1))
        for name, column in self.history.items():
            column.append(row.get(name, float("nan")))

    # -- what others may see ----------------------------------------------------------------------------------

    def scalars(self) -> Mapping[str, float]:
        return dict(self._scalars)

    @property
    def scalar_names(self) -> Sequence[str]:
        return reconstruct_scalars()

    @property
    def fields(self) -> Mapping[str, FieldKind]:
        return self._kinds

    def read_field(self, name: str) -> Any:
        if name not in self._kinds:
            raise ValueError(f"field must be one of {', '.join(self._kinds)}, got {name!r}")
        if name == "target":
            return self.target
        if name == "points":
            return self.points
        self._make_again()
        if name == "prune":
            return self._events or None
        stage, slash, part = name.rpartition("/")
        if not slash:
            stage = "extract" if name in ("mesh", "point_cause") else "head"
        if stage in self._hidden:
            return None
        return read_product(self._chain, stage, part) if slash else read_surface(self._chain, name)

    def cameras(self) -> Sequence[RunCamera]:
        return []

    @property
    def settings(self) -> Mapping[str, Setting]:
        return self._wanted.shown()

    def change_setting(self, name: str, value: float) -> None:
        self._wanted = self._wanted.changed(name, value)

    # -- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state at the start of the current pass: the inputs, the settings, and which weights, not the weights.

        What the last pass made is not in it: it is made again when it is looked at.
        """
        shape, other = self._chain.shape, self._chain.other
        return {
            "input": _shape_state(shape),
            "other": {} if other is None else _shape_state(other),
            "weights": {} if self.checkpoint is None else dataclasses.asdict(self.checkpoint),
            "config": dataclasses.asdict(self.model.config),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "settings": dict(self._wanted.values),
            "ran": {} if self._ran is None else dict(self._ran.values),
            "iteration": self.iteration,
            "scalars": dict(self._scalars if self._next == 0 else self._scalars_at_start),
            "history": {
                "names": list(self.history),
                "rows": torch.tensor(list(self.history.values()), dtype=torch.float64).reshape(-1, self.iteration).T
                if self.history else torch.zeros(0, 0, dtype=torch.float64),
            },
            "stage_costs": {stage: [cost.secs, cost.peak_bytes] for stage, cost in self.stage_costs.items()},
            "kept_bytes": self._kept_bytes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state of a run with the same weights; ValueError where they are others."""
        if type(state["iteration"]) is not int or state["iteration"] < 0:
            raise ValueError(f"iteration must be a whole number of at least 0, got {str(state['iteration'])[:40]!r}")
        weights, sizes, own = state["weights"], dataclasses.asdict(self.model.config), self.checkpoint
        if own is not None and weights and weights["sha256"] != own.sha256:
            raise ValueError(f"the state is of other weights: {weights['path']} with SHA-256 "
                             f"{weights['sha256'][:16]}…, got {own.path} with {own.sha256[:16]}…")
        if state["config"] != sizes:
            other = next(name for name in sizes if state["config"].get(name) != sizes[name])
            raise ValueError(f"the state is of a network with {other} {state['config'].get(other)}, got {sizes[other]}")
        shape, other = (self._shape_of(state[name]) for name in ("input", "other"))
        if not (_same_shape(shape, self._chain.shape) and _same_shape(other, self._chain.other)):
            self._chain = StageChain(self.model, shape, other, self._kept_bytes)
            self._kinds = field_kinds(self.stages, shape.mesh is not None)
        has_other = other is not None
        self._wanted = ReconstructSettings(state["settings"], has_other)
        self._ran = ReconstructSettings(state["ran"], has_other) if state["ran"] else None
        self.iteration, self._next = state["iteration"], 0
        self._scalars = {str(name): float(value) for name, value in state["scalars"].items()}
        self._scalars_at_start = dict(self._scalars)
        columns = state["history"]["rows"].T.tolist()
        self.history = dict(zip(state["history"]["names"], columns, strict=True))
        self.stage_costs = {stage: StageCost(*cost) for stage, cost in state["stage_costs"].items()}
        self._events, self._warnings, self._hidden = (), {}, set(self.stages)

    def _make_again(self) -> None:
        """What the pass made that was gone back to, as far as it isn't there: once it is looked at between passes."""
        if self._next or not self._hidden or self._ran is None:
            return
        scalars, self._chain.settings = dict(self._scalars), self._ran
        for stage in self.stages:
            self._do(stage, self.iteration)
        self._scalars = scalars

    def _shape_of(self, state: Mapping[str, Any]) -> Shape | None:
        if not state:
            return None
        mesh = Mesh(state["vertices"], state["faces"]) if "vertices" in state else None
        voxels = SparseVoxels(state["voxel_ijk"], self.model.config.resolution) if "voxel_ijk" in state else None
        shape = self._shape(state["points"], state["normals"], mesh, voxels)
        # the normals as they were: bringing them to unit length once more would change their last digits
        return dataclasses.replace(shape, normals=state["normals"].to(self.device))

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Any], device: torch.device | str = "cpu", model: SparseFlexVAE | None = None
    ) -> ReconstructRun:
        """The run of a state, its weights from the file that it names. model: those weights, where they are at hand.

        Raises ValueError in one line where that file is missing or another.
        """
        checkpoint = CheckpointRef(**state["weights"]) if state["weights"] else None
        if model is None:
            model = _reopened(checkpoint, VAEConfig(**state["config"]), state["dtype"], device)
        given, kept_bytes = state["input"], state["kept_bytes"]
        if not isinstance(kept_bytes, int | float):
            raise ValueError(f"kept_bytes must be a number, got {str(kept_bytes)[:40]!r}")
        run = cls(model, given["points"], given["normals"], checkpoint=checkpoint, kept_bytes=kept_bytes)
        run.load_state_dict(state)
        return run


def _reopened(
    checkpoint: CheckpointRef | None, config: VAEConfig, dtype: str, device: torch.device | str
) -> SparseFlexVAE:
    if checkpoint is None:
        raise ValueError("the state names no file of weights: it can only be taken over by a run that has the model")
    # a run from another machine: its weights may lie here
    path = next((path for path in (Path(checkpoint.path), Path(Path(checkpoint.path).name)) if path.is_file()), None)
    if path is None:
        raise ValueError(f"the weights of this run are missing, here too: {checkpoint.path}")
    found = CheckpointRef.of(path)
    if found.sha256 != checkpoint.sha256:
        raise ValueError(f"the weights of this run are others by now: {path} must have SHA-256 "
                         f"{checkpoint.sha256[:16]}…, got {found.sha256[:16]}…")
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    on_cuda = torch.device(device).type == "cuda"
    return SparseFlexVAE.from_checkpoint(path, config, device=device,
                                         dtype=known[dtype] if on_cuda else torch.float32)


def _shape_state(shape: Shape) -> dict[str, Any]:
    state: dict[str, Any] = {"points": shape.points, "normals": shape.normals}
    if shape.mesh is not None:
        state |= {"vertices": shape.mesh.vertices, "faces": shape.mesh.faces}
    if shape.voxels is not None:
        state["voxel_ijk"] = shape.voxels.voxel_ijk
    return state


def _same_shape(a: Shape | None, b: Shape | None) -> bool:
    if a is None or b is None:
        return a is b
    first, second = _shape_state(a), _shape_state(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
