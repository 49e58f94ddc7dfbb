"""Two runs side by side: B goes where A goes, both are drawn and compared, and nothing of B is left behind."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_fixtures import SMALL, refused
from fake_run import FakeRun, icosphere_like
from fake_ui import FakeUi
from fit_snapshots import small_fit, snapshot_of

from sparseflex.checkpoint import save_checkpoint
from sparseflex.data import save_mesh, transform_mesh
from workbench import cli
from workbench.cli_pair import make_pair, open_side
from workbench.commands import NextIteration, RunIterations
from workbench.engine import Engine
from workbench.graphics import start_polyscope
from workbench.layout import paired
from workbench.pair import PREFIX, Pair, both_distances, frame_between
from workbench.panels import layers, plots
from workbench.panels import pair as pair_panel
from workbench.plot_axes import MAX_DASHES, dashed
from workbench.recording.reader import Recording
from workbench.scene_parts.cuts import _present
from workbench.snapshot import History, MeshArrays, Snapshot
from workbench.surface_view import DIFFERENCE, DISTANCE
from workbench.view_state import LAYERS, ViewState

ps = pytest.importorskip("polyscope")
TESTS = Path(__file__).parent
WAIT_SECS = 30.0


def arrays(n_rows: int, radius: float) -> MeshArrays:
    mesh = icosphere_like(n_rows, radius)
    return MeshArrays(mesh.vertices.numpy(), mesh.faces.numpy().astype(np.int32))


class Still:
    """A source that shows one snapshot and notes what it is sent."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.shown, self.sent = snapshot, []
        self.snapshots = self

    def latest(self) -> Snapshot:
        return self.shown

    def send(self, command: Any) -> None:
        self.sent.append(command)


@pytest.fixture(scope="module")
def fake() -> Snapshot:
    return snapshot_of(FakeRun(12), RunIterations(2), iteration=2)


def pair_of(snapshot: Snapshot, **options: Any) -> Pair:
    return Pair(Still(snapshot), "the other", **options)


# How B follows


def test_b_goes_where_a_goes():
    pair = Pair(Engine(FakeRun(8)), "B")
    pair.source.start()
    try:
        for wanted in (3, 1, 2):
            pair.follow(Snapshot(iteration=wanted))
            found = pair.source.snapshots.wait_for(lambda s, n=wanted: s.iteration == n and not s.playing, WAIT_SECS)
            assert not found.notice
        pair.align(False)
        pair.follow(Snapshot(iteration=5))
        pair.source.send(NextIteration())  # after which anything sent before would have been done
        assert pair.source.snapshots.wait_for(lambda s: s.iteration == 3 and not s.playing, WAIT_SECS)
    finally:
        assert pair.source.stop()


def test_b_is_sent_once_for_each_place_of_a(fake):
    pair = pair_of(fake)
    for iteration in (2, 2, 7, 7, 8):
        pair.follow(Snapshot(iteration=iteration))
    assert [command.iteration for command in pair.source.sent] == [7, 8]
    fixed = pair_of(fake, moves=False)
    fixed.follow(Snapshot(iteration=7))
    assert fixed.source.sent == []


def test_the_scene_asks_b_for_what_it_shows(fake):
    pair = pair_of(dataclasses.replace(fake, asked=frozenset()))
    pair.ask(True)
    assert pair.source.sent[-1].names == pair.view.scene_fields(fake) >= {"voxels", "mesh"}
    pair.ask(True)
    assert len(pair.source.sent) == 1  # under way
    pair.source.shown = dataclasses.replace(fake, answers=fake.answers + 1, serial=fake.serial + 1, playing=True)
    pair.ask(False)
    assert len(pair.source.sent) == 1
    pair.ask(True)
    assert len(pair.source.sent) == 2


# What is compared


