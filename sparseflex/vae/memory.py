"""How much memory a pass through the VAE would take and how much there is, so that too much is refused at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.memory import VOXELS_PER_AREA, available_bytes, in_words, surface_area
from sparseflex.mesh import Mesh
from sparseflex.vae.config import VAEConfig
from sparseflex.vae.point_encoder import POINTS_AT_ONCE
from sparseflex.voxels import lattice_keys

# measured on a sphere at 32³ and 64³ with the tiny widths
_FLOATS_PER_POINT = 3  # of the point encoder, for each hidden channel
_FLOATS_PER_POINT_AT_WORK = 13  # and of those that go through its layers at once
_BYTES_PER_SAMPLE = 250  # of a mesh, in double precision
_FLOATS_IN_TRUNK = 4  # of encoder and decoder, for each voxel and channel: 3 before the first block, 2 in blocks
_FLOATS_IN_LEVEL = 6  # of an upsampling, for each child and channel
_FLOATS_KEPT = 2  # of the same, while it goes in chunks of parents
_BYTES_PER_SURFACE_VOXEL = 1_300
_BYTES_IN_TRUNK = {False: 4, True: 2}  # of a number, in half precision or not; of the point encoder, too
_BYTES_IN_LEVEL = {False: 4, True: 3}  # whose sums stay float32
_CHUNK_AND_RING = 2  # a chunk is worked on with the voxels that touch it

_VOXELS_PER_CELL = 2  # voxels in or next to the points, for each that holds one
_KEPT = (3.5, 2.5)
"""Children that stay of a voxel at a surface, level by level."""

_CHUNK = 4096  # what is advised

_HELD_BYTES = 1e9
"""What the blocks' results may take that are kept to be looked at."""


def expected_voxels(shape: Mesh | Float[Tensor, "P 3"], resolution: int) -> float:
    """About how many voxels a mesh or points have, without making them."""
    if isinstance(shape, Mesh):
        return min(VOXELS_PER_AREA * surface_area(shape) * resolution**2, float(resolution) ** 3)
    points_world = shape
    cell = ((points_world + 0.5) * resolution).floor().clamp(0, resolution - 1).long()
    return _VOXELS_PER_CELL * len(torch.unique(lattice_keys(cell, resolution)))


def expected_bytes(
    config: VAEConfig, n_points: int, n_voxels: float, *, prune: bool = True, chunk_voxels: int = 0, half: bool = False
) -> float:
    """About how many bytes a pass takes at its peak, weights left out.

    chunk_voxels: 0 where it decodes whole. half: whether the networks compute in half precision.
    """
    blocks = config.n_encoder_blocks + config.n_decoder_blocks
    number = _BYTES_IN_TRUNK[half]
    each = number * n_voxels * config.model_channels
    at_work = _FLOATS_PER_POINT_AT_WORK * min(n_points, POINTS_AT_ONCE)
    encoder = number * config.hidden_channels * (_FLOATS_PER_POINT * n_points + at_work)
    peaks = [_BYTES_PER_SAMPLE * n_points, encoder, _FLOATS_IN_TRUNK * each]
    parents = n_voxels
    for channels, kept in zip(config.level_channels, _KEPT, strict=True):
        at_once = min(_CHUNK_AND_RING * chunk_voxels, parents) if chunk_voxels else parents
        held = _FLOATS_KEPT * parents if at_once < parents else 0
        peaks.append(_BYTES_IN_LEVEL[half] * 8 * channels * (_FLOATS_IN_LEVEL * at_once + held))
        parents *= kept if prune else 8
    peaks.append(_BYTES_PER_SURFACE_VOXEL * parents)
    return max(peaks) + min(blocks * each, _HELD_BYTES)


def check_memory(
    config: VAEConfig, n_points: int, n_voxels: float, *, prune: bool = True, chunk_voxels: int = 0,
    half: bool = False, device: torch.device | str = "cpu",
) -> None:
    """Raises ValueError that says the memory a pass would take, where it is more than there is, and what helps."""
    there = available_bytes(device)

    def wanted(points: int, chunk: int) -> float:
        return expected_bytes(config, points, n_voxels, prune=prune, chunk_voxels=chunk, half=half)

    if wanted(n_points, chunk_voxels) <= there:
        return
    helps = "a lower --resolution takes less"
    if chunk_voxels == 0 and wanted(n_points, _CHUNK) <= there:
        helps = f"with --chunk-voxels {_CHUNK} it would take {in_words(wanted(n_points, _CHUNK))}"
    elif wanted(n_points // 8, chunk_voxels or _CHUNK) <= there:
        helps = f"--points {n_points // 8} --chunk-voxels {chunk_voxels or _CHUNK} would take " \
                f"{in_words(wanted(n_points // 8, chunk_voxels or _CHUNK))}"
    raise ValueError(f"resolution {config.resolution} would take about {in_words(wanted(n_points, chunk_voxels))} of "
                     f"memory for {n_points:,} points and some {n_voxels:,.0f} voxels, and {in_words(there)} are "
                     f"available; {helps}")
