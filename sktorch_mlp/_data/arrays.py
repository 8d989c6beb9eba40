"""Inputs that are not in memory: arrays on disk, read by slices, and rows that come in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from sktorch_mlp._nn.concurrent import call_at_once
from sktorch_mlp._nn.tensors import ROW_DTYPES

from .stored import StoredChunks, as_slice, is_one_chunk, stored_chunks

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

    Attributes
    ----------
    name : str
        Of the argument of the user, for errors.

    Raises
    ------
    ValueError
        If it is not a table of real numbers.
    """

    ndim = 2

    def __init__(self, array: Any) -> None:
        self._array = array
        self.chunks = array.chunks
        self.shape: tuple[int, int] = tuple(array.shape or ())
        dtype = np.dtype(array.dtype)
        if len(self.shape) != 2 or dtype.kind not in "fiub":
            raise ValueError(
                f"X is a {type(array).__name__} of shape {self.shape} and dtype {dtype}, but must be a table of "
                "numbers, of shape (n_samples, n_features)."
            )
        #: of the rows that are read
        self.dtype = dtype if dtype in ROW_DTYPES else np.dtype(np.float64)
        self.name = "X"

    @property
    def chunk_rows(self) -> int:
        """Rows of the largest chunk of the file; 1 if it has none."""
        sizes = np.atleast_1d(self.chunks[0]) if isinstance(self.chunks, tuple) and self.chunks else np.ones(1, int)
        return max(1, int(sizes.max())) if sizes.size and sizes.dtype.kind in "iu" else 1

    @property
    def nbytes(self) -> int:
        """Size of all values."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def times_read(self, n_rows: int, n_at_once: int) -> float:
        """How often all of it is read where `n_rows` random rows are needed, so many of them at a time.

        A library reads the whole chunk of a row, and small gaps are read along.
        """
        if self._finds_rows:
            return n_rows / len(self)
        share = min(1.0, n_at_once / len(self))
        in_chunks = 1 - (1 - share) ** self.chunk_rows
        in_gaps = 1 - (1 - share) ** _GAP * (1 + share * _GAP)
        return n_rows / n_at_once * max(in_chunks, in_gaps)

    @cached_property
    def _stored(self) -> StoredChunks | None:
        """Where the numbers stand, if they can be read without the library."""
        return stored_chunks(self._array)

    @property
    def _finds_rows(self) -> bool:
        """Whether rows can be read by themselves, and not only with their neighbors."""
        return self._stored is not None and not self._stored.is_compressed

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Read some rows. So it is an array on disk itself, which scorers predict."""
        return self.read(rows, self.dtype)

    def read(self, rows: slice | np.ndarray, dtype: np.dtype, n_threads: int = 1) -> np.ndarray:
        """Read some rows, by a slice or by their indices, in a dtype that may be of a lower precision.

        What has to be decompressed is so by up to `n_threads` threads.

        Raises
        ------
        ValueError
            If a value is not finite.
        """
        indices = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        if isinstance(rows, slice) and not self._stored:
            with np.errstate(over="ignore"):
                values = np.asarray(self._array[rows]).astype(dtype, copy=False)
            self._check_finite(values, indices)
        else:
            values = np.empty((len(indices), self.shape[1]), dtype)
            self.read_into(values, indices, n_threads)
        return values

    def read_into(self, out: np.ndarray, rows: np.ndarray, n_threads: int = 1) -> None:
        """Read the rows of some indices into an array, which may be of a lower precision; see `read`.

        Raises
        ------
        ValueError
            If a value is not finite.
        """
        if not len(rows):
            return
        order = np.argsort(rows)
        ascending = rows[order]
        starts = self._begin_pieces(ascending)
        pieces = list(zip(starts, [*starts[1:], len(rows)], strict=True))

        def read(own_pieces: Sequence[tuple[int, int]]) -> None:
            for start, stop in own_pieces:
                to, piece = as_slice(order[start:stop]), ascending[start:stop]
                if isinstance(to, slice):
                    self._read_piece(out[to], piece)
                else:
                    values = np.empty((len(piece), self.shape[1]), out.dtype)
                    self._read_piece(values, piece)
                    out[to] = values

        if self._stored is None or not self._stored.is_compressed or n_threads == 1:
            read(pieces)
        else:
            n_each = -(-len(pieces) // n_threads)
            parts = [pieces[first : first + n_each] for first in range(0, len(pieces), n_each)]
            call_at_once([partial(read, part) for part in parts])

    def _begin_pieces(self, ascending: np.ndarray) -> list[int]:
        """Where pieces begin that are read at once: larger memory would have to be found anew each time.

        Those that the library reads are neighbors, and like those that are decompressed whole chunks of the file.
        """
        row_bytes = max(1, self.nbytes // max(1, len(self)))
        if self._finds_rows:
            return list(range(0, len(ascending), max(1, _PIECE_BYTES // row_bytes)))
        piece_rows = self.chunk_rows * max(1, _PIECE_BYTES // (row_bytes * self.chunk_rows))
        begins = (np.diff(ascending, prepend=-1) > _GAP) | (np.diff(ascending // piece_rows, prepend=-1) > 0)
        starts: list[int] = np.flatnonzero(begins).tolist()
        return starts

    def _read_piece(self, out: np.ndarray, ascending: np.ndarray) -> None:
        """Read rows that are near each other."""
        with np.errstate(over="ignore"):
            try:
                if self._stored:
                    self._stored.read_into(out, ascending)
            except FileNotFoundError:  # a chunk has been removed meanwhile, for which Zarr would fill in zeros
                raise
            except OSError:  # there is no room for another map
                self._stored = None
            if not self._stored:
                first, last = ascending[0], ascending[-1]
                out[:] = np.asarray(self._array[first : last + 1])[as_slice(ascending - first)]
        self._check_finite(out, ascending)

    def _check_finite(self, values: np.ndarray, rows: np.ndarray) -> None:
        is_finite = np.isfinite(values)
        if not is_finite.all():
            wrong = rows[np.argmin(is_finite.all(1))]
            raise ValueError(
                f"Input {self.name} contains NaN or infinity, in row {wrong}, or a value too large for {values.dtype!r}. "
                "Replace what is missing, or scale the features."
            )


def is_disk_array(X: Any) -> bool:
    """Whether X is read by slices, and is not in memory. An array of Dask that has not counted its rows cannot be."""
    if isinstance(X, np.ndarray) or not all(hasattr(X, name) for name in ("shape", "dtype", "chunks")):
        return False
    return all(isinstance(n, Integral) for n in X.shape or ())


def memory_map(X: Any) -> Any:
    """A memory map of an array on disk that is one piece of a file, else what was given."""
    stored = stored_chunks(X) if is_disk_array(X) and X.shape and is_one_chunk(X) else None
    return X if stored is None or stored.is_compressed else stored.whole()


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


def may_be_closed(X: Any) -> bool:
    """Whether memory of X is of something that can be closed, and not only forgotten: a map of a file, or what processes share."""
    if sp.issparse(X):
        return any(may_be_closed(part) for part in vars(X).values() if isinstance(part, np.ndarray))
    while isinstance(X, np.ndarray):
        if X.base is None:
            return not X.flags.owndata
        X = X.base
    if isinstance(X, Tensor):  # PyTorch only knows its own memory, as long as numpy has not seen it
        return not X.untyped_storage().resizable()
    return not isinstance(X, bytes)
