"""Sparse operations on the CPU, one thread: convolution beside spconv, attention beside padding and a window loop.

The convolution runs on a sphere shell of 102k voxels with 64 → 64 channels. spconv is not safe with more threads there
(method.md), so all rows are of one thread; where it is not installed, one GEMM over gathered columns is the only peer.
The times that make a ratio are taken in turns.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable

import torch
from bench_extraction import sphere_shell
from fresh import PeakMemory, row, run_job, serve
from torch.nn.functional import group_norm, scaled_dot_product_attention

import sparseflex as sf
from sparseflex.sparse import GroupNorm, VoxelBatch, WindowPlan, child_conv, submanifold_conv, windowed_attention
from sparseflex.sparse.neighbours import neighbour_table

N_VOXELS, RESOLUTION, CHANNELS = 102_000, 330, 64
N_TOKENS, TOKEN_RESOLUTION, HEADS, WIDTH = 20_000, 140, 12, 64


def seconds_in_turns(*functions: Callable[[], object], repeats: int = 5) -> list[float]:
    """The median time of each, taken in turns after one call to warm up."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(repeats):
        for function, found in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def shell(n_voxels: int, resolution: int) -> VoxelBatch:
    return VoxelBatch((sf.SparseVoxels(sphere_shell(resolution, n_voxels)[0], resolution),))


def by_columns(features: torch.Tensor, weight: torch.Tensor, batch: VoxelBatch) -> torch.Tensor:
    """im2col: all 27 neighbours of a row side by side, zeros where there is none, and one GEMM."""
    padded = torch.cat([features, features.new_zeros(1, features.shape[1])])
    rows = torch.where(batch.neighbours < 0, batch.n_voxels, batch.neighbours)
    columns = padded.index_select(0, rows.T.reshape(-1)).view(batch.n_voxels, -1)
    return columns @ weight.reshape(weight.shape[0], -1).T


def spconv_forward(features: torch.Tensor, weight: torch.Tensor, batch: VoxelBatch) -> Callable[[], torch.Tensor]:
    """spconv's layer with its neighbours found already."""
    import spconv.pytorch as spconv
    from spconv.core import ConvAlgo

    layer = spconv.SubMConv3d(CHANNELS, CHANNELS, 3, bias=False, indice_key="neighbours", algo=ConvAlgo.Native)
    layer.weight.data = weight
    sites = torch.cat([batch.shape_index[:, None], batch.voxel_ijk], dim=1).int()
    found = layer(spconv.SparseConvTensor(features, sites, [RESOLUTION] * 3, 1))
    return lambda: layer(found.replace_feature(features)).features


def job_convolution() -> dict:
    """Seconds of the table and of forward and backward, ours and the peers'."""
    torch.set_num_threads(1)
    batch = shell(N_VOXELS, RESOLUTION)
    x, w = torch.randn(batch.n_voxels, CHANNELS), torch.randn(CHANNELS, 3, 3, 3, CHANNELS) / 40
    out = {"pairs": int((batch.neighbours >= 0).sum()) / batch.n_voxels}
    rivals = {"ours": lambda: submanifold_conv(x, w, None, batch), "columns": lambda: by_columns(x, w, batch)}
    with torch.no_grad():
        if importlib.util.find_spec("spconv"):
            rivals["spconv"] = spconv_forward(x, w, batch)
        for name, secs in zip(rivals, seconds_in_turns(*rivals.values()), strict=True):
            out[name] = secs
        expected = rivals["columns"]()
        out["difference"] = max(float((rival() - expected).abs().max()) for rival in rivals.values())
        (out["table"],) = seconds_in_turns(lambda: neighbour_table(batch.sets[0]))
    leaves = [x.requires_grad_(), w.requires_grad_()]
    result = submanifold_conv(x, w, None, batch)
    grad = torch.randn_like(result)
    (out["backward"],) = seconds_in_turns(lambda: torch.autograd.grad(result, leaves, grad, retain_graph=True))
    return out


def job_child_convolution() -> dict:
    """The convolution onto children beside the same on features repeated for them, 25k parents, 192 → 96."""
    torch.set_num_threads(1)
    parents = shell(25_000, 160)
    children = parents.subdivide()
    x, w = torch.randn(parents.n_voxels, 192), torch.randn(96, 3, 3, 3, 192) / 70
    _ = children.neighbours
    with torch.no_grad():
        ours, repeated = seconds_in_turns(
            lambda: child_conv(x, w, None, parents),
            lambda: submanifold_conv(x.repeat_interleave(8, 0), w, None, children),
            repeats=2,
        )
    return {"ours": ours, "repeated": repeated}


