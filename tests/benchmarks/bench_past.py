"""States kept to go back to: what they take off the iteration rate at 1e6 voxels, beside a twin that keeps none; and
what one more of them takes while the run is stepped."""

from __future__ import annotations

import statistics
import time

from bench_fit import target
from fresh import row, run_job, serve

N_WARM, N_ITERATIONS, N_STEPS = 6, 44, 6


def job_cost(resolution: int, visibility_ratio: float) -> dict:
    """Seconds of an iteration of either twin, and of keeping states while played and while stepped; bytes."""
    from sparseflex.training.config import FitConfig
    from sparseflex.training.fit import FitRun
    from workbench.past import Past
    from workbench.snapshot import History

    # no cuts, no views from within: iterations that all take about the same time
    config = FitConfig(resolution=resolution, visibility_ratio=visibility_ratio, cut_share=0, window_share=0,
                       interior_share=0, zoom_share=0, orbit_share=1)
    keeping, plain = FitRun(target(), config), FitRun(target(), config)
    aside = 0.0  # what the twin took: the time that states may cost is a share of the run's own
    past = Past(keeping, clock=lambda: time.perf_counter() - aside)
    secs: dict[str, list[float]] = {"keeping": [], "plain": [], "calls": []}
    for number in range(N_WARM + N_ITERATIONS):
        for name in ("plain", "keeping") if number % 2 else ("keeping", "plain"):
            started, call = time.perf_counter(), 0.0
            if name == "keeping":
                past.keep(keeping.iteration, History, stepping=False)
                call = time.perf_counter() - started
                secs["calls"].append(call)
            (keeping if name == "keeping" else plain).run_iteration()
            secs[name].append(time.perf_counter() - started - call)
            aside += secs[name][-1] if name == "plain" else 0.0
    played = past.summary()
    past.keep_at_most(4e9)  # so that none is dropped
    past.keep(keeping.iteration, History, stepping=True)
    before, steps = past.summary().n_bytes, []
    for _ in range(N_STEPS):
        keeping.run_iteration()
        started = time.perf_counter()
        past.keep(keeping.iteration, History, stepping=True)
        steps.append(time.perf_counter() - started)
    stepped = past.summary()
    # the twins do the same work one right after the other: the middle of their ratios stays where it is while other
    # things keep the machine busy
    ratios = [a / b for a, b in zip(secs["keeping"][N_WARM:], secs["plain"][N_WARM:], strict=True)]
    mean = {name: statistics.fmean(values[N_WARM:]) for name, values in secs.items()}
    slower = statistics.median(ratios)
    return {**mean, "slower": slower, "voxels": keeping.voxels.n_voxels, "n_states": played.n_states,
            "longest": max(secs["calls"]), "step": statistics.median(steps),
            "step_bytes": (stepped.n_bytes - before) / N_STEPS, "whole_bytes": keeping.parameters.n_bytes}


def rows() -> list[dict]:
    """The rows of `workbench bench`."""
    cost = run_job(__file__, "cost", 512, 0.1)
    where = f"{cost['voxels'] / 1e6:.2g}e6 voxels, α = 0.1"
    iteration = cost["plain"]
    lost = 1 - 1 / (cost["slower"] + cost["calls"] / cost["keeping"])
    return [
        row(f"{where}: iteration rate lost by keeping states", 100 * lost, "%", 5),
        row(f"{where}: time in keeping them", 100 * cost["calls"] / (cost["calls"] + cost["keeping"]), "%", 5),
        row(f"{where}: the longest of them", cost["longest"] / iteration, "iterations"),
        row(f"{where}: one at each step", cost["step"] / iteration, "iterations"),
        row(f"{where}: bytes of one against the parameters'", cost["step_bytes"] / cost["whole_bytes"], "x"),
    ]


if __name__ == "__main__":
    serve({"cost": job_cost})
