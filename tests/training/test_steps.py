"""Steps of an epoch: loss, penalty and clipping against autograd and PyTorch, and hooks around each step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sktorch_mlp._data.batches import MiniBatches
from sktorch_mlp._data.samples import TrainingData
from sktorch_mlp._data.shuffling import Shuffler
from sktorch_mlp._nn.losses import LogLoss
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._training.loop import train
from sktorch_mlp._training.optimizers import SGD
from sktorch_mlp._training.schedules import Schedule
from sktorch_mlp._training.steps import Trainer
from tests.training.helpers import N_ROWS, OPTIONS, WEIGHTS, X, Y, adam, make_data, make_fit

ALPHAS = [0.1, 0.0, 3.0]


def _stack(n_networks, *, weighted=False, train_rows=None):
    """A stack of different networks and its samples; `train_rows` are those of each network."""
    rows = train_rows or [None] * n_networks
    fits = [make_fit(adam(k), seed=k, data=make_data(weighted=weighted, train_rows=rows[k])) for k in range(n_networks)]
    data = TrainingData.join([fit.data for fit in fits]) if n_networks > 1 else fits[0].data
    return StackedMLP.join([fit.network for fit in fits]), data.train


def _run_epoch(network, samples, options, batch_size, **kwargs):
    """Losses of an epoch without updates, in the order of the data; the gradient is that of the last mini-batch."""
    shufflers = [Shuffler(rows, None) for rows in samples.indices]
    minibatches = MiniBatches(samples, shufflers, batch_size, **kwargs)
    with torch.no_grad():
        return Trainer(network, LogLoss(10), minibatches, options).run_epochs()[0]


def _batch_loss(module, rows, alpha, *, weighted):
    """scikit-learn's loss of one mini-batch, penalty included."""
    weights = torch.from_numpy(WEIGHTS[rows]) if weighted else torch.ones(len(rows), dtype=torch.float64)
    logits, targets = module(torch.from_numpy(X[rows])), torch.from_numpy(Y[rows])
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    penalty = 0.5 * alpha * sum(linear.weight.square().sum() for linear in module[::2])
    return ((losses * weights).sum() + penalty) / weights.sum()


def _assert_gradient_is(network, k, module):
    coefs, intercepts = network.views(network.grad)
    ours = [view[k] for view in (*coefs, *intercepts)]
    expected = [linear.weight.grad for linear in module[::2]] + [linear.bias.grad for linear in module[::2]]
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_loss_and_gradient_of_a_batch_have_the_penalty(weighted, n_networks):
    network, samples = _stack(n_networks, weighted=weighted)
    options = [replace(OPTIONS, alpha=alpha) for alpha in ALPHAS[:n_networks]]
    losses = _run_epoch(network, samples, options, N_ROWS)
    for k in range(n_networks):
        module = network.member(k)
        loss = _batch_loss(module, np.arange(N_ROWS), ALPHAS[k], weighted=weighted)
        loss.backward()
        assert losses[k] == pytest.approx(loss.item(), rel=1e-12)
        _assert_gradient_is(network, k, module)


@pytest.mark.parametrize("segment_rows", [2**17, 64])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize(
    "train_rows", [[range(150)], [range(150), range(20, 150), range(10, 148)]], ids=["one", "stack"]
)
def test_the_loss_of_an_epoch_is_the_mean_over_rows_of_the_losses_of_batches(train_rows, weighted, segment_rows):
    train_rows = [np.array(rows) for rows in train_rows]
    network, samples = _stack(len(train_rows), weighted=weighted, train_rows=train_rows)
    options = [replace(OPTIONS, alpha=alpha) for alpha in ALPHAS[: len(train_rows)]]
    losses = _run_epoch(network, samples, options, 32, segment_rows=segment_rows)
    for k, rows in enumerate(train_rows):
        module = network.member(k)
        batches = np.split(rows, range(32, len(rows), 32))
        expected = sum(
            len(batch) * _batch_loss(module, batch, ALPHAS[k], weighted=weighted).item() for batch in batches
        )
        assert losses[k] == pytest.approx(expected / len(rows), rel=1e-12)


@pytest.mark.parametrize("max_norms", [[0.05], [0.05, np.inf, 1e6], [1e6, 0.5, 0.05]], ids=str)
def test_clipping_matches_pytorch(max_norms):
    n_networks = len(max_norms)
    network, samples = _stack(n_networks)
    options = [
        replace(OPTIONS, alpha=alpha, gradient_clip_norm=norm)
        for alpha, norm in zip(ALPHAS[:n_networks], max_norms, strict=True)
    ]
    _run_epoch(network, samples, options, N_ROWS)
    for k, max_norm in enumerate(max_norms):
        module = network.member(k)
        _batch_loss(module, np.arange(N_ROWS), ALPHAS[k], weighted=False).backward()
        nn.utils.clip_grad_norm_(module.parameters(), max_norm)
        _assert_gradient_is(network, k, module)


