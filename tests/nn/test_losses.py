"""Losses, their gradients and scores against PyTorch's functions, scikit-learn's losses and metrics."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score
from sklearn.neural_network._base import LOSS_FUNCTIONS
from torch.nn import functional

from sktorch_mlp._nn.losses import (
    OUTPUT_ACTIVATIONS,
    AbsoluteError,
    BinaryLogLoss,
    CallableLoss,
    HalfPoissonDeviance,
    HalfSquaredError,
    HuberLoss,
    LogLoss,
    OneClassLogLoss,
    QuantileLoss,
    SoftBinaryLogLoss,
    SoftLogLoss,
    weighted_mean,
)
from tests.nn.helpers import random_targets, row_losses, seeded

N_ROWS = 12

LOSSES = {
    "log_loss": LogLoss(3),
    "soft_log_loss": SoftLogLoss(3),
    "binary": BinaryLogLoss(1),
    "multilabel": BinaryLogLoss(3),
    "soft_binary": SoftBinaryLogLoss(1),
    "soft_multilabel": SoftBinaryLogLoss(3),
    "one_class": OneClassLogLoss(1),
    "squared_error": HalfSquaredError(1),
    "squared_error-3": HalfSquaredError(3),
    "poisson": HalfPoissonDeviance(1),
    "poisson-2": HalfPoissonDeviance(2),
    "absolute_error": AbsoluteError(1),
    "absolute_error-3": AbsoluteError(3),
    "huber": HuberLoss(1),
    "huber-3": HuberLoss(3),
    "quantile": QuantileLoss(1, 0.8),
    "quantile-3": QuantileLoss(3, 0.3),
}


def _logits(loss, n_networks):
    return torch.randn(n_networks, loss.n_outputs, N_ROWS, dtype=torch.float64, generator=seeded(1))


def _delta_and_losses(loss, logits, targets):
    """Gradient at the logits and loss of each row, as training gets them."""
    predictions = OUTPUT_ACTIVATIONS["identity" if loss.of_logits else loss.out_activation](logits.clone())
    loss_terms = torch.empty(*logits.shape[:-2], 1, logits.shape[-1], dtype=logits.dtype)
    with torch.no_grad():
        loss.to_delta_(predictions, targets, loss_terms)
    return predictions, loss.row_losses(loss_terms, targets)


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_delta_and_row_losses_match_autograd(loss, n_networks):
    targets = random_targets(loss, N_ROWS, np.random.RandomState(0)).expand(n_networks, -1, -1)
    logits = _logits(loss, n_networks).requires_grad_()
    expected_losses = row_losses(loss, logits, targets)
    (expected,) = torch.autograd.grad(expected_losses.sum(), logits)
    delta, losses = _delta_and_losses(loss, logits.detach(), targets)
    torch.testing.assert_close(delta, expected, rtol=1e-12, atol=1e-12)
    # scikit-learn reports the squared error averaged over outputs, but descends its sum.
    n_averaged = loss.n_outputs if isinstance(loss, HalfSquaredError) else 1
    torch.testing.assert_close(losses.squeeze(-2), expected_losses.detach() / n_averaged, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["log_loss", "binary", "multilabel", "squared_error-3", "poisson-2"])
@pytest.mark.parametrize("size", [1.0, 60.0])
def test_losses_match_sklearn_also_where_probabilities_round_to_0_and_1(name, size):
    loss = LOSSES[name]
    targets = random_targets(loss, N_ROWS, np.random.RandomState(0))
    logits = size * _logits(loss, 1)[0]
    predictions = OUTPUT_ACTIVATIONS[loss.out_activation](logits.clone())
    _, losses = _delta_and_losses(loss, logits, targets)
    labels = np.eye(3)[targets[0]] if name == "log_loss" else targets.T.numpy()
    function = "binary_log_loss" if isinstance(loss, BinaryLogLoss) else name.split("-")[0]
    np.testing.assert_allclose(losses.mean(), LOSS_FUNCTIONS[function](labels, predictions.T.numpy()), rtol=1e-10)


@pytest.mark.parametrize(
    ("loss", "residuals", "expected"),
    [
        (AbsoluteError(1), [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]),
        (HuberLoss(1), [-3.0, -1.0, 0.0, 0.5, 1.0, 3.0], [-1.0, -1.0, 0.0, 0.5, 1.0, 1.0]),
        (QuantileLoss(1, 0.75), [-2.0, 0.0, 2.0], [-0.75, 0.0, 0.25]),
    ],
    ids=["absolute_error", "huber", "quantile"],
)
def test_derivatives_at_and_around_kinks(loss, residuals, expected):
    delta, _ = _delta_and_losses(loss, torch.tensor([residuals]), torch.zeros(1, len(residuals)))
    assert delta.tolist() == [expected]


# Scores --------------------------------------------------------------------------------


def _labels(loss, values):
    """Classes or labels of targets or predictions, as scikit-learn's metrics take them."""
    if loss.out_activation == "logistic":
        return values.T > 0.5
    return values.argmax(0) if values.is_floating_point() else values[0]


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("name", ["log_loss", "soft_log_loss", "binary", "multilabel", "soft_multilabel"])
def test_scores_of_classifiers_are_accuracies(name, weighted):
    loss, rng = LOSSES[name], np.random.RandomState(0)
    targets = random_targets(loss, N_ROWS, rng).expand(2, -1, -1)
    weights = rng.uniform(0.1, 2, N_ROWS) if weighted else None
    # Logits near the targets, so that all labels of some rows are right.
    logits = _logits(loss, 2) + (2 * (targets - 0.5) if name != "log_loss" else 0)
    predictions = OUTPUT_ACTIVATIONS[loss.out_activation](logits)
    stacked_weights = None if weights is None else torch.from_numpy(weights).expand(2, 1, -1)
    scores = loss.score(predictions, targets, stacked_weights)
    for k in range(2):
        accuracy = accuracy_score(_labels(loss, targets[k]), _labels(loss, predictions[k]), sample_weight=weights)
        assert 0 < accuracy < 1
        assert float(scores[k]) == pytest.approx(accuracy, rel=1e-12)


