"""The 27 neighbours of every voxel as a table of rows: searched for once, or derived from the table of the parents."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from sparseflex.voxels import SparseVoxels, lattice_keys

OFFSETS = tuple((x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1))
"""Tap t of a 3³ kernel looks at ijk + OFFSETS[t], z fastest; tap 26 − t looks the other way."""

CENTRE = 13

OCTANTS = tuple((x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1))
"""Child c of a voxel lies at 2·ijk + OCTANTS[c], z fastest."""

_COLUMNS = ((0, 1), (1, -1), (1, 0), (1, 1))  # (x, y) steps of the taps after the centre that leave the z column


def tap_of(offset: tuple[int, int, int]) -> int:
    """The tap that looks at ijk + offset."""
    x, y, z = offset
    return 9 * (x + 1) + 3 * (y + 1) + z + 1


def neighbour_table(voxels: SparseVoxels, first_row: int = 0) -> Int[Tensor, "27 N"]:
    """The row of the voxel at ijk + OFFSETS[t], counted from first_row, int32, or −1 where there is none.

    One search finds the three voxels of a column along z, which are neighbours in the order of the keys; what a tap
    finds is also what the tap across finds the other way. So 4 searches fill the 26 taps.
    """
    n, device = voxels.n_voxels, voxels.device
    table = torch.full((27, n), -1, dtype=torch.int32, device=device)
    side = voxels.resolution + 2  # a rim of cells that are never there: no key wraps from one line into the next
    keys = lattice_keys(voxels.voxel_ijk + 1, side)
    order = None
    if not bool((keys[1:] > keys[:-1]).all()):
        keys, order = torch.sort(keys)
    rows = torch.arange(n, device=device) if order is None else order
    global_rows = (rows + first_row).to(torch.int32)
    ends = torch.cat([keys, keys.new_full((1,), torch.iinfo(keys.dtype).max)])

    def fill(tap: int, here: Tensor, there: Tensor) -> None:
        """here and there: places among the sorted keys of voxels that are tap apart."""
        for t, at, found in ((tap, here, there), (26 - tap, there, here)):
            at_rows = at if order is None else order.index_select(0, at)
            table[t].index_copy_(0, at_rows, global_rows.index_select(0, found))

    table[CENTRE].index_copy_(0, rows, global_rows)
    here = (keys[1:] == keys[:-1] + 1).nonzero().squeeze(1)
    fill(tap_of((0, 0, 1)), here, here + 1)
    for x, y in _COLUMNS:
        wanted = keys + ((x * side + y) * side - 1)
        place = torch.searchsorted(ends, wanted)
        for z in (-1, 0, 1):
            hit = (ends.index_select(0, place) == wanted) & (place < n)
            here = hit.nonzero().squeeze(1)
            fill(tap_of((x, y, z)), here, place.index_select(0, here))
            place += hit
            wanted += 1
    return table


def children_table(parents: Int[Tensor, "27 N"]) -> Int[Tensor, "27 8*N"]:
    """The table of all children, row 8·i + c for child c of row i, from their parents' table."""
    n = parents.shape[1]
    table = torch.empty(27, n, 8, dtype=torch.int32, device=parents.device)
    firsts = parents * 8
    for tap, offset in enumerate(OFFSETS):
        for octant, place in enumerate(OCTANTS):
            lattice = [a + b for a, b in zip(place, offset, strict=True)]
            parent_x, parent_y, parent_z = (v // 2 for v in lattice)
            x, y, z = (v % 2 for v in lattice)
            torch.add(firsts[tap_of((parent_x, parent_y, parent_z))], 4 * x + 2 * y + z, out=table[tap, :, octant])
    return table.view(27, 8 * n).clamp_(min=-1)  # 8·(−1) + 7 is −1: what lacks its parent stays negative
