"""Tables: what every table of a recipe is checked by, and the tables of frusta and of what tabs have found."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from sparseflex.frustum import ANCHORS
from sparseflex.training.config import setting, validate
from sparseflex.training.coverage import SOURCES
from workbench import change_view, check_view
from workbench.coverage_view import NEVER, QUANTITIES
from workbench.frustum_view import MAX_HALO
from workbench.split import CATEGORIES
from workbench.what_if import PARTS

_HEX = re.compile(r"#[0-9A-Fa-f]{6}")

Numbers = Sequence[float]


def numbers(count: int, default: Numbers = (), help: str = "") -> Any:
    """A field of `count` finite numbers, or none."""
    return dataclasses.field(default=tuple(default), metadata={"numbers": count, "help": help})


def colour(default: str = "", *, also: str = "", help: str = "") -> Any:
    """A field that holds "#RRGGBB", or "" or what `also` names."""
    return dataclasses.field(default=default, metadata={"colour": ("", also), "help": help})


class Checked:
    """A table of a recipe: its fields' rules hold once it exists, or ValueError names field, rule and value."""

    def __post_init__(self) -> None:
        validate(self)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "numbers" in field.metadata:
                object.__setattr__(self, field.name, checked_numbers(field.name, value, field.metadata["numbers"]))
            elif "colour" in field.metadata:
                extra = [word for word in field.metadata["colour"] if word]
                if not isinstance(value, str) or value and value not in extra and not _HEX.fullmatch(value):
                    raise ValueError(f'{field.name} must be {"".join(f"{word!r} or " for word in extra)}"#RRGGBB", '
                                     f"got {value!r}")
            elif field.type == "float":
                object.__setattr__(self, field.name, float(value))  # 1 and 1.0 are one recipe, written one way
            elif field.type == "str" and not isinstance(value, str):
                raise ValueError(f"{field.name} must be a text, got {value!r}")
            elif field.type == "bool" and not isinstance(value, bool):
                raise ValueError(f"{field.name} must be true or false, got {value!r}")
        self._check()

    def _check(self) -> None:
        """Rules between fields."""


def checked_numbers(name: str, value: Any, count: int) -> tuple[float, ...]:
    good = isinstance(value, list | tuple) and len(value) in (0, count)
    good = good and all(isinstance(item, int | float) and not isinstance(item, bool) for item in value)
    if not good or not all(abs(item) < 1e9 for item in value):
        raise ValueError(f"{name} must be {count} finite numbers, got {value!r}")
    return tuple(float(item) for item in value)


@dataclasses.dataclass(frozen=True)
class FrustumTable(Checked):
    """Whose frustum splits the voxels: the source's camera number `camera` (0: the current one), or one of its own
    where eye is given. visibility_ratio above 0 adapts the planes to it; near and far above 0 replace them."""

    camera: int = setting(0, 0, 100_000)
    eye: Numbers = numbers(3)
    target: Numbers = numbers(3, (0.0, 0.0, 0.0))
    up: Numbers = numbers(3, (0.0, 1.0, 0.0))
    fov_y_degrees: float = setting(40.0, 1, 170)
    aspect: float = setting(1.0, 0.1, 10)
    near: float = setting(0.0, 0, 1e6)
    far: float = setting(0.0, 0, 1e6)
    visibility_ratio: float = setting(0.0, 0, 1)
    anchor: str = setting("front", choices=ANCHORS)
    off: bool = setting(False, help="no camera: every voxel counts as active")

    def _check(self) -> None:
        if self.near and self.far and self.near >= self.far:
            raise ValueError(f"near must be below far, got {self.near} and {self.far}")
        if self.eye and math.dist(self.eye, self.target) < 1e-9:
            raise ValueError(f"eye and target must differ, both are {self.eye}")


def texts(name: str, value: Any, allowed: Sequence[str] = ()) -> tuple[str, ...]:
    """A list of texts; of those allowed, where some are named, each once and in their order."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} must be a list of texts, got {value!r}")
    if not allowed:
        return tuple(value)
    if not set(value) <= set(allowed):
        raise ValueError(f"{name} must be a list of some of {', '.join(allowed)}, got {list(value)!r}")
    return tuple(item for item in allowed if item in value)


@dataclasses.dataclass(frozen=True)
class ChangesTable(Checked):
    """What differs from iteration `since` to the one that the panel shows; show: of change_view.LAYERS."""

    since: int = setting(-1, -1, 10_000_000)
    threshold: float = setting(0.01, 0, change_view.MAX_THRESHOLD, help="in voxel widths, from which voxels count as "
                                                                        "moved, or their SDF as changed; 0: all")
    show: Sequence[str] = change_view.LAYERS

    def _check(self) -> None:
        if self.since < 0:
            raise ValueError("since must be given: an iteration from 0, to compare with")
        object.__setattr__(self, "show", texts("show", self.show, change_view.LAYERS))


@dataclasses.dataclass(frozen=True)
class CoverageTable(Checked):
    """Which voxels cameras have seen: those that none has, or that only one kind of camera has, are marked; or, where
    `values` names a number, all voxels are coloured by it."""

    mark: str = setting(NEVER, choices=(NEVER, *SOURCES))
    values: str = ""
    within: int = setting(0, 0, 10_000_000, help="only what so many of the last iterations saw counts as seen; 0: ever")

    def _check(self) -> None:
        if self.values and self.values not in QUANTITIES:
            raise ValueError(f"values must be one of {', '.join(QUANTITIES)}, got {self.values!r}")
        if self.values and (self.mark != NEVER or self.within):
            raise ValueError("values colours all voxels: mark and within must not be given beside it")


@dataclasses.dataclass(frozen=True)
class SurfaceTable(Checked):
    """Where the surface is wrong; show: of check_view.KINDS; frame: a voxel of the region that gets a frame."""

    show: Sequence[str] = check_view.KINDS
    frame: Numbers = numbers(3)

    def _check(self) -> None:
        object.__setattr__(self, "show", texts("show", self.show, check_view.KINDS))
        if any(part != int(part) or part < 0 for part in self.frame):
            raise ValueError(f"frame must be a voxel's i, j, k: whole numbers from 0, got {list(self.frame)}")


@dataclasses.dataclass(frozen=True)
class WhatIfTable(Checked):
    """How the voxels differ between two frusta, A and B. category: whose voxels; show: of what_if.PARTS; meshes: both
    sections as surfaces, with so many rings of halo."""

    a: FrustumTable = FrustumTable()
    b: FrustumTable = FrustumTable()
    category: str = setting("active", choices=tuple(CATEGORIES))
    show: Sequence[str] = ("only_a", "only_b", "both")
    meshes: bool = False
    halo: int = setting(2, 0, MAX_HALO)

    def _check(self) -> None:
        for name in ("a", "b"):
            if getattr(self, name).off:
                raise ValueError(f"{name}.off must be false: A and B are two frusta")
        object.__setattr__(self, "show", texts("show", self.show, PARTS))
