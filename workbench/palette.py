"""Palette: which actions fit what was typed; what Ctrl+P opens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass
class Palette:
    """query: as typed so far; chosen: the place in the list that Enter would run; fresh: opened since the last draw."""

    shown: bool = False
    query: str = ""
    chosen: int = 0
    fresh: bool = False

    def open(self) -> None:
        self.shown, self.query, self.chosen, self.fresh = True, "", 0, True


def matching(query: str, names: Iterable[str]) -> list[str]:
    """The names that hold every word of the query, in any case; those that begin with it come first."""
    words = query.lower().split()
    found = [name for name in names if all(word in name.lower() for word in words)]
    return sorted(found, key=lambda name: not name.lower().startswith(query.lower().strip()))
