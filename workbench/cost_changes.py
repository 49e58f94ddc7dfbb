"""Changes in what stages cost: since which iteration one takes longer, peaks higher or leaks; nothing where noise would
explain it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

NEAR = 50
"""So many iterations on either side of a change are compared."""

LEAST = 8
"""So many must have come since."""

_SPANS = (64, 256, 1024, 4096)
"""Iterations looked at, the last ones: a change shows in the shortest span first."""

_LEAST_RATIO, _LEAST_OF_ALL = 1.25, 0.01
"""A stage's time counts as changed from this ratio on, if that is so much of all stages' time."""

_LEAST_BYTES, _LEAST_SHARE = 8e6, 0.02
_BRIDGE = 1.9
"""How far the sum of what is above the middle must rise, in its own spread; noise alone does once in 700 times."""

_ON_ITS_SIDE, _APART = 0.8, 4.0
"""The share of iterations that must lie on their side of the middle between before and after, and how many times the
noise of their medians these must lie apart."""

_MOSTLY, _FAR_APART = 0.65, 6.0
"""The same where there are many: then a smaller step among more noise is none of noise's either."""

_CLIPPED = 2.5
_SECS_FLOOR, _BYTES_FLOOR = 0.02, 2e5
"""The least noise that is reckoned with: of the logarithm of seconds, of bytes."""


@dataclasses.dataclass(frozen=True)
class Step:
    """The values from row on differ from those before: their medians, over NEAR of them at most."""

    row: int
    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class Change:
    """What has changed in a stage's cost since an iteration, the first that shows it. kind: "slower" or "faster", then
    before and after are seconds an iteration; "more" or "less", then bytes of its peak; "leak", then bytes that stay an
    iteration, before and after. everywhere: most other stages have changed with it, so that it isn't this one's doing.
    """

    stage: str
    iteration: int
    kind: str
    before: float
    after: float
    everywhere: bool = False

    @property
    def ratio(self) -> float:
        return self.after / self.before if self.before > 0 else math.inf

    @property
    def difference(self) -> float:
        return self.after - self.before


def step_in(values: Float[np.ndarray, "n"], floor: float) -> Step | None:
    """The step that stands out of a series and has lasted to its end; None where there is none. floor: the least noise
    that there is. Values that aren't finite are passed over."""
    rows = np.flatnonzero(np.isfinite(values))
    known = values[rows]
    for span in _SPANS:
        first = max(len(known) - span, 0)
        found = _step_within(known[first:], floor)
        if found is not None:
            return Step(int(rows[first + found.row]), found.before, found.after)
        if first == 0:
            break
    return None


