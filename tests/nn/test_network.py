"""The stacked network: its memory, its forward pass, its members, and stacks made from stacks."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sktorch_mlp._nn.activations import ACTIVATIONS
from sktorch_mlp._nn.dropout import Dropout
from sktorch_mlp._nn.initialization import initial_parameters
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP, per_hidden_layer
from tests.nn.helpers import random_stack, seeded

UNITS = (5, 4, 3, 2)


def _with_all_state(n_networks, seed=0):
    """A stack with batch normalization and dropout, whose tensors are all random."""
    network = random_stack(UNITS, n_networks=n_networks, normalization="batch")
    network.flat.data.normal_(generator=seeded(seed))
    network.running.uniform_(0.5, 2, generator=seeded(seed + 1))
    network.dropout = Dropout([[0.1 * k, 0.5] for k in range(n_networks)], [seeded(k) for k in range(n_networks)])
    return network


# Memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
@pytest.mark.parametrize("sparse_input", [False, True])
def test_views_cover_the_flat_parameter_once(sparse_input, normalization):
    spec = NetworkSpec(UNITS, ("relu",) * 2, normalization=normalization, sparse_input=sparse_input)
    network = StackedMLP(spec, 2)
    network.flat.data.zero_()
    coefs, intercepts = network.views(network.flat.detach())
    norms = [view for pair in network.norm_views(network.flat.detach()) for view in pair]
    assert [tuple(coef.shape) for coef in coefs] == [(2, 4, 5), (2, 3, 4), (2, 2, 3)]
    assert [tuple(intercept.shape) for intercept in intercepts] == [(2, 4), (2, 3), (2, 2)]
    assert [tuple(view.shape) for view in norms] == ([(2, 4)] * 2 + [(2, 3)] * 2 if normalization else [])
    for view in coefs + intercepts + norms:
        view += 1
    assert (network.flat == 1).all()
    assert network.n_coefs == spec.n_coefs == sum(coef[0].numel() for coef in coefs)
    for coef in coefs:
        coef += 1
    assert (network.flat[:, : network.n_coefs] == 2).all()
    assert (network.flat[:, network.n_coefs :] == 1).all()


@pytest.mark.parametrize("units", [(5, 2), (16, 2), (17, 2)], ids=str)
@pytest.mark.parametrize("sparse_input", [False, True])
def test_few_or_sparse_features_are_stored_input_major(units, sparse_input):
    spec = NetworkSpec(units, (), sparse_input=sparse_input)
    (coef,), _ = StackedMLP(spec).views()
    assert spec.is_input_major == (sparse_input or units[0] <= 16)
    assert coef[0].T.is_contiguous() == spec.is_input_major


def test_running_views_cover_the_running_statistics_once():
    network = StackedMLP(NetworkSpec(UNITS, ("relu",) * 2, normalization="batch"), 2)
    for mean, variance in network.running_views():
        assert (mean == 0).all()
        assert (variance == 1).all()
        mean += 1
    assert (network.running == 1).all()
    assert network.running.shape == (2, 2 * (4 + 3))
    for normalization in (None, "layer"):
        plain = StackedMLP(NetworkSpec(UNITS, ("relu",) * 2, normalization=normalization), 2)
        assert plain.running.shape == (2, 0)
        assert plain.running_views() == []


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_new_normalizations_change_nothing_but_mean_and_variance(normalization):
    network = StackedMLP(NetworkSpec(UNITS, ("relu",) * 2, normalization=normalization), 2)
    for scale, shift in network.norm_views():
        assert (scale == 1).all()
        assert (shift == 0).all()


@pytest.mark.parametrize("sparse_input", [False, True])
def test_weights_are_given_in_the_shapes_of_sklearn(sparse_input):
    spec = NetworkSpec(UNITS, ("tanh",) * 2, dtype=torch.float64, sparse_input=sparse_input, normalization="batch")
    network = StackedMLP(spec, 2)
    coefs, intercepts = initial_parameters(UNITS, "tanh", np.random.RandomState(0))
    names = ["weight", "bias", "running_mean", "running_var"]
    norms = [{name: np.random.RandomState(1).rand(n) + i for i, name in enumerate(names)} for n in UNITS[1:-1]]
    network.set_weights(1, coefs, intercepts, norms)
    assert (network.flat[0, : -2 * (4 + 3)] == 0).all()
    for view, values in zip(network.views()[0], coefs, strict=True):
        np.testing.assert_array_equal(view[1].T.detach().numpy(), values)
    for view, values in zip(network.views()[1], intercepts, strict=True):
        np.testing.assert_array_equal(view[1].detach().numpy(), values)
    for views, arrays in zip(network.norm_tensors(), norms, strict=True):
        for view, name in zip(views, names, strict=True):
            np.testing.assert_array_equal(view[1].detach(), arrays[name])
            assert (view[0] == (1 if name in ("weight", "running_var") else 0)).all()


# Forward pass --------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_is_that_of_the_members(activation):
    network = random_stack(UNITS, activation, 3)
    X = torch.randn(7, 5, dtype=torch.float64, generator=seeded(1))
    stacked = network(X)
    assert stacked.shape == (3, 2, 7)
    for k in range(3):
        torch.testing.assert_close(stacked[k], network.member(k)(X).T, rtol=1e-12, atol=1e-12)
    each_its_own = torch.stack([X, 2 * X, 3 * X])
    for k in range(3):
        torch.testing.assert_close(network(each_its_own)[k], network.member(k)((k + 1) * X).T, rtol=1e-12, atol=1e-12)


def test_a_member_is_plain_modules_over_the_same_memory():
    network = random_stack(UNITS, ("relu", torch.sin), 2)
    member = network.member(1)
    assert [type(module).__name__ for module in member] == ["Linear", "ReLU", "Linear", "FunctionModule", "Linear"]
    assert not member.training
    network.flat.data[1].zero_()
    assert all((parameter == 0).all() for parameter in member.parameters())
    member[0].weight.data.fill_(3.0)
    assert (network.views()[0][0][1] == 3).all()
    assert (network.views()[0][0][0] != 3).all()


@pytest.mark.parametrize(("normalization", "module"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_a_member_has_normalization_and_dropout(normalization, module):
    network = random_stack(UNITS, "tanh", 2, normalization=normalization)
    network.dropout = Dropout([[0.0, 0.0], [0.25, 0.0]], [seeded(0), seeded(1)])
    layers = list(network.member(1))
    assert [type(layer) for layer in layers] == [
        nn.Linear, module, nn.Tanh, nn.Dropout, nn.Linear, module, nn.Tanh, nn.Linear,
    ]  # fmt: skip
    assert layers[3].p == 0.25
    assert not any(isinstance(layer, nn.Dropout) for layer in network.member(0))
    network.norm_views()[1][0].data[1].fill_(7.0)
    assert (layers[5].weight == 7).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [("relu", ("relu",) * 2), (torch.sin, (torch.sin,) * 2), (["relu", "tanh"], ("relu", "tanh")), (0.5, (0.5, 0.5))],
    ids=["name", "function", "list", "number"],
)
def test_one_value_holds_for_all_hidden_layers(values, expected):
    assert per_hidden_layer(values, 2) == expected


# Stacks from stacks --------------------------------------------------------------------


@pytest.mark.parametrize("networks", [[0, 3], [2], [3, 0, 1]], ids=str)
def test_select_copies_some_networks(networks):
    network = _with_all_state(4)
    selected = network.select(networks)
    assert selected.n_networks == len(networks)
    assert selected.spec == network.spec
    assert torch.equal(selected.flat, network.flat[networks])
    assert torch.equal(selected.running, network.running[networks])
    assert selected.dropout.rates == [network.dropout.rates[k] for k in networks]
    selected.flat.data.zero_()
    selected.running.zero_()
    assert (network.flat != 0).all()
    assert (network.running != 0).all()


def test_join_puts_networks_one_after_the_other():
    parts = [_with_all_state(n_networks, seed=10 * n_networks) for n_networks in (1, 2)]
    joined = StackedMLP.join(parts)
    assert joined.n_networks == 3
    assert torch.equal(joined.flat, torch.cat([part.flat for part in parts]))
    assert torch.equal(joined.running, torch.cat([part.running for part in parts]))
    assert joined.dropout.rates == [[0.0, 0.5], [0.0, 0.5], [0.1, 0.5]]
    X = torch.randn(7, 5, dtype=torch.float64, generator=seeded(1))
    torch.testing.assert_close(joined(X), torch.cat([part(X) for part in parts]), rtol=1e-12, atol=1e-12)
    joined.flat.data.zero_()
    assert all((part.flat != 0).all() for part in parts)


def test_select_undoes_join():
    network = random_stack(UNITS, n_networks=3)
    again = StackedMLP.join([network.select([k]) for k in range(3)])
    assert torch.equal(again.flat, network.flat)
    assert again.dropout is None


def test_a_state_dict_restores_parameters_and_running_statistics():
    network = _with_all_state(2)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert set(state) == {"flat", "running"}
    network.flat.data.zero_()
    network.running.zero_()
    network.load_state_dict(state)
    expected = _with_all_state(2)
    assert torch.equal(network.flat, expected.flat)
    assert torch.equal(network.running, expected.running)


SPEC = NetworkSpec(UNITS, ("relu", torch.sin))


@pytest.mark.parametrize(
    "change",
    [
        {"layer_units": (5, 4, 2, 2)},
        {"activations": ("relu", torch.cos)},
        {"activations": ("tanh", torch.sin)},
        {"normalization": "layer"},
        {"sparse_input": True},
        {"bfloat16": True},
        {"dtype": torch.float64},
        {"device": torch.device("meta")},
    ],
    ids=lambda change: "-".join(change),
)
def test_networks_of_equal_key_can_be_in_one_stack(change):
    assert replace(SPEC).stack_key() == SPEC.stack_key()
    assert replace(SPEC, **change).stack_key() != SPEC.stack_key()


def test_functions_that_do_the_same_are_of_equal_key():
    specs = [NetworkSpec(UNITS, (partial(nn.functional.leaky_relu, negative_slope=0.2), "tanh")) for _ in range(2)]
    assert specs[0].stack_key() == specs[1].stack_key()


def test_networks_that_drop_units_of_other_layers_are_of_another_key():
    keys = []
    for rates in (None, [0.0, 0.5], [0.0, 0.1], [0.5, 0.5]):
        network = random_stack(UNITS)
        network.dropout = None if rates is None else Dropout([rates], [seeded(0)])
        keys.append(network.stack_key())
    assert keys[1] == keys[2]
    assert len(set(keys)) == 3


def test_autograd_cannot_be_captured():
    assert random_stack(UNITS).can_be_captured
    assert not random_stack(UNITS, ("relu", torch.sin)).can_be_captured
    assert _with_all_state(1).can_be_captured  # with dropout, whose streams a graph registers
