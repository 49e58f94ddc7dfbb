"""Prepare: the panels of a recipe with their snapshots and views, ranges and frames settled among all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sparseflex.camera import Camera
from workbench import products, quantities, theme
from workbench.colour_maps import Scale
from workbench.figure import findings
from workbench.figure.recipe import CameraTable, Panel, Recipe
from workbench.figure.subject import earlier, gather
from workbench.figure.view import aim_frustum, keep_looks, view_of
from workbench.inputs import InputError
from workbench.layout import view_axes
from workbench.plate import framed
from workbench.point_view import LOOKS
from workbench.pruning_view import KINDS
from workbench.quantities import Quantity
from workbench.snapshot import Snapshot
from workbench.split import CATEGORIES
from workbench.view_state import LAYER_LABELS, LAYERS, ViewState

DEFAULT_DIRECTION = (0.75, 0.42, 1.0)
LABELS = dict(zip(LAYERS, LAYER_LABELS, strict=True))
_ORTHOGRAPHIC_DISTANCE = 4.0


@dataclasses.dataclass(frozen=True)
class Bar:
    """A colour bar: what it measures, its colours, and whether values lie beyond its ends."""

    label: str
    scale: Scale
    below: bool = False
    above: bool = False


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of a legend; colour: None where it goes on with the line before."""

    label: str
    colour: theme.Colour | None


@dataclasses.dataclass(frozen=True, eq=False)
class Pose:
    """Where a picture is seen from; height_world: what the view's height spans at the centre's depth."""

    eye: Float[np.ndarray, "3"]
    centre: Float[np.ndarray, "3"]
    up: Float[np.ndarray, "3"]
    fov_y_degrees: float
    height_world: float
    orthographic: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Ready:
    """A panel that can be drawn."""

    panel: Panel
    snapshot: Snapshot
    view: ViewState

    @property
    def bars(self) -> tuple[Bar, ...]:
        if not self.panel.colouring.bar:
            return ()
        found = [_bar(self.view, quantity) for quantity in shown_quantities(self.view) if quantity.rgb is None]
        losses = self.view.cameras.loss_scale(self.snapshot) if self.view.layers["cameras"] else None
        if losses is not None:
            found.append(Bar("loss of a camera's view", losses))
        return tuple(dict.fromkeys(found))

    @property
    def legend(self) -> tuple[Entry, ...]:
        """Voxels by kind, with their numbers; and what isn't a number."""
        view, found = self.view, []
        if self.panel.legend:
            for name in CATEGORIES if view.shows_layers_of_voxels else ():
                count = view.split.counts[name]
                coloured = name == "active" and view.field.voxels_coloured
                if view.layers[name] and count and not coloured:
                    label = LABELS[name].lower() if view.split.camera is not None else "voxels"
                    found.append(Entry(f"{label} {count:,}", view.shades.colour(name)))
            for name in KINDS:
                voxels = view.pruning.voxels(self.snapshot, name) if view.layers[name] else None
                if voxels is not None and voxels.n_voxels:
                    found.append(Entry(f"{LABELS[name].lower()} {voxels.n_voxels:,}", view.shades.colour(name)))
            causes = view.points.counts(self.snapshot) if view.points.shown is not None else {}
            found += [Entry(f"{LOOKS[code].label} {number:,}", LOOKS[code].colour or view.shades.colour("points"))
                      for code, number in causes.items() if number and code in LOOKS]
            found += [Entry(*entry) for entry in findings.legend(view)]
        bad = sum(quantity.n_bad for quantity in shown_quantities(view))
        return tuple(found + ([Entry(f"not a number {bad:,}", theme.NOT_A_NUMBER)] if bad else []))

    @property
    def notes(self) -> tuple[str, ...]:
        """Why something that the panel asks for is not in the picture."""
        return tuple(note for note in (self.view.field.note, self.view.surfaces.note, *findings.notes(self.view))
                     if note)


def shown_quantities(view: ViewState) -> list[Quantity]:
    """The quantities that give something in the scene its colours."""
    field, layers = view.field, view.layers
    found = [field.corner if layers["sdf"] or layers["slice"] else None,
             field.voxel if field.voxels_coloured and view.shows_layers_of_voxels
             or view.mesh_colour == "field" and layers["mesh"] else None,
             view.surfaces.distance if view.mesh_colour == "distance" and layers["mesh"] else None,
             findings.quantity(view)]
    return [quantity for quantity in found if quantity is not None]


