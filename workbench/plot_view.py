"""PlotView: what the plots panel shows, and the history's columns sorted into groups that share a plot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

from sparseflex.training.measure import BYTES_PREFIX, SECS_PREFIX
from workbench import theme
from workbench.snapshot import History

LOSSES, COUNTS, PLANES, SECONDS, BYTES = "Losses", "Counts", "Planes", "Seconds per stage", "Peak bytes per stage"
CHILDREN, CAUSES = "Voxels by level", "Input points by cause"

MARK_COLOURS: dict[str, theme.Colour] = {"keyframes": theme.rgb("#808890"), "prunings": theme.rgb("#D55E00"),
                                         "changes": theme.rgb("#F0E442"), "hits": theme.rgb("#56B4E9")}
"""What is marked in plots and on the scrubber: complete states recorded, voxels pruned, settings or cameras changed,
breakpoints hit."""

_COUNTS = ("voxels", "active", "section", "vertices", "faces", "pruned", "born")
_PLANES = ("near", "far")
_OF_LEVELS = ("children_", "kept_", "wrongly_kept_", "wrongly_pruned_")
_OF_POINTS = ("points_covered", "points_lost_")


@dataclasses.dataclass
class PlotView:
    """upper, lower: a group or a single scalar each; log_upper, log_lower, log_iterations: logarithmic axes."""

    KEPT: ClassVar[tuple[str, ...]] = ("upper", "lower", "log_upper", "log_lower", "log_iterations")

    upper: str = LOSSES
    lower: str = COUNTS
    log_upper: bool = True
    log_lower: bool = False
    log_iterations: bool = False

    other: History = dataclasses.field(default_factory=History)  # of the run beside, where there is one
    _drawn: dict[Hashable, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    def once(self, key: Hashable, history: History, make: Callable[[], Any]) -> Any:
        """make() for a curve where the history is another one than last time."""
        known = self._drawn.get(key)
        if known is None or known[0] is not history.table:
            known = self._drawn[key] = (history.table, make())
        return known[1]

    def chosen(self, place: str, history: History) -> str:
        """What the upper or lower plot shows: the choice, or the first there is where the run hasn't that."""
        wanted, known = getattr(self, place), choices(history)
        return wanted if wanted in known else known[0]


def groups(history: History) -> dict[str, list[str]]:
    """The columns of each group that the history has; every group's are of one unit."""
    names = history.names
    found = {
        LOSSES: [name for name in names if name == "loss" or name.startswith("loss_")],
        COUNTS: [name for name in names if name in _COUNTS],
        PLANES: [name for name in names if name in _PLANES],
        CHILDREN: [name for name in names if name.startswith(_OF_LEVELS)],
        CAUSES: [name for name in names if name.startswith(_OF_POINTS)],
        SECONDS: [name for name in names if name.startswith(SECS_PREFIX)],
        BYTES: [name for name in names if name.startswith(BYTES_PREFIX)],
    }
    return {group: columns for group, columns in found.items() if columns}


def choices(history: History) -> list[str]:
    """The groups, then every scalar alone."""
    known = groups(history)
    stages = {*known.get(SECONDS, ()), *known.get(BYTES, ())}
    return [*known, *(name for name in history.names if name != "iteration" and name not in stages)]


def columns_of(choice: str, history: History) -> list[str]:
    return groups(history).get(choice, [choice])


def line_label(name: str) -> str:
    """A column's name without what its group says already."""
    for prefix in ("loss_", SECS_PREFIX, BYTES_PREFIX):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    if name.startswith((*_OF_LEVELS, *_OF_POINTS)):
        return name.removeprefix("points_").removeprefix("lost_").replace("_", " ")
    return "total" if name == "loss" else name
