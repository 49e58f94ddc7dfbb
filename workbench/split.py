"""Split: the voxels by what the selected camera does with them, computed once for a (voxel set, camera) pair."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from sparseflex.camera import Camera
from sparseflex.frustum import Category, DepthHistogram, depth_histogram, split_voxels
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
        self._category = np.zeros(0, np.uint8)
        self._counts: dict[str, int] | None = None
        self._histogram: DepthHistogram | None = None

    def update(self, voxels: SparseVoxels | None, camera: Camera | None, label: str = "") -> None:
        """label: what the camera is called where its planes and counts are shown."""
        self.label = label
        if voxels is self.voxels and camera is self.camera:
            return
        self.voxels, self.camera = voxels, camera
        self._counts = self._histogram = None
        if voxels is None:
            self._category = np.zeros(0, np.uint8)
        elif camera is None:
            self._category = np.full(voxels.n_voxels, Category.ACTIVE, np.uint8)
        else:
            self._category = split_voxels(voxels, camera).numpy()

    def rows(self, name: str) -> Bool[np.ndarray, "N"]:
        """Which voxels belong to a category, by its name in CATEGORIES."""
        return self._category == CATEGORIES[name]

    @property
    def counts(self) -> dict[str, int]:
        """Voxels by category; counted when first looked at."""
        if self._counts is None:
            found = np.bincount(self._category, minlength=len(Category))
            self._counts = {name: int(found[category]) for name, category in CATEGORIES.items()}
        return self._counts

    @property
    def n_voxels(self) -> int:
        return len(self._category)

    @property
    def histogram(self) -> DepthHistogram | None:
        """Laterally visible voxels by depth; computed when first looked at."""
        if self._histogram is None and self.voxels is not None and self.camera is not None:
            self._histogram = depth_histogram(self.voxels, self.camera, bins=48)
        return self._histogram
