"""Inference as a run: its stages give what reconstruct gives, what hasn't changed isn't run again, and all is shown."""

from __future__ import annotations

import collections
import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from accelerator import DEVICE, needs_cuda

from sparseflex.checkpoint import load_run, save_checkpoint
from sparseflex.sparse import VoxelBatch
from sparseflex.training.occupancy import PruneReason
from sparseflex.training.reconstruct import CheckpointRef, ReconstructRun
from sparseflex.training.reconstruct_products import stage_names
from sparseflex.training.run import Run, rows_of
from sparseflex.vae import Reconstruction, SparseFlexVAE, VAEConfig
from sparseflex.vae.decisions import holds_point
from sparseflex.vae.diagnosis import Cause
from sparseflex.vae.preprocess import check_points, input_voxels
from sparseflex.vae.release_chunks import decode_in_release_chunks

pytest_plugins = ("reconstruct_fixtures",)

SURFACE = ("corner_sdf", "corner_deform", "alpha", "beta", "gamma")


def equals(run: ReconstructRun, wanted: Reconstruction) -> None:
    """Bit for bit."""
    mesh, flex = run.read_field("mesh"), wanted.flex
    assert torch.equal(mesh.vertices, wanted.mesh.vertices) and torch.equal(mesh.faces, wanted.mesh.faces)
    assert torch.equal(run.read_field("voxels").voxel_ijk, flex.voxels.voxel_ijk)
    for name in SURFACE:
        assert torch.equal(run.read_field(name), getattr(flex, name)), name
    assert torch.equal(run.read_field("latent/latent"), wanted.latent)
    assert torch.equal(run.read_field("latent/mean"), wanted.posterior.mean)
    for number, level in enumerate(wanted.levels, start=1):
        assert torch.equal(run.read_field(f"upsample {number}/voxels").voxel_ijk, level.voxel_ijk)
        assert torch.equal(run.read_field(f"upsample {number}/occupancy_logit"), level.occupancy_logits)
        kept = run.read_field(f"prune {number}/voxels").voxel_ijk
        assert torch.equal(kept, level.voxel_ijk[level.kept])


def all_fields(run: ReconstructRun) -> dict[str, torch.Tensor]:
    """Every field as tensors by name; NaN as a number, so that they can be compared."""
    found = {}
    for name, kind in run.fields.items():
        value = run.read_field(name)
        if value is None:
            continue
        if kind == "mesh":
            found |= {f"{name}.vertices": value.vertices, f"{name}.faces": value.faces}
        elif kind == "voxels":
            found[name] = value.voxel_ijk
        elif kind == "prune":
            for event in value:
                found |= {f"{name} {event.level} {key}": item for key, item in event.state_dict().items()
                          if isinstance(item, torch.Tensor)}
        else:
            found[name] = value.float().nan_to_num(-12345.0)
    return found


def key_of(run: ReconstructRun, row: int) -> int:
    """What attended_voxel has to be for a row of the input's voxels."""
    return int(run._chain.shape.input_voxels(run.model.config.resolution).keys[row])


