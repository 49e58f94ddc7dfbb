"""MapView: which maps are looked at (the run's, or rendered for another camera), and the pixel that is probed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from sparseflex.camera import Camera
from sparseflex.frustum import active_voxels
from sparseflex.training.run import RunCamera
from sparseflex.voxels import SparseVoxels
from workbench.frustum_view import FOLLOW_SHARE, FOLLOW_VOXELS, VIEW_KIND
from workbench.map_colours import (
    MapRange,
    angle_degrees,
    colour_difference,
    colour_map,
    hit_of,
    mark_rim,
    n_bad,
    range_of,
)
from workbench.section_work import Section, looked_at, mesh_of, render
from workbench.worker import WorkFailed, same_token

if TYPE_CHECKING:
    from workbench.snapshot import MeshArrays, Snapshot
    from workbench.view_state import ViewState

PANEL = "Maps"
MAPS = ("depth", "normal", "mask")
ORIGINS = ("rendered", "target", "difference")
TRIANGLE_FIELD = "rendered_triangle"
Pixel = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class MapSet:
    """Maps of one camera: rendered and target by their names in MAPS, all of one size (H, W), row 0 at the top.

    triangle: the face seen by each pixel, -1 where none is, None where it isn't known. camera: of the maps' size, with
    the planes that they were rendered with, None where it isn't known. looked: the camera before it was made smaller.
    """

    rendered: Mapping[str, np.ndarray]
    target: Mapping[str, np.ndarray]
    triangle: Int[np.ndarray, "H W"] | None
    camera: Camera | None
    looked: Camera | None
    label: str
    iteration: int
    range: MapRange

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in MAPS if name in self.rendered)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return next(iter(self.rendered.values())).shape[:2] if self.rendered else (0, 0)

    @functools.cached_property
    def n_bad(self) -> int:
        """Values that are NaN or infinite, a normal counted once."""
        return n_bad(*self.rendered.values(), *self.target.values())

    @functools.cached_property
    def n_in_one(self) -> int:
        """Pixels that the rendered or the target hits alone."""
        name = next((name for name in ("depth", "normal") if name in self.rendered), None)
        if name is None:
            return 0
        return int((hit_of(name, self.rendered[name]) != hit_of(name, self.target[name])).sum())

    def colours(self, origin: str, name: str, marked: Bool[np.ndarray, "H W"] | None, step: int = 1
                ) -> Float[np.ndarray, "h w 3"]:
        """One of the maps, or a difference, as it is shown, every step-th pixel of it; marked: rim pixels, or None."""
        rendered, target = self.rendered[name][::step, ::step], self.target[name][::step, ::step]
        if origin == "difference":
            colours = colour_difference(name, rendered, target, self.range)
        else:
            colours = colour_map(name, rendered if origin == "rendered" else target, self.range)
        return colours if marked is None or origin != "rendered" else mark_rim(colours, marked[::step, ::step])


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What a pixel holds. None where it isn't known, or where nothing is hit.

    depth, mask: rendered and target; depth_away: rendered minus target in the range's unit; normal: rendered and
    target, angle between them in degrees; triangle: face of the rendered mesh; world: the point seen, rendered if
    anything is; voxel: the cell it lies in, row: its place among the voxels, -1 where it isn't among them;
    state: "active", "halo" or "inactive".
    """

    pixel: Pixel
    depth: tuple[float | None, float | None]
    depth_away: float | None
    normal: tuple[Float[np.ndarray, "3"] | None, Float[np.ndarray, "3"] | None]
    angle: float | None
    mask: tuple[float | None, float | None]
    triangle: int | None
    world: Float[np.ndarray, "3"] | None
    voxel: tuple[int, int, int] | None
    row: int
    state: str


