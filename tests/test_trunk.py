"""The trunk without gradients goes in parts: the same values as with them, and beside input and result only parts."""

from __future__ import annotations

import pytest
import torch
from live_bytes import LiveBytes

from sparseflex.sparse import VoxelBatch, attention
from sparseflex.vae import VAEConfig, memory, transformer
from sparseflex.vae.decoding import upsample_and_prune
from sparseflex.vae.transformer import Block, Trunk
from sparseflex.vae.upsampling import Upsampling
from sparseflex.voxels import SparseVoxels

SIZES = VAEConfig(resolution=32, model_channels=256, n_heads=4, window_size=8)


def some_voxels(n: int) -> VoxelBatch:
    keys = torch.randperm(32**3, generator=torch.Generator().manual_seed(0))[:n]
    return VoxelBatch((SparseVoxels(torch.stack([keys // 1024, keys // 32 % 32, keys % 32], dim=1), 32),))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention.CHUNK_NUMBERS, "cpu", 1 << 16)
    monkeypatch.setitem(transformer.HIDDEN_NUMBERS, "cpu", 1 << 16)


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("n", [0, 1, 7, 500])
def test_parts_give_what_the_whole_gives(small_parts: None, n: int, shift: int) -> None:
    torch.manual_seed(0)
    block, batch, x = Block(SIZES, shift), some_voxels(n), torch.randn(n, SIZES.model_channels)
    before = x.clone()
    with torch.no_grad():
        parts = block(x, batch)
    whole = block(x, batch)
    assert whole.requires_grad and not parts.requires_grad and parts.shape == whole.shape
    torch.testing.assert_close(parts, whole.detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before)


def test_memory_is_that_of_a_few_copies_of_the_features(small_parts: None) -> None:
    torch.manual_seed(0)
    trunk, batch = Trunk(SIZES, 8, 2).requires_grad_(False), some_voxels(6_000)
    x, inputs = torch.randn(6_000, SIZES.model_channels), torch.randn(6_000, 8)
    peaks = {}
    for block in trunk.blocks:
        block.plan(batch)  # kept by the batch
    for name, run in {"block": lambda: trunk.blocks[0](x, batch), "trunk": lambda: trunk.run(inputs, batch)}.items():
        for grad in (False, True):
            with torch.set_grad_enabled(grad), LiveBytes() as live:
                run()
            peaks[name, grad] = live.peak / x.nbytes
    assert peaks["block", False] < 1.3 and peaks["trunk", False] < 3.3, peaks
    assert peaks["block", True] > 4, peaks


def test_half_precision_takes_of_trunk_and_level_what_the_estimate_says() -> None:
    """Counted, on the CPU."""
    torch.manual_seed(0)
    trunk, batch = Trunk(SIZES, 8, 2).requires_grad_(False), some_voxels(2_000)
    level = Upsampling(SIZES.model_channels, 64, 4).requires_grad_(False)
    x, inputs, peaks = torch.randn(2_000, SIZES.model_channels), torch.randn(2_000, 8), {}
    for dtype in (torch.float32, torch.bfloat16):
        trunk, level, x, inputs = trunk.to(dtype), level.to(dtype), x.to(dtype), inputs.to(dtype)
        with torch.no_grad(), LiveBytes() as of_trunk:
            trunk.run(inputs, batch)
        with torch.no_grad(), LiveBytes() as of_level:
            upsample_and_prune(level, x, batch, prune=True, threshold=0.0)
        peaks[dtype] = of_trunk.peak, of_level.peak
    pairs = zip(peaks[torch.bfloat16], peaks[torch.float32], strict=True)
    trunk_share, level_share = (half / full for half, full in pairs)
    assert 0.4 < trunk_share <= 1.05 * memory._BYTES_IN_TRUNK[True] / 4, trunk_share
    assert 0.4 < level_share <= memory._BYTES_IN_LEVEL[True] / 4, level_share
