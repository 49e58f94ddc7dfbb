"""How good a mesh is: the numbers of one row, beside those of what is known without a fit or a network."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.extraction import extract_mesh
from sparseflex.mesh import Mesh
from sparseflex.metrics import boundary_edges, point_to_triangle_distance, sample_points, view_errors
from sparseflex.render import render_maps
from sparseflex.representation import SparseFlex
from sparseflex.sampling import fixed_views
from sparseflex.signed_distance import signed_distance
from sparseflex.training.run import Run
from sparseflex.voxels import SparseVoxels

N_SAMPLES = 20_000
N_VIEWS = 12
MAX_EXACT_RESOLUTION = 256
"""Beyond that the exact signed distance beside a reconstruction would take longer than the network."""

_SIDES = tuple((axis, side) for axis in range(3) for side in (0, 1))


def exact_sdf_mesh(target: Mesh, resolution: int) -> Mesh:
    """The mesh extracted from the target's exact signed distance at the corners of the voxels that it touches."""
    voxels = SparseVoxels.from_mesh(target, resolution, 0.0)
    return extract_mesh(SparseFlex.from_sdf(voxels, signed_distance(target, voxels.corners_world)))


def voxel_hull(voxels: SparseVoxels) -> Mesh:
    """The faces of the voxels that no other voxel of the set shares, wound outwards."""
    faces = []
    for axis, side in _SIDES:
        step = torch.zeros(3, dtype=torch.int32, device=voxels.device)
        step[axis] = 2 * side - 1
        bare = voxels.find(voxels.voxel_ijk + step) < 0
        # corner slots of that side, x fastest: its lowest one, and one and two steps along the other two axes
        low, u, v = side << axis, 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        around = (low, low + u, low + u + v, low + v) if side else (low, low + v, low + u + v, low + u)
        quads = voxels.voxel_corners[bare].long()[:, list(around)]
        faces += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
    return Mesh(voxels.corners_world, torch.cat(faces))


def finite_part(mesh: Mesh) -> Mesh:
    """The faces whose vertices are all finite: what NaN has spoiled is a hole. The mesh itself where all are."""
    finite = mesh.vertices.isfinite().all(dim=1)
    if bool(finite.all()):
        return mesh
    return Mesh(mesh.vertices.nan_to_num(0.0, 0.0, 0.0), mesh.faces[finite[mesh.faces].all(dim=1)])


def surface_quality(mesh: Mesh, target: Mesh, resolution: int, seed: int = 0) -> dict[str, float]:
    """The numbers of one row; lengths in world units (the target's longest side is 1), CD in voxel widths too.

    chamfer: point to triangle, mean of both ways. f_score_*: at that distance, from samples to triangles, so that the
    spacing of the samples plays no part. holes, normals and depth_off: from views around the target that no schedule
    meets; depth_off counts pixels off by over a voxel. Faces that aren't finite count as missing.
    """
    mesh = finite_part(mesh)
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = (sample_points(part, N_SAMPLES, generator).points for part in (mesh, target))
    to_target, to_mesh = point_to_triangle_distance(ours, target), point_to_triangle_distance(theirs, mesh)
    # a mesh without area has no samples, and its target is infinitely far
    chamfer = (float(to_target.mean()) + float(to_mesh.mean())) / 2 if len(to_target) else math.inf
    seen = view_errors(mesh, target, fixed_views(N_VIEWS, target), depth_tolerance=1 / resolution)
    return {
        "chamfer": chamfer,
        "chamfer_voxels": chamfer * resolution,
        "f_score_0.005": _f_score(to_target, to_mesh, 0.005),
        "f_score_0.01": _f_score(to_target, to_mesh, 0.01),
        "holes_percent": seen.holes_percent,
        "normal_degrees": seen.normal_degrees,
        "depth_off_percent": seen.depth_off_percent,
        "boundary_edges": float(boundary_edges(mesh)),
        "faces": float(mesh.n_faces),
    }


