"""Theme: colours, roundings and sizes of the window and of figures, in one place; dark and light."""

from __future__ import annotations

import dataclasses
from typing import Any

Colour = tuple[float, float, float]


def rgb(code: str) -> Colour:
    """'#E69F00' as three numbers in [0, 1]."""
    return tuple(int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))


# Okabe and Ito's colours: told apart by everyone
ACTIVE = rgb("#E69F00")
OUTSIDE = rgb("#999999")
NEAR_CUT = rgb("#0072B2")
FAR_CUT = rgb("#CC79A7")
FRUSTUM = rgb("#56B4E9")
PRUNED = rgb("#D55E00")
BORN = rgb("#009E73")
WRONGLY_KEPT = rgb("#F0E442")

CATEGORY_COLOURS = {"active": ACTIVE, "outside": OUTSIDE, "near_cut": NEAR_CUT, "far_cut": FAR_CUT}

MESH = rgb("#D9D6CF")
TARGET = rgb("#8FA3BF")
INSIDE = rgb("#8A6552")
CAMERAS = rgb("#6E7B8F")
POINTS = rgb("#56B4E9")
NOT_A_NUMBER = rgb("#FF00FF")


@dataclasses.dataclass(frozen=True)
class Palette:
    """The colours that differ between dark and light; read as theme.TEXT, theme.MUTED and so on."""

    name: str
    background: Colour
    panel: Colour
    raised: Colour
    raised_hover: Colour
    raised_active: Colour
    border: Colour
    text: Colour
    muted: Colour
    on_accent: Colour
    good: Colour
    bad: Colour
    wrongly_pruned: Colour
    lines: tuple[Colour, ...]
    accent: Colour = ACTIVE


DARK = Palette(
    "dark", rgb("#15181E"), rgb("#1D2129"), rgb("#2A303B"), rgb("#394150"), rgb("#4A5568"), rgb("#323946"),
    rgb("#E6E9EF"), rgb("#939CAB"), rgb("#15181E"), rgb("#3DB48C"), rgb("#F2695C"), rgb("#FFFFFF"),
    (ACTIVE, FRUSTUM, BORN, FAR_CUT, WRONGLY_KEPT, PRUNED, rgb("#4C8FD0"), OUTSIDE),
)
LIGHT = Palette(
    "light", rgb("#F4F5F7"), rgb("#FFFFFF"), rgb("#E6E9EE"), rgb("#D8DDE5"), rgb("#C5CCD8"), rgb("#D3D8E0"),
    rgb("#1B2029"), rgb("#5B6574"), rgb("#1B2029"), rgb("#00795A"), rgb("#B3261E"), rgb("#000000"),
    (rgb("#C98600"), rgb("#2F93CF"), BORN, rgb("#B5578C"), rgb("#A39600"), PRUNED, NEAR_CUT, rgb("#777777")),
)
PALETTES = {palette.name: palette for palette in (DARK, LIGHT)}

_current = DARK


def use(name: str) -> None:
    """Makes a palette the present one, for all that is drawn from now on; raises ValueError for an unknown name."""
    global _current
    if name not in PALETTES:
        raise ValueError(f"theme must be one of {', '.join(PALETTES)}, got {name!r}")
    _current = PALETTES[name]


def __getattr__(name: str) -> Any:
    """theme.TEXT is the present palette's text colour: looked up at the time of drawing, never to be copied."""
    if name.isupper() and name.lower() in Palette.__dataclass_fields__:
        return getattr(_current, name.lower())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def current() -> Palette:
    return _current


FONT_PIXELS = 15.0
"""The font's size at a scale of 1; all sizes of panels are multiples of it."""

LOADED_FONT_PIXELS = 18.0
"""The size at which Polyscope loads its font, at a UI scale of 1."""

LEFT_EM, RIGHT_EM, BAR_EM = 19.5, 20.5, 6.1
"""Widths of the two columns and height of the bar at the bottom, in font sizes."""


_EXPOSURE = 1.1  # measured: a background of v is drawn as 255 (1.1 v)^(1/2.2)


def linear(colour: Colour) -> Colour:
    """The colour as Polyscope's background wants it: linear light, before its exposure."""
    return tuple(channel**2.2 / _EXPOSURE for channel in colour)


