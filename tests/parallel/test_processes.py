"""`stacked_fits(n_processes=2)`: the same answers from processes of which each trains stacks.

To start processes takes seconds, so all tests that need them are in this file, and those that end them come last.
"""

import os
import threading
import time
import warnings
from contextlib import nullcontext
from functools import partial

import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
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
from sklearn.preprocessing import FunctionTransformer

from sktorch_mlp import stacked_fits
from sktorch_mlp._parallel.workers import StackedProcessesBackend
from tests.parallel import tasks
from tests.parallel.fits import FILTERS, MLP, PIPELINE, PIPELINE_GRID, X, Y, assert_same_fits, press_ctrl_c

#: A thread of joblib's executor fails with a KeyError where it is shut down between a task's number and the task.
SHUT_DOWN = "ignore:Exception in thread ExecutorManagerThread"
pytestmark = [*map(pytest.mark.filterwarnings, [*FILTERS, SHUT_DOWN])]


@pytest.fixture(scope="module", autouse=True)
def no_process_left():
    yield
    get_reusable_executor().shutdown(wait=True)


@pytest.fixture
def group_sizes(monkeypatch):
    """Sizes of the groups that have come back."""
    sizes = []
    receive = StackedProcessesBackend._receive

    def recorded(self, group, ended):
        sizes.append(len(group))
        receive(self, group, ended)

    monkeypatch.setattr(StackedProcessesBackend, "_receive", recorded)
    return sizes


# Results --------------------------------------------------------------------------------


def _scores(search):
    return search.fit(X, Y).cv_results_["mean_test_score"]


TOOLS = {
    "GridSearchCV": lambda: _scores(GridSearchCV(PIPELINE, PIPELINE_GRID, cv=3)),
    "HalvingGridSearchCV": lambda: _scores(
        HalvingGridSearchCV(
            PIPELINE, PIPELINE_GRID, cv=3, resource="mlptorchclassifier__max_iter", max_resources=9, random_state=0
        )
    ),
    "cross_val_predict": lambda: cross_val_predict(PIPELINE, X, Y, method="predict_proba"),
    "BaggingClassifier": lambda: (
        BaggingClassifier(clone(MLP).set_params(batch_size=203), 5, random_state=0).fit(X, Y).predict_proba(X)
    ),
    "OneVsRestClassifier": lambda: OneVsRestClassifier(MLP).fit(X, Y).predict_proba(X),
    "search of OneVsRest": lambda: _scores(
        GridSearchCV(OneVsRestClassifier(MLP), {"estimator__alpha": [0.0, 1.0]}, cv=2)
    ),
    "search of a search": lambda: cross_val_score(GridSearchCV(PIPELINE, PIPELINE_GRID, cv=2), X, Y, cv=2),
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
    assert_same_fits(fitted, expected)
    for ours, theirs in zip(fitted, expected, strict=True):
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-7)
        ours.partial_fit(X, Y)


def _mlp(call, seed):
    return clone(MLP).set_params(activation=partial(tasks.noted_tanh, call), random_state=seed)


def _fit(call, seed):
    return partial(_mlp(call, seed).fit, X, Y)


def _nested_fits(call, seed):
    return partial(cross_val_score, _mlp(call, seed), X, Y, cv=2)


@pytest.mark.parametrize("make_task", [_fit, _nested_fits], ids=["plain", "nested"])
def test_each_process_trains_stacks(make_task):
    call = make_task.__name__
    with stacked_fits(n_processes=2):
        told = joblib.Parallel()(joblib.delayed(tasks.fit_and_tell)(call, make_task(call, n)) for n in range(10))
    largest = {process: max(sizes, default=0) for process, sizes in told}
    assert os.getpid() not in largest
    assert all(size > 1 for size in largest.values())


def test_all_processes_are_used():
    with stacked_fits(n_processes=2):
        for seconds in (0.1, 0.2):  # first for both to start
            processes = joblib.Parallel()(joblib.delayed(tasks.process_after)(seconds) for _ in range(4))
    assert len(set(processes)) == 2
    assert os.getpid() not in processes


def test_by_name():
    with joblib.parallel_config("stacked", n_processes=2):
        assert os.getpid() not in joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(4))
        assert set(joblib.Parallel(n_jobs=1)(joblib.delayed(os.getpid)() for _ in range(4))) == {os.getpid()}


def test_many_more_tasks_than_run_at_a_time(group_sizes):
    with stacked_fits(n_processes=2, n_fits=3):
        assert joblib.Parallel()(joblib.delayed(abs)(-n) for n in range(50)) == list(range(50))
        assert max(group_sizes) == 3
        with joblib.Parallel() as parallel:
            for n in (1, 20):
                assert parallel(joblib.delayed(abs)(-i) for i in range(n)) == list(range(n))
        for pre_dispatch in ("all", 5, 1):
            numbers = (joblib.delayed(abs)(-n) for n in range(20))
            assert joblib.Parallel(pre_dispatch=pre_dispatch)(numbers) == list(range(20))
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


