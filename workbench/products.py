"""Products: snapshots of a run whose stages each leave voxels behind, seen as those of one chosen stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from sparseflex.training.run import FieldKind
from workbench.snapshot import Products, Snapshot, frozen
from workbench.worker import same_token

SEPARATOR = "/"
"""Between stage and name of a field that a stage left: "encoder 3/norm"."""

VOXELS = "voxels"
FOLLOW = ""
"""The choice of no stage: the newest one of a pass under way, the final surface once it is whole."""

BEGINNING = "points"
"""The stage before there are voxels: its products are the input points alone."""

_OF_SURFACE = ("voxels", "voxel", "corner")
"""Kinds of fields that belong to the final surface's voxels, and to no other's."""


def stages_of(kinds: Mapping[str, FieldKind]) -> tuple[str, ...]:
    """The stages that leave voxels behind, in the order of the run's fields; () for any other run."""
    end = SEPARATOR + VOXELS
    return tuple(name[: -len(end)] for name, kind in kinds.items() if kind == "voxels" and name.endswith(end))


def newest_stage(snapshot: Snapshot, stages: tuple[str, ...]) -> str:
    """What FOLLOW means now: the last stage of the pass under way that has left voxels, BEGINNING where none has, ""
    (the final surface) before a pass and once what comes after the last such stage has run."""
    if not snapshot.iteration_under_way or snapshot.stage_next not in snapshot.stages:
        return FOLLOW
    done = snapshot.stages[: snapshot.stages.index(snapshot.stage_next)]
    last = max((place for place, stage in enumerate(done) if stage in stages), default=-1)
    if last < 0:
        return BEGINNING
    return FOLLOW if done[last] == stages[-1] and last < len(done) - 1 else done[last]


def shown_stage(snapshot: Snapshot, chosen: str) -> str:
    """The stage whose products are shown for a choice: itself, or what FOLLOW means where there is no such stage."""
    stages = stages_of(snapshot.field_kinds)
    if not stages:
        return FOLLOW
    return chosen if chosen in (*stages, BEGINNING) else newest_stage(snapshot, stages)


def seen(snapshot: Snapshot, chosen: str = FOLLOW) -> Snapshot:
    """The snapshot as scene and panels see it: a stage's STAGE/NAME is its NAME, the final surface's own fields are
    hidden, and what no stage leaves stays. A run of any other kind stays the same object."""
    stages = stages_of(snapshot.field_kinds)
    if not stages:
        return snapshot
    stage = shown_stage(snapshot, chosen)
    kinds, names = {}, {}  # names: the run's own, by those that are seen
    for name, kind in snapshot.field_kinds.items():
        own, _, plain = name.rpartition(SEPARATOR)
        if own == stage:
            kinds[plain], names[plain] = kind, name
        elif not own and kind not in _OF_SURFACE:
            kinds.setdefault(plain, kind)
            names.setdefault(plain, name)
    raw = snapshot.fields
    products = Products(
        stage, stages, frozen({name: kind for name, kind in snapshot.field_kinds.items() if SEPARATOR in name}),
        frozen({name: value for name, value in raw.items() if SEPARATOR in name}))
    return dataclasses.replace(
        snapshot, field_kinds=frozen(kinds), products=products,
        fields=frozen({plain: raw[name] for plain, name in names.items() if name in raw}),
        asked=frozenset(plain for plain, name in names.items() if name in snapshot.asked) | frozenset(
            name for name in snapshot.asked if SEPARATOR in name),
        field_iterations=frozen({plain: snapshot.field_iterations[name] for plain, name in names.items()
                                 if name in snapshot.field_iterations}))


def run_names(snapshot: Snapshot, names: Iterable[str]) -> frozenset[str]:
    """What the run calls the fields that a snapshot, as `seen` gives it, has under these names."""
    products = snapshot.products
    found = set()
    for name in names:
        own = f"{products.stage}{SEPARATOR}{name}"
        found.add(own if products.stage and own in products.kinds else name)
    return frozenset(found)


@dataclasses.dataclass
class Seen:
    """What `seen` gives, made once for a snapshot and a choice."""

    _known: tuple[tuple, Snapshot] | None = None

    def of(self, snapshot: Snapshot, chosen: str) -> Snapshot:
        if self._known is None or not same_token(self._known[0], (snapshot, chosen)):
            self._known = ((snapshot, chosen), seen(snapshot, chosen))
        return self._known[1]
