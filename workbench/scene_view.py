"""SceneView: the only writer of Polyscope structures, from a snapshot and the view state."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polyscope as ps

from workbench import check_view, theme
from workbench.check_view import KINDS as KINDS_OF_CHECK
from workbench.layout import MESH_PLACE, N_PLACES, Rect, arranged, paired, view_axes
from workbench.normals import normal_colours
from workbench.pair import PREFIX
from workbench.pruning_view import KINDS
from workbench.scene_parts import changes, coverage, cubes, field, gradients, marks, surfaces
from workbench.scene_parts.cuts import Cuts
from workbench.scene_parts.frusta import draw_cameras, draw_frustum
from workbench.snapshot import MeshArrays, Snapshot
from workbench.split import CATEGORIES
from workbench.surface_view import NORMAL
from workbench.view_state import ViewState
from workbench.what_if import PARTS
from workbench.what_if_view import COLOURS, NAMES, SIZES
from workbench.worker import same_token

ALONE, WITH_FRUSTUM = 1.3, 1.7
"""Room that an object of the unit box gets, alone or within its frustum, in world units."""

FOV_DEGREES = 28.0
PAIR_FOV_DEGREES = 12.0
"""Of two runs: narrow, so that what is to be compared is seen from about the same side in every place."""

OF_PARTS, OF_MESHES = {part: f"what-if {part}" for part in PARTS}, {name: f"what-if mesh {name}" for name in NAMES}
OF_CHECK = {kind: f"check {kind}" for kind in KINDS_OF_CHECK}
OF_BESIDE = "beside"  # voxels beyond the window of attention
CAN_BE_CUT = {*CATEGORIES, OF_BESIDE, *KINDS, "mesh", "target", "sdf", "points", *OF_PARTS.values(),
              *OF_MESHES.values(), *changes.NAMES.values(), *coverage.NAMES, *gradients.NAMES, *OF_CHECK.values()}

Style = Callable[..., None]


@dataclasses.dataclass
class _Drawn:
    """The structures of a layer: key is what they were drawn from, style the arguments they were last styled with."""

    key: tuple
    structures: list[Any]
    slot: int
    style: tuple = ()
    shown: bool = True

    @property
    def visible(self) -> bool:
        return self.shown and bool(self.structures)


class SceneView:
    """Keeps the structures of the scene equal to a snapshot, touching only what has changed.

    Everything stands in up to three places: voxels with frustum, mesh, target; `arrange` sets them side by side
    across the view, or all on one place. A hidden layer keeps its structures until what they show changes. Of two runs
    (view.pair) the second has three places more, and the same names with PREFIX before them.
    """

    def __init__(self) -> None:
        self._drawn: dict[str, _Drawn] = {}
        self._offsets: dict[str, tuple[float, ...]] = {}
        self._cuts = Cuts()
        self._prefix, self._first_slot = "", 0  # of the run whose part is being drawn

    def update(self, snapshot: Snapshot, view: ViewState) -> None:
        """Draws what the layers ask for; view.frustum (or view.split) must be up to date."""
        view.field.update(view, snapshot)
        view.surfaces.update(view, snapshot)
        view.points.update(view, snapshot)
        view.changes.update(view, snapshot)
        view.coverage.update(view, snapshot)
        view.check.update(view, snapshot)
        pair = view.pair
        if pair is not None:
            pair.update(view, snapshot)
        self._update_run(snapshot, view)
        if pair is not None:
            self._prefix, self._first_slot = PREFIX, N_PLACES
            self._update_run(pair.snapshot, pair.view)
            self._prefix, self._first_slot = "", 0
        else:
            for name in [name for name in self._drawn if name.startswith(PREFIX)]:
                self._remove(name)
        self._update_mark(view)

    def _update_run(self, snapshot: Snapshot, view: ViewState) -> None:
        self._update_voxels(view)
        self._update_surfaces(snapshot, view)
        self._update_cameras(snapshot, view)
        self._update_field(view)
        self._update_pruning(snapshot, view)
        self._update_network(snapshot, view)
        self._update_what_ifs(view)
        changes.draw_changes(self._keep, self._style, view)
        gradients.draw_gradients(self._keep, self._style, view)
        coverage.draw_coverage(self._keep, self._style, view)
        self._update_check(view)

    def _update_voxels(self, view: ViewState) -> None:
        """Voxels by category, the active ones in a field's colours; beyond the window of attention they are dots."""
        colours = view.field.colours("voxel") if view.field.voxels_coloured else None
        if colours is not None and len(colours) != view.split.n_voxels:
            colours = None
        concerned, beside = (None, None) if colours is None else view.field.concerned
        for name in CATEGORIES:
            of_active = (concerned, colours) if name == "active" else (None, None)
            self._update_category(view, name, *of_active)
        self._update_category(view, OF_BESIDE, beside)

    def _update_category(self, view: ViewState, name: str, among: Any, colours: Any = None) -> None:
        """The voxels of a category, or those among these rows; in one colour, or one a row of the whole set."""
        split, beside = view.split, name == OF_BESIDE
        category, look = ("active", "outside") if beside else (name, name)
        nothing = split.voxels is None or beside and among is None
        self._keep(name, None if nothing else (split.voxels, split.camera, among),
                   lambda full: cubes.draw_voxels(full, category, split, among), 0,
                   view.layers[category] and view.shows_layers_of_voxels)

        def style(grid: Any, colour: theme.Colour, size: float, own: Any, whole: bool) -> None:
            some = own is not None and grid.n_cells() != len(own)
            painted = np.compress(split.rows(category, among), own, axis=0) if some else own
            cubes.style_voxels(grid, look, colour, size, painted, whole)

        colour = theme.faint() if beside else view.shades.colour(name)
        # through the cubes where the slice closes them
        self._style(name, style, colour, view.shades.size(look), colours, not view.layers["slice"])

    def _update_surfaces(self, snapshot: Snapshot, view: ViewState) -> None:
        shades, mesh, target = view.shades, view.surfaces.mesh, snapshot.fields.get("target")
        target = None if view.layers["mesh"] and view.shows_target(snapshot) else target  # once is enough
        for slot, name, shown in ((MESH_PLACE, "mesh", mesh), (2, "target", target)):
            key = None if shown is None or len(shown.faces) == 0 else (shown,)
            colour = shades.colour(name)
            draw = lambda full, n=name, s=shown, c=colour: surfaces.draw_mesh(full, s, c, n == "target")  # noqa: E731
            self._keep(name, key, draw, slot, view.layers[name] and not view.what_ifs.with_meshes
                       and not view.gradients.alone(view) and not (name == "target" and view.check.alone(view)))
            self._update_cap(name, shown, slot, view)
        colours = view.surfaces.colours
        if view.mesh_colour == NORMAL and self._prefix + "mesh" in self._drawn:
            self._style("mesh", lambda mesh, colour, shown, _: surfaces.style_mesh(
                mesh, colour, normal_colours(shown)), shades.colour("mesh"), mesh, NORMAL)
        else:
            self._style("mesh", surfaces.style_mesh, shades.colour("mesh"), colours)
        self._style("target", surfaces.style_mesh, shades.colour("target"), None)

    def _update_cap(self, name: str, mesh: MeshArrays | None, slot: int, view: ViewState) -> None:
        """Where the cut goes through a closed surface, the plane's part inside of it."""
        plane, colour = view.field.plane, view.cap_colour
        wanted = mesh is not None and len(mesh.faces) and colour is not None and view.field.cut
        self._keep(f"{name} cap", (mesh, plane.normal, plane.offset, colour) if wanted else None,
                   lambda full: surfaces.draw_cap(full, mesh, plane, colour), slot,
                   view.layers[name] and not view.what_ifs.with_meshes and not view.gradients.alone(view)
                   and not (name == "target" and view.check.alone(view)))

    def _update_cameras(self, snapshot: Snapshot, view: ViewState) -> None:
        camera, shades = view.split.camera, view.shades
        colour, weight = shades.colour("frustum"), shades.size("frustum")
        planes = self._plane_colours(view, view.split.crossed)
        self._keep("frustum", camera and (camera, colour, planes, weight),
                   lambda full: draw_frustum(camera, full, weight, colour=colour, planes=planes), 0,
                   view.layers["frustum"] and view.what_ifs.in_scene is None and view.coverage.ghost(view) is None
                   and not view.frustum.of_view(view.pinned))  # lines all over the window
        size = shades.size("cameras")
        shown = view.cameras.shown(snapshot, view.selected_camera(snapshot), shades.colour("cameras"), theme.TEXT,
                                   view.view_camera)
        self._keep("cameras", None if shown is None else (shown, size),
                   lambda full: draw_cameras(full, shown, 0.09 * size), 0, view.layers["cameras"])

    @staticmethod
    def _plane_colours(view: ViewState, crossed: bool) -> tuple[theme.Colour, theme.Colour]:
        near, far = (theme.mixed(view.shades.colour(name), theme.BACKGROUND, 0.3) for name in ("near_cut", "far_cut"))
        return (far, near) if crossed else (near, far)

    def _update_what_ifs(self, view: ViewState) -> None:
        """Voxels by how two looks differ, the frusta of both, and the meshes of both where mesh and target stand."""
        shown, found, whole = view.what_ifs, view.what_ifs.in_scene, not view.layers["slice"]
        for part, name in OF_PARTS.items():
            rows = lambda full, part=part: cubes.draw_rows(full, found.voxels, found.rows(shown.category, part))  # noqa: E731
            self._keep(name, found and (found, shown.category), rows, 0, found is None or shown.parts[part])
            look = "outside" if part == "neither" else "active"
            self._style(name, cubes.style_voxels, look, COLOURS[part], SIZES[part], None, whole)
        for number, (name, look) in enumerate(zip(NAMES, (shown.a, shown.b), strict=True)):
            colour, weight = COLOURS[PARTS[number]], view.shades.size("frustum")
            # lines all over the window where it is the view itself
            drawn = found is not None and (name in shown.kept or not view.frustum.of_view(view.pinned))
            planes = drawn and self._plane_colours(view, look.crossed)
            self._keep(f"what-if {name}", (look, colour, planes, weight) if drawn else None,
                       lambda full, look=look, colour=colour, planes=planes, weight=weight: draw_frustum(
                           look.camera, full, weight, colour=colour, planes=planes), 0,
                       not drawn or view.layers["frustum"])
            mesh = shown.meshes.get(name) if shown.with_meshes else None
            self._keep(OF_MESHES[name], (mesh,) if mesh is not None and len(mesh.faces) else None,
                       lambda full, mesh=mesh, colour=colour: surfaces.draw_mesh(full, mesh, colour), 1 + number, True)
            self._style(OF_MESHES[name], surfaces.style_mesh, colour, None)

    def _update_field(self, view: ViewState) -> None:
        shown, shades, layers = view.field, view.shades, view.layers
        voxels = view.split.voxels
        plain = theme.OUTSIDE  # where values are still missing
        self._keep("sdf", voxels and (voxels,), lambda full: field.draw_points(full, voxels), 0,
                   layers["sdf"] and shown.corner is not None)
        if shown.corner is not None and layers["sdf"]:
            radius = shades.size("sdf") / 2 / voxels.resolution
            self._style("sdf", field.style_points, plain, radius, shown.colours("corner"))
        self._keep("slice", shown.slice and (shown.slice,), lambda full: field.draw_slice(full, shown.slice), 0, True)
        self._style("slice", field.style_slice, plain, shown.slice_colours())
        segments = shown.contour_segments
        self._keep("zero contour", None if segments is None else (segments,),
                   lambda full: field.draw_contour(full, shown.slice, segments), 0, True)
        arrows, colour, thick = shown.vectors, shades.colour("vectors"), shades.size("vectors")
        self._keep("vectors", arrows and (arrows, colour, thick),
                   lambda full: field.draw_vectors(full, arrows, colour, thick, voxels.resolution), 0, True)

    def _update_pruning(self, snapshot: Snapshot, view: ViewState) -> None:
        for kind in KINDS:
            voxels = view.pruning.voxels(snapshot, kind)
            self._keep(kind, voxels and (voxels,), lambda full, shown=voxels: cubes.draw_set(full, shown), 0,
                       view.layers[kind])
            self._style(kind, cubes.style_voxels, kind, view.shades.colour(kind), view.shades.size(kind), None, True)

    def _update_network(self, snapshot: Snapshot, view: ViewState) -> None:
        """Input points where the target stands; the picked voxel and the region of an edit among the voxels."""
        shown, shades = view.points.shown, view.shades
        self._keep("points", shown and (shown,), lambda full: marks.draw_points(full, shown), 2, view.layers["points"])
        self._style("points", marks.style_points, shades.colour("points"), shades.size("points"), view.points.colours)
        picked, region = view.network.picked, view.latent.region(view, snapshot)
        self._keep("picked voxel", picked and (picked.centre_world, picked.resolution, theme.TEXT),
                   lambda full: marks.draw_frame(full, picked.centre_world, 1 / picked.resolution, theme.TEXT), 0, True)
        self._keep("region", region and (*region, theme.FRUSTUM),
                   lambda full: marks.draw_sphere(full, *region, theme.FRUSTUM), 0, True)

    def _update_check(self, view: ViewState) -> None:
        """Voxels that lack, are turned inside out or hold NaN, and a frame around the chosen region."""
        found = view.check.in_scene(view)
        for kind in KINDS_OF_CHECK:
            regions = None if found is None or not view.check.parts[kind] else getattr(found, kind)
            self._keep(OF_CHECK[kind], regions and (regions,), lambda full, shown=regions: cubes.draw_set(
                full, shown.voxels), MESH_PLACE, True)  # where the mesh is: they fill its holes
            self._style(OF_CHECK[kind], cubes.style_voxels, "active", check_view.COLOURS[kind], check_view.SIZES[kind],
                        None, not view.layers["slice"])
        chosen = view.check.chosen if found is not None else None
        self._keep("region of check", chosen and (chosen, theme.TEXT), lambda full: marks.draw_box(
            full, *chosen.box_world, max(0.15 / chosen.resolution, 0.0035), theme.TEXT), MESH_PLACE, True)

    def _update_mark(self, view: ViewState) -> None:
        """The probed point, in each place that shows something."""
        probed = view.maps.probe_world
        world = None if probed is None else tuple(float(part) for part in probed)
        for slot in range(2 * N_PLACES):
            used = any(drawn.visible and drawn.slot == slot and name != f"probe {slot}"
                       for name, drawn in self._drawn.items())
            self._keep(f"probe {slot}", (world, theme.TEXT) if world and used else None,
                       lambda full: field.draw_mark(full, world, theme.TEXT), slot, True)

    def arrange(self, view: ViewState, aspect: float) -> None:
        """Puts the places side by side across the present view, or all at the origin; aspect: of the free part."""
        places = self.places(view, aspect)[0]
        right, up = np.asarray(ps.get_camera_view_matrix())[:2, :3]
        for name, drawn in self._drawn.items():
            if not drawn.visible:
                continue
            x, y = places[drawn.slot]
            offset = tuple(np.round(right * x + up * y, 5).tolist())
            if self._offsets.get(name, (0.0, 0.0, 0.0)) != offset:
                for structure in drawn.structures:
                    structure.set_position(offset)
                self._offsets[name] = offset
                ps.request_redraw()
        self._cut(view, {slot: right * x + up * y for slot, (x, y) in places.items()})

    def _cut(self, view: ViewState, centres: dict[int, np.ndarray]) -> None:
        """Cuts the scene off at the plane of the slice."""
        plane, poses = view.field.plane, {}
        if view.field.cut:
            normal = np.array(plane.normal)
            kept = normal if view.field.flipped else -normal
            poses = {slot: (centre + normal * plane.offset, kept) for slot, centre in centres.items()}
        self._cuts.place(poses, [
            (structure, drawn.slot if name.removeprefix(PREFIX) in CAN_BE_CUT else None)
            for name, drawn in self._drawn.items() for structure in drawn.structures
        ])

    def places(self, view: ViewState, aspect: float) -> tuple[dict[int, tuple[float, float]], tuple[float, float]]:
        """Where each place's centre lies (right, up), and the size of the whole, in world units."""
        slots = sorted({drawn.slot for drawn in self._drawn.values() if drawn.visible})
        sizes = {slot: WITH_FRUSTUM if slot % N_PLACES == 0 and view.layers["frustum"] else ALONE for slot in slots}
        if view.pair is not None:
            return paired(sizes, N_PLACES, aspect, view.side_by_side)
        if not view.side_by_side or not slots:
            return dict.fromkeys(slots, (0.0, 0.0)), (max(sizes.values(), default=ALONE),) * 2
        centres, whole = arranged(list(sizes.values()), aspect)
        return dict(zip(slots, centres, strict=True)), whole

    def go_home(self, view: ViewState, window: tuple[int, int], free: Rect) -> None:
        """The view along view.home_direction in which everything fits the free part of the window."""
        fov = FOV_DEGREES if view.pair is None else PAIR_FOV_DEGREES
        ps.set_vertical_fov_degrees(fov)
        width, height = window
        free_width, free_height = max(free[2], 1.0), max(free[3], 1.0)
        wide, tall = self.places(view, free_width / free_height)[1]
        # world units that the whole window's height spans at the objects' distance
        span = height * max(tall / free_height, wide / free_width)
        distance = span / 2 / math.tan(math.radians(fov) / 2)
        direction = np.asarray(view.home_direction) / np.linalg.norm(view.home_direction)
        right, up = view_axes(direction)
        # the centre of the free part is not the window's
        off_x = (width / 2 - free[0] - free[2] / 2) / height * span
        off_y = (free[1] + free[3] / 2 - height / 2) / height * span
        target = right * off_x + up * off_y
        ps.look_at_dir(target + direction * distance, target, up)

    def clear(self) -> None:
        for name in list(self._drawn):
            self._remove(name)
        self._cuts.clear()

    def _keep(self, name: str, key: tuple | None, draw: Callable[[str], list[Any]], slot: int, shown: bool) -> None:
        """Draws anew, under its full name, where a part of the key has changed since last time; no key removes.

        Not shown hides: what is hidden may be unknown now, as nobody asks the run for it, and the same again later.
        """
        name, slot = self._prefix + name, self._first_slot + slot
        known = self._drawn.get(name)
        if known is not None and (shown if key is None else not same_token(known.key, key)):
            self._remove(name)
            known = None
        if known is None and (key is None or not shown):
            return
        if known is None:
            self._drawn[name] = _Drawn(key, draw(name), slot)
            for structure in self._drawn[name].structures:
                structure.set_enabled(True)  # Polyscope gives a name the state that it had before
        elif known.shown != shown:
            for structure in known.structures:
                structure.set_enabled(shown)
            known.shown = shown

    def _style(self, name: str, style: Style, *arguments: Any) -> None:
        """style(structure, *arguments) where an argument has changed since last time; nothing for what is hidden."""
        known = self._drawn.get(self._prefix + name)
        if known is not None and known.visible and not same_token(arguments, known.style):
            style(known.structures[0], *arguments)
            known.style = arguments

    def _remove(self, name: str) -> None:
        self._offsets.pop(name, None)
        for structure in self._drawn.pop(name).structures:
            structure.remove()
        ps.request_redraw()  # Polyscope asks for none where something goes, or is moved
