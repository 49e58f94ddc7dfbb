"""Transport: play, pause and step; which stage comes next; what the session costs."""

from __future__ import annotations

from workbench.commands import Command, NextIteration, NextStage, Pause, Play, RunIterations
from workbench.snapshot import Snapshot
from workbench.theme import MUTED
from workbench.ui import Ui, count, megabytes, milliseconds
from workbench.view_state import ViewState

MAX_RUN = 1_000_000


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    commands: list[Command] = []
    able = snapshot.failure is None and not snapshot.stopped
    ui.text(view.title or snapshot.run_name, MUTED)
    ui.text(f"Iteration {count(snapshot.iteration)}", size=1.5)
    wide = (ui.width - 2 * 0.5 * ui.em) / 3
    if snapshot.playing:
        if ui.button("Pause", wide, able, accent=True, tip="Space"):
            commands.append(Pause())
    elif ui.button("Play", wide, able, accent=True, tip="Space"):
        commands.append(Play())
    ui.im.SameLine(0.0, 0.5 * ui.em)
    if ui.button("Stage", wide, able, tip="One stage: Shift + right arrow"):
        commands.append(NextStage())
    ui.im.SameLine(0.0, 0.5 * ui.em)
    if ui.button("Iteration", wide, able, tip="One iteration: right arrow"):
        commands.append(NextIteration())
    if ui.button("Run", wide, able, tip="Runs this many iterations, then pauses"):
        commands.append(RunIterations(view.n_iterations))
    ui.im.SameLine(0.0, 0.5 * ui.em)
    ui.im.SetNextItemWidth(ui.width)
    changed, number = ui.im.InputInt("##iterations", view.n_iterations, 10, 100)
    if changed:
        view.n_iterations = min(max(number, 1), MAX_RUN)
    ui.im.Dummy((0.0, 0.1 * ui.em))
    chosen = snapshot.stages.index(snapshot.stage_next) if snapshot.stage_next in snapshot.stages else -1
    ui.chips(snapshot.stages, chosen, [stage_tip(snapshot, stage) for stage in snapshot.stages])
    _draw_costs(ui, view, snapshot)
    return commands


def stage_tip(snapshot: Snapshot, stage: str) -> str:
    """What the stage cost when it ran last; a checkpoint brings its costs along."""
    if stage not in snapshot.stage_secs:
        return "has not run yet"
    peak = megabytes(snapshot.stage_peak_bytes[stage])
    return f"last time {milliseconds(snapshot.stage_secs[stage])}, peak memory {peak}"


def _draw_costs(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    """Numbers of the moment, so only while it lasts: at rest, a window shows the run's own numbers and no others."""
    if not snapshot.playing:
        ui.text("paused", MUTED)
        return
    rate = snapshot.iterations_per_sec
    ui.text(f"{rate:.1f} it/s" if rate == rate else "running", MUTED)
    ui.text_right(f"copies {milliseconds(snapshot.publish_secs)}, drawing {view.redraw.share:.0%}", MUTED)
