"""Extraction: microseconds and peak bytes a voxel on a sphere shell of 1e6 voxels at 1024³, beside scikit-image.

Times are from bare coordinates, corners included; memory is VmHWM above what is resident before.
"""

from __future__ import annotations

import math
import time

import torch
from fresh import PeakMemory, row, run_job, serve

import sparseflex as sf


def sphere_shell(resolution: int, n_voxels: int) -> tuple[torch.Tensor, float]:
    """About n_voxels lattice cells nearest to a sphere, sorted, and the sphere's radius."""
    radius = math.sqrt(n_voxels / (4 * math.pi * 1.8)) / resolution
    axis = (torch.arange(resolution) + 0.5) / resolution - 0.5
    slabs = []
    for i in range(resolution):
        distance = (axis[i] ** 2 + axis[:, None] ** 2 + axis**2).sqrt_() - radius
        jk = (distance.abs() < 0.9 / resolution).nonzero()
        slabs.append(torch.cat([torch.full((len(jk), 1), i), jk], dim=1))
    return torch.cat(slabs).to(torch.int32), radius


def _flex(ijk: torch.Tensor, resolution: int, radius: float, requires_grad: bool) -> sf.SparseFlex:
    voxels = sf.SparseVoxels(ijk, resolution)
    flex = sf.SparseFlex.from_sdf(voxels, voxels.corners_world.norm(dim=1) - radius)
    if not requires_grad:
        return flex
    leaves = [getattr(flex, n).requires_grad_() for n in ("corner_sdf", "corner_deform", "alpha", "beta", "gamma")]
    return sf.SparseFlex(voxels, *leaves, flex.consistency_loss)


def job_time(resolution: int, n_voxels: int, training: bool) -> dict:
    """Seconds a voxel from bare coordinates (corners included), the best of three after one to warm up."""
    ijk, radius = sphere_shell(resolution, n_voxels)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        mesh = sf.extract_mesh(_flex(ijk, resolution, radius, training), training=training)
        if training:
            (mesh.vertices.square().sum() + mesh.l_dev.sum()).backward()
        times.append(time.perf_counter() - start)
    return {"secs": min(times[1:]), "voxels": len(ijk), "faces": mesh.n_faces}


def job_memory(resolution: int, n_voxels: int, training: bool) -> dict:
    """Peak bytes of one extraction above what is resident once coordinates and parameters are there."""
    ijk, radius = sphere_shell(resolution, n_voxels)
    torch.set_grad_enabled(training)
    flex = _flex(ijk, resolution, radius, training)
    fields = [getattr(flex, n).detach().clone() for n in ("corner_sdf", "corner_deform", "alpha", "beta", "gamma")]
    del flex
    peak = PeakMemory()
    peak.start()
    voxels = sf.SparseVoxels(ijk, resolution)
    for field in fields:
        field.requires_grad_(training)
    mesh = sf.extract_mesh(sf.SparseFlex(voxels, *fields, torch.zeros(())), training=training)
    if training:
        (mesh.vertices.square().sum() + mesh.l_dev.sum()).backward()
    return {"bytes": peak.bytes_above_start(), "voxels": len(ijk)}


def job_dense(resolution: int, n_voxels: int) -> dict:
    """scikit-image's dense marching cubes on the same sphere; sampling the field is not counted."""
    from skimage.measure import marching_cubes

    _, radius = sphere_shell(resolution, n_voxels)
    axis = torch.arange(resolution + 1) / resolution - 0.5
    field = torch.empty(resolution + 1, resolution + 1, resolution + 1)
    for i, x in enumerate(axis):
        field[i] = (x**2 + axis[:, None] ** 2 + axis**2).sqrt_() - radius
    times = []
    for _ in range(2):
        start = time.perf_counter()
        faces = marching_cubes(field.numpy(), 0.0)[1]
        times.append(time.perf_counter() - start)
    return {"secs": min(times), "faces": len(faces)}


def rows() -> list[dict]:
    """The rows of `workbench bench`."""
    plain, training = (run_job(__file__, "time", 1024, 1_000_000, flag) for flag in (False, True))
    found = [
        row("extraction, 1e6 voxels at 1024³", plain["secs"] / plain["voxels"] * 1e6, "µs/voxel", 2),
        row("extraction forward + backward", training["secs"] / training["voxels"] * 1e6, "µs/voxel", 4),
    ]
    for flag, name, limit in ((False, "extraction peak memory", 600), (True, "the same, forward + backward", None)):
        used = run_job(__file__, "memory", 1024, 1_000_000, flag)
        found.append(row(name, used["bytes"] / used["voxels"], "B/voxel", limit))
    for resolution in (512, 1024):
        n_voxels = 1_000_000 * resolution**2 // 1024**2
        ours = run_job(__file__, "time", resolution, n_voxels, False)
        dense = run_job(__file__, "dense", resolution, n_voxels)
        found.append(row(f"time / dense marching cubes, {resolution}³", ours["secs"] / dense["secs"], "x", 1))
    return found


if __name__ == "__main__":
    serve({"time": job_time, "memory": job_memory, "dense": job_dense})
