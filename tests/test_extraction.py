"""Extraction against the reference data, a slow twin, and gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from same_mesh import assert_same_mesh, renumbering

import sparseflex as sf
from sparseflex.dmc_tables import case_tables

HERE = Path(__file__).parent / "golden" / "extraction"
SHARED = Path(__file__).parents[2] / "shared" / "golden" / "extraction"
CASES = {path.stem: path for folder in (SHARED, HERE) if folder.is_dir() for path in sorted(folder.glob("*.npz"))}
DUPLICATES = CASES.pop("torus_32_duplicates")


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(CASES[name]) as data:
        return {key: data[key] for key in data.files}


def has_gradients(name: str) -> bool:
    with np.load(CASES[name]) as data:
        return "grad_feats" in data.files


def build(data, dtype=torch.float32, requires_grad=False):
    features = torch.tensor(data["feats"], dtype=dtype, requires_grad=requires_grad)
    voxels = sf.SparseVoxels(torch.tensor(data["coords"][:, -3:]), int(data["resolution"]))
    return features, sf.SparseFlex.from_features(voxels, features)


@pytest.mark.parametrize("name", sorted(CASES))
def test_reference_meshes(name):
    data = load(name)
    _, flex = build(data)
    assert_reference(flex, data)


def assert_reference(flex, data):
    """Both meshes and the regularisers are those of the reference."""
    for training, prefix in ((False, ""), (True, "train_")):
        mesh = sf.extract_mesh(flex, training=training)
        assert_same_mesh(mesh, data[prefix + "verts"], data[prefix + "faces"])
        np.testing.assert_allclose(np.sort(mesh.l_dev.numpy()), np.sort(data[prefix + "L_dev"]), atol=1e-6)
    assert float(flex.consistency_loss) == pytest.approx(float(data["con_loss"]), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("name", sorted(filter(has_gradients, CASES)))
def test_reference_gradients(name):
    data = load(name)
    features, flex = build(data, requires_grad=True)
    mesh = sf.extract_mesh(flex, training=True)
    row = renumbering(mesh.vertices.detach().numpy(), data["train_verts"])
    weights = np.random.Generator(np.random.PCG64(99)).standard_normal(data["train_verts"].shape).astype(np.float32)
    loss = (mesh.vertices * torch.tensor(weights)[row]).sum() + mesh.l_dev.mean() + flex.consistency_loss
    loss.backward()
    np.testing.assert_allclose(features.grad.numpy(), data["grad_feats"], atol=1e-5)


def test_the_ambiguous_cases_are_36():
    """C16 and C19 in all rotations: one ambiguous face and five negative corners or more."""
    tables = case_tables()
    cases = (tables.ambiguous_face >= 0).nonzero().squeeze(1).tolist()
    assert len(cases) == 36 and {case.bit_count() for case in cases} == {5, 6}
    # inverting one joins or parts its patches, and changes no crossing
    assert all(int(tables.n_crossings[case]) == int(tables.n_crossings[case + 256]) for case in range(256))
    assert all(int(tables.n_patches[case]) != int(tables.n_patches[case + 256]) for case in cases)


def random_flex(ijk, resolution, generator, dtype=torch.float64, positive_rim=False):
    voxels = sf.SparseVoxels(ijk, resolution)
    sdf = torch.rand(voxels.n_corners, generator=generator, dtype=dtype) * 2 - 1
    if positive_rim:
        rim = ((voxels.corner_ijk == 0) | (voxels.corner_ijk == resolution)).any(1)
        sdf = torch.where(rim, sdf.abs() + 0.01, sdf)
    deform, raw = (torch.randn(n, k, generator=generator, dtype=dtype) for n, k in ((len(sdf), 3), (len(ijk), 21)))
    from sparseflex.representation import activate_weights

    return sf.SparseFlex(voxels, sdf, deform, *activate_weights(raw), sdf.new_zeros(()))


def block(n):
    return torch.cartesian_prod(*[torch.arange(n)] * 3)


def directed_edges(faces):
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("training", [False, True])
def test_full_blocks_give_closed_manifolds(seed, training):
    generator = torch.Generator().manual_seed(seed)
    mesh = sf.extract_mesh(random_flex(block(9), 9, generator, positive_rim=True), training=training)
    edges = [tuple(edge) for edge in directed_edges(mesh.faces)]
    assert len(edges) == len(set(edges))  # no edge twice in one direction …
    assert set(edges) == {(b, a) for a, b in edges}  # … and each once in the other: closed, oriented, manifold
    # around every vertex the faces form one fan
    around = {}
    for a, b, c in mesh.faces.tolist():
        for v, link in ((a, (b, c)), (b, (c, a)), (c, (a, b))):
            around.setdefault(v, {})[link[0]] = link[1]
    for ring in around.values():
        start = place = next(iter(ring))
        steps = 0
        while steps == 0 or place != start:
            place, steps = ring[place], steps + 1
        assert steps == len(ring)


def slow_dual_vertices(flex):
    """Dual vertices (unsorted) of voxels none of whose faces are ambiguous, straight from the definition."""
    from sparseflex.dmc_tables import EDGES

    positions, found = flex.corner_positions(), []
    for v, corners in enumerate(flex.voxels.voxel_corners.tolist()):
        s = [float(flex.corner_sdf[c]) for c in corners]
        case = sum((value < 0) << k for k, value in enumerate(s))
        crossing = [e for e, (a, b) in enumerate(EDGES) if (s[a] < 0) != (s[b] < 0)]
        if case_tables().n_patches[case] != 1 or case_tables().ambiguous_face[case] >= 0:
            continue
        total, weight = torch.zeros(3, dtype=torch.float64), 0.0
        for e in crossing:
            a, b = EDGES[e]
            sa, sb = s[a] * float(flex.alpha[v, a]), s[b] * float(flex.alpha[v, b])
            point = (sa * positions[corners[b]] - sb * positions[corners[a]]) / (sa - sb)
            total, weight = total + float(flex.beta[v, e]) * point, weight + float(flex.beta[v, e])
        found.append(total / weight)
    return torch.stack(found)


def test_dual_vertices_against_a_slow_twin():
    generator = torch.Generator().manual_seed(5)
    flex = random_flex(block(4), 4, generator)
    mesh = sf.extract_mesh(flex)
    expected = slow_dual_vertices(flex)
    distance = (expected[:, None] - mesh.vertices).norm(dim=2).amin(1)
    assert len(expected) > 20 and float(distance.max()) < 1e-12


@pytest.mark.parametrize("training", [False, True])
def test_active_subset_equals_those_voxels_alone(training):
    generator = torch.Generator().manual_seed(7)
    flex = random_flex(block(6)[torch.randperm(216, generator=generator)[:150]], 6, generator)
    active = torch.rand(150, generator=generator) < 0.6
    subset = sf.extract_mesh(flex, active, training)
    alone = sf.SparseVoxels(flex.voxels.voxel_ijk[active], 6)
    rows = {tuple(ijk): row for row, ijk in enumerate(flex.voxels.corner_ijk.tolist())}
    corners = torch.tensor([rows[tuple(ijk)] for ijk in alone.corner_ijk.tolist()])
    expected = sf.extract_mesh(
        sf.SparseFlex(alone, flex.corner_sdf[corners], flex.corner_deform[corners], flex.alpha[active],
                      flex.beta[active], flex.gamma[active], flex.consistency_loss),
        training=training,
    )
    assert subset.n_faces > 0
    assert torch.equal(subset.vertices, expected.vertices) and torch.equal(subset.faces, expected.faces)


@pytest.mark.parametrize("training", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradients_in_float64(training, monkeypatch):
    monkeypatch.setattr("sparseflex.dual_vertices.CHUNK", 3)  # several chunks also in a small case
    monkeypatch.setattr("sparseflex.extraction.CHUNK", 3)
    generator = torch.Generator().manual_seed(11)
    flex = random_flex(block(2), 2, generator)
    sdf = torch.where(flex.corner_sdf < 0, flex.corner_sdf - 0.2, flex.corner_sdf + 0.2)  # away from sign changes
    leaves = [x.detach().requires_grad_() for x in (sdf, flex.corner_deform, flex.alpha, flex.beta, flex.gamma)]

    def function(*leaves):
        mesh = sf.extract_mesh(sf.SparseFlex(flex.voxels, *leaves, flex.consistency_loss), training=training)
        return mesh.vertices, mesh.l_dev

    assert torch.autograd.gradcheck(function, leaves, atol=1e-6)


def test_chunks_change_nothing(monkeypatch):
    flex = random_flex(block(8), 8, torch.Generator().manual_seed(2))
    whole = sf.extract_mesh(flex, training=True)
    monkeypatch.setattr("sparseflex.dual_vertices.CHUNK", 50)
    monkeypatch.setattr("sparseflex.extraction.CHUNK", 50)
    parts = sf.extract_mesh(flex, training=True)
    assert torch.equal(whole.vertices, parts.vertices) and torch.equal(whole.faces, parts.faces)
    assert torch.equal(whole.l_dev, parts.l_dev)


@pytest.mark.parametrize("training", [False, True])
def test_nothing_in_nothing_out(training):
    empty = sf.SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 8)
    features = torch.zeros(0, 53, requires_grad=True)
    mesh = sf.extract_mesh(sf.SparseFlex.from_features(empty, features), training=training)
    assert mesh.n_vertices == mesh.n_faces == len(mesh.l_dev) == 0
    voxels = sf.SparseVoxels(block(3), 4)
    sdf = torch.ones(voxels.n_corners, requires_grad=True)
    mesh = sf.extract_mesh(sf.SparseFlex.from_sdf(voxels, sdf), training=training)
    assert mesh.n_vertices == 0
    (mesh.vertices.sum() + mesh.l_dev.sum()).backward()
    assert float(sdf.grad.abs().sum()) == 0


def test_shapes_are_checked():
    voxels = sf.SparseVoxels(block(2), 4)
    with pytest.raises(ValueError, match=r"features must have shape \(8, 53\), got \(8, 52\)"):
        sf.SparseFlex.from_features(voxels, torch.zeros(8, 52))
    with pytest.raises(ValueError, match=r"corner_sdf must have shape \(27,\), got \(26,\)"):
        sf.SparseFlex.from_sdf(voxels, torch.zeros(26))
    with pytest.raises(ValueError, match=r"active must be a \(8,\) bool tensor"):
        sf.extract_mesh(sf.SparseFlex.from_sdf(voxels, torch.zeros(27)), torch.ones(7, dtype=torch.bool))


def test_duplicate_voxels_are_refused():
    with np.load(DUPLICATES) as data, pytest.raises(ValueError, match="unique rows"):
        sf.SparseVoxels(torch.tensor(data["coords"][:, -3:]), int(data["resolution"]))


def merged_duplicates(data):
    features = torch.tensor(data["feats"])
    return features, sf.SparseFlex.merging_duplicates(torch.tensor(data["coords"]), int(data["resolution"]), features)


def test_merged_duplicates_are_the_references():
    with np.load(DUPLICATES) as data:
        features, flex = merged_duplicates(data)
        assert flex.voxels.n_voxels < len(features)
        assert_reference(flex, data)
        assert np.array_equal(flex.voxels.corner_ijk.numpy(), data["corner_coords"])
        np.testing.assert_allclose(flex.corner_sdf.numpy(), data["corner_attrs"][:, 0], atol=1e-6)
        np.testing.assert_allclose(flex.corner_deform.numpy(), data["corner_attrs"][:, 1:], atol=1e-6)


def test_merging_duplicates_against_a_slow_twin():
    """Means over every row, weights of the last, row by row; without duplicates it is from_features."""
    generator = torch.Generator().manual_seed(3)
    ijk = torch.randint(0, 3, (40, 3), generator=generator)
    features = torch.randn(40, 53, generator=generator, dtype=torch.float64)
    flex = sf.SparseFlex.merging_duplicates(ijk, 4, features)
    single = [sf.SparseFlex.from_features(sf.SparseVoxels(ijk[i : i + 1], 4), features[i : i + 1]) for i in range(40)]
    at_corner, last = {}, {}
    for row, one in enumerate(single):
        last[tuple(ijk[row].tolist())] = one
        for corner, sdf in zip(one.voxels.corner_ijk.tolist(), one.corner_sdf.tolist(), strict=True):
            at_corner.setdefault(tuple(corner), []).append(sdf)
    expected = torch.tensor([np.mean(at_corner[tuple(c)]) for c in flex.voxels.corner_ijk.tolist()])
    torch.testing.assert_close(flex.corner_sdf, expected.double(), atol=1e-6, rtol=0)
    for name in ("alpha", "beta", "gamma"):
        weights = torch.cat([getattr(last[tuple(v)], name) for v in flex.voxels.voxel_ijk.tolist()])
        assert torch.equal(getattr(flex, name), weights)
    plain = sf.SparseVoxels(block(3), 4)
    once = sf.SparseFlex.merging_duplicates(block(3), 4, features[:27])
    torch.testing.assert_close(once.corner_sdf, sf.SparseFlex.from_features(plain, features[:27]).corner_sdf)


def test_merging_duplicates_checks_its_input():
    with pytest.raises(ValueError, match=r"features must have shape \(2, 53\), got \(3, 53\)"):
        sf.SparseFlex.merging_duplicates(torch.zeros(2, 3, dtype=torch.int32), 4, torch.zeros(3, 53))
    with pytest.raises(ValueError, match=r"voxel_ijk must be in \[0, 4\), got values from 0 to 4"):
        sf.SparseFlex.merging_duplicates(torch.tensor([[0, 0, 4]]), 4, torch.zeros(1, 53))
    empty = sf.SparseFlex.merging_duplicates(torch.zeros(0, 3, dtype=torch.int32), 4, torch.zeros(0, 53))
    assert empty.voxels.n_voxels == 0 and sf.extract_mesh(empty).n_faces == 0
