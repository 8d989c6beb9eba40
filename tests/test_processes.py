"""`stacked_fits(n_processes=2)`: the same answers from processes of which each trains stacks."""

import gc
import os
import signal
import threading
import time
import warnings
import weakref
from concurrent.futures import Future

import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sktorch_mlp import MLPTorchClassifier, _calls, _meeting, stacked_fits

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger"),
]

X, Y = load_digits(return_X_y=True)
X, Y = X[:203] / 16, Y[:203]
MLP = MLPTorchClassifier((8,), max_iter=6, batch_size=40, random_state=0)
PIPELINE = make_pipeline(StandardScaler(), MLP)
GRID = {"mlptorchclassifier__alpha": [0.0, 0.1], "mlptorchclassifier__learning_rate_init": [0.001, 0.01, 0.1]}
MAX_ITER = "mlptorchclassifier__max_iter"


@pytest.fixture(scope="module", autouse=True)
def no_process_is_left():
    yield
    get_reusable_executor().shutdown(wait=True)


@pytest.fixture
def group_sizes(monkeypatch):
    """Sizes of the groups that have come back."""
    sizes = []
    receive = _calls.StackedProcessesBackend._receive

    def recorded(self, group, ended):
        sizes.append(len(group))
        receive(self, group, ended)

    monkeypatch.setattr(_calls.StackedProcessesBackend, "_receive", recorded)
    return sizes


def _scores(search):
    return search.fit(X, Y).cv_results_["mean_test_score"]


