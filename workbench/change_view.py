"""ChangeView: which two states of a run are compared, what is found, and what of it list and scene show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from workbench import products, theme
from workbench.change_report import FACES, write_lists
from workbench.change_state import COMPARED, FIELDS, State, faces_of, known_fields
from workbench.changes import INWARD, OUTWARD, PARTS, Changes, compare
from workbench.look_up import FoundFields, LookUpFields
from workbench.mailbox import Mailbox
from workbench.worker import WorkFailed, same_token

if TYPE_CHECKING:
    from workbench.snapshot import MeshArrays, Snapshot
    from workbench.view_state import ViewState

PANEL = "Changes"
BEFORE, KEPT_STATE, ITERATION = "before", "kept", "iteration"
"""Where the state before comes from: the last stop (of a recording the snapshot before), a state that was kept, a
recorded iteration."""

FLIPS = {"outward": OUTWARD, "inward": INWARD}
LAYERS = (*PARTS, *FLIPS, *FACES)
COLOURS = {
    "born": theme.BORN, "pruned": theme.PRUNED, "spoiled": theme.NOT_A_NUMBER, "flipped": theme.FAR_CUT,
    "moved": theme.FRUSTUM, "sdf": theme.ACTIVE, "same": theme.OUTSIDE, "outward": theme.WRONGLY_KEPT,
    "inward": theme.NEAR_CUT, "gained": theme.BORN, "lost": theme.PRUNED, "turned": theme.FAR_CUT,
}
SIZES = {"born": 0.92, "pruned": 0.86, "spoiled": 0.96, "flipped": 0.82, "moved": 0.6, "sdf": 0.4, "same": 0.2}
"""Edges of the drawn cubes in voxel widths."""

LABELS = {
    "born": "born", "pruned": "pruned", "spoiled": "became NaN", "flipped": "sign flipped", "moved": "moved",
    "sdf": "SDF changed", "same": "as before", "outward": "now outside", "inward": "now inside", "gained": "gained",
    "lost": "lost", "turned": "turned over",
}

MIN_THRESHOLD, MAX_THRESHOLD = 1e-5, 0.5
FOLLOW_VOXELS = 100_000
"""Larger sets are compared only while the run stands still."""

SHARE = 0.1
"""Most of the time that the worker may spend on following a run that plays."""

FORGET_BYTES = 64_000_000
"""States of stops that take more are let go where nobody looks."""

N_LISTED = 8
_COMPARE, _FACES, _SAVE = "changes", "changes' faces", "changes' lists"


@dataclasses.dataclass
class ChangeView:
    """mode: one of BEFORE, KEPT_STATE, ITERATION; iteration: the recorded one before; kept: the state that was kept;
    threshold in voxel widths; shown: the scene shows what changed; layers: which of LAYERS; listed: which of PARTS the
    list shows. Derived: a and b, the states before and after (None where nothing can be compared), found, faces by
    their layer, note: why nothing is found, waiting: what is found is of other states than these."""

    KEPT: ClassVar[tuple[str, ...]] = ("threshold", "layers")

    mode: str = BEFORE
    iteration: int = 0
    kept: State | None = None
    threshold: float = 0.01
    shown: bool = True
    layers: dict[str, bool] = dataclasses.field(default_factory=lambda: dict.fromkeys(LAYERS, True))
    listed: str = ""
    a: State | None = None
    b: State | None = None
    found: Changes | None = None
    faces: Mapping[str, MeshArrays] = dataclasses.field(default_factory=dict)
    note: str = ""
    waiting: bool = False
    answers: Mailbox[FoundFields] = dataclasses.field(default_factory=lambda: Mailbox(FoundFields()))
    _stops: dict[str, list[State]] = dataclasses.field(default_factory=dict)  # by stage looked at, the last two
    _asked: tuple[int, frozenset[str]] | None = None
    _looked_up: tuple[FoundFields, bool, State | None] | None = None
    _compared: tuple = ()
    _failed: str = ""  # why these could not be compared
    _saved: int = 0
    _told: Any = None
    _counted: tuple[tuple, Any] = ((), None)
    _listed: tuple[tuple, Any] = ((), None)

    # What the run must give for it

    def wants(self, view: ViewState) -> bool:
        """Whether anybody looks: at the tab, panels hidden or not, or at a kept state's differences in the scene."""
        return PANEL in view.tabs.values() or (self.kept is not None and self.shown)

    def scene_fields(self, view: ViewState, snapshot: Snapshot) -> set[str]:
        """Asked for as rarely as the scene's."""
        unseen = not self.wants(view) or self._too_large(snapshot)
        return set() if unseen else {"voxels", *known_fields(snapshot.field_kinds)}

    @staticmethod
    def _too_large(snapshot: Snapshot) -> bool:
        return snapshot.playing and snapshot.scalars.get("voxels", 0.0) > FOLLOW_VOXELS

    # What the user does

    def keep(self) -> None:
        """Keeps the state after as the one before what comes."""
        if self.b is not None:
            self.kept, self.mode, self.shown = self.b, KEPT_STATE, True

    def drop(self) -> None:
        self.kept, self.mode = None, BEFORE

    def save(self, view: ViewState) -> None:
        """Writes what changed as a list beside the checkpoint; `said` tells once it is done."""
        found, threshold = self.found, self.threshold
        path = view.checkpoint_path.parent / f"changes_{found.a.iteration:06d}_{found.b.iteration:06d}.csv"
        self._saved += 1  # a token that holds no states
        view.worker.ask(_SAVE, self._saved, lambda: _written(found, threshold, path))

    def said(self, view: ViewState) -> str:
        """What there is to say of a list that has been written since it was asked last, or ""."""
        done = view.worker.result(_SAVE)
        if done is None or done is self._told:
            return ""
        self._told = done
        return done[1].message if isinstance(done[1], WorkFailed) else done[1]

    def clear(self) -> None:
        """Of the run before: its states say nothing of the next."""
        self.drop()
        self.a = self.b = self.found = self._asked = self._looked_up = None
        self.faces, self.note, self.waiting, self._compared, self._stops = {}, "", False, (), {}
        self._counted = self._listed = ((), None)
        self.answers = Mailbox(FoundFields())

    def requests(self, snapshot: Snapshot) -> list[LookUpFields]:
        """What has to be asked of a recording for the state before, once."""
        wanted = self._wanted(snapshot)
        if wanted is None or wanted == self._asked:
            return []
        self._asked = wanted
        return [LookUpFields(*wanted, self.answers)]

    # What follows

    @property
    def n_found(self) -> int:
        """Grows with every answer of a recording."""
        return self.answers.latest().n

    @property
    def n_bytes(self) -> int:
        """Of the states that are held for comparing, kept or of stops."""
        arrays = {id(array): array.nbytes for state in self._held() for array in state.arrays.values()}
        return sum(arrays.values())

    def _held(self) -> list[State]:
        states = [state for pair in self._stops.values() for state in pair]
        return [*states, *([self.kept] if self.kept is not None else [])]

    def in_scene(self, view: ViewState) -> Changes | None:
        """What the scene is to show; what-ifs go before it."""
        return self.found if self.shown and self.wants(view) and view.what_ifs.in_scene is None else None

    @property
    def labels(self) -> tuple[str, str]:
        """What the two states that are shown are called now: the same arrays may be those of another iteration, too."""
        found, (a, b) = self.found, (self.a, self.b)
        same = a is not None and b is not None and same_token((a.token, b.token), self._compared)
        return (a.label, b.label) if same else (found.a.label, found.b.label)

    def update(self, view: ViewState, snapshot: Snapshot) -> None:
        """Brings all that is derived up to date with a snapshot that has the scene's fields."""
        if not self.wants(view):
            self._let_go(view)
            return
        if not 0.0 <= self.threshold <= MAX_THRESHOLD:  # a preferences file may hold anything
            self.threshold = 0.01
        if self._has_all(snapshot):
            self.b = self._state_of(snapshot)
            self._note_stop(snapshot)
        elif snapshot.field_kinds.get("voxels") != "voxels":  # a stage before there are any
            self.b = None
        self.a = self._a_of(snapshot)
        self._compare(view, SHARE if snapshot.playing else 1.0)
        self._ask_faces(view, SHARE if snapshot.playing else 1.0)

    def _let_go(self, view: ViewState) -> None:
        if self.b is not None:  # else nothing was asked
            for key in (_COMPARE, _FACES):
                view.worker.forget(key)
        self.a = self.b = self.found = None
        self.faces, self._compared, self._counted, self._listed = {}, (), ((), None), ((), None)
        if self._asked is not None:  # a recording is read anew
            self._asked, self._looked_up, self.answers = None, None, Mailbox(FoundFields())
        if self._stops and self.n_bytes > FORGET_BYTES:
            self._stops = {}

    @staticmethod
    def _has_all(snapshot: Snapshot) -> bool:
        """Whether the snapshot answers for all that is compared: a stage may not have made it yet."""
        return "voxels" in snapshot.fields and known_fields(snapshot.field_kinds) <= snapshot.asked

    def _state_of(self, snapshot: Snapshot) -> State:
        """The snapshot as a state; the same object as long as its arrays are the same."""
        made = state_of(snapshot)
        for known in (self.b, *self._stops.get(snapshot.products.stage, ())):
            if known is not None and made.label == known.label and same_token(made.token, known.token):
                return known
        return made

    def _note_stop(self, snapshot: Snapshot) -> None:
        """Remembers where the run came to rest, of each stage that is looked at."""
        if snapshot.playing:
            return
        stops = self._stops.setdefault(snapshot.products.stage, [])
        if stops and same_token(stops[-1].token, self.b.token):
            stops[-1] = self.b
        else:
            stops[:] = [*stops[-1:], self.b]

    def _a_of(self, snapshot: Snapshot) -> State | None:
        self.note = ""
        if self.b is None:
            return None
        if self.mode == KEPT_STATE and self.kept is not None:
            return self.kept
        if snapshot.source != "live":
            return self._found_in_recording(snapshot)
        before = [state for state in self._stops.get(snapshot.products.stage, ())
                  if not same_token(state.token, self.b.token)]
        if not before:
            self.note = "Nothing to compare with yet: what a step changes is shown after it."
        return before[-1] if before else None

    # Of a recording

    def _wanted(self, snapshot: Snapshot) -> tuple[int, frozenset[str]] | None:
        """The iteration and the names that the state before is to be read of."""
        if snapshot.source == "live" or snapshot.past.oldest is None or self.b is None or self.mode == KEPT_STATE:
            return None
        wanted = self.b.iteration - 1 if self.mode == BEFORE else self.iteration
        if wanted < snapshot.past.oldest:
            return None
        names = {"voxels", *known_fields(snapshot.field_kinds)}
        return wanted, products.run_names(snapshot, names)

    def _found_in_recording(self, snapshot: Snapshot) -> State | None:
        wanted, answer = self._wanted(snapshot), self.answers.latest()
        if wanted is None:
            self.note = "This is the first that is recorded: nothing is before it."
            return None
        if (answer.iteration, answer.names) != wanted:
            self.note = "Reading the recording …"
            return self.a if self.a is not self.kept else None
        asked = self.mode == ITERATION
        if self._looked_up is None or not same_token(self._looked_up[:2], (answer, asked)):
            self._looked_up = (answer, asked, _state_of_answer(snapshot, answer, asked))
        state = self._looked_up[2]
        if state is None:
            self.note = answer.error or f"No voxels are recorded of iteration {answer.iteration}."
        return state

    # What differs

    def _compare(self, view: ViewState, share: float) -> None:
        a, b = self.a, self.b
        if a is None or b is None:
            self.found, self._compared, self.waiting = None, (), False
            return
        token = (a.token, b.token)
        if same_token(token, self._compared):
            self.waiting, self.note = False, self._failed or self.note
            return
        if view.frustum.background:
            threshold = self.threshold
            view.worker.ask(_COMPARE, token, lambda: _compared(a, b, threshold), share)
            done = view.worker.result(_COMPARE)
            self.waiting = done is None or not same_token(done[0], token)
            if done is None or same_token(done[0], self._compared):
                return
            token, value = done
        else:
            value = _compared_now(a, b)
        self._compared = token
        self._failed = value.message if isinstance(value, WorkFailed) else ""
        self.found = None if isinstance(value, WorkFailed) else value
        self.note = self._failed or self.note

    def _ask_faces(self, view: ViewState, share: float) -> None:
        found = self.in_scene(view)
        if found is None or found.gained is None or not any(self.layers[name] for name in FACES):
            self.faces = {}
            return
        if not view.frustum.background:
            self.faces = changed_faces(found)
            return
        view.worker.ask(_FACES, (found,), lambda: changed_faces(found), share)
        done = view.worker.result(_FACES)
        if done is not None and not isinstance(done[1], WorkFailed):
            self.faces = done[1]

    # What list and scene show

    def counts(self) -> dict[str, int]:
        """Voxels of each of PARTS."""
        token = (self.found, self.threshold)
        if not same_token(self._counted[0], token):
            self._counted = token, self.found.counts(self.threshold)
        return self._counted[1]

    def top(self) -> tuple[str, list[tuple[tuple[int, int, int], float, float]]]:
        """Which of PARTS is listed, and its voxels that changed most: coordinates, |Δδ|, |ΔSDF|."""
        counts = self.counts()
        part = self.listed if self.listed in PARTS else next((name for name in PARTS if counts[name]), PARTS[0])
        token = (self.found, self.threshold, part)
        if not same_token(self._listed[0], token):
            voxels = self.found.rows(part, self.threshold)[0]
            rows = self.found.top(part, self.threshold, N_LISTED)
            self._listed = token, [(tuple(voxels.voxel_ijk[row].tolist()), *sizes) for row, *sizes in rows]
        return part, self._listed[1]


