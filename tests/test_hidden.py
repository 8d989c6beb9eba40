"""Normalization, activation and dropout in training, against PyTorch's own modules and autograd, in float64."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sktorch_mlp._activations import ACTIVATIONS
from sktorch_mlp._gradients import Gradient
from sktorch_mlp._losses import LogLoss
from sktorch_mlp._network import Dropout, StackedMLP, lean
from sktorch_mlp._rows import Rows

pytestmark = pytest.mark.usefixtures("one_thread")

N_ROWS, UNITS = 11, (5, 4, 6, 3)
SEEDS = [3, 4, 5]

MODULES = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
}
NORMALIZATIONS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class _Masked(nn.Module):
    """Inverted dropout with the masks of a stream of its own, drawn unit by unit."""

    def __init__(self, rate, generator):
        super().__init__()
        self.rate, self.generator = rate, generator

    def forward(self, units):
        mask, dropout = torch.empty(units.shape[::-1], dtype=units.dtype), Dropout([[self.rate]], [self.generator])
        dropout.draw_(0, mask)
        return units * mask.T / dropout.kept(0, mask)


def _modules(network, k, activations, rates, seed):
    """The k-th network of a stack, put together from PyTorch's modules in training."""
    generator = torch.Generator().manual_seed(seed)
    coefs, intercepts = network.views(network.flat.detach())
    modules = []
    for layer, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
        linear = nn.Linear(coef.shape[2], coef.shape[1], dtype=torch.float64)
        linear.load_state_dict({"weight": coef[k], "bias": intercept[k]})
        modules.append(linear)
        if layer == len(activations):
            break
        if network.normalization is not None:
            norm = NORMALIZATIONS[network.normalization](coef.shape[1], dtype=torch.float64)
            scale, shift = network.norm_views(network.flat.detach())[layer]
            norm.weight.data.copy_(scale[k])
            norm.bias.data.copy_(shift[k])
            modules.append(norm)
        modules.append(activations[layer])
        modules.append(_Masked(rates[layer], generator))
    return nn.Sequential(*modules).train()


def _stack(n_networks, activation, normalization, dropout=0.0):
    network = StackedMLP(UNITS, activation, n_networks, normalization=normalization, dtype=torch.float64)
    network.flat.data.normal_(std=0.7, generator=torch.Generator().manual_seed(2))
    # Networks and layers have rates of their own.
    rates = [[dropout * (k + 1) / n_networks, dropout / 2] for k in range(n_networks)]
    if dropout:
        generators = [torch.Generator().manual_seed(seed) for seed in SEEDS[:n_networks]]
        network.dropout = Dropout(rates, generators)
    return network, rates


def _check(n_networks, activation, activations, normalization, dropout, weighted):
    rng = np.random.RandomState(0)
    X, y = torch.from_numpy(rng.randn(N_ROWS, UNITS[0])), torch.from_numpy(rng.randint(0, UNITS[-1], N_ROWS))
    network, rates = _stack(n_networks, activation, normalization, dropout)
    counts = torch.from_numpy(
        rng.randint(0, 3, (n_networks, N_ROWS)) if weighted else np.ones((n_networks, N_ROWS), int)
    )

    expected, losses = [], []
    for k in range(n_networks):
        module = _modules(network, k, activations, rates[k], SEEDS[k])
        # A weight of n is n equal rows, which BatchNorm1d can be given; dropout is tested without weights.
        rows = torch.arange(N_ROWS).repeat_interleave(counts[k])
        row_losses = nn.functional.cross_entropy(module(X[rows]), y[rows], reduction="none")
        row_losses.mean().backward()
        expected.append(module)
        losses.append(row_losses.detach())

    network.flat.grad = torch.full_like(network.flat, float("nan"))  # every element must be written
    loss = LogLoss(UNITS[-1])
    totals = counts.sum(1).double()
    shares = counts / totals[:, None]
    scale = lean(shares.unsqueeze(1)) if weighted else shares[0, 0]
    terms = lean(torch.empty(n_networks, 1, N_ROWS, dtype=torch.float64))
    targets = lean(y.expand(n_networks, 1, -1))
    batch = Rows.of(X.numpy(), torch.device("cpu")).take(lean(torch.arange(N_ROWS).expand(n_networks, -1)))
    with torch.no_grad():
        Gradient(network, loss, N_ROWS)(batch, targets, scale, totals, terms)
        our_losses = loss.row_losses(terms, targets).reshape(n_networks, -1)

    for k, module in enumerate(expected):
        close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
        linears = [m for m in module if isinstance(m, nn.Linear)]
        norms = [m for m in module if isinstance(m, nn.BatchNorm1d | nn.LayerNorm)]
        coefs, intercepts = network.views(network.grad)
        close([coef[k] for coef in coefs], [m.weight.grad for m in linears])
        close([intercept[k] for intercept in intercepts], [m.bias.grad for m in linears])
        ours = [view[k] for pair in network.norm_views(network.grad) for view in pair]
        close(ours, [parameter.grad for m in norms for parameter in (m.weight, m.bias)])
        ours = [view[k] for pair in network.running_views() for view in pair]
        close(ours, [t for m in norms if normalization == "batch" for t in (m.running_mean, m.running_var)])
        close(our_losses[k].repeat_interleave(counts[k]), losses[k])


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("normalization", [None, *NORMALIZATIONS])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_and_running_statistics(activation, normalization, weighted, n_networks):
    assert MODULES.keys() == ACTIVATIONS.keys()
    _check(n_networks, activation, [MODULES[activation]()] * 2, normalization, 0.0, weighted)


