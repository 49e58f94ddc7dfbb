"""Ui: ImGui and ImPlot as the panels see them, with a few words of our own; tests put fakes in their place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from workbench import theme

TABS_A_ROW = 5


def packed(colour: theme.Colour, alpha: float = 1.0) -> int:
    """A colour as ImGui's draw lists take it: 0xAABBGGRR."""
    r, g, b, a = (round(255 * min(max(channel, 0.0), 1.0)) for channel in (*colour, alpha))
    return r | g << 8 | b << 16 | a << 24


def count(number: float) -> str:
    """12345 as '12,345'; '–' where there is none."""
    return "–" if number != number else f"{int(number):,}"


def megabytes(n_bytes: float) -> str:
    return "–" if n_bytes != n_bytes else f"{n_bytes / 1e6:,.0f} MB"


def milliseconds(secs: float) -> str:
    """'0.42 ms', '38 ms', '1.2 s'; '–' for NaN."""
    if secs != secs:
        return "–"
    if secs >= 1:
        return f"{secs:.1f} s"
    return f"{secs * 1e3:.0f} ms" if secs >= 0.01 else f"{secs * 1e3:.2f} ms"


class Ui:
    """im and plot are the ImGui and ImPlot modules, textures what shows images (see workbench.textures)."""

    def __init__(self, im: Any, plot: Any, textures: Any) -> None:
        self.im, self.plot, self.textures = im, plot, textures
        self._font_scales: list[float] = []  # of those that are pushed
        self.tips_above = False
        """Whether tooltips stand above what they explain: at the window's foot they would hide the status line."""

    @property
    def em(self) -> float:
        """The font size in pixels; all sizes are multiples of it."""
        return self.im.GetFontSize()

    @property
    def width(self) -> float:
        """What is left of the line, in pixels."""
        return self.im.GetContentRegionAvail()[0]

    @contextmanager
    def sized(self, size: float) -> Iterator[None]:
        """Another font size, relative to the present one.

        PushFont always takes the size that the font was loaded with, so the scale is set around it instead.
        """
        self._font_scales.append(size * self.em / theme.LOADED_FONT_PIXELS)
        self._push_font()
        try:
            yield
        finally:
            self.im.PopFont()
            self._font_scales.pop()

    def _push_font(self) -> None:
        style = self.im.GetStyle()
        scale = style.FontScaleMain
        style.FontScaleMain = self._font_scales[-1]
        self.im.PushFont(self.im.GetFont(), 0.0)
        style.FontScaleMain = scale

    def text(self, text: str, colour: theme.Colour | None = None, size: float = 1.0) -> None:
        """A line of text, in the theme's text colour where none is given; size is relative to the font."""
        colour = theme.TEXT if colour is None else colour
        if size == 1.0:
            self.im.TextColored((*colour, 1.0), text)
            return
        with self.sized(size):
            self.im.TextColored((*colour, 1.0), text)

    def text_right(self, text: str, colour: theme.Colour | None = None) -> None:
        """Text that ends at the right border of the line begun before."""
        self.im.SameLine()
        spare = self.width - self.im.CalcTextSize(text)[0]
        self.im.SetCursorPosX(self.im.GetCursorPosX() + max(spare, 0.0))
        self.text(text, colour)

    def wrapped(self, text: str, colour: theme.Colour | None = None) -> None:
        """Text over as many lines as it needs, muted where no colour is given."""
        self.im.PushTextWrapPos(0.0)
        self.text(text, theme.MUTED if colour is None else colour)
        self.im.PopTextWrapPos()

    def shortened(self, text: str, room: float) -> str:
        """The text, cut with an ellipsis where it is wider than room (pixels)."""
        if self.im.CalcTextSize(text)[0] <= room:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.im.CalcTextSize(text[:middle] + "…")[0] <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        return text[:low] + "…"

    def tabs(self, names: Sequence[str], chosen: str) -> str:
        """Names side by side, more than TABS_A_ROW in two rows, one of them underlined; the one that is chosen now."""
        columns = len(names) if len(names) <= TABS_A_ROW else math.ceil(len(names) / 2)
        wide = self.width / max(columns, 1)
        for start in range(0, len(names), max(columns, 1)):
            chosen = self._row_of_tabs(names[start : start + columns], chosen, wide)
        self.im.Dummy((0.0, 0.15 * self.em))
        return chosen

    def _row_of_tabs(self, names: Sequence[str], chosen: str, wide: float) -> str:
        em, draw, whole = self.em, self.im.GetWindowDrawList(), self.width
        left, top = self.im.GetCursorScreenPos()
        draw.AddLine((left, top + 1.7 * em), (left + whole, top + 1.7 * em), packed(theme.BORDER), 1.0)
        for index, name in enumerate(names):
            if index:
                self.im.SameLine(0.0, 0.0)
            x, y = self.im.GetCursorScreenPos()
            if self.im.InvisibleButton(f"##tab {name}", (wide, 1.7 * em)):
                chosen = name
            lit = name == chosen or self.im.IsItemHovered()
            with self.sized(0.92):
                text_width, text_height = self.im.CalcTextSize(name)
                place = (x + (wide - text_width) / 2, y + (1.5 * em - text_height) / 2)
                draw.AddText(place, packed(theme.TEXT if lit else theme.MUTED), name)
            if name == chosen:
                draw.AddRectFilled((x, y + 1.55 * em), (x + wide, y + 1.7 * em), packed(theme.ACCENT), 0.0)
        return chosen

    def heading(self, title: str, aside: str = "") -> None:
        self.im.Dummy((0.0, 0.12 * self.em))
        self.text(title.upper(), theme.MUTED, size=0.82)
        if aside:
            self.text_right(aside, theme.MUTED)
        x, y = self.im.GetCursorScreenPos()
        self.im.GetWindowDrawList().AddLine((x, y - 2), (x + self.width, y - 2), packed(theme.BORDER), 1.0)
        self.im.Dummy((0.0, 0.1 * self.em))

    def tip(self, text: str) -> None:
        """Explains the item before, while the mouse is over it."""
        if text and self.im.IsItemHovered():
            place, pivot = self._tip_place()
            self.im.SetNextWindowPos(place, int(self.im.ImGuiCond_Always), pivot)
            self.im.SetTooltip(text)
            if self._font_scales:  # a tooltip is a window, on whose end ImGui takes the style's scale for the font's
                self.im.PopFont()
                self._push_font()

    def _tip_place(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where a tooltip covers no control: above the bar at the foot, else beside the item's column; and which
        of its corners that is."""
        wide, tall = self.im.GetIO().DisplaySize
        top, bottom = self.im.GetItemRectMin()[1], self.im.GetItemRectMax()[1]
        if self.tips_above:
            mouse = self.im.GetMousePos()[0]
            return (mouse, top - 0.3 * self.em), (float(mouse > wide / 2), 1.0)
        left, width = self.im.GetWindowPos()[0], self.im.GetWindowSize()[0]
        at_left, low = left + width / 2 < wide / 2, top > tall / 2
        x = left + width + 1.2 * self.em if at_left else left - 1.2 * self.em
        return (x, bottom if low else top), (float(not at_left), float(low))

    def pair(self, label: str, value: str) -> None:
        """A muted label at the left and its value at the right."""
        self.text(label, theme.MUTED)
        self.text_right(value)

    def button(self, label: str, width: float = 0.0, enabled: bool = True, accent: bool = False, tip: str = "") -> bool:
        self.im.BeginDisabled(not enabled)
        if accent:
            for name, shade in (("Button", 0.92), ("ButtonHovered", 1.0), ("ButtonActive", 0.8)):
                colour = tuple(channel * shade for channel in theme.ACCENT)
                self.im.PushStyleColor(int(getattr(self.im, "ImGuiCol_" + name)), (*colour, 1.0))
            self.im.PushStyleColor(int(self.im.ImGuiCol_Text), (*theme.ON_ACCENT, 1.0))
        pressed = self.im.Button(label, (width, 0.0))
        if accent:
            self.im.PopStyleColor(4)
        self.im.EndDisabled()
        self.tip(tip)
        return bool(pressed)

    def choice(self, labels: Sequence[str], chosen: int, width: float = 0.0, tips: Sequence[str] = ()) -> int:
        """A row of buttons of which one is in; returns the one that is in afterwards. width: of the whole row."""
        gap = 0.2 * self.em
        wide = ((width or self.width) - gap * (len(labels) - 1)) / max(len(labels), 1)
        for index, label in enumerate(labels):
            if index:
                self.im.SameLine(0.0, gap)
            if self.button(label, wide, accent=index == chosen, tip=tips[index] if index < len(tips) else ""):
                chosen = index
        return chosen

    def dot(self, colour: theme.Colour, framed: bool = False) -> None:
        """A disc at the line's height; the next item follows on the same line. framed: beside a check box."""
        x, y = self.im.GetCursorScreenPos()
        radius = 0.28 * self.em
        height = self.im.GetFrameHeight() if framed else self.im.GetTextLineHeight()
        self.im.GetWindowDrawList().AddCircleFilled((x + radius, y + height / 2), radius, packed(colour))
        self.im.Dummy((2 * radius, height))
        self.im.SameLine()
        if framed:
            self.im.AlignTextToFramePadding()

    def picture(self, name: str, source: Any, make: Callable[[], Any], size: tuple[float, float], keep: bool = False
                ) -> None:
        """An image; make() gives its pixels (H, W, 3) where they don't come from the same source as last time.

        keep: what is shown under this name stays, where there is anything.
        """
        old = self.textures.has(name) if keep else self.textures.is_shown(name, source)
        pixels = None if old else make()
        self.im.Image(self.textures.show(name, source, pixels), size)

    def shares(self, parts: Sequence[tuple[float, theme.Colour]], height: float) -> None:
        """A bar cut in parts, each a share of their sum."""
        x, y = self.im.GetCursorScreenPos()
        total, width = sum(part for part, _ in parts), self.width
        draw = self.im.GetWindowDrawList()
        draw.AddRectFilled((x, y), (x + width, y + height), packed(theme.RAISED), 3.0)
        at = x
        for part, colour in parts:
            end = at + (width * part / total if total else 0.0)
            if end - at >= 0.5:
                draw.AddRectFilled((at, y), (end, y + height), packed(colour), 0.0)
            at = end
        self.im.Dummy((width, height))

    def legend(self, entries: Sequence[tuple[str, theme.Colour]], framed: bool = False) -> None:
        """Coloured dots with names, as many a line as fit. framed: beside a check box."""
        with self.sized(0.88):
            gap, line_end = 0.8 * self.em, self.im.GetCursorScreenPos()[0] + self.width
            for index, (label, colour) in enumerate(entries):
                if index:
                    self.im.SameLine(0.0, gap)
                    wide = self.im.CalcTextSize(label)[0] + 1.1 * self.em
                    if self.im.GetCursorScreenPos()[0] + wide > line_end:
                        self.im.NewLine()
                self.dot(colour, framed)
                self.text(label, theme.MUTED)

    def chips(self, labels: Sequence[str], chosen: int, tips: Sequence[str]) -> None:
        """Names in rounded boxes, as many a line as fit; the chosen one in the accent colour."""
        em, gap, draw = self.em, 0.3 * self.em, self.im.GetWindowDrawList()
        right = self.im.GetCursorScreenPos()[0] + self.width
        for index, label in enumerate(labels):
            with self.sized(0.86):
                text_width, text_height = self.im.CalcTextSize(label)
                size = (text_width + 0.8 * em, text_height + 0.36 * em)
                if index:
                    self.im.SameLine(0.0, gap)
                    if self.im.GetCursorScreenPos()[0] + size[0] > right:
                        self.im.NewLine()
                x, y = self.im.GetCursorScreenPos()
                here = index == chosen
                fill = packed(theme.ACCENT if here else theme.RAISED)
                draw.AddRectFilled((x, y), (x + size[0], y + size[1]), fill, 0.25 * em)
                draw.AddText((x + 0.4 * em, y + 0.18 * em), packed(theme.ON_ACCENT if here else theme.TEXT), label)
                self.im.Dummy(size)
            self.tip(tips[index])
