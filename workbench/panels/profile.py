"""Profile: one iteration under torch's profiler, by stage and operator, and where its trace lies."""

from __future__ import annotations

from workbench import theme
from workbench.commands import Command
from workbench.panels.stage_costs import numbers, table_head
from workbench.profile_events import OperatorCost, StageProfile
from workbench.profiling import Profile
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, megabytes, milliseconds
from workbench.view_state import ViewState

LEAST_OPERATORS = 8
_LINE_EM = 1.35
WHERE = "ui.perfetto.dev"

_TIP = ("Runs the next whole iteration under torch's profiler: operators with shapes, and memory.\n"
        "The iteration stays what it would have been, bit for bit; it takes a little longer, and its\n"
        "seconds aren't counted. Summing up and writing the trace then takes some tenths of a second")


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    commands: list[Command] = []
    live = snapshot.source == "live"
    ui.im.Dummy((0.0, 0.1 * ui.em))
    label = "Waiting for the next iteration" if snapshot.profiling else "Profile one iteration"
    if ui.button(label, ui.width, enabled=live and snapshot.failure is None, tip=_TIP):
        commands.append(view.costs.ask_for_profile(view.checkpoint_path))
    if not live:
        ui.wrapped("A recording can't be profiled, nothing runs: branch from here (Ctrl+B), and profile that run.")
    if snapshot.profile is None:
        if live:
            ui.wrapped("By stage: wall time, costliest operators, memory. The trace, for Perfetto or Chrome, goes "
                       f"into {view.checkpoint_path.parent}.")
            if snapshot.products.stages:
                ui.wrapped("Of an inference, a pass runs only what was changed since the one before.")
        return commands
    _draw_profile(ui, view, snapshot.profile)
    return commands


def _draw_profile(ui: Ui, view: ViewState, profile: Profile) -> None:
    ui.heading(f"Iteration {count(profile.iteration)}", milliseconds(profile.secs))
    if profile.words:
        ui.wrapped(profile.words, theme.TEXT)
    most = max(profile.stages, key=lambda stage: stage.peak_bytes, default=None)
    if most is not None and most.peak_bytes:
        ui.wrapped(f"{most.name} takes most memory: {megabytes(most.peak_bytes)} above its start")
    _draw_trace(ui, profile)
    on_device = any(stage.device_secs for stage in profile.stages)
    _draw_stages(ui, view, profile)
    chosen = next((stage for stage in profile.stages if stage.name == view.costs.chosen), None)
    _draw_operators(ui, profile, chosen or profile.whole, on_device)


def _draw_trace(ui: Ui, profile: Profile) -> None:
    if profile.path is None:
        ui.wrapped("The trace could not be written.", theme.BAD)
        return
    em = ui.em
    ui.text(ui.shortened(f"{profile.path.name}, {count(profile.n_events)} events", ui.width - 5.2 * em), theme.MUTED)
    ui.tip(f"{profile.path}\nOpen it in {WHERE}, or in Chrome's chrome://tracing, as it is")
    ui.im.SameLine(0.0, 0.0)
    ui.im.SetCursorPosX(ui.im.GetCursorPosX() + max(ui.width - 4.6 * em, 0.0))
    if ui.button("Copy path", 4.6 * em, tip=f"Open the file in {WHERE}, or in Chrome's chrome://tracing, as it is"):
        ui.im.SetClipboardText(str(profile.path.resolve()))


def _draw_stages(ui: Ui, view: ViewState, profile: Profile) -> None:
    """A line for each stage: a click lists its operators."""
    if not ui.im.BeginTable("profiled stages", 4, 0, (0.0, 0.0)):
        return
    table_head(ui, (("stage", 1.9, "Click one to see its operators alone; again for all"),
               ("time", 0.95, "Wall time, the device's included"),
               ("Python", 0.8, "In no operator of torch's: Python, and libraries of other kinds"),
               ("memory", 0.95, "The most that torch held above what was there at its start")))
    for stage in profile.stages:
        ui.im.TableNextRow()
        ui.im.TableNextColumn()
        here = stage.name == view.costs.chosen
        if ui.im.Selectable(f"{ui.shortened(stage.name, ui.width)}##profiled {stage.name}", here,
                            int(ui.im.ImGuiSelectableFlags_SpanAllColumns)):
            view.costs.chosen = "" if here else stage.name
        numbers(ui, milliseconds(stage.secs), _share(stage.outside_secs, stage.secs), _bytes(stage.peak_bytes))
    ui.im.EndTable()


def _draw_operators(ui: Ui, profile: Profile, stage: StageProfile, on_device: bool) -> None:
    ui.heading(f"Operators of {stage.name}", f"{count(len(stage.operators))}")
    if not stage.operators:
        ui.text("None ran.", theme.MUTED)
        return
    if not ui.im.BeginTable("operators", 4, 0, (0.0, 0.0)):
        return
    time_tip = ("Of what it started on the device" if on_device else "Its own, without the operators that it calls")
    table_head(ui, (("operator", 1.6, "Costliest first"), ("calls", 0.7, ""),
               ("device" if on_device else "self", 1.0, time_tip),
               ("share", 0.7, f"Of the time of {stage.name}")))
    n_operators = max(int(ui.im.GetContentRegionAvail()[1] / (_LINE_EM * ui.em)) - 2, LEAST_OPERATORS)
    for operator in stage.operators[:n_operators]:
        ui.im.TableNextRow()
        ui.im.TableNextColumn()
        ui.text(ui.shortened(operator.name, ui.width), theme.MUTED)
        ui.tip(_about(operator))
        numbers(ui, count(operator.n_calls), milliseconds(operator.secs), _share(operator.secs, stage.secs))
    ui.im.EndTable()
    rest = stage.operators[n_operators:]
    if rest:
        ui.text(f"{count(len(rest))} more, {milliseconds(sum(operator.secs for operator in rest))}", theme.MUTED)


def _about(operator: OperatorCost) -> str:
    device = f", {milliseconds(operator.device_secs)} on the device" if operator.device_secs else ""
    own = milliseconds(operator.self_secs)
    return (f"{operator.name}: {count(operator.n_calls)} calls, {own} of its own{device},\n"
            f"{_bytes(operator.allocated_bytes)} allocated in all, freed again or not")


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "–"


def _bytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if 0 < n_bytes < 1e7 else megabytes(n_bytes)
