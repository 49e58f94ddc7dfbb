"""Capture: what a window shows as a recipe with its source beside it, and its picture, rendered by another process."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from sparseflex.camera import Camera
from workbench import products, theme
from workbench.change_state import State
from workbench.change_view import state_of
from workbench.changes import Changes
from workbench.commands import SaveCheckpoint
from workbench.figure.findings import HELD
from workbench.figure.recipe import MAX_PIXELS, CameraTable, Page, Recipe, SourceTable
from workbench.figure.recipe_file import recipe_text
from workbench.figure.subject import RECORDING
from workbench.figure.two_states import write_states
from workbench.figure.view import panel_of
from workbench.layout import Rect
from workbench.moment import of_recording
from workbench.recording.reader import Recording
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState
from workbench.worker import same_token

if TYPE_CHECKING:
    from workbench.source import Source

CHECKPOINT = ".safetensors"
FIT = "fit"
"""The kind of run that a checkpoint can be opened of."""

_FONT_PT = 8.0


@dataclasses.dataclass
class _Job:
    """A figure under way: its recipe, the file that must be there first (or None), then the process. writing: whether a
    worker is at the file; None: the run's thread is, for a checkpoint. failure: why it can't be written."""

    recipe: Path
    awaited: Path | None
    answers: int
    writing: Callable[[], bool] | None = None
    failure: str = ""
    process: subprocess.Popen | None = None

    @property
    def picture(self) -> Path:
        return self.recipe.with_suffix(".png")


@dataclasses.dataclass(frozen=True)
class Screen:
    """What of a window's scene is seen: the view's camera, the window's size, the part without panels, the scale."""

    camera: Camera
    window: tuple[int, int]
    free: Rect
    scale: float


class Figures:
    """The figures that a window has asked for; poll() looks after them and says what became of one."""

    def __init__(self) -> None:
        self._jobs: list[_Job] = []

    @property
    def idle(self) -> bool:
        return not self._jobs

    def save(
        self, view: ViewState, snapshot: Snapshot, source: Source, screen: Screen, shoot: Callable[[Path], None]
    ) -> str:
        """Begins a figure beside the checkpoint; gives what to tell the user.

        shoot writes the screen's own picture: all that there can be where nothing keeps the run's state, and where the
        scene shows what no recipe can hold.
        """
        folder = view.checkpoint_path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stem = _free_stem(folder, f"figure_{snapshot.iteration:06d}")
            table, awaited, reason = _source_of(view, snapshot, source, stem)
            recipe = stem.with_suffix(".toml")
            if table is None:
                picture = stem.with_suffix(".png")
                picture.touch()  # Polyscope says nothing where it can't write
                shoot(picture)
                _crop(picture, screen)
                return f"saved {picture} without a recipe: {reason}"
            recipe.write_text(recipe_text(recipe_of_screen(view, table, screen, snapshot.products.stage)), "utf-8")
        except (OSError, ValueError) as error:
            return f"no figure: {error}"
        job = _Job(recipe, awaited, snapshot.serial)
        if awaited is not None and awaited.suffix == CHECKPOINT:
            source.send(SaveCheckpoint(awaited))
        elif awaited is not None:
            before, worker, key = view.changes.found.a, view.worker, f"states of {stem.name}"
            job.writing = lambda: worker.busy(key)
            worker.ask(key, recipe, lambda: _write(job, snapshot, before))
        self._jobs.append(job)
        return f"drawing {recipe.with_suffix('.png')} …"

    def poll(self, snapshot: Snapshot) -> str:
        """Starts what can be started; what became of a figure that has ended, or ""."""
        for job in self._jobs:
            if job.process is None:
                writing = job.writing is not None and job.writing()  # first: what it wrote until then is there
                if job.awaited is not None and not job.awaited.exists():
                    if job.failure:
                        return self._ended(job, f"no figure: {job.failure}")
                    if job.writing is not None:
                        if not writing:  # another run was opened, say
                            return self._ended(job, "no figure: the states that Changes compares were not saved")
                        continue
                    if snapshot.notice.startswith("not saved:") and snapshot.serial > job.answers:
                        return self._ended(job, f"no figure: the checkpoint was {snapshot.notice}")
                    if snapshot.stopped:
                        return self._ended(job, "no figure: the run has ended")
                    continue
                job.process = _start(job)
            elif job.process.poll() is not None:
                said = job.process.communicate()[1].strip().splitlines()
                if job.process.returncode == 0:
                    return self._ended(job, f"saved {job.picture} and its recipe")
                reason = (said or ["it ended without a word"])[-1].removeprefix("workbench: ")
                return self._ended(job, f"no figure: {reason}; its recipe is {job.recipe}")
        return ""

    def _ended(self, job: _Job, notice: str) -> str:
        self._jobs.remove(job)
        return notice


def _start(job: _Job) -> subprocess.Popen:
    command = [sys.executable, "-m", "workbench", "figure", str(job.recipe), "--out", str(job.picture)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True)


def _crop(picture: Path, screen: Screen) -> None:
    """To the part of the window that panels leave."""
    with Image.open(picture) as whole:
        wide, tall = (pixels / side for pixels, side in zip(whole.size, screen.window, strict=True))
        x, y, width, height = screen.free
        part = whole.crop((round(wide * x), round(tall * y), round(wide * (x + width)), round(tall * (y + height))))
    if all(part.size):  # else panels leave no room: the whole will do
        part.save(picture)


