"""Metrics: exact distances against brute force, samples by area, what comes back for empty input, errors of views."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseflex import metrics
from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.sampling import fixed_views
from sparseflex.triangle_distance import TriangleTree, point_to_triangle_distance

EMPTY = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def soup(n_faces: int, seed: int, spread: float = 1.0) -> Mesh:
    """Random triangles of very different sizes."""
    sizes = 10 ** (-2 * torch.rand(n_faces, 1, 1, dtype=torch.float64, generator=generator(seed))) * spread
    centres = torch.rand(n_faces, 1, 3, dtype=torch.float64, generator=generator(seed + 1)) - 0.5
    corners = centres + sizes * torch.randn(n_faces, 3, 3, dtype=torch.float64, generator=generator(seed + 2))
    return Mesh(corners.reshape(-1, 3), torch.arange(3 * n_faces).view(-1, 3))


def square(z: float = 0.0, size: float = 1.0, flip: bool = False) -> Mesh:
    half = size / 2
    vertices = torch.tensor([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return Mesh(vertices, faces.flip(1) if flip else faces)


def ball(radius: float = 0.4, n: int = 24) -> Mesh:
    trimesh = pytest.importorskip("trimesh")
    made = trimesh.creation.uv_sphere(radius=radius, count=(n, n))
    return Mesh(torch.tensor(made.vertices, dtype=torch.float32), torch.tensor(made.faces, dtype=torch.int64))


def slow_distance(point: list[float], triangle: list[list[float]]) -> float:
    """Twin: nested minimisation over the triangle by Ericson's regions, written for one point, in plain Python."""

    def sub(p, q):
        return [p[k] - q[k] for k in range(3)]

    def dot(p, q):
        return sum(p[k] * q[k] for k in range(3))

    def at(u, v):
        return [a[k] + u * ab[k] + v * ac[k] for k in range(3)]

    a, b, c = triangle
    ab, ac, ap = sub(b, a), sub(c, a), sub(point, a)
    d00, d01, d11, d20, d21 = dot(ab, ab), dot(ab, ac), dot(ac, ac), dot(ap, ab), dot(ap, ac)
    determinant = d00 * d11 - d01 * d01
    candidates = [a, b, c]
    if determinant > 0:
        u, v = (d11 * d20 - d01 * d21) / determinant, (d00 * d21 - d01 * d20) / determinant
        if u >= 0 and v >= 0 and u + v <= 1:
            candidates.append(at(u, v))
    for start, end in ((a, b), (b, c), (c, a)):
        along = sub(end, start)
        if dot(along, along) > 0:
            share = min(max(dot(sub(point, start), along) / dot(along, along), 0), 1)
            candidates.append([start[k] + share * along[k] for k in range(3)])
    return min(math.dist(point, candidate) for candidate in candidates)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1000), st.sampled_from((0.3, 1.0, 30.0)), st.booleans())
def test_point_to_triangle_distance_matches_brute_force(n_faces, seed, reach, degenerate):
    mesh = soup(n_faces, seed)
    vertices = mesh.vertices.clone()
    if degenerate:  # a needle, and a triangle that is a point
        vertices[2] = (vertices[0] + vertices[1]) / 2
        vertices[-3:] = vertices[-1]
    mesh = Mesh(vertices, mesh.faces)
    points = reach * (torch.rand(12, 3, dtype=torch.float64, generator=generator(seed)) - 0.5)
    points[0] = vertices[1]
    triangles = vertices[mesh.faces].tolist()
    expected = [min(slow_distance(point, triangle) for triangle in triangles) for point in points.tolist()]
    assert point_to_triangle_distance(points, mesh).tolist() == pytest.approx(expected, abs=1e-12)


def test_point_to_triangle_distance_on_many_faces():
    """More pieces than the first look takes, points near and far: against all triangles one by one."""
    mesh = soup(3000, 7, spread=0.1)
    points = torch.cat([mesh.vertices[::300], 2 * torch.rand(60, 3, dtype=torch.float64, generator=generator()) - 1])
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    from sparseflex.triangle_distance import squared_distance

    expected = [float(squared_distance(point.expand(3000, 3), a, b, c).min().sqrt()) for point in points]
    assert point_to_triangle_distance(points, mesh).tolist() == pytest.approx(expected, abs=1e-12)


