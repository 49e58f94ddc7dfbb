"""Occupancy: what the views of a fit say about each voxel, as an average over time; which voxels they call for."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.render import Maps, pixel_rays
from sparseflex.training.fit_parameters import FitSection
from sparseflex.voxels import SparseVoxels, lattice_keys

MARGIN_VOXELS = 0.25
"""A point of the target speaks for all voxels within this distance along each axis (see voxels_around)."""

_HIT_RATE, _PASS_RATE = 0.5, 0.08
_SIDE_RATE, _KNOWN_SIDE = 0.5, 0.6
_PRIOR = 0.5
_PIXEL_STEP = 2
_MISSED_VOXELS, _MISSED_RATE = 0.5, 0.2
_FORGET = 0.5


class PruneReason(enum.IntEnum):
    """Why a voxel was pruned (NO_SURFACE, SEEN_PAST, LOGIT_BELOW), or why one was kept."""

    NO_SURFACE = 1
    """A child of a subdivision: neither the fit's surface nor a point of the target lies within a quarter voxel."""
    SEEN_PAST = 2
    """Views saw past it: the estimate stayed below prune_below at two looks in a row."""
    UNKNOWN = 3
    """No view has judged it, or, of a child: its parent was never active. Such voxels are never pruned."""
    OWN_SURFACE = 4
    """A child: the fit's own surface comes within a quarter voxel of it, and few views were there to say otherwise."""
    TARGET_SEEN = 5
    """A child: a view has seen a point of the target within a quarter voxel of it."""
    WAITING = 6
    """The estimate is below prune_below, or was, and has not been above keep_above since: the next look decides."""
    BETWEEN = 7
    """The estimate lies between the two thresholds."""
    OCCUPIED = 8
    """The estimate is above keep_above."""
    LOGIT_BELOW = 9
    """A child of an upsampling: its occupancy logit is below the threshold. Pruned by the network itself."""
    LOGIT_REACHES = 10
    """A child of an upsampling: its occupancy logit reaches the threshold."""
    NOT_PRUNED = 11
    """A child of an upsampling, kept as all are: pruning is off."""


