"""The real window on a recording, driven by keys and the mouse: the past in it, followed, and branched off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_run import FakeRun
from recording_files import RunBuilder
from test_branch import record, tiny_run
from test_window import Driven


@pytest.fixture(autouse=True)
def programs(need_programs: Callable[..., None]) -> None:
    need_programs("Xvfb", "xdotool")


@pytest.fixture
def drive(display: str, tmp_path: Path) -> Iterator[Callable[..., Driven]]:
    opened: list[Driven] = []

    def start(*options: str) -> Driven:
        opened.append(Driven(display, tmp_path / "out", *options))
        return opened[-1]

    yield start
    for driven in opened:
        if driven.process.poll() is None:
            driven.process.kill()
            driven.process.communicate()


def test_keys_and_the_scrubber_move_through_the_past(drive: Callable[..., Driven], tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path / "run.h5", FakeRun(8))
    builder.iterate(40)
    window = drive("--recording", str(builder.close()))
    assert window.state["iteration"] == 40 and window.state["source"] == "replay" and window.state["reached"] == 40
    window.key("Home", "Right")
    window.wait(lambda s: s["iteration"] == 1)
    window.key("End")
    window.wait(lambda s: s["iteration"] == 40 and "mesh" in s["fields"] and "target" in s["fields"])
    window.key("Left")
    window.wait(lambda s: s["iteration"] == 39)
    window.key("Home")
    window.wait(lambda s: s["iteration"] == 0)
    for _ in range(6):
        window.key("period")
    window.key("space")
    window.wait(lambda s: s["iteration"] == 40 and not s["playing"])
    window.click(500, 593)  # the scrubber's middle
    half = window.wait(lambda s: s["iteration"] < 30)["iteration"]
    assert 15 < half < 25
    window.tool("mousemove", "--window", window.window, "520", "593")
    window.tool("mousedown", "1")
    for x in (600, 700, 780):
        window.tool("mousemove", "--window", window.window, str(x), "593")
    window.wait(lambda s: 28 < s["iteration"] < 36)
    window.tool("mouseup", "1")
    window.key("ctrl+b")
    window.wait(lambda s: "needs the code that makes it" in s["notice"])
    window.key("ctrl+s")
    window.wait(lambda s: "branch from here" in s["notice"])
    assert not window.state["failed"] and window.close()[0] == 0 and not list((tmp_path / "out").glob("*.safetensors"))


def test_a_run_is_followed_and_a_branch_goes_on_from_it(drive: Callable[..., Driven], tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path / "run.h5", FakeRun(8))
    builder.iterate(5)
    window = drive("--recording", str(builder.path), "--follow")
    window.wait(lambda s: s["iteration"] == 5 and s["playing"] and s["source"] == "follow")
    builder.iterate(3)
    window.wait(lambda s: s["iteration"] == 8)
    window.key("Home")
    window.wait(lambda s: s["iteration"] == 0 and not s["playing"])
    builder.iterate(2)
    window.wait(lambda s: s["reached"] == 10)
    window.key("End")
    builder.iterate(1)
    window.wait(lambda s: s["iteration"] == 11 and s["playing"])
    builder.close()
    assert window.close()[0] == 0


def test_a_branch_takes_the_recordings_place(drive: Callable[..., Driven], tmp_path: Path) -> None:
    window = drive("--recording", str(record(tmp_path / "run.h5", tiny_run(), 3)))
    window.key("Left")
    window.wait(lambda s: s["iteration"] == 2)
    window.key("ctrl+b")
    window.wait(lambda s: s["source"] == "live" and s["title"] == "branched" and s["iteration"] == 2)
    window.key("Right")
    window.wait(lambda s: s["iteration"] == 3 and not s["playing"])
    code, out, _ = window.close()
    assert code == 0 and "iteration 3 saved in" in out
    assert (tmp_path / "out" / "branched" / "checkpoint.safetensors").read_text() == "3"