def test_one_far_point_and_few_large_faces():
    tree = TriangleTree(square())
    points = torch.tensor([[0, 0, 1e4], [0.1, 0.2, 0.3], [2, 0, 0]], dtype=torch.float64)
    assert tree.distance(points).tolist() == pytest.approx([1e4, 0.3, 1.5], rel=1e-12)


def test_distance_of_nothing():
    points = torch.zeros(2, 3)
    assert point_to_triangle_distance(points, EMPTY).tolist() == [math.inf, math.inf]
    assert point_to_triangle_distance(points[:0], square()).shape == (0,)
    with pytest.raises(ValueError, match=r"points must have shape \(n, 3\)"):
        point_to_triangle_distance(torch.zeros(3), square())


def test_samples_lie_on_their_faces_by_area():
    mesh = soup(20, 3)
    samples = metrics.sample_points(mesh, 20_000, generator())
    corners = mesh.vertices[mesh.faces[samples.face]]
    from sparseflex.triangle_distance import squared_distance

    assert float(squared_distance(samples.points, *corners.unbind(1)).max()) < 1e-24
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    areas = torch.linalg.cross(b - a, c - a).norm(dim=1)
    share = torch.bincount(samples.face, minlength=20) / 20_000
    assert torch.allclose(share.double(), areas / areas.sum(), atol=0.012)
    # uniform within a triangle: the centroid
    one = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    assert torch.allclose(metrics.sample_points(one, 20_000, generator()).points.mean(dim=0),
                          torch.tensor([1 / 3, 1 / 3, 0.0]), atol=0.006)  # fmt: skip


def test_samples_follow_the_generator_and_skip_faces_without_area():
    vertices = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]])
    flat = Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3], [2, 3, 3]]))
    samples = metrics.sample_points(flat, 500, generator(3))
    assert set(samples.face.tolist()) == {1}
    assert torch.equal(samples.points, metrics.sample_points(flat, 500, generator(3)).points)
    for nothing in (EMPTY, Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))):
        assert metrics.sample_points(nothing, 10).points.shape == (0, 3)
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        metrics.sample_points(flat, -1)


def test_chamfer_and_f_score_match_loops():
    a, b = torch.rand(60, 3, generator=generator(1)), torch.rand(40, 3, generator=generator(2))
    a_to_b = [min(math.dist(p, q) for q in b.tolist()) for p in a.tolist()]
    b_to_a = [min(math.dist(p, q) for p in a.tolist()) for q in b.tolist()]
    assert metrics.chamfer_distance(a, b) == pytest.approx((sum(a_to_b) / 60 + sum(b_to_a) / 40) / 2)
    precision, recall = sum(d < 0.1 for d in a_to_b) / 60, sum(d < 0.1 for d in b_to_a) / 40
    assert 0.1 < precision < 0.9
    assert metrics.f_score(a, b, 0.1) == pytest.approx(2 * precision * recall / (precision + recall))
    assert metrics.chamfer_distance(a, a) == 0 and metrics.f_score(a, a, 1e-6) == 1
    assert metrics.f_score(a, a + 5, 0.1) == 0


def test_points_and_meshes_of_nothing():
    some, none = torch.rand(5, 3), torch.zeros(0, 3)
    assert metrics.chamfer_distance(some, none) == math.inf == metrics.chamfer_distance(none, some)
    assert math.isnan(metrics.chamfer_distance(none, none)) and math.isnan(metrics.f_score(none, none, 0.1))
    assert metrics.f_score(some, none, 0.1) == 0 == metrics.f_score(none, some, 0.1)
    assert metrics.point_to_triangle_chamfer(square(), EMPTY, 10) == math.inf
    assert math.isnan(metrics.point_to_triangle_chamfer(EMPTY, EMPTY, 10))
    assert math.isnan(metrics.normal_consistency(EMPTY, square(), 10).degrees)
    assert metrics.boundary_edges(EMPTY) == 0
    with pytest.raises(ValueError, match="threshold must be above 0, got 0"):
        metrics.f_score(some, some, 0)
    with pytest.raises(ValueError, match=r"points_b must have shape \(n, 3\), got \(5, 2\)"):
        metrics.chamfer_distance(some, some[:, :2])


