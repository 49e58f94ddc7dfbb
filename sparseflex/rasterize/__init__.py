"""Rasterisation: which face each pixel sees, by one of several backends behind one protocol."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from sparseflex.rasterize import nvdiffrast_backend
from sparseflex.rasterize.nvdiffrast_backend import rasterize_nvdiffrast
from sparseflex.rasterize.screen import ScreenMesh
from sparseflex.rasterize.torch_backend import rasterize_torch

__all__ = ["BACKENDS", "RasterizerBackend", "ScreenMesh", "rasterize", "resolve_backend"]


class RasterizerBackend(Protocol):
    """A backend finds visibility only: for each pixel the nearest face with a depth in [near, far], else -1.

    Everything differentiable is computed from these ids elsewhere (render.py, silhouette.py).
    """

    def __call__(self, screen: ScreenMesh) -> Int[Tensor, "H W"]: ...


BACKENDS: dict[str, RasterizerBackend] = {"torch": rasterize_torch, "nvdiffrast": rasterize_nvdiffrast}


def resolve_backend(backend: str, device: torch.device) -> str:
    """The backend's name: `auto` is nvdiffrast on CUDA where it is installed, else torch.

    Raises ValueError for unknown names and for nvdiffrast off CUDA, RuntimeError where it is not installed.
    """
    if backend == "auto":
        return "nvdiffrast" if device.type == "cuda" and nvdiffrast_backend.is_installed() else "torch"
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {backend!r}")
    return backend


def rasterize(screen: ScreenMesh, backend: str = "auto") -> Int[Tensor, "H W"]:
    """Face ids (H, W), row 0 at the top, -1 where nothing is hit."""
    return BACKENDS[resolve_backend(backend, screen.faces.device)](screen)
