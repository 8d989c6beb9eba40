"""Normalization, activation and dropout in training, against PyTorch's own modules and autograd, in float64."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._nn.dropout import Dropout
from sktorch_mlp._nn.gradients import ForwardPass, Gradient
from sktorch_mlp._nn.losses import LogLoss
from sktorch_mlp._nn.tensors import squeeze_stack
from tests.nn.helpers import CPU, MODULES, random_stack, seeded
from tests.pairwise import pairwise

N_ROWS, UNITS = 11, (5, 4, 6, 3)
SEEDS = [3, 4, 5]
NORMALIZATIONS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}

_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


class _Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, units):
        return self.function(units)


class _Masked(nn.Module):
    """Inverted dropout with the masks of a stream of its own, drawn unit by unit."""

    def __init__(self, rate, generator):
        super().__init__()
        self.rate, self.generator = rate, generator

    def forward(self, units):
        mask, dropout = torch.empty(units.shape[::-1], dtype=units.dtype), Dropout([[self.rate]], [self.generator])
        dropout.draw_(0, mask)
        return units * mask.T / dropout.kept_fraction(0, mask)


#: Activations of the two hidden layers, and modules of PyTorch that do the same.
ACTIVATIONS = {
    "function": ((nn.functional.softplus,) * 2, [nn.Softplus(), nn.Softplus()]),
    "module": ((nn.Softsign(),) * 2, [nn.Softsign(), nn.Softsign()]),
    "in place": ((torch.Tensor.tanh_,) * 2, [nn.Tanh(), nn.Tanh()]),
    "one for each layer": (("gelu", torch.sin), [nn.GELU(), _Call(torch.sin)]),
    **{name: ((name,) * 2, [module(), module()]) for name, module in MODULES.items()},
}


def _rates(n_networks, dropout):
    """Networks and layers have rates of their own."""
    return [[dropout * (k + 1) / n_networks, dropout / 2] for k in range(n_networks)]


def _stack(n_networks, activations, normalization, dropout=0.0, **spec):
    network = random_stack(UNITS, activations, n_networks, normalization=normalization, **spec)
    if dropout:
        network.dropout = Dropout(_rates(n_networks, dropout), [seeded(seed) for seed in SEEDS[:n_networks]])
    return network


def _sequential(network, k, modules, rates, generator):
    """The k-th network of a stack, put together from PyTorch's modules in training."""
    layers = []
    coefs, intercepts = network.views(network.flat.detach())
    for layer, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
        linear = nn.Linear(coef.shape[2], coef.shape[1], dtype=torch.float64)
        linear.load_state_dict({"weight": coef[k], "bias": intercept[k]})
        layers.append(linear)
        if layer == len(modules):
            break
        if network.spec.normalization is not None:
            norm = NORMALIZATIONS[network.spec.normalization](coef.shape[1], dtype=torch.float64)
            scale, shift = network.norm_views(network.flat.detach())[layer]
            norm.weight.data.copy_(scale[k])
            norm.bias.data.copy_(shift[k])
            layers.append(norm)
        layers += [modules[layer], _Masked(rates[layer], generator)]
    return nn.Sequential(*layers).train()


def _data(n_networks, *, weighted):
    """Features, classes, and how often each row counts in each network."""
    rng = np.random.RandomState(0)
    X, y = rng.randn(N_ROWS, UNITS[0]), torch.from_numpy(rng.randint(0, UNITS[-1], N_ROWS))
    X[rng.rand(*X.shape) < 0.3] = 0
    counts = rng.randint(0, 3, (n_networks, N_ROWS)) if weighted else np.ones((n_networks, N_ROWS), int)
    return X, y, torch.from_numpy(counts)


def _compute_gradient(network, X, y, counts, *, weighted, sparse):
    """Set the gradient of a stack; the loss of each row, of shape (n_networks, n_rows)."""
    network.flat.grad = torch.full_like(network.flat, float("nan"))  # every element must be written
    loss, n_networks = LogLoss(UNITS[-1]), network.n_networks
    totals = counts.sum(1).double()
    fractions = counts / totals[:, None]
    loss_terms = squeeze_stack(torch.empty(n_networks, 1, N_ROWS, dtype=torch.float64))
    targets = squeeze_stack(y.expand(n_networks, 1, -1))
    rows = Rows.from_array(sp.csr_array(X) if sparse else X, CPU)
    batch = rows.take(squeeze_stack(torch.arange(N_ROWS).expand(n_networks, -1)))
    with torch.no_grad():
        stacked_fractions = squeeze_stack(fractions.unsqueeze(1)) if weighted else fractions[0, 0]
        Gradient(network, loss, N_ROWS)(batch, targets, stacked_fractions, totals, loss_terms)
        return loss.row_losses(loss_terms, targets).reshape(n_networks, -1)


