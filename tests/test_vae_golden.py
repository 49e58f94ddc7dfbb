"""The VAE against the public release's own values: tiny networks in all stages, the full width in one slow test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from same_mesh import assert_same_mesh
from vae_goldens import (
    TOLERANCE,
    Golden,
    batch_of,
    compare_part_of_mesh,
    follow,
    full_width_model,
    golden,
    inputs_and_outputs,
    points_and_normals,
    tiny,
    with_shape_index,
)

import sparseflex as sf
from sparseflex.vae import Decoded
from sparseflex.vae.point_encoder import point_inputs


def test_encoder():
    model, batch = tiny().model, tiny().batch
    points, normals = points_and_normals(Golden("tiny/inputs"))
    with golden("tiny/encoder") as data, inputs_and_outputs(model) as seen:
        values, rows = point_inputs(points, normals, batch)
        data.compare("pointnet_point_voxel_index", rows)
        data.compare("pointnet_in", values)
        features, n_left_out = model.encode_points(points, normals, batch)
        assert n_left_out == 0
        for number in (0, 4):
            block = seen[f"local_pc_encoder.blocks.{number}"][1]
            data.compare(f"pointnet_block{number}_first512", block[:512])
        data.compare("pc_feats", features)
        posterior = model.encode(points, normals, batch)
        data.compare("x_in", seen["encoder.blocks.0"][0])
        for number in (0, 1):
            data.compare(f"block{number}", seen[f"encoder.blocks.{number}"][1])
        data.compare("after_layernorm", seen["encoder.out_layer"][0])
        data.compare("params", seen["encoder.out_layer"][1])
        data.compare("mean", posterior.mean)
        data.compare("logvar", posterior.logvar)
        generator = torch.Generator().manual_seed(int(data["torch_seed"]))
        data.compare("z", posterior.sample(generator))
        data.compare("z", posterior.mean + posterior.std * torch.tensor(data["eps"]))


def test_encoder_on_two_shapes():
    model = tiny().model
    with golden("tiny/encoder_batch2") as data:
        batch = batch_of(data["coords"], model.config.resolution)
        points, normals = points_and_normals(data)
        shape_index = torch.arange(2).repeat_interleave(len(points) // 2)
        data.compare("pc_feats", model.encode_points(points, normals, batch, shape_index)[0])
        posterior = model.encode(points, normals, batch, shape_index)
        data.compare("mean", posterior.mean)
        data.compare("logvar", posterior.logvar)


def test_decoder_trunk():
    model = tiny().model
    with golden("tiny/decoder_trunk") as data, inputs_and_outputs(model) as seen:
        out = model.decoder.run(tiny().latent, tiny().batch)
        data.compare("x_in", seen["decoder.blocks.0"][0])
        data.compare("block0", seen["decoder.blocks.0"][1])
        data.compare("block1", out)


def compare_levels(data: Golden, decoded: Decoded) -> None:
    for number, level in enumerate(decoded.levels):
        data.compare(f"up{number}_coords", with_shape_index(level.batch))
        data.compare(f"up{number}_logits", level.occupancy_logits[:, None])


@pytest.fixture
def pruned(monkeypatch) -> tuple[Decoded, dict]:
    data = Golden("tiny/decode_whole_prune")
    follow(monkeypatch, iter([data.kept(0), data.kept(1)]))
    with inputs_and_outputs(tiny().model) as seen:
        return tiny().model.decode_trunk(tiny().trunk_features, tiny().batch), seen


def test_pruning_decode(pruned):
    decoded, seen = pruned
    with golden("tiny/decode_whole_prune") as data:
        compare_levels(data, decoded)
        for number, level in enumerate(decoded.levels):
            data.compare(f"up{number}_h", seen[f"decoder.upsample.{number}.pruning_head"][0])
            data.compare(f"up{number}_kept_coords", with_shape_index(level.kept_batch()))
        data.compare("coords", with_shape_index(decoded.batch))
        data.compare("feats", decoded.features)
        mesh = sf.extract_mesh(decoded.flex())
        assert_same_mesh(mesh, data["verts"], data["faces"])
        np.testing.assert_allclose(np.sort(mesh.l_dev.numpy()), np.sort(data["L_dev"]), atol=1e-5)
        assert float(data["con_loss"]) == 0  # the reference leaves it out of inference; the next test has it


def test_training_mesh(pruned):
    with golden("tiny/decode_whole_prune_trainmesh") as data:
        flex = pruned[0].flex()
        mesh = sf.extract_mesh(flex, training=True)
        assert_same_mesh(mesh, data["verts"], data["faces"])
        np.testing.assert_allclose(np.sort(mesh.l_dev.numpy()), np.sort(data["L_dev"]), atol=1e-5)
        assert float(flex.consistency_loss) == pytest.approx(float(data["con_loss"]), rel=1e-4)


@pytest.fixture(scope="module")
def unpruned() -> Decoded:
    return tiny().model.decode_trunk(tiny().trunk_features, tiny().batch, prune=False)


def test_logits_in_training(unpruned):
    with golden("tiny/decode_whole_train_logits") as data:
        compare_levels(data, unpruned)
        for number, level in enumerate(unpruned.levels):
            sure = level.occupancy_logits.abs() > TOLERANCE
            assert torch.equal((level.occupancy_logits >= 0)[sure], torch.from_numpy(data.kept(number))[sure])
        data.compare("feats", unpruned.features)


def test_decode_without_pruning(unpruned):
    with golden("tiny/decode_whole_noprune") as data:
        data.compare("coords", with_shape_index(unpruned.batch))
        data.compare("feats", unpruned.features)
        np.testing.assert_allclose(unpruned.features.double().sum(0), data["feat_channel_sum"], rtol=1e-5, atol=0.1)
        compare_part_of_mesh(data, sf.extract_mesh(unpruned.flex()))


@pytest.mark.slow
def test_full_width(monkeypatch):
    """The release's own sizes, from points to the mesh."""
    model = full_width_model()
    with golden("full_width/golden") as data:
        batch = batch_of(data["voxels"], int(data["resolution"]))
        assert model.config.resolution == batch.resolution
        points, normals = points_and_normals(data)
        features, n_left_out = model.encode_points(points, normals, batch)
        assert n_left_out == 0
        data.compare("pc_feats", features)
        posterior = model.encoder.posterior(model.encoder.run(features, batch))
        data.compare("mean", posterior.mean)
        data.compare("logvar", posterior.logvar)
        data.compare("z", posterior.sample(torch.Generator().manual_seed(int(data["torch_seed"]))))
        trunk = model.decoder.run(torch.tensor(data["z"]), batch)
        data.compare("trunk", trunk)
        follow(monkeypatch, iter([data.kept(0), data.kept(1)]))
        decoded = model.decode_trunk(trunk, batch)
        compare_levels(data, decoded)
        data.compare("coords", with_shape_index(decoded.batch))
        data.compare("feats", decoded.features)
        np.testing.assert_allclose(decoded.features.double().sum(0), data["feat_channel_sum"], rtol=1e-5, atol=0.5)
        mesh = sf.extract_mesh(decoded.flex())
        assert_same_mesh(mesh, data["verts"], data["faces"])
        assert float(mesh.l_dev.double().mean()) == pytest.approx(float(data["L_dev_mean"]), rel=1e-4)
