"""Memory: the line through measured iterations, and what the panel says with and without it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from fake_ui import FakeUi
from test_fit import small_run

from workbench.cost_view import MEMORY
from workbench.engine import Engine
from workbench.history_table import HistoryTable
from workbench.memory_view import MemoryView, curves, measured_work, work_by_stage
from workbench.panels import COLUMNS, costs
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
        stage_peak_bytes={"extract": 4e8, "backward": math.nan}, past=PastSummary(3, 9, 4, 256_000_000, ""),
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
                 "1,000 bytes", "peak of the process", "400 MB", "256 MB of 512 MB", "4 states", "iterations 3 to 9"):
        assert ui.says(text), text
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


def test_a_real_fit_measures_enough_to_tell() -> None:
    run = small_run(cut_share=0.5, window_share=0.5, interior_share=0.0)
    for _ in range(12):
        run.run_iteration()
    if math.isnan(run.scalars()["peak_bytes"]):
        pytest.skip("this system tells no peak")
    found = MemoryView().of(Engine(run).snapshots.latest().history)
    assert found is not None and found.work.n_measured >= 8
    assert (found.with_sections <= found.without).all()
