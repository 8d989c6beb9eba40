"""Products of float32 by oneDNN, where PyTorch's BLAS has no kernels for the processor and takes twice as long.

oneDNN compiles a kernel for each shape, in 0.5 ms, and keeps up to 1,024 of them with 0.6 MiB each. So shapes of which there may be
many, those with a number of rows that users choose by chance, are left to the BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .compat import onednn_linear

#: Multiply-adds from which it is quicker, and those where the left matrix has to be copied, as it does not lie row by row.
_LARGE, _LARGE_IF_COPIED = 2_500_000, 4_000_000

#: Rows, columns and terms of a sum from which it is quicker, and columns where the left matrix has to be copied.
_WIDE, _WIDE_IF_COPIED = 16, 64

#: Rows of a mini-batch come in multiples of so many, or are so many that there are few such batches.
_ROWS_OF_A_BATCH, _MANY_ROWS = 8, 1024

#: Rows that are predicted come in multiples of so many; the rest is left to the BLAS. It is a part of its own, with calls that take
#: as long as oneDNN saves with so many multiply-adds.
_ROWS_OF_A_PREDICTION, _WORTH_TWO_PARTS = 64, 16_000_000


def multiplies_batch(a: Tensor, b: Tensor, n_rows: int) -> bool:
    """Whether it should multiply two matrices, or each pair of two stacks, in training, where a mini-batch has so many rows; not where it is about none."""
    comes_again = n_rows > 0 and (n_rows % _ROWS_OF_A_BATCH == 0 or n_rows >= _MANY_ROWS)
    return comes_again and _is_quicker(a, b)


def multiplies_prediction(a: Tensor, b: Tensor, n_rows: int) -> bool:
    """The same for so many rows that are predicted."""
    return n_rows % _ROWS_OF_A_PREDICTION == 0 and _is_quicker(a, b)


class RowsOfPredictions:
    """Which rows of a prediction are multiplied by oneDNN: as many as it has kernels for. The others are a part of their own.

    Parameters
    ----------
    coefs : sequence of Tensor of shape (n_out, n_in)
    """

    def __init__(self, coefs: Sequence[Tensor]) -> None:
        is_known = coefs[0].dtype == torch.float32 and coefs[0].device.type == "cpu" and onednn_linear() is not None
        wide = [coef.numel() for coef in coefs if min(coef.shape) >= _WIDE]
        self._operations_per_row = sum(wide) if is_known else 0

    def count_first(self, n_rows: int) -> int:
        """How many rows are the first part; all where there is one part only."""
        n_first = n_rows - n_rows % _ROWS_OF_A_PREDICTION
        return n_first if n_first * self._operations_per_row >= _WORTH_TWO_PARTS else n_rows

    def round_up(self, n_rows: int) -> int:
        """Rows of a block that has one part only, at least so many."""
        if not self._operations_per_row:
            return n_rows
        return -(-n_rows // _ROWS_OF_A_PREDICTION) * _ROWS_OF_A_PREDICTION


def _is_quicker(a: Tensor, b: Tensor) -> bool:
    if a.dtype != torch.float32 or a.device.type != "cpu" or onednn_linear() is None:
        return False
    (n_rows, n_inner), n_columns = a.shape[-2:], b.shape[-1]
    large, wide = (_LARGE, _WIDE) if a.stride(-1) == 1 else (_LARGE_IF_COPIED, _WIDE_IF_COPIED)
    is_large = n_rows * n_inner * n_columns >= large and min(n_rows, n_inner) >= _WIDE and n_columns >= wide
    # With gaps between its rows or columns it would take a thousand times as long.
    return is_large and b.stride()[-2:] in ((n_columns, 1), (1, n_inner))


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
