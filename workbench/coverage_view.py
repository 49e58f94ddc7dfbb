"""CoverageView: which voxels were active and seen, by which kinds of cameras, which were not; the next camera."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from sparseflex.camera import Camera
from sparseflex.next_camera import Suggestion, Suggestions, suggest_cameras
from sparseflex.representation import SparseFlex
from sparseflex.training.coverage import KINDS, PLANES, SOURCES
from sparseflex.training.fit_cameras import camera_key
from sparseflex.training.run import RunCamera
from sparseflex.voxels import SparseVoxels
from workbench import quantities, theme
from workbench.network_view import Picked, voxel_on_ray
from workbench.quantities import Quantity
from workbench.section_work import PARAMETERS, Parameters, mesh_of
from workbench.worker import WorkFailed, same_token

if TYPE_CHECKING:
    from workbench.commands import ChangeCameras
    from workbench.snapshot import Snapshot
    from workbench.view_state import ViewState

PANEL = "Coverage"
SEEN, ACTIVE, SEEN_BY, VIEWS = "seen_count", "active_count", "seen_by", "views"
LAST_SEEN = "last_seen"
QUANTITIES = ("seen_count", "camera_count", "active_count", "viewing_angle", "last_loss", "last_seen")
"""What voxels can be coloured by, of those that the run has."""

NEVER = "never seen"
SCENE_MODES = ("values", "marked")
MARKED, FAINT = theme.WRONGLY_KEPT, theme.OUTSIDE
INLINE_VOXELS = 100_000
"""Larger sets are counted by the worker."""

N_BINS = 32
FOLLOW_SHARE = 0.1
MOSTLY_BEHIND = 0.5
_COUNTS, _SUGGEST = "coverage", "next camera"
_IMAGE_SIZE = 256
_GHOST_DEPTH = 0.12


@dataclasses.dataclass(frozen=True)
class Added:
    """What one kind of camera or of planes adds: views drawn and how many of them saw nothing (None where the run
    doesn't say), voxels seen by it, and by no other kind of the same group."""

    source: str
    n_views: int | None
    n_blind: int | None
    n_seen: int
    n_only: int


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """A voxel set counted; None where the run doesn't say. n_surface: voxels whose corner signs differ, and of those
    n_unseen_surface were never seen. mark, marked: (N,) which voxels the scene marks; quantity: what colours them;
    counts, edges: its histogram, None where it has no values."""

    voxels: SparseVoxels
    n_active: int | None
    n_seen: int
    n_unseen: int
    n_unseen_surface: int | None
    n_surface: int | None
    kinds: tuple[Added, ...]
    planes: tuple[Added, ...]
    mark: str
    marked: Bool[np.ndarray, "N"]
    quantity: Quantity
    counts: Float[np.ndarray, "bins"] | None
    edges: Float[np.ndarray, "bins_1"] | None


@dataclasses.dataclass
class CoverageView:
    """shown: the scene shows it in place of the voxels' own layers, while the tab is in front; mode: of SCENE_MODES;
    quantity: of QUANTITIES; mark: NEVER, or the source whose own voxels are marked; within: voxels count as seen only
    where that was in so many of the last iterations, 0: ever (a surface that is still noise lets one see through);
    chosen: which suggestion is drawn; failure: why the last count ended without one.
    """

    KEPT: ClassVar[tuple[str, ...]] = ("shown", "mode", "quantity")

    shown: bool = True
    mode: str = "marked"
    quantity: str = "seen_count"
    mark: str = NEVER
    within: int = 0
    chosen: int = 0
    notice: str = ""
    added: list[Camera] = dataclasses.field(default_factory=list)
    wanting: bool = False
    summary: Summary | None = None
    failure: str = ""
    _token: tuple = ()
    _asked: tuple = ()  # the search whose end is shown or awaited: its voxels, the iteration, and what tells it apart
    _before: tuple = ()  # the one before it
    _ghost: tuple[Suggestion, Camera] | None = None
    _arrived: set[tuple[float, ...]] = dataclasses.field(default_factory=set)  # of those added: the run has said so

    # What the run must give

    @staticmethod
    def known(snapshot: Snapshot) -> bool:
        return snapshot.field_kinds.get(SEEN) == "voxel"

    def quantity_names(self, snapshot: Snapshot) -> list[str]:
        return [name for name in QUANTITIES if snapshot.field_kinds.get(name) == "voxel"]

    def quantity_name(self, snapshot: Snapshot) -> str:
        names = self.quantity_names(snapshot)
        return self.quantity if self.quantity in names else names[0]

    def wanted(self, snapshot: Snapshot) -> set[str]:
        """The fields that the numbers come from; for a suggestion the parameters and the target, too."""
        if not self.known(snapshot):
            return set()
        names = {"voxels", SEEN, ACTIVE, SEEN_BY, VIEWS, quantities.SDF, self.quantity_name(snapshot)}
        names |= {LAST_SEEN} if self.within else set()
        return names | ({*PARAMETERS, "target"} if self.wanting else set())

    def seen(self, snapshot: Snapshot) -> Bool[np.ndarray, "N"]:
        """Which voxels count as seen."""
        last, counted = snapshot.fields.get(LAST_SEEN), np.asarray(snapshot.fields[SEEN]) > 0
        if not self.within or last is None or last.shape != counted.shape:
            return counted
        # of a recording's field older than the snapshot `within` may go back beyond the start
        return counted & (last > snapshot.field_iterations.get(LAST_SEEN, snapshot.iteration) - self.within)

    def scene_fields(self, view: ViewState, snapshot: Snapshot) -> set[str]:
        return self.wanted(snapshot) if view.in_front(PANEL) else set()

    # What follows

    def update(self, view: ViewState, snapshot: Snapshot) -> None:
        """Counts anew where something changed; large sets beside the redraw, the numbers before them standing.

        snapshot: one with the scene's fields.
        """
        self._before = self._before if self._searching(view) else ()  # it holds its voxels
        if not view.in_front(PANEL):
            self._let_go(view)
            return
        self._ask_suggestion(view, snapshot)
        self._follow_added(snapshot)
        fields, voxels = snapshot.fields, snapshot.fields.get("voxels")
        if not self.known(snapshot) or voxels is None or np.shape(fields.get(SEEN)) != (voxels.n_voxels,):
            self.summary, self._token = None, ()
            return
        name = self.quantity_name(snapshot)
        if len(fields.get(name, ())) != voxels.n_voxels:
            name = SEEN  # until it comes
        names = (SEEN, ACTIVE, SEEN_BY, VIEWS, quantities.SDF, name)
        arrays = {each: fields.get(each) for each in names}
        token = (voxels, name, self.mark, self.within and (self.within, fields.get(LAST_SEEN)), *arrays.values())
        if same_token(token, self._token):
            return
        mark, seen = self.mark, self.seen(snapshot)
        if not view.frustum.background or voxels.n_voxels <= INLINE_VOXELS:
            self._token, self.summary = token, summarise(voxels, arrays, seen, name, mark)
            return
        share = FOLLOW_SHARE if snapshot.playing else 1.0
        view.worker.ask(_COUNTS, token, lambda: summarise(voxels, arrays, seen, name, mark), share)
        found = view.worker.result(_COUNTS)
        failed = found is not None and isinstance(found[1], WorkFailed) and same_token(found[0], token)
        self.failure = found[1].message if failed else ""
        if found is not None and isinstance(found[1], Summary) and found[1].voxels is voxels:
            self._token, self.summary = found
        elif self.summary is not None and self.summary.voxels is not voxels:
            self.summary, self._token = None, ()

    def _let_go(self, view: ViewState) -> None:
        """Nobody looks: what was counted of a large set takes memory, and holds the fields that it was counted from."""
        if self.summary is not None and self.summary.voxels.n_voxels > INLINE_VOXELS:
            self.summary, self._token = None, ()
            view.worker.forget(_COUNTS)

    def in_scene(self, view: ViewState) -> Summary | None:
        """What the scene shows in place of the voxels' own layers."""
        own = self.shown and view.in_front(PANEL) and view.what_ifs.in_scene is None
        found = self.summary if own else None
        return found if found is not None and found.voxels is view.split.voxels else None

    def pick(self, view: ViewState, snapshot: Snapshot) -> None:
        """Takes the voxel that was clicked: a marked one where the scene marks some."""
        found = self.in_scene(view)
        if view.click is None or found is None or self.mode != "marked":
            view.network.pick(view, snapshot)
            return
        rows = found.marked.nonzero()[0]
        some = found.voxels.take(torch.from_numpy(rows))
        row = voxel_on_ray(some, view.click, view.field.plane if view.field.cut else None, view.field.flipped)
        view.network.picked = None if row < 0 else Picked(tuple(some.voxel_ijk[row].tolist()), some.resolution)

    @staticmethod
    def blind_cameras(snapshot: Snapshot) -> list[tuple[RunCamera, str]]:
        """Cameras that saw nothing, and those of the user's own that saw most from behind, each with what is odd.

        An eye outside the unit box is in no wall: it sees insides where its near plane cuts the object open.
        """
        found = []
        for seen in snapshot.cameras:
            if seen.n_seen == 0:
                found.append((seen, "saw no voxel"))
            elif (seen.own is not None and seen.n_seen and (seen.behind or 0.0) > MOSTLY_BEHIND
                  and float(seen.camera.eye_world.abs().amax()) <= 0.5):
                found.append((seen, f"saw {seen.behind:.0%} from behind: in a wall?"))
        return sorted(found, key=lambda row: row[0].own is None)

    # The next camera

    def ask(self) -> None:
        """Has cameras suggested as soon as the fields are there."""
        self.wanting, self.notice, self.chosen = True, "", 0

    def _ask_suggestion(self, view: ViewState, snapshot: Snapshot) -> None:
        """Gives the worker what was asked for, once the snapshot holds all of it."""
        if not self.wanting:
            return
        lacking = [name for name in (*PARAMETERS, "target", SEEN) if name not in snapshot.field_kinds]
        if lacking:
            self.wanting = False
            self.notice = f"a suggestion needs the fields {', '.join(lacking)}, which this run lacks"
            return
        parameters, target = Parameters.of(snapshot), snapshot.fields.get("target")
        if parameters is None or target is None or np.shape(snapshot.fields.get(SEEN)) != (parameters.voxels.n_voxels,):
            return
        seen, self.wanting = self.seen(snapshot), False
        camera = snapshot.cameras[0].camera if snapshot.cameras else None
        size = (camera.width, camera.height) if camera else (_IMAGE_SIZE, _IMAGE_SIZE)
        halo = snapshot.settings.get("halo")
        rings = int(halo.value) if halo is not None else 0
        self._before = self._before if self._searching(view) else self._asked
        self._asked = token = (parameters.voxels, snapshot.iteration, object())  # holds no parameters
        view.worker.cancel(_SUGGEST)
        view.worker.ask(_SUGGEST, token, lambda: suggest_cameras(
            flex_of(parameters), torch.tensor(seen), mesh_of(target), width=size[0], height=size[1], halo=rings,
            progress=view.worker.report))

    def busy(self, view: ViewState) -> bool:
        """Whether cameras are looked for; a search that was cancelled counts no more, though it may have to notice."""
        return self.wanting or self._searching(view)

    def _searching(self, view: ViewState) -> bool:
        result = view.worker.result(_SUGGEST)
        return bool(self._asked) and (result is None or result[0] is not self._asked)

    def progress(self, view: ViewState) -> tuple[int, int] | None:
        """How many views have been looked at, of how many; None before the first."""
        return view.worker.progress(_SUGGEST) if self._searching(view) else None

    def cancel(self, view: ViewState) -> None:
        """Ends the search; what was found before it shows again."""
        view.worker.cancel(_SUGGEST)
        if self._searching(view):  # else it ended just now, and shows
            self._asked, self._before = self._before, ()
        self.wanting = False

    def suggestions(self, view: ViewState) -> tuple[Suggestions, int] | None:
        """What was found last, and of which iteration; a failure is said by notice."""
        result = view.worker.result(_SUGGEST) if self._asked else None
        if result is None or result[0] is not self._asked:
            return None
        if isinstance(result[1], WorkFailed):
            self.notice = result[1].message
            return None
        return result[1], self._asked[1]

    def suggestion(self, view: ViewState) -> Suggestion | None:
        """The one that is drawn and added."""
        found = self.suggestions(view)
        if found is None or not found[0].found:
            return None
        return found[0].found[min(max(self.chosen, 0), len(found[0].found) - 1)]

    def ghost(self, view: ViewState) -> Camera | None:
        """The camera that the scene draws though the run lacks it; one inside is short, not to go through walls."""
        found = self.suggestion(view) if view.in_front(PANEL) else None
        if found is None or found.camera in self.added:
            return None
        if self._ghost is None or self._ghost[0] is not found:
            near, far = found.camera.near, found.camera.far
            short = found.camera.with_planes(near, min(far, near + _GHOST_DEPTH))
            self._ghost = (found, short if found.sort == "inside" else found.camera)
        return self._ghost[1]

    def gained(self, view: ViewState, found: Summary) -> Suggestion | None:
        """The suggestion that is drawn, where it is of this voxel set."""
        suggestion = self.suggestion(view) if self.ghost(view) is not None else None
        return suggestion if suggestion is not None and self._asked[0] is found.voxels else None

    def add(self, view: ViewState, snapshot: Snapshot) -> list[ChangeCameras]:
        """The suggestion becomes a camera of the run's own, and the one looked at."""
        found = self.suggestion(view)
        if found is None:
            return []
        if snapshot.own_cameras is None or snapshot.source != "live":
            self.notice = ("a recording's cameras can't be changed: branch from here (Ctrl+B)"
                           if snapshot.source != "live" else "the cameras of this run can't be changed")
            return []
        self.added.append(found.camera)
        self._arrived.discard(camera_key(found.camera))
        view.pinned, commands = view.cameras.add(found.camera, snapshot)
        return commands

    def _follow_added(self, snapshot: Snapshot) -> None:
        """One that was the run's and is no longer, as it was deleted or gone back before, can be added again."""
        if not self.added:
            return
        there = {camera_key(camera) for camera in (*(snapshot.own_cameras or ()), *snapshot.kept_cameras)}
        self._arrived |= {camera_key(camera) for camera in self.added} & there
        self.added = [camera for camera in self.added if camera_key(camera) in there
                      or camera_key(camera) not in self._arrived]

    def forget(self) -> None:
        """Another run begins."""
        self.summary, self._token, self.wanting, self.notice = None, (), False, ""
        self._asked = self._before = ()
        self.added.clear()
        self._arrived.clear()


def flex_of(parameters: Parameters) -> SparseFlex:
    """The whole representation at the moment of the parameters."""
    values = {name: torch.tensor(array) for name, array in parameters.arrays.items()}
    return SparseFlex(parameters.voxels, **values, consistency_loss=torch.zeros(()))


def summarise(voxels: SparseVoxels, arrays: dict[str, Any], seen: Bool[np.ndarray, "N"], name: str, mark: str
              ) -> Summary:
    """Counts all there is; arrays: by name, None where the run has none; seen: which voxels count as that."""
    n = voxels.n_voxels
    active, seen_by, sdf, views = (arrays.get(each) for each in (ACTIVE, SEEN_BY, quantities.SDF, VIEWS))
    active = active if active is not None and active.shape == (n,) else None
    surface = surface_of(voxels, sdf) if sdf is not None and sdf.shape == (voxels.n_corners,) else None
    by = np.nan_to_num(seen_by).astype(np.uint8) if seen_by is not None and seen_by.shape == (n,) else None
    views = np.nan_to_num(views) if views is not None and views.shape == (len(SOURCES), 3) else None
    marked = ~seen if surface is None else ~seen & surface
    if mark in SOURCES and by is not None:
        marked = only_by(by, mark)
    values = np.asarray(arrays[name])
    shown = quantities.of_values(name, "", quantities.unit_of(name), False,
                                 quantities.one_column(name, values, quantities.parts_of(name, values)[0]))
    finite = shown.values[np.isfinite(shown.values)].astype(np.float64)  # bins of the tiniest numbers need it
    counts, edges = np.histogram(finite, quantities.bin_edges(finite, N_BINS)) if len(finite) else (None, None)
    return Summary(
        voxels, None if active is None else int((active > 0).sum()), int(seen.sum()), int((~seen).sum()),
        None if surface is None else int((~seen & surface).sum()), None if surface is None else int(surface.sum()),
        added(by, views, KINDS), added(by, views, PLANES), mark, marked, shown, counts, edges,
    )


def added(seen_by: Int[np.ndarray, "N"] | None, views: Float[np.ndarray, "8 3"] | None, group: tuple[str, ...]
          ) -> tuple[Added, ...]:
    """What each source of a group adds; those that were never drawn are left out."""
    if seen_by is None:
        return ()
    by_code = np.bincount(seen_by, minlength=256)
    codes, mask, rows = np.arange(256), _mask(group), []
    for source in group:
        bit, row = 1 << SOURCES.index(source), None if views is None else views[SOURCES.index(source)]
        found = Added(source, None if row is None else int(row[0]), None if row is None else int(row[1]),
                      int(by_code[codes & bit > 0].sum()), int(by_code[codes & mask == bit].sum()))
        if found.n_seen or found.n_views:
            rows.append(found)
    return tuple(rows)


def only_by(seen_by: Int[np.ndarray, "N"], source: str) -> Bool[np.ndarray, "N"]:
    """The voxels that a source has seen, and no other of its group."""
    return seen_by & _mask(KINDS if source in KINDS else PLANES) == 1 << SOURCES.index(source)


def _mask(group: tuple[str, ...]) -> int:
    return sum(1 << SOURCES.index(source) for source in group)


def surface_of(voxels: SparseVoxels, corner_sdf: Float[np.ndarray, "C"]) -> Bool[np.ndarray, "N"]:
    """Where the signs of a voxel's corners differ: the surface passes through it."""
    negative = corner_sdf < 0
    some, every = np.zeros(voxels.n_voxels, bool), np.ones(voxels.n_voxels, bool)
    for corners in voxels.corners_by_slot.numpy():
        own = negative.take(corners)
        some |= own
        every &= own
    return some & ~every
