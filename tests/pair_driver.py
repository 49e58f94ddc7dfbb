"""Opens the real window on two FakeRuns, steps A, and prints as JSON lines what is shown; for test_pair.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fake_run import FakeRun

from workbench.app import open_window
from workbench.commands import NextIteration
from workbench.engine import Engine
from workbench.pair import Pair
from workbench.surface_view import DIFFERENCE
from workbench.view_state import ViewState
from workbench.window import Window

N_STEPS = 3


def main() -> int:
    out = Path(sys.argv[1])
    other = FakeRun(8)
    pair = Pair(Engine(other), "the coarse one")
    view = ViewState(mesh_colour=DIFFERENCE, tabs={"left": "Layers", "right": "Plots"})
    sent = 0

    def script(window: Window) -> bool:
        nonlocal sent
        a, b = window.snapshot, pair.latest
        resting = window.n_frames > 2 and not a.playing and not b.playing and a.iteration == b.iteration == sent
        if resting and sent < N_STEPS:
            window.engine.send(NextIteration())
            sent += 1
        done = resting and sent == N_STEPS and pair.snapshot.iteration == N_STEPS and view.surfaces.colours is not None
        done = done and pair.view.surfaces.colours is not None and view.worker.idle
        if done:
            window.screenshot(out / "pair.png")
        if done or window.failed:
            print(json.dumps({"a": a.iteration, "b": b.iteration, "failed": window.failed,
                              "places": sorted(window.scene.places(view, 1.5)[0])}), flush=True)
        return bool(done or window.failed)

    code = open_window(FakeRun(16), title="the fine one", out_dir=out, scripted=script, view=view, pair=pair,
                       save=lambda path, run: None, size=(1000, 640))
    print(json.dumps({"code": code, "alive": pair.source.alive, "iteration": other.iteration}))
    return code


if __name__ == "__main__":
    sys.exit(main())
