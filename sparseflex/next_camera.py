"""Next camera: which views would see most of the voxels that none has seen yet; inside, outside, or cut by near."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.extraction import extract_mesh
from sparseflex.frustum import active_voxels, add_halo
from sparseflex.mesh import Mesh
from sparseflex.placing import enclosed
from sparseflex.rasterize import ScreenMesh, rasterize
from sparseflex.representation import SparseFlex
from sparseflex.sampling import (
    DEFAULT_CLEARANCE,
    Extent,
    NoPlace,
    fibonacci_directions,
    fixed_views,
    interior_camera,
    interior_places,
)

if TYPE_CHECKING:
    from sparseflex.voxels import SparseVoxels

Sort = Literal["inside", "outside", "cut"]
SORTS: tuple[Sort, ...] = ("inside", "outside", "cut")
"""inside: the eye is within the target's box, in a room or close to what is unseen, clear of all walls; outside: around
the object; cut: around it too, with a near plane that takes away what is in front of the unseen."""

INSIDE_FOV_Y_DEGREES = 100.0
"""Wider than the interior cameras that a fit draws: one camera is to see most of a room."""

_AROUND_FOV_DEGREES = 91.0  # of the six images around an eye: neighbours overlap a little
_AROUND_PIXELS, _VIEW_PIXELS = 48, 96
_N_EYES, _N_OUTSIDE, _N_CLOSE, _N_CUT = 20, 24, 12, 12
_CLOSE_VOXELS = (4.0, 10.0)
_CUT_SHARES = (0.2, 0.5, 0.8)
_N_DIRECTIONS = 64
_N_BACK, _BACK_STEPS = 6, 12
_PROJECTED_FACES = 60_000_000
"""Faces that may be projected in all, images times faces: of large meshes fewer views are tried."""

_MANY_VOXELS = 300_000
_IMAGES = 300
"""How many images all candidates take, about."""


@dataclasses.dataclass(frozen=True, eq=False)
class Suggestion:
    """A camera that may be added as it is, and which of the unseen voxels it would see: rows (k,) of the set."""

    camera: Camera
    sort: Sort
    rows: Int[Tensor, "k"]

    @property
    def n_gained(self) -> int:
        return len(self.rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Suggestions:
    """found: the best camera of each sort that sees anything unseen, the best of all first. n_unseen: never seen voxels
    with a surface; n_bare: never seen ones without, that no camera can see. n_tried: cameras that were looked at."""

    found: tuple[Suggestion, ...]
    n_unseen: int
    n_bare: int
    n_tried: int


def seen_from(flex: SparseFlex, camera: Camera, halo: int = 0) -> Bool[Tensor, "N"]:
    """The voxels that a fit's iteration with this camera would see (see Coverage): of the section between its planes,
    extracted as for training."""
    active = add_halo(flex.voxels, active_voxels(flex.voxels, camera), halo)
    seen = torch.zeros_like(active)
    rows = active.nonzero().squeeze(1)
    if len(rows):
        scene = _Scene.of(flex, active)
        seen[rows[scene.seen(camera)]] = True
    return seen


def suggest_cameras(flex: SparseFlex, seen: Bool[Tensor, "N"], target: Mesh, *, width: int = 256, height: int = 256,
                    halo: int = 0, clearance: float = DEFAULT_CLEARANCE) -> Suggestions:
    """The cameras that would see most of the voxels that were never seen, one of each sort.

    flex: the fit's surface as it stands, what hides and is seen; seen: (N,) which voxels were seen before; target:
    what an eye must keep the clearance to, and planes enclose. width, height: of the images; halo: as the run has it.
    Candidates are tried with small images of the whole surface; of each sort the two best (of large sets the best) are
    then looked at as an iteration would (seen_from), and that is what is promised. Takes seconds.
    """
    with torch.no_grad():
        scene = _Scene.of(flex, torch.ones(flex.voxels.n_voxels, dtype=torch.bool, device=flex.voxels.device))
        unseen = scene.has_face & ~seen
        n_unseen, n_bare = int(unseen.sum()), int((~seen & ~scene.has_face).sum())
        if not n_unseen or not target.n_faces:
            return Suggestions((), n_unseen, n_bare, 0)
        search = _Search(scene, flex.voxels, unseen, target, clearance, width / height)
        found = []
        close, n_looked = search.close(), 2 if flex.voxels.n_voxels <= _MANY_VOXELS else 1
        for sort, candidates in (("inside", search.inside() + close["inside"]),
                                 ("outside", search.outside() + close["outside"]), ("cut", search.cut())):
            best = sorted((tried for tried in candidates if tried[0]), key=lambda tried: -tried[0])[:n_looked]
            looked = [Suggestion(camera.with_size(width, height), sort, rows)
                      for _, camera in best
                      if len(rows := (seen_from(flex, camera.with_size(width, height), halo) & unseen).nonzero()[:, 0])]
            found += sorted(looked, key=lambda each: -each.n_gained)[:1]
        found.sort(key=lambda each: -each.n_gained)
        return Suggestions(tuple(found), n_unseen, n_bare, search.n_tried)


@dataclasses.dataclass(frozen=True, eq=False)
class _Scene:
    """A surface of N voxels as it is rendered, and the two voxels that each of its faces joins."""

    mesh: Mesh
    joined: Int[Tensor, "F 2"]
    has_face: Bool[Tensor, "N"]

    @classmethod
    def of(cls, flex: SparseFlex, active: Bool[Tensor, "N"]) -> _Scene:
        mesh = extract_mesh(flex, active, training=True)
        finite = torch.isfinite(mesh.vertices).all(dim=1)
        faces = mesh.faces[finite[mesh.faces].all(dim=1)]
        joined = mesh.dual_voxel[faces[:, :2]]
        n_voxels = int(active.sum())
        has_face = torch.zeros(n_voxels, dtype=torch.bool, device=active.device)
        has_face[joined.view(-1)] = True
        return cls(Mesh(mesh.vertices.detach(), faces), joined, has_face)

    def seen(self, camera: Camera, in_front: bool = False) -> Int[Tensor, "k"]:
        """The rows of the voxels that a camera sees, or sees the front of."""
        ids = rasterize(ScreenMesh.project(self.mesh.vertices, self.mesh.faces, camera))
        faces = torch.unique(ids[ids >= 0])
        if in_front:
            a, b, c = self.mesh.vertices[self.mesh.faces[faces]].unbind(1)
            faces = faces[(torch.linalg.cross(b - a, c - a) * (camera.eye_world.to(a) - a)).sum(1) > 0]
        seen = torch.zeros_like(self.has_face)
        seen[self.joined[faces].view(-1)] = True
        return seen.nonzero().squeeze(1)


class _Search:
    """Candidates with how many unseen voxels each sees the front of in a small image: within matter all is behind."""

    def __init__(self, scene: _Scene, voxels: SparseVoxels, unseen: Bool[Tensor, "N"], target: Mesh, clearance: float,
                 aspect: float) -> None:
        self.scene, self.target, self.clearance, self.n_tried = scene, target, clearance, 0
        self.unseen, self.resolution = unseen, voxels.resolution
        self._centres = voxels.centers.to(torch.float64)
        self._size = (max(round(_VIEW_PIXELS * aspect), 8), _VIEW_PIXELS)
        self._share = min(_PROJECTED_FACES / max(scene.mesh.n_faces, 1) / _IMAGES, 1.0)

    def _few(self, n: int) -> int:
        return max(round(n * self._share), 2)

    def _tried(self, camera: Camera) -> tuple[int, Camera]:
        self.n_tried += 1
        return int(self.unseen[self.scene.seen(camera, in_front=True)].sum()), camera

    # Inside

    def inside(self) -> list[tuple[int, Camera]]:
        """From places in rooms, each looking where it sees most of what is unseen around it; the best of them from as
        far back as their rooms allow, too."""
        try:
            places = interior_places(self.target, self.clearance)
        except NoPlace:
            return []
        eyes = places.positions[_spread(places.positions, self._few(_N_EYES))]
        found = [best for eye in eyes if (best := self._best_way(eye)) is not None]
        found.sort(key=lambda tried: -tried[0])
        return found + [self._tried(camera) for _, known in found[:_N_BACK] for camera in self._back(known)]

    def _back(self, camera: Camera) -> Iterable[Camera]:
        """The camera moved backwards as far as the clearance allows: from a wall one sees more of a room."""
        from sparseflex.metrics import point_to_triangle_distance

        eye, ahead = camera.eye_world, camera.forward_world
        for _ in range(_BACK_STEPS):  # the free ball around a place may be crossed without a look
            free = float(point_to_triangle_distance(eye[None], self.target)[0]) - 1.01 * self.clearance
            if free <= 0:
                break
            eye = eye - free * ahead
        yield from self._inside(eye, ahead)

    def _best_way(self, eye: Float[Tensor, "3"]) -> tuple[int, Camera] | None:
        """The camera at eye that sees most: its direction follows from six images around it."""
        self.n_tried += 1
        found = [self.scene.seen(camera, in_front=True) for camera in _around(eye)]
        rows = torch.unique(torch.cat(found))
        rows = rows[self.unseen[rows]]
        if not len(rows):
            return None
        ways = self._centres[rows].cpu() - eye
        tan_y = math.tan(math.radians(INSIDE_FOV_Y_DEGREES) / 2)
        tan_x = tan_y * self._size[0] / self._size[1]
        best, chosen = -1, None
        for direction in fibonacci_directions(_N_DIRECTIONS):
            rotation = Camera.look_at(eye, eye + direction).camera_from_world[:3, :3]
            x, y, z = (ways @ rotation.T).unbind(1)
            n = int(((z < 0) & (x.abs() <= -tan_x * z) & (y.abs() <= -tan_y * z)).sum())
            if n > best:
                best, chosen = n, direction
        return next(((best, camera) for camera in self._inside(eye, chosen)), None)

    def _inside(self, eye: Float[Tensor, "3"], ahead: Float[Tensor, "3"]) -> Iterable[Camera]:
        """The camera, unless its eye is too near to a wall."""
        try:
            yield interior_camera(self.target, eye, eye + ahead, clearance=self.clearance, width=self._size[0],
                                  height=self._size[1], fov_y_degrees=INSIDE_FOV_Y_DEGREES)
        except ValueError:
            return

    # Outside

    def outside(self) -> list[tuple[int, Camera]]:
        """Around the object, all of it in view."""
        return [self._tried(camera) for camera in self._orbit(self._few(_N_OUTSIDE))]

    def _orbit(self, n: int) -> list[Camera]:
        return fixed_views(n, self.target, width=self._size[0], height=self._size[1])

    def close(self) -> dict[Sort, list[tuple[int, Camera]]]:
        """Close to some unseen voxels, in front of their surface: inside where the eye is in the target's box."""
        found: dict[Sort, list[tuple[int, Camera]]] = {"inside": [], "outside": []}
        extent = Extent.of(self.target.vertices)
        for camera in self._close():
            within = bool(((camera.eye_world > extent.low) & (camera.eye_world < extent.high)).all())
            found["inside" if within else "outside"].append(self._tried(camera))
        return found

    def _close(self) -> Iterable[Camera]:
        rows = self.unseen.nonzero().squeeze(1)
        rows = rows[_spread(self._centres[rows].cpu(), self._few(_N_CLOSE)).to(rows.device)]
        corners = self.scene.mesh.vertices[self.scene.mesh.faces].to(torch.float64)
        normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        for row in rows.tolist():
            of_voxel = (self.scene.joined == row).any(dim=1)
            normal = normals[of_voxel].sum(dim=0).cpu()
            if not float(normal.norm()) > 0:
                continue
            centre, normal = self._centres[row].cpu(), normal / normal.norm()
            for distance in _CLOSE_VOXELS:
                away = max(distance / self.resolution, 1.5 * self.clearance)
                yield from self._clear(centre + away * normal, centre)

    def _clear(self, eye: Float[Tensor, "3"], looked_at: Float[Tensor, "3"]) -> Iterable[Camera]:
        """The camera, unless its eye is in a wall or too near to one."""
        camera = Camera.look_at(eye, looked_at, fov_y_degrees=80.0, width=self._size[0], height=self._size[1])
        try:
            yield enclosed(camera, self.target, self.clearance)
        except ValueError:
            return

    # Cut

    def cut(self) -> list[tuple[int, Camera]]:
        """Around the object, the near plane where a part of the unseen voxels lies in front of it."""
        found, centres = [], self._centres[self.unseen]
        for camera in self._orbit(self._few(_N_CUT)):
            depths = camera.depth_of(centres)
            for share in _CUT_SHARES:
                near = float(depths.quantile(share)) if len(depths) < 1 << 20 else float(depths.median())
                if 0 < near < camera.far:
                    found.append(self._tried(camera.with_planes(near, camera.far)))
        return found


def _around(eye: Float[Tensor, "3"]) -> list[Camera]:
    """Six cameras at an eye that together see all around it."""
    axes = torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    return [Camera.look_at(eye, eye + axis, fov_y_degrees=_AROUND_FOV_DEGREES, width=_AROUND_PIXELS,
                           height=_AROUND_PIXELS, near=1e-3) for axis in axes]


def _spread(points: Float[Tensor, "P 3"], n: int) -> Int[Tensor, "k"]:
    """n rows of points far from each other, at most all of them: each is the farthest from those before it."""
    chosen = [0]
    distance = (points - points[0]).norm(dim=1)
    while len(chosen) < min(n, len(points)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).norm(dim=1))
    return torch.tensor(chosen)
