"""The VAE's input voxels and samples against the release's own, and against slow twins."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparseflex as sf
from sparseflex.data import normalize
from sparseflex.vae.preprocess import check_points, input_voxels, into_box, points_of_draws, sample_points

GOLDEN = Path(__file__).parent / "golden" / "preprocess"
FILES = sorted(GOLDEN.glob("*.npz"))
LARGEST = 524_287


@dataclasses.dataclass(frozen=True)
class Reference:
    resolution: int
    arrays: dict[str, np.ndarray]

    @property
    def points(self) -> torch.Tensor:
        return torch.from_numpy(self.arrays["points_normals"][:, :3])

    def mesh(self, which: str = "norm", dtype: torch.dtype = torch.float32) -> sf.Mesh:
        vertices = torch.from_numpy(self.arrays[f"{which}_vertices"]).to(dtype)
        return sf.Mesh(vertices, torch.from_numpy(self.arrays[f"{which}_faces"]).long())


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def reference(request) -> Reference:
    with np.load(request.param) as arrays:
        found = dict(arrays)
    return Reference(int(found["resolution"]), found)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_there_are_references():
    assert len(FILES) == 2


# -- against the release ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_voxels_are_exactly_the_release_s(reference, dtype):
    for which in ("norm", "o3d"):  # as the file had it, and clamped already
        found = input_voxels(reference.points, reference.resolution, reference.mesh(which, dtype))
        assert np.array_equal(found.voxel_ijk.numpy(), reference.arrays["voxels"])
    # half of them alone wouldn't do: triangles touch voxels that no moved point reaches, and the other way round
    from_points = input_voxels(reference.points, reference.resolution)
    from_triangles = input_voxels(reference.points[:0], reference.resolution, reference.mesh())
    assert from_points.n_voxels < len(reference.arrays["voxels"])
    assert from_triangles.n_voxels < len(reference.arrays["voxels"])
    both = torch.unique(torch.cat([from_points.keys, from_triangles.keys]))
    assert torch.equal(both, found.keys)


def test_triangles_touch_what_the_release_says_but_for_two_out_of_range(reference):
    theirs = {tuple(row) for row in reference.arrays["voxels_triangles_only"].tolist()}
    inside = {row for row in theirs if max(row) < reference.resolution}
    found = input_voxels(torch.zeros(0, 3), reference.resolution, reference.mesh())
    assert {tuple(row) for row in found.voxel_ijk.tolist()} == inside and len(theirs - inside) == 2


def test_normalised_as_the_release_does(reference):
    mesh, back = normalize(reference.arrays["raw_vertices"], reference.arrays["raw_faces"])
    theirs = reference.arrays["norm_vertices"]
    np.testing.assert_allclose(mesh.vertices.numpy(), theirs, rtol=0, atol=2**-25)  # half a step of float32 below 1/2
    again = theirs @ back[:3, :3].numpy().T + back[:3, 3].numpy()
    np.testing.assert_allclose(again, reference.arrays["raw_vertices"], rtol=0, atol=6e-9)  # theirs has nine digits


def test_the_release_s_draws_give_its_points(reference):
    """It seeds numpy with the resolution, draws the faces, then two numbers a point; the mesh is clamped already."""
    random = np.random.RandomState(int(reference.arrays["numpy_seed"]))
    n_points = len(reference.points)
    draws = [torch.from_numpy(random.random_sample(shape)) for shape in (n_points, (n_points, 2))]
    points, normals = points_of_draws(into_box(reference.mesh("norm", torch.float64)), *draws)
    expected = reference.arrays["points_normals"]
    np.testing.assert_allclose(points.numpy(), expected[:, :3], rtol=0, atol=3e-8)
    np.testing.assert_allclose(normals.numpy(), expected[:, 3:], rtol=0, atol=1e-6)


# -- against slow twins ----------------------------------------------------------------------------------------------


def near_slowly(points: torch.Tensor, resolution: int) -> list[tuple[int, ...]]:
    found = set()
    for point in points.double().tolist():
        for offset in itertools.product((-1, 0, 1), repeat=3):
            moved = [p + 0.5 + o * (1 / (4 * resolution - 1)) for p, o in zip(point, offset, strict=True)]
            found.add(tuple(min(max(math.floor(m * resolution), 0), resolution - 1) for m in moved))
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 12), st.integers(0, 999))
def test_voxels_of_points_against_27_loops(resolution, n_points, seed):
    points = torch.rand(n_points, 3, generator=seeded(seed), dtype=torch.float64) - 0.5
    if n_points > 3:
        points[0], points[1], points[2, 1] = 0.5, -0.5, 1 / resolution - 0.5  # corners of the box, a face of a voxel
    points = points.to([torch.float32, torch.float64][seed % 2])
    found = input_voxels(points, resolution)
    assert [tuple(row) for row in found.voxel_ijk.tolist()] == near_slowly(points, resolution)
    assert found.resolution == resolution


def test_a_large_cloud_and_the_largest_grid():
    points = torch.rand(3000, 3, generator=seeded(1)) - 0.5
    assert input_voxels(points, 256).voxel_ijk.tolist() == [list(row) for row in near_slowly(points, 256)]
    found = input_voxels(points[:40], LARGEST)
    assert found.voxel_ijk.tolist() == [list(row) for row in near_slowly(points[:40], LARGEST)]
    assert found.keys.dtype == torch.int64 and 8 * found.keys.max() > 2**58


def test_no_input_gives_no_voxels():
    empty = sf.Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert input_voxels(torch.zeros(0, 3), 8).n_voxels == 0
    assert input_voxels(torch.zeros(0, 3), 8, empty).n_voxels == 0
    assert input_voxels(torch.zeros(1, 3), 8, empty).n_voxels == 8  # at the corner of eight


def test_samples_lie_on_the_triangles_in_proportion_to_area():
    vertices = torch.tensor([[0, 0, 0], [4, 0, 0], [0, 1, 0], [0, 0, 1], [0, 2, 0.0], [8, 0, 0]]) / 10
    faces = torch.tensor([[0, 5, 1], [0, 1, 2], [0, 2, 3], [3, 4, 1], [2, 2, 2], [0, 1, 5]])  # three without area
    mesh = sf.Mesh(vertices, faces)
    points, normals = sample_points(mesh, 60_000, seeded(3))
    assert points.dtype == normals.dtype == torch.float32
    corners = vertices[faces].double()
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    shares = cross.norm(dim=1) / cross.norm(dim=1).sum()
    chosen = torch.full((len(points),), -1)
    for face in (1, 2, 3):
        a, b, c = corners[face]
        inverse = torch.linalg.inv(torch.stack([b - a, c - a, cross[face]], dim=1))
        s, t, away = ((points.double() - a) @ inverse.T).unbind(1)
        on = (away.abs() < 1e-5) & (s > -1e-6) & (t > -1e-6) & (s + t < 1 + 1e-6)
        on &= ((normals - (cross[face] / cross[face].norm()).float()).abs() < 1e-6).all(dim=1)
        chosen[on] = face
        # evenly within the triangle: its mean is the centroid, and a quarter lies in each of the four halves' triangles
        assert (torch.stack([s[on], t[on]]).mean(dim=1) - 1 / 3).abs().max() < 0.01
        assert abs(float(((s[on] > 0.5) | (t[on] > 0.5)).double().mean()) - 0.5) < 0.02
    assert (chosen >= 0).all()
    counts = torch.bincount(chosen, minlength=len(faces)) / len(points)
    assert (counts - shares).abs().max() < 0.01 and counts[[0, 4, 5]].sum() == 0
    again, _ = sample_points(mesh, 60_000, seeded(3))
    assert torch.equal(again, points)
    other, _ = sample_points(mesh, 60_000, seeded(4))
    assert not torch.equal(other, points)


def test_extreme_draws_stay_on_triangles_with_area():
    vertices = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0.0]])
    faces = torch.tensor([[0, 0, 1], [0, 1, 2], [1, 1, 2]])
    ends = torch.tensor([0, 1 - 2**-53, 1.0], dtype=torch.float64)
    points, normals = points_of_draws(sf.Mesh(vertices, faces), ends, ends[:, None].expand(3, 2))
    assert torch.equal(normals, torch.tensor([[0, 0, 1.0]]).expand(3, 3)) and torch.isfinite(points).all()


def test_nothing_to_sample_from():
    empty = sf.Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64))
    flat = sf.Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    for mesh in (empty, flat):
        with pytest.raises(ValueError, match=f"mesh must have triangles with area .* got {mesh.n_faces} triangles"):
            sample_points(mesh, 5)
        assert sample_points(mesh, 0)[0].shape == (0, 3)


# -- what is refused -------------------------------------------------------------------------------------------------


def test_good_points_pass_and_normals_become_unit():
    points = torch.tensor([[0.5, -0.5, 0.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
    normals = torch.tensor([[0, 0, 2.0], [3e-200, 4e-200, 0]], dtype=torch.float64)
    found, unit = check_points(points, normals, LARGEST)
    assert found.dtype == unit.dtype == torch.float32
    assert torch.equal(found, points.float()) and torch.equal(unit, torch.tensor([[0, 0, 1], [0.6, 0.8, 0]]))
    assert check_points(points[:1], normals[:1], 1)[0].shape == (1, 3)


NAN, INF = float("nan"), float("inf")
ROWS = [[0, 0, 0.0]] * 3


@pytest.mark.parametrize(("points", "normals", "resolution", "said"), [
    (torch.zeros(0, 3), torch.zeros(0, 3), 8, r"points must be at least 1, got 0"),
    (torch.zeros(3, 2), torch.ones(3, 3), 8, r"points must be a floating \(P, 3\) tensor, got \(3, 2\) torch.float32"),
    (torch.zeros(3, 3, dtype=torch.int64), torch.ones(3, 3), 8, r"points must be .* got \(3, 3\) torch.int64"),
    (ROWS, torch.ones(3, 3), 8, r"points must be a floating \(P, 3\) tensor, got list"),
    (torch.zeros(3, 3), None, 8, r"normals must be a floating \(P, 3\) tensor, got NoneType"),
    (torch.zeros(3, 3), torch.ones(2, 3), 8, r"normals must have a row for each of the 3 points, got 2"),
    (torch.tensor([[0, 0, 0], [0, NAN, 0], [INF, 0, 0]]), torch.ones(3, 3), 8,
     r"points must be finite, got 2 of 3 that are NaN or infinite, the first in row 1 \(counted from 0\)"),
    (torch.tensor([[0, 0, 0], [0, 0.75, 0], [-0.625, 0, 0]]), torch.ones(3, 3), 8,
     r"points must lie in \[-0.5, 0.5\]\^3, got 2 of 3 outside, the first in row 1: \[0.0, 0.75, 0.0\]"),
    (torch.zeros(3, 3), torch.tensor([[0, 0, 1], [0, 0, 0], [0, NAN, 1.0]]), 8,
     r"normals must be finite and not zero, got 2 of 3 that are not, the first in row 1: \[0.0, 0.0, 0.0\]"),
    (torch.zeros(3, 3), torch.ones(3, 3), LARGEST + 1,
     r"resolution must be a whole number in \[1, 524287\] .*keys must fit 64 bits.*, got 524288"),
    (torch.zeros(3, 3), torch.ones(3, 3), 0, r"resolution must be .* got 0"),
])  # fmt: skip
def test_bad_points_are_refused_in_one_line(points, normals, resolution, said):
    with pytest.raises(ValueError, match=f"^{said}") as caught:
        check_points(points, normals, resolution)
    assert "\n" not in str(caught.value)


def test_voxels_refuse_what_they_cannot_place():
    with pytest.raises(ValueError, match="points must lie in"):
        input_voxels(torch.full((1, 3), 0.6), 8)
    with pytest.raises(ValueError, match="resolution must be"):
        input_voxels(torch.zeros(1, 3), LARGEST + 1)
    broken = sf.Mesh(torch.full((3, 3), NAN), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="vertices must be finite"):
        input_voxels(torch.zeros(1, 3), 8, broken)
    square = sf.Mesh(torch.tensor([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0]]), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match=r"resolution 524287 would take about .*B of memory .* are available"):
        input_voxels(torch.zeros(1, 3), LARGEST, square)
