"""DEVICE: the device of the tests marked gpu, CUDA or one that is pretended on the CPU (see pretend_device.py)."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = os.environ.get("SPARSEFLEX_TEST_DEVICE", "cuda")

if DEVICE != "cuda":
    import pretend_device

    assert DEVICE == pretend_device.NAME, f"SPARSEFLEX_TEST_DEVICE must be cuda or {pretend_device.NAME}, got {DEVICE}"

AVAILABLE = DEVICE != "cuda" or torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA itself")
