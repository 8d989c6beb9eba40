"""The rows of a fit: dense or sparse on the device, taken batch by batch.

A batch knows the two products of the first layer, the only ones in which the input
takes part, so that the rest of the package does not know whether X is sparse.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ._arrays import as_tensor
from ._network import lean


class Batch(Protocol):
    """Some rows of X, the same number for each network of a stack."""

    def load(self, rows: Tensor) -> Batch:
        """Take the rows of these indices, of shape (n_rows,) or (n_networks, n_rows)."""
        ...

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor | None = None) -> Tensor:
        """Return ``coef @ X.T + intercept``, of shape (..., n_units, n_rows), in `out` if given."""
        ...

    def coef_grad(self, delta: Tensor, out: Tensor) -> None:
        """Write ``delta @ X`` to `out`, of shape (..., n_units, n_features)."""
        ...


class DenseBatch:
    """Dense rows: all of X as they lie, or gathered into a buffer that serves every load."""

    def __init__(self, X: Tensor, n_networks: int, buffer: Tensor | None = None) -> None:
        self._X = X
        self._rows = lean(X.expand(n_networks, -1, -1) if buffer is None else buffer)
        self._rows_t = self._rows.mT
        self._addmm = torch.addmm if n_networks == 1 else torch.baddbmm
        self._mm = torch.mm if n_networks == 1 else torch.bmm
        if buffer is not None:
            self._gathered = buffer.flatten(0, 1)
            self._to_cast = None if X.dtype == buffer.dtype else self._gathered.to(X.dtype)

    def load(self, rows: Tensor) -> DenseBatch:
        if self._to_cast is None:
            torch.index_select(self._X, 0, rows.flatten(), out=self._gathered)
        else:
            self._gathered.copy_(torch.index_select(self._X, 0, rows.flatten(), out=self._to_cast))
        return self

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor | None = None) -> Tensor:
        return self._addmm(intercept, coef, self._rows_t, out=out)

    def coef_grad(self, delta: Tensor, out: Tensor) -> None:
        self._mm(delta, self._rows, out=out)


class SparseBatch:
    """Sparse rows, sliced by scipy and multiplied by PyTorch.

    `coef` and `out` are views of input-major memory and `delta` of row-major memory,
    so the transposes taken here are contiguous again (and 10 times faster).
    """

    def __init__(self, X: sp.csr_array, device: torch.device, n_networks: int) -> None:
        self._X, self._device = X, device
        self._networks = [_SparseRows(X, device)] * n_networks

    def load(self, rows: Tensor) -> SparseBatch:
        indices = np.atleast_2d(rows.cpu().numpy())
        self._networks = [_SparseRows(self._X[chosen], self._device) for chosen in indices]
        return self

    def affine(self, coef: Tensor, intercept: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            out = coef.new_empty(*coef.shape[:-2], len(self), coef.shape[-2]).mT
        for rows, c, b, o in self._each(coef, intercept, out):
            torch.addmm(b.mT, rows.csr, c.mT, out=o.mT)
        return out

    def __len__(self) -> int:
        return self._networks[0].n_rows

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


#: Bytes of X up to which it is cast as a whole. A larger copy costs more, in memory and in
#: its first use, than casting the rows of each batch.
_CAST_AT_ONCE = 2**24


@dataclass
class Rows:
    """All rows of X: a dense tensor on the device, or CSR on the host.

    Parameters
    ----------
    X : Tensor or csr_array of shape (n_rows, n_features)
    device : torch.device
        Where batches are made.
    dtype : torch.dtype
        Precision of batches; that of X may differ.
    """

    X: Tensor | sp.csr_array
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, X: np.ndarray | sp.sparray | sp.spmatrix, device: torch.device, dtype: np.dtype | None = None) -> Rows:
        """Place a validated X on the device; on the CPU without a copy, unless it is small and has to be cast.

        Parameters
        ----------
        X : ndarray or sparse array of shape (n_rows, n_features)
            In float32 or float64.
        device : torch.device
        dtype : numpy.dtype, default=None
            Precision of batches; None for that of X.
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
        if device.type != "cpu" or tensor.nbytes <= _CAST_AT_ONCE:
            tensor = _cast(tensor, torch_dtype).to(device)
        return cls(tensor, device, torch_dtype)

    def __len__(self) -> int:
        return self.X.shape[0]

    @property
    def is_sparse(self) -> bool:
        """Whether X is kept sparse."""
        return not isinstance(self.X, Tensor)

    def whole(self, n_networks: int = 1) -> Batch:
        """All rows, for each of `n_networks` networks."""
        if isinstance(self.X, Tensor):
            return DenseBatch(_cast(self.X, self.dtype), n_networks)
        return SparseBatch(self.X, self.device, n_networks)

    def batch(self, n_rows: int, n_networks: int = 1) -> Batch:
        """A batch to load with `n_rows` rows for each of `n_networks` networks."""
        if isinstance(self.X, Tensor):
            buffer = self.X.new_empty(n_networks, n_rows, self.X.shape[1], dtype=self.dtype)
            return DenseBatch(self.X, n_networks, buffer)
        return SparseBatch(self.X, self.device, n_networks)

    def __getitem__(self, rows: slice | np.ndarray) -> Rows:
        """Some rows: a view for a slice of dense rows, else a copy."""
        if isinstance(self.X, Tensor) and isinstance(rows, np.ndarray):
            return replace(self, X=self.X[as_tensor(rows, self.device)])
        return replace(self, X=self.X[rows])


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


