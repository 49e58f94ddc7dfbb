"""The scenes that fail on purpose, as docs/why_runs_fail.md goes through them: each fault is found where it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from sparseflex.scene import scene_names
from sparseflex.training.backward_pass import BACKWARD
from sparseflex.training.gradient_regions import find_regions
from workbench.check_view import PANEL as SURFACE
from workbench.commands import NextStage, Play, RequestFields, RunIterations
from workbench.coverage_view import PANEL as COVERAGE
from workbench.engine import Engine
from workbench.field_copies import fields_of
from workbench.inputs import Opened, open_what
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "workbench" / "docs" / "why_runs_fail.md"
WAIT_SECS = 100.0


def opened_scene(name: str, **overrides: Any) -> Opened:
    """Coarser than the scene says, which the faults don't mind."""
    return open_what(f"fails_{name}", device="cpu", overrides={"resolution": 24, **overrides})


@contextmanager
def engine_of(opened: Opened, image_size: int = 48) -> Iterator[Engine]:
    opened.run.config = dataclasses.replace(opened.run.config, image_size=image_size)
    engine = Engine(opened.run, breakpoints=opened.breakpoints)
    engine.start()
    try:
        yield engine
    finally:
        assert engine.stop()


def played_to_a_hit(engine: Engine) -> Snapshot:
    engine.send(Play())
    return engine.snapshots.wait_for(lambda s: bool(s.hits) and not s.playing, WAIT_SECS)


def everything(engine: Engine) -> Snapshot:
    before = engine.snapshots.latest().answers
    engine.send(RequestFields(frozenset({*fields_of(engine._run), BACKWARD})))
    return engine.snapshots.wait_for(lambda s: s.answers > before and not s.playing, WAIT_SECS)


def view_at(tab: str, snapshot: Snapshot) -> ViewState:
    view = ViewState()
    view.tabs["left"], view.frustum.background = tab, False
    view.check.update(view, snapshot)
    view.coverage.update(view, snapshot)
    return view


def in_ball(places: torch.Tensor, fault: Any) -> torch.Tensor:
    return (places - places.new_tensor(fault.center)).norm(dim=1) <= fault.radius


def test_no_surface() -> None:
    with engine_of(opened_scene("no_surface", resolution=12)) as engine:
        hit, = played_to_a_hit(engine).hits
        assert (hit.expression, hit.stage, hit.iteration) == ("faces == 0", "extract", 1)
        found = view_at(SURFACE, everything(engine)).check.found
        assert found.n_inside == found.n_crossed == 0 < found.n_outside


def test_a_hole() -> None:
    opened = opened_scene("hole")
    fault, = opened.run._faults.listed
    with engine_of(opened) as engine:
        engine.send(RunIterations(2))
        engine.snapshots.wait_for(lambda s: s.iteration == 2 and not s.playing, WAIT_SECS)
        check = view_at(SURFACE, everything(engine)).check
    hole, = check.regions("holes")
    assert bool(in_ball(check.found.holes.voxels.centers, fault).all()) and hole.lost > 0


@pytest.mark.slow
def test_a_patch_turned_inside_out() -> None:
    opened = opened_scene("inside_out", resolution=48)
    fault, = opened.run._faults.listed
    with engine_of(opened, image_size=256) as engine:
        hit, = played_to_a_hit(engine).hits
        assert hit.iteration == fault.iteration
        check = view_at(SURFACE, everything(engine)).check
    first = check.found.turned.voxels.centers[check.found.turned.number == 0]
    near = (first - first.new_tensor(fault.center)).norm(dim=1) <= fault.radius + 3**0.5 / 48
    assert float(near.float().mean()) > 0.9 and len(first) > 5


def test_a_frustum_that_sees_nothing() -> None:
    opened = opened_scene("blind_frustum", resolution=48)  # coarser, iteration 16 has nothing active either
    fault, = opened.run._faults.listed
    with engine_of(opened) as engine:
        hit, = played_to_a_hit(engine).hits
        assert (hit.stage, hit.iteration) == ("activate", fault.iteration + 1)
        snapshot = everything(engine)
    view, camera = ViewState(), snapshot.cameras[0].camera
    view.split.update(snapshot.fields["voxels"], camera)
    assert (camera.near, camera.far) == (fault.near, fault.far)
    assert view.split.counts["active"] == view.split.counts["near_cut"] == 0 < view.split.counts["far_cut"]


def test_exploding_weights() -> None:
    opened = opened_scene("exploding_weights")
    fault, = opened.run._faults.listed
    planted = opened.run.voxels.voxel_ijk[(opened.run.voxels.centers - torch.tensor(fault.center)).norm(dim=1).argmin()]
    with engine_of(opened) as engine:
        hit, = played_to_a_hit(engine).hits
        assert hit.stage == "loss" and hit.iteration > fault.iteration
        everything(engine)  # the tab in front asks for the pass before it is made
        engine.send(NextStage())
        engine.snapshots.wait_for(lambda s: s.stage_done == "backward" and not s.playing, WAIT_SECS)
        done = everything(engine).fields[BACKWARD]
    regions = find_regions(done, "sdf")
    first = regions.first[0]
    assert regions.counts["bad parameter"] == 1  # and no other
    assert first.reason == "bad parameter" and first.n_voxels == 1 and list(first.worst) == planted.tolist()


def test_an_interior_never_seen() -> None:
    with engine_of(opened_scene("unseen_interior")) as engine:
        engine.send(RunIterations(40))
        engine.snapshots.wait_for(lambda s: s.iteration == 40 and not s.playing, WAIT_SECS)
        view = view_at(COVERAGE, everything(engine))
    summary = view.coverage.summary
    radius = summary.voxels.centers.norm(dim=1)
    unseen = torch.from_numpy(summary.marked)
    assert {row.source for row in summary.kinds} == {"orbit", "zoom"}
    assert summary.n_unseen_surface == int(unseen.sum()) > 0
    assert float((radius[unseen] < 0.44).float().mean()) > 0.9 > float((radius < 0.44).float().mean())


@pytest.mark.parametrize("name", [name for name in scene_names([ROOT / "scenes"]) if name.startswith("fails_")])
def test_the_page_goes_through_every_one(name: str) -> None:
    text = PAGE.read_text("utf-8")
    assert f"workbench view {name}" in text and f"why_{name.removeprefix('fails_')}.png" in text
