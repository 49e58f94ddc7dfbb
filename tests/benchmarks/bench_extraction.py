"""Extraction: microseconds and peak bytes a voxel on a sphere shell of 1e6 voxels at 1024³, beside scikit-image.

Every row is measured in a fresh process (`python bench_extraction.py JOB …` prints one JSON object): peak memory is
VmHWM above the resident set before, and what another job left behind must not count.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

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


def _status_bytes(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(key + ":")[1].split()[0]) * 1024


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
    ctypes.CDLL(None).malloc_trim(0)  # give back what was freed: memory used again would not count
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    voxels = sf.SparseVoxels(ijk, resolution)
    for field in fields:
        field.requires_grad_(training)
    mesh = sf.extract_mesh(sf.SparseFlex(voxels, *fields, torch.zeros(())), training=training)
    if training:
        (mesh.vertices.square().sum() + mesh.l_dev.sum()).backward()
    return {"bytes": _status_bytes("VmHWM") - before, "voxels": len(ijk)}


def job_dense(resolution: int, n_voxels: int, training: bool) -> dict:
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


def _run(job: str, resolution: int, n_voxels: int, training: bool = False) -> dict:
    command = [sys.executable, __file__, job, str(resolution), str(n_voxels), str(int(training))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{job} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def rows() -> list[dict]:
    """The rows of `workbench bench`: name, value, unit, reach, ok."""
    found = []

    def row(name: str, value: float, unit: str, reach: str, limit: float | None) -> None:
        found.append(dict(name=name, value=value, unit=unit, reach=reach, ok=None if limit is None else value <= limit))

    plain, training = (_run("time", 1024, 1_000_000, flag) for flag in (False, True))
    row("extraction, 1e6 voxels at 1024³", plain["secs"] / plain["voxels"] * 1e6, "µs/voxel", "<= 2", 2)
    row("extraction forward + backward", training["secs"] / training["voxels"] * 1e6, "µs/voxel", "<= 4", 4)
    for flag, name, limit in ((False, "extraction peak memory", 600), (True, "the same, forward + backward", None)):
        used = _run("memory", 1024, 1_000_000, flag)
        row(name, used["bytes"] / used["voxels"], "B/voxel", "<= 600" if limit else "", limit)
    for resolution in (512, 1024):
        n_voxels = 1_000_000 * resolution**2 // 1024**2
        ours, dense = _run("time", resolution, n_voxels), _run("dense", resolution, n_voxels)
        row(f"time against dense marching cubes at {resolution}³", ours["secs"] / dense["secs"], "x", "< 1", 1)
    return found


if __name__ == "__main__":
    JOBS = {"time": job_time, "memory": job_memory, "dense": job_dense}
    print(json.dumps(JOBS[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]), bool(int(sys.argv[4])))))
