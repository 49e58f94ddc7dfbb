"""Plate: a run at a glance as one picture, what headless runs leave as figure.png; recipes are in workbench/figure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from sparseflex.camera import Camera
from sparseflex.frustum import adapt_frustum
from sparseflex.mesh import Mesh
from sparseflex.render import render_maps
from sparseflex.training.pruning import PruneEvent
from sparseflex.training.run import Run
from sparseflex.vae.diagnosis import Cause
from sparseflex.voxels import SparseVoxels
from workbench import theme
from workbench.field_copies import SURFACE, fields_of, read_field
from workbench.graphics import check_graphics, start_polyscope
from workbench.layout import view_axes
from workbench.point_view import CAUSE, LOOKS, MAX_POINTS, POINTS, ShownPoints, colours_of, evenly
from workbench.snapshot import MeshArrays
from workbench.split import Split

FOV_DEGREES = 28.0
HOME_DIRECTION = (0.75, 0.42, 1.0)
SUPERSAMPLING = 2
ASIDE = 40.0
"""Where figures are drawn, in world units to the right: out of sight of what a window shows."""

_PRUNED_CAUSES = {1: Cause.PRUNED_1, 2: Cause.PRUNED_2}
"""By level: what a point is called whose voxel was pruned there."""

INK, FAINT = "#22262E", "#6B7280"
PAPER = (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a figure shows of a run: None where the run has it not. camera is the one whose frustum is drawn."""

    title: str
    split: Split
    camera: Camera | None
    surface: Mesh | None
    target: Mesh | None
    iteration: int
    points: PointsShown | None = None
    pruned: tuple[PruneEvent, ...] = ()

    @classmethod
    def of(cls, run: Run, home: Camera) -> Subject:
        """Reads the run's present state; a run that hasn't rendered yet gets a camera of its own."""
        wanted = ["voxels", "target"] + ([SURFACE if SURFACE in fields_of(run) else "mesh"] if run.iteration else [])
        read = {name: read_field(run, name) for name in wanted if name in fields_of(run)}
        voxels = read.get("voxels")
        voxels = None if voxels is None else voxels.to("cpu")
        cameras = run.cameras()
        camera = cameras[0].camera if cameras else None
        ratio = run.settings["visibility_ratio"].value if "visibility_ratio" in run.settings else 1.0
        if camera is None and voxels is not None and ratio < 1:
            camera = adapt_frustum(voxels, home, ratio, anchor="centre").camera
        split = Split()
        split.update(voxels, camera)
        surface = read.get(SURFACE, read.get("mesh"))
        surface, target = (None if mesh is None else mesh.detach().to("cpu") for mesh in (surface, read.get("target")))
        points = PointsShown.of(run)
        pruned = read_field(run, "prune") if points is not None and run.iteration else None
        return cls(run.name, split, camera, surface, target, run.iteration, points, tuple(pruned or ()))


@dataclasses.dataclass(frozen=True)
class PointsShown:
    """The points that an inference began with, as many as are drawn, in the colours of what became of them."""

    shown: ShownPoints
    colours: Float[np.ndarray, "n 3"] | None
    n_points: int
    counts: dict[int, int]

    @classmethod
    def of(cls, run: Run) -> PointsShown | None:
        """None for a run without such a field."""
        if fields_of(run).get(POINTS) != "points" or (points := read_field(run, POINTS)) is None:
            return None
        copies = {POINTS: points.detach().cpu().numpy()}
        cause = read_field(run, CAUSE) if run.iteration and CAUSE in fields_of(run) else None
        if cause is not None and cause.shape == points.shape[:1]:
            copies[CAUSE] = cause.cpu().numpy()
        places = copies[POINTS]
        rows = evenly(np.flatnonzero(np.isfinite(places).all(axis=1)), MAX_POINTS)
        shown = ShownPoints(places[rows], rows, len(places))
        if CAUSE not in copies:
            return cls(shown, None, len(points), {})
        counts = np.bincount(copies[CAUSE], minlength=len(LOOKS))
        return cls(shown, colours_of(copies[CAUSE][shown.rows], theme.POINTS), len(points),
                   {code: int(n) for code, n in enumerate(counts) if n})

    def legend(self) -> list[tuple[str, theme.Colour]]:
        """The causes that there are, the most frequent first; four fit below a tile."""
        if not self.counts:
            return [(f"{self.n_points:,} points", theme.POINTS)]
        often = sorted(self.counts.items(), key=lambda item: -item[1])[:4]
        return [(f"{n:,} {LOOKS[code].label}", LOOKS[code].colour or theme.POINTS) for code, n in often]


