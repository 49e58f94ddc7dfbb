"""Losses: each term a pure function of tensors (method.md, section 4); the weights belong to the run."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor

from sparseflex.lpips import Lpips, load_lpips

__all__ = [
    "Lpips",
    "depth_l1",
    "dev_loss",
    "kl_to_normal",
    "load_lpips",
    "mask_l1",
    "normal_l1",
    "occupancy_bce",
    "sign_change_loss",
    "ssim",
    "ssim_loss",
]

_REACH, _SIGMA = 5, 1.5
# Wang et al. 2004: (0.01 L)² and (0.03 L)²; a component of a normal spans L = 2
_C1, _C2 = 0.02**2, 0.06**2


def _masked_mean(values: Float[Tensor, "*n"], where: Bool[Tensor, "*n"]) -> Float[Tensor, ""]:
    """Mean over the entries where `where` holds; 0, with gradient 0, if there are none. What lies elsewhere never
    counts, not even NaN or infinity."""
    return torch.where(where, values, 0).sum() / where.sum().clamp(min=1)


def depth_l1(
    depth: Float[Tensor, "*b H W"], target: Float[Tensor, "*b H W"], both: Bool[Tensor, "*b H W"]
) -> Float[Tensor, ""]:
    """Mean |depth − target| over the pixels hit in both renderings; 0 where there are none."""
    return _masked_mean((depth - target).abs(), both)


def normal_l1(
    normal: Float[Tensor, "*b H W 3"], target: Float[Tensor, "*b H W 3"], both: Bool[Tensor, "*b H W"]
) -> Float[Tensor, ""]:
    """Mean over the pixels hit in both renderings and over the three components of |normal − target|."""
    return _masked_mean((normal - target).abs(), both[..., None].expand_as(normal))


def mask_l1(mask: Float[Tensor, "*b H W"], target: Float[Tensor, "*b H W"]) -> Float[Tensor, ""]:
    """Mean |mask − target| over all pixels."""
    return (mask - target).abs().sum() / max(mask.numel(), 1)


@functools.lru_cache(maxsize=1)
def _gaussian() -> list[float]:
    weights = [math.exp(-0.5 * ((k - _REACH) / _SIGMA) ** 2) for k in range(2 * _REACH + 1)]
    return [weight / sum(weights) for weight in weights]


class _Frame(NamedTuple):
    """How a stack of images lies in one flat tensor: _REACH zeros after each row and rows of zeros after each image,
    so that a shift along either axis is an offset. Sums of shifted copies are then long contiguous additions: twice
    as fast as a grouped convolution, which rearranges its channels first."""

    images: int
    height: int
    width: int

    @property
    def pitch(self) -> int:
        return self.width + _REACH

    def fill(self, images: Float[Tensor, "c H W"]) -> Float[Tensor, "flat"]:
        """Lays out images, with _REACH more rows of zeros at both ends."""
        flat = images.new_zeros((self.images * (self.height + _REACH) + 2 * _REACH) * self.pitch)
        self.view(flat[_REACH * self.pitch : -_REACH * self.pitch]).copy_(images)
        return flat

    def view(self, body: Float[Tensor, "body"]) -> Float[Tensor, "c H W"]:
        """The images in a flat tensor without the rows at its ends."""
        return body.view(self.images, self.height + _REACH, self.pitch)[:, : self.height, : self.width]

    def blur(self, flat: Float[Tensor, "flat"]) -> Float[Tensor, "body"]:
        """Gaussian window over filled images, zeros beyond their border (so it is its own transpose). Only what view
        shows of the result has a meaning."""
        body = flat.shape[0] - 2 * _REACH * self.pitch
        by_columns = flat.new_zeros(body + 2 * _REACH)
        _window_sum(flat, self.pitch, by_columns[_REACH:-_REACH])
        return _window_sum(by_columns, 1, flat.new_empty(body))


def _window_sum(source: Float[Tensor, "n"], step: int, out: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
    """out[i] = sum over k of weight k · source[i + k · step]."""
    length, weights = out.shape[0], _gaussian()
    torch.mul(source[:length], weights[0], out=out)
    for k in range(1, len(weights)):
        out.add_(source[k * step : k * step + length], alpha=weights[k])
    return out


class _MeanSsim(torch.autograd.Function):
    """Mean SSIM of two stacks of images; the gradient, to the first only, is written out: it needs three blurred
    maps where autograd would blur five, and keeps a third of the memory."""

    @staticmethod
    def forward(ctx, a: Float[Tensor, "c H W"], b: Float[Tensor, "c H W"]) -> Float[Tensor, ""]:
        frame = _Frame(*a.shape)
        a, b = frame.fill(a), frame.fill(b)
        mean_a, mean_b, mean_ab = frame.blur(a), frame.blur(b), frame.blur(a * b)
        below_s = frame.blur(a * a).add_(frame.blur(b * b))
        luminance, squares = 2 * mean_a * mean_b, mean_a.square().addcmul_(mean_b, mean_b)
        top_s = mean_ab.mul_(2).sub_(luminance).add_(_C2)
        below_s.sub_(squares).add_(_C2)
        top_l, below_l = luminance.add_(_C1), squares.add_(_C1)
        inverse = (below_l * below_s).reciprocal_()
        values = top_l * top_s * inverse
        ctx.frame = frame
        ctx.save_for_backward(a, b, mean_a, mean_b, top_l, top_s, below_l, below_s, inverse, values)
        return frame.view(values).mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Float[Tensor, ""]) -> tuple[Tensor, None]:
        a, b, mean_a, mean_b, top_l, top_s, below_l, below_s, inverse, values = ctx.saved_tensors
        frame: _Frame = ctx.frame
        by_aa = -values / below_s
        by_ab = top_l.mul(2).mul_(inverse)
        by_mean = (top_s - top_l).mul_(inverse).mul_(mean_b)
        by_mean.addcmul_(mean_a, values / below_l + by_aa, value=-1).mul_(2)
        by_mean, by_aa, by_ab = (frame.blur(frame.fill(frame.view(by))) for by in (by_mean, by_aa, by_ab))
        ends = slice(_REACH * frame.pitch, -_REACH * frame.pitch)
        by_mean.addcmul_(a[ends], by_aa, value=2).addcmul_(b[ends], by_ab)
        return frame.view(by_mean) * (grad / (frame.images * frame.height * frame.width)), None


def ssim(image: Float[Tensor, "*b H W c"], target: Float[Tensor, "*b H W c"]) -> Float[Tensor, ""]:
    """Mean structural similarity of maps whose values span [−1, 1], over all pixels and channels.

    Wang et al. 2004: Gaussian window of 11 pixels, σ = 1.5, zeros beyond the border. 1 where the maps are equal.
    Differentiable in image, once; target is taken as constant.
    """
    if image.shape != target.shape:
        raise ValueError(f"image and target must have the same shape, got {image.shape} and {target.shape}")
    height, width = image.shape[-3:-1]
    a, b = (maps.movedim(-1, -3).reshape(-1, height, width) for maps in (image, target.detach()))
    if a.numel() == 0:
        return image.sum() + 1.0
    return _MeanSsim.apply(a, b)


def ssim_loss(
    normal: Float[Tensor, "*b H W 3"], target: Float[Tensor, "*b H W 3"], both: Bool[Tensor, "*b H W"]
) -> Float[Tensor, ""]:
    """1 − SSIM of normal maps, over all pixels, with both maps set to 0 where not both are hit.

    So a silhouette that is off costs nothing here (that is the mask's part) and pulls no normal towards 0, and the
    term weighs as much as the share of the image that it can judge.
    """
    seen = both[..., None]
    return 1 - ssim(torch.where(seen, normal, 0), torch.where(seen, target, 0))


def sign_change_loss(sdf_a: Float[Tensor, "E"], sdf_b: Float[Tensor, "E"]) -> Float[Tensor, ""]:
    """FlexiCubes' SDF regulariser: cross entropy of each end's SDF against the other end's sign, over the edges whose
    ends differ in sign (negative is inside); mean over these edges, 0 where there are none.

    BCE(sigmoid(s_a), s_b ≥ 0) + BCE(sigmoid(s_b), s_a ≥ 0): Shen et al. 2023, section 4.4, after Munkberg et al. 2022.
    It wants both ends to have one sign, so it takes out the sign changes that nothing else holds.
    """
    outside_a, outside_b = sdf_a >= 0, sdf_b >= 0
    entropy = functional.binary_cross_entropy_with_logits(sdf_a, outside_b.to(sdf_a.dtype), reduction="none")
    entropy = entropy + functional.binary_cross_entropy_with_logits(sdf_b, outside_a.to(sdf_b.dtype), reduction="none")
    return _masked_mean(entropy, outside_a != outside_b)


def dev_loss(l_dev: Float[Tensor, "E"]) -> Float[Tensor, ""]:
    """Mean of FlexiCubes' L_dev over its entries; 0 where there are none."""
    return l_dev.sum() / max(l_dev.numel(), 1)


def occupancy_bce(logits: Float[Tensor, "n"], occupied: Bool[Tensor, "n"]) -> Float[Tensor, ""]:
    """L_prune: mean binary cross entropy of occupancy logits against what is occupied; 0 for no voxels."""
    entropy = functional.binary_cross_entropy_with_logits(logits, occupied.to(logits.dtype), reduction="sum")
    return entropy / max(logits.numel(), 1)


def kl_to_normal(mean: Float[Tensor, "*n"], log_variance: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """L_KL: mean over all entries of the divergence of N(mean, e^log_variance) from N(0, 1); 0 for no entries."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / max(mean.numel(), 1)
