"""Videos: a figure's recipe in motion, each frame a recipe of its own: turntable, camera path, iterations of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from workbench import theme
from workbench.camera_path import Key, along, swept, turned
from workbench.figure import embed
from workbench.figure.make import check_plots, page_of
from workbench.figure.page import lay_out
from workbench.figure.prepare import Ready, points_of, pose_of, poses, prepare, shown_quantities
from workbench.figure.recipe import TRANSPARENT, Panel, Recipe
from workbench.figure.recipe_file import recipe_text
from workbench.graphics import check_graphics
from workbench.inputs import input_errors
from workbench.mp4 import Mp4, mp4_file

MAX_FRAMES = 100_000
ITERATION = "{iteration}"
"""In a title or a caption: the iteration that a frame shows."""

_LOOKED_AT = 5
"""So many iterations of a time-lapse settle what holds for all of it: ranges and frame."""


@dataclasses.dataclass(frozen=True)
class Motion:
    """What changes over the frames. turns: whole turns about the vertical; keys: a camera path; iterations: one for
    each frame, or () where the recipe's own is shown. Raises ValueError for a motion that is none."""

    n_frames: int
    fps: int = 30
    turns: float = 0.0
    keys: tuple[Key, ...] = ()
    iterations: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.n_frames <= MAX_FRAMES:
            raise ValueError(f"there must be 1 to {MAX_FRAMES} frames, got {self.n_frames}")
        if not 1 <= self.fps <= 240:
            raise ValueError(f"fps must be in [1, 240], got {self.fps}")
        if not abs(self.turns) <= 1000:
            raise ValueError(f"turns must be within 1000, got {self.turns}")
        if self.keys and self.turns:
            raise ValueError("a camera path and a turntable can't be had at once")
        if self.iterations and len(self.iterations) != self.n_frames:
            raise ValueError(f"iterations must be one a frame, got {len(self.iterations)} for {self.n_frames}")


def spread(recorded: Sequence[int], first: int | None, last: int | None, n_frames: int) -> tuple[int, ...]:
    """Recorded iterations for so many frames, evenly spread from first to last, both shown."""
    known = np.asarray([iteration for iteration in recorded
                        if (first is None or iteration >= first) and (last is None or iteration <= last)])
    if not len(known):
        raise ValueError(f"no iteration from {first} to {last} is recorded; recorded are {recorded[0]} to "
                         f"{recorded[-1]}")
    places = np.rint(np.linspace(0, len(known) - 1, n_frames)).astype(int)
    return tuple(int(known[place]) for place in places)


def frame_recipes(recipe: Recipe, folder: Path, motion: Motion) -> list[Recipe]:
    """A recipe for each frame, in which nothing is left to be found out: cameras, ranges and size are settled.

    folder: what the sources are relative to. Raises InputError.
    """
    at = sorted({motion.iterations[round(place)] for place in np.linspace(0, motion.n_frames - 1, _LOOKED_AT)}
                if motion.iterations else {-1})
    looks = [prepare(_at_iteration(recipe, iteration) if motion.iterations else recipe, folder) for iteration in at]
    for look in looks:
        check_plots(look)
    layout = lay_out(_named(recipe, looks[-1]), looks[-1])
    page = dataclasses.replace(recipe.page, width_mm=0.0, height_mm=0.0, width=layout.width + layout.width % 2,
                               height=layout.height + layout.height % 2)
    still = dataclasses.replace(recipe, page=page)
    _, _, wide, tall = layout.cells[0].picture
    still = dataclasses.replace(still, panels=_with_ranges(still.panels, looks))
    cameras = _cameras(still, looks, motion, wide / tall)
    frames = []
    for number in range(motion.n_frames):
        panels = tuple(
            panel if panel.plot is not None else dataclasses.replace(panel, camera=own[number])
            for panel, own in zip(still.panels, cameras, strict=True)
        )
        found = dataclasses.replace(still, panels=panels)
        frames.append(_at_iteration(found, motion.iterations[number]) if motion.iterations else found)
    return frames if motion.iterations else [_named(frame, looks[-1]) for frame in frames]


def _at_iteration(recipe: Recipe, iteration: int) -> Recipe:
    panels = []
    for panel in recipe.panels:
        plot = panel.plot and dataclasses.replace(panel.plot, mark=iteration)
        panels.append(dataclasses.replace(
            panel, source=dataclasses.replace(panel.source, iteration=iteration), plot=plot,
            caption=panel.caption.replace(ITERATION, f"{iteration:,}")))
    page = dataclasses.replace(recipe.page, title=recipe.page.title.replace(ITERATION, f"{iteration:,}"))
    return dataclasses.replace(recipe, page=page, panels=tuple(panels))


def _named(recipe: Recipe, ready: Sequence[Ready]) -> Recipe:
    """The same with the iteration that the first panel shows in its texts."""
    shown = f"{ready[0].snapshot.iteration:,}"
    panels = tuple(dataclasses.replace(panel, caption=panel.caption.replace(ITERATION, shown))
                   for panel in recipe.panels)
    page = dataclasses.replace(recipe.page, title=recipe.page.title.replace(ITERATION, shown))
    return dataclasses.replace(recipe, page=page, panels=panels)


