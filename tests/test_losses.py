"""Losses against slow twins, their gradients in float64, their meaning where nothing is there, and the LPIPS hook."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from sparseflex import losses


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1


def slow_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Pixel by pixel from the definition (Wang et al. 2004), zeros outside, population variances, L = 2."""
    height, width, channels = a.shape
    window = [math.exp(-0.5 * ((k - 5) / 1.5) ** 2) for k in range(11)]
    total = sum(window)
    values = []
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                mean_a = mean_b = mean_aa = mean_bb = mean_ab = 0.0
                for i in range(-5, 6):
                    for j in range(-5, 6):
                        if 0 <= row + i < height and 0 <= column + j < width:
                            weight = window[i + 5] * window[j + 5] / total**2
                            x, y = float(a[row + i, column + j, channel]), float(b[row + i, column + j, channel])
                            mean_a, mean_b = mean_a + weight * x, mean_b + weight * y
                            mean_aa, mean_bb = mean_aa + weight * x * x, mean_bb + weight * y * y
                            mean_ab += weight * x * y
                top = (2 * mean_a * mean_b + 0.0004) * (2 * (mean_ab - mean_a * mean_b) + 0.0036)
                spread = mean_aa - mean_a**2 + mean_bb - mean_b**2
                values.append(top / ((mean_a**2 + mean_b**2 + 0.0004) * (spread + 0.0036)))
    return sum(values) / len(values)


def test_ssim_matches_the_definition():
    a, b = maps(9, 12, 2), 0.7 * maps(9, 12, 2) + 0.3 * maps(9, 12, 2, seed=1)
    assert float(losses.ssim(a, b)) == pytest.approx(slow_ssim(a, b), abs=1e-12)


def test_ssim_matches_scikit_image_inside():
    """Away from the border, where scikit-image mirrors the image and this one has zeros."""
    metrics = pytest.importorskip("skimage.metrics")
    a, b = maps(40, 40, 3), 0.5 * maps(40, 40, 3) + 0.5 * maps(40, 40, 3, seed=1)
    padded = [functional.pad(x, (0, 0, 16, 16, 16, 16)) for x in (a, b)]
    _, full = metrics.structural_similarity(
        padded[0].numpy(), padded[1].numpy(), win_size=11, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, data_range=2, channel_axis=2, full=True,
    )  # fmt: skip
    assert float(losses.ssim(padded[0], padded[1])) == pytest.approx(float(full.mean()), abs=1e-6)


def test_ssim_is_one_for_equal_maps_and_takes_batches():
    a, b = maps(2, 3, 16, 20, 3), maps(2, 3, 16, 20, 3, seed=1)
    assert float(losses.ssim(a, a)) == pytest.approx(1.0, abs=1e-12)
    single = torch.stack([losses.ssim(x, y) for x, y in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)]).mean()
    assert float(losses.ssim(a, b)) == pytest.approx(float(single), abs=1e-12)
    assert float(losses.ssim(a[:0], b[:0])) == 1.0
    with pytest.raises(ValueError, match="image and target must have the same shape"):
        losses.ssim(a, b[:1])


def test_ssim_loss_ignores_pixels_not_hit_in_both():
    a, b = maps(20, 20, 3), maps(20, 20, 3, seed=1)
    both = torch.zeros(20, 20, dtype=torch.bool)
    both[4:12, 5:15] = True
    other = torch.where(both[..., None], a, maps(20, 20, 3, seed=2))
    other[0, 0] = math.nan
    assert float(losses.ssim_loss(other, b, both)) == float(losses.ssim_loss(a, b, both)) > 0.01
    other.requires_grad_()
    (gradient,) = torch.autograd.grad(losses.ssim_loss(other, b, both), other)
    assert bool((gradient[~both] == 0).all()) and bool((gradient[both] != 0).all())
    assert float(losses.ssim_loss(a, b, torch.zeros_like(both))) == pytest.approx(0, abs=1e-12)


def test_masked_terms_match_loops():
    depth, target = maps(2, 5, 6), maps(2, 5, 6, seed=1)
    normal, target_normal = maps(2, 5, 6, 3), maps(2, 5, 6, 3, seed=1)
    both = maps(2, 5, 6, seed=3) > 0
    depths, normals = [], []
    for index in both.nonzero().tolist():
        place = tuple(index)
        depths.append(abs(float(depth[place]) - float(target[place])))
        normals += [abs(float(normal[place][k]) - float(target_normal[place][k])) for k in range(3)]
    depth[~both] = math.nan  # what isn't hit never counts
    assert float(losses.depth_l1(depth, target, both)) == pytest.approx(sum(depths) / len(depths))
    assert float(losses.normal_l1(normal, target_normal, both)) == pytest.approx(sum(normals) / len(normals))
    assert float(losses.mask_l1(maps(4, 4), maps(4, 4, seed=1))) == pytest.approx(
        float((maps(4, 4) - maps(4, 4, seed=1)).abs().mean())
    )