def same_fields(a: ReconstructRun, b: ReconstructRun) -> None:
    first, second = all_fields(a), all_fields(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def same_scalars(a: ReconstructRun, b: ReconstructRun) -> None:
    """All but what the machine says."""
    first, second = ({name: value for name, value in run.scalars().items() if name not in ("stage_secs", "peak_bytes")}
                     for run in (a, b))
    assert first.keys() == second.keys()
    assert all(first[name] == second[name] or math.isnan(first[name]) for name in first)


# -- what a pass gives -----------------------------------------------------------------------------------------------


def test_a_pass_is_reconstruct_bit_for_bit(model, cloud) -> None:
    run = ReconstructRun(model, *cloud)
    assert isinstance(run, Run) and run.iteration == 0 and run.read_field("mesh") is None
    run.run_pass()
    assert run.iteration == 1
    equals(run, model.reconstruct(*cloud))


@pytest.mark.parametrize(("settings", "options"), [
    ({"threshold_1": -0.2, "threshold_2": 0.3}, {"thresholds": (-0.2, 0.3)}),
    ({"prune": 0}, {"prune": False}),
    ({"sample_posterior": 1, "latent_seed": 5}, {"sample_posterior": True}),
    ({"chunk_voxels": 50}, {"chunk_voxels": 50}),
])
def test_so_is_a_pass_with_other_settings(model, few, make_run, settings, options) -> None:
    if "sample_posterior" in options:
        options = options | {"generator": torch.Generator().manual_seed(5)}
    run = make_run(settings=settings)
    run.run_pass()
    equals(run, model.reconstruct(*few, **options))


def test_voxels_of_a_target_and_given_ones(model, few, make_run) -> None:
    from sparseflex.mesh import Mesh

    corners = torch.tensor([[-0.4, -0.4, -0.4], [0.4, -0.4, -0.4], [0.4, 0.3, -0.4]])
    target = Mesh(corners, torch.tensor([[0, 1, 2]]))
    run = make_run(target=target)
    run.run_pass()
    voxels = input_voxels(few[0], 32, target)
    assert voxels.n_voxels > input_voxels(few[0], 32).n_voxels
    equals(run, model.reconstruct(*few, voxel_ijk=voxels.voxel_ijk))
    assert torch.equal(run.read_field("target").vertices, corners) and run.fields["target"] == "mesh"
    given = make_run(voxels=voxels)
    given.run_pass()
    equals(given, model.reconstruct(*few, voxel_ijk=voxels.voxel_ijk))
    assert "target" not in given.fields
    with pytest.raises(ValueError, match="voxels must be of the network's resolution 32, got 64"):
        make_run(voxels=voxels.subdivide())


def test_the_release_s_chunks_are_shown_level_by_level(model, few, make_run) -> None:
    run = make_run(settings={"release_chunks": 1})
    run.run_pass()
    points, normals = check_points(*few, 32)
    batch = VoxelBatch((input_voxels(points, 32),))
    trunk = model.decoder.run(model.encode(points, normals, batch).mean, batch)
    wanted = decode_in_release_chunks(model, trunk, batch).flex()
    flex = run.read_field("voxels")
    assert torch.equal(flex.voxel_ijk, wanted.voxels.voxel_ijk)
    for name in SURFACE:
        assert torch.equal(run.read_field(name), getattr(wanted, name)), name
    kept = run.read_field("prune 2/voxels")
    assert kept.n_voxels == flex.n_voxels and bool((kept.find(flex.voxel_ijk) >= 0).all())
    logits = run.read_field("prune 2/occupancy_logit")
    assert bool((logits >= 0).all()) and torch.equal(
        run.read_field("occupancy_logit"), logits[kept.find(flex.voxel_ijk)])
    assert run.scalars()["points_covered"] > 0 and run.read_field("upsample 1/pca") is None


def test_stages_are_those_of_the_network_and_come_in_their_order(make_run) -> None:
    assert len(stage_names(VAEConfig())) == 34
    run = make_run()
    assert list(run.stages) == ["points", "voxels", "point features", "encoder 1", "encoder 2", "latent", "trunk 1",
                                "trunk 2", "upsample 1", "prune 1", "upsample 2", "prune 2", "head", "extract"]
    with pytest.raises(ValueError, match="stage must be 'points', the next one, got 'voxels'"):
        run.run_stage("voxels")


def test_every_field_has_the_rows_that_it_says(make_run) -> None:
    run = make_run()
    run.change_setting("attended_voxel", key_of(run, 3))
    seen = set()
    for stage in run.stages:
        run.run_stage(stage)
        for name, kind in run.fields.items():
            value, owner = run.read_field(name), rows_of(name, kind)
            if value is not None and owner is not None:
                rows = run.read_field(owner)
                wanted = rows.n_corners if kind == "corner" else len(rows) if kind == "point" else rows.n_voxels
                assert len(value) == wanted, (stage, name)
                seen.add(name)
    assert seen == {name for name, kind in run.fields.items() if rows_of(name, kind)}
    for name in seen:
        if name.endswith("/pca"):
            colours = run.read_field(name)
            assert colours.shape[1] == 3 and bool(((colours >= 0) & (colours <= 1)).all())
    norm = run.read_field("latent/latent").norm(dim=1)
    assert torch.allclose(run.read_field("latent/norm"), norm)
    counts = run.read_field("voxels/n_points")
    assert int(counts.sum()) == len(run.points) and int((counts > 0).sum()) == int(
        holds_point(run.read_field("voxels/voxels"), run.points).sum())
    with pytest.raises(ValueError, match="field must be one of voxels, .*, got 'nothing'"):
        run.read_field("nothing")


@pytest.mark.parametrize("kept_bytes", [0, 10**9])
def test_at_every_stage_of_every_pass_the_rows_belong_together(make_run, ball, kept_bytes) -> None:
    run = make_run(other=ball, kept_bytes=kept_bytes)
    run.change_setting("attended_voxel", key_of(run, 3))
    for change in ({}, {"interpolate": 0.5}, {"release_chunks": 1, "threshold_1": 0.2}, {"release_chunks": 0},
                   {"interpolate": 0, "threshold_1": 9}):
        for name, value in change.items():
            run.change_setting(name, value)
        for place, stage in enumerate(run.stages):
            run.run_stage(stage)
            for name, kind in run.fields.items():
                value, owner = run.read_field(name), rows_of(name, kind)
                if value is not None and owner is not None:
                    rows = run.read_field(owner)
                    wanted = rows.n_corners if kind == "corner" else len(rows) if kind == "point" else rows.n_voxels
                    assert len(value) == wanted, (change, stage, name)
            # of blocks that have yet to run again nothing is known of an attention
            waits = "release_chunks" not in change and place < run.stages.index("trunk 2")
            assert (run.read_field("trunk 2/attention") is None) == waits, (change, stage)


# -- what isn't run again --------------------------------------------------------------------------------------------


class Counted:
    """Counts the calls of the network's parts."""

    def __init__(self, model: SparseFlexVAE) -> None:
        self.calls = collections.Counter()
        parts = {"points": model.local_pc_encoder, "posterior": model.encoder.out_layer}
        parts |= {"head": model.decoder.out_layer}
        parts |= {f"encoder {k}": block for k, block in enumerate(model.encoder.blocks, 1)}
        parts |= {f"trunk {k}": block for k, block in enumerate(model.decoder.blocks, 1)}
        parts |= {f"upsample {k}": block.pruning_head for k, block in enumerate(model.decoder.upsample, 1)}
        self._hooks = [part.register_forward_hook(lambda *_, name=name: self.calls.update([name]))
                       for name, part in parts.items()]

    def __enter__(self) -> collections.Counter:
        return self.calls

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


@pytest.mark.parametrize(("name", "value", "ran"), [
    ("threshold_2", 0.1, {"head"}),
    ("threshold_1", 0.1, {"upsample 2", "head"}),
    ("threshold_2", -1e-6, set()),  # keeps the same voxels
    ("attended_voxel", 2, set()),
    ("noise", 0.5, {"trunk 1", "trunk 2", "upsample 1", "upsample 2", "head"}),
    ("sample_posterior", 1, {"trunk 1", "trunk 2", "upsample 1", "upsample 2", "head"}),
    ("latent_seed", 7, set()),  # nothing is random
    ("region_radius", 0.1, set()),  # nothing is edited
    ("chunk_voxels", 50, {"upsample 1", "upsample 2", "head"}),
])
def test_only_what_depends_on_a_change_runs_again(model, few, make_run, name, value, ran) -> None:
    run = make_run()
    with Counted(model) as calls:
        run.run_pass()
        assert set(calls) == {
            "points", "head", "posterior", "encoder 1", "encoder 2", "trunk 1", "trunk 2", "upsample 1", "upsample 2"}
        calls.clear()
        run.run_pass()
        assert not calls and run.iteration == 2  # a pass of its own all the same
        value = key_of(run, value) if name == "attended_voxel" else value
        run.change_setting(name, value)
        run.run_pass()
        assert set(calls) == ran
    fresh = make_run(settings={name: value})
    for _ in range(3):
        fresh.run_pass()
    same_fields(run, fresh)
    same_scalars(run, fresh)


def test_chunks_keep_no_more_features_than_are_kept_and_make_them_again_for_a_lower_threshold(model, few, make_run
                                                                                              ) -> None:
    run = make_run(settings={"chunk_voxels": 50, "threshold_1": 0.2})
    run.run_pass()
    colours = run.read_field("upsample 1/pca")
    held = ~colours[:, 0].isnan()
    kept = run.read_field("upsample 1/occupancy_logit") >= 0.2
    assert torch.equal(held, kept) and not bool(held.all())
    with Counted(model) as calls:
        run.change_setting("threshold_1", 0.4)
        run.run_pass()
        assert "upsample 1" not in calls
    equals(run, model.reconstruct(*few, chunk_voxels=50, thresholds=(0.4, 0.0)))
    run.change_setting("threshold_1", -0.1)
    run.run_pass()
    equals(run, model.reconstruct(*few, chunk_voxels=50, thresholds=(-0.1, 0.0)))


@pytest.mark.parametrize("kept_bytes", [0, 250_000])
def test_what_is_dropped_is_made_again(model, few, make_run, kept_bytes) -> None:
    run, fresh = make_run(kept_bytes=kept_bytes), make_run()
    run.run_pass()
    fresh.run_pass()
    products = run._chain.products
    held = [stage for stage in run.stages if stage.startswith(("point features", "encoder", "trunk"))
            and products[stage].features is not None]
    assert sum(products[stage].features.nbytes for stage in held) <= kept_bytes and len(held) < 5
    same_fields(run, fresh)
    for name, value in (("attended_voxel", key_of(run, 5)), ("chunk_voxels", 55)):
        for each in (run, fresh):
            each.change_setting(name, value)
            each.run_pass()
        same_fields(run, fresh)
    assert "encoder 2/attention" in all_fields(run)


# -- state -----------------------------------------------------------------------------------------------------------


def test_going_back_gives_the_same_products(make_run, weights) -> None:
    run = make_run(checkpoint=weights)
    run.run_pass()
    before, first = run.state_dict(), all_fields(run)
    for name, value in (("threshold_1", 0.3), ("noise", 0.4)):
        run.change_setting(name, value)
        run.run_pass()
    last, straight = run.state_dict(), all_fields(run)
    assert any(not torch.equal(first[name], straight[name]) for name in first if "upsample 2" not in name
               and straight[name].shape == first[name].shape)
    run.load_state_dict(before)
    assert run.iteration == 1 and run.settings["threshold_1"].value == 0
    again = all_fields(run)
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    run.load_state_dict(last)
    assert run.iteration == 3 and run.settings["noise"].value == 0.4
    found = all_fields(run)
    assert straight.keys() == found.keys() and all(torch.equal(straight[name], found[name]) for name in straight)
    start = make_run(checkpoint=weights).state_dict()
    run.load_state_dict(start)
    assert run.iteration == 0 and run.read_field("mesh") is None and run.read_field("prune") is None
    assert run.read_field("points") is not None


def test_a_run_that_went_back_shows_nothing_of_another_pass(make_run) -> None:
    run = make_run()
    run.run_pass()
    state = run.state_dict()
    run.change_setting("threshold_1", 0.3)
    run.run_pass()
    run.load_state_dict(state)
    run.change_setting("threshold_2", 0.3)
    run.run_stage("points")
    assert run.read_field("mesh") is None and run.read_field("prune 1/voxels") is None
    run.run_pass()
    wanted = make_run(settings={"threshold_2": 0.3})
    wanted.run_pass()
    wanted.run_pass()
    same_fields(run, wanted)


def test_a_state_between_stages_is_that_of_the_pass_s_start(make_run) -> None:
    run = make_run()
    run.run_pass()
    wanted = run.state_dict()
    for stage in run.stages[:10]:
        run.run_stage(stage)
    found = run.state_dict()
    assert found["iteration"] == 1 and found["scalars"] == wanted["scalars"] and found["ran"] == wanted["ran"]


def test_a_state_holds_which_weights_not_the_weights(make_run, model, weights) -> None:
    run = make_run(checkpoint=weights, other=None, settings={"threshold_2": 0.2})
    run.run_pass()
    state = run.state_dict()
    assert state["weights"] == {"path": weights.path, "sha256": weights.sha256}
    assert sum(value.nbytes for value in state["input"].values()) < 100_000
    again = ReconstructRun.from_state_dict(state)
    assert again.model is not model and again.checkpoint == weights and again.iteration == 1
    same_fields(run, again)
    same_scalars(run, again)
    assert again.history.keys() == run.history.keys() and again.stage_costs == run.stage_costs
    given = ReconstructRun.from_state_dict(state, model=model)
    assert given.model is model
    same_fields(run, given)


def test_a_state_of_other_weights_is_refused_in_one_line(make_run, weights, tmp_path, model) -> None:
    run = make_run(checkpoint=weights)
    state = run.state_dict()
    moved = state | {"weights": state["weights"] | {"path": str(tmp_path / "gone.safetensors")}}
    with pytest.raises(ValueError, match=r"the weights of this run are missing, here too: .*gone\.safetensors$"):
        ReconstructRun.from_state_dict(moved)
    (tmp_path / "gone.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match="the weights of this run are others by now: .*must have SHA-256"):
        ReconstructRun.from_state_dict(moved)
    with pytest.raises(ValueError, match="names no file of weights"):
        ReconstructRun.from_state_dict(make_run().state_dict())
    other = make_run(checkpoint=CheckpointRef(weights.path, "0" * 64))
    with pytest.raises(ValueError, match="the state is of other weights"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="of a network with n_heads 8, got 4"):
        run.load_state_dict(state | {"config": state["config"] | {"n_heads": 8}})
    with pytest.raises(FileNotFoundError, match="the weights' file is missing"):
        CheckpointRef.of(tmp_path / "none")


def test_bad_settings_are_told_with_name_rule_and_value(make_run) -> None:
    run = make_run()
    for name, value, told in (
        ("threshold_1", 11, r"threshold_1 must be in \[-10, 10\], got 11"),
        ("prune", 0.5, r"prune must be a whole number in \[0, 1\], got 0.5"),
        ("attended_voxel", -2, r"attended_voxel must be a whole number in \[-1, 9007199254740992\], got -2"),
        ("noise", math.nan, r"noise must be in \[0, 4\], got nan"),
        ("chunk_voxels", math.inf, r"chunk_voxels must be a whole number in \[0, 2147483647\], got inf"),
        ("replace", 3, "replace 3 needs another shape, none is given"),
        ("interpolate", 0.5, "interpolate 0.5 needs another shape, none is given"),
        ("alpha", 1, "setting must be one of prune, .*, got 'alpha'"),
    ):
        with pytest.raises(ValueError, match=told):
            run.change_setting(name, value)
    assert "interpolate" not in run.settings and run.settings["replace"].maximum == 2
    for setting in run.settings.values():
        assert setting.minimum <= setting.value <= setting.maximum and setting.help


# -- attention, decisions, points ------------------------------------------------------------------------------------


def test_attention_is_a_softmax_among_the_voxels_of_the_window(model, cloud, make_run) -> None:
    row = 7
    run = make_run(tuple(part[::20] for part in cloud), {"threshold_1": 10})
    run.run_pass()
    assert run.read_field("trunk 1/attention") is None
    run.change_setting("attended_voxel", key_of(run, row))
    run.run_pass()
    voxels = run.read_field("latent/voxels")
    batch = VoxelBatch((voxels,))
    x = model.decoder.embed(run.read_field("latent/latent"), batch)
    for number, block in enumerate(model.decoder.blocks):
        found = run.read_field(f"trunk {number + 1}/attention")
        window = torch.div(voxels.voxel_ijk + block.shift, block.window_size, rounding_mode="floor")
        inside = (window == window[row]).all(dim=1)
        assert torch.equal(~found.isnan(), inside[:, None].expand_as(found)) and 1 < int(inside.sum()) < len(inside)
        normed = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)
        q, k, _ = block.attn.to_qkv(normed).unflatten(1, (3, block.attn.n_heads, -1)).unbind(1)
        wanted = (torch.einsum("hd,nhd->nh", q[row], k[inside]) / q.shape[2] ** 0.5).softmax(dim=0)
        assert torch.allclose(found[inside], wanted, atol=1e-6)
        x = block(x, batch)
    lacking = next(key for key in range(voxels.resolution**3) if not bool((voxels.keys == key).any()))
    for beyond in (lacking, voxels.resolution**3, 2**31 - 1):
        run.change_setting("attended_voxel", beyond)
        run.run_pass()
        assert run.read_field("trunk 1/attention") is None


def test_decisions_against_the_truth(make_run, few) -> None:
    run = make_run(settings={"threshold_1": 0.1, "threshold_2": -0.1})
    run.run_pass()
    scalars, events = run.scalars(), run.read_field("prune")
    assert [(event.level, event.resolution, event.iteration) for event in events] == [(1, 64, 1), (2, 128, 1)]
    for level, event in enumerate(events, start=1):
        children, logits = (run.read_field(f"upsample {level}/{name}") for name in ("voxels", "occupancy_logit"))
        kept = run.read_field(f"prune {level}/voxels")
        truth = holds_point(children, few[0])
        gone = kept.find(children.voxel_ijk) < 0
        assert torch.equal(event.pruned.voxel_ijk, children.voxel_ijk[gone]) and event.n_kept == kept.n_voxels
        assert torch.equal(event.wrongly_pruned, truth[gone]) and event.n_born == 0 and event.subdivided
        assert torch.allclose(event.pruned_occupancy, torch.sigmoid(logits[gone]))
        assert set(event.pruned_reason.tolist()) == {PruneReason.LOGIT_BELOW}
        assert set(event.wrongly_kept_reason.tolist()) == {PruneReason.LOGIT_REACHES}
        assert torch.equal(event.wrongly_kept.voxel_ijk, children.voxel_ijk[~gone & ~truth])
        n_both = int((truth & ~gone).sum())
        assert scalars[f"precision_{level}"] == n_both / kept.n_voxels
        assert scalars[f"recall_{level}"] == n_both / int(truth.sum())
        assert scalars[f"wrongly_kept_{level}"] == event.n_wrongly_kept
        assert scalars[f"wrongly_pruned_{level}"] == event.n_wrongly_pruned
    assert scalars["children_2"] == 8 * scalars["kept_1"] and scalars["voxels"] == scalars["kept_2"]
    causes = torch.bincount(run.read_field("point_cause").long(), minlength=len(Cause)).tolist()
    assert causes[Cause.COVERED] == scalars["points_covered"] and sum(causes) == len(few[0]) == scalars["points"]
    for cause in Cause:
        assert cause is Cause.COVERED or scalars[f"points_lost_{cause.name.lower()}"] == causes[cause]
    missing = [value for name, value in scalars.items() if name.startswith("points_missing_")]
    assert len(missing) == 3 and sum(missing) == causes[Cause.MISSING_NEIGHBOUR] > 0
    run.change_setting("prune", 0)
    run.run_pass()
    last = run.read_field("prune")
    assert [event.iteration for event in last] == [2, 2] and last[1].n_pruned == 0
    assert set(last[1].wrongly_kept_reason.tolist()) == {PruneReason.NOT_PRUNED}
    assert run.scalars()["points_lost_pruned_1"] == run.scalars()["points_lost_pruned_2"] == 0


# -- hard inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "chunk_voxels", "release"), [
    (1, 0, 0), (2, 0, 0), (1, 50, 0), (2, 50, 0), (2, 0, 1)])
