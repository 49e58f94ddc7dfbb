"""`workbench reconstruct`, and `view` of a VAE's weights: what they write, and that bad input gets one line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_fixtures import refused
from fake_inference import FakeInference
from PIL import Image

from sparseflex.camera import Camera
from sparseflex.data import load_mesh, save_mesh, transform_mesh
from sparseflex.memory import available_bytes
from sparseflex.mesh import Mesh
from sparseflex.quality import voxel_hull
from sparseflex.shapes import solids
from sparseflex.training.reconstruct import ReconstructRun
from sparseflex.vae import SparseFlexVAE, VAEConfig
from sparseflex.vae import memory as vae_memory
from sparseflex.vae.preprocess import input_voxels, into_box, sample_points
from sparseflex.voxels import SparseVoxels
from workbench import cli, pass_headless, theme
from workbench.commands import Play
from workbench.engine import Engine
from workbench.figure.make import open_recipe
from workbench.figure.subject import gather
from workbench.headless import CHECKPOINT, FIGURE, MESH, METRICS, print_table
from workbench.plate import Plate, Subject, Tile, render_figure
from workbench.recording.reader import Recording
from workbench.recording.recorder import RUN_FILE

pytest_plugins = ("cli_fixtures",)
pytestmark = pytest.mark.usefixtures("no_display")

SIZES = VAEConfig(resolution=8, hidden_channels=16, point_channels=32, n_point_blocks=2, model_channels=256,
                  n_encoder_blocks=1, n_decoder_blocks=1, n_heads=4, mlp_ratio=1, n_points=400)
YAML = "encoder:\n  attn_mode: {attention}\n  num_heads: {heads}\ndecoder: {{}}\nresolution: {resolution}\n"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A network that nobody trained, in our own format; about half of all children are kept."""
    model, generator = SparseFlexVAE(SIZES), torch.Generator().manual_seed(10)
    for name, parameter in model.named_parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.05
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
        parameter.data += name.endswith(("act_layers.0.weight", "out_layers.1.weight"))  # normalisations
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    model.save(path)
    return path


