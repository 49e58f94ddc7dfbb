"""Coverage: how often each voxel of a fit was active and seen, by which kinds of cameras, from where, at what loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.render import Maps, pixel_rays
from sparseflex.sampling import SampledCamera
from sparseflex.training.fit_cameras import camera_key
from sparseflex.training.fit_parameters import FitSection
from sparseflex.training.run import FieldKind, RunCamera
from sparseflex.voxels import SparseVoxels

if TYPE_CHECKING:
    from sparseflex.training.config import FitConfig

SOURCES = ("orbit", "zoom", "interior", "fixed", "whole", "near cut", "window", "section")
"""Bit k of active_by and seen_by: the kind of a camera (four), and what its planes leave (four): the whole object, what
lies behind a near plane that cuts it, a window of depths, or a section of the share that the visibility ratio asks for.
Every view has one of either."""

KINDS, PLANES = SOURCES[:4], SOURCES[4:]
_PLANES_OF_CUT = {"none": "whole", "near": "near cut", "window": "window"}

COVERAGE_FIELDS: dict[str, FieldKind] = {
    "active_count": "voxel", "seen_count": "voxel", "camera_count": "voxel", "viewing_angle": "voxel",
    "last_loss": "voxel", "last_seen": "voxel", "active_by": "voxel", "seen_by": "voxel", "views": "trace",
}

_PER_VOXEL = {
    "active_count": torch.int32, "seen_count": torch.int32, "camera_count": torch.int32, "angle_sum": torch.float32,
    "last_loss": torch.float32, "last_seen": torch.int32, "active_by": torch.uint8, "seen_by": torch.uint8,
}


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One camera of an iteration: as it was drawn and with the planes that it was used with; the voxels in its frustum,
    and what it sees of the fit and of the target. adapted: whether the visibility ratio has set the planes."""

    sampled: SampledCamera
    camera: Camera
    inside: Bool[Tensor, "N"]
    rendered: Maps
    target: Maps
    adapted: bool

    @property
    def sources(self) -> int:
        """Its bits of SOURCES."""
        planes = "section" if self.adapted else _PLANES_OF_CUT[self.sampled.cut]
        return 1 << SOURCES.index(self.sampled.kind) | 1 << SOURCES.index(planes)


