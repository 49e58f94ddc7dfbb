"""Regions of active voxels whose gradient vanishes or explodes, and why."""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from sparseflex.extraction import surface_voxels, voxels_of_faces
from sparseflex.regions import components
from sparseflex.training.backward_pass import AT_CORNERS, BackwardPass

VANISHING, EXPLODING = 1e-3, 100.0
"""Times the median: what lies below vanishes, what lies above explodes."""

REASONS = ("bad parameter", "too large", "not finite", "cancelled", "unseen", "no face", "no surface")
"""Worst first. Exploding: `bad parameter` a parameter of the voxel itself isn't finite; `too large` above the limit;
`not finite` the gradient isn't, though its parameters are: it has come from a neighbour, or from the loss. Vanishing:
`cancelled` pixels see it and yet nothing pulls; `unseen` no pixel sees its faces; `no face` the surface passes through
but neighbours lack for a face; `no surface` its corners have one sign."""

N_EXPLODING = 3
"""The first so many of REASONS."""


@dataclasses.dataclass(frozen=True)
class Region:
    """reason: of REASONS. low, high: the ijk box around its voxels, both included. worst: the voxel whose gradient is
    farthest off, its norm, and the term of the loss that is largest there, "" where none is above 0."""

    reason: str
    n_voxels: int
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    worst: tuple[int, int, int]
    norm: float
    term: str

    @property
    def explodes(self) -> bool:
        return REASONS.index(self.reason) < N_EXPLODING


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """Connected regions (26 neighbours, one reason), the worst reason first and the largest first within it.

    median: of the norms that are finite and above 0, NaN where there are none. counts: voxels by reason. first: the
    first so many regions, of n_all. label: (n,) the region of each active voxel, -1 for a good one.
    """

    parameter: str
    term: str
    median: float
    counts: dict[str, int]
    first: tuple[Region, ...]
    n_all: int
    label: Int[Tensor, "n"]

    def voxel_ijk(self, done: BackwardPass, number: int) -> Int[Tensor, "m 3"]:
        """The voxels of a region."""
        return done.section.voxel_ijk[self.label == number]


