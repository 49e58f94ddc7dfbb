"""Visits everything in a real window, run after run, and fails where anything raises; for test_visit.py."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from hard_runs import HARD_RUNS

from workbench import actions, pacing
from workbench.app import open_window
from workbench.commands import NextStage, RunIterations
from workbench.cost_view import PARTS
from workbench.panels import columns
from workbench.subject import Subject
from workbench.view_state import LAYERS
from workbench.window import Window

T = TypeVar("T")
KEEPS_THE_WINDOW = {"Save a checkpoint", "Save a figure of the scene", "Run any command by name"}
"""Actions left out: they write files, or catch the keys that come after them."""


PICTURES = {"frustum_maps": ("Frustum", "Maps"), "layers_scalars": ("Layers", "Scalars")}
"""Tabs of the pictures that are taken of the first run, to be compared: nothing in them is a time."""


def _by(n: int, items: Sequence[T]) -> Iterator[Sequence[T]]:
    """n at a time: a redraw each would take most of the visit."""
    return (items[start : start + n] for start in range(0, len(items), n))


def steps(window: Window, pictures: Path | None) -> Iterator[str]:
    """A few things at a time, named; the window is redrawn after each. pictures: the folder for PICTURES, if wanted."""
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
    for names in _by(4, LAYERS):
        for name in names:
            view.layers[name] = not view.layers[name]
        yield f"layers {', '.join(names)}"
    for _ in window.snapshot.stages:
        window.engine.send(NextStage())
        yield "stage by stage"
    view.tabs["left"] = "Network"
    for stage in window.snapshot.products.stages:
        view.network.chosen = stage
        yield f"stage {stage}"
    for some in _by(4, [action for action in actions.ACTIONS if action.name not in KEEPS_THE_WINDOW]):
        for action in some:
            for command in action.does(window) or []:
                window.engine.send(command)
        yield ", ".join(action.name for action in some)


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
