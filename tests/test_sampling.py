"""Camera samplers: shares, planes, clearance inside shapes, determinism, evenly spread views."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import pytest
import torch

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.metrics import point_to_triangle_distance
from sparseflex.sampling import (
    CameraSampler,
    Extent,
    fibonacci_directions,
    fixed_views,
    interior_camera,
    interior_places,
    orbit_camera,
    orbit_distance,
    require_clearance,
    zoom_camera,
)
from sparseflex.training.config import FitConfig
from sparseflex.triangle_distance import TriangleTree

trimesh = pytest.importorskip("trimesh")


def as_mesh(made) -> Mesh:
    return Mesh(torch.tensor(made.vertices, dtype=torch.float32), torch.tensor(made.faces, dtype=torch.int64))


def settings(**changes) -> FitConfig:
    """Orbit cameras that cut nothing, but for the changes."""
    plain = {"orbit_share": 1.0, "zoom_share": 0.0, "interior_share": 0.0, "cut_share": 0.0, "window_share": 0.0,
             "visibility_ratio": 1.0}  # fmt: skip
    return FitConfig(**(plain | changes))


def shells() -> Mesh:
    """A ball's shell around a smaller one."""
    outer, inner = trimesh.creation.icosphere(3, 0.5), trimesh.creation.icosphere(2, 0.2)
    return as_mesh(trimesh.util.concatenate([outer, inner]))


def sheet() -> Mesh:
    vertices = torch.tensor([[-0.5, 0.0, -0.5], [0.5, 0.0, -0.5], [0.5, 0.1, 0.5], [-0.5, 0.2, 0.5]])
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]))


def offset_box() -> Mesh:
    box = as_mesh(trimesh.creation.box((0.6, 0.3, 1.0)))
    return Mesh(box.vertices + torch.tensor([2.0, -1.0, 3.0]), box.faces)


@pytest.fixture(scope="module")
def shell_sampler() -> CameraSampler:
    shares = {"orbit_share": 0.5, "zoom_share": 0.2, "interior_share": 0.3, "cut_share": 0.5, "window_share": 0.2}
    return CameraSampler(shells(), settings(image_size=64, **shares))


def draw(sampler: CameraSampler, n: int, seed: int = 0) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [sampled for _ in range(n) for sampled in sampler.sample(generator)]


def test_shares_and_determinism(shell_sampler):
    drawn = draw(shell_sampler, 600)
    kinds, cuts = Counter(sampled.kind for sampled in drawn), Counter(sampled.cut for sampled in drawn)
    for counter, shares in ((kinds, {"orbit": 0.5, "zoom": 0.2, "interior": 0.3}),
                            (cuts, {"near": 0.5, "window": 0.2, "none": 0.3})):  # fmt: skip
        for name, share in shares.items():
            assert counter[name] / 600 == pytest.approx(share, abs=0.07)
    again = draw(shell_sampler, 600)
    assert all(
        torch.equal(a.camera.camera_from_world, b.camera.camera_from_world)
        and (a.kind, a.cut, a.camera.near, a.camera.far) == (b.kind, b.cut, b.camera.near, b.camera.far)
        for a, b in zip(drawn, again, strict=True)
    )
    assert draw(shell_sampler, 1, seed=1)[0].camera.near != drawn[0].camera.near


def test_interior_cameras_keep_their_clearance_and_are_inside(shell_sampler):
    eyes = torch.stack([s.camera.eye_world for s in draw(shell_sampler, 600) if s.kind == "interior"])
    assert float(point_to_triangle_distance(eyes, shells()).min()) >= 0.03 - 1e-12
    radius = eyes.norm(dim=1)
    assert float(radius.max()) < 0.5
    # both hollows are used: between the shells, and within the inner one
    assert int((radius < 0.2).sum()) > 3 and int((radius > 0.2).sum()) > 50


