"""Scene files: what they give, how strict they are, and that an absurd resolution is refused before it is tried."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparseflex import Camera, memory
from sparseflex.scene import ViewConfig, load_scene, scene_names
from sparseflex.shapes import SHAPES
from sparseflex.training.config import FitConfig
from sparseflex.transforms import write_transforms

SCENES = Path(__file__).parent.parent / "scenes"
TRIANGLE = "v 0 0 0\nv 2 0 0\nv 0 1 0\nf 1 2 3\n"


def scene_file(folder, text, name="s.toml"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", scene_names([SCENES]))
def test_bundled_scenes_load(name):
    scene = load_scene(name, [SCENES])
    assert scene.name == name and scene.title and scene.description.endswith(".") and "\n" not in scene.description
    assert float((scene.target.vertices.amax(0) - scene.target.vertices.amin(0)).max()) == 1.0


def test_every_shape_has_its_scene():
    assert set(scene_names([SCENES])) >= set(SHAPES) and len(scene_names([SCENES])) >= 6


def test_a_scene_of_ones_own(tmp_path):
    (tmp_path / "m.obj").write_text(TRIANGLE)
    text = 'title = "T"\ndescription = """a\n  b."""\n[target]\nmesh = "m.obj"\nup = "z"\n'
    text += "[fit]\nresolution = 32\nvisibility_ratio = 0.5\n[view]\ndirection = [0, 0, 2]\n"
    scene = load_scene(scene_file(tmp_path, text))
    assert (scene.name, scene.title, scene.description) == ("s", "T", "a b.")
    assert (scene.fit.resolution, scene.fit.visibility_ratio, scene.fit.iterations) == (32, 0.5, FitConfig().iterations)
    assert scene.view.direction == (0.0, 0.0, 2.0)
    assert scene.view.camera().forward_world.tolist() == [0.0, 0.0, -1.0]
    turn = torch.tensor([[2.0, 0, 0], [0, 0, -2], [0, 2, 0]]).double()
    assert torch.allclose(scene.input_from_normalized[:3, :3], turn)


def test_a_mesh_is_a_scene_with_defaults(tmp_path):
    (tmp_path / "m.obj").write_text(TRIANGLE)
    scene = load_scene(tmp_path / "m.obj", overrides={"resolution": 16, "seed": None})
    assert (scene.name, scene.fit) == ("m", FitConfig(resolution=16)) and scene.view == ViewConfig()


def test_overrides_win_over_the_scene(tmp_path):
    path = scene_file(tmp_path, '[target]\nshape = "cloth"\n[fit]\nresolution = 32\niterations = 9\n')
    scene = load_scene(path, overrides={"iterations": 5})
    assert (scene.fit.resolution, scene.fit.iterations) == (32, 5)


HOUSE = '[target]\nshape = "house"\n'
BAD = {
    "no TOML": ("title = ", "not a scene file"),
    "unknown table": (HOUSE + "[fits]\n", r"unknown key 'fits'; allowed are title, description, target, fit, view"),
    "title that is no text": ("title = 3\n" + HOUSE, "title must be a text, got 3"),
    "table that is none": ("fit = 3\n" + HOUSE, r"fit must be a table, \[fit\], got 3"),
    "unknown fit key": (HOUSE + "[fit]\nresolutoin = 3\n",
                        r"\[fit\]: unknown key 'resolutoin'; allowed are .*resolution"),
    "out of range": (HOUSE + "[fit]\nvisibility_ratio = 1.5\n",
                     r"\[fit\]: visibility_ratio must be in \(0, 1\], got 1.5"),
    "below range": (HOUSE + "[fit]\nresolution = 0\n",
                    r"\[fit\]: resolution must be a whole number in \[4, 4096\], got 0"),
    "wrong type": (HOUSE + '[fit]\nresolution = "high"\n', r"\[fit\]: resolution must be .* got 'high'"),
    "no whole number": (HOUSE + "[fit]\niterations = 2.5\n", r"\[fit\]: iterations must be a whole number .* got 2.5"),
    "choice": (HOUSE + '[fit]\ninit = "cube"\n', r"\[fit\]: init must be one of random, sphere, points, got 'cube'"),
    "two settings at odds": (HOUSE + "[fit]\ncut_share = 0.8\nwindow_share = 0.3\n",
                             r"\[fit\]: cut_share \+ window_share"),
    "NaN": (HOUSE + "[fit]\nlr_sdf = nan\n", r"\[fit\]: lr_sdf must be .* got nan"),
    "no target": ("[fit]\n", r"\[target\]: needs either shape or mesh"),
    "both targets": (HOUSE + 'mesh = "m.obj"\n', r"\[target\]: needs either shape or mesh"),
    "unknown shape": ('[target]\nshape = "barn"\n', r"\[target\]: shape must be one of high_genus, .* got 'barn'"),
    "shape that is no text": ("[target]\nshape = 3\n", r"\[target\]: shape must be one of .* got 3"),
    "shape parameter": (HOUSE + "wall = 3\n", r"\[target\]: shape house: wall must be in \[0.02, 0.06\], got 3"),
    "unknown shape parameter": (HOUSE + "up = 'z'\n", r"\[target\]: shape house: unknown key 'up'; allowed are"),
    "no such mesh": ('[target]\nmesh = "none.obj"\n', "none.obj: no such file"),
    "mesh that is no text": ("[target]\nmesh = 3\n", r"\[target\]: mesh must be the path of a file, got 3"),
    "unknown mesh key": ('[target]\nmesh = "none.obj"\nscale = 2\n', r"\[target\]: unknown key 'scale'; .* only up"),
    "unknown view key": (HOUSE + "[view]\nzoom = 3\n", r"\[view\]: unknown key 'zoom'; allowed are direction"),
    "vector": (HOUSE + "[view]\ndirection = [1, 2]\n", r"\[view\]: direction must be three finite .* got \[1, 2\]"),
    "no direction": (HOUSE + "[view]\ndirection = [0, 0, 0.0]\n", r"\[view\]: direction must be .* not all 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_strict(tmp_path, case):
    text, said = BAD[case]
    path = scene_file(tmp_path, text)
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        load_scene(path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match="no scene of that name; scenes are cloth, fails_blind_frustum"):
        load_scene("hause", [SCENES])
    with pytest.raises(FileNotFoundError, match="x.toml: no such file"):
        load_scene(tmp_path / "x.toml")
    (tmp_path / "m.fbx").write_text("x")
    with pytest.raises(ValueError, match=r"unknown type '.fbx'; allowed are .toml \(a scene\), .obj"):
        load_scene(tmp_path / "m.fbx")
    with pytest.raises(ValueError, match="up applies to mesh files, not to a shape; got 'z'"):
        load_scene("house", [SCENES], up="z")


def test_absurd_resolutions_say_the_memory_they_would_take(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^resolution 100000 would take about \d+ TB of memory .* are available"):
        load_scene("house", [SCENES], overrides={"resolution": 100_000})
    path = scene_file(tmp_path, HOUSE + "[fit]\nresolution = 100000\n")
    with pytest.raises(ValueError, match=r"\[fit\]: resolution 100000 would take about"):
        load_scene(path)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1e8)
    with pytest.raises(ValueError, match="resolution 64 would take about .* and 100 MB are available"):
        load_scene("house", [SCENES])
    assert load_scene("house", [SCENES], overrides={"resolution": 16}).fit.resolution == 16


def test_the_estimate_counts_voxels_about_right():
    from sparseflex.voxels import SparseVoxels

    for name in ("house", "cloth", "high_genus"):
        target = load_scene(name, [SCENES]).target
        n_voxels = SparseVoxels.from_mesh(target, 48, 0.25).n_voxels
        estimated = memory.estimated_bytes(target, 48) / (memory.BYTES_PER_VOXEL + memory.BYTES_PER_ACTIVE_VOXEL)
        assert 0.95 < estimated / n_voxels < 1.6


@pytest.mark.parametrize(
    ("n_bytes", "words"), [(12, "12 bytes"), (3.2e9, "3.2 GB"), (5.3e14, "530 TB"), (1e17, "100 PB")]
)
def test_bytes_in_words(n_bytes, words):
    assert memory.in_words(n_bytes) == words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"near": 2.0, "far": 1.0}, r"cameras.json: frames\[0\].*near < far, got near 2.0, far 1.0"),
        ({"eye": (0.0, 0.0, 0.33)}, r"cameras.json: camera 1: an interior camera must .* at \(0, 0, 0.33\)"),
    ],
)
def test_cameras_of_ones_own(tmp_path, change, words):
    """Good ones, ones whose planes are the wrong way round, and ones inside a wall."""
    eye = change.get("eye", (0.0, 0.1, 0.2))
    write_transforms(tmp_path / "cameras.json", [Camera.look_at(eye, (0, 0.1, 1), near=0.01, far=2.0)])
    content = json.loads((tmp_path / "cameras.json").read_text())
    content["frames"][0] |= {key: value for key, value in change.items() if key != "eye"}
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    scene = tmp_path / "own.toml"
    scene.write_text('[target]\nshape = "nested_shells"\n[cameras]\ntransforms = "cameras.json"\n')
    if words is None:
        assert [camera.near for camera in load_scene(scene).cameras] == [0.01]
    else:
        with pytest.raises(ValueError, match=words):
            load_scene(scene)
    wrong = (('transforms = "none.json"', "none.json: can't be read"), ("views = 3", "allowed is transforms"))
    for line, said in wrong:
        scene.write_text(f'[target]\nshape = "cloth"\n[cameras]\n{line}\n')
        with pytest.raises(ValueError, match=said):
            load_scene(scene)
