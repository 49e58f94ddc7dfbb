"""Operations on sparse voxels against reference data, dense twins and per-window loops."""

from __future__ import annotations

import contextlib
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from accelerator import DEVICE, needs_cuda
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparseflex import SparseVoxels
from sparseflex.sparse import (
    GroupNorm,
    SubMConv3d,
    VoxelBatch,
    attention,
    attention_of_row,
    backend_name,
    child_conv,
    group_statistics,
    position_embedding,
    spconv_backend,
    submanifold_conv,
    tap_conv,
    windowed_attention,
)
from sparseflex.sparse.neighbours import OFFSETS
from sparseflex.voxels import MAX_RESOLUTION

OPS = Path(__file__).parent / "golden" / "ops"


def golden(name: str) -> dict[str, Tensor]:
    with np.load(OPS / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files if data[key].ndim}


def batch_of(ijk: Tensor, resolution: int = 64) -> VoxelBatch:
    return VoxelBatch((SparseVoxels(ijk, resolution),))


def random_set(n: int, resolution: int, seed: int) -> SparseVoxels:
    """At most n voxels, in no order."""
    generator = torch.Generator().manual_seed(seed)
    ijk = torch.unique(torch.randint(0, resolution, (n, 3), generator=generator), dim=0)
    return SparseVoxels(ijk[torch.randperm(len(ijk), generator=generator)], resolution)


@pytest.fixture(params=[False, True], ids=["one block", "small blocks"])
def batch(request, monkeypatch):
    """Three shapes, one of them empty, computed at once and in many blocks."""
    if request.param:
        monkeypatch.setitem(tap_conv.BLOCK_NUMBERS, "cpu", 1)
        monkeypatch.setitem(attention.CHUNK_NUMBERS, "cpu", 1)
    return VoxelBatch((random_set(150, 7, 0), random_set(0, 7, 1), random_set(90, 7, 2)))


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def assert_same(ours: Tensor, theirs: Tensor, inputs: tuple[Tensor, ...], atol: float = 1e-11) -> None:
    """Equal values and equal gradients for every input."""
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)
    grad = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9), dtype=ours.dtype)
    expected = torch.autograd.grad(theirs, inputs, grad)
    for got, wanted in zip(torch.autograd.grad(ours, inputs, grad), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=atol, rtol=0)


# -- reference data -----------------------------------------------------------------------------------------------


def test_reference_convolution():
    """out3 is what spconv 2.3.8 on one CPU thread gives for the inputs."""
    data = golden("sparse_conv")
    for k in (1, 3):
        out = submanifold_conv(data["feats"], data[f"w{k}"], data[f"b{k}"], batch_of(data["coords"]))
        torch.testing.assert_close(out, data[f"out{k}"], atol=1e-6, rtol=0)


def test_reference_group_norm():
    data = golden("group_norm")
    norm = GroupNorm(64)
    norm.load_state_dict({"weight": data["weight"], "bias": data["bias"]})
    torch.testing.assert_close(norm(data["feats"], batch_of(data["coords"])), data["out"], atol=2e-6, rtol=0)


@pytest.mark.parametrize("shift", [0, 4])
def test_reference_attention(shift):
    data = golden("window_attention")
    plan = batch_of(data["coords"]).windows(8, shift)
    torch.testing.assert_close(windowed_attention(data["qkv"], plan), data[f"out_shift{shift}"], atol=2e-6, rtol=0)
    assert torch.equal(plan.window_lengths.sort().values, data[f"seq_lens_shift{shift}"].sort().values)


def test_reference_position_embedding():
    data = golden("ape")
    for channels in (96, 256):
        got = position_embedding(data["coords"], channels)
        torch.testing.assert_close(got, data[f"embed_{channels}"], atol=1e-6, rtol=0)
    got = position_embedding(data["coords"][:64], 768)
    torch.testing.assert_close(got, data["embed_768_first64"], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="channels must be at least 6, got 5"):
        position_embedding(data["coords"], 5)


