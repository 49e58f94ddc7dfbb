"""StageMeter: seconds and peak memory of a stage of a run; WorkMeter: what an iteration takes above its start."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import os
import time
from collections.abc import Iterable, Mapping

import torch


@dataclasses.dataclass(frozen=True)
class StageCost:
    """secs: wall time. peak_bytes: highest memory in use during the stage, not above its start; NaN if unknown.

    On CUDA the bytes are those of torch's allocator on that device. On the CPU they are the resident memory of the
    whole process, other threads included.
    """

    secs: float
    peak_bytes: float


SECS_PREFIX, BYTES_PREFIX = "secs_", "bytes_"


def cost_columns(costs: Mapping[str, StageCost]) -> dict[str, float]:
    """What every stage cost as columns of a history: secs_<stage> and bytes_<stage>."""
    secs = {f"{SECS_PREFIX}{stage}": cost.secs for stage, cost in costs.items()}
    return secs | {f"{BYTES_PREFIX}{stage}": cost.peak_bytes for stage, cost in costs.items()}


class StageMeter:
    """Measures stages one at a time: `start()`, the stage, `stop()`.

    On CUDA, stop waits for the device: without that the time would be that of the launches. On the CPU, the peak
    comes from Linux' VmHWM, set back at every start; where the system refuses that, peak_bytes is NaN.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._status = self._clear = None
        if self._device.type != "cuda":
            self._open_proc()
        self._started = time.perf_counter()

    def _open_proc(self) -> None:
        try:
            self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY)
            self._status = os.open("/proc/self/status", os.O_RDONLY)
            os.pwrite(self._clear, b"5", 0)
        except OSError:
            self.close()

    def start(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._clear is not None:
            os.pwrite(self._clear, b"5", 0)
        self._started = time.perf_counter()

    def stop(self) -> StageCost:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            secs = time.perf_counter() - self._started
            return StageCost(secs, float(torch.cuda.max_memory_allocated(self._device)))
        secs = time.perf_counter() - self._started
        return StageCost(secs, self._resident_peak_bytes())

    @property
    def on_cuda(self) -> bool:
        return self._device.type == "cuda"

    def settled_bytes(self) -> float:
        """Memory in use now, without what was freed and only kept for later; NaN where that can't be told.

        On the CPU the C library gives its freed pages back first: milliseconds, and what comes next takes them anew.
        """
        if self.on_cuda:
            return float(torch.cuda.memory_allocated(self._device))
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if self._status is not None else None
        if trim is None:  # not glibc
            return math.nan
        trim(0)
        return self._status_bytes(b"VmRSS:")

    def _resident_peak_bytes(self) -> float:
        return self._status_bytes(b"VmHWM:")

    def _status_bytes(self, name: bytes) -> float:
        if self._status is None:
            return math.nan
        text = os.pread(self._status, 8192, 0)
        at = text.find(name)
        return math.nan if at < 0 else float(text[at + len(name) :].split(None, 1)[0]) * 1024

    def close(self) -> None:
        """Gives the system's files back; the meter still measures seconds afterwards."""
        for handle in (self._clear, self._status):
            if handle is not None:
                os.close(handle)
        self._clear = self._status = None

    def __del__(self) -> None:
        self.close()


class WorkMeter:
    """The memory that an iteration takes at its peak above what was in use before: `begin()`, its stages, `end()`.

    On CUDA every iteration is measured. On the CPU a few at first, then one in EVERY: freed memory must be given back
    before, else the peak would tell nothing. The first iteration of a process is never one, it sets things up.
    """

    EVERY, FIRST = 16, 8

    def __init__(self, meter: StageMeter) -> None:
        self._meter, self._n_begun, self._start = meter, 0, math.nan

    def begin(self) -> None:
        n, self._n_begun = self._n_begun, self._n_begun + 1
        due = n > 0 and (self._meter.on_cuda or n <= self.FIRST or n % self.EVERY == 0)
        self._start = self._meter.settled_bytes() if due else math.nan

    def end(self, costs: Iterable[StageCost]) -> float | None:
        """Bytes above the start at the highest of these stages; None where this iteration was not measured."""
        start, self._start = self._start, math.nan
        work = max((cost.peak_bytes for cost in costs), default=math.nan) - start
        return max(work, 0.0) if work == work else None
