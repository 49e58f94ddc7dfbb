"""Coarse to fine against starting at 128³: seconds of both, taken in turns, and the quality of both surfaces."""

from __future__ import annotations

import dataclasses
import time

from fresh import row, run_job, serve

import sparseflex as sf
from sparseflex.data import normalize
from sparseflex.quality import surface_quality
from sparseflex.shapes import make_shape
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun

RESOLUTION, START = 128, 32
DIRECT_ITERATIONS, LEVELS_ITERATIONS = 600, 500
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


def job_compare(shape: str, n_direct: int, n_levels: int) -> dict:
    made = make_shape(shape)
    target, _ = normalize(made.vertices.numpy(), made.faces.numpy())
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
        for key, title in QUALITY.items():
            theirs, ours = done["quality"]["direct"][key], done["quality"]["levels"][key]
            found.append(row(f"{shape}: {title}, starting there", theirs, ""))
            found.append(row(f"{shape}: {title}, coarse to fine", ours, "", theirs, at_least=key.startswith("f_")))
    return found


if __name__ == "__main__":
    serve({"compare": job_compare})
