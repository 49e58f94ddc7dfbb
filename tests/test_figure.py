"""Figures: the same pixels again, pages, sources of every kind, scenes cut open, vector files, and the window's."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_fixtures import refused
from fake_run import FakeRun
from PIL import Image
from recording_files import RunBuilder

from sparseflex.camera import Camera
from sparseflex.checkpoint import save_checkpoint
from sparseflex.training.run import RunCamera
from workbench import cli, theme
from workbench.commands import SaveCheckpoint
from workbench.figure.capture import Figures, Screen, recipe_of_screen
from workbench.figure.make import make_figure, open_recipe
from workbench.figure.page import lay_out
from workbench.figure.prepare import Ready, poses, prepare
from workbench.figure.recipe import LayerTable, SourceTable
from workbench.figure.recipe_file import parse_recipe, recipe_text
from workbench.figure.render import averaged
from workbench.inputs import InputError, open_what
from workbench.recording.policy import RecordStatus
from workbench.snapshot import History, Snapshot
from workbench.view_state import ViewState

ROOT = Path(__file__).parent.parent
SMALL = """
[page]
width = 360
supersampling = 2
dpi = 110
letters = true
[source]
path = "house"
[source.fit]
resolution = 16
image_size = 32
[camera]
direction = [0.7, 0.6, 1.0]
"""
THREE = SMALL + """
[frustum]
eye = [1.0, 0.3, 1.2]
visibility_ratio = 0.3
[[panels]]
caption = "voxels in a frustum"
legend = true
layers = {active = true, far_cut = true, outside = true, frustum = true}
[[panels]]
caption = "cut open"
layers = {target = true}
cut = {open = true, offset = 0.1}
scale_bar = 0.25
[[panels]]
caption = "field"
source.iteration = 1
layers = {slice = true}
"""


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGBA")).astype(int)


def drawn(tmp_path: Path, text: str, name: str = "figure.png") -> np.ndarray:
    make_figure(parse_recipe(text, "r"), tmp_path, tmp_path / name)
    return pixels_of(tmp_path / name)


def test_a_figure_is_the_same_in_another_process_and_from_its_own_picture(tmp_path, assert_matches_golden, capsys):
    (tmp_path / "a.toml").write_text(THREE)
    command = [sys.executable, "-m", "workbench", "figure", "a.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**__import__("os").environ,
                          "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "a.png").read_bytes()
    assert open_recipe(tmp_path / "a.png") == open_recipe(tmp_path / "a.toml")
    drawn(tmp_path, SMALL + "[layers]\nactive = true\n", "other.png")  # what was drawn before mustn't show
    assert cli.main(["figure", str(tmp_path / "a.png"), "--out", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == first
    assert_matches_golden(tmp_path / "a.png", "figure_recipe")
    capsys.readouterr()
    assert cli.main(["figure", str(tmp_path / "a.png"), "--recipe"]) == 0
    assert capsys.readouterr().out == recipe_text(parse_recipe(THREE, "r"))


def test_transparent_is_transparent_and_adds_up_to_the_opaque_one(tmp_path):
    text = SMALL + "[layers]\nactive = true\n"
    opaque = drawn(tmp_path, text, "a.png")
    clear = drawn(tmp_path, text.replace("[page]", '[page]\nbackground = "transparent"'), "b.png")
    assert opaque[..., 3].min() == 255
    alpha = clear[..., 3:] / 255
    assert alpha.min() == 0 and alpha.max() == 1 and len(np.unique(clear[..., 3])) > 3
    assert np.abs(clear[..., :3] * alpha + 255 * (1 - alpha) - opaque[..., :3]).max() <= 2


def test_the_page_puts_the_pictures_pixels_where_it_says(tmp_path):
    """Nothing on the way from the renderer to the file smooths or moves them."""
    from workbench.figure.render import draw_scene

    recipe = parse_recipe(SMALL + "[layers]\nactive = true\n", "r")
    make_figure(recipe, tmp_path, tmp_path / "a.png")
    before = theme.current().name
    theme.use("light")
    ready = prepare(recipe, tmp_path)
    x, y, wide, tall = lay_out(recipe, ready).cells[0].picture
    raw = draw_scene(ready[0], poses(ready, wide / tall, True)[0], wide, tall, 2).astype(int)
    theme.use(before)
    alpha = raw[..., 3:] / 255
    expected = raw[..., :3] * alpha + 255 * (1 - alpha)
    got = pixels_of(tmp_path / "a.png")[y : y + tall, x : x + wide, :3]
    assert np.abs(got - expected).max() <= 1.5


def test_averaged_agrees_with_a_loop():
    samples = np.random.default_rng(0).integers(0, 256, (6, 9, 4)).astype(np.uint8)
    found = averaged(samples, 3)
    for i in range(2):
        for j in range(3):
            block = samples[3 * i : 3 * i + 3, 3 * j : 3 * j + 3].reshape(-1, 4).astype(float)
            alpha = block[:, 3].sum()
            colour = (block[:, :3] * block[:, 3:]).sum(0) / alpha
            assert abs(found[i, j, 3] - alpha / 9) <= 0.51
            # as seen: a colour that is hardly there may be off by more
            assert np.abs((found[i, j, :3] - colour) * alpha / 9 / 255).max() <= 1.1


@pytest.mark.parametrize("fov", [20.0, 60.0])
def test_a_scale_bar_measures_what_is_there(fov, tmp_path):
    """A square of known size, straight in view, is as many pixels as its scale bar says."""
    mesh = "v -0.5 -0.5 0\nv 0.5 -0.5 0\nv 0.5 0.5 0\nv -0.5 0.5 0\nf 1 2 3\nf 1 3 4\n"
    (tmp_path / "square.obj").write_text(mesh)
    table = '[source]\npath = "square.obj"\n[page]\nwidth = 300\nmargin = 0\n[layers]\ntarget = true\n[camera]\n'
    given = f"eye = [0.0, 0.0, 4.0]\ntarget = [0.0, 0.0, 0.0]\nfov_y_degrees = {fov}\n"
    for camera in (given, given + "orthographic_height = 2.5\n"):
        recipe = parse_recipe(table + camera, "r")
        make_figure(recipe, tmp_path, tmp_path / "a.png")
        ready = prepare(recipe, tmp_path)
        height_world = poses(ready, 1.0, True)[0].height_world
        rows = (pixels_of(tmp_path / "a.png")[..., :3].min(-1) < 250).any(1).sum()
        assert rows == pytest.approx(300 / height_world, abs=2)


def test_a_cropped_view_is_a_part_of_the_whole(tmp_path):
    whole = SMALL.replace("width = 360", "width = 320\nmargin = 0").replace("direction = [0.7, 0.6, 1.0]", """