def test_point_to_triangle_chamfer_has_no_sampling_floor():
    moved = square(z=0.003)
    assert metrics.point_to_triangle_chamfer(square(), moved, 2000, generator()) == pytest.approx(0.003, rel=1e-5)
    assert metrics.point_to_triangle_chamfer(square(), square(), 2000, generator()) < 1e-7
    # a half against the whole: one way 0, the other way the mean distance to the half's edge
    half = Mesh(square().vertices * torch.tensor([0.5, 1, 1]), square().faces)
    assert metrics.point_to_triangle_chamfer(half, square(), 40_000, generator()) == pytest.approx(0.0625 / 2, rel=0.02)


def test_normal_consistency_tells_flipped_from_turned():
    same = metrics.normal_consistency(square(), square(), 500, generator())
    assert (same.degrees, same.cosine, same.abs_cosine) == pytest.approx((0, 1, 1), abs=1e-5)
    flipped = metrics.normal_consistency(square(), square(flip=True), 500, generator())
    assert (flipped.degrees, flipped.cosine, flipped.abs_cosine) == pytest.approx((180, -1, 1), abs=1e-5)
    turn = math.radians(30)
    rotation = torch.tensor([[1, 0, 0], [0, math.cos(turn), -math.sin(turn)], [0, math.sin(turn), math.cos(turn)]])
    tilted = Mesh(square().vertices @ rotation.T, square().faces)
    turned = metrics.normal_consistency(square(), tilted, 500, generator())
    assert turned.degrees == pytest.approx(30, abs=1e-3)


def test_boundary_edges_are_those_of_one_face():
    assert metrics.boundary_edges(square()) == 4
    assert metrics.boundary_edges(ball()) == 0
    mesh = ball()
    assert metrics.boundary_edges(Mesh(mesh.vertices, mesh.faces[1:])) == 3
    # an edge of three faces is no boundary
    fan = Mesh(torch.rand(5, 3), torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]]))
    assert metrics.boundary_edges(fan) == 6


CAMERA = Camera.look_at((0, 0, 2), (0, 0, 0), fov_y_degrees=40, width=80, height=80, near=0.1, far=5)


def test_view_errors_of_known_differences():
    exact = metrics.view_errors(square(), square(), [CAMERA], 0.01)
    assert (exact.holes_percent, exact.extra_percent, exact.depth_off_percent) == (0, 0, 0)
    assert exact.normal_degrees == pytest.approx(0, abs=1e-3)
    moved = metrics.view_errors(square(z=0.02), square(), [CAMERA], 0.01)
    assert (moved.holes_percent, moved.depth_off_percent) == (0, 100)
    assert metrics.view_errors(square(z=0.02), square(), [CAMERA], 0.03).depth_off_percent == 0
    half = metrics.view_errors(square(size=0.5), square(), [CAMERA], 0.01)
    assert half.holes_percent == pytest.approx(75, abs=2) and half.extra_percent == 0
    double = metrics.view_errors(square(), square(size=0.5), [CAMERA], 0.01)
    assert double.extra_percent == pytest.approx(300, rel=0.1) and double.holes_percent == 0
    flipped = metrics.view_errors(square(flip=True), square(), [CAMERA], 0.01)
    assert flipped.normal_degrees == pytest.approx(180, abs=1e-3)


def test_view_errors_pool_the_pixels_of_all_views():
    views = fixed_views(5, ball(), width=48, height=48)
    mesh = ball()
    holed = Mesh(mesh.vertices, mesh.faces[mesh.n_faces // 4 :])
    together = metrics.view_errors(holed, mesh, views, 0.01)
    assert 0 < together.holes_percent < 60 or together.depth_off_percent > 0
    assert together == metrics.view_errors(holed, mesh, views, 0.01)
    nothing = metrics.view_errors(EMPTY, mesh, views, 0.01)
    assert nothing.holes_percent == 100 and math.isnan(nothing.normal_degrees)
    assert math.isnan(metrics.view_errors(EMPTY, EMPTY, views, 0.01).holes_percent)
    with pytest.raises(ValueError, match="depth_tolerance must be above 0, got 0"):
        metrics.view_errors(mesh, mesh, views, 0)
