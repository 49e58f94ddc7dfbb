"""FakeInference: an inference by the run protocol, with stages, fields, settings and scalars of a ReconstructRun."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from fake_run import icosphere_like
from torch import Tensor

from sparseflex.extraction import extract_mesh
from sparseflex.representation import SparseFlex
from sparseflex.training.occupancy import PruneReason
from sparseflex.training.pruning import PruneEvent
from sparseflex.training.run import RunCamera, Setting
from sparseflex.voxels import SparseVoxels

N_HEADS, N_CHANNELS, N_BLOCKS, RADIUS = 4, 8, 2, 0.4
ENCODER = tuple(f"encoder {number + 1}" for number in range(N_BLOCKS))
TRUNK = tuple(f"trunk {number + 1}" for number in range(N_BLOCKS))
STAGES = ("points", "voxels", "point features", *ENCODER, "latent", *TRUNK, "upsample 1", "prune 1", "upsample 2",
          "prune 2", "head", "extract")


class FakeInference:
    """A sphere with a dent in its logits: what the threshold cuts off there are holes. `other`: interpolation is on."""

    name = "reconstruct"
    stages = STAGES

    def __init__(self, resolution: int = 16, n_points: int = 3000, other: bool = False, n_blocks_named: int = 0
                 ) -> None:
        self.iteration, self._next = 0, 0
        self.resolution = resolution
        if n_blocks_named:  # as many stages as the network at full width has, of which most do nothing
            blocks = tuple(f"encoder {number + 1}" for number in range(n_blocks_named))
            trunk = tuple(f"trunk {number + 1}" for number in range(n_blocks_named))
            self.stages = (*STAGES[:3], *blocks, "latent", *trunk, *STAGES[-6:])
        self._made: dict[str, Any] = {}
        self._scalars: dict[str, float] = {}
        self._target = icosphere_like(24, RADIUS)
        generator = torch.Generator().manual_seed(0)
        way = torch.randn(n_points, 3, generator=generator)
        self._points = RADIUS * way / way.norm(dim=1, keepdim=True)
        bounds = {"prune": (1, 0, 1), "threshold_1": (0, -10, 10), "threshold_2": (0, -10, 10),
                  "sample_posterior": (0, 0, 1), "latent_seed": (0, 0, 2**31 - 1), "noise": (0, 0, 4),
                  "replace": (0, 0, 3), "region_x": (0, -0.5, 0.5), "region_y": (0, -0.5, 0.5),
                  "region_z": (0, -0.5, 0.5), "region_radius": (0, 0, 2), "attended_voxel": (-1, -1, 10**9),
                  "chunk_voxels": (0, 0, 10**9), "release_chunks": (0, 0, 1),
                  **({"interpolate": (0, 0, 1)} if other else {})}
        self._settings = {name: Setting(float(value), float(low), float(high), name)
                          for name, (value, low, high) in bounds.items()}

    # The protocol

    def run_stage(self, stage: str) -> None:
        if stage != self.stages[self._next]:
            raise ValueError(f"stage must be {self.stages[self._next]}, got {stage}")
        kind = stage.split(" ")[0] if stage.split(" ")[0] in ("encoder", "trunk", "upsample", "prune") else stage
        getattr(self, f"_do_{kind.replace(' ', '_')}")(stage)
        self._next = (self._next + 1) % len(self.stages)
        if self._next == 0:
            self.iteration += 1
            self._scalars["iteration"] = float(self.iteration)

    def scalars(self) -> Mapping[str, float]:
        return dict(self._scalars)

    def cameras(self) -> list[RunCamera]:
        return []

    @property
    def settings(self) -> Mapping[str, Setting]:
        return dict(self._settings)

    def change_setting(self, name: str, value: float) -> None:
        known = self._settings[name]
        if not known.minimum <= value <= known.maximum:
            raise ValueError(f"{name} must be in [{known.minimum:g}, {known.maximum:g}], got {value:g}")
        self._settings[name] = dataclasses.replace(known, value=float(value))

    def state_dict(self) -> dict[str, Any]:
        return {"iteration": self.iteration, "scalars": dict(self._scalars),
                "settings": {name: setting.value for name, setting in self._settings.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.iteration, self._next, self._scalars = state["iteration"], 0, dict(state["scalars"])
        for name, value in state["settings"].items():
            self.change_setting(name, value)

    @property
    def fields(self) -> Mapping[str, str]:
        found = {"voxels": "voxels", "corner_sdf": "corner", "corner_deform": "corner", "occupancy_logit": "voxel",
                 "mesh": "mesh", "target": "mesh", "points": "points", "point_cause": "point", "prune": "prune",
                 "voxels/voxels": "voxels", "voxels/n_points": "voxel"}
        for stage in self.stages[2:]:
            if stage in ("head", "extract"):
                continue
            found |= {f"{stage}/voxels": "voxels", f"{stage}/pca": "voxel", f"{stage}/norm": "voxel"}
            if stage.startswith(("encoder", "trunk")):
                found[f"{stage}/attention"] = "voxel"
            if stage == "latent":
                found |= {f"latent/{name}": "voxel" for name in ("mean", "std", "latent", "edited")}
            if stage.startswith(("upsample", "prune")):
                found[f"{stage}/occupancy_logit"] = "voxel"
        return found

    def read_field(self, name: str) -> Any:
        if name in ("target", "points"):
            return self._target if name == "target" else self._points
        return self._made.get(name)

    def _value(self, name: str) -> float:
        return self._settings[name].value

    # The stages

    def _keep(self, stage: str, voxels: SparseVoxels, **values: Tensor) -> None:
        values = {"pca": (voxels.centers + 0.5).clamp(0, 1), "norm": voxels.centers.norm(dim=1), **values}
        self._made |= {f"{stage}/voxels": voxels, **{f"{stage}/{name}": value for name, value in values.items()}}

    def _do_points(self, stage: str) -> None:
        self._scalars["points"] = float(len(self._points))

    def _do_voxels(self, stage: str) -> None:
        cells = ((self._points + 0.5) * self.resolution).floor().long().clamp(0, self.resolution - 1)
        unique, counts = cells.unique(dim=0, return_counts=True)
        known = self._made.get("voxels/voxels")
        voxels = known if known is not None else SparseVoxels(unique.int(), self.resolution)
        n_points = torch.zeros(voxels.n_voxels)
        n_points[voxels.find(unique.int())] = counts.float()
        self._made |= {"voxels/voxels": voxels, "voxels/n_points": n_points}
        self._scalars["latent_voxels"] = float(voxels.n_voxels)

    def _do_point_features(self, stage: str) -> None:
        self._keep(stage, self._made["voxels/voxels"])

    def _do_encoder(self, stage: str) -> None:
        voxels = self._made["voxels/voxels"]
        extra, key = {}, int(self._value("attended_voxel"))
        if key >= 0:
            row = int((voxels.keys == key).nonzero()[0])
            window = voxels.voxel_ijk // 8
            inside = (window == window[row]).all(dim=1)
            distance = (voxels.voxel_ijk - voxels.voxel_ijk[row]).float().norm(dim=1, keepdim=True)
            scores = -distance * torch.arange(1, N_HEADS + 1)
            weight = torch.softmax(torch.where(inside[:, None], scores, -torch.inf), 0)
            extra["attention"] = torch.where(inside[:, None], weight, torch.nan)
        self._keep(stage, voxels, **extra)

    _do_trunk = _do_encoder

    def _do_latent(self, stage: str) -> None:
        voxels = self._made["voxels/voxels"]
        waves = voxels.centers @ torch.linspace(-6, 6, 3 * N_CHANNELS).reshape(3, N_CHANNELS)
        mean, std = waves.sin(), 0.1 + 0.05 * waves.cos()
        latent = mean * (0 if self._value("replace") == 1 else 1)
        if self._value("noise"):
            drawn = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
            latent = latent + self._value("noise") * drawn
        self._keep(stage, voxels, mean=mean, std=std, latent=latent, edited=(latent - mean).norm(dim=1))
        self._scalars["loss_kl"] = float((mean.square() + std.square()).mean())

    def _do_upsample(self, stage: str) -> None:
        level = int(stage.split()[1])
        parents = self._made["prune 1/voxels" if level == 2 else "voxels/voxels"]
        voxels = parents.subdivide()
        off = (voxels.centers.norm(dim=1) - RADIUS).abs() * voxels.resolution
        dent = (voxels.centers - torch.tensor([0.0, 0.3, 0.3])).norm(dim=1)
        logit = 4 * (0.9 - off) - 3.5 * (dent < 0.15).float() * (level == 2) - self._value("noise")
        self._keep(stage, voxels, occupancy_logit=logit)
        self._scalars[f"children_{level}"] = float(voxels.n_voxels)

    def _do_prune(self, stage: str) -> None:
        level = int(stage.split()[1])
        children, logit = (self._made[f"upsample {level}/{name}"] for name in ("voxels", "occupancy_logit"))
        kept = logit >= self._value(f"threshold_{level}") if self._value("prune") else torch.ones_like(logit).bool()
        truth = self._holds_point(children)
        self._keep(stage, children.prune(kept), occupancy_logit=logit[kept])
        none = children.prune(torch.zeros_like(kept))
        below, reaches = PruneReason.LOGIT_BELOW, PruneReason.LOGIT_REACHES
        event = PruneEvent(
            self.iteration + 1, level, children.resolution, True, int(kept.sum()), children.prune(~kept),
            torch.full((int((~kept).sum()),), below, dtype=torch.uint8), torch.sigmoid(logit[~kept]), none,
            truth[~kept], children.prune(kept & ~truth), torch.full((int((kept & ~truth).sum()),), reaches,
                                                                    dtype=torch.uint8))
        before = self._made.get("prune", ()) if level == 2 else ()
        self._made["prune"] = (*before[:1], event)
        self._scalars |= {f"kept_{level}": float(event.n_kept), f"wrongly_kept_{level}": float(event.n_wrongly_kept)}

    def _holds_point(self, voxels: SparseVoxels) -> Tensor:
        found = voxels.find(((self._points + 0.5) * voxels.resolution).floor().int())
        return torch.zeros(voxels.n_voxels, dtype=torch.bool).index_fill_(0, found[found >= 0], True)

    def _do_head(self, stage: str) -> None:
        voxels = self._made["prune 2/voxels"]
        flex = SparseFlex.from_sdf(voxels, voxels.corners_world.norm(dim=1) - RADIUS)
        self._flex = flex
        self._made |= {"voxels": voxels, "corner_sdf": flex.corner_sdf, "corner_deform": flex.corner_deform,
                       "occupancy_logit": self._made["prune 2/occupancy_logit"]}

    def _do_extract(self, stage: str) -> None:
        mesh = extract_mesh(self._flex)
        self._made["mesh"] = mesh
        cells = ((self._points + 0.5) * 4 * self.resolution).floor().int()
        covered = self._made["prune 2/voxels"].find(cells) >= 0
        self._made["point_cause"] = torch.where(covered, 0, 3).to(torch.uint8)
        self._scalars |= {"voxels": float(self._made["voxels"].n_voxels), "faces": float(len(mesh.faces))}


def key_of(resolution: int, n_points: int, row: int) -> int:
    """What attended_voxel is for a row of the voxels of such a run."""
    run = FakeInference(resolution, n_points)
    for stage in ("points", "voxels"):
        run.run_stage(stage)
    return int(run.read_field("voxels/voxels").keys[row])
