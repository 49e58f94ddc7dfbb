"""The convolution of our own: tap by tap over the neighbours that exist, in blocks of rows that stay in the cache."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparseflex.sparse.neighbours import CENTRE, OCTANTS, OFFSETS
from sparseflex.sparse.precision import working_sum_dtype

BLOCK_NUMBERS = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Numbers in the buffers of a block of rows: those of a CPU core's cache; on CUDA few, large blocks."""


@dataclasses.dataclass(frozen=True)
class Tap:
    """What a neighbour adds to: the sites of a row (its children, or itself), and the columns of the packed weight."""

    index: int
    sites: tuple[int, ...]
    first_column: int

    def columns(self, channels: int) -> slice:
        return slice(self.first_column * channels, (self.first_column + len(self.sites)) * channels)


@dataclasses.dataclass(frozen=True)
class TapLayout:
    """The taps of a convolution whose rows have n_sites outputs each."""

    n_sites: int
    taps: tuple[Tap, ...]


SAME_LEVEL = TapLayout(1, tuple(Tap(t, (0,), t) for t in range(27)))
"""A row's output is at the row's voxel."""


def _reaches(octant: tuple[int, int, int], offset: tuple[int, int, int]) -> bool:
    return all(step == 0 or step == 2 * place - 1 for place, step in zip(octant, offset, strict=True))


def _child_layout() -> TapLayout:
    taps, column = [], 0
    for t, offset in enumerate(OFFSETS):
        # the lower child of an axis looks at its parent's lower neighbour or its parent, the upper one at the upper
        sites = tuple(c for c, place in enumerate(OCTANTS) if _reaches(place, offset))
        taps.append(Tap(t, sites, column))
        column += len(sites)
    return TapLayout(8, tuple(taps))


CHILDREN = _child_layout()
"""A row's outputs are at the children of its voxel."""


def pack_same_level(weight: Float[Tensor, "out 3 3 3 in"]) -> Float[Tensor, "in columns"]:
    """The columns of SAME_LEVEL: (in, out) of tap after tap."""
    return weight.permute(4, 1, 2, 3, 0).reshape(weight.shape[4], -1)


