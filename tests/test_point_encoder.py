"""The point encoder in parts: the same features and gradients as all points at once, and less memory."""

from __future__ import annotations

import pytest
import torch
from live_bytes import LiveBytes

from sparseflex.vae import VAEConfig, point_encoder
from sparseflex.vae.point_encoder import PointEncoder


def sizes(width: int) -> VAEConfig:
    return VAEConfig(resolution=8, hidden_channels=width, point_channels=2 * width, n_point_blocks=3,
                     model_channels=256, n_heads=4)


@pytest.mark.parametrize("n_points, at_once", [(0, 4), (1, 4), (4, 4), (5, 4), (300, 7), (300, 299)])
def test_parts_give_what_the_whole_gives(monkeypatch, n_points, at_once):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    encoder = PointEncoder(sizes(16))
    inputs = torch.randn(n_points, 6, generator=generator, requires_grad=True)
    rows = torch.randint(0, 20, (n_points,), generator=generator)  # points of a voxel lie in several parts
    found = []
    for number in (10**6, at_once):
        monkeypatch.setattr(point_encoder, "POINTS_AT_ONCE", number)
        features = encoder(inputs, rows, 21)
        gradients = torch.autograd.grad(features.square().sum(), [inputs, *encoder.parameters()])
        found.append((features.detach(), *gradients))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, atol=2e-5, rtol=1e-4)
    assert bool((found[1][0][20] == 0).all())  # a voxel without a point


def test_memory_is_bounded_by_the_parts(monkeypatch):
    encoder = PointEncoder(sizes(64)).requires_grad_(False)
    inputs, rows = torch.randn(60_000, 6), torch.randint(0, 500, (60_000,))
    peaks = []
    for number in (10**6, 2_000):
        monkeypatch.setattr(point_encoder, "POINTS_AT_ONCE", number)
        with LiveBytes() as live:
            encoder(inputs, rows, 500)
        peaks.append(live.peak)
    assert peaks[1] < 0.6 * peaks[0], peaks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_means_of_many_points_in_half_precision(dtype):
    """Their sum is beyond float16, too coarse in bfloat16; CUDA would even stop where a point is too small to add."""
    values = torch.full((70_000, 2), 3.0, dtype=dtype)
    rows = torch.zeros(70_000, dtype=torch.int64)
    rows[60_000:] = 2
    means = point_encoder.voxel_means(values, rows, 3)
    assert means.dtype == dtype and torch.equal(means, torch.tensor([[3, 3], [0, 0], [3, 3]], dtype=dtype))
