"""Compose: pictures, captions, legends, colour bars and plots on one page, as pixels or as PDF and SVG."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from workbench import theme
from workbench.colour_bar import tick_labels
from workbench.colour_maps import N_COLOURS, table
from workbench.figure.page import BAR_EM, TITLE_EM, Cell, Layout, Placed, Rect, letter_width
from workbench.figure.prepare import Bar, Entry, Ready
from workbench.figure.recipe import TRANSPARENT, Recipe
from workbench.figure.text import LINE, font, width_of

_SMALL = 0.9
_SETTINGS = {"svg.hashsalt": "sparseflex", "svg.fonttype": "path", "pdf.fonttype": 42, "axes.unicode_minus": True,
             "text.usetex": False, "path.simplify": False}

Pixels = UInt8[np.ndarray, "H W 4"]


@dataclasses.dataclass(frozen=True, eq=False)
class Composed:
    """A page: captions, bars and plots as a matplotlib figure on nothing, pictures with their places, the paper."""

    figure: Figure
    pictures: tuple[tuple[Rect, Pixels], ...]
    background: tuple[float, float, float] | None


def compose(
    recipe: Recipe, layout: Layout, ready: Sequence[Ready], pictures: Sequence[Pixels | None],
    worlds: Sequence[float],
) -> Composed:
    """The page. pictures: of each panel, None of plots; worlds: what the height of each spans, in world units."""
    # not the reader's matplotlibrc: the same recipe gives the same page everywhere
    with matplotlib.rc_context():
        matplotlib.rcParams.update({key: value for key, value in matplotlib.rcParamsDefault.items()
                                    if key != "backend"})
        matplotlib.rcParams.update(_SETTINGS)
        figure = _Paper(recipe, layout).drawn(ready, pictures, worlds)
    placed = [(cell.picture, picture) for cell, picture in zip(layout.cells, pictures, strict=True)
              if picture is not None]
    background = recipe.page.background
    return Composed(figure, tuple(placed), None if background == TRANSPARENT else theme.rgb(background or "#FFFFFF"))


def as_pixels(page: Composed) -> Pixels:
    """The page as pixels, with straight alpha; the pictures' are as they were rendered."""
    with matplotlib.rc_context(_SETTINGS):
        canvas = FigureCanvasAgg(page.figure)
        canvas.draw()
        above = np.asarray(canvas.buffer_rgba())
    found = np.zeros(above.shape, np.uint8)
    if page.background is not None:
        found[:] = [*(round(255 * part) for part in page.background), 255]
    for (x, y, wide, tall), picture in page.pictures:
        _lay(picture, found[y : y + tall, x : x + wide])
    _lay(above, found)
    return found


def _lay(front: Pixels, back: Pixels) -> None:
    """Lays one picture over another, in place."""
    solid = front[..., 3] == 255
    np.copyto(back, front, where=solid[..., None])
    partly = (front[..., 3] > 0) & ~solid
    back[partly] = _over(front[partly], back[partly])


def _over(front: UInt8[np.ndarray, "n 4"], back: UInt8[np.ndarray, "n 4"]) -> UInt8[np.ndarray, "n 4"]:
    """Colours with straight alpha, laid over others."""
    share, below = front[:, 3:].astype(np.float32) / 255, back[:, 3:].astype(np.float32) / 255
    alpha = share + below * (1 - share)
    colour = front[:, :3] * share + back[:, :3] * (below * (1 - share))
    return np.rint(np.concatenate([colour / np.maximum(alpha, 1e-6), 255 * alpha], 1)).astype(np.uint8)


def as_vector(page: Composed, suffix: str, title: str, recipe_text: str) -> bytes:
    """The page as a .pdf or .svg file: text and bars as lines, pictures embedded; the same bytes every time."""
    kind, figure = suffix.removeprefix("."), page.figure
    width, height = figure.get_size_inches() * figure.dpi
    for (x, y, wide, tall), picture in page.pictures:
        axes = figure.add_axes((x / width, 1 - (y + tall) / height, wide / width, tall / height))
        axes.imshow(picture, interpolation="none", aspect="auto", resample=False)
        axes.set_axis_off()
    if page.background is not None:
        figure.patch.set(facecolor=page.background, alpha=1.0)
    metadata: dict[str, Any] = {"Title": title} if title else {}
    if kind == "pdf":
        metadata |= {"CreationDate": None, "Producer": None, "Creator": "SparseFlex workbench"}
    else:
        metadata |= {"Date": None, "Creator": "SparseFlex workbench", "Description": recipe_text}
    out = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(out, format=kind, metadata=metadata, dpi=figure.dpi)
    return out.getvalue()


