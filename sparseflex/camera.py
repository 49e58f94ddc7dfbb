"""Camera: a pinhole with near and far planes. Right-handed, y up, looking along −z of its own space."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def _vector(name: str, value: Sequence[float] | Tensor) -> Float[Tensor, "3"]:
    vector = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    if vector.shape != (3,) or not bool(torch.isfinite(vector).all()):
        raise ValueError(f"{name} must be three finite numbers, got {value}")
    return vector


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with square pixels.

    camera_from_world: (4, 4) float64 on the CPU, acts on column vectors; camera space is x right, y up,
    looking along −z, as in OpenGL. Depth is −z, positive in front. Pixel (row i, column j) has its centre at
    (j + ½, i + ½), row 0 is the top; fov_y_degrees spans the height. near and far are camera depths.
    Raises ValueError for anything out of range.
    """

    camera_from_world: Float[Tensor, "4 4"]
    fov_y_degrees: float
    width: int
    height: int
    near: float
    far: float

    def __post_init__(self) -> None:
        matrix = torch.as_tensor(self.camera_from_world, dtype=torch.float64).detach().cpu()
        if matrix.shape != (4, 4) or not bool(torch.isfinite(matrix).all()):
            raise ValueError(f"camera_from_world must be a finite (4, 4) matrix, got shape {tuple(matrix.shape)}")
        object.__setattr__(self, "camera_from_world", matrix)
        if not 0.0 < self.fov_y_degrees < 180.0:
            raise ValueError(f"fov_y_degrees must be in (0, 180), got {self.fov_y_degrees}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"width and height must be at least 1 pixel, got {self.width} x {self.height}")
        if not 0.0 < self.near < self.far < math.inf:
            raise ValueError(f"near and far must satisfy 0 < near < far, got near {self.near}, far {self.far}")

    @classmethod
    def look_at(
        cls,
        eye: Sequence[float] | Tensor,
        target: Sequence[float] | Tensor,
        up: Sequence[float] | Tensor = (0.0, 1.0, 0.0),
        *,
        fov_y_degrees: float = 40.0,
        width: int = 256,
        height: int = 256,
        near: float = 0.01,
        far: float = 10.0,
    ) -> Camera:
        """A camera at eye that looks at target, its y as near to up as it can be."""
        eye, target, up = _vector("eye", eye), _vector("target", target), _vector("up", up)
        backward = eye - target
        if float(backward.norm()) < 1e-12:
            raise ValueError(f"eye and target must differ, both are {eye.tolist()}")
        backward = backward / backward.norm()
        right = torch.linalg.cross(up, backward)
        if float(right.norm()) < 1e-9 * max(float(up.norm()), 1e-12):
            # up lies along the view: any perpendicular serves
            axis = torch.eye(3, dtype=torch.float64)[int(backward.abs().argmin())]
            right = torch.linalg.cross(axis, backward)
        right = right / right.norm()
        rotation = torch.stack([right, torch.linalg.cross(backward, right), backward])
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = rotation
        matrix[:3, 3] = -rotation @ eye
        return cls(matrix, float(fov_y_degrees), int(width), int(height), float(near), float(far))

    @property
    def world_from_camera(self) -> Float[Tensor, "4 4"]:
        return torch.linalg.inv(self.camera_from_world)

    @property
    def eye_world(self) -> Float[Tensor, "3"]:
        return self.world_from_camera[:3, 3]

    @property
    def forward_world(self) -> Float[Tensor, "3"]:
        """Unit viewing direction (−z of camera space)."""
        forward = -self.camera_from_world[2, :3]
        return forward / forward.norm()

    @property
    def up_world(self) -> Float[Tensor, "3"]:
        up = self.camera_from_world[1, :3]
        return up / up.norm()

    @property
    def aspect(self) -> float:
        return self.width / self.height

    @property
    def tan_half_fov(self) -> tuple[float, float]:
        """Tangents of half the horizontal and half the vertical field of view."""
        tan_y = math.tan(math.radians(self.fov_y_degrees) / 2)
        return tan_y * self.aspect, tan_y

    @property
    def focal_pixels(self) -> float:
        return self.height / 2 / self.tan_half_fov[1]

    @property
    def clip_from_camera(self) -> Float[Tensor, "4 4"]:
        """OpenGL's projection: x, y, z in [-w, w] inside, w = depth."""
        tan_x, tan_y = self.tan_half_fov
        n, f = self.near, self.far
        projection = torch.zeros(4, 4, dtype=torch.float64)
        projection[0, 0] = 1 / tan_x
        projection[1, 1] = 1 / tan_y
        projection[2, 2] = -(f + n) / (f - n)
        projection[2, 3] = -2 * f * n / (f - n)
        projection[3, 2] = -1
        return projection

    @property
    def clip_from_world(self) -> Float[Tensor, "4 4"]:
        return self.clip_from_camera @ self.camera_from_world

    def with_planes(self, near: float, far: float) -> Camera:
        return dataclasses.replace(self, near=float(near), far=float(far))

    def with_size(self, width: int, height: int) -> Camera:
        return dataclasses.replace(self, width=int(width), height=int(height))

    def to_camera_space(self, points_world: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Points in camera space, in the points' own dtype and device."""
        matrix = self.camera_from_world.to(points_world)
        return points_world @ matrix[:3, :3].T + matrix[:3, 3]

    def depth_of(self, points_world: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
        """Camera depth (−z) of world points."""
        matrix = self.camera_from_world.to(points_world)
        return -(points_world @ matrix[2, :3] + matrix[2, 3])

    def frustum_corners_world(self, near: float | None = None, far: float | None = None) -> Float[Tensor, "8 3"]:
        """The eight corners: near then far plane, each (left, bottom) (right, bottom) (right, top) (left, top)."""
        tan_x, tan_y = self.tan_half_fov
        signs = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
        rows = []
        for depth in (self.near if near is None else near, self.far if far is None else far):
            xy = signs * torch.tensor([tan_x, tan_y], dtype=torch.float64) * depth
            rows.append(torch.cat([xy, torch.full((4, 1), -float(depth), dtype=torch.float64)], dim=1))
        points = torch.cat(rows)
        matrix = self.world_from_camera
        return points @ matrix[:3, :3].T + matrix[:3, 3]
