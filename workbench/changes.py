"""Changes: what differs between two iterations: voxels born, pruned, moved, corners that flip, faces gained or lost."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from sparseflex.voxels import SparseVoxels
from workbench.change_state import DEFORM, SDF, State, edges_of, find_keys

OUTWARD, INWARD, SPOILED, HEALED, CHANGED = 1, 2, 4, 8, 16
"""Bits of a corner. OUTWARD: its SDF went from negative to what counts as positive, zero too; INWARD: the other way;
SPOILED: it holds NaN or infinity now, HEALED: no longer; CHANGED: any bit of SDF or δ is another."""

PARTS = ("born", "pruned", "spoiled", "flipped", "moved", "sdf", "same")
"""Every voxel of either iteration is of one of these, the first that fits: only in B; only in A; a corner or a weight
(α, β, γ) is NaN or infinite now and wasn't; the SDF of a corner changed sign; δ of a corner moved by the threshold or
more; its SDF did; none of it. Where A and B have other resolutions, those in both are "same": only their cells are
compared."""

BINS = np.logspace(-6, 1, 29)
"""Edges of the histograms, voxel widths; what is smaller or larger counts in the first and in the last one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Changes:
    """What differs between a state before, a, and one after, b; A and B in what follows.

    born: rows of B's voxels, pruned: of A's; common_a, common_b: the rows of those in both. Where the resolutions
    differ, a voxel counts as in both where the other holds its cell or a part of it; n_left_out is how many cells of
    the finer lattice in common ones the finer one lacks. note: why only that is compared, or "".
    corner_a, corner_b: rows of corners in both, flags their bits (see OUTWARD), d_sdf and d_deform how far SDF (signed)
    and δ went, in widths of B's voxels, NaN where either is no number, None where a field lacks.
    voxel_flags, voxel_sdf, voxel_deform: of each common voxel its corners' bits together and the greatest distances, 0
    where there is none; None where resolutions differ. n_weights_spoiled: of how many a weight is NaN or infinite now,
    and was none; they have the bit SPOILED too.
    gained, lost, turned: keys of edges, see quads_of: with a quad only in B, only in A, in both but facing the other
    way; None where they can't be compared. n_gained_by_sign, n_lost_by_sign: because corners changed sign, and not
    because voxels came or went.
    """

    a: State
    b: State
    born: Int[np.ndarray, "n"]
    pruned: Int[np.ndarray, "m"]
    common_a: Int[np.ndarray, "c"]
    common_b: Int[np.ndarray, "c"]
    n_left_out: int
    note: str
    corner_a: Int[np.ndarray, "k"]
    corner_b: Int[np.ndarray, "k"]
    flags: UInt8[np.ndarray, "k"]
    d_sdf: Float[np.ndarray, "k"] | None
    d_deform: Float[np.ndarray, "k"] | None
    voxel_flags: UInt8[np.ndarray, "c"] | None
    voxel_sdf: Float[np.ndarray, "c"] | None
    voxel_deform: Float[np.ndarray, "c"] | None
    gained: Int[np.ndarray, "g"] | None
    lost: Int[np.ndarray, "l"] | None
    turned: Int[np.ndarray, "t"] | None
    n_gained_by_sign: int
    n_lost_by_sign: int
    n_weights_spoiled: int = 0
    _sorted: dict[float, UInt8[np.ndarray, "c"]] = dataclasses.field(default_factory=dict)

    @property
    def one_lattice(self) -> bool:
        """Whether both have one resolution, so that voxel can be compared with voxel."""
        return self.voxel_flags is not None

    def corners(self, bit: int) -> Bool[np.ndarray, "k"]:
        """Which of the common corners have a bit."""
        return (self.flags & bit) != 0

    @functools.cached_property
    def n_corners_of(self) -> dict[int, int]:
        """How many common corners have each bit."""
        return {bit: int(np.count_nonzero(self.flags & bit)) for bit in (OUTWARD, INWARD, SPOILED, HEALED, CHANGED)}

    def parts_of_common(self, threshold: float) -> UInt8[np.ndarray, "c"]:
        """Of each common voxel which of PARTS it is; threshold in voxel widths, 0: anything that differs."""
        known = self._sorted.get(threshold)  # asked for by every part that is drawn: the last one is remembered
        if known is None:
            known = self._sort(threshold)
            self._sorted.clear()
            self._sorted[threshold] = known
        return known

    def _sort(self, threshold: float) -> UInt8[np.ndarray, "c"]:
        found = np.full(len(self.common_b), PARTS.index("same"), np.uint8)
        if self.one_lattice:
            for name, moved in (("sdf", self.voxel_sdf), ("moved", self.voxel_deform)):
                if moved is not None:
                    found[(moved >= threshold) if threshold > 0 else (moved > 0)] = PARTS.index(name)
            found[(self.voxel_flags & (OUTWARD | INWARD)) != 0] = PARTS.index("flipped")
            found[(self.voxel_flags & SPOILED) != 0] = PARTS.index("spoiled")
        return found

    def counts(self, threshold: float) -> dict[str, int]:
        """Voxels of each of PARTS."""
        of_common = np.bincount(self.parts_of_common(threshold), minlength=len(PARTS))
        found = dict(zip(PARTS, of_common.tolist(), strict=True))
        return {**found, "born": len(self.born), "pruned": len(self.pruned)}

    def rows(self, part: str, threshold: float) -> tuple[SparseVoxels, Int[np.ndarray, "n"]]:
        """The voxels of one of PARTS: rows of A's where they are pruned, else of B's."""
        if part == "pruned":
            return self.a.voxels, self.pruned
        if part == "born":
            return self.b.voxels, self.born
        return self.b.voxels, self.common_b[self.parts_of_common(threshold) == PARTS.index(part)]

    def top(self, part: str, threshold: float, n: int) -> list[tuple[int, float, float]]:
        """The n voxels of a part that changed most: row (see rows), greatest |Δδ| and |ΔSDF|, NaN where unknown."""
        if part in ("born", "pruned") or not self.one_lattice:
            return [(int(row), np.nan, np.nan) for row in self.rows(part, threshold)[1][:n]]
        at = np.flatnonzero(self.parts_of_common(threshold) == PARTS.index(part))
        by = self.voxel_deform if part == "moved" or self.voxel_sdf is None else self.voxel_sdf
        if by is not None and len(at) > n:
            at = at[np.argpartition(-by[at], n)[:n]]
        if by is not None:
            at = at[np.argsort(-by[at], kind="stable")]
        known = [np.full(len(at), np.nan) if values is None else values[at]
                 for values in (self.voxel_deform, self.voxel_sdf)]
        return list(zip(self.common_b[at[:n]].tolist(), known[0].tolist(), known[1].tolist(), strict=False))

    @functools.cached_property
    def histograms(self) -> dict[str, tuple[Int[np.ndarray, "28"], int]]:
        """|Δδ| and |ΔSDF| of the common corners, by the field's name: counts in BINS, and how many are exactly 0."""
        found = {}
        for name, values in ((DEFORM, self.d_deform), (SDF, self.d_sdf)):
            if values is not None:
                known = np.abs(values[np.isfinite(values)])
                moved = known[known > 0]
                # by the logarithm: a third of what searching the edges takes
                places = ((np.log10(moved) + 6.0) * 4.0).clip(0, len(BINS) - 2).astype(np.int64)
                found[name] = np.bincount(places, minlength=len(BINS) - 1), len(known) - len(moved)
        return found


