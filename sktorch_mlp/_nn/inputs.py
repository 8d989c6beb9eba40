"""Mini-batches of dense or sparse rows, as the first layer takes them.

A batch knows the two products of the first layer, the only ones in which the input
takes part, so that the rest of the package does not know whether X is sparse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import scipy.sparse as sp
import torch
from torch import Tensor

from .matmul import BoundProduct, addmm, bind_addmm, bind_mm
from .tensors import as_tensor, provoke_csr_beta_warning


class Batch(Protocol):
    """Some rows of X, the same number for each network of a stack."""

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor | None = None) -> Tensor:
        """Return ``coef @ X.T + intercept``, of shape (..., n_units, n_rows), in `out` if given."""
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

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor | None = None) -> Tensor:
        """Return ``coef @ X.T + intercept``."""
        if out is None:
            return addmm(intercept, coef, self._rows_t, bfloat16=self._bfloat16)
        last_coef, last_intercept, last_out = self._affine_of
        if coef is not last_coef or intercept is not last_intercept or out is not last_out:
            self._affine_of = coef, intercept, out
            self._write_affine = bind_addmm(intercept, coef, self._rows_t, out, bfloat16=self._bfloat16)
        self._write_affine()
        return out

    def coef_grad(self, delta: Tensor, out: Tensor) -> None:
        """Write ``delta @ X`` to `out`."""
        last_delta, last_out = self._coef_grad_of
        if delta is not last_delta or out is not last_out:
            self._coef_grad_of = delta, out
            self._write_coef_grad = bind_mm(delta, self.rows, out, bfloat16=self._bfloat16)
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

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor | None = None) -> Tensor:
        """Return ``coef @ X.T + intercept``."""
        if out is None:
            out = coef.new_empty(*coef.shape[:-2], self._networks[0].n_rows, coef.shape[-2]).mT
        for rows, c, b, o in self._each(coef, intercept, out):
            torch.addmm(b.mT, rows.csr, c.mT, out=o.mT)
        return out

    def coef_grad(self, delta: Tensor, out: Tensor) -> None:
        """Write ``delta @ X`` to `out`."""
        for rows, d, o in self._each(delta, out):
            torch.addmm(o.mT, rows.transposed_csr, d.mT, beta=0, out=o.mT)

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
