"""Backward passes made by hand, in float64 and of a few voxels, against whatever target a test wants."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.extraction import extract_mesh
from sparseflex.render import Maps, render_maps
from sparseflex.representation import SparseFlex, activate_weights
from sparseflex.training.backward_pass import PARAMETERS, BackwardPass, PassView, gradients_by_term
from sparseflex.training.config import FitConfig
from sparseflex.training.fit_parameters import FitSection
from sparseflex.training.objective import Objective
from sparseflex.voxels import SparseVoxels

FRONT = Camera.look_at((0.1, 0.2, 1.6), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), fov_y_degrees=40, width=20, height=20,
                       near=0.1, far=5.0)
Changes = Callable[[Maps], Maps]


def ball(resolution: int = 8, radius: float = 0.3, seed: int = 0) -> tuple[SparseVoxels, dict[str, Tensor]]:
    """The voxels that a sphere passes through, with its SDF a little disturbed, in float64."""
    every = torch.cartesian_prod(*[torch.arange(resolution)] * 3)
    voxels = SparseVoxels(every, resolution)
    sdf = voxels.corners_world.double().norm(dim=1) - radius
    inside = (sdf < 0)[voxels.voxel_corners.long()].sum(1)
    voxels, _, corners = voxels.section((inside > 0) & (inside < 8))
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    leaves = {"sdf": sdf[corners] * resolution + 0.03 * noise(voxels.n_corners),
              "deform": 0.2 * noise(voxels.n_corners, 3), "weights": 0.2 * noise(voxels.n_voxels, 21)}
    return voxels, leaves


def deeper_at(pixels: Iterable[tuple[int, int]]) -> Changes:
    """A target that is farther away at these pixels, (row, column), and else as it was rendered."""

    def wanted(maps: Maps) -> Maps:
        depth = maps.depth.clone()
        for row, column in pixels:
            depth[row, column] += 0.05
        return Maps(depth, maps.normal, maps.mask, maps.triangle_id)

    return wanted


def section_of(voxels: SparseVoxels, leaves: dict[str, Tensor]) -> FitSection:
    sdf, deform, weights = (leaves[name].clone().requires_grad_() for name in PARAMETERS)
    flex = SparseFlex(voxels, sdf, deform, *activate_weights(weights), sdf.new_zeros(()))
    return FitSection(flex, sdf, deform, weights, None, None, None)


def pass_of(voxels: SparseVoxels, leaves: dict[str, Tensor], wanted: Changes, cameras: tuple[Camera, ...] = (FRONT,),
            **settings) -> BackwardPass:
    """A backward pass against what it rendered itself, changed by wanted."""
    config = FitConfig(**{"resolution": 8, "free_space_weight": 0.0, **settings})
    section, objective = section_of(voxels, leaves), Objective(config)
    mesh = extract_mesh(section.flex, training=True)
    rendered = [render_maps(mesh, camera) for camera in cameras]
    targets = [wanted(PassView.of(FRONT, maps, maps).rendered) for maps in rendered]
    terms, _ = objective.terms(rendered, targets, list(cameras), section, mesh, config, 0.5)
    by_term = gradients_by_term(terms, section)
    loss = torch.stack(list(terms.values())).sum()
    if loss.requires_grad:
        loss.backward()
    views = [PassView.of(*view) for view in zip(cameras, rendered, targets, strict=True)]
    view_terms = functools.partial(objective.view_terms, config=config)
    return BackwardPass.of(1, voxels, section, mesh, views, by_term, view_terms)


def noisy(maps: Maps) -> Maps:
    """A target that is a little off everywhere."""
    generator = torch.Generator().manual_seed(1)
    depth, normal, mask = (m + 0.05 * torch.randn(m.shape, generator=generator, dtype=m.dtype)
                           for m in (maps.depth, maps.normal, maps.mask))
    return Maps(depth, normal, mask, maps.triangle_id)


def as_it_is(maps: Maps) -> Maps:
    return maps


def busiest(done: BackwardPass) -> tuple[int, int, int]:
    """The voxel on which the loss pulls most."""
    return tuple(done.section.voxel_ijk[int(done.voxel_norms("weights").argmax())].tolist())
