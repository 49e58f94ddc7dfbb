"""FakeRun: a small run by the public protocol, a sphere that swells while cameras circle it; for engine and window."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.training.run import RunCamera, Setting


def icosphere_like(n_rows: int, radius: float) -> Mesh:
    """A latitude-longitude sphere with 2·n_rows columns, faces outwards."""
    n_columns = 2 * n_rows
    latitude = torch.linspace(0, math.pi, n_rows + 1)[:, None]
    longitude = torch.arange(n_columns)[None] * (2 * math.pi / n_columns)
    x = latitude.sin() * longitude.cos()
    z = -latitude.sin() * longitude.sin()
    y = latitude.cos().expand(-1, n_columns)
    vertices = torch.stack([x, y, z], dim=-1).reshape(-1, 3) * radius
    row, column = torch.meshgrid(torch.arange(n_rows), torch.arange(n_columns), indexing="ij")
    right = (column + 1) % n_columns
    a, b = row * n_columns + column, row * n_columns + right
    c, d = a + n_columns, b + n_columns
    # the first and the last row have one triangle a column: at the poles the other one has no area
    lower, upper = torch.stack([a, c, d], -1)[:-1], torch.stack([a, d, b], -1)[1:]
    faces = torch.cat([lower.reshape(-1, 3), upper.reshape(-1, 3)])
    return Mesh(vertices, faces)


class FakeRun:
    """Three stages, every kind of field. `fail_at` is a (iteration, stage) that raises; `stage_secs` slows it."""

    name = "fake sphere"
    stages = ("sample_cameras", "render", "update")

    def __init__(
        self,
        resolution: int = 16,
        fail_at: tuple[int, str] | None = None,
        stage_secs: float = 0.0,
        only_scalars: bool = False,
    ) -> None:
        self.iteration = 0
        self._next = 0
        self._fail_at = fail_at
        self._stage_secs = stage_secs
        self._only_scalars = only_scalars
        self._ratio = 0.5
        self._cameras: list[RunCamera] = []
        self.own_cameras: tuple[Camera, ...] = ()
        self.cameras_locked = False
        self._scalars: dict[str, float] = {}
        self.n_reads: dict[str, int] = {}
        self._target = icosphere_like(16, 0.4)
        if not only_scalars:
            from sparseflex.voxels import SparseVoxels

            cells = torch.arange(resolution)
            grid = torch.stack(torch.meshgrid(cells, cells, cells, indexing="ij"), -1).reshape(-1, 3)
            radius = (((grid + 0.5) / resolution - 0.5) ** 2).sum(1).sqrt()
            self._voxels = SparseVoxels(grid[(radius - 0.4).abs() < 1.2 / resolution].int(), resolution)
            self.radius = torch.tensor(0.2)

    def run_stage(self, stage: str) -> None:
        if stage != self.stages[self._next]:
            raise ValueError(f"stage must be {self.stages[self._next]}, got {stage}")
        if self._stage_secs:
            time.sleep(self._stage_secs)
        if self._fail_at == (self.iteration, stage):
            raise ArithmeticError("the loss is not finite")
        if stage == "sample_cameras" and not self._only_scalars:
            self._sample_camera()
        self._next = (self._next + 1) % len(self.stages)
        if stage == "update":
            self.iteration += 1
            if not self._only_scalars:
                self.radius += (0.4 - self.radius) * 0.1
            self._scalars = {"loss": math.exp(-self.iteration / 20), "loss_depth": math.exp(-self.iteration / 10)}
            if not self._only_scalars:
                self._scalars |= {"voxels": float(self._voxels.n_voxels), "visible_fraction": self._ratio}

    def _sample_camera(self) -> None:
        angle = self.iteration * 0.7
        eye = (1.8 * math.sin(angle), 0.6, 1.8 * math.cos(angle))
        camera = Camera.look_at(eye, (0, 0, 0), fov_y_degrees=30, width=64, height=64, near=1.45 + 0.2 * self._ratio,
                                far=2.1)
        self._cameras = [RunCamera(camera, "orbit", 0.1, None, self.iteration), *self._cameras[:7]]

    def scalars(self) -> Mapping[str, float]:
        return dict(self._scalars)

    @property
    def fields(self) -> Mapping[str, str]:
        if self._only_scalars:
            return {}
        return {"voxels": "voxels", "corner_sdf": "corner", "mesh": "mesh", "target": "mesh", "gamma": "voxel",
                "rendered_depth": "map", "target_depth": "map", "rendered_normal": "map", "target_normal": "map",
                "rendered_mask": "map", "target_mask": "map", "trace": "trace"}

    def read_field(self, name: str) -> Any:
        self.n_reads[name] = self.n_reads.get(name, 0) + 1
        if name == "voxels":
            return self._voxels
        if name == "corner_sdf":
            return self._voxels.corners_world.norm(dim=1) - self.radius
        if name == "mesh":
            return icosphere_like(12, float(self.radius))
        if name == "target":
            return self._target
        if name == "gamma":
            return self.radius.expand(self._voxels.n_voxels)
        if name == "trace" or not self._cameras:
            return None
        return self._map(name)

    def _map(self, name: str) -> torch.Tensor:
        kind, radius = name.split("_")[1], 0.4 if name.startswith("target") else float(self.radius)
        x = torch.linspace(-0.5, 0.5, 64)
        squared = radius**2 - x[None] ** 2 - x[:, None] ** 2
        mask, height = (squared > 0).float(), squared.clamp(min=0).sqrt()
        if kind == "mask":
            return mask
        if kind == "depth":
            return mask * (1.8 - height)
        return torch.stack([x[None].expand(64, 64), -x[:, None].expand(64, 64), height], -1) / radius * mask[..., None]

    def cameras(self) -> Sequence[RunCamera]:
        return [*self._cameras, *(RunCamera(camera, "fixed", own=camera) for camera in self.own_cameras)]

    @property
    def settings(self) -> Mapping[str, Setting]:
        return {"visibility_ratio": Setting(self._ratio, 0.01, 1.0, "share of voxels to activate")}

    def change_setting(self, name: str, value: float) -> None:
        if name != "visibility_ratio" or not 0 < value <= 1:
            raise ValueError(f"visibility_ratio must be in (0, 1], got {value}")
        self._ratio = value

    def change_cameras(self, cameras: Sequence[Camera], locked: bool = False) -> None:
        if locked and not cameras:
            raise ValueError("cameras must not be empty where the run is locked to them, got 0")
        self.own_cameras, self.cameras_locked = tuple(cameras), locked

    def state_dict(self) -> dict[str, Any]:
        radius = {} if self._only_scalars else {"radius": self.radius}
        return {"iteration": self.iteration, "ratio": self._ratio, "scalars": self._scalars, **radius}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.iteration, self._ratio, self._next = state["iteration"], state["ratio"], 0
        self._scalars, self._cameras = state["scalars"], []
        if not self._only_scalars:
            self.radius = state["radius"]
