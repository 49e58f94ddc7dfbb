"""No weight is loaded and unused: changing any one tensor makes a comparison with the reference fail, by a margin."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from vae_goldens import TOLERANCE, Golden, batch_of, full_width_model, points_and_normals, tiny
from vae_weights import GOLDEN

from sparseflex.sparse import VoxelBatch
from sparseflex.vae import SparseFlexVAE, VAEConfig
from sparseflex.vae.decoding import upsample
from sparseflex.voxels import SparseVoxels

KEYS = tuple(json.loads((GOLDEN / "tiny" / "weights_checksums.json").read_text()))
MARGIN = 30
"""A changed tensor must move some value by so many tolerances."""

BLIND = "decoder.upsample.1.out_layers.0.conv.bias"
"""Tiny has 32 channels in 32 groups there: the norm that follows takes a channel's constant away, whatever it is."""


@contextmanager
def changed(model: SparseFlexVAE, key: str) -> Iterator[None]:
    """With one tensor other than it was, by a factor and a constant."""
    tensor = model.get_parameter(key)
    before = tensor.detach().clone()
    try:
        tensor.copy_(before * 1.5 + 0.1)
        yield
    finally:
        tensor.copy_(before)


# -- parts of the tiny networks: each takes what unchanged parts before it give; the reference has its result --------


@functools.cache
def point_features() -> Tensor:
    return tiny().model.encode_points(*points_and_normals(Golden("tiny/inputs")), tiny().batch)[0]


@functools.cache
def first_level() -> tuple[Tensor, VoxelBatch]:
    """What the second upsampling starts from."""
    features, _ = upsample(tiny().model.decoder.upsample[0], tiny().trunk_features, tiny().batch)
    kept = torch.from_numpy(reference("tiny/decode_whole_prune").kept(0))
    return features[kept], tiny().batch.subdivide().prune(kept)


@functools.cache
def second_level() -> Tensor:
    """What the head starts from."""
    features, _ = upsample(tiny().model.decoder.upsample[1], *first_level())
    return features[torch.from_numpy(reference("tiny/decode_whole_prune").kept(1))]


def points_in(model: SparseFlexVAE) -> Tensor:
    return model.encode_points(*points_and_normals(Golden("tiny/inputs")), tiny().batch)[0]


def encoder(model: SparseFlexVAE) -> Tensor:
    posterior = model.encoder.posterior(model.encoder.run(point_features(), tiny().batch))
    return torch.cat([posterior.mean, posterior.logvar], dim=1)


def trunk(model: SparseFlexVAE) -> Tensor:
    return model.decoder.run(tiny().latent, tiny().batch)


def first_logits(model: SparseFlexVAE) -> Tensor:
    return upsample(model.decoder.upsample[0], tiny().trunk_features, tiny().batch).occupancy_logits[:, None]


def second_logits(model: SparseFlexVAE) -> Tensor:
    return upsample(model.decoder.upsample[1], *first_level()).occupancy_logits[:, None]


def head(model: SparseFlexVAE) -> Tensor:
    return model.head(second_level())


PARTS: dict[str, tuple[Callable[[SparseFlexVAE], Tensor], str, str]] = {
    "local_pc_encoder": (points_in, "tiny/encoder", "pc_feats"),
    "encoder": (encoder, "tiny/encoder", "params"),
    "decoder.upsample.0": (first_logits, "tiny/decode_whole_prune", "up0_logits"),
    "decoder.upsample.1": (second_logits, "tiny/decode_whole_prune", "up1_logits"),
    "decoder.out_layer": (head, "tiny/decode_whole_prune", "feats"),
    "decoder": (trunk, "tiny/decoder_trunk", "block1"),
}
"""By the start of its keys, the first that fits: what it gives, and the file and array to compare that with."""


@functools.cache
def reference(name: str) -> Golden:
    return Golden(name)


def error(part: str) -> float:
    """How far the part's result is from the reference at most."""
    run, file, name = PARTS[part]
    found = run(tiny().model)
    return max(float((found[::step] - torch.from_numpy(rows)).abs().max()) for step, rows in reference(file).rows(name))


@pytest.mark.parametrize("part", PARTS)
def test_unchanged_parts_give_the_reference(part):
    assert error(part) < TOLERANCE


def test_no_tensor_is_left_out():
    assert len(KEYS) == 97 and set(KEYS) == set(tiny().model.state_dict())


@pytest.mark.parametrize("key", KEYS)
def test_changing_a_tensor_fails_the_comparison(key):
    part = next(part for part in PARTS if key.startswith(part + "."))
    with changed(tiny().model, key):
        assert key == BLIND or error(part) > MARGIN * TOLERANCE
    if key == BLIND:
        block, (x, parents) = tiny().model.decoder.upsample[1], first_level()
        before, bias = block.first(x, parents), tiny().model.get_parameter(key).clone()
        with changed(tiny().model, key):
            torch.testing.assert_close(block.first(x, parents) - before, (0.5 * bias + 0.1).expand_as(before))


def few_voxels(resolution: int, n_voxels: int) -> VoxelBatch:
    grid = torch.cartesian_prod(*[torch.arange(resolution)] * 3)
    rows = torch.randperm(len(grid), generator=torch.Generator().manual_seed(1))[:n_voxels]
    return VoxelBatch((SparseVoxels(grid[rows], resolution),))


def test_each_of_the_releases_257_tensors_has_a_gradient():
    """All of its blocks, at widths that leave no tensor without effect; where it is 0 a tensor would be unused."""
    sizes = VAEConfig(resolution=8, hidden_channels=16, point_channels=32, model_channels=512, n_heads=8, mlp_ratio=1)
    model, batch = SparseFlexVAE(sizes), few_voxels(8, 40)
    points = (batch.voxel_ijk.repeat(4, 1) + torch.rand(160, 3)) / 8 - 0.5
    posterior = model.encode(points, torch.nn.functional.normalize(torch.randn(160, 3), dim=1), batch)
    decoded = model.decode(posterior.sample(torch.Generator().manual_seed(2)), batch, prune=False)
    results = [decoded.features, *(level.occupancy_logits for level in decoded.levels)]
    sum((result * torch.randn_like(result)).sum() for result in results).backward()
    names = json.loads((GOLDEN / "full_width" / "weights_checksums.json").read_text())
    assert [name for name, parameter in model.named_parameters()] == list(model.state_dict())
    assert set(names) == set(model.state_dict()) and len(names) == 257
    largest = {name: float(parameter.grad.abs().max()) for name, parameter in model.named_parameters()}
    assert min(largest.values()) > 1e-5, sorted(largest.items(), key=lambda item: item[1])[:5]


@pytest.mark.slow
def test_the_tensor_that_tiny_cannot_judge():
    """At full width three channels share a group, so that this bias matters."""
    model, data = full_width_model(), Golden("full_width/golden")
    batch = batch_of(data["voxels"], int(data["resolution"]))
    x = model.decoder.run(torch.tensor(data["z"]), batch)
    features, _ = upsample(model.decoder.upsample[0], x, batch)
    kept = torch.from_numpy(data.kept(0))
    parents = batch.subdivide().prune(kept)

    def error() -> float:
        logits = upsample(model.decoder.upsample[1], features[kept], parents).occupancy_logits[:, None]
        return max(float((logits[::k] - torch.from_numpy(rows)).abs().max()) for k, rows in data.rows("up1_logits"))

    assert error() < TOLERANCE
    with changed(model, BLIND):
        assert error() > MARGIN * TOLERANCE
