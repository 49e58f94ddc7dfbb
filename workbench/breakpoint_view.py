"""BreakpointView: the condition that is being typed in the window."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from workbench.expressions import complete, completed


@dataclasses.dataclass
class BreakpointView:
    """text: as typed so far. ImGui keeps a text of its own while somebody types: what is put in its place needs another
    field, which `number` names, and the keyboard, which `focus` asks for; to_end: redraws until its cursor is at the
    end."""

    KEPT: ClassVar[tuple[str, ...]] = ()

    text: str = ""
    number: int = 0
    focus: bool = False
    to_end: int = 0

    def ask(self) -> None:
        """Has the next redraw take the keyboard."""
        self.focus = True

    def put(self, text: str, typing: bool) -> None:
        """Replaces what was typed; typing: the keyboard stays there."""
        self.text, self.number, self.focus, self.to_end = text, self.number + 1, typing, 3 if typing else 0

    def typed(self, text: str, names: tuple[str, ...]) -> None:
        """Takes what the field holds now; a tab stands where the word before it is to be completed."""
        if "\t" not in text:
            self.text = text
            return
        at, text = text.index("\t"), text.replace("\t", "")
        found = complete(text, at, names)
        self.put(completed(text, at, found[0]) if found else text, typing=True)
