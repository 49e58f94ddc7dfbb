"""A panel of a recipe as the choices of a view, and the choices of a window's view as a panel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from sparseflex.camera import Camera
from sparseflex.training.run import RunCamera
from workbench import theme
from workbench.figure import findings
from workbench.figure.recipe import (
    CameraTable,
    Colouring,
    CutTable,
    FrustumTable,
    LayerTable,
    Panel,
    SourceTable,
    WhatIfTable,
)
from workbench.inputs import InputError
from workbench.layer_view import DEFAULT_SIZES
from workbench.point_view import LAYER as POINTS
from workbench.quantities import SDF
from workbench.snapshot import Snapshot
from workbench.split import CATEGORIES
from workbench.view_state import LAYERS, ViewState
from workbench.what_if_view import NAMES
from workbench.worker import Worker, WorkFailed, same_token

OWN_KIND = "figure"
"""The kind of a RunCamera that a recipe itself describes."""


class AtOnce(Worker):
    """A worker without a thread: whoever asks waits."""

    def ask(self, key: str, token: object, work: Callable[[], Any], share: float = 1.0) -> None:
        known = self._results.get(key)
        if known is not None and same_token(known[0], token):
            return
        try:
            self._results[key] = (token, work())
        except (ValueError, RuntimeError, MemoryError) as error:
            self._results[key] = (token, WorkFailed(f"{type(error).__name__}: {error}".replace("\n", " ")))
        self._n_finished += 1


def view_of(panel: Panel) -> ViewState:
    """The choices that show what a panel says, apart from where it is seen from and whose frustum it is."""
    view = ViewState(worker=AtOnce(), side_by_side=panel.side_by_side, section_only=panel.source.section_only)
    view.layers = {name: name in panel.layers for name in LAYERS}
    view.mesh_colour = panel.colouring.mesh
    view.pruning.chosen, view.pruning.level = panel.source.look or None, panel.source.level or None
    view.network.chosen = panel.stage
    for name, layer in panel.layers.items():
        if layer.colour:
            view.shades.colours[name] = layer.colour
        if layer.size:
            view.shades.sizes[name] = layer.size
    _set_field(view, panel)
    findings.choose(view, panel)
    return view


def _set_field(view: ViewState, panel: Panel) -> None:
    field, colouring, cut = view.field, panel.colouring, panel.cut
    field.at_corners, field.at_voxels = colouring.corners or SDF, colouring.voxels
    field.voxels_coloured = bool(colouring.voxels) and "active" in panel.layers
    field.parts = {name: colouring.part for name in (field.at_corners, field.at_voxels) if colouring.part}
    field.world_units, field.magnitudes, field.contour = colouring.world_units, colouring.magnitudes, colouring.contour
    field.vector_scale, field.vectors_in_slice = colouring.vector_scale, colouring.vectors_in_slice
    field.hold_plane(cut.unit_normal, cut.offset)
    field.cut = cut.open
    if cut.open and cut.cap and "slice" not in panel.layers:
        view.cap_colour = theme.rgb(cut.cap)


def aim_frustum(view: ViewState, table: FrustumTable, snapshot: Snapshot, where: str = "frustum") -> None:
    """Brings view.frustum and view.split up to date with a snapshot, for the camera that the table means."""
    known = None if table.off else _run_camera(table, snapshot, where)
    if known is None:
        view.pinned = None
        view.split.update(snapshot.fields.get("voxels"), None)
        return
    frustum = view.frustum
    frustum.adapted = table.visibility_ratio > 0
    if frustum.adapted:
        frustum.ratio, frustum.anchor, frustum.method, frustum.seed = table.visibility_ratio, table.anchor, "exact", 0
    view.pinned = known
    frustum.update(view, snapshot)


def keep_looks(view: ViewState, table: WhatIfTable, snapshot: Snapshot, where: str) -> None:
    """Keeps both frusta of a what-if as A and B; view.frustum is another's afterwards."""
    for name, look in zip(NAMES, (table.a, table.b), strict=True):
        which = f"{where}: what_if.{name.lower()}"
        if _run_camera(look, snapshot, which) is None:
            raise InputError(f"{which} needs an eye, as {snapshot.run_name} has no cameras at iteration "
                             f"{snapshot.iteration}")
        aim_frustum(view, look, snapshot, which)
        kept = view.frustum.look.kept(view.frustum.look.known.label)
        view.what_ifs.kept[name] = dataclasses.replace(kept, rings=table.halo)


