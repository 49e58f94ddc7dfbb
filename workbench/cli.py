"""The command line: `workbench view | fit | reconstruct | …`; a typed dataclass for each command."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

# before torch is imported: OpenMP reads it once, and idle threads that spin slow the window and each other down
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tyro

from workbench.cli_break import BreakOptions
from workbench.cli_diff import Diff
from workbench.cli_export import Export
from workbench.cli_figure import Figure
from workbench.cli_pair import view_pair
from workbench.cli_profile import ProfileOptions, check_profiled
from workbench.cli_reconstruct import Reconstruct, ShapeOptions, asks_for_network, open_for_view
from workbench.cli_record import HeadlessRecordOptions, RecordOptions
from workbench.cli_replay import BranchOptions, ReplayRun, is_recording, open_recording, view_recording
from workbench.cli_video import Video
from workbench.inputs import (
    InputError,
    Opened,
    choose_device,
    free_folder,
    open_what,
    refuse,
    scene_folders,
    view_folder,
    writable_folder,
)

if TYPE_CHECKING:
    from sparseflex.training.run import Run
    from workbench.recording.recorder import StartRecorder

DEMO_SCENE = "house"
DEMO_OUT = Path("recordings/demo")
Up = Literal["y", "z"]


@dataclasses.dataclass(frozen=True)
class View(ShapeOptions, RecordOptions):
    """Show a scene, a mesh, a checkpoint or your own trainer; starts paused. Headless: figure and metrics only."""

    what: tyro.conf.Positional[str]
    """A scene's name or .toml, a mesh (.obj .ply .glb .off .stl), a run's checkpoint.safetensors, a recording
    (run.h5), my_run.py:make_run, or the weights of a SparseFlex VAE (.safetensors .pt), which need --mesh."""
    beside: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[WHAT2]")] = ""
    """A second one, to be shown beside it: scene, mesh, checkpoint, recording or trainer."""
    mesh: str = ""
    """Of a VAE's weights: the mesh, scene or point cloud (.ply .npz) to reconstruct; --other, --config, --points and
    --dtype go with it."""
    headless: bool = False
    """No window: load, write figure.png and metrics.json, end."""
    out: Path | None = None
    """Folder for what is written; recordings/view/NAME where not given; NAME-2 and so on where that holds a run."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes CUDA where there is one."""
    seed: int | None = None
    """Seed of every random choice."""
    resolution: int | None = None
    """Voxels along the longest side; of a VAE the latents', of which the surface has four times as many."""
    start_resolution: int | None = None
    """Go coarse to fine: resolution of the first level, doubled and pruned up to --resolution; 0 starts at that."""
    up: Up | None = None
    """Up axis of the mesh file."""
    follow: bool = False
    """The recording is being written by another process: keep up with it."""

    def run(self) -> int:
        network = asks_for_network(self)
        if self.beside:
            return view_pair(self)
        if is_recording(self.what) and not self.headless:
            return view_recording(self.what, self.out, self.follow)
        if self.follow:
            raise InputError("--follow applies to a recording (.h5) in a window")
        device = None if self.device == "auto" else choose_device(self.device)
        out = None if self.out is None else writable_folder(self.out)
        names = ("seed", "resolution", "start_resolution")
        overrides = {name: getattr(self, name) for name in names}
        opened = (open_for_view(self) if network
                  else open_what(self.what, device=device, up=self.up, overrides=overrides))
        require_graphics(display=not self.headless)  # what can't be opened is told first
        out = out or view_folder(opened.name)
        warn(opened)
        if self.headless:
            from workbench.headless import view_headless

            return view_headless(opened, out)
        return show(opened, out, paused=True, options=self)


