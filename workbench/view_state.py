"""ViewState: what the user has chosen to see. It belongs to the window; the engine never hears of it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sparseflex.camera import Camera
from sparseflex.training.run import RunCamera
from workbench import theme
from workbench.breakpoint_view import BreakpointView
from workbench.camera_log import CameraLog
from workbench.camera_view import CameraView, same_camera
from workbench.change_view import ChangeView
from workbench.check_view import CheckView
from workbench.cost_view import CostView
from workbench.coverage_view import CoverageView
from workbench.decision_view import DecisionView
from workbench.field_view import FieldView
from workbench.frustum_view import FrustumView
from workbench.gradient_view import GradientView
from workbench.latent_view import LatentView
from workbench.layer_view import LayerView
from workbench.map_view import MapView
from workbench.memory_view import MemoryView
from workbench.network_view import NetworkView
from workbench.palette import Palette
from workbench.past import LIMIT_BYTES
from workbench.plot_view import PlotView
from workbench.point_view import PointView
from workbench.pruning_view import KINDS, PruningView
from workbench.snapshot import Snapshot
from workbench.split import Split
from workbench.surface_view import SurfaceView
from workbench.what_if_view import WhatIfView
from workbench.worker import Worker

if TYPE_CHECKING:
    from workbench.pair import Pair

LAYERS = ("active", "outside", "near_cut", "far_cut", "mesh", "target", "frustum", "cameras", "sdf", "slice", "vectors",
          *KINDS, "points")
"""Layers of the scene; number key k toggles the k-th, 0 the tenth."""

LAYER_LABELS = ("Active", "Outside", "Near-cut", "Far-cut", "Mesh", "Target", "Frustum", "Cameras", "Corners", "Slice",
                "δ arrows", "Pruned", "Born", "Wrongly kept", "Wrongly pruned", "Input points")
LAYER_TIPS = (
    "Voxels in the selected camera's frustum",
    "Voxels beside the frustum",
    "Voxels in front of the near plane",
    "Voxels behind the far plane",
    "The extracted surface",
    "The surface to be reached",
    "The selected camera's frustum between its near plane (hatched like the near-cut voxels) and its far plane",
    "All other cameras",
    "The voxels' corners as points, coloured by the SDF (blue inside, red outside) or what the Field tab says",
    "A plane through the voxels, coloured by the field inside them, with the line where the SDF is zero",
    "How far the corners are moved by their deformation δ, as arrows",
    "Voxels dropped at the look that the Pruning tab shows",
    "Voxels added there, where the target was seen though none was",
    "Voxels kept though the target does not come within a quarter voxel of them",
    "Voxels dropped though the target touches them",
    "The points that an inference is given, coloured by what became of them",
)
HIDDEN_FIRST = ("cameras", "sdf", "slice", "vectors", *KINDS)


@dataclasses.dataclass
class RedrawStats:
    """How the window spends its time: seconds of the last scene redraw and UI redraw, and their share of the time."""

    scene_secs: float = 0.0
    ui_secs: float = 0.0
    share: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Click:
    """A click into the scene as a ray in world space: origin (3,), direction (3,)."""

    origin: np.ndarray
    direction: np.ndarray

    @property
    def entry(self) -> float:
        """How far along the ray the unit box begins; infinite where it is missed."""
        with np.errstate(divide="ignore", invalid="ignore"):
            sides = np.stack([(-0.5 - self.origin) / self.direction, (0.5 - self.origin) / self.direction])
        low, high = np.nanmax(sides.min(axis=0)), np.nanmin(sides.max(axis=0))
        return float(max(low, 0.0)) if high >= max(low, 0.0) else math.inf


@dataclasses.dataclass
class ViewState:
    """Choices of the user, and what is derived from them.

    section_only shows the mesh of the active section where the run has the whole surface too. home_direction points
    from the object to the eye of the home view. pinned is the camera looked at; None follows the run's current one.
    edited holds settings while they are dragged, split what the selected camera does with the voxels. tabs holds each
    column's tab in front, notice what the window itself has to say. view_camera is the user's own view, click what was
    clicked in the scene since the last redraw. cap_colour closes surfaces where they are cut; None leaves them open.
    pair: the run that is shown beside this one. of_mesh: the run is of a mesh that is to be compared with another:
    before the first iteration the mesh layer shows it, and not noise.
    """

    KEPT: ClassVar[tuple[str, ...]] = ("layers", "side_by_side", "section_only", "mesh_colour", "show_difference",
                                       "n_iterations", "tabs", "theme", "scale", "keep_bytes")

    title: str = ""
    layers: dict[str, bool] = dataclasses.field(
        default_factory=lambda: {name: name not in HIDDEN_FIRST for name in LAYERS}
    )
    side_by_side: bool = True
    section_only: bool = False
    home_direction: tuple[float, float, float] = (0.75, 0.42, 1.0)
    mesh_colour: str = "clay"
    pinned: RunCamera | None = None
    show_panels: bool = True
    show_keys: bool = False
    show_difference: bool = True
    keep_bytes: int = LIMIT_BYTES  # of states to go back to, at most
    n_iterations: int = 10
    checkpoint_path: Path = Path("checkpoint.safetensors")
    pruning: PruningView = dataclasses.field(default_factory=PruningView)
    network: NetworkView = dataclasses.field(default_factory=NetworkView)
    decisions: DecisionView = dataclasses.field(default_factory=DecisionView)
    latent: LatentView = dataclasses.field(default_factory=LatentView)
    points: PointView = dataclasses.field(default_factory=PointView)
    plots: PlotView = dataclasses.field(default_factory=PlotView)
    breakpoints: BreakpointView = dataclasses.field(default_factory=BreakpointView)
    edited: dict[str, float] = dataclasses.field(default_factory=dict)
    split: Split = dataclasses.field(default_factory=Split)
    cameras: CameraView = dataclasses.field(default_factory=CameraView)
    memory: MemoryView = dataclasses.field(default_factory=MemoryView)
    costs: CostView = dataclasses.field(default_factory=CostView)
    frustum: FrustumView = dataclasses.field(default_factory=FrustumView)
    maps: MapView = dataclasses.field(default_factory=MapView)
    what_ifs: WhatIfView = dataclasses.field(default_factory=WhatIfView)
    camera_log: CameraLog = dataclasses.field(default_factory=CameraLog)
    coverage: CoverageView = dataclasses.field(default_factory=CoverageView)
    changes: ChangeView = dataclasses.field(default_factory=ChangeView)
    gradients: GradientView = dataclasses.field(default_factory=GradientView)
    check: CheckView = dataclasses.field(default_factory=CheckView)
    worker: Worker = dataclasses.field(default_factory=Worker)
    quick: Worker = dataclasses.field(default_factory=Worker)  # for what follows a drag: never behind a long job
    field: FieldView = dataclasses.field(default_factory=FieldView)
    surfaces: SurfaceView = dataclasses.field(default_factory=SurfaceView)
    shades: LayerView = dataclasses.field(default_factory=LayerView)
    redraw: RedrawStats = dataclasses.field(default_factory=RedrawStats)
    tabs: dict[str, str] = dataclasses.field(default_factory=lambda: {"left": "", "right": ""})
    theme: str = "dark"
    scale: float = 1.0
    run_to: int = 100
    scrubbed: int | None = None  # where the scrubber is held
    palette: Palette = dataclasses.field(default_factory=Palette)
    notice: str = ""
    view_camera: Camera | None = None
    click: Click | None = None
    pair: Pair | None = None
    of_mesh: bool = False
    cap_colour: theme.Colour | None = None

    @property
    def n_found(self) -> int:
        """Grows with what the workers have found or report, and every answer of a recording."""
        return (self.worker.n_news + self.quick.n_news + self.camera_log.n_found
                + self.changes.n_found)

    def forget_found(self) -> None:
        """Of the run before: what is known of one says nothing of the next."""
        self.worker.clear()
        self.quick.clear()
        self.camera_log.clear()
        self.what_ifs.kept.clear()
        self.changes.clear()
        self.costs.forget()
        self.gradients.clear()
        self.coverage.forget()
        self.check.clear()

    def stop_workers(self) -> None:
        self.worker.stop()
        self.quick.stop()

    def tab(self, column: str, names: tuple[str, ...]) -> str:
        """The tab in front of a column: the one chosen, or the first."""
        return self.tabs[column] if self.tabs.get(column) in names else names[0]

    def in_front(self, tab: str) -> bool:
        """Whether a tab is the one that its column shows; a column begins with its first."""
        return self.show_panels and tab in self.tabs.values()

    @property
    def findings(self) -> tuple[str, ...]:
        """What the scene shows besides layers, cut and frustum, by their tabs' names."""
        shown = {"what-ifs": self.what_ifs.in_scene, "Changes": self.changes.in_scene(self),
                 "Coverage": self.coverage.in_scene(self), "Gradients": self.gradients.region_voxels(self),
                 "Surface": self.check.in_scene(self)}
        return tuple(name for name, value in shown.items() if value is not None)

    @property
    def finding(self) -> str:
        """The first of them; "" where there is none."""
        return next(iter(self.findings), "")

    @property
    def shows_layers_of_voxels(self) -> bool:
        """Whether the voxels' own layers are drawn: what is found of voxels stands in their place."""
        return not {"what-ifs", "Changes", "Coverage", "Gradients"} & {*self.findings} and not self.check.alone(self)

    def toggle_layer(self, name: str) -> None:
        self.layers[name] = not self.layers[name]

    def selected_camera(self, snapshot: Snapshot) -> RunCamera | None:
        """The pinned one, a fixed one as it was used last; the run's current one where none is pinned."""
        if self.pinned is not None and self.pinned.own is not None:
            return next((known for known in snapshot.cameras if known.own is self.pinned.own), self.pinned)
        if self.pinned is not None:
            return self.pinned
        return snapshot.cameras[0] if snapshot.cameras else None

    def selected_index(self, snapshot: Snapshot) -> int:
        """The selected camera's place in snapshot.cameras; -1 where the run has forgotten it, or has none."""
        selected = self.selected_camera(snapshot)
        for index, known in enumerate(snapshot.cameras):
            if selected is not None and same_camera(known, selected):
                return index
        return -1

    def select_camera(self, snapshot: Snapshot, index: int) -> None:
        """Pins the camera at a place of snapshot.cameras, counted around the end."""
        if snapshot.cameras:
            self.pinned = snapshot.cameras[index % len(snapshot.cameras)]

    def step_camera(self, snapshot: Snapshot, step: int) -> None:
        self.select_camera(snapshot, max(self.selected_index(snapshot), 0) + step)

    def shows_target(self, snapshot: Snapshot) -> bool:
        """Whether the mesh layer shows the target, see of_mesh."""
        return self.of_mesh and snapshot.iteration == 0 and snapshot.field_kinds.get("target") == "mesh"

    def field_of(self, layer: str, snapshot: Snapshot) -> str:
        """The field that a mesh layer shows: the whole surface where the run has it, or what the section gave."""
        if layer == "mesh" and self.shows_target(snapshot):
            return "target"
        whole = layer == "mesh" and "surface" in snapshot.field_kinds and not self.section_only
        return "surface" if whole else layer

    def scene_fields(self, snapshot: Snapshot) -> frozenset[str]:
        """The fields that the scene needs now, of those that the run has."""
        wanted = {"voxels"}  # the frustum panel counts them whatever the layers
        wanted |= {self.field_of(name, snapshot) for name in ("mesh", "target") if self.layers[name]}
        wanted |= self.field.scene_fields(self, snapshot) | self.surfaces.scene_fields(self)
        wanted |= self.pruning.scene_fields(self) | self.points.scene_fields(self)
        wanted |= self.frustum.scene_fields(self, snapshot) | self.maps.scene_fields(self, snapshot)
        wanted |= self.changes.scene_fields(self, snapshot) | self.check.scene_fields(self, snapshot)
        wanted |= self.coverage.scene_fields(self, snapshot)
        return frozenset(wanted & set(snapshot.field_kinds))