def compare(a: State, b: State) -> Changes:
    """What differs from A to B; where neither resolution is a multiple of the other nothing is in common."""
    cells = _cells(a.voxels, b.voxels)
    one_lattice = a.voxels.resolution == b.voxels.resolution
    corner_a, corner_b = _common_corners(a.voxels, b.voxels)
    flags, d_sdf, d_deform = _of_corners(a, b, corner_a, corner_b)
    of_voxels: list[Any] = [None, None, None]
    n_spoiled = 0
    if one_lattice:
        of_voxels = [_of_voxels(b.voxels, cells.common_b, corner_b, values) for values in (flags, d_sdf, d_deform)]
        spoiled = b.bad_weights.take(cells.common_b) & ~a.bad_weights.take(cells.common_a)
        of_voxels[0][spoiled] |= SPOILED
        n_spoiled = int(np.count_nonzero(spoiled))
    return Changes(a, b, cells.born, cells.pruned, cells.common_a, cells.common_b, cells.n_left_out,
                   _note(a, b), corner_a, corner_b, flags, d_sdf, d_deform, *of_voxels,
                   **_of_faces(a, b, one_lattice), n_weights_spoiled=n_spoiled)


def _note(a: State, b: State) -> str:
    of_a, of_b = a.voxels.resolution, b.voxels.resolution
    if of_a == of_b:
        return ""
    if max(of_a, of_b) % min(of_a, of_b):
        return f"{of_a}³ and {of_b}³: neither lattice is part of the other, nothing is compared"
    return f"{of_a}³ and {of_b}³: a voxel is compared with the cell that holds it; faces are not compared"


