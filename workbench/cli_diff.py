"""`workbench diff`: what differs between two recorded iterations, or two runs of the same shape."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from workbench.inputs import InputError, writable_folder

if TYPE_CHECKING:
    from workbench.change_state import State


@dataclasses.dataclass(frozen=True)
class Diff:
    """Compare two iterations of a recording, or two checkpoints: voxels, corners and faces that changed."""

    what: tyro.conf.Positional[str]
    """A recording (.h5), or a checkpoint, a scene, a mesh or my_run.py:make_run."""
    other: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[WHAT2]")] = ""
    """What to compare it with; of one recording alone two iterations are compared."""
    from_iteration: Annotated[int | None, tyro.conf.arg(name="from")] = None
    """Of a recording: the iteration before; its first where it is compared with itself, else its last."""
    to_iteration: Annotated[int | None, tyro.conf.arg(name="to")] = None
    """The iteration after, its last where not given."""
    threshold: float = 0.01
    """How far δ must move a corner, or its SDF change, to count; in voxel widths, 0 for anything that differs."""
    out: Path | None = None
    """Folder for changes.json, changes.csv and changes.npz: every voxel, corner and quad that changed."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        self._check()
        from workbench.change_report import summary, text_of, write_lists
        from workbench.changes import compare

        folder = None if self.out is None else writable_folder(self.out)
        try:
            states = self._states()
            found = compare(*(state for state, _ in states))
        except ValueError as error:  # a field that doesn't fit its voxels
            raise InputError(f"{self.what}: {error}") from error
        told = summary(found, self.threshold)
        first, second = (recorded for _, recorded in states)
        if not self.other and first is not None and first == second and found.a.iteration != found.b.iteration:
            print(f"workbench: warning: iterations {found.a.iteration} and {found.b.iteration} both show the fields "
                  f"recorded at {first}: what changed between them is not in the file", file=sys.stderr)
        if folder is not None:
            try:
                (folder / "changes.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")
                for suffix in (".csv", ".npz"):
                    print(write_lists(found, self.threshold, folder / f"changes{suffix}"), file=sys.stderr)
            except OSError as error:
                raise InputError(f"--out {folder}: can't be written ({error.strerror or error})") from None
        print(json.dumps(told, indent=1) if self.json else text_of(told))
        return 0

    def _check(self) -> None:
        """What is known to fail fails before anything is opened."""
        if not self.threshold >= 0:
            raise InputError(f"--threshold must be at least 0 voxel widths, got {self.threshold:g}")
        if not self.other and not _recorded(self.what):
            raise InputError(f"{self.what} has one iteration: name a second one to compare it with, or a recording")
        for given, flag, where in ((self.from_iteration, "--from", self.what),
                                   (self.to_iteration, "--to", self.other or self.what)):
            if given is not None and not _recorded(where):
                raise InputError(f"{flag} applies to a recording (.h5): {where} is none")

    def _states(self) -> tuple[tuple[State, int | None], tuple[State, int | None]]:
        first = self.from_iteration
        if not self.other and first is None:
            from workbench.inputs import input_errors
            from workbench.recording.reader import Recording

            with input_errors(), Recording(self.what) as recording:
                first = int(recording.iterations[0])
        return _state(self.what, first), _state(self.other or self.what, self.to_iteration)


def _recorded(what: str) -> bool:
    return what.lower().endswith(".h5")


def _state(what: str, iteration: int | None) -> tuple[State, int | None]:
    """A run's voxels and corners, of a recording at an iteration; and when these were recorded, of a recording that
    has none of that iteration itself. Raises InputError."""
    from workbench.change_state import State, known_fields
    from workbench.moment import open_moment

    moment = open_moment(what, iteration, None, "cpu")
    voxels = moment.field("voxels") if moment.kinds.get("voxels") == "voxels" else None
    if voxels is None:
        raise InputError(f"{what} has no voxels at iteration {moment.iteration}")
    arrays = {name: moment.field(name) for name in sorted(known_fields(moment.kinds))}
    arrays = {name: values for name, values in arrays.items() if values is not None}
    dates = [moment.older[name] for name in arrays if name in moment.older]
    recorded = min(dates) if dates else None
    past = "" if recorded is None else f", fields as recorded at {recorded}"
    return State(voxels, arrays, moment.iteration, f"{moment.name}, iteration {moment.iteration}{past}"), recorded
