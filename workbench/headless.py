"""Runs without a window: the stages in a plain loop with a progress bar, and the files that a run leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sparseflex.checkpoint import save_checkpoint
from sparseflex.data import save_mesh, transform_mesh
from sparseflex.mesh import Mesh
from sparseflex.training.measure import cost_columns
from sparseflex.training.run import Run
from workbench.breakpoints import Watch
from workbench.cli_break import HIT_CODE, stopped_by
from workbench.cli_profile import LoopProfile
from workbench.inputs import CHECKPOINT, InputError, Opened, read_metrics, target_size
from workbench.recording.recorder import LateRecorder, StartRecorder

MESH, FIGURE, METRICS = "mesh.ply", "figure.png", "metrics.json"


@dataclasses.dataclass
class StopRequest:
    """Set by SIGINT or SIGTERM; the loop looks at it between two stages."""

    signal_number: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """The first Ctrl-C (or SIGTERM) asks the loop to stop, a second one stops at once."""
    request = StopRequest()

    def ask(number: int, _frame: Any) -> None:
        if request.signal_number is not None:
            raise KeyboardInterrupt
        request.signal_number = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def whole_mesh(run: Run) -> Mesh | None:
    """The whole surface of a run as it stands: its own extraction, or else its field `mesh`."""
    extract = getattr(run, "extract", None)
    if callable(extract):
        return extract().detach()
    return run.read_field("mesh") if "mesh" in run.fields else None


def say(text: str) -> None:
    """A line that the progress bar does not tear."""
    tqdm.write(text, file=sys.stderr)


def train(run: Run, n_iterations: int, request: StopRequest, label: str, recorder: LateRecorder | None = None,
          watch: Watch | None = None, profile: LoopProfile | None = None) -> float:
    """Drives the run to n_iterations, the request to stop or a breakpoint, whichever comes first; returns the
    seconds."""
    start, recorder = time.perf_counter(), recorder or LateRecorder(None)
    profile = profile or LoopProfile(run, None, Path())
    pause_secs = 0.1 if sys.stderr.isatty() else 10.0  # a log file needs no animation
    with tqdm(total=n_iterations, initial=run.iteration, desc=label, unit="it", dynamic_ncols=True,
              mininterval=pause_secs, maxinterval=max(pause_secs, 10.0)) as bar, contextlib.ExitStack() as at_end:
        at_end.callback(profile.drop)  # of an iteration that a failure or a breakpoint has cut short
        while run.iteration < n_iterations and request.signal_number is None and not (watch and watch.stops):
            recorder.iteration_started(run)
            before = run.iteration
            for number, stage in enumerate(run.stages):
                with profile.stage(number, stage):
                    run.run_stage(stage)
                if watch is not None:
                    watch.after(number, before + 1)
                stops = request.signal_number is not None or (watch and watch.stops)
                if stops and run.iteration == before:
                    break
            else:
                recorder.iteration_ended(run, scalars_row(run, profile))
                bar.update(1)
                bar.set_postfix_str(progress_text(run.scalars()), refresh=False)
    return time.perf_counter() - start


def scalars_row(run: Run, profile: LoopProfile | None = None) -> dict[str, float]:
    """The scalars of the iteration that has ended, with what its stages cost where the run measures that."""
    costs = cost_columns(getattr(run, "stage_costs", {}))
    costs = costs if profile is None else profile.end(costs)
    return {"iteration": float(run.iteration), **run.scalars(), **costs}


def end_recording(recorder: LateRecorder, watch: Watch | None) -> None:
    """Waits until all that was recorded is written, hits of breakpoints too, and says where, and what is missing."""
    if watch is not None:
        recorder.hit(watch.hits)
    recorder.close()
    status = recorder.status
    if status is not None:
        for text in (*status.notes, status.words):
            say(text)


def progress_text(scalars: Any) -> str:
    """What the bar says: loss, active of all voxels, milliseconds of an iteration."""
    words = []
    if "loss" in scalars:
        words.append(f"loss {scalars['loss']:.4f}")
    if "active" in scalars and "voxels" in scalars:
        words.append(f"active {scalars['active']:,.0f} of {scalars['voxels']:,.0f} voxels")
    elif "voxels" in scalars:
        words.append(f"{scalars['voxels']:,.0f} voxels")
    if "stage_secs" in scalars:
        words.append(f"{1000 * scalars['stage_secs']:.0f} ms")
    return ", ".join(words)


def save_state(path: Path, run: Run) -> bool:
    """Saves a checkpoint; where that fails it says so in one line and gives False, so that other work goes on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, run)
    except Exception as error:  # noqa: BLE001 - a run's own state_dict may raise anything, and must hide no other error
        say(f"not saved: {error}")
        return False
    return True