@dataclasses.dataclass
class MapView:
    """Choices: large (such as "difference depth", shown over the scene; "" for none) with zoom and centre.

    hover: the pixel under the mouse, hover_large in the large map; kept: the one that was clicked. probe_world: the
    kept pixel's point, to be marked in the scene. turn: which row of maps is next while the run plays.
    """

    KEPT: ClassVar[tuple[str, ...]] = ()

    hover: Pixel | None = None
    hover_large: Pixel | None = None
    kept: Pixel | None = None
    large: str = ""
    zoom: int = 1
    centre: tuple[float, float] = (0.5, 0.5)
    maps: MapSet | None = None
    failure: str = ""
    probe_world: Float[np.ndarray, "3"] | None = None
    turn: int = 0
    _made: tuple = ()
    _of_run: MapSet | None = None
    _asked_by_user: tuple = ()

    @property
    def probed(self) -> Pixel | None:
        """The pixel to read: the one under the mouse, else the one kept; always within the maps."""
        pixel = self.hover or self.kept
        height, width = self.maps.size if self.maps is not None else (0, 0)
        inside = pixel is not None and 0 <= pixel[0] < height and 0 <= pixel[1] < width
        return pixel if inside else None

    def release(self) -> bool:
        """Closes the large map, else frees the kept pixel; whether there was either."""
        if self.large:
            self.large, self.zoom = "", 1
            return True
        freed, self.kept, self.probe_world = self.kept is not None, None, None
        return freed

    def region(self) -> tuple[int, int, int, int]:
        """What of the maps the large view shows: top, left, height and width in pixels."""
        found = []
        for length, middle in zip(self.maps.size if self.maps else (1, 1), self.centre[::-1], strict=True):
            span = max(round(length / self.zoom), 1)
            found.append((min(max(round(middle * length - span / 2), 0), length - span), span))
        return found[0][0], found[1][0], found[0][1], found[1][1]

    def zoom_at(self, share: tuple[float, float], step: int) -> None:
        """Doubles (step 1) or halves (step -1) the zoom; the place under the mouse, as a share of what is shown in
        (x, y), stays where it is."""
        before, self.zoom = self.zoom, min(max(self.zoom * 2 if step > 0 else self.zoom // 2, 1), 32)
        place = [c + (s - 0.5) / before for c, s in zip(self.centre, share, strict=True)]
        reach = 0.5 / self.zoom
        self.centre = tuple(min(max(p - (s - 0.5) / self.zoom, reach), 1 - reach)
                            for p, s in zip(place, share, strict=True))

    # What is looked at

    def others(self, view: ViewState) -> bool:
        """Whether the camera looked at is another one than that of the run's own maps."""
        look = view.frustum.look
        return look is not None and not look.current

    def scene_fields(self, view: ViewState, snapshot: Snapshot) -> set[str]:
        """The meshes that maps of another camera are rendered from, asked for as rarely as the scene's."""
        follows = not snapshot.playing or snapshot.scalars.get("voxels", 0.0) <= FOLLOW_VOXELS
        if not (view.in_front(PANEL) and self.others(view) and follows):
            return set()
        return {_mesh_field(snapshot), "target"}

    def update(self, view: ViewState, snapshot: Snapshot) -> None:
        """Brings maps up to date with a snapshot that has the scene's fields; asks the worker for another camera's."""
        look = view.frustum.look
        if not view.in_front(PANEL) or not self.others(view) or look.crossed:
            return
        mesh, target = snapshot.fields.get(_mesh_field(snapshot)), snapshot.fields.get("target")
        if mesh is None or target is None:
            return
        choice = (look.camera,) if view.pinned is not None else (view.frustum.adapted,)
        share = FOLLOW_SHARE if snapshot.playing and same_token(choice, self._asked_by_user) else 1.0
        self._asked_by_user = choice
        known, camera, iteration, resolution = look.known, look.camera, snapshot.iteration, _resolution(snapshot)
        view.worker.ask("maps", (camera, mesh, target),
                        lambda: render_set(mesh, target, camera, label_of(known), iteration, resolution), share)

    def current(self, view: ViewState, snapshot: Snapshot) -> MapSet | None:
        """The maps to be shown now, None where there are none; of another camera, what the worker found last."""
        self.failure = ""
        if self.others(view) and view.frustum.look.crossed:
            self.maps, self.failure = None, "Near lies at or beyond far: nothing is rendered."
        elif self.others(view):
            found = view.worker.result("maps")
            value = None if found is None else found[1]
            self.failure = value.message if isinstance(value, WorkFailed) else ""
            self.maps = value if isinstance(value, MapSet) else None
        else:
            self.maps = self._run_maps(snapshot)
        return self.maps

    def _run_maps(self, snapshot: Snapshot) -> MapSet | None:
        token = tuple(snapshot.fields.get(f"{origin}_{name}") for origin in ORIGINS[:2] for name in MAPS)
        known = rendered_camera(snapshot)
        token = (*token, snapshot.fields.get(TRIANGLE_FIELD), known and known.camera, _resolution(snapshot))
        if not same_token(token, self._made):
            self._made, self._of_run = token, run_maps(snapshot, known)
        return self._of_run


def label_of(known: RunCamera) -> str:
    return "the view itself" if known.kind == VIEW_KIND else known.label


def _mesh_field(snapshot: Snapshot) -> str:
    return "surface" if "surface" in snapshot.field_kinds else "mesh"


def _resolution(snapshot: Snapshot) -> int:
    voxels = snapshot.fields.get("voxels")
    return 0 if voxels is None else voxels.resolution


def rendered_camera(snapshot: Snapshot) -> RunCamera | None:
    """The camera of the maps rendered last: that of the iteration under way, or of the one before if its stage
    "render" has yet to come."""
    cameras = [known for known in snapshot.cameras if known.iteration is None or known.iteration > 0]
    stages = snapshot.stages
    if snapshot.iteration_under_way and "render" in stages and (
            stages.index(snapshot.stage_next) <= stages.index("render")):
        cameras = [known for known in cameras if known.iteration is None or known.iteration <= snapshot.iteration]
    return cameras[0] if cameras else None


def run_maps(snapshot: Snapshot, known: RunCamera | None) -> MapSet | None:
    """The run's own maps: those that it has of both origins, in one size."""
    fields = snapshot.fields
    pairs = {name: (fields[f"rendered_{name}"], fields[f"target_{name}"]) for name in MAPS
             if f"rendered_{name}" in fields and f"target_{name}" in fields}
    size = next((pair[0].shape[:2] for pair in pairs.values()), None)
    pairs = {name: pair for name, pair in pairs.items() if all(_fits(name, values, size) for values in pair)}
    if not pairs or 0 in size:
        return None
    camera = None if known is None or (known.camera.height, known.camera.width) != size else known.camera
    triangle = fields.get(TRIANGLE_FIELD)
    triangle = triangle if triangle is not None and triangle.shape == size else None
    depths = pairs.get("depth", (np.zeros(size), np.zeros(size)))
    return MapSet({name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()},
                  triangle, camera, camera, "" if known is None else known.label, snapshot.iteration,
                  range_of(*depths, _resolution(snapshot)))


def _fits(name: str, values: np.ndarray, size: tuple[int, int]) -> bool:
    return values.shape == ((*size, 3) if name == "normal" else size)


def render_set(mesh: MeshArrays, target: MeshArrays, camera: Camera, label: str, iteration: int, resolution: int
               ) -> MapSet:
    """Maps of a surface and of the target under a camera, rendered here; for the worker."""
    small = looked_at(camera)
    rendered, wanted = render(mesh_of(mesh), small), render(mesh_of(target), small)
    pair = [{name: getattr(maps, name).numpy() for name in MAPS} for maps in (rendered, wanted)]
    shared = range_of(pair[0]["depth"], pair[1]["depth"], resolution)
    return MapSet(*pair, rendered.triangle_id.numpy(), small, camera, label, iteration, shared)


def read(maps: MapSet, pixel: Pixel, voxels: SparseVoxels | None, section: Section | None = None) -> Reading:
    """What a pixel of the maps holds, and what lies there; section: of the maps' camera, tells halo from inactive."""
    values = {name: [_at(name, origin[name], pixel) for origin in (maps.rendered, maps.target)] for name in maps.names}
    depth, mask = values.get("depth", (None, None)), values.get("mask", (None, None))
    normal = values.get("normal", (None, None))
    away = None if None in depth else (depth[0] - depth[1]) / maps.range.unit
    angle = None if any(n is None for n in normal) else float(angle_degrees(normal[0], normal[1]))
    triangle = None if maps.triangle is None or maps.triangle[pixel] < 0 else int(maps.triangle[pixel])
    seen = depth[0] if depth[0] is not None else depth[1]
    world = None if seen is None or maps.camera is None else point_at(maps.camera, pixel, seen)
    if world is not None and not np.isfinite(world).all():
        world = None
    voxel, row, state = voxel_at(maps, world, voxels, section)
    return Reading(pixel, tuple(depth), away, tuple(normal), angle, tuple(mask), triangle, world, voxel, row, state)


def _at(name: str, values: np.ndarray, pixel: Pixel) -> float | np.ndarray | None:
    value = values[pixel]
    if name == "mask":
        return float(value)
    if not bool(hit_of(name, values[pixel[0] : pixel[0] + 1, pixel[1] : pixel[1] + 1])[0, 0]):
        return None
    return value.astype(np.float64) if name == "normal" else float(value)


def point_at(camera: Camera, pixel: Pixel, depth: float) -> Float[np.ndarray, "3"]:
    """The world point at a depth behind a pixel's centre."""
    row, column = pixel
    focal = camera.focal_pixels
    seen = np.array([(column + 0.5 - camera.width / 2) / focal, (camera.height / 2 - row - 0.5) / focal, -1.0]) * depth
    matrix = camera.world_from_camera.numpy()
    return matrix[:3, :3] @ seen + matrix[:3, 3]


def voxel_at(
    maps: MapSet, world: Float[np.ndarray, "3"] | None, voxels: SparseVoxels | None, section: Section | None
) -> tuple[tuple[int, int, int] | None, int, str]:
    if world is None or voxels is None:
        return None, -1, ""
    cell = np.floor((world + 0.5) * voxels.resolution).astype(np.int64)
    ijk = tuple(int(part) for part in cell)
    row = int(voxels.find(torch.from_numpy(cell)[None])[0])
    if row < 0:
        return ijk, -1, ""
    one = SparseVoxels(torch.tensor([ijk], dtype=torch.int32), voxels.resolution)
    if bool(active_voxels(one, maps.looked)[0]):
        return ijk, row, "active"
    fits = section is not None and section.camera is maps.looked and len(section.in_section) == voxels.n_voxels
    return ijk, row, "halo" if fits and bool(section.in_section[row]) else "inactive"


def rim_of(maps: MapSet, view: ViewState) -> Bool[np.ndarray, "H W"] | None:
    """The rim pixels to be marked in the maps: those found for the same camera, where they are wanted."""
    found = view.frustum.rim_found(view) if view.frustum.rim and view.frustum.rim_marks else None
    differs = getattr(found, "differs", None)
    fits = differs is not None and maps.looked is not None and found.camera is maps.looked
    return differs if fits and differs.shape == maps.size else None
