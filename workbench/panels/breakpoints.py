"""Breakpoints, above the scalars: a condition is typed, checked and completed; each has a row, those hit stand out."""

from __future__ import annotations

from workbench import theme
from workbench.breakpoint_view import BreakpointView
from workbench.breakpoints import ScalarNames, checked
from workbench.commands import Command, GoTo, RemoveBreakpoint, SaveCheckpoint, SetBreakpoint
from workbench.expression_functions import FUNCTIONS
from workbench.expressions import ExpressionError, complete, completed, word_before
from workbench.panels.scalar_text import shown
from workbench.snapshot import Breakpoint, Snapshot
from workbench.ui import Ui, packed
from workbench.view_state import ViewState

PANEL = "Scalars"
"""The tab that these are drawn in."""

HINT = "loss > 2 * mean(loss, 50)"
EMPTY = "The run stops where a condition holds, after the stage that sets its scalars."
TIP = ("A condition: scalars, numbers, + - * / **, < <= > >= == !=, and or not, ( )\n"
       + "\n".join(f"{function.form}: {function.tip}" for function in FUNCTIONS.values())
       + "\nTab completes a name, Enter adds the breakpoint")


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    """Of a recording, which can't be stopped at what it doesn't compute, those that stopped the run."""
    if snapshot.source != "live":
        return _draw_recorded(ui, snapshot)
    n_enabled = sum(point.enabled for point in snapshot.breakpoints)
    ui.heading("Breakpoints", f"{n_enabled} of {len(snapshot.breakpoints)}" if snapshot.breakpoints else "")
    commands = _draw_entry(ui, view.breakpoints, snapshot)
    if not snapshot.breakpoints and not view.breakpoints.text:
        ui.wrapped(EMPTY)
    for number, point in enumerate(snapshot.breakpoints):
        commands += _draw_row(ui, snapshot, point, number)
    if snapshot.hits and ui.button("Save the state", enabled=snapshot.failure is None,
                                   tip="Writes checkpoint.safetensors: the run as it stood when this iteration began, "
                                       "or has ended. Ctrl + S"):
        commands.append(SaveCheckpoint(view.checkpoint_path))
    return commands


def _draw_recorded(ui: Ui, snapshot: Snapshot) -> list[Command]:
    commands: list[Command] = []
    if snapshot.breakpoints:
        ui.heading("Breakpoints hit", f"{sum(point.hits for point in snapshot.breakpoints):,}")
    for number, point in enumerate(snapshot.breakpoints):
        ui.text(ui.shortened(point.expression, ui.width))
        ui.tip(point.expression)
        ui.im.AlignTextToFramePadding()
        commands += _draw_hits(ui, snapshot, point, number)
    return commands


def _draw_entry(ui: Ui, entry: BreakpointView, snapshot: Snapshot) -> list[Command]:
    """The field, what is wrong with what it holds, and the names that fit."""
    im, known = ui.im, ScalarNames(snapshot.scalar_names, snapshot.names_whole)
    fresh, entry.focus = entry.focus, False
    if fresh:
        im.SetKeyboardFocusHere()
    im.SetNextItemWidth(ui.width - 3.6 * ui.em)
    flags = int(im.ImGuiInputTextFlags_AllowTabInput)
    _, text = im.InputTextWithHint(f"##breakpoint{entry.number}", HINT, entry.text, flags)
    typing = bool(im.IsItemActive() or im.IsItemDeactivated())
    ui.tip(TIP)
    if not fresh:  # the key that asked for it is no text
        entry.typed(text, known.names)
    _send_to_end(ui, entry, typing and not fresh)
    error = _error(entry.text, known)
    im.SameLine(0.0, 0.4 * ui.em)
    able = bool(entry.text.strip()) and error is None
    clicked = ui.button("Add", 3.2 * ui.em, able, tip="The run stops where this holds. Enter")
    enter = typing and bool(im.IsKeyPressed(im.ImGuiKey_Enter) or im.IsKeyPressed(im.ImGuiKey_KeypadEnter))
    if able and (clicked or enter):
        text = entry.text.strip()
        entry.put("", typing=enter)
        return [SetBreakpoint(text)]
    if enter:  # what is typed next is to correct it, and no key of the window's
        entry.put(entry.text, typing=True)
    names = complete(entry.text, len(entry.text), known.names)
    _draw_completions(ui, entry, snapshot, names)
    # what isn't finished yet is no mistake
    if error is not None and entry.text.strip() and not (names and error.at == len(entry.text) - len(
            word_before(entry.text, len(entry.text)))):
        _draw_error(ui, error, theme.MUTED if typing and error.at >= len(entry.text.strip()) else theme.BAD)
    return []


def _error(text: str, known: ScalarNames) -> ExpressionError | None:
    try:
        checked(text, known)
    except ExpressionError as error:
        return error
    return None


