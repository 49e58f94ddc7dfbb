"""Actions: everything that a key or the palette can do, each once, with its name, its key and its meaning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench import change_view, coverage_view, network_view, theme
from workbench.commands import (
    Branch,
    Command,
    GoTo,
    NextIteration,
    NextStage,
    Pause,
    Play,
    SaveCheckpoint,
    SetSpeed,
    StageBack,
    StepBack,
)
from workbench.cost_view import PROFILE
from workbench.export import export_from_window
from workbench.panels import breakpoints, costs
from workbench.panels.transport import step_speed
from workbench.view_state import LAYER_LABELS, LAYERS
from workbench.what_if_view import NAMES

if TYPE_CHECKING:
    from workbench.window import Window

Does = Callable[["Window"], "list[Command] | None"]

_KEY_LABELS = {"RightArrow": "→", "LeftArrow": "←", "UpArrow": "↑", "DownArrow": "↓",
               "LeftBracket": "[", "RightBracket": "]", "Slash": "?",
               "Equal": "+", "PageUp": "Page Up", "PageDown": "Page Down", "Minus": "–", "Escape": "Esc"}


@dataclasses.dataclass(frozen=True)
class Action:
    """name: as the palette lists it; key: ImGui's name of the key, with "Shift+" or "Ctrl+" before it, or "";
    repeats: goes on while the key is held; listed: shown in the list of keys."""

    name: str
    key: str
    does: Does
    repeats: bool = False
    listed: bool = True

    @property
    def key_label(self) -> str:
        """Such as 'Shift + →'."""
        *modifiers, key = self.key.split("+")
        label = _KEY_LABELS.get(key, key)
        return " + ".join([*(m for m in modifiers if label != "?"), label])


def _flip(name: str) -> Does:
    """Turns a choice of the view on or off."""

    def does(window: Window) -> None:
        setattr(window.view, name, not getattr(window.view, name))

    return does


def _flip_field(name: str) -> Does:
    """The same for a choice of the field's."""

    def does(window: Window) -> None:
        setattr(window.view.field, name, not getattr(window.view.field, name))

    return does


def _play_or_pause(window: Window) -> list[Command]:
    return [Pause() if window.snapshot.playing else Play()]


def _to_oldest(window: Window) -> list[Command]:
    oldest = window.snapshot.past.oldest
    return [StepBack()] if oldest is None else [GoTo(oldest)]  # where nothing is kept the answer says why


def _branch(window: Window) -> list[Command]:
    if window.snapshot.source == "live":
        window.view.notice = "this is a run already: a recording is what can be branched off"
        return []
    return [Branch()]


def _speed(step: int) -> Does:
    def does(window: Window) -> list[Command]:
        recorded = window.snapshot.source != "live"
        return [SetSpeed(step_speed(window.snapshot.speed, step))] if recorded else []

    return does


def _close_overlays(window: Window) -> None:
    view = window.view
    if not (view.show_keys or view.palette.shown):
        view.maps.release()
    view.show_keys = view.palette.shown = view.cameras.picking = False


def _add_view(window: Window) -> list[Command]:
    view = window.view
    commands = view.cameras.add_view(view, window.snapshot)
    view.notice = view.cameras.notice or view.notice
    return commands


def _suggest_camera(window: Window) -> None:
    window.view.show_panels, window.view.tabs["left"] = True, coverage_view.PANEL
    window.view.coverage.ask()


def _theme(window: Window) -> None:
    window.use_theme("light" if theme.current() is theme.DARK else "dark")


def _adapted(window: Window) -> None:
    frustum = window.view.frustum
    frustum.planes = "run" if frustum.adapted else "adapted"


def _move(window: Window) -> None:
    window.view.frustum.moving = not window.view.frustum.moving


def _keep(name: str) -> Does:
    """Keeps what is looked at as one of the two what-ifs."""
    return lambda window: window.view.what_ifs.keep(name, window.view)


def _go_home(window: Window) -> None:
    """Everything in its place again, as it was before a look at something from near by."""
    window.view.side_by_side |= window.view.cameras.apart_at_home
    window.go_home()


def _drop_kept(window: Window) -> None:
    for name in NAMES:
        window.view.what_ifs.drop(name)


def _stage(steps: int) -> Does:
    """Looks at another stage of an inference, where their list is in front."""

    def does(window: Window) -> None:
        if window.view.in_front(network_view.PANEL):
            window.view.network.step(window.snapshot, steps)

    return does


def _export(suffix: str) -> Does:
    return lambda window: export_from_window(window, suffix)


def _type_breakpoint(window: Window) -> None:
    if window.snapshot.source != "live":
        window.view.notice = "a recording can't be stopped by a condition: branch from here (Ctrl+B)"
        return
    window.view.show_panels, window.view.tabs["right"] = True, breakpoints.PANEL
    window.view.breakpoints.ask()


def _profile(window: Window) -> list[Command]:
    view = window.view
    view.show_panels, view.tabs["right"], view.costs.part = True, costs.PANEL, PROFILE
    return [view.costs.ask_for_profile(view.checkpoint_path)]


def _layer(name: str) -> Does:
    return lambda window: window.view.toggle_layer(name)


def _keep_state(window: Window) -> None:
    """Where nobody has compared yet the state isn't there: the tab is opened, and asks for it."""
    view = window.view
    if view.changes.b is None:
        view.tabs["left"], view.show_panels = change_view.PANEL, True
        view.notice = "the Changes tab is opened: once it shows this iteration, it can be kept"
    else:
        view.changes.keep()


