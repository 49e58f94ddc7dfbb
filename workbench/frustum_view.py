"""FrustumView: which planes the camera looked at is given, and what its section would be: counts, search, mesh, rim."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from sparseflex.camera import Camera
from sparseflex.frustum import ANCHORS, METHODS, adapt_frustum
from sparseflex.training.run import RunCamera
from workbench.section_work import PARAMETERS, Parameters, Rim, Section, SectionWork
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

MAX_HALO = 8


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """How planes are adapted here; the arguments of adapt_frustum, seed for the anchor "random"."""

    ratio: float
    anchor: str
    method: str
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """trace: (rounds, 3) near, far and count of each round; exact: what order statistics give for the same; wanted:
    the count to be met. exact is None where only the run knows which ranks it wanted."""

    trace: Float[np.ndarray, "rounds 3"]
    wanted: int
    exact: tuple[float, float, int] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """The camera looked at: known as the run lists it, camera with the planes that it is shown with.

    asked: the visibility ratio, None where planes don't come from one. current: it is the run's, as the run uses it.
    """

    known: RunCamera
    camera: Camera
    asked: float | None
    rings: int
    current: bool


@dataclasses.dataclass
class FrustumView:
    """Choices: adapted (planes adapted here instead of the run's own), with ratio, anchor, method, seed and halo for
    it; rim: whether rim pixels are looked for. All else is derived: look, search, section_mesh (of a camera that isn't
    the run's current one, where only sections are shown), and what the worker found.
    """

    KEPT: ClassVar[tuple[str, ...]] = ("adapted", "ratio", "anchor", "method", "halo", "rim", "rim_marks")

    adapted: bool = False
    ratio: float = 0.3
    anchor: str = "front"
    method: str = "exact"
    halo: int = 2
    seed: int = 0
    rim: bool = True
    rim_marks: bool = True
    look: Look | None = None
    search: Search | None = None
    section_mesh: MeshArrays | None = None
    _parameters: Parameters | None = None
    _work: SectionWork = dataclasses.field(default_factory=SectionWork)
    _view_seen: Camera | None = None
    _asked_by_user: tuple = ()
    _looked: tuple = ()
    _searched: tuple = ()

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
        return self._wants_mesh(view) or self.wants_rim(view) or view.in_front(PANEL)

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
        known = view.selected_camera(snapshot)
        self.look = None if known is None else self._look(voxels, known, snapshot)
        if self.look is None:
            view.split.update(voxels, None, "")
        else:
            view.split.update(voxels, self.look.camera, known.label)
        if view.in_front(PANEL):
            view.split.histogram  # noqa: B018 - computed here, not while the panel draws
            self._update_search(view, voxels, snapshot)
        self._parameters = self._latest_parameters(voxels, snapshot)
        self._ask(view, snapshot)

    def _follow_view(self, view: ViewState) -> None:
        """Looks at the view where it has come to rest: each look has its price."""
        seen, self._view_seen = self._view_seen, view.view_camera
        if not self.of_view(view.pinned) or view.view_camera is None or seen is None:
            return
        if _same_camera(seen, view.view_camera) and not _same_camera(view.pinned.camera, view.view_camera):
            view.pinned = RunCamera(view.view_camera, VIEW_KIND)

    def _look(self, voxels: SparseVoxels | None, known: RunCamera, snapshot: Snapshot) -> Look:
        current = bool(snapshot.cameras) and snapshot.cameras[0].camera is known.camera and not self.adapted
        asked = _setting(snapshot, "visibility_ratio")
        rings = min(max(self.halo, 0), MAX_HALO) if self.adapted else int(_setting(snapshot, "halo") or 0)
        chosen = self.adaptation if self.adapted else None
        choices = (*(dataclasses.astuple(chosen) if chosen else ()), asked, rings, current)
        token = (voxels, known.camera, choices)
        if self.look is not None and same_token(token, self._looked):
            return dataclasses.replace(self.look, known=known) if self.look.known is not known else self.look
        self._looked = token
        if chosen is None or voxels is None:
            ratio = asked if asked is not None and asked < 1 and not self.of_view(known) else None
            return Look(known, known.camera, ratio, rings, current)
        fit = _adapt(voxels, known.camera, chosen, chosen.method)
        return Look(known, fit.camera, chosen.ratio, rings, current)

    def _update_search(self, view: ViewState, voxels: SparseVoxels | None, snapshot: Snapshot) -> None:
        look, trace = self.look, snapshot.fields.get("trace")
        token = (voxels, look and look.camera, None if self.adapted else trace)
        if same_token(token, self._searched):
            return
        self._searched, self.search = token, None
        if look is None or voxels is None or voxels.n_voxels == 0:
            return
        n_visible = voxels.n_voxels - view.split.counts["outside"]
        wanted = min(round((look.asked or 1.0) * voxels.n_voxels), n_visible)
        if self.adapted:
            chosen = self.adaptation
            exact = _adapt(voxels, look.known.camera, chosen, "exact")
            steps = _adapt(voxels, look.known.camera, chosen, "iterative").trace.numpy()
            counts = exact.camera.near, exact.camera.far, int(exact.trace[-1, 2])
            self.search = Search(steps, wanted, counts)
        elif look.current and trace is not None and len(trace):
            self.search = Search(np.asarray(trace, np.float64), wanted, None)

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
        return self._found(view, "section")

    def rim_found(self, view: ViewState) -> Rim | WorkFailed | None:
        """The same for the rim."""
        return self._found(view, "rim")

    def _found(self, view: ViewState, key: str) -> Any:
        found = None if self._parameters is None else view.worker.result(key)
        return None if found is None else found[1]


def _adapt(voxels: SparseVoxels, camera: Camera, chosen: Adaptation, method: str) -> Any:
    generator = torch.Generator().manual_seed(chosen.seed)
    return adapt_frustum(voxels, camera, chosen.ratio, method, chosen.anchor, generator)


def _setting(snapshot: Snapshot, name: str) -> float | None:
    setting = snapshot.settings.get(name)
    return None if setting is None else setting.value


def _same_camera(a: Camera, b: Camera) -> bool:
    same = (a.width, a.height, a.near, a.far) == (b.width, b.height, b.near, b.far)
    return same and abs(a.fov_y_degrees - b.fov_y_degrees) < 1e-6 and bool(
        torch.allclose(a.camera_from_world, b.camera_from_world, rtol=0.0, atol=1e-6))
