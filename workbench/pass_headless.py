"""One pass of inference without a window: stage by stage with a progress bar, and the files that it leaves."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sparseflex.mesh import Mesh
from sparseflex.training.run import Run
from workbench.breakpoints import Watch
from workbench.cli_break import HIT_CODE
from workbench.cli_profile import LoopProfile
from workbench.headless import (
    CHECKPOINT,
    StopRequest,
    draw_and_tell,
    end_recording,
    frame_name,
    quality_of,
    save_state,
    say,
    scalars_row,
    stop_on_signals,
    tell_hits,
    write_mesh,
    write_metrics,
)
from workbench.inputs import Opened
from workbench.recording.recorder import LateRecorder, StartRecorder


def reconstruct_headless(opened: Opened, out: Path, input_frame: bool = False,
                         record: StartRecorder | None = None, profiled: bool = False) -> int:
    """Runs one pass and writes checkpoint, mesh, metrics and figure to out; returns the exit code. profiled: under
    torch's profiler, whose trace is written too.

    0 where there is a surface; 1 where nothing was kept, or something can't be written, all else being written
    nevertheless, or where memory ran out; 3 where a breakpoint stopped it, with checkpoint and metrics, and all else
    where that was at the end of the pass. Ctrl-C and SIGTERM end it between two stages with 130 and 143.
    """
    run, recorder, before = opened.run, LateRecorder(record), opened.run.iteration
    watch = Watch(run, opened.breakpoints) if opened.breakpoints else None
    profile = LoopProfile(run, before + 1 if profiled else None, out)
    start = time.perf_counter()
    with stop_on_signals() as request:
        try:
            one_pass(run, request, f"reconstruct {opened.name}", recorder, watch, profile)
        except (MemoryError, RuntimeError) as error:
            if not _memory_ran_out(error):
                raise
            say(f"not enough memory: {' '.join(str(error).split())[:200]}; --chunk-voxels, fewer --points or a lower "
                "--resolution take less")
            return 1
        finally:
            profile.drop()
            end_recording(recorder, watch)
        saved = save_state(out / CHECKPOINT, run)
    if request.signal_number is not None:
        say("stopped before the end of the pass: no surface")
        return 128 + request.signal_number
    hit = tell_hits(watch)
    for text in profile.said:
        say(text)
    for text in getattr(run, "warnings", ()):  # such as that nothing was kept at a level
        say(f"{opened.name}: {text}")
    about = {"finished": not hit, "elapsed_secs": time.perf_counter() - start, **hit}
    try:
        if run.iteration == before:
            write_metrics(opened, out, about)
            return HIT_CODE
        mesh = write_mesh(opened, out, input_frame)
        has_surface = _has_surface(opened.name, run, mesh)
        quality = quality_of(run, mesh)
        write_metrics(opened, out, {**about, "frame": frame_name(input_frame), "quality": quality})
    except OSError as error:
        say(f"not written: {error}")
        return 1
    drawn = draw_and_tell(opened, out, quality, mesh is not None, saved)
    return HIT_CODE if hit else 0 if saved and drawn and has_surface else 1


def one_pass(run: Run, request: StopRequest, label: str, recorder: LateRecorder | None = None,
             watch: Watch | None = None, profile: LoopProfile | None = None) -> None:
    """All stages in order, up to a request to stop or a breakpoint."""
    recorder, before = recorder or LateRecorder(None), run.iteration
    profile = profile or LoopProfile(run, None, Path())
    pause_secs = 0.1 if sys.stderr.isatty() else 10.0  # a log file needs no animation
    recorder.iteration_started(run)
    with tqdm(total=len(run.stages), desc=label, unit="stage", dynamic_ncols=True, mininterval=pause_secs,
              maxinterval=max(pause_secs, 10.0)) as bar:
        for number, stage in enumerate(run.stages):
            if request.signal_number is not None or (watch is not None and watch.stops):
                return
            bar.set_postfix_str(stage, refresh=sys.stderr.isatty())
            with profile.stage(number, stage):
                run.run_stage(stage)
            if watch is not None:
                watch.after(number, before + 1)
            bar.update(1)
    recorder.iteration_ended(run, scalars_row(run, profile))


def _has_surface(name: str, run: Run, mesh: Mesh | None) -> bool:
    """Says so in a line where there is none though voxels were kept."""
    if mesh is not None and mesh.n_faces:
        return True
    kept = run.scalars().get("voxels", 0)
    if kept:
        say(f"{name}: no surface: the signed distance changes its sign in none of the {kept:,.0f} voxels kept")
    return False


def _memory_ran_out(error: Any) -> bool:
    """torch says so on the CPU by a RuntimeError of its allocator."""
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
