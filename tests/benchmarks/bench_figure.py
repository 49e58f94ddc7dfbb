"""Figures: seconds of a 4096 x 4096 picture, supersampled, rendered without a window and written as a PNG."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from fresh import row, run_job, serve

SIDE, SUPERSAMPLING, LIMIT_SECS = 4096, 2, 30.0
RECIPE = f"""
[page]
width = {SIDE}
height = {SIDE}
margin = 0
dpi = 600
supersampling = {SUPERSAMPLING}
[source]
path = "house"
[source.fit]
resolution = 64
[frustum]
eye = [-1.2, -0.05, 0.75]
visibility_ratio = 0.3
[layers]
active = true
near_cut = true
far_cut = true
outside = true
frustum = true
"""


def draw(text: str) -> dict:
    """Seconds from the recipe's text to the file, all imports included, and the file's bytes."""
    start = time.perf_counter()
    from workbench.figure.make import make_figure
    from workbench.figure.recipe_file import parse_recipe

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figure.png"
        make_figure(parse_recipe(text, "bench"), Path(folder), out)
        return {"secs": time.perf_counter() - start, "bytes": out.stat().st_size}


def rows() -> list[dict]:
    large = run_job(__file__, "draw", RECIPE)
    small = run_job(__file__, "draw", RECIPE.replace(str(SIDE), "1024"))
    name = f"{{0}} x {{0}}, {SUPERSAMPLING * SUPERSAMPLING} samples a pixel, 64³"
    return [
        row(name.format(SIDE), large["secs"], "s", LIMIT_SECS),
        row(name.format(1024), small["secs"], "s"),
        row("PNG of the large one", large["bytes"] / 1e6, "MB"),
    ]


if __name__ == "__main__":
    serve({"draw": draw})
