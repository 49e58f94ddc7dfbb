"""Status: one line on how things stand; and what went wrong, in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench import theme
from workbench.commands import Command
from workbench.snapshot import Snapshot
from workbench.ui import Ui
from workbench.view_state import ViewState

if TYPE_CHECKING:
    from workbench.recording.policy import RecordStatus


def line(snapshot: Snapshot, notice: str = "") -> tuple[str, theme.Colour]:
    """The state in one line, and its colour; notice: what the window itself has to say."""
    if snapshot.failure is not None:
        failure = snapshot.failure
        return f"Failed in {failure.stage}, iteration {failure.iteration}: {failure.message}", theme.BAD
    if snapshot.hits and not snapshot.playing:
        said = f"{notice or snapshot.notice}; stopped" if notice or snapshot.notice else "Stopped"
        return f"{said} by {'; '.join(hit.words for hit in snapshot.hits)}", theme.mixed(theme.ACCENT, theme.TEXT, 0.35)
    if notice or snapshot.notice:
        return notice or snapshot.notice, theme.TEXT
    if snapshot.source != "live":
        return of_recording(snapshot)
    if snapshot.playing:
        return "Running", theme.GOOD
    if snapshot.iteration_under_way:
        return f"Paused within an iteration, before {snapshot.stage_next}", theme.TEXT
    if snapshot.iteration == 0:
        return "Paused before the first iteration: Space plays, the right arrow steps", theme.TEXT
    return "Paused", theme.TEXT


def of_recording(snapshot: Snapshot) -> tuple[str, theme.Colour]:
    """What a recording shows, and from which iteration the fields are where they are older."""
    older = older_fields(snapshot)
    if snapshot.playing and snapshot.source == "follow" and snapshot.iteration == snapshot.past.reached:
        return f"Following the run as it is recorded{older}", theme.GOOD
    if snapshot.playing:
        return f"Playing the recording{older}", theme.GOOD
    return f"A recording: Space plays, arrows step, Ctrl + B branches{older}", theme.TEXT


def older_fields(snapshot: Snapshot) -> str:
    """Such as '; fields of iteration 30, maps of 1': snapshots and maps are recorded more rarely than numbers."""
    found = []
    for what in ("fields", "maps"):
        dates = [date for name, date in snapshot.field_iterations.items()
                 if (snapshot.field_kinds.get(name) == "map") == (what == "maps")]
        if dates:
            first, last = min(dates), max(dates)
            found.append(f"{what} of iteration {first:,}" + (f" to {last:,}" if last > first else ""))
    return f"; {', '.join(found)}" if found else ""


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    text, colour = line(snapshot, view.notice)
    ui.dot(colour if colour is not theme.TEXT else theme.MUTED)
    hint = "?  keys     Ctrl + P  commands"
    room = ui.width - ui.im.CalcTextSize(hint)[0] - 2 * ui.em
    recording = snapshot.recording
    words = "" if recording is None else ui.shortened(recording.words, 0.5 * room)
    wide = ui.im.CalcTextSize(words)[0] + 2 * ui.em if words else 0.0
    ui.text(ui.shortened(text.replace("\n", " "), room - wide), colour)
    if recording is not None:
        ui.im.SameLine()
        ui.im.SetCursorPosX(ui.im.GetCursorPosX() + max(ui.width - ui.im.CalcTextSize(hint)[0] - wide, 0.0))
        ui.text(words, theme.BAD if recording.stopped else theme.MUTED)
        ui.tip(about_recording(recording))
    ui.text_right(hint, theme.MUTED)
    return []


def about_recording(recording: RecordStatus) -> str:
    """What the words on the recording mean, and what it lacks."""
    lines = [recording.words, str(recording.path), "", "Every iteration's numbers and cameras, snapshots of fields,",
             "maps and whole states as they fall due. `workbench view` shows it."]
    if recording.n_dropped:
        lines += ["Dropped is what found no room while the writer was behind; the run never waits for it."]
    return "\n".join([*lines, *recording.notes])


def draw_failure(ui: Ui, title: str, text: str) -> None:
    """A failure in full; the box scrolls where the text is longer."""
    ui.text(title, theme.BAD, size=1.2)
    ui.im.BeginChild("traceback", (0.0, 0.0), 0, int(ui.im.ImGuiWindowFlags_HorizontalScrollbar))
    ui.im.TextUnformatted(text)
    ui.im.EndChild()
