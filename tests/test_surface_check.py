"""Why a surface is empty, holed or inside out: faults planted by hand are named exactly, and nothing else is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from fake_run import icosphere_like

import sparseflex as sf
from sparseflex.regions import Regions, components
from sparseflex.signed_distance import signed_distance
from sparseflex.surface_check import BORDER_VOXELS, Truth, check_surface
from sparseflex.training.fit_parameters import voxels_around
from sparseflex.vae.diagnosis import open_edges

TARGET = icosphere_like(16, 0.4)
RESOLUTION = 16


def lattice() -> tuple[sf.SparseVoxels, torch.Tensor]:
    """Two rings of voxels around the target, and its own SDF at the corners."""
    voxels = voxels_around(TARGET, RESOLUTION).dilate(1)
    return voxels, signed_distance(TARGET, voxels.corners_world)


def check(voxels: sf.SparseVoxels, sdf: torch.Tensor):
    return check_surface(voxels, sdf, Truth.of(TARGET, voxels))


def keys_of(voxels: sf.SparseVoxels) -> set[int]:
    return set(voxels.keys.tolist())


def mesh_of(voxels: sf.SparseVoxels, sdf: torch.Tensor) -> sf.Mesh:
    n, c = voxels.n_voxels, voxels.n_corners
    flex = sf.SparseFlex(voxels, sdf, torch.zeros(c, 3), torch.ones(n, 8), torch.ones(n, 12), torch.ones(n),
                         torch.zeros(()))
    return sf.extract_mesh(flex)


def test_a_good_surface_has_nothing_to_be_told():
    voxels, sdf = lattice()
    found = check(voxels, sdf)
    assert found.n_open == found.n_bad == 0 and found.n_inside + found.n_outside == voxels.n_corners
    assert found.holes.n == found.turned.n == found.bad.n == 0 and len(found.lost) == 0
    mesh = mesh_of(voxels, sdf)
    assert mesh.n_faces == 2 * found.n_faces and open_edges(mesh) == 0
    signs = (sdf < 0)[voxels.voxel_corners.long()]
    assert found.n_crossed == int((signs.any(1) & ~signs.all(1)).sum())


def test_all_corners_on_one_side_is_no_surface():
    voxels, sdf = lattice()
    found = check(voxels, sdf.abs() + 0.01)
    assert found.n_inside == found.n_crossed == found.n_faces == found.n_open == 0
    assert found.turned.n == 1  # what should be inside hangs together


def test_missing_voxels_are_named_and_what_each_hole_costs():
    whole, sdf = lattice()
    touched = sf.SparseVoxels.from_mesh(TARGET, RESOLUTION)
    one = touched.voxel_ijk[touched.voxel_ijk[:, 0].argmax()]
    patch = touched.voxel_ijk[(touched.centers - torch.tensor([-0.4, 0.0, 0.0])).norm(dim=1) < 0.12]
    rows = whole.find(torch.cat([one[None], patch]))
    kept = torch.ones(whole.n_voxels, dtype=torch.bool)
    kept[rows] = False
    voxels = whole.prune(kept)
    found = check(voxels, sdf[whole.find_corners(voxels.corner_ijk)])
    gone = whole.prune(~kept)
    assert keys_of(found.holes.voxels) == keys_of(gone) and found.holes.sizes.tolist() == [len(patch), 1]
    assert found.holes.low[1].tolist() == found.holes.high[1].tolist() == one.tolist()
    assert torch.equal(found.holes.low[0], patch.amin(0)) and torch.equal(found.holes.high[0], patch.amax(0))
    # a slow twin: sign-changing edges of the whole lattice whose faces are gone, by a missing voxel at them
    lost = [0, 0]
    inside = {tuple(ijk) for ijk, value in zip(whole.corner_ijk.tolist(), (sdf < 0).tolist(), strict=True) if value}
    there = {tuple(ijk) for ijk in voxels.voxel_ijk.tolist()}
    corners = {tuple(ijk) for ijk in voxels.corner_ijk.tolist()}
    n_open = 0
    for corner, axis in itertools.product(sorted(corners), range(3)):
        upper = tuple(np.add(corner, np.eye(3, dtype=int)[axis]).tolist())
        steps = [step for step in itertools.product((0, 1), repeat=3) if not step[axis]]
        cells = [tuple(np.subtract(corner, step).tolist()) for step in steps]
        here = [cell in there for cell in cells]
        if upper not in corners or (corner in inside) == (upper in inside) or all(here) or not any(here):
            continue
        n_open += 1
        for region, members in enumerate((patch.tolist(), [one.tolist()])):
            lost[region] += any(list(cell) in members for cell in cells)
    assert found.lost.tolist() == lost and found.n_open == n_open and n_open > 0


def test_a_flipped_patch_is_the_only_one_that_is_turned():
    voxels, sdf = lattice()
    ball = (voxels.corners_world - torch.tensor([0.4, 0.0, 0.0])).norm(dim=1) < 0.2
    found = check(voxels, torch.where(ball, -sdf, sdf))
    flipped = ball[voxels.voxel_corners.long()]
    named = voxels.find(found.turned.voxels.voxel_ijk)
    mask = torch.zeros(voxels.n_voxels, dtype=torch.bool)
    mask[named] = True
    assert found.turned.n == 1 and bool(mask[flipped.all(1)].all()) and not bool(mask[~flipped.any(1)].any())
    assert bool(flipped.all(1).any()) and found.holes.n == 0


def test_a_corner_that_is_nan_names_its_eight_voxels():
    voxels, sdf = lattice()
    corner = int((voxels.corners_world - torch.tensor([0.0, 0.4, 0.0])).norm(dim=1).argmin())
    sdf[corner] = torch.nan
    found = check(voxels, sdf)
    assert found.n_bad == 1 and found.bad.n == 1
    assert keys_of(found.bad.voxels) == keys_of(voxels.prune((voxels.voxel_corners == corner).any(1)))


def test_without_target_or_with_nothing_at_all():
    voxels, sdf = lattice()
    found = check_surface(voxels, sdf)
    assert found.holes is None and found.turned is None and found.n_open == 0
    none = sf.SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), RESOLUTION)
    empty = check(none, torch.zeros(0))
    assert empty.n_inside == empty.n_crossed == empty.turned.n == 0
    assert keys_of(empty.holes.voxels) == keys_of(sf.SparseVoxels.from_mesh(TARGET, RESOLUTION))
    assert empty.lost.tolist() == [0]


def test_what_does_not_fit_is_one_line():
    voxels, sdf = lattice()
    with pytest.raises(ValueError, match=f"corner_sdf must have {voxels.n_corners} values, one a corner, got "):
        check_surface(voxels, sdf[1:])
    other = Truth.of(TARGET, voxels)._replace(touched=sf.SparseVoxels.from_mesh(TARGET, 8))
    with pytest.raises(ValueError, match="truth must have the voxels' resolution, 16, got 8"):
        check_surface(voxels, sdf, other)
    with pytest.raises(ValueError, match="truth.sdf must have"):
        check_surface(voxels, sdf, other._replace(sdf=sdf[1:]))


def test_beside_an_open_border_there_is_no_side():
    voxels, sdf = lattice()
    half = sf.Mesh(TARGET.vertices, TARGET.faces[TARGET.vertices[TARGET.faces][..., 1].amin(1) > -0.01])
    found = check_surface(voxels, -sdf, Truth.of(half, voxels))
    border = [vertex for vertex in half.vertices.tolist() if abs(vertex[1]) < 1e-6]
    places = ((torch.tensor(border) + 0.5) * RESOLUTION).floor()
    away = torch.stack([(voxels.voxel_ijk - place).abs().amax(1) for place in places]).amin(0)
    named = torch.zeros(voxels.n_voxels, dtype=torch.bool)
    named[voxels.find(found.turned.voxels.voxel_ijk)] = True
    upper = voxels.centers[:, 1] > 0
    assert not bool(named[away <= BORDER_VOXELS].any()) and found.n_at_border >= int((away <= BORDER_VOXELS).sum())
    assert bool(named[upper & (away > BORDER_VOXELS + 1)].all()) and bool(named.any())


@pytest.mark.parametrize("coded", [False, True])
def test_components_against_a_flood_fill(coded):
    generator = torch.Generator().manual_seed(3)
    ijk = torch.randint(0, 12, (220, 3), generator=generator).unique(dim=0)
    voxels = sf.SparseVoxels(ijk[torch.randperm(len(ijk), generator=generator)], 12)
    codes = torch.randint(0, 2, (voxels.n_voxels,), generator=generator) if coded else None
    label = components(voxels, codes)
    left, places = set(range(voxels.n_voxels)), voxels.voxel_ijk.tolist()
    while left:
        seed = min(left)
        part, todo = {seed}, [seed]
        while todo:
            row = todo.pop()
            near = {other for other in left - part if max(map(abs, np.subtract(places[row], places[other]))) <= 1
                    and (codes is None or codes[other] == codes[row])}
            part |= near
            todo += near
        assert {row for row, name in enumerate(label.tolist()) if name == seed} == part
        left -= part
    regions = Regions.of(voxels)
    assert regions.sizes.tolist() == sorted(regions.sizes.tolist(), reverse=True)
    assert torch.equal(torch.bincount(regions.number), regions.sizes)
