"""Extraction against the reference data, a slow twin, and gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

import sparseflex as sf

HERE = Path(__file__).parent / "golden" / "extraction"
SHARED = Path(__file__).parents[2] / "shared" / "golden" / "extraction"
CASES = {path.stem: path for folder in (SHARED, HERE) if folder.is_dir() for path in sorted(folder.glob("*.npz"))}
CASES.pop("torus_32_duplicates", None)


def oriented(faces: np.ndarray) -> set[tuple[int, int, int]]:
    """Faces as tuples that start at their smallest index, orientation kept."""
    turn = faces.argmin(axis=1)[:, None]
    return set(map(tuple, np.take_along_axis(faces, (turn + np.arange(3)) % 3, axis=1).tolist()))


def renumbering(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-5) -> np.ndarray:
    """For each of our vertices the reference's row; fails unless it is a bijection within the tolerance."""
    assert ours.shape == theirs.shape
    if len(ours) == 0:
        return np.zeros(0, dtype=np.int64)
    distance, row = cKDTree(theirs).query(ours)
    assert distance.max() < tolerance
    assert len(np.unique(row)) == len(row)
    return row


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
    for training, prefix in ((False, ""), (True, "train_")):
        mesh = sf.extract_mesh(flex, training=training)
        row = renumbering(mesh.vertices.numpy(), data[prefix + "verts"])
        assert oriented(row[mesh.faces.numpy()]) == oriented(data[prefix + "faces"])
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