eye = [1.5, 1.2, 2.0]
target = [0.0, 0.0, 0.0]""") + "{}[layers]\nactive = true\n"
    all_of_it = drawn(tmp_path, whole.format(""))
    part = drawn(tmp_path, whole.replace("width = 320", "width = 160").format("crop = [0.25, 0.5, 0.75, 1.0]\n"))
    assert np.abs(part - all_of_it[160:, 80:240]).max() == 0


def test_recordings_and_checkpoints_are_sources_alike(tmp_path):
    run = FakeRun(12)
    with_fields = RunBuilder(tmp_path / "run.h5", run, snapshot_every=2)
    with_fields.iterate(6)
    with_fields.close()
    text = SMALL.partition("[source]")[0] + """
[source]
path = "run.h5"
iteration = 4
[[panels]]
layers = {mesh = true, active = true}
[[panels]]
plot = {scalars = ["loss"], mark = 4}
"""
    first = drawn(tmp_path, text)
    assert len(np.unique(first.reshape(-1, 4), axis=0)) > 20
    assert np.abs(first - drawn(tmp_path, text.replace("iteration = 4", "iteration = 2"))).max() > 50
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(tmp_path / "run.h5", elsewhere / "run.h5")
    # the recording and the recipe are all that it takes; figures drawn before in one process may round otherwise
    assert np.abs(first - drawn(elsewhere, text)).max() <= 1
    tmp_path = elsewhere
    with pytest.raises(InputError, match="iteration must be a recorded one from 0 to 6, got 9"):
        drawn(tmp_path, text.replace("iteration = 4", "iteration = 9"))
    with pytest.raises(InputError, match="a plot must have at least [0-9]+ pixels a side at this size of type, got"):
        drawn(tmp_path, text.replace("width = 360", "width = 120"))
    with pytest.raises(InputError, match="plot.scalars must be of .*loss.*, got 'lost'"):
        drawn(tmp_path, text.replace('"loss"', '"lost"'))


def test_a_checkpoint_of_a_fit_gives_the_fits_own_picture(tmp_path):
    text = SMALL + "[layers]\nmesh = true\n"
    fitted = drawn(tmp_path, text.replace('path = "house"', 'path = "house"\niteration = 2'))
    opened = open_what("house", device="cpu", overrides={"resolution": 16, "image_size": 32})
    while opened.run.iteration < 2:
        opened.run.run_iteration()
    save_checkpoint(tmp_path / "c.safetensors", opened.run)
    kept = text.partition("[source]")[0] + '[source]\npath = "c.safetensors"\n[camera]' + text.partition("[camera]")[2]
    assert np.abs(drawn(tmp_path, kept) - fitted).max() == 0
    with pytest.raises(InputError, match="source.iteration must be 2, where .*, got 3"):
        drawn(tmp_path, kept.replace("[camera]", "iteration = 3\n[camera]", 1))


def test_pdf_and_svg_are_the_same_bytes_again_and_hold_their_recipe(tmp_path):
    recipe = parse_recipe(SMALL.replace("[page]", '[page]\ntitle = "ä & <b>"') + "[layers]\nslice = true\n", "r")
    for suffix, start in ((".pdf", b"%PDF"), (".svg", b"<?xml")):
        files = [tmp_path / f"{name}{suffix}" for name in "ab"]
        for file in files:
            make_figure(recipe, tmp_path, file)
        contents = [file.read_bytes() for file in files]
        assert contents[0] == contents[1] and contents[0].startswith(start)
    assert open_recipe(tmp_path / "a.svg") == recipe


@pytest.mark.parametrize(("change", "said"), [
    (("house", "nothing.h5"), "nothing.h5: no such file, and no scene of that name"),
    (("house", "my_run.py:make_run"), "source.path must not be a script"),
    (("[camera]", "[frustum]\ncamera = 7\n[layers]\nactive = true\n[camera]"), "frustum.camera must be below 0"),
    (("[camera]", "[colouring]\nvoxels = 'colour'\n[layers]\nactive = true\n[camera]"), "colouring.voxels must be one"),
    (("width = 360", "width = 16384"), "must be at most 16384 pixels, got"),
    (("width = 360", "width = 20"), "panels must have at least 16 pixels"),
    (("resolution = 16", "resolution = 1"), "resolution must be a whole number in [4, 4096], got 1"),
])
def test_refused_by_the_command_in_one_line(change, said, tmp_path, capsys):
    (tmp_path / "a.toml").write_text(SMALL.replace(*change))
    assert said in refused(capsys, "figure", str(tmp_path / "a.toml"))
    assert list(tmp_path.iterdir()) == [tmp_path / "a.toml"]


def test_the_command_refuses_other_suffixes_and_missing_files(tmp_path, capsys):
    (tmp_path / "a.toml").write_text(SMALL)
    assert "must end in one of .png, .pdf, .svg" in refused(
        capsys, "figure", str(tmp_path / "a.toml"), "--out", str(tmp_path / "a.gif"))
    assert "no such file" in refused(capsys, "figure", str(tmp_path / "b.png"))
    assert "--supersampling must be" in refused(capsys, "figure", str(tmp_path / "a.toml"), "--supersampling", "99")


# Ranges and frames among panels


def test_panels_share_ranges_and_frames_unless_told_otherwise(tmp_path):
    text = SMALL + """
