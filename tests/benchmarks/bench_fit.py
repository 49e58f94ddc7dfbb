"""The fit: milliseconds of an iteration at 64³, and what a section of a tenth saves at 256³."""

from __future__ import annotations

import statistics

from bench_raster import RADIUS, ball
from fresh import resident_bytes, row, run_job, serve

import sparseflex as sf
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import STAGES, FitRun

_SECTION_STAGES = STAGES[STAGES.index("activate") :]


def target() -> sf.Mesh:
    """A ball of 20,000 triangles: about 15k voxels at 64³."""
    vertices, faces = ball(20_000)
    return sf.Mesh((vertices * (0.36 / RADIUS)).float(), faces)


def job_iteration(n_warm: int, n_timed: int) -> dict:
    """Seconds of one iteration at 64³ with all voxels active: no cuts, one 256² camera, all losses but LPIPS."""
    config = FitConfig(cut_share=0, window_share=0, interior_share=0, zoom_share=0, orbit_share=1, halo=0)
    run = FitRun(target(), config)
    secs = []
    for _ in range(n_warm + n_timed):
        run.run_iteration()
        secs.append(sum(cost.secs for cost in run.stage_costs.values()))
    return {**run.scalars(), "secs": statistics.median(secs[n_warm:])}


def job_section(visibility_ratio: float, memory: bool) -> dict:
    """Seconds from activate to update at 256³, or the peak above parameters and optimiser state."""
    config = FitConfig(resolution=256, visibility_ratio=visibility_ratio, cut_share=0, window_share=0,
                       interior_share=0, zoom_share=0, orbit_share=1)
    run = FitRun(target(), config)
    secs, peaks = [], []
    for _ in range(4 if memory else 12):
        if memory:
            before = resident_bytes()
        run.run_iteration()
        if memory:  # each stage has a peak of its own: the run's meter sets VmHWM back before every one
            peaks.append(max(run.stage_costs[stage].peak_bytes for stage in _SECTION_STAGES) - before)
        secs.append(sum(run.stage_costs[stage].secs for stage in _SECTION_STAGES))
    return {"secs": statistics.median(secs[3:]), "bytes": max(peaks[1:], default=0), "voxels": run.voxels.n_voxels,
            "active": run.scalars()["active"]}


def rows() -> list[dict]:
    """The rows of `workbench bench`."""
    iteration = run_job(__file__, "iteration", 40, 30)
    found = [row(f"fit iteration, 64³, {iteration['voxels']:.0f} voxels, 256²", 1e3 * iteration["secs"], "ms", 100)]
    time = {ratio: run_job(__file__, "section", ratio, False) for ratio in (1.0, 0.1)}
    memory = {ratio: run_job(__file__, "section", ratio, True) for ratio in (1.0, 0.1)}
    name = f"iteration at alpha 0.1 / alpha 1, 256³, {time[1.0]['voxels']} voxels"
    found.append(row(name + ": time", time[0.1]["secs"] / time[1.0]["secs"], "x", 0.30))
    found.append(row(name + ": peak memory", memory[0.1]["bytes"] / memory[1.0]["bytes"], "x", 0.35))
    return found


if __name__ == "__main__":
    serve({"iteration": job_iteration, "section": job_section})
