"""StagedRun: a base for runs of one's own; it keeps the order of the stages, the numbers and the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor

from sparseflex.training.run import FieldKind, RunCamera, Setting


class StagedRun:
    """All of the run protocol (see Run) but the work: a subclass names `stages` and has a method do_<stage> for each.

    A stage's method may return numbers by name, which become the run's scalars. `fields` maps names to kinds; each is
    read from the attribute of that name, None where it isn't there yet. settings are given as keywords; what is chosen
    holds from the next iteration on, and `self.chosen[name]` is what holds now. `kept` names what else the state is
    made of: tensors, restored in place, and objects with state_dict and load_state_dict (modules, optimisers,
    schedulers); without all of it a run can't go back.
    """

    name: str = "a run of one's own"
    stages: Sequence[str] = ()
    fields: Mapping[str, FieldKind] = MappingProxyType({})

    def __init__(self, **settings: Setting) -> None:
        self.iteration = 0
        self.settings: dict[str, Setting] = dict(settings)
        self.chosen: dict[str, float] = {name: setting.value for name, setting in settings.items()}
        self.kept: dict[str, Any] = {}
        self._scalars: dict[str, float] = {}
        self._next = 0

    def run_stage(self, stage: str) -> None:
        """Calls do_<stage>; raises ValueError if it isn't the next one."""
        wanted = self.stages[self._next]
        if stage != wanted:
            raise ValueError(f"stage must be {wanted!r}, the next one, got {stage!r}")
        if self._next == 0:
            self.chosen = {name: setting.value for name, setting in self.settings.items()}
        made = getattr(self, f"do_{stage}")() or {}
        numbers = {name: value.detach() if isinstance(value, Tensor) else value for name, value in made.items()}
        self._scalars |= {name: float(value) for name, value in numbers.items()}
        self._next = (self._next + 1) % len(self.stages)
        if self._next == 0:
            self.iteration += 1

    def run_iteration(self) -> None:
        """Runs the stages from the next one up to the end of the iteration."""
        for stage in self.stages[self._next :]:
            self.run_stage(stage)

    def scalars(self) -> Mapping[str, float]:
        return dict(self._scalars)

    def read_field(self, name: str) -> Any:
        return getattr(self, name, None)

    def cameras(self) -> Sequence[RunCamera]:
        return []

    def change_setting(self, name: str, value: float) -> None:
        if name not in self.settings:
            raise ValueError(f"setting must be one of {', '.join(self.settings) or 'none'}, got {name!r}")
        setting = self.settings[name]
        if not setting.minimum <= value <= setting.maximum:
            raise ValueError(f"{name} must be in [{setting.minimum:g}, {setting.maximum:g}], got {value:g}")
        self.settings[name] = dataclasses.replace(setting, value=float(value))

    @property
    def state_is_of_start(self) -> bool:
        return self._next == 0

    def state_dict(self) -> dict[str, Any]:
        """Iteration, scalars, settings and what `kept` names; at the start of an iteration, where it may go on."""
        kept = {name: part.detach() if isinstance(part, Tensor) else part.state_dict()
                for name, part in self.kept.items()}
        return {"iteration": self.iteration, "scalars": dict(self._scalars), "kept": kept,
                "settings": {name: setting.value for name, setting in self.settings.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.iteration, self._next, self._scalars = state["iteration"], 0, dict(state["scalars"])
        for name, value in state["settings"].items():
            self.change_setting(name, value)
        for name, part in self.kept.items():
            if isinstance(part, Tensor):
                part.data.copy_(state["kept"][name])
            else:
                part.load_state_dict(state["kept"][name])
