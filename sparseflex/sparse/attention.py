"""Attention within windows of the grid, in buckets of windows that hold about equally many voxels."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparseflex.sparse.precision import working_dtype
from sparseflex.voxels import lattice_keys

PAD = 8
"""Windows are padded to a multiple of this many places; those of one padded length are computed together."""

CHUNK_NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Numbers of qkv that are computed on at once, at least a window: those of a cache; on CUDA few, large chunks."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bucket:
    """Windows of one padded length: the rows of each, and where they are filled; None where all are full.

    What is not filled names the window's own first row: it can bring nothing into the window that isn't there.
    """

    rows: Int[Tensor, "windows length"]
    filled: Bool[Tensor, "windows length"] | None

    def chunks(self, n_windows: int) -> Iterator[Bucket]:
        """Parts of at most n_windows."""
        filled = itertools.repeat(None) if self.filled is None else self.filled.split(n_windows)
        yield from map(Bucket, self.rows.split(n_windows), filled)


@dataclasses.dataclass(frozen=True, eq=False)
class WindowPlan:
    """Which rows of a batch attend to each other: window_of_row numbers the windows, buckets list their rows."""

    window_size: int
    shift: int
    window_of_row: Int[Tensor, "N"]
    window_lengths: Int[Tensor, "W"]
    buckets: tuple[Bucket, ...]

    @property
    def n_voxels(self) -> int:
        return self.window_of_row.shape[0]

    @property
    def n_windows(self) -> int:
        return self.window_lengths.shape[0]

    def chunks(self, device: torch.device, row_numbers: int) -> Iterator[Bucket]:
        """All buckets in parts that fit CHUNK_NUMBERS, where a row has row_numbers numbers."""
        limit = CHUNK_NUMBERS.get(device.type, CHUNK_NUMBERS["cuda"])
        for bucket in self.buckets:
            yield from bucket.chunks(max(1, limit // max(1, bucket.rows.shape[1] * row_numbers)))


def plan_windows(
    ijk_of_shapes: Sequence[Int[Tensor, "_ 3"]], resolution: int, window_size: int, shift: int
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
    rows = torch.sort(window_of_row, stable=True).indices
    first = lengths.cumsum(0) - lengths
    padded = torch.div(lengths + PAD - 1, PAD, rounding_mode="floor") * PAD
    buckets = []
    for length in torch.unique(padded).tolist():
        windows = (padded == length).nonzero()
        places = torch.arange(length, device=rows.device)
        filled = places < lengths[windows]
        taken = rows[first[windows] + places * filled]
        buckets.append(Bucket(taken, None if bool(filled.all()) else filled))
    return WindowPlan(window_size, shift, window_of_row, lengths, tuple(buckets))


def windowed_attention(qkv: Float[Tensor, "N 3 H D"], plan: WindowPlan) -> Float[Tensor, "N H D"]:
    """softmax(q kᵀ / √D) v among the voxels of each window; qkv[:, 0], [:, 1], [:, 2] are q, k and v.

    Keeps only qkv for the gradients, and computes the attention again for them. In the precision of qkv, or autocast's.
    """
    _check_qkv(qkv, plan)
    return _WindowedAttention.apply(qkv.to(working_dtype(qkv)), plan)


def attention_by_parts(
    qkv_of: Callable[[Int[Tensor, "places"]], Float[Tensor, "places 3 H D"]], plan: WindowPlan, device: torch.device,
    row_numbers: int,
) -> Iterator[tuple[Int[Tensor, "places"], Int[Tensor, "places"], Float[Tensor, "places H D"]]]:
    """windowed_attention without ever having qkv of all voxels, and without gradients: some windows at a time.

    qkv_of: makes it of these rows; row_numbers: how many numbers of it a row has. Gives the rows, some of them twice,
    where each one's result goes (n_voxels where it is not to be used), and the results.
    """
    for bucket in plan.chunks(device, row_numbers):
        rows = bucket.rows.reshape(-1)
        qkv = qkv_of(rows)
        qkv = qkv.to(working_dtype(qkv)).unflatten(0, bucket.rows.shape).permute(2, 0, 3, 1, 4)
        yield rows, _targets(bucket, plan.n_voxels), _attend(*qkv.unbind(0), bucket)


def _gather(qkv: Float[Tensor, "N 3 H D"], bucket: Bucket) -> tuple[Tensor, ...]:
    """q, k and v of the windows, (windows, H, length, D) each."""
    gathered = qkv.index_select(0, bucket.rows.reshape(-1)).unflatten(0, bucket.rows.shape)
    return gathered.permute(2, 0, 3, 1, 4).unbind(0)


def _attend(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket) -> Float[Tensor, "places H D"]:
    mask = None if bucket.filled is None else bucket.filled[:, None, None]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(0, 1)


def _targets(bucket: Bucket, n: int) -> Int[Tensor, "places"]:
    """The rows that a bucket's results go to; n, one past the last, for what is not filled."""
    rows = bucket.rows if bucket.filled is None else torch.where(bucket.filled, bucket.rows, n)
    return rows.reshape(-1)


class _WindowedAttention(torch.autograd.Function):
    """windowed_attention, chunk by chunk: beside qkv and the result only one chunk is there at a time."""

    @staticmethod
    def forward(ctx: Any, qkv: Float[Tensor, "N 3 H D"], plan: WindowPlan) -> Float[Tensor, "N H D"]:
        ctx.save_for_backward(qkv)
        ctx.plan = plan
        n, heads, width = qkv.shape[0], *qkv.shape[2:]
        out = qkv.new_empty(n + 1, heads, width)
        for bucket in plan.chunks(qkv.device, 3 * heads * width):
            out.index_copy_(0, _targets(bucket, n), _attend(*_gather(qkv, bucket), bucket))
        return out[:n]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "N H D"]) -> tuple[Tensor, None]:
        (qkv,) = ctx.saved_tensors
        n, heads, width = grad.shape
        out = qkv.new_empty(n + 1, 3, heads, width)
        for bucket in ctx.plan.chunks(qkv.device, 3 * heads * width):
            with torch.enable_grad():
                parts = [part.detach().requires_grad_() for part in _gather(qkv, bucket)]
                attended = _attend(*parts, bucket)
            of_attended = grad.index_select(0, bucket.rows.reshape(-1))
            if bucket.filled is not None:
                of_attended *= bucket.filled.reshape(-1, 1, 1)
            targets = _targets(bucket, n)
            for i, of_part in enumerate(torch.autograd.grad(attended, parts, of_attended)):
                out[:, i].index_copy_(0, targets, of_part.transpose(1, 2).flatten(0, 1))
        return out[:n], None


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