def find_regions(done: BackwardPass, parameter: str, term: str = "", at_most: int = 200) -> Regions:
    """Judges each active voxel by its gradient's norm (of corners the largest of its eight), of a term or the loss.

    The median is that of the voxels that some pixel sees. A gradient of 0 vanishes, and so does one below VANISHING
    times the median; one above EXPLODING times it, or not finite, explodes. Of voxels that nothing can pull on the
    reason is told, see REASONS.
    """
    norms = done.voxel_norms(parameter, term)
    flex = done.flex()
    has_face, seen = _faces(done, voxels_of_faces(flex, done.mesh))
    pulled = torch.isfinite(norms) & (norms > 0)
    typical = norms[pulled & seen] if bool((pulled & seen).any()) else norms[pulled]
    median = float(typical.median()) if len(typical) else math.nan
    codes = _codes(done, norms, median, surface_voxels(flex), has_face, seen)
    faulty = (codes >= 0).nonzero().squeeze(1)
    some, codes = done.section.take(faulty), codes[faulty]
    ijk = some.voxel_ijk
    names, number, sizes = torch.unique(components(some, codes), return_inverse=True, return_counts=True)
    reasons = codes[names]
    order = torch.argsort(reasons.long() * (len(faulty) + 1) - sizes, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    number = rank[number]
    label = torch.full((done.section.n_voxels,), -1, dtype=torch.int64, device=ijk.device)
    label[faulty] = number
    worst = _worst(norms[faulty], codes, number, len(order), median)[:at_most]
    first = _described(done, parameter, norms, faulty[worst], (ijk, number), reasons[order][:at_most],
                       sizes[order][:at_most])
    found = torch.bincount(codes.long(), minlength=len(REASONS)).tolist()
    counts = {reason: n for reason, n in zip(REASONS, found, strict=True) if n}
    return Regions(parameter, term, median, counts, first, len(order), label)


def _faces(done: BackwardPass, of_faces: Int[Tensor, "F 4"]) -> tuple[Bool[Tensor, "n"], Bool[Tensor, "n"]]:
    """The voxels of the section that some face depends on, and those of which some pixel sees such a face."""
    has_face, seen = torch.zeros(2, done.section.n_voxels, dtype=torch.bool, device=of_faces.device)
    has_face[of_faces.reshape(-1)] = True
    for view in done.views:
        shown = torch.zeros(len(of_faces), dtype=torch.bool, device=of_faces.device)
        shown[view.rendered.triangle_id[view.rendered.hit]] = True
        seen[of_faces[shown].reshape(-1)] = True
    return has_face, seen


def _codes(done: BackwardPass, norms: Float[Tensor, "n"], median: float, surface: Bool[Tensor, "n"],
           has_face: Bool[Tensor, "n"], seen: Bool[Tensor, "n"]) -> Int8[Tensor, "n"]:
    """The place in REASONS of each voxel, -1 where nothing is wrong."""
    code = torch.full(norms.shape, -1, dtype=torch.int8, device=norms.device)
    vanishes = norms == 0 if math.isnan(median) else norms < VANISHING * median
    for reason, rule in (("cancelled", vanishes), ("unseen", vanishes & ~seen), ("no face", vanishes & ~has_face),
                         ("no surface", vanishes & ~surface), ("too large", norms > EXPLODING * median),
                         ("not finite", ~torch.isfinite(norms)), ("bad parameter", ~_finite_parameters(done))):
        code[rule] = REASONS.index(reason)
    return code


def _finite_parameters(done: BackwardPass) -> Bool[Tensor, "n"]:
    """Whether all parameters of a voxel are finite: its own weights, SDF and deformation of its corners."""
    good = torch.isfinite(done.leaves["weights"]).all(dim=1)
    corners = torch.isfinite(done.leaves["sdf"]) & torch.isfinite(done.leaves["deform"]).all(dim=1)
    for slot in done.section.corners_by_slot:
        good = good & corners.index_select(0, slot)
    return good


def _worst(norms: Float[Tensor, "m"], codes: Int8[Tensor, "m"], number: Int[Tensor, "m"], n: int, median: float
           ) -> Int[Tensor, "n"]:
    """The row of each region's voxel that is farthest off: the largest norm (NaN before infinity), or the smallest."""
    explodes = codes < N_EXPLODING
    off = torch.where(explodes, norms.nan_to_num(math.inf, torch.finfo(norms.dtype).max, 0.0), -norms)
    best = off.new_full((n,), -math.inf).scatter_reduce_(0, number, off, "amax")
    row = torch.arange(len(off), device=off.device)
    return row.new_full((n,), len(off)).scatter_reduce_(
        0, number, torch.where(off == best[number], row, len(off)), "amin")


def _described(done: BackwardPass, parameter: str, norms: Float[Tensor, "n"], worst: Int[Tensor, "r"],
               members: tuple[Int[Tensor, "m 3"], Int[Tensor, "m"]], reasons: Int8[Tensor, "r"],
               sizes: Int[Tensor, "r"]) -> tuple[Region, ...]:
    """worst: rows of the section; members: the voxels of all regions, and the number of each one's region."""
    n = len(worst)
    if n == 0:
        return ()
    ijk, number = members
    ijk, place = ijk[number < n], number[number < n, None].expand(-1, 3)
    low = ijk.new_zeros(n, 3).scatter_reduce_(0, place, ijk, "amin", include_self=False).tolist()
    high = ijk.new_zeros(n, 3).scatter_reduce_(0, place, ijk, "amax", include_self=False).tolist()
    corners = done.section.voxel_corners[worst].long() if parameter in AT_CORNERS else worst[:, None]
    terms = [""] * n
    if done.terms:
        by_term = torch.stack([done.norms(parameter, term)[corners].amax(dim=1) for term in done.terms])
        best, place = by_term.nan_to_num(math.inf, math.inf).max(dim=0)
        terms = [done.terms[k] if pull > 0 else "" for pull, k in zip(best.tolist(), place.tolist(), strict=True)]
    at = done.section.voxel_ijk[worst].tolist()
    rows = zip(reasons.tolist(), sizes.tolist(), low, high, at, norms[worst].tolist(), terms, strict=True)
    return tuple(Region(REASONS[reason], size, tuple(lo), tuple(hi), tuple(ijk), norm, term)
                 for reason, size, lo, hi, ijk, norm, term in rows)
