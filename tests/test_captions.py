"""Captions: each place of the scene by what stands in it, none where there is one place, or where it is out of view."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fake_ui import FakeUi

from workbench.panels import captions
from workbench.snapshot import Snapshot
from workbench.view_state import ViewState

FREE = (300.0, 10.0, 600.0, 500.0)
KINDS = {"voxels": "voxels", "mesh": "mesh", "surface": "mesh", "target": "mesh"}


def drawn(view: ViewState, centres: dict[int, tuple[float, float]], zoom: float = 200.0, **state) -> list[str]:
    ui = FakeUi()
    snapshot = Snapshot(**{"field_kinds": KINDS, "iteration": 3, **state})
    captions.draw(ui, view, snapshot, FREE, centres, lambda right, up: (600 + zoom * right, 200 - zoom * up))
    return ui.texts


def test_places_are_named_by_what_stands_there() -> None:
    view = ViewState()
    places = {0: (-1.0, 0.0), 1: (1.0, 0.5), 2: (1.0, -0.5)}
    assert drawn(view, places) == ["voxels", "surface", "target"]
    view.layers |= dict.fromkeys(view.layers, False) | {"slice": True, "target": True}
    assert drawn(view, places) == ["field", "surface", "target"]
    view.layers["active"] = view.section_only = True
    assert drawn(view, places) == ["voxels", "section", "target"]
    assert drawn(view, places, field_kinds={"mesh": "mesh", "points": "points"}) == ["voxels", "surface", "input"]
    view.what_ifs.shown, view.what_ifs.difference, view.what_ifs.category = True, object(), "near_cut"
    assert drawn(view, places) == ["near-cut in A and B", "section", "target"]
    view.what_ifs.shown = False
    assert drawn(view, places) == ["voxels", "section", "target"]
    view.of_mesh = True
    assert drawn(view, {0: (-1.0, 0.0), 1: (1.0, 0.5)}, iteration=0) == ["voxels", "target"]


@pytest.mark.parametrize("centres", [{}, {0: (0.0, 0.0)}, {slot: (0.0, 0.0) for slot in range(3)}])
def test_one_place_needs_no_name(centres: dict[int, tuple[float, float]]) -> None:
    assert drawn(ViewState(), centres) == []


def test_what_is_out_of_view_has_no_caption() -> None:
    assert drawn(ViewState(), {0: (0.0, 0.0), 1: (9.0, 0.0), 2: (0.0, -9.0)}) == ["voxels"]


def test_a_frame_has_the_twelve_edges_of_its_box() -> None:
    low, high = np.array([-0.1, -0.2, -0.3]), np.array([0.4, 0.5, 0.6])
    corners = captions.box_corners(low, high)
    assert {tuple(corner) for corner in corners.tolist()} == set(itertools.product(*zip(low, high, strict=True)))
    ui = FakeUi()
    captions.draw_frame(ui, [(100 * x + 10 * z, 100 * y + 7 * z) for x, y, z in corners])
    lines = [call[1:3] for call in ui.calls if call[0] == "AddLine"]
    assert len({frozenset(line) for line in lines}) == 12
    flat = {(100 * x + 10 * z, 100 * y + 7 * z): number for number, (x, y, z) in enumerate(corners.tolist())}
    assert all((corners[flat[a]] != corners[flat[b]]).sum() == 1 for a, b in lines)
    behind = FakeUi()
    captions.draw_frame(behind, [(1e9, 0.0)] * 8)
    assert not behind.calls
