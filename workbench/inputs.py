"""What a command is given (a scene, a mesh, a checkpoint, one's own trainer) opened as a run, or one clear line."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from sparseflex.mesh import Mesh
    from sparseflex.scene import ViewConfig
    from sparseflex.training.run import Run
    from workbench.snapshot import Breakpoint

VIEW_OUT = Path("recordings/view")
CHECKPOINT = "checkpoint.safetensors"
"""What a window, or a headless run, saves its run as."""

RUN_METHODS = ("run_stage", "scalars", "read_field", "cameras", "change_setting", "state_dict", "load_state_dict")
RUN_ATTRIBUTES = ("name", "stages", "iteration", "fields", "settings", *RUN_METHODS)


class InputError(Exception):
    """Something that the user gave is unusable; its text is the one line they read."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """A run with what pictures and files of it need. input_from_normalized: (4, 4) float64. breakpoints: those of the
    scene, and of the command line."""

    run: Run
    name: str
    title: str
    view: ViewConfig
    input_from_normalized: Tensor
    warnings: tuple[str, ...] = ()
    breakpoints: tuple[Breakpoint, ...] = ()


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Errors that the library raises for bad input become InputError: what, rule and value in one line."""
    try:
        yield
    except (ValueError, FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InputError(" ".join(str(error).split())) from error
    except OverflowError as error:
        raise InputError(f"a number is too large: {error}") from error


def scene_folders() -> list[Path]:
    """Where the scenes lie: beside this package in a checkout, within it when installed."""
    here = Path(__file__).resolve().parent
    return [folder for folder in (here.parent / "scenes", here / "scenes") if folder.is_dir()]


def network_file(what: str | Path) -> Path:
    """The weights of a network by the name of a file beside the scenes, such as tiny_vae; any path is itself."""
    path = Path(what)
    if path.suffix or path.name != str(path) or path.exists():
        return path
    known = (folder / f"{path.name}.safetensors" for folder in scene_folders())
    return next((file for file in known if file.is_file()), path)


def choose_device(name: str) -> str:
    """The torch device of a --device flag: auto takes CUDA where there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device must be one of auto, cpu, cuda, cuda:N, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device must be one of auto, cpu, cuda, cuda:N, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {name}: torch {torch.__version__} finds no CUDA device, see `workbench doctor`")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return name


def writable_folder(path: Path) -> Path:
    """The folder, made if missing, once a file could really be written there. At the end of the process one that was
    made and is still empty goes again."""
    missing = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable-"):
            pass
    except OSError as error:
        raise InputError(f"--out {path}: can't be written to ({error.strerror})") from None
    if missing:
        atexit.register(_drop_if_empty, path.absolute())
    return path


def _drop_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def free_folder(wanted: Path, taken: Collection[Path] = ()) -> Path:
    """The folder, or the first of NAME-2, NAME-3 and so on that isn't taken and where no run has been saved."""
    return next(folder for number in itertools.count(1)
                if (folder := wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")) not in taken
                and not (folder / CHECKPOINT).exists())


def view_folder(name: str) -> Path:
    """Where a look at something leaves its files if it isn't told: recordings/view/NAME, if that is free."""
    return writable_folder(free_folder(VIEW_OUT / name))


def open_what(
    what: str,
    *,
    device: str | None = None,
    up: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    input_frame: bool = False,
) -> Opened:
    """A scene by name or .toml, a mesh, a checkpoint, a recording (.h5), or `my_run.py:make_run`, as a run.

    device: None takes CUDA where there is one. overrides: settings of the fit that replace the scene's, None where not
    given. input_frame: the mesh is wanted in the frame of the input. What does not apply is refused. Raises InputError.
    """
    overrides = {key: value for key, value in (overrides or {}).items() if value is not None}
    # how far to go may be said of any run; all else is settled in a checkpoint, or in code
    without_iterations = {key: value for key, value in overrides.items() if key != "iterations"}
    script, _, function = what.rpartition(":")
    if script.endswith(".py"):
        flags = {"device": device, "input_frame": input_frame or None}
        refuse({**without_iterations, **flags}, up, "a trainer of one's own")
        if overrides.get("iterations", 1) < 1:
            raise InputError(f"--iterations must be a whole number in [1, inf), got {overrides['iterations']}")
        return _open_script(Path(script), function)
    if what.endswith(".py"):
        raise InputError(f"{what}: name the function that makes the run too, as in {what}:make_run")
    device = device or choose_device("auto")
    if (Path(what) / "checkpoint.safetensors").is_file():  # the folder that a run has left
        what = str(Path(what) / "checkpoint.safetensors")
    if what.endswith(".h5"):
        refuse(without_iterations, up, "a recording")
        return _open_recording(what, device, overrides.get("iterations"))
    if what.endswith(".safetensors"):
        refuse(without_iterations, up, "a checkpoint")
        return _open_checkpoint(Path(what), device, overrides.get("iterations"), input_frame)
    return _open_scene(what, device, up, overrides)


def refuse(overrides: Mapping[str, Any], up: str | None, kind: str) -> None:
    """Raises InputError where an option is given that this kind of input has no use for."""
    given = [name for name, value in {**overrides, "up": up}.items() if value is not None]
    if given:
        raise InputError(f"--{given[0].replace('_', '-')} does not apply to {kind}")


def _open_scene(what: str, device: str, up: str | None, overrides: Mapping[str, Any]) -> Opened:
    from sparseflex.data import winding_report
    from sparseflex.point_clouds import is_point_cloud
    from sparseflex.scene import load_scene
    from sparseflex.training.fit import FitRun
    from workbench.snapshot import Breakpoint

    if is_point_cloud(what):
        raise InputError(f"{what}: holds points, and a fit needs a mesh; `workbench reconstruct {what} --checkpoint "
                         "tiny_vae` takes points with normals")
    with input_errors():
        scene = load_scene(what, scene_folders(), up, overrides, device)
        run = FitRun(scene.target, scene.fit, device, fixed_cameras=scene.cameras, faults=scene.faults)
    warnings = []
    if scene.n_degenerate:
        warnings.append(f"{scene.n_degenerate} triangles without area were dropped")
    turned = winding_report(scene.target).n_inconsistent
    if turned:
        warnings.append(f"{turned} edges join triangles that face opposite ways; the fit goes by the winding as it is")
    points = tuple(Breakpoint(**dataclasses.asdict(point)) for point in scene.breakpoints)
    check_points(run, points, f"{what}, breakpoints")
    return Opened(run, scene.name, scene.title, scene.view, scene.input_from_normalized, tuple(warnings), points)


def check_points(run: Run, points: Iterable[Breakpoint], where: str) -> None:
    """Raises InputError, with a caret under the character, for the first that can't be a breakpoint of this run."""
    from workbench.breakpoints import Breakpoints
    from workbench.expressions import ExpressionError
    from workbench.history_table import history_of

    try:
        Breakpoints(run, history_of(run), points)
    except ExpressionError as error:
        raise InputError(f"{where}: {error.pointed}") from None


def _open_recording(what: str, device: str, iterations: int | None) -> Opened:
    """The run as its recording leaves it; see workbench.branch for any other iteration of it."""
    from workbench.branch import open_branch
    from workbench.recording.reader import Recording

    with input_errors():
        recording = Recording(what)
    with recording:
        return open_branch(recording, None, device, iterations=iterations)


def _open_checkpoint(path: Path, device: str, iterations: int | None, input_frame: bool) -> Opened:
    import torch

    from sparseflex.checkpoint import load_run
    from sparseflex.scene import ViewConfig
    from sparseflex.vae.weights import is_vae_checkpoint

    if is_vae_checkpoint(path):
        raise InputError(f"{path} holds the weights of a VAE and no run: `workbench reconstruct MESH --checkpoint "
                         f"{path}` makes one")
    with input_errors():
        run = load_run(path, device)
        if iterations is not None and hasattr(run, "config"):
            run.config = dataclasses.replace(run.config, iterations=iterations)
    try:
        beside = _about_checkpoint(path.parent, run)
        warnings = ()
    except ValueError as error:
        beside, warnings = None, (f"{path.parent / 'metrics.json'} is not used: {' '.join(str(error).split())}",)
    if beside is None:
        if input_frame:
            raise InputError(f"--input-frame: {path} has no metrics.json of its run beside it, so the frame of its "
                             "input is unknown")
        return Opened(run, path.stem, path.stem, ViewConfig(), torch.eye(4, dtype=torch.float64), warnings)
    name, title, view, back = beside
    return Opened(run, name, title, view, back)


def _about_checkpoint(folder: Path, run: Run) -> tuple[str, str, ViewConfig, Tensor] | None:
    """Name, title, view and input_from_normalized from the metrics.json beside a checkpoint, None without one.

    Raises ValueError where it is malformed or another run's.
    """
    import torch

    from sparseflex.scene import ViewConfig
    from sparseflex.training.config import from_table

    if not (folder / "metrics.json").exists():
        return None
    beside = read_metrics(folder)
    if not beside:
        raise ValueError("it can't be read")
    size = target_size(run.read_field("target")) if "target" in run.fields else None
    if beside.get("target", size) != size:
        raise ValueError("it is another run's, by its target")
    # what a resumed or a tuned run can't have changed
    part, known = ("config", vars(run.config)) if hasattr(run, "config") else ("weights", vars(run.checkpoint))
    for key in ("resolution", "seed", "init") if part == "config" else ("sha256",):
        found = beside.get(part)
        if not isinstance(found, dict) or found.get(key) != known[key]:
            raise ValueError(f"it is another run's, by its {key}")
    try:
        back = torch.tensor(beside["input_from_normalized"], dtype=torch.float64)
        view = from_table(ViewConfig, beside["view"], "[view]")
        name, title = beside["name"], beside["title"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"it is malformed: {error}") from None
    if back.shape != (4, 4) or not bool(back.isfinite().all()) or not float(torch.linalg.det(back)):
        raise ValueError("input_from_normalized must be a 4 x 4 matrix that can be inverted")
    # the name becomes a folder's
    if not (isinstance(name, str) and isinstance(title, str)) or Path(name).name != name:
        raise ValueError("name and title must be texts, the name one of a folder")
    return name, title, view, back


def target_size(target: Mesh) -> dict[str, int]:
    """What metrics.json says of a run's target, so that another run's is noticed."""
    return {"vertices": target.n_vertices, "faces": target.n_faces}


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json of a folder that a run wrote, or nothing where there is none that can be read."""
    try:
        found = json.loads((folder / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _open_script(path: Path, function: str) -> Opened:
    """Runs the user's own file and calls its function; what goes wrong in it is told in one line, with its place."""
    import torch

    from sparseflex.scene import ViewConfig

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    name = f"own_run_{path.stem}"  # never a name that other modules go by
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the file look their module up
    folder = os.fspath(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with _errors_of(path, "import"):
        spec.loader.exec_module(module)
    make_run = getattr(module, function, None)
    if not callable(make_run):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise InputError(f"{path}: has no function {function!r}; it has {', '.join(known) or 'none'}")
    with _errors_of(path, function):
        run = make_run()
        _check_run(f"{path}:{function}", run)
        title = str(run.name)
    return Opened(run, path.stem, title, ViewConfig(), torch.eye(4, dtype=torch.float64))


@contextlib.contextmanager
def _errors_of(path: Path, what: str) -> Iterator[None]:
    """Errors of the user's file become InputError: the last line of it that was at work, and the message."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - a file of the user's own may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if os.path.realpath(frame.filename) == os.path.realpath(path)]
        line = error.lineno if isinstance(error, SyntaxError) and error.lineno else (lines or [1])[-1]
        message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
        raise InputError(f"{path}, line {line}, in {what}: {type(error).__name__}: {message}") from error


def _check_run(where: str, run: Any) -> None:
    """Raises InputError for what is no run, naming the first members that are missing or wrong."""
    from sparseflex.training.run import FieldKind

    lacking = [name for name in RUN_ATTRIBUTES if not hasattr(run, name)]
    if lacking:
        raise InputError(f"{where}: what it returned is no run, it lacks {', '.join(lacking)}")
    for name in RUN_METHODS:
        if not callable(getattr(run, name)):
            raise InputError(f"{where}: {name} must be a method, got {getattr(run, name)!r}")
    for name in ("fields", "settings"):
        if not isinstance(getattr(run, name), Mapping):
            raise InputError(f"{where}: {name} must be a mapping, got {type(getattr(run, name)).__name__}")
    stages, kinds = run.stages, get_args(FieldKind)
    if isinstance(stages, str) or not stages or not all(isinstance(stage, str) for stage in stages):
        raise InputError(f"{where}: stages must be a sequence of at least one name, got {stages!r}")
    for name, kind in run.fields.items():
        if kind not in kinds:
            raise InputError(f"{where}: the kind of field {name!r} must be one of {', '.join(kinds)}, got {kind!r}")
