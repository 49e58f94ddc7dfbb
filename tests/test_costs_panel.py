"""Costs: what sections save, by the line through measured iterations; stages that change are named, with since when."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

import numpy as np
import pytest
from fake_ui import FakeUi
from test_fit import small_run

from sparseflex.training.measure import StageCost
from sparseflex.training.staged_run import StagedRun
from workbench.commands import KeepAtMost, ProfileIteration, RunIterations
from workbench.cost_changes import Change, memory_change, time_change
from workbench.cost_view import (
    MEMORY,
    PARTS,
    PROFILE,
    CostView,
    Pointed,
    StageValues,
    change_words,
    layers_of,
    pointed_at,
    rows_of,
)
from workbench.engine import Engine
from workbench.history_table import HistoryTable
from workbench.memory_view import MemoryView, curves, measured_work, work_by_stage
from workbench.panels import COLUMNS, OF_INFERENCE, costs
from workbench.profile_events import OperatorCost, StageProfile
from workbench.profiling import Profile
from workbench.snapshot import History, PastSummary, Snapshot
from workbench.view_state import ViewState


def history(sections: list[float], works: list[float], measured: list[int], resident: float = 5e6) -> History:
    """A run of 1000 voxels; what was measured last stays until the next measurement."""
    table, known = HistoryTable(), {}
    for n, (section, work) in enumerate(zip(sections, works, strict=True)):
        if n in measured:
            known = {"work_voxels": section, "work_bytes": work}
        table.append({"iteration": n + 1, "voxels": 1000.0, "section": section, "resident_bytes": resident, **known})
    return table.view()


SECTIONS = [100.0, 900.0, 500.0, 500.0, 1000.0, 300.0, 200.0]


def test_the_line_through_what_was_measured() -> None:
    works = [2e6 + 1000 * section for section in SECTIONS]
    found = measured_work(history(SECTIONS, works, [1, 2, 4, 6]))
    assert found.fixed_bytes == pytest.approx(2e6) and found.bytes_per_voxel == pytest.approx(1000)
    assert found.voxels.tolist() == [900, 500, 1000, 200]  # one measurement is one pair, however long it stays
    works[2] += 5e7  # something else took memory meanwhile
    spoiled = measured_work(history(SECTIONS, works, [0, 1, 2, 4, 5, 6]))
    assert spoiled.bytes_per_voxel == pytest.approx(1000, rel=0.2)


def test_curves_over_the_iterations() -> None:
    found = curves(history(SECTIONS, [2e6 + 1000 * section for section in SECTIONS], [1, 2, 4]))
    assert np.allclose(found.with_sections, 5e6 + 2e6 + 1000 * np.array(SECTIONS))
    assert np.allclose(found.without, 8e6) and found.measured_at.tolist() == [2, 3, 5]
    assert np.allclose(found.measured, found.with_sections[[1, 2, 4]])


@pytest.mark.parametrize("case", ["too few", "all alike", "never", "nothing", "no such scalars"])
def test_no_claim_without_measurements(case: str) -> None:
    works = [2e6 + 1000 * section for section in SECTIONS]
    found = {
        "too few": history(SECTIONS, works, [1, 2]),
        "all alike": history([500.0, 510.0, 505.0, 507.0], works[:4], [0, 1, 2, 3]),
        "never": history(SECTIONS, works, []),
        "nothing": History(),
        "no such scalars": History(("iteration", "loss"), np.ones((3, 2))),
    }[case]
    assert curves(found) is None
    ui = FakeUi()
    assert costs.draw(ui, of_memory(), Snapshot(history=found)) == []
    assert not ui.says("saved")


def test_empty_sections_and_odd_numbers_are_no_trouble() -> None:
    found = curves(history([0.0, 10.0, 0.0, 1000.0], [1e6, 1e6, math.nan, 2e6], [0, 1, 2, 3]))
    assert found.work.n_measured == 3 and found.work.bytes_per_voxel > 0
    assert curves(history([0.0, 0.0, 0.0], [1e6, 1e6, 2e6], [0, 1, 2])) is None


def test_work_by_stage_is_above_the_start_of_the_iteration_measured_last() -> None:
    names = ("iteration", "work_voxels", "work_bytes", "bytes_sample", "bytes_extract", "bytes_backward")
    rows = [[1, 5, 30.0, 900, 110, 130], [2, 5, 40.0, 990, 205, 240], [3, 5, 40.0, 990, 777, 888]]
    assert work_by_stage(History(names, np.array(rows))) == (2, {"extract": 5.0, "backward": 40.0})
    assert work_by_stage(History(names[:3], np.array(rows)[:, :3])) is None
    assert work_by_stage(History(names, np.full((2, 6), math.nan))) is None
    assert work_by_stage(History()) is None


def shown() -> Snapshot:
    past = history(SECTIONS, [2e6 + 1000 * section for section in SECTIONS], [1, 2, 4])
    scalars = {name: float(past.column(name)[-1]) for name in past.names} | {"active": 150.0}
    return Snapshot(
        scalars=scalars, history=past, stages=("extract", "backward", "update"), stage_secs={"extract": 1.0},
        stage_peak_bytes={"extract": 4e8, "backward": math.nan},
        past=PastSummary(3, 9, 4, 256_000_000, "", 1e9, 2, 1_300_000_000),
    )


def of_memory() -> ViewState:
    view = ViewState()
    view.costs.part = MEMORY
    return view


def test_the_panel_says_what_sections_save() -> None:
    ui = FakeUi()
    view, snapshot = of_memory(), shown()
    assert costs.draw(ui, view, snapshot) == [] and costs.fields(view, snapshot) == set()
    for text in ("20.0% worked on", "150", "50", "800", "with sections", "7 MB", "without, estimated", "8 MB", "10%",
                 "1,000 bytes", "peak of the process", "400 MB", "256 MB of 1 GB", "states in memory", "4",
                 "keyframes in the recording", "2 in 1,300 MB", "3 to 9"):
        assert ui.says(text), text
    assert "PEAK" in ui.texts and not ui.says("PEAK ABOVE ITS START")  # no stage's own was measured
    drawn = {call[1]: call[2:] for call in ui.calls if call[0] in ("PlotLine", "PlotScatter")}
    assert set(drawn) == {"##without", "##with", "##measured"} and len(drawn["##measured"][0]) == 3
    assert costs in COLUMNS["right"].values()
    first = view.memory.of(snapshot.history)
    assert view.memory.of(snapshot.history) is first  # made once for each history


def test_on_cuda_the_numbers_are_the_allocators() -> None:
    ui = FakeUi()
    snapshot = shown()
    scalars = {**snapshot.scalars, "reserved_bytes": 7e8}
    costs.draw(ui, of_memory(), dataclasses.replace(snapshot, device="cuda:0", scalars=scalars))
    assert ui.says("peak of CUDA tensors") and ui.says("700 MB")


def test_a_run_that_keeps_nothing_says_why() -> None:
    ui = FakeUi()
    costs.draw(ui, of_memory(), Snapshot(past=PastSummary(lacking="one state takes 3 GB, at most 512 MB are kept")))
    assert ui.says("one state takes 3 GB")


def test_what_is_kept_at_most_is_chosen_in_the_panel() -> None:
    view = of_memory()
    assert costs.draw(FakeUi({"##keep": 4}), view, shown()) == [KeepAtMost(4e9)] and view.keep_bytes == 4e9
    replayed = dataclasses.replace(shown(), source="replay")
    ui = FakeUi({"##keep": 0})
    assert costs.draw(ui, view, replayed) == [] and ui.says("KEPT OF WHAT WAS READ") and view.keep_bytes == 4e9


def test_a_real_fit_measures_enough_to_tell() -> None:
    run = small_run(cut_share=0.5, window_share=0.5, interior_share=0.0)
    for _ in range(12):
        run.run_iteration()
    if math.isnan(run.scalars()["peak_bytes"]):
        pytest.skip("this system tells no peak")
    found = MemoryView().of(Engine(run).snapshots.latest().history)
    assert found is not None and found.work.n_measured >= 8
    assert (found.with_sections <= found.without).all()


# Seconds and bytes by stage

STAGES = ("sample_cameras", "extract", "render", "backward", "update")


class Costly(StagedRun):
    """Costs by a fake clock: every stage has its own, with noise. slow: from an iteration on a stage takes 5 times as
    long; leak: in a stage 5 MB stay; greedy: a stage takes 50 MB more while it runs."""

    name, stages = "costly", STAGES
    secs = (0.002, 0.012, 0.03, 0.02, 0.004)
    bytes_above = (0.0, 5e6, 30e6, 60e6, 10e6)

    def __init__(self, noise: float = 0.15, **faults: tuple[int, str]) -> None:
        super().__init__()
        self.stage_costs: dict[str, StageCost] = {}
        self._faults, self._noise = faults, noise
        self._random, self._held = np.random.default_rng(5), 4e8

    def _is(self, fault: str, stage: str) -> bool:
        first, where = self._faults.get(fault, (math.inf, ""))
        return where == stage and self.iteration + 1 >= first

    def __getattr__(self, name: str):
        if not name.startswith("do_"):
            raise AttributeError(name)
        return lambda: self._cost(name.removeprefix("do_"))

    def _cost(self, stage: str) -> dict[str, float]:
        place = STAGES.index(stage)
        secs = self.secs[place] * float(np.exp(self._noise * self._random.standard_normal()))
        self._held += 5e6 if self._is("leak", stage) else 0.0
        peak = self._held + self.bytes_above[place] + (50e6 if self._is("greedy", stage) else 0.0)
        peak += 1e6 * self._noise * self._random.standard_normal()
        self.stage_costs[stage] = StageCost(5 * secs if self._is("slow", stage) else secs, peak)
        return {"voxels": 1000.0, "section": 400.0}


def driven(run: StagedRun, n_iterations: int) -> Snapshot:
    """What an engine shows of the run after so many iterations."""
    engine = Engine(run)
    engine.start()
    engine.send(RunIterations(n_iterations))
    deadline = time.monotonic() + 20
    while engine.snapshots.latest().iteration < n_iterations or engine.snapshots.latest().playing:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert engine.stop()
    return engine.snapshots.latest()


def changes(snapshot: Snapshot) -> tuple[Change | None, Change | None]:
    """What has changed in time, and in memory, as the panel finds it."""
    view = CostView()
    return tuple(view.change(find(snapshot), prefix, playing=False)
                 for find, prefix in ((view.seconds, "secs_"), (view.peaks, "bytes_")))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("first", [31, 90])
def test_a_stage_that_takes_five_times_as_long_is_named_with_since_when(stage: str, first: int) -> None:
    shown = driven(Costly(slow=(first, stage)), 110)
    slower, memory = changes(shown)
    assert (slower.stage, slower.iteration, slower.kind) == (stage, first, "slower") and memory is None
    assert slower.ratio == pytest.approx(5, rel=0.25) and not slower.everywhere
    ui = FakeUi()
    costs.draw(ui, ViewState(), shown)
    assert ui.says(f"since iteration {first}") and ui.says(f"{stage} ×")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_leaks_is_named_with_since_when(stage: str) -> None:
    shown = driven(Costly(leak=(57, stage)), 100)
    slower, leak = changes(shown)
    assert slower is None and (leak.stage, leak.iteration, leak.kind) == (stage, 57, "leak")
    assert leak.difference == pytest.approx(5e6, rel=0.1)
    ui = FakeUi()
    costs.draw(ui, of_memory(), shown)
    assert ui.says(f"{stage} leaves ") and ui.says("since iteration 57")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_takes_fifty_megabytes_more_is_named(stage: str) -> None:
    shown = driven(Costly(greedy=(40, stage)), 100)
    _, more = changes(shown)
    assert (more.stage, more.iteration, more.kind) == (stage, 40, "more")
    assert more.difference == pytest.approx(50e6, rel=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3, 0.6])
def test_noise_alone_is_no_change(noise: float) -> None:
    assert changes(driven(Costly(noise), 150)) == (None, None)


@pytest.mark.parametrize("n", [16, 17, 30, 64, 200])
def test_iterations_before_which_memory_was_given_back_are_no_change(n: int) -> None:
    """As a fit's on the CPU: while the heap is given back before an iteration, its peaks begin lower."""
    iterations = np.arange(1.0, n + 1)
    measured = np.isin(iterations, [*range(2, 10), *range(17, n + 1, 16)])
    peaks = 4e8 + np.outer(measured, [0.0, -1e8, -9e7, -3e7, 0.0])
    random = np.random.default_rng(3)
    work = np.maximum.accumulate(np.where(measured, iterations, 0.0)) * 1e6 + 5e7
    names = ("iteration", "work_bytes", "work_voxels", *(f"bytes_{stage}" for stage in STAGES))
    table = np.column_stack([iterations, np.where(iterations > 1, work, math.nan), work, peaks])
    table[:, 3:] += 1e4 * random.standard_normal((n, 1))
    view, shown = CostView(), Snapshot(history=History(names, table), stages=STAGES)
    assert view.change(view.peaks(shown), "bytes_", playing=False) is None
    ui = FakeUi()
    costs.draw(ui, of_memory(), shown)
    assert ui.says("PEAK ABOVE ITS START") and not ui.says("since iteration")
    if n < 64:
        return
    table = table.copy()
    table[40:, 5:] += 5e7 * np.array([1.0, 0.0, 0.0])  # one that is no artefact still is named
    view, shown = CostView(), Snapshot(history=History(names, table), stages=STAGES)
    found = view.change(view.peaks(shown), "bytes_", playing=False)
    assert n > 64 or (found.stage, found.iteration, found.kind) == ("render", 41, "more")


