"""Upsampling and pruning of a whole level, or of the same level in chunks of bounded memory with equal results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.sparse import Statistics, VoxelBatch, group_statistics
from sparseflex.vae.upsampling import Upsampled, Upsampling

N_LEVELS = 2
_MORTON_BITS = 21
_SLAB_BYTES = 40_000_000  # beyond what malloc takes from its heap (32 MiB)


@dataclasses.dataclass(frozen=True, eq=False)
class Level:
    """What one upsampling decided: all children of the level before, and which of them were kept.

    batch: the children, rows 8·i + c for child c of parent i. features: of the kept ones alone, in the same order.
    Kept are those whose occupancy logit reaches the threshold, all of them where prune was off.
    """

    batch: VoxelBatch
    occupancy_logits: Float[Tensor, "children"]
    kept: Bool[Tensor, "children"]
    threshold: float
    features: Float[Tensor, "kept channels"]

    @property
    def voxel_ijk(self) -> Int[Tensor, "children 3"]:
        return self.batch.voxel_ijk

    @property
    def n_kept(self) -> int:
        return int(self.kept.sum())

    def kept_batch(self) -> VoxelBatch:
        """The kept children as voxel sets of their own: the parents of the next level."""
        return self.batch.prune(self.kept)


def decide(logits: Float[Tensor, "children"], prune: bool, threshold: float) -> Bool[Tensor, "children"]:
    """Which children are kept; a NaN logit keeps none."""
    return logits >= threshold if prune else torch.ones_like(logits, dtype=torch.bool)


def check_decode(thresholds: Sequence[float], chunk_voxels: int | None) -> None:
    """Raises ValueError unless these are a number for each level, and a whole number of voxels or None."""
    if not hasattr(thresholds, "__len__") or len(thresholds) != N_LEVELS:
        got = len(thresholds) if hasattr(thresholds, "__len__") else repr(thresholds)
        raise ValueError(f"thresholds must be {N_LEVELS} numbers, got {got}")
    for threshold in thresholds:
        if not hasattr(threshold, "__float__") or math.isnan(threshold):
            raise ValueError(f"thresholds must be {N_LEVELS} numbers, got {threshold!r} among them")
    if chunk_voxels is not None:
        _check_chunk(chunk_voxels)


def _check_chunk(chunk_voxels: int) -> None:
    if not isinstance(chunk_voxels, int) or isinstance(chunk_voxels, bool) or chunk_voxels < 1:
        raise ValueError(f"chunk_voxels must be a whole number of at least 1, got {chunk_voxels!r}")


def upsample(
    block: Upsampling, x: Float[Tensor, "parents in"], parents: VoxelBatch, chunk_voxels: int | None = None,
) -> Upsampled:
    """All children's features and logits; in chunks of at most chunk_voxels parents where that is given.

    The normalisations go over all voxels of a shape either way, so that chunks give what the whole gives, up to
    rounding. Beyond x and the result a chunk needs memory for its own parents and one ring of neighbours.
    """
    if chunk_voxels is not None:
        _check_chunk(chunk_voxels)
    if chunk_voxels is None or chunk_voxels >= parents.n_voxels:
        return block(x, parents)
    features = x.new_empty(8 * parents.n_voxels, block.skip_connection.conv.weight.shape[0])
    logits = torch.zeros(8 * parents.n_voxels, device=x.device)
    for rows, part in upsampled_chunks(block, x, parents, chunk_voxels):
        features[rows], logits[rows] = part
    return Upsampled(features, logits)


def upsample_and_prune(
    block: Upsampling, x: Float[Tensor, "parents in"], parents: VoxelBatch, *, prune: bool = True,
    threshold: float = 0.0, chunk_voxels: int | None = None,
) -> Level:
    """One level. In chunks, features of children that are not kept are never held at once."""
    children = parents.subdivide()
    if not prune or chunk_voxels is None or chunk_voxels >= parents.n_voxels:
        features, logits = upsample(block, x, parents, chunk_voxels)
        kept = decide(logits, prune, threshold)
        return Level(children, logits, kept, threshold, features if bool(kept.all()) else features[kept])
    _check_chunk(chunk_voxels)
    logits = torch.zeros(children.n_voxels, device=x.device)
    found = _Slabs()
    for rows, (features, own_logits) in upsampled_chunks(block, x, parents, chunk_voxels):
        logits[rows] = own_logits
        stays = decide(own_logits, prune, threshold)
        found.append(rows[stays], features[stays])
    kept = decide(logits, prune, threshold)
    place = kept.cumsum(0) - 1
    # empty: memory is taken row by row, while that of the slabs is given back
    features = x.new_empty(int(kept.sum()), block.skip_connection.conv.weight.shape[0])
    for rows, own in found.emptied():
        features[place[rows]] = own
    return Level(children, logits, kept, threshold, features)


class _Slabs:
    """Rows that come in pieces, held in slabs so large that each goes back to the system when it is given up: pieces of
    their own would stay in the heap, and features be there twice."""

    def __init__(self) -> None:
        self._slabs: list[tuple[list[Tensor], Tensor]] = []
        self._free = 0

    def append(self, rows: Int[Tensor, "n"], values: Float[Tensor, "n channels"]) -> None:
        while len(rows):
            if self._free == 0:
                self._free = max(_SLAB_BYTES // (values.shape[1] * values.element_size()), 1)
                self._slabs.append(([], values.new_empty(self._free, values.shape[1])))
            known, slab = self._slabs[-1]
            n = min(self._free, len(rows))
            start = slab.shape[0] - self._free
            slab[start : start + n] = values[:n]
            known.append(rows[:n])
            self._free -= n
            rows, values = rows[n:], values[n:]

    def emptied(self) -> Iterator[tuple[Int[Tensor, "n"], Float[Tensor, "n channels"]]]:
        """All of them, slab after slab, each given up before the next one comes."""
        while self._slabs:
            known, slab = self._slabs.pop()
            rows = torch.cat(known)
            yield rows, slab[: len(rows)]
            del slab


def upsampled_chunks(
    block: Upsampling, x: Float[Tensor, "parents in"], parents: VoxelBatch, chunk_voxels: int
) -> Iterator[tuple[Int[Tensor, "own"], Upsampled]]:
    """The rows of some children with their features and logits, chunk after chunk, each child once.

    Two passes: the first adds up the statistics of what the first convolution gives, the second needs them.
    """
    chunks = chunk_rows(parents, chunk_voxels)
    before = group_statistics(x, parents, block.act_layers[0].groups)
    between: Statistics | None = None
    for own in chunks:
        rows, inner = _with_ring(parents, own)
        hidden = block.first(x[rows], parents.take(rows), before)[_children_of(inner)]
        found = group_statistics(hidden, parents.take(own).subdivide(), block.out_layers[1].groups)
        between = found if between is None else between + found
    for own in chunks:
        rows, inner = _with_ring(parents, own)
        part, values = parents.take(rows), x[rows]
        features = block.second(values, block.first(values, part, before), part, part.subdivide(), between)
        features = features[_children_of(inner)]
        yield _children_of(own), Upsampled(features, block.judge(features))


def chunk_rows(parents: VoxelBatch, chunk_voxels: int) -> list[Int[Tensor, "own"]]:
    """Ascending rows of compact pieces of at most chunk_voxels, cut along a Morton curve; each row is in one."""
    order = torch.argsort(_morton(parents.voxel_ijk), stable=True)
    return [rows.sort().values for rows in order.split(chunk_voxels)]


def _morton(ijk: Int[Tensor, "voxels 3"]) -> Int[Tensor, "voxels"]:
    key = torch.zeros(len(ijk), dtype=torch.int64, device=ijk.device)
    for bit in range(_MORTON_BITS):
        for axis in range(3):
            key |= (ijk[:, axis].long() >> bit & 1) << (3 * bit + 2 - axis)
    return key


def _with_ring(
    parents: VoxelBatch, own: Int[Tensor, "own"]
) -> tuple[Int[Tensor, "near"], Int[Tensor, "own"]]:
    """Ascending rows of these voxels and all that touch one of them, and where among them these are."""
    near = parents.neighbours.index_select(1, own).reshape(-1)
    rows = torch.unique(near[near >= 0]).long()
    return rows, torch.searchsorted(rows, own)


def _children_of(rows: Int[Tensor, "rows"]) -> Int[Tensor, "children"]:
    return (8 * rows[:, None] + torch.arange(8, device=rows.device)).reshape(-1)
