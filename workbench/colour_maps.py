"""Colour maps: values as colours by a table, what isn't a number in a colour of its own, and the ranges they span."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import numpy as np
from jaxtyping import Float

from workbench import theme

N_COLOURS = 256

_QUANTILE = 0.02
_LOOKED_AT = 100_000
"""A range comes from about so many values, evenly spread: of a million values it is found in 2 ms."""

# even steps of the maps; diverging is Moreland's cool to warm
_CODES = {
    "viridis": "440154 481A6C 472F7D 414487 39568C 31688E 2A788E 23888E 1F988B 22A884 35B779 54C568 7AD151 A5DB36 "
               "D2E21B FDE725",
    "cividis": "002051 012B65 11366C 26426E 3C4D6E 51586E 62646F 727071 7F7C75 8C8877 9A9478 A9A177 BBAF71 CEBD68 "
               "E2CB5C F3DA4F FDEA45",
    "diverging": "3B4CC0 6282EA 8DB0FE B8D0F9 DDDDDD F5C4AD F49A7B DE604D B40426",
}

MapName = Literal["viridis", "cividis", "diverging"]


@functools.cache
def _entries(name: str) -> Float[np.ndarray, "k 3"]:
    return np.array([theme.rgb(f"#{code}") for code in _CODES[name].split()], np.float32)


def _interpolated(name: str, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    entries = _entries(name)
    place = np.clip(values, 0, 1) * (len(entries) - 1)
    low = np.minimum(place.astype(np.int64), len(entries) - 2)
    return entries[low] + (place - low)[..., None].astype(np.float32) * (entries[low + 1] - entries[low])


def viridis(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    """Colours for finite values in [0, 1], linear between sixteen entries of the map."""
    return _interpolated("viridis", values)


@functools.cache
def table(name: MapName) -> Float[np.ndarray, "257 3"]:
    """256 colours of a map from its low end to its high one, then the colour of what isn't a number."""
    colours = _interpolated(name, np.linspace(0, 1, N_COLOURS))
    return np.concatenate([colours, [theme.NOT_A_NUMBER]]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Which values get which colours: the map's ends stand for low and high, values beyond get the end's colour.

    Raises ValueError unless low < high, both finite, and for an unknown map.
    """

    low: float
    high: float
    name: MapName = "viridis"

    def __post_init__(self) -> None:
        if self.name not in _CODES:
            raise ValueError(f"name must be one of {', '.join(_CODES)}, got {self.name!r}")
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low and high must satisfy low < high, both finite, got {self.low} and {self.high}")

    @property
    def key(self) -> tuple[float, float, str]:
        """What tells two scales apart."""
        return self.low, self.high, self.name

    def colours(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
        """One colour a value, float32; NaN and infinite values in theme.NOT_A_NUMBER."""
        # via float32: a million values in 7 ms; the row past the map's colours is the one for bad values
        place = np.asarray(values, np.float32) - np.float32(self.low)
        with np.errstate(invalid="ignore", over="ignore"):
            place *= np.float32(N_COLOURS / (self.high - self.low))
        bad = ~np.isfinite(place)
        if bad.any():  # what overflowed is no bad value, but one far beyond an end
            bad &= ~np.isfinite(values)
            place = np.nan_to_num(place, nan=0.0)
        np.clip(place, 0, N_COLOURS - 1, out=place)
        rows = place.astype(np.uint16)
        rows[bad] = N_COLOURS
        return table(self.name).take(rows, axis=0)


def robust_range(values: Float[np.ndarray, "*shape"], signed: bool) -> tuple[float, float]:
    """From the 2nd to the 98th hundredth of the finite values; signed: symmetric about zero. Always low < high.

    Where hardly any value is between them (mostly one value), the extremes count instead.
    """
    flat = np.asarray(values).reshape(-1)
    flat = flat[:: max(len(flat) // _LOOKED_AT, 1)].astype(np.float64)
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        return (-1.0, 1.0) if signed else (0.0, 1.0)
    if signed:
        sizes = np.abs(finite)
        limit = float(np.quantile(sizes, 1 - _QUANTILE)) or float(sizes.max())
        return _apart(-limit, limit)
    low, high = (float(end) for end in np.quantile(finite, (_QUANTILE, 1 - _QUANTILE)))
    if low == high:
        low, high = float(finite.min()), float(finite.max())
    return _apart(low, high)


def _apart(low: float, high: float) -> tuple[float, float]:
    """The ends, moved apart where float32 would not tell them apart."""
    least = max(1e-6 * max(abs(low), abs(high)), 1e-12)
    return (low, high) if high - low >= least else (low - max(least, 0.5), high + max(least, 0.5))


def bad_values(values: Float[np.ndarray, "*shape"]) -> tuple[int, int]:
    """How many values are NaN, and how many infinite."""
    finite = int(np.count_nonzero(np.isfinite(values)))
    if finite == values.size:
        return 0, 0
    n_nan = int(np.count_nonzero(np.isnan(values)))
    return n_nan, values.size - finite - n_nan


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high, both of them at most: steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / max(most, 1)))
    for step in (factor * power for factor in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
        if last - first < most:
            break
    return [number * step for number in range(first, last + 1)]
