"""The window: a main loop that shows snapshots of the engine and sends it commands; alone in using Polyscope's UI."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparseflex.camera import Camera
from sparseflex.training.run import Run
from workbench import theme
from workbench.commands import Command, NextIteration, NextStage, Pause, Play, RequestFields, SaveCheckpoint
from workbench.engine import Engine, SaveRun, save_checkpoint
from workbench.graphics import NoGraphics, check_graphics, default_size, start_polyscope
from workbench.input_watch import InputWatch
from workbench.layout import Layout, Rect, scale_for
from workbench.pacing import Pacer
from workbench.snapshot import Snapshot
from workbench.view_state import LAYERS, ViewState

ASK_AHEAD_SECS = 0.08
"""How long before a redraw the fields are asked for: they should be fresh, and there in time."""

NAP_SECS = 0.012
STOP_SECS = 15.0

Scripted = Callable[["Window"], bool]


class StageDidNotEnd(RuntimeError):
    """The window is closed but the run still changes: nothing of it may be saved."""


def open_window(
    run: Run,
    *,
    title: str,
    out_dir: Path | str,
    paused: bool = True,
    fps: float = 60.0,
    size: tuple[int, int] | None = None,
    scripted: Scripted | None = None,
    save: SaveRun = save_checkpoint,
    view: ViewState | None = None,
    home: Camera | None = None,
) -> int:
    """Shows a run until the window is closed, and drives it from there. Returns the exit code.

    0: closed by the user; 1: the run or the window failed, or the last checkpoint couldn't be saved. Where iterations
    were made, out_dir/checkpoint.safetensors is written on closing, on Ctrl-C and SIGTERM too. scripted is called after
    each redraw and closes the window by returning True. home gives the direction of the home view. Raises NoGraphics
    where no window can be opened, StageDidNotEnd where the run is still being changed by its thread afterwards.
    """
    check_graphics()
    view = view or ViewState()
    view.title = title
    view.checkpoint_path = Path(out_dir) / "checkpoint.safetensors"
    if home is not None:
        view.home_direction = tuple((-home.forward_world).tolist())
    engine = Engine(run, save)
    try:
        window = Window(engine, view, title, fps, size)
    except NoGraphics:
        raise
    except RuntimeError as error:
        raise NoGraphics(f"the window could not be opened: {error}") from None
    engine.start()
    try:
        if not paused:
            engine.send(Play())
        with _interrupts_close(window):
            window.show(scripted)
    finally:
        ended = engine.stop(STOP_SECS)
        window.close()
    last = engine.snapshots.latest()
    if not ended:
        raise StageDidNotEnd(f"not saved: stage {last.stage_next} did not end within {STOP_SECS:g} s")
    code = 1 if window.failed or last.failure is not None else 0
    return max(code, _save_on_closing(engine, run, view.checkpoint_path, save))


def _save_on_closing(engine: Engine, run: Run, path: Path, save: SaveRun) -> int:
    last = engine.snapshots.latest()
    if last.failure is not None:
        print(f"failed in {last.failure.stage}, iteration {last.failure.iteration}: {last.failure.message}",
              file=sys.stderr)
    if engine.n_iterations == 0:
        return 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, run)
    except Exception as error:  # noqa: BLE001 - a run's own state_dict may raise anything
        print(f"not saved: {error}", file=sys.stderr)
        return 1
    print(f"iteration {run.iteration} saved in {path}")
    return 0


@contextmanager
def _interrupts_close(window: Window) -> Iterator[None]:
    """Ctrl-C and SIGTERM close the window in good order; an exception in the middle of a redraw would not."""
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda *_: window.ask_to_close())
    except ValueError:  # not the main thread, which alone may set handlers
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Window:
    """The main loop's state: engine, view, scene, pacer. Scripts use engine, view, snapshot, n_frames, screenshot."""

    def __init__(self, engine: Engine, view: ViewState, title: str, fps: float, size: tuple[int, int] | None) -> None:
        import polyscope as ps
        import polyscope.imgui as psim
        import polyscope.implot as implot

        from workbench.scene_view import SceneView
        from workbench.textures import Textures
        from workbench.ui import Ui

        self.engine, self.view = engine, view
        self.snapshot: Snapshot = engine.snapshots.latest()
        self._of_scene = self.snapshot  # the last one with all that the scene needs: it may come more rarely
        self.failed, self.n_frames = "", 0
        self._ps = ps
        self._input = InputWatch()
        self._pacer = Pacer(fps)
        self._closing = False
        self._awaited: int | None = None
        self._names: frozenset[str] = frozenset()
        self._home: Any = None
        self._drawn_serial = -1
        start_polyscope(title)
        screen = self._input.screen_size()
        ps.set_window_size(*(size or default_size(screen)))
        ps.set_user_callback(self._guarded_callback)
        self.scene = SceneView()
        self.ui = Ui(psim, implot, Textures())

    # The loop

    def show(self, scripted: Scripted | None = None) -> None:
        while not (self._closing or self._ps.window_requests_close()):
            now = time.monotonic()
            training = self.engine.snapshots.latest().playing
            news = self.engine.snapshots.latest().serial != self._drawn_serial
            wait = self._pacer.secs_until_due(now, training, news)
            if wait <= ASK_AHEAD_SECS:
                self._guarded(self._ask, training)
            if wait > 0:
                time.sleep(min(wait, NAP_SECS))
                if self._input.poll():
                    self._pacer.alarm(now)
                continue
            self._redraw(now, training)
            if scripted is not None and scripted(self):
                return

    def ask_to_close(self) -> None:
        self._closing = True

    def close(self) -> None:
        self._input.close()
        self._ps.clear_user_callback()
        self._ps.shutdown()

    def screenshot(self, path: Path | str) -> None:
        """A picture of the whole window, panels included; between two redraws only."""
        self._ps.screenshot(str(path), transparent_bg=False, include_UI=True)

    def _ask(self, training: bool) -> None:
        """Keeps one request under way while the run moves, and asks anew when other fields are wanted.

        What only the scene needs is asked for when the scene is to be redrawn: a whole surface has its price.
        """
        latest, view = self.engine.snapshots.latest(), self.view
        if self._awaited is not None and latest.answers > self._awaited:
            self._awaited = None
        names = view.panel_fields(latest)
        if self._pacer.scene_due(time.monotonic() + ASK_AHEAD_SECS, training):
            names |= view.scene_fields(latest)
        stale = training and latest.serial == self._drawn_serial
        if self._awaited is None and (stale or names != self._names):
            self._names, self._awaited = names, latest.answers
            self.engine.send(RequestFields(names))

    def _redraw(self, now: float, training: bool) -> None:
        self.snapshot = self.engine.snapshots.latest()
        self._drawn_serial = self.snapshot.serial
        started = time.monotonic()
        self._guarded(self._update_scene, self._pacer.scene_due(now, training))
        with_scene = self._ps.get_redraw_requested()
        self._ps.frame_tick()
        self._pacer.drawn(started, time.monotonic(), with_scene)
        self.n_frames += 1

    def _update_scene(self, due: bool) -> None:
        stats = self.view.redraw
        stats.scene_secs, stats.ui_secs = self._pacer.scene_secs, self._pacer.ui_secs
        stats.share = self._pacer.share(time.monotonic())
        if self.view.scene_fields(self.snapshot) <= self.snapshot.asked:
            self._of_scene = self.snapshot
        if due:
            selected = self.view.selected_camera(self._of_scene)
            camera, label = (None, "") if selected is None else (selected.camera, selected.label)
            self.view.split.update(self._of_scene.fields.get("voxels"), camera, label)
            self.scene.update(self._of_scene, self.view)
        free = self._free()
        whole = self.scene.places(self.view, free[2] / max(free[3], 1.0))[1]
        home = (whole, free, self._ps.get_window_size())
        if home != self._home:
            self._home = home
            self.go_home()
        self.scene.arrange(self.view, free[2] / max(free[3], 1.0))

    def _free(self) -> Rect:
        width, height = self._ps.get_window_size()
        return Layout.of(width, height, theme.FONT_PIXELS * scale_for(width, height), self.view.show_panels).free

    def go_home(self) -> None:
        """The view that shows everything in what the panels leave free."""
        self.scene.go_home(self.view, self._ps.get_window_size(), self._free())

    # The panels

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Does the work unless something has failed before; a failure is shown in the window and in the exit code."""
        if self.failed:
            return
        try:
            work(*arguments)
        except Exception:  # noqa: BLE001 - the UI's boundary: what left a callback would break every later redraw
            self.failed = traceback.format_exc()
            print(self.failed, file=sys.stderr)
            self.engine.send(Pause())

    def _guarded_callback(self) -> None:
        self._guarded(self._callback)
        if self.failed:
            self._draw_failure("The window failed; the run is paused. Close the window to save it.", self.failed)

    def _callback(self) -> None:
        im, view = self.ui.im, self.view
        io = im.GetIO()
        if any(io.MouseDelta) or any(io.MouseDown) or io.MouseWheel or self._keys_held():
            self._pacer.touch(time.monotonic())
        width, height = self._ps.get_window_size()
        scale = scale_for(width, height)
        # compared with the style itself: a screenshot draws in a context of its own, with a style of its own
        if abs(im.GetStyle().FontScaleMain - theme.font_scale(scale)) > 1e-6:
            theme.apply(im, self.ui.plot, scale)
            self._ps.request_redraw()
        commands: list[Command] = []
        if not io.WantTextInput:
            commands += self._keys()
        layout = Layout.of(width, height, theme.FONT_PIXELS * scale, view.show_panels)
        if view.show_panels:
            commands += self._draw_panels(layout)
        if view.show_keys:
            self._draw_keys(layout.free)
        if self.snapshot.failure is not None:
            failure = self.snapshot.failure
            self._draw_failure(f"{failure.stage}, iteration {failure.iteration}: {failure.message}", failure.traceback)
        for command in commands:
            self.engine.send(command)

    def _draw_panels(self, layout: Layout) -> list[Command]:
        from workbench.panels import frustum, layers, maps, plots, scalars, status, transport

        commands: list[Command] = []
        columns = (("left", layout.left, (transport, frustum, layers, scalars)), ("right", layout.right, (maps, plots)),
                   ("bar", layout.bar, (status,)))
        for name, rect, panels in columns:
            with self._pane(name, rect, bar=name == "bar"):
                for panel in panels:
                    commands += panel.draw(self.ui, self.view, self.snapshot)
        return commands

    @contextmanager
    def _pane(self, name: str, rect: Rect, bar: bool = False) -> Iterator[None]:
        """An ImGui window that lies still in its rectangle."""
        im = self.ui.im
        flags = 0
        for flag in ("NoTitleBar", "NoResize", "NoMove", "NoCollapse", "NoSavedSettings", "NoNav"):
            flags |= int(getattr(im, "ImGuiWindowFlags_" + flag))
        if bar:
            flags |= int(im.ImGuiWindowFlags_NoScrollbar)
            im.PushStyleVar(int(im.ImGuiStyleVar_WindowPadding), (0.9 * self.ui.em, 0.5 * self.ui.em))
        im.SetNextWindowPos(rect[:2])
        im.SetNextWindowSize(rect[2:])
        im.Begin(name, flags)
        try:
            yield
        finally:
            im.End()
            if bar:
                im.PopStyleVar(1)

    def _draw_keys(self, free: Rect) -> None:
        from workbench.panels import status

        em = self.ui.em
        width, height = 24 * em, 20.5 * em
        with self._pane("keys", (free[0] + (free[2] - width) / 2, free[1] + (free[3] - height) / 2, width, height)):
            status.draw_keys(self.ui)

    def _draw_failure(self, title: str, text: str) -> None:
        from workbench.panels import status

        size = self._ps.get_window_size()
        x, y, width, height = Layout.of(*size, self.ui.em, self.view.show_panels and not self.failed).free
        tall = min(height, 20 * self.ui.em)
        inset = 0.5 * self.ui.em
        with self._pane("failure", (x + inset, y + height - tall - inset, width - 2 * inset, tall)):
            status.draw_failure(self.ui, title, text)

    # Keys

    def _pressed(self, key: str, repeat: bool = False) -> bool:
        return self.ui.im.IsKeyPressed(getattr(self.ui.im, "ImGuiKey_" + key), repeat)

    def _modifier(self, name: str) -> bool:
        """Whether Shift or Ctrl counts for the keys pressed now: where redraws are slow it may be up again already."""
        im = self.ui.im
        sides = [getattr(im, f"ImGuiKey_{side}{name}") for side in ("Left", "Right")]
        return any(im.IsKeyDown(key) or im.IsKeyReleased(key) for key in sides)

    def _keys_held(self) -> bool:
        im = self.ui.im
        names = ("Space", "RightArrow", "LeftBracket", "RightBracket", "Tab", "G", "E", "B", "H", "Slash")
        return any(im.IsKeyDown(getattr(im, "ImGuiKey_" + name)) for name in names)

    def _keys(self) -> list[Command]:
        view, snapshot = self.view, self.snapshot
        commands: list[Command] = []
        shift = self._modifier("Shift")
        if self._modifier("Ctrl"):
            return [SaveCheckpoint(view.checkpoint_path)] if self._pressed("S") else []
        if self._pressed("Space"):
            commands.append(Pause() if snapshot.playing else Play())
        if self._pressed("RightArrow", repeat=True):
            commands.append(NextStage() if shift else NextIteration())
        if self._pressed("LeftBracket"):
            view.step_camera(snapshot, -1)
        if self._pressed("RightBracket"):
            view.step_camera(snapshot, 1)
        for key, name in (("Tab", "show_panels"), ("E", "show_difference"), ("B", "side_by_side")):
            if self._pressed(key):
                setattr(view, name, not getattr(view, name))
        if self._pressed("G"):
            view.toggle_layer("target")
        if self._pressed("H"):
            self.go_home()
        if self._pressed("Slash") and shift:
            view.show_keys = not view.show_keys
        if self._pressed("Escape"):
            view.show_keys = False
        for number, name in enumerate(LAYERS, start=1):
            if self._pressed(str(number)):
                view.toggle_layer(name)
        return commands
