"""FieldView: which field is shown at corners, on the slice and on voxels, with which range; and what is drawn of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from sparseflex.mesh import Mesh
from sparseflex.signed_distance import signed_distance_and_gradient
from sparseflex.voxels import SparseVoxels
from workbench import quantities, theme
from workbench.colour_maps import Scale
from workbench.quantities import DEFORM, SDF, SDF_ERROR, Quantity
from workbench.slices import AXES, Plane, Slice, cut
from workbench.worker import WorkFailed, same_token

if TYPE_CHECKING:
    from workbench.snapshot import MeshArrays, Snapshot
    from workbench.view_state import ViewState

PLANES = ("x", "y", "z", "view")
MAGNITUDE_MAPS = ("viridis", "cividis")
MAX_VECTORS = 4000
_WORK = "target_sdf"


@dataclasses.dataclass(frozen=True, eq=False)
class Vectors:
    """Arrows of δ: from `starts` (n, 3) along `ways` (n, 3), both in world space; n_all: how many there would be."""

    starts: Float[np.ndarray, "n 3"]
    ways: Float[np.ndarray, "n 3"]
    n_all: int


@dataclasses.dataclass
class FieldView:
    """Choices: at_corners and at_voxels name quantities, parts how their columns are taken; world_units instead of
    voxel widths; magnitudes is the map of what isn't signed; voxels_coloured: active voxels by at_voxels.
    The plane: axis (of PLANES), offset from the origin in world units, held (a view plane no longer follows the view);
    cut: the scene is cut off on the viewer's side of it, or the other one where flipped; contour: zero contour drawn.
    vector_scale: arrows are so many times as long as δ; vectors_in_slice: only those near the plane.

    Derived by update: corner, voxel (what is shown, None where nothing is), slice, plane, contour_segments, vectors;
    note says why something asked for isn't shown.
    """

    KEPT: ClassVar[tuple[str, ...]] = ("at_corners", "at_voxels", "world_units", "magnitudes", "voxels_coloured",
                                       "axis", "contour", "vector_scale", "vectors_in_slice", "flipped")

    at_corners: str = SDF
    at_voxels: str = ""
    parts: dict[str, str] = dataclasses.field(default_factory=dict)
    world_units: bool = False
    magnitudes: str = "viridis"
    voxels_coloured: bool = False
    axis: str = "z"
    offset: float = 0.0
    held: bool = False
    cut: bool = False
    flipped: bool = False
    contour: bool = True
    vector_scale: float = 2.0
    vectors_in_slice: bool = True
    locked: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    corner: Quantity | None = None
    voxel: Quantity | None = None
    slice: Slice | None = None
    plane: Plane = Plane((0.0, 0.0, 1.0), 0.0)
    contour_segments: Float[np.ndarray, "S 2 3"] | None = None
    vectors: Vectors | None = None
    note: str = ""
    _known: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    def take_choices(self, other: FieldView, shown: tuple[Quantity | None, ...]) -> None:
        """Another view's choices; what that one shows has its ranges here too, so that colours mean the same."""
        for name in (*self.KEPT, "parts", "offset", "held", "cut"):
            setattr(self, name, getattr(other, name))
        ranges = {each.key: other.scale_of(each) for each in shown if each is not None}
        self.locked = {**other.locked, **{key: (scale.low, scale.high) for key, scale in ranges.items()}}
        if "view normal" in other._known:
            self._known["view normal"] = other._known["view normal"]

    # Choices against what the run has

    def corner_name(self, snapshot: Snapshot) -> str:
        """What is shown at corners: the choice, or the first there is; "" where the run has nothing at corners."""
        return _chosen(self.at_corners, quantities.corner_names(snapshot.field_kinds, self.at_corners))

    def voxel_name(self, snapshot: Snapshot) -> str:
        return _chosen(self.at_voxels, quantities.voxel_names(snapshot.field_kinds, self.at_voxels))

    def wants_voxel(self, view: ViewState) -> bool:
        return self.voxels_coloured and view.layers["active"] or view.mesh_colour == "field" and view.layers["mesh"]

    def wants_corner(self, view: ViewState) -> bool:
        return view.layers["sdf"] or view.layers["slice"]

    def scene_fields(self, view: ViewState, snapshot: Snapshot) -> set[str]:
        """The run's fields that must come for what is to be shown."""
        names = set()
        if self.wants_corner(view):
            names |= quantities.needed_fields(self.corner_name(snapshot))
            names |= {SDF} if view.layers["slice"] and self.contour else set()
        if self.wants_voxel(view):
            names |= quantities.needed_fields(self.voxel_name(snapshot))
        return names | ({DEFORM} if view.layers["vectors"] else set())

    # What is drawn

    def update(self, view: ViewState, snapshot: Snapshot) -> None:
        """Brings everything derived up to date; what didn't change stays the same object."""
        voxels = snapshot.fields.get("voxels")
        self.note = ""
        self.plane = self._plane(view)
        self.corner = self.voxel = self.slice = self.contour_segments = self.vectors = None
        if voxels is None:
            return
        if self.wants_corner(view):
            self.corner = self._quantity("corner", self.corner_name(snapshot), view, snapshot, voxels)
        if self.wants_voxel(view):
            self.voxel = self._quantity("voxel", self.voxel_name(snapshot), view, snapshot, voxels)
        if view.layers["slice"]:
            self.slice = self._once("slice", (voxels, self.plane.normal, self.plane.offset),
                                    lambda: cut(voxels, self.plane))
            self._update_contour(snapshot, voxels)
        if view.layers["vectors"]:
            self._update_vectors(view, snapshot, voxels)

    def scale_of(self, shown: Quantity) -> Scale:
        """Range and map that a quantity is drawn with."""
        low, high = self.locked.get(shown.key, shown.automatic)
        magnitudes = self.magnitudes if self.magnitudes in MAGNITUDE_MAPS else MAGNITUDE_MAPS[0]
        return Scale(low, high, "diverging" if shown.signed else magnitudes)

    def lock(self, shown: Quantity, limits: tuple[float, float] | None) -> None:
        """Keeps a range whatever the values become, or lets it follow them again; not taken unless low < high.

        A signed quantity's range is about zero: of two ends that aren't, the one that was changed decides.
        """
        if limits is None:
            self.locked.pop(shown.key, None)
            return
        before = self.locked.get(shown.key, shown.automatic)
        low, high = limits
        if shown.signed:
            size = abs(low) if low != before[0] else abs(high)
            low, high = -size, size
        if -math.inf < low < high < math.inf:
            self.locked[shown.key] = (low, high)

    def hold_plane(self, normal: tuple[float, float, float], offset: float) -> None:
        """Puts the plane where normal · x = offset, whatever the view; normal: unit length."""
        self.axis, self.held, self.offset = "view", True, offset
        self._known["view normal"] = normal

    def step_plane(self, view: ViewState, steps: int) -> None:
        """Moves the plane by so many voxel widths, within the box."""
        resolution = 64 if view.split.voxels is None else view.split.voxels.resolution
        reach = self.plane.reach
        self.offset = min(max(self.plane.offset + steps / resolution, -reach), reach)

    def part_of(self, name: str, values: Any) -> str:
        parts = quantities.parts_of(name, values)
        return self.parts[name] if self.parts.get(name) in parts else parts[0]

    def colours(self, place: str) -> Float[np.ndarray, "n 3"] | None:
        """Colours of what is shown at "corner" or "voxel", one a row of the whole set; None where nothing is."""
        shown: Quantity | None = getattr(self, place)
        if shown is None:
            return None
        if shown.rgb is not None:
            return shown.rgb
        scale = self.scale_of(shown)
        plain = theme.faint() if shown.has_beside else None
        return self._once(f"{place} colours", (shown, plain, *scale.key), lambda: _coloured(shown, scale, plain))

    @property
    def concerned(self) -> tuple[Bool[np.ndarray, "N"], Bool[np.ndarray, "N"]] | tuple[None, None]:
        """By attention the voxels of the attended one's window, and those beyond, which would hide them; else None.
        The same arrays as long as they are equal, so that nothing is drawn anew but colours."""
        shown = self.voxel
        if shown is None or shown.name != quantities.ATTENTION or not shown.n_nan:
            return None, None

        def told() -> tuple[Bool[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
            beside, (_, before) = np.isnan(shown.values), self._known.get("concerned", (None, None))
            return before if before is not None and np.array_equal(before[1], beside) else (~beside, beside)

        return self._once("concerned", (shown,), told)

    def slice_colours(self) -> Float[np.ndarray, "H W 3"] | None:
        """The image of the slice; None where there is none."""
        if self.slice is None or self.corner is None:
            return None
        shown, found, scale = self.corner, self.slice, self.scale_of(self.corner)
        image = self._once("slice image", (found, shown), lambda: found.image(shown.values))
        return self._once("slice colours", (image, *scale.key), lambda: scale.colours(image))

    # How

    def _plane(self, view: ViewState) -> Plane:
        axis = self.axis if self.axis in PLANES else PLANES[2]
        if axis != "view":
            normal = AXES[axis]
        elif self.held and self._known.get("view normal"):
            normal = self._known["view normal"]
        else:
            normal = _facing(view)
            self._known["view normal"] = normal
        reach = Plane(normal, 0.0).reach
        return Plane(normal, min(max(self.offset, -reach), reach) if math.isfinite(self.offset) else 0.0)

    def _quantity(
        self, place: str, name: str, view: ViewState, snapshot: Snapshot, voxels: SparseVoxels
    ) -> Quantity | None:
        """A quantity of corners or voxels; None, and a note, where its field is missing or doesn't fit."""
        if not name:
            self.note = "This run has no field of corners." if place == "corner" else "This run has no field of voxels."
            return None
        at_corners = name == SDF_ERROR or snapshot.field_kinds.get(name) == "corner"
        found = self._error(view, snapshot, voxels) if name == SDF_ERROR else snapshot.fields.get(name)
        if found is None:
            self.note = self.note or "Not there yet: a stage of the run makes it."
            return None
        n_wanted = voxels.n_corners if at_corners else voxels.n_voxels
        if len(found) != n_wanted:
            self.note = f"{name} has {len(found):,} rows for {n_wanted:,} {'corners' if at_corners else 'voxels'}"
            return None
        part = self.part_of(name, found)

        def make() -> Quantity:
            values = quantities.one_column(name, found, part)
            if at_corners and place == "voxel":
                values = quantities.voxel_means(voxels, values)
            shown = quantities.quantity(name, part, values, voxels.resolution, self.world_units)
            return dataclasses.replace(shown, rgb=quantities.colours_of(name, found))

        return self._once(place, (found, part, voxels, self.world_units), make)

    def _error(self, view: ViewState, snapshot: Snapshot, voxels: SparseVoxels) -> Float[np.ndarray, "C"] | None:
        """SDF minus the target's, in voxel widths; the latter comes from the worker, once for a voxel set."""
        target, sdf, deform = (snapshot.fields.get(name) for name in ("target", SDF, DEFORM))
        if target is None or sdf is None or len(sdf) != voxels.n_corners:
            return None
        view.worker.ask(_WORK, (voxels, target), lambda: _target_sdf(voxels, target))
        known = view.worker.result(_WORK)
        if known is None or not same_token(known[0], (voxels, target)):
            self.note = "Measuring the distance to the target …"
            return None
        if isinstance(known[1], WorkFailed):
            self.note = known[1].message
            return None
        distance, gradient = known[1]

        def make() -> Float[np.ndarray, "C"]:
            expected = distance
            if deform is not None and deform.shape == gradient.shape:
                expected = distance + (0.5 * np.tanh(deform) * gradient).sum(axis=1)
            with np.errstate(invalid="ignore"):
                return (sdf * voxels.resolution - expected).astype(np.float32)

        return self._once("error", (sdf, deform, distance), make)

    def _update_contour(self, snapshot: Snapshot, voxels: SparseVoxels) -> None:
        sdf, found = snapshot.fields.get(SDF), self.slice
        if self.contour and sdf is not None and sdf.ndim == 1 and len(sdf) == voxels.n_corners:
            self.contour_segments = self._once("contour", (found, sdf), lambda: found.zero_contour(sdf))

    def _update_vectors(self, view: ViewState, snapshot: Snapshot, voxels: SparseVoxels) -> None:
        deform = snapshot.fields.get(DEFORM)
        if deform is None or deform.shape != (voxels.n_corners, 3):
            return
        plane = self.plane if self.vectors_in_slice and view.layers["slice"] else None
        token = (voxels, *((plane.normal, plane.offset) if plane else ()))
        rows, n_all = self._once("vector rows", token, lambda: _vector_rows(voxels, plane))
        self.vectors = self._once("vectors", (rows, deform, self.vector_scale),
                                  lambda: _vectors(voxels, deform, rows, n_all, self.vector_scale))

    def _once(self, name: str, token: tuple, make: Callable[[], Any]) -> Any:
        """make() where the token isn't the one of last time under this name."""
        known = self._known.get(name)
        if known is None or not same_token(known[0], token):
            known = (token, make())
            self._known[name] = known
        return known[1]


def _coloured(shown: Quantity, scale: Scale, plain: theme.Colour | None) -> Float[np.ndarray, "n 3"]:
    """Colours of a quantity's values; plain: of those that aren't concerned."""
    found = scale.colours(shown.values)
    if plain is not None:
        found[np.isnan(shown.values)] = plain
    return found


def _chosen(wanted: str, names: list[str]) -> str:
    return wanted if wanted in names else next(iter(names), "")


def _facing(view: ViewState) -> tuple[float, float, float]:
    """The direction from the object to the viewer, rounded so that a view at rest stays the same."""
    camera = view.view_camera
    towards = view.home_direction if camera is None else (-camera.forward_world).tolist()
    normal = np.round(np.asarray(towards) / np.linalg.norm(towards), 4)
    return tuple((normal / np.linalg.norm(normal)).tolist())


def _target_sdf(
    voxels: SparseVoxels, target: MeshArrays
) -> tuple[Float[np.ndarray, "C"], Float[np.ndarray, "C 3"]]:
    """Signed distance to the target at the corners, in voxel widths, and its gradient."""
    mesh = Mesh(torch.tensor(target.vertices), torch.tensor(target.faces).long())
    distance, gradient = signed_distance_and_gradient(mesh, voxels.corners_world)
    return (distance * voxels.resolution).numpy(), gradient.numpy()


def _vector_rows(voxels: SparseVoxels, plane: Plane | None) -> tuple[Int[np.ndarray, "n"], int]:
    """The corners with an arrow, those within half a voxel of a plane or all, and how many these are before thinning.

    At most MAX_VECTORS, scattered, and the same ones every time: those with the least hash.
    """
    rows = np.arange(voxels.n_corners)
    if plane is not None:
        height = np.full(voxels.n_corners, -(plane.offset + sum(plane.normal) / 2) * voxels.resolution, np.float32)
        for part, along in zip(plane.normal, voxels.corner_ijk.numpy().T, strict=True):
            if part:
                height += np.float32(part) * along.astype(np.float32)
        rows = (np.abs(height) <= 0.5).nonzero()[0]
    n_all = len(rows)
    if n_all > MAX_VECTORS:
        hashes = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
        rows = np.sort(rows[np.argpartition(hashes, MAX_VECTORS)[:MAX_VECTORS]])
    return rows, n_all


def _vectors(
    voxels: SparseVoxels, deform: Float[np.ndarray, "C 3"], rows: Int[np.ndarray, "n"], n_all: int, scale: float
) -> Vectors:
    """The arrows of these corners; none where δ isn't finite."""
    rows = rows[np.isfinite(deform[rows]).all(axis=1)]
    starts = voxels.corner_ijk.numpy()[rows].astype(np.float32) / voxels.resolution - 0.5
    return Vectors(starts, (scale * 0.5 * np.tanh(deform[rows]) / voxels.resolution).astype(np.float32), n_all)
