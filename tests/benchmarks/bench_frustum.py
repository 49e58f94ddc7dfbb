"""Frustum on 1e6 voxels at 1024³: the active set, and exact adaptive planes, beside a plain homogeneous product."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from fresh import run_job, serve

from sparseflex.camera import Camera
from sparseflex.frustum import active_voxels, adapt_frustum, add_halo
from sparseflex.voxels import SparseVoxels

N_VOXELS, RESOLUTION = 1_000_000, 1024
ACTIVE_MS, EXACT_MS, LOOK_MS = 3.0, 10.0, 100.0


def ball_shell() -> SparseVoxels:
    """1e6 voxels of the shell of a ball, sorted."""
    points = torch.randn(3_000_000, 3, generator=torch.Generator().manual_seed(0))
    points = 0.38 * points / points.norm(dim=1, keepdim=True)
    voxels = SparseVoxels.from_points(points, RESOLUTION)
    kept = torch.zeros(voxels.n_voxels, dtype=torch.bool)
    kept[(torch.arange(N_VOXELS) * (voxels.n_voxels / N_VOXELS)).long()] = True
    return voxels.prune(kept)


def plain_active(voxels: SparseVoxels, camera: Camera) -> torch.Tensor:
    """What one writes first: all centres by the 4 × 4 matrix, divided, compared."""
    ones = torch.ones(voxels.n_voxels, 1, device=voxels.device)
    clip = torch.cat([voxels.centers, ones], dim=1) @ camera.clip_from_world.to(ones).T
    inside = (clip[:, :3] / clip[:, 3:]).abs() <= 1
    return inside.all(dim=1) & (clip[:, 3] > 0)


def look_milliseconds(voxels: SparseVoxels, camera: Camera, repeats: int = 5) -> float:
    """What the window computes before it shows another camera's planes, adapted: split, counts, histogram, search."""
    from sparseflex.training.run import RunCamera
    from workbench.snapshot import Snapshot, frozen
    from workbench.view_state import ViewState

    view = ViewState(tabs={"left": "Frustum", "right": ""})
    view.frustum.adapted, view.frustum.method = True, "iterative"
    snapshot = Snapshot(fields=frozen({"voxels": voxels}))

    def look() -> None:
        view.pinned = RunCamera(camera.with_size(camera.width, camera.height), "orbit")  # another one each time
        view.frustum.update(view, snapshot)
        view.split.counts  # noqa: B018

    return milliseconds(look, voxels.device, repeats)


def milliseconds(call: Callable[[], Any], device: torch.device, repeats: int = 15) -> float:
    """The best wall time of some, after one call to warm up: other processes only ever add to it."""

    def once() -> float:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1e3 * (time.perf_counter() - start)

    once()
    return min(once() for _ in range(repeats))


def measure(device: str = "cpu") -> list[dict]:
    """Name, value, unit, reach and ok (None where nothing is to be reached) of each number, in this process."""
    voxels = ball_shell().to(device)
    voxels.centers_by_axis  # noqa: B018 (cached: not part of what is timed)
    camera = Camera.look_at((1.1, 0.7, 1.2), (0, 0, 0), fov_y_degrees=24, near=1.5, far=1.9)
    fit = adapt_frustum(voxels, camera, 0.1)
    count = f"{voxels.n_voxels / 1e6:g}e6 voxels"

    def measured(call: Callable[[], Any]) -> float:
        return milliseconds(call, voxels.device)

    plain = measured(lambda: plain_active(voxels, camera))
    active = measured(lambda: active_voxels(voxels, camera))
    exact = measured(lambda: adapt_frustum(voxels, camera, 0.3, anchor="centre"))
    iterative = measured(lambda: adapt_frustum(voxels, camera, 0.3, "iterative", "centre"))
    voxels.corners_by_slot  # noqa: B018
    look = look_milliseconds(voxels.to("cpu"), camera)
    halo = measured(lambda: add_halo(voxels, fit.active, 1))

    def row(name: str, value: float, unit: str, reach: str = "", ok: bool | None = None) -> dict:
        return {"name": name, "value": value, "unit": unit, "reach": reach, "ok": ok}

    return [
        row(f"active set, {count}", active, "ms", f"≤ {ACTIVE_MS:g} ms", active <= ACTIVE_MS),
        row("active set / plain homogeneous product", active / plain, "×"),
        row(f"exact adaptive planes, {count}", exact, "ms", f"≤ {EXACT_MS:g} ms", exact <= EXACT_MS),
        row("iterative adaptive planes / exact", iterative / exact, "×"),
        row(f"another camera in the frustum panel, {count}", look, "ms", f"≤ {LOOK_MS:g} ms", look <= LOOK_MS),
        row("halo of one voxel around a tenth of them", halo, "ms"),
    ]


def rows() -> list[dict]:
    """Rows for `workbench bench`: on one thread, and on all of them where they spin between operations."""
    spinning = run_job(__file__, "measure", wait_policy="ACTIVE")["rows"]
    renamed = [{**line, "name": f"{line['name']}, spinning threads"} for line in spinning if line["reach"]]
    return [*run_job(__file__, "measure", wait_policy="PASSIVE")["rows"], *renamed]


if __name__ == "__main__":
    serve({"measure": lambda: {"rows": measure()}})
