"""StageProfile: the events of a profiled iteration by stage and operator; self times from how they nest."""

from __future__ import annotations

import bisect
import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

MEMORY = "[memory]"
"""The name that the profiler gives to an allocation or a release."""


class Event(NamedTuple):
    """An event of torch's profiler. start, duration: in nanoseconds; device: "cpu" or the accelerator's type; n_bytes:
    of an allocation, negative where freed; number: an operator's; cause: of what ran on the device, that of the
    operator which started it; marked: by record_function."""

    name: str
    start: int
    duration: int
    thread: int = 0
    device: str = "cpu"
    n_bytes: int = 0
    number: int = 0
    cause: int = 0
    marked: bool = False

    @classmethod
    def of(cls, event: Any) -> Event:
        name, start, thread, device = event.name(), event.start_ns(), event.start_thread_id(), event.device_type().name
        if name == MEMORY:  # there are tens of thousands: only what counts is asked for
            return cls(name, start, 0, thread, device.lower(), event.nbytes())
        if device == "CPU":
            return cls(name, start, event.duration_ns(), thread, number=event.correlation_id(),
                       marked=event.is_user_annotation())
        return cls(name, start, event.duration_ns(), thread, device.lower(), cause=event.linked_correlation_id(),
                   marked=event.is_user_annotation())

    @property
    def end(self) -> int:
        return self.start + self.duration


@dataclasses.dataclass(frozen=True)
class OperatorCost:
    """An operator in a stage. self_secs: of the CPU, without the operators that it calls; device_secs: of what it
    started on the accelerator; allocated_bytes: all that it allocated itself, freed again or not."""

    name: str
    n_calls: int
    self_secs: float
    device_secs: float = 0.0
    allocated_bytes: float = 0.0

    @property
    def secs(self) -> float:
        """What it is ranked by: on the accelerator or, where it has nothing there, on the CPU."""
        return self.device_secs or self.self_secs


@dataclasses.dataclass(frozen=True)
class StageProfile:
    """A stage of a profiled iteration. secs: wall time; outside_secs: of those in no operator at all, which is Python
    and whatever isn't torch's; peak_bytes: the most that was in use above what was at its start. operators: costliest
    first."""

    name: str
    secs: float
    outside_secs: float
    device_secs: float
    allocated_bytes: float
    peak_bytes: float
    operators: tuple[OperatorCost, ...]


@dataclasses.dataclass
class _Sums:
    n_calls: int = 0
    self_time: int = 0
    device_time: int = 0
    allocated: int = 0


def by_stage(events: Sequence[Event], stages: Sequence[str], device: str) -> tuple[StageProfile, ...]:
    """What each of the stages did, in their order; device: the type of the one whose memory counts."""
    spans = _spans(events, stages)
    marks = {id(span) for span in spans}
    rest = sorted((event for event in events if id(event) not in marks), key=lambda event: (event.start, -event.end))
    starts = [event.start for event in rest]
    inside = [rest[bisect.bisect_left(starts, span.start) : bisect.bisect_left(starts, span.end)] for span in spans]
    found = [_stage_of(span, events, device) for span, events in zip(spans, inside, strict=True)]
    _add_device_times(found, rest)
    return tuple(_profile(span, sums, inside, device) for span, sums, inside, _ in found)


_Found = tuple[Event, dict[str, _Sums], list[Event], dict[int, str]]


def _spans(events: Sequence[Event], stages: Sequence[str]) -> list[Event]:
    """The mark of each stage: the first of that name after the one before has ended, as trainers have marks too."""
    marks = sorted((event for event in events if event.marked and event.device == "cpu"), key=lambda e: e.start)
    spans, end = [], -1
    for stage in stages:
        span = next((mark for mark in marks if mark.name == stage and mark.start >= end), None)
        if span is not None:
            spans.append(span)
            end = span.end
    return spans


