"""Tables in files of HDF5 and Zarr, read without these libraries where numbers stand there as in memory, or compressed by Zarr.

Through memory maps rows that follow each other come in a half to a quarter of the time, and others in a hundredth. Chunks of
Zarr are decompressed by the library that Zarr calls, but in one call: Zarr's Python and training would wait for each other.
Nothing is imported: whoever has an array of theirs has them.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from sktorch_mlp._nn.concurrent import call_at_once
from sktorch_mlp._nn.tensors import ROW_DTYPES

#: The file of a chunk, by its place in the table, and where it begins there, in bytes.
Locate = Callable[[int, int], tuple[str | Path, int]]

#: Decompresses the bytes of a chunk, into others if they are given.
Decode = Callable[[np.ndarray, np.ndarray | None], Any]

#: Where chunks are, and what decompresses them.
Found = tuple[Locate, Decode | None]

#: Size of a chunk from which it is quicker than the library.
_LEAST_BYTES = 2**12

#: Byte at the end of memory into which a chunk is decompressed: that of huge floats.
_MARK = 0x7F

#: Most files, and chunks, that are kept mapped.
_N_MAPS = 1024


class StoredChunks:
    """Chunks of a table that stand in one file or in several.

    Parameters
    ----------
    locate : callable
        Where the chunk is that is the i-th from above and the j-th from the left. Those at the edges of the table are as
        large as the others.
    chunk_shape : (int, int)
    n_across : int
        Chunks next to each other.
    dtype : numpy.dtype
    decode : callable, default=None
        What decompresses a chunk.

    Attributes
    ----------
    is_compressed : bool
        Whether a chunk has to be decompressed for any of its rows.
    """

    def __init__(
        self,
        locate: Locate,
        chunk_shape: tuple[int, int],
        n_across: int,
        dtype: np.dtype,
        decode: Decode | None = None,
    ) -> None:
        self._chunk_shape, self._dtype, self.is_compressed = chunk_shape, dtype, decode is not None
        if decode is None:
            map_file = lru_cache(_N_MAPS)(partial(np.memmap, dtype=np.uint8, mode="r"))
            self._chunk = lru_cache(_N_MAPS)(partial(_map_chunk, locate, map_file, chunk_shape, dtype))
            return
        self._decompress = partial(_decompress_chunk, locate, decode, chunk_shape, dtype)
        # A chunk of which two blocks of rows have a part each is decompressed once, if one follows the other.
        self._chunk = lru_cache(2 * n_across)(self._decompress)

    def whole(self) -> np.ndarray:
        """The table that is one chunk."""
        return self._chunk(0, 0)

    def read_into(self, out: np.ndarray, rows: np.ndarray) -> None:
        """Read the rows of ascending indices into an array, which may be of another dtype."""
        n_down, n_across = self._chunk_shape
        downs, places = np.divmod(rows, n_down)
        starts = np.flatnonzero(np.diff(downs, prepend=-1))
        stops = [*starts[1:].tolist(), len(rows)]
        takes_whole_rows = out.dtype == self._dtype and out.shape[1] == n_across and out.flags.c_contiguous
        for down, start, stop in zip(downs[starts].tolist(), starts.tolist(), stops, strict=True):
            wanted, part = as_slice(places[start:stop]), out[start:stop]
            if takes_whole_rows and isinstance(wanted, np.ndarray):
                # Other modes take memory of their own.
                np.take(self._chunk(down, 0), wanted, axis=0, out=part, mode="clip")
            elif takes_whole_rows and self.is_compressed and len(part) == n_down:
                self._decompress_into(part, down)
            else:
                for across, first in enumerate(range(0, out.shape[1], n_across)):
                    columns = part[:, first : first + n_across]
                    columns[:] = self._chunk(down, across)[wanted, : columns.shape[1]]

    def _decompress_into(self, out: np.ndarray, down: int) -> None:
        """Decompress a chunk where it is wanted. What is shorter than a chunk, or ends with the mark, is looked at again."""
        flat = out.reshape(-1).view(np.uint8)
        flat[-1] = _MARK
        self._decompress(down, 0, flat)
        if flat[-1] == _MARK:
            out[:] = self._decompress(down, 0)


def _map_chunk(
    locate: Locate,
    map_file: Callable[[str | Path], np.ndarray],
    shape: tuple[int, int],
    dtype: np.dtype,
    down: int,
    across: int,
) -> np.ndarray:
    path, start = locate(down, across)
    stop = start + math.prod(shape) * dtype.itemsize
    chunk: np.ndarray = map_file(path)[start:stop].view(np.ndarray).view(dtype)
    return chunk.reshape(shape)


def _decompress_chunk(
    locate: Locate,
    decode: Decode,
    shape: tuple[int, int],
    dtype: np.dtype,
    down: int,
    across: int,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decompress a chunk that is a file, into its bytes if they are given.

    Raises
    ------
    FileNotFoundError
        If the chunk is gone.
    OSError
        If that cannot be done, of which its library knows more.
    """
    path, _ = locate(down, across)
    stored = np.fromfile(path, np.uint8)
    try:
        return np.frombuffer(decode(stored, out), dtype).reshape(shape)
    except Exception as error:
        raise OSError(f"{path} has no chunk of {shape}.") from error


