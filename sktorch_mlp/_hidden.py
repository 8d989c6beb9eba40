"""What stands between two products in training: normalization, activation, dropout; each with its gradient.

All work in place on the buffers of a forward pass, `units` of shape
``([n_networks,] n_units, n_rows)``, and on the gradient of the same shape, `delta`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ._activations import ActivationLike, activation
from ._network import EPSILON, Dropout, StackedMLP, lean

#: The share of a batch in the running means and variances, PyTorch's default.
_MOMENTUM = 0.1


class HiddenLayer(Protocol):
    """A function of the units of a layer and its gradient, both in place."""

    @property
    def apply_(self) -> Callable[[Tensor], Tensor]:
        """Turn the sums of a layer into what the next one takes."""

    @property
    def backprop_(self) -> Callable[[Tensor, Tensor], object]:
        """``backprop_(delta, units)``: the gradient by the sums; it may destroy the units."""


class _Closed:
    """An activation whose derivative is written out in what came out of it."""

    def __init__(self, like: ActivationLike) -> None:
        self.apply_, backprop_, *_ = activation(like)
        assert backprop_ is not None
        self.backprop_ = backprop_


class _ClosedOfInput:
    """An activation whose derivative is written out in what went into it."""

    def __init__(self, like: ActivationLike, units: Tensor) -> None:
        self._function, self._backprop_ = activation(like).apply_, activation(like).backprop_
        self._input = torch.empty_like(units)

    def apply_(self, units: Tensor) -> Tensor:
        return units.copy_(self._function(self._input.copy_(units)))

    def backprop_(self, delta: Tensor, units: Tensor) -> None:
        assert self._backprop_ is not None
        self._backprop_(delta, self._input)


class _Recorded:
    """Any elementwise function; autograd has the derivative."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def apply_(self, units: Tensor) -> Tensor:
        with torch.enable_grad():
            self._input = units.detach().clone().requires_grad_()
            self._output = self._function(self._input.clone())  # it may work in place
        return units.copy_(self._output.detach())

    def backprop_(self, delta: Tensor, units: Tensor) -> None:
        (gradient,) = torch.autograd.grad(self._output, self._input, delta)
        delta.copy_(gradient)


class _DroppedOut:
    """Inverted dropout (Srivastava et al., 2014): units are zero with probability p, others grow by 1 / (1 - p)."""

    def __init__(self, dropout: Dropout, layer: int, units: Tensor) -> None:
        self._dropout, self._layer = dropout, layer
        self._mask = units.new_empty(units.shape)  # contiguous, so that sparse rows get the masks of dense ones
        self._kept = dropout.kept(layer, units)

    def apply_(self, units: Tensor) -> Tensor:
        self._dropout.draw_(self._layer, self._mask)
        self._mask.div_(self._kept)
        return units.mul_(self._mask)

    def backprop_(self, delta: Tensor, units: Tensor) -> None:
        delta.mul_(self._mask)
        units.mul_(self._kept)  # as they were before, but for those whose delta is now zero


class _Normalized:
    """What the two normalizations share: a scale and a shift of what they have standardised."""

    def __init__(self, network: StackedMLP, layer: int, units: Tensor) -> None:
        self._standardised = torch.empty_like(units)
        (self._scale, self._shift), (self._scale_grad, self._shift_grad) = (
            [lean(view.unsqueeze(-1)) for view in network.norm_views(flat)[layer]]
            for flat in (network.flat.detach(), network.grad)
        )

    def _scale_and_shift(self, units: Tensor) -> Tensor:
        return torch.addcmul(self._shift, self._standardised, self._scale, out=units)

    def _backprop_scale_and_shift(self, delta: Tensor) -> None:
        torch.sum(delta, -1, keepdim=True, out=self._shift_grad)
        torch.sum(delta * self._standardised, -1, keepdim=True, out=self._scale_grad)