def _stage_of(span: Event, inside: list[Event], device: str) -> _Found:
    """Sums by operator, and the operator of each number."""
    sums: dict[str, _Sums] = collections.defaultdict(_Sums)
    names: dict[int, str] = {}
    open_ones: dict[int, list[Event]] = collections.defaultdict(list)
    for event in inside:
        if event.name == MEMORY:
            _note_memory(event, open_ones[event.thread], sums, device)
            continue
        if event.device != "cpu":
            continue
        stack = open_ones[event.thread]
        while stack and stack[-1].end <= event.start:
            stack.pop()
        if stack:
            sums[stack[-1].name].self_time -= event.duration
        entry = sums[event.name]
        entry.n_calls += 1
        entry.self_time += event.duration
        names[event.number] = event.name
        stack.append(event)
    return span, sums, inside, names


def _note_memory(event: Event, stack: list[Event], sums: dict[str, _Sums], device: str) -> None:
    while stack and stack[-1].end < event.start:
        stack.pop()
    if stack and event.n_bytes > 0 and event.device == device:
        sums[stack[-1].name].allocated += event.n_bytes


def _add_device_times(found: Sequence[_Found], events: Iterable[Event]) -> None:
    """What ran on the accelerator goes to the operator that started it, however late it ran."""
    owners = {number: sums[name] for _, sums, _, names in found for number, name in names.items() if number}
    for event in events:
        if event.device != "cpu" and event.name != MEMORY and not event.marked and event.cause in owners:
            owners[event.cause].device_time += event.duration


def _profile(span: Event, sums: dict[str, _Sums], inside: Sequence[Event], device: str) -> StageProfile:
    operators = [OperatorCost(short(name), entry.n_calls, max(entry.self_time, 0) / 1e9, entry.device_time / 1e9,
                              float(entry.allocated)) for name, entry in sums.items() if entry.n_calls]
    allocated, peak = _memory(inside, device)
    return StageProfile(
        span.name, span.duration / 1e9, (span.duration - _covered(span, inside)) / 1e9,
        sum(operator.device_secs for operator in operators), float(allocated), float(peak),
        tuple(sorted(operators, key=lambda operator: -operator.secs)),
    )


def _memory(inside: Iterable[Event], device: str) -> tuple[int, int]:
    """All that was allocated, and the most that was in use at once above the start."""
    allocated = level = peak = 0
    for event in inside:
        if event.name == MEMORY and event.device == device:
            allocated += max(event.n_bytes, 0)
            level += event.n_bytes
            peak = max(peak, level)
    return allocated, peak


def _covered(span: Event, inside: Iterable[Event]) -> int:
    """How long any operator ran, on whichever thread: autograd has one of its own for an accelerator."""
    total, reached = 0, span.start
    for event in inside:  # by their starts
        if event.name == MEMORY or event.device != "cpu":
            continue
        end = min(event.end, span.end)
        total += max(end - max(event.start, reached), 0)
        reached = max(reached, end)
    return total


def merged(stages: Sequence[StageProfile]) -> StageProfile:
    """All of them as one, each operator once; its peak is that of the stage where it was highest above its start."""
    operators: dict[str, OperatorCost] = {}
    for operator in _all(stages):
        known = operators.get(operator.name, OperatorCost(operator.name, 0, 0.0))
        operators[operator.name] = OperatorCost(
            operator.name, known.n_calls + operator.n_calls, known.self_secs + operator.self_secs,
            known.device_secs + operator.device_secs, known.allocated_bytes + operator.allocated_bytes)
    return StageProfile(
        "all stages", sum(stage.secs for stage in stages), sum(stage.outside_secs for stage in stages),
        sum(stage.device_secs for stage in stages), sum(stage.allocated_bytes for stage in stages),
        max((stage.peak_bytes for stage in stages), default=0.0),
        tuple(sorted(operators.values(), key=lambda operator: -operator.secs)),
    )


def _all(stages: Sequence[StageProfile]) -> Iterator[OperatorCost]:
    for stage in stages:
        yield from stage.operators


def short(name: str) -> str:
    """An operator's name without what all have in common."""
    name = name.removeprefix("aten::").replace("autograd::engine::evaluate_function: ", "engine: ")
    return name.replace("torch::autograd::", "")
