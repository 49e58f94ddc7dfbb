"""Graphics: what must be there before a window or a figure can be drawn, and how Polyscope is set up for both."""

from __future__ import annotations

import atexit
import os
import sys

import numpy as np

from workbench import system_check, theme
from workbench.system_check import WINDOW_NEEDS, install_command, missing, package_manager


class NoGraphics(RuntimeError):
    """No window or figure can be drawn on this machine; the message is one line and says what would help."""


def check_graphics(display: bool = True) -> None:
    """Raises NoGraphics where Polyscope would crash or fail: libraries missing, or no display to open a window on."""
    lacking = missing(WINDOW_NEEDS) if sys.platform.startswith("linux") else []
    if lacking:
        names = ", ".join(need.name for need in lacking)
        raise NoGraphics(f"missing on this system: {names}; run: {install_command(lacking, package_manager())}")
    if display and sys.platform.startswith("linux") and not system_check.has_display():
        named = [f"{name}={os.environ[name]}" for name in ("DISPLAY", "WAYLAND_DISPLAY") if os.environ.get(name)]
        said = f"{' and '.join(named)} can't be opened" if named else "neither DISPLAY nor WAYLAND_DISPLAY is set"
        raise NoGraphics(f"no display: {said}; --headless works without one")


def start_polyscope(title: str, headless: bool = False) -> None:
    """Sets Polyscope up for this project, once a process: quiet, no panels of its own, y up, dark, no floor.

    Raises NoGraphics where OpenGL doesn't start, which no check of libraries can foresee.
    """
    # here, not above: the libraries must be checked before Polyscope is loaded
    import polyscope as ps
    import polyscope.imgui as psim
    import polyscope.implot as implot

    if ps.is_initialized():
        return
    ps.set_use_prefs_file(False)
    ps.set_verbosity(0)
    ps.set_print_prefix("")
    ps.set_program_name(title)
    ps.set_ui_scale(1.0)
    ps.set_allow_headless_backends(headless)
    ps.set_configure_imgui_style_callback(lambda: theme.apply(psim, implot))
    try:
        ps.init("openGL3_egl" if headless else "openGL3_glfw")
    except RuntimeError as error:
        # else the process would end in a crash: Polyscope lets go of the callback only after Python is gone
        ps.clear_configure_imgui_style_callback()
        # and on exit it complains that it was never initialized; handlers run last in, first out
        atexit.register(setattr, sys, "unraisablehook", lambda _: None)
        reason = " ".join(str(error).split()) or "no reason given"
        raise NoGraphics(f"OpenGL did not start: {reason}; see `workbench doctor`") from None
    ps.set_frame_tick_limit_fps_mode("ignore_limits")
    ps.set_build_default_gui_panels(False)
    ps.set_open_imgui_window_for_user_callback(False)
    ps.set_ground_plane_mode("none")
    ps.set_up_dir("y_up")
    ps.set_front_dir("z_front")
    ps.set_autocenter_structures(False)
    ps.set_autoscale_structures(False)
    ps.set_automatically_compute_scene_extents(False)
    ps.set_length_scale(1.0)
    ps.set_bounding_box((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))
    ps.set_transparency_mode("none")
    ps.set_background_color(theme.linear(theme.BACKGROUND))
    # Voxel grids leave OpenGL culling faces, and lines, drawn first the next time, then lack pixels. Surface meshes set
    # it back and are drawn last: one without an area sees to it that every picture begins alike.
    ps.register_surface_mesh("drawn last", np.zeros((3, 3)), np.array([[0, 1, 2]]))


def default_size(screen: tuple[int, int] | None) -> tuple[int, int]:
    """Nine tenths of the screen, at least what fits, at most 2560 x 1440; 1600 x 900 where the screen is unknown."""
    if screen is None:
        return 1600, 900
    return min(max(int(0.9 * screen[0]), 1280), screen[0], 2560), min(max(int(0.9 * screen[1]), 720), screen[1], 1440)
