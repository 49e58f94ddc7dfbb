"""SectionGradients: what the last backward pass pulled on, as one number a corner or voxel of the whole set."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.training.fit_parameters import FitSection
from sparseflex.voxels import SparseVoxels

GRADIENT_FIELDS = {"sdf_grad": "corner", "deform_grad": "corner", "weights_grad": "voxel"}


@dataclasses.dataclass(frozen=True, eq=False)
class SectionGradients:
    """The gradients of a section after its backward pass, spread over the whole set only when one is read."""

    voxels: SparseVoxels
    section: dict[str, Tensor]
    voxel_rows: Tensor | None
    corner_rows: Tensor | None

    @classmethod
    def of(cls, voxels: SparseVoxels, section: FitSection) -> SectionGradients:
        return cls(voxels, section.gradients(), section.voxel_rows, section.corner_rows)

    def read(self, name: str) -> Float[Tensor, "rows"]:
        """Magnitude of the loss's gradient: `sdf_grad` (C,) by the SDF in voxel widths, `deform_grad` (C,) by the
        three raw deformations, `weights_grad` (N,) by the 21 raw weights of a voxel. Exactly 0 where nothing was
        active: there the loss does not depend on it. A gradient that is not finite stays so.
        """
        grad = self.section[name.removesuffix("_grad")]
        size = grad.abs() if grad.ndim == 1 else torch.linalg.vector_norm(grad, dim=1)
        of_corners = GRADIENT_FIELDS[name] == "corner"
        rows = self.corner_rows if of_corners else self.voxel_rows
        if rows is None:
            return size
        whole = size.new_zeros(self.voxels.n_corners if of_corners else self.voxels.n_voxels)
        return whole.index_copy_(0, rows.long(), size)
