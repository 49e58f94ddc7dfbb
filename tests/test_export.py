"""Export: every file is read back by another program's reader, or by our own, and holds what the run held."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from cli_fixtures import SMALL, refused
from fake_run import FakeRun, icosphere_like
from fit_snapshots import small_fit
from recording_files import Builder, RunBuilder

from sparseflex.checkpoint import save_checkpoint
from sparseflex.data import load_mesh
from sparseflex.scene import ViewConfig, load_scene
from sparseflex.triangle_distance import point_to_triangle_distance
from workbench import actions, cli, theme
from workbench.colour_maps import Scale
from workbench.export import MeshChoice, export, finite_part
from workbench.inputs import Opened
from workbench.moment import Moment, of_opened, open_moment
from workbench.recording import layout
from workbench.recording.reader import Recording
from workbench.snapshot import History, MeshArrays, Snapshot
from workbench.view_state import ViewState


def opened(run, input_from_normalized=None) -> Opened:
    back = torch.eye(4, dtype=torch.float64) if input_from_normalized is None else input_from_normalized
    return Opened(run, "ball", "A ball", ViewConfig(), back)


@pytest.fixture(scope="module")
def fitted():
    run = small_fit()
    for _ in range(2):
        for stage in run.stages:
            run.run_stage(stage)
    return run


@pytest.fixture
def moment(fitted) -> Moment:
    return of_opened(opened(fitted))


@pytest.mark.parametrize("suffix", [".ply", ".glb", ".obj"])
def test_meshes_come_back_with_their_colours(suffix, moment, fitted, tmp_path):
    path = tmp_path / f"ball{suffix}"
    said = export(moment, path, MeshChoice(colour="error", limits=(0.0, 2.0)))
    assert "surface" in said and "0 to 2 voxel widths" in said
    found = trimesh.load(path, process=False, force="mesh")
    expected = fitted.extract().detach()
    # by triangle: reading an .obj leaves out vertices without one
    assert np.allclose(found.vertices[found.faces], expected.vertices[expected.faces], atol=1e-6)
    # the slow way: each vertex on its own
    target = fitted.read_field("target")
    distance = point_to_triangle_distance(expected.vertices.double(), target).numpy() * fitted.config.resolution
    colours = Scale(0.0, 2.0).colours(distance.astype(np.float32))
    got = found.visual.vertex_colors[:, :3] / 255
    if suffix == ".glb":  # linear there
        got = np.where(got <= 0.0031308, got * 12.92, 1.055 * got ** (1 / 2.4) - 0.055)
    assert np.abs(got[found.faces] - colours[expected.faces]).max() < (0.06 if suffix == ".glb" else 0.003)


def test_a_field_colours_the_vertices_by_their_voxel(moment, fitted, tmp_path):
    export(moment, tmp_path / "ball.ply", MeshChoice(colour="alpha", part="corner 3", limits=(0.5, 1.5)))
    found = trimesh.load(tmp_path / "ball.ply", process=False)
    voxels, alpha = fitted.read_field("voxels"), fitted.read_field("alpha").detach()
    rows = {tuple(row): index for index, row in enumerate(voxels.voxel_ijk.tolist())}
    scale = Scale(0.5, 1.5)
    for vertex, colour in list(zip(found.vertices, found.visual.vertex_colors, strict=True))[::50]:
        row = rows.get(tuple(math.floor((x + 0.5) * voxels.resolution) for x in vertex))
        expected = theme.MESH if row is None else scale.colours(alpha[row, 3:4].numpy())[0]
        assert np.abs(colour[:3] / 255 - np.asarray(expected)).max() < 0.003


def test_the_input_frame_and_other_meshes(fitted, tmp_path):
    back = torch.tensor([[0, -2.0, 0, 5], [2, 0, 0, 0], [0, 0, 2, -1], [0, 0, 0, 1]], dtype=torch.float64)
    moment = of_opened(opened(fitted, back))
    said = export(moment, tmp_path / "target.ply", MeshChoice(mesh="target", input_frame=True))
    assert "target" in said
    found = trimesh.load(tmp_path / "target.ply", process=False)
    expected = fitted.read_field("target").vertices.double() @ back[:3, :3].T + back[:3, 3]
    assert np.allclose(found.vertices, expected, atol=1e-5)
    untrained = of_opened(opened(small_fit()))
    assert "target" in export(untrained, tmp_path / "first.ply")  # before the first iteration the surface is noise


def test_voxels_corners_and_fields(moment, fitted, tmp_path):
    export(moment, tmp_path / "ball.npz")
    voxels = fitted.read_field("voxels")
    with np.load(tmp_path / "ball.npz", allow_pickle=False) as found:
        assert int(found["iteration"]) == 2 and int(found["resolution"]) == voxels.resolution
        assert np.array_equal(found["voxel_ijk"], voxels.voxel_ijk)
        offsets = found["corner_ijk"][found["voxel_corners"]] - found["voxel_ijk"][:, None]
        assert offsets.min() == 0 and offsets.max() == 1 and len(np.unique(offsets.reshape(-1, 24), axis=0)) == 1
        kinds = {name: kind for name, kind in fitted.fields.items() if kind in ("voxel", "corner")}
        assert kinds.keys() <= set(found.files)
        for name in kinds:
            assert np.array_equal(found[name], fitted.read_field(name).detach().numpy(), equal_nan=True)
    first = (tmp_path / "ball.npz").read_bytes()
    export(moment, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == first


def test_a_field_may_have_any_name(tmp_path):
    voxels = small_fit().read_field("voxels")
    fields = {"voxels": voxels, "file": np.arange(voxels.n_voxels), "resolution": np.zeros(voxels.n_voxels),
              "stale": np.zeros(3)}
    kinds = {"voxels": "voxels", "file": "voxel", "resolution": "voxel", "stale": "corner", "missing": "voxel"}
    said = export(Moment("odd", 0, kinds, fields.get), tmp_path / "odd.npz")
    assert "2 fields" in said
    with np.load(tmp_path / "odd.npz") as found:
        assert np.array_equal(found["file"], fields["file"]) and found["resolution"] == voxels.resolution
        assert len(found["field_resolution"]) == voxels.n_voxels and "stale" not in found


def test_scalars(moment, fitted, tmp_path):
    history = History(("loss", "iteration", "odd, name"), np.array([[0.1, 1, math.nan], [1 / 3, 2, math.inf]]))
    export(dataclasses.replace(moment, history=history), tmp_path / "ball.csv")
    rows = list(csv.DictReader((tmp_path / "ball.csv").open()))
    assert list(rows[0]) == ["iteration", "loss", "odd, name"]
    assert rows[0] == {"iteration": "1", "loss": "0.1", "odd, name": ""} and float(rows[1]["loss"]) == 1 / 3
    export(moment, tmp_path / "ball.csv")
    rows = list(csv.DictReader((tmp_path / "ball.csv").open()))
    assert [float(row["loss"]) for row in rows] == list(fitted.history["loss"])


def test_cameras_are_read_again_by_a_scene(moment, fitted, tmp_path):
    export(moment, tmp_path / "cameras.json")
    (tmp_path / "again.toml").write_text(SMALL + '[cameras]\ntransforms = "cameras.json"\n')
    again = load_scene(tmp_path / "again.toml").cameras
    known = [each.camera for each in fitted.cameras()]
    assert len(again) == len(known) > 0
    for one, other in zip(again, known, strict=True):
        assert torch.allclose(one.camera_from_world, other.camera_from_world, atol=1e-9)
        assert (one.width, one.height) == (other.width, other.height)
        assert one.near == pytest.approx(other.near) and one.fov_y_degrees == pytest.approx(other.fov_y_degrees)


def test_nothing_and_nan_are_legal(tmp_path):
    nowhere = icosphere_like(4, 0.3)
    vertices = nowhere.vertices.numpy().copy()
    vertices[5] = math.nan
    arrays = MeshArrays(vertices, nowhere.faces.numpy().astype(np.int32))
    mesh, _, n_bad = finite_part(arrays, None)
    assert n_bad == 1 and mesh.n_faces < nowhere.n_faces and bool(mesh.vertices.isfinite().all())
    assert torch.equal(mesh.vertices[mesh.faces], nowhere.vertices[nowhere.faces][~(nowhere.faces == 5).any(dim=1)])
    bare = Moment("bare", 1, {"mesh": "mesh"}, {"mesh": arrays}.get)
    for suffix in (".ply", ".obj", ".glb"):
        assert "1 vertices without a place" in export(bare, tmp_path / f"a{suffix}", MeshChoice(colour="normal"))
    assert load_mesh(tmp_path / "a.ply").mesh.n_faces == mesh.n_faces
    empty = MeshArrays(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    none = Moment("none", 1, {"mesh": "mesh"}, {"mesh": empty}.get)
    for suffix in (".ply", ".obj", ".csv", ".json"):
        export(none, tmp_path / f"none{suffix}", MeshChoice(colour="normal"))
    for suffix in (".ply", ".npz"):
        with pytest.raises(ValueError, match="bare has no"):
            export(Moment("bare", 0, {}, {}.get), tmp_path / f"no{suffix}")
    assert not list(tmp_path.glob("no.*")) and not list(tmp_path.glob("*.part"))


def test_a_run_of_ones_own(tmp_path):
    run = FakeRun(8)
    for stage in run.stages:
        run.run_stage(stage)
    moment = of_opened(opened(run))
    for suffix in (".ply", ".npz", ".csv", ".json"):
        assert export(moment, tmp_path / f"own{suffix}")


def test_the_command(tmp_path, monkeypatch, capsys, fitted):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "ball.safetensors", fitted)
    code = cli.main(["export", "ball.safetensors", "--to", "new/ball.ply", "ball.csv", "--colour", "normal"])
    assert code == 0 and Path("new/ball.ply").is_file() and Path("ball.csv").is_file()
    assert capsys.readouterr().out.count("\n") == 2


@pytest.mark.parametrize(("words", "says"), [
    (("--to", "a.stl"), "--to a.stl: unknown type '.stl'; allowed are .ply, .obj, .glb, .npz, .csv, .json"),
    (("--to", "a.ply", "--colour", "alhpa"), "colour must be one of normal, error, corner_sdf"),
    (("--to", "a.ply", "--colour", "alpha", "--part", "z"), "part must be one of mean, corner 0"),
    (("--to", "a.ply", "--part", "z"), "--part goes with --colour"),
    (("--to", "a.ply", "--colour", "alpha", "--range", "2", "1"), "--range must be LOW < HIGH, got 2 1"),
    (("--to", "a.ply", "--iteration", "7"), "--iteration applies to a recording"),
    (("--to", "/proc/a.ply"), "--to /proc/a.ply: can't be written"),
])
def test_refusals_are_one_line(words, says, tmp_path, monkeypatch, capsys, fitted):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "ball.safetensors", fitted)
    assert says in refused(capsys, "export", "ball.safetensors", *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ball.safetensors"]


def test_the_window_exports_what_it_shows(tmp_path, moment):
    """The mesh with the colours that it is drawn with; what can't be is said in the notice."""
    arrays = moment.field("surface")
    colours = np.random.default_rng(0).random((len(arrays.vertices), 3), np.float32)
    view = ViewState(title="A ball", checkpoint_path=tmp_path / "new" / "checkpoint.safetensors")
    view.surfaces.mesh, view.surfaces.colours = arrays, colours
    window = SimpleNamespace(view=view, snapshot=Snapshot(iteration=2, history=moment.history, cameras=moment.cameras))
    by_name = {action.name: action for action in actions.ACTIONS if action.name.startswith("Export")}
    assert len(by_name) == 3
    for action in by_name.values():
        assert action.does(window) is None and view.notice.startswith(f"exported {tmp_path / 'new' / 'export_000002.'}")
    found = trimesh.load(tmp_path / "new" / "export_000002.ply", process=False)
    assert np.abs(found.visual.vertex_colors[:, :3] / 255 - colours).max() < 0.003
    view.layers["mesh"] = False
    by_name["Export the mesh as it is drawn (.ply)"].does(window)
    assert view.notice.startswith("not exported: there is no mesh")