def test_sign_change_loss_matches_the_formula():
    a, b = 2 * maps(50), 2 * maps(50, seed=1)
    b[0] = 0.0  # zero is outside
    a[0] = -0.5

    def entropy(logit: float, outside: bool) -> float:
        probability = 1 / (1 + math.exp(-logit))
        return -math.log(probability if outside else 1 - probability)

    values = [
        entropy(x, y >= 0) + entropy(y, x >= 0)
        for x, y in zip(a.tolist(), b.tolist(), strict=True) if (x < 0) != (y < 0)
    ]  # fmt: skip
    assert 10 < len(values) < 40
    assert float(losses.sign_change_loss(a, b)) == pytest.approx(sum(values) / len(values))


def test_sign_change_loss_pulls_both_ends_to_one_sign_and_survives_extremes():
    a, b = torch.tensor([1.0, 3e4]).requires_grad_(), torch.tensor([-2.0, -3e4]).requires_grad_()
    loss = losses.sign_change_loss(a, b)
    assert math.isfinite(float(loss.detach()))
    gradient_a, gradient_b = torch.autograd.grad(loss, (a, b))
    assert float(gradient_a[0]) > 0 > float(gradient_b[0])


def test_kl_and_occupancy_match_torch():
    mean, log_variance = maps(4, 5), maps(4, 5, seed=1)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    assert float(losses.kl_to_normal(mean, log_variance)) == pytest.approx(float(expected))
    logits, occupied = 3 * maps(30), maps(30, seed=2) > 0
    probability = torch.where(occupied, logits.sigmoid(), 1 - logits.sigmoid())
    assert float(losses.occupancy_bce(logits, occupied)) == pytest.approx(float(-probability.log().mean()))


BOTH = torch.tensor([[True, False, True], [True, True, False]])


@pytest.mark.parametrize(
    "term",
    [
        lambda x: losses.depth_l1(x, torch.full_like(x, 0.05), BOTH),
        lambda x: losses.mask_l1(x, torch.full_like(x, 0.05)),
        lambda x: losses.normal_l1(x[..., None].expand(2, 3, 3), maps(2, 3, 3, seed=5), BOTH),
        lambda x: losses.ssim(x[..., None], maps(2, 3, 1, seed=5)),
        lambda x: losses.ssim_loss(x[..., None] * maps(2, 3, 3, seed=6), maps(2, 3, 3, seed=5), BOTH),
        lambda x: losses.sign_change_loss(x.flatten()[:3], x.flatten()[3:]),
        lambda x: losses.dev_loss(x.flatten()),
        lambda x: losses.occupancy_bce(x.flatten(), BOTH.flatten()),
        lambda x: losses.kl_to_normal(x, 0.5 * x),
    ],
    ids=["depth", "mask", "normal", "ssim", "ssim_loss", "sign", "dev", "occupancy", "kl"],
)
def test_gradients(term):
    x = maps(2, 3, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(term, x)
    if term(x).requires_grad:
        assert bool((torch.autograd.grad(term(x), x)[0] != 0).any())


def test_ssim_gradient_on_images_larger_than_the_window():
    x = maps(14, 13, 1, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.ssim(x, maps(14, 13, 1, seed=5)), x)


def test_nothing_there_gives_zero_and_zero_gradients():
    depth = maps(3, 3).requires_grad_()
    none = torch.zeros(3, 3, dtype=torch.bool)
    empty = torch.zeros(0, dtype=torch.float64, requires_grad=True)
    one_sign = torch.ones(4, dtype=torch.float64, requires_grad=True)
    for loss, parameter in (
        (losses.depth_l1(depth, maps(3, 3, seed=1), none), depth),
        (losses.dev_loss(empty), empty),
        (losses.mask_l1(empty.view(0, 4), empty.view(0, 4)), empty),
        (losses.sign_change_loss(empty, empty), empty),
        (losses.sign_change_loss(one_sign, one_sign), one_sign),
        (losses.occupancy_bce(empty, torch.zeros(0, dtype=torch.bool)), empty),
        (losses.kl_to_normal(empty, empty), empty),
    ):
        assert float(loss.detach()) == 0
        assert bool((torch.autograd.grad(loss, parameter)[0] == 0).all())


# -- LPIPS ----------------------------------------------------------------------------------------------------


def vgg_layers() -> torch.nn.ModuleDict:
    """VGG16's trunk as a plain Sequential, numbered as torchvision numbers it, and the five heads."""
    layers, width_in = [], 3
    for width in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512):
        if width == "M":
            layers.append(torch.nn.MaxPool2d(2))
        else:
            layers += [torch.nn.Conv2d(width_in, width, 3, padding=1), torch.nn.ReLU()]
            width_in = width
    return torch.nn.Sequential(*layers)