class _Paper:
    """A matplotlib figure that is drawn on in pixels, from the upper left corner."""

    def __init__(self, recipe: Recipe, layout: Layout) -> None:
        self._page, self._layout, self._em = recipe.page, layout, recipe.page.em
        palette = theme.PALETTES[self._page.theme]
        self._ink, self._faint, self._palette = palette.text, palette.muted, palette
        dpi = self._page.dpi
        self._figure = Figure((layout.width / dpi, layout.height / dpi), dpi=dpi)
        self._figure.patch.set_alpha(0.0)

    def drawn(self, ready: Sequence[Ready], pictures: Sequence[Pixels | None], worlds: Sequence[float]) -> Figure:
        page = self._page
        if page.title:
            self._text(self._layout.width / 2, self._layout.title_y, page.title, TITLE_EM, align="center", bold=True)
        for one, cell, picture, world in zip(ready, self._layout.cells, pictures, worlds, strict=True):
            if picture is None:
                self._plot(one, cell)
            elif one.panel.scale_bar:
                self._scale_bar(cell, one.panel.scale_bar, world, one.panel.scale_label)
            self._caption(cell)
            for placed in cell.legend:
                self._entry(placed)
            for placed in cell.bars:
                self._bar(placed)
        for placed in self._layout.bars:
            self._bar(placed)
        return self._figure

    def _axes(self, x: float, y: float, width: float, height: float) -> Any:
        whole_x, whole_y = self._layout.width, self._layout.height
        return self._figure.add_axes((x / whole_x, 1 - (y + height) / whole_y, width / whole_x, height / whole_y))

    def _text(
        self, x: float, y: float, text: str, size: float = 1.0, *, align: str = "left", bold: bool = False,
        colour: Any = None,
    ) -> None:
        """A line of text; y: its base line."""
        self._figure.text(
            x / self._layout.width, 1 - y / self._layout.height, text.replace("$", r"\$"), ha=align, va="baseline",
            color=colour or self._ink, fontproperties=font(size * self._page.font_pt, bold),
        )

    def _caption(self, cell: Cell) -> None:
        x, _, wide, _ = cell.picture
        em = self._em
        indent = letter_width(cell.letter, em)
        widest = max((width_of(line, em) for line in cell.caption), default=0.0)
        left = x + (wide - indent - widest) / 2
        for number, line in enumerate(cell.caption):
            y = cell.caption_y + (LINE * number + 1.0) * em
            if number == 0 and cell.letter:
                self._text(left, y, cell.letter, bold=True)
            self._text(left + indent + widest / 2, y, line, align="center")

    def _rectangle(self, x: float, y: float, width: float, height: float, colour: Any) -> None:
        whole_x, whole_y = self._layout.width, self._layout.height
        self._figure.add_artist(Rectangle(
            (x / whole_x, 1 - (y + height) / whole_y), width / whole_x, height / whole_y, color=colour, linewidth=0,
            transform=self._figure.transFigure))

    def _entry(self, placed: Placed) -> None:
        entry, em = placed.what, self._em
        assert isinstance(entry, Entry)
        side = 0.62 * em
        if entry.colour is not None:
            self._rectangle(placed.x, placed.y + 0.36 * em, side, side, entry.colour)
        self._text(placed.x + 1.0 * em, placed.y + 0.98 * em, entry.label, _SMALL, colour=self._faint)

    def _scale_bar(self, cell: Cell, length: float, world: float, label: str) -> None:
        x, y, wide, tall = cell.picture
        em, pixels = self._em, length / world * tall
        right, bottom = x + wide - 0.8 * em, y + tall - 0.8 * em
        self._rectangle(right - pixels, bottom - 0.22 * em, pixels, 0.22 * em, self._ink)
        self._text(right - pixels / 2, bottom - 0.6 * em, label or f"{length:g}", _SMALL, align="center")

    def _bar(self, placed: Placed) -> None:
        bar, em = placed.what, self._em
        assert isinstance(bar, Bar)
        tip = 0.5 * em
        axes = self._axes(placed.x, placed.y, placed.width, BAR_EM * em)
        scale = bar.scale
        edges = np.linspace(scale.low, scale.high, N_COLOURS + 1)
        colours = ListedColormap(table(scale.name)[:N_COLOURS])
        middles = (edges[:-1] + edges[1:]) / 2
        axes.pcolormesh(edges, [0, 1], middles[None], cmap=colours, norm=Normalize(scale.low, scale.high),
                        edgecolors="face", linewidth=0.3)
        axes.set_xlim(scale.low, scale.high)
        span = (scale.high - scale.low) / placed.width * tip
        for beyond, end, sign, row in ((bar.below, scale.low, -1, 0), (bar.above, scale.high, 1, N_COLOURS - 1)):
            if beyond:
                root = end - 0.15 * sign * span  # no seam may be seen between tip and bar
                axes.fill([root, end, end + sign * span, end, root], [0, 0, 0.5, 1, 1], clip_on=False, linewidth=0,
                          color=table(scale.name)[row])
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.yaxis.set_major_locator(NullLocator())
        axes.set_ylim(0, 1)
        marks = tick_labels(scale.low, scale.high)
        axes.xaxis.set_major_locator(FixedLocator([value for value, _ in marks]))
        axes.xaxis.set_major_formatter(FixedFormatter([text for _, text in marks]))
        self._ticks(axes)
        self._text(placed.x + placed.width / 2, placed.y + 2.85 * em, bar.label, _SMALL, align="center")

    def _ticks(self, axes: Any) -> None:
        points = self._page.font_pt
        axes.tick_params(length=0.25 * points, width=0.06 * points, color=self._faint, labelcolor=self._faint,
                         pad=0.25 * points, which="major")
        axes.tick_params(length=0.14 * points, width=0.05 * points, color=self._faint, which="minor", labelsize=0)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set_fontproperties(font(_SMALL * points))

    def _plot(self, ready: Ready, cell: Cell) -> None:
        table_, em, points = ready.panel.plot, self._em, self._page.font_pt
        x, y, wide, tall = cell.picture
        left, bottom = 4.6 * em, 2.9 * em
        axes = self._axes(x + left, y + 0.6 * em, wide - left - 0.8 * em, tall - bottom - 0.6 * em)
        axes.patch.set_alpha(0.0)
        history = ready.snapshot.history
        iterations = history.column("iteration")
        if iterations is None:
            iterations = np.arange(1, history.n_rows + 1, dtype=np.float64)
        names = table_.names or table_.scalars
        for scalar, name, colour in zip(table_.scalars, names, _cycled(self._palette.lines), strict=False):
            values = np.asarray(history.column(scalar), np.float64)
            values = np.where(values > 0, values, np.nan) if table_.log else values
            axes.plot(iterations, values, color=colour, linewidth=0.14 * points, label=name, solid_capstyle="round")
        if table_.log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_formatter(FuncFormatter(_number))
        room = int((wide - left) / (4.5 * em))  # for numbers of some digits
        axes.xaxis.set_major_locator(MaxNLocator(min(max(room, 1), 5), integer=True))
        if table_.mark >= 0:
            axes.axvline(table_.mark, color=self._faint, linewidth=0.1 * points, linestyle=(0, (3, 3)))
        self._plot_frame(axes, len(table_.scalars))
        self._text(x + left + (wide - left) / 2, y + tall - 0.35 * em, "iteration", _SMALL, align="center")
        label = table_.label or (names[0] if len(names) == 1 else "")
        if label:
            axes.set_ylabel(label, fontproperties=font(_SMALL * points), color=self._ink, labelpad=0.35 * points)

    def _plot_frame(self, axes: Any, n_lines: int) -> None:
        points = self._page.font_pt
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(self._faint)
            spine.set_linewidth(0.06 * points)
        axes.grid(True, color=self._palette.border, linewidth=0.05 * points)
        axes.set_axisbelow(True)
        self._ticks(axes)
        if n_lines > 1:
            legend = axes.legend(frameon=False, prop=font(_SMALL * points), labelcolor=self._ink, handlelength=1.2)
            legend.set_zorder(5)


def _number(value: float, _: int | None = None) -> str:
    """A tick's number, thousands apart, with a true minus."""
    return f"{value:,.10g}".replace("-", "−")


def _cycled(colours: Sequence[Any]) -> list[Any]:
    return [colours[index % len(colours)] for index in range(64)]