def test_what_has_passed_is_no_change_any_more() -> None:
    random = np.random.default_rng(2)
    secs = 0.01 * np.exp(0.1 * random.standard_normal((200, 3)))
    secs[80:110, 1] *= 3
    iterations = np.arange(1.0, 201)
    assert time_change(iterations[:105], secs[:105], "abc").iteration == 81
    assert time_change(iterations, secs, "abc") is None or time_change(iterations, secs, "abc").kind != "slower"
    gone = secs.copy()
    gone[50:60] = math.nan
    gone[150:, 2] *= 2.5
    late = time_change(iterations, gone, "abc")
    assert (late.stage, late.iteration) == ("c", 151)


def test_a_machine_that_is_slower_is_no_stages_fault_and_more_voxels_explain_more_time() -> None:
    secs = np.full((100, 3), 0.01) * [1, 2, 3]
    secs[60:] *= 2
    found = time_change(np.arange(1.0, 101), secs, "abc")
    assert found.everywhere and (found.stage, found.iteration) == ("c", 61)
    names = ("iteration", "section", *(f"secs_{stage}" for stage in "abc"))
    same = History(names, np.column_stack([np.arange(1.0, 101), np.full(100, 500.0), secs]))
    assert "every stage ×2 since iteration 61" in change_words(found, same) and "machine" in change_words(found, same)
    sections = np.where(np.arange(100) < 60, 500.0, 1000.0)
    grown = History(names, np.column_stack([np.arange(1.0, 101), sections, secs]))
    assert change_words(found, grown).endswith("the voxels worked on ×2")
    alone = secs.copy()
    alone[60:, :2] /= 2
    found = time_change(np.arange(1.0, 101), alone, "abc")
    assert not found.everywhere and change_words(found, same) == "c ×2 since iteration 61 (30 ms → 60 ms)"


