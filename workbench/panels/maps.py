"""Maps: what was rendered against what it should have been, where they differ, and what a pixel holds."""

from __future__ import annotations

import math

import numpy as np

from workbench import theme
from workbench.colour_maps import Scale
from workbench.commands import Command
from workbench.map_colours import ANGLE_LIMIT, IN_ONE_ONLY, depth_scale, difference_scale, greys, rim_colour
from workbench.map_view import MAPS, ORIGINS, PANEL, TRIANGLE_FIELD, MapSet, Pixel, Reading, read, rim_of
from workbench.section_work import Section
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, packed
from workbench.view_state import ViewState

__all__ = ["PANEL", "draw", "draw_large", "fields"]

_BAR_STEPS = 24
_LARGEST_TEXTURE = 2048
SLOW_SECS = 0.05
"""A redraw of the panels that takes longer comes a few times a second at most."""
Region = tuple[int, int, int, int]  # top, left, height, width in pixels


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    if view.maps.others(view):
        return {"voxels"}
    return {"voxels", TRIANGLE_FIELD, *(f"{origin}_{name}" for origin in ORIGINS[:2] for name in MAPS)}


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    maps = view.maps.current(view, snapshot)
    ui.heading("Maps", "" if maps is None else ui.shortened(_whose(maps, view), 0.7 * ui.width))
    if maps is None:
        _draw_none(ui, view, snapshot)
        return []
    if view.maps.others(view) and (maps.looked is not view.frustum.look.camera or view.worker.busy("maps")):
        ui.text("of the camera before; being rendered …", theme.MUTED)
    marked = rim_of(maps, view)
    hover = _draw_grid(ui, view, maps, marked, snapshot.playing)
    view.maps.hover = hover or view.maps.hover_large
    _draw_notes(ui, view, maps, marked)
    _draw_probe(ui, view, snapshot, maps)
    return []


def _whose(maps: MapSet, view: ViewState) -> str:
    """Which camera and, where they weren't made by the run's own rendering, which iteration."""
    return f"{maps.label}, iteration {maps.iteration}" if view.maps.others(view) else maps.label


