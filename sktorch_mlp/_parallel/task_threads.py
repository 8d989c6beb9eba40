"""Threads that run tasks, and that Ctrl-C in the thread that hands them out leaves in order.

An executor of the standard library has conditions, whose locks are taken and left by functions of Python. Ctrl-C at the
beginning of such a function leaves the lock to nobody, and the threads of the executor wait for it for ever. So tasks are
handed over by a queue that is written in C, before which nobody else knows their future, and another thread starts the threads.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from sktorch_mlp._nn.concurrent import NoThreadError, start_thread

#: Seconds that the end of the program waits for a thread, at most.
_UNTIL_ENDED = 5.0

#: ``callback(future)`` is called in the thread of the task, when it has ended.
Callback = Callable[["Future[Any]"], object]

#: Tasks with the futures of their results; None after the last one.
_Tasks = SimpleQueue["tuple[Future[Any], Callable[[], Any]] | None"]

#: Those that have not ended.
_all_open: weakref.WeakSet[TaskThreads] = weakref.WeakSet()


class TaskThreads:
    """Threads for the tasks of one caller, started as tasks come. They end with this object at the latest.

    Parameters
    ----------
    n_threads : int
        Most threads; there are no more than tasks, and fewer where no further one can be had.
    name : str
        To which the number of a thread is added.
    """

    def __init__(self, n_threads: int, name: str) -> None:
        self.n_threads, self._name = n_threads, name
        self._tasks: _Tasks = SimpleQueue()
        self._threads: list[threading.Thread] = []
        weakref.finalize(self, self._tasks.put, None).atexit = False
        _all_open.add(self)

    def submit(self, task: Callable[[], Any], callback: Callback | None = None) -> Future[Any]:
        """Run a task in a thread, as soon as one is free.

        Raises
        ------
        RuntimeError
            If there is no thread, and none can be had.
        """
        future: Future[Any] = Future()
        if callback is not None:
            future.add_done_callback(callback)
        if len(self._threads) < self.n_threads:
            self._add_thread()
        self._tasks.put((future, task))
        return future

    def _add_thread(self) -> None:
        name = f"{self._name} {len(self._threads)}"
        thread = threading.Thread(target=_run_tasks, args=(self._tasks,), name=name, daemon=True)
        try:
            start_thread(thread)
        except NoThreadError:
            if not self._threads:
                raise
            self.n_threads = len(self._threads)
        else:
            self._threads.append(thread)

    def end(self, timeout: float | None = None) -> None:
        """Wait until all tasks have ended, each thread so many seconds at most."""
        self._tasks.put(None)
        for thread in self._threads:
            thread.join(timeout)
        _all_open.discard(self)


def _run_tasks(tasks: _Tasks) -> None:
    """Run tasks until there will be no more, and tell the other threads."""
    while (order := tasks.get()) is not None:
        _run(*order)
        del order  # until the next task comes it would hold the data of this one
    tasks.put(None)


def _run(future: Future[Any], task: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            result = task()
        except BaseException as error:
            future.set_exception(error)
            del future  # it holds the error, whose traceback holds this frame
        else:
            future.set_result(result)


@atexit.register
def _end_all() -> None:
    """Wait for threads that still compute: one that frees tensors while Python ends may abort it."""
    for threads in list(_all_open):
        threads.end(_UNTIL_ENDED)
