"""Recording as users meet it: headless and from the command line, in the window, with a trainer of one's own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from fake_run import FakeRun
from fake_ui import FakeUi
from raw_recording import RawRecording
from test_nothing_lost import opened
from test_recorder import OFTEN, iterate

import workbench.app
import workbench.graphics
from workbench import cli, headless, theme
from workbench.inputs import open_what
from workbench.panels import status
from workbench.recording.policy import About, RecordStatus
from workbench.recording.recorder import Recorder, recording_into
from workbench.recording.states import state_of
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState

pytest_plugins = ("cli_fixtures",)
pytestmark = pytest.mark.usefixtures("no_display")
ROOT = Path(__file__).resolve().parent.parent


def test_a_fit_is_recorded_where_asked(scene, figures, capsys) -> None:
    assert cli.main(["fit", scene, "--headless", "--out", "plain"]) == 0
    assert not Path("plain/run.h5").exists()
    for name in ("run.h5", "run-2.h5"):
        assert cli.main(["fit", scene, "--headless", "--record", "--out", "f"]) == 0
        assert f"recorded {name}, " in capsys.readouterr().err
        raw = RawRecording(Path("f", name))
        raw.check()
        assert raw.iterations == [0, 1, 2, 3, 4] and [at for at, _ in raw.values("/state")] == [0, 4]
        assert raw.meta["name"] == "fit" and raw.meta["seed"] == 0 and raw.meta["config"]["resolution"] == 12
        assert len(raw.meta["input_from_normalized"]) == 4 and raw.meta["view"]["direction"]
        assert raw.column("secs_render").keys() == {1, 2, 3, 4}


def test_options_about_recording_are_checked(scene, figures, capsys) -> None:
    assert cli.main(["fit", scene, "--headless", "--record", "--no-record"]) == 2
    assert cli.main(["fit", scene, "--headless", "--record", "--record-limit", "-1"]) == 2
    said = capsys.readouterr().err
    assert "can't both be given" in said and "--record-limit must be above 0 gigabytes, got -1" in said


@pytest.mark.parametrize("command", ["view", "fit", "demo"])
def test_a_window_records_unless_told_not_to(command, scene, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr("workbench.system_check.has_display", lambda: True)
    monkeypatch.setattr(workbench.graphics, "check_graphics", lambda display=True: None)
    monkeypatch.setattr(workbench.app, "open_window", lambda run, **options: seen.append(options["record"]) or 0)
    what = [] if command == "demo" else [scene]
    for options in ([], ["--no-record"]):
        assert cli.main([command, *what, "--out", "w", *options]) == 0
    assert callable(seen[0]) and seen[1] is None
    recorder = seen[0](FakeRun(8))
    recorder.close()
    assert recorder.status.path == Path("w/run.h5").absolute() and recorder.status.closed


@pytest.mark.parametrize("how", ["error", "SIGINT", "SIGTERM", "at the last stage"])
def test_however_a_headless_run_ends_its_recording_ends_in_good_order(how, tmp_path, figures, capsys) -> None:
    class Interrupted(FakeRun):
        def run_stage(self, stage: str) -> None:
            super().run_stage(stage)
            if how != "error" and (self.iteration, stage) == ((4, "update") if how == "at the last stage"
                                                              else (3, "render")):
                os.kill(os.getpid(), signal.SIGTERM if how == "SIGTERM" else signal.SIGINT)

    run = Interrupted(8, fail_at=(3, "render") if how == "error" else None)
    record = recording_into(tmp_path, About(), OFTEN)
    if how == "error":
        with pytest.raises(ArithmeticError):
            headless.run_headless(opened(run), 9, tmp_path, record=record)
    else:
        assert headless.run_headless(opened(run), 9, tmp_path, record=record) in (130, 143)
    assert "recorded run.h5, " in capsys.readouterr().err
    raw = RawRecording(tmp_path / "run.h5")
    raw.check()
    last = 4 if how == "at the last stage" else 3
    assert raw.iterations == list(range(last + 1))
    assert (raw.values("/state")[-1][0] == last) == (how == "at the last stage")


def test_a_trainer_of_one_s_own_goes_on_from_its_keyframes(tmp_path) -> None:
    def make():
        return open_what(f"{ROOT}/workbench/docs/my_run.py:make_run").run

    run, straight = make(), make()
    recorder = Recorder(tmp_path / "run.h5", run, policy=OFTEN)
    iterate(run, recorder, 9)
    recorder.close()
    assert recorder.status.closed and not recorder.status.notes
    iterate(straight, count=12)
    raw = RawRecording(tmp_path / "run.h5")
    assert len(raw.values("error")) >= 4 and len(raw.values("mesh")) >= 4
    for at, value in raw.values("/state"):
        again = make()
        again.load_state_dict(state_of(value))
        assert again.iteration == at
        iterate(again, count=12 - at)
        assert torch.equal(again.corner_sdf, straight.corner_sdf), at


def test_a_run_without_fields_or_a_state_is_recorded(tmp_path) -> None:
    class Bare(FakeRun):
        def state_dict(self):
            raise NotImplementedError

    run = Bare(only_scalars=True)
    recorder = Recorder(tmp_path / "run.h5", run, policy=OFTEN)
    iterate(run, recorder, 3)
    recorder.close()
    assert recorder.status.notes == ("there are no keyframes, so no branches: NotImplementedError",)
    assert RawRecording(tmp_path / "run.h5").column("loss").keys() == {1, 2, 3}


class WideUi(FakeUi):
    width = 1200.0


@pytest.mark.parametrize(("recording", "words", "colour"), [
    (None, "", None),
    (RecordStatus(Path("/somewhere/run-2.h5"), 12, 21_300_000), "recording run-2.h5, 21.3 MB", theme.MUTED),
    (RecordStatus(Path("run.h5"), 12, 1, n_dropped=3), "recording run.h5, 0.0 MB, 3 dropped", theme.MUTED),
    (RecordStatus(Path("run.h5"), 12, 1, stopped="gone"), "recording stopped after iteration 12: gone", theme.BAD),
])
def test_the_status_line_tells_how_the_recording_stands(recording, words, colour) -> None:
    ui = WideUi()
    assert status.draw(ui, ViewState(), Snapshot(recording=recording)) == []
    texts = {call[2]: call[1][:3] for call in ui.calls if call[0] == "TextColored"}
    assert [text for text in texts if text.startswith("record")] == ([words] if words else [])
    if words:
        assert texts[words] == colour
        told = status.about_recording(recording)
        assert str(recording.path) in told and ("Dropped is what" in told) == bool(recording.n_dropped)
