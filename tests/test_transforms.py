"""transforms.json: round trips, foreign files, and one clear line for everything malformed."""

from __future__ import annotations

import json
import math

import pytest
import torch

from sparseflex.camera import Camera
from sparseflex.sampling import fixed_views
from sparseflex.transforms import read_transforms, write_transforms

IDENTITY = torch.eye(4).tolist()


def assert_same(a: Camera, b: Camera) -> None:
    assert torch.allclose(a.camera_from_world, b.camera_from_world, atol=1e-12)
    assert a.fov_y_degrees == pytest.approx(b.fov_y_degrees, abs=1e-10)
    assert (a.width, a.height, a.near, a.far) == (b.width, b.height, b.near, b.far)


def written(tmp_path, content) -> str:
    path = tmp_path / "transforms.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_round_trip_of_different_cameras(tmp_path):
    cameras = [
        Camera.look_at((1, 2, 3), (0, 0.5, 0), fov_y_degrees=35, width=640, height=480, near=0.3, far=7),
        Camera.look_at((0, 0, 2), (0, 0, 0), fov_y_degrees=70, width=100, height=200),
    ]
    path = tmp_path / "transforms.json"
    write_transforms(path, cameras, names=["a.png", "b.png"])
    for camera, read in zip(cameras, read_transforms(path), strict=True):
        assert_same(camera, read)
    content = json.loads(path.read_text())
    assert "camera_angle_x" not in content and content["frames"][1]["file_path"] == "b.png"
    with pytest.raises(ValueError, match="names must be one a camera, got 1 for 2"):
        write_transforms(path, cameras, names=["a.png"])


def test_what_all_cameras_share_stands_at_the_top(tmp_path):
    cameras = fixed_views(5, width=320, height=240)
    path = tmp_path / "transforms.json"
    write_transforms(path, cameras)
    content = json.loads(path.read_text())
    assert content["camera_angle_x"] == pytest.approx(2 * math.atan(math.tan(math.radians(20)) * 320 / 240))
    assert (content["w"], content["h"], content["cx"], content["cy"]) == (320, 240, 160, 120)
    assert content["fl_x"] == content["fl_y"] == pytest.approx(120 / math.tan(math.radians(20)))
    assert set(content["frames"][0]) == {"file_path", "transform_matrix", "near", "far"}
    for camera, read in zip(cameras, read_transforms(path), strict=True):
        assert_same(camera, read)
    write_transforms(path, [])
    assert read_transforms(path) == []


def test_the_matrix_is_camera_to_world_with_the_same_axes(tmp_path):
    """A camera at (1, 2, 3) that looks along −z with y up: the identity, and the eye in the last column."""
    matrix = [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    path = written(tmp_path, {"camera_angle_x": math.pi / 2, "frames": [{"transform_matrix": matrix}]})
    (camera,) = read_transforms(path, default_size=(800, 400))
    assert camera.eye_world.tolist() == [1, 2, 3]
    assert camera.forward_world.tolist() == [0, 0, -1]
    assert camera.up_world.tolist() == [0, 1, 0]
    assert camera.tan_half_fov == pytest.approx((1.0, 0.5))
    assert (camera.width, camera.height, camera.near, camera.far) == (800, 400, 0.01, 10.0)


@pytest.mark.parametrize(
    "keys",
    [{"fl_y": 200}, {"fl_x": 200.5, "fl_y": 200}, {"fl_x": 200}, {"camera_angle_y": 2 * math.atan(0.5)},
     {"camera_angle_x": 2 * math.atan(1.0)}, {"fl_y": 200, "camera_angle_x": 0.1}],
)  # fmt: skip
def test_field_of_view_in_every_form(tmp_path, keys):
    path = written(tmp_path, {**keys, "w": 400.0, "h": 200, "frames": [{"transform_matrix": IDENTITY[:3]}]})
    assert read_transforms(path)[0].focal_pixels == pytest.approx(200)


def test_a_frame_overrides_the_top(tmp_path):
    frames = [{"transform_matrix": IDENTITY, "fl_y": 50, "h": 20, "near": 0.5}, {"transform_matrix": IDENTITY}]
    path = written(tmp_path, {"fl_y": 100, "w": 10, "h": 10, "far": 3.0, "k1": 0, "frames": frames})
    first, second = read_transforms(path)
    assert (first.focal_pixels, first.height, first.near, first.far) == (pytest.approx(50), 20, 0.5, 3.0)
    assert (second.focal_pixels, second.height, second.near) == (pytest.approx(100), 10, 0.01)


GOOD = {"fl_y": 100.0, "w": 64, "h": 48, "transform_matrix": IDENTITY}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"w": None}, "w is missing"),
        ({"h": 3.5}, "h must be a whole number of pixels, at least 1, got 3.5"),
        ({"w": "wide"}, "w must be a finite number, got 'wide'"),
        ({"fl_y": 0}, "fl_y must be above 0 pixels, got 0"),
        ({"fl_y": True}, "fl_y must be a finite number, got True"),
        ({"camera_angle_x": 4}, "camera_angle_x must be in (0, pi) radians, got 4"),
        ({"fl_x": 120}, "fl_x must equal fl_y (square pixels), got 120 and 100"),
        ({"k1": 0.1}, "k1 must be 0 (no lens distortion), got 0.1"),
        ({"cx": 20}, "cx must be the image's middle, 32, got 20"),
        ({"near": 5, "far": 2}, "near and far must satisfy 0 < near < far, got near 5.0, far 2.0"),
        ({"far": math.nan}, "far must be a finite number, got nan"),
        ({"transform_matrix": None}, "transform_matrix is missing"),
        ({"transform_matrix": [[1, 0], [0, 1]]}, "transform_matrix must be 4 x 4 finite numbers, got [[1, 0], [0, 1]]"),
        ({"transform_matrix": "x"}, "transform_matrix must be 4 x 4 finite numbers, got x"),
        ({"transform_matrix": (2 * torch.eye(4)).tolist()}, "transform_matrix must be a rotation with a translation"),
        ({"transform_matrix": torch.diag(torch.tensor([-1.0, 1, 1, 1])).tolist()},
         "transform_matrix must be a rotation with a translation"),
    ],
)  # fmt: skip
def test_malformed_frames_are_named(tmp_path, change, text):
    frame = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    path = written(tmp_path, {"frames": [GOOD, frame]})
    with pytest.raises(ValueError) as error:
        read_transforms(path)
    message = str(error.value)
    assert message.startswith(f"{path}: frames[1]: {text}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{not json", "not a JSON file"),
        ("[]", "must hold an object with a list named frames"),
        ('{"frames": 3}', "must hold an object with a list named frames"),
        ('{"frames": [7]}', "frames[0] must be an object, got 7"),
        ('{"w": 4, "h": 4, "frames": [{"transform_matrix": []}]}', "frames[0]: transform_matrix must be 4 x 4"),
    ],
)
def test_malformed_files_are_named(tmp_path, content, text):
    path = written(tmp_path, content)
    with pytest.raises(ValueError) as error:
        read_transforms(path)
    assert str(error.value).startswith(f"{path}: {text}")


def test_no_field_of_view_and_no_file(tmp_path):
    path = written(tmp_path, {"w": 4, "h": 4, "frames": [{"transform_matrix": IDENTITY}]})
    with pytest.raises(ValueError, match="one of fl_x, fl_y, camera_angle_x, camera_angle_y is needed, none is there"):
        read_transforms(path)
    with pytest.raises(ValueError, match="nowhere.json: can't be read: No such file"):
        read_transforms(tmp_path / "nowhere.json")
