"""Fits that fail, diverge or warn: what is raised, and what is left."""

import math
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from sktorch_mlp import MLPTorchClassifier
from tests.estimators.helpers import (
    KINDS,
    LABELS,
    NUMBERS,
    TARGETS,
    WITH_ZEROS,
    X,
    ours,
    outputs,
    pair,
    weights_of,
)
from tests.pairwise import pairwise

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# Divergence ----------------------------------------------------------------------------

DIVERGING = {
    "adam, huge rate": ({"learning_rate_init": 1e300}, X),
    "sgd, unscaled": ({"solver": "sgd", "batch_size": 10}, X * 1e160),
    "sgd, huge rate": ({"solver": "sgd", "learning_rate_init": 1e200, "momentum": 0}, X),
    "lbfgs, unscaled": ({"solver": "lbfgs"}, X * 1e200),
}


@pytest.mark.parametrize(
    ("name", "activation", "format_"),
    pairwise(DIVERGING, ["relu", "identity"], [np.asarray, sp.csr_array]),
    ids=lambda value: getattr(value, "__name__", value),
)
def test_divergence_is_an_error_that_says_what_to_do(name, activation, format_):
    parameters, rows = DIVERGING[name]
    model = ours("regressor", max_iter=50, activation=activation, **parameters)
    where = "after [0-9]+ iterations of L-BFGS" if model.solver == "lbfgs" else r"at epoch [1-9]"
    with pytest.raises(ValueError, match=f"The loss is (nan|inf) {where}.*StandardScaler.*learning_rate_init"):
        model.fit(format_(rows), NUMBERS)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_early_stopping_that_diverges_keeps_the_best_epoch_before():
    """As scikit-learn does, which says nothing of it."""

    def diverges(logits, y):
        n_calls[0] += 1
        loss = torch.nn.functional.cross_entropy(logits, y, reduction="none")
        # 3 batches an epoch, and one of validation; 3 calls check the function
        return loss * math.nan if n_calls[0] > 4 * 3 + 3 else loss

    n_calls = [0]
    expected = ours("classifier", early_stopping=True, max_iter=3, learning_rate_init=0.01).fit(X, LABELS)
    model = ours("classifier", early_stopping=True, max_iter=9, learning_rate_init=0.01, loss=diverges)
    with pytest.warns(ConvergenceWarning, match=r"The loss is nan at epoch 4.*Kept the best epoch before"):
        model.fit(X, LABELS)
    assert model.n_iter_ == 4
    assert model.best_validation_score_ == expected.best_validation_score_
    assert_allclose(weights_of(model), weights_of(expected), rtol=1e-9)  # the loss is taken by autograd


# Failures ------------------------------------------------------------------------------

FAILURES = {
    "sums that overflow": (np.full(X.shape, 1.7e308), None, ValueError),
    "weights that sum to zero": (X, np.repeat([1.0, 0.0, 1.0], [20, 20, 10]), ZeroDivisionError),
}


@pytest.mark.parametrize(
    ("failure", "kind", "solver", "method"), pairwise(FAILURES, KINDS, ["adam", "sgd"], ["partial_fit", "warm start"])
)
def test_a_further_fit_that_fails_leaves_the_model_as_it_was(failure, kind, solver, method):
    rows, sample_weight, error = FAILURES[failure]

    def state(estimator):
        return estimator.n_iter_, estimator.t_, estimator.loss_, estimator.best_loss_, [*estimator.loss_curve_]

    warm_start = method == "warm start"
    model = ours(kind, solver=solver, warm_start=warm_start, learning_rate_init=0.01, shuffle=False)
    model.fit(X, TARGETS[kind])
    module = model.module_
    predicted, before, state_before = outputs(model, X), weights_of(model), state(model)
    again = model.fit if warm_start else model.partial_fit
    with pytest.raises(error):
        again(rows, TARGETS[kind], sample_weight)
    assert_array_equal(outputs(model, X), predicted)
    assert_array_equal(weights_of(model), before)
    assert model.module_ is module
    assert state(model) == state_before

    again(X, TARGETS[kind])
    assert np.isfinite(model.loss_curve_).all()
    assert not np.array_equal(weights_of(model), before)


def test_a_fit_that_fails_leaves_the_moments_of_the_optimizer():
    model, untouched = (MLPTorchClassifier((6,), random_state=0) for _ in range(2))
    for estimator in (model, untouched):
        estimator.partial_fit(X, LABELS, classes=[0, 1, 2])
    with pytest.raises(ZeroDivisionError):
        model.set_params(batch_size=20).partial_fit(X, LABELS, sample_weight=np.eye(1, len(X))[0])
    with pytest.raises(ValueError, match="non-finite"):
        model.set_params(warm_start=True, solver="sgd", learning_rate_init=1e300).fit(X, LABELS)
    model.set_params(warm_start=False, solver="adam", learning_rate_init=0.001, batch_size="auto")
    for estimator in (model, untouched):
        estimator.partial_fit(X, LABELS)
    assert model.loss_curve_ == untouched.loss_curve_
    assert model.t_ == untouched.t_
    assert_array_equal(model.coefs_[0], untouched.coefs_[0])