@dataclasses.dataclass(eq=False)
class Coverage:
    """Of N voxels, over all views so far (a view is one camera in one iteration):

    active_count: (N,) views in whose frustum, between near and far, the voxel's centre lay.
    seen_count: views that saw it: a triangle with a corner in the voxel (one of its dual vertices) is the nearest at
    some pixel's centre. A pixel thus sees two voxels, those that its triangle joins.
    camera_count: cameras that saw it. One drawn at random is a camera of its own; a fixed one counts once.
    angle_sum: over these views, the angle in degrees between the way to the eye and the surface's normal: that of the
    mean cosine over the view's pixels of it. Over 90: seen from behind.
    last_loss: what its pixels contributed to the loss when it was seen last, in iteration last_seen (counted from 1, 0
    for never): depth, normal and mask terms, half of each pixel to either of its voxels.
    active_by, seen_by: bits of SOURCES.
    views: (8, 3) by source: views, how many of them saw no voxel, how many saw more surface from behind than from in
    front. own: keys of the fixed cameras that saw something, own_seen: bit k of the rows: what the k-th one saw.
    """

    active_count: Int[Tensor, "N"]
    seen_count: Int[Tensor, "N"]
    camera_count: Int[Tensor, "N"]
    angle_sum: Float[Tensor, "N"]
    last_loss: Float[Tensor, "N"]
    last_seen: Int[Tensor, "N"]
    active_by: UInt8[Tensor, "N"]
    seen_by: UInt8[Tensor, "N"]
    views: Int[Tensor, "8 3"]
    own: list[tuple[float, ...]]
    own_seen: UInt8[Tensor, "K N"]

    @classmethod
    def none(cls, voxels: SparseVoxels) -> Coverage:
        n, device = voxels.n_voxels, voxels.device
        known = {name: torch.zeros(n, dtype=dtype, device=device) for name, dtype in _PER_VOXEL.items()}
        return cls(**known, views=torch.zeros(len(SOURCES), 3, dtype=torch.int64), own=[],
                   own_seen=torch.zeros(0, n, dtype=torch.uint8, device=device))

    @property
    def n_never_seen(self) -> int:
        return int((self.seen_count == 0).sum())

    @torch.no_grad()
    def observe(self, cameras: Sequence[RunCamera], section: FitSection, mesh: Mesh, views: Sequence[View],
                config: FitConfig, iteration: int) -> list[RunCamera]:
        """Takes in the views of an iteration, counted from 1, and gives their cameras with what each saw.

        mesh: what extract_mesh made of the section.
        """
        seen = [self._observe(section, mesh, view, config, iteration, len(views)) for view in views]
        return [dataclasses.replace(camera, n_seen=n_seen, behind=behind)
                for camera, (n_seen, behind) in zip(cameras, seen, strict=True)]

    def _observe(self, section: FitSection, mesh: Mesh, view: View, config: FitConfig, iteration: int, n_views: int
                 ) -> tuple[int, float]:
        """n_seen and behind of its RunCamera."""
        bits = view.sources
        self.active_count += view.inside
        self.active_by |= view.inside.to(torch.uint8).mul_(bits)
        found = _Pixels.of(view, config, n_views)
        n_pixels, cosine, loss = found.by_voxel(mesh, section.flex.voxels.n_voxels)
        local = n_pixels.nonzero().squeeze(1)
        rows = local if section.voxel_rows is None else section.voxel_rows.index_select(0, local)
        n_pixels = n_pixels.index_select(0, local)
        angle = (cosine.index_select(0, local) / n_pixels).clamp_(-1, 1).acos_().rad2deg_()
        self.angle_sum.index_add_(0, rows, angle)
        self.last_loss.index_copy_(0, rows, loss.index_select(0, local))
        self.last_seen.index_fill_(0, rows, iteration)
        self.seen_by.index_copy_(0, rows, self.seen_by.index_select(0, rows) | bits)
        self.seen_count.index_add_(0, rows, torch.ones_like(rows, dtype=torch.int32))
        self._count_camera(view.sampled, rows)
        n_hit, n_behind = found.n_pixels, found.n_behind
        row = torch.tensor([1, int(len(rows) == 0), int(2 * n_behind > n_hit)])
        for k in range(len(SOURCES)):
            if bits >> k & 1:
                self.views[k] += row
        return len(rows), n_behind / n_hit if n_hit else float("nan")

    def _count_camera(self, sampled: SampledCamera, rows: Int[Tensor, "m"]) -> None:
        """Adds a camera to these voxels, unless it is a fixed one that has seen them before."""
        if sampled.kind == "fixed":
            key = camera_key(sampled.camera)
            if key not in self.own:
                self.own.append(key)
            place, bit = divmod(self.own.index(key), 8)
            if place == len(self.own_seen):
                self.own_seen = torch.cat([self.own_seen, torch.zeros_like(self.seen_by)[None]])
            seen = self.own_seen[place].index_select(0, rows)
            self.own_seen[place].index_copy_(0, rows, seen | 1 << bit)
            rows = rows[(seen >> bit & 1) == 0]
        self.camera_count.index_add_(0, rows, torch.ones_like(rows, dtype=torch.int32))

    def moved(self, old: SparseVoxels, new: SparseVoxels) -> Coverage:
        """The same once the voxels are others: children have what their parents had, those that are born nothing."""
        rows = old.find(new.voxel_ijk if new.resolution == old.resolution else new.voxel_ijk >> 1)
        known, rows, fresh = rows >= 0, rows.clamp(min=0), Coverage.none(new)
        if old.n_voxels:
            for name in _PER_VOXEL:
                own = getattr(fresh, name)
                own.copy_(torch.where(known, getattr(self, name).index_select(0, rows), own))
            fresh.own_seen = self.own_seen.index_select(1, rows) * known
        else:  # a row for each eight of the cameras, of which own stays
            fresh.own_seen = fresh.own_seen.new_zeros(len(self.own_seen), new.n_voxels)
        fresh.views, fresh.own = self.views, self.own
        return fresh

    def read(self, name: str) -> Tensor:
        """A field of COVERAGE_FIELDS: `viewing_angle` is the mean over the views; it and `last_loss` are NaN where the
        voxel was never seen. `views` is float."""
        if name == "viewing_angle":
            return torch.where(self.seen_count > 0, self.angle_sum / self.seen_count, torch.nan)
        if name == "last_loss":
            return torch.where(self.seen_count > 0, self.last_loss, torch.nan)
        return self.views.to(torch.float32) if name == "views" else getattr(self, name)

    def state_dict(self) -> dict[str, Any]:
        return {"own": [list(key) for key in self.own], "own_seen": self.own_seen, "views": self.views,
                **{name: getattr(self, name) for name in _PER_VOXEL}}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any] | None, voxels: SparseVoxels) -> Coverage:
        """state: None, or without what is known by now, where an older run wrote it: then nothing was seen yet."""
        fresh = cls.none(voxels)
        if (state is None or not fresh.state_dict().keys() <= state.keys()
                or any(len(state[name]) != voxels.n_voxels for name in _PER_VOXEL)):
            return fresh
        for name in _PER_VOXEL:
            getattr(fresh, name).copy_(state[name])
        fresh.views = state["views"].cpu().clone()
        fresh.own = [tuple(key) for key in state["own"]]
        fresh.own_seen = state["own_seen"].to(voxels.device, copy=True)
        return fresh


