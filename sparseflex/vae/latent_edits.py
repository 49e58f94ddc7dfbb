"""Edits of latents before they are decoded: replaced, interpolated between two shapes, with noise; in a region."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.voxels import SparseVoxels

NOTHING, ZEROS, RANDOM, OTHER = range(4)
"""What `replace` puts in place of latents: nothing, zeros, a sample of N(0, 1), those of the other shape."""


class Latents(NamedTuple):
    """A latent for each voxel of a set."""

    voxels: SparseVoxels
    values: Float[Tensor, "voxels latent"]


class Edited(NamedTuple):
    """What is decoded, and how far each voxel's latent was moved: the length of the difference from what the first
    shape has there, or at its nearest voxel."""

    latents: Latents
    moved: Float[Tensor, "voxels"]


@dataclasses.dataclass(frozen=True)
class LatentEdits:
    """Done in this order: replace, interpolate, noise.

    interpolate: 0 is the first shape, 1 the other one. noise: in units of each channel's own deviation over the shape.
    Everything stays within region_radius of region_centre (world units), anywhere where the radius is 0. seed: of all
    that is random.
    """

    replace: int = NOTHING
    interpolate: float = 0.0
    noise: float = 0.0
    region_centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    region_radius: float = 0.0
    seed: int = 0

    @property
    def need_other(self) -> bool:
        return self.replace == OTHER or self.interpolate > 0

    @property
    def key(self) -> tuple[float, ...]:
        """Equal for edits that come to the same."""
        if self.replace == NOTHING and self.interpolate == 0 and self.noise == 0:
            return ()
        region = (self.region_radius, *self.region_centre) if self.region_radius else (0.0,)
        seed = self.seed if self.replace == RANDOM or self.noise else 0
        return (self.replace, self.interpolate, self.noise, seed, *region)

    def within(self, voxels: SparseVoxels) -> Bool[Tensor, "voxels"]:
        """The voxels whose centre lies in the region."""
        if self.region_radius == 0:
            return torch.ones(voxels.n_voxels, dtype=torch.bool, device=voxels.device)
        offset = voxels.centers - torch.tensor(self.region_centre, device=voxels.device)
        return offset.square().sum(dim=1) <= self.region_radius**2

    def apply(self, first: Latents, other: Latents | None) -> Edited:
        """The edited latents. Where nothing moves them they are first's own tensors, and at interpolate 1 everywhere
        the other's. Raises ValueError where an edit needs another shape and there is none."""
        if self.need_other and other is None:
            wanted = f"replace {OTHER}" if self.replace == OTHER else f"interpolate {self.interpolate:g}"
            raise ValueError(f"{wanted} needs another shape, none is given")
        edited = first
        if self.replace != NOTHING:
            edited = self._replaced(first, other)
        if self.interpolate > 0:
            edited = self._interpolated(edited, other)
        if self.noise > 0:
            edited = self._with_noise(edited)
        if edited is first:
            return Edited(first, torch.zeros(first.voxels.n_voxels, device=first.values.device))
        before = first.values if edited.voxels is first.voxels else _values_at(first, edited.voxels)
        return Edited(edited, torch.linalg.vector_norm(edited.values - before, dim=1))

    def _replaced(self, first: Latents, other: Latents | None) -> Latents:
        if self.replace == ZEROS:
            new = torch.zeros_like(first.values)
        elif self.replace == RANDOM:
            new = _normal(first.values, self.seed)
        else:
            new = _values_at(other, first.voxels, first.values)
        return Latents(first.voxels, torch.where(self.within(first.voxels)[:, None], new, first.values))

    def _interpolated(self, first: Latents, other: Latents) -> Latents:
        inside, other_inside = self.within(first.voxels), self.within(other.voxels)
        if self.interpolate >= 1:
            if bool(other_inside.all()) and bool(inside.all()):
                return other
            parts = (Latents(first.voxels.prune(~inside), first.values[~inside]),
                     Latents(other.voxels.prune(other_inside), other.values[other_inside]))
            return _joined(*parts)
        new = other_inside & (first.voxels.find(other.voxels.voxel_ijk) < 0)
        voxels = first.voxels
        if bool(new.any()):
            keys = torch.cat([first.voxels.keys, other.voxels.keys[new]])
            voxels = SparseVoxels.from_keys(keys.sort().values, first.voxels.resolution)
        start = _values_at(first, voxels) if voxels is not first.voxels else first.values
        mixed = torch.lerp(start, _values_at(other, voxels, start), self.interpolate)
        return Latents(voxels, torch.where(self.within(voxels)[:, None], mixed, start))

    def _with_noise(self, latents: Latents) -> Latents:
        values = latents.values
        if len(values) == 0:
            return latents
        deviation = values.std(dim=0, correction=0)
        noisy = values + self.noise * deviation * _normal(values, self.seed + 1)
        return Latents(latents.voxels, torch.where(self.within(latents.voxels)[:, None], noisy, values))


def nearest_rows(voxels: SparseVoxels, ijk: Int[Tensor, "m 3"]) -> Int[Tensor, "m"]:
    """The row of the voxel nearest to each cell of the same grid, itself where it is there; -1 without any voxels."""
    rows = voxels.find(ijk)
    lacking = (rows < 0).nonzero().squeeze(1)
    if len(lacking) and voxels.n_voxels:
        from scipy.spatial import cKDTree

        tree = cKDTree(voxels.voxel_ijk.cpu().double().numpy())
        found = tree.query(ijk[lacking].cpu().double().numpy())[1]
        rows[lacking] = torch.as_tensor(found, dtype=rows.dtype).to(rows.device)
    return rows


def _values_at(
    latents: Latents, voxels: SparseVoxels, instead: Float[Tensor, "voxels latent"] | None = None
) -> Float[Tensor, "voxels latent"]:
    """Each voxel's latent, or that of the nearest voxel that has one; instead (or zeros) where none has."""
    if latents.voxels.n_voxels == 0:
        return latents.values.new_zeros(voxels.n_voxels, latents.values.shape[1]) if instead is None else instead
    return latents.values[nearest_rows(latents.voxels, voxels.voxel_ijk)]


def _joined(a: Latents, b: Latents) -> Latents:
    """Both; where they have a voxel in common, which they have not within one region, a's."""
    b_alone = a.voxels.find(b.voxels.voxel_ijk) < 0
    keys = torch.cat([a.voxels.keys, b.voxels.keys[b_alone]])
    keys, order = keys.sort()
    values = torch.cat([a.values, b.values[b_alone]])[order]
    return Latents(SparseVoxels.from_keys(keys, a.voxels.resolution), values)


def _normal(like: Float[Tensor, "rows channels"], seed: int) -> Float[Tensor, "rows channels"]:
    """Drawn on the CPU, so that every device has the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)
