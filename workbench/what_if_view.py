"""WhatIfView: two looks that are kept, A and B, how the voxels differ between them, and the meshes of both sections."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from sparseflex.frustum import active_voxels, add_halo
from sparseflex.voxels import SparseVoxels
from workbench import theme
from workbench.section_work import NO_MESH, Parameters, arrays_of
from workbench.what_if import PARTS, Difference, Kept, difference
from workbench.worker import WorkFailed, same_token

if TYPE_CHECKING:
    from workbench.snapshot import MeshArrays
    from workbench.view_state import ViewState

NAMES = ("A", "B")
CATEGORY_LABELS = {"active": "active", "outside": "outside", "near_cut": "near-cut", "far_cut": "far-cut"}
PART_LABELS = {"only_a": "only in A", "only_b": "only in B", "both": "in both", "neither": "in neither"}
COLOURS = {"only_a": theme.FRUSTUM, "only_b": theme.BORN, "both": theme.ACTIVE, "neither": theme.OUTSIDE}
SIZES = {"only_a": 0.88, "only_b": 0.88, "both": 0.88, "neither": 0.25}
"""Edges of the drawn cubes in voxel widths."""

_DIFFERENCE = "what-if difference"
SHARE = 0.2
"""Most of the time that the worker may spend on the meshes of both while the run moves on."""


@dataclasses.dataclass
class WhatIfView:
    """kept: by name; where only one is, the other is what is looked at now. shown: the scene shows how they differ;
    category: by which of CATEGORIES; parts: which of PARTS; meshes_wanted: the section of each as a mesh beside.

    Derived: a, b (what is compared, None where nothing is), difference, meshes and notes by name.
    """

    KEPT: ClassVar[tuple[str, ...]] = ("meshes_wanted",)

    kept: dict[str, Kept] = dataclasses.field(default_factory=dict)
    shown: bool = False
    category: str = "active"
    parts: dict[str, bool] = dataclasses.field(default_factory=lambda: {name: name != "neither" for name in PARTS})
    meshes_wanted: bool = False
    a: Kept | None = None
    b: Kept | None = None
    difference: Difference | None = None
    meshes: dict[str, MeshArrays] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    _now: tuple[object, Kept] | None = None
    _compared: tuple = ()

    def keep(self, name: str, view: ViewState) -> None:
        """Keeps what is looked at now as A or B."""
        if view.frustum.look is not None:
            first = not self.kept
            self.kept[name] = self._present(view)
            self.shown = self.shown or first

    def drop(self, name: str) -> None:
        self.kept.pop(name, None)
        self.shown = self.shown and bool(self.kept)

    @property
    def with_meshes(self) -> bool:
        return self.shown and self.meshes_wanted and bool(self.kept)

    @property
    def in_scene(self) -> Difference | None:
        """The difference, where the scene is to show it."""
        return self.difference if self.shown else None

    def update(self, view: ViewState, voxels: SparseVoxels | None, parameters: Parameters | None, playing: bool
               ) -> None:
        """Brings all that is derived up to date with the looks, a voxel set and what meshes are made of. playing: the
        run moves on."""
        self.a, self.b = None, None
        if self.kept and view.frustum.look is not None:
            self.a, self.b = (self.kept.get(name) or self._present(view) for name in NAMES)
        self._compare(view, voxels)
        self._ask_meshes(view, parameters, SHARE if playing else 1.0)

    def _present(self, view: ViewState) -> Kept:
        look = view.frustum.look
        if self._now is None or self._now[0] is not look:
            self._now = (look, look.kept("the view itself" if view.frustum.of_view(look.known) else look.known.label))
        return self._now[1]

    def _compare(self, view: ViewState, voxels: SparseVoxels | None) -> None:
        from workbench.frustum_view import INLINE_VOXELS

        a, b = self.a, self.b
        token = () if voxels is None or a is None else (voxels, a, b)
        if same_token(token, self._compared):
            return
        if not token:
            self._compared, self.difference = (), None
            return
        if view.frustum.background and voxels.n_voxels > INLINE_VOXELS:
            view.quick.ask(_DIFFERENCE, token, lambda: difference(voxels, a, b))
            found = view.quick.result(_DIFFERENCE)
            if found is not None and isinstance(found[1], Difference) and found[1].voxels is voxels:
                self._compared, self.difference = found
            elif self.difference is not None and self.difference.voxels is not voxels:
                self._compared, self.difference = (), None
            return
        self._compared, self.difference = token, difference(voxels, a, b)

    def _ask_meshes(self, view: ViewState, parameters: Parameters | None, share: float) -> None:
        """The meshes of both sections, from the worker; the ones before stand until they are there."""
        if not self.with_meshes or self.a is None or parameters is None:
            self.meshes, self.notes = {}, {}
            return
        for name, look in zip(NAMES, (self.a, self.b), strict=True):
            key = f"what-if mesh {name}"
            token = (parameters.token, look)
            view.worker.ask(key, token, lambda look=look: section_mesh(parameters, look), share)
            found = view.worker.result(key)
            self.notes[name] = "" if found is not None and same_token(found[0], token) else "being computed …"
            if found is not None and isinstance(found[1], WorkFailed):
                self.notes[name] = found[1].message
                self.meshes.pop(name, None)
            elif found is not None:
                self.meshes[name] = found[1]


def section_mesh(parameters: Parameters, look: Kept) -> MeshArrays:
    """The surface of a look's active voxels and their halo."""
    if look.crossed:
        return NO_MESH
    active = active_voxels(parameters.voxels, look.camera)
    return arrays_of(parameters.mesh(add_halo(parameters.voxels, active, look.rings)))