@dataclasses.dataclass(frozen=True)
class Fit(BranchOptions, BreakOptions, ProfileOptions, HeadlessRecordOptions):
    """Fit a SparseFlex to a scene, a mesh or a checkpoint's target, live in a window or headless."""

    what: tyro.conf.Positional[str]
    """A scene's name or .toml, a mesh (.obj .ply .glb .off .stl), a checkpoint.safetensors to go on with, a recording
    (run.h5) to branch off, or my_run.py:make_run."""
    headless: bool = False
    """No window: a progress bar, then mesh.ply, figure.png, metrics.json and checkpoint.safetensors."""
    out: Path | None = None
    """Folder for what is written; recordings/NAME where not given."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes CUDA where there is one."""
    seed: int | None = None
    """Seed of every random choice."""
    resolution: int | None = None
    """Voxels along the longest side."""
    start_resolution: int | None = None
    """Go coarse to fine: resolution of the first level, doubled and pruned up to --resolution; 0 starts at that."""
    iterations: int | None = None
    """Iterations in all, those of a checkpoint included; the scene's own number, or 1500, where not given."""
    visibility_ratio: float | None = None
    """Share of the voxels to activate each iteration, in (0, 1]."""
    up: Up | None = None
    """Up axis of the mesh file."""
    input_frame: bool = False
    """Write mesh.ply in the frame of the input file, not in the normalised one."""

    def run(self) -> int:
        from workbench.system_check import has_display

        if not self.headless and not has_display():
            raise InputError("fit opens a window and there is no display: add --headless to fit without one")
        self.check_breaks()
        self.check_profile(self.headless)
        require_graphics(display=not self.headless)
        device = None if self.device == "auto" else choose_device(self.device)
        out = None if self.out is None else writable_folder(self.out)
        names = ("seed", "resolution", "start_resolution", "iterations", "visibility_ratio")
        overrides = {name: getattr(self, name) for name in names}
        parent = None
        if is_recording(self.what):
            refuse({**overrides, "iterations": None}, self.up, "a recording")
            opened, parent = self.branched(self.what, device, self.iterations)
        else:
            self.check_no_branch(self.what)
            opened = open_what(self.what, device=device, up=self.up, overrides=overrides, input_frame=self.input_frame)
        opened, out = self.with_breaks(opened), out or writable_folder(Path("recordings") / opened.name)
        warn(opened)
        if not self.headless:
            if self.iterations is not None and not hasattr(opened.run, "config"):
                raise InputError("--iterations applies to a trainer of one's own with --headless only")
            return show(opened, out, paused=False, input_frame=self.input_frame, options=self, parent=parent)
        record = self.recorder_headless(opened, out, parent)
        return fit_headless(opened, self.iterations, out, self.input_frame, record, self.profile)


@dataclasses.dataclass(frozen=True)
class Demo(BreakOptions, HeadlessRecordOptions):
    """The demo scene, training: in a window, or headless for its number of iterations where there is no display."""

    out: Path = DEMO_OUT
    """Folder for what is written."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes CUDA where there is one."""
    headless: bool = False
    """No window, even with a display."""

    def run(self) -> int:
        from workbench.system_check import has_display

        headless = self.headless or not has_display()
        self.check_breaks()
        require_graphics(display=not headless)
        device, out = choose_device(self.device), writable_folder(self.out)
        opened = self.with_breaks(open_what(DEMO_SCENE, device=device))
        if not headless:
            return show(opened, out, paused=False, options=self)
        if not self.headless:
            print("no display: the demo runs headless")
        return fit_headless(opened, None, out, False, self.recorder_headless(opened, out))


@dataclasses.dataclass(frozen=True)
class Eval:
    """Compare a mesh with a target: Chamfer distances, F-scores, normals, holes; lengths relative to its size."""

    predicted: tyro.conf.Positional[str]
    """A mesh file."""
    target: tyro.conf.Positional[str]
    """A mesh file, or a scene's name or .toml."""
    frame: Literal["auto", "same", "normalized"] = "auto"
    """Of PREDICTED: same as TARGET's file, or the normalised one of TARGET; auto goes by a metrics.json beside
    PREDICTED, and takes same where there is none."""
    up: Up | None = None
    """Up axis of both mesh files."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        from workbench.evaluation import evaluate

        return evaluate(self.predicted, self.target, self.frame, self.up, self.json)


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure speed and memory on this machine, beside what is to be reached; takes minutes."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Benchmarks to run, all where none is named."""
    json: bool = False
    """Print one JSON list."""

    def run(self) -> int:
        from workbench.bench import run_benchmarks

        return run_benchmarks(self.names, self.json)


@dataclasses.dataclass(frozen=True)
class Scenes:
    """List the scenes."""

    def run(self) -> int:
        from sparseflex.scene import read_scene_text, scene_names
        from workbench.inputs import input_errors

        folders = scene_folders()
        column = 2 + max(map(len, scene_names(folders)), default=0)
        for name in scene_names(folders):
            path = next(folder / f"{name}.toml" for folder in folders if (folder / f"{name}.toml").is_file())
            with input_errors():
                tables = read_scene_text(path)
            text = " ".join(tables.get("description", "").split())
            width = max(min(shutil.get_terminal_size((120, 24)).columns, 120), 2 * column)
            wrap = {"width": width, "subsequent_indent": " " * column}
            print(textwrap.fill(f"{name:<{column}}{tables.get('title', name)}. {text}", **wrap))
        return 0


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say what works on this machine, and the command that mends what doesn't."""

    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        from workbench.doctor import report

        return report(as_json=self.json)


def require_graphics(display: bool) -> None:
    """Says what is missing before Polyscope could crash on it."""
    from workbench.graphics import NoGraphics, check_graphics

    try:
        check_graphics(display=display)
    except NoGraphics as error:
        raise InputError(str(error)) from None


def warn(opened: Opened) -> None:
    for text in opened.warnings:
        print(f"{opened.name}: {text}", file=sys.stderr)


