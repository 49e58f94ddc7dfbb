"""Inference as a run: its stages give what reconstruct gives, what hasn't changed isn't run again, and all is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from vae_weights import GOLDEN, tiny_weights

from sparseflex.training.reconstruct import ReconstructRun
from sparseflex.training.run import Run
from sparseflex.vae import Reconstruction, SparseFlexVAE, VAEConfig
from sparseflex.vae.config import config_from_yaml


@pytest.fixture(scope="module")
def model() -> SparseFlexVAE:
    model = SparseFlexVAE(config_from_yaml(GOLDEN / "tiny" / "config.yaml", VAEConfig()))
    model.load_state_dict(tiny_weights())
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def cloud() -> tuple[torch.Tensor, torch.Tensor]:
    """The 6000 points of the reference data, thinned: every third."""
    table = torch.from_numpy(np.load(GOLDEN / "tiny" / "inputs.npz")["points_normals"]).float()[::3]
    return table[:, :3].contiguous(), table[:, 3:].contiguous()


def equals(run: ReconstructRun, wanted: Reconstruction) -> None:
    """Bit for bit."""
    mesh, flex = run.read_field("mesh"), wanted.flex
    assert torch.equal(mesh.vertices, wanted.mesh.vertices) and torch.equal(mesh.faces, wanted.mesh.faces)
    assert torch.equal(run.read_field("voxels").voxel_ijk, flex.voxels.voxel_ijk)
    for name in ("corner_sdf", "corner_deform", "alpha", "beta", "gamma"):
        assert torch.equal(run.read_field(name), getattr(flex, name)), name
    assert torch.equal(run.read_field("latent/latent"), wanted.latent)
    assert torch.equal(run.read_field("latent/mean"), wanted.posterior.mean)
    for number, level in enumerate(wanted.levels, start=1):
        assert torch.equal(run.read_field(f"upsample {number}/voxels").voxel_ijk, level.voxel_ijk)
        assert torch.equal(run.read_field(f"upsample {number}/occupancy_logit"), level.occupancy_logits)
        kept = run.read_field(f"prune {number}/voxels").voxel_ijk
        assert torch.equal(kept, level.voxel_ijk[level.kept])


def test_a_pass_is_reconstruct_bit_for_bit(model, cloud) -> None:
    run = ReconstructRun(model, *cloud)
    assert isinstance(run, Run) and run.iteration == 0 and run.read_field("mesh") is None
    run.run_pass()
    assert run.iteration == 1
    equals(run, model.reconstruct(*cloud))


@pytest.mark.parametrize(("settings", "options"), [
    ({"threshold_1": -0.2, "threshold_2": 0.3}, {"thresholds": (-0.2, 0.3)}),
    ({"prune": 0}, {"prune": False}),
    ({"sample_posterior": 1, "latent_seed": 5}, {"sample_posterior": True}),
    ({"chunk_voxels": 150}, {"chunk_voxels": 150}),
])
def test_so_is_a_pass_with_other_settings(model, cloud, settings, options) -> None:
    if "sample_posterior" in options:
        options = options | {"generator": torch.Generator().manual_seed(5)}
    run = ReconstructRun(model, *cloud)
    for name, value in settings.items():
        run.change_setting(name, value)
    run.run_pass()
    equals(run, model.reconstruct(*cloud, **options))
