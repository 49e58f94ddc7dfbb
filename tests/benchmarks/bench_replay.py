"""`workbench bench replay`: opening a recording of 1e5 voxels with many iterations, and seeking anywhere in it.

The file is made here, as large as GIGABYTES says: fields of 1e5 voxels that differ from snapshot to snapshot, of every
kind that the window shows at first, and entries for as many iterations as a long run has.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparseflex.voxels import SparseVoxels
from workbench.commands import GoTo, RequestFields
from workbench.recording.layout import CAMERAS, OWN_STREAMS, SCHEMA, VERSION
from workbench.recording.reader import CACHE_BYTES, Recording
from workbench.recording.values import Cameras, cameras_value
from workbench.source import Replay

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fake_run import FakeRun, icosphere_like  # noqa: E402 - tests are no package
from recording_files import Builder  # noqa: E402

GIGABYTES = float(os.environ.get("BENCH_REPLAY_GB", "1"))
N_VOXELS, RESOLUTION, N_ROWS = 100_000, 128, 160
SNAPSHOT_EVERY, N_ITERATIONS = 10, 20_000
KINDS = {"voxels": "voxels", "active": "voxel", "alpha": "voxel", "beta": "voxel", "gamma": "voxel",
         "corner_sdf": "corner", "corner_deform": "corner", "surface": "mesh", "target": "mesh"}
WINDOW = frozenset(KINDS)
N_SEEKS = 40


def meta() -> dict[str, Any]:
    return {"schema": SCHEMA, "version": VERSION, "uid": "bench", "name": "bench", "title": "bench", "stages": ["step"],
            "streams": [*OWN_STREAMS, *KINDS], "field_kinds": KINDS, "settings": {}, "parent": None}


def make(path: Path) -> Path:
    """Iterations with numbers, cameras and the active set; snapshots until the file is large enough."""
    keys = np.sort(np.random.default_rng(0).choice(RESOLUTION**3, N_VOXELS, replace=False)).astype(np.int32)
    voxels = SparseVoxels.from_keys(torch.from_numpy(keys), RESOLUTION)
    builder, run, noise = Builder(path, meta()), FakeRun(6), np.random.default_rng(1)
    surface, limit = icosphere_like(N_ROWS, 0.4), GIGABYTES * 1e9
    faces = surface.faces.numpy().astype(np.int32)
    target = {"vertices": surface.vertices.numpy(), "faces": faces}
    for iteration in range(N_ITERATIONS):
        run.run_stage("sample_cameras")
        run.run_stage("render")
        run.run_stage("update")
        values: dict[str, Any] = {
            CAMERAS: cameras_value(Cameras(tuple(run.cameras()[:1]))), "active": noise.random(N_VOXELS) < 0.1}
        if iteration == 0:
            values["voxels"] = {"keys": keys, "resolution": RESOLUTION}
        if iteration % SNAPSHOT_EVERY == 0 and builder.file.n_bytes < limit:
            values |= {"alpha": noise.random((N_VOXELS, 8), np.float32),
                       "beta": noise.random((N_VOXELS, 12), np.float32),
                       "gamma": noise.random(N_VOXELS, np.float32),
                       "corner_sdf": noise.random(voxels.n_corners, np.float32),
                       "corner_deform": noise.random((voxels.n_corners, 3), np.float32),
                       "surface": {"vertices": noise.random(target["vertices"].shape, np.float32), "faces": faces},
                       "target": target}
        elif builder.file.n_bytes >= limit and iteration % SNAPSHOT_EVERY:
            values.pop("active")  # small ones to the end, so that the index is as long as a long run's
        builder.commit(iteration, values, {"iteration": float(iteration), **run.scalars()})
    return builder.close()


@contextlib.contextmanager
def recorded() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield make(Path(folder) / "run.h5")


def seeks(path: Path) -> tuple[float, float, int]:
    """Median and worst seconds from GoTo to the snapshot that has all that the window needs; bytes kept at the end."""
    replay = Replay(Recording(path))
    replay.start()
    replay.send(RequestFields(WINDOW))
    took, generator = [], random.Random(2)
    try:
        last = int(np.max(replay._recording.stream("surface").iterations))
        replay.snapshots.wait_for(lambda s: s.asked == WINDOW, 60)
        for number in range(N_SEEKS):
            wanted = generator.randrange(last)
            started = time.perf_counter()
            replay.send(GoTo(wanted))
            replay.snapshots.wait_for(lambda s, wanted=wanted: s.iteration == wanted and "surface" in s.fields, 60)
            if number:  # the first one computes the corners, once
                took.append(time.perf_counter() - started)
        kept = replay.snapshots.latest().past.n_bytes
    finally:
        replay.stop()
    return statistics.median(took), max(took), kept


def row(name: str, value: float, unit: str, reach: str = "", ok: bool | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "reach": reach, "ok": ok}


def rows() -> list[dict[str, Any]]:
    with recorded() as path:
        n_bytes = path.stat().st_size
        opening = []
        for _ in range(3):
            started = time.perf_counter()
            with Recording(path) as recording:
                recording.scalars(), recording.marks()
                n_entries, n_iterations = recording.n_entries, len(recording.iterations)
            opening.append(time.perf_counter() - started)
        median, worst, kept = seeks(path)
    about = f"{n_bytes / 1e9:.1f} GB, 1e5 voxels"
    return [
        row(f"open, index {n_entries:,} values, {n_iterations:,} iterations", 1e3 * statistics.median(opening), "ms"),
        row(f"seek anywhere, all fields, median ({about})", 1e3 * median, "ms", "<= 300 ms", median <= 0.3),
        row("seek anywhere, worst", 1e3 * worst, "ms", "<= 300 ms", worst <= 0.3),
        row("kept in memory afterwards", kept / 1e6, "MB", f"<= {CACHE_BYTES / 1e6:.0f} MB", kept <= CACHE_BYTES),
    ]
