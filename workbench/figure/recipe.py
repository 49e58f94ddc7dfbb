"""Recipe: all that a figure is made from, as frozen dataclasses with rules; workbench/docs/figures.md explains them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparseflex.training.config import FitConfig, setting
from workbench.figure.tables import (
    ChangesTable,
    Checked,
    CoverageTable,
    FrustumTable,
    Numbers,
    SurfaceTable,
    WhatIfTable,
    checked_numbers,
    colour,
    numbers,
    texts,
)
from workbench.layer_view import DEFAULT_SIZES
from workbench.surface_view import MESH_COLOURS
from workbench.view_state import LAYERS

MAX_PIXELS = 16384
"""Longest side of what OpenGL draws at once; on software GL also its limit."""

MM_PER_INCH = 25.4
TRANSPARENT = "transparent"

@dataclasses.dataclass(frozen=True)
class Page(Checked):
    """The paper. Its width is `width` pixels, or `width_mm` at `dpi`; a height of 0 follows from the panels' aspect."""

    title: str = ""
    width: int = setting(0, 0, MAX_PIXELS, help="pixels; 0: width_mm, or 1600")
    height: int = setting(0, 0, MAX_PIXELS, help="pixels; 0: height_mm, or what the panels need")
    width_mm: float = setting(0.0, 0, 5000)
    height_mm: float = setting(0.0, 0, 5000)
    dpi: int = setting(200, 36, 2400, help="pixels an inch: with font_pt it sets the size of text")
    aspect: float = setting(1.0, 0.1, 10, help="width over height of a panel, where the page's height is 0")
    columns: int = setting(0, 0, 64, help="panels in a row; 0: all in one")
    margin: float = setting(1.0, 0, 100, help="around and between the panels, in font sizes")
    background: str = colour("#FFFFFF", also=TRANSPARENT)
    theme: str = setting("light", choices=("light", "dark"), help="of text, and of layers whose colour follows it")
    supersampling: int = setting(3, 1, 8, help="samples a pixel along each side")
    font_pt: float = setting(8.0, 1, 200)
    letters: bool = setting(False, help="(a), (b), … before captions")
    shared_view: bool = setting(True, help="panels whose cameras say the same frame the same points")
    shared_ranges: bool = setting(True, help="a quantity has one range in all panels")

    def _check(self) -> None:
        for side in ("width", "height"):
            if getattr(self, side) and getattr(self, f"{side}_mm"):
                raise ValueError(f"{side} and {side}_mm must not both be given, got {getattr(self, side)} and "
                                 f"{getattr(self, f'{side}_mm')}")
        for side, pixels in (("width", self.pixel_width), ("height", self.pixel_height)):
            least = 0 if side == "height" and pixels == 0 else 16
            if not least <= pixels <= MAX_PIXELS:
                raise ValueError(f"{side} must be in [16, {MAX_PIXELS}] pixels, got {pixels}")

    @property
    def pixel_width(self) -> int:
        return self.width or round(self.width_mm / MM_PER_INCH * self.dpi) or 1600

    @property
    def pixel_height(self) -> int:
        """0 where it follows from the panels."""
        return self.height or round(self.height_mm / MM_PER_INCH * self.dpi)

    @property
    def em(self) -> float:
        """The font's size in pixels."""
        return self.font_pt * self.dpi / 72


@dataclasses.dataclass(frozen=True)
class SourceTable(Checked):
    """What is shown: path is a recording, checkpoint, mesh or scene file, relative to the recipe, or a scene's name."""

    path: str = ""
    iteration: int = setting(-1, -1, 10_000_000, help="-1: the last one; a scene or mesh is fitted as far (-1: not)")
    look: int = setting(0, 0, 10_000_000, help="iteration of the look at the voxels that pruning layers show; 0: the "
                                               "latest")
    level: int = setting(0, 0, 64, help="the level whose look that is; 0: whichever")
    up: str = setting("y", choices=("y", "z"), help="of a mesh file")
    section_only: bool = setting(False, help="the mesh of the active section, where the source has the whole one too")
    fit: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network: str = setting("", help="weights of a VAE, relative to the recipe, or a name such as tiny_vae: a scene, "
                                    "mesh or point cloud is reconstructed by them, not fitted")
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def _check(self) -> None:
        good = isinstance(self.settings, Mapping) and all(
            isinstance(value, int | float) and math.isfinite(value) for value in self.settings.values())
        if not good:
            raise ValueError(f"settings must be a table of finite numbers, got {self.settings!r}")
        if self.settings and not self.network:
            raise ValueError("settings go with network: they are those of an inference")
        if self.fit and self.network:
            raise ValueError("fit and network can't both be given")
        known = {field.name for field in dataclasses.fields(FitConfig)}
        if not isinstance(self.fit, Mapping):
            raise ValueError(f"fit must be a table, got {self.fit!r}")
        for key in self.fit:
            if key not in known:
                raise ValueError(f"fit: unknown key {key!r}; allowed are {', '.join(sorted(known))}")


