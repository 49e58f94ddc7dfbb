"""Past: states of a run at recent iterations, within a bound of bytes, and what the user changed on the way."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from sparseflex.memory import in_words
from sparseflex.training.run import Run
from workbench.commands import Command
from workbench.course import Place
from workbench.keyframes import Keyframe, Keyframes
from workbench.recording.recorder import LateRecorder
from workbench.snapshot import History, PastSummary
from workbench.state_copies import copied, n_bytes

LIMIT_BYTES = 1_000_000_000
COST_SHARE = 0.02
"""The share of the time that keeping states may cost while the run plays."""


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """A run at the start of an iteration: its state on the CPU, its history, and how many changes it holds."""

    iteration: int
    state: Mapping[str, Any]
    history: History
    n_changes: int

    def words(self, n_again: int, done: bool = False) -> str:
        """Such as "from iteration 120, running 30 iterations again"; nothing where it is a step, or is done."""
        told = n_again > 1 and not done
        return f"from iteration {self.iteration:,}, running {n_again:,} iterations again" if told else ""


class CantRead(ValueError):
    """A state that the recording should have can't be read."""


class Past:
    """What a run can go back to; belongs to the engine's thread.

    States are kept at every iteration that is stepped, and while the run plays as often as that costs COST_SHARE of
    the time. Beyond limit_bytes the states that stand closest together for their age go first, so that recent ones are
    dense, old ones sparse, and the oldest stays as long as two fit; keyframes of its own recording count too. Changes
    of the user's are noted with their place and are made again where the run passes it again, until there is a new one:
    what was kept beyond is dropped then.
    """

    def __init__(self, run: Run, limit_bytes: float = LIMIT_BYTES, clock: Callable[[], float] = time.perf_counter,
                 keyframes: Keyframes | None = None) -> None:
        self._run, self._limit, self._clock = run, limit_bytes, clock
        self._keyframes = Keyframes(LateRecorder(None)) if keyframes is None else keyframes
        self._kept: list[Kept] = []
        self._changes: list[tuple[Place, Command]] = []
        self._n_done = 0  # changes that the run holds now
        self._secs, self._taken_at = 0.0, clock()
        self._n_bytes = 0
        self._furthest: Place = (run.iteration, 0)
        self.lacking, self._too_large = "", False

    def summary(self) -> PastSummary:
        recorded = self._keyframes.there
        return PastSummary(self._oldest, self._furthest[0], len(self._kept), self._n_bytes, self.lacking, self._limit,
                           len(recorded), self._keyframes.n_bytes)

    @property
    def _oldest(self) -> int | None:
        return min((kept.iteration for kept in (*self._kept[:1], *self._keyframes.there[:1])), default=None)

    def reason(self) -> str:
        """Why it can't go back any further."""
        oldest = self._oldest
        if oldest is not None:
            return f"iteration {oldest} is the oldest that is kept"
        return self.lacking or "no iteration is kept yet"

    # Keeping

    def keep_at_most(self, limit_bytes: float) -> None:
        """Sets the bound; a state that was too large for the one before may be kept now."""
        self._limit = limit_bytes
        if self._too_large:
            self._too_large, self.lacking = False, ""
        if self._kept:
            self._thin_out(self._kept[-1].iteration)

    def keep(self, iteration: int, history: Callable[[], History], stepping: bool) -> None:
        """Takes the state at the start of an iteration, if it isn't kept already and the cost allows it."""
        now = self._clock()
        if self.lacking or any(kept.iteration == iteration for kept in self._kept):
            return
        if not stepping and self._secs > COST_SHARE * (now - self._taken_at):
            return
        before = next((kept for kept in reversed(self._kept) if kept.iteration < iteration), None)
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

    def recorded(self, iteration: int, history: Callable[[], History]) -> None:
        """Notes a keyframe, where the recorder has just taken one at the start of this iteration."""
        self._keyframes.note(iteration, history, self._n_done)

    def reach(self, place: Place) -> None:
        """Notes that the run has come here."""
        self._furthest = max(self._furthest, place)

    def _thin_out(self, newest: int) -> None:
        """Drops states until the bound is kept; the one taken just now only where it alone exceeds it."""
        self._n_bytes = n_bytes([kept.state for kept in self._kept])
        while self._n_bytes > self._limit:
            if len(self._kept) == 1:
                self.lacking = f"one state takes {in_words(self._n_bytes)}, at most {in_words(self._limit)} are kept"
                self._too_large = True
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

    def nearest(self, iteration: int) -> Kept | Keyframe | None:
        """The last state before an iteration, so that the one that led to it runs again and leaves all its products;
        the state at it where there is none before. One in memory rather than the keyframe of the same iteration."""
        known: list[Kept | Keyframe] = sorted([*self._keyframes.there, *self._kept], key=lambda kept: kept.iteration)
        before = [kept for kept in known if kept.iteration < iteration]
        at = [kept for kept in known if kept.iteration == iteration]
        return before[-1] if before else at[-1] if at else None

    def restore(self, kept: Kept | Keyframe) -> None:
        """Puts the run into a kept state; RuntimeError where it then stands at another iteration. CantRead where a
        keyframe can't be read: the run stays as it is, and the keyframe counts no longer."""
        if isinstance(kept, Kept):
            state = copied(kept.state)
        else:
            try:
                state = self._keyframes.read(kept)
            except ValueError as error:
                raise CantRead(f"keyframe {kept.iteration} of the recording can't be read: {error}") from None
        self._run.load_state_dict(state)
        if self._run.iteration != kept.iteration:
            raise RuntimeError(f"load_state_dict must set iteration to {kept.iteration}, got {self._run.iteration}")
        self._n_done = kept.n_changes

    # Changes of the user's

    def changed(self, place: Place, change: Command) -> None:
        """Notes a change that was made at this place; a future without it is forgotten."""
        self._kept = [kept for kept in self._kept if kept.iteration <= place[0]]
        self._n_bytes = n_bytes([kept.state for kept in self._kept])
        self._keyframes.changed(place, self._furthest)
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
