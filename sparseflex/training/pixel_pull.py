"""Which pixels pull on a voxel: the gradient of a voxel's parameters, taken apart into what each pixel adds to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Float
from torch import Tensor

from sparseflex.extraction import moving_vertices
from sparseflex.render import Maps, map_tangents
from sparseflex.training.backward_pass import AT_CORNERS, PARAMETERS, BackwardPass

MAPS = ("depth", "normal", "mask")


@dataclasses.dataclass(frozen=True, eq=False)
class PixelPull:
    """How the loss moves one voxel, along the direction of steepest descent of its own parameters.

    ijk: the voxel. parameters: which of PARAMETERS are its own here: the SDF and the deformation of its eight corners,
    its 21 raw weights. norm: length of the loss's gradient by them. by_term[t]: what term t adds to it; they sum up to
    norm. A term that is negative pulls the other way. pixels[v][t]: (H, W) what each pixel of view v adds through term
    t; over all views they sum up to by_term[t]. Terms that aren't made of pixels are missing there. Where norm isn't
    finite, by_term is NaN and no pixel pulls.
    """

    ijk: tuple[int, int, int]
    parameters: tuple[str, ...]
    norm: float
    by_term: Mapping[str, float]
    pixels: tuple[Mapping[str, Float[Tensor, "H W"]], ...]

    def of_view(self, view: int, term: str = "") -> Float[Tensor, "H W"]:
        """One view's pulls by one term, or by all."""
        maps = self.pixels[view]
        return maps[term] if term else torch.stack(list(maps.values())).sum(0)


def map_gradients(done: BackwardPass) -> tuple[dict[str, tuple[Tensor, Tensor, Tensor]], ...]:
    """For each view and each term of pixels: the loss's gradient by the depth, normal and mask rendered there."""
    found = []
    for view in done.views:
        leaves = [getattr(view.rendered, name).clone().requires_grad_() for name in MAPS]
        terms = done.view_terms(Maps(*leaves, view.rendered.triangle_id), view.target)
        grads = {term: torch.autograd.grad(value / len(done.views), leaves, retain_graph=True, allow_unused=True)
                 for term, value in terms.items() if value.requires_grad}
        found.append({term: tuple(torch.zeros_like(leaf) if grad is None else grad
                                  for grad, leaf in zip(of, leaves, strict=True)) for term, of in grads.items()})
    return tuple(found)


def pixel_pull(done: BackwardPass, ijk: Sequence[int], parameters: Sequence[str] = PARAMETERS,
               gradients: tuple[dict, ...] | None = None) -> PixelPull | None:
    """Which pixels of a backward pass pull on a voxel, exactly; None where the voxel wasn't active in it.

    The loss depends on the voxel through the maps, and so its gradient is a sum over pixels: ∂L/∂maps there (backward,
    by view_terms) times how the maps change along the direction (forward mode, through extraction and rendering of
    what the voxel's corners touch). So a pixel whose own error is 0 can pull by SSIM, whose window it lies in. All is
    of the state that was rendered, before the update. gradients: map_gradients(done), where known.
    """
    row = int(done.section.find(torch.tensor([tuple(ijk)], device=done.section.device))[0])
    if row < 0:
        return None
    own = {name: done.section.voxel_corners[row].long() if name in AT_CORNERS else
           torch.tensor([row], device=done.section.device) for name in parameters}
    total = {name: done.total[name][rows] for name, rows in own.items()}
    norm = float(sum(float(grad.double().square().sum()) for grad in total.values())) ** 0.5
    by_term = {term: _along(done, term, own, total, norm) for term in done.terms}
    gradients = map_gradients(done) if gradients is None else gradients
    if not 0 < norm < float("inf"):
        empty = tuple({term: torch.zeros_like(maps[2]) for term, maps in of.items()} for of in gradients)
        return PixelPull(tuple(int(part) for part in ijk), tuple(parameters), norm, by_term, empty)
    ways = _vertex_ways(done, row, {name: (own[name], grad / norm) for name, grad in total.items()})
    pixels = []
    for view, of_view in zip(done.views, gradients, strict=True):
        along = map_tangents(done.mesh.vertices, ways, done.mesh.faces, view.camera, view.rendered)
        pixels.append({term: of[0] * along.depth + (of[1] * along.normal).sum(2) + of[2] * along.mask
                       for term, of in of_view.items()})
    return PixelPull(tuple(int(part) for part in ijk), tuple(parameters), norm, by_term, tuple(pixels))


def _along(done: BackwardPass, term: str, own: Mapping[str, Tensor], total: Mapping[str, Tensor], norm: float) -> float:
    """What a term adds to the gradient's length."""
    found = sum(float((done.gradient(name, term)[rows].double() * total[name].double()).sum())
                for name, rows in own.items())
    return found / norm if norm != 0 else 0.0


def _vertex_ways(done: BackwardPass, row: int, ways: Mapping[str, tuple[Tensor, Tensor]]) -> Float[Tensor, "V 3"]:
    """How the vertices move when the parameters do: ways holds, by parameter, rows of it and their directions."""
    corners = done.section.voxel_corners[row]
    near = torch.zeros(done.section.n_voxels, dtype=torch.bool, device=done.section.device)
    offsets = torch.cartesian_prod(*[torch.arange(-1, 2, dtype=torch.int32, device=corners.device)] * 3)
    around = done.section.find(done.section.voxel_ijk[row] + offsets)
    near[around[around >= 0]] = True
    with forward_ad.dual_level():
        leaves = dict(done.leaves)
        for name, (rows, way) in ways.items():
            tangent = torch.zeros_like(leaves[name])
            tangent[rows] = way
            leaves[name] = forward_ad.make_dual(leaves[name], tangent)
        vertices = moving_vertices(done.flex(leaves), done.mesh, near)
        tangent = forward_ad.unpack_dual(vertices).tangent
    return torch.zeros_like(done.mesh.vertices) if tangent is None else tangent  # None: no vertex depends on them
