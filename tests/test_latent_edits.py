"""Edits of latents: what each does to which voxels, and what is decoded then; colours of features."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_reconstruct_run import equals

from sparseflex.vae.colours import principal_axes, principal_colours
from sparseflex.vae.latent_edits import OTHER, RANDOM, ZEROS, LatentEdits, Latents, nearest_rows
from sparseflex.voxels import SparseVoxels

pytest_plugins = ("reconstruct_fixtures",)

RESOLUTION = 16


def latents(seed: int, n: int = 40, low: int = 2, high: int = 9) -> Latents:
    """On voxels within [low, high), in no order."""
    generator = torch.Generator().manual_seed(seed)
    ijk = torch.unique(torch.randint(low, high, (n, 3), generator=generator), dim=0)
    ijk = ijk[torch.randperm(len(ijk), generator=generator)]
    return Latents(SparseVoxels(ijk, RESOLUTION), torch.randn(len(ijk), 8, generator=generator))


@pytest.fixture
def a() -> Latents:
    return latents(0)


@pytest.fixture
def b() -> Latents:
    return latents(1, low=5, high=13)


REGION = LatentEdits(region_centre=(-0.1, -0.1, -0.1), region_radius=0.15)


def test_nothing_is_the_first_shape_itself(a, b) -> None:
    for edits in (LatentEdits(), LatentEdits(seed=4, region_radius=0.2), LatentEdits(interpolate=0.0)):
        found = edits.apply(a, b)
        assert found.latents is a and not bool(found.moved.any()) and edits.key == ()


@pytest.mark.parametrize("replace", [ZEROS, RANDOM, OTHER])
@pytest.mark.parametrize("region", [LatentEdits(), REGION])
def test_replaced(a, b, replace, region) -> None:
    edits = dataclasses.replace(region, replace=replace, seed=3)
    found = edits.apply(a, b)
    inside = edits.within(a.voxels)
    assert found.latents.voxels is a.voxels and torch.equal(found.latents.values[~inside], a.values[~inside])
    wanted = {
        ZEROS: torch.zeros_like(a.values),
        RANDOM: torch.randn(a.values.shape, generator=torch.Generator().manual_seed(3)),
        OTHER: b.values[(a.voxels.voxel_ijk[:, None] - b.voxels.voxel_ijk).float().norm(dim=2).argmin(dim=1)],
    }[replace]
    if replace == OTHER:  # several may be as near
        gap = (a.voxels.voxel_ijk - b.voxels.voxel_ijk[nearest_rows(b.voxels, a.voxels.voxel_ijk)]).float().norm(dim=1)
        least = (a.voxels.voxel_ijk[:, None] - b.voxels.voxel_ijk).float().norm(dim=2).amin(dim=1)
        assert torch.allclose(gap, least)
        wanted = b.values[nearest_rows(b.voxels, a.voxels.voxel_ijk)]
    assert torch.equal(found.latents.values[inside], wanted[inside])
    assert bool(inside.any()) and bool(inside.all()) == (region is not REGION)
    assert torch.allclose(found.moved, (found.latents.values - a.values).norm(dim=1))


def test_interpolated_ends_are_the_shapes_themselves(a, b) -> None:
    found = LatentEdits(interpolate=1.0).apply(a, b)
    assert found.latents is b and found.moved.shape == (b.voxels.n_voxels,)
    assert bool((found.moved > 0).any())


def test_in_between_is_the_union_with_the_nearest_voxel_s_latent_where_one_lacks_it(a, b) -> None:
    found = LatentEdits(interpolate=0.25).apply(a, b).latents
    wanted = {tuple(ijk) for voxels in (a.voxels, b.voxels) for ijk in voxels.voxel_ijk.tolist()}
    assert {tuple(ijk) for ijk in found.voxels.voxel_ijk.tolist()} == wanted
    assert len(wanted) == found.voxels.n_voxels > max(a.voxels.n_voxels, b.voxels.n_voxels)
    for row, ijk in enumerate(found.voxels.voxel_ijk):
        ends = [each.values[each.voxels.voxel_ijk.tolist().index(ijk.tolist())] if ijk.tolist() in
                each.voxels.voxel_ijk.tolist() else each.values[nearest_rows(each.voxels, ijk[None])[0]]
                for each in (a, b)]
        assert torch.allclose(found.values[row], 0.75 * ends[0] + 0.25 * ends[1], atol=1e-6)


@pytest.mark.parametrize("t", [0.5, 1.0])
def test_a_region_alone_is_interpolated(a, b, t) -> None:
    edits = dataclasses.replace(REGION, interpolate=t)
    found = edits.apply(a, b)
    voxels, values = found.latents
    inside = edits.within(voxels)
    outside = {tuple(ijk): value for ijk, value in zip(a.voxels.voxel_ijk[~edits.within(a.voxels)].tolist(),
                                                       a.values[~edits.within(a.voxels)], strict=True)}
    assert {tuple(ijk) for ijk in voxels.voxel_ijk[~inside].tolist()} == set(outside)
    for ijk, value in zip(voxels.voxel_ijk[~inside].tolist(), values[~inside], strict=True):
        assert torch.equal(value, outside[tuple(ijk)])
    within = {tuple(ijk) for ijk in voxels.voxel_ijk[inside].tolist()}
    theirs = {tuple(ijk) for ijk in b.voxels.voxel_ijk[edits.within(b.voxels)].tolist()}
    ours = {tuple(ijk) for ijk in a.voxels.voxel_ijk[edits.within(a.voxels)].tolist()}
    assert within == (theirs if t == 1 else theirs | ours) and ours - theirs and theirs - ours
    assert not bool(found.moved[~inside].any()) and bool(found.moved[inside].any())


def test_noise_is_seeded_and_in_units_of_each_channel_s_deviation(a) -> None:
    a = Latents(a.voxels, a.values * torch.arange(1, 9))
    edits = LatentEdits(noise=0.5, seed=2)
    found, again = edits.apply(a, None), edits.apply(a, None)
    assert torch.equal(found.latents.values, again.latents.values)
    drawn = (found.latents.values - a.values) / (0.5 * a.values.std(dim=0, correction=0))
    assert torch.allclose(drawn, torch.randn(drawn.shape, generator=torch.Generator().manual_seed(3)), atol=1e-4)
    assert not torch.equal(LatentEdits(noise=0.5, seed=3).apply(a, None).latents.values, found.latents.values)
    some = dataclasses.replace(REGION, noise=0.5, seed=2).apply(a, None)
    inside = REGION.within(a.voxels)
    assert torch.equal(some.latents.values[inside], found.latents.values[inside])
    assert torch.equal(some.latents.values[~inside], a.values[~inside])


def test_they_come_in_their_order(a, b) -> None:
    found = LatentEdits(replace=ZEROS, interpolate=0.5, noise=0.1).apply(a, b).latents
    voxels, values = LatentEdits(interpolate=0.5).apply(Latents(a.voxels, 0 * a.values), b).latents
    wanted = LatentEdits(noise=0.1).apply(Latents(voxels, values), None).latents
    assert torch.equal(found.values, wanted.values)


def test_another_shape_is_asked_for_and_may_be_empty(a) -> None:
    for edits in (LatentEdits(replace=OTHER), LatentEdits(interpolate=0.5)):
        with pytest.raises(ValueError, match="needs another shape, none is given"):
            edits.apply(a, None)
    none = Latents(a.voxels.prune(torch.zeros(a.voxels.n_voxels, dtype=torch.bool)), a.values[:0])
    for edits in (LatentEdits(replace=OTHER), LatentEdits(interpolate=0.5), LatentEdits(interpolate=1.0)):
        for first, second in ((a, none), (none, a), (none, none)):
            found = edits.apply(first, second)
            assert len(found.moved) == found.latents.voxels.n_voxels == len(found.latents.values)
    assert torch.equal(LatentEdits(interpolate=0.5).apply(a, none).latents.values, a.values)
    assert LatentEdits(noise=1.0).apply(none, None).latents.voxels.n_voxels == 0


# -- in a run --------------------------------------------------------------------------------------------------------


def test_a_run_decodes_both_ends_as_the_shapes_themselves(model, few, ball, make_run) -> None:
    run = make_run(other=ball)
    run.run_pass()
    equals(run, model.reconstruct(*few))
    run.change_setting("interpolate", 1)
    run.run_pass()
    alone = make_run(ball)
    alone.run_pass()
    for name in ("voxels", "latent/voxels"):
        assert torch.equal(run.read_field(name).voxel_ijk, alone.read_field(name).voxel_ijk)
    for name in ("latent/latent", "corner_sdf", "alpha", "upsample 1/occupancy_logit"):
        assert torch.equal(run.read_field(name), alone.read_field(name)), name
    assert torch.equal(run.read_field("mesh").vertices, alone.read_field("mesh").vertices)
    run.change_setting("interpolate", 0.5)
    run.run_pass()
    n = run.read_field("latent/voxels").n_voxels
    assert n > max(run.read_field("voxels/voxels").n_voxels, alone.read_field("voxels/voxels").n_voxels)
    union = run.read_field("latent/voxels"), run.read_field("upsample 1/voxels")
    run.change_setting("interpolate", 0.6)
    run.run_pass()
    assert run.read_field("latent/voxels") is union[0] and run.read_field("upsample 1/voxels") is union[1]
    for name in ("mean", "std", "edited"):
        assert bool(run.read_field(f"latent/{name}").isfinite().all()) and len(run.read_field(f"latent/{name}")) == n
    # voxels that the first shape lacks are attended in the decoder alone
    lacking = run.read_field("voxels/voxels").find(run.read_field("latent/voxels").voxel_ijk) < 0
    keys = run.read_field("latent/voxels").keys
    run.change_setting("attended_voxel", int(keys[lacking][0]))
    run.run_pass()
    assert run.read_field("encoder 1/attention") is None and run.read_field("trunk 1/attention") is not None
    run.change_setting("attended_voxel", int(keys[~lacking][-1]))
    run.run_pass()
    row = int(run.read_field("voxels/voxels").find(run.read_field("latent/voxels").voxel_ijk[(~lacking).nonzero()[-1]]))
    assert bool(run.read_field("encoder 1/attention")[row].isfinite().all())
    run.change_setting("interpolate", 0)  # other voxels, but the same one is attended
    run.run_pass()
    voxels, window = run.read_field("latent/voxels"), model.decoder.blocks[0].window_size
    cells = torch.div(voxels.voxel_ijk + model.decoder.blocks[0].shift, window, rounding_mode="floor")
    inside = (cells == cells[voxels.keys == keys[~lacking][-1]]).all(dim=1)
    assert torch.equal(~run.read_field("trunk 1/attention").isnan().any(dim=1), inside)
    run.change_setting("attended_voxel", -1)
    run.run_pass()
    equals(run, model.reconstruct(*few))


def test_an_edited_run_goes_through_its_state(make_run, ball, weights) -> None:
    from test_reconstruct_run import same_fields

    from sparseflex.training.reconstruct import ReconstructRun

    run = make_run(other=ball, checkpoint=weights, settings={"interpolate": 0.4, "noise": 0.2, "latent_seed": 9})
    run.run_pass()
    again = ReconstructRun.from_state_dict(run.state_dict())
    same_fields(run, again)
    assert "interpolate" in again.settings


# -- colours ---------------------------------------------------------------------------------------------------------


def test_axes_are_those_of_the_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    for channels in (8, 300):
        basis = torch.linalg.qr(torch.randn(channels, channels, generator=generator)).Q
        rows = torch.randn(1000, channels, generator=generator) * 0.6 ** torch.arange(channels) @ basis.T + 5
        _, _, wanted = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
        found = principal_axes(rows)
        assert torch.allclose((found * wanted[:3].T).sum(dim=0).abs(), torch.ones(3), atol=1e-3)
        assert bool((found.gather(0, found.abs().argmax(dim=0)[None]) > 0).all())
        assert torch.allclose(principal_axes(rows.flip(0)), found, atol=1e-2)


def test_colours_lie_within_0_and_1_whatever_comes() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5000, 32, generator=generator)
    colours = principal_colours(features)
    assert colours.shape == (5000, 3) and float(colours.min()) == 0 and float(colours.max()) == 1
    assert torch.equal(colours, principal_colours(features))
    features[7] = float("nan")
    colours = principal_colours(features)
    assert bool(colours[7].isnan().all()) and int(colours.isnan().any(dim=1).sum()) == 1
    for rows, channels in ((0, 8), (1, 8), (5, 1), (4, 0), (9, 2)):
        found = principal_colours(torch.randn(rows, channels, generator=generator))
        assert found.shape == (rows, 3) and bool(((found >= 0) & (found <= 1)).all())
    assert torch.equal(principal_colours(torch.full((6, 4), 1e6)), torch.full((6, 3), 0.5))
    assert bool(principal_colours(torch.full((6, 4), float("inf"))).isnan().all())
    assert principal_colours(torch.randn(50, 256, generator=generator).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("channels", [8, 256])
def test_colours_of_what_is_huge_or_tiny_are_those_of_the_same_at_another_scale(channels) -> None:
    features = torch.randn(500, channels, generator=torch.Generator().manual_seed(0))
    wanted = principal_colours(features)
    for exponent in (-90, 62, 124):
        assert torch.allclose(principal_colours(features * 2.0**exponent), wanted, atol=1e-4)
