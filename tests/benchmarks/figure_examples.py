"""Renders the figures of the documentation: the examples, smaller than for print, and a reconstruction at a glance."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from PIL import Image

from workbench.figure.make import make_figure, open_recipe
from workbench.inputs import network_file
from workbench.plate import render_figure
from workbench.reconstruction import Network, open_reconstruction

FOLDER = Path(__file__).resolve().parent.parent.parent / "workbench" / "docs" / "figures"
DPI = {"resolution": 100, "changes": 120}
"""Of those with the most detail: no picture shall have more than 300 KB."""


def main(names: list[str]) -> None:
    for path in sorted(FOLDER.glob("*.toml")):
        if names and path.stem not in names:
            continue
        recipe = open_recipe(path)
        page = dataclasses.replace(recipe.page, dpi=DPI.get(path.stem, 150))
        make_figure(dataclasses.replace(recipe, page=page), FOLDER, path.with_suffix(".png"))
        _tell(path.with_suffix(".png"))
    if not names or "reconstruction" in names:
        _tell(draw_reconstruction(FOLDER.parent / "reconstruction.png"))


def draw_reconstruction(path: Path) -> Path:
    """What `workbench reconstruct lantern --checkpoint tiny_vae --headless` leaves as figure.png, smaller."""
    opened = open_reconstruction(Network(network_file("tiny_vae")), "lantern")
    opened.run.run_pass()
    render_figure(opened.run, path, 1200, 900, home=opened.view.camera())
    Image.open(path).quantize(256).save(path, optimize=True)
    return path


def _tell(path: Path) -> None:
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1:])
