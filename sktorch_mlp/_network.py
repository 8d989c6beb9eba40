"""The stacked MLP: layers, initialisation, forward pass. Knows no training.

Every tensor has a leading axis for the networks of the stack, and units stand
before rows: activations are ``(n_networks, n_units, n_rows)``. Sums over rows
and softmaxes over units are then several times cheaper than row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ._activations import ACTIVATIONS
from ._arrays import as_tensor

#: Features up to which the product for the first layer's gradient is faster (up to three
#: times) into input-major memory.
_NARROW = 16


def lean(tensor: Tensor) -> Tensor:
    """Drop the network axis of a stack of one, so that 2-D calls can be used (3 µs each)."""
    return tensor[0] if tensor.shape[0] == 1 else tensor


class StackedMLP(nn.Module):
    """K multilayer perceptrons of one shape, held in one flat parameter.

    Parameters
    ----------
    layer_units : sequence of int
        Units of every layer, from the input features to the outputs.
    activation : str
        Name of the hidden activation, a key of ``ACTIVATIONS``.
    n_networks : int, default=1
        Number of networks in the stack, K.
    sparse_input : bool, default=False
        Whether the input will be sparse. The first layer is then stored input-major, as
        it is for few features.
    dtype, device : optional
        Where and in what precision the parameters live.

    Attributes
    ----------
    flat : Parameter of shape (n_networks, n_parameters)
        All coefficients layer by layer, then all intercepts, so that an update
        is one call and the L2 penalty concerns one slice, ``[:, :n_coefs]``.
    """

    def __init__(
        self,
        layer_units: Sequence[int],
        activation: str,
        n_networks: int = 1,
        *,
        sparse_input: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.layer_units = tuple(layer_units)
        self.activation = activation
        self.sparse_input = sparse_input
        self._input_major = sparse_input or self.layer_units[0] <= _NARROW
        self.n_coefs = sum(n_in * n_out for n_in, n_out in pairwise(self.layer_units))
        n_parameters = self.n_coefs + sum(self.layer_units[1:])
        self.flat = nn.Parameter(torch.zeros(n_networks, n_parameters, dtype=dtype, device=device))

    @property
    def n_networks(self) -> int:
        """Number of networks in the stack."""
        return self.flat.shape[0]

    @property
    def grad(self) -> Tensor:
        """Gradient of `flat`, made at the first access."""
        if self.flat.grad is None:
            self.flat.grad = torch.zeros_like(self.flat)
        return self.flat.grad

    def views(self, flat: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Each layer's coefficients and intercepts, as views.

        Parameters
        ----------
        flat : Tensor of shape (n_networks, n_parameters), default=None
            What to look into: the parameters (None), or a gradient of their shape.

        Returns
        -------
        coefs : list of Tensor of shape (n_networks, n_out, n_in)
        intercepts : list of Tensor of shape (n_networks, n_out)
        """
        flat = self.flat if flat is None else flat
        coefs, intercepts = [], []
        coef_start, intercept_start = 0, self.n_coefs
        for layer, (n_in, n_out) in enumerate(pairwise(self.layer_units)):
            block = flat[:, coef_start : coef_start + n_in * n_out]
            if layer == 0 and self._input_major:
                coefs.append(block.unflatten(1, (n_in, n_out)).mT)
            else:
                coefs.append(block.unflatten(1, (n_out, n_in)))
            intercepts.append(flat[:, intercept_start : intercept_start + n_out])
            coef_start += n_in * n_out
            intercept_start += n_out
        return coefs, intercepts

    def forward(self, X: Tensor) -> Tensor:
        """Logits of all networks, of shape (n_networks, n_outputs, n_rows).

        Parameters
        ----------
        X : Tensor of shape (n_rows, n_features) or (n_networks, n_rows, n_features)
        """
        activate = ACTIVATIONS[self.activation].apply_
        units = X.mT
        for layer, (coef, intercept) in enumerate(zip(*self.views(), strict=True)):
            units = coef @ (activate(units) if layer else units) + intercept.unsqueeze(-1)
        return units

    @torch.no_grad()
    def load(self, network: int, coefs: Sequence[Any], intercepts: Sequence[Any]) -> None:
        """Copy scikit-learn's arrays, coefs of shape (n_in, n_out), into one network."""
        for view, values in zip(self.views()[0], coefs, strict=True):
            view[network].copy_(as_tensor(values).T)
        for view, values in zip(self.views()[1], intercepts, strict=True):
            view[network].copy_(as_tensor(values))

    @torch.no_grad()
    def keep(self, networks: Sequence[int]) -> None:
        """Reduce the stack to the networks of these indices."""
        self.flat = nn.Parameter(self.flat[list(networks)])

    def member(self, network: int) -> nn.Sequential:
        """One network as plain PyTorch modules that share its parameters."""
        coefs, intercepts = self.views(self.flat.detach())
        return sequential(
            [coef[network] for coef in coefs],
            [intercept[network] for intercept in intercepts],
            self.activation,
        )


def sequential(weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str) -> nn.Sequential:
    """Linear and activation modules around the given tensors; the last Linear gives logits.

    Parameters
    ----------
    weights : sequence of Tensor of shape (n_out, n_in)
    biases : sequence of Tensor of shape (n_out,)
    activation : str
        Name of the hidden activation.
    """
    modules: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # allocates nothing
        linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        modules += [linear, ACTIVATIONS[activation].module()]
    return nn.Sequential(*modules[:-1])


def initial_parameters(layer_units: Sequence[int], activation: str, random_state: Any) -> tuple[list[Any], list[Any]]:
    """Draw coefficients and intercepts as scikit-learn does, in its order.

    Uniform in ±sqrt(6 / (fan_in + fan_out)) after Glorot and Bengio (2010), with 2 in
    place of 6 for the logistic activation; intercepts are drawn too.

    Returns
    -------
    coefs : list of ndarray of shape (n_in, n_out)
    intercepts : list of ndarray of shape (n_out,)
    """
    factor = 2.0 if activation == "logistic" else 6.0
    coefs, intercepts = [], []
    for n_in, n_out in pairwise(layer_units):
        bound = (factor / (n_in + n_out)) ** 0.5
        coefs.append(random_state.uniform(-bound, bound, (n_in, n_out)))
        intercepts.append(random_state.uniform(-bound, bound, n_out))
    return coefs, intercepts
