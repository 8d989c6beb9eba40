"""Where the fits of concurrent tasks wait for each other, to be trained as stacks.

Tasks run in the threads of pools. A fit in such a thread waits until every other thread that
could still bring a fit waits as well. Then all are trained, and all threads go on. So Python
code and training take turns: side by side they would wait for each other's hold of the
interpreter at every operation.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ._device import compute_threads
from ._stacking import Fit, split_into_stacks, train_stack

#: Bytes of data that waiting fits may hold before they are trained without waiting for more.
_MOST_HELD = 2**30
#: Stacks that train at a time at most; more threads would wait for the interpreter.
_MOST_TRAINERS = 8

_here = threading.local()  # .pool: the pool whose task this thread runs


def train_fit(fit: Fit) -> None:
    """Train a fit: with others, in a thread that takes part in a meeting, else alone."""
    pool: Pool | None = getattr(_here, "pool", None)
    if pool is None:
        train_stack([fit])
    else:
        pool.meeting.train(fit, pool)


def meeting_here() -> Meeting | None:
    """The meeting that this thread takes part in, by the task it runs."""
    pool: Pool | None = getattr(_here, "pool", None)
    return None if pool is None else pool.meeting


class _Ticket:
    """A fit that waits, and whose thread has to be told."""

    def __init__(self, fit: Fit, pool: Pool) -> None:
        self.fit, self.pool = fit, pool
        self.rewind = fit.mark()
        self.done = threading.Event()
        self.error: BaseException | None = None


class Meeting:
    """Brings fits together and trains them."""

    def __init__(self) -> None:
        self._n_trainers = min(torch.get_num_threads(), _MOST_TRAINERS)
        self._changed = threading.Lock()  # for all that follows
        self._pools: list[Pool] = []
        self._waiting: list[_Ticket] = []
        self._waiting_callers: list[int] = []  # threads that wait for the tasks of a call
        self._round: threading.Thread | None = None  # trains what has met
        # More threads at a time than cores would only take the interpreter from each other.
        self._turns = threading.Semaphore(self._n_trainers)
        self._no_training = threading.Event()
        self._no_training.set()
        self._gpu = threading.Lock()  # one stack at a time is enough for it

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
            with self.change():
                self._waiting.append(ticket)
            ticket.done.wait()
        if pool.is_stopped():
            raise KeyboardInterrupt
        if ticket.error is not None:
            try:
                raise ticket.error
            finally:
                del ticket, fit  # else the error holds their data, and they the error

    @contextmanager
    def change(self) -> Iterator[None]:
        """Change who waits and who works, and begin to train if nobody else can come."""
        with self._changed:
            yield
            self._dismiss_stopped()
            if self._is_complete():
                self._begin()

    def _dismiss_stopped(self) -> None:
        for ticket in [ticket for ticket in self._waiting if ticket.pool.is_stopped()]:
            self._waiting.remove(ticket)
            ticket.done.set()

    def _is_complete(self) -> bool:
        """Whether there are fits that wait, and no others that could come."""
        if not self._waiting or not self._no_training.is_set():
            return False
        if any(pool.dispatcher not in (None, *self._waiting_callers) for pool in self._pools):
            return False
        n_threads = sum(pool.n_busy() - pool.blocks_task() for pool in self._pools)
        n_held = sum(ticket.fit.data.nbytes for ticket in self._waiting)
        return len(self._waiting) >= n_threads or n_held >= _MOST_HELD

    def _begin(self) -> None:
        tickets, self._waiting = self._waiting, []
        self._no_training.clear()
        self._round = threading.Thread(target=self._hold_round, args=(tickets,), name="stacked fits", daemon=True)
        try:
            self._round.start()
        except RuntimeError as error:  # no further thread can be had
            self._round = None
            self._end(tickets, error)

    def _end(self, tickets: Sequence[_Ticket], error: BaseException | None) -> None:
        """Let all go on whose fits have met; with an error if there has been one beside those of fits."""
        self._no_training.set()
        for ticket in tickets:
            ticket.error = ticket.error or error
            ticket.done.set()

    def _hold_round(self, tickets: list[_Ticket]) -> None:
        """Train fits that have met, as many stacks at a time as there are trainers."""
        failure: BaseException | None = None
        try:
            ticket_of = {ticket.fit: ticket for ticket in tickets}
            stacks = deque(
                [ticket_of[fit] for fit in stack] for stack in split_into_stacks(list(ticket_of), self._n_trainers)
            )
            helpers = [
                threading.Thread(target=self._train_stacks, args=(stacks,), name="stacked fits", daemon=True)
                for _ in range(min(self._n_trainers, len(stacks)) - 1)
            ]
            for helper in helpers:
                helper.start()
            self._train_stacks(stacks)
            for helper in helpers:
                helper.join()
        except BaseException as error:  # nobody may be left waiting
            failure = error
        with self.change():
            self._end(tickets, failure)

    def _train_stacks(self, stacks: deque[list[_Ticket]]) -> None:
        while True:
            try:
                stack = stacks.popleft()
            except IndexError:
                return
            stacks.extendleft(self._train_stack(stack))

    def _train_stack(self, stack: list[_Ticket]) -> list[list[_Ticket]]:
        """Train a stack; after an error, halves of it that are to be trained instead."""

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
        self._take_turn()
        try:
            yield
        finally:
            self._turns.release()

    @contextmanager
    def _out_of_turn(self) -> Iterator[None]:
        self._turns.release()
        try:
            yield
        finally:
            self._take_turn()

    def _take_turn(self) -> None:
        self._turns.acquire()
        self._no_training.wait()

    @contextmanager
    def waiting_for(self, called: Pool) -> Iterator[None]:
        """While this thread does nothing but wait for the tasks of a call."""
        pool: Pool | None = getattr(_here, "pool", None)
        runs_task = pool is not None and pool.meeting is self
        caller = threading.get_ident()
        with self.change():
            called.is_awaited_by_task = runs_task
            self._waiting_callers.append(caller)
        try:
            with self._out_of_turn() if runs_task else nullcontext():
                yield
        finally:
            with self._changed:
                called.is_awaited_by_task = False
                self._waiting_callers.remove(caller)

    def open(self, pool: Pool) -> None:
        """Let a pool take part."""
        with self._changed:
            self._pools.append(pool)

    def close(self, pool: Pool) -> None:
        """Let it no longer take part."""
        with self.change():
            if pool in self._pools:
                self._pools.remove(pool)
            last_round = self._round if not self._pools else None
        if last_round is not None:
            last_round.join()


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
        self.dispatcher: int | None = None  # the thread that is handing out the first tasks
        self.is_awaited_by_task = False
        self._n_workers = n_workers
        self._n_unfinished = 0
        self._is_stopped = False
        self._parent: Pool | None = getattr(_here, "pool", None)
        self._executor = ThreadPoolExecutor(n_workers, thread_name_prefix="stacked fits")
        meeting.open(self)

    def n_busy(self) -> int:
        """Threads that run a task."""
        return min(self._n_unfinished, self._n_workers)

    def blocks_task(self) -> bool:
        """Whether a task waits for tasks of this pool, and so can bring no fit itself."""
        return self.is_awaited_by_task and self._n_unfinished > 0

    def is_stopped(self) -> bool:
        """Whether this pool, or that of the task it belongs to, has been told to stop."""
        return self._is_stopped or (self._parent is not None and self._parent.is_stopped())

    def begin_dispatch(self) -> None:
        """Let fits wait for the tasks that this thread is about to hand out."""
        with self.meeting.change():
            self.dispatcher = threading.get_ident()

    def end_dispatch(self) -> None:
        """The first tasks have been handed out."""
        with self.meeting.change():
            self.dispatcher = None

    def submit(self, task: Callable[[], Any]) -> Future[Any]:
        """Run a task in a thread, as soon as one is free."""
        with self.meeting.change():
            if self._is_stopped:  # it was on its way when the call was aborted
                future: Future[Any] = Future()
                future.cancel()
                return future
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
            _here.pool = None  # what is called back is no task
            with self.meeting.change():
                self._n_unfinished -= 1

    def stop(self) -> None:
        """Let no further task begin, and end training."""
        with self.meeting.change():
            self._is_stopped = True

    def close(self) -> None:
        """Wait for the threads to end."""
        try:
            with self.meeting.waiting_for(self):
                self._executor.shutdown(wait=True)
        finally:
            self.meeting.close(self)
