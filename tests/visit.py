"""Visits everything in a real window, run after run, and fails where anything raises; for test_visit.py."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from every_control import every_control
from hard_runs import DEVICE_RUNS, HARD_RUNS

from workbench import actions, gradient_work, pacing, worker
from workbench.app import open_window
from workbench.commands import NextStage, RunIterations
from workbench.cost_view import PARTS
from workbench.network_view import Picked
from workbench.panels import columns
from workbench.subject import Subject
from workbench.view_state import LAYERS
from workbench.window import Window
from workbench.worker import WorkFailed

T = TypeVar("T")
KEEPS_THE_WINDOW = {"Save a checkpoint", "Save a figure of the scene", "Run any command by name"}
"""Actions left out: they write files, or catch the keys that come after them."""


PICTURES = {"frustum_maps": ("Frustum", "Maps"), "layers_scalars": ("Layers", "Scalars")}
"""Tabs of the pictures that are taken of the first run, to be compared: nothing in them is a time."""


def _by(n: int, items: Sequence[T]) -> Iterator[Sequence[T]]:
    """n at a time: a redraw each would take most of the visit."""
    return (items[start : start + n] for start in range(0, len(items), n))


def steps(window: Window, pictures: Path | None, try_controls: bool) -> Iterator[str]:
    """A few things at a time, named; the window is redrawn after each. pictures: the folder for PICTURES, if wanted;
    try_controls: whether each control of each tab is used once, too."""
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
    voxels = window.snapshot.fields.get("voxels")
    if voxels is not None and voxels.n_voxels:
        view.network.picked = Picked(tuple(voxels.voxel_ijk[0].tolist()), voxels.resolution)
    for left, right in itertools.zip_longest(tabs["left"], tabs["right"]):
        view.tabs["left"], view.tabs["right"] = left or view.tabs["left"], right or view.tabs["right"]
        for _ in range(3):
            yield f"tabs {left}, {right}"
        shown = [tabs[column][name] for column, name in (("left", left), ("right", right)) if name]
        yield from controls(window, shown) if try_controls else ()
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


def controls(window: Window, panels: Sequence[ModuleType]) -> Iterator[str]:
    """Every control of the panels, and those that show once a run or a worker has done what the first asked for."""
    used: dict[ModuleType, set[str]] = {panel: set() for panel in panels}
    n_used = -1
    while n_used != sum(map(len, used.values())):
        n_used = sum(map(len, used.values()))
        for panel in panels:
            for number, commands in enumerate(every_control(panel, window.view, window.snapshot, used[panel])):
                for command in commands:
                    window.engine.send(command)
                if number % 20 == 0:
                    yield f"a control of {panel.__name__}"
        for _ in range(3):
            yield "what the controls asked for"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--every-control", action="store_true")
    parser.add_argument("--pretend-device", action="store_true")
    options = parser.parse_args()
    out, runs = options.out, DEVICE_RUNS if options.pretend_device else HARD_RUNS
    names = iter(runs)
    doing = ""
    failures: list[str] = []
    unseen: list[str] = []  # failures in the background, which a panel shows as a line, if at all

    def noted(message: str) -> WorkFailed:
        unseen.append(message)
        return WorkFailed(message)

    worker.WorkFailed = noted
    if options.pretend_device:  # derivatives in forward mode of a device in Python end the process
        gradient_work.PullWork.pull = lambda *arguments: None
    visit: Iterator[str] | None = None

    def subject(name: str) -> Subject:
        return Subject(runs[name](), name, out / name)

    pacing.IDLE_SECS = 0.0  # nobody looks: no reason to wait between two redraws
    first = next(names)

    def script(window: Window) -> bool:
        nonlocal visit, doing
        failure = unseen[0] if unseen else window.snapshot.failure
        if window.failed or failure is not None:
            failures.append(f"{window.view.title}, {doing}: {failure}")
            return True
        if visit is None:
            visit = steps(window, out if window.view.title == first else None, options.every_control)
        doing = next(visit, "")
        if doing:
            return False
        print(f"visited {window.view.title}", flush=True)
        visit, following = None, next(names, None)
        if following is None:
            return True
        window.drop([following])
        return False

    exit_code = open_window(subject(first).run, title=first, out_dir=out / first, scripted=script, size=(960, 600),
                            save=lambda path, run: None, opener=subject)
    print(*failures, sep="\n", file=sys.stderr)
    return exit_code or len(failures)


if __name__ == "__main__":
    sys.exit(main())
