"""Camera paths of videos: turntables, and keys in a TOML file with a smooth way between them."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sparseflex.training.config import from_table, setting
from workbench.figure.prepare import Pose
from workbench.figure.recipe import CameraTable, Checked, Numbers, numbers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES, MAX_KEYS = 1 << 20, 1000
_TURNED = 24
"""So many turned copies stand for a whole turn where a frame for it is looked for."""


@dataclasses.dataclass(frozen=True)
class Key(Checked):
    """Where the camera is at a time: at in seconds; eye, target and up as in a figure's [camera]."""

    at: float = setting(0.0, 0, 36_000)
    eye: Numbers = numbers(3)
    target: Numbers = numbers(3, (0.0, 0.0, 0.0))
    up: Numbers = numbers(3, (0.0, 1.0, 0.0))
    fov_y_degrees: float = setting(28.0, 1, 120)

    def _check(self) -> None:
        for name in ("eye", "target", "up"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be three numbers, got none")
        if math.dist(self.eye, self.target) < 1e-9:
            raise ValueError(f"eye and target must differ, both are {self.eye}")
        if not any(self.up):
            raise ValueError(f"up must not be all 0, got {self.up}")


def read_path(path: Path) -> tuple[Key, ...]:
    """The [[keys]] of a TOML file. Raises FileNotFoundError, or ValueError in one line: file, key, rule, value."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: a camera path must have at most {MAX_BYTES} bytes, got {path.stat().st_size}")
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a camera path: {error}") from None
    for name in tables:
        if name != "keys":
            raise ValueError(f"{path}: unknown key {name!r}; allowed is keys, as [[keys]]")
    rows = tables.get("keys")
    if not isinstance(rows, list) or not 2 <= len(rows) <= MAX_KEYS:
        raise ValueError(f"{path}: there must be 2 to {MAX_KEYS} [[keys]], got "
                         f"{len(rows) if isinstance(rows, list) else 'none'}")
    keys = []
    for number, row in enumerate(rows, start=1):
        where = f"{path} [[keys]] {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where} must be a table, got {row!r}")
        keys.append(from_table(Key, row, where))
        if number > 1 and keys[-1].at <= keys[-2].at:
            raise ValueError(f"{where}: at must be after the key before, {keys[-2].at:g}, got {keys[-1].at:g}")
    return tuple(keys)


def along(keys: Sequence[Key], secs: Float[np.ndarray, "n"]) -> list[CameraTable]:
    """The camera at each time: through all keys, smooth, and never beyond two neighbouring ones; it rests at the ends.

    Raises ValueError where the eye would meet its target, or look along its up.
    """
    from scipy.interpolate import PchipInterpolator

    columns = [(*key.eye, *key.target, *key.up, key.fov_y_degrees) for key in keys]
    times = np.array([key.at for key in keys])
    values = PchipInterpolator(times, np.array(columns))(np.clip(secs, times[0], times[-1]))
    found = []
    for at, row in zip(secs, values, strict=True):
        eye, target, up = (tuple(float(part) for part in row[3 * k : 3 * k + 3]) for k in range(3))
        if math.dist(eye, target) < 1e-6 or not np.linalg.norm(np.cross(up, np.subtract(eye, target))) > 1e-9:
            raise ValueError(f"the camera path comes to a view without direction after {at:.3g} s; add a key there")
        found.append(CameraTable(eye=eye, target=target, up=up, fov_y_degrees=float(row[9])))
    return found


def turned(pose: Pose, share: float, camera: CameraTable) -> CameraTable:
    """The pose after a share of a whole turn about the vertical through its centre; all else as the camera has it."""
    angle = 2 * math.pi * share
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
    eye = pose.centre + turn @ (pose.eye - pose.centre)
    parts = {"eye": eye, "target": pose.centre, "up": turn @ pose.up}
    vectors = {name: tuple(round(float(value), 9) for value in vector) for name, vector in parts.items()}
    return dataclasses.replace(camera, direction=(), fov_y_degrees=pose.fov_y_degrees, **vectors)


def swept(points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "Q 3"]:
    """Points that hold the given ones however they are turned about the vertical through their middle."""
    low, high = points.min(axis=0), points.max(axis=0)
    middle = (low + high) / 2
    radius = np.hypot(points[:, 0] - middle[0], points[:, 2] - middle[2])
    # the outline alone counts: the greatest radius of each height
    heights = np.linspace(low[1], high[1], 65)
    place = np.clip(np.searchsorted(heights, points[:, 1]) - 1, 0, 63)
    widest = np.zeros(64)
    np.maximum.at(widest, place, radius)
    rings = np.concatenate([np.stack([widest, ends], axis=1) for ends in (heights[:-1], heights[1:])])
    rings = rings[np.tile(np.bincount(place, minlength=64) > 0, 2)]
    angles = 2 * math.pi * np.arange(_TURNED) / _TURNED
    radii = rings[:, :1] / math.cos(math.pi / _TURNED)  # a polygon around the circle, not within it
    x, z = middle[0] + radii * np.cos(angles), middle[2] + radii * np.sin(angles)
    return np.stack([x, np.broadcast_to(rings[:, 1:], x.shape), z], axis=-1).reshape(-1, 3)
