"""The real window on a display of its own (Xvfb), driven by keys and clicks as a user would (xdotool)."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_run import FakeRun
from window_driver import TITLE

from workbench.app import open_window
from workbench.graphics import NoGraphics

TESTS = Path(__file__).parent
WAIT_SECS = 60.0


class Driven:
    """A window in a process of its own: its states by lines, keys and clicks to it."""

    def __init__(self, display: str, out: Path, *options: str) -> None:
        self._environment = {**os.environ, "DISPLAY": display, "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1",
                             "XDG_CONFIG_HOME": f"{out}-config"}  # no window shall read what another has kept
        self._environment.pop("WAYLAND_DISPLAY", None)
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "window_driver.py"), str(out), *options], cwd=TESTS.parent,
            env={**self._environment, "PYTHONPATH": str(TESTS.parent)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        self.state: dict[str, Any] = {}
        self._buffer = b""
        try:
            self.wait(lambda s: s["frames"] == 3)
            found = self.tool("search", "--sync", "--name", TITLE).split()
            self.window = found[-1]
            self.tool("windowfocus", self.window)
        except BaseException:
            self.process.kill()
            self.process.communicate()
            raise

    def tool(self, *arguments: str) -> str:
        done = subprocess.run(["xdotool", *arguments], env=self._environment, capture_output=True, text=True,
                              timeout=WAIT_SECS, check=True)
        return done.stdout

    def key(self, *names: str) -> None:
        for name in names:
            self.tool("key", "--delay", "40", name)

    def click(self, x: int, y: int) -> None:
        self.tool("mousemove", "--window", self.window, str(x), str(y))
        time.sleep(0.3)
        self.tool("mousedown", "1")
        time.sleep(0.15)
        self.tool("mouseup", "1")

    def wait(self, accept: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Reads states until one is accepted; the window's own errors are part of the failure."""
        deadline = time.monotonic() + WAIT_SECS
        while not (self.state and accept(self.state)):
            if not select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError(f"the state stayed {self.state}")
            part = os.read(self.process.stdout.fileno(), 65536)
            if not part:
                raise RuntimeError(self.process.stderr.read().decode())
            *lines, self._buffer = (self._buffer + part).split(b"\n")
            for line in lines:
                if line.startswith(b"{"):
                    self.state = json.loads(line)
                    if accept(self.state):
                        break
        return self.state

    def close(self, by: int = signal.SIGINT) -> tuple[int, str, str]:
        """Exit code and output after a signal."""
        self.process.send_signal(by)
        return self.ended()

    def ended(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=WAIT_SECS)
        return self.process.returncode, out.decode(), error.decode()


