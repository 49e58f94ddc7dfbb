"""Transport: play, pause, step and scrub; which stage comes next, what the last one made, what the session costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from workbench import theme
from workbench.commands import (
    Branch,
    Command,
    GoTo,
    NextIteration,
    NextStage,
    Pause,
    Play,
    RunIterations,
    RunTo,
    SetSpeed,
    StageBack,
    StepBack,
)
from workbench.panels.scalar_text import shown
from workbench.plot_view import MARK_COLOURS
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, megabytes, milliseconds, packed
from workbench.view_state import ViewState

MAX_RUN = 1_000_000
MAX_SCRUB = 1 << 30
"""Beyond that ImGui's sliders have no numbers."""
GAP_EM = 0.5
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, math.inf)
SCRUB_TIP = "Drag to any iteration that there is; the marks are keyframes, prunings and changes"
SCRUB_LIVE_TIP = ("Drag to go back, or on to where the run has been; it is run again from the nearest state kept. The "
                  "marks are iterations in which a breakpoint was hit")
STAGE_BACK_TIP = ("Back to before the stage that ran last, also where that is of the iteration before.\n"
                  "What led there is run again from a state that is kept, bit by bit. Shift + left arrow")
MIN_SCRUB_EM = 12.0


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    recorded = snapshot.source != "live"
    commands = _draw_replay_buttons(ui, view, snapshot) if recorded else _draw_buttons(ui, view, snapshot)
    _draw_place(ui, view, snapshot)
    _draw_costs(ui, view, snapshot)
    if recorded:
        return commands + draw_scrubber(ui, view, snapshot)
    chosen = snapshot.stages.index(snapshot.stage_next) if snapshot.stage_next in snapshot.stages else -1
    first, last = stages_that_fit(ui, snapshot.stages, chosen)
    shown_stages = snapshot.stages[first:last]
    ui.chips(shown_stages, chosen - first, [stage_tip(snapshot, stage) for stage in shown_stages])
    made = produced(snapshot)
    if made:
        ui.im.SameLine(0.0, ui.em)
        room = ui.width
        ui.text(ui.shortened(made, room), theme.MUTED)
        return commands
    ui.im.SameLine(0.0, ui.em)
    if ui.width < MIN_SCRUB_EM * ui.em:
        ui.im.NewLine()
        return commands
    return commands + draw_scrubber(ui, view, snapshot)


def stages_that_fit(ui: Ui, stages: Sequence[str], chosen: int) -> tuple[int, int]:
    """First and last but one of the stages around the chosen one that fit one line: a network has many."""
    em = ui.em
    with ui.sized(0.86):
        wide = [ui.im.CalcTextSize(stage)[0] + 1.1 * em for stage in stages]
    if sum(wide) <= ui.width:
        return 0, len(stages)
    first = last = max(chosen, 0)
    room = ui.width - MIN_SCRUB_EM * em  # what the last stage made stands beside them
    while last < len(stages) or first > 0:
        # twice as many of those to come as of those that are done
        ahead = last < len(stages) and (first == 0 or last - chosen <= 2 * (chosen - first))
        more = wide[last] if ahead else wide[first - 1]
        if more > room:
            break
        room, first, last = room - more, first - (not ahead), last + ahead
    return first, max(last, first + 1)


