"""Findings in figures: planted changes, unseen voxels, faults, marked and counted; what F writes gives the picture."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from change_states import slow_quads
from cli_fixtures import refused
from fake_inference import FakeInference
from fake_run import FakeRun
from recording_files import RunBuilder
from test_figure import FakeSource, Shot, drawn, window_view

from sparseflex.camera import Camera
from sparseflex.checkpoint import save_checkpoint
from sparseflex.frustum import adapt_frustum, add_halo
from sparseflex.training.coverage import SOURCES
from workbench import theme
from workbench.change_state import State
from workbench.change_view import COLOURS, KEPT_STATE, PANEL, state_of
from workbench.coverage_view import MARKED
from workbench.figure.capture import Figures, Screen, recipe_of_screen
from workbench.figure.make import open_recipe
from workbench.figure.page import lay_out
from workbench.figure.prepare import Ready, points_of, poses, prepare
from workbench.figure.recipe import ChangesTable, CoverageTable, Panel, SourceTable, SurfaceTable
from workbench.figure.recipe_file import parse_recipe, recipe_text
from workbench.figure.render import draw_scene
from workbench.figure.subject import gather
from workbench.inputs import InputError, open_what
from workbench.recording.policy import RecordStatus
from workbench.section_work import Parameters
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState
from workbench.what_if import Kept

FINAL, WAIT_SECS = 3, 30.0


class Planted(FakeRun):
    """A ball whose third iteration prunes one voxel, turns a patch inside out and spoils a corner; of its voxels the
    front ones are never seen, and those above only by interior cameras."""

    def __init__(self) -> None:
        super().__init__(12)
        self.radius = torch.tensor(0.4)
        self._whole = self._voxels
        inner = (self._whole.centers.norm(dim=1) - 0.4).abs().argsort()[:40]
        right = inner[self._whole.centers[inner][:, 0].argmax()]
        self.lacking = tuple(self._whole.voxel_ijk[right].tolist())

    def run_stage(self, stage: str) -> None:
        super().run_stage(stage)
        if self.iteration == FINAL and self._voxels is self._whole:
            kept = torch.tensor([tuple(ijk) != self.lacking for ijk in self._whole.voxel_ijk.tolist()])
            self._voxels = self._whole.prune(kept)

    @property
    def fields(self) -> dict[str, str]:
        return {**super().fields, **dict.fromkeys(("seen_count", "seen_by", "last_seen", "viewing_angle"), "voxel")}

    def read_field(self, name: str) -> Any:
        place = self._voxels.centers
        seen = place[:, 2] < 0.1
        if name == "seen_count":
            return torch.where(seen, 4, 0)
        if name == "seen_by":
            above = torch.where(place[:, 1] > 0.2, 1 << SOURCES.index("interior"), 1 << SOURCES.index("orbit"))
            return torch.where(seen, above, 0).to(torch.uint8)
        if name == "last_seen":
            return torch.where(seen & (place[:, 1] > 0), self.iteration, 0)
        if name == "viewing_angle":
            return torch.where(seen, 30.0 + 40.0 * place[:, 1], torch.nan)
        if name == "corner_sdf" and self.iteration >= FINAL:
            corners = self._voxels.corners_world
            sdf = corners.norm(dim=1) - 0.4
            sdf = torch.where((corners - torch.tensor([-0.4, 0.0, 0.0])).norm(dim=1) < 0.15, -sdf, sdf)
            sdf[int(corners[:, 1].argmin())] = torch.nan
            return sdf
        return super().read_field(name)


RECIPE = """
legend = true
[page]
width = 240
supersampling = 1
[source]
path = "run.h5"
[camera]
direction = [0.4, 0.3, 1.0]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("planted")
    builder = RunBuilder(made / "run.h5", Planted(), snapshot_every=1)
    builder.iterate(FINAL)
    builder.close()
    return made


def snapshot_at(folder: Path, iteration: int) -> Snapshot:
    """With all that is recorded."""
    return gather([SourceTable("run.h5", iteration)], folder, lambda _, bare: frozenset(bare.field_kinds))[0]


def labels(text: str, folder: Path) -> list[str]:
    return [entry.label for entry in prepare(parse_recipe(text, "r"), folder)[0].legend]


# Each names what was planted


