"""Large products of float32 by oneDNN, where PyTorch's BLAS has no kernels for the processor and takes twice as long.

oneDNN compiles a kernel for each shape, in 0.5 ms, and keeps up to 1,024 of them, with 0.6 MiB each; PyTorch lets nobody change that.
So it gets shapes that few programs have many of: products that are large, of round numbers of features, units and rows. A search over
networks of any size leaves the others to the BLAS, and its memory does not grow with each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .compat import onednn_linear

#: Multiply-adds of a large product (from 2.5 million on it would be quicker), and those for which it pays to predict in two parts.
_LARGE, _WORTH_TWO_PARTS = 12_000_000, 16_000_000

#: Units, rows and terms of a sum of a large product, at least; with fewer it is slower.
_WIDE = 16

#: Numbers of features, of units, and of rows of a mini-batch are round if they are a multiple of one of these.
_ROUND = (8, 50)

#: Rows that are predicted come in multiples of so many, if they are few and if they are more; the rest is left to the BLAS, as a
#: part of its own.
_FEW_ROWS, _MULTIPLE_OF_FEW, _MULTIPLE = 512, 64, 128


def multiplies_batch(a: Tensor, b: Tensor, n_rows: int) -> bool:
    """Whether it should multiply two matrices, or each pair of two stacks, in training; `n_rows` is 0 if they are about no mini-batch."""
    return n_rows > 0 and _is_round(n_rows) and a.ndim == b.ndim and _is_quicker(a.shape[-2], b)


def multiplies_prediction(n_rows_of_a: int, b: Tensor, n_rows: int) -> bool:
    """The same of a matrix of so many rows and another one, for so many rows that are predicted."""
    return n_rows % _multiple(n_rows) == 0 and _is_quicker(n_rows_of_a, b)


def _multiple(n_rows: int) -> int:
    return _MULTIPLE_OF_FEW if n_rows < _FEW_ROWS else _MULTIPLE


def _is_round(number: int) -> bool:
    return any(number % divisor == 0 for divisor in _ROUND)


def _is_quicker(n_rows_of_a: int, b: Tensor) -> bool:
    if b.dtype != torch.float32 or b.device.type != "cpu" or onednn_linear() is None:
        return False
    sizes = n_rows_of_a, *b.shape[-2:]
    if math.prod(sizes) < _LARGE or min(sizes) < _WIDE or not all(map(_is_round, sizes)):
        return False
    # With gaps between its rows or columns it would take a thousand times as long.
    return b.stride()[-2:] in ((sizes[2], 1), (1, sizes[1]))


class RowsOfPredictions:
    """Which rows of a prediction are multiplied by oneDNN: as many as it has kernels for. The others are a part of their own.

    Parameters
    ----------
    coefs : sequence of Tensor of shape (n_out, n_in)
    """

    def __init__(self, coefs: Sequence[Tensor]) -> None:
        is_known = coefs[0].dtype == torch.float32 and coefs[0].device.type == "cpu" and onednn_linear() is not None
        wide = [coef.numel() for coef in coefs if min(coef.shape) >= _WIDE and all(map(_is_round, coef.shape))]
        self._operations_per_row = max(wide, default=0) if is_known else 0

    def count_first(self, n_rows: int) -> int:
        """How many rows are the first part; all where there is one part only."""
        n_first = n_rows - n_rows % _multiple(n_rows)
        return n_first if n_first * self._operations_per_row >= _WORTH_TWO_PARTS else n_rows

    def round_up(self, n_rows: int) -> int:
        """Rows of a block that has one part only, at least so many."""
        if not self._operations_per_row:
            return n_rows
        return -(-n_rows // _MULTIPLE) * _MULTIPLE


def multiply(a: Tensor, b: Tensor, row: Tensor | None = None) -> Tensor:
    """Return ``a @ b``, plus a row of shape (1, n_columns) if there is one, in new memory."""
    linear = onednn_linear()
    assert linear is not None
    # It would take a bias with gaps for one without.
    return linear(a, b.mT, None if row is None else row.squeeze(0).contiguous())


def multiply_into(a: Tensor, b: Tensor, out: Tensor, summand: Tensor | None) -> None:
    """Write ``a @ b`` to `out`, plus a summand if there is one, of two matrices or of each pair of two stacks of them."""
    if a.ndim > 2:
        summands = [None] * len(a) if summand is None else summand
        for matrices in zip(a, b, out, summands, strict=True):
            multiply_into(*matrices)
    elif summand is None:
        out.copy_(multiply(a, b))
    else:
        torch.add(multiply(a, b), summand, out=out)
