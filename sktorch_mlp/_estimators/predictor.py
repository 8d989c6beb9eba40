"""Predictions of one network for any number of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sktorch_mlp._data.arrays import may_be_closed
from sktorch_mlp._data.rows import Rows, cast
from sktorch_mlp._nn.activations import ActivationLike
from sktorch_mlp._nn.few_rows import FEW_ROWS, FEW_ROWS_OF_A_BLOCK, FewRows, check_sums
from sktorch_mlp._nn.losses import OUTPUT_ACTIVATIONS
from sktorch_mlp._nn.matmul import Scratch, addmm, call_own_quietly, call_quietly
from sktorch_mlp._nn.network import hidden_functions
from sktorch_mlp._nn.onednn import RowsOfPredictions
from sktorch_mlp._nn.tensors import as_tensor, numpy_dtype, without_autocast, without_gradients

from .blocks import predict_blocks, share_block

#: Numbers in the layers of the rows that are predicted at a time, and the fewest and most of these rows: enough to keep the products
#: busy, and so that threads seldom wait for Python, but few enough to stay in cache.
BLOCK_NUMBERS, BLOCK_ROWS, MOST_BLOCK_ROWS = 2**20, 2048, 8192

#: Multiply-adds that take as long as what is done with a unit besides.
_OPERATIONS_OF_A_UNIT = 64

#: Numbers of a layer in a block of a GPU, unless so many rows have more.
_GPU_NUMBERS = 2**24

#: Bytes of the rows of a block that are cast, unless so few rows have more.
_CAST_BYTES, _FEWEST_ROWS = 2**21, 64

#: Multiply-adds from which the products of one block may be worth more threads.
_SHARED = 4_000_000

#: Predictions of so many rows before it is found out which of their products keep their bits on more threads, which takes as
#: long as some ten predictions.
_OFTEN = 8

#: Multiply-adds up to which there is one block, times the bytes of a number.
_ONE_BLOCK = 800_000_000

#: Multiply-adds and rows for each pair of blocks that several threads share, and into how many smaller blocks at most. Each block
#: reads all weights.
_PAIR_OF_BLOCKS, _ROWS_OF_A_PAIR, _N_BLOCKS = 100_000_000, 400, 8

#: Predictions at the same time whose memory is kept for the next ones.
_N_SCRATCHES = 4

_R = TypeVar("_R")


class Predictor:
    """Predicts block by block.

    Parameters
    ----------
    coefs, intercepts, activations, out_activation, norms
        As those of `FewRows`.
    """

    def __init__(
        self,
        coefs: Sequence[Tensor],
        intercepts: Sequence[Tensor],
        activations: Sequence[ActivationLike],
        out_activation: str,
        norms: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        self._device, self._dtype = coefs[0].device, numpy_dtype(coefs[0])
        self._is_cpu = is_cpu = self._device.type == "cpu"
        if not is_cpu:  # products of few rows take a third of the time with input-major memory
            coefs = [coef.mT.contiguous().mT for coef in coefs]
        columns = [intercept.unsqueeze(-1) for intercept in intercepts]
        self._first_coef, self._first_column = coefs[0], columns[0]
        self._deeper = list(zip(columns[1:], coefs[1:], hidden_functions(activations, norms), strict=True))
        self._activate_outputs_ = OUTPUT_ACTIVATIONS[out_activation]
        self._scratch: list[Scratch] = []  # of threads that predict no longer
        self._n_outputs = coefs[-1].shape[0]
        self._n_coefs = sum(coef.numel() for coef in coefs)
        layer_units = [coefs[0].shape[1], *(len(coef) for coef in coefs)]
        self._operations_per_row = self._n_coefs + _OPERATIONS_OF_A_UNIT * sum(layer_units[1:])
        if is_cpu:
            self._block_rows = min(max(BLOCK_ROWS, BLOCK_NUMBERS // sum(layer_units)), MOST_BLOCK_ROWS)
        else:
            self._block_rows = max(BLOCK_ROWS, _GPU_NUMBERS // max(layer_units))
        self._has_users_functions = not all(isinstance(name, str) for name in activations)
        self._may_share = is_cpu and not self._has_users_functions  # which may not be made for several threads
        self._parts = RowsOfPredictions(coefs)
        self._few_rows: FewRows | None = None
        self._most_few_rows = 0
        self._n_seen = Counter[int]()  # predictions by rows, of blocks whose products may be worth more threads
        if is_cpu:
            self._few_rows = FewRows(coefs, intercepts, activations, out_activation, norms)
            self._most_few_rows = min(FEW_ROWS, _ONE_BLOCK // (self._operations_per_row * self._dtype.itemsize))

    def __call__(self, X: Any, *, check: bool = False) -> Tensor | np.ndarray:
        """Activated outputs, of shape (n_rows, n_outputs). Their bits do not depend on the number of threads.

        Those of few rows are an array, as X is.

        Parameters
        ----------
        X : ndarray, Tensor, sparse array, DiskArray or Rows of shape (n_rows, n_features)
            Validated.
        check : bool, default=False
            Whether a dense X, on a CPU, may not be finite.

        Raises
        ------
        NotFiniteError
            If X is to be checked and not finite, or a sum of the first layer is not.
        """
        if isinstance(X, Rows):
            return self.predict_rows(X)
        if self._few_rows is None or type(X) is not np.ndarray or len(X) > self._most_few_rows:
            rows = Rows.from_array(X, self._device, self._dtype)
            return self.predict_rows(rows, check=check, to_the_end=may_be_closed(X))
        if X.dtype != self._dtype:
            X = cast(as_tensor(X), self._first_coef.dtype).numpy()
        with without_autocast(self._device):
            call = call_quietly if self._has_users_functions else call_own_quietly
            return call(self._compute_block, len(X), self._few_rows, X, check)

    @without_gradients
    def predict_rows(self, rows: Rows, *, check: bool = False, to_the_end: bool = False) -> Tensor:
        """The same for rows; see `predict_blocks`."""
        first_coef = self._first_coef
        if rows.is_sparse:  # sparse products want their operand input-major
            first_coef = first_coef.mT.contiguous().mT
        n_blocks = self._count_blocks(rows)
        with without_autocast(self._device):
            if n_blocks == 1:
                few = self._most_few_rows
                return call_quietly(self._compute_block, len(rows), self._predict, rows, first_coef, check, few)
            return call_quietly(
                predict_blocks,
                partial(self._predict, first_coef=first_coef, check=check, most_few_rows=FEW_ROWS_OF_A_BLOCK),
                rows,
                self._parts.round_up(-(-len(rows) // n_blocks)),
                first_coef,
                self._n_outputs,
                len(rows) * self._operations_per_row,
                may_share=self._may_share,
                to_the_end=to_the_end,
            )

    def _compute_block(self, n_rows: int, compute: Callable[..., _R], *args: Any) -> _R:
        """Compute the only block, on several threads where that may pay.

        A number of rows that has not come often may not come again: then it would not pay to find out.
        """
        n_operations = n_rows * self._n_coefs
        if n_operations < _SHARED or self._few_rows is None:
            return compute(*args)
        n_seen = self._n_seen[n_rows]
        if n_seen <= _OFTEN:
            self._n_seen[n_rows] += 1
        if n_seen < _OFTEN:
            return compute(*args)
        return share_block(partial(compute, *args), n_operations, self._dtype.itemsize, is_first=n_seen == _OFTEN)

    def _count_blocks(self, rows: Rows) -> int:
        """Blocks of a prediction: as many for any number of threads, so that its bits are the same, too."""
        most_rows = self._block_rows
        if rows.are_cast and self._is_cpu:
            row_bytes = self._first_coef.shape[1] * self._first_coef.itemsize
            most_rows = min(most_rows, max(_FEWEST_ROWS, _CAST_BYTES // row_bytes))
        n_blocks, n_operations = -(-len(rows) // most_rows), len(rows) * self._operations_per_row
        if not self._may_share:
            return n_blocks
        if n_operations * self._dtype.itemsize > _ONE_BLOCK:
            n_pairs = min(_N_BLOCKS // 2, n_operations // _PAIR_OF_BLOCKS, len(rows) // _ROWS_OF_A_PAIR)
            n_blocks = max(n_blocks, 2 * n_pairs)
        return n_blocks if n_blocks == 1 else n_blocks + n_blocks % 2

    def _predict(self, rows: Rows, first_coef: Tensor, check: bool, most_few_rows: int) -> Tensor:
        if self._few_rows is not None and len(rows) <= most_few_rows and not rows.is_sparse:
            X = rows.X if isinstance(rows.X, Tensor) else rows[:].X
            assert isinstance(X, Tensor)
            return torch.from_numpy(self._few_rows(cast(X, first_coef.dtype).numpy(), check))
        n_rows = len(rows)
        if not rows.is_sparse and (n_first := self._parts.count_first(n_rows)) < n_rows:
            slices = slice(n_first), slice(n_first, n_rows)
            return torch.cat([self._predict(rows[part], first_coef, check, most_few_rows) for part in slices])
        try:
            scratch = self._scratch.pop()
        except IndexError:
            scratch = Scratch()
        is_cast_here = self._is_cpu and rows.are_cast and not rows.is_streamed
        out = scratch.rows(len(rows), first_coef.shape[1], first_coef) if is_cast_here else None
        units = rows.all_rows(out=out).affine_once(first_coef, self._first_column, scratch)
        if check:
            check_sums(units[0].numpy())
        for column, coef, function in self._deeper:
            units = addmm(column, coef, function(units), scratch)
        outputs = self._activate_outputs_(units).mT
        if not self._is_cpu:  # they have memory of their own
            return outputs.contiguous()
        outputs = outputs.clone(memory_format=torch.contiguous_format)
        if len(self._scratch) < _N_SCRATCHES:  # only now: another thread may take it
            self._scratch.append(scratch)
        return outputs
