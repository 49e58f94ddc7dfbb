"""The parameters of a fit: initial values, the section that one iteration works on, and their optimiser."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparseflex.borders import border_edges, points_along
from sparseflex.mesh import Mesh
from sparseflex.representation import N_WEIGHTS, SparseFlex, activate_weights
from sparseflex.training.rowwise_adamw import RowwiseAdamW
from sparseflex.voxels import SparseVoxels, lattice_keys

_MARGIN_VOXELS = 0.25

_SPHERE_SHRINK = 0.02
"""A sphere's SDF is scaled by this: voxels without a sign change get no gradient, and only small values let the
surface wander from voxel to voxel (Chamfer distance .034 instead of 1.4 voxels)."""


def initial_sdf(kind: str, voxels: SparseVoxels, target: Mesh, generator: torch.Generator) -> Float[Tensor, "C"]:
    """Corner SDF in voxel widths: `random` is U(−1, 1), `points` the target's SDF in [−1, 1], or a small `sphere`."""
    if kind == "random":
        return (torch.rand(voxels.n_corners, generator=generator) * 2 - 1).to(voxels.device)
    corners = voxels.corners_world
    if kind == "sphere":
        radius = corners.norm(dim=1)
        middle = radius.median() if len(radius) else radius.sum()
        return _SPHERE_SHRINK * (radius - middle) * voxels.resolution
    from sparseflex.data import signed_distance

    return (signed_distance(target, corners).to(corners) * voxels.resolution).clamp(-1, 1)


def voxels_around(target: Mesh, resolution: int) -> SparseVoxels:
    """The voxels within a quarter of a voxel of the target; where two of its open borders meet, only those it touches.

    Undilated voxels leave thousands of open edges, a whole voxel lets sheets grow past open borders. A surface can end
    only where a voxel is missing: between two borders a voxel apart any dilation would bridge the gap.
    """
    voxels = SparseVoxels.from_mesh(target, resolution, _MARGIN_VOXELS)
    gap = _between_borders(target, resolution)
    if not gap.n_voxels:
        return voxels
    touched = SparseVoxels.from_mesh(target, resolution)
    return voxels.prune((touched.find(voxels.voxel_ijk) >= 0) | (gap.find(voxels.voxel_ijk) < 0))


def _between_borders(target: Mesh, resolution: int) -> SparseVoxels:
    """The voxels within one voxel of two or more of the target's border loops."""
    places, edges = border_edges(target)
    loop = torch.arange(len(places), device=edges.device)
    while len(edges):  # the lowest vertex of each loop spreads along it, in doubling steps
        lowest = loop.scatter_reduce(0, edges.reshape(-1), loop[edges].amin(1).repeat_interleave(2), "amin")
        lowest = lowest[lowest]
        if torch.equal(lowest, loop):
            break
        loop = lowest
    points, edge = points_along(places, edges, resolution)
    ijk = ((points + 0.5) * resolution).floor().clamp(0, resolution - 1).long()
    of_loop = torch.unique(torch.cat([loop[edges[edge, 0]][:, None], ijk], dim=1), dim=0)
    around = torch.cartesian_prod(*[torch.arange(-1, 2, device=edge.device)] * 3)
    ijk = (of_loop[:, None, 1:] + around).reshape(-1, 3)
    name = of_loop[:, :1].expand(-1, len(around)).reshape(-1, 1)
    inside = ((ijk >= 0) & (ijk < resolution)).all(dim=1)
    of_loop = torch.unique(torch.cat([name, ijk], dim=1)[inside], dim=0)
    near, n_loops = torch.unique(lattice_keys(of_loop[:, 1:], resolution), return_counts=True)
    return SparseVoxels.from_keys(near[n_loops > 1], resolution)


@dataclasses.dataclass(frozen=True, eq=False)
class FitSection:
    """The active voxels of one iteration as autograd leaves.

    flex: on the section's own voxels, SDF in voxel widths. voxel_rows, corner_rows: rows in the whole set, None where
    the section is the whole set. free: corners that no inactive voxel shares; only these may move.
    """

    flex: SparseFlex
    sdf: Tensor
    deform: Tensor
    weights: Tensor
    voxel_rows: Int[Tensor, "n"] | None
    corner_rows: Int[Tensor, "c"] | None
    free: Bool[Tensor, "c"] | None

    def gradients(self) -> dict[str, Tensor]:
        return {
            name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            for name, leaf in (("sdf", self.sdf), ("deform", self.deform), ("weights", self.weights))
        }


