"""Faults planted by a scene: each does what it says and nothing else, and stays itself over a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_fixtures import SMALL
from fake_run import icosphere_like

from sparseflex.checkpoint import load_run, save_checkpoint
from sparseflex.data import save_mesh
from sparseflex.mesh import Mesh
from sparseflex.quality import finite_part, surface_quality
from sparseflex.scene import load_scene
from sparseflex.training.config import FitConfig
from sparseflex.training.faults import Fault
from sparseflex.training.fit import FitRun
from sparseflex.triangle_distance import point_to_triangle_distance
from workbench import cli
from workbench.headless import CHECKPOINT, FIGURE, MESH, METRICS

pytest_plugins = ("cli_fixtures",)

BALL = {"x": 0.4, "y": 0.0, "z": 0.0, "radius": 0.15}


def run_with(*faults: Fault, **settings) -> FitRun:
    config = FitConfig(**{"resolution": 12, "iterations": 20, "image_size": 32, "init": "points", **settings})
    return FitRun(icosphere_like(12, 0.4), config, faults=faults)


def in_ball(places: torch.Tensor) -> torch.Tensor:
    return ((places - places.new_tensor([0.4, 0.0, 0.0])).square().sum(1).sqrt() <= 0.15).nonzero().squeeze(1)


def test_missing_voxels_are_left_out_and_the_rest_keeps_its_values():
    whole, holed = run_with(), run_with(Fault("missing_voxels", **BALL))
    gone = whole.voxels.find(holed.voxels.voxel_ijk)
    missing = torch.ones(whole.voxels.n_voxels, dtype=torch.bool)
    missing[gone] = False
    assert torch.equal(missing.nonzero().squeeze(1), in_ball(whole.voxels.centers)) and bool(missing.any())
    corners = whole.voxels.find_corners(holed.voxels.corner_ijk)
    assert torch.equal(holed.parameters.sdf, whole.parameters.sdf[corners])


def test_no_surface_has_no_face_and_a_ball_of_it_only_there():
    assert run_with(Fault("no_surface")).extract().n_faces == 0
    part, whole = run_with(Fault("no_surface", **BALL)), run_with()
    changed = (part.parameters.sdf != whole.parameters.sdf).nonzero().squeeze(1)
    assert bool((part.parameters.sdf[in_ball(part.voxels.corners_world)] > 0).all())
    assert set(changed.tolist()) <= set(in_ball(part.voxels.corners_world).tolist()) and len(changed)


def test_a_flip_and_a_nan_strike_once_when_their_iteration_has_ended():
    plain, struck = run_with(), run_with(Fault("flipped_sdf", iteration=2, **BALL))
    bad = run_with(Fault("nan_weights", iteration=2, x=0.4))
    for ended in (1, 2):
        for run in (plain, struck, bad):
            run.run_iteration()
        assert torch.equal(struck.parameters.sdf, plain.parameters.sdf) == (ended < 2)
        assert bool(bad.parameters.weights.isnan().any()) == (ended == 2)
    rows = in_ball(plain.voxels.corners_world)
    expected = plain.parameters.sdf.clone()
    expected[rows] *= -1
    assert torch.equal(struck.parameters.sdf, expected)
    row = (bad.voxels.centers - torch.tensor([0.4, 0.0, 0.0])).norm(dim=1).argmin()
    spoiled = bad.parameters.weights.isnan()
    assert bool(spoiled[row].all()) and int(spoiled.any(dim=1).sum()) == 1
    struck.run_iteration()
    assert not torch.equal(struck.parameters.sdf[rows], plain.parameters.sdf[rows])


def test_planes_hold_from_their_iteration_on_and_nothing_is_active():
    run = run_with(Fault("planes", iteration=1, near=0.001, far=0.002))
    for ended in range(3):
        run.run_iteration()
        assert (run.scalars()["active"] == 0) == (ended >= 1)
    assert run.scalars()["near"] == pytest.approx(0.001) and run.scalars()["faces"] == 0


@pytest.mark.parametrize("stage", [0, 4, 8])
def test_a_checkpoint_from_any_stage_is_struck_alike(tmp_path, stage):
    """Also from one before the strike: the state says what is still to come; from `prune` it is just about to."""
    faults = (Fault("missing_voxels", **BALL), Fault("flipped_sdf", x=-0.4, radius=0.15, iteration=2))
    straight, run = run_with(*faults), run_with(*faults)
    for each in (straight, run):
        each.run_iteration()
    for name in run.stages[:stage]:
        run.run_stage(name)
    save_checkpoint(tmp_path / "c.safetensors", run)
    again = load_run(tmp_path / "c.safetensors")
    while again.iteration < 3:
        again.run_iteration()
    while straight.iteration < 3:
        straight.run_iteration()
    for name, tensor in straight.parameters.tensors().items():
        assert torch.equal(tensor, again.parameters.tensors()[name]), name


def scene_file(tmp_path, text: str):
    path = tmp_path / "s.toml"
    save_mesh(tmp_path / "s.obj", icosphere_like(12, 0.4))
    path.write_text('[target]\nmesh = "s.obj"\n[fit]\nresolution = 12\n' + text)
    return path


def test_a_scene_names_its_faults(tmp_path):
    path = scene_file(tmp_path, '[[faults]]\nkind = "planes"\niteration = 3\nnear = 0.1\nfar = 0.2\n')
    assert load_scene(path).faults == (Fault("planes", iteration=3, near=0.1, far=0.2),)


@pytest.mark.parametrize(("text", "said"), [
    ('kind = "gone"', r"s\.toml faults, entry 1: kind must be one of missing_voxels, .*, got 'gone'"),
    ("radius = 0.1", "entry 1 must be a table with kind"),
    ('kind = "flipped_sdf"\nradius = 0', r"radius must be in \(0, 1\], got 0"),
    ('kind = "flipped_sdf"\nwhere = 1', "unknown key 'where'; allowed are"),
    ('kind = "no_surface"\niteration = 2', "iteration must be 0 for no_surface, there from the start, got 2"),
    ('kind = "planes"\nnear = 0.3\nfar = 0.2', r"far must be above near \(0\.3\), got 0\.2"),
])
def test_a_bad_fault_is_one_line(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        load_scene(scene_file(tmp_path, f"[[faults]]\n{text}\n"))


def test_a_ball_that_holds_nothing_is_told():
    with pytest.raises(ValueError, match=r"fault 2: missing_voxels must have a voxel within 0\.01 of \(0, 0, 0\)"):
        run_with(Fault("no_surface"), Fault("missing_voxels", radius=0.01))


def test_voxels_are_born_where_all_were_missing():
    run = run_with(Fault("missing_voxels", radius=1.0), start_resolution=6, prune_every=1)
    assert run.voxels.n_voxels == 0
    for _ in range(3):
        run.run_iteration()
        assert run.read_field("active").shape == (run.voxels.n_voxels,)
    assert run.voxels.n_voxels > 0


def test_what_nan_has_spoiled_is_measured_as_a_hole() -> None:
    target = icosphere_like(12, 0.4)
    spoiled = target.vertices.clone()
    spoiled[7] = float("nan")
    without = Mesh(target.vertices, target.faces[(target.faces != 7).all(dim=1)])
    found, expected = (surface_quality(mesh, target, 16) for mesh in (Mesh(spoiled, target.faces), without))
    assert found == expected and found["boundary_edges"] > 0 and finite_part(target) is target
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    distances = [point_to_triangle_distance(points, mesh) for mesh in (Mesh(spoiled, target.faces), without)]
    assert torch.equal(*distances)


@pytest.mark.usefixtures("no_display", "figures")
def test_a_headless_fit_with_nan_in_it_ends_with_all_its_files(tmp_path, capsys):
    fault = '[[faults]]\nkind = "nan_weights"\nradius = 0.3\niteration = 1\n'
    (tmp_path / "s.toml").write_text(SMALL + fault)
    assert cli.main(["fit", "s.toml", "--headless", "--out", "o"]) == 0
    said = capsys.readouterr()
    assert "faces have a vertex that is not finite; they count as missing" in said.err and "fitted" in said.out
    assert {path.name for path in Path("o").iterdir()} == {MESH, FIGURE, METRICS, CHECKPOINT}