def _draw_none(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    view.maps.hover = None
    if view.maps.failure:
        ui.text(ui.shortened(view.maps.failure, ui.width), theme.BAD)
    elif view.maps.others(view):
        able = {"target"} <= set(snapshot.field_kinds) and bool({"surface", "mesh"} & set(snapshot.field_kinds))
        late = "rendered when the run pauses" if snapshot.playing else "being rendered …"
        ui.text(late if able else "This run has no meshes to render.", theme.MUTED)
    else:
        has = any(f"rendered_{name}" in snapshot.field_kinds for name in MAPS)
        ui.text("Nothing rendered yet." if has else "This run renders no maps.", theme.MUTED)


# The small maps


def _draw_grid(ui: Ui, view: ViewState, maps: MapSet, marked: np.ndarray | None, playing: bool) -> Pixel | None:
    """Rows of depth, normal and mask; the pixel under the mouse.

    To colour all of them takes longer than a redraw may: while the run plays, one row is brought up to date at a time.
    Where redraws are slow they are rare too, and rows of three cameras would stand beside each other for seconds.
    """
    columns = ORIGINS if view.show_difference else ORIGINS[:2]
    gap = 0.4 * ui.em
    wide = (ui.width - gap * (len(columns) - 1)) / len(columns)
    left, (height, width) = ui.im.GetCursorPosX(), maps.size
    for index, column in enumerate(columns):
        if index:
            ui.im.SameLine()
        ui.im.SetCursorPosX(left + index * (wide + gap))
        ui.text(column, theme.MUTED, size=0.9)
    hover = None
    view.maps.turn = (view.maps.turn + 1) % len(maps.names)
    in_turns = playing and view.redraw.ui_secs < SLOW_SECS
    for row, name in enumerate(maps.names):
        keep = in_turns and row != view.maps.turn
        for index, origin in enumerate(columns):
            if index:
                ui.im.SameLine(0.0, gap)
            size = (wide, wide * height / width)
            found = _image(ui, view, maps, (origin, name), (0, 0, height, width), size, marked, keep=keep)
            hover = hover or found
        _draw_ranges(ui, maps, name, wide, gap, len(columns))
    return hover


def _image(ui: Ui, view: ViewState, maps: MapSet, which: tuple[str, str], region: Region, size: tuple[float, float],
           marked: np.ndarray | None, texture: str = "", factor: int = 1, keep: bool = False) -> Pixel | None:
    """A map, or a region of it, with the probe's cross; the pixel under the mouse. A click keeps the pixel, a double
    click shows the map large. factor: how often each pixel is repeated, so that it is drawn with sharp borders; keep:
    the picture may be an older one."""
    origin, name = which
    top, left, tall, broad = region
    step = 1 if texture else max(int(broad / max(size[0], 1.0)), 1)  # more pixels than are drawn only cost

    def pixels() -> np.ndarray:
        if not texture:
            return maps.colours(origin, name, marked, step)
        colours = maps.colours(origin, name, marked)[top : top + tall, left : left + broad]
        return colours.repeat(factor, 0).repeat(factor, 1)

    x, y = ui.im.GetCursorScreenPos()
    source = (maps, origin, name, marked, region, factor, step, theme.current())
    ui.picture(texture or f"{origin} {name}", source, pixels, size, keep)
    hovered = ui.im.IsItemHovered()
    if view.maps.probed is not None:
        _draw_cross(ui, (x, y), size, region, view.maps.probed, view.maps.hover is None)
    if not hovered:
        return None
    mouse = ui.im.GetMousePos()
    share = ((mouse[0] - x) / max(size[0], 1.0), (mouse[1] - y) / max(size[1], 1.0))
    column, row = (int(min(max(part, 0.0), 0.999999) * n) for part, n in zip(share, (broad, tall), strict=True))
    pixel = (top + row, left + column)
    if ui.im.IsMouseDoubleClicked(0) and not texture:
        view.maps.large = f"{origin} {name}"
    elif ui.im.IsMouseClicked(0):
        view.maps.kept = pixel
    wheel = ui.im.GetIO().MouseWheel if texture else 0.0
    if wheel:
        view.maps.zoom_at(share, 1 if wheel > 0 else -1)
    return pixel


def _draw_cross(ui: Ui, origin: tuple[float, float], size: tuple[float, float], region: Region, pixel: Pixel,
                kept: bool) -> None:
    """Lines through the probed pixel, with the pixel itself left free."""
    top, left, tall, broad = region
    if not (top <= pixel[0] < top + tall and left <= pixel[1] < left + broad):
        return
    step_x, step_y = size[0] / broad, size[1] / tall
    x, y = origin[0] + (pixel[1] - left + 0.5) * step_x, origin[1] + (pixel[0] - top + 0.5) * step_y
    free_x, free_y = max(step_x / 2 + 1, 0.35 * ui.em), max(step_y / 2 + 1, 0.35 * ui.em)
    right, bottom = origin[0] + size[0], origin[1] + size[1]
    pieces = [((origin[0], y), (x - free_x, y)), ((x + free_x, y), (right, y)),
              ((x, origin[1]), (x, y - free_y)), ((x, y + free_y), (x, bottom))]
    draw = ui.im.GetWindowDrawList()
    colour = theme.ACCENT if kept else (1.0, 1.0, 1.0)
    for begin, end in pieces:
        if end[0] > begin[0] or end[1] > begin[1]:
            draw.AddLine(begin, end, packed((0.0, 0.0, 0.0), 0.4), 2.0)
            draw.AddLine(begin, end, packed(colour), 1.0)
    if min(step_x, step_y) >= 4:
        half = ((x - step_x / 2, y - step_y / 2), (x + step_x / 2, y + step_y / 2))
        draw.AddRect(*half, packed(colour), 0.0, 0, 1.0)


# Ranges and counts


def _draw_ranges(ui: Ui, maps: MapSet, name: str, wide: float, gap: float, n_columns: int) -> None:
    """A bar with its ends under the two maps that share a range, another under their difference."""
    x, y = ui.im.GetCursorScreenPos()
    shared = 2 * wide + gap
    if name == "depth" and maps.range.depth is not None:
        near, far = maps.range.depth
        _draw_bar(ui, (x, y), shared, depth_scale(maps.range), True, f"near {near:.3f}", f"far {far:.3f}")
    elif name == "mask":
        _draw_bar(ui, (x, y), shared, None, False, "0", "1")
    elif name == "normal":
        _label(ui, (x, y), shared, "x y z as red green blue", "")
    if n_columns > 2:
        scale = difference_scale(name, maps.range)
        ends = {"depth": (f"-{_short(maps.range.difference)}", f"+{_short(maps.range.difference)} "
                          + ("vox" if maps.range.unit_name == "voxels" else "")),
                "normal": ("0", f"{ANGLE_LIMIT:.0f}°"), "mask": ("-1", "+1")}[name]
        _draw_bar(ui, (x + 2 * (wide + gap), y), wide, scale, False, *ends)
    ui.im.Dummy((0.0, 1.45 * ui.em))


def _draw_bar(ui: Ui, at: tuple[float, float], width: float, scale: Scale | None, turned: bool, low: str, high: str
              ) -> None:
    """A thin colour bar with the labels of its ends; scale None: black to white; turned: the scale's high end left."""
    draw, height = ui.im.GetWindowDrawList(), 0.3 * ui.em
    shares = (np.arange(_BAR_STEPS) + 0.5) / _BAR_STEPS
    shares = 1 - shares if turned else shares
    colours = greys(shares) if scale is None else scale.colours(scale.low + shares * (scale.high - scale.low))
    for step, colour in enumerate(colours):
        begin = at[0] + width * step / _BAR_STEPS
        draw.AddRectFilled((begin, at[1]), (at[0] + width * (step + 1) / _BAR_STEPS, at[1] + height),
                           packed(tuple(float(part) for part in colour)), 0.0)
    _label(ui, (at[0], at[1] + height), width, low, high)


def _label(ui: Ui, at: tuple[float, float], width: float, low: str, high: str) -> None:
    with ui.sized(0.78):
        draw, muted = ui.im.GetWindowDrawList(), packed(theme.MUTED)
        draw.AddText(at, muted, low)
        if high:
            draw.AddText((at[0] + width - ui.im.CalcTextSize(high)[0], at[1]), muted, high)


def _short(value: float) -> str:
    return f"{value:g}"


def _draw_notes(ui: Ui, view: ViewState, maps: MapSet, marked: np.ndarray | None) -> None:
    """What the colours outside the bars mean, and how often they occur; the choice of a larger view."""
    height, width = maps.size
    entries = [(f"hit in one only {count(maps.n_in_one)}", IN_ONE_ONLY)]
    if maps.n_bad:
        entries.append((f"{count(maps.n_bad)} NaN", theme.NOT_A_NUMBER))
    if marked is not None:
        entries.append((f"rim {count(int(marked.sum()))}", rim_colour()))
    ui.legend(entries)
    changed, marks = ui.im.Checkbox("Mark rim pixels", view.frustum.rim_marks and view.frustum.rim)
    ui.tip("Pixels that the section renders otherwise than the whole surface would:\n"
           "quads at the rim of the active set lack voxels")
    if changed:
        view.frustum.rim_marks = marks
        view.frustum.rim = view.frustum.rim or marks
    known = ["larger view: none", *(f"{origin} {name}" for name in maps.names for origin in ORIGINS)]
    ui.im.SetNextItemWidth(ui.width)
    chosen = known.index(view.maps.large) if view.maps.large in known else 0
    changed, index = ui.im.Combo("##large", chosen, known)
    ui.tip(f"{width} x {height} pixels. A double click on a map shows it large, too; Escape closes it")
    if changed:
        view.maps.large = known[index] if index else ""


# The probe


def _draw_probe(ui: Ui, view: ViewState, snapshot: Snapshot, maps: MapSet) -> None:
    voxels, section = snapshot.fields.get("voxels"), view.frustum.section(view)
    section = section if isinstance(section, Section) else None
    kept, (height, width) = view.maps.kept, maps.size
    inside = kept is not None and kept[0] < height and kept[1] < width
    view.maps.probe_world = read(maps, kept, voxels, section).world if inside else None
    pixel = view.maps.probed
    if pixel is None:
        ui.heading("Pixel")
        ui.text("Point at a pixel to read it.", theme.MUTED)
        ui.text("A click keeps it and marks it in the scene.", theme.MUTED)
        return
    is_kept = view.maps.hover is None
    ui.heading("Pixel", f"row {pixel[0]}, column {pixel[1]}" + (", kept" if is_kept else ""))
    for label, value in lines_of(read(maps, pixel, voxels, section), maps):
        ui.pair(label, value)
    if is_kept:
        ui.text("Escape lets go of it.", theme.MUTED, size=0.9)


def lines_of(reading: Reading, maps: MapSet) -> list[tuple[str, str]]:
    """What a pixel holds, in words; '–' where nothing is hit."""
    lines = []
    if "depth" in maps.names:
        lines += [("depth rendered, target", f"{_number(reading.depth[0])}  {_number(reading.depth[1])}"),
                  ("depth difference", "–" if reading.depth_away is None
                   else f"{reading.depth_away:+.3f} {maps.range.unit_name}")]
    if "normal" in maps.names:
        lines += [("normal rendered", _vector(reading.normal[0])), ("normal target", _vector(reading.normal[1])),
                  ("angle between", "–" if reading.angle is None else f"{reading.angle:.1f}°")]
    if "mask" in maps.names:
        lines.append(("mask rendered, target", f"{reading.mask[0]:.3f}  {reading.mask[1]:.3f}"))
    lines.append(("triangle", "–" if reading.triangle is None else count(reading.triangle)))
    voxel = "–" if reading.voxel is None else "{} {} {}".format(*reading.voxel)
    lines.append(("voxel i j k", voxel))
    if reading.voxel is not None:
        lines.append(("this voxel is", reading.state if reading.row >= 0 else "not among the voxels"))
    if reading.world is not None:
        lines.append(("point", _vector(reading.world, 3)))
    return lines


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _vector(value: np.ndarray | None, digits: int = 2) -> str:
    return "–" if value is None else "  ".join(f"{part:+.{digits}f}" for part in value.tolist())


# One map, large


def draw_large(ui: Ui, view: ViewState) -> None:
    """The map chosen, over the scene, with sharp pixels; the wheel zooms."""
    maps = view.maps.maps
    view.maps.hover_large = None
    origin, _, name = view.maps.large.partition(" ")
    if maps is None or name not in maps.names:
        ui.text("No such map now. Escape closes this.", theme.MUTED)
        return
    with_ends = 0.5 * (ui.width - 8 * ui.em)
    origin = ORIGINS[ui.choice(ORIGINS, ORIGINS.index(origin), with_ends)]
    ui.im.SameLine()
    name = maps.names[ui.choice(maps.names, maps.names.index(name), with_ends)]
    ui.im.SameLine()
    closed = ui.button("Close", ui.width, tip="Escape")
    view.maps.large = "" if closed else f"{origin} {name}"
    top, left, tall, broad = region = view.maps.region()
    room = ui.im.GetContentRegionAvail()
    scale = min(room[0] / broad, (room[1] - 3.2 * ui.em) / tall)
    scale = max(scale, 1e-3)
    factor = max(min(math.ceil(scale), _LARGEST_TEXTURE // max(tall, broad)), 1)
    size = (broad * scale, tall * scale)
    ui.im.SetCursorPosX(ui.im.GetCursorPosX() + (room[0] - size[0]) / 2)
    view.maps.hover_large = _image(ui, view, maps, (origin, name), region, size, rim_of(maps, view), "large", factor)
    at = ui.im.GetCursorScreenPos()
    _draw_large_bar(ui, maps, (origin, name), (at[0] + (room[0] - size[0]) / 2, at[1]), size[0])
    ui.im.Dummy((0.0, 1.5 * ui.em))
    ui.text(f"{_whose(maps, view)}: rows {top} to {top + tall - 1}, columns {left} to {left + broad - 1}. "
            "The wheel zooms, a click keeps a pixel.", theme.MUTED, size=0.9)


def _draw_large_bar(ui: Ui, maps: MapSet, which: tuple[str, str], at: tuple[float, float], width: float) -> None:
    origin, name = which
    if origin == "difference":
        scale = difference_scale(name, maps.range)
        unit = {"depth": f" {maps.range.unit_name}", "normal": "°"}.get(name, "")
        _draw_bar(ui, at, width, scale, False, f"{_short(scale.low)}{unit}", f"{scale.high:+g}{unit}")
    elif name == "depth" and maps.range.depth is not None:
        _draw_bar(ui, at, width, depth_scale(maps.range), True, f"near {maps.range.depth[0]:.4f}",
                  f"far {maps.range.depth[1]:.4f}")
    elif name == "mask":
        _draw_bar(ui, at, width, None, False, "0", "1")
    elif name == "normal":
        _label(ui, at, width, "x y z as red green blue", "")
