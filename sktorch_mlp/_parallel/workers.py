"""How the tasks of one parallel call run: in threads whose fits wait for each other, or in groups in processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import partial
from typing import Any

from .batcher import FitBatcher, TaskPool
from .compat import LokyBackend, ParallelBackendBase, TracebackCapturingTask, process_pool, retrieve_result

Task = Callable[[], Any]
_PendingTask = tuple[Task, "Future[Any]"]


class _CallBackend(ParallelBackendBase):
    """Runs the tasks of one parallel call.

    Parameters
    ----------
    nested : ParallelBackendBase
        For the parallel calls of tasks.
    """

    def __init__(self, nested: ParallelBackendBase) -> None:
        super().__init__(nesting_level=nested.nesting_level - 1)
        self._nested = nested

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int]:
        """The backend of the parallel calls of a task."""
        return self._nested, -1


class StackedThreadsBackend(_CallBackend):
    """Runs tasks in threads of this process, whose fits wait for each other.

    Parameters
    ----------
    batcher : FitBatcher
    n_threads : int
    nested : ParallelBackendBase
        For the parallel calls of tasks.
    """

    supports_retrieve_callback = True
    supports_sharedmem = True
    uses_threads = True

    def __init__(self, batcher: FitBatcher, n_threads: int, nested: ParallelBackendBase) -> None:
        super().__init__(nested)
        self._batcher, self._n_threads = batcher, n_threads
        self._pool: TaskPool | None = None
        self._must_dispatch: bool = False

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Tasks at a time, whatever `n_jobs` is."""
        return self._n_threads

    def configure(self, n_jobs: int = 1, parallel: Any = None, **backend_kwargs: Any) -> int:
        """Prepare for a call; return the number of tasks at a time."""
        self.parallel = parallel
        self._pool = TaskPool(self._batcher, self._n_threads)
        return self._n_threads

    def start_call(self) -> None:
        """Begin a call; one whose results are generated hands out its tasks as they are asked for."""
        self._must_dispatch = not self.parallel.return_generator

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Let the caller wait for results."""
        assert self._pool is not None
        self._pool.end_dispatch()
        with self._batcher.waiting_for(self._pool):
            yield

    def stop_call(self) -> None:
        """End a call."""
        if self._pool is not None:
            self._pool.end_dispatch()

    def submit(self, func: Task, callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Schedule a task."""
        assert self._pool is not None
        if self._must_dispatch:
            self._must_dispatch = False
            self._pool.begin_dispatch()
        return self._pool.submit(TracebackCapturingTask(func), callback)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the result of a task, or raise its error."""
        return retrieve_result(out.result())

    def terminate(self) -> None:
        """Wait for all threads to end."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop: pending fits end now, those in training after the epoch."""
        if self._pool is not None:
            self._pool.stop()
        self.terminate()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)


class StackedProcessesBackend(_CallBackend, LokyBackend):
    """Runs tasks in joblib's own processes, which get a group of them at a time.

    joblib hands over one task after the other: some before it waits for results, then
    another for each one that has ended. They are kept until there is a full group for each
    process, or joblib waits, or all results of a group have been set.

    Parameters
    ----------
    run_group : callable
        ``run_group(tasks) -> results``, which a process calls. It is pickled to the process
        before any tasks are.
    n_processes : int
    group_size : int
        Most tasks of a group.
    nested : ParallelBackendBase
        For the parallel calls of tasks.
    """

    def __init__(
        self,
        run_group: Callable[[Sequence[Task]], Sequence[Any]],
        n_processes: int,
        group_size: int,
        nested: ParallelBackendBase,
    ) -> None:
        super().__init__(nested)
        self._run_group, self._n_processes, self._group_size = run_group, n_processes, group_size
        self._lock = threading.Lock()  # for what follows
        self._pending: list[_PendingTask] = []

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Tasks at a time, whatever `n_jobs` is."""
        return self._n_processes * self._group_size

    def configure(self, n_jobs: int = 1, parallel: Any = None, **backend_kwargs: Any) -> int:
        """Prepare for a call; return the number of tasks at a time."""
        processes = LokyBackend(nesting_level=self.nesting_level)
        processes.configure(self._n_processes, parallel, **backend_kwargs)
        self._workers, self.parallel = process_pool(processes), parallel
        return self.effective_n_jobs(n_jobs)

    def compute_batch_size(self) -> int:
        """One: tasks are grouped here."""
        return 1

    def submit(self, func: Task, callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Schedule a task."""
        future: Future[Any] = Future()
        if callback is not None:
            future.add_done_callback(callback)
        with self._lock:
            self._pending.append((func, future))
            is_full = len(self._pending) == self._n_processes * self._group_size
        if is_full:
            self._send()
        return future

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Let the caller wait for results."""
        self._send()
        yield

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the processes."""
        with self._lock:
            self._pending = []
        super().abort_everything(ensure_ready)

    def _send(self, n_ended: int = 0) -> None:
        """Send the pending tasks, in place of so many of a group that has ended."""
        with self._lock:
            pending, self._pending = self._pending, []
        # Fewer than have ended are the last ones, and for all processes.
        at_least = 1 if 0 < n_ended <= len(pending) else min(self._n_processes, len(pending))
        n_groups = max(at_least, -(-len(pending) // self._group_size))
        # Every group has tasks from the first to the last: what makes them slow often grows along the way.
        for group in (pending[i::n_groups] for i in range(n_groups)):
            try:
                ended = self._workers.submit(self._run_group, [task for task, _ in group])
            except Exception as error:  # processes are shared, and another call may have ended them
                ended = Future()
                ended.set_exception(error)
            ended.add_done_callback(partial(self._receive, group))

    def _receive(self, group: Sequence[_PendingTask], ended: Future[Sequence[Any]]) -> None:
        """Set the results of a group, or its error, and send the tasks that follow."""
        error = CancelledError() if ended.cancelled() else ended.exception()
        if error is None:
            for (_, future), result in zip(group, ended.result(), strict=True):
                future.set_result(result)
        else:
            for _, future in group:
                future.set_exception(error)
        self._send(len(group))
