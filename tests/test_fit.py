"""The fit run: sections, the row-wise optimiser, stages, and bit-exact resumption."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import sparseflex as sf
from sparseflex.checkpoint import load_checkpoint, load_run, save_checkpoint
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import STAGES, FitRun
from sparseflex.training.fit_parameters import FitParameters, initial_sdf, voxels_around
from sparseflex.training.rowwise_adamw import RowwiseAdamW
from sparseflex.training.run import Run


def octahedron(radius: float = 0.5) -> sf.Mesh:
    vertices = torch.tensor([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]) * radius
    faces = [(0, 2, 4), (2, 1, 4), (1, 3, 4), (3, 0, 4), (2, 0, 5), (1, 2, 5), (3, 1, 5), (0, 3, 5)]
    return sf.Mesh(vertices, torch.tensor(faces))


SMALL = FitConfig(resolution=16, image_size=48, iterations=40)


def small_run(**changes) -> FitRun:
    return FitRun(octahedron(), dataclasses.replace(SMALL, **changes))


def everything(run: FitRun) -> dict[str, torch.Tensor]:
    optimiser = run.parameters.optimiser.state_dict()
    state = {f"{kind}/{name}": t for kind, tensors in optimiser.items() for name, t in tensors.items()}
    return {name: tensor.clone() for name, tensor in (run.parameters.tensors() | state).items()}


# -- optimiser ------------------------------------------------------------------------------------------------


def test_all_rows_at_every_step_is_torch_adamw():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    own = RowwiseAdamW({"p": ours}, weight_decay=0.03)
    reference = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.99), weight_decay=0.03)
    for _ in range(20):
        grad = torch.randn(6, 3, generator=generator, dtype=torch.float64)
        own.step("p", None, grad, 0.1)
        theirs.grad = grad
        reference.step()
    assert torch.allclose(ours, theirs.detach(), atol=1e-12)


def test_rows_are_on_their_own():
    generator = torch.Generator().manual_seed(1)
    whole = RowwiseAdamW({"p": torch.zeros(5, 2)})
    alone = [RowwiseAdamW({"p": torch.zeros(1, 2)}) for _ in range(5)]
    for _ in range(30):
        rows = (torch.rand(5, generator=generator) < 0.5).nonzero().squeeze(1)
        grad = torch.randn(len(rows), 2, generator=generator)
        whole.step("p", rows, grad, 0.1)
        for row, g in zip(rows.tolist(), grad, strict=True):
            alone[row].step("p", None, g[None], 0.1)
    assert torch.equal(whole.parameters["p"], torch.cat([one.parameters["p"] for one in alone]))


# -- sections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_inactive_voxels_and_their_corners_keep_their_bits(ratio):
    run = small_run(visibility_ratio=ratio, halo=1, zoom_share=1.0)
    for _ in range(6):
        before = everything(run)
        run.run_iteration()
        after, active = everything(run), run.read_field("active")
        corners = run.voxels.voxel_corners[~active].unique().long()
        rows = {"sdf": corners, "deform": corners, "weights": (~active).nonzero().squeeze(1)}
        for name, tensor in after.items():
            still = rows[name.split("/")[-1]]
            assert torch.equal(tensor[still], before[name][still]), name
        assert bool(active.any()) and not torch.equal(after["sdf"], before["sdf"])


def test_a_section_has_the_gradients_of_the_whole():
    run = small_run()
    run.run_stage("sample_cameras")
    voxels = run.voxels
    active = voxels.centers[:, 0] > 0
    section = run.parameters.section(active)
    mesh = sf.extract_mesh(section.flex, training=True)
    (mesh.vertices.square().sum() + mesh.l_dev.sum()).backward()
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in run.parameters.tensors().items()}
    whole = FitParameters(voxels, leaves["sdf"].detach())
    flex = dataclasses.replace(whole.flex(), corner_sdf=leaves["sdf"], corner_deform=leaves["deform"])
    mesh = sf.extract_mesh(flex, active, training=True)
    (mesh.vertices.square().sum() + mesh.l_dev.sum()).backward()
    for name in ("sdf", "deform"):
        assert torch.allclose(section.gradients()[name], leaves[name].grad[section.corner_rows], atol=1e-6)


@pytest.mark.parametrize("kind", ["random", "sphere", "points"])
def test_initial_sdf(kind):
    target = octahedron()
    voxels = sf.SparseVoxels.from_mesh(target, 16, 0.25)
    sdf = initial_sdf(kind, voxels, target, torch.Generator().manual_seed(0))
    assert sdf.shape == (voxels.n_corners,) and bool((sdf < 0).any()) and bool((sdf > 0).any())
    if kind != "random":
        centre = voxels.corners_world.norm(dim=1).argmin()
        assert sdf[centre] < 0  # inside is negative


def test_memory_numbers():
    run = small_run(cut_share=0.5, window_share=0.5)
    for _ in range(9):
        run.run_iteration()
    n, c = run.voxels.n_voxels, run.voxels.n_corners
    # value, two moments and a step count for each of 21 weights a voxel, an SDF and three deformations a corner
    assert run.scalars()["resident_bytes"] == 4 * (3 * 21 * n + n + 3 * 4 * c + 2 * c)
    if math.isnan(run.scalars()["peak_bytes"]):
        pytest.skip("this system tells no peak")
    sections, works = run.history["work_voxels"], run.history["work_bytes"]
    assert math.isnan(works[0]) and all(work >= 0 for work in works[1:])
    assert sections[1:] == run.history["section"][1:]


def test_gradient_fields_are_the_loss_gradients_of_the_whole_set():
    run = small_run(visibility_ratio=0.4, halo=1, zoom_share=1.0)
    run.run_iteration()
    for stage in STAGES[: STAGES.index("backward")]:
        run.run_stage(stage)
    names = ("sdf_grad", "deform_grad", "weights_grad")
    assert all(run.read_field(name) is None for name in names)  # the last iteration's are no longer there
    section = run._section
    run.run_stage("backward")
    assert 0 < len(section.voxel_rows) < run.voxels.n_voxels
    for name, rows, n_rows in zip(names, (section.corner_rows, section.corner_rows, section.voxel_rows),
                                  (run.voxels.n_corners, run.voxels.n_corners, run.voxels.n_voxels), strict=True):
        expected = torch.zeros(n_rows)
        grads = section.gradients()[name.removesuffix("_grad")].reshape(len(rows), -1)
        for row, grad in zip(rows.tolist(), grads, strict=True):
            expected[row] = grad.double().square().sum().sqrt()
        assert torch.allclose(run.read_field(name), expected, rtol=1e-5) and float(expected.max()) > 0, name
    for stage in STAGES[STAGES.index("backward") + 1 :]:
        run.run_stage(stage)
    assert float(run.read_field("sdf_grad").max()) > 0  # they stay until the next section needs the memory


def test_gradient_fields_of_a_run_that_sees_everything_or_nothing():
    run = small_run(halo=8)
    for stage in STAGES[: STAGES.index("backward") + 1]:
        run.run_stage(stage)
    assert run.read_field("weights_grad").shape == (run.voxels.n_voxels,)
    run.load_state_dict(run.state_dict())
    assert run.read_field("sdf_grad") is None


def square(low: float, high: float) -> sf.Mesh:
    corners = [(low, 0.004, -0.3), (high, 0.004, -0.3), (high, 0.004, 0.3), (low, 0.004, 0.3)]
    return sf.Mesh(torch.tensor(corners), torch.tensor([[0, 2, 1], [0, 3, 2]]))


def test_voxels_between_two_borders_are_not_grown():
    left, right = square(-0.4, -0.02), square(0.0, 0.4)
    both = sf.Mesh(torch.cat([left.vertices, right.vertices]), torch.cat([left.faces, right.faces + 4]))
    grown, touched = (sf.SparseVoxels.from_mesh(both, 32, margin) for margin in (0.25, 0.0))
    found = voxels_around(both, 32)
    assert touched.n_voxels < found.n_voxels < grown.n_voxels
    lost = grown.voxel_ijk[found.find(grown.voxel_ijk) < 0]
    assert len(lost) and set(lost[:, 0].tolist()) <= {13, 14, 15, 16, 17}  # the gap is at 15
    assert bool((found.find(touched.voxel_ijk) >= 0).all())
    # loose triangles at one place have no border between them
    loose = octahedron()
    loose = sf.Mesh(loose.vertices[loose.faces].reshape(-1, 3), torch.arange(24).view(8, 3))
    assert torch.equal(voxels_around(loose, 32).keys, voxels_around(octahedron(), 32).keys)
    # one border alone, or none, is grown like everything else
    for mesh in (left, octahedron()):
        assert torch.equal(voxels_around(mesh, 32).voxel_ijk, sf.SparseVoxels.from_mesh(mesh, 32, 0.25).voxel_ijk)


# -- the run --------------------------------------------------------------------------------------------------


def test_it_is_a_run_and_learns():
    run = small_run(iterations=150)
    assert isinstance(run, Run) and tuple(run.stages) == STAGES
    losses = []
    for _ in range(150):
        run.run_iteration()
        losses.append(run.scalars()["loss"])
    assert sum(losses[-10:]) < 0.25 * sum(losses[:10])
    wanted = {"iteration", "loss", "voxels", "active", "visible_fraction", "vertices", "faces", "near", "far",
              "grad_norm", "stage_secs", "peak_bytes", "loss_depth", "loss_normal", "loss_mask", "loss_ssim",
              "loss_dev", "loss_sign"}
    assert wanted <= set(run.scalars())
    assert run.scalars()["loss"] == pytest.approx(sum(v for k, v in run.scalars().items() if k.startswith("loss_")))
    for name, kind in run.fields.items():
        value = run.read_field(name)
        assert value is not None or kind == "trace", name
    mesh = run.extract()
    radius = mesh.vertices.abs().sum(1)  # 0.5 on the octahedron
    assert float((radius - 0.5).abs().mean()) < 0.4 / 16  # 1.03 / 16 before the first iteration


def test_a_flat_target_has_no_room_for_interior_cameras_and_fits_all_the_same():
    corners = torch.tensor([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])
    run = FitRun(sf.Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]])), SMALL)
    for _ in range(8):
        run.run_iteration()
    assert {seen.kind for seen in run.cameras()} <= {"orbit", "zoom"} and run.scalars()["faces"] > 0


def test_targets_must_be_normalised():
    with pytest.raises(ValueError, match=r"target must lie in .*, the normalised frame, got coordinates up to 0.7"):
        FitRun(octahedron(0.7), SMALL)


def test_stages_come_in_order():
    run = small_run()
    with pytest.raises(ValueError, match="stage must be 'sample_cameras', the next one, got 'render'"):
        run.run_stage("render")
    for stage in STAGES:
        run.run_stage(stage)
    assert run.iteration == 1 and set(run.stage_costs) == set(STAGES)


@pytest.mark.parametrize("stop_after", [0, 3, 7])
def test_resumes_bit_by_bit_from_between_any_two_stages(tmp_path, stop_after):
    config = {"visibility_ratio": 0.4, "cameras": 2, "zoom_share": 0.3, "fixed_share": 1.0}
    own = [sf.Camera.look_at((0, 0.2, 1.5), (0, 0, 0), width=40, height=30, near=1.2, far=2.0)]

    def small_run(**changes) -> FitRun:
        return FitRun(octahedron(), dataclasses.replace(SMALL, **changes), fixed_cameras=own)

    straight = small_run(**config)
    for _ in range(10):
        straight.run_iteration()
    first = small_run(**config)
    for _ in range(5):
        first.run_iteration()
    for stage in STAGES[:stop_after]:
        first.run_stage(stage)
    save_checkpoint(tmp_path / "c.safetensors", first)
    second = load_run(tmp_path / "c.safetensors")
    for _ in range(5):
        second.run_iteration()
    assert second.iteration == straight.iteration == 10
    assert "fixed" in {seen.kind for seen in second.cameras()}
    expected = everything(straight)
    for name, tensor in everything(second).items():
        assert torch.equal(tensor, expected[name]), name
    timed = {"stage_secs", "peak_bytes", "work_bytes", "work_voxels"}
    assert {k: v for k, v in second.scalars().items() if k not in timed} == {
        k: v for k, v in straight.scalars().items() if k not in timed
    }


def test_a_reopened_run_shows_the_same(tmp_path):
    run = small_run(visibility_ratio=0.5)
    for _ in range(7):
        run.run_iteration()
    save_checkpoint(tmp_path / "c.safetensors", run)
    again = load_run(tmp_path / "c.safetensors")
    assert again.iteration == 7 and again.scalars() == run.scalars()
    assert again.history == {name: pytest.approx(column, nan_ok=True, rel=0) for name, column in run.history.items()}
    assert again.stage_costs == run.stage_costs and again.settings == run.settings
    for name in run.fields:
        a, b = run.read_field(name), again.read_field(name)
        if name.endswith("_grad"):  # of a section that is gone: a backward pass makes them anew
            assert a is not None and b is None
            continue
        a, b = (x.vertices if isinstance(x, sf.Mesh) else x for x in (a, b))
        a, b = (x.voxel_ijk if isinstance(x, sf.SparseVoxels) else x for x in (a, b))
        assert torch.equal(torch.isnan(a), torch.isnan(b)) and torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)), name
    for a, b in zip(run.cameras(), again.cameras(), strict=True):
        assert torch.equal(a.camera.camera_from_world, b.camera.camera_from_world)
        assert (a.kind, a.loss, a.n_active, a.iteration, a.camera.near, a.camera.far) == (
            b.kind, b.loss, b.n_active, b.iteration, b.camera.near, b.camera.far)


def test_settings_change_while_it_runs():
    run = small_run()
    run.change_setting("visibility_ratio", 0.25)
    run.run_iteration()
    assert run.scalars()["visible_fraction"] <= 0.3
    with pytest.raises(ValueError, match=r"visibility_ratio must be in \(0, 1\], got 1.5"):
        run.change_setting("visibility_ratio", 1.5)
    with pytest.raises(ValueError, match="setting must be one of"):
        run.change_setting("colour", 1)


@pytest.mark.parametrize("stop_after", [0, 3])
def test_a_setting_changed_between_stages_waits_for_the_next_iteration_also_in_a_checkpoint(tmp_path, stop_after):
    def run_to(resume: bool) -> FitRun:
        run = small_run()
        for _ in range(3):
            run.run_iteration()
        for stage in STAGES[:stop_after]:
            run.run_stage(stage)
        run.change_setting("visibility_ratio", 0.3)
        run.change_setting("ssim_weight", 0.0)
        assert run.settings["visibility_ratio"].value == 0.3
        assert run.config.visibility_ratio == 1.0
        if resume:
            save_checkpoint(tmp_path / "c.safetensors", run)
            run = load_run(tmp_path / "c.safetensors")
            assert run.settings["visibility_ratio"].value == 0.3
        for _ in range(4 if stop_after == 0 else 5):
            run.run_iteration()
        return run

    straight, resumed = run_to(resume=False), run_to(resume=True)
    while resumed.iteration < straight.iteration:
        resumed.run_iteration()
    while straight.iteration < resumed.iteration:
        straight.run_iteration()
    expected = everything(straight)
    for name, tensor in everything(resumed).items():
        assert torch.equal(tensor, expected[name]), name
    assert straight.config.visibility_ratio == 0.3
    # a term that is no longer there leaves neither value nor history behind
    assert "loss_ssim" not in straight.scalars() and math.isnan(straight.history["loss_ssim"][-1])
    assert len({len(column) for column in straight.history.values()}) == 1


def test_checkpoints_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match="can't be read as a checkpoint"):
        load_checkpoint(tmp_path / "junk.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no run's checkpoint"):
        load_checkpoint(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"visibility_ratio": 0.0}, r"visibility_ratio must be in \(0, 1\], got 0"),
        ({"visibility_ratio": float("nan")}, r"visibility_ratio must be in \(0, 1\], got nan"),
        ({"resolution": 0}, r"resolution must be a whole number in \[4, 4096\], got 0"),
        ({"seed": 10**400}, r"seed must be a whole number in \[0, 2147483647\], got 10000"),
        ({"lr_sdf": float("inf")}, r"lr_sdf must be in \[0, 100\], got inf"),
        ({"halo": 2.0}, r"halo must be a whole number in \[0, 8\], got 2.0"),
        ({"init": "cube"}, "init must be one of random, sphere, points, got 'cube'"),
        ({"orbit_share": 0.0, "zoom_share": 0.0, "interior_share": 0.0}, "must not all be 0"),
        ({"cut_share": 0.8, "window_share": 0.5}, r"cut_share \+ window_share must be in \[0, 1\], got 1.3"),
        ({"lpips_weight": 1.0}, "lpips_weights_file must name a file"),
    ],
)
def test_bad_settings(changes, words):
    with pytest.raises(ValueError, match=words):
        FitConfig(**changes)
