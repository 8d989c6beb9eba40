"""Hidden layers in training: normalization, activation and dropout between two products, each with its gradient.

All work in place on the buffers of a forward pass, `units` of shape
``([n_networks,] n_units, n_rows)``, and on the gradient of the same shape, `delta`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .activations import Activation, get_activation
from .dropout import Dropout
from .modules import EPSILON, MOMENTUM
from .network import StackedMLP
from .tensors import squeeze_stack


class HiddenLayer(Protocol):
    """A function of the sums of a layer, and its gradient."""

    @property
    def forward_(self) -> Callable[[Tensor], Tensor]:
        """Turn the sums of a layer into the input of the next one."""

    @property
    def backward_(self) -> Callable[[Tensor, Tensor], object]:
        """``backward_(delta, units)`` turns the gradient at the output into that at the sums; it may overwrite `units`."""


class ActivationFromOutput:
    """An activation whose derivative is written in terms of its output."""

    def __init__(self, activation: Activation) -> None:
        assert activation.backward_ is not None
        self.forward_, self.backward_ = activation.forward_, activation.backward_


class ActivationFromInput:
    """An activation whose derivative is written in terms of its input, which is kept."""

    def __init__(self, activation: Activation, units: Tensor) -> None:
        assert activation.backward_ is not None
        self._activate_, self._differentiate_ = activation.forward_, activation.backward_
        self._input = torch.empty_like(units)

    def forward_(self, units: Tensor) -> Tensor:
        """Activate."""
        return units.copy_(self._activate_(self._input.copy_(units)))

    def backward_(self, delta: Tensor, units: Tensor) -> None:
        """Multiply by the derivative."""
        self._differentiate_(delta, self._input)


class AutogradActivation:
    """Any elementwise function, differentiated by autograd."""

    def __init__(self, activation: Activation) -> None:
        self._function = activation.forward_

    def forward_(self, units: Tensor) -> Tensor:
        """Activate."""
        with torch.enable_grad():
            self._input = units.detach().clone().requires_grad_()
            self._output = self._function(self._input.clone())  # it may work in place
        return units.copy_(self._output.detach())

    def backward_(self, delta: Tensor, units: Tensor) -> None:
        """Multiply by the derivative."""
        (gradient,) = torch.autograd.grad(self._output, self._input, delta)
        delta.copy_(gradient)


class DropoutLayer:
    """Inverted dropout (Srivastava et al., 2014): units are zero with probability p, others grow by 1 / (1 - p)."""

    def __init__(self, dropout: Dropout, layer: int, units: Tensor) -> None:
        self._dropout, self._layer = dropout, layer
        self._mask = units.new_empty(units.shape)  # contiguous, so that sparse rows get the masks of dense ones
        self._kept_fraction = dropout.kept_fraction(layer, units)

    def forward_(self, units: Tensor) -> Tensor:
        """Drop units."""
        self._dropout.draw_(self._layer, self._mask)
        self._mask.div_(self._kept_fraction)
        return units.mul_(self._mask)

    def backward_(self, delta: Tensor, units: Tensor) -> None:
        """Drop their gradients, and restore the units for the layer below, but for those whose delta is now zero."""
        delta.mul_(self._mask)
        units.mul_(self._kept_fraction)


class _Normalization:
    """Scale and shift of normalized units, which both normalizations share."""

    def __init__(self, network: StackedMLP, layer: int, units: Tensor) -> None:
        self._normalized = torch.empty_like(units)
        (self._scale, self._shift), (self._scale_grad, self._shift_grad) = (
            [squeeze_stack(view.unsqueeze(-1)) for view in network.norm_views(flat)[layer]]
            for flat in (network.flat.detach(), network.grad)
        )

    def _scale_and_shift(self, units: Tensor) -> Tensor:
        return torch.addcmul(self._shift, self._normalized, self._scale, out=units)

    def _write_gradients(self, delta: Tensor) -> None:
        """Write the gradients of scale and shift."""
        torch.sum(delta, -1, keepdim=True, out=self._shift_grad)
        torch.sum(delta * self._normalized, -1, keepdim=True, out=self._scale_grad)


class BatchNormalization(_Normalization):
    """Units normalized over the rows of the batch (Ioffe and Szegedy, 2015), rows counting by their weight."""

    def __init__(self, network: StackedMLP, layer: int, units: Tensor) -> None:
        super().__init__(network, layer, units)
        self._running_mean, self._running_variance = (
            squeeze_stack(view.unsqueeze(-1)) for view in network.running_views()[layer]
        )
        self._fractions = units.new_tensor(1 / units.shape[-1])
        # Made once: a copy from the host could not be captured in a CUDA graph.
        self._total = self._n_all_rows = units.new_tensor(units.shape[-1])

    def set_sample_weight(self, fractions: Tensor, total: Tensor) -> None:
        """Set the weights of the coming batch: the fraction of each row, and their sum for each network."""
        self._fractions, self._total = fractions, squeeze_stack(total.unsqueeze(-1).unsqueeze(-1))

    def forward_(self, units: Tensor) -> Tensor:
        """Normalize by the batch, and move the running statistics."""
        mean = (units * self._fractions).sum(-1, keepdim=True)
        centered = torch.sub(units, mean, out=self._normalized)
        variance = (centered.square() * self._fractions).sum(-1, keepdim=True)
        self._rstd = torch.rsqrt(variance + EPSILON)
        centered.mul_(self._rstd)
        if units.shape[-1] > 1:  # one row has no variance to learn from
            self._running_mean.lerp_(mean, MOMENTUM)
            # PyTorch keeps the unbiased variance, of n rows where weights sum to n.
            n = torch.maximum(self._total, self._n_rows()).clamp(min=2.0)
            self._running_variance.lerp_(variance * (n / (n - 1)), MOMENTUM)
        return self._scale_and_shift(units)

    def _n_rows(self) -> Tensor:
        """Rows with a weight."""
        if self._fractions.ndim == 0:
            return self._n_all_rows
        return (self._fractions > 0).sum(-1, keepdim=True)

    def backward_(self, delta: Tensor, units: Tensor) -> None:
        """Differentiate, the statistics of the batch included."""
        self._write_gradients(delta)
        common = torch.addcmul(self._shift_grad, self._normalized, self._scale_grad)
        delta.sub_(common.mul_(self._fractions)).mul_(self._scale * self._rstd)


class LayerNormalization(_Normalization):
    """Rows normalized over the units of the layer (Ba, Kiros and Hinton, 2016)."""

    def forward_(self, units: Tensor) -> Tensor:
        """Normalize."""
        centered = torch.sub(units, units.mean(-2, keepdim=True), out=self._normalized)
        self._rstd = torch.rsqrt(centered.square().mean(-2, keepdim=True) + EPSILON)
        centered.mul_(self._rstd)
        return self._scale_and_shift(units)

    def backward_(self, delta: Tensor, units: Tensor) -> None:
        """Differentiate."""
        self._write_gradients(delta)
        delta.mul_(self._scale)
        along = (delta * self._normalized).mean(-2, keepdim=True)
        delta.sub_(delta.mean(-2, keepdim=True)).sub_(self._normalized * along).mul_(self._rstd)


class Chain:
    """Hidden layers applied one after the other."""

    def __init__(self, parts: Sequence[HiddenLayer]) -> None:
        self._parts = parts

    def forward_(self, units: Tensor) -> Tensor:
        """Apply all parts."""
        for part in self._parts:
            part.forward_(units)
        return units

    def backward_(self, delta: Tensor, units: Tensor) -> None:
        """Differentiate all parts, the last one first."""
        for part in reversed(self._parts):
            part.backward_(delta, units)


_NORMALIZATIONS: dict[str, type[BatchNormalization | LayerNormalization]] = {
    "batch": BatchNormalization,
    "layer": LayerNormalization,
}


def hidden_layers(network: StackedMLP, outputs: Sequence[Tensor]) -> tuple[list[HiddenLayer], list[BatchNormalization]]:
    """Make the hidden layers of a network in training.

    Parameters
    ----------
    network : StackedMLP
    outputs : sequence of Tensor of shape ([n_networks,] n_units, n_rows)
        Buffers of the sums of each layer.

    Returns
    -------
    layers : list of HiddenLayer
    batch_norms : list of BatchNormalization
        Those of their parts that have to know the weights of a batch.
    """
    layers: list[HiddenLayer] = []
    batch_norms = []
    for layer, (name, units) in enumerate(zip(network.spec.activations, outputs, strict=False)):
        parts: list[HiddenLayer] = []
        if network.spec.normalization is not None:
            parts.append(_NORMALIZATIONS[network.spec.normalization](network, layer, units))
        parts.append(_activation_layer(get_activation(name), units))
        if network.dropout is not None and network.dropout.is_on(layer):
            parts.append(DropoutLayer(network.dropout, layer, units))
        batch_norms += [part for part in parts if isinstance(part, BatchNormalization)]
        layers.append(parts[0] if len(parts) == 1 else Chain(parts))
    return layers, batch_norms


def _activation_layer(activation: Activation, units: Tensor) -> HiddenLayer:
    if activation.backward_ is None:
        return AutogradActivation(activation)
    return ActivationFromInput(activation, units) if activation.needs_input else ActivationFromOutput(activation)
