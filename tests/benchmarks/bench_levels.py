"""Coarse to fine against starting at 128³: seconds, taken in turns, and the quality of the surfaces.

Starting there is done in two ways: `fit` itself begins with the very voxels that the target touches, so that there is
nothing to prune; "knowing as much" begins with what coarse to fine is given, the voxels of 32³ split to 128³, and gets
twice its time.
"""

from __future__ import annotations

import dataclasses
import time

import torch
from fresh import row, run_job, serve

import sparseflex as sf
from sparseflex.data import normalize
from sparseflex.quality import surface_quality
from sparseflex.shapes import make_shape
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun
from sparseflex.training.fit_parameters import FitParameters, initial_sdf, voxels_around

RESOLUTION, START = 128, 32
DIRECT_ITERATIONS, LEVELS_ITERATIONS = 600, 640
SCENES = ("high_genus", "cloth")
QUALITY = {"chamfer_voxels": "CD in voxels", "f_score_0.005": "F(0.005)", "holes_percent": "holes %",
           "normal_degrees": "normals °", "depth_off_percent": "depth off %"}

_TURNS = 100


def compare(target: sf.Mesh, direct: FitConfig, levels: FitConfig) -> dict:
    """Seconds and quality of both fits; they take turns, so that what else the machine does slows both alike."""
    runs, secs = {}, {"direct": 0.0, "levels": 0.0}
    configs = {"direct": direct, "levels": levels}
    for turn in range(1, _TURNS + 1):
        for name, config in configs.items():
            start = time.perf_counter()
            if turn == 1:
                runs[name] = FitRun(target, config)
            while runs[name].iteration * _TURNS < turn * config.iterations:
                runs[name].run_iteration()
            secs[name] += time.perf_counter() - start
    quality = {name: surface_quality(run.extract(), target, direct.resolution) for name, run in runs.items()}
    return {"secs": secs, "quality": quality, "voxels": {name: run.voxels.n_voxels for name, run in runs.items()}}


def job_same_knowledge(shape: str, n_iterations: int, secs: float) -> dict:
    """What a fit at 128³ reaches in so many seconds from the voxels of 32³, all split, pruning as it goes."""
    target = shape_target(shape)
    voxels = voxels_around(target, START)
    while voxels.resolution < RESOLUTION:
        voxels = voxels.subdivide()
    config = FitConfig(resolution=RESOLUTION, start_resolution=RESOLUTION, iterations=n_iterations)
    sdf = initial_sdf("random", voxels, target, torch.Generator().manual_seed(0))
    run = FitRun(target, config, parameters=FitParameters(voxels, sdf))
    start = time.perf_counter()
    while time.perf_counter() - start < secs:
        run.run_iteration()
    return {"quality": surface_quality(run.extract(), target, RESOLUTION), "iterations": run.iteration}


def shape_target(shape: str) -> sf.Mesh:
    made = make_shape(shape)
    return normalize(made.vertices.numpy(), made.faces.numpy())[0]


def job_compare(shape: str, n_direct: int, n_levels: int) -> dict:
    target = shape_target(shape)
    direct = FitConfig(resolution=RESOLUTION, iterations=n_direct)
    levels = dataclasses.replace(direct, start_resolution=START, iterations=n_levels)
    return compare(target, direct, levels)


def rows() -> list[dict]:
    """The rows of `workbench bench`."""
    found = []
    for shape in SCENES:
        done = run_job(__file__, "compare", shape, DIRECT_ITERATIONS, LEVELS_ITERATIONS)
        label = f"{shape}, {START}³ to {RESOLUTION}³ / starting at {RESOLUTION}³"
        found.append(row(f"{label}: time", done["secs"]["levels"] / done["secs"]["direct"], "x", 0.5))
        blind = run_job(__file__, "same_knowledge", shape, LEVELS_ITERATIONS, 2 * done["secs"]["levels"])
        for key, title in QUALITY.items():
            theirs, ours = done["quality"]["direct"][key], done["quality"]["levels"][key]
            found.append(row(f"{shape}: {title}, starting there", theirs, ""))
            found.append(row(f"{shape}: {title}, knowing as much, twice the time", blind["quality"][key], ""))
            found.append(row(f"{shape}: {title}, coarse to fine", ours, "", theirs, at_least=key.startswith("f_")))
    return found


if __name__ == "__main__":
    serve({"compare": job_compare, "same_knowledge": job_same_knowledge})
