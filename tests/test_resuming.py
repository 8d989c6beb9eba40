"""Fits after fits: whatever the order, what is left is what scikit-learn would have."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1"),
]

X, Y = load_iris(return_X_y=True)
X, Y = X[::2] / 4, Y[::2]
WEIGHTS = np.random.RandomState(0).uniform(0.2, 2, len(X))
NUMBERS = X @ [1.0, -1.0, 0.5, 2.0]
SPARSE = sp.csr_matrix(np.where(X > 1, X, 0))


def pair(**params):
    params = {"hidden_layer_sizes": (6,), "max_iter": 3, "random_state": 0, "batch_size": 20} | params
    return MLPTorchClassifier(device="cpu", **params), MLPClassifier(**params)


def assert_same(ours, theirs):
    assert (ours.n_iter_, ours.t_) == (theirs.n_iter_, theirs.t_)
    for name in ("loss_curve_", "validation_scores_", "best_loss_"):
        assert_allclose(
            np.array(getattr(ours, name, None), float), np.array(getattr(theirs, name, None), float), rtol=1e-6
        )
    for mine, other in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        assert_allclose(mine, other, rtol=1e-6, atol=1e-9)  # some weights are near 0


ACTIONS = {
    "fit": lambda est: est.fit(X, Y),
    "fit sparse": lambda est: est.fit(SPARSE, Y),
    "fit weights": lambda est: est.fit(X, Y, sample_weight=WEIGHTS),
    "partial_fit": lambda est: est.partial_fit(X, Y, classes=[0, 1, 2]),
    "partial_fit some": lambda est: est.partial_fit(X[:30], Y[:30], classes=[0, 1, 2]),
    "partial_fit sparse": lambda est: est.partial_fit(SPARSE, Y, classes=[0, 1, 2]),
    "warm": lambda est: est.set_params(warm_start=True).fit(X, Y).set_params(warm_start=False),
    "warm sparse": lambda est: est.set_params(warm_start=True).fit(SPARSE, Y).set_params(warm_start=False),
    "alpha": lambda est: est.set_params(alpha=0.5),
    "rate": lambda est: est.set_params(learning_rate_init=0.02),
    "batch": lambda est: est.set_params(batch_size=33),
    "in order": lambda est: est.set_params(shuffle=False),
    "sgd": lambda est: est.set_params(solver="sgd"),
    "adam": lambda est: est.set_params(solver="adam"),
    "tanh": lambda est: est.set_params(activation="tanh"),
    "pickle": lambda est: pickle.loads(pickle.dumps(est)),
    "double": lambda est: [np.multiply(coef, 2, out=coef) for coef in getattr(est, "coefs_", [])] and None,
}


@pytest.mark.parametrize("seed", range(60))
def test_random_sequences(seed):
    random_state = np.random.RandomState(seed)
    estimators = list(pair(solver=random_state.choice(["adam", "sgd"])))
    names = [*random_state.choice(list(ACTIONS), 7), "partial_fit"]
    for name in names:
        for i, estimator in enumerate(estimators):
            estimators[i] = ACTIONS[name](estimator) or estimator
    assert_same(*estimators)


@pytest.mark.parametrize("between", [lambda est: est, lambda est: pickle.loads(pickle.dumps(est))], ids=["", "pickle"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_stream_may_be_dense_and_sparse(solver, between):
    ours, theirs = pair(solver=solver)
    for rows in (X, SPARSE, X, SPARSE):
        ours = between(ours.partial_fit(rows, Y, classes=[0, 1, 2]))
        theirs.partial_fit(rows, Y, classes=[0, 1, 2])
    assert_same(ours, theirs)


@pytest.mark.parametrize("params", [{}, {"solver": "sgd"}, {"solver": "lbfgs"}], ids=str)
def test_a_warning_that_is_an_error_leaves_a_fitted_model(params):
    ours, theirs = pair(**params)
    warnings.simplefilter("error", ConvergenceWarning)  # pytest takes it back
    for _ in range(2):
        for estimator in (ours, theirs):
            with pytest.raises(ConvergenceWarning):
                estimator.fit(X, Y)
            estimator.set_params(warm_start=True)
        assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6)


@pytest.mark.parametrize("dtype", [int, np.float16, bool])
def test_rewritten_weights_of_another_dtype_do_not_round_the_data(dtype):
    y = NUMBERS + 0.25
    model = MLPTorchRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0, device="cpu").fit(X, y)
    model.coefs_ = [np.ones_like(coef, dtype=dtype) for coef in model.coefs_]
    expected = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0).fit(X, y)
    expected.coefs_ = [np.ones_like(coef) for coef in expected.coefs_]
    for estimator in (model, expected):
        estimator.partial_fit(X, y, sample_weight=np.full(len(X), 0.5))
    assert model.coefs_[0].dtype == np.float64
    assert_allclose(model.loss_, expected.loss_, rtol=1e-6)


def test_a_cold_fit_forgets_the_older_one():
    ours, theirs = pair()
    for solver in ("adam", "lbfgs"):
        ours.set_params(solver=solver).fit(X, Y)
        theirs.set_params(solver=solver).fit(X, Y)
    assert ours.t_ == theirs.t_ == 0
    assert not hasattr(ours, "loss_curve_")


def test_a_loss_curve_goes_on_after_lbfgs():
    ours, theirs = pair(warm_start=True)
    for solver in ("adam", "lbfgs", "adam"):
        ours.set_params(solver=solver).fit(X, Y)
        theirs.set_params(solver=solver).fit(X, Y)
    assert len(ours.loss_curve_) == 6
    assert_same(ours, theirs)


def test_validation_rows_need_weight():
    sample_weight = np.zeros(len(X))
    sample_weight[0] = 1.0  # which is not set aside
    for estimator in pair(early_stopping=True, batch_size="auto"):
        with pytest.raises(ValueError, match="Sample weights must contain at least one non-zero number"):
            estimator.fit(X, Y, sample_weight=sample_weight)


def test_a_failed_fit_leaves_the_model_and_its_moments():
    model, untouched = (MLPTorchClassifier((6,), random_state=0, device="cpu") for _ in range(2))
    for estimator in (model, untouched):
        estimator.partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ZeroDivisionError):
        model.set_params(batch_size=20).partial_fit(X, Y, sample_weight=np.eye(1, len(X))[0])
    with pytest.raises(ValueError, match="non-finite"):
        model.set_params(warm_start=True, solver="sgd", learning_rate_init=1e300).fit(X, Y)
    model.set_params(warm_start=False, solver="adam", learning_rate_init=0.001, batch_size="auto")
    for estimator in (model, untouched):
        estimator.partial_fit(X, Y)
    assert model.loss_curve_ == untouched.loss_curve_
    assert model.t_ == untouched.t_
    np.testing.assert_array_equal(model.coefs_[0], untouched.coefs_[0])


def test_a_fit_in_inference_mode_can_go_on_outside():
    model, expected = (MLPTorchClassifier((6,), max_iter=2, random_state=0, device="cpu") for _ in range(2))
    with torch.inference_mode():
        model.fit(X, Y)
        model.predict(X)
    model.partial_fit(X, Y)
    expected.fit(X, Y).partial_fit(X, Y)
    np.testing.assert_array_equal(model.coefs_[0], expected.coefs_[0])


@pytest.mark.parametrize("rows", [X, SPARSE], ids=["dense", "sparse"])
def test_torchs_default_device_and_dtype_do_not_matter(rows):
    model, expected = (MLPTorchClassifier((6,), max_iter=2, random_state=0, device="cpu") for _ in range(2))
    expected.fit(rows, Y)
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float16)
    try:
        model.fit(rows, Y)
        predicted = model.predict_proba(rows)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(predicted, expected.predict_proba(rows))
