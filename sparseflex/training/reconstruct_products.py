"""What the stages of a pass through a SparseFlexVAE make, and their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.mesh import Mesh
from sparseflex.representation import SparseFlex
from sparseflex.sparse import VoxelBatch
from sparseflex.training.pruning import PruneEvent
from sparseflex.training.reconstruct_release import ReleasePass
from sparseflex.vae.colours import principal_colours
from sparseflex.vae.config import VAEConfig
from sparseflex.vae.diagnosis import Diagnosis
from sparseflex.vae.latent_edits import Edited
from sparseflex.vae.model import Posterior
from sparseflex.vae.preprocess import input_voxels
from sparseflex.voxels import SparseVoxels


def stage_names(config: VAEConfig) -> tuple[str, ...]:
    return ("points", "voxels", "point features",
            *(f"encoder {k}" for k in range(1, config.n_encoder_blocks + 1)), "latent",
            *(f"trunk {k}" for k in range(1, config.n_decoder_blocks + 1)),
            "upsample 1", "prune 1", "upsample 2", "prune 2", "head", "extract")


def trunk_stages(stages: Sequence[str]) -> list[str]:
    """Those that are blocks with attention."""
    return [stage for stage in stages if stage.startswith(("encoder ", "trunk "))]


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """An input: points with unit normals in the normalised frame, float32. voxels: where its latents are, or None for
    those that the points (and the mesh's triangles) touch."""

    points: Float[Tensor, "points 3"]
    normals: Float[Tensor, "points 3"]
    mesh: Mesh | None = None
    voxels: SparseVoxels | None = None

    def input_voxels(self, resolution: int) -> SparseVoxels:
        return input_voxels(self.points, resolution, self.mesh) if self.voxels is None else self.voxels


class Attention(NamedTuple):
    """What one row attends to: weights (heads, n) on n rows."""

    of_row: int
    rows: Int[Tensor, "n"]
    weights: Float[Tensor, "heads n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Latent:
    """The posterior on the latents' voxels (the other shape's where this one has none), and what is decoded."""

    posterior: Posterior
    edited: Edited


@dataclasses.dataclass(eq=False)
class Children:
    """All children of a level with their logits. held: those whose features are kept, all of them where None. release:
    the pass in the release's chunks that they are from; then there are no features."""

    logits: Float[Tensor, "children"]
    held: Bool[Tensor, "children"] | None
    release: ReleasePass | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """kept: of the level's children; logits: of the kept ones; event: of iteration 0."""

    children: VoxelBatch
    kept: Bool[Tensor, "children"]
    logits: Float[Tensor, "kept"]
    event: PruneEvent
    warning: str


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """occupancy_logit: of the voxels. mesh, and diagnosis of the points: once extracted."""

    flex: SparseFlex
    occupancy_logit: Float[Tensor, "voxels"]
    mesh: Mesh | None = None
    diagnosis: Diagnosis | None = None


@dataclasses.dataclass(eq=False)
class Product:
    """What a stage made. key: of what; token: what later keys know it by; features: None where they were dropped.

    colours and norms of the features are made when first asked for, or before the features are dropped.
    """

    key: tuple[Any, ...]
    batch: VoxelBatch | None = None
    features: Float[Tensor, "rows channels"] | None = None
    made: Any = None
    scalars: Mapping[str, float] = dataclasses.field(default_factory=dict)
    token: object = dataclasses.field(default_factory=object)
    attention: Attention | None = None
    colours: Float[Tensor, "rows 3"] | None = None
    norms: Float[Tensor, "rows"] | None = None

    @property
    def feature_bytes(self) -> int:
        return 0 if self.features is None else self.features.nbytes

    def show(self, features: Float[Tensor, "rows channels"], held: Bool[Tensor, "all"] | None = None) -> None:
        """Makes colours and norms; held: of which rows these are the features, NaN is for all others."""
        self.colours = principal_colours(features)
        self.norms = torch.linalg.vector_norm(features.float(), dim=1)
        if held is not None:
            self.colours, self.norms = _spread(self.colours, held), _spread(self.norms, held)


def posterior_on(voxels: SparseVoxels, first: SparseVoxels, own: Posterior, second: SparseVoxels,
                  others: Posterior) -> Posterior:
    """The first shape's where it has the voxel, else the second's."""
    rows, other_rows = first.find(voxels.voxel_ijk), second.find(voxels.voxel_ijk)
    has = (rows >= 0)[:, None]

    def chosen(a: Tensor, b: Tensor) -> Tensor:
        b = b[other_rows.clamp(min=0)] if len(b) else a.new_zeros(len(rows), a.shape[1])
        return torch.where(has, a[rows.clamp(min=0)], b) if len(a) else b

    return Posterior(chosen(own.mean, others.mean), chosen(own.logvar, others.logvar))


def _spread(values: Tensor, held: Bool[Tensor, "children"]) -> Tensor:
    """NaN for the rows that aren't held."""
    found = torch.full((len(held), *values.shape[1:]), torch.nan, device=values.device)
    found[held] = values
    return found
