"""What-if: a camera moved from where it stands, planes set by hand, why nothing is active, and how two looks differ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.frustum import Category, split_voxels
from workbench.split import CATEGORIES, Split

if TYPE_CHECKING:
    from sparseflex.voxels import SparseVoxels

ABOUT = ("centre", "eye")
"""What a moved camera turns about: the point of its axis nearest to the box's centre, or its own eye."""

MAX_TURN, MAX_TILT, MAX_AHEAD = 180.0, 85.0, 1.5
MIN_FOV, MAX_FOV = 2.0, 140.0
_NEAREST_PIVOT = 0.05


@dataclasses.dataclass(frozen=True)
class Move:
    """How a copy of a camera is moved: degrees to its right (turn) and upwards (tilt) about one of ABOUT, then world
    units ahead along its axis. fov_y_degrees: None keeps the camera's own."""

    turn: float = 0.0
    tilt: float = 0.0
    ahead: float = 0.0
    fov_y_degrees: float | None = None
    about: str = "centre"

    @property
    def is_none(self) -> bool:
        return not (self.turn or self.tilt or self.ahead) and self.fov_y_degrees is None


def moved(camera: Camera, move: Move) -> Camera:
    """The camera where the move takes it, its planes and image unchanged; the very camera where it takes it nowhere.

    About the centre the eye goes to the right and up, and keeps looking at the pivot; about the eye the view turns to
    the right and up. "Up" is the world's for the turn, the camera's for the tilt.
    """
    if move.is_none:
        return camera
    world_from_camera = camera.world_from_camera
    at_eye = move.about == ABOUT[1]
    eye, forward = world_from_camera[:3, 3], camera.forward_world
    pivot = eye if at_eye else eye + forward * max(float(-eye @ forward), _NEAREST_PIVOT)
    sign = -1.0 if at_eye else 1.0
    right = world_from_camera[:3, 0] / world_from_camera[:3, 0].norm()
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    rotation = _rotation(up, sign * move.turn) @ _rotation(right, -sign * move.tilt)
    placed = torch.eye(4, dtype=torch.float64)
    placed[:3, :3] = rotation @ world_from_camera[:3, :3]
    placed[:3, 3] = pivot + rotation @ (eye - pivot) + move.ahead * (rotation @ forward)
    fov = camera.fov_y_degrees if move.fov_y_degrees is None else min(max(move.fov_y_degrees, MIN_FOV), MAX_FOV)
    return dataclasses.replace(camera, camera_from_world=torch.linalg.inv(placed), fov_y_degrees=fov)


def _rotation(axis: Float[Tensor, "3"], degrees: float) -> Float[Tensor, "3 3"]:
    """Rodrigues' formula; axis: unit length."""
    angle = math.radians(degrees)
    x, y, z = axis.tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def with_hand_planes(camera: Camera, near: float, far: float) -> tuple[Camera, bool]:
    """The camera between planes set by hand, and whether they are crossed: near at or beyond far.

    A camera can't have such planes: then it has the two the other way round, and a Split that is told so leaves
    nothing active.
    """
    near, far = (value if math.isfinite(value) and value > 0 else 1e-6 for value in (near, far))
    low, high = min(near, far), max(near, far)
    return camera.with_planes(low, high if high > low else math.nextafter(low, math.inf)), near >= far


def depth_limits(camera: Camera) -> tuple[float, float]:
    """The depths that the unit box spans in front of a camera: where planes make a difference."""
    row = -camera.camera_from_world[2]
    middle, reach = float(row[3]), 0.5 * float(row[:3].abs().sum())
    low = max(middle - reach, 1e-3)
    return low, max(middle + reach, low + 0.1)


