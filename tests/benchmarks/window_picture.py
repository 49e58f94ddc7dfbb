"""A picture of the window on a scene after some iterations; the README's is made by

    xvfb-run -s '-screen 0 1920x1080x24 +extension GLX' .venv/bin/python tests/benchmarks/window_picture.py house

and lies in workbench/docs/window.png.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from workbench.app import Window, open_window
from workbench.commands import RunIterations
from workbench.inputs import open_what

_SETTLED_FRAMES = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what")
    parser.add_argument("--iterations", type=int, default=272)
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 900))
    parser.add_argument("--out", type=Path, default=Path("workbench/docs/window.png"))
    arguments = parser.parse_args()
    opened = open_what(arguments.what)
    still = 0

    def script(window: Window) -> bool:
        nonlocal still
        if window.n_frames == 2:
            window.engine.send(RunIterations(arguments.iterations))
        shown = window.snapshot
        still = still + 1 if shown.iteration >= arguments.iterations and not shown.playing else 0
        if still == _SETTLED_FRAMES:
            window.screenshot(arguments.out)
        return still > _SETTLED_FRAMES

    with tempfile.TemporaryDirectory() as folder:
        return open_window(
            opened.run, title=opened.title, out_dir=folder, scripted=script, size=tuple(arguments.size),
            home=opened.view.camera(),
        )


if __name__ == "__main__":
    raise SystemExit(main())
