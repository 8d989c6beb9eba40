"""Forward pass and gradient of a stack, on batches of one size, in buffers made once.

A small step costs as much in calls as in arithmetic (about 1 µs each), so every view
is made here, once, and a step is little more than its matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._activations import ActivationLike
from ._hidden import hidden_layers
from ._losses import OUTPUT_ACTIVATIONS, Loss
from ._network import StackedMLP, hidden_functions, lean
from ._products import products
from ._rows import Batch, Rows

#: Rows predicted at a time: enough to keep the products busy, few enough to stay in cache.
BLOCK_SIZE = 2048


class ForwardPass:
    """Outputs of a stack for batches of `n_rows` rows; it follows changes of the parameters.

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
        What each layer gave at the last call.
    hidden : list of HiddenLayer
        What is done to the outputs of each hidden layer; in training only.
    """

    def __init__(self, network: StackedMLP, out_activation: str, n_rows: int, *, training: bool = False) -> None:
        coefs, intercepts = network.views(network.flat.detach())
        self.coefs = [lean(coef) for coef in coefs]
        self.outputs = [_unit_buffer(coef, n_rows, network.sparse_input and coef is coefs[0]) for coef in coefs]
        self._intercepts = [lean(intercept.unsqueeze(-1)) for intercept in intercepts]
        self._addmm = products(stacked=network.n_networks > 1, bfloat16=network.in_bfloat16).addmm
        self._activate_outputs_ = OUTPUT_ACTIVATIONS[out_activation]
        self.hidden, self._weighed = hidden_layers(network, self.outputs) if training else ([], [])
        functions = (
            [layer.apply_ for layer in self.hidden]
            if training
            else hidden_functions(network.activations, [list(map(lean, norm)) for norm in network.norm_states()])
        )
        self._deeper = list(
            zip(self._intercepts[1:], self.coefs[1:], functions, self.outputs[:-1], self.outputs[1:], strict=True)
        )

    def weigh(self, shares: Tensor, total: Tensor) -> None:
        """Take the weights of the coming batch: each row's share, and their sums, of shape (n_networks,)."""
        for layer in self._weighed:
            layer.weigh(shares, total)

    def __call__(self, batch: Batch) -> Tensor:
        """Outputs, of shape ([n_networks,] n_outputs, n_rows); a buffer, valid until the next call."""
        batch.affine(self.coefs[0], self._intercepts[0], self.outputs[0])
        for intercept, coef, function, units, out in self._deeper:
            self._addmm(intercept, coef, function(units), out=out)
        return self._activate_outputs_(self.outputs[-1])


