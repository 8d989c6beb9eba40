"""CUDA graphs: the many small kernels of training steps launched as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from . import compat

_capture_lock = threading.Lock()  # one capture at a time in a process


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Stream on which all graphs of a device are recorded. Each stream that multiplies matrices keeps 32 MiB for good.

    PyTorch hands out 32 streams of each priority over and over. That of copies to the device, which go on meanwhile, has another.
    """
    return torch.cuda.Stream(device, priority=-1)


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
            try:
                # `torch.cuda.graph` would first wait for the GPU and give memory back to it, which the next call then asks for anew.
                with torch.cuda.stream(_capture_stream(device)):
                    # Other threads may use the GPU meanwhile.
                    self._graph.capture_begin(capture_error_mode="thread_local")
                    self.result = function()
                    self._graph.capture_end()
            except BaseException:
                self._abandon(device)
                raise

    def _abandon(self, device: torch.device) -> None:
        """Record no more, after an error or Ctrl-C wherever it came. The next graph is recorded on another stream."""
        with torch.cuda.stream(_capture_stream(device)), suppress(RuntimeError):  # what went wrong before is known
            if torch.cuda.is_current_stream_capturing():
                self._graph.capture_end()
        _capture_stream.cache_clear()

    def replay(self) -> None:
        """Run the kernels, on the values that their inputs have now."""
        with torch.cuda.device(self._device):
            self._graph.replay()


class CapturedFunction:
    """A function of buffers that stay in place, replayed as a CUDA graph.

    The first call with a number runs the function as it is, for the libraries below to make their
    workspaces, and as a graph that is replayed once would take longer. The second one records its kernels,
    which from then on are replayed: Python takes no part any more, and arguments are not looked at again.

    The function is given at each call and not kept. It may be a method of who keeps this: both would hold each other,
    and the memory of the graphs would be free only when Python collects garbage.

    Parameters
    ----------
    device : torch.device
    generators : sequence of Generator, default=()
        Random streams that the function draws from.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator] = ()) -> None:
        self._device, self._generators = device, generators
        self._graphs: dict[int, CudaGraph | None] = {}

    def __call__(self, function: Callable[..., Tensor], number: int, *args: Any) -> Tensor:
        """Result of ``function(number, *args)``, a tensor. The function is always the same one."""
        if number not in self._graphs:
            self._graphs[number] = None
            return function(number, *args)
        graph = self._graphs[number]
        if graph is None:
            graph = self._graphs[number] = CudaGraph(partial(function, number, *args), self._device, self._generators)
        graph.replay()
        return graph.result.clone()  # the next replay overwrites it
