"""Coarse to fine: the schedule, parameters on another set, the occupancy estimate, and what is pruned and born."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_fit import everything, octahedron, square

import sparseflex as sf
from sparseflex.checkpoint import load_run, save_checkpoint
from sparseflex.extraction import surface_voxels
from sparseflex.metrics import point_to_triangle_distance, sample_points
from sparseflex.render import render_maps
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import STAGES, FitRun
from sparseflex.training.fit_parameters import FitParameters, voxels_around
from sparseflex.training.levels import (
    carry,
    learning_rates,
    level_resolutions,
    level_starts,
    refine,
    view_config,
)
from sparseflex.training.occupancy import Occupancy, PruneReason, target_points
from sparseflex.training.pruning import MAX_EVENTS, PruneEvent, Pruner

TWO = FitConfig(resolution=16, start_resolution=8, image_size=32, iterations=20, level_growth=1.0, prune_every=3,
                interior_share=0.0, visibility_ratio=0.6)
LEVELS = FitConfig(resolution=32, start_resolution=8, image_size=48, iterations=60, level_growth=1.0, prune_every=5)


@pytest.fixture(scope="module")
def fitted() -> FitRun:
    """Through all levels, to the end."""
    run = FitRun(octahedron(), LEVELS)
    for _ in range(LEVELS.iterations):
        run.run_iteration()
    return run


# -- the schedule ---------------------------------------------------------------------------------------------


def test_levels_double_up_to_the_resolution():
    assert level_resolutions(FitConfig(resolution=100)) == (100,)
    assert level_resolutions(FitConfig(resolution=128, start_resolution=32)) == (32, 64, 128)
    assert level_resolutions(FitConfig(resolution=96, start_resolution=96)) == (96,)
    assert level_starts(dataclasses.replace(LEVELS, level_growth=2.0, iterations=70)) == (0, 10, 30)
    assert level_starts(FitConfig()) == (0,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resolution": 100, "start_resolution": 32},
         r"start_resolution must be 0, or at least 4 and resolution \(100\) halved any number of times, got 32"),
        ({"resolution": 96, "start_resolution": 32}, "got 32"),
        ({"resolution": 32, "start_resolution": 64}, "got 64"),
        ({"resolution": 8, "start_resolution": 2}, "got 2"),
        ({"prune_below": 0.6}, r"prune_below must be at most keep_above \(0.5\), got 0.6"),
        ({"level_growth": 0.0}, r"level_growth must be in \(0, 100\], got 0"),
        ({"prune_every": -1}, "prune_every must be a whole number"),
    ],
)
def test_bad_levels(changes, words):
    with pytest.raises(ValueError, match=words):
        FitConfig(**changes)


def test_learning_rates_fall_over_the_run_and_those_of_what_starts_anew_over_each_level():
    starts = (*level_starts(LEVELS), LEVELS.iterations)
    for level in range(3):
        first, last = (learning_rates(LEVELS, level, at) for at in starts[level : level + 2])
        done = starts[level] / LEVELS.iterations
        assert first["sdf"] == pytest.approx(LEVELS.lr_sdf * LEVELS.level_decay**done)
        assert first["deform"] == pytest.approx(LEVELS.lr_deform * (1.0 if level == 0 else LEVELS.level_rate))
        if level > 0:
            assert last["weights"] == pytest.approx(LEVELS.lr_weights * LEVELS.level_decay)
    direct = FitConfig()
    assert learning_rates(direct, 0, 500) == {
        name: rate * direct.lr_decay ** (500 / direct.iterations)
        for name, rate in (("sdf", direct.lr_sdf), ("deform", direct.lr_deform), ("weights", direct.lr_weights))
    }


def test_views_of_coarser_levels_are_smaller():
    config = dataclasses.replace(LEVELS, image_size=1000)
    for level, (resolution, image) in enumerate(((8, 250), (16, 500), (32, 1000))):
        wanted = dataclasses.replace(config, resolution=resolution, image_size=image, start_resolution=0)
        assert view_config(config, level) == wanted
    assert view_config(LEVELS, 0).image_size == LEVELS.image_size  # small ones don't shrink


# -- parameters on another set --------------------------------------------------------------------------------


def some_parameters(resolution: int = 16, seed: int = 0) -> FitParameters:
    generator = torch.Generator().manual_seed(seed)
    voxels = sf.SparseVoxels.from_mesh(octahedron(), resolution, 0.25)
    parameters = FitParameters(voxels, torch.randn(voxels.n_corners, generator=generator))
    for tensors in (parameters.tensors(), parameters.optimiser.mean, parameters.optimiser.square):
        for tensor in tensors.values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    for steps in parameters.optimiser.steps.values():
        steps.copy_(torch.randint(0, 9, steps.shape, generator=generator))
    return parameters


def test_what_stays_is_carried_bit_by_bit():
    before = some_parameters()
    old = before.voxels
    kept = torch.rand(old.n_voxels, generator=torch.Generator().manual_seed(1)) < 0.7
    new = sf.SparseVoxels(torch.cat([old.prune(kept).voxel_ijk, torch.tensor([[0, 0, 0], [8, 8, 8]])]), 16)
    after = carry(before, new)
    corner_row = {tuple(ijk): row for row, ijk in enumerate(old.corner_ijk.tolist())}
    voxel_row = {tuple(ijk): row for row, ijk in enumerate(old.voxel_ijk.tolist())}
    parts = [(p.tensors(), p.optimiser.mean, p.optimiser.square, p.optimiser.steps) for p in (after, before)]
    for to, of in zip(*parts, strict=True):
        for name, ijk, rows in (("sdf", new.corner_ijk, corner_row), ("deform", new.corner_ijk, corner_row),
                                ("weights", new.voxel_ijk, voxel_row)):
            for row, place in enumerate(ijk.tolist()):
                if tuple(place) in rows:
                    assert torch.equal(to[name][row], of[name][rows[tuple(place)]])
    born = new.find(torch.tensor([[0, 0, 0]]))
    assert bool((after.weights[born] == 0).all()) and bool((after.sdf[new.voxel_corners[born].long()] == 0.5).all())


def test_new_corners_continue_their_neighbours():
    voxels = sf.SparseVoxels(torch.tensor([[3, 3, 3]]), 16)
    parameters = FitParameters(voxels, voxels.corner_ijk[:, 0].float() - 3.5)  # outside towards x
    grown = sf.SparseVoxels(torch.tensor([[3, 3, 3], [3, 4, 3], [3, 5, 3]]), 16)
    after = carry(parameters, grown)
    assert torch.equal(after.sdf, grown.corner_ijk[:, 0].float() - 3.5)


def test_a_subdivided_surface_stays_where_it_is():
    ball = sf.SparseVoxels(torch.cartesian_prod(*[torch.arange(16)] * 3), 16)
    ball = ball.prune((ball.centers.norm(dim=1) - 0.4).abs() < 2 / 16)
    generator = torch.Generator().manual_seed(0)
    parameters = FitParameters(ball, 5 * (ball.corners_world.norm(dim=1) - 0.4))  # a slope of its own
    parameters.deform += torch.randn(parameters.deform.shape, generator=generator) * 0.3
    parameters.weights += torch.randn(parameters.weights.shape, generator=generator) * 0.3
    children = parameters.voxels.subdivide()
    none = torch.zeros(children.n_voxels, dtype=torch.bool)
    fine = refine(parameters, children, none, torch.Generator())
    before, after = (sf.extract_mesh(p.flex()) for p in (parameters, fine))
    assert after.n_faces > 2.5 * before.n_faces
    for ours, theirs in ((before, after), (after, before)):
        away = point_to_triangle_distance(sample_points(ours, 2000, generator).points, theirs) * 16
        assert float(away.mean()) < 0.04 and float(away.quantile(0.99)) < 0.2
    assert float(fine.sdf.abs().max()) <= 1 and all(int(s.sum()) == 0 for s in fine.optimiser.steps.values())


def test_without_a_surface_the_sdf_is_interpolated_and_lost_children_start_at_random():
    voxels = sf.SparseVoxels(torch.tensor([[1, 2, 3], [1, 2, 4]]), 8)
    plane = voxels.corner_ijk.float() @ torch.tensor([0.01, 0.02, 0.003]) + 0.1  # trilinear gives it exactly
    children = voxels.subdivide()
    lost = children.voxel_ijk[:, 2] >= 8
    fine = refine(FitParameters(voxels, plane), children, lost, torch.Generator().manual_seed(3))
    free = children.corner_ijk[:, 2] > 8
    expected = 2 * (children.corner_ijk / 2 @ torch.tensor([0.01, 0.02, 0.003]) + 0.1)
    assert torch.allclose(fine.sdf[~free], expected[~free], atol=1e-6)
    assert bool((fine.sdf[free] < 0).any()) and bool((fine.sdf[free] > 0).any())
    assert refine(FitParameters(voxels.prune(torch.zeros(2, dtype=torch.bool)), plane[:0]),
                  children.prune(torch.zeros(16, dtype=torch.bool)), lost[:0], torch.Generator()).sdf.shape == (0,)


# -- the estimate ---------------------------------------------------------------------------------------------


def seen_from(eye: tuple[float, float, float], target: sf.Mesh) -> tuple[sf.Camera, sf.render.Maps]:
    camera = sf.Camera.look_at(eye, (0, 0, 0), width=64, height=64, fov_y_degrees=45, near=0.5, far=3.0)
    return camera, render_maps(target, camera)


def test_target_points_lie_on_the_target_and_turns_share_the_pixels():
    camera, maps = seen_from((0.4, 0.5, 1.6), octahedron())
    parts = [target_points(camera, maps, maps, turn, 2)[0] for turn in range(4)]
    assert sum(len(part) for part in parts) == int(maps.hit.sum())
    assert float(point_to_triangle_distance(torch.cat(parts), octahedron()).max()) < 1e-5
    assert torch.equal(target_points(camera, maps, maps, 5, 2)[0], parts[1])
    # a smaller one: missed where the smaller one is seen by its distance across, infinitely where it is not
    missed = target_points(camera, maps, render_maps(octahedron(0.4), camera), 0, 1)[1]
    inside = missed[missed < torch.inf]
    assert 0 < len(inside) < len(missed) and float(inside.median()) == pytest.approx(0.1 / 3**0.5, rel=0.02)


def observe(voxels: sf.SparseVoxels, target: sf.Mesh, n_views: int, cells: int = 1) -> Occupancy:
    """Full views from all around, with labels as the objective gives them."""
    from sparseflex.training.objective import Objective

    config = FitConfig()
    occupancy, objective = Occupancy.unknown(voxels), Objective(config)
    section = FitParameters(voxels, torch.ones(voxels.n_corners)).section(torch.ones(voxels.n_voxels, dtype=torch.bool))
    for turn, camera in enumerate(sf.sampling.fixed_views(n_views, target, width=96, height=96)):
        maps = render_maps(target, camera)
        labels = objective.corner_labels(section, maps, camera)
        occupancy.observe(voxels, section, labels, camera, maps, maps, cells, turn)
    return occupancy


def test_the_estimate_follows_the_surface():
    target = octahedron(0.4)
    surface = sf.SparseVoxels.from_mesh(target, 16)
    voxels = surface.dilate(2)
    estimate = observe(voxels, target, 60).estimate
    touched = surface.find(voxels.voxel_ijk) >= 0
    outside = (voxels.centers.abs().sum(1) - 0.4) * 16 / 3**0.5 > 1.6  # a voxel's half diagonal and the margin
    assert float(estimate[touched].min()) > 0.9
    known = ~estimate[outside].isnan()
    assert int(known.sum()) > 50 and float(estimate[outside][known].max()) < 0.5
    assert float(estimate[outside][known].median()) < 0.35  # a dozen views each, at 0.08 a view
    inside = (0.4 - voxels.centers.abs().sum(1)) * 16 / 3**0.5 > 1.6
    assert bool(inside.any()) and bool(estimate[inside].isnan().all())  # whole views see no inside: nothing is known


def test_hit_cells_are_the_children_near_the_target():
    target = octahedron(0.4)
    voxels = sf.SparseVoxels.from_mesh(target, 16, 0.25)
    occupancy = observe(voxels, target, 60, cells=2)
    children = voxels.subdivide()
    near, touched = (sf.SparseVoxels.from_mesh(target, 32, margin).find(children.voxel_ijk) >= 0
                     for margin in (0.2501, 0.0))
    hit = occupancy.hit_cells.view(-1)
    assert not bool((hit & ~near).any())
    assert float((hit & touched).sum() / touched.sum()) > 0.97 and float(hit.sum() / near.sum()) > 0.85


def test_missing_voxels_are_called_for_and_forgotten():
    target = octahedron(0.4)
    whole = sf.SparseVoxels.from_mesh(target, 16, 0.25)
    gone = torch.zeros(whole.n_voxels, dtype=torch.bool)
    gone[whole.n_voxels // 2 :: 40] = True
    voxels = whole.prune(~gone)
    occupancy = observe(voxels, target, 40)
    called = sf.SparseVoxels.from_keys(occupancy.missing, 16)
    touched = sf.SparseVoxels.from_mesh(target, 16)
    assert called.n_voxels and bool((voxels.find(called.voxel_ijk) < 0).all())
    assert bool((touched.find(called.voxel_ijk) >= 0).all())
    grown = occupancy.moved(voxels, sf.SparseVoxels.from_keys(torch.cat([voxels.keys, called.keys]).sort().values, 16))
    assert len(grown.missing) == 0 and float(grown.estimate.nan_to_num(1).min()) >= 0
    for _ in range(6):
        occupancy.forget_missing()
    assert len(occupancy.missing) == 0


# -- decisions ------------------------------------------------------------------------------------------------


def pruner_with(estimate: list[float], **changes) -> tuple[Pruner, FitParameters, FitConfig]:
    voxels = sf.SparseVoxels(torch.tensor([[k, 0, 0] for k in range(len(estimate))]), 16)
    pruner = Pruner(octahedron(), voxels)
    pruner.occupancy.estimate = torch.tensor(estimate)
    config = dataclasses.replace(FitConfig(resolution=16, start_resolution=16, prune_every=10), **changes)
    return pruner, FitParameters(voxels, torch.ones(voxels.n_corners)), config


def test_a_voxel_goes_at_the_second_low_look_and_only_then():
    pruner, parameters, config = pruner_with([0.05, 0.05, 0.05, 0.3, 0.9, float("nan")])
    generator = torch.Generator()
    assert pruner.look(parameters, config, 9, generator) is None
    first = pruner.look(parameters, config, 10, generator)
    assert first.event.n_pruned == 0 and first.parameters is parameters
    # one has risen, but not above keep_above: it still waits, and goes once it is low again
    pruner.occupancy.estimate[1] = 0.6
    pruner.occupancy.estimate[2] = 0.4
    second = pruner.look(parameters, config, 20, generator)
    assert second.event.pruned.voxel_ijk[:, 0].tolist() == [0] and second.event.pruned_reason.tolist() == [
        PruneReason.SEEN_PAST]
    assert second.event.pruned_occupancy.tolist() == pytest.approx([0.05])
    pruner.occupancy.estimate[:2] = 0.05
    third = pruner.look(second.parameters, config, 30, generator)
    assert third.event.pruned.voxel_ijk[:, 0].tolist() == [2]
    fourth = pruner.look(third.parameters, config, 40, generator)
    assert fourth.event.pruned.voxel_ijk[:, 0].tolist() == [1]
    assert sorted(fourth.parameters.voxels.voxel_ijk[:, 0].tolist()) == [3, 4, 5]  # never the unknown one
    assert [event.iteration for event in pruner.events] == [10, 20, 30, 40]


def test_births_need_an_estimate_above_keep_above():
    pruner, parameters, config = pruner_with([0.9, 0.9])
    wanted = sf.SparseVoxels(torch.tensor([[0, 1, 0], [1, 1, 0]]), 16)
    pruner.occupancy.missing, order = wanted.keys.long().sort()
    pruner.occupancy.missing_estimate = torch.tensor([0.75, 0.5])[order]
    change = pruner.look(parameters, config, 10, torch.Generator())
    assert change.event.born.voxel_ijk.tolist() == [[0, 1, 0]] and change.event.n_kept == 3
    assert pruner.occupancy.estimate.shape == (3,) and pruner.occupancy.missing.tolist() == [int(wanted.keys[1])]


def test_reasons_and_truth_in_an_event():
    pruner, parameters, config = pruner_with([0.05, 0.3, 0.9, float("nan")])  # the octahedron is nowhere near
    event = pruner.look(parameters, config, 10, torch.Generator()).event
    assert event.n_wrongly_kept == 4 and event.wrongly_kept_reason.tolist() == [
        PruneReason.WAITING, PruneReason.BETWEEN, PruneReason.OCCUPIED, PruneReason.UNKNOWN]
    event = pruner.look(parameters, config, 20, torch.Generator()).event
    assert event.n_pruned == 1 and event.n_wrongly_pruned == 0
    again = PruneEvent.from_state_dict(event.state_dict())
    for field in dataclasses.fields(event):
        a, b = (getattr(e, field.name) for e in (event, again))
        a, b = (x.voxel_ijk if isinstance(x, sf.SparseVoxels) else x for x in (a, b))
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_old_events_go_but_those_of_subdivisions_stay():
    pruner, parameters, config = pruner_with([0.9], prune_every=1)
    pruner.events.append(dataclasses.replace(pruner.look(parameters, config, 1, torch.Generator()).event,
                                             subdivided=True))
    for ended in range(2, MAX_EVENTS + 20):
        pruner.look(parameters, config, ended, torch.Generator())
    assert len(pruner.events) == MAX_EVENTS and sum(event.subdivided for event in pruner.events) == 1


# -- the run --------------------------------------------------------------------------------------------------


def test_it_goes_through_the_levels_and_ends_with_the_right_voxels(fitted):
    resolutions = fitted.history["resolution"]
    assert len(resolutions) == 60 and sorted(set(resolutions)) == [8, 16, 32] and resolutions == sorted(resolutions)
    assert fitted.history["level"][-1] == 2 and fitted.voxels.resolution == 32
    truth = voxels_around(octahedron(), 32)
    missing = (fitted.voxels.find(sf.SparseVoxels.from_mesh(octahedron(), 32).voxel_ijk) < 0).sum()
    wrong = (truth.find(fitted.voxels.voxel_ijk) < 0).sum()
    assert int(missing) < 0.05 * truth.n_voxels and int(wrong) < 0.1 * truth.n_voxels
    mesh = fitted.extract()
    radius = mesh.vertices.abs().sum(1)
    assert float((radius - 0.5).abs().mean()) < 2 / 32 and bool(surface_voxels(fitted.flex()).any())
    subdivisions = [event for event in fitted.prune_events if event.subdivided]
    assert [event.resolution for event in subdivisions] == [16, 32] and [e.iteration for e in subdivisions] == [20, 40]
    assert all(event.n_pruned for event in subdivisions)
    assert len({len(column) for column in fitted.history.values()}) == 1


def test_its_fields_fit_the_present_voxels(fitted):
    n = fitted.voxels.n_voxels
    for name in ("occupancy", "touched", "active", "alpha"):
        assert fitted.read_field(name).shape[0] == n, name
    truth = sf.SparseVoxels.from_mesh(octahedron(), 32)
    assert torch.equal(fitted.read_field("touched"), truth.find(fitted.voxels.voxel_ijk) >= 0)
    assert fitted.read_field("prune") == fitted.prune_events and fitted.fields["prune"] == "prune"
    plain = FitRun(octahedron(), FitConfig(resolution=16))
    assert "prune" not in plain.fields and "occupancy" not in plain.fields and plain.read_field("prune") is None
    assert plain.read_field("touched").shape == (plain.voxels.n_voxels,)


def test_inactive_voxels_keep_their_bits_within_a_level():
    run = FitRun(octahedron(), dataclasses.replace(TWO, visibility_ratio=0.3, halo=1))
    for _ in range(20):
        before, old = run.parameters, run.voxels
        values = {name: tensor.clone() for name, tensor in before.tensors().items()}
        run.run_stage("sample_cameras")
        for stage in STAGES[1:3]:
            run.run_stage(stage)
        still = old.prune(~run.read_field("active"))
        for stage in STAGES[3:]:
            run.run_stage(stage)
        if run.voxels.resolution != old.resolution:
            continue
        kept = run.voxels.find(still.voxel_ijk)
        rows = old.find(still.voxel_ijk)[kept >= 0]
        assert torch.equal(run.parameters.weights[kept[kept >= 0]], values["weights"][rows])
        corners = still.corner_ijk[run.voxels.find_corners(still.corner_ijk) >= 0]
        for name in ("sdf", "deform"):
            now = getattr(run.parameters, name)[run.voxels.find_corners(corners)]
            assert torch.equal(now, values[name][old.find_corners(corners)]), name


@pytest.mark.parametrize(("iteration", "stop_after"), [(8, 0), (9, 5), (9, 8), (11, 8)])
def test_resumes_bit_by_bit_across_levels(tmp_path, iteration, stop_after):
    straight, first = FitRun(octahedron(), TWO), FitRun(octahedron(), TWO)
    for _ in range(14):
        straight.run_iteration()
    for _ in range(iteration):
        first.run_iteration()
    for stage in STAGES[:stop_after]:
        first.run_stage(stage)
    save_checkpoint(tmp_path / "c.safetensors", first)
    second = load_run(tmp_path / "c.safetensors")
    assert second.iteration == iteration + (stop_after == 8)
    while second.iteration < 14:
        second.run_iteration()
    expected = everything(straight)
    for name, tensor in everything(second).items():
        assert torch.equal(tensor, expected[name]), name
    assert torch.equal(second.voxels.voxel_ijk, straight.voxels.voxel_ijk)
    ours, theirs = second.read_field("occupancy"), straight.read_field("occupancy")
    assert torch.equal(ours.nan_to_num(-1), theirs.nan_to_num(-1))
    assert [e.n_kept for e in second.prune_events] == [e.n_kept for e in straight.prune_events]
    assert {k: len(v) for k, v in second.history.items()} == {k: 14 for k in straight.history}


def test_not_a_number_in_the_field_does_not_stop_it():
    run = FitRun(octahedron(), TWO)
    for _ in range(12):
        if run.iteration == 9:
            run.parameters.sdf[::7] = torch.nan
        run.run_iteration()
    assert run.voxels.resolution == 16 and bool(run.parameters.sdf.isnan().any())


def test_a_direct_fit_may_prune_too_and_an_open_sheet_keeps_its_voxels():
    sheet = square(-0.4, 0.4)
    run = FitRun(sheet, FitConfig(resolution=16, start_resolution=16, image_size=64, iterations=40, prune_every=5))
    for _ in range(40):
        run.run_iteration()
    touched = sf.SparseVoxels.from_mesh(sheet, 16)
    assert bool((run.voxels.find(touched.voxel_ijk) >= 0).all())
    assert {event.level for event in run.prune_events} == {0} and len(run.prune_events) == 8


def test_find_corners_beside_a_slow_twin():
    voxels = sf.SparseVoxels.from_mesh(octahedron(), 8)
    rows = {tuple(ijk): row for row, ijk in enumerate(voxels.corner_ijk.tolist())}
    asked = torch.cartesian_prod(*[torch.arange(-1, 11)] * 3)
    assert voxels.find_corners(asked).tolist() == [rows.get(tuple(ijk), -1) for ijk in asked.tolist()]
    empty = sf.SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 8)
    assert empty.find_corners(asked).unique().tolist() == [-1]
