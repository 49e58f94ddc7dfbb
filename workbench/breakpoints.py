"""Breakpoints: conditions at which a run stops; which there are, when each is looked at, and what it found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from sparseflex.training.measure import BYTES_PREFIX, SECS_PREFIX
from sparseflex.training.run import Run
from workbench.commands import RemoveBreakpoint, SetBreakpoint
from workbench.expression_functions import number_of
from workbench.expressions import Expression, ExpressionError, parse
from workbench.history_table import HistoryTable, history_of
from workbench.snapshot import Breakpoint, History, Hit

STANDING = frozenset({"iteration", "voxels", "resolution", "level", "resident_bytes"})
"""Scalars of what an iteration works on, whatever stage of it sets them anew: beside others they aren't waited for."""

MAX_BREAKPOINTS = 100
Earlier = Callable[[str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class ScalarNames:
    """The scalars that a run has. whole: whether there are no others; a run that says nothing of them has shown what it
    has when its first iteration has ended."""

    names: tuple[str, ...] = ()
    whole: bool = False


def scalar_names(run: Run, history: History) -> ScalarNames:
    """What the run declares (`scalar_names`), shows now, and has shown in iterations before."""
    declared = getattr(run, "scalar_names", None)
    recorded = (name for name in history.names if not name.startswith((SECS_PREFIX, BYTES_PREFIX)))
    names = {"iteration", *(declared or ()), *run.scalars(), *recorded}
    return ScalarNames(tuple(sorted(names)), declared is not None or run.iteration > 0)


def checked(text: str, known: ScalarNames) -> Expression:
    """The expression of a run's breakpoint; raises ExpressionError."""
    return parse(text.strip(), known.names if known.whole else None)


class Breakpoints:
    """The breakpoints of a run; belongs to the thread that drives it.

    `after` is called after every stage. A condition is looked at once an iteration: after the last of the stages that
    set its scalars, so that all of them are of this iteration; at the iteration's end where that isn't known yet. The
    stages are learned from what changes. A condition that still lacks a scalar is left alone; one whose scalar no
    stage has set when a whole iteration has ended is refused then, where the run does not say which it has.
    """

    def __init__(self, run: Run, history: History, breakpoints: Iterable[Breakpoint] = ()) -> None:
        self._stages = tuple(run.stages)
        self._known = scalar_names(run, history)
        self._points: list[Breakpoint] = []
        self._parsed: dict[str, Expression] = {}
        self._setters: dict[str, int] = {}  # by scalar, the last stage that is known to set it
        self._seen: dict[int, tuple[str, ...]] = {}  # by stage, what it changed last time
        self._looked_at: set[str] = set()  # in this iteration
        self._due: dict[int, list[str]] | None = None
        self._hit_at: np.ndarray = np.zeros(0, np.int64)
        for point in breakpoints:
            self.set(point.expression, point.enabled, point.one_shot)

    @property
    def shown(self) -> tuple[Breakpoint, ...]:
        return tuple(self._points)

    @property
    def known(self) -> ScalarNames:
        return self._known

    @property
    def hit_at(self) -> Int[np.ndarray, "m"]:
        """Iterations in which any was hit, rising; the same object until there is another."""
        return self._hit_at

    @property
    def watches(self) -> bool:
        """Whether any is enabled."""
        return any(point.enabled for point in self._points)

    # Changing them

    def change(self, command: SetBreakpoint | RemoveBreakpoint) -> None:
        """Raises ExpressionError."""
        if isinstance(command, RemoveBreakpoint):
            self.remove(command.expression)
        else:
            self.set(command.expression, command.enabled, command.one_shot)

    def set(self, text: str, enabled: bool = True, one_shot: bool = False) -> None:
        """Adds a breakpoint, or changes the one of that expression; raises ExpressionError where it can't be one."""
        text = text.strip()
        parsed = self._parsed.get(text) or checked(text, self._known)
        self._parsed[text], self._due = parsed, None
        for place, point in enumerate(self._points):
            if point.expression == text:
                self._points[place] = dataclasses.replace(point, enabled=enabled and not point.error,
                                                          one_shot=one_shot)
                return
        if len(self._points) >= MAX_BREAKPOINTS:
            raise ExpressionError(f"there may be {MAX_BREAKPOINTS} breakpoints", text, 0)
        self._points.append(Breakpoint(text, enabled, one_shot))

    def remove(self, text: str) -> None:
        self._points = [point for point in self._points if point.expression != text.strip()]
        self._parsed.pop(text.strip(), None)
        self._due = None

    # While the run goes

    def began(self) -> None:
        """An iteration begins."""
        self._looked_at.clear()

    def after(self, stage: int, iteration: int, scalars: Mapping[str, float], made: tuple[str, ...],
              earlier: Earlier) -> tuple[Hit, ...]:
        """What holds after a stage, counted from 0, of an iteration, counted from 1, and is therefore counted as hit.

        made: the names of the scalars that the stage changed. earlier: see Expression.holds.
        """
        if made != self._seen.get(stage):
            self._learn(stage, made)
        last = stage == len(self._stages) - 1
        if self._due is None:
            self._plan()
        texts = self._due.get(stage, ())
        if last:
            texts = [*texts, *(point.expression for point in self._points
                               if point.enabled and point.expression not in self._looked_at and
                               point.expression not in texts)]
        if not texts:
            return ()
        scalars = {**scalars, "iteration": float(iteration)}  # of the one under way, whatever the run calls it yet
        found = [self._hit(text, stage, iteration, scalars) for text in texts if self._holds(text, scalars, earlier)]
        return tuple(found)

    def ended(self, run: Run, history: History) -> list[ExpressionError]:
        """An iteration has ended: what it has shown of its scalars is taken in. Gives what had to be refused by it."""
        if self._known.whole:
            return []
        self._known = scalar_names(run, history)
        told: list[ExpressionError] = []
        for place, point in enumerate(self._points):
            try:
                checked(point.expression, self._known)
            except ExpressionError as error:
                self._points[place] = dataclasses.replace(point, enabled=False, error=str(error))
                told.append(error)
        self._due = None
        return told

    def _learn(self, stage: int, made: tuple[str, ...]) -> None:
        self._seen[stage] = made
        for name in made:
            if self._setters.get(name, -1) < stage:
                self._setters[name], self._due = stage, None

    def _plan(self) -> None:
        """After which stage each is due, as far as that is known."""
        self._due = {}
        for point in self._points:
            if not point.enabled:
                continue
            parsed = self._parsed[point.expression]
            awaited = [name for name in parsed.names if name not in STANDING or name in parsed.windowed]
            stages = [self._setters.get(name) for name in awaited or parsed.names]
            if stages and None not in stages:
                self._due.setdefault(max(stages), []).append(point.expression)

    def _holds(self, text: str, scalars: Mapping[str, float], earlier: Earlier) -> bool:
        parsed = self._parsed[text]
        self._looked_at.add(text)
        return all(name in scalars for name in parsed.names) and parsed.holds(scalars, earlier)

    def _hit(self, text: str, stage: int, iteration: int, scalars: Mapping[str, float]) -> Hit:
        values = tuple((name, number_of(scalars[name])) for name in self._parsed[text].names)
        if iteration not in self._hit_at:
            self._hit_at = np.union1d(self._hit_at, [iteration])
        hit = Hit(text, self._stages[stage], iteration, stage + 1, values)
        for place, point in enumerate(self._points):
            if point.expression == text:
                self._points[place] = dataclasses.replace(
                    point, hits=point.hits + 1, last_hit=hit, enabled=not point.one_shot)
                if point.one_shot:
                    self._due = None
        return hit


def breakpoints_of(hits: Iterable[Hit]) -> tuple[Breakpoint, ...]:
    """Those that stopped a run, in the order of their first hits."""
    found: dict[str, Breakpoint] = {}
    for hit in hits:
        n_before = found[hit.expression].hits if hit.expression in found else 0
        found[hit.expression] = Breakpoint(hit.expression, hits=n_before + 1, last_hit=hit)
    return tuple(found.values())


class Watch:
    """Breakpoints of a run that is driven in a plain loop: what each stage changed, and the history, are kept here."""

    def __init__(self, run: Run, breakpoints: Sequence[Breakpoint]) -> None:
        self._run = run
        self._history = HistoryTable(history_of(run))
        self.points = Breakpoints(run, self._history.view(), breakpoints)
        self._before: dict[str, Any] = dict(run.scalars())
        self.hits: tuple[Hit, ...] = ()
        self.refused: list[ExpressionError] = []  # of expressions with names that the run turned out to lack

    @property
    def stops(self) -> bool:
        """Whether the loop is to stop."""
        return bool(self.hits or self.refused)

    def after(self, stage: int, iteration: int) -> None:
        """A stage has run, counted from 0, of an iteration, counted from 1."""
        if stage == 0:
            self.points.began()
        scalars = dict(self._run.scalars())
        made, self._before = changed(self._before, scalars), scalars
        self.hits = self.points.after(stage, iteration, scalars, made, self._history.column)
        if stage == len(self._run.stages) - 1:
            self._history.append({"iteration": float(self._run.iteration), **scalars})
            self.refused = self.points.ended(self._run, self._history.view())


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of scalars that aren't what they were; NaN is NaN."""
    return tuple(name for name, value in after.items() if name not in before or _differ(before[name], value))


def _differ(a: Any, b: Any) -> bool:
    return a != b and (a == a or b == b)
