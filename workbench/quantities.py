"""Quantities: fields of a run as one number a corner or a voxel, with name, unit and range; shown as colours."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from sparseflex.voxels import SparseVoxels
from workbench import theme
from workbench.colour_maps import bad_values, robust_range

SDF, DEFORM, SDF_ERROR = "corner_sdf", "corner_deform", "sdf_error"
"""SDF_ERROR is no field of a run: it follows from the SDF and the target."""

PCA, LOGIT, ATTENTION = "pca", "occupancy_logit", "attention"
"""PCA: colours as they are, three numbers in [0, 1]. ATTENTION: NaN beyond the window, which is no fault."""

LABELS = {
    SDF: "SDF", SDF_ERROR: "SDF error", DEFORM: "δ, deformation", "alpha": "α, corner weights",
    "beta": "β, edge weights", "gamma": "γ, split weight", "sdf_grad": "|∂L/∂SDF|", "deform_grad": "|∂L/∂δ|",
    "weights_grad": "|∂L/∂αβγ|", "active": "active", "occupancy": "occupancy", "touched": "touched by the target",
    PCA: "features, three components", LOGIT: "occupancy logit", ATTENTION: "attention",
    "norm": "length of the features", "n_points": "points in the voxel", "mean": "latent's mean",
    "std": "latent's spread", "latent": "latent decoded", "edited": "moved by edits",
    "active_count": "times active", "seen_count": "times seen", "camera_count": "cameras that saw it",
    "viewing_angle": "mean viewing angle", "last_loss": "loss when last seen", "last_seen": "iteration last seen",
}
TIPS = {
    SDF: "Signed distance at the voxels' corners, negative inside; the surface is extracted where it changes sign",
    SDF_ERROR: "SDF minus the signed distance to the target at the deformed corner (to first order in δ).\n"
               "Fitting only asks for the zero set: far from the surface an error is no fault",
    DEFORM: "How far each corner is moved: ½·tanh of the parameter, up to half a voxel along each axis",
    "alpha": "FlexiCubes weights of the corners, 8 a voxel: they move zero crossings along the edges",
    "beta": "FlexiCubes weights of the edges, 12 a voxel: they weigh zero crossings in the dual vertex",
    "gamma": "FlexiCubes weight of the voxel: decides how quads are split into triangles",
    "sdf_grad": "Size of the loss's gradient by the corner's SDF, after backward",
    "deform_grad": "Size of the loss's gradient by the corner's deformation, after backward",
    "weights_grad": "Size of the loss's gradient by the voxel's α, β and γ, after backward",
    PCA: "The first three principal components of the voxels' features as red, green and blue:\n"
         "like colours, like features. Their signs are fixed, so that colours compare between passes",
    LOGIT: "What the pruning head says: a voxel is kept where its logit is at least the threshold, 0 unless changed",
    ATTENTION: "What the attended voxel looks at in this block: softmax weights over the voxels of its window",
    "norm": "Length of each voxel's feature vector",
    "n_points": "How many input points lie in the voxel; 0: it was added around them",
    "mean": "Mean of each voxel's latent, by channel",
    "std": "Spread of each voxel's latent, by channel: how sure the encoder is",
    "latent": "What is decoded: the mean or a sample, after all edits, by channel",
    "edited": "How far the edits moved each voxel's latent",
    "active_count": "In how many views the voxel's centre lay in the frustum, between near and far",
    "seen_count": "How many views had a pixel of the voxel: one whose nearest triangle has a corner in it",
    "camera_count": "The same by camera: each one drawn at random is a camera of its own, your own count once",
    "viewing_angle": "Between the way to the eye and the surface's normal, a mean over the views that saw the voxel.\n"
                     "0: head on, 90: grazing, more: from behind",
    "last_loss": "What the voxel's pixels contributed to the loss when it was seen last: depth, normal and mask,\n"
                 "each pixel half to either of the two voxels that its triangle joins",
    "last_seen": "The iteration that saw the voxel last, counted from 1; 0: none",
}

VOXEL_WIDTHS, WORLD = "voxel widths", "world units"

BESIDE = {ATTENTION: "beyond its window", "viewing_angle": "never seen", "last_loss": "never seen"}
"""Quantities in which NaN is no fault, and what it means there."""

_NO_QUANTITIES = ("active_by", "seen_by")  # of bits
_BY_TERM = "_grad_"
_UNITS = {"viewing_angle": "degrees"}

_LENGTHS = {SDF, SDF_ERROR, DEFORM}
_SIGNED = {SDF, SDF_ERROR, LOGIT}
_COLUMNS = {"alpha": "corner", "beta": "edge", ATTENTION: "head", "mean": "channel", "std": "channel",
            "latent": "channel"}
_BLOCK = 1 << 15  # rows worked on at a time: they stay in the processor's cache


@dataclasses.dataclass(frozen=True, eq=False)
class Quantity:
    """One number a corner or a voxel. name: the field's; part: which of its columns, or how they are taken together.

    values: (n,) float32. signed: the values lie about zero. n_nan, n_infinite: how many are no finite numbers.
    rgb: the colours themselves, where the field is one of colours; values are then their mean.
    """

    name: str
    part: str
    unit: str
    signed: bool
    values: Float[np.ndarray, "n"]
    n_nan: int
    n_infinite: int
    rgb: Float[np.ndarray, "n 3"] | None = None

    @property
    def has_beside(self) -> bool:
        """Whether NaN means a voxel that isn't concerned, and no bad value."""
        return self.name in BESIDE

    @property
    def n_bad(self) -> int:
        """How many values are at fault."""
        return self.n_infinite + (0 if self.has_beside else self.n_nan)

    @functools.cached_property
    def automatic(self) -> tuple[float, float]:
        """The range that most of the values lie in."""
        return robust_range(self.values, self.signed)

    @functools.cached_property
    def extremes(self) -> tuple[float, float]:
        """The least and the greatest finite value; zeros where there is none."""
        finite = self.values[np.isfinite(self.values)] if self.n_nan + self.n_infinite else self.values
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)

    @property
    def key(self) -> str:
        """What a locked range belongs to."""
        return f"{self.name} {self.part} {self.unit}"

    @property
    def label(self) -> str:
        return label_of(self.name) if not self.part else f"{label_of(self.name)}, {self.part}"