def _f_score(to_target: Float[Tensor, "n"], to_mesh: Float[Tensor, "m"], threshold: float) -> float:
    """Harmonic mean of the shares of both sets that are nearer than threshold; 0 where one is empty."""
    if not len(to_target) or not len(to_mesh):
        return 0.0
    shares = [float((distance < threshold).double().mean()) for distance in (to_target, to_mesh)]
    return 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0


def quality_rows(run: Run, mesh: Mesh, target: Mesh) -> dict[str, dict[str, float]]:
    """Rows of surface_quality. `fitted`, and for a fit `untrained` (its first parameters) and `exact_sdf`; for an
    inference `reconstructed`, `input_voxels` (the outsides of the voxels that the network is given: what is known
    without it) and, up to MAX_EXACT_RESOLUTION, `exact_sdf`."""
    from sparseflex.training.fit import FitRun
    from sparseflex.training.reconstruct import ReconstructRun

    voxels = run.read_field("voxels") if "voxels" in run.fields else None
    resolution = voxels.resolution if voxels is not None else 64
    meshes = {"fitted" if run.iteration else "untrained": mesh}
    if isinstance(run, ReconstructRun):
        given = run.read_field("voxels/voxels")
        meshes = {"reconstructed": mesh, **({} if given is None else {"input_voxels": voxel_hull(given)})}
    if isinstance(run, FitRun) and run.iteration:
        meshes["untrained"] = FitRun(target, run.config, target.vertices.device).extract()
    if isinstance(run, FitRun) or isinstance(run, ReconstructRun) and resolution <= MAX_EXACT_RESOLUTION:
        meshes["exact_sdf"] = exact_sdf_mesh(target, resolution)
    return {name: surface_quality(rows, target, resolution) for name, rows in meshes.items()}


def covered_points(mesh: Mesh, points: Float[Tensor, "P 3"], resolution: int) -> dict[str, float]:
    """How far points lie from a surface, where there is no mesh to compare with: at most N_SAMPLES of them, evenly."""
    chosen = points[:: max(len(points) // N_SAMPLES, 1)]
    distance = point_to_triangle_distance(chosen, mesh)
    return {
        "points_to_surface": float(distance.mean()),
        "points_to_surface_voxels": float(distance.mean()) * resolution,
        "points_within_voxel_percent": 100 * float((distance < 1 / resolution).double().mean()),
    }


def hidden_samples(mesh: Mesh, tolerance: float, n_views: int = 48, seed: int = 0) -> Float[Tensor, "P 3"]:
    """Surface samples that no view from around sees: the interior. tolerance: depth in world units."""
    points = sample_points(mesh, N_SAMPLES, torch.Generator().manual_seed(seed)).points
    hidden = torch.ones(len(points), dtype=torch.bool, device=points.device)
    for camera in fixed_views(n_views, mesh if mesh.n_vertices else None):
        maps = render_maps(mesh, camera)
        x, y, z = camera.to_camera_space(points).unbind(1)
        column = (x / -z * camera.focal_pixels + camera.width / 2).long().clamp(0, camera.width - 1)
        row = (camera.height / 2 - y / -z * camera.focal_pixels).long().clamp(0, camera.height - 1)
        hidden &= -z > maps.depth[row, column] + tolerance
    return points[hidden]


def interior_f_score(mesh: Mesh, target: Mesh, threshold: float, resolution: int) -> float:
    """F-score of what can't be seen from outside: hidden samples of each against the other's surface.

    A sample counts as hidden where every one of 48 views around sees something more than a voxel in front of it.
    NaN where the target hides nothing.
    """
    mesh = finite_part(mesh)
    ours, theirs = (hidden_samples(part, 1 / resolution) for part in (mesh, target))
    if not len(theirs):
        return math.nan
    to_target = point_to_triangle_distance(ours, target)
    return _f_score(to_target, point_to_triangle_distance(theirs, mesh), threshold)