def test_distances_both_ways_against_a_loop():
    one, other = arrays(6, 0.4), arrays(5, 0.2)
    matrix = np.diag([1.5, 1.5, 1.5, 1.0])
    matrix[:3, 3] = 0.1, 0.0, -0.05
    found = both_distances(one, other, matrix)
    placed = other.vertices.astype(np.float64) * 1.5 + matrix[:3, 3]
    rng = np.random.default_rng(0)
    for points, vertices, faces, got in ((one.vertices, placed, other.faces, found[0]),
                                         (placed, one.vertices, one.faces, found[1])):
        corners = vertices[faces]
        # many points on every triangle: no nearest point is closer than found, and some are about as close
        weights = rng.dirichlet((1, 1, 1), 400)
        samples = np.concatenate([np.einsum("sk,fkd->fsd", weights, corners).reshape(-1, 3), vertices])
        for row in range(0, len(points), 7):
            least = np.linalg.norm(samples - points[row], axis=1).min()
            assert got[row] <= least + 1e-6 and got[row] >= least - 0.02


def test_frames_meet_where_the_inputs_share_one():
    a = np.array([[3.0, 0, 0, 5], [0, 3, 0, 0], [0, 0, 3, 1], [0, 0, 0, 1]])
    b = a.copy()
    b[:3, :3] *= 1.01
    b[0, 3] += 0.06
    matrix, shared = frame_between(a, b)
    assert shared and np.allclose(matrix, [[1.01, 0, 0, 0.02], [0, 1.01, 0, 0], [0, 0, 1.01, 0], [0, 0, 0, 1]])
    for other in (np.diag([30.0, 30, 30, 1]), np.diag([3.0, 3, 3, 1])):  # of another size, in another place
        matrix, shared = frame_between(a, other)
        assert not shared and np.array_equal(matrix, np.eye(4))
    assert np.array_equal(frame_between(a, np.eye(4))[0], np.eye(4))  # nobody knows


def test_the_difference_colours_both_by_one_scale(fake):
    view, pair = ViewState(mesh_colour=DIFFERENCE), pair_of(fake)
    one, other = arrays(12, 0.4), arrays(12, 0.3)
    # a vertex without a face is on no surface: it counts for nothing
    one = MeshArrays(np.concatenate([one.vertices, [[0, 0, 0]]]).astype(np.float32), one.faces)
    a = dataclasses.replace(fake, fields={**fake.fields, "mesh": one})
    pair.source.shown = dataclasses.replace(fake, fields={**fake.fields, "mesh": other})
    view.pair = pair
    try:
        for _ in range(2):
            view.frustum.update(view, a)
            view.surfaces.update(view, a)
            pair.update(view, a)
            view.worker.wait_for("pair difference", WAIT_SECS)
        resolution = fake.fields["voxels"].resolution
        assert pair.distance.unit == "voxel widths" and len(pair.distance.values) == 2 * len(other.vertices)
        assert np.allclose(pair.distance.values, 0.1 * resolution, atol=0.02 * resolution)
        scale = view.field.scale_of(pair.distance)
        both = both_distances(one, other, np.eye(4))
        for surfaces, mesh, values in zip((view.surfaces, pair.view.surfaces), (one, other), both, strict=True):
            assert surfaces.mesh is mesh
            assert np.array_equal(surfaces.colours, scale.colours(values * np.float32(resolution)))
        before = view.surfaces.colours
        view.surfaces.update(view, a)
        pair.update(view, a)
        assert view.surfaces.colours is before  # nothing is sent to the screen again
        view.mesh_colour = "clay"
        view.surfaces.update(view, a)
        pair.update(view, a)
        assert view.surfaces.colours is None and pair.view.surfaces.colours is None
    finally:
        view.worker.stop()
        pair.view.worker.stop()


def test_b_takes_ranges_and_camera_of_a(fake):
    view, pair = ViewState(), pair_of(fake)
    view.pair, view.field.voxels_coloured, view.field.at_voxels = pair, True, "corner_sdf"
    view.frustum.update(view, fake)
    view.field.update(view, fake)
    pair.source.shown = dataclasses.replace(
        fake, fields={**fake.fields, "corner_sdf": 3 * fake.fields["corner_sdf"]})
    for limits in (None, (-3.0, 3.0)):
        view.field.lock(view.field.voxel, limits)
        pair.update(view, fake)
        assert pair.view.field.voxel.automatic != view.field.voxel.automatic
        assert pair.view.field.scale_of(pair.view.field.voxel).key == view.field.scale_of(view.field.voxel).key
    assert pair.view.split.camera is view.split.camera is not None
    assert pair.view.layers is view.layers
    bare = dataclasses.replace(fake, cameras=())
    view.frustum.update(view, bare)
    pair.update(view, bare)
    assert pair.view.split.camera is None  # B is split by no camera that A doesn't have


