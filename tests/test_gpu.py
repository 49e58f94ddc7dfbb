"""The same on CUDA as on the CPU: extraction with its gradients, the frustum, a whole iteration of a fit, the VAE."""

from __future__ import annotations

import pytest
import torch
from accelerator import DEVICE, needs_cuda
from test_vae_loading import TINY
from vae_weights import tiny_weights

import sparseflex as sf
from sparseflex.checkpoint import load_run, save_checkpoint
from sparseflex.representation import activate_weights
from sparseflex.sparse import VoxelBatch
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun

pytestmark = pytest.mark.gpu


def test_tensors_of_two_devices_do_not_meet():
    there = torch.ones(3, device=DEVICE)
    with pytest.raises(RuntimeError, match="(?i)expected all tensors"):
        there + torch.ones(3)
    with pytest.raises(TypeError, match="can't convert"):
        there.numpy()
    assert (there + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]
    assert there[torch.tensor([0, 2])].cpu().tolist() == [1, 1]
    here, rows = torch.zeros(3), torch.zeros(2, dtype=torch.long, device=DEVICE)
    with pytest.raises(RuntimeError):
        here[rows]
    with pytest.raises(RuntimeError):
        there[rows] = torch.ones(2)
    with pytest.raises(RuntimeError):
        here[0].add_(there[0])
    with pytest.raises(RuntimeError):
        torch.searchsorted(there, torch.tensor(0.5))
    with pytest.raises(RuntimeError):
        torch.rand(3, device=DEVICE, generator=torch.Generator())


def random_flex(device: str, n: int = 16) -> tuple[sf.SparseFlex, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    voxels = sf.SparseVoxels(torch.cartesian_prod(*[torch.arange(n)] * 3).to(device), n)
    sdf = torch.rand(voxels.n_corners, generator=generator, dtype=torch.float64) - 0.5
    deform = torch.randn(voxels.n_corners, 3, generator=generator, dtype=torch.float64)
    raw = torch.randn(voxels.n_voxels, 21, generator=generator, dtype=torch.float64)
    leaves = [tensor.to(device).requires_grad_() for tensor in (sdf, deform, raw)]
    weights = activate_weights(leaves[2])
    return sf.SparseFlex(voxels, leaves[0], leaves[1], *weights, leaves[0].new_zeros(())), leaves


@pytest.mark.parametrize("training", [False, True])
def test_extraction(training):
    found = {}
    for device in ("cpu", DEVICE):
        flex, leaves = random_flex(device)
        mesh = sf.extract_mesh(flex, flex.voxels.centers[:, 0] > -0.2, training)
        (mesh.vertices.square().sum() + mesh.l_dev.sum()).backward()
        found[device] = [mesh.vertices, mesh.faces, mesh.l_dev, *(leaf.grad for leaf in leaves)]
    for ours, theirs in zip(found[DEVICE], found["cpu"], strict=True):
        assert ours.device.type == DEVICE
        torch.testing.assert_close(ours.detach().cpu(), theirs.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_frustum(method):
    camera = sf.Camera.look_at((0.6, 0.7, 1.1), (0, 0, 0), fov_y_degrees=30)
    fits = {}
    for device in ("cpu", DEVICE):
        voxels = sf.SparseVoxels(torch.cartesian_prod(*[torch.arange(24)] * 3).to(device), 24)
        fits[device] = sf.adapt_frustum(voxels, camera, 0.3, method, "centre")
        assert torch.equal(fits[device].active, sf.active_voxels(voxels, fits[device].camera))
    assert torch.equal(fits[DEVICE].active.cpu(), fits["cpu"].active)


def octahedron_fit() -> FitRun:
    vertices = torch.tensor([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]) * 0.5
    faces = [(0, 2, 4), (2, 1, 4), (1, 3, 4), (3, 0, 4), (2, 0, 5), (1, 2, 5), (3, 1, 5), (0, 3, 5)]
    config = FitConfig(resolution=16, image_size=64, iterations=60)
    return FitRun(sf.Mesh(vertices, torch.tensor(faces)), config, DEVICE)


def test_a_fit_learns():
    run, losses = octahedron_fit(), []
    for _ in range(60):
        run.run_iteration()
        losses.append(run.scalars()["loss"])
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_a_fit_goes_through_a_checkpoint(tmp_path):
    run = octahedron_fit()
    run.run_iteration()
    save_checkpoint(tmp_path / "c.safetensors", run)
    again = load_run(tmp_path / "c.safetensors", DEVICE)
    assert again.read_field("mesh").vertices.device.type == DEVICE
    assert torch.equal(again.parameters.sdf, run.parameters.sdf)
    again.run_iteration()


def tiny_decoded(device: str, dtype: torch.dtype = torch.float32, **options):
    """What the tiny weights make of a fixed latent, everything kept; with the model's own trunk and both levels."""
    voxels = sf.SparseVoxels(torch.cartesian_prod(*[torch.arange(10, 16)] * 3).to(device), 32)
    batch = VoxelBatch((voxels,))
    model = sf.vae.SparseFlexVAE(TINY)
    model.load_state_dict(tiny_weights())
    latent = torch.randn(voxels.n_voxels, 8, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        return model.eval().to(device, dtype).decode(latent, batch, prune=False, **options)


@pytest.mark.parametrize("chunk_voxels", [None, 60])
def test_vae(chunk_voxels):
    ours, theirs = (tiny_decoded(device, chunk_voxels=chunk_voxels) for device in (DEVICE, "cpu"))
    torch.testing.assert_close(ours.features.cpu(), theirs.features, rtol=0, atol=1e-3)
    for a, b in zip(ours.levels, theirs.levels, strict=True):
        torch.testing.assert_close(a.occupancy_logits.cpu(), b.occupancy_logits, rtol=0, atol=1e-3)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vae_in_half_precision(dtype):
    ours, theirs = tiny_decoded(DEVICE, dtype), tiny_decoded("cpu")
    assert ours.features.dtype == torch.float32
    for a, b in zip(ours.levels, theirs.levels, strict=True):
        agree = (a.occupancy_logits.cpu() >= 0) == (b.occupancy_logits >= 0)
        assert agree.float().mean() > 0.97
    error = (ours.features.cpu() - theirs.features).abs().mean() / theirs.features.abs().mean()
    assert error < 0.05
