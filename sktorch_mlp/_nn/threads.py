"""Threads of PyTorch for one large call at a time, as many as pay at this moment.

All else that a fit computes has one thread. The threads of PyTorch wait for each other by
spinning: where other programs hold the cores, a product on two threads takes fifty times as long as
on one. So a large call is timed on one thread and on several, over and over, and takes what was
quicker. Its result has the same bits on any number of threads.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from .compat import own_thread_setters

#: Multiply-adds of float32 that keep one thread busy for some 25 µs. Those of float64 count twice.
_OPERATIONS_PER_THREAD = 1_250_000

#: Elements that PyTorch gives a thread at least, in a call on each element; and a multiple of how many its kernels compute at a time.
_FEWEST_ELEMENTS, _ELEMENTS_AT_A_TIME = 2**15, 64

#: Time of a multiply-add on one thread of a slow processor.
_SECONDS_PER_OPERATION = 1e-10

#: How many times longer several threads take than one where they are in each other's way.
_COLLAPSE = 3.0

#: Share of the time that goes into trying the slower number of threads again, at most.
_TRIED_AGAIN = 0.02

#: After how many times their time several threads that were slower are tried again: soon, since one slow call may be
#: chance, then ever later, and at last so that two calls have that share.
_LEAST_PATIENCE, _LATER, _MOST_PATIENCE = 2.0, 4.0, 2 / _TRIED_AGAIN

#: Most seconds until the slower number of threads is tried again: a process that was stopped for an hour would wait for days.
_LONGEST_WAIT = 60.0

_R = TypeVar("_R")

_local = threading.local()  # .n_threads: how many large calls of this thread may use


def set_own_threads(n_threads: int) -> None:
    """Set the threads of PyTorch for the calling thread alone."""
    for set_threads in own_thread_setters():
        set_threads(n_threads)


class threads_for_large_calls:  # noqa: N801 - a generator takes three times as long, which predictions notice
    """Let large calls that are made, or made ready, in the meantime use up to so many threads; all else has one.

    PyTorch must have been set to one thread.
    """

    def __init__(self, n_threads: int) -> None:
        self._n_threads, self._before = n_threads, 1

    def __enter__(self) -> None:
        self._before = allowed_threads()
        _local.n_threads = self._n_threads

    def __exit__(self, *error: object) -> None:
        _local.n_threads = self._before


def allowed_threads() -> int:
    """How many threads large calls of this thread may use now."""
    n_threads: int = getattr(_local, "n_threads", 1)
    return n_threads


def forget_threads() -> None:
    """Let large calls use one thread from now on, in a forked child for example, where the others of its parent are not."""
    _local.n_threads = 1


class _Reading(Protocol):
    """What a thread reads.

    Attributes
    ----------
    has_ended : bool
    """

    has_ended: bool


class _Readers:
    """Threads of this process that read rows at this moment, and need a core: the same for all calls.

    Threads that spin on that core take it from the reader, or wait behind it for the next tick of the system's clock.
    """

    def __init__(self) -> None:
        self._readings: list[weakref.ref[_Reading]] = []  # no count, which Ctrl-C might leave too high for good

    def begin(self, reading: _Reading) -> None:
        """Note that a thread will read until this has ended, or is gone."""
        self._readings = [known for known in self._readings if _is_going_on(known)] + [weakref.ref(reading)]

    def are_at_work(self) -> bool:
        """Whether one reads now."""
        return any(map(_is_going_on, self._readings))


def _is_going_on(known: weakref.ref[_Reading]) -> bool:
    reading = known()
    return reading is not None and not reading.has_ended


readers = _Readers()


class _Contention:
    """When threads were last in each other's way, or in that of other programs: the same for all calls of a process.

    Attributes
    ----------
    ends : float
        When several threads may be tried again, in seconds of `time.perf_counter`.
    patience : float
        After how many times their time they are tried again when they are in each other's way the next time.
    """

    ends = 0.0
    patience = _LEAST_PATIENCE


_contention = _Contention()


class ThreadChoice:
    """One thread or several: whichever was quicker when last tried.

    Several are tried in two calls, one after the other: the first wakes them. Where they are slower they are tried
    again soon, and then more and more seldom, as another library's threads spin for some 100 ms after its last product.

    Parameters
    ----------
    n_operations : int
        Multiply-adds of a typical call, from which follows the time that one thread takes at most on an idle machine.
    contention : _Contention, default=that of the process
    clock : callable, default=time.perf_counter
    """

    def __init__(
        self,
        n_operations: int,
        contention: _Contention = _contention,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._n_operations, self._contention, self._clock = n_operations, contention, clock
        expected = n_operations * _SECONDS_PER_OPERATION
        self._seconds = [expected, expected]  # of a typical call, on one thread and on several
        self._is_shared = True  # whether several were quicker
        self._spent = 0.0  # seconds in calls until now
        self._try_one = expected / _TRIED_AGAIN  # after how many of them to try one: a fit of few calls should not
        self._try_several = 0.0  # when to try several
        self._are_awake = False  # whether the last call has woken several
        self._patience = _LEAST_PATIENCE  # after how many times their time several are tried again

    def call(
        self, alone: Callable[[], _R], shared: Callable[[], _R], n_operations: int, *, is_typical: bool = True
    ) -> _R:
        """Call one of two functions, of so many multiply-adds, that return the same; nothing is learned of a call that is not typical."""
        began = self._clock()
        is_trial = self._spent >= self._try_one if self._is_shared else began >= self._try_several
        share = self._is_shared != is_trial
        if share and began < self._contention.ends:
            share = is_trial = False
        result = shared() if share else alone()
        if is_typical:
            self._learn(share, is_trial, self._clock() - began, began, self._n_operations / n_operations)
        return result

    def _learn(self, share: bool, is_trial: bool, seconds: float, began: float, scale: float) -> None:
        typical = seconds * scale
        self._spent += seconds
        has_collapsed = share and typical > _COLLAPSE * self._seconds[False]
        only_wakes = is_trial and share and not (self._are_awake or has_collapsed)
        self._are_awake = share
        if only_wakes:
            return
        self._seconds[share] = typical if is_trial else min(typical, (self._seconds[share] + typical) / 2)
        self._is_shared = self._seconds[True] < self._seconds[False]
        if self._is_shared:
            self._patience = self._contention.patience = _LEAST_PATIENCE
            if is_trial:
                self._try_one = self._spent + min(seconds / _TRIED_AGAIN, _LONGEST_WAIT)
        elif share or is_trial:
            patience = max(self._patience, self._contention.patience) if has_collapsed else self._patience
            self._try_several = began + seconds + min(seconds * (patience - 1), _LONGEST_WAIT)
            self._patience = min(_LATER * patience, _MOST_PATIENCE)
            if has_collapsed:
                self._contention.ends = max(self._contention.ends, self._try_several)
                self._contention.patience = self._patience


class _TimedCall:
    """A call of PyTorch on one thread or on several, with the same arguments and result.

    Parameters
    ----------
    alone, shared, beside_reader : callable
        It on one thread, on several, and on those that leave a core to another thread that reads.
    n_operations : int
    choice : ThreadChoice
        Of all calls like this one.
    """

    def __init__(
        self,
        alone: Callable[..., Any],
        shared: Callable[..., Any],
        beside_reader: Callable[..., Any],
        n_operations: int,
        choice: ThreadChoice,
    ) -> None:
        self._alone, self._shared, self._beside_reader = alone, shared, beside_reader
        self._n_operations, self._choice = n_operations, choice

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._beside_reader is not self._shared and readers.are_at_work():
            return self._beside_reader(*args, **kwargs)
        alone, shared = partial(self._alone, *args, **kwargs), partial(self._shared, *args, **kwargs)
        return self._choice.call(alone, shared, self._n_operations)


def call_on(n_threads: int, call: Callable[..., _R], *args: Any, **kwargs: Any) -> _R:
    """Call a function on so many threads of PyTorch."""
    if n_threads == 1:
        return call(*args, **kwargs)
    set_own_threads(n_threads)
    try:
        return call(*args, **kwargs)
    finally:
        set_own_threads(1)


def share_elementwise(call: Callable[..., Any], n_operations: int, n_elements: int | None = None) -> Callable[..., Any]:
    """Let an elementwise call use more threads, if it is large. No number of threads changes its bits.

    Parameters
    ----------
    call : callable
    n_operations : int
    n_elements : int, default=None
        Elements that stand one after the other, if PyTorch rounds those otherwise that are left over at the end of a thread's
        share: then there are only threads that leave none.
    """

    def way(n_threads: int) -> tuple[int, Callable[..., Any]]:
        return n_threads if n_elements is None else _threads_with_full_shares(n_elements, n_threads), call

    return share(call, n_operations, way, partial(ThreadChoice, n_operations))


def _threads_with_full_shares(n_elements: int, n_threads: int) -> int:
    """Threads, at most so many, whose shares of some elements leave none over."""
    while n_threads > 1:
        n_threads = min(n_threads, -(-n_elements // _FEWEST_ELEMENTS))
        if n_elements % (n_threads * _ELEMENTS_AT_A_TIME) == 0:
            return n_threads
        n_threads -= 1
    return 1


def share(
    alone: Callable[..., Any],
    n_operations: int,
    way: Callable[[int], tuple[int, Callable[..., Any]]],
    choice: Callable[[], ThreadChoice],
) -> Callable[..., Any]:
    """Let a call use more threads, if it is large.

    Parameters
    ----------
    alone : callable
        It on one thread.
    n_operations : int
    way : callable
        ``way(n_threads)`` gives how many threads, at most `n_threads`, and a call that gives the same bits on them.
    choice : callable
        Makes the choice of all calls like this one.
    """
    n_threads, call = way(most_threads(n_operations))
    if n_threads == 1:
        return alone
    shared = beside_reader = partial(call_on, n_threads, call)
    if n_threads == _local.n_threads:
        beside_reader = partial(call_on, *way(n_threads - 1))
    return _TimedCall(alone, shared, beside_reader, n_operations, choice())


def most_threads(n_operations: int) -> int:
    """Threads that a call of so many multiply-adds may use here."""
    return worthwhile_threads(n_operations, allowed_threads())


def worthwhile_threads(n_operations: int, n_threads: int, per_thread: int = _OPERATIONS_PER_THREAD) -> int:
    """How many of some threads have enough to do."""
    return max(1, min(n_threads, n_operations // per_thread))
