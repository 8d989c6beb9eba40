"""L-BFGS: scipy's, on the loss over all rows, with records, observers and interruption."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._nn.losses import LogLoss
from sktorch_mlp._training.lbfgs import minimize_lbfgs, train_lbfgs
from tests.training.helpers import CPU, N_ROWS, OPTIONS, UNITS, X, Y, make_data, make_fit

LBFGS = replace(OPTIONS, batch_size=N_ROWS, max_iter=15, tol=1e-5)


def _quartic(x):
    return float(((x - 3) ** 4).sum()), 4 * (x - 3) ** 3


class _Interrupted:
    """An objective that is interrupted at a call."""

    def __init__(self, at):
        self.n_calls, self.at = 0, at

    def __call__(self, x):
        self.n_calls += 1
        if self.n_calls == self.at:
            raise KeyboardInterrupt
        return _quartic(x)


@pytest.mark.parametrize("limit", [{}, {"max_iter": 3}, {"max_fun": 4}, {"tol": 0.5}], ids=str)
def test_limits_match_scipy(limit):
    options = replace(OPTIONS, **{"max_iter": 100, "max_fun": 1000, "tol": 1e-9, **limit})
    result = minimize_lbfgs(_quartic, np.zeros(2), options)
    expected = scipy.optimize.minimize(
        _quartic, np.zeros(2), method="L-BFGS-B", jac=True,
        options={"maxiter": options.max_iter, "maxfun": options.max_fun, "gtol": options.tol},
    )  # fmt: skip
    assert (result.nit, result.nfev, result.status, result.fun) == (
        expected.nit, expected.nfev, expected.status, expected.fun,
    )  # fmt: skip
    np.testing.assert_array_equal(result.x, expected.x)
    assert result.interrupted is False


def test_ctrl_c_keeps_the_last_iteration():
    objective = _Interrupted(at=8)
    result = minimize_lbfgs(objective, np.zeros(2), replace(OPTIONS, max_iter=100, tol=1e-12))
    assert result.interrupted
    assert result.nit >= 1
    assert result.fun == _quartic(result.x)[0] < _quartic(np.zeros(2))[0]


def test_ctrl_c_in_the_first_iteration_keeps_the_start():
    result = minimize_lbfgs(_Interrupted(at=1), np.ones(2), OPTIONS)
    assert result.interrupted
    assert result.nit == 0
    np.testing.assert_array_equal(result.x, np.ones(2))


def test_a_stop_iteration_of_the_callback_is_its_own():
    """scipy would take it for the end."""
    error = StopIteration("mine")

    def on_iteration(x, value):
        raise error

    with pytest.raises(StopIteration) as raised:
        minimize_lbfgs(_quartic, np.zeros(2), OPTIONS, on_iteration)
    assert raised.value is error


def test_each_iteration_is_told_and_may_be_the_last():
    told = []

    def on_iteration(x, value):
        told.append((x.copy(), value))
        return len(told) == 3

    result = minimize_lbfgs(_quartic, np.zeros(2), replace(OPTIONS, max_iter=100, tol=1e-12), on_iteration)
    assert len(told) == result.nit == 3
    assert (result.status, result.interrupted) == (0, False)
    for x, value in told:
        assert value == _quartic(x)[0]
    np.testing.assert_array_equal(result.x, told[-1][0])


# Networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_a_network_matches_sklearn(weighted):
    if weighted:
        rows = np.repeat(np.arange(N_ROWS), np.random.RandomState(0).randint(1, 3, N_ROWS))
        weights = torch.from_numpy(np.bincount(rows).astype(float))
    else:
        rows, weights = np.arange(N_ROWS), None
    theirs = MLPClassifier(UNITS[1:-1], solver="lbfgs", alpha=LBFGS.alpha, max_iter=15, tol=1e-5, random_state=0)
    with pytest.warns(ConvergenceWarning):
        theirs.fit(X[rows], Y[rows])
    data = make_data()
    data.train.weights = weights
    fit = make_fit(None, LBFGS, data=data)
    result = train_lbfgs(fit)
    assert result.nit == theirs.n_iter_ == 15
    # Line searches amplify rounding.
    assert result.fun == pytest.approx(theirs.loss_, rel=1e-6)
    coefs, _ = fit.network.views(fit.network.flat.detach())
    for coef, expected in zip(coefs, theirs.coefs_, strict=True):
        np.testing.assert_allclose(coef[0].T, expected, rtol=1e-3, atol=1e-5)


class _InterruptedLoss(LogLoss):
    """A loss that is interrupted at a call, after the parameters of the next trial have been set."""

    n_calls = 0

    def to_delta_(self, predictions, targets, loss_terms):
        self.n_calls += 1
        if self.n_calls == 8:
            raise KeyboardInterrupt
        super().to_delta_(predictions, targets, loss_terms)


def test_ctrl_c_leaves_the_weights_of_the_last_iteration():
    fit = make_fit(None, LBFGS, loss=_InterruptedLoss(10))
    result = train_lbfgs(fit)
    assert result.interrupted
    np.testing.assert_array_equal(fit.network.flat[0].detach(), result.x)
    shorter = make_fit(None, replace(LBFGS, max_iter=result.nit))
    train_lbfgs(shorter)
    assert torch.equal(fit.network.flat, shorter.network.flat)


def test_iterations_are_recorded_as_epochs():
    fit = make_fit(None, replace(LBFGS, max_iter=4))
    fit.progress.n_epochs_before = 2
    result = train_lbfgs(fit)
    assert [record["epoch"] for record in fit.progress.records] == [3, 4, 5, 6]
    losses = [record["loss"] for record in fit.progress.records]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == result.fun
    assert all(record["seconds"] > 0 for record in fit.progress.records)


class _Observer:
    """Keeps the weights that it is shown, and stops after some iterations."""

    def __init__(self, n_iter):
        self.n_iter, self.n_begun, self.weights = n_iter, 0, []

    def on_epoch_begin(self):
        self.n_begun += 1

    def on_epoch_end(self, network, k):
        self.weights.append(network.flat[k].clone())
        return len(self.weights) == self.n_iter


def test_an_observer_sees_the_weights_of_each_iteration_and_may_stop():
    observer = _Observer(3)
    fit = make_fit(None, LBFGS, observer=observer)
    result = train_lbfgs(fit)
    assert result.nit == observer.n_begun == len(observer.weights) == 3
    assert torch.equal(fit.network.flat[0], observer.weights[-1])
    for n, weights in enumerate(observer.weights, start=1):
        shorter = make_fit(None, replace(LBFGS, max_iter=n))
        train_lbfgs(shorter)
        assert torch.equal(shorter.network.flat[0], weights)


def test_casting_by_batch_gives_the_same_numbers():
    flats = []
    for copy_bytes in (2**24, 0):
        rows = Rows.from_array(X, CPU, np.dtype(np.float32), copy_bytes=copy_bytes)
        fit = make_fit(None, replace(LBFGS, max_iter=3), data=make_data().with_rows(rows), dtype=torch.float32)
        train_lbfgs(fit)
        flats.append(fit.network.flat.detach())
    assert flats[0].dtype == torch.float32
    assert torch.equal(*flats)
