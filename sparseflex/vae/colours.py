"""Colours of features: their first three principal components, so that voxels of like features look alike."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SAMPLED_ROWS = 2048
"""The components are those of so many rows, evenly spread, at most."""

_EXACT_CHANNELS = 128
"""Up to that all components of the covariance are found; beyond, only the first ones, by iteration."""

_COLUMNS, _ROUNDS = 12, 6
_SHARES = (0.02, 0.98)
"""Of the sampled rows: where black and full colour are."""


@torch.no_grad()
def principal_colours(features: Float[Tensor, "rows channels"]) -> Float[Tensor, "rows 3"]:
    """Red, green and blue in [0, 1], float32: the first, second and third principal component of each row.

    Each is scaled so that most rows lie within the range, what doesn't vary is 0.5. A component points to where its
    largest loading is positive: the same features always have the same colours. Rows that aren't finite are NaN.
    """
    if features.shape[0] == 0 or features.shape[1] == 0:
        return torch.full((features.shape[0], 3), 0.5, device=features.device)
    n = features.shape[0]
    rows = torch.linspace(0, n - 1, min(n, SAMPLED_ROWS), dtype=torch.float64, device=features.device).round().long()
    sample = features[rows].float()
    if not bool(torch.isfinite(sample.sum())):  # one look at all is quicker than to pick rows where none is bad
        sample = sample[torch.isfinite(sample).all(dim=1)]
    if len(sample) == 0:
        return torch.full((n, 3), torch.nan, device=features.device)
    # a power of two: it changes no digit, and keeps squares of what is huge from going beyond any number
    scale = sample.abs().amax().clamp(min=1e-30).log2().floor().exp2()
    sample = sample / scale
    axes = principal_axes(sample)
    found = features.float() @ (axes / scale)
    low, high = torch.quantile(sample @ axes, torch.tensor(_SHARES, device=sample.device), dim=0)
    # what is no more than rounding is no variation
    flat = high - low <= 1e-5 * sample.abs().amax().clamp(min=1e-30)
    scaled = ((found - low) / torch.where(flat, 1.0, high - low)).clamp(0, 1)
    colours = torch.where(flat & torch.isfinite(scaled), 0.5, scaled)
    return torch.nn.functional.pad(colours, (0, 3 - colours.shape[1]), value=0.5)


def principal_axes(rows: Float[Tensor, "rows channels"]) -> Float[Tensor, "channels k"]:
    """The k ≤ 3 unit directions along which the rows vary most, most first, each with its largest loading positive."""
    centred = rows - rows.mean(dim=0)
    channels = centred.shape[1]
    k = min(3, channels)
    if channels <= _EXACT_CHANNELS:
        covariance = centred.double().T @ centred.double()
        axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :k].float()
    else:
        axes = _leading_axes(centred)[:, :k]
    largest = axes.abs().argmax(dim=0)
    return axes * torch.where(axes.gather(0, largest[None]) < 0, -1.0, 1.0)


def _leading_axes(centred: Float[Tensor, "rows channels"]) -> Float[Tensor, "channels columns"]:
    """Subspace iteration from a fixed start: a few products with thin matrices instead of a whole covariance."""
    start = torch.randn(centred.shape[1], _COLUMNS, generator=torch.Generator().manual_seed(0)).to(centred.device)
    basis = torch.linalg.qr(start).Q
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    seen = (centred @ basis).double()
    return basis @ torch.linalg.eigh(seen.T @ seen).eigenvectors.flip(1).float()