def test_a_level_that_keeps_nothing_is_told_and_the_run_goes_on(make_run, level, chunk_voxels, release) -> None:
    run = make_run(settings={f"threshold_{level}": 10, "chunk_voxels": chunk_voxels, "release_chunks": release})
    run.change_setting("attended_voxel", key_of(run, 0))
    run.run_pass()
    scalars = run.scalars()
    assert scalars[f"kept_{level}"] == 0 and scalars["voxels"] == scalars["faces"] == scalars["open_edges"] == 0
    assert run.read_field("mesh").n_faces == 0 and math.isnan(scalars[f"precision_{level}"])
    logits = run.read_field(f"upsample {level}/occupancy_logit")
    largest = f"{float(logits.max()):.3g}".replace("-", "−")
    assert run.warnings == (
        f"no voxel was kept at level {level}: the largest of {len(logits):,} logits is {largest}, the threshold 10",)
    assert scalars[f"points_lost_pruned_{level}"] > 0 and scalars["points_covered"] == 0
    all_fields(run)
    run.change_setting(f"threshold_{level}", 0)
    run.run_pass()
    assert run.warnings == () and run.scalars()["faces"] > 0


def test_one_point(make_run) -> None:
    run = make_run((torch.tensor([[0.1, -0.2, 0.3]]), torch.tensor([[0.0, 0.0, 2.0]])), {"prune": 0})
    run.run_pass()
    assert run.scalars()["points"] == 1 and run.scalars()["latent_voxels"] >= 1
    all_fields(run)


