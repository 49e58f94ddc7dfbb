"""The fit's objective: the weighted sum of rendering losses and regularisers (paper, equation for L; method.md, 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparseflex import losses
from sparseflex.camera import Camera
from sparseflex.free_space import free_space_labels, free_space_loss
from sparseflex.mesh import Mesh
from sparseflex.render import Maps
from sparseflex.training.config import FitConfig
from sparseflex.training.fit_parameters import FitSection

_MARGIN_VOXELS = 0.25
"""How far in front of the target a corner must lie to be judged: nearer ones are where the surface itself moves."""


def term_names(config: FitConfig) -> tuple[str, ...]:
    """The names of the terms that terms() gives, in its order."""
    weighed = [name for name in ("ssim", "lpips", "free_space") if getattr(config, f"{name}_weight") > 0]
    return ("depth", "normal", "mask", *weighed, "dev", "sign")


class Objective:
    """Weighs the terms as a FitConfig says. terms() gives each one weighted, so that their sum is the loss.

    labels: what each view said of the section's corners when terms() was called last (see free_space_labels).
    """

    def __init__(self, config: FitConfig) -> None:
        self.labels: list[Tensor] = []
        self.lpips: Callable[[Tensor, Tensor], Tensor] | None = None
        if config.lpips_weight > 0:
            self.lpips = losses.load_lpips(config.lpips_weights_file)

    def view_terms(self, rendered: Maps, target: Maps, config: FitConfig) -> dict[str, Tensor]:
        """The rendering losses of one view; the mask over all pixels, the others where both are hit."""
        both = rendered.hit & target.hit
        terms = {
            "depth": config.depth_weight * losses.depth_l1(rendered.depth, target.depth, both),
            "normal": config.normal_weight * losses.normal_l1(rendered.normal, target.normal, both),
            "mask": config.mask_weight * losses.mask_l1(rendered.mask, target.mask),
        }
        if config.ssim_weight > 0:
            terms["ssim"] = config.ssim_weight * losses.ssim_loss(rendered.normal, target.normal, both)
        if self.lpips is not None:
            terms["lpips"] = config.lpips_weight * self.lpips(rendered.normal, target.normal)
        return terms

    def corner_labels(self, section: FitSection, target: Maps, camera: Camera) -> Tensor:
        """The corners of the section that the target's view shows to be outside or inside."""
        corners = section.flex.corner_positions().detach()
        return free_space_labels(corners, camera, target, _MARGIN_VOXELS / section.flex.voxels.resolution)

    def shape_terms(self, section: FitSection, mesh: Mesh, config: FitConfig, progress: float) -> dict[str, Tensor]:
        """The regularisers of FlexiCubes: L_dev, and the cross entropy across sign-changing edges, which fades."""
        fade = min(4 * progress, 1.0)
        sign_weight = (1 - fade) * config.sign_weight + fade * config.sign_weight_end
        a, b = section.flex.voxels.lattice_edges.unbind(1)
        sdf = section.sdf
        changes = (sdf.detach()[a] < 0) != (sdf.detach()[b] < 0)
        a, b = a[changes], b[changes]
        return {
            "dev": config.dev_weight * losses.dev_loss(mesh.l_dev * section.flex.voxels.resolution),
            "sign": sign_weight * losses.sign_change_loss(sdf[a], sdf[b]),
        }

    def terms(self, rendered: list[Maps], target: list[Maps], cameras: list[Camera], section: FitSection, mesh: Mesh,
              config: FitConfig, progress: float) -> tuple[dict[str, Tensor], list[float]]:
        """All terms, the views' averaged, and the rendering loss of each view. progress: share of the run done."""
        views = [self.view_terms(r, t, config) for r, t in zip(rendered, target, strict=True)]
        terms = {name: torch.stack([view[name] for view in views]).mean() for name in views[0]}
        per_view = torch.stack([sum(term.detach() for term in view.values()) for view in views]).tolist()
        self.labels = []
        if config.free_space_weight > 0 or config.start_resolution:
            self.labels = [self.corner_labels(section, t, camera) for t, camera in zip(target, cameras, strict=True)]
        if config.free_space_weight > 0:
            seen = [config.free_space_weight * free_space_loss(section.sdf, labels) for labels in self.labels]
            terms["free_space"] = torch.stack(seen).mean()
        return terms | self.shape_terms(section, mesh, config, progress), per_view
