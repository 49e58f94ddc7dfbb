"""Scenes: a target, the settings of its fit and the view of it, from a TOML file or a mesh; strict about every key."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.data import READABLE, load_mesh, normalize
from sparseflex.memory import check_memory
from sparseflex.mesh import Mesh
from sparseflex.sampling import check_fixed
from sparseflex.shapes import SHAPES, make_shape
from sparseflex.training.config import FitConfig, from_table
from sparseflex.training.faults import Fault
from sparseflex.transforms import read_transforms

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TOP = ("title", "description", "target", "fit", "view", "cameras", "breakpoints", "faults")


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """Where pictures of the scene are seen from: direction points to the eye, normalised frame."""

    direction: Sequence[float] = (0.75, 0.42, 1.0)

    def __post_init__(self) -> None:
        value = self.direction
        good = isinstance(value, list | tuple) and len(value) == 3 and all(_is_number(item) for item in value)
        if not good or not any(value):
            raise ValueError(f"direction must be three finite numbers that are not all 0, got {value!r}")
        object.__setattr__(self, "direction", tuple(float(item) for item in value))

    def camera(self) -> Camera:
        """A camera that looks at the origin from there."""
        eye = torch.tensor(self.direction, dtype=torch.float64)
        return Camera.look_at(2 * eye / eye.norm(), (0, 0, 0))


@dataclasses.dataclass(frozen=True)
class BreakpointText:
    """A condition at which a fit shall stop, as a text, which this library doesn't read; one_shot: the first time
    only."""

    expression: str
    enabled: bool = True
    one_shot: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """A target mesh in the normalised frame with the settings of its fit and the view of it.

    cameras: views of the user's own to train with, from the transforms.json that [cameras] names (normalised frame).
    input_from_normalized: (4, 4) float64, from the normalised frame to that of the target's file or shape.
    n_degenerate: triangles without area that were dropped from the target's file. breakpoints: as `breakpoints` lists
    them, or [[breakpoints]] tables.
    """

    name: str
    title: str
    description: str
    target: Mesh
    fit: FitConfig
    view: ViewConfig
    input_from_normalized: Float[Tensor, "4 4"]
    n_degenerate: int = 0
    cameras: tuple[Camera, ...] = ()
    breakpoints: tuple[BreakpointText, ...] = ()
    faults: tuple[Fault, ...] = ()


def load_scene(
    name_or_path: str | Path,
    search: Sequence[Path] = (),
    up: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Scene:
    """A scene by the name of a file in a search folder, by the path of a .toml file, or made from a mesh file.

    up: the up axis of the target's mesh file, in place of the scene's. overrides: settings of the fit, in place of the
    scene's. device: whose memory must hold the fit. Raises FileNotFoundError or ValueError in one line: what file,
    table and key, the value, what is allowed.
    """
    path = Path(name_or_path)
    overrides = {key: value for key, value in (overrides or {}).items() if value is not None}
    if path.suffix.lower() == ".toml":
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        return _from_file(path, up, overrides, device)
    if path.suffix.lower() in READABLE:
        return _from_mesh(path, up or "y", overrides, device)
    if path.is_file():
        known = ", ".join((".toml (a scene)", *READABLE))
        raise ValueError(f"{path}: unknown type {path.suffix!r}; allowed are {known}")
    if str(path) == path.name:
        for folder in search:
            if (folder / f"{path.name}.toml").is_file():
                return _from_file(folder / f"{path.name}.toml", up, overrides, device)
    known = ", ".join(scene_names(search))
    raise FileNotFoundError(f"{name_or_path}: no such file, and no scene of that name; scenes are {known}")


def scene_names(search: Sequence[Path]) -> list[str]:
    """Names of the scene files in the folders, in alphabetical order."""
    return sorted({path.stem for folder in search for path in folder.glob("*.toml")})


def read_scene_text(path: Path) -> dict[str, Any]:
    """The tables of a scene file, its top level checked: title, description and the tables."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a scene file: {error}") from None
    for key, value in tables.items():
        if key not in _TOP:
            raise ValueError(f"{path}: unknown key {key!r}; allowed are {', '.join(_TOP)}")
        wanted = {"title": str, "description": str, "breakpoints": list, "faults": list}.get(key, dict)
        if not isinstance(value, wanted):
            kind = {"breakpoints": "a list of texts, or of tables", "faults": "[[faults]] tables"}.get(
                key, "a text" if wanted is str else f"a table, [{key}]")
            raise ValueError(f"{path}: {key} must be {kind}, got {value!r}")
    return tables


def _from_file(path: Path, up: str | None, overrides: Mapping[str, Any], device: torch.device | str) -> Scene:
    tables = read_scene_text(path)
    view = from_table(ViewConfig, tables.get("view", {}), f"{path} [view]")
    target = dict(tables.get("target", {}))
    try:
        mesh, back, n_degenerate = _target(target, path.parent, up)
    except ValueError as error:
        raise ValueError(f"{path} [target]: {error}") from None
    fit = _fit(tables.get("fit", {}), overrides, f"{path} [fit]", mesh, device)
    description = " ".join(tables.get("description", "").split())
    cameras = _cameras(tables.get("cameras", {}), path, mesh)
    breakpoints = _breakpoints(tables.get("breakpoints", []), f"{path} breakpoints")
    faults = _faults(tables.get("faults", []), f"{path} faults")
    return Scene(path.stem, tables.get("title", path.stem), description, mesh, fit, view, back, n_degenerate, cameras,
                 breakpoints, faults)


