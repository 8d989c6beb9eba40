"""What scikit-learn's MLP lacks is the same in stacks as alone: losses, optimizers, schedules, layers, dropout, scores."""

import numpy as np
import pytest
import torch
from sklearn import config_context, get_config
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.preprocessing import scale
from skorch.callbacks import EpochTimer
from torch.nn import functional

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, stacked_fits
from sktorch_mlp.callbacks import TimeLimit
from tests.marks import needs_bfloat16
from tests.parallel.fits import FILTERS, assert_same_fits, fits_of, in_parallel

pytestmark = [pytest.mark.usefixtures("one_trainer"), *map(pytest.mark.filterwarnings, FILTERS)]

N_ROWS = 124  # folds of 82 and 83 rows
X, Y = load_digits(n_class=3, return_X_y=True)
X, Y = X[:N_ROWS] / 16, Y[:N_ROWS]
BINARY, LABELS = (Y > 0).astype(int), np.stack([Y > 0, Y == 1], 1).astype(int)
NUMBERS_X, NUMBERS = load_diabetes(return_X_y=True)
NUMBERS_X, NUMBERS = scale(NUMBERS_X)[:N_ROWS], scale(NUMBERS)[:N_ROWS]
TWO_NUMBERS = np.stack([NUMBERS, NUMBERS**2], 1)
MLP = MLPTorchClassifier((8, 6), max_iter=4, batch_size=30, random_state=0)
REGRESSOR = MLPTorchRegressor(hidden_layer_sizes=(8, 6), max_iter=4, batch_size=30, random_state=0)


def _check(fits, stacks):
    """Return the estimators that these functions fit in stacks, which are the same as alone."""
    expected = [fit() for fit in fits]
    with stacked_fits():
        fitted = in_parallel(fits)
    assert_same_fits(fitted, expected)
    stacks.assert_stacked(len(fits))
    return fitted


def row_losses(logits, y):
    """Cross-entropy of each row, as a loss function of a user."""
    return functional.cross_entropy(logits, y, reduction="none")


ES = {"early_stopping": True, "max_iter": 12, "n_iter_no_change": 1, "learning_rate_init": 0.02}
ADAMW = {"solver": "adamw", "learning_rate_init": 0.05}
GRIDS = {
    "label_smoothing": [{"label_smoothing": rate} for rate in (0.05, 0.3)],
    "class_weight": [{"class_weight": weights} for weights in (None, "balanced", {0: 1.0, 1: 9.0, 2: 0.1})],
    "loss of rows": [{"loss": row_losses, "alpha": alpha} for alpha in (0.0, 1.0)],
    "mean loss": [{"loss": functional.cross_entropy, "alpha": alpha} for alpha in (0.0, 1.0)],
    "mean loss, early stopping": [{"loss": functional.cross_entropy, **ES, "alpha": alpha} for alpha in (0.0, 1.0)],
    "activation": [{"activation": "gelu", "random_state": seed} for seed in (0, 1)],
    "activation function": [{"activation": functional.softplus, "random_state": seed} for seed in (0, 1)],
    "activation of each layer": [{"activation": ("selu", torch.sin), "random_state": seed} for seed in (0, 1)],
    "batch normalization": [{"normalization": "batch", "alpha": alpha} for alpha in (0.0, 1.0)],
    "batch normalization, early stopping": [{"normalization": "batch", **ES, "alpha": alpha} for alpha in (0.0, 1.0)],
    "layer normalization": [{"normalization": "layer", "alpha": alpha} for alpha in (0.0, 1.0)],
    "weight_init": [{"weight_init": name} for name in ("torch", "orthogonal", ("normal", 0.1))],
    "weight_decay": [{"solver": "adamw", "weight_decay": decay} for decay in (0.0, 0.1, 1.0)],
    "weight_decay, early stopping": [{**ES, "solver": "adamw", "weight_decay": decay} for decay in (0.0, 1.0)],
    "betas of adamw": [{"solver": "adamw", "beta_1": beta, "learning_rate_init": beta / 10} for beta in (0.5, 0.9)],
    "cosine": [{"learning_rate": "cosine", "warmup_fraction": fraction} for fraction in ("auto", 0.1, 0.5)],
    "one_cycle": [{"learning_rate": "one_cycle", "max_iter": n} for n in (3, 4, 6)],
    "one_cycle sgd": [{"learning_rate": "one_cycle", "solver": "sgd", "warmup_fraction": f} for f in (0.1, 0.5)],
    "several schedules": [{"solver": "adamw", "learning_rate": name} for name in ("constant", "cosine", "one_cycle")],
    "invscaling adamw": [{**ADAMW, "learning_rate": "invscaling", "random_state": seed} for seed in (0, 1)],
    "adaptive adamw": [
        {**ADAMW, "learning_rate": "adaptive", "tol": tol, "n_iter_no_change": 1, "max_iter": 12} for tol in (0.1, 0.3)
    ],
    "gradient_clip_norm": [{"gradient_clip_norm": norm} for norm in (None, 0.1, 1.0)],
    "scoring": [
        {**ES, "validation_fraction": 0.4, "scoring": scoring}
        for scoring in (None, "loss", "roc_auc_ovr", "neg_log_loss")
    ],
    "dropout": [{"dropout": rate} for rate in (0.1, 0.5)],
    "dropout of some": [{"dropout": rate} for rate in (0.0, [0.2, 0.0], 0.5)],
    "dropout, early stopping": [{"dropout": rate, **ES} for rate in (0.1, 0.5)],
}


