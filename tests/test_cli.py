"""The command line: what it writes, its exit codes, and that bad input gets one clear line and loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_fixtures import ROOT, SMALL, refused

from sparseflex.data import load_mesh, save_mesh
from sparseflex.mesh import Mesh
from sparseflex.shapes import solids
from workbench import bench, cli, graphics
from workbench.headless import CHECKPOINT, FIGURE, MESH, METRICS
from workbench.inputs import InputError

pytest_plugins = ("cli_fixtures",)
pytestmark = pytest.mark.usefixtures("no_display")


# what works


def test_fit_headless_writes_everything(scene, figures, capsys):
    assert cli.main(["fit", scene, "--headless", "--out", "o/deep", "--device", "cpu"]) == 0
    out = Path("o/deep")
    assert sorted(path.name for path in out.iterdir()) == sorted([MESH, FIGURE, METRICS, CHECKPOINT])
    metrics = json.loads((out / METRICS).read_text())
    assert (metrics["name"], metrics["iteration"], metrics["finished"]) == ("small", 4, True)
    assert metrics["frame"] == "normalized"
    assert metrics["config"]["resolution"] == 12 and metrics["scalars"]["loss"] > 0
    assert list(metrics["quality"]) == ["fitted", "untrained", "exact_sdf"]
    assert torch.tensor(metrics["input_from_normalized"]).shape == (4, 4)
    said = capsys.readouterr()
    for name in (MESH, FIGURE, METRICS, CHECKPOINT):
        assert str(out / name) in said.out
    assert "fit small" in said.err and "loss" in said.err and "voxels" in said.err


def test_flags_win_over_the_scene_and_the_default_folder_has_its_name(scene, figures):
    assert cli.main(["fit", scene, "--headless", "--iterations", "2", "--resolution", "10", "--seed", "7",
                     "--visibility-ratio", "0.5"]) == 0
    config = json.loads(Path("recordings/small", METRICS).read_text())["config"]
    assert (config["iterations"], config["resolution"], config["seed"], config["visibility_ratio"]) == (2, 10, 7, 0.5)


def test_view_headless_never_trains(scene, figures):
    assert cli.main(["view", scene, "--headless", "--out", "o"]) == 0
    assert sorted(path.name for path in Path("o").iterdir()) == sorted([FIGURE, METRICS])
    assert "frame" not in json.loads(Path("o", METRICS).read_text())  # there is no mesh.ply
    metrics = json.loads(Path("o", METRICS).read_text())
    assert metrics["iteration"] == 0 and list(metrics["quality"]) == ["untrained", "exact_sdf"]


def test_a_checkpoint_is_viewed_and_gone_on_with(scene, figures, capsys):
    assert cli.main(["fit", scene, "--headless", "--out", "o"]) == 0
    first = json.loads(Path("o", METRICS).read_text())
    assert cli.main(["view", f"o/{CHECKPOINT}", "--headless", "--out", "v"]) == 0
    seen = json.loads(Path("v", METRICS).read_text())
    for key in ("name", "iteration", "scalars", "config", "input_from_normalized", "view"):
        assert seen[key] == first[key], key
    assert seen["quality"]["fitted"] == first["quality"]["fitted"]
    assert cli.main(["fit", f"o/{CHECKPOINT}", "--headless", "--iterations", "6", "--out", "w"]) == 0
    assert json.loads(Path("w", METRICS).read_text())["iteration"] == 6
    capsys.readouterr()
    said = refused(capsys, "fit", f"o/{CHECKPOINT}", "--headless", "--iterations", "4", "--out", "w")
    assert said == "--iterations must be above 4, which small has reached, got 4"


def test_the_input_frame_is_that_of_the_file(figures, tmp_path):
    vertices, faces = solids.sphere(10.0, 2)
    save_mesh("ball.obj", Mesh(torch.from_numpy(vertices + [5, 0, 0]), torch.from_numpy(faces)))
    flags = ["--headless", "--resolution", "12", "--iterations", "2", "--up", "z"]
    assert cli.main(["fit", "ball.obj", "--out", "a", "--input-frame", *flags]) == 0
    assert cli.main(["fit", "ball.obj", "--out", "b", *flags]) == 0
    moved, normal = load_mesh("a/mesh.ply"), load_mesh("b/mesh.ply")
    centre = moved.input_from_normalized[:3, 3]
    assert torch.allclose(centre, torch.tensor([5.0, 0, 0]).double(), atol=2.0) and centre[0] > 3
    assert float(moved.input_from_normalized[:3, :3].norm()) > 15 * float(normal.input_from_normalized[:3, :3].norm())


def test_eval_compares_in_the_targets_frame(scene, figures, capsys):
    vertices, faces = solids.sphere(3.0, 3)
    save_mesh("ball.ply", Mesh(torch.from_numpy(vertices + 7), torch.from_numpy(faces)))
    flags = ["--headless", "--resolution", "12", "--iterations", "2"]
    cli.main(["fit", "ball.ply", "--out", "a", "--input-frame", *flags])
    cli.main(["fit", "ball.ply", "--out", "b", *flags])
    capsys.readouterr()
    rows = []
    for folder in "ab":
        assert cli.main(["eval", f"{folder}/{MESH}", "ball.ply", "--json"]) == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert [row["frame"] for row in rows] == ["same", "normalized"]
    assert rows[0]["chamfer"] == pytest.approx(rows[1]["chamfer"], rel=1e-3) and rows[0]["resolution"] == 12
    fitted = json.loads(Path("b", METRICS).read_text())["quality"]["fitted"]
    assert rows[1]["f_score_0.01"] == pytest.approx(fitted["f_score_0.01"], abs=0.02)
    assert cli.main(["eval", "ball.ply", "ball.ply"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[0] == "chamfer" and float(said[1].split()[1]) < 1e-6


@pytest.mark.parametrize("config", [3, [1], {"resolution": "many"}, {"resolution": None}, {"resolution": 0}])
def test_eval_beside_metrics_of_something_else(figures, capsys, config):
    vertices, faces = solids.sphere(1.0, 2)
    save_mesh("ball.ply", Mesh(torch.from_numpy(vertices), torch.from_numpy(faces)))
    Path(METRICS).write_text(json.dumps({"config": config, "frame": 5}))
    assert cli.main(["eval", "ball.ply", "ball.ply", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["resolution"], said["frame"]) == (64, "same")


def test_scenes_lists_them_all(capsys):
    assert cli.main(["scenes"]) == 0
    said = capsys.readouterr().out
    for path in (ROOT / "scenes").glob("*.toml"):
        assert f"\n{path.stem}  " in "\n" + said


def test_bench_runs_what_is_named(capsys, monkeypatch, tmp_path):
    for name, value, ok in (("one", 0.5, True), ("two", 3.0, False)):
        row = {"name": f"number {name}", "value": value, "unit": "x", "reach": "<= 1", "ok": ok}
        (tmp_path / f"bench_of_{name}.py").write_text(f"def rows(): return [{row}]\n")
    monkeypatch.setattr(bench.run_benchmarks, "__defaults__", (tmp_path,))
    assert cli.main(["bench", "of_two"]) == 0
    said = capsys.readouterr().out.split()
    assert said == ["of_two", "number", "two", "3", "x", "<=", "1", "missed"]
    assert cli.main(["bench", "--json"]) == 0
    assert [row["ok"] for row in json.loads(capsys.readouterr().out)] == [True, False]
    assert "no benchmark 'three'; there are of_one, of_two" in refused(capsys, "bench", "three")


def test_the_benchmarks_of_the_project_are_found():
    assert "extraction" in bench.benchmark_names(bench.FOLDER)
    with pytest.raises(InputError, match="needs a checkout"):
        bench.run_benchmarks([], False, Path("nowhere"))


def test_demo_runs_headless_without_a_display(figures, monkeypatch, capsys, scene):
    monkeypatch.setattr(cli, "DEMO_SCENE", scene)
    assert cli.main(["demo"]) == 0
    assert "no display: the demo runs headless" in capsys.readouterr().out
    assert Path("recordings/demo", MESH).exists()


def test_the_demo_scene_is_one_of_the_bundled():
    assert (ROOT / "scenes" / f"{cli.DEMO_SCENE}.toml").exists()


def test_with_a_display_the_window_opens(figures, monkeypatch, scene):
    """The window itself is the business of test_app.py; here: what it is opened with, and what is left afterwards."""
    import workbench.app
    import workbench.graphics

    seen = []

    def open_window(run, *, title, out_dir, paused, home, opener, **_):
        seen.append((title, Path(out_dir), paused))
        run.run_iteration()
        dropped = [opener(scene) for _ in range(2)]
        assert [subject.out_dir.name for subject in dropped] == ["small", "small-2"]
        dropped[1].run.run_iteration()
        with pytest.raises(ValueError, match="^nowhere.obj: no such file"):
            opener("nowhere.obj")
        return 0

    monkeypatch.setattr("workbench.system_check.has_display", lambda: True)
    monkeypatch.setattr(workbench.graphics, "check_graphics", lambda display=True: None)
    monkeypatch.setattr(workbench.app, "open_window", open_window)
    assert cli.main(["fit", scene, "--out", "f"]) == 0 and cli.main(["view", scene, "--out", "v"]) == 0
    assert seen == [("small", Path("f"), False), ("small", Path("v"), True)]
    assert Path("small-2", MESH).exists() and not Path("small", MESH).exists()  # one was trained, one looked at
    assert Path("f", MESH).exists() and json.loads(Path("f", METRICS).read_text())["finished"] is None


def test_a_benchmark_that_cannot_run_is_a_row(capsys, monkeypatch, tmp_path):
    row = {"name": "number", "value": 1.0, "unit": "x", "reach": "<= 1", "ok": True}
    (tmp_path / "bench_broken.py").write_text("import no_such_module_here\n")
    (tmp_path / "bench_works.py").write_text(f"def rows(): return [{row}]\n")
    monkeypatch.setattr(bench.run_benchmarks, "__defaults__", (tmp_path,))
    assert cli.main(["bench"]) == 0
    said = capsys.readouterr().out
    assert "  skipped: No module named 'no_such_module_here'\n" in said and "number" in said
    assert cli.main(["bench", "--json"]) == 0
    assert [row["value"] for row in json.loads(capsys.readouterr().out)] == [None, 1.0]


# one's own trainer

OWN = """
import sys
sys.path.insert(0, {tests!r})
from cli_fixtures import ROOT, SMALL, refused
from fake_run import FakeRun
def make_run(): return FakeRun(resolution=8)
def no_run(): return object()
"""


def test_a_trainer_of_ones_own(figures, capsys, monkeypatch):
    Path("mine.py").write_text(OWN.format(tests=str(ROOT / "tests")))
    assert cli.main(["fit", "mine.py:make_run", "--headless", "--iterations", "3", "--out", "o"]) == 0
    assert json.loads(Path("o", METRICS).read_text())["iteration"] == 3 and load_mesh("o/mesh.ply").mesh.n_faces > 10
    capsys.readouterr()
    command = ["fit", "mine.py:make_run", "--headless", "--out", "o"]
    assert "--device does not apply to a trainer" in refused(capsys, *command, "--iterations", "3", "--device", "cpu")
    assert "--input-frame does not apply to" in refused(capsys, *command, "--iterations", "3", "--input-frame")
    for number in ("0", "-4"):
        said = refused(capsys, *command, "--iterations", number)
        assert said == f"--iterations must be a whole number in [1, inf), got {number}"
    monkeypatch.setattr("workbench.system_check.has_display", lambda: True)
    said = refused(capsys, "fit", "mine.py:make_run", "--iterations", "3", "--out", "o")
    assert said == "--iterations applies to a trainer of one's own with --headless only"
    assert "name one with --iterations" in refused(capsys, "fit", "mine.py:make_run", "--headless", "--out", "o")
    assert "lacks name, stages, iteration" in refused(capsys, "view", "mine.py:no_run", "--headless")
    assert "has no function 'make'; it has" in refused(capsys, "view", "mine.py:make", "--headless")
    assert "mine.py:make_run" in refused(capsys, "view", "mine.py", "--headless")
    assert "none.py: no such file" in refused(capsys, "view", "none.py:make_run", "--headless")
    said = refused(capsys, "fit", "mine.py:make_run", "--headless", "--resolution", "9")
    assert said == "--resolution does not apply to a trainer of one's own"


# bad input

BAD = {
    "no such file": (["fit", "no.obj"], "no.obj: no such file"),
    "no such scene": (["fit", "hause"], "hause: no such file, and no scene of that name; scenes are"),
    "not a mesh": (["fit", "text.ply"], "text.ply: not a readable .ply mesh"),
    "another type": (["fit", "text.txt"], "text.txt: unknown type '.txt'; allowed are .toml (a scene), .obj"),
    "empty": (["fit", "empty.obj"], "empty.obj: holds no triangles"),
    "NaN": (["fit", "nan.obj"], "nan.obj: 1 of 3 vertices are NaN or infinite, the first is vertex 1"),
    "degenerate": (["fit", "line.obj"], "line.obj: every triangle is degenerate"),
    "zero extent": (["fit", "point.obj"], "point.obj: the bounding box has zero extent"),
    "unknown scene key": (["fit", "bad.toml"], "bad.toml [fit]: unknown key 'resolutoin'; allowed are"),
    "scene key out of range": (["fit", "far.toml"], "far.toml [fit]: visibility_ratio must be in (0, 1], got 3"),
    "resolution 0": (["fit", "small.toml", "--resolution", "0"],
                     "resolution must be a whole number in [4, 4096], got 0"),
    "absurd resolution": (["fit", "small.toml", "--resolution", "90000"], "resolution 90000 would take about"),
    "ratio 0": (["fit", "small.toml", "--visibility-ratio", "0"], "visibility_ratio must be in (0, 1], got 0"),
    "ratio above 1": (["fit", "small.toml", "--visibility-ratio", "1.5"],
                      "visibility_ratio must be in (0, 1], got 1.5"),
    "overflowing resolution": (["fit", "small.toml", "--resolution", str(10**110)],
                               "resolution of 111 digits would take about more than a billion PB of memory"),
    "endless resolution": (["fit", "small.toml", "--resolution", str(10**400)],
                           "resolution of 401 digits would take about more than a billion PB of memory"),
    "endless seed": (["fit", "small.toml", "--seed", str(10**400)], "seed must be a number below 2^63, got one of 401"),
    "NaN ratio": (["fit", "small.toml", "--visibility-ratio", "nan"], "visibility_ratio must be in (0, 1], got nan"),
    "iterations 0": (["fit", "small.toml", "--iterations", "0"],
                     "iterations must be a whole number in [1, "),
    "negative iterations": (["fit", "small.toml", "--iterations", "-3"],
                            "iterations must be a whole number in [1, "),
    "negative seed": (["fit", "small.toml", "--seed", "-1"], "seed must be a whole number in [0, "),
    "up of a shape": (["fit", "small.toml", "--up", "z"], "small.toml [target]: up applies to mesh files"),
    "no device": (["fit", "small.toml", "--device", "gpu"],
                  "--device must be one of auto, cpu, cuda, cuda:N, got 'gpu'"),
    "no checkpoint": (["fit", "no.safetensors"], "no.safetensors"),
    "broken checkpoint": (["fit", "text.safetensors"], "text.safetensors"),
    "resolution of a checkpoint": (["fit", "text.safetensors", "--resolution", "8"],
                                   "--resolution does not apply to a checkpoint"),
}


@pytest.fixture
def bad_files():
    Path("small.toml").write_text(SMALL)
    for suffix in ("ply", "txt", "safetensors"):
        Path(f"text.{suffix}").write_text("hello\n")
    Path("empty.obj").write_text("")
    Path("nan.obj").write_text("v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n")
    Path("line.obj").write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    Path("point.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    Path("bad.toml").write_text(SMALL + "resolutoin = 3\n")
    Path("far.toml").write_text(SMALL + "visibility_ratio = 3\n")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_exit_code_2(case, bad_files, capsys):
    arguments, said = BAD[case]
    assert said in refused(capsys, *arguments, "--headless", "--out", "o")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_where_asked_for(scene, capsys):
    assert "finds no CUDA device" in refused(capsys, "fit", scene, "--headless", "--device", "cuda")


def test_fit_without_a_display_says_headless(scene, capsys):
    assert refused(capsys, "fit", scene).endswith("add --headless to fit without one")
    assert "--headless" in refused(capsys, "view", scene)


def test_a_folder_that_cannot_be_written_is_told_before_any_work(scene, capsys, monkeypatch):
    monkeypatch.setattr(cli, "open_what", lambda *_, **__: pytest.fail("work was begun"))
    Path("file").touch()
    assert "--out file/o: can't be written to" in refused(capsys, "fit", scene, "--headless", "--out", "file/o")
    assert "--out file: can't be written to" in refused(capsys, "fit", scene, "--headless", "--out", "file")
    assert "--out /proc/o: can't be written to" in refused(capsys, "fit", scene, "--headless", "--out", "/proc/o")
    assert "--out /proc: can't be written to" in refused(capsys, "fit", scene, "--headless", "--out", "/proc")


def test_missing_graphics_are_told_before_any_work(scene, capsys, monkeypatch):
    def lacking(display=True):
        raise graphics.NoGraphics("missing on this system: libEGL.so.1; run: apt-get install -y libegl1")

    monkeypatch.setattr(graphics, "check_graphics", lacking)
    said = refused(capsys, "fit", scene, "--headless")
    assert said == "missing on this system: libEGL.so.1; run: apt-get install -y libegl1"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["fit"], ["fit", "a", "b"], ["fit", "a", "--resolution", "x"],
                                       ["fit", "a", "--no-such-flag"]])
def test_bad_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_warnings_are_told_and_no_errors(figures, capsys):
    vertices, faces = solids.sphere(1.0, 2)
    faces = faces.copy()
    faces[3] = faces[3, ::-1]
    save_mesh("m.obj", Mesh(torch.from_numpy(vertices), torch.from_numpy(faces)))
    with open("m.obj", "a") as file:
        file.write("f 1 1 2\n")
    assert cli.main(["view", "m.obj", "--headless", "--resolution", "8", "--out", "o"]) == 0
    said = capsys.readouterr().err
    assert "m: 1 triangles without area were dropped" in said and "m: 3 edges join triangles" in said
