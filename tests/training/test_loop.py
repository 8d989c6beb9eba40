"""The epoch loop: fits stop where scikit-learn stops, and train in a stack as each of them alone."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._data.samples import Samples, TrainingData
from sktorch_mlp._data.shuffling import Shuffler
from sktorch_mlp._nn.initialization import initial_parameters
from sktorch_mlp._training.adam import Adam
from sktorch_mlp._training.loop import train
from sktorch_mlp._training.optimizers import SGD
from sktorch_mlp._training.schedules import Adaptive, InverseScaling, Schedule
from sktorch_mlp._training.steps import Trainer
from tests.pairwise import pairwise
from tests.training.helpers import (
    CPU,
    DIFFERENT,
    N_ROWS,
    OPTIMIZERS,
    OPTIONS,
    UNITS,
    WEIGHTS,
    X,
    Y,
    adam,
    assert_same_training,
    make_data,
    make_fit,
    sgd,
)

# One fit against scikit-learn ----------------------------------------------------------

SKLEARN = {
    "adam": ({"learning_rate_init": 0.01}, lambda: Adam([Schedule(0.01)], [0.9], [0.999], [1e-8])),
    "sgd": ({"solver": "sgd", "learning_rate_init": 0.1}, lambda: SGD([Schedule(0.1)], [0.9], True)),
    "adaptive": (
        {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.05, "nesterovs_momentum": False},
        lambda: SGD([Adaptive(0.05)], [0.9], False),
    ),
    "invscaling": (
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5, "power_t": 0.2, "momentum": 0.0},
        lambda: SGD([InverseScaling(0.5, 0.2)], [0.0], True),
    ),
}


def _fit_by_sklearn(params, options):
    model = MLPClassifier(
        UNITS[1:-1], alpha=options.alpha, batch_size=options.batch_size, max_iter=options.max_iter, tol=options.tol,
        n_iter_no_change=options.n_iter_no_change, early_stopping=options.early_stopping, validation_fraction=0.2,
        random_state=0, **params,
    )  # fmt: skip
    return model.fit(X, Y)


def _sklearns_data(random_state, *, early_stopping):
    """The data of scikit-learn's fit, which holds rows out without stratifying more than two classes."""
    data = make_data()
    if not early_stopping:
        return data
    split = train_test_split(np.arange(N_ROWS), random_state=random_state, test_size=0.2)
    return TrainingData(*(replace(data.train, indices=[rows]) for rows in split))


@pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning")
@pytest.mark.parametrize(("tol", "n_iter_no_change"), [(1e-4, 10), (0.02, 1), (0.02, 3)])
@pytest.mark.parametrize("early_stopping", [False, True], ids=["loss", "score"])
@pytest.mark.parametrize("solver", SKLEARN)
def test_a_fit_matches_sklearn(solver, early_stopping, tol, n_iter_no_change):
    params, make_optimizer = SKLEARN[solver]
    options = replace(OPTIONS, max_iter=40, tol=tol, n_iter_no_change=n_iter_no_change, early_stopping=early_stopping)
    theirs = _fit_by_sklearn(params, options)
    random_state = np.random.RandomState(0)
    weights = initial_parameters(UNITS, "relu", random_state)
    data = _sklearns_data(random_state, early_stopping=early_stopping)
    fit = make_fit(make_optimizer(), options, data=data, shuffler=Shuffler(data.train.indices[0], random_state))
    fit.network.set_weights(0, *weights)
    train([fit])

    assert fit.progress.n_iter == theirs.n_iter_
    assert fit.progress.n_rows_seen == theirs.t_
    np.testing.assert_allclose(fit.progress.loss_curve, theirs.loss_curve_, rtol=1e-9)
    np.testing.assert_array_equal(fit.progress.validation_scores, theirs.validation_scores_ or [])
    ours = [coef[0].T for coef in fit.network.views(fit.network.flat.detach())[0]]
    for coef, expected in zip(ours, theirs.coefs_, strict=True):
        # Products sum in another order: rounding, grown over the steps.
        np.testing.assert_allclose(coef, expected, rtol=1e-7, atol=1e-9)
    is_converged = theirs.n_iter_ < options.max_iter
    assert fit.progress.stop_reason == ("converged" if is_converged else "max_iter")


