"""SGD against scikit-learn's, PyTorch's optimizers against themselves, and what all optimizers share: their state."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.neural_network._stochastic_optimizers import SGDOptimizer
from torch import nn

from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._training.adam import Adam, AdamW
from sktorch_mlp._training.optimizers import SGD, TorchOptimizer
from sktorch_mlp._training.schedules import Adaptive, Cosine, InverseScaling, OneCycle, Schedule
from tests.training.stepping import N_STEPS, descend, descend_with, gradients, random_network

RATES = [1e-3, 1e-2, 0.1]


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_sgd_matches_sklearn(n_networks, nesterov, momentum):
    expected = descend_with(
        lambda params, k: SGDOptimizer(params, RATES[k], "constant", momentum, nesterov), n_networks
    )
    optimizer = SGD([*map(Schedule, RATES[:n_networks])], [momentum] * n_networks, nesterov)
    reached = descend(random_network(n_networks), optimizer, gradients(n_networks))
    np.testing.assert_allclose(reached, expected, rtol=1e-12, atol=1e-14)


def test_sgd_mixes_momentum_zero_with_others():
    momenta = [0.0, 0.9]
    expected = descend_with(lambda params, k: SGDOptimizer(params, 0.1, "constant", momenta[k], True), 2)
    optimizer = SGD([Schedule(0.1), Schedule(0.1)], momenta, True)
    np.testing.assert_allclose(descend(random_network(2), optimizer, gradients(2)), expected, rtol=1e-12, atol=1e-14)


# Optimizers of PyTorch -----------------------------------------------------------------

TORCH = {
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5}),
    "adamax": (torch.optim.Adamax, {}),
    "torch.sgd": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("normalization", [None, "batch"])
@pytest.mark.parametrize("name", TORCH)
def test_an_optimizer_of_pytorch_takes_the_tensors_of_each_layer(name, normalization):
    optimizer_class, params = TORCH[name]
    spec = NetworkSpec((3, 4, 2), ("relu",), normalization=normalization, dtype=torch.float64)
    network, reference = StackedMLP(spec), StackedMLP(spec)
    for stack in (network, reference):
        stack.flat.data.normal_(generator=torch.Generator().manual_seed(0))
    coefs, intercepts = reference.views(reference.flat.detach())
    norms = [view for pair in reference.norm_views(reference.flat.detach()) for view in pair]
    parameters = [nn.Parameter(view[0]) for view in (*coefs, *intercepts, *norms)]
    theirs = optimizer_class(parameters, lr=0.01, **params)
    ours = TorchOptimizer([Schedule(0.01)], optimizer_class, params)
    ours.bind(network, N_STEPS)
    generator = torch.Generator().manual_seed(1)
    for _ in range(N_STEPS):
        gradient = torch.randn(network.flat.shape, generator=generator, dtype=torch.float64)
        network.grad.copy_(gradient)
        coef_grads, intercept_grads = network.views(gradient)
        norm_grads = [view for pair in network.norm_views(gradient) for view in pair]
        for parameter, grad in zip(parameters, (*coef_grads, *intercept_grads, *norm_grads), strict=True):
            parameter.grad = grad[0]
        theirs.step()
        with torch.no_grad():
            (step,) = ours.steps(1)
            step()
    assert torch.equal(network.flat, reference.flat)


def test_an_optimizer_of_pytorch_follows_the_schedule():
    optimizer = TorchOptimizer([OneCycle(0.1, 1, 0.3)], torch.optim.SGD, {})
    expected = SGD([OneCycle(0.1, 1, 0.3)], [0.0], True)
    reached = [descend(random_network(1), o, gradients(1)) for o in (optimizer, expected)]
    np.testing.assert_allclose(*reached, rtol=1e-12)


def test_an_optimizer_of_pytorch_trains_one_network():
    optimizer = TorchOptimizer([Schedule(0.1)], torch.optim.SGD, {})
    assert optimizer.stack_key() is None
    assert not optimizer.can_be_captured


# State ---------------------------------------------------------------------------------


def _torch_optimizer(name):
    return TorchOptimizer([Cosine(0.01, 9, 0.2)], *TORCH[name])


#: Optimizers of three networks with different settings, planned rates among them.
STACKS = {
    "sgd": lambda: SGD([Schedule(0.1), Cosine(0.2, 3, 0.5), Adaptive(0.3)], [0.9, 0.0, 0.5], True),
    "plain_sgd": lambda: SGD([*map(Schedule, RATES)], [0.0] * 3, False),
    "adam": lambda: Adam(
        [Schedule(0.1), InverseScaling(0.2, 0.5), OneCycle(0.3, 2, 0.3)], [0.9] * 3, [0.99] * 3, [1e-8] * 3
    ),
    "adamw": lambda: AdamW([*map(Schedule, RATES)], [0.9, 0.8, 0.9], [0.99] * 3, [1e-8] * 3, [0.1, 0.0, 0.5]),
}
#: Optimizers of one network.
SINGLE = {name: partial(_torch_optimizer, name) for name in TORCH}


@pytest.mark.parametrize("networks", [[0, 2], [1], [2, 1, 0]], ids=str)
@pytest.mark.parametrize("name", STACKS)
def test_a_selected_and_pickled_optimizer_goes_on_as_before(name, networks):
    network, optimizer = random_network(3), STACKS[name]()
    descend(network, optimizer, gradients(3))
    part, selected = network.select(networks), pickle.loads(pickle.dumps(optimizer)).select(networks)
    expected = descend(network, optimizer, gradients(3, seed=2))[networks]
    reached = descend(part, selected, gradients(3, networks, seed=2))
    # A stack computes with tensors of rates where one network takes numbers: other roundings.
    np.testing.assert_allclose(reached, expected, rtol=1e-12, atol=1e-14)
    assert [s.state_dict() for s in selected.schedules] == [optimizer.schedules[k].state_dict() for k in networks]


@pytest.mark.parametrize("name", STACKS)
def test_joined_optimizers_go_on_as_each(name):
    whole = STACKS[name]()
    parts = [(random_network(3, [k]), copy.deepcopy(whole).select([k])) for k in range(3)]
    for k, (network, optimizer) in enumerate(parts):
        descend(network, optimizer, gradients(3, [k]))
    joined_network = StackedMLP.join([network for network, _ in parts])
    joined = type(whole).join([copy.deepcopy(optimizer) for _, optimizer in parts])
    reached = descend(joined_network, joined, gradients(3, seed=2))
    for k, (network, optimizer) in enumerate(parts):
        expected = descend(network, optimizer, gradients(3, [k], seed=2))
        np.testing.assert_allclose(reached[k : k + 1], expected, rtol=1e-12, atol=1e-14)


def test_select_and_join_share_schedules_and_copy_moments():
    optimizer = STACKS["adam"]()
    descend(random_network(3), optimizer, gradients(3))
    selected = optimizer.select([2, 0])
    assert selected.schedules == [optimizer.schedules[2], optimizer.schedules[0]]
    joined = Adam.join([selected, optimizer.select([1])])
    assert joined.schedules[0] is optimizer.schedules[2]
    assert joined.n_steps == [N_STEPS] * 3
    joined.first_moment.zero_()
    selected.second_moment.zero_()
    assert optimizer.first_moment.count_nonzero() > 0
    assert optimizer.second_moment.count_nonzero() > 0


@pytest.mark.parametrize("name", [*STACKS, *SINGLE])
def test_a_state_dict_restores_an_optimizer(name):
    """One state may be loaded more than once, and into an optimizer that has not taken a step."""
    make = (STACKS | SINGLE)[name]
    optimizer = make()
    n_networks = optimizer.n_networks
    network = random_network(n_networks)
    descend(network, optimizer, gradients(n_networks))
    flat, state = network.flat.detach().clone(), copy.deepcopy(optimizer.state_dict())
    expected = descend(network, optimizer, gradients(n_networks, seed=2)).copy()
    for restored in (optimizer, optimizer, make()):
        network.flat.data.copy_(flat)
        restored.load_state_dict(state)
        np.testing.assert_array_equal(descend(network, restored, gradients(n_networks, seed=2)), expected)


def test_optimizers_of_equal_key_can_be_one():
    assert SGD([Schedule(0.1)], [0.9], True).stack_key() == SGD([Cosine(0.3, 2, 0.1)], [0.5], True).stack_key()
    assert SGD([Schedule(0.1)], [0.9], True).stack_key() != SGD([Schedule(0.1)], [0.9], False).stack_key()
    adam, adamw = Adam([Schedule(0.1)], [0.9], [0.9], [1e-8]), AdamW([Schedule(0.1)], [0.9], [0.9], [1e-8], [0.0])
    assert adam.stack_key() != adamw.stack_key()


def test_settings_keys_tell_networks_with_equal_rates():
    optimizer = Adam([Schedule(0.1), Schedule(0.1), Schedule(0.2)], [0.9] * 3, [0.99] * 3, [1e-8] * 3)
    keys = [optimizer.settings_key(k) for k in range(3)]
    assert keys[0] == keys[1] < keys[2]
    optimizer.n_steps[1] = 1
    assert optimizer.settings_key(1) != keys[0]


def test_moments_follow_the_precision_of_the_network():
    optimizer = SGD([Schedule(0.1)], [0.9], True)
    optimizer.velocity = torch.ones(1, 26, dtype=torch.float32)
    optimizer.allocate(random_network(1))
    assert optimizer.velocity.dtype == torch.float64
    assert (optimizer.velocity == 1).all()
