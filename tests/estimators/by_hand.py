"""Training in plain PyTorch, to which the estimators are compared: modules, losses, optimizers and a loop."""

from functools import partial

import numpy as np
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import scale
from torch import nn
from torch.nn import functional

from sktorch_mlp._nn.dropout import Dropout
from sktorch_mlp._nn.initialization import initial_parameters

N_ROWS, BATCH_SIZE, N_EPOCHS = 90, 40, 4
X, Y = load_digits(n_class=3, return_X_y=True)
X, Y, X_VAL, Y_VAL = X[:N_ROWS] / 16, Y[:N_ROWS], X[200:260] / 16, Y[200:260]
BINARY = (Y > 0).astype(int)
LABELS = np.stack([Y > 0, Y == 1, X[:, 10] > 0.5], 1).astype(int)
NUMBERS_X, NUMBERS = load_diabetes(return_X_y=True)
NUMBERS_X, NUMBERS = scale(NUMBERS_X)[:N_ROWS], scale(NUMBERS)[:N_ROWS]
TWO_NUMBERS = np.stack([NUMBERS, NUMBERS**2], 1)
WEIGHTS = np.random.RandomState(0).uniform(0.5, 2.0, N_ROWS)

PARAMS = {"hidden_layer_sizes": (8, 6), "batch_size": BATCH_SIZE, "max_iter": N_EPOCHS, "random_state": 0}
IN_ORDER = {**PARAMS, "shuffle": False}
PLAIN_SGD = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1}
# Epsilon of scikit-learn's adam is not where PyTorch has it; adamw's is.
ADAM = {"solver": "adamw", "weight_decay": 0.0, "learning_rate_init": 0.01}


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, units):
        return self.function(units)


class Dropped(nn.Module):
    """Inverted dropout by a stream of its own, which fills units before rows."""

    def __init__(self, rate, generator):
        super().__init__()
        self.rate, self.generator = rate, generator

    def forward(self, units):
        if not self.training or self.rate == 0:
            return units
        mask = torch.empty(units.shape[::-1], dtype=units.dtype)
        dropout = Dropout([[self.rate]], [self.generator])
        dropout.draw_(0, mask)
        return units * mask.T / dropout.kept_fraction(0, mask)


RELUS = (nn.ReLU(), nn.ReLU())


def modules(n_outputs, *, activations=RELUS, initial="relu", norm=None, rates=(0.0, 0.0), n_in=64):
    """PyTorch's modules with the initial weights of ``random_state=0``; `initial` names the activations they go by."""
    random_state, sizes = np.random.RandomState(0), [n_in, 8, 6, n_outputs]
    coefs, intercepts = initial_parameters(sizes, initial, random_state)
    # An estimator draws the seed of its masks next.
    generator = torch.Generator().manual_seed(int(random_state.randint(np.iinfo(np.int32).max)))
    layers = []
    for layer, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
        linear = nn.Linear(*coef.shape, dtype=torch.float64)
        linear.load_state_dict({"weight": torch.from_numpy(coef.T), "bias": torch.from_numpy(intercept)})
        layers.append(linear)
        if layer < len(activations):
            layers += [] if norm is None else [norm(coef.shape[1], dtype=torch.float64)]
            layers += [activations[layer], Dropped(rates[layer], generator)]
    return nn.Sequential(*layers)


def train_by_hand(
    module, X, y, row_loss, make_optimizer, *, alpha=0.0, weights=None, clip=None, by_epoch=None, by_batch=None
):
    """Losses of the epochs: of a batch the weighted mean and the penalty, of an epoch the mean over rows."""
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    weights = torch.ones(len(X), dtype=torch.float64) if weights is None else torch.from_numpy(weights)
    optimizer = make_optimizer(module.parameters())
    by_epoch, by_batch = (None if make is None else make(optimizer) for make in (by_epoch, by_batch))
    losses = []
    module.train()
    for _ in range(N_EPOCHS):
        losses.append(0.0)
        for rows in torch.arange(len(X)).split(BATCH_SIZE):
            w = weights[rows]
            penalty = sum((layer.weight**2).sum() for layer in module if isinstance(layer, nn.Linear))
            loss = (w * row_loss(module(X[rows]), y[rows])).sum() / w.sum() + 0.5 * alpha * penalty / w.sum()
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
            if by_batch is not None:
                by_batch.step()
            losses[-1] += loss.item() * len(rows) / len(X)
        if by_epoch is not None:
            by_epoch.step()
    return losses


def assert_learned_as(model, module, losses):
    """Check that a model has learned what a module has, by way of the same losses."""
    close = partial(assert_allclose, rtol=1e-8, atol=1e-11)  # sums in another order, a dozen steps
    close(model.loss_curve_, losses)
    linears = [layer for layer in module if isinstance(layer, nn.Linear)]
    norms = [layer for layer in module if isinstance(layer, nn.BatchNorm1d | nn.LayerNorm)]
    for coef, intercept, linear in zip(model.coefs_, model.intercepts_, linears, strict=True):
        close(coef.T, linear.weight.detach())
        close(intercept, linear.bias.detach())
    for arrays, norm in zip(model.normalizations_, norms, strict=True):
        expected = {name: value for name, value in norm.state_dict().items() if name != "num_batches_tracked"}
        assert list(arrays) == list(expected)
        for name, value in expected.items():
            close(arrays[name], value)


def cross_entropy(logits, y):
    """PyTorch's, of each row."""
    return functional.cross_entropy(logits, y, reduction="none")


def binary_cross_entropy(logits, y):
    """PyTorch's, summed over outputs."""
    losses = functional.binary_cross_entropy_with_logits(logits, y.double().reshape(logits.shape), reduction="none")
    return losses.sum(1)


def sgd(parameters):
    """PyTorch's with the learning rate of PLAIN_SGD."""
    return torch.optim.SGD(parameters, lr=0.1)


def adam(parameters):
    """PyTorch's with the learning rate of ADAM."""
    return torch.optim.Adam(parameters, lr=0.01)
