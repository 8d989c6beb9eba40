"""How many threads a fit or a prediction has, and what it does to those of PyTorch and BLAS."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import joblib
import torch
from threadpoolctl import ThreadpoolController

from sktorch_mlp._nn.threads import threads_for_large_calls

from . import compat

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Multiply-adds of a step, and of all steps of a fit, from which more threads may pay.
_LARGE_STEP, _LONG_FIT = 2_000_000, 300_000_000

#: Seconds after which threads that have been joined are surely gone.
_UNTIL_GONE = 0.05

#: Multiply-adds up to which the BLAS of numpy uses one thread anyway.
_ONE_BLAS_THREAD = 2**18


class _Process:
    """What is true of the threads of this process."""

    def __init__(self, *, is_forked: bool) -> None:
        self.is_forked = is_forked
        self.threads_ended = -math.inf  # when some of ours last did, in seconds of `time.monotonic`
        self.lock = threading.Lock()
        self.n_limited = 0  # threads whose PyTorch computes on one thread
        self.user_setting = 0  # of torch.set_num_threads, while there are any
        self.n_blas_limits = 0
        self.blas_settings: list[tuple[Any, int]] = []  # libraries, and their threads before the first limit


_process = _Process(is_forked=False)
_local = threading.local()  # .setting: the user's setting of PyTorch while this thread is limited, else 0


def threads_have_ended() -> None:
    """Note that threads which multiplied matrices have just been joined."""
    _process.threads_ended = time.monotonic()


def _before_fork() -> None:
    """Wait for threads that have just ended.

    A thread that has been joined still gives the buffers of its products back, under a lock of the library.
    A child that was forked in this moment would wait for that lock for ever.
    """
    time.sleep(max(0.0, _process.threads_ended + _UNTIL_GONE - time.monotonic()))


def _after_fork() -> None:
    """Start anew in a forked child, which has no thread but the one that forked.

    OpenMP, under PyTorch, would wait there for ever for the threads of the parent. One thread needs no other.
    """
    global _process
    _process = _Process(is_forked=True)
    _local.setting = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


class OneThread:
    """While it is entered, PyTorch computes on one thread for the calling thread. It can be nested."""

    def __enter__(self) -> None:
        self._setting = 0
        if getattr(_local, "setting", 0):
            return
        process = _process
        with process.lock:
            if process.n_limited == 0:
                process.user_setting = torch.get_num_threads()
            process.n_limited += 1
            self._setting = _local.setting = process.user_setting
        torch.set_num_threads(1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._setting:
            return
        _local.setting = 0
        torch.set_num_threads(self._setting)
        with _process.lock:
            _process.n_limited = max(0, _process.n_limited - 1)  # none in a child that was forked in the meantime


def on_one_thread(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let PyTorch compute on one thread in a function; what is large there may be given more."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with OneThread():
            return function(*args, **kwargs)

    return call


@contextmanager
def training_threads(step_size: int, n_steps: float) -> Iterator[None]:
    """Let large calls of a long fit use more threads, and keep those of BLAS out of the way.

    Parameters
    ----------
    step_size : int
        Multiply-adds of a training step.
    n_steps : float
        Most steps.
    """
    if step_size <= _ONE_BLAS_THREAD:
        yield
        return
    is_long = step_size >= _LARGE_STEP and step_size * n_steps >= _LONG_FIT
    with single_threaded_blas(), threads_for_large_calls(available_threads() if is_long else 1):
        yield


def available_threads() -> int:
    """How many threads may compute for the calling thread.

    As many as PyTorch is set to, but not more than the cores that affinity and the quotas of a container
    leave to this process. One inside joblib's pool of threads, where n tasks at once would each take a thread
    for each core (joblib limits its processes itself), and one in a forked process.
    """
    if _process.is_forked or compat.in_joblib_thread():
        return 1
    return min(getattr(_local, "setting", 0) or torch.get_num_threads(), _cpu_count(_affinity()))


def _affinity() -> frozenset[int]:
    """Cores that this thread may use; empty where the system does not say."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


@lru_cache(maxsize=1)
def _cpu_count(affinity: frozenset[int]) -> int:
    """Cores, less those that affinity and quotas withhold; joblib needs 70 µs to read them."""
    n_cores: int = joblib.cpu_count()
    return n_cores


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Keep the BLAS of numpy and scipy to one thread, while PyTorch computes in between.

    BLAS threads that wait for the next product spin on the cores that others need. The setting is that of the
    process: the first that enters sets it, and the last that leaves restores it.
    """
    process = _process
    with process.lock:
        if process.n_blas_limits == 0:
            process.blas_settings = [(library, library.num_threads) for library in _blas_libraries()]
            for library, _ in process.blas_settings:
                library.set_num_threads(1)
        process.n_blas_limits += 1
    try:
        yield
    finally:
        with process.lock:
            process.n_blas_limits -= 1
            if process.n_blas_limits == 0:
                for library, setting in process.blas_settings:
                    library.set_num_threads(setting)


@cache
def _blas_libraries() -> list[Any]:
    """The BLAS libraries of this process; to find them takes 8 ms."""
    libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries
