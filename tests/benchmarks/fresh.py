"""Benchmark jobs in processes of their own, so that one's memory and threads don't count in another's numbers.

A bench module calls run_job(__file__, name, *arguments) and, as a script, ends in serve({name: function}).
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def run_job(module: str, job: str, *arguments: object, wait_policy: str | None = None) -> dict:
    """What the job returns, computed in a fresh process; wait_policy: OpenMP's, where it isn't the caller's."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if wait_policy:
        environment["OMP_WAIT_POLICY"] = wait_policy
    command = [sys.executable, module, job, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{Path(module).name} {job} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def serve(jobs: dict[str, Callable[..., dict]]) -> None:
    print(json.dumps(jobs[sys.argv[1]](*json.loads(sys.argv[2]))), flush=True)
    os._exit(0)  # what a window's worker is still at mustn't be torn out of torch: the process would abort


def _status_bytes(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(key + ":")[1].split()[0]) * 1024


def resident_bytes() -> int:
    """Resident memory, once what was freed is given back: memory used again would not count as a peak."""
    ctypes.CDLL(None).malloc_trim(0)
    return _status_bytes("VmRSS")


class PeakMemory:
    """Highest resident memory between start() and bytes_above_start(), above what was resident at the start."""

    def start(self) -> None:
        self._before = resident_bytes()
        Path("/proc/self/clear_refs").write_text("5")

    def bytes_above_start(self) -> int:
        return _status_bytes("VmHWM") - self._before


def row(name: str, value: float, unit: str, limit: float | None = None, at_least: bool = False) -> dict:
    """A row of `workbench bench`: ok says whether the value is within its limit, None without one."""
    if limit is None:
        return {"name": name, "value": value, "unit": unit, "reach": "", "ok": None}
    sign, ok = (">=", value >= limit) if at_least else ("<=", value <= limit)
    return {"name": name, "value": value, "unit": unit, "reach": f"{sign} {limit:g}", "ok": ok}
