"""A picture of the window on a scene after some iterations; the README's is made by

    xvfb-run -s '-screen 0 1920x1080x24 +extension GLX' .venv/bin/python tests/benchmarks/window_picture.py house

and lies in workbench/docs/window.png.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from workbench.actions import ACTIONS
from workbench.app import open_window
from workbench.commands import NextStage, RunIterations
from workbench.inputs import open_what
from workbench.panels import COLUMNS
from workbench.view_state import ViewState
from workbench.window import Window

_SETTLED_FRAMES = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what")
    parser.add_argument("--iterations", type=int, default=272)
    parser.add_argument("--stages", type=int, default=0, help="stages of the next iteration to run after that")
    parser.add_argument("--tab", action="append", default=[], help="tabs to bring to the front")
    parser.add_argument("--theme", default="dark")
    parser.add_argument("--action", action="append", default=[], help="actions to run by name, as from the palette")
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 900))
    parser.add_argument("--out", type=Path, default=Path("workbench/docs/window.png"))
    arguments = parser.parse_args()
    opened = open_what(arguments.what)
    view = ViewState(theme=arguments.theme)
    for column, tabs in COLUMNS.items():
        view.tabs[column] = next((tab for tab in arguments.tab if tab in tabs), "")
    still = 0

    def script(window: Window) -> bool:
        nonlocal still
        if window.n_frames == 2:
            window.engine.send(RunIterations(arguments.iterations))
        shown = window.snapshot
        if still == 1:
            for _ in range(arguments.stages):
                window.engine.send(NextStage())
            for action in ACTIONS:
                if action.name in arguments.action:
                    action.does(window)
        still = still + 1 if shown.iteration >= arguments.iterations and not shown.playing else 0
        if still == _SETTLED_FRAMES:
            window.screenshot(arguments.out)
        return still > _SETTLED_FRAMES

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = folder  # the picture shall not depend on what its maker prefers
        return open_window(
            opened.run, title=opened.title, out_dir=folder, scripted=script, size=tuple(arguments.size),
            home=opened.view.camera(), view=view,
        )


if __name__ == "__main__":
    raise SystemExit(main())