TOOLS = {
    "GridSearchCV": lambda: _scores(GridSearchCV(PIPELINE, GRID, cv=3)),
    "HalvingGridSearchCV": lambda: _scores(
        HalvingGridSearchCV(PIPELINE, GRID, cv=3, resource=MAX_ITER, max_resources=9, random_state=0)
    ),
    "cross_val_predict": lambda: cross_val_predict(PIPELINE, X, Y, method="predict_proba"),
    "BaggingClassifier": lambda: (
        BaggingClassifier(clone(MLP).set_params(batch_size=203), 5, random_state=0).fit(X, Y).predict_proba(X)
    ),
    "OneVsRestClassifier": lambda: OneVsRestClassifier(MLP).fit(X, Y).predict_proba(X),
    "search of OneVsRest": lambda: _scores(
        GridSearchCV(OneVsRestClassifier(MLP), {"estimator__alpha": [0.0, 1.0]}, cv=2)
    ),
    "search of a search": lambda: cross_val_score(GridSearchCV(PIPELINE, GRID, cv=2), X, Y, cv=2),
    "closures": lambda: cross_val_score(
        make_pipeline(FunctionTransformer(lambda X: X * 2), MLP), X, Y, scoring=lambda mlp, X, y: mlp.score(X, y) / 2
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_get_what_they_get_without(tool, group_sizes):
    expected = TOOLS[tool]()
    with stacked_fits(n_processes=2):
        np.testing.assert_allclose(TOOLS[tool](), expected, rtol=1e-7, atol=1e-9)
    assert len(group_sizes) > 1


def test_fitted_estimators_come_back():
    kwargs = {"cv": 4, "return_estimator": True}
    expected = cross_validate(MLP, X, Y, **kwargs)["estimator"]
    with stacked_fits(n_processes=2):
        fitted = cross_validate(MLP, X, Y, **kwargs)["estimator"]
    for ours, theirs in zip(fitted, expected, strict=True):
        assert ours.n_iter_ == theirs.n_iter_
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-7)
        ours.partial_fit(X, Y)


_sizes = []


def _fit_and_tell(seed, nested):
    """In a process: its id, and the sizes of all stacks it has trained so far."""
    if _meeting.train_stack.__name__ != "recorded":
        train_stack = _meeting.train_stack

        def recorded(fits, *args):
            _sizes.append(len(fits))
            return train_stack(fits, *args)

        _meeting.train_stack = recorded
    if nested:
        cross_val_score(MLP, X, Y, cv=2)
    else:
        clone(MLP).set_params(random_state=seed).fit(X, Y)
    return os.getpid(), list(_sizes)


@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
def test_each_process_trains_stacks(nested):
    get_reusable_executor().shutdown(wait=True)  # new ones, which have trained nothing
    with stacked_fits(n_processes=2):
        told = joblib.Parallel()(joblib.delayed(_fit_and_tell)(seed, nested) for seed in range(10))
    sizes = dict(sorted(told, key=lambda pair: len(pair[1])))
    assert os.getpid() not in sizes
    assert sum(sum(some) for some in sizes.values()) == (20 if nested else 10)
    assert all(max(some) > 1 for some in sizes.values())


def _tell_process(seconds):
    time.sleep(seconds)
    return os.getpid()


def test_all_processes_are_used():
    with stacked_fits(n_processes=2):
        for seconds in (0.5, 1.0):  # first for both to start
            processes = joblib.Parallel()(joblib.delayed(_tell_process)(seconds) for _ in range(4))
    assert len(set(processes)) == 2
    assert os.getpid() not in processes


class _Cycle:
    """Only the garbage collector frees it."""

    def __init__(self, payload=None):
        self.payload, self.itself = payload, self


_cycles = []


def _note_cycle(cycle):
    _cycles.append(weakref.ref(cycle))


def _tell_collection():
    gc.collect()
    return gc.get_freeze_count(), [ref() is None for ref in _cycles]


def test_imports_are_exempted_from_garbage_collection_and_tasks_are_not():
    get_reusable_executor().shutdown(wait=True)
    with stacked_fits(n_processes=2):
        joblib.Parallel()(joblib.delayed(_note_cycle)(_Cycle()) for _ in range(4))
        told = joblib.Parallel()(joblib.delayed(_tell_collection)() for _ in range(2))
    assert all(n_frozen > 100_000 for n_frozen, _ in told)
    assert any(are_gone for _, are_gone in told)
    assert all(is_gone for _, are_gone in told for is_gone in are_gone)


def _turn_warnings_into_errors():
    warnings.simplefilter("error")


def _first_filter():
    return warnings.filters[0]


def test_filters_of_warnings_do_not_outlive_a_group():
    with stacked_fits(n_processes=2):
        joblib.Parallel()(joblib.delayed(_turn_warnings_into_errors)() for _ in range(4))
    filters = joblib.Parallel(n_jobs=2)(joblib.delayed(_first_filter)() for _ in range(4))
    assert all(action != "error" for action, *_ in filters)


def test_filters_of_the_caller_hold_for_all_tasks():
    with stacked_fits(n_processes=2), warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        warnings.simplefilter("ignore", FitFailedWarning)
        with pytest.raises(ValueError, match="All the 12 fits failed"):
            cross_val_score(MLP, X, Y, cv=12)


class _Processes:
    """Runs what it is given when it is told to, in this thread; from `n_groups` on it has been shut down."""

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
            future.set_result(run_group(tasks))


def _backend_on(processes):
    """Two processes, groups of four."""
    nested = joblib.parallel.SequentialBackend(1)
    backend = _calls.StackedProcessesBackend(lambda tasks: [task() for task in tasks], 2, 4, nested)
    backend._workers = processes
    return backend, processes


@pytest.mark.parametrize(
    ("n_tasks", "first_row", "expected"),
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
def test_groups_are_full_or_of_one_size(n_tasks, first_row, expected):
    backend, processes = _backend_on(_Processes())
    to_do, done = list(range(n_tasks)), []

    def submit_next():
        if to_do:
            number = to_do.pop(0)
            backend.submit(lambda: number, ended)

    def ended(future):
        done.append(future.result())
        submit_next()

    for _ in range(first_row):
        submit_next()
    with backend.retrieval_context():
        processes.run()
    assert sorted(done) == list(range(n_tasks))
    assert processes.sizes == expected


def test_groups_that_end_while_tasks_are_handed_out():
    backend, processes = _backend_on(_Processes())
    for _ in range(8 + 7):
        backend.submit(int)
    processes.run()  # a group of four ends, and seven tasks wait
    for _ in range(2):
        backend.submit(int)
    with backend.retrieval_context():
        processes.run()
    assert processes.sizes == [4, 4, 4, 3, 1, 1]


def test_tasks_fail_if_there_are_no_processes_any_more():
    backend, processes = _backend_on(_Processes(n_groups=3))
    futures = [backend.submit(int) for _ in range(8 + 7)]
    processes.run()
    assert [future.done() for future in futures] == [True] * 15
    assert [future.exception() is None for future in futures] == [True] * 8 + [True, False] * 3 + [True]


def test_many_more_tasks_than_run_at_a_time(group_sizes):
    with stacked_fits(n_processes=2, n_fits=3):
        assert joblib.Parallel()(joblib.delayed(abs)(-n) for n in range(50)) == list(range(50))
        assert max(group_sizes) == 3
        with joblib.Parallel() as parallel:
            for n in (1, 20):
                assert parallel(joblib.delayed(abs)(-i) for i in range(n)) == list(range(n))
        for pre_dispatch in ("all", 5, 1):
            tasks = (joblib.delayed(abs)(-n) for n in range(20))
            assert joblib.Parallel(pre_dispatch=pre_dispatch)(tasks) == list(range(20))
        assert joblib.Parallel()([]) == []


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_results_may_be_generated(return_as):
    with stacked_fits(n_processes=2, n_fits=3):
        results = joblib.Parallel(return_as=return_as)(joblib.delayed(abs)(-n) for n in range(30))
        assert sorted(results) == list(range(30))


def test_generated_results_are_on_their_way_before_they_are_asked_for():
    begun = threading.Event()
    with stacked_fits(n_processes=2):
        results = joblib.Parallel(return_as="generator")(joblib.delayed(begun.set)() for _ in range(3))
        assert begun.wait(20)
        assert list(results) == [None] * 3


def test_calls_may_overlap():
    expected = cross_val_score(MLP, X, Y, cv=3)
    scores = []

    def score():
        with stacked_fits(n_processes=2):
            scores.append(cross_val_score(MLP, X, Y, cv=3))

    threads = [threading.Thread(target=score) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(scores, [expected] * 3)


def test_a_failing_candidate_fails_alone():
    grid = [{"solver": ["sgd"], "learning_rate_init": [0.01, 1e200]}, {"alpha": [-1.0]}]
    search = GridSearchCV(MLP, grid, cv=2, error_score=-7.0, refit=False)
    with stacked_fits(n_processes=2), pytest.warns(FitFailedWarning, match="fits failed"):
        assert (_scores(search) == -7.0).tolist() == [False, True, True]


def _to_number(text):
    return int(text)


def test_errors_are_raised_and_leave_the_processes_usable():
    with stacked_fits(n_processes=2):
        with pytest.raises(ValueError, match="alpha"):
            cross_val_score(clone(MLP).set_params(alpha=-1), X, Y, cv=3, error_score="raise")
        with pytest.raises(ValueError, match="many") as raised:
            joblib.Parallel()(joblib.delayed(_to_number)(text) for text in ("1", "many", "3"))
        assert "_to_number" in str(raised.value.__cause__)  # the traceback there
        with pytest.raises(Exception, match="pickle"):
            joblib.Parallel()(joblib.delayed(abs)(threading.Lock()) for _ in range(3))
        with pytest.raises(Exception, match="pickle"):
            joblib.Parallel()(joblib.delayed(threading.Lock)() for _ in range(3))
        assert len(cross_val_score(MLP, X, Y, cv=3)) == 3


def test_a_process_that_ends_is_an_error():
    with stacked_fits(n_processes=2):
        with pytest.raises(joblib.externals.loky.process_executor.TerminatedWorkerError):
            joblib.Parallel()(joblib.delayed(os._exit)(1) for _ in range(3))
        assert joblib.Parallel()(joblib.delayed(abs)(-n) for n in range(3)) == [0, 1, 2]


def test_ctrl_c_ends_the_processes():
    endless = clone(MLP).set_params(max_iter=10**6, tol=0, n_iter_no_change=np.inf)
    with stacked_fits(n_processes=2):
        cross_val_score(MLP, X, Y, cv=2)
        processes = list(get_reusable_executor(reuse=True)._processes.values())
        timer = threading.Timer(1.0, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
        timer.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            cross_val_score(endless, X, Y, cv=4)
        assert time.monotonic() - start < 20
        for process in processes:
            process.join(timeout=20)
            assert not process.is_alive()


def test_tasks_that_share_memory_run_in_threads():
    seen = []
    with stacked_fits(n_processes=2):
        joblib.Parallel(require="sharedmem")(joblib.delayed(seen.append)(n) for n in range(5))
    with stacked_fits(n_processes=2, n_fits=1):
        joblib.Parallel(require="sharedmem")(joblib.delayed(seen.append)(n) for n in range(5, 7))
    assert sorted(seen) == [0, 1, 2, 3, 4, 5, 6]


def test_by_name_and_how_many():
    with joblib.parallel_config("stacked", n_processes=2):
        assert joblib.effective_n_jobs() == 128
        assert os.getpid() not in joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(4))
        assert set(joblib.Parallel(n_jobs=1)(joblib.delayed(os.getpid)() for _ in range(4))) == {os.getpid()}
    with stacked_fits(n_processes=-1, n_fits=5):
        assert joblib.effective_n_jobs() == 5 * joblib.cpu_count()
    with stacked_fits(n_processes=-1000), stacked_fits(n_processes=1):
        assert set(joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(4))) == {os.getpid()}


@pytest.mark.parametrize("n_processes", [0, 1.5, True, "all", None])
def test_n_processes_is_checked(n_processes):
    with pytest.raises(ValueError, match="n_processes must be an integer"), stacked_fits(n_processes=n_processes):
        pass


def test_unknown_options_are_errors():
    with pytest.raises(TypeError, match="n_process"), joblib.parallel_config("stacked", n_process=2):
        pass