def stored_chunks(array: Any) -> StoredChunks | None:
    """Find where the numbers of an array stand; None where they have to be converted, or are elsewhere."""
    locate_chunks = _LIBRARIES.get(type(array).__module__.partition(".")[0])
    if locate_chunks is None or len(array.shape or ()) != 2 or not all(array.shape) or array.dtype not in ROW_DTYPES:
        return None
    chunk_shape, dtype = _chunk_shape(array), np.dtype(array.dtype)
    if math.prod(chunk_shape) * dtype.itemsize < _LEAST_BYTES and not is_one_chunk(array):
        return None
    try:
        found = locate_chunks(array)
        if found is None:
            return None
        locate, decode = found
        stored = StoredChunks(locate, chunk_shape, _n_chunks(array)[1], dtype, decode)
        return stored if _are_right(stored, array) else None
    except (OSError, ValueError):  # the file is gone, or there is no room to map it
        return None


def is_one_chunk(array: Any) -> bool:
    """Whether the numbers of an array are in one piece, wherever they are."""
    return array.chunks in (None, tuple(array.shape))


def _chunk_shape(array: Any) -> tuple[int, int]:
    down, across = array.chunks or array.shape
    return down, across


def _are_right(stored: StoredChunks, array: Any) -> bool:
    """Whether the first and the last row are those that the library reads, which may decompress a chunk for each."""
    values = np.empty((2, array.shape[1]), array.dtype)
    expected = np.empty_like(values)

    def read(place: int, row: int) -> None:
        stored.read_into(values[place : place + 1], np.array([row]))
        expected[place] = array[row]

    call_at_once([partial(read, 0, 0), partial(read, 1, array.shape[0] - 1)])
    return values.tobytes() == expected.tobytes()


def _in_hdf5(dataset: Any) -> Found | None:
    h5t, layout, file = sys.modules["h5py"].h5t, dataset.id.get_create_plist(), dataset.file
    is_plain = dataset.id.get_type() == h5t.py_create(dataset.dtype) and not layout.get_nfilters()
    can_tell = dataset.chunks is None or hasattr(dataset.id, "chunk_iter")  # since HDF5 1.12.3
    if not is_plain or not can_tell or file.driver != "sec2" or dataset.is_virtual or dataset.external:
        return None
    path = os.path.abspath(file.filename)
    if not os.path.samestat(os.stat(path), os.fstat(file.id.get_vfd_handle())):  # another file is there by now
        return None
    if file.mode != "r":
        file.flush()
    offsets = np.zeros(_n_chunks(dataset), np.int64)
    if dataset.chunks is not None:
        dataset.id.chunk_iter(partial(_note, offsets, dataset.chunks))
    elif dataset.id.get_storage_size():
        offsets[:] = dataset.id.get_offset() or 0
    if not offsets.all():  # some have never been written
        return None
    return lambda down, across: (path, int(offsets[down, across])), None


def _note(offsets: np.ndarray, chunk_shape: tuple[int, int], chunk: Any) -> None:
    offsets[tuple(first // size for first, size in zip(chunk.chunk_offset, chunk_shape, strict=True))] = (
        chunk.byte_offset
    )


def _in_zarr(array: Any) -> Found | None:
    if type(getattr(array, "store", None)).__name__ != "LocalStore" or not hasattr(array, "compressors"):
        return None  # in memory, far away, or of an older version
    endian = getattr(array.serializer, "endian", None)
    is_swapped = endian is not None and endian.value != sys.byteorder
    decoders = [_decoder_of_zarr(compressor) for compressor in array.compressors]
    if array.order != "C" or array.filters or array.shards or is_swapped or len(decoders) > 1 or None in decoders:
        return None
    decode = decoders[0] if decoders else None
    folder, n_bytes = Path(array.store.root) / array.path, math.prod(array.chunks) * array.dtype.itemsize

    def locate(down: int, across: int) -> tuple[Path, int]:
        return folder / array.metadata.encode_chunk_key((down, across)), 0

    sizes = [locate(*place)[0].stat().st_size for place in np.ndindex(*_n_chunks(array))]
    if decode is None and set(sizes) != {n_bytes}:
        return None
    return locate, decode  # or an OSError: some have never been written


def _decoder_of_zarr(compressor: Any) -> Decode | None:
    """What decompresses chunks, by the library that Zarr calls; None for a compressor that is none of the usual ones."""
    name = getattr(compressor, "codec_id", None) or compressor.to_dict()["name"]  # in its formats 2 and 3
    if name not in _CODECS_OF_ZARR:
        return None
    decode: Decode = sys.modules["numcodecs"].get_codec({"id": name}).decode
    return decode


def _n_chunks(array: Any) -> list[int]:
    """Number of chunks down and across."""
    return [math.ceil(n / size) for n, size in zip(array.shape, _chunk_shape(array), strict=True)]


#: Names of Zarr for compressors, which are those of numcodecs.
_CODECS_OF_ZARR = "zstd", "blosc", "gzip", "lz4", "zlib"

_LIBRARIES: dict[str, Callable[[Any], Found | None]] = {"h5py": _in_hdf5, "zarr": _in_zarr}


def as_slice(places: np.ndarray) -> slice | np.ndarray:
    """The same places as a slice, if they follow each other."""
    first, last = places[0], places[-1]
    follow_each_other = last - first == len(places) - 1 and (np.diff(places) == 1).all()
    return slice(first, last + 1) if follow_each_other else places
