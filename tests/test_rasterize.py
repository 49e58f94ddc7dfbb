"""The rasteriser against a slow twin: the same faces, no cracks, proper clipping, exact contours, clear errors."""

from __future__ import annotations

import math

import pytest
import torch
from accelerator import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.rasterize import ScreenMesh, nvdiffrast_backend, rasterize, resolve_backend, torch_backend
from sparseflex.rasterize.silhouette import contour_edges


def screen_of(homogeneous: Tensor, faces: Tensor, width: int, height: int, near: float, far: float) -> ScreenMesh:
    return ScreenMesh(homogeneous, torch.eye(3, 4, dtype=torch.float64), faces, width, height, near, far)


def slow_rasterize(screen: ScreenMesh) -> tuple[Tensor, Tensor]:
    """Ids and, for ties, the depth of the second nearest face: every pixel against every face, by barycentrics."""
    row, column = torch.meshgrid(torch.arange(screen.height) + 0.5, torch.arange(screen.width) + 0.5, indexing="ij")
    depths = []
    for face in screen.faces.tolist():
        x, y, w = screen.homogeneous[:, face]
        px, py = x[:, None, None] - column * w[:, None, None], y[:, None, None] - row * w[:, None, None]
        a = torch.stack([px[(k + 1) % 3] * py[(k + 2) % 3] - px[(k + 2) % 3] * py[(k + 1) % 3] for k in range(3)])
        b = a / a.sum(0)
        depth = (b * w[:, None, None]).sum(0)
        inside = (b >= 0).all(0) & (depth >= screen.near) & (depth <= screen.far)
        depths.append(torch.where(inside, depth, math.inf))
    nearest, order = torch.stack(depths).sort(dim=0)
    ids = torch.where(nearest[0] < math.inf, order[0], -1)
    return ids, torch.where(nearest[1] < math.inf, nearest[1] - nearest[0], math.inf)


def random_soup(n_faces: int, camera: Camera, spread: float, size: float) -> ScreenMesh:
    centres = (torch.rand(n_faces, 1, 3, dtype=torch.float64) - 0.5) * spread
    vertices = (centres + (torch.rand(n_faces, 3, 3, dtype=torch.float64) - 0.5) * size).reshape(-1, 3)
    return ScreenMesh.project(vertices, torch.arange(3 * n_faces).view(-1, 3), camera)


SOUPS = {
    "in view": (dict(eye=(0, 0, 3), near=0.1, far=10), 1.5, 0.7),
    "wider than the image": (dict(eye=(0, 0, 1.5), near=0.1, far=10), 3.0, 2.5),
    "cut by near": (dict(eye=(0, 0, 1), near=0.9, far=10), 1.5, 1.0),
    "cut by far": (dict(eye=(0, 0, 1), near=0.1, far=1.05), 1.5, 1.0),
    "around the eye": (dict(eye=(0.01, 0.02, 0.03), near=0.01, far=10), 1.5, 2.0),
    "a thin slab": (dict(eye=(0.3, 0, 0.2), near=0.2, far=0.3), 1.5, 2.0),
}


