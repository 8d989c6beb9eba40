"""Stacks of random networks, and losses written with PyTorch's own functions."""

from functools import partial

import torch
from torch import nn

from sktorch_mlp._nn.losses import (
    AbsoluteError,
    BinaryLogLoss,
    HalfPoissonDeviance,
    HalfSquaredError,
    HuberLoss,
    LogLoss,
    QuantileLoss,
    SoftBinaryLogLoss,
    SoftLogLoss,
)
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP

CPU = torch.device("cpu")

#: Initial weights: the functions of PyTorch, spelled out.
INITS = {
    "glorot_uniform": nn.init.xavier_uniform_,
    "glorot_normal": nn.init.xavier_normal_,
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "lecun_normal": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "orthogonal": nn.init.orthogonal_,
    ("normal", 0.3): partial(nn.init.normal_, std=0.3),
}

#: The modules of PyTorch for the activations that have a name.
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

#: Output activations of rows, by PyTorch.
OUT_ACTIVATIONS = {
    "identity": lambda z: z,
    "logistic": torch.sigmoid,
    "softmax": lambda z: torch.softmax(z, 1),
    "exp": torch.exp,
}


def seeded(seed):
    """A generator of PyTorch with this seed."""
    return torch.Generator().manual_seed(seed)


def random_stack(units, activation="tanh", n_networks=1, *, std=0.7, **spec):
    """A stack in float64 with random weights; one activation for all layers, or a tuple of one for each."""
    activations = activation if isinstance(activation, tuple) else (activation,) * (len(units) - 2)
    network = StackedMLP(NetworkSpec(tuple(units), activations, dtype=torch.float64, **spec), n_networks)
    network.flat.data.normal_(std=std, generator=seeded(2))
    return network


def row_losses(loss, logits, targets):
    """Each row's loss by PyTorch's own functions, of shape (..., n_rows).

    Outputs are summed or averaged as the gradient has it: scikit-learn reports the squared error averaged over outputs,
    but descends its sum.
    """
    functional = nn.functional
    if isinstance(loss, LogLoss):
        targets = targets.expand(*logits.shape[:-2], 1, -1).squeeze(-2)
        return functional.cross_entropy(logits.movedim(-2, 1), targets, reduction="none")
    targets = targets.expand_as(logits)
    if isinstance(loss, SoftLogLoss):
        return functional.cross_entropy(logits.movedim(-2, 1), targets.movedim(-2, 1), reduction="none")
    if isinstance(loss, BinaryLogLoss):
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-2)
    if isinstance(loss, HalfPoissonDeviance):
        constant = torch.xlogy(targets, targets) - targets  # PyTorch's lacks the terms of the target alone
        return (functional.poisson_nll_loss(logits, targets, log_input=True, reduction="none") + constant).sum(-2)
    if isinstance(loss, HalfSquaredError):
        return 0.5 * functional.mse_loss(logits, targets, reduction="none").sum(-2)
    if isinstance(loss, AbsoluteError):
        return functional.l1_loss(logits, targets, reduction="none").mean(-2)
    if isinstance(loss, HuberLoss):
        return functional.huber_loss(logits, targets, reduction="none").mean(-2)
    assert isinstance(loss, QuantileLoss)
    residuals = targets - logits  # the definition of Koenker and Bassett (1978); PyTorch has none
    return torch.where(residuals > 0, loss.quantile * residuals, (loss.quantile - 1) * residuals).mean(-2)


def random_targets(loss, n_rows, rng):
    """Targets that the loss takes, of shape (n_targets, n_rows)."""
    shape = loss.n_outputs, n_rows
    if isinstance(loss, LogLoss):
        return torch.from_numpy(rng.randint(0, loss.n_outputs, (1, n_rows)))
    if isinstance(loss, SoftLogLoss):
        return torch.from_numpy(rng.dirichlet([1.0] * loss.n_outputs, n_rows).T.copy())
    if isinstance(loss, SoftBinaryLogLoss):
        return torch.from_numpy(rng.uniform(size=shape))
    if isinstance(loss, BinaryLogLoss):
        return torch.from_numpy(rng.randint(0, 2, shape).astype(float))
    if isinstance(loss, HalfPoissonDeviance):
        return torch.from_numpy(rng.poisson(2.0, shape).astype(float))
    return torch.from_numpy(rng.randn(*shape))
