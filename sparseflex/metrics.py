"""Metrics: how far two surfaces are apart, and what unseen views show of it. Computed on the CPU in float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.triangle_distance import point_to_triangle_distance

__all__ = [
    "NormalConsistency",
    "SurfaceSamples",
    "ViewErrors",
    "boundary_edges",
    "chamfer_distance",
    "f_score",
    "face_normals",
    "nearest_points",
    "normal_consistency",
    "point_to_triangle_chamfer",
    "point_to_triangle_distance",
    "sample_points",
    "view_errors",
]


@dataclasses.dataclass(frozen=True, eq=False)
class SurfaceSamples:
    """Points on a mesh and the face that each lies on: points (n, 3) in the mesh's dtype, face (n,) int64."""

    points: Float[Tensor, "n 3"]
    face: Int[Tensor, "n"]


@dataclasses.dataclass(frozen=True)
class NormalConsistency:
    """Angle between the normals of nearest surface samples, both ways: its mean in degrees, the mean cosine, and the
    mean of |cosine|, which doesn't mind orientation. NaN where a mesh is empty."""

    degrees: float
    cosine: float
    abs_cosine: float


@dataclasses.dataclass(frozen=True)
class ViewErrors:
    """What views show of a mesh against its target; NaN where a share has nothing to refer to.

    holes_percent: pixels that hit the target but not the mesh, of those that hit the target. extra_percent: pixels
    that hit the mesh only, of the same. normal_degrees: mean angle over the pixels hit in both. depth_off_percent:
    pixels whose depth is off by more than depth_tolerance, of those hit in both.
    """

    holes_percent: float
    extra_percent: float
    normal_degrees: float
    depth_off_percent: float


def _area_vectors(mesh: Mesh) -> Float[Tensor, "F 3"]:
    """Normals by winding, as long as twice the face's area; float64."""
    corners = mesh.vertices.detach().double()[mesh.faces]
    return torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def face_normals(mesh: Mesh) -> Float[Tensor, "F 3"]:
    """Unit normals by winding, float64; 0 for faces without area."""
    vectors = _area_vectors(mesh)
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-300)


def sample_points(mesh: Mesh, n: int, generator: torch.Generator | None = None) -> SurfaceSamples:
    """n points, uniform by area. A mesh without area (no faces, too) gives none."""
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    areas = _area_vectors(mesh).norm(dim=1).cpu()
    total = areas.cumsum(0)
    device = mesh.vertices.device
    if areas.shape[0] == 0 or not float(total[-1]) > 0:
        return SurfaceSamples(mesh.vertices.new_zeros(0, 3), torch.zeros(0, dtype=torch.int64, device=device))
    draws = torch.rand(3, n, dtype=torch.float64, generator=generator)
    # right: a face without area has an empty interval, so it can't be drawn
    face = torch.searchsorted(total, draws[0] * total[-1], right=True).clamp_(max=int(areas.nonzero()[-1]))
    root = draws[1].sqrt()
    weights = torch.stack([1 - root, root * (1 - draws[2]), root * draws[2]], dim=1).to(device)
    face = face.to(device)
    corners = mesh.vertices.detach().double()[mesh.faces[face]]
    return SurfaceSamples((weights[:, :, None] * corners).sum(dim=1).to(mesh.vertices.dtype), face)


def nearest_points(
    points: Float[Tensor, "P 3"], others: Float[Tensor, "Q 3"]
) -> tuple[Float[Tensor, "P"], Int[Tensor, "P"]]:
    """Distance to the nearest of others, and its row: inf and −1 where there are none."""
    from scipy.spatial import cKDTree

    if others.shape[0] == 0 or points.shape[0] == 0:
        n = points.shape[0]
        return torch.full((n,), torch.inf, dtype=torch.float64), torch.full((n,), -1, dtype=torch.int64)
    tree = cKDTree(others.detach().cpu().double().numpy())
    distance, row = tree.query(points.detach().cpu().double().numpy())
    return torch.from_numpy(distance), torch.from_numpy(np.asarray(row, dtype=np.int64))


def _check_points(name: str, points: Tensor) -> None:
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"{name} must have shape (n, 3), got {tuple(points.shape)}")


def _mean_both_ways(a: Tensor, b: Tensor) -> float:
    if a.shape[0] == 0 and b.shape[0] == 0:
        return math.nan
    if a.shape[0] == 0 or b.shape[0] == 0:
        return math.inf
    return (float(a.mean()) + float(b.mean())) / 2


