"""The procedural shapes: closed where they should be, wound outwards, deterministic, of the topology they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparseflex.data import normalize, winding_report
from sparseflex.shapes import SHAPES, make_shape, solids

OPEN_EDGES = {"cloth": 270, "lantern": 576}  # the hem; both rims of the shade
# Euler characteristic: twice the pieces less twice the handles, less one for each open rim
EULER = {"high_genus": 2 - 2 * 31, "cloth": 1, "nested_shells": 2 * 5, "lantern": (2 - 2 * 13) + 0 + 2,
         "thin_sheets": 2 * 6}


def volume(mesh) -> float:
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("name", SHAPES)
def test_wound_consistently_and_closed_where_it_should_be(name):
    mesh = make_shape(name)
    report = winding_report(mesh)
    assert (report.n_inconsistent, report.n_non_manifold, report.n_boundary) == (0, 0, OPEN_EDGES.get(name, 0))
    assert 5_000 <= mesh.n_faces <= 60_000
    assert name not in EULER or mesh.n_vertices - report.n_edges + mesh.n_faces == EULER[name]


@pytest.mark.parametrize("name", SHAPES)
def test_no_triangle_is_degenerate_and_no_vertex_stray(name):
    mesh = make_shape(name)
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    double_area = torch.linalg.cross(b - a, c - a).norm(dim=1)
    longest = torch.stack([(b - a), (c - b), (a - c)]).norm(dim=-1).amax(0)
    assert float((double_area / longest**2).min()) > 1e-2
    assert len(torch.unique(mesh.faces)) == mesh.n_vertices
    assert len(torch.unique(mesh.vertices, dim=0)) == mesh.n_vertices


@pytest.mark.parametrize("name", SHAPES)
def test_faces_look_outwards(name):
    assert volume(make_shape(name)) > 0.05


def test_the_inner_walls_of_shells_look_into_the_hollow():
    vertices, faces = make_shape("nested_shells").vertices.double(), make_shape("nested_shells").faces
    centres = vertices[faces].mean(1)
    a, b, c = vertices[faces].unbind(1)
    normals = torch.linalg.cross(b - a, c - a)
    outwards = (centres * normals).sum(1) > 0
    radius = centres.norm(dim=1)
    assert bool(outwards[radius > 0.48].all()) and not bool(outwards[(radius > 0.42) & (radius < 0.46)].any())


def test_the_house_has_a_way_into_every_room():
    """From the garden one walks through doors into each of the three rooms, and walls are in the way elsewhere."""
    from sparseflex.shapes.house import CORE_X, HALF_X, HALF_Z, HouseParameters, _openings, _walls

    w = HouseParameters().wall
    cells = np.stack(np.meshgrid(np.arange(-60, 61), np.arange(-60, 61), indexing="ij"), -1) / 100 + 0.003
    free = np.ones(cells.shape[:2], bool)
    y = 0.1  # at the height of a knee, below the sills
    for boxes, value in ((_walls(w, 0.4), False), (_openings(w), True)):
        for x0, x1, y0, y1, z0, z1 in boxes:
            if y0 < y < y1:
                inside = (cells[..., 0] > x0) & (cells[..., 0] < x1) & (cells[..., 1] > z0) & (cells[..., 1] < z1)
                free[inside] = value
    reached = np.zeros_like(free)
    reached[0, 0] = True
    for _ in range(500):
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        reached = grown & free
    rooms = [(-0.2, 0.0), ((CORE_X + HALF_X) / 2, 0.2), ((CORE_X + HALF_X) / 2, -0.2)]
    for x, z in rooms:
        assert reached[int(np.argmin(abs(cells[:, 0, 0] - x))), int(np.argmin(abs(cells[0, :, 1] - z)))]
    assert not free[int(np.argmin(abs(cells[:, 0, 0] - (HALF_X - w / 2)))), 60] and HALF_Z < 0.5


@pytest.mark.parametrize("name", SHAPES)
def test_deterministic_and_normalisable(name):
    one, two = make_shape(name), make_shape(name)
    assert torch.equal(one.vertices, two.vertices) and torch.equal(one.faces, two.faces)
    mesh, _ = normalize(one.vertices.numpy(), one.faces.numpy())
    assert float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max()) == 1.0


@pytest.mark.parametrize(("name", "parameters"), [
    ("house", {"wall": 0.02, "furniture": False}), ("house", {"wall": 0.06, "pitch": 1.2}), ("cloth", {"folds": 3}),
    ("lantern", {"pleats": 0}), ("nested_shells", {"shells": 4}), ("thin_sheets", {"sheets": 2}),
    ("high_genus", {"opening": 0.3}),
])
def test_parameters_change_the_shape_and_keep_it_sound(name, parameters):
    mesh = make_shape(name, **parameters)
    report = winding_report(mesh)
    assert (report.n_inconsistent, report.n_non_manifold) == (0, 0)
    assert mesh.n_vertices != make_shape(name).n_vertices or not torch.equal(mesh.vertices, make_shape(name).vertices)


def test_unknown_shapes_and_parameters_say_what_is_allowed():
    with pytest.raises(ValueError, match="shape must be one of high_genus, cloth, .* got 'barn'"):
        make_shape("barn")
    with pytest.raises(ValueError, match="shape house: unknown key 'walls'; allowed are furniture, pitch, wall"):
        make_shape("house", walls=0.1)
    with pytest.raises(ValueError, match=r"shape house: wall must be in \[0.02, 0.06\], got 1"):
        make_shape("house", wall=1)


def test_subdivision_keeps_a_closed_quad_mesh_closed():
    vertices, quads = solids.frame(*solids.icosidodecahedron(), 0.6, 0.2)
    for _ in range(2):
        vertices, quads = solids.catmull_clark(vertices, quads)
    pairs = np.sort(np.stack([quads, np.roll(quads, -1, 1)], -1).reshape(-1, 2), axis=1)
    _, counts = np.unique(pairs, axis=0, return_counts=True)
    assert set(counts.tolist()) == {2}


def test_subdivision_of_a_cube_is_known():
    """Catmull and Clark's rules on a cube of side 2: corners go to 5/9, edges to 3/4, face centres stay."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    faces = [face for face in solids.convex_faces(signs, np.concatenate([np.eye(3), -np.eye(3)]))]
    vertices, quads = solids.catmull_clark(signs, np.stack(faces))
    assert np.allclose(vertices[:8], signs * 5 / 9)
    assert np.allclose(np.sort(np.abs(vertices[8:20]), axis=1), [0, 0.75, 0.75])
    assert np.allclose(np.sort(np.abs(vertices[20:]), axis=1), [0, 0, 1]) and len(quads) == 24
