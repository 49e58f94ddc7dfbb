"""Past: states of a run at recent iterations, within a bound of bytes, and what the user changed on the way."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparseflex.memory import in_words
from sparseflex.training.run import Run
from workbench.commands import Command
from workbench.course import Place
from workbench.snapshot import History, PastSummary

LIMIT_BYTES = 512_000_000
COST_SHARE = 0.02
"""The share of the time that keeping states may cost while the run plays."""


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """A run at the start of an iteration: its state on the CPU, its history, and how many changes it holds."""

    iteration: int
    state: Mapping[str, Any]
    history: History
    n_changes: int


class Past:
    """What a run can go back to; belongs to the engine's thread.

    States are kept at every iteration that is stepped, and while the run plays as often as that costs COST_SHARE of
    the time. Beyond limit_bytes the states that stand closest together for their age go first, so that recent ones are
    dense, old ones sparse, and the oldest stays as long as two fit. Changes of the user's are noted with their place
    and are made again where the run passes it again, until there is a new one: what was kept beyond is dropped then.
    """

    def __init__(self, run: Run, limit_bytes: float = LIMIT_BYTES, clock: Callable[[], float] = time.perf_counter):
        self._run, self._limit, self._clock = run, limit_bytes, clock
        self._kept: list[Kept] = []
        self._changes: list[tuple[Place, Command]] = []
        self._n_done = 0  # changes that the run holds now
        self._secs, self._taken_at = 0.0, clock()
        self._n_bytes = 0
        self._furthest: Place = (run.iteration, 0)
        self.lacking = ""

    def summary(self) -> PastSummary:
        oldest = self._kept[0].iteration if self._kept else None
        return PastSummary(oldest, self._furthest[0], len(self._kept), self._n_bytes, self.lacking)

    def reason(self) -> str:
        """Why it can't go back any further."""
        if self._kept:
            return f"iteration {self._kept[0].iteration} is the oldest that is kept"
        return self.lacking or "no iteration is kept yet"

    # Keeping

    def keep(self, iteration: int, history: Callable[[], History], stepping: bool) -> None:
        """Takes the state at the start of an iteration, if it isn't kept already and the cost allows it."""
        now = self._clock()
        if self.lacking or any(kept.iteration == iteration for kept in self._kept):
            return
        if not stepping and self._secs > COST_SHARE * (now - self._taken_at):
            return
        before = self.nearest(iteration)
        try:
            state = copied(self._run.state_dict(), None if before is None else before.state)
        except Exception as error:  # noqa: BLE001 - a run's own state_dict may raise anything
            self.lacking = f"this run gives no state: {type(error).__name__}: {error}"
            return
        self._kept.append(Kept(iteration, state, history(), self._n_done))
        self._kept.sort(key=lambda kept: kept.iteration)
        self._thin_out(iteration)
        self._taken_at = self._clock()
        self._secs = self._taken_at - now

    def reach(self, place: Place) -> None:
        """Notes that the run has come here."""
        self._furthest = max(self._furthest, place)

    def _thin_out(self, newest: int) -> None:
        """Drops states until the bound is kept; the one taken just now only where it alone exceeds it."""
        self._n_bytes = n_bytes([kept.state for kept in self._kept])
        while self._n_bytes > self._limit:
            if len(self._kept) == 1:
                self.lacking = f"one state takes {in_words(self._n_bytes)}, at most {in_words(self._limit)} are kept"
                self._kept.clear()
            else:
                at = [kept.iteration for kept in self._kept]
                inner = [row for row in range(1, len(at) - 1) if at[row] != newest]
                ages = {row: max(newest - at[row - 1], at[row + 1] - newest) for row in inner}
                # with two left the newer one serves a step back
                drop = min(inner, key=lambda row: (at[row + 1] - at[row - 1]) / max(ages[row], 1), default=0)
                del self._kept[drop if at[drop] != newest else -1]
            self._n_bytes = n_bytes([kept.state for kept in self._kept])

    # Going back

    @property
    def furthest(self) -> Place:
        """The place up to which the run has come, on this way or before the user went back."""
        return self._furthest

    def nearest(self, iteration: int) -> Kept | None:
        """The last state before an iteration, so that the one that led to it runs again and leaves all its products;
        the state at it where there is none before."""
        before = [kept for kept in self._kept if kept.iteration < iteration]
        return before[-1] if before else next((kept for kept in self._kept if kept.iteration == iteration), None)

    def restore(self, kept: Kept) -> None:
        """Puts the run into a kept state; RuntimeError where it then stands at another iteration."""
        self._run.load_state_dict(copied(kept.state))
        if self._run.iteration != kept.iteration:
            raise RuntimeError(f"load_state_dict must set iteration to {kept.iteration}, got {self._run.iteration}")
        self._n_done = kept.n_changes

    # Changes of the user's

    def changed(self, place: Place, change: Command) -> None:
        """Notes a change that was made at this place; a future without it is forgotten."""
        self._kept = [kept for kept in self._kept if kept.iteration <= place[0]]
        self._n_bytes = n_bytes([kept.state for kept in self._kept])
        self._furthest = place
        del self._changes[self._n_done :]
        self._changes.append((place, change))
        self._n_done += 1

    def due(self, place: Place) -> list[Command]:
        """The changes that are to be made again at this place, in their order."""
        first = self._n_done
        while self._n_done < len(self._changes) and self._changes[self._n_done][0] <= place:
            self._n_done += 1
        return [change for _, change in self._changes[first : self._n_done]]


def copied(value: Any, known: Any = None) -> Any:
    """A copy on the CPU that shares nothing with value; what equals known at the same place is known's own tensor.

    Compared by value: a tensor's version says nothing of changes made past autograd.
    """
    if isinstance(value, Tensor):
        on_cpu = value.detach().cpu()
        if isinstance(known, Tensor) and known.dtype == on_cpu.dtype and torch.equal(known, on_cpu):
            return known
        return on_cpu.clone() if value.device.type == "cpu" else on_cpu
    if isinstance(value, Mapping):
        known = known if isinstance(known, Mapping) else {}
        return {key: copied(item, known.get(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        known = known if isinstance(known, (list, tuple)) and len(known) == len(value) else [None] * len(value)
        items = [copied(item, other) for item, other in zip(value, known, strict=True)]
        return items if isinstance(value, list) else tuple(items)
    return copy.deepcopy(value)


def n_bytes(states: list[Mapping[str, Any]]) -> int:
    """Bytes of the tensors and arrays of all states, each object once."""
    found: dict[int, int] = {}

    def walk(value: Any) -> None:
        if isinstance(value, (Tensor, np.ndarray)):
            found[id(value)] = value.nbytes
        elif isinstance(value, Mapping):
            for item in value.values():
                walk(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                walk(item)

    for state in states:
        walk(state)
    return sum(found.values())