@pytest.mark.parametrize("segment_rows", [2**17, 64])
def test_running_statistics_count_rows_by_their_weight_in_each_batch(segment_rows):
    """A weight of 3 is 3 equal rows."""
    data = make_data(weighted=True)
    data.train.weights = torch.full((N_ROWS,), 3.0, dtype=torch.float64)
    network = make_fit(adam(0), data=data, normalization="batch").network
    linear, norm = network.member(0)[0], nn.BatchNorm1d(12, dtype=torch.float64)
    with torch.no_grad():
        for rows in torch.arange(N_ROWS).split(32):
            norm(linear(torch.from_numpy(X)[rows.repeat(3)]))
    _run_epoch(network, data.train, [OPTIONS], 32, segment_rows=segment_rows)
    mean, variance = network.running_views()[0]
    torch.testing.assert_close(mean[0], norm.running_mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(variance[0], norm.running_var, rtol=1e-10, atol=1e-12)


# Hooks ---------------------------------------------------------------------------------


class _Hooks:
    """Records what it is told; changes the gradient if asked to."""

    def __init__(self, network, change=lambda gradient: None):
        self.network, self.change = network, change
        self.calls, self.rows, self.weights, self.outputs, self.losses = [], [], [], [], []

    def on_segment_begin(self, batch_rows):
        self.calls.append("segment")
        self.rows += [rows.clone() for rows in batch_rows]

    def on_grad_computed(self):
        self.calls.append("gradient")
        self.weights.append(self.network.flat.detach().clone())
        self.change(self.network.grad)

    def on_batch_end(self, outputs, losses):
        self.calls.append("end")
        self.outputs.append(outputs.clone())
        self.losses.append(losses.clone())


class _Observer:
    trains_alone = True

    def __init__(self, hooks):
        self.batch_hooks = hooks

    def on_epoch_begin(self):
        pass

    def on_epoch_end(self, network, k):
        return False


def _fit_with_hooks(optimizer, change=lambda gradient: None, max_iter=1):
    fit = make_fit(optimizer, replace(OPTIONS, max_iter=max_iter, alpha=0.0))
    fit.observer = _Observer(_Hooks(fit.network, change))
    return fit, fit.observer.batch_hooks


def test_hooks_are_called_around_each_step():
    fit, hooks = _fit_with_hooks(adam(0))
    train([fit])
    assert hooks.calls == ["segment", "gradient", "end"] * 5
    assert [len(rows) for rows in hooks.rows] == [32, 32, 32, 32, 22]
    assert sorted(torch.cat(hooks.rows).tolist()) == list(range(N_ROWS))
    network = StackedMLP(fit.network.spec)
    for rows, weights, outputs, losses in zip(hooks.rows, hooks.weights, hooks.outputs, hooks.losses, strict=True):
        network.flat.data.copy_(weights)
        logits = network(torch.from_numpy(X)[rows])[0].detach()
        expected = nn.functional.cross_entropy(logits.T, torch.from_numpy(Y)[rows], reduction="none")
        # Outputs and losses are those before the step.
        torch.testing.assert_close(outputs, logits.softmax(0), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(losses, expected[None], rtol=1e-9, atol=1e-12)
    mean = float(torch.cat(hooks.losses, -1).mean())
    assert fit.progress.loss_curve == [pytest.approx(mean, rel=1e-12)]


def test_hooks_do_not_change_the_numbers():
    fit, _ = _fit_with_hooks(adam(0), max_iter=3)
    plain = make_fit(adam(0), fit.options)
    train([fit])
    train([plain])
    np.testing.assert_allclose(fit.progress.loss_curve, plain.progress.loss_curve, rtol=1e-12)
    np.testing.assert_allclose(fit.network.flat.detach(), plain.network.flat.detach(), rtol=1e-12, atol=1e-14)


def test_a_hook_may_change_the_gradient_in_place():
    def double(gradient):
        gradient.mul_(2)

    changed, _ = _fit_with_hooks(SGD([Schedule(0.1)], [0.0], True), double)
    expected, _ = _fit_with_hooks(SGD([Schedule(0.2)], [0.0], True))
    train([changed])
    train([expected])
    np.testing.assert_allclose(changed.network.flat.detach(), expected.network.flat.detach(), rtol=1e-12, atol=1e-14)


def test_a_hook_may_change_the_rate_of_the_next_step():
    """Steps ask the schedule one by one where there are hooks."""
    fit, hooks = _fit_with_hooks(SGD([Schedule(0.1)], [0.0], True))
    hooks.change = lambda gradient: setattr(fit.optimizer.schedules[0], "learning_rate", 0.0)
    before = fit.network.flat.detach().clone()
    train([fit])
    assert not torch.equal(hooks.weights[1], before)
    assert all(torch.equal(weights, hooks.weights[1]) for weights in hooks.weights[2:])
