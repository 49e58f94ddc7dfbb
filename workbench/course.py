"""Course: how far a run is to go, as Play, Pause, the steps and GoTo say; pure numbers."""

from __future__ import annotations

import dataclasses
import math

from workbench.commands import Command, NextIteration, NextStage, Play, RunIterations, RunTo

Place = tuple[int, int]
"""Iterations that have ended, and stages of the next one that have run."""


NEAR = 10
"""So many iterations before the place that a run is sent to, every state is kept."""


@dataclasses.dataclass
class Course:
    """until: the iteration to run up to. stages: single stages still to run, whatever the iteration. then: stages to
    run once it is there. target: the place that it was sent to by GoTo or a step back."""

    until: float = -math.inf
    stages: int = 0
    then: int = 0
    target: Place | None = None

    def goes_on(self, iteration: int) -> bool:
        """Whether another stage is due where so many iterations have ended."""
        return self.stages > 0 or iteration < self.until

    def steps(self, iteration: int) -> bool:
        """Whether it goes by single stages or a single iteration, or nears where it was sent: who steps back will
        likely do so again, and each state on the way there saves running it all once more."""
        return self.stages > 0 or self.until - iteration <= (1 if self.target is None else NEAR)

    def hold(self) -> None:
        """Comes to rest."""
        self.until, self.stages, self.then, self.target = -math.inf, 0, 0, None

    def heading(self, here: Place) -> Place:
        """Where a run that stands here will be once it has got where it was sent, or here."""
        return here if self.target is None else self.target

    def stops_at(self, here: Place, furthest: Place) -> bool:
        """Whether a condition may end the way here. On the way to where the run was sent it stops nowhere that it has
        been before, but within the very iteration and after the very stage that it was sent to."""
        return self.target is None or here > furthest or (here == self.target and here[1] > 0)

    def go_to(self, target: Place, here: Place) -> None:
        """Sets out for a place that isn't before the one where the run is."""
        self.until, self.stages, self.target = target[0], 0, target
        self.then = target[1] - here[1] if here[0] == target[0] else target[1]
        self._arrive(here[0])

    def follow(self, command: Command, iteration: int, plays_once: bool) -> str:
        """Takes up Play, Pause, a step or a run; gives what is to be said about it."""
        ahead, steps = self.until, self.stages
        if isinstance(command, (NextStage, NextIteration)):
            self.stages = self.then = 0
            self.target = None
        else:
            self.hold()
        if isinstance(command, Play):
            self.until = iteration + 1 if plays_once else math.inf
        elif isinstance(command, NextStage):
            self.until, self.stages = -math.inf, steps + 1
        elif isinstance(command, NextIteration):
            self.until = (ahead if iteration < ahead < math.inf else iteration) + 1
        elif isinstance(command, RunIterations):
            self.until = iteration + command.count
        elif isinstance(command, RunTo):
            self.until = command.iteration
            return "" if command.iteration > iteration else f"iteration {command.iteration} has ended already"
        return ""

    def stage_done(self, iteration: int) -> None:
        """A stage has run; so many iterations have ended now."""
        self.stages = max(self.stages - 1, 0)
        self._arrive(iteration)

    def _arrive(self, iteration: int) -> None:
        if self.then and iteration >= self.until:
            self.stages, self.then = self.then, 0
