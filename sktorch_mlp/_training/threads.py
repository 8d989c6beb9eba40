"""How many threads a fit or a prediction may use, and what it does to those of PyTorch and BLAS."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, lru_cache
from typing import Any

import joblib
import torch
from threadpoolctl import ThreadpoolController

from sktorch_mlp._nn.threads import threads_for_large_calls

from . import compat

#: Multiply-adds of a step, and of all steps of a job, from which more threads may pay.
_LARGE_STEP, _LONG_JOB = 2_000_000, 300_000_000

#: Multiply-adds up to which the BLAS of numpy uses one thread anyway.
ONE_BLAS_THREAD = 2**18


class _Process:
    """What is true of the threads of this process."""

    def __init__(self, *, is_forked: bool) -> None:
        self.is_forked = is_forked
        self.lock = threading.Lock()
        self.n_limited = 0  # threads whose PyTorch computes on one thread
        self.user_setting = 0  # of torch.set_num_threads, while there are any
        self.n_blas_limits = 0
        self.blas_settings: list[tuple[Any, int]] = []  # BLAS libraries and their threads before the first limit


_process = _Process(is_forked=False)
_local = threading.local()  # .is_limited: whether this thread is one of them


def _after_fork() -> None:
    """Start anew in a forked child, which has no thread but the one that forked.

    OpenMP, under PyTorch, would wait for the others for ever. On one thread it needs none.
    """
    global _process
    _process = _Process(is_forked=True)
    _local.is_limited = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def compute_threads(step_size: int, n_steps: float = math.inf) -> Iterator[None]:
    """Compute on one thread, but for large calls of long jobs; then restore the user's setting.

    Parameters
    ----------
    step_size : int
        Multiply-adds of a training step, or of a block of predictions.
    n_steps : float, default=inf
        Most steps; 0 for predictions, whose blocks are what threads share.
    """
    if getattr(_local, "is_limited", False):
        yield
        return
    process = _process
    with process.lock:
        if process.n_limited == 0:
            process.user_setting = torch.get_num_threads()
        process.n_limited += 1
        setting = process.user_setting
    is_large = step_size >= _LARGE_STEP and step_size * n_steps >= _LONG_JOB
    with ExitStack() as stack:
        torch.set_num_threads(1)
        _local.is_limited = True
        try:
            if step_size > ONE_BLAS_THREAD:
                stack.enter_context(single_threaded_blas())
            if is_large:
                stack.enter_context(threads_for_large_calls(available_threads(setting)))
            yield
        finally:
            _local.is_limited = False
            torch.set_num_threads(setting)
            with process.lock:
                process.n_limited -= 1


def available_threads(setting: int | None = None) -> int:
    """How many threads may compute for this thread.

    As many as PyTorch is set to, but not more than the cores that affinity and the quotas of a container
    leave to this process. One inside joblib's pool of threads, where n tasks at once would each take a thread
    for each core (joblib limits its processes itself), and one in a forked process.

    Parameters
    ----------
    setting : int, default=None
        Threads of PyTorch; None for those it is set to now.
    """
    if _process.is_forked or (getattr(_local, "is_limited", False) and setting is None) or compat.in_joblib_thread():
        return 1
    return min(torch.get_num_threads() if setting is None else setting, _cpu_count(_affinity()))


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
    process, so the first that enters sets it, and the last that leaves restores it.
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
