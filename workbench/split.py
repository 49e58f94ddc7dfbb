"""Split: the voxels by what the selected camera does with them, computed once for a (voxel set, camera) pair."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from sparseflex.camera import Camera
from sparseflex.frustum import Category, DepthHistogram, SeenVoxels, depth_histogram, split_voxels
from sparseflex.voxels import SparseVoxels

CATEGORIES = {
    "active": Category.ACTIVE,
    "outside": Category.OUTSIDE,
    "near_cut": Category.NEAR_CUT,
    "far_cut": Category.FAR_CUT,
}


class Split:
    """What split_voxels and depth_histogram say; without a camera every voxel counts as active."""

    def __init__(self) -> None:
        self.voxels: SparseVoxels | None = None
        self.camera: Camera | None = None
        self.label = ""
        self.crossed = False
        self.n_between = 0
        self._category = np.zeros(0, np.uint8)
        self._seen: SeenVoxels | None = None
        self._counts: dict[str, int] | None = None
        self._histogram: DepthHistogram | None = None

    def update(self, voxels: SparseVoxels | None, camera: Camera | None, label: str = "", crossed: bool = False,
               seen: SeenVoxels | None = None) -> None:
        """label: what the camera is called where its planes and counts are shown. crossed: what it has for near is
        meant for far, and the other way round: then what lies between is before the near plane and behind the far one,
        nothing is active, and n_between says how many they are. seen: what see_voxels found for both, where it's known.
        """
        self.label = label
        if voxels is self.voxels and camera is self.camera and crossed == self.crossed:
            return
        self.voxels, self.camera, self.crossed = voxels, camera, crossed
        self._counts = self._histogram = None
        self._seen, self.n_between = seen, 0
        if voxels is None:
            self._category = np.zeros(0, np.uint8)
        elif camera is None:
            self._category = np.full(voxels.n_voxels, Category.ACTIVE, np.uint8)
        else:
            self._category = split_voxels(voxels, camera, seen).numpy()
            if crossed:
                between = self._category == Category.ACTIVE
                self.n_between = int(between.sum())
                self._category[between] = Category.NEAR_CUT

    def rows(self, name: str, among: Bool[np.ndarray, "N"] | None = None) -> Bool[np.ndarray, "N"]:
        """Which voxels, or which among these, belong to a category, by its name in CATEGORIES."""
        rows = self._category == CATEGORIES[name]
        return rows if among is None else rows & among

    @property
    def counts(self) -> dict[str, int]:
        """Voxels by category; counted when first looked at."""
        if self._counts is None:
            found = np.bincount(self._category, minlength=len(Category))
            self._counts = {name: int(found[category]) for name, category in CATEGORIES.items()}
        return self._counts

    def share_histogram(self, other: Split) -> None:
        """Takes over the other's histogram where both are of a camera in the same place: planes don't change it."""
        if self._seen is not None and other._seen is self._seen:
            self._histogram = other._histogram

    @property
    def n_voxels(self) -> int:
        return len(self._category)

    @property
    def histogram(self) -> DepthHistogram | None:
        """Laterally visible voxels by depth; computed when first looked at."""
        if self._histogram is None and self.voxels is not None and self.camera is not None:
            self._histogram = depth_histogram(self.voxels, self.camera, 48, self._seen)
        return self._histogram