def job_memory(training: bool) -> dict:
    """Peak bytes of a convolution beside its inputs and results, in numbers of one tap's pairs (64 + 64 each)."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(training)
    batch = shell(N_VOXELS, RESOLUTION)
    pairs = int((batch.neighbours[12] >= 0).sum())
    x = torch.randn(batch.n_voxels, CHANNELS, requires_grad=training)
    w = torch.randn(CHANNELS, 3, 3, 3, CHANNELS, requires_grad=training)
    grad = torch.randn(batch.n_voxels, CHANNELS)
    small = VoxelBatch((batch.sets[0].prune(torch.arange(batch.n_voxels) < 2000),))
    submanifold_conv(x[:2000], w, None, small)  # what the first call of all brings along
    peak = PeakMemory()
    peak.start()
    out = submanifold_conv(x, w, None, batch)
    results = [out]
    if training:
        results += torch.autograd.grad(out, [x, w], grad)
    taken = peak.bytes_above_start() - sum(t.numel() * 4 for t in results)
    return {"taken": taken / (pairs * 2 * CHANNELS * 4)}


def window_loop(qkv: torch.Tensor, plan: WindowPlan) -> torch.Tensor:
    rows = torch.argsort(plan.window_of_row, stable=True)
    outs = []
    for part in qkv.index_select(0, rows).split(plan.window_lengths.tolist()):
        q, k, v = part.permute(1, 2, 0, 3)[:, None].unbind(0)
        outs.append(scaled_dot_product_attention(q, k, v)[0].transpose(0, 1))
    return torch.cat(outs).index_select(0, torch.argsort(rows))


def padded_to_longest(qkv: torch.Tensor, plan: WindowPlan) -> torch.Tensor:
    rows = torch.argsort(plan.window_of_row, stable=True)
    longest, lengths = int(plan.window_lengths.max()), plan.window_lengths
    first = lengths.cumsum(0) - lengths
    windows = plan.window_of_row[rows]
    slots = torch.empty_like(rows)
    slots[rows] = windows * longest + torch.arange(len(rows)) - first[windows]
    padded = qkv.new_zeros(plan.n_windows * longest, *qkv.shape[1:]).index_copy(0, slots, qkv)
    q, k, v = padded.view(plan.n_windows, longest, *qkv.shape[1:]).permute(2, 0, 3, 1, 4).unbind(0)
    mask = (torch.arange(longest) < lengths[:, None])[:, None, None]
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, slots)


def job_attention() -> dict:
    """Seconds of forward, and of forward and backward, of three ways to compute windowed attention."""
    torch.set_num_threads(1)
    plan = shell(N_TOKENS, TOKEN_RESOLUTION).windows(8, 0)
    qkv = torch.randn(plan.n_voxels, 3, HEADS, WIDTH, requires_grad=True)
    grad = torch.randn(plan.n_voxels, HEADS, WIDTH)
    ways = {"ours": windowed_attention, "loop": window_loop, "padded": padded_to_longest}
    with torch.no_grad():
        forward = seconds_in_turns(*(lambda way=way: way(qkv, plan) for way in ways.values()), repeats=3)
    both = seconds_in_turns(
        *(lambda way=way: torch.autograd.grad(way(qkv, plan), qkv, grad) for way in ways.values()), repeats=3
    )
    return {name: times for name, *times in zip(ways, forward, both, strict=True)}


def job_norm() -> dict:
    """GroupNorm, 192 channels, beside torch's on the same rows, read as (1, channels, voxels)."""
    torch.set_num_threads(1)
    batch = shell(N_VOXELS, RESOLUTION)
    x, norm = torch.randn(batch.n_voxels, 192), GroupNorm(192)
    with torch.no_grad():
        ours, theirs = seconds_in_turns(lambda: norm(x, batch), lambda: group_norm(x.T[None], 32)[0].T)
    return {"ours": ours, "torch": theirs}


def rows() -> list[dict]:
    """The rows of `workbench bench`."""
    conv = run_job(__file__, "convolution")
    name = f"convolution 64 -> 64, {N_VOXELS // 1000}k voxels, {conv['pairs']:.1f} neighbours each"
    found = [
        row(f"{name}: table", conv["table"] * 1e3, "ms"),
        row("  forward", conv["ours"] * 1e3, "ms"),
        row("  backward (features and weight)", conv["backward"] * 1e3, "ms"),
        row("  forward / one GEMM over gathered columns", conv["ours"] / conv["columns"], "x", 1),
    ]
    if "spconv" in conv:
        found.append(row("  forward / spconv's on one thread", conv["ours"] / conv["spconv"], "x", 1.3))
    else:
        skipped = "  forward / spconv's: not measured, `pip install spconv` brings its CPU build"
        found.append({"name": skipped, "value": None, "unit": "", "reach": "<= 1.3", "ok": None})
    children = run_job(__file__, "child_convolution")
    found.append(row("onto children / on repeated features", children["ours"] / children["repeated"], "x", 0.5))
    for training, said in ((False, "forward"), (True, "forward + backward")):
        taken = run_job(__file__, "memory", training)["taken"]
        found.append(row(f"memory beside inputs and results, {said}", taken, "taps", 3))
    attention = run_job(__file__, "attention")
    for i, said in enumerate(("forward", "forward + backward")):
        for way, words in (("padded", "padded to the longest window"), ("loop", "a loop over the windows")):
            ratio = attention["ours"][i] / attention[way][i]
            found.append(row(f"attention {said} / {words}", ratio, "x", 1))
    norm = run_job(__file__, "norm")
    found.append(row("group norm / torch's", norm["ours"] / norm["torch"], "x", 1))
    return found


if __name__ == "__main__":
    jobs = (job_convolution, job_child_convolution, job_memory, job_attention, job_norm)
    serve({job.__name__.removeprefix("job_"): job for job in jobs})
