"""Threads of Python, started and waited for so that Ctrl-C leaves them in order."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar

_R = TypeVar("_R")


class NoThreadError(RuntimeError):
    """No thread can be had. It has a class of its own, as handlers of signals raise any other."""


def start_thread(thread: threading.Thread) -> None:
    """Start a thread in another one, in which there is no Ctrl-C: `Thread.start` waits by a condition.

    Raises
    ------
    NoThreadError
        If none can be had, while Python ends for example: it would not begin, and be waited for for ever.
    """
    if sys.is_finalizing():
        raise NoThreadError("can't create new thread at interpreter shutdown")
    outcome = SimpleQueue[NoThreadError | None]()

    def start() -> None:
        try:
            thread.start()
        except RuntimeError as error:
            outcome.put(NoThreadError(str(error)))
        else:
            outcome.put(None)

    try:
        _thread.start_new_thread(start, ())
    except RuntimeError as error:
        raise NoThreadError(str(error)) from error
    refusal = outcome.get()
    if refusal is not None:
        raise refusal


def call_without_signals(function: Callable[[], _R]) -> _R:
    """Call a function in a thread of its own, if one can be had: what handlers of signals raise comes into the main thread alone.

    There it ends the wait, and is not taken for an error that the function expects.
    """
    outcome = SimpleQueue[_R | Exception]()

    def call() -> None:
        try:
            outcome.put(function())
        except Exception as error:
            outcome.put(error)

    try:
        start_thread(threading.Thread(target=call, name="without signals", daemon=True))
    except NoThreadError:
        return function()
    result = outcome.get()
    if isinstance(result, Exception):
        raise result
    return result


def call_at_once(calls: Sequence[Callable[[], object]], name: str = "part of a call") -> None:
    """Make some calls, the first one in this thread, the others at the same time in threads of their own if these can be had.

    Parameters
    ----------
    calls : sequence of callable
    name : str, default="part of a call"
        Of the threads.

    Raises
    ------
    BaseException
        What one of them raises. The others may go on meanwhile.
    """
    outcomes = SimpleQueue[BaseException | None]()
    here = list(calls[:1])
    for call in calls[1:]:
        try:
            start_thread(threading.Thread(target=_note_outcome, args=(call, outcomes), name=name, daemon=True))
        except NoThreadError:
            here.append(call)
    for call in here:
        call()
    for _ in range(len(calls) - len(here)):
        error = outcomes.get()
        if error is not None:
            raise error


def _note_outcome(call: Callable[[], object], outcomes: SimpleQueue[BaseException | None]) -> None:
    try:
        call()
    except BaseException as error:
        outcomes.put(error)
    else:
        outcomes.put(None)