[layers]
slice = true
[[panels]]
cut.offset = 0.0
[[panels]]
cut.offset = 0.2
source.fit.resolution = 8
"""
    shared = prepare(parse_recipe(text, "r"), tmp_path)
    assert shared[0].bars == shared[1].bars
    assert poses(shared, 1.0, True)[0].eye.tolist() == poses(shared, 1.0, True)[1].eye.tolist()
    own = prepare(parse_recipe(text.replace("[page]", "[page]\nshared_ranges = false"), "r"), tmp_path)
    assert own[0].bars != own[1].bars
    assert poses(own, 1.0, False)[0].eye.tolist() != poses(own, 1.0, False)[1].eye.tolist()
    locked = prepare(parse_recipe(text + "[panels.ranges]\ncorner_sdf = [-3, 3]\n", "r"), tmp_path)
    assert (locked[1].bars[0].scale.low, locked[1].bars[0].scale.high) == (-3.0, 3.0)
    assert lay_out(parse_recipe(text, "r"), shared).bars and not lay_out(parse_recipe(text, "r"), own).bars


def test_nothing_at_all_gives_a_page(tmp_path):
    """No voxels, no fields, no cameras: an empty picture of the right size, nothing raised."""
    recipe = parse_recipe(SMALL + "[layers]\n" + "".join(f"{name} = true\n" for name in (
        "active", "mesh", "target", "frustum", "cameras", "sdf", "slice", "vectors", "pruned")), "r")
    view = ViewState()
    empty = Ready(recipe.panels[0], Snapshot(history=History()), view)
    assert empty.bars == () and empty.legend == ()
    assert np.isfinite(poses([empty], 1.5, True)[0].eye).all()
    lay_out(recipe, [empty])


# From the window


class FakeSource:
    """Notes commands, and does what a checkpoint asks."""

    def __init__(self) -> None:
        self.sent: list[object] = []

    def send(self, command: object) -> None:
        self.sent.append(command)


def window_view(tmp_path: Path) -> tuple[ViewState, Screen]:
    view = ViewState(checkpoint_path=tmp_path / "checkpoint.safetensors")
    view.layers["slice"] = True
    view.shades.colours["mesh"] = "#123456"
    camera = Camera.look_at((1.5, 1.0, 2.0), (0, 0, 0), fov_y_degrees=28, width=160, height=90)
    return view, Screen(camera, (1600, 900), (300.0, 10.0, 1000.0, 700.0), 1.0)


def test_a_screens_recipe_says_what_is_on_screen(tmp_path):
    view, screen = window_view(tmp_path)
    recipe = recipe_of_screen(view, SourceTable("c.safetensors"), screen)
    panel = recipe.panels[0]
    assert parse_recipe(recipe_text(recipe), "r") == recipe
    assert set(panel.layers) == {name for name, shown in view.layers.items() if shown and name != "points"}  # has none
    assert panel.layers["mesh"] == LayerTable("#123456")
    assert panel.side_by_side and panel.frustum.off
    assert panel.camera.crop == pytest.approx((300 / 1600, 10 / 900, 1300 / 1600, 710 / 900))
    assert (recipe.page.width, recipe.page.theme) == (1000, theme.current().name)
    looked = Camera.look_at((1, 0.2, 1), (0, 0, 0), fov_y_degrees=33, width=60, height=40, near=0.5, far=1.5)
    view.split.camera = looked
    table = recipe_of_screen(dataclasses.replace(view), SourceTable("c.safetensors"), screen).panels[0].frustum
    again = Camera.look_at(table.eye, table.target, table.up, fov_y_degrees=table.fov_y_degrees, width=150, height=100)
    assert np.abs((again.camera_from_world - looked.camera_from_world).numpy()).max() < 1e-12
    assert (table.near, table.far, table.aspect) == (0.5, 1.5, 1.5)
    assert RunCamera(again, "figure").label == "figure"


def test_f_saves_a_checkpoint_first_and_tells_how_it_ended(tmp_path, monkeypatch):
    from workbench.figure import capture

    class Done:
        returncode, calls = 0, 0

        def poll(self) -> int | None:
            Done.calls += 1
            return None if Done.calls < 3 else self.returncode

        def communicate(self) -> tuple[str, str]:
            return "", "workbench: it broke\n"

    monkeypatch.setattr(capture, "_start", lambda job: Done())
    view, screen = window_view(tmp_path)
    source, figures = FakeSource(), Figures()
    live = Snapshot(run_name="fit", iteration=12, serial=5)
    assert "drawing" in figures.save(view, live, source, screen, lambda path: None)
    assert source.sent == [SaveCheckpoint(tmp_path / "figure_000012.safetensors")]
    assert figures.poll(live) == "" and not figures.idle
    (tmp_path / "figure_000012.safetensors").touch()
    notices = [figures.poll(live) for _ in range(5)]
    assert [said for said in notices if said] == [f"saved {tmp_path / 'figure_000012.png'} and its recipe"]
    assert open_recipe(tmp_path / "figure_000012.toml").panels[0].source.path == "figure_000012.safetensors"
    Done.returncode = 2
    figures.save(view, live, source, screen, lambda path: None)  # the same iteration again: another name
    (tmp_path / "figure_000012-2.safetensors").touch()
    notices = [figures.poll(live) for _ in range(5)]
    assert [said for said in notices if said][0].startswith("no figure: it broke; its recipe is")
    assert figures.idle


class Shot:
    """Pictures of window_view's window, at half its size: red where panels leave room."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def __call__(self, path: Path) -> None:
        self.paths.append(path)
        picture = Image.new("RGB", (800, 450))
        picture.paste((255, 0, 0), (150, 5, 650, 355))
        picture.save(path)


