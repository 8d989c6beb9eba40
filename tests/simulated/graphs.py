"""Graphs and random streams of simulated devices."""

import contextlib
import warnings

import torch
from torch.torch_version import TorchVersion

from .state import is_tensor, leaves, refuse_while_recording, resolve, thread, traffic
from .streams import is_watching, note_use


def check_generator(generator, device):
    """Check a random stream of a call. Kernels get it as another object."""
    if generator is None:
        return
    if generator.device != device:
        raise RuntimeError(f"Expected a '{device}' generator device but found '{generator.device}'")
    if thread.graph is not None and not thread.graph.may_draw(generator):
        raise RuntimeError("Attempt to increase offset for a CUDA generator not in capture mode.")


class Generator(torch.Generator):
    """A random stream of a device: that of the CPU for the same seed."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls)

    def __init__(self, device="cpu"):
        self.placement = resolve(device)

    @property
    def device(self):
        return self.placement

    def get_state(self):
        refuse_while_recording("Generator.get_state")
        return super().get_state()

    def set_state(self, state):
        refuse_while_recording("Generator.set_state")
        return super().set_state(state)

    def manual_seed(self, seed):
        refuse_while_recording("Generator.manual_seed")
        return super().manual_seed(seed)


class Graph:
    """Kernels of a device, and the memory that they were called with."""

    def __init__(self):
        self._kernels, self._device = [], None
        self._generators = []

    def register_generator_state(self, generator):
        """Let random numbers be drawn from this stream, for which PyTorch does not ask since 2.14."""
        refuse_while_recording("register_generator_state")
        assert generator.device.type == "cuda", "Expected a 'cuda' device type for generator"
        if _registers_generators():
            warnings.warn("CUDAGraph.register_generator_state() is deprecated", DeprecationWarning, stacklevel=2)
        self._generators.append(generator)

    def may_draw(self, generator):
        """Whether random numbers of this stream can be recorded."""
        return _registers_generators() or any(generator is own for own in self._generators)

    def capture_begin(self, pool=None, capture_error_mode="global"):
        """Record the kernels of this thread, on its current device."""
        refuse_while_recording("capture_begin")
        self._device = torch.device("cuda", thread.current)
        thread.graph = self

    def capture_end(self):
        """Record no more."""
        thread.graph = None
        traffic.n_recorded += 1

    def record(self, kernel, args, kwargs, device):
        """Return what a kernel gives, without an effect on the memory that it writes to, and on random streams."""
        if device != self._device:
            raise RuntimeError(f"CUDA error: a kernel on {device} while {self._device} is captured")
        generator = kwargs.get("generator")
        state = None if generator is None else generator.get_state()
        before = [(memory, memory.clone()) for memory in written(kernel, args, kwargs)]
        results = kernel(*args, **kwargs)
        for memory, values in before:
            memory.copy_(values)
        if state is not None:
            generator.set_state(state)
        self._kernels.append((kernel, args, kwargs, results))
        return results

    def replay(self):
        """Run the kernels on what their memory holds now."""
        refuse_while_recording("replay")
        traffic.n_replayed += 1
        with torch._C.DisableTorchFunction():
            for kernel, args, kwargs, results in self._kernels:
                if is_watching(self._device):
                    note_use(self._device, "replay", (args, kwargs), (written(kernel, args, kwargs), results))
                repeated = kernel(*args, **kwargs)
                for old, new in zip(leaves(results), leaves(repeated), strict=True):
                    if is_tensor(old) and old is not new:  # else it has been written in place
                        old.copy_(new)


def _registers_generators():
    return TorchVersion(torch.__version__) >= (2, 14)


def written(kernel, args, kwargs):
    """Tensors among the arguments that a kernel writes to."""
    arguments = kernel._schema.arguments
    values = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    names = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    return list(filter(is_tensor, leaves([values.get(name) for name in names])))


@contextlib.contextmanager
def record(graph, pool=None, stream=None, capture_error_mode="global"):
    """`torch.cuda.graph`, which first waits for all kernels."""
    traffic.wait("torch.cuda.graph")
    graph.capture_begin()
    try:
        yield
    finally:
        graph.capture_end()


@contextlib.contextmanager
def current_device(device):
    """`torch.cuda.device`."""
    before = thread.current
    thread.current = resolve(device).index
    try:
        yield
    finally:
        thread.current = before
