"""Checkpoints: a run's whole state in one safetensors file; nothing in it is ever executed."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparseflex.training.run import Run

FORMAT = "sparseflex-run-1"

RUN_KINDS = ("fit", "reconstruct")
"""Names of our own runs: those that a state is enough to make."""


def save_checkpoint(path: str | Path, run: Run) -> None:
    """Writes run.state_dict() to path: first beside it, then renamed, so that a killed process leaves the old file.

    Raises OSError naming path and reason where it can't be written, ValueError naming what of the state can't be held.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    rest = _split(run.state_dict(), "", tensors)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata={"format": FORMAT, "run": str(run.name), "state": json.dumps(rest)})
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)  # as any other file: safetensors lets its owner alone read it
        os.replace(partial, path)
    except OSError as error:
        raise OSError(f"{path} can't be written: {error.strerror or error}") from None
    except SafetensorError as error:  # no OSError, even for a full disk
        reason = re.search(r"I/O error: (.*?)(?: at path .*)?$", str(error), re.DOTALL)
        if reason is None:
            raise ValueError(f"{path} can't hold this state: {error}") from None
        raise OSError(f"{path} can't be written: {reason[1]}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> tuple[str, dict[str, Any]]:
    """The run's name and its state, on the CPU. Raises FileNotFoundError, or ValueError for any other file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                found = metadata.get("format")
                raise ValueError(f"{path} is no run's checkpoint: format must be {FORMAT!r}, got {found!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return metadata["run"], _join(json.loads(metadata["state"]), tensors)
    except (SafetensorError, json.JSONDecodeError, KeyError, OSError) as error:
        raise ValueError(f"{path} can't be read as a checkpoint: {error}") from None


def run_of_state(kind: str, state: Mapping[str, Any], device: torch.device | str = "cpu") -> Run:
    """The run of one of RUN_KINDS that a state is of. A state that isn't one raises ValueError, TypeError, KeyError,
    AttributeError, IndexError or RuntimeError."""
    if kind == RUN_KINDS[1]:
        from sparseflex.training.reconstruct import ReconstructRun

        return ReconstructRun.from_state_dict(state, device)
    from sparseflex.training.config import FitConfig, from_table
    from sparseflex.training.fit import FitRun

    for name in ("config", "pending"):
        from_table(FitConfig, state[name], name)
    return FitRun.from_state_dict(state, device)


def load_run(path: str | Path, device: torch.device | str = "cpu") -> Run:
    """The run that a checkpoint holds, ready to go on. Raises FileNotFoundError, or ValueError for any other file.

    So does a checkpoint of another version, whose settings or shapes are others.
    """
    name, state = load_checkpoint(path)
    if name not in RUN_KINDS:
        raise ValueError(f"{path} holds a run of kind {name!r}; known are {', '.join(map(repr, RUN_KINDS))}")
    try:
        return run_of_state(name, state, device)
    except KeyError as error:
        raise ValueError(f"{path} lacks {error} in its state") from None
    except torch.cuda.OutOfMemoryError:  # a RuntimeError too, but not the file's fault
        raise
    except (ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} does not hold a run of this version: {reason}") from None


_TENSOR = "$tensor"


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """value with every tensor moved to tensors and a marker in its place."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {str(key): _split(item, f"{name}/{key}" if name else str(key), tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_split(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    if not isinstance(value, (str, int, float, type(None))):
        raise ValueError(f"state {name!r} must be a tensor, a number, a text, None, or a list or mapping of such, "
                         f"got {type(value).__name__}")
    return value


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _join(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    return value