def _free_stem(folder: Path, name: str) -> Path:
    """The name, or the first of NAME-2, NAME-3 and so on that no figure has yet, nor what one was made from."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(folder / one for one in names if not any(
        (folder / f"{one}{suffix}").exists() for suffix in (".toml", ".png", CHECKPOINT, RECORDING)))


def _source_of(
    view: ViewState, snapshot: Snapshot, source: Source, stem: Path
) -> tuple[SourceTable | None, Path | None, str]:
    """Where the figure's data comes from: the recording that is shown, or a checkpoint that is to be saved first. None
    where neither is, or where they don't hold what the scene shows, and why."""
    for name in view.findings:
        if name not in HELD:
            return None, None, f"none holds what the scene shows of {name}"
    looks = view.what_ifs
    if looks.in_scene is not None and (looks.a.crossed or looks.b.crossed):
        return None, None, "none holds planes that are crossed"
    if looks.with_meshes and looks.a.rings != looks.b.rings:
        return None, None, "none holds sections that have halos of two sizes"
    if view.coverage.ghost(view) is not None:
        return None, None, "none holds the camera that Coverage suggests"
    changes = view.changes.in_scene(view)
    shown = getattr(source, "recording_path", None)
    if changes is not None and not ("voxels" in snapshot.fields
                                    and same_token(state_of(snapshot).token, changes.b.token)):
        return None, None, "the run moves on while Changes compares: pause it first"
    if shown is not None:
        table = SourceTable(os.path.relpath(shown, stem.parent), snapshot.iteration)
        return (table, None, "") if changes is None else _holding(changes.a, snapshot, shown, table)
    if changes is not None and not snapshot.products.stages:
        return _states_of(changes, snapshot, stem)
    if snapshot.run_name == FIT:
        checkpoint = stem.with_suffix(CHECKPOINT)
        return SourceTable(checkpoint.name), checkpoint, ""
    recording = getattr(source, "recording", None) or snapshot.recording  # the snapshot's is of when it was made
    if recording is not None and recording.iteration >= 0:
        at = min(recording.iteration, snapshot.iteration)
        table = SourceTable(os.path.relpath(recording.path, stem.parent), at)
        return (table, None, "") if changes is None else _holding(changes.a, snapshot, recording.path, table)
    return None, None, "a run of this kind must be recorded for that"


def _states_of(changes: Changes, snapshot: Snapshot, stem: Path) -> tuple[SourceTable | None, Path | None, str]:
    """A recording that is to be written first, of both states and no more: a checkpoint has one, and the run's own
    recording not every iteration."""
    a, b = changes.a, changes.b
    if not a.iteration < b.iteration:
        return None, None, f"a recipe goes from an iteration to a later one, not from {a.label} to {b.label}"
    path = stem.with_suffix(RECORDING)
    return SourceTable(path.name, snapshot.iteration), path, ""


def _write(job: _Job, snapshot: Snapshot, before: State) -> None:
    """From the worker's thread; the file is there once it is whole."""
    from workbench.recording.writer import Full

    try:
        write_states(job.awaited, snapshot, before)
    except (OSError, ValueError, Full) as error:
        job.failure = f"{job.awaited} can't be written: {error}"


def _holding(
    before: State, snapshot: Snapshot, path: Path, table: SourceTable
) -> tuple[SourceTable | None, None, str]:
    """The table where the recording has the state before as it is compared: one that was kept may be of another stage,
    or of a pass that was gone back over. Its voxels tell that; to read all of its arrays would hold the window up."""
    with Recording(path, cache_bytes=0) as recording:
        voxels = None
        if before.iteration in recording.iterations:
            name = next(iter(products.run_names(snapshot, ("voxels",))))
            voxels = of_recording(recording, before.iteration).field(name)
        if voxels is None or voxels.resolution != before.voxels.resolution or not torch.equal(
                voxels.voxel_ijk, before.voxels.voxel_ijk):
            return None, None, f"the recording doesn't hold {before.label} as Changes compares it"
    return table, None, ""


def recipe_of_screen(view: ViewState, source: SourceTable, screen: Screen, stage: str = "") -> Recipe:
    """The recipe that shows the part of the window without panels as it is now; stage: of an inference, the shown one.
    """
    width, height = screen.window
    x, y = screen.free[:2]
    wide, tall = (max(side, 1.0) for side in screen.free[2:])
    shares = x / width, y / height, (x + wide) / width, (y + tall) / height
    crop = tuple(min(max(share, 0.0), 1.0) for share in shares)
    eye = screen.camera.eye_world.numpy()
    camera = CameraTable(
        eye=tuple(eye.tolist()), target=tuple((eye + screen.camera.forward_world.numpy()).tolist()),
        up=tuple(screen.camera.up_world.tolist()), fov_y_degrees=screen.camera.fov_y_degrees,
        crop=() if crop == (0.0, 0.0, 1.0, 1.0) else crop,
    )
    panel = panel_of(view, source, camera, stage)
    background = "#" + "".join(f"{round(255 * part):02X}" for part in theme.BACKGROUND)
    page = Page(
        width=max(round(wide), 64), aspect=min(max(wide / tall, 0.1), 10.0), margin=0.0, background=background,
        theme=theme.current().name, font_pt=_FONT_PT, supersampling=max(min(3, MAX_PIXELS // max(width, height)), 1),
        dpi=min(max(round(theme.FONT_PIXELS * screen.scale * 72 / _FONT_PT), 36), 2400),
    )
    return Recipe(page, (panel,))
