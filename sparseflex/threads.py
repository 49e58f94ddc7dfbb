"""One CPU thread for work too small to share: waking a second one for each short operation costs more than it saves.

Measured on two cores, for an iteration at 64³ (15k voxels): 77 ms with one thread, 131 ms with two that sleep between
operations; 67 ms with two that spin, but then nothing else may run beside. Who sets OMP_WAIT_POLICY=ACTIVE has chosen
to spin, and keeps all threads.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

SMALL_SCAN = 4_000_000
"""Voxels below which a pass over all of them in chunks runs on one thread: 2.9 ms for 1e6 instead of 4.8."""

SMALL_SECTION = 100_000
"""Active voxels below which an iteration of a fit runs on one thread."""

_SPINNING = os.environ.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE"  # OpenMP itself reads it once, at its start


@contextlib.contextmanager
def one_thread(when: bool) -> Iterator[None]:
    """Within it torch's CPU operations that start on this thread use one thread, where `when` holds."""
    before = torch.get_num_threads()
    if not when or before == 1 or _SPINNING:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_own_threads(work: Callable[[], None]) -> Callable[[], None]:
    """work, for a new thread: there torch's CPU operations use as many threads as on the one that calls this. Else it
    would be what any thread set last, for good: 1, where another one was within one_thread just then."""
    wanted = torch.get_num_threads()

    def call() -> None:
        torch.get_num_threads()  # a thread's first look takes over what was set last, and forgets its own
        torch.set_num_threads(wanted)
        work()

    return call


def small_scans_on_one_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """For functions whose first argument is a SparseVoxels: fewer than SMALL_SCAN of them run on one thread."""

    @functools.wraps(function)
    def call(voxels: Any, *arguments: Any, **named: Any) -> Any:
        with one_thread(voxels.n_voxels < SMALL_SCAN):
            return function(voxels, *arguments, **named)

    return call
