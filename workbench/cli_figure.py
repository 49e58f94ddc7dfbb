"""`workbench figure`: a recipe, or a picture that holds one, rendered to a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from workbench.inputs import InputError


@dataclasses.dataclass(frozen=True)
class Figure:
    """Render a figure from its recipe, the same pixels every time; workbench/docs/figures.md explains recipes."""

    what: tyro.conf.Positional[Path]
    """A recipe (.toml), or a picture that a recipe made (.png or .svg)."""
    out: Path | None = None
    """The picture: .png (with the recipe within), .pdf or .svg; WHAT's name with .png where not given. A picture is
    rendered again over itself."""
    recipe: bool = False
    """Print the recipe, with all that is by default left out, and render nothing."""
    supersampling: int | None = None
    """Samples a pixel along each side, in place of the recipe's: 1 for a quick look."""

    def run(self) -> int:
        from workbench.figure.make import make_figure, open_recipe
        from workbench.figure.recipe_file import recipe_text
        from workbench.graphics import NoGraphics

        recipe = open_recipe(self.what)
        if self.supersampling is not None:
            try:
                page = dataclasses.replace(recipe.page, supersampling=self.supersampling)
            except ValueError as error:
                raise InputError(f"--{error}") from None
            recipe = dataclasses.replace(recipe, page=page)
        if self.recipe:
            print(recipe_text(recipe), end="")
            return 0
        out = self.out or (self.what if self.what.suffix.lower() in (".png", ".svg")
                           else self.what.with_suffix(".png"))
        try:
            make_figure(recipe, self.what.parent, out)
        except NoGraphics as error:
            raise InputError(str(error)) from None
        except OSError as error:
            raise InputError(f"{out} can't be written: {error.strerror or error}") from None
        print(out)
        return 0
