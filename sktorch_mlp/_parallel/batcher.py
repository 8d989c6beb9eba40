"""Fits of concurrent tasks wait for each other, and are trained as stacks.

Tasks run in the threads of pools. A fit in such a thread waits until every other thread that
could still bring a fit waits as well. Then all are trained, and all threads go on. So Python
code and training take turns: side by side they would wait for each other's hold of the
interpreter at every operation.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch

from sktorch_mlp._nn.concurrent import NoThreadError, call_at_once, start_thread
from sktorch_mlp._training.fit import Fit
from sktorch_mlp._training.loop import train
from sktorch_mlp._training.stacks import fits_trained_by, split_into_stacks
from sktorch_mlp._training.threads import available_threads, on_one_blas_thread, on_one_thread, threads_have_ended

from .task_threads import Callback, TaskThreads

#: Bytes of data that pending fits may hold before they are trained without waiting for more.
_MAX_PENDING_BYTES = 2**30
#: Stacks that train at a time at most; more threads would wait for the interpreter.
_MAX_TRAINERS = 8

#: Seconds without training or any work after which tasks are taken to wait for each other, and the share of the
#: time that is no work.
_STALLED, _IDLE = 0.5, 0.02

_local = threading.local()  # .pool: the pool whose task this thread runs


def current_batcher() -> FitBatcher | None:
    """Return the batcher of the task that this thread runs, if there is one."""
    pool: TaskPool | None = getattr(_local, "pool", None)
    return None if pool is None else pool.batcher


class _Times(NamedTuple):
    """Seconds of the clock, and those that this process has worked."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> _Times:
        return cls(time.monotonic(), time.process_time())


class PendingFit:
    """A fit that waits, and whose thread has to be told."""

    def __init__(self, fit: Fit, pool: TaskPool) -> None:
        self.fit, self.pool = fit, pool
        self._state = fit.state_dict()
        self.done = threading.Event()
        self.error: BaseException | None = None

    def restart(self) -> None:
        """Go back to the state before training."""
        self.fit.load_state_dict(self._state)
        if self.fit.observer is not None:
            self.fit.observer.on_restart()


