"""Weights of a SparseFlexVAE in files: the release's, our own with the sizes inside, and .pt, never executed."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparseflex.vae.config import BLOCKS, VAEConfig, block_count, config_from_shapes, config_from_yaml

if TYPE_CHECKING:
    from sparseflex.vae.model import SparseFlexVAE

FORMAT = "sparseflex-vae-1"
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What weights may be stored in."""

_NAMED = 3
"""How many keys an error names of each kind."""


def read_checkpoint(
    path: str | Path, config: str | Path | VAEConfig | None = None
) -> tuple[VAEConfig, dict[str, Tensor]]:
    """Sizes and float32 tensors of a checkpoint, every key checked; see SparseFlexVAE.from_checkpoint."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'is a directory, not a checkpoint' if path.is_dir() else 'no such file'}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown checkpoint type {path.suffix!r}; allowed are {', '.join(SUFFIXES)}")
    own, tensors = _read_safetensors(path) if path.suffix == ".safetensors" else (None, _read_pickled(path))
    sizes = _sizes(path, own, config, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    _check(path, sizes, tensors)
    return sizes, {key: tensor.float() for key, tensor in tensors.items()}


def is_vae_checkpoint(path: str | Path) -> bool:
    """Whether a .safetensors holds a SparseFlexVAE, told by its header alone."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            return metadata.get("format") == FORMAT or "local_pc_encoder.fc_pos.weight" in file.keys()  # noqa: SIM118
    except (SafetensorError, OSError):
        return False


def save_weights(path: str | Path, model: SparseFlexVAE) -> None:
    """Our own format: the release's keys, and the sizes as JSON in the metadata. ValueError for another suffix."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a model must be saved as .safetensors, got {path.suffix!r}")
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={"format": FORMAT, "config": json.dumps(dataclasses.asdict(model.config))})
    partial.chmod(0o644)
    partial.replace(path)


def _read_safetensors(path: Path) -> tuple[VAEConfig | None, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        if metadata.get("format") != FORMAT:
            return None, tensors
        table = json.loads(metadata["config"])
        return VAEConfig(**table), tensors
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: can't be read as safetensors, cut off or no such file: {error}") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: its metadata hold no sizes of a VAE: {reason}") from None


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """A state dict as torch saves it, alone or under a key such as state_dict; weights only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a file is told in one line
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # of what torch has to say, what it met; not how to execute it nevertheless
        met = re.search(r"(?:Can only build|Unsupported|Trying to) [^\n]*?(?=\. |\.?\n|\.?$| was not)", str(error))
        reason = f": {met[0][:120]}" if met else ""
        raise ValueError(f"{path}: holds more than weights, which is never executed{reason}") from None
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, LookupError, ValueError, ArithmeticError,
            TypeError, AttributeError, AssertionError, ImportError, MemoryError, struct.error) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{path}: can't be read as weights, cut off or no such file: {reason}") from None
    for key in ("state_dict", "model", "module"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path}: must hold a state dict, names and tensors, got {type(found).__name__}")
    return {str(key): value for key, value in found.items()}


def _sizes(
    path: Path, own: VAEConfig | None, config: str | Path | VAEConfig | None, shapes: Mapping[str, tuple[int, ...]]
) -> VAEConfig:
    """What the weights themselves tell is believed first, so that no config can ask for sizes of its own. Where they
    lack the keys that tell it, the release's sizes: what else they lack is seen beside those."""
    try:
        told = config_from_shapes(shapes)
    except KeyError:
        told = VAEConfig()
    except ValueError as error:
        raise ValueError(f"{path}: is no SparseFlex VAE: {error}") from None
    if isinstance(config, VAEConfig):
        return config
    if config is not None:
        return config_from_yaml(config, own or told)
    return own or told


def _check(path: Path, sizes: VAEConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError where keys or shapes aren't those of this network, or values can't be used."""
    from sparseflex.vae.model import SparseFlexVAE

    for name in BLOCKS:
        # networks are built of as many blocks as there are, whatever a config says
        there = block_count(tensors, name)
        if getattr(sizes, name) > there + 100:
            raise ValueError(f"{path}: {name} must be {there} as in the weights, got {getattr(sizes, name)}")
    with torch.device("meta"):
        wanted = {key: tuple(tensor.shape) for key, tensor in SparseFlexVAE(sizes).state_dict().items()}
    missing = [key for key in wanted if key not in tensors]
    unexpected = [key for key in tensors if key not in wanted]
    other = [f"{key} {tuple(tensors[key].shape)} instead of {shape}" for key, shape in wanted.items()
             if key in tensors and tuple(tensors[key].shape) != shape]
    faults = [f"{len(found)} {what} ({_listed(found)})" for what, found in (
        ("missing", missing), ("unexpected", unexpected), ("of another shape", other)) if found]
    if faults:
        whose = "is no SparseFlex VAE: " if len(missing) > len(wanted) // 2 else ""
        raise ValueError(f"{path}: {whose}{len(wanted)} tensors are wanted, of which {', '.join(faults)}")
    for key, tensor in tensors.items():
        _check_values(f"{path}: {key}", tensor)


def _check_values(name: str, tensor: Tensor) -> None:
    """Raises ValueError for what isn't plain finite numbers, each of them in the file."""
    if tensor.dtype not in PRECISIONS:
        raise ValueError(f"{name} must be of floating point ({', '.join(str(p)[6:] for p in PRECISIONS)}), got "
                         f"{tensor.dtype}")
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ValueError(f"{name} must hold its values, got a {tensor.layout} tensor on {tensor.device}")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        # a value that stands for many: a small file could ask for any memory
        raise ValueError(f"{name} must hold {tensor.numel():,} values, got {tensor.untyped_storage().nbytes():,} bytes")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")


def _listed(names: Iterable[str]) -> str:
    # a file may call its tensors anything
    names = ["".join(c if c.isprintable() else "?" for c in name[:120]) for name in names]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
