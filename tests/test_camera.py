"""Camera: its conventions, each checked by a number one can verify by hand, and its errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseflex.camera import Camera

coordinates = st.floats(-3, 3, allow_nan=False, width=32)
points3 = st.tuples(coordinates, coordinates, coordinates)


def column(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


CAMERA = Camera.look_at((0, 0, 2), (0, 0, 0), fov_y_degrees=90, width=200, height=100, near=0.5, far=4)


def test_axes_are_those_of_opengl():
    """From (0, 0, 2) towards the origin: x to the right, y up, depth along −z."""
    assert CAMERA.to_camera_space(column(0.3, 0.4, 0.5)).tolist()[0] == pytest.approx([0.3, 0.4, -1.5])
    assert CAMERA.depth_of(column(0.3, 0.4, 0.5)).tolist() == pytest.approx([1.5])
    side = Camera.look_at((2, 0, 0), (0, 0, 0))
    assert side.to_camera_space(column(0, 1, -1)).tolist()[0] == pytest.approx([1, 1, -2])
    assert side.eye_world.tolist() == pytest.approx([2, 0, 0])
    assert side.forward_world.tolist() == pytest.approx([-1, 0, 0])
    assert side.up_world.tolist() == pytest.approx([0, 1, 0])


def test_projection_and_pixels():
    assert CAMERA.tan_half_fov == pytest.approx((2, 1))
    assert CAMERA.aspect == 2 and CAMERA.focal_pixels == pytest.approx(50)
    # the top right corner of the image at depth 2: x = 4, y = 2
    x, y, z, w = (CAMERA.clip_from_world @ torch.tensor([4.0, 2, 0, 1], dtype=torch.float64)).tolist()
    assert (x / w, y / w, w) == pytest.approx((1, 1, 2))
    for depth, expected in ((0.5, -1), (4, 1)):
        clip = CAMERA.clip_from_world @ torch.tensor([0, 0, 2 - depth, 1], dtype=torch.float64)
        assert float(clip[2] / clip[3]) == pytest.approx(expected)


def test_frustum_corners():
    corners = CAMERA.frustum_corners_world()
    assert corners.shape == (8, 3)
    assert corners[0].tolist() == pytest.approx([-1, -0.5, 1.5])
    assert corners[2].tolist() == pytest.approx([1, 0.5, 1.5])
    assert corners[7].tolist() == pytest.approx([-8, 4, -2])
    assert torch.allclose(CAMERA.with_planes(1, 2).frustum_corners_world(), CAMERA.frustum_corners_world(1, 2))
    clip = torch.cat([corners, torch.ones(8, 1)], dim=1) @ CAMERA.clip_from_world.T
    assert torch.allclose((clip[:, :3] / clip[:, 3:]).abs(), torch.ones(8, 3, dtype=torch.float64))


@settings(max_examples=80, deadline=None)
@given(points3, points3, points3)
def test_look_at_is_a_rotation_that_looks_at_its_target(eye, target, up):
    if math.dist(eye, target) < 1e-3:
        return
    camera = Camera.look_at(eye, target, up)
    rotation = camera.camera_from_world[:3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)
    assert camera.eye_world.tolist() == pytest.approx(list(eye), abs=1e-8)
    seen = camera.to_camera_space(column(*target))[0].tolist()
    assert seen == pytest.approx([0, 0, -math.dist(eye, target)], abs=1e-8)
    length = math.hypot(*up)
    if length > 1e-2:  # up has no part to the side, and points up or straight along the view
        sideways = torch.tensor(up, dtype=torch.float64) / length
        assert float(rotation[0] @ sideways) == pytest.approx(0, abs=1e-5)
        assert float(rotation[1] @ sideways) > -1e-5


@pytest.mark.parametrize("up", [(0, 0, 1), (0, 0, -2), (0, 0, 0)])
def test_up_along_the_view_still_gives_a_camera(up):
    rotation = Camera.look_at((0, 0, 2), (0, 0, 0), up).camera_from_world[:3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))


def test_points_keep_dtype_and_shape():
    points = torch.rand(2, 5, 3)
    assert CAMERA.to_camera_space(points).dtype == torch.float32
    assert CAMERA.to_camera_space(points).shape == (2, 5, 3)
    assert CAMERA.depth_of(points).shape == (2, 5)
    assert CAMERA.depth_of(points[:0]).shape == (0, 5)


def test_copies_change_only_what_they_say():
    other = CAMERA.with_planes(1, 3).with_size(50, 60)
    assert (other.near, other.far, other.width, other.height, other.fov_y_degrees) == (1, 3, 50, 60, 90)
    assert torch.equal(other.camera_from_world, CAMERA.camera_from_world)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fov_y_degrees": 0}, "fov_y_degrees must be in (0, 180), got 0.0"),
        ({"fov_y_degrees": 180}, "fov_y_degrees must be in (0, 180), got 180.0"),
        ({"width": 0}, "width and height must be at least 1 pixel, got 0 x 256"),
        ({"near": 0}, "near and far must satisfy 0 < near < far, got near 0.0, far 10.0"),
        ({"near": 2, "far": 2}, "near and far must satisfy 0 < near < far, got near 2.0, far 2.0"),
        ({"far": math.inf}, "near and far must satisfy 0 < near < far, got near 0.01, far inf"),
        ({"near": math.nan}, "near and far must satisfy 0 < near < far, got near nan, far 10.0"),
        ({"eye": (0, 0, 0)}, "eye and target must differ, both are [0.0, 0.0, 0.0]"),
        ({"eye": (0, math.nan, 1)}, "eye must be three finite numbers, got (0, nan, 1)"),
        ({"target": (0, 1)}, "target must be three finite numbers, got (0, 1)"),
    ],
)
def test_bad_arguments_are_named(change, text):
    arguments = {"eye": (0, 0, 2), "target": (0, 0, 0), **change}
    with pytest.raises(ValueError) as error:
        Camera.look_at(**arguments)
    assert str(error.value) == text


def test_a_matrix_must_be_four_by_four_and_finite():
    for matrix in (torch.eye(3), torch.full((4, 4), math.nan)):
        with pytest.raises(ValueError, match=r"camera_from_world must be a finite \(4, 4\) matrix"):
            Camera(matrix, 40.0, 8, 8, 0.1, 1.0)
