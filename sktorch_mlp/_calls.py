"""How the tasks of one parallel call run: in threads whose fits meet, or in groups, each in a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import partial
from typing import Any

from joblib._parallel_backends import LokyBackend, ParallelBackendBase
from joblib._utils import _retrieve_traceback_capturing_wrapped_call, _TracebackCapturingWrapper

from ._meeting import Meeting, Pool

Task = Callable[[], Any]
_Held = tuple[Task, "Future[Any]"]


class _OneCall(ParallelBackendBase):
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


class StackedThreadsBackend(_OneCall):
    """Runs tasks in threads of this process, whose fits wait for each other.

    Parameters
    ----------
    meeting : Meeting
    n_threads : int
    nested : ParallelBackendBase
        For the parallel calls of tasks.
    """

    supports_retrieve_callback = True
    supports_sharedmem = True
    uses_threads = True

    def __init__(self, meeting: Meeting, n_threads: int, nested: ParallelBackendBase) -> None:
        super().__init__(nested)
        self._meeting, self._n_threads = meeting, n_threads
        self._pool: Pool | None = None
        self._is_to_dispatch: bool = False

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Tasks at a time, whatever was asked for."""
        return self._n_threads

    def configure(self, n_jobs: int = 1, parallel: Any = None, **backend_kwargs: Any) -> int:
        """Prepare for a call; the number of tasks at a time."""
        self.parallel = parallel
        self._pool = Pool(self._meeting, self._n_threads)
        return self._n_threads

    def start_call(self) -> None:
        """A call begins; one whose results are generated hands out tasks when it pleases."""
        self._is_to_dispatch = not self.parallel.return_generator

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """While the caller does nothing but wait for results."""
        assert self._pool is not None
        self._pool.end_dispatch()
        with self._meeting.waiting_for(self._pool):
            yield

    def stop_call(self) -> None:
        """The call is over."""
        if self._pool is not None:
            self._pool.end_dispatch()

    def submit(self, func: Task, callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Schedule a task."""
        assert self._pool is not None
        if self._is_to_dispatch:
            self._is_to_dispatch = False
            self._pool.begin_dispatch()
        future = self._pool.submit(_TracebackCapturingWrapper(func))
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The result of a task, or its error."""
        return _retrieve_traceback_capturing_wrapped_call(out.result())

    def terminate(self) -> None:
        """Wait for all threads to end."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop: fits that wait end now, those in training after the epoch."""
        if self._pool is not None:
            self._pool.stop()
        self.terminate()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)


class StackedProcessesBackend(_OneCall, LokyBackend):
    """Runs tasks in joblib's own processes, which get a group of them at a time.

    joblib hands over one task after the other: some before it waits for results, then
    another for each one that has ended. They are held back until there is a full group for
    each process, or joblib waits, or all results of a group have been set.

    Parameters
    ----------
    run_group : callable
        ``run_group(tasks) -> results``, which a process calls. It gets there, by pickle,
        before any tasks do.
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
        self._change = threading.Lock()  # for what follows
        self._held: list[_Held] = []

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Tasks at a time, whatever was asked for."""
        return self._n_processes * self._group_size

    def configure(self, n_jobs: int = 1, parallel: Any = None, **backend_kwargs: Any) -> int:
        """Prepare for a call; the number of tasks at a time."""
        processes = LokyBackend(nesting_level=self.nesting_level)
        processes.configure(self._n_processes, parallel, **backend_kwargs)
        self._workers, self.parallel = processes._workers, parallel
        return self.effective_n_jobs(n_jobs)

    def compute_batch_size(self) -> int:
        """One: tasks are grouped here."""
        return 1

    def submit(self, func: Task, callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Schedule a task."""
        future: Future[Any] = Future()
        if callback is not None:
            future.add_done_callback(callback)
        with self._change:
            self._held.append((func, future))
            is_full = len(self._held) == self._n_processes * self._group_size
        if is_full:
            self._send()
        return future

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """While the caller waits for results."""
        self._send()
        yield

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the processes."""
        with self._change:
            self._held = []
        super().abort_everything(ensure_ready)

    def _send(self, n_ended: int = 0) -> None:
        """Send what is held, in place of so many tasks of a group that has ended."""
        with self._change:
            held, self._held = self._held, []
        # Fewer than have ended are the last ones, and for all processes.
        at_least = 1 if 0 < n_ended <= len(held) else min(self._n_processes, len(held))
        n_groups = max(at_least, -(-len(held) // self._group_size))
        # Every group has tasks from the first to the last: what makes them slow often grows along the way.
        for group in (held[i::n_groups] for i in range(n_groups)):
            try:
                ended = self._workers.submit(self._run_group, [task for task, _ in group])
            except Exception as error:  # processes are shared, and another call may have ended them
                ended = Future()
                ended.set_exception(error)
            ended.add_done_callback(partial(self._receive, group))

    def _receive(self, group: Sequence[_Held], ended: Future[Sequence[Any]]) -> None:
        """Set the results of a group, or what it has failed with, and send the tasks that follow."""
        error = CancelledError() if ended.cancelled() else ended.exception()
        if error is None:
            for (_, future), result in zip(group, ended.result(), strict=True):
                future.set_result(result)
        else:
            for _, future in group:
                future.set_exception(error)
        self._send(len(group))
