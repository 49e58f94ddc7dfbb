"""every_control: uses each control of a panel once, as somebody would who tries all of them; for visit.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from fake_ui import FakeUi

from workbench.commands import Command
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState

PRESSED = ("Button", "InvisibleButton", "Selectable")
TYPED = "InputTextWithHint"


def every_control(panel: ModuleType, view: ViewState, snapshot: Snapshot, used: set[str]) -> Iterator[list[Command]]:
    """The commands after each use. Controls that a use brings to light are used too, but none whose label, apart
    from numbers, is in `used`; it takes up all that were."""
    while True:
        ui = FakeUi()
        panel.draw(ui, view, snapshot)
        label, values = next(((label, values) for label, values in _controls(ui) if _kind(label) not in used), ("", []))
        if not values:
            return
        used.add(_kind(label))
        for value in values:
            yield panel.draw(FakeUi({label: value}), view, snapshot) or []


def _kind(label: str) -> str:
    """The rows of a list are one kind of control."""
    return re.sub(r"\d+", "0", label)


def _controls(ui: FakeUi) -> Iterator[tuple[str, list[Any]]]:
    """Each control's label, and what it is set to, one after the other: the ends of what it allows, or beyond."""
    disabled: list[bool] = []
    for name, *arguments in ui.calls:
        if name == "BeginDisabled":
            disabled.append(arguments[0] if arguments else True)
        elif name == "EndDisabled":
            disabled.pop()
        elif any(disabled):
            continue
        elif name in PRESSED:
            yield arguments[0], [True]
        elif name == TYPED:
            yield arguments[0], ["no such name (", ""]
        elif name == "Checkbox":
            yield arguments[0], [not arguments[1], arguments[1]]
        elif name in ("SliderFloat", "SliderInt"):
            yield arguments[0], [arguments[3], arguments[2]]
        elif name == "Combo":
            yield arguments[0], [len(arguments[2]) - 1, 0]
        elif name in ("InputInt", "InputFloat"):
            yield arguments[0], [type(arguments[1])(-1), type(arguments[1])(1_000_000)]