def font_scale(scale: float) -> float:
    """ImGui's font scale for a scale of the whole interface."""
    return scale * FONT_PIXELS / LOADED_FONT_PIXELS


def apply(im: Any, plot: Any | None = None, scale: float = 1.0) -> None:
    """Sets ImGui's (and ImPlot's) colours and sizes; im and plot are polyscope.imgui and polyscope.implot."""
    style = im.GetStyle()
    for names, pixels in _SIZES:
        for name in names.split():
            whole = (pixels[0] * scale, pixels[1] * scale) if isinstance(pixels, tuple) else pixels * scale
            setattr(style, name, whole)
    style.WindowBorderSize, style.FrameBorderSize, style.ChildBorderSize = 1, 0, 0
    style.DisabledAlpha = 0.45
    style.FontScaleMain = font_scale(scale)
    for names, shade, alpha in _COLOURS:
        colour = getattr(_current, shade) if isinstance(shade, str) else shade
        for name in names.split():
            style.Colors[int(getattr(im, "ImGuiCol_" + name))] = (*colour, alpha)
    if plot is not None:
        _apply_to_plots(plot, scale)


def mixed(a: Colour, b: Colour, share: float) -> Colour:
    """The colour that is `share` of b, the rest a."""
    return tuple((1 - share) * x + share * y for x, y in zip(a, b, strict=True))


def faint() -> Colour:
    """The colour of what is there but not meant: near the background."""
    return mixed(_current.background, OUTSIDE, 0.3)


def lit(colour: Colour) -> Colour:
    """The colour to give to a shaded material so that it looks like this one: shading works on linear light."""
    return tuple(min(1.15 * channel**2.2, 1.0) for channel in colour)


_SIZES = (
    ("WindowRounding ChildRounding PopupRounding ScrollbarRounding", 8),
    ("FrameRounding GrabRounding", 5),
    ("WindowPadding", (13, 10)),
    ("FramePadding", (8, 4)),
    ("ItemSpacing", (8, 4)),
    ("ItemInnerSpacing", (7, 5)),
    ("CellPadding", (5, 2)),
    ("ScrollbarSize", 9),
    ("GrabMinSize", 14),
)

# a name is a colour of the present palette
_COLOURS = (
    ("Text", "text", 1.0),
    ("TextDisabled", "muted", 1.0),
    ("WindowBg", "panel", 0.97),
    ("ChildBg", "panel", 0.0),
    ("PopupBg", "panel", 1.0),
    ("Border Separator", "border", 1.0),
    ("FrameBg Button Header", "raised", 1.0),
    ("FrameBgHovered ButtonHovered HeaderHovered", "raised_hover", 1.0),
    ("FrameBgActive ButtonActive HeaderActive", "raised_active", 1.0),
    ("CheckMark PlotHistogram PlotLines", "accent", 1.0),
    ("SliderGrab", "accent", 0.6),  # a slider's number is written over it
    ("SliderGrabActive", rgb("#FFBE3D"), 0.6),
    ("ScrollbarBg", "panel", 0.0),
    ("TableRowBgAlt", "text", 0.045),
    ("ScrollbarGrab", "raised_hover", 1.0),
    ("TextSelectedBg", FRUSTUM, 0.35),
    ("NavCursor", FRUSTUM, 0.0),
)


def _apply_to_plots(plot: Any, scale: float) -> None:
    style = plot.GetStyle()
    style.PlotPadding, style.LegendPadding = (6 * scale, 6 * scale), (6 * scale, 6 * scale)
    style.LabelPadding = (4 * scale, 4 * scale)
    style.PlotBorderSize, style.LineWeight = 0, 1.8 * scale
    colours = (
        ("FrameBg PlotBg", _current.panel, 0.0),
        ("PlotBorder", _current.border, 1.0),
        ("LegendBg", _current.panel, 0.85),
        ("LegendBorder", _current.border, 0.0),
        ("AxisGrid", _current.text, 0.10),
        ("AxisText LegendText", _current.muted, 1.0),
    )
    for names, colour, alpha in colours:
        for name in names.split():
            style.SetColor(int(getattr(plot, "ImPlotCol_" + name)), (*colour, alpha))
