"""What the worker computes of a camera's section: its mesh, the voxels of its halo, the pixels that its rim spoils."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from sparseflex.camera import Camera
from sparseflex.extraction import extract_mesh
from sparseflex.frustum import active_voxels, add_halo, rim_report
from sparseflex.mesh import Mesh
from sparseflex.render import Maps, render_maps
from sparseflex.representation import SparseFlex
from sparseflex.voxels import SparseVoxels
from workbench.snapshot import MeshArrays, Snapshot
from workbench.worker import same_token

PARAMETERS = ("corner_sdf", "corner_deform", "alpha", "beta", "gamma")
"""The fields that make a SparseFlex of a voxel set."""

MAX_PIXELS = 1_048_576
"""Larger images are rendered at a whole fraction of their size: these are for looking at."""


NO_MESH = MeshArrays(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))


@dataclasses.dataclass(frozen=True, eq=False)
class Parameters:
    """A run's parameters at one moment, as a snapshot holds them, and the iteration that they are of."""

    voxels: SparseVoxels
    arrays: dict[str, np.ndarray]
    surface: MeshArrays | None
    iteration: int

    @classmethod
    def of(cls, snapshot: Snapshot) -> Parameters | None:
        """None where the snapshot lacks one of them, or where the weights aren't of its voxels."""
        fields = snapshot.fields
        voxels = fields.get("voxels")
        if voxels is None or any(name not in fields for name in PARAMETERS):
            return None
        n = voxels.n_voxels
        shapes = {"alpha": (n, 8), "beta": (n, 12), "gamma": (n,)}  # corners take long to count: left to the worker
        if any(fields[name].shape != shape for name, shape in shapes.items()):
            return None
        arrays = {name: fields[name] for name in PARAMETERS}
        return cls(voxels, arrays, fields.get("surface"), snapshot.iteration)

    @property
    def token(self) -> tuple:
        return (self.voxels, *self.arrays.values())

    def mesh(self, active: Bool[torch.Tensor, "N"]) -> Mesh:
        """The surface of the active voxels; only their rows are copied."""
        section = self.voxels.section(active)
        voxel_rows, corner_rows = section.voxel_rows.numpy(), section.corner_rows.numpy()
        values = {name: torch.from_numpy(array[corner_rows if name.startswith("corner") else voxel_rows])
                  for name, array in self.arrays.items()}
        with torch.no_grad():
            return extract_mesh(SparseFlex(section.voxels, **values, consistency_loss=torch.zeros(())))

    def whole(self) -> Mesh:
        if self.surface is not None:
            return mesh_of(self.surface)
        return self.mesh(torch.ones(self.voxels.n_voxels, dtype=torch.bool))


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """A camera's section: in_section (N,) bool with the halo, n_active without it; the mesh where it was asked for."""

    camera: Camera
    in_section: Bool[np.ndarray, "N"]
    n_active: int
    n_section: int
    mesh: MeshArrays | None
    iteration: int


@dataclasses.dataclass(frozen=True, eq=False)
class Rim:
    """Pixels where the section renders otherwise than the whole surface under the same planes.

    depth: (H, W) of the whole surface, 0 where nothing is hit; differs: (H, W) bool; n_missing: hit in the whole
    surface alone, n_extra in the section alone; fraction: pixels that differ / pixels hit in either.
    """

    camera: Camera
    depth: Float[np.ndarray, "H W"]
    differs: Bool[np.ndarray, "H W"]
    n_missing: int
    n_extra: int
    fraction: float
    iteration: int

    @property
    def n_differs(self) -> int:
        return int(self.differs.sum())


class SectionWork:
    """Sections and their rims; remembers the last mesh, which both need. Belongs to the worker's thread."""

    def __init__(self) -> None:
        self._token: tuple = ()
        self._made: tuple[torch.Tensor, int, Mesh | None] | None = None

    def section(self, parameters: Parameters, camera: Camera, rings: int, with_mesh: bool) -> Section:
        """rings: voxels of halo around the active ones."""
        in_section, n_active, mesh = self._make(parameters, camera, rings, with_mesh)
        found = None if mesh is None or not with_mesh else arrays_of(mesh)
        return Section(camera, in_section.numpy(), n_active, int(in_section.sum()), found, parameters.iteration)

    def rim(self, parameters: Parameters, camera: Camera, rings: int) -> Rim:
        mesh = self._make(parameters, camera, rings, with_mesh=True)[2]
        small = looked_at(camera)
        whole, section = render(parameters.whole(), small), render(mesh, small)
        report = rim_report(whole, section)
        return Rim(camera, whole.depth.numpy(), report.differs.numpy(), int(report.missing.sum()),
                   int(report.extra.sum()), report.fraction, parameters.iteration)

    def _make(self, parameters: Parameters, camera: Camera, rings: int, with_mesh: bool) -> Any:
        token = (parameters.token, camera, rings)
        if self._made is None or not same_token(token, self._token):
            active = active_voxels(parameters.voxels, camera)
            self._made = add_halo(parameters.voxels, active, rings), int(active.sum()), None
            self._token = token
        in_section, n_active, mesh = self._made
        if with_mesh and mesh is None:
            mesh = parameters.mesh(in_section)
            self._made = in_section, n_active, mesh
        return self._made


def looked_at(camera: Camera) -> Camera:
    """The camera with an image of at most MAX_PIXELS."""
    divisor = 1
    while camera.width * camera.height > MAX_PIXELS * divisor**2:
        divisor += 1
    return camera.with_size(max(camera.width // divisor, 1), max(camera.height // divisor, 1))


def render(mesh: Mesh, camera: Camera) -> Maps:
    """Maps without autograd; a face with a vertex that isn't finite is nowhere to be seen."""
    finite = torch.isfinite(mesh.vertices).all(dim=1)
    if not bool(finite.all()):
        # without area, yet in its row: triangle_id means rows
        faces = torch.where(finite[mesh.faces].all(dim=1, keepdim=True), mesh.faces, 0)
        mesh = Mesh(torch.nan_to_num(mesh.vertices, 0.0, 0.0, 0.0), faces)
    with torch.no_grad():
        return render_maps(mesh, camera, backend="torch")


def mesh_of(arrays: MeshArrays) -> Mesh:
    """Copies: torch takes no read-only arrays."""
    return Mesh(torch.tensor(arrays.vertices), torch.tensor(arrays.faces, dtype=torch.int64))


def arrays_of(mesh: Mesh) -> MeshArrays:
    vertices, faces = mesh.vertices.float().numpy(), mesh.faces.to(torch.int32).numpy()
    vertices.flags.writeable = faces.flags.writeable = False
    return MeshArrays(vertices, faces)
