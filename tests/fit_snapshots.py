"""Snapshots of small real fits and of the fake run, with all the fields they have, for tests of panels and models."""

from __future__ import annotations

import dataclasses
from typing import Any

from fake_run import icosphere_like

from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun
from sparseflex.training.run import Run
from workbench.commands import Command, NextStage, RequestFields
from workbench.engine import Engine
from workbench.field_copies import fields_of
from workbench.snapshot import Snapshot, frozen

WAIT_SECS = 30.0


def snapshot_of(run: Run, *commands: Command, iteration: int = 0, stage: str | None = None) -> Snapshot:
    """What the run shows, every field included, once it stands still after the commands, having reached iteration and
    then, step by step, the end of a stage."""
    engine = Engine(run)
    engine.start()
    try:
        for command in commands:
            engine.send(command)
        engine.snapshots.wait_for(lambda s: not s.playing and s.iteration >= iteration, WAIT_SECS)
        done = engine.snapshots.latest().stage_done
        while stage not in (None, done):
            engine.send(NextStage())
            done = engine.snapshots.wait_for(lambda s, was=done: s.stage_done != was and not s.playing, WAIT_SECS
                                             ).stage_done
        before = engine.snapshots.latest().answers
        engine.send(RequestFields(frozenset(fields_of(run))))
        return engine.snapshots.wait_for(lambda s: s.answers > before and not s.playing, WAIT_SECS)
    finally:
        assert engine.stop()


def small_fit(**settings: Any) -> FitRun:
    """A ball of some 1300 voxels."""
    config = FitConfig(**{"resolution": 16, "image_size": 48, "iterations": 10, **settings})
    return FitRun(icosphere_like(10, 0.4), config)


def with_fields(snapshot: Snapshot, **fields: Any) -> Snapshot:
    """The snapshot with other values of some fields; None takes one away."""
    values = {**snapshot.fields, **fields}
    return dataclasses.replace(snapshot, fields=frozen({k: v for k, v in values.items() if v is not None}))
