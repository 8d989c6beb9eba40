"""Forward pass and gradient of a stack, on batches of one size, in buffers made once.

A small step costs as much in calls as in arithmetic (about 1 µs each), so every view
is made here, once, and a step is little more than its matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._activations import ACTIVATIONS
from ._losses import OUTPUT_ACTIVATIONS, Loss
from ._network import StackedMLP, lean
from ._rows import Batch, Rows

#: Rows predicted at a time: enough to keep the products busy, few enough to stay in cache.
BLOCK_SIZE = 2048


class ForwardPass:
    """Predictions of a stack for batches of `n_rows` rows; it follows changes of the parameters.

    Attributes
    ----------
    coefs : list of Tensor of shape ([n_networks,] n_out, n_in)
    outputs : list of Tensor of shape ([n_networks,] n_units, n_rows)
        What each layer gave at the last call.
    """

    def __init__(self, network: StackedMLP, loss: Loss, n_rows: int) -> None:
        coefs, intercepts = network.views(network.flat.detach())
        self.coefs = [lean(coef) for coef in coefs]
        self.outputs = [_unit_buffer(coef, n_rows, network.sparse_input and coef is coefs[0]) for coef in coefs]
        self._intercepts = [lean(intercept.unsqueeze(-1)) for intercept in intercepts]
        self._activate_ = ACTIVATIONS[network.activation].apply_
        self._activate_outputs_ = OUTPUT_ACTIVATIONS[loss.out_activation]
        self._addmm = torch.addmm if network.n_networks == 1 else torch.baddbmm
        self._deeper = list(zip(self._intercepts[1:], self.coefs[1:], self.outputs[:-1], self.outputs[1:], strict=True))

    def __call__(self, batch: Batch) -> Tensor:
        """Predictions, of shape ([n_networks,] n_outputs, n_rows); a buffer, valid until the next call."""
        batch.affine(self.coefs[0], self._intercepts[0], self.outputs[0])
        for intercept, coef, units, out in self._deeper:
            self._addmm(intercept, coef, self._activate_(units), out=out)
        return self._activate_outputs_(self.outputs[-1])


class ClosedForm:
    """Gradient of the loss, written out, into ``network.grad``.

    Parameters
    ----------
    network : StackedMLP
    loss : Loss
    n_rows : int
        Rows of a batch.
    """

    def __init__(self, network: StackedMLP, loss: Loss, n_rows: int) -> None:
        self._forward = ForwardPass(network, loss, n_rows)
        self._to_delta_ = loss.to_delta_
        coef_grads, intercept_grads = network.views(network.grad)
        self._first_coef_grad = lean(coef_grads[0])
        self._first_intercept_grad = lean(intercept_grads[0])
        self._mm = torch.mm if network.n_networks == 1 else torch.bmm
        self._backprop_ = ACTIVATIONS[network.activation].backprop_

        outputs = self._forward.outputs
        self._deeper = [
            (
                lean(coef_grads[layer]),
                lean(intercept_grads[layer]),
                outputs[layer - 1],
                outputs[layer - 1].mT,
                self._forward.coefs[layer].mT,
                torch.empty_like(outputs[layer - 1]),  # the delta of the layer below
            )
            for layer in range(len(outputs) - 1, 0, -1)
        ]

    def __call__(self, batch: Batch, targets: Tensor, scale: Tensor, terms: Tensor) -> None:
        """Set the gradient to that of the sum of `scale` × loss over the rows.

        Parameters
        ----------
        batch : Batch
        targets : Tensor of shape (..., n_targets, n_rows)
        scale : Tensor, 0-d or of shape (..., 1, n_rows)
            What each row counts.
        terms : Tensor of shape (..., 1, n_rows)
            Receives each row's term, see `Loss.row_losses`.
        """
        delta = self._forward(batch)
        self._to_delta_(delta, targets, terms)
        delta.mul_(scale)
        for coef_grad, intercept_grad, units, units_t, coef_t, delta_below in self._deeper:
            self._mm(delta, units_t, out=coef_grad)
            torch.sum(delta, -1, out=intercept_grad)
            self._mm(coef_t, delta, out=delta_below)
            self._backprop_(delta_below, units)
            delta = delta_below
        batch.coef_grad(delta, self._first_coef_grad)
        torch.sum(delta, -1, out=self._first_intercept_grad)


class Predictor:
    """Predictions of one network for any number of rows, block by block, so that blocks stay in cache.

    Parameters
    ----------
    coefs : sequence of Tensor of shape (n_out, n_in)
    intercepts : sequence of Tensor of shape (n_out,)
    activation, out_activation : str
        Keys of ``ACTIVATIONS`` and ``OUTPUT_ACTIVATIONS``.
    """

    def __init__(
        self, coefs: Sequence[Tensor], intercepts: Sequence[Tensor], activation: str, out_activation: str
    ) -> None:
        columns = [intercept.unsqueeze(-1) for intercept in intercepts]
        self._first_coef, self._first_column = coefs[0], columns[0]
        self._deeper = list(zip(columns[1:], coefs[1:], strict=True))
        self._activate_, self._activate_outputs_ = ACTIVATIONS[activation].apply_, OUTPUT_ACTIVATIONS[out_activation]
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
        for column, coef in self._deeper:
            units = torch.addmm(column, coef, self._activate_(units))
        return self._activate_outputs_(units)


def _unit_buffer(coef: Tensor, n_rows: int, row_major: bool) -> Tensor:
    """An uninitialised (n_networks, n_out, n_rows) tensor; sparse products want row-major memory."""
    n_networks, n_out, _ = coef.shape
    if row_major:
        return lean(coef.new_empty(n_networks, n_rows, n_out).mT)
    return lean(coef.new_empty(n_networks, n_out, n_rows))
