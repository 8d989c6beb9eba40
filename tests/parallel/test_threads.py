"""Tasks in threads: they may fail, nest, overlap, generate and be interrupted, and nothing hangs."""

import threading
import time

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from sktorch_mlp import stacked_fits
from sktorch_mlp._parallel.batcher import current_batcher
from tests.parallel.fits import FILTERS, MLP, Y3, X, Y, press_ctrl_c

pytestmark = [pytest.mark.usefixtures("two_trainers", "no_thread_left"), *map(pytest.mark.filterwarnings, FILTERS)]


def _score(**params):
    return cross_val_score(clone(MLP).set_params(**params), X, Y, cv=2, error_score="raise")


@pytest.fixture(scope="module")
def expected():
    """What `_score` gives outside of stacks."""
    return cross_val_score(MLP, X, Y, cv=2)


# Mixes of tasks -------------------------------------------------------------------------


class Step(TransformerMixin, BaseEstimator):
    """A step of a pipeline that waits, fails, or fits something itself."""

    def __init__(self, does="nothing"):
        self.does = does

    def fit(self, X, y=None):
        if self.does == "raise":
            raise ValueError("This step raises.")
        if self.does == "wait":
            time.sleep(0.03)
        if self.does == "partial_fit":
            mlp = clone(MLP)
            for _ in range(3):
                mlp.partial_fit(X, y, classes=np.unique(Y))
        if self.does == "nested call":
            cross_val_score(MLP, X, y, cv=2)
        if self.does == "nested call that raises":
            cross_val_score(clone(MLP).set_params(alpha=-1), X, y, cv=2, error_score="raise")
        if self.does == "other threads":
            joblib.Parallel(2, backend="threading")(joblib.delayed(clone(MLP).fit)(X, y) for _ in range(2))
        return self

    def transform(self, X):
        return X


STEPS = ["nothing", "raise", "wait", "partial_fit", "nested call", "nested call that raises", "other threads"]


def _random_candidate(rng):
    return {
        "step__does": [rng.choice(STEPS)],
        "mlptorchclassifier__learning_rate_init": [rng.choice([0.01, 0.1, 1e200 if rng.rand() < 0.2 else 1.0])],
        "mlptorchclassifier__alpha": [rng.choice([0.0, 1.0, -1.0])],
        "mlptorchclassifier__solver": [rng.choice(["adam", "sgd", "lbfgs"], p=[0.6, 0.3, 0.1])],
        "mlptorchclassifier__hidden_layer_sizes": [rng.choice([4, 8])],
        "mlptorchclassifier__max_iter": [int(rng.randint(1, 6))],
        "mlptorchclassifier__early_stopping": [bool(rng.rand() < 0.3)],
    }


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning", "ignore:One or more of the test scores")
@pytest.mark.parametrize("seed", range(6))
def test_random_mixes_of_tasks_neither_hang_nor_differ(seed):
    rng = np.random.RandomState(seed)
    grid = [_random_candidate(rng) for _ in range(12)]
    search = GridSearchCV(make_pipeline(Step(), MLP), grid, cv=2, refit=False)
    expected = clone(search).fit(X, Y).cv_results_["mean_test_score"]
    with stacked_fits(n_fits=int(rng.choice([3, 7, 64]))):
        scores = search.fit(X, Y).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(np.isnan(scores), np.isnan(expected))
    # A rate of 0.1 or 1 makes much of rounding: one row of the 203 may fall otherwise.
    np.testing.assert_allclose(scores, expected, atol=2 / len(X))


# Errors ---------------------------------------------------------------------------------


def test_a_diverging_or_invalid_candidate_fails_alone():
    grid = [
        {"learning_rate_init": [0.01, 0.02]},
        {"solver": ["sgd"], "learning_rate_init": [0.1, 1e200]},
        {"alpha": [-1.0]},
    ]
    search = GridSearchCV(MLP, grid, cv=2, error_score=-7.0, refit=False)
    with stacked_fits(), pytest.warns(FitFailedWarning, match="fits failed"):
        search.fit(X, Y)
    failed = [p.get("learning_rate_init") == 1e200 or p.get("alpha") == -1.0 for p in search.cv_results_["params"]]
    assert [score == -7.0 for score in search.cv_results_["mean_test_score"]] == failed


def test_an_error_that_is_to_be_raised_is_raised():
    grid = {"learning_rate_init": [0.01, 1e200]}
    search = GridSearchCV(clone(MLP).set_params(solver="sgd"), grid, cv=3, error_score="raise")
    with stacked_fits(), pytest.raises(ValueError, match="non-finite"):
        search.fit(X, Y)


def _fails():
    raise ValueError("no reason")


def test_an_error_tells_where_it_was_raised():
    with stacked_fits(), pytest.raises(ValueError, match="no reason") as raised:
        joblib.Parallel()(joblib.delayed(_fails)() for _ in range(3))
    assert "in _fails" in str(raised.value.__cause__)


def test_a_task_goes_on_after_a_nested_call_has_failed(expected):
    def task():
        with pytest.raises(ValueError, match="alpha"):
            _score(alpha=-1.0)
        return _score()

    with stacked_fits():
        for scores in joblib.Parallel()(joblib.delayed(task)() for _ in range(3)):
            np.testing.assert_array_equal(scores, expected)


