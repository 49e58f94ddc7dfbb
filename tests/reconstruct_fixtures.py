"""Fixtures for inference as a run: the tiny network with its reference weights, and points."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from vae_weights import GOLDEN, tiny_weights

from sparseflex.training.reconstruct import CheckpointRef, ReconstructRun
from sparseflex.vae import SparseFlexVAE, VAEConfig
from sparseflex.vae.config import config_from_yaml

Points = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="session")
def model() -> SparseFlexVAE:
    model = SparseFlexVAE(config_from_yaml(GOLDEN / "tiny" / "config.yaml", VAEConfig()))
    model.load_state_dict(tiny_weights())
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def weights(model: SparseFlexVAE, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    """The model in a file of our own format."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model.save(path)
    return CheckpointRef.of(path)


@pytest.fixture(scope="session")
def cloud() -> Points:
    """The 6000 points of the reference data, thinned: every third."""
    table = torch.from_numpy(np.load(GOLDEN / "tiny" / "inputs.npz")["points_normals"]).float()[::3]
    return table[:, :3].contiguous(), table[:, 3:].contiguous()


@pytest.fixture(scope="session")
def few() -> Points:
    """A small piece of them."""
    table = torch.from_numpy(np.load(GOLDEN / "tiny" / "inputs.npz")["points_normals"]).float()
    table = table[(table[:, :3] - table[0, :3]).norm(dim=1) < 0.08][::2]
    return table[:, :3].contiguous(), table[:, 3:].contiguous()


@pytest.fixture(scope="session")
def ball() -> Points:
    """A second shape, small too, that shares some voxels with `few`."""
    generator = torch.Generator().manual_seed(1)
    normals = torch.nn.functional.normalize(torch.randn(300, 3, generator=generator), dim=1)
    table = torch.from_numpy(np.load(GOLDEN / "tiny" / "inputs.npz")["points_normals"]).float()
    return (table[0, :3] + 0.06 * normals).clamp(-0.5, 0.5), normals


@pytest.fixture
def make_run(model: SparseFlexVAE, few: Points) -> Callable[..., ReconstructRun]:
    """A run on few points, with settings by name."""

    def make(points: Points = few, settings: dict[str, float] | None = None, **options) -> ReconstructRun:
        run = ReconstructRun(model, *points, **options)
        for name, value in (settings or {}).items():
            run.change_setting(name, value)
        return run

    return make
