"""What simulated devices count, what is true of each thread, and what is refused while a graph is recorded."""

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

HOST = torch.device("cpu")
N_CUDA_DEVICES = 2


class Copy(NamedTuple):
    """A copy: the call that asked for it, and how many values it has."""

    call: str
    n_values: int


@dataclass
class Traffic:
    """What has passed between the host and the devices.

    Attributes
    ----------
    to_device, to_host, between_devices : list of Copy
    waits : Counter
        How often the host has waited for a device, by the call.
    waits_of_threads : dict of Counter
        The same for each thread, by its name.
    kernels : Counter
        Kernels by device; those of a replay are not counted.
    n_recorded, n_replayed : int
        Graphs recorded, and replays.
    """

    to_device: list = field(default_factory=list)
    to_host: list = field(default_factory=list)
    between_devices: list = field(default_factory=list)
    waits: Counter = field(default_factory=Counter)
    waits_of_threads: dict = field(default_factory=lambda: defaultdict(Counter))
    kernels: Counter = field(default_factory=Counter)
    n_recorded: int = 0
    n_replayed: int = 0

    def clear(self):
        """Count from zero."""
        self.__init__()

    @property
    def n_values_to_host(self):
        """Values of all copies to the host."""
        return sum(copy.n_values for copy in self.to_host)

    def note(self, source, target, call, n_values, dtype, *, waits=True):
        """Note a copy. One of memory that is not pinned waits until all kernels before it have run."""
        refuse_while_recording(call)
        if "mps" in (source.type, target.type):  # which casts before it copies to the host
            refuse_float64_of_mps(dtype)
        copies = self.to_host if target == HOST else self.to_device if source == HOST else self.between_devices
        copies.append(Copy(call, n_values))
        if waits and HOST in (source, target):
            self.wait(call)

    def wait(self, call):
        """Note that the host waits."""
        refuse_while_recording(call)
        self.waits[call] += 1
        self.waits_of_threads[threading.current_thread().name][call] += 1


traffic = Traffic()


class _Thread(threading.local):
    graph = None  # that records the calls of this thread
    current = 0  # index of its CUDA device
    stream = None  # where its kernels go, if not to the default stream


thread = _Thread()


def refuse_while_recording(call):
    if thread.graph is not None:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {call}")


def refuse_float64_of_mps(dtype):
    if dtype == torch.float64:
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use "
            "float32 instead."
        )


def resolve(device):
    """Device with its index; that of the host has none."""
    if isinstance(device, int):
        return torch.device("cuda", device)
    device = torch.device(device)
    if device.type == "cuda":
        index = thread.current if device.index is None else device.index
        if index >= N_CUDA_DEVICES:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.device("cuda", index)
    return HOST if device.type == "cpu" else torch.device(device.type, 0) if device.type == "mps" else device


_pinned = {}  # by address


def pin(tensor):
    """Have the memory of a tensor of the host pinned."""
    storage = tensor.untyped_storage()
    _pinned[storage.data_ptr()] = StorageWeakRef(storage)
    return tensor


def is_pinned(tensor):
    storage = tensor.untyped_storage()
    known = _pinned.get(storage.data_ptr())
    return known is not None and not known.expired() and known == StorageWeakRef(storage)


def is_tensor(value):
    return isinstance(value, Tensor)


def leaves(*values):
    """What lists, tuples and dicts contain, as `torch.utils._pytree` gives it, in a tenth of the time."""
    for value in values:
        if isinstance(value, dict):
            yield from leaves(*value.values())
        elif isinstance(value, list | tuple):
            yield from leaves(*value)
        else:
            yield value


def convert(function, value):
    """Apply a function to what lists, tuples and dicts contain."""
    if isinstance(value, dict):
        return {name: convert(function, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(convert(function, item) for item in value)
    return function(value)
