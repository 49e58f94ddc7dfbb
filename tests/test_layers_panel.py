"""The Layers and Field tabs with a fake user: choices reach the view, ranges lock, bad values are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from fake_ui import FakeUi
from test_field_view import KINDS, shell, show, snapshot_of

from workbench import preferences, theme
from workbench.actions import ACTIONS
from workbench.layer_view import DEFAULT_SIZES, LayerView
from workbench.panels import field, layers
from workbench.quantities import SDF
from workbench.snapshot import Products, Snapshot
from workbench.view_state import LAYER_LABELS, LAYER_TIPS, LAYERS, ViewState


@pytest.fixture
def view() -> Iterator[ViewState]:
    view = ViewState()
    yield view
    view.worker.stop()
    theme.use("dark")


def use(panel: object, view: ViewState, snapshot: Snapshot, uses: dict) -> FakeUi:
    ui = FakeUi(uses)
    assert panel.draw(ui, view, snapshot) == []
    return ui


# Layers


def test_every_layer_has_a_row_and_the_first_ten_a_key(view: ViewState) -> None:
    assert len(LAYERS) == len(LAYER_LABELS) == len(LAYER_TIPS)
    inference = dataclasses.replace(snapshot_of(shell()), products=Products(stages=("encoder 1",)))
    ui = use(layers, view, inference, {})
    assert [text for text in ui.texts if text in LAYER_LABELS] == list(LAYER_LABELS)
    assert not use(layers, view, snapshot_of(shell()), {}).says(LAYER_LABELS[LAYERS.index("points")])
    keys = {action.name: action.key for action in ACTIONS}
    for number, label in enumerate(LAYER_LABELS, start=1):
        assert keys[f"Layer {label} on or off"] == (str(number % 10) if number <= 10 else "")
        before = dict(view.layers)
        use(layers, view, inference, {f"##layer{number}": not before[LAYERS[number - 1]]})
        assert {name for name in LAYERS if view.layers[name] != before[name]} == {LAYERS[number - 1]}


def test_what_the_run_has_not_is_greyed(view: ViewState) -> None:
    for kinds, n_greyed in (({**KINDS, "prune": "prune"}, 0), (KINDS, 4), ({"voxels": "voxels"}, 9), ({}, 13)):
        ui = use(layers, view, Snapshot(field_kinds=kinds), {})
        rows = [call for call in ui.calls if call[0] in ("BeginDisabled", "Checkbox")]
        greyed = [a for a, b in zip(rows, rows[1:], strict=False)
                  if a == ("BeginDisabled", True) and b[0] == "Checkbox" and b[1].startswith("##layer")]
        assert len(greyed) == n_greyed


def test_colours_and_sizes_are_chosen_and_given_back(view: ViewState) -> None:
    snapshot = snapshot_of(shell())
    use(layers, view, snapshot, {"##colour active": (0.0, 0.5, 1.0), "##size active": 0.4, "##size frustum": 99.0})
    assert view.shades.colour("active") == pytest.approx((0, 128 / 255, 1)) and view.shades.size("active") == 0.4
    assert view.shades.size("frustum") == 4.0 and view.shades.colour("mesh") == theme.MESH
    fresh = ViewState()
    preferences.restore(fresh, preferences.kept(view))
    assert fresh.shades.colours == view.shades.colours and fresh.shades.sizes == view.shades.sizes
    fresh.worker.stop()
    use(layers, view, snapshot, {"Default colours and sizes": True})
    assert view.shades.colour("active") == theme.ACTIVE and view.shades.sizes == DEFAULT_SIZES


def test_spoilt_preferences_give_defaults() -> None:
    shades = LayerView(colours={"active": "#12", "mesh": "red", "target": "#GGGGGG"},
                       sizes={"active": float("nan"), "sdf": -3.0})
    assert shades.colour("active") == theme.ACTIVE and shades.colour("mesh") == theme.MESH
    assert shades.colour("target") == theme.TARGET and shades.colour("sdf") is None
    assert shades.size("active") == DEFAULT_SIZES["active"] and shades.size("sdf") == 0.05
    assert shades.size("outside") == DEFAULT_SIZES["outside"]


def test_layers_have_colours_that_fit_the_theme(view: ViewState) -> None:
    seen = {}
    of_pruning = ("pruned", "born", "wrongly_kept", "wrongly_pruned")
    for name in ("dark", "light"):
        theme.use(name)
        seen[name] = {layer: view.shades.colour(layer) for layer in of_pruning}
        assert seen[name]["pruned"] == theme.rgb("#D55E00") and seen[name]["born"] == theme.rgb("#009E73")
        assert seen[name]["wrongly_kept"] == theme.rgb("#F0E442")
    assert seen["dark"]["wrongly_pruned"] == (1, 1, 1) and seen["light"]["wrongly_pruned"] == (0, 0, 0)


def test_the_meshs_colouring_is_chosen_among_what_the_run_allows(view: ViewState) -> None:
    snapshot = snapshot_of(shell())
    for index, name in enumerate(("clay", "normal", "field", "distance")):
        ui = use(layers, view, snapshot, {"##mesh colour": index})
        assert view.mesh_colour == name
    choices = next(call[3] for call in ui.calls if call[:2] == ("Combo", "##mesh colour"))
    assert choices[3] == "Mesh: by distance to the target" and choices[2] == "Mesh: by SDF"
    ui = use(layers, view, Snapshot(field_kinds={"mesh": "mesh"}), {})
    assert len(next(call[3] for call in ui.calls if call[:2] == ("Combo", "##mesh colour"))) == 2
    view.layers["mesh"] = True
    show(view, snapshot)
    assert use(layers, view, snapshot, {}).says("Measuring the mesh")
    view.worker.wait_for("mesh distance", 20)
    show(view, snapshot)
    ui = use(layers, view, snapshot, {})
    assert ui.says("distance to the target") and ui.says("voxel widths")


def test_scene_choices(view: ViewState) -> None:
    use(layers, view, snapshot_of(shell()), {"Side by side": False, "Cut": True, "Flip": True, "view": True})
    assert not view.side_by_side and view.field.cut and view.field.flipped and view.field.axis == "view"
    use(layers, view, snapshot_of(shell()), {"Hold": True})
    assert view.field.held


# Field


def test_field_choices_reach_the_view(view: ViewState) -> None:
    snapshot = snapshot_of(shell())
    show(view, snapshot)
    use(field, view, snapshot, {"Points": True, "Slice": True, "Zero": False, "world units": True, "x": True,
                                "##plane position": 0.25, "δ as arrows": True, "At the slice": False,
                                "##arrow length": 4.0, "Active voxels": True, "Mesh": True, "cividis": True,
                                "##corners": 3, "##voxels": 4})
    shown = view.field
    assert view.layers["sdf"] and view.layers["slice"] and view.layers["vectors"] and view.mesh_colour == "field"
    assert (shown.contour, shown.world_units, shown.axis, shown.offset) == (False, True, "x", 0.25)
    assert (shown.vectors_in_slice, shown.vector_scale, shown.voxels_coloured) == (False, 4.0, True)
    assert (shown.at_corners, shown.at_voxels, shown.magnitudes) == ("my_heat", "alpha", "cividis")
    ui = use(field, view, snapshot, {"##part of alpha": 2})
    assert shown.parts["alpha"] == "corner 1"
    parts = next(call[3] for call in ui.calls if call[:2] == ("Combo", "##part of alpha"))
    assert parts == ["mean", *(f"corner {index}" for index in range(8))]
    show(view, snapshot)
    assert shown.voxel.values.tolist() == snapshot.fields["alpha"][:, 1].tolist()


def test_steps_of_the_plane_name_its_layer(view: ViewState) -> None:
    snapshot = snapshot_of(shell(12))
    view.layers["slice"] = True
    show(view, snapshot)
    assert use(field, view, snapshot, {}).says("layer 6 of 12")
    use(field, view, snapshot, {">##plane": True})
    show(view, snapshot)
    assert use(field, view, snapshot, {}).says("layer 7 of 12")
    use(field, view, snapshot, {"<##plane": True})
    show(view, snapshot)
    assert use(field, view, snapshot, {}).says("layer 6 of 12")


def test_a_range_is_locked_typed_and_freed(view: ViewState) -> None:
    snapshot = snapshot_of(shell())
    view.layers["active"], view.field.voxels_coloured, view.field.at_voxels = True, True, "gamma"
    show(view, snapshot)
    key = view.field.voxel.key
    use(field, view, snapshot, {f"##low {key}": 0.5})
    assert key not in view.field.locked  # typed while it is automatic: nothing to type into
    use(field, view, snapshot, {f"Locked##{key}": True})
    low, high = view.field.locked[key]
    assert (low, high) == pytest.approx(view.field.voxel.automatic)
    use(field, view, snapshot, {f"##high {key}": 3.5})
    assert view.field.locked[key] == (low, 3.5)
    ui = use(field, view, snapshot, {f"##low {key}": 9.0})
    assert view.field.locked[key] == (low, 3.5)  # not below the other end
    assert ui.says("values from")
    use(field, view, snapshot, {f"Locked##{key}": False})
    assert key not in view.field.locked


def test_bad_values_are_counted_in_the_panel(view: ViewState) -> None:
    voxels = shell()
    sdf = snapshot_of(voxels).fields[SDF].copy()
    sdf[:3], sdf[7:9] = np.nan, np.inf
    view.layers["sdf"] = True
    snapshot = snapshot_of(voxels, **{SDF: sdf})
    show(view, snapshot)
    ui = use(field, view, snapshot, {})
    assert ui.says("3 NaN, 2 infinite") and ui.says(f"{voxels.n_corners - 5:,} values from")
    show(view, snapshot_of(voxels, **{SDF: np.full(voxels.n_corners, np.nan, np.float32)}))
    ui = use(field, view, snapshot, {})
    assert ui.says(f"{voxels.n_corners:,} NaN") and ui.says("0 values") and not ui.says("values from")


def test_panels_of_runs_that_have_little(view: ViewState) -> None:
    view.layers.update(dict.fromkeys(view.layers, True))
    view.field.voxels_coloured = True
    assert use(field, view, Snapshot(), {}).says("no fields of voxels or corners")
    only_own = Snapshot(field_kinds={"voxels": "voxels", "my_heat": "voxel"})
    ui = use(field, view, only_own, {})
    assert ui.says("Nothing to show yet.") and not ui.says("AT THE CORNERS")
    own = dataclasses.replace(only_own, fields={"voxels": shell(), "my_heat": np.arange(shell().n_voxels) * 1.0})
    show(view, own)
    ui = use(field, view, own, {})
    assert ui.says("my_heat") and ui.says(f"{shell().n_voxels:,} values from 0 to")
    for panel in (field, layers):
        use(panel, view, Snapshot(field_kinds=KINDS), {})
