"""What every test stands on: checked shapes, seeded randomness, no leaked threads, golden pictures, programs."""

from __future__ import annotations

import os

# before torch is imported: OpenMP reads it once, and idle threads that spin make small operations many times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import random
import select
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import typecheck
from accelerator import AVAILABLE
from goldens import GoldenPictures

# their asserts are told like those of the tests
pytest.register_assert_rewrite("change_states", "cli_fixtures", "same_mesh", "vae_goldens")

# SPARSEFLEX_TYPECHECK=0 switches the shape checks off, to see what they cost
if os.environ.get("SPARSEFLEX_TYPECHECK", "1") != "0":
    typecheck.install("sparseflex")

PACKAGE_OF_PROGRAM = {"Xvfb": "xvfb", "xdotool": "xdotool"}
THREAD_GRACE_SECS = 3.0
DISPLAY_SECS = 60.0
# threads that outlive the test that first needed them, on purpose
LONG_LIVED_THREADS = (
    "tqdm_monitor",  # tqdm's one watcher of stalled bars, made with the first bar of the process
    "pytest_timeout",  # the test's own time limit, where signals are not used
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden pictures, compare nothing")


def pytest_configure(config: pytest.Config) -> None:
    # no test shall read or change what its user prefers
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="workbench-tests-")
    torch.set_num_threads(int(os.environ.get("SPARSEFLEX_TEST_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))))


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["XDG_CONFIG_HOME"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not AVAILABLE:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every run and whatever the order of the tests."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def is_long_lived(thread: threading.Thread) -> bool:
    names = (thread.name, type(thread).__name__, type(thread).__module__ + "_monitor")
    return any(known in names for known in LONG_LIVED_THREADS) or type(thread).__module__.startswith("tqdm.")


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """A thread, daemon or not, that a test started and that outlives it fails the test."""
    before = set(threading.enumerate())
    yield
    limit = time.monotonic() + THREAD_GRACE_SECS
    leaked = [thread for thread in threading.enumerate() if thread not in before and not is_long_lived(thread)]
    for thread in leaked:
        if isinstance(thread, threading._DummyThread):  # stands for a foreign thread that called Python: no join
            continue
        thread.join(max(0.0, limit - time.monotonic()))
    dummies = threading._DummyThread
    leaked = [thread for thread in leaked if thread.is_alive() and not isinstance(thread, dummies)]
    assert not leaked, f"threads outlive the test: {', '.join(thread.name for thread in leaked)}"


@pytest.fixture
def assert_matches_golden(request: pytest.FixtureRequest, tmp_path) -> GoldenPictures:
    """Compares a picture with tests/golden/pictures/<name>.png; see goldens.py, and `pytest --update-golden`."""
    return GoldenPictures(update=request.config.getoption("--update-golden"), out=tmp_path)


@pytest.fixture
def need_programs() -> Callable[..., None]:
    """`need_programs("Xvfb", "xdotool")` skips the test where one is not installed; on CI it fails."""

    def need(*programs: str) -> None:
        lacking = [PACKAGE_OF_PROGRAM.get(name, name) for name in programs if shutil.which(name) is None]
        if lacking and os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"CI must have the system packages {', '.join(lacking)}")
        if lacking:
            pytest.skip(f"needs the system packages {', '.join(lacking)}")

    return need


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """An X server for this module; xvfb gives a free display number itself."""
    read_end, write_end = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write_end), "-screen", "0", "1280x720x24", "+extension", "GLX", "-nolisten", "tcp"],
        pass_fds=[write_end], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    try:
        ready = select.select([read_end], [], [], DISPLAY_SECS)[0]
        number = os.read(read_end, 16).decode().strip() if ready else ""
        if not number:
            pytest.fail("Xvfb did not start")
        yield f":{number}"
    finally:
        os.close(read_end)
        server.terminate()
        server.wait(DISPLAY_SECS)
