"""Ctrl-C in a fit: a warning, and a model of the epochs before."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.estimators.helpers import KINDS, LABELS, NUMBERS, SMALL, TARGETS, X, ours, weights_of
from tests.pairwise import pairwise

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

STEPS = 3  # of an epoch: 50 rows in batches of 20
SOLVERS = ["adam", "sgd"]


def fit_interrupted(estimator, *args, method="fit"):
    """Train, and expect the warning of an interruption at the line below, and no other."""
    with pytest.warns(UserWarning, match="Training interrupted by user") as record:
        getattr(estimator, method)(*args)
    assert [warning.filename for warning in record] == [__file__]
    return estimator


@pytest.mark.parametrize(("kind", "solver", "early_stopping"), pairwise(KINDS, SOLVERS, [False, True]))
def test_the_epochs_before_are_kept(kind, solver, early_stopping, interrupt_at):
    settings = {"solver": solver, "early_stopping": early_stopping, "learning_rate_init": 0.01}
    expected = ours(kind, **settings, max_iter=2).fit(X, TARGETS[kind])
    interrupt_at(2 * STEPS + 1)
    model = fit_interrupted(ours(kind, **settings, max_iter=9), X, TARGETS[kind])
    assert_array_equal(weights_of(model), weights_of(expected))
    assert model.n_iter_ == 2
    assert model.loss_curve_ == expected.loss_curve_
    assert model.validation_scores_ == expected.validation_scores_
    assert_array_equal(model.predict(X), expected.predict(X))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_partial_fit_resumes_after_an_interruption(kind, solver, interrupt_at):
    settings = {"solver": solver, "shuffle": False, "max_iter": 5}
    expected = ours(kind, **settings).fit(X, TARGETS[kind])
    interrupt_at(2 * STEPS + 1)
    model = fit_interrupted(ours(kind, **settings), X, TARGETS[kind])
    for _ in range(3):
        model.partial_fit(X, TARGETS[kind])
    assert_array_equal(weights_of(model), weights_of(expected))
    assert model.loss_curve_ == expected.loss_curve_


@pytest.mark.parametrize(
    ("step", "method", "early_stopping"),
    [
        *((step, "fit", early_stopping) for step in (1, 2, STEPS + 2) for early_stopping in (False, True)),
        *((step, "partial_fit", False) for step in (1, 2)),
    ],
)
def test_an_interruption_within_an_epoch(step, method, early_stopping, interrupt_at):
    model = ours("regressor", learning_rate_init=0.01, early_stopping=early_stopping, warm_start=True)
    interrupt_at(step)
    fit_interrupted(model, X, NUMBERS, method=method)
    assert np.isfinite(model.predict(X)).all()
    assert model.n_iter_ == len(model.loss_curve_) == step // (STEPS + 1)
    before = weights_of(model)
    model.fit(X, NUMBERS)  # the warm start resumes
    assert model.n_iter_ == SMALL["max_iter"]
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert not np.array_equal(weights_of(model), before)


@pytest.mark.parametrize("evaluation", [4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_lbfgs_keeps_its_last_iteration(kind, evaluation, interrupt_at):
    interrupt_at(evaluation)
    model = fit_interrupted(ours(kind, solver="lbfgs", max_iter=50, warm_start=True), X, TARGETS[kind])
    assert 0 < model.n_iter_ < evaluation
    expected = ours(kind, solver="lbfgs", max_iter=model.n_iter_).fit(X, TARGETS[kind])
    assert_array_equal(weights_of(model), weights_of(expected))
    assert model.loss_ == expected.loss_
    loss = model.loss_
    assert model.fit(X, TARGETS[kind]).loss_ < loss  # the warm start resumes


def test_lbfgs_interrupted_at_once_keeps_the_initial_weights(interrupt_at):
    interrupt_at(1)
    model = fit_interrupted(ours("classifier", solver="lbfgs"), X, LABELS)
    assert model.n_iter_ == 0
    assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    stream = np.random.RandomState(SMALL["random_state"])
    assert_array_equal(model.coefs_[0], stream.uniform(-((6 / 9) ** 0.5), (6 / 9) ** 0.5, (4, 5)))