def _assert_gradient_and_statistics_are_those_of(module, network, k):
    linears = [m for m in module if isinstance(m, nn.Linear)]
    norms = [m for m in module if isinstance(m, nn.BatchNorm1d | nn.LayerNorm)]
    coefs, intercepts = network.views(network.grad)
    _close([coef[k] for coef in coefs], [m.weight.grad for m in linears])
    _close([intercept[k] for intercept in intercepts], [m.bias.grad for m in linears])
    ours = [view[k] for pair in network.norm_views(network.grad) for view in pair]
    _close(ours, [parameter.grad for m in norms for parameter in (m.weight, m.bias)])
    ours = [view[k] for pair in network.running_views() for view in pair]
    _close(ours, [t for m in norms if isinstance(m, nn.BatchNorm1d) for t in (m.running_mean, m.running_var)])


#: Normalization, dropout and weights. A weight of n is n equal rows, which drop different units: not with dropout.
SETTINGS = [
    (normalization, dropout, weighted)
    for normalization, dropout, weighted in product([None, *NORMALIZATIONS], [0.0, 0.4], [False, True])
    if not (dropout and weighted)
]
#: Number of networks, sparse input.
LAYOUTS = list(product([1, 3], [False, True]))


@pytest.mark.parametrize(("activation", "setting", "layout"), pairwise(list(ACTIVATIONS), SETTINGS, LAYOUTS), ids=str)
def test_gradient_and_running_statistics_are_those_of_modules(activation, setting, layout):
    normalization, dropout, weighted = setting
    n_networks, sparse = layout
    activations, modules = ACTIVATIONS[activation]
    network = _stack(n_networks, activations, normalization, dropout, sparse_input=sparse)
    X, y, counts = _data(n_networks, weighted=weighted)
    expected, expected_losses = [], []
    for k, rates in enumerate(_rates(n_networks, dropout)):
        module = _sequential(network, k, modules, rates, seeded(SEEDS[k]))
        rows = torch.arange(N_ROWS).repeat_interleave(counts[k])
        losses = nn.functional.cross_entropy(module(torch.from_numpy(X)[rows]), y[rows], reduction="none")
        losses.mean().backward()
        expected.append(module)
        expected_losses.append(losses.detach())
    losses = _compute_gradient(network, X, y, counts, weighted=weighted, sparse=sparse)
    for k, module in enumerate(expected):
        _assert_gradient_and_statistics_are_those_of(module, network, k)
        _close(losses[k].repeat_interleave(counts[k]), expected_losses[k])


@pytest.mark.parametrize("n_networks", [1, 2])
def test_small_weights_count_as_rows_in_the_running_variance(n_networks):
    """The variance is that of n rows where weights sum to n; where they sum to less, that of the rows with a weight."""
    batches = []
    for factor in (1.0, 0.01):
        network = _stack(n_networks, ("tanh",) * 2, "batch")
        X, y, counts = _data(n_networks, weighted=False)
        counts = counts.double()
        counts[:, :3] = 0.0
        _compute_gradient(network, X, y, factor * counts, weighted=True, sparse=False)
        batches.append(network.running.clone())
    _close(batches[0], batches[1])


def test_one_row_does_not_move_the_running_statistics():
    network = _stack(1, ("tanh",) * 2, "batch")
    forward = ForwardPass(network, "softmax", 1, training=True)
    rows = Rows.from_array(np.ones((1, UNITS[0])), CPU)
    with torch.no_grad():
        forward(rows.all_rows())
    for mean, variance in network.running_views():
        assert (mean == 0).all()
        assert (variance == 1).all()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("n_networks", [1, 3])
def test_predictions_are_those_of_modules_in_evaluation(n_networks, normalization):
    network = _stack(n_networks, ("gelu",) * 2, normalization, 0.5)
    network.running.uniform_(0.5, 2, generator=seeded(0))
    X = torch.randn(7, UNITS[0], dtype=torch.float64, generator=seeded(1))
    with torch.no_grad():
        forward = ForwardPass(network, "identity", 7)(Rows.from_array(X.numpy(), CPU).all_rows(n_networks))
    for k in range(n_networks):
        module = _sequential(network, k, [nn.GELU()] * 2, [0.0, 0.0], seeded(0))
        batch_norms = [m for m in module if isinstance(m, nn.BatchNorm1d)]
        for norm, running in zip(batch_norms, network.running_views(), strict=True):
            norm.running_mean, norm.running_var = (tensor[k] for tensor in running)
        expected = module.eval()(X)
        for ours in (network(X)[k].T, network.member(k)(X), forward.view(n_networks, -1, 7)[k].T):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