def _bar(view: ViewState, quantity: Quantity) -> Bar:
    scale = view.field.scale_of(quantity)
    low, high = quantity.extremes
    unit = f" ({quantity.unit})" if quantity.unit else ""
    return Bar(quantity.label + unit, scale, low < scale.low, high > scale.high)


def prepare(recipe: Recipe, folder: Path) -> list[Ready]:
    """The panels with what they show; folder: what their sources are relative to. Raises InputError."""
    views = [view_of(panel) for panel in recipe.panels]
    snapshots, before = _snapshots(recipe, folder, views)
    ready = [Ready(*parts) for parts in zip(recipe.panels, snapshots, views, strict=True)]
    for number, one in enumerate(ready):
        if one.panel.plot is None:
            if one.panel.what_if is not None:
                keep_looks(one.view, one.panel.what_if, one.snapshot, f"panel {number + 1}")
            aim_frustum(one.view, one.panel.frustum, one.snapshot)
            one.view.field.update(one.view, one.snapshot)
            one.view.surfaces.update(one.view, one.snapshot)
            one.view.points.update(one.view, one.snapshot)
            findings.find(one.view, one.snapshot, one.panel, before.get(number), f"panel {number + 1}")
    _settle_ranges(ready, recipe.page.shared_ranges)
    return ready


def _snapshots(
    recipe: Recipe, folder: Path, views: Sequence[ViewState]
) -> tuple[list[Snapshot], dict[int, Snapshot]]:
    """What each panel shows; and, by panel, what it is to be compared with."""
    panels = list(recipe.panels)
    compared = [number for number, panel in enumerate(panels) if panel.changes is not None and panel.plot is None]
    sources = [panel.source for panel in panels]
    for number in compared:
        sources.append(earlier(panels[number], folder, f"panel {number + 1}"))
    numbers = [*range(len(panels)), *compared]

    def names_for(place: int, snapshot: Snapshot) -> frozenset[str]:
        number = numbers[place]
        panel, where = panels[number], f"panel {number + 1}"
        if panel.plot is not None:
            return frozenset()
        _check_stage(panel, snapshot, where)
        shown = products.seen(snapshot, panel.stage)
        if place >= len(panels):
            return products.run_names(shown, findings.fields_of_state(shown))
        _check_names(panel, shown, where)
        findings.check(panel, shown, where)
        return products.run_names(shown, views[number].scene_fields(shown) | findings.fields(panel))

    found = [products.seen(snapshot, panels[number].stage)
             for snapshot, number in zip(gather(sources, folder, names_for), numbers, strict=True)]
    return found[: len(panels)], dict(zip(compared, found[len(panels) :], strict=True))


def _check_stage(panel: Panel, snapshot: Snapshot, where: str) -> None:
    known = products.stages_of(snapshot.field_kinds)
    if panel.stage and panel.stage not in (*known, *([products.BEGINNING] if known else [])):
        raise InputError(f"{where}: stage must be one of {', '.join(known) or 'none'}, got {panel.stage!r}")


def _check_names(panel: Panel, snapshot: Snapshot, where: str) -> None:
    known = {"corners": quantities.corner_names(snapshot.field_kinds),
             "voxels": quantities.voxel_names(snapshot.field_kinds)}
    for key, names in known.items():
        wanted = getattr(panel.colouring, key)
        if wanted and wanted not in names:
            raise InputError(f"{where}: colouring.{key} must be one of {', '.join(names) or 'none'}, got {wanted!r}")


def _settle_ranges(ready: list[Ready], shared: bool) -> None:
    """The recipe's own ranges; of the others, where they are shared, one that holds those of all panels."""
    spans: dict[str, tuple[float, float]] = {}
    for one in ready:
        for quantity in shown_quantities(one.view):
            low, high = spans.get(quantity.key, (math.inf, -math.inf))
            own_low, own_high = quantity.automatic
            spans[quantity.key] = (min(low, own_low), max(high, own_high))
    for one in ready:
        for quantity in shown_quantities(one.view):
            own = one.panel.ranges.get(quantity.name)
            if own is not None or shared:
                one.view.field.locked[quantity.key] = own or spans[quantity.key]
        one.view.surfaces.update(one.view, one.snapshot)


# Where it is seen from


