"""The six shapes by name, each with its parameters and the one thing it shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sparseflex.mesh import Mesh
from sparseflex.shapes import solids
from sparseflex.shapes.house import HouseParameters, house
from sparseflex.shapes.solids import Piece
from sparseflex.training.config import from_table, setting, validate


@dataclasses.dataclass(frozen=True)
class HighGenusParameters:
    """A cage: the skeleton of an icosidodecahedron, 31 times pierced."""

    opening: float = setting(0.78, 0.3, 0.88, help="size of the holes relative to the faces")
    depth: float = setting(0.16, 0.05, 0.4, help="thickness of the bars towards the centre, relative to the radius")


def high_genus(parameters: HighGenusParameters) -> Piece:
    return solids.smooth_frame(*solids.icosidodecahedron(), parameters.opening, parameters.depth, rounds=3)


@dataclasses.dataclass(frozen=True)
class ClothParameters:
    """A round cloth over an invisible table."""

    folds: int = setting(9, 3, 24, help="folds around the table")
    drop: float = setting(0.38, 0.1, 0.6, help="how far the cloth hangs down; the table's radius is 0.3")
    depth: float = setting(0.055, 0, 0.12, help="depth of the folds at the hem")


def cloth(parameters: ClothParameters) -> Piece:
    """Rings of equal length along the cloth: flat, bent over the table's edge, then hanging with growing folds."""
    table, bend, sides = 0.3, 0.03, 30 * parameters.folds
    arc = bend * np.pi / 2
    along = np.concatenate([np.linspace(0, table, 14)[1:-1], np.linspace(table, table + arc, 5)[:-1],
                            np.linspace(table + arc, table + arc + parameters.drop, 26)])[:, None]
    turn = np.clip((along - table) / bend, 0, np.pi / 2)
    hang = np.maximum(along - table - arc, 0)
    radius = np.minimum(along, table) + bend * np.sin(turn)
    height = -bend * (1 - np.cos(turn)) - hang
    angle = (np.arange(sides) * 2 * np.pi / sides)[None]
    # folds grow with the way down; a slower wave makes every one a little different
    growth = (hang / parameters.drop) ** 1.3
    uneven = 1 + 0.35 * np.cos(2 * angle + 0.7) + 0.2 * np.sin(3 * angle)
    fold = np.cos(parameters.folds * angle + 0.5 * np.sin(2 * angle))
    radius = radius + growth * (parameters.depth * uneven * fold + 0.05)
    height = height + growth * 0.02 * np.cos(3 * angle + 1.0)
    rings = np.stack([radius * np.cos(angle), height + 0 * angle, -radius * np.sin(angle)], -1)
    n = len(along)
    vertices = np.concatenate([rings.reshape(-1, 3), [[0.0, 0.0, 0.0]]])
    faces = solids.grid_triangles(n, sides, wrap=True)
    here = np.arange(sides)
    centre = np.stack([np.full(sides, n * sides), here, (here + 1) % sides], 1)
    return vertices, np.concatenate([centre, faces])


@dataclasses.dataclass(frozen=True)
class NestedShellsParameters:
    """Concentric hollow balls about a bumpy core."""

    shells: int = setting(2, 1, 4, help="hollow balls around the core")
    thickness: float = setting(0.05, 0.02, 0.08, help="thickness of a shell; the outermost radius is 0.5")


def nested_shells(parameters: NestedShellsParameters) -> Piece:
    pieces = []
    pitch = 0.34 / parameters.shells
    for shell in range(parameters.shells):
        outer, rounds = 0.5 - pitch * shell, 5 if shell == 0 else 4
        pieces.append(solids.sphere(outer, rounds))
        pieces.append(solids.turned_over(solids.sphere(outer - min(parameters.thickness, 0.6 * pitch), rounds - 1)))
    vertices, faces = solids.sphere(1.0, 4)
    x, y, z = vertices.T
    bumps = np.sin(7 * x) * np.sin(7 * y + 1) * np.sin(7 * z + 2)
    pieces.append((vertices * (0.115 + 0.025 * bumps)[:, None], faces))
    return solids.join(pieces)


@dataclasses.dataclass(frozen=True)
class LanternParameters:
    """A six-sided lantern: a frame, an open pleated shade inside it, and a bulb inside the shade."""

    pleats: int = setting(24, 0, 48, help="pleats of the shade; 0 for a smooth one")


