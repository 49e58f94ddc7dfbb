"""The camera's frustum on sparse voxels: the active set, adaptive near and far planes, halo and rim (method.md, 3)."""

from __future__ import annotations

import bisect
import dataclasses
import enum
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.rim import RimReport, add_halo, rim_report
from sparseflex.scan import all_within, clip_of, laterally_inside, marked
from sparseflex.threads import small_scans_on_one_thread

if TYPE_CHECKING:
    from sparseflex.voxels import SparseVoxels

__all__ = [
    "ANCHORS",
    "METHODS",
    "Category",
    "DepthHistogram",
    "FrustumFit",
    "RimReport",
    "SeenVoxels",
    "active_voxels",
    "adapt_frustum",
    "add_halo",
    "depth_histogram",
    "rim_report",
    "see_voxels",
    "split_voxels",
]

METHODS = ("exact", "iterative")
ANCHORS = ("front", "back", "centre", "random")

MAX_ROUNDS = 32
"""Most (near, far, count) triples that the iterative search may try."""

_BINS = 4096
_HIDDEN = _BINS + 1  # bin _BINS itself takes the depths that rounding puts on the upper bound
# by how much of a bin the rounded bin position may be off; measured 2e-3
_BIN_SLACK = 0.02
# planes closer than this part of their depths are tested by themselves
_THIN = 1 / 64
# planes stand this part of a voxel beyond the outermost chosen centre, or half the gap to the next one if less
_BEYOND_VOXELS = 1e-3
# depths nearer than this (per unit of depth) are equal: the same lattice plane, apart from rounding
_TIE = 1e-12


class Category(enum.IntEnum):
    """Where a voxel's centre lies: split_voxels gives one a voxel."""

    OUTSIDE = 0
    NEAR_CUT = 1
    FAR_CUT = 2
    ACTIVE = 3


