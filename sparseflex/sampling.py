"""Cameras to train and evaluate with: orbit, zoomed and interior views, cut by planes as the schedule says."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.triangle_distance import TriangleTree

if TYPE_CHECKING:
    from sparseflex.training.config import FitConfig

Kind = Literal["orbit", "zoom", "interior", "fixed"]
Cut = Literal["none", "near", "window"]

FOV_Y_DEGREES = 40.0
INTERIOR_FOV_Y_DEGREES = 80.0
DEFAULT_CLEARANCE = 0.03
"""Least distance of an interior camera to the surface, in world units (the object is 1 long)."""

_CANDIDATES = 2048
_SURFACE_SAMPLES = 200_000
# an interior camera belongs where surface lies in most directions: at least this share of them
ENCLOSED = 0.75
_NEAREST_EYE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class SampledCamera:
    """A camera, how it was placed, and what its planes cut: nothing, the near side, or all but a depth window."""

    camera: Camera
    kind: Kind
    cut: Cut


@dataclasses.dataclass(frozen=True, eq=False)
class Extent:
    """Where an object lies: bounding box corners, their centre and the radius of the sphere around that centre."""

    low: Float[Tensor, "3"]
    high: Float[Tensor, "3"]
    centre: Float[Tensor, "3"]
    radius: float

    @classmethod
    def of(cls, vertices: Float[Tensor, "V 3"]) -> Extent:
        """float64 on the CPU; ValueError without vertices or with ones that are not finite."""
        points = vertices.detach().to("cpu", torch.float64)
        if points.shape[0] == 0 or not bool(torch.isfinite(points).all()):
            raise ValueError(f"target must have finite vertices, got {points.shape[0]}")
        low, high = points.amin(dim=0), points.amax(dim=0)
        centre = (low + high) / 2
        return cls(low, high, centre, max(float((points - centre).norm(dim=1).amax()), 1e-6))


def orbit_distance(radius: float, fov_y_degrees: float = FOV_Y_DEGREES) -> float:
    """The distance at which a sphere of this radius just fills the image's height (or width, if square)."""
    return radius / math.sin(math.radians(fov_y_degrees) / 2)


def orbit_camera(
    azimuth_degrees: float,
    elevation_degrees: float,
    distance: float,
    *,
    centre: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
    radius: float = math.sqrt(3) / 2,
    fov_y_degrees: float = FOV_Y_DEGREES,
    width: int = 256,
    height: int = 256,
) -> Camera:
    """A camera that circles centre and looks at it. Azimuth 0 looks along −z, 90 from +x; elevation 90 from above.

    Its planes enclose the sphere of this radius around centre. Raises ValueError for a distance that isn't positive.
    """
    if not distance > 0:
        raise ValueError(f"distance must be above 0, got {distance}")
    azimuth, elevation = math.radians(azimuth_degrees), math.radians(elevation_degrees)
    direction = torch.tensor(
        [math.sin(azimuth) * math.cos(elevation), math.sin(elevation), math.cos(azimuth) * math.cos(elevation)],
        dtype=torch.float64,
    )
    middle = torch.as_tensor(centre, dtype=torch.float64)
    near = max(distance - radius, _NEAREST_EYE)
    return Camera.look_at(
        middle + distance * direction, middle, fov_y_degrees=fov_y_degrees, width=width, height=height,
        near=near, far=max(distance + radius, 1.1 * near),
    )  # fmt: skip


def zoom_camera(camera: Camera, point: Sequence[float] | Tensor, factor: float) -> Camera:
    """The camera turned to a point, its image enlarged by factor (the field of view narrows, the eye stays)."""
    if not factor > 0:
        raise ValueError(f"factor must be above 0, got {factor}")
    fov = 2 * math.degrees(math.atan(camera.tan_half_fov[1] / factor))
    return Camera.look_at(
        camera.eye_world, point, camera.up_world, fov_y_degrees=fov, width=camera.width, height=camera.height,
        near=camera.near, far=camera.far,
    )  # fmt: skip


def require_clearance(eye: Sequence[float] | Tensor, target: Mesh, clearance: float,
                      tree: TriangleTree | None = None) -> float:
    """The distance of an eye to the surface; ValueError where that is less than the clearance: in a wall, say.

    tree: the target's, for who asks often: making one takes much longer than an answer.
    """
    position = torch.as_tensor(eye, dtype=torch.float64)
    distance = float((tree or TriangleTree(target)).distance(position[None])[0])
    if not distance >= clearance:
        place = ", ".join(f"{round(value, 6) + 0.0:g}" for value in position.tolist())
        raise ValueError(
            f"an interior camera must keep a clearance of {clearance:g} to the surface, got {distance:.3g} at ({place})"
        )
    return distance