def test_early_stopping_keeps_the_best_epoch():
    options = replace(OPTIONS, early_stopping=True, tol=0.0, n_iter_no_change=4, max_iter=40)
    fit = make_fit(adam(3), options, data=make_data(validation=True))
    train([fit])
    progress = fit.progress
    best = int(np.argmax(progress.validation_scores))
    assert progress.best_validation_score == progress.validation_scores[best]
    assert progress.best_n_iter == best + 1 < progress.n_iter
    as_long = make_fit(adam(3), replace(options, max_iter=best + 1), data=make_data(validation=True))
    train([as_long])
    assert torch.equal(fit.network.flat, as_long.network.flat)


def test_with_early_stopping_the_running_statistics_are_those_of_the_best_epoch():
    options = replace(OPTIONS, early_stopping=True, n_iter_no_change=2)
    fits = [make_fit(adam(3), options, data=make_data(validation=True), normalization="batch") for _ in range(2)]
    train(fits[:1])
    fits[1].options = replace(options, max_iter=fits[0].progress.best_n_iter)
    train(fits[1:])
    assert fits[0].progress.n_iter > fits[1].progress.n_iter
    assert torch.equal(fits[0].network.running, fits[1].network.running)


def test_sparse_rows_train_as_dense_ones():
    for kind in ({}, {"weighted": True, "validation": True}):
        dense, sparse = (make_fit(adam(1), data=make_data(sparse=sparse, **kind)) for sparse in (False, True))
        train([dense])
        train([sparse])
        np.testing.assert_allclose(sparse.progress.loss_curve, dense.progress.loss_curve, rtol=1e-9)
        np.testing.assert_array_equal(sparse.progress.validation_scores, dense.progress.validation_scores)
        # The first layer lies in another order in memory.
        for ours, expected in zip(sparse.network.views(), dense.network.views(), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("params", "validation"), [({}, False), ({"early_stopping": True}, True), ({"batch_size": N_ROWS}, False)], ids=str
)
def test_casting_by_batch_gives_the_same_numbers(params, validation, order):
    flats = []
    for copy_bytes in (2**24, 0):
        data = make_data(validation=validation)
        rows = Rows.from_array(np.asarray(X, order=order), CPU, np.dtype(np.float32), copy_bytes=copy_bytes)
        options = replace(OPTIONS, max_iter=3, **params)
        fit = make_fit(adam(0), options, data=data.with_rows(rows), dtype=torch.float32)
        train([fit])
        flats.append(fit.network.flat.detach())
    # The products of columns sum in another order.
    torch.testing.assert_close(flats[1], flats[0], rtol=0, atol=0 if order == "C" else 1e-6)


# Stacks --------------------------------------------------------------------------------

KINDS = {
    "plain": {},
    "weights": {"weighted": True},
    "validation": {"validation": True},
    "weights and validation": {"weighted": True, "validation": True},
    "batch norm": {"normalization": "batch"},
    "layer norm, gelu": {"normalization": "layer", "activations": "gelu"},
    "dropout": {"dropout": 0.2},
    "early stopping": {"validation": True, "early_stopping": True},
    "one batch": {"batch_size": N_ROWS},
    "clipping": {"gradient_clip_norm": 0.1},
}


def _make_fits(optimizer, kind, networks=range(4)):
    kind = dict(kind)
    data = {name: kind.pop(name) for name in ("weighted", "validation") if name in kind}
    options = {name: kind.pop(name) for name in ("early_stopping", "batch_size", "gradient_clip_norm") if name in kind}
    return [
        make_fit(OPTIMIZERS[optimizer](k), replace(DIFFERENT[k], **options), seed=k, data=make_data(**data), **kind)
        for k in networks
    ]


