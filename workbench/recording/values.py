"""What a run shows beside its fields (cameras, settings, prunings, changes) as plain values of a recording, and back.

Whatever of a value breaks a rule raises ValueError.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sparseflex.camera import Camera
from sparseflex.training.pruning import PruneEvent
from sparseflex.training.run import RunCamera, Setting
from sparseflex.voxels import SparseVoxels
from workbench.commands import ChangeCameras, ChangeSetting
from workbench.snapshot import Hit

_EVENT_SETS = ("pruned", "born", "wrongly_kept")
_EVENT_ARRAYS = {"pruned_reason": np.uint8, "pruned_occupancy": np.float32, "wrongly_pruned": np.bool_,
                 "wrongly_kept_reason": np.uint8}
_EVENT_NUMBERS = ("iteration", "level", "resolution", "n_kept")

MakeCamera = Callable[[Camera], Camera]
"""Gives the camera that is known by the same numbers, or the one that it is given."""


@dataclasses.dataclass(frozen=True)
class Cameras:
    """The cameras of a snapshot: own is None where the run's can't be changed."""

    listed: tuple[RunCamera, ...] = ()
    own: tuple[Camera, ...] | None = None
    locked: bool = False
    kept: tuple[Camera, ...] = ()


def cameras_value(cameras: Cameras) -> dict[str, Any]:
    """Every camera once, as a row of numbers; all else names them by their rows."""
    pool: dict[int, Camera] = {}
    for camera in (*(known.camera for known in cameras.listed), *(known.own for known in cameras.listed),
                   *(cameras.own or ()), *cameras.kept):
        if camera is not None:
            pool[id(camera)] = camera
    place = {key: row for row, key in enumerate(pool)}
    rows = [[*camera.camera_from_world.flatten().tolist(), camera.fov_y_degrees, camera.width, camera.height,
             camera.near, camera.far] for camera in pool.values()]
    kinds = list(dict.fromkeys(known.kind for known in cameras.listed))
    listed = [[place[id(known.camera)], -1 if known.own is None else place[id(known.own)], kinds.index(known.kind),
               *(math.nan if number is None else number for number in _numbers(known))]
              for known in cameras.listed]
    return {
        "pool": np.array(rows, np.float64).reshape(-1, 21), "listed": np.array(listed, np.float64).reshape(-1, 8),
        "kinds": kinds, "locked": cameras.locked, "kept": [place[id(camera)] for camera in cameras.kept],
        "own": None if cameras.own is None else [place[id(camera)] for camera in cameras.own],
    }


def _numbers(known: RunCamera) -> tuple[float | None, ...]:
    return known.loss, known.n_active, known.iteration, known.n_seen, known.behind


def cameras_of(value: Any, known: MakeCamera = lambda camera: camera) -> Cameras:
    """The cameras of a value that cameras_value made."""
    items = _items(value, "cameras", "pool", "listed", "kinds", "locked", "kept", "own")
    rows, table = _array(items["pool"], "pool", 21), _array(items["listed"], "listed", 8, 6)
    kinds = items["kinds"]
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise ValueError(f"kinds of cameras must be texts, got {str(kinds)[:60]}")
    pool = [known(_camera(row)) for row in rows]
    listed = tuple(_run_camera(row, pool, kinds) for row in table)
    own = items["own"]
    return Cameras(listed, None if own is None else _picked(pool, own), bool(items["locked"]),
                   _picked(pool, items["kept"]))


def _camera(row: np.ndarray) -> Camera:
    sides = row[17:19]
    if not np.isfinite(row).all() or not ((sides >= 1) & (sides <= 1 << 16)).all():
        raise ValueError("a camera must be 21 finite numbers with sides in [1, 65536]")
    fov_y_degrees, width, height, near, far = row[16:].tolist()
    matrix = torch.tensor(row[:16].reshape(4, 4))
    if not np.allclose(row[12:16], (0, 0, 0, 1)) or abs(abs(np.linalg.det(row[:16].reshape(4, 4))) - 1) > 1e-3:
        raise ValueError("a camera's camera_from_world must be a rotation and a translation")
    return Camera(matrix, fov_y_degrees, int(width), int(height), near, far)


def _run_camera(row: np.ndarray, pool: list[Camera], kinds: list[str]) -> RunCamera:
    camera, own, kind = row[:3].tolist()
    kept = () if own == -1 else (own,)
    if not (0 <= kind < len(kinds) and all(0 <= place < len(pool) for place in (camera, *kept))):
        raise ValueError(f"a listed camera must name rows of the others, got {row[:3].tolist()}")
    numbers = [*row[3:].tolist(), math.nan, math.nan][:5]  # the first recordings lack what a camera saw
    loss, n_active, iteration, n_seen, behind = (None if math.isnan(number) else number for number in numbers)
    whole = [None if number is None or math.isinf(number) else int(number) for number in (n_active, iteration, n_seen)]
    return RunCamera(pool[int(camera)], kinds[int(kind)], loss, *whole[:2], own=pool[int(own)] if kept else None,
                     n_seen=whole[2], behind=behind)


def _picked(pool: list[Camera], places: Any) -> tuple[Camera, ...]:
    if not isinstance(places, list) or not all(type(place) is int and 0 <= place < len(pool) for place in places):
        raise ValueError(f"own cameras must be rows of the cameras, got {str(places)[:60]}")
    return tuple(pool[place] for place in places)


def settings_value(settings: Mapping[str, Setting]) -> dict[str, Any]:
    return {name: dataclasses.asdict(setting) for name, setting in settings.items()}


def settings_of(value: Any) -> dict[str, Setting]:
    settings = {}
    for name, row in (value if isinstance(value, dict) else {}).items():
        row = _items(row, f"setting {name}", "value", "minimum", "maximum")
        numbers = [row[key] for key in ("value", "minimum", "maximum")]
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise ValueError(f"setting {name} must have numbers, got {str(numbers)[:60]}")
        settings[name] = Setting(*(float(number) for number in numbers), help=str(row.get("help", "")))
    return settings


def events_value(events: Sequence[PruneEvent]) -> list[dict[str, Any]]:
    """Of each event its numbers and its sets of voxels by their keys, in the order of their rows."""
    found = []
    for event in events:
        numbers = {name: getattr(event, name) for name in _EVENT_NUMBERS} | {"subdivided": bool(event.subdivided)}
        sets = {name: getattr(event, name).keys.cpu().numpy() for name in _EVENT_SETS}
        arrays = {name: getattr(event, name).cpu().numpy().astype(kind) for name, kind in _EVENT_ARRAYS.items()}
        found.append(numbers | sets | arrays)
    return found


def events_of(value: Any) -> tuple[PruneEvent, ...]:
    if not isinstance(value, list):
        raise ValueError(f"prune events must be a list, got {str(value)[:60]}")
    return tuple(_event(row) for row in value)


def _event(row: Any) -> PruneEvent:
    items = _items(row, "a prune event", "subdivided", *_EVENT_NUMBERS, *_EVENT_SETS, *_EVENT_ARRAYS)
    numbers = {name: items[name] for name in _EVENT_NUMBERS}
    if not all(type(number) is int and 0 <= number < 1 << 53 for number in numbers.values()):
        raise ValueError(f"a prune event must have whole numbers, got {numbers}")
    sets = {name: voxels_of(items[name], numbers["resolution"]) for name in _EVENT_SETS}
    arrays = {}
    for name, kind in _EVENT_ARRAYS.items():
        array, rows = items[name], sets["wrongly_kept" if name == "wrongly_kept_reason" else "pruned"].n_voxels
        if not isinstance(array, np.ndarray) or array.dtype != kind or array.shape != (rows,):
            raise ValueError(f"{name} of a prune event must be {rows} of {np.dtype(kind)}")
        arrays[name] = torch.tensor(array)
    return PruneEvent(**numbers, subdivided=bool(items["subdivided"]), **sets, **arrays)


def voxels_of(keys: Any, resolution: Any) -> SparseVoxels:
    """Voxels by their keys (x major), in the order of these; see SparseVoxels.keys."""
    SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), resolution)  # checks the resolution
    if not isinstance(keys, np.ndarray) or keys.ndim != 1 or keys.dtype.kind != "i":
        raise ValueError("the keys of voxels must be whole numbers in a row")
    if keys.size and (int(keys.min()) < 0 or int(keys.max()) >= resolution**3):
        raise ValueError(f"the keys of voxels must be in [0, {resolution}^3)")
    wanted = np.int32 if resolution**3 <= 2**31 else np.int64
    tensor = torch.from_numpy(keys.astype(wanted))
    if bool((tensor[1:] > tensor[:-1]).all()):
        return SparseVoxels.from_keys(tensor, resolution)
    voxels = SparseVoxels.from_keys(tensor, resolution)
    return SparseVoxels(voxels.voxel_ijk, resolution)  # refuses what is there twice


def change_value(change: ChangeSetting | ChangeCameras, iteration: int, n_stages: int) -> dict[str, Any]:
    """A change that the user made, with its place: iterations ended, and stages of the next one that had run."""
    place = {"iteration": iteration, "n_stages": n_stages}
    if isinstance(change, ChangeSetting):
        return place | {"setting": change.name, "value": change.value}
    return place | {"cameras": cameras_value(Cameras((), change.cameras, change.locked, change.kept or ())),
                    "has_kept": change.kept is not None}


@dataclasses.dataclass(frozen=True)
class Changed:
    """A change and its place: iterations ended, and stages of the next one that had run."""

    change: ChangeSetting | ChangeCameras
    iteration: int
    n_stages: int


def change_of(value: Any, known: MakeCamera = lambda camera: camera) -> Changed:
    items = _items(value, "a change", "iteration", "n_stages")
    place = items["iteration"], items["n_stages"]
    if not all(type(number) is int and 0 <= number < 1 << 53 for number in place):
        raise ValueError(f"a change must have a place, got {place}")
    if "cameras" in items:
        cameras = cameras_of(items["cameras"], known)
        kept = cameras.kept if items.get("has_kept") else None
        return Changed(ChangeCameras(cameras.own or (), cameras.locked, kept), *place)
    name, number = items.get("setting"), items.get("value")
    if not isinstance(name, str) or not isinstance(number, (int, float)):
        raise ValueError(f"a change must be of a setting to a number, or of cameras, got {str(value)[:60]}")
    return Changed(ChangeSetting(name, float(number)), *place)


def hit_value(hit: Hit) -> dict[str, Any]:
    """Where a breakpoint stopped the run."""
    return {**dataclasses.asdict(hit), "values": dict(hit.values)}


def hit_of(value: Any) -> Hit:
    items = _items(value, "a hit", "expression", "stage", "iteration", "n_stages", "values")
    place, texts = (items["iteration"], items["n_stages"]), (items["expression"], items["stage"])
    values = items["values"]
    if not all(type(number) is int and 0 < number < 1 << 53 for number in place):
        raise ValueError(f"a hit must have a place, got {place}")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"a hit must name its condition and its stage, got {str(texts)[:60]}")
    if not isinstance(values, dict) or not all(type(number) in (int, float) for number in values.values()):
        raise ValueError(f"a hit's values must be numbers, got {str(values)[:60]}")
    return Hit(*texts, *place, tuple((name, float(number)) for name, number in values.items()))


def _items(value: Any, what: str, *names: str) -> dict[str, Any]:
    lacking = [name for name in names if name not in value] if isinstance(value, dict) else list(names)
    if lacking:
        raise ValueError(f"{what} must have {', '.join(names)}, lacks {', '.join(lacking)}")
    return value


def _array(value: Any, name: str, *columns: int) -> np.ndarray:
    if (not isinstance(value, np.ndarray) or value.dtype != np.float64 or value.ndim != 2
            or value.shape[1] not in columns):
        raise ValueError(f"{name} of cameras must be numbers in {columns[0]} columns")
    return value
