"""Faults: what goes wrong in a run, planted on purpose by a scene, so that it is known what there is to be found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sparseflex.camera import Camera
from sparseflex.training.config import from_table, setting, validate
from sparseflex.training.fit_parameters import FitParameters
from sparseflex.training.levels import carry

AT_START = ("missing_voxels", "no_surface")
_KINDS = (*AT_START, "flipped_sdf", "nan_weights", "planes")


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault, in the ball of `radius` around (x, y, z) of the normalised frame, once `iteration` iterations have
    ended.

    missing_voxels  the voxels with their centre in the ball are left out from the start
    no_surface      the SDF of all corners in the ball begins above 0, so that no surface crosses it
    flipped_sdf     the SDF of the corners in the ball changes its sign: the surface there is inside out
    nan_weights     the weights of the voxel nearest to the ball's centre become NaN
    planes          every camera gets near and far, whatever the voxels: from then on, not only then
    """

    kind: str = setting("missing_voxels", choices=_KINDS)
    x: float = setting(0.0, -0.5, 0.5)
    y: float = setting(0.0, -0.5, 0.5)
    z: float = setting(0.0, -0.5, 0.5)
    radius: float = setting(1.0, maximum=1, above=0, help="in units of the normalised frame, whose box is 1 wide")
    iteration: int = setting(0, 0, 10_000_000)
    near: float = setting(0.01, maximum=1e6, above=0)
    far: float = setting(0.02, maximum=1e6, above=0)

    def __post_init__(self) -> None:
        validate(self)
        if self.kind in AT_START and self.iteration:
            raise ValueError(f"iteration must be 0 for {self.kind}, there from the start, got {self.iteration}")
        if self.kind == "planes" and not self.near < self.far:
            raise ValueError(f"far must be above near ({self.near:g}), got {self.far:g}")

    @property
    def center(self) -> tuple[float, float, float]:
        return self.x, self.y, self.z

    def rows(self, places: Tensor) -> Int[Tensor, "n"]:
        """The rows of those places (P, 3) that lie in the ball."""
        away = (places - places.new_tensor(self.center)).norm(dim=1)
        return (away <= self.radius).nonzero().squeeze(1)


class Faults:
    """The faults of a run: `plants` parameters at the start, `strikes` them as iterations end, turns its cameras."""

    def __init__(self, listed: Sequence[Fault] = ()) -> None:
        self.listed = tuple(listed)

    def plant(self, parameters: FitParameters) -> FitParameters:
        """The parameters that a run with these faults begins with. Raises ValueError for a ball that holds nothing."""
        for number, fault in enumerate(self.listed, start=1):
            voxels = parameters.voxels
            if fault.kind == "missing_voxels":
                kept = torch.ones(voxels.n_voxels, dtype=torch.bool, device=voxels.device)
                kept[_some(fault.rows(voxels.centers), fault, number, "voxel")] = False
                parameters = carry(parameters, voxels.prune(kept))
            elif fault.kind == "no_surface":
                rows = _some(fault.rows(voxels.corners_world), fault, number, "corner")
                parameters.sdf[rows] = parameters.sdf[rows].abs() + 1e-3
        self.strike(parameters, 0)
        return parameters

    def strike(self, parameters: FitParameters, ended: int) -> None:
        """Does to the parameters what is due once so many iterations have ended."""
        voxels = parameters.voxels
        for fault in self.listed:
            if fault.iteration != ended or not voxels.n_voxels:
                continue
            if fault.kind == "flipped_sdf":
                rows = fault.rows(voxels.corners_world)
                parameters.sdf[rows] = -parameters.sdf[rows]
            elif fault.kind == "nan_weights":
                centers = voxels.centers
                parameters.weights[(centers - centers.new_tensor(fault.center)).norm(dim=1).argmin()] = torch.nan

    def turned(self, cameras: Sequence[Camera], ended: int) -> list[Camera]:
        """The cameras of the iteration that comes after so many, with the planes that a fault gives them."""
        for fault in self.listed:
            if fault.kind == "planes" and ended >= fault.iteration:
                cameras = [camera.with_planes(fault.near, fault.far) for camera in cameras]
        return list(cameras)

    def state_dict(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(fault) for fault in self.listed]

    @classmethod
    def from_state_dict(cls, state: Sequence[Mapping[str, Any]]) -> Faults:
        return cls([from_table(Fault, fault, "faults") for fault in state])


def _some(rows: Int[Tensor, "n"], fault: Fault, number: int, what: str) -> Int[Tensor, "n"]:
    """The rows; ValueError where there is none."""
    if not len(rows):
        x, y, z = fault.center
        raise ValueError(f"fault {number}: {fault.kind} must have a {what} within {fault.radius:g} of "
                         f"({x:g}, {y:g}, {z:g}), got none")
    return rows