def poses(ready: list[Ready], aspect: float, shared: bool) -> list[Pose | None]:
    """The pose of each panel, None of plots; where shared, panels whose cameras say the same frame the same points."""
    groups: dict[CameraTable, list[int]] = {}
    for number, one in enumerate(ready):
        if one.panel.plot is None:
            groups.setdefault(one.panel.camera, []).append(number)
    found: list[Pose | None] = [None] * len(ready)
    for camera, numbers in groups.items():
        if not camera.framed:
            for number in numbers:
                found[number] = _given(camera)
            continue
        points = [points_of(ready[number]) for number in numbers]
        for index, number in enumerate(numbers):
            found[number] = pose_of(camera, np.concatenate(points) if shared else points[index], aspect)
    return found


def _given(camera: CameraTable) -> Pose:
    eye, centre = np.array(camera.eye), np.array(camera.target)
    backward = (eye - centre) / np.linalg.norm(eye - centre)
    up = np.array(camera.up)
    if np.linalg.norm(np.cross(up, backward)) < 1e-9 * np.linalg.norm(up):
        up = view_axes(backward)[1]
    return _pose(camera, eye, centre, up)


def pose_of(camera: CameraTable, points: Float[np.ndarray, "P 3"], aspect: float) -> Pose:
    """The pose in which a camera that frames what it sees just holds these points."""
    direction = np.array(camera.direction or DEFAULT_DIRECTION)
    direction /= np.linalg.norm(direction)
    up = view_axes(direction)[1]
    if camera.orthographic_height:
        axes = np.stack([*view_axes(direction), direction])
        local = points @ axes.T
        centre = (local.min(0) + local.max(0)) / 2 @ axes
        return _pose(camera, centre + _ORTHOGRAPHIC_DISTANCE * direction, centre, up)
    eye, centre = framed(points, direction, aspect, camera.fill, camera.fov_y_degrees)
    return _pose(camera, eye, centre, up)


def _pose(
    camera: CameraTable, eye: Float[np.ndarray, "3"], centre: Float[np.ndarray, "3"], up: Float[np.ndarray, "3"]
) -> Pose:
    span = 2 * math.tan(math.radians(camera.fov_y_degrees) / 2) * float(np.linalg.norm(eye - centre))
    height = camera.orthographic_height or span
    return Pose(eye, centre, up, camera.fov_y_degrees, height, camera.orthographic_height > 0)


def points_of(ready: Ready) -> Float[np.ndarray, "P 3"]:
    """Points that the picture must hold: of all that the panel shows; the unit box where it shows nothing."""
    view, snapshot, found = ready.view, ready.snapshot, []
    voxels = view.split.voxels
    shown = [name for name in CATEGORIES if view.layers[name] and view.shows_layers_of_voxels]
    if voxels is not None and (shown or any(view.layers[name] for name in ("sdf", "slice", "vectors"))):
        rows = np.ones(voxels.n_voxels, bool)
        if shown:
            rows = np.any([view.split.rows(name) for name in shown], axis=0)
        found.append(voxels.centers.numpy()[rows])
    if view.layers["mesh"] and view.surfaces.mesh is not None:
        found.append(view.surfaces.mesh.vertices)
    if view.layers["target"] and "target" in snapshot.fields:
        found.append(snapshot.fields["target"].vertices)
    for name in KINDS:
        pruned = view.pruning.voxels(snapshot, name) if view.layers[name] else None
        if pruned is not None:
            found.append(pruned.centers.numpy())
    if view.points.shown is not None:
        found.append(view.points.shown.places)
    found += findings.points(view)
    if view.field.cut:
        plane = view.field.plane
        found = [part[part @ np.array(plane.normal) <= plane.offset] for part in found]
    if ready.panel.camera.frame == "all":
        looks = view.what_ifs
        drawn = [view.split.camera] if looks.in_scene is None else [looks.a.camera, looks.b.camera]
        found += [_frustum_points(camera) for camera in drawn if view.layers["frustum"] and camera is not None]
        if view.layers["cameras"]:
            found += [known.camera.eye_world.numpy()[None] for known in snapshot.cameras]
    points = np.concatenate([part.astype(np.float64).reshape(-1, 3) for part in found]) if found else np.zeros((0, 3))
    points = points[np.isfinite(points).all(axis=1)]
    box = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    return points if len(points) else box


def _frustum_points(camera: Camera) -> Float[np.ndarray, "8 3"]:
    from workbench.scene_parts.frusta import drawn_planes

    near, far = drawn_planes(camera)[:2]
    return camera.frustum_corners_world(max(near - 0.3, 0.1 * near), far).numpy()
