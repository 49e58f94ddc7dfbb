"""FitRun: a SparseFlex optimised against renderings of a target mesh, section by section (method.md, 3 and 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.extraction import extract_mesh
from sparseflex.frustum import active_voxels, adapt_frustum, add_halo
from sparseflex.mesh import Mesh
from sparseflex.render import Maps, render_maps
from sparseflex.representation import SparseFlex
from sparseflex.sampling import CameraSampler, SampledCamera, check_fixed
from sparseflex.threads import SMALL_SECTION, one_thread
from sparseflex.training.backward_pass import Watch, watchable_fields
from sparseflex.training.config import FitConfig, from_table
from sparseflex.training.coverage import COVERAGE_FIELDS, Coverage, View
from sparseflex.training.faults import Fault, Faults
from sparseflex.training.fit_cameras import FitCameras
from sparseflex.training.fit_parameters import FitParameters, FitSection, initial_sdf, voxels_around
from sparseflex.training.fit_settings import FitSettings
from sparseflex.training.fit_state import FIT_FIELDS, UNPRUNED_FIELDS, Shown
from sparseflex.training.levels import learning_rates, level_resolutions
from sparseflex.training.measure import StageCost, StageMeter, WorkMeter, cost_columns
from sparseflex.training.objective import Objective
from sparseflex.training.pruning import PruneEvent, Pruner
from sparseflex.training.run import FieldKind, RunCamera, Setting
from sparseflex.training.scalar_names import fit_scalars
from sparseflex.training.section_gradients import GRADIENT_FIELDS, SectionGradients
from sparseflex.voxels import SparseVoxels

STAGES = ("sample_cameras", "adapt_frustum", "activate", "extract", "render", "loss", "backward", "update", "prune")

_FRAME_SLACK = 1e-4
_WORK_STAGES = STAGES[STAGES.index("adapt_frustum") : STAGES.index("update") + 1]


class FitRun:
    """Fits a SparseFlex to a target mesh in the normalised frame; implements the run protocol.

    target: within [-0.5, 0.5]³. config: FitConfig. fixed_cameras: cameras to train with besides the drawn ones, by
    fixed_share. faults: what goes wrong on purpose. All randomness comes from one generator seeded with config.seed: on
    the CPU two runs, or one that went through a checkpoint, are equal bit by bit.
    """

    name = "fit"
    stages: Sequence[str] = STAGES

    def __init__(self, target: Mesh, config: FitConfig, device: torch.device | str = "cpu",
                 parameters: FitParameters | None = None, fixed_cameras: Sequence[Camera] = (),
                 faults: Sequence[Fault] = ()) -> None:
        self._own, self._faults = FitCameras(fixed_cameras), Faults(faults)
        self._settings, self.iteration = FitSettings(config), 0
        self.target = target.detach().to(device, torch.float32)
        reach = float(self.target.vertices.abs().amax()) if target.n_vertices else 0.0
        if not reach <= 0.5 + _FRAME_SLACK:
            raise ValueError(f"target must lie in [-0.5, 0.5]^3, the normalised frame, got coordinates up to {reach:g}")
        check_fixed(self.own_cameras, self.target)
        self.generator = torch.Generator().manual_seed(config.seed)
        if parameters is None:
            voxels = voxels_around(self.target, level_resolutions(config)[0])
            parameters = FitParameters(voxels, initial_sdf(config.init, voxels, self.target, self.generator))
        self.parameters = self._faults.plant(parameters)
        self._pruner, self._coverage = Pruner(self.target, self.voxels), Coverage.none(self.voxels)
        self.stage_costs: dict[str, StageCost] = {}
        self.history: dict[str, list[float]] = {}
        self._sampler: CameraSampler | None = None  # made when first needed: a run that is only looked at needs none
        self._objective: Objective | None = None
        self._meter = StageMeter(device)
        self._work = WorkMeter(self._meter)
        self._next = 0
        self._n_section = self.voxels.n_voxels
        self._generator_at_start = self.generator.get_state()
        self._scalars: dict[str, float] = {"iteration": 0.0, "voxels": float(self.voxels.n_voxels)}
        self._shown = Shown()
        self._sampled: list[SampledCamera] = []
        self._cameras: list[Camera] = []
        self._inside: list[Tensor] = []  # by camera: the voxels in its frustum
        self._section: FitSection | None = None
        self._gradients: SectionGradients | None = None
        self._watch = Watch()
        self.watch = self._watch.ask
        self._mesh: Mesh | None = None
        self._rendered: list[Maps] = []
        self._targets: list[Maps] = []
        self._loss: Tensor | None = None
        self._current: list[RunCamera] = []

    @property
    def config(self) -> FitConfig:
        return self._settings.config

    @config.setter
    def config(self, config: FitConfig) -> None:
        self._settings.config = config

    @property
    def voxels(self) -> SparseVoxels:
        return self.parameters.voxels

    @property
    def device(self) -> torch.device:
        return self.voxels.device

    @property
    def prune_events(self) -> Sequence[PruneEvent]:
        """What was pruned and born, oldest first; the last 64 looks and every subdivision."""
        return tuple(self._pruner.events)

    def flex(self) -> SparseFlex:
        """The representation as it stands, SDF in world units, without autograd."""
        return self.parameters.flex()

    def extract(self) -> Mesh:
        """The whole surface as it stands, triangulated for use (not for training)."""
        with torch.no_grad():
            return extract_mesh(self.flex())

    # -- stages -----------------------------------------------------------------------------------------------

    def run_stage(self, stage: str) -> None:
        wanted = STAGES[self._next]
        if stage != wanted:
            raise ValueError(f"stage must be {wanted!r}, the next one, got {stage!r}")
        if stage == "adapt_frustum":
            self._work.begin()
        self._meter.start()
        with one_thread(self.voxels.device.type == "cpu" and self._n_section < SMALL_SECTION):
            getattr(self, f"_do_{stage}")()
        self.stage_costs[stage] = self._meter.stop()
        self._next = (self._next + 1) % len(STAGES)
        if self._next == 0:
            self._finish_iteration()

    def run_iteration(self) -> None:
        """Runs the stages from the next one up to the end of the iteration."""
        for stage in STAGES[self._next :]:
            self.run_stage(stage)

    def _do_sample_cameras(self) -> None:
        self._generator_at_start = self.generator.get_state()
        self._settings.begin(self.iteration)
        if self._sampler is None:
            self._sampler = CameraSampler(self.target, self.config)
        self._own.begin(self.iteration)
        self._sampler.config = self._pruner.view_config(self.config)
        self._sampler.fixed, self._sampler.locked = self._own.now.own, self._own.now.locked
        self._sampled = self._sampler.sample(self.generator)
        self._cameras = [sampled.camera for sampled in self._sampled]
        self._shown = dataclasses.replace(self._shown, trace=None)
        self._show_cameras()

    def _do_adapt_frustum(self) -> None:
        config = self._sampler.config
        if config.visibility_ratio < 1:
            ratio = config.visibility_ratio
            fits = [adapt_frustum(self.voxels, camera, ratio, config.planes, config.anchor, self.generator)
                    for camera in self._cameras]
            self._cameras = [fit.camera for fit in fits]
            self._shown = dataclasses.replace(self._shown, trace=fits[0].trace)
        self._cameras = self._faults.turned(self._cameras, self.iteration)
        self._scalars |= {"near": self._cameras[0].near, "far": self._cameras[0].far}
        self._show_cameras()

    def _do_activate(self) -> None:
        self._inside = [active_voxels(self.voxels, camera) for camera in self._cameras]
        n_active, active = [int(inside.sum()) for inside in self._inside], torch.stack(self._inside).any(dim=0)
        n_in_frustum = int(active.sum())
        active = add_halo(self.voxels, active, self.config.halo)
        self._n_section = int(active.sum())
        self._scalars |= {"active": float(n_in_frustum), "section": float(self._n_section)}
        self._scalars |= {"visible_fraction": n_in_frustum / max(self.voxels.n_voxels, 1)}
        self._shown = dataclasses.replace(self._shown, active=active)
        self._show_cameras(n_active)

    def _do_extract(self) -> None:
        self._gradients, self._watch.found = None, None  # before the graph that will need the memory
        self._section = self.parameters.section(self._shown.active)
        self._mesh = extract_mesh(self._section.flex, training=True)
        self._scalars |= {"vertices": float(self._mesh.n_vertices), "faces": float(self._mesh.n_faces)}
        self._shown = dataclasses.replace(self._shown, mesh=self._mesh.detach())

    def _do_render(self) -> None:
        with torch.no_grad():
            self._targets = [render_maps(self.target, camera) for camera in self._cameras]
        self._rendered = [render_maps(self._mesh, camera) for camera in self._cameras]
        self._shown = self._shown.with_maps(self._rendered[0], self._targets[0])

    def _do_loss(self) -> None:
        progress = self.iteration / self.config.iterations
        if self._objective is None:
            self._objective = Objective(self.config)
        terms, per_view = self._objective.terms(self._rendered, self._targets, self._cameras, self._section, self._mesh,
                                                self.config, progress)
        self._watch.terms, self._loss = terms, torch.stack(list(terms.values())).sum()
        self._scalars = {name: value for name, value in self._scalars.items() if not name.startswith("loss")}
        values = torch.stack([self._loss, *terms.values()]).tolist()  # at once: a device is waited for each time
        self._scalars |= dict(zip(["loss", *(f"loss_{name}" for name in terms)], values, strict=True))
        self._current = [dataclasses.replace(c, loss=loss) for c, loss in zip(self._current, per_view, strict=True)]

    def _do_backward(self) -> None:
        self._watch.before(self._section)
        if self._loss.requires_grad:  # a section without any surface has nothing to pull on
            self._loss.backward()
        self._watch.after(self.iteration + 1, self.voxels, self._section, self._mesh, self._objective, self.config,
                          zip(self._cameras, self._rendered, self._targets, strict=True))
        self._gradients = SectionGradients.of(self.voxels, self._section)
        squares = sum(torch.stack([grad.square().sum() for grad in self._gradients.section.values()]).tolist())
        self._scalars |= {"grad_norm": squares**0.5}

    def _do_update(self) -> None:
        config = self.config
        self.parameters.update(self._section, learning_rates(config, self._pruner.level, self.iteration))
        if config.start_resolution:
            views = zip(self._objective.labels, self._cameras, self._targets, self._rendered, strict=True)
            for view in views:
                self._pruner.observe(self.voxels, self._section, *view, config, self.iteration)
        adapted = self._sampler.config.visibility_ratio < 1
        views = zip(self._sampled, self._cameras, self._inside, self._rendered, self._targets, strict=True)
        self._current = self._coverage.observe(self._current, self._section, self._mesh,
                                               [View(*view, adapted) for view in views], config, self.iteration + 1)
        self._scalars |= {"never_seen": float(self._coverage.n_never_seen)}

    def _do_prune(self) -> None:
        self._faults.strike(self.parameters, self.iteration + 1)
        if not self.config.start_resolution:
            return
        old = self.voxels
        change = self._pruner.look(self.parameters, self.config, self.iteration + 1, self.generator)
        if change is not None and change.parameters is not self.parameters:
            self.parameters = change.parameters
            self._shown, self._gradients = self._shown.on(old, self.voxels), None
            self._coverage = self._coverage.moved(old, self.voxels)
            self._scalars |= {"never_seen": float(self._coverage.n_never_seen)}
        self._scalars |= self._pruner.scalars(change, old.n_voxels)
        self._scalars |= {"voxels": float(self.voxels.n_voxels), "resolution": float(self.voxels.resolution)}

    def _finish_iteration(self) -> None:
        self.iteration += 1
        self._section, self._mesh, self._loss = None, None, None
        self._rendered, self._targets, self._inside = [], [], []
        self._scalars |= {
            "iteration": float(self.iteration),
            "stage_secs": sum(cost.secs for cost in self.stage_costs.values()),
            "peak_bytes": max(cost.peak_bytes for cost in self.stage_costs.values()),
            "resident_bytes": float(self.parameters.n_bytes),
        }
        if self.device.type == "cuda":
            self._scalars |= {"reserved_bytes": float(torch.cuda.memory_reserved(self.device))}
        work = self._work.end(self.stage_costs[stage] for stage in _WORK_STAGES)
        if work is not None:
            self._scalars |= {"work_bytes": work, "work_voxels": float(self._n_section)}
        row = self._scalars | cost_columns(self.stage_costs)
        for name in row:
            self.history.setdefault(name, [float("nan")] * (self.iteration - 1))
        for name, column in self.history.items():
            column.append(row.get(name, float("nan")))
        self._own.note(self._current)
        self._generator_at_start = self.generator.get_state()

    def _show_cameras(self, n_active: list[int] | None = None) -> None:
        counts = n_active or [None] * len(self._cameras)
        self._current = [
            RunCamera(camera, sampled.kind, None, count, self.iteration + 1,
                      own=sampled.camera if sampled.kind == "fixed" else None)
            for camera, sampled, count in zip(self._cameras, self._sampled, counts, strict=True)
        ]

    # -- what others may see ----------------------------------------------------------------------------------

    def scalars(self) -> Mapping[str, float]:
        return dict(self._scalars)

    @property
    def scalar_names(self) -> Sequence[str]:
        return fit_scalars(self.config, self.device)

    @property
    def fields(self) -> Mapping[str, FieldKind]:
        return FIT_FIELDS if self.config.start_resolution else UNPRUNED_FIELDS

    @property
    def watchable(self) -> Mapping[str, FieldKind]:
        return watchable_fields(self.config)

    def read_field(self, name: str) -> Any:
        if name in self.watchable:
            return self._watch.read(name, self.voxels)
        if name not in FIT_FIELDS:
            raise ValueError(f"field must be one of {', '.join(FIT_FIELDS)}, got {name!r}")
        if name in ("voxels", "target"):
            return getattr(self, name)
        if name in COVERAGE_FIELDS:
            return self._coverage.read(name)
        if name in ("occupancy", "touched", "prune"):
            return self._pruner.read(name, self.voxels, bool(self.config.start_resolution))
        if name in GRADIENT_FIELDS:
            known = self._gradients
            return known.read(name) if known is not None and known.voxels is self.voxels else None
        if name in ("corner_sdf", "corner_deform", "alpha", "beta", "gamma"):
            return getattr(self.flex(), name)
        return getattr(self._shown, name)

    def cameras(self) -> Sequence[RunCamera]:
        return self._own.listed(self._current if self._next else [])

    @property
    def own_cameras(self) -> Sequence[Camera]:
        return self._own.wanted.own

    @property
    def cameras_locked(self) -> bool:
        return self._own.wanted.locked

    @property
    def kept_cameras(self) -> Sequence[Camera]:
        return self._own.wanted.kept

    def change_cameras(self, cameras: Sequence[Camera], locked: bool = False,
                       kept: Sequence[Camera] | None = None) -> None:
        """See Run; raises ValueError for a camera inside the target's box that is in a wall or too near to one."""
        check_fixed(cameras, self.target)
        self._own.change(cameras, locked, kept, self.iteration + (self._next > 0))

    @property
    def settings(self) -> Mapping[str, Setting]:
        return self._settings.shown()

    def change_setting(self, name: str, value: float) -> None:
        self._settings.change(name, value, self.iteration + (self._next > 0))

    # -- state ------------------------------------------------------------------------------------------------

    @property
    def state_is_of_start(self) -> bool:
        """False before the last stage, `prune`: a state then has all but that done, which is done once it is loaded."""
        return STAGES[self._next] != "prune"

    def state_dict(self) -> dict[str, Any]:
        """The state at the start of the current iteration, whose stages will run again; but see state_is_of_start."""
        of_start = self.state_is_of_start
        return {
            **self._settings.state_dict(),
            "iteration": self.iteration,
            "to_prune": int(not of_start),
            "generator": self._generator_at_start if of_start else self.generator.get_state(),
            "target": {"vertices": self.target.vertices, "faces": self.target.faces},
            "parameters": self.parameters.state_dict(),
            "faults": self._faults.state_dict(),
            "pruner": self._pruner.state_dict(),
            "coverage": self._coverage.state_dict(),
            "scalars": dict(self._scalars),
            "history": {
                "names": list(self.history),
                "rows": torch.tensor(list(self.history.values()), dtype=torch.float64).reshape(-1, self.iteration).T
                if self.history else torch.zeros(0, 0, dtype=torch.float64),
            },
            "stage_costs": {stage: [cost.secs, cost.peak_bytes] for stage, cost in self.stage_costs.items()},
            "shown": self._shown.state_dict(),
            "cameras": self._own.state_dict(() if of_start else self._current),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = self.voxels.device
        self._settings.load_state_dict(state)
        self.iteration, self._next = state["iteration"], 0
        target = Mesh(state["target"]["vertices"], state["target"]["faces"]).to(device)
        if not (torch.equal(target.vertices, self.target.vertices) and torch.equal(target.faces, self.target.faces)):
            self.target, self._sampler = target, None  # making a sampler anew takes most of a second
        self.parameters = FitParameters.from_state_dict(state["parameters"], device, known=self.voxels)
        self.generator.set_state(state["generator"])
        self._generator_at_start = self.generator.get_state()
        self._objective = None
        self._scalars = dict(state["scalars"])
        columns = state["history"]["rows"].T.tolist()
        self.history = dict(zip(state["history"]["names"], columns, strict=True))
        self.stage_costs = {stage: StageCost(*cost) for stage, cost in state["stage_costs"].items()}
        self._shown = Shown.from_state_dict(state["shown"], device)
        self._current, self._gradients, self._watch.found = [], None, None
        self._own.load_state_dict(state["cameras"])
        self._pruner = Pruner(self.target, self.voxels)
        self._pruner.load_state_dict(state["pruner"], device)
        self._faults = Faults.from_state_dict(state.get("faults", ()))
        self._coverage = Coverage.from_state_dict(state.get("coverage"), self.voxels)
        if state["to_prune"]:
            self._do_prune()
            self._finish_iteration()

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device | str = "cpu") -> FitRun:
        parameters = FitParameters.from_state_dict(state["parameters"], device)
        target = Mesh(state["target"]["vertices"], state["target"]["faces"])
        run = cls(target, from_table(FitConfig, state["config"], "config"), device, parameters)
        run.load_state_dict(state)
        return run
