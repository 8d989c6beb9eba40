"""Streams and events of simulated devices: a copy of another stream than the current one is late, until it is waited for."""

import contextlib

from .state import thread


class Event:
    """A point in a stream."""

    def __init__(self):
        self._before = []

    def record(self, stream):
        """Be after all that the stream has to do by now."""
        self._before = list(stream.queue)

    def synchronize(self):
        """Wait on the host."""
        for run in self._before:
            run()


class Stream:
    """Copies in their order, which run when an event after them is waited for. The current stream never has any."""

    def __init__(self, device=None):
        self.queue = []

    def wait_event(self, event):
        """Run nothing more before the event; what the current stream waits for has to be there at once."""
        if self is current_stream():
            event.synchronize()

    def add(self, copy):
        """Copy when it is waited for, once."""
        done = []

        def run():
            if not done:
                done.append(True)
                self.queue.remove(run)
                copy()

        self.queue.append(run)


DEFAULT = Stream()


def current_stream(device=None):
    """The stream of this thread."""
    return getattr(thread, "stream", None) or DEFAULT


@contextlib.contextmanager
def stream(chosen):
    """Have this thread use a stream."""
    before = getattr(thread, "stream", None)
    thread.stream = chosen
    try:
        yield
    finally:
        thread.stream = before
