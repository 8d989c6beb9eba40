"""The rows of X: dense or sparse, placed on the device and gathered batch by batch, or left where they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sktorch_mlp._nn.inputs import Batch, DenseBatch, SparseBatch, SparseRows
from sktorch_mlp._nn.tensors import NotFiniteError, as_tensor, numpy_dtype, precision_of, squeeze_stack, torch_dtype
from sktorch_mlp._nn.threads import most_threads

from .arrays import ChunkedRows, DiskArray
from .device import free_memory
from .transfer import to_cuda

#: Fills the buffers of some mini-batches with the rows that their indices name now.
BatchLoader = Callable[[], Sequence[Batch]]

#: Bytes of dense rows gathered at once: on a CPU so many that they stay in cache with the weights,
#: elsewhere so many that calls are few.
_GATHER_BYTES = {"cpu": 2**18, "other": 2**26}

#: Bytes of X up to which it is cast, or brought into row order, as a whole. A larger copy costs
#: more, in memory and in its first use, than to do so with the rows of each batch.
_COPY_BYTES = 2**24

#: Bytes of consecutive rows that are worth a read of their own.
_NEIGHBOR_BYTES = 2**20

#: Most rows of a segment of an epoch.
SEGMENT_ROWS = 2**17

#: Bytes of streamed rows that are read at once, if they are whole mini-batches. Two such blocks are held.
BLOCK_BYTES = 2**25

#: Bytes of an array on disk up to which it is read once and for all, since blocks would take as much memory.
_HELD_BYTES = 2 * BLOCK_BYTES

#: Fraction of the free memory of a device that X may take.
_DEVICE_FRACTION = 0.5

#: X in column order, as most frames are, has all columns touched for each batch. So its rows are
#: gathered for many batches at once: this fraction of all rows.
_COLUMN_ORDER_FRACTION = 1 / 32


@dataclass
class Rows:
    """All rows of X: a dense tensor on the device, or too large for it; CSR on the host; or an array on disk.

    Parameters
    ----------
    X : Tensor, csr_array, DiskArray or ChunkedRows of shape (n_rows, n_features)
    device : torch.device
        Device of the batches.
    dtype : torch.dtype
        Precision of the arithmetic; that of X may differ.
    bfloat16 : bool, default=False
        Whether dense batches are rounded to bfloat16 for their products.
    copy_bytes : int, default=2**24
        Size of X up to which it is cast, or brought into row order, as a whole.
    """

    X: Tensor | sp.csr_array | DiskArray | ChunkedRows
    device: torch.device
    dtype: torch.dtype
    bfloat16: bool = False
    copy_bytes: int = _COPY_BYTES

    @classmethod
    def from_array(
        cls,
        X: np.ndarray | Tensor | sp.sparray | sp.spmatrix | DiskArray | ChunkedRows,
        device: torch.device,
        dtype: np.dtype | None = None,
        *,
        bfloat16: bool = False,
        copy_bytes: int = _COPY_BYTES,
    ) -> Rows:
        """Place a validated X on the device, if there is room; on the CPU without a copy, unless it is small and has to be cast.

        A small one is read from disk.

        Parameters
        ----------
        X : ndarray, Tensor, sparse array, DiskArray or ChunkedRows of shape (n_rows, n_features)
            Of any dtype that PyTorch can gather. Only a small one is widened as a whole.
        device : torch.device
        dtype : numpy.dtype, default=None
            Precision of the arithmetic; None for that of X, float64 if X is neither in float32 nor float64.
        bfloat16 : bool, default=False
            Whether dense batches are rounded to bfloat16.
        copy_bytes : int, default=2**24
            Size of X up to which it is cast as a whole.
        """
        precision = torch_dtype(dtype or precision_of(X))
        if isinstance(X, DiskArray | ChunkedRows):
            elsewhere = cls(X, device, precision, bfloat16, copy_bytes)
            if not elsewhere._can_be_held:
                return elsewhere
            X = elsewhere._read(np.arange(len(elsewhere)), most_threads(math.prod(X.shape)))  # piece by piece
        if sp.issparse(X):
            rows = sp.csr_array(X)
            if not rows.has_canonical_format:
                rows = rows.copy()
                rows.sum_duplicates()
            rows.data = cast(as_tensor(rows.data), precision).numpy()
            return cls(rows, device, precision)
        tensor = X if isinstance(X, Tensor) else as_tensor(X)
        batch_dtype = torch.bfloat16 if bfloat16 else precision
        if tensor.dtype == batch_dtype and tensor.device == device:  # as it is in most predictions
            return cls(tensor, device, precision, bfloat16, copy_bytes)
        larger_itemsize = max(tensor.itemsize, batch_dtype.itemsize)
        is_small = tensor.numel() * larger_itemsize <= copy_bytes
        if not is_small and tensor.device.type == "cpu":
            least_bytes = tensor.numel() * min(tensor.itemsize, batch_dtype.itemsize)
            if least_bytes > _DEVICE_FRACTION * free_memory(device):
                return cls(tensor, device, precision, bfloat16, copy_bytes)
        is_cast_first = is_small or (device.type != "cpu" and tensor.itemsize == larger_itemsize)
        if device.type == "cuda" and tensor.device.type == "cpu" and not is_small:
            dtype_there = batch_dtype if is_cast_first else tensor.dtype
            tensor = _check_cast(to_cuda(tensor, device, dtype_there), tensor.dtype)
        elif is_cast_first:
            tensor = cast(tensor, batch_dtype)
        return cls(tensor.to(device), device, precision, bfloat16, copy_bytes)

    @property
    def batch_dtype(self) -> torch.dtype:
        """Dtype of dense batches."""
        return torch.bfloat16 if self.bfloat16 else self.dtype

    def __len__(self) -> int:
        return int(self.X.shape[0])

    @property
    def nbytes(self) -> int:
        """Memory of X; of a sparse one that of its values and their indices."""
        X = self.X
        if isinstance(X, sp.csr_array):
            return int(X.data.nbytes + X.indices.nbytes + X.indptr.nbytes)
        return X.nbytes

    @property
    def is_sparse(self) -> bool:
        """Whether X is kept sparse."""
        return isinstance(self.X, sp.csr_array)

    @property
    def is_streamed(self) -> bool:
        """Whether rows come to the device while training goes on: from the host, or from disk."""
        is_outside = isinstance(self.X, Tensor) and self.X.device.type != self.device.type
        return is_outside or isinstance(self.X, DiskArray | ChunkedRows)

    @property
    def _can_be_held(self) -> bool:
        """Whether X is an array on disk for which there is memory."""
        return isinstance(self.X, DiskArray) and math.prod(self.X.shape) * self.host_dtype.itemsize <= _HELD_BYTES

    @property
    def are_cast(self) -> bool:
        """Whether batches are of another dtype than X."""
        return not self.is_sparse and self.source_dtype != self.batch_dtype

    def check_cast(self) -> None:
        """Raise if X has values that its batches cannot hold. Only an X in memory, of which each is cast, is not found out before.

        Raises
        ------
        ValueError
        """
        if self.are_cast and isinstance(self.X, Tensor):
            for rows in self.X.split(SEGMENT_ROWS):
                cast(rows, self.batch_dtype)

    @property
    def block_rows(self) -> int:
        """Consecutive rows that are worth a read of their own: a chunk of the file, or a MiB."""
        chunk_rows = self.X.chunk_rows if isinstance(self.X, DiskArray) else 1
        return max(chunk_rows, _NEIGHBOR_BYTES // self._row_bytes)

    def streamed_at_once(
        self, n_rows: int, batch_size: int, n_networks: int = 1, block_bytes: int = BLOCK_BYTES
    ) -> int:
        """Rows of whole mini-batches that are read at once for each network where rows are streamed.

        They are `n_rows` in an epoch, and read in an even number of blocks if that can be. Then the first block of the next
        epoch can be read while training has the last one.
        """
        n_batches = math.ceil(n_rows / batch_size)
        most_batches = max(1, min(block_bytes // (n_networks * self._row_bytes), SEGMENT_ROWS) // batch_size)
        n_blocks = math.ceil(n_batches / most_batches)
        if n_blocks > 1 or n_rows * self._row_bytes > _NEIGHBOR_BYTES:
            n_blocks += n_blocks % 2
        return math.ceil(n_batches / n_blocks) * batch_size

    def times_read(self, n_rows: int, batch_size: int) -> float:
        """How often an epoch of `n_rows` rows reads X, if they are shuffled all over it."""
        if not isinstance(self.X, DiskArray):
            return 1.0
        return self.X.times_read(n_rows, min(n_rows, self.streamed_at_once(n_rows, batch_size)))

    @property
    def _row_bytes(self) -> int:
        """Size of a row in training, so that the order of narrow rows is that of wide ones."""
        return max(1, self.X.shape[1] * self.dtype.itemsize)

    @property
    def source_dtype(self) -> torch.dtype:
        """Dtype of X."""
        return self.X.dtype if isinstance(self.X, Tensor) else torch.from_numpy(np.empty(0, self.X.dtype)).dtype

    @property
    def host_dtype(self) -> torch.dtype:
        """Dtype in which rows come from elsewhere: wide values narrow, and narrow ones as they are."""
        return self.dtype if self.source_dtype.itemsize >= self.batch_dtype.itemsize else self.source_dtype

    def all_rows(self, n_networks: int = 1, out: Tensor | None = None) -> Batch:
        """All rows as one batch, the same for each of `n_networks` networks; those that are cast on the CPU in `out`."""
        if self.is_sparse:
            return SparseBatch([SparseRows(self.X, self.device)] * n_networks)
        X = self.X if isinstance(self.X, Tensor) else self[:].X
        assert isinstance(X, Tensor)
        X = self._place(X) if out is None else cast(X, self.batch_dtype, out)
        return DenseBatch(X if n_networks == 1 else X.expand(n_networks, -1, -1))

    def take(self, indices: Tensor) -> Batch:
        """Batch of the rows of these indices, of shape ([n_networks,] n_rows). Networks with the same rows share them."""
        return self.taker(indices)()

    def taker(self, indices: Tensor) -> Callable[[], Batch]:
        """Function that gives the batch of these indices: a batch that is kept, or one made at each call.

        Streamed rows are read at each call. Those that are cast are kept as they are if networks share them.
        """
        first, n_networks = torch.atleast_2d(indices)[0], _n_networks(indices)
        are_shared = bool((indices == first).all())
        if self.is_streamed:
            if are_shared:
                shared = first.cpu().numpy()
                return lambda: self[shared].all_rows(n_networks)
            own, shape = indices.flatten().cpu().numpy(), indices.shape
            return lambda: self[own]._own_rows(shape)
        if not are_shared:
            (load,) = self.loaders(indices, [indices.shape[-1]])
            (batch,) = load()
            return lambda: batch
        takes_all = len(first) == len(self) and torch.equal(first, torch.arange(len(self), device=first.device))
        rows = self if takes_all else self[first.cpu().numpy()]
        if self.are_cast:
            return lambda: rows.all_rows(n_networks)
        batch = rows.all_rows(n_networks)
        return lambda: batch

    def _own_rows(self, shape: tuple[int, ...]) -> Batch:
        """All rows as one batch in which each network has rows of its own."""
        assert isinstance(self.X, Tensor)
        return DenseBatch(self._place(self.X).unflatten(0, shape))

    def _place(self, X: Tensor) -> Tensor:
        """Bring some rows to the device and cast them there, or before if they are wide: it may have no float64."""
        if X.itemsize > self.batch_dtype.itemsize:
            X = cast(X, self.batch_dtype)
        return cast(X.to(self.device), self.batch_dtype)

    def loaders(self, indices: Tensor, sizes: Sequence[int]) -> list[BatchLoader]:
        """Functions that fill consecutive mini-batches, some at each call. Only the batches of the last call are valid.

        Parameters
        ----------
        indices : Tensor of shape ([n_networks,] n_rows)
            Read at each call, so that they may change in place.
        sizes : sequence of int
            Rows of each mini-batch; none is larger than the first.
        """
        if self.is_sparse:
            return [_SparseLoader(self.X, self.device, part) for part in indices.split(list(sizes), -1)]
        assert isinstance(self.X, Tensor)
        n_networks = _n_networks(indices)
        batch_bytes = n_networks * sizes[0] * self.X.shape[1] * self.batch_dtype.itemsize
        budget = _GATHER_BYTES["cpu" if self.device.type == "cpu" else "other"]
        X, axis = self.X, 0
        if X.stride(-1) != 1 and X.stride(0) == 1 and X.nbytes > self.copy_bytes:
            X, axis = X.mT, 1
            budget = max(budget, int(_COLUMN_ORDER_FRACTION * X.nbytes))
        n_at_once = max(1, budget // max(1, batch_bytes))
        groups = [list(sizes[start : start + n_at_once]) for start in range(0, len(sizes), n_at_once)]
        gather = _Gather(X.contiguous(), axis, n_networks * sum(groups[0]), self.batch_dtype)
        parts = indices.split([sum(group) for group in groups], -1)
        return [_DenseLoader(gather, part, group) for part, group in zip(parts, groups, strict=True)]

    def __getitem__(self, rows: slice | np.ndarray) -> Rows:
        """Some rows: a view for a slice of dense rows in memory, else a copy."""
        assert not isinstance(self.X, ChunkedRows)  # which have no order
        if isinstance(self.X, DiskArray):
            return replace(self, X=self._read(rows))
        if isinstance(self.X, Tensor) and isinstance(rows, np.ndarray):
            return replace(self, X=self.X[as_tensor(rows, self.X.device)])
        return replace(self, X=self.X[rows])

    def _read(self, rows: slice | np.ndarray, n_threads: int = 1) -> Tensor:
        """Read some rows from disk."""
        assert isinstance(self.X, DiskArray)
        dtype = numpy_dtype(torch.empty(0, dtype=self.host_dtype, device="cpu"))
        return as_tensor(self.X.read(rows, dtype, n_threads))


class _Gather:
    """Gathers rows of X into a buffer. X is in row order (axis 0), or transposed (axis 1)."""

    def __init__(self, X: Tensor, axis: int, n_rows: int, dtype: torch.dtype) -> None:
        self._batches: dict[tuple[int, ...], list[DenseBatch]] = {}
        self._X, self._axis, self._is_cast = X, axis, X.dtype != dtype
        n_features = X.shape[1 - axis]
        self._buffer = X.new_empty(n_rows * n_features, dtype=dtype)
        self._to_cast = X.new_empty(n_rows * n_features if self._is_cast else 0)

    def _rows(self, buffer: Tensor, n_rows: int) -> Tensor:
        shape = (n_rows, -1) if self._axis == 0 else (-1, n_rows)
        return buffer[: n_rows * self._X.shape[1 - self._axis]].view(shape)

    def batches(self, n_networks: int, sizes: Sequence[int]) -> list[DenseBatch]:
        """Mini-batches over the rows that `__call__` fills: the same ones for the same sizes."""
        key = (n_networks, *sizes)
        if key not in self._batches:
            rows = self._rows(self._buffer, n_networks * sum(sizes))
            rows = (rows if self._axis == 0 else rows.mT).unflatten(0, (n_networks, -1))
            self._batches[key] = [DenseBatch(squeeze_stack(batch)) for batch in rows.split(list(sizes), 1)]
        return self._batches[key]

    def __call__(self, indices: Tensor) -> None:
        """Gather the rows of these indices."""
        out = self._rows(self._buffer, len(indices))
        if self._is_cast:
            to_cast = self._rows(self._to_cast, len(indices))
            out.copy_(torch.index_select(self._X, self._axis, indices, out=to_cast))
        else:
            torch.index_select(self._X, self._axis, indices, out=out)


class _DenseLoader:
    """Gathers the rows of some mini-batches."""

    def __init__(self, gather: _Gather, indices: Tensor, sizes: list[int]) -> None:
        self._gather, self._indices = gather, indices
        self._batches = gather.batches(_n_networks(indices), sizes)

    def __call__(self) -> Sequence[Batch]:
        self._gather(self._indices.flatten())
        return self._batches


class _SparseLoader:
    """Slices the rows of one mini-batch by scipy, on the host."""

    def __init__(self, X: sp.csr_array, device: torch.device, indices: Tensor) -> None:
        self._X, self._device, self._indices = X, device, indices

    def __call__(self) -> Sequence[Batch]:
        chosen = np.atleast_2d(self._indices.cpu().numpy())
        return [SparseBatch([SparseRows(self._X[rows], self._device) for rows in chosen])]


def _n_networks(indices: Tensor) -> int:
    """Count the networks of indices of shape ([n_networks,] n_rows)."""
    return len(indices) if indices.ndim == 2 else 1


def cast(values: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Cast finite values, in `out` if it is given. One that the other precision cannot hold is scikit-learn's error."""
    if values.dtype == dtype:
        return values
    return _check_cast(values.to(dtype) if out is None else out.copy_(values), values.dtype)


def _check_cast(cast: Tensor, dtype: torch.dtype) -> Tensor:
    """Raise if finite values of a dtype have not remained so."""
    may_overflow = cast.itemsize < dtype.itemsize  # else it holds them all, and a device need not be waited for
    if may_overflow and not cast.sum().isfinite() and not cast.isfinite().all():
        raise NotFiniteError(
            "Input X contains infinity or a value too large for "
            f"dtype('{str(cast.dtype).removeprefix('torch.')}'). Scale the features."
        )
    return cast