@pytest.mark.parametrize("name", GRIDS)
def test_each_feature_is_the_same_in_stacks(name, stacks):
    _check(fits_of(MLP, GRIDS[name], X, Y), stacks)


@needs_bfloat16
def test_bfloat16_is_within_rounding(stacks):
    fits = fits_of(MLP, [{"dtype": "bfloat16", "alpha": alpha} for alpha in (0.0, 1.0)], X, Y)
    expected = [fit().loss_curve_ for fit in fits]
    with stacked_fits():
        curves = [model.loss_curve_ for model in in_parallel(fits)]
    # A product in bfloat16 that is summed in another order may be rounded otherwise, by 2**-9 of it.
    np.testing.assert_allclose(curves, expected, rtol=2**-8)
    stacks.assert_stacked(len(fits))


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_smoothed_and_weighted_labels_of_other_kinds(kind, stacks):
    y, weights = {"binary": (BINARY, {0: 1.0, 1: 5.0}), "multilabel": (LABELS, [{0: 1.0, 1: 5.0}] * 2)}[kind]
    grid = [
        {"label_smoothing": 0.1, "normalization": "batch"},
        {"label_smoothing": 0.2, "normalization": "batch", "class_weight": weights},
    ]
    _check(fits_of(MLP, grid, X, y), stacks)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        pytest.param("absolute_error", NUMBERS, id="absolute_error"),
        pytest.param("huber", TWO_NUMBERS, id="huber, two outputs"),
        pytest.param("quantile", NUMBERS, id="quantile"),
        pytest.param("quantile", TWO_NUMBERS, id="quantile, two outputs"),
        pytest.param("poisson", np.abs(NUMBERS), id="poisson"),
        pytest.param(functional.smooth_l1_loss, TWO_NUMBERS, id="function, two outputs"),
    ],
)
def test_losses_of_regressors(loss, y, stacks):
    params = {"loss": loss, "normalization": "layer"} | ({"quantile": 0.8} if loss == "quantile" else {})
    grid = [params | {"alpha": alpha} for alpha in (0.0, 1.0)]
    _check(fits_of(REGRESSOR, grid, NUMBERS_X, y), stacks)


def test_quantiles_do_not_mix(stacks):
    grid = [{"loss": "quantile", "quantile": q, "random_state": s} for q in (0.1, 0.9) for s in range(2)]
    fitted = _check(fits_of(REGRESSOR, grid, NUMBERS_X, NUMBERS), stacks)
    means = [model.predict(NUMBERS_X).mean() for model in fitted]
    for low, high in zip(means[:6], means[6:], strict=True):  # of the same seed and fold
        assert low < high


def test_optimizers_of_pytorch_train_beside_stacks(stacks):
    grid = [
        {},
        {"alpha": 1.0},
        {"solver": torch.optim.RMSprop, "solver_params": {"momentum": 0.5}},
        {"solver": torch.optim.RMSprop, "solver_params": {"momentum": 0.9}},
    ]
    _check(fits_of(MLP, grid, X, Y), stacks)
    assert stacks.sizes.count(1) == 6


def test_scorers_see_the_configuration_of_the_caller():
    seen = []

    def scorer(estimator, X, y):
        seen.append(get_config()["assume_finite"])
        return 0.5

    mlp = clone(MLP).set_params(scoring=scorer, early_stopping=True)
    with stacked_fits(), config_context(assume_finite=True):
        cross_val_score(mlp, X, Y, cv=3)
    assert set(seen) == {True}


def test_fits_with_callbacks_of_skorch_train_beside_stacks(stacks):
    _check(fits_of(MLP, [{}, {"callbacks": [EpochTimer()]}], X, Y), stacks)
    assert sorted(stacks.sizes) == [1, 1, 1, 3]


def test_fits_with_callbacks_of_scikit_learn_are_stacked(stacks):
    base = clone(MLP).set_callbacks(TimeLimit(1000.0))
    _check(fits_of(base, [{"alpha": alpha} for alpha in (0.0, 1.0)], X, Y), stacks)
    assert stacks.sizes == [6]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning", "ignore:One or more of the test scores")
def test_a_scorer_that_fails_fails_alone():
    def scorer(estimator, X, y):
        if estimator.alpha == 1.0:
            raise RuntimeError("This scorer fails.")
        return 0.5

    grid = {"alpha": [0.0, 0.5, 1.0]}
    search = GridSearchCV(clone(MLP).set_params(scoring=scorer, early_stopping=True), grid, cv=3, refit=False)
    with stacked_fits():
        scores = search.fit(X, Y).cv_results_["mean_test_score"]
    assert np.isnan(scores).tolist() == [False, False, True]
