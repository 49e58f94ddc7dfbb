"""Decoding in exact chunks equals decoding whole; batches keep their shapes apart; nothing left is no error."""

from __future__ import annotations

import pytest
import torch

from sparseflex.extraction import extract_mesh
from sparseflex.sparse import VoxelBatch
from sparseflex.vae import SparseFlexVAE, VAEConfig, decoding
from sparseflex.vae.decoding import chunk_rows, upsample, upsample_and_prune
from sparseflex.voxels import SparseVoxels

SIZES = VAEConfig(resolution=16, hidden_channels=32, point_channels=64, model_channels=256, n_encoder_blocks=1,
                  n_decoder_blocks=1, n_heads=4, n_points=1000)


@pytest.fixture(scope="module")
def model() -> SparseFlexVAE:
    torch.manual_seed(3)
    return SparseFlexVAE(SIZES).eval().requires_grad_(False)


def ball(radius: float, resolution: int = 16) -> SparseVoxels:
    """A shell of voxels, in a shuffled order."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(resolution)] * 3, indexing="ij"), -1).reshape(-1, 3)
    distance = ((grid + 0.5) / resolution - 0.5).norm(dim=1)
    ijk = grid[(distance - radius).abs() < 0.9 / resolution]
    return SparseVoxels(ijk[torch.randperm(len(ijk), generator=torch.Generator().manual_seed(1))], resolution)


def latents(batch: VoxelBatch) -> torch.Tensor:
    return torch.randn(batch.n_voxels, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def batch() -> VoxelBatch:
    return VoxelBatch((ball(0.2), ball(0.1)))


def middle(model, batch) -> tuple[float, float]:
    """Thresholds that keep about half at each level."""
    first = model.decode(latents(batch), batch, thresholds=(-1e9, -1e9)).levels[0].occupancy_logits.median().item()
    second = model.decode(latents(batch), batch, thresholds=(first, -1e9)).levels[1].occupancy_logits.median().item()
    return first, second


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("chunk_voxels", [60, 400, 10**6])
def test_chunks_equal_the_whole(model, batch, prune, chunk_voxels):
    thresholds = middle(model, batch)
    whole = model.decode(latents(batch), batch, prune=prune, thresholds=thresholds)
    parts = model.decode(latents(batch), batch, prune=prune, thresholds=thresholds, chunk_voxels=chunk_voxels)
    for a, b, threshold in zip(whole.levels, parts.levels, thresholds, strict=True):
        assert torch.equal(a.voxel_ijk, b.voxel_ijk)
        assert (a.occupancy_logits - b.occupancy_logits).abs().max() < 1e-5
        sure = (a.occupancy_logits - threshold).abs() > 1e-5
        assert torch.equal(a.kept[sure], b.kept[sure])
        if not torch.equal(a.kept, b.kept):
            pytest.skip("a logit within rounding of the threshold fell to the other side")
    assert whole.batch.sizes == parts.batch.sizes and (whole.features - parts.features).abs().max() < 1e-5
    assert torch.equal(extract_mesh(whole.flex(1)).faces, extract_mesh(parts.flex(1)).faces)


def test_one_voxel_at_a_time(model):
    """The smallest chunk there is, on few voxels; norms over a chunk alone would give something else."""
    batch = VoxelBatch((ball(0.08),))
    x = model.decoder.run(latents(batch), batch)
    whole, parts = (upsample(model.decoder.upsample[0], x, batch, size) for size in (None, 1))
    assert (whole.features - parts.features).abs().max() < 1e-5
    alone = model.decoder.upsample[0](x[:1], batch.prune(torch.arange(batch.n_voxels) == 0))
    assert (whole.features[:8] - alone.features).abs().max() > 0.01


def test_chunks_part_the_voxels_compactly():
    batch = VoxelBatch((ball(0.35),))
    chunks = chunk_rows(batch, 50)
    assert torch.equal(torch.cat(chunks).sort().values, torch.arange(batch.n_voxels))
    assert max(len(rows) for rows in chunks) <= 50 and all(bool((rows.diff() > 0).all()) for rows in chunks)
    spread = [batch.voxel_ijk[rows].float().std(0).max() for rows in chunks]
    assert torch.stack(spread).median() < 0.7 * batch.voxel_ijk.float().std(0).max()
    for wrong in (0, -3):
        with pytest.raises(ValueError, match=f"chunk_voxels must be a whole number of at least 1, got {wrong!r}"):
            upsample_and_prune(None, torch.zeros(5, 2), batch, chunk_voxels=wrong)


@pytest.mark.parametrize(("wrong", "said"), [
    ({"thresholds": (0.0,)}, "thresholds must be 2 numbers, got 1"), ({"thresholds": 0.0}, "2 numbers, got 0.0"),
    ({"thresholds": (float("nan"), 0.0)}, "got nan among them"), ({"thresholds": (0.0, "a")}, "got 'a' among them"),
    ({"chunk_voxels": 2.5}, "chunk_voxels must be a whole number of at least 1, got 2.5"),
    ({"voxel_ijk": [[0, 0, 0]]}, r"voxel_ijk must be an \(N, 3\) integer tensor, got list"),
])
def test_bad_arguments_are_refused_before_anything_runs(model, monkeypatch, wrong, said):
    monkeypatch.setattr(type(model), "encode_points", None)
    points = torch.zeros(1, 3)
    with pytest.raises(ValueError, match=said):
        model.reconstruct(points, points + 1, **wrong)


def test_what_a_chunk_holds_is_bounded_by_it(model, monkeypatch):
    """No convolution of a chunk sees more rows than the chunk with its ring."""
    batch = VoxelBatch((ball(0.4),))
    x, seen = model.decoder.run(latents(batch), batch), []
    block = model.decoder.upsample[0]
    first = type(block).first
    monkeypatch.setattr(type(block), "first", lambda self, x, *rest: (seen.append(len(x)), first(self, x, *rest))[1])
    upsample_and_prune(block, x, batch, chunk_voxels=40)
    assert len(seen) == 2 * -(-batch.n_voxels // 40) and max(seen) <= 40 * 27 and max(seen) < batch.n_voxels / 2


def test_slabs_give_back_all_rows_whatever_pieces_they_come_in(monkeypatch):
    monkeypatch.setattr(decoding, "_SLAB_BYTES", 7 * 3 * 4)
    values, slabs, start = torch.arange(60.0).reshape(20, 3), decoding._Slabs(), 0
    for size in (1, 0, 5, 9, 4, 1):
        slabs.append(torch.arange(start, start + size), values[start : start + size])
        start += size
    found = torch.full_like(values, torch.nan)
    for rows, own in slabs.emptied():
        assert len(rows) <= 7
        found[rows] = own
    assert torch.equal(found, values) and not list(slabs.emptied())


def test_shapes_of_a_batch_do_not_meet(model, batch):
    both = model.decode(latents(batch), batch, prune=False)
    for number, voxels in enumerate(batch.sets):
        own = VoxelBatch((voxels,))
        alone = model.decode(batch.split(latents(batch))[number], own, prune=False)
        assert (both.batch.split(both.features)[number] - alone.features).abs().max() < 1e-4


@pytest.mark.parametrize("chunk_voxels", [None, 300])
def test_nothing_left_leaves_an_empty_mesh(model, batch, chunk_voxels):
    for thresholds, counts in (((1e9, 0.0), (0, 0)), ((-1e9, 1e9), (8 * batch.n_voxels, 0))):
        out = model.decode(latents(batch), batch, thresholds=thresholds, chunk_voxels=chunk_voxels)
        assert tuple(level.n_kept for level in out.levels) == counts
        assert len(out.levels[1].voxel_ijk) == 8 * counts[0] and out.features.shape == (0, 53)
        assert extract_mesh(out.flex()).n_faces == 0
    with pytest.raises(ValueError, match="thresholds must be 2 numbers, got 1"):
        model.decode(latents(batch), batch, thresholds=(0.0,))


def test_an_empty_chunk_is_nothing_special(model):
    """Two shells far apart, of which one is pruned whole: the chunks that held it just give nothing."""
    two = torch.cat([ball(0.08).voxel_ijk - 5, ball(0.08).voxel_ijk + 5])
    batch = VoxelBatch((SparseVoxels(two, 16),))
    x = model.decoder.run(latents(batch), batch)
    logits = upsample(model.decoder.upsample[0], x, batch).occupancy_logits
    half = len(logits) // 2
    threshold = float(logits[half:].min())
    level = upsample_and_prune(model.decoder.upsample[0], x, batch, threshold=threshold, chunk_voxels=9)
    assert level.n_kept == int((level.occupancy_logits >= threshold).sum()) == len(level.features)


def test_no_voxels_at_all(model):
    empty = VoxelBatch((SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 16),))
    out = model.decode(torch.zeros(0, 8), empty)
    assert out.features.shape == (0, 53) and extract_mesh(out.flex()).n_vertices == 0
    posterior = model.encode(torch.zeros(0, 3), torch.zeros(0, 3), empty)
    assert posterior.mean.shape == (0, 8) and float(posterior.kl()) == 0


def test_a_nan_is_never_kept(model, batch):
    x = model.decoder.run(latents(batch), batch)
    block = model.decoder.upsample[0]
    level = upsample_and_prune(block, torch.full_like(x, torch.nan), batch, threshold=-1e9)
    assert level.n_kept == 0


def test_gradients_reach_every_parameter(batch):
    torch.manual_seed(0)
    model = SparseFlexVAE(SIZES)
    points = torch.cat([voxels.centers for voxels in batch.sets])
    normals = torch.nn.functional.normalize(points, dim=1)
    with pytest.raises(ValueError, match="shape_index must be given for a batch of 2 shapes, got None"):
        model.encode(points, normals, batch)
    posterior = model.encode(points, normals, batch, batch.shape_index)
    out = model.decode(posterior.sample(torch.Generator().manual_seed(0)), batch, prune=False)
    flex = out.flex()
    loss = out.features.square().mean() + flex.consistency_loss + posterior.kl()
    (loss + sum(level.occupancy_logits.square().mean() for level in out.levels)).backward()
    lacking = [name for name, parameter in model.named_parameters() if parameter.grad is None
               or not bool(parameter.grad.abs().sum() > 0)]
    assert lacking == []