def render_figure(
    run: Run,
    path: Path | str,
    width: int = 1600,
    height: int = 1200,
    *,
    home: Camera | None = None,
) -> None:
    """Writes a PNG of width x height pixels: voxels with frustum, surface, target, and normals against the target's.

    home gives the direction that all is seen from (default: the front right, slightly above). What the run lacks is
    left out. Works with and without a display, and beside an open window. Raises NoGraphics where libraries are
    missing, ValueError for a size below 320 x 240.
    """
    if width < 320 or height < 240:
        raise ValueError(f"width and height must be at least 320 x 240 pixels, got {width} x {height}")
    check_graphics(display=False)
    direction = np.array(HOME_DIRECTION) if home is None else -home.forward_world.numpy()
    subject = Subject.of(run, home or Camera.look_at((direction * 2).tolist(), (0, 0, 0), fov_y_degrees=FOV_DEGREES))
    plate = Plate(subject, direction / np.linalg.norm(direction), width, height)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    plate.draw().save(path)


@dataclasses.dataclass(frozen=True)
class Tile:
    """One picture of a plate: its caption, coloured words of a legend, and what draws it in a size of pixels."""

    caption: str
    legend: Sequence[tuple[str, theme.Colour]]
    draw: Any


class Plate:
    """Tiles in a grid with captions below them."""

    def __init__(self, subject: Subject, direction: Float[np.ndarray, "3"], width: int, height: int) -> None:
        self._subject, self._direction = subject, direction
        self._width, self._height = width, height
        self._unit = min(width / 1600, height / 1200)

    def draw(self) -> Image.Image:
        plate = Image.new("RGB", (self._width, self._height), PAPER)
        tiles = self._tiles()
        if not tiles:
            self._write(plate, "This run has nothing to draw.", (), 0, self._height // 2, self._width)
            return plate
        columns = 1 if len(tiles) == 1 else 2
        rows = math.ceil(len(tiles) / columns)
        margin, caption = round(28 * self._unit), round(64 * self._unit)
        wide = (self._width - margin * (columns + 1)) // columns
        tall = (self._height - margin * (rows + 1)) // rows - caption
        for index, tile in enumerate(tiles):
            alone = index == len(tiles) - 1 and len(tiles) % columns
            x = (self._width - wide) // 2 if alone else margin + index % columns * (wide + margin)
            y = margin + index // columns * (tall + caption + margin)
            plate.paste(tile.draw(wide, tall), (x, y))
            self._write(plate, f"{'abcd'[index]}   {tile.caption}", tile.legend, x, y + tall + round(10 * self._unit),
                        wide)
        return plate

    def _tiles(self) -> list[Tile]:
        subject, tiles = self._subject, []
        if subject.points is not None:
            tiles.append(Tile("Input points", subject.points.legend(), self._points))
        if subject.pruned and subject.split.n_voxels + sum(event.n_pruned for event in subject.pruned):
            tiles.append(Tile("Voxels, cut open", [(label, colour) for label, colour, _ in self._decided()],
                              self._voxels_cut))
        elif subject.split.n_voxels:
            counts = subject.split.counts
            legend = [(f"{label} {counts[name]:,}", theme.CATEGORY_COLOURS[name]) for name, label in (
                ("active", "active"), ("near_cut", "near-cut"), ("far_cut", "far-cut"), ("outside", "outside"))
                if counts[name]]
            title = "Voxels and frustum" if subject.camera is not None else "Voxels"
            tiles.append(Tile(title, legend, self._voxels))
        when = f"iteration {subject.iteration:,}" if subject.points is None else f"pass {subject.iteration:,}"
        # beside a surface the points tell what the target is
        shown = subject.surface is not None and subject.surface.n_faces
        target = None if subject.points is not None and shown else subject.target
        for caption, mesh, colour in (
            (f"Surface, {when}", subject.surface, theme.MESH), ("Target", target, theme.TARGET),
        ):
            if mesh is not None and mesh.n_faces:
                legend = [(f"{mesh.n_faces:,} faces", colour)]
                tiles.append(Tile(caption, legend, lambda w, h, m=mesh, c=colour: self._mesh(m, c, w, h)))
        both = [mesh for mesh in (subject.surface, subject.target) if mesh is not None and mesh.n_faces]
        if len(both) == 2:
            tiles.append(Tile("Normals: surface, target", (), self._normals))
        return tiles

    def _voxels(self, width: int, height: int) -> Image.Image:
        from workbench.scene_parts.cubes import draw_voxels
        from workbench.scene_parts.frusta import draw_frustum, drawn_planes
        from workbench.split import CATEGORIES

        split, camera = self._subject.split, self._subject.camera
        points = [split.voxels.centers.numpy()]
        if camera is None:
            return self._scene(lambda: draw_voxels("figure voxels", "active", split), points[0], width, height)

        def draw() -> list[Any]:
            cubes = [part for name in CATEGORIES for part in draw_voxels(f"figure {name}", name, split)]
            return cubes + draw_frustum(camera, "figure frustum", weight=1.2)

        near, far = drawn_planes(camera)[:2]
        # with room for the rays in front of the near plane
        points.append(camera.frustum_corners_world(max(near - 0.3, 0.1 * near), far).numpy())
        return self._scene(draw, np.concatenate(points), width, height)

    def _points(self, width: int, height: int) -> Image.Image:
        from workbench.scene_parts.marks import draw_points, style_points

        found = self._subject.points

        def draw() -> list[Any]:
            parts = draw_points("figure points", found.shown)
            for part in parts:
                style_points(part, theme.POINTS, 1.0, found.colours)
            return parts

        return self._scene(draw, self._frame(), width, height)

    def _decided(self) -> list[tuple[str, theme.Colour, SparseVoxels]]:
        """What was kept in the end, and what each level pruned, in the colours of the points."""
        kept = self._subject.split.voxels
        sets = [] if kept is None else [(f"{kept.n_voxels:,} kept", theme.POINTS, kept)]
        for event in self._subject.pruned:
            colour = LOOKS[_PRUNED_CAUSES[event.level]].colour
            sets.append((f"{event.n_pruned:,} pruned at level {event.level}", colour, event.pruned))
        return [found for found in sets if found[2].n_voxels]

    def _voxels_cut(self, width: int, height: int) -> Image.Image:
        """The half behind a plane through the middle that faces the viewer, so that what was pruned hides nothing."""
        from workbench.scene_parts.cubes import draw_set, style_voxels

        axis = int(np.abs(self._direction).argmax())
        side = float(np.sign(self._direction[axis]))

        behind = [(label, colour, voxels.prune(side * voxels.centers[:, axis] <= 0))
                  for label, colour, voxels in self._decided()]

        def draw() -> list[Any]:
            parts = []
            for label, colour, voxels in behind:
                for part in draw_set(f"figure {label}", voxels):
                    style_voxels(part, "active", colour, 0.92, None, True)
                    parts.append(part)
            return parts

        points = np.concatenate([self._frame(), *(voxels.centers.numpy() for _, _, voxels in behind)])
        return self._scene(draw, points, width, height)

    def _mesh(self, mesh: Mesh, colour: theme.Colour, width: int, height: int) -> Image.Image:
        from workbench.scene_parts.surfaces import draw_mesh

        arrays = MeshArrays(mesh.vertices.numpy(), mesh.faces.numpy())
        creased = mesh is self._subject.target

        def draw() -> list[Any]:
            return draw_mesh("figure mesh", arrays, colour, creased=creased)

        points = self._frame()
        if self._subject.points is not None:  # what a network makes may reach beyond them
            points = np.concatenate([points, mesh.vertices.numpy()])
        return self._scene(draw, points, width, height)

    def _frame(self) -> Float[np.ndarray, "P 3"]:
        """Points that all tiles but that of the frustum share a frame by, so that they are seen alike."""
        subject = self._subject
        if subject.target is None and subject.points is not None:
            return subject.points.shown.places
        return (subject.surface if subject.target is None else subject.target).vertices.numpy()

    def _scene(self, draw: Any, points: Float[np.ndarray, "P 3"], width: int, height: int) -> Image.Image:
        eye, centre = framed(points, self._direction, width / height)
        with _drawing(draw, eye, centre, width * SUPERSAMPLING, height * SUPERSAMPLING) as pixels:
            return Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)

    def _normals(self, width: int, height: int) -> Image.Image:
        half = width // 2
        size = SUPERSAMPLING * half, SUPERSAMPLING * height
        eye, centre = framed(self._frame(), self._direction, half / height)
        camera = Camera.look_at(eye.tolist(), centre.tolist(), fov_y_degrees=FOV_DEGREES, width=size[0], height=size[1])
        picture = Image.new("RGB", (width, height), PAPER)
        for index, mesh in enumerate((self._subject.surface, self._subject.target)):
            maps = render_maps(mesh, camera, backend="torch")
            cover = maps.mask.numpy()[..., None]
            colours = (maps.normal.numpy() * 0.5 + 0.5) * 255
            hit = np.abs(maps.normal.numpy()).sum(-1, keepdims=True) > 0
            pixels = np.where(hit, colours * cover + 255 * (1 - cover), 255).clip(0, 255).astype(np.uint8)
            picture.paste(Image.fromarray(pixels).resize((half, height), Image.Resampling.LANCZOS), (index * half, 0))
        return picture

    def _write(
        self, plate: Image.Image, caption: str, legend: Sequence[tuple[str, theme.Colour]], x: int, y: int, width: int
    ) -> None:
        """A caption and, below it, its legend, centred below a tile."""
        pen = ImageDraw.Draw(plate)
        title, small = (ImageFont.load_default(round(size * self._unit)) for size in (23, 19))
        pen.text((x + (width - pen.textlength(caption, title)) / 2, y), caption, INK, title)
        dot, gap = 13 * self._unit, 9 * self._unit

        def lengths_in(font: Any) -> list[float]:
            return [dot + gap + pen.textlength(label, font) for label, _ in legend]

        room = width - 3 * gap * (len(legend) - 1)
        while sum(lengths_in(small)) > room and small.size > 8:
            small = small.font_variant(size=small.size - 1)
        lengths = lengths_in(small)
        at = x + (room - sum(lengths)) / 2
        top = y + 32 * self._unit
        for (label, colour), length in zip(legend, lengths, strict=True):
            middle = top + 12 * self._unit
            shade = tuple(round(255 * channel) for channel in colour)
            pen.ellipse((at, middle - dot / 2, at + dot, middle + dot / 2), shade)
            pen.text((at + dot + gap, top), label, FAINT, small)
            at += length + 3 * gap


