"""SparseFlex: sparse FlexiCubes isosurfaces with frustum-aware sectional training (arXiv 2503.21732)."""

from sparseflex import vae
from sparseflex.camera import Camera
from sparseflex.extraction import extract_mesh
from sparseflex.frustum import FrustumFit, active_voxels, adapt_frustum, add_halo, split_voxels
from sparseflex.mesh import Mesh
from sparseflex.metrics import chamfer_distance, f_score
from sparseflex.render import Maps, render_maps
from sparseflex.representation import SparseFlex
from sparseflex.voxels import SparseVoxels

__all__ = [
    "Camera",
    "FrustumFit",
    "Maps",
    "Mesh",
    "SparseFlex",
    "SparseVoxels",
    "active_voxels",
    "adapt_frustum",
    "add_halo",
    "chamfer_distance",
    "extract_mesh",
    "f_score",
    "render_maps",
    "split_voxels",
    "vae",
]
