"""The window's cost: iterations a second while it draws on software GL, against the same run undrawn."""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fresh import row, run_job, serve

SEGMENT_SECS, N_PAIRS, WARM_ITERATIONS = 6.0, 4, 40
SIZE = (1920, 1080)


@contextmanager
def software_display() -> Iterator[str]:
    """An X server in memory, 1920 x 1080; raises RuntimeError where Xvfb is missing or doesn't start."""
    read_end, write_end = os.pipe()
    command = ["Xvfb", "-displayfd", str(write_end), "-screen", "0", "1920x1080x24", "+extension", "GLX"]
    try:
        server = subprocess.Popen(command, pass_fds=[write_end], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise RuntimeError("the window's cost needs Xvfb (package xvfb)") from None
    os.close(write_end)
    try:
        number = os.read(read_end, 16).decode().strip() if select.select([read_end], [], [], 30)[0] else ""
        if not number:
            raise RuntimeError("Xvfb did not start within 30 s")
        yield f":{number}"
    finally:
        os.close(read_end)
        server.terminate()
        server.wait(30)


def job_rates() -> dict:
    """Iterations a second in turns with and without redraws, of one fit at 64³ that plays all the time.

    Undrawn, the main thread sleeps: nothing asks for fields, nothing is drawn, as without a window. Taking turns
    keeps whatever else the machine does out of the ratio.
    """
    import tempfile

    from bench_fit import target

    from sparseflex.training.config import FitConfig
    from sparseflex.training.fit import FitRun
    from workbench.app import open_window

    run = FitRun(target(), FitConfig(iterations=100_000))
    rates: dict[str, list[float]] = {"drawn": [], "undrawn": []}
    segment: list[float] = []

    def take_turns(window) -> bool:
        if run.iteration < WARM_ITERATIONS:
            return False
        now = time.perf_counter()
        if not segment:
            segment[:] = [now, run.iteration]
        if now - segment[0] < SEGMENT_SECS:
            return False
        rates["drawn"].append((run.iteration - segment[1]) / (now - segment[0]))
        started, before = time.perf_counter(), run.iteration
        time.sleep(SEGMENT_SECS)
        rates["undrawn"].append((run.iteration - before) / (time.perf_counter() - started))
        segment[:] = [time.perf_counter(), run.iteration]
        return len(rates["undrawn"]) == N_PAIRS

    with tempfile.TemporaryDirectory() as out:
        code = open_window(run, title="bench", out_dir=out, paused=False, size=SIZE, scripted=take_turns,
                           save=lambda path, saved: None)
    if code:
        raise RuntimeError("the run or the window failed")
    ratios = [drawn / undrawn for drawn, undrawn in zip(rates["drawn"], rates["undrawn"], strict=True)]
    return {"ratio": statistics.median(ratios), "undrawn": statistics.median(rates["undrawn"])}


@contextmanager
def on_software_display() -> Iterator[None]:
    """What runs within draws on software GL, on a display of its own."""
    names = ("DISPLAY", "WAYLAND_DISPLAY", "LIBGL_ALWAYS_SOFTWARE")
    before = {name: os.environ.get(name) for name in names}
    try:
        os.environ.pop("WAYLAND_DISPLAY", None)
        os.environ["LIBGL_ALWAYS_SOFTWARE"] = "1"
        with software_display() as os.environ["DISPLAY"]:
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def rows() -> list[dict]:
    """The rows of `workbench bench`."""
    with on_software_display():
        measured = run_job(__file__, "rates")
    name = f"iterations/s drawing {SIZE[0]} x {SIZE[1]} on software GL / undrawn"
    return [row(name, measured["ratio"], "x", 0.75, at_least=True)]


if __name__ == "__main__":
    serve({"rates": job_rates})