@dataclasses.dataclass(eq=False)
class Occupancy:
    """The occupancy estimate of N voxels, from the target's views in the iterations in which a voxel was active.

    estimate: (N,) in [0, 1], NaN where no view has judged the voxel yet. A view that sees a voxel gives evidence 1
    where a pixel's point on the target lies within the voxel's reach, or where its corners are known to lie on both
    sides of the target; 0 where all eight are known to lie on one side; none where fewer are known. The estimate is the
    exponential average of that, quicker where a point hits: that proves surface, while rays that pass prove only
    themselves free. It begins at 0.5. Voxels that the view does not see keep theirs.

    corner_side: (C,) in [-1, 1], the average of what views said of each corner that they saw past by a margin (see
    free_space): 1 outside, -1 inside, 0 not known. A voxel away from the surface has eight corners on one side soon,
    though few views see all of them at once.
    n_views: (N,) in how many views the voxel was active.
    hit_cells: (N, 8) whether a point came within reach of child 4x + 2y + z, for the next subdivision.
    missed_cells: (N, 8) in [0, 1], the average over these views of whether a point of theirs was missed: the fit's
    surface was not within half a voxel of it.
    waiting: (N,) whether the estimate was low at the last look; only voxels that stay low are pruned.
    missing: sorted keys (M,) of voxels not in the set in which points of the target lie, with missing_estimate (M,).
    """

    estimate: Float[Tensor, "N"]
    corner_side: Float[Tensor, "C"]
    n_views: Int[Tensor, "N"]
    hit_cells: Bool[Tensor, "N 8"]
    missed_cells: Float[Tensor, "N 8"]
    waiting: Bool[Tensor, "N"]
    missing: Int[Tensor, "M"]
    missing_estimate: Float[Tensor, "M"]

    @classmethod
    def unknown(cls, voxels: SparseVoxels) -> Occupancy:
        n, device = voxels.n_voxels, voxels.device
        return cls(torch.full((n,), torch.nan, device=device), torch.zeros(voxels.n_corners, device=device),
                   torch.zeros(n, dtype=torch.int32, device=device), torch.zeros(n, 8, dtype=torch.bool, device=device),
                   torch.zeros(n, 8, device=device), torch.zeros(n, dtype=torch.bool, device=device),
                   torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, device=device))

    @torch.no_grad()
    def observe(self, voxels: SparseVoxels, section: FitSection, labels: Float[Tensor, "c"], camera: Camera,
                target: Maps, rendered: Maps, cells: int, turn: int) -> None:
        """Takes in one view. labels: of the section's corners, as free_space_labels gives them; cells: 2 where a finer
        level comes, whose cells are then marked by all pixels, else 1; turn: which pixels speak then, one in four."""
        points, missed = target_points(camera, target, rendered, turn, 1 if cells == 2 else _PIXEL_STEP)
        hit = self._hit(voxels, points, missed > _MISSED_VOXELS / voxels.resolution, cells)
        self.n_views[slice(None) if section.voxel_rows is None else section.voxel_rows] += 1
        side = self._sides(section, labels)
        slots = section.flex.voxels.corners_by_slot
        # three counts of each voxel's corners in one gather: outside, inside, seen by this view
        code = (side > _KNOWN_SIDE).int() + 16 * (side < -_KNOWN_SIDE).int() + 256 * (labels != 0).int()
        counts = code.index_select(0, slots.reshape(-1)).view(slots.shape).sum(0, dtype=torch.int32)
        outside, inside, seen = counts & 15, counts >> 4 & 15, counts >> 8
        between = (outside > 0) & (inside > 0)
        judged = (seen > 0) & (between | (outside == 8) | (inside == 8))
        rows = judged.nonzero().squeeze(1) if section.voxel_rows is None else section.voxel_rows[judged]
        self._average(rows, between[judged].to(torch.float32), hit)

    def _sides(self, section: FitSection, labels: Float[Tensor, "c"]) -> Float[Tensor, "c"]:
        """Takes the labels into the section's corners' sides, and gives these."""
        rows = section.corner_rows
        side = self.corner_side if rows is None else self.corner_side.index_select(0, rows)
        side = torch.where(labels != 0, side + _SIDE_RATE * (labels - side), side)
        if rows is None:
            self.corner_side = side
        else:
            self.corner_side.index_copy_(0, rows, side)
        return side

    def _average(self, rows: Int[Tensor, "n"], evidence: Float[Tensor, "n"], hit: Int[Tensor, "m"]) -> None:
        before = self.estimate[hit].nan_to_num(_PRIOR)
        now = self.estimate[rows].nan_to_num(_PRIOR)
        self.estimate[rows] = now + _PASS_RATE * (evidence - now)
        self.estimate[hit] = before + _HIT_RATE * (1 - before)

    def _hit(self, voxels: SparseVoxels, points: Float[Tensor, "P 3"], missed: Bool[Tensor, "P"], cells: int
             ) -> Int[Tensor, "m"]:
        """Marks the cells within reach of the points, and what is missing; rows of the voxels that were hit."""
        fine = voxels.resolution * cells
        place = (points + 0.5) * fine
        low, high = (place - MARGIN_VOXELS).floor().int(), (place + MARGIN_VOXELS).floor().int()
        corners = [torch.where(torch.tensor(pick, device=low.device), high, low)
                   for pick in itertools.product((False, True), repeat=3)]
        ijk = torch.cat(corners)
        found = voxels.find(ijk // cells)
        there = found >= 0
        ijk, found = ijk[there], found[there]
        if cells == 2:
            x, y, z = (ijk & 1).unbind(1)
            cell = 8 * found + 4 * x + 2 * y + z
            self.hit_cells.view(-1)[cell] = True
            seen = torch.zeros(2, 8 * voxels.n_voxels, dtype=torch.bool, device=low.device)
            seen[0, cell], seen[1, cell[missed.repeat(len(corners))[there]]] = True, True
            rows = seen[0].nonzero().squeeze(1)
            share = self.missed_cells.view(-1)
            share[rows] += _MISSED_RATE * (seen[1, rows].to(torch.float32) - share[rows])
        self._note_missing(voxels, (place // cells).int())
        hit = torch.zeros(voxels.n_voxels, dtype=torch.bool, device=low.device)
        hit[found] = True
        return hit.nonzero().squeeze(1)

    def _note_missing(self, voxels: SparseVoxels, ijk: Int[Tensor, "P 3"]) -> None:
        ijk = ijk.clamp(0, voxels.resolution - 1)
        ijk = ijk[voxels.find(ijk) < 0]
        if not len(ijk):
            return
        seen = torch.unique(lattice_keys(ijk, voxels.resolution).long())
        keys = torch.unique(torch.cat([self.missing, seen]))
        estimate = torch.zeros(len(keys), device=keys.device)
        estimate[torch.searchsorted(keys, self.missing)] = self.missing_estimate
        at = torch.searchsorted(keys, seen)
        estimate[at] += _HIT_RATE * (1 - estimate[at])
        self.missing, self.missing_estimate = keys, estimate

    def forget_missing(self) -> None:
        """Half of what is known of voxels that aren't there, at each look; without new hits it fades."""
        self.missing_estimate = self.missing_estimate * _FORGET
        kept = self.missing_estimate > 0.05
        self.missing, self.missing_estimate = self.missing[kept], self.missing_estimate[kept]

    def moved(self, old: SparseVoxels, new: SparseVoxels) -> Occupancy:
        """The same on another set of the same resolution; new voxels bring what was noted while they were missing."""
        rows = old.find(new.voxel_ijk)
        fresh = Occupancy.unknown(new)
        known = rows >= 0
        for name in ("estimate", "n_views", "hit_cells", "missed_cells", "waiting"):
            getattr(fresh, name)[known] = getattr(self, name)[rows[known]]
        corners = old.find_corners(new.corner_ijk)
        fresh.corner_side[corners >= 0] = self.corner_side[corners[corners >= 0]]
        if len(self.missing):
            keys = new.keys.long()
            place = torch.searchsorted(self.missing, keys).clamp_(max=len(self.missing) - 1)
            born = ~known & (self.missing[place] == keys)
            fresh.estimate[born] = self.missing_estimate[place[born]]
            left = new.find(ijk_of_keys(self.missing, new.resolution)) < 0
            fresh.missing, fresh.missing_estimate = self.missing[left], self.missing_estimate[left]
        return fresh

    def reasons(self, prune_below: float, keep_above: float) -> UInt8[Tensor, "N"]:
        """Why each voxel is kept, as PruneReason."""
        reason = torch.full_like(self.estimate, PruneReason.BETWEEN, dtype=torch.uint8)
        reason[self.waiting | (self.estimate < prune_below)] = PruneReason.WAITING
        reason[self.estimate > keep_above] = PruneReason.OCCUPIED
        reason[self.estimate.isnan()] = PruneReason.UNKNOWN
        return reason

    def state_dict(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device | str) -> Occupancy:
        return cls(**{field.name: state[field.name].to(device) for field in dataclasses.fields(cls)})


def ijk_of_keys(keys: Int[Tensor, "M"], resolution: int) -> Int[Tensor, "M 3"]:
    """The voxels that keys stand for."""
    return SparseVoxels.from_keys(keys, resolution).voxel_ijk


def target_points(camera: Camera, target: Maps, rendered: Maps, turn: int, step: int
                  ) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P"]]:
    """World points that pixels of the target's depth map see, within the unit box, and how far the rendered surface
    passes them by, across the target's (infinitely where there is none, or its back). One pixel of step × step speaks;
    turn picks which."""
    row, column = divmod(turn % (step * step), step)
    height, width = target.depth.shape
    device = target.depth.device
    pixel = (torch.arange(row, height, step, device=device)[:, None] * width
             + torch.arange(column, width, step, device=device)).view(-1)
    pixel = pixel[target.hit.view(-1).index_select(0, pixel)]
    depth = target.depth.view(-1).index_select(0, pixel)
    rays = torch.stack(pixel_rays(camera, pixel, depth.dtype), dim=1)
    points = camera.eye_world.to(rays) + depth[:, None] * rays
    normal = target.normal.view(-1, 3).index_select(0, pixel)
    missed = (rendered.depth.detach().view(-1).index_select(0, pixel) - depth).abs() * (normal * rays).sum(1).abs()
    turned = (rendered.normal.detach().view(-1, 3).index_select(0, pixel) * normal).sum(1) < 0  # another sheet's back
    missed[turned | ~rendered.hit.view(-1).index_select(0, pixel)] = torch.inf
    within = (points.abs() <= 0.5).all(dim=1)
    return points[within], missed[within]