class FitBatcher:
    """Brings fits together and trains them as stacks.

    Parameters
    ----------
    max_pending_bytes : int, default=2**30
        Data that pending fits may hold before they are trained without waiting for more.
    max_stack_bytes : int, default=None
        Memory that the steps of a stack may work on; None for what suits the device.
    """

    def __init__(self, max_pending_bytes: int = _MAX_PENDING_BYTES, max_stack_bytes: int | None = None) -> None:
        self._max_pending_bytes, self._max_stack_bytes = max_pending_bytes, max_stack_bytes
        self._n_trainers = min(available_threads(), _MAX_TRAINERS)
        self._lock = threading.Lock()  # for all that follows
        self._pools: list[TaskPool] = []
        self._pending: list[PendingFit] = []
        self._waiting_callers: list[int] = []  # threads that wait for the tasks of a call
        self._run: threading.Thread | None = None  # trains what was pending
        # More threads at a time than cores would only take the interpreter from each other.
        self._slots = threading.Semaphore(self._n_trainers)
        self._no_training = threading.Event()
        self._no_training.set()
        self._gpu_lock = threading.Lock()  # one stack at a time is enough for it
        self._seen = _Times.now()  # when it was last found out whether all wait

    @property
    def n_threads(self) -> int:
        """Threads that run tasks."""
        with self._lock:
            return sum(pool.n_busy() for pool in self._pools)

    def train(self, fit: Fit, pool: TaskPool) -> None:
        """Wait for other fits and be trained with them.

        Raises
        ------
        KeyboardInterrupt
            If the pool has been told to stop.
        """
        pending = PendingFit(fit, pool)
        with self._released_slot():
            self.change(lambda: self._pending.append(pending))
            while not pending.done.wait(_STALLED):
                self._end_stall()
        if pool.is_stopped():
            raise KeyboardInterrupt
        error, pending.error = pending.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: together they would hold the data until garbage collection

    def change(self, update: Callable[[], object]) -> None:
        """Change who waits and who works, and begin to train if nobody else can come.

        No context manager: Ctrl-C at the beginning of its `__exit__` would leave the lock to nobody.
        """
        with self._lock:
            update()
            self._dismiss_stopped()
            if self._is_complete():
                self._start_run()

    def _dismiss_stopped(self) -> None:
        for pending in [pending for pending in self._pending if pending.pool.is_stopped()]:
            self._pending.remove(pending)
            pending.done.set()

    def _is_complete(self) -> bool:
        """Whether there are pending fits, and no others that could come."""
        if not self._pending or not self._no_training.is_set():
            return False
        if any(pool.dispatcher not in (None, *self._waiting_callers) for pool in self._pools):
            return False
        n_threads = sum(pool.n_busy() - pool.blocks_task() for pool in self._pools)
        n_bytes = sum(pending.fit.data.nbytes for pending in self._pending)
        return len(self._pending) >= n_threads or n_bytes >= self._max_pending_bytes

    def _start_run(self) -> None:
        pending, self._pending = self._pending, []
        self._no_training.clear()
        self._run = threading.Thread(target=self._train_all, args=(pending,), name="stacked fits", daemon=True)
        try:
            start_thread(self._run)
        except NoThreadError as error:  # no further thread can be had
            self._run = None
            self._end_run(pending, error)

    def _end_run(self, trained: Sequence[PendingFit], error: BaseException | None) -> None:
        """Let all threads go on whose fits have been trained; with an error if there was one beside those of fits."""
        self._no_training.set()
        for pending in trained:
            pending.error = pending.error or error
            pending.done.set()

    def _train_all(self, all_pending: list[PendingFit]) -> None:
        """Train pending fits, as many stacks at a time as there are trainers."""
        failure: BaseException | None = None
        try:
            pending_of = {pending.fit: pending for pending in all_pending}
            stacks = split_into_stacks(list(pending_of), self._n_trainers, self._max_stack_bytes)
            queue = deque([pending_of[fit] for fit in stack] for stack in stacks)
            call_at_once([partial(self._train_stacks, queue)] * min(self._n_trainers, len(queue)), "stacked fits")
        except BaseException as error:  # nobody may be left waiting
            failure = error
        self.change(partial(self._end_run, all_pending, failure))
        del failure  # its traceback holds this frame

    def _train_stacks(self, queue: deque[list[PendingFit]]) -> None:
        while True:
            try:
                stack = queue.popleft()
            except IndexError:
                return
            queue.extendleft(self._train_stack(stack))

    @on_one_thread
    @on_one_blas_thread
    def _train_stack(self, stack: list[PendingFit]) -> list[list[PendingFit]]:
        """Train a stack; after an error return its halves, which are to be trained instead."""

        def check() -> None:
            if all(pending.pool.is_stopped() for pending in stack):
                raise KeyboardInterrupt

        on_cpu = stack[0].fit.network.device.type == "cpu"
        try:
            with torch.inference_mode(False), nullcontext() if on_cpu else self._gpu_lock:
                # Ctrl-C is for the main thread. Here it is an error of a callback, and of one fit.
                train([pending.fit for pending in stack], check, interrupts_all=False)
        except BaseException as error:  # whose it is will be known once it trains alone
            if len(stack) == 1:
                stack[0].error = error
                return []
            for pending in stack:
                pending.restart()
            return [stack[: len(stack) // 2], stack[len(stack) // 2 :]]
        return []

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Run a task in this thread: as many do so at a time as there are cores, none during training."""
        self._acquire_slot()
        try:
            yield
        finally:
            self._slots.release()

    @contextmanager
    def _released_slot(self) -> Iterator[None]:
        self._slots.release()
        try:
            yield
        finally:
            self._acquire_slot()

    def _acquire_slot(self) -> None:
        while not self._slots.acquire(timeout=_STALLED):
            self._end_stall()
        self._no_training.wait()

    def _end_stall(self) -> None:
        """Let tasks go on that wait for each other, by a lock of the user's for example.

        A task that holds it may have a fit that is pending, or wait for a slot, while the others have all slots.
        """
        with self._lock:
            now = _Times.now()
            seconds, worked = now.wall - self._seen.wall, now.cpu - self._seen.cpu
            if seconds < _STALLED:
                return
            self._seen = now
            was_just_seen = seconds < 5 * _STALLED  # else it says nothing of this moment
            if self._no_training.is_set() and was_just_seen and worked < _IDLE * seconds:
                self._slots.release()  # one more thread than cores
                if self._pending:
                    self._start_run()

    @contextmanager
    def waiting_for(self, called: TaskPool) -> Iterator[None]:
        """Let this thread do nothing but wait for the tasks of a call."""
        pool: TaskPool | None = getattr(_local, "pool", None)
        runs_task = pool is not None and pool.batcher is self
        caller = threading.get_ident()

        def begin() -> None:
            called.is_awaited_by_task = runs_task
            self._waiting_callers.append(caller)

        self.change(begin)
        try:
            with self._released_slot() if runs_task else nullcontext():
                yield
        finally:
            with self._lock:
                called.is_awaited_by_task = False
                self._waiting_callers.remove(caller)

    def open(self, pool: TaskPool) -> None:
        """Let a pool bring fits."""
        with self._lock:
            self._pools.append(pool)

    def close(self, pool: TaskPool) -> None:
        """Expect no more fits of a pool."""
        self.change(lambda: self._pools.remove(pool) if pool in self._pools else None)
        with self._lock:
            last_run = self._run if not self._pools else None
        if last_run is not None:
            last_run.join()
        threads_have_ended()


class TaskPool:
    """Threads for the tasks of one parallel call.

    Parameters
    ----------
    batcher : FitBatcher
    n_workers : int
        Most threads; there are no more than tasks.
    """

    def __init__(self, batcher: FitBatcher, n_workers: int) -> None:
        self.batcher = batcher
        self.dispatcher: int | None = None  # the thread that is handing out the first tasks
        self.is_awaited_by_task = False
        self._n_unfinished = 0
        self._is_stopped = False
        self._parent: TaskPool | None = getattr(_local, "pool", None)
        self._threads = TaskThreads(n_workers, "stacked fits")
        batcher.open(self)

    def n_busy(self) -> int:
        """Threads that run a task."""
        return min(self._n_unfinished, self._threads.n_threads)

    def blocks_task(self) -> bool:
        """Whether a task waits for tasks of this pool, and so can bring no fit itself."""
        return self.is_awaited_by_task and self._n_unfinished > 0

    def is_stopped(self) -> bool:
        """Whether this pool, or that of the task it belongs to, has been told to stop."""
        return self._is_stopped or (self._parent is not None and self._parent.is_stopped())

    def begin_dispatch(self) -> None:
        """Let fits wait for the tasks that this thread is about to hand out."""
        self._change(dispatcher=threading.get_ident())

    def end_dispatch(self) -> None:
        """The first tasks have been handed out."""
        self._change(dispatcher=None)

    def _change(self, **state: Any) -> None:
        """Change attributes on which it depends who can still bring a fit."""
        self.batcher.change(partial(vars(self).update, state))

    def submit(self, task: Callable[[], Any], callback: Callback | None = None) -> Future[Any]:
        """Run a task in a thread, as soon as one is free, and call back in that thread."""
        if self._is_stopped:  # it was on its way when the call was aborted
            future: Future[Any] = Future()
            future.cancel()
            if callback is not None:
                callback(future)
            return future
        self.batcher.change(partial(self._count_unfinished, 1))
        return self._threads.submit(partial(self._run_task, task), callback)

    def _count_unfinished(self, change: int) -> None:
        self._n_unfinished += change

    def _run_task(self, task: Callable[[], Any]) -> Any:
        _local.pool = self
        try:
            with self.batcher.slot(), fits_trained_by(partial(self.batcher.train, pool=self)):
                if self.is_stopped():
                    raise KeyboardInterrupt
                return task()
        finally:
            _local.pool = None  # what is called back is no task
            self.batcher.change(partial(self._count_unfinished, -1))

    def stop(self) -> None:
        """Let no further task begin, and end training."""
        self._change(_is_stopped=True)

    def close(self) -> None:
        """Wait for the threads to end."""
        try:
            with self.batcher.waiting_for(self):
                self._threads.end()
        finally:
            self.batcher.close(self)