def run_headless(opened: Opened, n_iterations: int, out: Path, input_frame: bool = False,
                 record: StartRecorder | None = None, profile_at: int | None = None) -> int:
    """Trains to n_iterations, then writes checkpoint, mesh, metrics and figure to out; returns the exit code.

    profile_at: the iteration that is run under torch's profiler.

    Whatever ends it early, the state is saved: Ctrl-C and SIGTERM leave a checkpoint and a mesh and give 130 and 143;
    an error of the run leaves a checkpoint and goes on upwards. A breakpoint gives 3, and all files of the state that
    it stopped at. What can't be written is told and gives 1; all else is written nevertheless, the figure last, as it
    alone needs graphics.
    """
    run, secs, recorder = opened.run, 0.0, LateRecorder(record)
    watch = Watch(run, opened.breakpoints) if opened.breakpoints else None
    profile = LoopProfile(run, profile_at, out)
    with stop_on_signals() as request:
        try:
            secs = train(run, n_iterations, request, f"fit {opened.name}", recorder, watch, profile)
        except BaseException:
            kept = f"; the state is in {out / CHECKPOINT}" if save_state(out / CHECKPOINT, run) else ""
            say(f"stopped by an error in iteration {run.iteration}{kept}")
            end_recording(recorder, watch)
            raise
        saved = save_state(out / CHECKPOINT, run)
        end_recording(recorder, watch)
    # from here on Ctrl-C ends the process at once: the state is safe
    for text in profile.said:
        say(text)
    hit = tell_hits(watch)
    try:
        mesh = write_mesh(opened, out, input_frame)
        about = {"elapsed_secs": secs, "frame": frame_name(input_frame), **hit}
        if request.signal_number is not None:
            write_metrics(opened, out, {"finished": False, **about})
            files = [str(out / CHECKPOINT)] * saved + [str(out / MESH)] * (mesh is not None)
            told = f"; saved {' and '.join(files)}" if files else ""
            say(f"stopped at iteration {run.iteration} of {n_iterations}{told}")
            return 128 + request.signal_number
        quality = quality_of(run, mesh)
        write_metrics(opened, out, {"finished": not hit, **about, "quality": quality})
    except OSError as error:
        say(f"not written: {error}")
        return 1
    drawn = draw_and_tell(opened, out, quality, mesh is not None, saved)
    return HIT_CODE if hit else 0 if saved and drawn else 1


def tell_hits(watch: Watch | None) -> dict[str, Any]:
    """Says at which breakpoint a run stopped; what metrics.json says of it. Raises InputError where one has to be
    refused, as the run turned out to lack a scalar of it."""
    if watch is None or not watch.stops:
        return {}
    if watch.hits:
        say(stopped_by(watch.hits))
        return {"breakpoints": [dataclasses.asdict(hit) | {"values": dict(hit.values)} for hit in watch.hits]}
    raise InputError("breakpoint: " + watch.refused[0].pointed)


def view_headless(opened: Opened, out: Path) -> int:
    """Writes metrics and figure of the run as it stands; never trains. Returns the exit code."""
    quality = quality_of(opened.run, whole_mesh(opened.run))
    # a mesh.ply that lies there stays, and so does what is known of it
    known = read_metrics(out).get("frame") if (out / MESH).exists() else None
    try:
        write_metrics(opened, out, {"finished": None, **({"frame": known} if known else {}), "quality": quality})
    except OSError as error:
        say(f"not written: {error}")
        return 1
    return 0 if draw_and_tell(opened, out, quality) else 1


