"""Recording: what it takes off the headless iteration rate, with one run recorded and its twin not, in turns."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from bench_fit import target
from fresh import row, run_job, serve

from workbench.headless import scalars_row
from workbench.recording.recorder import Recorder

N_ITERATIONS, TURN = 120, 20
"""Enough for all that falls due: a keyframe, snapshots, maps; and in what turns the twins go."""


def job_cost(resolution: int, visibility_ratio: float) -> dict:
    """Seconds of an iteration of either twin, of the recorder's calls in it, bytes, and the writer's CPU seconds."""
    from sparseflex.training.config import FitConfig
    from sparseflex.training.fit import FitRun

    config = FitConfig(resolution=resolution, visibility_ratio=visibility_ratio)
    recorded, plain = FitRun(target(), config), FitRun(target(), config)
    secs: dict[str, list[float]] = {"recorded": [], "plain": [], "calls": []}
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "run.h5", recorded)
        at_start = recorder.status
        for first in range(0, N_ITERATIONS, TURN):
            for name, run in (("plain", plain), ("recorded", recorded)):
                for _ in range(first, first + TURN):
                    started = time.perf_counter()
                    calls = 0.0
                    if name == "recorded":
                        recorder.iteration_started(run)
                    for stage in run.stages:
                        run.run_stage(stage)
                    if name == "recorded":
                        called = time.perf_counter()
                        recorder.iteration_ended(run, scalars_row(run))
                        calls = time.perf_counter() - called
                        secs["calls"].append(calls)
                    secs[name].append(time.perf_counter() - started)
        recorder.close()
        status = recorder.status
        if status.stopped or not status.closed:
            raise RuntimeError(status.words)
        n_bytes = status.n_bytes - at_start.n_bytes
    writer = os.times()
    # the first turn warms up
    mean = {name: statistics.fmean(values[TURN:]) for name, values in secs.items()}
    return {**mean, "n_bytes": n_bytes / N_ITERATIONS, "dropped": status.n_dropped, "voxels": recorded.voxels.n_voxels,
            "writer": (writer.children_user + writer.children_system) / N_ITERATIONS}


def rows() -> list[dict]:
    """The rows of `workbench bench`."""
    found = []
    for resolution, ratio, limit in ((64, 1.0, 10), (256, 0.1, 20)):
        cost = run_job(__file__, "cost", resolution, ratio)
        where = f"{resolution}³, α = {ratio:g}, {cost['voxels']} voxels"
        share = 100 * (1 - cost["plain"] / cost["recorded"])
        found += [
            row(f"{where}: iteration rate lost by recording", share, "%", limit),
            row(f"{where}: time in the recorder's calls", 100 * cost["calls"] / cost["recorded"], "%", limit),
            row(f"{where}: the writer's CPU time against the run's time", 100 * cost["writer"] / cost["plain"], "%"),
            row(f"{where}: bytes of an iteration", cost["n_bytes"] / 1e6, "MB"),
            row(f"{where}: dropped", cost["dropped"], "values", 0),
        ]
    return found


if __name__ == "__main__":
    serve({"cost": job_cost})
