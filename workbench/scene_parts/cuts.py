"""Cuts: the scene cut off at a plane, in each of its places by a slice plane of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polyscope as ps
from jaxtyping import Float

_present: dict[str, Any] = {}  # as Polyscope itself has them: one scene a process


class Cuts:
    """A structure is cut by the plane of its place alone, and only where it may be cut at all."""

    def __init__(self) -> None:
        self._planes: dict[int, Any] = {}
        self._told: dict[int, tuple[Any, frozenset[int]]] = {}

    def place(
        self,
        poses: dict[int, tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]],
        structures: Iterable[tuple[Any, int | None]],
    ) -> None:
        """poses: by place, a point of the plane and the direction of what stays. structures: all, each with its place,
        or None where it must stay whole."""
        for slot in [slot for slot in self._planes if slot not in poses]:
            _present.pop(f"cut {slot}", None)
            self._planes.pop(slot).remove()
        for slot, (point, kept) in poses.items():
            if slot not in self._planes:
                plane = ps.add_slice_plane(f"cut {slot}")
                plane.set_draw_plane(False)
                plane.set_draw_widget(False)
                self._planes[slot] = _present[f"cut {slot}"] = plane
            self._planes[slot].set_pose(tuple(point), tuple(kept))
        known, self._told = self._told, {}
        slots = frozenset(self._planes)
        for structure, own in structures:
            before = known.get(id(structure))
            if before is None or before[0] is not structure or before[1] != slots:
                for slot, plane in self._planes.items():
                    structure.set_ignore_slice_plane(plane, slot != own)
            self._told[id(structure)] = (structure, slots)

    def clear(self) -> None:
        self.place({}, ())


def spare(structures: Iterable[Any]) -> None:
    """Keeps structures whole, whatever planes there are: for what is drawn beside a window's scene."""
    for structure in structures:
        for plane in _present.values():
            structure.set_ignore_slice_plane(plane, True)
