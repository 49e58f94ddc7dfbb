"""FrustumView: which planes the camera looked at is given, and what its section would be: counts, search, mesh, rim."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from sparseflex.camera import Camera
from sparseflex.frustum import ANCHORS, METHODS
from sparseflex.training.run import RunCamera
from workbench.look_work import Adaptation, Choices, Found, Look, Search, find
from workbench.section_work import NO_MESH, PARAMETERS, Parameters, Rim, Section, SectionWork
from workbench.split import Split
from workbench.what_if import Fault, Move
from workbench.worker import WorkFailed, same_token

if TYPE_CHECKING:
    from sparseflex.voxels import SparseVoxels
    from workbench.snapshot import MeshArrays, Snapshot
    from workbench.view_state import ViewState

PANEL = "Frustum"
VIEW_KIND = "view"
"""The kind of a RunCamera that is the user's own view."""

FOLLOW_VOXELS = 100_000
"""Larger sets are copied for sections and rims only while the run stands still."""

FOLLOW_SHARE = 0.05
"""Most of the time that the worker may spend on following a run that plays."""

INLINE_VOXELS = 100_000
"""Smaller sets are split within the redraw: it takes a few milliseconds at most."""

MIN_DEPTH = 1e-4
MAX_HALO = 8
PLANES = ("run", "adapted", "hand")
_FIND = "look"


