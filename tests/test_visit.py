"""Every tab, layer and action in the real window, on runs that are hard to show: nothing may raise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from goldens import GoldenPictures
from hard_runs import DEVICE_RUNS, HARD_RUNS
from visit import PICTURES

TESTS = Path(__file__).parent


@pytest.fixture
def visit(display: str, need_programs: Callable[..., None], tmp_path: Path) -> Callable[..., list[str]]:
    """Makes a visit with these options in a process of its own; the names of the runs visited."""
    need_programs("Xvfb")
    environment = {**os.environ, "DISPLAY": display, "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1",
                   "PYTHONPATH": f"{TESTS.parent}", "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environment.pop("WAYLAND_DISPLAY", None)

    def make(*options: str, **variables: str) -> list[str]:
        done = subprocess.run([sys.executable, str(TESTS / "visit.py"), str(tmp_path), *options], timeout=230,
                              env={**environment, **variables}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [line.removeprefix("visited ") for line in done.stdout.splitlines() if line.startswith("visited")]

    return make


def test_a_visit_to_everything_of_every_hard_run(
    visit: Callable[..., list[str]], tmp_path: Path, assert_matches_golden: GoldenPictures
) -> None:
    assert visit() == list(HARD_RUNS)
    for name in PICTURES:
        assert_matches_golden(tmp_path / f"{name}.png", f"window_{name}")


@pytest.mark.slow
def test_every_control_of_every_tab_is_used(visit: Callable[..., list[str]]) -> None:
    assert visit("--every-control") == list(HARD_RUNS)


@pytest.mark.slow
def test_a_visit_to_everything_of_runs_on_another_device(visit: Callable[..., list[str]]) -> None:
    assert visit("--pretend-device", "--every-control", SPARSEFLEX_TEST_DEVICE="pretend") == list(DEVICE_RUNS)