def test_one_file_may_be_open_several_times(tmp_path):
    """HDF5 reads wrong bytes where a dataset is open twice and one of the two is refreshed; beyond a chunk it shows."""
    with Recording(large_recording(tmp_path)) as first:
        expected = {n: first.snapshot_fields(["value"], n)[0]["value"] for n in range(4)}
        moments = {n: open_moment(str(first.path), n) for n in range(4)}
        for number, moment in moments.items():
            first.refresh()
            assert np.array_equal(moment.field("value"), expected[number]) and expected[number][0] == number
        Recording(first.path).close()
        assert np.array_equal(first.snapshot_fields(["value"], 2)[0]["value"], expected[2])
    assert np.array_equal(moments[3].field("value"), expected[3])


def large_recording(folder: Path) -> Path:
    meta = {"schema": layout.SCHEMA, "version": layout.VERSION, "uid": "0", "name": "test", "title": "a test",
            "stages": ["step"], "streams": [*layout.OWN_STREAMS, "voxels", "value"], "settings": {}, "parent": None,
            "field_kinds": {"voxels": "voxels", "value": "voxel"}}
    n = 200_000
    builder = Builder(folder / "large.h5", meta)
    voxels = {"voxels": {"keys": np.arange(n), "resolution": 64}}
    for iteration in range(4):
        noise = np.random.default_rng(iteration).random(n, np.float32)  # which no compression makes small
        noise[0] = iteration
        builder.commit(iteration, {"value": noise, **(voxels if iteration == 0 else {})})
    return builder.close()


def test_a_recorded_iteration_is_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = FakeRun(8)
    builder = RunBuilder(tmp_path / "run.h5", run)
    builder.iterate(7)
    builder.close()
    assert cli.main(["export", "run.h5", "--iteration", "5", "--to", "a.npz", "a.csv", "a.ply", "a.json"]) == 0
    with np.load("a.npz") as found:
        assert found["iteration"] == 5 and len(found["gamma"]) == len(found["voxel_ijk"])
    assert len(Path("a.csv").read_text().splitlines()) == 1 + 5
    assert cli.main(["export", "run.h5", "--iteration", "6", "--to", "b.ply"]) == 0
    assert "as recorded at iteration 5" in capsys.readouterr().out
    assert Path("a.ply").read_bytes() == Path("b.ply").read_bytes()
    assert "must be a recorded one from 0 to 7, got 9" in refused(
        capsys, "export", "run.h5", "--iteration", "9", "--to", "c.ply")
