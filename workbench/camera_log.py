"""CameraLog: the cameras of past iterations, as far as the window saw them or a recording holds them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sparseflex.training.run import RunCamera
from workbench.mailbox import Mailbox

if TYPE_CHECKING:
    from workbench.snapshot import Snapshot
    from workbench.view_state import ViewState

MAX_KNOWN = 20_000
"""So many iterations are remembered at most, the latest ones; some 30 MB."""

Answer = tuple[int, int, tuple[RunCamera, ...]]
"""How many answers there were, the iteration asked for, and the cameras of it and shortly before."""


@dataclasses.dataclass(frozen=True)
class LookUpCameras:
    """Asks a recording for the cameras of an iteration; they come into the box, and nothing that is shown changes."""

    iteration: int
    into: Mailbox[Answer]


@dataclasses.dataclass
class CameraLog:
    """known: the first camera of each iteration, counted from 1. wanted: the one to be looked at once it is there."""

    known: dict[int, RunCamera] = dataclasses.field(default_factory=dict)
    wanted: int | None = None
    answers: Mailbox[Answer] = dataclasses.field(default_factory=lambda: Mailbox((0, 0, ())))
    _noted: tuple[RunCamera, ...] = ()
    _taken: int = 0

    @property
    def n_found(self) -> int:
        """Grows with every answer."""
        return self.answers.latest()[0]

    def clear(self) -> None:
        self.known, self.wanted, self._noted = {}, None, ()
        self.answers, self._taken = Mailbox((0, 0, ())), 0

    def note(self, view: ViewState, snapshot: Snapshot) -> None:
        """Remembers a snapshot's cameras, and looks at the one that was asked for where a recording has answered."""
        if snapshot.cameras is not self._noted:
            self._noted = snapshot.cameras
            self._remember(snapshot.cameras)
        n, iteration, cameras = self.answers.latest()
        if n == self._taken:
            return
        self._taken = n
        self._remember(cameras)
        if self.wanted == iteration:
            self.wanted = None
            self._pin(view, iteration)

    def span(self, snapshot: Snapshot) -> tuple[int, int] | None:
        """The first and the last iteration whose cameras can be looked at; None where there is at most one."""
        if snapshot.source != "live" and snapshot.past.oldest is not None:
            first, last = max(snapshot.past.oldest, 1), snapshot.past.reached
        else:
            first, last = min(self.known, default=0), max(self.known, default=0)
        return (first, last) if last > first else None

    def choose(self, view: ViewState, snapshot: Snapshot, iteration: int) -> list[LookUpCameras]:
        """Looks at the camera of an iteration, or of the last one before it that is known."""
        self.wanted = None
        if snapshot.source != "live" and iteration not in self.known:
            self.wanted = iteration
            return [LookUpCameras(iteration, self.answers)]
        self._pin(view, iteration)
        return []

    def _pin(self, view: ViewState, iteration: int) -> None:
        before = [known for known in self.known if known <= iteration]
        if before or self.known:
            seen = self.known[max(before) if before else min(self.known)]
            # of a fixed one this use is meant, and not its latest
            view.pinned = seen if seen.own is None else dataclasses.replace(seen, own=None)

    def _remember(self, cameras: tuple[RunCamera, ...]) -> None:
        fresh: dict[int, RunCamera] = {}
        for seen in cameras:
            if seen.iteration is not None and seen.iteration > 0:
                fresh.setdefault(seen.iteration, seen)
        self.known |= fresh
        for iteration in sorted(self.known)[: max(len(self.known) - MAX_KNOWN, 0)]:
            del self.known[iteration]
