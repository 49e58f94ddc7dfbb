"""SceneView: the only writer of Polyscope structures, from a snapshot and the view state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polyscope as ps

from workbench import theme
from workbench.layout import Rect, arranged, view_axes
from workbench.scene_parts.cubes import draw_voxels
from workbench.scene_parts.field import draw_sdf
from workbench.scene_parts.frusta import draw_cameras, draw_frustum
from workbench.scene_parts.surfaces import draw_mesh
from workbench.snapshot import Snapshot
from workbench.split import CATEGORIES
from workbench.view_state import ViewState

ALONE, WITH_FRUSTUM = 1.3, 1.7
"""Room that an object of the unit box gets, alone or within its frustum, in world units."""


FOV_DEGREES = 28.0

COLOURS = {"mesh": theme.MESH, "target": theme.TARGET}


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
