"""PruningView: which look at the voxels is shown, what it changed by kind and reason, and the sums of each level."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sparseflex.training.occupancy import PruneReason
from sparseflex.training.pruning import PruneEvent
from sparseflex.voxels import SparseVoxels

if TYPE_CHECKING:
    from workbench.snapshot import Snapshot
    from workbench.view_state import ViewState

KINDS = ("pruned", "born", "wrongly_kept", "wrongly_pruned")
"""The layers of an event; wrong is meant against the target, which the decisions never see."""

REASONS = {
    PruneReason.NO_SURFACE: "no surface near the child",
    PruneReason.SEEN_PAST: "views saw past it",
    PruneReason.UNKNOWN: "no view has judged it",
    PruneReason.OWN_SURFACE: "the fit has surface there",
    PruneReason.TARGET_SEEN: "the target was seen there",
    PruneReason.WAITING: "waits for the next look",
    PruneReason.BETWEEN: "between the thresholds",
    PruneReason.OCCUPIED: "above the upper threshold",
    PruneReason.LOGIT_BELOW: "logit below the threshold",
    PruneReason.LOGIT_REACHES: "logit reaches the threshold",
    PruneReason.NOT_PRUNED: "pruning is off",
}


@dataclasses.dataclass(frozen=True)
class LevelRow:
    """A level so far: n_pruned, n_born and n_wrongly_pruned are summed over its looks, n_kept and n_wrongly_kept are
    those after the last one."""

    level: int
    resolution: int
    n_kept: int
    n_pruned: int
    n_born: int
    n_wrongly_kept: int
    n_wrongly_pruned: int


@dataclasses.dataclass
class PruningView:
    """chosen: the iteration of the look that is shown, None for the latest; level: its level, None for any;
    log_counts: logarithmic counts."""

    KEPT: ClassVar[tuple[str, ...]] = ("log_counts",)

    chosen: int | None = None
    level: int | None = None
    log_counts: bool = True
    _known: dict[str, tuple[PruneEvent, SparseVoxels]] = dataclasses.field(default_factory=dict)
    _summary: tuple[PruneEvent, Summary] | None = None

    def event(self, events: Sequence[PruneEvent]) -> PruneEvent | None:
        """The look that is shown: the chosen one, or the latest where that has been forgotten."""
        if self.level is not None:
            events = [event for event in events if event.level == self.level]
        found = [event for event in events if event.iteration == self.chosen]
        return found[-1] if found else (events[-1] if events else None)

    def summary(self, event: PruneEvent) -> Summary:
        """Counts and reasons of the event looked at; counted once: of a million voxels it takes milliseconds."""
        if self._summary is None or self._summary[0] is not event:
            reasons = {kind: reasons_of(event, kind) for kind in KINDS}
            self._summary = (event, Summary(counts_of(event), reasons))
        return self._summary[1]

    def scene_fields(self, view: ViewState) -> set[str]:
        return {"prune"} if any(view.layers[kind] for kind in KINDS) else set()

    def voxels(self, snapshot: Snapshot, kind: str) -> SparseVoxels | None:
        """The voxels of a layer; the same object as long as the same look is shown. None where there is no look."""
        event = self.event(snapshot.fields.get("prune") or ())
        if event is None:
            return None
        known = self._known.get(kind)
        if known is None or known[0] is not event:
            found = event.pruned.prune(event.wrongly_pruned) if kind == "wrongly_pruned" else getattr(event, kind)
            known = self._known[kind] = (event, found)
        return known[1]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Voxels of an event by kind, and of each kind by reason."""

    counts: dict[str, int]
    reasons: dict[str, list[tuple[str, int]]]


def counts_of(event: PruneEvent) -> dict[str, int]:
    return {kind: getattr(event, f"n_{kind}") for kind in KINDS}


def reasons_of(event: PruneEvent, kind: str) -> list[tuple[str, int]]:
    """How many voxels of a kind for which reason, most first; born ones have one reason and are left out."""
    reasons: Any = {"pruned": event.pruned_reason, "wrongly_pruned": event.pruned_reason[event.wrongly_pruned],
                    "wrongly_kept": event.wrongly_kept_reason}.get(kind, ())
    counts = np.bincount(np.asarray(reasons, dtype=np.int64), minlength=1)
    found = [(REASONS.get(code, "not told"), int(count)) for code, count in enumerate(counts) if count]
    return sorted(found, key=lambda row: -row[1])


def level_rows(events: Sequence[PruneEvent]) -> list[LevelRow]:
    """A row a level, coarsest first. A subdivision's pruned children count for the level that it begins."""
    rows = []
    for level in sorted({event.level for event in events}):
        own = [event for event in events if event.level == level]
        last = own[-1]
        rows.append(LevelRow(
            level, last.resolution, last.n_kept, sum(event.n_pruned for event in own),
            sum(event.n_born for event in own), last.n_wrongly_kept, sum(event.n_wrongly_pruned for event in own),
        ))
    return rows
