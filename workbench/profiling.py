"""Profiling: one iteration under torch's own profiler, as a trace file and as numbers by stage and operator."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.autograd import profiler as torch_profiler

from workbench.profile_events import Event, StageProfile, by_stage, merged

# kineto tells stderr when it starts and stops, which would tear a progress bar; read when it is first used
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

_GZIP_LEVEL = 4
_TAKEN = "another profiler runs in this thread, such as the trainer's own"
_ready = False


@dataclasses.dataclass(frozen=True)
class Profile:
    """One iteration as the profiler saw it. stages in the order in which they ran; path: of the trace, None where it
    couldn't be written; device: the run's; n_events: in the trace."""

    iteration: int
    stages: tuple[StageProfile, ...]
    device: str = "cpu"
    path: Path | None = None
    n_events: int = 0

    @property
    def secs(self) -> float:
        return sum(stage.secs for stage in self.stages)

    @property
    def whole(self) -> StageProfile:
        """All stages taken together, each operator once."""
        return merged(self.stages)

    @property
    def words(self) -> str:
        """Which operator of which stage took most, such as "mm in backward took 41 % of 83 ms"; "" where none ran."""
        found = [(operator.secs, operator.name, stage.name) for stage in self.stages for operator in stage.operators]
        if not found or not self.secs > 0:
            return ""
        secs, operator, stage = max(found)
        return f"{operator} in {stage} took {secs / self.secs:.0%} of {1e3 * self.secs:,.0f} ms"


def make_ready() -> None:
    """Starts torch's profiler once, empty: from the main thread, as it complains where another one is the first."""
    global _ready
    if not _ready:
        _ready = True
        with contextlib.suppress(RuntimeError), torch_profiler.profile(use_kineto=True):
            pass


class Profiler:
    """torch's profiler around the stages of one iteration: start it, run each stage in `stage`, then `finish`.

    Shapes and memory are noted, stacks aren't. It sees what the thread that starts it does, and what autograd does for
    it. Raises RuntimeError where another profiler runs in this thread. Built on torch.autograd.profiler, which
    torch.profiler wraps: that imports half of torch.compile first, a second in which the window would stand still.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        if torch.autograd._profiler_enabled():  # torch lets two start, and the first one then finds nothing
            raise RuntimeError(_TAKEN)
        self._device = torch.device(device)
        on_cuda = self._device.type == "cuda"
        self._profiler: Any = torch_profiler.profile(
            use_kineto=True, use_device="cuda" if on_cuda else None, record_shapes=True, profile_memory=True)
        self._profiler.__enter__()
        self._stages: list[str] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Marks what runs within as this stage, by its name, in the trace too."""
        self._stages.append(name)
        with torch_profiler.record_function(name):
            yield

    def stop(self) -> None:
        """Ends it, with nothing kept; harmless where it has ended."""
        if self._profiler is not None:
            active, self._profiler = self._profiler, None
            active.__exit__(None, None, None)

    def finish(self, iteration: int, path: Path) -> tuple[Profile, str]:
        """Ends it, writes the trace (.json.gz) and sums it up; with it why the trace could not be written, or "".

        Raises RuntimeError where a profiler of the run's own has taken its place.
        """
        active = self._profiler
        self.stop()
        events = [Event.of(event) for event in active.kineto_results.events()]
        stages = by_stage(events, self._stages, self._device.type)
        if not stages:
            raise RuntimeError(_TAKEN)
        profile = Profile(iteration, stages, str(self._device), path, len(events))
        try:
            write_trace(active, path)
        except (OSError, RuntimeError) as error:
            return dataclasses.replace(profile, path=None), str(error)
        return profile, ""


def write_trace(active: Any, path: Path) -> None:
    """The events as a Chrome trace, gzipped, whole or not at all; Perfetto and Chrome open it as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with tempfile.TemporaryDirectory() as folder, gzip.open(part, "wb", compresslevel=_GZIP_LEVEL) as packed:
            plain = Path(folder) / "trace.json"
            active.export_chrome_trace(str(plain))
            with plain.open("rb") as source:
                shutil.copyfileobj(source, packed, 1 << 20)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class ProfileDesk:
    """Profiles the next whole iteration once that is asked for; belongs to the thread that drives the run.

    `asked` and `active` tell how far that has come, `latest` is the last profile. Nothing of it touches the run: a
    failure of the profiler is a line, see `ended`.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._folder: Path | None = None
        self._profiler: Profiler | None = None
        self._trouble = ""
        self.latest: Profile | None = None

    @property
    def pending(self) -> bool:
        """Whether a profile was asked for that hasn't ended."""
        return self._folder is not None

    @property
    def active(self) -> bool:
        return self._profiler is not None

    def ask(self, folder: Path) -> None:
        """The next whole iteration is to be profiled; its trace goes to the folder as trace-ITERATION.json.gz."""
        self._folder = folder

    @contextlib.contextmanager
    def stage(self, name: str, first: bool) -> Iterator[None]:
        """Around a stage of the run; first: of its iteration."""
        if first and self._folder is not None and self._profiler is None:
            try:
                self._profiler = Profiler(self._device)
            except RuntimeError as error:  # another profiler's, of the user's own trainer
                self._trouble, self._folder = f"no profile: {' '.join(str(error).split())}", None
        if self._profiler is None:
            yield
            return
        with self._profiler.stage(name):
            yield

    def ended(self, iteration: int) -> str:
        """After the last stage of an iteration, which is that many; what there is to say of a profile, or ""."""
        trouble, self._trouble = self._trouble, ""
        if self._profiler is None or self._folder is None:
            return trouble
        profiler, folder = self._profiler, self._folder
        self._profiler = self._folder = None
        try:
            self.latest, trouble = profiler.finish(iteration, folder / f"trace-{iteration}.json.gz")
        except (RuntimeError, ValueError) as error:
            return f"no profile: {error}"
        return f"no trace: {trouble}" if trouble else f"profiled iteration {iteration:,}: {self.latest.path}"

    def interrupt(self) -> None:
        """The iteration will not end as it began; the next whole one is profiled instead."""
        if self._profiler is not None:
            profiler, self._profiler = self._profiler, None
            with contextlib.suppress(RuntimeError):
                profiler.stop()

    def drop(self) -> None:
        """Nothing more is to be profiled."""
        self.interrupt()
        self._folder = None
