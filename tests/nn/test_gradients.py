"""The closed form of the gradient against autograd, in float64."""

from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._nn.activations import ACTIVATIONS
from sktorch_mlp._nn.gradients import ForwardPass, Gradient
from sktorch_mlp._nn.losses import BinaryLogLoss, HalfPoissonDeviance, HalfSquaredError, LogLoss
from sktorch_mlp._nn.tensors import squeeze_stack
from tests.nn.helpers import CPU, random_stack, random_targets, row_losses
from tests.pairwise import pairwise

N_ROWS, N_FEATURES = 11, 5

LOSSES = {
    "log_loss": LogLoss(3),
    "binary": BinaryLogLoss(1),
    "multilabel": BinaryLogLoss(3),
    "squared_error": HalfSquaredError(1),
    "squared_error-3": HalfSquaredError(3),
    "poisson": HalfPoissonDeviance(1),
    "poisson-2": HalfPoissonDeviance(2),
}


def _rows(*, sparse):
    """The same X as a tensor and as rows."""
    rng = np.random.RandomState(0)
    X = rng.randn(N_ROWS, N_FEATURES)
    if sparse:
        X[rng.rand(*X.shape) < 0.5] = 0
    return torch.from_numpy(X), Rows.from_array(sp.csr_array(X) if sparse else X, CPU)


def _all_rows(rows, n_networks):
    return rows.take(squeeze_stack(torch.arange(N_ROWS).expand(n_networks, -1)))


def _check(activation, loss, hidden, *, weighted, n_networks, sparse):
    X, rows = _rows(sparse=sparse)
    targets = random_targets(loss, N_ROWS, np.random.RandomState(1))
    network = random_stack((N_FEATURES, *hidden, loss.n_outputs), activation, n_networks, sparse_input=sparse)
    weights = torch.linspace(0.0, 2.0, N_ROWS, dtype=torch.float64) if weighted else torch.ones(N_ROWS).double()
    fractions = weights / weights.sum()

    expected_losses = row_losses(loss, network(X), targets)
    (expected,) = torch.autograd.grad((expected_losses * fractions).sum(), network.flat)

    network.flat.grad = torch.full_like(network.flat, float("nan"))  # every element must be written
    gradient = Gradient(network, loss, N_ROWS)
    loss_terms = squeeze_stack(torch.empty(n_networks, 1, N_ROWS, dtype=torch.float64))
    stacked_targets = squeeze_stack(targets.expand(n_networks, -1, -1))
    total = weights.sum().expand(n_networks)
    with torch.no_grad():
        batch = _all_rows(rows, n_networks)
        gradient(batch, stacked_targets, fractions if weighted else fractions[0], total, loss_terms)
        losses = loss.row_losses(loss_terms, stacked_targets)

    difference = (network.grad - expected).norm() / expected.norm()
    assert difference < 1e-10
    # scikit-learn reports the squared error averaged over outputs, but descends its sum.
    n_averaged = loss.n_outputs if isinstance(loss, HalfSquaredError) else 1
    expected_losses = expected_losses.detach() / n_averaged
    # A loss near 0 is a difference of terms near 1: rounding there is absolute.
    np.testing.assert_allclose(losses.reshape(n_networks, -1), expected_losses, rtol=1e-10, atol=1e-14)


#: Which buffers there are, and how they lie in memory: hidden layers, number of networks, sparse input.
LAYOUTS = list(product([(4,), (4, 6)], [1, 3], [False, True]))


@pytest.mark.parametrize(
    ("activation", "loss", "layout", "weighted"),
    pairwise(list(ACTIVATIONS), list(LOSSES), LAYOUTS, [False, True]),
    ids=str,
)
def test_gradient_and_losses_match_autograd(activation, loss, layout, weighted):
    hidden, n_networks, sparse = layout
    _check(activation, LOSSES[loss], hidden, weighted=weighted, n_networks=n_networks, sparse=sparse)


@pytest.mark.parametrize(
    ("loss", "layout", "weighted"),
    pairwise(list(LOSSES), list(product([1, 3], [False, True])), [False, True]),
    ids=str,
)
def test_gradient_and_losses_without_hidden_layers(loss, layout, weighted):
    n_networks, sparse = layout
    _check("relu", LOSSES[loss], (), weighted=weighted, n_networks=n_networks, sparse=sparse)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("n_networks", [1, 2])
def test_a_batch_leaves_no_trace_in_the_buffers(n_networks, sparse):
    loss = LOSSES["log_loss"]
    _, rows = _rows(sparse=sparse)
    targets = random_targets(loss, N_ROWS, np.random.RandomState(1))
    network = random_stack((N_FEATURES, 4, 3), "relu", n_networks, sparse_input=sparse)
    gradient = Gradient(network, loss, 4)
    loss_terms = squeeze_stack(torch.empty(n_networks, 1, 4, dtype=torch.float64))
    indices = squeeze_stack(torch.zeros(n_networks, 4, dtype=torch.int64))
    (load,) = rows.loaders(indices, [4])
    fraction, total = torch.tensor(0.25).double(), torch.tensor([4.0]).double()
    gradients = []
    with torch.no_grad():
        for chosen in (torch.tensor([0, 1, 2, 3]), torch.tensor([4, 5, 6, 7]), torch.tensor([0, 1, 2, 3])):
            stacked_targets = squeeze_stack(targets[:, chosen].expand(n_networks, -1, -1))
            indices.copy_(squeeze_stack(chosen.expand(n_networks, -1)))
            gradient(*load(), stacked_targets, fraction, total, loss_terms)
            gradients.append(network.grad.clone())
    assert torch.equal(gradients[0], gradients[2])
    assert not torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("n_networks", [1, 3])
def test_outputs_of_a_batch_are_kept_for_hooks(n_networks):
    X, rows = _rows(sparse=False)
    loss = LOSSES["log_loss"]
    network = random_stack((N_FEATURES, 4, 3), "tanh", n_networks)
    gradient = Gradient(network, loss, N_ROWS, keep_outputs=True)
    targets = squeeze_stack(torch.zeros(n_networks, 1, N_ROWS, dtype=torch.int64))
    loss_terms = squeeze_stack(torch.empty(n_networks, 1, N_ROWS, dtype=torch.float64))
    with torch.no_grad():
        expected = squeeze_stack(torch.softmax(network(X), 1))
        batch = _all_rows(rows, n_networks)
        gradient(batch, targets, torch.tensor(1 / N_ROWS), torch.full((n_networks,), float(N_ROWS)), loss_terms)
    torch.testing.assert_close(gradient.outputs, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("out_activation", ["identity", "logistic", "softmax", "exp"])
def test_a_forward_pass_sees_changes_of_the_parameters(out_activation):
    functions = {
        "identity": lambda x: x,
        "logistic": torch.sigmoid,
        "softmax": lambda x: x.softmax(0),
        "exp": torch.exp,
    }
    X, rows = _rows(sparse=False)
    network = random_stack((N_FEATURES, 4, 2), "tanh")
    forward = ForwardPass(network, out_activation, N_ROWS)
    with torch.no_grad():
        for _ in range(2):
            expected = functions[out_activation](network(X)[0])
            torch.testing.assert_close(forward(rows.all_rows()), expected, rtol=1e-12, atol=1e-12)
            network.flat.mul_(2)
