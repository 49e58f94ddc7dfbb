"""Next camera: which views would see most of the voxels that none has seen yet; inside, outside, or cut by near."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.frustum import active_voxels, add_halo
from sparseflex.mesh import Mesh
from sparseflex.placing import enclosed
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
from sparseflex.seen_surface import CoarseSurface, SeenSurface
from sparseflex.triangle_distance import TriangleTree

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
_LOOKED_VOXELS, _MOST_LOOKED = 250_000, 4
"""A look as an iteration's takes time by the voxels: of each sort so many of them are looked through, once at least."""

_CLOSE_SECOND = 0.8
"""Others than the best are looked at where they may be the best, by this share of what the best is thought to see."""

Progress = Callable[[int, int], None]
"""Is told how many views have been looked at, and how many it will be at most, 0 while that isn't known; what it raises
ends the search."""


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
        seen[rows[SeenSurface.of(flex, active).seen(camera)]] = True
    return seen


def suggest_cameras(flex: SparseFlex, seen: Bool[Tensor, "N"], target: Mesh, *, width: int = 256, height: int = 256,
                    halo: int = 0, clearance: float = DEFAULT_CLEARANCE,
                    progress: Progress | None = None) -> Suggestions:
    """The cameras that would see most of the voxels that were never seen, one of each sort.

    flex: the fit's surface as it stands, what hides and is seen; seen: (N,) which voxels were seen before; target:
    what an eye must keep the clearance to, and planes enclose. width, height: of the images; halo: as the run has it.
    Candidates are tried with small images of a coarse copy of the surface (CoarseSurface), whatever its size; of each
    sort the best, and of smaller sets those close to it, are then looked at as an iteration would (seen_from), and that
    is what is promised.
    """
    with torch.no_grad():
        surface = SeenSurface.of(flex, torch.ones(flex.voxels.n_voxels, dtype=torch.bool, device=flex.voxels.device))
        if progress is not None:
            progress(0, 0)
        unseen = surface.has_face & ~seen
        n_unseen, n_bare = int(unseen.sum()), int((~seen & ~surface.has_face).sum())
        if not n_unseen or not target.n_faces:
            return Suggestions((), n_unseen, n_bare, 0)
        coarse = CoarseSurface.of(surface, unseen, flex.voxels.resolution)
        del surface  # takes memory, and isn't looked at again
        n_looked = min(max(_LOOKED_VOXELS // flex.voxels.n_voxels, 1), _MOST_LOOKED)
        if progress is not None:
            progress(0, 0)
        search = _Search(coarse, flex.voxels.resolution, target, clearance, (width, height), n_looked, progress)
        found = []
        for sort, candidates in search.candidates().items():
            best, looked = sorted((tried for tried in candidates if tried[0] > 0), key=lambda tried: -tried[0]), []
            for gain, camera in best[:search.n_looked]:
                search.step()
                if gain < _CLOSE_SECOND * best[0][0]:
                    continue
                camera = camera.with_size(width, height)
                rows = (seen_from(flex, camera, halo) & unseen).nonzero()[:, 0]
                looked += [Suggestion(camera, sort, rows)] if len(rows) else []
            found += sorted(looked, key=lambda each: -each.n_gained)[:1]
        found.sort(key=lambda each: -each.n_gained)
        return Suggestions(tuple(found), n_unseen, n_bare, search.n_tried)


class _Search:
    """Candidates with about how many unseen voxels each sees the front of, by small images of a coarse surface."""

    def __init__(self, coarse: CoarseSurface, resolution: int, target: Mesh, clearance: float, size: tuple[int, int],
                 n_looked: int, progress: Progress | None) -> None:
        self.coarse, self.resolution, self.target, self.clearance = coarse, resolution, target, clearance
        self.n_looked, self._progress = n_looked, progress
        self.n_tried, self._n_done, self._n_views = 0, 0, 0
        self._tree = TriangleTree(target)
        self._places = coarse.mesh.vertices.cpu()
        self._size = (max(round(_VIEW_PIXELS * size[0] / size[1]), 8), _VIEW_PIXELS)
        self._height = size[1]
        self._directions = fibonacci_directions(_N_DIRECTIONS)
        origin = torch.zeros(3, dtype=torch.float64)
        self._rotations = torch.stack([Camera.look_at(origin, way).camera_from_world[:3, :3]
                                       for way in self._directions])

    def step(self) -> None:
        """Another view is about to be looked at."""
        if self._progress is not None:
            self._progress(min(self._n_done, self._n_views), self._n_views)
        self._n_done += 1

    def candidates(self) -> dict[Sort, list[tuple[float, Camera]]]:
        eyes, close, orbit = self._eyes(), self._close_places(), self._orbit(_N_CUT)
        self._n_views = (len(eyes) + min(len(eyes), _N_BACK) + _N_OUTSIDE + len(close)
                         + len(orbit) * len(_CUT_SHARES) + len(SORTS) * self.n_looked)
        near = self._close(close)
        return {"inside": self._inside(eyes) + near["inside"],
                "outside": [self._tried(camera) for camera in self._orbit(_N_OUTSIDE)] + near["outside"],
                "cut": self._cut(orbit)}

    def _tried(self, camera: Camera, backs: bool = False) -> tuple[float, Camera]:
        self.step()
        self.n_tried += 1
        sharp = camera.focal_pixels * self._height / camera.height
        return float(self.coarse.gains(camera, sharp, backs).sum()), camera

    # Inside

    def _eyes(self) -> list[Float[Tensor, "3"]]:
        """Places in rooms."""
        try:
            places = interior_places(self.target, self.clearance, self._tree)
        except NoPlace:
            return []
        return list(places.positions[_spread(places.positions, _N_EYES)])

    def _inside(self, eyes: list[Float[Tensor, "3"]]) -> list[tuple[float, Camera]]:
        """From each eye where it sees most of what is unseen around it; the best of them from as far back as their
        rooms allow, too."""
        found = [best for eye in eyes if (best := self._best_way(eye)) is not None]
        found.sort(key=lambda tried: -tried[0])
        return found + [self._tried(camera) for _, known in found[:_N_BACK] for camera in self._back(known)]

    def _back(self, camera: Camera) -> Iterable[Camera]:
        """The camera moved backwards as far as the clearance allows: from a wall one sees more of a room."""
        eye, ahead = camera.eye_world, camera.forward_world
        for _ in range(_BACK_STEPS):  # the free ball around a place may be crossed without a look
            free = float(self._tree.distance(eye[None])[0]) - 1.01 * self.clearance
            if free <= 0:
                break
            eye = eye - free * ahead
        yield from self._from_within(eye, ahead)

    def _best_way(self, eye: Float[Tensor, "3"]) -> tuple[float, Camera] | None:
        """The camera at eye that sees most: its direction follows from six images around it."""
        self.step()
        self.n_tried += 1
        tan_y = math.tan(math.radians(INSIDE_FOV_Y_DEGREES) / 2)
        gains = torch.stack([self.coarse.gains(camera, self._height / 2 / tan_y) for camera in _around(eye)])
        gains = gains.amax(dim=0).cpu()
        rows = (gains > 0).nonzero().squeeze(1)
        if not len(rows):
            return None
        tan_x = tan_y * self._size[0] / self._size[1]
        x, y, z = (self._rotations @ (self._places[rows] - eye).T).unbind(1)
        within = (z < 0) & (x.abs() <= -tan_x * z) & (y.abs() <= -tan_y * z)
        found = (within * gains[rows]).sum(dim=1)
        best = int(found.argmax())
        return next(((float(found[best]), camera) for camera in self._from_within(eye, self._directions[best])), None)

    def _from_within(self, eye: Float[Tensor, "3"], ahead: Float[Tensor, "3"]) -> Iterable[Camera]:
        """The camera, unless its eye is too near to a wall."""
        try:
            yield interior_camera(self.target, eye, eye + ahead, clearance=self.clearance, width=self._size[0],
                                  height=self._size[1], fov_y_degrees=INSIDE_FOV_Y_DEGREES, tree=self._tree)
        except ValueError:
            return

    # Outside

    def _orbit(self, n: int) -> list[Camera]:
        """Around the object, all of it in view."""
        return fixed_views(n, self.target, width=self._size[0], height=self._size[1])

    def _close_places(self) -> list[tuple[Tensor, Tensor]]:
        """Eyes close to some unseen voxels, in front of their surface, each with what it looks at."""
        normals = self.coarse.vertex_normals.cpu()
        lengths = normals.norm(dim=1)
        rows = ((self.coarse.wanted > 0).cpu() & (lengths > 0)).nonzero().squeeze(1)
        if not len(rows):
            return []
        rows = rows[_spread(self._places[rows], _N_CLOSE)]
        away = [max(distance / self.resolution, 1.5 * self.clearance) for distance in _CLOSE_VOXELS]
        return [(place + distance * normal, place)
                for place, normal in zip(self._places[rows], normals[rows] / lengths[rows, None], strict=True)
                for distance in away]

    def _close(self, places: list[tuple[Tensor, Tensor]]) -> dict[Sort, list[tuple[float, Camera]]]:
        """What cameras there see: inside where the eye is in the target's box."""
        found: dict[Sort, list[tuple[float, Camera]]] = {"inside": [], "outside": []}
        extent = Extent.of(self.target.vertices)
        for eye, looked_at in places:
            camera = Camera.look_at(eye, looked_at, fov_y_degrees=80.0, width=self._size[0], height=self._size[1])
            try:
                camera = enclosed(camera, self.target, self.clearance, self._tree)
            except ValueError:  # in a wall, or too near to one
                self.step()
                continue
            within = bool(((camera.eye_world > extent.low) & (camera.eye_world < extent.high)).all())
            found["inside" if within else "outside"].append(self._tried(camera))
        return found

    # Cut

    def _cut(self, orbit: list[Camera]) -> list[tuple[float, Camera]]:
        """Around the object, the near plane where a part of the unseen voxels lies in front of it."""
        rows = (self.coarse.wanted > 0).cpu().nonzero().squeeze(1)
        weights, found = self.coarse.wanted.cpu()[rows].to(torch.float64), []
        for camera in orbit:
            depths, order = camera.depth_of(self._places[rows]).sort()
            before = weights[order].cumsum(0)
            wanted = before[-1] * torch.tensor(_CUT_SHARES, dtype=torch.float64)
            for near in depths[torch.searchsorted(before, wanted)].tolist():
                if 0 < near < camera.far:
                    found.append(self._tried(camera.with_planes(near, camera.far), backs=True))
                else:
                    self.step()
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