@pytest.mark.parametrize("fields", [{}, {"voxels": None}, {"mesh": arrays(4, math.nan), "target": None},
                                    {"mesh": MeshArrays(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))}])
@pytest.mark.parametrize("mode", [DIFFERENCE, DISTANCE, "normal", "field"])
def test_nothing_missing_raises(fake, fields, mode):
    view, pair = ViewState(mesh_colour=mode), pair_of(fake)
    kept = {name: value for name, value in {**fake.fields, **fields}.items() if value is not None}
    hard = dataclasses.replace(fake, fields=kept)
    pair.source.shown = hard
    view.pair = pair
    try:
        for a in (fake, hard):
            for _ in range(2):
                view.frustum.update(view, a)
                view.field.update(view, a)
                view.surfaces.update(view, a)
                pair.update(view, a)
                for worker in (view.worker, pair.view.worker):
                    worker.wait_for(f"mesh {mode}", WAIT_SECS)
                    worker.wait_for("pair difference", WAIT_SECS)
                for draw in (layers.draw, plots.draw):
                    draw(FakeUi(), view, a)
    finally:
        view.worker.stop()
        pair.view.worker.stop()


# Where they stand


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("slots", [(0, 1, 2, 3, 4, 5), (0, 3), (1, 2, 4), (0, 4), (1,), (5,), ()])
def test_places_of_two_runs_do_not_overlap(aspect, slots):
    sizes = {slot: 1.7 if slot % 3 == 0 else 1.3 for slot in slots}
    places, (width, height) = paired(sizes, 3, aspect, True)
    assert places.keys() == sizes.keys()
    for slot, (x, y) in places.items():
        half = sizes[slot] / 2
        assert abs(x) + half <= width / 2 + 1e-9 and abs(y) + half <= height / 2 + 1e-9
        for other, (x2, y2) in places.items():
            assert other == slot or max(abs(x - x2), abs(y - y2)) >= (sizes[slot] + sizes[other]) / 2 - 1e-9
        if slot >= 3 and slot - 3 in places:  # in line with the same of A, below it or at its right
            above = places[slot - 3]
            assert (above[0] == x and above[1] > y) or (above[1] == y and above[0] < x)
    together, _ = paired(sizes, 3, aspect, False)
    assert len({together[slot] for slot in slots if slot < 3}) <= 1
    if {0, 3} <= set(slots):
        assert together[0] != together[3]


@pytest.fixture
def scene() -> Iterator[Any]:
    from workbench.scene_view import SceneView

    start_polyscope("tests", headless=True)
    ps.set_window_size(480, 360)
    view = SceneView()
    yield view
    view.clear()


def names() -> set[str]:
    """Of B's structures that Polyscope holds."""
    kinds = {"sparse_volume_grid": (*LAYERS,), "surface_mesh": ("mesh", "target", "slice", "zero contour"),
             "point_cloud": ("sdf", "vectors"), "curve_network": ("frustum", "cameras", "frustum rays")}
    return {name for kind, each in kinds.items() for name in each if getattr(ps, f"has_{kind}")(PREFIX + name)}


