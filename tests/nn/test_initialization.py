"""Initial weights against scikit-learn's and those of `torch.nn.init`."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import nn

from sktorch_mlp._nn.initialization import WEIGHT_INITS, initial_parameters
from tests.nn.helpers import INITS

UNITS = (5, 4, 6, 3)


def _assert_equal(ours, expected):
    for values, expected_values in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(values, expected_values)


@pytest.mark.parametrize("hidden", [(4, 6), (4,), ()], ids=str)
@pytest.mark.parametrize("activation", ["relu", "logistic"])
def test_auto_matches_sklearn(activation, hidden):
    # With a learning rate of nothing scikit-learn's weights after a fit are those before it.
    X, y = np.random.RandomState(0).randn(10, 5), np.arange(10) % 3
    theirs = MLPClassifier(hidden, activation, learning_rate_init=1e-300, max_iter=1, random_state=7, alpha=0)
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        theirs.fit(X, y)
    # An activation that no layer has does not count here; scikit-learn's bound goes by it all the same.
    activations = [activation] * (len(hidden) + 1) if not hidden else activation
    coefs, intercepts = initial_parameters((5, *hidden, 3), activations, np.random.RandomState(7))
    _assert_equal(coefs + intercepts, theirs.coefs_ + theirs.intercepts_)


def test_each_layer_goes_by_its_own_activation_and_the_outputs_by_the_last():
    mixed = initial_parameters(UNITS, ["relu", "logistic"], np.random.RandomState(0))
    relu, logistic = (initial_parameters(UNITS, name, np.random.RandomState(0)) for name in ("relu", "logistic"))
    for i in range(2):
        _assert_equal(mixed[i], [relu[i][0], logistic[i][1], logistic[i][2]])


@pytest.mark.parametrize("weight_init", INITS, ids=str)
def test_named_inits_match_pytorch(weight_init):
    assert {*WEIGHT_INITS, ("normal", 0.3)} == {*INITS, "torch"}
    coefs, intercepts = initial_parameters(UNITS, "relu", np.random.RandomState(0), weight_init)
    generator = torch.Generator().manual_seed(int(np.random.RandomState(0).randint(np.iinfo(np.int32).max)))
    for coef in coefs:
        weight = torch.empty(coef.shape[::-1], dtype=torch.float64)
        np.testing.assert_array_equal(coef.T, INITS[weight_init](weight, generator=generator))
    _assert_equal(intercepts, [np.zeros(n) for n in UNITS[1:]])


def test_torch_is_the_default_of_linear():
    coefs, intercepts = initial_parameters(UNITS, "relu", np.random.RandomState(0), "torch")
    with torch.random.fork_rng():
        torch.manual_seed(int(np.random.RandomState(0).randint(np.iinfo(np.int32).max)))
        for coef, intercept in zip(coefs, intercepts, strict=True):
            linear = nn.Linear(*coef.shape, dtype=torch.float64)
            np.testing.assert_array_equal(coef.T, linear.weight.detach())
            # PyTorch divides by the root of n_in where we take a power: one rounding.
            np.testing.assert_allclose(intercept, linear.bias.detach(), rtol=1e-15)
