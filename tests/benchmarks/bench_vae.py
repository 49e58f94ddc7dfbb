"""The VAE at the release's widths, with random weights: seconds of a trunk, and what a chunk of a decode holds.

Memory is VmHWM above what is resident before, less the result itself.
"""

from __future__ import annotations

import time

import torch
from bench_extraction import sphere_shell
from fresh import PeakMemory, row, run_job, serve

import sparseflex as sf
from sparseflex.sparse import VoxelBatch
from sparseflex.vae.config import VAEConfig
from sparseflex.vae.decoding import upsample_and_prune
from sparseflex.vae.transformer import Trunk
from sparseflex.vae.upsampling import upsamplings

TRUNK_VOXELS = 4335
CHUNK = 1000


def shell(resolution: int, n_voxels: int) -> VoxelBatch:
    """A sphere's shell of exactly so many voxels."""
    ijk, _ = sphere_shell(resolution, round(1.2 * n_voxels))
    return VoxelBatch((sf.SparseVoxels(ijk[:n_voxels], resolution),))


def job_trunk(n_voxels: int) -> dict:
    """Seconds of the decoder's 12 blocks, 768 wide; plans included the first time, the better of two after it."""
    torch.manual_seed(0)
    trunk, batch = Trunk(VAEConfig(), 8, 12).requires_grad_(False), shell(64, n_voxels)
    latent, times = torch.randn(n_voxels, 8), []
    for _ in range(3):
        start = time.perf_counter()
        trunk.run(latent, batch)
        times.append(time.perf_counter() - start)
    return {"first": times[0], "secs": min(times[1:])}


def job_level(n_voxels: int, chunk_voxels: int | None) -> dict:
    """Peak bytes and seconds of the first upsampling (768 to 192 channels), the result not counted."""
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    block, batch = upsamplings(VAEConfig())[0], shell(128, n_voxels)
    x = torch.randn(n_voxels, 768)
    upsample_and_prune(block, x[:50], batch.prune(torch.arange(n_voxels) < 50))  # what torch loads at first use
    peak = PeakMemory()
    peak.start()
    start = time.perf_counter()
    level = upsample_and_prune(block, x, batch, chunk_voxels=chunk_voxels)
    secs = time.perf_counter() - start
    result = sum(t.nbytes for t in (level.features, level.occupancy_logits, level.kept, level.voxel_ijk))
    return {"bytes": peak.bytes_above_start() - result, "secs": secs, "kept": level.n_kept}


def rows() -> list[dict]:
    """The rows of `workbench bench`."""
    trunk = run_job(__file__, "trunk", TRUNK_VOXELS)
    found = [
        row(f"full-width trunk, {TRUNK_VOXELS:,} voxels, first time", trunk["first"], "s", 15),
        row("the same again, plans cached", trunk["secs"], "s", 15),
    ]
    few, many = (run_job(__file__, "level", n, CHUNK) for n in (4000, 16_000))
    whole = run_job(__file__, "level", 16_000, None)
    found += [
        row(f"upsampling in chunks of {CHUNK:,}: memory of 4,000 voxels", few["bytes"] / 1e6, "MB"),
        row("the same of 16,000 voxels", many["bytes"] / 1e6, "MB"),
        row("16,000 / 4,000 voxels: the chunk bounds it", many["bytes"] / few["bytes"], "x", 1.3),
        row("16,000 voxels: chunks / whole, memory", many["bytes"] / whole["bytes"], "x", 1),
        row("16,000 voxels: chunks / whole, time", many["secs"] / whole["secs"], "x"),
    ]
    return found


if __name__ == "__main__":
    serve({"trunk": job_trunk, "level": job_level})
