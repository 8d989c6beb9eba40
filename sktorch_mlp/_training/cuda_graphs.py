"""CUDA graphs: the many small kernels of training steps launched as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import compat

_capture_lock = threading.Lock()  # one capture at a time in a process


class CudaGraph:
    """The kernels of one call of a function, recorded but not yet run.

    Parameters
    ----------
    function : callable
        Returns a tensor. It must not wait for the GPU.
    device : torch.device
        Device of its tensors.
    generators : sequence of Generator, default=()
        Random streams that it draws from. A replay draws on from where they are, as a call would.

    Attributes
    ----------
    result : Tensor
        Result of the function; each `replay` fills it.
    """

    def __init__(
        self, function: Callable[[], Tensor], device: torch.device, generators: Sequence[torch.Generator] = ()
    ) -> None:
        self._device = device
        with _capture_lock, torch.cuda.device(device):
            self._graph = torch.cuda.CUDAGraph()
            for generator in generators:
                compat.register_generator(self._graph, generator)
            stream = torch.cuda.Stream(device)
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self.result = function()

    def replay(self) -> None:
        """Run the kernels, on the values that their inputs have now."""
        with torch.cuda.device(self._device):
            self._graph.replay()


class CapturedFunction:
    """A function of buffers that stay in place, replayed as a CUDA graph from its third call on.

    The first call runs the function as it is, for the libraries below to make their
    workspaces. The second one records its kernels, which from then on are replayed: Python
    takes no part any more, and arguments are not looked at again.

    The function is given at each call and not kept. It may be a method of who keeps this: both would hold each other,
    and the memory of the graph would be free only when Python collects garbage.

    Parameters
    ----------
    device : torch.device
    generators : sequence of Generator, default=()
        Random streams that the function draws from.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator] = ()) -> None:
        self._device, self._generators = device, generators
        self._is_warm = False
        self._graph: CudaGraph | None = None

    def __call__(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        """Result of the function, always the same one, which returns a tensor."""
        if not self._is_warm:
            self._is_warm = True
            return function(*args)
        if self._graph is None:
            self._graph = CudaGraph(partial(function, *args), self._device, self._generators)
        self._graph.replay()
        return self._graph.result.clone()  # the next replay overwrites it
