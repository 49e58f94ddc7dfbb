"""Worker: one background thread for what takes longer than a redraw may; of each kind of job only the latest counts."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from sparseflex.threads import one_thread

_NEWS_SECS = 0.1
"""Progress is news so often: a redraw for each report would slow the work that it tells of."""


class Cancelled(Exception):
    """Ends a job that nobody waits for any more; raised by Worker.report."""


@dataclasses.dataclass(frozen=True)
class WorkFailed:
    """The value of a job that raised: type and message of the exception, in one line."""

    message: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    token: object
    work: Callable[[], Any]
    share: float


def same_token(a: object, b: object) -> bool:
    """Whether two tokens ask for the same: tuples part by part, numbers and texts by value, all else by identity.

    NaN equals NaN, and an array is never compared by its values: that would cost, or raise.
    """
    if a is b:
        return True
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same_token(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return isinstance(a, (str, int, float, frozenset)) and type(a) is type(b) and a == b


class Worker:
    """Jobs by key, one at a time, on one CPU thread, in the order in which their keys began to wait.

    The thread starts with the first job and ends with stop(). All methods may be called from any thread and none of
    them waits for a job, apart from stop and wait_for.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: dict[str, object] = {}
        self._waiting: dict[str, _Job] = {}
        self._results: dict[str, tuple[object, Any]] = {}
        self._costs: dict[str, tuple[float, float]] = {}  # by key: seconds of the last job, and when it ended
        self._running: str | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._n_finished = 0
        self._progress: tuple[int, int] | None = None  # of the job that runs, as is whether it is to end
        self._cancelled = False
        self._n_news, self._news_at = 0, -math.inf

    @property
    def n_finished(self) -> int:
        """How many jobs have ended."""
        return self._n_finished

    @property
    def n_news(self) -> int:
        """Grows with every job that ends, and some times a second with what one reports: a window redraws then."""
        return self._n_finished + self._n_news

    @property
    def idle(self) -> bool:
        """Whether no job waits or runs."""
        return not self._waiting and self._running is None

    def ask(self, key: str, token: object, work: Callable[[], Any], share: float = 1.0) -> None:
        """Has work() done in the background, unless token is the one asked for last under this key.

        A job of the same key that still waits is replaced; one that runs is finished first, and its result shows
        until the new one is there. share: the most of the time that jobs of this key may take, in (0, 1]; what only
        follows a run that plays should leave it its processor. After stop() nothing is begun.
        """
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share must be in (0, 1], got {share}")
        with self._changed:
            if self._stopping or (key in self._asked and same_token(token, self._asked[key])):
                return
            self._asked[key] = token
            self._waiting[key] = _Job(token, work, share)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="sparseflex-worker", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def result(self, key: str) -> tuple[object, Any] | None:
        """Token and value of the last job of this key that ended; a WorkFailed where it raised."""
        return self._results.get(key)

    def busy(self, key: str) -> bool:
        """Whether a job of this key waits or runs."""
        return key in self._waiting or self._running == key

    def report(self, done: int, total: int) -> None:
        """For long work, called by the job itself: how far it is. Raises Cancelled where it is to end; on any other
        thread than the worker's nothing happens."""
        if threading.current_thread() is not self._thread:
            return
        if self._cancelled:
            raise Cancelled
        now = time.monotonic()
        self._progress = (done, total)
        if now - self._news_at >= _NEWS_SECS:
            self._n_news, self._news_at = self._n_news + 1, now

    def progress(self, key: str) -> tuple[int, int] | None:
        """What the running job of this key has reported last: (done, total); None where there is no report."""
        with self._changed:
            return self._progress if self._running == key and not self._cancelled else None

    def cancel(self, key: str) -> None:
        """Drops a key's waiting job, and has a running one end at its next report; the result before them stays."""
        with self._changed:
            self._asked.pop(key, None)
            self._waiting.pop(key, None)
            self._cancelled |= self._running == key

    def forget(self, key: str) -> None:
        """Cancels a key's jobs and drops its result, so that what they hold is freed."""
        self.cancel(key)
        with self._changed:
            self._results.pop(key, None)

    def clear(self) -> None:
        """Forgets every key: what is known of one run says nothing of the next."""
        with self._changed:
            for known in (self._asked, self._waiting, self._results):
                known.clear()
            self._cancelled = True

    def wait_for(self, key: str, timeout_secs: float) -> tuple[object, Any] | None:
        """The key's result once no job of it waits or runs, for scripts and tests; TimeoutError if it takes longer."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self.busy(key), timeout_secs):
                raise TimeoutError(f"{key} did not end within {timeout_secs:g} s")
            return self._results.get(key)

    def stop(self, timeout_secs: float = 5.0) -> bool:
        """Begins no more jobs and waits for the running one, which ends at its next report; False where it didn't end
        in time."""
        with self._changed:
            self._stopping = self._cancelled = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_secs)
        return self._thread is None or not self._thread.is_alive()

    # The thread

    def _serve(self) -> None:
        while True:
            with self._changed:
                job = self._next()
                if job is None:
                    return
                key = self._running
            started = time.monotonic()
            value, ended_early = None, False
            try:
                with one_thread(True):
                    value = job.work()
            except Cancelled:
                ended_early = True
            except Exception as error:  # noqa: BLE001 - the thread's boundary: a failure is a value, not a lost thread
                value = WorkFailed(f"{type(error).__name__}: {error}".replace("\n", " "))
            ended = time.monotonic()
            with self._changed:
                self._costs[key] = (ended - started, ended)
                # else it was forgotten meanwhile, and may have been asked for anew
                if key in self._asked and not ended_early and not self._cancelled:
                    self._results[key] = (job.token, value)
                self._running = None
                self._n_finished += 1
                self._changed.notify_all()
            del job, value  # while the thread waits, it must not keep alive what others have let go

    def _next(self) -> _Job | None:
        """The first job that is due, once there is one; None when stopped. Called with the lock held."""
        while not self._stopping:
            now = time.monotonic()
            due = {key: self._due(key, job) for key, job in self._waiting.items()}
            for key, when in due.items():
                if when <= now:
                    self._running, self._progress, self._cancelled = key, None, False
                    return self._waiting.pop(key)
            self._changed.wait(min(due.values()) - now if due else None)
        return None

    def _due(self, key: str, job: _Job) -> float:
        secs, ended = self._costs.get(key, (0.0, -math.inf))
        return ended + secs * (1 / job.share - 1)
