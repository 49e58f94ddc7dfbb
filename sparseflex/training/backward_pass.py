"""BackwardPass: what one backward pass worked on, and how much each term of the loss pulled on every parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.render import Maps
from sparseflex.representation import SparseFlex, activate_weights
from sparseflex.training.config import FitConfig
from sparseflex.training.fit_parameters import FitSection
from sparseflex.training.objective import Objective, term_names
from sparseflex.voxels import SparseVoxels

PARAMETERS = ("sdf", "deform", "weights")
BACKWARD = "backward"
"""The field that is a BackwardPass."""

AT_CORNERS = ("sdf", "deform")
_BLOCK = 1 << 16  # numbers of each gradient that are multiplied at a time: they stay in the processor's cache


_OF_TERM = "_grad_"


def watchable_fields(config: FitConfig) -> dict[str, str]:
    """Fields that tell terms apart, such as `sdf_grad_depth`, by their kinds, and BACKWARD itself."""
    by_term = {f"{parameter}{_OF_TERM}{term}": "corner" if parameter in AT_CORNERS else "voxel"
               for parameter in PARAMETERS for term in term_names(config)}
    return {**by_term, BACKWARD: BACKWARD}


def gradients_by_term(terms: Mapping[str, Tensor], section: FitSection) -> dict[str, dict[str, Tensor | None]]:
    """The gradient of each term by the section's leaves, None where it doesn't depend on one; the graph stays."""
    leaves = [getattr(section, name) for name in PARAMETERS]
    nothing = (None,) * len(leaves)
    return {
        term: dict(zip(PARAMETERS, torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
                       if value.requires_grad else nothing, strict=True))
        for term, value in terms.items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class PassView:
    """A camera of the pass, without autograd: what it saw, and what it should have seen."""

    camera: Camera
    rendered: Maps
    target: Maps

    @classmethod
    def of(cls, camera: Camera, rendered: Maps, target: Maps) -> PassView:
        return cls(camera, *(Maps(m.depth.detach(), m.normal.detach(), m.mask.detach(), m.triangle_id)
                             for m in (rendered, target)))


@dataclasses.dataclass(frozen=True, eq=False)
class BackwardPass:
    """One backward pass, before the update that it led to; immutable, on the run's device.

    iteration: counted from 1. voxels: the whole set; section: the active ones, with voxel_rows and corner_rows in the
    whole set (None: all of it). leaves: the section's parameters by PARAMETERS (SDF in voxel widths, deformation before
    tanh, raw weights). mesh: extract_mesh(flex, training=True), detached. by_term: gradients by term and parameter,
    None where a term doesn't depend on one; total: those of the loss. view_terms: the rendering losses of one view,
    weighted; the loss takes their mean over the views.
    """

    iteration: int
    voxels: SparseVoxels
    section: SparseVoxels
    voxel_rows: Int[Tensor, "n"] | None
    corner_rows: Int[Tensor, "c"] | None
    leaves: Mapping[str, Tensor]
    mesh: Mesh
    views: tuple[PassView, ...]
    by_term: Mapping[str, Mapping[str, Tensor | None]]
    total: Mapping[str, Tensor]
    view_terms: Callable[[Maps, Maps], dict[str, Tensor]]

    @classmethod
    def of(cls, iteration: int, voxels: SparseVoxels, section: FitSection, mesh: Mesh, views: Sequence[PassView],
           by_term: Mapping[str, Mapping[str, Tensor | None]], view_terms: Callable) -> BackwardPass:
        """section: after its backward pass."""
        leaves = {name: getattr(section, name).detach() for name in PARAMETERS}
        return cls(iteration, voxels, section.flex.voxels, section.voxel_rows, section.corner_rows, leaves,
                   mesh.detach(), tuple(views), by_term, section.gradients(), view_terms)

    @property
    def terms(self) -> tuple[str, ...]:
        return tuple(self.by_term)

    def flex(self, leaves: Mapping[str, Tensor] | None = None) -> SparseFlex:
        """The section as it was rendered, or with other leaves; SDF in voxel widths."""
        leaves = self.leaves if leaves is None else leaves
        weights = activate_weights(leaves["weights"])
        return SparseFlex(self.section, leaves["sdf"], leaves["deform"], *weights, leaves["sdf"].new_zeros(()))

    def gradient(self, parameter: str, term: str = "") -> Tensor:
        """Of one term, or of the whole loss: a row a corner, or a voxel, of the section."""
        found = self.total[parameter] if not term else self.by_term[term][parameter]
        return torch.zeros_like(self.leaves[parameter]) if found is None else found

    def norms(self, parameter: str, term: str = "") -> Float[Tensor, "rows"]:
        """Magnitude of the gradient at each corner (sdf, deform) or voxel (weights) of the section."""
        found = self.gradient(parameter, term)
        return found.abs() if found.ndim == 1 else torch.linalg.vector_norm(found, dim=1)

    def voxel_norms(self, parameter: str, term: str = "") -> Float[Tensor, "n"]:
        """One number a voxel of the section: of corners the largest of its eight, NaN where one of them is."""
        found = self.norms(parameter, term)
        if parameter not in AT_CORNERS or not self.section.n_voxels:
            return found if parameter not in AT_CORNERS else found.new_zeros(0)
        largest = found.index_select(0, self.section.corners_by_slot[0])
        for corners in self.section.corners_by_slot[1:]:
            largest = torch.maximum(largest, found.index_select(0, corners))  # NaN stays
        return largest

    def read(self, name: str) -> Float[Tensor, "rows"]:
        """A field such as `sdf_grad_depth`, spread over the whole set: 0 where nothing was active."""
        parameter, _, term = name.partition(_OF_TERM)
        size = self.norms(parameter, term)
        rows = self.corner_rows if parameter in AT_CORNERS else self.voxel_rows
        if rows is None:
            return size
        n = self.voxels.n_corners if parameter in AT_CORNERS else self.voxels.n_voxels
        return size.new_zeros(n).index_copy_(0, rows.long(), size)

    def products(self) -> Float[Tensor, "3 T T"]:
        """The terms' gradients multiplied with each other, by parameter: the diagonal holds squared norms. What isn't
        finite counts as 0: one bad row would hide all the others. float64."""
        terms = self.terms
        found = torch.zeros(len(PARAMETERS), len(terms), len(terms), dtype=torch.float64,
                            device=self.leaves["sdf"].device)
        for k, parameter in enumerate(PARAMETERS):
            there = [i for i, term in enumerate(terms) if self.by_term[term][parameter] is not None]
            flat = [self.by_term[terms[i]][parameter].reshape(-1) for i in there]
            total = found.new_zeros(len(there), len(there))
            for start in range(0, flat[0].shape[0] if flat else 0, _BLOCK):
                block = torch.stack([grad[start : start + _BLOCK] for grad in flat]).nan_to_num(0.0, 0.0, 0.0).double()
                total += block @ block.T
            rows = torch.tensor(there, dtype=torch.int64, device=found.device)
            found[k, rows[:, None], rows] = total
        return found


class Watch:
    """What a fit keeps of its backward passes while somebody looks, else nothing. terms: of the loss, with their graph,
    as long as that is needed; found: the last pass."""

    def __init__(self) -> None:
        self.terms: dict[str, Tensor] = {}
        self.found: BackwardPass | None = None
        self._on = False
        self._by_term: dict[str, dict[str, Tensor | None]] | None = None

    def ask(self, names: Collection[str]) -> None:
        """Somebody looks from now on if any of these is watchable."""
        self._on = any(name == BACKWARD or _OF_TERM in name for name in names)

    def before(self, section: FitSection) -> None:
        """Each term's gradients, taken before the loss's own backward pass, which they leave as it is."""
        terms, self.terms = self.terms, {}
        self._by_term = gradients_by_term(terms, section) if self._on else None

    def after(self, iteration: int, voxels: SparseVoxels, section: FitSection, mesh: Mesh, objective: Objective,
              config: FitConfig, views: Iterable[tuple[Camera, Maps, Maps]]) -> None:
        """Keeps the pass that has just ended; views: cameras, what they rendered, and what they should have."""
        by_term, self._by_term = self._by_term, None
        if by_term is None:
            return
        seen = [PassView.of(*view) for view in views]

        def view_terms(rendered: Maps, target: Maps) -> dict[str, Tensor]:
            return objective.view_terms(rendered, target, config)

        self.found = BackwardPass.of(iteration, voxels, section, mesh, seen, by_term, view_terms)

    def read(self, name: str, voxels: SparseVoxels) -> BackwardPass | Tensor | None:
        """A watchable field; one with rows only while the voxels are still those of the pass."""
        if self.found is None or name == BACKWARD:
            return self.found
        known = self.found.voxels is voxels and name.partition(_OF_TERM)[2] in self.found.by_term
        return self.found.read(name) if known else None
