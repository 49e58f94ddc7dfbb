"""GradientView: which term's gradient by which parameter is looked at, and what the worker found of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from sparseflex.training.backward_pass import BACKWARD, PARAMETERS, BackwardPass
from sparseflex.training.gradient_regions import Region
from sparseflex.voxels import SparseVoxels
from workbench.camera_view import near_camera
from workbench.frustum_view import FOLLOW_SHARE
from workbench.gradient_work import Pull, PullWork, Summary, summarise
from workbench.network_view import Picked
from workbench.worker import WorkFailed, same_token

if TYPE_CHECKING:
    from workbench.snapshot import Snapshot
    from workbench.view_state import ViewState

PANEL = "Gradients"
PAGES = ("terms", "regions", "voxel")
_SUMMARY, _PULL = "gradients", "pixel pull"
_NEAR, _ROOM = 16.0, 3.0
"""How far away a region is looked at from: so many voxel widths at least, and so many times its size."""


@dataclasses.dataclass
class GradientView:
    """page: of PAGES; parameter: of PARAMETERS; term: one of the loss, "" for all; view: which of the pass's
    cameras; whole: its whole image, not only the part with pulls; region: the number of the chosen one in the summary,
    -1 where that has none such. Derived: summary and pull, None where nothing is known; failure says why."""

    KEPT: ClassVar[tuple[str, ...]] = ("parameter", "whole")

    page: str = PAGES[0]
    parameter: str = PARAMETERS[0]
    term: str = ""
    view: int = 0
    whole: bool = False
    region: int = -1
    summary: Summary | None = None
    pull: Pull | None = None
    failure: str = ""
    _work: PullWork = dataclasses.field(default_factory=PullWork)
    _asked_by_user: tuple = ()
    _voxels: tuple[Summary, int, SparseVoxels] | None = None
    _chosen: tuple[Region, int] | None = None  # with its resolution: in the next summary it has another number
    _numbered: Summary | None = None  # what region is a number of

    def wants(self, view: ViewState) -> bool:
        return view.in_front(PANEL)

    def clear(self) -> None:
        """Of the run before: its regions say nothing of the next."""
        self.term, self.view, self.region = "", 0, -1
        self.summary = self.pull = self._voxels = self._chosen = self._numbered = None
        self._work, self._asked_by_user = PullWork(), ()

    def release(self, view: ViewState) -> None:
        """Nobody looks: a backward pass takes as much as the section several times over."""
        if self._asked_by_user:  # a job may still run, whose result nobody would take
            self.summary = self.pull = self._voxels = self._numbered = None
            self._work, self._asked_by_user = PullWork(), ()
            view.worker.forget(_SUMMARY)
            view.worker.forget(_PULL)

    def pick(self, view: ViewState, snapshot: Snapshot) -> None:
        """Takes the voxel that was clicked in the scene, and shows it."""
        before = view.network.picked
        view.network.pick(view, snapshot)
        if view.network.picked is not None and view.network.picked != before:
            self.page = "voxel"

    def update(self, view: ViewState, snapshot: Snapshot) -> None:
        """Asks the worker about the snapshot's backward pass, and takes what it has found."""
        done = snapshot.fields.get(BACKWARD)
        if not isinstance(done, BackwardPass):
            self.summary = self.pull = None
            return
        if self.parameter not in PARAMETERS:  # a preferences file may hold anything
            self.parameter = PARAMETERS[0]
        if self.term not in done.terms:
            self.term = ""
        picked, parameter, term, number = view.network.picked, self.parameter, self.term, self.view
        by_user = (picked and (*picked.ijk, picked.resolution), parameter, term, number)
        share = FOLLOW_SHARE if snapshot.playing and same_token(by_user, self._asked_by_user) else 1.0
        self._asked_by_user = by_user
        view.worker.ask(_SUMMARY, (done, parameter, term), lambda: summarise(done, parameter, term), share)
        if picked is not None and picked.resolution == done.section.resolution:
            ijk, work = picked.ijk, self._work
            view.worker.ask(_PULL, (done, ijk, parameter, term, number),
                            lambda: work.pull(done, ijk, parameter, term, number), share)
        self._take(view, snapshot.playing, done, picked)

    def _take(self, view: ViewState, playing: bool, done: BackwardPass, picked: Picked | None) -> None:
        """What was found last: of this pass and these choices or, until that is there, of others."""
        self.failure = ""
        summary, pull = (self._result(view, key) for key in (_SUMMARY, _PULL))
        self.summary = summary if isinstance(summary, Summary) else None
        known = isinstance(pull, Pull) and picked is not None
        same = known and (pull.ijk, pull.resolution) == (picked.ijk, picked.resolution)
        self.pull = pull if same and (playing or pull.iteration == done.iteration) else None
        if self.summary is not None and self.summary is not self._numbered:
            self._numbered, self.region = self.summary, self._number_now(self.summary)

    def _result(self, view: ViewState, key: str) -> Any:
        found = view.worker.result(key)
        if found is not None and isinstance(found[1], WorkFailed):
            self.failure = found[1].message
        return None if found is None else found[1]

    def busy(self, view: ViewState) -> bool:
        return view.worker.busy(_SUMMARY) or view.worker.busy(_PULL)

    # Regions

    def choose(self, view: ViewState, number: int) -> None:
        """Shows a region: its voxels in the scene, its worst one picked, the view near it. Again lets it go."""
        if number == self.region:
            self.region, self._chosen = -1, None
            return
        region, resolution = self.summary.regions.first[number], self.summary.resolution
        self.region, self._chosen = number, (region, resolution)
        view.network.picked = Picked(region.worst, resolution)
        if view.view_camera is not None:
            low, high = np.array(region.low, float), np.array(region.high, float) + 1
            away = max(_NEAR, _ROOM * float((high - low).max())) / resolution
            view.cameras.look_through = near_camera(view.view_camera, (low + high) / 2 / resolution - 0.5, away)

    def _number_now(self, found: Summary) -> int:
        """Which of these regions is the chosen one: for the same reason, at its worst voxel; -1 where none is."""
        if self._chosen is None or self._chosen[1] != found.resolution:
            return -1
        region, first = self._chosen[0], found.regions.first
        row = int(found.section.find(torch.tensor([region.worst]))[0])
        number = int(found.regions.label[row]) if row >= 0 else -1
        return number if 0 <= number < len(first) and first[number].reason == region.reason else -1

    def alone(self, view: ViewState) -> bool:
        """Whether a region is shown where surfaces would hide it: all stands in one place."""
        return not view.side_by_side and self.region_voxels(view) is not None

    def region_voxels(self, view: ViewState) -> tuple[SparseVoxels, bool] | None:
        """The voxels of the chosen region, while the tab is in front, and whether it explodes."""
        if not self.wants(view):
            self.release(view)
        if self.summary is None or self.region < 0:
            return None
        if self._voxels is None or self._voxels[0] is not self.summary or self._voxels[1] != self.region:
            self._voxels = self.summary, self.region, self.summary.voxels_of(self.region)
        return self._voxels[2], self.summary.regions.first[self.region].explodes
