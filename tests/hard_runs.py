"""Runs that are hard to show: nothing there, one camera, no numbers where numbers should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerator import DEVICE
from fake_inference import FakeInference, key_of
from fake_run import FakeRun, icosphere_like
from vae_weights import GOLDEN, tiny_weights

from sparseflex.mesh import Mesh
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun
from sparseflex.training.reconstruct import ReconstructRun
from sparseflex.training.run import Run, RunCamera
from sparseflex.vae import SparseFlexVAE, VAEConfig
from sparseflex.vae.config import config_from_yaml
from sparseflex.voxels import SparseVoxels


class NoVoxels(FakeRun):
    """Everything has been pruned."""

    def __init__(self) -> None:
        super().__init__(12)
        self._voxels = SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 12)


class NoFaces(FakeRun):
    """No sign change anywhere, and a target without faces; nothing is hit."""

    def read_field(self, name: str) -> Any:
        value = super().read_field(name)
        if isinstance(value, Mesh):
            return Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
        if name == "corner_sdf":
            return torch.ones_like(value)
        return torch.zeros_like(value) if name in ("rendered_depth", "rendered_normal", "rendered_mask") else value


class OneCamera(FakeRun):
    def cameras(self) -> Sequence[RunCamera]:
        return super().cameras()[:1]


def spoiled(value: Any, share: float) -> Any:
    """A field of which this share of all values is NaN or infinite."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    value, bad = value.clone(), torch.arange(len(value)) < share * len(value)
    value[bad] = float("nan")
    value[bad & (torch.arange(len(value)) % 3 == 0)] = float("inf")
    return value


class NotANumber(FakeRun):
    """share of all values in every field and map is NaN or infinite, and so is the loss."""

    share = 0.2

    def read_field(self, name: str) -> Any:
        return spoiled(super().read_field(name), self.share)

    def scalars(self) -> dict[str, float]:
        return {**super().scalars(), "loss": float("nan"), "grad_norm": float("inf")}


class AllNotANumber(NotANumber):
    share = 1.0


class BadInference(FakeInference):
    """A fifth of all values that can be seen is NaN or infinite; a voxel is attended."""

    def __init__(self) -> None:
        super().__init__(8, 300)
        self.change_setting("attended_voxel", key_of(8, 300, 7))

    def read_field(self, name: str) -> Any:
        return spoiled(super().read_field(name), 0.2)


def nothing_kept() -> FakeInference:
    """Every child is pruned, so that the stages after it have no voxels."""
    run = FakeInference(8, 300)
    run.change_setting("threshold_1", 10)
    return run


def coarse_to_fine() -> FitRun:
    """Its voxels are others every few iterations."""
    config = FitConfig(resolution=16, start_resolution=4, iterations=4, image_size=32, prune_every=1)
    return FitRun(icosphere_like(8, 0.4), config)


HARD_RUNS: dict[str, Callable[[], Run]] = {
    "plain": FakeRun, "no voxels": NoVoxels, "no faces": NoFaces, "one camera": OneCamera, "some NaN": NotANumber,
    "all NaN": AllNotANumber, "only scalars": lambda: FakeRun(only_scalars=True), "coarse to fine": coarse_to_fine,
    "nothing kept": nothing_kept, "inference, some NaN": BadInference,
}


def on_the_device(**settings: Any) -> FitRun:
    return FitRun(icosphere_like(10, 0.4), FitConfig(resolution=16, iterations=8, image_size=32, **settings), DEVICE)


def inference_on_the_device() -> ReconstructRun:
    model = SparseFlexVAE(config_from_yaml(GOLDEN / "tiny" / "config.yaml", VAEConfig()))
    model.load_state_dict(tiny_weights())
    model = model.requires_grad_(False).eval().to(DEVICE)
    table = torch.from_numpy(np.load(GOLDEN / "tiny" / "inputs.npz")["points_normals"]).float()
    few = table[(table[:, :3] - table[0, :3]).norm(dim=1) < 0.08][::2]
    return ReconstructRun(model, few[:, :3].contiguous(), few[:, 3:].contiguous())


DEVICE_RUNS: dict[str, Callable[[], Run]] = {
    "fit": lambda: on_the_device(cameras=2), "levels": lambda: on_the_device(start_resolution=4, prune_every=1),
    "inference": inference_on_the_device,
}
