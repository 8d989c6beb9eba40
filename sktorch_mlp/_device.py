"""Choice of device, precision and threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import joblib
import numpy as np
import torch
from threadpoolctl import ThreadpoolController


def resolve_device(device: str | torch.device) -> torch.device:
    """The device a name stands for; "auto" is CUDA, else Apple's MPS, else the CPU.

    Raises
    ------
    ValueError
        If the device is unknown or not there.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device(_best_available())
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is no device that PyTorch knows. Use 'auto', 'cpu', 'cuda', 'cuda:1', 'mps' or a torch.device."
        ) from error
    if resolved.type == "cuda" and resolved.index is None and torch.cuda.is_available():
        resolved = torch.device("cuda", torch.cuda.current_device())
    if not is_available(resolved):
        raise ValueError(
            f"device={str(device)!r} is not available on this machine: {_what_there_is()}. Use device='auto' or device='cpu'."
        )
    return torch.device("cpu") if resolved.type == "cpu" else resolved  # "cpu:0" is the same place


def is_available(device: torch.device) -> bool:
    """Whether tensors can be placed on the device here and now."""
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


def _best_available() -> str:
    if torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _what_there_is() -> str:
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"PyTorch {torch.__version__} sees {n_cuda} CUDA device(s) and {'an' if torch.backends.mps.is_available() else 'no'} MPS device"


def training_dtype(dtype: str, device: torch.device) -> np.dtype | None:
    """The precision to train in; None for that of X, if X is float32 or float64.

    "auto" does on the CPU what scikit-learn does: float32 input trains in float32, all
    other in float64. On a GPU it is float32, as most GPUs are slow in float64 or lack it.

    With "bfloat16" it is float32, in all but the products of training.

    Raises
    ------
    ValueError
        If float64 or bfloat16 is asked for on a device that lacks it.
    """
    if dtype == "bfloat16":
        _check_bfloat16(device)
        return np.dtype(np.float32)
    if dtype == "auto":
        return None if device.type == "cpu" else np.dtype(np.float32)
    if dtype == "float64" and device.type == "mps":
        raise ValueError("dtype='float64' is not supported on Apple's MPS device. Use dtype='float32' or device='cpu'.")
    return np.dtype(dtype)


def _check_bfloat16(device: torch.device) -> None:
    if device.type == "cuda":
        is_there = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_there = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not is_there:
        raise ValueError(f"dtype='bfloat16' is not supported by this {device.type!r} device. Use dtype='float32'.")


#: Multiply-adds of a step, and of all steps of a job, from which more threads pay. A short job
#: is done sooner on one: for some 50 ms after its last product the threads of numpy's BLAS may
#: still be spinning on the other cores.
_LARGE_STEP, _LONG_JOB = 2_000_000, 300_000_000

_thread_lock = threading.Lock()
_thread_users = 0
_thread_setting = 0  # the user's, while fits have their own
_here = threading.local()  # .is_limited: whether this thread computes on one thread already


@contextmanager
def compute_threads(step_size: int, n_steps: float = math.inf) -> Iterator[None]:
    """Compute on as many threads as pay, at most the user's; the user's setting comes back.

    Small steps and short jobs run on one thread, and so does all inside joblib's pool of
    threads, where n fits at once would each start a thread a core. (joblib's processes it
    limits itself.)

    Parameters
    ----------
    step_size : int
        Multiply-adds of a training step, or of a block of predictions.
    n_steps : float, default=inf
        Steps, at most; for predictions, which do not alternate with the products of others, leave it out.
    """
    global _thread_users, _thread_setting
    is_large = step_size >= _LARGE_STEP and step_size * n_steps >= _LONG_JOB and not _in_thread_pool()
    if is_large or getattr(_here, "is_limited", False):
        yield
        return
    with _thread_lock:
        if _thread_users == 0:
            _thread_setting = torch.get_num_threads()
        _thread_users += 1
        setting = _thread_setting
    torch.set_num_threads(1)
    _here.is_limited = True
    try:
        yield
    finally:
        _here.is_limited = False
        torch.set_num_threads(setting)
        with _thread_lock:
            _thread_users -= 1


def single_threaded_blas() -> AbstractContextManager[Any]:
    """Keep numpy's and scipy's BLAS to one thread, while PyTorch computes in between.

    The vectors of L-BFGS are too short for more, and BLAS threads that wait for the next
    product spin on the cores that PyTorch needs: without this a fit takes up to ten times
    as long.
    """
    return _threadpools().limit(limits=1, user_api="blas")


@cache
def _threadpools() -> ThreadpoolController:
    """The thread pools of this process; looking for them takes 8 ms."""
    return ThreadpoolController()


def _in_thread_pool() -> bool:
    backend, _ = joblib.parallel.get_active_backend()
    return bool(backend.nesting_level) and threading.current_thread() is not threading.main_thread()
