"""Recordings are read back as they were, in bounded memory; whatever is wrong with a file is one clear line."""

from __future__ import annotations

import json
import random
import resource
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fake_run import FakeRun
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_files import Builder, RunBuilder
from test_fit import octahedron

from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun
from sparseflex.voxels import SparseVoxels
from workbench.cli import main
from workbench.field_copies import FieldCopies, fields_of
from workbench.recording import index as index_module
from workbench.recording import layout
from workbench.recording.field_values import check_size
from workbench.recording.index import Tables
from workbench.recording.reader import Recording
from workbench.snapshot import MeshArrays

META = {"schema": layout.SCHEMA, "version": layout.VERSION, "uid": "0", "name": "test", "title": "a test",
        "stages": ["step"],
        "field_kinds": {"voxels": "voxels", "value": "voxel", "corner": "corner", "mesh": "mesh", "points": "points",
                        "cause": "point", "stage 1/voxels": "voxels", "stage 1/value": "voxel"},
        "settings": {}, "parent": None}
META["streams"] = [*layout.OWN_STREAMS, *META["field_kinds"]]


def keys(*values: int) -> dict:
    return {"keys": np.array(values, np.int32), "resolution": 4}


def numbers(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.fixture(scope="module")
def fake_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = RunBuilder(tmp_path_factory.mktemp("fake") / "run.h5", FakeRun(8))
    builder.iterate(12)
    return builder.close()


def equal(found: object, wanted: object) -> bool:
    if isinstance(wanted, MeshArrays):
        return equal(found.vertices, wanted.vertices) and equal(found.faces, wanted.faces)
    if isinstance(wanted, SparseVoxels):
        return found.resolution == wanted.resolution and torch.equal(found.voxel_ijk, wanted.voxel_ijk)
    return found.dtype == wanted.dtype and np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f")


# -- what is read is what was written ---------------------------------------------------------------------------


def test_every_field_of_every_snapshot_is_the_runs_own(tmp_path: Path) -> None:
    run = FitRun(octahedron(), FitConfig(resolution=8, image_size=16, iterations=9))
    builder = RunBuilder(tmp_path / "run.h5", run, snapshot_every=3, keyframe_every=4)
    copies, seen = FieldCopies(run), {}
    for _ in range(7):
        builder.iterate()
        copies.start(fields_of(run), run.iteration)
        seen[run.iteration] = copies.finish(), dict(run.scalars()), run.cameras()
    with Recording(builder.close()) as recording:
        assert recording.iterations.tolist() == list(range(8)) and recording.keyframes.tolist() == [0, 4]
        history = recording.scalars()
        for iteration, (fields, scalars, cameras) in seen.items():
            found, older = recording.snapshot_fields(fields, iteration)
            dated = iteration - iteration % 3
            assert set(older.values()) <= {dated} and not older.keys() & {"voxels", "active", "trace"}
            assert iteration < 3 or found.keys() == fields.keys()
            for name in found:
                wanted = seen[older[name]][0][name] if older.get(name) else None if name in older else fields[name]
                assert wanted is None or equal(found[name], wanted), (name, iteration)
            row = history.table[iteration - 1]
            assert {name: row[history.names.index(name)] for name in scalars} == scalars
            listed = recording.cameras(iteration).listed
            assert [(c.label, c.loss, c.n_active) for c in listed] == [(c.label, c.loss, c.n_active) for c in cameras]
            assert all(torch.equal(a.camera.camera_from_world, b.camera.camera_from_world)
                       for a, b in zip(listed, cameras, strict=True))
        assert sum(1 for _ in recording.verify()) == recording.n_entries
        assert recording.snapshot_fields(["voxels"], 2)[0]["voxels"] is recording.snapshot_fields(["voxels"], 7)[0][
            "voxels"]


def test_a_value_of_voxels_holds_only_as_long_as_these(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "run.h5", META)
    builder.commit(0, {"voxels": keys(1, 5), "value": numbers(1, 2)})
    builder.commit(1, {})
    builder.commit(2, {"voxels": keys(1, 5, 9)})
    builder.commit(3, {"value": numbers(3, 4, 5)})
    builder.commit(4, {"voxels": keys(1, 5)})
    builder.commit(5, {"voxels": keys(9, 1), "value": numbers(6, 7)})
    with Recording(builder.close()) as recording:
        found = [recording.snapshot_fields(["value"], at) for at in range(6)]
        assert [fields["value"].tolist() if fields else None for fields, _ in found] == [
            [1, 2], [1, 2], None, [3, 4, 5], None, [6, 7]]
        assert [older for _, older in found] == [{}, {"value": 0}, {}, {}, {}, {}]
        assert recording.read("voxels", 5)[0].voxel_ijk.tolist() == [[0, 2, 1], [0, 0, 1]]  # in the order of its rows
        assert recording.read("mesh", 3) is None and recording.read("no such", 3) is None


def test_rows_belong_to_the_voxels_of_their_stage_and_to_the_points(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "run.h5", META)
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    builder.commit(0, {"voxels": keys(1), "value": numbers(1), "stage 1/voxels": keys(1, 5),
                       "stage 1/value": numbers(1, 2), "points": rows, "cause": np.array([3, 4], np.uint8)})
    builder.commit(1, {"voxels": keys(2)})
    builder.commit(2, {"stage 1/voxels": keys(7), "points": rows[:1]})
    builder.commit(3, {"stage 1/value": numbers(8), "cause": np.array([5], np.uint8)})
    with Recording(builder.close()) as recording:
        found = [recording.snapshot_fields(META["field_kinds"], at) for at in range(4)]
        assert [sorted(fields) for fields, _ in found] == [
            ["cause", "points", "stage 1/value", "stage 1/voxels", "value", "voxels"],
            ["cause", "points", "stage 1/value", "stage 1/voxels", "voxels"],
            ["points", "stage 1/voxels", "voxels"], ["cause", "points", "stage 1/value", "stage 1/voxels", "voxels"]]
        assert found[1][0]["stage 1/value"].tolist() == [1, 2] and found[3][0]["cause"].tolist() == [5]
        assert found[1][1] == {"stage 1/value": 0, "cause": 0} and found[3][1] == {}  # points hold until others come
        assert found[0][0]["points"] is found[1][0]["points"] and equal(found[0][0]["points"], rows)
        assert len(list(recording.verify())) == recording.n_entries


def test_a_run_that_went_back_is_read_along_its_last_way(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "run.h5", META)
    for at in range(5):
        builder.commit(at, {"mesh": mesh(at)}, {"iteration": float(at), "loss": float(at)} if at else None)
    builder.commit(4, {"/state": {"n": 40}}, addition=True)
    builder.commit(2, {"mesh": mesh(12)}, {"iteration": 2.0, "loss": 12.0})
    builder.commit(3, {"/state": {"n": 13}}, {"iteration": 3.0, "loss": 13.0})
    builder.commit(3, {"/state": {"n": 14}}, addition=True)
    with Recording(builder.close()) as recording:
        assert recording.iterations.tolist() == [0, 1, 2, 3] and recording.keyframes.tolist() == [3]
        assert recording.scalars().table.tolist() == [[1, 1], [2, 12], [3, 13]]
        assert [recording.read("mesh", at)[0].vertices[0, 0] for at in range(4)] == [0, 1, 12, 12]
        assert recording.keyframe_before(3) == (3, {"n": 14}) and recording.keyframe_before(2) is None
        assert len(list(recording.verify())) == recording.n_entries == 9  # what was replaced is verified, too


def test_a_mesh_that_did_not_change_is_as_new_as_its_snapshot(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "run.h5", META)
    corners = np.zeros(16, np.float32)
    builder.commit(0, {"voxels": keys(1, 7), "corner": corners, "mesh": mesh(1)})
    for at in range(1, 9):
        builder.commit(at, {"corner": corners + at} if at % 4 == 0 else {})
    with Recording(builder.close()) as recording:
        dates = [recording.snapshot_fields(["mesh", "corner"], at)[1] for at in (0, 3, 4, 7)]
        assert dates == [{}, {"mesh": 0, "corner": 0}, {}, {"mesh": 4, "corner": 4}]


def mesh(x: float) -> dict:
    return {"vertices": np.full((3, 3), x, np.float32), "faces": np.array([[0, 1, 2]], np.int32)}


def test_what_is_written_meanwhile_is_taken_in(tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path / "run.h5", FakeRun(6))
    with Recording(builder.path) as recording:
        assert recording.iterations.tolist() == [0] and not recording.refresh()
        before = recording.scalars()
        builder.iterate(7)
        assert recording.iterations.tolist() == [0] and recording.refresh()
        assert recording.iterations.tolist() == list(range(8)) and recording.scalars().n_rows == 7
        assert before.n_rows == 0 and recording.snapshot_fields(["gamma"], 7)[1] == {"gamma": 5}
        builder.close()
        assert not recording.refresh()


def test_a_commit_ahead_of_what_it_counts_waits(fake_file: Path, tmp_path: Path) -> None:
    """As a reader may see it while it is written: rows of zeros, or counts that nothing has reached."""
    for spoil in (lambda row: row.fill(0), lambda row: row.__setitem__("n_payload", 1 << 40),
                  lambda row: row.__setitem__("n_entries", int(row["n_entries"][0]) + 10)):
        path = spoiled(fake_file, tmp_path / "a.h5", lambda file, spoil=spoil: change_rows(file, "commits", -1, spoil))
        with Recording(path) as recording:
            assert recording.iterations[-1] == 11


def test_memory_stays_within_its_bound(fake_file: Path) -> None:
    names = ("mesh", "corner_sdf", "rendered_depth")
    with Recording(fake_file, cache_bytes=120_000) as recording:
        wanted = [recording.snapshot_fields(names, at)[0] for at in range(13)]
        for _ in range(3):
            for at in random.sample(range(13), 13):
                found = recording.snapshot_fields(names, at)[0]
                assert all(equal(found[name], wanted[at][name]) for name in found)
                assert recording.n_cached_bytes <= 120_000
    with Recording(fake_file, cache_bytes=0) as recording:
        assert equal(recording.snapshot_fields(names, 7)[0]["mesh"], wanted[7]["mesh"]) and not recording.n_cached_bytes


def test_the_index_of_many_entries_is_numpys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow twin: commits replayed one by one."""
    random_state = random.Random(3)
    builder, standing = Builder(tmp_path / "run.h5", META), []
    at = 0
    for _ in range(80):
        if standing and random_state.random() < 0.2:
            builder.commit(at, {"mesh": mesh(99)}, addition=True)
            standing.append((at, 99.0, True))
            continue
        at = max(at + (1 if random_state.random() < 0.8 else -random_state.randrange(6)), 0) if standing else 0
        standing = [known for known in standing if known[0] < at] + [(at, float(len(standing)), False)]
        builder.commit(at, {"mesh": mesh(standing[-1][1])}, {"iteration": float(at)})
    with Recording(builder.close()) as recording:
        assert recording.iterations.tolist() == [known for known, _, added in standing if not added]
        for wanted in recording.iterations.tolist():
            last = [value for known, value, _ in standing if known <= wanted][-1]
            assert recording.read("mesh", wanted)[0].vertices[0, 0] == last


def test_prune_events_settings_and_marks(tmp_path: Path) -> None:
    config = FitConfig(resolution=16, start_resolution=8, image_size=16, iterations=12, prune_every=2)
    run = FitRun(octahedron(), config)
    builder = RunBuilder(tmp_path / "run.h5", run, snapshot_every=4)
    builder.iterate(10)
    with Recording(builder.close()) as recording:
        found = recording.read("prune", 10)
        assert run.prune_events and found is not None
        for event, wanted in zip(found[0], run.prune_events, strict=True):
            assert (event.iteration, event.level, event.n_kept, event.subdivided) == (
                wanted.iteration, wanted.level, wanted.n_kept, wanted.subdivided)
            assert torch.equal(event.pruned.voxel_ijk, wanted.pruned.voxel_ijk)
            assert torch.equal(event.pruned_reason, wanted.pruned_reason)
        marks = recording.marks()["prunings"].tolist()
        assert set(marks) == {event.iteration for event in run.prune_events}
        assert recording.settings(10).keys() == run.settings.keys()
        for at in range(11):
            recording.snapshot_fields(fields_of(run), at)


# -- what is wrong with a file ----------------------------------------------------------------------------------


def spoiled(source: Path, target: Path, spoil: Callable[[h5py.File], None]) -> Path:
    """A copy of a recording with something of it changed, by a writer that isn't in SWMR mode."""
    shutil.copy(source, target)
    with h5py.File(target, "r+", libver="latest") as file:
        spoil(file)
    return target


def change_rows(file: h5py.File, name: str, row: int, change: Callable) -> None:
    rows = file[name][:]
    part = rows[row : row + 1 or None]
    change(part)
    rows[row : row + 1 or None] = part
    file[name][:] = rows


def use(path: Path) -> None:
    """All that a window does with a recording."""
    with Recording(path, cache_bytes=1e7) as recording:
        recording.scalars(), recording.marks()
        for at in (int(recording.iterations[0]), int(recording.iterations[-1])):
            recording.snapshot_fields(recording.meta.field_kinds, at)
            recording.cameras(at), recording.settings(at), recording.keyframe_before(at)
        for _ in recording.verify():
            pass


def replace_meta(**changes: object) -> Callable[[h5py.File], None]:
    def spoil(file: h5py.File) -> None:
        file.attrs["meta"] = json.dumps({**json.loads(file.attrs["meta"]), **changes})

    return spoil


def remade(name: str, make: Callable[[h5py.File], None]) -> Callable[[h5py.File], None]:
    def spoil(file: h5py.File) -> None:
        del file[name]
        make(file)

    return spoil


def virtual(file: h5py.File) -> None:
    sources = h5py.VirtualLayout((8,), np.uint8)
    sources[:] = h5py.VirtualSource("/etc/passwd", "x", (8,))
    file.create_virtual_dataset("payload", sources)


HOSTILE = {
    "no meta": lambda file: file.attrs.__delitem__("meta"),
    "meta is no text": lambda file: file.attrs.__setitem__("meta", np.arange(5)),
    "meta is no JSON": lambda file: file.attrs.__setitem__("meta", "{" * 9),
    "a bomb in meta": lambda file: file.attrs.__setitem__("meta", "[" * 60_000),
    "another schema": replace_meta(schema="other"),
    "a later version": replace_meta(version=2),
    "streams twice": replace_meta(streams=["a", "a"]),
    "kinds of nothing": replace_meta(field_kinds={"voxels": "code"}),
    "stages of numbers": replace_meta(stages=[1]),
    "payload elsewhere": remade("payload", lambda file: file.__setitem__(
        "payload", h5py.ExternalLink("/etc/passwd", "x"))),
    "payload by a soft link": remade("payload", lambda file: file.__setitem__("payload", h5py.SoftLink("/entries"))),
    "payload is virtual": remade("payload", virtual),
    "payload is external": remade("payload", lambda file: file.create_dataset(
        "payload", (8,), "u1", external=[("/etc/passwd", 0, 8)])),
    "payload is huge": lambda file: file["payload"].resize(1 << 45, 0),
    "payload is compressed": remade("payload", lambda file: file.create_dataset(
        "payload", data=np.zeros(1 << 22, np.uint8), compression="gzip", maxshape=(None,))),
    "payload is a group": remade("payload", lambda file: file.create_group("payload")),
    "entries are numbers": remade("entries", lambda file: file.create_dataset("entries", (9,), "f8", chunks=(9,))),
    "entries are huge": lambda file: file["entries"].resize(1 << 40, 0),
    "chunks are huge": remade("scalars", lambda file: file.create_dataset(
        "scalars", (0, 4), "f8", maxshape=(None, 4), chunks=(1 << 24, 4))),
    "scalars have no names": lambda file: file["scalar_names"].__setitem__(slice(None), b"x"),
    "no commits": lambda file: file["commits"].resize(0, 0),
    "commits that shrink": lambda file: change_rows(file, "commits", 2, lambda row: row.fill(0)),
    "an addition to nothing": lambda file: change_rows(file, "commits", 0, lambda row: row.__setitem__("addition", 1)),
    "an iteration below 0": lambda file: change_rows(file, "commits", 0, lambda row: row.__setitem__("iteration", -4)),
    "a stream that isn't": lambda file: change_rows(file, "entries", 0, lambda row: row.__setitem__("stream", 99)),
    "an entry beyond": lambda file: change_rows(file, "entries", 0, lambda row: row.__setitem__("start", 1 << 62)),
    "an entry without end": lambda file: change_rows(file, "entries", 0, lambda row: row.__setitem__(
        "n_bytes", (1 << 63) - 1)),
    "another checksum": lambda file: change_rows(file, "entries", 3, lambda row: row.__setitem__("crc", 7)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_one_line(what: str, fake_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(index_module, "_TAIL", 1)  # so few commits are all among the last ones
    path = spoiled(fake_file, tmp_path / "bad.h5", HOSTILE[what])
    with pytest.raises(ValueError) as caught:
        use(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value) and len(str(caught.value)) < 600
    assert main(["replay", str(path), "--headless"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("workbench: ")]
    assert len(lines) == 1 and str(path) in lines[0]


@pytest.mark.parametrize("header", [
    b"", b"nonsense", b"[" * 5_000 + b"]" * 5_000, b"[1," * 40 + b"1" + b"]" * 40, b"[" + b"1," * 1_500_000 + b"1]",
    b'{"array":["<f4",[1000000000000],"zip",0,10,0]}', b'{"array":["<f4",[4,-1],"raw",0,10,0]}',
    b'{"array":["|O8",[4],"raw",0,32,0]}', b'{"array":["<f4",[1e9],"raw",0,32,0]}', b'{"eval":"1"}',
    b'{"array":["<f4",[4],"raw",1000000000000000000,16,0]}', b'{"map":{"vertices":1,"faces":2}}',
    b'{"array":["|b1",[30000000000],"bits",0,10,0]}', b'"' + b"9" * 100 + b'"', b"1" * 5_000, b"1e999", b"NaN",
])
def test_a_hostile_header_is_one_line(header: bytes, tmp_path: Path) -> None:
    builder = Builder(tmp_path / "run.h5", META)
    builder.commit(0, {"voxels": keys(1, 5), "mesh": mesh(1)})
    builder.close()

    def spoil(file: h5py.File) -> None:
        start = file["payload"].shape[0]
        file["payload"].resize(start + len(header), 0)
        file["payload"][start:] = np.frombuffer(header, np.uint8)
        rows = file["entries"][:]
        rows[1] = (0, META["streams"].index("mesh"), zlib.crc32(header), start, max(len(header), 1))
        file["entries"][:] = rows
        commits = file["commits"][:]
        commits["n_payload"] = start + max(len(header), 1) - (not header)
        file["commits"][:] = commits

    path = spoiled(builder.path, tmp_path / "bad.h5", spoil)
    with pytest.raises(ValueError) as caught:
        use(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


WRONG_VALUES = {
    "voxels": [5, {"keys": [1]}, {"keys": np.array([1, 1], np.int32), "resolution": 4},
               {"keys": np.array([-1], np.int32), "resolution": 4}, {"keys": np.array([64], np.int32), "resolution": 4},
               {"keys": np.array([1], np.int32), "resolution": 1 << 40}, {"keys": numbers(1), "resolution": 4}],
    "value": [numbers(1), numbers(1, 2, 3), "text", np.zeros((2, 2, 2), np.float32), {"a": 1}],
    "corner": [numbers(1, 2), 7],
    "stage 1/value": [numbers(1, 2), numbers(1)], "points": [numbers(1, 2, 3), np.zeros((2, 2), np.float32), 7],
    "cause": [numbers(1), np.zeros((1, 1, 1), np.float32)],
    "mesh": [{"vertices": np.zeros((2, 3), np.float32), "faces": np.array([[0, 1, 2]], np.int32)},
             {"vertices": np.zeros((2, 3), np.float32), "faces": np.array([[-1, 1, 0]], np.int32)},
             {"vertices": np.zeros((6,), np.float32), "faces": np.array([[0, 1, 0]], np.int32)}, numbers(1), [mesh(1)]],
    "/cameras": [7, {"pool": numbers(1)}, {"pool": np.zeros((1, 21)), "listed": np.zeros((0, 6)), "kinds": [],
                                           "own": [0], "kept": [], "locked": False}],
    "/changes": [7, [{"iteration": 0, "n_stages": 0, "setting": "a"}], [{"iteration": -1, "n_stages": 0}]],
    "/state": [{"$": "pickle", "array": numbers(1)}, {"$": "set", "items": [[1]]}],
}


@pytest.mark.parametrize(("stream", "number"), [(name, k) for name, values in WRONG_VALUES.items()
                                                for k in range(len(values))])
def test_a_value_of_the_wrong_kind_is_one_line(stream: str, number: int, tmp_path: Path) -> None:
    builder = Builder(tmp_path / "run.h5", META)
    builder.commit(0, {"voxels": keys(1, 5)})
    builder.commit(1, {stream: WRONG_VALUES[stream][number]})
    with pytest.raises(ValueError) as caught:
        use(builder.close())
    assert "\n" not in str(caught.value) and stream.strip("/") in str(caught.value)


def test_nothing_large_is_made_of_little() -> None:
    """A thousand names for the same zeros, which would be a terabyte."""
    place = b'{"array":["<f4",[250000000],"zip",0,1000000,0]}'
    with pytest.raises(ValueError, match="a value must have at most"):
        check_size(b"[" + b",".join([place] * 1000) + b"]")


def test_flipped_bytes_and_cut_files_are_told_or_harmless(fake_file: Path, tmp_path: Path) -> None:
    """200 files, each with some bytes flipped, overwritten, or its end cut off: read, or refused by one line."""
    random_state, whole, path = random.Random(11), fake_file.read_bytes(), tmp_path / "bad.h5"
    peak, told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number in range(200):
        data = bytearray(whole)
        # half of them where HDF5 keeps what it needs, the rest anywhere
        reach = 8192 if number % 2 else len(data)
        for _ in range(random_state.choice((1, 1, 4, 64))):
            data[random_state.randrange(reach)] ^= 1 << random_state.randrange(8)
        if number % 10 == 0:
            del data[random_state.randrange(len(data)) :]
        if number % 10 == 5:
            start = random_state.randrange(len(data))
            data[start : start + 4096] = random_state.randbytes(4096)
        path.write_bytes(data)
        try:
            use(path)
        except ValueError as error:
            told += 1
            assert "\n" not in str(error) and len(str(error)) < 600
    assert told > 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000  # kilobytes


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=4096))
def test_any_bytes_are_no_recording(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "x.h5"
    for content in (data, b"\x89HDF\r\n\x1a\n\x03" + data):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no recording"):
            Tables(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.h5", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such recording"):
            Recording(path)
