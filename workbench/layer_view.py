"""LayerView: the colour and size of each layer of the scene, as chosen or by default."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from workbench import theme
from workbench.theme import Colour

DEFAULT_SIZES = {"active": 0.88, "outside": 0.25, "near_cut": 0.35, "far_cut": 0.35, "frustum": 1.0, "cameras": 1.0,
                 "sdf": 0.44, "vectors": 1.0, "pruned": 0.3, "born": 0.94, "wrongly_kept": 0.92, "wrongly_pruned": 0.7,
                 "points": 1.0}
"""Voxels: edge of the drawn cube in voxel widths, for the active ones nearly all of it; sdf: width of a point in voxel
widths; the others: thickness or size relative to the usual one."""

SIZE_LIMITS = {"frustum": (0.3, 4.0), "cameras": (0.3, 4.0), "vectors": (0.3, 4.0), "points": (0.3, 4.0)}
_SHARE_LIMITS = (0.05, 1.0)

_FIXED = {**theme.CATEGORY_COLOURS, "mesh": theme.MESH, "target": theme.TARGET, "frustum": theme.FRUSTUM,
          "cameras": theme.CAMERAS, "pruned": theme.PRUNED, "born": theme.BORN, "wrongly_kept": theme.WRONGLY_KEPT,
          "points": theme.POINTS}
_OF_THEME = {"vectors": "TEXT", "wrongly_pruned": "WRONGLY_PRUNED"}


def default_colour(name: str) -> Colour | None:
    """A layer's colour in the present theme; None where the layer's colours are those of a map."""
    return getattr(theme, _OF_THEME[name]) if name in _OF_THEME else _FIXED.get(name)


@dataclasses.dataclass
class LayerView:
    """colours: "#RRGGBB" by layer, "" for the default; sizes: see DEFAULT_SIZES."""

    KEPT: ClassVar[tuple[str, ...]] = ("colours", "sizes")

    colours: dict[str, str] = dataclasses.field(default_factory=lambda: dict.fromkeys([*_FIXED, *_OF_THEME], ""))
    sizes: dict[str, float] = dataclasses.field(default_factory=lambda: dict(DEFAULT_SIZES))

    def colour(self, name: str) -> Colour | None:
        """The layer's colour; None where it has none of its own."""
        try:
            return theme.rgb(self.colours[name])
        except (KeyError, ValueError):  # none chosen, or a preferences file that was tampered with
            return default_colour(name)

    def set_colour(self, name: str, colour: Colour | None) -> None:
        """Chooses a colour, or the default again."""
        parts = () if colour is None else (round(255 * min(max(part, 0.0), 1.0)) for part in colour)
        self.colours[name] = "" if colour is None else "#" + "".join(f"{part:02X}" for part in parts)

    def size(self, name: str) -> float:
        low, high = SIZE_LIMITS.get(name, _SHARE_LIMITS)
        size = self.sizes.get(name, DEFAULT_SIZES[name])
        return min(max(size, low), high) if math.isfinite(size) else DEFAULT_SIZES[name]

    def changed(self, name: str) -> bool:
        """Whether colour or size is another one than by default."""
        return bool(self.colours.get(name)) or self.sizes.get(name) != DEFAULT_SIZES.get(name)

    def reset(self, name: str) -> None:
        if name in self.colours:
            self.colours[name] = ""
        if name in DEFAULT_SIZES:
            self.sizes[name] = DEFAULT_SIZES[name]