ACTIONS: tuple[Action, ...] = (
    Action("Play or pause", "Space", _play_or_pause),
    Action("Next iteration", "RightArrow", lambda _: [NextIteration()], repeats=True),
    Action("Next stage", "Shift+RightArrow", lambda _: [NextStage()], repeats=True),
    Action("Back one iteration", "LeftArrow", lambda _: [StepBack()], repeats=True),
    Action("Back one stage", "Shift+LeftArrow", lambda _: [StageBack()], repeats=True),
    Action("Back to the first iteration kept", "Home", _to_oldest),
    Action("On to the last iteration reached", "End", lambda w: [GoTo(w.snapshot.past.reached)]),
    Action("An inference: look at the stage before", "UpArrow", _stage(-1), repeats=True),
    Action("An inference: look at the stage after", "DownArrow", _stage(1), repeats=True),
    Action("A recording: play it faster", "Period", _speed(1), listed=False),
    Action("A recording: play it slower", "Comma", _speed(-1), listed=False),
    Action("A recording: branch a run off here", "Ctrl+B", _branch),
    Action("Previous camera", "LeftBracket", lambda w: w.view.step_camera(w.snapshot, -1)),
    Action("Next camera", "RightBracket", lambda w: w.view.step_camera(w.snapshot, 1)),
    *(Action(f"Layer {label} on or off", str(number % 10) if number <= 10 else "", _layer(name), listed=False)
      for number, (name, label) in enumerate(zip(LAYERS, LAYER_LABELS, strict=True), start=1)),
    Action("Target on or off", "G", _layer("target")),
    Action("Error: difference maps on or off", "E", _flip("show_difference")),
    Action("Side by side, or in one place", "B", _flip("side_by_side")),
    Action("Cut at the plane on or off", "X", _flip_field("cut")),
    Action("Plane one voxel on", "PageUp", lambda w: w.view.field.step_plane(w.view, 1), repeats=True),
    Action("Plane one voxel back", "PageDown", lambda w: w.view.field.step_plane(w.view, -1), repeats=True),
    Action("Voxels by field on or off", "C", _flip_field("voxels_coloured")),
    Action("Home view", "H", _go_home),
    Action("Look through the camera", "V", lambda w: w.look_through_selected()),
    Action("Save a figure of the scene", "F", lambda w: w.save_figure()),
    Action("Breakpoint: type a condition", "Shift+B", _type_breakpoint),
    Action("Profile one iteration", "", _profile),
    Action("Save a checkpoint", "Ctrl+S", lambda w: [SaveCheckpoint(w.view.checkpoint_path)]),
    Action("Panels on or off", "Tab", _flip("show_panels")),
    Action("Light or dark", "T", _theme),
    Action("Larger text", "Ctrl+Equal", lambda w: w.change_scale(1.1)),
    Action("Smaller text", "Ctrl+Minus", lambda w: w.change_scale(1 / 1.1)),
    Action("Run any command by name", "Ctrl+P", lambda w: w.view.palette.open()),
    Action("List of keys", "Shift+Slash", _flip("show_keys")),
    Action("Close what is open, let go of the probed pixel", "Escape", _close_overlays),
    Action("Camera: add this view to the run's own", "", _add_view),
    Action("Camera: suggest the next one, by what no view has seen", "", _suggest_camera),
    Action("Camera: follow the run", "", lambda w: setattr(w.view, "pinned", None)),
    Action("Camera: the view itself", "", lambda w: w.view.frustum.look_at_view(w.view)),
    Action("Planes: the run's, or adapted here", "", _adapted),
    Action("Planes: by hand", "", lambda w: setattr(w.view.frustum, "planes", "hand")),
    Action("What-if: move a copy of the camera, or not", "", _move),
    *(Action(f"What-if: keep as {name}", "", _keep(name)) for name in NAMES),
    Action("What-if: drop A and B", "", _drop_kept),
    Action("Changes: keep this iteration to compare with", "", _keep_state),
    Action("Changes: drop the kept iteration", "", lambda w: w.view.changes.drop()),
    Action("Changes: in the scene or not", "", lambda w: setattr(w.view.changes, "shown", not w.view.changes.shown)),
    Action("Export the mesh as it is drawn (.ply)", "", _export(".ply")),
    Action("Export the scalars (.csv)", "", _export(".csv")),
    Action("Export the cameras (transforms.json)", "", _export(".json")),
)

MATCHED_KEYS = tuple(sorted({action.key.split("+")[-1] for action in ACTIONS if action.key}))


def pressed(im: Any, typing: bool) -> list[Action]:
    """The actions whose keys were pressed since the last redraw; while somebody types, Escape alone counts."""
    shift, ctrl = _held(im, "Shift"), _held(im, "Ctrl")
    found = []
    for action in ACTIONS:
        *modifiers, key = action.key.split("+")
        if not key or (typing and key != "Escape"):
            continue
        # the numbers' and letters' own characters may need Shift on other keyboards: only where both exist it counts
        wants_shift = "Shift" in modifiers
        meant = ("Ctrl" in modifiers) == ctrl and (wants_shift == shift or not (wants_shift or _shifted_exists(action)))
        if meant and im.IsKeyPressed(getattr(im, "ImGuiKey_" + key), action.repeats):
            found.append(action)
    return found


def any_held(im: Any) -> bool:
    """Whether a key of any action is down."""
    return any(im.IsKeyDown(getattr(im, "ImGuiKey_" + key)) for key in MATCHED_KEYS)


def _shifted_exists(action: Action) -> bool:
    return any(other.key == f"Shift+{action.key}" for other in ACTIONS)


def _held(im: Any, name: str) -> bool:
    """Whether Shift or Ctrl counts for the keys pressed now: where redraws are slow it may be up again already."""
    sides = [getattr(im, f"ImGuiKey_{side}{name}") for side in ("Left", "Right")]
    return any(im.IsKeyDown(key) or im.IsKeyReleased(key) for key in sides)
