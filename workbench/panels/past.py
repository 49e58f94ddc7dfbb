"""Past: what is kept to go back to, in memory and in the recording, and how much of it may be kept."""

from __future__ import annotations

import math

from sparseflex.memory import in_words
from workbench import theme
from workbench.commands import Command, KeepAtMost
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, megabytes
from workbench.view_state import ViewState

KEEP_BYTES = tuple(int(gigabytes * 1e9) for gigabytes in (0.25, 0.5, 1, 2, 4, 8, 16, 32))
"""What may be chosen."""


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    """A part of the tab of costs."""
    past, live = snapshot.past, snapshot.source == "live"
    most = past.limit_bytes if past.limit_bytes < math.inf else view.keep_bytes
    ui.heading("Kept to go back" if live else "Kept of what was read", f"{megabytes(past.n_bytes)} of {in_words(most)}")
    ui.shares([(past.n_bytes, theme.BORN), (max(most - past.n_bytes, 0), theme.RAISED)], 0.25 * ui.em)
    if not live:
        ui.pair("keyframes", count(past.n_states))
        return []
    if past.n_states:
        ui.pair("states in memory", count(past.n_states))
        ui.tip("One at every step, and while it plays as often as that takes 2% of the time.\n"
               "Rows of voxels and corners that haven't changed are held once. Beyond the limit old states grow sparse")
    if past.n_keyframes:
        ui.pair("keyframes in the recording", f"{count(past.n_keyframes)} in {megabytes(past.keyframe_bytes)}")
        ui.tip("Complete states in this run's own recording, on disk:\n"
               "by them one goes back to what memory no longer has")
    if past.oldest is not None:
        ui.pair("iterations", f"{count(past.oldest)} to {count(past.reached)}")
        ui.tip("Any of them, and any stage, can be gone to:\n"
               "from the nearest state it is run again, bit by bit the same")
    elif not past.lacking:
        ui.text("The first iteration keeps one.", theme.MUTED)
    if past.lacking:
        ui.wrapped(past.lacking)
    return _draw_limit(ui, view)


def _draw_limit(ui: Ui, view: ViewState) -> list[Command]:
    """What may be kept in memory; chosen here, it holds for the next sessions too."""
    ui.im.AlignTextToFramePadding()
    ui.text("keep at most", theme.MUTED)
    ui.im.SameLine()
    ui.im.SetNextItemWidth(-1.0)
    place = min(range(len(KEEP_BYTES)), key=lambda k: abs(KEEP_BYTES[k] - view.keep_bytes))
    changed, place = ui.im.Combo("##keep", place, [in_words(n_bytes) for n_bytes in KEEP_BYTES])
    ui.tip("Of states in memory, to go back to")
    if not changed:
        return []
    view.keep_bytes = KEEP_BYTES[place]
    return [KeepAtMost(view.keep_bytes)]
