"""Each fit of a stack gets what it gets alone: kinds of targets, optimizers, stopping, weights, validation rows."""

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_validate

from sktorch_mlp import stacked_fits
from sktorch_mlp._training.loop import train
from tests.parallel.fits import (
    FILTERS,
    FOLDS,
    MLP,
    NUMBERS,
    NUMBERS_X,
    REGRESSOR,
    X,
    Y,
    assert_same_fits,
    fits_of,
    in_parallel,
    untrained_fit,
)

pytestmark = [pytest.mark.usefixtures("two_trainers"), *map(pytest.mark.filterwarnings, FILTERS)]

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
    "adam with early stopping": [{**params, "early_stopping": True} for params in ADAM_GRID],
    "sgd": [{"solver": "sgd", **params} for params in SGD_GRID],
    "adaptive sgd": [{"solver": "sgd", "learning_rate": "adaptive", **params} for params in SGD_GRID],
    "invscaling sgd": [{"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.1, **p} for p in SGD_GRID],
    "full batch": [{"batch_size": 500, **params} for params in ADAM_GRID],
    "other shapes": [
        {},
        {"hidden_layer_sizes": (8, 8)},
        {"hidden_layer_sizes": ()},
        {"activation": "tanh"},
        {"batch_size": 50},
        {"solver": "sgd"},
        {"alpha": 1.0},
    ],
}
TARGETS = {
    "multiclass": (MLP, X, Y),
    "binary": (MLP, X, (Y > 4).astype(int)),
    "multilabel": (MLP, X, np.stack([Y > 4, Y % 2 == 0], 1).astype(int)),
    "one output": (REGRESSOR, NUMBERS_X, NUMBERS),
    "two outputs": (REGRESSOR, NUMBERS_X, np.stack([NUMBERS, -(NUMBERS**2)], 1)),
}
WEIGHTS = np.random.RandomState(0).uniform(0.5, 2, len(Y))
#: All pairs of targets and grids. Each kind of targets, and each grid, has some with weights and some without.
PAIRS = [(kind, grid, (i + j) % 2 == 0) for i, kind in enumerate(TARGETS) for j, grid in enumerate(GRIDS)]


@pytest.mark.parametrize(("kind", "grid", "weighted"), PAIRS)
def test_each_fit_gets_what_it_gets_alone(kind, grid, weighted, stacks):
    base, features, y = TARGETS[kind]
    fits = fits_of(base, GRIDS[grid], features, y, WEIGHTS if weighted else None)
    expected = [fit() for fit in fits]
    with stacked_fits():
        fitted = in_parallel(fits)
    # The rates of sgd are ten times as high, and with them the growth of rounding.
    assert_same_fits(fitted, expected, rtol=1e-8 if "sgd" in grid or grid == "other shapes" else 1e-9)
    stacks.assert_stacked(len(fits))


def test_float32_is_within_rounding(stacks):
    fits = fits_of(clone(MLP).set_params(dtype="float32"), [{"learning_rate_init": r} for r in (0.001, 0.01)], X, Y)
    expected = [fit() for fit in fits]
    with stacked_fits():
        fitted = in_parallel(fits)
    assert all(model.coefs_[0].dtype == np.float32 for model in fitted)
    for ours, theirs in zip(fitted, expected, strict=True):
        # 2**-24 for each operation, of which a sum has a hundred, grows over 24 steps
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-4)
    stacks.assert_stacked(len(fits))


def test_lbfgs_trains_beside_stacks(stacks):
    fits = fits_of(MLP, [{}, {"solver": "lbfgs"}, {"alpha": 1.0}], X, Y)
    expected = [fit() for fit in fits]
    with stacked_fits():
        fitted = in_parallel(fits)
    stacks.assert_stacked(6)
    for ours, theirs in zip(fitted, expected, strict=True):
        if ours.solver == "lbfgs":
            # The line search amplifies rounding, which may differ by where arrays lie in memory.
            np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-6)
        else:
            assert_same_fits([ours], [theirs])


def test_the_same_rows_with_other_weights_and_targets(one_trainer, stacks):
    def fit_of(y, weights):
        return lambda: clone(MLP).fit(X, y, weights)

    fits = [fit_of(y, weights) for y in (Y, 9 - Y) for weights in (None, WEIGHTS, WEIGHTS[::-1].copy())]
    expected = [fit() for fit in fits]
    with stacked_fits():
        assert_same_fits(in_parallel(fits), expected)
    assert stacks.sizes == [6]


def test_weights_of_cross_validation_reach_the_fits(stacks):
    def fitted():
        return cross_validate(MLP, X, Y, cv=FOLDS, params={"sample_weight": WEIGHTS}, return_estimator=True)[
            "estimator"
        ]

    expected = fitted()
    with stacked_fits():
        assert_same_fits(fitted(), expected)
    assert sum(stacks.sizes) == 3


@pytest.mark.parametrize(
    "params",
    [{"normalization": "batch"}, {"solver": "adamw", "learning_rate": "one_cycle"}, {"dropout": 0.4}],
    ids=["batch normalization", "one_cycle adamw", "dropout"],
)
def test_partial_fit_in_stacks_goes_on_from_its_own_state(params, stacks):
    def fit_of(seed):
        def fit():
            model = clone(MLP).set_params(**params, random_state=seed)
            for _ in range(3):
                model.partial_fit(X, Y, classes=np.unique(Y))
            return model

        return fit

    fits = [fit_of(seed) for seed in range(4)]
    expected = [fit() for fit in fits]
    with stacked_fits():
        assert_same_fits(in_parallel(fits), expected)
    stacks.assert_stacked(12)


def test_dense_rows_may_follow_sparse_ones():
    def sparse_first(seed):
        model = clone(MLP).set_params(random_state=seed)
        return model.partial_fit(sp.csr_array(X), Y, classes=np.unique(Y)).partial_fit(X, Y).loss_curve_

    expected = [sparse_first(seed) for seed in range(4)]
    with stacked_fits():
        curves = joblib.Parallel()(joblib.delayed(sparse_first)(seed) for seed in range(4))
    np.testing.assert_allclose(curves, expected, rtol=1e-9)


def test_segments_of_unlike_numbers_of_rows(one_trainer):
    """Batches of 40 in segments of two: of 135 and 136 rows the last segment has 55 and 56."""

    def make_fits():
        return [untrained_fit(function) for function in fits_of(MLP, [{}], X, Y)]

    assert {fit.n_rows for fit in make_fits()} == {135, 136}
    alone, together = make_fits(), make_fits()
    for fit in alone:
        train([fit])
    train(together, segment_rows=80)
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours.progress.loss_curve, theirs.progress.loss_curve, rtol=1e-9)
        torch.testing.assert_close(ours.network.flat, theirs.network.flat, rtol=1e-9, atol=1e-11)