class Gradient:
    """Gradient of the loss into ``network.grad``: products written out, and hidden layers as `_hidden` has them.

    Parameters
    ----------
    network : StackedMLP
    loss : Loss
    n_rows : int
        Rows of a batch.
    keep_outputs : bool, default=False
        Whether to copy the outputs of a batch to `kept_outputs`.
    """

    kept_outputs: Tensor

    def __init__(self, network: StackedMLP, loss: Loss, n_rows: int, *, keep_outputs: bool = False) -> None:
        self._keep_outputs = keep_outputs
        out_activation = "identity" if loss.of_logits else loss.out_activation
        self._forward = ForwardPass(network, out_activation, n_rows, training=True)
        self._to_delta_ = loss.to_delta_
        coef_grads, intercept_grads = network.views(network.grad)
        self._first_coef_grad = lean(coef_grads[0])
        self._first_intercept_grad = lean(intercept_grads[0])
        self._mm = products(stacked=network.n_networks > 1, bfloat16=network.in_bfloat16).mm

        outputs = self._forward.outputs
        self._deeper = [
            (
                lean(coef_grads[layer]),
                lean(intercept_grads[layer]),
                outputs[layer - 1],
                outputs[layer - 1].mT,
                self._forward.coefs[layer].mT,
                self._forward.hidden[layer - 1].backprop_,
                torch.empty_like(outputs[layer - 1]),  # the delta of the layer below
            )
            for layer in range(len(outputs) - 1, 0, -1)
        ]

    def __call__(self, batch: Batch, targets: Tensor, scale: Tensor, total: Tensor, terms: Tensor) -> None:
        """Set the gradient to that of the sum of `scale` × loss over the rows.

        Parameters
        ----------
        batch : Batch
        targets : Tensor of shape (..., n_targets, n_rows)
        scale : Tensor, 0-d or of shape (..., 1, n_rows)
            What each row counts: its share of the batch.
        total : Tensor of shape (n_networks,)
            Sum of the weights of the batch.
        terms : Tensor of shape (..., 1, n_rows)
            Receives each row's term, see `Loss.row_losses`.
        """
        self._forward.weigh(scale, total)
        delta = self._forward(batch)
        if self._keep_outputs:
            self.kept_outputs = delta.clone()
        self._to_delta_(delta, targets, terms)
        delta.mul_(scale)
        for coef_grad, intercept_grad, units, units_t, coef_t, backprop_, delta_below in self._deeper:
            self._mm(delta, units_t, out=coef_grad)
            torch.sum(delta, -1, out=intercept_grad)
            self._mm(coef_t, delta, out=delta_below)
            backprop_(delta_below, units)
            delta = delta_below
        batch.coef_grad(delta, self._first_coef_grad)
        torch.sum(delta, -1, out=self._first_intercept_grad)


class Predictor:
    """Predictions of one network for any number of rows, block by block, so that blocks stay in cache.

    Parameters
    ----------
    coefs : sequence of Tensor of shape (n_out, n_in)
    intercepts : sequence of Tensor of shape (n_out,)
    activations : sequence of str or callable
        One for each hidden layer.
    out_activation : str
        A key of ``OUTPUT_ACTIVATIONS``.
    norms : sequence of sequence of Tensor, default=()
        The tensors of each normalization.
    """

    def __init__(
        self,
        coefs: Sequence[Tensor],
        intercepts: Sequence[Tensor],
        activations: Sequence[ActivationLike],
        out_activation: str,
        norms: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        columns = [intercept.unsqueeze(-1) for intercept in intercepts]
        self._first_coef, self._first_column = coefs[0], columns[0]
        self._deeper = list(zip(columns[1:], coefs[1:], hidden_functions(activations, norms), strict=True))
        self._activate_outputs_ = OUTPUT_ACTIVATIONS[out_activation]
        self.n_outputs = coefs[-1].shape[0]
        self.n_coefs = sum(coef.numel() for coef in coefs)

    def __call__(self, rows: Rows) -> Tensor:
        """Predictions, of shape (n_rows, n_outputs)."""
        first_coef = self._first_coef
        if rows.is_sparse:  # sparse products want their operand input-major
            first_coef = first_coef.mT.contiguous().mT
        if len(rows) <= BLOCK_SIZE:
            return self._predict(rows, first_coef).mT.contiguous()
        predictions = first_coef.new_empty(len(rows), self.n_outputs)
        for start in range(0, len(rows), BLOCK_SIZE):
            block = slice(start, start + BLOCK_SIZE)
            predictions[block] = self._predict(rows[block], first_coef).mT
        return predictions

    def _predict(self, rows: Rows, first_coef: Tensor) -> Tensor:
        units = rows.whole().affine(first_coef, self._first_column)
        for column, coef, function in self._deeper:
            units = torch.addmm(column, coef, function(units))
        return self._activate_outputs_(units)


def _unit_buffer(coef: Tensor, n_rows: int, row_major: bool) -> Tensor:
    """An uninitialised (n_networks, n_out, n_rows) tensor; sparse products want row-major memory."""
    n_networks, n_out, _ = coef.shape
    if row_major:
        return lean(coef.new_empty(n_networks, n_rows, n_out).mT)
    return lean(coef.new_empty(n_networks, n_out, n_rows))
