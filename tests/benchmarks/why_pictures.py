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


def _inside_out(window: Window) -> None:
    only(window, "mesh", "target")
    check = window.view.check
    check.chosen = check.regions("turned")[0]


def _exploding(window: Window) -> None:
    window.view.gradients.page = "regions"
    window.view.gradients.choose(window.view, 0)
    window.view.cameras.look_through, window.view.side_by_side = None, False
    only(window, "outside", "near_cut", "far_cut", "frustum")


def _unseen(window: Window) -> None:
    only(window, "mesh", "target")
    window.view.coverage.wanting = True


MANY = 1000
PICTURES = {
    "no_surface": Picture("fails_no_surface", MANY, ("Surface", "Scalars")),
    "hole": Picture("fails_hole", 100, ("Surface", "Maps"), _hole),
    "inside_out": Picture("fails_inside_out", MANY, ("Surface", "Maps"), _inside_out),
    "blind_frustum": Picture("fails_blind_frustum", MANY, ("Frustum", "Plots")),
    "exploding_weights": Picture("fails_exploding_weights", MANY, ("Gradients", "Scalars"), _exploding, stages=1),
    "unseen_interior": Picture("fails_unseen_interior", 100, ("Coverage", "Maps"), _unseen),
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
