"""SparseFlex: sparse FlexiCubes isosurfaces with frustum-aware sectional training (arXiv 2503.21732)."""

from sparseflex.camera import Camera
from sparseflex.extraction import extract_mesh
from sparseflex.mesh import Mesh
from sparseflex.representation import SparseFlex
from sparseflex.voxels import SparseVoxels

__all__ = ["Camera", "Mesh", "SparseFlex", "SparseVoxels", "extract_mesh"]
