"""Mailbox: a slot that holds the latest value only. The sender never waits, the receiver may skip values."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Mailbox(Generic[Value]):
    """A latest-wins slot between two threads.

    The lock guards one assignment and the wake-up, nothing else: put costs microseconds whatever the value.
    """

    def __init__(self, value: Value) -> None:
        self._value = value
        self._changed = threading.Condition(threading.Lock())

    def put(self, value: Value) -> None:
        with self._changed:
            self._value = value
            self._changed.notify_all()

    def latest(self) -> Value:
        """The last value put; a plain read, it never waits."""
        return self._value

    def wait_for(self, accept: Callable[[Value], bool], timeout_secs: float) -> Value:
        """The first value seen that `accept` takes; values that were replaced meanwhile are skipped.

        Raises TimeoutError after timeout_secs. For scripts and tests: a window only looks at latest().
        """
        deadline = time.monotonic() + timeout_secs
        with self._changed:
            while not accept(self._value):
                if not self._changed.wait(max(deadline - time.monotonic(), 0)) and not accept(self._value):
                    raise TimeoutError(f"no accepted value within {timeout_secs:g} s")
            return self._value
