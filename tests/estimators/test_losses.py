"""Losses and class weights beyond scikit-learn's, against PyTorch's losses and autograd."""

from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import QuantileRegressor
from sklearn.metrics import mean_absolute_error, mean_pinball_loss
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn
from torch.nn import functional

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from tests.estimators.by_hand import (
    ADAM,
    BINARY,
    IN_ORDER,
    LABELS,
    N_ROWS,
    NUMBERS,
    NUMBERS_X,
    PARAMS,
    PLAIN_SGD,
    TWO_NUMBERS,
    WEIGHTS,
    X_VAL,
    Y_VAL,
    X,
    Y,
    adam,
    assert_learned_as,
    binary_cross_entropy,
    cross_entropy,
    modules,
    sgd,
    train_by_hand,
)
from tests.pairwise import pairwise

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")

FORMATS = {"dense": np.asarray, "sparse": sp.csr_array}


# Classifiers ---------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_label_smoothing_is_that_of_cross_entropy(weighted, format_):
    module = modules(3)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none")
    weights = WEIGHTS if weighted else None
    losses = train_by_hand(module, X, Y, smooth, adam, weights=weights)
    model = MLPTorchClassifier(**IN_ORDER, **ADAM, alpha=0.0, label_smoothing=0.2)
    assert_learned_as(model.fit(FORMATS[format_](X), Y, sample_weight=weights), module, losses)


@pytest.mark.parametrize("y", [BINARY, LABELS], ids=["binary", "multilabel"])
def test_label_smoothing_of_logistic_outputs_is_towards_a_half(y):
    module = modules(1 if y.ndim == 1 else 3)
    losses = train_by_hand(module, X, 0.8 * y + 0.1, binary_cross_entropy, adam)
    model = MLPTorchClassifier(**IN_ORDER, **ADAM, alpha=0.0, label_smoothing=0.2).fit(X, y)
    assert_learned_as(model, module, losses)
    assert_array_equal(np.unique(model.predict(X)), [0, 1])


