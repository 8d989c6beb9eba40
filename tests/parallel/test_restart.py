"""A fit whose stack has failed begins again, as if it had never trained."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state

from sktorch_mlp import stacked_fits
from sktorch_mlp._data.shuffling import Shuffler
from sktorch_mlp._parallel.batcher import PendingFit
from sktorch_mlp._training.loop import train
from tests.parallel.fits import FILTERS, MLP, X, Y, assert_same_fits, fits_of, in_parallel, untrained_fit

pytestmark = [pytest.mark.usefixtures("one_trainer"), *map(pytest.mark.filterwarnings, FILTERS)]

RESTARTED = {
    "adam": {},
    "sgd with momentum": {"solver": "sgd", "learning_rate_init": 0.1},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling"},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.5, "n_iter_no_change": 1},
    "adaptive adamw": {"solver": "adamw", "learning_rate": "adaptive", "tol": 0.5, "n_iter_no_change": 1},
    "cosine": {"learning_rate": "cosine", "warmup_fraction": 0.4},
    "one_cycle": {"solver": "adamw", "learning_rate": "one_cycle"},
    "dropout": {"dropout": 0.3},
    "batch normalization": {"normalization": "batch"},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 1, "learning_rate_init": 0.05},
}


def _resumed_fit(params):
    """Fit of the third call of partial_fit, whose optimizer has moments and whose curves have begun."""
    model = clone(MLP).set_params(**params, random_state=0)
    for _ in range(2):
        model.partial_fit(X, Y, classes=np.unique(Y))
    return untrained_fit(lambda: model.partial_fit(X, Y))


def _new_fit(params):
    return untrained_fit(lambda: clone(MLP).set_params(**params).fit(X, Y))


def _assert_equal_fits(fit, expected):
    for name in ("flat", "running"):
        assert torch.equal(getattr(fit.network, name), getattr(expected.network, name))
    for name in ("loss_curve", "validation_scores", "n_iter", "n_rows_seen", "best_loss", "best_n_iter", "stop_reason"):
        assert getattr(fit.progress, name) == getattr(expected.progress, name)
    rates = [[record["learning_rate"] for record in f.progress.records] for f in (fit, expected)]
    assert rates[0] == rates[1]
    moments = [f.optimizer.state_dict() for f in (fit, expected)]
    for name in fit.optimizer.moments:
        assert torch.equal(moments[0][name], moments[1][name])
    assert moments[0]["schedules"] == moments[1]["schedules"]


@pytest.mark.parametrize(
    ("name", "make_fit"),
    [
        *(pytest.param(name, _new_fit, id=f"{name}, new") for name in RESTARTED),
        # partial_fit holds out no rows
        *(pytest.param(name, _resumed_fit, id=f"{name}, resumed") for name in RESTARTED if name != "early stopping"),
    ],
)
def test_a_fit_that_restarts_is_as_new(name, make_fit):
    """After it has trained alone, and after it has trained in a stack. What comes out is the same to the last bit."""
    fit, other, expected = (make_fit(RESTARTED[name]) for _ in range(3))
    start = fit.network.flat.detach().clone()
    pending = [PendingFit(one, None) for one in (fit, other)]
    train([expected])
    train([fit])
    assert not torch.equal(fit.network.flat, start)
    pending[0].restart()
    assert torch.equal(fit.network.flat, start)
    train([fit, other])
    for _ in range(2):  # training leaves the state that is kept as it is
        for one in pending:
            one.restart()
            train([one.fit])
            _assert_equal_fits(one.fit, expected)


@pytest.mark.parametrize("largest", [1, 2])
@pytest.mark.parametrize("name", ["adam", "adaptive", "cosine", "dropout", "early stopping"])
def test_a_stack_that_is_too_large_is_split(name, largest, stacks):
    """It fails late, when weights, moments, schedules, random streams and curves have moved on."""
    fits = fits_of(MLP, [{**RESTARTED[name], "random_state": seed} for seed in range(2)], X, Y)
    expected = [fit() for fit in fits]
    stacks.largest = largest
    with stacked_fits():
        fitted = in_parallel(fits)
    assert_same_fits(fitted, expected)
    assert max(stacks.failed) > largest
    assert sum(stacks.sizes) == 6
    assert max(stacks.sizes) == largest


def _interrupts_the_third_epoch_of_one(estimator, X, y):
    if estimator.alpha == 0.5 and estimator.n_iter_ == 3:
        raise KeyboardInterrupt
    return estimator.score(X, y)


@pytest.mark.filterwarnings("ignore:Training interrupted by user")
def test_an_interrupt_of_one_fit_is_not_one_of_the_others(stacks):
    """Ctrl-C is for the main thread; that of a scorer or a callback is its own."""
    base = clone(MLP).set_params(early_stopping=True, n_iter_no_change=50, scoring=_interrupts_the_third_epoch_of_one)
    fits = fits_of(base, [{"alpha": 0.0}, {"alpha": 0.5}, {"alpha": 1.0}], X, Y)
    expected = [fit() for fit in fits]
    with stacked_fits():
        fitted = in_parallel(fits)
    assert_same_fits(fitted, expected)
    assert len({model.n_iter_ for model in fitted}) == 2
    assert max(stacks.failed) > 1


def test_going_back_leaves_the_global_stream_of_numpy():
    """Others may have drawn from it meanwhile."""
    for stream, goes_back in ((np.random.RandomState(0), True), (check_random_state(None), False)):
        shuffler = Shuffler(np.arange(5), stream)
        state, before = shuffler.state_dict(), stream.get_state()[2]
        first = shuffler.next_epoch()
        shuffler.load_state_dict(state)
        assert (stream.get_state()[2] == before) == goes_back
        assert (shuffler.next_epoch().tolist() == first.tolist()) >= goes_back