def test_moments_that_led_to_divergence_are_forgotten():
    model, fresh = (ours("regressor", learning_rate_init=0.01).fit(X, NUMBERS) for _ in range(2))
    with pytest.raises(ValueError, match="non-finite"):
        model.partial_fit(X * 1e200, NUMBERS)
    fresh._state.optimizer = None
    for estimator in (model, fresh):
        estimator.set_params(shuffle=False).partial_fit(X, NUMBERS)
    assert_array_equal(weights_of(model), weights_of(fresh))


def test_an_epoch_that_fails_leaves_rates_and_random_streams_as_they_were():
    n_calls = iter(range(100))

    def cross_entropy(logits, y):
        return torch.nn.functional.cross_entropy(logits, y, reduction="none")

    def fails_once(logits, y):
        if next(n_calls) == 10:  # 3 batches and 3 checks an epoch, the latter after the first batch
            raise RuntimeError("the second batch of the second epoch")
        return cross_entropy(logits, y)

    curves = []
    for loss in (fails_once, cross_entropy):
        model = ours(
            "classifier", solver="sgd", momentum=0.0, learning_rate="one_cycle", dropout=0.3, loss=loss, shuffle=False
        )
        model.partial_fit(X, LABELS, classes=[0, 1, 2])
        if loss is fails_once:
            with pytest.raises(RuntimeError):
                model.partial_fit(X, LABELS)
        curves.append(model.partial_fit(X, LABELS).loss_curve_)
    assert_allclose(*curves, rtol=1e-12)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("sizes", [(6,), (5, 5), (), 4], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_further_training_refuses_other_layers(kind, sizes, method):
    model = ours(kind, warm_start=True).fit(X, TARGETS[kind])
    before = weights_of(model)
    model.set_params(hidden_layer_sizes=sizes)
    with pytest.raises(ValueError, match=r"layers of \[4, 5, [13]\] units.*hidden_layer_sizes.*warm_start=False"):
        getattr(model, method)(X, TARGETS[kind])
    assert_array_equal(weights_of(model), before)
    model.set_params(warm_start=False).fit(X, TARGETS[kind])
    assert_array_equal(weights_of(model), weights_of(ours(kind, hidden_layer_sizes=sizes).fit(X, TARGETS[kind])))


@pytest.mark.parametrize(("old", "new"), [(None, "batch"), ("batch", None), ("batch", "layer"), ("layer", "batch")])
def test_further_training_refuses_another_normalization(old, new):
    model = ours("classifier", normalization=old, warm_start=True).fit(X, LABELS)
    with pytest.raises(ValueError, match=rf"normalization={old!r}, but {new!r} is asked for.* warm_start=False"):
        model.set_params(normalization=new).fit(X, LABELS)


# Warnings ------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"solver": "sgd"}, {"solver": "lbfgs"}], ids=["adam", "sgd", "lbfgs"])
def test_a_warning_that_is_an_error_leaves_a_fitted_model(params):
    model, reference = pair("classifier", max_iter=3, **params)
    warnings.simplefilter("error", ConvergenceWarning)  # pytest takes it back
    for _ in range(2):
        for estimator in (model, reference):
            with pytest.raises(ConvergenceWarning):
                estimator.fit(X, LABELS)
            estimator.set_params(warm_start=True)
        # scipy's line search makes more of rounding than the stochastic solvers do.
        assert_allclose(model.predict_proba(X), reference.predict_proba(X), rtol=1e-6)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_warnings_point_at_the_line_that_calls_fit(solver):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours("classifier", solver=solver, max_iter=1, batch_size=1000).fit(X, LABELS)
        if solver == "adam":
            ours("classifier", batch_size=1000).partial_fit(X, LABELS, classes=[0, 1, 2])
    assert len(caught) == (3 if solver == "adam" else 1)
    assert {warning.filename for warning in caught} == {__file__}


# What is around a fit ------------------------------------------------------------------


def test_a_fit_in_inference_mode_can_be_trained_further_outside():
    model, expected = (MLPTorchClassifier((6,), max_iter=2, random_state=0) for _ in range(2))
    with torch.inference_mode():
        model.fit(X, LABELS)
        model.predict(X)
    model.partial_fit(X, LABELS)
    expected.fit(X, LABELS).partial_fit(X, LABELS)
    assert_array_equal(model.coefs_[0], expected.coefs_[0])


@pytest.mark.parametrize("rows", [X, sp.csr_array(WITH_ZEROS)], ids=["dense", "sparse"])
def test_torchs_default_device_and_dtype_do_not_matter(rows):
    model, expected = (MLPTorchClassifier((6,), max_iter=2, random_state=0) for _ in range(2))
    expected.fit(rows, LABELS)
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float16)
    try:
        model.fit(rows, LABELS)
        predicted = model.predict_proba(rows)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert_array_equal(predicted, expected.predict_proba(rows))


def test_a_scorer_leaves_the_threads_of_training_alone(two_torch_threads):
    seen = []

    def scorer(estimator, X, y):
        seen.append(torch.get_num_threads())
        return estimator.score(X, y)

    ours("classifier", scoring=scorer).fit(X, LABELS, X_val=X, y_val=LABELS)
    assert seen == [1] * 4
    assert torch.get_num_threads() == 2