def check_fixed(cameras: Sequence[Camera], target: Mesh, clearance: float = DEFAULT_CLEARANCE) -> None:
    """Raises ValueError for the first camera, counted from 1, whose eye is in the target's box and in or at a wall."""
    extent = Extent.of(target.vertices)
    for number, camera in enumerate(cameras, start=1):
        eye = camera.eye_world
        if bool(((eye > extent.low) & (eye < extent.high)).all()):
            try:
                require_clearance(eye, target, clearance)
            except ValueError as error:
                raise ValueError(f"camera {number}: {error}") from None


def interior_camera(
    target: Mesh,
    eye: Sequence[float] | Tensor,
    look_at: Sequence[float] | Tensor,
    *,
    clearance: float = DEFAULT_CLEARANCE,
    fov_y_degrees: float = INTERIOR_FOV_Y_DEGREES,
    width: int = 256,
    height: int = 256,
    tree: TriangleTree | None = None,
) -> Camera:
    """A camera inside a shape, its near plane in front of all that it sees. tree: as for require_clearance.

    Raises ValueError where the surface is nearer to eye than clearance: in a wall, or touching one.
    """
    distance = require_clearance(eye, target, clearance, tree)
    camera = Camera.look_at(eye, look_at, fov_y_degrees=fov_y_degrees, width=width, height=height)
    return camera.with_planes(*_interior_planes(camera, Extent.of(target.vertices), distance))


def _interior_planes(camera: Camera, extent: Extent, distance: float) -> tuple[float, float]:
    """The surface is at least distance away, so along the image's corners its depth is at least near; far encloses."""
    near = max(0.9 * distance / math.hypot(1.0, *camera.tan_half_fov), _NEAREST_EYE / 10)
    reach = float((camera.eye_world - extent.centre).norm()) + extent.radius
    return near, max(1.05 * reach, 2 * near)


def fibonacci_directions(n: int) -> Float[Tensor, "n 3"]:
    """n unit directions spread evenly over the sphere (Fibonacci lattice), float64."""
    index = torch.arange(n, dtype=torch.float64) + 0.5
    y = 1 - 2 * index / max(n, 1)
    angle = math.pi * (3 - math.sqrt(5)) * index
    ring = (1 - y * y).sqrt()
    return torch.stack([ring * angle.sin(), y, ring * angle.cos()], dim=1)


def fixed_views(
    n: int,
    target: Mesh | None = None,
    *,
    fov_y_degrees: float = FOV_Y_DEGREES,
    width: int = 256,
    height: int = 256,
) -> list[Camera]:
    """n cameras evenly around the target (the whole unit box without one) that see all of it: to evaluate with.

    They depend on n and the target's extent alone; a random schedule meets none of them.
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    corner = torch.full((1, 3), 0.5, dtype=torch.float64)
    extent = Extent.of(target.vertices if target is not None else torch.cat([corner, -corner]))
    narrow = fov_y_degrees if width >= height else math.degrees(
        2 * math.atan(math.tan(math.radians(fov_y_degrees) / 2) * width / height))
    distance = 1.05 * orbit_distance(extent.radius, narrow)
    near = max(distance - 1.05 * extent.radius, _NEAREST_EYE)
    return [
        Camera.look_at(
            extent.centre + distance * direction, extent.centre, fov_y_degrees=fov_y_degrees, width=width,
            height=height, near=near, far=distance + 1.05 * extent.radius,
        )
        for direction in fibonacci_directions(n)
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class InteriorPlaces:
    """Eyes that keep their distance to the surface: position (P, 3) and distance (P,), float64 on the CPU.

    Any point nearer to a position than distance − clearance keeps the clearance too.
    """

    positions: Float[Tensor, "P 3"]
    distances: Float[Tensor, "P"]
    clearance: float


class NoPlace(ValueError):
    """No point of the target's box keeps the clearance to its surface."""


