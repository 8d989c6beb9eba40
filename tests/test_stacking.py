"""Fits inside `stacked_fits()` give what they give alone, really share stacks, and fail alone."""

import signal
import threading
import time
from contextlib import contextmanager
from itertools import pairwise

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils import check_random_state

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, _data, _meeting, _stacking, stacked_fits
from sktorch_mlp._rows import Rows

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger"),
]

X, Y = load_digits(return_X_y=True)
X, Y = X[:203] / 16, Y[:203]
Y3 = Y % 3
NUMBERS_X, NUMBERS = load_diabetes(return_X_y=True)
NUMBERS_X, NUMBERS = scale(NUMBERS_X)[:203], scale(NUMBERS)[:203]
MLP = MLPTorchClassifier((8,), max_iter=6, batch_size=40, random_state=0)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not left


@pytest.fixture
def stack_sizes(monkeypatch):
    """Sizes of the stacks trained."""
    sizes = []
    train_stack = _stacking.train_stack

    def recorded(fits, *args):
        sizes.append(len(fits))
        return train_stack(fits, *args)

    monkeypatch.setattr(_meeting, "train_stack", recorded)
    return sizes


def _assert_same_fits(estimators, expected, rtol=1e-9):
    for ours, theirs in zip(estimators, expected, strict=True):
        assert ours.n_iter_ == theirs.n_iter_
        assert ours.t_ == theirs.t_
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=rtol)
        if theirs.validation_scores_ is not None:
            np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=rtol)
        for name in ("coefs_", "intercepts_"):
            for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
                # Stacked products sum in another order; rounding grows over the steps.
                np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-11)


def _fit_all(estimators, X, y, cv, **kwargs):
    """Fit each estimator on each fold, in one parallel call; all the fitted estimators."""

    def fits(estimator):
        return cross_validate(estimator, X, y, cv=cv, return_estimator=True, **kwargs)["estimator"]

    with joblib.parallel_config(n_jobs=None):
        return [
            e for some in joblib.Parallel()(joblib.delayed(fits)(estimator) for estimator in estimators) for e in some
        ]