# Voxels


class _Cells(NamedTuple):
    born: np.ndarray
    pruned: np.ndarray
    common_a: np.ndarray
    common_b: np.ndarray
    n_left_out: int


def _cells(a: SparseVoxels, b: SparseVoxels) -> _Cells:
    """Which voxels are in one, and which in both."""
    if a is b:
        rows, none = np.arange(a.n_voxels), np.zeros(0, np.int64)
        return _Cells(none, none, rows, rows, 0)
    if a.resolution > b.resolution:
        turned = _cells(b, a)
        return _Cells(turned.pruned, turned.born, turned.common_b, turned.common_a, turned.n_left_out)
    factor, rest = divmod(b.resolution, a.resolution)
    if rest:
        none = np.zeros(0, np.int64)
        return _Cells(np.arange(b.n_voxels), np.arange(a.n_voxels), none, none, 0)
    row_in_a = a.find(b.voxel_ijk // factor if factor > 1 else b.voxel_ijk).numpy()
    common_b = np.flatnonzero(row_in_a >= 0)
    common_a = row_in_a.take(common_b)
    in_both = np.zeros(a.n_voxels, bool)
    in_both[common_a] = True
    n_left_out = int(np.count_nonzero(in_both)) * factor**3 - len(common_b)
    return _Cells(np.flatnonzero(row_in_a < 0), np.flatnonzero(~in_both), common_a, common_b, n_left_out)


# Corners


def _common_corners(a: SparseVoxels, b: SparseVoxels) -> tuple[Int[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """Rows of the corners that lie at one place, rising in both."""
    if a is b:
        return (np.arange(a.n_corners),) * 2
    if a.resolution > b.resolution:
        return _common_corners(b, a)[::-1]
    factor, rest = divmod(b.resolution, a.resolution)
    if rest:
        return (np.zeros(0, np.int64),) * 2
    rows = b.find_corners(a.corner_ijk * factor if factor > 1 else a.corner_ijk).numpy()
    corner_a = np.flatnonzero(rows >= 0)
    return corner_a, rows.take(corner_a)


def _of_corners(a: State, b: State, corner_a: np.ndarray, corner_b: np.ndarray
                ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Bits of the common corners, and how far SDF and δ went in widths of B's voxels."""
    flags = np.zeros(len(corner_b), np.uint8)
    bad_a, bad_b = np.zeros(len(corner_b), bool), np.zeros(len(corner_b), bool)
    d_sdf = d_deform = None
    with np.errstate(invalid="ignore", over="ignore"):
        if a.sdf is not None and b.sdf is not None:
            before, after = (_rows(state.sdf, rows) for state, rows in ((a, corner_a), (b, corner_b)))
            bad_a |= ~np.isfinite(before)
            bad_b |= ~np.isfinite(after)
            d_sdf = _unknown((after - before) * np.float32(b.voxels.resolution), bad_a | bad_b)
            flipped = ((before < 0) != (after < 0)) & ~bad_a & ~bad_b
            flags[flipped] = np.where(before[flipped] < 0, OUTWARD, INWARD)
            flags[before.view(np.uint32) != after.view(np.uint32)] |= CHANGED
        if a.deform is not None and b.deform is not None:
            before, after = (_rows(state.deform, rows) for state, rows in ((a, corner_a), (b, corner_b)))
            spoiled_a, spoiled_b = ~_finite_rows(before), ~_finite_rows(after)
            d_deform = _unknown(_way(before, after, a.voxels.resolution, b.voxels.resolution), spoiled_a | spoiled_b)
            flags[_any_of_three(before.view(np.uint32) != after.view(np.uint32))] |= CHANGED
            bad_a |= spoiled_a
            bad_b |= spoiled_b
    flags[bad_b & ~bad_a] |= SPOILED
    flags[bad_a & ~bad_b] |= HEALED
    return flags, d_sdf, d_deform


def _rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float32)
    return values if len(rows) == len(values) else values.take(rows, axis=0)  # rows rise: all are all in order


def _unknown(values: np.ndarray, bad: np.ndarray) -> np.ndarray:
    values[bad] = np.nan
    return values


def _any_of_three(table: Bool[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
    return table[:, 0] | table[:, 1] | table[:, 2]  # a tenth of what any(axis=1) takes


def _finite_rows(table: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
    return np.isfinite(table[:, 0] + table[:, 1] + table[:, 2])


def _way(before: np.ndarray, after: np.ndarray, of_a: int, of_b: int) -> Float[np.ndarray, "k"]:
    """How far corners went by δ, in widths of B's voxels: each is moved by ½·tanh of a voxel along each axis."""
    found = np.zeros(len(after), np.float32)
    rows = np.flatnonzero(_any_of_three(before != after)) if of_a == of_b else np.arange(len(after))
    if len(rows) < len(after):
        before, after = before.take(rows, axis=0), after.take(rows, axis=0)
    way = 0.5 * (np.tanh(after) - np.float32(of_b / of_a) * np.tanh(before))
    found[rows] = np.sqrt(way[:, 0] ** 2 + way[:, 1] ** 2 + way[:, 2] ** 2)
    return found


def _of_voxels(voxels: SparseVoxels, rows: np.ndarray, corners: np.ndarray, values: np.ndarray | None
               ) -> np.ndarray | None:
    """Of each voxel in these rows its eight corners' bits together, or their greatest size; corners: the rows that the
    values are of, which hold all that these voxels have."""
    if values is None:
        return None
    bits = values.dtype == np.uint8
    whole = np.zeros(voxels.n_corners, values.dtype)
    whole[corners] = values if bits else np.nan_to_num(np.abs(values))
    found = np.zeros(voxels.n_voxels, values.dtype)
    for slot in voxels.corners_by_slot.numpy():
        (np.bitwise_or if bits else np.maximum)(found, whole.take(slot), out=found)
    return found if len(rows) == len(found) else found.take(rows)


# Faces


def _of_faces(a: State, b: State, one_lattice: bool) -> dict[str, Any]:
    """Quads in one and in both, by their edges."""
    if not one_lattice or a.sdf is None or b.sdf is None:
        return {"gained": None, "lost": None, "turned": None, "n_gained_by_sign": 0, "n_lost_by_sign": 0}
    place, kept = find_keys(a.quads.keys, b.quads.keys)
    lost = a.quads.keys[~kept]
    still = np.zeros(len(b.quads.keys), bool)
    still[place[kept]] = True
    gained = b.quads.keys[~still]
    turned = a.quads.keys[kept][a.quads.negative[kept] != b.quads.negative[place[kept]]]
    same = a.voxels is b.voxels  # then nothing came or went
    return {"gained": gained, "lost": lost, "turned": turned,
            "n_gained_by_sign": len(gained) if same else _n_uncrossed(a, gained),
            "n_lost_by_sign": len(lost) if same else _n_uncrossed(b, lost)}


def _n_uncrossed(state: State, keys: Int[np.ndarray, "Q"]) -> int:
    """How many of the edges have both their corners in a state, and on one side."""
    lower, axis = edges_of(keys, state.voxels.resolution)
    upper = lower.copy()
    upper[np.arange(len(keys)), axis] += 1
    rows = [state.voxels.find_corners(torch.from_numpy(ijk)).numpy() for ijk in (lower, upper)]
    there = (rows[0] >= 0) & (rows[1] >= 0)
    inside = [state.sdf.take(row[there]) < 0 for row in rows]
    return int(np.count_nonzero(inside[0] == inside[1]))

