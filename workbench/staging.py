"""Staging: runs a run's stages one by one, measures what each costs, and notes which scalars it changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparseflex.training.measure import StageCost, StageMeter
from sparseflex.training.run import Run
from workbench.breakpoints import changed


class Staging:
    """made: by stage, the scalars that it changed when it ran last."""

    def __init__(self, run: Run) -> None:
        self._run = run
        # a run that measures its own stages keeps stage_costs over a checkpoint; any other is measured here
        self._meter = None if hasattr(run, "stage_costs") else StageMeter(getattr(run, "device", "cpu"))
        self._costs: dict[str, StageCost] = {}
        self.made: dict[str, tuple[str, ...]] = {}

    @property
    def costs(self) -> Mapping[str, StageCost]:
        """By stage, what it cost when it ran last."""
        return self._costs if self._meter is not None else self._run.stage_costs

    def run(self, stage: str) -> Mapping[str, Any]:
        """Does the stage; gives the scalars as they are then."""
        before = dict(self._run.scalars())  # it may be one that the run changes
        if self._meter is None:
            self._run.run_stage(stage)
        else:
            self._meter.start()
            self._run.run_stage(stage)
            self._costs[stage] = self._meter.stop()
        after = dict(self._run.scalars())
        self.made[stage] = changed(before, after)
        return after

    def close(self) -> None:
        if self._meter is not None:
            self._meter.close()