@dataclasses.dataclass(frozen=True, eq=False)
class FrustumFit:
    """What adapt_frustum gives.

    camera: the camera with its new near and far. active: (N,) bool, equal to active_voxels(voxels, camera).
    visible_fraction: active voxels / N (0 without voxels). trace: (rounds, 3) float64 on the CPU: near, far and the
    number of active voxels for each pair of planes tried, the last row is what camera has.
    """

    camera: Camera
    active: Bool[Tensor, "N"]
    visible_fraction: float
    trace: Float[Tensor, "rounds 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class DepthHistogram:
    """Laterally visible voxels by camera depth, on the CPU: counts (bins,) int64, edges (bins + 1,) float64."""

    counts: Int[Tensor, "bins"]
    edges: Float[Tensor, "bins_1"]


@dataclasses.dataclass(frozen=True, eq=False)
class SeenVoxels:
    """What cameras that differ in their planes alone have in common, as see_voxels finds it: to be given to
    split_voxels, adapt_frustum and depth_histogram where more than one of them is asked for.

    The bin of depth of every voxel, _HIDDEN where it isn't laterally visible, and how many lie before each bin.

    Bin b begins at depth edge_0 + b · width. Bins come from rounded depths: what lies within _BIN_SLACK of an edge
    may be one bin off. tie, margin: what counts as equal, and how far beyond a centre a plane may stand.
    """

    bins: Int[Tensor, "N"]
    n_before: list[int]
    edge_0: float
    width: float
    tie: float
    margin: float

    @property
    def n_visible(self) -> int:
        return self.n_before[_HIDDEN]


# torch's comparisons take ten times as long as its arithmetic on the CPU; hence these two


def _bins_below(bins: Int[Tensor, "N"], bound: int) -> Bool[Tensor, "N"]:
    """bins < bound."""
    return torch.rsub(bins, bound).clamp_(min=0).bool()


def _bins_between(bins: Int[Tensor, "N"], low: int, high: int) -> Bool[Tensor, "N"]:
    """low ≤ bins ≤ high, by the distance to their middle."""
    return (2 * bins).sub_(low + high).abs_().sub_(high - low + 1).clamp_(max=0).bool()


@small_scans_on_one_thread
def active_voxels(voxels: SparseVoxels, camera: Camera) -> Bool[Tensor, "N"]:
    """The voxels whose centre lies in the camera's frustum, near and far planes included (V_active in the paper)."""
    clip_rows = camera.clip_from_world
    near, far = camera.near, camera.far
    if far - near > _THIN * (far + near):
        active, index = all_within(voxels, clip_rows)
    else:  # of planes so close the third row is steep, and its rounding would leave too many in doubt on the sides
        active, index = all_within(voxels, clip_rows[[0, 1, 3]])
        one = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
        between = (clip_rows[3] - (near + far) / 2 * one) / ((far - near) / 2)
        within, doubtful = all_within(voxels, torch.stack([between, one]))
        active &= within
        index = torch.cat([index, doubtful])
    clip = clip_of(voxels, camera, index)
    active[index] = laterally_inside(clip) & (clip[2] >= camera.near) & (clip[2] <= camera.far)
    return active


@small_scans_on_one_thread
def split_voxels(voxels: SparseVoxels, camera: Camera, seen: SeenVoxels | None = None) -> UInt8[Tensor, "N"]:
    """Each voxel's Category: outside laterally (or behind the eye), cut by near, cut by far, or active.

    seen: what see_voxels finds for the same voxels and camera, whatever its planes; None looks anew.
    """
    seen = seen or see_voxels(voxels, camera)
    before, _ = _cut(voxels, camera, seen, camera.near, inclusive=False)
    within, _ = _cut(voxels, camera, seen, camera.far, inclusive=True)
    # far-cut, plus one where it is within far, minus two where it is also before near
    category = within.to(torch.uint8).add_(int(Category.FAR_CUT)).sub_(before.view(torch.uint8), alpha=2)
    return category.mul_(_bins_below(seen.bins, _HIDDEN))


@small_scans_on_one_thread
def see_voxels(voxels: SparseVoxels, camera: Camera) -> SeenVoxels:
    """Which voxels are laterally visible, and in which of 4096 bins of depth over the unit box they lie."""
    row = camera.clip_from_world[3]
    middle, reach = float(row[3]), 0.5 * float(row[:3].abs().sum())
    lower, upper = max(middle - reach, 0.0), max(middle + reach, 0.0)
    width = (upper - lower) / _BINS if upper > lower else 1.0
    place = row / width
    place[3] = (row[3] - lower) / width
    bins = torch.empty(voxels.n_voxels, dtype=torch.int16, device=voxels.device)

    def take(part: slice, values: Float[Tensor, "1 n"]) -> None:
        bins[part].copy_(values[0].clamp_(0, _BINS))

    inside, index = all_within(voxels, camera.clip_from_world[[0, 1, 3]], place[None], take)
    bins.sub_(_HIDDEN).mul_(inside).add_(_HIDDEN)
    clip = clip_of(voxels, camera, index)
    exact = ((clip[2] - lower) / width).clamp_(0, _BINS).to(torch.int16)
    bins[index] = exact.masked_fill_(~laterally_inside(clip), _HIDDEN)
    counts = torch.bincount(bins, minlength=_HIDDEN + 1)
    n_before = [0, *counts.cumsum(0).tolist()]
    return SeenVoxels(bins, n_before, lower, width, _TIE * max(1.0, upper), _BEYOND_VOXELS / voxels.resolution)


def _cut(
    voxels: SparseVoxels, camera: Camera, seen: SeenVoxels, plane: float, inclusive: bool
) -> tuple[Bool[Tensor, "N"], int]:
    """The visible voxels in front of a plane (on it too, if inclusive), and how many they are."""
    place = min(max((plane - seen.edge_0) / seen.width, -2.0), _BINS + 2.0)
    low, high = int(place // 1) - 1, min(int(place // 1) + 1, _BINS)
    front = _bins_below(seen.bins, low)
    index = marked(_bins_between(seen.bins, low, high))
    depths = clip_of(voxels, camera, index)[2]
    front[index] = near = depths <= plane if inclusive else depths < plane
    return front, seen.n_before[max(low, 0)] + int(near.sum())


def _bin_of_rank(seen: SeenVoxels, rank: int) -> int:
    """The bin that holds the depth of this rank: the last one with n_before ≤ rank."""
    return bisect.bisect_right(seen.n_before, rank, hi=_HIDDEN) - 1


def _around_ranks(
    voxels: SparseVoxels, camera: Camera, seen: SeenVoxels, first: int, last: int
) -> tuple[Float[Tensor, "M"], int, float, float]:
    """Depths of the bins of two ranks and of one more bin on each side, sorted: (depths, rank of the first, and
    two bounds: no other depth lies between them)."""
    low, high = max(_bin_of_rank(seen, first) - 1, 0), min(_bin_of_rank(seen, last) + 1, _BINS)
    index = marked(_bins_between(seen.bins, low, high))
    depths = clip_of(voxels, camera, index)[2].sort().values.cpu()
    lower = seen.edge_0 + (low + _BIN_SLACK) * seen.width if low > 0 else 0.0
    upper = seen.edge_0 + (high + 1 - _BIN_SLACK) * seen.width if high < _BINS else torch.inf
    return depths, seen.n_before[low], lower, upper


def _near_plane(outermost: float, unchosen: float, margin: float) -> float:
    """Just in front of the outermost chosen depth; unchosen is the next depth in front of it, or 0."""
    return outermost - min((outermost - unchosen) / 2, margin)


def _far_plane(outermost: float, unchosen: float, margin: float) -> float:
    return outermost + min((unchosen - outermost) / 2, margin)


def _exact_planes(voxels: SparseVoxels, camera: Camera, seen: SeenVoxels, first: int, end: int) -> tuple[float, float]:
    """Planes around the depth ranks first … end − 1 and every depth equal to one of theirs."""
    depths, base, lower, _ = _around_ranks(voxels, camera, seen, max(first - 1, 0), first)
    start = int(torch.searchsorted(depths, float(depths[first - base]) - seen.tie))
    near = _near_plane(float(depths[start]), float(depths[start - 1]) if start > 0 else lower, seen.margin)
    depths, base, _, upper = _around_ranks(voxels, camera, seen, end - 1, min(end, seen.n_visible - 1))
    stop = int(torch.searchsorted(depths, float(depths[end - 1 - base]) + seen.tie, right=True))
    far = _far_plane(float(depths[stop - 1]), float(depths[stop]) if stop < depths.shape[0] else upper, seen.margin)
    return near, far


def _search_planes(
    voxels: SparseVoxels, camera: Camera, seen: SeenVoxels, first: int, end: int
) -> tuple[float, float, list[tuple[float, float, int]]]:
    """The paper's way: set the planes, count, move them, until together they are within 1 % of cutting off what they
    should. Starts at the visible depth range; the planes found are moved to just beyond the outermost centres.

    A plane moves to where its count would be met if the voxels between its known bounds were spread evenly, or,
    every other round, to the middle between them.
    """
    n_visible = seen.n_visible
    low, high = _exact_planes(voxels, camera, seen, 0, n_visible)
    # (depth, voxels cut off) known on the outer and on the inner side of each plane's goal
    near_outer, near_inner = (low, 0), (high, n_visible)
    far_outer, far_inner = (high, 0), (low, n_visible)
    want_ahead, want_behind = first, n_visible - end
    near, far, trace = low, high, []
    for round_number in range(MAX_ROUNDS - 1):
        ahead = _cut(voxels, camera, seen, near, inclusive=False)[1]
        behind = n_visible - _cut(voxels, camera, seen, far, inclusive=True)[1]
        trace.append((near, far, n_visible - ahead - behind))
        if abs(ahead - want_ahead) + abs(behind - want_behind) <= 0.01 * (end - first):
            break
        near_outer, near_inner = ((near, ahead), near_inner) if ahead <= want_ahead else (near_outer, (near, ahead))
        far_outer, far_inner = ((far, behind), far_inner) if behind <= want_behind else (far_outer, (far, behind))
        # the near plane's goal lies in front of the far plane's, so each bounds the other's
        near_inner = min(near_inner, (far_outer[0], n_visible - far_outer[1]))
        far_inner = max(far_inner, (near_outer[0], n_visible - near_outer[1]))
        even = round_number % 2 == 0
        near = near_outer[0] if near_outer[1] == want_ahead else _between(near_outer, near_inner, want_ahead, even)
        far = far_outer[0] if far_outer[1] == want_behind else _between(far_outer, far_inner, want_behind, even)
        if not near < far:  # the planes met: let only one of them move
            near, far = (near_outer[0], far) if even else (near, far_outer[0])
    else:  # equal depths can make the count impossible: keep the bounds that leave none of the wanted ones out
        ahead, behind = near_outer[1], far_outer[1]
    return *_exact_planes(voxels, camera, seen, ahead, n_visible - behind), trace


def _between(outer: tuple[float, int], inner: tuple[float, int], wanted: int, interpolate: bool) -> float:
    share = (wanted - outer[1]) / max(inner[1] - outer[1], 1) if interpolate else 0.5
    return outer[0] + min(max(share, 0.02), 0.98) * (inner[0] - outer[0])


def _first_rank(n_visible: int, n_wanted: int, anchor: str, generator: torch.Generator | None) -> int:
    spare = n_visible - n_wanted
    if anchor == "random":
        return int(torch.randint(spare + 1, (), generator=generator))
    return {"front": 0, "centre": spare // 2, "back": spare}[anchor]


@small_scans_on_one_thread
def adapt_frustum(
    voxels: SparseVoxels,
    camera: Camera,
    visibility_ratio: float,
    method: str = "exact",
    anchor: str = "front",
    generator: torch.Generator | None = None,
    seen: SeenVoxels | None = None,
) -> FrustumFit:
    """Near and far planes such that about visibility_ratio · N voxels are active (adaptive frustum, paper section 3.2).

    The camera's own planes are ignored. Wanted are min(round(visibility_ratio · N), visible) voxels, visible being
    those laterally inside with depth > 0: a window of their depth ranks, at the front, the back, the centre or a
    random place (drawn from generator). The planes stand between two ranks, just beyond the outermost chosen
    centres. Depths that are equal (to 1e-12 of the depth) enter together, so ties can give more than was wanted.
    exact: by order statistics. iterative: the paper's search, at most 32 rounds, each in the trace; it accepts a
    count within 1 %. Where nothing is wanted the active set is empty; where nothing is visible either, the camera
    keeps its planes. seen: as split_voxels takes it. Raises ValueError for a ratio outside (0, 1] or an unknown
    method or anchor.
    """
    if not 0.0 < visibility_ratio <= 1.0:
        raise ValueError(f"visibility_ratio must be in (0, 1], got {visibility_ratio}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if anchor not in ANCHORS:
        raise ValueError(f"anchor must be one of {', '.join(ANCHORS)}, got {anchor!r}")
    seen = seen or see_voxels(voxels, camera)
    n_wanted = min(round(visibility_ratio * voxels.n_voxels), seen.n_visible)
    trace: list[tuple[float, float, int]] = []
    if n_wanted > 0:
        first = _first_rank(seen.n_visible, n_wanted, anchor, generator)
        if method == "exact":
            near, far = _exact_planes(voxels, camera, seen, first, first + n_wanted)
        else:
            near, far, trace = _search_planes(voxels, camera, seen, first, first + n_wanted)
    elif seen.n_visible > 0:
        nearest = float(_around_ranks(voxels, camera, seen, 0, 0)[0][0])
        near, far = nearest / 4, nearest / 2
    else:
        near, far = camera.near, camera.far
    before, n_before = _cut(voxels, camera, seen, near, inclusive=False)
    active, n_within = _cut(voxels, camera, seen, far, inclusive=True)
    active &= before.logical_not_()
    n_active = n_within - n_before
    if not trace or trace[-1] != (near, far, n_active):
        trace.append((near, far, n_active))
    rounds = torch.tensor(trace, dtype=torch.float64)
    return FrustumFit(camera.with_planes(near, far), active, n_active / max(voxels.n_voxels, 1), rounds)


def depth_histogram(
    voxels: SparseVoxels, camera: Camera, bins: int = 64, seen: SeenVoxels | None = None
) -> DepthHistogram:
    """Histogram over camera depth of the laterally visible voxels, from the nearest to the farthest of them."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    seen = seen or see_voxels(voxels, camera)
    if seen.n_visible:
        low = float(_around_ranks(voxels, camera, seen, 0, 0)[0][0])
        high = float(_around_ranks(voxels, camera, seen, seen.n_visible - 1, seen.n_visible - 1)[0][-1])
    else:
        low, high = 0.0, 1.0
    high = high if high > low else low + 1.0 / voxels.resolution
    # whole fine bins at once, but for those that an edge, or rounding, may cut
    spots = torch.linspace(low, high, bins + 1, dtype=torch.float64).sub_(seen.edge_0).div_(seen.width)
    split = torch.zeros(_HIDDEN + 1, dtype=torch.bool)
    for shift in (-1, 0, 1):
        split[(spots.floor().long() + shift).clamp_(0, _BINS)] = True
    fine = torch.tensor(seen.n_before[1:]) - torch.tensor(seen.n_before[:-1])
    middles = (torch.arange(_BINS + 1) + 0.5 - spots[0]) / (spots[-1] - spots[0])
    places = (middles * bins).long().clamp_(0, bins - 1)
    counts = torch.zeros(bins, dtype=torch.int64).index_add_(0, places, fine[: _BINS + 1].masked_fill(split[:-1], 0))
    split = split.to(voxels.device)
    index = marked(split.index_select(0, seen.bins.int()))
    depths = clip_of(voxels, camera, index)[2].cpu()
    exact = ((depths - low) * (bins / (high - low))).long().clamp_(max=bins - 1)
    counts += torch.bincount(exact, minlength=bins)
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    return DepthHistogram(counts, edges)
