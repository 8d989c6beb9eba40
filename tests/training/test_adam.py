"""Adam against scikit-learn's, and AdamW against PyTorch's, by PyTorch's kernel and in five calls."""

import numpy as np
import pytest
import torch
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

from sktorch_mlp._training import compat
from sktorch_mlp._training.adam import Adam, AdamW
from sktorch_mlp._training.scaled_adam import InputScalingAdamW
from sktorch_mlp._training.schedules import Adaptive, OneCycle, Schedule
from tests.training.stepping import (
    N_STEPS,
    descend,
    descend_with,
    descend_with_torch,
    gradients,
    random_network,
    take_steps,
)


@pytest.fixture(params=["kernel", "five calls"], autouse=True)
def kernel(request, monkeypatch):
    """Both ways to compute a step: by PyTorch's kernel, and without it."""
    if request.param == "five calls":
        monkeypatch.delattr(torch, "_fused_adam_")
    assert (compat.fused_adam(torch.zeros(1)) is None) == (request.param == "five calls")


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.5, 0.0)])
def test_adam_matches_sklearn(n_networks, betas):
    rates, epsilons = [1e-3, 1e-2, 0.1][:n_networks], [1e-8, 1e-4, 1e-10][:n_networks]
    expected = descend_with(lambda params, k: AdamOptimizer(params, rates[k], *betas, epsilons[k]), n_networks)
    optimizer = Adam([*map(Schedule, rates)], [betas[0]] * n_networks, [betas[1]] * n_networks, epsilons)
    reached = descend(random_network(n_networks), optimizer, gradients(n_networks))
    np.testing.assert_allclose(reached, expected, rtol=1e-12, atol=1e-14)


def test_adam_matches_pytorch_with_epsilon_inside_the_bias_correction():
    def change(optimizer, t):
        optimizer.param_groups[0]["eps"] = 1e-8 / (1 - 0.999**t) ** 0.5

    expected = descend_with_torch(lambda params: torch.optim.Adam(params, lr=0.01), change)
    reached = descend(random_network(1), Adam([Schedule(0.01)], [0.9], [0.999], [1e-8]), gradients(1))
    np.testing.assert_allclose(reached, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_matches_pytorch_with_decay_of_the_coefficients_alone(decay, n_networks):
    network, expected = random_network(n_networks), random_network(n_networks).flat.detach()
    sizes = [network.n_coefs, expected.shape[1] - network.n_coefs]
    for k in range(n_networks):
        parts = [torch.nn.Parameter(part) for part in expected[k].split(sizes)]
        coefs, others = ({"params": [part]} for part in parts)
        reference = torch.optim.AdamW([coefs | {"weight_decay": decay}, others | {"weight_decay": 0.0}], lr=0.01)
        for gradient in gradients(n_networks):
            for part, grad in zip(parts, gradient[k].split(sizes), strict=True):
                part.grad = grad
            reference.step()
    settings = [0.9] * n_networks, [0.999] * n_networks, [1e-8] * n_networks, [decay] * n_networks
    optimizer = AdamW([Schedule(0.01) for _ in range(n_networks)], *settings)
    np.testing.assert_allclose(descend(network, optimizer, gradients(n_networks)), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n_networks", [1, 3])
def test_scales_of_inputs_match_pytorchs_adamw_on_two_factors(n_networks):
    network, expected = random_network(n_networks), random_network(n_networks)
    scales = []
    for k in range(n_networks):
        coefs, intercepts = ([part[k].detach() for part in parts] for parts in expected.views())
        first, deeper, *others = map(torch.nn.Parameter, (*coefs, *intercepts))
        scale = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        groups = [
            {"params": [first, deeper], "weight_decay": 0.3},
            {"params": others, "weight_decay": 0.0},
            {"params": [scale], "weight_decay": 0.0, "lr": 0.01 * 6},
        ]
        reference = torch.optim.AdamW(groups, lr=0.01)
        for gradient in gradients(n_networks):
            (of_product, *of_coefs), of_intercepts = ([part[k] for part in parts] for parts in network.views(gradient))
            reference.zero_grad()
            (first * scale).backward(of_product)
            for parameter, grad in zip((deeper, *others), (*of_coefs, *of_intercepts), strict=True):
                parameter.grad = grad.clone()
            reference.step()
        coefs[0].mul_(scale.detach())
        scales.append(scale.detach().numpy())
    settings = ([value] * n_networks for value in (0.9, 0.999, 1e-8, 0.3, 6.0))
    optimizer = InputScalingAdamW([Schedule(0.01) for _ in range(n_networks)], *settings)
    reached = descend(network, optimizer, gradients(n_networks))
    np.testing.assert_allclose(reached, expected.flat.detach(), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(optimizer.scales, scales, rtol=1e-11)
    assert np.ptp(scales) > 0.1


def test_a_scale_of_zero_does_no_harm():
    network = random_network(1)
    optimizer = InputScalingAdamW([Schedule(0.01)], [0.9], [0.999], [1e-8], [0.0], [6.0])
    optimizer.bind(network, N_STEPS)
    optimizer.scales[0, 1] = 0.06  # where a first step leads from to zero
    network.grad.fill_(1.0)
    network.views(network.flat.detach())[0][0].fill_(1.0).mul_(optimizer.scales)
    for _ in range(3):
        with torch.no_grad():
            for step in optimizer.steps(1):
                step()
    assert torch.isfinite(network.flat).all()


MAKE = {
    "adam": Adam,
    "adamw": lambda *settings: AdamW(*settings, [0.1, 0.1, 0.0, 0.1, 0.1]),
    "scaling": lambda *settings: InputScalingAdamW(*settings, [0.1, 0.1, 0.0, 0.1, 0.1], [1.0, 1.0, 6.0, 6.0, 6.0]),
}


@pytest.mark.parametrize("name", MAKE)
def test_neighbors_with_equal_settings_are_updated_as_each_alone(name):
    """In one call, unless their rates depend on what training reaches."""

    def make(networks):
        schedules = [Schedule(0.1), Schedule(0.1), OneCycle(0.1, 1, 0.3), Adaptive(0.1), Adaptive(0.1)]
        optimizer = MAKE[name](schedules, [0.9] * 5, [0.99] * 5, [1e-8, 1e-8, 1e-8, 1e-6, 1e-6]).select(networks)
        network = random_network(5, networks)
        optimizer.bind(network, N_STEPS)
        schedules[4].learning_rate = 0.02  # it has met a plateau since
        return network, optimizer

    reached = take_steps(*make(range(5)), gradients(5))
    for k in range(5):
        expected = take_steps(*make([k]), gradients(5, [k]))
        np.testing.assert_allclose(reached[k : k + 1], expected, rtol=1e-12, atol=1e-14)


def test_a_step_counts_when_it_is_taken():
    """A fit that is interrupted goes on with the bias correction of its steps."""
    optimizer = Adam([Schedule(0.1)], [0.9], [0.99], [1e-8])
    optimizer.bind(random_network(1), 5)
    steps = iter(optimizer.steps(5))
    next(steps)()
    next(steps)()
    assert optimizer.n_steps == [1]
    next(steps)
    assert optimizer.n_steps == [2]