def test_a_call_that_never_begins_leaves_others_alone(expected):
    with stacked_fits():
        with pytest.raises(TypeError):
            joblib.Parallel()(None)
        with pytest.raises(ValueError, match="garbage"):
            cross_val_score(MLP, X, Y, cv=2, pre_dispatch="garbage")
        np.testing.assert_array_equal(_score(), expected)


def test_an_iterable_of_tasks_that_fails_leaves_others_alone(expected):
    def tasks():
        yield joblib.delayed(_score)()
        raise RuntimeError("There are no further tasks.")

    with stacked_fits():
        with pytest.raises(RuntimeError, match="no further tasks"):
            joblib.Parallel()(tasks())
        np.testing.assert_array_equal(_score(), expected)


# Nesting and overlapping ----------------------------------------------------------------


def test_a_context_inside_a_task(expected):
    def task():
        with stacked_fits():
            return _score()

    with stacked_fits():
        np.testing.assert_array_equal(joblib.Parallel()(joblib.delayed(task)() for _ in range(3)), [expected] * 3)


def test_a_call_within_a_managed_call(expected):
    with stacked_fits(), joblib.Parallel() as parallel:
        for _ in range(2):
            assert parallel(joblib.delayed(abs)(-n) for n in range(3)) == [0, 1, 2]
            np.testing.assert_array_equal(_score(), expected)


def test_a_call_within_the_iterable_of_tasks(expected):
    def tasks():
        for _ in range(3):
            _score()
            yield joblib.delayed(_score)()

    with stacked_fits():
        np.testing.assert_array_equal(joblib.Parallel()(tasks()), [expected] * 3)


def test_an_iterable_of_tasks_may_fit(expected):
    """With more tasks than threads it is gone through in the callbacks of finished ones."""

    def tasks():
        for _ in range(7):
            clone(MLP).fit(X, Y)
            yield joblib.delayed(_score)()

    with stacked_fits(n_fits=2):
        np.testing.assert_array_equal(joblib.Parallel()(tasks()), [expected] * 7)


def test_calls_of_several_threads_may_overlap(expected):
    scores = []

    def score():
        with stacked_fits():
            scores.extend(joblib.Parallel()(joblib.delayed(_score)() for _ in range(2)))

    threads = [threading.Thread(target=score) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(scores, [expected] * 6)


# Generated results ----------------------------------------------------------------------


def test_a_call_while_a_generator_of_results_waits(expected):
    with stacked_fits():
        generator = joblib.Parallel(return_as="generator")(joblib.delayed(_score)() for _ in range(3))
        np.testing.assert_array_equal(_score(), expected)
        np.testing.assert_array_equal(list(generator), [expected] * 3)


def test_a_task_may_leave_a_generator_of_results_unread(expected):
    def task():
        generator = joblib.Parallel(return_as="generator")(joblib.delayed(_score)() for _ in range(2))
        return _score(), list(generator)

    with stacked_fits():
        for scores, nested in joblib.Parallel()(joblib.delayed(task)() for _ in range(2)):
            np.testing.assert_array_equal([scores, *nested], [expected] * 3)


@pytest.mark.filterwarnings("ignore:.*You could benefit from adjusting the input task iterator")
def test_a_generator_may_be_dropped_before_its_end(expected):
    with stacked_fits():
        generator = joblib.Parallel(return_as="generator")(joblib.delayed(_score)() for _ in range(3))
        np.testing.assert_array_equal(next(generator), expected)
        generator.close()
        np.testing.assert_array_equal(_score(), expected)


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_results_may_be_generated(return_as):
    with stacked_fits(n_fits=3):
        results = joblib.Parallel(return_as=return_as)(joblib.delayed(abs)(-n) for n in range(30))
        assert sorted(results) == list(range(30))


# Ctrl-C ---------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested"])
def test_ctrl_c_during_training_stops_all(nested, expected):
    steps = []

    def activation(units):
        steps.append(units)
        if len(steps) == 100:
            press_ctrl_c()
        return torch.tanh(units)

    endless = clone(MLP).set_params(activation=activation, max_iter=10**6, tol=0, n_iter_no_change=np.inf)
    estimator = OneVsRestClassifier(endless) if nested else endless
    name = "estimator__alpha" if nested else "alpha"
    with stacked_fits():
        with pytest.raises(KeyboardInterrupt):
            GridSearchCV(estimator, {name: [0, 1e-3]}, cv=2).fit(X, Y3)
        np.testing.assert_array_equal(_score(), expected)  # what follows works


def test_ctrl_c_while_tasks_work_stops_all(expected):
    begun, main_thread = [], threading.main_thread().ident

    def task():
        begun.append(None)
        if len(begun) == 1:
            while main_thread not in current_batcher()._waiting_callers:
                time.sleep(0.001)
            press_ctrl_c()
        time.sleep(0.05)
        return _score()

    with stacked_fits():
        with pytest.raises(KeyboardInterrupt):
            joblib.Parallel()(joblib.delayed(task)() for _ in range(50))
        np.testing.assert_array_equal(_score(), expected)
    assert len(begun) < 50


def test_ctrl_c_while_tasks_are_handed_out_stops_all(expected):
    def tasks():
        yield joblib.delayed(_score)()
        yield joblib.delayed(time.sleep)(0.05)
        press_ctrl_c()
        yield joblib.delayed(_score)()

    with stacked_fits():
        with pytest.raises(KeyboardInterrupt):
            joblib.Parallel()(tasks())
        np.testing.assert_array_equal(_score(), expected)