class _BatchNormalized(_Normalized):
    """Units standardised over the rows of the batch (Ioffe and Szegedy, 2015), rows counting by their weight."""

    def __init__(self, network: StackedMLP, layer: int, units: Tensor) -> None:
        super().__init__(network, layer, units)
        self._running_mean, self._running_variance = (
            lean(view.unsqueeze(-1)) for view in network.running_views()[layer]
        )
        self._shares = units.new_tensor(1 / units.shape[-1])
        # Made once: a copy from the host could not be captured in a CUDA graph.
        self._total = self._all_rows = units.new_tensor(units.shape[-1])

    def weigh(self, shares: Tensor, total: Tensor) -> None:
        """Take the weights of the coming batch: each row's share, and their sum, network by network."""
        self._shares, self._total = shares, lean(total.unsqueeze(-1).unsqueeze(-1))

    def apply_(self, units: Tensor) -> Tensor:
        mean = (units * self._shares).sum(-1, keepdim=True)
        centred = torch.sub(units, mean, out=self._standardised)
        variance = (centred.square() * self._shares).sum(-1, keepdim=True)
        self._rstd = torch.rsqrt(variance + EPSILON)
        centred.mul_(self._rstd)
        if units.shape[-1] > 1:  # one row has no variance to learn from
            self._running_mean.lerp_(mean, _MOMENTUM)
            # PyTorch keeps the unbiased variance, of n rows where weights sum to n.
            n = torch.maximum(self._total, self._n_rows()).clamp(min=2.0)
            self._running_variance.lerp_(variance * (n / (n - 1)), _MOMENTUM)
        return self._scale_and_shift(units)

    def _n_rows(self) -> Tensor:
        """Rows that count."""
        if self._shares.ndim == 0:
            return self._all_rows
        return (self._shares > 0).sum(-1, keepdim=True)

    def backprop_(self, delta: Tensor, units: Tensor) -> None:
        self._backprop_scale_and_shift(delta)
        common = torch.addcmul(self._shift_grad, self._standardised, self._scale_grad)
        delta.sub_(common.mul_(self._shares)).mul_(self._scale * self._rstd)


class _LayerNormalized(_Normalized):
    """Rows standardised over the units of the layer (Ba, Kiros and Hinton, 2016)."""

    def apply_(self, units: Tensor) -> Tensor:
        centred = torch.sub(units, units.mean(-2, keepdim=True), out=self._standardised)
        self._rstd = torch.rsqrt(centred.square().mean(-2, keepdim=True) + EPSILON)
        centred.mul_(self._rstd)
        return self._scale_and_shift(units)

    def backprop_(self, delta: Tensor, units: Tensor) -> None:
        self._backprop_scale_and_shift(delta)
        delta.mul_(self._scale)
        along = (delta * self._standardised).mean(-2, keepdim=True)
        delta.sub_(delta.mean(-2, keepdim=True)).sub_(self._standardised * along).mul_(self._rstd)


class _Chain:
    """Functions one after the other."""

    def __init__(self, parts: Sequence[HiddenLayer]) -> None:
        self._parts = parts

    def apply_(self, units: Tensor) -> Tensor:
        for part in self._parts:
            part.apply_(units)
        return units

    def backprop_(self, delta: Tensor, units: Tensor) -> None:
        for part in reversed(self._parts):
            part.backprop_(delta, units)


_NORMALIZATIONS: dict[str, type[_BatchNormalized | _LayerNormalized]] = {
    "batch": _BatchNormalized,
    "layer": _LayerNormalized,
}


def hidden_layers(network: StackedMLP, outputs: Sequence[Tensor]) -> tuple[list[HiddenLayer], list[_BatchNormalized]]:
    """What a network in training does with the sums of each hidden layer.

    Parameters
    ----------
    network : StackedMLP
    outputs : sequence of Tensor of shape ([n_networks,] n_units, n_rows)
        Buffers of the sums.

    Returns
    -------
    layers : list of HiddenLayer
    weighed : list
        Those of their parts that have to know the weights of a batch.
    """
    layers: list[HiddenLayer] = []
    weighed = []
    for layer, (like, units) in enumerate(zip(network.activations, outputs, strict=False)):
        parts: list[HiddenLayer] = []
        if network.normalization is not None:
            parts.append(_NORMALIZATIONS[network.normalization](network, layer, units))
        if activation(like).of_input:
            parts.append(_ClosedOfInput(like, units))
        elif activation(like).backprop_ is None:
            parts.append(_Recorded(activation(like).apply_))
        else:
            parts.append(_Closed(like))
        if network.dropout is not None and network.dropout.is_on(layer):
            parts.append(_DroppedOut(network.dropout, layer, units))
        weighed += [part for part in parts if isinstance(part, _BatchNormalized)]
        layers.append(parts[0] if len(parts) == 1 else _Chain(parts))
    return layers, weighed
