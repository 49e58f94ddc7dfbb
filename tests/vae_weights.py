"""The random weights behind the reference data of the VAE, made anew: they need no file of 16 or 715 MB."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def tiny_weights() -> dict[str, Tensor]:
    """The 97 tensors of golden/tiny (3,985,095 parameters), under the release's keys."""
    return _weights(GOLDEN / "tiny")


def full_width_weights() -> dict[str, Tensor]:
    """The 257 tensors of golden/full_width, as many and as large as the release's (178,833,479 parameters)."""
    return _weights(GOLDEN / "full_width")


def _weights(folder: Path) -> dict[str, Tensor]:
    """Each tensor from its key alone, checked against the sum and first values that were noted; then the overrides.

    An override is the whole bias, or with "[:8]" after its key the first eight values: they set how much is pruned
    and let the surface lie within the voxels.
    """
    noted = json.loads((folder / "weights_checksums.json").read_text())
    weights = {key: _seeded(key, tuple(shape)) for key, (shape, _, _) in noted.items()}
    for key, (_, total, first) in noted.items():
        assert weights[key].ravel()[:3].tolist() == first, key
        assert abs(weights[key].sum(dtype=np.float64) - total) < 1e-6 * max(1, abs(total)), key
    for key, value in json.loads((folder / "bias_overrides.json").read_text()).items():
        weights[key.removesuffix("[:8]")][: 8 if key.endswith("[:8]") else None] = value
    return {key: torch.from_numpy(value) for key, value in weights.items()}


def _seeded(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """N(0, 1)/sqrt(fan-in) for matrices and kernels, 1 + 0.1·N for GroupNorm's weights, 0.05·N for biases."""
    normal = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape, dtype=np.float32)
    if normal.ndim >= 2:
        normal *= np.float32(1 / math.sqrt(np.prod(shape[1:])))
        return normal
    return 1 + np.float32(0.1) * normal if key.endswith(".weight") else np.float32(0.05) * normal
