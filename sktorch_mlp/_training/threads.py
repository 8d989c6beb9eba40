"""How many threads a fit or a prediction has, and what it does to those of PyTorch and BLAS."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from functools import cache, lru_cache, partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import joblib
import torch
from threadpoolctl import ThreadpoolController

from sktorch_mlp._nn.compat import own_thread_setters
from sktorch_mlp._nn.concurrent import call_without_signals
from sktorch_mlp._nn.matmul import ONE_BLAS_THREAD_FOR_VECTORS
from sktorch_mlp._nn.threads import forget_threads, set_own_threads, threads_for_large_calls

from . import compat

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Multiply-adds of a step, and of all steps of a fit, from which more threads may pay.
_LARGE_STEP, _LONG_FIT = 2_000_000, 300_000_000

#: Seconds after which quotas are read again: containers are resized while they run.
_SECONDS_OF_A_QUOTA = 10.0

#: Seconds after which threads that have been joined are surely gone.
_UNTIL_GONE = 0.05

#: How often BLAS is given its threads again, at most, where handlers of signals raise meanwhile.
_MOST_ATTEMPTS = 100


class _Process:
    """What is true of the threads of this process."""

    def __init__(self, *, is_forked: bool) -> None:
        self.is_forked = is_forked
        self.threads_ended = -math.inf  # when some of ours last did, in seconds of `time.monotonic`
        self._blas_lock = threading.RLock()  # a handler of signals may fit, too
        self._blas_users: set[object] = set()  # who needs that of one thread
        self._blas_settings: list[tuple[Any, int]] = []  # libraries, and their threads before the first came

    def limit_blas(self, user: object) -> None:
        """Give BLAS one thread, until all who need that have left."""
        with self._blas_lock:
            is_first = not self._blas_users
            self._blas_users.add(user)
            if is_first:
                settings = [(library, library.num_threads) for library in _blas_libraries()]
                self._blas_settings = [(library, n_threads) for library, n_threads in settings if n_threads > 1]
                for library, _ in self._blas_settings:
                    _set_from_any_thread(library, 1)

    def release_blas(self, user: object) -> None:
        """Give BLAS its threads again, if nobody else needs that of one."""
        with self._blas_lock:
            if self._blas_users == {user}:
                for library, setting in self._blas_settings:
                    if library.num_threads == 1:  # else others have set it meanwhile
                        _set_from_any_thread(library, setting)
                self._blas_settings = []
            # Only now: the fit of a handler would find one thread, and take it for the setting.
            self._blas_users.discard(user)


_process = _Process(is_forked=False)
_local = threading.local()  # .n_threads: those of PyTorch before this thread was limited to one, else 0


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
    forget_threads()
    if getattr(_local, "n_threads", 0):  # it has been forked within a fit, and perhaps within a call on several
        set_own_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def on_one_thread(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let PyTorch compute on one thread in a function; what is large there may be given more.

    That is so for the calling thread alone, and no other knows of it.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if getattr(_local, "n_threads", 0):
            return function(*args, **kwargs)
        n_threads = torch.get_num_threads()
        set_openmp, set_mkl = own_thread_setters()
        n_mkl_threads = n_threads
        try:  # no context manager: Ctrl-C at the beginning of its `__exit__` would leave all as it is now
            _local.n_threads = n_threads
            set_openmp(1)
            n_mkl_threads = set_mkl(1)
            return function(*args, **kwargs)
        finally:
            _local.n_threads = 0
            try:
                set_openmp(n_threads)
            finally:
                set_mkl(n_mkl_threads)

    return call


def call_with_threads(function: Callable[[], _R], step_size: int, n_steps: float) -> _R:
    """Train: let large calls of a long fit use more threads, and keep those of BLAS out of the way.

    Parameters
    ----------
    function : callable
    step_size : int
        Multiply-adds of a training step.
    n_steps : float
        Most steps.
    """
    if step_size <= ONE_BLAS_THREAD_FOR_VECTORS:
        return function()
    is_long = step_size >= _LARGE_STEP and step_size * n_steps >= _LONG_FIT
    with threads_for_large_calls(available_threads() if is_long else 1):
        return on_one_blas_thread(function)()


def available_threads() -> int:
    """How many threads may compute for the calling thread.

    As many as PyTorch is set to, but not more than the cores that affinity and the quotas of a container
    leave to this process. One inside joblib's pool of threads, where n tasks at once would each take a thread
    for each core (joblib limits its processes itself), and one in a forked process.
    """
    if _process.is_forked or compat.in_joblib_thread():
        return 1
    n_cores = _cpu_count(_affinity(), time.monotonic() // _SECONDS_OF_A_QUOTA)
    return min(getattr(_local, "n_threads", 0) or torch.get_num_threads(), n_cores)


def _affinity() -> frozenset[int]:
    """Cores that this thread may use; empty where the system does not say."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


