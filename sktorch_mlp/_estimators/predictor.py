"""Predictions of one network for any number of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._nn.activations import ActivationLike
from sktorch_mlp._nn.losses import OUTPUT_ACTIVATIONS
from sktorch_mlp._nn.network import hidden_functions
from sktorch_mlp._nn.tensors import without_autocast
from sktorch_mlp._training.threads import compute_threads

#: Rows predicted at a time: enough to keep the products busy, few enough to stay in cache.
BLOCK_ROWS = 2048


class Predictor:
    """Predicts block by block.

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
        self._n_outputs = coefs[-1].shape[0]
        self._n_coefs = sum(coef.numel() for coef in coefs)

    @torch.no_grad()
    def __call__(self, rows: Rows) -> Tensor:
        """Activated outputs, of shape (n_rows, n_outputs)."""
        first_coef = self._first_coef
        if rows.is_sparse:  # sparse products want their operand input-major
            first_coef = first_coef.mT.contiguous().mT
        with without_autocast(rows.device), compute_threads(min(len(rows), BLOCK_ROWS) * self._n_coefs):
            if len(rows) <= BLOCK_ROWS:
                return self._predict(rows, first_coef).mT.contiguous()
            predictions = first_coef.new_empty(len(rows), self._n_outputs)
            for start in range(0, len(rows), BLOCK_ROWS):
                block = slice(start, start + BLOCK_ROWS)
                predictions[block] = self._predict(rows[block], first_coef).mT
        return predictions

    def _predict(self, rows: Rows, first_coef: Tensor) -> Tensor:
        units = rows.all_rows().affine(first_coef, self._first_column)
        for column, coef, function in self._deeper:
            units = torch.addmm(column, coef, function(units))
        return self._activate_outputs_(units)
