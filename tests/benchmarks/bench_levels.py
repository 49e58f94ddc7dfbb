"""Coarse to fine against starting at 128³: what each has come to in its time, the three taken in turns.

"Knowing as much" starts at 128³ with what coarse to fine is given, the voxels of 32³ (split), prunes too, and gets
twice the time. "Knowing the voxels" is `fit` at 128³: it begins with the very voxels near the target, so that there
is nothing left to find or to prune.
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
SCENES = ("high_genus", "cloth")
LEVELS, KNOWN, BLIND = "coarse to fine", "knowing the voxels", "knowing as much, twice the time"
ITERATIONS = {LEVELS: 640, KNOWN: 600}
QUALITY = {"chamfer_voxels": "CD in voxels", "f_score_0.005": "F(0.005)", "holes_percent": "holes %",
           "normal_degrees": "normals °", "depth_off_percent": "depth off %"}

_TURNS = 100


def blind_run(target: sf.Mesh) -> FitRun:
    """A fit at 128³ that begins with all that lies in the voxels of 32³."""
    voxels = voxels_around(target, START)
    while voxels.resolution < RESOLUTION:
        voxels = voxels.subdivide()
    sdf = initial_sdf("random", voxels, target, torch.Generator().manual_seed(0))
    # rates that fall within the few iterations that its time allows were tried: they leave it ten times as far off
    config = FitConfig(resolution=RESOLUTION, start_resolution=RESOLUTION, iterations=ITERATIONS[LEVELS])
    return FitRun(target, config, parameters=FitParameters(voxels, sdf))


def job_compare(shape: str) -> dict:
    """Seconds and quality of the three; they take turns, so that what else the machine does slows all alike."""
    made = make_shape(shape)
    target, _ = normalize(made.vertices.numpy(), made.faces.numpy())
    known = FitConfig(resolution=RESOLUTION, iterations=ITERATIONS[KNOWN])
    levels = dataclasses.replace(known, start_resolution=START, iterations=ITERATIONS[LEVELS])
    makers = {LEVELS: lambda: FitRun(target, levels), KNOWN: lambda: FitRun(target, known),
              BLIND: lambda: blind_run(target)}
    runs, secs = {}, dict.fromkeys(makers, 0.0)

    def until(name: str, done: float, turn: int) -> bool:
        if name == BLIND:
            return secs[name] + done >= 2 * secs[LEVELS]
        return runs[name].iteration * _TURNS >= turn * ITERATIONS[name]

    for turn in range(1, _TURNS + 1):
        for name, make in makers.items():
            start = time.perf_counter()
            if turn == 1:
                runs[name] = make()
            while not until(name, time.perf_counter() - start, turn):
                runs[name].run_iteration()
            secs[name] += time.perf_counter() - start
    quality = {name: surface_quality(run.extract(), target, RESOLUTION) for name, run in runs.items()}
    return {"secs": secs, "quality": quality, "iterations": {name: run.iteration for name, run in runs.items()}}


def rows() -> list[dict]:
    """The rows of `workbench bench`."""
    found = []
    for shape in SCENES:
        done = run_job(__file__, "compare", shape)
        secs, quality = done["secs"], done["quality"]
        found.append(row(f"{shape}, {START}³ to {RESOLUTION}³: time, against starting there with as much knowledge",
                         secs[LEVELS] / secs[BLIND], "x", 0.5))
        found.append(row(f"{shape}: time, against starting there with the voxels known", secs[LEVELS] / secs[KNOWN],
                         "x"))
        for key, title in QUALITY.items():
            for name in (KNOWN, BLIND):
                found.append(row(f"{shape}: {title}, {name}", quality[name][key], ""))
            found.append(row(f"{shape}: {title}, {LEVELS}", quality[LEVELS][key], "", quality[BLIND][key],
                             at_least=key.startswith("f_")))
    return found


if __name__ == "__main__":
    serve({"compare": job_compare})
