"""Weights of candidates against a search written out, and losses against scikit-learn's."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import log_loss, mean_squared_error

from sktorch_mlp._estimators.recipe import default_settings
from sktorch_mlp._estimators.selection import (
    AUTO_HYPERPARAMETERS,
    draw_candidates,
    greedy_weights,
    row_losses,
    scale_logits,
)

RNG = np.random.RandomState(0)
N_ROWS = 200
LABELS = RNG.randint(3, size=N_ROWS)
WEIGHTS = RNG.rand(N_ROWS)


def _candidates(n):
    """Probabilities of three classes, each with errors of its own."""
    logits = 1.5 * np.eye(3)[LABELS] + RNG.randn(n, N_ROWS, 3) * np.linspace(1.2, 1.25, n)[:, None, None]
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_losses_are_those_of_sklearn():
    (outputs,) = _candidates(1)
    expected = log_loss(LABELS, outputs)
    assert row_losses(outputs, LABELS[None], "softmax").mean() == pytest.approx(expected)
    binary = outputs[:, :2] / 1.01
    indicators = np.stack([LABELS == 0, LABELS == 1]).astype(float)
    expected = sum(log_loss(indicators[i], binary[:, i]) for i in range(2))
    assert row_losses(binary, indicators, "logistic").mean() == pytest.approx(expected)
    expected = mean_squared_error(indicators.T, binary)
    assert row_losses(binary, indicators, "identity").mean() == pytest.approx(expected)


@pytest.mark.parametrize("row_weights", [None, WEIGHTS])
def test_each_round_adds_the_candidate_that_helps_most(row_weights):
    outputs = _candidates(5)
    single = np.stack([row_losses(own, LABELS[None], "softmax") for own in outputs])
    best_single = single[np.average(single, axis=1, weights=row_weights).argmin()]
    excess = np.average(single - best_single, axis=1, weights=row_weights)
    errors = np.sqrt(np.average((single - best_single - excess[:, None]) ** 2, axis=1, weights=row_weights) / N_ROWS)
    as_good = np.flatnonzero(excess <= errors)
    assert 1 < len(as_good) < 5
    chosen, best = [], (np.inf, None)
    for _ in range(50):
        losses = [log_loss(LABELS, outputs[[*chosen, c]].mean(0), sample_weight=row_weights) for c in as_good]
        chosen.append(int(as_good[np.argmin(losses)]))
        if min(losses) < best[0] - 1e-12:
            best = min(losses), np.bincount(chosen, minlength=5) / len(chosen)
    weights = greedy_weights(outputs, LABELS[None], row_weights, "softmax")
    np.testing.assert_allclose(weights, best[1])
    assert np.count_nonzero(weights) > 1


@pytest.mark.parametrize("activation", ["softmax", "logistic", "identity"])
def test_candidates_are_compared_as_the_averages_that_they_become(activation):
    """One that knows more, but is too sure of itself, wins against one that is careful."""
    rng = np.random.RandomState(0)
    truth = rng.randn(2000, 1)
    knows, careful = truth + 0.3 * rng.randn(2000, 1), truth + rng.randn(2000, 1)
    if activation == "identity":
        outputs, targets = [2 * knows, 0.5 * careful], truth.T
    else:
        shares = expit(2 * truth)
        targets = (rng.rand(2000, 1) < shares).T.astype(int)
        outputs = [expit(factor * z) for factor, z in ((8, knows), (0.8, careful))]
        if activation == "softmax":
            outputs = [np.hstack([1 - own, own]) for own in outputs]
    np.testing.assert_array_equal(greedy_weights(outputs, targets, None, activation), [0, 1])
    factors = (1.0, 0.5, 0.25)
    np.testing.assert_array_equal(greedy_weights(outputs, targets, None, activation, factors), [1, 0])


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_scaled_logits(factor):
    logits = torch.from_numpy(RNG.randn(20, 3))
    for activation, activate in (
        ("softmax", lambda z: z.softmax(1)),
        ("logistic", torch.sigmoid),
        ("identity", torch.clone),
    ):
        scaled = scale_logits(activate(logits).numpy(), factor, activation)
        np.testing.assert_allclose(scaled, activate(factor * logits), rtol=1e-10)
    certain = np.array([[0.0, 1.0]])
    for activation in ("softmax", "logistic"):
        np.testing.assert_array_equal(scale_logits(certain, factor, activation), certain)


def test_a_useless_candidate_has_no_weight():
    good, bad = np.eye(3)[LABELS] * 0.9 + 0.1 / 3, np.full((N_ROWS, 3), 1 / 3)
    np.testing.assert_array_equal(greedy_weights([bad, good], LABELS[None], None, "softmax"), [0, 1])


def test_candidates_are_drawn_as_documented():
    default = default_settings((256, 256), "auto", None, n_rows=5000, n_train=4375, n_numbers=8, is_regression=False)
    drawn = draw_candidates(default, "auto", 30, 4375, np.random.RandomState(0))
    assert drawn[0] == default
    assert len(set(drawn)) == 30
    for name, options in AUTO_HYPERPARAMETERS.items():
        values = {getattr(settings, name) for settings in drawn[1:]}
        assert len(values) > 1
        if isinstance(options, list):
            assert values <= set(options)
        else:
            low, high = options.support()
            assert all(low <= value <= high for value in values)
    assert {settings.batch_size for settings in drawn} == {default.batch_size}


@pytest.mark.parametrize(
    ("n_rows", "is_regression", "expected"),
    [
        # rate, dropout, bins, batch, epochs
        (200, False, (1.5e-3, 0.15, 5, 16, 60)),
        (3000, False, (1.5e-3, 0.15, 32, 164, 60)),
        (9000, False, (2.25e-3, 0.15, 32, 256, 60)),
        (100_000, False, (3e-3, 0.15, 32, 256, 10)),
        (3000, True, (1.5e-3, 0.15, 64, 164, 60)),
        (7746, True, (2.0874e-3, 0.075, 64, 256, 60)),
        (20_000, True, (3e-3, 0.0, 64, 256, 30)),
    ],
)
def test_defaults_go_by_the_size_of_the_data(n_rows, is_regression, expected):
    n_train = n_rows * 7 // 8
    settings = default_settings(
        (256, 256), "auto", None, n_rows=n_rows, n_train=n_train, n_numbers=10, is_regression=is_regression
    )
    found = settings.learning_rate_init, settings.dropout, settings.n_bins, settings.batch_size, settings.max_iter
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("n_numbers", "is_regression", "n_bins"), [(64, False, 16), (256, False, 4), (512, True, 4)])
def test_many_numbers_have_fewer_bins_each(n_numbers, is_regression, n_bins):
    sizes = {"n_rows": 10000, "n_train": 8750, "is_regression": is_regression}
    settings = default_settings((8,), "auto", None, n_numbers=n_numbers, **sizes)
    assert (settings.n_bins, settings.numerical_embedding) == (n_bins, "auto")
    too_many = default_settings((8,), "auto", None, n_numbers=513 if is_regression else 257, **sizes)
    assert too_many.numerical_embedding is None
    explicit = default_settings((8,), "piecewise_linear", None, n_numbers=5000, **sizes)
    assert (explicit.n_bins, explicit.numerical_embedding) == (4, "piecewise_linear")
