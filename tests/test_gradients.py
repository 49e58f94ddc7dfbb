"""Gradients by term, the pixels that pull on a voxel, and regions where gradients vanish or explode: planted faults."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from accelerator import DEVICE, needs_cuda
from backward_passes import FRONT, as_it_is, ball, busiest, deeper_at, noisy, pass_of, section_of
from fake_run import icosphere_like
from fit_snapshots import small_fit
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.extraction import extract_mesh, moving_vertices
from sparseflex.mesh import Mesh
from sparseflex.render import Maps, map_tangents, render_maps
from sparseflex.training.backward_pass import PARAMETERS, BackwardPass, PassView
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun
from sparseflex.training.gradient_regions import find_regions
from sparseflex.training.pixel_pull import map_gradients, pixel_pull
from sparseflex.voxels import SparseVoxels
from workbench.commands import NextIteration, RequestFields, StepBack
from workbench.engine import Engine
from workbench.field_copies import FieldCopies
from workbench.showing import WATCHED_SECS

CUT = dataclasses.replace(FRONT, near=1.35, far=1.6)


# The run


def test_a_watched_run_is_the_unwatched_one_bit_by_bit():
    settings = {"cameras": 2, "visibility_ratio": 0.6, "start_resolution": 8, "prune_every": 1, "image_size": 32}
    plain, watched = (small_fit(iterations=3, **settings) for _ in range(2))
    watched.watch(frozenset({"backward"}))
    for _ in range(3):
        plain.run_iteration()
        watched.run_iteration()
    assert plain.read_field("backward") is None and watched.read_field("backward").iteration == 3
    for name, values in plain.parameters.tensors().items():
        assert torch.equal(values, watched.parameters.tensors()[name]), name
    timed = {"stage_secs", "peak_bytes", "work_bytes"}
    assert {k: v for k, v in plain.scalars().items() if k not in timed} == pytest.approx(
        {k: v for k, v in watched.scalars().items() if k not in timed}, rel=0, abs=0, nan_ok=True)


def test_terms_add_up_and_are_read_by_name():
    run = small_fit(cameras=2, visibility_ratio=0.6)
    run.watch(frozenset({"sdf_grad_depth", "voxels"}))
    assert run.read_field("sdf_grad_depth") is None
    run.run_iteration()
    done = run.read_field("backward")
    assert done.terms == ("depth", "normal", "mask", "ssim", "free_space", "dev", "sign")
    assert {f"loss_{term}" for term in done.terms} < set(run.scalars())
    for parameter in PARAMETERS:
        summed = sum(done.gradient(parameter, term) for term in done.terms)
        assert torch.allclose(summed, done.total[parameter], atol=1e-5)
        assert torch.equal(done.read(f"{parameter}_grad_"), run.read_field(f"{parameter}_grad"))
    assert run.watchable["sdf_grad_depth"] == "corner" and run.watchable["weights_grad_dev"] == "voxel"
    depth = run.read_field("sdf_grad_depth")
    rows = done.corner_rows.long()
    assert torch.equal(depth[rows], done.by_term["depth"]["sdf"].abs()) and float(depth.sum()) == pytest.approx(
        float(depth[rows].sum()))
    assert not run.read_field("weights_grad_sign").any() and not set(run.watchable) & set(run.fields)
    run.watch(frozenset({"voxels", "sdf_grad"}))
    run.run_iteration()
    assert run.read_field("backward") is None


def test_products_are_those_of_the_whole_gradients():
    done = pass_of(*ball(), noisy)
    found = done.products()
    for k, parameter in enumerate(PARAMETERS):
        table = torch.stack([done.gradient(parameter, term).reshape(-1) for term in done.terms])
        assert torch.allclose(found[k], table @ table.T)
    bad = {**done.by_term, "dev": {**done.by_term["dev"], "sdf": done.total["sdf"] * float("nan")}}
    spoiled = dataclasses.replace(done, by_term=bad).products()
    assert bool(torch.isfinite(spoiled).all()) and torch.equal(spoiled[:, :4, :4], found[:, :4, :4])


# Forward mode


@pytest.mark.parametrize("camera", [FRONT, CUT], ids=["whole", "cut"])
def test_map_tangents_are_the_transpose_of_the_backward_pass(camera):
    voxels, leaves = ball()
    mesh = extract_mesh(section_of(voxels, leaves).flex, training=True).detach()
    vertices = mesh.vertices.clone().requires_grad_()
    maps = render_maps(Mesh(vertices, mesh.faces), camera)
    generator = torch.Generator().manual_seed(2)
    ways = torch.randn(vertices.shape, generator=generator, dtype=torch.float64)
    ways[::3] = 0
    weights = [torch.randn(m.shape, generator=generator, dtype=torch.float64) for m in (maps.depth, maps.normal,
                                                                                      maps.mask)]
    along = map_tangents(mesh.vertices, ways, mesh.faces, camera, PassView.of(camera, maps, maps).rendered)
    for weight, tangent, values in zip(weights, along, (maps.depth, maps.normal, maps.mask), strict=True):
        backwards = torch.autograd.grad((weight * values).sum(), vertices, retain_graph=True)[0]
        assert float((weight * tangent).sum()) == pytest.approx(float((backwards * ways).sum()), rel=1e-9)
        assert bool(tangent.any())


def test_a_depth_that_is_kept_in_its_face_does_not_move():
    """Of a face that lies across the view, rounding takes depths beyond it."""
    camera = FRONT.with_size(12, 12)
    forward, up = camera.forward_world, camera.up_world
    right = torch.linalg.cross(forward, up)
    places = [camera.eye_world + 1.5 * forward + x * right + y * up
              for x, y in ((-0.41, -0.37), (0.43, -0.31), (0.0, 0.47))]
    vertices = torch.stack(places).requires_grad_()
    maps = render_maps(Mesh(vertices, torch.tensor([[0, 1, 2]])), camera)
    ways = forward.repeat(3, 1)
    rendered = PassView.of(camera, maps, maps).rendered
    along = map_tangents(vertices.detach(), ways, torch.tensor([[0, 1, 2]]), camera, rendered).depth
    for row, column in maps.hit.nonzero().tolist():
        back = torch.autograd.grad(maps.depth[row, column], vertices, retain_graph=True)[0]
        assert float(along[row, column]) == pytest.approx(float((back * ways).sum()), abs=1e-12)
    assert bool((along[maps.hit] == 0).any())


def test_moving_vertices_are_those_of_the_mesh():
    voxels, leaves = ball()
    flex = section_of(voxels, leaves).flex
    mesh = extract_mesh(flex, training=True)
    near = torch.arange(voxels.n_voxels) % 3 == 0
    assert torch.equal(moving_vertices(flex, mesh.detach(), near), mesh.vertices)


# The pixels that pull


def pulls_one_by_one(done: BackwardPass, ijk: tuple[int, int, int]) -> dict[str, Tensor]:
    """The slow twin: a backward pass for every pixel and every term."""
    section = section_of(done.section, dict(done.leaves))
    mesh = extract_mesh(section.flex, training=True)
    row = int(done.section.find(torch.tensor([ijk]))[0])
    own = {"sdf": done.section.voxel_corners[row].long(), "deform": done.section.voxel_corners[row].long(),
           "weights": torch.tensor([row])}
    total = {name: done.total[name][rows] for name, rows in own.items()}
    norm = sum(float(part.square().sum()) for part in total.values()) ** 0.5
    view, (gradients,) = done.views[0], map_gradients(done)
    maps = render_maps(mesh, view.camera)
    found = {}
    for term, (depth, normal, mask) in gradients.items():
        adds = depth * maps.depth + (normal * maps.normal).sum(2) + mask * maps.mask
        found[term] = torch.zeros_like(depth)
        for pixel in range(adds.numel()):
            grads = torch.autograd.grad(adds.view(-1)[pixel], [section.sdf, section.deform, section.weights],
                                        retain_graph=True)
            along = sum((grad[own[name]] * total[name]).sum() for name, grad in zip(PARAMETERS, grads, strict=True))
            found[term].view(-1)[pixel] = along / norm
    return found


@pytest.mark.parametrize("camera", [FRONT, CUT], ids=["whole", "cut"])
def test_pulls_equal_one_backward_pass_a_pixel(camera):
    done = pass_of(*ball(), noisy, (camera.with_size(7, 7),))
    ijk = busiest(done)
    expected, found = pulls_one_by_one(done, ijk), pixel_pull(done, ijk)
    assert set(found.pixels[0]) == set(expected) == {"depth", "normal", "mask", "ssim"}
    for term, pulls in expected.items():
        assert torch.allclose(found.pixels[0][term], pulls, rtol=1e-8, atol=1e-12), term
    assert bool(expected["normal"].any()) and bool(expected["depth"].any())


@pytest.mark.parametrize("parameters", [("sdf",), ("deform",), ("weights",), PARAMETERS], ids=str)
def test_pulls_of_all_pixels_and_terms_sum_up_to_the_gradient(parameters):
    side = Camera.look_at((1.5, -0.3, 0.4), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), fov_y_degrees=40, width=20, height=20,
                          near=0.1, far=5.0)
    done = pass_of(*ball(), noisy, (FRONT, side))
    for row in range(0, done.section.n_voxels, 29):
        found = pixel_pull(done, done.section.voxel_ijk[row].tolist(), parameters, map_gradients(done))
        assert sum(found.by_term.values()) == pytest.approx(found.norm, rel=1e-9)
        for term in found.pixels[0]:
            pixels = sum(float(view[term].sum()) for view in found.pixels)
            assert pixels == pytest.approx(found.by_term[term], rel=1e-7, abs=1e-12 * found.norm)
        assert {"dev", "sign"} == set(found.by_term) - set(found.pixels[0])


def test_in_a_run_they_sum_up_too_with_cameras_that_share_it_and_a_part_of_the_voxels():
    run = small_fit(cameras=2, visibility_ratio=0.6)
    run.watch(frozenset({"backward"}))
    run.run_iteration()
    done = run.read_field("backward")
    for row in range(0, done.section.n_voxels, 150):
        found = pixel_pull(done, done.section.voxel_ijk[row].tolist())
        for term in found.pixels[0]:
            pixels = sum(float(view[term].sum()) for view in found.pixels)
            assert pixels == pytest.approx(found.by_term[term], rel=1e-3, abs=1e-5 * found.norm), term
    inactive = int((torch.ones(run.voxels.n_voxels).index_fill_(0, done.voxel_rows, 0)).argmax())
    assert pixel_pull(done, run.voxels.voxel_ijk[inactive].tolist()) is None
    assert pixel_pull(done, (99, 0, 0)) is None


def test_three_planted_pixels_are_the_ones_that_pull():
    planted = {(9, 10), (10, 10), (10, 11)}
    done = pass_of(*ball(), deeper_at(planted), sign_weight=0.0, sign_weight_end=0.0, dev_weight=0.0)
    pulls: dict[tuple[int, ...], set[str]] = {}
    gradients = map_gradients(done)
    felt = torch.stack([done.voxel_norms(name) > 1e-9 for name in PARAMETERS]).any(0)
    for ijk in done.section.voxel_ijk[felt].tolist():
        found = pixel_pull(done, ijk, gradients=gradients)
        for term in found.pixels[0]:  # SSIM of equal maps is 1 but for rounding
            for pixel in (found.of_view(0, term).abs() > 1e-9).nonzero().tolist():
                pulls.setdefault(tuple(pixel), set()).add(term)
    assert set(pulls) == planted and all(terms == {"depth"} for terms in pulls.values())


# Regions


def region_voxels(done: BackwardPass, found, number: int) -> set[tuple[int, ...]]:
    return {tuple(row) for row in found.voxel_ijk(done, number).tolist()}


def test_a_voxel_with_weights_that_are_no_numbers_is_named():
    voxels, leaves = ball()
    victim = busiest(pass_of(voxels, leaves, noisy))
    leaves["weights"][int(voxels.find(torch.tensor([victim]))[0])] = float("nan")
    done = pass_of(voxels, leaves, noisy)
    found = find_regions(done, "weights")
    worst = found.first[0]
    assert (worst.reason, worst.n_voxels, worst.worst, worst.low, worst.high) == (
        "bad parameter", 1, victim, victim, victim)
    assert worst.explodes and region_voxels(done, found, 0) == {victim}
    # the quads that it shares carry it on: to voxels around its edges, and to none beyond
    for number, region in enumerate(found.first):
        if region.reason == "not finite":
            away = torch.tensor(sorted(region_voxels(done, found, number))) - torch.tensor(victim)
            assert int(away.abs().amax()) == 1 and int(away.abs().sum(1).max()) <= 2
    assert found.counts["bad parameter"] == 1 and 0 < found.counts["not finite"] <= 18


def test_one_term_blown_up_in_a_patch_is_named_with_its_term():
    def wanted(maps: Maps) -> Maps:
        off = noisy(maps)
        depth = maps.depth.clone()
        depth[8:11, 9:12] += 0.2
        return Maps(depth, off.normal, maps.mask, maps.triangle_id)

    done = pass_of(*ball(), wanted, depth_weight=1e6)
    found = find_regions(done, "weights")
    (region,) = [region for region in found.first if region.explodes]
    assert (region.reason, region.term) == ("too large", "depth")
    seen = done.views[0].rendered.triangle_id[8:11, 9:12].reshape(-1)
    depends = {tuple(ijk) for ijk in done.section.voxel_ijk[
        done.voxel_norms("weights", "depth") > 100 * found.median].tolist()}
    assert region_voxels(done, found, 0) == depends and region.n_voxels == len(depends)
    centres = done.mesh.vertices[done.mesh.faces[seen]].mean(1)
    at = {tuple(ijk) for ijk in ((centres + 0.5) * 8).floor().int().tolist()}
    assert depends & at and all(min(sum(abs(a - b) for a, b in zip(ijk, other, strict=True)) for other in at) <= 2
                                for ijk in depends)
    others = find_regions(dataclasses.replace(done, total=done.by_term["normal"]), "weights")
    assert not any(region.explodes for region in others.first)


def of_one_sign(voxels: SparseVoxels, leaves: dict[str, Tensor]) -> set[tuple[int, ...]]:
    inside = (leaves["sdf"] < 0)[voxels.voxel_corners.long()].sum(1)
    return {tuple(ijk) for ijk, n in zip(voxels.voxel_ijk.tolist(), inside.tolist(), strict=True) if n in (0, 8)}


def test_voxels_that_nothing_pulls_on_are_told_apart():
    voxels, leaves = ball()
    before = of_one_sign(voxels, leaves)
    victim = busiest(pass_of(voxels, leaves, noisy))
    corners = voxels.voxel_corners[int(voxels.find(torch.tensor([victim]))[0])].long()
    leaves["sdf"] = leaves["sdf"].index_fill(0, corners, 0.5)
    done = pass_of(voxels, leaves, noisy, dev_weight=0.0)
    found = find_regions(done, "weights")
    of_reason = {reason: {ijk for n, region in enumerate(found.first) if region.reason == reason
                          for ijk in region_voxels(done, found, n)} for reason in found.counts}
    assert victim in of_reason["no surface"] and victim not in before
    assert of_reason["no surface"] == of_one_sign(voxels, leaves)
    assert not any(region.explodes for region in found.first if region.reason == "no surface")
    assert of_reason["unseen"] and all(ijk[2] < 5 for ijk in of_reason["unseen"])  # the camera looks from +z
    assert {ijk for ijk in map(tuple, voxels.voxel_ijk.tolist()) if ijk[2] == 1} <= set().union(*of_reason.values())
    assert {reason: len(rows) for reason, rows in of_reason.items()} == found.counts


def test_a_missing_neighbour_leaves_no_face():
    voxels, leaves = ball(8, 0.3)
    gone = busiest(pass_of(voxels, leaves, noisy))
    alone, rows, corners = voxels.section(
        torch.tensor([abs(ijk[0] - gone[0]) + abs(ijk[1] - gone[1]) + abs(ijk[2] - gone[2]) != 1
                      and max(abs(a - b) for a, b in zip(ijk, gone, strict=True)) != 1
                      for ijk in voxels.voxel_ijk.tolist()]))
    left = {"sdf": leaves["sdf"][corners], "deform": leaves["deform"][corners], "weights": leaves["weights"][rows]}
    done = pass_of(alone, left, noisy, dev_weight=0.0)
    found = find_regions(done, "weights")
    numbers = [n for n, region in enumerate(found.first)
               if region.reason == "no face" and gone in region_voxels(done, found, n)]
    assert len(numbers) == 1 and region_voxels(done, found, numbers[0]) == {gone}


def test_a_seen_voxel_without_a_pull_has_it_cancelled():
    done = pass_of(*ball(), noisy)
    row = int(done.voxel_norms("weights").argmax())
    weights = done.total["weights"].clone()
    weights[row] = 0
    found = find_regions(dataclasses.replace(done, total={**done.total, "weights": weights}), "weights")
    cancelled = [n for n, region in enumerate(found.first) if region.reason == "cancelled"]
    assert any(region_voxels(done, found, n) == {busiest(done)} for n in cancelled)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nothing_there_is_no_failure(sign):
    voxels, leaves = ball()
    flat = pass_of(voxels, {**leaves, "sdf": leaves["sdf"].abs() * sign + sign * 0.1}, as_it_is)
    found = find_regions(flat, "sdf")
    assert found.counts == {"no surface": voxels.n_voxels} and found.n_all == 1
    pull = pixel_pull(flat, voxels.voxel_ijk[0].tolist())
    assert pull.norm == 0 and not pull.of_view(0).any()
    by_shape = dataclasses.replace(flat, total={name: torch.ones_like(grad) for name, grad in flat.total.items()})
    pull = pixel_pull(by_shape, voxels.voxel_ijk[0].tolist())  # as by free_space, which needs no surface
    assert pull.norm > 0 and not pull.of_view(0).any()
    no_voxels, _, _ = voxels.section(torch.zeros(voxels.n_voxels, dtype=torch.bool))
    none = pass_of(no_voxels, {"sdf": torch.zeros(0, dtype=torch.float64),
                               "deform": torch.zeros(0, 3, dtype=torch.float64),
                               "weights": torch.zeros(0, 21, dtype=torch.float64)}, as_it_is)
    for parameter in PARAMETERS:
        assert find_regions(none, parameter).n_all == 0
    assert pixel_pull(none, (0, 0, 0)) is None and not none.products().any()


# The engine


def test_an_engine_has_a_run_watched_while_somebody_asks():
    engine = Engine(small_fit())
    engine.start()
    try:
        for names, there in ((frozenset({"voxels"}), False), (frozenset({"backward", "sdf_grad_mask"}), True)):
            answers = engine.snapshots.latest().answers
            engine.send(RequestFields(names))
            engine.snapshots.wait_for(lambda s, n=answers: s.answers > n, 20)
            iteration = engine.snapshots.latest().iteration
            engine.send(NextIteration())
            snapshot = engine.snapshots.wait_for(lambda s, n=iteration, asked=names: (
                s.iteration > n and s.asked >= asked and not s.playing and bool(s.fields)), 20)
            assert ("backward" in snapshot.fields) == there == ("sdf_grad_mask" in snapshot.fields)
            assert snapshot.field_kinds["sdf_grad_mask"] == "corner"
        assert snapshot.fields["backward"].iteration == 2 and snapshot.fields["sdf_grad_mask"].any()
    finally:
        assert engine.stop()


def test_a_field_stays_watched_between_the_requests_of_the_scene(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("workbench.showing.time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: 0.0))
    engine, watched = Engine(run := small_fit()), []
    run.watch = watched.append
    for secs, names in ((0, {"sdf_grad_depth", "voxels"}), (1, {"voxels"}), (1, {"sdf_grad_depth", "voxels"})):
        now[0] += secs
        engine._showing.ask(frozenset(names))
    assert watched == [{"sdf_grad_depth", "voxels"}]  # never let go of, so that each of its passes is known
    now[0] += WATCHED_SECS
    engine._showing.ask(frozenset({"voxels"}))
    assert watched[1:] == [{"voxels"}]


def test_a_pass_that_nobody_asks_for_any_more_is_not_kept():
    run = small_fit()
    run.watch(frozenset({"backward"}))
    run.run_iteration()
    copies = FieldCopies(run)
    copies.start({"backward", "voxels"}, 1)
    known = weakref.ref(copies.finish()["backward"])
    run.watch(frozenset())
    run.run_iteration()
    assert known() is not None
    copies.start({"voxels"}, 2)
    copies.finish()
    gc.collect()
    assert known() is None


def test_an_iteration_done_again_while_watched_is_the_same():
    engine = Engine(small_fit())
    engine.start()
    try:
        for command in (NextIteration(), NextIteration()):
            engine.send(command)
        first = engine.snapshots.wait_for(lambda s: s.iteration == 2 and not s.playing, 20)
        engine.send(RequestFields(frozenset({"backward"})))
        engine.snapshots.wait_for(lambda s: "backward" in s.asked, 20)
        for command in (StepBack(), NextIteration()):
            engine.send(command)
        again = engine.snapshots.wait_for(lambda s: "backward" in s.fields and s.iteration == 2 and not s.playing, 20)
        assert again.fields["backward"].iteration == 2
        assert {name: again.scalars[name] for name in ("loss", "grad_norm")} == {
            name: first.scalars[name] for name in ("loss", "grad_norm")}
    finally:
        assert engine.stop()


@pytest.fixture
def watched_on_the_device() -> FitRun:
    config = FitConfig(resolution=16, image_size=48, iterations=10, cameras=2, visibility_ratio=0.6)
    run = FitRun(icosphere_like(10, 0.4), config, DEVICE)
    run.watch(frozenset({"backward"}))
    run.run_iteration()
    return run


@pytest.mark.gpu
def test_on_the_device_norms_and_regions_are_found(watched_on_the_device):
    done = watched_on_the_device.read_field("backward")
    depth = watched_on_the_device.read_field("sdf_grad_depth")
    assert done.total["sdf"].device.type == depth.device.type == DEVICE
    assert sum(find_regions(done, "weights").counts.values()) < done.section.n_voxels


@pytest.mark.gpu
@needs_cuda  # takes derivatives in forward mode
def test_on_the_device_pulls_sum_up(watched_on_the_device):
    done = watched_on_the_device.read_field("backward")
    for row in range(0, done.section.n_voxels, 150):
        found = pixel_pull(done, done.section.voxel_ijk[row].tolist())
        for term in found.pixels[0]:
            pixels = sum(float(view[term].sum()) for view in found.pixels)
            assert pixels == pytest.approx(found.by_term[term], rel=1e-2, abs=1e-4 * found.norm), term
