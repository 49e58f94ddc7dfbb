"""Nothing is lost: errors, signals, no OpenGL, folders that vanish, and files of another run beside a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cli_fixtures import ROOT, SMALL, refused
from fake_run import FakeRun

from sparseflex.checkpoint import save_checkpoint
from sparseflex.data import load_mesh
from sparseflex.scene import ViewConfig
from workbench import cli, graphics, headless, inputs
from workbench.graphics import NoGraphics, start_polyscope
from workbench.headless import CHECKPOINT, FIGURE, MESH, METRICS
from workbench.inputs import InputError, Opened, open_what

pytest_plugins = ("cli_fixtures",)
pytestmark = pytest.mark.usefixtures("no_display")


def test_a_view_replaces_nothing_of_a_fit(scene, figures):
    assert cli.main(["fit", scene, "--headless", "--input-frame"]) == 0
    before = Path("recordings/small", METRICS).read_text()
    assert cli.main(["view", scene, "--headless"]) == 0
    assert Path("recordings/small", METRICS).read_text() == before
    assert sorted(path.name for path in Path("recordings/view/small").iterdir()) == sorted([FIGURE, METRICS])
    # into the fit's own folder, where asked: mesh.ply stays, and so does the frame it is in
    checkpoint = f"recordings/small/{CHECKPOINT}"
    assert cli.main(["view", checkpoint, "--headless", "--out", "recordings/small"]) == 0
    assert json.loads(Path("recordings/small", METRICS).read_text())["frame"] == "input"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: "no json", "it can't be read"),
        (lambda m: json.dumps([1]), "it can't be read"),
        (lambda m: json.dumps({**m, "input_from_normalized": [[1, 2], [3]]}), "is not used: expected sequence"),
        (lambda m: json.dumps({**m, "input_from_normalized": "x"}), "it is malformed"),
        (lambda m: json.dumps({**m, "input_from_normalized": [[0] * 4] * 4}), "can be inverted"),
        (lambda m: json.dumps({**m, "view": {"direction": 3}}), "direction must be three finite numbers"),
        (lambda m: json.dumps({**m, "view": 3}), "it is malformed"),
        (lambda m: json.dumps({**m, "name": "../up"}), "name and title must be texts"),
        (lambda m: json.dumps({**m, "title": None}), "name and title must be texts"),
        (lambda m: json.dumps({**m, "config": {**m["config"], "resolution": 16}}), "another run's, by its resolution"),
        (lambda m: json.dumps({**m, "target": {"vertices": 3, "faces": 1}}), "another run's, by its target"),
        (lambda m: json.dumps({key: value for key, value in m.items() if key != "name"}), "it is malformed: 'name'"),
    ],
)
def test_metrics_that_do_not_belong_are_ignored_with_a_line(scene, figures, capsys, spoil, words):
    save_checkpoint(CHECKPOINT, open_what(scene, device="cpu").run)
    headless.write_metrics(open_what(scene, device="cpu"), Path(), {})
    good = open_what(CHECKPOINT)
    assert good.name == "small" and not good.warnings
    Path(METRICS).write_text(spoil(json.loads(Path(METRICS).read_text())))
    found = open_what(CHECKPOINT)
    assert found.name == "checkpoint" and len(found.warnings) == 1 and words in found.warnings[0]
    said = refused(capsys, "fit", CHECKPOINT, "--headless", "--input-frame", "--out", "o")
    assert "so the frame of its input is unknown" in said
    Path(METRICS).unlink()
    assert not open_what(CHECKPOINT).warnings
    assert "is unknown" in refused(capsys, "fit", CHECKPOINT, "--headless", "--input-frame", "--out", "o")


def test_without_opengl_all_but_the_figure_is_kept(scene, figures, monkeypatch, capsys):
    """What no check foresees: the libraries are there, and OpenGL doesn't start."""

    def no_gl(opened, out):
        raise NoGraphics("OpenGL did not start: no driver")

    monkeypatch.setattr(headless, "write_figure", no_gl)
    assert cli.main(["fit", scene, "--headless", "--out", "o"]) == 1
    assert sorted(path.name for path in Path("o").iterdir()) == sorted([MESH, METRICS, CHECKPOINT])
    assert json.loads(Path("o", METRICS).read_text())["quality"]
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "no figure.png: OpenGL did not start: no driver"
    assert "fitted" in said.out and FIGURE not in said.out
    assert cli.main(["view", scene, "--headless", "--out", "v"]) == 1
    assert [path.name for path in Path("v").iterdir()] == [METRICS]
    assert capsys.readouterr().err == "no figure.png: OpenGL did not start: no driver\n"


