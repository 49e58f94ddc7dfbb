"""Keyframes: states of a run that lie in its own recording, found by iteration and read while it is being written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from workbench.course import Place
from workbench.recording.recorder import LateRecorder
from workbench.snapshot import History


@dataclasses.dataclass(frozen=True, eq=False)
class Keyframe:
    """Where a state lies: number counts the keyframes that were taken; its history, and how many changes it holds."""

    iteration: int
    number: int
    history: History
    n_changes: int

    def words(self, n_again: int, done: bool = False) -> str:
        """Such as "from keyframe 120 of the recording, running 30 iterations again"; done: once they have run."""
        counted = f"{n_again:,} iteration{'s' * (n_again != 1)}"
        again = "" if not n_again else f", {counted} run again" if done else f", running {counted} again"
        return f"from keyframe {self.iteration:,} of the recording{again}"


class Keyframes:
    """Notes each state that the recorder takes, as those of the run that it may go back to; belongs to the engine's
    thread. Only those that have been written count."""

    def __init__(self, recorder: LateRecorder) -> None:
        self._recorder = recorder
        self._noted: list[Keyframe] = []
        self._number = 0

    @property
    def n_bytes(self) -> int:
        """Of all keyframes in the file, what they share counted once."""
        status = self._recorder.status
        return 0 if status is None else status.keyframe_bytes

    @property
    def there(self) -> list[Keyframe]:
        """Those that can be read, oldest first."""
        status = self._recorder.status
        n_written = 0 if status is None else status.n_keyframes
        return [keyframe for keyframe in self._noted if keyframe.number <= n_written]

    def note(self, iteration: int, history: Callable[[], History], n_changes: int) -> None:
        """Notes a keyframe if the recorder has taken one just now, of this iteration; it replaces any other of it."""
        if self._recorder.n_keyframes > self._number:
            self._number = self._recorder.n_keyframes
            self._noted = [known for known in self._noted if known.iteration != iteration]
            self._noted.append(Keyframe(iteration, self._number, history(), n_changes))
            self._noted.sort(key=lambda known: known.iteration)

    def changed(self, place: Place, furthest: Place) -> None:
        """A change was made here: what was recorded beyond is replaced; at this very iteration too, if that is behind
        the furthest."""
        last = place[0] - (furthest[0] > place[0])
        self._noted = [known for known in self._noted if known.iteration <= last]

    def read(self, keyframe: Keyframe) -> Mapping[str, Any]:
        """Its state, on the CPU. ValueError in one line where the file doesn't have it any more, which then counts no
        longer, or no keyframe does where the whole file is gone."""
        try:
            state = self._recorder.read_state(keyframe.iteration)
            if not isinstance(state, Mapping):
                raise ValueError(f"a state must be a mapping, got {type(state).__name__}")
            if state.get("iteration", keyframe.iteration) != keyframe.iteration:
                raise ValueError(f"its state is of iteration {state['iteration']}")
        except OSError as error:
            self._noted.clear()
            raise ValueError(error.strerror or str(error)) from None
        except ValueError:
            self._noted.remove(keyframe)
            raise
        return state
