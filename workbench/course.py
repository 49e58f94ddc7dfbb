"""Course: how far a run is to go, as Play, Pause, the steps and GoTo say; pure numbers."""

from __future__ import annotations

import dataclasses
import math

from workbench.commands import Command, NextIteration, NextStage, Play, RunIterations, RunTo


@dataclasses.dataclass
class Course:
    """until: the iteration to run up to. stages: single stages still to run, whatever the iteration. then: stages to
    run once it is there. travelling: that iteration was reached before, or is on the way to such a one."""

    until: float = -math.inf
    stages: int = 0
    then: int = 0
    travelling: bool = False

    def goes_on(self, iteration: int) -> bool:
        """Whether another stage is due where so many iterations have ended."""
        return self.stages > 0 or iteration < self.until

    def steps(self, iteration: int) -> bool:
        """Whether it goes by single stages or a single iteration."""
        return self.stages > 0 or self.until - iteration == 1

    def hold(self) -> None:
        """Comes to rest."""
        self.until, self.stages, self.then, self.travelling = -math.inf, 0, 0, False

    def go_to(self, wanted: int, n_stages: int, iteration: int) -> None:
        """Sets out for the end of an iteration, and n_stages of the one after it, where so many have ended."""
        self.until, self.stages, self.then, self.travelling = wanted, 0, n_stages, True
        self._arrive(iteration)

    def follow(self, command: Command, iteration: int, plays_once: bool) -> str:
        """Takes up Play, Pause, a step or a run; gives what is to be said about it."""
        ahead, steps = self.until, self.stages
        if isinstance(command, (NextStage, NextIteration)):
            self.stages = self.then = 0
            self.travelling = False
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