def label_of(name: str, found: Changes | None) -> str:
    """What one of LAYERS is called; between two resolutions nothing can be as before."""
    return "in both" if name == "same" and found is not None and not found.one_lattice else LABELS[name]


def state_of(snapshot: Snapshot) -> State:
    """The state that a snapshot shows, which must hold `voxels`."""
    known = known_fields(snapshot.field_kinds)
    arrays = {name: snapshot.fields[name] for name in FIELDS if name in known and name in snapshot.fields}
    iteration = _date(snapshot)
    return State(snapshot.fields["voxels"], arrays, iteration, _label(snapshot, iteration))


def changed_faces(found: Changes) -> dict[str, MeshArrays]:
    """The triangles of FACES: lost ones as they were before, the others as they are after."""
    return {"gained": faces_of(found.b, found.gained), "lost": faces_of(found.a, found.lost),
            "turned": faces_of(found.b, found.turned)}


def _compared(a: State, b: State, threshold: float) -> Changes:
    """The same with all that a panel draws of it, so that no redraw has to work it out."""
    found = compare(a, b)
    found.counts(threshold), found.n_corners_of, found.histograms  # noqa: B018 - each is remembered
    return found


def _compared_now(a: State, b: State) -> Changes | WorkFailed:
    try:
        return compare(a, b)
    except ValueError as error:  # a field of a run's own that doesn't fit its voxels
        return WorkFailed(str(error))