def lantern(parameters: LanternParameters) -> Piece:
    cage = solids.smooth_frame(*solids.prism(6, 0.30, 0.40, 0.92), opening=0.74, depth=0.13, rounds=3)
    # the shade: an open tube between the frame and the bulb, nothing above and below
    pleats = parameters.pleats
    rows, columns = 40, 12 * pleats if pleats else 120
    y = np.linspace(-0.26, 0.26, rows)[:, None]
    angle = (np.arange(columns) * 2 * np.pi / columns)[None]
    radius = 0.205 - 0.35 * y**2 + (0.009 * np.cos(pleats * angle) if pleats else 0 * angle)
    tube = np.stack([radius * np.cos(angle), y + 0 * angle, -radius * np.sin(angle)], -1)
    shade = tube.reshape(-1, 3), solids.grid_triangles(rows, columns, wrap=True)[:, ::-1].copy()
    # the bulb on its socket: half a circle that runs smoothly into a neck
    turn = np.linspace(0, np.pi * 0.78, 28)
    ball = np.stack([0.085 * np.sin(turn), -0.085 * np.cos(turn)], 1)
    neck = np.array([[0.046, 0.085], [0.040, 0.105], [0.040, 0.125], [0.046, 0.13], [0.046, 0.195], [0.036, 0.21],
                     [0.02, 0.22], [0.0, 0.22]])
    bulb = solids.lathe(np.concatenate([ball, neck]), 64)
    return solids.join([cage, shade, (bulb[0] + [0, -0.06, 0], bulb[1])])


@dataclasses.dataclass(frozen=True)
class ThinSheetsParameters:
    """A stack of wavy plates that come closer and closer."""

    sheets: int = setting(6, 2, 12)
    thickness: float = setting(0.022, 0.004, 0.04, help="of each plate; the longest side of the stack is 1")
    widest: float = setting(0.13, 0.03, 0.2, help="gap between the lowest two plates")
    narrowest: float = setting(0.04, 0.01, 0.2, help="gap between the uppermost two plates")


def thin_sheets(parameters: ThinSheetsParameters) -> Piece:
    gaps = np.geomspace(parameters.widest, parameters.narrowest, parameters.sheets - 1)
    heights = np.concatenate([[0.0], np.cumsum(gaps + parameters.thickness)])
    u = np.linspace(-0.5, 0.5, 41)
    z, x = np.meshgrid(u, u, indexing="ij")
    # a square rounded towards a circle, and one wave for all plates, so that the gaps stay even
    x, z = x * np.sqrt(1 - 1.4 * z**2), z * np.sqrt(1 - 1.4 * x**2)
    wave = 0.05 * np.sin(5.5 * x + 0.6) * np.cos(4.5 * z)
    return solids.join([solids.plate(np.stack([x, wave + height, z], -1), parameters.thickness) for height in heights])


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape that can be built: what it shows, its parameters (a dataclass of settings), and its builder."""

    name: str
    shows: str
    parameters: type
    build: Callable[[Any], Piece]


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("high_genus", "a closed surface of genus 31: holes of every depth behind each other",
              HighGenusParameters, high_genus),
        Shape("cloth", "an open sheet without thickness, with folds: missing voxels leave it open",
              ClothParameters, cloth),
        Shape("nested_shells", "surfaces that no camera outside sees: hollow balls about a core",
              NestedShellsParameters, nested_shells),
        Shape("house", "rooms behind walls: doors, windows, a roof, furniture", HouseParameters, house),
        Shape("lantern", "open and closed surfaces inside each other: frame, open shade, bulb",
              LanternParameters, lantern),
        Shape("thin_sheets", "thin plates that come closer than the voxels can tell apart",
              ThinSheetsParameters, thin_sheets),
    )
}


def make_shape(name: str, **parameters: Any) -> Mesh:
    """The shape as a float32 mesh in its own frame (up is y, the size near 1; data.normalize fits it to the box).

    Raises ValueError for an unknown shape or parameter, or a value out of range; the message lists what is allowed.
    """
    if name not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {name!r}")
    values = from_table(SHAPES[name].parameters, parameters, f"shape {name}")
    validate(values, f"shape {name}: ")
    vertices, faces = SHAPES[name].build(values)
    return Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(np.ascontiguousarray(faces)))