def test_planes_enclose_cut_or_open_a_window(shell_sampler):
    vertices = shells().vertices.double()
    near_places, tree = [], TriangleTree(shells())
    for sampled in draw(shell_sampler, 400):
        camera = sampled.camera
        depths = camera.depth_of(vertices)
        low, high = float(depths.min()), float(depths.max())
        assert camera.width == camera.height == 64
        if sampled.kind != "interior":
            assert low > 0
            if sampled.cut == "none":
                assert camera.near < low - 0.01 and camera.far > high + 0.01
            elif sampled.cut == "near":
                assert low <= camera.near <= high < camera.far
                near_places.append((camera.near - low) / (high - low))
            else:
                assert low <= camera.near and camera.far <= high + 1e-9
                assert camera.far - camera.near >= 0.0999 * (high - low)
        else:
            clearance = float(tree.distance(camera.eye_world[None])[0])
            if sampled.cut == "none":  # nothing the camera can see is nearer than its near plane
                corner = math.hypot(1, *camera.tan_half_fov)
                assert camera.near * corner <= clearance
                assert camera.far > high
    places = torch.tensor(near_places)
    histogram = torch.histc(places, 5, 0, 1) / len(places)
    assert float(histogram.min()) > 0.1 and float(histogram.max()) < 0.3


def test_window_is_left_to_adapt_frustum_where_a_ratio_is_asked_for():
    config = settings(visibility_ratio=0.3, window_share=1.0)
    for sampled in draw(CameraSampler(offset_box(), config), 20):
        depths = sampled.camera.depth_of(offset_box().vertices.double())
        assert sampled.cut == "window"
        assert sampled.camera.near < float(depths.min()) and sampled.camera.far > float(depths.max())


def test_several_cameras_an_iteration_and_objects_off_the_origin():
    sampler = CameraSampler(offset_box(), settings(cameras=3, zoom_share=1.0))
    cameras = sampler.sample(torch.Generator().manual_seed(0))
    assert len(cameras) == 3
    tree = TriangleTree(offset_box())
    for sampled in draw(sampler, 10):
        points = sampled.camera.to_camera_space(offset_box().vertices.double())
        tan = sampled.camera.tan_half_fov[1]
        if sampled.kind == "orbit":  # nearly all of it in view
            assert float((points[:, :2].abs() / -points[:, 2:]).max()) < 1.25 * tan
        else:  # its middle looks at the surface
            middle = sampled.camera.eye_world + 3 * sampled.camera.forward_world
            start = sampled.camera.eye_world
            line = torch.stack([start + share * (middle - start) for share in torch.linspace(0, 1, 400).double()])
            assert float(tree.distance(line).min()) < 0.01
            assert sampled.camera.fov_y_degrees < 22


def test_places_in_an_open_target_and_where_nothing_fits():
    places = interior_places(sheet(), 0.03)
    assert places.positions.shape[0] > 0
    assert float(point_to_triangle_distance(places.positions, sheet()).min()) >= 0.03
    assert torch.allclose(places.distances, point_to_triangle_distance(places.positions, sheet()))
    with pytest.raises(ValueError, match="no interior camera fits: no point keeps a clearance of 0.6 to the surface"):
        interior_places(shells(), 0.6)
    with pytest.raises(ValueError, match="clearance must be above 0, got 0"):
        interior_places(shells(), 0.0)
    with pytest.raises(ValueError, match=r"points must have shape \(n, 3\), got \(1, 2\)"):
        require_clearance((0.1, 0.1), shells(), 0.03)
    sampler = CameraSampler(sheet(), settings(interior_share=0.5), clearance=5.0)
    generator = torch.Generator().manual_seed(0)
    assert sampler.places is None
    assert {seen.kind for _ in range(30) for seen in sampler.sample(generator)} <= {"orbit", "zoom"}


def test_places_prefer_the_inside():
    """A cup's bounding box has room outside of it, in the corners: those see surface on one side only."""
    tube = as_mesh(trimesh.creation.annulus(r_min=0.3, r_max=0.32, height=1.0))
    places = interior_places(tube, 0.03)
    assert float(places.positions[:, :2].norm(dim=1).max()) < 0.3


def test_interior_camera_in_a_wall_is_refused():
    camera = interior_camera(shells(), (0.3, 0.0, 0.0), (0.3, 0.0, 1.0), width=32, height=32)
    assert 0 < camera.near < 0.1 and camera.far > 0.8
    with pytest.raises(ValueError) as error:
        interior_camera(shells(), (0.49, 0.0, 0.0), (0.0, 0.0, 0.0))
    text = "an interior camera must keep a clearance of 0.03 to the surface, got 0.00996 at (0.49, 0, 0)"
    assert str(error.value) == text
    assert interior_camera(shells(), (0.49, 0, 0), (0, 0, 0), clearance=0.005).near < 0.009


