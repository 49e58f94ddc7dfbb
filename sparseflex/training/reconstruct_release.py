"""A decode in the release's chunks, seen level by level: what each chunk that has a voxel in its share says of it."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparseflex.representation import N_CHANNELS, SparseFlex
from sparseflex.sparse import VoxelBatch
from sparseflex.training.reconstruct_settings import ReconstructSettings
from sparseflex.vae.config import UPSCALE
from sparseflex.vae.model import SparseFlexVAE
from sparseflex.vae.release_chunks import each_release_chunk
from sparseflex.voxels import SparseVoxels

_N_LEVELS = 2


class Judgement(NamedTuple):
    """Children of a level in a chunk's share, and their logits."""

    ijk: Int[Tensor, "n 3"]
    logits: Float[Tensor, "n"]


@dataclasses.dataclass(frozen=True, eq=False)
class ReleasePass:
    """flex: the surface, duplicates merged. judged: of each level what each chunk said; see decode_in_release_chunks,
    whose surface this is bit for bit."""

    flex: SparseFlex
    judged: tuple[tuple[Judgement, ...], ...]

    def logits(self, level: int, children: SparseVoxels) -> Float[Tensor, "children"]:
        """The highest logit that any chunk gave each child, as a voxel stays where any chunk keeps it; NaN where no
        chunk that has it in its share gives a number."""
        found = torch.full((children.n_voxels,), -torch.inf, device=children.device)
        seen = torch.zeros(children.n_voxels, dtype=torch.bool, device=children.device)
        for ijk, logits in self.judged[level - 1]:
            rows = children.find(ijk)
            there = (rows >= 0) & ~logits.isnan()
            found.scatter_reduce_(0, rows[there], logits[there], "amax")
            seen[rows[there]] = True
        return torch.where(seen, found, torch.nan)


def release_pass(
    model: SparseFlexVAE, trunk_features: Float[Tensor, "voxels channels"], batch: VoxelBatch,
    settings: ReconstructSettings,
) -> ReleasePass:
    """Decodes chunk by chunk. A chunk's share of a level are the children that its share of the surface is within."""
    judged: tuple[list[Judgement], ...] = tuple([] for _ in range(_N_LEVELS))
    ijk, features = [batch.voxel_ijk[:0]], [torch.zeros(0, N_CHANNELS, device=batch.device)]
    parts = each_release_chunk(model, trunk_features, batch, prune=settings.prune, thresholds=settings.thresholds)
    for _, chunk, decoded in parts:
        stays = chunk.keeps(decoded.batch.voxel_ijk)
        ijk.append(decoded.batch.voxel_ijk[stays])
        features.append(decoded.features[stays])
        for number, level in enumerate(decoded.levels):
            coarser = UPSCALE // 2 ** (number + 1)
            own = chunk.keeps(coarser * level.voxel_ijk)
            judged[number].append(Judgement(level.voxel_ijk[own], level.occupancy_logits[own]))
    flex = SparseFlex.merging_duplicates(torch.cat(ijk), UPSCALE * batch.resolution, torch.cat(features))
    return ReleasePass(flex, tuple(tuple(level) for level in judged))


def in_order_of(voxels: SparseVoxels, flex: SparseFlex) -> SparseFlex:
    """The same surface on the same voxels in another order."""
    rows = flex.voxels.find(voxels.voxel_ijk)
    return SparseFlex(voxels, flex.corner_sdf, flex.corner_deform, flex.alpha[rows], flex.beta[rows], flex.gamma[rows],
                      flex.consistency_loss)