def fit_headless(opened: Opened, iterations: int | None, out: Path, input_frame: bool,
                 record: StartRecorder | None, profile: int | None = None) -> int:
    from workbench.headless import run_headless

    wanted = getattr(getattr(opened.run, "config", None), "iterations", None) if iterations is None else iterations
    if wanted is None:
        raise InputError(f"{opened.name}: this run has no number of iterations of its own, name one with --iterations")
    if iterations is not None and iterations <= opened.run.iteration:
        raise InputError(f"--iterations must be above {opened.run.iteration}, which {opened.name} has reached, got "
                         f"{iterations}")
    check_profiled(profile, opened.run.iteration + 1, wanted)
    return run_headless(opened, wanted, out, input_frame, record, profile)


@dataclasses.dataclass(frozen=True)
class Visit:
    """What was shown in the window, where its files go, and the iteration that it came with."""

    opened: Opened
    out: Path
    start: float

    @classmethod
    def of(cls, opened: Opened, out: Path) -> Visit:
        """A recording makes no iterations, whatever it shows."""
        return cls(opened, out, getattr(opened.run, "iteration", math.inf))


def show(opened: Opened, out: Path, paused: bool, input_frame: bool = False, follow: bool = False,
         options: RecordOptions | None = None, parent: Mapping[str, Any] | None = None) -> int:
    """Opens the window on a run, or a recording; where iterations were made, mesh and metrics go beside the checkpoint
    afterwards.

    A file dropped on the window gets a folder of its name beside the first one's. parent: see About.
    """
    from workbench.app import StageDidNotEnd, open_window
    from workbench.branch import branch_of, opened_recording, parent_of
    from workbench.graphics import NoGraphics
    from workbench.subject import Subject

    visits, options = [Visit.of(opened, out)], options or RecordOptions()
    record = options.recorder(opened, out, parent=parent)

    def another(find: Callable[[], Opened]) -> tuple[Opened, Path]:
        try:
            found = find()
            return found, writable_folder(free_folder(out.parent / found.name, [visit.out for visit in visits]))
        except InputError as error:
            raise ValueError(str(error)) from None

    def open_dropped(path: str) -> Subject:
        found, folder = another(
            lambda: opened_recording(open_recording(path)) if is_recording(path) else open_what(path))
        visits.append(Visit.of(found, folder))
        return Subject(found.run, found.title, folder, found.view.camera(), record=options.recorder(found, folder),
                       breakpoints=found.breakpoints)

    def open_branch(run: Run) -> Subject:
        """A run that has branched off the recording shown last."""
        found, folder = another(lambda: branch_of(visits[-1].opened, run))
        parent = parent_of(visits[-1].opened.run, run.iteration)
        visits.append(Visit.of(found, folder))
        return Subject(found.run, found.title, folder, found.view.camera(),
                       record=options.recorder(found, folder, parent=parent))

    try:
        code = open_window(opened.run, title=opened.title, out_dir=out, paused=paused, home=opened.view.camera(),
                           opener=open_dropped, follow=follow, brancher=open_branch, record=record,
                           breakpoints=opened.breakpoints)
    except NoGraphics as error:
        raise InputError(str(error)) from None
    except StageDidNotEnd as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 1
    return max([code, *(write_what_was_made(visit, input_frame) for visit in visits)])


def write_what_was_made(visit: Visit, input_frame: bool) -> int:
    if getattr(visit.opened.run, "iteration", 0) <= visit.start:
        return 0
    from workbench.headless import frame_name, write_mesh, write_metrics

    try:
        write_mesh(visit.opened, visit.out, input_frame)
        write_metrics(visit.opened, visit.out, {"finished": None, "frame": frame_name(input_frame)})
    except OSError as error:
        print(f"not written: {error}", file=sys.stderr)
        return 1
    return 0


COMMANDS = {
    "view": View, "fit": Fit, "reconstruct": Reconstruct, "replay": ReplayRun, "demo": Demo, "eval": Eval,
    "bench": Bench, "scenes": Scenes, "doctor": Doctor, "export": Export, "figure": Figure, "video": Video,
    "diff": Diff,
}


def parse(arguments: list[str] | None) -> View | Fit | Demo | Eval | Bench | Scenes | Doctor:
    """The command with its options; bad usage ends the process with exit code 2."""
    commands = tuple(
        Annotated[command, tyro.conf.subcommand(name, prefix_name=False)] for name, command in COMMANDS.items()
    )
    return tyro.cli(
        Union[commands],  # noqa: UP007 - of a tuple
        prog="workbench", args=arguments, config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        description="A viewer and debugging workbench for sparse-voxel 3D models (SparseFlex), with live training.",
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 good, 2 bad usage or input (one line on stderr, an expression with a caret below), 3 a breakpoint
    was hit, 1 other failures, 130 Ctrl-C, 143 SIGTERM."""
    try:
        return parse(arguments).run()
    except InputError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("workbench: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