def test_both_are_drawn_and_b_goes_again(scene, fake):
    view, pair = ViewState(), pair_of(fake)
    view.pair = pair
    for name in ("cameras", "sdf", "slice"):
        view.layers[name] = True
    view.field.cut = True
    view.frustum.update(view, fake)
    scene.update(fake, view)
    scene.go_home(view, (480, 360), (0.0, 0.0, 480.0, 360.0))
    scene.arrange(view, 1.4)
    assert names() >= {"active", "mesh", "target", "slice", "sdf", "frustum", "cameras"}
    centres = scene.places(view, 1.4)[0]
    assert set(centres) == {0, 1, 2, 3, 4, 5} and len(set(centres.values())) == 6
    offset = np.array(ps.get_surface_mesh(f"{PREFIX}mesh").get_position())
    right, up = np.asarray(ps.get_camera_view_matrix())[:2, :3]
    assert np.allclose(offset, right * centres[4][0] + up * centres[4][1], atol=1e-4)
    # each is cut by the plane of its own place
    cuts = {int(name.split()[1]) for name in _present}
    assert cuts == {0, 1, 2, 3, 4, 5}
    view.layers["mesh"] = False
    scene.update(fake, view)
    assert not ps.get_surface_mesh(f"{PREFIX}mesh").is_enabled()
    view.pair = None
    scene.update(fake, view)
    scene.arrange(view, 1.4)
    assert not names()


def test_a_mesh_to_compare_is_shown_in_place_of_noise(scene):
    snapshot = snapshot_of(small_fit())
    view = ViewState(of_mesh=True)
    assert view.field_of("mesh", snapshot) == "target"
    view.frustum.update(view, snapshot)
    scene.update(snapshot, view)
    assert view.surfaces.mesh is snapshot.fields["target"] and not ps.has_surface_mesh("target")
    assert view.field_of("mesh", dataclasses.replace(snapshot, iteration=1)) == "surface"


# Plots


@pytest.mark.parametrize("log", [(False, False), (True, True)])
def test_dashes_lie_on_the_curve(log):
    xs = np.linspace(1.0, 90.0, 400)
    ys = 2.0 + np.sin(xs / 5) if not log[1] else xs**2
    limits, size = ((1.0, 90.0), (float(ys.min()), float(ys.max()))), (300.0, 200.0)
    x, y = dashed((xs, ys), limits, log, size, 6.0)
    gaps = np.isnan(x)
    assert np.array_equal(gaps, np.isnan(y)) and 5 < gaps.sum() < MAX_DASHES
    assert x[0] == pytest.approx(xs[0]) and x[~gaps][-1] == pytest.approx(xs[-1])
    expected = np.interp(x[~gaps], xs, ys) if not log[1] else x[~gaps] ** 2
    assert np.allclose(y[~gaps], expected, rtol=1e-3)

    def length(u, v):
        scaled = [np.log10(each) if is_log else each for each, is_log in zip((u, v), log, strict=True)]
        ends = [np.log10(pair) if is_log else np.array(pair) for pair, is_log in zip(limits, log, strict=True)]
        steps = [np.diff(each) * pixels / (pair[1] - pair[0])
                 for each, pair, pixels in zip(scaled, ends, size, strict=True)]
        return float(np.nansum(np.hypot(*steps)))

    assert length(x, y) / length(xs, ys) == pytest.approx(0.5, abs=0.02)
    for few in (xs[:1], xs[:0], xs[[3, 3]]):
        assert len(dashed((few, few), limits, log, size, 6.0)[0]) == len(few)


def history(n_rows: int, *scalars: str) -> History:
    return History(("iteration", *scalars), np.arange(1.0, n_rows + 1)[:, None] * np.ones(1 + len(scalars)))


@pytest.mark.parametrize(("n_a", "n_b"), [(9, 5), (0, 5), (9, 0)])
def test_both_runs_are_plotted_in_one_diagram(fake, n_a, n_b):
    view = ViewState(pair=pair_of(dataclasses.replace(fake, history=history(n_b, "loss", "loss_mask"))))
    ui = FakeUi({"IsPlotHovered": True, "GetPlotMousePos": (4.2, 0.0)})
    plots.draw(ui, view, dataclasses.replace(fake, history=history(n_a, "loss", "loss_depth")))
    lines = [call[1] for call in ui.calls if call[0] == "PlotLine"]
    assert ui.says("A solid, B dashed")
    assert ("B loss" in lines) == (n_b > 0) and ("B loss_mask" in lines) == (n_a == 0)
    told = next(text for text in ui.texts if text.startswith("total "))
    assert told.count("|") == (1 if n_a and n_b else 0)


