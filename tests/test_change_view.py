"""Changes in the window and by `workbench diff`: stops, kept states, recordings, the panel, the lists."""

from __future__ import annotations

import csv
import dataclasses
import gc
import json
import re
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from change_states import edge_set, ijk_of, random_state, shell, state_of
from fake_inference import FakeInference
from fake_run import FakeRun
from fake_ui import FakeUi
from fit_snapshots import small_fit, snapshot_of, with_fields
from recording_files import RunBuilder

from sparseflex.training.fit import FitRun
from sparseflex.voxels import SparseVoxels
from workbench import actions, cli, products
from workbench.change_report import summary, write_lists
from workbench.change_state import COMPARED, FIELDS, State
from workbench.change_view import BEFORE, FORGET_BYTES, ITERATION, KEPT_STATE, LABELS, MAX_THRESHOLD, PANEL
from workbench.changes import CHANGED, PARTS, compare
from workbench.commands import ChangeSetting, NextIteration, RunIterations
from workbench.look_up import LookUpFields
from workbench.network_view import Picked
from workbench.panels import changes as panel
from workbench.recording.reader import Recording
from workbench.snapshot import Snapshot
from workbench.source import Replay
from workbench.view_state import ViewState

pytest_plugins = ("change_states",)

WAIT_SECS = 60.0


# The view: stops, what is kept, recordings, passes of an inference


@pytest.fixture(scope="module")
def steps() -> list[Snapshot]:
    """A fit at rest after iterations 2, 3 and 4."""
    fit = small_fit(visibility_ratio=0.4)
    return [snapshot_of(fit, RunIterations(2) if n == 2 else NextIteration(), iteration=n) for n in (2, 3, 4)]


def test_a_step_is_compared_with_the_stop_before_it(view: ViewState, steps: list[Snapshot]) -> None:
    own = view.changes
    own.threshold = float("nan")  # of a preferences file that was tampered with
    own.update(view, steps[0])
    assert own.threshold == 0.01
    assert own.found is None and "what a step changes" in own.note and own.b.label == "iteration 2"
    own.update(view, steps[1])
    assert (own.a.label, own.b.label) == ("iteration 2", "iteration 3") and own.note == ""
    assert own.found.n_corners_of[CHANGED] > 0
    once = own.found
    own.update(view, steps[1])
    assert own.found is once  # nothing new, nothing done
    moving = dataclasses.replace(steps[2], playing=True)
    own.update(view, moving)
    assert (own.a.label, own.b.label) == ("iteration 3", "iteration 4")
    own.update(view, steps[2])
    assert (own.a.label, own.b.label) == ("iteration 3", "iteration 4")
    own.update(view, steps[0])  # stepped back
    assert (own.a.label, own.b.label) == ("iteration 4", "iteration 2")


def test_a_kept_state_stays_until_it_is_dropped(view: ViewState, steps: list[Snapshot]) -> None:
    own = view.changes
    own.update(view, steps[0])
    own.keep()
    own.update(view, steps[1])
    own.update(view, steps[2])
    assert own.mode == KEPT_STATE and own.found.a.iteration == 2 and own.found.b.iteration == 4
    assert own.n_bytes >= own.kept.n_bytes > 10_000
    view.tabs["left"] = "Layers"
    own.update(view, steps[2])
    assert own.in_scene(view) is own.found  # kept on purpose: it stays in the scene
    view.what_ifs.shown, view.what_ifs.difference = True, object()
    assert own.in_scene(view) is None
    view.what_ifs.shown = False
    own.drop()
    own.update(view, steps[2])
    assert own.found is None and own.mode == BEFORE and not own.wants(view)
    assert own.scene_fields(view, steps[2]) == set()
    view.tabs["left"] = PANEL
    own.update(view, steps[2])
    assert own.found.a.iteration == 3  # stops are remembered where they are small
    view.forget_found()
    assert own.found is None and own.n_bytes == 0