@dataclass
class TrainingData:
    """What a fit is given; training changes none of it.

    Attributes
    ----------
    rows : Rows
        X, held once, training and validation rows alike.
    targets : Tensor of shape (n_targets, n_rows)
        Class indices (int64, one target) or target values.
    weights : Tensor of shape (n_rows,) or None
        Sample weights.
    train : ndarray of shape (n_train,)
        Indices of the training rows.
    validation : ndarray of shape (n_validation,) or None
        Indices of the validation rows of early stopping.
    """

    rows: Rows
    targets: Tensor
    weights: Tensor | None
    train: np.ndarray
    validation: np.ndarray | None = None


class Shuffler:
    """A network's order of training rows, epoch after epoch.

    Shuffles cumulatively from a numpy stream as `sklearn.utils.shuffle` does, so that
    the mini-batches are scikit-learn's.

    Parameters
    ----------
    rows : ndarray of shape (n_rows,)
        Indices to order.
    random_state : RandomState or None
        Source of the permutations; with None the order stays.
    """

    def __init__(self, rows: np.ndarray, random_state: np.random.RandomState | None) -> None:
        self._rows, self._random_state = rows, random_state

    def next_epoch(self) -> np.ndarray:
        """Indices in the order of the next epoch."""
        if self._random_state is not None:
            self._rows = self._rows[self._random_state.permutation(len(self._rows))]
        return self._rows


class MiniBatches:
    """The training rows of a stack in mini-batches, epoch after epoch.

    Parameters
    ----------
    data : TrainingData
    shufflers : sequence of Shuffler
        One a network.
    batch_size : int
        Rows of a batch; a short last batch is kept.
    """

    def __init__(self, data: TrainingData, shufflers: Sequence[Shuffler], batch_size: int) -> None:
        n_rows = len(data.train)
        self.sizes = [min(batch_size, n_rows - start) for start in range(0, n_rows, batch_size)]
        self._data, self._shufflers = data, shufflers
        self._batches: dict[int, Batch] = {}
        self._only_epoch: Epoch | None = None
        if len(self.sizes) > 1:
            self._batches = {size: data.rows.batch(size, len(shufflers)) for size in set(self.sizes)}
        else:  # one batch of all training rows, whose order does not matter
            rows = data.rows if data.validation is None else data.rows[data.train]
            indices = lean(as_tensor(data.train, data.rows.device).expand(len(shufflers), -1))
            self._only_epoch = self._lay_out([rows.whole(len(shufflers))], indices)

    def next_epoch(self) -> Epoch:
        """Shuffle, and lay out the epoch that follows."""
        orders = [shuffler.next_epoch() for shuffler in self._shufflers]
        if self._only_epoch is not None:
            return self._only_epoch
        rows = lean(as_tensor(np.stack(orders), self._data.rows.device))
        parts = zip(self.sizes, rows.split(self.sizes, -1), strict=True)
        return self._lay_out((self._batches[size].load(part) for size, part in parts), rows)

    def _lay_out(self, batches: Iterable[Batch], rows: Tensor) -> Epoch:
        weights = None if self._data.weights is None else _take(self._data.weights.unsqueeze(0), rows)
        return Epoch(self.sizes, batches, _take(self._data.targets, rows), weights)


class Epoch:
    """One epoch's batches with their targets and weights.

    scikit-learn weighs rows within their batch, and batches by their rows.

    Attributes
    ----------
    batches : iterable of Batch
        Loaded one after the other; only the last one taken is valid.
    targets : Tensor of shape (..., n_targets, n_rows)
    target_parts : sequence of Tensor of shape (..., n_targets, n_rows_of_batch)
    scales : list of float or Tensor of shape (..., 1, n_rows_of_batch)
        Each row's share of its batch.
    totals : list of float or Tensor of shape (..., 1)
        Each batch's sum of weights.
    """

    def __init__(self, sizes: list[int], batches: Iterable[Batch], targets: Tensor, weights: Tensor | None) -> None:
        self.batches, self.targets = batches, targets
        self.target_parts = targets.split(sizes, -1)
        self._sizes = sizes
        self.totals: Sequence[float | Tensor] = sizes
        self.scales: Sequence[float | Tensor] = [1.0 / size for size in sizes]
        self._batch_totals: Tensor | None = None
        if weights is not None:
            parts = weights.split(sizes, -1)
            totals = torch.stack([part.sum(-1) for part in parts])  # (n_batches, [n_networks,] 1)
            if (totals == 0).any():
                raise ZeroDivisionError(
                    "The sample weights of a mini-batch sum to zero, so that its mean loss is undefined. "
                    "Leave out the rows of weight zero, or use a larger batch_size."
                )
            self.scales = [part / total.unsqueeze(-1) for part, total in zip(parts, totals, strict=True)]
            self.totals = totals.flatten().tolist() if totals.ndim == 2 else list(totals)
            self._batch_totals = totals.flatten(1)

    def mean(self, row_losses: Tensor, penalties: Tensor) -> Tensor:
        """Each network's epoch loss: the mean over rows of the loss of their batch, of shape (n_networks,).

        Parameters
        ----------
        row_losses : Tensor of shape (..., 1, n_rows)
        penalties : Tensor of shape (n_batches, n_networks)
            What each batch's sum of weighted losses is penalised by.
        """
        if self._batch_totals is None:
            total = row_losses.sum(-1).flatten() + penalties.sum(0)
        else:
            sizes = self._batch_totals.new_tensor(self._sizes).unsqueeze(-1)
            parts = zip(row_losses.split(self._sizes, -1), self.scales, strict=True)
            means = torch.stack([(part * scale).sum(-1).flatten() for part, scale in parts])
            total = ((means + penalties / self._batch_totals) * sizes).sum(0)
        return total / sum(self._sizes)


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """Columns of (n_values, n_all) values: (n_values, n_rows), or for a stack (n_networks, n_values, n_rows)."""
    return values.index_select(-1, rows) if rows.ndim == 1 else values.mT[rows].mT
