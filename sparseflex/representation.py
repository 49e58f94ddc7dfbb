"""SparseFlex: signed distances, deformations and interpolation weights on sparse voxels (paper, section 3.1)."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.voxels import SparseVoxels

N_CHANNELS = 53
N_WEIGHTS = 21
"""Raw weights of a voxel: 12 for β (edges), 8 for α (corners), 1 for γ."""

_DEFORM_REACH = 1 - 1e-8  # the release's factor; corners never quite reach half a voxel


def activate_weights(
    raw: Float[Tensor, "N 21"],
) -> tuple[Float[Tensor, "N 8"], Float[Tensor, "N 12"], Float[Tensor, "N"]]:
    """alpha, beta = 0.99·tanh + 1 and gamma = 0.99·sigmoid + 0.005, from the layout beta, alpha, gamma."""
    near_one = 0.99 * torch.tanh(raw[:, :20]) + 1
    return near_one[:, 12:], near_one[:, :12], 0.99 * torch.sigmoid(raw[:, 20]) + 0.005


def _corner_values(
    voxels: SparseVoxels, features: Float[Tensor, "M 53"], corners_of_row: Int[Tensor, "M 8"]
) -> tuple[Float[Tensor, "C"], Float[Tensor, "C 3"], Float[Tensor, ""]]:
    """Each corner's mean SDF and deformation over the rows that have it; their mean squared deviation from it."""
    sdf = features[:, :8] * (4 / voxels.resolution) - 1 / voxels.resolution
    values = torch.cat([sdf[..., None], features[:, 8:32].unflatten(1, (8, 3))], dim=2)  # (M, 8, 4)
    rows = corners_of_row.reshape(-1).long()
    ones = torch.ones(len(rows), dtype=features.dtype, device=features.device)
    count = torch.zeros(voxels.n_corners, dtype=features.dtype, device=features.device).index_add_(0, rows, ones)
    total = features.new_zeros(voxels.n_corners, 4).index_add(0, rows, values.reshape(-1, 4))
    mean = total / count[:, None]
    if voxels.n_voxels:
        consistency = (values.reshape(-1, 4) - mean.index_select(0, rows)).square().mean()
    else:
        consistency = features.sum()  # an empty sum keeps the graph whole
    return mean[:, 0], mean[:, 1:], consistency


@dataclasses.dataclass(frozen=True, eq=False)
class SparseFlex:
    """The parameters of a surface on N voxels with C corners; differentiable in all of them.

    corner_sdf: (C,), negative inside. corner_deform: (C, 3) before tanh. alpha: (N, 8), beta: (N, 12), gamma: (N,)
    after activation. consistency_loss: scalar, mean squared deviation of the voxels' own corner values from their
    mean; 0 where corners hold the values themselves. Raises ValueError where shapes don't fit the voxels.
    """

    voxels: SparseVoxels
    corner_sdf: Float[Tensor, "C"]
    corner_deform: Float[Tensor, "C 3"]
    alpha: Float[Tensor, "N 8"]
    beta: Float[Tensor, "N 12"]
    gamma: Float[Tensor, "N"]
    consistency_loss: Float[Tensor, ""]

    def __post_init__(self) -> None:
        n, c = self.voxels.n_voxels, self.voxels.n_corners
        shapes = {"corner_sdf": (c,), "corner_deform": (c, 3), "alpha": (n, 8), "beta": (n, 12), "gamma": (n,)}
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(getattr(self, name).shape)}")

    @classmethod
    def from_features(cls, voxels: SparseVoxels, features: Float[Tensor, "N 53"]) -> SparseFlex:
        """From a network's 53 channels a voxel: SDF 0:8, deform 8:32 (8×3), beta 32:44, alpha 44:52, gamma 52.

        A corner's SDF (raw·4/R − 1/R) and pre-tanh deformation are the means over the voxels that share it.
        """
        if tuple(features.shape) != (voxels.n_voxels, N_CHANNELS):
            raise ValueError(f"features must have shape ({voxels.n_voxels}, {N_CHANNELS}), got {tuple(features.shape)}")
        sdf, deform, consistency = _corner_values(voxels, features, voxels.voxel_corners)
        return cls(voxels, sdf, deform, *activate_weights(features[:, 32:]), consistency)

    @classmethod
    def merging_duplicates(
        cls, voxel_ijk: Int[Tensor, "M 3"], resolution: int, features: Float[Tensor, "M 53"]
    ) -> SparseFlex:
        """As from_features, for rows of which several may be one voxel: what the release's chunks make.

        Corner values are means over all M rows, and so is consistency_loss; alpha, beta and gamma are those of a
        voxel's last row. Its voxels are sorted, each once.
        """
        if tuple(features.shape) != (voxel_ijk.shape[0], N_CHANNELS):
            raise ValueError(
                f"features must have shape ({voxel_ijk.shape[0]}, {N_CHANNELS}), got {tuple(features.shape)}"
            )
        voxels, voxel_of_row = SparseVoxels.merging_duplicates(voxel_ijk, resolution)
        rows = torch.arange(len(voxel_of_row), device=features.device)
        last = rows.new_zeros(voxels.n_voxels).scatter_reduce(0, voxel_of_row, rows, "amax")
        corners_of_row = voxels.voxel_corners.index_select(0, voxel_of_row)
        sdf, deform, consistency = _corner_values(voxels, features, corners_of_row)
        return cls(voxels, sdf, deform, *activate_weights(features[:, 32:].index_select(0, last)), consistency)

    @classmethod
    def from_sdf(cls, voxels: SparseVoxels, corner_sdf: Float[Tensor, "C"]) -> SparseFlex:
        """Undeformed corners with all weights at their middle: alpha = beta = 1, gamma = 0.5."""
        n, c, new = voxels.n_voxels, voxels.n_corners, corner_sdf.new_ones
        return cls(voxels, corner_sdf, 0 * new(c, 3), new(n, 8), new(n, 12), 0.5 * new(n), 0 * new(()))

    def corner_positions(self) -> Float[Tensor, "C 3"]:
        """Deformed corners in world space: c/R − 0.5 + (1 − 1e-8)/(2R)·tanh(deform)."""
        resolution = self.voxels.resolution
        lattice = self.voxels.corner_ijk.to(self.corner_deform.dtype) / resolution - 0.5
        return lattice + _DEFORM_REACH / (2 * resolution) * torch.tanh(self.corner_deform)

    def section(self, active: Bool[Tensor, "N"]) -> SparseFlex:
        """The active voxels alone, corner values unchanged (differentiable)."""
        voxels, rows, corners = self.voxels.section(active)
        return SparseFlex(
            voxels,
            self.corner_sdf.index_select(0, corners),
            self.corner_deform.index_select(0, corners),
            self.alpha.index_select(0, rows),
            self.beta.index_select(0, rows),
            self.gamma.index_select(0, rows),
            self.consistency_loss,
        )
