"""FakeUi: stands in for ImGui and ImPlot in panel tests; records what is drawn and answers as a user would."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.ui import Ui
from workbench.worker import same_token

ANSWERS = {
    "GetFontSize": lambda: 15.0,
    "GetContentRegionAvail": lambda: (280.0, 600.0),
    "GetCursorScreenPos": lambda: (10.0, 10.0),
    "GetCursorPosX": lambda: 10.0,
    "GetCursorPosY": lambda: 10.0,
    "GetTextLineHeight": lambda: 15.0,
    "GetFrameHeight": lambda: 23.0,
    "GetItemRectMin": lambda: (10.0, 10.0),
    "GetWindowPos": lambda: (5.0, 5.0),
    "GetWindowSize": lambda: (300.0, 600.0),
    "GetMousePos": lambda: (100.0, 50.0),
    "GetItemRectMax": lambda: (290.0, 33.0),
    "GetPlotPos": lambda: (10.0, 10.0),
    "GetPlotSize": lambda: (200.0, 100.0),
    "PlotToPixels": lambda x, y: (10.0 + x, 50.0),
    "CalcTextSize": lambda text, *_: (7.0 * len(text), 15.0),
    "GetMouseDragDelta": lambda *_: (0.0, 0.0),
    "BeginPlot": lambda *_: True,
    "BeginTable": lambda *_: True,
}


class FakeModule:
    """Any function exists, does nothing and is recorded in calls; controls answer as `uses` says, by their label."""

    DisplaySize = (1280.0, 720.0)

    def __init__(self, uses: dict[str, Any], calls: list[tuple]) -> None:
        self._uses, self._calls = uses, calls
        self._style = type("Style", (), {"FontScaleMain": 1.0, "GrabMinSize": 12.0})()

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("ImGui", "ImPlot", "ImAxis")):
            return 0

        def call(*arguments: Any) -> Any:
            self._calls.append((name, *arguments))
            if name == "GetStyle":
                return self._style
            if name in ("GetWindowDrawList", "GetBackgroundDrawList", "GetPlotDrawList", "GetIO"):
                return self
            if name in ("Button", "InvisibleButton", "Selectable"):
                return self._uses.get(arguments[0], False)
            if name == "InputTextWithHint":
                used = self._uses.get(arguments[0])
                return (used is not None, arguments[2] if used is None else used)
            if name in ("IsKeyPressed", "IsKeyDown", "IsMouseDown", "IsMouseReleased", "IsPlotHovered",
                        "IsMouseClicked", "IsItemActive", "IsItemDeactivated"):
                return self._uses.get(name, False)
            if name == "DragLineX":
                used = self._uses.get(f"{name} {arguments[0]}", self._uses.get(name))
                return (used is not None, arguments[1] if used is None else used)
            if name == "GetPlotMousePos":
                return self._uses.get(name, (0.0, 0.0))
            if name in ("Checkbox", "InputInt", "InputFloat", "SliderFloat", "SliderInt", "ColorEdit3", "Combo"):
                used = self._uses.get(arguments[0])
                return (used is not None, arguments[1] if used is None else used)
            return ANSWERS.get(name, lambda *_: None)(*arguments)

        return call


class FakeTextures:
    def __init__(self) -> None:
        self.shown: dict[str, np.ndarray] = {}
        self._sources: dict[str, Any] = {}

    def has(self, name: str) -> bool:
        return name in self._sources

    def is_shown(self, name: str, source: Any) -> bool:
        return name in self._sources and same_token(self._sources[name], source)

    def show(self, name: str, source: Any, pixels: np.ndarray | None) -> str:
        if pixels is not None:
            self.shown[name], self._sources[name] = pixels, source
        return name


class FakeUi(Ui):
    """uses: what the user does, by the label of the control: {"Play": True, "##iterations": 25}."""

    def __init__(self, uses: dict[str, Any] | None = None) -> None:
        self.calls: list[tuple] = []
        module = FakeModule(uses or {}, self.calls)
        super().__init__(module, module, FakeTextures())

    @property
    def texts(self) -> list[str]:
        """All text drawn, in order."""
        drawn = {"TextColored": 2, "TextUnformatted": 1, "AddText": 3, "Button": 1, "Checkbox": 1}
        return [call[drawn[call[0]]] for call in self.calls if call[0] in drawn]

    def says(self, part: str) -> bool:
        return any(part in text for text in self.texts)
