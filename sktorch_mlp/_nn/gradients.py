"""Forward pass and gradient of a stack, on batches of one size, in buffers made once.

A small step costs as much in calls as in arithmetic (about 1 µs each). So every view
is made here, once, and a step is little more than its matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .activations import get_activation
from .embeddings import EmbeddedBatches
from .hidden import hidden_layers
from .inputs import Batch
from .losses import OUTPUT_ACTIVATIONS, Loss
from .matmul import bind_addmm, bind_mm, bind_row_sums
from .network import StackedMLP, hidden_functions
from .tensors import squeeze_stack
from .threads import share_elementwise

#: Multiply-adds of a product that take as long as an activation of one unit.
_OPERATIONS_PER_UNIT = 16


class ForwardPass:
    """Outputs of a stack for batches of `n_rows` rows. Changes of the parameters take effect.

    Parameters
    ----------
    network : StackedMLP
    out_activation : str
        A key of ``OUTPUT_ACTIVATIONS``; "identity" for logits.
    n_rows : int
    training : bool, default=False
        Whether to normalize by the batch and to drop units.

    Attributes
    ----------
    coefs : list of Tensor of shape ([n_networks,] n_out, n_in)
    outputs : list of Tensor of shape ([n_networks,] n_units, n_rows)
        Output of each layer at the last call.
    embedded : EmbeddedBatches or None
        Makes batches of inputs, which the first layer takes, of batches of columns; None where these are the same.
    hidden : list of HiddenLayer
        Functions of the outputs of each hidden layer; in training only.
    """

    def __init__(self, network: StackedMLP, out_activation: str, n_rows: int, *, training: bool = False) -> None:
        coefs, intercepts = network.views(network.flat.detach())
        self.coefs = [squeeze_stack(coef) for coef in coefs]
        self.outputs = [_unit_buffer(coef, n_rows, network.spec.sparse_input and coef is coefs[0]) for coef in coefs]
        self._intercepts = [squeeze_stack(intercept.unsqueeze(-1)) for intercept in intercepts]
        self._activate_outputs_ = OUTPUT_ACTIVATIONS[out_activation]
        self.embedded = _embedded_batches(network, n_rows)
        self.hidden, self._batch_norms = hidden_layers(network, self.outputs) if training else ([], [])
        if training:
            functions = [layer.forward_ for layer in self.hidden]
        else:
            norms = [list(map(squeeze_stack, norm)) for norm in network.norm_tensors()]
            functions = hidden_functions(network.spec.activations, norms)
        self._deeper = [
            (
                _share(function, network, layer, units),
                units,
                bind_addmm(intercept, coef, units, out, bfloat16=network.spec.bfloat16),
            )
            for layer, (function, units, intercept, coef, out) in enumerate(
                zip(functions, self.outputs[:-1], self._intercepts[1:], self.coefs[1:], self.outputs[1:], strict=True)
            )
        ]

    def set_sample_weight(self, fractions: Tensor, total: Tensor) -> None:
        """Set the weights of the coming batch: the fraction of each row, and their sums of shape (n_networks,)."""
        for layer in self._batch_norms:
            layer.set_sample_weight(fractions, total)

    def __call__(self, batch: Batch) -> Tensor:
        """Outputs of shape ([n_networks,] n_outputs, n_rows); a buffer, valid until the next call."""
        return self.of_inputs(batch if self.embedded is None else self.embedded(batch))

    def of_inputs(self, batch: Batch) -> Tensor:
        """Outputs for a batch of inputs of the first layer."""
        batch.affine(self.coefs[0], self._intercepts[0], self.outputs[0])
        for function, units, write_output in self._deeper:
            result = function(units)
            if result is not units:
                units.copy_(result)
            write_output()
        return self._activate_outputs_(self.outputs[-1])


class Gradient:
    """Gradient of the loss, in closed form, into ``network.grad``.

    Parameters
    ----------
    network : StackedMLP
    loss : Loss
    n_rows : int
        Rows of a batch.
    keep_outputs : bool, default=False
        Whether to copy the outputs of each batch to `outputs`.

    Attributes
    ----------
    outputs : Tensor of shape ([n_networks,] n_outputs, n_rows)
        Outputs of the last batch, with `keep_outputs`.
    """

    outputs: Tensor

    def __init__(self, network: StackedMLP, loss: Loss, n_rows: int, *, keep_outputs: bool = False) -> None:
        self._keep_outputs = keep_outputs
        out_activation = "identity" if loss.of_logits else loss.out_activation
        self._forward = ForwardPass(network, out_activation, n_rows, training=True)
        self._to_delta_ = loss.to_delta_
        coef_grads, intercept_grads = network.views(network.grad)
        self._first_coef_grad = squeeze_stack(coef_grads[0])
        bind_product = partial(bind_mm, n_rows=n_rows, bfloat16=network.spec.bfloat16)
        outputs = self._forward.outputs
        self._deeper = []
        delta = outputs[-1]  # output activation and derivative of the loss are written over the outputs
        for layer in range(len(outputs) - 1, 0, -1):
            units, coef = outputs[layer - 1], self._forward.coefs[layer]
            below = torch.empty_like(units)  # the delta of the layer below
            self._deeper.append(
                (
                    bind_product(delta, units.mT, squeeze_stack(coef_grads[layer])),
                    bind_row_sums(delta, squeeze_stack(intercept_grads[layer])),
                    bind_product(coef.mT, delta, below),
                    _share(self._forward.hidden[layer - 1].backward_, network, layer - 1, units),
                    below,
                    units,
                )
            )
            delta = below
        self._first_delta = delta
        self._write_first_intercept_grad = bind_row_sums(delta, squeeze_stack(intercept_grads[0]))
        self._embed = self._forward.embedded
        embedding_grad = network.embedding_view(network.grad)
        self._write_embedding_grad = (
            [] if self._embed is None else self._embed.bind_gradient(self._forward.coefs[0], delta, embedding_grad)
        )

    def __call__(self, batch: Batch, targets: Tensor, fractions: Tensor, total: Tensor, loss_terms: Tensor) -> None:
        """Set the gradient to that of the sum over rows of fraction × loss.

        Parameters
        ----------
        batch : Batch
        targets : Tensor of shape (..., n_targets, n_rows)
        fractions : Tensor, 0-d or of shape (..., 1, n_rows)
            Weight of each row as a fraction of the batch.
        total : Tensor of shape (n_networks,)
            Sum of the weights of the batch.
        loss_terms : Tensor of shape (..., 1, n_rows)
            Receives the term of each row, see `Loss.row_losses`.
        """
        self._forward.set_sample_weight(fractions, total)
        if self._embed is not None:
            batch = self._embed(batch)
        delta = self._forward.of_inputs(batch)
        if self._keep_outputs:
            self.outputs = delta.clone()
        self._to_delta_(delta, targets, loss_terms)
        delta.mul_(fractions)
        for write_coef_grad, write_intercept_grad, write_below, backward_, below, units in self._deeper:
            write_coef_grad()
            write_intercept_grad()
            write_below()
            backward_(below, units)
        batch.coef_grad(self._first_delta, self._first_coef_grad)
        self._write_first_intercept_grad()
        for write_grad in self._write_embedding_grad:
            write_grad()


def _embedded_batches(network: StackedMLP, n_rows: int) -> EmbeddedBatches | None:
    spec = network.spec
    if spec.embedding is None:
        return None
    parameters = network.embedding_view(network.flat.detach())
    return EmbeddedBatches(spec.embedding, parameters, network.bin_scales, n_rows, bfloat16=spec.bfloat16)


def _unit_buffer(coef: Tensor, n_rows: int, row_major: bool) -> Tensor:
    """Allocate a (n_networks, n_out, n_rows) buffer; sparse products want row-major memory."""
    n_networks, n_out, _ = coef.shape
    if row_major:
        return squeeze_stack(coef.new_empty(n_networks, n_rows, n_out).mT)
    return squeeze_stack(coef.new_empty(n_networks, n_out, n_rows))


def _share(function: Callable[..., Any], network: StackedMLP, layer: int, units: Tensor) -> Callable[..., Any]:
    """Let a function of the many units of a hidden layer use more threads. Those of a normalization sum over units or rows."""
    if network.spec.normalization is not None:
        return function
    rounds_alike = get_activation(network.spec.activations[layer]).rounds_alike
    n_elements = None if rounds_alike else units.numel()
    return share_elementwise(function, _OPERATIONS_PER_UNIT * units.nbytes // 4, n_elements)