def _written(found: Changes, threshold: float, path: Path) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return f"exported {write_lists(found, threshold, path)}"
    except OSError as error:
        return f"not exported: {error}"


def _date(snapshot: Snapshot) -> int:
    """The iteration that the fields compared are of: a recording may have older ones."""
    dates = [snapshot.field_iterations[name] for name in COMPARED if name in snapshot.field_iterations]
    return min(dates, default=snapshot.iteration)


def _label(snapshot: Snapshot, iteration: int) -> str:
    """Such as "iteration 42, after backward" or "pass 2, prune 1"; iteration: the one that the fields are of."""
    if snapshot.products.stages:
        under_way = snapshot.iteration_under_way
        stage = f", {snapshot.products.stage}" if snapshot.products.stage else ""
        return _dated(f"pass {snapshot.iteration + under_way}{stage}", snapshot.iteration, iteration)
    if snapshot.iteration_under_way and snapshot.stage_done:
        return f"iteration {snapshot.iteration + 1}, after {snapshot.stage_done}"
    return _dated(f"iteration {snapshot.iteration}", snapshot.iteration, iteration)


def _state_of_answer(snapshot: Snapshot, answer: FoundFields, asked: bool) -> State | None:
    """The state that a recording's answer tells of, by the names that the snapshot has its fields under; asked: for
    that very iteration, so that another one is told."""
    fields, date = {}, answer.iteration
    for name in ("voxels", *sorted(known_fields(snapshot.field_kinds))):
        own = next(iter(products.run_names(snapshot, (name,))))
        if own in answer.fields:
            fields[name] = answer.fields[own]
            date = min(date, answer.older.get(own, date)) if name in COMPARED else date
    voxels = fields.pop("voxels", None)
    word = "pass" if snapshot.products.stages else "iteration"
    return None if voxels is None else State(
        voxels, fields, date, _dated(f"{word} {answer.iteration if asked else date}", answer.iteration, date, asked))


def _dated(label: str, iteration: int, date: int, asked: bool = True) -> str:
    return f"{label}, fields of {date}" if asked and date < iteration else label
