"""transforms.json: cameras as NeRF and instant-ngp store them, camera-to-world with the axes of Camera."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.camera import Camera

DEFAULT_NEAR, DEFAULT_FAR = 0.01, 10.0
"""Planes of cameras whose file has none: the format itself knows no near and far."""

_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def write_transforms(path: str | os.PathLike, cameras: Sequence[Camera], names: Sequence[str] | None = None) -> None:
    """Writes cameras to a transforms.json, in their order.

    What all cameras share (camera_angle_x in radians, fl_x, fl_y, cx, cy in pixels, w, h) stands at the top, the rest
    with each frame; every frame also has near and far, which other readers ignore. names: file_path of each frame,
    by default 0000, 0001, …
    """
    if names is not None and len(names) != len(cameras):
        raise ValueError(f"names must be one a camera, got {len(names)} for {len(cameras)}")
    frames = []
    for index, camera in enumerate(cameras):
        frames.append(
            {
                "file_path": names[index] if names is not None else f"{index:04d}",
                "transform_matrix": camera.world_from_camera.tolist(),
                "camera_angle_x": 2 * math.atan(camera.tan_half_fov[0]),
                "fl_x": camera.focal_pixels,
                "fl_y": camera.focal_pixels,
                "cx": camera.width / 2,
                "cy": camera.height / 2,
                "w": camera.width,
                "h": camera.height,
                "near": camera.near,
                "far": camera.far,
            }
        )
    shared: dict[str, Any] = {}
    for key in ("camera_angle_x", "fl_x", "fl_y", "cx", "cy", "w", "h") if frames else ():
        if all(frame[key] == frames[0][key] for frame in frames):
            shared[key] = frames[0][key]
            for frame in frames:
                del frame[key]
    Path(path).write_text(json.dumps({**shared, "frames": frames}, indent=2) + "\n", encoding="utf-8")


def read_transforms(path: str | os.PathLike, default_size: tuple[int, int] | None = None) -> list[Camera]:
    """The cameras of a transforms.json, in the order of its frames.

    A frame's own keys go before those at the top. The field of view comes from fl_y, fl_x, camera_angle_y or
    camera_angle_x, whichever comes first; near and far default to 0.01 and 10. default_size: (width, height) where
    the file has no w and h, as in NeRF's synthetic scenes. Raises ValueError with file, key and value for anything
    missing or malformed, and for what Camera can't do: lens distortion, pixels that aren't square, an optical centre
    away from the middle.
    """
    source = Path(path)
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{source}: can't be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise ValueError(f"{source}: not a JSON file: {error}") from None
    if not isinstance(content, Mapping) or not isinstance(content.get("frames"), list):
        raise ValueError(f"{source}: must hold an object with a list named frames")
    cameras = []
    for index, frame in enumerate(content["frames"]):
        where = f"{source}: frames[{index}]"
        if not isinstance(frame, Mapping):
            raise ValueError(f"{where} must be an object, got {frame!r}")
        cameras.append(_camera(where, {**content, **frame}, default_size))
    return cameras


def _number(where: str, keys: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = keys.get(key, default)
    if value is None:
        raise ValueError(f"{where}: {key} is missing")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{where}: {key} must be a finite number, got {value!r}")
    return float(value)


def _size(where: str, keys: Mapping[str, Any], key: str, default: int | None) -> int:
    value = _number(where, keys, key, default)
    if value != int(value) or value < 1:
        raise ValueError(f"{where}: {key} must be a whole number of pixels, at least 1, got {value:g}")
    return int(value)


def _camera(where: str, keys: Mapping[str, Any], default_size: tuple[int, int] | None) -> Camera:
    width = _size(where, keys, "w", default_size[0] if default_size else None)
    height = _size(where, keys, "h", default_size[1] if default_size else None)
    for key in _DISTORTION:
        if _number(where, keys, key, 0.0) != 0:
            raise ValueError(f"{where}: {key} must be 0 (no lens distortion), got {keys[key]}")
    for key, size in (("cx", width), ("cy", height)):
        value = _number(where, keys, key, size / 2)
        if abs(value - size / 2) > 0.005 * size:
            raise ValueError(f"{where}: {key} must be the image's middle, {size / 2:g}, got {value:g}")
    near, far = _number(where, keys, "near", DEFAULT_NEAR), _number(where, keys, "far", DEFAULT_FAR)
    try:
        return Camera(
            torch.linalg.inv(_rigid(where, keys.get("transform_matrix"))),
            _fov_y_degrees(where, keys, width, height), width, height, near, far,
        )  # fmt: skip
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(where) else f"{where}: {text}") from None


def _fov_y_degrees(where: str, keys: Mapping[str, Any], width: int, height: int) -> float:
    focal = {}
    for key, size in (("fl_y", height), ("fl_x", width), ("camera_angle_y", height), ("camera_angle_x", width)):
        if key not in keys:
            continue
        value = _number(where, keys, key)
        if key.startswith("fl_"):
            if value <= 0:
                raise ValueError(f"{where}: {key} must be above 0 pixels, got {value:g}")
            focal[key] = value
        else:
            if not 0 < value < math.pi:
                raise ValueError(f"{where}: {key} must be in (0, pi) radians, got {value:g}")
            focal[key] = size / 2 / math.tan(value / 2)
    if not focal:
        raise ValueError(f"{where}: one of fl_x, fl_y, camera_angle_x, camera_angle_y is needed, none is there")
    if "fl_x" in focal and "fl_y" in focal and abs(focal["fl_x"] - focal["fl_y"]) > 0.005 * focal["fl_y"]:
        raise ValueError(f"{where}: fl_x must equal fl_y (square pixels), got {focal['fl_x']:g} and {focal['fl_y']:g}")
    return 2 * math.degrees(math.atan(height / 2 / next(iter(focal.values()))))


def _rigid(where: str, value: Any) -> Float[Tensor, "4 4"]:
    """transform_matrix, if it is a rotation and a translation."""
    if value is None:
        raise ValueError(f"{where}: transform_matrix is missing")
    try:
        matrix = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        matrix = torch.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)) or not bool(torch.isfinite(matrix).all()):
        raise ValueError(f"{where}: transform_matrix must be 4 x 4 finite numbers, got {str(value)[:60]}")
    bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    if matrix.shape == (3, 4):
        matrix = torch.cat([matrix, bottom])
    rotation = matrix[:3, :3]
    off = float((rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().amax())
    if off > 1e-3 or float(torch.linalg.det(rotation)) < 0 or not torch.allclose(matrix[3:], bottom):
        raise ValueError(f"{where}: transform_matrix must be a rotation with a translation, got {matrix.tolist()}")
    return matrix
