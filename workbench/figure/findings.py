"""Findings: what a figure shows of Changes, Coverage, Surface and what-ifs, found and drawn by what the window does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float

from sparseflex.camera import Camera
from sparseflex.surface_check import SurfaceCheck
from sparseflex.training.coverage import SOURCES
from workbench import change_view, check_view, coverage_view, quantities, theme, what_if, what_if_view
from workbench.change_state import known_fields
from workbench.change_view import KEPT_STATE, state_of
from workbench.changes import PARTS, Changes
from workbench.coverage_view import NEVER, Summary
from workbench.figure.recipe import ChangesTable, CoverageTable, FrustumTable, Panel, SurfaceTable, WhatIfTable
from workbench.inputs import InputError
from workbench.quantities import Quantity
from workbench.section_work import PARAMETERS, Parameters
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState
from workbench.what_if import Difference

PANELS = {"changes": change_view.PANEL, "coverage": coverage_view.PANEL, "surface": check_view.PANEL}
"""The tab of each table of a recipe, apart from what-ifs, which are shown whatever the tab."""

HELD = (*PANELS.values(), "what-ifs")
"""What a recipe can hold of view.findings."""

Legend = Iterator[tuple[str, theme.Colour]]
Table = ChangesTable | CoverageTable | SurfaceTable | WhatIfTable


def choose(view: ViewState, panel: Panel) -> None:
    """The choices that show what a panel says; what a tab finds is shown while that is in front."""
    view.tabs |= {name: tab for name, tab in PANELS.items() if getattr(panel, name) is not None}
    if panel.changes is not None:
        own, table = view.changes, panel.changes
        own.threshold, own.layers = table.threshold, {name: name in table.show for name in change_view.LAYERS}
    if panel.coverage is not None:
        own, table = view.coverage, panel.coverage
        own.mode, own.quantity = "values" if table.values else "marked", table.values or coverage_view.SEEN
        own.mark, own.within = table.mark, table.within
    if panel.surface is not None:
        view.check.parts = {kind: kind in panel.surface.show for kind in check_view.KINDS}
    if panel.what_if is not None:
        own, table = view.what_ifs, panel.what_if
        own.shown, own.category, own.meshes_wanted = True, table.category, table.meshes
        own.parts = {part: part in table.show for part in what_if.PARTS}


# What a source must have


def fields(panel: Panel) -> set[str]:
    """What it takes beyond what the scene asks for."""
    return {"voxels", *PARAMETERS} if panel.what_if is not None and panel.what_if.meshes else set()


def fields_of_state(snapshot: Snapshot) -> frozenset[str]:
    """What the state to compare with is made of."""
    return frozenset({"voxels", *known_fields(snapshot.field_kinds)} & set(snapshot.field_kinds))


def check(panel: Panel, snapshot: Snapshot, where: str) -> None:
    """Raises InputError where its tables exclude each other, or the run has no fields, by their kinds, that they need.
    """
    beside = [name for name in ("changes", "coverage") if getattr(panel, name) is not None]
    if panel.what_if is not None and beside:
        raise InputError(f"{where}: what_if must not be given beside {' or '.join(beside)}, whose place it takes; "
                         f"{beside[0]} = false takes that away")
    needed = {}
    if panel.changes is not None:
        needed["changes"] = {"voxels": "voxels"}
    if panel.coverage is not None:
        needed["coverage"] = {"voxels": "voxels", **dict.fromkeys(_counters(panel.coverage), "voxel")}
    if panel.surface is not None:
        needed["surface"] = {"voxels": "voxels", check_view.SDF: "corner"}
    if panel.what_if is not None:
        kinds = {name: "corner" if name.startswith("corner") else "voxel" for name in PARAMETERS}
        needed["what_if"] = {"voxels": "voxels", **(kinds if panel.what_if.meshes else {})}
    for table, names in needed.items():
        lacking = [name for name, kind in names.items() if snapshot.field_kinds.get(name) != kind]
        if lacking:
            raise InputError(f"{where}: {table} needs the fields {', '.join(names)}, and {snapshot.run_name} has no "
                             f"{', '.join(lacking)}")


def _counters(table: CoverageTable) -> list[str]:
    """The fields that the numbers asked for come from."""
    more = [table.values, coverage_view.SEEN_BY if table.mark in SOURCES else "",
            coverage_view.LAST_SEEN if table.within else ""]
    return [coverage_view.SEEN, *(name for name in more if name and name != coverage_view.SEEN)]


# What is found


def find(view: ViewState, snapshot: Snapshot, panel: Panel, before: Snapshot | None, where: str) -> None:
    """Has all tables' findings found; view.split must be up to date. before: the snapshot to compare with.

    Raises InputError where the source turns out not to hold what they are found from."""
    if panel.changes is not None:
        _find_changes(view, snapshot, before, f"{where}: changes")
    if panel.coverage is not None:
        for name in _counters(panel.coverage):
            if snapshot.fields.get(name) is None:
                raise InputError(f"{where}: coverage needs {name}, and {snapshot.run_name} holds none of iteration "
                                 f"{snapshot.iteration}")
        view.coverage.update(view, snapshot)
        if view.coverage.in_scene(view) is None:
            why = view.coverage.failure or "its fields don't fit the voxels"
            raise InputError(f"{where}: coverage can't be counted: {why}")
    if panel.surface is not None:
        view.check.update(view, snapshot)
        if view.check.found is None:
            raise InputError(f"{where}: surface can't be checked at iteration {snapshot.iteration} of "
                             f"{snapshot.run_name}: {view.check.note or 'there are no voxels with an SDF'}")
        view.check.chosen = _framed(view, panel.surface, f"{where}: surface.frame")
    if panel.what_if is not None:
        view.what_ifs.update(view, snapshot.fields.get("voxels"), Parameters.of(snapshot), False)
        if view.what_ifs.difference is None:
            raise InputError(f"{where}: what_if needs voxels, and {snapshot.run_name} has none at iteration "
                             f"{snapshot.iteration}")


def _find_changes(view: ViewState, snapshot: Snapshot, before: Snapshot, where: str) -> None:
    for each in (before, snapshot):
        if each.fields.get("voxels") is None:
            raise InputError(f"{where} needs voxels, and {each.run_name} has none at iteration {each.iteration}")
    view.changes.kept, view.changes.mode = state_of(before), KEPT_STATE
    view.changes.update(view, snapshot)
    if view.changes.found is None:
        raise InputError(f"{where}: {view.changes.note}")


def _framed(view: ViewState, table: SurfaceTable, where: str) -> check_view.Region | None:
    """The region that the voxel of `frame` is of, of the kinds that are shown."""
    if not table.frame:
        return None
    ijk = torch.tensor([[int(part) for part in table.frame]])
    for kind in table.show:
        regions = getattr(view.check.found, kind)
        inside = regions is not None and int(ijk.max()) < regions.voxels.resolution
        row = int(regions.voxels.find(ijk)) if inside else -1
        listed = view.check.regions(kind)
        if row >= 0 and int(regions.number[row]) < len(listed):
            return listed[int(regions.number[row])]
    raise InputError(f"{where} must be a voxel of a region that is shown, got {ijk[0].tolist()}")


def quantity(view: ViewState) -> Quantity | None:
    """What coverage colours voxels by."""
    found = view.coverage.in_scene(view)
    return found.quantity if found is not None and view.coverage.mode == "values" else None


def notes(view: ViewState) -> Iterator[str]:
    """What of it the picture doesn't hold, and why."""
    changes, check_ = view.changes.in_scene(view), view.check.in_scene(view)
    if changes is not None and changes.note:
        yield changes.note
    if view.what_ifs.with_meshes:
        yield from (f"section {name}: {note}" for name, note in view.what_ifs.notes.items() if note)
    if check_ is not None:
        shown = [kind for kind in check_view.KINDS if view.check.parts[kind]]
        if check_.holes is None and set(shown) & {"holes", "turned"}:
            yield "holes and what is inside out are known where there is a target only"
        elif not any(getattr(check_, kind).n for kind in shown):
            yield f"nothing is wrong with the surface ({', '.join(check_view.TITLES[kind].lower() for kind in shown)})"