@dataclasses.dataclass(frozen=True, eq=False)
class _Pixels:
    """The pixels of a view that see a face: which one, the cosine of the viewing angle, and their share of the loss."""

    face: Int[Tensor, "P"]
    cosine: Float[Tensor, "P"]
    loss: Float[Tensor, "P"]

    @classmethod
    def of(cls, view: View, config: FitConfig, n_views: int) -> _Pixels:
        rendered, target = view.rendered, view.target
        ids = rendered.triangle_id.view(-1)
        pixel = (ids >= 0).nonzero().squeeze(1)
        normal = rendered.normal.detach().view(-1, 3).index_select(0, pixel)  # whole rows: a fifth of what columns take
        ray = pixel_rays(view.camera, pixel, normal.dtype)
        length = (ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2]).sqrt_()
        cosine = (normal[:, 0] * ray[0] + normal[:, 1] * ray[1] + normal[:, 2] * ray[2]).div_(length).neg_()
        both = (target.triangle_id.view(-1).index_select(0, pixel) >= 0).to(normal.dtype)
        aside = normal.sub_(target.normal.view(-1, 3).index_select(0, pixel)).abs_()
        loss = torch.mv(aside, aside.new_full((3,), config.normal_weight / 3))
        off = _difference(rendered.depth, target.depth, pixel)
        loss.add_(off, alpha=config.depth_weight).mul_(both / both.sum().clamp(min=1))
        loss.add_(_difference(rendered.mask, target.mask, pixel), alpha=config.mask_weight / ids.numel())
        return cls(ids.index_select(0, pixel), cosine, loss.div_(n_views))

    @property
    def n_pixels(self) -> int:
        return self.face.shape[0]

    @property
    def n_behind(self) -> int:
        return int((self.cosine < 0).sum())

    def by_voxel(self, mesh: Mesh, n_voxels: int) -> tuple[Tensor, Tensor, Tensor]:
        """(n,) each, n the section's voxels: pixels, the sum of their cosines, and half the sum of their losses."""
        joined = voxels_joined(mesh, self.face).view(-1)

        def summed(values: Tensor) -> Tensor:
            return values.new_zeros(n_voxels).scatter_add_(0, joined, values.repeat(2))

        return summed(torch.ones_like(self.loss)), summed(self.cosine), summed(self.loss / 2)


def _difference(a: Float[Tensor, "H W"], b: Float[Tensor, "H W"], pixel: Int[Tensor, "P"]) -> Float[Tensor, "P"]:
    first = a.detach().view(-1).index_select(0, pixel)
    return first.sub_(b.view(-1).index_select(0, pixel)).abs_()


def voxels_joined(mesh: Mesh, faces: Int[Tensor, "F"]) -> Int[Tensor, "2 F"]:
    """The two voxels that each of these faces joins, of a mesh that was extracted for training: rows of the voxels that
    it was extracted of."""
    vertices = mesh.faces.index_select(0, faces)
    return torch.stack([mesh.dual_voxel.index_select(0, vertices[:, k]) for k in (0, 1)])
