"""Field: the SDF at the voxels' corners."""

from __future__ import annotations

from typing import Any

import numpy as np
import polyscope as ps
from jaxtyping import Float

from sparseflex.voxels import SparseVoxels


def draw_sdf(voxels: SparseVoxels, sdf: Float[np.ndarray, "C"]) -> list[Any]:
    """The corners as points, coloured by a map centred on zero."""
    points = ps.register_point_cloud("sdf", voxels.corners_world.numpy(), material="flat", point_render_mode="quad")
    points.set_radius(0.22 / voxels.resolution, relative=False)
    limit = float(np.nanquantile(np.abs(sdf), 0.98)) or 1.0
    points.add_scalar_quantity("sdf", sdf, vminmax=(-limit, limit), cmap="coolwarm", enabled=True)
    return [points]
