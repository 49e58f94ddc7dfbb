"""A shape and a network opened as a run of inference, or one clear line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.mesh import Mesh
from sparseflex.point_clouds import READABLE_POINTS, is_point_cloud, load_points, pick_points
from sparseflex.scene import ViewConfig, load_scene
from sparseflex.vae.config import MAX_POINTS
from sparseflex.vae.memory import check_memory, expected_voxels
from sparseflex.vae.preprocess import check_resolution, input_voxels, into_box, sample_points
from workbench.inputs import InputError, Opened, input_errors, scene_folders

if TYPE_CHECKING:
    from sparseflex.point_clouds import PointCloud
    from sparseflex.vae import SparseFlexVAE
    from sparseflex.vae.config import VAEConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """What goes in: a mesh in the normalised frame, or a point cloud where there is none."""

    name: str
    title: str
    mesh: Mesh | None
    cloud: PointCloud | None
    input_from_normalized: Float[Tensor, "4 4"]
    view: ViewConfig
    warnings: tuple[str, ...] = ()

    def points(self, n_points: int, seed: int) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
        """Points and unit normals: sampled from the mesh, or at most n_points of the cloud."""
        generator = torch.Generator().manual_seed(seed)
        if self.mesh is not None:
            return sample_points(into_box(self.mesh), n_points, generator)  # as the release samples
        cloud = pick_points(self.cloud, n_points, generator)
        return cloud.points, cloud.normals


@dataclasses.dataclass(frozen=True)
class Network:
    """Which weights, with what sizes and where they run. resolution: of the latents' voxels, None for the config's."""

    checkpoint: Path
    config: Path | None = None
    resolution: int | None = None
    device: str = "cpu"
    dtype: str = "float32"

    def load(self) -> SparseFlexVAE:
        """Raises InputError for what can't be used."""
        from sparseflex.vae import SparseFlexVAE

        with input_errors():
            model = SparseFlexVAE.from_checkpoint(self.checkpoint, self.config, device=self.device,
                                                  dtype=getattr(torch, self.dtype))
            if self.resolution is not None:  # no weight's shape depends on it
                model.config = dataclasses.replace(model.config, resolution=self.resolution)
        return model


def open_reconstruction(
    network: Network, what: str, *, other: str = "", n_points: int | None = None, seed: int = 0, up: str | None = None,
    settings: Mapping[str, float] | None = None,
) -> Opened:
    """The run before its first pass. other: a second shape, to mix latents with; settings: of the run, by its names.

    What is cheap to refuse is refused before weights are read. Raises InputError.
    """
    from sparseflex.training.reconstruct import CheckpointRef, ReconstructRun

    if n_points is not None and not 1 <= n_points <= MAX_POINTS:
        raise InputError(f"--points must be a whole number in [1, {MAX_POINTS}], got {n_points}")
    if not 0 <= seed < 2**31:
        raise InputError(f"--seed must be a whole number in [0, 2^31), got {seed}")
    if network.resolution is not None:
        with input_errors():
            check_resolution(network.resolution)
    shape = open_shape(what, up)
    second = open_shape(other, up) if other else None
    model = network.load()
    settings = {"prune": float(model.config.prune), **(settings or {})}
    parts = [part for part in (shape, second) if part is not None]
    with input_errors():
        room = {"prune": bool(settings["prune"]), "chunk_voxels": int(settings.get("chunk_voxels", 0)),
                "half": model.dtype != torch.float32, "device": network.device}
        given = [_points_that_fit(part, model.config, n_points or model.config.n_points, seed, room) for part in parts]
        other_voxels = None if second is None else input_voxels(given[1][0], model.config.resolution, second.mesh)
        run = ReconstructRun(model, *given[0], target=shape.mesh, other=None if second is None else given[1],
                             other_voxels=other_voxels, seed=seed, checkpoint=CheckpointRef.of(network.checkpoint))
        for name, value in settings.items():
            run.change_setting(name, value)
    warnings = (*shape.warnings, *(second.warnings if second is not None else ()))
    return Opened(run, shape.name, f"{shape.title}, reconstructed", shape.view, shape.input_from_normalized, warnings)


def _points_that_fit(
    shape: Shape, config: VAEConfig, n_points: int, seed: int, room: Mapping[str, Any]
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """shape.points; a mesh is not even sampled where there is too little memory, as check_memory of `room` says."""
    given = None if shape.mesh is not None else shape.points(n_points, seed)
    n_voxels = expected_voxels(shape.mesh if given is None else given[0], config.resolution)
    check_memory(config, n_points if given is None else len(given[0]), n_voxels, **room)
    return shape.points(n_points, seed) if given is None else given


def open_shape(what: str, up: str | None) -> Shape:
    """A mesh, a scene or a point cloud. Raises InputError."""
    with input_errors():
        if is_point_cloud(what) or Path(what).suffix.lower() in set(READABLE_POINTS) - {".ply"}:
            cloud = load_points(what, up or "y")
            return Shape(cloud.name, cloud.name, None, cloud, cloud.input_from_normalized, ViewConfig())
        scene = load_scene(what, scene_folders(), up)
    warnings = (f"{scene.n_degenerate} triangles without area were dropped",) if scene.n_degenerate else ()
    return Shape(scene.name, scene.title, scene.target, None, scene.input_from_normalized, scene.view, warnings)
