"""Visits everything in a real window, run after run, and fails where anything raises; for test_visit.py."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from hard_runs import HARD_RUNS

from workbench import actions, pacing
from workbench.app import open_window
from workbench.commands import NextStage, RunIterations
from workbench.cost_view import PARTS
from workbench.panels import columns
from workbench.subject import Subject
from workbench.view_state import LAYERS
from workbench.window import Window

KEEPS_THE_WINDOW = {"Save a checkpoint", "Save a figure of the scene", "Run any command by name"}
"""Actions left out: they write files, or catch the keys that come after them."""


PICTURES = {"frustum_maps": ("Frustum", "Maps"), "layers_scalars": ("Layers", "Scalars")}
"""Tabs of the pictures that are taken of the first run, to be compared: nothing in them is a time."""


def steps(window: Window, pictures: Path | None) -> Iterator[str]:
    """One thing at a time, named; the window is redrawn after each. pictures: the folder for PICTURES, if wanted."""
    view = window.view
    yield "before anything ran"
    window.engine.send(RunIterations(2))
    while window.snapshot.iteration < 2 or window.snapshot.playing:
        yield "two iterations"
    for name, (view.tabs["left"], view.tabs["right"]) in PICTURES.items() if pictures else ():
        for _ in range(6):
            yield f"picture {name}"
        window.screenshot(pictures / f"{name}.png")
    tabs = columns(window.snapshot)
    for left, right in itertools.zip_longest(tabs["left"], tabs["right"]):
        view.tabs["left"], view.tabs["right"] = left or view.tabs["left"], right or view.tabs["right"]
        for _ in range(3):
            yield f"tabs {left}, {right}"
    for view.tabs["right"], view.costs.part in itertools.product(["Costs"], PARTS):
        yield f"costs, {view.costs.part}"
    for name in LAYERS:
        view.layers[name] = not view.layers[name]
        yield f"layer {name}"
    for _ in window.snapshot.stages:
        window.engine.send(NextStage())
        yield "stage by stage"
    view.tabs["left"] = "Network"
    for stage in window.snapshot.products.stages:
        view.network.chosen = stage
        yield f"stage {stage}"
    for action in actions.ACTIONS:
        if action.name not in KEEPS_THE_WINDOW:
            for command in action.does(window) or []:
                window.engine.send(command)
            yield action.name


def main() -> int:
    out = Path(sys.argv[1])
    names = iter(HARD_RUNS)
    doing = ""
    visit: Iterator[str] | None = None

    def subject(name: str) -> Subject:
        return Subject(HARD_RUNS[name](), name, out / name)

    pacing.IDLE_SECS = 0.0  # nobody looks: no reason to wait between two redraws
    first = next(names)

    def script(window: Window) -> bool:
        nonlocal visit, doing
        if window.failed or window.snapshot.failure is not None:
            print(f"{window.view.title}, {doing}: {window.snapshot.failure}", file=sys.stderr)
            return True
        if visit is None:
            visit = steps(window, out if window.view.title == first else None)
        doing = next(visit, "")
        if doing:
            return False
        print(f"visited {window.view.title}", flush=True)
        visit, following = None, next(names, None)
        if following is None:
            return True
        window.drop([following])
        return False

    return open_window(subject(first).run, title=first, out_dir=out / first, scripted=script, size=(960, 600),
                       save=lambda path, run: None, opener=subject)


if __name__ == "__main__":
    sys.exit(main())
