"""Settings of a ReconstructRun: what may be changed between two passes, with its range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from sparseflex.training.run import Setting
from sparseflex.vae.latent_edits import LatentEdits

_LOGITS = "logit from which on a child voxel is kept; the released weights are meant for 0"
_REGION = "middle of the region that latent edits stay within, world units"

_RULES = {
    "prune": Setting(1, 0, 1, "1 prunes children whose occupancy logit is below the threshold; 0 keeps all of them"),
    "threshold_1": Setting(0, -10, 10, f"level 1: {_LOGITS}"),
    "threshold_2": Setting(0, -10, 10, f"level 2: {_LOGITS}"),
    "sample_posterior": Setting(0, 0, 1, "0 decodes each latent's mean, 1 a sample of its distribution"),
    "latent_seed": Setting(0, 0, 2**31 - 1, "seed of what is random: the sample, replaced latents, noise"),
    "noise": Setting(0, 0, 4, "noise added to the latents, in units of each channel's own deviation over the shape"),
    "replace": Setting(0, 0, 3, "latents are replaced by: 0 nothing, 1 zeros, 2 a sample of N(0, 1), 3 those of the "
                                "other shape (of its nearest voxel)"),
    "interpolate": Setting(0, 0, 1, "0 is this shape, 1 the other one; in between are the voxels of both"),
    "region_x": Setting(0, -0.5, 0.5, _REGION),
    "region_y": Setting(0, -0.5, 0.5, _REGION),
    "region_z": Setting(0, -0.5, 0.5, _REGION),
    "region_radius": Setting(0, 0, 2, "radius of the region that latent edits stay within; 0 is everywhere"),
    "attended_voxel": Setting(-1, -1, 2**53, "key (x·R + y)·R + z of the latent voxel whose attention is shown; "
                                               "-1 is none"),
    "chunk_voxels": Setting(0, 0, 2**31 - 1, "voxels that are upsampled at once, with equal results and less memory; "
                                             "0 is all"),
    "release_chunks": Setting(0, 0, 1, "1 decodes as the release does: in overlapping chunks, each normalised alone"),
}

_WHOLE = ("prune", "sample_posterior", "latent_seed", "replace", "attended_voxel", "chunk_voxels", "release_chunks")


def place_of(key: int, resolution: int) -> tuple[int, int, int]:
    """The voxel that attended_voxel names, as SparseVoxels.keys has it."""
    return key // resolution**2, key // resolution % resolution, key % resolution


class ReconstructSettings:
    """The values of all settings; immutable. Raises ValueError naming the setting, the rule and the value."""

    def __init__(self, values: Mapping[str, float], has_other: bool) -> None:
        self.has_other = has_other
        for name, value in values.items():
            _check(name, value, has_other)
        self.values: Mapping[str, float] = MappingProxyType(
            {name: float(values.get(name, rule.value)) for name, rule in _RULES.items()})

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def changed(self, name: str, value: float) -> ReconstructSettings:
        return ReconstructSettings({**self.values, name: value}, self.has_other)

    def shown(self) -> dict[str, Setting]:
        """As the run protocol has them; what needs another shape only where there is one."""
        return {name: Setting(self.values[name], rule.minimum, _maximum(name, self.has_other), rule.help)
                for name, rule in _RULES.items() if self.has_other or name != "interpolate"}

    @property
    def thresholds(self) -> tuple[float, float]:
        return self["threshold_1"], self["threshold_2"]

    @property
    def prune(self) -> bool:
        return self["prune"] > 0

    @property
    def chunk_voxels(self) -> int | None:
        return int(self["chunk_voxels"]) or None

    @property
    def release_chunks(self) -> bool:
        return self["release_chunks"] > 0

    @property
    def seed(self) -> int:
        return int(self["latent_seed"])

    @property
    def edits(self) -> LatentEdits:
        centre = tuple(self[f"region_{axis}"] for axis in "xyz")
        return LatentEdits(int(self["replace"]), self["interpolate"], self["noise"], centre, self["region_radius"],
                           self.seed)


def _maximum(name: str, has_other: bool) -> float:
    return 2 if name == "replace" and not has_other else _RULES[name].maximum


def _check(name: str, value: float, has_other: bool) -> None:
    if name not in _RULES:
        raise ValueError(f"setting must be one of {', '.join(_RULES)}, got {name!r}")
    if not has_other and ((name == "interpolate" and value) or (name == "replace" and value == 3)):
        raise ValueError(f"{name} {value:g} needs another shape, none is given")
    low, high = _RULES[name].minimum, _RULES[name].maximum
    whole = name in _WHOLE
    if not low <= value <= high or (whole and not math.isfinite(value)) or (whole and value != int(value)):
        form = "d" if whole else "g"
        kind = "a whole number " if whole else ""
        raise ValueError(f"{name} must be {kind}in [{low:{form}}, {high:{form}}], got {value:.12g}")
