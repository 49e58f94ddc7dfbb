"""ScreenMesh: a mesh in homogeneous pixel coordinates, what every rasteriser backend takes."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.camera import Camera


def pixel_from_world(camera: Camera) -> Float[Tensor, "3 4"]:
    """The float64 matrix that takes (x, y, z, 1) to (column · w, row · w, w), w being the camera depth.

    Column and row are in pixels, with pixel (i, j) centred at row i + ½, column j + ½ (camera.py).
    """
    focal = camera.focal_pixels
    pixel_from_camera = torch.tensor(
        [[focal, 0, -camera.width / 2], [0, -focal, -camera.height / 2], [0, 0, -1]], dtype=torch.float64
    )
    return pixel_from_camera @ camera.camera_from_world[:3]


@dataclasses.dataclass(frozen=True)
class ScreenMesh:
    """Triangles in homogeneous pixel coordinates, without autograd history.

    homogeneous: (3, V) float64 rows column · w, row · w, w. pixel_from_world: what made them. faces: (F, 3) int64.
    width, height in pixels; near, far camera depths. All else is derived once and shared by rasteriser and silhouette.
    """

    homogeneous: Float[Tensor, "3 V"]
    pixel_from_world: Float[Tensor, "3 4"]
    faces: Int[Tensor, "F 3"]
    width: int
    height: int
    near: float
    far: float

    @classmethod
    def project(cls, vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], camera: Camera) -> ScreenMesh:
        """Projects world-space vertices; the arithmetic is float64 whatever the vertices are."""
        matrix = pixel_from_world(camera).to(vertices.device)
        homogeneous = matrix[:, :3] @ vertices.detach().T.to(torch.float64) + matrix[:, 3:]
        return cls(homogeneous, matrix, faces, camera.width, camera.height, camera.near, camera.far)

    @property
    def n_faces(self) -> int:
        return self.faces.shape[0]

    def points(self, index: Int[Tensor, "*n"]) -> Float[Tensor, "3 *n"]:
        """Homogeneous pixel coordinates of some vertices."""
        return self.homogeneous.index_select(1, index.reshape(-1)).view(3, *index.shape)

    @property
    def depth(self) -> Float[Tensor, "V"]:
        return self.homogeneous[2]

    @cached_property
    def behind(self) -> Bool[Tensor, "V"]:
        """Vertices in front of the near plane, as the camera sees it; they have no pixel coordinates."""
        return ~(self.depth >= self.near)

    @cached_property
    def any_behind(self) -> bool:
        return bool(self.behind.any())

    @cached_property
    def any_beyond(self) -> bool:
        """Whether the far plane can cut anything."""
        return bool((self.depth > self.far).any())

    @cached_property
    def pixels(self) -> Float[Tensor, "2 V"]:
        """Column and row of each vertex in pixels; meaningless where `behind`."""
        depth = torch.where(self.behind, 1.0, self.depth) if self.any_behind else self.depth
        return self.homogeneous[:2] / depth

    @cached_property
    def corners(self) -> Int[Tensor, "3 F"]:
        """Vertex of each face's k-th corner, contiguous along the faces."""
        return self.faces.T.contiguous()

    @cached_property
    def corner_x(self) -> Float[Tensor, "3 F"]:
        return self.pixels[0].index_select(0, self.corners.reshape(-1)).view(3, -1)

    @cached_property
    def corner_y(self) -> Float[Tensor, "3 F"]:
        return self.pixels[1].index_select(0, self.corners.reshape(-1)).view(3, -1)

    @cached_property
    def n_corners_behind(self) -> Int[Tensor, "F"]:
        """How many of a face's corners the near plane cuts off; 0 to 3."""
        flags = self.behind.to(torch.int8)
        return flags.index_select(0, self.corners.reshape(-1)).view(3, -1).sum(0, dtype=torch.int8)

    @cached_property
    def straddling(self) -> Int[Tensor, "S"]:
        """Faces that the near plane cuts in two."""
        if not self.any_behind:
            return self.faces.new_empty(0)
        count = self.n_corners_behind
        return ((count > 0) & (count < 3)).nonzero()[:, 0]

    @cached_property
    def clockwise(self) -> Bool[Tensor, "F"]:
        """Faces whose corners run clockwise on the screen, so that the camera sees their back.

        With rows pointing down that is a positive determinant of (column, row). Where a face straddles the near
        plane it is the determinant of the homogeneous coordinates: the same for the part in front.
        """
        x, y = self.corner_x, self.corner_y
        positive = (x[1] - x[0]) * (y[2] - y[0]) > (x[2] - x[0]) * (y[1] - y[0])
        if self.straddling.numel():
            a, b, c = (self.homogeneous.index_select(1, row) for row in self.corners[:, self.straddling])
            positive[self.straddling] = (torch.linalg.cross(a, b, dim=0) * c).sum(0) > 0
        return positive
