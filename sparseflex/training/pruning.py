"""Pruning: which voxels a fit drops, adds and splits, why, and how right that is against the target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.render import Maps
from sparseflex.training.config import FitConfig
from sparseflex.training.fit_parameters import FitParameters, FitSection
from sparseflex.training.levels import carry, level_starts, own_surface, refine, view_config
from sparseflex.training.occupancy import MARGIN_VOXELS, Occupancy, PruneReason
from sparseflex.voxels import SparseVoxels

_FEW_VIEWS = 8
"""Fewer views than these may have missed the target: what the fit has of surface is believed there."""

_LOST_SHARE, _LOST_OWN = 0.15, 0.6
"""A child that the fit misses in more of the views that hit it holds a surface that the fit has not found: that much
where the fit has none near it, and that much where it has another one."""

_OBSERVED = 100
"""Iterations of a level, evenly spread, whose views the estimate takes in; all of a shorter one."""

MAX_EVENTS = 64
"""Beyond that the oldest are forgotten, those of subdivisions last."""


@dataclasses.dataclass(frozen=True, eq=False)
class PruneEvent:
    """What one look at the voxels changed; all tensors on the CPU.

    iteration: counted from 1, that at whose end it happened. level, resolution: after it; subdivided: whether it began
    that level, the pruned voxels then being children that never took part. n_kept: voxels afterwards, born ones too.
    pruned_reason: PruneReason of each pruned voxel, pruned_occupancy its estimate (a child's is its parent's), NaN
    where unknown. Against the target: wrongly_pruned marks the pruned voxels that the target touches; wrongly_kept are
    the kept ones that it does not come within a quarter voxel of, with wrongly_kept_reason. (Between the two a voxel
    is right either way: the quarter is there so that the surface has room to move.)
    """

    iteration: int
    level: int
    resolution: int
    subdivided: bool
    n_kept: int
    pruned: SparseVoxels
    pruned_reason: UInt8[Tensor, "P"]
    pruned_occupancy: Float[Tensor, "P"]
    born: SparseVoxels
    wrongly_pruned: Bool[Tensor, "P"]
    wrongly_kept: SparseVoxels
    wrongly_kept_reason: UInt8[Tensor, "W"]

    @property
    def n_wrongly_pruned(self) -> int:
        return int(self.wrongly_pruned.sum())

    @property
    def n_wrongly_kept(self) -> int:
        return self.wrongly_kept.n_voxels

    @property
    def n_pruned(self) -> int:
        return self.pruned.n_voxels

    @property
    def n_born(self) -> int:
        return self.born.n_voxels

    def state_dict(self) -> dict[str, Any]:
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        state["subdivided"] = int(self.subdivided)
        return state | {name: state[name].voxel_ijk for name in ("pruned", "born", "wrongly_kept")}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> PruneEvent:
        sets = {name: SparseVoxels(state[name].cpu(), state["resolution"]) for name in
                ("pruned", "born", "wrongly_kept")}
        return cls(**{**state, **sets, "subdivided": bool(state["subdivided"])})


class Truth:
    """Which voxels the target touches, and which it comes within a quarter voxel of; computed once a resolution.

    Only what is recorded of the decisions knows it, never the decisions.
    """

    def __init__(self, target: Mesh) -> None:
        self.target = target
        self._known: dict[float, SparseVoxels] = {}
        self._latest: tuple[SparseVoxels, Tensor] | None = None  # of margin 0: asked for again and again of one set

    def touched(self, voxels: SparseVoxels, margin: float = 0.0) -> Bool[Tensor, "N"]:
        if not margin and self._latest is not None and self._latest[0] is voxels:
            return self._latest[1]
        known = self._known.get(margin)
        if known is None or known.resolution != voxels.resolution:
            self._known[margin] = known = SparseVoxels.from_mesh(self.target, voxels.resolution, margin)
        found = known.find(voxels.voxel_ijk) >= 0
        if not margin:
            self._latest = voxels, found
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """What a look at the voxels came to: parameters and estimate on the new set, and the event that tells of it."""

    parameters: FitParameters
    occupancy: Occupancy
    event: PruneEvent


class Pruner:
    """Level, estimate and events of a fit that goes coarse to fine; decides at the end of iterations.

    `prune_every` iterations apart it looks at all voxels: those whose estimate stayed below prune_below at two looks,
    without having been above keep_above since, go; missing ones in which target points lie again and again, so that
    their estimate is above keep_above, are born. When a level is done its voxels are split in eight, and children
    without surface go at once: those that neither the fit's own surface nor any point of the target seen so far comes
    within a quarter voxel of, unless no view has judged their parent.
    """

    def __init__(self, target: Mesh, voxels: SparseVoxels) -> None:
        self.truth = Truth(target)
        self.level = 0
        self.occupancy = Occupancy.unknown(voxels)
        self.events: list[PruneEvent] = []

    def view_config(self, config: FitConfig) -> FitConfig:
        """What an iteration's cameras and planes are drawn by; the run's own settings where there are no levels."""
        return view_config(config, self.level) if config.start_resolution else config

    def observe(self, voxels: SparseVoxels, section: FitSection, labels: Float[Tensor, "c"], camera: Camera,
                target: Maps, rendered: Maps, config: FitConfig, iteration: int) -> None:
        """Takes one view of an iteration into the estimate; see Occupancy.observe."""
        starts = (*level_starts(config), config.iterations)
        cells = 2 if self.level + 2 < len(starts) else 1
        turn, skipped = divmod(iteration, max((starts[self.level + 1] - starts[self.level]) // _OBSERVED, 1))
        if not skipped:
            self.occupancy.observe(voxels, section, labels, camera, target, rendered, cells, turn)

    def look(self, parameters: FitParameters, config: FitConfig, ended: int, generator: torch.Generator
             ) -> Change | None:
        """What is due once `ended` iterations have ended; None where nothing is, or nothing changes."""
        starts = level_starts(config)
        if self.level + 1 < len(starts) and ended >= starts[self.level + 1]:
            self.level += 1
            return self._record(self._subdivide(parameters, ended, generator))
        if config.prune_every and ended % config.prune_every == 0:
            return self._record(self._prune(parameters, config, ended))
        return None

    def scalars(self, change: Change | None, n_before: int) -> dict[str, float]:
        """Of one iteration: level, counted from 0, resolution, and what was pruned and born of n_before voxels."""
        found = {"level": float(self.level), "pruned": 0.0, "born": 0.0, "pruned_fraction": 0.0}
        if change is not None:
            event = change.event
            of = 8 * n_before if event.subdivided else n_before
            found |= {"pruned": float(event.n_pruned), "born": float(event.n_born),
                      "pruned_fraction": event.n_pruned / max(of, 1)}
        return found

    def read(self, name: str, voxels: SparseVoxels, prunes: bool) -> Any:
        """The fields: occupancy, touched, and prune, the events; None where nothing is ever pruned."""
        if name == "touched":
            return self.truth.touched(voxels)
        if not prunes:
            return None
        return self.occupancy.estimate if name == "occupancy" else tuple(self.events)

    def _record(self, change: Change) -> Change:
        self.occupancy = change.occupancy
        self.events.append(change.event)
        if len(self.events) > MAX_EVENTS:
            first = next((k for k, event in enumerate(self.events) if not event.subdivided), 0)
            del self.events[first]
        return change

    def _prune(self, parameters: FitParameters, config: FitConfig, ended: int) -> Change:
        voxels, occupancy = parameters.voxels, self.occupancy
        estimate = occupancy.estimate  # where it is unknown, NaN compares false
        low = estimate < config.prune_below
        doomed = occupancy.waiting & low
        occupancy.waiting = (occupancy.waiting & ~(estimate > config.keep_above)) | low
        born = occupancy.missing[occupancy.missing_estimate > config.keep_above]
        if len(born) or bool(doomed.any()):
            keys = torch.cat([voxels.keys[~doomed], born.to(voxels.keys.dtype)])
            kept = SparseVoxels.from_keys(keys.sort().values, voxels.resolution)
            parameters, occupancy = carry(parameters, kept), occupancy.moved(voxels, kept)
        occupancy.forget_missing()
        pruned = _Pruned(voxels.prune(doomed), PruneReason.SEEN_PAST, estimate[doomed])
        reason = occupancy.reasons(config.prune_below, config.keep_above)
        born = SparseVoxels.from_keys(born, voxels.resolution)
        return Change(parameters, occupancy, self._event(ended, parameters.voxels, reason, pruned, born, False))

    def _subdivide(self, parameters: FitParameters, ended: int, generator: torch.Generator) -> Change:
        voxels, occupancy = parameters.voxels, self.occupancy
        children = voxels.subdivide()
        estimate = occupancy.estimate.repeat_interleave(8)
        mesh = own_surface(parameters)
        own = SparseVoxels.from_mesh(mesh, children.resolution, MARGIN_VOXELS).find(children.voxel_ijk) >= 0
        reason = torch.zeros(children.n_voxels, dtype=torch.uint8, device=children.device)
        hit = occupancy.hit_cells.view(-1)
        n_views = occupancy.n_views.repeat_interleave(8)
        reason[n_views == 0] = PruneReason.UNKNOWN
        reason[own & (n_views < _FEW_VIEWS)] = PruneReason.OWN_SURFACE
        reason[hit] = PruneReason.TARGET_SEEN
        kept = reason > 0
        keys, order = children.keys[kept].sort()
        chosen = SparseVoxels.from_keys(keys, children.resolution)
        pruned = _Pruned(children.prune(~kept), PruneReason.NO_SURFACE, estimate[~kept])
        born = SparseVoxels.from_keys(keys[:0], children.resolution)
        event = self._event(ended, chosen, reason[kept][order], pruned, born, True)
        lost = hit & (occupancy.missed_cells.view(-1) > torch.where(own, _LOST_OWN, _LOST_SHARE))
        fine = refine(parameters, chosen, lost[kept][order], generator)
        return Change(fine, Occupancy.unknown(chosen), event)

    def _event(self, ended: int, kept: SparseVoxels, kept_reason: UInt8[Tensor, "N"], pruned: _Pruned,
               born: SparseVoxels, subdivided: bool) -> PruneEvent:
        wrong = ~self.truth.touched(kept, MARGIN_VOXELS)
        reason = torch.full((pruned.voxels.n_voxels,), pruned.reason, dtype=torch.uint8)
        return PruneEvent(
            ended, self.level, kept.resolution, subdivided, kept.n_voxels, pruned.voxels.to("cpu"), reason,
            pruned.estimate.cpu(), born.to("cpu"), self.truth.touched(pruned.voxels).cpu(), kept.prune(wrong).to("cpu"),
            kept_reason[wrong].cpu(),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"level": self.level, "occupancy": self.occupancy.state_dict(),
                "events": [event.state_dict() for event in self.events]}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str) -> None:
        self.level = state["level"]
        self.occupancy = Occupancy.from_state_dict(state["occupancy"], device)
        self.events = [PruneEvent.from_state_dict(event) for event in state["events"]]


@dataclasses.dataclass(frozen=True, eq=False)
class _Pruned:
    """Voxels to go, all for one reason, with their estimates."""

    voxels: SparseVoxels
    reason: PruneReason
    estimate: Float[Tensor, "P"]