def _run_camera(table: FrustumTable, snapshot: Snapshot, where: str) -> RunCamera | None:
    if table.eye:
        height = 25600  # so that the width can be any share of it
        found = RunCamera(Camera.look_at(table.eye, table.target, table.up, fov_y_degrees=table.fov_y_degrees,
                                         width=max(round(height * table.aspect), 1), height=height), OWN_KIND)
    elif table.camera < len(snapshot.cameras):
        found = snapshot.cameras[table.camera]
    elif table.camera == 0:
        return None  # a run that hasn't begun has no cameras yet
    else:
        raise InputError(f"{where}.camera must be below {len(snapshot.cameras)}, the number of cameras of "
                         f"{snapshot.run_name} at iteration {snapshot.iteration}, got {table.camera}")
    near, far = table.near or found.camera.near, table.far or found.camera.far
    if not near < far:
        raise InputError(f"{where}.near must be below far, got {near:g} and {far:g}")
    return dataclasses.replace(found, camera=found.camera.with_planes(near, far))


# What is on screen


def panel_of(view: ViewState, source: SourceTable, camera: CameraTable, stage: str = "") -> Panel:
    """The panel that shows what a window shows: its layers, colours, ranges, plane and frustum, what its tabs have
    found, seen by `camera`; of an inference, that stage."""
    away = {*CATEGORIES, "target"} if view.check.alone(view) else {POINTS} if view.points.shown is None else ()
    layers = {name: _layer(view, name) for name in LAYERS if view.layers[name] and name not in away}
    found = findings.tables_of(view)
    source = dataclasses.replace(source, section_only=view.section_only, look=view.pruning.chosen or 0,
                                 level=view.pruning.level or 0)
    return Panel(source=source, camera=camera, stage=stage, side_by_side=view.side_by_side, layers=layers,
                 cut=_cut(view), colouring=_colouring(view), frustum=_frustum(view), ranges=_ranges(view),
                 caption=findings.caption(view), legend=bool(found), **found)


def _layer(view: ViewState, name: str) -> LayerTable:
    shades = view.shades
    size = shades.size(name) if name in DEFAULT_SIZES and shades.size(name) != DEFAULT_SIZES[name] else 0.0
    try:
        return LayerTable(shades.colours.get(name, ""), size)
    except ValueError:  # a preferences file that was tampered with
        return LayerTable("", size)


def _cut(view: ViewState) -> CutTable:
    field, sign = view.field, -1.0 if view.field.flipped else 1.0
    normal = tuple(sign * part + 0.0 for part in field.plane.normal)
    return CutTable(normal, round(sign * field.plane.offset, 9) + 0.0, field.cut, "")


def _colouring(view: ViewState) -> Colouring:
    field = view.field
    corners = "" if field.corner is None or field.corner.name == SDF else field.corner.name
    shown = field.voxel or field.corner
    part = shown.part if shown is not None and (field.corner is None or field.voxel is None
                                                or field.corner.part == field.voxel.part) else ""
    return Colouring(
        mesh=view.mesh_colour, corners=corners, voxels="" if field.voxel is None else field.voxel.name, part=part,
        world_units=field.world_units, magnitudes=field.magnitudes if field.magnitudes == "cividis" else "viridis",
        vector_scale=field.vector_scale, vectors_in_slice=field.vectors_in_slice, contour=field.contour,
    )


def _ranges(view: ViewState) -> dict[str, tuple[float, float]]:
    """As they are drawn now, so that the figure's are the same."""
    field = view.field
    distance = view.surfaces.distance if view.mesh_colour == "distance" and view.layers["mesh"] else None
    shown = [quantity for quantity in (field.corner, field.voxel, distance, findings.quantity(view))
             if quantity is not None and quantity.rgb is None]
    scales = {quantity.name: field.scale_of(quantity) for quantity in shown}
    return {name: (scale.low, scale.high) for name, scale in scales.items()}


def _frustum(view: ViewState) -> FrustumTable:
    """The camera that splits the voxels, with its planes."""
    camera = view.split.camera
    return FrustumTable(off=True) if camera is None else findings.frustum_table(camera)
