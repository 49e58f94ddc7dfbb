"""Pacer: when to redraw, so that a window on slow graphics leaves the training its time and still answers at once."""

from __future__ import annotations

import collections
import dataclasses

UI_SHARE, SCENE_SHARE = 0.04, 0.08
"""Most of the time that redraws may take while the run trains and nobody touches the window: panels, whole scene."""

MOST_SECS, MOST_SCENE_SECS = 2.0, 4.0
"""The longest pause between two redraws all the same, and between two of the scene: a redraw waits for a processor that
the training has, so that what it takes of the time is more than it takes from it, and a still window looks hung."""

INTERACTION_SECS = 0.8
FALSE_ALARM_SECS = 0.5
IDLE_SECS = 0.12
WINDOW_SECS = 12.0


@dataclasses.dataclass
class Pacer:
    """All times are seconds of one monotonic clock.

    While training untouched, redraws of the scene and of the panels alone are spaced so that each keeps to its share
    of the time, unless that made a pause of seconds. While somebody interacts, they come as fast as fps allows, but
    leave a run that trains a third of the time; at rest, rarely.
    """

    fps: float = 60.0
    ui_secs: float = 0.0
    scene_secs: float = 0.0
    _last_ui: float = -1e9
    _last_secs: float = 0.0
    _last_scene: float = -1e9
    _touched: float = -1e9
    _alarm: float | None = None
    _deaf_until: float = -1e9
    _log: collections.deque[tuple[float, float]] = dataclasses.field(default_factory=collections.deque)

    def touch(self, now: float) -> None:
        """Somebody uses the window."""
        self._touched, self._alarm = now, None

    def alarm(self, now: float) -> None:
        """Mouse or keys moved, perhaps over another window: redraw once, to see."""
        if now >= self._deaf_until:
            self._alarm = now

    def interacting(self, now: float) -> bool:
        return now - self._touched < INTERACTION_SECS

    def secs_until_due(self, now: float, training: bool, news: bool) -> float:
        """How long to wait for the next redraw; news: a snapshot lies there that wasn't drawn yet."""
        frame = 1 / self.fps
        if self.interacting(now):  # slow redraws one on another would leave the training nothing
            gap = max(frame, 0.5 * self._last_secs) if training else frame
        elif self._alarm is not None:
            gap = frame
        elif training:
            gap = max(min(self.ui_secs / UI_SHARE, MOST_SECS), self.ui_secs, frame)
        else:
            gap = frame if news else IDLE_SECS
        return max(self._last_ui + gap - now, 0.0)

    def scene_due(self, now: float, training: bool) -> bool:
        """Whether this redraw may bring the scene up to date too."""
        if not training or self.interacting(now):
            return True
        gap = max(min(self.scene_secs / SCENE_SHARE, MOST_SCENE_SECS), 2 * self.scene_secs, 1 / self.fps)
        return now >= self._last_scene + gap

    def drawn(self, start: float, end: float, with_scene: bool) -> None:
        """A redraw happened; with_scene: the scene was drawn and not only the panels over it."""
        secs = end - start
        if with_scene:
            # the last one counts most, but one slow redraw (a new window size, say) must not stall the next
            self.scene_secs = secs if self.scene_secs == 0 else 0.5 * self.scene_secs + 0.5 * secs
            self._last_scene = end
        else:
            self.ui_secs = secs if self.ui_secs == 0 else 0.7 * self.ui_secs + 0.3 * secs
        if self._alarm is not None and self._touched < self._alarm:
            self._deaf_until = end + FALSE_ALARM_SECS
        self._alarm = None
        self._last_ui, self._last_secs = end, secs
        self._log.append((end, secs))
        while self._log and self._log[0][0] < end - WINDOW_SECS:
            self._log.popleft()

    def share(self, now: float) -> float:
        """The part of the last seconds that went into redraws."""
        return min(sum(secs for end, secs in self._log if end > now - WINDOW_SECS) / WINDOW_SECS, 1.0)
