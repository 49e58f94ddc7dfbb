"""CostView: what the Costs tab shows of a run's seconds and bytes by stage, worked out once for each history."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from sparseflex.training.measure import BYTES_PREFIX, SECS_PREFIX
from workbench import profiling
from workbench.commands import ProfileIteration
from workbench.cost_changes import NEAR, Change, columns_of_most, memory_change, time_change
from workbench.memory_view import fresh_rows
from workbench.snapshot import History, Snapshot
from workbench.ui import megabytes, milliseconds

TIME, MEMORY, PROFILE = "Time", "Memory", "Profile"
PARTS = (TIME, MEMORY, PROFILE)

N_SHOWN = 7
"""Stages with a colour of their own; the rest are taken together."""

OTHERS = "others"
N_COLUMNS = 256
FEW_ROWS = 64
_LEAST_SHARE = 0.004
_LOOK_EVERY = 8
_MUCH_MORE = 1.2


@dataclasses.dataclass(frozen=True, eq=False)
class StageValues:
    """A number of every stage in every iteration: iterations (n,), values (n, S), NaN where it wasn't measured.
    settled: the iterations before which freed memory was given back, where not all are: their peaks start lower."""

    stages: tuple[str, ...]
    iterations: Float[np.ndarray, "n"]
    values: Float[np.ndarray, "n S"]
    settled: Float[np.ndarray, "m"] = dataclasses.field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, history: History, prefix: str, stages: Sequence[str]) -> StageValues:
        """The history's columns of that prefix: the run's stages first, in their order."""
        known = [name.removeprefix(prefix) for name in history.names if name.startswith(prefix)]
        order = [stage for stage in stages if stage in known] + [stage for stage in known if stage not in stages]
        columns = [history.names.index(prefix + stage) for stage in order]
        iterations = history.column("iteration")
        if iterations is None or not columns:
            return cls((), np.zeros(0), np.zeros((0, 0)))
        values = history.table[:, columns]
        there = np.isfinite(values).any(axis=1)
        settled = iterations[fresh_rows(history)] if prefix == BYTES_PREFIX else iterations[:0]
        if 2 * len(settled) > there.sum():  # on CUDA, which has nothing to give back
            settled = iterations[:0]
        return cls(tuple(order), iterations[there], values[there], settled)

    def alike(self) -> Float[np.ndarray, "n S"]:
        """The values that can be compared with each other, NaN in settled iterations."""
        return np.where(np.isin(self.iterations, self.settled)[:, None], np.nan, self.values)

    @property
    def n_rows(self) -> int:
        return len(self.iterations)

    def medians(self) -> dict[str, float]:
        """By stage, the median of the last NEAR iterations."""
        latest = self.values[-NEAR:]
        return {stage: _median(latest[:, column]) for column, stage in enumerate(self.stages)}

    def latest(self) -> dict[str, float]:
        return dict(zip(self.stages, self.values[-1].tolist(), strict=True)) if self.n_rows else {}


def recent(snapshot: Snapshot) -> StageValues:
    """The seconds of the last NEAR iterations."""
    history = snapshot.history
    return StageValues.of(History(history.names, history.table[-NEAR:]), SECS_PREFIX, snapshot.stages)


def _median(values: Float[np.ndarray, "n"]) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


@dataclasses.dataclass(frozen=True)
class StageRow:
    """A line of the table: seconds of the last iteration, their median over the last NEAR, its share of all stages'.
    n_stages: how many are taken together in it."""

    stage: str
    now: float
    median: float
    share: float
    n_stages: int = 1


def rows_of(values: StageValues, now: Mapping[str, float]) -> list[StageRow]:
    """The stages by their share, largest first, those of hardly any in one line; now: what they took last."""
    now = {stage: secs for stage, secs in now.items() if secs == secs}
    medians = {stage: median for stage, median in values.medians().items() if median == median}
    medians = {stage: medians.get(stage, secs) for stage, secs in {**dict.fromkeys(medians, math.nan), **now}.items()}
    total = sum(secs for secs in medians.values() if secs == secs)
    share = {stage: secs / total if total > 0 else 0.0 for stage, secs in medians.items()}
    large = sorted((stage for stage in share if share[stage] >= _LEAST_SHARE), key=lambda stage: -share[stage])
    small = [stage for stage in share if stage not in large]
    if len(small) == 1:
        large, small = [*large, *small], []
    rows = [StageRow(stage, now.get(stage, math.nan), medians[stage], share[stage]) for stage in large]
    if small:
        sums = [sum(part.get(stage, 0.0) for stage in small) for part in (now, medians, share)]
        rows.append(StageRow(OTHERS, *sums, n_stages=len(small)))
    return rows


@dataclasses.dataclass(frozen=True, eq=False)
class Layers:
    """Areas on top of each other: xs (m,), tops (k, m) the upper edge of each, from the lowest up."""

    names: tuple[str, ...]
    xs: Float[np.ndarray, "m"]
    tops: Float[np.ndarray, "k m"]


def layers_of(values: StageValues, shown: Sequence[str], log: bool, n_columns: int = N_COLUMNS) -> Layers:
    """The stages that are shown in the run's order, the others above them; log: the iterations' axis is logarithmic.

    Few iterations are drawn as steps; of many, those rows that carry the lowest and highest sum, and the peak of each
    stage, within a column of pixels.
    """
    filled = np.nan_to_num(values.values)
    columns = [column for column, stage in enumerate(values.stages) if stage in shown]
    parts = [filled[:, column] for column in columns]
    names = [values.stages[column] for column in columns]
    if len(columns) < len(values.stages):
        parts.append(np.delete(filled, columns, axis=1).sum(axis=1))
        names.append(OTHERS)
    table = np.stack(parts, axis=1) if parts else np.zeros((values.n_rows, 0))
    rows = picked_rows(np.log(np.maximum(values.iterations, 0.5)) if log else values.iterations, table, n_columns)
    xs, tops = values.iterations[rows], np.cumsum(table[rows], axis=1).T
    if len(xs) <= FEW_ROWS:
        xs, tops = np.stack([xs - 0.5, xs + 0.5], axis=1).ravel(), np.repeat(tops, 2, axis=1)
    return Layers(tuple(names), np.ascontiguousarray(xs), np.ascontiguousarray(tops))


def picked_rows(places: Float[np.ndarray, "n"], table: Float[np.ndarray, "n k"], n_columns: int
                ) -> Int[np.ndarray, "m"]:
    """In each of n_columns equal parts of the axis: the rows of the least and greatest sum, and of each greatest value.

    All rows where there are few. places: ascending.
    """
    n = len(places)
    if n <= 2 * n_columns:
        return np.arange(n)
    width = max(float(places[-1] - places[0]), 1e-12)
    column = np.minimum(((places - places[0]) / width * n_columns).astype(np.int64), n_columns - 1)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=n))
    total = table.sum(axis=1)
    picked = [np.array([0, n - 1])]
    for series in (-total, total, *table.T):
        at = np.flatnonzero(series == np.maximum.reduceat(series, starts)[group])
        picked.append(at[np.unique(group[at], return_index=True)[1]])
    return np.unique(np.concatenate(picked))


@dataclasses.dataclass(frozen=True)
class Pointed:
    """What lies under the mouse: the iteration nearest to it, what each stage took in it, and the stage whose area the
    mouse is in, "" above all of them."""

    iteration: int
    values: tuple[tuple[str, float], ...]
    stage: str = ""


def pointed_at(values: StageValues, layers: Layers, at: float, height: float) -> Pointed:
    """values must have rows; height: of the mouse on the axis of the sums."""
    row = int(np.abs(values.iterations - at).argmin())
    known = dict(zip(values.stages, np.nan_to_num(values.values[row]).tolist(), strict=True))
    others = sum(secs for stage, secs in known.items() if stage not in layers.names)
    found = [(name, others if name == OTHERS and name not in known else known[name]) for name in layers.names]
    tops = np.cumsum([secs for _, secs in found])
    place = int(np.searchsorted(tops, height)) if height >= 0 else len(tops)
    return Pointed(int(values.iterations[row]), tuple(found), found[place][0] if place < len(found) else "")


def change_words(change: Change, history: History) -> str:
    """One line, such as "extract ×1.8 since iteration 300 (12 → 22 ms)"."""
    since = f"since iteration {change.iteration:,}"
    if change.kind == "leak":
        return f"{change.stage} leaves {_bytes(change.difference)} more behind in every iteration {since}"
    if change.kind in ("more", "less"):
        how = "higher" if change.kind == "more" else "lower"
        return f"{change.stage} peaks {_bytes(abs(change.difference))} {how} {since}{_with_voxels(change, history)}"
    both = f"({milliseconds(change.before)} → {milliseconds(change.after)})"
    if change.everywhere:
        text = f"every stage ×{change.ratio:.2g} {since}, most of all {change.stage} {both}"
        return text + (_with_voxels(change, history) or ": the machine, rather than one of them")
    return f"{change.stage} ×{change.ratio:.2g} {since} {both}{_with_voxels(change, history)}"


def _bytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes < 1e7 else megabytes(n_bytes)


def _with_voxels(change: Change, history: History) -> str:
    """What the voxels did there, where they explain it: more work is no fault."""
    iterations = history.column("iteration")
    for name, words in (("section", "the voxels worked on"), ("voxels", "the voxels")):
        column = history.column(name)
        if column is None or iterations is None:
            continue
        before = _median(column[(iterations < change.iteration) & (iterations >= change.iteration - NEAR)])
        after = _median(column[(iterations >= change.iteration) & (iterations < change.iteration + NEAR)])
        if not (before > 0 and after > 0):
            continue
        ratio = after / before
        if max(ratio, 1 / ratio) >= _MUCH_MORE and (ratio > 1) == (change.after > change.before):
            return f", {words} ×{ratio:.2g}"
    return ""


@dataclasses.dataclass
class CostView:
    """part: what the tab shows; lines: each stage by itself on a logarithmic axis, not all on top of each other;
    chosen: the stage whose operators are listed, "" for all."""

    KEPT: ClassVar[tuple[str, ...]] = ("part", "lines", "log_iterations")

    part: str = TIME
    lines: bool = False
    log_iterations: bool = False
    chosen: str = ""

    _slots: dict[str, int] = dataclasses.field(default_factory=dict)
    _known: dict[str, tuple[object, StageValues]] = dataclasses.field(default_factory=dict)
    _changes: dict[str, tuple[object, Change | None]] = dataclasses.field(default_factory=dict)
    _made: dict[str, tuple[StageValues, tuple, Any]] = dataclasses.field(default_factory=dict)

    def seconds(self, snapshot: Snapshot) -> StageValues:
        """Of every iteration; of a long run that plays, up to a few iterations ago."""
        return self._values(snapshot, SECS_PREFIX)

    def peaks(self, snapshot: Snapshot) -> StageValues:
        return self._values(snapshot, BYTES_PREFIX)

    def _values(self, snapshot: Snapshot, prefix: str) -> StageValues:
        table = snapshot.history.table
        old = self._known.get(prefix)
        if old is not None:
            late = len(table) - len(old[0])
            if old[0] is table or (snapshot.playing and 0 <= late <= len(table) // N_COLUMNS):  # no pixel's worth
                return old[1]
        values = StageValues.of(snapshot.history, prefix, snapshot.stages)
        self._known[prefix] = table, values
        return values

    def once(self, name: str, values: StageValues, key: tuple, make: Callable[[], Any]) -> Any:
        """make() for a thing of that name, where the values or the key are others than last time."""
        known = self._made.get(name)
        if known is None or known[0] is not values or known[1] != key:
            known = self._made[name] = values, key, make()
        return known[2]

    def shown(self, values: StageValues) -> dict[str, int]:
        """The stages with a colour of their own in the run's order, and which it is: it stays as long as they do.

        Those that take most time have one, in the plot of their memory too.
        """
        _, seconds = self._known.get(SECS_PREFIX, (None, values))
        values = seconds if seconds.stages == values.stages and seconds.n_rows else values
        return self.once("shown", values, (), lambda: self._choose(values))

    def _choose(self, values: StageValues) -> dict[str, int]:
        most = [values.stages[column] for column in columns_of_most(values.values, N_SHOWN)]
        if len(values.stages) == N_SHOWN + 1:  # a single other one may as well be named
            most = list(values.stages)
        self._slots = {stage: slot for stage, slot in self._slots.items() if stage in most}
        free = (slot for slot in range(N_SHOWN + 1) if slot not in self._slots.values())
        self._slots |= {stage: next(free) for stage in most if stage not in self._slots}
        return {stage: self._slots[stage] for stage in most}

    def layers(self, values: StageValues) -> Layers:
        key = self.log_iterations,
        return self.once("layers", values, key, lambda: layers_of(values, list(self.shown(values)), *key))

    def change(self, values: StageValues, prefix: str, playing: bool) -> Change | None:
        """What has changed lately. While the run plays it is looked at now and then, else for every iteration."""
        known, end = self._changes.get(prefix), (values.n_rows, float(values.iterations[-1]) if values.n_rows else 0.0)
        if known is not None and playing and 0 <= end[0] - known[0][0] < max(_LOOK_EVERY, end[0] // 128):
            return known[1]
        if known is None or known[0] != end:
            find = time_change if prefix == SECS_PREFIX else memory_change
            known = self._changes[prefix] = end, find(values.iterations, values.alike(), values.stages)
        return known[1]

    def forget(self) -> None:
        """What was worked out is of the run before."""
        for found in (self._slots, self._known, self._changes, self._made):
            found.clear()
        self.chosen = ""

    def ask_for_profile(self, checkpoint_path: Path) -> ProfileIteration:
        """The command that has an iteration profiled beside the checkpoint; from the main thread."""
        profiling.make_ready()
        return ProfileIteration(checkpoint_path.parent)
