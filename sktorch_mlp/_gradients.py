"""Forward pass and gradient of a stack, on batches of one size, in buffers made once.

A small step costs as much in calls as in arithmetic (about 1 µs each), so every view
is made here, once, and a step is little more than its matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._activations import ACTIVATIONS
from ._data import Batch, Rows
from ._losses import OUTPUT_ACTIVATIONS, Loss
from ._network import StackedMLP, lean

#: Rows predicted at a time: enough to keep the products busy, few enough to stay in cache.
BLOCK_SIZE = 2048


class ForwardPass:
    """Predictions of a stack for batches of `n_rows` rows.

    Parameters
    ----------
    coefs : sequence of Tensor of shape (n_networks, n_out, n_in)
    intercepts : sequence of Tensor of shape (n_networks, n_out)
    activation, out_activation : str
        Keys of ``ACTIVATIONS`` and ``OUTPUT_ACTIVATIONS``.
    n_rows : int
    sparse_input : bool
        Whether the batches are sparse.

    Attributes
    ----------
    coefs : list of Tensor
        The same, without the first axis for a stack of one.
    outputs : list of Tensor of shape ([n_networks,] n_units, n_rows)
        What each layer gave at the last call.
    """

    def __init__(
        self,
        coefs: Sequence[Tensor],
        intercepts: Sequence[Tensor],
        activation: str,
        out_activation: str,
        n_rows: int,
        *,
        sparse_input: bool,
    ) -> None:
        self.coefs = [lean(coef) for coef in coefs]
        self.outputs = [_unit_buffer(coef, n_rows, sparse_input and coef is coefs[0]) for coef in coefs]
        self._intercepts = [lean(intercept.unsqueeze(-1)) for intercept in intercepts]
        self._activate_ = ACTIVATIONS[activation].apply_
        self._activate_outputs_ = OUTPUT_ACTIVATIONS[out_activation]
        self._addmm = torch.addmm if self.coefs[0].ndim == 2 else torch.baddbmm
        self._deeper = list(zip(self._intercepts[1:], self.coefs[1:], self.outputs[:-1], self.outputs[1:], strict=True))

    @classmethod
    def of(cls, network: StackedMLP, loss: Loss, n_rows: int) -> ForwardPass:
        """The forward pass of a network; it follows changes of the parameters."""
        coefs, intercepts = network.views(network.flat.detach())
        sparse_input = network.sparse_input
        return cls(coefs, intercepts, network.activation, loss.out_activation, n_rows, sparse_input=sparse_input)

    def __call__(self, batch: Batch) -> Tensor:
        """Predictions, of shape ([n_networks,] n_outputs, n_rows); a buffer, valid until the next call."""
        batch.affine(self.coefs[0], self._intercepts[0], self.outputs[0])
        for intercept, coef, units, out in self._deeper:
            self._addmm(intercept, coef, self._activate_(units), out=out)
        return self._activate_outputs_(self.outputs[-1])


def predict_rows(
    rows: Rows,
    coefs: Sequence[Tensor],
    intercepts: Sequence[Tensor],
    activation: str,
    out_activation: str,
) -> Tensor:
    """Predictions of one network for any number of rows, block by block, so that blocks stay in cache.

    Parameters
    ----------
    rows : Rows
    coefs : sequence of Tensor of shape (n_out, n_in)
    intercepts : sequence of Tensor of shape (n_out,)
    activation, out_activation : str

    Returns
    -------
    Tensor of shape (n_rows, n_outputs)
    """
    stacks = [coef.unsqueeze(0) for coef in coefs], [intercept.unsqueeze(0) for intercept in intercepts]
    if rows.is_sparse:  # a sparse product wants its operand input-major
        stacks[0][0] = stacks[0][0].mT.contiguous().mT
    predictions = coefs[0].new_empty(len(rows), coefs[-1].shape[0])
    forward: dict[int, ForwardPass] = {}
    for start in range(0, len(rows), BLOCK_SIZE):
        block = rows[start : start + BLOCK_SIZE]
        if len(block) not in forward:
            forward[len(block)] = ForwardPass(
                *stacks, activation, out_activation, len(block), sparse_input=rows.is_sparse
            )
        predictions[start : start + BLOCK_SIZE] = forward[len(block)](block.whole()).mT
    return predictions


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
        self._forward = ForwardPass.of(network, loss, n_rows)
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

    def __call__(self, batch: Batch, targets: Tensor, scale: Tensor | float, terms: Tensor) -> None:
        """Set the gradient to that of the sum of `scale` × loss over the rows.

        Parameters
        ----------
        batch : Batch
        targets : Tensor of shape (..., n_targets, n_rows)
        scale : float or Tensor of shape (..., 1, n_rows)
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


def _unit_buffer(coef: Tensor, n_rows: int, row_major: bool) -> Tensor:
    """An uninitialised (n_networks, n_out, n_rows) tensor; sparse products want row-major memory."""
    n_networks, n_out, _ = coef.shape
    if row_major:
        return lean(coef.new_empty(n_networks, n_rows, n_out).mT)
    return lean(coef.new_empty(n_networks, n_out, n_rows))
