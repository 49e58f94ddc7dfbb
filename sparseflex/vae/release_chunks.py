"""The release's way of decoding, in overlapping chunks each normalised on its own: a switch for compatibility.

What follows was read off the reference data alone (latents at R = 32, surface at 128; 43 of 64 chunks hold voxels), and
reproduces it. The latents' grid is cut into 4 cores an axis, each 8 voxels wide. A chunk holds the voxels of its core
and of 4 more on either side, as far as the grid goes. It is upsampled as if it were all there is: GroupNorm over the
chunk, no neighbours beyond it. Of the result those voxels stay that lie in [4·lo, 4·hi + 3), lo and hi the core's ends:
it reaches 3 voxels of the surface's grid into the next core, and there a voxel is found twice, or up to eight times
where cores meet. Chunks go z fastest; those without voxels are left out, and those that pruning empties give nothing
(the release stops there with an error).

The data can't tell how this goes on at another R. Assumed: 4 cores an axis whatever R is, each ceil(R / 4) wide, and
the same 4 and 3 voxels beyond it. Shapes of a batch are taken one after the other.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.representation import N_CHANNELS, SparseFlex
from sparseflex.sparse import VoxelBatch
from sparseflex.vae.config import UPSCALE
from sparseflex.vae.decoding import Level
from sparseflex.voxels import SparseVoxels

if TYPE_CHECKING:
    from sparseflex.vae.model import Decoded, SparseFlexVAE

CORES_PER_AXIS = 4
OVERLAP = 4
"""Latent voxels that a chunk has beyond its core on either side."""
KEPT_BEYOND = UPSCALE - 1
"""Voxels of the surface's grid beyond the core's upper end that stay in the result."""


@dataclasses.dataclass(frozen=True, eq=False)
class ReleaseChunk:
    """rows: of the latents' voxels in it. offset: the lattice point that the release counts its voxels from, on the
    latents' grid. Of the surface's voxels those stay with keep_low ≤ ijk < keep_high."""

    rows: Int[Tensor, "rows"]
    offset: tuple[int, int, int]
    keep_low: tuple[int, int, int]
    keep_high: tuple[int, int, int]

    def keeps(self, surface_ijk: Int[Tensor, "voxels 3"]) -> Bool[Tensor, "voxels"]:
        low, high = surface_ijk.new_tensor(self.keep_low), surface_ijk.new_tensor(self.keep_high)
        return ((surface_ijk >= low) & (surface_ijk < high)).all(dim=1)

    def has_in_core(self, voxel_ijk: Int[Tensor, "voxels 3"], scale: int) -> Bool[Tensor, "voxels"]:
        """Which of these lie in the chunk's core, of a grid scale times as fine as the latents'."""
        low, high = voxel_ijk.new_tensor(self.keep_low), voxel_ijk.new_tensor(self.keep_high) - KEPT_BEYOND
        return ((voxel_ijk >= low // UPSCALE * scale) & (voxel_ijk < high // UPSCALE * scale)).all(dim=1)


@dataclasses.dataclass(frozen=True, eq=False)
class ReleaseDecoded:
    """53 channels (float32) a row, chunk after chunk; at a border a voxel has a row of each chunk that kept it.

    occupancy_logits: what that chunk's last level said of it. levels: what each chunk decided within its own core, put
    together in the order of a whole decode: every child once, rows 8·i + c. What chunks found beyond their cores, and
    the surface has from them, is not in it.
    """

    resolution: int
    voxel_ijk: Int[Tensor, "rows 3"]
    features: Float[Tensor, "rows 53"]
    occupancy_logits: Float[Tensor, "rows"]
    shape_index: Int[Tensor, "rows"]
    levels: tuple[Level, ...]

    def flex(self, shape: int = 0) -> SparseFlex:
        """One shape's surface, its duplicates merged as the release's extraction does."""
        own = self.shape_index == shape
        return SparseFlex.merging_duplicates(self.voxel_ijk[own], self.resolution, self.features[own])

    def flex_logits(self, shape: int = 0) -> Float[Tensor, "voxels"]:
        """The occupancy logit of each voxel of flex(shape): that of its last row."""
        own = (self.shape_index == shape).nonzero().squeeze(1)
        voxels, voxel_of_row = SparseVoxels.merging_duplicates(self.voxel_ijk[own], self.resolution)
        last = torch.zeros_like(own[: voxels.n_voxels]).scatter_reduce(0, voxel_of_row, own, "amax")
        return self.occupancy_logits.index_select(0, last)


def release_chunks(voxels: SparseVoxels) -> list[ReleaseChunk]:
    """The chunks that hold any of these voxels (latents' grid), in the release's order."""
    core = -(-voxels.resolution // CORES_PER_AXIS)
    ijk, chunks = voxels.voxel_ijk, []
    for cell in itertools.product(range(CORES_PER_AXIS), repeat=3):
        low = ijk.new_tensor(cell) * core
        rows = ((ijk >= low - OVERLAP) & (ijk < low + core + OVERLAP)).all(dim=1).nonzero().squeeze(1)
        if len(rows):
            i, j, k = ((max(core * c - OVERLAP, 0), UPSCALE * core * c, UPSCALE * core * (c + 1) + KEPT_BEYOND)
                       for c in cell)
            chunks.append(ReleaseChunk(rows, *zip(i, j, k, strict=True)))
    return chunks


def each_release_chunk(
    model: SparseFlexVAE, trunk_features: Float[Tensor, "voxels channels"], batch: VoxelBatch, *, prune: bool = True,
    thresholds: Sequence[float] = (0.0, 0.0),
) -> Iterator[tuple[int, ReleaseChunk, Decoded]]:
    """Each chunk decoded on its own, with the shape it belongs to, before its border is cut off.

    Voxels keep their place on the whole grid: upsampling sees nothing but their distances.
    """
    for shape, (voxels, features) in enumerate(zip(batch.sets, batch.split(trunk_features), strict=True)):
        for chunk in release_chunks(voxels):
            part = SparseVoxels(voxels.voxel_ijk[chunk.rows], voxels.resolution)
            decoded = model.decode_trunk(
                features[chunk.rows], VoxelBatch((part,)), prune=prune, thresholds=thresholds
            )
            yield shape, chunk, decoded


def decode_in_release_chunks(
    model: SparseFlexVAE, trunk_features: Float[Tensor, "voxels channels"], batch: VoxelBatch, *, prune: bool = True,
    thresholds: Sequence[float] = (0.0, 0.0),
) -> ReleaseDecoded:
    """What the release's decoder gives from what its trunk gave, duplicates and all.

    thresholds: as in SparseFlexVAE.decode. Differs from the whole decode, by its normalisation most of all.
    """
    found = _Found(model, batch)
    for shape, chunk, decoded in each_release_chunk(model, trunk_features, batch, prune=prune, thresholds=thresholds):
        found.add(shape, chunk, decoded)
    return found.joined(thresholds)


class _Rows(NamedTuple):
    """Of the surface's voxels, or of a level's children in a core; children have a mark of whether they were kept."""

    shape_index: Int[Tensor, "rows"]
    voxel_ijk: Int[Tensor, "rows 3"]
    occupancy_logits: Float[Tensor, "rows"]
    kept: Bool[Tensor, "rows"]
    features: Float[Tensor, "kept channels"]

    @classmethod
    def of(cls, shape: int, level: Level, chosen: Bool[Tensor, "children"], features: Tensor | None = None) -> _Rows:
        """Some children, with the features of those that were kept."""
        features = level.features if features is None else features
        ijk = level.voxel_ijk[chosen]
        index = torch.full((len(ijk),), shape, dtype=torch.int64, device=ijk.device)
        return cls(index, ijk, level.occupancy_logits[chosen], level.kept[chosen], features[chosen[level.kept]])

    @classmethod
    def empty(cls, channels: int, device: torch.device, dtype: torch.dtype = torch.float32) -> _Rows:
        shape, ijk, logits = (torch.zeros(0, *more, device=device) for more in ((), (3,), ()))
        return cls(shape.long(), ijk.int(), logits, logits.bool(), logits.new_zeros(0, channels, dtype=dtype))


class _Found:
    """What chunks gave, until all are there."""

    def __init__(self, model: SparseFlexVAE, batch: VoxelBatch) -> None:
        self.batch = batch
        self.surface = [_Rows.empty(N_CHANNELS, batch.device)]
        self.cores = [[_Rows.empty(channels, batch.device, model.dtype)] for channels in model.config.level_channels]

    def add(self, shape: int, chunk: ReleaseChunk, decoded: Decoded) -> None:
        last = decoded.levels[-1]
        self.surface.append(_Rows.of(shape, last, last.kept & chunk.keeps(last.voxel_ijk), decoded.features))
        for rows, level in zip(self.cores, decoded.levels, strict=True):
            scale = level.batch.resolution // self.batch.resolution
            rows.append(_Rows.of(shape, level, chunk.has_in_core(level.voxel_ijk, scale)))

    def joined(self, thresholds: Sequence[float]) -> ReleaseDecoded:
        shapes, ijk, logits, _, features = map(torch.cat, zip(*self.surface, strict=True))
        levels, parents = [], self.batch
        for rows, threshold in zip(self.cores, thresholds, strict=True):
            levels.append(_whole_level(parents, _Rows(*map(torch.cat, zip(*rows, strict=True))), threshold))
            rows.clear()
            parents = levels[-1].kept_batch()
        return ReleaseDecoded(UPSCALE * self.batch.resolution, ijk, features, logits, shapes, tuple(levels))


def _whole_level(parents: VoxelBatch, found: _Rows, threshold: float) -> Level:
    """All children of the parents, each of which was found once, in any order."""
    children = parents.subdivide()
    rows, start = torch.zeros_like(found.shape_index), 0
    for shape, voxels in enumerate(children.sets):
        own = found.shape_index == shape
        rows[own] = start + voxels.find(found.voxel_ijk[own])
        start += voxels.n_voxels
    logits = found.occupancy_logits.new_zeros(len(rows)).index_copy(0, rows, found.occupancy_logits)
    kept = torch.zeros_like(found.kept).index_copy(0, rows, found.kept)
    return Level(children, logits, kept, threshold, found.features[rows[found.kept].argsort()])
