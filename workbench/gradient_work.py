"""What the worker finds of a backward pass: how much each term pulls, where gradients go wrong, what a pixel adds."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int

from sparseflex.camera import Camera
from sparseflex.training.backward_pass import PARAMETERS, BackwardPass
from sparseflex.training.gradient_regions import EXPLODING, VANISHING, Regions, find_regions
from sparseflex.training.pixel_pull import map_gradients, pixel_pull
from sparseflex.voxels import SparseVoxels
from workbench.colour_maps import Scale
from workbench.map_colours import background

N_BINS, DECADES = 44, 11
N_TOP, N_REGIONS = 6, 60

_BASE_SHADE = 0.5
_VISIBLE, _SHOWN = 1e-6, 0.03
"""Of the largest pull: smaller ones are rounding, and smaller ones don't widen the part that is shown."""

_EDGES = ((0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (0, 4), (1, 5), (2, 6), (3, 7))


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """norms: (T,) of each term's gradient by the chosen parameter, all active rows together but what isn't finite;
    bad_terms: those of which some isn't; cosines: (T, T) between the terms' gradients by all parameters, NaN where one
    is 0. counts: voxels by the logarithm of their norm, edges in
    powers of ten; n_zero, n_bad: those that are 0, and not finite. reaches: what vanishes lies below the first, what
    explodes above the second, as powers of ten."""

    iteration: int
    parameter: str
    term: str
    terms: tuple[str, ...]
    norms: Float[np.ndarray, "T"]
    bad_terms: tuple[str, ...]
    cosines: Float[np.ndarray, "T T"]
    counts: Int[np.ndarray, "bins"]
    edges: Float[np.ndarray, "edges"]
    n_zero: int
    n_bad: int
    n_voxels: int
    resolution: int
    reaches: tuple[float, float]
    regions: Regions
    done: BackwardPass

    def rivals(self) -> tuple[str, str, float] | None:
        """The two terms that pull most against each other, and the cosine between them; None where none do."""
        lower = np.where(np.tri(len(self.terms), k=-1, dtype=bool), self.cosines, np.nan)
        if not (lower < 0).any():
            return None
        a, b = np.unravel_index(int(np.nanargmin(lower)), lower.shape)
        return self.terms[b], self.terms[a], float(lower[a, b])

    @functools.cached_property
    def section(self) -> SparseVoxels:
        """The active voxels, on the CPU."""
        return self.done.section.to("cpu")

    def voxels_of(self, number: int) -> SparseVoxels:
        """The voxels of a region, on the CPU."""
        return SparseVoxels(self.regions.voxel_ijk(self.done, number).cpu(), self.resolution)


def summarise(done: BackwardPass, parameter: str, term: str) -> Summary:
    """parameter: of PARAMETERS; term: one, or "" for the loss."""
    products = done.products().cpu().numpy()
    of_all = products.sum(0)
    lengths = np.sqrt(np.diag(of_all))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = of_all / np.outer(lengths, lengths)
    regions = find_regions(done, parameter, term, N_REGIONS)
    counts, edges, n_zero, n_bad = _histogram(done.voxel_norms(parameter, term).cpu().numpy())
    middle = regions.median if regions.median > 0 else math.nan
    reaches = (math.log10(VANISHING * middle), math.log10(EXPLODING * middle)) if middle == middle else (math.nan,) * 2
    good = [done.gradient(parameter, each).isfinite().all() for each in done.terms]
    known = torch.stack(good).tolist() if good else []
    bad_terms = tuple(each for each, fine in zip(done.terms, known, strict=True) if not fine)
    return Summary(done.iteration, parameter, term, done.terms, np.sqrt(np.diag(products[PARAMETERS.index(parameter)])),
                   bad_terms, np.clip(cosines, -1.0, 1.0), counts, edges, n_zero, n_bad, done.section.n_voxels,
                   done.section.resolution, reaches, regions, done)


def _histogram(norms: Float[np.ndarray, "n"]) -> tuple[np.ndarray, np.ndarray, int, int]:
    good = norms[np.isfinite(norms) & (norms > 0)]
    n_zero = int((norms == 0).sum())
    top = math.ceil(math.log10(float(good.max()))) if good.size else 0
    edges = np.linspace(top - DECADES, top, N_BINS + 1)
    places = np.log10(good.astype(np.float64)).clip(edges[0], edges[-1])
    return np.histogram(places, edges)[0], edges, n_zero, len(norms) - len(good) - n_zero


@dataclasses.dataclass(frozen=True)
class TopPixel:
    """A pixel that pulls much: its place, its pull by all terms of pixels, the term through which it pulls most."""

    row: int
    column: int
    pull: float
    term: str


@dataclasses.dataclass(frozen=True, eq=False)
class Pull:
    """What pulls on one voxel: norms[parameter][term] of the gradient there ("" for the loss), and by_term, what each
    term adds to the length of the gradient by `parameters`. pixels: (H, W) what each pixel of the view adds, of the
    term asked for or of all; n_pixels: how many do; top: the strongest. image: pulls over what was rendered; crop: the
    part of it around them, as top, left, height, width. outline: the voxel's edges in pixels as (column, row) pairs."""

    ijk: tuple[int, int, int]
    resolution: int
    iteration: int
    camera: Camera
    norms: Mapping[str, Mapping[str, float]]
    norm: float
    by_term: Mapping[str, float]
    pixels: Float[np.ndarray, "H W"]
    n_pixels: int
    top: tuple[TopPixel, ...]
    image: Float[np.ndarray, "H W 3"]
    limit: float
    crop: tuple[int, int, int, int]
    outline: Float[np.ndarray, "E 2 2"]


class PullWork:
    """Pulls on voxels; remembers what holds for all voxels of a pass. Belongs to the worker's thread."""

    def __init__(self) -> None:
        self._known: tuple[BackwardPass, tuple] | None = None

    def pull(self, done: BackwardPass, ijk: tuple[int, int, int], parameter: str, term: str, view: int) -> Pull | None:
        """None where the voxel wasn't active in the pass, or where it had no camera."""
        if not done.views:
            return None
        if self._known is None or self._known[0] is not done:
            self._known = done, map_gradients(done)
        found = pixel_pull(done, ijk, (parameter,), self._known[1])
        if found is None:
            return None
        view = min(view, len(done.views) - 1)
        camera, maps = done.views[view].camera, {name: of.cpu().numpy() for name, of in found.pixels[view].items()}
        every = np.sum(list(maps.values()), axis=0) if maps else np.zeros((camera.height, camera.width))
        pixels = maps.get(term, np.zeros_like(every)) if term else every
        limit = float(np.abs(pixels[np.isfinite(pixels)]).max(initial=0.0))
        pulls = ~(np.abs(pixels) <= _VISIBLE * limit)
        image = _image(done.views[view].rendered.depth.cpu().numpy(), pixels, pulls, limit)
        corners = _in_pixels(camera, ijk, done.section.resolution)
        outline = np.array([[corners[a], corners[b]] for a, b in _EDGES])
        return Pull(found.ijk, done.section.resolution, done.iteration, camera, _norms(done, ijk), found.norm,
                    found.by_term, pixels, int(pulls.sum()), _top(pixels, maps, pulls), image, limit,
                    _crop(pulls & ~(np.abs(pixels) < _SHOWN * limit), corners),
                    outline[np.isfinite(outline).all(axis=(1, 2))])


def _norms(done: BackwardPass, ijk: tuple[int, int, int]) -> dict[str, dict[str, float]]:
    row = int(done.section.find(torch.tensor([ijk], device=done.section.device))[0])
    corners = done.section.voxel_corners[row].long()
    rows = {"sdf": corners, "deform": corners, "weights": torch.tensor([row], device=corners.device)}
    return {name: {term: float(done.gradient(name, term)[rows[name]].norm()) for term in ("", *done.terms)}
            for name in PARAMETERS}


def _image(depth: Float[np.ndarray, "H W"], pixels: Float[np.ndarray, "H W"], pulls: np.ndarray, limit: float
           ) -> Float[np.ndarray, "H W 3"]:
    """The rendered surface in grey, near bright; over it the pulls, the stronger the less of it is seen."""
    hit = np.isfinite(depth) & (depth > 0)
    near, far = (float(depth[hit].min()), float(depth[hit].max())) if hit.any() else (0.0, 1.0)
    shade = 0.35 + 0.65 * (far - depth) / max(far - near, 1e-9)
    grey = np.where(hit, _BASE_SHADE * shade, 0.0)[..., None] * np.ones(3)
    base = np.where(hit[..., None], grey, background()).astype(np.float32)
    if limit <= 0 and not pulls.any():
        return base
    colours = Scale(-max(limit, 1e-30), max(limit, 1e-30), "diverging").colours(pixels)
    strength = np.sqrt(np.clip(np.abs(np.nan_to_num(pixels, nan=limit)) / max(limit, 1e-30), 0.0, 1.0))
    strength = np.where(pulls, 0.1 + 0.9 * strength, 0.0)[..., None]
    return (base * (1 - strength) + colours * strength).astype(np.float32)


def _top(pixels: np.ndarray, maps: Mapping[str, np.ndarray], pulls: np.ndarray) -> tuple[TopPixel, ...]:
    rows, columns = np.nonzero(pulls)
    sizes = np.abs(np.nan_to_num(pixels[rows, columns], nan=np.inf))
    found = []
    for place in np.argsort(-sizes, kind="stable")[:N_TOP]:
        row, column = int(rows[place]), int(columns[place])
        term = max(maps, key=lambda name, at=(row, column): abs(float(np.nan_to_num(maps[name][at], nan=np.inf))))
        found.append(TopPixel(row, column, float(pixels[row, column]), term))
    return tuple(found)


def _in_pixels(camera: Camera, ijk: tuple[int, int, int], resolution: int) -> Float[np.ndarray, "8 2"]:
    """(column, row) of the voxel's corners; NaN for those that lie behind the camera."""
    signs = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], np.float64)
    points = torch.from_numpy((np.array(ijk) + signs) / resolution - 0.5)
    x, y, z = camera.to_camera_space(points).numpy().T
    depth = np.where(-z > 1e-6, -z, np.nan)
    focal = camera.focal_pixels
    return np.stack([x / depth * focal + camera.width / 2, camera.height / 2 - y / depth * focal], axis=1)


_LEAST_CROP = 24


def _crop(pulls: np.ndarray, corners: Float[np.ndarray, "8 2"]) -> tuple[int, int, int, int]:
    """A square part of the image that holds the pulls and the voxel, with some room around them."""
    height, width = pulls.shape
    rows, columns = np.nonzero(pulls)
    known = corners[np.isfinite(corners).all(axis=1)]
    places = np.concatenate([np.stack([columns, rows], axis=1).reshape(-1, 2), known])
    if not len(places):
        return 0, 0, height, width
    low = np.clip(places.min(axis=0), 0, (width, height))
    high = np.clip(places.max(axis=0) + 1, 0, (width, height))
    side = int(min(max(1.3 * (high - low).max() + 2, _LEAST_CROP), height, width))
    middle = (low + high) / 2
    left, top = (int(np.clip(round(at - side / 2), 0, most - side)) for at, most in zip(middle, (width, height),
                                                                                       strict=True))
    return top, left, side, side