@lru_cache(maxsize=1)
def _cpu_count(affinity: frozenset[int], when: float) -> int:
    """Cores, less those that affinity and quotas withhold; joblib needs 70 µs to read them. `when` is part of what is cached.

    joblib sees the quota of a container. That of a service or a job that runs beside others is one of its control group.
    """
    return call_without_signals(partial(_count_cores, affinity))


def _count_cores(affinity: frozenset[int]) -> int:
    try:
        n_cores: int = joblib.cpu_count()
    except (OSError, ValueError):  # no file descriptor is left to read a quota with, or LOKY_MAX_CPU_COUNT is no number
        n_cores = len(affinity) or os.cpu_count() or 1
    return max(1, math.ceil(min(n_cores, _cgroup_quota())))


def _cgroup_quota(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores whose time the control groups of this process may have at most, by Linux's documentation of cgroups."""
    quota = math.inf
    for line in _read(groups).split("\n"):
        _, *parts = line.split(":", 2)
        if len(parts) != 2 or (parts[0] and "cpu" not in parts[0].split(",")):
            continue
        controllers, path = parts
        mount = root / "cpu" if controllers else root
        group = mount / path.lstrip("/")
        for directory in [group, *group.parents]:
            if not directory.is_relative_to(mount):
                break
            if controllers:
                limit = [_read(directory / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
            else:
                limit = _read(directory / "cpu.max").split()
            are_numbers = len(limit) == 2 and all(
                number.strip().isdecimal() for number in limit
            )  # else -1, max or nothing
            if are_numbers and int(limit[1]) > 0:
                quota = min(quota, int(limit[0]) / int(limit[1]))
    return quota


def _read(path: Path) -> str:
    """Text of a file, with names of files of any encoding; nothing where there is none."""
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""


def on_one_blas_thread(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Keep the BLAS of numpy and scipy to one thread in a function that computes with PyTorch in between.

    BLAS threads that wait for the next product spin on the cores that others need. The setting is that of the
    process: the first that enters sets it, and the last that leaves restores it, in whatever thread, unless others have
    set it meanwhile.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        process, user, interrupt = _process, object(), None
        try:
            process.limit_blas(user)
            return function(*args, **kwargs)
        finally:  # in place: Ctrl-C may come wherever a function begins
            n_attempts = _MOST_ATTEMPTS
            while n_attempts > 0:
                try:
                    process.release_blas(user)
                    n_attempts = 0
                except (
                    BaseException
                ) as error:  # of Ctrl-C, or what the handler of an alarm raises: once more, then it goes on its way
                    interrupt = error
                    n_attempts -= 1
            if interrupt is not None:
                raise interrupt

    return call


def _set_from_any_thread(library: Any, n_threads: int) -> None:
    """Set the threads of a library for which another thread may have set them, and leave that to all threads again.

    Since threadpoolctl 3.8 a thread that has set those of OpenBLAS is for good the only one that can.
    """
    clear: Callable[..., None] = getattr(library, "clear_controlling_thread", _nothing)
    clear(force=True)
    library.set_num_threads(n_threads)
    clear(force=True)


def _nothing(*, force: bool) -> None:
    """There is no such thread."""


@cache
def _blas_libraries() -> list[Any]:
    """The BLAS libraries of this process; to find them takes 8 ms."""
    libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries
