"""The rows of X: dense or sparse on the device, taken batch by batch.

A batch knows the two products of the first layer, the only ones in which the input
takes part, so that the rest of the package does not know whether X is sparse.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ._arrays import as_tensor
from ._network import lean
from ._products import products

#: Fills the buffers of some mini-batches, as their indices are now.
Load = Callable[[], Sequence["Batch"]]


class Batch(Protocol):
    """Some rows of X, the same number for each network of a stack."""

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor | None = None) -> Tensor:
        """Return ``coef @ X.T + intercept``, of shape (..., n_units, n_rows), in `out` if given."""
        ...

    def coef_grad(self, delta: Tensor, out: Tensor) -> None:
        """Write ``delta @ X`` to `out`, of shape (..., n_units, n_features)."""
        ...


class DenseBatch:
    """Dense rows, of shape ([n_networks,] n_rows, n_features); a view, made once.

    Rows in bfloat16 take part in products of that precision.
    """

    def __init__(self, rows: Tensor) -> None:
        self._rows, self._rows_t = rows, rows.mT
        self._addmm, self._mm = products(stacked=rows.ndim == 3, bfloat16=rows.dtype == torch.bfloat16)

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor | None = None) -> Tensor:
        return self._addmm(intercept, coef, self._rows_t, out=out)

    def coef_grad(self, delta: Tensor, out: Tensor) -> None:
        self._mm(delta, self._rows, out=out)


class SparseBatch:
    """Sparse rows, one matrix a network, multiplied by PyTorch.

    `coef` and `out` are views of input-major memory and `delta` of row-major memory,
    so the transposes taken here are contiguous again (and 10 times faster).
    """

    def __init__(self, networks: Sequence[_SparseRows]) -> None:
        self._networks = networks

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            out = coef.new_empty(*coef.shape[:-2], self._networks[0].n_rows, coef.shape[-2]).mT
        for rows, c, b, o in self._each(coef, intercept, out):
            torch.addmm(b.mT, rows.csr, c.mT, out=o.mT)
        return out

    def coef_grad(self, delta: Tensor, out: Tensor) -> None:
        for rows, d, o in self._each(delta, out):
            torch.addmm(o.mT, rows.transposed_csr, d.mT, beta=0, out=o.mT)

    def _each(self, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
        stacked = (t.unsqueeze(0) if t.ndim == 2 else t for t in tensors)
        return zip(self._networks, *stacked, strict=True)


class _SparseRows:
    """scipy's rows as PyTorch's CSR tensors, made when asked for."""

    def __init__(self, rows: sp.csr_array, device: torch.device) -> None:
        self._rows, self._device = rows, device
        self.n_rows = rows.shape[0]

    @cached_property
    def csr(self) -> Tensor:
        return self._to_torch(self._rows)

    @cached_property
    def transposed_csr(self) -> Tensor:
        return self._to_torch(self._rows.T.tocsr())

    def _to_torch(self, rows: sp.csr_array) -> Tensor:
        _take_csr_beta_warning()
        indptr, indices, data = (as_tensor(part, self._device) for part in (rows.indptr, rows.indices, rows.data))
        return torch.sparse_csr_tensor(indptr, indices, data, rows.shape, device=self._device)


@cache
def _take_csr_beta_warning() -> None:
    """Provoke PyTorch's once-a-process warning that CSR is in beta where users do not see it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        indptr, indices, data = (torch.tensor(part, device="cpu") for part in ([0, 0], [], []))
        torch.sparse_csr_tensor(indptr, indices.long(), data, (1, 1), device="cpu")


#: Bytes of dense rows gathered at once: on a CPU what stays in cache with the weights, elsewhere
#: what makes calls few.
_GATHER_BYTES = {"cpu": 2**18, "other": 2**26}

#: Bytes of X up to which it is cast, or brought into row order, as a whole. A larger copy costs
#: more, in memory and in its first use, than to do so with the rows of each batch.
_COPY_AT_ONCE = 2**24
#: In column order, that of most frames, all columns are touched for each batch. They are gathered
#: for many batches at once: this part of all rows.
_COLUMN_SHARE = 1 / 32


@dataclass
class Rows:
    """All rows of X: a dense tensor on the device, or CSR on the host.

    Parameters
    ----------
    X : Tensor or csr_array of shape (n_rows, n_features)
    device : torch.device
        Where batches are made.
    dtype : torch.dtype
        Precision of the arithmetic; that of X may differ.
    bfloat16 : bool, default=False
        Whether dense batches are rounded to bfloat16 for their products.
    """

    X: Tensor | sp.csr_array
    device: torch.device
    dtype: torch.dtype
    bfloat16: bool = False

    @classmethod
    def of(
        cls,
        X: np.ndarray | sp.sparray | sp.spmatrix,
        device: torch.device,
        dtype: np.dtype | None = None,
        *,
        bfloat16: bool = False,
    ) -> Rows:
        """Place a validated X on the device; on the CPU without a copy, unless it is small and has to be cast.

        Parameters
        ----------
        X : ndarray or sparse array of shape (n_rows, n_features)
            In float32 or float64.
        device : torch.device
        dtype : numpy.dtype, default=None
            Precision of the arithmetic; None for that of X.
        bfloat16 : bool, default=False
            Whether dense batches are rounded to bfloat16.
        """
        torch_dtype = torch.float32 if (dtype or X.dtype) == np.float32 else torch.float64
        if sp.issparse(X):
            rows = sp.csr_array(X)
            if not rows.has_canonical_format:
                rows = rows.copy()
                rows.sum_duplicates()
            rows.data = _cast(as_tensor(rows.data), torch_dtype).numpy()
            return cls(rows, device, torch_dtype)
        tensor = as_tensor(X)
        if device.type != "cpu" or tensor.nbytes <= _COPY_AT_ONCE:
            tensor = _cast(tensor, torch.bfloat16 if bfloat16 else torch_dtype).to(device)
        return cls(tensor, device, torch_dtype, bfloat16)

    @property
    def _batch_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bfloat16 else self.dtype

    def __len__(self) -> int:
        return self.X.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory of X; of a sparse one that of its values and their indices."""
        X = self.X
        return X.nbytes if isinstance(X, Tensor) else X.data.nbytes + X.indices.nbytes + X.indptr.nbytes

    @property
    def is_sparse(self) -> bool:
        """Whether X is kept sparse."""
        return not isinstance(self.X, Tensor)

    def whole(self, n_networks: int = 1) -> Batch:
        """All rows, the same for each of `n_networks` networks."""
        if isinstance(self.X, Tensor):
            X = _cast(self.X, self._batch_dtype)
            return DenseBatch(X if n_networks == 1 else X.expand(n_networks, -1, -1))
        return SparseBatch([_SparseRows(self.X, self.device)] * n_networks)

    def take(self, indices: Tensor) -> Batch:
        """A batch of the rows of these indices, of shape ([n_networks,] n_rows); networks with the same rows share them."""
        first = torch.atleast_2d(indices)[0]
        if not (indices == first).all():
            (load,) = self.loads(indices, [indices.shape[-1]])
            return load()[0]
        is_all = len(first) == len(self) and torch.equal(first, torch.arange(len(self), device=first.device))
        return (self if is_all else self[first.cpu().numpy()]).whole(_n_networks(indices))

    def loads(self, indices: Tensor, sizes: Sequence[int]) -> list[Load]:
        """Calls which fill consecutive mini-batches, a few at each call; only those of the last call are valid.

        Parameters
        ----------
        indices : Tensor of shape ([n_networks,] n_rows)
            Read at each call, so that they may change in place.
        sizes : sequence of int
            Rows of each mini-batch; none is larger than the first.
        """
        if not isinstance(self.X, Tensor):
            return [_SparseLoad(self.X, self.device, part) for part in indices.split(list(sizes), -1)]
        n_networks = _n_networks(indices)
        batch_bytes = n_networks * sizes[0] * self.X.shape[1] * self._batch_dtype.itemsize
        budget = _GATHER_BYTES["cpu" if self.device.type == "cpu" else "other"]
        X, axis = self.X, 0
        if X.stride(-1) != 1 and X.stride(0) == 1 and X.nbytes > _COPY_AT_ONCE:
            X, axis = X.mT, 1
            budget = max(budget, int(_COLUMN_SHARE * X.nbytes))
        n_at_once = max(1, budget // max(1, batch_bytes))
        groups = [list(sizes[start : start + n_at_once]) for start in range(0, len(sizes), n_at_once)]
        gather = _Gather(X.contiguous(), axis, n_networks * sum(groups[0]), self._batch_dtype)
        parts = indices.split([sum(group) for group in groups], -1)
        return [_DenseLoad(gather, part, group) for part, group in zip(parts, groups, strict=True)]

    def __getitem__(self, rows: slice | np.ndarray) -> Rows:
        """Some rows: a view for a slice of dense rows, else a copy."""
        if isinstance(self.X, Tensor) and isinstance(rows, np.ndarray):
            return replace(self, X=self.X[as_tensor(rows, self.device)])
        return replace(self, X=self.X[rows])


class _Gather:
    """Gathers rows of X into a buffer; X is in row order (axis 0), or transposed (axis 1)."""

    def __init__(self, X: Tensor, axis: int, n_rows: int, dtype: torch.dtype) -> None:
        self._X, self._axis, self._is_cast = X, axis, X.dtype != dtype
        n_features = X.shape[1 - axis]
        self._buffer = X.new_empty(n_rows * n_features, dtype=dtype)
        self._to_cast = X.new_empty(n_rows * n_features if self._is_cast else 0)

    def _rows(self, buffer: Tensor, n_rows: int) -> Tensor:
        shape = (n_rows, -1) if self._axis == 0 else (-1, n_rows)
        return buffer[: n_rows * self._X.shape[1 - self._axis]].view(shape)

    def view(self, n_rows: int) -> Tensor:
        """What `__call__` fills, of shape (n_rows, n_features)."""
        rows = self._rows(self._buffer, n_rows)
        return rows if self._axis == 0 else rows.mT

    def __call__(self, indices: Tensor) -> None:
        """Gather the rows of these indices."""
        out = self._rows(self._buffer, len(indices))
        if self._is_cast:
            to_cast = self._rows(self._to_cast, len(indices))
            out.copy_(torch.index_select(self._X, self._axis, indices, out=to_cast))
        else:
            torch.index_select(self._X, self._axis, indices, out=out)


class _DenseLoad:
    """Gathers the rows of some mini-batches."""

    def __init__(self, gather: _Gather, indices: Tensor, sizes: list[int]) -> None:
        n_networks = _n_networks(indices)
        self._gather, self._indices = gather, indices
        rows = gather.view(n_networks * sum(sizes)).unflatten(0, (n_networks, -1))
        self._batches = [DenseBatch(lean(batch)) for batch in rows.split(sizes, 1)]

    def __call__(self) -> Sequence[Batch]:
        self._gather(self._indices.flatten())
        return self._batches


class _SparseLoad:
    """Slices the rows of one mini-batch by scipy, on the host."""

    def __init__(self, X: sp.csr_array, device: torch.device, indices: Tensor) -> None:
        self._X, self._device, self._indices = X, device, indices

    def __call__(self) -> Sequence[Batch]:
        chosen = np.atleast_2d(self._indices.cpu().numpy())
        return [SparseBatch([_SparseRows(self._X[rows], self._device) for rows in chosen])]


def _n_networks(indices: Tensor) -> int:
    """Networks that indices of shape ([n_networks,] n_rows) are for."""
    return len(indices) if indices.ndim == 2 else 1


def _cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Finite values in another precision; what does not fit into it is scikit-learn's error."""
    if values.dtype == dtype:
        return values
    cast = values.to(dtype)
    if not cast.sum().isfinite() and not cast.isfinite().all():
        raise ValueError(
            f"Input X contains infinity or a value too large for dtype('{str(dtype).removeprefix('torch.')}'). Scale the features."
        )
    return cast