ADAM_GRID = [
    {"learning_rate_init": 0.01, "alpha": 0.0},
    {"learning_rate_init": 0.003, "alpha": 0.1, "beta_1": 0.5},
    {"beta_2": 0.9, "epsilon": 1e-4, "max_iter": 3},
    {"tol": 0.5, "n_iter_no_change": 1, "random_state": 3},
    {"shuffle": False, "random_state": 1},
]
SGD_GRID = [
    {"learning_rate_init": 0.1},
    {"momentum": 0.0, "alpha": 1.0},
    {"momentum": 0.5, "max_iter": 2, "random_state": 7},
    {"tol": 0.5, "n_iter_no_change": 1},
]
GRIDS = {
    "adam": ADAM_GRID,
    "adam, early stopping": [{**params, "early_stopping": True} for params in ADAM_GRID],
    "sgd": [{"solver": "sgd", **params} for params in SGD_GRID],
    "sgd, adaptive": [{"solver": "sgd", "learning_rate": "adaptive", **params} for params in SGD_GRID],
    "sgd, invscaling": [{"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.1, **p} for p in SGD_GRID],
    "full batch": [{"batch_size": 500, **params} for params in ADAM_GRID],
    "other shapes": [
        {},
        {"hidden_layer_sizes": (8, 8)},
        {"hidden_layer_sizes": ()},
        {"activation": "tanh"},
        {"batch_size": 50},
        {"solver": "sgd"},
        {"solver": "lbfgs"},
        {"alpha": 1.0},
    ],
}
TARGETS = {
    "classifier": (MLP, X, Y),
    "binary": (MLP, X, (Y > 4).astype(int)),
    "multilabel": (MLP, X, np.stack([Y > 4, Y % 2 == 0], 1).astype(int)),
    "regressor": (
        MLPTorchRegressor(hidden_layer_sizes=(8,), max_iter=6, batch_size=40, random_state=0),
        NUMBERS_X,
        NUMBERS,
    ),
    "two outputs": (
        MLPTorchRegressor(hidden_layer_sizes=(8,), max_iter=6, batch_size=40, random_state=0),
        NUMBERS_X,
        np.stack([NUMBERS, -(NUMBERS**2)], 1),
    ),
}


@pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger")
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("kind", TARGETS)
def test_each_fit_gets_what_it_gets_alone(kind, grid, weighted, stack_sizes):
    base, features, y = TARGETS[kind]
    estimators = [clone(base).set_params(**params) for params in grid]
    weights = np.random.RandomState(0).uniform(0.5, 2, len(y))
    kwargs = {"params": {"sample_weight": weights}} if weighted else {}
    cv = KFold(3, shuffle=True, random_state=0)  # 203 rows: folds differ by one
    expected = _fit_all(estimators, features, y, cv, **kwargs)
    del stack_sizes[:]
    with stacked_fits():
        fitted = _fit_all(estimators, features, y, cv, **kwargs)
    # L-BFGS amplifies rounding over its line searches; it is not stacked.
    _assert_same_fits(
        *([e for e in some if e.solver != "lbfgs"] for some in (fitted, expected)),
        rtol=1e-8 if "sgd" in str(grid) else 1e-9,
    )
    n_stacked = sum(e.solver != "lbfgs" for e in fitted)
    assert sum(stack_sizes) == n_stacked
    assert len(stack_sizes) < n_stacked


def test_float32_is_within_rounding():
    estimators = [clone(MLP).set_params(dtype="float32", learning_rate_init=rate) for rate in (0.001, 0.003, 0.01)]
    expected = _fit_all(estimators, X, Y, 4)
    with stacked_fits():
        fitted = _fit_all(estimators, X, Y, 4)
    assert all(e.coefs_[0].dtype == np.float32 for e in fitted)
    for ours, theirs in zip(fitted, expected, strict=True):
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-4)


PIPELINE = make_pipeline(StandardScaler(), MLP)
PIPELINE_GRID = {"mlptorchclassifier__alpha": [0.0, 0.1], "mlptorchclassifier__learning_rate_init": [0.001, 0.01, 0.1]}
TOOLS = {
    "GridSearchCV": lambda: GridSearchCV(PIPELINE, PIPELINE_GRID, cv=3).fit(X, Y).cv_results_["mean_test_score"],
    "RandomizedSearchCV": lambda: (
        RandomizedSearchCV(PIPELINE, PIPELINE_GRID, n_iter=4, cv=3, random_state=0)
        .fit(X, Y)
        .cv_results_["mean_test_score"]
    ),
    "HalvingGridSearchCV": lambda: (
        HalvingGridSearchCV(
            PIPELINE, PIPELINE_GRID, cv=3, resource="mlptorchclassifier__max_iter", max_resources=9, random_state=0
        )
        .fit(X, Y)
        .cv_results_["mean_test_score"]
    ),
    "cross_val_score": lambda: cross_val_score(PIPELINE, X, Y),
    "cross_val_predict": lambda: cross_val_predict(PIPELINE, X, Y, method="predict_proba"),
    "learning_curve": lambda: learning_curve(PIPELINE, X, Y, cv=3)[2],
    "validation_curve": lambda: validation_curve(MLP, X, Y, param_name="alpha", param_range=[0, 1.0])[1],
    "permutation_test_score": lambda: permutation_test_score(MLP, X, Y, n_permutations=4, random_state=0)[1],
    "BaggingClassifier": lambda: (
        BaggingClassifier(clone(MLP).set_params(batch_size=203), 5, random_state=0).fit(X, Y).predict_proba(X)
    ),
    "OneVsRestClassifier": lambda: OneVsRestClassifier(MLP).fit(X, Y).predict_proba(X),
    "OneVsOneClassifier": lambda: OneVsOneClassifier(clone(MLP)).fit(X, Y3).predict(X),
    "MultiOutputClassifier": lambda: np.stack(
        MultiOutputClassifier(MLP).fit(X, np.stack([Y3, Y3[::-1]], 1)).predict_proba(X)
    ),
    "StackingClassifier": lambda: (
        StackingClassifier([("a", MLP), ("b", PIPELINE), ("c", LogisticRegression())], cv=3).fit(X, Y).predict_proba(X)
    ),
    "VotingClassifier": lambda: (
        VotingClassifier([("a", MLP), ("b", PIPELINE)], voting="soft").fit(X, Y).predict_proba(X)
    ),
    "CalibratedClassifierCV": lambda: CalibratedClassifierCV(PIPELINE, cv=3).fit(X, Y).predict_proba(X),
    "search of OneVsRest": lambda: (
        GridSearchCV(OneVsRestClassifier(MLP), {"estimator__alpha": [0.0, 1.0]}, cv=2)
        .fit(X, Y3)
        .cv_results_["mean_test_score"]
    ),
    "search of a pipeline of Bagging of a pipeline": lambda: (
        GridSearchCV(
            make_pipeline(StandardScaler(), BaggingClassifier(PIPELINE, 3, random_state=0)),
            {"baggingclassifier__max_samples": [0.5, 1.0]},
            cv=2,
        )
        .fit(X, Y3)
        .cv_results_["mean_test_score"]
    ),
    "search of a search": lambda: cross_val_score(GridSearchCV(PIPELINE, PIPELINE_GRID, cv=2), X, Y, cv=2),
    "search of a forest": lambda: (
        GridSearchCV(RandomForestClassifier(5, random_state=0), {"max_depth": [2, 4]}, cv=2)
        .fit(X, Y)
        .cv_results_["mean_test_score"]
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_get_what_they_get_without(tool, stack_sizes):
    expected = TOOLS[tool]()
    alone = list(stack_sizes)
    assert set(alone) <= {1}
    del stack_sizes[:]
    with stacked_fits():
        np.testing.assert_allclose(TOOLS[tool](), expected, rtol=1e-7, atol=1e-9)
    assert sum(stack_sizes) == len(alone)
    # Two fits are one for each of two cores; one-vs-one has other rows, and numbers of mini-batches, for each pair.
    if len(alone) > 2 and tool != "OneVsOneClassifier":
        assert max(stack_sizes) > 1


def test_a_search_is_the_same_in_all_it_reports():
    search = GridSearchCV(
        PIPELINE, PIPELINE_GRID, cv=3, return_train_score=True, scoring=["accuracy", "neg_log_loss"], refit="accuracy"
    )
    expected = clone(search).fit(X, Y)
    with stacked_fits():
        search.fit(X, Y)
    assert search.best_params_ == expected.best_params_
    for name, values in expected.cv_results_.items():
        if "time" not in name:
            if name.startswith("param"):
                assert list(search.cv_results_[name]) == list(values)
            else:
                np.testing.assert_allclose(search.cv_results_[name], values, rtol=1e-8)


@pytest.mark.parametrize("n_jobs", [None, -1, 2])
def test_by_name_and_whatever_n_jobs(n_jobs, stack_sizes):
    with joblib.parallel_config("stacked"):
        cross_val_score(MLP, X, Y, cv=4, n_jobs=n_jobs)
    assert sum(stack_sizes) == 4
    assert max(stack_sizes) > 1


def test_one_job_and_no_parallel_call_are_as_always(stack_sizes):
    with stacked_fits():
        clone(MLP).fit(X, Y)
        cross_val_score(MLP, X, Y, cv=3, n_jobs=1)
    cross_val_score(MLP, X, Y, cv=3)
    assert stack_sizes == [1] * 7


def test_n_fits_bounds_the_stacks(stack_sizes):
    with stacked_fits(n_fits=2):
        cross_val_score(MLP, X, Y, cv=7)
    assert sum(stack_sizes) == 7
    assert max(stack_sizes) <= 2


@pytest.mark.parametrize("n_fits", [0, -1, 1.5, True, "all"])
def test_n_fits_is_checked(n_fits):
    with pytest.raises(ValueError, match="n_fits must be an integer"), stacked_fits(n_fits=n_fits):
        pass
    with pytest.raises(ValueError, match="n_fits must be an integer"), joblib.parallel_config("stacked", n_fits=n_fits):
        pass


def test_stacks_fit_into_memory(monkeypatch, stack_sizes):
    expected = cross_val_score(MLP, X, Y, cv=6)
    del stack_sizes[:]
    monkeypatch.setitem(_stacking._BUDGETS, "cpu", 1)
    with stacked_fits():
        np.testing.assert_array_equal(cross_val_score(MLP, X, Y, cv=6), expected)
    assert stack_sizes == [1] * 6


def test_a_stack_that_is_too_large_is_split(monkeypatch):
    estimators = [clone(MLP).set_params(random_state=seed, max_iter=3) for seed in range(4)]
    expected = _fit_all(estimators, X, Y, 3)
    sizes, train = [], _stacking.train

    def scarce(network, *args):
        sizes.append(network.n_networks)
        train(network, *args)  # fails late, when streams and curves have moved on
        if network.n_networks > 2:
            raise MemoryError

    monkeypatch.setattr(_stacking, "train", scarce)
    with stacked_fits():
        fitted = _fit_all(estimators, X, Y, 3)
    assert max(sizes) > 2
    _assert_same_fits(fitted, expected)


class Moody(TransformerMixin, BaseEstimator):
    """A step that waits, fails, or fits something itself, by its parameter."""

    def __init__(self, mood="calm"):
        self.mood = mood

    def fit(self, X, y=None):
        if self.mood == "raises":
            raise ValueError("this step raises")
        if self.mood == "slow":
            time.sleep(0.03)
        if self.mood == "partial":
            mlp = clone(MLP)
            for _ in range(3):
                mlp.partial_fit(X, y, classes=np.unique(Y))
        if self.mood == "nests":
            cross_val_score(MLP, X, y, cv=2)
        if self.mood == "nests and raises":
            cross_val_score(clone(MLP).set_params(alpha=-1), X, y, cv=2, error_score="raise")
        if self.mood == "other threads":
            joblib.Parallel(2, backend="threading")(joblib.delayed(clone(MLP).fit)(X, y) for _ in range(2))
        return self

    def transform(self, X):
        return X


MOODS = ["calm", "raises", "slow", "partial", "nests", "nests and raises", "other threads"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning", "ignore:One or more of the test scores")
@pytest.mark.parametrize("seed", range(6))
def test_random_mixes_of_tasks_neither_hang_nor_differ(seed):
    rng = np.random.RandomState(seed)
    grid = [
        {
            "moody__mood": [rng.choice(MOODS)],
            "mlptorchclassifier__learning_rate_init": [rng.choice([0.01, 0.1, 1e200 if rng.rand() < 0.2 else 1.0])],
            "mlptorchclassifier__alpha": [rng.choice([0.0, 1.0, -1.0])],
            "mlptorchclassifier__solver": [rng.choice(["adam", "sgd", "lbfgs"], p=[0.6, 0.3, 0.1])],
            "mlptorchclassifier__hidden_layer_sizes": [rng.choice([4, 8])],
            "mlptorchclassifier__max_iter": [int(rng.randint(1, 6))],
            "mlptorchclassifier__early_stopping": [bool(rng.rand() < 0.3)],
        }
        for _ in range(12)
    ]
    search = GridSearchCV(make_pipeline(Moody(), clone(MLP)), grid, cv=2, refit=False)
    expected = clone(search).fit(X, Y).cv_results_["mean_test_score"]
    with stacked_fits(n_fits=int(rng.choice([3, 7, 64]))):
        scores = search.fit(X, Y).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(np.isnan(scores), np.isnan(expected))
    # A rate of 0.1 or 1 makes much of rounding: one row of the 203 may fall otherwise.
    np.testing.assert_allclose(scores, expected, atol=2 / len(X))


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
    with stacked_fits(), pytest.raises(ValueError, match="non-finite"):
        GridSearchCV(
            clone(MLP).set_params(solver="sgd"), {"learning_rate_init": [0.01, 1e200]}, cv=3, error_score="raise"
        ).fit(X, Y)


def _fails():
    raise ValueError("no reason")


def test_an_error_tells_where_it_was_raised():
    with stacked_fits(), pytest.raises(ValueError, match="no reason") as raised:
        joblib.Parallel()(joblib.delayed(_fails)() for _ in range(3))
    assert "in _fails" in str(raised.value.__cause__)


def _score(**params):
    return cross_val_score(clone(MLP).set_params(**params), X, Y, cv=2, error_score="raise")


def _caught(**params):
    with pytest.raises(ValueError, match="alpha"):
        _score(alpha=-1.0)
    return _score(**params)


def test_a_task_goes_on_after_a_nested_call_has_failed():
    expected = _score()
    with stacked_fits():
        for scores in joblib.Parallel()(joblib.delayed(_caught)() for _ in range(3)):
            np.testing.assert_array_equal(scores, expected)


def test_calls_may_overlap():
    """Within a managed call, within the iterable of tasks, and while a generator of results waits."""

    def tasks_after_another_call():
        for _ in range(3):
            _score()
            yield joblib.delayed(_score)()

    expected = _score()
    with stacked_fits():
        with joblib.Parallel() as parallel:
            for _ in range(2):
                assert parallel(joblib.delayed(abs)(-n) for n in range(3)) == [0, 1, 2]
                np.testing.assert_array_equal(_score(), expected)
        np.testing.assert_array_equal(joblib.Parallel()(tasks_after_another_call()), [expected] * 3)
        generator = joblib.Parallel(return_as="generator")(joblib.delayed(_score)() for _ in range(3))
        np.testing.assert_array_equal(_score(), expected)
        np.testing.assert_array_equal(list(generator), [expected] * 3)


def test_a_task_may_leave_a_generator_of_results_unread():
    expected = _score()

    def task():
        generator = joblib.Parallel(return_as="generator")(joblib.delayed(_score)() for _ in range(2))
        return _score(), list(generator)

    with stacked_fits():
        for scores, nested in joblib.Parallel()(joblib.delayed(task)() for _ in range(2)):
            np.testing.assert_array_equal([scores, *nested], [expected] * 3)


def test_an_iterable_of_tasks_may_fit():
    """With more tasks than threads it is gone through in the callbacks of finished ones."""

    def tasks():
        for _ in range(7):
            clone(MLP).fit(X, Y)
            yield joblib.delayed(_score)()

    expected = _score()
    with stacked_fits(n_fits=2):
        np.testing.assert_array_equal(joblib.Parallel()(tasks()), [expected] * 7)


def test_a_call_that_never_begins_leaves_others_alone():
    expected = _score()
    with stacked_fits():
        with pytest.raises(TypeError):
            joblib.Parallel()(None)
        with pytest.raises(ValueError, match="garbage"):
            cross_val_score(MLP, X, Y, cv=2, pre_dispatch="garbage")
        np.testing.assert_array_equal(_score(), expected)


@pytest.mark.parametrize("broken", ["split_into_stacks", "train_stack"])
def test_a_failure_of_the_meeting_itself_reaches_the_fits(broken, monkeypatch):
    def fails(*args):
        raise MemoryError("no memory")

    monkeypatch.setattr(_meeting, broken, fails)
    with stacked_fits(), pytest.raises(MemoryError):
        _score()


def test_a_context_inside_a_task():
    def task():
        with stacked_fits():
            return _score()

    expected = _score()
    with stacked_fits():
        np.testing.assert_array_equal(joblib.Parallel()(joblib.delayed(task)() for _ in range(3)), [expected] * 3)


def test_dense_rows_may_follow_sparse_ones():
    def sparse_first(seed):
        mlp = clone(MLP).set_params(random_state=seed)
        return mlp.partial_fit(sp.csr_array(X), Y, classes=np.unique(Y)).partial_fit(X, Y).loss_curve_

    expected = [sparse_first(seed) for seed in range(4)]
    with stacked_fits():
        curves = joblib.Parallel()(joblib.delayed(sparse_first)(seed) for seed in range(4))
    np.testing.assert_allclose(curves, expected, rtol=1e-9)


def test_segments_of_unlike_numbers_of_rows(monkeypatch, stack_sizes):
    monkeypatch.setattr(_data, "_SEGMENT_ROWS", 80)
    cv = KFold(3, shuffle=True, random_state=0)
    expected = _fit_all([MLP], X, Y, cv)
    with stacked_fits():
        _assert_same_fits(_fit_all([MLP], X, Y, cv), expected)
    assert max(stack_sizes) > 1


def test_rewinding_leaves_numpys_global_stream():
    """Others may have drawn from it meanwhile."""
    for stream, goes_back in ((np.random.RandomState(0), True), (check_random_state(None), False)):
        shuffler = _data.Shuffler(np.arange(5), stream)
        mark, before = shuffler.mark(), stream.get_state()[2]
        shuffler.next_epoch()
        shuffler.rewind(mark)
        assert (stream.get_state()[2] == before) == goes_back


@contextmanager
def _ctrl_c_after(seconds):
    timer = threading.Timer(seconds, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
def test_ctrl_c_stops_all(nested):
    endless = clone(MLP).set_params(max_iter=10**6, tol=0, n_iter_no_change=np.inf)
    estimator = OneVsRestClassifier(endless) if nested else endless
    name = "estimator__alpha" if nested else "alpha"
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), _ctrl_c_after(1.0), stacked_fits():
        GridSearchCV(estimator, {name: [0, 1e-3]}, cv=2).fit(X, Y3)
    assert time.monotonic() - start < 20


def test_verbose_fits_print_one_after_the_other(capsys):
    estimators = [clone(MLP).set_params(verbose=True, max_iter=n, alpha=n) for n in (2, 4, 3)]
    _fit_all(estimators, X, Y, 2)
    expected = capsys.readouterr().out.splitlines()
    with stacked_fits():
        _fit_all(estimators, X, Y, 2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected) == 2 * (2 + 4 + 3)
    numbers = [int(line.split()[1].rstrip(",")) for line in lines]
    for before, number in pairwise(numbers):
        assert number in (before + 1, 1)


def test_threads_settings_come_back():
    before = torch.get_num_threads()
    with stacked_fits():
        cross_val_score(MLP, X, Y, cv=3)
    assert torch.get_num_threads() == before


def test_fits_that_hold_much_do_not_wait_for_others(monkeypatch, stack_sizes):
    expected = cross_val_score(MLP, X, Y, cv=6)
    del stack_sizes[:]
    monkeypatch.setattr(_meeting, "_MOST_HELD", 1)
    with stacked_fits():
        np.testing.assert_array_equal(cross_val_score(MLP, X, Y, cv=6), expected)
    # Beside the fit that holds too much, only those in turn may come.
    assert sum(stack_sizes) == 6
    assert max(stack_sizes) <= 1 + torch.get_num_threads()


def test_equal_rows_are_held_once():
    parts = []
    for seed in range(3):
        values = X[:100].copy() if seed < 2 else X[100:200].copy()
        parts.append(
            _data.Samples(
                rows=Rows.of(values, torch.device("cpu")),
                targets=torch.from_numpy(Y[:100].copy())[None],
                weights=None if seed else torch.full((100,), 2.0, dtype=torch.float64),
                indices=[np.arange(10 * seed, 100)],
            )
        )
    joined = _data.join_data([_data.TrainingData(part) for part in parts]).train
    assert joined.rows.X.shape == (200, 64)
    assert joined.targets.shape == (1, 200)  # the same labels with other weights count as others
    for k, part in enumerate(parts):
        rows, target_rows = joined.keep([k]).stack(joined.indices[k : k + 1])
        np.testing.assert_array_equal(joined.rows.X[rows], part.rows.X[part.indices[0]])
        np.testing.assert_array_equal(joined.targets[:, target_rows], part.targets[:, part.indices[0]])
        expected = 2.0 if part.weights is not None else 1.0
        assert (joined.weights[target_rows] == expected).all()
