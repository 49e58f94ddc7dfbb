"""Pictures of workbench/docs/why_runs_fail.md: `make pictures`, or one by its name:

    xvfb-run -a -s '-screen 0 1920x1080x24 +extension GLX' .venv/bin/python tests/benchmarks/why_pictures.py hole
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from window_picture import DOCS, Picture, make, only

from workbench.window import Window


def _hole(window: Window) -> None:
    only(window, "mesh", "active", "outside")
    check = window.view.check
    check.chosen = check.regions("holes")[0]


PICTURES = {
    "hole": Picture("fails_hole", 150, ("Surface", "Maps"), _hole),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=sorted(PICTURES), help="which; all of them where not given")
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 900))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.name is None:  # one process each: a process has one window
        return max(subprocess.call([sys.executable, __file__, name]) for name in PICTURES)
    return make(PICTURES[arguments.name], arguments.out or DOCS / f"why_{arguments.name}.png", tuple(arguments.size))


if __name__ == "__main__":
    raise SystemExit(main())