def test_bad_points_are_refused(make_run, few) -> None:
    points, normals = few
    with pytest.raises(ValueError, match="points must be at least 1, got 0"):
        make_run((points[:0], normals[:0]))
    with pytest.raises(ValueError, match="points must lie in"):
        make_run((points + 2, normals))
    with pytest.raises(ValueError, match="points must be finite"):
        make_run(other=(points * float("nan"), normals))


def test_logits_of_nan_keep_nothing(model, few, make_run, monkeypatch) -> None:
    judge = model.decoder.upsample[0].judge
    monkeypatch.setattr(model.decoder.upsample[0], "judge", lambda features: judge(features) * float("nan"))
    run = make_run()
    run.run_pass()
    n = run.scalars()["children_1"]
    assert run.warnings == (f"no voxel was kept at level 1: all {n:,.0f} logits are NaN, the threshold 0",)
    all_fields(run)


def test_a_stage_that_failed_runs_again(model, few, make_run, monkeypatch) -> None:
    run = make_run()
    run.run_pass()
    run.change_setting("chunk_voxels", 50)
    judge = model.decoder.upsample[0].judge

    def fail(features: torch.Tensor) -> torch.Tensor:
        raise MemoryError("no room")

    monkeypatch.setattr(model.decoder.upsample[0], "judge", fail)
    with pytest.raises(MemoryError):
        run.run_pass()
    all_fields(run)
    monkeypatch.setattr(model.decoder.upsample[0], "judge", judge)
    run.load_state_dict(run.state_dict())
    run.change_setting("chunk_voxels", 0)
    run.run_pass()
    assert run.iteration == 2
    equals(run, model.reconstruct(*few))