def draw_and_tell(opened: Opened, out: Path, quality: dict[str, dict[str, float]], has_mesh: bool = False,
                  saved: bool = False) -> bool:
    """Draws the figure, then prints the table and all files that are there: who reads it, such as `head -1`, may close
    the output at the first line. Whether the figure was drawn."""
    drawn = draw_figure(opened, out)
    print_table(quality)
    written = {MESH: has_mesh, FIGURE: drawn, METRICS: True, CHECKPOINT: saved}
    for name in (name for name, there in written.items() if there):
        print(out / name)
    return drawn


def draw_figure(opened: Opened, out: Path) -> bool:
    """Writes the figure; where there are no graphics, or it can't be written, it says so and gives False."""
    from workbench.graphics import NoGraphics

    try:
        write_figure(opened, out)
    except (NoGraphics, OSError) as error:
        say(f"no {FIGURE}: {error}")
        return False
    return True


def frame_name(input_frame: bool) -> str:
    return "input" if input_frame else "normalized"


def write_mesh(opened: Opened, out: Path, input_frame: bool) -> Mesh | None:
    mesh = whole_mesh(opened.run)
    if mesh is not None:
        save_mesh(out / MESH, transform_mesh(mesh, opened.input_from_normalized) if input_frame else mesh)
    return mesh


def write_figure(opened: Opened, out: Path) -> None:
    from workbench.plate import render_figure

    render_figure(opened.run, out / FIGURE, home=opened.view.camera())


def quality_of(run: Run, mesh: Mesh | None) -> dict[str, dict[str, float]]:
    """Rows of numbers: what was made beside what is known without it; {} where there is nothing to compare."""
    from sparseflex.quality import covered_points, finite_part, quality_rows

    target = run.read_field("target") if "target" in run.fields else None
    if mesh is None:
        return {}
    if n_bad := mesh.n_faces - finite_part(mesh).n_faces:
        say(f"{n_bad:,} of {mesh.n_faces:,} faces have a vertex that is not finite; they count as missing")
    if target is None and run.fields.get("points") == "points":
        points, voxels = run.read_field("points"), run.read_field("voxels")
        return {"reconstructed": covered_points(mesh, points, voxels.resolution)}
    return {} if target is None else quality_rows(run, mesh, target)


def network_of(run: Run) -> dict[str, Any]:
    """What metrics.json says of an inference besides: weights, sizes, settings, what each stage cost; {} for others."""
    from sparseflex.training.reconstruct import ReconstructRun

    if not isinstance(run, ReconstructRun):
        return {}
    weights = {} if run.checkpoint is None else {"file": run.checkpoint.path, "sha256": run.checkpoint.sha256}
    return {
        "weights": {**weights, "parameters": sum(part.numel() for part in run.model.parameters()),
                    "sizes": dataclasses.asdict(run.model.config)},
        "settings": {name: setting.value for name, setting in run.settings.items()},
        "stages": {stage: dataclasses.asdict(cost) for stage, cost in run.stage_costs.items()},
    }


def write_metrics(opened: Opened, out: Path, more: dict[str, Any]) -> None:
    run = opened.run
    config = getattr(run, "config", None)
    target = run.read_field("target") if "target" in run.fields else None
    content = {
        "name": opened.name, "title": opened.title, "run": run.name, "iteration": run.iteration,
        "config": dataclasses.asdict(config) if dataclasses.is_dataclass(config) else None,
        "target": None if target is None else target_size(target),
        "scalars": dict(run.scalars()),
        "input_from_normalized": opened.input_from_normalized.tolist(),
        "view": dataclasses.asdict(opened.view),
        **network_of(run),
        **more,
    }
    part = out / f"{METRICS}.part"
    part.write_text(json.dumps(plain(content), indent=1) + "\n", "utf-8")
    part.replace(out / METRICS)


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null says that there is no number."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """The quality rows, one a line, columns by name."""
    if not rows:
        return
    names, wide = list(next(iter(rows.values()))), max(12, *map(len, rows))
    print(" " * wide + "".join(f"{name:>{max(12, len(name) + 2)}}" for name in names))
    for title, row in rows.items():
        print(f"{title:<{wide}}" + "".join(f"{row[name]:>{max(12, len(name) + 2)}.5g}" for name in names))