def test_one_class_is_always_predicted():
    loss = LOSSES["one_class"]
    assert loss.score(torch.full((2, 1, 5), 0.1), torch.zeros(2, 1, 5), None).tolist() == [1.0, 1.0]
    assert loss.score(torch.full((1, 5), 0.1), torch.zeros(1, 5), None) == 1.0


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize(
    "loss", [HalfSquaredError(3), HuberLoss(3), HalfPoissonDeviance(3)], ids=lambda loss: type(loss).__name__
)
def test_scores_of_regressors_are_r2(loss, weighted):
    rng = np.random.RandomState(0)
    targets, predictions = (torch.from_numpy(rng.randn(2, 3, N_ROWS)) for _ in range(2))
    targets[1, 0] = 2.0  # constant, and missed
    targets[1, 1] = predictions[1, 1] = 3.0  # constant, and met
    weights = rng.uniform(0.1, 2, N_ROWS) if weighted else None
    stacked_weights = None if weights is None else torch.from_numpy(weights).expand(2, 1, -1)
    scores = loss.score(predictions, targets, stacked_weights)
    for k in range(2):
        expected = r2_score(targets[k].T, predictions[k].T, sample_weight=weights)
        assert float(scores[k]) == pytest.approx(expected, rel=1e-12)


def test_weighted_means_match_numpy_in_float64():
    values, weights = np.random.RandomState(0).uniform(size=(2, 3, 1, 50)).astype(np.float32)
    mean = weighted_mean(torch.from_numpy(values), torch.from_numpy(weights))
    assert mean.dtype == torch.float64
    expected = [
        np.average(v[0].astype(float), weights=w[0].astype(float)) for v, w in zip(values, weights, strict=True)
    ]
    # The weights are summed in their own precision.
    np.testing.assert_allclose(mean[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(weighted_mean(torch.from_numpy(values), None)[:, 0], values.astype(float).mean((1, 2)))


# Functions as losses -------------------------------------------------------------------


def _cross_entropy(logits, targets):
    return functional.cross_entropy(logits, targets, reduction="none")


def _binary_cross_entropy(logits, targets):
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


#: Functions, and the losses that they are.
FUNCTIONS = {
    "one output": (BinaryLogLoss(1), _binary_cross_entropy),
    "some outputs": (LogLoss(3), _cross_entropy),
    "averaged over outputs": (HalfSquaredError(3), lambda p, y: 1.5 * (p - y) ** 2),
}


@pytest.mark.parametrize("n_networks", [1, 2])
@pytest.mark.parametrize(("replaced", "function"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_of_rows_is_differentiated_by_autograd(replaced, function, n_networks):
    loss = CallableLoss(function, replaced, has_sample_weight=True)
    targets = random_targets(replaced, N_ROWS, np.random.RandomState(0)).expand(n_networks, -1, -1)
    logits = _logits(loss, n_networks).requires_grad_()
    expected_losses = row_losses(replaced, logits, targets)
    (expected,) = torch.autograd.grad(expected_losses.sum(), logits)
    delta, losses = _delta_and_losses(loss, logits.detach(), targets)
    torch.testing.assert_close(delta, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(losses.squeeze(-2), expected_losses.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_networks", [1, 2])
def test_a_function_of_all_rows_is_the_loss_of_each(n_networks):
    loss = CallableLoss(functional.cross_entropy, LogLoss(3), has_sample_weight=False)
    targets = random_targets(LogLoss(3), N_ROWS, np.random.RandomState(0)).expand(n_networks, -1, -1)
    logits = _logits(loss, n_networks).requires_grad_()
    expected_losses = row_losses(LogLoss(3), logits, targets)
    (expected,) = torch.autograd.grad(expected_losses.sum(), logits)
    delta, losses = _delta_and_losses(loss, logits.detach(), targets)
    # Training averages over rows: the mean of n equal losses is the loss.
    torch.testing.assert_close(delta, expected, rtol=1e-12, atol=1e-12)
    means = expected_losses.detach().mean(-1, keepdim=True)
    torch.testing.assert_close(losses.squeeze(-2), means.expand(-1, N_ROWS), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p, y: torch.zeros(len(p)), "must give a tensor made from the predictions, but gave tensor"),
        (lambda p, y: 0.5, r"must give a tensor made from the predictions, but gave 0\.5"),
        (lambda p, y: p.sum(0), r'of the 12 rows.* of shape \(3,\).*reduction="none"'),
        (lambda p, y: p.mean(), r'of the 12 rows.* of shape \(\).*reduction="none"'),
    ],
    ids=["constant", "number", "sum", "mean with weights"],
)
def test_a_function_that_gives_no_row_losses_is_an_error(function, message):
    loss = CallableLoss(function, LogLoss(3), has_sample_weight=True)
    with pytest.raises(ValueError, match=message):
        _delta_and_losses(loss, _logits(loss, 1), torch.zeros(1, 1, N_ROWS, dtype=torch.int64))


def test_a_function_leaves_output_activation_and_score():
    replaced = LogLoss(3)
    loss = CallableLoss(_cross_entropy, replaced, has_sample_weight=False)
    assert loss.out_activation == "softmax"
    predictions, targets = torch.softmax(_logits(loss, 1), 1), torch.arange(N_ROWS).remainder(3)[None, None]
    assert loss.score(predictions, targets, None) == replaced.score(predictions, targets, None)


def test_losses_of_equal_key_are_the_same_function():
    assert HuberLoss(2).stack_key() == HuberLoss(2).stack_key()
    others = [HuberLoss(2), HuberLoss(1), HalfSquaredError(2), QuantileLoss(2, 0.5), QuantileLoss(2, 0.6)]
    others += [CallableLoss(_cross_entropy, LogLoss(n), has_sample_weight=w) for n in (2, 3) for w in (False, True)]
    others += [CallableLoss(functional.cross_entropy, LogLoss(3), has_sample_weight=False)]
    assert len({loss.stack_key() for loss in others}) == len(others)
    assert (
        others[-1].stack_key()
        == CallableLoss(functional.cross_entropy, LogLoss(3), has_sample_weight=False).stack_key()
    )