def test_targets_without_vertices_are_refused():
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="target must have finite vertices, got 0"):
        CameraSampler(empty, settings())
    with pytest.raises(ValueError, match="target must have finite vertices"):
        Extent.of(torch.tensor([[0.0, 0.0, math.nan]]))


def test_a_target_without_area_is_looked_at_by_its_vertices():
    cloud = Mesh(torch.rand(9, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert {sampled.kind for sampled in draw(CameraSampler(cloud, settings(zoom_share=1.0)), 20)} == {"orbit", "zoom"}


def test_orbit_camera_stands_where_the_angles_say():
    assert orbit_camera(0, 0, 2).eye_world.tolist() == pytest.approx([0, 0, 2])
    assert orbit_camera(90, 0, 2).eye_world.tolist() == pytest.approx([2, 0, 0], abs=1e-9)
    assert orbit_camera(0, 90, 2).eye_world.tolist() == pytest.approx([0, 2, 0], abs=1e-9)
    camera = orbit_camera(30, 20, 2, centre=(1, 1, 1), radius=0.5)
    assert (camera.near, camera.far) == (1.5, 2.5)
    assert camera.depth_of(torch.ones(1, 3)).tolist() == pytest.approx([2])
    inside = orbit_camera(0, 0, 0.2)
    assert 0 < inside.near < inside.far
    with pytest.raises(ValueError, match="distance must be above 0, got -1"):
        orbit_camera(0, 0, -1)
    assert orbit_distance(0.5, 60) == pytest.approx(1.0)


def test_zoom_enlarges_about_a_point():
    camera = Camera.look_at((0, 0, 3), (0, 0, 0), fov_y_degrees=40, width=100, height=100)
    zoomed = zoom_camera(camera, (0.2, 0.1, 0.0), 4.0)
    assert zoomed.focal_pixels == pytest.approx(4 * camera.focal_pixels)
    assert torch.allclose(zoomed.eye_world, camera.eye_world)
    seen = zoomed.to_camera_space(torch.tensor([[0.2, 0.1, 0.0]], dtype=torch.float64))
    assert seen[0, :2].tolist() == pytest.approx([0, 0], abs=1e-12)
    with pytest.raises(ValueError, match="factor must be above 0, got 0"):
        zoom_camera(camera, (0, 0, 0), 0)


@pytest.mark.parametrize(("n", "size"), [(1, (64, 64)), (7, (64, 48)), (32, (48, 96))])
def test_fixed_views_are_even_and_see_everything(n, size):
    views = fixed_views(n, offset_box(), width=size[0], height=size[1])
    assert len(views) == n
    vertices = offset_box().vertices.double()
    for camera in views:
        x, y, z = camera.to_camera_space(vertices).unbind(1)
        tan_x, tan_y = camera.tan_half_fov
        assert bool((x.abs() < -z * tan_x).all() and (y.abs() < -z * tan_y).all())
        assert bool(((-z > camera.near) & (-z < camera.far)).all())
    directions = fibonacci_directions(n)
    assert torch.allclose(directions.norm(dim=1), torch.ones(n, dtype=torch.float64))
    if n > 1:
        angles = (directions @ directions.T - 2 * torch.eye(n)).amax(dim=1).clamp(-1, 1).acos()
        assert float(angles.min()) > 0.5 * float(angles.max())


def test_fixed_views_without_target_see_the_unit_box():
    assert fixed_views(0) == []
    (camera,) = fixed_views(1)
    corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5], dtype=torch.float64)] * 3)
    x, y, z = camera.to_camera_space(corners).unbind(1)
    assert bool((torch.maximum(x.abs(), y.abs()) < -z * camera.tan_half_fov[1]).all())
    with pytest.raises(ValueError, match="n must be at least 0, got -2"):
        fixed_views(-2)


def test_config_changes_take_effect_with_the_next_camera(shell_sampler):
    sampler = CameraSampler(offset_box(), settings())
    assert {sampled.cut for sampled in draw(sampler, 20)} == {"none"}
    sampler.config = dataclasses.replace(sampler.config, cut_share=1.0)
    assert {sampled.cut for sampled in draw(sampler, 20)} == {"near"}
