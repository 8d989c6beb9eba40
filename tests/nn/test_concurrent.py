"""Calls that are made at once."""

import sys
import threading
from contextlib import suppress

import pytest

from sktorch_mlp._nn import concurrent
from sktorch_mlp._nn.concurrent import call_at_once, call_without_signals
from tests.interrupts import alarms_that_raise, needs_signals


def test_calls_are_made_at_once():
    """All wait for each other, the first one in the thread of the caller."""
    barrier, threads = threading.Barrier(3), []

    def call():
        threads.append(threading.current_thread())
        barrier.wait(20)

    call_at_once([call] * 3)
    assert threading.current_thread() in threads
    assert len(set(threads)) == 3
    call_at_once([])


@pytest.mark.parametrize("place", [0, 1])
def test_errors_are_those_of_the_calls(place):
    calls = [lambda: None, lambda: None]
    calls[place] = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        call_at_once(calls)


def test_calls_are_made_one_by_one_where_no_thread_can_be_had(monkeypatch):
    def refuse(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(concurrent._thread, "start_new_thread", refuse)
    threads = []
    call_at_once([lambda: threads.append(threading.current_thread())] * 3)
    assert threads == [threading.current_thread()] * 3


def test_an_error_that_a_signal_raises_is_not_taken_for_a_thread_that_cannot_be_had(monkeypatch):
    def raise_late(thread):
        raise RuntimeError("too late")

    monkeypatch.setattr(concurrent, "start_thread", raise_late)
    with pytest.raises(RuntimeError, match="too late"):
        call_at_once([int] * 3)


def test_no_thread_is_started_while_python_ends(monkeypatch):
    """It would not begin, and be waited for for ever."""
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    with pytest.raises(RuntimeError, match="interpreter shutdown"):
        concurrent.start_thread(threading.Thread(target=print))
    threads = []
    call_at_once([lambda: threads.append(threading.current_thread())] * 3)
    assert threads == [threading.current_thread()] * 3


def test_a_call_without_signals_gives_its_result_or_error():
    assert call_without_signals(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        call_without_signals(lambda: 1 / 0)


def test_where_there_is_no_thread_a_call_is_made_here(monkeypatch):
    def no_thread(thread):
        raise concurrent.NoThreadError

    monkeypatch.setattr(concurrent, "start_thread", no_thread)
    assert call_without_signals(threading.current_thread) is threading.current_thread()


@needs_signals
def test_handlers_of_signals_raise_outside_of_a_call_without_them():
    with alarms_that_raise(ValueError("of the handler")) as send_alarm:

        def alarmed():
            with suppress(ValueError):
                send_alarm()

        with pytest.raises(ValueError, match="of the handler"):
            call_without_signals(alarmed)
