"""A recording outlives its process: killed at any moment, run and writer together, all that was flushed is there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from raw_recording import RawRecording

from workbench.recording.reader import Recording

HERE = Path(__file__).resolve().parent

SCRIPT = """
import sys, time
from pathlib import Path
from fake_run import FakeRun
from workbench.recording.policy import RecordPolicy
from workbench.recording.recorder import Recorder

run = FakeRun(24)
policy = RecordPolicy(snapshot_every=2, maps_every=5, keyframe_every=10, cost_share=1e9)
recorder = Recorder(Path(sys.argv[1]), run, policy=policy)
while True:
    recorder.iteration_started(run)
    for stage in run.stages:
        run.run_stage(stage)
    recorder.iteration_ended(run, {"iteration": float(run.iteration), **run.scalars()})
    status = recorder.status
    if status.stopped:
        sys.exit(status.stopped)
    if status.iteration >= 0:
        print(status.iteration, flush=True)  # what is flushed already
    time.sleep(0.002)
"""


def killed_after(secs: float, path: Path, kill: Callable[[int, int], None] = os.killpg) -> int:
    """Records, kills run and writer; the last iteration that was said to be in the file."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"},
    )
    told = [process.stdout.readline()]
    try:
        time.sleep(secs)
    finally:
        kill(process.pid, signal.SIGKILL)
    told += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    return max(int(line) for line in told if line.endswith("\n"))


def check(path: Path, told: int) -> None:
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    raw = RawRecording(path)
    raw.check()
    last = raw.iterations[-1]
    assert last >= told and raw.iterations == list(range(last + 1))
    assert raw.column("iteration") == {k: k for k in range(1, last + 1)}
    states = [at for at, _ in raw.values("/state")]
    assert states == list(range(0, last + 1, 10))
    with Recording(path) as recording:
        assert recording.iterations.tolist() == raw.iterations
        fields, _ = recording.snapshot_fields(["voxels", "corner_sdf", "mesh"], last)
        assert len(fields) == 3
        for _ in recording.verify():
            pass


def moments(n: int, seed: int) -> list[float]:
    chosen = random.Random(seed)
    return [chosen.uniform(0.0, 1.2) for _ in range(n)]


@pytest.mark.parametrize("number", range(4))
def test_killed_at_a_random_moment_it_opens_with_all_that_was_flushed(number: int, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    check(path, killed_after(moments(4, 1)[number], path))


def test_where_only_the_run_is_killed_the_writer_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    told = killed_after(0.3, path, os.kill)
    deadline = time.monotonic() + 20
    while True:
        try:
            with h5py.File(path, "r"):  # not one that is being written, or was left so
                break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    check(path, told)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_fifty_random_moments(tmp_path: Path) -> None:
    for number, secs in enumerate(moments(50, 2)):
        path = tmp_path / str(number) / "run.h5"
        path.parent.mkdir()
        check(path, killed_after(secs, path))
