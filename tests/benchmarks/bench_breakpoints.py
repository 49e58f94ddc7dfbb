"""What breakpoints cost an iteration: all that is done for them after each stage, over a long history."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np
from fresh import row

from sparseflex.training.fit import STAGES
from workbench.breakpoints import Breakpoints
from workbench.history_table import HistoryTable
from workbench.snapshot import Breakpoint, History

N_ITERATIONS, N_SCALARS = 10_000, 45
ISSUE = ("isnan(loss)", "faces == 0", "active / voxels < 0.02", "grad_norm > 1e3", "near >= far",
         "pruned_fraction > 0.3")
SETS = {"adapt_frustum": ("near", "far"), "activate": ("active",), "extract": ("faces",), "loss": ("loss",),
        "backward": ("grad_norm",), "prune": ("pruned_fraction", "voxels")}
VALUES = {"near": 0.5, "far": 1.5, "active": 500.0, "faces": 900.0, "loss": 0.5, "grad_norm": 1.0,
          "pruned_fraction": 0.0, "voxels": 4000.0}


class _Named:
    """As much of a run as breakpoints ask for."""

    stages: Sequence[str] = STAGES
    iteration = N_ITERATIONS
    scalar_names = tuple(VALUES)

    def scalars(self) -> Mapping[str, float]:
        return VALUES


def micros_an_iteration(texts: Sequence[str], n_rounds: int = 9, n_each: int = 400) -> float:
    """Median over rounds: microseconds in Breakpoints.began and .after of all stages of an iteration."""
    names = tuple(VALUES) + tuple(f"other_{k}" for k in range(N_SCALARS - len(VALUES)))
    rows = np.tile(np.array([VALUES.get(name, 1.0) for name in names]), (N_ITERATIONS, 1))
    history = HistoryTable(History(names, rows))
    points = Breakpoints(_Named(), history.view(), [Breakpoint(text) for text in texts])
    made = [SETS.get(stage, ()) for stage in STAGES]
    iterations, rounds = itertools.count(N_ITERATIONS), []
    for _ in range(n_rounds):
        started = time.perf_counter()
        for iteration in itertools.islice(iterations, n_each):
            points.began()
            for number in range(len(STAGES)):
                if points.after(number, iteration, VALUES, made[number], history.column):
                    raise RuntimeError("a breakpoint was hit that can't be")
        rounds.append((time.perf_counter() - started) / n_each)
    return statistics.median(rounds) * 1e6 if texts else math.nan


def rows() -> list[dict]:
    """The rows of `workbench bench`."""
    windowed = micros_an_iteration(["loss > 2 * mean(loss, 50)"])
    six = micros_an_iteration(ISSUE)
    return [
        row("breakpoint loss > 2 * mean(loss, 50), 10,000 iterations behind", windowed, "us/it", 20),
        row("six breakpoints without history, each", six / len(ISSUE), "us/it", 20),
        row("breakpoint loss > 2 * mean(loss, 5000), the same", micros_an_iteration(["loss > 2 * mean(loss, 5000)"]),
            "us/it"),
    ]
