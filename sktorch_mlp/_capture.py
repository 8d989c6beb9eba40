"""CUDA graphs: the many small kernels of a training step launched as one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

_capturing = threading.Lock()  # one at a time in a process


class CudaGraph:
    """The kernels of one call, recorded but not yet run.

    Parameters
    ----------
    function : callable
        Gives a tensor. It must not wait for the GPU.
    device : torch.device
        Where its tensors are.

    Attributes
    ----------
    result : Tensor
        What the function gave; filled by each `replay`.
    """

    def __init__(self, function: Callable[[], Tensor], device: torch.device) -> None:
        self._device = device
        with _capturing, torch.cuda.device(device):
            self._graph = torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream(device)
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self.result = function()

    def replay(self) -> None:
        """Run the kernels, on the values that their inputs have now."""
        with torch.cuda.device(self._device):
            self._graph.replay()


class Captured:
    """A function of buffers that stay in place, a CUDA graph from its second call on.

    The first call runs the function as it is, in which the libraries below make their
    workspaces. The second records its kernels, and from then on they are replayed:
    Python takes no part any more, and arguments are not looked at again.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self._function, self._device = function, device
        self._is_warm = False
        self._graph: CudaGraph | None = None

    def __call__(self, *args: Any) -> Tensor:
        """The function's result."""
        if not self._is_warm:
            self._is_warm = True
            return self._function(*args)
        if self._graph is None:
            self._graph = CudaGraph(partial(self._function, *args), self._device)
        self._graph.replay()
        return self._graph.result.clone()  # the next replay overwrites it
