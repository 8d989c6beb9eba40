"""Embeddings of table columns against formulas written out, and their gradients against autograd."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._nn.embeddings import TableEmbedding
from sktorch_mlp._nn.gradients import ForwardPass, Gradient
from sktorch_mlp._nn.losses import LogLoss
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._nn.tensors import squeeze_stack
from tests.nn.helpers import CPU, random_targets, row_losses, seeded

N_ROWS = 23
EDGES = (np.array([-1.0, -0.2, 0.3, 2.0]), np.zeros(0), np.array([-0.5, 0.0, 0.5]))
#: Every kind of input; three numbers, and categories of 2, 2, 3 and 6 levels.
FULL = {
    "n_numbers": 3,
    "indicated": (0, 2),
    "n_levels": (2, 2, 3, 6),
    "signed": (1,),
    "edges": EDGES,
    "n_frequencies": 2,
    "max_one_hot": 4,
    "width": 3,
}
EMBEDDINGS = {
    "all": TableEmbedding(**FULL),
    "numbers": TableEmbedding(3),
    "bins": TableEmbedding(3, edges=EDGES),
    "waves": TableEmbedding(3, n_frequencies=4),
    "categories": TableEmbedding(0, n_levels=(2, 2, 3, 6), signed=(1,), max_one_hot=4, width=3),
    "vectors": TableEmbedding(0, n_levels=(2, 6), max_one_hot=1, width=1),
}


def _table(embedding, dtype=np.float64, seed=0):
    """Random columns, with what is missing."""
    rng = np.random.RandomState(seed)
    numbers = rng.randn(N_ROWS, embedding.n_numbers)
    numbers[rng.rand(*numbers.shape) < 0.2] = np.nan
    levels = [rng.randint(-1 if c not in embedding.signed else 0, n, N_ROWS) for c, n in enumerate(embedding.n_levels)]
    return np.column_stack([numbers, *levels]).astype(dtype)


def _stack(embedding, n_networks, *, dtype=torch.float64, bfloat16=False):
    spec = NetworkSpec(
        (embedding.n_inputs, 5, 4, 3), ("tanh", "silu"), dtype=dtype, embedding=embedding, bfloat16=bfloat16
    )
    network = StackedMLP(spec, n_networks)
    network.flat.data.normal_(std=0.7, generator=seeded(2))
    network.bin_scales.copy_(torch.linspace(1, 0.3, n_networks).unsqueeze(-1))
    return network


def _inputs(embedding, X, parameters, scale):
    """Inputs (n_rows, n_inputs) of one network by the formulas; parameters may need a gradient."""
    numbers, levels = X[:, : embedding.n_numbers], X[:, embedding.n_numbers :]
    clipped = torch.where(numbers.isnan(), torch.zeros(()).double(), numbers / (1 + (numbers / 3) ** 2).sqrt())
    columns = [clipped, numbers[:, list(embedding.indicated)].isnan().double()]
    one_hot = []
    for c, n_levels in enumerate(embedding.n_levels):
        level = levels[:, c]
        if c in embedding.signed:
            columns.append(torch.tensor([[1.0], [-1.0]]).double()[level.long()])
        elif n_levels <= embedding.max_one_hot:
            one_hot.append(torch.nn.functional.one_hot(level.long() + 1, n_levels + 1)[:, 1:].double())
    columns += one_hot
    for number, edges in enumerate(embedding.edges):
        for low, high in pairwise(edges):
            known = numbers[:, number] if number in embedding.indicated else numbers[:, number].nan_to_num(0)
            columns.append(scale * ((known - low) / (high - low)).clamp(0, 1).nan_to_num(0).unsqueeze(-1))
    start = 0
    for c, n_levels in enumerate(embedding.n_levels):
        if n_levels > embedding.max_one_hot:
            size = (n_levels + 1) * embedding.width
            vectors = parameters[start : start + size].view(n_levels + 1, embedding.width)
            columns.append(torch.nn.functional.embedding(levels[:, c].long() + 1, vectors))
            start += size
    if embedding.n_frequencies:
        frequencies, phases = parameters[start:].view(2, embedding.n_numbers, embedding.n_frequencies)
        columns.append(torch.cos(2 * math.pi * (clipped.unsqueeze(-1) * frequencies + phases)).flatten(1))
    return torch.cat([column.reshape(len(X), -1) for column in columns], 1)


def _logits(network, X, flat):
    """Logits (n_networks, n_outputs, n_rows), which autograd can differentiate."""
    embedding, logits = network.spec.embedding, []
    for k in range(network.n_networks):
        units = _inputs(embedding, X, network.embedding_view(flat)[k], float(network.bin_scales[k])).T
        coefs, intercepts = network.views(flat)
        for layer, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
            units = coef[k] @ units + intercept[k].unsqueeze(-1)
            units = [torch.tanh, torch.nn.functional.silu, lambda x: x][layer](units)
        logits.append(units)
    return torch.stack(logits)


def _all_rows(X, n_networks):
    return Rows.from_array(X, CPU).take(squeeze_stack(torch.arange(N_ROWS).expand(n_networks, -1)))


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_logits_are_those_of_the_formulas(name, n_networks):
    embedding = EMBEDDINGS[name]
    X, network = _table(embedding), _stack(embedding, n_networks)
    expected = _logits(network, torch.from_numpy(X), network.flat.detach())
    forward = ForwardPass(network, "identity", N_ROWS)
    for seed in (1, 0):  # buffers are used again
        with torch.no_grad():
            logits = forward(_all_rows(_table(embedding, seed=seed), n_networks))
    np.testing.assert_allclose(logits.reshape(expected.shape), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_gradient_is_that_of_autograd(name, n_networks):
    embedding, loss = EMBEDDINGS[name], LogLoss(3)
    X, network = _table(embedding), _stack(embedding, n_networks)
    targets = random_targets(loss, N_ROWS, np.random.RandomState(1))
    expected_losses = row_losses(loss, _logits(network, torch.from_numpy(X), network.flat), targets)
    (expected,) = torch.autograd.grad(expected_losses.sum() / N_ROWS, network.flat)

    network.flat.grad = torch.full_like(network.flat, float("nan"))  # every element must be written
    gradient = Gradient(network, loss, N_ROWS)
    loss_terms = squeeze_stack(torch.empty(n_networks, 1, N_ROWS, dtype=torch.float64))
    stacked_targets = squeeze_stack(targets.expand(n_networks, -1, -1))
    for seed in (1, 0):
        with torch.no_grad():
            gradient(
                _all_rows(_table(embedding, seed=seed), n_networks),
                stacked_targets,
                torch.tensor(1 / N_ROWS, dtype=torch.float64),
                torch.full((n_networks,), float(N_ROWS)).double(),
                loss_terms,
            )
    np.testing.assert_allclose(network.grad, expected, rtol=1e-10, atol=1e-13)


def test_bfloat16_rounds_the_inputs():
    embedding = EMBEDDINGS["all"]
    X, logits = _table(embedding, np.float32), []
    for bfloat16 in (False, True):
        network = _stack(embedding, 2, dtype=torch.float32, bfloat16=bfloat16)
        with torch.no_grad():
            logits.append(ForwardPass(network, "identity", N_ROWS)(_all_rows(X, 2)))
    assert 1e-5 < (logits[0] - logits[1]).abs().max() < 0.2


def test_stacks_are_joined_and_selected_with_scales_and_parameters():
    embedding = EMBEDDINGS["all"]
    parts = [_stack(embedding, 2), _stack(embedding, 1)]
    parts[1].flat.data.mul_(0.5)
    joined = StackedMLP.join(parts)
    np.testing.assert_array_equal(joined.embedding_view()[2].detach(), parts[1].embedding_view()[0].detach())
    np.testing.assert_allclose(joined.bin_scales.flatten(), [1, 0.3, 1])
    np.testing.assert_array_equal(joined.select([1]).bin_scales, parts[0].bin_scales[1:])


def test_parameters_begin_as_documented():
    embedding = TableEmbedding(**FULL | {"n_levels": (2, 2, 3, 4000), "n_frequencies": 2000})
    drawn = embedding.initial_parameters(np.random.RandomState(0))
    assert len(drawn) == embedding.n_parameters
    vectors = drawn[: 4001 * 3].reshape(-1, 3)
    frequencies, phases = drawn[4001 * 3 :].reshape(2, -1)
    assert not vectors[0].any()  # missing and unknown levels
    assert abs(vectors[1:].std() - 0.1) < 0.005
    standardized = frequencies.reshape(-1, 2000) / np.geomspace(0.05, 1.5, 2000)
    assert abs(standardized.std() - 1) < 0.05
    assert abs(standardized[:, :1000].std() - 1) < 0.05  # low and high ones
    assert -0.5 <= phases.min() < -0.49
    assert 0.49 < phases.max() <= 0.5
