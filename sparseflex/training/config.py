"""FitConfig: every setting of the `fit` run with its range; what a scene file's [fit] table may hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


def setting(default: Any, minimum: float = -math.inf, maximum: float = math.inf, *, above: float | None = None,
            choices: tuple[str, ...] | None = None, help: str = "") -> Any:
    """A dataclass field with its rule: a closed range [minimum, maximum], an open lower bound, or choices."""
    rule = {"minimum": minimum, "maximum": maximum, "above": above, "choices": choices, "help": help}
    return dataclasses.field(default=default, metadata=rule)


def rule_text(field: dataclasses.Field) -> str:
    """The rule of a field in words, such as 'in (0, 1]' or 'one of exact, iterative'."""
    rule = field.metadata
    if rule.get("choices"):
        return "one of " + ", ".join(rule["choices"])
    if "minimum" not in rule:
        return "set"
    form = "d" if isinstance(field.default, int) else "g"  # whole numbers in full
    low = f"({rule['above']:g}" if rule["above"] is not None else (
        "(-inf" if rule["minimum"] == -math.inf else f"[{rule['minimum']:{form}}")
    high = "inf)" if rule["maximum"] == math.inf else f"{rule['maximum']:{form}}]"
    return f"in {low}, {high}"


def validate(config: Any, where: str = "") -> None:
    """Raises ValueError naming the key, the rule and the value for the first field that breaks its rule."""
    for field in dataclasses.fields(config):
        value, rule = getattr(config, field.name), field.metadata
        if "minimum" not in rule:
            continue
        wanted = type(field.default)
        if wanted in (int, float):
            good = isinstance(value, int if wanted is int else (int, float)) and not isinstance(value, bool)
            # a huge int overflows isfinite, and NaN fails every comparison
            good = good and rule["minimum"] <= value <= rule["maximum"] and abs(value) != math.inf
            good = good and (rule["above"] is None or value > rule["above"])
        elif rule["choices"]:
            good = value in rule["choices"]
        else:
            good = isinstance(value, wanted)
        if not good:
            need = rule_text(field) if wanted is not bool else "true or false"
            kind = "a whole number " if wanted is int else ""
            raise ValueError(f"{where}{field.name} must be {kind}{need}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Settings of a fit; the defaults are measured (workbench/docs/results.md)."""

    resolution: int = setting(64, 4, 4096, help="voxels along the longest side of the unit box")
    start_resolution: int = setting(0, 0, 4096, help="resolution of the coarsest level, each finer one doubling it; "
                                    "0 starts at resolution")
    level_growth: float = setting(0.7, maximum=100, above=0, help="iterations of a level over those of the one below")
    level_rate: float = setting(0.5, maximum=1, above=0, help="learning rates of deformation and weights at the start "
                                "of a finer level, relative")
    level_decay: float = setting(0.05, maximum=1, above=0, help="lr_decay where there are levels")
    prune_every: int = setting(50, 0, 10_000_000, help="iterations between two looks at what to prune; 0: only "
                               "when a level begins. Both need a start_resolution")
    prune_below: float = setting(0.1, 0, 1, help="occupancy below which a voxel is pruned, if it stays there")
    keep_above: float = setting(0.5, 0, 1, help="occupancy above which a voxel is safe, or born")
    iterations: int = setting(1500, 1, 10_000_000, help="iterations of the learning rate schedule")
    seed: int = setting(0, 0, 2**31 - 1)
    init: str = setting("random", choices=("random", "sphere", "points"), help="initial SDF")
    image_size: int = setting(256, 16, 8192, help="height and width of the rendered maps in pixels")
    cameras: int = setting(1, 1, 64, help="cameras an iteration; the active voxels are the union of their sets")
    orbit_share: float = setting(0.45, 0, 1, help="share of orbit cameras, relative to the other kinds")
    zoom_share: float = setting(0.4, 0, 1)
    interior_share: float = setting(0.15, 0, 1)
    fixed_share: float = setting(0.25, 0, 1, help="share of the scene's own cameras, where it has any")
    cut_share: float = setting(0.4, 0, 1, help="share of cameras whose near plane cuts the object (at alpha = 1)")
    window_share: float = setting(0.5, 0, 1, help="share of cameras that see a depth window only (at alpha = 1)")
    visibility_ratio: float = setting(
        1.0, maximum=1, above=0, help="alpha of the paper: share of voxels to activate; below 1 it sets the planes"
    )
    planes: str = setting("exact", choices=("exact", "iterative"))
    anchor: str = setting("random", choices=("front", "back", "centre", "random"))
    halo: int = setting(2, 0, 8, help="voxels added around an adapted section, in voxel widths")
    lr_sdf: float = setting(0.15, 0, 100)
    lr_deform: float = setting(0.05, 0, 100)
    lr_weights: float = setting(0.08, 0, 100)
    lr_decay: float = setting(0.1, maximum=1, above=0, help="learning rate at the end relative to the start")
    depth_weight: float = setting(10.0, 0, 1e6)
    normal_weight: float = setting(10.0, 0, 1e6)
    mask_weight: float = setting(40.0, 0, 1e6)
    ssim_weight: float = setting(0.2, 0, 1e6)
    lpips_weight: float = setting(0.0, 0, 1e6)
    lpips_weights_file: str = setting("", help="VGG16 and LPIPS weights; needed where lpips_weight is above 0")
    free_space_weight: float = setting(30.0, 0, 1e6, help="signs of corners that a target view sees past")
    dev_weight: float = setting(0.01, 0, 1e6, help="L_dev, in voxel widths")
    sign_weight: float = setting(1.0, 0, 1e6, help="cross entropy across sign-changing edges, at the start")
    sign_weight_end: float = setting(0.05, 0, 1e6, help="the same after the first quarter")

    def __post_init__(self) -> None:
        validate(self)
        self._validate_levels()
        if self.orbit_share + self.zoom_share + self.interior_share <= 0:
            raise ValueError("orbit_share, zoom_share and interior_share must not all be 0")
        if self.cut_share + self.window_share > 1:
            raise ValueError(f"cut_share + window_share must be in [0, 1], got {self.cut_share + self.window_share:g}")
        if self.lpips_weight > 0 and not self.lpips_weights_file:
            raise ValueError("lpips_weights_file must name a file where lpips_weight is above 0")

    def _validate_levels(self) -> None:
        start, low, high = self.start_resolution, self.prune_below, self.keep_above
        if start and (start < 4 or self.resolution % start or (self.resolution // start).bit_count() != 1):
            raise ValueError(f"start_resolution must be 0, or at least 4 and resolution ({self.resolution}) halved any "
                             f"number of times, got {start}")
        if low > high:
            raise ValueError(f"prune_below must be at most keep_above ({high:g}), got {low:g}")


def from_table(cls: type, table: Mapping[str, Any], where: str) -> Any:
    """Builds a settings dataclass from a TOML table; an unknown key is a ValueError that lists what is allowed."""
    known = {field.name for field in dataclasses.fields(cls)}
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; allowed are {', '.join(sorted(known))}")
    try:
        return cls(**table)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
