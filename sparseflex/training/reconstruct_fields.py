"""Fields of a ReconstructRun: `STAGE/NAME` is what a stage made, a name alone belongs to the final surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparseflex.training.reconstruct_products import Product, trunk_stages
from sparseflex.training.reconstruct_stages import StageChain
from sparseflex.training.run import FieldKind
from sparseflex.vae.point_encoder import point_inputs

_SURFACE: dict[str, FieldKind] = {
    "voxels": "voxels", "corner_sdf": "corner", "corner_deform": "corner", "alpha": "voxel", "beta": "voxel",
    "gamma": "voxel", "occupancy_logit": "voxel", "mesh": "mesh",
}


def field_kinds(stages: Sequence[str], has_target: bool) -> dict[str, FieldKind]:
    """All fields of a run with these stages."""
    found = dict(_SURFACE)
    if has_target:
        found["target"] = "mesh"
    found |= {"points": "points", "point_cause": "point", "prune": "prune"}
    blocks = trunk_stages(stages)
    for stage in stages[stages.index("voxels") : stages.index("head")]:
        found[f"{stage}/voxels"] = "voxels"
        if stage == "voxels":
            found[f"{stage}/n_points"] = "voxel"
            continue
        if stage == "latent":
            found |= {f"{stage}/{name}": "voxel" for name in ("mean", "std", "latent", "edited")}
        if stage.startswith(("upsample", "prune")):
            found[f"{stage}/occupancy_logit"] = "voxel"
        if stage in blocks:
            found[f"{stage}/attention"] = "voxel"
        found |= {f"{stage}/pca": "voxel", f"{stage}/norm": "voxel"}
    return found


def read_product(chain: StageChain, stage: str, name: str) -> Any:
    """A stage's field; None where the stage hasn't made it."""
    product = chain.products.get(stage)
    if product is None:
        return None
    if name == "voxels":
        return product.batch.sets[0]
    if name in ("pca", "norm"):
        shown = chain.shown(stage)
        return None if shown is None else shown.colours if name == "pca" else shown.norms
    if name == "attention":
        return chain.attention(stage)
    if name == "n_points":
        return _points_in(chain, product)
    if name == "occupancy_logit":
        return product.made.logits
    posterior, edited = product.made.posterior, product.made.edited
    return {"mean": posterior.mean, "std": posterior.std, "latent": edited.latents.values, "edited": edited.moved}[name]


def read_surface(chain: StageChain, name: str) -> Any:
    """A field of the final surface; None where it isn't there yet."""
    head, extracted = chain.products.get("head"), chain.products.get("extract")
    if name in ("mesh", "point_cause"):
        return None if extracted is None else extracted.made.mesh if name == "mesh" else extracted.made.diagnosis.causes
    if head is None:
        return None
    made = head.made
    if name == "voxels":
        return made.flex.voxels
    return made.occupancy_logit if name == "occupancy_logit" else getattr(made.flex, name)


def _points_in(chain: StageChain, product: Product) -> Tensor:
    """How many points lie in each voxel, int32."""
    rows = point_inputs(chain.shape.points, chain.shape.normals, product.batch)[1]
    return torch.bincount(rows[rows >= 0], minlength=product.batch.n_voxels).to(torch.int32)
