"""PointView: the input points of an inference, those of them that are drawn, and what became of each."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from sparseflex.vae.diagnosis import NEIGHBOUR_CAUSES, Cause
from workbench import theme
from workbench.worker import same_token

if TYPE_CHECKING:
    from workbench.snapshot import Snapshot
    from workbench.view_state import ViewState

LAYER = "points"
POINTS, CAUSE = "points", "point_cause"
MAX_POINTS = 100_000
"""Points that are drawn at most; of more, an even subset."""


@dataclasses.dataclass(frozen=True)
class CauseLook:
    """How a cause is called, explained and drawn; colour None: the layer's own."""

    label: str
    tip: str
    colour: theme.Colour | None = None


LOOKS = {
    Cause.COVERED: CauseLook("covered", "A face of the surface comes about as near as voxels can tell"),
    Cause.NO_INPUT_VOXEL: CauseLook(
        "no input voxel", "No latent voxel holds the point: nothing can become of it", theme.FAR_CUT),
    Cause.PRUNED_1: CauseLook(
        "pruned at level 1", "The first upsampling pruned the child that holds the point", theme.PRUNED),
    Cause.PRUNED_2: CauseLook(
        "pruned at level 2", "The second upsampling pruned the child that holds the point", theme.ACTIVE),
    Cause.NO_SIGN_CHANGE: CauseLook(
        "no sign change", "Its voxel is there, but the SDF has one sign at all corners of it and those around it",
        theme.BORN),
    Cause.MISSING_NEIGHBOUR: CauseLook(
        "missing neighbour", "The sign changes near it, but an edge lacks one of its four voxels, and with it its face",
        theme.WRONGLY_KEPT),
}
"""By code of a point's cause."""


@dataclasses.dataclass(frozen=True, eq=False)
class ShownPoints:
    """places: (n, 3) of those drawn, rows: which they are; n_all: how many there are; n_lost: how many of all no
    surface covers, n_lost_drawn: how many of these are drawn."""

    places: Float[np.ndarray, "n 3"]
    rows: Int[np.ndarray, "n"]
    n_all: int
    n_lost: int = 0
    n_lost_drawn: int = 0


@dataclasses.dataclass
class PointView:
    """shown: what the layer draws, None where there are no points; colours: one each, None for the layer's own."""

    shown: ShownPoints | None = None
    colours: Float[np.ndarray, "n 3"] | None = None
    _known: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    def scene_fields(self, view: ViewState) -> set[str]:
        return {POINTS, CAUSE} if view.layers[LAYER] else set()

    def update(self, view: ViewState, snapshot: Snapshot) -> None:
        """Brings both up to date; what didn't change stays the same object."""
        points, cause = snapshot.fields.get(POINTS), snapshot.fields.get(CAUSE)
        self.shown = self.colours = None
        if points is None or not view.layers[LAYER]:
            return
        cause = cause if cause is not None and cause.shape == (len(points),) else None
        self.shown = self._once("shown", (points, cause), lambda: _shown(points, cause))
        if cause is not None:
            own = view.shades.colour(LAYER)
            self.colours = self._once("colours", (self.shown, own), lambda: colours_of(cause[self.shown.rows], own))

    def counts(self, snapshot: Snapshot) -> dict[int, int]:
        """Points by cause, all of them; {} where none is known."""
        cause = snapshot.fields.get(CAUSE)
        if cause is None:
            return {}
        found = self._once("counts", (cause,), lambda: np.bincount(cause.reshape(-1), minlength=len(Cause)))
        return {code: int(number) for code, number in enumerate(found)}

    def missing(self, snapshot: Snapshot) -> dict[int, int]:
        """Points of MISSING_NEIGHBOUR by what took the neighbour, as the pass counted them; {} where that isn't said of
        the points at hand."""
        names = {int(code): f"points_missing_{code.name.lower()}" for code in NEIGHBOUR_CAUSES}
        found = {code: int(snapshot.scalars[name]) for code, name in names.items() if name in snapshot.scalars}
        return found if sum(found.values()) == self.counts(snapshot).get(Cause.MISSING_NEIGHBOUR, 0) else {}

    def _once(self, name: str, token: tuple, make: Any) -> Any:
        known = self._known.get(name)
        if known is None or not same_token(known[0], token):
            known = self._known[name] = (token, make())
        return known[1]


def evenly(rows: Int[np.ndarray, "n"], most: int) -> Int[np.ndarray, "m"]:
    """At most so many of the rows, evenly spread over them."""
    return rows if len(rows) <= most else rows[(np.arange(most) * len(rows)) // most]


def _shown(points: Float[np.ndarray, "P 3"], cause: Any) -> ShownPoints:
    """An even subset of what can be drawn at all; the points that no surface covers come first: there are few."""
    rows = np.flatnonzero(np.isfinite(points).all(axis=1))
    if cause is None:
        rows = evenly(rows, MAX_POINTS)
        return ShownPoints(points[rows], rows, len(points))
    lost = cause[rows] != Cause.COVERED
    drawn = evenly(rows[lost], MAX_POINTS // 2)
    rows = np.sort(np.concatenate([drawn, evenly(rows[~lost], MAX_POINTS - len(drawn))]))
    return ShownPoints(points[rows], rows, len(points), int(lost.sum()), len(drawn))


def colour_of_scalar(name: str) -> theme.Colour | None:
    """The colour of the cause whose points a scalar of the run counts; None for other scalars."""
    for code, look in LOOKS.items():
        if name == ("points_covered" if code == Cause.COVERED else f"points_lost_{code.name.lower()}"):
            return look.colour or theme.POINTS
    return None


def colours_of(cause: Any, own: theme.Colour) -> Float[np.ndarray, "n 3"]:
    """A colour for each code; unknown codes as what isn't a number."""
    table = np.tile(np.float32(theme.NOT_A_NUMBER), (256, 1))
    for code, look in LOOKS.items():
        table[code] = look.colour or own
    return table[cause]