def test_changes_are_counted_and_drawn(folder: Path, tmp_path: Path) -> None:
    a, b = (state_of(snapshot_at(folder, iteration)) for iteration in (1, FINAL))
    before, after = ({tuple(ijk): value for ijk, value in zip(
        state.voxels.corner_ijk.tolist(), state.arrays["corner_sdf"].tolist(), strict=True)} for state in (a, b))
    whole = {ijk for ijk in before if ijk in after and np.isfinite(after[ijk])}
    outward = {ijk for ijk in whole if before[ijk] < 0 <= after[ijk]}
    inward = {ijk for ijk in whole if after[ijk] < 0 <= before[ijk]}
    [spoiled] = [ijk for ijk in after if not np.isfinite(after[ijk])]
    flipped, bad = set(), set()
    for ijk in map(tuple, b.voxels.voxel_ijk.tolist()):
        corners = {tuple(part + (number >> axis & 1) for axis, part in enumerate(ijk)) for number in range(8)}
        flipped |= {ijk} if corners & (outward | inward) else set()
        bad |= {ijk} if spoiled in corners else set()
    old, new = slow_quads(a), slow_quads(b)
    found = labels(RECIPE + "[changes]\nsince = 1\n", folder)
    n_same = b.voxels.n_voxels - len(flipped | bad)
    assert found == [
        "pruned 1", f"became NaN {len(bad)}", f"sign flipped {len(flipped - bad)}", f"as before {n_same:,}",
        f"corners now outside {len(outward)}", f"corners now inside {len(inward)}",
        f"quads gained {len(new.keys() - old.keys())}", f"quads lost {len(old.keys() - new.keys())}",
        f"quads turned over {sum(old[key] != new[key] for key in old.keys() & new.keys())}"]
    some = RECIPE + '[changes]\nsince = 1\nshow = ["lost", "pruned"]\n'
    assert [label.split()[0] for label in labels(some, folder)] == ["pruned", "quads"]
    none = RECIPE.replace("[camera]", "iteration = 2\n[camera]") + "[changes]\nsince = 1\n"
    assert len(labels(none, folder)) == 1  # all as before
    assert labels(none + 'show = ["born", "lost"]\n', folder) == ["born 0", "quads lost 0"]
    nothing = drawn_there(folder, tmp_path, RECIPE + "[changes]\nsince = 1\nshow = []\n")
    marked = drawn_there(folder, tmp_path, some)
    assert nothing[:200].min() == 255 and near(marked[:200], COLOURS["pruned"]) > 20


def drawn_there(folder: Path, out: Path, text: str) -> np.ndarray:
    return drawn(out, text.replace("run.h5", str(folder / "run.h5")))[..., :3]


def near(pixels: np.ndarray, colour: theme.Colour) -> int:
    """How many pixels have a colour's hue, however much light it has."""
    wanted = np.array(colour) / np.linalg.norm(colour)
    lengths = np.maximum(np.linalg.norm(pixels, axis=-1), 1)
    return int(((pixels @ wanted / lengths > 0.985) & (np.ptp(pixels, axis=-1) > 40)).sum())


def test_coverage_is_counted_and_drawn(folder: Path, tmp_path: Path) -> None:
    snapshot = snapshot_at(folder, 2)
    voxels, sdf = snapshot.fields["voxels"], snapshot.fields["corner_sdf"]
    unseen, surface, high, upper = 0, 0, 0, 0
    for centre, rows in zip(voxels.centers.tolist(), voxels.voxel_corners.tolist(), strict=True):
        crossed = 0 < sum(sdf[row] < 0 for row in rows) < 8
        unseen += centre[2] >= 0.1
        surface += crossed and centre[2] >= 0.1
        high += centre[2] < 0.1 and centre[1] > 0.2
        upper += crossed and not (centre[2] < 0.1 and centre[1] > 0)
    at_2 = RECIPE.replace("[camera]", "iteration = 2\n[camera]")
    n = voxels.n_voxels
    assert labels(at_2 + "[coverage]\n", folder) == [
        f"never seen, with a surface {surface}", f"other voxels {n - surface}"]
    assert labels(at_2 + "[coverage]\nmark = 'interior'\n", folder)[0] == f"seen only by interior {high}"
    assert labels(at_2 + "[coverage]\nwithin = 1\n", folder)[0] == (
        f"not seen in the last 1 iterations, with a surface {upper}")
    ready = prepare(parse_recipe(at_2 + "[coverage]\nvalues = 'viewing_angle'\n", "r"), folder)[0]
    assert [entry.label for entry in ready.legend] == [f"never seen {unseen}"]
    assert [bar.label for bar in ready.bars] == ["mean viewing angle (degrees)"]
    assert len(points_of(ready)) == n
    marked = drawn_there(folder, tmp_path, at_2 + "[coverage]\n")
    assert near(marked[:200], MARKED) > 500
    ranged = at_2 + "[coverage]\nvalues = 'viewing_angle'\n[ranges]\nviewing_angle = [0, 90]\n"
    assert prepare(parse_recipe(ranged, "r"), folder)[0].bars[0].scale.high == 90.0