def draw_scrubber(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    """A slider over the iterations that can be gone to; live, where each has to be run again, once it is let go."""
    past, live = snapshot.past, snapshot.source == "live"
    first = snapshot.iteration if past.oldest is None else min(past.oldest, snapshot.iteration)
    last = max(past.reached, snapshot.iteration)
    if snapshot.failure is not None or last <= first or last > MAX_SCRUB:
        ui.im.NewLine()
        return []
    shown_at = snapshot.iteration if view.scrubbed is None else min(max(view.scrubbed, first), last)
    ui.im.SetNextItemWidth(ui.width)
    style = int(ui.im.ImGuiSliderFlags_AlwaysClamp) | int(ui.im.ImGuiSliderFlags_NoInput)
    with ui.sized(0.86):
        changed, wanted = ui.im.SliderInt("##scrub", shown_at, first, last, "iteration %d", style)
    held, ended = bool(ui.im.IsItemActive()), bool(ui.im.IsItemDeactivated())
    ui.tip(SCRUB_LIVE_TIP if live else SCRUB_TIP)
    _draw_marks(ui, snapshot, first, last)
    before, view.scrubbed = view.scrubbed, wanted if held else None
    if live:
        done = before if ended and before is not None else None if held else wanted if changed else None
    else:
        done = wanted if changed and wanted != before else None
    return [] if done is None or (not held and done == snapshot.iteration) else [GoTo(done)]


def _draw_marks(ui: Ui, snapshot: Snapshot, first: int, last: int) -> None:
    """Short strokes at the lower edge of the slider that was drawn last."""
    left, top = ui.im.GetItemRectMin()
    right, bottom = ui.im.GetItemRectMax()
    draw, grab = ui.im.GetWindowDrawList(), 0.5 * ui.im.GetStyle().GrabMinSize
    span = max(right - left - 2 * grab, 1.0)
    for name, colour in MARK_COLOURS.items():
        marks = snapshot.marks.get(name, ())
        if len(marks) == 0:
            continue
        # one stroke a pixel column, however many there are
        columns = np.unique(((np.asarray(marks) - first) * span / (last - first)).astype(np.int64))
        for column in columns[(columns >= 0) & (columns <= span)].tolist():
            x = left + grab + column
            draw.AddLine((x, bottom - 0.25 * (bottom - top)), (x, bottom), packed(colour), 1.0)


def _draw_replay_buttons(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    """The same places for the same things as with a run; speed, and branching, in place of what runs it."""
    commands: list[Command] = []
    able, gap = snapshot.failure is None and not snapshot.stopped, GAP_EM * ui.em
    if ui.button("Back", 4.0 * ui.em, able, tip="The iteration before. Left arrow"):
        commands.append(StepBack())
    ui.im.SameLine(0.0, gap)
    following = snapshot.source == "follow" and snapshot.iteration >= snapshot.past.reached
    if snapshot.playing:
        if ui.button("Pause", 5.2 * ui.em, able, accent=True, tip="Stays at this iteration. Space"):
            commands.append(Pause())
    elif ui.button("Follow" if following else "Play", 5.2 * ui.em, able, accent=True,
                   tip="Shows every iteration as it is recorded. Space" if following else "Shows what comes. Space"):
        commands.append(Play())
    ui.im.SameLine(0.0, gap)
    if ui.button("Next", 4.4 * ui.em, able, tip="The iteration after. Right arrow"):
        commands.append(NextIteration())
    ui.im.SameLine(0.0, 2 * gap)
    ui.im.SetNextItemWidth(7.6 * ui.em)
    changed, place = ui.im.Combo("##speed", _place_of(snapshot.speed), [speed_label(speed) for speed in SPEEDS])
    ui.tip("How fast it is played: 1× is the run's own pace. Full stop faster, comma slower")
    if changed:
        commands.append(SetSpeed(SPEEDS[place]))
    ui.im.SameLine(0.0, 2 * gap)
    if ui.button("Go to", 4.4 * ui.em, able, tip="Shows this iteration, or the one before it that is recorded"):
        commands.append(GoTo(view.run_to))
    view.run_to = _number(ui, "##target", view.run_to, 100)
    ui.im.SameLine(0.0, 2 * gap)
    tip = "A run that goes on from here and can be changed: from the keyframe before, run again up to here"
    if ui.button("Branch here", 7.2 * ui.em, able, tip=f"{tip}. Ctrl + B"):
        commands.append(Branch())
    return commands


def speed_label(speed: float) -> str:
    return "every one" if speed == math.inf else f"{speed:g}×"


def step_speed(speed: float, step: int) -> float:
    """The next speed up or down."""
    return SPEEDS[min(max(_place_of(speed) + step, 0), len(SPEEDS) - 1)]


def _place_of(speed: float) -> int:
    """The place of the nearest of SPEEDS."""
    return min(range(len(SPEEDS)), key=lambda place: abs(min(SPEEDS[place], 1e3) - min(speed, 1e3)))


def _draw_buttons(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    commands: list[Command] = []
    able = snapshot.failure is None and not snapshot.stopped
    gap = GAP_EM * ui.em
    past = snapshot.past
    back_tip = f"Back one iteration, as far as {past.oldest}. Left arrow" if past.oldest is not None else (
        "Back one iteration. Left arrow")
    if ui.button("Back", 4.0 * ui.em, able, tip=back_tip):
        commands.append(StepBack())
    ui.im.SameLine(0.0, 0.5 * gap)
    if ui.button("Stage back", 6.2 * ui.em, able, tip=STAGE_BACK_TIP):
        commands.append(StageBack())
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
    if snapshot.source != "live":
        reading = f"read in {milliseconds(snapshot.publish_secs)}"
        texts = (f"last {count(snapshot.past.reached)}, {reading}", f"last {count(snapshot.past.reached)}")
    ui.im.SameLine(0.0, ui.em)
    fitting = [text for text in texts if ui.im.CalcTextSize(text)[0] <= ui.width]
    ui.text_right(fitting[0] if fitting else "", theme.MUTED)