def framed(
    points: Float[np.ndarray, "P 3"], direction: Float[np.ndarray, "3"], aspect: float, fill: float = 0.94,
    fov_y_degrees: float = FOV_DEGREES,
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Eye and centre of a view along a direction in which the points just fit; the field of view spans the height."""
    axes = np.stack([*view_axes(direction), direction])
    local = points.astype(np.float64) @ axes.T
    tangent = math.tan(math.radians(fov_y_degrees) / 2) * fill
    # per side: |offset - centre| <= tangent·(distance - depth); the tightest of all points, each pair of sides
    centre, distance = np.zeros(3), 0.0
    for axis, slope in ((0, tangent * aspect), (1, tangent)):
        high, low = (local[:, axis] + slope * local[:, 2]).max(), (local[:, axis] - slope * local[:, 2]).min()
        centre[axis] = (high + low) / 2
        distance = max(distance, (high - low) / (2 * slope))
    distance = max(distance, float(local[:, 2].max()) + 1e-2)
    return (centre + np.array([0, 0, distance])) @ axes, centre @ axes


@contextmanager
def _drawing(
    draw: Any, eye: Float[np.ndarray, "3"], centre: Float[np.ndarray, "3"], width: int, height: int
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Draws structures beside whatever else Polyscope shows, gives the pixels, and puts everything back."""
    import polyscope as ps

    from workbench.scene_parts.cuts import spare

    start_polyscope("SparseFlex workbench", headless=True)
    size, view, fov, back = (ps.get_window_size(), ps.get_camera_view_matrix(), ps.get_vertical_fov_degrees(),
                             ps.get_background_color())
    middle = ps.get_view_center()
    right, up = view_axes((eye - centre) / np.linalg.norm(eye - centre))
    aside = ASIDE * right
    structures = draw()
    spare(structures)
    try:
        for structure in structures:
            structure.set_position(tuple(aside))
        ps.set_window_size(width, height)
        ps.set_background_color((1.0, 1.0, 1.0))
        ps.set_vertical_fov_degrees(FOV_DEGREES)
        ps.set_view_center_raw(tuple((centre + aside).tolist()))  # clipping goes by it: none left from a view before
        ps.look_at_dir(eye + aside, centre + aside, up)
        yield np.ascontiguousarray(ps.screenshot_to_buffer(transparent_bg=False)[..., :3])
    finally:
        for structure in structures:
            structure.remove()
        ps.set_window_size(*size)
        ps.set_camera_view_matrix(view)
        ps.set_view_center_raw(middle)
        ps.set_vertical_fov_degrees(fov)
        ps.set_background_color(back[:3])