def _step_within(values: Float[np.ndarray, "n"], floor: float) -> Step | None:
    n = len(values)
    if n < 2 * LEAST:
        return None
    middle = np.median(values)
    spread = max(1.4826 * float(np.median(np.abs(values - middle))), floor)
    clipped = np.clip((values - middle) / spread, -_CLIPPED, _CLIPPED)
    clipped = clipped - clipped.mean()
    rise = np.cumsum(clipped)[:-1]
    deviation = max(float(clipped.std()), 1e-12)
    split = int(np.abs(rise).argmax()) + 1
    if abs(rise[split - 1]) < _BRIDGE * deviation * math.sqrt(n) and not _short_and_clear(values, split, spread):
        return None
    split = _sharpened(values, split)
    before, after, latest = values[max(split - NEAR, 0) : split], values[split : split + NEAR], values[split:][-NEAR:]
    if len(before) < LEAST or len(after) < LEAST:
        return None
    low, high = float(np.median(before)), float(np.median(after))
    half = (low + high) / 2
    on_side = min(_share_above(before, half, high < low),
                  *(_share_above(part, half, high > low) for part in (after, latest)))
    noise = max(1.4826 * max(_deviation(before), _deviation(after)), floor)
    clear = abs(high - low) / (noise * math.sqrt(1 / len(before) + 1 / len(after)))
    if on_side < _ON_ITS_SIDE and (on_side < _MOSTLY or clear < _FAR_APART or min(len(before), len(after)) < NEAR // 2):
        return None
    return Step(split, low, high) if clear >= _APART else None


def _short_and_clear(values: Float[np.ndarray, "n"], split: int, spread: float) -> bool:
    """Whether what came before hardly varies against the step: then few iterations are enough to see it."""
    before, after = values[:split], values[split:]
    if len(before) < LEAST or len(after) < LEAST:
        return False
    gap = after.min() - before.max() if np.median(after) > np.median(before) else before.min() - after.max()
    return bool(gap > spread / 2)


def _sharpened(values: Float[np.ndarray, "n"], split: int) -> int:
    """The split nearby that leaves fewest values on the wrong side of the middle."""
    first, last = max(split - NEAR, 0), min(split + NEAR, len(values))
    part = values[first:last]
    low, high = np.median(values[first:split]), np.median(values[split:last])
    above = (part > (low + high) / 2) == (high > low)
    # moving the split past a value costs one if that value belongs to the part after it, and gains one if not
    wrong = np.concatenate([[0], np.cumsum(np.where(above, 1, -1))])
    least = np.flatnonzero(wrong == wrong.min())
    return first + int(least[-1])


def _share_above(values: Float[np.ndarray, "n"], half: float, above: bool) -> float:
    side: Bool[np.ndarray, "n"] = values > half if above else values < half
    return float(side.mean())


def _deviation(values: Float[np.ndarray, "n"]) -> float:
    return float(np.median(np.abs(values - np.median(values))))


def time_change(iterations: Float[np.ndarray, "n"], secs: Float[np.ndarray, "n S"], stages: Sequence[str]
                ) -> Change | None:
    """The stage whose seconds have changed by most, with since when; None where none has by more than noise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(secs > 0, np.log(np.maximum(secs, 1e-9)), np.nan)
    logs = logs[-_SPANS[-1] :]
    steps = [step_in(logs[:, column], _SECS_FLOOR) for column in range(len(stages))]
    total = float(np.median(np.nansum(secs[-NEAR:], axis=1))) if len(secs) else 0.0
    known = [(column, step) for column, step in enumerate(steps)
             if step is not None and abs(step.after - step.before) >= math.log(_LEAST_RATIO)
             and abs(math.exp(step.after) - math.exp(step.before)) >= _LEAST_OF_ALL * total]
    if not known:
        return None
    column, step = max(known, key=lambda found: abs(math.exp(found[1].after) - math.exp(found[1].before)))
    others = [_moved(logs[:, other], step.row) for other in range(len(stages)) if other != column]
    others = [moved for moved in others if moved == moved]
    everywhere = bool(others) and float(np.median(others) / (step.after - step.before)) > 0.5
    row = len(iterations) - len(logs) + step.row
    return Change(stages[column], int(iterations[row]), "slower" if step.after > step.before else "faster",
                  math.exp(step.before), math.exp(step.after), everywhere)


def _moved(values: Float[np.ndarray, "n"], row: int) -> float:
    """By how much the median has moved at a row; NaN where that can't be told."""
    before, after = values[max(row - NEAR, 0) : row], values[row : row + NEAR]
    before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    return float(np.median(after) - np.median(before)) if len(before) and len(after) else math.nan


def memory_change(iterations: Float[np.ndarray, "n"], peaks: Float[np.ndarray, "n S"], stages: Sequence[str]
                  ) -> Change | None:
    """The stage whose peak has changed by most, or that leaks, with since when; None where none has by more than noise.

    Peaks hold all that was in use before, so that one which stays raises all that follow: what tells the stage is by
    how much its peak is above that of the stage which ran before it. "leak": what it adds is still there when the next
    iteration ends, and the next, so that the whole grows by it each time.
    """
    peaks = peaks[-_SPANS[-1] :]
    known = np.flatnonzero(np.isfinite(peaks).all(axis=0) | (np.isfinite(peaks).sum(axis=0) >= 2 * LEAST))
    if not len(known) or len(peaks) < 2 * LEAST:
        return None
    used = peaks[:, known]
    above = np.diff(used, axis=1, prepend=np.concatenate([[np.nan], used[:-1, -1]])[:, None])
    growth = np.diff(used[:, -1], prepend=np.nan)
    found: list[Change] = []
    for place, column in enumerate(known):
        step = step_in(above[:, place], _BYTES_FLOOR / 10)
        if step is not None:
            change = _of_step(step, growth, used[:, place])
            if change is not None:
                row = len(iterations) - len(peaks) + step.row
                found.append(Change(stages[column], int(iterations[row]), *change))
    return max(found, key=_weight, default=None)


def _of_step(step: Step, growth: Float[np.ndarray, "n"], peak: Float[np.ndarray, "n"]
             ) -> tuple[str, float, float] | None:
    """Kind, before and after of a step in how far a stage's peak lies above the one before it; None for a small one."""
    much = max(_LEAST_BYTES, _LEAST_SHARE * float(np.nanmedian(peak)))
    by, grown = step.after - step.before, _moved(growth, step.row)
    since = len(peak) - step.row
    if by > 0 and grown > 0.5 * by:
        before = growth[max(step.row - NEAR, 0) : step.row]
        start = float(np.nanmedian(before)) if np.isfinite(before).any() else 0.0
        return ("leak", start, start + by) if by * since >= much else None
    if abs(by) < max(much, _BYTES_FLOOR):
        return None
    high = _median(peak[step.row : step.row + NEAR])
    low = _median(peak[max(step.row - NEAR, 0) : step.row])
    if by < 0 < high - low or high - low < 0 < by:  # it is the stage before that has changed
        return None
    if abs(high - low) < max(much, _BYTES_FLOOR):
        return None
    return "more" if by > 0 else "less", low, high


def _median(values: Float[np.ndarray, "n"]) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def _weight(change: Change) -> float:
    """A leak goes before all else: it has no end."""
    return abs(change.difference) + (1e18 if change.kind == "leak" else 0.0)


def columns_of_most(secs: Float[np.ndarray, "n S"], n: int) -> Int[np.ndarray, "m"]:
    """The columns of the largest sums, n at most, in their own order; the first iteration sets things up."""
    sums = np.nansum(secs[1:] if len(secs) > 1 else secs, axis=0)
    return np.sort(np.argsort(-sums, kind="stable")[:n])
