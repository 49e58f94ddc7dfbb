"""Checkpoints that can't be written or read: one clear error, nothing half-written, and the old file stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fake_run import FakeRun
from safetensors import safe_open
from safetensors.torch import save_file

import sparseflex as sf
from sparseflex.checkpoint import load_run, save_checkpoint
from sparseflex.shapes import solids
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun


def fit_run() -> FitRun:
    vertices, faces = solids.sphere(0.5, 2)
    target = sf.Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(faces))
    return FitRun(target, FitConfig(resolution=8, image_size=16))


def spoil(path: Path, change, changes_tensors: bool = False) -> None:
    """Rewrites a checkpoint with its state, or its tensors, changed in place by a function."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state = json.loads(metadata["state"])
    change(tensors if changes_tensors else state)
    save_file(tensors, path, metadata={**metadata, "state": json.dumps(state)})


def test_a_folder_that_is_none_or_gone_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/c.safetensors can't be written: Not a directory"):
        save_checkpoint(tmp_path / "file" / "c.safetensors", FakeRun(8))
    with pytest.raises(OSError, match="gone/c.safetensors can't be written: No such file"):
        save_checkpoint(tmp_path / "gone" / "c.safetensors", FakeRun(8))
    (tmp_path / "c.safetensors").mkdir()
    with pytest.raises(OSError, match="c.safetensors can't be written: Is a directory"):
        save_checkpoint(tmp_path / "c.safetensors", FakeRun(8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.safetensors", "file"]


def test_a_state_that_cannot_be_held_is_named_and_the_old_file_stays(tmp_path):
    class Odd(FakeRun):
        def state_dict(self):
            return {**super().state_dict(), "deep": [{"thing": object()}]}

    path = tmp_path / "c.safetensors"
    save_checkpoint(path, FakeRun(8))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="state 'deep/0/thing' must be a tensor, .* got object"):
        save_checkpoint(path, Odd(8))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def shorten(name: str):
    def change(tensors):
        tensors[name] = tensors[name][:-1].clone()

    return change


@pytest.mark.parametrize(
    ("change", "of_tensors", "words"),
    [
        (lambda state: state["config"].update(colour=3), False, "unknown key 'colour'; allowed are"),
        (lambda state: state["config"].update(resolution="8"), False, "resolution must be a whole number"),
        (lambda state: state.update(config=3), False, "does not hold a run of this version"),
        (lambda state: state.pop("target"), False, "lacks 'target' in its state"),
        (lambda state: state.update(parameters=[1]), False, "does not hold a run of this version"),
        (shorten("parameters/sdf"), True, "does not hold a run of this version"),
        (shorten("parameters/weights"), True, "does not hold a run of this version"),
        (shorten("generator"), True, "does not hold a run of this version"),
    ],
)
def test_a_checkpoint_of_another_version_is_one_line(tmp_path, change, of_tensors, words):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, fit_run())
    assert load_run(path).iteration == 0
    spoil(path, change, of_tensors)
    with pytest.raises(ValueError, match=words) as error:
        load_run(path)
    assert "\n" not in str(error.value) and "c.safetensors" in str(error.value)
