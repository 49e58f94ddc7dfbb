"""Levels of a fit: which resolutions it goes through and when, its settings at each, and parameters on another set."""

from __future__ import annotations

import dataclasses
import itertools

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparseflex.extraction import extract_mesh
from sparseflex.mesh import Mesh
from sparseflex.training.config import FitConfig
from sparseflex.training.fit_parameters import FitParameters
from sparseflex.voxels import SparseVoxels

_LEAST_IMAGE = 64
"""Coarse levels see smaller images, but none below this (or below the run's own): they would show too few points."""


def level_resolutions(config: FitConfig) -> tuple[int, ...]:
    """The resolutions from start_resolution up to resolution, doubling; resolution alone where none is asked for."""
    found = [config.start_resolution or config.resolution]
    while found[-1] < config.resolution:
        found.append(2 * found[-1])
    return tuple(found)


def level_starts(config: FitConfig) -> tuple[int, ...]:
    """The iteration that each level begins with: level l gets level_growth^l parts of all iterations."""
    parts = [config.level_growth**level for level in range(len(level_resolutions(config)))]
    sums = [0.0, *itertools.accumulate(parts)]
    return tuple(round(config.iterations * done / sums[-1]) for done in sums[:-1])


def view_config(config: FitConfig, level: int) -> FitConfig:
    """The settings by which an iteration's cameras and planes are drawn at a level.

    Resolution and image size are the level's, so that a voxel spans as many pixels at every level; all else is the
    run's own. (Views of the front only were tried on finer levels: what they don't see stays as coarse as it came.)
    """
    resolution = level_resolutions(config)[level]
    image = max(min(_LEAST_IMAGE, config.image_size), config.image_size * resolution // config.resolution)
    return dataclasses.replace(config, resolution=resolution, start_resolution=0, image_size=image)


def learning_rates(config: FitConfig, level: int, iteration: int) -> dict[str, float]:
    """The learning rate of each parameter: lr_sdf and so on, falling exponentially to lr_decay over the run.

    Where a fit has levels they fall to level_decay. The SDF's does so over the whole run: a finer level begins with
    the coarser one's surface, which large steps would blur again. Deformations and weights start anew at each level,
    and so do their rates, from level_rate on.
    """
    rates = {"sdf": config.lr_sdf, "deform": config.lr_deform, "weights": config.lr_weights}
    last = config.level_decay if config.start_resolution else config.lr_decay
    over_run = last ** (iteration / config.iterations)
    factors = dict.fromkeys(rates, over_run)
    if level > 0:
        start, end = (*level_starts(config), config.iterations)[level : level + 2]
        progress = min(max(iteration - start, 0) / max(end - start, 1), 1.0)
        anew = config.level_rate * (last / config.level_rate) ** progress
        factors |= {"deform": anew, "weights": anew}
    return {name: rate * factors[name] for name, rate in rates.items()}


# -- parameters on another voxel set --------------------------------------------------------------------------


def carry(parameters: FitParameters, voxels: SparseVoxels) -> FitParameters:
    """The parameters on another set of voxels at the same resolution.

    Voxels and corners of both sets keep values, moments and step counts bit by bit. New corners continue their
    neighbours' SDF and deformation along the lattice (their mean, ring by ring); where no neighbour is known, the SDF
    is that of just outside, half a voxel. New voxels have weights 0.
    """
    old = parameters.voxels
    corners, rows = old.find_corners(voxels.corner_ijk), old.find(voxels.voxel_ijk)
    fresh = FitParameters(voxels, torch.zeros(voxels.n_corners, device=voxels.device))
    pairs = [(fresh.tensors(), parameters.tensors())]
    pairs += [(getattr(fresh.optimiser, kind), getattr(parameters.optimiser, kind)) for kind in
              ("mean", "square", "steps")]
    for name, source in (("sdf", corners), ("deform", corners), ("weights", rows)):
        known = (source >= 0).nonzero().squeeze(1)
        for to, of in pairs:
            to[name].index_copy_(0, known, of[name].index_select(0, source[known]))
    _continue_outwards(voxels, corners >= 0, fresh.sdf, fresh.deform)
    return fresh


def _continue_outwards(voxels: SparseVoxels, known: Tensor, sdf: Float[Tensor, "C"], deform: Float[Tensor, "C 3"]
                       ) -> None:
    """Fills the corners that aren't known, in place."""
    if bool(known.all()):
        return
    a, b = voxels.lattice_edges.unbind(1)
    values = torch.cat([sdf[:, None], deform], dim=1)
    while not bool(known.all()):
        reaches = torch.cat([known[a] & ~known[b], known[b] & ~known[a]])
        source, to = torch.cat([a, b])[reaches], torch.cat([b, a])[reaches]
        if not len(to):
            values[~known, 0] = 0.5
            break
        count = torch.zeros_like(sdf).index_add_(0, to, torch.ones_like(sdf[to]))
        total = torch.zeros_like(values).index_add_(0, to, values[source])
        reached = count > 0
        values[reached] = total[reached] / count[reached, None]
        known = known | reached
    sdf.copy_(values[:, 0])
    deform.copy_(values[:, 1:])


def refine(parameters: FitParameters, children: SparseVoxels, lost: Bool[Tensor, "N"], generator: torch.Generator
           ) -> FitParameters:
    """The parameters on children (all of voxels of the set) at twice the resolution, with a fresh optimiser.

    Near the fit's own surface the SDF is the distance to it, as its vertices' tangent planes tell, so that the surface
    stays where it is: the parents' deformations and weights mean nothing on the children's edges, and start anew.
    Elsewhere it is that of the parents' corners by trilinear interpolation. Both in the children's widths, in [-1, 1].
    lost: children in which the target was seen and the fit has no surface. Nothing would pull on them, so the corners
    of theirs alone start at random, as at the first level.
    """
    sdf = _interpolated(parameters, children)
    near, distance = _distance_to(own_surface(parameters), children)
    sdf = torch.where(near, distance, sdf).clamp(-1, 1)
    again = torch.zeros_like(near)
    again[children.corners_by_slot[:, lost].long()] = True
    again[children.corners_by_slot[:, ~lost].long()] = False
    start = (torch.rand(len(sdf), generator=generator) * 2 - 1).to(sdf)
    return FitParameters(children, torch.where(again, start, sdf))


def own_surface(parameters: FitParameters) -> Mesh:
    """The surface as it stands, without faces whose vertices are not finite."""
    mesh = extract_mesh(parameters.flex())
    finite = mesh.vertices.isfinite().all(dim=1)
    return Mesh(torch.where(finite[:, None], mesh.vertices, 0), mesh.faces[finite[mesh.faces].all(dim=1)])


def _interpolated(parameters: FitParameters, children: SparseVoxels) -> Float[Tensor, "C"]:
    """A child's corner lies on its parent's corner or in the middle of an edge, a face or the voxel: the mean of the
    parent's corners there, doubled, since SDF counts voxel widths."""
    ijk = children.corner_ijk
    low, high = ijk >> 1, (ijk + 1) >> 1
    total = torch.zeros(len(ijk), device=children.device)
    for picks in itertools.product((False, True), repeat=3):
        upper = torch.tensor(picks, device=children.device)
        total += parameters.sdf[parameters.voxels.find_corners(torch.where(upper, high, low))]
    return total / 4


def _distance_to(mesh: Mesh, voxels: SparseVoxels) -> tuple[Bool[Tensor, "C"], Float[Tensor, "C"]]:
    """Which corners have a vertex of the mesh within two voxels, and the signed distance in voxel widths there.

    The mean over these vertices' tangent planes, in which nearer vertices count by far more (distance to the -8th).
    """
    corners = mesh.vertices[mesh.faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal = torch.zeros_like(mesh.vertices).index_add_(0, mesh.faces.reshape(-1), normal.repeat_interleave(3, dim=0))
    length = normal.norm(dim=1)
    used = length > 0
    place = (mesh.vertices[used] + 0.5) * voxels.resolution
    normal = normal[used] / length[used, None]
    total, weights = torch.zeros(2, voxels.n_corners, device=voxels.device)
    for step in itertools.product(range(-1, 3), repeat=3):
        ijk = place.floor().int() + torch.tensor(step, dtype=torch.int32, device=place.device)
        row = voxels.find_corners(ijk)
        found = row >= 0
        offset = ijk[found] - place[found]
        weight = 1 / (offset.square().sum(1) + 0.01) ** 4
        total.index_add_(0, row[found], weight * (offset * normal[found]).sum(1))
        weights.index_add_(0, row[found], weight)
    return weights > 0, total / weights.clamp(min=torch.finfo(torch.float32).tiny)
