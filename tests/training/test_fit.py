"""A fit: its state, and which fits can train in one stack."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sktorch_mlp._nn.losses import CallableLoss, HuberLoss, LogLoss
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._training.loop import train
from sktorch_mlp._training.optimizers import SGD, TorchOptimizer
from sktorch_mlp._training.schedules import Adaptive, Cosine, OneCycle, Schedule
from tests.training.helpers import N_ROWS, OPTIONS, X, Y, adam, adamw, invscaling, make_data, make_fit, sgd

TWO_EPOCHS = replace(OPTIONS, max_iter=2, tol=0.0)


def _torch_optimizer(k):
    return TorchOptimizer([Cosine(0.01, 9, 0.2)], torch.optim.Adamax, {})


#: Fits that together have all kinds of state.
FITS = {
    "adam": lambda: make_fit(adam(1), TWO_EPOCHS),
    "adamw, planned rates": lambda: make_fit(adamw(0), TWO_EPOCHS),
    "adaptive rates": lambda: make_fit(
        SGD([Adaptive(0.01)], [0.9], True), replace(TWO_EPOCHS, tol=9.0, n_iter_no_change=0)
    ),
    "invscaling": lambda: make_fit(invscaling(0), TWO_EPOCHS),
    "optimizer of PyTorch": lambda: make_fit(_torch_optimizer(0), TWO_EPOCHS),
    "batch norm, dropout": lambda: make_fit(adam(1), TWO_EPOCHS, normalization="batch", dropout=0.3),
    "weights, validation": lambda: make_fit(sgd(0), TWO_EPOCHS, data=make_data(weighted=True, validation=True)),
    "early stopping": lambda: make_fit(
        sgd(1), replace(TWO_EPOCHS, early_stopping=True), data=make_data(validation=True), normalization="batch"
    ),
    "sparse": lambda: make_fit(adam(1), TWO_EPOCHS, data=make_data(sparse=True)),
}


def _numbers(fit):
    """Everything that training has reached, without the seconds it took."""
    progress = fit.progress.state_dict()
    progress["records"] = [{**record, "seconds": 0.0} for record in progress["records"]]
    weights = [tensor.tolist() for tensor in fit.network.state_dict().values()]
    moments = [getattr(fit.optimizer, name).tolist() for name in fit.optimizer.moments]
    return progress, weights, moments, fit.optimizer.settings_key(0), fit.shuffler.state_dict()["rows"].tolist()


@pytest.mark.parametrize("name", FITS)
def test_a_fit_goes_on_from_its_state_as_it_did(name):
    """Two epochs, then two more; and these again from the state in between, also in a fit that has not trained."""
    fit = FITS[name]()
    train([fit])
    state, at_state = fit.state_dict(), _numbers(fit)
    train([fit])
    expected = _numbers(fit)
    assert expected != at_state
    for restored in (fit, fit, FITS[name]()):
        restored.load_state_dict(state)
        assert _numbers(restored) == at_state
        train([restored])
        assert _numbers(restored) == expected


@pytest.mark.parametrize("name", ["adam", "batch norm, dropout", "early stopping"])
def test_fits_of_a_stack_go_on_from_their_states(name):
    """As a stack that has failed is trained again in two halves."""
    fits = [FITS[name]() for _ in range(2)]
    train(fits)
    states = [fit.state_dict() for fit in fits]
    train(fits)
    expected = [_numbers(fit) for fit in fits]
    for fit, state in zip(fits, states, strict=True):
        fit.load_state_dict(state)
    train(fits)
    assert [_numbers(fit) for fit in fits] == expected


def test_the_state_of_a_new_fit_is_that_of_its_start():
    fit = FITS["adam"]()
    state, before = fit.state_dict(), fit.network.flat.detach().clone()
    train([fit])
    expected = _numbers_without_moments(fit)
    fit.load_state_dict(state)
    assert torch.equal(fit.network.flat, before)
    assert fit.optimizer.first_moment is None
    train([fit])
    assert _numbers_without_moments(fit) == expected


def _numbers_without_moments(fit):
    numbers = _numbers(fit)
    return numbers[1], numbers[0]["loss_curve"]


def test_a_fit_without_optimizer_has_a_state():
    fit = make_fit(None)
    state = fit.state_dict()
    assert state["optimizer"] is None
    fit.network.flat.data.zero_()
    fit.load_state_dict(state)
    assert fit.network.flat.count_nonzero() > 0


# Which fits train together --------------------------------------------------------------


def _fit(make_optimizer=lambda: adam(0), options=OPTIONS, **kwargs):
    return make_fit(make_optimizer(), options, **kwargs)


def _on_rows(n_rows, **kwargs):
    return make_data(train_rows=np.arange(n_rows), **kwargs)


def _with_validation_rows(n_rows):
    data = make_data(validation=True)
    data.validation = replace(data.validation, indices=[data.validation.indices[0][:n_rows]])
    return data


SAME = {
    "settings of the optimizer": lambda: _fit(lambda: adam(2)),
    "schedule": lambda: _fit(lambda: type(adam(0))([OneCycle(0.1, 3, 0.3)], [0.9], [0.99], [1e-8])),
    "options": lambda: _fit(options=replace(OPTIONS, alpha=1.0, tol=0.5, max_iter=3, verbose=True)),
    "weights": lambda: _fit(data=make_data(weighted=True)),
    "fewer rows, as many batches": lambda: _fit(data=_on_rows(140)),
    "seed": lambda: _fit(seed=5),
}
OTHER = {
    "optimizer": lambda: _fit(lambda: sgd(0)),
    "activation": lambda: _fit(activations="tanh"),
    "loss": lambda: _fit(loss=HuberLoss(10)),
    "batch size": lambda: _fit(options=replace(OPTIONS, batch_size=31)),
    "number of batches": lambda: _fit(data=_on_rows(128)),
    "validation": lambda: _fit(data=make_data(validation=True, train_rows=np.arange(N_ROWS))),
    "normalization": lambda: _fit(normalization="batch"),
    "dropout": lambda: _fit(dropout=0.5),
}


@pytest.mark.parametrize("name", SAME)
def test_fits_that_differ_in_settings_and_data_can_train_together(name):
    assert SAME[name]().stack_key() == _fit().stack_key()


@pytest.mark.parametrize("name", OTHER)
def test_fits_that_differ_in_shape_cannot_train_together(name):
    assert OTHER[name]().stack_key() != _fit().stack_key()
    assert OTHER[name]().stack_key() is not None


def test_fits_of_one_batch_may_differ_in_its_size():
    """Each has all its rows in one batch."""
    keys = [_fit(options=replace(OPTIONS, batch_size=n), data=_on_rows(n)).stack_key() for n in (100, 150)]
    assert keys[0] == keys[1]
    assert keys[0] != _fit().stack_key()


@pytest.mark.parametrize("kind", ["dropout", "coupled rows"])
def test_masks_and_coupled_rows_need_equal_numbers_of_rows(kind):
    """The rows that fill up a shorter batch have no weight, but they would take masks, and enter the loss of a batch."""

    def key(data):
        loss = CallableLoss(nn.functional.cross_entropy, LogLoss(10), has_sample_weight=False)
        return _fit(data=data, **({"dropout": 0.5} if kind == "dropout" else {"loss": loss})).stack_key()

    assert key(_on_rows(150)) == key(_on_rows(150))
    assert key(_on_rows(150)) != key(_on_rows(140))
    assert key(_with_validation_rows(40)) == key(_with_validation_rows(40)) != key(_with_validation_rows(39))


def test_held_out_rows_and_validation_sets_do_not_train_together():
    held_out = make_data(validation=True)
    own = replace(held_out, validation=replace(held_out.validation, targets=held_out.validation.targets.clone()))
    assert _fit(data=held_out).stack_key() != _fit(data=own).stack_key()
    assert _fit(data=held_out).stack_key() == _fit(data=_with_validation_rows(30)).stack_key()


class _Observer:
    def __init__(self, *, trains_alone):
        self.trains_alone = trains_alone


def test_some_fits_train_alone():
    sparse = make_data(validation=True)
    sparse.validation = make_data(sparse=True).train
    alone = [
        _fit(data=make_data(sparse=True)),
        _fit(data=sparse),
        _fit(lambda: _torch_optimizer(0)),
        _fit(lambda: None),
        _fit(observer=_Observer(trains_alone=True)),
    ]
    assert [fit.stack_key() for fit in alone] == [None] * 5
    assert _fit(observer=_Observer(trains_alone=False)).stack_key() == _fit().stack_key()


def test_work_grows_with_the_network_and_the_batch():
    fit = _fit()
    n_parameters = 64 * 12 + 12 + 12 * 8 + 8 + 8 * 10 + 10
    n_units = 64 + 2 * (12 + 8 + 10)
    assert fit.work_bytes() == 8 * (5 * n_parameters + 32 * n_units)
    assert fit.n_rows == len(X) == len(Y)
    fit.network = StackedMLP(replace(fit.network.spec, dtype=torch.float32))
    assert fit.work_bytes() == 4 * (5 * n_parameters + 32 * n_units)


def test_schedules_of_the_optimizer_are_part_of_the_state():
    fit = _fit(lambda: SGD([Schedule(0.5)], [0.0], True))
    state = fit.state_dict()
    fit.optimizer.schedules[0].learning_rate = 0.1
    fit.load_state_dict(state)
    assert fit.optimizer.schedules[0].learning_rate == 0.5
