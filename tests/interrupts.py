"""Ctrl-C where a function of Python begins, and handlers of signals that raise."""

import signal
import sys
import threading
import time
from contextlib import contextmanager
from itertools import count

import pytest

needs_signals = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="the system sends no signals to threads")


def interrupt_call(number):
    """Trace function that raises KeyboardInterrupt where a function of Python begins, as Ctrl-C may."""
    calls = count(1)

    def trace(frame, event, arg):
        if event == "call" and next(calls) == number:
            sys.settrace(None)
            raise KeyboardInterrupt

    return trace


@contextmanager
def alarms_that_raise(error):
    """Give a function that sends the main thread an alarm, whose handler raises."""

    def handler(*args):
        raise error

    def send():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
        time.sleep(0.05)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield send
    finally:
        signal.signal(signal.SIGALRM, before)
