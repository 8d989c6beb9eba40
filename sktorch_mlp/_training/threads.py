"""Threads of PyTorch and BLAS while a fit or a prediction computes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

from . import compat

#: Multiply-adds of a step, and of all steps of a job, from which more threads pay. A short job
#: is done sooner on one: for some 50 ms after its last product the threads of numpy's BLAS may
#: still be spinning on the other cores.
_LARGE_STEP, _LONG_JOB = 2_000_000, 300_000_000

_lock = threading.Lock()
_n_limited = 0  # threads that compute on one thread
_user_setting = 0  # of torch.set_num_threads, while there are any
_local = threading.local()  # .is_limited: whether this thread is one of them


@contextmanager
def compute_threads(step_size: int, n_steps: float = math.inf) -> Iterator[None]:
    """Compute on as many threads as pay, at most the user's; then restore the user's setting.

    Small steps and short jobs run on one thread, and so does all inside joblib's pool of
    threads, where n fits at once would each start a thread for each core. (joblib limits its
    processes itself.)

    Parameters
    ----------
    step_size : int
        Multiply-adds of a training step, or of a block of predictions.
    n_steps : float, default=inf
        Most steps. For predictions, which do not alternate with products of numpy, leave it out.
    """
    global _n_limited, _user_setting
    is_large = step_size >= _LARGE_STEP and step_size * n_steps >= _LONG_JOB and not compat.in_joblib_thread()
    if is_large or getattr(_local, "is_limited", False):
        yield
        return
    with _lock:
        if _n_limited == 0:
            _user_setting = torch.get_num_threads()
        _n_limited += 1
        setting = _user_setting
    torch.set_num_threads(1)
    _local.is_limited = True
    try:
        yield
    finally:
        _local.is_limited = False
        torch.set_num_threads(setting)
        with _lock:
            _n_limited -= 1


def single_threaded_blas() -> AbstractContextManager[Any]:
    """Keep the BLAS of numpy and scipy to one thread, while PyTorch computes in between.

    The vectors of L-BFGS are too short for more, and BLAS threads that wait for the next
    product spin on the cores that PyTorch needs: without this a fit takes up to ten times
    as long.
    """
    limits: AbstractContextManager[Any] = _thread_pools().limit(limits=1, user_api="blas")
    return limits


@cache
def _thread_pools() -> ThreadpoolController:
    """The thread pools of this process; to find them takes 8 ms."""
    return ThreadpoolController()
