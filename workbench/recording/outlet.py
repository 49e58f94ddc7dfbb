"""Outlet: the way from the run's thread to the writer's process: a queue bounded in bytes, and a thread that sends."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import workbench
from workbench.recording.commits import Commit, message_of
from workbench.recording.policy import RecordPolicy, RecordStatus

_ROOT = str(Path(workbench.__file__).resolve().parent.parent)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SPARE_BYTES = 16_000_000
"""Beyond the queue's bound: small values (scalars, cameras) still find room where large ones don't."""

_OBJECT_BYTES = 64


class Outlet:
    """Owns the writer's process and two threads: one feeds it, one listens. `put` never waits."""

    def __init__(self, path: Path, meta: dict[str, Any], n_columns: int, policy: RecordPolicy) -> None:
        self._lock = threading.Condition()
        self._status = RecordStatus(path)
        self._waiting: collections.deque[Commit] = collections.deque()
        self._n_bytes, self._bound = 0, policy.queue_bytes
        self._ending = False
        self._first = {"path": str(path.absolute()), "meta": meta, "n_columns": n_columns,
                       "limit_bytes": policy.limit_bytes, "reserve_bytes": policy.reserve_bytes}
        self._process = _start_writer()
        self._sender = threading.Thread(target=self._send, name="sparseflex-recorder", daemon=True)
        self._listener = threading.Thread(target=self._listen, name="sparseflex-recorder-status", daemon=True)
        self._sender.start()
        self._listener.start()

    @property
    def status(self) -> RecordStatus:
        with self._lock:
            return self._status

    @property
    def writer_pid(self) -> int:
        return self._process.pid

    def change_status(self, **news: Any) -> None:
        with self._lock:
            self._status = dataclasses.replace(self._status, **news)

    def stop(self, reason: str) -> None:
        """Nothing more is recorded; the first reason is kept."""
        with self._lock:
            if not self._status.stopped:
                self._status = dataclasses.replace(self._status, stopped=reason)
            self._waiting.clear()
            self._n_bytes, self._ending = 0, True
            self._lock.notify_all()

    def note(self, text: str) -> None:
        """Told once."""
        with self._lock:
            if text not in self._status.notes:
                self._status = dataclasses.replace(self._status, notes=(*self._status.notes, text))

    def room_for(self, n_bytes: float) -> bool:
        """Whether so much may be put; what is larger than the whole queue may where that is empty."""
        with self._lock:
            return self._n_bytes + n_bytes <= self._bound or not self._n_bytes

    def put(self, iteration: int, values: Mapping[int, Any], scalars: dict[str, float] | None, addition: bool) -> bool:
        """False where the queue is so full that not even small values go in."""
        n_bytes = size_of(values) + size_of(scalars)
        with self._lock:
            if self._n_bytes and self._n_bytes + n_bytes > self._bound + SPARE_BYTES:
                return False
            if not self._ending:
                self._waiting.append(Commit(iteration, values, scalars, addition, n_bytes))
                self._n_bytes += n_bytes
                self._lock.notify_all()
        return True

    def end(self) -> None:
        """What waits is still written; nothing comes after it."""
        with self._lock:
            self._ending = True
            self._lock.notify_all()

    def close(self, timeout_secs: float) -> None:
        """Waits for what waits to be written; what isn't in that time is left out."""
        deadline = time.monotonic() + timeout_secs
        self.end()
        self._sender.join(max(deadline - time.monotonic(), 0))
        self._listener.join(max(deadline - time.monotonic(), 0))
        if self._listener.is_alive():
            self.stop(f"the writer did not end within {timeout_secs:g} s")
            self._process.kill()
            self._sender.join(5)
            self._listener.join(5)

    # The threads

    def _send(self) -> None:
        """Feeds the writer until the end, or until it is gone."""
        stream = self._process.stdin
        try:
            _write(stream, self._first, [])
            while (commit := self._next()) is not None:
                message = message_of(commit)
                for number, why in message.left_out.items():
                    self.note(f"{self._first['meta']['streams'][number]} is left out: {why}")
                _write(stream, message.head, message.arrays)
                with self._lock:
                    self._n_bytes = max(self._n_bytes - commit.n_bytes, 0)
            # closing needn't end the stream: processes that the run has forked hold it open as well
            _write(stream, {"end": True}, [])
        except OSError:
            pass  # the listener finds out why
        except Exception as error:  # noqa: BLE001 - the thread's boundary: recording ends, the run doesn't
            self.stop(f"{type(error).__name__}: {error}")
        finally:
            with contextlib.suppress(OSError):
                stream.close()

    def _next(self) -> Commit | None:
        with self._lock:
            self._lock.wait_for(lambda: self._waiting or self._ending)
            return self._waiting.popleft() if self._waiting else None

    def _listen(self) -> None:
        """Takes what the writer says until it has ended."""
        ended = False
        for line in self._process.stdout:
            try:
                news = json.loads(line)
            except ValueError:
                continue
            ended = "iteration" not in news and "path" not in news
            self._take(news)
        code = self._process.wait()
        with self._lock:
            told = self._status.stopped
        if ended and not code and not told:
            self.change_status(closed=True)
        elif not told:
            self.stop(f"its writer was ended by signal {-code}" if code < 0 else f"its writer ended with code {code}")
        self._process.stdout.close()

    def _take(self, news: dict[str, Any]) -> None:
        changes = {name: news[name] for name in ("iteration", "n_bytes") if name in news}
        if news.get("keyframe_bytes") is not None:
            known = self.status
            changes |= {"n_keyframes": known.n_keyframes + 1,
                        "keyframe_bytes": known.keyframe_bytes + news["keyframe_bytes"]}
        if "path" in news:
            changes["path"] = Path(news["path"])
        self.change_status(**changes)
        if news.get("stopped"):
            self.stop(news["stopped"])
        for name in news.get("lacking", ()):
            self.note(f"scalar {name!r} is left out: there is no column for it")


def size_of(value: Any) -> int:
    """Bytes that a value takes while it waits, roughly; its arrays exactly."""
    if isinstance(value, np.ndarray):
        return value.nbytes + _OBJECT_BYTES
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values())) + _OBJECT_BYTES
    if isinstance(value, (list, tuple)):
        return sum(map(size_of, value)) + _OBJECT_BYTES
    return len(value) if isinstance(value, str) else 16


def _write(stream: Any, message: dict[str, Any], arrays: list[np.ndarray]) -> None:
    message = message | {"arrays": [(array.dtype.str, array.size) for array in arrays]}
    text = json.dumps(message, separators=(",", ":")).encode()
    stream.write(len(text).to_bytes(8, "little") + text)
    for array in arrays:
        if array.nbytes:
            stream.write(memoryview(array.reshape(-1)).cast("B"))
    stream.flush()


def _start_writer() -> subprocess.Popen:
    """Ctrl-C reaches every process of the terminal: this one has to end after the run, when its input does."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1",
                   "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))}
    # blocked signals stay blocked over exec
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return subprocess.Popen([sys.executable, "-m", "workbench.recording.writer"], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