def corner_names(kinds: Mapping[str, str], chosen: str = "") -> list[str]:
    """What can be shown at corners, of a run with fields of these kinds: SDF first, then its error, then the others.
    Gradients by term, such as sdf_grad_depth, are too many to be listed: only the chosen one is."""
    known = [name for name, kind in kinds.items() if kind == "corner" and (_BY_TERM not in name or name == chosen)]
    first = [SDF, *([SDF_ERROR] if kinds.get("target") == "mesh" else [])] if SDF in known else []
    return first + [name for name in known if name != SDF]


def voxel_names(kinds: Mapping[str, str], chosen: str = "") -> list[str]:
    """What voxels can be coloured by: fields of corners (the mean of the voxel's eight), then those of voxels."""
    of_voxels = [name for name, kind in kinds.items() if kind == "voxel" and name not in _NO_QUANTITIES]
    return corner_names(kinds, chosen) + [name for name in of_voxels if _BY_TERM not in name or name == chosen]


def label_of(name: str) -> str:
    """A field's name as it is shown."""
    parameter, grad, term = name.partition(_BY_TERM)
    known = LABELS.get(f"{parameter}_grad") if grad else None
    return LABELS.get(name, name) if known is None else f"{known} of {term}"


def needed_fields(name: str) -> set[str]:
    """The run's fields that a quantity of this name is made of."""
    return {SDF, DEFORM, "target"} if name == SDF_ERROR else {name}


def parts_of(name: str, values: Any) -> list[str]:
    """How the columns of a field can be shown, the first by default; [""] where it has but one."""
    n_columns = 1 if values.ndim < 2 else int(np.prod(values.shape[1:]))
    if n_columns <= 1 or name == PCA:
        return [""]
    if n_columns == 3 and values.ndim == 2 and name not in _COLUMNS:
        return ["length", "x", "y", "z"]
    what = _COLUMNS.get(name, "column")
    return ["mean", *(f"{what} {index}" for index in range(n_columns))]


def one_column(name: str, values: Any, part: str) -> Float[np.ndarray, "n"]:
    """A field's part as float32; the deformation as corners are moved by it, in voxel widths. NaN without columns."""
    table = np.asarray(values)
    table = table.reshape(len(table), int(np.prod(table.shape[1:])))
    found = np.full(len(table), np.nan, np.float32)
    if table.shape[1]:
        for start in range(0, len(table), _BLOCK):
            block = table[start : start + _BLOCK].astype(np.float32)
            found[start : start + _BLOCK] = _column(name, block, part)
    return found


def _column(name: str, table: Float[np.ndarray, "n k"], part: str) -> Float[np.ndarray, "n"]:
    if name == DEFORM:
        table = 0.5 * np.tanh(table)
    if part == "length":
        return np.sqrt(table[:, 0] ** 2 + table[:, 1] ** 2 + table[:, 2] ** 2)
    if part == "mean" or name == PCA:
        return table @ np.full(table.shape[1], 1 / table.shape[1], np.float32)  # six times as fast as mean
    return table[:, parts_of(name, table).index(part) - 1 if part else 0]


def voxel_means(voxels: SparseVoxels, corner_values: Float[np.ndarray, "C"]) -> Float[np.ndarray, "N"]:
    """The mean of each voxel's eight corners: the trilinear field at its centre."""
    total = np.zeros(voxels.n_voxels, np.float32)
    with np.errstate(invalid="ignore"):
        for corners in voxels.corners_by_slot.numpy():
            total += corner_values.take(corners)
        return total / 8


def quantity(name: str, part: str, values: Float[np.ndarray, "n"], resolution: int, in_world: bool) -> Quantity:
    """The quantity of these values, lengths in voxel widths or, where asked, in world units."""
    unit = unit_of(name)
    if name in _LENGTHS:
        unit = WORLD if in_world else VOXEL_WIDTHS
        if (name == SDF) != in_world:  # the field itself is in world units, all else in voxel widths
            values = values * np.float32(resolution) if name == SDF else values / np.float32(resolution)
    return of_values(name, part, unit, name in _SIGNED or _goes_below_zero(values), values)


def colours_of(name: str, values: Any) -> Float[np.ndarray, "n 3"] | None:
    """The values as colours where they are meant as such; what isn't a number is shown as everywhere."""
    table = np.asarray(values)
    if name != PCA or table.ndim != 2 or table.shape[1] != 3:
        return None
    bad = ~np.isfinite(table).all(axis=1, keepdims=True)
    return np.where(bad, np.float32(theme.NOT_A_NUMBER), np.clip(table, 0.0, 1.0)).astype(np.float32)


def unit_of(name: str) -> str:
    """Of what isn't a length."""
    return _UNITS.get(name, "")


def of_values(name: str, part: str, unit: str, signed: bool, values: Float[np.ndarray, "n"]) -> Quantity:
    """The quantity with its bad values counted."""
    return Quantity(name, part, unit, signed, values, *bad_values(values))


def _goes_below_zero(values: Float[np.ndarray, "n"]) -> bool:
    """Values of magnitudes and weights never do."""
    return bool(np.less(values, 0).any())


def bin_edges(finite: Float[np.ndarray, "n"], most: int) -> Float[np.ndarray, "edges"]:
    """Of a histogram from 0, or the least value, to the greatest; of whole numbers every bin has as many of them."""
    low, high = min(float(finite.min()), 0.0), float(finite.max())
    if (finite == np.rint(finite)).all():
        wide = -(-(high - low + 1) // most)
        return np.arange(low, high + 1 + wide, wide) - 0.5
    return np.linspace(low, high if high > low else low + 1.0, most + 1)
