"""HistoryTable: the scalars of every iteration, in a table that grows; what was given out never changes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from sparseflex.training.run import Run
from workbench.snapshot import History

_NOTHING = np.zeros(0)


class HistoryTable:
    """Rows of scalars, one an iteration, in a table that doubles; a view of it never changes afterwards."""

    def __init__(self, history: History | None = None) -> None:
        self._names = history.names if history else ()
        self._table = history.table.copy() if history else np.zeros((0, 0))
        self._n_rows = self._table.shape[0]
        self._places = {name: place for place, name in enumerate(self._names)}

    def append(self, scalars: Mapping[str, float]) -> None:
        fresh = tuple(name for name in scalars if name not in self._names)
        if fresh or self._n_rows == self._table.shape[0]:
            names = self._names + fresh
            grown = np.full((max(64, 2 * self._n_rows), len(names)), math.nan)
            grown[: self._n_rows, : len(self._names)] = self._table[: self._n_rows]
            self._names, self._table = names, grown
            self._places = {name: place for place, name in enumerate(names)}
        self._table[self._n_rows] = [scalars.get(name, math.nan) for name in self._names]
        self._n_rows += 1

    def column(self, name: str) -> Float[np.ndarray, "n"]:
        """The values of a scalar in every iteration so far, in place; empty where none has had it."""
        place = self._places.get(name)
        return _NOTHING if place is None else self._table[: self._n_rows, place]

    def last_row(self) -> dict[str, float] | None:
        """The scalars of the latest iteration by name, None before the first."""
        return dict(zip(self._names, self._table[self._n_rows - 1].tolist(), strict=True)) if self._n_rows else None

    def view(self) -> History:
        rows = self._table[: self._n_rows]
        rows.flags.writeable = False
        return History(self._names, rows)


def history_of(run: Run) -> History:
    """The iterations that a run brings with it, as after loading a checkpoint; empty where it keeps none.

    A run may offer `history`: a mapping of scalar names to equally long sequences.
    """
    columns = getattr(run, "history", None)
    columns = columns() if callable(columns) else columns
    if not columns:
        return History()
    table = np.stack([np.asarray(values, dtype=np.float64) for values in columns.values()], axis=1)
    return History(tuple(columns), table)
