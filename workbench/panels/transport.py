"""Transport: play, pause and step; which stage comes next, what the last one made, and what the session costs."""

from __future__ import annotations

import math

from workbench import theme
from workbench.commands import Command, NextIteration, NextStage, Pause, Play, RunIterations, RunTo, StepBack
from workbench.panels.scalars import shown
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, megabytes, milliseconds
from workbench.view_state import ViewState

MAX_RUN = 1_000_000
GAP_EM = 0.5


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    commands = _draw_buttons(ui, view, snapshot)
    _draw_place(ui, view, snapshot)
    _draw_costs(ui, view, snapshot)
    chosen = snapshot.stages.index(snapshot.stage_next) if snapshot.stage_next in snapshot.stages else -1
    ui.chips(snapshot.stages, chosen, [stage_tip(snapshot, stage) for stage in snapshot.stages])
    made = produced(snapshot)
    if made:
        ui.im.SameLine(0.0, ui.em)
        room = ui.width
        ui.text(ui.shortened(made, room), theme.MUTED)
    return commands


def _draw_buttons(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    commands: list[Command] = []
    able = snapshot.failure is None and not snapshot.stopped
    gap = GAP_EM * ui.em
    past = snapshot.past
    back_tip = f"Back one iteration, as far as {past.oldest}. Left arrow" if past.oldest is not None else (
        "Back one iteration. Left arrow")
    if ui.button("Back", 4.0 * ui.em, able, tip=back_tip):
        commands.append(StepBack())
    ui.im.SameLine(0.0, gap)
    if snapshot.playing:
        if ui.button("Pause", 5.2 * ui.em, able, accent=True, tip="Stops after the stage that is running. Space"):
            commands.append(Pause())
    elif ui.button("Play", 5.2 * ui.em, able, accent=True, tip="Runs until told otherwise. Space"):
        commands.append(Play())
    ui.im.SameLine(0.0, gap)
    if ui.button("Stage", 4.4 * ui.em, able, tip="Runs the stage marked below, and stops. Shift + right arrow"):
        commands.append(NextStage())
    ui.im.SameLine(0.0, gap)
    if ui.button("Iteration", 5.6 * ui.em, able, tip="Runs to the end of the iteration, and stops. Right arrow"):
        commands.append(NextIteration())
    ui.im.SameLine(0.0, 2 * gap)
    if ui.button("Run", 3.4 * ui.em, able, tip="Runs this many iterations, then pauses"):
        commands.append(RunIterations(view.n_iterations))
    view.n_iterations = _number(ui, "##iterations", view.n_iterations, 10)
    ui.im.SameLine(0.0, 2 * gap)
    ahead = view.run_to > snapshot.iteration
    if ui.button("Run to", 4.8 * ui.em, able and ahead, tip="Runs until this iteration has ended, then pauses"):
        commands.append(RunTo(view.run_to))
    view.run_to = _number(ui, "##target", view.run_to, 100)
    return commands


def _number(ui: Ui, label: str, value: int, step: int) -> int:
    ui.im.SameLine(0.0, 0.25 * ui.em)
    ui.im.SetNextItemWidth(6.6 * ui.em)
    changed, number = ui.im.InputInt(label, value, step, 10 * step)
    return min(max(number, 1), MAX_RUN) if changed else value


def _draw_place(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    ui.im.SameLine(0.0, 1.2 * ui.em)
    ui.im.AlignTextToFramePadding()
    ui.text(f"Iteration {count(snapshot.iteration)}")
    ui.im.SameLine(0.0, 0.8 * ui.em)
    ui.text(ui.shortened(view.title or snapshot.run_name, max(ui.width - 15 * ui.em, 0.0)), theme.MUTED)


def stage_tip(snapshot: Snapshot, stage: str) -> str:
    """What the stage cost when it ran last; a checkpoint brings its costs along."""
    first = "Runs next. " if stage == snapshot.stage_next else ""
    if stage not in snapshot.stage_secs:
        return f"{first}It has not run yet"
    peak = megabytes(snapshot.stage_peak_bytes[stage])
    return f"{first}Last time {milliseconds(snapshot.stage_secs[stage])}, peak memory {peak}"


def produced(snapshot: Snapshot) -> str:
    """Within an iteration: what the stage that ran last has made, as the scalars that it set."""
    stage = snapshot.stage_done
    if stage is None or snapshot.playing or not snapshot.iteration_under_way:
        return ""
    numbers = [f"{name} {shown(name, snapshot.scalars[name])}" for name in snapshot.made.get(stage, ())
               if name in snapshot.scalars and name not in ("stage_secs", "peak_bytes", "iteration")]
    return f"{stage}: {', '.join(numbers)}" if numbers else f"{stage}: done"


def _draw_costs(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    """Numbers of the moment, so only while it lasts: at rest, a window shows the run's own numbers and no others."""
    rate = "running" if math.isnan(snapshot.iterations_per_sec) else f"{snapshot.iterations_per_sec:.1f} it/s"
    cost = f", copies {milliseconds(snapshot.publish_secs)}, drawing {view.redraw.share:.0%}"
    texts = (rate + cost, rate) if snapshot.playing else ("paused",)
    ui.im.SameLine(0.0, ui.em)
    fitting = [text for text in texts if ui.im.CalcTextSize(text)[0] <= ui.width]
    ui.text_right(fitting[0] if fitting else "", theme.MUTED)