class FitParameters:
    """sdf (C,) in voxel widths, deform (C, 3) before tanh, raw weights (N, 21), with a row-wise AdamW over them."""

    def __init__(self, voxels: SparseVoxels, sdf: Float[Tensor, "C"]) -> None:
        self.voxels = voxels
        self.sdf = sdf.to(torch.float32).clone()
        self.deform = torch.zeros(voxels.n_corners, 3, device=voxels.device)
        self.weights = torch.zeros(voxels.n_voxels, N_WEIGHTS, device=voxels.device)
        self.optimiser = RowwiseAdamW(self.tensors())
        self._whole: tuple[list[int], SparseFlex] | None = None  # the last flex(), by the tensors' versions

    def tensors(self) -> dict[str, Tensor]:
        return {"sdf": self.sdf, "deform": self.deform, "weights": self.weights}

    @property
    def n_bytes(self) -> int:
        """Bytes of the parameters and of all that the optimiser keeps of them."""
        kept = [tensor for kind in self.optimiser.state_dict().values() for tensor in kind.values()]
        return sum(tensor.nbytes for tensor in (*self.tensors().values(), *kept))

    def flex(self) -> SparseFlex:
        """The whole set, SDF in world units, without autograd; the same object until the parameters change."""
        versions = [tensor._version for tensor in self.tensors().values()]
        if self._whole is None or self._whole[0] != versions:
            whole = _flex(self.voxels, self.sdf / self.voxels.resolution, self.deform, self.weights)
            self._whole = versions, whole
        return self._whole[1]

    def section(self, active: Bool[Tensor, "N"]) -> FitSection:
        """The active voxels with leaves of their own, so that all that follows costs what the section costs."""
        self._whole = None
        if bool(active.all()):
            leaves = [tensor.clone().requires_grad_() for tensor in self.tensors().values()]
            return FitSection(_flex(self.voxels, *leaves), *leaves, None, None, None)
        voxels, voxel_rows, corner_rows = self.voxels.section(active)
        free = voxels.corner_degree == self.voxels.corner_degree.index_select(0, corner_rows)
        sdf = self.sdf.index_select(0, corner_rows).requires_grad_()
        deform = self.deform.index_select(0, corner_rows).requires_grad_()
        weights = self.weights.index_select(0, voxel_rows).requires_grad_()
        flex = _flex(voxels, sdf, deform, weights)
        return FitSection(flex, sdf, deform, weights, voxel_rows, corner_rows, free)

    def update(self, section: FitSection, learning_rates: dict[str, float]) -> None:
        """One optimiser step; inactive voxels and every corner of theirs keep their bits."""
        for name, grad in section.gradients().items():
            rows = section.voxel_rows if name == "weights" else section.corner_rows
            if rows is not None and name != "weights":
                rows, grad = rows[section.free], grad[section.free]
            self.optimiser.step(name, rows, grad, learning_rates[name])

    def state_dict(self) -> dict:
        return {"voxel_ijk": self.voxels.voxel_ijk, "resolution": self.voxels.resolution, **self.tensors(),
                "optimiser": self.optimiser.state_dict()}

    @classmethod
    def from_state_dict(
        cls, state: dict, device: torch.device | str, known: SparseVoxels | None = None
    ) -> FitParameters:
        """known: taken where its voxels are the same, so that nothing which depends on the set is made anew."""
        voxel_ijk, resolution = state["voxel_ijk"].to(device), state["resolution"]
        same = known is not None and known.resolution == resolution and torch.equal(known.voxel_ijk, voxel_ijk)
        voxels = known if same else SparseVoxels(voxel_ijk, resolution)
        parameters = cls(voxels, state["sdf"].to(device))
        for name, tensor in parameters.tensors().items():
            tensor.copy_(state[name])
        parameters.optimiser.load_state_dict(state["optimiser"])
        return parameters


def _flex(voxels: SparseVoxels, sdf: Tensor, deform: Tensor, weights: Tensor) -> SparseFlex:
    alpha, beta, gamma = activate_weights(weights)
    return SparseFlex(voxels, sdf, deform, alpha, beta, gamma, sdf.new_zeros(()))
