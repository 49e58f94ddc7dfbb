"""Exact signed distance to a mesh: the nearest point, signed by the angle-weighted normal of the feature it lies on."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparseflex.mesh import Mesh
from sparseflex.triangle_distance import point_to_triangle_distance, squared_distance

# lattice points on the triangles that a tree holds, to find the triangle that is as near as the distance says
_POINTS_WANTED = 60_000
_MOST_ALONG_AN_EDGE = 24
_FIRST_NEIGHBOURS = 8
_PAIRS_AT_ONCE = 1_000_000
# barycentric weights below this count as 0: the nearest point lies on the opposite edge
_ON_EDGE = 1e-9


def signed_distance(mesh: Mesh, points_world: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Distance of each point to the surface, negative inside, in the points' own dtype and device; computed in float64.

    The sign is that of the offset from the nearest point along the angle-weighted normal of the feature it lies on, be
    it face, edge or vertex (Bærentzen and Aanæs 2005): right everywhere for closed meshes, and beside the interior of
    open ones. Faces are outside where their winding says so. A mesh without faces gives inf.
    """
    return signed_distance_and_gradient(mesh, points_world)[0]


def signed_distance_and_gradient(
    mesh: Mesh, points_world: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
    """signed_distance and its gradient at each point, of length 1.

    The gradient points away from the nearest point outside, towards it inside; on the surface it is the normal of the
    feature. A mesh without faces gives inf and zeros.
    """
    queries = points_world.detach().to("cpu", torch.float64)
    vertices, faces = mesh.vertices.detach().to("cpu", torch.float64), mesh.faces.cpu()
    if len(queries) == 0 or len(faces) == 0:
        return torch.full_like(points_world[:, 0], torch.inf).detach(), torch.zeros_like(points_world).detach()
    distance = point_to_triangle_distance(queries, Mesh(vertices, faces))
    nearest = _triangle_at(queries, distance, vertices[faces])
    foot, weights = _nearest_point(queries, vertices[faces[nearest]])
    normal = _feature_normals(vertices, faces, nearest, weights)
    offset = queries - foot
    inside = (offset * normal).sum(1) < 0
    signed = torch.where(inside, -distance, distance)
    # so near the surface the offset is rounding
    on_surface = distance <= 1e-12 * float(vertices.abs().amax().clamp(min=1e-300))
    away = torch.where(on_surface[:, None], normal, torch.where(inside[:, None], -offset, offset))
    gradient = away / away.norm(dim=1, keepdim=True).clamp(min=1e-300)
    return signed.to(points_world), gradient.to(points_world)


def _triangle_at(
    queries: Float[Tensor, "n 3"], distance: Float[Tensor, "n"], triangles: Float[Tensor, "F 3 3"]
) -> Int[Tensor, "n"]:
    """A triangle as near to each query as distance says. Candidates are those of the nearest lattice points."""
    from scipy.spatial import cKDTree

    lattice, face = _lattice(triangles)
    tree = cKDTree(lattice.numpy())
    # what rounding may add to a distance, with room: no other triangle that near could change the answer
    limit = (distance * (1 + 1e-9) + 1e-14 * float(triangles.abs().amax())) ** 2
    found = torch.zeros(len(queries), dtype=torch.int64)
    rows, neighbours, seen = torch.arange(len(queries)), min(_FIRST_NEIGHBOURS, len(lattice)), 0
    while len(rows):
        left = []
        for part in rows.split(max(_PAIRS_AT_ONCE // (neighbours - seen), 1)):
            _, near = tree.query(queries[part].numpy(), k=range(seen + 1, neighbours + 1))
            candidates = face[torch.from_numpy(near)]
            corners = triangles[candidates.reshape(-1)]
            point = queries[part].repeat_interleave(candidates.shape[1], dim=0)
            squared = squared_distance(point, *corners.unbind(dim=1)).reshape(candidates.shape)
            best = squared.min(dim=1)
            # the last round holds every triangle
            good = (best.values <= limit[part]) | (neighbours == len(lattice))
            found[part[good]] = candidates.gather(1, best.indices[:, None])[good, 0]
            left.append(part[~good])
        rows, seen, neighbours = torch.cat(left), neighbours, min(4 * neighbours, len(lattice))
    return found


def _lattice(triangles: Float[Tensor, "F 3 3"]) -> tuple[Float[Tensor, "m 3"], Int[Tensor, "m"]]:
    """Points on the triangles, more on larger ones, and the triangle of each; every triangle has at least one."""
    edges = (triangles.roll(-1, dims=1) - triangles).norm(dim=2).amax(dim=1)
    spacing = max(float(edges.median()), float((edges.square().sum() / _POINTS_WANTED) ** 0.5), 1e-300)
    steps = (edges / spacing).ceil().clamp(1, _MOST_ALONG_AN_EDGE).long()
    points, faces = [], []
    for n in steps.unique().tolist():
        face = (steps == n).nonzero()[:, 0]
        i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
        inside = i + j < n
        weights = torch.stack([i[inside], j[inside], n - 1 - i[inside] - j[inside]], dim=1).double() + 1 / 3
        points.append(torch.einsum("kc,fcd->fkd", weights / n, triangles[face]).reshape(-1, 3))
        faces.append(face.repeat_interleave(len(weights)))
    return torch.cat(points), torch.cat(faces)


def _nearest_point(
    point: Float[Tensor, "n 3"], triangle: Float[Tensor, "n 3 3"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """The point of each triangle nearest to each point, and its barycentric weights, 0 where it is on an edge."""
    a, b, c = triangle.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    area = (normal * normal).sum(1, keepdim=True).clamp(min=1e-300)
    sub = torch.stack([torch.linalg.cross(end - start, point - start) for start, end in ((b, c), (c, a), (a, b))], 1)
    inner = (sub * normal[:, None]).sum(2) / area
    options = [torch.where((inner >= 0).all(1, keepdim=True), inner, torch.nan)]
    for k in range(3):  # the edges, from corner k to the next one
        start, along = triangle[:, k], triangle[:, (k + 1) % 3] - triangle[:, k]
        share = ((point - start) * along).sum(1) / (along * along).sum(1).clamp(min=1e-300)
        share = share.clamp(0, 1)
        weights = torch.zeros_like(inner)
        weights[:, k], weights[:, (k + 1) % 3] = 1 - share, share
        options.append(weights)
    weights = torch.stack(options, dim=1)
    feet = torch.einsum("nkc,ncd->nkd", weights, triangle)
    squared = (feet - point[:, None]).square().sum(2).nan_to_num(nan=torch.inf)
    best = squared.argmin(dim=1)
    row = torch.arange(len(point))
    return feet[row, best], weights[row, best]


def _feature_normals(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], nearest: Int[Tensor, "n"], weights: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 3"]:
    """The normal of the face, of the edge (sum over its faces) or of the vertex (sum by angle) the weights point at."""
    corners = vertices[faces]
    face_normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    face_normal = face_normal / face_normal.norm(dim=1, keepdim=True).clamp(min=1e-300)
    vertex_normal = torch.zeros_like(vertices)
    for k in range(3):
        one, two = (corners[:, (k + step) % 3] - corners[:, k] for step in (1, 2))
        angle = torch.atan2(torch.linalg.cross(one, two).norm(dim=1), (one * two).sum(1))
        vertex_normal.index_add_(0, faces[:, k], face_normal * angle[:, None])
    ends = torch.stack([faces, faces.roll(-1, dims=1)], dim=2)  # edge k runs from corner k to the next one
    keys = (ends.amin(2) * len(vertices) + ends.amax(2)).reshape(-1)
    edge = torch.unique(keys, return_inverse=True)[1]
    edge_normal = torch.zeros(int(edge.max()) + 1, 3, dtype=vertices.dtype)
    edge_normal.index_add_(0, edge, face_normal.repeat_interleave(3, dim=0))
    gone = weights < _ON_EDGE
    n_gone = gone.sum(1)
    opposite = gone.int().argmax(1)  # the corner without weight faces the edge that starts at the next corner
    on_edge = edge_normal[edge.reshape(-1, 3)[nearest, (opposite + 1) % 3]]
    at_vertex = vertex_normal[faces[nearest, weights.argmax(1)]]
    normal = torch.where((n_gone == 1)[:, None], on_edge, face_normal[nearest])
    return torch.where((n_gone >= 2)[:, None], at_vertex, normal)