@dataclasses.dataclass(frozen=True)
class CameraTable(Checked):
    """Where it is seen from: eye and target, or a direction along which everything just fits.

    fov_y_degrees spans the height of the panel; orthographic_height, in world units, takes its place where above 0.
    crop: the part of the view that is shown: left, top, right, bottom in [0, 1].
    """

    direction: Numbers = numbers(3)
    eye: Numbers = numbers(3)
    target: Numbers = numbers(3)
    up: Numbers = numbers(3, (0.0, 1.0, 0.0))
    fov_y_degrees: float = setting(28.0, 1, 120)
    orthographic_height: float = setting(0.0, 0, 16)
    fill: float = setting(0.94, 0.05, 4, help="share of the panel that a framed subject fills")
    frame: str = setting("all", choices=("all", "object"), help="whether frusta count for the frame")
    crop: Numbers = numbers(4)

    def _check(self) -> None:
        if bool(self.eye) != bool(self.target):
            raise ValueError(f"eye and target must be given together, got {self.eye} and {self.target}")
        if self.eye and self.direction:
            raise ValueError(f"direction must not be given beside eye and target, got {self.direction}")
        if self.eye and math.dist(self.eye, self.target) < 1e-9:
            raise ValueError(f"eye and target must differ, both are {self.eye}")
        for name in ("direction", "up"):
            if getattr(self, name) and not any(getattr(self, name)):
                raise ValueError(f"{name} must not be all 0, got {getattr(self, name)}")
        if self.crop:
            left, top, right, bottom = self.crop
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(f"crop must be left < right and top < bottom in [0, 1], got {self.crop}")

    @property
    def framed(self) -> bool:
        return not self.eye


@dataclasses.dataclass(frozen=True)
class CutTable(Checked):
    """The plane normal · x = offset: what lies beyond it is cut away where open is true; slices lie in it too."""

    normal: Numbers = numbers(3, (0.0, 0.0, 1.0))
    offset: float = setting(0.0, -2, 2)
    open: bool = setting(False, help="cut everything beyond the plane away")
    cap: str = colour("#4A4F57", help="of closed surfaces, where they are cut")

    def _check(self) -> None:
        if not self.normal or not any(self.normal):
            raise ValueError(f"normal must be three numbers that are not all 0, got {self.normal}")

    @property
    def unit_normal(self) -> tuple[float, float, float]:
        length = math.hypot(*self.normal)
        return tuple(part / length for part in self.normal)


@dataclasses.dataclass(frozen=True)
class LayerTable(Checked):
    """How a layer is drawn: colour "" and size 0 are the usual ones (layer_view.py says what sizes mean)."""

    colour: str = colour()
    size: float = setting(0.0, 0, 8)


@dataclasses.dataclass(frozen=True)
class Colouring(Checked):
    """What gives layers their colours: fields by their name, at corners (corners, slice) and at voxels."""

    mesh: str = setting("clay", choices=MESH_COLOURS)
    corners: str = ""
    voxels: str = ""
    part: str = ""
    world_units: bool = False
    magnitudes: str = setting("viridis", choices=("viridis", "cividis"))
    vector_scale: float = setting(2.0, 0, 1000)
    vectors_in_slice: bool = True
    contour: bool = True
    bar: bool = setting(True, help="colour bars")


@dataclasses.dataclass(frozen=True)
class PlotTable(Checked):
    """Scalars of the source against its iterations."""

    scalars: Sequence[str] = ()
    names: Sequence[str] = ()
    label: str = ""
    log: bool = False
    mark: int = setting(-1, -1, 10_000_000, help="iteration marked by a line")

    def _check(self) -> None:
        for name in ("scalars", "names"):
            object.__setattr__(self, name, texts(name, getattr(self, name)))
        if not self.scalars:
            raise ValueError("scalars must name at least one scalar, got none")
        if self.names and len(self.names) != len(self.scalars):
            raise ValueError(f"names must be one for each scalar, got {len(self.names)} for {len(self.scalars)}")


@dataclasses.dataclass(frozen=True)
class Panel(Checked):
    """One picture of the page. layers: by their name in view_state.LAYERS, those that are shown. ranges: by a
    quantity's name, (low, high). scale_bar: its length in world units, 0 for none. legend: voxels counted by kind.
    stage: of an inference, the one whose voxels are shown, "" for the final surface's."""

    caption: str = ""
    legend: bool = False
    scale_bar: float = setting(0.0, 0, 4)
    scale_label: str = ""
    stage: str = ""
    side_by_side: bool = setting(False, help="voxels, mesh and target in places of their own")
    source: SourceTable = SourceTable()
    camera: CameraTable = CameraTable()
    cut: CutTable = CutTable()
    layers: Mapping[str, LayerTable] = dataclasses.field(default_factory=dict)
    colouring: Colouring = Colouring()
    frustum: FrustumTable = FrustumTable()
    ranges: Mapping[str, Numbers] = dataclasses.field(default_factory=dict)
    changes: ChangesTable | None = None
    coverage: CoverageTable | None = None
    surface: SurfaceTable | None = None
    what_if: WhatIfTable | None = None
    plot: PlotTable | None = None

    def _check(self) -> None:
        for name in self.layers:
            if name not in LAYERS:
                raise ValueError(f"layers: unknown layer {name!r}; allowed are {', '.join(LAYERS)}")
            if self.layers[name].size and name not in DEFAULT_SIZES:
                raise ValueError(f"layers.{name}: size does not apply to this layer, got {self.layers[name].size}")
        for name, ends in self.ranges.items():
            if len(checked_numbers(f"ranges.{name}", ends, 2)) != 2 or not ends[0] < ends[1]:
                raise ValueError(f"ranges.{name} must be low < high, got {ends!r}")
        object.__setattr__(self, "ranges", {name: checked_numbers(name, ends, 2) for name, ends in self.ranges.items()})
        if not self.source.path:
            raise ValueError("source.path must name a recording, a checkpoint, a mesh or a scene, got ''")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A page and its panels, row by row."""

    page: Page
    panels: tuple[Panel, ...]

    @property
    def columns(self) -> int:
        return min(self.page.columns or len(self.panels), len(self.panels))

    @property
    def rows(self) -> int:
        return math.ceil(len(self.panels) / self.columns)
