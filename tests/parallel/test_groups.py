"""How `StackedProcessesBackend` groups the tasks of a call, in processes that are doubles."""

from concurrent.futures import Future

import pytest
from joblib.parallel import SequentialBackend

from sktorch_mlp._parallel.workers import StackedProcessesBackend


class Processes:
    """Runs groups when it is told to, in this thread.

    Parameters
    ----------
    n_groups : int, default=100
        From then on it has been shut down.
    """

    def __init__(self, n_groups=100):
        self.sizes, self._waiting, self._n_groups = [], [], n_groups

    def submit(self, run_group, tasks):
        if len(self.sizes) == self._n_groups:
            raise RuntimeError("shut down")
        self.sizes.append(len(tasks))
        self._waiting.append((Future(), run_group, tasks))
        return self._waiting[-1][0]

    def run(self):
        while self._waiting:
            future, run_group, tasks = self._waiting.pop(0)
            try:
                future.set_result(run_group(tasks))
            except ValueError as error:
                future.set_exception(error)

    def terminate(self, kill_workers):
        assert kill_workers
        for future, *_ in self._waiting:
            future.set_exception(RuntimeError("terminated"))

    def cancel(self):
        for future, *_ in self._waiting:
            future.cancel()


def _backend_on(processes):
    """Two processes, groups of four."""
    backend = StackedProcessesBackend(lambda tasks: [task() for task in tasks], 2, 4, SequentialBackend(1))
    backend._workers = processes
    return backend, processes


@pytest.mark.parametrize(
    ("n_tasks", "n_before_results", "expected"),
    [
        (1, 16, [1]),
        (2, 16, [1, 1]),
        (5, 16, [3, 2]),
        (8, 16, [4, 4]),
        (13, 16, [4, 4, 3, 2]),
        (16, 16, [4, 4, 4, 4]),
        (21, 16, [4, 4, 4, 4, 4, 1]),
        (23, 16, [4, 4, 4, 4, 4, 2, 1]),
        (9, 3, [2, 1, 2, 1, 2, 1]),
    ],
)
def test_groups_are_full_or_of_one_size(n_tasks, n_before_results, expected):
    """As joblib does, hand out some tasks before results are waited for, then another for each that has ended."""
    backend, processes = _backend_on(Processes())
    to_do, done = list(range(n_tasks)), []

    def submit_next():
        if to_do:
            number = to_do.pop(0)
            backend.submit(lambda: number, ended)

    def ended(future):
        done.append(future.result())
        submit_next()

    for _ in range(n_before_results):
        submit_next()
    with backend.retrieval_context():
        processes.run()
    assert sorted(done) == list(range(n_tasks))
    assert processes.sizes == expected


def test_each_task_gets_its_own_result():
    backend, processes = _backend_on(Processes())
    futures = [backend.submit(lambda n=n: n) for n in range(7)]
    with backend.retrieval_context():
        processes.run()
    assert [future.result() for future in futures] == list(range(7))


def test_groups_have_tasks_from_the_first_to_the_last():
    groups = []
    backend, processes = _backend_on(Processes())
    backend._run_group = lambda tasks: groups.append([task() for task in tasks]) or groups[-1]
    for n in range(8):
        backend.submit(lambda n=n: n)
    processes.run()
    assert groups == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_groups_that_end_while_tasks_are_handed_out():
    backend, processes = _backend_on(Processes())
    for _ in range(8 + 7):
        backend.submit(int)
    processes.run()  # a group of four ends, and seven tasks wait
    for _ in range(2):
        backend.submit(int)
    with backend.retrieval_context():
        processes.run()
    assert processes.sizes == [4, 4, 4, 3, 1, 1]


def test_an_error_of_a_group_is_that_of_its_tasks():
    backend, processes = _backend_on(Processes())
    futures = [backend.submit(lambda text=text: int(text)) for text in ("0", "one", "2", "3")]
    with backend.retrieval_context():
        processes.run()
    assert [future.exception() is None for future in futures] == [True, False, True, False]
    assert "'one'" in str(futures[3].exception())


def test_a_group_that_is_cancelled_ends():
    backend, processes = _backend_on(Processes())
    futures = [backend.submit(int) for _ in range(3)]
    with backend.retrieval_context():
        processes.cancel()
    assert [type(future.exception(timeout=0)).__name__ for future in futures] == ["CancelledError"] * 3


def test_tasks_fail_if_there_are_no_processes_any_more():
    backend, processes = _backend_on(Processes(n_groups=3))
    futures = [backend.submit(int) for _ in range(8 + 7)]
    processes.run()
    assert [future.done() for future in futures] == [True] * 15
    assert [future.exception() is None for future in futures] == [True] * 8 + [True, False] * 3 + [True]


def test_pending_tasks_are_dropped_where_a_call_is_aborted():
    backend, processes = _backend_on(Processes())
    futures = [backend.submit(int) for _ in range(8 + 3)]
    assert processes.sizes == [4, 4]
    backend.abort_everything(ensure_ready=False)
    assert processes.sizes == [4, 4]  # the groups that end bring no others
    assert [future.done() for future in futures] == [True] * 8 + [False] * 3


def test_tasks_are_not_batched_by_joblib_as_well():
    backend, _ = _backend_on(Processes())
    assert backend.compute_batch_size() == 1
    assert backend.effective_n_jobs(None) == backend.effective_n_jobs(7) == 8
