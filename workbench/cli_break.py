"""The option of the command line about breakpoints, and what it comes to."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import tyro

from workbench.expressions import ExpressionError, parse
from workbench.inputs import InputError, Opened, check_points

if TYPE_CHECKING:
    from workbench.snapshot import Hit

HIT_CODE = 3
"""Exit code of a headless run that a breakpoint stopped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BreakOptions:
    """What the commands that drive a run have in common."""

    break_at: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="break", metavar="EXPRESSION")
    ] = ()
    """Stop where this holds, such as 'isnan(loss)' or 'loss > 2 * mean(loss, 50)'; may be given several times. Headless
    the exit code is 3 then. workbench/docs/breakpoints.md has the language."""

    def check_breaks(self) -> None:
        """Raises InputError where an expression can't be one, whatever the run; before anything is loaded."""
        for text in self.break_at:
            try:
                parse(text.strip())
            except ExpressionError as error:
                raise InputError(f"--break: {error.pointed}") from None

    def with_breaks(self, opened: Opened) -> Opened:
        """With the breakpoints of the command line after those of the scene. Raises InputError for a name that the run
        lacks."""
        if not self.break_at:
            return opened
        from workbench.snapshot import Breakpoint

        known = {point.expression for point in opened.breakpoints}
        fresh = dict.fromkeys(text.strip() for text in self.break_at)
        points = [*opened.breakpoints, *(Breakpoint(text) for text in fresh if text not in known)]
        # one that a scene has and keeps disabled is wanted now
        points = [dataclasses.replace(point, enabled=point.enabled or point.expression in fresh) for point in points]
        check_points(opened.run, points, "--break")
        return dataclasses.replace(opened, breakpoints=tuple(points))


def stopped_by(hits: tuple[Hit, ...]) -> str:
    """The line that says which and where."""
    return "stopped by " + "; ".join(hit.words for hit in hits)
