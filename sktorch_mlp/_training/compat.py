"""Names of PyTorch and joblib that are not documented, with the reason for each and its fallback."""

from __future__ import annotations

import threading
from collections.abc import Callable

import joblib
import torch
from torch import Tensor


def fused_adam(params: Tensor) -> Callable[..., None] | None:
    """Return ``torch._fused_adam_``, Adam in one call; None where it is missing or does not fit.

    It takes 4 µs where five calls take 13. ``torch.optim.Adam(fused=True)`` calls it, but it is not documented.
    Where it is gone the five calls take its place.
    """
    # On CUDA, where the rate is a tensor, the kernel takes it for float32 whatever it is.
    fits = params.device.type == "cpu" or (params.device.type == "cuda" and params.dtype == torch.float32)
    return getattr(torch, "_fused_adam_", None) if fits else None


def register_generator(graph: torch.cuda.CUDAGraph, generator: torch.Generator) -> None:
    """Let the calls that a graph is about to record draw from a random stream.

    PyTorch does so by itself since 2.14, where ``register_generator_state`` does nothing but warn.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14):
        graph.register_generator_state(generator)


def in_joblib_thread() -> bool:
    """Return whether this thread runs a task of joblib's, by ``joblib.parallel.get_active_backend``.

    n tasks at once would each start a thread for each core. joblib limits its processes, but not its threads.
    Where the function is gone, fits in threads choose their threads as fits elsewhere do.
    """
    if threading.current_thread() is threading.main_thread():
        return False
    get_active_backend = getattr(joblib.parallel, "get_active_backend", None)
    if get_active_backend is None:
        return False
    backend, _ = get_active_backend()
    return bool(getattr(backend, "nesting_level", 0))
