"""Arrays on disk whose numbers stand there as in memory or compressed by Zarr, and those that only their libraries can read."""

import os
import threading
import weakref

import h5py
import numcodecs
import numpy as np
import pytest
import zarr

from sktorch_mlp._data import arrays
from sktorch_mlp._data.arrays import DiskArray, memory_map
from sktorch_mlp._data.stored import StoredChunks, stored_chunks

#: More than one chunk in both directions, and less than whole ones at the edges.
VALUES = np.random.default_rng(0).integers(100, size=(50, 7)).astype(np.float32)
VALUES[[0, -1]] = 0  # rows that are the same in every format
CHUNKS = (12, 3)

ROWS = np.sort(np.random.default_rng(1).integers(50, size=80))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of any size are mapped."""
    monkeypatch.setattr("sktorch_mlp._data.stored._LEAST_BYTES", 0)


@pytest.fixture
def hdf5(tmp_path):
    with h5py.File(tmp_path / "X.h5", "w", userblock_size=512) as file:
        yield file


def _zarr(folder, values=VALUES, chunks=CHUNKS, compressors=None, **kwargs):
    array = zarr.create_array(
        folder,
        name="X",
        shape=values.shape,
        dtype=values.dtype,
        chunks=chunks,
        compressors=compressors,
        fill_value=101,  # chunks of nothing else would not be written
        **kwargs,
    )
    array[:] = values
    return array


def _assert_reads(array, values=VALUES):
    np.testing.assert_array_equal(DiskArray(array)[ROWS], values[ROWS])
    np.testing.assert_array_equal(DiskArray(array)[3:40], values[3:40])
    out = np.empty((len(ROWS), values.shape[1]), np.float32)
    DiskArray(array).read_into(out, ROWS[::-1])
    np.testing.assert_array_equal(out, values[ROWS[::-1]].astype(np.float32))


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1"])
@pytest.mark.parametrize("chunks", [CHUNKS, (12, 7), (50, 7), (1, 7), (64, 9)], ids=str)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_without_compression_is_read_from_its_files(tmp_path, dtype, chunks, zarr_format):
    values = VALUES.astype(dtype)
    array = _zarr(tmp_path / "files", values, chunks, zarr_format=zarr_format)
    assert stored_chunks(array) is not None
    _assert_reads(array, values)
    assert (memory_map(array) is not array) == (chunks == (50, 7))


COMPRESSORS = {
    "auto": ("auto", 3),
    "blosc": ([zarr.codecs.BloscCodec(cname="lz4")], 3),
    "gzip": ([zarr.codecs.GzipCodec()], 3),
    "auto of format 2": ("auto", 2),
    "blosc of format 2": ([numcodecs.Blosc(shuffle=numcodecs.Blosc.BITSHUFFLE)], 2),
    "lz4": ([numcodecs.LZ4()], 2),
    "zlib": ([numcodecs.Zlib()], 2),
}


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1"])
@pytest.mark.parametrize("chunks", [CHUNKS, (12, 7), (50, 7), (64, 9)], ids=str)
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_compressed_zarr_is_decompressed_without_it(tmp_path, compressor, chunks, dtype):
    values = VALUES.astype(dtype)
    compressors, zarr_format = COMPRESSORS[compressor]
    array = _zarr(tmp_path / "files", values, chunks, compressors, zarr_format=zarr_format)
    assert stored_chunks(array).is_compressed
    assert memory_map(array) is array
    _assert_reads(array, values)
    assert DiskArray(array).times_read(50, 10) > 1 == DiskArray(_zarr(tmp_path / "plain", values)).times_read(50, 10)


@pytest.mark.parametrize("order", [np.arange(VALUES.shape[0]), np.arange(VALUES.shape[0])[::-3]])
def test_threads_decompress_parts(tmp_path, order, monkeypatch):
    """Which stand where one thread puts them; an error is that of any part."""
    monkeypatch.setattr(arrays, "_PIECE_BYTES", 1)
    threads, decode = set(), numcodecs.Zstd.decode

    def noted(self, *args):
        threads.add(threading.current_thread())
        return decode(self, *args)

    monkeypatch.setattr(numcodecs.Zstd, "decode", noted)
    file = zarr.create_array(tmp_path / "X.zarr", data=VALUES, chunks=CHUNKS)
    array = DiskArray(file)
    array[:1]
    threads.clear()  # those of Zarr, which is asked for some rows first
    np.testing.assert_array_equal(array.read(order, VALUES.dtype, n_threads=2), VALUES[order])
    assert len(threads) == 2
    file[-1] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        DiskArray(file).read(order, VALUES.dtype, n_threads=2)


def test_a_chunk_of_two_blocks_is_decompressed_once(tmp_path, monkeypatch):
    decompressed, decode = [], numcodecs.Zstd.decode
    monkeypatch.setattr(numcodecs.Zstd, "decode", lambda self, *args: decompressed.append(args) or decode(self, *args))
    array = DiskArray(_zarr(tmp_path / "files", compressors="auto"))
    array[:1]
    decompressed.clear()
    for start in range(2, 50, 8):
        np.testing.assert_array_equal(array[start : start + 8], VALUES[start : start + 8])
    assert len(decompressed) == 12  # the first three had been read


def test_a_chunk_that_ends_with_the_mark_is_what_it_is(tmp_path):
    values = np.full((50, 7), 127, np.uint8)
    values[[0, -1]] = 0
    array = _zarr(tmp_path / "files", values, (12, 7), "auto")
    out = np.empty((12, 7), np.uint8)
    stored_chunks(array).read_into(out, np.arange(12, 24))
    np.testing.assert_array_equal(out, values[12:24])


@pytest.mark.parametrize("n_missing", [1, 2, 7, 50])
def test_a_chunk_that_is_too_short_is_an_error(n_missing, tmp_path):
    values = VALUES.astype(np.uint8)
    rows = DiskArray(_zarr(tmp_path / "files", values, (12, 7), "auto"))
    np.testing.assert_array_equal(rows[:3], values[:3])
    chunk = tmp_path / "files" / "X" / "c" / "1" / "0"
    chunk.write_bytes(numcodecs.Zstd().encode(np.ascontiguousarray(values[12:24]).ravel()[:-n_missing]))
    with pytest.raises(ValueError, match="reshape"):  # of Zarr
        rows[12:24]


def test_what_cannot_be_decompressed_is_reported_by_zarr(tmp_path):
    array = _zarr(tmp_path / "files", compressors="auto")
    rows = DiskArray(array)
    np.testing.assert_array_equal(rows[:3], VALUES[:3])
    chunk = tmp_path / "files" / "X" / "c" / "2" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-4])
    with pytest.raises(RuntimeError, match="Zstd decompression error"):
        rows[20:40]
    chunk.write_bytes(numcodecs.Zstd().encode(VALUES[:5, :3].copy()))
    with pytest.raises(ValueError, match="cannot reshape array"):
        DiskArray(array)[20:40]


@pytest.mark.parametrize("compressors", [None, zarr.codecs.ZstdCodec()], ids=["", "zstd"])
def test_a_chunk_that_is_removed_meanwhile_is_an_error(tmp_path, compressors):
    """Zarr would fill it in."""
    disk = DiskArray(_zarr(tmp_path, compressors=compressors))
    disk.read(slice(0, 12), np.dtype(np.float32))
    (tmp_path / "X" / "c" / "2" / "1").unlink()
    with pytest.raises(FileNotFoundError, match="c/2/1"):
        disk.read(slice(0, 50), np.dtype(np.float32))


def test_decompressed_chunks_go_with_their_array(tmp_path):
    array = DiskArray(_zarr(tmp_path / "files", compressors="auto"))
    array[3:10]
    stored = weakref.ref(array._stored)
    del array
    assert stored() is None, "the array and its chunks are in a circle, until garbage is collected"


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1"])
@pytest.mark.parametrize("chunks", [None, CHUNKS, (12, 7), (50, 7), (1, 7)], ids=str)
def test_hdf5_without_filters_is_read_from_its_file(hdf5, dtype, chunks):
    values = VALUES.astype(dtype)
    array = hdf5.create_dataset("X", data=values, chunks=chunks)
    assert stored_chunks(array) is not None
    _assert_reads(array, values)
    mapped = memory_map(array)
    assert (mapped is not array) == (chunks in (None, (50, 7)))
    np.testing.assert_array_equal(mapped[:], values)


def test_what_has_been_written_last_is_read(hdf5):
    array = hdf5.create_dataset("X", data=VALUES, chunks=CHUNKS)
    array[20, 4] = -1
    assert stored_chunks(array) is not None
    assert DiskArray(array)[20:21][0, 4] == -1


def _half_written(file):
    array = file.create_dataset("X", VALUES.shape, "f4", chunks=CHUNKS, fillvalue=5)
    array[:20] = VALUES[:20]
    return array


def _virtual(file):
    layout = h5py.VirtualLayout(VALUES.shape, "f4")
    layout[:] = h5py.VirtualSource(file.create_dataset("source", data=VALUES))
    return file.create_virtual_dataset("X", layout)


def _twelve_bits(file):
    """Whole numbers of 12 bits in the middle of 16, which numpy has no dtype for."""
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(12)
    kind.set_offset(2)
    h5py.h5d.create(file.id, b"X", kind, h5py.h5s.create_simple(VALUES.shape))
    file["X"][:] = VALUES
    return file["X"]


NOT_PLAIN = {
    "compressed": lambda file: file.create_dataset("X", data=VALUES, chunks=CHUNKS, compression="gzip"),
    "filtered": lambda file: file.create_dataset("X", data=VALUES, chunks=CHUNKS, shuffle=True),
    "big-endian": lambda file: file.create_dataset("X", data=VALUES.astype(">f4")),
    "unsigned": lambda file: file.create_dataset("X", data=VALUES.astype("u2")),
    "never written": lambda file: file.create_dataset("X", VALUES.shape, "f4"),
    "half written": _half_written,
    "virtual": _virtual,
    "external": lambda file: file.create_dataset("X", data=VALUES, external=[(file.filename + ".raw", 0, 10**6)]),
    "compact": lambda file: file.create_dataset("X", data=VALUES, dcpl=_compact()),
    "12 bits": _twelve_bits,
    "empty": lambda file: file.create_dataset("X", (0, 7), "f4"),
    "one axis": lambda file: file.create_dataset("X", data=VALUES[0]),
}


def _compact():
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.COMPACT)
    return layout


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_hdf5_has_to_convert_is_left_to_it(hdf5, name):
    array = NOT_PLAIN[name](hdf5)
    assert stored_chunks(array) is None
    assert memory_map(array) is array
    if array.ndim == 2 and len(array):
        _assert_reads(array, array[:])


def test_a_dataset_of_a_file_in_memory_is_left_to_hdf5(tmp_path):
    with h5py.File(tmp_path / "X.h5", "w", driver="core", backing_store=False) as file:
        array = file.create_dataset("X", data=VALUES)
        assert stored_chunks(array) is None
        _assert_reads(array)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec()]},
        {"compressors": "auto", "shards": (24, 6)},
        {"compressors": "auto", "serializer": zarr.codecs.BytesCodec(endian="big")},
        {"compressors": [numcodecs.BZ2()], "zarr_format": 2},
        {"compressors": [numcodecs.Zstd()], "filters": [numcodecs.Delta("f4")], "zarr_format": 2},
        {"shards": (24, 6)},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
        {"zarr_format": 2, "order": "F"},
    ],
    ids=str,
)
def test_what_zarr_has_to_convert_is_left_to_it(tmp_path, kwargs):
    array = _zarr(tmp_path / "files", **kwargs)
    assert stored_chunks(array) is None
    _assert_reads(array)


def test_zarr_in_memory_is_left_to_it():
    array = _zarr(zarr.storage.MemoryStore())
    assert stored_chunks(array) is None
    _assert_reads(array)


def test_chunks_of_zarr_that_have_never_been_written_have_its_fill_value(tmp_path):
    array = zarr.create_array(
        tmp_path / "files", shape=VALUES.shape, dtype="f4", chunks=CHUNKS, fill_value=5, compressors=None
    )
    array[:20] = VALUES[:20]
    assert stored_chunks(array) is None
    _assert_reads(array, array[:])


@pytest.mark.parametrize("becomes", ["missing", "another"])
def test_a_file_that_is_not_where_it_was_is_read_by_its_library(tmp_path, monkeypatch, becomes):
    monkeypatch.chdir(tmp_path)
    with h5py.File("X.h5", "w") as file:
        array = file.create_dataset("X", data=VALUES)
        os.rename("X.h5", "Y.h5")
        if becomes == "another":
            others = VALUES.copy()
            others[20:30] += 1
            with h5py.File("X.h5", "w") as other:
                other["X"] = others
        assert stored_chunks(array) is None
        _assert_reads(array)


def test_an_empty_place_before_which_users_have_a_block_is_no_place(tmp_path):
    path = tmp_path / "X.h5"
    with h5py.File(path, "w", userblock_size=1024) as file:
        file.create_dataset("X", (10, 1), "i1")
    with h5py.File(path) as file:
        assert stored_chunks(file["X"]) is None
        np.testing.assert_array_equal(DiskArray(file["X"])[:], 0)


def test_many_small_chunks_are_left_to_the_library(hdf5, monkeypatch):
    monkeypatch.undo()
    small = hdf5.create_dataset("small", data=VALUES, chunks=CHUNKS)
    large = hdf5.create_dataset("large", data=np.ones((300, 200)), chunks=(30, 100))
    assert stored_chunks(small) is None
    assert stored_chunks(large) is not None
    _assert_reads(small)


def test_without_room_for_another_map_the_library_reads(tmp_path, monkeypatch):
    array = DiskArray(_zarr(tmp_path / "files"))
    np.testing.assert_array_equal(array[:3], VALUES[:3])

    def no_room(*args, **kwargs):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(StoredChunks, "read_into", no_room)
    np.testing.assert_array_equal(array[ROWS], VALUES[ROWS])
    monkeypatch.setattr(np, "memmap", no_room)
    one_chunk = _zarr(tmp_path / "others", chunks=VALUES.shape)
    assert memory_map(one_chunk) is one_chunk


@pytest.mark.filterwarnings("error")
def test_values_that_a_lower_precision_cannot_hold_are_found(hdf5):
    values = VALUES.astype(np.float64)
    values[30, 2] = 1e300
    array = DiskArray(hdf5.create_dataset("X", data=values, chunks=CHUNKS))
    out = np.empty((20, 7), np.float32)
    with pytest.raises(ValueError, match=r"in row 30, or a value too large for dtype\('float32'\)"):
        array.read_into(out, np.arange(20, 40))
    array.read_into(np.empty((20, 7)), np.arange(20, 40))