def test_f_takes_the_screens_picture_while_it_shows_what_no_recipe_holds(tmp_path, monkeypatch):
    view, screen = window_view(tmp_path)
    source, shot = FakeSource(), Shot()
    live = Snapshot(run_name="fit", iteration=3)
    with monkeypatch.context() as patch:
        patch.setattr(type(view.gradients), "region_voxels", lambda *_: "found")
        said = Figures().save(view, live, source, screen, shot)
        assert "without a recipe: none holds what the scene shows of Gradients" in said
    with Image.open(shot.paths[0]) as picture:
        assert picture.size == (500, 350) and picture.getcolors() == [(500 * 350, (255, 0, 0))]
    assert not source.sent and not list(tmp_path.glob("*.toml"))
    no_room = dataclasses.replace(screen, free=(800.0, 450.0, 0.0, 0.0))
    assert "saved" in Figures().save(view, Snapshot(run_name="own"), source, no_room, shot)
    assert Image.open(shot.paths[-1]).size == (800, 450)
    assert view.finding == ""


def test_f_where_the_checkpoint_fails_or_the_run_is_of_another_kind(tmp_path):
    view, screen = window_view(tmp_path)
    source, figures, shot = FakeSource(), Figures(), Shot()
    live = Snapshot(run_name="fit", iteration=3, serial=5)
    figures.save(view, live, source, screen, shot)
    failed = dataclasses.replace(live, serial=6, notice="not saved: disk full")
    assert figures.poll(failed) == "no figure: the checkpoint was not saved: disk full" and figures.idle
    said = figures.save(view, Snapshot(run_name="own", iteration=4), source, screen, shot)
    assert "without a recipe" in said and shot.paths == [tmp_path / "figure_000004.png"]
    source.recording = RecordStatus(tmp_path / "run.h5", 6)  # since the snapshot was made, its iteration got there
    recorded = Snapshot(run_name="reconstruct", iteration=6, recording=RecordStatus(tmp_path / "run.h5", 5))
    figures.save(view, recorded, source, screen, shot)
    assert open_recipe(tmp_path / "figure_000006.toml").panels[0].source == SourceTable("run.h5", 6)
    source.recording_path = tmp_path / "run.h5"
    figures.save(view, Snapshot(run_name="own", iteration=5, source="replay"), source, screen, shot)
    assert open_recipe(tmp_path / "figure_000005.toml").panels[0].source == SourceTable("run.h5", 5)
    view.checkpoint_path = tmp_path / "figure_000005.toml" / "checkpoint.safetensors"
    assert figures.save(view, live, source, screen, shot).startswith("no figure: ")