def chamfer_distance(points_a: Float[Tensor, "P 3"], points_b: Float[Tensor, "Q 3"]) -> float:
    """Sampled Chamfer distance: mean distance to the nearest point of the other set, (a → b + b → a) / 2, not squared.

    Its floor is the spacing of the points; point_to_triangle_chamfer has none. inf if one set is empty, NaN if both.
    """
    _check_points("points_a", points_a)
    _check_points("points_b", points_b)
    return _mean_both_ways(nearest_points(points_a, points_b)[0], nearest_points(points_b, points_a)[0])


def f_score(points_a: Float[Tensor, "P 3"], points_b: Float[Tensor, "Q 3"], threshold: float) -> float:
    """Harmonic mean of the shares of a near b and of b near a, near being closer than threshold; in [0, 1].

    0 if one set is empty, NaN if both. Raises ValueError for a threshold that isn't positive.
    """
    _check_points("points_a", points_a)
    _check_points("points_b", points_b)
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, got {threshold}")
    if points_a.shape[0] == 0 or points_b.shape[0] == 0:
        return math.nan if points_a.shape[0] == points_b.shape[0] else 0.0
    precision = float((nearest_points(points_a, points_b)[0] < threshold).double().mean())
    recall = float((nearest_points(points_b, points_a)[0] < threshold).double().mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def point_to_triangle_chamfer(
    mesh_a: Mesh, mesh_b: Mesh, n: int = 50_000, generator: torch.Generator | None = None
) -> float:
    """Chamfer distance of n samples on each mesh to the other's surface: (a → b + b → a) / 2, not squared.

    inf if one mesh has no area, NaN if both.
    """
    a, b = sample_points(mesh_a, n, generator).points, sample_points(mesh_b, n, generator).points
    if a.shape[0] == 0 or b.shape[0] == 0:
        return _mean_both_ways(a, b)
    return _mean_both_ways(point_to_triangle_distance(a, mesh_b), point_to_triangle_distance(b, mesh_a))


def normal_consistency(
    mesh_a: Mesh, mesh_b: Mesh, n: int = 50_000, generator: torch.Generator | None = None
) -> NormalConsistency:
    """Compares the face normals at n samples of each mesh with those at the nearest sample of the other."""
    a, b = sample_points(mesh_a, n, generator), sample_points(mesh_b, n, generator)
    if a.points.shape[0] == 0 or b.points.shape[0] == 0:
        return NormalConsistency(math.nan, math.nan, math.nan)
    normal_a, normal_b = (face_normals(m).cpu()[s.face.cpu()] for m, s in ((mesh_a, a), (mesh_b, b)))
    to_b, to_a = nearest_points(a.points, b.points)[1], nearest_points(b.points, a.points)[1]
    cosine = torch.cat([(normal_a * normal_b[to_b]).sum(dim=1), (normal_b * normal_a[to_a]).sum(dim=1)]).clamp_(-1, 1)
    return NormalConsistency(
        math.degrees(float(cosine.acos().mean())), float(cosine.mean()), float(cosine.abs().mean())
    )


def boundary_edges(mesh: Mesh) -> int:
    """Number of edges that belong to exactly one face."""
    edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    keys = edges.amin(dim=1) * max(mesh.n_vertices, 1) + edges.amax(dim=1)
    return int((torch.unique(keys, return_counts=True)[1] == 1).sum())


def view_errors(mesh: Mesh, target: Mesh, cameras: Sequence[Camera], depth_tolerance: float) -> ViewErrors:
    """Renders mesh and target from every camera and compares them pixel by pixel, all cameras together.

    depth_tolerance is in world units (one voxel is 1 / resolution).
    """
    from sparseflex.render import render_maps

    if not depth_tolerance > 0:
        raise ValueError(f"depth_tolerance must be above 0, got {depth_tolerance}")
    n_target = n_both = n_holes = n_extra = n_off = 0
    degrees = 0.0
    with torch.no_grad():
        for camera in cameras:
            seen, wanted = render_maps(mesh, camera), render_maps(target, camera)
            hit, hit_target = seen.triangle_id >= 0, wanted.triangle_id >= 0
            both = hit & hit_target
            n_target += int(hit_target.sum())
            n_both += int(both.sum())
            n_holes += int((hit_target & ~hit).sum())
            n_extra += int((hit & ~hit_target).sum())
            n_off += int(((seen.depth - wanted.depth).abs()[both] > depth_tolerance).sum())
            # atan2 of sine and cosine: acos would turn rounding into a third of a degree
            a, b = seen.normal[both].double(), wanted.normal[both].double()
            degrees += float(torch.atan2(torch.linalg.cross(a, b).norm(dim=1), (a * b).sum(dim=1)).sum().rad2deg())

    def percent(part: int, whole: int) -> float:
        return 100.0 * part / whole if whole else math.nan

    return ViewErrors(
        percent(n_holes, n_target),
        percent(n_extra, n_target),
        degrees / n_both if n_both else math.nan,
        percent(n_off, n_both),
    )