def test_reference_subdivision():
    data = golden("subdivide")
    children = batch_of(data["coords_in"]).subdivide()
    assert torch.equal(children.voxel_ijk, data["coords_out"]) and children.resolution == 128


# -- neighbours ---------------------------------------------------------------------------------------------------


def table_by_dictionary(batch: VoxelBatch) -> list[list[int]]:
    rows = {}
    for row, (shape, ijk) in enumerate(zip(batch.shape_index.tolist(), batch.voxel_ijk.tolist(), strict=True)):
        rows[(shape, *ijk)] = row
    return [[rows.get((b, i + x, j + y, k + z), -1) for b, i, j, k in rows] for x, y, z in OFFSETS]


@st.composite
def batches(draw):
    resolution = draw(st.integers(1, 5))
    axis = st.integers(0, resolution - 1)
    shapes = st.lists(st.lists(st.tuples(axis, axis, axis), max_size=30, unique=True), min_size=1, max_size=3)
    sets = [torch.tensor(rows, dtype=torch.int64).reshape(-1, 3) for rows in draw(shapes)]
    return VoxelBatch(tuple(SparseVoxels(ijk, resolution) for ijk in sets))


# the checks of types draw at random which items of a list they look at
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
@settings(max_examples=30, deadline=None)
@given(batches(), st.randoms(use_true_random=False))
def test_neighbours_of_a_batch_of_its_children_and_of_what_is_kept(batch, random):
    children = batch.subdivide()
    kept = torch.tensor([random.random() < 0.5 for _ in range(children.n_voxels)], dtype=torch.bool)
    for some in (batch, children, children.prune(kept), children.prune(kept).subdivide()):
        assert some.neighbours.tolist() == table_by_dictionary(some)
        assert some.sizes == tuple(voxels.n_voxels for voxels in some.sets)


@pytest.mark.parametrize("resolution", [1289, 1290, 1291, 100_000, MAX_RESOLUTION])
def test_neighbours_at_the_border_of_large_grids(resolution):
    """Keys of int32 and of int64, at cells where a key without a rim would wrap into the next line."""
    ends = (0, 1, resolution - 2, resolution - 1)
    cells = list(itertools.product(ends, repeat=3))
    some = batch_of(torch.tensor(cells[::-1]), resolution)
    assert some.neighbours.tolist() == table_by_dictionary(some)


