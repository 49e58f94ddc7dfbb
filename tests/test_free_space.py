"""Free-space labels against the sign that is known, and their loss."""

from __future__ import annotations

import pytest
import torch

import sparseflex as sf
from sparseflex.free_space import free_space_labels, free_space_loss
from sparseflex.render import render_maps


def ball(radius: float = 0.4, resolution: int = 24) -> sf.Mesh:
    voxels = sf.SparseVoxels(torch.cartesian_prod(*[torch.arange(resolution)] * 3), resolution)
    return sf.extract_mesh(sf.SparseFlex.from_sdf(voxels, voxels.corners_world.norm(dim=1) - radius))


def camera(near: float, far: float = 4.0) -> sf.Camera:
    return sf.Camera.look_at((0.3, 0.5, 1.6), (0, 0, 0), width=96, height=96, near=near, far=far)


@pytest.mark.parametrize("cut", [False, True])
def test_labels_are_never_wrong_and_say_much(cut):
    mesh, generator = ball(), torch.Generator().manual_seed(0)
    points = torch.rand(20_000, 3, generator=generator) - 0.5
    view = camera(1.7 if cut else 0.2)  # the eye is 1.7 from the centre: the cut goes through the middle
    labels = free_space_labels(points, view, render_maps(mesh, view), margin=0.02)
    radius = points.norm(dim=1)
    assert bool((radius[labels > 0] > 0.4).all()) and bool((radius[labels < 0] < 0.4).all())
    assert int((labels > 0).sum()) > 1000 or cut
    # what lies inside is known only where a cut shows the back of the surface, and there for most points
    assert int((labels < 0).sum()) == 0 if not cut else int((labels < 0).sum()) > 2000


def test_nothing_is_known_beside_or_behind_the_surface():
    mesh, view = ball(), camera(0.2)
    maps = render_maps(mesh, view)
    assert float(free_space_labels(torch.tensor([[0.0, 0.0, 0.0]]), view, maps, 0.0)) == 0  # behind the front
    assert float(free_space_labels(torch.tensor([[0.3, 0.5, 1.7]]), view, maps, 0.0)) == 0  # behind the eye
    assert float(free_space_labels(torch.tensor([[0.0, 0.49, -0.45]]), view, maps, 0.0)) == 0
    nothing = render_maps(sf.Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), view)
    assert free_space_labels(torch.zeros(0, 3), view, nothing, 0.0).shape == (0,)
    assert float(free_space_labels(torch.zeros(1, 3), view, nothing, 0.0)) == 0


def test_the_point_s_own_pixel_must_be_hit():
    """Beside an outline a neighbouring pixel shows a side, but the ray of the point itself meets nothing."""
    mesh, view = ball(), camera(0.2)
    maps = render_maps(mesh, view)
    touched = torch.nn.functional.max_pool2d(maps.hit[None, None].float(), 3, 1, 1)[0, 0] > 0
    row, column = (touched & ~maps.hit).nonzero().unbind(1)
    assert len(row) > 50
    depth = 0.5
    x = (column + 0.5 - view.width / 2) / view.focal_pixels * depth
    y = (view.height / 2 - row - 0.5) / view.focal_pixels * depth
    points = torch.stack([x, y, torch.full_like(x, -depth)], dim=1).double() @ view.world_from_camera[:3, :3].T
    labels = free_space_labels((points + view.eye_world).float(), view, maps, 0.0)
    assert int((labels != 0).sum()) == 0


def test_loss_is_a_hinge_over_labelled_points():
    sdf = torch.tensor([1.0, -1.0, 0.0, 2.0, 0.02], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1.0, 1.0, -1.0, 0.0, 1.0], dtype=torch.float64)
    loss = free_space_loss(sdf, labels)
    assert float(loss.detach()) == pytest.approx((0 + 1.05 + 0.05 + 0.03) / 4)
    loss.backward()
    assert sdf.grad.tolist() == pytest.approx([0, -0.25, 0.25, 0, -0.25])
    assert float(free_space_loss(sdf.detach(), torch.zeros(5, dtype=torch.float64))) == 0
    assert float(free_space_loss(sdf.detach()[:0], labels[:0])) == 0
