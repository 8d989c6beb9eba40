"""Where the fits of concurrent tasks wait for each other, to be trained as stacks.

Tasks run in the threads of pools. A fit in such a thread waits until every other thread that
could still bring a fit waits as well. Then all are trained, and all threads go on. So Python
code and training take turns: side by side they would wait for each other's hold of the
interpreter at every operation, which takes twice as long.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ._device import compute_threads
from ._stacking import Fit, split_into_stacks, train_stack

#: Bytes of data that waiting fits may hold before they are trained without waiting for more.
_MOST_HELD = 2**30

_here = threading.local()  # .pool: the pool whose task this thread runs


def train_fit(fit: Fit) -> None:
    """Train a fit: with others, in a thread that takes part in a meeting, else alone."""
    pool: Pool | None = getattr(_here, "pool", None)
    if pool is None:
        train_stack([fit])
    else:
        pool.meeting.train(fit, pool)


class _Ticket:
    """A fit that waits, and whose thread has to be told."""

    def __init__(self, fit: Fit, pool: Pool) -> None:
        self.fit, self.pool = fit, pool
        self.rewind = fit.mark()
        self.done = threading.Event()
        self.error: BaseException | None = None


class Meeting:
    """Brings fits together and trains them, in threads of its own."""

    def __init__(self) -> None:
        self._n_trainers = torch.get_num_threads()
        self._changed = threading.Condition()
        self._pools: list[Pool] = []
        self._waiting: list[_Ticket] = []
        self._stacks: deque[list[_Ticket]] = deque()
        self._in_training: list[_Ticket] = []
        self._n_untrained = 0  # of them
        self._n_blocked = 0  # threads that wait for tasks of their own
        self._trainers: list[threading.Thread] = []
        self._gpu = threading.Lock()  # one stack at a time is enough for it
        # More threads at a time than cores would only take the interpreter from each other.
        self._turns = threading.Semaphore(self._n_trainers)
        self._no_training = threading.Event()
        self._no_training.set()

    @property
    def n_threads(self) -> int:
        """Threads that run tasks."""
        with self._changed:
            return sum(pool.n_busy() for pool in self._pools)

    def train(self, fit: Fit, pool: Pool) -> None:
        """Wait for other fits and be trained with them.

        Raises
        ------
        KeyboardInterrupt
            If the pool has been told to stop.
        """
        ticket = _Ticket(fit, pool)
        with self._out_of_turn():
            with self._changed:
                self._waiting.append(ticket)
                self._begin_if_complete()
            ticket.done.wait()
        if pool.is_stopped():
            raise KeyboardInterrupt
        if ticket.error is not None:
            raise ticket.error

    def _begin_if_complete(self) -> None:
        """Train all that wait, unless others may still come. The lock is held."""
        for ticket in [ticket for ticket in self._waiting if ticket.pool.is_stopped()]:
            self._waiting.remove(ticket)
            ticket.done.set()
        n_threads = sum(pool.n_busy() for pool in self._pools) - self._n_blocked
        if (
            not self._waiting
            or self._in_training
            or any(pool.is_dispatching for pool in self._pools)
            or (len(self._waiting) < n_threads and sum(t.fit.data.nbytes for t in self._waiting) < _MOST_HELD)
        ):
            return
        self._no_training.clear()
        self._in_training, self._waiting = self._waiting, []
        self._n_untrained = len(self._in_training)
        tickets = {ticket.fit: ticket for ticket in self._in_training}
        stacks = split_into_stacks(list(tickets), self._n_trainers)
        self._stacks.extend([tickets[fit] for fit in stack] for stack in stacks)
        while len(self._trainers) < self._n_trainers:
            self._trainers.append(threading.Thread(target=self._train_stacks, name="stacked fits", daemon=True))
            self._trainers[-1].start()
        self._changed.notify_all()

    def _train_stacks(self) -> None:
        """What a thread that trains does until the last pool is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stacks or not self._pools)
                if not self._stacks:
                    return
                stack = self._stacks.popleft()
            parts = self._train_stack(stack)
            with self._changed:
                self._stacks.extendleft(parts)
                self._changed.notify_all()
                self._n_untrained -= 0 if parts else len(stack)
                if self._n_untrained == 0:
                    for ticket in self._in_training:
                        ticket.done.set()
                    self._in_training = []
                    self._no_training.set()
                    self._begin_if_complete()

    def _train_stack(self, stack: list[_Ticket]) -> list[list[_Ticket]]:
        """Train a stack; after an error halves of it that are to be trained instead."""

        def check() -> None:
            if all(ticket.pool.is_stopped() for ticket in stack):
                raise KeyboardInterrupt

        on_cpu = stack[0].fit.network.flat.device.type == "cpu"
        try:
            with torch.inference_mode(False), compute_threads(0, 0), nullcontext() if on_cpu else self._gpu:
                train_stack([ticket.fit for ticket in stack], check)
        except BaseException as error:  # whose it is will be known once it trains alone
            if len(stack) == 1:
                stack[0].error = error
                return []
            for ticket in stack:
                ticket.rewind()
            return [stack[: len(stack) // 2], stack[len(stack) // 2 :]]
        return []

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While this thread runs a task: as many do so at a time as there are cores, none during training."""
        with self._turns:
            self._no_training.wait()
            yield

    @contextmanager
    def _out_of_turn(self) -> Iterator[None]:
        self._turns.release()
        try:
            yield
        finally:
            self._turns.acquire()
            self._no_training.wait()

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """While this thread waits for tasks of its own."""
        if getattr(_here, "pool", None) is None:
            yield
            return
        with self.change():
            self._n_blocked += 1
        try:
            with self._out_of_turn():
                yield
        finally:
            with self._changed:
                self._n_blocked -= 1

    @contextmanager
    def change(self) -> Iterator[None]:
        """Change what a pool does; it may be what the fits that wait have waited for."""
        with self._changed:
            yield
            self._begin_if_complete()

    def open(self, pool: Pool) -> None:
        """Let a pool take part."""
        with self._changed:
            self._pools.append(pool)

    def close(self, pool: Pool) -> None:
        """Let it no longer take part, and the threads of the meeting end with the last pool."""
        with self._changed:
            if pool in self._pools:
                self._pools.remove(pool)
            self._changed.notify_all()
            trainers = self._trainers if not self._pools else []
            self._trainers = [] if trainers else self._trainers
        for trainer in trainers:
            trainer.join()


class Pool:
    """Threads for the tasks of one parallel call.

    Parameters
    ----------
    meeting : Meeting
    n_workers : int
        Most threads; there are no more than tasks.
    """

    def __init__(self, meeting: Meeting, n_workers: int) -> None:
        self.meeting = meeting
        self.is_dispatching = False
        self._n_workers = n_workers
        self._n_unfinished = 0
        self._is_stopped = False
        self._parent: Pool | None = getattr(_here, "pool", None)
        self._executor = ThreadPoolExecutor(n_workers, thread_name_prefix="stacked fits")
        meeting.open(self)

    def n_busy(self) -> int:
        """Threads that run a task."""
        return min(self._n_unfinished, self._n_workers)

    def is_stopped(self) -> bool:
        """Whether this pool, or that of the task it belongs to, has been told to stop."""
        return self._is_stopped or (self._parent is not None and self._parent.is_stopped())

    def submit(self, task: Callable[[], Any]) -> Future[Any]:
        """Run a task in a thread, as soon as one is free."""
        with self.meeting.change():
            self._n_unfinished += 1
        return self._executor.submit(self._run, task)

    def _run(self, task: Callable[[], Any]) -> Any:
        _here.pool = self
        try:
            with self.meeting.turn():
                if self.is_stopped():
                    raise KeyboardInterrupt
                return task()
        finally:
            with self.meeting.change():
                self._n_unfinished -= 1

    def stop(self) -> None:
        """Let no further task begin, and end training."""
        with self.meeting.change():
            self._is_stopped = True

    def close(self) -> None:
        """Wait for the threads to end."""
        self._executor.shutdown(wait=True, cancel_futures=self._is_stopped)
        self.meeting.close(self)