@pytest.mark.parametrize("name", SOUPS)
@pytest.mark.parametrize("seed", range(3))
def test_ids_agree_with_every_pixel_against_every_face(name: str, seed: int) -> None:
    planes, spread, size = SOUPS[name]
    torch.manual_seed(seed)
    camera = Camera.look_at(target=(0.1, 0.05, -1), width=37, height=29, fov_y_degrees=55, **planes)
    screen = random_soup(40, camera, spread, size)
    ids, gap = slow_rasterize(screen)
    fast = rasterize(screen, "torch")
    assert (ids >= 0).any()
    differ = (fast != ids) & (gap > 1e-6)
    assert not differ.any(), f"{int(differ.sum())} pixels differ"


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_chunks_give_the_same_picture(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera.look_at((0, 0, 1.2), (0.1, 0, -1), width=31, height=23, near=0.5, far=3)
    screen = random_soup(60, camera, 1.5, 1.0)
    whole = rasterize(screen, "torch")
    monkeypatch.setattr(torch_backend, "MAX_EXPANDED", limit)
    assert torch.equal(rasterize(screen, "torch"), whole)


def sheet(points: Tensor, n: int, flips: Tensor) -> Tensor:
    """Faces of an (n + 1)² grid of points, each cell cut along either diagonal."""
    corner = (torch.arange(n)[:, None] * (n + 1) + torch.arange(n)).view(-1)
    a, b, c, d = corner, corner + 1, corner + n + 1, corner + n + 2
    one = torch.stack([torch.stack([a, b, c]), torch.stack([b, d, c])])
    other = torch.stack([torch.stack([a, b, d]), torch.stack([a, d, c])])
    return torch.where(flips, other, one).permute(2, 0, 1).reshape(-1, 3)


def cover_counts(screen: ScreenMesh) -> Tensor:
    """How many faces claim each pixel, each drawn alone."""
    one = [
        screen_of(screen.homogeneous, face[None], screen.width, screen.height, screen.near, screen.far)
        for face in screen.faces
    ]
    return torch.stack([rasterize(s, "torch") >= 0 for s in one]).sum(0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), snap=st.sampled_from([1.0, 2.0, 8.0, None]), depth=st.sampled_from([1.0, 0.25]))
def test_a_plane_of_faces_covers_each_pixel_exactly_once(seed: int, snap: float | None, depth: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, size = 3, 12
    line = torch.linspace(-1.5, size + 1.5, n + 1, dtype=torch.float64)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    # little enough jitter for the cells to stay convex, so that nothing folds
    points = torch.stack([columns, rows]) + torch.rand(2, n + 1, n + 1, generator=generator, dtype=torch.float64) - 0.5
    if snap is not None:  # vertices and edges on pixel centres
        points = ((points - 0.5) * snap).round() / snap + 0.5
    homogeneous = torch.cat([points, torch.ones_like(points[:1])]).view(3, -1) * depth
    faces = sheet(points, n, torch.rand(n * n, generator=generator) < 0.5)
    screen = screen_of(homogeneous, faces, size, size, 0.01, 10.0)
    assert (cover_counts(screen) == 1).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_a_plane_that_near_cuts_covers_each_pixel_at_most_once(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n = 4
    line = torch.linspace(-1, 1, n + 1, dtype=torch.float64)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    jitter = (torch.rand(2, n + 1, n + 1, generator=generator, dtype=torch.float64) - 0.5) * 0.25
    # a floor from behind the eye to far ahead
    vertices = torch.stack([columns + jitter[0], torch.full_like(rows, -0.2), 2 * rows + jitter[1]], dim=-1).view(-1, 3)
    faces = sheet(vertices, n, torch.rand(n * n, generator=generator) < 0.5)
    camera = Camera.look_at((0, 0, 0.1), (0, -0.05, -1), width=16, height=16, fov_y_degrees=80, near=0.2, far=5)
    screen = ScreenMesh.project(vertices, faces, camera)
    assert screen.straddling.numel() > 0
    counts = cover_counts(screen)
    whole = rasterize(screen, "torch") >= 0
    assert torch.equal(counts, whole.to(counts.dtype))
    assert torch.equal(whole, slow_rasterize(screen)[0] >= 0)


def test_from_inside_a_closed_surface_every_pixel_is_hit() -> None:
    trimesh = pytest.importorskip("trimesh")
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    vertices, faces = torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces, dtype=torch.int64)
    for step in range(6):
        target = (math.cos(step), math.sin(2 * step), math.sin(step))
        camera = Camera.look_at((0.1, 0.2, -0.1), target, fov_y_degrees=120, width=64, height=48, near=1e-4, far=5)
        assert (rasterize(ScreenMesh.project(vertices, faces, camera), "torch") >= 0).all()


def test_vertices_that_are_not_finite_draw_nothing_and_harm_nothing() -> None:
    camera = Camera.look_at((0, 0, 2), (0, 0, 0), width=16, height=16)
    vertices = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [0, 1, 0], [math.nan, 0, 1], [0, math.inf, 0]])
    good = rasterize(ScreenMesh.project(vertices[:3], torch.tensor([[0, 1, 2]]), camera), "torch")
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [1, 2, 4]])
    assert torch.equal(rasterize(ScreenMesh.project(vertices, faces, camera), "torch"), good)


