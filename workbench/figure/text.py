"""Text of figures: one font that comes with matplotlib, whatever else the machine has, and how wide its words are."""

from __future__ import annotations

import functools
from pathlib import Path

import matplotlib
from matplotlib.font_manager import FontProperties, get_font

LINE = 1.45
"""Height of a line, in font sizes."""


@functools.cache
def _file(bold: bool) -> str:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


def font(points: float, bold: bool = False) -> FontProperties:
    return FontProperties(fname=_file(bold), size=points)


def width_of(text: str, em: float, bold: bool = False) -> float:
    """Width in pixels of one line at a font size of em pixels."""
    found = get_font(_file(bold))
    found.set_size(100, 72)  # once a pixel a point: the font's own size says nothing of the picture's
    found.set_text(text, 0.0)
    return found.get_width_height()[0] / 64 / 100 * em


def wrapped(text: str, em: float, width: float) -> list[str]:
    """Lines of at most this width, broken between words; a longer word gets a line of its own. Newlines stay."""
    lines = []
    for paragraph in text.split("\n") if text else []:
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and width_of(longer, em) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines
