"""Worker: latest wins by key, failures as values, no thread left behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from workbench.worker import Worker, WorkFailed, same_token


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    assert made.stop(10)
    assert not [thread for thread in threading.enumerate() if thread.name == "sparseflex-worker"]


def test_the_result_is_what_the_work_gives(worker: Worker) -> None:
    assert worker.result("a") is None and not worker.busy("a")
    worker.ask("a", 1, lambda: 42)
    assert worker.wait_for("a", 10) == (1, 42) and worker.result("a") == (1, 42) and worker.n_finished == 1
    assert worker.result("b") is None


def test_the_work_is_done_elsewhere_and_asking_does_not_wait(worker: Worker) -> None:
    go, where = threading.Event(), []
    worker.ask("a", 1, lambda: (where.append(threading.current_thread()), go.wait(10)))
    assert worker.busy("a") and worker.result("a") is None
    go.set()
    worker.wait_for("a", 10)
    assert where != [threading.main_thread()] and where[0].daemon


def test_only_the_latest_of_a_key_is_done(worker: Worker) -> None:
    go, done = threading.Event(), []
    worker.ask("first", 0, lambda: go.wait(10))
    for number in range(5):
        worker.ask("a", number, lambda n=number: done.append(n))
    worker.ask("b", 7, lambda: done.append("b"))
    go.set()
    worker.wait_for("b", 10)
    assert done == [4, "b"] and worker.result("a")[0] == 4


def test_an_earlier_result_shows_until_the_next_is_there(worker: Worker) -> None:
    worker.ask("a", 1, lambda: "old")
    worker.wait_for("a", 10)
    go = threading.Event()
    worker.ask("a", 2, lambda: go.wait(10) and "new")
    assert worker.result("a") == (1, "old")
    go.set()
    assert worker.wait_for("a", 10) == (2, "new")


def test_the_same_token_is_not_done_again(worker: Worker) -> None:
    array, calls = np.zeros(3), []
    for token in ((1, array), (1, array), (1, np.zeros(3)), (2, array), (2, array)):
        worker.ask("a", token, lambda: calls.append(1))
        worker.wait_for("a", 10)
    assert len(calls) == 3


def test_tokens_by_value_and_by_identity() -> None:
    array = np.zeros(3)
    assert same_token((1, "a", (0.5, array)), (1, "a", (0.5, array)))
    assert same_token((float("nan"),), (float("nan"),))
    assert not same_token((array,), (array.copy(),)) and not same_token((1,), (1, 2)) and not same_token(1, 1.0)
    assert not same_token((None,), (array,)) and same_token(None, None)


def test_what_raises_is_a_value_and_the_next_job_works(worker: Worker) -> None:
    worker.ask("a", 1, lambda: 1 / 0)
    assert worker.wait_for("a", 10) == (1, WorkFailed("ZeroDivisionError: division by zero"))
    worker.ask("a", 2, lambda: "fine")
    assert worker.wait_for("a", 10) == (2, "fine")


def test_a_share_makes_the_next_job_wait_and_the_whole_does_not(worker: Worker) -> None:
    worker.ask("a", 1, lambda: time.sleep(0.05))
    worker.wait_for("a", 10)
    worker.ask("a", 2, lambda: "later", share=1e-4)  # due in some 500 s
    worker.ask("b", 1, lambda: "other keys don't wait", share=1e-4)
    worker.wait_for("b", 10)
    assert worker.busy("a") and worker.result("a")[0] == 1
    worker.ask("a", 3, lambda: "now")
    assert worker.wait_for("a", 10) == (3, "now")
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\], got 0"):
        worker.ask("a", 4, lambda: None, share=0)


def test_stop_drops_what_waits_and_begins_nothing_more() -> None:
    worker, begun, go, done = Worker(), threading.Event(), threading.Event(), []
    worker.ask("a", 1, lambda: (begun.set(), go.wait(10)))
    worker.ask("b", 1, lambda: done.append("b"))
    assert begun.wait(10)
    assert not worker.stop(0.01)  # the running job can't be broken off
    go.set()
    assert worker.stop(10)
    worker.ask("c", 1, lambda: done.append("c"))
    assert not done and not worker.busy("c")
    assert Worker().stop()  # one that never began


def test_forgetting_frees_what_a_key_held(worker: Worker) -> None:
    array = np.zeros(3)
    gone = weakref.ref(array)
    worker.ask("a", (array,), lambda a=array: a)
    worker.wait_for("a", 10)
    worker.forget("a")
    del array
    for _ in range(200):  # the thread lets go of its last job a moment after the result
        if gone() is None:
            break
        gc.collect()
        time.sleep(0.01)
    assert gone() is None and worker.result("a") is None


def test_a_cleared_worker_knows_nothing_of_before(worker: Worker) -> None:
    go, begun = threading.Event(), threading.Event()
    worker.ask("a", 1, lambda: "old")
    worker.wait_for("a", 10)
    worker.ask("b", 1, lambda: (begun.set(), go.wait(10)))
    worker.ask("c", 1, lambda: "never")
    assert begun.wait(10)
    worker.clear()
    go.set()
    worker.wait_for("b", 10)
    assert [worker.result(key) for key in "abc"] == [None, None, None] and not worker.busy("c")
    worker.ask("a", 1, lambda: "new")  # the same token counts again
    assert worker.wait_for("a", 10) == (1, "new")


def test_a_job_too_slow_for_a_script_is_told() -> None:
    worker, go = Worker(), threading.Event()
    worker.ask("slow", 1, lambda: go.wait(10))
    with pytest.raises(TimeoutError, match="slow did not end within 0.01 s"):
        worker.wait_for("slow", 0.01)
    go.set()
    assert worker.stop(10)


def reporting(worker: Worker, go: threading.Semaphore, at: threading.Semaphore) -> str:
    for done in range(5):
        worker.report(done, 5)
        at.release()
        assert go.acquire(timeout=10)
    return "done"


def test_a_job_says_how_far_it_is_and_ends_at_its_next_report_when_cancelled(worker: Worker) -> None:
    go, at = threading.Semaphore(0), threading.Semaphore(0)
    worker.ask("a", 1, lambda: "before")
    worker.wait_for("a", 10)
    news = worker.n_news
    worker.ask("a", 2, lambda: reporting(worker, go, at))
    worker.ask("b", 1, lambda: "other")
    for done in range(2):
        assert at.acquire(timeout=10)
        assert worker.progress("a") == (done, 5) and worker.progress("b") is None and worker.n_news > news
        go.release()
    assert at.acquire(timeout=10)
    worker.cancel("b")
    worker.cancel("a")
    assert worker.busy("a") and worker.progress("a") is None and not worker.busy("b")
    worker.ask("a", 2, lambda: reporting(worker, go, at))  # the same again begins anew
    go.release()
    assert at.acquire(timeout=10) and worker.progress("a") == (0, 5) and worker.result("a") == (1, "before")
    go.release(5)
    assert worker.wait_for("a", 10) == (2, "done") and worker.progress("a") is None and worker.result("b") is None


@pytest.mark.parametrize("end", ["cancel", "clear", "forget"])
def test_what_was_cancelled_never_shows_though_it_reports_no_more(worker: Worker, end: str) -> None:
    go, begun, next_one = threading.Event(), threading.Event(), threading.Event()
    worker.ask("a", 1, lambda: (begun.set(), go.wait(10)))
    assert begun.wait(10)
    worker.clear() if end == "clear" else getattr(worker, end)("a")
    worker.ask("a", 2, lambda: (next_one.set(), go.wait(10), worker.result("a"))[2])  # of another run, say
    go.set()
    assert next_one.wait(10) and worker.wait_for("a", 10) == (2, None)


@pytest.mark.parametrize("end", ["stop", "clear", "forget"])
def test_who_is_not_waited_for_any_more_ends(worker: Worker, end: str) -> None:
    go, at = threading.Semaphore(0), threading.Semaphore(0)
    worker.ask("a", 1, lambda: reporting(worker, go, at))
    assert at.acquire(timeout=10)
    threading.Timer(0.05, go.release).start()  # one step, not five
    worker.forget("a") if end == "forget" else getattr(worker, end)()
    assert worker.wait_for("a", 10) is None and worker.idle


def test_a_report_from_elsewhere_is_nobodys(worker: Worker) -> None:
    worker.stop()
    worker.report(1, 2)
    assert worker.progress("a") is None


def test_a_process_ends_with_its_exit_code_while_the_worker_is_still_at_it() -> None:
    """Python alone would tear the thread out of torch, and abort with 134."""
    script = textwrap.dedent("""
        import threading, torch
        import workbench.__main__ as process
        from workbench.worker import Worker

        def main():
            worker, begun = Worker(), threading.Event()
            def work():
                begun.set()
                while True:
                    torch.rand(1_000_000).sort()
            worker.ask("long", 1, work)
            assert begun.wait(20) and not worker.stop(0.1)
            print("said")
            return 5

        process.main = main
        process.run()
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (5, "said\n", "")
