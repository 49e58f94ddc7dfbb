"""Axes around curves: margins, whole iterations as ticks, nothing cut off; empty and constant curves too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fake_ui import FakeUi

from workbench.plot_axes import setup_axes, whole_ticks


def limits_of(curves, log=(False, False)) -> tuple[float, ...]:
    ui = FakeUi()
    setup_axes(ui, curves, log)
    return next(call[1:5] for call in ui.calls if call[0] == "SetupAxesLimits")


def curve(xs, ys) -> tuple[np.ndarray, np.ndarray]:
    return np.array(xs, np.float64), np.array(ys, np.float64)


def test_no_point_lies_on_the_border() -> None:
    curves = [curve([1, 120], [3.0, 7.0]), curve([40], [12.0]), curve([], [])]
    for log in ((False, False), (True, False), (False, True), (True, True)):
        low_x, high_x, low_y, high_y = limits_of(curves, log)
        assert low_x < 1 and high_x > 120 and low_y < 3 and high_y > 12, log
        assert high_x < 150 and high_y < 20
        assert not log[0] or low_x > 0
        assert not log[1] or low_y > 0


@pytest.mark.parametrize("log", [False, True])
def test_nothing_and_one_value_have_axes_too(log: bool) -> None:
    for curves in ([], [curve([], [])], [curve([5], [2e-9])], [curve([5, 6], [4.0, 4.0])]):
        low_x, high_x, low_y, high_y = limits_of(curves, (log, log))
        assert low_x < high_x and low_y < high_y and all(map(math.isfinite, (low_x, high_x, low_y, high_y)))
    assert limits_of([curve([1, 2], [-1e308, 1e308])])[2:] == (-1e308, 1e308)


def test_ticks_are_whole_and_their_labels_lie_within() -> None:
    def width_of(text: str) -> float:
        return 7.0 * len(text)

    for low, high in ((-1.4, 122.4), (0.5, 1.5), (1, 3.1), (999, 100_300), (4000.0, 4003.0)):
        found = whole_ticks(low, high, 180.0, width_of)
        assert found and all(mark == int(mark) for mark in found)
        pixels = [180 * (mark - low) / (high - low) for mark in found]
        halves = [width_of(f"{mark:.0f}") / 2 for mark in found]
        assert pixels[-1] + halves[-1] <= 180 + 1e-9, (low, high)
        assert all(b - h > a + g for a, b, g, h in zip(pixels, pixels[1:], halves, halves[1:], strict=False))
    assert 120 not in whole_ticks(0, 120, 180.0, width_of)