def pack_children(weight: Float[Tensor, "out 3 3 3 in"]) -> Float[Tensor, "in columns"]:
    """The columns of CHILDREN: for each neighbour of the parent and child, the sum of the taps that fall onto it."""
    columns = []
    for tap in CHILDREN.taps:
        for site in tap.sites:
            # k: taps of the child along an axis; its lattice place place + k − 1 lies in the parent at that // 2
            spans = [
                [k for k in range(3) if (place + k - 1) // 2 == offset]
                for place, offset in zip(OCTANTS[site], OFFSETS[tap.index], strict=True)
            ]
            columns.append(sum(weight[:, x, y, z] for x, y, z in itertools.product(*spans)).T)
    return torch.cat(columns, dim=1)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Rows of a block (counted from its start) that have a neighbour at a tap, and the rows of those neighbours."""

    rows: Int[Tensor, "n"]
    neighbours: Int[Tensor, "n"]


def _pairs(table: Int[Tensor, "27 n"]) -> Iterator[Pairs]:
    """For each tap the pairs of the table's columns."""
    n, flat = table.shape[1], table.reshape(-1)
    places = (flat >= 0).nonzero().squeeze(1)
    neighbours = flat.index_select(0, places)
    ends = torch.searchsorted(places, torch.arange(1, 28, device=table.device) * n).tolist()
    for tap, (first, end) in enumerate(itertools.pairwise([0, *ends])):
        yield Pairs(places[first:end].sub_(tap * n), neighbours[first:end])


def _block_rows(device: torch.device, n_numbers: int) -> int:
    """Rows of a block whose buffers hold n_numbers a row."""
    fit = BLOCK_NUMBERS.get(device.type, BLOCK_NUMBERS["cuda"]) // n_numbers
    return max(64, fit) * (torch.get_num_threads() if device.type == "cpu" else 1)


class _Buffers:
    """Memory for one tap's pairs, used again for each."""

    def __init__(self, like: Tensor) -> None:
        self._like, self._of = like, {}

    def __call__(self, name: str, rows: int, width: int) -> Tensor:
        held = self._of.get(name)
        if held is None or held.numel() < rows * width:
            held = self._of[name] = self._like.new_empty(rows * width)
        return held[: rows * width].view(rows, width)


@functools.lru_cache(maxsize=64)
def _sites(sites: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(sites, device=device)


def _site_rows(rows: Int[Tensor, "n"], tap: Tap, layout: TapLayout) -> Int[Tensor, "m"]:
    """The output rows of the tap's sites, row after row."""
    if layout.n_sites == 1:
        return rows
    return (rows.long()[:, None] * layout.n_sites + _sites(tap.sites, rows.device)).view(-1)


class TapConv(torch.autograd.Function):
    """out[row, site] = bias + Σ over taps with that site of features[neighbour at the tap] @ the tap's columns.

    Half precision is multiplied as it is and summed over the taps in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Float[Tensor, "N in"],
        packed: Float[Tensor, "in columns"],
        bias: Float[Tensor, "out"] | None,
        table: Int[Tensor, "27 N"],
        layout: TapLayout,
    ) -> Float[Tensor, "sites out"]:
        ctx.save_for_backward(features, packed, table)
        ctx.layout, ctx.has_bias = layout, bias is not None
        n, inside = features.shape
        channels = packed.shape[1] // sum(len(tap.sites) for tap in layout.taps)
        out = features.new_empty(n * layout.n_sites, channels)
        wide = working_sum_dtype(features.dtype)
        weights = [packed[:, tap.columns(channels)].contiguous() for tap in layout.taps]
        buffers = _Buffers(features)
        step = _block_rows(features.device, inside + layout.n_sites * channels)
        for first in range(0, n, step):
            block = table[:, first : first + step]
            part = out[first * layout.n_sites : (first + block.shape[1]) * layout.n_sites]
            total = part if wide == part.dtype else torch.empty_like(part, dtype=wide)
            total.view(block.shape[1], -1).copy_(features[first : first + step] @ weights[CENTRE])
            if bias is not None:
                total += bias
            for tap, pairs in zip(layout.taps, _pairs(block), strict=True):
                size = pairs.rows.shape[0]
                if tap.index == CENTRE or size == 0:
                    continue
                gathered = torch.index_select(features, 0, pairs.neighbours, out=buffers("in", size, inside))
                products = torch.mm(gathered, weights[tap.index], out=buffers("out", size, len(tap.sites) * channels))
                total.index_add_(0, _site_rows(pairs.rows, tap, layout), products.view(-1, channels).to(wide))
            if total is not part:
                part.copy_(total)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "sites out"]) -> tuple[Tensor | None, ...]:
        """A neighbour's gradient comes from the rows it is a neighbour of: those that the tap across finds."""
        features, packed, table = ctx.saved_tensors
        layout, wide = ctx.layout, working_sum_dtype(features.dtype)
        n, inside = features.shape
        channels, grad = grad.shape[1], grad.contiguous()
        of_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        of_packed = torch.zeros_like(packed, dtype=wide) if ctx.needs_input_grad[1] else None
        of_bias = grad.sum(dim=0) if ctx.has_bias and ctx.needs_input_grad[2] else None
        buffers = _Buffers(features)
        step = _block_rows(features.device, inside + layout.n_sites * channels)
        for first in range(0, n if of_features is not None or of_packed is not None else 0, step):
            block = table[:, first : first + step]
            inputs = features[first : first + step]
            total = features.new_zeros(inputs.shape, dtype=wide)
            for tap, pairs in zip(reversed(layout.taps), _pairs(block), strict=True):
                size, width = pairs.rows.shape[0], len(tap.sites) * channels
                if size == 0:
                    continue
                columns, own = tap.columns(channels), inputs
                if tap.index == CENTRE:
                    gathered = grad[first * layout.n_sites : (first + size) * layout.n_sites].view(size, width)
                else:
                    sites, gathered = _site_rows(pairs.neighbours, tap, layout), buffers("out", size, width)
                    torch.index_select(grad, 0, sites, out=gathered.view(-1, channels))
                if of_features is not None:
                    products = torch.mm(gathered, packed[:, columns].T, out=buffers("in", size, inside))
                    total.index_add_(0, pairs.rows, products.to(wide))
                if of_packed is not None:
                    if tap.index != CENTRE:
                        own = torch.index_select(inputs, 0, pairs.rows, out=buffers("in", size, inside))
                    of_packed[:, columns] += own.T @ gathered
            if of_features is not None:
                of_features[first : first + step] = total
        return of_features, None if of_packed is None else of_packed.to(packed.dtype), of_bias, None, None