def test_too_little_to_tell() -> None:
    for n in (0, 1, 5, 15):
        secs = np.full((n, 2), 0.01)
        secs[n // 2 :] *= 9
        assert time_change(np.arange(n), secs, "ab") is None and memory_change(np.arange(n), 1e9 * secs, "ab") is None
    nothing = np.full((100, 2), np.nan)
    assert time_change(np.arange(100), nothing, "ab") is None
    assert memory_change(np.arange(100), nothing, "ab") is None
    assert time_change(np.arange(100), np.zeros((100, 2)), "ab") is None


def test_while_a_long_run_plays_a_pixels_worth_of_iterations_is_waited_for_and_never_another_runs() -> None:
    table = np.column_stack([np.arange(1.0, 1001), np.full(1000, 0.01)])
    history = History(("iteration", "secs_a"), table)
    view = ViewState()

    def rows(n: int, playing: bool) -> int:
        seen = Snapshot(history=History(history.names, history.table[:n]), stages=("a",), playing=playing)
        return view.costs.seconds(seen).n_rows

    assert [rows(900, True), rows(903, True), rows(904, True), rows(905, False)] == [900, 900, 904, 905]
    assert rows(500, True) == 500 and rows(501, True) == 500  # it went back, and a little on
    view.forget_found()
    assert rows(501, True) == 501


def test_rows_by_share_with_the_small_ones_in_one() -> None:
    table = np.array([[1, 0.010, 0.050, 1e-6, 2e-6, math.nan], [2, 0.020, 0.070, 1e-6, math.nan, math.nan]])
    history = History(("iteration", "secs_a", "secs_b", "secs_c", "secs_d", "secs_e"), table)
    values = StageValues.of(history, "secs_", ("b", "a"))
    assert values.stages == ("b", "a", "c", "d", "e") and values.n_rows == 2
    rows = rows_of(values, values.latest())
    assert [(row.stage, row.n_stages) for row in rows] == [("b", 1), ("a", 1), ("others", 2)]
    assert rows[0].now == 0.07 and rows[0].median == pytest.approx(0.06)
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert rows[2].now == pytest.approx(1e-6) and rows[2].median == pytest.approx(3e-6)
    assert rows_of(StageValues.of(History(), "secs_", ()), {}) == []


@pytest.mark.parametrize("log", [False, True])
def test_thinned_areas_keep_every_peak(log: bool) -> None:
    random = np.random.default_rng(4)
    values = np.exp(random.standard_normal((5000, 9)))
    values[1234, 3] = values[2, 8] = 1e3
    kept = layers_of(StageValues(tuple("abcdefghi"), np.arange(1.0, 5001), values), "abcdefg", log, 100)
    assert kept.names == (*"abcdefg", "others") and len(kept.xs) < 100 * 11
    heights = np.diff(kept.tops, axis=0, prepend=0)
    at = list(kept.xs).index(1235)
    assert heights[3, at] == pytest.approx(1e3) and heights[7].max() == pytest.approx(1e3 + values[2, 7])
    assert kept.tops[-1].max() == pytest.approx(values.sum(axis=1).max())  # the slow twin: all of it
    for column in range(7):
        assert heights[column].max() == pytest.approx(values[:, column].max())
    assert kept.xs[0] == 1 and kept.xs[-1] == 5000 and (np.diff(kept.xs) > 0).all()


def test_few_iterations_are_steps_and_what_is_pointed_at_is_told() -> None:
    values = StageValues(("a", "b", "c"), np.array([1.0, 2.0]), np.array([[1.0, 2, 3], [4, math.nan, 6]]))
    kept = layers_of(values, ["a", "c"], log=False)
    assert kept.names == ("a", "c", "others") and kept.xs.tolist() == [0.5, 1.5, 1.5, 2.5]
    assert kept.tops[2].tolist() == [6, 6, 10, 10]
    assert pointed_at(values, kept, 1.2, 0.5) == Pointed(1, (("a", 1.0), ("c", 3.0), ("others", 2.0)), "a")
    assert [pointed_at(values, kept, 1, height).stage for height in (1.5, 5.0, 6.5, -1.0)] == ["c", "others", "", ""]
    assert pointed_at(values, kept, 99, 4.5) == Pointed(2, (("a", 4.0), ("c", 6.0), ("others", 0.0)), "c")


def test_colours_stay_with_their_stages() -> None:
    view, order = CostView(), "abcdefghijk"
    values = StageValues(tuple(order), np.arange(3.0), np.tile(np.arange(11.0, 0, -1), (3, 1)))
    first = view.shown(values)
    assert list(first) == list("abcdefg") and len(set(first.values())) == 7
    table = values.values.copy()
    table[:, 10], table[:, 2] = 50, 0.5  # k comes, c goes
    then = view.shown(StageValues(values.stages, values.iterations, table))
    assert {stage: first[stage] for stage in "abdefg"} == {stage: then[stage] for stage in "abdefg"}
    assert then["k"] == first["c"] and "c" not in then


def test_the_tab_shows_time_and_a_click_goes_there() -> None:
    shown = driven(Costly(), 30)
    ui = FakeUi({"IsPlotHovered": True, "GetPlotMousePos": (12.2, 3.0), "IsMouseClicked": True})
    commands = costs.draw(ui, ViewState(), shown)
    assert [command.iteration for command in commands] == [12]
    for text in ("SECONDS PER STAGE", "ms an iteration", "render", "states kept", "redraws", "iteration 12: click"):
        assert ui.says(text), text
    areas = [call[1] for call in ui.calls if call[0] == "PlotShaded"]
    assert areas == [f"##{stage}" for stage in STAGES]
    view = ViewState()
    view.costs.lines = True
    ui = FakeUi()
    costs.draw(ui, view, shown)
    assert [call[1] for call in ui.calls if call[0] == "PlotLine"] == [f"##{stage}" for stage in STAGES]


def test_the_tab_before_anything_ran_and_with_nothing_measured() -> None:
    for snapshot in (Snapshot(), Snapshot(history=History(("iteration", "loss"), np.ones((3, 2)))),
                     Snapshot(history=History(("iteration", "secs_a"), np.full((3, 2), math.nan)))):
        for part in PARTS:
            view, ui = ViewState(), FakeUi()
            view.costs.part = part
            assert costs.draw(ui, view, snapshot) == []
    assert OF_INFERENCE["right"]["Costs"] is costs


# The profile


def test_profiling_by_the_button_and_what_is_shown_of_it(tmp_path: Path) -> None:
    view = ViewState(checkpoint_path=tmp_path / "checkpoint.safetensors")
    view.costs.part = PROFILE
    assert costs.draw(FakeUi({"Profile one iteration": True}), view, Snapshot()) == [ProfileIteration(tmp_path)]
    operators = (OperatorCost("mm", 3, 0.03), OperatorCost("add", 40, 0.002))
    found = Profile(7, (StageProfile("extract", 0.01, 0.004, 0.0, 0.0, 2e6, (operators[1],)),
                        StageProfile("render", 0.04, 0.005, 0.0, 0.0, 60e6, operators)), "cpu", tmp_path / "t.json.gz")
    ui = FakeUi({"Copy path": True})
    costs.draw(ui, view, Snapshot(profile=found))
    for text in ("ITERATION 7", "mm in render took 60% of 50 ms", "render takes most memory: 60 MB", "t.json.gz", "mm",
                 "OPERATORS OF ALL STAGES"):
        assert ui.says(text), text
    assert ("SetClipboardText", str(tmp_path / "t.json.gz")) in ui.calls
    ui = FakeUi({"extract##profiled extract": True})
    costs.draw(ui, view, Snapshot(profile=found))
    assert view.costs.chosen == "extract" and ui.says("OPERATORS OF EXTRACT") and "mm" not in ui.texts
    ui = FakeUi()
    costs.draw(ui, view, Snapshot(profile=dataclasses.replace(found, path=None, stages=())))
    assert ui.says("could not be written") and ui.says("None ran.")


def test_a_recording_says_why_it_has_no_profile() -> None:
    view, ui = ViewState(), FakeUi()
    view.costs.part = PROFILE
    assert costs.draw(ui, view, Snapshot(source="replay")) == [] and ui.says("branch from here")