def test_a_long_entry_of_the_legend_goes_on_in_another_line(folder: Path) -> None:
    """Three panels of a page as wide as text: it was cut off at the page's sides, and ran into its neighbours."""
    text = RECIPE + 3 * "[[panels]]\ncoverage.within = 1000\n"
    text = text.replace("width = 240", "width_mm = 170\ndpi = 110")
    recipe = parse_recipe(text, "r")
    ready = prepare(recipe, folder)
    for one, cell in zip(ready, lay_out(recipe, ready).cells, strict=True):
        x, _, wide, _ = cell.picture
        assert all(x <= placed.x and placed.x + placed.width <= x + wide for placed in cell.legend)
        told = [placed.what.label for placed in cell.legend]
        assert " ".join(told) == " ".join(entry.label for entry in one.legend) and len(told) == 3
        assert [placed.what.colour is None for placed in cell.legend] == [False, True, False]
        assert cell.legend[0].x == cell.legend[1].x and cell.legend[0].y < cell.legend[1].y < cell.legend[2].y


def test_faults_of_the_surface_are_counted_and_framed(folder: Path, tmp_path: Path) -> None:
    lacking = list(Planted().lacking)
    text = RECIPE + f"[layers]\nmesh = true\n[surface]\nframe = {lacking}\n"
    found = labels(text, folder)
    assert found[0] == "holes, 1 voxel" and found[1].startswith("inside out, ")
    assert found[2].startswith("not a number, ") and len(found) == 3
    ready = prepare(parse_recipe(text, "r"), folder)[0]
    assert (ready.view.check.chosen.kind, list(ready.view.check.chosen.low)) == ("holes", lacking)
    assert labels(RECIPE + "[surface]\nshow = ['bad']\n", folder) == found[2:]
    at_1 = RECIPE.replace("[camera]", "iteration = 1\n[camera]")
    assert labels(at_1 + "[surface]\n", folder) == []
    some = at_1 + "[surface]\nshow = ['turned', 'holes']\n"
    assert labels(some, folder) == ["holes, 0 voxels", "inside out, 0 voxels"]
    turned = drawn_there(folder, tmp_path, RECIPE + "[surface]\nshow = ['turned']\n")
    assert near(turned[:200], theme.FAR_CUT) > 200
    other = parse_recipe(at_1 + "[surface]\n", "r")
    assert any("nothing is wrong with the surface" in note for note in prepare(other, folder)[0].notes)
    with pytest.raises(InputError, match=r"panel 1: surface.frame must be a voxel of a region .*, got \[0, 0, 0\]"):
        prepare(parse_recipe(RECIPE + "[surface]\nframe = [0, 0, 0]\n", "r"), folder)
    with pytest.raises(InputError, match="surface.frame must be a voxel of a region"):
        prepare(parse_recipe(text + "show = ['turned']\n", "r"), folder)  # that of a kind that isn't shown


