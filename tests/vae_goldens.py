"""The VAE's reference data: the thinned copies here and, where it lies beside the checkout, the whole of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from same_mesh import assert_holds_part
from torch import Tensor, nn
from vae_weights import GOLDEN, full_width_weights, tiny_weights

import sparseflex.vae.decoding
from sparseflex.mesh import Mesh
from sparseflex.sparse import VoxelBatch
from sparseflex.vae import SparseFlexVAE
from sparseflex.vae.config import config_from_shapes, config_from_yaml
from sparseflex.voxels import SparseVoxels

SHARED = Path(__file__).parents[2] / "shared" / "golden"
TOLERANCE = 1e-4
"""Of network values; and logits so near to zero may fall on either side of it."""


class Golden:
    """One file of reference data; `compare` knows which rows a copy holds, and it is noted what was looked at."""

    def __init__(self, name: str) -> None:
        folders = [folder for folder in (GOLDEN, SHARED) if (folder / f"{name}.npz").is_file()]
        self.copies: list[dict[str, np.ndarray]] = []
        for folder in folders:
            with np.load(folder / f"{name}.npz") as data:
                self.copies.append(dict(data))
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        self.seen.add(name)
        return self.copies[0][name]

    def rows(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """(k, every k-th row of the array), from each copy."""
        for copy in self.copies:
            found = [(match, copy[key]) for key in copy if (match := re.fullmatch(rf"{name}(?:_every(\d+))?", key))]
            assert len(found) == 1, f"{name} in {sorted(copy)}"
            self.seen.add(found[0][0].string)
            yield int(found[0][0].group(1) or 1), found[0][1]

    def compare(self, name: str, ours: Tensor | np.ndarray, tolerance: float = TOLERANCE) -> None:
        """Every value within the tolerance; whole numbers equal."""
        ours = np.asarray(ours)
        for step, expected in self.rows(name):
            assert ours[::step].shape == expected.shape, name
            if expected.dtype.kind == "f":
                np.testing.assert_allclose(ours[::step], expected, atol=tolerance, rtol=0, err_msg=name)
            else:
                np.testing.assert_array_equal(ours[::step], expected, err_msg=name)

    def kept(self, level: int) -> np.ndarray:
        """The reference's decisions at this level, for all rows."""
        name = f"up{level}_kept"
        if name in self.copies[0]:
            return np.unpackbits(self[name]).astype(bool)
        return self[f"up{level}_logits"].reshape(-1) >= 0


@contextmanager
def golden(name: str) -> Iterator[Golden]:
    """Reference data of which a test must look at every array."""
    data = Golden(name)
    yield data
    missed = set(data.copies[0]) - data.seen
    assert not missed, f"{name}: nobody looked at {sorted(missed)}"


def follow(monkeypatch: pytest.MonkeyPatch, decisions: Iterator[np.ndarray | None]) -> None:
    """Lets every pruning decide as the reference did, one array a level (None: as the logits say).

    A decision may differ from that of the logits only where they are within the tolerance of zero: without this, one
    such logit would change all that comes after it.
    """
    own = sparseflex.vae.decoding.decide

    def decide(logits: Tensor, prune: bool, threshold: float) -> Tensor:
        ours, theirs = own(logits, prune, threshold), next(decisions)
        if theirs is None:
            return ours
        theirs = torch.from_numpy(theirs[: len(logits)])
        assert ours.shape == theirs.shape
        assert bool((logits[ours != theirs].abs() < TOLERANCE).all())
        return theirs

    monkeypatch.setattr(sparseflex.vae.decoding, "decide", decide)


@contextmanager
def inputs_and_outputs(model: nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """What goes into each module (its first argument) and what comes out, by the module's name; its last call."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str):
        return lambda module, inputs, output: seen.__setitem__(name, (inputs[0], output))

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def tiny_model() -> SparseFlexVAE:
    return _model("tiny", tiny_weights())


def full_width_model() -> SparseFlexVAE:
    return _model("full_width", full_width_weights())


def _model(name: str, weights: dict[str, Tensor]) -> SparseFlexVAE:
    sizes = config_from_shapes({key: tuple(tensor.shape) for key, tensor in weights.items()})
    with torch.device("meta"):
        model = SparseFlexVAE(config_from_yaml(GOLDEN / name / "config.yaml", sizes))
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def batch_of(coords: np.ndarray, resolution: int) -> VoxelBatch:
    """From rows [shape, i, j, k], or [i, j, k] of a single shape."""
    shape = coords[:, 0] if coords.shape[1] == 4 else np.zeros(len(coords), dtype=int)
    rows = (torch.tensor(coords[shape == number][:, -3:]) for number in range(int(shape.max()) + 1))
    return VoxelBatch(tuple(SparseVoxels(ijk, resolution) for ijk in rows))


class Tiny(NamedTuple):
    """The tiny networks and what the decoder starts from."""

    model: SparseFlexVAE
    batch: VoxelBatch
    latent: Tensor
    trunk_features: Tensor


@functools.cache
def tiny() -> Tiny:
    """trunk_features: what the trunk gives from the reference's latent (test_vae_golden compares it)."""
    model, inputs = tiny_model(), Golden("tiny/inputs")
    batch = batch_of(inputs["voxels"], int(inputs["resolution"]))
    latent = torch.tensor(Golden("tiny/encoder")["z"])
    return Tiny(model, batch, latent, model.decoder.run(latent, batch))


def points_and_normals(data: Golden) -> tuple[Tensor, Tensor]:
    values = torch.tensor(data["points_normals"]).reshape(-1, 6)
    return values[:, :3], values[:, 3:]


def with_shape_index(batch: VoxelBatch) -> np.ndarray:
    """Rows [shape, i, j, k], as the reference has them."""
    return torch.cat([batch.shape_index[:, None], batch.voxel_ijk], dim=1).numpy()


def compare_part_of_mesh(data: Golden, mesh: Mesh) -> None:
    """Where the reference holds no whole mesh."""
    assert mesh.n_vertices == int(data["n_verts"]) and mesh.n_faces == int(data["n_faces"])
    for (step, vertices), (_, faces) in zip(data.rows("verts"), data.rows("faces"), strict=True):
        assert_holds_part(mesh, vertices, step, faces)