def test_a_real_process_without_opengl_ends_in_one_line(tmp_path):
    """Polyscope, left half-initialized, must not crash the process on its way out."""
    (tmp_path / "small.toml").write_text(SMALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "__EGL_VENDOR_LIBRARY_FILENAMES": "/dev/null"}
    command = [sys.executable, "-m", "workbench", "view", "small.toml", "--headless"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("no figure.png: OpenGL did not start: ")
    assert (tmp_path / "recordings/view/small" / METRICS).exists()


def test_polyscope_that_does_not_start_is_no_graphics(monkeypatch):
    import polyscope as ps

    def init(backend):
        raise RuntimeError("ERROR:\n no GL")

    monkeypatch.setattr(ps, "is_initialized", lambda: False)
    monkeypatch.setattr(ps, "init", init)
    monkeypatch.setattr(graphics.atexit, "register", lambda *_: None)
    with pytest.raises(NoGraphics, match="^OpenGL did not start: ERROR: no GL; see `workbench doctor`$"):
        start_polyscope("x", headless=True)


def test_a_run_that_still_changes_is_not_written(scene, monkeypatch, capsys):
    import workbench.app
    import workbench.graphics

    def open_window(run, **_):
        run.run_iteration()
        raise workbench.app.StageDidNotEnd("not saved: stage render did not end within 15 s")

    monkeypatch.setattr("workbench.system_check.has_display", lambda: True)
    monkeypatch.setattr(workbench.graphics, "check_graphics", lambda display=True: None)
    monkeypatch.setattr(workbench.app, "open_window", open_window)
    assert cli.main(["fit", scene, "--out", "f"]) == 1 and not list(Path("f").iterdir())
    assert capsys.readouterr().err == "workbench: not saved: stage render did not end within 15 s\n"


def opened(run) -> Opened:
    return Opened(run, "mine", "Mine", ViewConfig(), torch.eye(4, dtype=torch.float64))


def test_an_error_of_the_run_leaves_its_state(tmp_path, figures, capsys):
    with pytest.raises(ArithmeticError):
        headless.run_headless(opened(FakeRun(8, fail_at=(3, "render"))), 9, tmp_path)
    assert (tmp_path / CHECKPOINT).exists()
    assert f"the state is in {tmp_path / CHECKPOINT}" in capsys.readouterr().err


def test_a_folder_that_vanishes_hides_no_error_and_ends_in_one(tmp_path, figures, capsys):
    """The folder is a file by the time that the run ends, as it could be any path that can't be written."""

    class Vanishing(FakeRun):
        def run_stage(self, stage):
            super().run_stage(stage)
            if (self.iteration, stage) == (1, "sample_cameras"):
                (tmp_path / "o").write_text("")

    with pytest.raises(ArithmeticError):
        headless.run_headless(opened(Vanishing(8, fail_at=(2, "render"))), 9, tmp_path / "o")
    said = capsys.readouterr().err
    assert "not saved: " in said and "stopped by an error in iteration 2\n" in said and "Traceback" not in said
    (tmp_path / "o").unlink()
    assert headless.run_headless(opened(Vanishing(8)), 3, tmp_path / "o") == 1
    said = capsys.readouterr().err
    assert "not saved: " in said and "not written: " in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_between_stages_leaves_everything(tmp_path, figures, capsys, number, code):
    class Interrupted(FakeRun):
        def run_stage(self, stage):
            super().run_stage(stage)
            if (self.iteration, stage) == (3, "render"):
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    assert headless.run_headless(opened(Interrupted(8)), 50, tmp_path) == code
    assert signal.getsignal(number) is before
    assert (tmp_path / CHECKPOINT).exists() and load_mesh(tmp_path / MESH).mesh.n_faces > 0
    metrics = json.loads((tmp_path / METRICS).read_text())
    assert metrics["finished"] is False and metrics["iteration"] == 3
    assert f"stopped at iteration 3 of 50; saved {tmp_path / CHECKPOINT}" in capsys.readouterr().err


def test_ctrl_c_of_a_real_process(tmp_path):
    """A whole process, as a user has it: 130, a checkpoint that opens, no traceback."""
    (tmp_path / "small.toml").write_text(SMALL.replace("iterations = 4", "iterations = 100000"))
    command = [sys.executable, "-m", "workbench", "fit", str(tmp_path / "small.toml"), "--headless", "--out", "o"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with open(tmp_path / "err", "w") as errors:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=errors)
        limit = time.monotonic() + 60
        while "loss" not in (tmp_path / "err").read_text() and time.monotonic() < limit:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    said = (tmp_path / "err").read_text()
    assert "stopped at iteration" in said and "Traceback" not in said
    run = open_what(str(tmp_path / "o" / CHECKPOINT)).run
    assert run.iteration > 0
    run.run_iteration()


def test_metrics_hold_no_nan(tmp_path):
    run = FakeRun(8, only_scalars=True)
    run._scalars = {"loss": float("nan"), "near": float("inf")}
    headless.write_metrics(opened(run), tmp_path, {})
    assert json.loads((tmp_path / METRICS).read_text())["scalars"] == {"loss": None, "near": None}


def test_scene_folders_are_found_in_a_checkout():
    assert ROOT / "scenes" in inputs.scene_folders()


def test_input_errors_are_one_line():
    with pytest.raises(InputError, match="^a b$"), inputs.input_errors():
        raise ValueError("a\n  b")


def test_a_look_leaves_what_another_saved_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = inputs.view_folder("ball")
    assert first == inputs.view_folder("ball") == Path("recordings/view/ball")  # nothing saved there yet
    (first / CHECKPOINT).touch()
    second = inputs.view_folder("ball")
    assert second == Path("recordings/view/ball-2") and second.is_dir()
    assert inputs.free_folder(first, [second]) == Path("recordings/view/ball-3")


def test_a_folder_that_nothing_was_written_to_goes_again(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    at_exit = []
    monkeypatch.setattr("atexit.register", lambda *call: at_exit.append(call))
    for name in ("there", "empty", "used"):
        inputs.writable_folder(tmp_path / name)
    (tmp_path / "used" / "file").touch()
    for function, *arguments in at_exit:
        function(*arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"there", "used"}
