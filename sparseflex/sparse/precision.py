"""The precision that an operation computes in, and that it sums in."""

from __future__ import annotations

import torch
from torch import Tensor


def working_dtype(tensor: Tensor) -> torch.dtype:
    """Autocast's precision where it is on for the tensor's device, else the tensor's; float64 always stays."""
    kind = tensor.device.type
    cast = torch.is_autocast_enabled(kind) and tensor.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if cast else tensor.dtype


def working_sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums of many such numbers are kept in: float32 for half precision, which soon takes no more."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