def test_large_stops_are_let_go_where_nobody_looks(view: ViewState, steps: list[Snapshot],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    assert FORGET_BYTES > 1e6
    monkeypatch.setattr("workbench.change_view.FORGET_BYTES", 0)
    own = view.changes
    own.update(view, steps[0])
    view.tabs["left"] = "Layers"
    own.update(view, steps[0])
    assert own.n_bytes == 0


def test_nothing_of_what_was_found_is_kept_where_nobody_looks(view: ViewState, steps: list[Snapshot], tmp_path: Path
                                                              ) -> None:
    own, view.checkpoint_path = view.changes, tmp_path / "checkpoint.safetensors"
    for snapshot in steps[:2]:
        own.update(view, snapshot)
    panel.draw(FakeUi({"Export the lists (.csv)": True}), view, steps[1])  # its list is worked out, and written
    view.worker.wait_for("changes' lists", WAIT_SECS)
    assert own.said(view).startswith("exported")
    found = weakref.ref(own.found)
    view.tabs["left"] = "Layers"
    own.update(view, steps[1])
    gc.collect()
    assert found() is None


def test_what_can_not_be_compared_says_so_as_long_as_it_is_there(view: ViewState, steps: list[Snapshot]) -> None:
    own, spoiled = view.changes, with_fields(steps[2], corner_sdf=np.zeros(3, np.float32))
    own.update(view, steps[0])
    for _ in range(2):
        own.update(view, spoiled)
        assert own.found is None and own.note.startswith("corner_sdf must have shape")
    own.keep()
    for snapshot in (spoiled, steps[1]):  # nothing differs from itself; the next stop can't be compared with it
        own.update(view, snapshot)
        own.update(view, snapshot)
        assert own.found is None and own.note.startswith("corner_sdf must have shape")
    own.drop()
    own._stops.clear()
    own.update(view, steps[0])
    own.update(view, steps[1])
    assert own.found is not None and own.note == ""


def test_fields_are_asked_for_only_where_somebody_looks(view: ViewState, steps: list[Snapshot]) -> None:
    assert view.changes.scene_fields(view, steps[0]) == {"voxels", *FIELDS}
    other = dataclasses.replace(steps[0], field_kinds={**steps[0].field_kinds, "alpha": "map"})
    assert view.changes.scene_fields(view, other) == {"voxels", *FIELDS} - {"alpha"}
    large = dataclasses.replace(steps[0], playing=True, scalars={"voxels": 1e6})
    assert view.changes.scene_fields(view, large) == set()
    view.tabs["left"] = "Layers"
    assert view.changes.scene_fields(view, steps[0]) == set()


def test_faces_come_for_the_scene(view: ViewState, steps: list[Snapshot]) -> None:
    own = view.changes
    own.update(view, steps[0])
    own.update(view, steps[2])
    found = own.found
    assert len(found.gained) + len(found.lost) > 0
    assert len(own.faces["gained"].faces) == 2 * len(found.gained)
    assert len(own.faces["lost"].faces) == 2 * len(found.lost)
    own.shown = False
    own.update(view, steps[2])
    assert own.faces == {} and own.in_scene(view) is None


def test_the_worker_compares_in_the_background(view: ViewState, steps: list[Snapshot]) -> None:
    view.frustum.background = True
    own = view.changes
    own.update(view, steps[0])
    own.update(view, steps[1])
    assert own.found is None and own.waiting
    view.worker.wait_for("changes", WAIT_SECS)
    own.update(view, steps[1])
    assert own.found.b.iteration == 3 and not own.waiting
    view.worker.wait_for("changes' faces", WAIT_SECS)
    own.update(view, steps[1])
    assert set(own.faces) == {"gained", "lost", "turned"}
    spoiled = with_fields(steps[2], corner_sdf=np.zeros(3, np.float32))
    own.update(view, spoiled)
    view.worker.wait_for("changes", WAIT_SECS)
    own.update(view, spoiled)
    assert own.found is None and "corner_sdf must have shape" in own.note
    view.tabs["left"] = "Layers"
    own.update(view, spoiled)
    assert view.worker.result("changes") is None  # it holds both states


def test_a_recording_gives_any_two_iterations(view: ViewState, tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path / "run.h5", small_fit(iterations=8, resolution=8, image_size=16), snapshot_every=2)
    builder.iterate(8)
    replay, own = Replay(Recording(builder.close())), view.changes
    replay.start()
    try:
        shown = _shown(replay, view)
        for mode, iteration, expected in ((BEFORE, 0, 6), (ITERATION, 3, 2), (ITERATION, 0, 0)):
            own.mode, own.iteration = mode, iteration
            n = own.n_found
            commands = own.requests(shown)
            assert [type(command) for command in commands] == [LookUpFields] and own.requests(shown) == []
            replay.send(commands[0])
            _wait(lambda n=n: own.n_found > n)
            own.update(view, shown)
            assert own.found.a.iteration == expected and own.found.b.iteration == 8 and own.note == ""
            assert own.a.label == {6: "iteration 6", 2: "iteration 3, fields of 2", 0: "iteration 0"}[expected]
            if mode == BEFORE:  # the slider begins at what A was
                panel.draw(FakeUi({"Iteration": True}), view, shown)
                assert (own.mode, own.iteration) == (ITERATION, 6)
        assert replay.snapshots.latest().iteration == 8  # nothing that is shown has moved
        own.keep()
        assert own.requests(shown) == []
        own.mode, own.iteration = ITERATION, -5
        own.update(view, shown)
        assert own.found is None and "first that is recorded" in own.note and own.requests(shown) == []
        ui = FakeUi()
        own.iteration = 4
        assert [type(command) for command in panel.draw(ui, view, shown)] == [LookUpFields]
        assert ui.says("Iteration") and ui.says("after: iteration 8")
    finally:
        assert replay.stop()


def _shown(replay: Replay, view: ViewState) -> Snapshot:
    from workbench.commands import RequestFields

    names = frozenset({"voxels", *FIELDS})
    replay.send(RequestFields(names))
    shown = replay.snapshots.wait_for(lambda s: names <= set(s.fields), WAIT_SECS)
    view.changes.update(view, shown)
    return shown


def _wait(done: object) -> None:
    limit = time.monotonic() + WAIT_SECS
    while not done() and time.monotonic() < limit:
        time.sleep(0.005)
    assert done()


def test_what_a_threshold_costs_an_inference(view: ViewState) -> None:
    run = FakeInference(8, 300)
    first = snapshot_of(run, NextIteration(), iteration=1)
    second = snapshot_of(run, ChangeSetting("threshold_2", 1.0), NextIteration(), iteration=2)
    own = view.changes
    for snapshot in (first, second):
        own.update(view, products.seen(snapshot))
    assert (own.a.label, own.b.label) == ("pass 1", "pass 2")
    gone = {tuple(v) for v in first.fields["voxels"].voxel_ijk.tolist()} - {
        tuple(v) for v in second.fields["voxels"].voxel_ijk.tolist()}
    assert gone and ijk_of(own.found, "pruned") == gone and len(own.found.born) == 0
    assert len(own.found.lost) > 0 and own.found.n_lost_by_sign == 0
    own.update(view, products.seen(second, "prune 2"))
    assert own.found is None and own.b.label == "pass 2, prune 2"  # of that stage nothing was seen before
    own.update(view, products.seen(first, "prune 2"))
    assert ijk_of(own.found, "born") == gone
    before_any = products.seen(second, "points")
    own.update(view, before_any)
    assert own.found is None and own.b is None
    ui = FakeUi()
    assert panel.draw(ui, view, before_any) == [] and ui.says("no voxels here")


def test_a_run_without_delta_or_corners(view: ViewState) -> None:
    first, second = (snapshot_of(FakeRun(8), RunIterations(n), iteration=n) for n in (1, 5))
    ui = FakeUi()
    for snapshot in (first, second):
        view.changes.update(view, snapshot)
    panel.draw(ui, view, second)
    assert view.changes.found.d_deform is None and ui.says("no δ") and ui.says("now inside")
    bare = [with_fields(snapshot, corner_sdf=None) for snapshot in (first, second)]
    view.changes.clear()
    for snapshot in bare:
        view.changes.update(view, snapshot)
    ui = FakeUi()
    panel.draw(ui, view, bare[1])
    assert ui.says("There is no SDF to compare")
    ui = FakeUi()
    assert panel.draw(ui, view, Snapshot()) == [] and ui.says("no voxels")


# The panel


def test_the_panel_tells_what_changed(view: ViewState, steps: list[Snapshot]) -> None:
    view.changes.update(view, steps[0])
    ui = FakeUi()
    assert panel.draw(ui, view, steps[0]) == [] and ui.says("what a step changes") and ui.says("before: –")
    view.changes.update(view, steps[1])
    ui, found = FakeUi(), view.changes.found
    panel.draw(ui, view, steps[1])
    counts = found.counts(view.changes.threshold)
    for number in (*(counts[part] for part in ("flipped", "moved", "same")), len(found.gained), len(found.lost)):
        assert f"{number:,}" in ui.texts
    assert ui.says(f"{found.n_corners_of[CHANGED]:,} of {len(found.flags):,} touched")
    part, rows = view.changes.top()
    assert counts[part] and ui.says(f"{LABELS[part].upper()}, THE MOST")
    ijk = rows[0][0]
    panel.draw(FakeUi({f"{ijk[0]}, {ijk[1]}, {ijk[2]}##changed": True}), view, steps[1])
    assert view.network.picked == Picked(ijk, 16)
    panel.draw(FakeUi({"##moved by": 1e-5, "Keep this state": True, "moved##changes moved": True,
                       "##changes same": False}), view, steps[1])
    own = view.changes
    assert own.threshold == 0.0 and own.kept is own.b and own.listed == "moved" and own.layers["same"] is False
    for typed, known in ((7.0, MAX_THRESHOLD), (-1.0, 0.0)):
        panel.draw(FakeUi({"##moved by": typed}), view, steps[1])
        assert own.threshold == known
    ui = FakeUi({"Drop it (0 MB)": True, "Export the lists (.csv)": False})
    panel.draw(ui, view, steps[1])
    assert ui.says(f"VOXEL {ijk[0]}, {ijk[1]}, {ijk[2]}") and ui.says("there before and after") and own.kept is None
    said = [text for call in ui.calls for text in call if isinstance(text, str)]
    assert not [text for text in (*said, *ui.texts) if re.search(r"\b[AB]\b", text)]  # of two runs, and of what-ifs
    for slot, values in enumerate(panel.corner_rows(found, *(state.voxels.find(torch.tensor([ijk])).item()
                                                             for state in (found.a, found.b)))):
        row = int(found.b.voxels.voxel_corners[found.b.voxels.find(torch.tensor([ijk])).item(), slot])
        assert values[1][0] == f"{found.a.sdf[row] * 16:+.3f}" and values[2][0] == f"{found.b.sdf[row] * 16:+.3f}"
        assert values[3][0] == f"{found.d_deform[row]:.4f}"
    view.network.picked = Picked((0, 0, 0), 16)
    ui = FakeUi({"Let go##voxel": True})
    panel.draw(ui, view, steps[1])
    assert ui.says("neither before nor after") and view.network.picked is None


def test_the_panel_across_levels(view: ViewState) -> None:
    coarse = shell(8)
    fine = SparseVoxels(coarse.subdivide().voxel_ijk[8:], 16)
    kinds = {"voxels": "voxels", "corner_sdf": "corner"}
    for iteration, voxels in enumerate((coarse, fine)):
        sdf = state_of(voxels).sdf
        snapshot = Snapshot(iteration=iteration, field_kinds=kinds, fields={"voxels": voxels, "corner_sdf": sdf},
                            asked=frozenset(kinds))
        view.changes.update(view, snapshot)
    view.network.picked = Picked(tuple(fine.voxel_ijk[0].tolist()), 16)
    ui = FakeUi()
    panel.draw(ui, view, snapshot)
    assert ui.says("16³: a voxel is compared with the cell that holds it") and ui.says("PRUNED, THE FIRST")
    labels = {call[1] for call in ui.calls if call[0] == "Selectable"}
    assert "in both##changes same" in labels and "born##changes born" in labels
    assert ui.says("there before and after") and not ui.says("neither") and not ui.says("FACES")


def test_lists_are_written_from_the_window(view: ViewState, steps: list[Snapshot], tmp_path: Path) -> None:
    view.checkpoint_path = tmp_path / "new" / "checkpoint.safetensors"
    for snapshot in steps[:2]:
        view.changes.update(view, snapshot)
    ui = FakeUi({"Export the lists (.csv)": True})
    panel.draw(ui, view, steps[1])
    view.worker.wait_for("changes' lists", WAIT_SECS)
    panel.draw(FakeUi(), view, steps[1])
    path = tmp_path / "new" / "changes_000002_000003.csv"
    assert path.is_file() and view.notice.startswith(f"exported {path}: ")
    view.notice = ""
    panel.draw(FakeUi(), view, steps[1])
    assert view.notice == ""


def test_the_palette_keeps_drops_and_shows(view: ViewState, steps: list[Snapshot]) -> None:
    window = type("Window", (), {"view": view, "snapshot": steps[0]})()
    found = {action.name: action.does for action in actions.ACTIONS if action.name.startswith("Changes:")}
    keep, drop, flip = (found[f"Changes: {name}"] for name in (
        "keep this iteration to compare with", "drop the kept iteration", "in the scene or not"))
    view.tabs["left"] = "Layers"
    keep(window)
    assert view.tabs["left"] == PANEL and "opened" in view.notice and view.changes.kept is None
    view.changes.update(view, steps[0])
    keep(window)
    assert view.changes.kept.iteration == 2
    flip(window)
    assert not view.changes.shown
    drop(window)
    assert view.changes.kept is None


# Files and the command


def test_lists_hold_everything_that_changed(tmp_path: Path) -> None:
    a, b = random_state(1), random_state(2)
    found = compare(a, b)
    told = summary(found, 0.01)
    write_lists(found, 0.01, tmp_path / "a.csv")
    write_lists(found, 0.01, tmp_path / "a.npz")
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    table = np.load(tmp_path / "a.npz")
    numbers = {f"voxel {part}": told["voxels"][part] for part in PARTS[:-1]}
    numbers |= {f"corner {name}": told["corners"][name] for name in ("outward", "inward", "spoiled", "healed")}
    numbers |= {f"quad {name}": told["quads"][name] for name in ("gained", "lost", "turned")}
    for number, (kind, expected) in enumerate(numbers.items()):
        assert sum(row["kind"] == kind for row in rows) == expected == int((table["kind"] == number).sum())
        assert table["kinds"][number] == kind
    lost = {(int(row["i"]), int(row["j"]), int(row["k"]), "xyz".index(row["axis"])) for row in rows
            if row["kind"] == "quad lost"}
    assert lost == edge_set(found.lost, 6)
    with pytest.raises(ValueError, match="unknown type '.obj'; allowed are .csv, .npz"):
        write_lists(found, 0.01, tmp_path / "a.obj")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = RunBuilder(tmp_path_factory.mktemp("diff") / "run.h5", FitRun(*_small()), snapshot_every=2)
    builder.iterate(4)
    return builder.close()


def _small() -> tuple:
    fit = small_fit(resolution=8, image_size=16, iterations=4)
    return fit.target, fit.config


def test_the_command_compares_recorded_iterations(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture
                                                  ) -> None:
    assert cli.main(["diff", str(recorded), "--from", "2", "--json", "--out", str(tmp_path / "new")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["before"]["iteration"], told["after"]["iteration"]) == (2, 4) and told["corners"]["touched"] > 0
    assert json.loads((tmp_path / "new" / "changes.json").read_text()) == told
    assert (tmp_path / "new" / "changes.csv").is_file() and (tmp_path / "new" / "changes.npz").is_file()
    with Recording(recorded) as recording:
        fields = [recording.snapshot_fields(("voxels", *COMPARED), n)[0] for n in (2, 4)]
    states = [State(known.pop("voxels"), known) for known in fields]
    assert told["corners"]["touched"] == compare(*states).n_corners_of[CHANGED]
    assert cli.main(["diff", str(recorded), str(recorded), "--to", "0"]) == 0
    out = capsys.readouterr().out
    first, second, *_ = out.splitlines()
    assert first.startswith("before  ") and "iteration 4: " in first and "moved" in out
    assert second.startswith("after   ") and "iteration 0: " in second


def test_the_command_says_where_the_file_knows_nothing(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture
                                                       ) -> None:
    builder = RunBuilder(tmp_path / "run.h5", FitRun(*_small()), snapshot_every=4)
    builder.iterate(4)
    sparse = str(builder.close())
    assert cli.main(["diff", sparse, "--from", "2", "--to", "3"]) == 0
    assert "iterations 2 and 3 both show the fields recorded at 0" in capsys.readouterr().err
    for told in ([sparse], [str(recorded), "--from", "2"], [sparse, sparse, "--from", "3", "--to", "3"]):
        assert cli.main(["diff", *told]) == 0
        assert "both show" not in capsys.readouterr().err


@pytest.mark.parametrize(("words", "says"), [
    (["house"], "house has one iteration: name a second one to compare it with, or a recording"),
    (["RUN", "--from", "77"], "iteration must be a recorded one from 0 to 4, got 77"),
    (["RUN", "--threshold", "-1"], "--threshold must be at least 0 voxel widths, got -1"),
    (["house", "RUN", "--from", "1"], "--from applies to a recording (.h5): house is none"),
    (["RUN", "none.safetensors"], "no such checkpoint: none.safetensors"),
    (["none.h5"], "none.h5"),
])
def test_the_command_refuses_in_a_line(recorded: Path, words: list[str], says: str, capsys: pytest.CaptureFixture
                                       ) -> None:
    assert cli.main(["diff", *(str(recorded) if word == "RUN" else word for word in words)]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_states_are_called_what_they_are_now_though_their_arrays_were_compared_before() -> None:
    """Of a recording two iterations may have the same fields: nothing is compared anew, but the names are others."""
    own, a, b = ViewState().changes, random_state(0), random_state(1)
    own.a, own.b, own.found = a, dataclasses.replace(b, label="iteration 18"), compare(a, b)
    own._compared = (a.token, b.token)
    assert own.labels == (a.label, "iteration 18")
    own.b = random_state(2)  # not compared yet: what is shown is still of the one before
    assert own.labels == (a.label, b.label)