def test_two_frusta_differ_in_what_they_keep(tmp_path: Path) -> None:
    text = RECIPE.replace('"run.h5"', '"house"\niteration = 1\nfit = {resolution = 16, image_size = 32}') + """
[layers]
frustum = true
[what_if]
show = ["only_a", "only_b", "both", "neither"]
a = {eye = [0.2, 0.3, 2.0], visibility_ratio = 0.3}
b = {eye = [0.2, 0.3, 2.0], visibility_ratio = 0.3, anchor = "back"}
"""
    ready = prepare(parse_recipe(text, "r"), tmp_path)[0]
    voxels = ready.snapshot.fields["voxels"]
    camera = Camera.look_at((0.2, 0.3, 2.0), (0, 0, 0), fov_y_degrees=40.0, width=64, height=64)
    sets = []
    for anchor in ("front", "back"):
        active = adapt_frustum(voxels, camera, 0.3, anchor=anchor).active
        sets.append({tuple(ijk) for ijk in voxels.voxel_ijk[active].tolist()})
    a, b = sets
    numbers = (("only in A", len(a - b)), ("only in B", len(b - a)), ("in both", len(a & b)),
               ("in neither", voxels.n_voxels - len(a | b)))
    assert [entry.label for entry in ready.legend] == [f"active {name} {n:,}" for name, n in numbers]
    # the picture holds both frusta, and not that of the panel itself
    far = max(look.camera.far for look in ready.view.what_ifs.kept.values())
    assert points_of(ready)[:, 2].min() < 2.0 - far + 0.3
    with_meshes = parse_recipe(text.replace("show =", "meshes = true\nhalo = 1\nshow =", 1), "r")
    meshes = prepare(with_meshes, tmp_path)[0]
    assert [entry.label.partition(",")[0] for entry in meshes.legend][-2:] == ["section of A", "section of B"]
    flex = Parameters.of(meshes.snapshot)
    active = adapt_frustum(voxels, camera, 0.3, anchor="back").active
    assert len(meshes.view.what_ifs.meshes["B"].faces) == flex.mesh(add_halo(voxels, active, 1)).n_faces
    off = text.replace("eye = [0.2, 0.3, 2.0], visibility_ratio = 0.3}", "camera = 0}").replace("iteration = 1", "")
    with pytest.raises(InputError, match="panel 1: what_if.a needs an eye, as house has no cameras at iteration 0"):
        prepare(parse_recipe(off, "r"), tmp_path)


def test_layers_of_voxels_stand_aside(folder: Path) -> None:
    text = RECIPE + "[layers]\nactive = true\n[colouring]\nvoxels = 'gamma'\n"
    assert prepare(parse_recipe(text, "r"), folder)[0].bars
    ready = prepare(parse_recipe(text + "[coverage]\n", "r"), folder)[0]
    assert not ready.bars and len(ready.legend) == 2


# Sources of every kind


def test_a_fit_keeps_the_earlier_state_on_its_way(tmp_path: Path) -> None:
    text = RECIPE.replace('"run.h5"', '"house"\niteration = 2\nfit = {resolution = 16, image_size = 32}')
    opened = open_what("house", device="cpu", overrides={"resolution": 16, "image_size": 32})
    negative = []
    for _ in range(2):
        opened.run.run_iteration()
        negative.append(opened.run.read_field("corner_sdf") < 0)
    n_outside, n_inside = (int((a & ~b).sum()) for a, b in (negative, negative[::-1]))
    found = labels(text + "[changes]\nsince = 1\n", tmp_path)
    assert f"corners now outside {n_outside:,}" in found and f"corners now inside {n_inside:,}" in found
    save_checkpoint(tmp_path / "c.safetensors", opened.run)
    lone = RECIPE.replace("run.h5", "c.safetensors")
    seen, voxels = opened.run.read_field("seen_count"), opened.run.read_field("voxels")
    crossed = negative[1][voxels.corners_by_slot.long()].sum(dim=0)
    n_unseen = int(((seen == 0) & (crossed > 0) & (crossed < 8)).sum())
    assert labels(lone + "[coverage]\n", tmp_path)[0] == f"never seen, with a surface {n_unseen:,}"
    assert labels(lone + "[surface]\n", tmp_path)[-1].startswith("inside out, ")
    with pytest.raises(InputError, match="panel 1: changes needs two states, and c.safetensors holds one: name a rec"):
        prepare(parse_recipe(lone + "[changes]\nsince = 1\n", "r"), tmp_path)


def test_between_two_levels_faces_are_not_compared(tmp_path: Path) -> None:
    levels = "fit = {resolution = 16, start_resolution = 8, iterations = 4, image_size = 32}"
    text = RECIPE.replace('"run.h5"', f'"house"\niteration = 4\n{levels}')
    text += '[changes]\nsince = 1\nshow = ["same", "moved", "outward", "gained"]\n'
    ready = prepare(parse_recipe(text, "r"), tmp_path)[0]
    moved, n_both, outward, gained = (entry.label for entry in ready.legend)
    assert moved == "moved –" and n_both.startswith("in both ") and gained == "quads gained –"
    assert outward.removeprefix("corners now outside ").isdigit()
    assert any(note.startswith("8³ and 16³: ") for note in ready.notes)


