"""An inference run recorded, read back stage by stage, gone back in, branched off, saved and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_branch import record
from test_engine import StartEngine, ask, at_rest, start  # noqa: F401 - start is a fixture
from test_reconstruct_run import same_fields, same_scalars

from sparseflex.checkpoint import load_run, save_checkpoint
from sparseflex.training.reconstruct import ReconstructRun
from workbench.branch import branch_off
from workbench.commands import ChangeSetting, GoTo, NextIteration, RunTo
from workbench.export import write_voxels
from workbench.field_copies import FieldCopies, fields_of
from workbench.moment import of_recording
from workbench.recording.policy import About, RecordPolicy, policy_of
from workbench.recording.reader import Recording
from workbench.recording.recorder import recording_into
from workbench.snapshot import MeshArrays

pytest_plugins = ("reconstruct_fixtures",)

CHANGES = (  # (passes ended, stages of the next one that have run, change)
    (0, 0, ChangeSetting("attended_voxel", 14926)),  # one of the voxels of `few`, at 32³
    (1, 0, ChangeSetting("threshold_2", 0.2)),
    (2, 0, ChangeSetting("threshold_1", 0.3)),
    (2, 5, ChangeSetting("noise", 0.3)),
    (3, 0, ChangeSetting("prune", 0)),
)
N_PASSES = 4


def copies(run: ReconstructRun) -> dict[str, Any]:
    """All fields as a window has them."""
    found = FieldCopies(run)
    found.start(fields_of(run), 1)
    return dict(found.finish())


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, MeshArrays):
        return same(found.vertices, wanted.vertices) and same(found.faces, wanted.faces)
    if isinstance(wanted, np.ndarray):
        return found.dtype == wanted.dtype and np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f")
    if isinstance(wanted, tuple):
        return len(found) == len(wanted) and all(
            same(a, b) for one, other in zip(found, wanted, strict=True)
            for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    if isinstance(wanted, torch.Tensor):
        return torch.equal(found, wanted)
    if hasattr(wanted, "voxel_ijk"):
        return torch.equal(found.voxel_ijk, wanted.voxel_ijk) and found.resolution == wanted.resolution
    return found == wanted


def step(run: ReconstructRun, n_passes: int) -> None:
    """The passes with their changes, as they were recorded."""
    while run.iteration < n_passes:
        for number, stage in enumerate(run.stages):
            for at, n_stages, change in CHANGES:
                if (at, n_stages) == (run.iteration, number):
                    run.change_setting(change.name, change.value)
            run.run_stage(stage)


@pytest.fixture(scope="module")
def recorded(model, few, weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = ReconstructRun(model, *few, checkpoint=weights)
    return record(tmp_path_factory.mktemp("recorded") / "run.h5", run, N_PASSES, CHANGES, policy=None)


def test_every_field_of_every_pass_is_read_back(recorded, make_run, weights) -> None:
    run = make_run(checkpoint=weights)
    with Recording(recorded) as recording:
        assert sum(1 for _ in recording.verify()) == recording.n_entries
        assert recording.iterations.tolist() == recording.keyframes.tolist() == list(range(N_PASSES + 1))
        assert recording.meta.field_kinds == dict(fields_of(run))
        seen = set()
        for iteration in range(1, N_PASSES + 1):
            step(run, iteration)
            wanted = copies(run)
            found, older = recording.snapshot_fields(run.fields, iteration)
            assert not older and found.keys() == wanted.keys()
            for name in wanted:
                assert same(found[name], wanted[name]), (iteration, name)
            seen |= wanted.keys()
        assert seen == set(run.fields) and any("/" in name for name in seen)
        # what is on the same voxels is one object, so that nothing is drawn anew between stages
        assert found["encoder 1/voxels"] is found["trunk 2/voxels"] is found["voxels/voxels"]
        assert [event.iteration for event in found["prune"]] == [N_PASSES, N_PASSES]
        history = recording.scalars()
        assert history.column("kept_1")[-1] == run.scalars()["kept_1"]
        assert {name: setting.value for name, setting in recording.settings(N_PASSES).items()} == {
            name: setting.value for name, setting in run.settings.items()}


@pytest.mark.parametrize("iteration", [1, 3])
def test_a_branch_goes_on_bit_for_bit(recorded, make_run, weights, iteration) -> None:
    straight = make_run(checkpoint=weights)
    step(straight, N_PASSES)
    with Recording(recorded) as recording:
        branched = branch_off(recording, iteration, device="cpu")
        assert branched.iteration == iteration and branched.name == "reconstruct"
        step(branched, N_PASSES)
        same_fields(branched, straight)
        same_scalars(branched, straight)


def test_the_engine_goes_back_and_takes_another_way(
    start: StartEngine, make_run, weights, tmp_path  # noqa: F811
) -> None:
    run = make_run(checkpoint=weights)
    engine = start(run, record=recording_into(tmp_path, About()))
    names = tuple(run.fields)
    for iteration, threshold in enumerate((0.0, 0.2, 0.4), start=1):
        engine.send(ChangeSetting("threshold_2", threshold))
        engine.send(NextIteration())
        at_rest(engine, iteration, "points")
    last = ask(engine, *names).fields
    engine.send(GoTo(1))
    at_rest(engine, 1, "points")
    first = ask(engine, *names)
    wanted = make_run()
    wanted.run_pass()
    for name, value in copies(wanted).items():
        assert same(first.fields[name], value), name
    assert first.scalars["kept_2"] == wanted.scalars()["kept_2"] and first.history.n_rows == 1
    engine.send(RunTo(3))
    at_rest(engine, 3, "points")
    again = ask(engine, *names).fields
    assert last.keys() == again.keys() and all(same(again[name], last[name]) for name in last)
    engine.send(GoTo(2))
    at_rest(engine, 2, "points")
    engine.send(ChangeSetting("threshold_1", 0.3))
    engine.send(NextIteration())
    at_rest(engine, 3, "points")
    other = ask(engine, *names).fields
    assert engine.stop()
    with Recording(tmp_path / "run.h5") as recording:
        assert recording.iterations.tolist() == [0, 1, 2, 3]
        for iteration, shown in ((1, first.fields), (3, other)):
            found, _ = recording.snapshot_fields(names, iteration)
            assert found.keys() == shown.keys() and all(same(found[name], shown[name]) for name in shown)
        assert np.isfinite(recording.scalars().column("secs_point features")).all()


def test_a_branch_without_its_weights_is_one_line(recorded, monkeypatch) -> None:
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: path.suffix != ".safetensors")
    with Recording(recorded) as recording, pytest.raises(ValueError, match="the weights of this run are missing"):
        branch_off(recording, 2, device="cpu")


def test_a_checkpoint_opens(make_run, weights, tmp_path) -> None:
    run = make_run(checkpoint=weights)
    step(run, 3)
    save_checkpoint(tmp_path / "checkpoint.safetensors", run)
    assert (tmp_path / "checkpoint.safetensors").stat().st_size < 300_000  # no weights in it
    again = load_run(tmp_path / "checkpoint.safetensors")
    assert isinstance(again, ReconstructRun) and again.iteration == 3
    same_fields(run, again)
    same_scalars(run, again)


@pytest.mark.parametrize("change", [
    {"settings": None}, {"settings": {"prune": 7}}, {"settings": {"alpha": 1}}, {"ran": [1]}, {"input": {}},
    {"input": {"points": torch.zeros(2, 2), "normals": torch.zeros(2, 2)}}, {"config": {"resolution": 1 << 40}},
    {"config": {"nothing": 1}}, {"weights": {"path": "x"}}, {"weights": {"path": "/dev/zero", "sha256": "0"}},
    {"iteration": "many"}, {"history": {"names": ["a"], "rows": torch.zeros(1, 3)}},
])
def test_a_checkpoint_that_was_tampered_with_is_one_line(make_run, weights, tmp_path, change) -> None:
    run = make_run(checkpoint=weights)
    state = run.state_dict()
    run.state_dict = lambda: {**state, **change}
    save_checkpoint(tmp_path / "checkpoint.safetensors", run)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors ") as caught:
        load_run(tmp_path / "checkpoint.safetensors")
    assert "\n" not in str(caught.value)


def test_an_export_has_the_final_surface_s_fields_alone(recorded, tmp_path) -> None:
    with Recording(recorded) as recording:
        moment = of_recording(recording, 2)
        write_voxels(moment, tmp_path / "voxels.npz")
        with np.load(tmp_path / "voxels.npz") as file:
            assert {"alpha", "corner_sdf", "occupancy_logit", "voxel_ijk"} <= set(file)
            assert not any("/" in name for name in file) and len(file["alpha"]) == len(file["voxel_ijk"])


def test_its_policy_records_every_pass(make_run) -> None:
    policy = policy_of(make_run(), limit_bytes=1e6)
    assert (policy.snapshot_every, policy.maps_every, policy.keyframe_every, policy.limit_bytes) == (1, 1, 1, 1e6)
    assert policy_of(object()) == RecordPolicy()
