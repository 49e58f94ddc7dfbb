"""Every tab, layer and action in the real window, on runs that are hard to show: nothing may raise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from goldens import GoldenPictures
from hard_runs import HARD_RUNS
from visit import PICTURES

TESTS = Path(__file__).parent


def test_a_visit_to_everything_of_every_hard_run(
    display: str, need_programs: Callable[..., None], tmp_path: Path, assert_matches_golden: GoldenPictures
) -> None:
    need_programs("Xvfb")
    environment = {**os.environ, "DISPLAY": display, "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1",
                   "PYTHONPATH": f"{TESTS.parent}", "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environment.pop("WAYLAND_DISPLAY", None)
    done = subprocess.run([sys.executable, str(TESTS / "visit.py"), str(tmp_path)], env=environment,
                          capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert [line.removeprefix("visited ") for line in done.stdout.splitlines() if line.startswith("visited")] == list(
        HARD_RUNS)
    for name in PICTURES:
        assert_matches_golden(tmp_path / f"{name}.png", f"window_{name}")
