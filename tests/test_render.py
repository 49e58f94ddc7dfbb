"""Rendered maps against slow twins, and their derivatives against differences and against known areas."""

from __future__ import annotations

import math

import pytest
import torch
from accelerator import DEVICE
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.rasterize import ScreenMesh, nvdiffrast_backend
from sparseflex.render import Maps, pixel_rays, render_maps


def ball(n_faces: int, radius: float = 0.4) -> tuple[Tensor, Tensor]:
    """Vertices (float64) and faces of a sphere by latitude and longitude, normals outwards."""
    n_around = int(math.sqrt(n_faces))
    n_down = n_around // 2
    theta = torch.linspace(0, math.pi, n_down + 1, dtype=torch.float64)[:, None]
    phi = torch.arange(n_around, dtype=torch.float64)[None] * 2 * math.pi / n_around
    x, y, z = theta.sin() * phi.cos(), theta.cos().expand(-1, n_around), theta.sin() * phi.sin()
    i, j = torch.arange(n_down)[:, None], torch.arange(n_around)[None]
    a, b = i * n_around + j, i * n_around + (j + 1) % n_around
    c, d = a + n_around, b + n_around
    faces = torch.stack([torch.stack([a, b, c], -1), torch.stack([b, d, c], -1)], 2).view(-1, 3)
    return torch.stack([x, y, z], dim=-1).view(-1, 3) * radius, faces


def sheet(n: int, width: float = 0.7) -> tuple[Tensor, Tensor]:
    """An open square in the plane z = 0 of n × n cells, facing +z, its inner vertices jittered within the plane."""
    line = torch.linspace(-width / 2, width / 2, n + 1, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y, torch.zeros_like(x)], dim=-1)
    points[1:-1, 1:-1, :2] += (torch.rand(n - 1, n - 1, 2, dtype=torch.float64) - 0.5) * 0.3 * width / n
    a = (torch.arange(n)[:, None] * (n + 1) + torch.arange(n)).view(-1)
    b, c, d = a + 1, a + n + 1, a + n + 2
    faces = torch.stack([torch.stack([a, b, c], -1), torch.stack([b, d, c], -1)], 1).view(-1, 3)
    return points.view(-1, 3), faces


def soup(n_faces: int, spread: float = 1.0, size: float = 0.8) -> Mesh:
    centres = (torch.rand(n_faces, 1, 3, dtype=torch.float64) - 0.5) * spread
    corners = centres + (torch.rand(n_faces, 3, 3, dtype=torch.float64) - 0.5) * size
    return Mesh(corners.view(-1, 3), torch.arange(3 * n_faces).view(-1, 3))


def slow_depth_and_normal(mesh: Mesh, camera: Camera, ids: Tensor, two_sided: bool) -> tuple[Tensor, Tensor]:
    """The same by perspective-correct barycentrics, one pixel after another, differentiated by autograd."""
    projected = camera.to_camera_space(mesh.vertices)
    f = camera.focal_pixels
    column = f * projected[:, 0] - camera.width / 2 * projected[:, 2]
    row = -f * projected[:, 1] - camera.height / 2 * projected[:, 2]
    w = -projected[:, 2]
    depth, normal = torch.zeros_like(ids, dtype=mesh.vertices.dtype), mesh.vertices.new_zeros(*ids.shape, 3)
    for i, j in (ids >= 0).nonzero().tolist():
        face = mesh.faces[ids[i, j]]
        p = torch.stack([column[face] - (j + 0.5) * w[face], row[face] - (i + 0.5) * w[face]])
        after, last = p[:, [1, 2, 0]], p[:, [2, 0, 1]]
        a = after[0] * last[1] - after[1] * last[0]
        depth[i, j] = (a / a.sum() * w[face]).sum()
        v = mesh.vertices[face]
        n = torch.linalg.cross(v[1] - v[0], v[2] - v[0])
        n = n / n.norm()
        if two_sided and (n * (v[0] - camera.eye_world)).sum() > 0:
            n = -n
        normal[i, j] = n
    return depth, normal


