"""Update rules against scikit-learn's optimisers and PyTorch's, step by step."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from sktorch_mlp import _solvers
from sktorch_mlp._network import StackedMLP
from sktorch_mlp._schedules import Adaptive, InverseScaling, Schedule
from sktorch_mlp._solvers import SGD, Adam, minimize_lbfgs

N_STEPS = 25


def _network(n_networks, dtype=torch.float64):
    network = StackedMLP((3, 4, 2), "relu", n_networks, dtype=dtype)
    network.flat.data.normal_(generator=torch.Generator().manual_seed(0))
    network.flat.grad = torch.zeros_like(network.flat)
    return network


def _gradients(network):
    """Gradients of very different sizes, exact zeros among them."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(N_STEPS):
        gradient = torch.randn(network.flat.shape, generator=generator, dtype=torch.float64)
        gradient *= 10.0 ** torch.randint(-9, 3, network.flat.shape, generator=generator)
        gradient[:, ::7] = 0
        yield gradient


def _descend(network, solver):
    solver.bind(network, N_STEPS)
    for gradient in _gradients(network):
        network.flat.grad.copy_(gradient)
        with torch.no_grad():
            solver.step(*solver.rates(1))
    return network.flat.detach().numpy()


def _descend_like_sklearn(network, make_optimizer):
    params = [row.copy() for row in network.flat.detach().numpy()]
    optimizers = [make_optimizer([row], k) for k, row in enumerate(params)]
    for gradient in _gradients(network):
        for k, optimizer in enumerate(optimizers):
            optimizer.update_params([params[k]], [gradient[k].numpy()])
    return np.array(params)


@pytest.fixture(params=["fused", "fallback"])
def adam_kernel(request, monkeypatch):
    if request.param == "fallback":
        monkeypatch.delattr(torch, "_fused_adam_")
        assert _solvers._fused_adam(torch.zeros(1)) is None
    else:
        assert _solvers._fused_adam(torch.zeros(1)) is not None


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.5, 0.0)])
def test_adam_is_sklearns(adam_kernel, n_networks, betas):
    rates, epsilons = [1e-3, 1e-2, 0.1][:n_networks], [1e-8, 1e-4, 1e-10][:n_networks]
    expected = _descend_like_sklearn(
        _network(n_networks), lambda params, k: AdamOptimizer(params, rates[k], *betas, epsilons[k])
    )
    solver = Adam([*map(Schedule, rates)], [betas[0]] * n_networks, [betas[1]] * n_networks, epsilons)
    np.testing.assert_allclose(_descend(_network(n_networks), solver), expected, rtol=1e-12, atol=1e-14)


def test_adam_is_pytorchs_with_epsilon_inside_the_bias_correction(adam_kernel):
    network = _network(1)
    reference = torch.nn.Parameter(network.flat.detach().clone())
    optimizer = torch.optim.Adam([reference], lr=0.01)
    for t, gradient in enumerate(_gradients(network), start=1):
        optimizer.param_groups[0]["eps"] = 1e-8 / (1 - 0.999**t) ** 0.5
        reference.grad = gradient
        optimizer.step()
    descended = _descend(network, Adam([Schedule(0.01)], [0.9], [0.999], [1e-8]))
    np.testing.assert_allclose(descended, reference.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_sgd_is_sklearns(n_networks, nesterov, momentum):
    rates = [1e-3, 1e-2, 0.1][:n_networks]
    expected = _descend_like_sklearn(
        _network(n_networks),
        lambda params, k: SGDOptimizer(params, rates[k], "constant", momentum, nesterov),
    )
    solver = SGD([*map(Schedule, rates)], [momentum] * n_networks, nesterov)
    np.testing.assert_allclose(_descend(_network(n_networks), solver), expected, rtol=1e-12, atol=1e-14)


def test_sgd_mixes_momentum_zero_with_others():
    momenta = [0.0, 0.9]
    expected = _descend_like_sklearn(
        _network(2), lambda params, k: SGDOptimizer(params, 0.1, "constant", momenta[k], True)
    )
    solver = SGD([Schedule(0.1), Schedule(0.1)], momenta, True)
    np.testing.assert_allclose(_descend(_network(2), solver), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("constant", Schedule(0.5)), ("invscaling", InverseScaling(0.5, 0.3)), ("adaptive", Adaptive(0.5))],
)
def test_schedules_are_sklearns(name, schedule):
    theirs = SGDOptimizer([np.zeros(3)], 0.5, name, power_t=0.3)
    ours = SGD([schedule], [0.9], True)
    ours.bind(_network(1), 1)
    for t in range(1, 30):
        theirs.iteration_ends(100 * t)
        schedule.epoch_ends(100 * t)
        assert ours.learning_rate == [pytest.approx(theirs.learning_rate, rel=1e-15)]
        assert schedule.on_plateau()[0] == theirs.trigger_stopping("", verbose=False)
        assert ours.learning_rate == [pytest.approx(theirs.learning_rate, rel=1e-15)]


@pytest.mark.parametrize(
    "solver",
    [
        SGD([*map(Schedule, [0.1, 0.2, 0.3])], [0.9] * 3, True),
        Adam([*map(Schedule, [0.1, 0.2, 0.3])], [0.9] * 3, [0.99] * 3, [1e-8] * 3),
    ],
    ids=["sgd", "adam"],
)
def test_a_reduced_and_pickled_solver_goes_on_as_before(solver):
    network = _network(3)
    _descend(network, solver)
    reduced = _network(2)
    reduced.flat.data.copy_(network.flat[[0, 2]])
    copy = pickle.loads(pickle.dumps(solver))
    copy.keep([0, 2])

    expected = _descend(network, solver)[[0, 2]]
    gradients = [g[[0, 2]] for g in _gradients(network)]
    copy.bind(reduced, N_STEPS)
    for gradient in gradients:
        reduced.flat.grad.copy_(gradient)
        with torch.no_grad():
            copy.step(*copy.rates(1))
    np.testing.assert_allclose(reduced.flat.detach().numpy(), expected, rtol=1e-13)


def test_lbfgs_keeps_the_last_iteration_on_ctrl_c():
    calls = 0

    def objective(x):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return float(((x - 3) ** 4).sum()), 4 * (x - 3) ** 3

    result = minimize_lbfgs(objective, np.zeros(2), max_iter=100, max_fun=1000, tol=1e-12)
    assert result.interrupted
    assert result.nit >= 1
    assert result.fun == objective(result.x)[0] < objective(np.zeros(2))[0]