# The legend, in the words and the order of the window. What a recipe names is told with 0, too, and so in every frame
# of a time-lapse; where it shows all there may be, only what there is.


def legend(view: ViewState) -> Legend:
    """All that is marked, with numbers and colours."""
    changes, coverage, check_ = view.changes.in_scene(view), view.coverage.in_scene(view), view.check.in_scene(view)
    if view.what_ifs.in_scene is not None:
        yield from _legend_of_what_ifs(view, view.what_ifs.in_scene)
    if changes is not None:
        yield from _legend_of_changes(view, changes)
    if coverage is not None:
        yield from _legend_of_coverage(view, coverage)
    if check_ is not None:
        yield from _legend_of_surface(view, check_)


def _legend_of_what_ifs(view: ViewState, found: Difference) -> Legend:
    own = view.what_ifs
    counts, category = found.counts(own.category), what_if_view.CATEGORY_LABELS[own.category]
    for part in what_if.PARTS:
        if own.parts[part]:
            yield f"{category} {what_if_view.PART_LABELS[part]} {counts[part]:,}", what_if_view.COLOURS[part]
    for name, part in zip(what_if_view.NAMES, what_if.PARTS, strict=False):
        mesh = own.meshes.get(name) if own.with_meshes else None
        if mesh is not None:
            yield f"section of {name}, {len(mesh.faces):,} faces", what_if_view.COLOURS[part]


