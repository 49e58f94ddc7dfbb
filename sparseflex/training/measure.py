"""StageMeter: seconds and peak memory of one stage of a run, on CUDA and on the CPU, in microseconds of overhead."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping

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

    def _resident_peak_bytes(self) -> float:
        if self._status is None:
            return math.nan
        text = os.pread(self._status, 8192, 0)
        at = text.find(b"VmHWM:")
        return math.nan if at < 0 else float(text[at + 6 :].split(None, 1)[0]) * 1024

    def close(self) -> None:
        """Gives the system's files back; the meter still measures seconds afterwards."""
        for handle in (self._clear, self._status):
            if handle is not None:
                os.close(handle)
        self._clear = self._status = None

    def __del__(self) -> None:
        self.close()
