"""Rasteriser: milliseconds of rasterising and of a whole rendering with its backward pass, and silhouette gradients.

The gradients are given as ratios to the truth: the area of the projected ball or sheet, differentiated by hand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

import sparseflex as sf
from sparseflex.rasterize import ScreenMesh, rasterize
from sparseflex.render import render_maps

RADIUS, WIDTH = 0.4, 0.7


def ball(n_faces: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sphere by latitude and longitude: float64 vertices and faces."""
    n_around = int(math.sqrt(n_faces))
    n_down = n_around // 2
    theta = torch.linspace(0, math.pi, n_down + 1, dtype=torch.float64)[:, None]
    phi = torch.arange(n_around, dtype=torch.float64)[None] * 2 * math.pi / n_around
    points = [theta.sin() * phi.cos(), theta.cos().expand(-1, n_around), theta.sin() * phi.sin()]
    start, step = torch.arange(n_down)[:, None] * n_around, torch.arange(n_around)[None]
    a, b = start + step, start + (step + 1) % n_around
    faces = torch.stack([a, b, a + n_around, b, b + n_around, a + n_around], dim=-1)
    return torch.stack(points, dim=-1).view(-1, 3) * RADIUS, faces.view(-1, 3)


def sheet(n_faces: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An open square in the plane z = 0: float64 vertices and faces."""
    n = int(math.sqrt(n_faces / 2))
    line = torch.linspace(-WIDTH / 2, WIDTH / 2, n + 1, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    a = torch.arange(n)[:, None] * (n + 1) + torch.arange(n)[None]
    faces = torch.stack([a, a + 1, a + n + 1, a + 1, a + n + 2, a + n + 1], dim=-1)
    return torch.stack([x, y, torch.zeros_like(x)], dim=-1).view(-1, 3), faces.view(-1, 3)


def area_slope(vertices: torch.Tensor, faces: torch.Tensor, camera: sf.Camera) -> float:
    """d(area)/d(scale) of the rendered mask, in pixels."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    mask = render_maps(sf.Mesh((vertices * scale).to(torch.float32), faces), camera).mask
    return float(torch.autograd.grad(mask.sum(), scale)[0])


def _gradient_rows(n_faces: int, size: int) -> list[dict]:
    camera = sf.Camera.look_at((0.9, 0.6, 1.1), (0, 0, 0), width=size, height=size)
    distance, f = float(camera.eye_world.norm()), camera.focal_pixels
    # a ball shows a disc of radius f r / √(d² − r²)
    ball_truth = 2 * math.pi * (f * RADIUS * distance) ** 2 / (distance**2 - RADIUS**2) ** 2
    tilted = sf.Camera.look_at((0, 0, 1.3), (0, 0, 0), up=(0.3, 1, 0), width=size, height=size)
    sheet_truth = 2 * (tilted.focal_pixels * WIDTH / 1.3) ** 2
    rows = []
    for name, (vertices, faces), view, truth in (
        ("ball", ball(n_faces), camera, ball_truth),
        ("open sheet", sheet(n_faces), tilted, sheet_truth),
    ):
        ratio = area_slope(vertices, faces, view) / truth
        rows.append({
            "name": f"silhouette gradient, {name}, {n_faces // 1000}k faces, {size}²", "value": ratio,
            "unit": "of the truth", "reach": "within 2 %", "ok": abs(ratio - 1) <= 0.02,
        })
    return rows


def _best_ms(job: Callable[[], object], repeats: int = 7) -> float:
    job()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times) * 1000


def _time_rows(n_faces: int, size: int, reach_ms: tuple[float, float] | None) -> list[dict]:
    vertices, faces = ball(n_faces)
    vertices = vertices.to(torch.float32)
    camera = sf.Camera.look_at((0.9, 0.6, 1.1), (0, 0, 0), width=size, height=size)

    def raster() -> None:
        rasterize(ScreenMesh.project(vertices, faces, camera), "torch")

    def all_maps() -> None:
        leaf = vertices.clone().requires_grad_(True)
        maps = render_maps(sf.Mesh(leaf, faces), camera, backend="torch")
        (maps.depth.sum() + maps.normal.sum() + maps.mask.sum()).backward()

    rows = []
    for k, (name, job) in enumerate((("rasterise", raster), ("render, maps and backward", all_maps))):
        value = _best_ms(job)
        rows.append({
            "name": f"{name}, {n_faces // 1000}k faces, {size}²", "value": value, "unit": "ms",
            "reach": f"≤ {reach_ms[k]:g} ms" if reach_ms else "", "ok": value <= reach_ms[k] if reach_ms else None,
        })
    return rows


def rows() -> list[dict]:
    """Each row: name, value, unit, reach (text, may be empty), ok (None where nothing is asked for)."""
    table = []
    for n_faces, size, reach_ms in (
        (20_000, 256, (10, 30)), (40_000, 256, (10, 30)), (20_000, 512, None), (200_000, 512, None),
        (200_000, 1024, None),
    ):
        table += _time_rows(n_faces, size, reach_ms)
    for n_faces in (20_000, 200_000):
        for size in (256, 512, 1024):
            table += _gradient_rows(n_faces, size)
    return table


if __name__ == "__main__":
    for row in rows():
        verdict = {True: "ok", False: "short", None: ""}[row["ok"]]
        print(f"{row['name']:<52} {row['value']:9.3f} {row['unit']:<13} {row['reach']:<11} {verdict}")
