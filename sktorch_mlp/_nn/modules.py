"""A network as plain modules of PyTorch, which share its memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from .activations import ActivationLike, get_activation

#: Added to the variance by a normalization; PyTorch's default.
EPSILON = 1e-5

#: Fraction of a batch in the running means and variances of batch normalization; PyTorch's default.
MOMENTUM = 0.1

#: PyTorch's names of the tensors of a normalization; the last two are batch normalization's.
NORM_NAMES = ("weight", "bias", "running_mean", "running_var")

#: A module with a weight and a bias.
_Affine = TypeVar("_Affine", nn.Linear, nn.LayerNorm, nn.BatchNorm1d)


def sequential(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: Sequence[ActivationLike],
    norms: Sequence[Sequence[Tensor]] = (),
    dropout: Sequence[float] = (),
) -> nn.Sequential:
    """Build modules around the given tensors; the last Linear gives logits.

    Parameters
    ----------
    weights : sequence of Tensor of shape (n_out, n_in)
    biases : sequence of Tensor of shape (n_out,)
    activations : sequence of str or callable
        One for each hidden layer.
    norms : sequence of sequence of Tensor, default=()
        The tensors of each normalization, in the order of `NORM_NAMES`: two of layer
        normalization, four of batch normalization.
    dropout : sequence of float, default=()
        Rate of each hidden layer.
    """
    modules: list[nn.Module] = []
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        modules.append(_with_tensors(nn.Linear(weight.shape[1], weight.shape[0], device="meta"), weight, bias))
        if layer == len(activations):
            break
        if norms:
            modules.append(_normalization(*norms[layer]))
        modules.append(get_activation(activations[layer]).module())
        if dropout and dropout[layer]:
            modules.append(nn.Dropout(dropout[layer]))
    return nn.Sequential(*modules)


def _normalization(weight: Tensor, bias: Tensor, *running: Tensor) -> nn.Module:
    if not running:
        return _with_tensors(nn.LayerNorm(len(weight), EPSILON, device="meta"), weight, bias)
    module = _with_tensors(nn.BatchNorm1d(len(weight), EPSILON, device="meta"), weight, bias)
    module.running_mean, module.running_var = running
    module.num_batches_tracked = torch.zeros((), dtype=torch.int64, device=weight.device)
    return module


def _with_tensors(module: _Affine, weight: Tensor, bias: Tensor) -> _Affine:
    """Put tensors into a module made on "meta", which allocates nothing."""
    module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
    return module