FUNCTIONS = {
    "function": (nn.functional.softplus, [nn.Softplus(), nn.Softplus()]),
    "module": (nn.Softsign(), [nn.Softsign(), nn.Softsign()]),
    "one a layer": (("gelu", torch.sin), [nn.GELU(), torch.sin]),
    **{name: (name, [module(), module()]) for name, module in MODULES.items()},
}


class _Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, units):
        return self.function(units)


@pytest.mark.parametrize(
    ("n_networks", "dropout"),
    [
        (1, 0.0),
        (3, 0.0),
        (1, 0.4),
        (3, 0.4),
    ],
)
@pytest.mark.parametrize("normalization", [None, *NORMALIZATIONS])
@pytest.mark.parametrize("functions", FUNCTIONS.values(), ids=FUNCTIONS)
def test_gradient_of_functions_and_under_given_masks(functions, normalization, n_networks, dropout):
    activation, modules = functions
    modules = [module if isinstance(module, nn.Module) else _Call(module) for module in modules]
    _check(n_networks, activation, modules, normalization, dropout, weighted=False)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("n_networks", [1, 3])
def test_predictions_are_those_of_modules_that_evaluate(n_networks, normalization):
    network, _ = _stack(n_networks, "gelu", normalization, 0.5)
    network.running.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    X = torch.randn(7, UNITS[0], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for k in range(n_networks):
        module = _modules(network, k, [nn.GELU()] * 2, [0.0, 0.0], 0)
        for norm, running in zip(
            [m for m in module if isinstance(m, nn.BatchNorm1d)], network.running_views(), strict=True
        ):
            norm.running_mean, norm.running_var = (tensor[k] for tensor in running)
        expected = module.eval()(X)
        torch.testing.assert_close(network(X)[k].T, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(network.member(k)(X), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_networks", [1, 2])
def test_dropout_keeps_the_expected_value(n_networks):
    dropout = Dropout([[0.2], [0.7]][:n_networks], [torch.Generator().manual_seed(s) for s in SEEDS[:n_networks]])
    units = lean(torch.ones(n_networks, 50, 2, dtype=torch.float64))
    kept = dropout.kept(0, units)
    assert (units / kept).shape == units.shape
    # Rates have a resolution of 16 bits.
    np.testing.assert_allclose(1 - kept.flatten(), [0.2, 0.7][:n_networks], atol=2**-17)


@pytest.mark.parametrize("rate", [0.0001, 0.2, 0.5, 0.9, 0.99999])
def test_masks_are_random(rate):
    dropout, mask = Dropout([[rate]], [torch.Generator().manual_seed(0)]), torch.empty(401, 501)
    kept = float(dropout.kept(0, mask))
    means = []
    for _ in range(10):
        dropout.draw_(0, mask)
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        means.append(float(mask.mean()))
    assert len(set(means)) > 1
    # Five standard errors of a mean of two million draws.
    assert abs(np.mean(means) - kept) < 5 * (kept * (1 - kept) / 2e6) ** 0.5
    neighbours = np.corrcoef(mask[:, 1:].flatten(), mask[:, :-1].flatten())[0, 1] if 0.01 < rate < 0.99 else 0.0
    assert abs(neighbours) < 5 / 2e5**0.5


def test_streams_of_masks_can_be_wound_back():
    dropout = Dropout([[0.5], [0.5]], [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    first, again = torch.empty(2, 30, 4), torch.empty(2, 30, 4)
    rewind = dropout.mark()
    dropout.draw_(0, first)
    rewind()
    dropout.of([1]).draw_(0, lean(again[1:]))  # streams belong to networks
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])
