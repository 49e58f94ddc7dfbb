"""Where there is no CUDA device: the tests marked gpu on a pretended one, so that a forgotten transfer shows here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LONG = "learns or test_vae or all_of_it"


@pytest.mark.parametrize("which", [f"not ({LONG})", pytest.param(LONG, marks=pytest.mark.slow)])
def test_what_needs_a_device_passes_on_a_pretended_one(which: str) -> None:
    marked = re.compile(r"^(@|pytestmark = )pytest\.mark\.gpu$", re.MULTILINE)
    files = sorted(str(path) for path in TESTS.glob("test_*.py") if marked.search(path.read_text()))
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-k", which, "-p", "no:cacheprovider"]
    environment = {**os.environ, "SPARSEFLEX_TEST_DEVICE": "pretend", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *files], env=environment, cwd=TESTS.parent, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
