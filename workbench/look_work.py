"""What is found of one look at a camera: its planes, the voxels split by them, the search for them, what is wrong."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from sparseflex.camera import Camera
from sparseflex.frustum import METHODS, FrustumFit, SeenVoxels, adapt_frustum, see_voxels
from sparseflex.training.run import RunCamera
from workbench.split import Split
from workbench.what_if import Fault, Kept, Move, faults, moved, with_hand_planes

if TYPE_CHECKING:
    from sparseflex.voxels import SparseVoxels


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """How planes are adapted here; the arguments of adapt_frustum, seed for the anchor "random"."""

    ratio: float
    anchor: str
    method: str
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """trace: (rounds, 3) near, far and count of each round; exact: what order statistics give for the same; wanted:
    the count to be met. exact is None where only the run knows which ranks it wanted."""

    trace: Float[np.ndarray, "rounds 3"]
    wanted: int
    exact: tuple[float, float, int] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """The camera looked at: known as the run lists it, camera with the place and planes that it is shown with.

    asked: the visibility ratio, None where planes don't come from one. current: it is the run's, as the run uses it.
    crossed: near is at or beyond far, see with_hand_planes. moved: it isn't where the run's stands. planes: where they
    come from, in words.
    """

    known: RunCamera
    camera: Camera
    asked: float | None
    rings: int
    current: bool
    crossed: bool = False
    moved: bool = False
    planes: str = "its own planes"

    @property
    def near_far(self) -> tuple[float, float]:
        """As they were asked for, also where they are crossed."""
        near, far = self.camera.near, self.camera.far
        return (far, near) if self.crossed else (near, far)

    def kept(self, label: str) -> Kept:
        return Kept(self.camera, self.crossed, self.rings, label + (", moved" if self.moved else ""), self.planes)


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a look is to be: at most one of adaptation and hand (near, far); without either the camera's own planes.

    asked: of the run's own planes, the ratio that they come from. thorough: with histogram, search and faults.
    """

    adaptation: Adaptation | None
    hand: tuple[float, float] | None
    move: Move
    asked: float | None
    rings: int
    current: bool
    thorough: bool

    @property
    def token(self) -> tuple:
        """Equal, as same_token sees it, where the choices are."""
        return (*(dataclasses.astuple(self.adaptation) if self.adaptation else ()), self.hand or (),
                *(part if part is not None else "" for part in dataclasses.astuple(self.move)), self.asked, self.rings,
                self.current, self.thorough)


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A look and what comes of it; split is complete: its counts, and where thorough its histogram. seen: what holds
    for all planes of a camera that stands where this one does."""

    look: Look
    split: Split
    search: Search | None
    faults: tuple[Fault, ...]
    move: Move
    seen: SeenVoxels | None


def find(
    voxels: SparseVoxels | None, known: RunCamera, choices: Choices, trace: Float[np.ndarray, "rounds 3"] | None,
    before: Found | None = None,
) -> Found:
    """Looks at a camera. trace: the run's own search, for planes that are its own; before: a look whose camera and
    split are taken over where this one's are the same."""
    stands = moved(known.camera, choices.move)
    seen = None
    if voxels is not None:
        known_too = before is not None and before.split.voxels is voxels and before.move == choices.move and (
            before.look.known.camera is known.camera)
        seen = before.seen if known_too else see_voxels(voxels, stands)
    look, fit = _look(voxels, known, stands, choices, seen)
    split = Split()
    if before is not None and before.split.voxels is voxels and _same_place(before.look, look):
        if look.camera is not known.camera:  # the scene draws anew what is another object
            look = dataclasses.replace(look, camera=before.look.camera)
        if before.split.camera is look.camera:
            split = before.split
    split.update(voxels, look.camera, known.label, look.crossed, seen)
    if before is not None:
        split.share_histogram(before.split)
    split.counts  # noqa: B018 - counted here, not while the panel draws
    if not choices.thorough:
        return Found(look, split, None, (), choices.move, seen)
    split.histogram  # noqa: B018
    return Found(look, split, _search(voxels, look, choices, split, trace, seen, fit),
                 faults(voxels, look.camera, look.crossed, split), choices.move, seen)


def _look(voxels: SparseVoxels | None, known: RunCamera, camera: Camera, choices: Choices,
          seen: SeenVoxels | None) -> tuple[Look, FrustumFit | None]:
    """camera: known.camera where the move takes it. What its planes were adapted by comes along, None for others."""
    away, rings, current = camera is not known.camera, choices.rings, choices.current
    if choices.hand is not None:
        camera, crossed = with_hand_planes(camera, *choices.hand)
        return Look(known, camera, None, rings, current, crossed, away, "planes by hand"), None
    if choices.adaptation is None or voxels is None:
        return Look(known, camera, choices.asked, rings, current, moved=away), None
    chosen = choices.adaptation
    words = f"α {chosen.ratio:.2f} {chosen.anchor}"
    fit = adapted(voxels, camera, chosen, chosen.method, seen)
    return Look(known, fit.camera, chosen.ratio, rings, current, moved=away, planes=words), fit


def _same_place(a: Look, b: Look) -> bool:
    same = a.crossed == b.crossed and (a.camera.near, a.camera.far) == (b.camera.near, b.camera.far)
    same = same and (a.camera.width, a.camera.height, a.camera.fov_y_degrees) == (
        b.camera.width, b.camera.height, b.camera.fov_y_degrees)
    return a.known.camera is b.known.camera and same and bool(
        torch.equal(a.camera.camera_from_world, b.camera.camera_from_world))


def _search(voxels: SparseVoxels | None, look: Look, choices: Choices, split: Split,
            trace: Float[np.ndarray, "rounds 3"] | None, seen: SeenVoxels | None, fit: FrustumFit | None
            ) -> Search | None:
    if voxels is None or voxels.n_voxels == 0:
        return None
    n_visible = voxels.n_voxels - split.counts["outside"]
    wanted = min(round((look.asked or 1.0) * voxels.n_voxels), n_visible)
    chosen = choices.adaptation
    if chosen is not None:
        both = {method: fit if fit is not None and method == chosen.method else adapted(
            voxels, look.camera, chosen, method, seen) for method in METHODS}
        exact = both["exact"]
        counts = exact.camera.near, exact.camera.far, int(exact.trace[-1, 2])
        return Search(both["iterative"].trace.numpy(), wanted, counts)
    if look.current and trace is not None and len(trace):
        return Search(np.asarray(trace, np.float64), wanted, None)
    return None


def adapted(voxels: SparseVoxels, camera: Camera, chosen: Adaptation, method: str, seen: SeenVoxels | None
            ) -> FrustumFit:
    """The FrustumFit of a camera; its own planes don't count."""
    generator = torch.Generator().manual_seed(chosen.seed)
    return adapt_frustum(voxels, camera, chosen.ratio, method, chosen.anchor, generator, seen)
