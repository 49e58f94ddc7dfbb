"""Recordings made for tests: of a run, iteration by iteration, or entry by entry, written by the writer's own file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparseflex.training.measure import StageCost, cost_columns
from sparseflex.training.run import Run
from workbench.field_copies import FieldCopies, fields_of
from workbench.recording.codec import header_of
from workbench.recording.layout import CAMERAS, CHANGES, STATE
from workbench.recording.policy import About, RecordPolicy, meta_of
from workbench.recording.states import state_value
from workbench.recording.values import Cameras, cameras_value, change_value, events_value
from workbench.recording.writer import RecordingFile
from workbench.snapshot import MeshArrays


class Builder:
    """A recording, commit by commit; values by the names of their streams."""

    def __init__(self, path: Path, meta: dict[str, Any], n_columns: int = 100) -> None:
        self.meta = meta
        self.file = RecordingFile(path, meta, n_columns, 1e12, 0)
        self.path = self.file.path

    def commit(self, iteration: int, values: Mapping[str, Any], scalars: Mapping[str, float] | None = None,
               addition: bool = False) -> None:
        arrays: list[np.ndarray] = []

        def store(array: np.ndarray) -> list:
            arrays.append(np.ascontiguousarray(array))
            return [array.dtype.str, list(array.shape), len(arrays) - 1]

        entries = [(self.meta["streams"].index(name), json.loads(header_of(value, store)))
                   for name, value in values.items()]
        place = None
        if scalars is not None:
            place = len(arrays)
            arrays.append(np.array(list(scalars.values()), "<f8"))
        self.file.commit({"iteration": iteration, "addition": int(addition), "entries": entries,
                          "names": list(scalars or ()), "scalars": place}, arrays)

    def close(self) -> Path:
        self.file.close()
        return self.path


class RunBuilder(Builder):
    """Records a run as it goes: fields every `snapshot_every` iterations, keyframes every `keyframe_every`."""

    def __init__(self, path: Path, run: Run, snapshot_every: int = 5, keyframe_every: int = 10,
                 about: About | None = None) -> None:
        super().__init__(path, meta_of(run, about or About(), RecordPolicy()))
        self.run, self.every = run, (snapshot_every, keyframe_every)
        self._copies, self._voxels, self._n_events = FieldCopies(run), None, 0
        self._n_snapshots = 0
        self.record(fields=True, state=True)

    def iterate(self, count: int = 1) -> None:
        for _ in range(count):
            for stage in self.run.stages:
                self.run.run_stage(stage)
            self.record(self.run.iteration % self.every[0] == 0, self.run.iteration % self.every[1] == 0)

    def record(self, fields: bool, state: bool, addition: bool = False) -> None:
        run = self.run
        values = {CAMERAS: cameras_value(Cameras(tuple(run.cameras()), tuple(getattr(run, "own_cameras", ()))))}
        self._n_snapshots += 1
        self._copies.start(fields_of(run), self._n_snapshots)
        now = self._copies.finish()
        kinds, changed = fields_of(run), now.get("voxels") is not self._voxels
        for name, value in now.items():
            every = kinds[name] in ("trace",) or getattr(value, "dtype", "") == np.bool_
            if kinds[name] == "voxels":
                if changed:
                    values[name] = {"keys": value.keys.numpy(), "resolution": value.resolution}
            elif kinds[name] == "prune":
                if len(value) > self._n_events:
                    values[name], self._n_events = events_value(value[self._n_events :]), len(value)
            elif fields or changed or every:
                values[name] = plain(value)
        self._voxels = now.get("voxels")
        if state:
            values[STATE] = state_value(run.state_dict())
        costs = getattr(run, "stage_costs", {stage: StageCost(0.002, 1e8) for stage in run.stages})
        row = {"iteration": float(run.iteration), **run.scalars(), **cost_columns(costs)}
        self.commit(run.iteration, values, row if run.iteration else None, addition)

    def change(self, change: Any, n_stages: int = 0, keyframe: bool = True) -> None:
        self.run.change_setting(change.name, change.value)
        values = {CHANGES: [change_value(change, self.run.iteration, n_stages)]}
        if keyframe:
            values[STATE] = state_value(self.run.state_dict())
        self.commit(self.run.iteration, values, addition=True)


def plain(value: Any) -> Any:
    return {"vertices": value.vertices, "faces": value.faces} if isinstance(value, MeshArrays) else value