def test_costs_and_history_are_kept(make_run) -> None:
    run = make_run()
    run.run_pass()
    run.run_pass()
    assert set(run.stage_costs) == set(run.stages)
    assert run.history["iteration"] == [1.0, 2.0] and len(run.history["secs_prune 1"]) == 2
    assert np.isfinite(run.scalars()["stage_secs"])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_cuda)])
def test_on_the_device_all_of_it_runs_and_goes_through_a_state(few, ball, weights, dtype) -> None:
    on_device = SparseFlexVAE.from_checkpoint(weights.path, device=DEVICE, dtype=dtype)
    on_cpu = SparseFlexVAE.from_checkpoint(weights.path)
    run, wanted = (ReconstructRun(each, *few, other=ball, checkpoint=weights) for each in (on_device, on_cpu))
    changes = ({}, {"attended_voxel": key_of(run, 3)}, {"threshold_1": 0.1}, {"interpolate": 0.5, "noise": 0.3},
               {"chunk_voxels": 50}, {"release_chunks": 1}, {"threshold_1": 10})
    for change in changes:
        for each in (run, wanted):
            for name, value in change.items():
                each.change_setting(name, value)
            each.run_pass()
        for name in run.fields:
            value = run.read_field(name)
            assert not isinstance(value, torch.Tensor) or value.device.type == DEVICE, name
            assert (value is None) == (wanted.read_field(name) is None), name
        assert run.scalars()["latent_voxels"] == wanted.scalars()["latent_voxels"]
        if dtype == torch.float32 and run.scalars()["kept_1"] == wanted.scalars()["kept_1"]:
            found, logits = (each.read_field("upsample 1/occupancy_logit").cpu() for each in (run, wanted))
            assert torch.allclose(found, logits, atol=1e-3, equal_nan=True)
    again = ReconstructRun.from_state_dict(run.state_dict(), DEVICE)
    assert again.device.type == DEVICE and again.iteration == run.iteration
    assert again.read_field("voxels").n_voxels == run.read_field("voxels").n_voxels