@dataclasses.dataclass
class FrustumView:
    """Choices: adapted (planes adapted here instead of the run's own), with ratio, anchor, method, seed and halo for
    it; by_hand: planes are near and far instead, shown in world units or voxel widths (in_widths); moving: a copy of
    the camera that move takes elsewhere is looked at; rim: whether rim pixels are looked for. All else is derived:
    look, search, faults, section_mesh (of a camera that isn't the run's current one, where only sections are shown),
    and what the workers found.

    background: large sets are split by a worker of their own, and what was found last shows until that is done.
    """

    KEPT: ClassVar[tuple[str, ...]] = ("adapted", "ratio", "anchor", "method", "halo", "rim", "rim_marks")

    adapted: bool = False
    by_hand: bool = False
    near: float = 0.5
    far: float = 2.0
    in_widths: bool = False
    ratio: float = 0.3
    anchor: str = "front"
    method: str = "exact"
    halo: int = 2
    seed: int = 0
    moving: bool = False
    move: Move = Move()
    rim: bool = True
    rim_marks: bool = True
    background: bool = False
    look: Look | None = None
    search: Search | None = None
    faults: tuple[Fault, ...] = ()
    section_mesh: MeshArrays | None = None
    _parameters: Parameters | None = None
    _work: SectionWork = dataclasses.field(default_factory=SectionWork)
    _view_seen: Camera | None = None
    _asked_by_user: tuple = ()
    _found: tuple[tuple, Found] | None = None

    @property
    def planes(self) -> str:
        """Which of PLANES are looked at."""
        return PLANES[2] if self.by_hand else PLANES[int(self.adapted)]

    @planes.setter
    def planes(self, chosen: str) -> None:
        """By hand they begin where they stand."""
        if chosen == PLANES[2] and not self.by_hand and self.look is not None:
            self.near, self.far = self.look.near_far
        self.by_hand, self.adapted = chosen == PLANES[2], chosen == PLANES[1]

    def set_plane(self, name: str, depth: float) -> None:
        """Puts "near" or "far" at a depth, by hand from now on."""
        self.planes = PLANES[2]
        setattr(self, name, max(float(depth), MIN_DEPTH))

    @property
    def adaptation(self) -> Adaptation:
        """The choices, within what they may be: a preferences file may hold anything."""
        ratio = self.ratio if 0.0 < self.ratio <= 1.0 else 0.3
        anchor = self.anchor if self.anchor in ANCHORS else ANCHORS[0]
        method = self.method if self.method in METHODS else METHODS[0]
        return Adaptation(ratio, anchor, method, max(self.seed, 0))

    def look_at_view(self, view: ViewState) -> None:
        """Looks at the user's own view from now on."""
        if view.view_camera is not None:
            view.pinned = RunCamera(view.view_camera, VIEW_KIND)

    @staticmethod
    def of_view(known: RunCamera | None) -> bool:
        return known is not None and known.kind == VIEW_KIND

    # What the run must give for it

    def wants_section(self, view: ViewState) -> bool:
        return self._wants_mesh(view) or self.wants_rim(view) or view.in_front(PANEL) or view.what_ifs.with_meshes

    def wants_rim(self, view: ViewState) -> bool:
        return self.rim and (view.in_front(PANEL) or (self.rim_marks and view.in_front("Maps")))

    def _wants_mesh(self, view: ViewState) -> bool:
        return view.section_only and view.layers.get("mesh", False) and self.look is not None and not self.look.current

    def scene_fields(self, view: ViewState, snapshot: Snapshot) -> set[str]:
        """The fields that sections and rims need, asked for as rarely as the scene's."""
        if not self.wants_section(view) or not set(PARAMETERS) <= set(snapshot.field_kinds):
            return set()
        if snapshot.playing and snapshot.scalars.get("voxels", 0.0) > FOLLOW_VOXELS:
            return set()
        return {*PARAMETERS, *({"surface"} if self.wants_rim(view) else ())}

    # What follows

    def update(self, view: ViewState, snapshot: Snapshot) -> None:
        """Brings look, split and search up to date with the choices and a snapshot, and asks the worker for the rest.

        snapshot: one with the scene's fields.
        """
        voxels = snapshot.fields.get("voxels")
        self._follow_view(view)
        view.camera_log.note(view, snapshot)
        known = view.selected_camera(snapshot)
        if known is None:
            self.look, self.search, self.faults, self._found = None, None, (), None
            if view.split.camera is not None:
                view.split = Split()
            view.split.update(voxels, None, "")
        else:
            self._take(view, self._find(view, voxels, known, snapshot), known)
        self._parameters = self._latest_parameters(voxels, snapshot)
        self._ask(view, snapshot)
        view.what_ifs.update(view, voxels, self._parameters, snapshot.playing)

    def _follow_view(self, view: ViewState) -> None:
        """Looks at the view where it has come to rest: each look has its price."""
        seen, self._view_seen = self._view_seen, view.view_camera
        if not self.of_view(view.pinned) or view.view_camera is None or seen is None:
            return
        if _same_camera(seen, view.view_camera) and not _same_camera(view.pinned.camera, view.view_camera):
            view.pinned = RunCamera(view.view_camera, VIEW_KIND)

    def _choices(self, view: ViewState, known: RunCamera, snapshot: Snapshot) -> Choices:
        move = self.move if self.moving and not self.of_view(known) else Move()
        own = not (self.adapted or self.by_hand)
        current = own and move.is_none and bool(snapshot.cameras) and snapshot.cameras[0].camera is known.camera
        asked = _setting(snapshot, "visibility_ratio")
        asked = asked if asked is not None and asked < 1 and own and move.is_none and not self.of_view(known) else None
        rings = int(_setting(snapshot, "halo") or 0) if own else min(max(self.halo, 0), MAX_HALO)
        return Choices(self.adaptation if self.adapted and not self.by_hand else None,
                       (self.near, self.far) if self.by_hand else None, move, asked, rings, current,
                       view.in_front(PANEL))

    def _find(self, view: ViewState, voxels: SparseVoxels | None, known: RunCamera, snapshot: Snapshot) -> Found:
        """What is found of these choices; of a large set what was found last, until the worker is done."""
        choices, trace = self._choices(view, known, snapshot), snapshot.fields.get("trace")
        trace = trace if choices.current else None
        token = (voxels, known.camera, choices.token, trace)
        before = None if self._found is None else self._found[1]
        if self._found is not None and same_token(token, self._found[0]):
            return before
        at_once = not self.background or voxels is None or voxels.n_voxels <= INLINE_VOXELS
        if not at_once and before is not None and before.split.voxels is voxels:
            view.quick.ask(_FIND, token, lambda: find(voxels, known, choices, trace, before))
            done = view.quick.result(_FIND)
            if done is not None and isinstance(done[1], Found) and done[1].split.voxels is voxels:
                self._found = done
            if done is None or isinstance(done[1], Found) or not same_token(done[0], token):
                return self._found[1]
        self._found = (token, find(voxels, known, choices, trace, before))
        return self._found[1]

    def _take(self, view: ViewState, found: Found, known: RunCamera) -> None:
        self.look, self.search, self.faults = found.look, found.search, found.faults
        if self.look.known is not known and self.look.known.camera is known.camera:
            self.look = dataclasses.replace(self.look, known=known)
            found.split.label = known.label
        view.split = found.split

    def _latest_parameters(self, voxels: SparseVoxels | None, snapshot: Snapshot) -> Parameters | None:
        """The snapshot's parameters, or the last ones as long as they are of its voxels."""
        known, found = self._parameters, Parameters.of(snapshot)
        if found is None:
            return known if known is not None and known.voxels is voxels else None
        same = known is not None and same_token(found.token, known.token)
        return known if same and known.surface is found.surface else found

    # What the worker finds

    def _ask(self, view: ViewState, snapshot: Snapshot) -> None:
        look, parameters, worker = self.look, self._parameters, view.worker
        self.section_mesh = None
        if look is None or parameters is None or not self.wants_section(view):
            return
        with_mesh, rim = self._wants_mesh(view), self.wants_rim(view)
        if look.crossed:  # a section of nothing
            self.section_mesh = NO_MESH if with_mesh else None
            return
        by_user = (view.pinned and look.camera, look.rings, with_mesh, rim, self.adaptation if self.adapted else None)
        share = FOLLOW_SHARE if snapshot.playing and same_token(by_user, self._asked_by_user) else 1.0
        self._asked_by_user = by_user
        work, camera, rings = self._work, look.camera, look.rings
        token = (parameters.token, camera, rings)
        worker.ask("section", (*token, with_mesh), lambda: work.section(parameters, camera, rings, with_mesh), share)
        if rim:
            worker.ask("rim", (*token, parameters.surface), lambda: work.rim(parameters, camera, rings), share)
        found = self.section(view)
        self.section_mesh = found.mesh if with_mesh and isinstance(found, Section) else None

    def section(self, view: ViewState) -> Section | WorkFailed | None:
        """The last section found, of the camera looked at or, until that is there, of the one before."""
        return self._result(view, "section")

    def rim_found(self, view: ViewState) -> Rim | WorkFailed | None:
        """The same for the rim."""
        return self._result(view, "rim")

    def _result(self, view: ViewState, key: str) -> Any:
        found = None if self._parameters is None else view.worker.result(key)
        return None if found is None else found[1]


def _setting(snapshot: Snapshot, name: str) -> float | None:
    setting = snapshot.settings.get(name)
    return None if setting is None else setting.value


def _same_camera(a: Camera, b: Camera) -> bool:
    same = (a.width, a.height, a.near, a.far) == (b.width, b.height, b.near, b.far)
    return same and abs(a.fov_y_degrees - b.fov_y_degrees) < 1e-6 and bool(
        torch.allclose(a.camera_from_world, b.camera_from_world, rtol=0.0, atol=1e-6))
