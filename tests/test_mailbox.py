"""The latest-wins slot: values are replaced, readers never wait, waiting is bounded."""

from __future__ import annotations

import threading
import time

import pytest

from workbench.mailbox import Mailbox


def test_latest_wins() -> None:
    slot = Mailbox(0)
    for value in (1, 2, 3):
        slot.put(value)
    assert slot.latest() == 3
    assert slot.latest() == 3


def test_wait_for_sees_a_value_put_by_another_thread() -> None:
    slot = Mailbox(0)

    def send() -> None:
        for value in range(1, 6):
            time.sleep(0.002)
            slot.put(value)

    sender = threading.Thread(target=send)
    sender.start()
    assert slot.wait_for(lambda value: value >= 5, timeout_secs=10) == 5
    sender.join()


def test_wait_for_gives_up() -> None:
    with pytest.raises(TimeoutError, match="within 0.01 s"):
        Mailbox(0).wait_for(lambda value: value == 1, timeout_secs=0.01)
