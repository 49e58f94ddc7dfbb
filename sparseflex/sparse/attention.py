"""Attention within windows of the grid, in buckets of windows that hold about equally many voxels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparseflex.voxels import lattice_keys

PAD = 8
"""Windows are padded to a multiple of this many slots; those of one padded length are computed together."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bucket:
    """n_windows windows of padded_length slots each; mask is False on empty slots, None where all are full."""

    n_windows: int
    padded_length: int
    mask: Bool[Tensor, "windows 1 1 length"] | None


@dataclasses.dataclass(frozen=True, eq=False)
class WindowPlan:
    """Where the rows of a batch go for windowed attention: slots, bucket after bucket, window after window.

    window_of_row numbers the windows; slot_of_row is where a row's query, key and value go.
    """

    window_size: int
    shift: int
    window_of_row: Int[Tensor, "N"]
    slot_of_row: Int[Tensor, "N"]
    buckets: tuple[Bucket, ...]
    window_lengths: Int[Tensor, "W"]

    @property
    def n_voxels(self) -> int:
        return self.slot_of_row.shape[0]

    @property
    def n_windows(self) -> int:
        return self.window_lengths.shape[0]

    @property
    def n_slots(self) -> int:
        return sum(bucket.n_windows * bucket.padded_length for bucket in self.buckets)


def plan_windows(
    ijk_of_shapes: Sequence[Int[Tensor, "n 3"]], resolution: int, window_size: int, shift: int
) -> WindowPlan:
    """The plan of (ijk + shift) // window_size; no window reaches from one shape into another."""
    if window_size < 1:
        raise ValueError(f"window_size must be at least 1 voxel, got {window_size}")
    if shift < 0:
        raise ValueError(f"shift must be at least 0 voxels, got {shift}")
    side = (resolution - 1 + shift) // window_size + 1
    of_row, n_windows = [], 0
    for ijk in ijk_of_shapes:
        keys = lattice_keys(torch.div(ijk.long() + shift, window_size, rounding_mode="floor"), side)
        found, windows = torch.unique(keys, return_inverse=True)
        of_row.append(windows + n_windows)
        n_windows += found.shape[0]
    window_of_row = torch.cat(of_row)
    lengths = torch.bincount(window_of_row, minlength=n_windows)
    padded = torch.div(lengths + PAD - 1, PAD, rounding_mode="floor") * PAD
    padded, by_length = torch.sort(padded, stable=True)
    first_slot = torch.empty_like(padded)
    first_slot[by_length] = padded.cumsum(0) - padded
    rows = torch.sort(window_of_row, stable=True).indices
    first_place = lengths.cumsum(0) - lengths
    sorted_windows = window_of_row[rows]
    slots = torch.empty_like(rows)
    places = torch.arange(rows.shape[0], device=rows.device) - first_place[sorted_windows]
    slots[rows] = first_slot[sorted_windows] + places
    buckets, first = [], 0
    for length, count in zip(*(t.tolist() for t in torch.unique_consecutive(padded, return_counts=True)), strict=True):
        filled = lengths[by_length[first : first + count]]
        mask = (torch.arange(length, device=rows.device) < filled[:, None])[:, None, None]
        buckets.append(Bucket(count, length, None if bool(mask.all()) else mask))
        first += count
    return WindowPlan(window_size, shift, window_of_row, slots, tuple(buckets), lengths)


def windowed_attention(qkv: Float[Tensor, "N 3 H D"], plan: WindowPlan) -> Float[Tensor, "N H D"]:
    """softmax(q kᵀ / √D) v among the voxels of each window; qkv[:, 0], [:, 1], [:, 2] are q, k and v."""
    _check_qkv(qkv, plan)
    heads, width = qkv.shape[2:]
    slots = qkv.new_zeros(plan.n_slots, 3, heads, width).index_copy(0, plan.slot_of_row, qkv)
    outs = []
    sizes = [bucket.n_windows * bucket.padded_length for bucket in plan.buckets]
    for bucket, part in zip(plan.buckets, slots.split(sizes), strict=True):
        windows = part.view(bucket.n_windows, bucket.padded_length, 3, heads, width)
        q, k, v = windows.permute(2, 0, 3, 1, 4).unbind(0)
        out = scaled_dot_product_attention(q, k, v, attn_mask=bucket.mask)
        outs.append(out.transpose(1, 2).reshape(-1, heads, width))
    return torch.cat(outs).index_select(0, plan.slot_of_row) if outs else qkv[:, 0]


def attention_of_row(
    qkv: Float[Tensor, "N 3 H D"], plan: WindowPlan, row: int
) -> tuple[Int[Tensor, "n"], Float[Tensor, "H n"]]:
    """The rows of that row's window, ascending, and how much each head of the row attends to each (sums to 1)."""
    _check_qkv(qkv, plan)
    if not 0 <= row < plan.n_voxels:
        raise ValueError(f"row must be in [0, {plan.n_voxels}), got {row}")
    rows = (plan.window_of_row == plan.window_of_row[row]).nonzero().squeeze(1)
    query, keys = qkv[row, 0], qkv[rows, 1]
    logits = torch.einsum("hd,nhd->hn", query.float(), keys.float()) / qkv.shape[3] ** 0.5
    return rows, logits.softmax(dim=1).to(qkv.dtype)


def _check_qkv(qkv: Tensor, plan: WindowPlan) -> None:
    if qkv.ndim != 4 or qkv.shape[0] != plan.n_voxels or qkv.shape[1] != 3:
        raise ValueError(f"qkv must be ({plan.n_voxels}, 3, heads, width), got {tuple(qkv.shape)}")