def test_a_missing_neighbour_whose_key_is_the_largest_of_all():
    side, key = MAX_RESOLUTION + 2, 2**63 - 1
    missing = torch.tensor([key // side**2, key // side % side, key % side]) - 1
    some = batch_of(torch.stack([missing - torch.tensor([1, 0, 0]), missing - torch.tensor([1, 1, 0])]), MAX_RESOLUTION)
    assert some.neighbours.tolist() == table_by_dictionary(some)


def test_plans_are_made_once():
    some = batch_of(torch.tensor([[0, 0, 0], [9, 9, 9]]))
    assert some.neighbours is some.neighbours
    assert some.windows(8, 0) is some.windows(8, 0)
    assert some.windows(8, 0) is not some.windows(8, 4) and some.windows(8, 4) is some.windows(8, 4)


def test_parts_of_a_batch():
    some = VoxelBatch((random_set(20, 9, 0), random_set(30, 9, 1)))
    assert [part.shape[0] for part in some.split(some.voxel_ijk)] == list(some.sizes)
    active = torch.arange(some.n_voxels) % 3 == 0
    part = some.prune(active)
    assert torch.equal(part.voxel_ijk, some.voxel_ijk[active])
    assert torch.equal(part.shape_index, some.shape_index[active])
    for rows in (active.nonzero().squeeze(1), torch.arange(20, 50), torch.arange(5), torch.zeros(0, dtype=torch.int64)):
        mask = torch.zeros(some.n_voxels, dtype=torch.bool).index_fill_(0, rows, True)
        taken, kept = some.take(rows), some.prune(mask)
        assert taken.sizes == kept.sizes and torch.equal(taken.voxel_ijk, kept.voxel_ijk)
    with pytest.raises(ValueError, match="kept must be a .* bool tensor"):
        some.prune(active[1:])
    with pytest.raises(ValueError, match="sets must hold at least 1 shape, got 0"):
        VoxelBatch(())
    with pytest.raises(ValueError, match="sets must be of one resolution, got 9 and 8"):
        VoxelBatch((random_set(3, 9, 0), random_set(3, 8, 0)))


# -- convolution --------------------------------------------------------------------------------------------------


def dense_conv(features: Tensor, weight: Tensor, bias: Tensor | None, batch: VoxelBatch) -> Tensor:
    """conv3d on each shape's grid, read at its voxels."""
    outs = []
    for voxels, part in zip(batch.sets, batch.split(features), strict=True):
        i, j, k = voxels.voxel_ijk.long().unbind(1)
        grid = part.new_zeros(*[voxels.resolution] * 3, part.shape[1]).index_put((i, j, k), part)
        out = torch.nn.functional.conv3d(
            grid.permute(3, 0, 1, 2)[None], weight.permute(0, 4, 1, 2, 3), bias, padding=1
        )
        outs.append(out[0, :, i, j, k].T)
    return torch.cat(outs)


@pytest.mark.parametrize("with_bias", [True, False])
def test_convolution_is_the_dense_one_at_the_voxels(batch, with_bias):
    x, w, b = randn(batch.n_voxels, 5), randn(4, 3, 3, 3, 5, seed=1), randn(4, seed=2) if with_bias else None
    inputs = (x, w, b) if with_bias else (x, w)
    assert_same(submanifold_conv(x, w, b, batch), dense_conv(x, w, b, batch), inputs)


@pytest.mark.parametrize("with_bias", [True, False])
def test_child_convolution_is_the_dense_one_of_repeated_features(batch, with_bias):
    x, w, b = randn(batch.n_voxels, 5), randn(4, 3, 3, 3, 5, seed=1), randn(4, seed=2) if with_bias else None
    inputs = (x, w, b) if with_bias else (x, w)
    children = batch.subdivide()
    assert_same(child_conv(x, w, b, batch), dense_conv(x.repeat_interleave(8, 0), w, b, children), inputs, 1e-10)
    assert_same(child_conv(x, w, b, batch), submanifold_conv(x.repeat_interleave(8, 0), w, b, children), inputs, 1e-10)


def test_only_wanted_gradients_are_computed(batch):
    x, w = randn(batch.n_voxels, 5), randn(4, 3, 3, 3, 5, seed=1)
    both = torch.autograd.grad(submanifold_conv(x, w, None, batch).square().sum(), (x, w))
    for i, (a, b) in enumerate(((x, w.detach()), (x.detach(), w))):
        torch.testing.assert_close(
            torch.autograd.grad(submanifold_conv(a, b, None, batch).square().sum(), (x, w)[i])[0], both[i]
        )


def test_skip_convolution_takes_the_flat_memory_untransposed(batch):
    x, w = randn(batch.n_voxels, 3), randn(4, 1, 1, 1, 3, seed=1)
    flat = w.detach().flatten().tolist()
    expected = [[sum(row[i] * flat[i * 4 + o] for i in range(3)) for o in range(4)] for row in x.tolist()]
    torch.testing.assert_close(submanifold_conv(x, w, None, batch), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("conv", [submanifold_conv, child_conv])
def test_half_precision_is_summed_in_float32(batch, conv):
    x, w, b = (t.detach().bfloat16() for t in (randn(batch.n_voxels, 24), randn(8, 3, 3, 3, 24, seed=1), randn(8)))
    exact = conv(x.double(), w.double(), b.double(), batch).detach()
    leaves = [t.requires_grad_() for t in (x, w, b)]
    out = conv(*leaves, batch)
    assert out.dtype == torch.bfloat16 and float((out.detach() - exact).abs().max()) < 0.02 * float(exact.abs().max())
    assert all(grad.dtype == torch.bfloat16 for grad in torch.autograd.grad(out.sum(), leaves))


def test_autocast_decides_the_precision(batch):
    conv = SubMConv3d(6, 4, 3)
    x = randn(batch.n_voxels, 6).detach().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x, batch)
        attended = windowed_attention(x.view(-1, 3, 1, 2), batch.windows(4, 0))
        kept = windowed_attention(x.double().view(-1, 3, 1, 2), batch.windows(4, 0))
    assert out.dtype == torch.bfloat16 and attended.dtype == torch.bfloat16 and kept.dtype == torch.float64
    out.sum().backward()
    assert conv.weight.grad.dtype == torch.float32


def test_the_layers_parameters_are_named_as_in_checkpoints():
    assert {k: tuple(v.shape) for k, v in SubMConv3d(5, 4, 3).state_dict().items()} == {
        "weight": (4, 3, 3, 3, 5), "bias": (4,)
    }
    assert list(GroupNorm(32).state_dict()) == ["weight", "bias"]


def test_convolution_tells_what_does_not_fit(batch):
    x, w = randn(batch.n_voxels, 5), randn(4, 3, 3, 3, 5)
    for arguments, message in (
        ((x[1:], w, None), "features must be"),
        ((x, w[:, :2], None), "weight must be .* with k 1 or 3"),
        ((x, w, w[:3, 0, 0, 0, 0]), r"bias must be \(4,\), got \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            submanifold_conv(*arguments, batch)
    with pytest.raises(ValueError, match="backend must be one of auto, torch, spconv, got 'cudnn'"):
        submanifold_conv(x, w, None, batch, backend="cudnn")
    with pytest.raises(ValueError, match="backend 'spconv' needs .* on CUDA"):
        submanifold_conv(x.float(), w.float(), None, batch, backend="spconv")
    assert backend_name("cpu") == "torch"


# -- attention ----------------------------------------------------------------------------------------------------


def attention_by_loop(qkv: Tensor, batch: VoxelBatch, window_size: int, shift: int) -> Tensor:
    windows = {}
    for row, (shape, ijk) in enumerate(zip(batch.shape_index.tolist(), batch.voxel_ijk.tolist(), strict=True)):
        windows.setdefault((shape, *((c + shift) // window_size for c in ijk)), []).append(row)
    out = torch.zeros_like(qkv[:, 0])
    for rows in windows.values():
        q, k, v = qkv[rows].unbind(1)
        weights = (torch.einsum("ihd,jhd->hij", q, k) / qkv.shape[3] ** 0.5).softmax(dim=2)
        out = out.index_copy(0, torch.tensor(rows), torch.einsum("hij,jhd->ihd", weights, v))
    return out


@pytest.mark.parametrize(("window_size", "shift"), [(3, 0), (3, 1), (4, 2), (1, 0), (100, 50)])
def test_attention_is_that_of_each_window(batch, window_size, shift):
    qkv = randn(batch.n_voxels, 3, 2, 4)
    plan = batch.windows(window_size, shift)
    assert_same(windowed_attention(qkv, plan), attention_by_loop(qkv, batch, window_size, shift), (qkv,))
    with torch.no_grad():
        torch.testing.assert_close(
            windowed_attention(qkv, plan), attention_by_loop(qkv, batch, window_size, shift), atol=1e-11, rtol=0
        )


def test_what_a_row_attends_to(batch):
    qkv = randn(batch.n_voxels, 3, 2, 4).detach()
    plan = batch.windows(3, 1)
    out = windowed_attention(qkv, plan)
    for row in (0, 57, batch.n_voxels - 1):
        rows, weights = attention_of_row(qkv, plan, row)
        assert row in rows.tolist() and rows.tolist() == sorted(rows.tolist())
        assert len(rows) == int(plan.window_lengths[plan.window_of_row[row]])
        torch.testing.assert_close(torch.einsum("hn,nhd->hd", weights, qkv[rows, 2]), out[row])
    with pytest.raises(ValueError, match=r"row must be in \[0, "):
        attention_of_row(qkv, plan, batch.n_voxels)
    with pytest.raises(ValueError, match="qkv must be"):
        windowed_attention(qkv[1:], plan)


def test_windows_tell_what_is_wrong(batch):
    with pytest.raises(ValueError, match="window_size must be at least 1 voxel, got 0"):
        batch.windows(0, 0)
    with pytest.raises(ValueError, match="shift must be at least 0 voxels, got -4"):
        batch.windows(8, -4)


# -- normalisation ------------------------------------------------------------------------------------------------


def norm_by_torch(norm: GroupNorm, features: Tensor, batch: VoxelBatch) -> Tensor:
    parts = [part for part in batch.split(features) if len(part)]
    return torch.cat(
        [torch.nn.functional.group_norm(p.T[None], norm.groups, norm.weight, norm.bias, norm.eps)[0].T for p in parts]
    )


def test_group_norm_is_torchs_for_each_shape(batch):
    norm = GroupNorm(12, groups=4).double()
    norm.load_state_dict({"weight": randn(12, seed=3), "bias": randn(12, seed=4)})
    x = (randn(batch.n_voxels, 12) * 3 + 100).detach().requires_grad_()
    kept = x.detach().clone()
    assert_same(norm(x, batch), norm_by_torch(norm, x, batch), (x, norm.weight, norm.bias), 1e-9)
    assert torch.equal(x.detach(), kept)
    torch.testing.assert_close(norm.float()(x.float(), batch), norm_by_torch(norm, x.float(), batch), atol=1e-3, rtol=0)


@pytest.mark.parametrize("n_parts", [1, 2, 5, 60])
def test_statistics_of_any_parts_add_up_to_the_wholes(batch, n_parts):
    x = (randn(batch.n_voxels, 12) + 1000).detach().float()
    of_part = torch.randint(0, n_parts, (batch.n_voxels,), generator=torch.Generator().manual_seed(5))
    sections = [(batch.prune(of_part == part), of_part == part) for part in range(n_parts)]
    found = [group_statistics(x[rows], part, 4) for part, rows in sections]
    total = found[0]
    for more in found[1:]:
        total = total + more
    whole = group_statistics(x, batch, 4)
    assert torch.equal(total.count, whole.count)
    torch.testing.assert_close(total.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(total.variance, whole.variance, rtol=1e-7, atol=0)
    norm = GroupNorm(12, groups=4)
    for part, rows in sections:
        torch.testing.assert_close(norm(x[rows], part, statistics=total), norm(x, batch)[rows], atol=1e-6, rtol=0)


def test_given_statistics_are_constants(batch):
    norm = GroupNorm(4, groups=2).double()
    x = randn(batch.n_voxels, 4)
    given_statistics = group_statistics(x, batch, 2)
    assert torch.autograd.gradcheck(lambda x: norm(x, batch, statistics=given_statistics), (x,), fast_mode=True)


def test_group_norm_tells_what_does_not_fit(batch):
    with pytest.raises(ValueError, match=r"channels must be a multiple of groups \(32\), got 40"):
        GroupNorm(40)
    with pytest.raises(ValueError, match="features must be"):
        group_statistics(torch.zeros(3, 4), batch, 2)
    with pytest.raises(ValueError, match="statistics must be of 3 shapes and 2 groups"):
        GroupNorm(4, groups=2)(torch.zeros(batch.n_voxels, 4), batch, group_statistics(torch.zeros(1, 4), batch_of(
            torch.zeros(1, 3, dtype=torch.int64)), 2))


# -- batches and small sets ---------------------------------------------------------------------------------------


def all_operations(x: Tensor, batch: VoxelBatch) -> list[tuple[Tensor, int]]:
    """Results of every operation on (N, 6) features, and rows a voxel of each."""
    weight = randn(6, 3, 3, 3, 6, seed=7).detach().to(x.device)
    qkv = torch.stack([x, x.flip(1), x], dim=1).view(-1, 3, 2, 3)
    norm = GroupNorm(6, groups=3).double().to(x.device)
    return [
        (submanifold_conv(x, weight, None, batch), 1),
        (submanifold_conv(x, weight[:, :1, :1, :1], None, batch), 1),
        (child_conv(x, weight, None, batch), 8),
        (windowed_attention(qkv, batch.windows(4, 2)).flatten(1), 1),
        (norm(x, batch), 1),
    ]


@pytest.mark.parametrize("spoilt", [0, 2])
def test_nothing_leaks_from_one_shape_into_another(batch, spoilt):
    """Not even NaN, which 0 times would let through; nor in the gradients."""
    x = randn(batch.n_voxels, 6).detach()
    first = sum(batch.sizes[:spoilt])
    bad = x.clone()
    bad[first : first + batch.sizes[spoilt]] = float("nan")
    good = batch.shape_index != spoilt
    bad.requires_grad_()
    clean = all_operations(x, batch)
    for (got, rows), (expected, _) in zip(all_operations(bad, batch), clean, strict=True):
        of_good = good.repeat_interleave(rows)
        assert torch.equal(got[of_good], expected[of_good])
        assert torch.isfinite(torch.autograd.grad(got[of_good].sum(), bad, retain_graph=True)[0][good]).all()


@pytest.mark.parametrize("n", [0, 1])
def test_no_voxel_and_one(n):
    some = batch_of(torch.full((n, 3), 63), 64)
    x = randn(n, 6)
    for out, rows in all_operations(x, some):
        assert out.shape == (n * rows, 6) and torch.isfinite(out).all()
        assert torch.autograd.grad(out.sum(), x, retain_graph=True)[0].shape == x.shape
    assert position_embedding(some.voxel_ijk, 96).shape == (n, 96)
    assert some.neighbours.shape == (27, n) and some.subdivide().n_voxels == 8 * n


def test_the_order_of_the_rows_does_not_matter():
    voxels = random_set(200, 8, 3)
    order = torch.randperm(voxels.n_voxels, generator=torch.Generator().manual_seed(1))
    x = randn(voxels.n_voxels, 6).detach()
    other = batch_of(voxels.voxel_ijk[order], 8)
    one = VoxelBatch((voxels,))
    for (a, rows), (b, _) in zip(all_operations(x, one), all_operations(x[order], other), strict=True):
        torch.testing.assert_close(a.view(-1, rows, 6)[order], b.view(-1, rows, 6))


# -- spconv and CUDA ----------------------------------------------------------------------------------------------

needs_spconv = pytest.mark.skipif(
    not (torch.cuda.is_available() and spconv_backend.is_usable()), reason="needs CUDA and spconv built for it"
)


@pytest.mark.gpu
@needs_spconv
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-3), (torch.float16, 0.2)])
def test_spconv_gives_what_our_own_gives(dtype, atol):
    """Values and gradients, in a batch of shapes, at a resolution whose keys need int64, and again from its cache."""
    assert backend_name("cuda") == "spconv"
    for resolution in (12, 100_000):
        far = VoxelBatch(tuple(
            SparseVoxels((random_set(400, 12, seed).voxel_ijk + resolution - 12).cuda(), resolution) for seed in (0, 1)
        ))
        x, w, b = (t.detach().cuda().to(dtype) for t in (randn(far.n_voxels, 32), randn(16, 3, 3, 3, 32), randn(16)))
        leaves = [t.requires_grad_() for t in (x, w, b)]
        found = {}
        for backend in ("spconv", "torch", "auto"):
            out = submanifold_conv(*leaves, far, backend=backend)
            found[backend] = [out, *torch.autograd.grad(out.float().square().mean(), leaves)]
        for name in ("spconv", "auto"):
            for ours, theirs in zip(found["torch"], found[name], strict=True):
                assert theirs.dtype == dtype
                torch.testing.assert_close(theirs, ours, atol=atol, rtol=1e-2)


class FakeSites(SimpleNamespace):
    def __init__(self, features, indices, side, n_shapes, indice_dict):
        super().__init__(features=features, indice_dict=indice_dict)


class FakeLayer(torch.nn.Module):
    """Writes down which device is current while spconv's kernels would be started."""

    current: ClassVar[list[object]] = []
    ran_on: ClassVar[list[object]] = []

    def __init__(self, inside, out, *_, **__):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(out, 3, 3, 3, inside))

    def forward(self, sites):
        self.ran_on.append(self.current[-1])
        return SimpleNamespace(features=sites.features @ self.weight[:, 1, 1, 1].T, indice_dict={})


def test_spconv_runs_on_the_device_of_the_features(monkeypatch):
    """Its kernels go to the stream of the device that is current, which need not be that of the tensors."""

    @contextlib.contextmanager
    def device(chosen):
        FakeLayer.current.append(chosen)
        yield
        FakeLayer.current.pop()

    fake = SimpleNamespace(SparseConvTensor=FakeSites, SubMConv3d=FakeLayer)
    monkeypatch.setitem(sys.modules, "spconv", SimpleNamespace(pytorch=fake))
    monkeypatch.setitem(sys.modules, "spconv.pytorch", fake)
    monkeypatch.setattr(spconv_backend, "is_usable", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", device)
    spconv_backend._layer.cache_clear()
    monkeypatch.setattr(FakeLayer, "current", ["the first device"])
    some = VoxelBatch((random_set(20, 8, 0),))
    x, w = randn(20, 4).detach().float(), randn(3, 3, 3, 3, 4).detach().float()
    out = spconv_backend.spconv_conv(x[: some.n_voxels], w, None, some)
    spconv_backend._layer.cache_clear()
    assert FakeLayer.ran_on == [x.device] and torch.equal(out, x[: some.n_voxels] @ w[:, 1, 1, 1].T)


@pytest.mark.gpu
@needs_spconv
def test_what_spconv_does_not_serve_our_own_does():
    some = VoxelBatch((random_set(100, 8, 0).to("cuda"),))
    for dtype in (torch.float64, torch.bfloat16):
        x, w = (t.detach().cuda().to(dtype) for t in (randn(some.n_voxels, 8), randn(8, 3, 3, 3, 8)))
        assert submanifold_conv(x, w, None, some).dtype == dtype
    empty = VoxelBatch((random_set(0, 8, 0).to("cuda"),))
    assert submanifold_conv(torch.zeros(0, 8, device="cuda"), w.float(), None, empty).shape == (0, 8)


@pytest.mark.gpu
def test_the_device_gives_what_the_cpu_gives(batch):
    x = randn(batch.n_voxels, 6)
    on_device = x.detach().to(DEVICE).requires_grad_()
    there = all_operations(on_device, batch.to(DEVICE))
    for (here, _), (got, _) in zip(all_operations(x, batch), there, strict=True):
        torch.testing.assert_close(got.cpu(), here, atol=1e-10, rtol=0)
        (grad,) = torch.autograd.grad(here.square().sum(), x, retain_graph=True)
        (grad_there,) = torch.autograd.grad(got.square().sum(), on_device, retain_graph=True)
        torch.testing.assert_close(grad_there.cpu(), grad, atol=1e-9, rtol=0)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_under_autocast_are_finite_and_wide(batch, dtype):
    conv = SubMConv3d(6, 4, 3).cuda()
    with torch.autocast("cuda", dtype=dtype):
        conv(randn(batch.n_voxels, 6).detach().cuda().float(), batch.to("cuda")).float().sum().backward()
    assert torch.isfinite(conv.weight.grad).all() and conv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_group_norm_in_half_precision_with_a_large_mean(dtype):
    """Off by no more than the result's own rounding."""
    batch = VoxelBatch((random_set(200, 9, 0), random_set(150, 9, 1)))
    x = (50 + torch.randn(batch.n_voxels, 8, generator=torch.Generator().manual_seed(0))).to(dtype)
    norm = GroupNorm(8, groups=2)
    found, exact = norm(x, batch), norm(x.double(), batch)
    assert found.dtype == dtype
    assert bool(((found.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 1e-4).all())
