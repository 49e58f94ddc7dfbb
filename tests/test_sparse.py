"""Operations on sparse voxels against reference data, dense twins and per-window loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseflex import SparseVoxels
from sparseflex.sparse import (
    GroupNorm,
    VoxelBatch,
    group_statistics,
    position_embedding,
    submanifold_conv,
    windowed_attention,
)

OPS = Path(__file__).parent / "golden" / "ops"


def golden(name: str) -> dict[str, Tensor]:
    with np.load(OPS / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files if data[key].ndim}


def batch_of(ijk: Tensor, resolution: int = 64) -> VoxelBatch:
    return VoxelBatch((SparseVoxels(ijk, resolution),))


def test_reference_skip_convolution():
    data = golden("sparse_conv")
    out = submanifold_conv(data["feats"], data["w1"], data["b1"], batch_of(data["coords"]))
    torch.testing.assert_close(out, data["out1"], atol=1e-6, rtol=0)


def test_reference_group_norm():
    data = golden("group_norm")
    norm = GroupNorm(64)
    norm.load_state_dict({"weight": data["weight"], "bias": data["bias"]})
    torch.testing.assert_close(norm(data["feats"], batch_of(data["coords"])), data["out"], atol=2e-6, rtol=0)


@pytest.mark.parametrize("shift", [0, 4])
def test_reference_attention(shift):
    data = golden("window_attention")
    plan = batch_of(data["coords"]).windows(8, shift)
    torch.testing.assert_close(windowed_attention(data["qkv"], plan), data[f"out_shift{shift}"], atol=2e-6, rtol=0)
    assert torch.equal(plan.window_lengths.sort().values, data[f"seq_lens_shift{shift}"].sort().values)


def test_reference_position_embedding():
    data = golden("ape")
    for channels in (96, 256):
        got = position_embedding(data["coords"], channels)
        torch.testing.assert_close(got, data[f"embed_{channels}"], atol=1e-6, rtol=0)
    got = position_embedding(data["coords"][:64], 768)
    torch.testing.assert_close(got, data["embed_768_first64"], atol=1e-6, rtol=0)


def test_reference_subdivision():
    data = golden("subdivide")
    children = batch_of(data["coords_in"]).subdivide()
    assert torch.equal(children.voxel_ijk, data["coords_out"]) and children.resolution == 128


def test_statistics_of_parts_add_up():
    generator = torch.Generator().manual_seed(0)
    whole = batch_of(torch.unique(torch.randint(0, 16, (300, 3), generator=generator), dim=0))
    features = torch.randn(whole.n_voxels, 12, generator=generator)
    first = torch.rand(whole.n_voxels, generator=generator) < 0.3
    parts = [whole.section(first), whole.section(~first)]
    a, b = (group_statistics(features[part.voxel_rows], part.batch, 4) for part in parts)
    norm = GroupNorm(12, groups=4)
    torch.testing.assert_close(
        norm(features[parts[0].voxel_rows], parts[0].batch, statistics=a + b), norm(features, whole)[first]
    )
