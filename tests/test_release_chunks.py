"""The release's chunked decode: chunks, duplicates and mesh are the reference's, and nothing is lost at any size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from same_mesh import assert_same_mesh
from vae_goldens import TOLERANCE, Golden, compare_part_of_mesh, follow, golden, tiny

import sparseflex as sf
import sparseflex.vae.release_chunks
from sparseflex.sparse import VoxelBatch
from sparseflex.training.reconstruct_release import Judgement, ReleasePass
from sparseflex.vae import SparseFlexVAE
from sparseflex.vae.decoding import Level
from sparseflex.vae.release_chunks import (
    OVERLAP,
    ReleaseDecoded,
    decode_in_release_chunks,
    each_release_chunk,
    release_chunks,
)


def decisions(data: Golden) -> Iterator[np.ndarray | None]:
    """What the reference kept, chunk by chunk and level by level; where it skipped a chunk it noted nothing."""
    kept, start = [data.kept(0), data.kept(1)], [0, 0]
    for sizes in zip(data["up0_n"], data["up1_n"], strict=True):
        for level, size in enumerate(sizes):
            yield kept[level][start[level] : start[level] + size] if sizes[0] else None
            start[level] += size


def compare_chunks(data: Golden, batch: VoxelBatch) -> None:
    chunks = release_chunks(batch.sets[0])
    data.compare("chunk_n_in", np.array([len(chunk.rows) for chunk in chunks]))
    # the reference has offsets on the surface's grid, and voxels from there on the latents'
    data.compare("chunk_offsets", 4 * np.array([chunk.offset for chunk in chunks]))
    boxes = [np.stack([chunk.keep_low, chunk.keep_high], axis=1).reshape(6) for chunk in chunks]
    data.compare("chunk_keep_lo_hi", np.array(boxes))
    local = [batch.voxel_ijk[chunk.rows] - torch.tensor(chunk.offset) for chunk in chunks]
    data.compare("chunk_in_coords", torch.nn.functional.pad(torch.cat(local), (1, 0)))


def compare_rows(data: Golden, decoded: ReleaseDecoded) -> None:
    """In the same order, duplicates and all."""
    data.compare("coords", torch.cat([decoded.shape_index[:, None], decoded.voxel_ijk], dim=1))
    data.compare("feats", decoded.features)


def tiny_trunk():
    return tiny().model, tiny().trunk_features, tiny().batch


class Pruned(NamedTuple):
    decoded: ReleaseDecoded
    levels: list[tuple[Level, ...]]
    """Of each chunk."""


@pytest.fixture(scope="module")
def pruned() -> Pruned:
    """The pruning decode, and what it saw of each chunk."""
    levels = []

    def noting(*arguments, **options):
        for shape, chunk, decoded in each_release_chunk(*arguments, **options):
            levels.append(decoded.levels)
            yield shape, chunk, decoded

    with pytest.MonkeyPatch.context() as patch:
        follow(patch, decisions(Golden("tiny/decode_official_chunked_prune")))
        patch.setattr(sparseflex.vae.release_chunks, "each_release_chunk", noting)
        return Pruned(decode_in_release_chunks(*tiny_trunk()), levels)


@pytest.fixture(scope="module")
def unpruned() -> ReleaseDecoded:
    return decode_in_release_chunks(*tiny_trunk(), prune=False)


def test_pruning_decode(pruned):
    decoded = pruned.decoded
    with golden("tiny/decode_official_chunked_prune") as data:
        compare_chunks(data, tiny().batch)
        skipped = [number for number, levels in enumerate(pruned.levels) if levels[0].n_kept == 0]
        assert skipped == data["chunk_skipped"].tolist()
        for number in (0, 1):
            levels = [chunk[number] for chunk in pruned.levels if chunk[0].n_kept]
            sizes = [chunk[number].batch.n_voxels if chunk[0].n_kept else 0 for chunk in pruned.levels]
            data.compare(f"up{number}_n", np.array(sizes))
            data.compare(f"up{number}_logits", torch.cat([level.occupancy_logits for level in levels])[:, None])
            kept = torch.cat([level.kept for level in levels]).numpy()
            assert np.array_equal(data.kept(number)[: len(kept)], kept)
        compare_rows(data, decoded)
        assert decoded.resolution == 128 and len(torch.unique(decoded.voxel_ijk, dim=0)) < len(decoded.voxel_ijk)
        mesh = sf.extract_mesh(decoded.flex())
        assert_same_mesh(mesh, data["verts"], data["faces"])
        assert float(mesh.l_dev.double().mean()) == pytest.approx(float(data["L_dev_mean"]), rel=1e-4)


def test_decode_without_pruning(unpruned):
    with golden("tiny/decode_official_chunked_noprune") as data:
        compare_chunks(data, tiny().batch)
        compare_rows(data, unpruned)
        mesh = sf.extract_mesh(unpruned.flex())
        compare_part_of_mesh(data, mesh)
        assert float(mesh.l_dev.double().mean()) == pytest.approx(float(data["L_dev_mean"]), rel=1e-4)
        assert data["chunk_skipped"].size == 0


def test_it_differs_from_the_whole_decode(unpruned):
    """Which is why it is a switch: the norms see other voxels."""
    whole = tiny().model.decode_trunk(tiny().trunk_features, tiny().batch, prune=False)
    rows = whole.batch.sets[0].find(unpruned.voxel_ijk)
    assert bool((rows >= 0).all()) and len(torch.unique(rows)) == whole.batch.n_voxels
    assert float((unpruned.features - whole.features[rows]).abs().max()) > 1000 * TOLERANCE


def test_levels_without_pruning_are_all_children(unpruned):
    whole = tiny().model.decode_trunk(tiny().trunk_features, tiny().batch, prune=False)
    for level, expected in zip(unpruned.levels, whole.levels, strict=True):
        assert torch.equal(level.voxel_ijk, expected.voxel_ijk) and bool(level.kept.all())
        assert level.features.shape == expected.features.shape


def test_levels_are_what_cores_decided(pruned):
    """Slow twin: for every voxel the chunk whose core has it, one after the other."""
    parents = tiny().batch
    for number, level in enumerate(pruned.decoded.levels):
        found = {}
        for chunk, levels in zip(release_chunks(tiny().batch.sets[0]), pruned.levels, strict=True):
            own, place = levels[number], 0
            columns = own.voxel_ijk.tolist(), own.occupancy_logits.tolist(), own.kept.tolist()
            for ijk, logit, kept in zip(*columns, strict=True):
                latent = [i // 2 ** (number + 1) for i in ijk]
                if all(low // 4 <= i < low // 4 + 8 for i, low in zip(latent, chunk.keep_low, strict=True)):
                    found[tuple(ijk)] = logit, kept, own.features[place] if kept else None
                place += kept
        assert torch.equal(level.voxel_ijk, parents.subdivide().voxel_ijk) and len(found) == level.batch.n_voxels
        rows = [found[tuple(ijk)] for ijk in level.voxel_ijk.tolist()]
        assert level.occupancy_logits.tolist() == [logit for logit, _, _ in rows]
        assert level.kept.tolist() == [kept for _, kept, _ in rows]
        assert torch.equal(level.features, torch.stack([features for _, kept, features in rows if kept]))
        parents = level.kept_batch()


def test_logits_of_the_merged_voxels(pruned):
    decoded = pruned.decoded
    last = dict(zip(map(tuple, decoded.voxel_ijk.tolist()), decoded.occupancy_logits.tolist(), strict=True))
    assert decoded.flex_logits().tolist() == [last[tuple(ijk)] for ijk in decoded.flex().voxels.voxel_ijk.tolist()]
    assert float(decoded.occupancy_logits.min()) > -TOLERANCE


def part_of_tiny(n_voxels: int = 30):
    model, features, batch = tiny_trunk()
    return model, features[:n_voxels], batch.take(torch.arange(n_voxels))


@pytest.mark.parametrize("resolution", [1, 2, 3, 5, 8, 13, 32, 50])
def test_every_voxel_of_the_surface_stays(resolution):
    """Once in its own core, and again in those before it along each axis in which it is among the first three."""
    ijk = torch.randint(0, resolution, (300, 3), generator=torch.Generator().manual_seed(resolution)).unique(dim=0)
    voxels = sf.SparseVoxels(ijk[torch.randperm(len(ijk))], resolution)
    children = voxels.subdivide().subdivide()
    chunks = release_chunks(voxels)
    times = torch.zeros(children.n_voxels, dtype=torch.int64)
    for chunk in chunks:
        mine = torch.zeros(voxels.n_voxels, dtype=torch.bool)
        mine[chunk.rows] = True
        # by definition: nothing else than the core's voxels and those up to OVERLAP beyond it
        core = -(-resolution // 4)
        low = torch.tensor(chunk.keep_low) // 4
        beyond = torch.maximum(low - voxels.voxel_ijk, voxels.voxel_ijk - (low + core - 1)).amax(1)
        assert torch.equal(mine, beyond <= OVERLAP)
        times += chunk.keeps(children.voxel_ijk) & mine.repeat_interleave(64)
    first = (children.voxel_ijk % (4 * core) < 3) & (children.voxel_ijk >= 4 * core)
    assert torch.equal(times, 2 ** first.sum(1))


def test_shapes_of_a_batch_are_apart():
    """One after the other, each as if alone; a shape without voxels gives no rows."""
    model, features, batch = part_of_tiny()
    voxels, first = batch.sets[0], torch.arange(batch.n_voxels) < 12
    sets = voxels.prune(first), voxels.prune(first & ~first), voxels.prune(~first)
    together = decode_in_release_chunks(model, features, VoxelBatch(sets), prune=False)
    assert sorted(set(together.shape_index.tolist())) == [0, 2]
    for shape, rows in ((0, first), (2, ~first)):
        alone = decode_in_release_chunks(model, features[rows], VoxelBatch((sets[shape],)), prune=False)
        own = together.shape_index == shape
        assert torch.equal(together.voxel_ijk[own], alone.voxel_ijk)
        assert torch.equal(together.features[own], alone.features)
        for level, expected in zip(together.levels, alone.levels, strict=True):
            mine = level.batch.split(level.occupancy_logits)[shape]
            assert torch.equal(level.batch.sets[shape].voxel_ijk, expected.voxel_ijk)
            assert torch.equal(mine, expected.occupancy_logits)
        assert torch.equal(together.flex(shape).corner_sdf, alone.flex().corner_sdf)
    assert together.flex(1).voxels.n_voxels == 0 and sf.extract_mesh(together.flex(1)).n_faces == 0


def test_nothing_in_or_nothing_left_is_no_error():
    model, features, batch = part_of_tiny()
    none = batch.prune(torch.zeros(batch.n_voxels, dtype=torch.bool))
    for decoded in (decode_in_release_chunks(model, features[:0], none),
                    decode_in_release_chunks(model, features, batch, thresholds=(1e9, 0.0)),
                    decode_in_release_chunks(model, features, batch, thresholds=(0.0, 1e9))):
        assert decoded.features.shape == (0, 53) and decoded.flex().voxels.resolution == 128
        assert decoded.levels[1].features.shape == (0, 32) and len(decoded.flex_logits()) == 0


def test_half_precision_stays_in_the_levels():
    """Features between the levels have the networks' type, the surface's channels are float32."""
    model, features, batch = part_of_tiny(4)
    half = SparseFlexVAE(model.config).requires_grad_(False).bfloat16()
    decoded = decode_in_release_chunks(half, features.bfloat16(), batch, prune=False)
    assert {level.features.dtype for level in decoded.levels} == {torch.bfloat16}
    assert decoded.features.dtype == decoded.occupancy_logits.dtype == torch.float32


def test_a_chunk_that_gives_a_childs_logit_as_nan_leaves_the_word_to_the_others() -> None:
    def said(ijk: list[list[int]], logits: list[float]) -> Judgement:
        return Judgement(torch.tensor(ijk, dtype=torch.int32), torch.tensor(logits))

    children = sf.SparseVoxels(torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]), 8)
    a, b, c, _ = children.voxel_ijk.tolist()
    judged = (said([a, b, c], [np.nan, 1.0, np.nan]), said([a, b], [-2.0, 3.0]))
    nothing = sf.SparseFlex.merging_duplicates(children.voxel_ijk[:0], 8, torch.zeros(0, 53))
    found = ReleasePass(nothing, (judged, ())).logits(1, children)
    torch.testing.assert_close(found, torch.tensor([-2.0, 3.0, np.nan, np.nan]), equal_nan=True)
