"""LPIPS on images: a VGG16 trunk and the linear heads of Zhang et al. 2018, with weights that the user supplies."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

# index of each convolution in torchvision's vgg16().features; a tap follows the ReLU of the last one of each group
_GROUPS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_WIDTHS = (64, 128, 256, 512, 512)
_HEADS = tuple(f"lin{level}.model.1.weight" for level in range(len(_GROUPS)))
# LPIPS' own scaling of RGB in [-1, 1]
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

_SOURCES = (
    "VGG16's weights (features.N.weight, features.N.bias) are published by the torchvision project as vgg16, "
    "ImageNet-1K; the heads (lin0.model.1.weight …) by the PerceptualSimilarity project as lpips v0.1, vgg"
)


# what torch.load raises on files of any other kind: its unpickler checks nothing before it looks things up
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, OSError,
    AssertionError,
)  # fmt: skip


class Lpips:
    """Learned perceptual distance of two images; made by load_lpips. Its weights are fixed."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self._weights = weights

    def _on(self, image: Tensor) -> dict[str, Tensor]:
        some = self._weights[_HEADS[0]]
        if some.device != image.device or some.dtype != image.dtype:
            self._weights = {name: value.to(image.device, image.dtype) for name, value in self._weights.items()}
        return self._weights

    def features(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b c h w"]]:
        """The five taps after relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3."""
        weights, taps = self._on(images), []
        shift, scale = (images.new_tensor(values).view(1, 3, 1, 1) for values in (_SHIFT, _SCALE))
        flow = (images - shift) / scale
        for level, group in enumerate(_GROUPS):
            if level > 0:
                flow = functional.max_pool2d(flow, 2)
            for index in group:
                name = f"features.{index}"
                flow = functional.conv2d(flow, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).relu()
            taps.append(flow)
        return taps

    def __call__(self, image: Float[Tensor, "*b H W 3"], target: Float[Tensor, "*b H W 3"]) -> Float[Tensor, ""]:
        """Mean distance of maps with values in [−1, 1], at least 16 pixels high and wide; 0 where they are equal."""
        if image.shape != target.shape or image.shape[-1] != 3 or min(image.shape[-3:-1]) < 16:
            raise ValueError(
                f"image and target must be (…, H, W, 3) of one shape, H and W at least 16, "
                f"got {tuple(image.shape)} and {tuple(target.shape)}"
            )
        first, second = (
            self.features(maps.reshape(-1, *maps.shape[-3:]).movedim(-1, 1)) for maps in (image, target.detach())
        )
        distance = image.new_zeros(())
        for a, b, head in zip(first, second, _HEADS, strict=True):
            off = (_unit(a) - _unit(b)).square()
            distance = distance + functional.conv2d(off, self._weights[head]).mean()
        return distance


def _unit(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    # the small term inside the root keeps the gradient finite where all channels are 0
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-20).sqrt()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"lpips_weights_file must name a file, got {path}, which doesn't exist; {_SOURCES}")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, *_UNREADABLE) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"lpips_weights_file {path} can't be read: {reason}") from None
    if not isinstance(content, dict):
        raise ValueError(f"lpips_weights_file {path} must hold a dict of tensors, got {type(content).__name__}")
    return content


def load_lpips(weights_file: str | Path) -> Lpips:
    """Reads VGG16 and the LPIPS heads from one file, or from several separated by commas (.pt, .pth, .safetensors).

    Keys as published: features.N.weight and .bias by torchvision, linK.model.1.weight by LPIPS; others are ignored.
    Raises ValueError that names the file, and the first key that is missing or has the wrong shape.
    """
    names = [name.strip() for name in str(weights_file).split(",") if name.strip()]
    if not names:
        raise ValueError(f"lpips_weights_file must name a file, got {str(weights_file)!r}; {_SOURCES}")
    found: dict[str, Tensor] = {}
    for name in names:
        found.update(_read(Path(name)))
    wanted: dict[str, tuple[int, ...]] = {}
    width_in = 3
    for group, width, head in zip(_GROUPS, _WIDTHS, _HEADS, strict=True):
        for index in group:
            wanted[f"features.{index}.weight"] = (width, width_in, 3, 3)
            wanted[f"features.{index}.bias"] = (width,)
            width_in = width
        wanted[head] = (1, width, 1, 1)
    missing = [key for key in wanted if not isinstance(found.get(key), Tensor)]
    if missing:
        raise ValueError(
            f"lpips_weights_file {weights_file} lacks {len(missing)} of {len(wanted)} tensors, "
            f"the first is {missing[0]}; {_SOURCES}"
        )
    for key, shape in wanted.items():
        if tuple(found[key].shape) != shape:
            raise ValueError(
                f"lpips_weights_file {weights_file}: {key} must have shape {shape}, got {tuple(found[key].shape)}"
            )
    return Lpips({key: found[key].detach().float() for key in wanted})
