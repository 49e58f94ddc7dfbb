"""The next camera against an exhaustive twin; its coarse surface against the fine one; progress, and cancelling."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from fake_ui import FakeUi
from fit_snapshots import snapshot_of

import sparseflex as sf
from sparseflex import next_camera, seen_surface
from sparseflex.camera import Camera
from sparseflex.mesh import Mesh
from sparseflex.next_camera import INSIDE_FOV_Y_DEGREES, SORTS, Sort, seen_from, suggest_cameras
from sparseflex.sampling import fibonacci_directions, fixed_views, interior_camera, interior_places
from sparseflex.scene import load_scene
from sparseflex.seen_surface import CoarseSurface, SeenSurface
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun
from workbench import coverage_view
from workbench.panels import coverage as panel
from workbench.snapshot import Snapshot, frozen
from workbench.view_state import ViewState

SIZE, WAIT_SECS = 64, 60.0
SCENES = Path(__file__).parent.parent / "scenes"


@cache
def seen_from_outside(scene: str, resolution: int, n_views: int) -> tuple[FitRun, torch.Tensor, Mesh]:
    """A run at its start, which of its voxels some views from outside see, and its target."""
    target = load_scene(SCENES / f"{scene}.toml").target
    run = FitRun(target, FitConfig(resolution=resolution, init="points", interior_share=0.0, image_size=SIZE))
    with torch.no_grad():
        views = [seen_from(run.flex(), camera) for camera in fixed_views(n_views, target, width=SIZE, height=SIZE)]
    return run, torch.stack(views).any(dim=0), target


def exhaustive(run: FitRun, seen: torch.Tensor, target: Mesh) -> dict[Sort, int]:
    """By sort the most that any of many cameras sees, each looked at as an iteration would: what the search spares."""
    flex, size = run.flex(), {"width": SIZE, "height": SIZE}
    depths_of = flex.voxels.centers.double()[~seen]
    around = fixed_views(12, target, **size)
    cut = [camera.with_planes(near, camera.far) for camera in around
           for near in camera.depth_of(depths_of).quantile(torch.tensor([0.35, 0.7]).double()).tolist()]
    eyes = interior_places(target).positions
    inside = [interior_camera(target, eye, eye + way, fov_y_degrees=INSIDE_FOV_Y_DEGREES, **size)
              for eye in eyes[torch.randperm(len(eyes), generator=torch.Generator().manual_seed(0))[:6]]
              for way in fibonacci_directions(8)]
    whole = SeenSurface.of(flex, torch.ones_like(seen))
    wanted = whole.has_face & ~seen
    return {sort: max(int((seen_from(flex, camera) & wanted).sum()) for camera in cameras)
            for sort, cameras in (("inside", inside), ("outside", fixed_views(24, target, **size)), ("cut", cut))}


@pytest.mark.parametrize(("scene", "resolution", "n_views", "merge"),
                         [("house", 20, 6, 3), ("nested_shells", 12, 1, 1)])
def test_the_search_finds_nine_tenths_of_what_looking_at_everything_finds(scene, resolution, n_views, merge,
                                                                          monkeypatch) -> None:
    run, seen, target = seen_from_outside(scene, resolution, n_views)
    with torch.no_grad():
        best = exhaustive(run, seen, target)
    n_dual = len(SeenSurface.of(run.flex(), torch.ones_like(seen)).mesh.dual_voxel)
    monkeypatch.setattr(seen_surface, "COARSE_VERTICES", n_dual // merge)
    found = suggest_cameras(run.flex(), seen, target, width=SIZE, height=SIZE)
    by_sort = {each.sort: each.n_gained for each in found.found}
    assert min(best.values()) > 50 and max(by_sort.values()) >= 0.9 * max(best.values())
    assert all(by_sort.get(sort, 0) >= 0.9 * best[sort] for sort in SORTS), (by_sort, best)
    for each in found.found:  # exact, whatever it was found by
        wanted = seen_from(run.flex(), each.camera) & ~seen
        assert each.rows.tolist() == wanted.nonzero()[:, 0].tolist()


@pytest.fixture
def few(monkeypatch) -> None:
    for name, n in {"_N_EYES": 4, "_N_OUTSIDE": 4, "_N_CLOSE": 3, "_N_CUT": 3}.items():
        monkeypatch.setattr(next_camera, name, n)


def test_the_same_is_found_again_and_progress_counts_up_to_what_it_said(few: None) -> None:
    run, seen, target = seen_from_outside("nested_shells", 12, 1)
    told: list[tuple[int, int]] = []
    once = suggest_cameras(run.flex(), seen, target, width=32, height=32, progress=lambda *done: told.append(done))
    again = suggest_cameras(run.flex(), seen, target, width=32, height=32)
    assert [each.rows.tolist() for each in once.found] == [each.rows.tolist() for each in again.found] != []
    for one, other in zip(once.found, again.found, strict=True):
        assert torch.equal(one.camera.camera_from_world, other.camera.camera_from_world)
    begun = told.index((0, told[-1][1]))
    assert begun and set(told[:begun]) == {(0, 0)}  # it may be ended before the views are known
    done, total = zip(*told[begun:], strict=True)
    assert len(set(total)) == 1 and list(done) == list(range(len(done))) and done[-1] < total[0] <= len(done) + 12


def test_what_progress_raises_ends_the_search(few: None) -> None:
    run, seen, target = seen_from_outside("nested_shells", 12, 1)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        suggest_cameras(run.flex(), seen, target, width=32, height=32, progress=stop)


# The coarse surface


def slab(thick: float, side: int = 40) -> sf.SparseFlex:
    """A flat box, thinner than the cells that it is merged by; closed."""
    voxels = sf.SparseVoxels(torch.cartesian_prod(torch.arange(side), torch.arange(side // 2 - 4, side // 2 + 4),
                                                  torch.arange(side)), side)
    away = voxels.corners_world.abs() - torch.tensor([0.4, thick / 2, 0.4])
    return sf.SparseFlex.from_sdf(voxels, away.amax(dim=1))


def merged(flex: sf.SparseFlex, n_vertices: int, monkeypatch) -> tuple[SeenSurface, CoarseSurface]:
    monkeypatch.setattr(seen_surface, "COARSE_VERTICES", n_vertices)
    fine = SeenSurface.of(flex, torch.ones(flex.voxels.n_voxels, dtype=torch.bool))
    return fine, CoarseSurface.of(fine, fine.has_face, flex.voxels.resolution)


def test_merging_opens_no_gap_and_keeps_both_sides_of_a_thin_wall_apart(monkeypatch) -> None:
    flex = slab(1.5 / 40)
    fine, coarse = merged(flex, 500, monkeypatch)
    n_fine = len(fine.mesh.dual_voxel)
    assert 100 < coarse.mesh.n_vertices < n_fine / 3 and float(coarse.wanted.sum()) == n_fine
    edges: dict[tuple[int, int], int] = {}
    for face in coarse.mesh.faces.tolist():
        for start, end in zip(face, face[1:] + face[:1], strict=True):
            sign = 1 if start < end else -1
            edges[min(start, end), max(start, end)] = edges.get((min(start, end), max(start, end)), 0) + sign
    assert set(edges.values()) == {0}  # as often one way as the other: closed
    heights = coarse.mesh.vertices[:, 1]
    assert int((heights > 0.4 / 40).sum()) > 50 < int((heights < -0.4 / 40).sum())
    gains = coarse.gains(Camera.look_at((0.1, 1.5, 0.2), (0, 0, 0), width=96, height=96), 1000.0)
    assert float(gains[heights > 0.4 / 40].sum()) > 0.9 * float(coarse.wanted[heights > 0.4 / 40].sum())
    assert float(gains[heights < -0.4 / 40].sum()) == 0


@pytest.mark.parametrize("n_vertices", [100_000, 700])
def test_the_coarse_surface_says_about_what_the_fine_one_says(n_vertices: int, monkeypatch) -> None:
    flex = slab(0.15)
    fine, coarse = merged(flex, n_vertices, monkeypatch)
    for size in (256, 20):  # of the image that is promised: in a small one most voxels have no pixel
        camera = Camera.look_at((0.7, 1.2, 0.5), (0, 0, 0), width=size, height=size)
        exact = len(fine.seen(camera))
        small = camera.with_size(96, 96)
        assert abs(float(coarse.gains(small, camera.focal_pixels).sum()) / exact - 1) < 0.25


def test_an_eye_within_matter_sees_only_backs(monkeypatch) -> None:
    _, coarse = merged(slab(0.15), 100_000, monkeypatch)
    camera = Camera.look_at((0.0, 0.0, 0.0), (1, 0, 0), fov_y_degrees=90, width=48, height=48)
    assert float(coarse.gains(camera, 100.0).sum()) == 0 < float(coarse.gains(camera, 100.0, backs=True).sum())


def test_a_surface_that_is_nowhere_is_coarse_too() -> None:
    voxels = sf.SparseVoxels(torch.zeros(0, 3, dtype=torch.int32), 8)
    fine = SeenSurface.of(sf.SparseFlex.from_sdf(voxels, torch.zeros(0)), torch.zeros(0, dtype=torch.bool))
    coarse = CoarseSurface.of(fine, fine.has_face, 8)
    camera = Camera.look_at((0.0, 0.0, 2.0), (0, 0, 0), width=8, height=8)
    assert coarse.mesh.n_faces == 0 and coarse.gains(camera, 9.0).shape == (0,)


# In the window


@pytest.fixture
def view() -> Iterator[ViewState]:
    state = ViewState()
    state.tabs = {"left": "Coverage", "right": "Plots"}
    yield state
    state.stop_workers()
    assert not [thread for thread in threading.enumerate() if thread.name == "sparseflex-worker"]


@cache
def fitted() -> Snapshot:
    run = FitRun(load_scene(SCENES / "nested_shells.toml").target,
                 FitConfig(resolution=12, init="points", interior_share=0.0, image_size=16))
    run.run_iteration()
    return snapshot_of(run, iteration=1)


class Slow:
    """A search that looks at one more view of seven whenever it is let."""

    def __init__(self) -> None:
        self.go, self.at, self.n_begun = threading.Semaphore(0), threading.Semaphore(0), 0

    def __call__(self, flex, seen, target, *, progress, **_: object) -> next_camera.Suggestions:
        self.n_begun += 1
        progress(0, 0)
        for done in range(7):
            progress(done, 7)
            self.at.release()
            assert self.go.acquire(timeout=WAIT_SECS)
        return next_camera.Suggestions((), 3, self.n_begun, 7)

    def arrive(self) -> None:
        assert self.at.acquire(timeout=WAIT_SECS)


@pytest.fixture
def slow(monkeypatch) -> Iterator[Slow]:
    made = Slow()
    monkeypatch.setattr(coverage_view, "suggest_cameras", made)
    yield made
    made.go.release(100)


def drawn(view: ViewState, **uses: bool) -> FakeUi:
    view.coverage.update(view, fitted())
    ui = FakeUi({name.replace("_", " "): used for name, used in uses.items()})
    panel.draw(ui, view, fitted())
    view.coverage.update(view, fitted())
    return ui


def buttons(ui: FakeUi) -> set[str]:
    return {call[1] for call in ui.calls if call[0] == "Button"}


def test_the_panel_says_how_far_it_is_and_cancel_ends_it(view: ViewState, slow: Slow) -> None:
    drawn(view, Suggest_a_camera=True)
    slow.arrive()
    for step in range(2):
        slow.go.release()
        slow.arrive()
        ui = drawn(view)
        assert ui.says(f"Looking: {step + 1} of 7 views")
        assert "Cancel" in buttons(ui) and "Suggest a camera" not in buttons(ui)
    drawn(view, Cancel=True)
    assert not view.coverage.busy(view) and view.coverage.progress(view) is None
    assert "Suggest a camera" in buttons(drawn(view))
    drawn(view, Suggest_a_camera=True)  # before the first has noticed
    slow.go.release()
    slow.arrive()
    assert slow.n_begun == 2 and drawn(view).says("Looking: 0 of 7 views")
    slow.go.release(7)
    view.worker.wait_for("next camera", WAIT_SECS)
    assert view.coverage.suggestions(view)[0].n_bare == 2 and drawn(view).says("None of 7 cameras")


def test_after_cancel_what_was_found_before_shows_again(view: ViewState, slow: Slow) -> None:
    slow.go.release(7)
    drawn(view, Suggest_a_camera=True)
    view.worker.wait_for("next camera", WAIT_SECS)
    for _ in range(7):
        slow.arrive()
    first = view.coverage.suggestions(view)
    assert first[0].n_bare == 1
    drawn(view, Suggest_a_camera=True)
    slow.arrive()
    assert view.coverage.suggestions(view) is None
    drawn(view, Cancel=True)
    assert view.coverage.suggestions(view) == first
    slow.go.release()
    view.worker.wait_for("next camera", WAIT_SECS)
    assert view.coverage.suggestions(view) == first and view.worker.idle


def test_the_voxels_of_a_search_before_are_let_go(view: ViewState, slow: Slow) -> None:
    slow.go.release(14)
    for turn in range(2):
        known, asked = fitted().fields["voxels"], view.coverage._asked
        voxels = sf.SparseVoxels(known.voxel_ijk, known.resolution)
        snapshot = dataclasses.replace(fitted(), fields=frozen({**fitted().fields, "voxels": voxels}))
        held = weakref.ref(voxels) if turn == 0 else held
        view.coverage.ask()
        view.coverage.update(view, snapshot)
        assert view.coverage._asked is not asked
        view.worker.wait_for("next camera", WAIT_SECS)
    view.tabs["left"] = "Layers"
    view.coverage.update(view, snapshot)
    view.coverage.summary, view.coverage._token = None, ()  # small sets stay counted
    del voxels, snapshot, asked
    gc.collect()
    assert held() is None and view.coverage.suggestions(view)[0].n_bare == 2


def test_cancel_of_a_search_that_ends_at_that_very_moment(
    view: ViewState, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(view, Suggest_a_camera=True)
    slow.arrive()
    cancel = view.worker.cancel

    def too_late(key: str) -> None:
        slow.go.release(7)
        view.worker.wait_for(key, WAIT_SECS)
        cancel(key)

    monkeypatch.setattr(view.worker, "cancel", too_late)
    view.coverage.cancel(view)
    assert view.coverage.suggestions(view)[0].n_bare == 1 and not view.coverage.busy(view)


@pytest.mark.parametrize("end", ["stop_workers", "forget_found"])
def test_a_window_that_closes_or_another_run_ends_the_search(view: ViewState, slow: Slow, end: str) -> None:
    drawn(view, Suggest_a_camera=True)
    slow.arrive()
    threading.Timer(0.05, slow.go.release).start()
    getattr(view, end)()
    view.worker.wait_for("next camera", WAIT_SECS)
    assert slow.n_begun == 1 and view.worker.result("next camera") is None and not view.coverage.wanting


def test_cancel_while_the_fields_are_waited_for(view: ViewState, slow: Slow) -> None:
    view.coverage.ask()
    assert view.coverage.busy(view)
    view.coverage.cancel(view)
    drawn(view)
    assert slow.n_begun == 0 and not view.coverage.busy(view)
