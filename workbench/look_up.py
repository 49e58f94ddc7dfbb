"""LookUpFields: asks a recording for fields of another iteration than the one that is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.mailbox import Mailbox
from workbench.snapshot import frozen

if TYPE_CHECKING:
    from workbench.recording.reader import Recording


@dataclasses.dataclass(frozen=True, eq=False)
class FoundFields:
    """n: how many answers there were; fields as they hold at an iteration, older: from which one those are that were
    recorded before it; error: what couldn't be read, or ""."""

    n: int = 0
    iteration: int = -1
    names: frozenset[str] = frozenset()
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    older: Mapping[str, int] = dataclasses.field(default_factory=dict)
    error: str = ""


@dataclasses.dataclass(frozen=True)
class LookUpFields:
    """Asks a recording for the fields of an iteration; they come into the box, and nothing that is shown changes."""

    iteration: int
    names: frozenset[str]
    into: Mailbox[FoundFields]

    def answer(self, recording: Recording) -> None:
        fields: dict[str, Any] = {}
        older: dict[str, int] = {}
        error = ""
        for name in sorted(self.names):
            try:
                found, dates = recording.snapshot_fields([name], self.iteration)
            except ValueError as refused:
                error = str(refused)
            else:
                fields |= found
                older |= dates
        self.into.put(FoundFields(self.into.latest().n + 1, self.iteration, self.names, frozen(fields), frozen(older),
                                  error))
