"""Caps close what a plane cuts open: areas that are known, holes and overlaps, and surfaces without an inside."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh

from workbench.caps import cap, closed
from workbench.slices import Plane
from workbench.snapshot import MeshArrays


def arrays(mesh: trimesh.Trimesh) -> MeshArrays:
    return MeshArrays(mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32))


def area(mesh: MeshArrays | None) -> float:
    if mesh is None:
        return 0.0
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(np.linalg.norm(normals, axis=1).sum()) / 2


def slow_area(mesh: trimesh.Trimesh, plane: Plane, n: int = 120) -> float:
    """The share of a grid of points in the plane that lie inside, by the winding number of solid angles."""
    steps = (np.arange(n) + 0.5) / n - 0.5
    u, v = np.meshgrid(steps, steps)
    flat = u.reshape(-1, 1) * plane.axes[0] + v.reshape(-1, 1) * plane.axes[1]
    points = flat + plane.offset * np.array(plane.normal)
    angle = np.zeros(len(points))
    for triangle in mesh.triangles:
        a, b, c = (corner - points for corner in triangle)
        sizes = [np.linalg.norm(side, axis=1) for side in (a, b, c)]
        top = (a * np.cross(b, c)).sum(1)
        below = sizes[0] * sizes[1] * sizes[2] + (a * b).sum(1) * sizes[2] + (b * c).sum(1) * sizes[0]
        angle += 2 * np.arctan2(top, below + (a * c).sum(1) * sizes[1])
    return float((np.abs(angle) > 2 * math.pi).mean())


def box(side: float, at: tuple[float, float, float] = (0, 0, 0)) -> trimesh.Trimesh:
    made = trimesh.creation.box((side,) * 3)
    made.apply_translation(at)
    return made


def hollow() -> trimesh.Trimesh:
    inner = box(0.4)
    inner.invert()
    return trimesh.util.concatenate([box(0.8), inner])


@pytest.mark.parametrize(("mesh", "plane", "expected"), [
    (hollow(), Plane((0, 0, 1), 0.1), 0.8**2 - 0.4**2),
    (hollow(), Plane((0, 0, 1), 0.3), 0.8**2),
    (trimesh.util.concatenate([box(0.4), box(0.4, (0.2, 0.1, 0))]), Plane((0, 0, 1), 0.05), 2 * 0.16 - 0.2 * 0.3),
    (trimesh.creation.icosphere(4, 0.4), Plane((0.6, 0.8, 0), 0.1), math.pi * (0.16 - 0.01)),
    (trimesh.creation.icosphere(2, 0.4), Plane((0, 0, 1), 0.5), 0.0),
])
def test_the_cap_has_the_area_of_the_inside(mesh: trimesh.Trimesh, plane: Plane, expected: float) -> None:
    found = cap(arrays(mesh), plane)
    assert area(found) == pytest.approx(expected, rel=4e-3, abs=1e-9)
    if found is not None:
        heights = found.vertices @ np.array(plane.normal) - plane.offset
        assert np.abs(heights).max() < 1e-6


@pytest.mark.parametrize("normal", [(0.0, 0.0, 1.0), (0.48, 0.6, 0.64), (-1.0, 0.0, 0.0)])
def test_it_agrees_with_solid_angles(normal: tuple[float, float, float]) -> None:
    torus = trimesh.creation.torus(0.28, 0.11, major_sections=24, minor_sections=12)
    plane = Plane(normal, 0.03)
    assert area(cap(arrays(torus), plane)) == pytest.approx(slow_area(torus, plane), abs=4e-3)


def test_an_open_surface_has_no_inside_but_a_leaky_one_has() -> None:
    tube = trimesh.creation.annulus(0.2, 0.3, 0.8)
    sides = tube.faces[np.abs(tube.face_normals[:, 2]) < 0.5]
    assert closed(arrays(tube)) is not None
    shade = MeshArrays(tube.vertices.astype(np.float32), sides.astype(np.int32))
    assert closed(shade) is None and cap(shade, Plane((0, 0, 1), 0.0)) is None
    ball = arrays(trimesh.creation.icosphere(4, 0.4))
    plane = Plane((0, 0, 1), 0.01)
    whole = area(cap(ball, plane))
    height = ball.vertices[ball.faces][..., 2] - plane.offset
    lost = np.flatnonzero((height.min(1) < 0) & (height.max(1) > 0))[:3]  # a hole where the plane passes
    leaky = MeshArrays(ball.vertices, np.delete(ball.faces, lost, axis=0))
    assert area(cap(leaky, plane)) == pytest.approx(whole, rel=0.01)
    n_faces = len(closed(leaky).faces)
    assert n_faces > len(leaky.faces) and len(closed(closed(leaky)).faces) == n_faces


def test_nothing_and_bad_numbers_have_no_cap() -> None:
    plane = Plane((0, 0, 1), 0.0)
    assert cap(MeshArrays(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)), plane) is None
    ball = arrays(trimesh.creation.icosphere(2, 0.4))
    vertices = ball.vertices.copy()
    vertices[0] = np.nan
    cap(MeshArrays(vertices, ball.faces), plane)
