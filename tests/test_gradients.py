"""The closed form against autograd, in float64."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sktorch_mlp._activations import ACTIVATIONS
from sktorch_mlp._gradients import BLOCK_SIZE, ForwardPass, Gradient, Predictor
from sktorch_mlp._losses import BinaryLogLoss, HalfPoissonDeviance, HalfSquaredError, LogLoss
from sktorch_mlp._network import StackedMLP, lean
from sktorch_mlp._rows import Rows

N_ROWS, N_FEATURES = 11, 5
CPU = torch.device("cpu")


def _autograd_loss(loss, logits, targets):
    """Each row's loss by PyTorch's own functions, (n_networks, n_rows); summed over outputs."""
    functional = torch.nn.functional
    if isinstance(loss, LogLoss):
        targets = targets.expand(len(logits), 1, -1).squeeze(1)
        return functional.cross_entropy(logits, targets, reduction="none")
    targets = targets.expand_as(logits)
    if isinstance(loss, BinaryLogLoss):
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-2)
    if isinstance(loss, HalfPoissonDeviance):
        # PyTorch's lacks the terms of the target alone.
        constant = torch.xlogy(targets, targets) - targets
        return (functional.poisson_nll_loss(logits, targets, log_input=True, reduction="none") + constant).sum(-2)
    return 0.5 * functional.mse_loss(logits, targets, reduction="none").sum(-2)


LOSSES = {
    "log_loss": LogLoss(3),
    "binary": BinaryLogLoss(1),
    "multilabel": BinaryLogLoss(3),
    "squared_error": HalfSquaredError(1),
    "squared_error-3": HalfSquaredError(3),
    "poisson": HalfPoissonDeviance(1),
    "poisson-2": HalfPoissonDeviance(2),
}


def _problem(loss, sparse):
    rng = np.random.RandomState(0)
    X = rng.randn(N_ROWS, N_FEATURES)
    if sparse:
        X[rng.rand(*X.shape) < 0.5] = 0
    targets = {
        LogLoss: rng.randint(0, 3, (1, N_ROWS)),
        BinaryLogLoss: rng.randint(0, 2, (loss.n_outputs, N_ROWS)).astype(float),
        HalfSquaredError: rng.randn(loss.n_outputs, N_ROWS),
        HalfPoissonDeviance: rng.poisson(2.0, (loss.n_outputs, N_ROWS)).astype(float),
    }[type(loss)]
    rows = Rows.of(sp.csr_array(X) if sparse else X, CPU)
    return torch.from_numpy(X), rows, torch.from_numpy(targets)


def _network(units, activation, n_networks, sparse):
    network = StackedMLP(units, activation, n_networks, dtype=torch.float64, sparse_input=sparse)
    network.flat.data.normal_(std=0.7, generator=torch.Generator().manual_seed(2))
    return network


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("hidden", [(), (4,), (4, 6)], ids=str)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_and_loss(activation, loss, hidden, weighted, n_networks, sparse):
    X, rows, targets = _problem(loss, sparse)
    network = _network((N_FEATURES, *hidden, loss.n_outputs), activation, n_networks, sparse)
    weights = torch.linspace(0.0, 2.0, N_ROWS, dtype=torch.float64) if weighted else torch.ones(N_ROWS).double()
    scale = weights / weights.sum()

    expected_losses = _autograd_loss(loss, network(X), targets)
    (expected,) = torch.autograd.grad((expected_losses * scale).sum(), network.flat)

    network.flat.grad = torch.full_like(network.flat, float("nan"))  # every element must be written
    gradient_of_stack = Gradient(network, loss, N_ROWS)
    terms = lean(torch.empty(n_networks, 1, N_ROWS, dtype=torch.float64))
    stacked_targets = lean(targets.expand(n_networks, -1, -1))
    with torch.no_grad():
        batch = rows.take(lean(torch.arange(N_ROWS).expand(n_networks, -1)))
        gradient_of_stack(
            batch, stacked_targets, scale if weighted else scale[0], weights.sum().expand(n_networks), terms
        )
        losses = loss.row_losses(terms, stacked_targets)

    difference = (network.flat.grad - expected).norm() / expected.norm()
    assert difference < 1e-10
    # scikit-learn reports the squared error averaged over outputs, but descends its sum.
    n_averaged = loss.n_outputs if isinstance(loss, HalfSquaredError) else 1
    expected_losses = expected_losses.detach() / n_averaged
    # A loss near 0 is a difference of terms near 1: rounding there is absolute.
    np.testing.assert_allclose(losses.reshape(n_networks, -1), expected_losses, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("n_networks", [1, 2])
def test_buffers_are_reused_without_a_trace(n_networks, sparse):
    loss = LOSSES["log_loss"]
    _, rows, targets = _problem(loss, sparse)
    network = _network((N_FEATURES, 4, 3), "relu", n_networks, sparse)
    gradient_of_stack = Gradient(network, loss, 4)
    terms = lean(torch.empty(n_networks, 1, 4, dtype=torch.float64))
    chosen_now = lean(torch.zeros(n_networks, 4, dtype=torch.int64))
    (load,) = rows.loads(chosen_now, [4])
    chosen = [torch.tensor([0, 1, 2, 3]), torch.tensor([4, 5, 6, 7]), torch.tensor([0, 1, 2, 3])]
    gradients = []
    with torch.no_grad():
        for indices in chosen:
            stacked = lean(targets[:, indices].expand(n_networks, -1, -1))
            chosen_now.copy_(lean(indices.expand(n_networks, -1)))
            gradient_of_stack(*load(), stacked, torch.tensor(0.25).double(), torch.tensor([4.0]).double(), terms)
            gradients.append(network.flat.grad.clone())
    assert torch.equal(gradients[0], gradients[2])
    assert not torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_predictions_do_not_depend_on_the_blocks(sparse):
    rng = np.random.RandomState(0)
    X = rng.randn(2 * BLOCK_SIZE + 3, N_FEATURES)
    rows = Rows.of(sp.csr_array(X) if sparse else X, CPU)
    network = _network((N_FEATURES, 4, 3), "tanh", 1, False)
    member = network.member(0)
    coefs, intercepts = [layer.weight for layer in member[::2]], [layer.bias for layer in member[::2]]
    with torch.no_grad():
        predictions = Predictor(coefs, intercepts, ["tanh"], "softmax")(rows)
        expected = torch.softmax(member(torch.from_numpy(X)), -1)
    torch.testing.assert_close(predictions, expected, rtol=1e-12, atol=1e-12)


def test_forward_pass_follows_the_parameters():
    loss = LOSSES["squared_error"]
    _, rows, _ = _problem(loss, False)
    network = _network((N_FEATURES, 4, 1), "tanh", 1, False)
    forward = ForwardPass(network, loss.out_activation, N_ROWS)
    with torch.no_grad():
        before = forward(rows.whole()).clone()
        network.flat.mul_(2)
        assert not torch.allclose(forward(rows.whole()), before)