def test_no_faces_is_an_empty_picture() -> None:
    camera = Camera.look_at((0, 0, 2), (0, 0, 0), width=5, height=4)
    ids = rasterize(ScreenMesh.project(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), camera))
    assert ids.shape == (4, 5) and ids.dtype == torch.int64 and (ids == -1).all()


def slow_contours(screen: ScreenMesh) -> set[tuple[int, int]]:
    """Directed contour edges by a dictionary of all edges."""
    sides: dict[tuple[int, int], set[bool]] = {}
    for corners in screen.faces.tolist():
        for k in range(3):
            a, b, c = (corners[(k + i) % 3] for i in range(3))
            low, high = min(a, b), max(a, b)
            determinant = torch.linalg.det(screen.homogeneous[:, [low, high, c]])
            sides.setdefault((low, high), set()).add(bool(determinant > 0))
    return {edge if side == {True} else edge[::-1] for edge, side in sides.items() if len(side) == 1}


@pytest.mark.parametrize("seed", range(8))
def test_contours_agree_with_a_dictionary_of_edges(seed: int) -> None:
    """Few vertices and many faces: boundary, fold, non-manifold and inconsistently wound edges, some behind the eye."""
    torch.manual_seed(seed)
    faces = torch.stack([torch.randperm(9)[:3] for _ in range(5 + 4 * seed)])
    camera = Camera.look_at((0, 0, 0.9), (0, 0, -1), near=0.3)
    screen = ScreenMesh.project((torch.rand(9, 3, dtype=torch.float64) - 0.5) * 2, faces, camera)
    start, end = contour_edges(screen)
    pairs = list(zip(start.tolist(), end.tolist(), strict=True))
    expected = slow_contours(screen)
    # a face wholly behind the near plane shows nothing, so its sides are free
    behind = screen.behind
    in_front = {pair for pair in pairs if not behind[list(pair)].all()}
    assert in_front == {pair for pair in expected if not behind[list(pair)].all()}
    assert len(pairs) == len(set(pairs))


def test_backends_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert resolve_backend("auto", cpu) == "torch"
    with pytest.raises(ValueError, match="backend must be one of auto, torch, nvdiffrast, got 'opengl'"):
        resolve_backend("opengl", cpu)
    camera = Camera.look_at((0, 0, 2), (0, 0, 0), width=8, height=8)
    screen = random_soup(3, camera, 1.0, 1.0)
    monkeypatch.setattr(nvdiffrast_backend, "is_installed", lambda: False)
    assert resolve_backend("auto", torch.device("cuda")) == "torch"
    with pytest.raises(RuntimeError, match=r"nvdiffrast, which is not installed; run: pip install .*nvdiffrast"):
        rasterize(screen, "nvdiffrast")
    monkeypatch.setattr(nvdiffrast_backend, "is_installed", lambda: True)
    assert resolve_backend("auto", torch.device("cuda")) == "nvdiffrast"
    with pytest.raises(ValueError, match="backend 'nvdiffrast' must be given CUDA tensors, got cpu"):
        rasterize(screen, "nvdiffrast")


@pytest.mark.gpu
@pytest.mark.parametrize("name", SOUPS)
def test_the_device_agrees_with_the_cpu(name: str) -> None:
    planes, spread, size = SOUPS[name]
    camera = Camera.look_at(target=(0.1, 0.05, -1), width=320, height=200, fov_y_degrees=55, **planes)
    screen = random_soup(200, camera, spread, size)
    expected = rasterize(screen, "torch")
    tensors = (value.to(DEVICE) for value in (screen.homogeneous, screen.pixel_from_world, screen.faces))
    on_device = ScreenMesh(*tensors, 320, 200, camera.near, camera.far)
    assert (rasterize(on_device, "torch").cpu() != expected).float().mean() < 1e-4
    if nvdiffrast_backend.is_installed():
        # its edges lie on a grid of 1/16 pixel
        assert (rasterize(on_device, "nvdiffrast").cpu() != expected).float().mean() < 0.03
