"""Which backend serves convolutions on a device."""

from __future__ import annotations

import importlib.util

import torch


def backend_name(device: torch.device | str) -> str:
    """"spconv" on CUDA where it is installed, else "torch": our own, which runs anywhere."""
    usable = torch.device(device).type == "cuda" and importlib.util.find_spec("spconv") is not None
    return "spconv" if usable else "torch"
