"""The 256 cases of dual marching cubes, generated from the rules in method.md, section 2, not typed in.

Bit k of a case is set where corner k has a negative SDF. On an ambiguous face (its corners alternate in sign) the
surface cuts off the negative corners; the inverted variant of a case cuts off the positive ones instead.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from sparseflex.voxels import CORNER_OFFSETS

EDGES = ((0, 1), (1, 5), (4, 5), (0, 4), (2, 3), (3, 7), (6, 7), (2, 6), (2, 0), (3, 1), (7, 5), (6, 4))
"""Corner pairs of the twelve edges; the order of beta's columns."""

FACE_NORMALS = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
MAX_PATCHES = 4


class CaseTables(NamedTuple):
    """Row c is case c; row 256 + c the inverted variant of case c.

    n_patches, n_crossings: (512,). edge, patch: (512, 12) the crossing edges, ordered by patch, padded with 0.
    ambiguous_face: (256,) index into FACE_NORMALS for the 36 cases C16/C19, else -1.
    """

    n_patches: Int[Tensor, "512"]
    n_crossings: Int[Tensor, "512"]
    edge: Int[Tensor, "512 12"]
    patch: Int[Tensor, "512 12"]
    ambiguous_face: Int[Tensor, "256"]


class EdgeTables(NamedTuple):
    """By edge: first and second corner slot, the lower one, the axis, and the voxel's place among the four around it.

    The four voxels around an edge are numbered in lexicographic order of their coordinates.
    """

    first: Int[Tensor, "12"]
    second: Int[Tensor, "12"]
    lower: Int[Tensor, "12"]
    axis: Int[Tensor, "12"]
    place: Int[Tensor, "12"]


def _face_corners(face: int) -> list[int]:
    """The four corners of a face in cyclic order."""
    axis = face // 2
    wanted = face % 2
    u, v = [a for a in range(3) if a != axis]
    ring = [(0, 0), (1, 0), (1, 1), (0, 1)]
    corners = []
    for pair in ring:
        offset = [0, 0, 0]
        offset[axis], offset[u], offset[v] = wanted, *pair
        corners.append(CORNER_OFFSETS.index(tuple(offset)))
    return corners


_EDGE_OF = {frozenset(pair): e for e, pair in enumerate(EDGES)}


def _face_links(case: int, face: int, cut_negative: bool) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of crossing edges that the surface joins on a face, and whether the face is ambiguous."""
    ring = _face_corners(face)
    negative = [bool(case >> corner & 1) for corner in ring]
    edges = [_EDGE_OF[frozenset((ring[i], ring[(i + 1) % 4]))] for i in range(4)]
    crossing = [i for i in range(4) if negative[i] != negative[(i + 1) % 4]]
    if len(crossing) < 4:
        return ([(edges[crossing[0]], edges[crossing[1]])] if crossing else []), False
    # corner i lies between edges i - 1 and i
    return [(edges[i - 1], edges[i]) for i in range(4) if negative[i] == cut_negative], True


def _patches(links: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """The loops that the links form, each a sorted tuple of edges, ordered by their first edge."""
    group = {edge: {edge} for link in links for edge in link}
    for a, b in links:
        if group[a] is not group[b]:
            group[a] |= group[b]
            for edge in group[b]:
                group[edge] = group[a]
    return sorted({tuple(sorted(members)) for members in group.values()})


@functools.cache
def case_tables(device: torch.device | str = "cpu") -> CaseTables:
    """The tables on a device, made once."""
    if torch.device(device).type != "cpu":
        return CaseTables(*(table.to(device) for table in case_tables()))
    n_patches, n_crossings, ambiguous = torch.zeros(512).long(), torch.zeros(512).long(), -torch.ones(256).long()
    edge, patch = torch.zeros(512, 12).long(), torch.zeros(512, 12).long()
    for case in range(256):
        faces = [_face_links(case, face, True)[1] for face in range(6)]
        if sum(faces) == 1 and case.bit_count() >= 5:
            ambiguous[case] = faces.index(True)
        for inverted in (0, 1):
            links = [link for face in range(6) for link in _face_links(case, face, not inverted)[0]]
            row, place = case + 256 * inverted, 0
            for number, members in enumerate(_patches(links)):
                for member in members:
                    edge[row, place], patch[row, place] = member, number
                    place += 1
                n_patches[row] = number + 1
            n_crossings[row] = place
    return CaseTables(n_patches, n_crossings, edge, patch, ambiguous)


@functools.cache
def edge_tables(device: torch.device | str = "cpu") -> EdgeTables:
    """The tables on a device, made once."""
    if torch.device(device).type != "cpu":
        return EdgeTables(*(table.to(device) for table in edge_tables()))
    rows = []
    for first, second in EDGES:
        a, b = CORNER_OFFSETS[first], CORNER_OFFSETS[second]
        axis = next(x for x in range(3) if a[x] != b[x])
        lower = first if a[axis] == 0 else second
        u, v = (CORNER_OFFSETS[lower][x] for x in range(3) if x != axis)
        # a voxel whose edge lies on its upper side comes before the one whose edge lies on its lower side
        rows.append((first, second, lower, axis, 2 * (1 - u) + (1 - v)))
    columns = list(zip(*rows, strict=True))
    return EdgeTables(*(torch.tensor(column) for column in columns))