VIEWS = {
    "outside": dict(eye=(0.3, 0.5, 2.0), near=0.1, far=10),
    "near cuts": dict(eye=(0.3, 0.5, 2.0), near=1.9, far=10),
    "a window": dict(eye=(0.3, 0.5, 2.0), near=1.9, far=2.2),
    "inside": dict(eye=(0.05, -0.02, 0.1), near=0.02, far=10),
}


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("view", VIEWS)
def test_depth_and_normal_and_their_gradients_agree_with_barycentrics(view: str, two_sided: bool) -> None:
    camera = Camera.look_at(target=(0, 0, 0), width=17, height=13, **VIEWS[view])
    mesh = soup(25)
    vertices = mesh.vertices.requires_grad_(True)
    maps = render_maps(mesh, camera, two_sided=two_sided)
    assert maps.hit.any()
    expected = slow_depth_and_normal(mesh, camera, maps.triangle_id, two_sided)
    weights = torch.randn_like(maps.depth), torch.randn_like(maps.normal)
    gradients = []
    for depth, normal in ((maps.depth, maps.normal), expected):
        value = (depth * weights[0]).sum() + (normal * weights[1]).sum()
        gradients.append(torch.autograd.grad(value, vertices)[0])
    torch.testing.assert_close(maps.depth, expected[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(maps.normal, expected[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("view", VIEWS)
def test_gradcheck_of_all_maps(view: str) -> None:
    camera = Camera.look_at(target=(0, 0, 0), width=12, height=9, **VIEWS[view])
    mesh = soup(6)

    def maps_of(vertices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = render_maps(Mesh(vertices, mesh.faces), camera)
        return maps.depth, maps.normal, maps.mask

    vertices = mesh.vertices.requires_grad_(True)
    mask = maps_of(vertices)[2]
    assert ((mask > 0) & (mask < 1)).sum() > 3 and torch.autograd.grad(mask.sum(), vertices)[0].abs().max() > 0
    assert torch.autograd.gradcheck(maps_of, (vertices,), eps=1e-7, atol=1e-5, rtol=1e-4)


def rendered_area(vertices: Tensor, faces: Tensor, camera: Camera) -> Tensor:
    return render_maps(Mesh(vertices.to(torch.float32), faces), camera).mask.sum().to(torch.float64)


@pytest.mark.parametrize("n_faces, size", [(20_000, 256), (20_000, 512), (200_000, 256)])
def test_area_of_a_ball_and_its_derivative(n_faces: int, size: int) -> None:
    """A ball of radius r at distance d shows a disc of radius f r / √(d² − r²) pixels."""
    vertices, faces = ball(n_faces)
    camera = Camera.look_at((0.9, 0.6, 1.1), (0, 0, 0), width=size, height=size)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    area = rendered_area(vertices * scale, faces, camera)
    (slope,) = torch.autograd.grad(area, scale)
    r, distance = 0.4, float(camera.eye_world.norm())
    expected = math.pi * (camera.focal_pixels * r) ** 2 / (distance**2 - r**2)
    expected_slope = 2 * expected * distance**2 / (distance**2 - r**2)
    assert area.item() == pytest.approx(expected, rel=0.002)
    assert slope.item() == pytest.approx(expected_slope, rel=0.02)


@pytest.mark.parametrize("cells", [1, 100])
def test_area_of_an_open_sheet_and_its_derivatives(cells: int) -> None:
    """Facing the camera at depth z, a sheet of width b shows (f b / z)² pixels; moving it along z changes z only."""
    vertices, faces = sheet(cells)
    camera = Camera.look_at((0, 0, 1.3), (0, 0, 0), up=(0.3, 1, 0), width=256, height=256)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    area = rendered_area(vertices * scale + shift, faces, camera)
    by_scale, by_shift = torch.autograd.grad(area, (scale, shift))
    expected = (camera.focal_pixels * 0.7 / 1.3) ** 2
    assert area.item() == pytest.approx(expected, rel=0.002)
    assert by_scale.item() == pytest.approx(2 * expected, rel=0.02)
    assert by_shift[2].item() == pytest.approx(2 * expected / 1.3, rel=0.02)
    assert by_shift[:2].abs().max().item() < 0.005 * expected


def test_a_sheet_half_in_front_of_a_wall_grows_only_where_nothing_is_behind_it() -> None:
    """The sheet's left half lies before a wall, and hides a part of the wall's right border."""
    vertices, faces = sheet(20)
    wall = torch.tensor([[-1.5, -1.5], [0.0, -1.5], [0.0, 1.5], [-1.5, 1.5]], dtype=torch.float64)
    wall = torch.nn.functional.pad(wall, (0, 1), value=-0.5)
    wall_faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    camera = Camera.look_at((0, 0, 1.3), (0, 0, 0), width=256, height=256)
    shift = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    everything = torch.cat([vertices + shift[0], wall + shift[1]])
    area = rendered_area(everything, torch.cat([faces, wall_faces + len(vertices)]), camera)
    (slope,) = torch.autograd.grad(area, shift)
    f = camera.focal_pixels
    height = f * 0.7 / 1.3
    # moving right, the sheet gains its height times f / z pixels at its right border alone
    assert slope[0, 0].item() == pytest.approx(height * f / 1.3, rel=0.02)
    # the wall's border is outline above and below the sheet only
    assert slope[1, 0].item() == pytest.approx((256 - height) * f / 1.8, rel=0.02)


def test_an_edge_behind_another_surface_does_nothing() -> None:
    vertices, faces = ball(2_000, radius=0.2)
    camera = Camera.look_at((0, 0, 1.5), (0, 0, 0), width=64, height=64)
    curtain = torch.tensor([[-3.0, -3, 0.5], [3, -3, 0.5], [0, 5, 0.5]], dtype=torch.float64)
    for offset in (0.0, 0.9):  # behind the curtain and before it
        mine = (vertices + torch.tensor([0, 0, offset], dtype=torch.float64)).requires_grad_(True)
        mesh = Mesh(torch.cat([mine, curtain]), torch.cat([faces, torch.tensor([[0, 1, 2]]) + len(vertices)]))
        mask = render_maps(mesh, camera).mask
        assert (mask == 1).all() and torch.autograd.grad(mask.sum(), mine)[0].abs().max() == 0


@pytest.mark.parametrize("planes", [dict(near=1.6, far=5), dict(near=0.1, far=1.35)])
def test_the_rim_of_a_cut_ball_moves_with_it(planes: dict[str, float]) -> None:
    """A plane at depth p leaves a cap whose rim has radius √(r² − (p − d)²), shown f / p times as large."""
    vertices, faces = ball(20_000)
    camera = Camera.look_at((0, 0, 1.5), (0, 0, 0), width=256, height=256, **planes)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    area = rendered_area(vertices * scale, faces, camera)
    (slope,) = torch.autograd.grad(area, scale)
    plane = planes["near"] if planes["near"] > 1 else planes["far"]
    factor = math.pi * (camera.focal_pixels / plane) ** 2
    assert area.item() == pytest.approx(factor * (0.4**2 - (plane - 1.5) ** 2), rel=0.004)
    assert slope.item() == pytest.approx(factor * 2 * 0.4**2, rel=0.02)


def test_mask_is_the_coverage_of_each_pixel() -> None:
    """Against the mean of 32 × 32 samples a pixel, on an outline without corners inside a pixel."""
    vertices, faces = ball(5_000, radius=0.5)
    camera = Camera.look_at((0.2, 0.1, 2), (0.05, 0, 0), width=24, height=24)
    mask = render_maps(Mesh(vertices, faces), camera).mask
    fine = render_maps(Mesh(vertices, faces), camera.with_size(24 * 32, 24 * 32)).hit.to(torch.float64)
    coverage = fine.view(24, 32, 24, 32).mean(dim=(1, 3))
    assert (mask - coverage).abs().max() < 0.13
    assert (mask - coverage).abs().mean() < 0.003


def test_near_plane_shows_the_inside() -> None:
    vertices, faces = ball(5_000)
    camera = Camera.look_at((0, 0, 1.5), (0, 0, 0), width=33, height=33, near=1.5, far=5)
    maps = render_maps(Mesh(vertices, faces), camera)
    assert maps.depth[16, 16].item() == pytest.approx(1.9, abs=1e-3)
    assert maps.normal[16, 16].tolist() == pytest.approx([0, 0, -1], abs=0.05)
    turned = render_maps(Mesh(vertices, faces), camera, two_sided=True)
    assert torch.equal(turned.normal, -maps.normal) and torch.equal(turned.depth, maps.depth)
    shown = maps.depth[maps.hit]
    assert shown.min() >= camera.near and shown.max() <= camera.far


def check_blank(maps: Maps, mesh: Mesh) -> None:
    assert not maps.hit.any()
    for value in (maps.depth, maps.normal, maps.mask):
        assert not value.any()
        (gradient,) = torch.autograd.grad(value.sum(), mesh.vertices, retain_graph=True)
        assert gradient.shape == mesh.vertices.shape and not gradient.any()


@pytest.mark.parametrize("eye", [(0, 0, 1.5), (9, 0, 9), (0, 9.0, 0)])
def test_nothing_in_view_is_blank_and_differentiable(eye: tuple[float, float, float]) -> None:
    camera = Camera.look_at(eye, (eye[0], eye[1], eye[2] + 1), width=9, height=7)
    no_faces = torch.zeros(0, 3, dtype=torch.int64)
    check_blank(render_maps(mesh := Mesh(torch.zeros(0, 3, requires_grad=True), no_faces), camera), mesh)
    check_blank(render_maps(mesh := Mesh(torch.zeros(4, 3, requires_grad=True), no_faces), camera), mesh)
    vertices, faces = ball(200)
    check_blank(render_maps(mesh := Mesh(vertices.requires_grad_(True), faces), camera), mesh)


def test_faces_without_area_do_no_harm() -> None:
    vertices, faces = ball(200)
    thin = torch.tensor([[0, 0, 1], [5, 5, 5], [3, 9, 3]])
    vertices = vertices.requires_grad_(True)
    camera = Camera.look_at((0.9, 0.6, 1.1), (0, 0, 0), width=32, height=32)
    plain, more = (render_maps(Mesh(vertices, f), camera) for f in (faces, torch.cat([faces, thin])))
    gradients = [torch.autograd.grad(m.depth.sum() + m.mask.sum() + m.normal[..., 0].sum(), vertices)[0]
                 for m in (plain, more)]
    assert torch.equal(plain.triangle_id, more.triangle_id) and torch.equal(plain.mask, more.mask)
    assert torch.isfinite(gradients[1]).all()
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_follow_the_dtype_and_the_image_size(dtype: torch.dtype) -> None:
    vertices, faces = ball(500)
    camera = Camera.look_at((0.9, 0.6, 1.1), (0, 0, 0), width=40, height=30)
    maps = render_maps(Mesh(vertices.to(dtype), faces), camera)
    assert maps.depth.shape == maps.mask.shape == maps.triangle_id.shape == maps.hit.shape == (30, 40)
    assert maps.normal.shape == (30, 40, 3) and maps.triangle_id.dtype == torch.int64
    assert maps.depth.dtype == maps.normal.dtype == maps.mask.dtype == dtype
    assert maps.mask.min() >= 0 and maps.mask.max() <= 1
    torch.testing.assert_close(maps.normal[maps.hit].norm(dim=1), torch.ones(int(maps.hit.sum()), dtype=dtype))
    # outward normals of a ball seen from outside look at the camera
    rays = torch.stack(pixel_rays(camera, torch.arange(1200), dtype), dim=1).view(30, 40, 3)
    assert ((maps.normal * rays).sum(-1)[maps.hit] < 0).all()
    points = camera.eye_world.to(dtype) + maps.depth[..., None] * rays
    assert (points[maps.hit].norm(dim=1) - 0.4).abs().max() < 0.01


def test_unknown_backend_says_what_there_is() -> None:
    vertices, faces = ball(50)
    with pytest.raises(ValueError, match="backend must be one of auto, torch, nvdiffrast, got 'gl'"):
        render_maps(Mesh(vertices, faces), Camera.look_at((0, 0, 2), (0, 0, 0)), backend="gl")


@pytest.mark.gpu
@pytest.mark.parametrize("view", VIEWS)
def test_maps_on_the_device_agree_with_the_cpu(view: str) -> None:
    vertices, faces = ball(20_000)
    camera = Camera.look_at(target=(0, 0, 0), width=256, height=192, **VIEWS[view])
    expected = render_maps(Mesh(vertices.requires_grad_(True), faces), camera)
    (gradient,) = torch.autograd.grad(expected.mask.sum() + expected.depth.sum(), vertices)
    for backend in ("torch", "nvdiffrast") if nvdiffrast_backend.is_installed() else ("torch",):
        leaf = vertices.detach().to(DEVICE).requires_grad_(True)
        maps = render_maps(Mesh(leaf, faces.to(DEVICE)), camera, backend=backend)
        assert maps.depth.device == leaf.device
        loose = 1e-6 if backend == "torch" else 2e-3
        assert (maps.depth.cpu() - expected.depth).abs().mean() < loose
        assert (maps.mask.cpu() - expected.mask).abs().mean() < loose
        (mine,) = torch.autograd.grad(maps.mask.sum() + maps.depth.sum(), leaf)
        assert (mine.cpu() - gradient).norm() < (1e-4 if backend == "torch" else 0.2) * gradient.norm()


def test_projection_is_the_cameras() -> None:
    camera = Camera.look_at((0.9, 0.6, 1.1), (0.1, 0, 0), width=40, height=30)
    points = torch.rand(20, 3, dtype=torch.float64) - 0.5
    screen = ScreenMesh.project(points, torch.zeros(0, 3, dtype=torch.int64), camera)
    clip = torch.cat([points, torch.ones(20, 1, dtype=torch.float64)], dim=1) @ camera.clip_from_world.T
    ndc = clip[:, :2] / clip[:, 3:]
    torch.testing.assert_close(screen.pixels[0], (ndc[:, 0] + 1) * 20)
    torch.testing.assert_close(screen.pixels[1], (1 - ndc[:, 1]) * 15)
    torch.testing.assert_close(screen.depth, camera.depth_of(points))
