"""Page: where on the paper panels, captions, legends and colour bars lie, in pixels. Pure numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from workbench.figure.prepare import Bar, Entry, Ready
from workbench.figure.recipe import MAX_PIXELS, Recipe
from workbench.figure.text import LINE, width_of, wrapped
from workbench.inputs import InputError

BAR_EM, TICKS_EM = 0.62, 3.1
"""Thickness of a colour bar, and its height with numbers and label, in font sizes."""

TITLE_EM = 1.3
_GAP = 0.55  # between a picture and what stands below it, in font sizes
_LEAST_PIXELS = 16
PLOT_LEAST_EM = 7.0
"""A plot's side at least, in font sizes: its numbers and labels take 5.4 across and 3.5 down."""

Rect = tuple[int, int, int, int]  # x, y of the upper left corner, width, height


@dataclasses.dataclass(frozen=True)
class Placed:
    """A bar, or an entry of a legend, with its upper left corner and width in pixels."""

    what: Bar | Entry
    x: float
    y: float
    width: float


@dataclasses.dataclass(frozen=True)
class Cell:
    """A panel on the page: its picture's rectangle, and lines of text, bars and legend below it."""

    picture: Rect
    letter: str
    caption: tuple[str, ...]
    caption_y: float
    legend: tuple[Placed, ...]
    bars: tuple[Placed, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The whole page: its size in pixels, the cells, and the bars that all panels share."""

    width: int
    height: int
    title_y: float
    cells: tuple[Cell, ...]
    bars: tuple[Placed, ...]


def lay_out(recipe: Recipe, ready: Sequence[Ready]) -> Layout:
    """Rows of equal panels, with room below them for the row's longest caption, legend and bars.

    Raises InputError where the panels would have less than 16 pixels, or a plot no room beside its numbers.
    """
    page, em = recipe.page, recipe.page.em
    margin, columns = round(page.margin * em), recipe.columns
    wide = (page.pixel_width - margin * (columns + 1)) // columns
    bars = shared_bars(ready)
    before = [sum(bool(one.panel.caption) for one in ready[:number]) for number in range(len(ready))]
    parts = [_Below(one, number, recipe, wide, bool(bars)) for one, number in zip(ready, before, strict=True)]
    rows = [parts[start : start + columns] for start in range(0, len(parts), columns)]
    below = [max(part.height for part in row) for row in rows]
    top = margin + (round(TITLE_EM * LINE * em) + margin // 2 if page.title else 0)
    bottom = (round(TICKS_EM * em) + margin // 2) if bars else 0
    spare = page.pixel_height - top - bottom - sum(below) - margin * len(rows)
    tall = spare // len(rows) if page.pixel_height else round(wide / page.aspect)
    if min(wide, tall) < _LEAST_PIXELS:
        raise InputError(f"panels must have at least {_LEAST_PIXELS} pixels a side beside margins and text, got {wide} "
                         f"x {tall}; enlarge the page, or lower page.font_pt or page.margin")
    least = math.ceil(PLOT_LEAST_EM * em)
    if min(wide, tall) < least and any(one.panel.plot is not None for one in ready):
        raise InputError(f"a plot must have at least {least} pixels a side at this size of type, got {wide} x {tall}; "
                         "enlarge the page, or lower page.font_pt or page.margin")
    cells, y = [], top
    for row, height in zip(rows, below, strict=True):
        # a last row that isn't full stands in the middle
        x = (page.pixel_width - len(row) * wide - (len(row) - 1) * margin) // 2
        for part in row:
            cells.append(part.cell((x, y, wide, tall)))
            x += wide + margin
        y += tall + height + margin
    height = page.pixel_height or y + bottom
    if height > MAX_PIXELS:
        raise InputError(f"the page must be at most {MAX_PIXELS} pixels high, got {height}")
    placed = _bar_row(bars, margin, height - margin - TICKS_EM * em, page.pixel_width - 2 * margin, em)
    return Layout(page.pixel_width, height, margin + TITLE_EM * em, tuple(cells), placed)


def shared_bars(ready: Sequence[Ready]) -> tuple[Bar, ...]:
    """The bars of all panels where they are the same in each that has some, of several; open where any one's is."""
    with_bars = [one.bars for one in ready if one.bars]
    keys = [[(bar.label, *bar.scale.key) for bar in bars] for bars in with_bars]
    if len(with_bars) < 2 or any(key != keys[0] for key in keys):
        return ()
    return tuple(
        dataclasses.replace(same[0], below=any(bar.below for bar in same), above=any(bar.above for bar in same))
        for same in zip(*with_bars, strict=True)
    )


class _Below:
    """What stands below a panel's picture; number: how many panels before it have a caption."""

    def __init__(self, ready: Ready, number: int, recipe: Recipe, width: int, shared: bool) -> None:
        self._em, self._width = recipe.page.em, width
        self._letter = f"({_letters(number)})" if recipe.page.letters and ready.panel.caption else ""
        self._caption = wrapped(ready.panel.caption, self._em, width - letter_width(self._letter, self._em))
        legend = () if ready.panel.plot is not None else ready.legend
        self._legend = _flowed(legend, self._em, width)
        self._bars = () if shared or ready.panel.plot is not None else ready.bars

    @property
    def height(self) -> int:
        lines = LINE * (len(self._caption) + len(self._legend))
        gap = _GAP if lines else 0.0
        return round((lines + gap + (TICKS_EM + _GAP if self._bars else 0.0)) * self._em)

    def cell(self, picture: Rect) -> Cell:
        x, y, wide, tall = picture
        em, below = self._em, y + tall + _GAP * self._em
        legend, caption_y = [], below
        at = below + LINE * em * len(self._caption)
        for line in self._legend:
            total = sum(width for _, width in line) + em * (len(line) - 1)
            left = x + (wide - total) / 2
            for entry, width in line:
                legend.append(Placed(entry, left, at, width))
                left += width + em
            at += LINE * em
        bars = _bar_row(self._bars, x, at + (_GAP if self._legend or self._caption else 0) * em, wide, em)
        return Cell(picture, self._letter, tuple(self._caption), caption_y, tuple(legend), bars)


def letter_width(letter: str, em: float) -> float:
    """Width of a panel's letter with the space after it; at small sizes hinting makes it wider than its outline."""
    return width_of(letter, em, bold=True) + 0.55 * em if letter else 0.0


def _letters(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else _letters(number // 26 - 1) + _letters(number % 26)


def _flowed(entries: Sequence[Entry], em: float, width: float) -> list[list[tuple[Entry, float]]]:
    """Entries with their widths, in lines that fit; what doesn't fit in one goes on in the next."""
    lines: list[list[tuple[Entry, float]]] = []
    used = width + 1
    for entry in entries:
        parts = wrapped(entry.label, 0.9 * em, width - 1.1 * em)
        own = max(width_of(part, 0.9 * em) for part in parts) + 1.1 * em
        if used + em + own > width or len(parts) > 1:
            lines.append([])
            used = -em
        lines[-1].append((dataclasses.replace(entry, label=parts[0]), own))
        lines += [[(Entry(part, None), own)] for part in parts[1:]]
        used = used + em + own if len(parts) == 1 else width + 1
    return lines


def _bar_row(bars: Sequence[Bar], x: float, y: float, width: float, em: float) -> tuple[Placed, ...]:
    """Bars side by side, each at most 26 font sizes wide, in the middle."""
    if not bars:
        return ()
    gap = 3 * em
    own = min((width - gap * (len(bars) - 1)) / len(bars), 26 * em) * 0.9
    left = x + (width - own * len(bars) - gap * (len(bars) - 1)) / 2
    return tuple(Placed(bar, left + index * (own + gap), y, own) for index, bar in enumerate(bars))
