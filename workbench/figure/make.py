"""Make: a recipe becomes a file: PNG with the recipe within, PDF or SVG."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench import theme
from workbench.figure import embed
from workbench.figure.prepare import Ready, poses, prepare
from workbench.figure.recipe import Recipe
from workbench.figure.recipe_file import parse_recipe, read_recipe, recipe_text
from workbench.graphics import check_graphics
from workbench.inputs import InputError, input_errors

SUFFIXES = (".png", ".pdf", ".svg")
PICTURES = (".png", ".svg")
"""What a recipe comes back out of."""


def open_recipe(path: Path) -> Recipe:
    """The recipe of a .toml file, or of a picture that holds one. Raises InputError."""
    with input_errors():
        if path.suffix.lower() in PICTURES:
            return parse_recipe(embed.recipe_of(path), str(path))
        return read_recipe(path)


def make_figure(recipe: Recipe, folder: Path, out: Path) -> None:
    """Renders the recipe and writes it to out, as its suffix says. folder: what its sources are relative to.

    The same recipe and sources give the same pixels on one machine. Raises InputError, NoGraphics or OSError.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(f"a figure's file must end in one of {', '.join(SUFFIXES)}, got {out.name!r}")
    before = theme.current().name
    theme.use(recipe.page.theme)
    try:
        _write(recipe, folder, out)
    finally:
        theme.use(before)


def _write(recipe: Recipe, folder: Path, out: Path) -> None:
    from workbench.figure.compose import as_pixels, as_vector

    check_graphics(display=False)  # before anything is fitted for nothing
    page, text = recipe.page, recipe_text(recipe)
    ready = prepare(recipe, folder)
    check_plots(ready)
    for number, one in enumerate(ready, start=1):
        for note in one.notes:
            print(f"panel {number}: {note}", file=sys.stderr)
    figure = page_of(recipe, ready)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")  # a picture is there whole, or not at all
    try:
        if out.suffix.lower() == ".png":
            embed.save_png(part, as_pixels(figure), text, page.dpi)
        else:
            part.write_bytes(as_vector(figure, out.suffix.lower(), page.title, text))
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def page_of(recipe: Recipe, ready: Sequence[Ready]) -> Any:
    """The page with its pictures drawn, for compose.as_pixels and as_vector; ready: the recipe's panels, prepared."""
    from workbench.figure.compose import compose
    from workbench.figure.page import lay_out
    from workbench.figure.render import draw_scene

    page, layout = recipe.page, lay_out(recipe, ready)
    _, _, wide, tall = layout.cells[0].picture
    seen = poses(ready, wide / tall, page.shared_view)
    pictures = [None if pose is None else draw_scene(one, pose, wide, tall, page.supersampling)
                for one, pose in zip(ready, seen, strict=True)]
    worlds = [0.0 if pose is None else pose.height_world * _cropped(one) for one, pose in zip(ready, seen, strict=True)]
    return compose(recipe, layout, ready, pictures, worlds)


def _cropped(ready: Ready) -> float:
    """The share of the view's height that is shown."""
    crop = ready.panel.camera.crop
    return crop[3] - crop[1] if crop else 1.0


def check_plots(ready: Sequence[Ready]) -> None:
    for number, one in enumerate(ready, start=1):
        if one.panel.plot is None:
            continue
        names = one.snapshot.history.names
        for scalar in one.panel.plot.scalars:
            if scalar not in names:
                raise InputError(f"panel {number}: plot.scalars must be of {', '.join(names) or 'none'}, "
                                 f"got {scalar!r}")
