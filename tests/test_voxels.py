"""SparseVoxels against slow twins made of Python sets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

import sparseflex as sf
from sparseflex.voxels import CORNER_OFFSETS, lattice_keys


def cells(resolution: int):
    axis = st.integers(0, resolution - 1)
    return st.lists(st.tuples(axis, axis, axis), max_size=40, unique=True)


@st.composite
def voxel_sets(draw):
    resolution = draw(st.integers(1, 9))
    rows = draw(cells(resolution))
    return sf.SparseVoxels(torch.tensor(rows, dtype=torch.int64).reshape(-1, 3), resolution)


def rows_of(tensor):
    return [tuple(row) for row in tensor.tolist()]


@settings(max_examples=60, deadline=None)
@given(voxel_sets())
def test_corners_edges_and_degree(voxels):
    expected = [[tuple(v + o for v, o in zip(ijk, off, strict=True)) for off in CORNER_OFFSETS]
                for ijk in rows_of(voxels.voxel_ijk)]
    corner_ijk = rows_of(voxels.corner_ijk)
    assert corner_ijk == sorted({corner for eight in expected for corner in eight})
    assert [[corner_ijk[row] for row in eight] for eight in voxels.voxel_corners.tolist()] == expected
    edges = {(e[k], e[k | step]) for e in expected for k in range(8) for step in (1, 2, 4) if not k & step}
    found = [(corner_ijk[a], corner_ijk[b]) for a, b in voxels.lattice_edges.tolist()]
    assert len(found) == len(set(found)) and set(found) == edges
    flat = [corner for eight in expected for corner in eight]
    assert voxels.corner_degree.tolist() == [flat.count(corner) for corner in corner_ijk]


@settings(max_examples=60, deadline=None)
@given(voxel_sets(), st.integers(0, 2), st.randoms(use_true_random=False))
def test_find_dilate_subdivide_prune_section(voxels, rings, random):
    have = rows_of(voxels.voxel_ijk)
    R = voxels.resolution
    ask = torch.randint(-2, R + 2, (30, 3), generator=torch.Generator().manual_seed(random.randint(0, 999)))
    assert voxels.find(ask).tolist() == [have.index(row) if row in have else -1 for row in rows_of(ask)]
    reach = range(-rings, rings + 1)
    grown = {(x + i, y + j, z + k) for x, y, z in have for i in reach for j in reach for k in reach}
    grown = sorted(row for row in grown if all(0 <= value < R for value in row))
    assert rows_of(voxels.dilate(rings).voxel_ijk) == grown
    children = [(2 * x + i, 2 * y + j, 2 * z + k) for x, y, z in have for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    assert rows_of(voxels.subdivide().voxel_ijk) == children
    kept = torch.tensor([random.random() < 0.5 for _ in have], dtype=torch.bool)
    assert rows_of(voxels.prune(kept).voxel_ijk) == [row for row, k in zip(have, kept.tolist(), strict=True) if k]
    sub, voxel_rows, corner_rows = voxels.section(kept)
    fresh = sf.SparseVoxels(voxels.voxel_ijk[kept], R)
    assert rows_of(sub.voxel_ijk) == rows_of(fresh.voxel_ijk) and rows_of(sub.corner_ijk) == rows_of(fresh.corner_ijk)
    assert torch.equal(sub.voxel_corners, fresh.voxel_corners)
    assert torch.equal(voxels.voxel_ijk[voxel_rows], sub.voxel_ijk)
    assert torch.equal(voxels.corner_ijk[corner_rows], sub.corner_ijk)


def test_keys_are_int64_above_1290():
    high = torch.tensor([[1290, 1290, 1290], [0, 0, 0]])
    assert lattice_keys(high, 1290).dtype == torch.int32
    assert lattice_keys(high, 1291).dtype == torch.int64
    big = sf.SparseVoxels(torch.tensor([[99_999, 99_998, 99_997], [0, 0, 1]]), 100_000)
    again = sf.SparseVoxels.from_keys(big._sorted_keys, 100_000)
    assert rows_of(again.voxel_ijk) == [(0, 0, 1), (99_999, 99_998, 99_997)]
    assert big.corner_ijk.max() == 100_000


@pytest.mark.parametrize(
    ("ijk", "resolution", "words"),
    [
        ([[0, 0, 4]], 4, r"voxel_ijk must be in \[0, 4\)"),
        ([[0, -1, 0]], 4, r"voxel_ijk must be in \[0, 4\), got values from -1"),
        ([[1, 1, 1], [0, 0, 0], [1, 1, 1]], 4, "unique rows, got 1 repeated"),
        ([[1, 1]], 4, r"\(N, 3\) integer tensor, got \(1, 2\)"),
        ([[0.5, 0.0, 0.0]], 4, "integer tensor"),
        ([[0, 0, 0]], 512.0, r"resolution must be a whole number in \[1, 2097151\], got 512.0"),
        ([[0, 0, 0]], 0, "resolution must be a whole number in"),
    ],
)
def test_bad_voxels(ijk, resolution, words):
    with pytest.raises(ValueError, match=words):
        sf.SparseVoxels(torch.tensor(ijk), resolution)


def test_from_points():
    points = torch.tensor([[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5], [0.49, 0.5, 0.26], [0.0, 0.0, 0.0]])
    assert rows_of(sf.SparseVoxels.from_points(points, 4).voxel_ijk) == [(0, 0, 0), (2, 2, 2), (3, 3, 3)]
    for bad in (0.51, float("nan")):
        with pytest.raises(ValueError, match="points must lie in"):
            sf.SparseVoxels.from_points(torch.tensor([[0.0, bad, 0.0]]), 4)
    assert sf.SparseVoxels.from_points(torch.zeros(0, 3), 4).n_voxels == 0


def test_from_mesh_holds_dense_samples_and_nothing_far():
    generator = torch.Generator().manual_seed(3)
    vertices = torch.rand(30, 3, generator=generator, dtype=torch.float64) - 0.5
    faces = torch.randint(0, 30, (20, 3), generator=generator)
    mesh, resolution = sf.Mesh(vertices, faces), 16
    u = torch.rand(20, 4000, 2, generator=generator, dtype=torch.float64)
    u = torch.where(u.sum(-1, keepdim=True) > 1, 1 - u, u)
    a, b, c = (vertices[faces[:, k]][:, None] for k in range(3))
    samples = (a + u[..., :1] * (b - a) + u[..., 1:] * (c - a)).reshape(-1, 3)
    for margin in (0.0, 0.25):
        voxels = sf.SparseVoxels.from_mesh(mesh, resolution, margin)
        # every voxel near a sample is there …
        near = ((samples + 0.5) * resolution)[:, None] + margin * (2 * torch.rand(80000, 3, 3, generator=generator) - 1)
        ijk = near.floor().long().reshape(-1, 3)
        ijk = ijk[((ijk >= 0) & (ijk < resolution)).all(1)]
        assert bool((voxels.find(ijk) >= 0).all())
        # … and each one has a sample within its grown box, up to the samples' spacing
        gap, _ = cKDTree(samples.numpy()).query(voxels.centers.numpy(), p=float("inf"))
        assert gap.max() * resolution < 0.5 + margin + 0.3


def test_from_mesh_outside_the_grid():
    far = torch.tensor([[0.0, 0.0, 0.0], [1e6, 0.0, 0.0], [0.0, 1e6, 3.0]])
    faces = torch.tensor([[0, 1, 2]])
    voxels = sf.SparseVoxels.from_mesh(sf.Mesh(far, faces), 8)
    assert 0 < voxels.n_voxels < 8 * 8 * 3  # the part in the grid, and quickly
    with pytest.raises(ValueError, match="vertices must be finite"):
        sf.SparseVoxels.from_mesh(sf.Mesh(far * float("inf"), faces), 8)


def test_from_mesh_of_an_axis_plane_is_closed():
    vertices = torch.tensor([[-0.5, 0.0, -0.5], [0.5, 0.0, -0.5], [0.5, 0.0, 0.5], [-0.5, 0.0, 0.5]])
    mesh = sf.Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    voxels = sf.SparseVoxels.from_mesh(mesh, 4)
    assert set(voxels.voxel_ijk[:, 1].tolist()) == {1, 2} and voxels.n_voxels == 32