@pytest.mark.parametrize(("name", "value"), [
    ("kept_bytes", {}), ("kept_bytes", "x"), ("scalars", {"a": 10**400})])
def test_a_spoilt_state_is_one_line(make_run, weights, tmp_path, monkeypatch, name, value) -> None:
    run = make_run(checkpoint=weights)
    state = {**run.state_dict(), name: value}
    monkeypatch.setattr(run, "state_dict", lambda: state)
    save_checkpoint(tmp_path / "c.safetensors", run)
    with pytest.raises(ValueError, match=r"c.safetensors does not hold a run of this .*: (kept_bytes|int)") as said:
        load_run(tmp_path / "c.safetensors")
    assert "\n" not in str(said.value)


def test_a_voxel_of_a_fine_grid_can_be_attended(model) -> None:
    """Its key doesn't fit 32 bits."""
    fine = copy.copy(model)
    fine.config = dataclasses.replace(model.config, resolution=100_000)
    run = ReconstructRun(fine, torch.tensor([[0.4, 0.1, 0.2]]), torch.tensor([[0.0, 0.0, 1.0]]))
    run.change_setting("attended_voxel", float(key_of(run, 0)))
    run.run_pass()
    assert float(run.read_field("trunk 1/attention")[0].nansum()) > 0


@pytest.mark.gpu
def test_voxels_of_a_users_own_may_lie_on_either_device(few, weights) -> None:
    model, cpu_model = (SparseFlexVAE.from_checkpoint(weights.path, device=device) for device in (DEVICE, "cpu"))
    voxels = input_voxels(few[0], model.config.resolution)
    for here, there in ((voxels, voxels.to(DEVICE)), (voxels.to(DEVICE), voxels)):
        run = ReconstructRun(model, *few, voxels=here)
        run.load_state_dict(ReconstructRun(model, *few, voxels=there).state_dict())
        run.load_state_dict(ReconstructRun(cpu_model, *few, voxels=there.to("cpu")).state_dict())
        assert run.state_dict()["input"]["voxel_ijk"].device.type == DEVICE
