"""Inputs that are not in memory: arrays on disk, read by slices, and rows that come in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from sktorch_mlp._nn.tensors import ROW_DTYPES

#: Rows between two that are asked for, up to which they are read along: a call costs more.
_GAP = 64

#: Bytes that are read at once, or one chunk of the file.
_PIECE_BYTES = 2**22


class DiskArray:
    """A 2-D array of numbers that is read from disk rows at a time.

    Parameters
    ----------
    array : object
        With ``shape``, ``dtype`` and slices of rows, such as a `zarr.Array`, an `h5py.Dataset` or a Dask array.

    Raises
    ------
    ValueError
        If it is not a table of real numbers.
    """

    ndim = 2

    def __init__(self, array: Any) -> None:
        self._array = array
        self.chunks = array.chunks
        self.shape: tuple[int, int] = tuple(array.shape)
        dtype = np.dtype(array.dtype)
        if len(self.shape) != 2 or dtype.kind not in "fiub":
            raise ValueError(
                f"X is a {type(array).__name__} of shape {self.shape} and dtype {dtype}, but must be a table of "
                "numbers, of shape (n_samples, n_features)."
            )
        #: of the rows that are read
        self.dtype = dtype if dtype in ROW_DTYPES else np.dtype(np.float64)

    @property
    def chunk_rows(self) -> int:
        """Rows of the largest chunk of the file; 1 if it has none."""
        sizes = np.atleast_1d(self.chunks[0]) if isinstance(self.chunks, tuple) and self.chunks else np.ones(1, int)
        return int(sizes.max()) if sizes.size and sizes.dtype.kind in "iu" else 1

    @property
    def nbytes(self) -> int:
        """Size of all values."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Read some rows, by a slice or by their indices.

        Raises
        ------
        ValueError
            If a value is not finite.
        """
        if isinstance(rows, slice):
            return self._read(rows)
        values = np.empty((len(rows), self.shape[1]), self.dtype)
        self.read_into(values, rows)
        return values

    def read_into(self, out: np.ndarray, rows: np.ndarray) -> None:
        """Read the rows of some indices into an array, which may be of another dtype."""
        if not len(rows):
            return
        order = np.argsort(rows)
        ascending = rows[order]
        has_gap = np.diff(ascending, prepend=-_GAP - 1) > _GAP
        begins_piece = np.diff(ascending // self._piece_rows, prepend=-1) > 0
        starts = np.flatnonzero(has_gap | begins_piece)
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
            first, last = ascending[start], ascending[stop - 1]
            values, wanted = self._read(slice(first, last + 1), out.dtype), ascending[start:stop] - first
            out[_as_slice(order[start:stop])] = values[_as_slice(wanted)]

    @property
    def _piece_rows(self) -> int:
        """Rows that are read at once, whole chunks of the file: larger memory would have to be found anew each time."""
        chunk_bytes = max(1, self.nbytes // max(1, len(self)) * self.chunk_rows)
        return self.chunk_rows * max(1, _PIECE_BYTES // chunk_bytes)

    def _read(self, rows: slice, dtype: np.dtype | None = None) -> np.ndarray:
        """Read rows, and cast them if `dtype` is a lower precision."""
        values = np.asarray(self._array[rows]).astype(self.dtype, copy=False)
        if dtype is not None and dtype.kind == self.dtype.kind == "f" and dtype.itemsize < self.dtype.itemsize:
            with np.errstate(over="ignore"):
                values = values.astype(dtype)
        is_finite = np.isfinite(values)
        if not is_finite.all():
            wrong = (rows.start or 0) + int(np.argmin(is_finite.all(1)))
            raise ValueError(
                f"Input X contains NaN or infinity, in row {wrong}, or a value too large for {values.dtype!r}."
            )
        return values


def _as_slice(places: np.ndarray) -> slice | np.ndarray:
    """The same places as a slice, if they follow each other."""
    follow_each_other = (np.diff(places) == 1).all()
    return slice(places[0], places[-1] + 1) if follow_each_other else places


def is_disk_array(X: Any) -> bool:
    """Whether X is read by slices, and is not in memory."""
    return not isinstance(X, np.ndarray) and all(hasattr(X, name) for name in ("shape", "dtype", "chunks"))


class Chunk(NamedTuple):
    """Rows of a stream, in its order.

    Attributes
    ----------
    X : ndarray of shape (n_rows, n_features)
    targets : ndarray of shape (n_targets, n_rows)
    weights : ndarray of shape (n_rows,) or None
    """

    X: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None


class ChunkedRows:
    """Rows that an iterable gives chunk by chunk, as often as one likes.

    Parameters
    ----------
    chunks : callable
        ``chunks()`` gives all rows from the beginning, as an iterator of `Chunk`.
    shape : (int, int)
        Rows and features.
    dtype : numpy.dtype
        Of all chunks.
    """

    def __init__(self, chunks: Callable[[], Iterator[Chunk]], shape: tuple[int, int], dtype: np.dtype) -> None:
        self.chunks, self.shape, self.dtype = chunks, shape, dtype
        self.nbytes = shape[0] * shape[1] * dtype.itemsize
