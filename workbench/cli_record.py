"""The options of the command line about recording, and what they come to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.inputs import InputError, Opened

if TYPE_CHECKING:
    from workbench.recording.recorder import StartRecorder


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """What the commands that train have in common."""

    no_record: bool = False
    """Don't record the run; a window otherwise does, to run.h5 of its folder, or run-2.h5 and so on."""
    record_limit: float = 4.0
    """Gigabytes that the recording may take: it gets sparser as it nears them, and ends there."""

    def recorder(self, opened: Opened, out: Path, wanted: bool = True, parent: Mapping[str, Any] | None = None,
                 ) -> StartRecorder | None:
        """What begins the recording; None where none is wanted. parent: see About. Raises InputError."""
        if not 0 < self.record_limit < math.inf:
            raise InputError(f"--record-limit must be above 0 gigabytes, got {self.record_limit:g}")
        if self.no_record or not wanted:
            return None
        from workbench.recording.policy import GIGABYTE, About, policy_of
        from workbench.recording.recorder import recording_into

        about = About(opened.title, dataclasses.asdict(opened.view), opened.input_from_normalized.tolist(), parent)
        return recording_into(out, about, policy_of(opened.run, limit_bytes=self.record_limit * GIGABYTE))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadlessRecordOptions(RecordOptions):
    """The same for those that also run without a window."""

    record: bool = False
    """Record headless too, to run.h5 of the folder."""

    def recorder_headless(self, opened: Opened, out: Path, parent: Mapping[str, Any] | None = None,
                          ) -> StartRecorder | None:
        if self.record and self.no_record:
            raise InputError("--record and --no-record can't both be given")
        return self.recorder(opened, out, self.record, parent)