def _faults(listed: list[Any], where: str) -> tuple[Fault, ...]:
    for number, entry in enumerate(listed, start=1):
        if not isinstance(entry, dict) or "kind" not in entry:
            raise ValueError(f"{where}: entry {number} must be a table with kind, got {entry!r}")
    return tuple(from_table(Fault, entry, f"{where}, entry {number}") for number, entry in enumerate(listed, start=1))


def _breakpoints(listed: list[Any], where: str) -> tuple[BreakpointText, ...]:
    """The entries of a list: texts, or tables with expression and, where wanted, enabled and one_shot."""
    rules = {"expression": str, "enabled": bool, "one_shot": bool}
    found = []
    for number, entry in enumerate(listed, start=1):
        table = {"expression": entry} if isinstance(entry, str) else entry
        if not isinstance(table, dict) or "expression" not in table:
            raise ValueError(f"{where}: entry {number} must be a text, or a table with expression, got {entry!r}")
        for key, value in table.items():
            if key not in rules:
                raise ValueError(f"{where}: unknown key {key!r} in entry {number}; allowed are {', '.join(rules)}")
            if not isinstance(value, rules[key]):
                kind = "a text" if rules[key] is str else "true or false"
                raise ValueError(f"{where}: {key} of entry {number} must be {kind}, got {value!r}")
        found.append(BreakpointText(**table))
    return tuple(found)


def _cameras(table: dict[str, Any], path: Path, target: Mesh) -> tuple[Camera, ...]:
    """The cameras that a [cameras] table names; each must keep clear of the target's surface."""
    if not table:
        return ()
    where = f"{path} [cameras]"
    for key in table:
        if key != "transforms":
            raise ValueError(f"{where}: unknown key {key!r}; allowed is transforms")
    if not isinstance(table["transforms"], str):
        raise ValueError(f"{where}: transforms must be the path of a file, got {table['transforms']!r}")
    file = path.parent / table["transforms"]
    cameras = read_transforms(file)
    try:
        check_fixed(cameras, target)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return tuple(cameras)


def _target(table: dict[str, Any], folder: Path, up: str | None) -> tuple[Mesh, Float[Tensor, "4 4"], int]:
    """The normalised mesh of a [target] table: either a shape with its parameters, or a mesh file."""
    if ("shape" in table) == ("mesh" in table):
        raise ValueError("needs either shape or mesh; shapes are " + ", ".join(SHAPES))
    if "shape" in table:
        if not isinstance(table["shape"], str):
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {table['shape']!r}")
        if up is not None:
            raise ValueError(f"up applies to mesh files, not to a shape; got {up!r}")
        shape = make_shape(table.pop("shape"), **table)
        return *normalize(shape.vertices.numpy(), shape.faces.numpy()), 0
    for key in table:
        if key not in ("mesh", "up"):
            raise ValueError(f"unknown key {key!r}; beside mesh only up is allowed")
    if not isinstance(table["mesh"], str):
        raise ValueError(f"mesh must be the path of a file, got {table['mesh']!r}")
    loaded = load_mesh(folder / table["mesh"], up or table.get("up", "y"))
    return loaded.mesh, loaded.input_from_normalized, loaded.n_degenerate


def _from_mesh(path: Path, up: str, overrides: Mapping[str, Any], device: torch.device | str) -> Scene:
    loaded = load_mesh(path, up)
    fit = _fit({}, overrides, str(path), loaded.mesh, device)
    return Scene(loaded.name, loaded.name, "", loaded.mesh, fit, ViewConfig(), loaded.input_from_normalized,
                 loaded.n_degenerate)


def _fit(
    table: Mapping[str, Any], overrides: Mapping[str, Any], where: str, target: Mesh, device: torch.device | str
) -> FitConfig:
    """The settings, the scene's with the overrides over them; a resolution that memory can't hold is an error."""
    both = {**table, **overrides}
    place = f"{where}: " if "resolution" not in overrides else ""
    resolution, ratio = both.get("resolution", FitConfig.resolution), both.get("visibility_ratio", 1.0)
    if _is_number(resolution) and resolution > 0:
        # before its range is checked, so that an absurd one is told by the memory it would take
        ratio = min(max(ratio, 0.0), 1.0) if _is_number(ratio) else 1.0
        check_memory(target, math.ceil(resolution), ratio, device, place)
    for key, value in both.items():
        if isinstance(value, int) and abs(value) > sys.maxsize:
            raise ValueError(f"{where}: {key} must be a number below 2^63, got one of {len(str(abs(value)))} digits")
    own = from_table(FitConfig, table, where)  # the scene's own first, so that its errors name its file
    return dataclasses.replace(own, **overrides)


def _is_number(value: Any) -> bool:
    if isinstance(value, int):  # of any size, also beyond floating point
        return not isinstance(value, bool)
    return isinstance(value, float) and math.isfinite(value)

