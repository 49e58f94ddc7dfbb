"""The nvdiffrast backend: face ids by nvdiffrast's CUDA rasteriser; the only module that imports it."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sparseflex.rasterize.screen import ScreenMesh

INSTALL_COMMAND = (
    "pip install setuptools wheel ninja && "
    "pip install git+https://github.com/NVlabs/nvdiffrast.git --no-build-isolation"
)
MAX_FACES = 1 << 24  # it returns ids as float32


def is_installed() -> bool:
    """Whether nvdiffrast can be found, without importing it."""
    return importlib.util.find_spec("nvdiffrast") is not None


@functools.lru_cache(maxsize=8)
def _context(device_index: int) -> tuple[Any, Any]:
    import nvdiffrast.torch as nvdiffrast

    return nvdiffrast, nvdiffrast.RasterizeCudaContext(device=torch.device("cuda", device_index))


def rasterize_nvdiffrast(screen: ScreenMesh) -> Int[Tensor, "H W"]:
    """The face nearest to the camera at each pixel centre, -1 where there is none; CUDA tensors only.

    Needs nvdiffrast 0.3.3 or newer. Its sub-pixel grid is coarser than float64, so pixels on edges may differ from the
    torch backend's. Raises RuntimeError without nvdiffrast, ValueError for tensors off CUDA or too many faces.
    """
    if not is_installed():
        raise RuntimeError(f"backend 'nvdiffrast' needs nvdiffrast, which is not installed; run: {INSTALL_COMMAND}")
    device = screen.faces.device
    if device.type != "cuda":
        raise ValueError(f"backend 'nvdiffrast' must be given CUDA tensors, got {device}")
    if screen.n_faces >= MAX_FACES:
        raise ValueError(f"backend 'nvdiffrast' must be given fewer than {MAX_FACES} faces, got {screen.n_faces}")
    if screen.n_faces == 0:
        return torch.full((screen.height, screen.width), -1, dtype=torch.int64, device=device)
    column, row, w = screen.homogeneous
    near, far = screen.near, screen.far
    # rows point down here and in the returned image alike, so no flip is needed
    clip = torch.stack(
        [
            2 * column / screen.width - w,
            2 * row / screen.height - w,
            ((far + near) * w - 2 * far * near) / (far - near),
            w,
        ],
        dim=1,
    )
    index = device.index if device.index is not None else torch.cuda.current_device()
    nvdiffrast, context = _context(index)
    positions, faces = clip.to(torch.float32)[None].contiguous(), screen.faces.to(torch.int32).contiguous()
    raster, _ = nvdiffrast.rasterize(context, positions, faces, [screen.height, screen.width], grad_db=False)
    return raster[0, :, :, 3].to(torch.int64) - 1