def _legend_of_changes(view: ViewState, found: Changes) -> Legend:
    own, voxels = view.changes, view.changes.counts()
    numbers = {name: ("", voxels[name]) for name in PARTS}
    numbers |= {name: ("corners ", found.n_corners_of[bit]) for name, bit in change_view.FLIPS.items()}
    numbers |= {name: ("quads ", 0 if found.gained is None else len(getattr(found, name)))
                for name in change_view.FACES}
    unknown = _not_compared(found)
    for name, (what, number) in numbers.items():
        if own.layers[name] and (number or not all(own.layers.values())):
            told = "–" if name in unknown else f"{number:,}"
            yield f"{what}{change_view.label_of(name, found)} {told}", change_view.COLOURS[name]


def _not_compared(found: Changes) -> set[str]:
    """Which layers say nothing: of two resolutions, or of a run that lacks the field."""
    names = set() if found.one_lattice else {"spoiled", "flipped", "moved", "sdf"}
    names |= {"flipped", "sdf", *change_view.FLIPS} if found.d_sdf is None else set()
    names |= {"moved"} if found.d_deform is None else set()
    return names | (set(change_view.FACES) if found.gained is None else set())


def _legend_of_coverage(view: ViewState, found: Summary) -> Legend:
    own = view.coverage
    if own.mode == "values":
        if found.quantity.has_beside and found.quantity.n_nan:
            yield f"{quantities.BESIDE[found.quantity.name]} {found.quantity.n_nan:,}", theme.faint()
        return
    label = f"not seen in the last {own.within:,} iterations" if own.within else NEVER
    label = f"seen only by {own.mark}" if own.mark != NEVER else label
    label += ", with a surface" if own.mark == NEVER and found.n_surface is not None else ""
    n_marked = int(found.marked.sum())
    yield f"{label} {n_marked:,}", coverage_view.MARKED
    yield f"other voxels {found.voxels.n_voxels - n_marked:,}", coverage_view.FAINT


def _legend_of_surface(view: ViewState, found: SurfaceCheck) -> Legend:
    for kind in check_view.KINDS:
        regions = getattr(found, kind) if view.check.parts[kind] else None
        if regions is not None and (regions.n or not all(view.check.parts.values())):
            number = regions.voxels.n_voxels
            yield f"{check_view.TITLES[kind].lower()}, {number:,} voxel{'s' * (number != 1)}", check_view.COLOURS[kind]


