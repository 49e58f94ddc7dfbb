"""SceneView: the only writer of Polyscope structures, from a snapshot and the view state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polyscope as ps
import torch
from jaxtyping import Float

from sparseflex.camera import Camera
from sparseflex.voxels import SparseVoxels
from workbench import theme
from workbench.creases import with_creases
from workbench.layout import Rect, arranged, view_axes
from workbench.snapshot import MeshArrays, Snapshot
from workbench.split import CATEGORIES, Split
from workbench.view_state import ViewState

CUBE_SIZES = {"active": 0.88, "outside": 0.25, "near_cut": 0.35, "far_cut": 0.35}
"""Edge of the drawn cube in voxels. Only the active ones are drawn full: no transparency, which is slow in software."""

ALONE, WITH_FRUSTUM = 1.3, 1.7
"""Room that an object of the unit box gets, alone or within its frustum, in world units."""


FOV_DEGREES = 28.0


class SceneView:
    """Keeps the structures of the scene equal to a snapshot, touching only what has changed.

    Everything stands in up to three places: voxels with frustum, mesh, target; `arrange` sets them side by side
    across the view, or all on one place.
    """

    def __init__(self) -> None:
        self._keys: dict[str, tuple] = {}
        self._places: dict[str, tuple[list[Any], int]] = {}
        self._offsets: dict[str, tuple[float, ...]] = {}

    def update(self, snapshot: Snapshot, view: ViewState) -> None:
        """Draws what the layers ask for; view.split must be up to date."""
        split, layers = view.split, view.layers
        camera, voxels = split.camera, split.voxels
        for name in CATEGORIES:
            key = (voxels, camera) if layers[name] and voxels is not None else None
            self._keep(name, key, lambda name=name: draw_voxels(name, name, split), slot=0)
        for slot, name in ((1, "mesh"), (2, "target")):
            mesh = snapshot.fields.get(view.field_of(name, snapshot))
            colour = view.mesh_colour if name == "mesh" else "clay"
            key = (mesh, colour) if layers[name] and mesh is not None and len(mesh.faces) else None
            self._keep(name, key, lambda n=name, m=mesh, c=colour: draw_mesh(n, m, COLOURS[n], c, n == "target"), slot)
        key = (camera,) if layers["frustum"] and camera is not None else None
        self._keep("frustum", key, lambda: draw_frustum(camera), slot=0)
        others = tuple(known.camera for known in snapshot.cameras if known.camera is not camera)
        self._keep("cameras", others if layers["cameras"] and others else None, lambda: draw_cameras(others), slot=0)
        sdf = snapshot.fields.get("corner_sdf")
        fits = sdf is not None and voxels is not None and len(sdf) == voxels.n_corners and len(sdf) > 0
        self._keep("sdf", (voxels, sdf) if layers["sdf"] and fits else None, lambda: draw_sdf(voxels, sdf), slot=0)

    def arrange(self, view: ViewState, aspect: float) -> None:
        """Puts the places side by side across the present view, or all at the origin; aspect: of the free part."""
        places = self.places(view, aspect)[0]
        right, up = np.asarray(ps.get_camera_view_matrix())[:2, :3]
        for name, (structures, slot) in self._places.items():
            x, y = places[slot]
            offset = tuple(np.round(right * x + up * y, 5).tolist())
            if self._offsets.get(name, (0.0, 0.0, 0.0)) != offset:
                for structure in structures:
                    structure.set_position(offset)
                self._offsets[name] = offset

    def places(self, view: ViewState, aspect: float) -> tuple[dict[int, tuple[float, float]], tuple[float, float]]:
        """Where each place's centre lies (right, up), and the size of the whole, in world units."""
        slots = sorted({slot for _, slot in self._places.values()})
        sizes = [WITH_FRUSTUM if slot == 0 and view.layers["frustum"] else ALONE for slot in slots]
        if not view.side_by_side or not slots:
            return dict.fromkeys(slots, (0.0, 0.0)), (max(sizes, default=ALONE),) * 2
        centres, whole = arranged(sizes, aspect)
        return dict(zip(slots, centres, strict=True)), whole

    def go_home(self, view: ViewState, window: tuple[int, int], free: Rect) -> None:
        """The view along view.home_direction in which everything fits the free part of the window."""
        ps.set_vertical_fov_degrees(FOV_DEGREES)
        width, height = window
        free_width, free_height = max(free[2], 1.0), max(free[3], 1.0)
        wide, tall = self.places(view, free_width / free_height)[1]
        # world units that the whole window's height spans at the objects' distance
        span = height * max(tall / free_height, wide / free_width)
        distance = span / 2 / math.tan(math.radians(FOV_DEGREES) / 2)
        direction = np.asarray(view.home_direction) / np.linalg.norm(view.home_direction)
        right, up = view_axes(direction)
        # the centre of the free part is not the window's
        off_x = (width / 2 - free[0] - free[2] / 2) / height * span
        off_y = (free[1] + free[3] / 2 - height / 2) / height * span
        target = right * off_x + up * off_y
        ps.look_at_dir(target + direction * distance, target, up)

    def clear(self) -> None:
        for name in list(self._keys):
            self._remove(name)

    def _keep(self, name: str, key: tuple | None, draw: Callable[[], list[Any]], slot: int) -> None:
        """Redraws where an object of the key is another one than last time; no key removes."""
        known = self._keys.get(name)
        if key is None:
            self._remove(name)
        elif known is None or len(known) != len(key) or any(a is not b for a, b in zip(known, key, strict=True)):
            self._remove(name)
            structures = draw()
            if structures:
                self._places[name] = (structures, slot)
            self._keys[name] = key

    def _remove(self, name: str) -> None:
        self._keys.pop(name, None)
        self._offsets.pop(name, None)
        for structure in self._places.pop(name, ([], 0))[0]:
            structure.remove()