# Why nothing is active


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something wrong with a look: kind names it, values are its numbers, text says it in a line."""

    kind: str
    text: str
    values: Mapping[str, float]


def faults(voxels: SparseVoxels | None, camera: Camera, crossed: bool, split: Split) -> tuple[Fault, ...]:
    """Why a camera activates nothing: its planes, where it looks, and whether it stands in a wall; nothing where it
    activates voxels. split: of this camera, crossed as with_hand_planes says.

    A good camera in a room may well stand within a voxel of a coarse set: that alone is no fault.
    """
    if voxels is None or split.counts["active"]:
        return ()
    if voxels.n_voxels == 0:
        return (Fault("no voxels", "there are no voxels at all", {}),)
    found = [_why_none(voxels, camera, crossed, split)]
    cell = ((camera.eye_world + 0.5) * voxels.resolution).floor()
    row = int(voxels.find(cell.to(torch.int64)[None])[0]) if bool((cell.abs() < 2**31).all()) else -1
    if row >= 0:
        i, j, k = (int(part) for part in cell)
        found.append(Fault("eye in a voxel", f"the eye is within voxel ({i}, {j}, {k}): in a wall",
                           {"row": row, "i": i, "j": j, "k": k}))
    return tuple(found)


def _why_none(voxels: SparseVoxels, camera: Camera, crossed: bool, split: Split) -> Fault:
    counts = split.counts
    n_visible = voxels.n_voxels - counts["outside"]
    if crossed:
        near, far, between = camera.far, camera.near, split.n_between
        return Fault("near beyond far", f"near {near:.4f} lies at or beyond far {far:.4f}: each of the {n_visible:,} "
                     f"voxels in view is cut, {between:,} of them by both",
                     {"near": near, "far": far, "visible": n_visible, "between": between})
    if n_visible == 0:
        n_behind = int((camera.depth_of(voxels.centers) <= 0).sum())
        n_beside = voxels.n_voxels - n_behind
        return Fault("nothing in view", f"no voxel is in view: {n_behind:,} behind the eye, {n_beside:,} beside the "
                     "frustum", {"behind": n_behind, "beside": n_beside})
    low, high = (float(edge) for edge in split.histogram.edges[[0, -1]])
    values = {"visible": n_visible, "nearest": low, "furthest": high}
    if counts["near_cut"] == n_visible:
        return Fault("all in front of near", f"near {camera.near:.4f} lies behind all {n_visible:,} voxels in view, "
                     f"which end at depth {high:.4f}", values)
    if counts["far_cut"] == n_visible:
        return Fault("all behind far", f"far {camera.far:.4f} lies in front of all {n_visible:,} voxels in view, "
                     f"which begin at depth {low:.4f}", values)
    return Fault("nothing between", f"no voxel lies between the planes: {counts['near_cut']:,} in front of them, "
                 f"{counts['far_cut']:,} behind", values)


# Two kept, and how they differ


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """A look that was kept: camera with its planes, crossed as with_hand_planes says, rings of halo, what it is called
    and what its planes come from."""

    camera: Camera
    crossed: bool
    rings: int
    label: str
    planes: str

    @property
    def near_far(self) -> tuple[float, float]:
        """As they were asked for, also where they are crossed."""
        near, far = self.camera.near, self.camera.far
        return (far, near) if self.crossed else (near, far)


PARTS = ("only_a", "only_b", "both", "neither")


@dataclasses.dataclass(frozen=True, eq=False)
class Difference:
    """Two looks at the same voxels: pairs[x, y] of them are of Category x for A and y for B; a, b: each voxel's."""

    voxels: SparseVoxels
    a: UInt8[np.ndarray, "N"]
    b: UInt8[np.ndarray, "N"]
    pairs: Int[np.ndarray, "4 4"]

    def counts(self, category: str) -> dict[str, int]:
        """How many voxels are of a category (a name in CATEGORIES) in A, in B, only in A, only in B, in both, in
        neither."""
        of = int(CATEGORIES[category])
        a, b, both = (int(part) for part in (self.pairs[of].sum(), self.pairs[:, of].sum(), self.pairs[of, of]))
        return {"a": a, "b": b, "only_a": a - both, "only_b": b - both, "both": both,
                "neither": len(self.a) - a - b + both}

    def rows(self, category: str, part: str) -> np.ndarray:
        """(N,) bool: the voxels of one of PARTS."""
        of = int(CATEGORIES[category])
        in_a, in_b = {"only_a": (True, False), "only_b": (False, True), "both": (True, True),
                      "neither": (False, False)}[part]
        return ((self.a == of) == in_a) & ((self.b == of) == in_b)


def difference(voxels: SparseVoxels, a: Kept, b: Kept) -> Difference:
    """Two looks, each with its own planes, at one set of voxels."""
    of_a, of_b = (_categories(voxels, look) for look in (a, b))
    n = len(Category)
    return Difference(voxels, of_a, of_b, np.bincount(of_a * n + of_b, minlength=n * n).reshape(n, n))


def _categories(voxels: SparseVoxels, look: Kept) -> UInt8[np.ndarray, "N"]:
    found = split_voxels(voxels, look.camera).numpy()
    if look.crossed:
        found[found == Category.ACTIVE] = Category.NEAR_CUT
    return found
