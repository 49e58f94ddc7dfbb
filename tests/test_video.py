"""Videos: each frame is what `workbench figure` makes of its recipe, and the same bytes come out every time."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cli_fixtures import SMALL, refused
from fake_run import FakeRun
from PIL import Image
from recording_files import RunBuilder

from workbench import cli
from workbench.camera_path import Key, along, read_path, swept, turned
from workbench.cli_video import plain_recipe
from workbench.figure.prepare import Pose
from workbench.figure.recipe import CameraTable
from workbench.figure.recipe_file import parse_recipe
from workbench.mp4 import mp4_file
from workbench.video import Motion, frame_recipes, make_video, opaque, spread

ps = pytest.importorskip("polyscope")

RECIPE = """
[page]
width = 403
title = "after {iteration}"
background = "#102030"
supersampling = 1
[source]
path = "run.h5"
[[panels]]
caption = "at {iteration}"
colouring.voxels = "corner_sdf"
layers.active = true
layers.mesh = true
[[panels]]
plot.scalars = ["loss"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With run.h5, nine iterations of a sphere that swells, and recipe.toml."""
    found = tmp_path_factory.mktemp("video")
    builder = RunBuilder(found / "run.h5", FakeRun(8), snapshot_every=1)
    builder.iterate(9)
    builder.close()
    (found / "recipe.toml").write_text(RECIPE)
    return found


def decoded(path: Path) -> list[np.ndarray]:
    """The frames of an MP4, by ffmpeg's own decoder."""
    from imageio_ffmpeg import read_frames

    frames = read_frames(str(path))
    about = next(frames)
    width, height = about["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames]


# Where the camera goes


def test_a_turn_keeps_its_distance_and_comes_round():
    pose = Pose(np.array([1.0, 1.0, 2.0]), np.array([0.2, 0.0, 0.1]), np.array([0.0, 1.0, 0.0]), 28.0, 1.0, False)
    steps = [turned(pose, share, CameraTable()) for share in np.linspace(0, 1, 9)]
    assert np.allclose(steps[0].eye, pose.eye) and np.allclose(steps[-1].eye, pose.eye, atol=1e-8)
    assert np.ptp([math.dist(step.eye, step.target) for step in steps]) < 1e-7
    assert np.allclose([step.eye[1] for step in steps], 1.0)
    angles = np.unwrap([math.atan2(step.eye[0] - 0.2, step.eye[2] - 0.1) for step in steps])
    assert np.allclose(np.diff(angles), math.pi / 4)


def test_what_is_swept_holds_every_turn():
    points = np.random.default_rng(0).normal(size=(300, 3)) * (0.5, 0.2, 0.1)
    found = swept(points)
    middle = (points.min(0) + points.max(0)) / 2
    direction = np.array([0.75, 0.42, 1.0])
    for angle in np.linspace(0, 2 * math.pi, 30):
        turn = np.array([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
        every = (points - middle) @ turn.T + middle
        for axis in (direction, np.array([1.0, 0, -0.75]), np.array([0.0, 1, 0])):
            assert (every @ axis).max() <= (found @ axis).max() + 1e-9
            assert (every @ axis).min() >= (found @ axis).min() - 1e-9
    flat = swept(np.zeros((1, 3)))
    assert np.isfinite(flat).all() and np.allclose(flat, 0)


def test_a_path_goes_through_its_keys(tmp_path):
    (tmp_path / "path.toml").write_text("""
[[keys]]
at = 1
eye = [0, 0, 2]
[[keys]]
at = 2.0
eye = [2, 1, 2]
target = [0.5, 0, 0]
fov_y_degrees = 40
[[keys]]
at = 4.0
eye = [2, 1, -2]
""")
    keys = read_path(tmp_path / "path.toml")
    on_path = along(keys, np.array([0.0, 1.0, 2.0, 4.0, 9.0]))
    assert [camera.eye for camera in on_path] == [(0, 0, 2), (0, 0, 2), (2, 1, 2), (2, 1, -2), (2, 1, -2)]
    assert on_path[2].fov_y_degrees == 40 and on_path[2].target == (0.5, 0, 0)
    fine = along(keys, np.linspace(1, 4, 301))
    eyes = np.array([camera.eye for camera in fine])
    assert np.abs(np.diff(eyes, 2, axis=0)).max() < 2e-3  # without a jolt
    assert eyes.min() >= -2 and eyes.max() <= 2
    with pytest.raises(ValueError, match="comes to a view without direction after 1 s"):
        along((Key(at=0, eye=(0, 0, 1)), Key(at=2, eye=(0, 0, -1))), np.array([0.5, 1.0]))


@pytest.mark.parametrize(("text", "says"), [
    ("", "there must be 2 to 1000 [[keys]], got none"),
    ("[[keys]]\neye = [0, 0, 1]\n", "got 1"),
    ("keys = 3", "got none"),
    ("[camera]\n", "unknown key 'camera'"),
    ("[[keys]]\neye = [0, 0, 1]\n[[keys]]\nat = 0.0\neye = [1, 0, 1]\n", "at must be after the key before, 0, got 0"),
    ("[[keys]]\neye = [0, 0, 1]\n[[keys]]\nat = 1\neye = [0, 0]\n", "eye must be 3 finite numbers"),
    ("[[keys]]\neye = [0, 0, 1]\n[[keys]]\nat = 1\n", "eye must be three numbers, got none"),
    ("[[keys]]\neye = [0, 0, nan]\n[[keys]]\nat = 1\n", "eye must be 3 finite numbers"),
    ("[[keys]]\neye = [0, 0, 1]\nspeed = 2\n[[keys]]\n", "speed"),
    ("[[keys]]\neye = [0, 0, 1]\ntarget = [0, 0, 1]\n[[keys]]\n", "eye and target must differ"),
    ("keys = [[[[", "not a camera path"),
])
def test_a_bad_path_is_one_line(text, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path.toml").write_text(text)
    (tmp_path / "small.toml").write_text(SMALL)
    assert says in refused(capsys, "video", "small.toml", "--path", "path.toml")


def test_iterations_are_spread_evenly():
    recorded = [0, 1, 2, 3, 10, 20, 30]
    assert spread(recorded, None, None, 7) == tuple(recorded)
    assert spread(recorded, 2, 20, 4) == (2, 3, 10, 20)
    assert spread(recorded, None, None, 3) == (0, 3, 30) and spread(recorded, 3, None, 1) == (3,)
    with pytest.raises(ValueError, match="no iteration from 11 to 19 is recorded; recorded are 0 to 30"):
        spread(recorded, 11, 19, 4)


# Frames


def test_every_frame_has_nothing_left_to_find_out(folder):
    recipe = parse_recipe(RECIPE, "here")
    frames = frame_recipes(recipe, folder, Motion(4, turns=0.5, iterations=(1, 3, 6, 9)))
    assert [frame.page.title for frame in frames] == ["after 1", "after 3", "after 6", "after 9"]
    assert frames[2].panels[0].caption == "at 6" and frames[2].panels[1].plot.mark == 6
    assert {(frame.page.width, frame.page.height) for frame in frames} == {(404, frames[0].page.height)}
    assert frames[0].page.height % 2 == 0
    assert len({frame.panels[0].ranges["corner_sdf"] for frame in frames}) == 1
    first, last = frames[0].panels[0].camera, frames[3].panels[0].camera
    assert first.eye != last.eye and first.target == last.target and not first.framed
    still = frame_recipes(recipe, folder, Motion(2, turns=1.0))
    assert still[0].page.title == "after 9" and still[0].panels[0].source.iteration == -1


def test_frames_are_what_figure_makes_of_them_every_time(folder, tmp_path):
    recipe, motion = parse_recipe(RECIPE, "here"), Motion(3, fps=10, turns=1.0, iterations=(1, 5, 9))
    for name in ("one", "two"):
        assert make_video(recipe, folder, motion, tmp_path / f"{name}.mp4", tmp_path / name) == 3
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["0000.png", "0001.png", "0002.png"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert not list(tmp_path.glob(".*.part"))
    # the slow way: a picture by itself, from the recipe within
    assert cli.main(["figure", str(tmp_path / "one" / "0001.png"), "--out", str(tmp_path / "again.png")]) == 0
    again, frame = (np.asarray(Image.open(path)) for path in (tmp_path / "again.png", tmp_path / "one" / "0001.png"))
    assert np.array_equal(again, frame)
    pictures = [np.asarray(Image.open(tmp_path / "one" / name).convert("RGB")) for name in names]
    assert all((one != other).any() for one, other in zip(pictures, pictures[1:], strict=False))
    film = decoded(tmp_path / "one.mp4")
    assert len(film) == 3
    for shown, picture in zip(film, pictures, strict=True):
        assert shown.shape == picture.shape and np.abs(shown.astype(int) - picture).mean() < 6


def test_a_film_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError), mp4_file(tmp_path / "a.mp4", 16, 16, 30) as film:
        film.write(np.zeros((16, 16, 3), np.uint8))
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="must be even"):
        mp4_file(tmp_path / "a.mp4", 15, 16, 30).__enter__()
    with pytest.raises(ValueError, match="a frame must be uint8 of shape"), mp4_file(
            tmp_path / "a.mp4", 16, 16, 30) as film:
        film.write(np.zeros((16, 18, 3), np.uint8))
    with pytest.raises(OSError, match="can't be written"), mp4_file(tmp_path / "none" / "a.mp4", 16, 16, 30) as film:
        for _ in range(2000):
            film.write(np.zeros((16, 16, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_colours_come_through(tmp_path):
    """By the matrix that the file says it has: a wrong one shifts them by ten and more."""
    colours = np.array([[230, 159, 0], [86, 180, 233], [0, 158, 115], [204, 121, 167]], np.uint8)
    frame = np.repeat(np.repeat(colours.reshape(2, 2, 3), 32, 0), 32, 1)
    with mp4_file(tmp_path / "a.mp4", 64, 64, 30) as film:
        for _ in range(3):
            film.write(frame)
    for shown in decoded(tmp_path / "a.mp4"):
        for y, x in ((16, 16), (16, 48), (48, 16), (48, 48)):
            assert np.abs(shown[y, x].astype(int) - frame[y, x]).max() <= 4


def test_transparent_frames_stand_on_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = 10, 20, 30, 255
    pixels[0, 1] = 100, 0, 0, 128
    found = opaque(pixels, "transparent")
    assert found[0, 0].tolist() == [10, 20, 30] and found[1, 1].tolist() == [255, 255, 255]
    assert found[0, 1].tolist() == [177, 127, 127] and opaque(pixels, "#102030")[1, 1].tolist() == [16, 32, 48]


# The command


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    words = ["--secs", "0.1", "--fps", "20", "--width", "120", "--supersampling", "1"]
    assert cli.main(["video", "small.toml", *words]) == 0
    assert "small.mp4: 2 frames, 0.10 s" in capsys.readouterr().out and len(decoded(Path("small.mp4"))) == 2
    assert cli.main(["video", str(folder / "run.h5"), "--timelapse", "--last", "4", "--frames", "all", *words]) == 0
    assert sorted(path.name for path in Path("all").iterdir()) == ["0000.png", "0001.png"]
    assert not Path("run.mp4").exists()


@pytest.mark.parametrize(("words", "says"), [
    (("small.toml", "--out", "a.avi"), "--out must end in .mp4, got 'a.avi'"),
    (("small.toml", "--timelapse"), "--timelapse needs one recording (.h5) in all panels, got small.toml"),
    (("small.toml", "--first", "3"), "--first and --last go with --timelapse"),
    (("small.toml", "--secs", "0"), "--secs must be in (0, 36000], got 0"),
    (("small.toml", "--fps", "0"), "fps must be in [1, 240], got 0"),
    (("small.toml", "--width", "3"), "--width must be in [16, 16384] pixels, got 3"),
    (("small.toml", "--out", "/proc/none/a.mp4", "--secs", "0.1"), "/proc/none"),
    (("nothing.h5",), "nothing.h5"),
    (("broken.toml",), "not a recipe"),
])
def test_refusals_are_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "broken.toml").write_text("[[[")
    before = sorted(tmp_path.iterdir())
    assert says in refused(capsys, "video", *words)
    assert sorted(tmp_path.iterdir()) == before


def test_plain_recipes_show_what_there_is(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    assert [panel.caption for panel in plain_recipe("small.toml").panels] == ["voxels", "target"]
    recorded = plain_recipe(str(folder / "run.h5"))
    assert [panel.caption for panel in recorded.panels] == ["voxels", "surface", "target"]
    assert recorded.page.title.endswith("iteration {iteration}")


def test_ffmpeg_is_there():
    from imageio_ffmpeg import get_ffmpeg_exe

    assert subprocess.run([get_ffmpeg_exe(), "-version"], capture_output=True).returncode == 0
