"""FitSettings: the settings of a fit, and those that were changed and take effect with a coming iteration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sparseflex.training.config import FitConfig, from_table
from sparseflex.training.run import Setting

_CHANGEABLE = ("visibility_ratio", "halo", "cut_share", "window_share", "lr_sdf", "lr_deform", "lr_weights",
               "depth_weight", "normal_weight", "mask_weight", "ssim_weight", "dev_weight", "sign_weight_end")
_WITH_PRUNING = ("prune_below", "keep_above")


class FitSettings:
    """config: the settings that hold now."""

    def __init__(self, config: FitConfig) -> None:
        self.config = config
        self._pending: FitConfig | None = None  # holds from iteration _pending_from on
        self._pending_from = 0

    def begin(self, iteration: int) -> None:
        """What was changed for this iteration or before it holds now."""
        if self._pending is not None and iteration >= self._pending_from:
            self.config, self._pending = self._pending, None

    def shown(self) -> Mapping[str, Setting]:
        """Those that may be changed, as they are wanted."""
        rules = {field.name: field.metadata for field in dataclasses.fields(FitConfig)}
        found = {}
        for name in self._names:
            rule = rules[name]
            low = rule["minimum"] if rule["above"] is None else rule["above"] + 1e-3
            found[name] = Setting(float(getattr(self._wanted, name)), low, rule["maximum"], rule["help"])
        return found

    def change(self, name: str, value: float, from_iteration: int) -> None:
        """Holds from an iteration on; ValueError naming the setting, the rule and the value."""
        if name not in self._names:
            raise ValueError(f"setting must be one of {', '.join(self._names)}, got {name!r}")
        if isinstance(getattr(self.config, name), int) and float(value).is_integer():
            value = int(value)
        self._pending = dataclasses.replace(self._wanted, **{name: value})
        self._pending_from = from_iteration

    @property
    def _names(self) -> Sequence[str]:
        return (*_CHANGEABLE, *_WITH_PRUNING) if self.config.start_resolution else _CHANGEABLE

    @property
    def _wanted(self) -> FitConfig:
        return self.config if self._pending is None else self._pending

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(self.config),
            "pending": {} if self._pending is None else dataclasses.asdict(self._pending),
            "pending_from": self._pending_from,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.config = from_table(FitConfig, state["config"], "config")
        self._pending = from_table(FitConfig, state["pending"], "pending") if state["pending"] else None
        self._pending_from = state["pending_from"]
