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
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.representation import N_CHANNELS, SparseFlex
from sparseflex.sparse import VoxelBatch
from sparseflex.vae.config import UPSCALE
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


@dataclasses.dataclass(frozen=True, eq=False)
class ReleaseDecoded:
    """53 channels (float32) a row, chunk after chunk; at a border a voxel has a row of each chunk that kept it."""

    resolution: int
    voxel_ijk: Int[Tensor, "rows 3"]
    features: Float[Tensor, "rows 53"]
    shape_index: Int[Tensor, "rows"]

    def flex(self, shape: int = 0) -> SparseFlex:
        """One shape's surface, its duplicates merged as the release's extraction does."""
        own = self.shape_index == shape
        return SparseFlex.merging_duplicates(self.voxel_ijk[own], self.resolution, self.features[own])


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
    ijk = [torch.zeros(0, 3, dtype=torch.int32, device=batch.device)]
    features = [torch.zeros(0, N_CHANNELS, device=batch.device)]
    shapes = [torch.zeros(0, dtype=torch.int64, device=batch.device)]
    for shape, chunk, decoded in each_release_chunk(model, trunk_features, batch, prune=prune, thresholds=thresholds):
        stays = chunk.keeps(decoded.batch.voxel_ijk)
        ijk.append(decoded.batch.voxel_ijk[stays])
        features.append(decoded.features[stays])
        shapes.append(torch.full((len(ijk[-1]),), shape, dtype=torch.int64, device=batch.device))
    return ReleaseDecoded(UPSCALE * batch.resolution, torch.cat(ijk), torch.cat(features), torch.cat(shapes))
