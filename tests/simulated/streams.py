"""Streams and events of simulated CUDA devices.

Kernels run at once, but a copy from pinned memory on a stream of its own runs when somebody waits for it. That its source is
not changed before the host knows that it has run is checked then. And of each tensor is known which kernels have used it on
which stream: one that could run at the same time as another one that writes there is refused.
"""

import contextlib
from collections import Counter, defaultdict

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .state import is_tensor, leaves, resolve, thread, traffic


class Stream:
    """Kernels of a device that run one after the other.

    Attributes
    ----------
    clock : Counter
        How many kernels of each stream surely run before the next one of this stream.
    """

    def __init__(self, device=None, priority=0):
        self.device = resolve("cuda" if device is None else device)
        self.clock = Counter()
        self._deferred, self._run = [], []  # copies

    def defer_copy(self, target, source):
        """Copy when somebody waits for it."""
        self._deferred.append((self.clock[self], target, source))

    def run_copies(self, until):
        """Run the copies among so many kernels."""
        while self._deferred and self._deferred[0][0] <= until:
            n_kernels, target, source = self._deferred.pop(0)
            target.copy_(source)
            self._run.append((n_kernels, source, source.clone()))

    def check_sources(self, until):
        """The host knows now that so many kernels have run, and could not know it before."""
        while self._run and self._run[0][0] <= until:
            _, source, copied = self._run.pop(0)
            if not torch.allclose(source, copied, rtol=0, atol=0, equal_nan=True):
                raise RuntimeError("The source of a copy was changed when the copy had perhaps not run yet.")

    def is_capturing(self):
        """Whether kernels that this thread gives it are recorded."""
        return thread.graph is not None

    def wait_event(self, event):
        """Run all that follows after what an event stands for."""
        event.run_copies()
        self.clock |= event.clock

    def synchronize(self):
        """Let the host wait."""
        traffic.wait("Stream.synchronize")
        host_knows(self.clock)


class Event:
    """A place in a stream."""

    def __init__(self):
        self.clock = Counter()

    def record(self, stream=None):
        """Stand for all kernels that a stream has so far."""
        self.clock = (stream or current_stream()).clock.copy()

    def synchronize(self):
        """Let the host wait."""
        traffic.wait("Event.synchronize")
        host_knows(self.clock)

    def run_copies(self):
        """Run the copies that it stands for."""
        for stream, n_kernels in self.clock.items():
            stream.run_copies(n_kernels)


class _Use:
    """Kernels that have used a tensor: the last one that has written there, and those since then that have read it."""

    def __init__(self, storage):
        self._storage = StorageWeakRef(storage)
        self._by = {}  # of each stream, and of kernels that write there and that do not: number of the last one

    def is_of(self, storage):
        """Whether it is not that of other memory, which has been at the same place."""
        return not self._storage.expired() and StorageWeakRef(storage) == self._storage

    def add(self, stream, *, writes):
        """Note a kernel; return a stream on which another one may run at the same time."""
        for (other, has_written), n_kernels in self._by.items():
            if (writes or has_written) and n_kernels > stream.clock[other]:
                return other
        if writes:
            self._by = {}
        self._by[stream, writes] = stream.clock[stream]
        return None


class _Watch:
    """What has been used on which stream, from the first stream that is not the default one."""

    def __init__(self):
        self.default = defaultdict(lambda: Stream())  # by device
        self.host = Counter()  # what the host knows to have run
        self.is_on = False
        self.uses = {}  # by address


_watch = _Watch()


def forget():
    """Begin anew."""
    _watch.__init__()


def host_knows(clock):
    """The host has waited for so many kernels of each stream."""
    for stream, n_kernels in clock.items():
        stream.run_copies(n_kernels)
        stream.check_sources(n_kernels)
    _watch.host |= clock


def host_has_waited_for(device):
    """The host has waited for the current stream of a device."""
    if is_watching(device):
        host_knows(current_stream(device).clock)


def current_stream(device=None):
    """`torch.cuda.current_stream`."""
    device = resolve("cuda" if device is None else device)
    own = thread.stream
    return own if own is not None and own.device == device else _watch.default[device]


@contextlib.contextmanager
def stream_context(stream):
    """`torch.cuda.stream`."""
    before, thread.stream, _watch.is_on = thread.stream, stream, True
    try:
        yield
    finally:
        thread.stream = before


def is_watching(device):
    """Whether it matters which kernels use which tensors."""
    return _watch.is_on and device.type == "cuda"


def _storages(tensors):
    """Memory of tensors, of those in CSR form that of their three parts."""
    for tensor in tensors:
        if tensor.layout == torch.sparse_csr:
            yield from _storages([tensor.crow_indices(), tensor.col_indices(), tensor.values()])
        else:
            yield tensor.untyped_storage()


def note_use(device, name, reads, writes):
    """Note that a kernel of the current stream reads and writes tensors, while `is_watching`.

    Raises
    ------
    RuntimeError
        If it may run at the same time as another one that uses them, and one of the two writes.
    """
    stream = current_stream(device)
    stream.clock |= _watch.host
    stream.clock[stream] += 1
    for tensors, is_written in ((reads, False), (writes, True)):
        for storage in _storages(filter(is_tensor, leaves(tensors))):
            use = _watch.uses.get(storage.data_ptr())
            if use is None or not use.is_of(storage):
                use = _watch.uses[storage.data_ptr()] = _Use(storage)
            other = use.add(stream, writes=is_written)
            if other is not None:
                raise RuntimeError(f"{name} may use a tensor at the same time as a kernel of another stream: {other}")
