"""What is recorded how often, how much of it at most, and what is known of a recording while it is made."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparseflex.training.run import Run
from workbench.field_copies import fields_of
from workbench.recording.layout import OWN_STREAMS, SCHEMA, VERSION
from workbench.recording.values import settings_value

GIGABYTE = 1e9


@dataclasses.dataclass(frozen=True)
class RecordPolicy:
    """Intervals in iterations; limit_bytes of the file: whenever it has grown past half of what was left up to that,
    the intervals double, and at the limit recording ends. reserve_bytes of the disk stay free; queue_bytes wait at most
    for the writer, what comes beyond is dropped. cost_share: of the run's time, for each of the three; what is due is
    put off until it costs no more, a new set of voxels excepted."""

    snapshot_every: int = 10
    maps_every: int = 50
    keyframe_every: int = 100
    limit_bytes: float = 4 * GIGABYTE
    reserve_bytes: float = 0.5 * GIGABYTE
    queue_bytes: float = 0.5 * GIGABYTE
    cost_share: float = 0.08

    def __post_init__(self) -> None:
        for name in ("snapshot_every", "maps_every", "keyframe_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 iteration, got {getattr(self, name)}")
        for name in ("limit_bytes", "reserve_bytes", "queue_bytes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be in [0, inf), got {getattr(self, name)}")
        if not self.cost_share > 0:
            raise ValueError(f"cost_share must be above 0, got {self.cost_share}")

    def doubled(self) -> RecordPolicy:
        return dataclasses.replace(self, snapshot_every=2 * self.snapshot_every, maps_every=2 * self.maps_every,
                                   keyframe_every=2 * self.keyframe_every)


@dataclasses.dataclass(frozen=True)
class RecordStatus:
    """How a recording stands. iteration: the last one in the file, -1 before there is one; n_bytes: of the file;
    n_dropped: snapshots, maps, keyframes and iterations for which there was no room in the queue; stopped: why nothing
    more is recorded, or ""; notes: what can't be recorded of this run, each told once; closed: whether it ended as it
    should. n_keyframes, keyframe_bytes: complete states in the file, replaced ones too, and what they take there."""

    path: Path
    iteration: int = -1
    n_bytes: int = 0
    n_dropped: int = 0
    stopped: str = ""
    notes: tuple[str, ...] = ()
    closed: bool = False
    n_keyframes: int = 0
    keyframe_bytes: int = 0

    @property
    def words(self) -> str:
        """One line."""
        dropped = f", {self.n_dropped} dropped" if self.n_dropped else ""
        if self.stopped:
            return f"recording stopped after iteration {max(self.iteration, 0)}: {self.stopped}{dropped}"
        done = "recorded" if self.closed else "recording"
        return f"{done} {self.path.name}, {self.n_bytes / 1e6:,.1f} MB{dropped}"


@dataclasses.dataclass(frozen=True)
class About:
    """What a recording says of its run that the run itself doesn't know. view: what makes the home view, as plain
    numbers; input_from_normalized: (4, 4); parent: uid, file and iteration of the recording it branched from."""

    title: str = ""
    view: Mapping[str, Any] | None = None
    input_from_normalized: Sequence[Sequence[float]] | None = None
    parent: Mapping[str, Any] | None = None


def policy_of(run: Run, **options: Any) -> RecordPolicy:
    """The usual policy, with the intervals of a run that says itself how often it is to be recorded, which is then not
    put off: such a run has few iterations."""
    every = getattr(run, "record_every", None)
    if every is not None:
        options = {"snapshot_every": every, "maps_every": every, "keyframe_every": every, "cost_share": 1e9, **options}
    return RecordPolicy(**options)


def meta_of(run: Run, about: About, policy: RecordPolicy) -> dict[str, Any]:
    """The attribute `meta` of a recording; see recordings/README.md."""
    config = getattr(run, "config", None)
    config = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else None
    matrix = about.input_from_normalized
    return _plain({
        "schema": SCHEMA, "version": VERSION, "uid": uuid.uuid4().hex,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "name": run.name, "title": about.title or run.name,
        "stages": list(run.stages), "streams": [*OWN_STREAMS, *fields_of(run)], "field_kinds": dict(fields_of(run)),
        "config": config, "seed": (config or {}).get("seed"), "settings": settings_value(run.settings),
        "code": {name: _version(name) for name in ("sparseflex-workbench", "torch", "numpy", "h5py")}
        | {"python": platform.python_version()},
        "machine": {"system": platform.platform(), "processor": platform.machine(),
                    "device": str(getattr(run, "device", "cpu"))},
        "parent": about.parent, "view": about.view, "policy": dataclasses.asdict(policy),
        "input_from_normalized": np.eye(4).tolist() if matrix is None else matrix,
    })


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _plain(value: Any) -> Any:
    """JSON has no NaN, no tensors and no types of a run's own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
