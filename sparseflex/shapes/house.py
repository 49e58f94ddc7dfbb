"""The house: rooms, doors, windows and a roof; walls, floor and roof have thickness, and one mesh holds all of it."""

from __future__ import annotations

import dataclasses

import numpy as np

from sparseflex.shapes.solids import Piece, cells_surface
from sparseflex.training.config import setting

Box = tuple[float, float, float, float, float, float]
"""Low and high x, low and high y, low and high z."""


@dataclasses.dataclass(frozen=True)
class HouseParameters:
    """Sizes of the house, whose longest side is about 1."""

    wall: float = setting(0.05, 0.02, 0.06, help="thickness of walls, floor and roof")
    pitch: float = setting(0.75, 0.2, 1.2, help="rise of the roof over its run")
    furniture: bool = setting(True, help="whether the rooms are furnished")


# outer faces of the walls; the roof reaches out over them
HALF_X, HALF_Z, EAVE = 0.44, 0.34, 0.36
ROOF_OUT = 0.06
DOOR, SILL, LINTEL = 0.26, 0.15, 0.28
CORE_X, CORE_Z = 0.06, 0.0  # where the wall across the house and the one that splits its right half stand


def _walls(w: float, attic: float) -> list[Box]:
    """Solid boxes up to the roof slab."""
    top = attic
    return [
        (-HALF_X, HALF_X, 0, w, -HALF_Z, HALF_Z),  # floor
        (-HALF_X, HALF_X, 0, top, -HALF_Z, -HALF_Z + w),
        (-HALF_X, HALF_X, 0, top, HALF_Z - w, HALF_Z),
        (-HALF_X, -HALF_X + w, 0, top, -HALF_Z, HALF_Z),
        (HALF_X - w, HALF_X, 0, top, -HALF_Z, HALF_Z),
        (CORE_X, CORE_X + w, 0, top, -HALF_Z, HALF_Z),
        (CORE_X, HALF_X, 0, top, CORE_Z, CORE_Z + w),
    ]


def _openings(w: float) -> list[Box]:
    """What doors and windows take away."""
    front, back = (HALF_Z - w, HALF_Z), (-HALF_Z, -HALF_Z + w)
    left, right = (-HALF_X, -HALF_X + w), (HALF_X - w, HALF_X)
    return [
        (-0.10, 0.02, w, DOOR, *front),  # front door
        (-0.33, -0.18, SILL, LINTEL, *front), (0.18, 0.34, SILL, LINTEL, *front),
        (-0.33, -0.18, SILL, LINTEL, *back), (-0.10, 0.00, SILL, LINTEL, *back), (0.18, 0.34, SILL, LINTEL, *back),
        (*left, SILL, LINTEL, -0.22, -0.06), (*left, SILL, LINTEL, 0.06, 0.22),
        (*right, SILL, LINTEL, -0.24, -0.10), (*right, SILL, LINTEL, 0.12, 0.26),
        (CORE_X, CORE_X + w, w, DOOR, -0.24, -0.12), (CORE_X, CORE_X + w, w, DOOR, 0.13, 0.25),  # inner doors
    ]


def _furniture(w: float) -> list[Box]:
    """A table with a bench, a bed with its pillow, a kitchen block with a shelf."""
    leg, top = 0.03, 0.13
    legs = [(x, x + leg, w, top, z, z + leg) for x in (-0.30, -0.15) for z in (-0.20, -0.05)]
    return [
        *legs, (-0.31, -0.11, top, top + leg, -0.21, -0.01),
        (-0.30, -0.12, w, w + 0.05, 0.08, 0.14),
        (0.20, HALF_X - w, w, w + 0.06, 0.14, 0.28), (0.34, HALF_X - w, w + 0.06, w + 0.09, 0.16, 0.26),
        (0.18, HALF_X - w, w, w + 0.09, -HALF_Z + w, -0.21),
    ]


def _cuts(boxes: list[Box], axis: int, spacing: float, extra: tuple[float, ...] = ()) -> np.ndarray:
    """Planes at every side of the boxes, and between them so that no gap is wider than spacing."""
    values = [value for box in boxes for value in box[2 * axis : 2 * axis + 2]]
    planes = np.unique(np.round([*values, *extra], 9))
    between = [np.linspace(low, high, int(np.ceil((high - low) / spacing)) + 1)[:-1]
               for low, high in zip(planes[:-1], planes[1:], strict=True)]
    return np.concatenate([*between, planes[-1:]])


def _inside(planes: list[np.ndarray], box: Box) -> tuple[slice, ...]:
    ends = [np.array(box[2 * axis : 2 * axis + 2]) - 1e-7 for axis in range(3)]
    return tuple(slice(*np.searchsorted(cuts, pair)) for cuts, pair in zip(planes, ends, strict=True))


def house(parameters: HouseParameters) -> Piece:
    """Cells of an uneven grid, solid or not; above the eaves the grid is sheared to the pitch of the roof.

    So gables and roof come out of the same closed surface as the walls, without any intersecting parts.
    """
    w = parameters.wall
    attic = EAVE + w  # the lowest part of the attic under the slab, at the wall
    slab, chimney_top = attic + w * 1.2, attic + w * 1.2 + 0.10
    reach_x, reach_z = HALF_X + ROOF_OUT, HALF_Z + ROOF_OUT
    walls, openings = _walls(w, attic), _openings(w)
    roof: Box = (-reach_x, reach_x, attic, slab, -reach_z, reach_z)
    chimney: Box = (0.20, 0.30, slab, chimney_top, -0.16, -0.08)
    solids = [*walls, *(_furniture(w) if parameters.furniture else []), roof, chimney]
    planes = [_cuts(solids + openings, axis, 0.07, extra) for axis, extra in enumerate(((), (EAVE,), (0.0,)))]
    solid = np.zeros([len(cuts) - 1 for cuts in planes], bool)
    for box in walls:
        solid[_inside(planes, box)] = True
    for box in openings:
        solid[_inside(planes, box)] = False
    for box in solids[len(walls):]:
        solid[_inside(planes, box)] = True
    vertices, faces = cells_surface(planes, solid)
    # the ridge runs along x; the shear grows from the eaves to the slab, and ends in the level top of the chimney
    rise = parameters.pitch * (HALF_Z - np.abs(vertices[:, 2]))
    y = vertices[:, 1]
    share = np.clip((y - EAVE) / (attic - EAVE), 0, 1)
    crown = parameters.pitch * HALF_Z + 0.02
    at_chimney = np.clip((y - slab) / (chimney_top - slab), 0, 1)
    vertices[:, 1] += share * ((1 - at_chimney) * rise + at_chimney * (crown - 0.06))
    return vertices, faces