@pytest.mark.parametrize(("change", "said"), [
    ("[changes]\nsince = 9", "run.h5: iteration must be a recorded one from 0 to 3, got 9"),
    ("[coverage]\nmark = 'unseen'", "mark must be one of never seen, orbit"),
    ("[coverage]\nvalues = 'camera_count'", "panel 1: coverage needs the fields voxels, seen_count, camera_count, and "
                                            "fake sphere has no camera_count"),
    ("[coverage]\n[what_if]\n", "panel 1: what_if must not be given beside coverage, whose place it takes"),
    ("[what_if]\nb = {far = 0.001}", "panel 1: what_if.b.near must be below far, got"),
    ("[what_if]\na = {camera = 99}", "panel 1: what_if.a.camera must be below"),
    ("[source]\npath = 'house'\n[changes]\nsince = 9", "panel 1: changes needs source.iteration, as far as house is"),
    ("[source]\npath = 'house'\niteration = 9\n[changes]\nsince = 9",
     "panel 1: changes.since must be below source.iteration (9), as far as house is fitted, got 9"),
    ("[source]\npath = 'house'\nnetwork = 'tiny_vae'\n[changes]\nsince = 0", "a pass over house leaves one"),
])
def test_refused_in_one_line(change: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE + change
    if change.startswith("[source]"):
        text = RECIPE.partition("[source]")[0] + change
    (folder / "a.toml").write_text(text)
    assert said in refused(capsys, "figure", str(folder / "a.toml"))


def test_a_field_that_does_not_fit_its_voxels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Spoiled(Planted):
        def read_field(self, name: str) -> Any:
            value = super().read_field(name)
            return value[:-3] if name == "seen_count" else value

    builder = RunBuilder(tmp_path / "run.h5", Spoiled(), snapshot_every=1)
    builder.iterate(1)
    builder.close()
    (tmp_path / "a.toml").write_text(RECIPE + "[coverage]\n")
    assert "seen_count at iteration 1: seen_count must have 704 rows, got 701" in refused(
        capsys, "figure", str(tmp_path / "a.toml"))


def test_a_source_without_counters_or_voxels(tmp_path: Path) -> None:
    for name, run in (("ball", FakeRun(8)), ("bare", FakeRun(only_scalars=True)), ("net", FakeInference(8, 600))):
        builder = RunBuilder(tmp_path / f"{name}.h5", run, snapshot_every=1)
        builder.iterate(2)
        builder.close()
    for name, table, said in (("ball", "[coverage]", "coverage needs the fields voxels, seen_count"),
                              ("bare", "[changes]\nsince = 1", "changes needs the fields voxels"),
                              ("bare", "[surface]", "surface needs the fields voxels, corner_sdf")):
        with pytest.raises(InputError, match=f"panel 1: {said}"):
            prepare(parse_recipe(RECIPE.replace("run.h5", f"{name}.h5") + table, "r"), tmp_path)
    staged = "stage = 'upsample 1'\n" + RECIPE.replace("run.h5", "net.h5")
    ready = prepare(parse_recipe(staged + "[changes]\nsince = 1\n", "r"), tmp_path)[0]
    assert ready.view.changes.found.a.label == "pass 1, upsample 1"


# From the window


@pytest.fixture
def window(folder: Path, tmp_path: Path) -> Iterator[tuple[ViewState, Screen, Snapshot]]:
    """A view of the last iteration, as a window has it, and all tabs' findings up to date once they are in front."""
    view, screen = window_view(tmp_path)
    snapshot = dataclasses.replace(snapshot_at(folder, FINAL), run_name="fit")
    view.layers |= {"slice": False, "frustum": False}
    view.side_by_side = False
    view.changes.kept, view.changes.mode, view.changes.shown = state_of(snapshot_at(folder, 1)), KEPT_STATE, False
    yield view, screen, snapshot
    view.stop_workers()


def follow(view: ViewState, snapshot: Snapshot) -> None:
    view.split.update(snapshot.fields["voxels"], None)
    for part in (view.field, view.surfaces, view.changes, view.coverage, view.check):
        part.update(view, snapshot)


def in_front(view: ViewState, tab: str, snapshot: Snapshot) -> None:
    view.tabs = {"left": tab, "right": "Plots"}
    view.changes.shown = tab == PANEL
    if tab == "values":
        view.tabs["left"], view.coverage.mode, view.coverage.quantity = "Coverage", "values", "viewing_angle"
    follow(view, snapshot)
    if tab == "what-ifs":
        for name, near in (("A", 1.5), ("B", 1.9)):
            camera = Camera.look_at((0.4, 0.2, 2.0), (0, 0, 0), fov_y_degrees=30, width=50, height=40, near=near,
                                    far=2.2)
            view.what_ifs.kept[name] = Kept(camera, False, 2, "by hand", "")
        view.what_ifs.shown, view.frustum.look = True, "any"
        view.what_ifs.update(view, snapshot.fields["voxels"], None, False)
    if tab == "Surface":
        view.layers |= dict.fromkeys(("active", "mesh", "target"), False)  # they hide what is marked
        view.check.chosen = view.check.regions("turned")[0]


@pytest.mark.parametrize(("tab", "table"), [
    (PANEL, {"changes": ChangesTable(1)}), ("Coverage", {"coverage": CoverageTable()}),
    ("values", {"coverage": CoverageTable(values="viewing_angle")}), ("Surface", {"surface": SurfaceTable()}),
    ("what-ifs", {}),
])
def test_what_f_writes_gives_the_picture(tab: str, table: dict[str, Any], window: tuple, folder: Path) -> None:
    view, screen, snapshot = window
    in_front(view, tab, snapshot)
    if tab == PANEL:
        view.changes.layers["same"], view.changes.threshold = False, 0.25
        shown = tuple(name for name in ChangesTable(1).show if name != "same")
        table = {"changes": ChangesTable(1, 0.25, shown)}
    recipe = parse_recipe(recipe_text(recipe_of_screen(view, SourceTable("run.h5", FINAL), screen)), "r")
    panel: Panel = recipe.panels[0]
    if tab == "Surface":
        frame = panel.surface.frame
        low, high = view.check.chosen.low, view.check.chosen.high
        assert all(a <= part <= b for a, part, b in zip(low, frame, high, strict=True))
        table = {"surface": SurfaceTable(frame=frame)}
    assert all(getattr(panel, name) == value for name, value in table.items())
    captions = {PANEL: "From iteration 1 to iteration 3", "what-ifs": "A: by hand; B: by hand"}
    assert panel.legend and panel.caption == captions.get(tab, "")
    assert (panel.what_if is not None) == (tab == "what-ifs")
    again = prepare(recipe, folder)[0]
    live = Ready(panel, snapshot, view)
    assert again.legend == live.legend and again.legend and again.bars == live.bars
    pose = poses([again], 1.0, True)[0]
    pictures = [draw_scene(one, pose, 250, 175, 1).astype(int) for one in (live, again)]
    assert (pictures[0][..., 3] > 0).sum() > 500
    # what the window holds and what was recorded is one; a driver may round edges otherwise
    assert (np.abs(pictures[0] - pictures[1]).max(-1) > 8).mean() < 1e-3
    bare = dataclasses.replace(panel, changes=None, coverage=None, surface=None, what_if=None)
    plain = prepare(dataclasses.replace(recipe, panels=(bare,)), folder)[0]
    assert (np.abs(draw_scene(plain, pose, 250, 175, 1).astype(int) - pictures[0]).max(-1) > 8).mean() > 0.01


def test_f_saves_what_holds_the_findings(window: tuple, folder: Path, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.figure import capture

    monkeypatch.setattr(capture, "_start", lambda job: None)
    view, screen, snapshot = window
    source, shot = FakeSource(), Shot()
    for tab, key in (("Coverage", "coverage"), ("Surface", "surface")):
        in_front(view, tab, snapshot)
        source.sent.clear()
        assert "drawing" in Figures().save(view, snapshot, source, screen, shot) and len(source.sent) == 1
        newest = max(tmp_path.glob("*.toml"), key=lambda path: path.stat().st_mtime_ns)
        assert getattr(open_recipe(newest).panels[0], key) is not None
    with monkeypatch.context() as patch:
        patch.setattr(type(view.coverage), "ghost", lambda *_: "a camera")
        assert "none holds the camera that Coverage suggests" in Figures().save(view, snapshot, source, screen, shot)
    in_front(view, "what-ifs", snapshot)
    assert "drawing" in Figures().save(view, snapshot, source, screen, shot)
    view.what_ifs.a = dataclasses.replace(view.what_ifs.a, crossed=True)
    assert "none holds planes that are crossed" in Figures().save(view, snapshot, source, screen, shot)
    view.what_ifs.shown = False
    in_front(view, PANEL, snapshot)
    source.recording = RecordStatus(folder / "run.h5", FINAL)  # which may have other states, and not every iteration
    kept = view.changes.kept
    sdf = kept.arrays["corner_sdf"].copy()
    sdf[0] = np.nextafter(sdf[0], np.float32(1))
    view.changes.kept = State(kept.voxels, {**kept.arrays, "corner_sdf": sdf}, 1, "iteration 1")
    follow(view, snapshot)
    assert "drawing" in Figures().save(view, snapshot, source, screen, shot)
    newest = max(tmp_path.glob("*.toml"), key=lambda path: path.stat().st_mtime_ns)
    assert open_recipe(newest).panels[0].source == SourceTable(newest.with_suffix(".h5").name, FINAL)
    view.worker.wait_for(f"states of {newest.stem}", WAIT_SECS)
    again = prepare(open_recipe(newest), tmp_path)[0]
    assert again.view.changes.found.counts(0.0) == view.changes.found.counts(0.0)
    assert np.array_equal(again.view.changes.found.a.arrays["corner_sdf"], sdf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(view.worker), "ask", lambda *_: None)
        moving = dataclasses.replace(snapshot, iteration=FINAL, fields=snapshot_at(folder, 2).fields)
        assert "the run moves on while Changes compares" in Figures().save(view, moving, source, screen, shot)
    view.changes.kept = dataclasses.replace(kept, iteration=77, label="iteration 77")
    follow(view, snapshot)
    assert "not from iteration 77 to iteration 3" in Figures().save(view, snapshot, source, screen, shot)
    source.recording_path = folder / "run.h5"
    assert "doesn't hold iteration 77" in Figures().save(view, snapshot, source, screen, shot)
    other = kept.voxels.prune(torch.arange(kept.voxels.n_voxels) > 0)
    view.changes.kept = State(other, {}, 1, "pass 1, encoder 1")
    follow(view, snapshot)
    assert "doesn't hold pass 1, encoder 1" in Figures().save(view, snapshot, source, screen, shot)
    view.changes.kept = kept
    follow(view, snapshot)
    assert "drawing" in Figures().save(view, snapshot, source, screen, shot)
    newest = max(tmp_path.glob("*.toml"), key=lambda path: path.stat().st_mtime_ns)
    panel = open_recipe(newest).panels[0]
    assert (tmp_path / panel.source.path).resolve() == (folder / "run.h5").resolve()
    assert (panel.source.iteration, panel.changes.since) == (FINAL, 1)
    assert not list(tmp_path.glob(".*"))  # nothing half done


def test_states_that_cannot_be_written_are_told(window: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.figure import capture

    def full(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(capture, "write_states", full)
    view, screen, snapshot = window
    in_front(view, PANEL, snapshot)
    figures = Figures()
    assert "drawing" in figures.save(view, snapshot, FakeSource(), screen, Shot())
    view.worker.wait_for("states of figure_000003", WAIT_SECS)
    assert figures.poll(snapshot) == f"no figure: {tmp_path / 'figure_000003.h5'} can't be written: no room"
    assert figures.idle


def test_states_of_a_figure_that_is_gone_are_not_taken_for_others(window: tuple, tmp_path: Path) -> None:
    view, screen, snapshot = window
    in_front(view, PANEL, snapshot)
    (tmp_path / "figure_000003.h5").write_text("old")
    (tmp_path / "figure_000003-2.safetensors").write_text("old")
    assert Figures().save(view, snapshot, FakeSource(), screen, Shot()) == f"drawing {tmp_path}/figure_000003-3.png …"
    view.worker.wait_for("states of figure_000003-3", WAIT_SECS)
    assert (tmp_path / "figure_000003-3.h5").is_file() and (tmp_path / "figure_000003.h5").read_text() == "old"


def test_states_that_nobody_writes_any_more_are_told(window: tuple) -> None:
    view, screen, snapshot = window
    in_front(view, PANEL, snapshot)
    figures, begun, go = Figures(), threading.Event(), threading.Event()
    view.worker.ask("long", 1, lambda: (begun.set(), go.wait(WAIT_SECS)))
    assert begun.wait(WAIT_SECS)
    assert "drawing" in figures.save(view, snapshot, FakeSource(), screen, Shot())
    assert figures.poll(snapshot) == "" and not figures.idle
    view.forget_found()  # another run is opened
    go.set()
    assert figures.poll(snapshot) == "no figure: the states that Changes compares were not saved" and figures.idle