def _with_ranges(panels: Sequence[Panel], looks: Sequence[Sequence[Ready]]) -> tuple[Panel, ...]:
    """Panels whose colours mean the same in every frame: one range for all that was looked at."""
    found = []
    for number, panel in enumerate(panels):
        spans: dict[str, tuple[float, float]] = {}
        for look in looks:
            for quantity in shown_quantities(look[number].view):
                scale = look[number].view.field.scale_of(quantity)
                low, high = spans.get(quantity.name, (math.inf, -math.inf))
                spans[quantity.name] = min(low, scale.low), max(high, scale.high)
        found.append(dataclasses.replace(panel, ranges={**spans, **panel.ranges}))
    return tuple(found)


def _cameras(recipe: Recipe, looks: Sequence[Sequence[Ready]], motion: Motion, aspect: float) -> list[list]:
    """By panel, the camera of each frame."""
    if motion.keys:
        secs = motion.keys[0].at + np.arange(motion.n_frames) / motion.fps
        with input_errors():
            on_path = along(motion.keys, secs)
        return [[dataclasses.replace(camera, crop=panel.camera.crop) for camera in on_path] for panel in recipe.panels]
    found = []
    for number, panel in enumerate(recipe.panels):
        if panel.plot is not None:
            found.append([])
            continue
        pose = poses([looks[-1][number]], aspect, False)[0]
        if panel.camera.framed:
            sharing = [other for other in range(len(recipe.panels)) if recipe.page.shared_view
                       and recipe.panels[other].plot is None and recipe.panels[other].camera == panel.camera]
            pose = pose_of(panel.camera, _held(looks, sharing or [number], bool(motion.turns)), aspect)
        # the last frame of a turn is the one before the first
        found.append([turned(pose, motion.turns * frame / motion.n_frames, panel.camera)
                      for frame in range(motion.n_frames)])
    return found


def _held(looks: Sequence[Sequence[Ready]], numbers: Sequence[int], turning: bool) -> Float[np.ndarray, "P 3"]:
    """Points that must stay in view, whatever the frame, in panels that share a frame."""
    points = np.concatenate([points_of(look[number]) for look in looks for number in numbers])
    return swept(points) if turning else points


# Rendering


def rendered(frames: Sequence[Recipe], folder: Path) -> Iterator[UInt8[np.ndarray, "H W 4"]]:
    """The pixels of each frame, as its recipe alone gives them; what frames share is opened once."""
    from workbench.figure.compose import as_pixels

    check_graphics(display=False)
    known: tuple[tuple, list[Ready]] | None = None
    before = theme.current().name
    try:
        for frame in frames:
            theme.use(frame.page.theme)
            token = tuple(dataclasses.replace(panel, camera=frames[0].panels[number].camera, caption="")
                          for number, panel in enumerate(frame.panels))
            if known is None or known[0] != token:
                known = token, prepare(frame, folder)
            ready = [dataclasses.replace(one, panel=panel)
                     for one, panel in zip(known[1], frame.panels, strict=True)]
            yield as_pixels(page_of(frame, ready))
    finally:
        theme.use(before)


def make_video(recipe: Recipe, folder: Path, motion: Motion, mp4: Path | None, frames_dir: Path | None) -> int:
    """Renders all frames into an MP4, PNG files, or both; gives their number. The same recipe, sources and motion give
    the same bytes on one machine. Raises InputError, NoGraphics or OSError."""
    check_graphics(display=False)
    theme_before = theme.current().name
    theme.use(recipe.page.theme)
    try:
        frames = frame_recipes(recipe, folder, motion)
    finally:
        theme.use(theme_before)
    for target in (mp4 and mp4.parent, frames_dir):
        if target is not None:
            target.mkdir(parents=True, exist_ok=True)
    page = frames[0].page
    pause_secs = 0.1 if sys.stderr.isatty() else 10.0
    digits = max(len(str(len(frames) - 1)), 4)
    with contextlib.ExitStack() as stack:
        film: Mp4 | None = None
        if mp4 is not None:
            film = stack.enter_context(mp4_file(mp4, page.pixel_width, page.pixel_height, motion.fps))
        bar = stack.enter_context(tqdm(total=len(frames), desc="video", unit="frame", dynamic_ncols=True,
                                       mininterval=pause_secs, maxinterval=max(pause_secs, 10.0)))
        for number, (frame, pixels) in enumerate(zip(frames, rendered(frames, folder), strict=True)):
            if frames_dir is not None:
                _save(frames_dir / f"{number:0{digits}d}.png", pixels, _moved(frame, folder, frames_dir))
            if film is not None:
                film.write(opaque(pixels, frame.page.background))
            bar.update(1)
    return len(frames)


def _save(path: Path, pixels: UInt8[np.ndarray, "H W 4"], recipe: Recipe) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        embed.save_png(part, pixels, recipe_text(recipe), recipe.page.dpi)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _moved(recipe: Recipe, folder: Path, other: Path) -> Recipe:
    """The same recipe for a file in another folder: its sources are found from there."""
    panels = []
    for panel in recipe.panels:
        path = panel.source.path
        if (folder / path).exists():  # else a scene, by its name
            path = Path(os.path.relpath((folder / path).resolve(), other.resolve())).as_posix()
        panels.append(dataclasses.replace(panel, source=dataclasses.replace(panel.source, path=path)))
    return dataclasses.replace(recipe, panels=tuple(panels))


def opaque(pixels: UInt8[np.ndarray, "H W 4"], background: str) -> UInt8[np.ndarray, "H W 3"]:
    """The picture without transparency: on its background, or on white where it has none."""
    if (pixels[..., 3] == 255).all():
        return pixels[..., :3]
    ground = np.array(theme.rgb("#FFFFFF" if background in ("", TRANSPARENT) else background)) * 255
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return np.rint(pixels[..., :3] * alpha + ground * (1 - alpha)).astype(np.uint8)