def draw_voxels(name: str, category: str, split: Split) -> list[Any]:
    """The voxels of a category as cubes; nothing where there are none."""
    voxels, rows = split.voxels, split.rows(category)
    if not rows.any():
        return []
    colour = theme.CATEGORY_COLOURS[category]
    active = category == "active"
    grid = ps.register_sparse_volume_grid(
        name, (-0.5,) * 3, (1 / voxels.resolution,) * 3, voxels.voxel_ijk.numpy()[rows],
        color=theme.lit(colour) if active else colour, material="clay" if active else "flat",
        cube_size_factor=1 - CUBE_SIZES[category], edge_width=0,
    )
    return [grid]


def draw_sdf(voxels: SparseVoxels, sdf: Float[np.ndarray, "C"]) -> list[Any]:
    """The corners as points, coloured by a map centred on zero."""
    points = ps.register_point_cloud("sdf", voxels.corners_world.numpy(), material="flat", point_render_mode="quad")
    points.set_radius(0.22 / voxels.resolution, relative=False)
    limit = float(np.nanquantile(np.abs(sdf), 0.98)) or 1.0
    points.add_scalar_quantity("sdf", sdf, vminmax=(-limit, limit), cmap="coolwarm", enabled=True)
    return [points]


COLOURS = {"mesh": theme.MESH, "target": theme.TARGET}


MAX_CREASED_FACES = 400_000
"""Larger meshes are shaded without creases, which take some 2 µs a face to find."""


def draw_mesh(
    name: str, mesh: MeshArrays, colour: theme.Colour, shading: str = "clay", creased: bool = False
) -> list[Any]:
    """A surface with a brown inside, shaded ("clay") or coloured by normals ("normal"); creased: edges stay sharp."""
    if creased and len(mesh.faces) <= MAX_CREASED_FACES:
        mesh = with_creases(mesh)
    structure = ps.register_surface_mesh(
        name, mesh.vertices, mesh.faces, color=theme.lit(colour), material="flat" if shading == "normal" else "clay",
        smooth_shade=True,
    )
    structure.set_back_face_policy("custom")
    structure.set_back_face_color(theme.lit(theme.INSIDE))
    if shading == "normal":
        structure.add_color_quantity("normal", vertex_normals(mesh) * 0.5 + 0.5, enabled=True)
    return [structure]


