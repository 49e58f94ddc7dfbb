"""The window's cost: iterations a second while it draws on software GL, against the same run undrawn."""

from __future__ import annotations

import itertools
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fresh import row, run_job, serve

SEGMENT_SECS, N_TURNS, WARM_ITERATIONS = 3.0, 3, 40
SETTLE_SECS = 0.5
"""How long after a change of tabs nothing is counted."""

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


def tab_pairs() -> list[tuple[str, str]]:
    """Left and right tabs so that each stands in front at least once: the shorter column begins again."""
    from workbench.panels import COLUMNS

    left, right = COLUMNS["left"], COLUMNS["right"]
    n_pairs = max(len(left), len(right))
    return list(itertools.islice(zip(itertools.cycle(left), itertools.cycle(right), strict=False), n_pairs))


def job_rates() -> dict:
    """Iterations a second in turns with and without redraws, of one fit at 64³ that plays all the time.

    Undrawn, the main thread sleeps: nothing asks for fields, nothing is drawn, as without a window. Taking turns, and
    going through the pairs of tabs anew each time, keeps whatever else the machine does out of the ratios. Each pair's
    ratio is that of its sums: a turn is too short to see the same number of redraws each time.
    """
    import tempfile

    from bench_fit import target

    from sparseflex.training.config import FitConfig
    from sparseflex.training.fit import FitRun
    from workbench.app import open_window

    run = FitRun(target(), FitConfig(iterations=100_000, start_resolution=64))  # of one level: the pruning tab is full
    pairs = tab_pairs()
    drawn, undrawn = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0)

    def take_turns(window) -> Iterator[None]:
        while run.iteration < WARM_ITERATIONS:
            yield
        for pair in pairs * N_TURNS:
            window.view.tabs["left"], window.view.tabs["right"] = pair
            settled = time.perf_counter() + SETTLE_SECS
            while time.perf_counter() < settled:
                yield
            started, before = time.perf_counter(), run.iteration
            while time.perf_counter() < started + SEGMENT_SECS:
                yield
            drawn[pair] += (run.iteration - before) / (time.perf_counter() - started)
            started, before = time.perf_counter(), run.iteration
            time.sleep(SEGMENT_SECS)
            undrawn[pair] += (run.iteration - before) / (time.perf_counter() - started)

    turns: list[Iterator[None]] = []

    def script(window) -> bool:
        if not turns:
            turns.append(take_turns(window))
        return next(turns[0], "done") == "done"

    with tempfile.TemporaryDirectory() as out:
        os.environ["XDG_CONFIG_HOME"] = out  # what its user prefers is not measured
        code = open_window(run, title="bench", out_dir=out, paused=False, size=SIZE, scripted=script,
                           save=lambda path, saved: None)
    if code:
        raise RuntimeError("the run or the window failed")
    return {"ratios": {" and ".join(pair): drawn[pair] / undrawn[pair] for pair in pairs},
            "undrawn": sum(undrawn.values()) / len(pairs) / N_TURNS}


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
    ratios = measured["ratios"]
    lowest = min(ratios, key=ratios.get)
    name = f"iterations/s drawn on software GL / undrawn ({lowest})"
    return [row(name, ratios[lowest], "x", 0.75, at_least=True)]


if __name__ == "__main__":
    serve({"rates": job_rates})