@pytest.mark.parametrize(("kind", "optimizer"), pairwise(list(KINDS), list(OPTIMIZERS)))
def test_a_stack_trains_as_each_fit_alone(kind, optimizer):
    fits = _make_fits(optimizer, KINDS[kind])
    assert len({fit.stack_key() for fit in fits}) == 1
    train(fits)
    for k, fit in enumerate(fits):
        (alone,) = _make_fits(optimizer, KINDS[kind], [k])
        train([alone])
        # The gradient of an intercept before a norm is little but rounding, which Adam makes larger. Where the loss
        # goes up and down, a processor whose products round otherwise has come to 3e-9.
        is_rounding = "norm" in kind
        assert_same_training(fit, alone, *((1e-8, 1e-8) if is_rounding else ()))
    assert len({fit.progress.n_iter for fit in fits}) > 1, "the fits should stop at different epochs"


@pytest.mark.parametrize("n_networks", [1, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", [{}, {"weighted": True}, {"dropout": 0.2}, {"normalization": "batch"}], ids="-".join)
def test_epochs_of_one_batch_are_trained_at_once_as_one_by_one(kind, optimizer, n_networks, monkeypatch):
    kind = {"batch_size": N_ROWS, **kind}
    run_epochs, calls = Trainer.run_epochs, []

    def count_calls(self, n_epochs, **kwargs):
        calls.append(n_epochs)
        return run_epochs(self, n_epochs, **kwargs)

    monkeypatch.setattr(Trainer, "run_epochs", count_calls)
    at_once = _make_fits(optimizer, kind, range(n_networks))
    train(at_once)
    n_epochs = max(fit.progress.n_iter for fit in at_once)
    assert sum(calls) == n_epochs
    varies = any(schedule.varies_by_epoch for fit in at_once for schedule in fit.optimizer.schedules)
    assert max(calls) == 1 if varies else len(calls) < n_epochs
    monkeypatch.setattr("sktorch_mlp._data.batches._ROWS_OF_EPOCHS", 1)
    calls.clear()
    one_by_one = _make_fits(optimizer, kind, range(n_networks))
    train(one_by_one)
    assert calls == [1] * n_epochs
    for fit, expected in zip(at_once, one_by_one, strict=True):
        assert_same_training(fit, expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("error")
def test_a_network_that_diverges_in_the_midst_of_epochs_at_once_ends_there():
    options = replace(OPTIONS, batch_size=N_ROWS, max_iter=9, n_iter_no_change=20)
    fits = [make_fit(sgd(2, lambda rate, k=k: Schedule([rate, 1e60][k])), options, seed=k) for k in range(2)]
    train(fits)
    alone = make_fit(sgd(2, Schedule), options, seed=0)
    train([alone])
    assert_same_training(fits[0], alone)
    assert fits[1].progress.stop_reason == "diverged"
    assert np.isfinite(fits[1].progress.loss_curve).tolist() == [True] * (fits[1].progress.n_iter - 1) + [False]
    assert fits[1].progress.n_iter < 9


@pytest.mark.parametrize("batch_size", [32, 200])
@pytest.mark.parametrize("kind", [{}, {"weighted": True}, {"validation": True}], ids="-".join)
def test_fits_on_other_rows_and_targets_train_as_each_alone(kind, batch_size):
    """Rows, numbers of rows, targets and weights differ from fit to fit."""
    rng = np.random.RandomState(5)
    many, fewer = rng.permutation(N_ROWS)[:128], rng.permutation(N_ROWS)[:125]

    def make(k):
        data = make_data(train_rows=[many, fewer, np.sort(many)][k], **kind)
        if k:
            samples = data.train
            targets = samples.targets.flip(-1)
            weights = None if samples.weights is None else samples.weights.flip(-1)
            validation = data.validation
            data.train = replace(samples, targets=targets, weights=weights)
            if validation is not None:
                own = validation.indices[0][: 40 - k]
                data.validation = replace(validation, targets=targets, weights=weights, indices=[own])
        options = replace(OPTIONS, batch_size=min(batch_size, data.train.indices[0].size), max_iter=6)
        return make_fit(adam(k), options, seed=k, data=data)

    fits = [make(k) for k in range(3)]
    assert len({fit.stack_key() for fit in fits}) == 1
    train(fits)
    for k, fit in enumerate(fits):
        alone = make(k)
        train([alone])
        np.testing.assert_allclose(fit.progress.validation_scores, alone.progress.validation_scores, rtol=1e-12)
        alone.progress.validation_scores[:] = fit.progress.validation_scores
        assert_same_training(fit, alone)


def test_validation_sets_of_other_lengths_are_scored_as_alone():
    def make(k):
        rows = np.random.RandomState(k).permutation(N_ROWS)[: 20 + k]
        values = Rows.from_array(X[rows].copy(), CPU)
        weights = torch.from_numpy(WEIGHTS[rows]) if k == 2 else None
        validation = Samples(values, torch.from_numpy(Y[rows])[None], weights, [np.arange(len(rows))])
        data = TrainingData(make_data().train, validation)
        return make_fit(adam(k), replace(OPTIONS, max_iter=3), seed=k, data=data)

    fits = [make(k) for k in range(3)]
    train(fits)
    for k, fit in enumerate(fits):
        alone = make(k)
        train([alone])
        np.testing.assert_allclose(fit.progress.validation_scores, alone.progress.validation_scores, rtol=1e-12)
        np.testing.assert_allclose(fit.progress.validation_losses, alone.progress.validation_losses, rtol=1e-9)


def test_a_diverging_network_leaves_the_others_alone():
    rates = [0.1, 1e200, 0.05]

    def make(k):
        return make_fit(SGD([Schedule(rates[k])], [0.9], True), seed=k)

    fits = [make(k) for k in range(3)]
    train(fits)
    assert fits[1].progress.stop_reason == "diverged"
    assert not math.isfinite(fits[1].progress.loss_curve[-1])
    for k in (0, 2):
        alone = make(k)
        train([alone])
        assert_same_training(fits[k], alone)


@pytest.mark.parametrize("segment_rows", [128, 64, 1])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_segments_do_not_change_the_numbers(weighted, segment_rows):
    def make_all():
        options = replace(OPTIONS, max_iter=3)
        return [make_fit(adam(k), options, seed=k, data=make_data(weighted=weighted)) for k in range(2)]

    fits, expected = make_all(), make_all()
    train(fits, segment_rows=segment_rows)
    train(expected)
    for ours, theirs in zip(fits, expected, strict=True):
        # A segment's sums of weights are taken in an order that depends on its length.
        assert_same_training(ours, theirs, rtol=1e-12, atol=1e-14)


# Further training ----------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_three_fits_of_two_epochs_are_one_of_six(optimizer):
    whole, pieces = (
        make_fit(OPTIMIZERS[optimizer](1), replace(OPTIONS, max_iter=max_iter, n_iter_no_change=math.inf))
        for max_iter in (6, 2)
    )
    train([whole])
    for _ in range(3):
        train([pieces])
    assert pieces.progress.n_iter == 2
    assert whole.progress.n_rows_seen == pieces.progress.n_rows_seen == 6 * N_ROWS
    pieces.progress.n_iter = 6
    assert_same_training(pieces, whole, rtol=0, atol=0)


def test_ctrl_c_keeps_what_each_fit_has_learned():
    """The fit that has stopped before is not touched."""
    fits = [make_fit(adam(k), replace(OPTIONS, max_iter=n), seed=k) for k, n in enumerate([2, 9, 9])]
    calls = itertools.count(1)

    def check():
        if next(calls) == 5:
            raise KeyboardInterrupt

    train(fits, check)
    assert [fit.progress.stop_reason for fit in fits] == ["max_iter", "interrupted", "interrupted"]
    assert [fit.progress.n_iter for fit in fits] == [2, 4, 4]
    for k, fit in enumerate(fits):
        alone = make_fit(adam(k), replace(OPTIONS, max_iter=fit.progress.n_iter), seed=k)
        train([alone])
        np.testing.assert_allclose(fit.network.flat.detach(), alone.network.flat.detach(), rtol=1e-9, atol=1e-12)
        assert fit.optimizer.n_steps == alone.optimizer.n_steps


def test_with_early_stopping_ctrl_c_keeps_the_best_epoch():
    options = replace(OPTIONS, early_stopping=True, max_iter=20, n_iter_no_change=math.inf)
    fit = make_fit(sgd(2, Schedule), options, data=make_data(validation=True))
    n_epochs = 0

    def check():
        nonlocal n_epochs
        scores = fit.progress.validation_scores
        if len(scores) > 1 and scores[-1] < max(scores):
            raise KeyboardInterrupt
        n_epochs += 1

    train([fit], check)
    assert fit.progress.stop_reason == "interrupted"
    assert fit.progress.best_n_iter < fit.progress.n_iter == n_epochs
    best = make_fit(
        sgd(2, Schedule), replace(options, max_iter=fit.progress.best_n_iter), data=make_data(validation=True)
    )
    train([best])
    assert torch.equal(fit.network.flat, best.network.flat)


def test_a_fit_draws_one_shuffle_for_each_epoch():
    """Also those that stop while others train on. So streams that fits share are drawn from as by scikit-learn."""
    streams = [np.random.RandomState(k) for k in range(4)]
    fits = [make_fit(sgd(k), DIFFERENT[k], shuffler=Shuffler(np.arange(N_ROWS), streams[k])) for k in range(4)]
    train(fits)
    assert {fit.progress.n_iter for fit in fits} == {7, 25}
    fits[2].options = replace(OPTIONS, tol=0.5, n_iter_no_change=1)
    fits[2].optimizer = adam(2)
    train(fits[2:3])
    assert fits[2].progress.stop_reason == "converged"
    for k, fit in enumerate(fits):
        expected = np.random.RandomState(k)
        for _ in range(fit.progress.n_epochs):
            expected.permutation(N_ROWS)
        assert streams[k].randint(2**31) == expected.randint(2**31)


# What is told and printed ---------------------------------------------------------------


class _Observer:
    """Records what it is told, and asks to stop after some epochs."""

    trains_alone, batch_hooks = False, None

    def __init__(self, n_epochs):
        self.n_epochs, self.calls = n_epochs, []

    def on_epoch_begin(self):
        self.calls.append("begin")

    def on_epoch_end(self, network, k):
        self.calls.append(network.flat[k].clone())
        return len(self.calls) == 2 * self.n_epochs


def test_observers_see_their_network_and_stop_it():
    observers = [_Observer(n) for n in (4, 2, 99)]
    options = replace(OPTIONS, max_iter=4, n_iter_no_change=math.inf)
    fits = [make_fit(adam(k), options, seed=k, observer=observer) for k, observer in enumerate(observers)]
    train(fits)
    # One that asks to stop in the last epoch has stopped the fit, which so has not run out of epochs.
    assert [fit.progress.stop_reason for fit in fits] == ["stopped", "stopped", "max_iter"]
    assert [fit.progress.n_iter for fit in fits] == [4, 2, 4]
    for fit, observer in zip(fits, observers, strict=True):
        assert observer.calls[::2] == ["begin"] * fit.progress.n_iter
        assert torch.equal(observer.calls[-1], fit.network.flat[0])


def test_fits_of_a_stack_print_one_after_the_other(capsys):
    def make_all():
        options = [replace(OPTIONS, verbose=True, max_iter=n, early_stopping=True, n_iter_no_change=1) for n in (3, 9)]
        data = make_data(validation=True)
        return [make_fit(sgd(k), option, seed=k, data=data) for k, option in enumerate(options)]

    for fit in make_all():
        train([fit])
    expected = capsys.readouterr().out
    train(make_all())
    assert capsys.readouterr().out == expected
    assert "Iteration 1, loss = " in expected
    assert "Validation score: " in expected
    assert "did not improve more than tol=0.010000 for 1 consecutive epochs. Setting learning rate to" in expected
