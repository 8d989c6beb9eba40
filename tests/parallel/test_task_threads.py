"""Threads that run tasks: how many there are, when they end, and Ctrl-C in the thread that hands tasks out."""

import gc
import sys
import threading
import time
from itertools import count

import pytest

from sktorch_mlp._nn.concurrent import NoThreadError, start_thread
from sktorch_mlp._parallel import task_threads
from sktorch_mlp._parallel.task_threads import TaskThreads
from tests.interrupts import interrupt_call


def _names():
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("tested"))


def _wait_until(is_true):
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def threads():
    threads = TaskThreads(2, "tested")
    yield threads
    threads.end()
    assert _names() == []


def test_results_errors_and_callbacks_come_from_threads(threads):
    called_in = []

    def fail():
        raise ValueError("This task fails.")

    futures = [threads.submit(threading.current_thread, lambda _: called_in.append(threading.current_thread()))]
    assert futures[0].result(30).name == "tested 0"
    futures += [threads.submit(fail), threads.submit(threading.current_thread)]
    assert str(futures[1].exception(30)) == "This task fails."
    assert futures[2].result(30).name in ("tested 0", "tested 1")
    assert called_in == [futures[0].result()]
    assert _names() == ["tested 0", "tested 1"]


def test_a_task_that_is_cancelled_before_it_begins_does_not_run(threads):
    may_go_on, ran = threading.Event(), []
    blocking = [threads.submit(may_go_on.wait) for _ in range(2)]
    waiting = threads.submit(lambda: ran.append(1))
    assert waiting.cancel()
    may_go_on.set()
    assert all(future.result(30) for future in blocking)
    threads.end()
    assert ran == []


def test_tasks_that_have_been_handed_out_end_first(threads):
    futures = [threads.submit(lambda: time.sleep(0.01)) for _ in range(6)]
    threads.end()
    assert all(future.done() for future in futures)


def test_where_no_further_thread_can_be_had_there_are_fewer(threads, monkeypatch):
    def refuse(thread):
        raise NoThreadError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(task_threads, "start_thread", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.submit(int)
    threads.submit(int).result(30)
    monkeypatch.setattr(task_threads, "start_thread", refuse)
    assert [threads.submit(lambda: 3).result(30) for _ in range(2)] == [3, 3]
    assert threads.n_threads == 1


def test_the_error_of_a_thread_that_cannot_be_started_is_raised():
    thread = threading.Thread(target=int, name="tested")
    start_thread(thread)
    thread.join()
    with pytest.raises(RuntimeError, match="once"):
        start_thread(thread)


def test_threads_end_with_what_has_started_them():
    threads = TaskThreads(3, "tested")
    for _ in range(3):
        threads.submit(int).result(30)
    assert len(_names()) == 3
    del threads
    gc.collect()
    _wait_until(lambda: not _names())


def test_ctrl_c_at_any_call_leaves_threads_that_work():
    before = sys.gettrace()
    for number in count(1):
        threads, is_interrupted = TaskThreads(2, "tested"), False
        try:
            sys.settrace(interrupt_call(number))
            for _ in range(3):
                threads.submit(int, lambda future: None)
        except KeyboardInterrupt:
            is_interrupted = True
        finally:
            sys.settrace(before)
        assert threads.submit(lambda: 3).result(30) == 3
        threads.end(30)
        if not is_interrupted:
            break
    assert number > 20
    _wait_until(lambda: not _names())
