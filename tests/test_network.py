"""The stacked network: its memory, its forward pass, its members."""

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier
from torch import nn

from sktorch_mlp._activations import ACTIVATIONS
from sktorch_mlp._initialisation import initial_parameters
from sktorch_mlp._network import StackedMLP

UNITS = (5, 4, 3, 2)


def _random_stack(n_networks, activation="tanh", **kwargs):
    network = StackedMLP(UNITS, activation, n_networks, dtype=torch.float64, **kwargs)
    generator = torch.Generator().manual_seed(0)
    network.flat.data.normal_(generator=generator)
    return network


@pytest.mark.parametrize("sparse_input", [False, True])
def test_views_cover_the_flat_parameter_once(sparse_input):
    network = StackedMLP(UNITS, "relu", 2, sparse_input=sparse_input)
    coefs, intercepts = network.views(network.flat.detach())
    assert [tuple(coef.shape) for coef in coefs] == [(2, 4, 5), (2, 3, 4), (2, 2, 3)]
    assert [tuple(intercept.shape) for intercept in intercepts] == [(2, 4), (2, 3), (2, 2)]
    for view in coefs + intercepts:
        view += 1
    assert (network.flat == 1).all()
    assert network.n_coefs == sum(coef[0].numel() for coef in coefs)
    for coef in coefs:
        coef += 1
    assert (network.flat[:, : network.n_coefs] == 2).all()
    assert (network.flat[:, network.n_coefs :] == 1).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_is_that_of_the_members(activation):
    network = _random_stack(3, activation)
    X = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    stacked = network(X)
    assert stacked.shape == (3, 2, 7)
    for k in range(3):
        torch.testing.assert_close(stacked[k], network.member(k)(X).T, rtol=1e-12, atol=1e-12)
    each_its_own = torch.stack([X, 2 * X, 3 * X])
    for k in range(3):
        torch.testing.assert_close(network(each_its_own)[k], network.member(k)((k + 1) * X).T, rtol=1e-12, atol=1e-12)


def test_a_member_is_plain_modules_over_the_same_memory():
    network = _random_stack(2, "relu")
    member = network.member(1)
    assert [type(module) for module in member] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    network.flat.data[1].zero_()
    assert all((parameter == 0).all() for parameter in member.parameters())
    member[0].weight.data.fill_(3.0)
    assert (network.views()[0][0][1] == 3).all()
    assert (network.views()[0][0][0] != 3).all()


def test_keep_reduces_the_stack():
    network = _random_stack(4)
    flat = network.flat.detach().clone()
    network.keep([0, 3])
    assert network.n_networks == 2
    assert torch.equal(network.flat, flat[[0, 3]])


@pytest.mark.parametrize("activation", ["relu", "logistic"])
def test_initial_parameters_are_sklearns(activation):
    # With a learning rate of nothing scikit-learn's weights after a fit are those before it.
    X, y = np.random.RandomState(0).randn(10, 5), np.arange(10) % 3
    theirs = MLPClassifier((4, 6), activation, learning_rate_init=1e-300, max_iter=1, random_state=7, alpha=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        theirs.fit(X, y)
    coefs, intercepts = initial_parameters((5, 4, 6, 3), activation, np.random.RandomState(7))
    for ours, expected in zip(coefs + intercepts, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("sparse_input", [False, True])
def test_load_takes_sklearns_arrays(sparse_input):
    network = StackedMLP(UNITS, "tanh", 2, dtype=torch.float64, sparse_input=sparse_input)
    coefs, intercepts = initial_parameters(UNITS, "tanh", np.random.RandomState(0))
    network.load(1, coefs, intercepts)
    assert (network.flat[0] == 0).all()
    for view, values in zip(network.views()[0], coefs, strict=True):
        np.testing.assert_array_equal(view[1].T.detach().numpy(), values)
    for view, values in zip(network.views()[1], intercepts, strict=True):
        np.testing.assert_array_equal(view[1].detach().numpy(), values)
