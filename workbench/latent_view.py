"""LatentView: what is edited of an inference's latents, where, and what its channels come to."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from workbench.worker import same_token

if TYPE_CHECKING:
    from workbench.snapshot import Snapshot
    from workbench.view_state import ViewState

PANEL = "Latent"
MEAN, STD, LATENT, EDITED = (f"latent/{name}" for name in ("mean", "std", "latent", "edited"))
CENTRE = ("region_x", "region_y", "region_z")
RADIUS = "region_radius"


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """Per channel, over all voxels: mean and deviation of the posterior's mean, the mean of its spread, and mean and
    deviation of what is decoded; NaN where there are no voxels."""

    mean: Float[np.ndarray, "k"]
    deviation: Float[np.ndarray, "k"]
    spread: Float[np.ndarray, "k"]
    decoded_mean: Float[np.ndarray, "k"]
    decoded_deviation: Float[np.ndarray, "k"]


@dataclasses.dataclass
class LatentView:
    """at_once: each change is decoded as soon as it is made."""

    KEPT: ClassVar[tuple[str, ...]] = ("at_once",)

    at_once: bool = True
    _known: tuple[tuple, Channels] | None = None

    def region(self, view: ViewState, snapshot: Snapshot) -> tuple[tuple[float, float, float], float] | None:
        """Centre and radius of the ball that edits stay within, as it is being dragged; None while nobody looks."""
        radius = self.value(view, snapshot, RADIUS)
        if not view.in_front(PANEL) or not radius:
            return None
        return tuple(self.value(view, snapshot, name) for name in CENTRE), radius

    @staticmethod
    def value(view: ViewState, snapshot: Snapshot, name: str) -> float:
        """A setting as it is being dragged, or as it is; 0 where the run hasn't got it."""
        setting = snapshot.settings.get(name)
        return view.edited.get(name, 0.0 if setting is None else setting.value)

    def channels(self, snapshot: Snapshot) -> Channels | None:
        """What the channels come to; None before there is a posterior."""
        fields = snapshot.products.fields
        parts = tuple(fields.get(name) for name in (MEAN, STD, LATENT))
        if any(part is None or part.ndim != 2 for part in parts[:2]):
            return None
        if self._known is None or not same_token(self._known[0], parts):
            self._known = (parts, _channels(*parts))
        return self._known[1]


def _channels(mean: Float[np.ndarray, "N k"], std: Float[np.ndarray, "N k"], latent: Any) -> Channels:
    latent = mean if latent is None or latent.ndim != 2 or latent.shape[1] != mean.shape[1] else latent
    if len(mean) == 0:
        return Channels(*(np.full(mean.shape[1], np.nan),) * 5)
    found = (mean.mean(0), mean.std(0), std.mean(0), latent.mean(0), latent.std(0))
    return Channels(*(part.astype(np.float64) for part in found))
