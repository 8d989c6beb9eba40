"""Mini-batches of dense or sparse rows, as the first layer takes them.

A batch knows the two products of the first layer, the only ones in which the input
takes part, so that the rest of the package does not know whether X is sparse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from typing import Any, Protocol

import scipy.sparse as sp
import torch
from torch import Tensor

from .matmul import BoundProduct, Scratch, addmm, bind_addmm, bind_mm
from .tensors import as_tensor, provoke_csr_beta_warning
from .threads import ThreadChoice, share

#: Multiply-adds of a dense product that take as long as that of a stored value with one unit, and as an output.
_OPERATIONS_PER_VALUE, _OPERATIONS_PER_OUTPUT = 8, 4


class Batch(Protocol):
    """Some rows of X, the same number for each network of a stack."""

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor) -> None:
        """Write ``coef @ X.T + intercept`` to `out`, of shape (..., n_units, n_rows)."""
        ...

    def affine_once(self, coef: Tensor, intercept: Tensor, scratch: Scratch) -> Tensor:
        """Return ``coef @ X.T + intercept``, of shape (n_units, n_rows); for a single call, of one network."""
        ...

    def coef_grad(self, delta: Tensor, out: Tensor) -> None:
        """Write ``delta @ X`` to `out`, of shape (..., n_units, n_features)."""
        ...


class DenseBatch:
    """Dense rows; products are of bfloat16 where the rows are.

    Parameters
    ----------
    rows : Tensor of shape ([n_networks,] n_rows, n_features)
        A buffer or view, whose values may change in place.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows, self._rows_t = rows, rows.mT
        self._bfloat16 = rows.dtype == torch.bfloat16
        # The tensors of the last call, and its product, which the next call with the same ones takes.
        self._affine_of: tuple[Tensor | None, ...] = (None,) * 3
        self._coef_grad_of: tuple[Tensor | None, ...] = (None,) * 2
        self._write_affine: BoundProduct
        self._write_coef_grad: BoundProduct

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor) -> None:
        """Write ``coef @ X.T + intercept`` to `out`."""
        last_coef, last_intercept, last_out = self._affine_of
        if coef is not last_coef or intercept is not last_intercept or out is not last_out:
            self._affine_of = coef, intercept, out
            self._write_affine = bind_addmm(intercept, coef, self._rows_t, out, bfloat16=self._bfloat16)
        self._write_affine()

    def affine_once(self, coef: Tensor, intercept: Tensor, scratch: Scratch) -> Tensor:
        """Return ``coef @ X.T + intercept``."""
        return addmm(intercept, coef, self._rows_t, scratch, bfloat16=self._bfloat16)

    def coef_grad(self, delta: Tensor, out: Tensor) -> None:
        """Write ``delta @ X`` to `out`."""
        last_delta, last_out = self._coef_grad_of
        if delta is not last_delta or out is not last_out:
            self._coef_grad_of = delta, out
            n_rows = self.rows.shape[-2]
            self._write_coef_grad = bind_mm(delta, self.rows, out, n_rows=n_rows, bfloat16=self._bfloat16)
        self._write_coef_grad()


class SparseBatch:
    """Sparse rows, multiplied by PyTorch.

    `coef` and `out` are views of input-major memory and `delta` of row-major memory,
    so the transposes taken here are contiguous again (and 10 times faster).

    Parameters
    ----------
    networks : sequence of SparseRows
        One matrix for each network.
    """

    def __init__(self, networks: Sequence[SparseRows]) -> None:
        self._networks = networks

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor) -> None:
        """Write ``coef @ X.T + intercept`` to `out`."""
        for rows, c, b, o in self._each(coef, intercept, out):
            _share_sparse(partial(torch.addmm, b.mT, rows.csr, c.mT, out=o.mT), rows.n_values, o)()

    def affine_once(self, coef: Tensor, intercept: Tensor, scratch: Scratch) -> Tensor:
        """Return ``coef @ X.T + intercept``, in new memory."""
        out = coef.new_empty(self._networks[0].n_rows, len(coef)).mT
        self.affine(coef, intercept, out)
        return out

    def coef_grad(self, delta: Tensor, out: Tensor) -> None:
        """Write ``delta @ X`` to `out`."""
        for rows, d, o in self._each(delta, out):
            multiply = partial(torch.addmm, o.mT, rows.transposed_csr, d.mT, beta=0, out=o.mT)
            _share_sparse(multiply, rows.n_values, o)()

    def _each(self, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
        stacked = (t.unsqueeze(0) if t.ndim == 2 else t for t in tensors)
        return zip(self._networks, *stacked, strict=True)


class SparseRows:
    """Rows of scipy as CSR tensors of PyTorch, made when first needed.

    Parameters
    ----------
    rows : csr_array of shape (n_rows, n_features)
    device : torch.device
    """

    def __init__(self, rows: sp.csr_array, device: torch.device) -> None:
        self._rows, self._device = rows, device
        self.n_rows: int = rows.shape[0]
        self.n_values: int = rows.nnz

    @cached_property
    def csr(self) -> Tensor:
        """The rows."""
        return self._to_torch(self._rows)

    @cached_property
    def transposed_csr(self) -> Tensor:
        """The rows transposed, of shape (n_features, n_rows)."""
        return self._to_torch(self._rows.T.tocsr())

    def _to_torch(self, rows: sp.csr_array) -> Tensor:
        provoke_csr_beta_warning()
        indptr, indices, data = (as_tensor(part, self._device) for part in (rows.indptr, rows.indices, rows.data))
        return torch.sparse_csr_tensor(indptr, indices, data, rows.shape, device=self._device)


def _share_sparse(multiply: Callable[[], Any], n_values: int, out: Tensor) -> Callable[[], Any]:
    """Let a product of a sparse matrix use more threads, if it is large. Each has whole rows, so the bits stay the same."""
    if out.device.type != "cpu":
        return multiply
    n_operations = _OPERATIONS_PER_VALUE * n_values * out.shape[0] + _OPERATIONS_PER_OUTPUT * out.numel()
    n_operations = n_operations * out.itemsize // 4
    choice = partial(_choice_of_sparse_products, n_operations.bit_length())
    return share(multiply, n_operations, lambda n_threads: (n_threads, multiply), choice)


@cache
def _choice_of_sparse_products(n_bits: int) -> ThreadChoice:
    """One choice for all products of about this size: each mini-batch has another number of values."""
    return ThreadChoice(2**n_bits)