@pytest.fixture(scope="module")
def lpips_weights() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    trunk = vgg_layers()
    weights = {f"features.{key}": value.detach() for key, value in trunk.state_dict().items()}
    for level, width in enumerate((64, 128, 256, 512, 512)):
        weights[f"lin{level}.model.1.weight"] = torch.rand(1, width, 1, 1)
    return trunk, weights


def slow_lpips(trunk: torch.nn.Module, weights: dict, a: torch.Tensor, b: torch.Tensor) -> float:
    flows = []
    for image in (a, b):
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        flows.append(((image - shift) / scale).permute(2, 0, 1)[None])
    total, level = 0.0, 0
    with torch.no_grad():
        for index, layer in enumerate(trunk):
            flows = [layer(flow) for flow in flows]
            if index in (3, 8, 15, 22, 29):  # relu1_2, 2_2, 3_3, 4_3, 5_3
                unit = [flow / flow.norm(dim=1, keepdim=True).clamp(min=1e-10) for flow in flows]
                weight = weights[f"lin{level}.model.1.weight"]
                total += float(((unit[0] - unit[1]) ** 2 * weight).sum(dim=1).mean())
                level += 1
    return total


@pytest.mark.parametrize("form", ["pt", "safetensors", "two"])
def test_lpips_matches_a_plain_network(lpips_weights, tmp_path, form):
    from safetensors.torch import save_file

    trunk, weights = lpips_weights
    heads = {key: value for key, value in weights.items() if key.startswith("lin")}
    path = str(tmp_path / "weights.pt")
    if form == "safetensors":
        path = str(tmp_path / "weights.safetensors")
        save_file(weights, path)
    elif form == "two":
        torch.save({key: value for key, value in weights.items() if key not in heads}, tmp_path / "vgg.pth")
        torch.save(heads, tmp_path / "heads.pth")
        path = f"{tmp_path / 'vgg.pth'}, {tmp_path / 'heads.pth'}"
    else:
        torch.save(weights | {"classifier.0.weight": torch.zeros(3)}, path)
    lpips = losses.load_lpips(path)
    a, b = maps(24, 32, 3).float(), maps(24, 32, 3, seed=1).float()
    assert float(lpips(a, b)) == pytest.approx(slow_lpips(trunk, weights, a, b), rel=1e-4)
    assert float(lpips(a, a)) == 0
    if form == "pt":
        a.requires_grad_()
        (gradient,) = torch.autograd.grad(lpips(a, b), a)
        assert bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())
        flat = torch.zeros(16, 16, 3, requires_grad=True)
        assert bool(torch.isfinite(torch.autograd.grad(lpips(flat, flat), flat)[0]).all())
        with pytest.raises(ValueError, match="H and W at least 16"):
            lpips(a[:8], b[:8])


def test_lpips_errors_name_file_and_key(lpips_weights, tmp_path):
    weights = lpips_weights[1]
    with pytest.raises(ValueError, match=r"got .*nowhere.pt, which doesn't exist; VGG16.*torchvision"):
        losses.load_lpips(tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match="must name a file, got ''"):
        losses.load_lpips("")
    partial = {key: value for key, value in weights.items() if key != "features.5.bias" and not key.startswith("lin")}
    torch.save(partial, tmp_path / "partial.pt")
    with pytest.raises(ValueError, match="lacks 6 of 31 tensors, the first is lin0.model.1.weight; .*Similarity"):
        losses.load_lpips(tmp_path / "partial.pt")
    torch.save(weights | {"lin2.model.1.weight": torch.zeros(1, 3, 1, 1)}, tmp_path / "shape.pt")
    with pytest.raises(ValueError, match=r"lin2.model.1.weight must have shape \(1, 256, 1, 1\), got \(1, 3, 1, 1\)"):
        losses.load_lpips(tmp_path / "shape.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a dict of tensors, got list"):
        losses.load_lpips(tmp_path / "list.pt")
    for name in ("noise.pt", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"this is no weights file")
        with pytest.raises(ValueError, match=f"{name} can't be read") as error:
            losses.load_lpips(tmp_path / name)
        assert "\n" not in str(error.value)
    few = {"a": torch.ones(3)}
    torch.save(few, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    key = str(few["a"].untyped_storage()._cdata).encode()
    (tmp_path / "old.pt").write_bytes(b"x".join((tmp_path / "old.pt").read_bytes().rsplit(key, 1)))
    with pytest.raises(ValueError, match=r"old.pt can't be read"):
        losses.load_lpips(tmp_path / "old.pt")
