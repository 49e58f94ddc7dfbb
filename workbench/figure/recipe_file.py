"""Recipes as TOML: read strictly, every key known; written canonically, what is by default left out."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparseflex.training.config import from_table
from workbench.figure.recipe import (
    CameraTable,
    ChangesTable,
    Colouring,
    CoverageTable,
    CutTable,
    FrustumTable,
    LayerTable,
    Page,
    Panel,
    PlotTable,
    Recipe,
    SourceTable,
    SurfaceTable,
    WhatIfTable,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES, MAX_PANELS = 1 << 20, 64

_TABLES = {"source": SourceTable, "camera": CameraTable, "cut": CutTable, "colouring": Colouring,
           "frustum": FrustumTable, "changes": ChangesTable, "coverage": CoverageTable, "surface": SurfaceTable,
           "what_if": WhatIfTable, "plot": PlotTable}
_OPTIONAL = ("changes", "coverage", "surface", "what_if")
"""What `false` takes away again."""

_PANEL_KEYS = tuple(field.name for field in dataclasses.fields(Panel))


def read_recipe(path: Path) -> Recipe:
    """The recipe of a .toml file. Raises FileNotFoundError, ValueError in one line: file, table, key, rule, value."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: a recipe must have at most {MAX_BYTES} bytes, got {path.stat().st_size}")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a recipe: {error}") from None
    return parse_recipe(text, str(path))


def parse_recipe(text: str, where: str) -> Recipe:
    """The same from its text. What stands at the top, outside [page] and [[panels]], holds for every panel that says
    nothing else; a table of a panel replaces single keys of it."""
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: not a recipe: {error}") from None
    shared = {key: value for key, value in tables.items() if key not in ("page", "panels")}
    for key in shared:
        if key not in _PANEL_KEYS:
            raise ValueError(f"{where}: unknown key {key!r}; allowed are page, panels, {', '.join(_PANEL_KEYS)}")
    page = from_table(Page, _table(tables.get("page", {}), f"{where} [page]"), f"{where} [page]")
    panels = tables.get("panels", [{}])
    if not isinstance(panels, list) or not 1 <= len(panels) <= MAX_PANELS:
        raise ValueError(f"{where}: panels must be 1 to {MAX_PANELS} tables, [[panels]], got {_short(panels)}")
    return Recipe(page, tuple(
        _panel(_merged(shared, _table(panel, f"{where} [[panels]] {number}")), f"{where} panel {number}")
        for number, panel in enumerate(panels, start=1)
    ))


def _panel(table: dict[str, Any], where: str) -> Panel:
    found = dict(table)
    for name, kind in _TABLES.items():
        if name in _OPTIONAL and found.get(name) is False:
            del found[name]
        if name in found:
            table = dict(_table(found[name], f"{where} [{name}]"))
            for look in ("a", "b") if kind is WhatIfTable else ():
                place = f"{where} [{name}.{look}]"
                table[look] = from_table(FrustumTable, _table(table.get(look, {}), place), place)
            found[name] = from_table(kind, table, f"{where} [{name}]")
    layers = _table(found.get("layers", {}), f"{where} [layers]")
    found["layers"] = {}
    for name, layer in layers.items():
        if layer is False:
            continue
        layer = {} if layer is True else _table(layer, f"{where} [layers.{name}]")
        found["layers"][name] = from_table(LayerTable, layer, f"{where} [layers.{name}]")
    ranges = _table(found.get("ranges", {}), f"{where} [ranges]")
    found["ranges"] = {name: tuple(ends) if isinstance(ends, list) else ends for name, ends in ranges.items()}
    return from_table(Panel, found, where)


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a table, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = _merged(found[key], value) if both else value
    return found


# Writing


def recipe_text(recipe: Recipe) -> str:
    """The canonical TOML of a recipe: reads back as an equal recipe; equal recipes give equal texts."""
    panels = [_changed(panel) for panel in recipe.panels]
    first = panels[0]
    # what all panels say alike stands at the top, once
    shared = {key: value for key, value in first.items() if all(panel.get(key) == value for panel in panels)}
    own = [{key: value for key, value in panel.items() if key not in shared} for panel in panels]
    lines = _lines({"page": _changed(recipe.page)}, "") if _changed(recipe.page) else []
    lines = _lines(shared, "") + lines
    if len(panels) > 1:
        for panel in own:
            lines += ["", "[[panels]]", *_lines(panel, "panels.")]
    return "\n".join(lines).strip() + "\n"


def _changed(table: Any) -> dict[str, Any]:
    """What differs from the default, tables within as dictionaries."""
    found = {}
    for field in dataclasses.fields(table):
        value = getattr(table, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if value == default:
            continue
        if dataclasses.is_dataclass(value):
            value = _changed(value)
        elif field.name == "layers":
            value = {name: _changed(layer) or True for name, layer in value.items()}
        elif isinstance(value, Mapping):
            value = dict(value)
        found[field.name] = value
    return found


def _lines(table: Mapping[str, Any], prefix: str) -> list[str]:
    """Lines of a table: its values, then the tables within."""
    lines = [f"{_key(key)} = {_value(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", f"[{prefix}{_key(key)}]", *_lines(value, f"{prefix}{_key(key)}.")]
    return lines


def _key(key: str) -> str:
    plain = key and all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in key)
    return key if plain else _text(key)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    return f"[{', '.join(_value(item) for item in value)}]"
