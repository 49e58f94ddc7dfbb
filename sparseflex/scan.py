"""Passes over all voxel centres: affine functions of them in chunks that stay in cache, and exactly where in doubt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.camera import Camera

if TYPE_CHECKING:
    from sparseflex.voxels import SparseVoxels

# voxels a chunk: its few float32 rows stay in cache, yet the cost of a call doesn't show; a GPU wants few launches
CPU_CHUNK = 131_072
CUDA_CHUNK = 8_388_608

BLOCK = 512
"""Voxels that are looked at again together; chunks are whole multiples of it."""


def _dtype(device: torch.device) -> torch.dtype:
    """float32 on the CPU, where memory traffic is what it costs; float64 on other devices and wherever the user
    allows matrix products less than float32 precision."""
    single = device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if single else torch.float64


def rounding(rows: Float[Tensor, "k 4"], device: torch.device) -> float:
    """By how much affine_chunks may be off: four products and their sum, the rounded coefficients, and the centres,
    which are float32."""
    linear, offset = 0.5 * rows[:, :3].abs().sum(dim=1), rows[:, 3].abs()
    error = 4 * torch.finfo(_dtype(device)).eps * (linear + offset) + torch.finfo(torch.float32).eps * linear
    return float(error.amax())


def affine_chunks(voxels: SparseVoxels, rows: Float[Tensor, "k 4"]) -> Iterator[tuple[slice, Float[Tensor, "k n"]]]:
    """Evaluates rows @ (x, y, z, 1) of all centres: yields a range of voxels and its values, a buffer that the next
    chunk overwrites."""
    centers = voxels.centers_by_axis
    n_voxels, device = centers.shape[1], centers.device
    rows = rows.to(device, _dtype(device))
    linear, offset = rows[:, :3].contiguous(), rows[:, 3:].contiguous()
    chunk = max(min(CPU_CHUNK if device.type == "cpu" else CUDA_CHUNK, n_voxels), 1)
    flat = torch.empty(rows.shape[0] * chunk, dtype=rows.dtype, device=device)
    for start in range(0, n_voxels, chunk):
        part = slice(start, min(start + chunk, n_voxels))
        values = flat[: rows.shape[0] * (part.stop - start)].view(rows.shape[0], -1)
        torch.addmm(offset, linear, centers[:, part].to(rows.dtype), out=values)
        yield part, values


def clip_of(voxels: SparseVoxels, camera: Camera, index: Int[Tensor, "M"]) -> Float[Tensor, "3 M"]:
    """x, y and w (the depth) of some centres in clip coordinates, float64: what decides in every doubtful case.

    So neither chunks and threads nor the device move a voxel across a plane, and lattice planes stay planes.
    """
    rows = camera.clip_from_world[[0, 1, 3]].to(voxels.device)
    centers = (voxels.voxel_ijk[index].double() + 0.5) / voxels.resolution - 0.5
    return torch.addmm(rows[:, 3:], rows[:, :3], centers.T)


def laterally_inside(clip: Float[Tensor, "3 M"]) -> Bool[Tensor, "M"]:
    return (clip[0].abs() <= clip[2]) & (clip[1].abs() <= clip[2]) & (clip[2] > 0)


def marked(mask: Bool[Tensor, "N"]) -> Int[Tensor, "M"]:
    """Rows of the few True entries. Looks at eight bytes at a time: several times faster than nonzero."""
    n_whole = mask.shape[0] // 8 * 8
    words = mask[:n_whole].view(torch.int64).nonzero()
    rows = (words * 8 + torch.arange(8, device=mask.device)).flatten()
    rows = torch.cat([rows, torch.arange(n_whole, mask.shape[0], device=mask.device)])
    return rows[mask[rows]]


def all_within(
    voxels: SparseVoxels,
    rows: Float[Tensor, "k 4"],
    further: Float[Tensor, "m 4"] | None = None,
    take: Callable[[slice, Float[Tensor, "m n"]], None] | None = None,
) -> tuple[Bool[Tensor, "N"], Int[Tensor, "M"]]:
    """The voxels at whose centres all rows but the last lie within ± the last, and those where rounding may decide.

    take gets the values of further rows, chunk by chunk. Only the least distance of each block of voxels from the
    border is kept on the way; the few blocks that come near it are looked at again. torch's comparisons take ten times
    as long as its arithmetic on the CPU, hence none of whole chunks.
    """
    n_voxels, device, k = voxels.n_voxels, voxels.device, rows.shape[0]
    inside = torch.empty(n_voxels, dtype=torch.bool, device=device)
    # 0: the last block, if it isn't a whole one, is looked at again anyway
    nearest = torch.zeros(-(-n_voxels // BLOCK), dtype=_dtype(device), device=device)
    for part, values in affine_chunks(voxels, rows if further is None else torch.cat([rows, further])):
        if take is not None:
            take(part, values[k:])
        margin = _margin(values[:k])
        inside[part].copy_(margin.clamp(min=0))
        n_whole, first = margin.shape[0] // BLOCK, part.start // BLOCK
        blocks = margin.abs_()[: n_whole * BLOCK].view(n_whole, BLOCK)
        torch.amin(blocks, dim=1, out=nearest[first : first + n_whole])
    error = rounding(rows[:-1], device) + rounding(rows[-1:], device)
    index = ((nearest < error).nonzero() * BLOCK + torch.arange(BLOCK, device=device)).flatten()
    index = index[index < n_voxels]
    again = rows.to(device, _dtype(device))
    values = torch.addmm(again[:, 3:], again[:, :3], voxels.centers_by_axis.index_select(1, index).to(again.dtype))
    # a product of another size may be rounded otherwise: both are within the error of the truth
    return inside, index[_margin(values).abs_() < 3 * error]


def _margin(values: Float[Tensor, "k n"]) -> Float[Tensor, "n"]:
    """The last row less the largest |value| of the others; overwrites them all."""
    return values[-1].sub_(torch.amax(values[:-1].abs_(), dim=0))