def vertex_normals(mesh: MeshArrays) -> Float[np.ndarray, "V 3"]:
    """Unit normals at the vertices, the faces' weighted by area; zero where no face with area meets."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    summed = np.stack(
        [np.bincount(mesh.faces.ravel(), np.repeat(normals[:, axis], 3), len(mesh.vertices)) for axis in range(3)], 1
    )
    return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-300)


_BOX_EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])


def drawn_planes(camera: Camera, margin: float = 0.12) -> tuple[float, float, bool, bool]:
    """The depths between which a frustum is drawn, and whether near and far planes lie there.

    Planes far from the unit box would make a frustum that fills the view; it then ends a margin beyond the box.
    """
    box = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    depths = camera.depth_of(box.double())
    low, high = float(depths.min()) - margin, float(depths.max()) + margin
    near, far = max(camera.near, low), min(camera.far, high)
    if near >= far:  # the whole frustum lies beside the box
        return camera.near, camera.far, True, True
    return near, far, camera.near >= low, camera.far <= high


def draw_frustum(camera: Camera, name: str = "frustum", weight: float = 1.0) -> list[Any]:
    """The box between the planes as lines, the planes hatched, and rays towards the eye."""
    near, far, has_near, has_far = drawn_planes(camera)
    corners = camera.frustum_corners_world(near, far).numpy()
    towards = camera.eye_world.numpy() - corners[:4]
    length = np.linalg.norm(towards, axis=1, keepdims=True)
    ends = corners[:4] + towards * np.minimum(0.3 / np.maximum(length, 1e-9), 1)
    found = [
        _lines(name, corners, _BOX_EDGES, theme.FRUSTUM, 0.0035 * weight),
        _lines(f"{name} rays", np.concatenate([corners[:4], ends]), np.arange(8).reshape(2, 4).T, theme.FRUSTUM,
               0.0016 * weight),
    ]
    for plane, quad, shown in (("near", corners[:4], has_near), ("far", corners[4:], has_far)):
        if shown:
            found.append(_hatch(f"{name} {plane}", quad, weight))
    return found


def _hatch(name: str, quad: Float[np.ndarray, "4 3"], weight: float, n_lines: int = 7) -> Any:
    """Thin lines across a plane: it shows without hiding what lies behind, and needs no transparency."""
    steps = (np.arange(n_lines) + 1)[:, None] / (n_lines + 1)
    sides = [quad[a] + (quad[b] - quad[a]) * steps for a, b in ((0, 1), (3, 2), (0, 3), (1, 2))]
    nodes = np.concatenate(sides)
    index = np.arange(n_lines)
    edges = np.concatenate([np.stack([index, index + n_lines], 1),
                            np.stack([index + 2 * n_lines, index + 3 * n_lines], 1)])
    return _lines(name, nodes, edges, theme.FRUSTUM, 0.0009 * weight)


def draw_cameras(cameras: tuple[Camera, ...], size: float = 0.09) -> list[Any]:
    """All cameras as small pyramids in one network."""
    nodes, edges = [], []
    for camera in cameras:
        first = 5 * len(edges)
        nodes += [camera.eye_world.numpy()[None], camera.frustum_corners_world(size / 2, size).numpy()[4:]]
        edges.append(first + np.array([[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]]))
    return [_lines("cameras", np.concatenate(nodes), np.concatenate(edges), theme.CAMERAS, radius=0.002)]


def _lines(name: str, nodes: np.ndarray, edges: np.ndarray, colour: theme.Colour, radius: float) -> Any:
    network = ps.register_curve_network(name, nodes, edges, color=colour, material="flat")
    network.set_radius(radius, relative=False)
    return network