class ClientMessage(ctypes.Structure):
    """Xlib's XClientMessageEvent, with the room of the whole XEvent union."""

    _fields_ = [("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("send_event", ctypes.c_int),
                ("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("message_type", ctypes.c_ulong),
                ("format", ctypes.c_int), ("data", ctypes.c_long * 5), ("room", ctypes.c_long * 12)]


def press_close_button(display: str, window: int) -> None:
    """Sends what a window manager's close button sends; there is none on this display."""
    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype, x11.XInternAtom.argtypes = ctypes.c_ulong, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    x11.XSendEvent.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    connection = x11.XOpenDisplay(display.encode())
    message = ClientMessage(type=33, window=window, format=32)  # 33 is ClientMessage
    message.message_type = x11.XInternAtom(connection, b"WM_PROTOCOLS", 0)
    message.data[0] = x11.XInternAtom(connection, b"WM_DELETE_WINDOW", 0)
    x11.XSendEvent(connection, window, 0, 0, ctypes.byref(message))
    x11.XCloseDisplay(connection)


@pytest.fixture
def drive(display: str, tmp_path: Path) -> Iterator[Callable[..., Driven]]:
    opened: list[Driven] = []

    def start(*options: str) -> Driven:
        opened.append(Driven(display, tmp_path, *options))
        return opened[-1]

    yield start
    for driven in opened:
        if driven.process.poll() is None:
            driven.process.kill()
            driven.process.communicate()


@pytest.fixture(autouse=True)
def programs(need_programs: Callable[..., None], request: pytest.FixtureRequest) -> None:
    need_programs("Xvfb", "xdotool")


def test_a_breakpoint_is_typed_completed_and_hit(drive: Callable[..., Driven]) -> None:
    """Its name is completed by Tab, what is missing is typed after it, and Play stops where it holds."""
    window = drive()
    window.key("Right")
    window.wait(lambda s: s["iteration"] == 1)
    window.key("shift+b")
    time.sleep(0.5)
    window.tool("type", "--delay", "120", "los")
    window.wait(lambda s: s["typed"] == "los")
    window.key("Tab")
    window.wait(lambda s: s["typed"] == "loss" and s["panels"])
    time.sleep(0.5)
    window.tool("type", "--delay", "120", " < 0.8")
    window.wait(lambda s: s["typed"] == "loss < 0.8")
    window.key("Return")
    window.wait(lambda s: s["breakpoints"] == [["loss < 0.8", True, 0]] and s["typed"] == "")
    window.key("space")
    state = window.wait(lambda s: s["hits"] and not s["playing"])
    assert state["hits"] == [["update", 5]] and state["iteration"] == 5  # exp(-5 / 20) is the first below 0.8
    assert state["breakpoints"] == [["loss < 0.8", True, 1]] and not state["failed"]


def test_keys_step_play_pause_and_choose(drive: Callable[..., Driven], tmp_path: Path) -> None:
    window = drive()
    first = window.state
    assert first["iteration"] == 0 and not first["playing"] and first["panels"]
    window.key("shift+Right")
    assert window.wait(lambda s: s["stage_next"] == "render")["iteration"] == 0
    window.key("Right")
    window.wait(lambda s: s["iteration"] == 1 and s["stage_next"] == "sample_cameras")
    window.wait(lambda s: {"mesh", "voxels", "target", "rendered_depth"} <= set(s["fields"]))
    window.key("space")
    window.wait(lambda s: s["playing"] and s["iteration"] > 3)
    window.key("space")
    window.wait(lambda s: not s["playing"])
    window.key("bracketright")
    assert window.wait(lambda s: not s["following"])["camera"] == 1
    window.key("bracketleft")
    window.wait(lambda s: s["camera"] == 0)
    for key, what in (("g", "target"), ("1", "active"), ("5", "mesh")):
        assert what in window.state["layers"]
        window.key(key)
        window.wait(lambda s, what=what: what not in s["layers"])
    assert "sdf" not in window.state["layers"]
    window.key("9")
    window.wait(lambda s: "sdf" in s["layers"] and "corner_sdf" in s["fields"])
    for key, what in (("e", "difference"), ("Tab", "panels"), ("Tab", "panels"), ("question", "keys")):
        before = window.state[what]
        window.key(key)
        window.wait(lambda s, what=what, before=before: s[what] != before)
    window.key("ctrl+s")
    window.wait(lambda s: s["notice"].startswith("saved"))
    assert int((tmp_path / "checkpoint.safetensors").read_text()) == window.state["iteration"]
    code, out, _ = window.close()
    assert code == 0 and f"iteration {window.state['iteration']} saved" in out


def test_buttons_and_the_close_button(drive: Callable[..., Driven], tmp_path: Path, display: str) -> None:
    window = drive()
    window.click(242, 577)  # Stage, the fourth of the buttons
    window.wait(lambda s: s["stage_next"] == "render")
    window.click(308, 577)  # Iteration
    window.wait(lambda s: s["iteration"] == 1)
    window.click(105, 577)  # Stage back
    window.wait(lambda s: s["iteration"] == 0 and s["stage_next"] == "update")
    window.click(179, 577)  # Play
    window.wait(lambda s: s["playing"] and s["iteration"] > 2)
    press_close_button(display, int(window.window))
    code, _, _ = window.ended()
    assert code == 0 and int((tmp_path / "checkpoint.safetensors").read_text()) > 2


def test_sigterm_saves_like_ctrl_c(drive: Callable[..., Driven], tmp_path: Path) -> None:
    window = drive("--playing")
    window.wait(lambda s: s["iteration"] > 1)
    code, out, _ = window.close(signal.SIGTERM)
    assert code == 0 and "saved in" in out and int((tmp_path / "checkpoint.safetensors").read_text()) > 1


def test_closing_where_nothing_can_be_saved_is_a_line(drive: Callable[..., Driven], tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").mkdir()
    window = drive("--playing")
    window.wait(lambda s: s["iteration"] > 1)
    code, _, error = window.close()
    assert code == 1 and "not saved: " in error and "Traceback" not in error


def test_a_stage_that_does_not_end_is_told_and_nothing_saved(
    display: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", display)
    script = (
        "import sys, time; from fake_run import FakeRun; from workbench import app; app.STOP_SECS = 0.5\n"
        "run = FakeRun(8, stage_secs=20)\n"
        "try: app.open_window(run, title='x', out_dir=sys.argv[1], paused=False, size=(640, 400),\n"
        "                     scripted=lambda w: w.n_frames > 2 and w.snapshot.playing)\n"
        "except app.StageDidNotEnd as error: print(error, flush=True); import os; os._exit(5)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "LP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True,
                          text=True, timeout=WAIT_SECS)
    assert done.returncode == 5, done.stderr
    assert done.stdout == "not saved: stage sample_cameras did not end within 0.5 s\n" and not list(tmp_path.iterdir())


def test_a_dropped_file_takes_the_place_and_nothing_is_lost(drive: Callable[..., Driven], tmp_path: Path) -> None:
    window = drive("--drop", "other.obj", "second.obj")
    window.key("Right")
    state = window.wait(lambda s: s["title"] == "dropped" and s["iteration"] == 0)
    assert not state["playing"] and state["notice"] == "opened the first of 2 files"
    assert (tmp_path / "checkpoint.safetensors").read_text() == "1"
    window.key("Right")
    window.wait(lambda s: s["iteration"] == 1)
    code, out, _ = window.close()
    assert code == 0 and "iteration 1 saved in" in out
    assert (tmp_path / "dropped" / "checkpoint.safetensors").read_text() == "1"


def test_a_dropped_file_that_cannot_be_opened_is_a_line(drive: Callable[..., Driven]) -> None:
    window = drive("--drop", "notes.txt")
    window.key("Right")
    window.wait(lambda s: s["notice"] == "not opened: notes.txt: not a mesh")
    assert window.state["title"] == "workbench under test" and window.close()[0] == 0


def test_commands_by_name_theme_and_run_to(drive: Callable[..., Driven], tmp_path: Path) -> None:
    window = drive()
    window.key("ctrl+p")
    window.wait(lambda s: s["palette"])
    window.tool("type", "--delay", "60", "light or")
    window.key("Return")
    window.wait(lambda s: s["theme"] == "light" and not s["palette"])
    window.key("ctrl+p")
    window.wait(lambda s: s["palette"])
    window.key("Escape")
    window.wait(lambda s: not s["palette"])
    window.key("F")
    window.wait(lambda s: s["notice"].startswith("saved"))
    assert (tmp_path / "figure_000000.png").stat().st_size > 1000
    window.click(520, 577)  # Run to
    window.wait(lambda s: s["iteration"] == 100 and not s["playing"])
    window.key("Left")
    window.wait(lambda s: s["iteration"] == 99)
    window.key("Home")
    window.wait(lambda s: s["iteration"] < 99 and not s["playing"])
    window.key("End")
    window.wait(lambda s: s["iteration"] == 100 and not s["playing"])
    assert window.close()[0] == 0


def test_a_camera_is_placed_by_a_click_into_a_room(drive: Callable[..., Driven]) -> None:
    window = drive("--scene", "house")
    window.click(95, 24)  # the tab Cameras
    window.wait(lambda s: s["left"] == "Cameras")
    window.key("8")  # the layer of all cameras
    window.click(176, 131)  # Add inside…
    assert window.wait(lambda s: s["picking"])["rows"] == []
    window.click(640, 360)  # the target's roof
    state = window.wait(lambda s: s["own_cameras"] == 1 and s["cameras_drawn"] == 1)
    assert state["rows"] == ["fixed"] and not state["picking"] and not state["said"] and not state["following"]
    window.click(176, 153)  # Add inside… again, below the table's row now
    window.wait(lambda s: s["picking"])
    window.click(480, 480)  # nothing is there: it waits for another click
    window.click(176, 153)
    window.wait(lambda s: not s["picking"])
    assert window.state["own_cameras"] == 1 and not window.state["said"]
    window.key("Right")
    window.wait(lambda s: s["iteration"] == 1 and "fixed" in s["rows"])
    assert window.state["own_cameras"] == 1 and window.close()[0] == 0


def test_closed_untouched_nothing_is_written(drive: Callable[..., Driven], tmp_path: Path) -> None:
    code, _, _ = drive().close()
    assert code == 0 and not list(tmp_path.iterdir())


def test_a_failing_run_shows_and_exits_with_one(drive: Callable[..., Driven], tmp_path: Path) -> None:
    window = drive("--fail-at", "2", "--playing")
    state = window.wait(lambda s: s["failure"])
    assert state["failure"] == "ArithmeticError: the loss is not finite"
    code, _, error = window.close()
    assert code == 1 and "failed in render, iteration 2: ArithmeticError" in error
    assert (tmp_path / "checkpoint.safetensors").read_text() == "2"  # what was reached is not lost


@pytest.mark.parametrize(
    ("what", "error"), [("layers", "TypeError"), ("edited", "AttributeError"), ("table", "ArithmeticError")])
def test_a_failing_window_shows_and_exits_with_one(
    what: str, error: str, drive: Callable[..., Driven], tmp_path: Path
) -> None:
    """Spoiled layers fail while the main loop asks and updates, spoiled edits in the middle of a panel."""
    window = drive("--break-ui", what)
    window.key("Right")
    assert window.wait(lambda s: s["failed"])["failed"].startswith(error)
    frame = window.state["frames"]
    window.wait(lambda s: s["frames"] >= frame)
    code, _, error = window.close()
    assert code == 1 and "Traceback" in error
    assert (tmp_path / "checkpoint.safetensors").read_text() == "1"


def test_a_run_with_scalars_only(drive: Callable[..., Driven]) -> None:
    window = drive("--only-scalars", "--playing")
    window.wait(lambda s: s["iteration"] > 2)
    assert window.state["fields"] == [] and not window.state["failed"]
    assert window.close()[0] == 0


def test_no_display_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, display in (("unset", None), ("unreachable", ":4242")):
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        monkeypatch.delenv("DISPLAY", raising=False)
        if display is not None:
            monkeypatch.setenv("DISPLAY", display)
        with pytest.raises(NoGraphics, match="^no display: .*--headless works without one$"):
            open_window(FakeRun(), title=name, out_dir=tmp_path)


def test_two_what_ifs_are_compared_while_the_run_stands_still(drive: Callable[..., Driven]) -> None:
    window = drive()
    window.key("Right")
    window.wait(lambda s: s["iteration"] == 1 and s["stage_next"] == "sample_cameras")

    def command(words: str) -> None:
        window.key("ctrl+p")
        window.wait(lambda s: s["palette"])
        window.tool("type", "--delay", "40", words)
        window.key("Return")
        window.wait(lambda s: not s["palette"])

    command("planes by hand")
    window.wait(lambda s: s["planes"] == "hand")
    command("keep as A")
    window.wait(lambda s: s["kept"] == ["A"] and s["compared"])
    command("planes adapted here")
    window.wait(lambda s: s["planes"] == "adapted")
    command("keep as B")
    window.wait(lambda s: s["kept"] == ["A", "B"] and not s["failed"])
    command("drop A and B")
    window.wait(lambda s: s["kept"] == [] and not s["compared"])
    assert window.state["iteration"] == 1 and not window.state["playing"]
    assert window.close()[0] == 0