@pytest.fixture
def files(weights):
    """In the test's folder: the weights, a ball, and a cloud of points on it."""
    Path("vae.safetensors").symlink_to(weights)
    vertices, faces = solids.sphere(2.0, 2)
    save_mesh("ball.obj", Mesh(torch.from_numpy(vertices + [5, 0, 0]), torch.from_numpy(faces)))
    normals = np.random.default_rng(0).standard_normal((300, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    np.savez("cloud.npz", points=3 * normals + 7, normals=normals)


def reconstruct(*arguments: str) -> int:
    return cli.main(["reconstruct", *arguments, "--checkpoint", "vae.safetensors", "--headless", "--device", "cpu"])


def run_pass(run: FakeInference) -> None:
    for stage in run.stages:
        run.run_stage(stage)


def metrics_in(folder: str) -> dict:
    return json.loads(Path(folder, METRICS).read_text())


# what works


def test_headless_writes_what_the_network_gives(files, figures, capsys):
    assert reconstruct("ball.obj", "--out", "o", "--seed", "3") == 0
    assert sorted(path.name for path in Path("o").iterdir()) == sorted([MESH, FIGURE, METRICS, CHECKPOINT])
    ball = load_mesh("ball.obj")
    points, normals = sample_points(into_box(ball.mesh), 400, torch.Generator().manual_seed(3))
    model = SparseFlexVAE.from_checkpoint("vae.safetensors")
    wanted = model.reconstruct(points, normals, input_voxels(points, 8, ball.mesh).voxel_ijk).mesh
    save_mesh("wanted.ply", wanted)
    assert wanted.n_faces > 50 and Path("wanted.ply").read_bytes() == Path("o", MESH).read_bytes()
    said = capsys.readouterr()
    assert all(str(Path("o", name)) in said.out for name in (MESH, FIGURE, METRICS, CHECKPOINT))
    assert "reconstruct ball" in said.err and "/9 [" not in said.err and "input_voxels" in said.out


def test_all_is_written_before_a_reader_can_close_the_output(files, figures, monkeypatch):
    def closed(rows):
        assert all(Path("o", name).exists() for name in (MESH, FIGURE, METRICS, CHECKPOINT))
        raise BrokenPipeError

    monkeypatch.setattr("workbench.headless.print_table", closed)
    with contextlib.suppress(BrokenPipeError):
        reconstruct("ball.obj", "--out", "o")
    assert Path("o", FIGURE).exists()


def test_the_table_s_columns_stand_under_their_names(capsys):
    print_table({"reconstructed": {"chamfer": 0.5, "faces": 12.0}, "target": {"chamfer": 0.25, "faces": 7.0}})
    assert len({len(line) for line in capsys.readouterr().out.splitlines()}) == 1


def test_metrics_say_what_it_was_made_of(files, figures):
    assert reconstruct("ball.obj", "--out", "o", "--threshold", "-0.01", "0.005", "--points", "200") == 0
    found = metrics_in("o")
    assert found["weights"]["sha256"] and found["weights"]["file"].endswith("vae.safetensors")
    assert found["weights"]["sizes"] == dataclasses.asdict(SIZES)
    assert found["weights"]["parameters"] == sum(p.numel() for p in SparseFlexVAE(SIZES).parameters())
    assert (found["settings"]["threshold_1"], found["settings"]["threshold_2"]) == (-0.01, 0.005)
    assert found["scalars"]["points"] == 200 and found["finished"] is True and found["frame"] == "normalized"
    run = ReconstructRun(SparseFlexVAE(SIZES), torch.zeros(1, 3), torch.ones(1, 3))
    assert list(found["stages"]) == list(run.stages)
    assert all(cost["secs"] >= 0 and cost["peak_bytes"] for cost in found["stages"].values())
    assert list(found["quality"]) == ["reconstructed", "input_voxels", "exact_sdf"]
    assert found["quality"]["input_voxels"]["boundary_edges"] == 0
    assert found["quality"]["exact_sdf"]["chamfer"] < found["quality"]["input_voxels"]["chamfer"]


OPTIONS = {
    "prune": ["--no-prune"], "sample_posterior": ["--sample-posterior"], "noise": ["--noise", "0.5"],
    "chunk_voxels": ["--chunk-voxels", "90"], "release_chunks": ["--release-chunks"],
    "interpolate": ["--other", "cloud.npz", "--interpolate", "0.25"],
}


def test_every_option_reaches_the_run(files, figures, monkeypatch):
    monkeypatch.setattr(pass_headless, "quality_of", lambda *_: {})
    small = ["--resolution", "4", "--points", "60"]
    assert reconstruct("ball.obj", "--out", "plain", *small) == 0
    plain, mesh = metrics_in("plain"), Path("plain", MESH).read_bytes()
    for name, options in OPTIONS.items():
        assert reconstruct("ball.obj", "--out", name, *small, *options) == 0
        found = metrics_in(name)
        changed = {key for key, value in found["settings"].items() if value != plain["settings"].get(key, 0.0)}
        assert changed == {name}
        if name == "chunk_voxels":  # the same, bar what rounds
            assert abs(found["scalars"]["voxels"] - plain["scalars"]["voxels"]) <= 2
        else:
            assert Path(name, MESH).read_bytes() != mesh, name


def test_pruning_is_the_configs_unless_it_is_asked_for(files, figures, monkeypatch):
    monkeypatch.setattr(pass_headless, "quality_of", lambda *_: {})
    Path("whole.yaml").write_text(YAML.format(attention="swin", heads=4, resolution=4) + "pruning: false\n")
    for number, (options, prunes) in enumerate((([], 0), (["--prune"], 1), (["--threshold", "0", "0.1"], 1))):
        flags = ["--config", "whole.yaml", "--points", "100", "--out", str(number)]
        assert reconstruct("ball.obj", *flags, *options) == 0
        found = metrics_in(str(number))
        assert found["settings"]["prune"] == prunes and (found["scalars"]["pruned_fraction"] > 0) == prunes


def test_a_cloud_of_points_has_no_target_and_its_own_frame(files, figures):
    assert reconstruct("cloud.npz", "--out", "a", "--resolution", "6") == 0
    assert reconstruct("cloud.npz", "--out", "b", "--resolution", "6", "--input-frame") == 0
    found = metrics_in("a")
    assert found["target"] is None and found["weights"]["sizes"]["resolution"] == 6
    assert list(found["quality"]["reconstructed"])[0] == "points_to_surface"
    back = torch.tensor(found["input_from_normalized"], dtype=torch.float64)
    assert torch.allclose(back[:3, 3], torch.tensor([7.0, 7, 7]).double(), atol=0.1) and float(back[0, 0]) > 5.8
    moved, plain = (load_mesh(f"{folder}/{MESH}") for folder in "ba")
    again = transform_mesh(plain.mesh, back @ plain.input_from_normalized)
    ours = transform_mesh(moved.mesh, moved.input_from_normalized)
    assert torch.allclose(again.vertices, ours.vertices, atol=1e-4)


def test_nothing_kept_is_told_with_its_level_and_all_is_written(files, figures, capsys):
    for level, thresholds in (("1", ("9", "0")), ("2", ("-9", "9"))):
        assert reconstruct("ball.obj", "--out", level, "--threshold", *thresholds) == 1
        told = [line for line in capsys.readouterr().err.splitlines() if "no voxel was kept" in line]
        assert len(told) == 1 and f"ball: no voxel was kept at level {level}: the largest of" in told[0]
        assert told[0].endswith("the threshold 9")
        assert sorted(path.name for path in Path(level).iterdir()) == sorted([MESH, FIGURE, METRICS, CHECKPOINT])
        assert metrics_in(level)["quality"]["reconstructed"]["chamfer"] is None


def test_what_a_run_left_is_viewed_exported_and_replayed(files, figures, capsys):
    assert reconstruct("ball.obj", "--out", "o", "--record", "--threshold", "-0.02", "0") == 0
    first = metrics_in("o")
    assert cli.main(["view", "o", "--headless", "--out", "v"]) == 0
    seen = metrics_in("v")
    for key in ("name", "title", "iteration", "weights", "settings", "input_from_normalized", "quality", "target"):
        assert seen[key] == first[key], key
    assert cli.main(["replay", "o/run.h5", "--headless"]) == 0
    assert cli.main(["export", "o/run.h5", "--to", "r.ply", "r.npz", "r.csv"]) == 0
    assert load_mesh("r.ply").mesh.n_faces == load_mesh("o/mesh.ply").mesh.n_faces
    assert "all whole" in capsys.readouterr().out
    with Recording(Path("o", RUN_FILE)) as recording:
        assert recording.meta.name == "reconstruct" and list(recording.iterations) == [0, 1]
    assert reconstruct("ball.obj", "--out", "o", "--record") == 0
    assert Path("o", "run-2.h5").exists()  # the first is kept


def test_a_run_whose_weights_are_gone_or_changed_says_so(files, figures, weights, capsys, monkeypatch):
    Path("mine.safetensors").write_bytes(weights.read_bytes())
    assert cli.main(["reconstruct", "ball.obj", "--checkpoint", "mine.safetensors", "--headless", "--out", "o"]) == 0
    SparseFlexVAE(SIZES).save("mine.safetensors")
    capsys.readouterr()
    assert "the weights of this run are others by now" in refused(capsys, "view", "o", "--headless")
    Path("mine.safetensors").unlink()
    assert "the weights of this run are missing" in refused(capsys, "view", "o", "--headless")
    Path("home").mkdir()
    Path("home/mine.safetensors").write_bytes(weights.read_bytes())
    monkeypatch.chdir("home")  # where they are found by their name
    assert cli.main(["view", "../o", "--headless", "--out", "v"]) == 0
    assert metrics_in("v")["quality"] == metrics_in("../o")["quality"]


def test_view_of_weights_never_runs_a_pass(files, figures, monkeypatch):
    monkeypatch.setattr(ReconstructRun, "run_stage", lambda *_: pytest.fail("a stage was run"))
    flags = ["--mesh", "ball.obj", "--headless", "--resolution", "6", "--other", "cloud.npz", "--points", "100"]
    assert cli.main(["view", "vae.safetensors", *flags, "--out", "o"]) == 0
    assert sorted(path.name for path in Path("o").iterdir()) == sorted([FIGURE, METRICS])
    found = metrics_in("o")
    assert found["iteration"] == 0 and found["quality"] == {} and found["scalars"]["points"] == 100
    assert found["weights"]["sizes"]["resolution"] == 6 and "interpolate" in found["settings"]


def test_weights_as_torch_saves_them_are_opened_too(files, figures, weights):
    torch.save(SparseFlexVAE.from_checkpoint(weights).state_dict(), "vae.pt")
    Path("sizes.yaml").write_text(YAML.format(attention="swin", heads=4, resolution=6))
    flags = ["--mesh", "ball.obj", "--headless", "--config", "sizes.yaml", "--points", "100"]
    assert cli.main(["view", "vae.pt", *flags, "--out", "o"]) == 0
    assert metrics_in("o")["weights"]["sizes"]["resolution"] == 6


def test_windows_open_on_the_run(files, figures, monkeypatch):
    """reconstruct runs its pass; view waits before the first stage."""
    import workbench.app
    import workbench.graphics

    seen = []

    def open_window(run, *, title, out_dir, paused, **_):
        seen.append((type(run), title, Path(out_dir), paused, run.iteration))
        return 0

    monkeypatch.setattr("workbench.system_check.has_display", lambda: True)
    monkeypatch.setattr(workbench.graphics, "check_graphics", lambda display=True: None)
    monkeypatch.setattr(workbench.app, "open_window", open_window)
    assert cli.main(["reconstruct", "ball.obj", "--checkpoint", "vae.safetensors"]) == 0
    assert cli.main(["view", "vae.safetensors", "--mesh", "ball.obj"]) == 0
    title = "ball, reconstructed"
    assert seen == [(ReconstructRun, title, Path("recordings/reconstruct/ball"), False, 0),
                    (ReconstructRun, title, Path("recordings/view/ball"), True, 0)]


def test_the_plate_shows_points_by_cause_and_what_was_pruned():
    run = FakeInference(resolution=6, n_points=400)
    home = Camera.look_at((0.0, 0, 2), (0, 0, 0))

    def tiles() -> list[Tile]:
        return Plate(Subject.of(run, home), -home.forward_world.numpy(), 800, 600)._tiles()

    assert [tile.caption for tile in tiles()] == ["Input points", "Target"]
    run_pass(run)
    points, voxels, *others = tiles()
    assert [tile.caption for tile in others] == ["Surface, pass 1", "Normals: surface, target"]
    causes, scalars = run.read_field("point_cause").bincount().tolist(), run.scalars()
    assert dict(points.legend) == {f"{causes[0]:,} covered": theme.POINTS,
                                   f"{causes[3]:,} pruned at level 2": theme.ACTIVE}
    n_pruned = [scalars[f"children_{level}"] - scalars[f"kept_{level}"] for level in (1, 2)]
    assert dict(voxels.legend) == {f"{scalars['kept_2']:,.0f} kept": theme.POINTS,
                                   f"{n_pruned[0]:,.0f} pruned at level 1": theme.PRUNED,
                                   f"{n_pruned[1]:,.0f} pruned at level 2": theme.ACTIVE}


def test_the_plate_is_drawn(tmp_path):
    run = FakeInference(resolution=6, n_points=400)
    run_pass(run)
    render_figure(run, tmp_path / "plate.png", 640, 480)
    pixels = np.asarray(Image.open(tmp_path / "plate.png"), np.float32)
    for tile, wanted in ((pixels[:180, :310], [theme.POINTS]), (pixels[:180, 330:], [theme.PRUNED, theme.ACTIVE])):
        hues = tile / np.maximum(tile.max(axis=-1, keepdims=True), 1)
        for colour in wanted:  # shaded or not: by its hue
            off = np.abs(hues - np.array(colour) / max(colour)).max(axis=-1)
            assert (off < 0.15).sum() > 30, colour


def test_playing_such_a_run_stops_after_the_pass():
    run = FakeInference(resolution=4, n_points=50)
    run.plays_once = ReconstructRun.plays_once
    engine = Engine(run)
    for name in (Play(), Play()):
        engine._obey(name)
        while engine._running():
            engine._turn()
    assert run.iteration == 2


def test_the_hull_of_voxels_is_closed_and_turned_outwards():
    voxels = SparseVoxels(torch.tensor([[0, 0, 0], [1, 0, 0], [3, 3, 3]]), 4)
    hull = voxel_hull(voxels)
    assert hull.n_faces == 2 * (10 + 6)
    a, b, c = hull.vertices.double()[hull.faces].unbind(1)
    assert float((a * torch.linalg.cross(b, c)).sum() / 6) == pytest.approx(3 / 4**3)  # the enclosed volume


# bad input


class Payload:
    """Would leave a file where its pickle is executed."""

    def __reduce__(self):
        return Path("executed").touch, ()


BAD = {
    "no normals": ("bare.npz", [], "bare.npz: holds points without normals"),
    "NaN points": ("nan.npz", [], "nan.npz: points must be finite, got 1 of 2"),
    "one point": ("one.npz", [], "one.npz: the bounding box has zero extent (1 point)"),
    "hostile points": ("pickled.npz", [], "pickled.npz: points must be an array of numbers, got object"),
    "no such shape": ("no.obj", [], "no.obj: no such file"),
    "another type": ("text.txt", [], "text.txt: unknown type '.txt'"),
    "no other shape": ("ball.obj", ["--other", "no.npz"], "no.npz: no such file"),
    "interpolation alone": ("ball.obj", ["--interpolate", "0.5"], "--interpolate goes towards another shape"),
    "two ways to prune": ("ball.obj", ["--no-prune", "--threshold", "0", "0"], "can't both be given"),
    "both ways to prune": ("ball.obj", ["--no-prune", "--prune"], "--prune and --no-prune can't both be given"),
    "two kinds of chunks": ("ball.obj", ["--release-chunks", "--chunk-voxels", "9"], "can't both be given"),
    "no chunk": ("ball.obj", ["--chunk-voxels", "0"], "--chunk-voxels must be at least 1, got 0"),
    "threshold out of range": ("ball.obj", ["--threshold", "0", "99"], "threshold_2 must be in [-10, 10], got 99"),
    "NaN threshold": ("ball.obj", ["--threshold", "nan", "0"], "threshold_1 must be in [-10, 10], got nan"),
    "noise out of range": ("ball.obj", ["--noise", "-1"], "noise must be in [0, 4], got -1"),
    "interpolation out of range": ("ball.obj", ["--other", "ball.obj", "--interpolate", "2"],
                                   "interpolate must be in [0, 1], got 2"),
    "no points": ("ball.obj", ["--points", "0"], "--points must be a whole number in [1, 100000000], got 0"),
    "negative seed": ("ball.obj", ["--seed", "-1"], "--seed must be a whole number in [0, 2^31), got -1"),
    "overflowing keys": ("ball.obj", ["--resolution", "524288"], "resolution must be a whole number in [1, 524287]"),
    "resolution 0": ("ball.obj", ["--resolution", "0"], "resolution must be a whole number in [1, 524287]"),
    "more than memory": ("ball.obj", ["--resolution", "524287"], "resolution 524287 would take about"),
    "half precision": ("ball.obj", ["--dtype", "float16"], "dtype must be float32, or float16 or bfloat16 on CUDA"),
    "no YAML": ("ball.obj", ["--config", "text.txt"], "text.txt: a config must be a table with encoder"),
    "broken YAML": ("ball.obj", ["--config", "broken.yaml"], "broken.yaml: not a YAML config"),
    "YAML that runs code": ("ball.obj", ["--config", "hostile.yaml"], "hostile.yaml: not a YAML config"),
    "another attention": ("ball.obj", ["--config", "full.yaml"], "encoder.attn_mode must be 'swin', got 'full'"),
    "other sizes": ("ball.obj", ["--config", "wide.yaml"], "48 of another shape (encoder.input_layer.weight"),
    "no weights": ("ball.obj", ["--checkpoint", "no.safetensors"], "no.safetensors: no such file"),
    "a folder": ("ball.obj", ["--checkpoint", "."], "is a directory, not a checkpoint"),
    "wrong suffix": ("ball.obj", ["--checkpoint", "text.txt"], "text.txt: unknown checkpoint type '.txt'"),
    "garbage": ("ball.obj", ["--checkpoint", "text.safetensors"], "text.safetensors: can't be read as safetensors"),
    "hostile header": ("ball.obj", ["--checkpoint", "header.safetensors"], "header.safetensors: can't be read"),
    "cut off": ("ball.obj", ["--checkpoint", "cut.safetensors"], "cut.safetensors: can't be read as safetensors"),
    "cut off .pt": ("ball.obj", ["--checkpoint", "cut.pt"], "cut.pt: can't be read as weights"),
    "code in it": ("ball.obj", ["--checkpoint", "code.pt"], "code.pt: holds more than weights"),
    "code alone": ("ball.obj", ["--checkpoint", "pickle.pt"], "pickle.pt: "),
    "a part of it": ("ball.obj", ["--checkpoint", "part.safetensors"], "1 missing (decoder.out_layer.bias)"),
    "more than that": ("ball.obj", ["--checkpoint", "more.safetensors"], "1 unexpected (extra)"),
}


@pytest.fixture
def bad_files(files, weights):
    from safetensors.torch import load_file, save_file

    normal = np.array([[0.0, 0, 1], [0, 0, 1]])
    np.savez("bare.npz", points=np.eye(3))
    np.savez("nan.npz", points=np.array([[0, 0, 0], [1, np.nan, 0]]), normals=normal)
    np.savez("one.npz", points=normal[:1], normals=normal[:1])
    np.savez("pickled.npz", points=np.array([[Payload()] * 3], object), normals=normal[:1])
    Path("text.txt").write_text("hello\n")
    Path("text.safetensors").write_text("hello\n")
    Path("header.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{" * 100)
    Path("cut.safetensors").write_bytes(weights.read_bytes()[:-100])
    tensors = load_file(weights)
    torch.save(tensors, "whole.pt")
    Path("cut.pt").write_bytes(Path("whole.pt").read_bytes()[:5000])
    torch.save({"state_dict": tensors, "more": Payload()}, "code.pt")
    Path("pickle.pt").write_bytes(pickle.dumps(Payload()))
    save_file({key: value for key, value in tensors.items() if key != "decoder.out_layer.bias"}, "part.safetensors")
    save_file({**tensors, "extra": torch.zeros(1)}, "more.safetensors")
    Path("broken.yaml").write_text("encoder: [1\n")
    Path("hostile.yaml").write_text("encoder: !!python/object/apply:pathlib.Path.touch [executed]\n")
    Path("full.yaml").write_text(YAML.format(attention="full", heads=4, resolution=8))
    Path("wide.yaml").write_text("encoder: {model_channels: 512}\n")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_loses_nothing(case, bad_files, capsys):
    what, options, said = BAD[case]
    checkpoint = [] if "--checkpoint" in options else ["--checkpoint", "vae.safetensors"]
    Path("o").mkdir()
    Path("o", MESH).write_text("an older result")
    found = refused(capsys, "reconstruct", what, *checkpoint, *options, "--headless", "--device", "cpu", "--out", "o")
    assert said in found, found
    assert [path.name for path in Path("o").iterdir()] == [MESH] and not Path("executed").exists()
    assert Path("o", MESH).read_text() == "an older result"


def test_other_sizes_name_the_keys(files, capsys):
    SparseFlexVAE(dataclasses.replace(SIZES, n_encoder_blocks=2)).save("two.safetensors")
    Path("one.yaml").write_text("encoder: {num_blocks: 1}\ndecoder: {}\n")
    said = refused(capsys, "reconstruct", "ball.obj", "--checkpoint", "two.safetensors", "--config", "one.yaml",
                   "--headless", "--out", "o")
    assert "6 unexpected (encoder.blocks.1." in said or "8 unexpected (encoder.blocks.1." in said


def test_points_outside_the_box_are_refused_by_the_api(weights):
    model = SparseFlexVAE.from_checkpoint(weights)
    up = torch.tensor([[0.0, 0, 1]])
    with pytest.raises(ValueError, match=r"points must lie in \[-0.5, 0.5\]\^3, got 1 of 1 outside"):
        ReconstructRun(model, torch.tensor([[0.0, 0.6, 0]]), up)
    run = ReconstructRun(model, torch.zeros(1, 3), up)  # a single point inside is no error
    run.run_pass()
    assert run.scalars()["points"] == 1


def test_a_recipe_names_a_network_and_its_settings(files, figures, capsys):
    Path("r.toml").write_text('[source]\npath = "ball.obj"\nnetwork = "vae.safetensors"\n'
                              '[[panels]]\n[[panels]]\n[panels.source]\nsettings = {threshold_2 = 0.2}\n')
    recipe = open_recipe(Path("r.toml"))
    snapshots = gather([panel.source for panel in recipe.panels], Path("."),
                       lambda number, snapshot: frozenset({"mesh", "prune 2/voxels"}))
    assert reconstruct("ball.obj", "--out", "o", "--threshold", "0", "0.2") == 0
    n_faces = [len(snapshot.fields["mesh"].faces) for snapshot in snapshots]
    assert n_faces[1] == metrics_in("o")["scalars"]["faces"] != n_faces[0]
    assert [snapshot.iteration for snapshot in snapshots] == [1, 1]
    capsys.readouterr()
    for source, said in (
        ('path = "ball.obj"\nsettings = {threshold_2 = "a"}', "settings must be a table of finite numbers"),
        ('path = "ball.obj"\nsettings = {threshold_2 = 1}', "settings go with network"),
        ('path = "ball.obj"\nnetwork = "tiny_vae"\nfit = {resolution = 9}', "fit and network can't both be given"),
        ('path = "ball.obj"\nnetwork = "vae.safetensors"\nsettings = {threshold_9 = 1}', "setting must be one of"),
        ('path = "ball.obj"\nnetwork = "none"', "none: no such file"),
        ('path = "vae.safetensors"\nnetwork = "tiny_vae"', "source.network goes with a mesh, a scene or a point cloud"),
        ('path = "vae.safetensors"', "holds the weights of a VAE and no run"),
    ):
        Path("bad.toml").write_text(f"[source]\n{source}\n")
        assert said in refused(capsys, "figure", "bad.toml"), source


def test_view_refuses_what_does_not_go_together(files, capsys):
    Path("vae.pt").touch()
    for weights in ("vae.safetensors", "vae.pt"):
        said = refused(capsys, "view", weights, "--headless")
        assert said == f"{weights} holds the weights of a VAE: name a shape to reconstruct with --mesh"
    assert "--mesh goes with the weights of a VAE, got ball.obj" in refused(
        capsys, "view", "ball.obj", "--mesh", "ball.obj", "--headless")
    Path("cut.safetensors").write_bytes(Path("vae.safetensors").read_bytes()[:-9])
    for weights, why in (("cut.safetensors", "which holds none or is cut off"), ("no.safetensors", "no such file")):
        said = refused(capsys, "view", weights, "--mesh", "ball.obj", "--headless")
        assert said.startswith(f"--mesh goes with the weights of a VAE, got {weights}, ") and why in said
    np.savez("cloud.npz", points=np.eye(3), normals=np.eye(3))
    for command in (("view", "cloud.npz", "--headless"), ("fit", "cloud.npz", "--headless")):
        assert "cloud.npz: holds points, and a fit needs a mesh; `workbench reconstruct" in refused(capsys, *command)
    for flag in (["--other", "a"], ["--config", "a"], ["--points", "9"], ["--dtype", "float16"]):
        assert f"{flag[0]} goes with the weights of a VAE" in refused(capsys, "view", "house", *flag, "--headless")
    assert "can't be shown beside anything" in refused(capsys, "view", "vae.safetensors", "house", "--mesh", "ball.obj")
    assert "--start-resolution does not apply" in refused(
        capsys, "view", "vae.safetensors", "--mesh", "ball.obj", "--start-resolution", "4")
    for command in ("fit", "export"):
        flags = ["--headless"] if command == "fit" else ["--to", "a.ply"]
        assert "holds the weights of a VAE and no run" in refused(capsys, command, "vae.safetensors", *flags)


def test_a_run_of_inference_goes_on_only_as_far_as_is_said(files, figures, capsys):
    assert reconstruct("ball.obj", "--out", "o") == 0
    capsys.readouterr()
    again = ["fit", f"o/{CHECKPOINT}", "--headless", "--out", "w"]
    assert "has no number of iterations of its own" in refused(capsys, *again) and not Path("w", MESH).exists()
    assert cli.main([*again, "--iterations", "2"]) == 0
    assert metrics_in("w")["iteration"] == 2 and Path("w", MESH).read_bytes() == Path("o", MESH).read_bytes()


def test_without_a_display_it_says_headless(files, capsys):
    said = refused(capsys, "reconstruct", "ball.obj", "--checkpoint", "vae.safetensors")
    assert said.endswith("add --headless to do without one")


def test_memory_is_estimated_before_and_says_what_helps(files, capsys, monkeypatch):
    model = SparseFlexVAE.from_checkpoint("vae.safetensors")
    cloud = torch.rand(5000, 3) - 0.5
    small, large = (vae_memory.expected_bytes(model.config, 5000, n) for n in (1e3, 1e5))
    assert small < large < 1e11
    assert vae_memory.expected_bytes(model.config, 5000, 1e5, chunk_voxels=4096) < large
    assert vae_memory.expected_bytes(model.config, 5000, 1e5, prune=False) > large
    assert 0.5 * large <= vae_memory.expected_bytes(model.config, 5000, 1e5, half=True) < 0.8 * large
    voxels = input_voxels(cloud, 8).n_voxels
    assert 0.3 < vae_memory.expected_voxels(cloud, 8) / voxels < 3
    monkeypatch.setattr(vae_memory, "available_bytes", lambda device: 2.2e9)
    flags = ("reconstruct", "ball.obj", "--checkpoint", "vae.safetensors", "--headless", "--out", "o")
    said = refused(capsys, *flags, "--resolution", "130")
    assert said.startswith("resolution 130 would take about") and "with --chunk-voxels 4096 it would take" in said
    monkeypatch.setattr(vae_memory, "available_bytes", lambda device: 1e5)
    assert "a lower --resolution takes less" in refused(capsys, *flags)
    # a file may ask for any number of points: they are not even sampled then
    monkeypatch.setattr(vae_memory, "available_bytes", lambda device: 1e9)
    monkeypatch.setattr("workbench.reconstruction.sample_points", None)
    said = refused(capsys, *flags, "--points", "100000000")
    assert said.startswith("resolution 8 would take about") and "for 100,000,000 points" in said


def test_memory_that_torch_keeps_of_a_device_counts_as_free(monkeypatch):
    for name, found in (("mem_get_info", (5, 100)), ("memory_reserved", 40), ("memory_allocated", 10)):
        monkeypatch.setattr(torch.cuda, name, lambda device, found=found: found)
    assert available_bytes("cuda") == 35


def test_running_out_of_memory_is_one_line_and_code_1(files, figures, monkeypatch, capsys):
    def run_stage(run, stage):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    monkeypatch.setattr(ReconstructRun, "run_stage", run_stage)
    assert reconstruct("ball.obj", "--out", "o") == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("not enough memory:") and "--chunk-voxels" in told[-1]
    assert list(Path("o").iterdir()) == []


def test_ctrl_c_ends_between_two_stages(files, figures, monkeypatch, capsys):
    import os
    import signal

    plain = ReconstructRun.run_stage

    def run_stage(run, stage):
        plain(run, stage)
        if stage == "voxels":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ReconstructRun, "run_stage", run_stage)
    assert reconstruct("ball.obj", "--out", "o") == 130
    assert "stopped before the end of the pass" in capsys.readouterr().err
    assert [path.name for path in Path("o").iterdir()] == [CHECKPOINT]
