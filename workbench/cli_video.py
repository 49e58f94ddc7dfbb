"""`workbench video`: a recipe, a recording or a mesh in motion, as MP4 or as numbered pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from workbench.inputs import InputError, input_errors

if TYPE_CHECKING:
    from workbench.figure.recipe import Recipe
    from workbench.video import Motion

RECORDING = ".h5"
_DARK = "#15181E"


@dataclasses.dataclass(frozen=True)
class Video:
    """Render a video: a turntable, a camera path, the iterations of a recording; the same bytes every time."""

    what: tyro.conf.Positional[str]
    """A figure's recipe (.toml, or a picture that holds one), or what `view` opens: then voxels and surface are shown.
    "{iteration}" in a recipe's title and captions is the iteration shown."""
    out: Path | None = None
    """The MP4 (.mp4); WHAT's name in the present folder where neither this nor --frames is given."""
    frames: Path | None = None
    """Folder for numbered PNG files. Each holds its own recipe: `workbench figure` renders it again."""
    turns: float | None = None
    """Whole turns about the vertical; 1 where nothing else is asked for, negative ones go the other way."""
    path: Path | None = None
    """A camera path: a TOML file of [[keys]] with at (seconds), eye, target, up and fov_y_degrees."""
    timelapse: bool = False
    """Go through the iterations of a recording."""
    first: int | None = None
    """The first iteration of the time-lapse."""
    last: int | None = None
    """The last iteration of the time-lapse."""
    secs: float | None = None
    """Length in seconds; 8, or that of the path, where not given."""
    fps: int = 30
    """Frames a second."""
    width: int | None = None
    """Width in pixels, in place of the recipe's."""
    supersampling: int | None = None
    """Samples a pixel along each side, in place of the recipe's: 1 for a quick look."""

    def run(self) -> int:
        from workbench.graphics import NoGraphics
        from workbench.video import make_video

        if self.out is not None and self.out.suffix.lower() != ".mp4":
            raise InputError(f"--out must end in .mp4, got {self.out.name!r}")
        recipe, folder = self._recipe()
        motion = self._motion(recipe, folder)
        out = self.out or (None if self.frames else Path(f"{Path(self.what).stem}.mp4"))
        try:
            n_frames = make_video(recipe, folder, motion, out, self.frames)
        except NoGraphics as error:
            raise InputError(str(error)) from None
        except OSError as error:
            raise InputError(" ".join(str(error).split())) from None
        for path in (out, self.frames):
            if path is not None:
                print(f"{path}: {n_frames} frames, {n_frames / self.fps:.2f} s")
        return 0

    def _recipe(self) -> tuple[Recipe, Path]:
        """What is shown, and the folder that its sources are relative to."""
        from workbench.figure.make import open_recipe

        path = Path(self.what)
        if path.suffix.lower() in (".png", ".svg") or (path.suffix.lower() == ".toml" and not _is_scene(path)):
            recipe, folder = open_recipe(path), path.parent
        else:
            recipe, folder = plain_recipe(self.what), Path()
        changes = {name: value for name in ("width", "supersampling") if (value := getattr(self, name)) is not None}
        if "width" in changes:
            changes |= {"width_mm": 0.0, "height_mm": 0.0, "height": 0}
        try:
            return dataclasses.replace(recipe, page=dataclasses.replace(recipe.page, **changes)), folder
        except ValueError as error:
            raise InputError(f"--{error}") from None

    def _motion(self, recipe: Recipe, folder: Path) -> Motion:
        from workbench.camera_path import read_path
        from workbench.video import Motion, spread

        with input_errors():
            keys = () if self.path is None else read_path(self.path)
            secs = self.secs if self.secs is not None else (keys[-1].at - keys[0].at if keys else 8.0)
            if not 0 < secs <= 36_000:
                raise ValueError(f"--secs must be in (0, 36000], got {secs:g}")
            n_frames = max(round(secs * self.fps), 1) + (self.path is not None and self.secs is None)
            still = not (keys or self.timelapse)
            turns = (1.0 if still else 0.0) if self.turns is None else self.turns
            iterations: tuple[int, ...] = ()
            if self.timelapse:
                iterations = spread(_recorded(recipe, folder), self.first, self.last, n_frames)
            elif self.first is not None or self.last is not None:
                raise ValueError("--first and --last go with --timelapse")
            return Motion(n_frames, self.fps, turns, keys, iterations)


def _is_scene(path: Path) -> bool:
    """Whether a .toml is a scene's and no recipe: it says what the target is."""
    from sparseflex.scene import tomllib

    try:
        return "target" in tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False  # the recipe's reader says what is wrong


def _recorded(recipe: Recipe, folder: Path) -> list[int]:
    """The iterations of the recording that all panels show. Raises ValueError where it isn't one."""
    from workbench.recording.reader import Recording

    paths = sorted({panel.source.path for panel in recipe.panels})
    if len(paths) != 1 or not paths[0].lower().endswith(RECORDING):
        raise ValueError(f"--timelapse needs one recording (.h5) in all panels, got {', '.join(paths)}")
    with Recording(folder / paths[0]) as recording:
        return recording.iterations.tolist()


def plain_recipe(what: str) -> Recipe:
    """Voxels and surface side by side, and the target where there is one, on dark ground."""
    from workbench.figure.recipe import FrustumTable, LayerTable, Page, Panel, Recipe, SourceTable
    from workbench.moment import open_moment

    moment = open_moment(what)
    source = SourceTable(path=what)
    whole, off = LayerTable(), FrustumTable(off=True)
    panels = [Panel(caption=caption, source=source, layers={layer: whole}, frustum=off)
              for field, layer, caption in (("voxels", "active", "voxels"), ("mesh", "mesh", "surface"),
                                            ("target", "target", "target"))
              if field in moment.kinds and not (layer == "mesh" and moment.iteration == 0 and not _records(what))]
    if not panels:
        raise InputError(f"{what}: it has neither voxels nor a mesh to show")
    title = f"{moment.name}, iteration {{iteration}}" if _records(what) or moment.iteration else moment.name
    page = Page(title=title, width=640 * len(panels), background=_DARK, theme="dark", supersampling=2, dpi=144,
                font_pt=9.0)
    return Recipe(page, tuple(panels))


def _records(what: str) -> bool:
    return what.lower().endswith(RECORDING)
