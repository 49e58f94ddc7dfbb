"""Colours of depth, normal and mask maps and of their differences: shared ranges, what differs in kind, what is NaN."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

from workbench import theme
from workbench.colour_maps import Scale, bad_values

ANGLE_LIMIT = 60.0
"""Degrees between two normals that get the end of the colour map."""

IN_ONE_ONLY = theme.BORN
"""Green: neither of the maps that differences are drawn with has it."""

_HIT = 1e-6  # shorter normals mean that nothing is hit
_QUANTILE = 0.98


@dataclasses.dataclass(frozen=True)
class MapRange:
    """What the colours of a row of maps mean. depth: (nearest, farthest) of both maps, None where nothing is hit.

    unit: how many world units one step of a depth difference is, and unit_name what it is called; difference: the
    depth difference, in it, at both ends of the colour map.
    """

    depth: tuple[float, float] | None
    unit: float
    unit_name: str
    difference: float


def background() -> Float[np.ndarray, "3"]:
    """The colour of pixels that hit nothing."""
    return np.array(theme.RAISED, np.float32) * (0.55 if theme.current() is theme.DARK else 0.92)


def hit_of(name: str, values: np.ndarray) -> Bool[np.ndarray, "H W"]:
    """Pixels of a depth or normal map that hit something; NaN counts as a hit."""
    if name == "normal":
        return ~(squared_lengths(values) <= _HIT**2)
    return ~(values == 0)


def squared_lengths(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    """By einsum: sums over so short an axis take numpy ten times as long."""
    return np.einsum("...k,...k->...", vectors, vectors)


def range_of(rendered: Float[np.ndarray, "H W"], target: Float[np.ndarray, "H W"], resolution: int) -> MapRange:
    """Of a pair of depth maps; resolution: voxels along the unit box, 0 where there are none."""
    depths = np.concatenate([values[np.isfinite(values) & (values > 0)] for values in (rendered, target)])
    unit, unit_name = (1 / resolution, "voxels") if resolution else (1.0, "world units")
    ends = (float(depths.min()), float(depths.max())) if depths.size else None
    both = np.isfinite(rendered) & np.isfinite(target) & (rendered > 0) & (target > 0)
    away = np.abs(rendered[both].astype(np.float64) - target[both]) / unit
    typical = float(np.quantile(away, _QUANTILE)) if away.size else 0.0
    return MapRange(ends, unit, unit_name, round_up(max(typical, 0.01 if resolution else 1e-4)))


def round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20 … and their tenths that is not below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def colour_map(name: str, values: np.ndarray, shared: MapRange) -> Float[np.ndarray, "H W 3"]:
    """A map as colours: depth near bright, normals as (n + 1) / 2, mask grey; NaN in the theme's colour for it."""
    if name == "mask":
        return _marked(greys(np.nan_to_num(values)), ~np.isfinite(values), theme.NOT_A_NUMBER)
    hit = hit_of(name, values)
    if name == "normal":
        colours = np.multiply(values, np.float32(0.5), dtype=np.float32)
        colours += np.float32(0.5)
        np.clip(colours, 0.0, 1.0, out=colours)
        _marked(colours, ~hit, background())
        return _marked(colours, ~np.isfinite(squared_lengths(values)), theme.NOT_A_NUMBER)
    return _marked(depth_scale(shared).colours(-values), ~hit, background())


def greys(shares: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    """Nearly black for 0, nearly white for 1: both are told from what surrounds a map."""
    grey = np.float32(0.08) + np.float32(0.84) * np.clip(shares, 0, 1).astype(np.float32)
    return np.repeat(grey[..., None], 3, axis=-1)


def depth_scale(shared: MapRange) -> Scale:
    """The scale of minus the depth, so that near is bright."""
    near, far = shared.depth or (0.0, 1.0)
    return Scale(-far, -near, "viridis") if far > near else Scale(-far - 0.5, -near + 0.5, "viridis")


def difference_scale(name: str, shared: MapRange) -> Scale:
    """The scale of `difference`."""
    if name == "normal":
        return Scale(0.0, ANGLE_LIMIT, "cividis")
    limit = shared.difference if name == "depth" else 1.0
    return Scale(-limit, limit, "diverging")


def difference(name: str, rendered: np.ndarray, target: np.ndarray, shared: MapRange) -> Float[np.ndarray, "H W"]:
    """Rendered minus target: depth in shared.unit, mask as it is, normals by their angle in degrees.

    0 where neither hits, infinite where only one of depth or normal does, NaN where either is. Normals have length 1.
    """
    away = rendered - target
    if name == "mask":
        return away
    hit_rendered, hit_target = hit_of(name, rendered), hit_of(name, target)
    if name == "normal":  # by the chord between them, which is exact for small angles too
        chords = np.sqrt(squared_lengths(away))
        bad = np.isnan(chords)
        away = np.degrees(2 * np.arcsin(np.minimum(chords / 2, 1, out=chords)))
    else:
        bad = np.isnan(away)
        away = away / away.dtype.type(shared.unit)
    np.copyto(away, 0.0, where=~(hit_rendered & hit_target))
    np.copyto(away, np.inf, where=hit_rendered != hit_target)
    np.copyto(away, np.nan, where=bad)
    return away


def angle_degrees(a: Float[np.ndarray, "*n 3"], b: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    """The angle between unit normals, exact for small ones too."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    across = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.degrees(np.arctan2(across, (a * b).sum(-1)))


def colour_difference(name: str, rendered: np.ndarray, target: np.ndarray, shared: MapRange
                      ) -> Float[np.ndarray, "H W 3"]:
    """How far apart a pair is; hit in one only, and NaN, in colours of their own."""
    away = difference(name, rendered, target, shared)
    only_one = np.isinf(away)
    np.copyto(away, 0.0, where=only_one)
    colours = difference_scale(name, shared).colours(away)
    hit = (rendered != 0) | (target != 0) if name == "mask" else hit_of(name, rendered) | hit_of(name, target)
    _marked(colours, ~hit, background())
    return _marked(colours, only_one, IN_ONE_ONLY)


def rim_picture(depth: Float[np.ndarray, "H W"], differs: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "H W 3"]:
    """Depth in greys, near bright, with the rim's pixels marked."""
    seen = depth[(depth > 0) & np.isfinite(depth)]
    near, far = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    grey = 0.75 - 0.4 * np.clip((np.nan_to_num(depth) - near) / max(far - near, 1e-9), 0, 1)
    colours = np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)
    return mark_rim(_marked(colours, ~hit_of("depth", depth), background()), differs)


def mark_rim(colours: Float[np.ndarray, "H W 3"], differs: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "H W 3"]:
    """The same with rim pixels in their colour."""
    return _marked(colours, differs, rim_colour())


def rim_colour() -> theme.Colour:
    return theme.BAD


def n_bad(*maps: np.ndarray) -> int:
    """How many pixels of some maps are NaN or infinite."""
    return sum(sum(bad_values(values if values.ndim == 2 else squared_lengths(values))) for values in maps)


def _marked(colours: np.ndarray, where: np.ndarray, colour: theme.Colour | np.ndarray) -> np.ndarray:
    """The same array, overwritten with a colour somewhere."""
    if where.any():
        np.copyto(colours, np.asarray(colour, colours.dtype), where=where[..., None])
    return colours
