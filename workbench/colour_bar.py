"""A colour bar: a map's colours with round numbers under them, drawn by ImGui's draw lists."""

from __future__ import annotations

import math

from workbench import theme
from workbench.colour_maps import N_COLOURS, Scale, table, ticks
from workbench.ui import Ui, packed

_STEPS = 32
_MARGIN_EM = 0.35


def tick_labels(low: float, high: float, most: int = 5) -> list[tuple[float, str]]:
    """Values and texts: as short as tells them apart, zero without a sign."""
    found = ticks(low, high, most)
    step = found[1] - found[0] if len(found) > 1 else high - low
    return [(value, number_text(0.0 if abs(value) < 1e-6 * step else value, step)) for value in found]


def number_text(value: float, step: float) -> str:
    """A number with the digits that a step of this size asks for: 0.25, 1200, 3.5e−7."""
    if value == 0:
        return "0"
    if step >= 1e-4 and abs(value) < 1e5:
        text = f"{value:.{max(math.ceil(-math.log10(step) - 1e-9), 0)}f}"
    else:
        text = f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return text.replace("-", "−")


def draw_colour_bar(ui: Ui, scale: Scale, width: float, ends: tuple[bool, bool] = (False, False)) -> None:
    """The bar with its ticks; ends: whether values lie below and above it, shown as pointed ends."""
    em, draw = ui.em, ui.im.GetWindowDrawList()
    x, y = ui.im.GetCursorScreenPos()
    left, right, height = x + _MARGIN_EM * em, x + width - _MARGIN_EM * em, 0.85 * em
    colours = table(scale.name)
    wide = (right - left) / _STEPS

    def colour_at(share: float) -> int:
        return packed(tuple(float(part) for part in colours[min(int(share * N_COLOURS), N_COLOURS - 1)]))

    for step in range(_STEPS):
        a, b = colour_at(step / _STEPS), colour_at((step + 1) / _STEPS)
        at = left + step * wide
        draw.AddRectFilledMultiColor((at, y), (at + wide + 0.5, y + height), a, b, b, a)
    tip = _MARGIN_EM * em
    if ends[0]:
        draw.AddTriangleFilled((left, y), (left, y + height), (left - tip, y + height / 2), colour_at(0.0))
    if ends[1]:
        draw.AddTriangleFilled((right, y), (right + tip, y + height / 2), (right, y + height), colour_at(1.0))
    _draw_ticks(ui, scale, left, right, y + height)
    ui.im.Dummy((width, height + 1.3 * em))


def _draw_ticks(ui: Ui, scale: Scale, left: float, right: float, y: float) -> None:
    em, draw, last_end = ui.em, ui.im.GetWindowDrawList(), -1e9
    with ui.sized(0.82):
        for value, text in tick_labels(scale.low, scale.high):
            at = left + (right - left) * (value - scale.low) / (scale.high - scale.low)
            draw.AddLine((at, y), (at, y + 0.25 * em), packed(theme.MUTED), 1.0)
            wide = ui.im.CalcTextSize(text)[0]
            start = min(max(at - wide / 2, left - 0.3 * em), right + 0.3 * em - wide)
            if start > last_end + 0.3 * em:
                draw.AddText((start, y + 0.25 * em), packed(theme.MUTED), text)
                last_end = start + wide