def interior_places(target: Mesh, clearance: float = DEFAULT_CLEARANCE,
                    tree: TriangleTree | None = None) -> InteriorPlaces:
    """Places for interior cameras in the target's bounding box.

    Of points spread evenly in the box, those remain that keep the clearance to the surface (exact point-to-triangle
    distance), and of them those that have surface in at least three quarters of all directions: inside rooms, between
    shells, inside bodies. Where none is so enclosed (a cloth), the most enclosed tenth serves. Solid matter isn't told
    from hollow: a mesh says where its surface is, not what it is made of, and what the camera sees from within a
    closed body is the surface from behind. tree: as for require_clearance. Raises NoPlace where no point keeps the
    clearance.
    """
    if not clearance > 0:
        raise ValueError(f"clearance must be above 0, got {clearance}")
    extent = Extent.of(target.vertices)
    spread = torch.quasirandom.SobolEngine(3).draw(_CANDIDATES, dtype=torch.float64)
    candidates = extent.low + spread * (extent.high - extent.low)
    distances = (tree or TriangleTree(target)).distance(candidates)
    clear = distances >= clearance
    if not bool(clear.any()):
        raise NoPlace(f"no interior camera fits: no point keeps a clearance of {clearance:g} to the surface")
    candidates, distances = candidates[clear], distances[clear]
    share = surrounded(candidates, target, extent)
    enclosed = share >= ENCLOSED
    if not bool(enclosed.any()):
        enclosed = share >= share.sort().values[-(share.shape[0] // 10 + 1)]
    return InteriorPlaces(candidates[enclosed], distances[enclosed], clearance)


def surrounded(points: Float[Tensor, "P 3"], target: Mesh, extent: Extent) -> Float[Tensor, "P"]:
    """Share of 48 directions in which surface lies: rays walk through cells of 1/32 of the longest side that hold
    some of many surface samples. Good to choose places by; the clearance rests on exact distances."""
    from sparseflex.metrics import sample_points

    side = 32
    cell = float((extent.high - extent.low).amax()) / side
    surface = sample_points(target, _SURFACE_SAMPLES, torch.Generator().manual_seed(0)).points.to("cpu", torch.float64)
    empty, full, outside = 0, 1, 2
    cells = torch.full((side + 4,) * 3, outside, dtype=torch.uint8)
    cells[1:-1, 1:-1, 1:-1] = empty
    origin = extent.low - 2 * cell  # an empty layer, and one where rays end: no step is long enough to jump it
    cells[((surface - origin) / cell).long().unbind(dim=1)] = full
    directions = fibonacci_directions(48).float()
    rays = ((points - origin) / cell).float()[:, None] + directions  # starts a cell away
    rays = rays.reshape(-1, 3).T.contiguous()
    steps = 0.8 * directions.T.repeat(1, points.shape[0])
    hit = torch.zeros(rays.shape[1], dtype=torch.bool)
    walking = torch.arange(rays.shape[1])
    while walking.shape[0]:
        x, y, z = rays.long()
        found = cells.view(-1)[(x * (side + 4) + y) * (side + 4) + z]
        hit[walking[found == full]] = True
        going = (found == empty).nonzero()[:, 0]
        walking, steps = walking[going], steps[:, going]
        rays = rays[:, going] + steps
    return hit.view(-1, directions.shape[0]).double().mean(dim=1)


class CameraSampler:
    """Draws the cameras of an iteration by the shares in a FitConfig; all randomness comes from the generator.

    Setting up with interior_share > 0 takes about a second (interior_places); drawing a camera under 2 ms.
    Where no point keeps the clearance (a flat sheet), `places` is None and zoom cameras take the interior ones' share.
    fixed: cameras of the user's own, drawn as they are by fixed_share; locked: where there are any, no others are
    drawn. Raises ValueError where the target has no vertices.
    """

    def __init__(
        self, target: Mesh, config: FitConfig, clearance: float = DEFAULT_CLEARANCE, fixed: Sequence[Camera] = ()
    ) -> None:
        from sparseflex.metrics import sample_points

        self.config, self.fixed, self.locked = config, tuple(fixed), False
        self.extent = Extent.of(target.vertices)
        self._vertices = target.vertices.detach().to("cpu", torch.float64)
        surface = sample_points(target, 4096, torch.Generator().manual_seed(1)).points
        self._looked_at = surface.to("cpu", torch.float64) if surface.shape[0] else self._vertices
        self.places = None
        if config.interior_share > 0:
            with contextlib.suppress(NoPlace):
                self.places = interior_places(target, clearance)

    def sample(self, generator: torch.Generator | None = None) -> list[SampledCamera]:
        """config.cameras cameras. Their planes:

        near    in cut_share of them the near plane is drawn uniformly through the object's depth range
        window  in window_share near and far are both drawn in it, at least a tenth of it apart; with
                visibility_ratio < 1 they enclose the object instead, for adapt_frustum to choose the window
        none    else: near and far enclose the whole object, as far as it lies in front of the eye

        Fixed cameras have planes of their own; whichever of these they come to is found out.
        """
        return [self._one(torch.rand(12, dtype=torch.float64, generator=generator)) for _ in range(self.config.cameras)]

    def _one(self, draws: Float[Tensor, "12"]) -> SampledCamera:
        config = self.config
        choice, cut_choice, first, second = draws[:4].tolist()
        drawn_share = config.orbit_share + config.zoom_share + config.interior_share
        choice *= drawn_share + (config.fixed_share if self.fixed else 0.0)
        if self.fixed and (self.locked or choice >= drawn_share):
            chosen = self.fixed[int(float(draws[4]) * len(self.fixed))]
            return SampledCamera(chosen, "fixed", self._cut_by(chosen))
        if self.places is not None and choice >= config.orbit_share + config.zoom_share:
            kind, camera = "interior", self._interior(self.places, draws[4:])
        elif choice < config.orbit_share:
            kind, camera = "orbit", self._orbit(draws[4:])
        else:
            kind, camera = "zoom", self._zoom(draws[4:])
        low, high = self._depth_range(camera, kind)
        room = max(0.02, 4.0 / config.resolution)  # planes that enclose the object leave it for the voxels around
        near, far = (low if kind == "interior" else max(low - room, low / 2)), high + room
        cut: Cut = "none"
        if cut_choice < config.cut_share:
            cut, near = "near", low + first * (high - low)
        elif cut_choice < config.cut_share + config.window_share:
            cut = "window"
            if config.visibility_ratio == 1:
                share = 0.1 + 0.9 * first
                near = low + second * (1 - share) * (high - low)
                far = near + share * (high - low)
        return SampledCamera(camera.with_planes(near, far), kind, cut)

    def _cut_by(self, camera: Camera) -> Cut:
        """What the planes of a camera of the user's own take from the surface in its view, by samples of that."""
        points = camera.to_camera_space(self._looked_at)
        tan_x, tan_y = camera.tan_half_fov
        depths = -points[:, 2]
        inside = (points[:, 0].abs() < tan_x * depths) & (points[:, 1].abs() < tan_y * depths)
        depths = depths[inside]
        if bool((depths > camera.far).any()):
            return "window"
        return "near" if bool((depths < camera.near).any()) else "none"

    def _depth_range(self, camera: Camera, kind: Kind) -> tuple[float, float]:
        """Depths between which the object lies in front of the eye; for an interior camera from its near plane on."""
        depths = camera.depth_of(self._vertices)
        low = camera.near if kind == "interior" else max(float(depths.amin()), _NEAREST_EYE)
        return low, max(float(depths.amax()), 1.1 * low)

    def _orbit(self, draws: Float[Tensor, "n"]) -> Camera:
        """Anywhere around the object, which about fills the image."""
        distance = orbit_distance(self.extent.radius) * (0.9 + 0.2 * float(draws[2]))
        size = self.config.image_size
        eye = self.extent.centre + distance * _direction(draws[:2])
        return Camera.look_at(eye, self.extent.centre, fov_y_degrees=FOV_Y_DEGREES, width=size, height=size)

    def _zoom(self, draws: Float[Tensor, "n"]) -> Camera:
        """An orbit camera turned to a random point of the surface, enlarged two to five times (evenly by its log)."""
        point = self._looked_at[int(float(draws[3]) * self._looked_at.shape[0])]
        return zoom_camera(self._orbit(draws[:3]), point, 2.0 * 2.5 ** float(draws[4]))

    def _interior(self, places: InteriorPlaces, draws: Float[Tensor, "n"]) -> Camera:
        """From a random place, moved at random as far as the clearance allows, in any direction."""
        row = int(float(draws[0]) * places.positions.shape[0])
        moved = (float(places.distances[row]) - places.clearance) * float(draws[1]) ** (1 / 3)
        eye = places.positions[row] + moved * _direction(draws[2:4])
        size = self.config.image_size
        ahead = eye + _direction(draws[4:6])
        camera = Camera.look_at(eye, ahead, fov_y_degrees=INTERIOR_FOV_Y_DEGREES, width=size, height=size)
        return camera.with_planes(*_interior_planes(camera, self.extent, float(places.distances[row]) - moved))


def _direction(draws: Float[Tensor, "2"]) -> Float[Tensor, "3"]:
    """A unit vector, uniform on the sphere for two uniform numbers in [0, 1)."""
    height, turn = 2 * float(draws[0]) - 1, 2 * math.pi * float(draws[1])
    ring = math.sqrt(max(1 - height * height, 0.0))
    return torch.tensor([ring * math.sin(turn), height, ring * math.cos(turn)], dtype=torch.float64)
