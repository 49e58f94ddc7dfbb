"""The Gradients tab: what it says of planted faults, of runs without terms, and before there is anything."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from backward_passes import FRONT, as_it_is, ball, busiest, deeper_at, noisy, pass_of
from fake_run import FakeRun
from fake_ui import FakeUi
from fit_snapshots import small_fit, snapshot_of, with_fields

from sparseflex.camera import Camera
from sparseflex.training.backward_pass import BACKWARD, BackwardPass
from workbench import quantities
from workbench.commands import NextIteration, NextStage, StepBack
from workbench.graphics import start_polyscope
from workbench.network_view import Picked
from workbench.panels import COLUMNS, gradients
from workbench.snapshot import Snapshot, frozen
from workbench.view_state import Click, ViewState

CAMERA = Camera.look_at((0.0, 0.0, 2.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), fov_y_degrees=40, width=64, height=48,
                        near=0.01, far=10.0)


@pytest.fixture
def view():
    made = ViewState()
    made.tabs["left"] = "Gradients"
    yield made
    made.stop_workers()


def snapshot_with(done: BackwardPass | None, **changes) -> Snapshot:
    kinds = {"voxels": "voxels", BACKWARD: "backward", "weights_grad": "voxel", "weights_grad_depth": "voxel"}
    fields = {} if done is None else {"voxels": done.voxels, BACKWARD: done}
    return Snapshot(iteration=3, stages=("backward",), stage_next="backward", field_kinds=frozen(kinds),
                    fields=frozen(fields), **changes)


def drawn(view: ViewState, snapshot: Snapshot, page: str = "", **uses) -> tuple[FakeUi, list]:
    """The panel once the worker has found what it was asked for."""
    view.gradients.page = page or view.gradients.page
    gradients.draw(FakeUi(), view, snapshot)
    for key in ("gradients", "pixel pull"):
        view.worker.wait_for(key, 20)
    view.gradients.page = page or view.gradients.page
    ui = FakeUi(uses)
    return ui, gradients.draw(ui, view, snapshot)


def test_its_tab_asks_for_what_it_needs(view):
    assert COLUMNS["left"]["Gradients"] is gradients
    assert gradients.fields(view, snapshot_with(None)) == {"voxels", BACKWARD}


def test_before_there_is_a_pass_it_offers_one(view):
    ui, commands = drawn(view, snapshot_with(None, ), **{"Run one iteration": True})
    assert commands == [NextIteration()]
    again = snapshot_of(small_fit(), NextIteration(), iteration=1)
    assert BACKWARD in again.field_kinds and BACKWARD not in again.fields
    ui, commands = drawn(view, again, **{"Do iteration 1 again": True})
    assert commands == [StepBack(), NextIteration()]
    stopped = dataclasses.replace(again, stage_next="loss")
    ui, commands = drawn(view, stopped, **{"Run on to the backward stage": True})
    assert commands == [NextStage()] * 2
    replayed = dataclasses.replace(again, source="replay", field_kinds=frozen({"voxels": "voxels"}))
    ui, commands = drawn(view, replayed)
    assert ui.says("A recording keeps no gradients by term") and commands == []
    own, commands = drawn(view, snapshot_of(FakeRun()))
    assert own.says("does not tell the terms of its loss apart") and commands == []


def test_terms_with_their_shares_and_how_they_get_along(view):
    done = pass_of(*ball(), noisy)
    ui, _ = drawn(view, snapshot_with(done), "terms")
    found = view.gradients.summary
    norms = [float(done.gradient("sdf", term).norm()) for term in done.terms]
    assert found.norms == pytest.approx(norms) and found.terms == done.terms
    for term, norm in zip(done.terms, norms, strict=True):
        assert ui.says(f"{term} {100 * norm / sum(norms):.0f} %")
    whole = {term: torch.cat([done.gradient(name, term).reshape(-1) for name in ("sdf", "deform", "weights")])
             for term in done.terms}
    expected = [[float(torch.cosine_similarity(whole[a], whole[b], dim=0)) for b in done.terms] for a in done.terms]
    assert found.cosines == pytest.approx(np.array(expected))
    assert int(found.counts.sum()) + found.n_zero + found.n_bad == done.section.n_voxels


def test_rivals_are_the_two_that_pull_against_each_other(view):
    done = pass_of(*ball(), noisy)
    against = {name: -2 * grad for name, grad in done.by_term["normal"].items()}
    spoiled = dataclasses.replace(done, by_term={**done.by_term, "sign": against})
    ui, _ = drawn(view, snapshot_with(spoiled), "terms")
    assert view.gradients.summary.rivals() == ("normal", "sign", pytest.approx(-1.0))
    assert ui.says("normal and sign pull most against each other: cos -1.00")


def test_a_planted_voxel_is_listed_and_a_click_goes_there(view):
    voxels, leaves = ball()
    victim = busiest(pass_of(voxels, leaves, noisy))
    leaves["weights"][int(voxels.find(torch.tensor([victim]))[0])] = float("nan")
    view.gradients.parameter, view.view_camera = "weights", CAMERA
    ui, _ = drawn(view, snapshot_with(pass_of(voxels, leaves, noisy)), "regions", **{"##region 0": True})
    assert ui.says("parameter not finite") and ui.says("1 voxel at {}, {}, {}".format(*victim))
    bad = [term for term in view.gradients.summary.terms
           if not view.gradients.summary.done.gradient("weights", term).isfinite().all()]
    assert ui.texts.count("parameter") == 1 and not ui.says("nan") and "dev" in bad and "sign" not in bad
    assert view.network.picked == Picked(victim, 8) and view.gradients.pull is None
    ui, _ = drawn(view, snapshot_with(pass_of(voxels, leaves, noisy)), "voxel")
    assert ui.says("Its gradient is not finite") and ui.says("nan")
    region, explodes = view.gradients.region_voxels(view)
    assert region.voxel_ijk.tolist() == [list(victim)] and explodes
    assert view.gradients.region_voxels(view)[0] is region  # the scene draws anew what is another object
    assert not view.gradients.alone(view)
    view.side_by_side = False  # as looking through a camera makes it: surfaces would stand before the region
    assert view.gradients.alone(view)
    towards = (torch.tensor(victim).double() + 0.5) / 8 - 0.5 - view.cameras.look_through.eye_world
    assert torch.allclose(towards / towards.norm(), CAMERA.forward_world.double(), atol=1e-6)
    ui, _ = drawn(view, snapshot_with(pass_of(voxels, leaves, noisy)), "terms")
    assert ui.says(f"Not finite somewhere, which is left out here: {', '.join(bad)}.")
    view.tabs["left"] = "Field"
    assert view.gradients.region_voxels(view) is None and view.gradients.summary is None
    assert view.worker.result("gradients") is None  # what a pass takes is let go


def test_the_chosen_region_is_the_same_in_the_next_pass(view):
    voxels, leaves = ball()
    rows = [0, voxels.n_voxels - 1]
    for row in rows:
        leaves["weights"][row] = float("nan")
    view.gradients.parameter = "weights"
    drawn(view, snapshot_with(pass_of(voxels, leaves, noisy)), "regions", **{"##region 1": True})
    chosen = view.gradients.region_voxels(view)[0].voxel_ijk.tolist()
    assert chosen == [voxels.voxel_ijk[rows[1]].tolist()]
    leaves["weights"][rows[0]] = 0.0  # good now: the region after it is the first
    drawn(view, snapshot_with(pass_of(voxels, leaves, noisy)), "regions")
    assert view.gradients.region == 0 and view.gradients.region_voxels(view)[0].voxel_ijk.tolist() == chosen
    leaves["weights"][rows[1]] = 0.0
    drawn(view, snapshot_with(pass_of(voxels, leaves, noisy)), "regions")
    assert view.gradients.region_voxels(view) is None


def test_a_pass_is_let_go_that_is_looked_into_when_the_tab_is_left(view):
    gradients.draw(FakeUi(), view, snapshot_with(pass_of(*ball(), noisy)))  # asks, and has nothing yet
    view.worker.wait_for("gradients", 20)
    view.tabs["left"] = "Field"
    assert view.gradients.region_voxels(view) is None and view.worker.result("gradients") is None


def test_planted_pixels_are_listed_for_the_voxel_that_they_pull_on(view):
    planted = {(9, 10), (10, 10), (10, 11)}
    done = pass_of(*ball(), deeper_at(planted), sign_weight=0.0, sign_weight_end=0.0, dev_weight=0.0)
    view.network.picked = Picked(busiest(done), 8)
    ui, _ = drawn(view, snapshot_with(done), "voxel")
    pull = view.gradients.pull
    assert pull.top and {(pixel.row, pixel.column) for pixel in pull.top} <= planted
    assert {pixel.term for pixel in pull.top} == {"depth"} and pull.n_pixels == len(pull.top)
    assert sum(pull.by_term.values()) == pytest.approx(pull.norm) and pull.norms["sdf"][""] == pytest.approx(pull.norm)
    top, left, tall, broad = pull.crop
    assert all(top <= pixel.row < top + tall and left <= pixel.column < left + broad for pixel in pull.top)
    row, column = pull.top[0].row, pull.top[0].column
    assert ui.says(f"{pull.top[0].pull:+.2e}"[:6])
    drawn(view, snapshot_with(done), "voxel", **{f"row {row}, column {column}##pull": True})
    assert view.maps.kept == (row, column)
    ui, _ = drawn(view, snapshot_with(done), "voxel", **{"##term": 5})
    assert view.gradients.term == "dev"
    ui, _ = drawn(view, snapshot_with(done), "voxel")
    assert ui.says("dev is a term of the shape")


def test_a_camera_that_is_typed_is_one_of_the_pass(view):
    done = pass_of(*ball(), noisy, (FRONT, FRONT.with_planes(0.2, 4.0)))
    view.network.picked = Picked(busiest(done), 8)
    for typed, known in ((-5, 0), (9, 1)):
        drawn(view, snapshot_with(done), "voxel")
        drawn(view, snapshot_with(done), "voxel", **{"##view of the pass": typed})
        assert view.gradients.view == known
        drawn(view, snapshot_with(done), "voxel")
        assert view.gradients.failure == "" and view.gradients.pull.camera is done.views[known].camera


def test_a_click_in_the_scene_picks_and_shows_the_voxel(view):
    done = pass_of(*ball(), noisy)
    snapshot = snapshot_with(done)
    view.split.update(done.voxels, None, "")
    view.click = Click(np.array([0.0, 0.0, 2.0]), np.array([0.01, 0.02, -1.0]))
    drawn(view, snapshot)
    view.click = None
    assert view.gradients.page == "voxel" and view.network.picked is not None
    ui, _ = drawn(view, snapshot)
    assert view.gradients.pull.ijk == view.network.picked.ijk and ui.says("Pixels that pull".upper())
    view.network.picked = Picked((0, 0, 0), 8)
    ui, _ = drawn(view, snapshot, "voxel")
    assert ui.says("It was not active in this iteration")
    view.network.picked = Picked((0, 0, 0), 16)
    ui, _ = drawn(view, snapshot, "voxel")
    assert ui.says("of another level")


def test_the_outline_is_where_the_voxel_is_seen(view):
    done = pass_of(*ball(), noisy)
    view.network.picked = Picked(busiest(done), 8)
    drawn(view, snapshot_with(done), "voxel")
    pull = view.gradients.pull
    rows, columns = np.nonzero(np.abs(pull.pixels) > 0.3 * pull.limit)
    low, high = pull.outline.reshape(-1, 2).min(0), pull.outline.reshape(-1, 2).max(0)
    reach = high - low  # the corners are shared: neighbours' pixels pull, too
    assert (columns >= low[0] - reach[0]).all() and (columns <= high[0] + reach[0]).all()
    assert (rows >= low[1] - reach[1]).all() and (rows <= high[1] + reach[1]).all()
    assert pull.outline.shape == (12, 2, 2)


def test_the_field_tab_lists_terms_only_once_chosen(view):
    kinds = snapshot_of(small_fit(), NextIteration(), iteration=1).field_kinds
    assert kinds["sdf_grad_depth"] == "corner"
    names = quantities.voxel_names(kinds)
    assert "sdf_grad" in names and not [name for name in names if name.endswith(("_depth", "_dev"))]
    assert "weights_grad_dev" in quantities.voxel_names(kinds, "weights_grad_dev")
    assert quantities.label_of("weights_grad_dev") == "|∂L/∂αβγ| of dev"
    done = pass_of(*ball(), noisy)
    drawn(view, snapshot_with(done), "terms", **{"Colour the voxels by it": True, "##term": 1})
    assert view.field.at_voxels == "sdf_grad_depth" and view.field.voxels_coloured


@pytest.mark.parametrize("page", ["terms", "regions", "voxel"])
def test_hard_passes_are_drawn(view, page):
    voxels, leaves = ball()
    nan = {name: torch.full_like(leaf, float("nan")) for name, leaf in leaves.items()}
    some = {**leaves, "sdf": leaves["sdf"].index_fill(0, torch.arange(0, 90, 7), float("nan"))}
    none, _, _ = voxels.section(torch.zeros(voxels.n_voxels, dtype=torch.bool))
    nothing = {name: leaf[:0] for name, leaf in leaves.items()}
    for kind, made in ((voxels, leaves), (voxels, nan), (voxels, some), (none, nothing)):
        done = pass_of(kind, made, as_it_is)
        view.network.picked = Picked(tuple(voxels.voxel_ijk[0].tolist()), 8)
        ui, _ = drawn(view, snapshot_with(done), page)
        assert view.gradients.summary is not None and not view.gradients.failure
        gone = with_fields(snapshot_with(done), backward=None)
        gradients.draw(FakeUi(), view, gone)
    assert view.gradients.summary is None


def test_the_scene_shows_a_chosen_region_until_another_tab_is_in_front(view):
    ps = pytest.importorskip("polyscope")
    from workbench.scene_view import SceneView

    voxels, leaves = ball()
    leaves["weights"][5] = float("nan")
    snapshot = snapshot_with(pass_of(voxels, leaves, noisy))
    view.gradients.parameter = "weights"
    drawn(view, snapshot, "regions", **{"##region 0": True})
    start_polyscope("tests", headless=True)
    scene = SceneView()
    try:
        view.split.update(voxels, FRONT, "")
        scene.update(snapshot, view)
        assert ps.get_sparse_volume_grid("gradient region").n_cells() == 1
        assert ps.get_sparse_volume_grid("gradients elsewhere").n_cells() == voxels.n_voxels
        assert not ps.has_sparse_volume_grid("active")
        view.tabs["left"] = "Field"
        scene.update(snapshot, view)
        assert not ps.has_sparse_volume_grid("gradient region") and ps.has_sparse_volume_grid("active")
    finally:
        scene.clear()
