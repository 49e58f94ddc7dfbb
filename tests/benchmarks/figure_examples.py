"""Renders the example figures for the documentation, at fewer pixels an inch than for print."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from workbench.figure.make import make_figure, open_recipe

FOLDER = Path(__file__).resolve().parent.parent.parent / "workbench" / "docs" / "figures"
DPI = {"resolution": 100}
"""Of those with the most detail: no picture shall have more than 300 KB."""


def main(names: list[str]) -> None:
    for path in sorted(FOLDER.glob("*.toml")):
        if names and path.stem not in names:
            continue
        recipe = open_recipe(path)
        page = dataclasses.replace(recipe.page, dpi=DPI.get(path.stem, 150))
        make_figure(dataclasses.replace(recipe, page=page), FOLDER, path.with_suffix(".png"))
        print(f"{path.with_suffix('.png').name}: {path.with_suffix('.png').stat().st_size / 1e3:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1:])
