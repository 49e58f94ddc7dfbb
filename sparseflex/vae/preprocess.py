"""What the VAE takes: points sampled from a mesh, and the voxels in or next to them (method.md, section 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.memory import VOXELS_PER_AREA, available_bytes, in_words, surface_area
from sparseflex.mesh import Mesh
from sparseflex.point_clouds import unit_normals
from sparseflex.voxelize import touched_voxels
from sparseflex.voxels import MAX_RESOLUTION, SparseVoxels, lattice_keys

UPSAMPLING = 4
"""The output grid is so many times as fine as the input's."""

_INSIDE = 0.499999  # triangles are moved so far into the box, as the release has it
_BYTES_PER_VOXEL = 150  # of the triangle test: candidates, found rows, keys


def check_resolution(resolution: int) -> None:
    """ValueError where the voxels of the output, four times as fine, would have no keys."""
    if not isinstance(resolution, int) or not 1 <= resolution <= MAX_RESOLUTION // UPSAMPLING:
        raise ValueError(f"resolution must be a whole number in [1, {MAX_RESOLUTION // UPSAMPLING}] (the output is "
                         f"{UPSAMPLING} times as fine, and its voxels' keys must fit 64 bits), got {resolution}")


def check_points(
    points: Float[Tensor, "P 3"], normals: Float[Tensor, "P 3"], resolution: int
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """The points and their normals, brought to unit length, in float32, where the VAE can take them.

    points: in the normalised frame, inside the closed box [-0.5, 0.5]³. Raises ValueError for no points, wrong shapes,
    NaN, points outside, normals that are zero or not finite, and a resolution whose voxels have no keys.
    """
    check_resolution(resolution)
    for name, value in (("points", points), ("normals", normals)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a floating (P, 3) tensor, got {type(value).__name__}")
        if value.ndim != 2 or value.shape[1] != 3 or not value.is_floating_point():
            raise ValueError(f"{name} must be a floating (P, 3) tensor, got {tuple(value.shape)} {value.dtype}")
    if points.shape != normals.shape:
        raise ValueError(f"normals must have a row for each of the {len(points)} points, got {len(normals)}")
    if len(points) == 0:
        raise ValueError("points must be at least 1, got 0")
    _check_places(points)
    return points.float(), unit_normals(normals).float()


def _check_places(points: Float[Tensor, "P 3"]) -> None:
    bad = ~torch.isfinite(points).all(dim=1)
    if bool(bad.any()):
        raise ValueError(f"points must be finite, got {int(bad.sum())} of {len(points)} that are NaN or infinite, "
                         f"the first in row {int(bad.nonzero()[0])} (counted from 0)")
    outside = (points.abs() > 0.5).any(dim=1)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(f"points must lie in [-0.5, 0.5]^3, got {int(outside.sum())} of {len(points)} outside, the "
                         f"first in row {row}: {points[row].tolist()} (counted from 0); normalise them first")


def input_voxels(points_world: Float[Tensor, "P 3"], resolution: int, mesh: Mesh | None = None) -> SparseVoxels:
    """The voxels of the input, sorted: those that hold a point or one moved by {-1, 0, 1}³/(4R − 1), and those that a
    triangle of the mesh touches, where one is given (a closed box; the mesh is first clamped to ±0.499999).

    Points lie in the closed box [-0.5, 0.5]³; where a moved one leaves it, its voxel is the one at the border. Raises
    ValueError for others and for a resolution whose voxels have no keys. No points and no triangles give no voxels.
    """
    check_resolution(resolution)
    _check_places(points_world)
    keys = _keys_near(points_world, resolution)
    if mesh is not None and mesh.n_faces:
        keys = torch.unique(torch.cat([keys, _keys_touched(mesh, resolution).to(keys)]))
    return SparseVoxels.from_keys(keys, resolution)


def _keys_near(points_world: Float[Tensor, "P 3"], resolution: int) -> Tensor:
    """Sorted keys of the voxels of all 27 places of each point.

    Moved both ways a point goes half a voxel, so along an axis it sees its lowest cell and maybe the one after it: the
    lowest cell and three bits tell its voxels, and most points share these with others.
    """
    offset = 1 / (UPSAMPLING * resolution - 1)
    scaled = points_world.detach().double() + 0.5
    low, high = (((scaled + step) * resolution).floor_().clamp_(0, resolution - 1).long() for step in (-offset, offset))
    i, j, k = low.unbind(1)
    bits = ((high - low) << torch.arange(3, device=low.device)).sum(dim=1)
    packed = torch.unique((((i * resolution + j) * resolution + k) << 3) | bits)
    base, bits = packed >> 3, packed & 7
    steps = (resolution * resolution, resolution, 1)
    found = [torch.zeros(0, dtype=torch.int64, device=low.device)]
    for corner in range(8):
        moved = base + sum(step for axis, step in enumerate(steps) if corner >> axis & 1)
        found.append(moved[(bits & corner) == corner])
    small = lattice_keys(torch.zeros(0, 3, device=low.device, dtype=torch.int64), resolution).dtype
    return torch.unique(torch.cat(found)).to(small)


def _keys_touched(mesh: Mesh, resolution: int) -> Tensor:
    """Keys of the voxels that triangles touch, rows may repeat."""
    if not bool(torch.isfinite(mesh.vertices).all()):
        raise ValueError("vertices must be finite, got NaN or infinity among them")
    wanted = VOXELS_PER_AREA * surface_area(mesh) * resolution**2 * _BYTES_PER_VOXEL
    there = available_bytes(mesh.vertices.device)
    if wanted > there:
        raise ValueError(f"resolution {resolution} would take about {in_words(wanted)} of memory for the voxels of "
                         f"this mesh, and {in_words(there)} are available")
    vertices = into_box(mesh.detach().to(dtype=torch.float64)).vertices
    return lattice_keys(touched_voxels(vertices, mesh.faces, resolution, 0.0), resolution)


def into_box(mesh: Mesh) -> Mesh:
    """The mesh with its vertices clamped to ±0.499999, as the release has it before it finds voxels and samples."""
    return Mesh(mesh.vertices.clamp(-_INSIDE, _INSIDE), mesh.faces, mesh.l_dev)


def sample_points(
    mesh: Mesh, n_points: int, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """Points spread evenly over the area of the triangles, with the triangles' unit normals; float32.

    The release samples into_box(mesh). Raises ValueError where there is no area to spread them over.
    """
    device = mesh.vertices.device if generator is None else generator.device
    draws = [torch.rand(shape, generator=generator, dtype=torch.float64, device=device).to(mesh.vertices.device)
             for shape in ((n_points,), (n_points, 2))]
    return points_of_draws(mesh, *draws)


def points_of_draws(
    mesh: Mesh, face_draws: Float[Tensor, "P"], side_draws: Float[Tensor, "P 2"]
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """The points that numbers in [0, 1) stand for, and their normals; float32.

    A face draw is a share of the cumulative area, the side draws (s, t) go along the triangle's sides from its first
    corner, and 1 − s, 1 − t where they would lead out of it: as the release samples, so that its draws give its points.
    """
    corners = mesh.vertices.detach().double()[mesh.faces]
    sides = corners[:, 1:] - corners[:, :1]
    normals = torch.linalg.cross(sides[:, 0], sides[:, 1])
    double_areas = normals.norm(dim=1)
    ends = double_areas.cumsum(0)
    total = float(ends[-1]) if len(ends) else 0.0
    if len(face_draws) and not 0 < total < float("inf"):
        raise ValueError(f"mesh must have triangles with area to sample points from, got {mesh.n_faces} triangles of "
                         f"total area {total / 2:g}")
    # from the right: a triangle without area is never chosen, and the last one with area takes what rounding leaves
    last = torch.searchsorted(ends, ends[-1:]) if len(ends) else ends.long()
    face = torch.minimum(torch.searchsorted(ends, face_draws.double() * total, right=True), last)
    share = side_draws.double()
    share = torch.where(share.sum(dim=1, keepdim=True) > 1, 1 - share, share)
    points = corners[face, 0] + (share[:, :, None] * sides[face]).sum(dim=1)
    return points.float(), (normals[face] / double_areas[face, None]).float()