def _send_to_end(ui: Ui, entry: BreakpointView, typing: bool) -> None:
    """A field that gets the keyboard has all of its text selected: the End key undoes that."""
    if entry.to_end and typing:
        entry.to_end -= 1
        if entry.to_end < 2:
            ui.im.GetIO().AddKeyEvent(ui.im.ImGuiKey_End, entry.to_end == 1)


def _draw_completions(ui: Ui, entry: BreakpointView, snapshot: Snapshot, names: list[str]) -> None:
    """Names that the last word may become, with what they are now."""
    end = len(entry.text)
    for name in names:
        if ui.im.Selectable(f"{name}##completion", False):
            entry.put(completed(entry.text, end, name), typing=True)
        if name in snapshot.scalars:
            ui.text_right(shown(name, snapshot.scalars[name]), theme.MUTED)
        elif name in FUNCTIONS:
            ui.text_right(FUNCTIONS[name].form, theme.MUTED)


def _draw_error(ui: Ui, error: ExpressionError, colour: theme.Colour) -> None:
    """The line, and the expression with a caret under the character; a long one from somewhere before it."""
    ui.wrapped(str(error), colour)
    text, at, room = error.text, error.at, ui.width - 2 * ui.em
    start = 0
    while start < at and ui.im.CalcTextSize(text[start : at + 1])[0] > room:
        start += 1
    ui.text(ui.shortened(text[start:], ui.width), theme.MUTED)
    x, y = ui.im.GetCursorScreenPos()
    left = x + ui.im.CalcTextSize(text[start:at])[0]
    ui.im.GetWindowDrawList().AddText((left, y - 0.35 * ui.em), packed(colour), "^")
    ui.im.Dummy((1.0, 0.5 * ui.em))


def _draw_row(ui: Ui, snapshot: Snapshot, point: Breakpoint, number: int) -> list[Command]:
    im, commands, text = ui.im, [], point.expression
    if any(hit.expression == text for hit in snapshot.hits):
        x, y = im.GetCursorScreenPos()
        corner = (x + ui.width, y + 2 * im.GetFrameHeight() + 0.5 * ui.em)
        im.GetWindowDrawList().AddRectFilled((x, y), corner, packed(theme.ACCENT, 0.28), 0.25 * ui.em)
    changed, enabled = im.Checkbox(f"##enabled {number}", point.enabled)
    ui.tip("Whether the run stops there")
    if changed:
        commands.append(SetBreakpoint(text, enabled, point.one_shot))
    im.SameLine(0.0, 0.4 * ui.em)
    im.AlignTextToFramePadding()
    colour = theme.BAD if point.error else theme.TEXT if point.enabled else theme.MUTED
    ui.text(ui.shortened(text, ui.width - 2.4 * ui.em), colour)
    ui.tip(f"{text}\n{point.error}" if point.error else text)
    im.SameLine()
    im.SetCursorPosX(im.GetCursorPosX() + max(ui.width - 1.8 * ui.em, 0.0))
    if ui.button(f"x##{number}", 1.8 * ui.em, tip="Removes it"):
        commands.append(RemoveBreakpoint(text))
    im.Dummy((1.7 * ui.em, 1.0))
    im.SameLine(0.0, 0.4 * ui.em)
    changed, one_shot = im.Checkbox(f"once##{number}", point.one_shot)
    ui.tip("Stops the first time only: it is disabled then")
    if changed:
        commands.append(SetBreakpoint(text, point.enabled, one_shot))
    im.SameLine(0.0, 0.8 * ui.em)
    im.AlignTextToFramePadding()
    return commands + _draw_hits(ui, snapshot, point, number)


def _draw_hits(ui: Ui, snapshot: Snapshot, point: Breakpoint, number: int) -> list[Command]:
    """How often, and the way back to the last one."""
    if point.error:
        ui.text(ui.shortened(point.error, ui.width), theme.BAD)
        return []
    hit = point.last_hit
    if hit is None:
        ui.text("no hit yet", theme.MUTED)
        return []
    words = f"{point.hits:,} hit{'s' * (point.hits > 1)}, iteration {hit.iteration:,}"
    ui.text(ui.shortened(words, ui.width - 2.8 * ui.em), theme.MUTED)
    ui.tip(f"{hit.words}\n{point.hits:,} hits")
    place = place_of(snapshot, hit.iteration, hit.n_stages)
    ui.im.SameLine()
    ui.im.SetCursorPosX(ui.im.GetCursorPosX() + max(ui.width - 2.4 * ui.em, 0.0))
    able = snapshot.failure is None and snapshot.past.oldest is not None and place.iteration >= snapshot.past.oldest
    return [place] if ui.button(f"Go##{number}", 2.4 * ui.em, able, tip="Goes to the place of the last hit") else []


def place_of(snapshot: Snapshot, iteration: int, n_stages: int) -> GoTo:
    """The way to a place: an iteration, counted from 1, and how many stages of it have run."""
    if snapshot.source != "live":
        return GoTo(iteration)  # what is recorded are ends of iterations, the last one where this has none
    return GoTo(iteration) if n_stages >= len(snapshot.stages) else GoTo(iteration - 1, n_stages)
