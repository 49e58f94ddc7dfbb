"""Window: the main loop's state; shows snapshots of a source and sends it commands. Alone in using Polyscope's UI."""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from sparseflex.camera import Camera
from sparseflex.training.run import Run
from workbench import actions, panels, panes, products, theme
from workbench.commands import Command, Pause, RequestFields
from workbench.figure.capture import Figures, Screen
from workbench.graphics import default_size, start_polyscope
from workbench.input_watch import InputWatch
from workbench.layout import MESH_PLACE, Layout, scale_for
from workbench.pacing import Pacer
from workbench.panels import captions
from workbench.preferences import Preferences
from workbench.snapshot import Snapshot
from workbench.source import Source
from workbench.subject import Brancher, Opener, Subject
from workbench.view_state import Click, ViewState

if TYPE_CHECKING:
    from workbench.pair import Pair

ASK_AHEAD_SECS = 0.08
"""How long before a redraw the fields are asked for: they should be fresh, and there in time."""

NAP_SECS = 0.012
VIEW_PIXELS = 256
"""Height of the image that the user's own view is taken to have."""

CLICK_PIXELS = 4.0

KEEP_SECS = 2.0
"""How often the choices are looked through for what the preferences should keep."""

Scripted = Callable[["Window"], bool]


class Window:
    """The main loop's state: engine, view, scene, pacer. Scripts use engine, view, snapshot, n_frames, screenshot."""

    def __init__(self, engine: Source, view: ViewState, title: str, fps: float, size: tuple[int, int] | None,
                 opener: Opener | None = None, brancher: Brancher | None = None) -> None:
        import polyscope as ps
        import polyscope.imgui as psim
        import polyscope.implot as implot

        from workbench.scene_view import SceneView
        from workbench.textures import Textures
        from workbench.ui import Ui

        self.view, view.frustum.background = view, True
        self.failed, self.n_frames = "", 0
        self.next: Subject | None = None  # what was dropped, to be shown in place of this run
        self._opener, self._brancher = opener, brancher
        self._dropped: list[str] = []
        self._ps = ps
        self._input = InputWatch()
        self._pacer = Pacer(fps)
        self._closing = False
        self._home: Any = None
        self._themed: theme.Palette | None = None
        self._preferences = Preferences()
        self._preferences.load(view)
        theme.use(view.theme)
        self._kept_at = time.monotonic()
        start_polyscope(title)
        screen = self._input.screen_size()
        ps.set_window_size(*(size or default_size(screen)))
        ps.set_user_callback(self._guarded_callback)
        ps.set_files_dropped_callback(self.drop)
        self.scene = SceneView()
        self.figures = Figures()
        self.ui = Ui(psim, implot, Textures())

    def attach(self, engine: Source, subject: Subject, pair: Pair | None = None) -> None:
        """Makes a source the one that is shown; choices that aren't about a run stay as they are. pair: the run
        beside it."""
        self.engine, self.next = engine, None
        self.view.network.forget(self.view)
        self.snapshot: Snapshot = self._latest()
        self._of_scene = self.snapshot  # the last one with all that the scene needs: it may come more rarely
        self._awaited: int | None = None
        self._names: frozenset[str] = frozenset()
        self._drawn_news, self._drawn_serial = (-1, 0), -1
        self.view.forget_found()
        if self.view.pair is not None:
            self.view.pair.view.stop_workers()
        self.view.pair, self.view.of_mesh = pair, subject.of_mesh
        panels.bring_forward(self.view, self.snapshot)
        self.view.title, self.view.checkpoint_path, self.view.pinned = subject.title, subject.checkpoint_path, None
        if subject.home is not None:
            self.view.home_direction = tuple((-subject.home.forward_world).tolist())
        self._home = None

    def drop(self, paths: Sequence[str]) -> None:
        """What happens to files dropped on the window: the first becomes the next subject."""
        self._dropped.extend(paths)

    def _open_dropped(self) -> None:
        paths, self._dropped[:] = list(self._dropped), []
        if self._opener is None:
            self.view.notice = f"not opened: {paths[0]} (this window shows one run only)"
            return
        try:
            self.next = self._opener(paths[0])
        except ValueError as error:
            self.view.notice = f"not opened: {error}"
        else:
            self.view.notice = "" if len(paths) == 1 else f"opened the first of {len(paths)} files"

    def _open_branch(self, run: Run) -> None:
        try:
            self.next = self._brancher(run)
        except ValueError as error:
            self.engine.branched = None
            self.view.notice = f"no branch: {error}"
        else:
            self.view.notice = ""

    # The loop

    def show(self, scripted: Scripted | None = None) -> None:
        while not (self._closing or self._ps.window_requests_close()):
            now = time.monotonic()
            training = self.engine.snapshots.latest().playing or bool(self.view.pair and self.view.pair.latest.playing)
            news = self._news() != self._drawn_news
            wait = self._pacer.secs_until_due(now, training, news)
            if wait <= ASK_AHEAD_SECS:
                self._guarded(self._ask, training)
            if wait > 0:
                time.sleep(min(wait, NAP_SECS))
                if self._input.poll():
                    self._pacer.alarm(now)
                continue
            self._redraw(now, training)
            self.view.notice = self.figures.poll(self.snapshot) or self.view.notice
            if self._dropped:
                self._open_dropped()
            branched = getattr(self.engine, "branched", None)
            if branched is not None and self._brancher is not None and self.next is None:
                self._open_branch(branched)
            if self.next is not None:
                return
            if now > self._kept_at + KEEP_SECS:
                self._preferences.save(self.view)
                self._kept_at = now
            if scripted is not None and scripted(self):
                return

    def ask_to_close(self) -> None:
        self._closing = True

    def close(self) -> None:
        self._preferences.save(self.view)
        self.view.stop_workers()
        if self.view.pair is not None:
            self.view.pair.view.stop_workers()
        self._input.close()
        self._ps.clear_user_callback()
        self._ps.clear_files_dropped_callback()
        self._ps.shutdown()

    def screenshot(self, path: Path | str) -> None:
        """A picture of the whole window, panels included; between two redraws only."""
        self._ps.screenshot(str(path), transparent_bg=False, include_UI=True)

    def _ask(self, training: bool) -> None:
        """Keeps one request under way while the run moves, and asks anew when other fields are wanted.

        What only the scene needs is asked for when the scene is to be redrawn: a whole surface has its price.
        """
        latest, view = self._latest(), self.view
        if self._awaited is not None and latest.answers > self._awaited:
            self._awaited = None
        names = panels.wanted_fields(view, latest)
        if self._pacer.scene_due(time.monotonic() + ASK_AHEAD_SECS, training):
            names |= view.scene_fields(latest)
        names = products.run_names(latest, names)
        stale = latest.playing and latest.serial == self._drawn_serial
        if self._awaited is None and (stale or names != self._names):
            self._names, self._awaited = names, latest.answers
            self.engine.send(RequestFields(names))
        if view.pair is not None:
            view.pair.follow(latest)
            view.pair.ask(self._pacer.scene_due(time.monotonic() + ASK_AHEAD_SECS, training))

    def _latest(self) -> Snapshot:
        """The latest snapshot as scene and panels see it."""
        return self.view.network.look(self.view, self.engine.snapshots.latest())

    def _news(self) -> tuple[int, int]:
        """Grows with every snapshot and with every result of the worker."""
        more = (0, 0) if self.view.pair is None else self.view.pair.news
        return self.engine.snapshots.latest().serial + more[0], self.view.n_found + more[1]

    def _redraw(self, now: float, training: bool) -> None:
        self._drawn_news = self._news()
        self.snapshot = self._latest()
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
            self.view.frustum.update(self.view, self._of_scene)
            self.view.maps.update(self.view, self._of_scene)
            self.scene.update(self._of_scene, self.view)
        home = self._home_key()
        if home != self._home:
            self._home = home
            self.go_home()
        free = self._layout().free
        self.scene.arrange(self.view, free[2] / max(free[3], 1.0))

    def _home_key(self) -> tuple:
        """What the home view depends on."""
        free = self._layout().free
        return self.scene.places(self.view, free[2] / max(free[3], 1.0))[1], free, self._ps.get_window_size()

    def _scale(self) -> float:
        return scale_for(*self._ps.get_window_size(), self.view.scale)

    def _layout(self) -> Layout:
        width, height = self._ps.get_window_size()
        return Layout.of(width, height, theme.FONT_PIXELS * self._scale(), self.view.show_panels and not self.failed)

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
            title = "The window failed; the run is paused. Close the window to save it."
            panes.draw_failure(self.ui, self._layout(), title, self.failed)

    def _callback(self) -> None:
        im, view = self.ui.im, self.view
        io = im.GetIO()
        if any(io.MouseDelta) or any(io.MouseDown) or io.MouseWheel or actions.any_held(im):
            self._pacer.touch(time.monotonic())
        scale = self._scale()
        # compared with the style itself: a screenshot draws in a context of its own, with a style of its own
        if abs(im.GetStyle().FontScaleMain - theme.font_scale(scale)) > 1e-6 or self._themed is not theme.current():
            theme.apply(im, self.ui.plot, scale)
            self._themed = theme.current()
            self._ps.set_background_color(theme.linear(theme.BACKGROUND))
            self._ps.request_redraw()
        view.view_camera = self._view_camera()
        view.click = self._click()
        commands: list[Command] = []
        for action in actions.pressed(im, bool(io.WantTextInput)):
            commands += action.does(self) or []
        layout = self._layout()
        commands += panes.draw(self.ui, view, self.snapshot, layout)
        view.cameras.apart_at_home &= not view.side_by_side
        if view.cameras.look_through is not None:
            self.look_through(view.cameras.look_through)
            view.cameras.look_through = None
        centres, _ = self.scene.places(view, layout.free[2] / max(layout.free[3], 1.0))
        captions.draw(self.ui, view, self.snapshot, layout.free, centres, self._screen_place)
        if view.check.in_scene(view) is not None and view.check.chosen is not None:
            corners = self._centre(MESH_PLACE) + captions.box_corners(*view.check.chosen.box_world)
            captions.draw_frame(self.ui, [self._on_screen(corner) for corner in corners])
        chosen = panes.draw_overlays(self.ui, view, layout.free)
        for action in actions.ACTIONS:
            if action.name == chosen:
                commands += action.does(self) or []
        if self.snapshot.failure is not None:
            failure = self.snapshot.failure
            title = f"{failure.stage}, iteration {failure.iteration}: {failure.message}"
            panes.draw_failure(self.ui, layout, title, failure.traceback)
        for command in commands:
            self.engine.send(command)

    # The scene under the mouse

    def _centre(self, slot: int) -> np.ndarray:
        """Where a place of the scene has its origin, in Polyscope's world."""
        free = self._layout().free
        x, y = self.scene.places(self.view, free[2] / max(free[3], 1.0))[0].get(slot, (0.0, 0.0))
        right, up = np.asarray(self._ps.get_camera_view_matrix())[:2, :3]
        return right * x + up * y

    def _screen_place(self, right: float, up: float) -> tuple[float, float]:
        """Where on the window lies what is so far right of and above the origin, across the view."""
        across = np.asarray(self._ps.get_camera_view_matrix(), np.float64)[:2, :3]
        return self._on_screen(right * across[0] + up * across[1])

    def _on_screen(self, world: Float[np.ndarray, "3"]) -> tuple[float, float]:
        """Where on the window lies a point of Polyscope's world; far outside of it where that is behind the eye."""
        matrix = np.asarray(self._ps.get_camera_view_matrix(), np.float64)
        x, y, z = matrix[:3, :3] @ world + matrix[:3, 3]
        width, height = self._ps.get_window_size()
        fov = self._ps.get_view_camera_parameters().get_fov_vertical_deg()
        pixels = height / 2 / math.tan(math.radians(fov) / 2) / max(-z, 1e-6)
        return width / 2 + x * pixels, height / 2 - y * pixels

    def _view_camera(self, place: int = 0) -> Camera:
        """The user's view of a place (the voxels', or -1 for all of the scene) as a camera, as wide as the window."""
        found = self._ps.get_view_camera_parameters()
        eye = np.asarray(found.get_position(), np.float64) - (self._centre(place) if place >= 0 else 0)
        width, height = self._ps.get_window_size()
        target = eye + np.asarray(found.get_look_dir(), np.float64)
        return Camera.look_at(
            eye.tolist(), target.tolist(), list(found.get_up_dir()), fov_y_degrees=found.get_fov_vertical_deg(),
            width=max(round(VIEW_PIXELS * width / max(height, 1)), 1), height=VIEW_PIXELS, near=0.01, far=10.0,
        )

    def _click(self) -> Click | None:
        """A click into the scene, as a ray in the frame of the place that it meets; a drag is no click."""
        im = self.ui.im
        io = im.GetIO()
        dragged = im.GetMouseDragDelta(0, CLICK_PIXELS)
        if io.WantCaptureMouse or not im.IsMouseReleased(0) or any(dragged):
            return None
        direction = np.asarray(self._ps.screen_coords_to_world_ray(tuple(im.GetMousePos())), np.float64)
        eye = np.asarray(self._ps.get_view_camera_parameters().get_position(), np.float64)
        rays = [Click(eye - self._centre(slot), direction) for slot in range(3)]
        return min((ray for ray in rays if ray.entry < np.inf), key=lambda ray: ray.entry, default=None)

    # What actions do

    def go_home(self) -> None:
        """The view that shows everything in what the panels leave free."""
        self.scene.go_home(self.view, self._ps.get_window_size(), self._layout().free)

    def look_through(self, camera: Camera) -> None:
        """The view becomes the camera's, everything in one place; its image spans the window's height."""
        self.view.cameras.apart_at_home |= self.view.side_by_side
        self.view.side_by_side = False
        self._home = self._home_key()  # else the view would go home, as it does whenever what is to be seen changes
        self._ps.set_vertical_fov_degrees(camera.fov_y_degrees)
        eye = camera.eye_world.numpy()
        self._ps.look_at_dir(eye, eye + camera.forward_world.numpy(), camera.up_world.numpy())

    def look_through_selected(self) -> None:
        selected = self.view.selected_camera(self.snapshot)
        if selected is not None:
            self.look_through(self.view.frustum.look.camera if self.view.frustum.look else selected.camera)

    def save_figure(self) -> None:
        """The scene as it stands, without panels, as a recipe and its picture, beside the checkpoint."""
        screen = Screen(self._view_camera(-1), self._ps.get_window_size(), self._layout().free, self._scale())
        self.view.notice = self.figures.save(
            self.view, self.snapshot, self.engine, screen,
            lambda path: self._ps.screenshot(str(path), transparent_bg=False, include_UI=False))

    def use_theme(self, name: str) -> None:
        self.view.theme = name
        theme.use(name)

    def change_scale(self, factor: float) -> None:
        self.view.scale = min(max(self.view.scale * factor, 0.7), 1.6)
