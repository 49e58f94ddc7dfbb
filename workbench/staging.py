"""Staging: runs a run's stages one by one, measures what each costs, and notes which scalars it changed."""

from __future__ import annotations

import collections
import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparseflex.training.measure import StageCost, StageMeter, cost_columns
from sparseflex.training.run import Run
from workbench.breakpoints import changed
from workbench.profiling import Profile, ProfileDesk

N_ASIDE = 64


class Staging:
    """made: by stage, the scalars that it changed when it ran last. profiled, profiling: the last profile of an
    iteration, and whether another was asked for. asides: what else takes the engine's time, in seconds an iteration
    over the last N_ASIDE."""

    def __init__(self, run: Run) -> None:
        self._run = run
        # a run that measures its own stages keeps stage_costs over a checkpoint; any other is measured here
        self._meter = None if hasattr(run, "stage_costs") else StageMeter(getattr(run, "device", "cpu"))
        self._costs: dict[str, StageCost] = {}
        self._desk = ProfileDesk(getattr(run, "device", "cpu"))
        self.made: dict[str, tuple[str, ...]] = {}
        self._spent: dict[str, float] = {}  # since the last iteration ended
        self._asides: dict[str, collections.deque[float]] = {}

    @property
    def costs(self) -> Mapping[str, StageCost]:
        """By stage, what it cost when it ran last."""
        return self._costs if self._meter is not None else self._run.stage_costs

    def run(self, stage: str) -> Mapping[str, Any]:
        """Does the stage; gives the scalars as they are then."""
        before = dict(self._run.scalars())  # it may be one that the run changes
        with self._desk.stage(stage, first=stage == self._run.stages[0]):
            if self._meter is None:
                self._run.run_stage(stage)
            else:
                self._meter.start()
                self._run.run_stage(stage)
                self._costs[stage] = self._meter.stop()
        after = dict(self._run.scalars())
        self.made[stage] = changed(before, after)
        return after

    @contextlib.contextmanager
    def aside(self, name: str) -> Iterator[None]:
        """Measures what is done besides the stages."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + time.perf_counter() - started

    @property
    def asides(self) -> Mapping[str, float]:
        return {name: sum(secs) / len(secs) for name, secs in self._asides.items() if secs}

    # Profiles

    @property
    def profiled(self) -> Profile | None:
        return self._desk.latest

    @property
    def profiling(self) -> bool:
        return self._desk.pending

    def profile(self, folder: Path) -> None:
        """Has the next whole iteration profiled, with its trace in the folder."""
        self._desk.ask(folder)

    def end_iteration(self, iteration: int) -> tuple[dict[str, float], str]:
        """The columns of its costs, NaN where the profiler took its share of them; and what it has to say."""
        for name in {*self._spent, *self._asides}:
            log = self._asides.setdefault(name, collections.deque(maxlen=N_ASIDE))
            log.append(self._spent.pop(name, 0.0))
        columns = cost_columns(self.costs)
        if self._desk.active:
            columns = dict.fromkeys(columns, math.nan)
        return columns, self._desk.ended(iteration)

    def went_back(self) -> None:
        """The iteration under way will not end."""
        self._desk.interrupt()

    def failed(self) -> None:
        self._desk.drop()

    def close(self) -> None:
        self._desk.drop()
        if self._meter is not None:
            self._meter.close()