# Filters of warnings --------------------------------------------------------------------


def test_filters_of_warnings_do_not_outlive_a_group():
    with stacked_fits(n_processes=2):
        joblib.Parallel()(joblib.delayed(tasks.turn_warnings_into_errors)() for _ in range(4))
    filters = joblib.Parallel(n_jobs=2)(joblib.delayed(tasks.first_filter)() for _ in range(4))
    assert "error" not in filters


def test_filters_of_the_caller_hold_for_all_tasks():
    with stacked_fits(n_processes=2), warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        warnings.simplefilter("ignore", FitFailedWarning)
        with pytest.raises(ValueError, match="All the 12 fits failed"):
            cross_val_score(MLP, X, Y, cv=12)


# Callbacks ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [2, None], ids=["joblib", "stacks"])
def test_callbacks_of_scikit_learn_in_processes(n_jobs, capsys):
    monitor = ScoringMonitor(scoring="accuracy")
    mlp = clone(MLP).set_params(learning_rate_init=0.05).set_callbacks(monitor)
    search = GridSearchCV(mlp, {"alpha": [0.0, 0.1]}, cv=2, n_jobs=n_jobs, refit=False)
    search.set_callbacks(ProgressBar(max_propagation_depth=0))
    with nullcontext() if n_jobs else stacked_fits(n_processes=2):
        search.fit(X, Y)
    logs = monitor.get_logs(select="all")
    scores = [row["accuracy"] for log in logs for row in log.data if row["task_name"] == "epoch"]
    assert len(scores) == 2 * 2 * 6
    assert max(scores) > 0.5
    output = capsys.readouterr().out
    assert "GridSearchCV - fit" in output
    assert "MLPTorchClassifier" not in output


# Errors and ends ------------------------------------------------------------------------


def test_a_process_that_ends_is_an_error_and_others_take_its_place():
    with stacked_fits(n_processes=2):
        with pytest.raises(TerminatedWorkerError):
            joblib.Parallel()(joblib.delayed(os._exit)(1) for _ in range(3))
        assert joblib.Parallel()(joblib.delayed(abs)(-n) for n in range(3)) == [0, 1, 2]


def _to_number(text):
    return int(text)


def test_an_error_is_raised_with_its_traceback():
    with stacked_fits(n_processes=2), pytest.raises(ValueError, match="many") as raised:
        joblib.Parallel()(joblib.delayed(_to_number)(text) for text in ("1", "many", "3"))
    assert "_to_number" in str(raised.value.__cause__)


def test_processes_are_usable_after_an_error():
    with stacked_fits(n_processes=2):
        with pytest.raises(Exception, match="pickle"):
            joblib.Parallel()(joblib.delayed(abs)(threading.Lock()) for _ in range(3))
        assert joblib.Parallel()(joblib.delayed(abs)(-n) for n in range(3)) == [0, 1, 2]


def test_results_that_cannot_be_pickled_are_an_error():
    with stacked_fits(n_processes=2), pytest.raises(Exception, match="pickle"):
        joblib.Parallel()(joblib.delayed(threading.Lock)() for _ in range(3))


def test_imports_are_exempted_from_garbage_collection_and_tasks_are_not():
    get_reusable_executor().shutdown(wait=True)  # in new processes, which have exempted nothing
    with stacked_fits(n_processes=2):
        joblib.Parallel()(joblib.delayed(tasks.note_cycle)(tasks.Cycle()) for _ in range(4))
        told = joblib.Parallel()(joblib.delayed(tasks.tell_collection)() for _ in range(2))
    assert all(n_frozen > 100_000 for n_frozen, _ in told)
    assert any(are_gone for _, are_gone in told)
    assert all(is_gone for _, are_gone in told for is_gone in are_gone)


def _press_ctrl_c_when(path):
    while not path.exists():
        time.sleep(0.01)
    press_ctrl_c()


def test_ctrl_c_ends_the_processes(tmp_path):
    activation = partial(tasks.touching_tanh, str(tmp_path / "training"))
    endless = clone(MLP).set_params(max_iter=10**6, tol=0, n_iter_no_change=np.inf)
    with stacked_fits(n_processes=2):
        joblib.Parallel()(joblib.delayed(abs)(n) for n in range(4))
        processes = list(get_reusable_executor(reuse=True)._processes.values())
        presser = threading.Thread(target=_press_ctrl_c_when, args=(tmp_path / "training",))
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            cross_val_score(endless.set_params(activation=activation), X, Y, cv=4)
        presser.join()
        for process in processes:
            process.join(timeout=20)
            assert not process.is_alive()
