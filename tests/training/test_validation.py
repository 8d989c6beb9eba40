"""Validation of a stack against scikit-learn's metrics and PyTorch's losses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, r2_score
from torch import nn

from sktorch_mlp._data.arrays import DiskArray
from sktorch_mlp._data.rows import Rows
from sktorch_mlp._data.samples import Samples, TrainingData
from sktorch_mlp._nn.losses import CallableLoss, HalfSquaredError, LogLoss
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._training.validation import Validator
from tests.training.helpers import CPU, OPTIONS

#: Several blocks of rows, which share buffers, and a shorter one.
N_LONG = 2 * 2**14 + 100


def _network(n_networks, n_outputs, **spec):
    spec = NetworkSpec((3, 4, n_outputs), ("tanh",), dtype=torch.float64, **spec)
    network = StackedMLP(spec, n_networks)
    network.flat.data.normal_(generator=torch.Generator().manual_seed(0))
    return network


def _samples(targets, n_rows, *, weighted):
    """Validation samples of stacked networks: the first `n_rows[k]` of some rows, each network its own."""
    parts = []
    for k, n in enumerate(n_rows):
        rng = np.random.RandomState(k)
        X = rng.randn(n + 5, 3)
        weights = torch.from_numpy(rng.uniform(0.1, 2, n + 5)) if weighted else None
        parts.append(Samples(Rows.from_array(X, CPU), targets(rng, n + 5), weights, [rng.permutation(n + 5)[:n]]))
    joined = parts[0] if len(parts) == 1 else TrainingData.join([TrainingData(part) for part in parts]).train
    return joined, parts


def _used(part):
    """Features, targets and weights of the rows that a network is validated on."""
    rows = part.indices[0]
    weights = None if part.weights is None else part.weights.numpy()[rows]
    return part.rows.X[rows], part.targets.numpy()[:, rows].T, weights


@torch.no_grad()
def _validate(network, loss, samples, options):
    return Validator(network, loss, samples, options)()


@pytest.mark.parametrize("n_rows", [[40], [40, 40], [40, 33, 38], [N_LONG, N_LONG - 1]], ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_scores_of_classifiers_are_accuracies(weighted, n_rows):
    network = _network(len(n_rows), 3)
    samples, parts = _samples(lambda rng, n: torch.from_numpy(rng.randint(0, 3, (1, n))), n_rows, weighted=weighted)
    results = _validate(network, LogLoss(3), samples, [OPTIONS] * len(n_rows))
    for k, (part, (score, loss)) in enumerate(zip(parts, results, strict=True)):
        X, y, weights = _used(part)
        probabilities = network.member(k)(X).softmax(1).detach().numpy()
        assert score == pytest.approx(accuracy_score(y, probabilities.argmax(1), sample_weight=weights), rel=1e-12)
        assert loss == pytest.approx(
            log_loss(y[:, 0], probabilities, sample_weight=weights, labels=range(3)), rel=1e-10
        )


@pytest.mark.parametrize("normalization", [None, "batch"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_scores_of_regressors_are_r2(weighted, normalization):
    network = _network(2, 2, normalization=normalization)
    network.running.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    samples, parts = _samples(lambda rng, n: torch.from_numpy(rng.randn(2, n)), [40, 38], weighted=weighted)
    results = _validate(network, HalfSquaredError(2), samples, [OPTIONS] * 2)
    for k, (part, (score, loss)) in enumerate(zip(parts, results, strict=True)):
        X, y, weights = _used(part)
        predictions = network.member(k)(X).detach().numpy()
        assert score == pytest.approx(r2_score(y, predictions, sample_weight=weights), rel=1e-10)
        expected = np.average(0.5 * ((predictions - y) ** 2).mean(1), weights=weights)
        assert loss == pytest.approx(expected, rel=1e-10)


def test_parameters_may_change_between_epochs():
    network = _network(1, 3)
    samples, _ = _samples(lambda rng, n: torch.from_numpy(rng.randint(0, 3, (1, n))), [40], weighted=False)
    validator = Validator(network, LogLoss(3), samples, [OPTIONS])
    with torch.no_grad():
        first = validator()
        network.flat.neg_()
        second = validator()
        network.flat.neg_()
        assert validator() == first != second


def test_a_function_as_loss_is_validated_by_the_score_of_the_loss_that_it_replaces():
    network = _network(2, 3)
    samples, _ = _samples(lambda rng, n: torch.from_numpy(rng.randint(0, 3, (1, n))), [40, 40], weighted=False)
    loss = CallableLoss(nn.functional.cross_entropy, LogLoss(3), has_sample_weight=False)
    ours = _validate(network, loss, samples, [OPTIONS] * 2)
    np.testing.assert_allclose(ours, _validate(network, LogLoss(3), samples, [OPTIONS] * 2), rtol=1e-12)


def test_a_fit_may_have_a_scorer_of_its_own_or_be_scored_by_its_loss():
    network = _network(3, 3)
    samples, _ = _samples(lambda rng, n: torch.from_numpy(rng.randint(0, 3, (1, n))), [40] * 3, weighted=False)
    plain = _validate(network, LogLoss(3), samples, [OPTIONS] * 3)

    def scoring(stack, k):
        assert stack is network
        return 100.0 + k

    options = [OPTIONS, replace(OPTIONS, scoring=scoring), replace(OPTIONS, scores_loss=True)]
    results = _validate(network, LogLoss(3), samples, options)
    assert [score for score, _ in results] == [plain[0][0], 101.0, -plain[2][1]]
    assert [loss for _, loss in results] == [loss for _, loss in plain]


@pytest.mark.parametrize(
    "loss", [LogLoss(3), CallableLoss(nn.functional.cross_entropy, LogLoss(3), has_sample_weight=False)]
)
def test_the_score_may_be_the_lowest_loss_of_scaled_logits(loss):
    factors = (1.0, 0.7, 0.4)
    network = _network(3, 3)
    samples, parts = _samples(lambda rng, n: torch.from_numpy(rng.randint(0, 3, (1, n))), [40] * 3, weighted=False)
    results = _validate(network, loss, samples, [replace(OPTIONS, scores_loss=True, logit_factors=factors)] * 3)
    for k, (part, (score, reported)) in enumerate(zip(parts, results, strict=True)):
        X, y, _ = _used(part)
        logits = network.member(k)(X).detach()
        losses = [log_loss(y.ravel(), (factor * logits).softmax(1).numpy(), labels=range(3)) for factor in factors]
        assert (score, reported) == pytest.approx((-min(losses), losses[0]))
        assert score > -reported  # labels at random: every network is too sure of itself


def test_predictions_that_are_not_finite_score_nan():
    network = _network(2, 1)
    network.flat.data[1].fill_(float("nan"))
    samples, _ = _samples(lambda rng, n: torch.from_numpy(rng.randn(1, n)), [40] * 2, weighted=False)
    (score, loss), diverged = _validate(network, HalfSquaredError(1), samples, [OPTIONS] * 2)
    assert np.isfinite([score, loss]).all()
    assert np.isnan(diverged).all()


def test_narrow_rows_are_cast_a_few_at_a_time(monkeypatch):
    place, n_rows = Rows._place, []
    monkeypatch.setattr(Rows, "_place", lambda rows, X: n_rows.append(len(X)) or place(rows, X))
    network = StackedMLP(NetworkSpec((500, 4, 3), ("tanh",), dtype=torch.float64), 1)
    network.flat.data.normal_(generator=torch.Generator().manual_seed(0))
    X = np.random.RandomState(0).randint(0, 9, (5000, 500)).astype(np.uint8)
    targets = torch.from_numpy(np.random.RandomState(1).randint(0, 3, (1, len(X))))
    results = []
    for values, most in ((X, 524), (X.astype(np.float64), 4194)):
        rows = Rows.from_array(values, CPU, np.dtype(np.float64), copy_bytes=0)
        n_rows.clear()
        results.append(_validate(network, LogLoss(3), Samples(rows, targets, None, [np.arange(len(X))]), [OPTIONS]))
        assert max(n_rows) == most
    np.testing.assert_allclose(*results, rtol=1e-12)


class _Slices:
    """An array that is read by slices, and counts the rows that are."""

    chunks = (50, 500)

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.n_read = values, values.shape, values.dtype, 0

    def __getitem__(self, rows):
        values = self.values[rows]
        self.n_read += len(values)
        return values


def test_rows_on_disk_are_read_once_in_blocks_that_lie_together():
    network = StackedMLP(NetworkSpec((500, 4, 3), ("tanh",), dtype=torch.float64), 1)
    X = np.random.RandomState(0).randn(20_000, 500)
    targets, held_out = torch.zeros(1, len(X), dtype=torch.int64), np.random.RandomState(1).permutation(len(X))[:10_000]
    array = _Slices(X)
    samples = Samples(Rows.from_array(DiskArray(array), CPU), targets, None, [held_out])
    in_memory = replace(samples, rows=Rows.from_array(X, CPU))
    results = [_validate(network, LogLoss(3), each, [OPTIONS]) for each in (samples, in_memory)]
    np.testing.assert_allclose(*results, rtol=1e-12)
    assert array.n_read <= len(X)