def test_the_section_says_which_is_which(fake):
    view = ViewState(title="fine", pair=pair_of(dataclasses.replace(fake, notice="can't go back: no")))
    ui = FakeUi({"Same iteration": False})
    pair_panel.draw_section(ui, view, fake)
    assert ui.says("fine") and ui.says("the other") and ui.says("iteration 2") and ui.says("can't go back")
    assert not view.pair.aligned
    alone = FakeUi()
    pair_panel.draw_section(alone, ViewState(), fake)
    assert not alone.texts


# The command


def test_sides_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    mesh = icosphere_like(8, 3.0)
    save_mesh("ball.ply", mesh)
    run = small_fit()
    for stage in run.stages:
        run.run_stage(stage)
    save_checkpoint(tmp_path / "run.safetensors", run)
    scene, ball, reached = (open_side(what, "cpu", None, {}) for what in ("small.toml", "ball.ply", "run.safetensors"))
    assert (scene.is_mesh, ball.is_mesh, reached.is_mesh) == (False, True, False) and reached.start == 1
    assert make_pair(scene, ball).moves and make_pair(scene, ball).view.of_mesh
    assert not make_pair(scene, reached).moves and not make_pair(reached, scene).moves
    # what a run wrote is in its own normalised frame, and metrics.json says so
    back = ball.input_from_normalized
    Path("out").mkdir()
    save_mesh("out/mesh.ply", transform_mesh(mesh, np_inverse(back)))
    Path("out/metrics.json").write_text(json.dumps({"frame": "normalized", "input_from_normalized": back.tolist()}))
    written = open_side("out/mesh.ply", "cpu", None, {})
    assert np.allclose(written.input_from_normalized, back, atol=1e-5)


def np_inverse(matrix: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.linalg.inv(matrix))


def test_two_need_a_window(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "two side by side are for the window" in refused(capsys, "view", "house", "lantern", "--headless")
    assert "no such file" in refused(capsys, "view", "house", "nothing.obj")


def test_the_window_shows_both(display, need_programs, tmp_path):
    need_programs("Xvfb")
    environment = {**os.environ, "DISPLAY": display, "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1",
                   "XDG_CONFIG_HOME": str(tmp_path / "config"), "PYTHONPATH": str(TESTS.parent)}
    environment.pop("WAYLAND_DISPLAY", None)
    done = subprocess.run([sys.executable, str(TESTS / "pair_driver.py"), str(tmp_path)], env=environment,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    shown, ended = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert shown == {"a": 3, "b": 3, "failed": "", "places": [0, 1, 2, 3, 4, 5]}
    assert ended == {"code": 0, "alive": False, "iteration": 3} and (tmp_path / "pair.png").is_file()


def test_what_b_has_trained_is_recorded_and_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    titles = []

    def open_window(run: Any, *, title: str, pair: Pair, **_: Any) -> int:
        """A window in which A is run one iteration on, and B follows."""
        titles.extend([title, pair.title])
        pair.source.start()
        pair.follow(Snapshot(iteration=1))
        pair.source.snapshots.wait_for(lambda s: s.iteration == 1 and not s.playing, WAIT_SECS)
        assert pair.source.stop()
        return 0

    monkeypatch.setattr("workbench.app.open_window", open_window)
    monkeypatch.setattr("workbench.cli.require_graphics", lambda display: None)
    assert cli.main(["view", "small.toml", str(tmp_path / "small.toml"), "--out", "both"]) == 0
    assert titles == ["small, small.toml", f"small, {tmp_path / 'small.toml'}"]  # told apart
    assert "B: iteration 1 saved in both/B/checkpoint.safetensors" in capsys.readouterr().out
    with Recording("both/B/run.h5") as recording:
        assert recording.iterations.tolist() == [0, 1]
    assert open_side("both/B/run.h5", None, None, {}).recorded and not Path("both/run.h5").exists()