def points(view: ViewState) -> list[Float[np.ndarray, "P 3"]]:
    """Points of all that is marked, which a picture must hold."""
    changes, coverage, check_ = view.changes.in_scene(view), view.coverage.in_scene(view), view.check.in_scene(view)
    found = [] if coverage is None else [coverage.voxels.centers.numpy()]
    differ = view.what_ifs.in_scene
    if differ is not None:
        rows = [differ.rows(view.what_ifs.category, part) for part in what_if.PARTS if view.what_ifs.parts[part]]
        found += [differ.voxels.centers.numpy()[some] for some in rows]
        found += [mesh.vertices for mesh in view.what_ifs.meshes.values() if view.what_ifs.with_meshes]
    if changes is not None:
        own = view.changes
        for part in (part for part in PARTS if own.layers[part]):
            voxels, rows = changes.rows(part, own.threshold)
            found.append(voxels.centers.numpy()[rows])
        found += [mesh.vertices for name, mesh in own.faces.items() if own.layers[name]]
        corners = np.concatenate([np.zeros(0, np.int64)] + [
            changes.corner_b[changes.corners(bit)] for name, bit in change_view.FLIPS.items() if own.layers[name]])
        found.append(changes.b.voxels.corner_ijk.numpy()[corners] / changes.b.voxels.resolution - 0.5)
    if check_ is not None:
        regions = [getattr(check_, kind) for kind in check_view.KINDS if view.check.parts[kind]]
        found += [one.voxels.centers.numpy() for one in regions if one is not None]
    return found


# What a window shows


def caption(view: ViewState) -> str:
    """What is compared with what, as the window calls them; "" where nothing is."""
    changes, looks = view.changes.in_scene(view), view.what_ifs
    if looks.in_scene is not None:
        return "; ".join(f"{name}: {look.label}{f', {look.planes}' if look.planes else ''}"
                         for name, look in zip(what_if_view.NAMES, (looks.a, looks.b), strict=True))
    return "" if changes is None else "From {} to {}".format(*view.changes.labels)


def frustum_table(camera: Camera) -> FrustumTable:
    """The camera with its planes."""
    eye = camera.eye_world.numpy()
    return FrustumTable(
        eye=tuple(eye.tolist()), target=tuple((eye + camera.forward_world.numpy()).tolist()),
        up=tuple(camera.up_world.tolist()), fov_y_degrees=camera.fov_y_degrees,
        aspect=min(max(camera.aspect, 0.1), 10.0), near=camera.near, far=camera.far,
    )


def tables_of(view: ViewState) -> dict[str, Table]:
    """The tables that show what the window's scene does."""
    found: dict[str, Table] = {}
    looks = view.what_ifs
    if looks.in_scene is not None:
        found["what_if"] = WhatIfTable(
            frustum_table(looks.a.camera), frustum_table(looks.b.camera), looks.category,
            tuple(part for part in what_if.PARTS if looks.parts[part]), looks.meshes_wanted, looks.a.rings)
    changes, coverage, check_ = view.changes.in_scene(view), view.coverage.in_scene(view), view.check.in_scene(view)
    if changes is not None:
        shown = tuple(name for name in change_view.LAYERS if view.changes.layers[name])
        found["changes"] = ChangesTable(changes.a.iteration, view.changes.threshold, shown)
    if coverage is not None:
        own = view.coverage
        found["coverage"] = (CoverageTable(values=coverage.quantity.name) if own.mode == "values"
                             else CoverageTable(coverage.mark, within=own.within))
    if check_ is not None:
        chosen, frame = view.check.chosen, ()
        if chosen is not None:
            regions = getattr(check_, chosen.kind)
            frame = tuple(regions.voxels.voxel_ijk[regions.number == chosen.number][0].tolist())
        known = tuple(kind for kind in check_view.KINDS if getattr(check_, kind) is not None)
        found["surface"] = SurfaceTable(known, frame)
    return found
