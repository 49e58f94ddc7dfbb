"""The option of the command line about profiles, and a profile in a loop without an engine."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.inputs import InputError

if TYPE_CHECKING:
    from sparseflex.training.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """Of a command that makes many iterations."""

    profile: int | None = None
    """Run this iteration, counted from 1, under torch's profiler and write its trace as trace-N.json.gz, which
    ui.perfetto.dev opens; with --headless."""

    def check_profile(self, headless: bool) -> None:
        """Raises InputError for what can't be, whatever the run; before anything is loaded."""
        if self.profile is not None and not headless:
            raise InputError("--profile goes with --headless: in a window the Costs tab has it")
        if self.profile is not None and self.profile < 1:
            raise InputError(f"--profile must be an iteration, counted from 1, got {self.profile}")


def check_profiled(iteration: int | None, first: int, last: int) -> None:
    """Raises InputError for an iteration that isn't one of those that will be made, from first to last."""
    if iteration is not None and not first <= iteration <= last:
        raise InputError(f"--profile must be one of the iterations to be made, {first} to {last}, got {iteration}")


class LoopProfile:
    """Profiles one iteration of a run that a plain loop drives; said: what there is to say of it afterwards."""

    def __init__(self, run: Run, iteration: int | None, folder: Path) -> None:
        self._run, self._wanted, self._folder = run, iteration, folder
        self._desk: Any = None
        self.said: list[str] = []

    def stage(self, number: int, stage: str) -> AbstractContextManager[None]:
        """Around the run's stage of that number."""
        if number == 0 and self._run.iteration + 1 == self._wanted:
            from workbench.profiling import ProfileDesk, make_ready

            make_ready()
            self._desk = ProfileDesk(getattr(self._run, "device", "cpu"))
            self._desk.ask(self._folder)
        return contextlib.nullcontext() if self._desk is None else self._desk.stage(stage, number == 0)

    def end(self, costs: dict[str, float]) -> dict[str, float]:
        """After an iteration: the columns of its costs, NaN where it was profiled."""
        if self._desk is None:
            return costs
        desk, self._desk = self._desk, None
        active = desk.active
        self.said = [desk.ended(self._run.iteration)]
        if desk.latest is not None:
            most = max(desk.latest.stages, key=lambda stage: stage.peak_bytes)
            self.said += [desk.latest.words] if desk.latest.words else []
            self.said.append(f"{most.name} takes most memory: {most.peak_bytes / 1e6:,.1f} MB above its start")
        return dict.fromkeys(costs, math.nan) if active else costs

    def drop(self) -> None:
        """The iteration under way will not end."""
        if self._desk is not None:
            self._desk.drop()
            self._desk = None
