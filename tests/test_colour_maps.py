"""Colour maps: tables against a slow twin, bad values in their own colour, ranges and ticks by hand."""

from __future__ import annotations

import numpy as np
import pytest

from workbench import theme
from workbench.colour_bar import draw_colour_bar, number_text, tick_labels
from workbench.colour_maps import N_COLOURS, Scale, bad_values, robust_range, table, ticks, viridis

MAPS = ("viridis", "cividis", "diverging")


def slow_colour(scale: Scale, value: float) -> np.ndarray:
    if not np.isfinite(value):
        return np.array(theme.NOT_A_NUMBER)
    share = (value - scale.low) / (scale.high - scale.low)
    return table(scale.name)[min(max(int(np.floor(share * N_COLOURS)), 0), N_COLOURS - 1)]


@pytest.mark.parametrize("name", MAPS)
def test_colours_against_a_loop(name: str) -> None:
    scale = Scale(-0.3, 1.7, name)
    values = np.random.default_rng(0).uniform(-2, 3, (40, 5)).astype(np.float32)
    values[3, 2], values[7, 0], values[8, 1], values[9, 4] = np.nan, np.inf, -np.inf, 3e38
    expected = np.array([[slow_colour(scale, float(value)) for value in row] for row in values])
    found = scale.colours(values)
    assert found.shape == (40, 5, 3) and found.dtype == np.float32
    # a value on the edge between two entries may fall to either
    assert (np.abs(found - expected).max(-1) < 1e-6).mean() > 0.98 and np.abs(found - expected).max() < 0.05
    for row, column in ((3, 2), (7, 0), (8, 1)):
        assert found[row, column] == pytest.approx(theme.NOT_A_NUMBER)
    assert found[9, 4] == pytest.approx(table(name)[N_COLOURS - 1])
    assert scale.colours(np.zeros(0, np.float32)).shape == (0, 3)


def test_only_what_is_no_number_has_its_colour() -> None:
    for name in MAPS:
        gaps = np.abs(table(name)[:N_COLOURS] - np.array(theme.NOT_A_NUMBER)).max(axis=1)
        assert gaps.min() > 0.2


def test_the_maps_are_what_they_are_called() -> None:
    weights = np.array([0.2126, 0.7152, 0.0722])
    for name in ("viridis", "cividis"):  # ever lighter
        assert (np.diff(table(name)[:N_COLOURS] @ weights) > 0).all()
    light = table("diverging")[:N_COLOURS] @ weights
    assert light.argmax() in range(118, 138) and table("diverging")[0, 2] > 0.7 > 0.3 > table("diverging")[0, 0]
    middle = table("diverging")[N_COLOURS // 2]
    assert np.ptp(middle) < 0.05  # zero is grey, the same distance from blue and red
    assert viridis(np.array([0.0, 1.0])) == pytest.approx(np.array([theme.rgb("#440154"), theme.rgb("#FDE725")]))


@pytest.mark.parametrize("limits", [(1.0, 1.0), (2.0, 1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_scales_refuse_what_is_no_range(limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="low < high, both finite"):
        Scale(*limits)
    with pytest.raises(ValueError, match="one of viridis, cividis, diverging, got 'jet'"):
        Scale(0.0, 1.0, "jet")


def test_ranges_are_robust_symmetric_and_never_empty() -> None:
    values = np.r_[np.linspace(1, 2, 1000), 1e9, -1e9, np.nan, np.inf]
    low, high = robust_range(values, signed=False)
    assert 1.0 < low < 1.05 and 1.95 < high < 2.0
    low, high = robust_range(np.r_[values, -3 * np.ones(100)], signed=True)
    assert low == -high and high == pytest.approx(3.0)
    assert robust_range(np.full(9, np.nan), True) == (-1.0, 1.0)
    assert robust_range(np.zeros(0), False) == (0.0, 1.0)
    sparse = np.zeros(1000)
    sparse[500] = 0.25  # a gradient that hardly any corner has
    assert robust_range(sparse, False) == (0.0, 0.25) and robust_range(sparse, True) == (-0.25, 0.25)
    for constant in (0.0, 7.0, -1e20):
        for signed in (False, True):
            low, high = robust_range(np.full(5, constant), signed)
            Scale(low, high)
            assert low <= constant <= high


def test_a_long_array_has_the_range_of_the_whole() -> None:
    values = np.random.default_rng(5).normal(size=700_000).astype(np.float32)
    assert robust_range(values, False) == pytest.approx(np.quantile(values, (0.02, 0.98)), abs=0.03)


def test_bad_values_are_counted_by_kind() -> None:
    values = np.array([[1, np.nan, np.inf], [-np.inf, 2, np.nan]])
    assert bad_values(values) == (2, 2) and bad_values(np.arange(3)) == (0, 0)


def test_ticks_are_round_and_within() -> None:
    assert ticks(-1, 1) == [-1, -0.5, 0, 0.5, 1]
    assert ticks(0.0, 0.0123) == pytest.approx([0, 0.005, 0.01])
    for low, high in ((-3.3e5, 7e5), (0.1, 0.1001), (1e-9, 3e-9), (-7.0, -6.9)):
        found = ticks(low, high)
        slack = 1e-6 * (high - low)
        assert 1 <= len(found) <= 5 and low - slack <= found[0] and found[-1] <= high + slack
    assert [text for _, text in tick_labels(-1, 1)] == ["−1.0", "−0.5", "0", "0.5", "1.0"]
    assert number_text(1200.0, 100.0) == "1200" and number_text(3.5e-7, 1e-7) == "3.5e−7"


def test_a_bar_shows_both_ends_and_its_ticks() -> None:
    from fake_ui import FakeUi

    ui = FakeUi()
    draw_colour_bar(ui, Scale(-2.0, 2.0, "diverging"), 280.0, (True, False))
    assert ui.says("−2") and ui.says("0") and ui.says("2")
    drawn = [call[0] for call in ui.calls]
    assert drawn.count("AddTriangleFilled") == 1  # values lie below the range, none above
    blocks = [call for call in ui.calls if call[0] == "AddRectFilledMultiColor"]
    assert blocks[0][1][0] < blocks[-1][1][0] and all(a[2][0] >= b[1][0] for a, b in zip(blocks, blocks[1:]))  # noqa: B905
