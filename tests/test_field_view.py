"""What is shown of a field: quantities against slow twins, what is asked of the run, ranges, error, arrows, planes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_run import icosphere_like

from sparseflex.camera import Camera
from sparseflex.data import signed_distance
from sparseflex.mesh import Mesh
from sparseflex.signed_distance import signed_distance_and_gradient
from sparseflex.voxels import SparseVoxels
from workbench import quantities
from workbench.field_view import MAX_VECTORS
from workbench.quantities import DEFORM, SDF, SDF_ERROR
from workbench.snapshot import MeshArrays, Snapshot
from workbench.surface_view import distances, voxel_of_vertices
from workbench.view_state import ViewState

KINDS = {"voxels": "voxels", SDF: "corner", DEFORM: "corner", "alpha": "voxel", "gamma": "voxel", "mesh": "mesh",
         "target": "mesh", "my_heat": "corner", "rendered_depth": "map"}


def arrays(mesh: Mesh) -> MeshArrays:
    return MeshArrays(mesh.vertices.float().numpy(), mesh.faces.int().numpy())


def shell(resolution: int = 12) -> SparseVoxels:
    return SparseVoxels.from_mesh(icosphere_like(12, 0.35), resolution, 0.3)


def snapshot_of(voxels: SparseVoxels, seed: int = 0, **fields: Any) -> Snapshot:
    rng = np.random.default_rng(seed)
    n, c = voxels.n_voxels, voxels.n_corners
    known = {
        "voxels": voxels, SDF: (voxels.corners_world.norm(dim=1).numpy() - 0.35).astype(np.float32),
        DEFORM: rng.normal(size=(c, 3)).astype(np.float32), "alpha": rng.uniform(0.1, 2, (n, 8)).astype(np.float32),
        "gamma": rng.uniform(size=n).astype(np.float32), "my_heat": rng.uniform(size=c).astype(np.float32),
        "mesh": arrays(icosphere_like(8, 0.34)), "target": arrays(icosphere_like(24, 0.35)),
    }
    return Snapshot(field_kinds=KINDS, fields={**known, **fields})


@pytest.fixture
def view() -> Iterator[ViewState]:
    view = ViewState()
    view.layers.update(dict.fromkeys(view.layers, False))
    yield view
    view.worker.stop()


def show(view: ViewState, snapshot: Snapshot) -> None:
    view.frustum.update(view, snapshot)
    view.field.update(view, snapshot)
    view.surfaces.update(view, snapshot)


# Quantities


def test_voxel_means_and_columns_against_loops() -> None:
    voxels = shell()
    snapshot = snapshot_of(voxels)
    sdf, alpha, deform = (snapshot.fields[name] for name in (SDF, "alpha", DEFORM))
    expected = [np.mean([sdf[corner] for corner in row]) for row in voxels.voxel_corners.tolist()]
    assert quantities.voxel_means(voxels, sdf) == pytest.approx(expected, abs=1e-6)
    assert quantities.one_column("alpha", alpha, "mean") == pytest.approx([row.mean() for row in alpha], abs=1e-6)
    assert quantities.one_column("alpha", alpha, "corner 3").tolist() == alpha[:, 3].tolist()
    moved = 0.5 * np.tanh(deform.astype(np.float64))
    lengths = [np.linalg.norm(row) for row in moved]
    assert quantities.one_column(DEFORM, deform, "length") == pytest.approx(lengths, abs=1e-6)
    assert quantities.one_column(DEFORM, deform, "y") == pytest.approx(moved[:, 1], abs=1e-6)
    assert quantities.one_column("active", np.array([True, False]), "").tolist() == [1.0, 0.0]
    assert quantities.one_column("odd", np.arange(12).reshape(2, 3, 2), "column 4").tolist() == [4.0, 10.0]
    for part in ("mean", "corner 7"):
        assert quantities.one_column("alpha", np.zeros((0, 8), np.float32), part).shape == (0,)
    assert np.isnan(quantities.one_column("odd", np.zeros((3, 0)), "")).tolist() == [True] * 3
    long = np.random.default_rng(8).normal(size=(70_000, 8)).astype(np.float32)  # more than are worked on at a time
    assert quantities.one_column("alpha", long, "mean") == pytest.approx(long.mean(axis=1), abs=1e-5)
    assert quantities.parts_of("x", np.zeros((5, 1))) == [""] and quantities.parts_of("x", np.zeros(5)) == [""]


def test_lengths_are_shown_in_voxel_widths_or_world_units() -> None:
    world = np.array([-0.25, 0.5], np.float32)
    in_voxels = quantities.quantity(SDF, "", world, 8, in_world=False)
    assert in_voxels.values.tolist() == [-2.0, 4.0] and in_voxels.unit == "voxel widths" and in_voxels.signed
    assert quantities.quantity(SDF, "", world, 8, in_world=True).values.tolist() == [-0.25, 0.5]
    widths = np.array([1.0, 2.0], np.float32)
    for name in (DEFORM, SDF_ERROR):
        assert quantities.quantity(name, "", widths, 8, in_world=True).values.tolist() == [0.125, 0.25]
        assert quantities.quantity(name, "", widths, 8, in_world=False).values.tolist() == [1.0, 2.0]
    plain = quantities.quantity("gamma", "", widths, 8, in_world=True)
    assert plain.unit == "" and plain.values.tolist() == [1.0, 2.0] and not plain.signed
    assert quantities.quantity("temperature", "", world, 8, in_world=True).signed  # it goes below zero


def test_what_can_be_shown_follows_from_the_runs_fields() -> None:
    assert quantities.corner_names(KINDS) == [SDF, SDF_ERROR, DEFORM, "my_heat"]
    assert quantities.voxel_names(KINDS) == [SDF, SDF_ERROR, DEFORM, "my_heat", "alpha", "gamma"]
    assert quantities.corner_names({"my_heat": "corner", "target": "mesh"}) == ["my_heat"]
    assert quantities.corner_names({SDF: "corner"}) == [SDF]  # no target: no error
    assert quantities.voxel_names({}) == []


# Asking and caching


def test_fields_are_asked_for_only_while_they_are_shown(view: ViewState) -> None:
    snapshot = Snapshot(field_kinds=KINDS)
    field = view.field
    assert field.scene_fields(view, snapshot) == set()
    view.layers["sdf"] = True
    assert field.scene_fields(view, snapshot) == {SDF}
    field.at_corners = "my_heat"
    assert field.scene_fields(view, snapshot) == {"my_heat"}
    view.layers["slice"] = True
    assert field.scene_fields(view, snapshot) == {"my_heat", SDF}  # the SDF for its zero contour
    field.at_corners, field.contour = SDF_ERROR, False
    assert field.scene_fields(view, snapshot) == {SDF, DEFORM, "target"}
    view.layers.update(sdf=False, slice=False, vectors=True)
    assert field.scene_fields(view, snapshot) == {DEFORM}
    view.layers["vectors"], view.layers["active"], field.voxels_coloured, field.at_voxels = False, True, True, "alpha"
    assert field.scene_fields(view, snapshot) == {"alpha"}
    view.layers["active"] = False
    assert field.scene_fields(view, snapshot) == set()
    view.layers["mesh"], view.mesh_colour = True, "field"
    assert field.scene_fields(view, snapshot) == {"alpha"}
    assert view.scene_fields(snapshot) >= {"alpha", "mesh", "voxels"}
    assert field.scene_fields(view, Snapshot()) <= {""}  # a run without fields


def test_what_did_not_change_stays_the_same_object(view: ViewState) -> None:
    view.layers.update(sdf=True, slice=True, vectors=True, active=True)
    view.field.voxels_coloured = True
    snapshot = snapshot_of(shell())
    field = view.field

    def derived() -> list[Any]:
        return [field.corner, field.voxel, field.slice, field.contour_segments, field.vectors, field.colours("corner"),
                field.colours("voxel"), field.slice_colours()]

    show(view, snapshot)
    before = derived()
    assert all(part is not None for part in before)
    show(view, dataclasses.replace(snapshot, serial=7))
    assert all(a is b for a, b in zip(before, derived(), strict=True))
    field.offset = 0.05
    show(view, snapshot)
    changed = [a is not b for a, b in zip(before, derived(), strict=True)]
    assert changed == [False, False, True, True, True, False, False, True]
    shown = field.slice_colours()
    field.lock(field.corner, field.corner.automatic)
    moved = dataclasses.replace(snapshot, fields={**snapshot.fields, SDF: snapshot.fields[SDF] + 0.02})
    show(view, moved)
    assert field.slice is not None and not np.array_equal(shown, field.slice_colours())
    view.layers.update(sdf=False, slice=False, vectors=False, active=False)
    show(view, snapshot)
    assert field.corner is field.voxel is field.slice is field.vectors is field.slice_colours() is None


def test_fields_that_do_not_fit_are_told_not_drawn(view: ViewState) -> None:
    view.layers.update(sdf=True, slice=True, vectors=True)
    show(view, snapshot_of(shell(), **{SDF: np.zeros(5, np.float32), DEFORM: np.zeros((5, 3), np.float32)}))
    field = view.field
    assert field.corner is None and field.contour_segments is None and field.vectors is None
    assert field.note.startswith("corner_sdf has 5 rows for ") and field.slice is not None
    show(view, Snapshot(field_kinds=KINDS, fields={"voxels": shell()}))
    assert field.corner is None and "Not there yet" in field.note
    show(view, Snapshot(field_kinds=KINDS))
    assert field.slice is None


def test_empty_sets_and_fields_without_a_number(view: ViewState) -> None:
    view.layers.update(dict.fromkeys(view.layers, True))
    view.field.voxels_coloured, view.field.cut, view.mesh_colour = True, True, "distance"
    empty = SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 8)
    for voxels in (empty, shell()):
        c = voxels.n_corners
        fields = {SDF: np.full(c, np.nan, np.float32), DEFORM: np.full((c, 3), np.nan, np.float32)}
        for axis in ("x", "view", "nonsense"):
            view.field.axis = axis
            show(view, snapshot_of(voxels, **fields))
            assert len(view.field.colours("corner")) == c and len(view.field.vectors.starts) == 0
            assert len(view.field.contour_segments) == 0 and view.field.slice_colours().shape[2] == 3
    assert view.field.corner.n_nan == shell().n_corners and view.field.corner.extremes == (0.0, 0.0)
    assert (view.field.colours("corner") == np.array([1, 0, 1], np.float32)).all()


# Ranges


def test_a_range_follows_until_it_is_locked(view: ViewState) -> None:
    view.layers["active"], view.field.voxels_coloured, view.field.at_voxels = True, True, "gamma"
    voxels, field = shell(), view.field
    show(view, snapshot_of(voxels))
    first = field.scale_of(field.voxel)
    assert first.name == "viridis" and 0 < first.low < first.high < 1
    field.lock(field.voxel, (first.low, first.high))
    show(view, snapshot_of(voxels, gamma=np.full(voxels.n_voxels, 9.0, np.float32)))
    assert field.scale_of(field.voxel) == first
    field.lock(field.voxel, (0.0, 20.0))
    assert (field.scale_of(field.voxel).low, field.scale_of(field.voxel).high) == (0.0, 20.0)
    for wrong in ((5.0, 5.0), (3.0, 1.0), (np.nan, 1.0), (0.0, np.inf)):
        field.lock(field.voxel, wrong)
        assert field.locked[field.voxel.key] == (0.0, 20.0)
    field.magnitudes = "cividis"
    assert field.scale_of(field.voxel).name == "cividis"
    field.lock(field.voxel, None)
    assert field.scale_of(field.voxel).low < 9.0 < field.scale_of(field.voxel).high


def test_a_signed_range_stays_about_zero(view: ViewState) -> None:
    view.layers["sdf"] = True
    field = view.field
    show(view, snapshot_of(shell()))
    scale = field.scale_of(field.corner)
    assert scale.name == "diverging" and scale.low == -scale.high
    field.lock(field.corner, (scale.low, scale.high))
    field.lock(field.corner, (-0.5, scale.high))
    assert field.locked[field.corner.key] == (-0.5, 0.5)
    field.lock(field.corner, (-0.5, 3.0))
    assert field.locked[field.corner.key] == (-3.0, 3.0)
    field.world_units = True  # a range of its own for each unit
    show(view, snapshot_of(shell()))
    assert field.corner.key not in field.locked


# The error against the target


def test_the_distances_gradient_is_that_of_finite_differences() -> None:
    sphere = icosphere_like(16, 0.3)
    points = (torch.rand(60, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64) - 0.5) * 0.9
    distance, gradient = signed_distance_and_gradient(Mesh(sphere.vertices.double(), sphere.faces), points)
    mesh, step = Mesh(sphere.vertices.double(), sphere.faces), 1e-6
    assert torch.equal(distance, signed_distance(mesh, points)) and (distance < 0).any() and (distance > 0).any()
    numeric = torch.stack([(signed_distance(mesh, points + step * axis) - signed_distance(mesh, points - step * axis))
                           / (2 * step) for axis in torch.eye(3, dtype=torch.float64)], 1)
    smooth = (numeric.norm(dim=1) - 1).abs() < 1e-4  # not where two features are as near
    assert smooth.float().mean() > 0.9 and torch.allclose(gradient[smooth], numeric[smooth], atol=1e-4)
    on_surface = signed_distance_and_gradient(mesh, mesh.vertices[5:6])
    assert abs(float(on_surface[0][0])) < 1e-12 and float(on_surface[1][0] @ mesh.vertices[5]) / 0.3 > 0.99
    nothing = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    assert signed_distance_and_gradient(nothing, points)[0].isinf().all()


def test_the_error_is_the_sdf_minus_the_targets_at_the_moved_corner(view: ViewState) -> None:
    """Against a plane, for which the first order in δ is exact; measured once for a voxel set."""
    view.layers["sdf"], view.field.at_corners = True, SDF_ERROR
    voxels = shell(8)
    quad = MeshArrays(np.array([[-9, 0.1, -9], [-9, 0.1, 9], [9, 0.1, 9], [9, 0.1, -9]], np.float32),
                      np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    snapshot = snapshot_of(voxels, target=quad)
    show(view, snapshot)
    assert view.field.corner is None and "distance to the target" in view.field.note
    view.worker.wait_for("target_sdf", 20)
    show(view, snapshot)
    moved = voxels.corners_world.numpy() + 0.5 * np.tanh(snapshot.fields[DEFORM]) / 8
    expected = 8 * (snapshot.fields[SDF] - (moved[:, 1] - 0.1))
    assert view.field.corner.values == pytest.approx(expected, abs=1e-5) and view.field.note == ""
    measured = view.worker.n_finished
    other = snapshot_of(voxels, seed=3, target=quad)
    show(view, other)
    assert view.worker.n_finished == measured and not view.worker.busy("target_sdf")
    view.field.world_units = True
    show(view, snapshot)
    assert view.field.corner.values == pytest.approx(expected / 8, abs=1e-6)


# The plane and the arrows


def test_the_plane_faces_the_view_until_it_is_held(view: ViewState) -> None:
    view.layers["slice"] = True
    field, snapshot = view.field, snapshot_of(shell())
    field.axis = "view"
    view.view_camera = Camera.look_at((0, 0, 2), (0, 0, 0))
    show(view, snapshot)
    assert field.plane.normal == pytest.approx((0, 0, 1), abs=1e-3)
    view.view_camera = Camera.look_at((2, 0, 0), (0, 0, 0))
    field.held = True
    show(view, snapshot)
    assert field.plane.normal == pytest.approx((0, 0, 1), abs=1e-3)
    field.held = False
    show(view, snapshot)
    assert field.plane.normal == pytest.approx((1, 0, 0), abs=1e-3)
    field.offset = 7.0  # within the box in any case
    show(view, snapshot)
    assert field.plane.offset == pytest.approx(0.5, abs=1e-3)
    field.offset = float("nan")
    show(view, snapshot)
    assert field.plane.offset == 0.0
    field.axis, field.offset = "y", 0.0
    show(view, snapshot)
    field.step_plane(view, 1)
    assert field.offset == pytest.approx(1 / 12)
    field.step_plane(view, -100)
    assert field.offset == -0.5


def test_arrows_lie_at_the_slice_or_everywhere_but_never_too_many(view: ViewState) -> None:
    view.layers.update(slice=True, vectors=True)
    field, voxels = view.field, SparseVoxels(torch.cartesian_prod(*3 * [torch.arange(20)]).int(), 20)
    snapshot = snapshot_of(voxels)
    field.axis, field.offset, field.vector_scale = "x", 0.11, 3.0
    show(view, snapshot)
    height = voxels.corner_ijk.numpy()[:, 0] - 10 - 0.11 * 20
    near = (np.abs(height) <= 0.5).nonzero()[0]
    assert field.vectors.n_all == len(near) == 441
    assert field.vectors.starts == pytest.approx(voxels.corners_world.numpy()[near])
    expected = 3.0 * 0.5 * np.tanh(snapshot.fields[DEFORM][near]) / 20
    assert field.vectors.ways == pytest.approx(expected, abs=1e-6)
    field.vectors_in_slice = False
    show(view, snapshot)
    assert len(field.vectors.starts) == MAX_VECTORS < field.vectors.n_all == voxels.n_corners
    before = field.vectors.starts
    show(view, snapshot_of(voxels, seed=9))  # other values: the same corners
    assert np.array_equal(before, field.vectors.starts)
    spread = np.histogramdd(before, bins=2, range=[(-0.5, 0.5)] * 3)[0]
    assert spread.min() > 0.8 * MAX_VECTORS / 8


# The mesh's colours


def test_vertices_find_their_voxels_and_their_distance() -> None:
    voxels = shell(10)
    vertices = np.random.default_rng(6).uniform(-0.6, 0.6, (300, 3)).astype(np.float32)
    vertices[0], vertices[1] = np.nan, 1e30
    mesh = MeshArrays(vertices, np.zeros((0, 3), np.int32))
    known = {tuple(ijk): row for row, ijk in enumerate(voxels.voxel_ijk.tolist())}
    cells = [tuple(np.floor((v.astype(np.float64) + 0.5) * 10).tolist()) for v in vertices]
    rows = voxel_of_vertices(mesh, voxels)
    assert rows.tolist() == [known.get(cell, -1) for cell in cells] and (rows >= 0).sum() > 20
    target = arrays(icosphere_like(40, 0.35))
    found = distances(mesh, target)
    expected = np.abs(np.linalg.norm(vertices[2:], axis=1) - 0.35)
    assert np.isnan(found[0]) and found[2:] == pytest.approx(expected, abs=2e-3)
    assert np.isinf(distances(mesh, MeshArrays(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)))).all()


def test_the_mesh_is_coloured_by_its_voxels_or_by_its_distance(view: ViewState) -> None:
    view.layers["mesh"], view.mesh_colour, view.field.at_voxels = True, "field", "gamma"
    snapshot = snapshot_of(shell())
    show(view, snapshot)
    assert view.surfaces.colours is None and view.surfaces.note
    view.worker.wait_for("mesh field", 20)
    show(view, snapshot)
    rows = voxel_of_vertices(snapshot.fields["mesh"], snapshot.fields["voxels"])
    colours = view.field.colours("voxel")
    assert np.array_equal(view.surfaces.colours[rows >= 0], colours[rows[rows >= 0]])
    assert (view.surfaces.colours[rows < 0] == np.array(view.shades.colour("mesh"), np.float32)).all()
    view.mesh_colour = "distance"
    show(view, snapshot)
    view.worker.wait_for("mesh distance", 20)
    show(view, snapshot)
    assert view.surfaces.distance.unit == "voxel widths" and view.surfaces.note == ""
    assert view.surfaces.distance.values == pytest.approx(np.full(len(rows), 0.12), abs=0.08)
    # while a newer mesh is measured, the one measured before stays, with its own colours
    newer = dataclasses.replace(snapshot, fields={**snapshot.fields, "mesh": arrays(icosphere_like(9, 0.3))})
    show(view, newer)
    assert view.surfaces.mesh is snapshot.fields["mesh"] and len(view.surfaces.colours) == len(rows)
    view.worker.wait_for("mesh distance", 20)
    show(view, newer)
    assert view.surfaces.mesh is newer.fields["mesh"]
    view.mesh_colour = "clay"
    show(view, newer)
    assert view.surfaces.colours is None and view.worker.result("mesh distance") is None


def test_a_failure_of_the_worker_is_told(view: ViewState) -> None:
    view.layers["mesh"], view.mesh_colour = True, "distance"
    broken = MeshArrays(np.zeros((3, 3), np.float32), np.array([[0, 1, 9]], np.int32))  # a face of a missing vertex
    snapshot = snapshot_of(shell(), target=broken)
    show(view, snapshot)
    view.worker.wait_for("mesh distance", 20)
    show(view, snapshot)
    assert "Error" in view.surfaces.note and view.surfaces.colours is None
