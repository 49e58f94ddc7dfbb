"""Preferences: what of the window is kept between sessions, in a small file in the user's config directory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import platformdirs

from workbench import theme
from workbench.view_state import ViewState

FILE_NAME = "window.json"


def preferences_path() -> Path:
    """The file; on Linux ~/.config/sparseflex-workbench/window.json, or below XDG_CONFIG_HOME."""
    return Path(platformdirs.user_config_dir("sparseflex-workbench", appauthor=False)) / FILE_NAME


def kept(view: ViewState) -> dict[str, Any]:
    """The choices to keep: those that ViewState.KEPT names, and of each of its parts those that its KEPT names."""
    found = {name: getattr(view, name) for name in view.KEPT}
    for field in dataclasses.fields(view):
        part = getattr(view, field.name)
        for name in getattr(part, "KEPT", ()):
            found[f"{field.name}.{name}"] = getattr(part, name)
    found["side_by_side"] |= view.cameras.apart_at_home  # a look from near by is no choice either
    found |= view.network.before  # an inference's colours are no choice for other runs
    return json.loads(json.dumps(found))  # a copy that later changes of the view don't reach


def restore(view: ViewState, values: dict[str, Any]) -> None:
    """Takes over what still fits: unknown names, and values of another type or key, are passed over."""
    for name, value in values.items():
        *part, last = name.split(".")
        owner = getattr(view, part[0], None) if part else view
        if last not in getattr(owner, "KEPT", ()):
            continue
        present = getattr(owner, last)
        if isinstance(present, dict) and isinstance(value, dict):
            known = {key: value[key] for key in present if type(value.get(key)) is type(present[key])}
            setattr(owner, last, {**present, **known})
        elif type(value) is type(present) or isinstance(present, float) and type(value) is int:
            setattr(owner, last, type(present)(value))


class Preferences:
    """The file behind a window's choices. A file that can't be read or written is as good as none."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or preferences_path()
        self._known: dict[str, Any] | None = None

    def load(self, view: ViewState) -> None:
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            values = None
        restore(view, values if isinstance(values, dict) else {})
        view.theme = view.theme if view.theme in theme.PALETTES else theme.DARK.name
        self._known = kept(view)

    def save(self, view: ViewState) -> None:
        """Writes the file where a choice differs from what it holds, whole or not at all."""
        values = kept(view)
        if values == self._known:
            return
        self._known = values
        fresh = self.path.with_suffix(f".{os.getpid()}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(values, indent=1, sort_keys=True), encoding="utf-8")
            os.replace(fresh, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()
