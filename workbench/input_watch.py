"""InputWatch: tells, between two redraws and at no cost, whether somebody moves the mouse or presses a key (X11)."""

from __future__ import annotations

import ctypes
import ctypes.util


class InputWatch:
    """Looks at pointer, buttons and keys through a connection of its own to the X server.

    Polyscope reads its events only while it redraws, and a redraw in software is slow; so a window that redraws
    rarely would answer late without this. Where there is no X11, `poll` always says no.
    """

    def __init__(self) -> None:
        self._x11 = self._display = None
        self._last: tuple = ()
        try:
            x11 = ctypes.CDLL(ctypes.util.find_library("X11") or "libX11.so.6")
        except OSError:
            return
        x11.XOpenDisplay.restype = ctypes.c_void_p
        x11.XDefaultRootWindow.argtypes, x11.XDefaultRootWindow.restype = [ctypes.c_void_p], ctypes.c_ulong
        x11.XQueryKeymap.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
        x11.XDisplayHeight.argtypes = [ctypes.c_void_p, ctypes.c_int]
        x11.XDisplayWidth.argtypes = [ctypes.c_void_p, ctypes.c_int]
        x11.XQueryPointer.argtypes = [ctypes.c_void_p, ctypes.c_ulong] + [ctypes.c_void_p] * 7
        self._display = x11.XOpenDisplay(None)
        self._x11 = x11 if self._display else None
        self.poll()

    def screen_size(self) -> tuple[int, int] | None:
        """Width and height of the screen in pixels, or None where it isn't known."""
        if self._x11 is None:
            return None
        return self._x11.XDisplayWidth(self._display, 0), self._x11.XDisplayHeight(self._display, 0)

    def poll(self) -> bool:
        """Whether pointer, buttons or keys are other than at the last call."""
        if self._x11 is None:
            return False
        root_out, child_out = ctypes.c_ulong(), ctypes.c_ulong()
        x, y, window_x, window_y = (ctypes.c_int() for _ in range(4))
        mask = ctypes.c_uint()
        keys = ctypes.create_string_buffer(32)
        out = [ctypes.byref(value) for value in (root_out, child_out, x, y, window_x, window_y, mask)]
        self._x11.XQueryPointer(self._display, self._x11.XDefaultRootWindow(self._display), *out)
        self._x11.XQueryKeymap(self._display, keys)
        now = (x.value, y.value, mask.value, keys.raw)
        changed, self._last = now != self._last, now
        return changed

    def close(self) -> None:
        if self._x11 is not None:
            self._x11.XCloseDisplay(self._display)
            self._x11 = self._display = None