CLASS_WEIGHTS = {
    "dict": (Y, {0: 1.0, 1: 3.0, 2: 0.5}),
    "balanced": (Y, "balanced"),
    "binary": (BINARY, {0: 5.0, 1: 1.0}),
    "multilabel": (LABELS, [{0: 1.0, 1: 3.0}, {0: 2.0, 1: 1.0}, {0: 1.0, 1: 0.25}]),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("name", CLASS_WEIGHTS)
def test_class_weights_are_sample_weights(name, weighted):
    y, class_weight = CLASS_WEIGHTS[name]
    weights = compute_sample_weight(class_weight, y) * (WEIGHTS if weighted else 1)
    module = modules(1 if y is BINARY else 3)
    losses = train_by_hand(
        module, X, y, cross_entropy if y is Y else binary_cross_entropy, adam, weights=weights, alpha=0.1
    )
    model = MLPTorchClassifier(**IN_ORDER, **ADAM, alpha=0.1, class_weight=class_weight)
    assert_learned_as(model.fit(X, y, sample_weight=WEIGHTS if weighted else None), module, losses)


def focal(logits, y):
    log_probabilities = functional.log_softmax(logits, 1).gather(1, y[:, None])[:, 0]
    return -((1 - log_probabilities.exp()) ** 2) * log_probabilities


@pytest.mark.parametrize(("mean", "format_"), [(False, "dense"), (True, "dense"), (False, "sparse")])
def test_a_function_is_a_loss_for_classifiers(mean, format_):
    module = modules(3)
    losses = train_by_hand(module, X, Y, focal, adam, alpha=0.1)
    loss = (lambda logits, y: focal(logits, y).mean()) if mean else focal
    model = MLPTorchClassifier(**IN_ORDER, **ADAM, alpha=0.1, loss=loss)
    assert_learned_as(model.fit(FORMATS[format_](X), Y), module, losses)
    assert model.predict_proba(X).sum(1) == pytest.approx(1)


LOSSES = {
    "mean": (Y, functional.cross_entropy),
    "rows": (Y, nn.CrossEntropyLoss(reduction="none")),
    "binary, mean": (BINARY, functional.binary_cross_entropy_with_logits),
    "binary": (BINARY, partial(functional.binary_cross_entropy_with_logits, reduction="none")),
    "multilabel": (
        LABELS,
        lambda logits, y: 3 * functional.binary_cross_entropy_with_logits(logits, y, reduction="none"),
    ),
}


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_default_loss_as_a_function_is_the_default_loss(name, solver):
    y, loss = LOSSES[name]
    params = {**PARAMS, "solver": solver, "max_iter": 5, "alpha": 0.1}
    expected, model = MLPTorchClassifier(**params).fit(X, y), MLPTorchClassifier(**params, loss=loss).fit(X, y)
    assert_allclose(model.loss_, expected.loss_, rtol=1e-7)
    # The line search of lbfgs amplifies rounding.
    assert_allclose(model.predict_proba(X), expected.predict_proba(X), rtol=1e-7 if solver == "adam" else 1e-3)
    assert_array_equal(model.predict(X), expected.predict(X))


def test_a_mean_loss_cannot_weight_rows():
    with pytest.raises(ValueError, match="without weights their mean"):
        MLPTorchClassifier(**PARAMS, loss=functional.cross_entropy).fit(X, Y, WEIGHTS)
    weights = WEIGHTS[: len(X_VAL)]
    with pytest.raises(ValueError, match='reduction="none"'):
        MLPTorchClassifier(**PARAMS, loss=functional.cross_entropy).fit(
            X, Y, X_val=X_VAL, y_val=Y_VAL, sample_weight_val=weights
        )


# Regressors ----------------------------------------------------------------------------

REGRESSIONS = {
    "absolute_error": ({"loss": "absolute_error"}, lambda p, y: (p - y).abs()),
    "huber": ({"loss": "huber"}, nn.HuberLoss(reduction="none")),
    "quantile": (
        {"loss": "quantile", "quantile": 0.8},
        lambda p, y: torch.where(y > p, 0.8 * (y - p), 0.2 * (p - y)),
    ),
    "function": ({"loss": partial(functional.smooth_l1_loss, reduction="none")}, nn.SmoothL1Loss(reduction="none")),
    "log cosh": ({"loss": lambda p, y: (p - y).cosh().log()}, lambda p, y: (p - y).cosh().log()),
}
TARGETS = {"one output": NUMBERS, "two outputs": TWO_NUMBERS}


@pytest.mark.parametrize(("name", "target", "weighted"), pairwise(REGRESSIONS, TARGETS, [False, True]))
def test_losses_of_regressors(name, target, weighted):
    (params, loss), y = REGRESSIONS[name], TARGETS[target]
    module = modules(1 if y.ndim == 1 else 2, n_in=10)
    weights = WEIGHTS if weighted else None

    def row_loss(outputs, y):
        return loss(outputs, y.reshape(outputs.shape)).mean(1)

    losses = train_by_hand(module, NUMBERS_X, y, row_loss, sgd, weights=weights, alpha=0.1)
    model = MLPTorchRegressor(**IN_ORDER, **PLAIN_SGD, alpha=0.1, **params)
    assert_learned_as(model.fit(NUMBERS_X, y, sample_weight=weights), module, losses)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_a_linear_model_of_quantiles_is_scikit_learns(quantile):
    expected = QuantileRegressor(quantile=quantile, alpha=0.0).fit(NUMBERS_X, NUMBERS).predict(NUMBERS_X)
    model = MLPTorchRegressor(
        "quantile", (), quantile=quantile, alpha=0.0, learning_rate="cosine", learning_rate_init=0.03, max_iter=400,
        batch_size=N_ROWS, tol=0.0, n_iter_no_change=np.inf, random_state=0,
    ).fit(NUMBERS_X, NUMBERS)  # fmt: skip
    best = mean_pinball_loss(NUMBERS, expected, alpha=quantile)
    reached = mean_pinball_loss(NUMBERS, model.predict(NUMBERS_X), alpha=quantile)
    assert best - 1e-9 <= reached < 1.01 * best  # the solver there is exact
    if quantile == 0.5:
        absolute = clone(model).set_params(loss="absolute_error").fit(NUMBERS_X, NUMBERS)
        assert mean_absolute_error(NUMBERS, absolute.predict(NUMBERS_X)) < 2.02 * best


# L-BFGS --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [{"normalization": "layer"}, {"label_smoothing": 0.1}, {"activation": functional.softplus}],
    ids=["layer norm", "label smoothing", "softplus"],
)
def test_lbfgs_ends_where_the_gradient_is_small(params):
    model = MLPTorchClassifier((4,), solver="lbfgs", alpha=1.0, max_iter=2000, tol=1e-4, random_state=0, **params)
    model.fit(X, Y)
    module = model.module_
    for parameter in module.parameters():
        parameter.requires_grad_()
    loss = functional.cross_entropy(
        module(torch.from_numpy(X)), torch.from_numpy(Y), label_smoothing=params.get("label_smoothing", 0.0)
    )
    loss = loss + 0.5 / N_ROWS * sum((layer.weight**2).sum() for layer in module if isinstance(layer, nn.Linear))
    assert_allclose(loss.item(), model.loss_, rtol=1e-9)
    loss.backward()
    # scipy also stops where an iteration lowers the loss by less than 2e-9 of it.
    assert max(parameter.grad.abs().max().item() for parameter in module.parameters()) < 2e-3
