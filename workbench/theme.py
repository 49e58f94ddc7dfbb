"""Theme: colours, roundings and sizes of the window and of figures, in one place."""

from __future__ import annotations

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
LINES = (ACTIVE, FRUSTUM, rgb("#009E73"), FAR_CUT, rgb("#F0E442"), rgb("#D55E00"), rgb("#4C8FD0"), OUTSIDE)

CATEGORY_COLOURS = {"active": ACTIVE, "outside": OUTSIDE, "near_cut": NEAR_CUT, "far_cut": FAR_CUT}

MESH = rgb("#D9D6CF")
TARGET = rgb("#8FA3BF")
INSIDE = rgb("#8A6552")
CAMERAS = rgb("#6E7B8F")

BACKGROUND = rgb("#15181E")
PANEL = rgb("#1D2129")
RAISED = rgb("#2A303B")
RAISED_HOVER = rgb("#394150")
RAISED_ACTIVE = rgb("#4A5568")
BORDER = rgb("#323946")
TEXT = rgb("#E6E9EF")
MUTED = rgb("#939CAB")
ACCENT = ACTIVE
GOOD = rgb("#3DB48C")
BAD = rgb("#F2695C")

FONT_PIXELS = 15.0
"""The font's size at a scale of 1; all sizes of panels are multiples of it."""

LOADED_FONT_PIXELS = 18.0
"""The size at which Polyscope loads its font, at a UI scale of 1."""

LEFT_EM, RIGHT_EM, BAR_EM = 18.5, 19.5, 2.1
"""Widths of the two columns and height of the bottom bar, in font sizes."""


def linear(colour: Colour) -> Colour:
    """The colour as Polyscope's background wants it: linear light."""
    return tuple(channel**2.2 for channel in colour)


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
    for names, colour, alpha in _COLOURS:
        for name in names.split():
            style.Colors[int(getattr(im, "ImGuiCol_" + name))] = (*colour, alpha)
    if plot is not None:
        _apply_to_plots(plot, scale)


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

_COLOURS = (
    ("Text", TEXT, 1.0),
    ("TextDisabled", MUTED, 1.0),
    ("WindowBg", PANEL, 0.97),
    ("ChildBg", PANEL, 0.0),
    ("PopupBg", PANEL, 1.0),
    ("Border Separator", BORDER, 1.0),
    ("FrameBg Button Header", RAISED, 1.0),
    ("FrameBgHovered ButtonHovered HeaderHovered", RAISED_HOVER, 1.0),
    ("FrameBgActive ButtonActive HeaderActive", RAISED_ACTIVE, 1.0),
    ("CheckMark SliderGrab PlotHistogram PlotLines", ACCENT, 1.0),
    ("SliderGrabActive", rgb("#FFBE3D"), 1.0),
    ("ScrollbarBg", PANEL, 0.0),
    ("ScrollbarGrab", RAISED_HOVER, 1.0),
    ("TextSelectedBg", FRUSTUM, 0.35),
    ("NavCursor", FRUSTUM, 0.0),
)


def _apply_to_plots(plot: Any, scale: float) -> None:
    style = plot.GetStyle()
    style.PlotPadding, style.LegendPadding = (6 * scale, 6 * scale), (6 * scale, 6 * scale)
    style.LabelPadding = (4 * scale, 4 * scale)
    style.PlotBorderSize, style.LineWeight = 0, 1.8 * scale
    colours = (
        ("FrameBg PlotBg", PANEL, 0.0),
        ("PlotBorder", BORDER, 1.0),
        ("LegendBg", PANEL, 0.85),
        ("LegendBorder", BORDER, 0.0),
        ("AxisGrid", TEXT, 0.10),
        ("AxisText LegendText", MUTED, 1.0),
    )
    for names, colour, alpha in colours:
        for name in names.split():
            style.SetColor(int(getattr(plot, "ImPlotCol_" + name)), (*colour, alpha))
